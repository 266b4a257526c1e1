"""The operations of a project, as its list has them: {id, on, label, op}, `op` being one operation of `edit.json`.

Functions change the project that they are given; whether the edit then fits the clip is for the caller to check.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from motionv2v.edits import fields, selection
from motionv2v.edits.document import ALIASES
from motionv2v.edits.table import OPERATIONS
from motionv2v.typing import Float

CAMERA_PAIR = {"uncamera": "recamera", "recamera": "uncamera"}
"""Of the operations that are nothing alone, each with the other."""


def find(rows: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """Return the point or operation with an id. Raises ValueError that lists those there are."""
    for row in rows:
        if row["id"] == name:
            return row
    raise ValueError(f"there is no {what} {name!r}; there are {', '.join(row['id'] for row in rows) or 'none'}")


def new(project: dict[str, Any], op: dict[str, Any]) -> dict[str, Any]:
    """Put an operation at the end of the list; returns it, with its wrapper."""
    operation = {"id": f"o{project['next']}", "on": True, "label": str(op.get("op")), "op": op}
    project["next"] += 1
    project["operations"].append(operation)
    return operation


def change_fields(op: dict[str, Any], given: dict[str, Any]) -> None:
    """Let fields take the place of those there are; None takes a field out, which then is what it is by default."""
    if "op" in given:
        raise ValueError("op: an operation stays of its kind; remove it, and add another")
    op.update(given)
    for word in [word for word, value in given.items() if value is None]:
        del op[word]


def normalise(op: dict[str, Any]) -> None:
    """Write the fields of a valid operation in the one way that the page's commands know: by frame, points as lists."""
    for word in ("keyframes", "boxes"):
        if isinstance(op.get(word), list):
            op[word] = {row[0]: row[1:] for row in op[word]}
    if is_tween(op) and isinstance(op.get("by"), list):
        op["by"] = {row[0]: row[1:] for row in op["by"]}
    for word in ("keyframes", "by", "boxes", "strokes", "ease"):
        if isinstance(op.get(word), dict):
            op[word] = {str(int(float(frame))): value for frame, value in op[word].items()}
    if "points" in op and op["points"] != "all" and not isinstance(op["points"], list):
        op["points"] = [op["points"]]


