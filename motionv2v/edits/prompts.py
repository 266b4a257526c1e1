"""Motion prompt expansion (Motion Prompting, arXiv 2412.02700, section 4): from what a person means to point tracks.

A drag of the mouse becomes a grid of points, a turned ball its surface, a camera's path the points of a depth map, a
skeleton its limbs, another video its own tracks. All are pure functions that return `Tracks`, xy [N T 2] in pixels,
and raise ValueError with one line for what cannot be. `motion.json` has them all (`motionv2v.edits.motion`).

Where a point is not meant to say anything, it is not visible: a model leaves it out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from motionv2v import pinhole
from motionv2v.edits.selection import Number
from motionv2v.tracks import Tracks, concatenate, hide_outside, select
from motionv2v.typing import AnyArray, Bool, Float, Int


class Mouse(NamedTuple):
    """Where the mouse is in each frame, in pixels, and whether its button is down."""

    xy: Float[np.ndarray, "T 2"]
    pressed: Bool[np.ndarray, "T"]

    def presses(self) -> list[tuple[int, int]]:
        """List (first, last) frame of each time that the button is held."""
        edges = np.diff(self.pressed.astype(int), prepend=0, append=0)
        return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def record(samples: Sequence[Sequence[Number]] | np.ndarray, num_frames: int, seconds: Number | None = None) -> Mouse:
    """Turn samples of a mouse, taken whenever they came, into its place in each frame.

    Args:
        samples: rows (time in seconds, x, y) or (time, x, y, pressed); in any order of time. Without the fourth the
            button is held throughout.
        num_frames: T, at least 1. seconds: that the frames span, from the first sample on; None: until the last sample.

    Raises:
        ValueError: for samples of another form, or two at one time.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 2 or samples.shape[1] not in (3, 4) or not len(samples) or not np.isfinite(samples).all():
        raise ValueError("a recorded mouse needs rows (seconds, x, y) or (seconds, x, y, pressed)")
    if num_frames < 1:
        raise ValueError(f"a mouse is resampled to at least 1 frame, got {num_frames}")
    samples = samples[np.argsort(samples[:, 0], kind="stable")]
    time = samples[:, 0] - samples[0, 0]
    if (np.diff(time) <= 0).any():
        raise ValueError(f"two samples of the mouse have one time, {samples[1:, 0][np.diff(time) <= 0][0]:g} seconds")
    asked = np.linspace(0, time[-1] if seconds is None else seconds, num_frames)
    xy = np.stack([np.interp(asked, time, samples[:, axis]) for axis in (1, 2)], axis=-1)
    if samples.shape[1] == 3:
        return Mouse(xy, np.ones(num_frames, bool))
    latest = np.searchsorted(time, asked + 1e-9, side="right") - 1
    return Mouse(xy, samples[latest, 3] > 0.5)


def square(side: int, spacing: Number) -> Float[np.ndarray, "N 2"]:
    """Return the offsets of a square grid of side x side points from its centre, in pixels."""
    if side < 1 or not spacing > 0:
        raise ValueError(f"a grid needs at least 1 point a side and a spacing above 0, got {side} and {spacing}")
    steps = (np.arange(side) - (side - 1) / 2) * spacing
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


def drag(mouse: Mouse, side: int = 5, spacing: Number = 8.0, persist: bool = False) -> Tracks:
    """Let a square grid of points go with the mouse while its button is held (section 4).

    More points say more firmly that all around the mouse goes along. Each press has a grid of its own.

    Args:
        mouse: where it is. side: points along each side of the grid. spacing: between them, in pixels.
        persist: hold the points, visible, where the press began before it does, and where it ended afterwards.

    Raises:
        ValueError: if the button is never pressed.
    """
    presses = mouse.presses()
    if not presses:
        raise ValueError("the mouse's button is never pressed: there is nothing to drag")
    offsets, frames, parts = square(side, spacing), np.arange(len(mouse.xy)), []
    for first, last in presses:
        held = mouse.xy[np.clip(frames, first, last)]
        xy = held[None] + offsets[:, None]
        visible = np.ones(len(frames), bool) if persist else (frames >= first) & (frames <= last)
        parts.append(Tracks(xy.astype(np.float32), np.broadcast_to(visible, xy.shape[:2]).copy()))
    return concatenate(parts)


