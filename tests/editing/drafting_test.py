"""Drafts for a person who waits: the frame that is looked at first, the rest behind it, what may come before it."""

import subprocess
import sys
import threading
import time

import moving_square
import numpy as np
import pytest
from waiting import until

from motionv2v import draft, video
from motionv2v.draft import compose
from motionv2v.editing import drafted
from motionv2v.editing.session import Session

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def bent(session):
    session.add_point(0, X, Y)
    session.bend(["p1"], 4, 0, 20)
    return session


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, in turn: (the drawing, the frame)."""
    frames, draw = [], draft.Drawing.frame
    monkeypatch.setattr(
        draft.Drawing, "frame", lambda self, t, *doubt: frames.append((self, t)) or draw(self, t, *doubt)
    )
    return frames


def rest(session):
    """Wait until nothing is drawn behind anybody's back."""
    until(lambda: not session.is_getting_ready(), "the rest is drawn")


def test_the_frame_that_is_looked_at_is_drawn_first_and_the_nearest_ones_behind_it(bent, drawn):
    bent.draft_frame(6)
    assert drawn[0][1] == 6
    rest(bent)
    assert [t for _, t in drawn] == [6, 5, 7, 4, 8, 3, 2, 1, 0], "each once"
    frames = bent.draft_frames()
    assert len(drawn) == 9, "what is there is not drawn again"
    hints = drafted.read_hints(spec := bent._moment().spec, spec.divide(), spec.size, 9, str)
    own = drafted.draw(bent.clip.frames, spec, bent.source(), hints, notify=str)
    np.testing.assert_array_equal(frames, own.frames)
    np.testing.assert_array_equal(bent.drawn().uncertain, np.uint8(own.uncertain * 255))


def test_who_looks_at_another_frame_waits_for_no_other(bent, monkeypatch, drawn):
    bent.draft_frame(0)
    rest(bent)
    counted, begun = draft.Drawing.frame, threading.Event()

    def draw(self, t):
        made = counted(self, t)
        if threading.current_thread() is not threading.main_thread() and not begun.is_set():
            begun.set()
            until(lambda: bent._drafts._number_waiting, "somebody waits")
        return made

    monkeypatch.setattr(draft.Drawing, "frame", draw)
    bent.bend(["p1"], 4, 0, 3)
    drawn.clear()
    bent.draft_frame(0)
    assert begun.wait(60), "frame 1 is being drawn"
    bent.draft_frame(8)
    assert [t for _, t in drawn[:3]] == [0, 1, 8]
    rest(bent)
    assert sorted(t for _, t in drawn) == list(range(9))


def test_another_edit_ends_what_is_drawn_of_the_one_before(bent, monkeypatch, drawn):
    counted = draft.Drawing.frame
    monkeypatch.setattr(draft.Drawing, "frame", lambda self, t, *doubt: time.sleep(0.03) or counted(self, t, *doubt))
    bent.draft_frame(0)
    old = drawn[0][0]
    bent.bend(["p1"], 4, 0, 3)
    count = len(drawn)
    bent.draft_frame(0)
    rest(bent)
    assert sum(which is old for which, _ in drawn[count:]) <= 1, "but for the frame that was under way"
    assert len({t for which, t in drawn if which is not old}) == 9


def test_a_bend_that_was_expected_waits_for_no_clip_to_be_taken_apart(session, monkeypatch):
    session.add_point(0, X, Y)
    session.add_point(0, 100, 85)
    made, scene = [], compose.Scene
    monkeypatch.setattr(compose, "Scene", lambda *given: made.append(threading.current_thread()) or scene(*given))
    kept = session.state()
    for names in ([], ["p1"], ["p1"], ["p9"]):
        session.expect(names, 4)
        rest(session)
    assert session.state() == kept, "nothing is changed by it"
    assert len(made) == 1 and made[0] is not threading.current_thread()
    session.bend(["p1"], 4, 0, 20)
    session.draft_frame(4)
    assert len(made) == 1
    session.expect(["p2"], 4)  # beside what is bent
    rest(session)
    assert len(made) == 2
    session.bend(["p1"], 6, 0, 5)
    session.draft_frame(4)
    session.bend(["p2"], 4, 0, -9)
    session.draft_frame(4)
    assert len(made) == 2, "both ways of taking the clip apart are kept"


def test_while_a_point_is_followed_nothing_is_drawn_ahead(session, monkeypatch, drawn):
    session.add_point(0, X, Y)
    meanwhile, track = [], type(session._followers[1][""]).track

    def follow(self, *given):
        session.expect(["p1"])
        time.sleep(0.5)
        meanwhile.append((session.is_getting_ready(), len(drawn)))
        return track(self, *given)

    monkeypatch.setattr(type(session._followers[1][""]), "track", follow)
    session.add_point(4, X + 16, Y)
    assert meanwhile == [(True, 0)], "it would take the tracker's time"
    session.expect(["p1"])
    rest(session)
    assert len(drawn) == 9


