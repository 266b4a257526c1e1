"""Clips of several shapes: which bucket (T, H, W) a clip belongs to, and how it is made to fit.

A batch has one shape, and every shape is compiled for once. So a run names a few shapes, its buckets, and a pair of
clips goes to the nearest: the one that shows most of it. It is cut there to a window of the bucket's length, scaled
until it covers the bucket's size and cropped at the centre, and its tracks go through the same map. Numpy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from motionv2v.data import counterfactual, transforms
from motionv2v.tracks import Tracks, hide_outside

Bucket = tuple[int, int, int]
"""Frames T, height H and width W of the clips of a batch."""


def nearest(shape: Sequence[int], buckets: Sequence[Bucket]) -> Bucket:
    """Find the bucket for clips of `shape` (T, H, W): the one that keeps the largest share of their frames and pixels.

    Of two that keep the same share, the one whose size is nearest. A bucket longer than the clip is out of question:
    frames that do not exist would have to be made up.

    Raises:
        ValueError: if every bucket is longer than the clip.
    """
    frames, height, width = shape

    def rank(bucket: Bucket) -> tuple[float, float]:
        stretch = (width * bucket[1]) / (height * bucket[2])
        kept = min(stretch, 1 / stretch) * bucket[0] / frames
        # Rounded, so that equal shares compare equal.
        return round(kept, 9), -abs(math.log((height * width) / (bucket[1] * bucket[2])))

    fitting = [bucket for bucket in buckets if bucket[0] <= frames]
    if not fitting:
        shortest = min(bucket[0] for bucket in buckets)
        raise ValueError(f"clips of {frames} frames fit no bucket: the shortest has {shortest} frames")
    return max(fitting, key=rank)


@dataclass(frozen=True)
class Fit(grain.transforms.RandomMap):
    """Make a pair of clips fit a bucket, with a fixed number of points of which a random number is in use.

    Attributes:
        bucket: frames T, height H and width W of the result.
        num_points: points N of the result; n ~ U{min_points..N} of those that can be seen in both clips are in use
            (paper, section 3.2), all of them if there are fewer than n. The other rows are hidden everywhere.
        min_points: the fewest that are in use; 1 in the paper, 1,000 (of 2,000) in Motion Prompting.
    """

    bucket: Bucket
    num_points: int
    min_points: int = 1

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Apply to one sample; both clips are cut to the same frames. Raises ValueError for clips that are too short.

        A point is hidden where the crop leaves it outside, and `edited` only holds for points in use.
        """
        available = len(element["source"])
        frames, *size = self.bucket
        if available < frames:
            raise ValueError(f"a sample has clips of {available} frames, its bucket has {frames}")
        window = slice(start := int(rng.integers(available - frames + 1)), start + frames)
        clips: dict[str, transforms.TrackedClip] = {}
        for side in ("source", "target"):
            if side == "target" and element["target"] is element["source"]:  # a clip with itself
                clips["target"] = clips["source"]
                break
            tracks = Tracks(element[f"{side}_xy"][:, window], element[f"{side}_visible"][:, window])
            clip = transforms.cover_crop(transforms.TrackedClip(element[side][window], tracks), tuple(size))
            clips[side] = clip._replace(tracks=hide_outside(clip.tracks, tuple(size)))
        points = self._draw_points(rng, *(clip.tracks.visible for clip in clips.values()))
        result = dict(element)
        for side, clip in clips.items():
            result[side] = clip.frames
            result[f"{side}_xy"] = self._rows(clip.tracks.xy, points)
            result[f"{side}_visible"] = self._rows(clip.tracks.visible, points)
        result["edited"] = self._rows(element["edited"], points)
        return result

    def _draw_points(self, rng: np.random.Generator, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Draw the points in use, in random order, by their row."""
        seen = np.flatnonzero(source.any(axis=1) & target.any(axis=1))
        if not len(seen):
            return seen
        return seen[counterfactual.sample_points(rng, len(seen), self.num_points, self.min_points)]

    def _rows(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Take the rows of the points in use and fill up with zeros, which hide."""
        rows = np.zeros((self.num_points, *values.shape[1:]), values.dtype)
        rows[: len(points)] = values[points]
        return rows
