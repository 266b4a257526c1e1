"""The `edit.json` file: points in a clip and what to do with their paths. `describe` is its one description."""

import difflib
import inspect
import json
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v.edits import areas, fields, groups, selection, things
from motionv2v.edits.fields import KINDS, SHAPES, EditError, Names, check_object, frames_in, integer, places_in, shown
from motionv2v.edits.table import ALIASES, OPERATIONS, Operation, State, Step
from motionv2v.tracks import Tracks, from_arrays
from motionv2v.typing import Float

__all__ = ["ALIASES", "OPERATIONS", "EditError", "EditSpec", "Operation", "Step", "describe", "load", "parse"]

MAX_POINTS, MAX_OPERATIONS = 4096, 1000

EXAMPLE = """\
{
  "queries": [
    [0, 310.0, 220.0],
    {"t": 12, "x": 420, "y": 190, "name": "nose"},
    [0, 80, 60], [0, 640, 70], [0, 60, 400], [0, 650, 410]
  ],
  "operations": [
    {"op": "uncamera", "reference": [2, 3, 4, 5], "frame": 0},
    {"op": "drag", "points": [0, "nose"], "start": [310, 220], "end": [360, 180],
     "start_frame": 4, "end_frame": 30},
    {"op": "keyframes", "points": "nose", "keyframes": {"0": [420, 190], "24": [470, 120], "48": [420, 60]},
     "interpolation": "smooth", "boxes": {"12": [380, 150, 460, 230]}},
    {"op": "recamera"},
    {"op": "hide", "points": [0], "start_frame": 40},
    {"op": "jitter"}
  ],
  "prompt": "a dog jumps over a puddle",
  "seed": 7,
  "frames": 49
}
"""

REQUIRED = ("queries", "operations")
FIELDS: dict[str, str] = {
    "queries": "the points, each [t, x, y] or an object with t, x, y and, if you like, a name: frame t shows the point "
    f"at (x, y), which lies in the frame. 1 to {MAX_POINTS} of them; some 20 work best",
    "operations": 'what happens to their paths, in this order: objects with "op", the name of an operation, and its '
    f"fields. May be empty; at most {MAX_OPERATIONS}",
    "prompt": 'what the edited video shows; default ""',
    "seed": "a whole number, at least 0, that fixes jitter and sampling; default 0",
    "frames": "how many frames of the clip to use, from its first; default all",
    "order": "which things lie in front, the foremost first: operations that move them, by their place in the list "
    "from 0, or names of their points. What is not said follows from the points' visibility",
    "region": "where a model of ReVideo makes the video anew; others do not read it. A shape or a list of shapes, each "
    '{"rectangle": [x0, y0, x1, y1]}, {"polygon": [[x, y], ...]} or {"mask": "file"}. Default: around what moves',
    "reference": "a picture of the first frame as it shall be, for a model of ReVideo; default: as it is",
}
"""The fields of the file and what they mean."""


def describe() -> str:
    """Writes the reference of the file: an example, its fields, all operations, their fields, what each field takes."""
    lines = ["An edit file is a JSON object in UTF-8, such as", "", textwrap.indent(EXAMPLE, "    ")]
    lines += ["Places are in pixels of the clip, x to the right, y down from its top-left corner; frames count from 0."]
    lines += ["Fields in [brackets] may be left out; a field that is not described here is an error.", ""]
    lines += [f"{name if name in REQUIRED else f'[{name}]'}: {meaning}" for name, meaning in FIELDS.items()]
    lines += [
        "",
        "Operations. start_frame to end_frame, both included, is an operation's window; left out, the whole clip.",
    ]
    lines += [
        "In a window drag, scale and rotate grow from nothing at its first frame to full force at its last and stay"
    ]
    lines += ["so; the others say what it is to them, or change its frames only.", ""]
    for name, operation in OPERATIONS.items():
        words = [operation.usage(word) for word in operation.fields]
        also = [alias for alias, meant in ALIASES.items() if meant == name]
        title = name + (f" (also called {', '.join(also)})" if also else "")
        lines.append(f"{title}: {', '.join(words) or 'no fields'}")
        lines += [f"    {line}" for line in inspect.getdoc(operation.function).splitlines() if line]
        if operation.either:
            lines.append("    Give either " + " or ".join(" and ".join(group) for group in operation.either) + ".")
    shaped = [name for name, operation in OPERATIONS.items() if operation.shapes]
    lines += ["", *(inspect.getdoc(things) or "").splitlines()[2:]]
    lines += ["", f"What moves one thing ({', '.join(shaped)}) may also say where that thing is, for the draft:"]
    lines += [f"{name}: {kind.meaning}" for name, kind in SHAPES.items()]
    lines += ["", "Fields of operations:", ""]
    for kind, (_, meaning, *_) in KINDS.items():
        users = sorted({word for operation in OPERATIONS.values() for word, k in operation.fields.items() if k == kind})
        lines.append(f"{', '.join(users)}: {meaning}")
    return "\n".join(lines)


