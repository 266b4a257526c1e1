"""Counterfactual pairs: frames, speeds, crops, points, and what the point dropout must and must not do."""

import time

import numpy as np
import pytest

from motionv2v import tracks
from motionv2v.data import counterfactual, transforms
from motionv2v.data.counterfactual import FramePair
from motionv2v.data.transforms import TrackedClip
from motionv2v.tracks import Tracks


def random_visible(num_points, num_frames=17, seed=0, share=0.8):
    rng = np.random.default_rng(seed)
    return rng.random((num_points, num_frames)) < share, rng.random((num_points, num_frames)) < share


def only(mode):
    return {mode: 1.0}


def test_resampled_pairs_are_what_the_paper_defines():
    rng = np.random.default_rng(0)
    pairs = [counterfactual.resample_pair(rng, 60, 17) for _ in range(2000)]
    for pair in pairs:
        assert (np.diff(pair.target) == 1).all()
        expected = np.round(np.linspace(pair.source[0], pair.source[-1], 17))
        np.testing.assert_array_equal(pair.source, expected)
        assert counterfactual.common_frames(pair).size >= 1
    reversed_share = np.mean([pair.source[0] > pair.source[-1] for pair in pairs])
    assert abs(reversed_share - 0.5) < 0.05  # standard error 0.011, ties 1 / 60
    starts = np.array([pair.target[0] for pair in pairs])
    assert starts.min() == 0 and starts.max() == 43
    ends = np.array([pair.source[[0, -1]] for pair in pairs])
    assert ends.min() == 0 and ends.max() == 59


def test_common_frames_are_in_both():
    pair = FramePair(source=np.array([9, 7, 5, 3]), target=np.array([4, 5, 6, 7]))
    assert counterfactual.common_frames(pair).tolist() == [5, 7]
    with pytest.raises(ValueError, match="min_common must be in"):
        counterfactual.resample_pair(np.random.default_rng(0), 20, 5, min_common=6)


def test_preset_pairs_have_one_regular_side_and_the_given_reversals():
    rng = np.random.default_rng(0)
    pairs = [counterfactual.preset_pair(rng, 17) for _ in range(3000)]
    regular = np.arange(17).tolist()
    tables = {tuple(transforms.speed_indices(name, 17)) for name in transforms.SPEEDS}
    for pair in pairs:
        forward = [sorted(side.tolist()) for side in pair]
        assert regular in forward and all(tuple(side) in tables for side in forward)
    # standard error at most 0.009
    assert abs(np.mean([p.source[0] > p.source[-1] for p in pairs]) - 0.3) < 0.04
    assert abs(np.mean([p.target[0] > p.target[-1] for p in pairs]) - 0.2) < 0.04
    slowed = np.mean([sorted(p.source.tolist()) != regular for p in pairs])
    assert abs(slowed - 0.5 * 6 / 7) < 0.04


def test_slowed_and_shuffled_sources_show_the_targets_window():
    rng = np.random.default_rng(0)
    slowed = [counterfactual.slowed_pair(rng, 40, 17) for _ in range(1500)]
    tables = {tuple(transforms.speed_indices(name, 17)) for name in transforms.SPEEDS[1:]}
    for pair in slowed:
        assert (np.diff(pair.target) == 1).all() and pair.target.min() >= 0 and pair.target.max() < 40
        assert tuple(np.sort(pair.source) - pair.target[0]) in tables
    backwards = np.mean([pair.source[0] > pair.source[-1] for pair in slowed])
    assert abs(backwards - 0.3) < 0.05  # standard error 0.012
    for pair in (counterfactual.shuffled_pair(rng, 40, 17) for _ in range(100)):
        np.testing.assert_array_equal(np.sort(pair.source), pair.target)
        assert (pair.source != pair.target).any() and (np.diff(pair.target) == 1).all()
    same = counterfactual.same_pair(rng, 40, 17)
    np.testing.assert_array_equal(same.source, same.target)
    with pytest.raises(ValueError, match="17 frames does not fit a clip of 16"):
        counterfactual.slowed_pair(rng, 16, 17)


def small_clip(num_frames=12):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_frames, 24, 32, 3), dtype=np.uint8)
    return TrackedClip(frames, tracks.from_arrays(rng.uniform(0, 24, (5, num_frames, 2))))


