"""What a thing looks like in a frame of the clip, cut out: its colours and how much of each pixel it covers.

In clips smaller than the working size a thing is drawn from the median over all frames, which is sharper than any of
them: each frame shows other places of it. In larger ones it is drawn from single frames, at their own size, and from
that median only where something else covers it.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import pictures
from motionv2v.draft.clip import Prepared
from motionv2v.draft.keys import MaskByFrame
from motionv2v.draft.masks import Mask
from motionv2v.stacks import Frames
from motionv2v.typing import Bool, Float, UInt8

KEPT = 2**27
"""Bytes of cut-outs of a thing that are kept at once."""
MARGIN = 2
"""Pixels around what is cut out of the median, for its edge to be interpolated."""
DARKEST, LIGHTEST = 0.25, 1.03
"""Of the ground's light that is left in a thing's shadow."""
COLOURED = 7.0
"""How far a shadow's colour may be from the ground's, in Lab without the light."""
FADES = 0.015
"""From the edge of what was found, in the shorter side, over which a shadow fades to nothing."""


class Cutout(NamedTuple):
    """A thing cut out of a frame of the clip.

    Attributes:
        colours: [h w 3]. alpha: how much of each pixel it covers. shade: what its shadow leaves of the light on the
            ground, 1 is all. doubt: how likely each pixel is wrong, 0 to 1. to_frame: from here to the frame.
    """

    colours: UInt8[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    shade: Float[np.ndarray, "h w"] | None
    doubt: Float[np.ndarray, "h w"]
    to_frame: Float[np.ndarray, "3 3"]


class Look:
    """Cuts a thing out of the frames of the clip.

    `covered`: what other things cover of each frame, bool [h w] at the working size. `behind`: returns what is behind
    all things in a frame, [h w 3], and where it is known.
    """

    def __init__(
        self,
        mask: Mask | MaskByFrame,
        clip: Prepared,
        covered: Frames,
        behind: Callable[[int], tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]],
    ):
        self.mask, self.clip, self.covered, self.behind = mask, clip, covered, behind
        self._cut = stacks.Kept(self._make, KEPT)
        self._median: tuple[np.ndarray, np.ndarray] | None = None
        self._drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def body(self, most: int = 300) -> np.ndarray:
        """Return complex places all over the thing, in the layer's own frame."""
        return self.mask.body(self.clip.scale, most)

    def cut(self, q: int) -> Cutout | None:
        """Cut the thing out of frame q; None if nothing of it is there."""
        return self._cut(q)

    def _make(self, q):
        from_median = self.clip.scale >= 1 and self.mask.picture is not None
        return self._from_median(q) if from_median else self._from_frame(q)

    def _whole(self):
        """Return the median's colours, continued beyond the edge, and its soft mask."""
        if self._median is None:
            mask, soft, reach = self.mask, 0.35 * max(1.0, self.clip.scale), round(max(1.0, self.clip.scale))
            alpha = cv2.GaussianBlur(mask.is_thing.astype(np.float32), (0, 0), soft)
            core = cv2.erode(mask.is_thing.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
            self._median = pictures.spread(mask.picture, core if core.sum() >= 20 else mask.is_thing), alpha
        return self._median

    def _from_median(self, q):
        if self._drawn is None:  # far less than the canvas, which is several times as large as a frame
            colours, alpha = self._whole()
            doubt = self.mask.doubt(self.clip.small_size)
            box = pictures.extent((alpha > 0) | (doubt > 0)) or (slice(0, 1), slice(0, 1))
            rows, columns = (slice(max(0, part.start - MARGIN), part.stop + MARGIN) for part in box)
            parts = (part[rows, columns] for part in (colours, alpha, doubt))
            self._drawn = *parts, pictures.shifting(columns.start, rows.start)
        colours, alpha, doubt, to_canvas = self._drawn
        return Cutout(colours, alpha, None, doubt, np.linalg.inv(self.mask.from_frame(q, 1.0)) @ to_canvas)

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
        alpha = np.clip(alpha, 0, 1).astype(np.float32)
        shade = self._shade(q, picture, alpha, (y, x)) if shown.any() else None
        if shade is not None:
            alpha = np.where(shade < 1, 0, alpha).astype(np.float32)
        edge = 4 * alpha * (1 - alpha)
        doubt = np.maximum(cv2.blur(edge, (5, 5)), hidden * np.float32(0.5)).astype(np.float32)
        return Cutout(picture, alpha, shade, doubt, to_frame)

    def _shade(self, q, picture, alpha, corner) -> Float[np.ndarray, "h w"] | None:
        """Find the shadow in a cut-out: ground that is darker than it is without the thing, from the edge inward.

        What is drawn of it is how much light it leaves, not the ground that it lay on, so that it lies on any.
        """
        behind, known = self.behind(q)
        height, width = alpha.shape
        matrix = pictures.shifting(-corner[1], -corner[0]) @ pictures.scaling(1 / self.clip.scale)
        ground = pictures.warp(behind, matrix, (height, width), border=cv2.BORDER_REPLICATE)
        known = pictures.warp(known.astype(np.uint8) * 255, matrix, (height, width)) > 200
        here, there = (pictures.to_lab(cv2.GaussianBlur(part, (0, 0), 1.0)) for part in (picture, ground))
        left = (here[..., 0] + 1) / (there[..., 0] + 1)
        coloured = np.linalg.norm((here - there)[..., 1:], axis=-1)
        is_shade = known & (left > DARKEST) & (left < LIGHTEST) & (coloured < COLOURED) & (alpha > 0.02)
        around = alpha <= 0.02
        _, parts = cv2.connectedComponents((is_shade | around).astype(np.uint8))
        is_shade &= np.isin(parts, np.unique(parts[around]))
        if is_shade.sum() < 20:
            return None
        fades = max(2.0, FADES * min(self.clip.size))
        inward = cv2.distanceTransform((~around).astype(np.uint8), cv2.DIST_L2, 5)
        left = cv2.GaussianBlur(np.where(is_shade, np.minimum(left, 1), 1).astype(np.float32), (0, 0), 1.0)
        shade = 1 - (1 - left) * np.clip(inward / fades, 0, 1)
        return np.where(is_shade, np.minimum(shade, 0.9999), 1).astype(np.float32)
