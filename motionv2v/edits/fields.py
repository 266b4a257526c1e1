"""The fields of `edit.json`: one parser and one line of documentation per kind of value.

A parser takes (value, where, names) and returns the argument for a function of `motionv2v.edits`, or raises EditError
with one line: where the value stands, what it should be, what it is. Numbers have the ranges of
`motionv2v.edits.selection`, which the functions check as well; a whole number may be written 3 or 3.0.
"""

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from motionv2v import camera
from motionv2v.edits import selection
from motionv2v.edits.selection import Range

MAX_DEPTH = 8
"""An edit is nested no deeper than this."""


class EditError(ValueError):
    """Says in one line what is wrong with an edit, where, and what would be right."""


class Names(NamedTuple):
    """What points an operation can refer to: their number, and the index of each name."""

    num_points: int
    indices: Mapping[str, int]


def shown(value: Any) -> str:
    """Writes a value as JSON, shortened to a few words."""
    try:
        text = json.dumps(value, default=repr)
    except (TypeError, ValueError):  # Python's own, such as a dict with tuples for keys
        return selection.shown(value)
    return text if len(text) <= 60 else text[:57] + "..."


def plain(value: Any, depth: int = 0) -> Any:
    """Turns what Python code may hand over (tuples, numpy's arrays and numbers) into what JSON has.

    Raises EditError for deep nesting, and for text that no file can hold (half of a pair of surrogates).
    """
    if depth > MAX_DEPTH:
        raise EditError(f"the file: is nested more than {MAX_DEPTH} deep")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        keys = [plain(key, depth + 1) if isinstance(key, str) else key for key in value]
        return dict(zip(keys, (plain(item, depth + 1) for item in value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [item if type(item) in (int, float) else plain(item, depth + 1) for item in value]
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise EditError(f"the file: {shown(value)} is not text: it has half of a surrogate pair")
    return value


def check_object(value: Any, allowed: Sequence[str], where: str, required: Sequence[str] = ()) -> None:
    """Raises EditError unless `value` is an object with all required and only allowed fields."""
    if not isinstance(value, dict):
        raise EditError(f"{where}: must be an object with {', '.join(allowed)}, got {shown(value)}")
    for word in value:
        if word not in allowed:
            close = difflib.get_close_matches(str(word).lower(), allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            listed = ", ".join(allowed) or "none"
            raise EditError(f"{where}: unknown field {selection.shown(word)}; {hint}fields: {listed}")
    for word in required:
        if word not in value:
            raise EditError(f"{where}: needs the field {word!r}")


def number(value: Any, where: str, names: Names | None = None) -> float:
    """Reads a finite number. Raises EditError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EditError(f"{where}: must be a number, got {shown(value)}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise EditError(f"{where}: must be a finite number, got {shown(value)}")
    return value


def ranged(allowed: Range) -> Callable[..., float]:
    """Makes the parser of a number of a range."""

    def parse(value: Any, where: str, names: Names | None = None) -> float:
        if number(value, where) not in allowed:
            raise EditError(f"{where}: must be {allowed}, got {shown(value)}")
        return float(value)

    return parse


def integer(value: Any, where: str, least: int) -> int:
    """Reads a whole number from `least` to 2^31 - 1, which random keys and arrays can hold. Raises EditError."""
    whole = not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    )
    if not whole or not least <= value < 2**31:
        raise EditError(f"{where}: must be a whole number, at least {least}, got {shown(value)}")
    return int(value)


def frame(value: Any, where: str, names: Names | None = None) -> int:
    """Reads a frame index. Raises EditError."""
    return integer(value, where, 0)


def switch(value: Any, where: str, names: Names | None = None) -> bool:
    """Reads true or false. Raises EditError."""
    if not isinstance(value, bool):
        raise EditError(f"{where}: must be true or false, got {shown(value)}")
    return value


pixels = ranged(selection.PIXELS)
time = ranged(selection.TIME)


def times(value: Any, where: str, names: Names | None = None) -> list[float]:
    """Reads a list of times in frames. Raises EditError."""
    if not isinstance(value, list) or not value:
        raise EditError(f"{where}: must be a list of numbers, got {shown(value)}")
    return [time(item, f"{where}[{index}]") for index, item in enumerate(value)]


def pair(read: Callable[..., float]) -> Callable[..., tuple[float, float]]:
    """Makes the parser of [x, y] from that of one number."""

    def parse(value: Any, where: str, names: Names | None = None) -> tuple[float, float]:
        if not isinstance(value, list) or len(value) != 2:
            raise EditError(f"{where}: must be [x, y], got {shown(value)}")
        return read(value[0], f"{where}[0]"), read(value[1], f"{where}[1]")

    return parse


place = pair(pixels)


def name(value: Any, where: str) -> str:
    """Reads a point's name, in one Unicode form however it was typed. Raises EditError."""
    if not isinstance(value, str) or not value.strip() or value == "all" or len(value) > 60 or not value.isprintable():
        raise EditError(f'{where}: must be a word or a few other than "all", 60 letters at most, got {shown(value)}')
    return unicodedata.normalize("NFC", value)


def points(value: Any, where: str, names: Names) -> list[int] | None:
    """Reads indices or names of queries; "all" is None. Raises EditError."""
    if value == "all":
        return None
    items = value if isinstance(value, list) else [value]
    if not items:
        raise EditError(f'{where}: names no points; leave the field out or write "all" for all of them')
    indices: dict[int, None] = {}
    for item in items:
        index = _point(item, where, names)
        if index in indices:
            raise EditError(f"{where}: point {index} is listed twice")
        indices[index] = None
    return list(indices)


def _point(value: Any, where: str, names: Names) -> int:
    """Reads one index or name."""
    if isinstance(value, str):
        known = unicodedata.normalize("NFC", value)
        if known in names.indices:
            return names.indices[known]
        close = difflib.get_close_matches(value, names.indices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(list(names.indices)[:8]) + (", ..." if len(names.indices) > 8 else "")
        raise EditError(f"{where}: no query is named {selection.shown(value)}; {hint}names: {listed or 'none'}")
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise EditError(f'{where}: must be indices of queries, names, or "all", got {shown(value)}')
    if not 0 <= value < names.num_points:
        raise EditError(f"{where}: there is no point {shown(value)}; the queries are 0..{names.num_points - 1}")
    return int(value)


def keyframes(value: Any, where: str, names: Names | None = None) -> dict[int, tuple[float, float]]:
    """Reads {"frame": [x, y], ...} or [[frame, x, y], ...]. Raises EditError, also for one frame given twice."""
    if isinstance(value, dict):
        bad = [key for key in value if not re.fullmatch(r"[0-9]{1,9}(\.0{1,9})?", str(key))]
        if bad:
            raise EditError(f'{where}: keys must be frame numbers like "12", got {shown(bad[0])}')
        rows = [(int(str(key).split(".")[0]), item) for key, item in value.items()]
    elif isinstance(value, list) and all(isinstance(row, list) and len(row) == 3 for row in value):
        rows = [(frame(row[0], f"{where}[{index}]"), row[1:]) for index, row in enumerate(value)]
    else:
        raise EditError(f'{where}: must be {{"frame": [x, y], ...}} or [[frame, x, y], ...], got {shown(value)}')
    if not rows:
        raise EditError(f"{where}: needs at least one keyframe")
    result: dict[int, tuple[float, float]] = {}
    for key, value in rows:
        if key in result:
            raise EditError(f"{where}: frame {key} is given twice")
        result[key] = place(value, f"{where}, frame {key}")
    return result


def choice(*choices: str) -> Callable[..., str]:
    """Makes the parser of a word out of a fixed list."""

    def parse(value: Any, where: str, names: Names | None = None) -> str:
        if not isinstance(value, str) or value not in choices:
            close = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) else []
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise EditError(f"{where}: must be one of {', '.join(choices)}, got {shown(value)}{hint}")
        return value

    return parse


class Kind(NamedTuple):
    """A kind of field: its parser, what a person may write, and how far its places may lie from the frame.

    `reach` is (lowest, highest) in frame sizes: (0, 1) is the frame itself; None for what names no place.
    """

    parse: Callable[..., Any]
    meaning: str
    reach: tuple[int, int] | None = None


def _number(allowed: Range, what: str = "a number") -> Kind:
    """Makes the kind of a number of a range."""
    return Kind(ranged(allowed), f"{what}, {allowed}")


_AROUND = "at most one frame's size outside the frame"

KINDS: dict[str, Kind] = {
    "points": Kind(points, 'indices of queries or names: a list, a single one, or "all" (the default)'),
    "place": Kind(place, "[x, y] in pixels, in the frame", (0, 1)),
    "goal": Kind(place, f"[x, y] in pixels, {_AROUND}", (-1, 2)),
    "shift": Kind(place, "[x, y] in pixels, each at most two frame sizes", (-2, 2)),
    "velocity": Kind(
        pair(ranged(selection.VELOCITY)), "[x, y] in pixels per frame, each at most one frame size", (-1, 1)
    ),
    "keyframes": Kind(keyframes, f'{{"frame": [x, y], ...}} or [[frame, x, y], ...] in pixels, {_AROUND}', (-1, 2)),
    "frame": Kind(frame, "a frame, counted from 0; windows include both ends"),
    "time": _number(selection.TIME, "a time, whole or not"),
    "times": Kind(times, f"one number per frame: the time that it shows, {selection.TIME}"),
    "speed": _number(selection.SPEED, "a number; below 0 plays backwards"),
    "degrees": _number(selection.DEGREES, "an angle, clockwise above 0"),
    "factor": _number(selection.FACTOR),
    "falloff": _number(selection.FALLOFF, "a distance"),
    "amount": _number(selection.AMOUNT, "a distance"),
    "line": _number(selection.PIXELS, "where a line lies"),
    "switch": Kind(switch, "true or false"),
    "ease": Kind(choice("linear", "smooth"), '"linear" or "smooth"'),
    "axis": Kind(choice("vertical", "horizontal"), '"vertical" (left and right swap) or "horizontal"'),
    "swap": Kind(choice("point", "center"), '"point" (paths one for one) or "center" (groups keep their shapes)'),
    "camera": Kind(choice(*camera.MODELS), "the kind of transform, one of " + ", ".join(camera.MODELS)),
}
"""Every kind of field by its name."""


def frames_in(kind: str, value: Any) -> list[int]:
    """Lists the frames that a parsed field of a kind refers to."""
    if kind == "frame":
        return [value]
    return list(value) if kind == "keyframes" else []


def places_in(kind: str, value: Any) -> list[tuple[float, float]]:
    """Lists the places in the picture, or the ways across it, that a parsed field of a kind refers to."""
    if KINDS[kind].reach is None:
        return []
    return list(value.values()) if kind == "keyframes" else [value]
