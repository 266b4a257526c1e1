"""The TAPNext tracker on a tiny network with random weights, written as the published files are."""

import itertools
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tapnext

from motionv2v import trackers
from motionv2v.models.tapnext import network
from motionv2v.trackers import tapnext
from motionv2v.trackers.tapnext import TapNextError

TINY = network.TapNext(**tiny_tapnext.SIZES)
# (t, x, y) in a clip of 32 x 32 pixels, asked for at the start, in the middle and at the end.
QUERIES = np.array([[0, 3.2, 5.1], [2, 30.9, 0.2], [0, 16.5, 31.7], [4, 8.0, 8.0], [2, 12.3, 20.9]])


@pytest.fixture(scope="module")
def weights():
    return tiny_tapnext.weights(0, TINY)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("tapnext") / "tiny.npz"
    np.savez(path, **weights)
    return path


@pytest.fixture(scope="module")
def tracker(checkpoint):
    return trackers.get("tapnext", checkpoint=checkpoint, support=3, say=None)


@pytest.fixture(scope="module")
def alone(checkpoint):
    return trackers.get("tapnext", checkpoint=checkpoint, support=0, say=None)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)


def run(weights, frames, points):
    """Positions (x, y) [N T 2] and confidence [N T] of the network itself for points (t, y, x), forwards only."""
    points, states = jnp.asarray(points, jnp.float32), TINY.initial_states(1, len(points))
    yx, visible, certainty, _ = network.follow(
        TINY, tiny_tapnext.tree(weights), jnp.asarray(frames), points, jnp.int32(0), states
    )
    return np.moveaxis(np.asarray(yx)[..., ::-1], 0, 1), np.asarray(visible * certainty).T


def test_tracks_are_the_networks_run_in_both_directions(tracker, weights, frames):
    tracks, confidence = tracker.track_with_confidence(frames, QUERIES)
    assert isinstance(tracker, trackers.Tracker)
    assert tracks.xy.dtype == np.float32 and tracks.xy.shape == (5, 5, 2) and tracks.visible.shape == (5, 5)
    order = np.argsort(QUERIES[:, 0], kind="stable")
    points = QUERIES[order][:, [0, 2, 1]].astype(np.float32)
    points = np.concatenate([points, tapnext.support_points(points, 3, 32)])
    forward = run(weights, frames, points)
    backward = run(weights, frames[::-1], np.column_stack([4 - points[:, 0], points[:, 1:]]))
    for row, index in enumerate(order):
        t, x, y = QUERIES[index]
        for frame in range(5):
            found, seen = (forward if frame > t else backward, frame if frame > t else 4 - frame)
            xy, sure = ((x, y), 1.0) if frame == t else (found[0][row, seen], found[1][row, seen])
            # The same sums in a program for one frame and in one for five.
            np.testing.assert_allclose(tracks.xy[index, frame], xy, atol=1e-4)
            np.testing.assert_allclose(confidence[index, frame], sure, atol=1e-5)
    assert np.all(tracks.visible == (confidence > 0.5))
    plain = tracker.track(frames, QUERIES)
    np.testing.assert_array_equal(plain.xy, tracks.xy)
    np.testing.assert_array_equal(plain.visible, tracks.visible)


def test_a_reversed_clip_gives_the_reversed_tracks(alone, frames):
    """Without support points, which are shared out in the order of the queries' times."""
    tracks, confidence = alone.track_with_confidence(frames, QUERIES)
    turned = np.column_stack([4 - QUERIES[:, 0], QUERIES[:, 1:]])
    back, back_confidence = alone.track_with_confidence(frames[::-1], turned)
    np.testing.assert_allclose(back.xy[:, ::-1], tracks.xy, atol=1e-4)  # the queries come in another order
    np.testing.assert_allclose(back_confidence[:, ::-1], confidence, atol=1e-5)


def test_frames_after_the_query_do_not_depend_on_later_ones(tracker, frames):
    changed = frames.copy()
    changed[4:] = 255 - changed[4:]
    tracks, other = (tracker.track(clip, QUERIES[[0, 2]]) for clip in (frames, changed))
    np.testing.assert_array_equal(tracks.xy[:, :4], other.xy[:, :4])
    assert np.abs(tracks.xy[:, 4] - other.xy[:, 4]).max() > 1e-2


