"""The edit vocabulary: pure functions `Tracks -> Tracks` that bend the paths of points (the paper, sections 3.1 and 5).

Tracks are those of one clip, xy [N T 2] in pixels. Common keywords:

- `points`: indices of the points that the edit is about, in any order; None means all of them.
- `start_frame`, `end_frame`: a window of frames, both ends included; None means the first and the last frame.
  *Replacing* edits (reverse, freeze, mirror, swap, show, hide, jitter) change the window's frames only.
  *Moving* edits (drag, scale, rotate) are in full force in the whole clip when no window is given; with a window they
  grow from nothing at its first frame to full force at its last frame and stay so. Drift, retime and blend_back say
  what the window is to them.
- `ease`: how a moving edit grows, "linear" or "smooth" (starts and ends at rest).

Every function checks its arguments and raises ValueError with one line that names the bad value and what is available.
Visibility stays as it is unless the edit says otherwise: only the tracker or a person knows what an edited point would
hide behind. Positions may leave the frame; the renderer clips.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from motionv2v import camera, selection
from motionv2v import tracks as tracks_lib
from motionv2v.selection import Number, Point, Points
from motionv2v.tracks import Tracks, array_namespace
from motionv2v.typing import Bool, Float, Num


def drag(
    tracks: Tracks,
    points: Points = None,
    *,
    start: Point | None = None,
    end: Point | None = None,
    by: Point | None = None,
    falloff: Number = 0.0,
    start_frame: int | None = None,
    end_frame: int | None = None,
    ease: str = "smooth",
) -> Tracks:
    """Moves a group of points by `end - start` (or by `by`), in pixels, keeping their own motion.

    With `falloff` > 0 (pixels) the other points follow by exp(-d^2 / (2 falloff^2)), d being their distance to the
    nearest point of the group in the frame where the drag begins.
    """
    if (by is None) == (end is None) or (end is None) != (start is None):
        raise ValueError("drag needs either start and end, or by: points in pixels")
    if end is None:
        shift = selection.vector(by, "by")
    else:
        shift = selection.vector(end, "end") - selection.vector(start, "start")
    chosen = selection.mask(tracks, points)
    if not (np.isfinite(falloff) and falloff >= 0):
        raise ValueError(f"drag needs falloff >= 0 pixels, got {falloff}")
    ramp = selection.ramp(tracks, start_frame, end_frame, ease)
    xp = array_namespace(tracks.xy)
    weight = xp.asarray(chosen, dtype=tracks.xy.dtype)
    if falloff > 0:
        first = tracks.xy[:, start_frame or 0]
        apart = xp.linalg.norm(first[:, None] - first[np.flatnonzero(chosen)][None], axis=-1).min(axis=1)
        weight = xp.where(chosen, 1.0, xp.exp(-0.5 * (apart / falloff) ** 2)).astype(tracks.xy.dtype)
    moved = tracks.xy + (weight[:, None, None] * ramp[:, None] * shift).astype(tracks.xy.dtype)
    return Tracks(moved, tracks.visible)


def drift(
    tracks: Tracks,
    points: Points = None,
    *,
    velocity: Point,
    t_origin: Number | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Adds a constant velocity (pixels per frame) that leaves the positions at frame `t_origin` unchanged.

    Outside the window the displacement stays what it is at the window's ends. `t_origin` defaults to the window's first
    frame, so that a drift in a window starts from nothing.
    """
    first, last = selection.window(tracks, start_frame, end_frame)
    if t_origin is not None and not np.isfinite(t_origin):
        raise ValueError(f"drift needs a finite t_origin, got {t_origin}")
    times = np.clip(np.arange(tracks.xy.shape[1]), first, last) - (first if t_origin is None else t_origin)
    displacement = times[:, None] * selection.vector(velocity, "velocity")
    return _replace(tracks, tracks.xy + displacement, selection.mask(tracks, points))


