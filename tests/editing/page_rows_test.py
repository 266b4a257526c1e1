"""Keyframes as rows and as diamonds that keys carry, clicks that wait in line, results in the pane, in Chromium."""

import threading

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v import video
from motionv2v.trackers.flows import Flows

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1400, "height": 900}
WORKS = 300
"""Seconds that a busy machine may take for a run of the draft."""


AT_ONCE = """(keys) => {
    for (const key of keys) {
        const given = { key, shiftKey: key.startsWith("Arrow"), bubbles: true, cancelable: true };
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", given));
    }
}"""
"""Presses keys, arrows with Shift, within the time in which they are one step, however slow the machine is."""


@pytest.fixture
def page(browser, session, address):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    made = Page(browser, address, viewport=SIZE)
    made.wait("document.getElementById('source').width > 300")  # it is as high as the clip from then on
    yield made
    assert [error for error in made.errors if "400" not in error] == [] and len(made.asked) == 1
    made.context.close()


def test_keyframes_are_rows_and_keys_carry_a_diamond_in_one_step(page, session):
    def steps(count):
        page.steps(session, count)
        return session.project["operations"][0]["op"]

    heights = page.main.locator("#points .row > *").evaluate_all("all => all.map((each) => each.offsetTop)")
    assert max(heights) - min(heights) < 12, "all that is said of a point stands in one line"
    page.main.get_by_role("button", name="bend p1", exact=True).click()
    own = page.main.locator("#operations .fields")
    kept = dict(session.project["operations"][0]["op"]["by"])
    own.get_by_label("Keyframe 4: pace to the next").select_option("hold")
    assert steps(4)["ease"] == {"4": "hold"} and steps(4)["by"] == kept, "places that are left alone stay exact"
    assert own.get_by_label("ease").input_value() == "by keyframe"
    own.get_by_label("Keyframe 4: shift y").fill("70.5")
    own.get_by_label("Keyframe 4: shift y").blur()
    assert steps(5)["by"]["4"] == [kept["4"][0], 70.5]
    own.get_by_label("Keyframe 4: frame").fill("3")
    own.get_by_label("Keyframe 4: frame").blur()
    assert sorted(steps(6)["by"]) == ["0", "3", "8"] and steps(6)["ease"] == {"3": "hold"}
    page.main.locator("#source").focus()
    for _ in range(6):
        page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '6 / 8'")
    page.button("Select p1").click()
    before = session.target().xy[0, 6]
    page.button("Add a keyframe at this frame").click()
    assert sorted(steps(7)["by"]) == ["0", "3", "6", "8"]
    np.testing.assert_allclose(session.target().xy[0, 6], before, atol=0.02, err_msg="one more moves nothing")
    page.button("Remove keyframe 6").click()
    assert sorted(steps(8)["by"]) == ["0", "3", "8"]
    page.button("p1, frame 3: keyframe").focus()
    page.page.evaluate(AT_ONCE, ["ArrowRight"] * 3)
    assert sorted(steps(9)["by"]) == ["0", "6", "8"], "one step"
    page.wait("document.activeElement.getAttribute('aria-label') === 'p1, frame 6: keyframe'")
    assert page.main.locator("#where").text_content() == "6 / 8"
    page.page.evaluate(AT_ONCE, ["ArrowLeft", "Escape"])
    page.page.wait_for_timeout(800)
    page.page.keyboard.press("Control+z")
    assert sorted(steps(8)["by"]) == ["0", "3", "8"], "Escape left it where it was"


def test_paces_in_the_rows_of_an_operation_that_is_added_are_its_own(page, session):
    own = page.main.locator("#add-fields")
    page.main.locator("#add-details > summary").click()
    page.main.locator("#add-kind").select_option("tween")
    page.main.locator("#source").focus()
    for _ in range(6):
        page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '6 / 8'")
    own.get_by_role("button", name="Add a keyframe at this frame").click()
    pace, ease = own.get_by_label("Keyframe 0: pace to the next"), own.get_by_label("ease")
    pace.focus()  # as a person has it: what is chosen stays while an earlier answer is shown
    pace.select_option("hold")
    assert ease.input_value() == "by keyframe"
    page.main.locator("#add-button").click()
    page.steps(session, 4)
    assert session.project["operations"][1]["op"]["ease"] == {"0": "hold"}
    ease.focus()
    ease.select_option("in")
    assert pace.input_value() == "in"
    page.main.locator("#add-button").click()
    page.steps(session, 5)
    assert session.project["operations"][2]["op"]["ease"] == "in"


