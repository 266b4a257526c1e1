"""The page on a phone: everything by touch on 390 pixels, targets that a finger meets, the clip always in view."""

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
SMALL = """() => [...document.querySelectorAll("button, .button, select, summary, textarea, input:not([type=file])")]
    .filter((each) => each.checkVisibility())
    .map((each) => [each.outerHTML.slice(0, 90), each.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.height < 24 || box.width < 24))
    .map(([html, box]) => `${Math.round(box.width)}x${Math.round(box.height)} ${html}`)"""
IN_VIEW = """() => {
    const box = document.getElementById("source").getBoundingClientRect();
    return box.top >= 0 && box.bottom <= innerHeight && box.height <= 0.45 * innerHeight;
}"""

RESTS = """async () => {
    for (let still = 0, at = scrollY; still < 40; still = scrollY === at ? still + 1 : 0) {
        at = scrollY;
        await new Promise(requestAnimationFrame);
    }
}"""
"""Waits until the page rests: a finger that comes down while it still glides stops it, and taps nothing."""


def check(page, width=390):
    assert page.main.evaluate("document.documentElement.scrollWidth") <= width
    assert page.main.evaluate(SMALL) == []


def test_the_first_minute_by_touch(browser, session, address):
    page = Page(browser, address, **PHONE)
    finger = page.context.new_cdp_session(page.page)

    def stroke(*places):
        for number, (x, y) in enumerate(places):
            kind = "touchMove" if number else "touchStart"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y, "id": 1}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tap(button):
        page.main.locator(button).scroll_into_view_if_needed()
        page.main.evaluate(RESTS)
        page.main.locator(button).tap()
        assert page.main.evaluate(IN_VIEW), button

    check(page)
    page.main.locator("#source").scroll_into_view_if_needed()
    page.page.touchscreen.tap(*page.at(session, X, Y))
    page.points(1)
    check(page)
    x, y = session.source().xy[0, 0].tolist()
    stroke(*(page.at(session, x + 3 * step, y + 4 * step) for step in range(6)))
    page.wait("document.querySelectorAll('#operations > li').length === 1")
    np.testing.assert_allclose(session.target().xy[0, 0], (x + 15, y + 20), atol=1.5)
    tap("#tools #visibility")
    row = page.main.locator(".track").first
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    middle = box["y"] + box["height"] / 2
    stroke(*((box["x"] + box["width"] * (t + 0.5) / 9, middle) for t in (3, 4, 5, 6)))
    page.wait("document.querySelectorAll('#operations > li').length === 2")
    np.testing.assert_array_equal(np.flatnonzero(~session.target().visible[0]), range(3, 7))
    assert page.main.evaluate(IN_VIEW)
    check(page)
    tap("#run")
    page.says("runs", "took", 300)
    assert session.runs.result("1").is_file() and page.main.evaluate(IN_VIEW)
    check(page)
    assert page.errors == []
    page.context.close()


def test_a_phone_that_lies_on_its_side_keeps_the_clip_in_view(browser, session, address):
    page = Page(browser, address, **PHONE | {"viewport": {"width": 844, "height": 390}})
    check(page, 844)
    assert page.main.locator("header").bounding_box()["height"] <= 60
    page.page.touchscreen.tap(*page.at(session, X, Y))
    page.points(1)
    assert np.abs(np.array([session.project["points"][0][side] for side in "xy"]) - (X, Y)).max() < 1
    for place in ("#tools #visibility", "#timeline", "#run", "#edit-json"):
        page.main.locator(place).scroll_into_view_if_needed()
        assert page.main.evaluate(IN_VIEW), place
    assert page.main.evaluate("scrollY") > 0
    page.main.evaluate(RESTS)
    page.page.touchscreen.tap(*page.at(session, 100, 20))
    page.points(2)
    check(page, 844)
    assert page.errors == []
    page.context.close()
