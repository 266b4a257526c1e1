"""Camera motion in depth: the path of a pinhole camera through what one picture and its depths show.

A camera sees a point X of the world at focal (R (X - C)), divided by its depth. World coordinates are those of the
first camera: x to the right, y down, z away from it, in the unit of the depths. Motion Prompting (arXiv 2412.02700,
section 4) makes its camera control of this; directions are named as on a film set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from motionv2v.typing import AnyArray, Bool, Float

Number = float | int | np.number
Place = Sequence[Number] | np.ndarray
"""A place or a direction: two or three numbers."""


VIEW = 60.0
"""Degrees that a picture is taken to span along its longer side, if nothing says how it was taken."""


class PinholePath(NamedTuple):
    """Where a pinhole camera is in each frame, in the coordinates of its first frame.

    Attributes:
        rotations: from the world's axes to the camera's. positions: of the camera in the world.
        focal: lengths in pixels. centre: (x, y) of the picture at which the camera looks, in pixels.
    """

    rotations: Float[np.ndarray, "T 3 3"]
    positions: Float[np.ndarray, "T 3"]
    focal: Float[np.ndarray, "T"]
    centre: Float[np.ndarray, "2"]

    def then(self, other: "PinholePath") -> "PinholePath":
        """Compose: move along this path, and by the other's motion as seen from there.

        Focal lengths change by the product of both changes. Raises ValueError for another number of frames.
        """
        if len(other.positions) != len(self.positions):
            raise ValueError(f"paths of {len(self.positions)} and {len(other.positions)} frames cannot be composed")
        moved = self.positions + np.einsum("tji,tj->ti", self.rotations, other.positions)
        focal = self.focal * other.focal / other.focal[0]
        return PinholePath(other.rotations @ self.rotations, moved, focal, self.centre)


def focal_length(size: tuple[int, int], view: Number = VIEW) -> float:
    """Return the focal length in pixels of a picture (H, W) whose longer side spans `view` degrees."""
    return max(size) / 2 / float(np.tan(np.radians(view) / 2))


def of_plane(path: PinholePath, focal: Number) -> Float[np.ndarray, "T 3 3"]:
    """Return what a path does to a camera's picture of a plane straight ahead, at a depth of 1: homographies.

    `focal` is that camera's, in pixels, which the path's first one may have left already. What comes to have no
    positive third coordinate is behind the camera.
    """
    lens = np.zeros((len(path.focal), 3, 3))
    lens[:, 0, 0] = lens[:, 1, 1] = path.focal
    lens[:, :2, 2], lens[:, 2, 2] = path.centre, 1
    first = lens[0] * [[focal / path.focal[0]], [focal / path.focal[0]], [1]]
    first[:2, 2] = path.centre
    away = np.eye(3) - path.positions[:, :, None] * np.array([0.0, 0.0, 1.0])
    return lens @ path.rotations @ away @ np.linalg.inv(first)


def unproject(
    xy: Float[AnyArray, "N 2"], depth: Float[AnyArray, "N"], focal: Number, centre: Place
) -> Float[np.ndarray, "N 3"]:
    """Return the points of the world that a first camera sees at `xy` (pixels) in a depth, in the depth's unit."""
    depth = np.asarray(depth, np.float64)
    sides = (np.asarray(xy, np.float64) - centre) / focal * depth[:, None]
    return np.concatenate([sides, depth[:, None]], axis=1)


def project(
    points: Float[AnyArray, "N 3"], path: PinholePath
) -> tuple[Float[np.ndarray, "N T 2"], Float[np.ndarray, "N T"]]:
    """Return where each frame's camera sees points, in pixels, and their depths; at most 0 is behind the camera.

    What is behind has the place of what lies a little in front: finite, and to be taken as not visible.
    """
    seen = np.einsum("tij,ntj->nti", path.rotations, np.asarray(points, np.float64)[:, None] - path.positions)
    depth = seen[..., 2]
    near = np.maximum(depth, 1e-6 * max(float(np.abs(depth).max(initial=0)), 1e-12))
    return path.focal[:, None] * seen[..., :2] / near[..., None] + path.centre, depth


