"""Draw on a clip what a person has to see before an edit: where points go, which is which, and where pixels are.

Pictures are enlarged by a whole factor where they are small, so that numbers can be read; positions follow. Numbers are
written beside their points, in the first place around them that is free. numpy, cv2 and PIL only.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motionv2v import figures
from motionv2v.stacks import Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Num, UInt8
from motionv2v.video import resize

SMALLEST, LARGEST = 400, 1280
"""Pixels: pictures with a shorter side below are enlarged, and those with a longer side above are made smaller."""
_WHITE, _DARK, _GREY, _PAPER = (255, 255, 255), (20, 20, 22), (150, 153, 158), (255, 255, 255)
_SHIFT = 4  # cv2 draws at positions in units of 2**-4 pixels
_AROUND = ((1, 0), (1, -1), (1, 1), (-1, 0), (-1, -1), (-1, 1), (0, -1), (0, 1))


def magnified(size: tuple[int, int]) -> float:
    """Return by how much pictures of size (H, W) are enlarged: a whole factor, or below 1 for very large ones."""
    if max(size) > LARGEST:
        return LARGEST / max(size)
    return float(max(1, min(-(-SMALLEST // min(size)), LARGEST // max(size))))


def edit_frames(
    frames: UInt8[AnyArray, "T H W 3"] | Lazy,
    source: Tracks,
    target: Tracks,
    moved: Bool[np.ndarray, "N"],
    labels: Sequence[str],
) -> figures.Frames:
    """Draw an edit's paths over its clip: of each point that is moved the path it has, pale, and the one it shall take.

    A ring with an arrow shows where a point of the clip is and where it goes. Points are dots where they are visible,
    and hollow where they are not. Frames are drawn as they are asked for.
    """
    scale = magnified(frames.shape[1:3])
    size = tuple(round(side * scale) for side in frames.shape[1:3])
    before, after = (np.asarray(tracks.xy, np.float64) * scale for tracks in (source, target))
    seen, shown = np.asarray(source.visible), np.asarray(target.visible)
    colors = [tuple(int(v) for v in color) for color in np.round(figures.palette(len(moved)) * 255)]
    radius = max(3.5, min(size) / 90)

    def draw(t: int) -> UInt8[AnyArray, "H W 3"]:
        picture = (resize(frames[t], size) * 0.8).astype(np.uint8)
        faint = picture.copy()
        for n in np.flatnonzero(moved):
            _path(faint, before[n], seen[n], _WHITE, 1)
            _path(faint, after[n], shown[n], colors[n], 2)
        picture = cv2.addWeighted(faint, 0.6, picture, 0.4, 0)
        for n in np.flatnonzero(moved):
            _path(picture, after[n, : t + 1], shown[n, : t + 1], colors[n], 2)
            if seen[n, t] or shown[n, t]:
                _ring(picture, before[n, t], radius * 0.8, _WHITE if seen[n, t] else _GREY)
                _arrow(picture, before[n, t], after[n, t], radius)
        for n in np.argsort(moved, kind="stable"):
            dot = _dot if shown[n, t] else _ring
            dot(picture, after[n, t], radius if moved[n] else radius * 0.7, colors[n] if moved[n] else _GREY)
        image = Image.fromarray(picture)
        pen, text = ImageDraw.Draw(image), max(13.0, min(size) / 30)
        _write(pen, (6, 4), f"frame {t}", text, _WHITE)
        marks = [after[:, t], before[moved, t]]
        _number(pen, size, np.concatenate(marks), labels, text, [_WHITE if is_moved else _GREY for is_moved in moved])
        return np.asarray(image)

    return figures.Frames((len(frames), *size, 3), draw)


def gridded(
    picture: UInt8[AnyArray, "H W 3"],
    title: str,
    places: Num[np.ndarray, "N 2"],
    visible: Bool[np.ndarray, "N"],
    colors: Sequence[tuple[int, int, int]],
) -> UInt8[AnyArray, "h w 3"]:
    """Draw a picture with a grid that is labelled in its own pixels, and points with their numbers, if `visible`."""
    height, width = picture.shape[:2]
    scale = magnified((height, width))
    size = (round(height * scale), round(width * scale))
    text = max(13.0, min(size) / 30)
    step, margin = _spacing(scale), round(3.2 * text)
    lined = resize(picture, size)
    lines = lined.copy()
    for value in range(step, width, step):
        cv2.line(lines, (round(value * scale), 0), (round(value * scale), size[0]), _WHITE, 1)
    for value in range(step, height, step):
        cv2.line(lines, (0, round(value * scale)), (size[1], round(value * scale)), _WHITE, 1)
    lined = cv2.addWeighted(lines, 0.35, lined, 0.65, 0)
    radius = max(3.5, min(size) / 90)
    at = np.asarray(places, np.float64) * scale
    for index in np.flatnonzero(visible):
        _dot(lined, at[index], radius, colors[index])
    image = Image.fromarray(lined)
    numbers = [str(index) for index in np.flatnonzero(visible)]
    _number(ImageDraw.Draw(image), size, at[visible], numbers, text, [_WHITE] * len(numbers))
    canvas = Image.new("RGB", (size[1] + margin + 8, size[0] + 2 * round(1.6 * text) + 8), _PAPER)
    top = canvas.height - size[0] - 8
    canvas.paste(image, (margin, top))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=text)
    pen.text((margin, 0.9 * text), title, fill=_DARK, font=font, anchor="lm")
    for value in range(0, width, step):
        pen.text((margin + value * scale, top - 0.8 * text), str(value), fill=_DARK, font=font, anchor="mm")
    for value in range(0, height, step):
        pen.text((margin - 6, top + value * scale), str(value), fill=_DARK, font=font, anchor="rm")
    return np.asarray(canvas)


def sheet(pictures: Sequence[UInt8[AnyArray, "_ _ 3"]], columns: int = 2, gap: int = 10) -> UInt8[AnyArray, "H W 3"]:
    """Lay out pictures of one size row by row at the size they have, on white."""
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    canvas = np.full(shape, 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def beside(
    size: tuple[int, int], marks: Num[np.ndarray, "M 2"], widths: Sequence[float | int], text: float | int
) -> list[tuple[float, float, float, float] | None]:
    """Choose where labels so wide stand beside their marks in a picture of size (H, W): left, top, right, bottom.

    The first of `marks` have labels, the others are only kept free. Of the places around a mark the first is taken that
    covers least of other marks and labels. None for a mark that is not in the picture, and for a label without width.
    """
    taken = [(x - text / 3, y - text / 3, x + text / 3, y + text / 3) for x, y in np.asarray(marks).tolist()]
    chosen: list[tuple[float, float, float, float] | None] = []
    for (x, y), width in zip(np.asarray(marks).tolist(), widths, strict=False):
        chosen.append(None)
        if width <= 0 or not (0 <= x < size[1] and 0 <= y < size[0]):
            continue
        height, boxes = 0.8 * text, []
        for across, down in _AROUND:
            left = x + across * (0.55 * text + width / 2) - width / 2
            top = y + down * (0.45 * text + height / 2) - height / 2
            left = max(2.0, min(left, float(size[1] - width - 2)))
            top = max(2.0, min(top, float(size[0] - height - 2)))
            box = (left, top, left + width, top + height)
            boxes.append((sum(_overlap(box, other) for other in taken), len(boxes), box))
        chosen[-1] = min(boxes)[2]
        taken.append(chosen[-1])
    return chosen


def _number(pen, size, marks, labels, text, colors):
    """Write labels beside their marks, the first ones."""
    widths = [float(pen.textlength(label, font=ImageFont.load_default(size=text))) for label in labels]
    for box, label, color in zip(beside(size, marks, widths, text), labels, colors, strict=True):
        if box is not None:
            _write(pen, (box[0], (box[1] + box[3]) / 2), label, text, color, "lm")


def _overlap(one, other):
    across, down = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _write(pen, place, label, text, color, anchor="la"):
    font = ImageFont.load_default(size=text)
    pen.text(
        place, label, fill=color, font=font, anchor=anchor, stroke_width=max(1, round(text / 7)), stroke_fill=_DARK
    )


def _spacing(scale):
    """Return the distance of a grid's lines in pixels of the clip: a round number, at least 55 pixels on the screen."""
    rounds = [factor * 10**power for power in range(5) for factor in (1, 2, 5)]
    return next((step for step in rounds if step * scale >= 55), rounds[-1])


