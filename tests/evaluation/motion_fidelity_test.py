"""Motion fidelity against a slow loop, its modes, and what nothing can be said of."""

import numpy as np
import pytest

from motionv2v.evaluation.motion_fidelity import LEAST, STILL, consistency, histogram_overlap, motion_fidelity
from motionv2v.tracks import Tracks


def walks(num, frames=7, seed=0):
    rng = np.random.default_rng(seed)
    xy = np.cumsum(rng.normal(0, 2, (num, frames, 2)), axis=1)
    xy[0] = xy[0, :1]  # one that rests
    return Tracks(xy, rng.random((num, frames)) < 0.8)


def by_loop(rows, columns):
    """The mean over rows of the best cosine with a column, over the frames in which the row is seen and moves."""
    best = []
    for a, seen_a in zip(rows.xy, rows.visible, strict=True):
        steps = [
            t for t in range(len(a) - 1) if seen_a[t] and seen_a[t + 1] and np.linalg.norm(a[t + 1] - a[t]) > STILL
        ]
        if len(steps) < LEAST:
            continue
        found = []
        for b, seen_b in zip(columns.xy, columns.visible, strict=True):
            cosines = []
            for t in steps:
                u, v = a[t + 1] - a[t], b[t + 1] - b[t]
                moves = seen_b[t] and seen_b[t + 1] and np.linalg.norm(v) > STILL
                cosines.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v) if moves else 0.0)
            found.append(np.mean(cosines))
        best.append(max(found))
    return np.mean(best)


def test_both_halves_are_those_of_a_loop():
    source, made = walks(6, seed=1), walks(9, seed=2)
    halves = by_loop(made, source), by_loop(source, made)
    assert motion_fidelity(source, made, "sum") == pytest.approx(sum(halves))
    assert motion_fidelity(source, made) == pytest.approx(sum(halves) / 2)
    assert motion_fidelity(made, source) == pytest.approx(sum(halves) / 2), "it has no side"


def test_the_same_motion_is_one_and_the_opposite_is_not():
    xy = np.stack([np.arange(8.0), 0 * np.arange(8.0)], -1)[None] + np.arange(5.0)[:, None, None]
    right = Tracks(xy, np.ones((5, 8), bool))
    other_size = Tracks(3 * xy[:, :, ::1] + 100, right.visible)
    left = Tracks(-xy, right.visible)
    assert motion_fidelity(right, right) == pytest.approx(1)
    assert motion_fidelity(right, other_size) == pytest.approx(1), "how fast is not asked"
    assert motion_fidelity(right, left) == pytest.approx(-1)
    assert motion_fidelity(right, right, "sum") == pytest.approx(2)
    # All tracks go alike, so that each finds another one that the identity was not taken from.
    assert motion_fidelity(right, right, "dmt_code") == pytest.approx(1)
    alone = Tracks(xy[:1], right.visible[:1])
    assert motion_fidelity(alone, alone, "dmt_code") == pytest.approx(0)


def test_a_track_that_is_seen_for_a_moment_agrees_for_a_moment():
    """One frame in common is no agreement in the other six."""
    source = walks(1, 8, 3)
    source.visible[:] = True
    source.xy[0] = np.cumsum(np.ones((8, 2)), axis=0)
    made = Tracks(source.xy.copy(), source.visible.copy())
    made.visible[0, 2:] = False
    assert np.isnan(motion_fidelity(source, made, "sum")), "a single step says nothing"
    made.visible[0, 2:4] = True
    assert motion_fidelity(source, made, "sum") == pytest.approx(3 / 7 + 1)


def test_more_tracks_find_better_matches():
    """Why the number of tracks belongs to the result."""
    few, many = (motion_fidelity(walks(n, 9, 1), walks(n, 9, 2)) for n in (5, 200))
    assert few + 0.15 < many


def test_what_rests_or_hides_says_nothing():
    still = Tracks(np.zeros((4, 6, 2)), np.ones((4, 6), bool))
    assert np.isnan(motion_fidelity(still, walks(5, 6)))
    hidden = Tracks(walks(5, 6).xy, np.zeros((5, 6), bool))
    assert np.isnan(motion_fidelity(hidden, walks(5, 6)))
    one = Tracks(np.zeros((3, 1, 2)), np.ones((3, 1), bool))
    assert np.isnan(motion_fidelity(one, one))
    with pytest.raises(ValueError, match="have 6 and 7 frames"):
        motion_fidelity(still, walks(3, 7))
    with pytest.raises(ValueError, match=r"'median'.*mean, sum, dmt_code"):
        motion_fidelity(still, still, "median")


def test_colours_in_common():
    red, blue = (np.zeros((2, 4, 4, 3), np.uint8) for _ in range(2))
    red[..., 0], blue[..., 2] = 200, 200
    half = np.concatenate([red[:1], blue[:1]])
    assert histogram_overlap(red, red) == 1 and histogram_overlap(red, blue) == 0
    assert histogram_overlap(red, half) == pytest.approx(0.5)


def test_consistency_of_pairs_and_of_neighbours():
    features = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert consistency(features) == {"consecutive": 0, "all_pairs": pytest.approx(1 / 3)}
    assert consistency(np.ones((3, 2)))["all_pairs"] == pytest.approx(1)
    assert np.isnan(consistency(features[:1])["consecutive"])
