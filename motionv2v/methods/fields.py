"""What clips and pairs are made of: the fields a method may read, their shapes, and how each is turned.

A field is one or more arrays of a sample. `source` is the clip as it was and `target` the clip it shall become, uint8
[T H W 3]; `source_tracks` and `target_tracks` are the arrays `<name>_xy` float32 [N T 2], in pixels, and
`<name>_visible` bool [N T]; `region` is a mask [T H W] in [0, 1], 1 where something changes. `draft` is the
edit as drawn without a network: the array of that name, uint8 [T H W 3], and float32 [T H W] in [0, 1] `draft_hole`, 1
where its content is made up, and `draft_uncertain`, how likely each pixel is wrong.

Turned clips are clips, and turned paths are their paths: `View` says how, for ensembles and augmentation. A field whose
`turn` is None cannot be turned, which is said, and never passed through as it was.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from motionv2v import tracks
from motionv2v.typing import AnyArray, Int


class View(NamedTuple):
    """How far a clip is moved, in pixels, and along which axes it is then turned round."""

    time: bool = False
    rows: bool = False
    columns: bool = False
    down: int = 0
    right: int = 0


class Field(NamedTuple):
    """One field of a sample.

    Attributes:
        arrays: {name: (shape in letters, dtype)}; the letters are T, H, W, N, the latents' t, h, w, or numbers.
        turn: (arrays of a batch, view, (height, width)) -> the same of the turned clip; None if it cannot be turned.
        optional: arrays that `conditions` uses where a batch has them.
        keeps_time: it cannot be turned round in time, as a clip of which the first frame alone is read.
    """

    arrays: Mapping[str, tuple[tuple[Any, ...], Any]]
    turn: Callable[[dict[str, np.ndarray], View, tuple[int, int]], dict[str, np.ndarray]] | None
    optional: tuple[str, ...] = ()
    keeps_time: bool = False


def turn_pictures(arrays: dict[str, np.ndarray], view: View, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Shift and turn pictures [B T H W ...]; what a shift lays bare shows the picture's edge pixels."""
    del size
    return {name: flip(shift(x, view.down, view.right), view) for name, x in arrays.items()}