def test_a_keyframe_that_is_carried_lies_down_before_another_key_is_heeded(page, session):
    def keyframes():
        operations = session.project["operations"]
        return sorted(operations[0]["op"]["by"]) if operations else None

    def settled(moved):
        page.wait("document.getElementById('busy').textContent === ''")
        page.page.wait_for_timeout(1000)
        assert keyframes() == moved

    page.button("p1, frame 4: keyframe").focus()
    page.page.keyboard.press("Shift+ArrowRight")
    page.page.keyboard.press("Control+z")
    until(lambda: session._redo, "it is undone")
    settled(["0", "4", "8"])
    assert len(session._redo) == 1, "the step that is undone is the keyframe's own"
    page.button("p1, frame 4: keyframe").focus()
    page.page.keyboard.press("Shift+ArrowRight")
    page.page.keyboard.press("Delete")
    page.says("toast", "Deleted the keyframe of p1 at 5")
    settled(["0", "8"])


def test_clicks_wait_in_a_line_that_is_told_and_left_at_once(page, session, monkeypatch):
    compute, goes_on = Flows.compute, threading.Event()
    monkeypatch.setattr(Flows, "compute", lambda self, i, j: (goes_on.wait(WORKS), compute(self, i, j))[1])
    session._followers = (None, {})
    try:
        for place in [page.at(session, x, 85) for x in (20, 50, 80, 110)]:
            page.page.mouse.click(*place)
        page.says("waiting", "3 more wait")
        page.button("Stop all").click()
        page.wait("document.getElementById('waiting').textContent === ''")
        assert page.main.evaluate("import('/static/session.js').then(({ inLine }) => inLine().length)") == 0
    finally:
        goes_on.set()
    page.says("error", "following the point was stopped; nothing has changed")
    assert len(session.project["points"]) == 1, "neither those that waited nor that which was under way"
    page.page.mouse.click(*page.at(session, 110, 10))
    page.wait("document.querySelectorAll('#points li').length === 2")
    assert session.project["points"][-1]["y"] < 20, "another click is done"


def test_a_result_is_looked_at_frame_by_frame_beside_the_source(page, session):
    name = session.run()
    until(lambda: session.runs.status(name)["state"] == "done", "the run ends", WORKS)
    page.page.route("**/api/frame/draft/*", lambda route: route.fulfill(status=400, json={"error": "not now"}))
    page.page.reload()
    page.ready()
    show = page.button("Show the result of run 1 in place of the draft")
    show.click()
    page.says("draft-name", "result of run 1")
    asked = []  # none of the draft's frames is there, so that each would have to be asked for
    page.page.on("request", lambda request: asked.append(request.url))
    page.main.locator("#source").focus()
    for _ in range(4):
        page.page.keyboard.press(".")
    page.there("result", 4)
    page.painted()
    shown = page.main.evaluate(
        "(([x, y]) => { const canvas = document.getElementById('draft'); const k = canvas.width / 128;"
        " return [...canvas.getContext('2d').getImageData(x * k, y * k, 1, 1).data]; })",
        [float(side) for side in session.target().xy[0, 4]],
    )
    x, y = session.target().xy[0, 4].astype(int)
    wanted = video.read(session.runs.result(name)).frames[4, y, x].astype(int)
    assert np.abs(np.array(shown[:3]) - wanted).max() < 40, "it is the result's own frame"
    page.page.wait_for_timeout(500)
    assert [each for each in asked if each.endswith(("/draft/3", "/draft/4"))] == [], "nothing is drawn meanwhile"
    page.page.unroute("**/api/frame/draft/*")
    show.click()
    page.wait("document.getElementById('draft-name').textContent === 'draft'")
    show.click()
    page.says("draft-name", "result of run 1")
    page.main.evaluate("import('/static/tools.js').then(({ look }) => look('source'))")
    page.button("Select p1").click()
    page.main.locator("#source").focus()
    page.page.keyboard.press("ArrowDown")
    page.wait("document.getElementById('draft-name').textContent === 'draft'")  # what is edited is seen as a draft
    assert page.main.evaluate("import('/static/session.js').then(({ view }) => view.mode)") == "source"


