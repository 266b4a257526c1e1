"""Paths on the editor page while a hand is at them, in a real Chromium: what is shown is what the session makes."""

import json

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v.edits import selection
from motionv2v.tracks import Tracks

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1280, "height": 1100}
CLOSE = 0.05
"""Pixels between what the page draws and what the session has."""
GHOSTS = """import("/static/ghosts.js").then(({ ghost }) =>
    import("/static/session.js").then(({ state }) => state.project.points.map((_, row) => ghost(row))))"""

DRAGGED = """(drags) => Promise.all([import("/static/ghosts.js"), import("/static/session.js")]).then(
    ([{ changes, ghost }, { state, view }]) => drags.map((drag) => {
        view.drag = drag;
        const all = changes();
        view.drag = null;
        return state.project.points.map((_, row) => ghost(row, all));
    }))"""

LOOKS = """() => import("/static/ghosts.js").then(({ changes }) => {
    const own = Array.prototype.some;
    let count = 0;
    Array.prototype.some = function (...given) { return (count += 1), own.apply(this, given); };
    changes();
    Array.prototype.some = own;
    return count;
})"""


def opened(browser, session, address, select=("p1",)):
    """Open a page on what the session has, with points selected."""
    page = Page(browser, address, viewport=SIZE)
    page.points(len(session.project["points"]))
    for count, name in enumerate(select):
        page.main.get_by_role("button", name=f"{name}, from frame 0").click(modifiers=["Control"] if count else [])
    return page


def go(page, frame):
    page.page.locator("body").press("Home")
    for _ in range(frame):
        page.page.keyboard.press(".")
    page.wait(f"document.getElementById('where').textContent === '{frame} / 8'")


def test_keyframes_and_windows_are_gone_along_as_in_the_session(browser, session):
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for _ in range(1000):
        length = int(rng.integers(1, 60))
        frames = np.sort(rng.choice(length, rng.integers(1, min(length, 9) + 1), replace=False))
        values = rng.normal(0, 100, (len(frames), 2))
        interpolation = str(rng.choice(["linear", "smooth"]))
        words = rng.choice(list(selection.PACES), len(frames)).tolist()
        ease = words[0] if rng.random() < 0.3 else dict(zip(frames.tolist(), words, strict=True))
        weights = selection.key_weights(frames, length, interpolation, ease)
        keys = dict(zip(map(str, frames.tolist()), values.tolist(), strict=True))
        cases.append(
            [keys, length, interpolation, ease if isinstance(ease, str) else {str(k): w for k, w in ease.items()}]
        )
        expected.append(weights @ values)
    page = served_page.unserved(browser, session)  # what is worked out on the page needs no server
    between = "(cases) => import('/static/curves.js').then((curves) => cases.map((each) => curves.between(...each)))"
    found = page.page.evaluate(between, cases)
    assert max(np.abs(np.subtract(*pair)).max() for pair in zip(found, expected, strict=True)) < 1e-6
    tracks = session.source()
    windows = [(0, 0), (3, 3), (0, 8), (2, 7)]
    ramp = "(cases) => import('/static/curves.js').then((curves) => cases.map((each) => curves.ramp(...each)))"
    found = page.page.evaluate(ramp, [[*window, 9] for window in windows])
    np.testing.assert_allclose(found, [selection.ramp(tracks, *window, "smooth") for window in windows], atol=1e-9)
    page.context.close()


def single(session):
    session.add_point(0, X, Y)


def bent(session):
    single(session)
    session.bend(["p1"], 2, 5, 9)
    session.bend(["p1"], 6, -4, 12)


def eased(session):
    bent(session)
    session.change_operation(session.project["operations"][0]["id"], {"ease": {"0": "in", "2": "hold", "6": "out"}})


def straight(session):
    bent(session)
    session.change_operation(session.project["operations"][0]["id"], {"interpolation": "linear", "ease": "in-out"})


def behind_others(session):
    """A bend of both points, and then another of one of them: it is a new one."""
    single(session)
    session.add_point(0, X + 6, Y + 6)
    session.add_operation("drag", {"points": ["p1", "p2"], "by": [9, 0]})
    session.bend(["p1", "p2"], 3, 5, 9)


def lost_in_part(session):
    """A group that loses one of its points: where it is lost it is shifted as the others are."""
    behind_others(session)
    session.set_visible(["p2"], 3, 6, False)
    session.remove_operation(session.project["operations"][1]["id"])


