"""The edit vocabulary: pure functions `Tracks -> Tracks` that bend the paths of points (the paper, sections 3.1 and 5).

Tracks are those of one clip, xy [N T 2] in pixels. Common keywords:

- `points`: indices of the points that the edit is about, in any order; None means all of them.
- `start_frame`, `end_frame`: a window of frames, both ends included; None means the first and the last frame.
  *Replacing* edits (reverse, freeze, mirror, swap, show, hide, jitter) change the window's frames only.
  *Moving* edits (drag, scale, rotate, magnify) are in full force in the whole clip when no window is given; with a
  window they grow from nothing at its first frame to full force at its last frame and stay so. Drift, retime and
  blend_back say what the window is to them.
- `ease`: how a moving edit grows, "linear" or "smooth" (starts and ends at rest).

A group's own centre, and the offsets of its points from it, are those of its visible points (`motionv2v.edits.groups`):
a lost point goes where the group goes. `notify` is called with a sentence that names such points and frames.

Every function checks its arguments and raises ValueError with one line that names the bad value and what is available.
Numbers have the ranges of `motionv2v.edits.selection`; whole numbers may be of any type.
Visibility stays as it is unless the edit says otherwise: only the tracker or a person knows what an edited point would
hide behind. Positions may leave the frame; the renderer clips.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from motionv2v import camera
from motionv2v.edits import groups, prompts, selection
from motionv2v.edits.selection import Frame, Number, Point, Points
from motionv2v.tracks import Tracks, array_namespace, at_times, take_frames, warp
from motionv2v.typing import Float, Num


def drag(
    tracks: Tracks,
    points: Points = None,
    *,
    start: Point | None = None,
    end: Point | None = None,
    by: Point | None = None,
    falloff: Number = 0.0,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
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
    falloff = selection.FALLOFF.check(falloff, "falloff")
    ramp = selection.ramp(tracks, start_frame, end_frame, ease)
    xp = array_namespace(tracks.xy)
    weight = xp.asarray(chosen, dtype=tracks.xy.dtype)
    if falloff > 0:
        first = groups.follow(tracks, chosen)[:, selection.window(tracks, start_frame, end_frame)[0]]
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
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
) -> Tracks:
    """Adds a constant velocity (pixels per frame) that leaves the positions at frame `t_origin` unchanged.

    Outside the window the displacement stays what it is at the window's ends. `t_origin` defaults to the window's first
    frame, so that a drift in a window starts from nothing.
    """
    first, last = selection.window(tracks, start_frame, end_frame)
    origin = first if t_origin is None else selection.TIME.check(t_origin, "t_origin")
    times = np.clip(np.arange(tracks.xy.shape[1]), first, last) - origin
    displacement = times[:, None] * selection.vector(velocity, "velocity", selection.VELOCITY)
    return _replace(tracks, tracks.xy + displacement, selection.mask(tracks, points))


def tween(
    tracks: Tracks,
    points: Points = None,
    *,
    keyframes: Mapping[Any, Point] | None = None,
    by: Mapping[Any, Point] | None = None,
    interpolation: str = "linear",
    ease: str | Mapping[Any, str] = "even",
    keep_motion: bool | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Puts the centre of a group of points at given positions at given frames, {frame: (x, y)}, and interpolates.

    A single point hits its keyframes exactly; a group moves rigidly, each point keeping its offset from the group's
    centre at that frame. Before the first and after the last keyframe the centre holds. With `keep_motion` the
    *displacement* is interpolated (and held) instead, so the points' own motion goes on between keyframes. `by` gives
    the displacement itself, {frame: (x, y)}: what was done before goes on too, and of several points each is shifted
    whatever the others do. `interpolation` is "linear" or "smooth" (a Catmull-Rom spline in time through the
    keyframes). `ease` is the pace from each keyframe to the next, one for all or {frame: pace} for the way from that
    keyframe: "even", "in" (slow at first), "out" (slow at last), "in-out", or "hold" (stays until the next).
    """
    num_frames = tracks.xy.shape[1]
    if (keyframes is None) == (by is None):
        raise ValueError("tween needs either keyframes, {frame: (x, y)}, or by: shifts in pixels, {frame: (x, y)}")
    if by is not None and keep_motion is False:
        raise ValueError("by shifts points on their own motion: without keep_motion give keyframes, which are places")
    if not (given := keyframes if by is None else by):
        raise ValueError("tween needs at least one keyframe, {frame: (x, y)}")
    keys = {selection.frame(f, num_frames, "keyframe"): selection.vector(p, f"keyframe {f}") for f, p in given.items()}
    frames = np.array(sorted(keys))
    places = np.stack([keys[frame] for frame in frames])
    weights = selection.key_weights(frames, num_frames, interpolation, ease)
    chosen = selection.mask(tracks, points)
    if by is not None:
        return _replace(tracks, tracks.xy + weights @ places, chosen)
    xy, centre = groups.centred(tracks, chosen, notify)
    if keep_motion:
        displacement = (weights[:, :, None] * (places - centre[frames])).sum(axis=1)
    else:
        displacement = (weights[:, :, None] * places).sum(axis=1) - centre
    return _replace(tracks, xy + displacement, chosen)


