"""What a person says of where a thing is: masks, boxes and brush strokes, on some frames of a clip or on all.

A `Hint` is about one thing. `read` makes its masks of files: arrays (.npz, .npy), a folder of pictures, one picture, a
video. White is the thing. Everything that can be wrong with them is told in one line.
"""

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from motionv2v import video
from motionv2v.typing import Bool, Int, Shaped

PICTURES = (".png", ".bmp", ".jpg", ".jpeg", ".webp")
ARRAYS = (".npz", ".npy")
SAME_SHAPE = 0.01
"""How much the proportions of a mask may differ from the clip's, for it to be resized."""

Box = tuple[float | int, float | int, float | int, float | int]
"""Left, top, right and bottom edge, in pixels of the clip."""


@dataclass(frozen=True)
class Stroke:
    """One stroke of a brush: a line through points (x, y), `radius` pixels to each side, that adds or removes."""

    points: tuple[tuple[float | int, float | int], ...]
    radius: float | int
    adds: bool = True


@dataclass
class Hint:
    """Where one thing is, as far as a person says so; all by frame, in pixels of the clip.

    Attributes:
        masks: the thing's whole visible part. boxes: it lies inside. strokes: in their order, over mask and box.
    """

    masks: dict[int, Bool[np.ndarray, "H W"]] = field(default_factory=dict)
    boxes: dict[int, Box] = field(default_factory=dict)
    strokes: dict[int, list[Stroke]] = field(default_factory=dict)

    @property
    def frames(self) -> list[int]:
        """List the frames that something is said of, in order."""
        return sorted({*self.masks, *self.boxes, *self.strokes})

    def check(self, size: tuple[int, int], num_frames: int) -> None:
        """Raise ValueError, one line, for what does not fit a clip of size (H, W): another size, no such frame."""
        for what, by_frame in (("mask", self.masks), ("box", self.boxes), ("stroke", self.strokes)):
            for t in by_frame:
                if not 0 <= t < num_frames:
                    raise ValueError(f"a {what} of frame {t}: the clip has frames 0..{num_frames - 1}")
        for t, mask in self.masks.items():
            if mask.shape != tuple(size) or mask.dtype != bool:
                raise ValueError(f"the mask of frame {t} is {mask.dtype} {mask.shape}; the clip needs bool {size}")
        if self.masks and not any(mask.any() for mask in self.masks.values()):
            raise ValueError(f"masks of {len(self.masks)} frames, and all are empty: there is no thing in them")
        for t, box in self.boxes.items():
            check_box(box, size, f"the box of frame {t}")
        for t, strokes in self.strokes.items():
            for stroke in strokes:
                if not stroke.points or not np.isfinite(stroke.points).all() or not 0 < stroke.radius < np.inf:
                    raise ValueError(f"a stroke of frame {t} needs points (x, y) and a radius above 0, got {stroke}")

    def labels(self, t: int, size: tuple[int, int]) -> Int[np.ndarray, "H W"]:
        """Return for each pixel of frame t whether it is the thing's: 1 yes, -1 no, 0 not said; int8.

        A mask says it of all pixels, a box of those outside it, a stroke of those under the brush.
        """
        labels = np.zeros(size, np.int8)
        if t in self.masks:
            labels = np.where(self.masks[t], np.int8(1), np.int8(-1))
        elif t in self.boxes:
            left, top, right, bottom = self.boxes[t]
            rows, columns = (np.arange(side) + 0.5 for side in size)
            inside = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))
            labels[~inside] = -1
        for stroke in self.strokes.get(t, []):
            labels[brushed(stroke, size)] = 1 if stroke.adds else -1
        return labels


def resized(hint: Hint, size: tuple[int, int], new: tuple[int, int]) -> Hint:
    """Return a hint about a clip of size (H, W) as one about the same clip at another size."""
    (x, y), shrink = (new[1] / size[1], new[0] / size[0]), float(np.sqrt(new[0] * new[1] / (size[0] * size[1])))
    masks = {t: _resized(mask, new) for t, mask in hint.masks.items()}
    boxes = {
        t: (left * x, top * y, min(right * x, new[1]), min(bottom * y, new[0]))
        for t, (left, top, right, bottom) in hint.boxes.items()
    }
    brush = lambda stroke: Stroke(  # noqa: E731
        tuple((px * x, py * y) for px, py in stroke.points), stroke.radius * shrink, stroke.adds
    )
    return Hint(masks, boxes, {t: [brush(stroke) for stroke in strokes] for t, strokes in hint.strokes.items()})


