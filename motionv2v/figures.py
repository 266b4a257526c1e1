"""Draw what people look at: tracks over a clip, clips side by side, contact sheets. numpy, cv2 and PIL only.

Everything here takes and returns uint8 RGB. Clips with a short side below `min_side` are enlarged by a whole factor
first, so that a 64x64 clip can be seen; positions follow.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motionv2v import files
from motionv2v.stacks import Frames, Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, UInt8
from motionv2v.video import resize

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (128, 132, 138)
_SHIFT = 4  # cv2 draws at positions in units of 2**-4 pixels


def palette(num_colors: int) -> Float[AnyArray, "N 3"]:
    """Return bright colours in [0, 1], unlike for neighbouring numbers: golden-ratio steps around the hue circle."""
    hue = (0.02 + np.arange(num_colors) * 0.618034) % 1.0
    light = np.array([1.0, 0.8, 0.92])[np.arange(num_colors) % 3]
    hsv = np.stack([hue * 360, np.full(num_colors, 0.82), light], axis=-1).astype(np.float32)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] if num_colors else np.zeros((0, 3), np.float32)


Video = Lazy | UInt8[AnyArray, "_ _ _ 3"]


def enlarge(frames: UInt8[AnyArray, "T H W 3"], min_side: int = 256) -> UInt8[AnyArray, "T h w 3"]:
    """Enlarge a clip by the smallest whole factor that brings its short side to `min_side` pixels, if it is below."""
    return resize(frames, _enlarged(frames.shape, min_side))


def _enlarged(shape: tuple[int, ...], min_side: int) -> tuple[int, int]:
    factor = max(1, -(-min_side // min(shape[1:3])))
    return shape[1] * factor, shape[2] * factor


def track_frames(
    frames: UInt8[AnyArray, "T H W 3"] | Lazy,
    tracks: Tracks,
    colors: Float[AnyArray, "N 3"] | None = None,
    *,
    trail: int = 12,
    hidden: bool = True,
    highlight: Bool[AnyArray, "N"] | None = None,
    min_side: int = 256,
) -> Frames:
    """Draw each point as a dot with a fading trail of its last `trail` frames, over the clip (enlarged if small).

    `colors` are RGB in [0, 1], one per track. A point that is not visible is a small ring, or nothing with
    `hidden=False`; trails connect only frames in which the point is visible. `highlight` draws its True points larger.
    Dots outside the frame are cut off. Raises ValueError where clip and tracks differ in their number of frames.
    """
    num_tracks, num_frames = tracks.visible.shape
    if num_frames != len(frames):
        raise ValueError(f"the tracks have {num_frames} frames but the clip has {len(frames)}")
    size = _enlarged(frames.shape, min_side)
    xy = np.asarray(tracks.xy, np.float64) * (size[0] / frames.shape[1])
    colors = palette(num_tracks) if colors is None else np.asarray(colors)
    colors = np.clip(colors * 255, 0, 255).round()
    radius = np.full(num_tracks, max(2.5, min(size) / 75))
    if highlight is not None:
        radius = radius * np.where(highlight, 1.3, 0.8)
    visible = np.asarray(tracks.visible)

    def draw(t: int) -> UInt8[AnyArray, "H W 3"]:
        first = max(0, t - trail)
        picture = resize(frames[t], size)
        picture = _draw_trails(picture, xy[:, first : t + 1], visible[:, first : t + 1], colors, radius, trail)
        return _draw_dots(picture, xy[:, t], visible[:, t], colors, radius, hidden)

    return Frames((num_frames, *size, 3), draw)


def draw_tracks(
    frames: UInt8[AnyArray, "T H W 3"], tracks: Tracks, colors: Float[AnyArray, "N 3"] | None = None, **options: Any
) -> UInt8[AnyArray, "T h w 3"]:
    """Draw all of `track_frames` at once; arguments and errors are the same."""
    return np.stack(list(track_frames(frames, tracks, colors, **options)))


def frames_side_by_side(clips: Sequence[tuple[str, Video]], *, min_side: int = 256, gap: int = 8) -> Frames:
    """Put labelled clips next to one another as one clip, each under a strip with its label.

    All get the height of the tallest (after enlarging small ones), keeping their proportions; shorter clips hold their
    last frame. Height and width of the result are even, as H.264 needs. Raises ValueError for an empty list.
    """
    if not clips:
        raise ValueError("side_by_side needs at least one (label, frames)")
    enlarged = [_enlarged(frames.shape, min_side) for _, frames in clips]
    height = max(size[0] for size in enlarged)
    sizes = [(height, round(size[1] * height / size[0])) for size in enlarged]
    strip = max(24, height // 10)
    width = sum(size[1] for size in sizes) + gap * (len(sizes) + 1)
    top, total = strip + gap // 2, height + strip + gap // 2 + gap
    canvas = Image.new("RGB", (width + width % 2, total + total % 2), _PAPER)
    pen, left, corners = ImageDraw.Draw(canvas), gap, []
    for (label, _), size in zip(clips, sizes, strict=True):
        _write(pen, (left + size[1] / 2, top / 2), label, strip * 0.56, _INK, "mm", size[1])
        corners.append(left)
        left += size[1] + gap
    paper = np.asarray(canvas)

    def draw(t: int) -> UInt8[AnyArray, "H W 3"]:
        out = paper.copy()
        for (_, frames), left, first, size in zip(clips, corners, enlarged, sizes, strict=True):
            picture = resize(frames[min(t, len(frames) - 1)], first)
            out[top : top + height, left : left + size[1]] = resize(picture, size)
        return out

    return Frames((max(len(frames) for _, frames in clips), *paper.shape), draw)


def side_by_side(clips: Sequence[tuple[str, Video]], **options: Any) -> UInt8[AnyArray, "T H W 3"]:
    """Draw all of `frames_side_by_side` at once; arguments and errors are the same."""
    return np.stack(list(frames_side_by_side(clips, **options)))


def contact_sheet(
    rows: Sequence[tuple[str, Video]], columns: int = 6, *, height: int = 160, gap: int = 6
) -> UInt8[AnyArray, "H W 3"]:
    """Lay out clips as rows of evenly spaced frames (the first and the last included), labelled, on one picture.

    Every picture gets `height` pixels and keeps its clip's proportions (those of the first row for all). Column heads
    give the frame numbers of the first row. Clips with fewer frames than `columns` repeat frames of theirs only where
    another row has more. Raises ValueError for an empty list or fewer than one column.
    """
    if not rows or columns < 1:
        raise ValueError(f"contact_sheet needs rows and at least one column, given {len(rows)} and {columns}")
    columns = min(columns, max(len(frames) for _, frames in rows))
    width = round(rows[0][1].shape[2] * height / rows[0][1].shape[1])
    margin, head, band = 14, max(22, height // 7), max(22, height // 7)
    total = 2 * margin + head + len(rows) * (band + height + gap)
    size = (2 * margin + columns * width + (columns - 1) * gap, total)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (label, frames) in enumerate(rows):
        top = margin + head + row * (band + height + gap)
        _write(draw, (margin, top + band / 2), label, band * 0.62, _INK, "lm", size[0] - 2 * margin)
        chosen = np.linspace(0, len(frames) - 1, columns).round().astype(int).tolist()
        for column, index in enumerate(chosen):
            left = margin + column * (width + gap)
            canvas.paste(Image.fromarray(resize(frames[index], (height, width))), (left, top + band))
            if row == 0:
                text = f"frame {index}" if column == 0 else str(index)
                _write(draw, (left + width / 2, margin + head / 2), text, head * 0.55, _FAINT, "mm", width)
    return np.asarray(canvas)


def save_png(path: str | os.PathLike, image: UInt8[AnyArray, "H W 3"]) -> Path:
    """Write a picture as PNG, whole or not at all, creating folders on the way; return its path.

    Raises ValueError for another ending than .png or a picture that is not uint8 [H W 3].
    """
    path = _check_picture(path, image, (".png",))
    with files.partial(path) as unfinished:
        Image.fromarray(image).save(unfinished, optimize=True)
    return path


def save_jpeg(path: str | os.PathLike, image: UInt8[AnyArray, "H W 3"], quality: int = 90) -> Path:
    """Write a picture as JPEG, for photographs on pages; otherwise as `save_png`, for endings .jpg and .jpeg."""
    path = _check_picture(path, image, (".jpg", ".jpeg"))
    with files.partial(path) as unfinished:
        Image.fromarray(image).save(unfinished, quality=quality, optimize=True)
    return path


def _check_picture(path: str | os.PathLike, image: AnyArray, suffixes: tuple[str, ...]) -> Path:
    path, image = Path(path), np.asarray(image)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: pictures are written as {' or '.join(suffixes)} here, given {path.suffix!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"{path}: expected a uint8 picture [H W 3], given {image.dtype} {list(image.shape)}")
    return path


def _draw_trails(frame, xy, visible, colors, radius, trail: int) -> UInt8[AnyArray, "H W 3"]:
    """Draw the trails of all points; xy [N S 2] ends at the current frame. Older parts are thinner and fainter."""
    if xy.shape[1] < 2 or trail < 1:
        return frame
    # Colour times opacity in three channels and opacity in a fourth, painted on nothing and laid over the frame once:
    # overlapping segments then do not darken one another at their joints.
    layer = np.zeros((*frame.shape[:2], 4), np.uint8)
    for step in range(xy.shape[1] - 1):
        freshness = 1 - (xy.shape[1] - 2 - step) / trail
        for n in np.flatnonzero(visible[:, step] & visible[:, step + 1]):
            paint = [float(value * freshness) for value in (*colors[n], 255)]
            thickness = max(1, round(radius[n] * (0.25 + 0.4 * freshness)))
            cv2.line(layer, _fixed(xy[n, step]), _fixed(xy[n, step + 1]), paint, thickness, cv2.LINE_AA, _SHIFT)
    painted, out = layer[..., 3] > 0, np.array(frame)
    paint = layer[painted].astype(np.float32)
    out[painted] = (frame[painted] * (1 - paint[:, 3:] / 255) + paint[:, :3]).round().clip(0, 255).astype(np.uint8)
    return out


def _draw_dots(frame, xy, visible, colors, radius, hidden: bool) -> UInt8[AnyArray, "H W 3"]:
    """Draw the current positions: filled dots with a light rim where visible, else small rings."""
    picture = np.ascontiguousarray(frame).copy()
    scale = 1 << _SHIFT
    for n in np.argsort(visible, kind="stable"):  # the visible ones on top
        color = tuple(float(value) for value in colors[n])
        if visible[n]:
            for size, paint in ((1.45, (20, 20, 20)), (1.25, (255, 255, 255)), (0.9, color)):
                cv2.circle(picture, _fixed(xy[n]), round(radius[n] * size * scale), paint, -1, cv2.LINE_AA, _SHIFT)
        elif hidden:
            cv2.circle(picture, _fixed(xy[n]), round(radius[n] * 0.8 * scale), color, 1, cv2.LINE_AA, _SHIFT)
    return picture


def _fixed(point: Float[AnyArray, "2"]) -> tuple[int, int]:
    """Convert a position to cv2's fixed-point numbers, whose (0, 0) is the centre of the first pixel."""
    # Positions far outside would overflow cv2's integers; the clip keeps them outside.
    x, y = np.clip(np.round((np.nan_to_num(point) - 0.5) * (1 << _SHIFT)), -(2**20), 2**20)
    return int(x), int(y)


def _write(draw, position, text: str, size: float | int, color, anchor: str, max_width: float | int) -> None:
    """Write text, made smaller where it would be wider than `max_width` pixels."""
    font = ImageFont.load_default(size=size)
    length = draw.textlength(text, font=font)
    if length > max_width:
        font = ImageFont.load_default(size=max(8, size * max_width / length))
    draw.text(position, text, fill=color, font=font, anchor=anchor)
