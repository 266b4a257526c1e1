"""What an edit is about: which points, which frames, how much of it each frame gets, and how keyframes interpolate.

The edit vocabulary (`motionv2v.edits`) reads its common arguments through these functions. They turn what a person
wrote into numpy arrays, and raise ValueError with one line that names the bad value and what is available. The `Range`s
are those of the vocabulary's numbers, in Python and in an edit file alike.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int, Num

Number = float | int | np.number
Points = Sequence[Number] | np.ndarray | Number | None
Point = Sequence[Number] | np.ndarray
Frame = Number
"""A frame's index: a whole number, of whatever type."""


@dataclass(frozen=True)
class Range:
    """The numbers that an argument takes: `least` to `most`, both included, and 0 as well where `or_zero`."""

    least: Number
    most: Number
    unit: str = ""
    or_zero: bool = False

    def __contains__(self, value: Number) -> bool:
        return bool(self.least <= value <= self.most or (self.or_zero and value == 0))

    def __str__(self) -> str:
        return f"{'0, or ' if self.or_zero else ''}from {self.least:g} to {self.most:g} {self.unit}".rstrip()

    def check(self, value: Any, name: str) -> float:
        """Returns the value as a float. Raises ValueError for anything but a number of this range."""
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if isinstance(value, bool | np.bool_ | str) or number not in self:
            raise ValueError(f"{name} must be {self}, got {shown(value)}")
        return number


PIXELS = Range(-100_000, 100_000, "pixels")
VELOCITY = Range(-10_000, 10_000, "pixels per frame")
FALLOFF = Range(0.1, 100_000, "pixels", or_zero=True)
AMOUNT = Range(0, 1_000, "pixels")
RADIUS = Range(0.5, 1_000, "pixels")
FACTOR = Range(0.001, 1_000)
SMOOTHING = Range(0.1, 1_000, "frames", or_zero=True)
DEGREES = Range(-36_000, 36_000, "degrees")
SPEED = Range(-1_000, 1_000, "times the clip's own")
TIME = Range(-100_000, 100_000, "frames")


def shown(value: Any) -> str:
    """Writes a value in one short line, as errors show it."""
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def indices(points: Points, num_points: int, name: str = "points") -> list[int]:
    """Turns a choice of points into a list of valid indices; None is all points.

    Raises ValueError for anything but whole numbers, and names the first index outside 0..N-1.
    """
    if points is None:
        return list(range(num_points))
    array = np.atleast_1d(np.asarray(points))
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(int)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be a list of point indices (0..{num_points - 1}), got {shown(points)}")
    for index in array:
        if not 0 <= index < num_points:
            raise ValueError(f"{name}: there is no point {index}; the tracks have points 0..{num_points - 1}")
    return [int(index) for index in array]


def mask(tracks: Tracks, points: Points) -> Bool[np.ndarray, "N"]:
    """Turns a choice of points into a mask. Raises ValueError as `indices` does."""
    chosen = np.zeros(tracks.xy.shape[0], bool)
    chosen[indices(points, tracks.xy.shape[0])] = True
    return chosen


def frame(value: Any, num_frames: int, name: str) -> int:
    """Returns a frame's index as an int. Raises ValueError for anything but the index of an existing frame."""
    whole = isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value) and value == int(value)
    if isinstance(value, bool) or not whole:
        raise ValueError(f"{name} must be a frame index, got {shown(value)}")
    if not 0 <= value < num_frames:
        raise ValueError(f"{name}: there is no frame {value:g}; the clip has frames 0..{num_frames - 1}")
    return int(value)


def window(tracks: Tracks, start_frame: Frame | None, end_frame: Frame | None) -> tuple[int, int]:
    """Fills in and checks a window of frames, both ends included.

    Raises ValueError for a frame that does not exist and for a window that ends before it starts.
    """
    num_frames = tracks.xy.shape[1]
    first = 0 if start_frame is None else frame(start_frame, num_frames, "start_frame")
    last = num_frames - 1 if end_frame is None else frame(end_frame, num_frames, "end_frame")
    if first > last:
        raise ValueError(f"start_frame {first} comes after end_frame {last}")
    return first, last


def window_mask(tracks: Tracks, start_frame: Frame | None, end_frame: Frame | None) -> Bool[np.ndarray, "T"]:
    """Marks the frames of a window. Raises ValueError as `window` does."""
    first, last = window(tracks, start_frame, end_frame)
    frames = np.arange(tracks.xy.shape[1])
    return (frames >= first) & (frames <= last)