def tween(
    tracks: Tracks,
    points: Points = None,
    *,
    keyframes: Mapping[int, Point],
    interpolation: str = "linear",
    keep_motion: bool = False,
) -> Tracks:
    """Puts the centre of a group of points at given positions at given frames, {frame: (x, y)}, and interpolates.

    A single point hits its keyframes exactly; a group moves rigidly, each point keeping its offset from the group's
    centre at that frame. Before the first and after the last keyframe the centre holds. With `keep_motion` the
    *displacement* is interpolated (and held) instead, so the points' own motion goes on between keyframes.
    `interpolation` is "linear" or "smooth" (a Catmull-Rom spline in time through the keyframes).
    """
    num_frames = tracks.xy.shape[1]
    if not keyframes:
        raise ValueError("tween needs at least one keyframe, {frame: (x, y)}")
    frames = sorted(keyframes)
    for frame in frames:
        selection.check_frame(frame, num_frames, "keyframe")
    keys = np.stack([selection.vector(keyframes[frame], f"keyframe {frame}") for frame in frames])
    weights = selection.key_weights(np.asarray(frames), num_frames, interpolation)
    chosen = selection.mask(tracks, points)
    centre = _centre(tracks, chosen, None)
    if keep_motion:
        displacement = (weights[:, :, None] * (keys - centre[np.asarray(frames)])).sum(axis=1)
    else:
        displacement = (weights[:, :, None] * keys).sum(axis=1) - centre
    return _replace(tracks, tracks.xy + displacement, chosen)


