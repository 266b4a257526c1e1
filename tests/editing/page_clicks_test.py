"""Clicks land where they are meant, whatever the clip's size, the screen's and the browser's pixels, and the zoom."""

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page

from motionv2v import video
from motionv2v.editing.session import Session
from motionv2v.tracks import Tracks

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
SIZES = ((480, 720), (720, 480), (1920, 1080))
RATIOS = (1, 1.5, 2, 3)
SPOTS = [(u, v) for u in (0.12, 0.47, 0.85) for v in (0.1, 0.51, 0.83)]
FIT = """([x, y]) => import("/static/stage.js").then((stage) => {
    stage.fit();
    const [left, top] = stage.inWindow([x, y]).map(Math.round); // whole pixels of the page
    return [left, top, ...stage.place({ clientX: left, clientY: top }), stage.lens().k];
})"""
CLOSE = """([x, y]) => import("/static/stage.js").then((stage) => {
    stage.actual(4);
    const { box } = stage.lens();
    const [u, v] = stage.inWindow([x, y]);
    stage.pan(box.left + box.width / 2 - u, box.top + Math.min(box.height, 300) / 2 - v);
    return [...stage.inWindow([x, y]), stage.shownZoom()];
})"""


class Still:
    """Leaves points where they are."""

    def track(self, frames, queries):
        shape = len(queries), len(frames)
        return Tracks(np.repeat(np.float32(queries)[:, None, 1:], len(frames), axis=1), np.ones(shape, bool))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_nine_spots_on_every_screen_at_every_zoom(browser, tmp_path, size):
    frame = moving_square.textured(np.random.default_rng(0), size)
    height, width = size
    video.write(tmp_path / "still.mp4", np.stack([frame] * 2), fps=8, crf=20)
    session = Session(tmp_path / "workspace")
    session.open(tmp_path / "still.mp4")
    session._tracker = Still()
    with served_page.served(session) as address:
        for ratio in RATIOS:
            page = Page(browser, address, viewport={"width": 1280, "height": 1600}, device_scale_factor=ratio)
            page.page.route("**/api/frame/draft/*", lambda route: route.fulfill(status=204))  # the places are asked for
            for number, (u, v) in enumerate(SPOTS):
                for is_close in (False, True):
                    wanted = [width * (u + 0.06 * is_close) + 0.3, height * v + 0.6]
                    if is_close:
                        x, y, zoom = page.main.evaluate(CLOSE, wanted)
                        assert zoom == 400
                        most = 0.5
                    else:
                        x, y, *wanted, k = page.main.evaluate(FIT, wanted)
                        most = 0.5 / (k * ratio)
                    page.page.mouse.click(x, y)
                    page.points(2 * number + is_close + 1)
                    point = session.project["points"][-1]
                    off = np.abs(np.array([point["x"], point["y"]]) - wanted).max()
                    assert off <= most, (size, ratio, is_close, wanted, point)
            assert page.errors == []
            session.remove_points([point["id"] for point in session.project["points"]])
            page.context.close()