def check_box(box: Box, size: tuple[int, int], where: str = "the box") -> None:
    """Raise ValueError, one line, for a box without inside, or one that leaves the frame of size (H, W)."""
    left, top, right, bottom = box
    text, inside = ", ".join(f"{side:g}" for side in box), f"x 0..{size[1]}, y 0..{size[0]}"
    if not (left < right and top < bottom):
        raise ValueError(f"{where} is {text}; expected left < right and top < bottom (x0, y0, x1, y1)")
    if not (0 <= left and right <= size[1] and 0 <= top and bottom <= size[0]):
        raise ValueError(f"{where} is {text}, which leaves the frame: {inside}, in pixels of the clip")


def parse_box(text: str) -> tuple[int, Box]:
    """Read "frame,x0,y0,x1,y1" as a command line gives it; raise ValueError, one line, for anything else."""
    parts = text.split(",")
    try:
        frame, box = int(parts[0]), tuple(float(part) for part in parts[1:])
    except ValueError:
        frame, box = -1, ()
    if frame < 0 or len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"a box is frame,x0,y0,x1,y1, such as 12,300,180,420,260 in pixels; got {text!r}")
    return frame, box


def brushed(stroke: Stroke, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Return the pixels of a frame of size (H, W) that a stroke covers."""
    # Far outside the frame OpenCV's integers would overflow; there is nothing to see.
    limit = 4 * max(size) + 8
    at = np.clip(np.asarray([*stroke.points, stroke.points[-1]], np.float64) - 0.5, -limit, limit)
    pad = int(min(np.ceil(stroke.radius), limit)) + 1  # the line may lie beside the frame
    canvas = np.full((size[0] + 2 * pad, size[1] + 2 * pad), 255, np.uint8)
    cv2.polylines(canvas, [np.round((at + pad) * 16).astype(np.int32)], False, 0, 1, shift=4)
    if canvas.all():
        return np.zeros(size, bool)
    away = cv2.distanceTransform(canvas, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away[pad : pad + size[0], pad : pad + size[1]] <= stroke.radius


def read(
    path: str | os.PathLike,
    size: tuple[int, int],
    num_frames: int,
    *,
    frame: int | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> dict[int, Bool[np.ndarray, "H W"]]:
    """Read the masks of one thing from a file or a folder, by frame.

    Args:
        path: an .npz with one array [T H W], or with arrays [H W] whose names end in the number of their frame (as
            `mask_12`); an .npy [T H W]; a folder of pictures whose names end so; one such picture; a video, frame for
            frame. Arrays are bool, or numbers from 0 to 1 or to 255; pictures may have indexed colours, of which the
            first is the background, or transparency, where it says more than the colours.
        size: (H, W) of the clip. Masks of other sizes in the same proportions are resized.
        num_frames: of the clip. Where a sequence is longer, its first frames count.
        frame: which frame a single picture or array [H W] is of, whatever its name.
        notify: called with a sentence for masks that are resized, cut short, or counted from 1.

    Raises:
        ValueError: (VideoError too) in one line, for what cannot be read, has other proportions, is of a frame that
            there is not, or holds nothing.
    """
    path, found = Path(path), {}
    for t, mask in _numbered(path, size, num_frames, frame, notify):
        if t in found:
            raise ValueError(f"{path}: two masks are of frame {t}")
        found[t] = mask
    found = _white(path, _in_range(path, found, num_frames, notify))
    shapes = {mask.shape for mask in found.values()} - {tuple(size)}
    for height, width in sorted(shapes):
        if abs(width * size[0] / (height * size[1]) - 1) > SAME_SHAPE:
            raise ValueError(f"{path}: masks are {width}x{height}, the clip is {size[1]}x{size[0]}: other proportions")
    if shapes:
        sizes = " and ".join(f"{width}x{height}" for height, width in sorted(shapes))
        notify(f"{path}: masks are {sizes} and are resized to the clip's {size[1]}x{size[0]}")
    return {t: _resized(found[t], size) for t in sorted(found)}


def _in_range(path, found, num_frames, notify):
    """Return the masks of the clip's frames; those of a longer sequence are left out, others are refused."""
    numbers = sorted(found)
    if numbers == list(range(1, num_frames + 1)) and num_frames > 1:
        notify(f"{path}: frames are counted from 1 in it, and from 0 here: mask 1 is taken for frame 0")
        return {t - 1: mask for t, mask in found.items()}
    beyond = [t for t in numbers if t >= num_frames]
    if beyond and numbers == list(range(len(numbers))):
        notify(f"{path}: has masks of {len(numbers)} frames; the first {num_frames} count, as many as are edited")
        return {t: found[t] for t in range(num_frames)}
    if beyond:
        raise ValueError(f"{path}: a mask of frame {beyond[0]}; the clip has frames 0..{num_frames - 1}")
    return found


def _resized(mask, size):
    if mask.shape == tuple(size):
        return mask
    smaller = size[0] < mask.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=how) > 0.5