def unhidden(
    xy: Float[AnyArray, "N T 2"],
    depth: Float[AnyArray, "N T"],
    size: tuple[int, int],
    radius: Number = 2.0,
    tolerance: Number = 0.05,
) -> Bool[np.ndarray, "N T"]:
    """Tell which points are in front of the camera, in the picture, and behind none of the others.

    Args:
        xy, depth: from `project`. size: (H, W) of the picture. radius: pixels around a point within which others may
            hide it; cells of so many pixels are compared with their neighbours. tolerance: share of a point's depth
            by which another must be nearer: less is one surface.
    """
    rows, columns = (-(-side // max(radius, 1e-3)) for side in size)
    shape = (int(rows) + 2, int(columns) + 2)  # a frame of empty cells around
    visible = (depth > 0) & (xy >= 0).all(-1) & (xy[..., 0] < size[1]) & (xy[..., 1] < size[0])
    for t in range(xy.shape[1]):
        inside = np.flatnonzero(visible[:, t])
        cells = np.floor(xy[inside, t] / radius).astype(int) + 1
        nearest = np.full(shape, np.inf)
        np.minimum.at(nearest, (cells[:, 1], cells[:, 0]), depth[inside, t])
        around = [nearest[cells[:, 1] + down, cells[:, 0] + right] for down in (-1, 0, 1) for right in (-1, 0, 1)]
        visible[inside, t] = depth[inside, t] * (1 - tolerance) <= np.min(around, axis=0)
    return visible


LAWS = ("linear", "smooth", "exponential")
"""How a camera's motion grows over the clip: evenly; from rest to rest; fast at first, then ever slower."""


def law(num_frames: int, name: str = "smooth", sharpness: Number = 3.0) -> Float[np.ndarray, "T"]:
    """Return how much of a motion each frame has, from 0 to 1.

    "exponential" is ReCamMaster's (1 - exp(-a s)) / (1 - exp(-a)), a = `sharpness` above 0. Raises ValueError for an
    unknown name or a sharpness that is not above 0.
    """
    share = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(num_frames)
    if name == "linear":
        return share
    if name == "smooth":
        return share * share * (3 - 2 * share)
    if name != "exponential":
        raise ValueError(f"unknown time law {name!r}; available: {', '.join(LAWS)}")
    if not sharpness > 0:
        raise ValueError(f"the sharpness of an exponential law must be above 0, got {sharpness}")
    return (1 - np.exp(-sharpness * share)) / (1 - np.exp(-sharpness))


def _turns(axis: str, degrees: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 3 3"]:
    """Return the rotations of the world about one of its axes, as matrices for its points."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turns = np.broadcast_to(np.eye(3), (len(degrees), 3, 3)).copy()
    turns[:, first, first] = turns[:, second, second] = cos
    turns[:, first, second], turns[:, second, first] = -sin, sin
    return turns


def _path(
    focal: Number | Float[np.ndarray, "T"],
    centre: Place,
    num_frames: int,
    turned: Float[np.ndarray, "T 3 3"] | None = None,
    positions: Float[np.ndarray, "T 3"] | None = None,
) -> PinholePath:
    """Fill in what does not move; `turned` are the camera's own rotations in the world."""
    still = np.broadcast_to(np.eye(3), (num_frames, 3, 3)).copy()
    rotations = still if turned is None else turned.transpose(0, 2, 1)
    positions = np.zeros((num_frames, 3)) if positions is None else positions
    return PinholePath(rotations, positions, np.broadcast_to(np.float64(focal), num_frames).copy(), np.float64(centre))


def _along(axis: int, distance: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 3"]:
    return distance[:, None] * np.eye(3)[axis]


def _about(turned: Float[np.ndarray, "T 3 3"], pivot: Place) -> Float[np.ndarray, "T 3"]:
    """Return where a camera goes that turns about a pivot instead of about itself: the pivot stays where it is seen."""
    return pivot - turned @ np.asarray(pivot, np.float64)


def orbit(share: Float[np.ndarray, "T"], degrees: Number, pivot: Place, focal: Number, centre: Place) -> PinholePath:
    """Move around a pivot, to the right for degrees above 0, looking at it from the same distance.

    `share`: how much of the motion each frame has, from `law`; so for all that follow, with `focal` and `centre`.
    """
    turned = _turns("y", -degrees * share)
    return _path(focal, centre, len(share), turned, _about(turned, pivot))


def arc(share: Float[np.ndarray, "T"], degrees: Number, pivot: Place, focal: Number, centre: Place) -> PinholePath:
    """Move around a pivot to one side, back, to the other side and back: `orbit` by +-degrees."""
    return orbit(np.sin(2 * np.pi * share), degrees, pivot, focal, centre)


def pan(share: Float[np.ndarray, "T"], degrees: Number, focal: Number, centre: Place) -> PinholePath:
    """Turn in place, to the right for degrees above 0."""
    return _path(focal, centre, len(share), _turns("y", degrees * share))


def tilt(share: Float[np.ndarray, "T"], degrees: Number, focal: Number, centre: Place) -> PinholePath:
    """Turn in place, upwards for degrees above 0."""
    return _path(focal, centre, len(share), _turns("x", degrees * share))


def roll(share: Float[np.ndarray, "T"], degrees: Number, focal: Number, centre: Place) -> PinholePath:
    """Turn about the line of sight, clockwise for degrees above 0: the picture turns the other way."""
    return _path(focal, centre, len(share), _turns("z", degrees * share))


def truck(share: Float[np.ndarray, "T"], distance: Number, focal: Number, centre: Place) -> PinholePath:
    """Move to the right, in the depth's unit."""
    return _path(focal, centre, len(share), positions=_along(0, distance * share))


def pedestal(share: Float[np.ndarray, "T"], distance: Number, focal: Number, centre: Place) -> PinholePath:
    """Move up, in the depth's unit."""
    return _path(focal, centre, len(share), positions=_along(1, -distance * share))


def dolly(share: Float[np.ndarray, "T"], distance: Number, focal: Number, centre: Place) -> PinholePath:
    """Move forward, in the depth's unit."""
    return _path(focal, centre, len(share), positions=_along(2, distance * share))


def zoom(share: Float[np.ndarray, "T"], nearer: Number, focal: Number, centre: Place) -> PinholePath:
    """Take a longer lens: all looks as if it were nearer by this share of its distance. ValueError from 1 on."""
    if not nearer < 1:
        raise ValueError(f"a zoom brings nothing nearer than its whole distance: below 1, got {nearer:g}")
    return _path(focal / (1 - nearer * share), centre, len(share))


def dolly_zoom(
    share: Float[np.ndarray, "T"], distance: Number, depth: Number, focal: Number, centre: Place
) -> PinholePath:
    """Move forward and zoom out, so that what was at a depth keeps its size. ValueError for a distance beyond it."""
    if not distance < depth:
        raise ValueError(f"a dolly zoom by {distance:g} passes its subject, which is at a depth of {depth:g}")
    path = dolly(share, distance, focal, centre)
    return path._replace(focal=path.focal * (depth - distance * share) / depth)


def follow_mouse(places: Float[AnyArray, "T 2"], depth: Number, focal: Number, centre: Place) -> PinholePath:
    """Move in the plane of the picture so that what was under the mouse, at a depth, stays under it (pixels)."""
    moved = np.asarray(places, np.float64)
    moved = -(moved - moved[0]) * depth / focal
    return _path(focal, centre, len(moved), positions=np.pad(moved, ((0, 0), (0, 1))))
