"""Puts frames of an edit together: the background as its camera sees it, and its things, from back to front."""

from dataclasses import dataclass

import cv2
import numpy as np

from motionv2v.draft import background, pictures
from motionv2v.draft.choice import Choice
from motionv2v.draft.clip import Prepared
from motionv2v.draft.layers import Layer
from motionv2v.draft.looks import Cutout
from motionv2v.draft.scene import Scene
from motionv2v.typing import Bool, Float, Int, UInt8

BEYOND = 0.2
"""Doubt of what comes from outside of the frame, by the plate."""
FAR_OFF, FREE_ZOOM, ALONE = 6.0, 0.4, 0.25
"""Pixels at 480 rows that a thing's points may be off; zoom (logarithm) that costs nothing; doubt of one point."""


class Painter:
    """Puts frames of an edit together.

    `choices`: from where each thing is drawn. `stays`: which the edit moves as it moves the background; they are left
    in the background's picture. `order`: of the things, from back to front.
    """

    def __init__(self, scene: Scene, choices: list[Choice], stays: list[bool], order: list[int]):
        self.scene, self.choices, self.stays, self.order = scene, choices, stays, order
        self.filler = scene.without([index for index, stay in enumerate(stays) if not stay])

    def draw(
        self, t: int, view: Float[np.ndarray, "3 3"], base: int
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"], Int[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        """Draw frame t of the edit: its picture, what was made up, which thing is where, and how unsure that is.

        `view`: from the reference to it. `base`: the frame of the clip that shows its background.
        """
        clip, size = self.scene.clip, self.scene.clip.size
        picture, replaced, hole, doubt = self.filler.fill(base)
        unsure = np.maximum(doubt, self.scene.unsure(base) * (self.filler.gone[base].any()))
        unsure = cv2.resize(unsure, size[::-1], interpolation=cv2.INTER_LINEAR)
        way = view @ self.scene.cameras[base]
        if np.abs(way - np.eye(3)).max() >= 1e-9:
            cubic = {"interpolation": cv2.INTER_CUBIC, "border": cv2.BORDER_REPLICATE}
            picture = pictures.warp(picture, way, size, **cubic)
            outside = ~pictures.inside(size, way, size)
            unsure = np.where(outside, BEYOND, pictures.warp(unsure, way, size))
            hole = pictures.warp(hole.astype(np.uint8) * 255, way, size) > 127
            replaced = outside | (pictures.warp(replaced.astype(np.uint8) * 255, way, size) > 20)
            if outside.any():
                behind, known = self.filler.native.seen_from(view, size)
                picture[outside] = behind[outside]
                hole |= outside & ~known
        unsure = np.where(hole, 1, unsure).astype(np.float32)
        frame = _Frame(picture.copy(), hole.copy(), np.zeros(size, np.int16), unsure)
        for index in self.order:
            choice, thing = self.choices[index], self.scene.things[index]
            q = int(choice.frame[t])
            cut = self.scene.looks[index].cut(q) if thing.there[q] else None
            if cut is None:
                continue
            # Drawn at the working size where that is larger, so that edges are averaged over pixels.
            larger = max(1, round(clip.scale))
            only_where = replaced if self.stays[index] else None
            frame.lay(cut, choice.matrix(t), index + 1, _doubt_of(choice, t, thing, clip), larger, only_where)
        return frame.picture, frame.hole, frame.owner, np.clip(frame.unsure, 0, 1)


def _doubt_of(choice: Choice, t: int, thing: Layer, clip: Prepared) -> float:
    """Return how unsure the place and shape of a whole thing is in a frame of the edit."""
    off = min(1.0, float(choice.off[t]) * 480 / clip.size[0] / FAR_OFF)
    stretch = min(1.0, max(0.0, abs(np.log(abs(choice.factor[t]))) - FREE_ZOOM) / FREE_ZOOM)
    alone = ALONE if len(thing.points) == 1 else 0.0
    return 1 - (1 - 0.6 * off) * (1 - 0.5 * stretch) * (1 - alone)


@dataclass
class _Frame:
    """A frame in the making: see `Draft`."""

    picture: UInt8[np.ndarray, "H W 3"]
    hole: Bool[np.ndarray, "H W"]
    owner: Int[np.ndarray, "H W"]
    unsure: Float[np.ndarray, "H W"]

    def lay(
        self,
        cut: Cutout,
        matrix: Float[np.ndarray, "3 3"],
        name: int,
        doubt: float,
        larger: int,
        only_where: Bool[np.ndarray, "H W"] | None,
    ) -> None:
        """Lay a cut-out on it, moved by `matrix`."""
        matrix = pictures.scaling(larger) @ matrix @ cut.to_frame
        height, width = cut.alpha.shape
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        there = background.move(matrix, corners) / larger
        limits = self.owner.shape[::-1]
        low, high = np.floor(there.min(axis=0)) - 1, np.ceil(there.max(axis=0)) + 1
        (left, top), (right, bottom) = (np.clip(ends, 0, limits).astype(int).tolist() for ends in (low, high))
        if left >= right or top >= bottom:
            return
        box, size = (slice(top, bottom), slice(left, right)), (bottom - top, right - left)
        matrix = pictures.shifting(-left * larger, -top * larger) @ matrix
        whole = tuple(side * larger for side in size)
        alpha, unsure = (pictures.warp(part, matrix, whole) for part in (cut.alpha, cut.doubt))
        colours = pictures.warp(cut.colours, matrix, whole, interpolation=cv2.INTER_CUBIC, border=cv2.BORDER_REPLICATE)
        if larger > 1:
            parts = (alpha, unsure, colours)
            alpha, unsure, colours = (cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA) for part in parts)
        if only_where is not None:  # it is there already, but for where something else was taken away or put
            alpha = alpha * (only_where[box] | (self.owner[box] > 0))
        below = self.picture[box].astype(np.float32)
        mixed = below
        if cut.shade is not None and only_where is None:
            shade = pictures.warp(cut.shade, matrix, whole, value=1.0)
            mixed = mixed * cv2.resize(shade, size[::-1], interpolation=cv2.INTER_AREA)[..., None]
        mixed = mixed + alpha[..., None] * (colours - mixed)
        touched = np.abs(mixed - below).max(axis=-1) > 0.5
        drawn = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
        self.picture[box] = np.where(touched[..., None], drawn, self.picture[box])
        self.owner[box][alpha > 0.5] = name
        self.hole[box] &= alpha < 0.9
        covered = self.unsure[box] * (1 - alpha) + alpha * doubt
        self.unsure[box] = np.maximum(covered, unsure)
