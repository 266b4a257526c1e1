"""Scenes on which point trackers are measured: textured like photographs, with exact tracks and exact visibility.

The scenes of `data/scenes/pairs.py` are smooth, so that a small model can draw them: a tracker has nothing to hold on
to. These are layers of "dead leaves" (Matheron 1968; Lee, Mumford and Huang 2001: discs of all sizes that cover one
another have the edges and the spectrum of natural pictures). A background and a number of irregular sprites, each with
a path, a rotation and a change of size of its own, move under a camera that pans, turns and zooms; nearer sprites move
more under it. The frames get a slow change of brightness and noise.

A layer is a texture whose frame t is mapped to the screen by a similarity. A point rests in its layer, so its path is
exact, and it is visible where it lies in the frame and no higher sprite's outline contains it. Sprites' outlines are
r(angle) = radius * (1 + a few waves). Everything is drawn from numpy's default_rng([seed, index]).

Units: pixels of the frames, (0, 0) the corner of the top-left pixel; angles in radians.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v.tracks import Tracks, inside
from motionv2v.typing import AnyArray, Bool, Float, Int, UInt8

_WAVES = np.arange(2, 6)  # of a sprite's outline, per turn


@dataclass(frozen=True)
class Difficulty:
    """How hard a scene is.

    Attributes:
        num_frames, size: frames T and (H, W) in pixels. num_points: tracks N, each visible in a random frame at least.
        num_sprites: how many there are. radius: range of their mean radius in frame heights.
        speed: mean distance in frame heights that a sprite travels over the clip; sway: amplitude of a wave on top.
        turn: largest rotation in radians over the clip; zoom: largest log change of size over the clip. The camera
            travels `camera` frame heights, and turns and zooms by a quarter of the sprites' amounts.
        gain: amplitude of the slow relative change of brightness. noise: standard deviation in grey values (0 to 255).
        sprite_points: share of the points that are put on sprites on purpose; the others fall anywhere in the frame.
    """

    num_frames: int = 49
    size: tuple[int, int] = (480, 720)
    num_points: int = 256
    num_sprites: int = 5
    radius: tuple[float, float] = (0.08, 0.17)
    speed: float = 0.4
    sway: float = 0.06
    turn: float = 0.8
    zoom: float = 0.25
    camera: float = 0.08
    gain: float = 0.1
    noise: float = 4.0
    sprite_points: float = 0.3


DIFFICULTIES = {
    "moderate": Difficulty(),
    "hard": Difficulty(
        radius=(0.09, 0.18), speed=1.2, sway=0.12, turn=2.0, zoom=0.5, camera=0.25, gain=0.2, noise=6.0,
        sprite_points=0.4,
    ),
}  # fmt: skip
"""Named difficulties."""


class Scene(NamedTuple):
    """Frames uint8 [T H W 3], the exact tracks of N points, and for each a query (t, x, y) at which it is visible."""

    frames: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks
    queries: Float[np.ndarray, "N 3"]


class _Layer(NamedTuple):
    """A texture, an outline (None: everywhere) and the similarities that map its pixels to the screen's."""

    texture: UInt8[np.ndarray, "h w 3"]
    outline: tuple[Float[np.ndarray, "..."], ...] | None
    matrices: Float[np.ndarray, "T 2 3"]


def make_scene(difficulty: Difficulty | str, seed: int, index: int = 0) -> Scene:
    """Draw one scene, deterministic in (difficulty, seed, index).

    `difficulty` may be a name of `DIFFICULTIES`; raises ValueError for one that is not there.
    """
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}; available: {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    rng = np.random.default_rng([seed, index])
    camera = _camera(rng, difficulty)
    layers = [_background(rng, difficulty, camera)]
    layers += [_sprite(rng, difficulty, camera) for _ in range(difficulty.num_sprites)]
    tracks, queries = _points(rng, difficulty, layers)
    return Scene(_draw(rng, difficulty, layers), tracks, queries)


def dead_leaves(rng: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a picture of size (H, W) of discs of all sizes that cover one another, each with a fine grain of its own."""
    height, width = size
    # Radii with density r^-3 between 6 pixels and half the short side: the picture looks alike at every scale. Together
    # the discs would cover 1.5 pictures.
    low, high = 6.0, min(size) / 2
    count = int(1.5 * height * width / (2 * np.pi * low**2 * np.log(high / low)))
    radius = low / np.sqrt(1 - rng.random(count) * (1 - (low / high) ** 2))
    centre = rng.uniform((0, 0), (width, height), (count, 2))
    color = np.clip(rng.normal(120, 22, (count, 1)) + rng.normal(0, 8, (count, 3)), 0, 255)
    picture = np.full((height, width, 3), 120, np.uint8)
    for r, (x, y), c in zip(radius, centre, color, strict=True):
        # Positions in 1/16 pixel, which cv2 calls a shift of 4.
        cv2.circle(picture, (round(16 * x), round(16 * y)), round(16 * r), c.tolist(), -1, cv2.LINE_AA, 4)
    grain = sum(
        cv2.resize(rng.normal(0, 1.5, (height // s + 2, width // s + 2)), (width, height), None, 0, 0, cv2.INTER_CUBIC)
        for s in (2, 4, 8, 16)
    )
    smooth = cv2.GaussianBlur(picture.astype(np.float32) + grain[..., None].astype(np.float32), (0, 0), 1.5)
    return np.clip(smooth + 0.5, 0, 255).astype(np.uint8)


def _similarity(position: Float[np.ndarray, "T 2"], angle, scale, origin) -> Float[np.ndarray, "T 2 3"]:
    """Build the maps that put `origin` at `position`, turned by `angle` [T] and scaled by `scale` [T]."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    return np.concatenate([linear, (position - linear @ np.asarray(origin))[..., None]], -1)


def _chain(outer: Float[np.ndarray, "T 2 3"], inner: Float[np.ndarray, "T 2 3"]) -> Float[np.ndarray, "T 2 3"]:
    linear = outer[..., :2] @ inner[..., :2]
    return np.concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], -1)