@pytest.mark.parametrize("tall, wide", [(2, 3), (1, 4)])
def test_any_size_is_scaled_to_the_networks_and_back_once(tracker, frames, tall, wide):
    """Repeated pixels average back to themselves, so that the network sees the very same pictures."""
    large = frames.repeat(tall, axis=1).repeat(wide, axis=2)
    tracks, confidence = tracker.track_with_confidence(frames, QUERIES)
    scaled, scaled_confidence = tracker.track_with_confidence(large, QUERIES * [1, wide, tall])
    np.testing.assert_allclose(scaled.xy, tracks.xy * [wide, tall], atol=1e-3)
    np.testing.assert_allclose(scaled_confidence, confidence, atol=1e-4)


@pytest.mark.parametrize("block", [2, 8])
def test_frames_per_call_change_nothing(checkpoint, tracker, frames, block):
    """Blocks that do not divide the clip are filled up, which must not show."""
    other = trackers.get("tapnext", checkpoint=checkpoint, support=3, block=block, say=None)
    expected, confidence = tracker.track_with_confidence(frames, QUERIES)
    tracks, other_confidence = other.track_with_confidence(frames, QUERIES)
    np.testing.assert_allclose(tracks.xy, expected.xy, atol=1e-4)
    np.testing.assert_allclose(other_confidence, confidence, atol=1e-5)


def test_chunks_are_runs_of_their_own(checkpoint, alone, frames):
    """Three chunks of at most two queries: each as if its queries had been asked for alone, in the caller's order."""
    chunked = trackers.get("tapnext", checkpoint=checkpoint, support=1, chunk=2, say=None)
    tracks = chunked.track(frames, QUERIES)
    # Sorted by time: queries 0 and 2, 1 and 4, then 3, which has two support points where the others have one.
    for chunk, support in (([0, 2], 1), ([1, 4], 1), ([3], 2)):
        single = trackers.get("tapnext", checkpoint=checkpoint, support=support, say=None)
        np.testing.assert_allclose(tracks.xy[chunk], single.track(frames, QUERIES[chunk]).xy, atol=1e-4)
    # Queries see one another, so this is not what one run gives.
    assert np.abs(tracks.xy - alone.track(frames, QUERIES).xy).max() > 1e-2


def test_chunks_hold_every_query_once_and_have_one_size():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.integers(0, 9, 1003), rng.uniform(0, 256, (1003, 2))]).astype(np.float32)
    chunks = tapnext.plan_chunks(points, 256, 64, 256)
    assert sorted(np.concatenate([chunk.index for chunk in chunks])) == list(range(1003))
    assert {len(chunk.points) for chunk in chunks} == {251 + 64} and max(len(chunk.index) for chunk in chunks) <= 256
    for chunk in chunks:
        np.testing.assert_array_equal(chunk.points[: len(chunk.index)], points[chunk.index])
    ends = [points[chunk.index, 0] for chunk in chunks]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(ends))


def test_support_points_lie_around_their_queries():
    points = np.array([[3, 100, 120], [5, 30, 200], [0, 2, 255]], np.float32)
    support = tapnext.support_points(points, 64, 256)
    np.testing.assert_array_equal(support[:, 0], points[np.arange(64) % 3, 0])
    offset = support[:, 1:] - points[np.arange(64) % 3, 1:]
    assert np.linalg.norm(offset, axis=1).max() <= 16 and np.linalg.norm(offset, axis=1)[:2].min() > 1
    assert support[:, 1:].min() >= 0.5 and support[:, 1:].max() <= 255.5
    # All of 64 around one point fill the disc evenly: its area within half the radius holds a quarter of them.
    near = np.linalg.norm(tapnext.support_points(points[:1], 64, 256)[:, 1:] - points[0, 1:], axis=1) <= 8
    assert near.sum() == 16


