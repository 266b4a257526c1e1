"""A folder of videos as people have them: good ones, and one of each kind that makes programs fall over."""

import fractions
import struct
from pathlib import Path

import av
import cv2
import numpy as np

from motionv2v import video

SIZE = (64, 96)
NUM_FRAMES = 12


def moving_texture(seed=0, num_frames=NUM_FRAMES, size=SIZE, step=(0.5, 1.5)):
    """A blotchy picture that slides by `step` (down, right) pixels a frame: every point of it can be followed."""
    height, width = size
    rng = np.random.default_rng(seed)
    noise = rng.random((height + 40, width + 40, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), min(size) / 24)
    picture = (picture - picture.min()) / np.ptp(picture)
    shift = [np.float32([[1, 0, -20 + t * step[1]], [0, 1, -20 + t * step[0]]]) for t in range(num_frames)]
    frames = [cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR) for matrix in shift]
    return (np.stack(frames) * 255).round().astype(np.uint8)


def encode(path, frames, codec="libx264", pix_fmt="yuv420p", options=None, times=None, rate=24):
    """Encode frames, frame k at times[k] ticks of 1 / rate seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = pix_fmt, options or {}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index if times is None else times[index]
            picture.time_base = fractions.Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def turned(path, upright):
    """A clip that lies on its side in the file, with the display matrix that turns it upright, as telephones store."""
    video.write(path, np.ascontiguousarray(np.rot90(upright, 1, axes=(1, 2))), 24)
    data = bytearray(Path(path).read_bytes())
    matrix = data.index(b"tkhd") + 44  # version 0: the display matrix follows 40 bytes of other fields
    clockwise = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *clockwise)
    Path(path).write_bytes(data)


def sound(path):
    """A file with sound alone, in a container of videos."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def eight_k(path, num_frames=6):
    """A clip of 7680x4320, as large as cameras record."""
    small = moving_texture(8, num_frames, (68, 120))
    frames = (cv2.resize(frame, (7680, 4320), interpolation=cv2.INTER_LINEAR) for frame in small)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 4320, 7680, "yuv420p", 10**8
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def make_folder(folder):
    """Write the folder: two good clips, and all that is strange."""
    folder = Path(folder)
    (folder / "more").mkdir(parents=True)
    video.write(folder / "red_dog_01.mp4", moving_texture(1), 24, crf=5)
    video.write(folder / "more" / "cat.mp4", moving_texture(2, 14), 24, crf=5)
    (folder / "more" / "cat.txt").write_text("a cat\nsleeps\n")
    (folder / "twin.mp4").write_bytes((folder / "red_dog_01.mp4").read_bytes())
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "cut_off.mp4").write_bytes((folder / "more" / "cat.mp4").read_bytes()[:1500])
    (folder / "empty.mp4").write_bytes(b"")
    video.write(folder / "three.mp4", moving_texture(3, 3), 24, crf=5)
    video.write(folder / "still.mp4", moving_texture(4, step=(0, 0)), 24, crf=5)
    video.write(folder / "black.mp4", np.zeros((12, *SIZE, 3), np.uint8), 24)
    times = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    lossless = {"crf": "0", "bf": "0"}
    encode(folder / "uneven.mkv", moving_texture(5, 10), "libx264rgb", "rgb24", lossless, times, rate=10)
    turned(folder / "turned.mp4", moving_texture(6))
    encode(folder / "ten_bits.mov", moving_texture(7), "prores_ks", "yuv422p10le")
    sound(folder / "sound.mp4")
    eight_k(folder / "eight_k.mp4")
    (folder / "notes.md").write_text("not a video")
    return folder