def older(session):
    """A bend as older projects have it, by places; and what is done before it is undone at its keyframes."""
    single(session)
    path = session.source().xy[0].astype(float)
    keys = {str(t): (path[t] + way).tolist() for t, way in ((0, (0, 0)), (3, (5, 9)), (8, (0, 0)))}
    session.add_operation(
        "keyframes", {"points": ["p1"], "keyframes": keys, "keep_motion": True, "interpolation": "smooth"}
    )


def riding(session):
    """A bend of a group, before which one of its points is moved, and then taken out of it and put back."""
    single(session)
    session.add_point(0, X + 6, Y + 6)
    session.bend(["p1", "p2"], 3, 5, 9)
    drag = session.add_operation("drag", {"points": ["p2"], "by": [9, -7], "start_frame": 2, "end_frame": 5})
    session.move_operation(drag, 0)
    bend = session.project["operations"][1]["id"]
    session.change_operation(bend, {"points": ["p1"]})
    session.change_operation(bend, {"points": ["p1", "p2"], "ease": {"3": "in-out"}})


def posed(session):
    """A group that is scaled and turned: a bend behind that is the same one still."""
    behind_others(session)
    session.scale_points(["p1", "p2"], 4, 1.5)
    session.rotate_points(["p1", "p2"], 0, 30)


@pytest.mark.parametrize("made", [single, bent, eased, straight, older, behind_others, riding, lost_in_part, posed])
def test_the_path_that_is_shown_while_it_is_bent_is_the_one_that_it_will_have(browser, session, address, made):
    made(session)
    names = [point["id"] for point in session.project["points"]]
    page = opened(browser, session, address, select=names)
    before = len(session.state()["undo"])
    for turn, (frame, way) in enumerate([(4, (7, 20)), (8, (-6, -9))], 1):
        go(page, frame)
        x, y = session.target().xy[0, frame].tolist()
        page.page.mouse.move(*page.at(session, x, y))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, x + way[0], y + way[1]), steps=6)
        ghosts = np.array(page.page.evaluate(GHOSTS))
        page.page.mouse.up()
        page.steps(session, before + turn)
        found = session.target().xy
        away = np.abs(ghosts - found).max(axis=-1)
        assert away.max() < CLOSE, (frame, away)
        assert np.linalg.norm(found[0, frame] - (x, y)) > 5, "it was bent"
        assert made is not posed or len(session.project["operations"]) == 4
        assert made is not riding or len(session.project["operations"]) == 2
        np.testing.assert_allclose(page.page.evaluate(GHOSTS), found, atol=0.02)
    assert page.errors == []
    page.context.close()


def test_1000_drags_are_shown_as_the_session_does_them(browser, session, monkeypatch):
    riding(session)
    other = session.add_point(0, 100, 80)
    session.set_visible([other], 3, 6, False)
    session.bend([other], 2, 4, -4)
    session.scale_points(both := ["p1", "p2"], 4, 1.3)
    rng, drags = np.random.default_rng(0), []
    for _ in range(1000):
        frame, kind = int(rng.integers(9)), str(rng.choice(["", "", "scale", "rotate"]))
        several = [both] if kind else [["p1"], ["p2"], [other], both, ["p1", other], [*both, other]]
        drag = {"names": several[rng.integers(len(several))], "frame": frame}
        if kind:
            word, value = ("factor", rng.uniform(0.4, 2.5)) if kind == "scale" else ("degrees", rng.uniform(-200, 200))
            drags.append(drag | {"kind": kind, word: float(value)})
        else:
            drags.append(drag | dict(zip(("dx", "dy"), rng.uniform(-30, 30, 2).tolist(), strict=True)))
    page = served_page.unserved(browser, session)
    ghosts = page.page.evaluate(DRAGGED, drags)
    page.context.close()
    monkeypatch.setattr(session, "_save", lambda event=None: None)  # it is undone at once
    do = {None: session.bend, "scale": session.scale_points, "rotate": session.rotate_points}
    before, away = session.target().xy, []
    for drag, ghost in zip(drags, ghosts, strict=True):
        do[drag.get("kind")](**{word: value for word, value in drag.items() if word != "kind"})
        away.append(np.abs(session.target().xy - ghost).max())
        session.undo()
    np.testing.assert_array_equal(session.target().xy, before)
    assert max(away) <= CLOSE, drags[int(np.argmax(away))]


