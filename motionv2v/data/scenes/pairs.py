"""Procedural motion counterfactuals with exact tracks and exact visibility, drawn in numpy.

A *scene* is content: a textured background and a few sprites (shape, colours, pattern, size, z-order). A *motion* is
how the camera and every sprite move through time. One content under two motions is a counterfactual pair in the sense
of the paper (section 3.2), with nothing to track: all layers are analytic functions, so a point's path and what covers
it are known exactly, at any (also fractional, also reversed) time.

Units: lengths in frame heights, (0, 0) at the top-left corner, time 0..1 over the clip; `Pair` converts to pixels.
World -> screen is the camera's similarity; sprite -> world is the sprite's. A point sits at rest in its layer's
coordinates, and is visible where it is inside the frame and no higher sprite covers it.

Everything is drawn from `numpy.random.default_rng([seed, split, index])`: the same (seed, split, index) gives the same
pair on every machine and in any order of access.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from motionv2v.data.scenes import motion, shapes
from motionv2v.data.scenes.motion import Motion
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int, UInt8

KINDS = ("object", "camera", "both", "retime", "reverse", "crop")
SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class SceneConfig:
    """How rich the scenes are. The defaults are what the released tiny model is trained on.

    Attributes:
        num_frames, size: frames T and (H, W) in pixels.
        num_points: points N per sample; `min_points`..N of them are in use, the others are hidden everywhere.
        log_points: draw that number evenly in its logarithm: few points as often as many.
        num_sprites: inclusive range. radius: sprite radius range in frame heights.
        edge: width in pixels of the ramp between a sprite and what is behind it.
        speed: largest displacement over the clip of a sprite, in frame heights. camera_speed: the same for the camera.
        turn, zoom: largest rotation (radians) and log scale of a sprite over the clip; the camera gets a quarter of it.
        kinds: relative weight of each kind of pair, in the order of `KINDS`.
        sprite_points: share of the points that are put on sprites on purpose; the rest falls anywhere in the frame.
        moving_camera: share of scenes whose camera moves at all.
        dense: spread the points over all that the target shows, half of them over its first frame; `sprite_points` then
            means nothing.
    """

    num_frames: int = 17
    size: tuple[int, int] = (64, 64)
    num_points: int = 16
    min_points: int = 1
    log_points: bool = False
    num_sprites: tuple[int, int] = (1, 3)
    radius: tuple[float, float] = (0.17, 0.25)
    edge: float = 2.0
    speed: float = 0.6
    camera_speed: float = 0.35
    turn: float = 1.0
    zoom: float = 0.25
    kinds: tuple[float, ...] = (0.45, 0.05, 0.3, 0.05, 0.1, 0.05)
    sprite_points: float = 0.7
    moving_camera: float = 0.5
    dense: bool = False


@dataclass(frozen=True)
class Content:
    """What is in a scene: one background and sprites in z-order (later covers earlier)."""

    background: shapes.Background
    sprites: tuple[shapes.Sprite, ...]

    @property
    def caption(self) -> str:
        """Name the two topmost sprites and the colour of the background: "red disk, blue star, teal"."""
        names = [sprite.name for sprite in reversed(self.sprites)][:2]
        return ", ".join([*names, self.background.color_name])


@dataclass(frozen=True)
class Pair:
    """One counterfactual pair, in pixels of `config.size`.

    Attributes:
        source, target: videos of the same content under two motions, uint8 [T H W 3].
        source_tracks, target_tracks: the same N points in both, exact.
        edited: [N], True where a point's path differs between the two videos by more than half a pixel on average.
        caption: what is in the scene. kind: one of `KINDS`.
    """

    source: UInt8[np.ndarray, "T H W 3"]
    target: UInt8[np.ndarray, "T H W 3"]
    source_tracks: Tracks
    target_tracks: Tracks
    edited: Bool[np.ndarray, "N"]
    caption: str
    kind: str


@dataclass(frozen=True)
class Points:
    """Points at rest in a layer: -1 is the background (world coordinates), else a sprite (its unit coordinates)."""

    layer: np.ndarray
    local: np.ndarray


@dataclass(frozen=True)
class Scene:
    """What a pair is drawn of: one content, its motion in both videos, and the points at rest in it.

    `kind`: one of `KINDS`.
    """

    config: SceneConfig
    content: Content
    source: Motion
    target: Motion
    points: Points
    kind: str

    @cached_property
    def owner(self) -> Int[np.ndarray, "T H W"]:
        """Tell which sprite each pixel of the source shows; -1 is the background."""
        owner = np.full((self.config.num_frames, *self.config.size), -1)
        for index, t, window, alpha, _ in _covers(self.content, self.source, self.config):
            owner[t][window][alpha > 0.5] = index
        return owner

    def pair(self) -> Pair:
        """Draw its videos and track its points."""
        source_tracks = track(self.content, self.source, self.points, self.config)
        target_tracks = track(self.content, self.target, self.points, self.config)
        both = source_tracks.visible | target_tracks.visible
        gap = np.linalg.norm(source_tracks.xy - target_tracks.xy, axis=-1)
        moved = (gap * both).sum(-1) / np.maximum(both.sum(-1), 1)
        return Pair(
            source=draw(self.content, self.source, self.config),
            target=draw(self.content, self.target, self.config),
            source_tracks=source_tracks,
            target_tracks=target_tracks,
            edited=(moved > 0.5) & both.any(-1),
            caption=self.content.caption,
            kind=self.kind,
        )


def make_pair(config: SceneConfig, seed: int, index: int, split: str = "train") -> Pair:
    """Draw one counterfactual pair; deterministic in (seed, split, index). Raises ValueError for an unknown split."""
    return make_scene(config, seed, index, split).pair()


def make_scene(config: SceneConfig, seed: int, index: int, split: str = "train") -> Scene:
    """Choose what is in a pair, how it moves, and the points; as `make_pair`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS[split], index])
    content = random_content(rng, config)
    weights = np.asarray(config.kinds, np.float64)
    kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
    target = motion.random_motion(rng, content.sprites, config)
    source = _source_motion(rng, kind, target, content, config)
    if config.dense:
        points = dense_points(rng, content, target, config)
    else:
        points = random_points(rng, content, (source, target), config)
    return Scene(config, content, source, target, points, kind)


