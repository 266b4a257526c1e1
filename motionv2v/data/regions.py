"""Regions and trajectories for ReVideo's training (Mou et al. 2024, arXiv 2405.13865): what changes, and how it moves.

The method is trained in three stages, which differ in what a sample is:

    whole       a clip, all of which is to be made; trajectories anywhere
    composed    one clip inside a rectangle, another around it; trajectories of the inner one, inside
    rectangle   a clip, of which a rectangle is to be made; trajectories inside

Between clips that have nothing in common a model cannot guess the inside from the outside, and has to look at the
trajectories. These are drawn as in the paper's appendix: of the points that go further than the mean one to ten, each
the more likely the further it goes, and their paths are smoothed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from motionv2v.typing import Bool, Float

KINDS = ("whole", "composed", "rectangle")
MOST_POINTS = 10
"""Trajectories that a sample has at most."""
LEAST_SIDE = 0.25
"""Shortest side of a rectangle, of that of the picture."""
SMOOTH = 1.0
"""Standard deviation of the filter over a trajectory, in frames."""


def draw(rng: np.random.Generator, kind: str, sample: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Draw a region of a sample, and the trajectories in it.

    Args:
        rng: of all draws. kind: one of `KINDS`.
        sample: with `target` uint8 [T H W 3], `target_xy` [N T 2] and `target_visible` [N T].
        other: what surrounds the region where two clips are composed; of it `target` alone is read.

    Returns:
        The sample with `region` float32 [T H W], 1 inside, its `target` composed, and of its tracks `MOST_POINTS` rows,
        those that are not in use hidden everywhere.

    Raises:
        ValueError: for an unknown kind, and clips of different shapes.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of region {kind!r}; available: {', '.join(KINDS)}")
    frames = sample["target"]
    inside = np.ones(frames.shape[1:3], bool) if kind == "whole" else rectangle(rng, frames.shape[1:3])
    if kind == "composed":
        around = other["target"]
        if around.shape != frames.shape:
            raise ValueError(f"clips of {frames.shape} and {around.shape} cannot be composed: expected one shape")
        frames = np.where(inside[:, :, None], frames, around)
    xy, visible = trajectories(rng, sample["target_xy"], sample["target_visible"], inside)
    region = np.repeat(inside[None].astype(np.float32), len(frames), axis=0)
    return sample | {"target": frames, "region": region, "target_xy": xy, "target_visible": visible}


def rectangle(rng: np.random.Generator, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Draw a rectangle: sides evenly from `LEAST_SIDE` of the picture's to all of it, then its place."""
    inside = np.zeros(size, bool)
    spans = []
    for length in size:
        side = int(rng.integers(max(1, round(LEAST_SIDE * length)), length + 1))
        first = int(rng.integers(length - side + 1))
        spans.append(slice(first, first + side))
    inside[tuple(spans)] = True
    return inside


def trajectories(
    rng: np.random.Generator,
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    inside: Bool[np.ndarray, "H W"],
    count: int | None = None,
) -> tuple[Float[np.ndarray, "M T 2"], Bool[np.ndarray, "M T"]]:
    """Draw the trajectories that steer a sample: `MOST_POINTS` rows, most of them hidden.

    Points count where they are seen inside the region, and may be drawn if they are in the first frame, or any if none
    is there. Of a still clip all are equally likely. `count`: of trajectories, at most; None draws it.
    """
    height, width = inside.shape
    column, row = (np.clip(np.floor(xy[..., i]), 0, n - 1).astype(int) for i, n in ((0, width), (1, height)))
    seen = visible & inside[row, column]
    candidates = np.flatnonzero(seen[:, 0])
    candidates = candidates if len(candidates) else np.flatnonzero(seen.any(axis=1))
    chosen = np.zeros((MOST_POINTS, xy.shape[1], 2), np.float32)
    shown = np.zeros((MOST_POINTS, xy.shape[1]), bool)
    if len(candidates):
        lengths = path_lengths(xy[candidates], seen[candidates])
        far = lengths > lengths.mean()
        candidates, lengths = (candidates[far], lengths[far]) if far.any() else (candidates, np.ones(len(candidates)))
        count = min(int(rng.integers(1, MOST_POINTS + 1)) if count is None else count, len(candidates))
        points = rng.choice(candidates, count, replace=False, p=lengths / lengths.sum())
        chosen[:count] = gaussian_filter1d(xy[points].astype(np.float32), SMOOTH, axis=1, mode="nearest")
        # Smoothing may carry a point at the border out of the picture.
        shown[:count] = seen[points] & ((chosen[:count] >= 0) & (chosen[:count] < (width, height))).all(-1)
    return chosen, shown


def path_lengths(xy: Float[np.ndarray, "N T 2"], seen: Bool[np.ndarray, "N T"]) -> Float[np.ndarray, "N"]:
    """Add up how far each point goes between the frames in which it is seen, one after another; pixels."""
    steps = np.linalg.norm(np.diff(xy.astype(np.float64), axis=1), axis=-1)
    return (steps * (seen[:, 1:] & seen[:, :-1])).sum(axis=1)


@dataclass
class RegionSource:
    """A random-access source of samples with regions, of another one: sample i is a function of (seed, i) alone."""

    source: Any
    kind: str
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.source[index]
        other = self.source[(index + 1) % len(self.source)] if self.kind == "composed" else sample
        return draw(np.random.default_rng([self.seed, int(index), 3]), self.kind, sample, other)
