"""Video files: what is written is read back, and every bad file ends in one line that says what is wrong."""

import fractions
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from motionv2v import video

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
needs_clips = pytest.mark.skipif(
    not CLIPS.is_dir(), reason=f"needs the real clips in {CLIPS}; put folder shared/clips there"
)


def moving_blocks(num_frames=9, height=48, width=64):
    """Frames with large flat blocks of colour that differ from frame to frame."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        frames[t, : height // 2] = (20 * t, 255 - 20 * t, 60)
        frames[t, height // 2 :, : width // 2] = (200, 40, 10 * t)
        frames[t, height // 2 :, width // 2 :] = (30, 90, 220)
    return frames


@pytest.fixture
def mp4(tmp_path):
    return video.write(tmp_path / "clip.mp4", moving_blocks(), 24)


def test_lossless_round_trip_is_exact(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 33, 47, 3), np.uint8)  # odd sizes are kept
    clip = video.read(video.write(tmp_path / "a.mp4", video.Clip(frames, 30000 / 1001), lossless=True))
    np.testing.assert_array_equal(clip.frames, frames)
    assert clip.fps == pytest.approx(30000 / 1001)


def test_h264_round_trip_keeps_colours_and_is_for_browsers(mp4):
    clip = video.read(mp4)
    # Flat blocks survive chroma subsampling; YUV rounding and crf 18 cost a few of 255 values, edges somewhat more.
    error = np.abs(clip.frames.astype(int) - moving_blocks())
    assert np.median(error) <= 2 and error.mean() < 4
    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = mp4.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads


def test_gif_round_trip(tmp_path):
    clip = video.read(video.write(tmp_path / "a.gif", moving_blocks(), 10))
    assert clip.frames.shape == (9, 48, 64, 3) and clip.fps == pytest.approx(10)
    # 18 flat colours fit a palette of 256; its entries and dithering are off by a few values.
    assert np.abs(clip.frames.astype(int) - moving_blocks()).mean() < 4


def test_read_takes_the_frames_asked_for(mp4):
    everything = video.read(mp4).frames
    np.testing.assert_array_equal(video.read(mp4, num_frames=3, start=4).frames, everything[4:7])
    np.testing.assert_array_equal(video.read(mp4, start=7).frames, everything[7:])
    assert video.read(mp4, num_frames=1, size=(24, 30)).frames.shape == (1, 24, 30, 3)


@pytest.mark.parametrize("fps, expected", [(24, range(9)), (12, [0, 2, 4, 6, 8]), (48, np.repeat(np.arange(9), 2))])
def test_read_resamples_by_time(mp4, fps, expected):
    everything = video.read(mp4).frames
    clip = video.read(mp4, fps=fps)
    assert clip.fps == fps
    np.testing.assert_array_equal(clip.frames, everything[list(expected)])


def test_variable_rate_is_read_by_time(tmp_path):
    path, starts = tmp_path / "variable.mkv", [0, 1, 2, 6, 7]  # in tenths of a second
    frames = moving_blocks(5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.options = 48, 64, "rgb24", {"crf": "0", "bf": "0"}
        for frame, start in zip(frames, starts, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = start, fractions.Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    # Frame 2 stays on the screen from 0.2 s to 0.6 s.
    shown, notes = frames[[0, 1, 2, 2, 2, 2, 3, 4]], []
    clip = video.read(path, notify=notes.append)
    np.testing.assert_array_equal(clip.frames, shown)
    assert clip.fps == 10 and notes == [f"{path}: variable frame rate put on an even clock of 10 frames a second"]
    np.testing.assert_array_equal(video.read(path, fps=10, num_frames=8, notify=notes.append).frames, shown)
    np.testing.assert_array_equal(video.read(path, 3, start=3, notify=notes.append).frames, shown[3:6])


def test_odd_sizes_are_padded_with_a_notice(tmp_path):
    with pytest.warns(UserWarning, match="61x47 is written as 62x48"):
        path = video.write(tmp_path / "odd.mp4", moving_blocks()[:, :47, :61], 24)
    assert video.read(path).frames.shape == (9, 48, 62, 3)


def truncated(path, mp4):
    path.write_bytes(mp4.read_bytes()[:-200])


def nothing_left(path, mp4):
    path.write_bytes(mp4.read_bytes()[:40])


def empty(path, mp4):
    path.write_bytes(b"")


def text(path, mp4):
    path.write_text("not a video\n" * 50)


def sound(path, mp4):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def zero_frames(path, mp4):
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    "make, name, message",
    [
        (lambda path, mp4: None, "a.mp4", "no such file"),
        (lambda path, mp4: path.mkdir(), "a.mp4", "is a folder"),
        (empty, "a.mp4", "empty"),
        (text, "a.mp4", "not a video"),
        (text, "a.txt", "not a video"),
        (sound, "a.wav", r"no video in this file; it holds audio \(pcm_s16le\)"),
        (truncated, "a.mp4", "cut short"),
        (nothing_left, "a.mp4", "cut short"),
        (zero_frames, "a.avi", "zero frames|not a video"),
    ],
)
def test_bad_files_end_in_one_line(tmp_path, mp4, make, name, message):
    path = tmp_path / "bad" / name
    path.parent.mkdir()
    make(path, mp4)
    with pytest.raises(video.VideoError, match=message) as error:
        video.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_the_whole_part_of_a_truncated_file_can_be_read(tmp_path, mp4):
    path = tmp_path / "cut.mp4"
    path.write_bytes(mp4.read_bytes()[:-200])
    np.testing.assert_array_equal(video.read(path, num_frames=2).frames, video.read(mp4, num_frames=2).frames)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_frames=10), "has 9 frames, but start=0 and num_frames=10"),
        (dict(start=9), "has 9 frames, so none from start=9"),
        (dict(num_frames=0), "num_frames must be at least 1"),
        (dict(start=-1), "start must be 0 or more"),
        (dict(fps=0), "fps must be above 0"),
        (dict(size=(0, 4)), "two positive integers"),
    ],
)
def test_read_refuses_impossible_requests(mp4, options, message):
    with pytest.raises(video.VideoError, match=message):
        video.read(mp4, **options)


def test_read_stops_at_the_memory_limit(mp4, monkeypatch):
    monkeypatch.setattr(video, "MAX_BYTES", 5 * 48 * 64 * 3)
    with pytest.raises(video.VideoError, match="give num_frames"):
        video.read(mp4)
    assert len(video.read(mp4, num_frames=5).frames) == 5


@pytest.mark.parametrize(
    "name, frames, fps, message",
    [
        ("a.xyz", moving_blocks(), 24, "available: .mp4"),
        ("a.mp4", moving_blocks(), None, "need fps"),
        ("a.mp4", moving_blocks() / 255.0, 24, r"uint8, given float64 and one frame of \[48, 64, 3\]"),
        ("a.mp4", moving_blocks()[:0], 24, "T >= 1"),
    ],
)
def test_write_refuses_what_it_cannot_write(tmp_path, name, frames, fps, message):
    # The function under the shape checks of the tests: a person's call has none.
    write = getattr(video.write, "__wrapped__", video.write)
    with pytest.raises(video.VideoError, match=message):
        write(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, mp4):
    before = mp4.read_bytes()

    def fail(path, *args, **options):
        path.write_bytes(b"half")
        raise av.error.InvalidDataError(1, "broken encoder")

    monkeypatch.setattr(video, "_encode_h264", fail)
    with pytest.raises(video.VideoError, match="cannot be written"):
        video.write(mp4, moving_blocks(), 24)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"] and mp4.read_bytes() == before


def test_resize_shrinks_by_area_and_enlarges_each_axis_alone():
    frames = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    blocks = frames.reshape(2, 4, 2, 4, 3, 3).mean(axis=(2, 4))
    # Area averaging in float32 against the mean of each block.
    np.testing.assert_allclose(video.resize(frames, (4, 4)), blocks, atol=1e-6)
    rows = np.repeat(blocks.mean(axis=(1, 2), keepdims=True), 4, axis=1)
    mixed = video.resize(np.broadcast_to(rows, (2, 4, 12, 3)), (8, 3))  # one axis grows, the other shrinks
    np.testing.assert_allclose(mixed, np.broadcast_to(rows[:, :1], (2, 8, 3, 3)), atol=1e-6)
    assert video.resize(frames[..., :1], (16, 24)).shape == (2, 16, 24, 1)


def test_resize_moves_points_by_the_ratio_of_sizes():
    picture = np.zeros((1, 40, 60, 3), np.float32)
    picture[0, 10:20, 30:40] = 1  # its centre is at x 35, y 15 from the corner
    for size in ((80, 120), (20, 30), (60, 45)):
        weights = video.resize(picture, size)[0, ..., 0]
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        centre = np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()
        # Exact but for float32 sums and the small ringing of cubic weights.
        np.testing.assert_allclose(centre, [35 * size[1] / 60, 15 * size[0] / 40], atol=0.02)


def test_fit_frame_count_is_the_nearest_4k_plus_1():
    for count in range(1, 60):
        nearest = min(range(1, 80, 4), key=lambda candidate: (abs(candidate - count), candidate))
        assert video.fit_frame_count(count) == nearest
    with pytest.raises(ValueError, match="at least 1"):
        video.fit_frame_count(0)


def test_set_frame_count_trims_and_holds_the_last_frame():
    frames = moving_blocks(6)
    np.testing.assert_array_equal(video.set_frame_count(frames, 5), frames[:5])
    np.testing.assert_array_equal(video.set_frame_count(frames, 9), frames[[0, 1, 2, 3, 4, 5, 5, 5, 5]])


@needs_clips
def test_real_clip_matches_another_decoder():
    clip = video.read(CLIPS / "cups.mp4", num_frames=3)
    capture = cv2.VideoCapture(str(CLIPS / "cups.mp4"))
    expected = np.stack([cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(3)])
    # The same H.264 frames; the conversion from YUV may round differently.
    assert np.abs(clip.frames.astype(int) - expected).max() <= 3
    assert clip.fps == 30
