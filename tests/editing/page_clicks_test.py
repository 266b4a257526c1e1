"""Clicks land where they are meant, whatever the clip's size, the screen's and the browser's pixels, and the zoom."""

import moving_square
import numpy as np
import pytest
import served_page
from scipy import ndimage
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
FIT = "() => import('/static/stage.js').then((stage) => stage.fit())"
CLOSE = """([x, y]) => import("/static/stage.js").then((stage) => {
    stage.actual(4);
    const { box } = stage.lens();
    const [u, v] = stage.inWindow([x, y]);
    stage.pan(box.left + box.width / 2 - u, box.top + Math.min(box.height, 300) / 2 - v);
    return stage.shownZoom();
})"""
GREEN = """async () => {
    for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame); // it is drawn by then
    const canvas = document.getElementById("source");
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = [];
    for (let at = 0; at < data.length; at += 4) {
        if (data[at + 1] > 140 && data[at] < 100 && data[at + 2] < 100) found.push(at / 4);
    }
    return { found, columns: canvas.width, rows: canvas.height, box: [left, top, width, height] };
}"""


class Still:
    """Leaves points where they are."""

    def track(self, frames, queries):
        shape = len(queries), len(frames)
        return Tracks(np.repeat(np.float32(queries)[:, None, 1:], len(frames), axis=1), np.ones(shape, bool))


def wanted(size):
    """Return where the clip has its green squares, (x, y) of their middles: nine for each of the zooms."""
    height, width = size
    found = {}
    for is_close in (0, 1):
        places = np.array([[width * (u + 0.06 * is_close), height * v] for u, v in SPOTS])
        found[is_close] = 2 * np.rint(places / 2)  # even, for a video's colours come in squares of two
    return found


def seen(page):
    """Find the green squares on the screen; returns their middles in the window's pixels, and the screen's to one.

    Nothing of the page says where they are: the picture on the canvas does, and where the browser has laid that.
    """
    told = page.main.evaluate(GREEN)
    mask = np.zeros(told["rows"] * told["columns"], bool)
    mask[told["found"]] = True
    parts, count = ndimage.label(mask.reshape(told["rows"], told["columns"]))
    sizes = ndimage.sum_labels(parts > 0, parts, range(1, count + 1))
    whole = [number for number, size in enumerate(sizes, 1) if size > 0.5 * sizes.max()]
    left, top, width, height = told["box"]
    rows, columns = np.transpose(ndimage.center_of_mass(parts > 0, parts, whole))
    x, y = left + (columns + 0.5) * width / told["columns"], top + (rows + 0.5) * height / told["rows"]
    return np.stack([x, y], 1), told["columns"] / width


def in_rows(places):
    """Sort 18 places as the columns of `wanted` lie: by x in groups of three, each by y."""
    columns = places[np.argsort(places[:, 0])].reshape(6, 3, 2)
    return np.concatenate([column[np.argsort(column[:, 1])] for column in columns])


def clicked(page, session, middle, place, scale, most):
    """Click on the whole pixel of the page at a middle; the point must be there, `scale` pixels of the clip to one."""
    count = len(session.project["points"])
    at = np.rint(middle)
    page.page.mouse.click(*at.tolist())
    page.points(count + 1)
    point = session.project["points"][-1]
    off = np.array([point["x"], point["y"]]) - (place + (at - middle) * scale)
    assert np.abs(off).max() <= most, (middle, place, scale, point)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_nine_spots_on_every_screen_at_every_zoom(browser, tmp_path, size):
    frame = moving_square.textured(np.random.default_rng(0), size) // 2
    half, places = 2 * max(3, size[1] // 160), wanted(size)
    for x, y in np.concatenate([places[0], places[1]]).astype(int):
        frame[y - 2 * half : y + 2 * half, x - 2 * half : x + 2 * half] = 40  # so that all edges look the same
        frame[y - half : y + half, x - half : x + half] = (0, 255, 0)
    video.write(tmp_path / "still.mp4", np.stack([frame] * 2), fps=8, crf=4)
    session = Session(tmp_path / "workspace")
    session.open(tmp_path / "still.mp4")
    session._tracker = Still()
    columns = in_rows(np.concatenate([places[0], places[1]]))
    with served_page.served(session) as address:
        for ratio in RATIOS:
            page = Page(browser, address, viewport={"width": 1280, "height": 1600}, device_scale_factor=ratio)
            page.page.route("**/api/frame/draft/*", lambda route: route.fulfill(status=204))  # the places are asked for
            page.main.evaluate(FIT)
            page.there("source", 0)
            found, fine = seen(page)  # before points are drawn over them
            found = in_rows(found)
            scale = np.ptp(columns[:, 0]) / np.ptp(found[:, 0])
            for place in places[0]:
                (row,) = np.flatnonzero((columns == place).all(axis=1))
                clicked(page, session, found[row], place, scale, max(0.5, scale / fine))  # a pixel of the screen
            for place in places[1]:
                assert page.main.evaluate(CLOSE, place.tolist()) == 400
                found, fine = seen(page)
                box = page.main.locator("#source").bounding_box()
                middle = np.array([box["x"] + box["width"] / 2, box["y"] + min(box["height"], 300) / 2])
                near = found[np.argmin(np.linalg.norm(found - middle, axis=1))]
                clicked(page, session, near, place, fine / 4, 0.5)
            assert page.errors == []
            session.remove_points([point["id"] for point in session.project["points"]])
            page.context.close()
