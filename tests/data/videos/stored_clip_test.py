"""Clips as bytes: they come back as they were, nearly, and always as the same bytes."""

import av
import numpy as np
import pytest
from strange_videos import moving_texture

from motionv2v import video
from motionv2v.data.videos import stored_clip
from motionv2v.video import VideoError


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(np.float64) - second) ** 2))


def test_round_trip_is_close_and_the_bytes_are_the_same_each_time():
    frames = moving_texture(size=(256, 384))
    data = stored_clip.encode(frames)
    decoded = stored_clip.decode(data)
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8
    assert psnr(frames, decoded) > 40
    assert stored_clip.encode(frames) == data


@pytest.mark.parametrize("name", ["juggle", "cups"])
def test_real_clips_keep_40_db(clips, name):
    frames = video.read(clips / f"{name}.mp4", 5, (480, 720)).frames
    assert psnr(frames, stored_clip.decode(stored_clip.encode(frames))) > 42  # 43.5 and more on 49 frames


def test_players_see_the_same_colours(tmp_path):
    frames = np.full((5, 64, 96, 3), (200, 40, 90), np.uint8)
    (tmp_path / "stored.mp4").write_bytes(stored_clip.encode(frames))
    played = video.read(tmp_path / "stored.mp4").frames
    assert np.abs(played.astype(int) - frames).max() <= 3  # two roundings to 8 bits; read as BT.709 it would be 15


def test_order_of_frames_survives_whatever_jumps_about():
    """Resampled and shuffled clips jump; every frame must come back at its place."""
    frames = moving_texture(num_frames=12)[np.random.default_rng(1).permutation(12)]
    decoded = stored_clip.decode(stored_clip.encode(frames)).astype(int)
    distance = [[np.abs(decoded[i] - frames[j]).mean() for j in range(12)] for i in range(12)]
    assert np.argmin(distance, axis=1).tolist() == list(range(12))


@pytest.mark.parametrize("shape", [(3, 7, 8, 3), (3, 8, 7, 3), (0, 8, 8, 3)])
def test_odd_and_empty_clips_are_refused(shape):
    with pytest.raises(VideoError, match=r"even height and width and at least 1 frame, given \("):
        stored_clip.encode(np.zeros(shape, np.uint8))


def test_crf_is_checked():
    with pytest.raises(VideoError, match="crf must be 1 to 51, given 0"):
        stored_clip.encode(np.zeros((1, 8, 8, 3), np.uint8), crf=0)


@pytest.mark.parametrize("data", [b"", b"not a video at all", "cut"])
def test_damage_is_said_in_one_line(data):
    data = stored_clip.encode(moving_texture())[:300] if data == "cut" else data
    with pytest.raises(VideoError, match=rf"stored clip of {len(data)} bytes (is damaged|holds no frames)"):
        stored_clip.decode(data)


def test_what_is_stored_is_plain_h264():
    import io

    with av.open(io.BytesIO(stored_clip.encode(moving_texture()))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
