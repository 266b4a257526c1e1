"""Regions and trajectories of ReVideo's samples: what is inside, what is around, which points steer."""

import numpy as np
import pytest

from motionv2v.data import batches, regions
from motionv2v.data.scenes.drawn_pairs import SyntheticSource
from motionv2v.data.scenes.pairs import SceneConfig

SOURCE = SyntheticSource(SceneConfig(num_frames=5, size=(32, 48), num_points=48, min_points=48))


def flat(value, shape=(5, 32, 48, 3)):
    return np.full(shape, value, np.uint8)


def sample(xy=None, visible=None, value=10):
    xy = np.zeros((0, 5, 2), np.float32) if xy is None else xy
    visible = np.ones(xy.shape[:2], bool) if visible is None else visible
    return {"target": flat(value), "target_xy": xy, "target_visible": visible}


@pytest.mark.parametrize("seed", range(20))
def test_of_two_clips_one_is_inside_and_the_other_around(seed):
    made = regions.draw(np.random.default_rng(seed), "composed", sample(value=10), sample(value=200))
    inside = made["region"] > 0
    assert (made["target"][inside] == 10).all() and (made["target"][~inside] == 200).all()
    rows, columns = np.flatnonzero(inside[0].any(1)), np.flatnonzero(inside[0].any(0))
    assert len(rows) >= 8 and len(columns) >= 12  # a quarter of each side
    assert inside[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and (inside == inside[0]).all()


def test_rectangles_are_of_all_sizes_and_reach_every_pixel():
    drawn = [regions.rectangle(np.random.default_rng(i), (32, 48)) for i in range(400)]
    heights = np.array([inside.any(1).sum() for inside in drawn])
    assert heights.min() == 8 and heights.max() == 32 and abs(heights.mean() - 20) < 1.5
    assert np.any(drawn, axis=0).all()


def test_other_kinds_leave_the_clip_as_it_is():
    whole = regions.draw(np.random.default_rng(0), "whole", sample(), sample(value=200))
    assert (whole["region"] == 1).all() and (whole["target"] == 10).all()
    part = regions.draw(np.random.default_rng(0), "rectangle", sample(), sample(value=200))
    assert 0 < part["region"].mean() < 1 and (part["target"] == 10).all()
    with pytest.raises(ValueError, match="unknown kind of region 'circle'; available: whole, composed, rectangle"):
        regions.draw(np.random.default_rng(0), "circle", sample(), sample())
    other = sample() | {"target": flat(0, (5, 16, 48, 3))}
    with pytest.raises(ValueError, match="cannot be composed: expected one shape"):
        regions.draw(np.random.default_rng(0), "composed", sample(), other)


def line(start, step):
    return np.float32(start) + np.arange(5, dtype=np.float32)[:, None] * np.float32(step)


def test_points_that_go_further_than_the_mean_steer_and_the_furthest_most_often():
    xy = np.stack([line((4, 4), (0, 0)), line((5, 9), (0.1, 0)), line((6, 6), (3, 0)), line((6, 20), (9, 0))])
    counts = np.zeros(4)
    for seed in range(300):
        inside = np.ones((32, 48), bool)
        found, visible = regions.trajectories(np.random.default_rng(seed), xy, np.ones((4, 5), bool), inside)
        assert found.shape == (10, 5, 2) and visible.sum() == 5  # one is further than the mean, 3 + 9 + .1 over 4
        first = found[visible.any(1), 2, 1]
        counts += [np.isclose(first, y).sum() for y in (4, 9, 6, 20)]
    assert counts.tolist() == [0, 0, 0, 300]
    xy[2] = line((6, 6), (7, 0))
    drawn = []
    for seed in range(400):
        found, visible = regions.trajectories(
            np.random.default_rng(seed), xy, np.ones((4, 5), bool), np.ones((32, 48), bool)
        )
        if visible.any(1).sum() == 1:
            drawn.append(found[0, 2, 1])
    assert 20 < len(drawn) < 70 and set(np.round(drawn)) == {6, 20}  # a tenth of the samples show one


def test_points_count_inside_the_region_alone_and_a_still_clip_has_some():
    inside = np.zeros((32, 48), bool)
    inside[:, :20] = True
    xy = np.stack([line((4, 4), (8, 0)), line((30, 4), (-8, 0))])
    _, visible = regions.trajectories(np.random.default_rng(0), xy, np.ones((2, 5), bool), inside)
    np.testing.assert_array_equal(visible.sum(0), [1, 1, 0, 0, 0])  # the first leaves; the second is not there at first
    still = np.stack([line((4, 4), (0, 0))] * 3)
    _, visible = regions.trajectories(np.random.default_rng(0), still, np.ones((3, 5), bool), inside)
    assert visible.any()
    _, visible = regions.trajectories(np.random.default_rng(0), still, np.zeros((3, 5), bool), inside)
    assert not visible.any()
    later = np.ones((1, 5), bool)
    later[:, :2] = False
    _, visible = regions.trajectories(np.random.default_rng(0), still[:1], later, inside)
    np.testing.assert_array_equal(visible[0], later[0])


def test_paths_are_smoothed_and_straight_ones_stay():
    inside = np.ones((32, 48), bool)
    shaken = np.stack([line((10, 10), (2, 0)) + np.float32([[0, 0], [0, 3], [0, -3], [0, 3], [0, 0]])])
    found, _ = regions.trajectories(np.random.default_rng(0), shaken, np.ones((1, 5), bool), inside)
    assert np.abs(found[0, :, 1] - 10).max() < 1.5 and abs(found[0, 2, 0] - 14) < 1e-3


def test_what_smoothing_carries_out_of_the_picture_is_not_seen_there():
    inside = np.ones((32, 48), bool)
    path = np.float32([[[44, 10], [47, 10], [47.9, 10], [47.9, 4], [47.9, 0]]])  # into the corner
    found, visible = regions.trajectories(np.random.default_rng(0), path, np.ones((1, 5), bool), inside)
    assert visible[0].all() and (found[0] >= 0).all() and (found[0] < (48, 32)).all()
    outside = path + np.float32(
        [[[0, 0], [0, 0], [9, 0], [0, 0], [0, 0]]]
    )  # where it is lost the tracker's guess is far
    visible = np.ones((1, 5), bool)
    visible[0, 2] = False
    found, shown = regions.trajectories(np.random.default_rng(0), outside, visible, inside)
    beyond = (found[0] < 0).any(-1) | (found[0] >= (48, 32)).any(-1)
    assert (beyond & visible[0]).any() and not (beyond & shown[0]).any()


def test_as_many_are_drawn_as_are_asked_for():
    xy = np.stack([line((4, y), (0, 0)) for y in range(12)] + [line((4, y), (5 + y / 9, 0)) for y in range(12)])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        _, visible = regions.trajectories(rng, xy, np.ones((24, 5), bool), np.ones((32, 48), bool), 7)
        assert visible.any(1).sum() == 7


def test_a_source_of_regions_is_the_same_in_any_order_and_composes_neighbours():
    source = regions.RegionSource(SOURCE, "composed", seed=3)
    again = regions.RegionSource(SOURCE, "composed", seed=3)
    second, first = again[1], again[0]
    for one, other in ((first, source[0]), (second, source[1])):
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value)
    around = first["region"] == 0
    np.testing.assert_array_equal(first["target"][around], SOURCE[1]["target"][around])
    np.testing.assert_array_equal(first["target"][~around], SOURCE[0]["target"][~around])
    assert first["caption"] == SOURCE[0]["caption"] and len(source) == len(SOURCE)
    assert 1 <= first["target_visible"].any(1).sum() <= regions.MOST_POINTS


