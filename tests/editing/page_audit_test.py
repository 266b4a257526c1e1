"""The first minute on the editor page, an audit of its main states for everyone, and their pictures for the docs.

    PYTHONPATH=.:tests python tests/editing/page_audit_test.py FOLDER

takes the pictures that `motionv2v/editing/page.md` shows.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page

from motionv2v import video
from motionv2v.editing.session import Session

pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
X, Y = (float(side) + 10 for side in moving_square.corners()[0])
STATES = ("empty", "open", "point", "bent", "ease", "operation", "run", "history", "conflict")
COLOURS = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"}, "forced": {"forced_colors": "active"}}
PICTURES = {"bent": (1280, 860), "masks": (1000, 720), "ease": (1000, 720), "run": (1280, 1160), "phone": (390, 844)}
"""Of the docs; high enough for what they show, and no higher: further down are paths of this machine."""
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def opened(folder, browser, **options):
    """Serve a new workspace, and open its page; yields (session, page)."""
    session = Session(Path(folder) / "workspace")
    with served_page.served(session) as address:
        page = Page(browser, **{"viewport": {"width": 1280, "height": 1000}, **options})
        page.page.goto(address)
        page.wait("document.getElementById('points')")
        yield session, page
        page.context.close()


def scene(folder):
    """Write the packaged example's clip where the page may open it; returns its place."""
    place = ROOT / "motionv2v" / "examples" / "shapes" / "source.mp4"
    return place if place.is_file() else video.write(Path(folder) / "square.mp4", moving_square.draw(), fps=8, crf=4)


def states(folder, session, page):
    """Bring the page into its main states one after the other; yields the name of each."""
    yield "empty"
    place = video.write(Path(folder) / "square.mp4", moving_square.draw(), fps=8, crf=4)
    page.main.locator("#file").set_input_files(str(place))
    page.ready()
    yield "open"
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    yield "point"
    session.bend(["p1"], 4, 0, 20)
    page.page.reload()
    page.ready()
    page.page.keyboard.press("End")
    yield "bent"
    page.button("Select p1").click()
    page.page.keyboard.press("e")
    page.main.get_by_role("menuitemradio").first.wait_for()
    yield "ease"
    page.page.keyboard.press("Escape")
    page.main.get_by_role("button", name="bend p1", exact=True).click()
    page.main.get_by_text("Add operation").click()
    yield "operation"
    page.button("Run at full size").click()
    page.says("runs", "took", 120)
    page.wait("document.getElementById('needs').textContent.includes('Memory')")
    yield "run"
    page.button("Use the result of run 1 as source").click()
    page.says("generation", "1 edit from its first source")
    yield "history"
    session.set(prompt="another tab's")
    page.main.locator("#prompt").fill("mine")
    page.main.locator("#prompt").blur()
    page.wait("!document.getElementById('conflict').hidden")
    yield "conflict"


@pytest.mark.parametrize("colours", COLOURS)
def test_the_audit_finds_nothing_serious(tmp_path, colours):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python: pip install axe-playwright-python"
    )
    found, seen = [], []
    with served_page.launched() as browser, opened(tmp_path, browser, **COLOURS[colours]) as (session, page):
        for state in states(tmp_path, session, page):
            seen.append(state)
            for each in axe.Axe().run(page.page).response["violations"]:
                if each["impact"] in ("serious", "critical"):
                    found += [(state, each["id"], node["html"][:200]) for node in each["nodes"]]
        assert seen == list(STATES)
        assert [error for error in page.errors if "409" not in error] == []
    assert found == [], json.dumps(found, indent=1)


def test_the_first_minute(tmp_path):
    """A fresh workspace: open, click, drag, run; a result within a minute, and no dialog in the way."""
    dialogs = []
    with served_page.launched() as browser, opened(tmp_path, browser) as (session, page):
        page.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        began = time.perf_counter()
        place = video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
        page.main.locator("#file").set_input_files(str(place))
        page.ready()
        page.page.mouse.click(*page.at(session, X, Y))
        page.points(1)
        x, y = session.source().xy[0, 0].tolist()
        page.page.mouse.move(*page.at(session, x, y))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, x, y + 15), steps=6)
        page.page.mouse.up()
        page.wait("document.querySelectorAll('#operations > li').length === 1")
        page.button("Run at full size").click()
        page.says("runs", "took", 60)
        took = time.perf_counter() - began
        assert session.runs.result("1").is_file()
        assert took <= 60 and dialogs == [] and page.errors == [] and len(page.asked) == 1
    assert np.asarray(video.read(session.runs.result("1")).frames).shape == (9, 96, 128, 3)