def pins(
    size: tuple[int, int],
    num_frames: int,
    spacing: Number = 40.0,
    keep_free: Sequence[tuple[Number, Number, Number]] = (),
    mask: Bool[AnyArray, "H W"] | None = None,
) -> Tracks:
    """Hold a grid of points all over the picture in place, which says that nothing there moves (section 4).

    Args:
        size: (H, W). spacing: pixels between points. keep_free: disks (x, y, radius) in which there are none, such as
            around what is dragged. mask: True where there may be points; None: everywhere.
    """
    if not spacing > 0:
        raise ValueError(f"pins need a spacing above 0 pixels, got {spacing}")
    rows, columns = (np.arange(spacing / 2, side, spacing) for side in size)
    xy = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    free = ~in_disks(xy, keep_free)
    if mask is not None:
        mask = np.asarray(mask, bool)
        if mask.shape != tuple(size):
            raise ValueError(f"the pins' mask is {mask.shape[1]}x{mask.shape[0]}, the picture {size[1]}x{size[0]}")
        free &= mask[tuple(xy[:, ::-1].astype(int).T)]
    held = np.repeat(xy[free, None], num_frames, axis=1).astype(np.float32)
    return Tracks(held, np.ones(held.shape[:2], bool))


def in_disks(xy: Float[AnyArray, "N 2"], disks: Sequence[tuple[Number, Number, Number]]) -> Bool[np.ndarray, "N"]:
    """Tell which places lie in any of some disks (x, y, radius), their edges included, all in pixels."""
    inside = np.zeros(len(xy), bool)
    for x, y, radius in disks:
        inside |= np.hypot(*(np.asarray(xy) - (x, y)).T) <= radius
    return inside


def spin(mouse: Mouse, centre: Sequence[Number], radius: Number, num_points: int = 120, edge: Number = 0.05) -> Tracks:
    """Turn a ball by its surface: what is grabbed stays under the mouse (section 4).

    Points are spread evenly over the ball, seen from far away, and visible on its near side. Between presses the ball
    rests; at the next press it is grabbed where it then is, and turns on from there.

    Args:
        mouse: where it is; beyond the ball's edge it holds the nearest place within it.
        centre, radius: of the ball's outline, in pixels. num_points: over the whole ball.
        edge: share of the radius next to the outline that cannot be grabbed, where a pixel is a large angle.
    """
    if not radius > 0 or num_points < 1:
        raise ValueError(f"a ball needs a radius above 0 and at least 1 point, got {radius} and {num_points}")
    grabbed = _lift((mouse.xy - np.asarray(centre, np.float64)) / radius, 1 - edge)
    pose, poses = np.eye(3), np.empty((len(mouse.xy), 3, 3))
    for t in range(len(poses)):
        if t and mouse.pressed[t] and mouse.pressed[t - 1]:
            pose = _between(grabbed[t - 1], grabbed[t]) @ pose
        poses[t] = pose
    turned = np.einsum("tij,nj->nti", poses, over_ball(num_points))
    xy = np.asarray(centre, np.float64) + radius * turned[..., :2]
    # z points away from the camera.
    return Tracks(xy.astype(np.float32), turned[..., 2] < 0)


def _lift(places: Float[np.ndarray, "T 2"], most: Number) -> Float[np.ndarray, "T 3"]:
    """Return the points of the unit ball's near side at places, those beyond `most` of its radius drawn in to it."""
    length = np.linalg.norm(places, axis=-1, keepdims=True)
    places = places * np.minimum(1, most / np.maximum(length, 1e-12))
    return np.concatenate([places, -np.sqrt(1 - (places**2).sum(-1, keepdims=True))], axis=-1)


