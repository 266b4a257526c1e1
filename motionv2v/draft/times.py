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
MOST_TRIED = 512
"""Times that are tried for a frame of the edit: of a long clip those that explain its points best."""
MOST_NEARER = 100
"""Frames from which on no moment counts as further off: a long clip is reversed as a short one is."""
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
    share, last = times - first, np.minimum(first + 1, num_frames - 1)
    path, there = before[:, first] * (1 - share) + before[:, last] * share, seen[:, first] & seen[:, last]
    cost, came_from, tried, here = np.zeros(1), [], [np.zeros(1, int)], np.zeros(num_frames)
    misses: list[Float[np.ndarray, " C"]] = []
    for t in range(num_frames):
        off = np.where(shown[:, t, None], np.abs(path - after[:, t, None]), 0).max(axis=0)
        # A moment that shows what the edit hides is another one.
        off += TOLERANCE * (~shown[:, t, None] & there).sum(axis=0)
        here[t] = off[np.searchsorted(times, t)]
        # The smoothest course: a jump costs up to what a fifth of a pixel does. Of two that do as well the nearer one.
        off += 0.001 * np.minimum(np.abs(times - t), MOST_NEARER)
        tried.append(np.arange(len(times)) if len(times) <= MOST_TRIED else _least(off, MOST_TRIED))
        misses.append(off[tried[-1]])
        jumps = 0.05 * np.minimum(np.abs(times[tried[-1], None] - times[tried[-2]]), 4) if t else np.zeros((1, 1))
        ways = cost[None] + jumps
        came_from.append(ways.argmin(axis=1).astype(np.int16))
        cost = ways.min(axis=1) + misses[-1]
    places = [int(cost.argmin())]
    for choice in came_from[:0:-1]:
        places.append(int(choice[places[-1]]))
    places = places[::-1]
    course = np.array([at[place] for at, place in zip(tried[1:], places, strict=True)])
    miss = np.array([off[place] for off, place in zip(misses, places, strict=True)])
    # One point alone is explained by any time at which it was there.
    enough = shown.sum(axis=0) >= min(2, shown.any(axis=1).sum())
    fits = (miss < TOLERANCE) & enough
    found = np.where(fits, times[course], np.nan)
    # The clip in its own order is no edit of time.
    is_new = fits & (here > TOLERANCE)
    least = min(num_frames, max(FEWEST, LEAST * num_frames))
    enough = fits.sum() >= least and is_new.sum() >= min(FEWEST, num_frames // 2)
    return found if enough else np.full(num_frames, np.nan)


def _least(costs: Float[np.ndarray, " Q"], count: int) -> Int[np.ndarray, " C"]:
    """Return the places of the smallest costs, in order of their places; of equal ones the first."""
    return np.sort(np.argsort(costs, kind="stable")[:count])


def nearest(found: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return the frame of the clip that each frame of the edit begins from: its own, unless times were found.

    Before the first time and after the last one, and between, the nearest of them is held: what no point tells of goes
    with the others.
    """
    frames, known = np.arange(len(found)), np.flatnonzero(np.isfinite(found))
    if not len(known):
        return frames
    after = np.minimum(np.searchsorted(known, frames), len(known) - 1)
    before, after = known[np.maximum(after - 1, 0)], known[after]
    closest = np.where(np.abs(frames - before) <= np.abs(after - frames), before, after)
    return np.round(found[closest]).astype(int)