def test_retiming_is_a_curve_of_rows_with_buttons_whose_result_is_seen_at_once(page, session):
    given = session.target().xy[0]
    name = session.add_operation("retime", {"points": ["p1"], "speed": 0.5})
    page.page.reload()
    page.points(1)
    page.main.get_by_role("button", name="retime p1", exact=True).click()
    own = page.main.locator("#operations .fields")
    way = own.get_by_label("retime: what is given")
    way.focus()
    way.select_option("times")
    assert own.get_by_label("times").count() == 0 and own.locator("textarea").count() == 0, "no text to be typed"

    def press(words):
        own.get_by_role("button", name=words).click()

    def becomes(times):
        until(lambda: session.project["operations"][1]["op"].get("times") == times, f"times {times}")
        shown = "import('/static/session.js').then(({ state }) => state.target.xy[0])"
        wanted = np.stack([np.interp(times, np.arange(9), given[:, side]) for side in (0, 1)], axis=-1)
        until(lambda: np.abs(page.page.evaluate(shown) - wanted).max() < 0.02, "the page shows it")

    def go(frame):
        page.main.locator("#frame").fill(str(frame))
        page.main.locator("#frame").blur()
        page.wait(f"document.getElementById('where').textContent === '{frame} / 8'")

    press("Reverse")
    becomes([8, 7, 6, 5, 4, 3, 2, 1, 0])
    go(4)
    press("Freeze from this frame")
    becomes([8, 7, 6, 5, 4, 4, 4, 4, 4])
    own.get_by_label("Row 4: frame that it shows").fill("0")
    own.get_by_label("Row 4: frame that it shows").blur()
    becomes([8, 6, 4, 2, 0, 1, 2, 3, 4])
    assert own.locator(".when small").all_text_contents() == ["-2\u00d7", "1\u00d7", ""]
    press("There and back")
    becomes([8, 4, 0, 2, 4, 2, 0, 4, 8])
    press("Slow down from this frame")
    becomes([8, 4, 0, 2, 4, 3, 2, 1, 0])
    assert "speed" not in session.project["operations"][1]["op"]
    count = len(session._undo)
    go(6)
    press("Add a row at this frame")
    own.get_by_label("Row 6: frame that it shows").fill("6")
    own.get_by_label("Row 6: frame that it shows").blur()
    becomes([8, 4, 0, 2, 4, 5, 6, 3, 0])
    assert len(session._undo) == count + 1, "a row that changes nothing is no step"
    own.get_by_label("Row 6: frame", exact=True).fill("8")
    own.get_by_label("Row 6: frame", exact=True).blur()
    own.get_by_text("two rows are of frame 8").wait_for()
    session.change_operation(name, {"times": [0.5] * 9})
    page.page.reload()
    page.points(1)
    rows = """(all) => import("/static/times.js").then(({ rowsOf, expand }) => all.map((times) => {
        const rows = rowsOf(times);
        return [rows, expand(rows, times.length)];
    }))"""
    rng = np.random.default_rng(0)
    cases = [
        np.interp(np.arange(40), [0, *np.sort(rng.choice(38, 3, False) + 1), 39], rng.uniform(0, 39, 5))
        for _ in range(50)
    ]
    cases = [case.round(3).tolist() for case in cases] + [[2.5]]
    for times, (few, again) in zip(cases, page.page.evaluate(rows, cases), strict=True):
        np.testing.assert_allclose(again, times, atol=3e-3)
        assert len(few) <= 8
