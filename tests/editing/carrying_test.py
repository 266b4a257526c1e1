"""Masks while they are carried through a clip: shown as they come, stopped with those that came, corrected."""

import threading

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v import video
from motionv2v.draft import keys
from motionv2v.editing.carrying import StoppedError
from motionv2v.editing.session import Session
from motionv2v.edits import track_files
from motionv2v.tracks import Tracks

FRAMES, SIZE, SIDE = 49, (72, 136), 18
LEFT, TOP = 8, 24
GOES = np.arange(FRAMES) * 2
PATIENCE = 300
"""Seconds that a busy machine may take to carry masks through them."""
CLICKS = "getComputedStyle(document.querySelector('#carried i')).pointerEvents"
WAITS = "import('/static/session.js').then(({ view }) => view.waits)"
THERE = "(t) => import('/static/frames.js').then((frames) => Boolean(frames.there('masks', t)))"


def long_clip():
    """Draw 49 frames of a red square that goes to the right over a dull ground."""
    rng = np.random.default_rng(0)
    frames = np.repeat(moving_square.textured(rng, SIZE)[None], FRAMES, 0)
    square = moving_square.textured(rng, (SIDE, SIDE))
    square[..., 0] = 230
    for frame, x in zip(frames, LEFT + GOES, strict=True):
        frame[TOP : TOP + SIDE, x : x + SIDE] = square
    return frames


@pytest.fixture
def session(tmp_path):
    """A session on that clip with the square's path, which no tracker is asked for."""
    made = Session(tmp_path / "workspace")
    made.open(video.write(tmp_path / "long.mp4", long_clip(), fps=8, crf=4))
    middle = np.stack([LEFT + GOES, np.full(FRAMES, TOP)], axis=-1) + SIDE / 2
    given = Tracks(middle[None].astype(np.float32), np.ones((1, FRAMES), bool))
    made.import_tracks(track_files.write(tmp_path / "path.npz", given, SIZE, 8))
    yield made
    made.runs.close()


def box(t):
    return [float(side) for side in (LEFT + GOES[t], TOP, LEFT + GOES[t] + SIDE, TOP + SIDE)]


def overlaps(masks):
    """Return how much each mask, at the working size, agrees with the square's true place."""
    high, wide = masks.shape[1:]
    found = []
    for t, mask in enumerate(masks):
        x0, y0, x1, y1 = np.array(box(t)) * ([wide / SIZE[1], high / SIZE[0]] * 2)
        truth = np.zeros((high, wide), bool)
        truth[round(y0) : round(y1), round(x0) : round(x1)] = True
        found.append((mask & truth).sum() / (mask | truth).sum())
    return np.array(found)


class Gate:
    """Lets masks be carried through so many frames, and holds the next one until it is opened."""

    def __init__(self, monkeypatch, most):
        self._settle, self._left, self._goes_on = keys._settled, most, threading.Event()
        monkeypatch.setattr(keys, "_settled", self._hold)

    def _hold(self, *given):
        self._left -= 1
        if self._left < 0:
            assert self._goes_on.wait(PATIENCE)
        return self._settle(*given)

    def open(self):
        self._goes_on.set()


def reached(session, count):
    """Tell whether masks have come for so many frames."""
    return sum(map(bool, session.carrying().told)) == count


def test_what_is_carried_is_told_as_it_comes_and_stays_where_it_is_stopped(session, monkeypatch):
    session.set_box(["p1"], 24, box(24))
    gate = Gate(monkeypatch, 9)
    assert session.carrying() == ("carrying", [0] * FRAMES, ([], []), [False] * FRAMES)
    until(lambda: reached(session, 10), "ten frames")
    told = np.flatnonzero(session.carrying().told).tolist()
    assert told == list(range(19, 29)), "to both sides at once"
    assert session.mask_labels(28).max() == 1 and session.mask_labels(29) is None, "nobody waits for the others"
    session.stop_carrying()
    gate.open()
    until(lambda: not session.is_getting_ready(), "it ends")
    state, _, kept, came_to = session.carrying()
    assert np.flatnonzero(came_to).tolist() == told
    assert session.mask_labels(28).max() == 1 and session.mask_labels(29) is None, "it tells what it has not come to"
    assert state == "stopped" and np.flatnonzero(kept.masks[0].any(axis=(1, 2))).tolist() == told
    assert np.flatnonzero(np.isfinite(kept.doubts[0])).tolist() == told and kept.doubts[0][24] == 0
    assert session.masks().masks[0].sum() == kept.masks[0].sum(), "who asks waits for no more"
    session.add_operation("drag", {"points": ["p1"], "by": [0, 9]})
    assert session.carrying().state == "carrying", "another edit is carried anew"
    session.undo()
    assert session.carrying().state == "stopped"
    session.carry_on()
    until(lambda: session.carrying().state == "done", "it is carried on")
    found = session.carrying().things
    assert all(session.carrying().reached)
    np.testing.assert_array_equal(found.masks[0][told], kept.masks[0][told])
    assert found.masks[0].any(axis=(1, 2)).all() and session.mask_labels(48).max() == 1 and found is session.masks()


