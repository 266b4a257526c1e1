"""How the clip is looked at: kept over a reload, the wheel in a cell of a notebook, the menu of what is possible."""

import moving_square
import pytest
import served_page
from served_page import Page
from waiting import until

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1280, "height": 1000}
SEEN = """import("/static/session.js").then(({ view }) => import("/static/stage.js").then((stage) =>
    [view.frame, view.mode, view.tool, view.onion, [...view.chosen], stage.shownZoom()]))"""
ITEMS = "[...document.querySelectorAll('#menu button')].map((each) => each.querySelector('b').textContent)"


@pytest.fixture
def page(browser, session, address):
    session.add_point(0, X, Y)
    session.add_point(0, X - 4, Y)
    made = Page(browser, address, viewport=SIZE)
    made.points(2)
    yield made
    assert made.errors == []
    made.context.close()
    until(lambda: not session.is_getting_ready())


def test_a_page_that_is_loaded_anew_is_looked_at_as_before(page, session):
    first = page.main.evaluate(SEEN)
    page.button("Select p2").click()
    page.main.locator("#source").focus()
    for key in ("End", "o", "3", "v"):
        page.page.keyboard.press(key)
    whole = page.main.evaluate(SEEN)
    page.page.keyboard.press("+")
    before = page.main.evaluate(SEEN)
    assert before[:5] == [8, "draft", "select", True, ["p2"]] and before[5] > 1.1 * whole[5]
    page.page.reload()
    page.ready()
    page.says("where", "8 / 8")
    assert page.main.evaluate(SEEN) == before
    assert page.main.locator("#show-onion").is_checked() and page.main.locator("#mode").input_value() == "draft"
    session.remove_points(["p2"])
    page.page.reload()
    page.says("where", "8 / 8")
    assert page.main.evaluate(SEEN)[4] == [], "what is gone is not selected"
    for other in ("session", "clip"):  # begins anew
        page.page.keyboard.press("End")
        page.says("where", "8 / 8")
        page.main.evaluate(
            """(other) => addEventListener("pagehide", () => {
            const kept = JSON.parse(sessionStorage.getItem("motionv2v.view"));
            sessionStorage.setItem("motionv2v.view", JSON.stringify({ ...kept, [other]: "another" }));
        })""",
            other,
        )
        page.page.reload()
        page.ready()
        page.says("where", "0 / 8")
        assert page.main.evaluate(SEEN)[:5] == first[:5], other


def test_the_right_button_opens_what_is_possible_where_it_is_pressed(page, session):
    page.page.mouse.click(*page.at(session, 100, 80), button="right")
    page.main.locator("#menu").wait_for()
    without = page.main.evaluate(ITEMS)
    assert "Place a point by keys" in without and "Remove the selected points" not in without
    assert page.main.locator("#menu").get_attribute("aria-label") == "square.mp4"
    page.page.keyboard.press("Escape")
    page.main.locator("#menu").wait_for(state="hidden")
    assert len(session.project["points"]) == 2, "nothing was named there"
    page.page.mouse.click(*page.at(session, X, Y), button="right")
    page.main.get_by_role("menuitem", name="Remove the selected points").wait_for()
    assert page.main.locator("#menu").get_attribute("aria-label") == "p1"
    assert "Undo" in page.main.evaluate(ITEMS) and "Redo" not in page.main.evaluate(ITEMS)
    page.main.get_by_role("menuitem", name="Lock or unlock the selected points").click()
    page.wait("document.getElementById('undo').title.startsWith('Change')")
    assert [bool(point.get("locked")) for point in session.project["points"]] == [True, False]


def test_a_finger_that_rests_opens_the_same_menu_and_one_that_moves_bends(browser, session, address):
    session.add_point(0, X, Y)
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = Page(browser, address, **phone)
    page.points(1)
    finger = page.context.new_cdp_session(page.page)

    def touch(kind, *place):
        points = [dict(zip("xy", place, strict=True), id=1)] if place else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    page.main.locator("#source").scroll_into_view_if_needed()
    page.main.evaluate("""() => import("/static/session.js").then(({ view }) => {
        let was = null;  // once a finger is down its press is let go again: it rests
        setInterval(() => ((window.rested = was !== null && view.press === null), (was = view.press ?? was)), 20);
    })""")
    touch("touchStart", *page.at(session, X, Y))
    page.wait("window.rested")
    touch("touchEnd")
    page.main.get_by_role("menuitem", name="Remove the selected points").wait_for()
    assert len(session.state()["undo"]) == 2, "and nothing was done"
    page.page.keyboard.press("Escape")
    page.main.locator("#menu").wait_for(state="hidden")
    start, end = page.at(session, X, Y), page.at(session, X, Y + 20)  # first, for a finger soon rests
    touch("touchStart", *start)
    touch("touchMove", *end)
    page.page.wait_for_timeout(900)
    touch("touchEnd")
    page.wait("document.querySelectorAll('#operations > li').length === 1")
    assert page.main.locator("#menu").is_hidden() and page.errors == []
    page.context.close()
    until(lambda: not session.is_getting_ready())