def _walk(rng: np.random.Generator, difficulty: Difficulty, distance: float, sway: float) -> Float[np.ndarray, "T 2"]:
    """Draw offsets in pixels: a straight line of about `distance` frame heights, 0 in the middle, and a slow wave."""
    time = np.linspace(-0.5, 0.5, difficulty.num_frames)[:, None]
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    line = distance * rng.uniform(0.7, 1.3) * np.array([np.cos(angle), np.sin(angle)]) * time
    wave = sway * np.sin(2 * np.pi * rng.uniform(0.5, 1.5, 2) * time + phase + np.array([0, np.pi / 2]))
    return (line + wave) * difficulty.size[0]


def _camera(rng: np.random.Generator, difficulty: Difficulty) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the camera's offset [T 2], angle [T] and scale [T]."""
    time = np.linspace(-0.5, 0.5, difficulty.num_frames)
    angle = difficulty.turn / 4 * rng.uniform(-1, 1) * time
    scale = np.exp(difficulty.zoom / 4 * rng.uniform(-1, 1) * time)
    return _walk(rng, difficulty, difficulty.camera, difficulty.sway / 8), angle, scale


def _seen(camera, parallax: float, centre: np.ndarray, matrices: Float[np.ndarray, "T 2 3"]) -> np.ndarray:
    """Move a layer by the camera, whose offset counts `parallax` times."""
    offset, angle, scale = camera
    return _chain(_similarity(centre + parallax * offset, angle, scale, centre), matrices)


def _background(rng: np.random.Generator, difficulty: Difficulty, camera) -> _Layer:
    size = np.array(difficulty.size)
    # Large enough for the camera's travel, its turn and its zoom; beyond that the texture is mirrored.
    big = tuple(int(v) for v in size + 2 * np.ceil((0.75 * difficulty.camera + 0.15) * size[0]))
    centre, origin = size[::-1] / 2, np.array(big[::-1]) / 2
    rest = np.zeros(difficulty.num_frames)
    still = _similarity(np.broadcast_to(centre, (difficulty.num_frames, 2)), rest, rest + 1, origin)
    return _Layer(dead_leaves(rng, big), None, _seen(camera, 1.0, centre, still))


def _sprite(rng: np.random.Generator, difficulty: Difficulty, camera) -> _Layer:
    size, time = np.array(difficulty.size), np.linspace(-0.5, 0.5, difficulty.num_frames)
    radius = rng.uniform(*difficulty.radius) * size[0]
    # The texture is drawn at the sprite's largest size, so that it is never enlarged much.
    amplitude, phase = rng.uniform(0, 0.3, len(_WAVES)) / _WAVES * 2, rng.uniform(0, 2 * np.pi, len(_WAVES))
    side = int(2 * np.ceil(radius * (1 + amplitude.sum())) + 8)
    position = rng.uniform(0.15, 0.85, 2) * size[::-1] + _walk(rng, difficulty, difficulty.speed, difficulty.sway)
    angle = difficulty.turn * rng.uniform(-1, 1) * time + rng.uniform(0, 2 * np.pi)
    scale = np.exp(difficulty.zoom * rng.uniform(-1, 1) * time)
    own = _similarity(position, angle, scale, (side / 2, side / 2))
    outline = (np.float64(radius), amplitude, phase, np.array([side / 2, side / 2]))
    return _Layer(
        dead_leaves(rng, (side, side)), outline, _seen(camera, float(rng.uniform(1, 1.5)), size[::-1] / 2, own)
    )


