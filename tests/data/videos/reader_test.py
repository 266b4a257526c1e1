"""Reading whatever there is of a file: size, turn, clock, bits, damage."""

import tracemalloc

import numpy as np
import pytest
from strange_videos import eight_k, encode, moving_texture, sound, turned

from motionv2v import video
from motionv2v.data.videos import reader
from motionv2v.data.videos.reader import Reader
from motionv2v.video import VideoError

LOSSLESS = {"crf": "0", "bf": "0"}


def read(path, cover=(64, 96)):
    reader = Reader(path, cover)
    return reader, np.stack(list(reader))


def test_frames_are_those_of_video_read_and_can_be_read_again(tmp_path):
    path = video.write(tmp_path / "a.mp4", moving_texture(), 24)
    reader, frames = read(path)
    np.testing.assert_array_equal(frames, video.read(path).frames)
    np.testing.assert_array_equal(np.stack(list(reader)), frames)
    assert (reader.fps, reader.size, reader.notes) == (24, (64, 96), [])


@pytest.mark.parametrize("cover, size", [((32, 32), (32, 48)), ((16, 48), (32, 48)), ((200, 100), (64, 96))])
def test_pictures_shrink_while_they_cover_and_never_grow(tmp_path, cover, size):
    path = video.write(tmp_path / "a.mp4", moving_texture(), 24, lossless=True)
    reader, frames = read(path, cover)
    assert reader.size == size and frames.shape == (12, *size, 3) and reader.shown == (64, 96)
    # Both average over areas; FFmpeg's fixed-point sums may differ from OpenCV's by a few grey levels.
    assert np.abs(frames.astype(int) - video.resize(video.read(path).frames, size)).max() <= 4


def test_coded_pictures_shrink_without_a_pattern(tmp_path):
    """FFmpeg's direct way to small RGB pictures leaves a pattern: 5.4 grey levels off the average, not 2.8."""
    path = video.write(tmp_path / "a.mp4", moving_texture(1), 24, crf=5)
    frames = read(path, (32, 48))[1].astype(int)
    assert np.abs(frames - video.resize(video.read(path).frames, (32, 48))).mean() < 4


def test_variable_rate_gets_an_even_clock(tmp_path):
    frames, times = moving_texture(num_frames=6), [0, 1, 2, 5, 6, 7]
    encode(tmp_path / "a.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, times, rate=10)
    reader, seen = read(tmp_path / "a.mkv")
    # What a player shows at k / fps, to the nearest frame.
    shown = np.searchsorted(np.array(times) / 10, (np.arange(len(seen)) + 0.5) / reader.fps, side="right") - 1
    np.testing.assert_array_equal(seen, frames[shown])
    assert "variable frame rate" in reader.notes[0]


def test_a_jump_of_the_clock_does_not_multiply_frames(tmp_path):
    frames = moving_texture(num_frames=6)
    encode(tmp_path / "a.mkv", frames, "libx264rgb", "rgb24", LOSSLESS, [0, 1, 2, 90_000, 90_001, 90_002], rate=10)
    reader = Reader(tmp_path / "a.mkv", (64, 96))
    reader.fps = 10.0  # the average rate of such a file means nothing
    np.testing.assert_array_equal(np.stack(list(reader)), frames)


def test_rotation_is_applied_before_the_size(tmp_path):
    upright = moving_texture()
    turned(tmp_path / "a.mp4", upright)
    reader, frames = read(tmp_path / "a.mp4", (32, 48))
    assert reader.shown == (64, 96) and reader.size == (32, 48)
    assert np.abs(frames.astype(int) - video.resize(upright, (32, 48))).mean() < 6  # H.264 at crf 18
    assert "turned upright by 270 degrees" in reader.notes


def test_anamorphic_pictures_get_their_shape(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for frame in moving_texture():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert read(tmp_path / "a.mp4", (64, 96))[1].shape == (12, 64, 192, 3)


def test_ten_bits_are_read_as_eight(tmp_path):
    frames = moving_texture()
    encode(tmp_path / "a.mov", frames, "prores_ks", "yuv422p10le")
    reader, seen = read(tmp_path / "a.mov")
    assert seen.dtype == np.uint8 and np.abs(seen.astype(int) - frames).mean() < 3  # lossy, 4:2:2
    assert reader.notes == ["10 bits a colour read as 8"]


def test_eight_k_is_made_smaller_while_it_is_read(tmp_path):
    eight_k(tmp_path / "a.mp4", 2)
    reader = Reader(tmp_path / "a.mp4", (32, 48))
    tracemalloc.start()
    frames = list(reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames[0].shape == (32, 57, 3)
    assert peak < 10e6  # numpy reports its arrays; one 8k picture in RGB is 100 MB
    assert reader.notes == ["7680x4320 made smaller while reading"]


def test_a_damaged_file_ends_where_the_damage_is(tmp_path):
    path = video.write(tmp_path / "a.mkv", moving_texture(num_frames=40), 24)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames = list(Reader(path, (64, 96)))
    assert 0 < len(frames) < 40


@pytest.mark.parametrize("name, make, message", [
    ("missing.mp4", lambda path: None, "no such file"),
    ("empty.mp4", lambda path: path.write_bytes(b""), "empty"),
    ("noise.mp4", lambda path: path.write_bytes(bytes(range(256)) * 20), "not a video file"),
    ("sound.mp4", sound, "no video in this file; it holds audio"),
])  # fmt: skip
def test_files_without_pictures_say_so(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(VideoError, match=message):
        Reader(tmp_path / name, (64, 96))


def test_chunks_and_spans_take_each_frame_once():
    frames = [np.full((2, 2, 3), t, np.uint8) for t in range(10)]
    pieces = list(reader.chunks(iter(frames), 4, 9))
    assert [len(piece) for piece in pieces] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate(pieces)[:, 0, 0, 0], range(9))
    taken = list(reader.take(iter(frames), [range(1, 3), range(3, 6), range(8, 10)]))
    assert [piece[:, 0, 0, 0].tolist() for piece in taken] == [[1, 2], [3, 4, 5], [8, 9]]


@pytest.mark.parametrize("spans, message", [
    ([range(3, 5), range(4, 6)], "in order and not overlap"),
    ([range(8, 12)], "8 to 11 were asked for, but there are 10"),
])  # fmt: skip
def test_spans_that_cannot_be_taken_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        list(reader.take(iter([np.zeros((2, 2, 3), np.uint8)] * 10), spans))


def test_a_file_whose_first_picture_is_cut_off_says_why(tmp_path):
    path = video.write(tmp_path / "a.mp4", moving_texture(2, 14), 24, crf=5)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(VideoError, match=r"no picture can be read \(Invalid data .*; the file is cut short"):
        Reader(path, (64, 96))
