"""The whole way through the editor page by keyboard alone, in a real Chromium, with the focus in sight all along."""

import moving_square
import numpy as np
import pytest
import served_page
import tiny_model
from served_page import Page

from motionv2v import video
from motionv2v.editing.session import Session

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
WATCH = """() => {
    window.lost = [];
    window.pointers = 0;
    const say = (each) => each.getAttribute("aria-label") || each.id || each.textContent.slice(0, 40);
    let last = null;
    setInterval(() => {
        const on = document.activeElement;
        if (on !== document.body) last = say(on);
        else if (last) window.lost.push(last), (last = null);
    }, 20);
    const count = () => (window.pointers += 1);
    for (const kind of ["pointerdown", "pointermove", "mousedown"]) addEventListener(kind, count, true);
}"""
"""Notes what had the focus before nothing had it, and counts what a pointer does."""
FOCUS = """() => {
    const held = document.activeElement;
    const on = held.closest(".button") || held;
    const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map((each) => Number(each) / 255);
        const flat = [r, g, b].map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * flat[0] + 0.7152 * flat[1] + 0.0722 * flat[2];
    };
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.background = "canvas";
    const ground = light(getComputedStyle(probe).backgroundColor);
    probe.remove();
    const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(on);
    const line = light(outlineColor);
    const { width, height } = on.getBoundingClientRect();
    return {
        names: [held.getAttribute("aria-label"), held.id, on.textContent.trim()],
        isBody: on === document.body,
        outline: outlineStyle === "none" ? 0 : parseFloat(outlineWidth),
        contrast: (Math.max(line, ground) + 0.05) / (Math.min(line, ground) + 0.05),
        isSeen: width > 0 && height > 0,
    };
}"""


class Keys:
    """A page that is driven by keys alone."""

    def __init__(self, page, session):
        self.page, self.session, self.keyboard = page, session, page.page.keyboard

    def focus(self):
        found = self.page.page.evaluate(FOCUS)
        assert not found["isBody"] and found["isSeen"], found
        assert found["outline"] >= 2 and found["contrast"] >= 3, found
        return found["names"]

    def press(self, *keys):
        for key in keys:
            self.keyboard.press(key)
            self.focus()

    def tab_to(self, name, key="Tab"):
        passed = []
        while not passed or name not in passed[-1]:
            assert len(passed) < 120, (name, passed)
            self.keyboard.press(key)
            passed.append(self.focus())

    def steps(self, count, label):
        self.page.steps(self.session, count)
        assert self.session.state()["undo"][-1] == label
        self.focus()

    def at(self, frame):
        self.page.wait(f"document.getElementById('where').textContent === '{frame} / 8'")


def test_all_is_done_by_keys_and_the_focus_is_never_lost(browser, tmp_path):
    clip = video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    session = Session(tmp_path / "workspace")
    with served_page.served(session) as address:
        # In the dark, where the line about what has the focus stands out less.
        page = Page(browser, viewport={"width": 1280, "height": 900}, color_scheme="dark")
        page.page.goto(address)
        page.page.evaluate(WATCH)
        keys = Keys(page, session)
        choosers = []
        page.page.on(
            "filechooser", lambda each: choosers.append(each)
        )  # before the key: what asks for one is not waited for
        keys.tab_to("Open a video or a picture")
        keys.press("Space")
        while not choosers:
            page.page.wait_for_timeout(50)
        choosers[0].set_files(clip)
        page.ready()
        point_bend_and_ease(keys)
        hide_box_and_add(keys)
        undo_and_redo(keys)
        run_cancel_and_resume(keys, str(tiny_model.save(tmp_path / "tiny", num_frames=9)))
        save(keys, tmp_path)
        assert page.page.evaluate("window.lost") == [] and page.page.evaluate("window.pointers") == 0
        # A model's name that is half typed is none.
        assert [error for error in page.errors if "400" not in error] == [] and len(page.asked) == 1
        page.context.close()