def _fixed(place):
    """Convert a position to cv2's fixed-point numbers, whose (0, 0) is the centre of the first pixel."""
    x, y = np.clip(np.round((np.asarray(place) - 0.5) * (1 << _SHIFT)), -(2**20), 2**20)
    return int(x), int(y)


def _path(picture, places, visible, color, thickness):
    """Draw the pieces of a path in which the point is visible."""
    for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(visible.astype(int))) + 1):
        if visible[run[0]] and len(run) > 1:
            points = np.array([_fixed(place) for place in places[run]], np.int32)
            cv2.polylines(picture, [points], False, color, thickness, cv2.LINE_AA, _SHIFT)


def _dot(picture, place, radius, color):
    for size, paint in ((1.4, _DARK), (1.15, _WHITE), (0.85, color)):
        cv2.circle(picture, _fixed(place), round(radius * size * (1 << _SHIFT)), paint, -1, cv2.LINE_AA, _SHIFT)


def _ring(picture, place, radius, color):
    for width, paint in ((4, _DARK), (2, color)):
        cv2.circle(picture, _fixed(place), round(radius * (1 << _SHIFT)), paint, width, cv2.LINE_AA, _SHIFT)


def _arrow(picture, start, end, radius):
    """Draw an arrow from the ring at `start` to the dot at `end`, where they are far enough apart for one."""
    way = np.asarray(end) - start
    length = float(np.hypot(*way))
    if not 4 * radius < length < 1e5:
        return
    begin, stop = start + way * radius / length, end - way * 1.6 * radius / length
    tip = min(0.5, 2.2 * radius / max(float(np.hypot(*(stop - begin))), 1e-6))
    for width, paint in ((4, _DARK), (2, _WHITE)):
        cv2.arrowedLine(picture, _fixed(begin), _fixed(stop), paint, width, cv2.LINE_AA, _SHIFT, tip)
