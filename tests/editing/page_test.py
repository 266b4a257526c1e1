"""The editor page in a real Chromium: clicks land, drags bend, keys work, nothing is asked of the network."""

import shutil
import threading
import time

import moving_square
import numpy as np
import pytest

from motionv2v import video
from motionv2v.editing.session import Session

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium-headless-shell")
SHAPES = {"landscape": (96, 128), "portrait": (160, 90)}
X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def frames(shape):
    if shape == "landscape":
        return moving_square.draw()
    return np.random.default_rng(0).integers(0, 255, (9, *SHAPES[shape], 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def serve(tmp_path):
    """Serve a session on a clip; returns (session, address)."""
    from motionv2v.editing import server

    running = []

    def start(shape="landscape"):
        video.write(tmp_path / f"{shape}.mp4", frames(shape), fps=8, crf=4)
        session = Session(tmp_path / shape)
        session.open(tmp_path / f"{shape}.mp4")
        own = uvicorn.Server(uvicorn.Config(server.make_app(session, "secret"), port=0, log_level="error"))
        thread = threading.Thread(target=own.run, daemon=True)
        thread.start()
        running.append((own, thread, session))
        deadline = time.time() + 20
        while not own.started and time.time() < deadline:
            time.sleep(0.02)
        return session, f"http://127.0.0.1:{own.servers[0].sockets[0].getsockname()[1]}/?token=secret"

    yield start
    for own, thread, session in running:
        own.should_exit = True
        thread.join(10)
        session.runs.close()


class Page:
    """A page that is open, and what it complained of."""

    def __init__(self, browser, address, **options):
        # Playwright waits by evaluating strings, which the page's own policy forbids.
        self.context = browser.new_context(bypass_csp=True, **options)
        self.page, self.errors, self.asked = self.context.new_page(), [], set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.asked.add(request.url.split("/")[2]))
        self.page.goto(address)
        self.wait("document.getElementById('where').textContent === '0 / 8'")
        self.wait("document.getElementById('source').height > 2")

    def wait(self, condition):
        self.page.wait_for_function(condition, timeout=30_000)

    def at(self, session, x, y):
        """Turn a place in the clip into one in the window."""
        box = self.page.locator("#source").bounding_box()
        width = session.clip.frames.shape[2]
        scale = box["width"] / width
        return float(box["x"] + x * scale), float(box["y"] + y * scale)

    def points(self, count):
        self.wait(f"document.querySelectorAll('#points li').length === {count}")

    def steps(self, session, count):
        deadline = time.time() + 20
        while len(session.state()["undo"]) != count and time.time() < deadline:
            time.sleep(0.02)
        assert len(session.state()["undo"]) == count


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
    page.page.mouse.move(*page.at(session, x, y))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, x + 10, y + 20), steps=60)
    page.page.mouse.up()
    page.steps(session, 3)
    np.testing.assert_allclose(session.target().xy[0][4], (x + 10, y + 20), atol=0.5)
    bent = session.project
    page.page.keyboard.press("Control+z")
    page.steps(session, 2)
    np.testing.assert_allclose(session.target().xy[0][4], (x, y), atol=0.02)
    page.page.keyboard.press("Control+Shift+z")
    page.steps(session, 3)
    assert session.project == bent
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
        "all => all.map((each) => each.getBoundingClientRect().height)"
    )
    assert min(targets) >= 16 and np.median(targets) >= 30
    page.page.reload()
    page.points(1)
    assert page.errors == []
    page.context.close()


def test_a_mistake_is_a_sentence_on_the_page(browser, serve):
    session, address = serve()
    page = Page(browser, address)
    session.set(prompt="from another tab")
    page.page.mouse.click(*page.at(session, X, Y))
    page.wait("document.getElementById('error').textContent.includes('another tab')")
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    assert page.page.locator("#prompt").input_value() == "from another tab"
    page.context.close()
