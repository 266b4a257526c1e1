"""Bends are shifts of whatever path the points have: what is done before them, and to others with them, goes on."""

import copy
import json

import moving_square
import numpy as np
import pytest

from motionv2v.editing.session import Session
from motionv2v.edits import document

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def session(session):
    for x, y in ((X, Y), (X + 6, Y + 6)):
        session.add_point(0, x, y)
    return session


def off(session):
    """Return how far points are from where they were followed, [N T 2]."""
    return session.target().xy - session.source().xy


def assert_off(session, expected, point=0):
    np.testing.assert_allclose(off(session)[point, [0, 4, 8]], expected, atol=2e-3)


def test_a_bend_rides_on_what_is_done_before_it(session):
    drag = session.add_operation("drag", {"points": ["p1"], "by": [20, 0]})
    session.bend(["p1"], 4, 0, 10)
    bend = copy.deepcopy(session.project["operations"][1])
    assert_off(session, [(20, 0), (20, 10), (20, 0)])
    session.change_operation(drag, {"by": [40, 0]})
    assert_off(session, [(40, 0), (40, 10), (40, 0)])
    session.change_operation(drag, on=False)
    assert_off(session, [(0, 0), (0, 10), (0, 0)])
    session.change_operation(drag, on=True)
    session.remove_operation(drag)
    assert_off(session, [(0, 0), (0, 10), (0, 0)])
    assert session.project["operations"] == [bend]


def test_a_bend_rides_on_a_camera_too(session):
    camera = session.add_operation("move_camera", {"move": "truck", "distance": 0.1})
    before = off(session)
    assert np.abs(before[0, 8]).max() > 3
    session.bend(["p1"], 4, 0, 10)
    name, with_bend = session.project["operations"][1]["id"], off(session)
    np.testing.assert_allclose(with_bend[0, 4], before[0, 4] + (0, 10), atol=2e-3)
    session.change_operation(name, {"keep_motion": False})  # as places, for where they are now
    np.testing.assert_allclose(off(session)[0, [0, 4, 8]], with_bend[0, [0, 4, 8]], atol=0.1)
    session.undo()
    session.remove_operation(camera)
    assert_off(session, [(0, 0), (0, 10), (0, 0)])


def test_a_shift_goes_to_another_frame_as_it_is_whatever_is_said_beside_it(session):
    op = {"points": ["p1"], "by": {"0": [0, 0], "4": [1, 9]}, "keep_motion": True}
    made = session.add_operation("keyframes", op)
    session.move_key(made, 4, 6)
    assert session.project["operations"][0]["op"]["by"] == {"0": [0, 0], "6": [1, 9]}


def test_the_order_of_a_bend_and_a_drag_is_of_no_effect(session):
    session.bend(["p1"], 4, 0, 10)
    drag = session.add_operation("drag", {"points": ["p1"], "by": [20, 0], "start_frame": 2, "end_frame": 6})
    behind = session.target().xy
    session.move_operation(drag, 0)
    np.testing.assert_allclose(session.target().xy, behind, atol=1e-3)
    assert_off(session, [(0, 0), (10, 10), (20, 0)])


@pytest.mark.parametrize("taken", ["removed", "out of the bend"])
def test_a_point_that_leaves_a_bend_leaves_the_others_where_they_are(session, taken):
    session.bend(["p1", "p2"], 4, -3, 10)
    before = off(session)
    if taken == "removed":
        session.remove_points(["p2"])
    else:
        session.change_operation(session.project["operations"][0]["id"], {"points": ["p1"]})
        assert_off(session, np.zeros((3, 2)), point=1)
    np.testing.assert_array_equal(off(session)[0], before[0])


def test_a_point_that_joins_a_bend_is_shifted_as_the_others_are(session):
    session.bend(["p1"], 4, -3, 10)
    before = off(session)[0]
    session.change_operation(session.project["operations"][0]["id"], {"points": ["p1", "p2"]})
    np.testing.assert_array_equal(off(session)[0], before)
    np.testing.assert_allclose(off(session)[1], before, atol=2e-3)