def test_pairs_cut_video_and_tracks_alike():
    clip, pair = small_clip(), FramePair(np.array([8, 5, 2]), np.array([4, 5, 6]))
    got = counterfactual.take_pair(clip, pair)
    np.testing.assert_array_equal(got.source.frames, clip.frames[[8, 5, 2]])
    np.testing.assert_array_equal(got.target.tracks.xy, clip.tracks.xy[:, 4:7])


def test_crops_hit_each_side_with_their_probability():
    rng = np.random.default_rng(0)
    pair = counterfactual.ClipPair(small_clip(), small_clip())
    assert counterfactual.crop_pair(rng, pair, probability=0.0) == pair
    both = counterfactual.crop_pair(rng, pair, probability=1.0)
    assert not np.array_equal(both.source.tracks.xy, pair.source.tracks.xy)
    assert not np.array_equal(both.source.tracks.xy, both.target.tracks.xy)
    cropped = [counterfactual.random_sliding_crop(rng, pair.source) is not pair.source for _ in range(1500)]
    assert abs(np.mean(cropped) - 0.2) < 0.05  # standard error 0.010


def test_queries_lie_in_the_frame_and_on_the_given_frames():
    rng = np.random.default_rng(0)
    drawn = [counterfactual.sample_queries(rng, (24, 320), np.array([3, 9])) for _ in range(1000)]
    counts = np.array([len(queries) for queries in drawn])
    assert counts.min() == 1 and counts.max() == 64 and abs(counts.mean() - 32.5) < 2.5  # standard error 0.58
    everything = np.concatenate(drawn)
    assert set(np.unique(everything[:, 0])) == {3.0, 9.0}
    assert (everything[:, 1:] >= 0).all() and (everything[:, 1:] <= [320, 24]).all()
    assert everything[:, 1].max() > 310 and everything[:, 2].max() > 23
    with pytest.raises(ValueError, match="0 frames"):
        counterfactual.sample_queries(rng, (24, 320), np.zeros(0, int))


def test_points_are_drawn_without_replacement():
    rng = np.random.default_rng(0)
    for _ in range(200):
        chosen = counterfactual.sample_points(rng, 10, 64)
        assert 1 <= len(chosen) <= 10 and len(set(chosen.tolist())) == len(chosen)
    with pytest.raises(ValueError, match="got 0"):
        counterfactual.sample_points(rng, 0)


def test_probabilities_are_the_papers():
    assert list(counterfactual.MODES.values()) == [1 / 6, 1 / 6, 1 / 6, 2 / 6, 1 / 6]


def test_full_hides_nothing_but_lonely_points():
    source, target = random_visible(50)
    source[3] = False
    got_source, got_target = counterfactual.drop_points(np.random.default_rng(0), source, target, only("full"))
    target[3] = False
    np.testing.assert_array_equal(got_source, source)
    np.testing.assert_array_equal(got_target, target)


def test_dropping_only_hides_and_hides_in_both_clips_together():
    source, target = random_visible(5000)
    got_source, got_target = counterfactual.drop_points(np.random.default_rng(0), source, target)
    assert not (got_source & ~source).any() and not (got_target & ~target).any()
    np.testing.assert_array_equal(got_source.any(axis=1), got_target.any(axis=1))
    # mean shown share: the target loses much more than the source (0.55 and 0.40 of 0.80 measured)
    assert got_target.mean() < got_source.mean() - 0.1


def test_masks_work_frame_by_frame():
    """With everything visible no point may vanish: whole-track deletion was a bug of the released code."""
    everything = np.ones((4000, 17), bool)
    rng = np.random.default_rng(0)
    for mode in counterfactual.MODES:
        source, target = counterfactual.drop_points(rng, everything, everything, only(mode))
        assert source.any(axis=1).all() and target.any(axis=1).all(), mode
    source, target = counterfactual.drop_points(rng, everything, everything, only("counter_mask"))
    assert source.all()
    partly = (~target.all(axis=1)).mean()
    assert partly > 0.6 and abs(target.mean() - 0.5) < 0.05  # p ~ U(0, 1), so half of all frames stay
    source, target = counterfactual.drop_points(rng, everything, everything, only("sync_mask"))
    np.testing.assert_array_equal(source, target)
    assert abs(target.mean() - 0.5) < 0.05