__doc__ = f"{__doc__}\n\n{describe()}\n"


@dataclass(frozen=True)
class EditSpec:
    """A parsed `edit.json`: `queries` are (t, x, y) in source-video pixels, `names` maps names to query indices.

    `size` is the (H, W) of the clip that it was validated against, None before. `folder` is where its files of masks
    and the picture `reference` are looked for. `order` is as written: indices of operations and names.
    """

    queries: Float[np.ndarray, "N 3"]
    steps: tuple[Step, ...]
    prompt: str = ""
    seed: int = 0
    frames: int | None = None
    names: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    order: tuple[int | str, ...] = ()
    folder: Path = Path()
    region: tuple[areas.Shape, ...] = ()
    reference: str = ""

    def validate_against(self, size: tuple[int, int], num_frames: int) -> "EditSpec":
        """Checks every frame, place and operation against a clip of size (H, W) and T frames, and returns the spec.

        The spec that is returned knows the size. Each operation is tried out on still points, so that only the tracks
        themselves can make `apply` fail later. Raises EditError: `KINDS` says what may lie how far outside the frame.
        """
        height, width = size
        if self.frames is not None and self.frames > num_frames:
            raise EditError(f"frames: asks for {self.frames} frames, but the clip has {num_frames}")
        num_frames = self.frames or num_frames
        for index, (frame, *place) in enumerate(self.queries.tolist()):
            _check_frame(int(frame), num_frames, f"queries[{index}]")
            _check_place(place, (0, 0, width, height), f"queries[{index}]", size)
        for step in self.steps:
            for word, kind, value in step.values():
                where = f"{step.where}.{word}"
                for frame in frames_in(kind, value):
                    _check_frame(frame, num_frames, where)
                for place in places_in(kind, value):
                    low, high = fields.kind(kind).reach
                    _check_place(place, (low * width, low * height, high * width, high * height), where, size)
                if kind == "times" and len(value) != num_frames:
                    raise EditError(f"{where}: has {len(value)} numbers, but the clip has {num_frames} frames")
            self._try_out(step, size, num_frames)
        areas.check(self.region, size)
        spec = replace(self, size=size)
        spec.divide()
        return spec

    def divide(self) -> things.Division:
        """Tells which points move as one thing and which are the background's; the spec must know the clip's size.

        Raises EditError for what is said twice of one thing, and for an `order` of what is none.
        """
        return things.divide(self.queries, self.steps, self.order, self.names, self.size)

    def _try_out(self, step: Step, size: tuple[int, int], num_frames: int) -> None:
        """Applies one operation to points that stand still. Raises EditError."""
        rng, places = np.random.default_rng(0), self.queries[:, 1:]
        if step.name == "uncamera":  # places of different frames may coincide
            places = rng.uniform(0, 1, places.shape) * size[::-1]
        tracks = from_arrays(np.repeat(places[:, None], num_frames, axis=1))
        still = [np.broadcast_to(np.eye(3), (num_frames, 3, 3))] if step.name == "recamera" else []
        self._run(step, State(tracks, rng, size, still), tracks)

    def _run(self, step: Step, state: State, tracks: Tracks) -> Tracks:
        """Applies one operation. Raises EditError with its place."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # infinities are found and reported
                return OPERATIONS[step.name](state, tracks, step.arguments)
        except ValueError as error:
            raise EditError(f"{step.where}: {error}") from error

    def apply(self, tracks: Tracks, notify: Callable[[str], None] = warnings.warn) -> Tracks:
        """Applies the operations in order to the tracks of the queries, [N T 2] in source-video pixels.

        `notify` is called with one sentence if the tracker lost points that operations are about: which, and when.
        Raises EditError where the tracks do not fit the queries, and where an operation cannot be done, with its place.
        """
        if tracks.xy.ndim != 3 or tracks.xy.shape[0] != len(self.queries):
            raise EditError(f"the edit has {len(self.queries)} queries, but the tracks have shape {tracks.xy.shape}")
        if lost := groups.lost(tracks, self._points(), self.names):
            notify(
                f"the tracker lost {lost}: there a point is free, unless a show says otherwise, and its group goes as "
                "the others do"
            )
        return list(self.stages(tracks))[-1]

    def stages(self, tracks: Tracks) -> Iterator[Tracks]:
        """Yields the tracks that each operation is given, in order, and then what the last one makes of them.

        Raises EditError where an operation cannot be done, with its place.
        """
        state = State(tracks, np.random.default_rng(self.seed), self.size)
        yield tracks
        for step in self.steps:
            tracks = self._run(step, state, tracks)
            yield tracks

    def _points(self) -> list[int]:
        """Lists the points that operations are about."""
        found: set[int] = set()
        for step in self.steps:
            for word in (word for word, kind in OPERATIONS[step.name].fields.items() if kind == "points"):
                found.update(selection.indices(step.arguments.get(word), len(self.queries)))
        return sorted(found)


def load(path: str | os.PathLike) -> EditSpec:
    """Reads and parses an `edit.json` file (UTF-8).

    Raises EditError, one line: a missing file, bad JSON (with line and column), or what `parse` finds.
    """
    path = os.fspath(path)
    document = read_json(path)
    try:
        return replace(parse(document), folder=Path(path).parent)
    except EditError as error:
        raise EditError(f"{path}: {error}") from error


def read_json(path: str) -> Any:
    """Reads a JSON file (UTF-8) in which every field is written once and every number is finite.

    Raises EditError, one line: a missing file, or bad JSON (with line and column).
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise EditError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise EditError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a field written twice, NaN, a number of thousands of digits
        raise EditError(f"{path}: not valid JSON ({error})") from error


