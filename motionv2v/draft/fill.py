"""What lies behind things that are taken away: from the plate where it fits, else from the frames before and after.

The plate is believed where the frame around the hole agrees with it, and brought to the frame's light. Elsewhere,
behind things that move themselves, a hole is filled along the flow: the flow around the hole is continued into it, and
each pixel goes with it from frame to frame, both ways, until a frame shows it (Xu et al. 2019, 1905.02884, section 3,
without their networks). Places travel, not colours, so what arrives is sharp.
"""

import cv2
import numpy as np

from motionv2v.draft import pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.typing import Bool, Float, UInt8

FURTHEST = 24
"""Frames that a pixel may come from along the flow."""
AGREES, DIFFERS = 5.0, 11.0
"""Distances in Lab between frame and plate around a hole: up to the one the plate is taken, from the other the flow."""
RING = 0.03
"""Around a hole, in the shorter side, that is compared with the plate."""
GROW = 0.02
"""How far beyond its mask what a thing leaves behind (its soft edge, its shadow) is looked for, in the shorter side."""
LEFT_OVER = 7.0
"""Distance in Lab to the plate from which on a pixel beside a mask is taken away too, where the plate agrees around."""

DISAGREES = 16.0
"""Levels by which frames are off the plate on average where it is worth nothing: what moves there was not found."""