def with_pair(project: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """List an operation, and the one that puts its camera motion back, or takes it out: one is nothing alone."""
    if operation["op"]["op"] not in CAMERA_PAIR:
        return [operation]
    open_ones: list[dict[str, Any]] = []
    for each in project["operations"]:
        if each["op"]["op"] == "uncamera":
            open_ones.append(each)
        elif each["op"]["op"] == "recamera" and open_ones:
            both = [open_ones.pop(), each]
            if operation in both:
                return both
    return [operation]


def is_tween(op: dict[str, Any]) -> bool:
    """Tell whether an operation is one of keyframes."""
    return ALIASES.get(op["op"], op["op"]) == "tween"


def is_bend(op: dict[str, Any]) -> bool:
    """Tell whether an operation of keyframes keeps the points' own motion."""
    return is_tween(op) and bool("by" in op or op.get("keep_motion"))


def keys(op: dict[str, Any]) -> dict[str, Any]:
    """Return the keyframes of a `normalise`d operation as they are written, shifts or places; {} where it has none."""
    if not is_tween(op):
        return {}
    return op["by"] if "by" in op else op["keyframes"]


def rounded(place: Float[np.ndarray, "2"]) -> list[float]:
    """Write a place, or a shift, as keyframes have it."""
    return [round(float(side), 3) for side in place]


def put_shift(op: dict[str, Any], frame: int, shift: Float[np.ndarray, "2"], centre: Float[np.ndarray, "T 2"]) -> None:
    """Let a bend (`normalise`d) shift points by so much in a frame; `centre` is theirs, for bends by places."""
    keys(op)[str(frame)] = rounded(shift if "by" in op else centre[frame] + shift)


def keep_motion(op: dict[str, Any], kept: bool, centre: Float[np.ndarray, "T 2"]) -> None:
    """Write keyframes as shifts, on which the points' own motion goes on, or as places: where they are by now."""
    normalise(op)
    if kept != ("by" in op):
        sign, old, new = (-1, "keyframes", "by") if kept else (1, "by", "keyframes")
        op[new] = {frame: rounded(centre[int(frame)] * sign + at) for frame, at in op.pop(old).items()}
    op.pop("keep_motion", None)


def set_pace(op: dict[str, Any], frame: int, pace: str) -> None:
    """Give the way between two keyframes of a `normalise`d operation, that which a frame lies in, a pace."""
    frames = sorted(map(int, keys(op)))
    start = max([each for each in frames[:-1] if each <= frame], default=frames[0])
    ease = op.get("ease", "even")
    ease = dict.fromkeys(map(str, frames[:-1]), ease) if isinstance(ease, str) else dict(ease)
    ease[str(start)] = pace
    kept = {each: word for each, word in ease.items() if word != "even"}
    op.pop("ease", None)
    op.update({"ease": kept} if kept else {})


def offsets(op: dict[str, Any], centre: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 2"]:
    """Return how far a bend (`normalise`d) moves points whose centre is given, in each frame."""
    frames = np.array(sorted(map(int, keys(op))))
    ease = op.get("ease", "even")
    ease = ease if isinstance(ease, str) else {int(frame): word for frame, word in ease.items()}
    weights = selection.key_weights(frames, len(centre), op.get("interpolation", "linear"), ease)
    values = np.array([keys(op)[str(frame)] for frame in frames])
    return weights @ (values if "by" in op else values - centre[frames])


def _latest(project: dict[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what bends, scales or turns just these points, the last first, behind all else that moves any of them.

    What scales or turns does so about the points' own centre, which stays: a bend may come before or behind it.
    """
    for operation in reversed(project["operations"]):
        op, about = operation["op"], operation["op"].get("points")
        if not operation["on"]:
            continue
        is_pose = op["op"] in ("scale", "rotate") and op.get("center") is None
        if isinstance(about, list) and sorted(map(str, about)) == sorted(names) and (is_pose or is_bend(op)):
            normalise(op)
            yield operation
        elif not isinstance(about, list) or set(about) & set(names):
            return


def bending(project: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
    """Find the operation that bends these points, if nothing behind it moves any of them in another way."""
    return next((operation for operation in _latest(project, names) if is_bend(operation["op"])), None)


def posing(
    project: dict[str, Any], names: list[str], kind: str, frame: int, last: int
) -> tuple[dict[str, Any] | None, int]:
    """Find the operation, "scale" or "rotate", that poses these points up to a frame; else when a new one begins.

    That is the last frame before up to which one does, or 0. One without a window holds in all frames, from 0 on.
    `last` is the clip's last frame.
    """
    start = 0
    for operation in _latest(project, names):
        op = operation["op"]
        if op["op"] != kind:
            continue
        end = op.get("end_frame", last if "start_frame" in op else 0)
        if end == frame:
            return operation, start
        start = max(start, end) if end < frame else start
    return None, start


# --- boxes and strokes: where a thing is, as a person says ---


def put_box(project: dict[str, Any], names: list[str], frame: int, box: Sequence[float | int]) -> None:
    """Say that the thing of these points lies inside a box in a frame, in place of what was said of that frame.

    It is written into an operation that moves them. Raises ValueError where none does.
    """
    op = _told(project, names, frame, "boxes")
    op["boxes"] = {**op.get("boxes", {}), str(frame): [round(float(side), 3) for side in box]}


def put_stroke(project: dict[str, Any], names: list[str], frame: int, stroke: dict[str, Any]) -> None:
    """Add a stroke of a brush, as `edit.json` has it, to those of a frame. Raises ValueError as `put_box`."""
    op = _told(project, names, frame, "strokes")
    there = op.get("strokes", {})
    op["strokes"] = {**there, str(frame): [*there.get(str(frame), []), stroke]}


def put_masks(project: dict[str, Any], names: list[str], name: str) -> None:
    """Give a file of masks to an operation that moves these points: that which has one, or else the first."""
    found = moving(project, names)
    there = [operation for operation in found if "masks" in operation["op"]]
    (there or found)[0]["op"]["masks"] = name


def take(project: dict[str, Any], names: list[str], frame: int, word: str, name: str | None = None) -> None:
    """Take what a field, boxes or strokes, says of a frame away. Raises ValueError where it says nothing.

    It is that of the operation `name`, on or off; else of the first one that is on, moves these points and has it.
    """
    named = None if name is None else find(project["operations"], name, "operation")
    if named is not None:
        normalise(named["op"])
    for operation in moving(project, names) if named is None else [named]:
        said = operation["op"].get(word, {})
        if said.pop(str(frame), None) is not None:
            if not said:
                del operation["op"][word]
            return
    raise ValueError(f"there are no {word} of these points at frame {frame}")


def _told(project: dict[str, Any], names: list[str], frame: int, word: str) -> dict[str, Any]:
    """Return the operation whose field says something of a frame, or else the one that shall."""
    found = moving(project, names)
    if not found:
        raise ValueError("nothing moves these points yet: bend them, or add an operation that does, then say where")
    there = [operation for operation in found if str(frame) in operation["op"].get(word, {})]
    return (there or found)[0]["op"]


def moving(project: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """List the operations that are on and move one thing with these points, those about the fewest points first."""
    known = [point["id"] for point in project["points"]]
    places = fields.Names(len(known), {name: place for place, name in enumerate(known)})
    names, found = [find(project["points"], name, "point")["id"] for name in names], []
    for operation in project["operations"]:
        op = operation["op"]
        if not operation["on"] or not OPERATIONS[ALIASES.get(op["op"], op["op"])].shapes:
            continue
        normalise(op)
        chosen = fields.points(op.get("points", "all"), "points", places)
        about = known if chosen is None else [known[place] for place in chosen]
        if set(names) <= set(about):
            found.append((len(about), len(found), operation))
    return [operation for _, _, operation in sorted(found, key=lambda each: each[:2])]
