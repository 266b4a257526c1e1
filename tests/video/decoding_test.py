"""The one reader of video files: turn, shape, clock, damage. `video.read` and `reader` see the same."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps
from strange_videos import encode, moving_texture

from motionv2v import video
from motionv2v.data.videos.reader import Reader
from motionv2v.video import VideoError, decoding
from motionv2v.video.clock import find

LOSSLESS = {"crf": "0", "bf": "0"}


def read_both(path):
    """The clip of `video.read` and its notices, after checking that the scanner gives the same."""
    notes = []
    clip = video.read(path, notify=notes.append)
    reader = Reader(path, (10_000, 10_000))
    np.testing.assert_array_equal(np.stack(list(reader)), clip.frames)
    assert reader.fps == clip.fps and reader.size == reader.shown == clip.frames.shape[1:3]
    assert all(note.removeprefix(f"{path}: ") in reader.notes for note in notes)
    return clip, notes


def set_matrix(source, target, a, b, c, d):
    """Copy an MP4 file with another display matrix: stored (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44  # version 0: the display matrix follows 40 bytes of other fields
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


MATRICES = [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_turns_and_mirrorings_are_read(tmp_path, matrix):
    stored = video.write(tmp_path / "a.mp4", moving_texture(num_frames=3), 24)
    clip, notes = read_both(set_matrix(stored, tmp_path / "b.mp4", *matrix))
    a, b, c, d = matrix
    frames = video.read(stored).frames
    _, height, width, _ = frames.shape
    # A slow loop over the definition: each stored pixel, seen from the middle, goes where the matrix says.
    expected = np.empty((3, *((height, width) if a else (width, height)), 3), np.uint8)
    for row in range(height):
        for column in range(width):
            x, y = 2 * column + 1 - width, 2 * row + 1 - height
            to = (b * x + d * y + expected.shape[1] - 1) // 2, (a * x + c * y + expected.shape[2] - 1) // 2
            expected[:, *to] = frames[:, row, column]
    np.testing.assert_array_equal(clip.frames, expected)
    assert notes == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_with_side_data_that_pyav_does_not_know_are_read(tmp_path, orientation):
    """EXIF, in pictures of cameras' MJPEG files too; it may say how they are turned."""
    picture, exif = Image.fromarray(moving_texture(num_frames=1)[0]), Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    clip, notes = read_both(tmp_path / "a.png")
    np.testing.assert_array_equal(clip.frames, [np.asarray(expected)])
    assert notes == []


def anamorphic(path, aspect, size=(64, 96)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for frame in moving_texture(num_frames=3, size=size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("aspect, width", [(Fraction(2), 192), (Fraction(4, 3), 128), (Fraction(8, 9), 85)])
def test_pixels_that_are_not_square_become_square(tmp_path, aspect, width):
    clip, _ = read_both(anamorphic(tmp_path / "a.mp4", aspect))
    assert clip.frames.shape == (3, 64, width, 3)
    # The same picture, only wider: up to the compression and the interpolation.
    assert np.abs(clip.frames.astype(int) - video.resize(moving_texture(num_frames=3), (64, width))).mean() < 6
    turned = set_matrix(tmp_path / "a.mp4", tmp_path / "b.mp4", 0, 1, -1, 0)
    assert read_both(turned)[0].frames.shape == (3, width, 64, 3)
    assert video.read(turned, size=(20, 30)).frames.shape == (3, 20, 30, 3)


def test_pixels_of_an_absurd_shape_are_taken_for_square(tmp_path):
    clip, notes = read_both(anamorphic(tmp_path / "a.mp4", Fraction(16)))
    assert clip.frames.shape == (3, 64, 96, 3) and "states pixels 16 times as wide as high" in notes[0]


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_pause_stays_a_pause_and_motion_keeps_its_speed(tmp_path, ending):
    frames = moving_texture(num_frames=12)
    times = [*range(6), *range(6 + 72, 12 + 72)]  # three seconds at 24 frames a second
    encode(tmp_path / f"a.{ending}", frames, "libx264rgb", "rgb24", LOSSLESS, times)
    clip, notes = read_both(tmp_path / f"a.{ending}")
    assert clip.fps == 24 and "variable frame rate put on an even clock of 24 frames a second" in notes[0]
    np.testing.assert_array_equal(clip.frames, frames[[*range(5), *[5] * 73, *range(6, 12)]])


def test_a_pause_that_is_taken_for_a_fault_is_told(tmp_path):
    frames = moving_texture(num_frames=6)
    encode(tmp_path / "a.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, [0, 1, 2, 912, 913, 914], rate=10)
    clip, notes = read_both(tmp_path / "a.mkv")
    np.testing.assert_array_equal(clip.frames, frames)
    said = "91 s between two of its pictures, more than 60, are taken for a fault and pass as one frame"
    assert notes == [f"{tmp_path}/a.mkv: {said}"]
    encode(tmp_path / "slow.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, rate=Fraction(1, 120))
    clip, notes = read_both(tmp_path / "slow.mkv")  # one picture every two minutes, as it says: no fault
    np.testing.assert_array_equal(clip.frames, frames)
    assert notes == []


def test_pictures_that_slip_later_than_the_look_goes_are_told_once(tmp_path, monkeypatch):
    """The clock is that of the file's beginning: later on pictures keep their times all the same."""
    monkeypatch.setattr(decoding, "_LOOK", 6)
    frames, times = moving_texture(num_frames=12), [*range(8), 10, 12, 14, 16]
    encode(tmp_path / "a.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, times, rate=10)
    clip, notes = read_both(tmp_path / "a.mkv")
    np.testing.assert_array_equal(clip.frames, frames[[*range(7), 7, 7, 7, 8, 8, 9, 9, 10, 10, 11]])
    assert notes == [f"{tmp_path}/a.mkv: pictures are missing or too many from frame 7 on; frames keep the time"]


def test_jitter_is_no_variable_rate(tmp_path):
    """Telephones are a few milliseconds off; each picture still counts once."""
    frames = moving_texture(num_frames=12)
    times = np.arange(12) * 33 + np.random.default_rng(0).integers(-4, 5, 12)
    encode(tmp_path / "a.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, (times - times[0]).tolist(), rate=1000)
    clip, notes = read_both(tmp_path / "a.mkv")
    np.testing.assert_array_equal(clip.frames, frames)
    assert clip.fps == pytest.approx(1000 / 33, rel=0.03) and notes == []


@pytest.mark.parametrize("fps", [8, 10, 12.5, 15, 24, 25, 30, 50, 60, 100])
def test_the_rate_of_a_gif_is_that_of_its_delays(tmp_path, fps):
    clip, notes = read_both(video.write(tmp_path / "a.gif", moving_texture(num_frames=9), fps))
    assert clip.fps == pytest.approx(fps, rel=1e-6) and len(clip.frames) == 9 and notes == []


def test_uneven_delays_of_a_gif_are_kept(tmp_path):
    frames = moving_texture(num_frames=5)
    images = [Image.fromarray(frame).quantize(200) for frame in frames]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 100, 500, 100, 300])
    clip, notes = read_both(tmp_path / "a.gif")
    assert clip.fps == 10 and len(clip.frames) == 11 and "variable frame rate" in notes[0]
    shown = [*range(3), *[2] * 4, 3, 4, 4, 4]
    # Palettes of 200 colours are a few levels off; another frame is 20 off.
    assert np.abs(clip.frames.astype(int) - frames[shown]).mean((1, 2, 3)).max() < 6


@pytest.mark.parametrize("fps", [24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 60000 / 1001, 60, 120, 240, 7.5, 1, 0.5])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_even_rates_come_back_as_they_were(tmp_path, fps, ending):
    clip = video.read(video.write(tmp_path / f"a.{ending}", moving_texture(num_frames=7, size=(16, 16)), fps))
    assert clip.fps == pytest.approx(fps, rel=1e-6) and len(clip.frames) == 7


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_an_absurd_rate_is_refused(tmp_path, ending):
    encode(tmp_path / f"a.{ending}", moving_texture(num_frames=3), rate=10**9)
    for read in (video.read, lambda path: Reader(path, (8, 8))):
        with pytest.raises(
            VideoError, match=rf"a.{ending}: states \S+ frames a second, expected above 0 and at most 1000"
        ):
            read(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("times, tick, stated, expected", [
    (np.arange(50) / 24, 1e-5, 24, (24, True)),
    (np.floor(np.arange(500) * 1001 / 24 + 0.5) / 1000, 1e-3, Fraction(24000, 1001), (24000 / 1001, True)),
    (np.floor(np.arange(500) * 1001 / 24 + 0.5) / 1000, 1e-3, 500, (24000 / 1001, True)),  # a wrong statement
    (np.round(np.arange(40) * 100 / 33) / 100, 1e-2, 25, (33, True)),
    (np.arange(40) * 0.07, 1e-3, None, (100 / 7, True)),
    (np.delete(np.arange(40), 20) / 25, 1e-5, 24.4, (25, False)),  # one picture is missing
    ([0, 1, 2, 3, 500, 501, 502], 1e-3, None, (1, True)),  # a jump of the clock
    ([0, 0, 0], 1e-3, 30, (30, True)),
    ([5], 1e-3, None, (25, True)),
    ([], 1e-3, 12, (12, True)),
])  # fmt: skip
def test_the_clock_explains_the_times(times, tick, stated, expected):
    clock = find(np.array(times, np.float64), tick, None if stated is None else Fraction(stated), None)
    assert (clock.rate, clock.even) == (pytest.approx(expected[0], rel=1e-6), expected[1])


@pytest.mark.parametrize(
    "name", ["12:30 walk.mp4", "http:x.mkv", "concat:a|b.mp4", "file:c.mp4", "%03d.mp4", "ä #?.gif"]
)
def test_a_file_name_is_a_file_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    frames = moving_texture(num_frames=3)
    video.write(name, frames, 10)
    assert os.listdir() == [name]
    assert read_both(name)[0].frames.shape == frames.shape


def test_pictures_that_change_their_size_get_the_size_of_the_first(tmp_path):
    parts = []
    for size in ((64, 96), (32, 48)):
        encode(
            tmp_path / "a.h264", moving_texture(num_frames=4, size=size), "libx264", "yuv444p", {"bf": "0", "crf": "5"}
        )
        parts.append((tmp_path / "a.h264").read_bytes())
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    clip, notes = read_both(tmp_path / "a.h264")
    assert clip.frames.shape == (8, 64, 96, 3)
    assert notes == [f"{tmp_path}/a.h264: changes its size from 96x64 to 48x32 at picture 4; all are read as 96x64"]
    (tmp_path / "b.h264").write_bytes(parts[1])
    small = video.resize(video.read(tmp_path / "b.h264").frames, (64, 96))
    assert np.abs(clip.frames[4:].astype(int) - small).mean() < 2  # interpolated with another cubic curve


def test_damaged_frames_are_named(tmp_path):
    """A bit is turned in each of 24 copies: where a frame differs from the sound file's, the notice names it.

    The file is `moving_texture(num_frames=24)` as `video.write` wrote it once: x264 does not write the same bytes of
    the same pictures each time, and another file is broken by other bits.
    """
    kept, path = Path(__file__).with_name("sliding.mp4"), tmp_path / "a.mp4"
    data, sound = kept.read_bytes(), video.read(kept).frames
    rng, silent, named = np.random.default_rng(0), 0, 0
    for _ in range(24):
        damaged = bytearray(data)
        damaged[rng.integers(data.index(b"mdat") + 800, len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        notes = []
        try:
            frames = video.read(path, notify=notes.append).frames
        except VideoError as error:
            assert "damaged after frame" in str(error)
            continue
        wrong = {t for t in range(24) if np.abs(frames[t].astype(int) - sound[t]).max() > 0}
        text = next((note for note in notes if "damaged: frame" in note), None)
        if text is None:
            silent += bool(wrong)  # a bit that makes another valid stream cannot be told
            continue
        named += 1
        spans = [part.split(" to ") for part in text.split("damaged: frame")[1].lstrip("s ").split(";")[0].split(", ")]
        told = {t for span in spans for t in range(int(span[0]), int(span[-1]) + 1)}
        assert wrong <= told, (wrong, told)
        reader = Reader(path, (64, 96))
        assert len(list(reader)) == 24 and any("damaged: frame" in note for note in reader.notes)
    assert named >= 18 and silent <= 3


def test_a_text_file_that_lists_others_opens_none_of_them(tmp_path):
    video.write(tmp_path / "other.mp4", moving_texture(num_frames=3), 24)
    for name, text in {
        "a.m3u8": "#EXTM3U\n#EXTINF:1,\nother.mp4\n",
        "a.ffconcat": "ffconcat version 1.0\nfile other.mp4\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match=name):
            video.read(tmp_path / name)


def test_reading_holds_the_clip_once(tmp_path):
    import tracemalloc

    path = video.write(tmp_path / "a.mp4", moving_texture(num_frames=40, size=(128, 192)), 24)
    tracemalloc.start()
    frames = video.read(path).frames
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * frames.nbytes  # it was twice as much
