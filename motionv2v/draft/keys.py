"""Masks by hand on some frames, carried to all others.

From each frame that a person said something of, the mask goes with the flow to the next frame, and is laid on that
frame's colours there (GrabCut in a band along its edge), and so on, both ways. Between two such frames what comes from
both sides is blended by its distances to the edge. Where a person gave a box, or strokes, the mask in that frame is cut
out first: the thing is inside, holds its points, and looks unlike what is outside.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from motionv2v.draft import masks, pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.given import Hint
from motionv2v.draft.layers import Layer
from motionv2v.typing import Bool, Float, Shaped

BAND = 0.025
"""Along a carried mask's edge, in the shorter side, that is decided anew by the colours of each frame."""
BESIDE = 0.15
"""Around a box, in the longer side, that shows what the thing is not."""
LEAST = 20
"""Pixels of the working size; a smaller mask has left the frame."""


@dataclass
class MaskByFrame:
    """A thing that may bend: its mask [T h w] in each frame, at the working size; the counterpart of `masks.Mask`."""

    layer: Layer
    by_frame: Bool[np.ndarray, "T h w"]
    picture: None = None

    def in_frame(self, clip: Prepared, q: int) -> tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
        """Return the mask in frame q, and log-odds: what a person says counts more than what is found."""
        return self.by_frame[q], np.where(self.by_frame[q], 9.0, -9.0).astype(np.float32)

    def in_frames(self, clip: Prepared) -> Bool[np.ndarray, "T h w"]:
        """Return where the thing is in every frame."""
        return self.by_frame

    def soft(self, clip: Prepared, q: int) -> tuple[Float[np.ndarray, "h w"], tuple[int, int]] | None:
        """Return the mask in frame q, and its corner (y, x)."""
        return (self.by_frame[q].astype(np.float32), (0, 0)) if self.by_frame[q].any() else None

    def body(self, scale: float, most: int = 0) -> Shaped[np.ndarray, "P"]:
        """Return no places: a thing that bends has no frame of its own, so that what of it is missing is not known."""
        return np.zeros(0, complex)

    def holds(self, clip: Prepared, q: int, xy: Shaped[np.ndarray, "N 2"]) -> Bool[np.ndarray, "N"]:
        """Tell which positions in frame q are well inside."""
        core = cv2.erode(self.by_frame[q].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        return masks.at(core, xy * clip.scale)


def carry(clip: Prepared, layer: Layer, hint: Hint, plate: Plate, cameras: Float[np.ndarray, "T 3 3"]) -> MaskByFrame:
    """Find a thing's mask in every frame from what a person said of some."""
    num_frames = len(clip.frames)
    keys = hint.frames
    known = {t: _cut_out(clip, layer, hint, t) for t in keys}
    by_frame = np.zeros((num_frames, *clip.small_size), bool)
    for t, mask in known.items():
        by_frame[t] = mask
    for before, after in zip([None, *keys], [*keys, None], strict=True):
        first, last = (-1 if before is None else before), (num_frames if after is None else after)
        between = range(first + 1, last)
        if not between:
            continue
        forward = {} if before is None else _carried(clip, plate, cameras, known[before], before, between)
        backward = {} if after is None else _carried(clip, plate, cameras, known[after], after, between[::-1])
        for q in between:
            if before is None or after is None:
                by_frame[q] = (forward or backward)[q]
            else:
                share = (q - before) / (after - before)
                by_frame[q] = (1 - share) * _signed(forward[q]) + share * _signed(backward[q]) > 0
    return MaskByFrame(replace(layer, there=by_frame.sum(axis=(1, 2)) >= LEAST), by_frame)


def _signed(mask):
    """Return the distance to a mask's edge, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask))
    return inside - outside


def _carried(clip, plate, cameras, mask, start, frames):
    """Return the masks that a mask of frame `start` becomes in the frames after it, or before it."""
    found, q = {}, start
    y, x = np.mgrid[: clip.small_size[0], : clip.small_size[1]].astype(np.float32)
    for r in frames:
        if mask.sum() < LEAST:
            mask = np.zeros_like(mask)
        else:
            back = clip.flows[1][q] if r > q else clip.flows[0][r]  # from r to q
            # Near the edge the flow is a mixture: the thing's own, from well inside, reaches out.
            core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            ahead = clip.flows[0][q] if r > q else clip.flows[1][r]  # from q to r
            moved = pictures.spread(ahead, core if core.any() else mask)
            step = np.median(ahead[core if core.any() else mask], axis=0)
            rough = cv2.remap(mask.astype(np.float32), x - step[0], y - step[1], cv2.INTER_LINEAR)
            own = cv2.dilate((rough > 0.5).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            where = np.where(own[..., None], -cv2.remap(moved, x - step[0], y - step[1], cv2.INTER_LINEAR), back)
            carried = cv2.remap(mask.astype(np.float32), x + where[..., 0], y + where[..., 1], cv2.INTER_LINEAR) > 0.5
            mask = _settled(clip, plate, cameras, carried, r)
        found[r], q = mask, r
    return found


def _settled(clip, plate, cameras, mask, q):
    """Lay a carried mask on the colours of its frame: what lies in a band along its edge is decided anew."""
    if mask.sum() < LEAST:
        return np.zeros_like(mask)
    reach = max(2, round(BAND * min(clip.small_size)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    sure = cv2.erode(mask.astype(np.uint8), kernel) > 0
    possible = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seen, known = plate.seen_from(np.linalg.inv(clip.to_small(cameras[q])), clip.small_size)
    unlike = pictures.distance(clip.lab[q], pictures.to_lab(seen))
    # A thing that rests is in the plate itself, which then says nothing of where it ends.
    inside = unlike[known & (sure if sure.any() else mask)]
    if not inside.size or np.median(inside) >= 3:
        labels[known & (unlike < 3) & ~sure] = cv2.GC_PR_BGD
    labels[sure], labels[~possible] = cv2.GC_FGD, cv2.GC_BGD
    return masks.grab(clip.small[q], labels, possible, 4.0 * reach, rounds=2)


def _cut_out(clip, layer, hint, t) -> Bool[np.ndarray, "h w"]:
    """Return the mask of a frame that a person said something of; inside a box all is the thing that may be."""
    said = hint.labels(t, clip.size)
    said = cv2.resize(said, clip.small_size[::-1], interpolation=cv2.INTER_NEAREST)
    open_ = said == 0
    if not open_.any():
        return said > 0
    away = masks.distance_to(layer.paths()[:, t] * clip.scale, clip.small_size) / min(clip.small_size)
    labels = np.full(said.shape, cv2.GC_PR_FGD, np.uint8)
    labels[(away < masks.SEEDS) & layer.there[t]] = cv2.GC_FGD
    labels[said > 0], labels[said < 0] = cv2.GC_FGD, cv2.GC_BGD
    return masks.grab(clip.small[t], labels, said >= 0, BESIDE * max(clip.small_size), rounds=5) | (said > 0)
