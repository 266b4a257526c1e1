"""The editor page served to a real Chromium, for tests: the server in a thread, the browser, a page that listens."""

import contextlib
import shutil
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from waiting import until

from motionv2v import editing

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
REASON = "needs Chromium: apt-get install chromium-headless-shell"
PATIENCE = 120
"""Seconds that a busy machine may take for what is no work."""


@contextlib.contextmanager
def kept_port():
    """Keep a port within a block, from all but servers that take it by its number; yields the number."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("127.0.0.1", 0))  # a server may bind it too, as long as nobody listens
        yield own.getsockname()[1]


@contextlib.contextmanager
def served(session, port=0, token="secret"):
    """Serve a session within a block; yields the address with its token."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")

    from motionv2v.editing import server

    own = uvicorn.Server(uvicorn.Config(server.make_app(session, token), port=port, log_level="error"))
    before, thread = set(threading.enumerate()), threading.Thread(target=own.run, daemon=True)
    thread.start()
    until(lambda: own.started or not thread.is_alive())
    assert own.started, "the server does not start"
    try:
        yield f"http://127.0.0.1:{own.servers[0].sockets[0].getsockname()[1]}/?token={token}"
    finally:
        own.should_exit = True
        thread.join(PATIENCE)
        for each in set(threading.enumerate()) - before:  # who ends amid OpenCV's work is aborted
            if each.name.startswith("AnyIO"):
                each.join(PATIENCE)
        session.runs.close()


@contextlib.contextmanager
def launched():
    """Start Chromium within a block."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


FLASHES = """() => import("/static/session.js").then(({ view }) => {
    let is = (window.flashes = []) && view.flash;
    const set = (value) => ((is = value), window.flashes.push([value, performance.now()]));
    Object.defineProperty(view, "flash", { get: () => is, set });
})"""
"""Notes in `window.flashes` when what changed is made to flash, and when no longer."""


class Page:
    """A page that is open, what it complained of and asked for. `main` is it, or the frame that the page lies in."""

    def __init__(self, browser, address=None, context=None, **options):
        # Playwright waits by evaluating strings, which the page's own policy forbids.
        self.context = context or browser.new_context(bypass_csp=True, **options)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page, self.errors, self.asked = self.context.new_page(), [], set()
        self.main = self.page
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._hear)
        if address:
            self.page.goto(address)
            self.ready()

    def _hear(self, request):
        if not request.url.startswith(("blob:", "data:", "about:")):  # which leave the page for nobody
            self.asked.add(urlsplit(request.url).netloc)

    def ready(self):
        self.wait(
            "/ [1-9]/.test(document.getElementById('where').textContent)"
        )  # a canvas has 150 rows before it is drawn

    def wait(self, condition, seconds=PATIENCE):
        try:
            self.main.wait_for_function(condition, timeout=1000 * seconds)
        except Exception as error:
            said = self.main.evaluate(
                "['error', 'hint', 'busy', 'needs'].map((id) => document.getElementById(id).textContent)"
            )
            raise AssertionError(f"{condition}: the page says {said}, and complains of {self.errors}") from error

    def there(self, which, index, seconds=300):
        """Wait for a frame: a promise, which `wait` would take for true."""
        asked = f"import('/static/frames.js').then((frames) => Boolean(frames.there('{which}', {index})))"
        deadline = time.time() + seconds
        while not self.main.evaluate(asked):
            assert time.time() < deadline, f"no frame {index} of {which}"
            self.page.wait_for_timeout(50)

    def says(self, place, text, seconds=PATIENCE):
        self.wait(f"document.getElementById('{place}').textContent.includes({text!r})", seconds)

    def button(self, name, **options):
        return self.main.get_by_role("button", name=name, **options)

    def painted(self):
        """Wait until what the page has by now is on its canvases."""
        self.main.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def steps(self, session, count):
        """Wait until a session has so many steps to undo, and the page has heard of the last one and shows it."""
        known = "import('/static/session.js').then(({ state, isWaiting }) => isWaiting() ? -1 : state.revision)"
        deadline = time.time() + PATIENCE
        while len(done := session.state()["undo"]) != count or self.main.evaluate(known) != session.revision:
            assert time.time() < deadline, f"{len(done)} steps and not {count}; the last ones: {done[-3:]}"
            self.page.wait_for_timeout(20)

    def points(self, count):
        self.wait(f"document.querySelectorAll('#points li').length === {count}")

    def at(self, session, x, y):
        """Turn a place in the clip into one in the window."""
        box = self.main.locator("#source").bounding_box()
        scale = box["width"] / session.clip.frames.shape[2]
        return float(box["x"] + x * scale), float(box["y"] + y * scale)

    def download(self, press):
        with self.page.expect_download(timeout=60_000) as found:
            press()
        return found.value


def unserved(browser, session, **options):
    """Open the page on a session without a server: it gets its own files, is told the state, and nothing else."""
    static = Path(editing.__file__).parent / "static"

    def answer(route):
        path = urlsplit(route.request.url).path
        if path == "/api/state":
            route.fulfill(json=session.state())
        elif path.startswith("/api/"):
            route.fulfill(status=404, json={"error": "nobody is there"})
        else:
            route.fulfill(path=static / (path.removeprefix("/static/").strip("/") or "editor.html"))

    page = Page(browser, **options)
    page.page.route("**/*", answer)
    page.page.goto("http://editor.invalid/")
    page.ready()
    return page


def own_work(page):
    """Return a function that tells how many milliseconds the page itself has worked since it was asked last.

    That is of the processor, which others may take most of the time.
    """
    tools, before = page.context.new_cdp_session(page.page), [0.0]
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def worked():
        now = {each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
        before.append(now)
        return 1000 * (now - before[-2])

    worked()
    return worked
