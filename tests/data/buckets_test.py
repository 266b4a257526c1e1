"""Which bucket a clip goes to, and what it looks like there: pixels and tracks by one map, points as configured."""

import numpy as np
import pytest

from motionv2v.data.buckets import Fit, nearest

LANDSCAPE, PORTRAIT, SHORT, SMALL = (49, 480, 720), (49, 720, 480), (17, 480, 720), (49, 240, 360)


def kept_by_loop(shape, bucket):
    """Count, slowly, the share of a clip's pixels in time and space that a cover crop to the bucket shows."""
    frames, height, width = shape
    factor = max(bucket[1] / height, bucket[2] / width)
    seen = sum(
        abs((row + 0.5 - height / 2) * factor) < bucket[1] / 2
        and abs((column + 0.5 - width / 2) * factor) < bucket[2] / 2
        for row in range(height)
        for column in range(width)
    )
    return seen / (height * width) * bucket[0] / frames


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((49, 480, 720), LANDSCAPE),
        ((60, 1080, 1920), LANDSCAPE),
        ((60, 1920, 1080), PORTRAIT),
        ((48, 480, 720), SHORT),
        ((49, 200, 300), SMALL),
        ((49, 479, 480), LANDSCAPE),  # 0.668 of it is seen against 0.665 in the other
        ((49, 480, 479), PORTRAIT),
    ],
)
def test_nearest_bucket(shape, expected):
    assert nearest(shape, [SMALL, LANDSCAPE, SHORT, PORTRAIT]) == expected


