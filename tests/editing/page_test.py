"""The editor page in a real Chromium: clicks land, drags bend, keys work, nothing is asked of the network."""

import contextlib

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page

from motionv2v import video
from motionv2v.editing.session import Session
from motionv2v.edits import table, track_files
from motionv2v.tracks import Tracks

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
SHAPES = {"landscape": (96, 128), "portrait": (160, 90)}
X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def frames(shape):
    if shape == "landscape":
        return moving_square.draw()
    return np.random.default_rng(0).integers(0, 255, (9, *SHAPES[shape], 3)).astype(np.uint8)


@pytest.fixture
def serve(tmp_path):
    """Serve a session on a clip; returns (session, address)."""
    with contextlib.ExitStack() as running:

        def start(shape="landscape"):
            video.write(tmp_path / f"{shape}.mp4", frames(shape), fps=8, crf=4)
            session = Session(tmp_path / shape)
            session.open(tmp_path / f"{shape}.mp4")
            return session, running.enter_context(served_page.served(session))

        yield start


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [1, 2.5])
def test_clicks_land_on_the_pixel(browser, serve, shape, ratio):
    session, address = serve(shape)
    page = Page(browser, address, viewport={"width": 1280, "height": 900}, device_scale_factor=ratio)
    height, width = SHAPES[shape]
    spots = [(0.1, 0.1), (0.5, 0.5), (0.9, 0.85)]
    for count, (u, v) in enumerate(spots, 1):
        page.page.mouse.click(*page.at(session, u * width, v * height))
        page.points(count)
    found = [(point["x"], point["y"]) for point in session.project["points"]]
    np.testing.assert_allclose(found, [(u * width, v * height) for u, v in spots], atol=0.5)
    assert page.errors == [] and len(page.asked) == 1, "nothing is asked of the network"
    page.context.close()


def test_one_drag_is_one_step_that_undo_takes_back(browser, serve):
    session, address = serve()
    page = Page(browser, address)
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    for _ in range(4):
        page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '4 / 8'")
    x, y = session.source().xy[0][4]
    before = session.target()
    page.page.mouse.move(*page.at(session, x, y))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, x + 10, y + 20), steps=60)
    page.page.mouse.up()
    page.steps(session, 3)
    np.testing.assert_allclose(session.target().xy[0][4], (x + 10, y + 20), atol=0.5)
    bent = session.target()
    for key, count, expected in (("Control+z", 2, before), ("Control+Shift+z", 3, bent)) * 2:
        page.page.keyboard.press(key)
        page.steps(session, count)
        for one, other in zip(session.target(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    page.page.mouse.move(*page.at(session, x + 10, y + 20))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, 100, 20), steps=5)
    page.page.keyboard.press("Escape")
    page.page.mouse.up()
    page.page.locator("#source").focus()
    page.page.keyboard.press("ArrowRight")
    page.steps(session, 4)
    np.testing.assert_allclose(session.target().xy[0][4], (x + 11, y + 20), atol=0.5)
    page.wait("document.getElementById('draft').width > 100")
    assert page.errors == []
    page.context.close()


def test_the_page_fits_a_phone_and_goes_on_after_a_reload(browser, serve):
    session, address = serve()
    page = Page(browser, address, viewport={"width": 390, "height": 844}, has_touch=True)
    page.page.touchscreen.tap(*page.at(session, X, Y))
    page.points(1)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    targets = page.page.locator("button, .button, input[type=range]").evaluate_all(
        "all => all.filter((each) => each.checkVisibility()).map((each) => each.getBoundingClientRect().height)"
    )
    assert min(targets) >= 24 and np.median(targets) >= 30
    page.page.reload()
    page.points(1)
    assert page.errors == []
    page.context.close()


def test_a_mistake_is_a_sentence_on_the_page(browser, serve):
    session, address = serve()
    page = Page(browser, address)
    session.set(prompt="from another tab")
    page.page.mouse.click(*page.at(session, X, Y))
    page.wait("document.getElementById('conflict').checkVisibility()")
    assert "another tab" in page.page.locator("#conflict").text_content()
    assert page.page.locator("#error").is_hidden(), "it is said once"
    assert "another tab" in page.page.locator("#problems-list").text_content()
    page.page.get_by_role("button", name="Load it").click()
    page.wait("document.getElementById('prompt').value === 'from another tab'")
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    assert page.page.locator("#prompt").input_value() == "from another tab"
    page.context.close()


