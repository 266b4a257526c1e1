"""What is taken ready-made on the page: a grid and a ball about a point, cameras; in Python and in Chromium."""

import json
import math

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v.editing.presets import CAMERAS

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def test_every_camera_moves_what_is_seen_its_own_way_in_one_step(session):
    before = json.dumps(session.project)
    # Where the frame's middle goes, and whether what is beside it comes nearer to it, both as a camera that moves so.
    ways = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}
    for preset in CAMERAS:
        session.move_camera(preset)
        assert session.state()["undo"][-1] == f"Camera: {preset}"
        assert [group["name"] for group in session.project["groups"]] == ["background"]
        start, end = (np.float64(of.xy)[:, -1] for of in (session.source(), session.target()))
        np.testing.assert_allclose(session.target().xy[:, 0], session.source().xy[:, 0], atol=1e-3)
        moved, kind, way = end - start, *preset.partition(" ")[::2]
        if kind in ("pan", "tilt", "truck", "pedestal"):
            assert (moved @ np.array(ways[way]) > 2).all(), preset
        elif way in ("in", "out"):
            away = [np.linalg.norm(each - (64, 48), axis=1) for each in (start, end)]
            assert ((away[1] - away[0]) * (1 if way == "in" else -1) > 0).all(), preset
        elif kind == "roll":
            turned = np.cross(start - (64, 48), moved)
            assert (turned * (-1 if way == "right" else 1) > 0).all(), preset
        else:  # about the middle of what is seen
            middle = np.linalg.norm(start - (64, 48), axis=1).argmin()
            assert np.linalg.norm(moved[middle]) < 2 < np.abs(session.target().xy - session.source().xy).max(), preset
            if kind == "orbit":  # the side that the camera goes to comes nearer, and so away from the middle
                corner = (start @ ((1 if way == "right" else -1), 1)).argmax()
                assert moved[corner, 1] > 0.2, preset
        session.undo()
        assert json.dumps(session.project) == before
    with pytest.raises(ValueError, match="there is no camera 'up'; there are pan left, pan right"):
        session.move_camera("up")


def test_a_second_camera_takes_the_points_that_are_there_and_the_draft_turns_with_it(session):
    session.move_camera("pan right")
    count = len(session.project["points"])
    session.move_camera("tilt up")
    assert len(session.project["points"]) == count and len(session.project["operations"]) == 2
    session.undo()
    moved = session.target().xy[:, -1] - session.source().xy[:, -1]
    shift = np.median(moved, axis=0)
    first, drawn = session.clip.frames[8].astype(float), session.draft_frame(8).astype(float)
    dx = round(float(shift[0]))
    assert dx < -5
    inside = np.s_[20:-20, 40:80]
    apart = [np.abs(drawn[inside] - first[20:-20, 40 - x : 80 - x]).mean() for x in (dx, 0)]
    assert apart[0] < 0.6 * apart[1], apart


def test_things_in_two_corners_are_no_background(session):
    session.add_point(0, 4.0, 4.0)
    session.add_point(0, 124.0, 92.0)
    for name in ("p1", "p2"):
        session.bend([name], 8, 3, 3)
    session.move_camera("pan right")
    assert [group["name"] for group in session.project["groups"]] == ["background"]
    assert session._check(session.project).divide().camera


def test_a_grid_about_a_point_is_a_group_that_is_dragged_together(session):
    session.add_point(0, X, Y)
    made = session.add_grid("p1", 4, side=3, spacing=6)
    (group,) = session.project["groups"]
    assert group["id"] == made and group["name"] == "grid p1" and len(group["points"]) == 9
    at = np.array([session.source().xy[0, 4]])
    found = np.sort(np.round(session.source().xy[:, 4] - at), axis=0)
    np.testing.assert_allclose(found, np.repeat([[-6], [0], [6]], 3, axis=0) * [1, 1], atol=1)
    session.bend([made], 8, 0, 12)
    moved = session.target().xy[:, 8] - session.source().xy[:, 8]
    np.testing.assert_allclose(moved, np.broadcast_to((0, 12), moved.shape), atol=0.1)
    session.undo()
    session.undo()
    assert [point["id"] for point in session.project["points"]] == ["p1"]
    for given, why in (({"side": 1}, "2 to 15 points along a side"), ({"spacing": 0}, "from 0.5 to 1000 pixels apart")):
        with pytest.raises(ValueError, match=why):
            session.add_grid("p1", 0, **given)
    with pytest.raises(ValueError, match="there is no frame 40"):
        session.add_grid("p1", 40)
    with pytest.raises(ValueError, match="there is no point 'p7'"):
        session.add_grid("p7", 0)
    with pytest.raises(ValueError, match="inside the frame"):
        session.add_grid("p1", 0, side=2, spacing=900)


