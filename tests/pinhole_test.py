"""The pinhole camera: what each motion must leave alone, and what hides what."""

import numpy as np
import pytest

from motionv2v import pinhole

FOCAL, CENTRE, SIZE = 80.0, np.array([48.0, 32.0]), (64, 96)
SHARE = pinhole.law(9)


def world(seed=0, num=30):
    rng = np.random.default_rng(seed)
    xy, depth = rng.uniform((0, 0), (96, 64), (num, 2)), rng.uniform(2, 6, num)
    return xy, depth, pinhole.unproject(xy, depth, FOCAL, CENTRE)


def test_points_are_seen_again_where_they_were_taken_from():
    xy, depth, points = world()
    found, depths = pinhole.project(points, pinhole.pan(SHARE, 20, FOCAL, CENTRE))
    np.testing.assert_allclose(found[:, 0], xy, atol=1e-9)
    np.testing.assert_allclose(depths[:, 0], depth)


def test_projection_is_that_of_a_loop():
    *_, points = world()
    path = pinhole.orbit(SHARE, 40, (0, 0, 4), FOCAL, CENTRE).then(pinhole.dolly(SHARE, 0.5, FOCAL, CENTRE))
    found, depths = pinhole.project(points, path)
    for n in (0, 7, 29):
        for t in (0, 4, 8):
            x, y, z = path.rotations[t] @ (points[n] - path.positions[t])
            np.testing.assert_allclose(depths[n, t], z)
            np.testing.assert_allclose(found[n, t], (FOCAL * x / z + 48, FOCAL * y / z + 32))


MOTIONS = {
    # which way a point straight ahead goes in the picture, or none
    "orbit": (lambda: pinhole.orbit(SHARE, 30, (0, 0, 4), FOCAL, CENTRE), (0, 0)),
    "arc": (lambda: pinhole.arc(SHARE, 30, (0, 0, 4), FOCAL, CENTRE), (0, 0)),
    "pan": (lambda: pinhole.pan(SHARE, 10, FOCAL, CENTRE), (-1, 0)),
    "tilt": (lambda: pinhole.tilt(SHARE, 10, FOCAL, CENTRE), (0, 1)),
    "truck": (lambda: pinhole.truck(SHARE, 0.5, FOCAL, CENTRE), (-1, 0)),
    "pedestal": (lambda: pinhole.pedestal(SHARE, 0.5, FOCAL, CENTRE), (0, 1)),
    "dolly": (lambda: pinhole.dolly(SHARE, 1.0, FOCAL, CENTRE), (0, 0)),
    "roll": (lambda: pinhole.roll(SHARE, 30, FOCAL, CENTRE), (0, 0)),
}


@pytest.mark.parametrize("name", MOTIONS)
def test_a_point_straight_ahead_goes_where_the_motion_sends_it(name):
    make, way = MOTIONS[name]
    path = make()
    np.testing.assert_allclose(
        path.rotations @ path.rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (9, 3, 3)), atol=1e-12
    )
    xy, _ = pinhole.project(np.array([[0.0, 0.0, 4.0]]), path)
    gone = xy[0, -1] - xy[0, 0]
    np.testing.assert_allclose(np.sign(np.where(np.abs(gone) < 1e-9, 0, gone)), way)
    if not any(way):
        np.testing.assert_allclose(xy[0], np.broadcast_to(CENTRE, (9, 2)), atol=1e-9)


def test_an_orbit_keeps_its_distance_and_an_arc_comes_back():
    pivot = np.array([0.5, -0.3, 4.0])
    path = pinhole.orbit(SHARE, 50, pivot, FOCAL, CENTRE)
    np.testing.assert_allclose(np.linalg.norm(path.positions - pivot, axis=-1), np.linalg.norm(pivot))
    assert path.positions[-1, 0] > 1  # to the right
    seen, _ = pinhole.project(pivot[None], path)
    np.testing.assert_allclose(seen[0], np.broadcast_to((58, 26), (9, 2)), atol=1e-9)  # where it was seen at first
    path = pinhole.arc(pinhole.law(9, "linear"), 50, pivot, FOCAL, CENTRE)
    np.testing.assert_allclose(path.positions[[0, 4, 8]], 0, atol=1e-9)
    np.testing.assert_allclose(path.positions[2, 0], -path.positions[6, 0], atol=1)
    assert path.positions[2, 0] > 1 > -1 > path.positions[6, 0]