def parse(document: Any) -> EditSpec:
    """Turns the content of an `edit.json` (nested dicts, lists, numbers, strings; also numpy's) into an EditSpec.

    Raises EditError that names the place and what would be right there. What depends on the clip, such as frames and
    places outside it, is checked by `EditSpec.validate_against`.
    """
    document = fields.plain(document)
    check_object(document, tuple(FIELDS), "the file", required=REQUIRED)
    prompt = document.get("prompt", "")
    if not isinstance(prompt, str):
        raise EditError(f"prompt: must be a string, got {shown(prompt)}")
    seed = integer(document.get("seed", 0), "seed", 0)
    frames = document.get("frames")
    frames = None if frames is None else integer(frames, "frames", 1)
    queries, names = _parse_queries(document["queries"])
    known = Names(len(queries), names)
    if not isinstance(document["operations"], list):
        raise EditError('operations: must be a list of objects like {"op": "drag", ...}')
    if len(document["operations"]) > MAX_OPERATIONS:
        raise EditError(f"operations: {len(document['operations'])} of them; an edit has at most {MAX_OPERATIONS}")
    steps = tuple(_parse_step(index, value, known) for index, value in enumerate(document["operations"]))
    _check_cameras(steps)
    order = things.parse_order(document.get("order", []), steps, known)
    anew = areas.parse(document["region"]) if "region" in document else ()
    reference = document.get("reference", "")
    if not isinstance(reference, str):
        raise EditError(f"reference: must be the path of a picture, got {shown(reference)}")
    return EditSpec(queries, steps, prompt, seed, frames, names, order=order, region=anew, reference=reference)


def _check_cameras(steps: Sequence[Step]) -> None:
    """Raises EditError unless every camera motion that is taken out is put back afterwards."""
    removed: list[Step] = []
    for step in steps:
        if step.name == "uncamera":
            removed.append(step)
        elif step.name == "recamera":
            if not removed:
                raise EditError(f"{step.where}: there is no camera motion to put back; put an uncamera before it")
            removed.pop()
    if removed:
        raise EditError(
            f"{removed[-1].where}: the camera motion is never put back, so paths would not fit the clip; "
            'put {"op": "recamera"} after the operations that need it gone'
        )


