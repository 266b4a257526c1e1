"""Edits of time: which moment of the clip a frame of the edit shows, where one moment explains all points.

Reversed, slowed, frozen or shifted as a whole, an edit is the clip's own frames in another order, and those in between
by its flow. Where all points that the edit shows are where they are in the clip at one time, that time is the answer.
"""

import numpy as np

from motionv2v.typing import Bool, Float, Int, Shaped

STEP = 0.125
"""Frames between the times that are tried."""
TOLERANCE = 0.6
"""Pixels that any visible point may be off."""
LEAST, FEWEST = 0.15, 3
"""Share of the edit's frames, and their number, that must be explained, for any to be."""


def find(
    before: Shaped[np.ndarray, "N T"],
    after: Shaped[np.ndarray, "N T"],
    seen: Bool[np.ndarray, "N T"],
    shown: Bool[np.ndarray, "N T"],
) -> Float[np.ndarray, "T"]:
    """Return the time in frames that each frame of the edit shows; NaN where none explains all its points.

    Args:
        before, after: complex places of the points in the clip and in the edit. seen, shown: which of them the clip
            shows, and the edit.
    """
    num_frames = before.shape[1]
    times = np.arange(0, num_frames - 1 + STEP / 2, STEP)
    first = np.floor(times).astype(int)
    share = times - first
    path = before[:, first] * (1 - share) + before[:, np.minimum(first + 1, num_frames - 1)] * share
    off = np.where(shown.T[:, :, None], np.abs(path[None] - after.T[:, :, None]), 0).max(axis=1)  # [T times]
    # A moment that shows what the edit hides is another one.
    there = seen[:, first] & seen[:, np.minimum(first + 1, num_frames - 1)]
    off += TOLERANCE * ((~shown).T[:, :, None] & there[None]).sum(axis=1)
    here = off[np.arange(num_frames), np.searchsorted(times, np.arange(num_frames))]
    # The smoothest course: a jump costs up to what a fifth of a pixel does. Of two that do as well the nearer one.
    off += 0.001 * np.abs(times[None] - np.arange(num_frames)[:, None])
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
    # The clip in its own order is no edit of time.
    is_new = fits & (here > TOLERANCE)
    least = min(num_frames, max(FEWEST, LEAST * num_frames))
    enough = fits.sum() >= least and is_new.sum() >= min(FEWEST, num_frames // 2)
    return found if enough else np.full(num_frames, np.nan)


def nearest(found: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return the frame of the clip that each frame of the edit begins from: its own, unless times were found.

    Before the first time and after the last one, and between, the nearest of them is held: what no point tells of goes
    with the others.
    """
    frames, known = np.arange(len(found)), np.flatnonzero(np.isfinite(found))
    if not len(known):
        return frames
    closest = known[np.abs(frames[:, None] - known).argmin(axis=1)]
    return np.round(found[closest]).astype(int)
