"""How far things go from their trajectories, by the measures of papers on dragging: CTD, BG-Obj CTD and ObjMC.

    ctd             mean over points of each point's mean distance to where it should be, in the frames in which it
                    should be seen (MotionPro's co-tracking distance; no code of it is published)
    bg_obj_ctd      mean over the frames after the first of how differently the background and what was moved are
                    displaced since the first frame (Time-to-Move); small where the background is dragged along. Which
                    displacement is meant, from the first frame or from the one before, the paper leaves open
    objmc           mean distance over all points and frames, hidden ones as well (DragAnything); of points that the
                    first frame shows, as bg_obj_ctd, from where they are followed

A thing is a point here. Background are those points of a grid of 16x16 in the first frame that are far (`AWAY`) from
all points that were edited, and show no thing where an item has a mask (DAVIS). Of positions that a tracker lost its
last guess counts.
"""

from typing import Any

import numpy as np

from motionv2v import metrics
from motionv2v.evaluation import retracked
from motionv2v.typing import Bool, Float, UInt8

GRID = 16
AWAY = 0.1
"""Share of the diagonal by which the background's points are apart from what was edited, in the first frame."""


def measure(frames: UInt8[np.ndarray, "T H W 3"], truth: Any) -> dict[str, float]:
    """Track a video's points and its background, of a `measures.Truth`; NaN where there are none that count."""
    wanted, usable, moved = truth.tracks, truth.usable, truth.edited
    found, counted = retracked.follow(frames, wanted, truth.tracker)
    scores = {"ctd": ctd(np.asarray(found.xy)[usable], wanted.xy[usable], counted[usable])}
    # The other two are of whole paths from the first frame on: `follow` begins a point where it is seen longest.
    begun = usable & np.asarray(wanted.visible)[:, 0]
    followed = _from_first(frames, wanted.xy[begun, 0], truth.tracker)
    scores["objmc"] = objmc(followed, wanted.xy[begun]) if begun.any() else float("nan")
    things = followed[np.asarray(moved)[begun]]
    grid = background(wanted.xy[np.asarray(moved) & begun, 0], frames.shape[1:3])
    if len(grid) and "mask.png" in truth.item.files:
        column, row = grid.astype(int).T
        grid = grid[~truth.item.mask()[row, column]]
    apart = bg_obj_ctd(_from_first(frames, grid, truth.tracker), things) if len(things) and len(grid) else float("nan")
    return {**scores, "bg_obj_ctd": apart}


def _from_first(frames, places, tracker):
    """Follow places [N 2] of the first frame; positions [N T 2]."""
    if not len(places):
        return np.zeros((0, len(frames), 2), np.float32)
    return np.asarray(tracker.track(frames, np.insert(places, 0, 0, axis=1).astype(np.float32)).xy)


def ctd(
    found: Float[np.ndarray, "N T 2"], wanted: Float[np.ndarray, "N T 2"], counted: Bool[np.ndarray, "N T"]
) -> float:
    """Return the mean over points of their mean distances, in pixels; points that are never counted are left out."""
    distance, some = np.linalg.norm(found.astype(np.float64) - wanted, axis=-1), counted.any(axis=1)
    each = (distance * counted).sum(axis=1)[some] / counted.sum(axis=1)[some]
    return float(each.mean()) if each.size else float("nan")


def objmc(found: Float[np.ndarray, "N T 2"], wanted: Float[np.ndarray, "N T 2"]) -> float:
    """Return the mean distance over all points and frames, in pixels; of several clips' points, give them together."""
    return metrics.epe(found, wanted)


def bg_obj_ctd(background: Float[np.ndarray, "J T 2"], things: Float[np.ndarray, "N T 2"]) -> float:
    """Return the mean length of differences of displacements since the first frame, in pixels.

    Over all frames but the first, all points of the background and all things. NaN for a single frame, and where either
    has no points.
    """
    moved = [(xy.astype(np.float64) - xy[:, :1])[:, 1:] for xy in (background, things)]
    apart = np.linalg.norm(moved[0][:, None] - moved[1][None], axis=-1)  # [J N T-1]
    return float(apart.mean()) if apart.size else float("nan")


def background(things: Float[np.ndarray, "N 2"], size: tuple[int, ...]) -> Float[np.ndarray, "J 2"]:
    """Return the centres of 16x16 cells of a frame (H, W) that are far from things; positions are in pixels."""
    steps = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(steps * size[1], steps * size[0])
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    nearest = np.linalg.norm(grid[:, None] - things[None], axis=-1).min(axis=1, initial=np.inf)
    return grid[nearest > AWAY * np.hypot(*size)]