def test_nothing_is_drawn_of_masks_that_were_stopped(session, monkeypatch):
    session.set_box(["p1"], 0, box(0))
    session.bend(["p1"], 24, 0, 9)
    gate = Gate(monkeypatch, 5)
    session.carrying()
    until(lambda: reached(session, 6), "six frames")
    session.stop_carrying()
    gate.open()
    with pytest.raises(StoppedError, match="carried to 6 of 49 frames and stopped: show the masks to carry on"):
        session.draft_frame(3)
    session.carry_on()
    assert session.draft_frame(3).any()
    session.stop_carrying()
    until(lambda: session.carrying().state != "carrying", "the draft had them all")
    assert session.carrying().state == "done", "what has come to its end is not stopped"


def test_what_goes_wrong_while_masks_are_carried_is_told_to_who_asks(session, monkeypatch):
    session.set_box(["p1"], 0, box(0))

    def fails(*given):
        raise ValueError("frame 3 cannot be read")

    monkeypatch.setattr(keys, "_settled", fails)
    session.carrying()
    until(lambda: not session.is_getting_ready(), "it ends")
    with pytest.raises(ValueError, match="frame 3 cannot be read"):
        session.carrying()
    monkeypatch.undo()
    until(lambda: session.carrying().state == "done", "who asks again has it tried again")


def draw_box(page, session, *said):
    t = said[-1]
    page.main.locator("#frame").evaluate("(slider, t) => { slider.value = t; }", t)
    page.main.locator("#frame").dispatch_event("input")
    page.wait(f"document.getElementById('where').textContent === '{t} / 48'")
    x0, y0, x1, y1 = box(t)
    page.page.mouse.move(*page.at(session, x0, y0))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(session, x1, y1), steps=4)
    page.page.mouse.up()
    page.says("things", f"said in frames {', '.join(map(str, sorted(said)))}.")


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_a_mask_is_boxed_carried_stopped_at_frame_ten_and_corrected_on_the_page(browser, session, monkeypatch):
    with served_page.served(session) as address:
        page = Page(browser, address, viewport={"width": 900, "height": 700})
        refused = []
        page.page.on("response", lambda response: refused.append(response.url) if response.status >= 400 else None)
        weakest = page.button("Go to the weakest frame of p1")
        gate = Gate(monkeypatch, 9)
        page.button("Select p1").click()
        page.main.locator("#tools #box").click()
        page.main.locator("#show-masks").check()
        draw_box(page, session, 0)
        page.says("carrying-says", "carrying the masks: 10 of 49 frames", PATIENCE)
        assert page.main.locator("#carried i").count() == 10, "they are marked above the timeline"
        assert page.main.evaluate(CLICKS) == "none", "which is clicked through the marks"
        for frame, is_there in ((5, True), (20, False)):
            page.main.locator("#frame").evaluate("(slider, t) => { slider.value = t; }", frame)
            page.main.locator("#frame").dispatch_event("input")
            if is_there:
                page.there("masks", frame)
            page.page.wait_for_timeout(400)
            assert page.main.evaluate(THERE, frame) == is_there
        page.button("Stop carrying").click()
        gate.open()
        page.says("carrying-says", "stopped: 10 of 49 frames", PATIENCE)
        page.says("things", "Carried so far: in 10 of 49 frames", PATIENCE)
        assert np.flatnonzero(session.masks().masks[0].any(axis=(1, 2))).tolist() == list(range(10))
        page.button("Carry on").click()
        page.says("things", "Up to date: in 49 of 49 frames", PATIENCE)
        assert page.main.locator("#carrying").is_hidden()
        draw_box(page, session, 0, 48)
        page.says("things", "Up to date: in 49 of 49 frames", PATIENCE)
        before = int(weakest.get_attribute("aria-label").split()[-1])
        assert 10 < before < 40, "farthest from both"
        weakest.click()
        page.wait(f"document.getElementById('where').textContent === '{before} / 48'")
        draw_box(page, session, 0, 48, before)
        page.says("things", "Up to date", PATIENCE)
        after = int(weakest.get_attribute("aria-label").split()[-1])
        assert abs(after - before) > 5, "what was corrected is not the weakest any more"
        found = overlaps(session.masks().masks[0])
        assert len(found) == FRAMES and found.min() >= 0.8, found
        # A draft that waits for the masks is refused, and the browser tells of each.
        assert all("/frame/draft/" in url for url in refused) and len(page.errors) == len(refused)
        assert all("400" in error for error in page.errors) and len(page.asked) == 1
        page.context.close()


