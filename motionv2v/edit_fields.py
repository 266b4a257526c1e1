"""The fields of `edit.json`: one parser and one line of documentation per kind of value.

A parser takes (value, where, names) and returns the argument for a function of `motionv2v.edits`, or raises EditError
with one line: where the value stands, what it should be, what it is.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from motionv2v import camera


class EditError(ValueError):
    """Says in one line what is wrong with an edit, where, and what would be right."""


class Names(NamedTuple):
    """What points an operation can refer to: their number, and the index of each name."""

    num_points: int
    indices: Mapping[str, int]


def shown(value: Any) -> str:
    """Writes a value as JSON, shortened to a few words."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def check_object(value: Any, allowed: Sequence[str], where: str, required: Sequence[str] = ()) -> None:
    """Raises EditError unless `value` is an object with all required and only allowed fields."""
    if not isinstance(value, dict):
        raise EditError(f"{where}: must be an object with {', '.join(allowed)}, got {shown(value)}")
    for word in value:
        if word not in allowed:
            close = difflib.get_close_matches(str(word).lower(), allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise EditError(f"{where}: unknown field {word!r}; {hint}fields: {', '.join(allowed)}")
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


def integer(value: Any, where: str, least: int) -> int:
    """Reads a whole number from `least` to 2^31 - 1, which random keys and arrays can hold. Raises EditError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise EditError(f"{where}: must be a whole number, at least {least}, got {shown(value)}")
    return value


def frame(value: Any, where: str, names: Names | None = None) -> int:
    """Reads a frame index. Raises EditError."""
    return integer(value, where, 0)


def positive(value: Any, where: str, names: Names | None = None) -> float:
    """Reads a number above 0. Raises EditError."""
    if number(value, where) <= 0:
        raise EditError(f"{where}: must be greater than 0, got {shown(value)}")
    return float(value)


def not_negative(value: Any, where: str, names: Names | None = None) -> float:
    """Reads a number that is at least 0. Raises EditError."""
    if number(value, where) < 0:
        raise EditError(f"{where}: must not be negative, got {shown(value)}")
    return float(value)


def switch(value: Any, where: str, names: Names | None = None) -> bool:
    """Reads true or false. Raises EditError."""
    if not isinstance(value, bool):
        raise EditError(f"{where}: must be true or false, got {shown(value)}")
    return value


def numbers(value: Any, where: str, names: Names | None = None) -> list[float]:
    """Reads a list of finite numbers. Raises EditError."""
    if not isinstance(value, list) or not value:
        raise EditError(f"{where}: must be a list of numbers, got {shown(value)}")
    return [number(item, f"{where}[{index}]") for index, item in enumerate(value)]


def pair(value: Any, where: str, names: Names | None = None) -> tuple[float, float]:
    """Reads [x, y]. Raises EditError."""
    if not isinstance(value, list) or len(value) != 2:
        raise EditError(f"{where}: must be [x, y], got {shown(value)}")
    return number(value[0], f"{where}[0]"), number(value[1], f"{where}[1]")


def points(value: Any, where: str, names: Names) -> list[int] | None:
    """Reads indices or names of queries; "all" is None. Raises EditError."""
    if value == "all":
        return None
    items = value if isinstance(value, list) else [value]
    if not items:
        raise EditError(f'{where}: names no points; leave the field out or write "all" for all of them')
    indices = [_point(item, where, names) for item in items]
    twice = [item for item in indices if indices.count(item) > 1]
    if twice:
        raise EditError(f"{where}: point {twice[0]} is listed twice")
    return indices


def _point(value: Any, where: str, names: Names) -> int:
    """Reads one index or name."""
    if isinstance(value, str):
        if value in names.indices:
            return names.indices[value]
        close = difflib.get_close_matches(value, names.indices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise EditError(f"{where}: no query is named {value!r}; {hint}names: {', '.join(names.indices) or 'none'}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise EditError(f'{where}: must be indices of queries, names, or "all", got {shown(value)}')
    if not 0 <= value < names.num_points:
        raise EditError(f"{where}: there is no point {value}; the queries are 0..{names.num_points - 1}")
    return value


def keyframes(value: Any, where: str, names: Names | None = None) -> dict[int, tuple[float, float]]:
    """Reads {"frame": [x, y], ...} or [[frame, x, y], ...]. Raises EditError, also for one frame given twice."""
    if isinstance(value, dict):
        bad = [key for key in value if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10)]
        if bad:
            raise EditError(f'{where}: keys must be frame numbers like "12", got {shown(bad[0])}')
        rows = [(int(key), place) for key, place in value.items()]
    elif isinstance(value, list) and all(isinstance(row, list) and len(row) == 3 for row in value):
        rows = [(frame(row[0], f"{where}[{index}]"), row[1:]) for index, row in enumerate(value)]
    else:
        raise EditError(f'{where}: must be {{"frame": [x, y], ...}} or [[frame, x, y], ...], got {shown(value)}')
    if not rows:
        raise EditError(f"{where}: needs at least one keyframe")
    result: dict[int, tuple[float, float]] = {}
    for time, place in rows:
        if time in result:
            raise EditError(f"{where}: frame {time} is given twice")
        result[time] = pair(place, f"{where}, frame {time}")
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


KINDS: dict[str, tuple[Callable[..., Any], str]] = {
    "points": (points, 'indices of queries or names: a list, a single one, or "all" (the default)'),
    "place": (pair, "[x, y] in pixels, in the frame"),
    "goal": (pair, "[x, y] in pixels, at most one frame's size outside the frame"),
    "vector": (pair, "[x, y] in pixels, or pixels per frame"),
    "keyframes": (keyframes, '{"frame": [x, y], ...} or [[frame, x, y], ...]'),
    "frame": (frame, "a frame, counted from 0; windows include both ends"),
    "number": (number, "a finite number"),
    "numbers": (numbers, "one number per frame: the time, in frames, that it shows"),
    "positive": (positive, "a number above 0"),
    "not negative": (not_negative, "a number of pixels, at least 0"),
    "switch": (switch, "true or false"),
    "ease": (choice("linear", "smooth"), '"linear" or "smooth"'),
    "axis": (choice("vertical", "horizontal"), '"vertical" (left and right swap) or "horizontal"'),
    "swap": (choice("point", "center"), '"point" (paths one for one) or "center" (groups keep their shapes)'),
    "camera": (choice(*camera.MODELS), "the kind of transform, one of " + ", ".join(camera.MODELS)),
}
"""Kind of field -> (its parser, what a person may write)."""


def frames_in(kind: str, value: Any) -> list[int]:
    """Lists the frames that a parsed field of a kind refers to."""
    if kind == "frame":
        return [value]
    return list(value) if kind == "keyframes" else []


def places_in(kind: str, value: Any) -> list[tuple[float, float]]:
    """Lists the places in the picture that a parsed field of a kind refers to."""
    if kind in ("place", "goal"):
        return [value]
    return list(value.values()) if kind == "keyframes" else []