def retime(
    tracks: Tracks,
    points: Points = None,
    *,
    speed: Number | None = None,
    about: Number | None = None,
    times: Sequence[Number] | Num[np.ndarray, "T"] | None = None,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
) -> Tracks:
    """Plays paths at another speed: frame t shows what was at frame about + speed * (t - about), or at times[t].

    Inside a window the speed applies, outside it time runs at its own pace, without a jump. `about` defaults to frame
    0. Negative speeds play backwards, by default from the window's last frame if it begins the clip (as without a
    window); a later window starts where the clip has come to, or as much later as it takes not to run out of clip.
    Times before the first or after the last frame hold that frame. Visibility follows (nearest frame). Raises
    ValueError also for a speed that leaves nothing to see but one end of the clip.
    """
    num_frames = tracks.xy.shape[1]
    if (speed is None) == (times is None):
        raise ValueError("retime needs either speed or times (one source frame time per frame)")
    first, last = selection.window(tracks, start_frame, end_frame)
    frames = np.arange(num_frames)
    if times is None:
        speed = selection.SPEED.check(speed, "speed")
        fixed = 0.0 if about is None else selection.TIME.check(about, "about")
        window = (start_frame, end_frame, num_frames - 1)
        times = fixed + selection.clock(frames, speed, *window) - selection.clock(np.array([fixed]), speed, *window)
        if about is None and speed < 0:
            times += last if first == 0 else np.clip(-times.min(), 0, last - first)
        shown = np.clip(times, 0, num_frames - 1)[first : last + 1]
        if speed != 0 and last > first and np.ptp(shown) == 0:
            raise ValueError(f"at speed {speed:g} about frame {fixed:g} nothing but frame {shown[0]:g} is left to see")
    else:
        if np.shape(times) != (num_frames,):
            raise ValueError(
                f"times must be one number for each of the {num_frames} frames, got {selection.shown(times)}"
            )
        times = np.array([selection.TIME.check(time, f"times[{frame}]") for frame, time in enumerate(times)])
        times = np.where((frames >= first) & (frames <= last), times, frames)
    played = at_times(tracks, times)
    return _replace(tracks, played.xy, selection.mask(tracks, points), played.visible)


def reverse(
    tracks: Tracks, points: Points = None, *, start_frame: Frame | None = None, end_frame: Frame | None = None
) -> Tracks:
    """Plays the window's frames backwards, positions and visibility."""
    first, last = selection.window(tracks, start_frame, end_frame)
    order = np.arange(tracks.xy.shape[1])
    order[first : last + 1] = order[first : last + 1][::-1]
    played = take_frames(tracks, order)
    return _replace(tracks, played.xy, selection.mask(tracks, points), played.visible)


