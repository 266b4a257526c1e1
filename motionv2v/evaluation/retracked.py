"""Track points again in a video that a model made, to see whether they went where they were sent."""

from typing import Any

import numpy as np

from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int, UInt8


def longest_runs(visible: Bool[np.ndarray, "N T"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Find each point's longest run of visible frames: (first frame, length); length 0 for a point never visible."""
    first, length = np.zeros(len(visible), np.int64), np.zeros(len(visible), np.int64)
    run = np.zeros(len(visible), np.int64)
    for t in range(visible.shape[1]):
        run = np.where(visible[:, t], run + 1, 0)
        longer = run > length
        first, length = np.where(longer, t + 1 - run, first), np.where(longer, run, length)
    return first, length


def track(
    frames: UInt8[np.ndarray, "T H W 3"], wanted: Tracks, tracker: Any
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Track a video from where points start to be visible as wanted; where they go, and in which frames it counts.

    Counted are the frames of the point's longest visible run after its first, in which the tracker was told the answer:
    a tracker that hands points from frame to frame cannot be asked what lies behind an occlusion.
    """
    found, counted = follow(frames, wanted, tracker)
    return np.asarray(found.xy), counted


def follow(
    frames: UInt8[np.ndarray, "T H W 3"], wanted: Tracks, tracker: Any
) -> tuple[Tracks, Bool[np.ndarray, "N T"]]:
    """Track a video as `track` does; return also where the tracker claims to see the points."""
    first, length = longest_runs(wanted.visible)
    steps = np.arange(wanted.visible.shape[1])
    counted = (steps > first[:, None]) & (steps < (first + length)[:, None])
    queries = np.concatenate([first[:, None], wanted.xy[np.arange(len(first)), first]], 1)
    seen, found, visible = length > 1, np.array(wanted.xy), np.array(wanted.visible)
    if seen.any():
        estimated = tracker.track(frames, queries[seen].astype(np.float32))
        found[seen], visible[seen] = estimated.xy, estimated.visible
    return Tracks(found, visible), counted
