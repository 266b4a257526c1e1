"""Frechet video motion distance (Liu et al. 2024) by the project's own trackers: do sets of videos move alike?

Of every window of 16 frames, at 256x256, the points of a grid of 20x20 are tracked from its first frame. Velocities and
accelerations (`VELOCITY` and `ACCELERATION` frames at the start have none) are counted in cells of 5x5 points and 4
frames, by 8 directions, weighted by the logarithm of their lengths: 1,024 numbers a window, whatever it shows. Two sets
of windows are compared as normal distributions (`distances.frechet`).

The published program tracks by PIPs++ and adds 1e-5 to the variances, which is left out here; numbers compare only with
those of the same tracker. Windows of one video overlap, and are not independent.
"""

from typing import Any

import numpy as np

from motionv2v import video
from motionv2v.typing import Float, UInt8

WINDOW, SIDE, GRID, MARGIN = 16, 256, 20, 8
CELL, CELL_FRAMES, DIRECTIONS = 5, 4, 8
VELOCITY, ACCELERATION = 1, 2
_ROUNDING = 1e-4
"""Pixels; the weight of what is shorter would be that of half a pixel, for weights are rounded up."""


def features(frames: UInt8[np.ndarray, "T H W 3"], tracker: Any, stride: int = 1) -> Float[np.ndarray, "M 1024"]:
    """Return the features of a video's windows, each `stride` frames after the one before; none of a shorter video."""
    starts = range(0, len(frames) - WINDOW + 1, stride)
    if not starts:
        return np.zeros((0, 2 * _numbers()))
    small = video.resize(frames, (SIDE, SIDE))
    found = [np.asarray(tracker.track(small[start : start + WINDOW], _grid()).xy) for start in starts]
    return np.stack([of_tracks(xy) for xy in found])


def of_tracks(xy: Float[np.ndarray, "400 16 2"]) -> Float[np.ndarray, "1024"]:
    """Return the features of one window's tracks, in pixels of 256x256, in the order of the grid's rows."""
    place = xy.reshape(GRID, GRID, WINDOW, 2).astype(np.float64)
    velocity = np.zeros_like(place)
    velocity[:, :, VELOCITY:] = np.diff(place, axis=2)
    acceleration = np.zeros_like(place)
    acceleration[:, :, ACCELERATION:] = np.diff(velocity, axis=2)[:, :, 1:]
    return np.concatenate([_histogram(velocity), _histogram(acceleration)])


def _histogram(vectors: Float[np.ndarray, "20 20 16 2"]) -> Float[np.ndarray, "512"]:
    """Sum up the weights of vectors by cell and direction."""
    length = np.minimum(np.linalg.norm(vectors, axis=-1), 255)
    weight = np.where(length > _ROUNDING, np.ceil(np.clip(np.log2(length + 1), 0, 8)) / 8, 0)
    angle = np.mod(np.arctan2(vectors[..., 0], vectors[..., 1]), 2 * np.pi)
    direction = np.minimum((angle * DIRECTIONS / (2 * np.pi)).astype(int), DIRECTIONS - 1)
    each = weight[..., None] * (direction[..., None] == np.arange(DIRECTIONS))  # [20 20 16 8]
    cells = (GRID // CELL, CELL, GRID // CELL, CELL, WINDOW // CELL_FRAMES, CELL_FRAMES, DIRECTIONS)
    return each.reshape(cells).sum(axis=(1, 3, 5)).ravel()


def _numbers() -> int:
    return (GRID // CELL) ** 2 * (WINDOW // CELL_FRAMES) * DIRECTIONS


def _grid() -> Float[np.ndarray, "400 3"]:
    """Return the queries of a window: frame 0, x and y, row by row."""
    steps = np.linspace(MARGIN, SIDE - MARGIN, GRID)
    x, y = np.meshgrid(steps, steps)
    return np.stack([np.zeros(GRID**2), x.ravel(), y.ravel()], axis=1).astype(np.float32)
