"""A clip taken apart: the things that an edit moves, and the background without them. Nothing here is an edit's."""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import background, follow, keys, layers, masks, pictures
from motionv2v.draft.clip import Prepared
from motionv2v.draft.fill import Filler
from motionv2v.draft.given import Hint
from motionv2v.draft.layers import Layer
from motionv2v.draft.looks import Look
from motionv2v.stacks import Frames, Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

KEPT = 2**25
"""Bytes of maps of unsure pixels that are kept."""
AROUND = 1.5
"""Pixels around a thing that are removed with it: its soft edge."""


class Scene:
    """The things of a clip, where they are in each frame, and what is behind them.

    Attributes:
        clip: the clip. cameras: take each frame to the reference, [T 3 3]. things: as they move in the clip.
        masks, looks: of the things.
    """

    def __init__(
        self,
        clip: Prepared,
        source: Tracks,
        groups: Sequence[Sequence[int]],
        hints: Sequence[Hint | None] | None = None,
    ):
        """Take a clip apart; groups without a visible point are left out, see `names`."""
        self.clip, self.cameras = clip, clip.cameras
        made = [layers.make_layer(points, source, self.cameras) for points in groups]
        self.names = [index for index, thing in enumerate(made) if thing is not None]
        said = {place: hints[index] for place, index in enumerate(self.names) if hints and hints[index]}
        plate = clip.plate
        things = [follow.follow(clip, made[index], plate, self.cameras) for index in self.names]
        by_hand = {
            i: keys.carry(clip, things[i], hint, plate, self.cameras, partial(self._tell, i))
            for i, hint in said.items()
        }
        rest = [thing for i, thing in enumerate(things) if i not in by_hand]
        found = iter(masks.find_all(clip, rest, plate, self.cameras, [mask.by_frame for mask in by_hand.values()]))
        self.masks = [by_hand[i] if i in by_hand else next(found) for i in range(len(things))]
        for i in set(range(len(things))) - set(by_hand):
            self.masks[i].layer.there = follow.look_again(clip, self.masks[i], plate, self.cameras)
        self.covered = [mask.in_frames(clip) for mask in self.masks]
        for i in set(range(len(things))) - set(by_hand):
            for t in range(len(clip.frames)):
                self._tell(i, t, self.covered[i][t])
        if not clip.is_still and len(clip.frames) > 1:
            self._lay_on_the_plate()
        self.looks = [Look(mask, clip, self._by_others(index), self.behind) for index, mask in enumerate(self.masks)]
        self._unsure = stacks.Kept(self._find_unsure, KEPT)
        self._fillers: dict[tuple[int, ...], Filler] = {}
        self._plates: dict[tuple[int, ...], tuple[background.Plate, np.ndarray | Lazy, np.ndarray | Lazy]] = {}

    @property
    def things(self) -> list[Layer]:
        """Return the things as they move in the clip."""
        return [mask.layer for mask in self.masks]

    def _tell(self, thing: int, frame: int, mask: Bool[np.ndarray, "h w"]) -> None:
        if self.clip.watch is not None:
            self.clip.watch(self.names[thing], frame, mask)

    def _lay_on_the_plate(self) -> None:
        clip = self.clip
        gone, cameras = _around(clip, self.covered), clip.to_small(self.cameras)
        free = Frames(gone.shape, lambda t: ~gone[t])
        cameras = clip.register(background.Plate(clip.small, cameras, gone), cameras, free)
        self.cameras = pictures.scaling(1 / clip.scale) @ cameras @ pictures.scaling(clip.scale)

    def _by_others(self, index: int) -> Frames:
        """Return what the other things cover of each frame, bool [h w]."""
        others = [covered for other, covered in enumerate(self.covered) if other != index]
        nothing = np.zeros(self.clip.small_size, bool)
        whole = (len(self.clip.frames), *self.clip.small_size)
        return Frames(whole, lambda t: np.any([nothing, *(covered[t] for covered in others)], axis=0))

    def behind(self, q: int) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Return what is behind all things in a frame, at the working size, and where it is known."""
        view = np.linalg.inv(self.clip.to_small(self.cameras[q]))
        return self._plate(tuple(range(len(self.masks))))[0].seen_from(view, self.clip.small_size)

    def unsure(self, t: int) -> Float[np.ndarray, "h w"]:
        """Return how likely each pixel of a frame is on the wrong side of a mask's edge, at the working size."""
        return self._unsure(t)

    def _find_unsure(self, t):
        doubt = np.zeros(self.clip.small_size, np.float32)
        for mask in self.masks:
            if mask.layer.there[t]:
                odds = mask.in_frame(self.clip, t)[1]
                doubt = np.maximum(doubt, np.exp(-np.abs(odds)) * (odds > -3))
        return doubt

    def without(self, things: Sequence[int]) -> Filler:
        """Return what shows the clip without some of the things."""
        key = tuple(sorted(things))
        if key not in self._fillers:
            # An edit that leaves other things alone than the last one did is another edit.
            plate, gone, places = self._plate(key)
            self._fillers = {key: Filler(self.clip, plate, gone, self.cameras, places)}
        return self._fillers[key]

    def _plate(
        self, things: tuple[int, ...]
    ) -> tuple[background.Plate, Bool[np.ndarray, "T h w"] | Lazy, Bool[np.ndarray, "T h w"] | Lazy]:
        """Return the background at the working size without some of the things; what of these shows, and their places.

        The places, where other things may hide them, are what was left out of the background: what hides is none.
        """
        if things not in self._plates:
            gone = _around(self.clip, [self.covered[index] for index in things])
            cameras = self.clip.to_small(self.cameras)
            hidden = [mask.place for index in things if isinstance(mask := self.masks[index], keys.MaskByFrame)]
            # Other masks are whole.
            places = Frames(gone.shape, lambda t: np.any([gone[t], *(place[t] for place in hidden)], axis=0))
            self._plates[things] = background.Plate(self.clip.small, cameras, places, spread=True), gone, places
        return self._plates[things]


def _around(clip: Prepared, found: Sequence[Bool[np.ndarray, "T h w"] | Lazy]) -> Bool[np.ndarray, "T h w"] | Lazy:
    """Return where things and their soft edges are in the clip."""
    reach = round(AROUND * max(1.0, clip.scale))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    around = stacks.zeros((len(clip.frames), *clip.small_size), bool)
    nothing = np.zeros(clip.small_size, bool)
    for t in range(len(around)):
        whole = np.any([nothing, *(covered[t] for covered in found)], axis=0)
        around[t] = cv2.dilate(whole.astype(np.uint8), kernel) > 0
    return around
