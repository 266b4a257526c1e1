"""Where a video is made anew (ReVideo): the `region` of an `edit.json`, shapes that are joined.

Each shape is an object with one field: "rectangle" [x0, y0, x1, y1], "polygon" [[x, y], ...], or "mask", a file as for
masks of things, white where the video is made anew. Rectangles and polygons hold for the whole clip.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from motionv2v.edits import fields
from motionv2v.edits.fields import EditError, shown
from motionv2v.typing import Bool

KINDS = ("rectangle", "polygon", "mask")
MOST_SHAPES, MOST_CORNERS = 64, 1000
Masks = Mapping[int, Bool[np.ndarray, "H W"]]


class Shape(NamedTuple):
    """One shape: corners (x, y) of a rectangle (two) or polygon, or the file of a mask; and where it is written."""

    kind: str
    corners: tuple[tuple[float, float], ...]
    path: str
    where: str


def parse(value: Any) -> tuple[Shape, ...]:
    """Reads the field `region`: one shape, or a list of them. Raises EditError."""
    if not isinstance(value, list):
        return (_parse_shape(value, "region"),)
    if not value or len(value) > MOST_SHAPES:
        raise EditError(f"region: must be a shape or a list of 1 to {MOST_SHAPES} of them, got {len(value)}")
    return tuple(_parse_shape(shape, f"region[{index}]") for index, shape in enumerate(value))


def _parse_shape(value: Any, where: str) -> Shape:
    fields.check_object(value, KINDS, where)
    if len(value) != 1:
        raise EditError(f"{where}: needs one of {', '.join(KINDS)}, got {', '.join(value) or 'none'}")
    ((kind, given),) = value.items()
    where = f"{where}.{kind}"
    if kind == "mask":
        if not isinstance(given, str) or not given:
            raise EditError(f"{where}: must be the path of a file or folder, got {shown(given)}")
        return Shape(kind, (), given, where)
    if kind == "rectangle":
        if not isinstance(given, list) or len(given) != 4:
            raise EditError(f"{where}: must be [x0, y0, x1, y1], got {shown(given)}")
        left, top, right, bottom = (fields.pixels(number, where) for number in given)
        if not (left < right and top < bottom):
            raise EditError(f"{where}: must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {shown(given)}")
        return Shape(kind, ((left, top), (right, bottom)), "", where)
    if not isinstance(given, list) or not 3 <= len(given) <= MOST_CORNERS:
        raise EditError(f"{where}: must be a list of 3 to {MOST_CORNERS} corners [x, y], got {shown(given)}")
    if not all(isinstance(corner, list) and len(corner) == 2 for corner in given):
        raise EditError(f"{where}: each corner must be [x, y], got {shown(given)}")
    corners = [(fields.pixels(x, where), fields.pixels(y, where)) for x, y in given]
    return Shape(kind, tuple(corners), "", where)


def check(shapes: tuple[Shape, ...], size: tuple[int, int]) -> None:
    """Raises EditError for a shape that lies beside a picture of size (H, W)."""
    for shape in shapes:
        if shape.kind == "mask":
            continue
        x, y = np.transpose(shape.corners)
        if x.max() <= 0 or y.max() <= 0 or x.min() >= size[1] or y.min() >= size[0]:
            raise EditError(f"{shape.where}: lies outside the frame, which has x 0..{size[1]} and y 0..{size[0]}")


def mask(
    shapes: tuple[Shape, ...], size: tuple[int, int], num_frames: int, read: Callable[[str], Masks]
) -> Bool[np.ndarray, "T H W"]:
    """Joins shapes into one mask, True where the video is made anew.

    Args:
        size: (H, W). num_frames: T. read: gives the masks of a file by frame; a mask of one frame holds for all.

    Raises:
        EditError: for a file that cannot be read, and masks of some frames only.
    """
    joined = np.zeros((num_frames, *size), bool)
    for shape in shapes:
        if shape.kind == "mask":
            joined |= _of_file(shape, num_frames, read)
            continue
        # A pixel belongs to the shape if its centre lies inside.
        x, y = (np.arange(side) + 0.5 for side in (size[1], size[0]))
        if shape.kind == "rectangle":
            (left, top), (right, bottom) = shape.corners
            joined |= ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
        else:
            canvas = np.zeros(size, np.uint8)
            cv2.fillPoly(canvas, [np.round((np.array(shape.corners) - 0.5) * 256).astype(np.int32)], 1, shift=8)
            joined |= canvas > 0
    return joined


def _of_file(shape: Shape, num_frames: int, read: Callable[[str], Masks]) -> Bool[np.ndarray, "*T H W"]:
    try:
        found = read(shape.path)
    except ValueError as error:
        raise EditError(f"{shape.where}: {error}") from error
    if len(found) == 1:
        return next(iter(found.values()))
    missing = [t for t in range(num_frames) if t not in found]
    if missing:
        raise EditError(f"{shape.where}: has masks of {len(found)} frames, none of frame {missing[0]}; expected all")
    return np.stack([found[t] for t in range(num_frames)])
