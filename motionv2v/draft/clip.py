"""A clip as the draft looks at it: a working size, its dense flow, the camera's motion. Nothing here is an edit's."""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from motionv2v import progress, stacks
from motionv2v.draft import background, pictures
from motionv2v.stacks import Frames, Lazy
from motionv2v.trackers import classical
from motionv2v.typing import AnyArray, Bool, Float, UInt8

SHORT_SIDE = 240
"""Of the working size; smaller clips are looked at as they are, and those below `ENLARGED` by a whole factor larger."""
ENLARGED = 128
RESTS = 0.5
"""Pixels of the working size; a camera that never moves a corner of the frame further rests."""


class Prepared:
    """What does not depend on an edit. Everything is computed when it is first asked for, and kept.

    Attributes:
        frames: of the clip; size: theirs, (H, W). scale: of the working size to it. small_size: the working size.
        say: called with a line about how long the rest takes, where it takes long; None for nothing.
        watch: called with each mask [h w] of a thing as soon as it is known, (group, frame, mask); None for nothing.
    """

    def __init__(self, frames: AnyArray | stacks.Stored, say: Callable[[str], None] | None = None, keep: int = 1):
        """Raise ValueError for anything but uint8 [T H W 3] with pixels in it; `keep`: as `kept` says."""
        self.say = say
        frames = frames if isinstance(frames, stacks.Stored) else np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ValueError(f"a clip is uint8 [T H W 3] with T, H, W at least 1; got {frames.dtype} {frames.shape}")
        self.frames, self.size = frames, frames.shape[1:3]
        larger = classical.enlargement(self.size, ENLARGED)
        self.scale = float(larger) if larger > 1 else min(1.0, SHORT_SIDE / min(self.size))
        self.watch: Callable[[int, int, Bool[np.ndarray, "h w"]], None] | None = None
        self._kept: dict[Any, Any] = {}
        self._keep = keep
        self.small_size = tuple(round(side * self.scale) for side in self.size)

    def resized(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Bring a picture of the clip's size to the working size."""
        how = cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_AREA
        return cv2.resize(picture, self.small_size[::-1], interpolation=how)

    @cached_property
    def small(self) -> UInt8[np.ndarray, "T h w 3"] | Lazy:
        """Return the frames at the working size."""
        small = stacks.zeros((len(self.frames), *self.small_size, 3), np.uint8)
        for t, frame in enumerate(self.frames):
            small[t] = self.resized(frame)
        return small

    @cached_property
    def lab(self) -> Frames:
        """Return the colours of the frames at the working size, in Lab, float32 [h w 3] each."""
        lab = stacks.zeros(self.small.shape, np.uint8)
        for t, frame in enumerate(self.small):
            lab[t] = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
        return Frames(lab.shape, lambda t: lab[t].astype(np.float32))

    @cached_property
    def flows(self) -> tuple[Float[np.ndarray, "S h w 2"] | Lazy, Float[np.ndarray, "S h w 2"] | Lazy]:
        """DIS flow (Kroeger et al. 2016) from each frame to the next, and back, in pixels of the working size."""
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        shape = (len(self.frames) - 1, *self.small_size, 2)
        there, back = stacks.zeros(shape, np.float32), stacks.zeros(shape, np.float32)
        pairs = itertools.pairwise(self._grey)
        for t, (a, b) in zip(self.counted(range(len(there)), "flow from frame"), pairs, strict=True):
            there[t], back[t] = dis.calc(a, b, None), dis.calc(b, a, None)
        return there, back

    @property
    def _grey(self):
        return Frames((len(self.frames), *self.small_size), lambda t: cv2.cvtColor(self.small[t], cv2.COLOR_RGB2GRAY))

    @cached_property
    def cameras(self) -> Float[np.ndarray, "T 3 3"]:
        """Return what takes each frame to the reference, the first one, as far as the background's flow tells."""
        grey = self._grey
        texture = Frames(
            (len(grey) - 1, *self.small_size),
            lambda t: np.hypot(cv2.Sobel(grey[t], cv2.CV_32F, 1, 0), cv2.Sobel(grey[t], cv2.CV_32F, 0, 1)),
        )
        to_small, to_frame = pictures.scaling(self.scale), pictures.scaling(1 / self.scale)
        cameras = [np.eye(3)]
        shown = self.counted(texture, "camera of frame")
        for step in background.camera_steps(*self.flows, shown, self.small_size):
            cameras.append(cameras[-1] @ np.linalg.inv(to_frame @ step @ to_small))
        cameras = np.stack(cameras)
        if np.array_equal(cameras, np.broadcast_to(np.eye(3), cameras.shape)):
            return cameras
        small = self.to_small(cameras)
        free = Frames((len(cameras), *self.small_size), lambda t: np.ones(self.small_size, bool))
        small = self.register(background.Plate(self.small, small), small, free)
        height, width = self.small_size
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        away = max(float(np.linalg.norm(background.move(camera, corners) - corners, axis=1).max()) for camera in small)
        return np.stack([np.eye(3)] * len(small)) if away < RESTS else to_frame @ small @ to_small

    def register(
        self, plate: background.Plate, cameras: Float[np.ndarray, "T 3 3"], free: Frames
    ) -> Float[np.ndarray, "T 3 3"]:
        """Lay the frames on a plate at the working size, see `background.register`."""
        frames = self.counted(range(len(cameras)), "frame laid on the background:")
        return background.register(self.lab, plate, cameras, free, frames)

    def counted(self, parts: Any, what: str) -> Iterator[Any]:
        """Yield the parts of long work, one for each frame, and say how long the rest takes."""
        return progress.counted(parts, what, self.say)

    def to_small(self, matrix: Float[np.ndarray, "*T 3 3"]) -> Float[np.ndarray, "*T 3 3"]:
        """Return what a motion of the clip's pixels is at the working size."""
        return pictures.scaling(self.scale) @ matrix @ pictures.scaling(1 / self.scale)

    @cached_property
    def plate(self) -> background.Plate:
        """Return the background at the working size, with whatever rests in most frames."""
        return background.Plate(self.small, self.to_small(self.cameras))

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key, or make it: the clip taken apart stays while a path is bent.

        The last `keep` are kept.
        """
        found = self._kept.pop(key, None)
        if found is None:
            while len(self._kept) >= self._keep:
                self._kept.pop(next(iter(self._kept)))
            found = make()
        self._kept[key] = found
        return found

    def forget(self) -> None:
        """Let go of what was made for keys, which is an edit's; what is the clip's own stays."""
        self._kept.clear()

    @property
    def is_still(self) -> bool:
        """Tell whether the camera rests."""
        return bool(np.array_equal(self.cameras, np.broadcast_to(np.eye(3), self.cameras.shape)))

    def between(self, time: float) -> UInt8[np.ndarray, "H W 3"]:
        """Return the picture at a time between two frames, moved along the flow of both and blended."""
        t, share = int(np.floor(time)), np.float32(time - np.floor(time))
        if share < 0.03 or t + 1 >= len(self.frames):
            return self.frames[t].copy()
        if share > 0.97:
            return self.frames[t + 1].copy()
        y, x = np.mgrid[: self.size[0], : self.size[1]].astype(np.float32)

        def moved(frame, flow, by):
            flow = cv2.resize(flow, self.size[::-1]) / np.float32(self.scale)
            options = {"interpolation": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
            return cv2.remap(frame, x - by * flow[..., 0], y - by * flow[..., 1], **options).astype(np.float32)

        forward, backward = self.flows
        first = moved(self.frames[t], forward[t], share)
        second = moved(self.frames[t + 1], backward[t], 1 - share)
        return np.clip(first * (1 - share) + second * share + 0.5, 0, 255).astype(np.uint8)