def test_a_ball_about_a_point_turns_to_the_right_until_its_points_are_behind(session):
    session.add_point(0, X, Y)
    made = session.add_ball("p1", 0, radius=9, points=12)
    (operation,) = session.project["operations"]
    assert (
        operation["id"] == made
        and operation["label"] == "spin ball p1"
        and session.state()["undo"][-1].startswith("Turn")
    )
    assert abs(len(operation["op"]["points"]) - 12) <= 2, "as many as were asked for, and the point itself"
    moved = session.target().xy[0] - session.source().xy[0]
    assert moved[0].tolist() == [0, 0] and abs(moved[-1, 0] - 9 * math.sin(1)) < 1.5 and abs(moved[-1, 1]) < 1
    session.change_operation(made, {"by": [9 * math.pi / 2, 0]})
    seen = session.target().visible & session.source().visible
    assert seen[:, 0].sum() > seen[:, -1].sum() > 0, "half of them are on the far side"
    session.undo()
    session.undo()
    assert len(session.project["points"]) == 1 and not session.project["operations"]


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_a_camera_and_a_grid_are_chosen_on_the_page(browser, session, address):
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    page = Page(browser, address, viewport={"width": 1280, "height": 1000})
    assert page.main.locator("#camera option").all_text_contents() == list(CAMERAS), "before there is any point"
    page.main.locator("#camera").select_option("pan right")
    page.button("Move the camera").click()
    page.wait("document.querySelectorAll('#operations > li').length === 1")
    operation = session.project["operations"][0]
    assert operation["op"] == {"op": "move_camera", "move": "pan", "degrees": 10}
    page.button("camera: pan right", exact=True).click()
    degrees = page.main.locator("#operations .fields").get_by_label("degrees", exact=True)
    degrees.fill("-4")
    degrees.press("Enter")
    page.wait("document.getElementById('undo').title.startsWith('Change camera')")
    assert session.project["operations"][0]["op"]["degrees"] == -4
    page.there("draft", 0)
    for _ in range(2):
        page.main.locator("#undo").click()
    page.wait("document.querySelectorAll('#operations > li').length === 0")
    session.add_point(0, X, Y)
    page.page.reload()
    page.ready()
    page.button("Select p1").click()
    page.main.get_by_text("More points about it").click()
    planned = page.main.evaluate("import('/static/presets.js').then((presets) => presets.preview().dots)")
    np.testing.assert_allclose(planned[0], [X - 12, Y - 12], atol=0.5)
    page.main.locator("#grid-spacing").fill("5")
    page.button("Add a grid").click()
    page.main.locator("#points .group").wait_for()
    assert page.main.locator("#selection-says").inner_text() == "9 points", "they are dragged together"
    named = sorted((point["x"] - X, point["y"] - Y) for point in session.project["points"])
    np.testing.assert_allclose(named, [(x, y) for x in (-5, 0, 5) for y in (-5, 0, 5)], atol=0.1)
    assert not page.errors
    page.context.close()
    until(lambda: not session.is_getting_ready())


def test_what_is_boxed_behind_a_camera_is_a_thing_that_the_camera_sees(session):
    session.move_camera("zoom in")
    session.add_point(0, X, Y)
    name = session.project["points"][-1]["id"]
    session.set_box([name], 0, [X - 10, Y - 10, X + 10, Y + 10])
    camera, held = (each["op"] for each in session.project["operations"])
    assert "boxes" not in camera and held["points"] == [name] and list(held["boxes"]) == ["0"]
    assert [each["points"] for each in session.things()] == [[name]]
