"""Operations that see in depth, against what a camera and a ball do, worked out point by point."""

import numpy as np
import pytest

from motionv2v import edits
from motionv2v.edits import document
from motionv2v.edits.fields import EditError
from motionv2v.tracks import from_arrays

SIZE, T, VIEW = (240, 320), 9, 60
FOCAL = 160 / np.tan(np.radians(30))
MIDDLE = np.array([160.0, 120.0])


def still(*places):
    return from_arrays(np.repeat(np.float64(places)[:, None], T, axis=1), np.ones((len(places), T), bool))


def filmed(source, move, **given):
    return edits.move_camera(source, size=SIZE, move=move, ease="linear", **given)


def test_a_pan_turns_each_line_of_sight_by_its_degrees():
    places = [(160, 120), (200, 120), (20, 120)]
    got = filmed(still(*places), "pan", degrees=16)
    for t in range(T):
        for n, (x, _) in enumerate(places):
            seen = np.arctan((x - 160) / FOCAL) - np.radians(16 * t / 8)
            np.testing.assert_allclose(got.xy[n, t], [160 + FOCAL * np.tan(seen), 120], atol=1e-3)


def test_what_each_motion_does_to_the_middle_and_to_a_corner():
    source, degrees = still(MIDDLE, MIDDLE + (40, 30)), 12
    shift = FOCAL * np.tan(np.radians(degrees))
    moved = lambda move, **given: filmed(source, move, **given).xy[:, -1] - MIDDLE  # noqa: E731
    np.testing.assert_allclose(moved("pan", degrees=degrees)[0], [-shift, 0], atol=1e-3)
    np.testing.assert_allclose(moved("tilt", degrees=degrees)[0], [0, shift], atol=1e-3)
    np.testing.assert_allclose(moved("roll", degrees=90), [[0, 0], [30, -40]], atol=1e-3)
    np.testing.assert_allclose(moved("truck", distance=0.2), np.array([[0, 0], [40, 30]]) - [0.2 * FOCAL, 0], atol=1e-3)
    np.testing.assert_allclose(moved("pedestal", distance=0.2)[0], [0, 0.2 * FOCAL], atol=1e-3)
    np.testing.assert_allclose(moved("dolly", distance=0.2), [[0, 0], [50, 37.5]], atol=1e-3)
    np.testing.assert_allclose(moved("zoom", distance=0.2), moved("dolly", distance=0.2), atol=1e-3)
    around = moved("orbit", degrees=degrees)
    np.testing.assert_allclose(around[0], [0, 0], atol=1e-3)  # it is looked at throughout
    x, z = 40 / FOCAL, 1 - np.cos(np.radians(degrees))  # the corner seen from a place on a circle about the middle
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    across, ahead = cos * (x - sin) + sin * (1 - z), cos * (1 - z) - sin * (x - sin)
    np.testing.assert_allclose(around[1], FOCAL * np.array([across, 30 / FOCAL]) / ahead, atol=1e-3)
    assert np.abs(moved("arc", degrees=degrees)).max() == pytest.approx(40, abs=1e-3), "and back in the end"
    arc = filmed(source, "arc", degrees=degrees).xy
    np.testing.assert_allclose(arc[:, 2] - MIDDLE, around, atol=1e-3)


def test_a_camera_moves_in_its_window_the_points_that_are_named():
    source = still((10, 10), (300, 200))
    got = filmed(source, "pan", points=[1], degrees=8, start_frame=2, end_frame=6)
    np.testing.assert_array_equal(got.xy[0], source.xy[0])
    np.testing.assert_array_equal(got.xy[1, :3], source.xy[1, :3])
    np.testing.assert_array_equal(got.xy[1, 6:], np.repeat(got.xy[1, 6:7], 3, axis=0))
    assert (np.diff(got.xy[1, 2:7, 0]) < -3).all()
    wider = filmed(source, "pan", points=[1], degrees=8, view=90)
    assert wider.xy[1, -1, 0] > filmed(source, "pan", points=[1], degrees=8).xy[1, -1, 0]


