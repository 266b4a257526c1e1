"""Pairs as records: what goes in comes out, and it looks like a sample of the synthetic scenes."""

import numpy as np
import pytest

from motionv2v.data import records
from motionv2v.data.scenes import drawn_pairs, pairs
from motionv2v.data.videos import stored_clip
from motionv2v.data.videos.recipes import ClipSample, PairSample
from motionv2v.video import VideoError

CONFIG = pairs.SceneConfig(num_frames=5, size=(32, 48), num_points=6)


def make_pair(index=0):
    made = pairs.make_pair(CONFIG, 0, index)
    frames = np.array([3, 2, 1, 0, -1]), np.arange(5)
    return PairSample(
        made.source, made.target, made.source_tracks, made.target_tracks, made.edited, made.caption, made.kind, *frames
    )


@pytest.fixture(scope="module")
def pair():
    return make_pair()


@pytest.fixture(scope="module")
def record(pair):
    return records.encode(pair, video="more/cat.mp4", fps=24, first_frame=100)


def test_records_have_the_documented_fields(record):
    assert list(record) == list(records.FIELDS)
    sizes = {"N": 6, "T": 5}
    for name, field in records.FIELDS.items():
        if field.dtype in ("bytes", "text"):
            assert isinstance(record[name], bytes if field.dtype == "bytes" else str), name
        else:
            assert record[name].shape == tuple(sizes.get(axis, axis) for axis in field.axes), name
            assert record[name].dtype == field.dtype, name
        assert name in records.__doc__ and field.meaning


def test_everything_but_the_pictures_is_exact(pair, record):
    sample = records.decode(record)
    for side in ("source", "target"):
        tracks = getattr(pair, f"{side}_tracks")
        np.testing.assert_array_equal(sample[f"{side}_xy"], tracks.xy)
        np.testing.assert_array_equal(sample[f"{side}_visible"], tracks.visible)
        # Smooth drawn shapes with hard edges: colours at half the size cost about 10 grey levels at an edge.
        assert np.abs(sample[side].astype(int) - getattr(pair, side)).mean() < 4
    np.testing.assert_array_equal(sample["edited"], pair.edited)
    assert (sample["caption"], sample["kind"]) == (pair.caption, pair.kind)


def test_samples_are_like_those_of_the_scenes(record):
    expected, sample = drawn_pairs.SyntheticSource(CONFIG)[0], records.decode(record)
    assert set(sample) == set(expected)
    for name, value in expected.items():
        assert type(sample[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert (sample[name].shape, sample[name].dtype) == (value.shape, value.dtype), name


def test_frames_are_counted_from_the_start_of_the_video(record):
    assert record["source_frames"].tolist() == [103, 102, 101, 100, -1]
    assert record["target_frames"].tolist() == [100, 101, 102, 103, 104]
    assert (record["video"], float(record["fps"])) == ("more/cat.mp4", 24.0)


def test_text_may_come_as_bytes(pair, record):
    stored = {**record, "caption": pair.caption.encode(), "source": np.array(record["source"], object)}
    assert records.decode(stored)["caption"] == pair.caption


def test_lost_frames_are_noticed(pair, record):
    with pytest.raises(VideoError, match="a stored target has 4 frames, its tracks have 5"):
        records.decode({**record, "target": stored_clip.encode(pair.target[:4])})


@pytest.fixture(scope="module")
def clip(pair):
    return ClipSample(pair.target, pair.target_tracks, np.arange(5), pair.caption)


def test_a_clip_with_dense_tracks_is_read_as_a_pair_with_itself(clip):
    record = records.encode(clip, video="cat.mp4", fps=24, first_frame=100)
    assert list(record) == list(records.CLIP_FIELDS)
    assert all(name in records.__doc__ for name in record)
    assert record["frames"].tolist() == [100, 101, 102, 103, 104] and record["frames"].dtype == np.int32
    sample = records.decode(record)
    assert set(sample) == set(records.SAMPLE)
    assert sample["source"] is sample["target"] and sample["source_xy"] is sample["target_xy"]
    np.testing.assert_allclose(sample["target_xy"], clip.tracks.xy, rtol=0, atol=1 / 32 + 1e-4)
    np.testing.assert_array_equal(sample["target_visible"], clip.tracks.visible)
    assert not sample["edited"].any() and sample["edited"].shape == (6,)
    assert sample["kind"] == "clip" and sample["caption"] == clip.caption


def test_the_kind_of_a_record_shows_in_its_names():
    assert records.fields_of(records.FIELDS) is records.FIELDS
    assert records.fields_of([*records.CLIP_FIELDS, "more"]) is records.CLIP_FIELDS
    with pytest.raises(ValueError, match="no clip, frames, caption"):
        records.fields_of(["tracks", "kind", "video", "fps"])
    with pytest.raises(ValueError, match="no target_xy"):
        records.fields_of(set(records.FIELDS) - {"target_xy"})


def test_a_clip_of_another_length_than_its_tracks_is_an_error(clip):
    record = records.encode(clip, video="cat.mp4", fps=24)
    with pytest.raises(VideoError, match="a stored clip has 4 frames, its tracks have 5"):
        records.decode(record | {"clip": stored_clip.encode(clip.clip[:4])})
