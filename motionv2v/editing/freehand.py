"""A path drawn by hand as places by frame: spread over the frames, smoothed, and thinned out to a few keyframes.

A stroke is a list of [x, y, time], in pixels of the clip and in milliseconds of the hand that drew it. What is made of
it is worked out from the stroke each time, so that another smoothing loses nothing. Smoothing is a Gaussian in time;
thinning is Douglas and Peucker's, of places by frame rather than of a line in the picture.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from motionv2v.edits import fields, selection
from motionv2v.typing import Float

MOST_PLACES = 5000
"""Places of a stroke."""
FEW = 12
"""Keyframes that a path is thinned out to, at most."""
_FIELDS = ("frame", "path", "smoothing", "even", "few")


def check(value: Any, where: str) -> dict[str, Any]:
    """Read what a path was drawn by: {frame, path, smoothing, even, few}. Raises EditError."""
    fields.check_object(value, _FIELDS, where, required=_FIELDS)
    for word in ("even", "few"):
        if not isinstance(value[word], bool):
            raise fields.EditError(f"{where}.{word}: must be true or false, got {fields.shown(value[word])}")
    smoothing = fields.ranged(selection.SMOOTHING)(value["smoothing"], f"{where}.smoothing")
    frame = fields.integer(value["frame"], f"{where}.frame", 0)
    return {**value, "frame": frame, "smoothing": smoothing, "path": stroke(value["path"], f"{where}.path")}


def stroke(value: Any, where: str, names: fields.Names | None = None) -> list[list[float]]:
    """Read a stroke [[x, y, time], ...] whose time does not run backwards. Raises EditError."""
    if not isinstance(value, list) or not 1 < len(value) <= MOST_PLACES:
        raise fields.EditError(f"{where}: must be 2 to {MOST_PLACES} places [x, y, time], got {fields.shown(value)}")
    for index, place in enumerate(value):
        if not isinstance(place, list) or len(place) != 3:
            raise fields.EditError(f"{where}[{index}]: must be [x, y, time], got {fields.shown(place)}")
    read = [[fields.number(side, f"{where}[{index}]") for side in place] for index, place in enumerate(value)]
    if any(after[2] < before[2] for before, after in itertools.pairwise(read)):
        raise fields.EditError(f"{where}: the times of a stroke must not run backwards")
    return read


def spread(path: Sequence[Sequence[float | int]], count: int, even: bool) -> Float[np.ndarray, "F 2"]:
    """Return where a stroke is in `count` frames, from its first place to its last: at its own pace, or evenly."""
    made = np.asarray(path, np.float64)
    clock = np.r_[0, np.hypot(*np.diff(made[:, :2], axis=0).T)].cumsum() if even else made[:, 2] - made[0, 2]
    if clock[-1] <= 0:  # a hand that took no time, or did not move
        clock = np.arange(len(made), dtype=np.float64)
    wanted = np.linspace(0, clock[-1], count)
    return np.stack([np.interp(wanted, clock, made[:, side]) for side in (0, 1)], axis=-1)


def smooth(places: Float[np.ndarray, "F 2"], sigma: float | int) -> Float[np.ndarray, "F 2"]:
    """Average places over time by a Gaussian, `sigma` in frames; the first and the last stay where they are.

    Beyond its ends the path goes on as if turned about them, so that near them it is smoothed like everywhere else.
    """
    if sigma <= 0 or len(places) < 3:
        return places
    reach = min(int(np.ceil(3 * sigma)), len(places) - 1)
    before, after = 2 * places[0] - places[reach:0:-1], 2 * places[-1] - places[-2 : -2 - reach : -1]
    padded = np.concatenate([before, places, after])
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    return np.stack([np.convolve(padded[:, side], weights, mode="valid") for side in (0, 1)], axis=-1)


def thin(places: Float[np.ndarray, "F 2"], tolerance: float | int, most: int) -> list[int]:
    """Choose frames between which the places go evenly, up to `tolerance` pixels; at most `most`, the ends first."""
    kept = [0, len(places) - 1] if len(places) > 1 else [0]
    while len(kept) < most:
        between = np.stack([np.interp(np.arange(len(places)), kept, places[kept, side]) for side in (0, 1)], axis=-1)
        away = np.hypot(*(places - between).T)
        worst = int(away.argmax())
        if away[worst] <= tolerance:
            break
        kept = sorted([*kept, worst])
    return kept


def keyframes(
    drawn: dict[str, Any], path: Float[np.ndarray, "T 2"], tolerance: float | int = 0.5
) -> dict[str, list[float]]:
    """Make keyframes of what was drawn, from its frame to the clip's last: {frame: [x, y]}, the way off the path there.

    It begins on `path`. Where few are wanted they are at most `FEW`, between which the way off the path goes evenly.
    """
    first, length = drawn["frame"], len(path)
    places = smooth(spread(drawn["path"], length - first, drawn["even"]), drawn["smoothing"])
    places += path[first] - places[0]
    off = places - path[first:]
    chosen = thin(off, tolerance, FEW) if drawn["few"] else range(length - first)
    return {str(first + t): [round(float(side), 3) for side in off[t]] for t in chosen}