def test_a_late_frame_of_the_clip_before_is_dropped_and_one_error_stops_no_command(browser, serve, tmp_path):
    session, address = serve()
    page = Page(browser, address)
    video.write(tmp_path / "other.mp4", frames("portrait"), fps=8, crf=4)
    held = []

    def hold(route):
        if held:  # the other clip's own
            route.continue_()
        else:
            held.append((route, route.fetch()))

    page.page.route("**/api/frame/source/1", hold)
    page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '1 / 8'")
    page.page.locator("#file").set_input_files(str(tmp_path / "other.mp4"))
    page.wait("document.getElementById('source').height > document.getElementById('source').width")
    route, late = held[0]
    route.fulfill(response=late)
    page.page.wait_for_timeout(500)
    page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '1 / 8'")
    page.page.wait_for_timeout(500)
    shown = """() => {
      const c = document.getElementById("source");
      const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      const part = Math.floor(c.height / 10) * c.width * 4;
      let sum = 0, square = 0;
      for (let i = 0; i < part; i += 4) { sum += d[i]; square += d[i] * d[i]; }
      return Math.sqrt(square / (part / 4) - (sum / (part / 4)) ** 2);
    }"""
    assert len(held) == 1 and page.page.evaluate(shown) > 20, "noise, and not the other clip"
    told = """async () => {
      const session = await import("/static/session.js");
      let count = 0;
      session.whenChanged(() => { if (!count++) throw new Error("a listener failed"); });
      await session.run("set", { prompt: "first" });
      const said = document.getElementById("error").textContent;
      await session.run("set", { prompt: "second" });
      return said;
    }"""
    assert page.page.evaluate(told) == "a listener failed"
    assert session.project["prompt"] == "second" and page.errors == []
    page.context.close()


def test_operations_are_added_changed_and_moved_and_the_draft_follows(browser, serve):
    session, address = serve()
    page = Page(browser, address, viewport={"width": 390, "height": 844})
    drafts = []
    page.page.on("request", lambda asked: drafts.append(asked.url) if "/api/frame/draft/" in asked.url else None)
    by = lambda role, name: page.page.get_by_role(role, name=name, exact=True)  # noqa: E731

    def edited(**expected):
        page.steps(session, expected.pop("steps"))
        op = session.project["operations"][expected.pop("at", 0)]["op"]
        assert {word: op.get(word) for word in expected} == expected

    session.add_point(0, X, Y)
    page.page.reload()
    page.points(1)
    by("button", "Select p1").click()
    before = len(drafts)
    page.page.get_by_text("Add operation", exact=True).click()
    kinds = page.page.locator("#add-kind option").all_text_contents()
    assert kinds == [each["op"] for each in table.vocabulary()]
    page.page.locator("#add-kind").select_option("drag")
    assert "Moves a group of points" in page.page.locator("#add-says").inner_text()
    form = page.page.locator("#add-fields")
    form.get_by_label("by x", exact=True).fill("400")
    by("button", "Add it").click()
    page.page.get_by_text("is outside the allowed").wait_for()
    page.steps(session, 2)
    form.get_by_label("by x", exact=True).fill("0")
    form.get_by_label("by y", exact=True).fill("20")
    by("button", "Add it").click()
    edited(steps=3, op="drag", points=["p1"], by=[0, 20])
    page.page.locator("#add-kind").select_option("hide")
    form.get_by_label("start frame").fill("6")
    by("button", "Add it").click()
    edited(steps=4, at=1, op="hide", start_frame=6)
    page.page.get_by_text("Add operation", exact=True).click()

    by("button", "drag p1").click()
    own = page.page.locator("#operations .fields")
    own.get_by_label("by y", exact=True).fill("24")
    own.get_by_label("by y", exact=True).press("Enter")
    edited(steps=5, by=[0, 24])
    own.get_by_label("ease").select_option("linear")
    edited(steps=6, ease="linear")
    own.get_by_label("end frame").fill("40")
    own.get_by_label("end frame").press("Enter")
    own.get_by_text("there is no frame 40").wait_for()
    edited(steps=6, end_frame=None)
    own.get_by_label("end frame").fill("8")
    own.get_by_label("end frame").press("Enter")
    edited(steps=7, end_frame=8)
    assert own.get_by_text("there is no frame 40").count() == 0
    way = own.get_by_label("drag: what is given")
    way.focus()  # as a person has it: what is chosen stays while an earlier answer is shown
    way.select_option("start and end")
    for name, value in (("start x", X), ("start y", Y), ("end x", X), ("end y", Y + 24)):
        own.get_by_label(name, exact=True).fill(str(value))
    own.get_by_label("end y", exact=True).press("Enter")
    edited(steps=8, start=[X, Y], end=[X, Y + 24], by=None)

    by("button", "Move drag p1 down").click()
    edited(steps=9, at=1, op="drag")
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
    by("checkbox", "hide p1 is on").click()
    page.steps(session, 10)
    assert not session.project["operations"][0]["on"]
    page.wait("document.getElementById('draft').width > 100")
    assert len(drafts) >= before + 6, "each change asks for another draft"

    by("button", "Remove drag p1").click()
    page.steps(session, 11)
    assert [each["op"]["op"] for each in session.project["operations"]] == ["hide"]
    assert [error for error in page.errors if "400" not in error] == [] and len(page.asked) == 1
    page.context.close()


