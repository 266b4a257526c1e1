"""The draft on the page: replies that come late or swapped; rows of steps that were left; ends of drags."""

import json
import threading
import time

import moving_square
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v import video
from motionv2v.editing import pictures
from motionv2v.editing.session import Session

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1280, "height": 1000}
SHOWN = "[...document.getElementById('draft').getContext('2d').getImageData(0, 0, 400, 300).data].join()"
WATCH = """() => {
    window.blanks = 0;
    const look = () => {
        const canvas = document.getElementById("draft");
        const at = [canvas.width >> 1, canvas.height >> 1, 1, 1];
        if (canvas.width < 2 || canvas.getContext("2d").getImageData(...at).data[3] === 0) window.blanks += 1;
        requestAnimationFrame(look);
    };
    look();
}"""


SHARP = (
    """(t) => import("/static/frames.js").then((frames) => ["draft", "full"].map((of) => frames.there(of, t).height))"""
)


@pytest.fixture
def session(session):
    session.add_point(0, X, Y)
    return session


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_replies_that_come_late_or_swapped_leave_the_draft_of_the_last_edit(browser, session, address, order):
    page = Page(browser, address, viewport=SIZE)
    page.button("Select p1").click()
    page.wait("document.getElementById('draft').getContext('2d').getImageData(9, 9, 1, 1).data[3] > 0")
    page.page.evaluate(WATCH)  # what is not edited yet is seen as it is
    held = []
    page.page.route("**/api/frame/draft/0", lambda route: held.append((route, route.fetch())))
    page.page.locator("#source").focus()
    for count in range(3):
        page.page.keyboard.press("Shift+ArrowDown")
        deadline = time.time() + 120
        while len(held) <= count:
            assert time.time() < deadline, "the draft is asked for after each edit"
            page.page.wait_for_timeout(20)
    for which in order:
        route, late = held[which]
        route.fulfill(response=late)
        page.page.wait_for_timeout(300)
    page.page.unroute("**/api/frame/draft/0")
    page.there("draft", 0)
    page.painted()
    shown = page.page.evaluate(SHOWN)
    assert page.page.evaluate("window.blanks") == 0, "never a blank canvas"
    page.page.reload()
    page.ready()
    page.there("draft", 0)
    page.painted()
    assert page.page.evaluate(SHOWN) == shown, "the picture is of the last edit"
    assert page.errors == [] and session.revision == 5
    page.context.close()


def test_a_row_of_steps_that_was_left_is_taken_up_again(browser, session, address):
    session.bend(["p1"], 4, 0, 9)
    other = json.dumps(session.project)
    page = Page(browser, address, viewport=SIZE)
    page.page.keyboard.press("Control+z")
    page.wait("document.querySelectorAll('#operations > li').length === 0")
    page.main.locator("#prompt").fill("instead")
    page.main.locator("#prompt").blur()
    page.button("Take up: Other branch (1 step, to Bend p1 at 4)").click()
    page.wait("document.querySelectorAll('#operations > li').length === 1")
    page.wait("document.getElementById('where').textContent === '4 / 8'")
    assert json.dumps(session.project) == other and page.main.locator("#branches li").count() == 0
    page.page.keyboard.press("Control+z")
    page.wait("document.getElementById('prompt').value === 'instead'")
    assert page.errors == []
    page.context.close()


def test_escape_ends_the_gesture_then_the_selection_then_the_tool(browser, session, address):
    page, kept = Page(browser, address, viewport=SIZE), json.dumps(session.project)
    page.main.locator("#tools #select").click()
    page.button("Select p1").click()
    page.page.mouse.move(*page.at(session, X, Y))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, X + 20, Y), steps=4)
    seen = "import('/static/session.js').then(({ view, chosen }) => [Boolean(view.drag), chosen().length, view.tool])"
    assert page.page.evaluate(seen) == [True, 1, "select"]
    for expected in ([False, 1, "select"], [False, 0, "select"], [False, 0, "point"]):
        page.page.keyboard.press("Escape")
        assert page.page.evaluate(seen) == expected
    page.page.mouse.up()
    assert json.dumps(session.project) == kept and len(session.state()["undo"]) == 2
    page.context.close()


def test_a_drag_that_is_let_go_outside_the_window_ends_once(browser, session, address):
    page = Page(browser, address, viewport=SIZE)
    page.page.mouse.move(*page.at(session, X, Y))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, X - 5, Y), steps=3)
    page.page.mouse.move(-30, page.at(session, X, Y)[1], steps=3)
    page.page.mouse.up()
    until(lambda: len(session.state()["undo"]) == 3, "it is one step")
    page.page.mouse.move(*page.at(session, X + 30, Y + 10), steps=3)
    page.page.mouse.move(-30, 300)
    page.page.wait_for_timeout(300)
    assert len(session.state()["undo"]) == 3 and session.state()["undo"][-1] == "Bend p1 at 0"
    assert page.page.evaluate("import('/static/session.js').then(({ view }) => view.press)") is None
    page.context.close()


