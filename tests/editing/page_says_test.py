"""What the editor page says in a real Chromium: of a draft on its way, a file it cannot take, a clip that is gone."""

import moving_square
import pytest
import served_page
from served_page import Page

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
SIZE = {"width": 1280, "height": 1000}
BRIGHT = """(id) => {
    const canvas = document.getElementById(id);
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value > 0);
}"""
ZOOM = """() => {
    const wide = document.getElementById("source").getBoundingClientRect().width;
    return `${Math.round((wide / WIDTH) * devicePixelRatio * 100)} %`;
}"""


@pytest.fixture
def page(browser, session, address):
    session.add_point(0, X, Y)
    made = Page(browser, address, viewport=SIZE)
    yield made
    made.context.close()


def held(page):
    """Hold drafts back from now on; returns what lets them go."""
    kept, is_held = [], [True]
    page.page.route("**/api/frame/draft/*", lambda route: kept.append(route) if is_held else route.continue_())

    def go():
        is_held.clear()
        for route in kept:
            route.continue_()

    return go


def test_the_pane_tells_what_its_draft_is_of(page, session):
    says, asked = page.main.locator("#draft-says"), []
    page.page.on("request", lambda request: asked.append(request.url))
    page.says("draft-says", "nothing is edited yet")
    page.main.locator("#show-uncertain").check()
    page.page.keyboard.press(".")
    page.there("source", 1)
    page.wait(f"({BRIGHT})('draft')")  # the clip's frame
    page.page.wait_for_timeout(300)
    assert asked and not [each for each in asked if "draft" in each or "uncertain" in each], "nothing is drawn for it"
    session.bend(["p1"], 4, 0, 9)
    go = held(page)
    page.page.reload()
    page.says("draft-says", "drawing the draft…")
    says.wait_for(state="visible")
    assert not page.page.evaluate(BRIGHT, "draft")
    page.main.locator("#mode").select_option("draft")
    page.says("clip-says", "drawing the draft…")
    assert says.text_content() == "", "it stands where the draft is shown"
    page.main.locator("#mode").select_option("side")
    go()
    page.wait("document.getElementById('draft-says').textContent === ''")
    page.wait(f"({BRIGHT})('draft')")
    go = held(page)
    page.button("Select p1").click()
    page.main.locator("#source").focus()
    page.page.keyboard.press("ArrowDown")
    page.says("draft-says", "draft of the edit before")
    go()
    page.wait("document.getElementById('draft-says').textContent === ''")
    failing = {"status": 400, "json": {"error": "not drawn here"}}
    page.page.route("**/api/frame/draft/*", lambda route: route.fulfill(**failing))
    page.page.keyboard.press("ArrowDown")
    page.says("draft-says", "the draft could not be drawn")


def test_a_clip_that_was_undone_is_not_shown_any_more(page, session):
    page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '1 / 8'")
    for _ in range(2):
        page.page.keyboard.press("Control+z")
    page.says("clip-name", "no clip")
    page.wait("document.getElementById('where').textContent === '0 / 0'")
    page.wait("document.getElementById('export-row').hidden && document.getElementById('timeline').hidden")
    assert page.main.locator("#frame").get_attribute("max") == "0"
    page.wait(f"!['source', 'draft'].some({BRIGHT})")
    assert page.main.locator("#draft-says").text_content() == "" and page.errors == []
    for _ in range(2):
        page.page.keyboard.press("Control+Shift+z")
    page.points(1)
    page.ready()
    page.wait("!document.getElementById('export-row').hidden")
    page.wait(f"({BRIGHT})('source')")


def test_an_input_takes_what_it_asks_for_alone(page, session, tmp_path):
    clip, before = str(tmp_path / "square.mp4"), session.revision
    page.main.locator("#project-file").set_input_files(clip)
    page.says("error", "square.mp4 is not a project: one ends in .mv2v.")
    page.main.locator("#tracks-file").set_input_files(clip)
    page.says("error", "square.mp4 is no file of tracks: one ends in .npz")
    assert session.revision == before
    page.main.locator("#file").set_input_files({"name": "bad.mp4", "mimeType": "video/mp4", "buffer": b"text"})
    page.says("error", "bad.mp4")
    assert ".upload." not in page.main.locator("#error").text_content()


def test_a_hold_with_keep_motion_says_what_stays(page, session):
    session.add_operation("tween", {"points": ["p1"], "keyframes": {"0": [20, 20], "6": [40, 30]}, "ease": "hold"})
    page.page.reload()
    page.points(1)
    page.main.locator("#operations button.name").click()
    motion, note = page.main.get_by_label("keep motion"), page.main.locator("#operations .note:not(:empty)")
    assert note.count() == 0
    motion.check()
    note.wait_for()
    assert "goes on moving by itself" in note.text_content()
    motion.uncheck()
    note.wait_for(state="detached")


def test_the_zoom_is_told_anew_when_the_window_changes(page, session):
    told = ZOOM.replace("WIDTH", str(session.clip.frames.shape[2]))
    before = page.main.locator("#zoom").text_content()
    page.page.set_viewport_size({"width": 900, "height": 800})
    page.wait(f"document.getElementById('zoom').textContent === ({told})()")
    assert page.main.locator("#zoom").text_content() != before


def test_an_editor_that_is_gone_is_told_once(page):
    page.page.route("**/api/frame/**", lambda route: route.abort())
    page.main.locator("#source").focus()
    page.page.keyboard.press("End")
    page.main.locator("#gone").wait_for(state="visible")
    assert page.main.locator("#error").is_hidden()
    page.page.unroute("**/api/frame/**")
    page.main.locator("#gone").wait_for(state="hidden")
    page.there("source", 8)
    assert page.main.locator("#problems-list li").count() == 0


@pytest.mark.parametrize("where", [None, "step 3 of 9"])
def test_a_run_tells_each_line_once(page, where):
    log = ["clip    9 frames", "step 3 of 9, 4 s left"]
    run = {"id": "1", "checkpoint": "tiny", "seed": 3, "state": "running", "log": log, "has_preview": False}
    run |= {"progress": where and {"done": 3, "of": 9, "where": where, "left": 4}, "command": None, "seconds": None}
    page.page.route("**/api/runs", lambda route: route.fulfill(json={"runs": [run], "queue": [], "is_held": False}))
    page.page.reload()
    page.says("runs", "clip    9 frames")
    said = page.main.locator("#runs").text_content()
    assert said.count("step 3 of 9, 4 s left") == 1 and said.count("clip    9 frames") == 1
