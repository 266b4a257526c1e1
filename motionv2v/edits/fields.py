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
from motionv2v.edits import in_depth, selection
from motionv2v.edits.selection import Range

MAX_DEPTH = 8
"""An edit is nested no deeper than this."""
MAX_STROKE, MAX_STROKES = 5000, 1000
"""Places of a stroke of a brush, and strokes on a frame."""


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
    if isinstance(value, list) and all(isinstance(row, list) and len(row) == 3 for row in value):
        rows = [(frame(row[0], f"{where}[{index}]"), row[1:]) for index, row in enumerate(value)]
    elif isinstance(value, dict):
        rows = _by_frame(value, where)
    else:
        raise EditError(f'{where}: must be {{"frame": [x, y], ...}} or [[frame, x, y], ...], got {shown(value)}')
    if not rows:
        raise EditError(f"{where}: needs at least one keyframe")
    return _each_once(rows, where, place)


def _by_frame(value: dict, where: str) -> list[tuple[int, Any]]:
    """Reads the keys of an object as frame numbers."""
    bad = [key for key in value if not re.fullmatch(r"[0-9]{1,9}(\.0{1,9})?", str(key))]
    if bad:
        raise EditError(f'{where}: keys must be frame numbers like "12", got {shown(bad[0])}')
    return [(int(str(key).split(".")[0]), item) for key, item in value.items()]


def _each_once(rows: list[tuple[int, Any]], where: str, read: Callable[..., Any]) -> dict[int, Any]:
    """Reads what is said of each frame."""
    result: dict[int, Any] = {}
    for key, value in rows:
        if key in result:
            raise EditError(f"{where}: frame {key} is given twice")
        result[key] = read(value, f"{where}, frame {key}")
    return result


def path(value: Any, where: str, names: Names | None = None) -> str:
    """Reads the name of a file or folder. Raises EditError."""
    if not isinstance(value, str) or not value.strip() or len(value) > 1000 or not value.isprintable():
        raise EditError(f"{where}: must be the name of a file or folder, got {shown(value)}")
    return value


def masks(value: Any, where: str, names: Names | None = None) -> str | dict[int, str]:
    """Reads the name of a file or folder of masks, or {"frame": picture, ...}. Raises EditError."""
    if not isinstance(value, dict):
        return path(value, where)
    if not value:
        raise EditError(f"{where}: needs at least one picture")
    return _each_once(_by_frame(value, where), where, path)


def box(value: Any, where: str, names: Names | None = None) -> tuple[float, float, float, float]:
    """Reads [x0, y0, x1, y1]. Raises EditError, also for a box without inside."""
    if not isinstance(value, list) or len(value) != 4:
        raise EditError(f"{where}: must be [x0, y0, x1, y1], got {shown(value)}")
    left, top, right, bottom = (pixels(side, f"{where}[{index}]") for index, side in enumerate(value))
    if not (left < right and top < bottom):
        raise EditError(f"{where}: must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {shown(value)}")
    return left, top, right, bottom


def boxes(value: Any, where: str, names: Names | None = None) -> dict[int, tuple[float, float, float, float]]:
    """Reads {"frame": [x0, y0, x1, y1], ...} or [[frame, x0, y0, x1, y1], ...]. Raises EditError."""
    if isinstance(value, list) and value and all(isinstance(row, list) and len(row) == 5 for row in value):
        return _each_once([(frame(row[0], f"{where}[{n}]"), row[1:]) for n, row in enumerate(value)], where, box)
    if not isinstance(value, dict) or not value:
        raise EditError(f'{where}: must be {{"frame": [x0, y0, x1, y1], ...}}, got {shown(value)}')
    return _each_once(_by_frame(value, where), where, box)


