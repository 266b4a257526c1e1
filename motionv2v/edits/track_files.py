"""Tracks in and out of the files that other programs have: .npz, .npy, .csv, TAP-Vid's .pkl, ComfyUI's spline .json.

| ending | what is in it |
|---|---|
| .npz | arrays `xy` [N T 2] and `visible` [N T]; written with `size` (H, W) and `fps`, which need not be there |
| .npy | one array, [N T 2] of x and y, or [N T 3] with a third column that is above 0.5 where the point is visible |
| .csv | a line of names, `track,frame,x,y,visible`, then one line per point and frame; `visible` may be missing |
| .pkl | TAP-Vid: `points` [N T 2] in fractions of width and height, `occluded` [N T], under the name of their video |
| .json | splines of ComfyUI (KJNodes): for each point a list of {"x": .., "y": ..}, one for each frame |

In this package positions are pixels, (0, 0) is the corner of the top-left pixel; so they are in all these files but
TAP-Vid's, whose fractions are of the same corners. Splines say nothing of visibility: hidden points are written like
others, and all that are read are visible. Points come first, then frames. Other conventions end at this border.
"""

import csv
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import files, pickles
from motionv2v.tracks import Tracks, from_arrays
from motionv2v.typing import Float, Shaped

MOST_BYTES, MOST_PLACES = 2**28, 2**23
"""A file has at most so many bytes, and positions of points in frames."""
_FAR = 1e6
"""Pixels: what lies further off is no place in a video."""


class Info(NamedTuple):
    """What a file says beside the tracks: None, or nothing, where it does not.

    Attributes:
        size: of the frames, (H, W) in pixels, that positions belong to. fps: frames per second. names: of the points.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    names: tuple[str, ...] = ()


def read(path: str | os.PathLike, size: tuple[int, int] | None = None) -> tuple[Tracks, Info]:
    """Read tracks, xy float32 [N T 2] in pixels and visible [N T], and what else the file says.

    `size` is that of the clip, (H, W), for files of fractions that do not know it; others have their own pixels.
    Hidden points whose position is not finite get that of the nearest frame that has one.

    Raises ValueError, one line, that names the file, what is wrong in it and what would be right.
    """
    path = Path(path)
    kind = _format(path)
    try:
        if (length := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"has {length} bytes; a file of tracks has at most {MOST_BYTES}")
        xy, visible, info = kind.read(path.read_bytes(), size)
        return _checked(xy, visible), info
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise ValueError(f"{path}: asks for more memory than there is") from None
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def write(path: str | os.PathLike, tracks: Tracks, size: tuple[int, int], fps: float | int) -> Path:
    """Write tracks in the format that the path ends in; `size` (H, W) of their frames and `fps` where it has a place.

    Returns the path. Raises ValueError for another ending and for tracks that are not finite.
    """
    kind = _format(Path(path))
    xy, visible = np.asarray(tracks.xy, np.float32), np.asarray(tracks.visible, bool)
    return files.write(path, kind.write(_checked(xy, visible), tuple(map(int, size)), float(fps)))


def _format(path: Path) -> "Format":
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"{path}: is no file of tracks by its ending; expected {', '.join(FORMATS)}")
    return FORMATS[ending]


def _checked(xy: Any, visible: Any) -> Tracks:
    """Bring tracks into this package's types. Raises ValueError for shapes, and for visible points that are nowhere."""
    shown = lambda array: f"{list(array.shape)} of {array.dtype}"  # noqa: E731
    if xy.dtype.kind not in "fiu" or visible.dtype.kind not in "bfiu":
        raise ValueError(f"has xy {shown(xy)} and visible {shown(visible)}; expected numbers")
    if xy.ndim != 3 or xy.shape[-1] != 2 or visible.shape != xy.shape[:2] or 0 in xy.shape:
        raise ValueError(f"has xy {shown(xy)} and visible {shown(visible)}; expected xy [N T 2] and visible [N T]")
    if visible.size > MOST_PLACES:
        raise ValueError(f"has {visible.size} positions; at most {MOST_PLACES} are read")
    xy, visible = xy.astype(np.float64), visible > 0.5
    there = np.isfinite(xy).all(axis=-1)
    if (wrong := np.argwhere((visible & ~there) | (there & (np.abs(xy) > _FAR).any(axis=-1)))).size:
        track, frame = wrong[0]
        x, y = xy[track, frame]
        raise ValueError(f"has track {track} at ({x:g}, {y:g}) in frame {frame}; expected pixels of the clip")
    if not (known := there.any(axis=1)).all():
        raise ValueError(f"has no finite position of track {np.argmin(known)}; leave that track out")
    frames = np.arange(xy.shape[1])
    for track in np.flatnonzero(~there.all(axis=1)):
        xy[track] = xy[track, _nearest(frames, np.flatnonzero(there[track]))]
    return from_arrays(xy, visible)


