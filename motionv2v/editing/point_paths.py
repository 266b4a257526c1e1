"""Where a point of the page is in the clip: what a tracker or a file says, put right where a person says otherwise.

A person's word, that the point is at this place in this frame, is a mark; where the point was named is one as well.
From every mark the point is followed on to the next one and back to the one before. Between two marks the two paths
are blended linearly, so that each is believed near its own mark, and the path goes through both. What lies before the
neighbouring marks and behind them stays as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from motionv2v import tracks
from motionv2v.edits.table import FAR
from motionv2v.tracks import Tracks
from motionv2v.typing import Num

Mark = tuple[int, float | int, float | int]
"""Frame, x and y."""


def marks(point: dict[str, Any]) -> list[Mark]:
    """List where a person says that a point is, its own place among them, in order of time."""
    return sorted((each["t"], each["x"], each["y"]) for each in (point, *point.get("marks", ())))


def through(path: Tracks, mark: Mark) -> Tracks:
    """Shift a path, xy [1 T 2], so that it goes through a mark: what "followed from there" is to tracks of a file."""
    frame, *place = mark
    visible = path.visible.copy()
    visible[:, frame] = True
    return Tracks(path.xy + (np.float32(place) - path.xy[:, frame]), visible)


def join(frames: Sequence[int] | Num[np.ndarray, "M"], paths: Tracks) -> Tracks:
    """Blend the paths xy [M T 2] from marks at `frames` [M], which increase, into one path, xy [1 T 2].

    Between two marks the point is visible where it is so on either path.
    """
    at, every = np.asarray(frames), np.arange(paths.xy.shape[1])
    after = np.minimum(np.searchsorted(at, every), len(at) - 1)
    before = np.maximum(np.searchsorted(at, every, side="right") - 1, 0)
    share = ((every - at[before]) / np.maximum(at[after] - at[before], 1))[:, None].astype(np.float32)
    # Before the first mark and behind the last one both are that mark's, and the share is of no effect.
    xy = paths.xy[before, every] * (1 - share) + paths.xy[after, every] * share
    xy = np.where((before == after)[:, None], paths.xy[before, every], xy)
    return Tracks(xy[None].astype(np.float32), (paths.visible[before, every] | paths.visible[after, every])[None])


def fit(found: Tracks, size: tuple[int, int] | None, clip: tuple[int, int, int]) -> tuple[Tracks, list[str]]:
    """Bring tracks of a file to a clip's frames (T, H, W); returns them and notices.

    `size` (H, W) is that of the frames the file is about, None where it does not say.

    Raises ValueError for another number of frames, and for positions that cannot be pixels of the clip.
    """
    length, *own = clip
    (count, frames), notices = found.xy.shape[:2], []
    if frames != length:
        turned = ": they seem to have frames first, [T N 2], and points should come first" if count == length else ""
        raise ValueError(
            f"the tracks have {frames} frames, and the clip has {length}{turned or '; open the clip that they are of'}"
        )
    if size is not None and tuple(size) != tuple(own):
        notices.append(f"the tracks are of {size[1]}x{size[0]} pixels: brought to the clip's {own[1]}x{own[0]}")
        found = tracks.resize(found, size, tuple(own))
    reach = np.abs(found.xy).max()
    if reach <= 1 and min(own) > 2:
        raise ValueError("all positions lie within 0..1: expected pixels of the clip, not fractions of its size")
    if reach > FAR * max(own):
        raise ValueError(f"a position is {reach:g} pixels away, and the clip has {own[1]}x{own[0]}: is it another's?")
    return found, notices


def first_seen(path: Tracks, size: tuple[int, int]) -> Mark | None:
    """Return the first place of a path, xy [1 T 2], in a frame of size (H, W), where it is visible if it ever is.

    None where it is never in the frame.
    """
    inside = tracks.inside(path.xy, size)[0]
    frames = np.flatnonzero(inside & path.visible[0])
    frames = frames if frames.size else np.flatnonzero(inside)
    if not frames.size:
        return None
    frame = int(frames[0])
    return frame, *map(float, path.xy[0, frame])


def shift_bends(
    project: dict[str, Any], before: Callable[[int], Tracks], after: Callable[[int], Tracks], length: int
) -> None:
    """Let bends ride on paths that were put right: their keyframes go as far as the point has gone there.

    `keyframes` are places; where the point's own motion is kept they mean how far it is from its path, which would
    change with the path.

    Args:
        project: whose operations are changed. before, after: give the paths of all points that an operation, by its
            place, is given. length: of the clip in frames.
    """
    rows = {point["id"]: row for row, point in enumerate(project["points"])}
    for place, operation in enumerate(project["operations"]):
        op = operation["op"]
        if not op.get("keep_motion") or not op.get("keyframes"):
            continue
        if isinstance(op["keyframes"], list):  # rows of frame, x and y
            op["keyframes"] = {str(frame): [x, y] for frame, x, y in op["keyframes"]}
        keys = op["keyframes"]
        about = op.get("points", "all")
        about = list(rows) if about == "all" else about if isinstance(about, list) else [about]
        chosen = [rows.get(each, each) for each in about]
        way = (after(place).xy - before(place).xy)[chosen].mean(axis=0)
        if not way.any():
            continue
        for key, (x, y) in keys.items():
            dx, dy = way[min(int(float(key)), length - 1)].tolist()
            keys[key] = [round(x + dx, 3), round(y + dy, 3)]