def point_bend_and_ease(keys):
    session = keys.session
    keys.press("p", *["Shift+ArrowLeft"] * 4, *["ArrowUp"] * 8, *["ArrowLeft"] * 4, "Enter")
    keys.steps(2, "Add a point at 0")
    keys.press(*[","] * 2, *["."] * 4)
    keys.at(4)
    keys.press("k")
    keys.steps(3, "Bend p1 at 4")
    before = session.target().xy[0, 4]
    keys.press("Shift+ArrowDown", "ArrowRight")
    keys.steps(5, "Bend p1 at 4")
    np.testing.assert_allclose(session.target().xy[0, 4] - before, (1, 10), atol=0.01)
    keys.press("e", "ArrowDown", "Enter")
    keys.steps(6, "Ease p1 at 4")
    assert session.project["operations"][0]["op"]["ease"] == {"4": "in"}


def hide_box_and_add(keys):
    session = keys.session
    keys.press("F6", "F6")  # to the timeline, where a keyframe is gone to
    keys.tab_to("p1, frame 0: mark, keyframe, as it was")
    keys.press("ArrowRight", "ArrowRight")
    keys.at(8)
    keys.tab_to("First frame of the range")
    keys.keyboard.type("6")
    keys.tab_to("Last frame of the range")
    keys.keyboard.type("8")
    keys.tab_to("Hide or show")
    keys.press("Enter")
    keys.steps(7, "Hide p1 in frames 6 to 8")
    assert session.target().visible[0].tolist() == [True] * 6 + [False] * 3
    keys.tab_to("source", "Shift+Tab")
    keys.press("Home", "m", "Enter", "ArrowRight", "Shift+ArrowDown", "Enter")
    keys.steps(8, "Box p1 at 0")
    assert list(session.project["operations"][0]["op"]["boxes"]) == ["0"]
    keys.tab_to("show-masks", "Shift+Tab")
    keys.press("Space")
    keys.page.says("things", "Up to date: in 9 of 9 frames", 300)
    keys.tab_to("source")
    keys.press("Shift+p", "Shift+F6")  # backwards round the page: the panel
    keys.press("Enter")
    keys.tab_to("add-kind")
    keys.press("ArrowDown", "ArrowUp")
    keys.tab_to("by x")
    keys.keyboard.type("7")
    keys.tab_to("Add it")
    keys.press("Enter")
    keys.steps(9, "Add drag")
    assert session.project["operations"][-1]["op"] == {"op": "drag", "points": ["p1"], "by": [7, 0], "ease": "smooth"}


def undo_and_redo(keys):
    session = keys.session
    whole = session.target().xy
    for label in ("Box p1 at 0", "Hide p1 in frames 6 to 8", "Ease p1 at 4"):
        keys.press("Control+z")
        keys.page.wait(f"document.getElementById('undo').title === {label!r}")
    assert "ease" in session.project["operations"][0]["op"] and len(session.project["operations"]) == 1
    for label in ("Hide p1 in frames 6 to 8", "Box p1 at 0", "Add drag"):
        keys.press("Control+Shift+z")
        keys.page.wait(f"document.getElementById('undo').title === {label!r}")
    np.testing.assert_array_equal(session.target().xy, whole)


def run_cancel_and_resume(keys, model):
    keys.tab_to("checkpoint")
    keys.press("Control+a")
    keys.keyboard.type(model)
    keys.tab_to("Seeds, steps, guidance")
    keys.press("Enter")
    keys.tab_to("num-steps")
    keys.keyboard.type("240")
    keys.press("Control+Enter")
    keys.page.wait("/step \\d+ of 240/.test(document.querySelector('#runs .where')?.textContent)", 300)
    keys.tab_to("Cancel run 1")
    keys.press("Enter")
    keys.page.says("runs", "Stopped at step")
    assert "Resume run 1" in keys.focus(), "what takes the place of a button has the focus"
    keys.press("Enter")
    keys.page.says("runs", "took", 300)
    keys.focus()
    assert keys.session.runs.result("1").is_file()
    assert any("goes on behind step" in line for line in keys.session.runs.status("1")["log"])


def save(keys, folder):
    session = keys.session
    keys.tab_to("Save project")
    with keys.page.page.expect_download() as saved:
        keys.keyboard.press("Enter")
    saved.value.save_as(folder / "mine.mv2v")
    other = Session(folder / "other")
    other.open_project(folder / "mine.mv2v")
    assert other.project["operations"] == session.project["operations"]
    other.runs.close()
