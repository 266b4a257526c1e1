"""What lies behind things that are taken away: from the plate where it fits, else from the frames before and after.

The plate is believed where the frame around the hole agrees with it, and brought to the frame's light. Elsewhere,
behind things that move themselves, a hole is filled along the flow: the flow around the hole is continued into it, and
each pixel goes with it from frame to frame, both ways, until a frame shows it (Xu et al. 2019, 1905.02884, section 3,
without their networks). Places travel, not colours, so what arrives is sharp. What no frame shows is made up on the
plate, of its own `texture`, so that all frames have the same there.
"""

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import pictures, texture
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.stacks import Frames, Lazy
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
KEPT = 2**27
"""Bytes of filled frames that are kept; 49 frames of 480x720 take less."""
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
        gone: Bool[np.ndarray, "T h w"] | Lazy,
        cameras: Float[np.ndarray, "T 3 3"],
        places: Bool[np.ndarray, "T h w"] | Lazy | None = None,
    ):
        """`plate`: of the clip at the working size, without what is gone, and without its `places` where it is hidden.

        What hides a thing is no background either.
        """
        self.clip, self.plate, self.cameras = clip, plate, cameras
        self.gone, self.places = stacks.zeros(gone.shape, bool), gone if places is None else places
        self._seen, self._trust = stacks.zeros((*gone.shape, 3), np.uint8), stacks.zeros(gone.shape, np.float32)
        for t in clip.counted(range(len(gone)), "ground behind frame"):
            self._compare(t, gone[t])
        self._frame, self._steps = (stacks.zeros(gone.shape, np.int16) for _ in range(2))
        self._place = stacks.zeros((*gone.shape, 2), np.float32)
        self._along_flow()
        self._filled = stacks.Kept(self._fill, KEPT)

    def _compare(self, t: int, gone: Bool[np.ndarray, "h w"]) -> None:
        """Find how far the plate can be trusted in a frame's holes, and take away what things leave around them."""
        clip, size = self.clip, self.clip.small_size
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
                gone = gone | (left & np.isin(parts, np.unique(parts[gone])))
            else:
                trust = known.astype(np.float32)
            self.gone[t], self._seen[t], self._trust[t] = gone, seen, trust

    def _hole(self, t):
        """Return what of a frame is not to be taken."""
        return self.gone[t] | self.places[t]

    def _along_flow(self):
        """Find for each pixel of the holes the frame that shows it, its place there, and over how many frames."""
        count, size = len(self.gone), self.clip.small_size
        for step, order in ((1, range(count - 1, -1, -1)), (-1, range(count))):
            frame = steps = place = None
            for t in self.clip.counted(order, "ground along the flow, frame"):
                before = frame, steps, place
                frame, steps = np.full(size, -1, np.int16), np.full(size, FURTHEST + 1, np.int16)
                place = np.zeros((*size, 2), np.float32)
                if before[0] is not None and self._hole(t).any():
                    self._go_along(t, step, before, (frame, steps, place))
                if step == 1:
                    self._frame[t], self._steps[t], self._place[t] = frame, steps, place
                    continue
                later = self._steps[t] <= steps
                self._frame[t] = np.where(later, self._frame[t], frame)
                self._place[t] = np.where(later[..., None], self._place[t], place)
                self._steps[t] = np.where(later, self._steps[t], steps)

    def _go_along(self, t, step, before, found):
        """Find where the holes of a frame go in the next one, or the last one, of which the same was found `before`."""
        hole, (height, width) = self._hole(t), self.clip.small_size
        flow = self.clip.flows[0][t] if step == 1 else self.clip.flows[1][t - 1]
        clear = ~_around(hole, 2.0)
        y, x = np.nonzero(hole)
        moved = _continued(flow, clear)[y, x] if clear.any() else flow[y, x]
        there = np.stack([x, y], axis=-1) + moved
        at = np.round(there).astype(int)
        inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
        y, x, there, at = y[inside], x[inside], there[inside], at[inside]
        next_hole = self._hole(t + step)[at[:, 1], at[:, 0]]
        came, far, place = (part[at[:, 1], at[:, 0]] for part in before)
        far, by = far + 1, there - at + place
        is_found = ~next_hole | ((came >= 0) & (far <= FURTHEST))
        frame, steps, place = found
        frame[y, x] = np.where(is_found, np.where(next_hole, came, t + step), -1)
        steps[y, x] = np.where(is_found, np.where(next_hole, far, 1), FURTHEST + 1)
        place[y, x] = np.where(next_hole[:, None], by, there)

    def fill(
        self, t: int
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"], Float[np.ndarray, "h w"]]:
        """Return a frame without what was taken away, and which pixels were replaced.

        Then what no frame shows, and doubt [h w]: 0 for what is sure, 1 for what was made up. It is the same wherever
        an edit puts things, and kept while a path is bent.
        """
        return self._filled(t)

    def _fill(self, t):
        clip, gone = self.clip, self.gone[t]
        size = clip.size
        if not gone.any():
            nothing = np.zeros(size, bool)
            return clip.frames[t], nothing, nothing, np.zeros(gone.shape, np.float32)
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
        return frame, share > 0.02, whole, doubt.astype(np.float32)

    def _from_plate(self, t, box):
        """Return what the plate has in a box of a frame, in the frame's light, and where it is known."""
        clip = self.clip
        y, x = box[0].start, box[1].start
        size = (box[0].stop - y, box[1].stop - x)
        view = pictures.shifting(-x, -y) @ np.linalg.inv(self.cameras[t])
        native = self.native
        picture, known = native.seen_from(view, size)
        picture = picture.astype(np.float32)
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
            wide = self.clip.size[::-1]
            covered = Frames(
                self.clip.frames.shape[:3],
                lambda t: cv2.resize(self._hole(t).astype(np.uint8), wide, interpolation=cv2.INTER_LINEAR) > 0,
            )
            self._native = Plate(self.clip.frames, self.cameras, covered)
            if self.clip.scale <= 1:  # smaller clips are looked at enlarged, and show no texture
                self._native.picture = texture.complete(self._native.picture, self._native.known)
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
