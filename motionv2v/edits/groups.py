"""Where a group of points is in frames in which some of its points are lost: the visible ones say.

A tracker's position of a point that it has lost is a guess, often the place where it was last seen. Counted in, it
would hold the group's centre back and tear the group apart. So a lost point is put where the group's motion takes it:
per frame one turn, zoom and shift (a similarity), fitted in least squares to the visible points. A group that moves
rigidly keeps its shape, whichever of its points are lost when, as long as some stay visible. Numpy only.
"""

from collections.abc import Callable, Mapping

import numpy as np

from motionv2v import rigid
from motionv2v.edits import selection
from motionv2v.edits.selection import Point, Points
from motionv2v.tracks import Tracks, array_namespace
from motionv2v.typing import AnyArray, Bool, Float, Shaped

MAX_LISTED = 8
"""A notice lists at most this many points, or stretches of frames."""

_ROUNDS = 10
# A group that bends is fitted otherwise with and without a point, so its motion would jump where one is lost. Fitted
# again with the lost points where it leads them, it goes on as before; a rigid group is in place after the first round.


def centred(
    tracks: Tracks,
    chosen: Bool[np.ndarray, "N"],
    notify: Callable[[str], None],
    center: Point | None = None,
) -> tuple[Float[AnyArray, "N T 2"], AnyArray]:
    """Gives positions and what a group is edited about: a fixed centre [2], or its own in each frame [T 2].

    `notify` is told in which frames a group that has no fixed centre is led by its visible points.
    """
    if center is not None:
        return tracks.xy, selection.vector(center, "center")
    if found := lost(tracks, np.flatnonzero(chosen)):
        notify(f"not visible: {found}; there the group goes as its visible points do")
    xy = follow(tracks, chosen)
    return xy, centre(xy, tracks.visible, chosen)


def follow(tracks: Tracks, chosen: Bool[np.ndarray, "N"]) -> Float[AnyArray, "N T 2"]:
    """Returns the positions of all points, the lost ones of a group put where its visible points say.

    Visible positions stay as they are. Where a point is lost, its distance from where the group's motion would take it
    goes evenly from what it was when last seen to what it is when next seen, so that no path jumps. In frames that show
    too few points for a turn (fewer than two) or a shift (none), these are interpolated between the nearest frames that
    do. A point that is never visible keeps its guesses, and so does a group without any visible point.
    """
    visible = np.asarray(tracks.visible)[chosen]
    seen = visible.any(axis=1)
    if visible.all() or not seen.any():
        return tracks.xy
    points = np.flatnonzero(chosen)[seen]
    visible = visible[seen]
    xy = np.asarray(tracks.xy, np.float64)[points]
    places = xy[..., 0] + 1j * xy[..., 1]
    factor, shift, shape = rigid.fit(places, visible)
    for _ in range(_ROUNDS):
        led = factor * shape[:, None] + shift
        away = np.stack([rigid.between(*point) for point in zip(places - led, visible, strict=True)])
        places = np.where(visible, places, led + away)
        factor, shift = rigid.poses(places, np.ones_like(visible), shape)
    filled = np.array(tracks.xy)
    filled[points] = np.where(visible[..., None], filled[points], np.stack([places.real, places.imag], axis=-1))
    return array_namespace(tracks.xy).asarray(filled)


def centre(
    xy: Float[AnyArray, "N T 2"], visible: Bool[AnyArray, "N T"], chosen: Bool[np.ndarray, "N"]
) -> Float[AnyArray, "T 2"]:
    """Returns the centre of a group in each frame, of positions as `follow` gives them.

    A point that is never visible does not count, unless none of the group ever is.
    """
    counted = chosen & np.asarray(visible).any(axis=1)
    return xy[np.flatnonzero(counted if counted.any() else chosen)].mean(axis=0)


def lost(tracks: Tracks, points: Points = None, names: Mapping[str, int] | None = None) -> str:
    """Names the points that are not visible in some frames, and when, in a few words; "" if there are none."""
    called = {index: name for name, index in (names or {}).items()}
    visible = np.asarray(tracks.visible)
    by_frames: dict[str, list[str]] = {}
    for index in selection.indices(points, len(visible)) if points is None or np.size(points) else []:
        if not visible[index].all():
            name = f" ({called[index]})" if index in called else ""
            by_frames.setdefault(spans(np.flatnonzero(~visible[index])), []).append(f"{index}{name}")
    return _listed([f"{_counted('point', who)} in {when}" for when, who in by_frames.items()])


def spans(frames: Shaped[np.ndarray, "F"]) -> str:
    """Writes frames in increasing order as "frame 7" or "frames 3-9 and 12"."""
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return _counted("frame", words, several=len(frames) > 1)


def _counted(noun: str, words: list[str], several: bool = False) -> str:
    """Writes "point 3" or "points 3 and 5"."""
    return f"{noun}{'s' if several or len(words) > 1 else ''} {_listed(words)}"


def _listed(words: list[str]) -> str:
    """Joins words by commas and an "and"; of many, the last ones are counted only."""
    if len(words) > MAX_LISTED:
        words = [*words[: MAX_LISTED - 1], f"{len(words) - MAX_LISTED + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