def ramp(tracks: Tracks, start_frame: Frame | None, end_frame: Frame | None, ease: str) -> Float[np.ndarray, "T"]:
    """Says how much of a moving edit each frame gets: 1 without a window, else 0 to 1 over the window.

    Raises ValueError for an unknown `ease` and for a bad window.
    """
    if ease not in ("linear", "smooth"):
        raise ValueError(f"unknown ease {ease!r}: choose one of linear, smooth")
    first, last = window(tracks, start_frame, end_frame)
    frames = np.arange(tracks.xy.shape[1])
    if start_frame is None and end_frame is None:
        return np.ones(len(frames))
    if first == last:  # a window of one frame is a step
        return (frames >= first).astype(float)
    ramp = np.clip((frames - first) / (last - first), 0, 1)
    return ramp if ease == "linear" else ramp * ramp * (3 - 2 * ramp)


def vector(value: Any, name: str, allowed: Range = PIXELS) -> Float[np.ndarray, "2"]:
    """Turns an (x, y) into an array. Raises ValueError unless it is two numbers of the range."""
    try:
        vector = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0)
    if vector.shape != (2,) or not all(number in allowed for number in vector):
        raise ValueError(f"{name} must be two numbers (x, y), each {allowed}, got {shown(value)}")
    return vector


def clock(
    times: Num[np.ndarray, "S"], speed: Number, start_frame: Frame | None, end_frame: Frame | None, last_frame: int
) -> Float[np.ndarray, "S"]:
    """Reads a clock that runs at `speed` in the window and at its own pace outside; without a window, at `speed`."""
    if start_frame is None and end_frame is None:
        return times * float(speed)
    first = 0 if start_frame is None else start_frame
    return times + (float(speed) - 1) * (np.clip(times, first, last_frame if end_frame is None else end_frame) - first)


PACES: dict[str, Callable[[Any], Any]] = {
    "even": lambda s: s,
    "in": lambda s: s * s,
    "out": lambda s: s * (2 - s),
    "in-out": lambda s: s * s * (3 - 2 * s),
    "hold": lambda s: 0 * s,
}
"""How far on its way a piece between two keyframes is, both 0 to 1, when a share s of its time has gone by."""


def paces(ease: str | Mapping[Any, str], keys: Iterable[int], num_frames: int) -> dict[int, str]:
    """Gives the pace of the piece that begins at each keyframe: one word for all, or some by frame, the others "even".

    Raises ValueError for another word, and for a frame that is no keyframe.
    """
    keys = list(keys)
    given = dict.fromkeys(keys, ease) if isinstance(ease, str) else ease
    found = {frame(key, num_frames, "ease"): word for key, word in given.items()}
    for key, word in found.items():
        if key not in keys:
            raise ValueError(f"ease: frame {key} is no keyframe; keyframes are {shown(sorted(keys))}")
        if not isinstance(word, str) or word not in PACES:
            raise ValueError(f"unknown ease {word!r}: choose one of {', '.join(PACES)}")
    return {key: found.get(key, "even") for key in keys}


def key_weights(
    frames: Int[np.ndarray, "M"], num_frames: int, interpolation: str, ease: str | Mapping[Any, str] = "even"
) -> Float[np.ndarray, "T M"]:
    """Gives each frame's weights on M keyframes in increasing order; the first and last keyframes hold outside them.

    "linear" is linear in time; "smooth" is the Catmull-Rom spline for unequal intervals: cubic Hermite pieces whose
    slope at a keyframe is that of the chord between its neighbours. `ease` is how the way from each keyframe to the
    next is gone along, as for `paces`. Raises ValueError for another `interpolation` or `ease`.
    """
    if interpolation not in ("linear", "smooth"):
        raise ValueError(f"unknown interpolation {interpolation!r}: choose one of linear, smooth")
    count = len(frames)
    words = list(paces(ease, frames.tolist(), num_frames).values())
    unit = np.eye(count)
    if count == 1:
        return np.ones((num_frames, 1))
    times = np.clip(np.arange(num_frames), frames[0], frames[-1])
    piece = np.clip(np.searchsorted(frames, times, side="right") - 1, 0, count - 2)
    length = (frames[piece + 1] - frames[piece]).astype(float)[:, None]
    s = (times - frames[piece])[:, None] / length
    eased = np.stack([PACES[word](s) for word in words[:-1]])[piece, np.arange(num_frames)]
    s = np.where(s == 1, s, eased)  # the last keyframe is reached, however the way to it is gone along
    if interpolation == "linear":
        return (1 - s) * unit[piece] + s * unit[piece + 1]
    before, after = np.maximum(np.arange(count) - 1, 0), np.minimum(np.arange(count) + 1, count - 1)
    slope = (unit[after] - unit[before]) / (frames[after] - frames[before])[:, None]
    ends = (2 * s**3 - 3 * s**2 + 1) * unit[piece] + (3 * s**2 - 2 * s**3) * unit[piece + 1]
    return ends + length * ((s**3 - 2 * s**2 + s) * slope[piece] + (s**3 - s**2) * slope[piece + 1])