class Answers:
    """Answers the page in the session's place when it asks how far masks are carried, as soon as it is told what."""

    def __init__(self, page):
        self._page, self._asked = page, []
        page.route("**/api/masks/carrying", lambda route: self._asked.append(route))
        page.route("**/api/masks/stop", lambda route: route.fulfill(json={}))
        for which in ("masks", "draft"):
            page.route(f"**/api/frame/{which}/*", lambda route: route.fulfill(status=204))

    def await_one(self):
        for _ in range(2400):
            if self._asked:
                return
            self._page.wait_for_timeout(50)
        raise AssertionError("the page does not ask")

    def give(self, **answer):
        self.await_one()
        self._asked.pop(0).fulfill(**answer)


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_the_page_counts_what_all_things_came_to_and_draws_when_nothing_waits_any_more(browser, session):
    session.set_box(["p1"], 0, box(0))
    told = {"told": [2, 1, 1] + [0] * 46, "reached": [True] + [False] * 48, "things": []}
    with served_page.served(session) as address:
        page = Page(browser, viewport={"width": 900, "height": 700})
        answers, drafts = Answers(page.page), []  # before any draft is there
        page.page.goto(address)
        page.ready()
        page.there("source", 0)
        page.page.on("request", lambda sent: drafts.append(sent.url) if "/frame/draft/" in sent.url else None)
        page.main.locator("#show-masks").check()
        answers.give(json={"state": "carrying", **told})
        page.says("carrying-says", "carrying the masks: 1 of 49 frames")
        assert page.main.locator("#carried i").count() == 1
        answers.await_one()
        page.button("Stop carrying").click()
        drafts.clear()
        answers.give(json={"state": "carrying", **told})  # what was asked before
        answers.await_one()
        assert page.main.evaluate(WAITS) and not drafts
        answers.give(json={"state": "carrying", **told})  # it was too late to stop it
        answers.await_one()
        assert not page.main.evaluate(WAITS) and len(drafts) == 1, "so that the draft comes after all"
        answers.give(status=400, json={"error": "frame 3 cannot be read"})
        page.says("error", "frame 3 cannot be read")
        assert page.main.locator("#carrying").is_hidden(), "nothing is carried that could be stopped"
        page.context.close()


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_the_draft_of_stopped_masks_is_asked_for_when_they_are_carried_on(browser, session, monkeypatch):
    session.set_box(["p1"], 0, box(0))
    session.bend(["p1"], 24, 0, 9)
    gate, drafts = Gate(monkeypatch, 9), []
    with served_page.served(session) as address:
        page = Page(browser, address, viewport={"width": 900, "height": 700})
        page.main.locator("#show-masks").check()
        page.says("carrying-says", "carrying the masks: 10 of 49 frames", PATIENCE)
        page.button("Stop carrying").click()
        gate.open()
        page.says("carrying-says", "stopped: 10 of 49 frames", PATIENCE)
        page.page.on("request", lambda sent: drafts.append(sent.url) if "/frame/draft/" in sent.url else None)
        with page.page.expect_response("**/api/masks/carrying"):
            page.main.locator("#prompt").fill("a square")
            page.main.locator("#prompt").blur()
        page.page.wait_for_timeout(500)
        assert session.project["prompt"] == "a square" and not drafts, "another prompt makes no other draft"
        page.button("Carry on").click()
        page.says("things", "Up to date: in 49 of 49 frames", PATIENCE)
        page.there("draft", 0)
        page.context.close()
