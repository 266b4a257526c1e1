"""Where a point's tracked path is not to be believed, and what could be done: said on the page, beside the point."""

from typing import Any

import numpy as np

from motionv2v.edits import groups
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Num

TRACKERS = {
    "multistep": "finds a point again that was covered",
    "dis": "rather gives a point up than guesses",
    "lk": "fast, for points on fine detail",
}
"""What may follow a point that another tracker loses, and what it is good at."""
MERE_GAP = 2
"""Frames that a point may be lost for without anything to say."""
AT_EDGE = 0.08
"""Share of the frame's shorter side within which a lost point counts as one that leaves the frame."""
JUMP, FAR = 6.0, 0.04
"""A step is a jump if it is so many times the path's usual one, and this share of the frame's diagonal."""


def report(source: Tracks, size: tuple[int, int]) -> list[dict[str, Any] | None]:
    """Tell for each path [N T 2] in frames of size (H, W) where it is not to be trusted; None where it is throughout.

    A report is {frames: those in doubt, after: the last one before them, why: "lost", "left" or "jumps", says: a
    sentence}.
    """
    return [_of(xy, seen, size) for xy, seen in zip(np.asarray(source.xy), np.asarray(source.visible), strict=True)]


def _of(xy: Num[np.ndarray, "T 2"], seen: Bool[np.ndarray, "T"], size: tuple[int, int]) -> dict[str, Any] | None:
    lost = np.flatnonzero(~seen)
    stretches = [run for run in np.split(lost, np.flatnonzero(np.diff(lost) > 1) + 1) if len(run) > MERE_GAP]
    steps = np.hypot(*np.diff(xy, axis=0).T) if len(xy) > 1 else np.zeros(1)
    usual = float(np.median(steps))
    jumps = np.flatnonzero((steps > JUMP * max(usual, 0.5)) & (steps > FAR * np.hypot(*size))) + 1
    jumps = jumps[seen[jumps] & seen[jumps - 1]] if len(xy) > 1 else jumps[:0]
    if not stretches and not len(jumps):
        return None
    frames = np.unique(np.concatenate([*stretches, jumps]).astype(int))
    first = int(frames[0])
    if not stretches or first < stretches[0][0]:
        why, says = "jumps", f"jumps at frame {first}: look whether it is still on the thing"
    else:
        run = stretches[0]
        left = at_edge(xy, run, size)
        why = "left" if left else "lost"
        cause = "it leaves the frame" if left else "covered, or its looks change"
        says = f"not seen in {groups.spans(np.concatenate(stretches))} ({cause})"
    return {"frames": frames.tolist(), "after": max(first - 1, 0), "why": why, "says": says}


def at_edge(xy: Num[np.ndarray, "T 2"], run: Num[np.ndarray, "F"], size: tuple[int, int]) -> bool:
    """Tell whether a path, [T 2], is at the edge of the frame just before or just after a run of frames."""
    edge, far = AT_EDGE * min(size), np.array(size[::-1]) - AT_EDGE * min(size)
    beside = [t for t in (run[0] - 1, run[-1] + 1) if 0 <= t < len(xy)]
    return any(bool((xy[t] < edge).any() or (xy[t] > far).any()) for t in beside)
