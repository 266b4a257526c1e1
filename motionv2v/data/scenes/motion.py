"""How synthetic scenes move: eased paths of sprites and of the camera, evaluated at any time.

A path is at its *anchor* pose at its anchor time and moves away from it on both sides: two motions with one anchor
share that frame, as the paper's counterfactuals share frames with their originals (section 3.2). Lengths are frame
heights, time is 0..1 over the clip, angles are radians.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from motionv2v.typing import Float

Affine = tuple[Float[np.ndarray, "T 2 2"], Float[np.ndarray, "T 2"]]
"""Per-frame maps p -> matrix @ p + offset."""


@dataclass(frozen=True)
class MotionPath:
    """A similarity's path: it moves by `travel`, sways, turns and zooms during `on`..`off`, and rests otherwise."""

    position: tuple[float, float]
    travel: tuple[float, float]
    sway: tuple[float, float]
    turn: float
    zoom: float
    on: float
    off: float
    anchor: float

    def pose(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate at times [T]: position [T 2], angle [T], scale [T]; angle 0 and scale 1 at the anchor."""
        now, then = self._progress(times), self._progress(np.asarray([self.anchor]))
        wave, wave_then = np.sin(2 * np.pi * now), np.sin(2 * np.pi * then)
        position = np.asarray(self.position) + np.outer(now - then, self.travel) + np.outer(wave - wave_then, self.sway)
        return position, self.turn * (now - then), np.exp(self.zoom * (now - then))

    def _progress(self, times: np.ndarray) -> np.ndarray:
        """Return the share of the way made, 0..1: constant outside on..off, so motion starts and stops midway."""
        return np.clip((times - self.on) / (self.off - self.on), 0, 1)


@dataclass(frozen=True)
class Motion:
    """The camera's path, one path per sprite, the times at which frames are taken, and an optional sliding crop."""

    camera: MotionPath
    sprites: tuple[MotionPath, ...]
    times: np.ndarray | None = None
    crop: MotionPath | None = None

    def frame_times(self, num_frames: int) -> np.ndarray:
        """Return the scene time of each frame [T]: 0..1 evenly, unless the motion is retimed."""
        return np.linspace(0, 1, num_frames) if self.times is None else self.times

    def screen_to_world(self, num_frames: int, aspect: float) -> Affine:
        """Return per-frame maps from the screen to the world, the sliding crop (paper, supplement) included."""
        centre = np.array([aspect / 2, 0.5])
        position, angle, scale = self.camera.pose(self.frame_times(num_frames))
        matrix = _rotation(angle) * scale[:, None, None]
        offset = centre + position - np.einsum("tij,j->ti", matrix, centre)
        if self.crop is None:
            return matrix, offset
        # The crop slides in frame time, whatever the scene's own times are.
        position, angle, scale = self.crop.pose(np.linspace(0, 1, num_frames))
        crop = _rotation(angle) * scale[:, None, None]
        crop_offset = centre + position - np.einsum("tij,j->ti", crop, centre)
        return np.einsum("tij,tjk->tik", matrix, crop), np.einsum("tij,tj->ti", matrix, crop_offset) + offset

    def world_to_sprite(self, index: int, radius: float, num_frames: int) -> Affine:
        """Return per-frame maps from the world to the unit coordinates of sprite `index`."""
        position, angle, scale = self.sprites[index].pose(self.frame_times(num_frames))
        matrix = _rotation(-angle) / (radius * scale)[:, None, None]
        return matrix, -np.einsum("tij,tj->ti", matrix, position)


def _rotation(angle: np.ndarray) -> Float[np.ndarray, "T 2 2"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def random_motion(
    rng: np.random.Generator, sprites: tuple[Any, ...], config: Any, anchored_to: Motion | None = None
) -> Motion:
    """Draw a motion for every sprite and the camera.

    With `anchored_to`, a quarter of the sprites keep that motion's pose at its anchor time; the others move freely.
    `config` is a `pairs.SceneConfig`.
    """
    aspect = config.size[1] / config.size[0]
    paths = []
    for index, sprite in enumerate(sprites):
        base = None if anchored_to is None else anchored_to.sprites[index]
        paths.append(_random_sprite_path(rng, sprite.radius, aspect, config, base))
    return Motion(random_camera(rng, config), tuple(paths))


def _random_sprite_path(
    rng: np.random.Generator, radius: float, aspect: float, config: Any, base: MotionPath | None
) -> MotionPath:
    anchor, position = float(rng.uniform(0, 1)), rng.uniform(0.15, 0.85, 2) * (aspect, 1)
    if base is not None and rng.random() < 0.25:
        anchor, position = base.anchor, np.asarray(base.position)
    on, off = _random_window(rng)
    direction = rng.uniform(0, 2 * np.pi)
    # Per time moved: a short window must not make it dash.
    length = config.speed * (off - on) * rng.uniform(0.4, 1)
    travel = length * np.array([np.cos(direction), np.sin(direction)])
    if rng.random() < 0.2:
        # It enters after the first frame: travels from beyond a side border to its anchor, which it reaches late.
        anchor = float(rng.uniform(0.7, 1))
        side = -1 if position[0] < aspect / 2 else 1
        gap = position[0] + radius * 1.5 if side < 0 else aspect + radius * 1.5 - position[0]
        progress = np.clip((anchor - on) / (off - on), 0.3, 1)
        travel = np.array([-side * gap / progress, travel[1] * 0.3])
    elif position @ travel > travel @ np.array([aspect, 1]) / 2:
        # A path through the middle keeps the sprite on the canvas most of the time.
        travel = -travel if anchor < 0.5 else travel
    sway = rng.normal(0, 0.06, 2) * (rng.random() < 0.4)
    turn = config.turn * rng.uniform(-1, 1) * (rng.random() < 0.6)
    zoom = config.zoom * rng.uniform(-1, 1) * (rng.random() < 0.4)
    return MotionPath(tuple(position), tuple(travel), tuple(sway), float(turn), float(zoom), on, off, anchor)


def _random_window(rng: np.random.Generator) -> tuple[float, float]:
    """Draw when motion starts and stops: all the clip for half of them, else midway on one or both sides."""
    on = float(rng.uniform(0, 0.5)) if rng.random() < 0.3 else 0.0
    off = float(rng.uniform(0.55, 1)) if rng.random() < 0.3 else 1.0
    return on, off


def random_camera(
    rng: np.random.Generator, config: Any, always: bool = False, anchor: float | None = None
) -> MotionPath:
    """Draw a camera path: still for a share of scenes, else a pan with a little turn and zoom."""
    anchor = float(rng.uniform(0, 1)) if anchor is None else anchor
    on, off = _random_window(rng)
    if not always and rng.random() >= config.moving_camera:
        return MotionPath((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, on, off, anchor)
    direction = rng.uniform(0, 2 * np.pi)
    travel = config.camera_speed * (off - on) * rng.uniform(0.2, 1) * np.array([np.cos(direction), np.sin(direction)])
    turn = 0.25 * config.turn * rng.uniform(-1, 1) * (rng.random() < 0.3)
    zoom = config.zoom * rng.uniform(-1, 1) * (rng.random() < 0.3)
    return MotionPath((0.0, 0.0), tuple(travel), (0.0, 0.0), float(turn), float(zoom), on, off, anchor)


def random_crop(rng: np.random.Generator) -> MotionPath:
    """Draw a sliding crop that zooms in to 0.55..1 of the frame and stays inside it at both ends."""
    start, end = 1 - 0.45 * rng.uniform(0, 1, 2)
    room = 0.5 * (1 - max(start, end))
    first, last = rng.uniform(-room, room, (2, 2))
    # The path is measured from its anchor (time 0): scale `start` there is starting from a shifted, scaled pose.
    zoom = float(np.log(end / start))
    return _ScaledPath(tuple(first), tuple(last - first), (0.0, 0.0), 0.0, zoom, 0.0, 1.0, 0.0, float(start))


@dataclass(frozen=True)
class _ScaledPath(MotionPath):
    """A path whose scale at the anchor is not one."""

    start_scale: float = 1.0

    def pose(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate like `MotionPath.pose`, with the scale multiplied by `start_scale`."""
        position, angle, scale = super().pose(times)
        return position, angle, scale * self.start_scale