def project_of(session):
    return json.dumps(session.project, sort_keys=True)


def test_an_ease_is_seen_before_it_is_chosen_and_left_by_escape(browser, session, address):
    bent(session)
    session.add_operation("keyframes", {"points": ["p1"], "keyframes": {"1": [30, 30], "5": [70, 60], "8": [90, 30]}})
    page = opened(browser, session, address)
    menu = page.page.locator("#menu")
    go(page, 3)
    before, was = project_of(session), np.array(page.page.evaluate(GHOSTS))
    lane, widths = page.page.locator(".track").bounding_box(), 9
    at = lane["x"] + lane["width"] * 3.5 / widths, lane["y"] + lane["height"] / 2
    page.page.mouse.dblclick(*at)
    menu.get_by_text("From keyframe 1 to 5").wait_for()
    page.page.get_by_role("menuitemradio", name="In slow at first").hover()
    # Both operations have a way at frame 3: what is chosen is said of both.
    until(lambda: np.abs(page.page.evaluate(GHOSTS) - was).max() > 1)
    tried = np.array(page.page.evaluate(GHOSTS))
    assert project_of(session) == before, "hovering keeps nothing"
    page.page.keyboard.press("Escape")
    menu.wait_for(state="hidden")
    np.testing.assert_array_equal(page.page.evaluate(GHOSTS), was)
    assert project_of(session) == before and page.page.locator("#selection-says").inner_text() == "p1"
    page.page.mouse.dblclick(*at)
    held = []
    page.page.route("**/api/do", lambda route: held.append(route))
    page.page.get_by_role("menuitemradio", name="In slow at first").click()
    while not held:
        page.page.wait_for_timeout(20)
    np.testing.assert_array_equal(page.page.evaluate(GHOSTS), tried, "it stays until the session answers")
    held[0].continue_()
    page.page.unroute("**/api/do")
    page.steps(session, 6)
    np.testing.assert_allclose(tried, session.target().xy, atol=CLOSE)
    assert session.state()["undo"][-1] == "Ease p1 at 3"

    page.page.locator("#source").focus()
    page.page.keyboard.press("e")  # all of it by keys, from what is there now
    for _ in range(3):
        assert page.page.evaluate("document.activeElement.getAttribute('role')") == "menuitemradio"
        page.page.keyboard.press("ArrowDown")
    tried = np.array(page.page.evaluate(GHOSTS))
    assert "Hold" in page.page.evaluate("document.activeElement.textContent")
    page.page.keyboard.press("Enter")
    page.steps(session, 7)
    held = session.target().xy[0]
    np.testing.assert_allclose(tried[0], held, atol=CLOSE)
    np.testing.assert_allclose(held[1:5], [(30, 30)] * 4, atol=0.01)
    np.testing.assert_allclose(held[5], (70, 60), atol=0.01)
    assert page.page.evaluate("document.activeElement.id") == "source", "the focus is where it was"
    assert page.errors == []
    page.context.close()


