"""Edits of time: which moment of the clip a frame of the edit shows, where one moment explains all points.

Reversed, slowed, frozen or shifted as a whole, an edit is the clip's own frames in another order, and those in between
by its flow. Where all points that the edit shows are where they are in the clip at one time, that time is the answer.
"""

import numpy as np

from motionv2v.typing import Bool, Float, Shaped

STEP = 0.125
"""Frames between the times that are tried."""
TOLERANCE = 0.6
"""Pixels that any visible point may be off."""
LEAST = 0.3
"""Share of the edit's frames that must be explained, for any to be."""


def find(
    before: Shaped[np.ndarray, "N T"], after: Shaped[np.ndarray, "N T"], shown: Bool[np.ndarray, "N T"]
) -> Float[np.ndarray, "T"]:
    """Return the time in frames that each frame of the edit shows; NaN where none explains all its points.

    Args:
        before, after: complex places of the points in the clip and in the edit. shown: whether the edit shows them.
    """
    num_frames = before.shape[1]
    times = np.arange(0, num_frames - 1 + STEP / 2, STEP)
    first = np.floor(times).astype(int)
    share = times - first
    path = before[:, first] * (1 - share) + before[:, np.minimum(first + 1, num_frames - 1)] * share
    off = np.where(shown.T[:, :, None], np.abs(path[None] - after.T[:, :, None]), 0).max(axis=1)  # [T times]
    # The smoothest course: a jump costs up to what a fifth of a pixel does.
    jumps = 0.05 * np.minimum(np.abs(times[:, None] - times), 4)
    cost, came_from = off[0], []
    for row in off[1:]:
        ways = cost[None] + jumps
        came_from.append(ways.argmin(axis=1))
        cost = ways.min(axis=1) + row
    course = [int(cost.argmin())]
    for choice in reversed(came_from):
        course.append(int(choice[course[-1]]))
    course = np.array(course[::-1])
    # One point alone is explained by any time at which it was there.
    enough = shown.sum(axis=0) >= min(2, shown.any(axis=1).sum())
    fits = (off[np.arange(num_frames), course] < TOLERANCE) & enough
    found = np.where(fits, times[course], np.nan)
    is_new = fits & (np.abs(times[course] - np.arange(num_frames)) > STEP / 2)
    return found if fits.mean() >= LEAST and is_new.any() else np.full(num_frames, np.nan)
