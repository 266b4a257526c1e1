"""A clip as the draft looks at it: a working size, its dense flow, the camera's motion. Nothing here is an edit's."""

import itertools
from collections.abc import Callable
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from motionv2v.draft import background, pictures
from motionv2v.trackers import classical
from motionv2v.typing import AnyArray, Float, UInt8

SHORT_SIDE = 240
"""Of the working size; smaller clips are looked at as they are, and those below `ENLARGED` by a whole factor larger."""
ENLARGED = 128
RESTS = 0.5
"""Pixels of the working size; a camera that never moves a corner of the frame further rests."""


class Prepared:
    """What does not depend on an edit. Everything is computed when it is first asked for, and kept.

    Attributes:
        frames: of the clip; size: theirs, (H, W). scale: of the working size to it. small_size: the working size.
    """

    def __init__(self, frames: AnyArray):
        """Raise ValueError for anything but uint8 [T H W 3] with pixels in it."""
        frames = np.asarray(frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ValueError(f"a clip is uint8 [T H W 3] with T, H, W at least 1; got {frames.dtype} {frames.shape}")
        self.frames, self.size = frames, frames.shape[1:3]
        larger = classical.enlargement(self.size, ENLARGED)
        self.scale = float(larger) if larger > 1 else min(1.0, SHORT_SIDE / min(self.size))
        self._kept: tuple[Any, Any] | None = None
        self.small_size = tuple(round(side * self.scale) for side in self.size)

    def resized(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Bring a picture of the clip's size to the working size."""
        how = cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_AREA
        return cv2.resize(picture, self.small_size[::-1], interpolation=how)

    @cached_property
    def small(self) -> UInt8[np.ndarray, "T h w 3"]:
        """Return the frames at the working size."""
        return np.stack([self.resized(frame) for frame in self.frames])

    @cached_property
    def lab(self) -> list[Float[np.ndarray, "h w 3"]]:
        """Return the colours of the frames at the working size, in Lab."""
        return [pictures.to_lab(frame) for frame in self.small]

    @cached_property
    def flows(self) -> tuple[list[Float[np.ndarray, "h w 2"]], list[Float[np.ndarray, "h w 2"]]]:
        """DIS flow (Kroeger et al. 2016) from each frame to the next, and back, in pixels of the working size."""
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        pairs = list(itertools.pairwise(self._grey))
        return [dis.calc(a, b, None) for a, b in pairs], [dis.calc(b, a, None) for a, b in pairs]

    @cached_property
    def _grey(self):
        return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.small]

    @cached_property
    def cameras(self) -> Float[np.ndarray, "T 3 3"]:
        """Return what takes each frame to the reference, the first one, as far as the background's flow tells."""
        texture = [np.hypot(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)) for g in self._grey[:-1]]
        to_small, to_frame = pictures.scaling(self.scale), pictures.scaling(1 / self.scale)
        cameras = [np.eye(3)]
        for step in background.camera_steps(*self.flows, texture):
            cameras.append(cameras[-1] @ np.linalg.inv(to_frame @ step @ to_small))
        cameras = np.stack(cameras)
        if np.array_equal(cameras, np.broadcast_to(np.eye(3), cameras.shape)):
            return cameras
        small = self.to_small(cameras)
        free = np.ones((len(cameras), *self.small_size), bool)
        small = background.register(self.lab, background.Plate(self.small, small), small, free)
        height, width = self.small_size
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        away = max(float(np.linalg.norm(background.move(camera, corners) - corners, axis=1).max()) for camera in small)
        return np.stack([np.eye(3)] * len(small)) if away < RESTS else to_frame @ small @ to_small

    def to_small(self, matrix: Float[np.ndarray, "*T 3 3"]) -> Float[np.ndarray, "*T 3 3"]:
        """Return what a motion of the clip's pixels is at the working size."""
        return pictures.scaling(self.scale) @ matrix @ pictures.scaling(1 / self.scale)

    @cached_property
    def plate(self) -> background.Plate:
        """Return the background at the working size, with whatever rests in most frames."""
        return background.Plate(self.small, self.to_small(self.cameras))

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key last time, or make it: the clip taken apart stays while a path is bent."""
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            self._kept = (key, make())
        return self._kept[1]

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
