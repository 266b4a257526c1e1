"""Points worth naming: corners that a tracker can follow, on what moves apart from the camera, and on the ground.

For a person who does not know where to begin. In some frames, evenly spaced, the dense flow is held against the
camera's motion: what differs moves by itself. Every patch of that gets a few corners, spread over it, unless points
found in another frame lie on it already; the ground gets some, spread over the frame.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v.draft import background, layers, pictures
from motionv2v.draft.clip import Prepared
from motionv2v.trackers import Tracker, for_clip
from motionv2v.tracks import Tracks, concatenate
from motionv2v.typing import Bool, Float, Num

FRAMES = 6
"""In which points are looked for."""
MOVES = 0.5
"""Pixels of the working size by which a flow differs from the camera's motion, from frame to frame, where a thing moves
by itself."""
SMALLEST = 0.0004
"""Share of the frame that a patch has which counts."""
PER_PATCH, MOST_MOVING, CELLS = 4, 16, (2, 3)
"""Points on a patch, on all of them, and the cells of the frame in which the ground gets one each."""
TRIED = 3
"""Corners are tried for each point that is wanted; the ones that are followed longest are taken."""
STRONG = 0.03
"""A corner on a thing is at least so strong, as a share of the frame's strongest."""
SEEN_MOVING, SEEN_GROUND = 0.1, 0.5
"""Share of the frames in which a point must be followed, to be worth naming."""
AROUND = 8
"""Frames before and after its own in which a point must be seen to move, or to rest."""


class Points(NamedTuple):
    """Points worth naming: queries (t, x, y), whether each is on a thing that moves by itself, and their tracks."""

    queries: Float[np.ndarray, "N 3"]
    moves: Bool[np.ndarray, "N"]
    tracks: Tracks


def key_frames(num_frames: int) -> list[int]:
    """Return the frames in which points are looked for, evenly spaced, each with a frame before and after it."""
    first, last = (1, num_frames - 2) if num_frames > 2 else (0, num_frames - 1)
    return np.unique(np.linspace(first, last, FRAMES).round().astype(int)).tolist()


def find(clip: Prepared, tracker: Tracker) -> Points:
    """Find points worth naming, those on moving things first; none in a clip in which nothing has a corner."""
    tracker, frames = for_clip(tracker, clip.frames), key_frames(len(clip.frames))
    found = Points(np.zeros((0, 3)), np.zeros(0, bool), _no_tracks(len(clip.frames)))
    moving = {t: apart(clip, t) for t in frames}
    # From the middle outwards: what is seen there is likely to be seen before and after.
    for t in sorted(frames, key=lambda t: abs(t - len(clip.frames) / 2)):
        for wanted, corners in _on_patches(clip, t, moving[t], found.tracks):
            room = MOST_MOVING - len(found.queries)
            found = _followed(clip, tracker, corners, t, min(wanted, room), found, True)
    middle = frames[len(frames) // 2]
    for corners in _on_ground(clip, middle, moving[middle]):
        found = _followed(clip, tracker, corners, middle, 1, found, False)
    return found


def _no_tracks(num_frames):
    return Tracks(np.zeros((0, num_frames, 2), np.float32), np.zeros((0, num_frames), bool))


def apart(clip: Prepared, t: int) -> Bool[np.ndarray, "h w"]:
    """Return what moves apart from the camera in frame t, at the working size."""
    others = [other for other in (t - 1, t + 1) if 0 <= other < len(clip.frames)]
    if not others:
        return np.zeros(clip.small_size, bool)
    # Beside a thing, where it covers the ground or leaves it, the flow of one side is made up.
    found = np.min([_off(clip, t, other) for other in others], axis=0)
    mask = (cv2.GaussianBlur(found, (0, 0), 1.5) > MOVES).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    large = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] >= SMALLEST * mask.size]
    return np.isin(parts, large)


