"""Dense optical flow between any two frames of a clip, computed when it is asked for and kept within a budget.

DIS flow (Kroeger et al. 2016) from OpenCV, preset "medium", at full resolution or at a whole fraction of it.
Coordinates here are OpenCV's: (0, 0) is the centre of the top-left pixel.
"""

from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.stacks import Lazy
from motionv2v.typing import AnyArray, Bool, Float, UInt8


class Flows:
    """The flows of a clip. `flows.move(i, j, points)` moves positions in frame i to their positions in frame j.

    `watch(j, places)`, where it is set, is called with these.

    Flows are kept as float16 (steps of 1/128 pixel at 8 to 16 pixels), up to `memory` bytes; beyond that the one that
    was used longest ago is dropped, and computed again should it be needed.
    """

    def __init__(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, memory: int, fraction: int = 1):
        """Keep the frames, and grey ones for the flow, `fraction` times smaller; no flow is computed yet."""
        self.frames, self.shape, self._fraction = frames, frames.shape[1:3], fraction
        width, height = size = tuple(max(1, side // fraction) for side in self.shape[::-1])
        self.grey = stacks.zeros((len(frames), height, width), np.uint8)
        for t, frame in enumerate(frames):
            grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
            grey = grey[: height * fraction, : width * fraction]
            self.grey[t] = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if fraction > 1 else grey
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._kept: OrderedDict[tuple[int, int], Float[np.ndarray, "H W 2"]] = OrderedDict()
        self.watch: Callable[[int, Float[np.ndarray, "M 2"]], None] | None = None
        self._room = max(2, memory // (4 * self.grey[0].size))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.grey)

    def __call__(self, i: int, j: int) -> Float[np.ndarray, "H W 2"]:
        """Return the displacement in pixels of every pixel of frame i to frame j, float16; [h w 2] of smaller ones."""
        if (i, j) in self._kept:
            self._kept.move_to_end((i, j))
        else:
            self._kept[i, j] = self.compute(i, j)
            if len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return self._kept[i, j]

    def compute(self, i: int, j: int) -> Float[np.ndarray, "H W 2"]:
        """Compute what a call returns."""
        return self._dis.calc(self.grey[i], self.grey[j], None).astype(np.float16)

    def move(
        self, i: int, j: int, points: Float[np.ndarray, "N 2"]
    ) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
        """Move points of frame i to frame j; return where they are and how far they miss themselves when moved back."""
        small = (points + 0.5) / self._fraction - 0.5
        moved = small + sample(self(i, j), small)
        missed = np.linalg.norm(moved + sample(self(j, i), moved) - small, axis=-1)
        places = (moved + 0.5) * self._fraction - 0.5
        if self.watch is not None:
            self.watch(j, places)
        return places, missed * self._fraction


def sample(flow: Float[np.ndarray, "H W 2"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """Read a flow between its pixels, bilinearly; outside the frame its nearest pixel counts."""
    limit = np.array([flow.shape[1], flow.shape[0]]) - 1
    points = np.clip(points, 0, limit)
    corner = np.minimum(points.astype(int), np.maximum(limit - 1, 0))
    x, y = corner.T
    right, below = np.minimum(x + 1, limit[0]), np.minimum(y + 1, limit[1])
    wx, wy = (points - corner).astype(np.float32).T[..., None]
    top = flow[y, x] * (1 - wx) + flow[y, right] * wx
    return top * (1 - wy) + (flow[below, x] * (1 - wx) + flow[below, right] * wx) * wy


def is_inside(points: Float[np.ndarray, "N 2"], shape: tuple[int, ...]) -> Bool[np.ndarray, "N"]:
    """Say which positions lie in a frame [H W], which reaches from -0.5 to W - 0.5 in OpenCV's coordinates."""
    return np.all((points >= -0.5) & (points <= np.array(shape[1::-1]) - 0.5), axis=-1)
