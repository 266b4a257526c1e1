"""Operations that take what is seen for something in space: a plane before a camera that moves, a ball that turns.

They are of the edit vocabulary, with the keywords of `motionv2v.edits.operations`; numpy only. Without a window the
motion takes the whole clip; with one it grows from nothing at its first frame and stays from its last one on.
"""

import warnings
from collections.abc import Callable

import numpy as np

from motionv2v import pinhole
from motionv2v.edits import groups, selection
from motionv2v.edits.selection import Frame, Number, Point, Points, Range
from motionv2v.tracks import Tracks, warp
from motionv2v.typing import Float

TURNS = ("pan", "tilt", "roll", "orbit", "arc")
WAYS = ("truck", "pedestal", "dolly", "zoom")
MOVES = (*TURNS, *WAYS)
"""How a camera moves, as on a film set: by degrees, and by distances."""
TURN, DISTANCE, VIEW = Range(-180, 180, "degrees"), Range(-10, 10), Range(1, 170, "degrees")


def move_camera(
    tracks: Tracks,
    points: Points = None,
    *,
    size: tuple[int, int],
    move: str,
    degrees: Number = 10,
    distance: Number = 0.2,
    view: Number = pinhole.VIEW,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    ease: str = "smooth",
) -> Tracks:
    """Lets the camera move as well as it did, as if all that it sees lay on a plane straight ahead.

    By `degrees` it turns in place: pan to the right, tilt upwards, roll clockwise; or goes around the plane's middle:
    orbit to the right, arc to one side, back, to the other side and back. By `distance`, times that of the plane, it
    goes: truck to the right, pedestal up, dolly ahead; or seems to go ahead by its lens: zoom. Turns in place and zooms
    are exact; else what is nearer or farther than the plane would go another way. `view` is how many degrees the
    frame's longer side spans. Without a window the motion takes the whole clip.
    """
    if move not in MOVES:
        raise ValueError(f"unknown motion of a camera {selection.shown(move)}: choose one of {', '.join(MOVES)}")
    degrees, distance = TURN.check(degrees, "degrees"), DISTANCE.check(distance, "distance")
    share = selection.ramp(tracks, *selection.window(tracks, start_frame, end_frame), ease)
    lens = {"focal": pinhole.focal_length(size, VIEW.check(view, "view")), "centre": (size[1] / 2, size[0] / 2)}
    about = {"pivot": (0, 0, 1)} if move in ("orbit", "arc") else {}
    path = getattr(pinhole, move)(share, degrees if move in TURNS else distance, **about, **lens)
    homographies, chosen = pinhole.of_plane(path, lens["focal"]), selection.mask(tracks, points)
    ahead = np.einsum("tj,ntj->nt", homographies[:, 2, :2], np.float64(tracks.xy)) + homographies[:, 2, 2]
    behind = np.argwhere((ahead < 1e-3) & chosen[:, None])
    if behind.size:
        point, frame = behind[0]
        raise ValueError(f"point {point} is behind the camera in frame {frame}: let it move less")
    return Tracks(np.where(chosen[:, None, None], warp(tracks, homographies).xy, tracks.xy), tracks.visible)


def spin(
    tracks: Tracks,
    points: Points = None,
    *,
    by: Point,
    radius: Number | None = None,
    center: Point | None = None,
    start_frame: Frame | None = None,
    end_frame: Frame | None = None,
    ease: str = "smooth",
    notify: Callable[[str], None] = warnings.warn,
) -> Tracks:
    """Turns points as the surface of a ball: what faces the camera goes by so many pixels along the surface.

    The ball's middle is the centre of the points in each frame, or a fixed `center`, and its outline has a `radius` in
    pixels; left out, the farthest point lies just inside. A point on the far side is not visible. Points outside the
    ball stay. Without a window the turn takes the whole clip.
    """
    chosen, way = selection.mask(tracks, points), selection.vector(by, "by")
    share = selection.ramp(tracks, *selection.window(tracks, start_frame, end_frame), ease)
    xy, centre = map(np.asarray, groups.centred(tracks, chosen, notify, center))
    away = xy - centre
    if radius is None:
        radius = max(float(np.linalg.norm(away[chosen], axis=-1).max()) / 0.95, selection.RADIUS.least)
    else:
        selection.RADIUS.check(radius, "radius")
    moved, is_near = _turned(away / radius, way / radius, share)
    on_ball = chosen[:, None] & (np.linalg.norm(away, axis=-1) < radius)
    places = np.where(on_ball[..., None], centre + radius * moved, np.where(chosen[:, None, None], xy, tracks.xy))
    return Tracks(places.astype(tracks.xy.dtype), np.asarray(tracks.visible) & (is_near | ~on_ball))


def _turned(
    places: Float[np.ndarray, "N T 2"], way: Float[np.ndarray, "2"], share: Float[np.ndarray, "T"]
) -> tuple[Float[np.ndarray, "N T 2"], np.ndarray]:
    """Turn places on the unit ball's near side by the angle |way| towards it; returns them, and which are near."""
    length = float(np.linalg.norm(way))
    side = way / length if length else np.zeros(2)
    cos, sin = np.cos(length * share), np.sin(length * share)
    along = places @ side
    depth = -np.sqrt(np.maximum(0, 1 - (places**2).sum(axis=-1)))  # away from the camera
    turned = along * cos - depth * sin
    return places + (turned - along)[..., None] * side, depth * cos + along * sin <= 0
