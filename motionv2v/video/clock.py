"""The clock of a video: from the times of its pictures to a constant rate, and which picture each frame shows.

Containers state rates that mean little: of a GIF with delays of 3, 3 and 4 hundredths FFmpeg says 33.3 frames a second,
and where the pictures of a recording stop for three seconds, the average. The times of the pictures are what players go
by, so they decide. They are rounded to the container's ticks (a millisecond in Matroska, a hundredth of a second in
GIF), and a rate fits if it explains all of them up to that rounding.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from motionv2v.typing import Float

MAX_GAP = 60.0
"""Seconds: a longer time between two pictures, or one that is not positive, is a fault of the file and counts as one
frame."""

_USUAL = tuple(Fraction(rate) for rate in (24, 25, 30, 50, 60, 10, 12, 15, 8, 48, 120)) + tuple(
    Fraction(rate * 1000, 1001) for rate in (24, 30, 60)
)
_UNEVEN = 0.25  # of a frame: pictures further from their place on an even clock show that the file has none


class Clock(NamedTuple):
    """Hold the rate (frames a second), whether the pictures keep it, and how long the last one is shown (seconds).

    `jump` is the longest time between two pictures (seconds) that counts as one frame, see `MAX_GAP`; 0 for none.
    """

    rate: float
    even: bool
    last: float
    jump: float = 0.0


def find(times: Float[np.ndarray, "T"], tick: float, stated: Fraction | None, last: float | None) -> Clock:
    """Find the rate at which the pictures of a file follow each other.

    An even clock keeps the rate that the container states, if that explains all times, else the first usual or whole
    rate that does, else the average. Of an uneven one it is the rate of the ordinary steps, those near the median.

    Args:
        times: when each picture is shown, in seconds, in any order. tick: the unit to which they were rounded.
        stated: the container's average rate; the only source where there are no times that differ. last: how long the
            last picture is shown, if that is known.
    """
    steps = np.diff(np.sort(times))
    found, longest = _find(steps, tick, stated, last), float(steps.max(initial=0.0))
    # Of a file with a picture every two minutes each is a frame, and nothing is lost.
    return found._replace(jump=longest) if longest > MAX_GAP and longest * found.rate > 1.5 else found


def _find(steps: Float[np.ndarray, "S"], tick: float, stated: Fraction | None, last: float | None) -> Clock:
    """Find the rate, as `find`, from the times between one picture and the next."""
    ordinary = steps[_plausible(steps)]
    if not len(ordinary):
        return Clock(float(stated or 25), True, float(1 / (stated or 25)))
    steps = np.where(_plausible(steps), steps, np.median(ordinary))
    times, count = np.concatenate([[0], np.cumsum(steps)]), np.arange(len(steps) + 1)
    mean = times[-1] / len(steps)
    if np.abs(times - mean * count).max() <= max(tick, _UNEVEN * mean):
        slowest, fastest = len(steps) / (times[-1] + tick), len(steps) / max(times[-1] - tick, tick)
        whole = sorted(range(int(slowest) + 1, min(int(fastest), 240) + 1), key=lambda rate: abs(rate - 1 / mean))
        for rate in (*([stated] if stated else []), *_USUAL, *map(Fraction, whole)):
            if np.ptp(times - count / float(rate)) < 0.999 * tick:
                return Clock(float(rate), True, float(1 / rate))
        return Clock(_simple(1 / mean), True, mean)
    median = np.median(steps)
    step = steps[(steps >= 0.5 * median) & (steps <= 1.5 * median)].mean()
    usual = next((float(rate) for rate in _USUAL if abs(1 / float(rate) - step) <= 0.25 * tick), None)
    return Clock(usual or _simple(1 / step), False, last if last and last <= MAX_GAP else step)


def pace(
    pictures: Iterable[Any], clock: Clock, tick: float, fps: float | int | None = None
) -> Iterator[tuple[Any, int]]:
    """Yield each picture (anything with a `time` in seconds, or None) and how many frames show it, 0 or more.

    On the file's own clock a picture belongs to the frame nearest to its time. At another rate, frame k is the picture
    that a player shows k / fps seconds after the first one.
    """
    own = fps is None or abs(fps / clock.rate - 1) < 1e-3
    rate = clock.rate if own else fps
    # In frames, how far before its time a picture may be shown: times are rounded, and so is k / fps.
    slack = 0.5 if own else min(0.5, rate * max(1e-4, 0.51 * tick))
    shown, elapsed, count = None, 0.0, 0
    for picture in pictures:
        if shown is not None:
            step = np.nan if picture.time is None or shown.time is None else picture.time - shown.time
            elapsed += step if _plausible(step) else 1 / clock.rate
            until = max(count, int(np.ceil(elapsed * rate - slack - 1e-6)))
            yield shown, until - count
            count = until
        shown = picture
    if shown is not None:
        rest = int(np.ceil((elapsed + clock.last) * rate - slack - 1e-6)) - count
        yield shown, 1 if own and clock.even else max(rest, 1 if own else 0)


def _plausible(steps: Any) -> Any:
    """Tell which times between two pictures can be meant."""
    return (steps > 0) & (steps <= MAX_GAP)


def _simple(rate: float) -> float:
    """Return the rate without what rounding did to it: 10 for 9.9999999, 30000 / 1001 for 29.97003."""
    return float(Fraction(rate).limit_denominator(1001)) if rate >= 1 else rate
