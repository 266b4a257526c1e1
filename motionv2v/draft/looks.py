"""What a thing looks like in a frame of the clip, cut out: its colours and how much of each pixel it covers.

In clips smaller than the working size a thing is drawn from the median over all frames, which is sharper than any of
them: each frame shows other places of it. In larger ones it is drawn from single frames, at their own size, and from
that median only where something else covers it.
"""

from typing import NamedTuple

import cv2
import numpy as np

from motionv2v.draft import pictures
from motionv2v.draft.clip import Prepared
from motionv2v.draft.keys import MaskByFrame
from motionv2v.draft.masks import Mask
from motionv2v.typing import Bool, Float, UInt8

KEPT = 64
"""Cut-outs of a thing that are kept at once."""


class Cutout(NamedTuple):
    """Colours [h w 3] and cover [h w] of a thing, and what takes their pixels to those of a frame of the clip."""

    colours: UInt8[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    to_frame: Float[np.ndarray, "3 3"]


class Look:
    """Cuts a thing out of the frames of the clip.

    `covered`: what other things cover of each frame, bool [T h w] at the working size.
    """

    def __init__(self, mask: Mask | MaskByFrame, clip: Prepared, covered: Bool[np.ndarray, "T h w"]):
        self.mask, self.clip, self.covered = mask, clip, covered
        self._kept: dict[int, Cutout] = {}
        self._median: tuple[np.ndarray, np.ndarray] | None = None

    def body(self, most: int = 300) -> np.ndarray:
        """Return complex places all over the thing, in the layer's own frame."""
        return self.mask.body(self.clip.scale, most)

    def cut(self, q: int) -> Cutout | None:
        """Cut the thing out of frame q; None if nothing of it is there."""
        if q not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[q] = (
                self._from_median(q) if self.clip.scale >= 1 and self.mask.picture is not None else self._from_frame(q)
            )
        return self._kept[q]

    def _whole(self):
        """Return the median's colours, continued beyond the edge, and its soft mask."""
        if self._median is None:
            mask, soft, reach = self.mask, 0.35 * max(1.0, self.clip.scale), round(max(1.0, self.clip.scale))
            alpha = cv2.GaussianBlur(mask.is_thing.astype(np.float32), (0, 0), soft)
            core = cv2.erode(mask.is_thing.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
            self._median = pictures.spread(mask.picture, core if core.sum() >= 20 else mask.is_thing), alpha
        return self._median

    def _from_median(self, q):
        colours, alpha = self._whole()
        return Cutout(colours, alpha, np.linalg.inv(self.mask.from_frame(q, 1.0)))

    def _from_frame(self, q):
        """Cut the thing out at the clip's own size; what is covered there, or outside, comes from the median."""
        clip, mask = self.clip, self.mask
        soft = mask.soft(clip, q)  # [h w] at the working size, of the frame and of what lies around it
        if soft is None:
            return None
        cover, corner = soft
        box = pictures.extent(cover > 0.2)
        if box is None:
            return None
        margin = 4
        top, left = (part.start + first - margin for part, first in zip(box, corner, strict=True))
        height, width = (part.stop - part.start + 2 * margin for part in box)
        scale = 1 / clip.scale
        y, x, size = round(top * scale), round(left * scale), (round(height * scale), round(width * scale))
        to_frame = pictures.shifting(x, y)
        from_cover = pictures.shifting(-x, -y) @ pictures.scaling(scale) @ pictures.shifting(corner[1], corner[0])
        alpha = pictures.warp(cover.astype(np.float32), from_cover, size)
        shown = pictures.inside(clip.size, pictures.shifting(-x, -y), size)
        picture = pictures.warp(clip.frames[q], pictures.shifting(-x, -y), size, border=cv2.BORDER_REPLICATE)
        alpha = np.where(shown, pictures.matte(picture, alpha, round(1.5 * max(1.0, scale))), alpha)
        hidden = pictures.warp(
            self.covered[q].astype(np.uint8) * 255, pictures.shifting(-x, -y) @ pictures.scaling(scale), size
        )
        hidden = ((hidden > 20) | ~shown) & (alpha > 0)
        core = cv2.erode(((alpha > 0.9) & ~hidden).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if hidden.any():
            if mask.picture is None:
                alpha = np.where(hidden, 0, alpha)
            else:
                matrix = pictures.shifting(-x, -y) @ np.linalg.inv(mask.from_frame(q, 1.0))
                colours, known = pictures.warp(self._whole()[0], matrix, size), mask.known(matrix, size)
                picture = np.where(hidden[..., None], colours, picture)
                alpha = np.where(hidden & ~known, 0, alpha)
                core |= hidden & known & (alpha > 0.9)
        if core.sum() >= 20:
            soft_edge = (alpha > 0) & (alpha < 0.95)
            picture = np.where(soft_edge[..., None], pictures.spread(picture, core), picture)
        return Cutout(picture, np.clip(alpha, 0, 1).astype(np.float32), to_frame)