def test_support_points_and_certainty_count(checkpoint, tracker, alone, frames):
    tracks, confidence = tracker.track_with_confidence(frames, QUERIES)
    assert np.abs(tracks.xy - alone.track(frames, QUERIES).xy).max() > 1e-2
    bold = trackers.get("tapnext", checkpoint=checkpoint, support=3, use_certainty=False, say=None)
    same, bold_confidence = bold.track_with_confidence(frames, QUERIES)
    np.testing.assert_array_equal(same.xy, tracks.xy)
    own = QUERIES[:, :1] == np.arange(5)
    assert np.all(bold_confidence[~own] > confidence[~own]) and same.visible[~own].any()
    assert 0 <= confidence.min() and bold_confidence.max() <= 1


def test_the_querys_own_frame_is_the_query(tracker, frames):
    tracks, confidence = tracker.track_with_confidence(frames, QUERIES)
    own = np.arange(5), QUERIES[:, 0].astype(int)
    np.testing.assert_array_equal(tracks.xy[own], QUERIES[:, 1:].astype(np.float32))
    assert tracks.visible[own].all() and (confidence[own] == 1).all()


def test_nothing_to_do(tracker, frames):
    assert tracker.track(frames, np.zeros((0, 3))).xy.shape == (0, 5, 2)
    np.testing.assert_array_equal(tracker.track(frames[:1], QUERIES[:1]).xy, QUERIES[:1, None, 1:].astype(np.float32))


def test_bfloat16_runs(checkpoint, frames):
    half = trackers.get("tapnext", checkpoint=checkpoint, dtype="bfloat16", say=None)
    xy = half.track(frames, QUERIES).xy
    assert xy.dtype == np.float32 and np.isfinite(xy).all() and xy.min() > 0 and xy.max() < 32


def test_it_says_how_long_it_takes_and_skips_what_nobody_needs(checkpoint, frames):
    said = []
    talking = trackers.get("tapnext", checkpoint=checkpoint, support=2, say=said.append)
    for query_frame, looks in ((0, 5), (2, 10), (4, 5)):
        talking.track(frames, np.array([[query_frame, 3.0, 4.0]]))
        line = said.pop()
        assert f"1 points, {looks} frames to look at" in line and line.endswith("s to go") and not said


