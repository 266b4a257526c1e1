"""Groups with lost points: the rigid ones stay rigid, whichever points are lost when, and it is said which."""

import numpy as np
import pytest

from motionv2v import edits, tracks
from motionv2v.edits import groups
from motionv2v.tracks import Tracks

N, T = 5, 24


def rigid(turn=0.0, zoom=0.0, seed=0):
    """Five points that move as one: along a curve, turning and growing by so much a frame."""
    shape = np.random.default_rng(seed).uniform(-60, 60, (N, 1, 2)) @ [[1], [1j]]
    times = np.arange(T)
    places = shape[..., 0] * np.exp((zoom + 1j * turn) * times) + 200 + 9 * times + 150j + 60j * np.sin(times / 4)
    return tracks.from_arrays(np.stack([places.real, places.imag], axis=-1))


def lose(tracks, visible):
    """Loses points as the tracker does: they stay where they were last (or, before that, are next) seen."""
    xy = tracks.xy.copy()
    for point, shown in enumerate(visible):
        frames = np.flatnonzero(shown)
        last = frames[np.clip(np.searchsorted(frames, np.arange(T), side="right") - 1, 0, None)]
        xy[point] = xy[point, last]
    return Tracks(xy, visible)


def random_losses(at_least, seed):
    rng = np.random.default_rng(seed)
    visible = rng.random((N, T)) < 0.5
    for frame in range(T):
        visible[rng.permutation(N)[:at_least], frame] = True
    return visible


EDITS = {
    "tween": lambda t: edits.tween(t, keyframes={2: (50, 80), 20: (300, 200)}, notify=str),
    "tween, keeping motion": lambda t: edits.tween(
        t, keyframes={2: (50, 80), 20: (9, 9)}, keep_motion=True, notify=str
    ),
    "scale": lambda t: edits.scale(t, factor=2, start_frame=3, end_frame=19, notify=str),
    "rotate": lambda t: edits.rotate(t, degrees=70, notify=str),
    "mirror": lambda t: edits.mirror(t, notify=str),
    "swap": lambda t: edits.swap(t, [0, 1, 2], [3, 4], by="center", notify=str),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("seed", range(3))
def test_a_group_that_moves_along_stays_whole_whichever_points_are_lost(name, seed):
    whole = rigid(seed=seed)
    visible = random_losses(1, seed)
    if name == "swap":
        visible[[0, 3]] = True  # each group keeps one of its points
    expected = EDITS[name](whole)
    got = EDITS[name](lose(whole, visible))
    np.testing.assert_allclose(got.xy, expected.xy, atol=2e-3)  # float32 at 500 px, and a group's centre from fewer
    np.testing.assert_array_equal(got.visible, visible)


@pytest.mark.parametrize("name", [name for name in EDITS if name != "swap"])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_that_turns_and_grows_stays_whole_too(name, seed):
    whole = rigid(0.08, 0.01, seed)
    got = EDITS[name](lose(whole, random_losses(2, seed)))
    np.testing.assert_allclose(got.xy, EDITS[name](whole).xy, atol=2e-2)  # as above; short arms magnify rounding


def test_one_lost_corner_does_not_tear_a_square():
    """Four corners of a square of 54 px move by 216 px; one is lost at once."""
    square = np.array([[0, 0], [54, 0], [54, 54], [0, 54]])[:, None] + 100.0
    whole = tracks.from_arrays(square + np.linspace(0, 216, T)[:, None] * [1, 0])
    visible = np.ones((4, T), bool)
    visible[2, 1:] = False
    lossy = Tracks(np.where(visible[..., None], whole.xy, whole.xy[:, :1]), visible)
    with pytest.warns(UserWarning, match=r"not visible: point 2 in frames 1-23; there the group goes as its visible"):
        got = edits.tween(lossy, keyframes={0: (127, 127), T - 1: (127, 327)})
    np.testing.assert_allclose(np.ptp(got.xy, axis=0), np.full((T, 2), 54), atol=1e-3)
    np.testing.assert_allclose(got.xy[:2].mean(axis=0)[-1], [127, 300], atol=1e-3)  # its upper edge


def test_points_that_are_never_seen_together_are_joined_by_those_between():
    """Each point is visible for a third of the clip; neighbours overlap by two frames."""
    whole = rigid()
    visible = np.zeros((N, T), bool)
    for point in range(N):
        visible[point, 4 * point : 4 * point + 8] = True
    np.testing.assert_allclose(groups.follow(lose(whole, visible), np.ones(N, bool)), whole.xy, atol=2e-3)


def test_a_lost_point_leaves_and_comes_back_without_a_jump():
    """One point of four moves on its own: over its gap its path goes from where it was to where it is."""
    rng = np.random.default_rng(0)
    still = rng.uniform(0, 100, (4, 1, 2)) + np.zeros((1, T, 1))
    still[3, :, 0] += 3 * np.arange(T)
    visible = np.ones((4, T), bool)
    visible[3, 6:15] = False
    got = groups.follow(lose(tracks.from_arrays(still), visible), np.ones(4, bool))
    assert np.linalg.norm(np.diff(got[3], axis=0), axis=-1).max() < 5
    np.testing.assert_array_equal(got[visible], still.astype(np.float32)[visible])


def test_nothing_is_made_up_where_nothing_is_lost_or_nothing_is_seen():
    whole = rigid()
    assert groups.follow(whole, np.ones(N, bool)) is whole.xy
    hidden = edits.hide(whole, [0, 1])
    np.testing.assert_array_equal(groups.follow(hidden, np.arange(N) < 2), whole.xy)
    # Nobody's point 0 counts for a group in which others are seen, and it keeps its own path.
    np.testing.assert_array_equal(groups.follow(hidden, np.ones(N, bool)), whole.xy)
    single = edits.hide(whole, [0], start_frame=4, end_frame=6)
    got = groups.follow(single, np.arange(N) == 0)
    np.testing.assert_allclose(got[0, 3:8], np.linspace(whole.xy[0, 3], whole.xy[0, 7], 5), atol=1e-3)


def test_uncamera_takes_visible_reference_points():
    """Reference points that pan with the camera; one of them is lost, and must not bend the frame."""
    whole = rigid()
    visible = np.ones((N, T), bool)
    visible[1, 5:] = False
    notices = []
    still, _ = edits.uncamera(lose(whole, visible), [0, 1, 2, 3], notify=notices.append)
    np.testing.assert_allclose(still.xy[visible], np.repeat(whole.xy[:, :1], T, axis=1)[visible], atol=1e-2)
    assert len(notices) == 1 and "point 1 in frames 5-23" in notices[0]


def test_lost_points_are_named_in_few_words():
    visible = np.ones((12, T), bool)
    visible[1, [3, 4, 5, 9]] = False
    visible[[4, 6], 7] = False
    tracks = Tracks(np.zeros((12, T, 2), np.float32), visible)
    assert groups.lost(tracks, names={"nose": 1}) == "point 1 (nose) in frames 3-5 and 9 and points 4 and 6 in frame 7"
    assert groups.lost(tracks, [0, 4]) == "point 4 in frame 7" and groups.lost(tracks, 0) == ""
    visible[:, ::2] = False
    text = groups.lost(tracks)
    assert text.startswith("points 0, 2, 3, 5, 7, 8, 9 and 2 more in frames 0, 2, 4, 6, 8, 10, 12 and 5 more")
    assert "\n" not in text and len(text) < 300
