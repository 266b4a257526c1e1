"""A point while it is followed: how far that is, its path so far, and stopping it, in the session and on the page."""

import threading
import time

import moving_square
import numpy as np
import pytest
import served_page
from served_page import Page
from waiting import until

from motionv2v import trackers
from motionv2v.trackers.flows import Flows

X, Y = (float(side) + 10 for side in moving_square.corners()[4])


@pytest.fixture
def computed(monkeypatch):
    """The flows that were computed."""
    found, compute = [], Flows.compute
    monkeypatch.setattr(Flows, "compute", lambda self, i, j: found.append((i, j)) or compute(self, i, j))
    return found


@pytest.fixture
def slow(monkeypatch):
    """Let each flow take its time."""
    compute = Flows.compute
    monkeypatch.setattr(Flows, "compute", lambda self, i, j: time.sleep(0.08) or compute(self, i, j))
    return monkeypatch


def test_a_second_point_of_a_clip_is_followed_along_the_flows_of_the_first(session, computed):
    session.add_point(4, X, Y)
    assert computed
    computed.clear()
    session.add_point(4, X + 4, Y - 3)
    assert computed == []
    session.open(session.project["clip"])  # read anew
    session.add_point(4, X - 4, Y + 3)
    queries = [[point[word] for word in "txy"] for point in session.project["points"]]
    for row, query in enumerate(queries):
        own = trackers.named().track(session.clip.frames, np.float32([query]))
        np.testing.assert_array_equal(session.source().xy[row], own.xy[0])
        np.testing.assert_array_equal(session.source().visible[row], own.visible[0])


def test_the_path_so_far_is_told_and_a_stopped_one_changes_nothing(session, slow):
    assert session.tracking() == {"frames": None, "of": 8}
    before, told = session.state(), []

    def add():
        try:
            told.append(session.add_point(4, X, Y))
        except ValueError as error:
            told.append(str(error))

    for is_stopped in (True, False):
        work = threading.Thread(target=add)
        work.start()
        until(lambda: len(session.tracking()["frames"] or ()) >= 3, "a piece of the path")
        for t, place in session.tracking()["frames"].items():
            assert np.abs(np.array(place) - moving_square.corners()[t] - 10).max() < 2
        assert work.is_alive()
        if is_stopped:
            session.stop_tracking()
        else:
            slow.undo()
        work.join(60)
        assert session.tracking()["frames"] is None
        if is_stopped:
            assert told == ["following the point was stopped; nothing has changed"] and session.state() == before
    assert told[1] == "p1" and len(session.state()["undo"]) == len(before["undo"]) + 1
    assert np.median(np.abs(session.source().xy[0] - moving_square.corners() - 10)) <= 2
    session.stop_tracking()
    assert session.add_point(4, X + 3, Y) == "p2", "what was stopped before is not what comes after"


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_the_page_shows_the_path_while_it_grows_and_lets_a_person_stop_it(browser, session, address, slow):
    page = Page(browser, address, viewport={"width": 1280, "height": 1000})
    for _ in range(4):
        page.page.keyboard.press(".")
    for stop in (lambda: page.page.keyboard.press("Escape"), lambda: page.page.keyboard.press("Control+z"),
                 lambda: page.button("Stop following").click()):  # fmt: skip
        page.page.mouse.click(*page.at(session, X, Y))
        page.says("following", "of 8 frames")
        assert session.project["points"] == [], "it is not there before it was followed"
        seen = "import('/static/session.js').then(({ view }) => view.followed.map(([t]) => t))"
        frames = page.main.evaluate(seen)
        assert frames == sorted(frames)
        stop()
        page.says("error", "following the point was stopped; nothing has changed")
        page.says("following", "")
        page.wait("document.getElementById('stop-following').hidden")
        assert session.project["points"] == [] and session.state()["undo"] == ["Open square.mp4"]
    slow.undo()
    page.page.mouse.click(*page.at(session, X, Y))
    page.points(1)
    page.page.keyboard.press("Control+z")
    page.points(0)
    assert [each for each in page.errors if "400" not in each] == []
    page.context.close()


class Silent:
    """A tracker that does not tell how far it is; `begun` says that it is at work."""

    def __init__(self):
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def track(self, frames, queries):
        self.begun.set()
        assert self.goes_on.wait(60)
        return trackers.get("classical").track(frames, queries)


def test_a_tracker_that_tells_nothing_can_be_stopped_too(session, monkeypatch):
    silent, told = Silent(), []
    monkeypatch.setattr(session, "_tracker", silent)

    def add():
        try:
            told.append(session.add_point(4, X, Y))
        except ValueError as error:
            told.append(str(error))

    work = threading.Thread(target=add)
    work.start()
    assert silent.begun.wait(60) and session.tracking()["frames"] == {}
    # What somebody else looks at meanwhile has nothing to follow, and leaves it alone.
    session._track([])
    assert session.tracking()["frames"] == {}
    session.stop_tracking()
    silent.goes_on.set()
    work.join(60)
    assert told == ["following the point was stopped; nothing has changed"] and session.project["points"] == []


@pytest.mark.skipif(served_page.BROWSER is None, reason=served_page.REASON)
def test_a_point_that_another_tracker_follows_is_watched_and_can_be_stopped_too(browser, session, address, slow):
    slow.undo()
    session.add_point(4, X, Y)
    compute = Flows.compute
    slow.setattr(Flows, "compute", lambda self, i, j: time.sleep(0.15) or compute(self, i, j))
    page, before = Page(browser, address, viewport={"width": 1280, "height": 1000}), session.state()
    page.button("Select p1").click()
    page.page.keyboard.press("w")
    page.main.get_by_role("menuitemradio", name="dis rather gives").click()
    page.says("following", "of 8 frames")
    page.button("Stop following").click()
    page.says("error", "following the point was stopped; nothing has changed")
    assert session.state() == before
    assert [each for each in page.errors if "400" not in each] == []
    page.context.close()


def test_the_flows_of_one_tracker_alone_are_kept(session):
    session.add_point(4, X, Y)
    assert list(session._followers[1]) == [""]
    session.track_by("p1", "dis")
    assert list(session._followers[1]) == ["dis"]
    session.undo()
    session.add_point(4, X + 3, Y)
    assert list(session._followers[1]) == [""]