def test_a_box_is_drawn_and_the_timeline_goes_to_what_was_said(browser, serve):
    session, address = serve()
    session.add_point(0, X, Y)
    session.add_operation("hide", {"points": ["p1"], "start_frame": 6})
    session.add_operation("drag", {"points": ["p1"], "by": [0, 20]})
    page = Page(browser, address, viewport={"width": 390, "height": 844})
    by = lambda role, name: page.page.get_by_role(role, name=name, exact=True)  # noqa: E731
    by("button", "Select p1").click()
    page.page.locator("body").press("Home")
    for _ in range(4):
        page.page.keyboard.press(".")
    page.wait("document.getElementById('where').textContent === '4 / 8'")
    by("button", "Box").click()
    page.page.locator("#source").scroll_into_view_if_needed()
    left, top = moving_square.corners()[4].tolist()
    page.page.mouse.move(*page.at(session, left, top))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, left + 20, top + 20), steps=4)
    with page.page.expect_request("**/api/frame/draft/4"):  # what is drawn follows from what was said
        page.page.mouse.up()
    page.steps(session, 5)
    boxes = session.project["operations"][1]["op"]["boxes"]
    np.testing.assert_allclose(boxes["4"], [left, top, left + 20, top + 20], atol=0.5)
    page.page.keyboard.press(".")
    page.page.locator("#source").focus()
    for key in ("Enter", "ArrowRight", "Shift+ArrowDown", "Enter"):  # without a pointer
        page.page.keyboard.press(key)
    page.steps(session, 6)
    x, y = session.source().xy[0, 5].tolist()
    boxes = session.project["operations"][1]["op"]["boxes"]
    np.testing.assert_allclose(boxes["5"], [x - 11, y - 12, x + 13, y + 13], atol=0.05)
    by("button", "Box").click()  # bends again, and the point stays selected
    by("button", "Remove the box of drag p1 at 5").click()
    page.steps(session, 7)
    assert list(session.project["operations"][1]["op"]["boxes"]) == ["4"]

    by("button", "Brush").click()
    page.page.locator("#sign").select_option("remove")
    page.page.locator("#radius").fill("3")
    page.page.keyboard.press("Tab")
    page.page.locator("#source").scroll_into_view_if_needed()
    page.page.mouse.move(*page.at(session, 40, 30))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, 60, 50), steps=8)
    page.page.mouse.up()
    page.steps(session, 8)
    (stroke,) = session.project["operations"][1]["op"]["strokes"]["5"]
    assert (stroke["radius"], stroke["sign"]) == (3, "remove") and len(stroke["path"]) > 4
    np.testing.assert_allclose([stroke["path"][0], stroke["path"][-1]], [(40, 30), (60, 50)], atol=1)
    by("button", "Brush").click()
    by("button", "Remove the brush of drag p1 at 5").click()
    page.steps(session, 9)
    assert "strokes" not in session.project["operations"][1]["op"]

    by("group", "p1: hidden in frames 6 to 8").wait_for()
    by("button", "p1, frame 0: mark").focus()
    page.page.keyboard.press("ArrowRight")
    page.wait("document.getElementById('where').textContent === '4 / 8'")
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "p1, frame 4: box"
    by("button", "p1, frame 0: mark").click()
    page.wait("document.getElementById('where').textContent === '0 / 8'")
    track = page.page.locator(".track").bounding_box()
    page.page.mouse.click(track["x"] + track["width"] * 7.5 / 9, track["y"] + track["height"] / 2)
    page.wait("document.getElementById('where').textContent === '7 / 8'")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == [] and len(page.asked) == 1
    page.context.close()


def test_a_bend_is_given_a_pace_on_the_page(browser, serve):
    session, address = serve()
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    page = Page(browser, address)
    page.page.get_by_role("button", name="bend p1", exact=True).click()
    own = page.page.locator("#operations .fields")
    assert own.get_by_label("interpolation").input_value() == "smooth"
    own.get_by_label("ease").select_option("hold")
    page.steps(session, 4)
    path, tracked = session.target().xy[0], session.source().xy[0]
    np.testing.assert_allclose(path[[3, 4, 7]] - tracked[[3, 4, 7]], [(0, 0), (0, 20), (0, 20)], atol=0.02)
    own.get_by_label("interpolation").select_option("linear")
    page.steps(session, 5)
    own.get_by_label("Keyframe 4: frame").fill("8")
    own.get_by_label("Keyframe 4: frame").blur()
    own.get_by_text("two keyframes are at frame 8").wait_for()
    page.steps(session, 5)
    session.change_operation("o2", {"ease": {"0": "in"}})
    page.page.reload()
    page.points(1)
    page.page.get_by_role("button", name="bend p1", exact=True).click()
    assert own.get_by_label("ease").input_value() == "by keyframe"
    assert page.errors == []
    page.context.close()