def open_sample(page):
    page.button("Try a sample").click()
    page.wait("document.getElementById('where').textContent === '0 / 48'")
    page.ready()


def test_a_sample_is_one_click_away_while_nothing_is_open(tmp_path):
    with served_page.launched() as browser, opened(tmp_path, browser) as (session, page):
        assert page.main.locator("#kept").is_hidden(), "nothing lies in the workspace"
        open_sample(page)
        assert page.button("Try a sample").is_hidden() and page.main.locator("dialog:visible").count() == 0
        assert session.clip.frames.shape == (49, 320, 480, 3)
        page.wait("document.getElementById('kept').value === 'clips/courtyard.mp4'")
        session.open(video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4))
        page.page.reload()
        page.says("where", "/ 8")
        assert page.button("Try a sample").is_hidden()
        page.button("Open it").click()
        page.says("where", "/ 48")
        assert page.errors == [] and len(page.asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["draft", "tiny"])
def test_the_first_minute_on_the_sample(tmp_path, model):
    """A fresh workspace, four things done with the pointer: the sample, a click, a drag, and the run."""
    is_quiet, car = os.getloadavg()[0] <= 0.75 * (os.cpu_count() or 1), (75.2, 186.4)
    with served_page.launched() as browser, opened(tmp_path, browser) as (session, page):
        session.checkpoint = model
        page.page.reload()
        began = time.perf_counter()
        open_sample(page)
        page.page.mouse.click(*page.at(session, *car))
        page.wait("document.querySelectorAll('#points li').length === 1", 600)
        page.page.mouse.move(*page.at(session, *car))
        page.page.mouse.down()
        page.page.mouse.move(*page.at(session, car[0], car[1] - 20), steps=6)
        page.page.mouse.up()
        page.wait("document.querySelectorAll('#operations > li').length === 1")
        page.button("Run at full size").click()
        page.says("runs", "took", 900)
        took = time.perf_counter() - began
        assert page.errors == [] and len(page.asked) == 1
    print(f"the sample, run with {model}, after {took:.0f} s; quiet: {is_quiet}")
    assert np.asarray(video.read(session.runs.result("1")).frames).shape == (49, 320, 480, 3)
    if is_quiet:
        assert took <= 60


def take_pictures(folder):
    """Take the pictures of the docs: WebP, small."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, served_page.launched() as browser:
        for name, (width, height) in PICTURES.items():
            options = {"viewport": {"width": width, "height": height}}
            with opened(Path(scratch) / name, browser, **options) as (session, page):
                shoot(session, page, name, folder / f"page_{name}.webp")


def shoot(session, page, name, path):
    """Bring the page into the state of a picture, and take it: the packaged courtyard's car, driven nearer."""
    import io

    from PIL import Image

    example = ROOT / "motionv2v" / "examples" / "courtyard"
    session.open(example / "source.mp4")
    car = [each for each in json.loads((example / "edit.json").read_text())["queries"] if "car" in each["name"]]
    for each in car:
        session.add_point(each["t"], each["x"], each["y"])
    last = len(session.clip.frames) - 1
    names = [f"p{index + 1}" for index in range(len(car))]
    session.bend(names, last // 2, 0, 50)
    for frame, box in ((0, (40, 150, 184, 238)), (last, (72, 150, 204, 238))):  # as in the example's own edit
        session.set_box(names, frame, box)
    page.page.reload()
    page.ready()
    for _ in range(last // (4 if name == "ease" else 2)):
        page.page.keyboard.press(".")
    if name == "masks":
        page.button("Select p1").click()
        page.main.locator("#show-masks").check()
        page.says("things", "Up to date: in 49 of 49 frames", 600)
    if name == "run":
        page.button("Run at full size").click()
        page.says("runs", "took", 600)
        page.button("Show the result of run 1 beside the source").click()
        page.wait("document.querySelector('#runs video').readyState >= 2")
    canvas = "document.getElementById('draft')"
    page.wait(f"{canvas}.width && {canvas}.getContext('2d').getImageData(20, 20, 1, 1).data[0] > 30", 600)
    if name == "ease":
        page.page.keyboard.press("Control+a")
        page.page.keyboard.press("e")
        page.main.get_by_role("menuitemradio", name="In slow at first").hover()
    page.page.wait_for_timeout(3000)
    with Image.open(io.BytesIO(page.page.screenshot())) as picture:
        picture.convert("RGB").save(path, "WEBP", quality=60, method=6)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