def test_nearest_matches_loop():
    """On shapes at random, no bucket that is short enough shows more of the clip."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = tuple(int(n) for n in rng.integers([9, 30, 30], [30, 90, 90]))
        buckets = [tuple(int(n) for n in rng.integers([3, 10, 10], [12, 60, 60])) for _ in range(4)]
        fitting = [bucket for bucket in buckets if bucket[0] <= shape[0]]
        best = max(kept_by_loop(shape, bucket) for bucket in fitting)
        # Whole pixels are counted: a row and a column of 30 may fall on either side.
        assert kept_by_loop(shape, nearest(shape, buckets)) >= best * (1 - 1 / 15)


def test_clips_shorter_than_every_bucket_are_named():
    with pytest.raises(ValueError, match="clips of 9 frames fit no bucket: the shortest has 17 frames"):
        nearest((9, 480, 720), [LANDSCAPE, SHORT])


def dots(num_frames=9, height=40, width=60, num_points=6):
    """A pair in which every point is a bright spot on black: (sample, points). The spots drift to the right."""
    rng = np.random.default_rng(1)
    frames, sample = (
        np.arange(num_frames),
        {"caption": "dots", "kind": "both", "edited": np.arange(num_points) % 2 == 0},
    )
    for side, speed in (("source", 0.5), ("target", 1.0)):
        start = rng.uniform([18, 10], [width - 30, height - 10], (num_points, 2))
        xy = (start[:, None] + frames[:, None] * [speed, 0]).astype(np.float32)
        rows, columns = np.mgrid[:height, :width] + 0.5
        video = np.zeros((num_frames, height, width, 3), np.uint8)
        for n in range(3):
            distance = np.hypot(rows - xy[n, :, 1, None, None], columns - xy[n, :, 0, None, None])
            video[..., n] = 255 * np.exp(-((distance / 3) ** 2))
        sample |= {side: video, f"{side}_xy": xy, f"{side}_visible": np.ones((num_points, num_frames), bool)}
    return sample


def test_tracks_follow_the_pixels():
    """The centre of a spot of each colour, in the fitted clip, is where the fitted track says: resize, crop, window."""
    sample = dots()
    for index in range(3):  # one point by itself, so that its row and its colour are known
        alone = {k: v[index : index + 1] if k.endswith(("_xy", "_visible")) else v for k, v in sample.items()}
        alone["edited"] = np.ones(1, bool)
        for bucket in ((5, 80, 80), (5, 24, 36)):
            got = Fit(bucket, 1).random_map(alone, np.random.default_rng(index))
            for side in ("source", "target"):
                assert got[side].shape == (*bucket, 3) and got[side].dtype == np.uint8
                weight = got[side][..., index].astype(float)
                rows, columns = np.mgrid[: bucket[1], : bucket[2]] + 0.5
                mass = weight.sum((1, 2))
                centre = np.stack([(weight * columns).sum((1, 2)) / mass, (weight * rows).sum((1, 2)) / mass], -1)
                # Rounding to bytes and interpolating move a centre by hundredths of a pixel, a half-pixel slip by 0.5.
                np.testing.assert_allclose(got[f"{side}_xy"][0], centre, atol=0.1)


def test_window_is_drawn_and_the_same_for_all():
    """Frame numbers written into the pixels: a contiguous window, the same in both clips and in their tracks."""
    sample = dots()
    for side in ("source", "target"):
        sample[side] = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None], (9, 8, 8, 3))
        sample[f"{side}_xy"] = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None] * 0.5, (6, 9, 2)).copy()
    starts = set()
    for seed in range(60):
        got = Fit((5, 8, 8), 6).random_map(sample, np.random.default_rng(seed))
        start = int(got["source"][0, 0, 0, 0])
        starts.add(start)
        for side in ("source", "target"):
            assert got[side][:, 0, 0, 0].tolist() == list(range(start, start + 5))
            used = got[f"{side}_visible"].any(1)
            np.testing.assert_array_equal(
                got[f"{side}_xy"][used][:, :, 0], [[n * 0.5 for n in range(start, start + 5)]] * used.sum()
            )
    # Five starts, each missed by 60 draws with probability 2e-6.
    assert starts == {0, 1, 2, 3, 4}


def test_points_out_of_the_crop_are_hidden():
    sample = dots()
    sample["source_xy"][0] = 1.0  # near the left edge: a square crop of a wide clip leaves it out
    for seed in range(20):
        got = Fit((9, 40, 40), 6).random_map(sample, np.random.default_rng(seed))
        inside = (got["source_xy"] >= 0).all(-1) & (got["source_xy"] < 40).all(-1)
        assert not (got["source_visible"] & ~inside).any()
        used = got["source_visible"].any(1)
        assert (used == got["target_visible"].any(1)).all(), "a point is in use in both clips or in neither"
        assert not (got["source_xy"][used] == 1.0 - 10).any(), "a point that cannot be seen is in use"


@pytest.mark.parametrize("num_points", [4, 6, 10])
def test_number_of_points_in_use_is_uniform(num_points):
    """N rows whatever there was, U{1..min(N, 6)} of them in use and the others hidden and at zero; all points serve."""
    sample, counts = dots(), []
    sample["source_xy"][..., 1] += np.arange(6, dtype=np.float32)[:, None] / 10
    rows = {round(float(y), 3): n for n, y in enumerate(sample["source_xy"][:, 0, 1])}
    assert len(rows) == 6
    seen = set()
    for seed in range(400):
        got = Fit((9, 40, 60), num_points).random_map(sample, np.random.default_rng(seed))
        assert got["source_xy"].shape == got["target_xy"].shape == (num_points, 9, 2)
        used = got["source_visible"].any(1)
        points = [rows[round(float(y), 3)] for y in got["source_xy"][used, 0, 1]]
        assert len(set(points)) == len(points), "a point twice"
        np.testing.assert_array_equal(got["target_xy"][used], sample["target_xy"][points])
        np.testing.assert_array_equal(got["edited"][used], sample["edited"][points])
        assert not got["source_xy"][~used].any() and not got["edited"][~used].any()
        counts.append(int(used.sum()))
        seen.update(points)
    most = min(num_points, 6)
    share = np.bincount(counts, minlength=most + 1)[1:] / 400
    # Four standard deviations of 400 draws.
    assert len(share) == most and np.abs(share - 1 / most).max() < 4 * np.sqrt(1 / most / 400)
    assert seen == set(range(6))


def test_a_pair_without_common_points_has_none():
    sample = dots()
    sample["target_visible"][:] = False
    got = Fit((9, 40, 60), 3).random_map(sample, np.random.default_rng(0))
    assert not got["source_visible"].any() and got["source_xy"].shape == (3, 9, 2)


def test_too_short_a_sample_is_named():
    with pytest.raises(ValueError, match="a sample has clips of 9 frames, its bucket has 13"):
        Fit((13, 40, 60), 3).random_map(dots(), np.random.default_rng(0))


def test_at_least_so_many_points_are_in_use():
    sample = dots()
    draws = [Fit((9, 40, 60), 6, 4).random_map(sample, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(got["target_visible"].any(1).sum()) for got in draws} == {4, 5, 6}
    few = Fit((9, 40, 60), 10, 8).random_map(sample, np.random.default_rng(0))
    assert few["target_visible"].any(1).sum() == 6, "all there are, where there are fewer"


def test_a_clip_with_itself_is_cut_once_and_stays_one():
    sample = dots()
    own = sample | {f"source{end}": sample[f"target{end}"] for end in ("", "_xy", "_visible")}
    got = Fit((5, 24, 24), 4).random_map(own, np.random.default_rng(3))
    copy = own | {"source": own["target"].copy()}
    expected = Fit((5, 24, 24), 4).random_map(copy, np.random.default_rng(3))
    assert got["source"] is got["target"]
    for name in ("source", "target", "source_xy", "target_xy", "source_visible", "target_visible"):
        np.testing.assert_array_equal(got[name], expected[name])