def retime(
    tracks: Tracks,
    points: Points = None,
    *,
    speed: Number | None = None,
    about: Number = 0.0,
    times: Sequence[Number] | Num[np.ndarray, "T"] | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Plays paths at another speed: frame t shows what was at frame about + speed * (t - about), or at times[t].

    Inside a window the speed applies, outside it time runs at its own pace, without a jump. Negative speeds play
    backwards. Times before the first or after the last frame hold that frame. Visibility follows (nearest frame).
    """
    num_frames = tracks.xy.shape[1]
    if (speed is None) == (times is None):
        raise ValueError("retime needs either speed or times (one source frame time per frame)")
    first, last = selection.window(tracks, start_frame, end_frame)
    frames = np.arange(num_frames)
    if times is None:
        if not (np.isfinite(speed) and np.isfinite(about)):
            raise ValueError(f"retime needs a finite speed and about, got {speed} and {about}")
        window = (start_frame, end_frame, num_frames - 1)
        times = about + selection.clock(frames, speed, *window) - selection.clock(np.array([about]), speed, *window)
    else:
        times = np.asarray(times, np.float64)
        if times.shape != (num_frames,) or not np.isfinite(times).all():
            raise ValueError(f"retime needs one finite time for each of the {num_frames} frames, got {times.tolist()}")
        times = np.where((frames >= first) & (frames <= last), times, frames)
    played = tracks_lib.retime(tracks, times)
    return _replace(tracks, played.xy, selection.mask(tracks, points), played.visible)


def reverse(
    tracks: Tracks, points: Points = None, *, start_frame: int | None = None, end_frame: int | None = None
) -> Tracks:
    """Plays the window's frames backwards, positions and visibility."""
    first, last = selection.window(tracks, start_frame, end_frame)
    order = np.arange(tracks.xy.shape[1])
    order[first : last + 1] = order[first : last + 1][::-1]
    played = tracks_lib.take_frames(tracks, order)
    return _replace(tracks, played.xy, selection.mask(tracks, points), played.visible)


def freeze(
    tracks: Tracks,
    points: Points = None,
    *,
    frame: int = 0,
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Holds the positions and visibility of one frame over the window, by default from that frame to the end.

    `start_frame=0` freezes the whole clip.
    """
    selection.check_frame(frame, tracks.xy.shape[1], "frame")
    first, last = selection.window(tracks, frame if start_frame is None else start_frame, end_frame)
    order = np.arange(tracks.xy.shape[1])
    order[first : last + 1] = frame
    held = tracks_lib.take_frames(tracks, order)
    return _replace(tracks, held.xy, selection.mask(tracks, points), held.visible)


def scale(
    tracks: Tracks,
    points: Points = None,
    *,
    factor: Number,
    center: Point | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
    ease: str = "smooth",
) -> Tracks:
    """Scales positions about a fixed point (pixels), or about the group's centre in each frame; `factor` > 0.

    In a window the factor grows geometrically from 1.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"scale needs a factor > 0, got {factor}")
    chosen = selection.mask(tracks, points)
    centre = _centre(tracks, chosen, center)
    factors = factor ** selection.ramp(tracks, start_frame, end_frame, ease)
    return _replace(tracks, centre + (tracks.xy - centre) * factors[:, None], chosen)


def rotate(
    tracks: Tracks,
    points: Points = None,
    *,
    degrees: Number,
    center: Point | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
    ease: str = "smooth",
) -> Tracks:
    """Turns positions about a fixed point (pixels), or about the group's centre in each frame.

    Positive angles turn clockwise as seen on the screen (x to the right, y down).
    """
    if not np.isfinite(degrees):
        raise ValueError(f"rotate needs a finite angle in degrees, got {degrees}")
    chosen = selection.mask(tracks, points)
    centre = _centre(tracks, chosen, center)
    angles = np.deg2rad(degrees) * selection.ramp(tracks, start_frame, end_frame, ease)
    cos, sin = np.cos(angles), np.sin(angles)
    offset = tracks.xy - centre
    x, y = offset[..., 0], offset[..., 1]
    turned = array_namespace(tracks.xy).stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    return _replace(tracks, centre + turned, chosen)


def mirror(
    tracks: Tracks,
    points: Points = None,
    *,
    axis: str = "vertical",
    at: Number | None = None,
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Mirrors positions about the vertical line x = `at` (left and right swap) or the horizontal line y = `at`.

    Without `at` the line goes through the group's centre in each frame: the group flips in place and keeps its path.
    """
    if axis not in ("vertical", "horizontal"):
        raise ValueError(f"unknown axis {axis!r}: choose one of vertical, horizontal")
    if at is not None and not np.isfinite(at):
        raise ValueError(f"mirror needs a finite position of its axis, got at={at}")
    chosen = selection.mask(tracks, points)
    centre = _centre(tracks, chosen, None if at is None else (at, at))
    flip = np.array([axis == "vertical", axis == "horizontal"])
    mirrored = array_namespace(tracks.xy).where(flip, 2 * centre - tracks.xy, tracks.xy)
    return _replace(tracks, mirrored, chosen, frames=selection.window_mask(tracks, start_frame, end_frame))


def swap(
    tracks: Tracks,
    first: Points,
    second: Points,
    *,
    by: str = "point",
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Exchanges the paths of two points or of two groups.

    by="point" exchanges the positions and visibility of the i-th points of two groups of equal size, in the order
    given. by="center" sends each group, rigidly, along the path of the other's centre: sizes may differ, the groups
    keep their shapes and visibility.
    """
    num_points = tracks.xy.shape[0]
    one, two = selection.indices(first, num_points, "first"), selection.indices(second, num_points, "second")
    common = sorted(set(one) & set(two))
    if common:
        raise ValueError(f"swap needs two separate groups, but point {common[0]} is in both")
    frames = selection.window_mask(tracks, start_frame, end_frame)
    if by == "point":
        if len(one) != len(two):
            raise ValueError(f"swap by point needs groups of equal size, got {len(one)} and {len(two)}; or by='center'")
        order = np.arange(num_points)
        order[one], order[two] = two, one
        return _replace(tracks, tracks.xy[order], np.isin(order, one + two), tracks.visible[order], frames)
    if by != "center":
        raise ValueError(f"unknown kind of swap {by!r}: choose one of point, center")
    apart = tracks.xy[two].mean(axis=0) - tracks.xy[one].mean(axis=0)
    moved = _replace(tracks, tracks.xy + apart, selection.mask(tracks, one), frames=frames)
    return _replace(moved, moved.xy - apart, selection.mask(tracks, two), frames=frames)


def show(
    tracks: Tracks, points: Points = None, *, start_frame: int | None = None, end_frame: int | None = None
) -> Tracks:
    """Marks points as visible during the window."""
    return _set_visible(tracks, points, start_frame, end_frame, True)


def hide(
    tracks: Tracks, points: Points = None, *, start_frame: int | None = None, end_frame: int | None = None
) -> Tracks:
    """Marks points as not visible during the window: the model is free to put them anywhere."""
    return _set_visible(tracks, points, start_frame, end_frame, False)


def blend_back(
    tracks: Tracks,
    original: Tracks,
    points: Points = None,
    *,
    start_frame: int | None = None,
    end_frame: int | None = None,
    ease: str = "smooth",
) -> Tracks:
    """Leads edited paths back to the original ones: edited up to the window's first frame, original from its last on.

    Visibility switches halfway. Without a window the return takes the whole clip.
    """
    if tracks.xy.shape != original.xy.shape:
        raise ValueError(f"blend_back needs tracks of one shape, got {tracks.xy.shape} and {original.xy.shape}")
    first, last = selection.window(tracks, start_frame, end_frame)
    weight = selection.ramp(tracks, first, last, ease)
    xy = tracks.xy * (1 - weight[:, None]) + original.xy * weight[:, None]
    visible = array_namespace(tracks.xy).where(weight >= 0.5, original.visible, tracks.visible)
    return _replace(tracks, xy, selection.mask(tracks, points), visible)


def uncamera(
    tracks: Tracks, reference: Points, *, frame: int = 0, model: str | None = None
) -> tuple[Tracks, Float[np.ndarray, "T 3 3"]]:
    """Removes camera motion: maps every frame so that the reference points stand where they are in `frame`.

    The transform is fitted per frame to the reference points: a homography to 4 or more, an affine map to 3, a
    similarity to 2, a translation to 1, or the `model` named. Returns the stabilised tracks and the transforms [T 3 3]
    that `recamera` undoes after the edit. Numpy only. Raises ValueError also for points that coincide or lie in a line.
    """
    selection.check_frame(frame, tracks.xy.shape[1], "frame")
    chosen = np.asarray(tracks.xy, np.float64)[selection.indices(reference, tracks.xy.shape[0], "reference")]
    still = np.broadcast_to(chosen[:, frame : frame + 1], chosen.shape)
    homographies = camera.fit(chosen, still, model)
    return tracks_lib.warp(tracks, homographies), homographies


def recamera(tracks: Tracks, homographies: Float[np.ndarray, "T 3 3"]) -> Tracks:
    """Puts camera motion back: the inverse of the transforms that `uncamera` returned.

    Raises ValueError for another number of frames and for a transform without inverse.
    """
    if len(homographies) != tracks.xy.shape[1]:
        raise ValueError(f"recamera needs {tracks.xy.shape[1]} transforms, one per frame, got {len(homographies)}")
    return tracks_lib.warp(tracks, camera.invert(homographies))


def jitter(
    rng: np.random.Generator,
    tracks: Tracks,
    points: Points = None,
    *,
    amount: Number = 2.0,
    start_frame: int | None = None,
    end_frame: int | None = None,
) -> Tracks:
    """Adds independent noise U(-amount, amount) pixels to x and y of every point in every frame.

    The paper's supplement uses 2 px on all points at inference, because exactly aligned source and target paths make
    the model copy the source.
    """
    if not (np.isfinite(amount) and amount >= 0):
        raise ValueError(f"jitter needs an amount >= 0 pixels, got {amount}")
    noise = rng.uniform(-amount, amount, size=tracks.xy.shape)
    frames = selection.window_mask(tracks, start_frame, end_frame)
    return _replace(tracks, tracks.xy + noise, selection.mask(tracks, points), frames=frames)


def _centre(tracks: Tracks, chosen: Bool[np.ndarray, "N"], center: Point | None) -> Any:
    """Gives the fixed centre [2], or the mean of the chosen points in each frame [T 2]."""
    if center is not None:
        return selection.vector(center, "center")
    return tracks.xy[np.flatnonzero(chosen)].mean(axis=0)


def _replace(tracks: Tracks, xy: Any, chosen: Any, visible: Any = None, frames: Any = None) -> Tracks:
    """Takes new positions (and visibility) for the chosen points in the chosen frames, keeping the dtype."""
    xp = array_namespace(tracks.xy)
    mask = chosen[:, None] if frames is None else chosen[:, None] & frames
    xy = xp.where(mask[..., None], xy, tracks.xy).astype(tracks.xy.dtype)
    return Tracks(xy, tracks.visible if visible is None else xp.where(mask, visible, tracks.visible))


def _set_visible(tracks: Tracks, points: Points, start_frame: int | None, end_frame: int | None, value: bool) -> Tracks:
    """Sets visibility of the chosen points over a window."""
    frames = selection.window_mask(tracks, start_frame, end_frame)
    return _replace(tracks, tracks.xy, selection.mask(tracks, points), value, frames)