class Filler:
    """Fills what was taken away from the frames of a clip.

    Attributes:
        gone: bool [T h w], what is taken away from each frame, at the working size.
    """

    def __init__(
        self,
        clip: Prepared,
        plate: Plate,
        gone: Bool[np.ndarray, "T h w"],
        cameras: Float[np.ndarray, "T 3 3"],
        places: Bool[np.ndarray, "T h w"] | None = None,
    ):
        """`plate`: of the clip at the working size, without what is gone, and without its `places` where it is hidden.

        What hides a thing is no background either.
        """
        self.clip, self.plate, self.cameras = clip, plate, cameras
        self.gone, self.places = gone.copy(), np.zeros_like(gone) if places is None else places
        self._seen, self._trust = [], []
        for t in range(len(gone)):
            self._compare(t)
        self._frame, self._place, self._steps = self._along_flow()

    def _compare(self, t: int) -> None:
        """Find how far the plate can be trusted in a frame's holes, and take away what things leave around them."""
        clip, size, gone = self.clip, self.clip.small_size, self.gone[t]
        seen = None
        trust = np.zeros(size, np.float32)
        if gone.any():
            seen, known = self.plate.seen_from(np.linalg.inv(clip.to_small(self.cameras[t])), size)
            off = pictures.distance(clip.lab[t], pictures.to_lab(seen))
            ring = _around(gone, RING * min(size)) & ~gone & known
            near = _around(gone, GROW * min(size)) & known
            # Light that changes as a whole is no difference.
            if ring.sum() >= 20:
                trust = np.where(known, _continued(off, ring)[..., 0], DIFFERS)
                trust = np.clip((DIFFERS - trust) / (DIFFERS - AGREES), 0, 1).astype(np.float32)
                left = near & (off > LEFT_OVER) & (trust > 0.5)
                _, parts = cv2.connectedComponents((left | gone).astype(np.uint8))
                self.gone[t] = gone | (left & np.isin(parts, np.unique(parts[gone])))
            else:
                trust = known.astype(np.float32)
        self._seen.append(seen)
        self._trust.append(trust)

    def _along_flow(self):
        """Return for each pixel of the holes the frame that shows it, its place there, and over how many frames."""
        count, (height, width) = len(self.gone), self.clip.small_size
        frame = np.full((2, *self.gone.shape), -1, np.int16)
        steps = np.full((2, *self.gone.shape), FURTHEST + 1, np.int16)
        place = np.zeros((2, *self.gone.shape, 2), np.float32)
        for way, (order, step) in enumerate(((range(count - 2, -1, -1), 1), (range(1, count), -1))):
            for t in order:
                hole = self.gone[t] | self.places[t]
                if not hole.any():
                    continue
                flow = self.clip.flows[0][t] if step == 1 else self.clip.flows[1][t - 1]
                clear = ~_around(hole, 2.0)
                y, x = np.nonzero(hole)
                moved = _continued(flow, clear)[y, x] if clear.any() else flow[y, x]
                there = np.stack([x, y], axis=-1) + moved
                at = np.round(there).astype(int)
                inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
                y, x, there, at = y[inside], x[inside], there[inside], at[inside]
                next_hole = (self.gone[t + step] | self.places[t + step])[at[:, 1], at[:, 0]]
                came = frame[way, t + step, at[:, 1], at[:, 0]]
                far = steps[way, t + step, at[:, 1], at[:, 0]] + 1
                by = there - at + place[way, t + step, at[:, 1], at[:, 0]]
                found = ~next_hole | ((came >= 0) & (far <= FURTHEST))
                frame[way, t, y, x] = np.where(found, np.where(next_hole, came, t + step), -1)
                steps[way, t, y, x] = np.where(found, np.where(next_hole, far, 1), FURTHEST + 1)
                place[way, t, y, x] = np.where(next_hole[:, None], by, there)
        later = steps[0] <= steps[1]
        return (
            np.where(later, frame[0], frame[1]),
            np.where(later[..., None], place[0], place[1]),
            np.where(later, steps[0], steps[1]),
        )

    def fill(
        self, t: int
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W"], Bool[np.ndarray, "H W"], Float[np.ndarray, "h w"]]:
        """Return a frame without what was taken away, and how much of each pixel was replaced.

        Then what no frame shows, and doubt [h w]: 0 for what is sure, 1 for what was made up.
        """
        clip, gone = self.clip, self.gone[t]
        size = clip.size
        nothing = np.zeros(size, np.float32)
        if not gone.any():
            return clip.frames[t], nothing, nothing > 0, np.zeros(gone.shape, np.float32)
        share = cv2.resize(gone.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        share = np.clip(2.5 * share, 0, 1)  # whole where it was taken away, soft outside
        box = pictures.extent(share > 0)
        picture, known = self._from_plate(t, box)
        trust = cv2.resize(self._trust[t], size[::-1], interpolation=cv2.INTER_LINEAR)[box]
        trust = np.where(known, trust, 0)
        steps = self._steps[t]
        reached = (
            cv2.resize((gone & (self._frame[t] >= 0)).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)[
                box
            ]
            > 0
        )
        if (trust < 1).any() and reached.any():
            moved = self._from_frames(t, box)
            weight = np.where(reached, np.where(known, 1 - trust, 1), 0)[..., None]
            picture = picture + weight * (moved - picture)
        hole = (share[box] > 0) & ~known & ~reached
        frame = clip.frames[t].copy()
        a = share[box][..., None]
        frame[box] = np.clip(frame[box] * (1 - a) + picture * a + 0.5, 0, 255).astype(np.uint8)
        whole = np.zeros(size, bool)
        whole[box] = hole
        by_flow = np.where(self._frame[t] >= 0, np.minimum(0.1 + 0.03 * steps, 1), 1.0)
        view = clip.to_small(np.linalg.inv(self.cameras[t])) @ np.linalg.inv(self.plate.to_canvas)
        spread = np.minimum(pictures.warp(self.plate.spread, view, gone.shape) / DISAGREES, 1)
        by_plate = np.maximum(0.1, spread)
        doubt = np.where(gone, self._trust[t] * by_plate + (1 - self._trust[t]) * by_flow, 0)
        return frame, share, whole, doubt.astype(np.float32)

    def _from_plate(self, t, box):
        """Return what the plate has in a box of a frame, in the frame's light, and where it is known."""
        clip = self.clip
        y, x = box[0].start, box[1].start
        size = (box[0].stop - y, box[1].stop - x)
        view = pictures.shifting(-x, -y) @ np.linalg.inv(self.cameras[t])
        native = self.native
        picture, known = native.seen_from(view, size)
        picture = picture.astype(np.float32)
        if self._seen[t] is not None:
            gone = self.gone[t]
            off = clip.small[t].astype(np.float32) - self._seen[t]
            ring = _around(gone, RING * min(clip.small_size)) & ~gone & (np.abs(off).max(axis=-1) < 20)
            if ring.sum() >= 20:
                light = cv2.GaussianBlur(_continued(off, ring), (0, 0), 2.0)
                picture += cv2.resize(light, clip.size[::-1], interpolation=cv2.INTER_LINEAR)[box]
        return picture, known

    @property
    def native(self) -> Plate:
        """Return the plate in the clip's own pixels."""
        if not hasattr(self, "_native"):
            covered = np.zeros(self.clip.frames.shape[:3], bool)
            for t, gone in enumerate(self.gone | self.places):
                covered[t] = cv2.resize(gone.astype(np.uint8), self.clip.size[::-1], interpolation=cv2.INTER_LINEAR) > 0
            self._native = Plate(self.clip.frames, self.cameras, covered)
        return self._native

    def _from_frames(self, t, box):
        """Return what arrives along the flow in a box of a frame."""
        clip = self.clip
        gone = self.gone[t]
        valid = gone & (self._frame[t] >= 0)
        size, scale = clip.size, clip.scale
        y, x = np.mgrid[box].astype(np.float32)
        small_y, small_x = np.nonzero(valid)
        offset = np.zeros((*gone.shape, 2), np.float32)
        offset[valid] = self._place[t][valid] - np.stack([small_x, small_y], axis=-1)
        offset = _continued(offset, valid)
        offset = cv2.resize(offset, size[::-1], interpolation=cv2.INTER_LINEAR)[box] / np.float32(scale)
        source = pictures.spread(self._frame[t], valid)
        source = cv2.resize(source, size[::-1], interpolation=cv2.INTER_NEAREST)[box]
        picture = np.zeros((*source.shape, 3), np.float32)
        for q in np.unique(source):
            here = source == q
            shown = cv2.remap(
                clip.frames[q], x + offset[..., 0], y + offset[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
            picture[here] = shown[here]
        return picture


def _around(mask: Bool[np.ndarray, "h w"], reach: float) -> Bool[np.ndarray, "h w"]:
    """Return a mask grown by some pixels."""
    size = 2 * max(1, round(reach)) + 1
    return cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0


def _continued(values: Float[np.ndarray, "h w *C"], known: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w C"]:
    """Return values continued smoothly to where they are not known."""
    return pictures.complete_values(values.reshape(*known.shape, -1), known)