def _nearest(frames: Shaped[np.ndarray, "T"], known: Shaped[np.ndarray, "M"]) -> Shaped[np.ndarray, "T"]:
    """Return for each frame the nearest of those in `known`."""
    # By their places in order, not by a table of all distances: a long track would need too much memory for that.
    after = np.minimum(np.searchsorted(known, frames), len(known) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(frames - known[before] <= np.abs(known[after] - frames), known[before], known[after])


# --- numpy's ---


def _array(content: bytes, name: str) -> Shaped[np.ndarray, "..."]:
    """Read an array of numbers. Its size is compared with the content's before any memory is taken for it."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, kind = header(file)
    except Exception as error:  # numpy reads the header as Python's literals, which can fail in many ways
        raise ValueError(f"{name} is no array of numpy's ({error})") from None
    if kind.kind not in "biuf":
        raise ValueError(f"{name} holds {kind}; expected numbers")
    numbers = content[file.tell() :]
    if math.prod(shape) * kind.itemsize != len(numbers):
        raise ValueError(f"{name} should have the shape {list(shape)} of {kind}, but holds {len(numbers)} bytes")
    return np.frombuffer(numbers, kind).reshape(shape, order="F" if is_fortran else "C")


def _members(content: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if len(infos) > 64 or sum(info.file_size for info in infos) > MOST_BYTES:
                raise ValueError(f"is larger than {MOST_BYTES} bytes or 64 arrays when it is unpacked")
            return {info.filename.removesuffix(".npy"): _array(archive.read(info), info.filename) for info in infos}
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"is no .npz of numpy's ({error})") from None
    except Exception as error:
        if isinstance(error, ValueError | MemoryError):
            raise
        raise ValueError(f"is damaged ({error})") from None  # zlib's and struct's own errors


def _read_npz(content: bytes, size: Any) -> tuple[Any, Any, Info]:
    arrays = _members(content)
    if not {"xy", "visible"} <= set(arrays):
        raise ValueError(f"holds the arrays {', '.join(sorted(arrays)) or 'none'}; expected xy and visible")
    return arrays["xy"], arrays["visible"], Info(_size(arrays.get("size")), _fps(arrays.get("fps")))


def _write_npz(tracks: Tracks, size: tuple[int, int], fps: float) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, xy=tracks.xy, visible=tracks.visible, size=np.int64(size), fps=np.float64(fps))
    return file.getvalue()


def _size(given: Any) -> tuple[int, int] | None:
    """Read a size (H, W), if there is one."""
    if given is None:
        return None
    given = np.asarray(given)
    if given.shape != (2,) or given.dtype.kind not in "iuf" or not ((given >= 1) & (given <= 2**16)).all():
        raise ValueError(f"has the size {given.tolist()!r:.60}; expected height and width in pixels")
    return int(given[0]), int(given[1])


def _fps(given: Any) -> float | None:
    if given is None:
        return None
    given = np.asarray(given)
    if given.size != 1 or given.dtype.kind not in "iuf" or not 0 < given.item() < 1e6:
        raise ValueError(f"has the fps {given.tolist()!r:.60}; expected frames per second")
    return float(given.item())


def _read_npy(content: bytes, size: Any) -> tuple[Any, Any, Info]:
    array = _array(content, "the array")
    if array.ndim != 3 or array.shape[-1] not in (2, 3):
        raise ValueError(f"holds an array {list(array.shape)}; expected [N T 2] (x, y) or [N T 3] (x, y, visible)")
    return array[..., :2], array[..., 2] if array.shape[-1] == 3 else np.ones(array.shape[:2], bool), Info()


def _write_npy(tracks: Tracks, size: tuple[int, int], fps: float) -> bytes:
    file = io.BytesIO()
    np.save(file, np.concatenate([tracks.xy, tracks.visible[..., None].astype(np.float32)], axis=-1))
    return file.getvalue()


# --- texts ---


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


_COLUMNS = ("track", "frame", "x", "y", "visible")


def _read_csv(content: bytes, size: Any) -> tuple[Any, Any, Info]:
    lines = csv.reader(io.StringIO(_text(content), newline=""), strict=True)
    places: dict[str, dict[int, tuple[float, float, float]]] = {}
    try:
        names = [name.strip().lower() for name in next(lines, [])]
        if sorted(names) not in (sorted(_COLUMNS), sorted(_COLUMNS[:-1])):
            raise ValueError(f"has the columns {', '.join(names)[:80] or 'none'}; expected {','.join(_COLUMNS)}")
        for row in filter(None, lines):
            where = f"line {lines.line_num}"
            if len(row) != len(names):
                raise ValueError(f"{where}: has {len(row)} values; expected {len(names)}: {','.join(names)}")
            given = dict(zip(names, row, strict=True))
            frame, x, y, visible = (_cell(given.get(name, "1"), name, where) for name in _COLUMNS[1:])
            if not (0 <= frame < MOST_PLACES and frame.is_integer()):
                raise ValueError(f"{where}: frame is {given['frame'][:20]}; expected a whole number, from 0")
            of = places.setdefault(given["track"].strip(), {})
            if int(frame) in of:
                raise ValueError(f"{where}: track {given['track'][:40]} has frame {int(frame)} twice")
            of[int(frame)] = (x, y, visible)
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: is no CSV ({error})") from None
    if not places:
        raise ValueError("holds no tracks; expected one line per point and frame")
    length = 1 + max(max(of) for of in places.values())
    for name, of in places.items():
        if len(of) != length:
            missing = next(frame for frame in range(length) if frame not in of)
            raise ValueError(
                f"track {name[:40]} has no frame {missing}; expected frames 0..{length - 1} of every track"
            )
    table = np.array([[of[frame] for frame in range(length)] for of in places.values()])
    return table[..., :2], table[..., 2], Info(names=tuple(places))


def _cell(text: str, name: str, where: str) -> float:
    words = {"true": 1.0, "false": 0.0} if name == "visible" else {}
    try:
        return words[text.strip().lower()] if text.strip().lower() in words else float(text)
    except ValueError:
        raise ValueError(f"{where}: {name} is {text[:20]!r}; expected a number") from None


def _write_csv(tracks: Tracks, size: tuple[int, int], fps: float) -> bytes:
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for track, (path, seen) in enumerate(zip(tracks.xy.tolist(), tracks.visible.tolist(), strict=True)):
        lines.writerows(
            [track, frame, f"{x:.4f}", f"{y:.4f}", int(is_seen)]
            for frame, ((x, y), is_seen) in enumerate(zip(path, seen, strict=True))
        )
    return file.getvalue().encode()


def _read_splines(content: bytes, size: Any) -> tuple[Any, Any, Info]:
    try:
        found = json.loads(_text(content))
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    wanted = '[[{"x": .., "y": ..}, ...], ...], for each point a list of its places'
    if not isinstance(found, list) or not found:
        raise ValueError(f"holds {type(found).__name__}; expected {wanted}")
    splines = [found] if isinstance(found[0], dict) else found  # of a single spline the outer list is left out
    for track, spline in enumerate(splines):
        if not isinstance(spline, list) or not spline:
            raise ValueError(f"track {track} is no list; expected {wanted}")
        if len(spline) != len(splines[0]):
            raise ValueError(
                f"track {track} has {len(spline)} places, and track 0 has {len(splines[0])}; "
                "sample all splines at the frames of the clip"
            )
        for frame, place in enumerate(spline):
            if not isinstance(place, dict) or not all(_is_number(place.get(side)) for side in "xy"):
                raise ValueError(f"track {track}, frame {frame} is no place; expected {wanted}")
    xy = np.array([[(place["x"], place["y"]) for place in spline] for spline in splines], np.float64)
    return xy, np.ones(xy.shape[:2], bool), Info()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _write_splines(tracks: Tracks, size: tuple[int, int], fps: float) -> bytes:
    rounded = [[{"x": round(x, 4), "y": round(y, 4)} for x, y in path] for path in tracks.xy.tolist()]
    return json.dumps(rounded).encode()


# --- TAP-Vid's ---


def _read_tapvid(content: bytes, size: Any) -> tuple[Any, Any, Info]:
    found = pickles.load(io.BytesIO(content))
    if isinstance(found, dict) and {"points", "occluded"} <= set(found):
        item = found
    else:
        items = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(items, list | tuple) or not items:
            raise ValueError(f"holds {type(found).__name__}; expected a dict of TAP-Vid with one video")
        if len(items) > 1:
            raise ValueError(f"holds {len(items)} videos; expected the tracks of one: write that one into its own file")
        item = items[0]
    if not isinstance(item, dict) or not {"points", "occluded"} <= set(item):
        raise ValueError("has a video without points and occluded; expected both, as TAP-Vid has them")
    points, occluded = (item[name] for name in ("points", "occluded"))
    if not all(isinstance(each, np.ndarray) and each.dtype.kind in "bfiu" for each in (points, occluded)):
        raise ValueError("has points or occluded that are no arrays of numbers")
    size = size or _size(item.get("size")) or _frames_size(item.get("video"))
    if size is None:
        raise ValueError("does not say the size of its video; give the clip's")
    if points.ndim != 3 or points.shape[-1] != 2:
        raise ValueError(f"has points {list(points.shape)}; expected [N T 2] in fractions of width and height")
    visible = occluded < 0.5
    if visible.shape == points.shape[:2] and visible.any() and not (np.abs(points[visible]) <= 10).all():
        raise ValueError("has points far outside 0..1; expected fractions of width and height, not pixels")
    return points * np.float64(size[::-1]), visible, Info(size, _fps(item.get("fps")))


def _frames_size(frames: Any) -> tuple[int, int] | None:
    return frames.shape[1:3] if isinstance(frames, np.ndarray) and frames.ndim == 4 else None


def _write_tapvid(tracks: Tracks, size: tuple[int, int], fps: float) -> bytes:
    points: Float[np.ndarray, "N T 2"] = (tracks.xy.astype(np.float64) / size[::-1]).astype(np.float32)
    return pickle.dumps(
        {"clip": {"points": points, "occluded": ~tracks.visible, "size": list(size), "fps": fps}}, protocol=4
    )


class Format(NamedTuple):
    """How the content of a file becomes (xy, visible, Info), and how it is made of tracks, size and fps."""

    read: Callable[[bytes, Any], tuple[Any, Any, Info]]
    write: Callable[[Tracks, tuple[int, int], float], bytes]


_TAPVID = Format(_read_tapvid, _write_tapvid)
FORMATS: dict[str, Format] = {
    ".npz": Format(_read_npz, _write_npz),
    ".npy": Format(_read_npy, _write_npy),
    ".csv": Format(_read_csv, _write_csv),
    ".pkl": _TAPVID,
    ".pickle": _TAPVID,
    ".json": Format(_read_splines, _write_splines),
}
"""The formats by the endings of their files."""