def random_content(rng: np.random.Generator, config: SceneConfig) -> Content:
    """Draw a background and sprites; sprite colours differ from one another, so that a caption tells them apart."""
    count = int(rng.integers(config.num_sprites[0], config.num_sprites[1] + 1))
    colors = rng.permutation(len(shapes.SPRITE_COLORS))[:count]
    sprites = tuple(shapes.random_sprite(rng, int(color), config.radius) for color in colors)
    return Content(shapes.random_background(rng), sprites)


def _source_motion(
    rng: np.random.Generator, kind: str, target: Motion, content: Content, config: SceneConfig
) -> Motion:
    """Derive the counterfactual's motion from the target's by what the pair's kind says (paper, section 3.2)."""
    if kind in ("retime", "reverse"):
        # Free start and end on the clip's own time axis, so that the two share only some of their frames.
        start, end = rng.uniform(0, 0.5), rng.uniform(0.5, 1)
        times = np.linspace(start, end, config.num_frames)
        return replace(target, times=times[::-1] if kind == "reverse" else times)
    if kind == "crop":
        return replace(target, crop=motion.random_crop(rng))
    fresh = motion.random_motion(rng, content.sprites, config, anchored_to=target)
    changed = rng.random(len(content.sprites)) < 0.75
    if not changed.any():
        changed[rng.integers(len(changed))] = True
    mixed = tuple(new if c else old for c, new, old in zip(changed, fresh.sprites, target.sprites, strict=True))
    if kind == "object":
        return replace(target, sprites=mixed)
    camera = motion.random_camera(rng, config, always=True, anchor=target.camera.anchor)
    return replace(target, camera=camera) if kind == "camera" else replace(target, camera=camera, sprites=mixed)


