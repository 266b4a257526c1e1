"""150 files that are damaged, mislabelled or odd: each gives a result or one line, and nothing is left half-written."""

import struct
import warnings
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from strange_videos import encode, moving_texture, sound

from motionv2v import video
from motionv2v.data.videos.reader import Reader
from motionv2v.video import VideoError

COUNT = 150
QUICK = 6  # every so many of them in every run, the others with -m slow
SIZE = (32, 48)

SOUND = (
    ("a.mp4", "libx264", "yuv420p", {}),
    ("b.mkv", "libx264", "yuv444p", {"bf": "0"}),
    ("c.webm", "libvpx-vp9", "yuv420p", {}),
    ("d.avi", "mpeg4", "yuv420p", {}),
    ("e.mov", "prores_ks", "yuv422p10le", {}),
    ("f.ts", "mpeg2video", "yuv420p", {}),
    ("g.gif", "gif", "rgb8", {}),
    ("h.mkv", "ffv1", "yuv420p", {"level": "3", "slicecrc": "1"}),
    ("i.h264", "libx264", "yuv420p", {}),
    ("j.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ("k.y4m", "wrapped_avframe", "yuv420p", {}),
    ("l.mkv", "mjpeg", "yuvj420p", {}),
)
"""Files without fault, as (name, codec, format of pixels, options), from which damaged ones are made."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("originals"), []
    frames = moving_texture(num_frames=8, size=(64, 96))
    for name, codec, pix_fmt, options in SOUND:
        if codec in av.codecs_available:
            encode(folder / name, frames, codec, pix_fmt, options)
            found.append(folder / name)
    return found


def damaged(rng, path, originals):
    """A good file with bits turned, bytes lost, zeroed, doubled or exchanged, or its end missing."""
    source = originals[rng.integers(len(originals))]
    data = bytearray(source.read_bytes())
    a, b = sorted(rng.integers(0, len(data), 2))
    kind = rng.integers(7)
    if kind == 0:
        for at in rng.integers(0, len(data), rng.integers(1, 40)):
            data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del data[b:]
    elif kind == 2:  # the header
        for at in rng.integers(0, min(400, len(data)), rng.integers(1, 8)):
            data[at] = rng.integers(256)
    elif kind == 3:
        data[a : min(b, a + 300)] = bytes(min(b, a + 300) - a)
    elif kind == 4:
        del data[a : min(b, a + 50)]
    elif kind == 5:
        data[a:a] = data[a:b]
    else:
        data += originals[rng.integers(len(originals))].read_bytes()
    path = path.with_suffix(source.suffix)
    path.write_bytes(data)
    return path


def odd_size(rng, path, originals):
    size = tuple(int(rng.choice([1, 2, 3, 5, 17, 130])) for _ in range(2))
    coded = [("libx264rgb", "rgb24"), ("mjpeg", "yuvj420p"), ("mjpeg", "yuvj444p")][rng.integers(3)]
    encode(path.with_suffix(".mkv"), moving_texture(num_frames=3, size=size), *coded)
    return path.with_suffix(".mkv")


def odd_rate(rng, path, originals):
    rate = [10**9, Fraction(1, 1000), Fraction(120_000, 1001), 999, 1001, 90_000, Fraction(1, 3)][rng.integers(7)]
    path = path.with_suffix([".mp4", ".mkv", ".avi"][rng.integers(3)])
    coded = ("mjpeg", "yuvj420p") if path.suffix == ".avi" else ("libx264", "yuv420p")
    encode(path, moving_texture(num_frames=3, size=SIZE), *coded, rate=rate)
    return path


def odd_times(rng, path, originals):
    times = np.cumsum(rng.choice([1, 1, 1, 2, 7, 40, 4000, 10**6], 6)).tolist()
    path = path.with_suffix([".mp4", ".mkv"][rng.integers(2)])
    encode(
        path,
        moving_texture(num_frames=6, size=SIZE),
        options={"bf": "0"},
        times=times,
        rate=int(rng.choice([24, 1000])),
    )
    return path


def odd_tags(rng, path, originals):
    """Colours and shapes of pixels as no camera states them, and any display matrix."""
    names = {
        "colormatrix": [
            "bt709",
            "fcc",
            "smpte240m",
            "ycgco",
            "bt2020nc",
            "bt2020c",
            "smpte2085",
            "ictcp",
            "gbr",
            "undef",
        ],
        "transfer": ["bt470m", "linear", "log100", "smpte2084", "arib-std-b67", "smpte428", "iec61966-2-1", "bt1361e"],
        "colorprim": ["film", "bt2020", "smpte428", "smpte431", "smpte432", "bt470bg", "undef"],
        "fullrange": ["on", "off"],
        "sar": ["1/255", "255/1", "4/3", "0/1"],
    }
    tags = ":".join(f"{name}={rng.choice(values)}" for name, values in names.items())
    pix_fmt = str(rng.choice(["yuv420p", "yuv422p10le", "yuv444p"]))
    encode(path, moving_texture(num_frames=3, size=SIZE), "libx264", pix_fmt, {"x264-params": tags})
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *rng.integers(-(2**18), 2**18, 9)) if rng.random() < 0.7 else bytes(36)
    path.write_bytes(data)
    return path


def no_video(rng, path, originals):
    """Nothing, text, sound alone, noise, a playlist, a list that names a protocol."""
    kind = rng.integers(6)
    if kind == 2:
        sound(path)
    else:
        texts = [
            b"",
            b"not a video\n" * 30,
            b"",
            bytes(rng.bytes(3000)),
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        ]
        path.write_bytes([*texts, b"ffconcat version 1.0\nfile x.mp4\n"][kind])
    return path


def another_name(rng, path, originals):
    """A file of one kind with the ending of another, or with a name that FFmpeg takes for something else."""
    source = originals[rng.integers(len(originals))]
    path = path.with_name(str(rng.choice(["a.gif", "b.mp4", "c.txt", "12:30.avi", "%d.png", "d.wav", "pipe:0", "e"])))
    path.write_bytes(source.read_bytes())
    return path


def animated(rng, path, originals):
    """GIF and WebP by another program, with uneven delays, transparency and one picture only, whole or cut."""
    suffix = [".gif", ".webp", ".png"][rng.integers(3)]
    path = path.with_suffix(suffix)
    images = [Image.fromarray(f) for f in moving_texture(num_frames=int(rng.integers(1, 5)), size=SIZE)]
    if rng.random() < 0.5:
        for image in images:
            image.putalpha(128)
    durations = [int(d) for d in rng.choice([0, 10, 20, 100, 5000], len(images))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations)
    if rng.random() < 0.4:
        data = path.read_bytes()
        path.write_bytes(data[: rng.integers(1, len(data))])
    return path


def size_changes(rng, path, originals):
    parts = []
    for size in (SIZE, (48, 32), (16, 16)):
        encode(path.with_suffix(".h264"), moving_texture(num_frames=3, size=size), options={"bf": "0"})
        parts.append(path.with_suffix(".h264").read_bytes())
    rng.shuffle(parts)
    path.with_suffix(".h264").write_bytes(b"".join(parts))
    return path.with_suffix(".h264")


KINDS = (
    damaged, damaged, damaged, damaged, odd_size, odd_rate, odd_times, odd_tags, odd_tags, no_video, another_name,
    animated, size_changes,
)  # fmt: skip


def one_line(error, path):
    text = str(error)
    assert str(path) in text and "\n" not in text and len(text) < 400, text


@pytest.mark.parametrize("seed", [
    seed if seed % QUICK == 0 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(COUNT)
])  # fmt: skip
def test_a_mutated_video_gives_a_result_or_one_line(seed, originals, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_BYTES", 2**26)
    monkeypatch.chdir(tmp_path)
    cv2.setRNGSeed(0)
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng([8, seed])
    path = KINDS[rng.integers(len(KINDS))](rng, tmp_path / "in" / "a.mp4", originals)
    notes, found = [], None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # notices go to `notify`; what a library complains of would be a fault
        try:
            found = video.read(path, notify=notes.append)
        except VideoError as error:
            one_line(error, path)
        for note in notes:
            one_line(note, path)
        try:
            reader = Reader(path, (64, 64))
            scanned = sum(frame.shape == (*reader.size, 3) for frame in zip_first(reader, 3000))
        except VideoError as error:
            one_line(error, path)
            assert found is None, "what can be read can be scanned"
            return
    assert scanned > 0 and all("\n" not in note for note in reader.notes)
    if found is None:
        return
    assert found.frames.dtype == np.uint8 and found.frames.ndim == 4 and len(found.frames) > 0
    assert 0 < found.fps <= 1000 and found.frames.shape[1:3] == reader.shown and min(len(found.frames), 3000) == scanned
    # What was read can be written, or is refused in one line with nothing left behind.
    out = tmp_path / "out" / "b.mp4"
    try:
        video.write(out, found, notify=notes.append)
    except VideoError as error:
        one_line(error, out)
        assert not out.parent.exists() or not list(out.parent.iterdir())
    else:
        assert [file.name for file in out.parent.iterdir()] == ["b.mp4"]


def zip_first(frames, limit):
    """The first frames of an iterator."""
    return (frame for frame, _ in zip(frames, range(limit), strict=False))
