"""Read what a picture of a scene shows: which things, of what colour and shape.

Two small networks, trained from nothing whenever they are needed, on drawn scenes whose every pixel is known
(`data.scenes.pairs`): one names the colour at every other pixel, one the shape of a region of one colour. Half of the
pictures they learn from are blurred a little, as an autoencoder leaves them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from motionv2v.data.scenes import pairs, shapes
from motionv2v.typing import AnyArray, Bool, Float, Int, PyTree, UInt8

COLORS = tuple(shapes.SPRITE_COLORS)
PLAUSIBLE = (0.012, 0.35)
"""The share of a picture that one thing covers, from a corner that is seen of it to a large one that has come near."""
SIDE = 16
"""Rows and columns of the cut-out from which a shape is read."""


class _Colors(nn.Module):
    """Predict [B H/2 W/2 1 + colours] of pictures [B H W 3] in [-1, 1]; the first is "no thing"."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B H W 3"]) -> Float[AnyArray, "B h w F"]:
        half = nn.relu(nn.Conv(16, (5, 5), strides=2)(x))
        quarter = nn.relu(nn.Conv(32, (3, 3), strides=2)(half))
        eighth = nn.relu(nn.Conv(48, (3, 3), strides=2)(quarter))
        eighth = nn.relu(nn.Conv(48, (3, 3))(eighth))
        quarter = nn.relu(nn.Conv(32, (3, 3))(jnp.concatenate([quarter, _twice(eighth)], -1)))
        half = nn.relu(nn.Conv(32, (1, 1))(jnp.concatenate([half, _twice(quarter)], -1)))
        return nn.Conv(1 + len(COLORS), (1, 1))(half)


def _twice(x: Float[AnyArray, "B h w C"]) -> Float[AnyArray, "B h2 w2 C"]:
    return x.repeat(2, 1).repeat(2, 2)