def turn_tracks(arrays: dict[str, np.ndarray], view: View, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Shift and turn tracks, `*_xy` [B N T 2] and `*_visible` [B N T]; points moved out of the picture are hidden."""
    height, width = size
    xy, visible = (next(x for name, x in arrays.items() if name.endswith(end)) for end in ("_xy", "_visible"))
    xy = xy + np.float32([view.right, view.down])
    if view.down or view.right:
        visible = visible & tracks.inside(xy, size)
    # (0, 0) is the corner of the picture, not the centre of its first pixel.
    x = width - xy[..., 0] if view.columns else xy[..., 0]
    y = height - xy[..., 1] if view.rows else xy[..., 1]
    xy = np.stack([x, y], -1)
    if view.time:
        xy, visible = xy[:, :, ::-1], visible[:, :, ::-1]
    return {name: xy if name.endswith("_xy") else visible for name in arrays}


def flip(pictures: AnyArray, view: View) -> np.ndarray:
    """Turn pictures [B T H W ...] round along the axes of a view, without its shift."""
    return np.flip(pictures, [axis for axis, is_turned in zip((1, 2, 3), view[:3], strict=True) if is_turned])


def shift(pictures: AnyArray, down: int, right: int) -> np.ndarray:
    """Move pictures [B T H W ...]; the pixels at their edges are repeated."""
    height, width = pictures.shape[2:4]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return np.asarray(pictures)[:, :, rows][:, :, :, columns]


def _tracks(side: str) -> Field:
    return Field({f"{side}_xy": (("N", "T", 2), np.float32), f"{side}_visible": (("N", "T"), bool)}, turn_tracks)


FIELDS: dict[str, Field] = {
    "source": Field({"source": (("T", "H", "W", 3), np.uint8)}, turn_pictures),
    "target": Field({"target": (("T", "H", "W", 3), np.uint8)}, turn_pictures),
    "source_tracks": _tracks("source"),
    "target_tracks": _tracks("target"),
    "region": Field({"region": (("T", "H", "W"), np.float32)}, turn_pictures),
    "draft": Field(
        {
            "draft": (("T", "H", "W", 3), np.uint8),
            "draft_hole": (("T", "H", "W"), np.float32),
            "draft_uncertain": (("T", "H", "W"), np.float32),
        },
        turn_pictures,
    ),
}
"""The fields of clips and pairs that this package makes. A method brings its own further ones (`Method.turn`)."""


def select(reads: Iterable[str], more: Mapping[str, Field] = {}) -> dict[str, Field]:
    """Look fields up by name. Raises ValueError for an unknown one, naming those there are."""
    known = {**FIELDS, **more}
    unknown = [name for name in reads if name not in known]
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; available: {', '.join(known)}")
    return {name: known[name] for name in reads}


def arrays(chosen: Mapping[str, Field]) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """List the arrays of fields, without the optional ones: {name: (shape in letters, dtype)}."""
    found: dict[str, tuple[tuple[Any, ...], Any]] = {}
    for field in chosen.values():
        found |= {name: array for name, array in field.arrays.items() if name not in field.optional}
    return found


def optional(chosen: Mapping[str, Field]) -> tuple[str, ...]:
    """List the arrays that a batch may leave out."""
    return tuple(name for field in chosen.values() for name in field.optional)


def shapes(chosen: Mapping[str, Field], sizes: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return (shape, dtype) of each array of one sample; `sizes` gives the letters their numbers."""
    return {
        name: (tuple(sizes[n] if isinstance(n, str) else n for n in letters), dtype)
        for name, (letters, dtype) in arrays(chosen).items()
    }


def length(batch: Mapping[str, AnyArray], chosen: Mapping[str, Field]) -> int | None:
    """Return the number of frames of a batch's clips; None if it holds none of the fields."""
    for field in chosen.values():
        for name, (letters, _) in field.arrays.items():
            if name in batch and "T" in letters:
                return int(np.shape(batch[name])[1 + letters.index("T")])
    return None


def take_frames(
    batch: Mapping[str, AnyArray], chosen: Mapping[str, Field], frames: Int[np.ndarray, "S"]
) -> dict[str, np.ndarray]:
    """Take frames, by index and in this order, of the fields of a batch; what else it holds is left out."""
    taken = {}
    for field in chosen.values():
        for name, (letters, _) in field.arrays.items():
            if name in batch:
                array = np.asarray(batch[name])
                taken[name] = array.take(frames, 1 + letters.index("T")) if "T" in letters else array
    return taken


def turn(batch: Mapping[str, AnyArray], chosen: Mapping[str, Field], view: View, size: tuple[int, int]) -> dict:
    """Turn the fields of a batch; what else it holds (tokens) stays.

    Raises:
        ValueError: for a field that cannot be turned, unless the view turns nothing.
    """
    turned = {name: np.asarray(x) for name, x in batch.items()}
    if view == View():
        return turned
    for name, field in chosen.items():
        if field.turn is None:
            raise ValueError(f"the method reads {name!r}, which cannot be turned: it has one view only (views=1)")
        if view.time and field.keeps_time:
            raise ValueError(f"the method reads {name!r} from its first frame on: it cannot be turned round in time")
        turned |= field.turn({key: turned[key] for key in field.arrays if key in turned}, view, size)
    return turned


def with_target(videos: Mapping[str, AnyArray], target: AnyArray) -> dict[str, AnyArray]:
    """Add a pair's target [B T H W 3] to the videos that a method draws, as samples on disk hold them.

    Where the method takes the source's first frame by itself, the target's is added too: it takes the place of that
    when the pair is swapped.
    """
    first = {"target_first": target[:, :1]} if "source_video_first" in videos else {}
    return {**videos, "target": target, **first}


def swapped(streams: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pair the cached streams of a method that change places when source becomes target: (stream, counterpart).

    The counterpart of `source_NAME` is `target_NAME`, and `target` is that of `source_video`. The first frame's latents
    of a clip, `source_video_first`, have `target_first`, which is stored for this alone and keeps its place.

    Raises:
        ValueError: for a stream that has no counterpart: then a pair cannot be swapped.
    """
    streams = tuple(streams)
    if "source_video" not in streams:
        raise ValueError(f"a pair cannot be swapped: there is no 'source_video' among {', '.join(streams)}")
    pairs = [("target", "source_video")]
    for name in streams:
        side, _, rest = name.partition("_")
        if name == "target_first":
            continue
        other = {"source": "target", "target": "source"}.get(side)
        partner = f"{other}_{rest}".replace("target_video", "target")
        if other is None or partner not in (*streams, "target"):
            raise ValueError(f"a pair cannot be swapped: {name!r} has no counterpart among {', '.join(streams)}")
        pairs.append((name, partner))
    return tuple(pairs)
