"""The ground that a thing is told from: what a clip shows where the thing is not, and how the thing moves against it.

The boxes and masks that a person gave on some frames say roughly where a thing is in all. Without what lies inside,
the plate is *clean*: what looks unlike it is the thing, or something else that is before the ground. Where a thing
leaves the ground from frame to frame, the flow says the same of places that the clip never shows without it.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import background, pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.layers import Layer
from motionv2v.stacks import Lazy
from motionv2v.typing import Bool, Float, Int

SLOP = 0.025
"""A box by hand is so much too small at times, in the shorter side: what lies beyond must differ from the ground."""
GROWS = 0.05
"""By how much a box may be off in a frame that nothing was said of, in the shorter side."""
ALIKE, UNLIKE = 5.0, 16.0
"""Distances in Lab to the clean plate up to which a pixel is likely the ground, and from which on it is surely not."""
LEAVES, BLEEDS = 1.0, 3
"""Pixels of the working size by which a thing must leave the ground from frame to frame for that to tell where it is,
and by which its flow reaches beyond it."""
AS_ONE = 0.8
"""Share of what moves in a box that goes as the points do, from which on nothing but this is the thing."""
OTHER = 12.0
"""Distance in Lab from which on a place shows something else than before."""
PASSES = 4
"""Frames after which, and before which, what moves shows other things in its place."""


class Ground:
    """What a clip shows where a thing is not: the plate without the thing, as far as boxes tell where it is.

    Attributes:
        around: bool [T h w], all of the frame that may be the thing's.
    """

    def __init__(
        self,
        clip: Prepared,
        layer: Layer,
        said: Mapping[int, Int[np.ndarray, "h w"]],
        plate: Plate,
        cameras: Float[np.ndarray, "T 3 3"],
    ):
        """`said`: of each pixel of some frames whether it is the thing's, 1 yes, -1 no, 0 not said.

        `plate`: of the whole clip, taken where boxes leave nothing of it.
        """
        self.clip, self.layer, self.cameras = clip, layer, clip.to_small(cameras)
        self.around = _around_in_all(clip, layer, {t: pictures.extent(labels >= 0) for t, labels in said.items()})
        self.plate = plate if all(part.all() for part in self.around) else Plate(clip.small, self.cameras, self.around)

    def differs(self, q: int) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return which pixels of a frame look unlike the ground, and which like it; neither where it is not known."""
        seen, known = self.plate.seen_from(np.linalg.inv(self.cameras[q]), self.clip.small_size)
        off = pictures.distance(self.clip.lab[q], pictures.to_lab(seen), reach=2)
        # A camera that is followed badly, or ground that moves itself, makes differences everywhere.
        outside = off[known & ~self.around[q]]
        noise = float(np.percentile(outside, 90)) if outside.size else 0.0
        return known & (off > max(UNLIKE, 1.5 * noise)), known & (off < ALIKE)

    def moves(
        self, q: int, within: Bool[np.ndarray, "h w"]
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return what surely is the thing by its motion, what surely is not, and what likely is not.

        Where a thing goes from frame to frame unlike the ground, the flow tells: surely, if all that moves `within`
        some part of the frame goes as its points do; else what moves is the thing's, and what rests may be, too.
        """
        size, steps = self.clip.small_size, self._steps(q)
        nothing = np.zeros(size, bool)
        if not steps:
            return nothing, nothing, nothing
        off_ground, off_thing = (np.max([step[k] for step in steps], axis=0) for k in (0, 1))  # shares of its speed
        leaves, along = off_ground > 0.5, off_thing < 0.35
        # Flow reaches beyond what moves.
        core = cv2.erode((leaves & within).astype(np.uint8), np.ones((2 * BLEEDS + 1,) * 2, np.uint8)) > 0
        if (leaves & within).any() and along[leaves & within].mean() > AS_ONE:
            return core & along, off_thing > 0.65, nothing
        return core & self._differs_in_time(q), nothing, off_ground < 0.2

    def _steps(self, q):
        """Return how far flow to each neighbour is off the ground's and off the points', in shares of their speed."""
        clip, layer, found = self.clip, self.layer, []
        for r in (q + 1, q - 1):
            if not 0 <= r < len(clip.frames):
                continue
            flow = clip.flows[0][q] if r > q else clip.flows[1][r]
            both = layer.seen[:, q] & layer.seen[:, r]
            z = layer.tracked[both, q] * clip.scale
            at = np.floor(np.stack([z.real, z.imag], axis=-1)).astype(int)
            inside = (at >= 0).all(axis=1) & (at < clip.small_size[::-1]).all(axis=1)
            if not inside.any():
                continue
            step = (layer.tracked[both, r] - layer.tracked[both, q])[inside] * clip.scale
            own = np.array([np.median(step.real), np.median(step.imag)])
            ground = displaced(np.linalg.inv(self.cameras[r]) @ self.cameras[q], clip.small_size)
            x, y = at[inside].T
            speed = float(np.median(np.linalg.norm(own - ground[y, x], axis=-1)))
            if speed > LEAVES:
                found.append(tuple(np.linalg.norm(flow - way, axis=-1) / speed for way in (ground, own)))
        return found

    def _differs_in_time(self, q):
        """Return what looked otherwise before, and will after: what goes past just now, not what it goes past."""
        clip, differs = self.clip, np.ones(self.clip.small_size, bool)
        for r in (q - PASSES, q + PASSES):
            if 0 <= r < len(clip.frames):
                way = np.linalg.inv(self.cameras[q]) @ self.cameras[r]
                other = pictures.warp(clip.lab[r], way, clip.small_size, border=cv2.BORDER_REPLICATE)
                differs &= pictures.distance(clip.lab[q], other) > OTHER
        return differs


def displaced(matrix: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
    """Return by how much a motion displaces each pixel of a picture."""
    place = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)
    return background.move(matrix, place.reshape(-1, 2)).reshape(place.shape) - place


def _around_in_all(clip, layer, boxes) -> Bool[np.ndarray, "T h w"] | Lazy:
    """Return the boxes of some frames, rows and columns, in all: between them evenly, beyond them as the thing goes."""
    around = stacks.zeros((len(clip.frames), *clip.small_size), bool)
    keys = sorted(t for t, box in boxes.items() if box is not None)
    corners = {t: np.array([[b.start for b in boxes[t][::-1]], [b.stop for b in boxes[t][::-1]]], float) for t in keys}
    for q in sorted({*keys, *np.flatnonzero(layer.there | layer.seen.any(axis=0)).tolist()}) if keys else ():
        before = max((t for t in keys if t <= q), default=None)
        after = min((t for t in keys if t >= q), default=None)
        if before is not None and after is not None:
            share = (q - before) / max(1, after - before)
            (left, top), (right, bottom) = (1 - share) * corners[before] + share * corners[after]
        else:
            key = before if after is None else after
            (left, top), (right, bottom) = corners[key]
            way = clip.to_small(layer.to_frame(key, q))
            moved = background.move(way, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
            (left, top), (right, bottom) = moved.min(axis=0), moved.max(axis=0)
        grow = (SLOP if q in corners else GROWS) * min(clip.small_size)
        rows, columns = (
            slice(max(0, round(a - grow)), max(0, round(b + grow))) for a, b in ((top, bottom), (left, right))
        )
        whole = around[q]
        whole[rows, columns] = True
        around[q] = whole
    return around