def test_a_dolly_brings_things_nearer_and_a_roll_turns_the_picture_the_other_way():
    right = np.array([[1.0, 0.0, 4.0]])
    xy, depth = pinhole.project(right, pinhole.dolly(SHARE, 2.0, FOCAL, CENTRE))
    np.testing.assert_allclose(depth[0, -1], 2)
    np.testing.assert_allclose(xy[0, -1] - CENTRE, 2 * (xy[0, 0] - CENTRE))
    xy, _ = pinhole.project(right, pinhole.roll(SHARE, 90, FOCAL, CENTRE))
    np.testing.assert_allclose(xy[0, -1] - CENTRE, (0, -20), atol=1e-9)


def test_a_dolly_zoom_keeps_the_subjects_size_and_nothing_elses():
    path = pinhole.dolly_zoom(SHARE, 1.5, 4.0, FOCAL, CENTRE)
    for depth, is_subject in ((4.0, True), (8.0, False)):
        xy, _ = pinhole.project(np.array([[-1.0, 0.0, depth], [1.0, 0.5, depth]]), path)
        size = np.linalg.norm(xy[1] - xy[0], axis=-1)
        assert np.allclose(size, size[0]) == is_subject
    with pytest.raises(ValueError, match="by 4 passes its subject, which is at a depth of 4"):
        pinhole.dolly_zoom(SHARE, 4.0, 4.0, FOCAL, CENTRE)


def test_what_is_under_the_mouse_stays_under_it():
    places = np.random.default_rng(0).uniform(10, 50, (9, 2))
    point = pinhole.unproject(places[:1], np.array([3.0]), FOCAL, CENTRE)
    xy, _ = pinhole.project(point, pinhole.follow_mouse(places, 3.0, FOCAL, CENTRE))
    np.testing.assert_allclose(xy[0], places, atol=1e-9)


def test_paths_are_composed_in_order():
    """Turned to the right by a quarter, forward is the world's right."""
    turn = pinhole.pan(np.ones(2), 90, FOCAL, CENTRE)
    path = turn.then(pinhole.dolly(np.ones(2), 2.0, FOCAL, CENTRE))
    np.testing.assert_allclose(path.positions, [[2, 0, 0]] * 2, atol=1e-12)
    path = pinhole.dolly(np.ones(2), 2.0, FOCAL, CENTRE).then(turn)
    np.testing.assert_allclose(path.positions, [[0, 0, 2]] * 2, atol=1e-12)
    with pytest.raises(ValueError, match="paths of 2 and 9 frames"):
        turn.then(pinhole.pan(SHARE, 1, FOCAL, CENTRE))


def test_a_near_plane_hides_a_far_one():
    """A wall at depth 4 behind a post at depth 2: of the wall, what the post covers is hidden, and the post is seen."""
    columns, rows = np.meshgrid(np.arange(96) + 0.5, np.arange(64) + 0.5)
    xy = np.stack([columns, rows], -1).reshape(-1, 2)
    is_post = (xy[:, 0] > 40) & (xy[:, 0] < 56)
    both = np.concatenate([xy, xy[is_post]])
    depth = np.concatenate([np.full(len(xy), 4.0), np.full(is_post.sum(), 2.0)])
    visible = pinhole.unhidden(both[:, None], depth[:, None], SIZE)[:, 0]
    assert visible[len(xy) :].all()
    wall = visible[: len(xy)]
    assert not wall[is_post].any()
    near_post = (xy[:, 0] > 35) & (xy[:, 0] < 61)
    assert wall[~near_post].all()


def test_what_is_behind_the_camera_or_outside_is_not_visible():
    path = pinhole.dolly(np.linspace(0, 1, 3), 5.0, FOCAL, CENTRE)
    xy, depth = pinhole.project(np.array([[0.0, 0.0, 4.0], [3.0, 0.0, 4.0]]), path)
    assert np.isfinite(xy).all() and depth[0].tolist() == [4.0, 1.5, -1.0]
    assert pinhole.unhidden(xy, depth, SIZE).tolist() == [[True, True, False], [False, False, False]]


def test_laws_go_from_nothing_to_all():
    for name in pinhole.LAWS:
        share = pinhole.law(11, name)
        assert share[0] == 0 and share[-1] == pytest.approx(1) and (np.diff(share) > 0).all()
    assert pinhole.law(11, "exponential")[5] == pytest.approx((1 - np.exp(-1.5)) / (1 - np.exp(-3)))
    assert pinhole.law(1).tolist() == [0]
    with pytest.raises(ValueError, match="unknown time law 'fast'; available: linear, smooth, exponential"):
        pinhole.law(3, "fast")
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        pinhole.law(3, "exponential", 0)