def test_tracks_are_imported_and_put_right_and_the_project_saved_and_opened(browser, serve, tmp_path):
    session, address = serve()
    page = Page(browser, address, viewport={"width": 1280, "height": 1200})
    xy = np.stack([moving_square.corners(shift) + 10 for shift in ((0, 0), (60, 30))]).astype(np.float32)
    given = Tracks(xy, np.ones(xy.shape[:2], bool))
    page.page.locator("#tracks-file").set_input_files(track_files.write(tmp_path / "given.csv", given, (96, 128), 8))
    page.points(2)
    np.testing.assert_allclose(session.source().xy, xy, atol=1e-3)
    page.page.get_by_role("button", name="Lock p2").click()
    page.page.get_by_role("button", name="Rename p1").click()
    page.page.keyboard.type("the f.nose")  # letters and signs that are keys of the page elsewhere
    page.page.keyboard.press("Enter")
    page.page.get_by_role("button", name="Rename the f.nose").wait_for()
    page.steps(session, 4)
    page.page.locator("body").press("End")
    for _ in range(4):
        page.page.keyboard.press(",")
    page.wait("document.getElementById('where').textContent === '4 / 8'")

    def drag(start, by):
        x, y = start.tolist()
        page.page.mouse.move(*page.at(session, x, y))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, x + by[0], y + by[1]), steps=4)
        page.page.mouse.up()

    drag(xy[0, 4], (0, 20))
    page.steps(session, 5)
    toggle = page.page.get_by_role("button", name="Fix the track")
    toggle.focus()
    page.page.keyboard.press("Space")
    assert toggle.get_attribute("aria-pressed") == "true"
    drag(xy[0, 4], (-6, -9))  # where the tracker has it, not where it was bent to
    page.steps(session, 6)
    assert session.state()["undo"][-1] == "Correct the f.nose at 4"
    np.testing.assert_allclose(session.source().xy[0, 4], xy[0, 4] + (-6, -9), atol=0.6)
    np.testing.assert_allclose(session.target().xy[0, 4], xy[0, 4] + (-6, 11), atol=0.6)
    for _ in range(2):  # the selection, then the tool
        page.page.keyboard.press("Escape")
    assert toggle.get_attribute("aria-pressed") == "false"
    drag(xy[1, 4], (5, 5))
    page.wait("document.getElementById('error').textContent.includes('p2 is locked')")
    page.page.get_by_role("button", name="Lock p2").click()
    page.steps(session, 7)
    page.page.keyboard.down("Alt")
    drag(xy[1, 4], (5, 5))
    page.page.keyboard.up("Alt")
    page.steps(session, 8)
    assert [mark["t"] for mark in session.project["points"][1]["marks"]] == [4]
    page.page.keyboard.down("Alt")
    drag(xy[0, 4] + (-6, 11), (3, 0))  # a bent point is caught where it is seen as well
    page.page.keyboard.up("Alt")
    page.steps(session, 9)
    np.testing.assert_allclose(session.source().xy[0, 4], xy[0, 4] + (-3, -9), atol=0.9)
    assert len(session.project["operations"]) == 1

    with page.page.expect_download() as saved:
        page.page.get_by_role("link", name="Save project").click()
    saved.value.save_as(tmp_path / "mine.mv2v")
    page.page.locator("#which").select_option("source")
    page.page.locator("#format").select_option("csv")
    with page.page.expect_download() as exported:
        page.page.get_by_role("link", name="Export tracks").click()
    exported.value.save_as(tmp_path / "out.csv")
    np.testing.assert_allclose(track_files.read(tmp_path / "out.csv")[0].xy, session.source().xy, atol=1e-3)

    kept, source = session.state()["project"]["points"], session.source().xy
    page.page.get_by_role("button", name="Take back the mark of p2 at 4").click()
    page.steps(session, 10)
    page.page.get_by_role("button", name="Remove p2").click()
    page.points(1)
    page.page.locator("#project-file").set_input_files(tmp_path / "mine.mv2v")
    page.points(2)
    assert session.project["points"] == kept
    np.testing.assert_array_equal(session.source().xy, source)
    page.page.locator("#tracks-file").set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": b"track\n"})
    page.wait("document.getElementById('error').textContent.includes('expected track,frame,x,y,visible')")
    assert [error for error in page.errors if "400" not in error] == [] and len(page.asked) == 1
    page.context.close()