def _off(clip, t, other):
    """Return by how many pixels the flow from frame t to a neighbour differs from the camera's; 0 where it is wrong."""
    there, back = clip.flows if other > t else clip.flows[::-1]
    flow, back = there[min(t, other)], back[min(t, other)]
    height, width = clip.small_size
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    returned = cv2.remap(back, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    to_small, to_frame = pictures.scaling(clip.scale), pictures.scaling(1 / clip.scale)
    way = to_small @ np.linalg.inv(clip.cameras[other]) @ clip.cameras[t] @ to_frame
    grid = np.stack([x + 0.5, y + 0.5], axis=-1).reshape(-1, 2)
    expected = (background.move(way, grid) - grid).reshape(height, width, 2)
    off = np.linalg.norm(flow - expected, axis=-1)
    return np.where(np.linalg.norm(flow + returned, axis=-1) < 0.5 + 0.1 * off, off, 0).astype(np.float32)


def _strength(clip, t):
    """Return how good a corner each pixel of frame t is: the smaller eigenvalue of its slopes' products."""
    return cv2.cornerMinEigenVal(cv2.cvtColor(clip.small[t], cv2.COLOR_RGB2GRAY), 5)


def _spread(strength, mask, count, distance):
    """Return up to `count` of the strongest pixels in a mask, (x, y), none nearer to another than `distance`."""
    peaks = mask & (strength > 0) & (strength >= cv2.dilate(strength, np.ones((3, 3), np.uint8)))
    y, x = np.nonzero(peaks)
    chosen = np.zeros((0, 2))
    for index in np.argsort(-strength[y, x], kind="stable"):
        place = np.array([[x[index] + 0.5, y[index] + 0.5]])
        if len(chosen) == count:
            break
        if not len(chosen) or np.hypot(*(chosen - place).T).min() >= distance:
            chosen = np.concatenate([chosen, place])
    return chosen


def _on_patches(clip, t, moving, tracks) -> Iterator[tuple[int, Float[np.ndarray, "M 2"]]]:
    """Yield for each patch that moves how many points it lacks, and corners on it, in pixels of the clip."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    here = np.floor(tracks.xy[tracks.visible[:, t], t] * clip.scale).astype(int)
    here = here[((here >= 0) & (here < clip.small_size[::-1])).all(axis=1)]
    strength = _strength(clip, t)
    strength[strength < STRONG * strength.max()] = 0
    for part in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1 if count > 1 else ():
        inside = parts == part
        wanted = PER_PATCH - int(inside[here[:, 1], here[:, 0]].sum())
        if wanted > 0:
            # The rim of a patch is as much the ground's as the thing's.
            core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            distance = 0.6 * np.sqrt(stats[part, cv2.CC_STAT_AREA] / (TRIED * PER_PATCH))
            free = np.full(inside.shape, 255, np.uint8)
            free[here[:, 1], here[:, 0]] = 0
            free = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) >= distance
            corners = _spread(strength, free & (core if core.any() else inside), TRIED * wanted, distance)
            yield wanted, corners / clip.scale


def _on_ground(clip, t, moving) -> Iterator[Float[np.ndarray, "M 2"]]:
    """Yield for each cell of the frame the best corners of what moves with the camera, in pixels of the clip."""
    height, width = clip.small_size
    still = cv2.dilate(moving.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    border = max(2, round(0.03 * min(height, width)))
    strength = _strength(clip, t)
    for row in range(CELLS[0]):
        for column in range(CELLS[1]):
            cell = np.zeros_like(still)
            top, bottom = (max(border, height * n // CELLS[0]) for n in (row, row + 1))
            left, right = (max(border, width * n // CELLS[1]) for n in (column, column + 1))
            cell[top : min(bottom, height - border), left : min(right, width - border)] = True
            yield _spread(strength, still & cell, TRIED, 0.1 * min(height, width)) / clip.scale


def _followed(clip, tracker, corners: Num[np.ndarray, "M 2"], t, wanted, found, is_moving):
    """Add the corners of frame t that are followed longest and move, or rest, as was thought; at most `wanted`."""
    if not len(corners) or wanted < 1:
        return found
    queries = np.column_stack([np.full(len(corners), t), corners])
    tracks = tracker.track(clip.frames, queries)
    still = layers.stabilised(tracks, clip.cameras)
    near = slice(max(0, t - AROUND), t + AROUND + 1)
    far = np.where(tracks.visible, np.abs(still - still[:, t : t + 1]), 0)[:, near].max(axis=1)
    least = max(1.5, 0.004 * min(clip.size))
    # Beside a thing the ground seems to move with it, but only where the thing is near.
    share = np.array([_run(row, t) for row in tracks.visible]) if is_moving else tracks.visible.mean(axis=1)
    ok = (share >= SEEN_MOVING) & (far > least) if is_moving else (share >= SEEN_GROUND) & (far < 2 * least)
    best = [index for index in np.argsort(-share, kind="stable") if ok[index]][:wanted]
    return Points(
        np.concatenate([found.queries, queries[best]]),
        np.concatenate([found.moves, np.full(len(best), is_moving)]),
        concatenate([found.tracks, Tracks(tracks.xy[best], tracks.visible[best])]),
    )


def _run(visible: Bool[np.ndarray, "T"], t: int) -> float:
    """Return the share of all frames that a point is seen in without a longer break, around frame t."""
    closed = cv2.morphologyEx(visible.astype(np.uint8)[None], cv2.MORPH_CLOSE, np.ones((1, 3), np.uint8))[0] > 0
    hidden = np.flatnonzero(~closed)
    first, last = (hidden[hidden < t].max(initial=-1) + 1, hidden[hidden > t].min(initial=len(visible)))
    return float(last - first) / len(visible)
