"""How far work of several kinds of pieces is, and how long the rest takes."""

import pytest

from motionv2v.progress import Countdown


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def test_countdown_knows_the_rest_by_kinds():
    """Two kinds, of 2 and 5 seconds; the first piece of each compiles for a minute, which says nothing."""
    clock, said = Clock(), []
    countdown = Countdown({"read": 3, "step": 10}, said.append, every=0, now=clock)
    for number, seconds in enumerate([60, 2, 2]):
        clock.time += seconds
        countdown.done("read", f"window {number + 1}")
    assert countdown.left() == pytest.approx(10 * 2), "a kind of which none is done takes as long as the others"
    clock.time += 65
    countdown.done("step", "step 1")
    clock.time += 5
    countdown.done("step", "step 2")
    assert countdown.left() == pytest.approx(8 * 5)
    assert said[-1] == "step 2, 40 s left"
    for number in range(8):
        clock.time += 5
        countdown.done("step", f"step {number + 3}")
    assert countdown.left() == 0 and said[-1] == "step 9, 5 s left"


def test_countdown_of_hours_is_no_long_list():
    clock, said = Clock(), []
    countdown = Countdown({"step": 36_000}, said.append, now=clock)
    for number in range(36_000):
        clock.time += 1
        countdown.done("step", f"step {number + 1}")
    assert 40 <= len(said) <= 50 and said[0] == "step 720, 9:48 h left"


def test_countdown_of_seconds_says_nothing():
    clock, said = Clock(), []
    countdown = Countdown({"step": 9}, said.append, now=clock)
    for number in range(9):
        clock.time += 1
        countdown.done("step", f"step {number + 1}")
    assert said == []