def freeze(
    tracks: Tracks,
    points: Points = None,
    *,
    frame: Frame = 0,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
) -> Tracks:
    """Holds the positions and visibility of one frame over the window, by default from that frame to the end.

    `start_frame=0` freezes the whole clip.
    """
    frame = selection.frame(frame, tracks.xy.shape[1], "frame")
    first, last = selection.window(tracks, frame if start_frame is None else start_frame, end_frame)
    order = np.arange(tracks.xy.shape[1])
    order[first : last + 1] = frame
    held = take_frames(tracks, order)
    return _replace(tracks, held.xy, selection.mask(tracks, points), held.visible)


def scale(
    tracks: Tracks,
    points: Points = None,
    *,
    factor: Number,
    center: Point | None = None,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    ease: str = "smooth",
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Scales positions by a factor about a fixed point (pixels), or about the group's centre in each frame.

    In a window the factor grows geometrically from 1.
    """
    factor = selection.FACTOR.check(factor, "factor")
    chosen = selection.mask(tracks, points)
    xy, centre = groups.centred(tracks, chosen, notify, center)
    factors = factor ** selection.ramp(tracks, start_frame, end_frame, ease)
    return _replace(tracks, centre + (xy - centre) * factors[:, None], chosen)


def rotate(
    tracks: Tracks,
    points: Points = None,
    *,
    degrees: Number,
    center: Point | None = None,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    ease: str = "smooth",
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Turns positions about a fixed point (pixels), or about the group's centre in each frame.

    Positive angles turn clockwise as seen on the screen (x to the right, y down).
    """
    degrees = selection.DEGREES.check(degrees, "degrees")
    chosen = selection.mask(tracks, points)
    xy, centre = groups.centred(tracks, chosen, notify, center)
    angles = np.deg2rad(degrees) * selection.ramp(tracks, start_frame, end_frame, ease)
    cos, sin = np.cos(angles), np.sin(angles)
    offset = xy - centre
    x, y = offset[..., 0], offset[..., 1]
    turned = array_namespace(tracks.xy).stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    return _replace(tracks, centre + turned, chosen)


def magnify(
    tracks: Tracks,
    points: Points = None,
    *,
    factor: Number,
    space: Number = 0.0,
    time: Number = 0.0,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    ease: str = "smooth",
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Makes small motions large, or with a factor below 1 smaller (Motion Prompting): scales what moved since frame 0.

    Before that the motion is smoothed over points that start within about `space` pixels of each other and over about
    `time` frames, for a tracker's noise would be magnified too. In a window the edit grows from nothing.
    """
    factor = selection.FACTOR.check(factor, "factor")
    widths = selection.FALLOFF.check(space, "space"), selection.SMOOTHING.check(time, "time")
    chosen = selection.mask(tracks, points)
    xy, _ = groups.centred(tracks, chosen, notify)
    rows = np.flatnonzero(chosen)
    group = Tracks(np.asarray(xy)[rows], np.asarray(tracks.visible)[rows])
    moved = np.zeros(xy.shape, np.float32)
    moved[rows] = prompts.magnify(group, factor, *widths).xy - group.xy
    share = selection.ramp(tracks, start_frame, end_frame, ease)
    return _replace(tracks, xy + moved * share[:, None], chosen)


def mirror(
    tracks: Tracks,
    points: Points = None,
    *,
    axis: str = "vertical",
    at: Number | None = None,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Mirrors positions about the vertical line x = `at` (left and right swap) or the horizontal line y = `at`.

    Without `at` the line goes through the group's centre in each frame: the group flips in place and keeps its path.
    """
    if axis not in ("vertical", "horizontal"):
        raise ValueError(f"unknown axis {axis!r}: choose one of vertical, horizontal")
    at = None if at is None else selection.PIXELS.check(at, "at")
    chosen = selection.mask(tracks, points)
    xy, centre = groups.centred(tracks, chosen, notify, None if at is None else (at, at))
    flip = np.array([axis == "vertical", axis == "horizontal"])
    mirrored = array_namespace(tracks.xy).where(flip, 2 * centre - xy, xy)
    return _replace(tracks, mirrored, chosen, frames=selection.window_mask(tracks, start_frame, end_frame))


def swap(
    tracks: Tracks,
    first: Points,
    second: Points,
    *,
    by: str = "point",
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    notify: Callable[[str], None] = warnings.warn,
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
    chosen, others = selection.mask(tracks, one), selection.mask(tracks, two)
    (xy, centre), (other_xy, other_centre) = (groups.centred(tracks, group, notify) for group in (chosen, others))
    moved = _replace(tracks, xy + (other_centre - centre), chosen, frames=frames)
    return _replace(moved, other_xy + (centre - other_centre), others, frames=frames)


def show(
    tracks: Tracks, points: Points = None, *, start_frame: Frame | None = None, end_frame: Frame | None = None
) -> Tracks:
    """Marks points as visible during the window."""
    return _set_visible(tracks, points, start_frame, end_frame, True)


def hide(
    tracks: Tracks, points: Points = None, *, start_frame: Frame | None = None, end_frame: Frame | None = None
) -> Tracks:
    """Marks points as not visible during the window: the model is free to put them anywhere."""
    return _set_visible(tracks, points, start_frame, end_frame, False)


def blend_back(
    tracks: Tracks,
    original: Tracks,
    points: Points = None,
    *,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
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
    tracks: Tracks,
    reference: Points,
    *,
    frame: Frame = 0,
    model: str | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> tuple[Tracks, Float[np.ndarray, "T 3 3"]]:
    """Removes camera motion: maps every frame so that the reference points stand where they are in `frame`.

    The transform is fitted per frame to the reference points: a homography to 4 or more, an affine map to 3, a
    similarity to 2, a translation to 1, or the `model` named. Returns the stabilised tracks and the transforms [T 3 3]
    that `recamera` undoes after the edit. Numpy only. Raises ValueError also for points that coincide or lie in a line.
    """
    frame = selection.frame(frame, tracks.xy.shape[1], "frame")
    indices = selection.indices(reference, tracks.xy.shape[0], "reference")
    xy, _ = groups.centred(tracks, selection.mask(tracks, indices), notify)
    chosen = np.asarray(xy, np.float64)[indices]
    still = np.broadcast_to(chosen[:, frame : frame + 1], chosen.shape)
    homographies = camera.fit(chosen, still, model)
    return warp(tracks, homographies), homographies


def recamera(tracks: Tracks, homographies: Float[np.ndarray, "T 3 3"]) -> Tracks:
    """Puts camera motion back: the inverse of the transforms that `uncamera` returned.

    Raises ValueError for another number of frames and for a transform without inverse.
    """
    if len(homographies) != tracks.xy.shape[1]:
        raise ValueError(f"recamera needs {tracks.xy.shape[1]} transforms, one per frame, got {len(homographies)}")
    return warp(tracks, camera.invert(homographies))


def jitter(
    rng: np.random.Generator,
    tracks: Tracks,
    points: Points = None,
    *,
    amount: Number = 2.0,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
) -> Tracks:
    """Adds independent noise U(-amount, amount) pixels to x and y of every point in every frame.

    The paper's supplement uses 2 px on all points at inference, because exactly aligned source and target paths make
    the model copy the source.
    """
    amount = selection.AMOUNT.check(amount, "amount")
    noise = rng.uniform(-amount, amount, size=tracks.xy.shape)
    frames = selection.window_mask(tracks, start_frame, end_frame)
    return _replace(tracks, tracks.xy + noise, selection.mask(tracks, points), frames=frames)


def _replace(tracks: Tracks, xy: Any, chosen: Any, visible: Any = None, frames: Any = None) -> Tracks:
    """Takes new positions (and visibility) for the chosen points in the chosen frames, keeping the dtype."""
    xp = array_namespace(tracks.xy)
    mask = chosen[:, None] if frames is None else chosen[:, None] & frames
    xy = xp.where(mask[..., None], xy, tracks.xy).astype(tracks.xy.dtype)
    return Tracks(xy, tracks.visible if visible is None else xp.where(mask, visible, tracks.visible))


def _set_visible(
    tracks: Tracks, points: Points, start_frame: Frame | None, end_frame: Frame | None, value: bool
) -> Tracks:
    """Sets visibility of the chosen points over a window."""
    frames = selection.window_mask(tracks, start_frame, end_frame)
    return _replace(tracks, tracks.xy, selection.mask(tracks, points), value, frames)
