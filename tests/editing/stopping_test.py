"""Masks that one thread carries while others stop them, ask for them, and make other edits; of a short clip."""

from concurrent.futures import ThreadPoolExecutor

import moving_square
import numpy as np
import pytest
from waiting import until

from motionv2v.draft import keys
from motionv2v.editing import drafted
from motionv2v.editing.carrying import Carrying
from motionv2v.editing.drafting import Drafts

SAID = 4
"""The frame in which a box says where the square is."""


@pytest.fixture
def session(session):
    x, y = (float(side) for side in moving_square.corners()[SAID])
    session.add_point(SAID, x + 10, y + 10)
    session.set_box(["p1"], SAID, [x, y, x + moving_square.SIDE, y + moving_square.SIDE])
    return session


def carried_on(session):
    until(lambda: session.carrying().state == "done", "they are carried", 60)
    return session.masks().masks[0].any(axis=(1, 2)).all()


def test_who_stops_after_the_last_mask_has_come_is_too_late(session, monkeypatch):
    find = drafted.masks_prepared
    monkeypatch.setattr(drafted, "masks_prepared", lambda *given: (find(*given), session.stop_carrying())[0])
    assert session.masks().masks[0].any(axis=(1, 2)).all()
    assert session.carrying().state == "done"
    assert session.draft_frame(3).any(), "nothing is left to be carried on"


def test_what_is_stopped_as_it_begins_is_carried_on(session, monkeypatch):
    drafts, prepare = session._drafts, session._drafts._prepare
    monkeypatch.setattr(drafts, "_prepare", lambda *given: (session.stop_carrying(), prepare(*given))[1])
    assert not session.masks().masks[0].any()
    monkeypatch.setattr(drafts, "_prepare", prepare)
    assert session.carrying().state == "stopped"
    session.carry_on()
    assert carried_on(session) and session.draft_frame(3).any()


def test_what_was_stopped_is_begun_anew_after_another_edit_was_stopped(session, monkeypatch):
    settle = keys._settled
    monkeypatch.setattr(keys, "_settled", lambda *given: (session.stop_carrying(), settle(*given))[1])
    session.masks()
    monkeypatch.setattr(keys, "_settled", settle)
    assert session.carrying().state == "stopped"
    session.add_operation("drag", {"points": ["p1"], "by": [0, 9]})
    session.stop_carrying()
    assert session.carrying().state == "stopped"
    session.undo()
    assert carried_on(session)


def test_nobody_waits_for_a_mask_that_is_to_be_carried(session):
    with ThreadPoolExecutor() as pool:
        with session._drafts._lock:  # something else is drawn
            session.carrying()
            assert pool.submit(session.mask_labels, SAID).result(30) is None
        assert carried_on(session) and session.mask_labels(SAID).max() == 1


@pytest.mark.parametrize("name", ["_carried", "_failed"])
def test_what_is_told_may_be_forgotten_at_any_time(session, monkeypatch, name):
    found = {"_carried": session.masks(), "_failed": ValueError("it went wrong")}[name]
    left = [(session._moment().key, found)]
    session._drafts._carried = None
    once = property(lambda self: left.pop() if left else None, lambda self, value: None)  # another clip comes then
    monkeypatch.setattr(Drafts, name, once, raising=False)
    if name == "_carried":
        assert session.carrying().state == "done"
    else:
        with pytest.raises(ValueError, match="it went wrong"):
            session.carrying()
    assert not left


def test_a_frame_counts_once_all_things_have_come_to_it():
    carrying, mask = Carrying("an edit", [1, 0], 3), np.ones((2, 2), bool)
    for thing, frame in ((1, 0), (1, 1), (0, 1), (0, 1), (1, 2)):
        carrying.hear(thing, frame, mask)
    assert carrying.told == [1, 3, 1] and carrying.reached == [False, True, False]
    assert carrying.says().startswith("the masks were carried to 1 of 3 frames and stopped")