def _between(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Return the shortest rotation that takes one direction to another (Rodrigues)."""
    axis, cos = np.cross(start, end), float(start @ end)
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cos)


def over_ball(num: int) -> Float[np.ndarray, "N 3"]:
    """Spread points evenly over the unit ball: along a spiral whose turns are the golden angle apart."""
    z = 1 - (2 * np.arange(num) + 1) / num
    angle = np.pi * (3 - 5**0.5) * np.arange(num)
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


def through_depth(
    depth: Float[AnyArray, "H W"],
    path: pinhole.PinholePath,
    num_points: int = 1024,
    radius: Number = 2.0,
    tolerance: Number = 0.05,
) -> Tracks:
    """Move a camera through a picture of known depth (section 4): the tracks of points all over its first frame.

    Every pixel hides what lies behind it; the points that are returned are a grid among them.

    Args:
        depth: along the line of sight, above 0, in any unit, that of the path's positions.
        path: of the camera. num_points: at most so many are returned. radius, tolerance: as in `pinhole.unhidden`.

    Raises:
        ValueError: for depths that are not above 0, or not finite.
    """
    depth = np.asarray(depth, np.float64)
    if depth.ndim != 2 or not np.isfinite(depth).all() or depth.min() <= 0:
        raise ValueError("a depth map must be [H W] of finite numbers above 0, the distance along the line of sight")
    if num_points < 1:
        raise ValueError(f"at least 1 point is needed, got {num_points}")
    height, width = depth.shape
    # At most some 20,000 pixels stand for all: a surface of them has no gaps as wide as `radius` allows.
    step = max(1, int(np.ceil(np.sqrt(height * width / 20_000))))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    xy = np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5
    points = pinhole.unproject(xy, depth[rows, columns].ravel(), float(path.focal[0]), path.centre)
    places, depths = pinhole.project(points, path)
    visible = pinhole.unhidden(places, depths, (height, width), max(radius, step), tolerance)
    chosen = spread(rows.shape, num_points)
    return Tracks(places[chosen].astype(np.float32), visible[chosen])


def spread(shape: tuple[int, int], num: int) -> Int[np.ndarray, " n"]:
    """Choose an even grid of at most `num` among the cells of a grid, by their index row by row."""
    rows, columns = shape
    step = max(1.0, np.sqrt(rows * columns / num))
    count = [max(1, int(side / step)) for side in shape]
    while count[0] * count[1] > num:
        count[int(np.argmax(count))] -= 1
    chosen = [((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(count, shape, strict=True)]
    return (chosen[0][:, None] * columns + chosen[1]).ravel()


def compose(camera: Tracks, objects: Tracks) -> Tracks:
    """Move things by their own tracks while a camera moves (section 4): displacements in the picture add up.

    Each of the objects' points goes with the camera's point that starts nearest to it. This is exact where all lies in
    one plane before the camera, and wrong by perspective elsewhere; `compose_in_depth` is not.

    Returns:
        The objects' tracks, seen where both say so.

    Raises:
        ValueError: for another number of frames, or no camera points.
    """
    _same_length(camera, objects)
    if not len(camera.xy):
        raise ValueError("composing needs at least one point of the camera's")
    apart = np.linalg.norm(objects.xy[:, None, 0] - camera.xy[None, :, 0], axis=-1)
    nearest = apart.argmin(axis=1)
    moved = objects.xy + camera.xy[nearest] - camera.xy[nearest, :1]
    return Tracks(moved, objects.visible & camera.visible[nearest])


def clear_of(camera: Tracks, objects: Tracks) -> Tracks:
    """Leave out the tracks of a camera that start among those of objects that move, for they would say otherwise.

    Among them is what is no farther from one of them than they are from one another.
    """
    moves = np.linalg.norm(objects.xy - objects.xy[:, :1], axis=-1).max(axis=1) > 1
    start = objects.xy[moves, 0]
    if not len(start):
        return camera
    apart = np.linalg.norm(start[:, None] - start[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    spacing = float(np.median(apart.min(axis=1))) if len(start) > 1 else 0.0
    nearest = np.linalg.norm(camera.xy[:, None, 0] - start[None], axis=-1).min(axis=1)
    return select(camera, np.flatnonzero(nearest > spacing))


def compose_in_depth(objects: Tracks, depth: Float[AnyArray, "H W"], path: pinhole.PinholePath) -> Tracks:
    """Move things by their own tracks, each at the depth where it starts, and see them by a moving camera."""
    depth = np.asarray(depth, np.float64)
    first = objects.xy[:, 0]
    cells = np.clip(first[:, ::-1].astype(int), 0, np.array(depth.shape) - 1)
    own = depth[tuple(cells.T)]
    frames = objects.xy.shape[1]
    _frames_are(frames, len(path.positions))
    flat = objects.xy.reshape(-1, 2)
    world = pinhole.unproject(flat, np.repeat(own, frames), float(path.focal[0]), path.centre)
    each = np.tile(np.arange(frames), len(own))
    turned = np.einsum("nij,nj->ni", path.rotations[each], world - path.positions[each])
    xy = path.focal[each, None] * turned[:, :2] / np.maximum(turned[:, 2:], 1e-6) + path.centre
    xy, is_ahead = xy.reshape(objects.xy.shape), (turned[:, 2] > 0).reshape(objects.visible.shape)
    return hide_outside(Tracks(xy.astype(np.float32), objects.visible & is_ahead), depth.shape)


def transfer(
    tracks: Tracks,
    scale: Number | Sequence[Number] = 1.0,
    shift: Sequence[Number] = (0.0, 0.0),
    turn: Number = 0.0,
    points: Sequence[Number] | np.ndarray | None = None,
    about: Sequence[Number] | None = None,
    keep: int | None = None,
) -> Tracks:
    """Lay the tracks of another video onto a picture (section 4): scaled, mirrored, turned and shifted.

    Args:
        tracks: of the video. scale: of x and y, or of each; below 0 mirrors. shift: in pixels, after the rest.
        turn: degrees, clockwise. points: which ones; None: all. The others stay as they are, for a group of their own.
        about: the place that scaling and turning leave where it is; None: the mean of the points in the first frame.
        keep: at most so many tracks are returned, evenly chosen: few for a face, some 1500 for what is not alike.
    """
    chosen = np.arange(len(tracks.xy)) if points is None else np.asarray(points, int)
    if chosen.size and not (0 <= chosen.min() and chosen.max() < len(tracks.xy)):
        raise ValueError(f"there are points 0..{len(tracks.xy) - 1}, asked for {chosen.min()}..{chosen.max()}")
    if keep is not None and keep < 1:
        raise ValueError(f"at least 1 track must be kept, got {keep}")
    xy = np.array(tracks.xy, np.float64)
    middle = np.asarray(xy[chosen, 0].mean(0) if about is None else about, np.float64)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[cos, -sin], [sin, cos]]) * np.broadcast_to(np.float64(scale), 2)
    xy[chosen] = (xy[chosen] - middle) @ matrix.T + middle + np.asarray(shift, np.float64)
    kept = np.arange(len(xy)) if keep is None else np.unique(np.linspace(0, len(xy) - 1, keep).round().astype(int))
    return Tracks(xy[kept].astype(np.float32), tracks.visible[kept])


def magnify(tracks: Tracks, factor: Number, space: Number = 0.0, time: Number = 0.0) -> Tracks:
    """Make small motions large (section 4): smooth the tracks, and scale what is left of their displacements.

    Smoothing, over points that start near each other and over frames, takes away the tracker's noise, which would be
    magnified too. Only visible points count. By 1, without smoothing, the tracks stay as they are.

    Args:
        factor: 1 to 32 in the paper. space, time: standard deviations of the smoothing, in pixels and frames; 0: none.
    """
    if space < 0 or time < 0:
        raise ValueError(f"smoothing widths must be at least 0, got {space} and {time}")
    xy, weight = np.asarray(tracks.xy, np.float64), tracks.visible.astype(np.float64)
    moved = (xy - xy[:, :1]) * weight[..., None]
    for axis, kernel in ((0, _gaussian(xy[:, 0], space)), (1, _gaussian(np.arange(xy.shape[1])[:, None], time))):
        if kernel is not None:
            moved, weight = (np.moveaxis(np.tensordot(kernel, x, (1, axis)), 0, axis) for x in (moved, weight))
    smooth = moved / np.maximum(weight, 1e-12)[..., None]
    # Where no visible point is near there is nothing to go by: the track as it is.
    smooth = np.where(weight[..., None] > 1e-9, smooth, xy - xy[:, :1])
    # Relative to the first frame, which smoothing over time must not move.
    return Tracks((xy[:, :1] + factor * (smooth - smooth[:, :1])).astype(np.float32), tracks.visible)


def _gaussian(places: Float[np.ndarray, "M _"] | Int[np.ndarray, "M _"], width: Number) -> np.ndarray | None:
    if width == 0:
        return None
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return np.exp(-0.5 * (apart / width) ** 2)


SKELETONS: Mapping[str, tuple[tuple[int, int], ...]] = {
    # nose 0, eyes 1 2, ears 3 4, shoulders 5 6, elbows 7 8, wrists 9 10, hips 11 12, knees 13 14, ankles 15 16
    "coco17": (
        *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    ),
    # nose 0, neck 1, right arm 2 3 4, left arm 5 6 7, right leg 8 9 10, left leg 11 12 13, eyes 14 15, ears 16 17
    "openpose18": (
        *((0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
        *((1, 11), (11, 12), (12, 13), (0, 14), (14, 16), (0, 15), (15, 17)),
    ),
    # As before with the middle of the hips 8, legs 9..14, eyes 15 16, ears 17 18, feet 19..24
    "openpose25": (
        *((0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11)),
        *((8, 12), (12, 13), (13, 14), (0, 15), (15, 17), (0, 16), (16, 18)),
        *((14, 19), (19, 20), (14, 21), (11, 22), (22, 23), (11, 24)),
    ),
}
"""The limbs of each order of keypoints, as pairs of joints."""
_NUM_KEYPOINTS = {17: "coco17", 18: "openpose18", 25: "openpose25"}


def pose(
    keypoints: Float[AnyArray, "T K 3"], num_points: int = 12, confidence: Number = 0.3, skeleton: str | None = None
) -> Tracks:
    """Turn a skeleton's keypoints into tracks along its limbs (section 4).

    Args:
        keypoints: (x, y, confidence) of each joint in each frame, pixels. num_points: of each limb, joints included.
        confidence: below which a joint is not seen; a limb's points are seen where both of its joints are.
        skeleton: a key of `SKELETONS`; None: by the number of keypoints.

    Raises:
        ValueError: for keypoints of no known order.
    """
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.ndim != 3 or keypoints.shape[2] != 3:
        raise ValueError(f"keypoints must be [T K 3], (x, y, confidence); got {list(keypoints.shape)}")
    count = keypoints.shape[1]
    name = _NUM_KEYPOINTS.get(count) if skeleton is None else skeleton
    if name not in SKELETONS or (skeleton and max(map(max, SKELETONS[name])) >= count):
        known = ", ".join(f"{name} ({count})" for count, name in _NUM_KEYPOINTS.items())
        raise ValueError(f"{count} keypoints are in no known order; there are {known}")
    if num_points < 2:
        raise ValueError(f"a limb has at least 2 points, its joints; got {num_points}")
    limbs = np.array(SKELETONS[name])
    share = np.linspace(0, 1, num_points)[:, None, None]
    joints = keypoints.transpose(1, 0, 2)  # [K T 3]
    start, end = joints[limbs[:, 0]][:, None], joints[limbs[:, 1]][:, None]
    xy = (1 - share) * start[..., :2] + share * end[..., :2]
    seen = (np.minimum(start, end)[..., 2] >= confidence).repeat(num_points, axis=1)
    frames = keypoints.shape[0]
    return Tracks(xy.reshape(-1, frames, 2).astype(np.float32), seen.reshape(-1, frames))


def read_keypoints(value: Any) -> Float[np.ndarray, "T K 3"]:
    """Read one person's keypoints from what a pose model's JSON holds.

    Taken are: a list of frames, each a list of joints [x, y, confidence] or one flat list x, y, c, x, y, c, ...; and in
    place of a frame's list an object with `keypoints` (COCO) or `people`, whose first has `pose_keypoints_2d`
    (OpenPose). A frame without anybody is one in which no joint is seen.

    Raises:
        ValueError: for anything else, or frames of different numbers of joints.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("keypoints must be a list with an entry for each frame")
    frames = [_joints(frame, t) for t, frame in enumerate(value)]
    counts = sorted({len(frame) for frame in frames if frame is not None})
    if len(counts) != 1:
        raise ValueError(f"the frames have different numbers of keypoints: {', '.join(map(str, counts)) or 'none'}")
    return np.stack([np.zeros((counts[0], 3)) if frame is None else frame for frame in frames])


def _joints(frame: Any, t: int) -> np.ndarray | None:
    if isinstance(frame, dict) and "people" in frame:
        people = frame["people"]
        frame = people[0] if isinstance(people, list) and people else None
    if isinstance(frame, dict):
        frame = next((frame[name] for name in ("pose_keypoints_2d", "keypoints") if name in frame), frame)
    if frame is None or frame == []:
        return None
    try:
        joints = np.asarray(frame, np.float64)
        joints = joints.reshape(-1, 3) if joints.ndim == 1 else joints
        if joints.ndim != 2 or joints.shape[1] != 3 or not np.isfinite(joints).all():
            raise ValueError
    except (TypeError, ValueError) as error:
        raise ValueError(f"the keypoints of frame {t} must be joints [x, y, confidence]") from error
    return joints


def _same_length(one: Tracks, other: Tracks) -> None:
    _frames_are(one.xy.shape[1], other.xy.shape[1])


def _frames_are(one: int, other: int) -> None:
    if one != other:
        raise ValueError(f"both motions must have one number of frames; they have {one} and {other}")