def _parse_queries(value: Any) -> tuple[np.ndarray, dict[str, int]]:
    """Reads the points, as an array [N 3] of (t, x, y), and their names."""
    if not isinstance(value, list) or not value:
        raise EditError("queries: must be a list with at least one point [t, x, y]")
    if len(value) > MAX_POINTS:
        raise EditError(f"queries: {len(value)} points; an edit has at most {MAX_POINTS}")
    rows, names = [], {}
    for index, query in enumerate(value):
        where = f"queries[{index}]"
        if isinstance(query, dict):
            check_object(query, ("t", "x", "y", "name"), where, required=("t", "x", "y"))
            if "name" in query:
                name = fields.name(query["name"], f"{where}.name")
                if name in names:
                    raise EditError(f"{where}.name: {name!r} already names queries[{names[name]}]")
                names[name] = index
            query = [query["t"], query["x"], query["y"]]
        if not isinstance(query, list) or len(query) != 3:
            raise EditError(f"{where}: must be [t, x, y] or an object with t, x and y, got {shown(query)}")
        place = [fields.pixels(query[1], f"{where}.x"), fields.pixels(query[2], f"{where}.y")]
        rows.append([integer(query[0], f"{where}.t", 0), *place])
    return np.array(rows, np.float32), names


def _parse_step(index: int, value: Any, known: Names) -> Step:
    """Reads one operation."""
    where = f"operations[{index}]"
    if not isinstance(value, dict) or not isinstance(value.get("op"), str):
        raise EditError(f'{where}: must be an object with "op", one of {", ".join(OPERATIONS)}')
    name = ALIASES.get(value["op"], value["op"])
    if name not in OPERATIONS:
        close = difflib.get_close_matches(value["op"].lower(), [*OPERATIONS, *ALIASES], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise EditError(
            f"{where}: unknown operation {selection.shown(value['op'])}; {hint}operations: {', '.join(OPERATIONS)}"
        )
    operation, step = OPERATIONS[name], Step(index, name, {}, value["op"])
    check_object(value, ("op", *operation.fields, *operation.shapes), step.where, required=operation.required)
    for word, kind in operation.fields.items():
        if word in value:
            step.arguments[word] = KINDS[kind].parse(value[word], f"{step.where}.{word}", known)
    for word in operation.shapes:
        if word in value:
            step.shape[word] = SHAPES[word].parse(value[word], f"{step.where}.{word}", known)
    _check_either(step, operation)
    first, last = step.arguments.get("start_frame"), step.arguments.get("end_frame")
    if first is not None and last is not None and first > last:
        raise EditError(f"{step.where}: start_frame {first} comes after end_frame {last}")
    return step


def _check_either(step: Step, operation: Operation) -> None:
    """Raises EditError unless exactly one of the alternative groups of fields is given, in full."""
    if not operation.either:
        return
    choices = " or ".join(" and ".join(group) for group in operation.either)
    given = [word for group in operation.either for word in group if word in step.arguments]
    if tuple(given) not in operation.either:
        raise EditError(f"{step.where}: needs either {choices}, got {' and '.join(given) or 'neither'}")


def _check_frame(frame: int, num_frames: int, where: str) -> None:
    """Raises EditError for a frame that the clip does not have."""
    if frame >= num_frames:
        raise EditError(f"{where}: there is no frame {frame}; the clip has frames 0..{num_frames - 1}")


def _check_place(place: Sequence[float], box: tuple[int, int, int, int], where: str, size: tuple[int, int]) -> None:
    """Raises EditError for a place outside a box (left, top, right, bottom)."""
    x, y = place
    if not (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
        raise EditError(
            f"{where}: ({x:g}, {y:g}) is outside the allowed x {box[0]}..{box[2]}, y {box[1]}..{box[3]}; "
            f"the video is {size[1]} wide and {size[0]} high, in pixels"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object, refusing a field that is written twice."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise EditError(f"the field {selection.shown(key)} is written twice in one object: which one is meant?")
        seen[key] = value
    return seen


def _no_constant(name: str) -> float:
    """Refuses NaN and Infinity, which Python's parser would take."""
    raise EditError(f"{name} is not a number that JSON knows; write a finite number")
