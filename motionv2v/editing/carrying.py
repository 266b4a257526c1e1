"""Where things are in each frame, carried from what was said of some: on the way, stopped, and all the way through."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from motionv2v.draft import Hint
from motionv2v.editing import drafted
from motionv2v.typing import Bool, Float, UInt8


class StoppedError(ValueError):
    """Say that masks were carried through some frames, and then stopped."""


class Carried(NamedTuple):
    """Where things are: `masks` bool [T h w] of each at the draft's working size, and the `doubts` [T] of its frames.

    A doubt is 0 where something was said, and grows with what changed since (`drafted.doubts`); it is NaN where a mask
    was not carried to.
    """

    masks: list[Bool[np.ndarray, "T h w"]]
    doubts: list[Float[np.ndarray, "T"]]

    def labels(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """Return what is seen in a frame: 0 for no thing, else its place in the list from 1; the foremost counts."""
        return labelled([mask[frame] for mask in self.masks])


def labelled(masks: Sequence[Bool[np.ndarray, "h w"] | None]) -> UInt8[np.ndarray, "h w"]:
    """Return which mask of a frame is seen, as `Carried.labels`; None is a thing that has none there."""
    there = [mask for mask in masks if mask is not None]
    made = np.zeros(there[0].shape if there else (1, 1), np.uint8)
    for place in range(min(len(masks), 255) - 1, -1, -1):
        if masks[place] is not None:
            made[np.asarray(masks[place])] = place + 1
    return made


class Progress(NamedTuple):
    """How far masks are carried: `state` is "carrying", "stopped" or "done".

    `told`: [T], how often something came for each frame. `things`: what there is once it is no longer carried.
    `reached`: [T], whether all things have come to each frame.
    """

    state: str
    told: list[int]
    things: Carried
    reached: list[bool]


class Carrying:
    """Masks that are being carried for one edit: heard of as they come, until somebody stops it.

    Attributes:
        key: of the edit. order: its things, the foremost first. told: [T], how often something came for each frame.
        is_over: whether all has come, or was stopped. is_stopped: whether somebody wants no more.
    """

    def __init__(self, key: str, order: Sequence[int], num_frames: int):
        """Begin; nothing has come yet."""
        self.key, self.order, self.told = key, list(order), [0] * num_frames
        self.is_over = self.is_stopped = False
        self._found: dict[int, dict[int, Bool[np.ndarray, "h w"]]] = {thing: {} for thing in self.order}

    def hear(self, thing: int, frame: int, mask: Bool[np.ndarray, "h w"]) -> None:
        """Take the mask of a thing in a frame; raises StoppedError where no more are wanted."""
        if self.is_stopped:
            raise StoppedError(self.says())
        if thing in self._found:  # and not what may pass before them
            self._found[thing][frame] = mask
            self.told[frame] += 1

    def stop(self) -> None:
        """Let nothing more come."""
        self.is_stopped = True

    @property
    def reached(self) -> list[bool]:
        """Tell which frames all things have come to."""
        found = [self._found[thing] for thing in self.order]
        return [bool(found) and all(t in each for each in found) for t in range(len(self.told))]

    def says(self) -> str:
        """Tell how far it came, and what to do."""
        count = sum(self.reached)
        return f"the masks were carried to {count} of {len(self.told)} frames and stopped: show the masks to carry on"

    def mask(self, thing: int, frame: int) -> Bool[np.ndarray, "h w"] | None:
        """Return where a thing is in a frame; None before that came."""
        return self._found.get(thing, {}).get(frame)

    def labels(self, frame: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return what is seen in a frame, as `Carried.labels`; None before anything came for it."""
        if not self.told[frame]:
            return None
        return labelled([self._found[thing].get(frame) for thing in self.order])

    def carried(self, hints: Sequence[Hint | None]) -> Carried:
        """Return what has come: masks are empty, and doubts NaN, in the other frames."""
        masks, doubts = [], []
        size = next((mask.shape for found in self._found.values() for mask in found.values()), (1, 1))
        for thing in self.order:
            found = self._found[thing]
            mask = np.stack([found.get(t, np.zeros(size, bool)) for t in range(len(self.told))])
            said = [t for t in hint.frames if t in found] if (hint := hints[thing]) else []
            known = np.isin(np.arange(len(mask)), list(found))
            masks.append(mask)
            doubts.append(np.where(known, drafted.doubts(mask, said), np.float32(np.nan)))
        return Carried(masks, doubts)