def test_handles_scale_and_turn_a_group_in_one_step_and_so_do_keys(browser, session, address):
    behind_others(session)
    page = opened(browser, session, address, select=("p1", "p2"))
    page.says("hint", "a corner scales them")
    count, before = len(session.state()["undo"]), session.target().xy
    handles = "import('/static/handles.js').then(({ now }) => now())"
    drags = [(5, "scale", (14, 9)), (5, "rotate", (25, 8)), (5, "scale", (-5, -3)), (7, "rotate", (-9, 3))]
    for turn, (frame, kind, way) in enumerate(drags, 1):
        go(page, frame)
        found = page.page.evaluate(handles)
        x, y = found["knob"] if kind == "rotate" else found["corners"][2]
        page.page.mouse.move(*page.at(session, x, y))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, x + way[0], y + way[1]), steps=6)
        ghosts = np.array(page.page.evaluate(GHOSTS))
        assert page.page.evaluate(LOOKS) < 9, "who counts for the centre is not asked again for each frame"
        if turn == 1:  # Escape leaves all as it was
            page.page.keyboard.press("Escape")
            page.page.mouse.up()
            np.testing.assert_allclose(page.page.evaluate(GHOSTS), before, atol=0.02)
            page.page.mouse.move(*page.at(session, x, y))
            page.page.mouse.down()
            page.page.mouse.move(*page.at(session, x + way[0], y + way[1]), steps=6)
        page.page.mouse.up()
        page.steps(session, count + turn)
        np.testing.assert_allclose(ghosts, session.target().xy, atol=CLOSE, err_msg=f"{turn}: {kind}")
    made = session.project["operations"][2:]
    assert [each["op"]["op"] for each in made] == ["scale", "rotate", "rotate"], "a corner again is the same operation"
    assert [made[2]["op"][word] for word in ("start_frame", "end_frame")] == [5, 7]
    after = session.target().xy[:, 5]
    size = np.linalg.norm(np.subtract(*after)) / np.linalg.norm(np.subtract(*before[:, 5]))
    assert abs(size - made[0]["op"]["factor"]) < 0.01 and made[0]["op"]["factor"] > 1.1
    assert 10 < made[1]["op"]["degrees"] < 90
    go(page, 5)
    page.page.locator("#source").focus()
    for key in ("s", "Shift+t"):
        page.page.keyboard.press(key)
    page.steps(session, count + 6)
    again = [each["op"] for each in session.project["operations"][2:]]
    assert again[0]["factor"] == pytest.approx(made[0]["op"]["factor"] * 1.05, abs=1e-3)
    assert again[1]["degrees"] == pytest.approx(made[1]["op"]["degrees"] - 5, abs=0.01)
    for _ in range(6):
        page.page.keyboard.press("Control+z")
    page.steps(session, count)
    np.testing.assert_array_equal(session.target().xy, before)
    assert page.errors == []
    page.context.close()


class Losing:
    """A tracker that has lost every point from frame 4 on."""

    def track(self, frames, queries):
        xy = np.repeat(queries[:, None, 1:], len(frames), axis=1).astype(np.float32)
        return Tracks(xy, np.repeat(np.arange(len(frames))[None] < 4, len(queries), axis=0))


def test_the_tracker_of_the_next_points_is_chosen_beside_the_tools(browser, session, address):
    page = Page(browser, address, viewport=SIZE)
    chooser = page.main.get_by_label("Tracker of the next points")
    assert chooser.locator("option").all_text_contents() == ["multistep", "dis", "lk"]
    assert chooser.input_value() == "", "the editor's own"
    chooser.select_option("lk")
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    assert session.project["points"][0]["tracker"] == "lk"
    assert chooser.input_value() == "lk", "it stays for the next one"
    chooser.select_option("multistep")
    page.page.mouse.click(*page.at(session, X + 6, Y + 6))
    page.points(2)
    assert "tracker" not in session.project["points"][1]
    page.button("Select", exact=True).click()
    assert chooser.is_hidden(), "where a click names no point"
    assert page.errors == []
    page.context.close()


def test_another_tracker_is_tried_on_a_track_that_went_wrong(browser, session, address, monkeypatch):
    monkeypatch.setattr(session, "_tracker", Losing())
    single(session)
    session.add_point(0, X + 6, Y + 6)
    page = opened(browser, session, address)
    before = session.source()
    page.main.get_by_role("group", name="Doubts about p1").get_by_text("not seen in frames 4-8").wait_for()
    page.button("Try another tracker for p1").click()
    page.page.get_by_role("menuitemradio", name="multistep finds a point again").wait_for()
    page.page.keyboard.press("Escape")
    assert len(session.state()["undo"]) == 3
    page.button("Try another tracker for p1").focus()
    page.page.keyboard.press("Enter")
    for key in ("End", "Enter"):
        page.page.keyboard.press(key)
    page.steps(session, 4)
    page.says("toast", "p1 is followed by lk: seen in 9 of 9 frames, before in 4.")
    after = session.source()
    truth = moving_square.corners() + 10
    assert np.linalg.norm(after.xy[0] - truth, axis=-1).max() < 2
    np.testing.assert_array_equal(after.xy[1], before.xy[1])
    assert page.main.get_by_role("group", name="Doubts about p1").count() == 0
    assert page.main.get_by_role("group", name="Doubts about p2").count() == 1
    assert page.page.evaluate("document.activeElement !== document.body"), "its button is gone, and the focus is not"
    page.page.locator("#toast button").click()
    page.main.get_by_role("group", name="Doubts about p1").wait_for()
    np.testing.assert_array_equal(session.source().xy, before.xy)
    assert page.errors == []
    page.context.close()