def test_an_edit_that_cannot_be_drawn_is_told_to_who_asks_and_stops_nothing(bent, monkeypatch):
    draw = draft.Drawing.frame

    def fails(self, t):
        if t == 3:
            raise ValueError("frame 3 cannot be drawn")
        return draw(self, t)

    monkeypatch.setattr(draft.Drawing, "frame", fails)
    bent.draft_frame(0)
    rest(bent)
    with pytest.raises(ValueError, match="frame 3"):
        bent.draft_frames()
    monkeypatch.setattr(draft.Drawing, "frame", draw)
    bent.draft_frame(0)
    rest(bent)
    assert not bent._drafts._edit.left


PROGRAM = """
import atexit, sys, threading, time
from motionv2v import draft
from motionv2v.editing.session import Session
draw, drawn, ends = draft.Drawing.frame, [], threading.Event()
def frame(self, t, *doubt):
    drawn.append(t)
    if t != 0:
        ends.wait()
        time.sleep(1)
    return draw(self, t, *doubt)
draft.Drawing.frame = frame
atexit.register(lambda: print(len(drawn)))
session = Session(sys.argv[1])
session.state()  # opens the clip, without which no others are drawn behind a frame
session.draft_frame(0)
while len(drawn) < 2:
    time.sleep(0.01)
ends.set()
"""


def test_a_program_that_ends_waits_for_one_frame_and_not_for_all(bent, tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bent.workspace)], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0 and told.stderr == ""
    assert int(told.stdout) <= 4, "the first, the one under way, and no more than are begun until it ends, of nine"


def test_a_frame_at_full_size_is_that_of_a_run(tmp_path, drawn):
    frames = moving_square.draw().repeat(2, axis=1).repeat(2, axis=2)
    video.write(tmp_path / "square.mp4", frames, fps=8, crf=4)
    session = Session(tmp_path / "workspace")
    session.open(tmp_path / "square.mp4")
    session.add_point(0, 2 * X, 2 * Y)
    session.bend(["p1"], 4, 0, 40)
    assert session.draft_frame(4).shape == (180, 240, 3)
    rest(session)
    drawn.clear()
    made = session.draft_frame(4, full=True)
    np.testing.assert_array_equal(session.draft_frame(4, full=True), made)
    assert [t for _, t in drawn] == [4], "once, and no other"
    spec = session._moment().spec
    own = drafted.draw(session.clip.frames, spec, session.source(), [None], notify=str)
    assert made.shape == (192, 256, 3)
    np.testing.assert_array_equal(made, own.frames[4])


def test_the_doubt_of_a_draft_is_worked_out_for_who_reads_it_alone(session, monkeypatch):
    asked, draw = [], draft.Drawing.frame
    monkeypatch.setattr(
        draft.Drawing, "frame", lambda self, t, *doubt: asked.append(doubt or (True,)) or draw(self, t, *doubt)
    )
    session.add_point(0, X, Y)
    session.expect(["p1"], 4)
    rest(session)
    assert asked == [(False,)] * 9
    session.bend(["p1"], 4, 0, 20)
    session.draft_frame(4, full=True)
    assert asked[9:] == [(False,)]
    session.draft_frame(4)
    assert asked[10] == (True,)


def test_a_frame_of_a_clip_that_is_no_longer_open_asks_for_no_others(bent, tmp_path, monkeypatch):
    """Another clip is opened while a frame is drawn: the first one's others are not drawn any more."""
    begun, goes_on, drawn = threading.Event(), threading.Event(), []
    draw = draft.Drawing.frame

    def slowly(self, t, *doubt):
        drawn.append(t)
        if len(drawn) == 1:
            begun.set()
            assert goes_on.wait(60)
        return draw(self, t, *doubt)

    monkeypatch.setattr(draft.Drawing, "frame", slowly)
    work = threading.Thread(target=bent.draft_frame, args=(4,))
    work.start()
    assert begun.wait(60)
    video.write(tmp_path / "other.mp4", moving_square.draw((0, 20)), fps=8, crf=4)
    bent.open(tmp_path / "other.mp4")
    goes_on.set()
    work.join(60)
    rest(bent)
    assert drawn == [4]


def test_what_is_expected_stays_so_while_other_things_change(bent, drawn):
    bent.expect(["p1"])
    bent.set(prompt="a red square")
    rest(bent)
    assert len(drawn) == 9, "the clip was taken apart all the same"
    key = bent._moment().key
    bent.set(prompt="another", seed=3)
    assert bent._moment().key == key, "a draft does not depend on these"
