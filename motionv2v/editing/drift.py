"""How far a clip that was edited again and again has drifted from its first source, where no edit touched it.

The measure is PSNR in dB, over the pixels that lie further than `REACH` of the picture's height from every point that
an edit moved, showed or hid, where it was and where it went, in that frame. What an edit leaves alone should stay as it
was, so that infinity would be right; each generation is drawn, encoded and decoded again, and loses some.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from motionv2v import tracks
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, UInt8

REACH = 1 / 6
"""Share of the picture's height within which an edit of a point counts as touching a pixel."""
LEAST = 0.02
"""Share of the pixels that must be left untouched for the measure to say anything."""
PATHS = "paths.npz"


def keep(path: Path, source: Tracks, target: Tracks, is_moved: Bool[np.ndarray, "N"]) -> None:
    """Keep the paths of the points that an edit moves, before and after, both xy [N T 2]."""
    rows = np.flatnonzero(is_moved)
    both = tracks.concatenate([tracks.select(source, rows), tracks.select(target, rows)])
    np.savez_compressed(path, xy=both.xy, visible=both.visible)


def untouched(
    shape: tuple[int, int, int], paths: Sequence[np.ndarray], reach: float = REACH
) -> Bool[np.ndarray, "T H W"]:
    """Tell which pixels of a clip (T, H, W) lie apart from paths xy [N T 2] of edits."""
    length, height, width = shape
    radius = max(1, round(reach * height))
    kept = np.ones(shape, np.uint8)
    for xy in paths:
        for t in range(min(length, xy.shape[1])):
            for x, y in np.clip(np.round(xy[:, t]), -4 * max(height, width), 4 * max(height, width)).astype(int):
                cv2.circle(kept[t], (int(x), int(y)), radius, 0, -1)
    return kept.astype(bool)


def psnr(
    first: UInt8[np.ndarray, "T H W 3"], now: UInt8[np.ndarray, "t h w 3"], paths: Sequence[np.ndarray]
) -> float | None:
    """Return the PSNR in dB of a clip against its first source apart from the paths xy [N T 2] of all edits between.

    100 at most. None where that says nothing: clips of other sizes, or edits that touched nearly everything.
    """
    if first.shape != now.shape:
        return None
    kept = untouched(first.shape[:3], paths)
    if kept.mean() < LEAST:
        return None
    error = 0.0
    for t in range(len(kept)):  # one at a time: floats of a whole clip are large
        error += float(((first[t][kept[t]].astype(np.float64) - now[t][kept[t]]) ** 2).sum())
    error /= 3 * int(kept.sum())
    return round(min(100.0, 10 * np.log10(255**2 / max(error, 1e-12))), 2)