def _depth(layer: _Layer, local: Float[np.ndarray, "*S 2"]) -> Float[AnyArray, "*S"]:
    """Say how many texture pixels (measured towards the centre) a position is inside a layer's outline."""
    if layer.outline is None:
        return np.full(local.shape[:-1], np.inf)
    radius, amplitude, phase, centre = layer.outline
    x, y = np.moveaxis(local - centre, -1, 0)
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    waves = sum(a * np.cos(k * angle + p) for k, a, p in zip(_WAVES, amplitude, phase, strict=True))
    return radius * (1 + waves) - distance


def _to_layer(layer: _Layer, t: int, xy: Float[np.ndarray, "*S 2"]) -> Float[np.ndarray, "*S 2"]:
    matrix = layer.matrices[t]
    return (xy - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _points(rng: np.random.Generator, difficulty: Difficulty, layers: list[_Layer]) -> tuple[Tracks, np.ndarray]:
    """Choose points by where they are seen in a random frame, and compute their tracks."""
    height, width = difficulty.size
    owner, local, queries = [], [], []
    while len(owner) < difficulty.num_points:
        wants_sprite = rng.random() < difficulty.sprite_points
        # A sprite may be out of the picture or covered all the time: after some tries any point will do.
        for attempt in range(100):
            t, xy = int(rng.integers(difficulty.num_frames)), rng.uniform((0, 0), (width, height))
            top = next(i for i in reversed(range(len(layers))) if _depth(layers[i], _to_layer(layers[i], t, xy)) > 0)
            if top > 0 or not wants_sprite or attempt == 99:
                break
        owner.append(top)
        local.append(_to_layer(layers[top], t, xy))
        queries.append((t, *xy))
    return _tracks(np.array(owner), np.array(local), layers, (height, width)), np.array(queries)


def _tracks(
    owner: Int[np.ndarray, "N"], local: Float[np.ndarray, "N 2"], layers: list[_Layer], size: tuple[int, int]
) -> Tracks:
    """Compute the paths and the visibility of points at rest in their layers."""
    matrices = np.stack([layer.matrices for layer in layers])[owner]  # [N T 2 3]
    xy = np.einsum("ntij,nj->nti", matrices[..., :2], local) + matrices[..., 2]
    visible: Bool[np.ndarray, "N T"] = inside(xy, size)
    for index, layer in enumerate(layers[1:], 1):
        below = owner < index
        for t in range(xy.shape[1]):
            visible[below, t] &= _depth(layer, _to_layer(layer, t, xy[below, t])) <= 0
    return Tracks(xy.astype(np.float32), visible)


def _draw(rng: np.random.Generator, difficulty: Difficulty, layers: list[_Layer]) -> UInt8[np.ndarray, "T H W 3"]:
    """Paint the layers from the lowest to the highest, then change brightness and add noise."""
    frames = np.empty((difficulty.num_frames, *difficulty.size, 3), np.uint8)
    masks = [_mask(layer) for layer in layers]
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
    for t in range(difficulty.num_frames):
        canvas = _warp(layers[0].texture, layers[0].matrices[t], difficulty.size, cv2.BORDER_REFLECT)
        for layer, mask in zip(layers[1:], masks[1:], strict=True):
            alpha = _warp(mask, layer.matrices[t], difficulty.size, cv2.BORDER_CONSTANT)[..., None]
            color = _warp(layer.texture, layer.matrices[t], difficulty.size, cv2.BORDER_REPLICATE)
            canvas = canvas + alpha * (color - canvas)
        gain = 1 + difficulty.gain * np.sin(2 * np.pi * period * t / difficulty.num_frames + phase)
        noise = difficulty.noise * rng.standard_normal(canvas.shape, np.float32)
        frames[t] = np.clip(np.float32(gain) * canvas + noise + 0.5, 0, 255)
    return frames


def _mask(layer: _Layer) -> Float[np.ndarray, "h w"]:
    """Draw a layer's outline with a ramp of one pixel, half of it inside."""
    rows, columns = (np.arange(n) + 0.5 for n in layer.texture.shape[:2])
    grid = np.stack(np.meshgrid(columns, rows), -1)
    return np.clip(_depth(layer, grid) + 0.5, 0, 1).astype(np.float32)


def _warp(picture: np.ndarray, matrix: Float[np.ndarray, "2 3"], size: tuple[int, int], border: int) -> np.ndarray:
    """Resample a picture. cv2 counts from pixel centres, this package from corners: half a pixel each way."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(
        picture.astype(np.float32), shifted, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=border
    )
