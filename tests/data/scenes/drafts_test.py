"""Drafts of drawn pairs: right without faults, wrong as the recipe says, and without what no point tells."""

import dataclasses

import cv2
import numpy as np
import pytest

from motionv2v import draft, metrics
from motionv2v.data.scenes import drafts, drawn_pairs, pairs
from motionv2v.tracks import Tracks

CONFIG = pairs.SceneConfig(num_points=12, min_points=12)
STILL = pairs.SceneConfig(kinds=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), moving_camera=0.0, num_points=12)
REVERSE = pairs.SceneConfig(kinds=(0.0, 0.0, 0.0, 0.0, 1.0, 0.0), num_points=12)
NO_FAULT = {"none": 1.0}


def scene(index, config=STILL):
    return pairs.make_scene(config, 5, index)


def draw(made, used=None, seed=0):
    used = np.ones(made.config.num_points, bool) if used is None else used
    return drafts.draw(np.random.default_rng(seed), made, made.pair().source, used)


@pytest.fixture
def no_fault(monkeypatch):
    monkeypatch.setattr(drafts, "RECIPE", NO_FAULT)
    monkeypatch.setattr(drafts, "SWAPPED", 0.0)


def with_one_sprite(index):
    """Find a scene of one sprite that moves, all of whose pixels are in the picture, from an index on."""
    while True:
        made = scene(index)
        inner = (made.owner[:, 1:-1, 1:-1] >= 0).sum() == (made.owner >= 0).sum() > 0
        if len(made.content.sprites) == 1 and inner and (made.points.layer == 0).sum() > 1:
            return made
        index += 1


def test_without_faults_a_draft_is_near_the_truth(no_fault):
    for start in (0, 30):
        made = with_one_sprite(start)
        drawn, pair = draw(made), made.pair()
        assert metrics.clip_psnr(drawn.frames, pair.target) > 30 > metrics.clip_psnr(pair.source, pair.target)


def test_a_thing_without_points_stays_where_the_clip_has_it(no_fault):
    made = with_one_sprite(0)
    only_ground = made.points.layer == -1
    drawn = draw(made, only_ground)
    np.testing.assert_array_equal(drawn.frames, made.pair().source)
    assert not drawn.hole.any() and not drawn.uncertain.any()


def test_one_point_carries_its_thing_without_turning_it(no_fault):
    made = with_one_sprite(0)
    one = np.arange(12) == np.flatnonzero(made.points.layer == 0)[0]
    ways = drafts._ways(np.random.default_rng(0), made, 0, np.flatnonzero(one))
    before, after = (
        pairs.track(made.content, motion, made.points, made.config).xy[one][0] for motion in (made.source, made.target)
    )
    for q, t in ((0, 16), (7, 3)):
        np.testing.assert_allclose(ways[q, t, :2, :2], np.eye(2))
        np.testing.assert_allclose(ways[q, t, :2, 2], after[t] - before[q], atol=1e-4)


def test_what_no_frame_shows_is_made_up_and_doubted(no_fault):
    made = with_one_sprite(0)
    still = dataclasses.replace(made, source=dataclasses.replace(made.source, times=np.zeros(17)))
    drawn = draw(still)
    around = cv2.dilate((still.owner[0] == 0).astype(np.uint8), np.ones((3, 3))) > 0
    assert drawn.hole[8].sum() > 20 and not drawn.hole[:, ~around].any()
    source = still.pair().source
    assert (drawn.frames[8] != source[8]).any(-1)[drawn.hole[8] == 1].mean() > 0.9
    assert (drawn.uncertain >= drawn.hole).all()


@pytest.mark.parametrize("fault", [name for name in drafts.RECIPE if name not in ("none", "left")])
def test_faults_do_to_masks_what_they_say(fault):
    mask = np.zeros((9, 64, 64), bool)
    mask[:, 20:40, 24:44] = True
    wrong = drafts._with_fault(np.random.default_rng(1), mask, fault)
    sizes, true = wrong.sum((1, 2)), 400
    check = {
        "grown": (wrong & mask).sum() == mask.sum() and (sizes > true).all(),
        "shrunk": (wrong & ~mask).sum() == 0 and (sizes < true).all() and (sizes > 0).all(),
        "leaked": (wrong & mask).sum() == mask.sum() and (sizes > true + 5).all(),
        "shifted": (np.abs(sizes - true) < 45).all() and (wrong != mask).any((1, 2)).all(),
        "missing": set(sizes.tolist()) == {0, true} and (sizes == 0).mean() <= 0.5,
    }
    assert check[fault]


def test_a_thing_that_is_left_is_not_drawn(monkeypatch):
    monkeypatch.setattr(drafts, "RECIPE", {"left": 1.0})
    made = with_one_sprite(0)
    np.testing.assert_array_equal(draw(made).frames, made.pair().source)


def test_edits_of_time_are_whole_frames_where_the_clip_shows_them():
    """Reversed from 3/4 to 1/4 of the scene's time: the middle of the edit is there, its ends are not."""
    made = pairs.make_scene(REVERSE, 5, 0)
    made = dataclasses.replace(made, source=dataclasses.replace(made.source, times=np.linspace(0.75, 0.25, 17)))
    drawn, pair = draw(made), made.pair()
    assert metrics.clip_psnr(drawn.frames[4:13], pair.target[4:13]) > 30
    np.testing.assert_array_equal(drawn.frames[8], pair.source[8])
    assert not drawn.uncertain[4:13].any() and drawn.uncertain[[0, 16]].any()


def test_the_sample_is_the_one_without_drafts_and_a_draft():
    plain = drawn_pairs.SyntheticSource(CONFIG, 3)
    drafted = drawn_pairs.SyntheticSource(CONFIG, 3, has_drafts=True)
    for index in (0, 5):
        before, after = plain[index], drafted[index]
        added = {"draft": np.uint8, "draft_hole": np.float32, "draft_uncertain": np.float32}
        assert set(after) - set(before) == set(added)
        for name, dtype in added.items():
            assert after[name].dtype == dtype and after[name].shape[:3] == before["source"].shape[:3], name
            np.testing.assert_array_equal(after[name], drafted[index][name])
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
        for name in ("draft_hole", "draft_uncertain"):
            assert 0 <= after[name].min() and after[name].max() <= 1


def test_real_drafts_are_those_of_the_clip_and_the_points_in_use():
    config = pairs.SceneConfig(num_frames=5, size=(32, 32), num_points=6)
    sample = drawn_pairs.SyntheticSource(config, 3, has_drafts=True, real_drafts=1.0)[1]
    used = (sample["source_visible"] | sample["target_visible"]).any(-1)
    assert 0 < used.sum() < 6
    paths = (draft_tracks(sample, side, used) for side in ("source", "target"))
    expected = draft.render(sample["source"], *paths, notify=lambda line: None)
    np.testing.assert_array_equal(sample["draft"], expected.frames)
    np.testing.assert_array_equal(sample["draft_uncertain"], expected.uncertain)


def draft_tracks(sample, side, used):
    return Tracks(sample[f"{side}_xy"][used], sample[f"{side}_visible"][used])