def random_points(
    rng: np.random.Generator, content: Content, motions: tuple[Motion, Motion], config: SceneConfig
) -> Points:
    """Pick N points: some on sprites on purpose, the rest where a uniform (t, x, y) of either video lands."""
    num, aspect = config.num_points, config.size[1] / config.size[0]
    on_sprite = rng.random(num) < config.sprite_points
    layer = np.where(on_sprite, rng.integers(0, len(content.sprites), num), -1)
    local = np.zeros((num, 2))
    for n in range(num):
        if on_sprite[n]:
            local[n] = shapes.random_inside(rng, content.sprites[layer[n]].shape)
            continue
        motion = motions[int(rng.integers(2))]
        frame = int(rng.integers(config.num_frames))
        screen = rng.uniform(0, 1, 2) * (aspect, 1)
        matrix, offset = motion.screen_to_world(config.num_frames, aspect)
        world = matrix[frame] @ screen + offset[frame]
        layer[n], local[n] = _hit(content, motion, world, frame, config.num_frames)
    return Points(layer, local)


def dense_points(rng: np.random.Generator, content: Content, motion: Motion, config: SceneConfig) -> Points:
    """Pick N points wherever they land in a video: in its first frame for half of them, in any frame for the others.

    Thousands take milliseconds.
    """
    num, (height, width) = config.num_points, config.size
    frame = np.where(rng.random(num) < 0.5, 0, rng.integers(0, config.num_frames, num))
    return points_at(content, motion, frame, rng.uniform(0, 1, (num, 2)) * (width / height, 1), config)


def points_at(
    content: Content, motion: Motion, frame: Int[np.ndarray, "N"], screen: Float[np.ndarray, "N 2"], config: SceneConfig
) -> Points:
    """Return the points that a video shows at places of its frames, (x, y) in frame heights."""
    num, aspect = len(frame), config.size[1] / config.size[0]
    matrix, offset = motion.screen_to_world(config.num_frames, aspect)
    local = world = np.einsum("nij,nj->ni", matrix[frame], screen) + offset[frame]
    layer = np.full(num, -1)
    for index, sprite in enumerate(content.sprites):  # from back to front: the topmost one stays
        matrix, offset = motion.world_to_sprite(index, sprite.radius, config.num_frames)
        inner = np.einsum("nij,nj->ni", matrix[frame], world) + offset[frame]
        is_inside = shapes.inside(sprite.shape, inner[:, 0], inner[:, 1]) > 0
        layer = np.where(is_inside, index, layer)
        local = np.where(is_inside[:, None], inner, local)
    return Points(layer, local)


def _hit(content: Content, motion: Motion, world: np.ndarray, frame: int, num_frames: int) -> tuple[int, np.ndarray]:
    """Find the topmost layer at a world position of one frame, and the position in that layer's coordinates."""
    for index in reversed(range(len(content.sprites))):
        sprite = content.sprites[index]
        matrix, offset = motion.world_to_sprite(index, sprite.radius, num_frames)
        local = matrix[frame] @ world + offset[frame]
        if shapes.inside(sprite.shape, local[0], local[1]) > 0:
            return index, local
    return -1, world


def track(content: Content, motion: Motion, points: Points, config: SceneConfig) -> Tracks:
    """Compute the exact paths and visibility of points under one motion, in pixels of `config.size`."""
    frames, (height, width) = config.num_frames, config.size
    world = np.repeat(points.local[:, None], frames, 1)
    to_local = [motion.world_to_sprite(i, s.radius, frames) for i, s in enumerate(content.sprites)]
    for index, (matrix, offset) in enumerate(to_local):
        mine = points.layer == index
        world[mine] = np.einsum("tij,ntj->nti", np.linalg.inv(matrix), world[mine] - offset)
    matrix, offset = motion.screen_to_world(frames, width / height)
    xy = np.einsum("tij,ntj->nti", np.linalg.inv(matrix), world - offset) * height
    visible = (xy >= 0).all(-1) & (xy[..., 0] < width) & (xy[..., 1] < height)
    for index, (matrix, offset) in enumerate(to_local):
        local = np.einsum("tij,ntj->nti", matrix, world) + offset
        covered = shapes.inside(content.sprites[index].shape, local[..., 0], local[..., 1]) > 0
        visible &= ~(covered & (points.layer < index)[:, None])
    return Tracks(xy.astype(np.float32), visible)