@pytest.mark.parametrize("move", ["zoom", "dolly"])
def test_a_window_of_the_first_frame_alone_is_a_step(move):
    got = filmed(still((100, 50)), move, distance=0.25, start_frame=0, end_frame=0)
    expected = MIDDLE + (np.array([100, 50]) - MIDDLE) / 0.75
    np.testing.assert_allclose(got.xy[0], np.broadcast_to(expected, (T, 2)), atol=1e-3)


def test_points_far_apart_are_on_a_ball_that_holds_them():
    source = still((0, 0), (1920, 1080))
    got = edits.spin(source, by=(100, 0))
    radius = np.hypot(960, 540) / 0.95
    depth = np.sqrt(radius**2 - 960**2 - 540**2)
    turned = -960 * np.cos(100 / radius) + depth * np.sin(100 / radius)
    np.testing.assert_allclose(got.xy[0, -1], [960 + turned, 0], atol=1e-2)


def test_a_ball_turns_and_hides_its_far_side():
    centre, radius = np.array([100.0, 80.0]), 40.0
    source = still(centre, centre + (24, 0), centre + (0, 32), centre + (60, 0))
    quarter = np.pi / 2 * radius
    got = edits.spin(source, by=(quarter, 0), radius=radius, center=centre, ease="linear")
    for t in range(T):
        angle = np.pi / 2 * t / 8
        np.testing.assert_allclose(got.xy[0, t], centre + [radius * np.sin(angle), 0], atol=1e-3)
        turned = 24 * np.cos(angle) + 32 * np.sin(angle), 32 * np.cos(angle) - 24 * np.sin(angle)  # along, towards us
        np.testing.assert_allclose(got.xy[1, t], centre + [turned[0], 0], atol=1e-3)
        assert got.visible[1, t] == (turned[1] >= 0)
        np.testing.assert_allclose(got.xy[2, t, 1], centre[1] + 32, atol=1e-3)
    assert not got.visible[1, -1] and got.visible[2].all()
    np.testing.assert_array_equal(got.xy[3], source.xy[3])  # no part of it
    whole = edits.spin(source, by=(0, 2 * np.pi * radius), radius=radius, center=centre)
    np.testing.assert_allclose(whole.xy[:, -1], source.xy[:, -1], atol=1e-3)


def test_a_ball_goes_along_with_its_points_and_holds_them_all():
    ring = 20 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    path = np.stack([np.linspace(50, 90, T), np.full(T, 60)], axis=-1)
    source = from_arrays(path[None] + ring[:, None], np.ones((5, T), bool))
    got = edits.spin(source, by=(6, 0))
    radius = 20 / 0.95
    np.testing.assert_allclose(got.xy[4, -1] - path[-1], [radius * np.sin(6 / radius), 0], atol=1e-3)
    assert got.xy[0, -1, 0] - path[-1, 0] < 20 / 0.95
    np.testing.assert_array_equal(edits.spin(source, by=(0, 0)).visible, source.visible)


@pytest.mark.parametrize(("operation", "message"), [
    ({"op": "move_camera", "move": "fly"}, "(move_camera).move: must be one of pan, tilt, roll"),
    ({"op": "move_camera"}, "(move_camera): needs the field 'move'"),
    ({"op": "move_camera", "move": "dolly", "distance": 1.5}, "point 0 is behind the camera in frame"),
    ({"op": "move_camera", "move": "zoom", "distance": 1}, "a zoom brings nothing nearer than its whole distance"),
    ({"op": "move_camera", "move": "pan", "boxes": {"0": [1, 1, 9, 9]}}, "(move_camera): unknown field 'boxes'"),
    ({"op": "move_camera", "move": "pan", "degrees": 400}, "degrees: must be from -180 to 180 degrees"),
    ({"op": "spin", "by": [5, 5], "radius": 0}, "radius: must be from 0.5 to 1000 pixels"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(operation, message):
    with pytest.raises(EditError) as caught:
        document.parse({"queries": [[0, 30, 30]], "operations": [operation]}).validate_against(SIZE, T)
    assert message in str(caught.value) and "\n" not in str(caught.value)