def _numbered(path, size, num_frames, frame, notify) -> Iterator[tuple[int, Shaped[np.ndarray, "H W"]]]:
    """Yield each mask with its frame, as the file says."""
    suffix = path.suffix.lower()
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
        if not pictures:
            raise ValueError(f"{path}: no pictures are in it; expected {', '.join(PICTURES)} that end in frame numbers")
        yield from ((_number(picture.stem, picture), _picture(picture)) for picture in pictures)
    elif not path.exists():
        raise ValueError(f"{path}: there is no such file or folder of masks")
    elif suffix in ARRAYS:
        yield from _arrays(path, num_frames, frame)
    elif suffix in PICTURES:
        yield (_number(path.stem, path) if frame is None else frame), _picture(path)
    else:
        yield from enumerate(_video(path, num_frames, notify))


def _number(name: str, where: object) -> int:
    digits = re.findall(r"\d+", name)
    if not digits or len(digits[-1]) > 9:
        raise ValueError(f"{where}: of which frame? A name ends in the number of its frame, such as mask_0012")
    return int(digits[-1])


def _picture(path) -> Shaped[np.ndarray, "H W"]:
    try:
        with Image.open(path) as picture:
            if picture.mode == "P" and "transparency" not in picture.info:
                colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
                used = colours[np.unique(np.asarray(picture))]
                # Indices of things, as datasets have them; a palette of greys is an ordinary picture, stored small.
                if (used != used[:, :1]).any():
                    return np.asarray(picture) > 0
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                opaque = np.asarray(picture.convert("RGBA"))[..., 3]
                if opaque.min() < 255:
                    return opaque > 127
            # 16 bits, whole numbers and fractions stay as they are; PIL would cut them off at 255.
            deep = picture.mode[0] in "IF"
            grey = np.asarray(picture if deep else picture.convert("L"))
    except (OSError, EOFError, ValueError, IndexError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: is not a picture that can be read ({_words(error)})") from error
    # What lossy compression leaves of black is not 0, so small values mean nothing there.
    return grey if path.suffix.lower() in (".png", ".bmp") else grey > 127


def _arrays(path, num_frames, frame) -> Iterator[tuple[int, Shaped[np.ndarray, "H W"]]]:
    damaged = (OSError, EOFError, ValueError, AttributeError, KeyError, RuntimeError, MemoryError)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {path.stem: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except (*damaged, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: is not a file of arrays that can be read ({_words(error)})") from error
    if len(arrays) == 1 and (array := next(iter(arrays.values()))).ndim == 3:
        if len(array) < num_frames:
            raise ValueError(f"{path}: has masks of {len(array)} frames, and the clip {num_frames}: [T H W] is of all")
        yield from enumerate(array)
        return
    for name, array in arrays.items():
        if array.ndim != 2:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:3])
            raise ValueError(f"{path}: expected one array [T H W], or arrays [H W] named by frames; it has {shapes}")
        is_told = frame is not None and len(arrays) == 1
        yield (frame if is_told else _number(name, f"{path}: array {name!r}")), array


def _video(path, num_frames, notify) -> Iterator[Bool[np.ndarray, "H W"]]:
    count, _ = video.measure(path)
    if count > num_frames:
        notify(f"{path}: has about {count} frames; the first {num_frames} count, as many as are edited")
    for picture in video.read(path, num_frames, notify=notify).frames:
        yield cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) > 127


def _white(path, found):
    """Tell what is white: above half of what the largest value of all masks says is the full one, 1, 255 or 65535."""
    for mask in found.values():
        if mask.size == 0 or mask.dtype.kind not in "buif":
            raise ValueError(f"{path}: a mask is bool or numbers, and has pixels; got {mask.dtype} {list(mask.shape)}")
    low, most = (float(of([of(mask) for mask in found.values()])) for of in (np.min, np.max))
    if not (low >= 0 and most <= 65535):  # nor for what is not a number
        raise ValueError(f"{path}: the values of a mask go from 0 to 1, or to 255; got {low:g} to {most:g}")
    full = next(full for full in (1, 255, 65535) if most <= full)
    white = {t: mask if mask.dtype == bool else mask > full / 2 for t, mask in found.items()}
    if not any(mask.any() for mask in white.values()):
        raise ValueError(f"{path}: nothing in it is white, the values are {low:g} to {most:g}; a mask is 0 and 255")
    return white


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