def draw(content: Content, motion: Motion, config: SceneConfig) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw a scene by the painter's algorithm, each layer evaluated exactly at every pixel centre."""
    frames, (height, width) = config.num_frames, config.size
    matrix, offset = (a.astype(np.float32) for a in motion.screen_to_world(frames, width / height))
    rows, columns = ((np.arange(n, dtype=np.float32) + 0.5) / height for n in (height, width))
    wx = matrix[:, 0, 0, None, None] * columns + matrix[:, 0, 1, None, None] * rows[:, None] + offset[:, 0, None, None]
    wy = matrix[:, 1, 0, None, None] * columns + matrix[:, 1, 1, None, None] * rows[:, None] + offset[:, 1, None, None]
    canvas = content.background.paint(wx, wy)
    for _, t, window, alpha, colours in _covers(content, motion, config):
        canvas[t][window] += alpha[..., None] * (colours() - canvas[t][window])
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)


Cover = tuple[int, tuple[slice, slice], Float[np.ndarray, "h w"], Callable[[], Float[np.ndarray, "h w 3"]]]


def _covers(content: Content, motion: Motion, config: SceneConfig) -> Iterator[tuple[int, *Cover]]:
    """Give each sprite's index, from back to front, with what it covers, as `_cover`."""
    whole = (config.num_frames, *config.size)
    matrix, offset = (a.astype(np.float32) for a in motion.screen_to_world(whole[0], whole[2] / whole[1]))
    for index, sprite in enumerate(content.sprites):
        to_local = motion.world_to_sprite(index, sprite.radius, whole[0])
        for cover in _cover(whole, sprite, to_local, matrix, offset, config.edge):
            yield index, *cover


def _cover(
    whole: tuple[int, int, int],
    sprite: shapes.Sprite,
    to_local: tuple[np.ndarray, np.ndarray],
    matrix: np.ndarray,
    offset: np.ndarray,
    edge: float,
) -> Iterator[Cover]:
    """Give each frame's window around a sprite, for most of a frame is not it: what it covers there, and its colours.

    Of a frame without it nothing is given. `whole`: T, H, W.
    """
    height, width = whole[1:]
    local_matrix, local_offset = (a.astype(np.float32) for a in to_local)
    full = np.einsum("tij,tjk->tik", local_matrix, matrix)  # screen -> sprite
    shift = np.einsum("tij,tj->ti", local_matrix, offset) + local_offset
    centre = -np.einsum("tij,tj->ti", np.linalg.inv(full), shift) * height
    pixels_per_unit = height / np.sqrt(np.abs(np.linalg.det(full)))
    # 1.14 covers every shape's reach from the centre (a square's corners), at which half of its soft edge begins.
    reach = np.ceil(1.14 * pixels_per_unit + 1 + edge)
    for t in range(whole[0]):
        x0, y0 = np.floor(centre[t] - reach[t]).astype(int)
        x1, y1 = np.ceil(centre[t] + reach[t]).astype(int)
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5) / height
        y = (np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5) / height
        u = full[t, 0, 0] * x + full[t, 0, 1] * y + shift[t, 0]
        v = full[t, 1, 0] * x + full[t, 1, 1] * y + shift[t, 1]
        # The ramp lies around the true outline, half of it inside.
        alpha = np.clip(shapes.inside(sprite.shape, u, v) * pixels_per_unit[t] / edge + 0.5, 0, 1)
        yield t, (slice(y0, y1), slice(x0, x1)), alpha, partial(sprite.paint, u, v)