def test_a_person_who_rests_sees_the_frame_at_full_size(browser, tmp_path):
    frames = moving_square.draw().repeat(2, axis=1).repeat(2, axis=2)
    session = Session(tmp_path / "workspace")
    session.open(video.write(tmp_path / "large.mp4", frames, fps=8, crf=4))
    session.add_point(0, 2 * X, 2 * Y)
    session.bend(["p1"], 4, 0, 30)
    asked = []
    with served_page.served(session) as address:
        page = Page(browser, viewport={"width": 1000, "height": 800})
        page.page.on("request", lambda request: asked.append(request))
        page.page.goto(address)
        page.ready()
        when = lambda name: [each.timing["startTime"] for each in asked if each.url.endswith(name)]  # noqa: E731
        for frame in range(1, 4):
            page.page.keyboard.press(".")
            page.there("draft", frame)
        page.there("full", 3)
        assert when("full/3")[0] - when("draft/3")[0] >= 2000, "not before two seconds"
        assert len(when("full/3")) == 1 and page.page.evaluate(SHARP, 3) == [180, 192]
        page.button("Select p1").click()
        page.main.locator("#source").focus()
        page.page.keyboard.press("ArrowDown")
        until(lambda: len(session.state()["undo"]) == 4, "another edit")
        while len(when("full/3")) < 2:
            page.page.wait_for_timeout(50)
        page.there("full", 3)
        assert when("full/3")[1] - when("draft/3")[-1] >= 2000, "and anew after an edit"
        assert page.errors == []
        page.context.close()
        session.runs.close()


RED = """([x, y]) => {
    const canvas = document.getElementById("source");
    const box = canvas.getBoundingClientRect();
    const [across, down] = [canvas.width / box.width, canvas.height / box.height];
    const place = [Math.round((x - box.x) * across), Math.round((y - box.y) * down)];
    const [r, g] = canvas.getContext("2d").getImageData(...place, 1, 1).data;
    return r - g;
}"""


def reds(page, session, x, y, spots=((-7, -7), (7, -7), (7, 7))):
    """How red the picture is at spots of the square that is about a place, outside its paths."""
    return [page.page.evaluate(RED, page.at(session, x + dx, y + dy)) for dx, dy in spots]


def test_what_is_dragged_goes_along_under_the_hand_before_the_edit_is_there(browser, session, address):
    page = Page(browser, address, viewport=SIZE)
    page.button("Select p1").click()
    goal = (X + 8, Y + 40)
    for turn, bent in enumerate((False, True)):  # the first time it was never bent, and no draft shows where it is
        start = session.target().xy[0, 0].tolist()
        page.page.mouse.move(*page.at(session, *start))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, *goal), steps=4)
        until(lambda: min(reds(page, session, *goal)) > 60, f"the square goes along, {bent=}")
        assert len(session.state()["undo"]) == 2 + turn, "nothing is done yet"
        page.page.keyboard.press("Escape")
        until(lambda: max(reds(page, session, *goal)) < 60, "nor is it left behind")
        page.page.mouse.up()
        if not bent:
            session.bend(["p1"], 0, 4, 6)
            page.page.reload()
            page.ready()
            page.button("Select p1").click()
            page.there("draft", 0)
    assert not page.errors
    page.context.close()


def test_what_is_mirrored_is_mirrored_under_the_hand_too(browser, session, address):
    for dx, dy in moving_square.OFFSETS[1:].tolist():
        session.add_point(0, X + dx, Y + dy)
    session.add_operation("mirror", {})
    page = Page(browser, address, viewport=SIZE)
    page.page.keyboard.press("Control+a")
    page.page.mouse.move(*page.at(session, *session.target().xy[0, 0].tolist()))
    page.page.mouse.down()
    goal = (X + 8, Y + 36)
    page.page.mouse.move(*page.at(session, *goal), steps=4)
    between = [(dx, dy) for dx in (-3, 3) for dy in (-3, 3)]
    until(lambda: min(reds(page, session, *goal, between)) > 60, "the square goes along, and as large as it is", 60)
    now = """import("/static/cutout.js").then(({ now }) => import("/static/frames.js").then(({ there }) => {
        const { cos, sin, flip } = now(there("source", 0));
        return [cos, sin, flip];
    }))"""
    assert page.page.evaluate(now) == pytest.approx([-1, 0, -1], abs=0.01), "left and right: upside down, and turned"
    page.page.keyboard.press("Escape")
    page.page.mouse.up()
    assert page.errors == []
    page.context.close()


def test_commands_and_the_clip_do_not_wait_behind_drafts_and_the_last_frame_comes_next(
    browser, session, address, monkeypatch
):
    session.bend(["p1"], 4, 0, 9)
    asked, goes_on = [], threading.Event()

    def slow(session, index):
        asked.append(index)
        goes_on.wait(300)
        return session.draft_frame(index)

    monkeypatch.setitem(pictures._PICTURES, "draft", slow)
    page = Page(browser, address, viewport=SIZE)

    def step(key, frames):
        page.main.locator("#source").focus()
        for frame in frames:
            page.page.keyboard.press(key)
            page.wait(f"document.getElementById('where').textContent === '{frame} / 8'")
            page.there("source", frame)

    try:
        page.button("Select p1").click()
        step(".", range(1, 9))  # more drafts are wanted than a browser has connections
        page.page.keyboard.press("ArrowDown")
        until(lambda: len(session.state()["undo"]) == 4, "the command is done while drafts are drawn")
        until(lambda: asked[2:] == [8], f"the draft of the edit is asked for at once, {asked}")
        step(",", range(7, 2, -1))
        until(lambda: len(asked) == 4, f"two are under way, {asked}")
    finally:
        goes_on.set()
    page.there("draft", 3)
    assert asked[4] == 3, f"what is looked at comes before what was, {asked}"
    assert page.errors == []
    page.context.close()