def test_time_left_is_counted_from_the_frames_done(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(tapnext.time, "perf_counter", lambda: now[0])
    progress = tapnext._Progress(100, "TAPNext", said.append)
    for frames in (1, 9, 30, 60):
        now[0] += 500  # compiling, which is not counted
        progress.start()
        now[0] += 3 * frames
        progress.step(frames)
    assert said == [
        "TAPNext, 3 s each, about 5 min to go",
        "TAPNext: 10 of 100 frames, about 4 min to go",
        "TAPNext: 40 of 100 frames, about 3 min to go",
    ]


@pytest.mark.parametrize(
    "queries, problem",
    [
        ([[5, 1, 1]], "frames are 0 to 4"),
        ([[0, 33, 1]], "lies outside the frame of 32x32"),
        ([[0.5, 1, 1]], "whole frame index"),
        ([[0, np.nan, 1]], "finite"),
    ],
)
def test_wrong_queries(tracker, frames, queries, problem):
    with pytest.raises(ValueError, match=problem):
        tracker.track(frames, np.array(queries, float))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, "needs checkpoint=.*available options: checkpoint, chunk, support"),
        ({"checkpoint": "x.npz", "mode": "dis"}, "no option 'mode'; available options: checkpoint, chunk"),
        ({"checkpoint": "x.npz", "chunk": 0}, "chunk must be a whole number of queries, at least 1, given 0"),
        ({"checkpoint": "x.npz", "support": -1}, "support must be .* at least 0, given -1"),
        ({"checkpoint": "x.npz", "block": 0}, "block must be .* given 0"),
        ({"checkpoint": "x.npz", "dtype": "float16"}, "float32 or bfloat16, given 'float16'"),
        ({"checkpoint": "x.npz", "attention": "flash"}, "one of xla, .*, given 'flash'"),
        ({"checkpoint": "x.npz"}, "x.npz: no such file; expected TAPNext's weights"),
    ],
)
def test_wrong_options(options, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        trackers.get("tapnext", **options)
    assert "\n" not in str(caught.value)


BLOCK = "backbone/Transformer/encoderblock_1"
GATE = "backbone/Transformer/encoderblock_0/ssm_block/recurrent_block/rg_lru/a_gate/w"


def changed(weights, **changes):
    return {name: value for name, value in {**weights, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({f"{BLOCK}/vit_block/LayerNorm_1/scale": None}, f"{BLOCK}/vit_block/LayerNorm_1/scale is missing"),
        ({"backbone/unknown_token": None}, "backbone/unknown_token is missing"),
        ({"backbone/mask_token": np.zeros((1, 1, 1, 23), np.float32)}, r"is \[1, 1, 1, 23\], expected \[1, 1, 1, 24\]"),
        ({"backbone/pos_embedding": np.zeros((1, 15, 24), np.float32)}, "not TAPNext's parameters"),
        (
            {"backbone/embedding/kernel": np.zeros((8, 8, 3, 24), np.float32)},
            "embedding/kernel is missing or has other",
        ),
        (
            {"backbone/embedding/bias": np.full(24, np.nan, np.float32)},
            "embedding/bias holds values that are not finite",
        ),
        ({"backbone/embedding/bias": np.zeros(24, np.int32)}, "embedding/bias holds int32"),
        ({"backbone/embedding/bias": np.array([None, {}])}, "pickled"),
        (
            {"encoder/0": None, "backbone/Transformer/encoderblock_7/x": np.zeros(1, np.float32)},
            "encoderblock_2.*missing",
        ),
    ],
)
def test_wrong_parameters(tmp_path, weights, changes, problem):
    path = tmp_path / "wrong.npz"
    np.savez(path, **changed(weights, **changes))
    with pytest.raises(TapNextError, match=problem) as caught:
        trackers.get("tapnext", checkpoint=path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["step", f"{BLOCK}/adam/scale"])
@pytest.mark.parametrize("value", [np.int64(3), np.full((2, 3), np.nan, np.float32), np.array([None, {}])])
def test_arrays_that_are_no_parameters_are_left_aside(tmp_path, weights, checkpoint, name, value):
    path = tmp_path / "more.npz"
    np.savez(path, **{**weights, name: value})
    notices = []
    tracker = trackers.get("tapnext", checkpoint=path, notify=notices.append)
    assert notices == [f"{path}: {name} is no parameter of TAPNext and is left aside"]
    expected = trackers.get("tapnext", checkpoint=checkpoint, notify=notices.append)
    assert jax.tree.structure(tracker._params) == jax.tree.structure(expected._params)
    jax.tree.map(np.testing.assert_array_equal, tracker._params, expected._params)
    assert len(notices) == 1


def write_cut_off(path, whole):
    path.write_bytes(whole[: len(whole) // 2])


def write_damaged(path, whole):
    path.write_bytes(whole[:5000] + b"damage" + whole[5006:])


def write_pickle(path, _):
    path.write_bytes(pickle.dumps({"params": {"w": np.zeros(3)}}))


def write_one_array(path, _):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_torch(path, _):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))


def write_other(path, _):
    np.savez(path, xy=np.zeros((1, 2, 2)), visible=np.ones((1, 2)))


@pytest.mark.parametrize(
    "write, problem",
    [
        (write_cut_off, "not a readable .npz file, or cut off"),
        (write_damaged, "not a readable .npz file"),
        (write_pickle, "pickled"),
        (lambda path, _: path.write_text("hello"), "not a readable .npz file"),
        (lambda path, _: path.write_bytes(b""), "not a readable .npz file"),
        (lambda path, _: path.mkdir(), "is a folder"),
        (write_one_array, "one numpy array"),
        (write_torch, "PyTorch"),
        (write_other, "the file holds visible, xy"),
    ],
)
def test_wrong_files(tmp_path, checkpoint, write, problem):
    path = tmp_path / "wrong.npz"
    write(path, checkpoint.read_bytes())
    with pytest.raises(TapNextError, match=problem) as caught:
        trackers.get("tapnext", checkpoint=path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_sizes_are_read_off_the_file(checkpoint):
    assert tapnext.read_sizes(tapnext.read_arrays(checkpoint), checkpoint) == tiny_tapnext.SIZES
