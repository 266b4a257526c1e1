"""Which points of an edit move as one thing, and which are the background's, as its operations say.

The points of one operation are one thing. Points that the same operations name stay together; where one operation names
more points than another they part, because they go different ways, unless a mask, a box or a stroke of the operation
says that they are one. An operation whose points lie all over the frame moves the camera, unless it says so as well;
move_camera does so with any points. Operations that move nothing (show, hide, jitter, blend_back, uncamera,
recamera) make no thing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionv2v.edits import fields
from motionv2v.edits.fields import EditError, Names, shown
from motionv2v.edits.table import OPERATIONS, Step
from motionv2v.typing import Float, Num

ALL_OVER = 0.6
"""Points whose bounding box has this share of the frame's diagonal, or more, lie all over the frame."""


@dataclass(frozen=True)
class Thing:
    """Points that move as one, the operations that move them, and what those say of where it is.

    `shape` has the parsed fields of `fields.SHAPES`: the masks of one operation, boxes and strokes by frame of all.
    """

    points: tuple[int, ...]
    steps: tuple[Step, ...]
    shape: Mapping[str, Any]

    @property
    def is_mirrored(self) -> bool:
        """Tells whether an operation mirrors it, in some frames."""
        return any(step.name == "mirror" for step in self.steps)


@dataclass(frozen=True)
class Division:
    """The things of an edit, the points by which it moves the camera (none: it does not), and things, front first.

    `order` is empty where nothing is said. `notes` tell, in a sentence each, what was decided for the person.
    """

    things: tuple[Thing, ...]
    camera: tuple[int, ...]
    order: tuple[int, ...]
    notes: tuple[str, ...]


def divide(
    queries: Float[np.ndarray, "N 3"],
    steps: Sequence[Step],
    order: Sequence[int | str],
    names: Mapping[str, int],
    size: tuple[int, int],
) -> Division:
    """Divide the points of an edit of a clip of size (H, W); arguments as the fields of `document.EditSpec`.

    Raises EditError for a frame, or a file of masks, that is given twice for one thing, and for an `order` that names
    what is no thing.
    """
    count, notes = len(queries), []
    named: list[set[tuple[int, int]]] = [set() for _ in range(count)]  # by point: the groups of operations it is in
    camera: set[int] = set()
    joined: list[list[int]] = []
    for step in steps:
        for number, points in enumerate(step.things(count)):
            if OPERATIONS[step.name].is_camera:
                camera.update(points)
                continue
            if not step.shape and is_all_over(queries[points, 1:], size):
                camera.update(points)
                notes.append(
                    f"{step.where} moves points all over the frame, so it moves the camera; "
                    "a box or a mask in it would make a thing of them"
                )
                continue
            if len(points) == count > 1 and not step.shape:
                notes.append(
                    f"{step.where} moves all points, and they lie close together, so it moves the thing that they are "
                    "on, not the camera"
                )
            for point in points:
                named[point].add((step.index, number))
            if step.shape:
                joined.append(points)
    things = [_thing(points, named, steps) for points in _groups(named, joined)]
    taken = {point for thing in things for point in thing.points}
    return Division(
        tuple(things), tuple(sorted(camera - taken)), _order(order, things, names, steps), tuple(dict.fromkeys(notes))
    )


def is_all_over(places: Num[np.ndarray, "M 2"], size: tuple[int, int]) -> bool:
    """Tell whether points lie all over a frame of size (H, W), as those of a background do."""
    return bool(np.hypot(*np.ptp(places, axis=0)) >= ALL_OVER * np.hypot(*size))


def _groups(named: list[set[tuple[int, int]]], joined: list[list[int]]) -> list[list[int]]:
    """List the points that the same operations name, by their first ones; `joined` ones stay together."""
    group = {}  # by point: the first point of its group
    first: dict[frozenset, int] = {}
    for point, of in enumerate(named):
        if of:
            group[point] = first.setdefault(frozenset(of), point)
    for points in joined:
        together = {group[point] for point in points}
        group = {point: min(together) if of in together else of for point, of in group.items()}
    return [[point for point in group if group[point] == head] for head in sorted(set(group.values()))]


def _thing(points: list[int], named: list[set[tuple[int, int]]], steps: Sequence[Step]) -> Thing:
    indices = sorted({index for point in points for index, _ in named[point]})
    own = [step for step in steps if step.index in indices]
    shape: dict[str, Any] = {}
    for step in own:
        for word, value in step.shape.items():
            if word == "masks" and word in shape:
                raise EditError(f"{step.where}.masks: another operation gives masks of the same thing; give them once")
            if word == "masks":
                shape[word] = value
                continue
            if twice := sorted(set(value) & set(shape.get(word, ()))):
                raise EditError(
                    f"{step.where}.{word}: frame {twice[0]} is given by another operation of the same thing"
                )
            shape[word] = shape.get(word, {}) | value
    return Thing(tuple(points), tuple(own), shape)


def parse_order(value: Any, steps: Sequence[Step], known: Names) -> tuple[int | str, ...]:
    """Read which things lie in front: indices of operations that move things, and names of points. Raises EditError."""
    if not isinstance(value, list):
        raise EditError(f"order: must be a list of indices of operations and names of points, got {shown(value)}")
    read: list[int | str] = []
    for index, item in enumerate(value):
        where = f"order[{index}]"
        if isinstance(item, str):
            fields.points(item, where, known)
        else:
            item = fields.integer(item, where, 0)
            if item >= len(steps):
                raise EditError(f"{where}: there is no operations[{item}]; there are {len(steps)}")
            if not OPERATIONS[steps[item].name].things:
                raise EditError(f"{where}: {steps[item].where} moves no thing")
        if item in read:
            raise EditError(f"{where}: {shown(item)} is listed twice")
        read.append(item)
    return tuple(read)


def _order(order, things, names, steps) -> tuple[int, ...]:
    """Return things, the foremost first; each where it is first named."""
    found: dict[int, None] = {}
    for index, item in enumerate(order):
        if isinstance(item, str):
            point = fields.points(item, "", Names(max(names.values()) + 1, names))[0]
            of = [number for number, thing in enumerate(things) if point in thing.points]
            missing = f"{item!r} is a point that no operation moves with a thing"
        else:
            of = [number for number, thing in enumerate(things) if any(step.index == item for step in thing.steps)]
            missing = f"{steps[item].where} moves the camera, not a thing"
        if not of:
            raise EditError(f"order[{index}]: {missing}")
        found.update(dict.fromkeys(of))
    return tuple(found)