class _Shapes(nn.Module):
    """Predict the shape [B shapes] of cut-outs [B SIDE SIDE]."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B h w"]) -> Float[AnyArray, "B F"]:
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(len(shapes.SHAPES))(x)


class Thing(NamedTuple):
    """One thing that a picture shows: its colour, its share of the picture, and how likely each of `shapes.SHAPES` is.

    `cutout` is what its shape is read from: how sure its colour is around it, at one scale for all things.
    """

    color: str
    area: float
    cutout: Float[np.ndarray, "h w"]
    shape: Float[np.ndarray, "shapes"]


class Reader:
    """Name the things in pictures of scenes."""

    def __init__(self, colors: PyTree, outlines: PyTree):
        """Take the parameters of the networks for colours and for shapes, from `train`."""
        self._params = (colors, outlines)
        self._colors, self._shapes = (jax.jit(network.apply) for network in (_Colors(), _Shapes()))

    def read(self, frames: UInt8[np.ndarray, "T H W 3"]) -> list[list[Thing]]:
        """Return the things of each picture: of each colour its largest region, if that is of a plausible size."""
        likely = np.asarray(jax.nn.softmax(self._colors(self._params[0], _scaled(frames))))
        found = [_regions(picture) for picture in likely]
        cutouts = [cutout for regions in found for _, _, cutout in regions]
        # Of one size for every call, so that it is compiled once.
        padded = np.zeros((len(frames) * len(COLORS), SIDE, SIDE), np.float32)
        padded[: len(cutouts)] = np.reshape(cutouts, (-1, SIDE, SIDE))
        kinds = iter(np.asarray(jax.nn.softmax(self._shapes(self._params[1], padded))))
        return [[Thing(*region, next(kinds)) for region in regions] for regions in found]


def _regions(likely: Float[np.ndarray, "h w F"]) -> list[tuple[str, float, Float[np.ndarray, "s s"]]]:
    """Find the largest region of each colour in one picture: its name, its share of the picture, its cut-out."""
    colors, found = likely.argmax(-1), []
    for index in np.unique(colors[colors > 0]).tolist():
        mask = largest_region(colors == index)
        if PLAUSIBLE[0] <= (area := float(mask.mean())) <= PLAUSIBLE[1]:
            found.append((COLORS[index - 1], area, _cutout(mask, likely[..., index])))
    return found


def _cutout(mask: Bool[np.ndarray, "h w"], likely: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "s s"]:
    """Cut out a region around its centre, 1.7 times as wide as a disk of its area, at `SIDE` pixels."""
    rows, columns = np.nonzero(mask)
    step = 1.7 * np.sqrt(len(rows) / np.pi) * 2 / SIDE
    first = np.array([[columns.mean()], [rows.mean()]]) - step * (SIDE - 1) / 2
    placed = np.concatenate([step * np.eye(2), first], 1).astype(np.float32)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.warpAffine(likely * near, placed, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def largest_region(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the largest part of a mask whose pixels touch; nothing where it is empty."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    sizes = statistics[1:, cv2.CC_STAT_AREA]
    return labels == 1 + sizes.argmax() if len(sizes) else mask


def train(
    config: pairs.SceneConfig,
    *,
    num_steps: int = 600,
    num_scenes: int = 500,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Reader:
    """Train a reader on scenes of the training split.

    Args:
        config: of the scenes; H and W must be multiples of 8. num_steps: of 32 pictures, for the colours; the shapes
            get twice as many. num_scenes: whose clips are drawn. seed: of everything. progress: wraps the loops.

    Raises:
        ValueError: for a size that is no multiple of 8.
    """
    if any(side % 8 for side in config.size):
        raise ValueError(f"a reader needs pictures whose sides are multiples of 8; got {config.size}")
    rng = np.random.default_rng(seed)
    frames, colors, kinds = _examples(config, num_scenes, seed)
    for index in range(0, len(frames), 2):
        frames[index] = cv2.GaussianBlur(frames[index], (0, 0), rng.uniform(0.4, 1.2))
    of_colors = _fit(_Colors(), lambda i: _scaled(frames[i]), colors, 32, num_steps, rng, progress)
    untrained = _Shapes().init(jax.random.key(seed), np.zeros((1, SIDE, SIDE), np.float32))
    read = Reader(of_colors, untrained).read
    seen = [
        (thing, kind)
        for first in range(0, len(frames), 50)
        for thing, kind in _things(read(frames[first : first + 50]), kinds[first : first + 50])
    ]
    cutouts = np.stack([thing.cutout for thing, _ in seen])
    # A shape is itself at every quarter turn and in the mirror.
    turned = np.concatenate([np.rot90(side, k, (1, 2)) for k in range(4) for side in (cutouts, cutouts[:, ::-1])])
    labels = np.tile(np.array([kind for _, kind in seen]), 8)
    return Reader(of_colors, _fit(_Shapes(), lambda i: turned[i], labels, 256, 2 * num_steps, rng, progress))


def _things(read: list[list[Thing]], kinds: list[dict[str, int]]) -> Iterable[tuple[Thing, int]]:
    """Give the things that were read and are there, with their true shapes."""
    for things, named in zip(read, kinds, strict=True):
        yield from ((thing, named[thing.color]) for thing in things if thing.color in named)


def _fit(
    network: nn.Module,
    inputs: Callable[[Int[np.ndarray, "B"]], AnyArray],
    labels: Int[np.ndarray, "M *x"],
    batch_size: int,
    num_steps: int,
    rng: np.random.Generator,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> PyTree:
    """Train a network to name its inputs."""
    params = network.init(jax.random.key(int(rng.integers(2**31))), inputs(np.arange(1)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))

    def loss(params: PyTree, x: AnyArray, labels: AnyArray) -> AnyArray:
        return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, x), labels).mean()

    @jax.jit
    def step(params: PyTree, state: Any, x: AnyArray, labels: AnyArray) -> tuple[PyTree, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, x, labels), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in progress(range(num_steps)):
        chosen = rng.integers(0, len(labels), batch_size)
        params, state = step(params, state, inputs(chosen), labels[chosen])
    return params


def _examples(
    config: pairs.SceneConfig, num_scenes: int, seed: int
) -> tuple[UInt8[np.ndarray, "M H W 3"], Int[np.ndarray, "M h w"], list[dict[str, int]]]:
    """Draw every fourth frame of scenes; the colour, from 1, of every other pixel; each colour's shape."""
    frames, colors, kinds = [], [], []
    for index in range(num_scenes):
        scene = pairs.make_scene(config, seed, index, "train")
        sprites = scene.content.sprites
        # The background's row is last: its owner is -1.
        names = np.array([1 + COLORS.index(sprite.color_name) for sprite in sprites] + [0])
        frames.append(pairs.draw(scene.content, scene.source, config)[::4])
        colors.append(names[scene.owner[::4, 1::2, 1::2]])
        kinds += [{s.color_name: shapes.SHAPES.index(s.shape) for s in sprites}] * len(frames[-1])
    return np.concatenate(frames), np.concatenate(colors), kinds


def _scaled(frames: UInt8[AnyArray, "B H W 3"]) -> Float[np.ndarray, "B H W 3"]:
    return np.asarray(frames, np.float32) / 127.5 - 1