def test_point_to_point_shows_a_few_common_times():
    everything = np.ones((2000, 49), bool)
    source, target = counterfactual.drop_points(
        np.random.default_rng(0), everything, everything, only("point_to_point")
    )
    np.testing.assert_array_equal(source, target)
    visible_source, visible_target = random_visible(500)
    source, target = counterfactual.drop_points(
        np.random.default_rng(0), visible_source, visible_target, only("point_to_point")
    )
    common = visible_source & visible_target
    assert ((source & target & common).any(axis=1) == common.any(axis=1)).all()


def test_number_of_shown_times_follows_the_law():
    """Without widening, m = U{1..U{1..U{1..49}}}: mean 7.0, median 4."""
    rng = np.random.default_rng(0)
    few, held = counterfactual._few_times(rng, np.ones((20_000, 49), bool))
    chosen = held == np.arange(49)  # a drawn frame is nearest to itself
    count = chosen.sum(axis=1)
    assert abs(count.mean() - 7.0) < 0.2 and np.median(count) == 4 and count.min() == 1  # standard error 0.05
    distance = np.abs(held - np.arange(49))
    radius = np.where(few, distance, 0).max(axis=1)
    assert set(radius.tolist()) == {0, 1, 2}
    for row in range(200):  # oracle: shown is exactly what lies within the radius of a drawn frame
        times = np.flatnonzero(chosen[row])
        nearest = np.abs(np.arange(49)[:, None] - times).min(axis=1)
        np.testing.assert_array_equal(distance[row], nearest)
        assert any(np.array_equal(few[row], nearest <= rho) for rho in (0, 1, 2))


def test_track_to_point_leaves_the_source():
    source, target = random_visible(2000)
    rng = np.random.default_rng(0)
    got_source, got_target = counterfactual.drop_points(rng, source, target, only("track_to_point"))
    alive = got_target.any(axis=1)
    np.testing.assert_array_equal(alive, source.any(axis=1) & target.any(axis=1))
    np.testing.assert_array_equal(got_source[alive], source[alive])
    assert got_target.mean() < 0.5 * target.mean()


def test_drop_tracks_holds_the_shown_position():
    visible = random_visible(800, 25)
    rng = np.random.default_rng(1)
    sides = [Tracks(rng.uniform(0, 64, (800, 25, 2)).astype(np.float32), v) for v in visible]
    source, target = counterfactual.drop_tracks(np.random.default_rng(0), *sides, only("point_to_point"))
    common = visible[0] & visible[1]
    held = 0
    for n, t in zip(*np.nonzero(target.visible), strict=True):
        near = [s for s in range(max(t - 2, 0), min(t + 3, 25)) if (sides[1].xy[n, s] == target.xy[n, t]).all()]
        assert len(near) == 1 and common[n, near[0]]
        np.testing.assert_array_equal(source.xy[n, t], sides[0].xy[n, near[0]])
        held += near[0] != t
    assert held > 100
    np.testing.assert_array_equal(source.visible, target.visible)


def test_drop_tracks_of_full_points_is_identity():
    visible = random_visible(30)
    tracks = [Tracks(np.random.default_rng(1).uniform(0, 64, (30, 17, 2)).astype(np.float32), v) for v in visible]
    shown = counterfactual.drop_tracks(np.random.default_rng(0), *tracks, only("full"))
    for got, given in zip(shown, tracks, strict=True):
        np.testing.assert_array_equal(got.xy, given.xy)
        np.testing.assert_array_equal(got.visible, given.visible)


def test_hidden_points_stay_hidden():
    nothing = np.zeros((40, 17), bool)
    source, target = counterfactual.drop_points(np.random.default_rng(0), nothing, np.ones((40, 17), bool))
    assert not source.any() and not target.any()


def test_same_rng_same_masks():
    visible = random_visible(16)
    first, second = (counterfactual.drop_points(np.random.default_rng(5), *visible) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_unknown_modes_list_the_known():
    visible = random_visible(4)
    for modes in ({"all": 1.0}, {"full": 0.5}):
        with pytest.raises(ValueError, match="probabilities of full, counter_mask"):
            counterfactual.drop_points(np.random.default_rng(0), *visible, modes)


def test_dropping_is_fast_enough_for_every_sample():
    visible, rng = random_visible(16), np.random.default_rng(0)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        counterfactual.drop_points(rng, *visible)
        times.append(time.perf_counter() - start)
    # 0.14 ms on one core; with shape checks on, as in the tests, about 1 ms: ten times that is a loop over points
    assert np.median(times) < 10e-3
