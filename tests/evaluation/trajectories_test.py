"""Distances of papers on dragging: what is perfect, held, dragged along and hidden scores what it must."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from motionv2v.evaluation import trajectories
from motionv2v.tracks import Tracks

STEPS = np.arange(5)


def paths(*speeds, starts=None):
    """Points that go straight on, [N T 2]."""
    starts = np.zeros((len(speeds), 2)) if starts is None else np.array(starts)
    return (starts[:, None] + np.array(speeds)[:, None] * STEPS[:, None]).astype(np.float32)


def test_distances_are_averaged_as_their_papers_do():
    wanted, found = paths((3, 4), (0, 0)), paths((0, 0), (0, 0))
    seen = np.ones((2, 5), bool)
    assert trajectories.ctd(wanted, wanted, seen) == trajectories.objmc(wanted, wanted) == 0
    assert trajectories.objmc(found, wanted) == trajectories.ctd(found, wanted, seen) == pytest.approx(10 / 2)
    # Each point by its own frames, then over points: the first is seen in two frames, 5 and 10 pixels off.
    seen[0, [0, 3, 4]] = False
    assert trajectories.ctd(found, wanted, seen) == pytest.approx((7.5 + 0) / 2)
    seen[1] = False
    assert trajectories.ctd(found, wanted, seen) == pytest.approx(7.5)
    assert math.isnan(trajectories.ctd(found, wanted, seen & False))


def test_a_background_that_stays_is_told_from_one_that_is_dragged_along():
    thing, still = paths((3, 4), starts=[(7, 9)]), paths((0, 0), (0, 0), starts=[(0, 0), (50, 50)])
    dragged = still + (thing - thing[:, :1])
    assert trajectories.bg_obj_ctd(dragged, thing) == pytest.approx(0, abs=1e-5)
    assert trajectories.bg_obj_ctd(still, thing) == pytest.approx(5 * (1 + 2 + 3 + 4) / 4)
    assert math.isnan(trajectories.bg_obj_ctd(still[:, :1], thing[:, :1]))
    assert math.isnan(trajectories.bg_obj_ctd(still[:0], thing))


def test_the_background_is_what_is_far_from_things():
    grid = trajectories.background(np.zeros((0, 2)), (80, 160))
    assert grid.shape == (256, 2) and grid[0].tolist() == [5, 2.5] and grid[-1].tolist() == [155, 77.5]
    some = trajectories.background(np.array([[80.0, 40]]), (80, 160))
    gone = {tuple(point) for point in grid} - {tuple(point) for point in some}
    assert gone == {tuple(p) for p in grid if np.hypot(p[0] - 80, p[1] - 40) <= 0.1 * np.hypot(80, 160)} and gone


class Follower:
    """Says where points are by a rule of their first positions."""

    def __init__(self, rule):
        self._rule = rule

    def track(self, frames, queries):
        xy = np.stack([self._rule(place, STEPS[:, None]) for place in queries[:, 1:]])
        return Tracks(xy.astype(np.float32), np.ones(xy.shape[:2], bool))


def truth(rule, usable=(True, True, True), mask=None):
    """Two points that should go right, of which one does not count, and one that should stay."""
    wanted = paths((4, 0), (4, 0), (0, 0), starts=[(50, 32), (50, 40), (90, 5)])
    edited = np.array([True, True, False]) & usable
    tracks = Tracks(wanted, np.ones((3, 5), bool))
    item = SimpleNamespace(files={} if mask is None else {"mask.png": "digest"}, mask=lambda: mask)
    return SimpleNamespace(tracks=tracks, usable=np.array(usable), edited=edited, tracker=Follower(rule), item=item)


def test_a_video_is_measured_by_its_points():
    frames = np.zeros((5, 64, 96, 3), np.uint8)

    def inside(place):
        return (45 < place[0]) & (place[0] < 55)

    right = trajectories.measure(frames, truth(lambda place, t: place + (4, 0) * t * inside(place)))
    assert right["ctd"] == right["objmc"] == pytest.approx(0, abs=1e-5)
    assert right["bg_obj_ctd"] == pytest.approx(4 * 2.5, rel=0.1), "a few cells in the middle go along"
    there = np.repeat(inside([np.arange(96)])[None], 64, axis=0)
    masked = trajectories.measure(frames, truth(lambda place, t: place + (4, 0) * t * inside(place), mask=there))
    assert masked["bg_obj_ctd"] == pytest.approx(4 * 2.5), "they are no background"
    held = trajectories.measure(frames, truth(lambda place, t: place + 0 * t))
    assert held["ctd"] == pytest.approx(2 / 3 * 10) and held["objmc"] == pytest.approx(2 / 3 * 8)
    assert held["bg_obj_ctd"] == pytest.approx(0)
    panned = trajectories.measure(frames, truth(lambda place, t: place + (4, 0) * t))
    assert panned["bg_obj_ctd"] == pytest.approx(0, abs=1e-4) and panned["ctd"] == pytest.approx(10 / 3)
    some = trajectories.measure(frames, truth(lambda place, t: place + 0 * t, (True, False, False)))
    assert some["ctd"] == pytest.approx(10)
    nothing = trajectories.measure(frames, truth(lambda place, t: place + 0 * t, (False, False, False)))
    assert all(math.isnan(value) for value in nothing.values())