def test_a_drawn_path_goes_along_with_what_is_done_before_it(session):
    x, y = session.source().xy[0, 2].tolist()
    name = session.draw_path(["p1"], 2, [[x + 4 * t, y + t * t, 100.0 * t] for t in range(7)], few=True)
    drawn = session.target().xy[0]
    drag = session.add_operation("drag", {"points": ["p1"], "by": [0, -15]})
    session.move_operation(drag, 0)
    np.testing.assert_allclose(session.target().xy[0], drawn + (0, -15), atol=1e-3)
    session.redraw_path(name, few=False)
    np.testing.assert_allclose(session.target().xy[0], drawn + (0, -15), atol=0.5)


def test_a_bend_of_an_older_project_means_what_it_meant_and_goes_on_so(session, tmp_path):
    """It is written as places that the points' motion goes on between."""
    path = session.source().xy[0].astype(float)
    keys = {str(t): (path[t] + way).tolist() for t, way in ((0, (0, 0)), (4, (5, 20)), (8, (0, 0)))}
    op = {"op": "keyframes", "points": ["p1"], "keyframes": keys, "keep_motion": True, "interpolation": "smooth"}
    name = session.add_operation("keyframes", {word: part for word, part in op.items() if word != "op"})
    again = Session(session.workspace)
    assert again.project["operations"][0]["op"] == op and again.edit_json()["operations"] == [op]
    assert again.offsets() == {name: {"0": [0, 0], "4": [5, 20], "8": [0, 0]}}
    spec = document.parse(again.edit_json()).validate_against((96, 128), 9)
    np.testing.assert_array_equal(spec.apply(again.source()).xy, again.target().xy)
    assert_off(again, [(0, 0), (5, 20), (0, 0)])
    again.bend(["p1"], 6, 0, 7)
    before, kept = off(again)[0], again.project["operations"][0]["op"]
    assert sorted(kept["keyframes"]) == ["0", "4", "6", "8"] and "by" not in kept
    again.fix("p1", 4, *(path[4] + (2, 1)).tolist())
    np.testing.assert_allclose(off(again)[0], before, atol=0.02)
    again.runs.close()


def test_a_bend_is_made_places_and_shifts_again_where_it_is(session):
    session.add_operation("drag", {"points": ["p1"], "by": [3, 0]})
    session.bend(["p1", "p2"], 4, 0, 10)
    name, keys = session.project["operations"][1]["id"], {"0": [0, 0], "4": [0, 10], "8": [0, 0]}
    assert session.offsets()[name] == session.project["operations"][1]["op"]["by"] == keys
    before = session.target().xy
    session.change_operation(name, {"keep_motion": False, "interpolation": "linear"})
    op = session.project["operations"][1]["op"]
    assert "by" not in op and "keep_motion" not in op and name not in session.offsets()
    np.testing.assert_allclose(session.target().xy[:, [0, 4, 8]], before[:, [0, 4, 8]], atol=2e-3)
    middle = session.target().xy.mean(axis=0)
    np.testing.assert_allclose(middle[2], (middle[0] + middle[4]) / 2, atol=2e-3)
    session.change_operation(name, {"keep_motion": True, "interpolation": "smooth"})
    np.testing.assert_allclose(session.target().xy, before, atol=3e-3)
    assert session.project["operations"][1]["op"].keys() == {"op", "points", "by", "interpolation"}
    kept = json.dumps(session.project)
    with pytest.raises(ValueError, match="is outside the allowed"):
        session.change_operation(name, {"by": {"4": [0, 999]}})
    with pytest.raises(ValueError, match="without keep_motion give keyframes"):
        session.change_operation(name, {"by": {"4": [0, 9]}, "keep_motion": False})
    assert json.dumps(session.project) == kept


def test_shifts_by_rows_are_written_by_frame_and_travel(session, tmp_path):
    name = session.add_operation("tween", {"points": "p1", "by": [[0, 0, 0], [4, 1, 9]], "ease": {"0": "in"}})
    assert session.project["operations"][0]["op"]["by"] == {"0": [0, 0], "4": [1, 9]}
    session.move_key(name, 4, 6)
    session.set_pace(["p1"], 2, pace="out")
    assert session.project["operations"][0]["op"]["ease"] == {"0": "out"}
    assert_off(session, [(0, 0), (8 / 9, 8), (1, 9)])
    session.remove_key(name, 0)
    assert_off(session, [(1, 9)] * 3)
    other = Session(tmp_path / "other")
    other.open_project(session.save_project(tmp_path / "kept.mv2v"))
    assert other.project["operations"] == session.project["operations"]
    other.runs.close()