def test_stored_clips_are_composed_after_they_fit_the_bucket():
    class Stored:
        """Clips of two shapes, each of one grey value."""

        def __len__(self):
            return 6

        def __getitem__(self, index):
            shape = (9, 40, 60, 3) if index % 2 else (7, 80, 100, 3)
            found = {name: np.full(shape, 40 * index + 10, np.uint8) for name in ("source", "target")}
            xy = np.full((30, shape[0], 2), 20, np.float32)
            for side in ("source", "target"):
                found |= {f"{side}_xy": xy, f"{side}_visible": np.ones(xy.shape[:2], bool)}
            return found | {"edited": np.ones(30, bool), "caption": "a", "kind": "x"}

        shapes = np.array([(7, 80, 100), (9, 40, 60)] * 3)

    transform = batches.Prepare(4, 0.0, False)
    stream = batches.mix(
        {"clips": Stored()}, {"clips": 1.0}, transform, buckets=[(5, 32, 48)], num_points=16, region="composed",
        batch_size=3, seed=0,
    )  # fmt: skip
    batch = next(iter(stream))
    assert batch["target"].shape == (3, 5, 32, 48, 3) and batch["target_xy"].shape == (3, 10, 5, 2)
    for frames, region in zip(batch["target"], batch["region"], strict=True):
        within, around = np.unique(frames[region > 0]), np.unique(frames[region == 0])
        assert len(within) == 1 and len(around) <= 1 and (not len(around) or within != around)