def stroke(value: Any, where: str, names: Names | None = None) -> dict[str, Any]:
    """Reads {"path": [[x, y], ...], "radius": pixels, "sign": "add" or "remove"}. Raises EditError."""
    check_object(value, ("path", "radius", "sign"), where, required=("path", "radius"))
    if not isinstance(value["path"], list) or not 0 < len(value["path"]) <= MAX_STROKE:
        raise EditError(f"{where}.path: must be 1 to {MAX_STROKE} places [x, y], got {shown(value['path'])}")
    return {
        "path": [place(item, f"{where}.path[{index}]") for index, item in enumerate(value["path"])],
        "radius": ranged(selection.RADIUS)(value["radius"], f"{where}.radius"),
        "sign": choice("add", "remove")(value.get("sign", "add"), f"{where}.sign"),
    }


def strokes(value: Any, where: str, names: Names | None = None) -> dict[int, list[dict[str, Any]]]:
    """Reads {"frame": [stroke, ...], ...}. Raises EditError."""
    if not isinstance(value, dict) or not value:
        raise EditError(f'{where}: must be {{"frame": [{{"path": ..., "radius": ...}}, ...]}}, got {shown(value)}')

    def several(value: Any, where: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_STROKES:
            raise EditError(f"{where}: must be a list of 1 to {MAX_STROKES} strokes, got {shown(value)}")
        return [stroke(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return _each_once(_by_frame(value, where), where, several)


def choice(*choices: str) -> Callable[..., str]:
    """Makes the parser of a word out of a fixed list."""

    def parse(value: Any, where: str, names: Names | None = None) -> str:
        if not isinstance(value, str) or value not in choices:
            close = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) else []
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise EditError(f"{where}: must be one of {', '.join(choices)}, got {shown(value)}{hint}")
        return value

    return parse


def pace(value: Any, where: str, names: Names | None = None) -> str | dict[int, str]:
    """Reads how keyframes are gone along: a word, or {"frame": word, ...}. Raises EditError."""
    read = choice(*selection.PACES)
    if not isinstance(value, dict):
        return read(value, where)
    return _each_once(_by_frame(value, where), where, read)


class Kind(NamedTuple):
    """A kind of field: its parser, what a person may write, and how far its places may lie from the frame.

    `reach` is (lowest, highest) in frame sizes: (0, 1) is the frame itself; None for what names no place. `control` is
    what a page asks for it by: points, pair, number, frame, keyframes, times, switch, choice (of `choices`), or json.
    """

    parse: Callable[..., Any]
    meaning: str
    reach: tuple[int, int] | None = None
    control: str = "json"
    choices: tuple[str, ...] = ()


def _number(allowed: Range, what: str = "a number") -> Kind:
    """Makes the kind of a number of a range."""
    return Kind(ranged(allowed), f"{what}, {allowed}", control="number")


def _choice(choices: Sequence[str], meaning: str, parse: Callable[..., Any] | None = None) -> Kind:
    """Makes the kind of a word out of a fixed list."""
    return Kind(parse or choice(*choices), meaning, control="choice", choices=tuple(choices))


_AROUND = "at most one frame's size outside the frame"

KINDS: dict[str, Kind] = {
    "points": Kind(
        points, 'indices of queries or names: a list, a single one, or "all" (the default)', control="points"
    ),
    "place": Kind(place, "[x, y] in pixels, in the frame", (0, 1), "pair"),
    "goal": Kind(place, f"[x, y] in pixels, {_AROUND}", (-1, 2), "pair"),
    "shift": Kind(place, "[x, y] in pixels, each at most two frame sizes", (-2, 2), "pair"),
    "velocity": Kind(
        pair(ranged(selection.VELOCITY)), "[x, y] in pixels per frame, each at most one frame size", (-1, 1), "pair"
    ),
    "keyframes": Kind(
        keyframes, f'{{"frame": [x, y], ...}} or [[frame, x, y], ...] in pixels, {_AROUND}', (-1, 2), "keyframes"
    ),
    "shifts": Kind(
        keyframes,
        'of keyframes, {"frame": [x, y], ...} or [[frame, x, y], ...] in pixels, each at most two frame sizes',
        (-2, 2),
        "keyframes",
    ),
    "frame": Kind(frame, "a frame, counted from 0; windows include both ends", control="frame"),
    "time": _number(selection.TIME, "a time, whole or not"),
    "times": Kind(times, f"one number per frame: the time that it shows, {selection.TIME}", control="times"),
    "speed": _number(selection.SPEED, "a number; below 0 plays backwards"),
    "degrees": _number(selection.DEGREES, "an angle, clockwise above 0"),
    "turn": _number(in_depth.TURN, "an angle, the way that the operation says"),
    "distance": _number(in_depth.DISTANCE, "a share of the distance to what is seen"),
    "view": _number(in_depth.VIEW, "an angle"),
    "radius": _number(selection.RADIUS, "a length"),
    "factor": _number(selection.FACTOR),
    "falloff": _number(selection.FALLOFF, "a distance"),
    "smoothing": _number(selection.SMOOTHING, "a span of time"),
    "amount": _number(selection.AMOUNT, "a distance"),
    "line": _number(selection.PIXELS, "where a line lies"),
    "switch": Kind(switch, "true or false", control="switch"),
    "ease": _choice(("linear", "smooth"), '"linear" or "smooth"'),
    "pace": _choice(
        tuple(selection.PACES),
        "of keyframes, the pace from each to the next: one of "
        + ", ".join(f'"{word}"' for word in selection.PACES)
        + '; or {"frame": word, ...} for the way from that keyframe',
        pace,
    ),
    "axis": _choice(("vertical", "horizontal"), '"vertical" (left and right swap) or "horizontal"'),
    "swap": _choice(("point", "center"), '"point" (paths one for one) or "center" (groups keep their shapes)'),
    "move": _choice(in_depth.MOVES, "a motion of the camera, one of " + ", ".join(in_depth.MOVES)),
    "camera": _choice(tuple(camera.MODELS), "the kind of transform, one of " + ", ".join(camera.MODELS)),
}
"""Every kind of field by its name."""


SHAPES: dict[str, Kind] = {
    "masks": Kind(
        masks,
        "where the thing is, white, in a file beside the edit: an .npz, a folder of pictures numbered by frame, a "
        'video; or {"frame": picture, ...}',
    ),
    "boxes": Kind(boxes, '{"frame": [x0, y0, x1, y1], ...} in pixels, in the frame: the thing lies inside', (0, 1)),
    "strokes": Kind(
        strokes,
        '{"frame": [{"path": [[x, y], ...], "radius": r, "sign": "add" or "remove"}, ...], ...}: strokes of a brush, '
        f'places at most one frame\'s size outside the frame, r {selection.RADIUS}; sign is "add" if left out',
        (-1, 2),
    ),
}
"""What any operation that moves one thing may say of where that thing is, by the field's name."""


def kind(name: str) -> Kind:
    """Looks up a kind of `KINDS`, or of `SHAPES`."""
    return KINDS.get(name) or SHAPES[name]


def frames_in(name: str, value: Any) -> list[int]:
    """Lists the frames that a parsed field of a kind refers to."""
    if name == "frame":
        return [value]
    return list(value) if name in ("keyframes", "shifts", "pace", *SHAPES) and isinstance(value, dict) else []


def places_in(name: str, value: Any) -> list[tuple[float, float]]:
    """Lists the places in the picture, or the ways across it, that a parsed field of a kind refers to."""
    if kind(name).reach is None:
        return []
    if name == "boxes":
        return [corner for x0, y0, x1, y1 in value.values() for corner in ((x0, y0), (x1, y1))]
    if name == "strokes":
        return [place for several in value.values() for stroke in several for place in stroke["path"]]
    return list(value.values()) if name in ("keyframes", "shifts") else [value]
