"""The page without colours: what is hidden, uncertain, and said in a frame is told apart by its shape alone."""

import io
import itertools

import numpy as np
import pytest
import served_page
from PIL import Image
from served_page import Page

from motionv2v import video
from motionv2v.editing.session import Session
from motionv2v.edits import track_files
from motionv2v.tracks import Tracks

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("uvicorn", reason="needs the extra editor: pip install 'motionv2v[editor]'")
pytestmark = pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
SIZE, GREY = (96, 128), 110
APART = 0.06
"""The share of a sign's pixels that differ by a quarter of the range between signs of two kinds."""
KINDS = {"mark": 1, "keyframe": 3, "box": 5, "brush": 6, "pin": 7}
"""The frame in which one of each kind stands."""


@pytest.fixture
def session(tmp_path):
    """A grey clip with a point that is named in frame 1, and hidden from frame 8 on."""
    made = Session(tmp_path / "workspace")
    made.open(video.write(tmp_path / "grey.mp4", np.full((10, *SIZE, 3), GREY, np.uint8), fps=8, crf=4))
    path = np.stack([30 + 6 * np.arange(10), np.full(10, 48)], axis=-1)[None].astype(np.float32)
    given = Tracks(path, np.arange(10)[None] >= KINDS["mark"])
    made.import_tracks(track_files.write(tmp_path / "path.npz", given, SIZE, 8))
    made.bend(["p1"], KINDS["keyframe"], 0, 0.01)  # next to nothing: both paths lie on one another
    bend = made.project["operations"][0]
    made.change_operation(bend["id"], {"by": {**bend["op"]["by"], str(KINDS["pin"]): [0, 0]}})
    made.set_box(["p1"], KINDS["box"], [40, 30, 80, 70])
    made.add_stroke(["p1"], KINDS["brush"], {"path": [[50, 48], [70, 48]], "radius": 6, "sign": "add"})
    made.set_visible(["p1"], 8, 9, False)
    yield made
    made.runs.close()


def shot(page, x, y, width, height):
    """Return a part of the page as greys, [h w]."""
    clip = {"x": round(x), "y": round(y), "width": round(width), "height": round(height)}
    with Image.open(io.BytesIO(page.page.screenshot(clip=clip))) as picture:
        return np.asarray(picture.convert("L"), np.float32)


def lane(page):
    """Return the point's lane of the timeline as greys, [h w]: in one picture, wherever the page has it by then."""
    with Image.open(io.BytesIO(page.main.locator(".track").screenshot())) as picture:
        return np.asarray(picture.convert("L"), np.float32)


def differ(one, other):
    """Return the share of pixels that differ, laid on one another as well as it goes."""
    core = other[2:-2, 2:-2]
    shifts = itertools.product(range(5), repeat=2)
    laid = (one[y : y + core.shape[0], x : x + core.shape[1]] for y, x in shifts)
    return min(float((np.abs(each - core) > 64).mean()) for each in laid)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hidden_uncertain_and_kinds_of_keyframes_are_told_apart_in_greys(browser, session, scheme):
    half = np.zeros(SIZE, np.uint8)
    half[:, 64:] = 255
    kept = io.BytesIO()
    Image.fromarray(half).save(kept, "PNG")
    with served_page.served(session) as address:
        page = Page(browser, viewport={"width": 1000, "height": 900}, color_scheme=scheme)
        page.page.route("**/api/frame/uncertain/*", lambda route: route.fulfill(body=kept.getvalue()))
        page.page.goto(address)
        page.ready()
        page.page.keyboard.press(".")
        page.page.keyboard.press(".")
        page.wait("document.getElementById('where').textContent === '2 / 9'")
        track = lane(page)
        middle = lambda t: round(track.shape[1] * (t + 0.5) / 10)  # noqa: E731
        sign = lambda t: track[1:29, middle(t) - 13 : middle(t) + 13]  # noqa: E731
        signs = {kind: sign(t) for kind, t in KINDS.items()}
        for one, other in itertools.combinations(signs, 2):
            assert differ(signs[one], signs[other]) > APART, (one, other)
        assert differ(signs["keyframe"], sign(4)) > APART, "where nothing is said no sign is"
        page.main.locator(".legend").scroll_into_view_if_needed()

        seen, hidden = (track[14:16, middle(t) + 16 : middle(t) + 56] for t in (3, 8))
        assert seen.std() < 4 and hidden.std() > 25, "a bar that is whole, and one that is hatched"

        inside, edge = {}, {}
        for t in (2, 9):  # of every fourth frame a bar lies across the path
            while page.main.locator("#frame").input_value() != str(t):
                page.page.keyboard.press(".")
            page.there("source", t)
            page.painted()
            x, y = page.at(session, *session.target().xy[0, t].tolist())
            inside[t] = shot(page, x - 1, y - 4.5, 2, 1).mean()  # between the path and the edge of the sign
            edge[t] = shot(page, x - 8, y - 9, 16, 8)
        ground = shot(page, *page.at(session, 60, 8), 12, 12).mean()
        assert abs(inside[2] - ground) > 40 and abs(inside[9] - ground) < 25, "a disc where it is seen, else a ring"
        assert min(np.abs(each - ground).max() for each in edge.values()) > 60, "both with an edge"

        page.main.locator("#show-uncertain").check()
        page.there("uncertain", 9)
        page.painted()
        box = page.main.locator("#draft").bounding_box()
        sure, unsure = (
            shot(page, box["x"] + share * box["width"], box["y"] + 5, 0.3 * box["width"], 30) for share in (0.1, 0.6)
        )
        assert sure.std() < 8 and unsure.std() > 40, "what is uncertain is hatched"
        page.context.close()
