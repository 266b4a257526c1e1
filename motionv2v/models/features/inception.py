"""InceptionV3 as FID uses it: the network of 2015-12-05 (Szegedy et al. 2016; Heusel et al. 2017), 2048 features.

It is not torchvision's InceptionV3: it has 1008 classes, other weights, average pools that do not count the padding,
and in its last block a pool of the largest where the paper has an average. The programs in use differ in how frames
are resized to 299x299 (`resizing`), so that each FID is named by it: "torch" for pytorch-fid, "tf1" for the original
and torch-fidelity, "pillow" for clean-fid.

Parameters have the names of the published file: "Mixed_5b/branch1x1/conv/kernel", "Mixed_5b/branch1x1/bn/mean".
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from motionv2v.models.features import resizing
from motionv2v.typing import AnyArray, Float, Num, PyTree

SIZE, SMALLEST, NUM_FEATURES, EPSILON = 299, 75, 2048, 1e-3
"""Rows and columns of a picture; the fewest that the module takes; its features; of the batch norms."""


class Inception(nn.Module):
    """Work out the features of pictures."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B H W 3"]) -> Float[AnyArray, "B F"]:
        """Return the 2048 features of each picture, averages over space; RGB in [-1, 1], `SIZE` on each side.

        Raises ValueError for pictures of less than `SMALLEST` pixels.
        """
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(f"Inception takes pictures of {SIZE}x{SIZE}, given {list(x.shape[1:3])}")
        x = _Conv(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = _Conv(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = _max_pool(_Conv(64, (3, 3), padding=1, name="Conv2d_2b_3x3")(x))
        x = _Conv(80, name="Conv2d_3b_1x1")(x)
        x = _max_pool(_Conv(192, (3, 3), name="Conv2d_4a_3x3")(x))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _BlockA(pooled, name=name)(x)
        x = _BlockB(name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _BlockC(width, name=name)(x)
        x = _BlockD(name="Mixed_7a")(x)
        x = _BlockE(is_last=False, name="Mixed_7b")(x)
        return _BlockE(is_last=True, name="Mixed_7c")(x).mean((1, 2))


def frame_features(
    module: Inception, params: PyTree, frames: Num[AnyArray, "T H W 3"], resize: str = "torch", chunk: int = 8
) -> Float[np.ndarray, "T F"]:
    """Return FID's features of each frame, [T 2048].

    Args:
        module, params: as `convert.inception.load` returns them.
        frames: RGB in 0..255, of any size.
        resize: of `resizing.RESIZES`. What is resized is scaled as the program of that resize does: 2x/255 - 1 for
            "torch", (x - 128) / 128 for the others.
        chunk: frames that are on the device at once.

    Raises:
        ValueError: for frames that are not uint8 [T H W 3], and another resize.
    """
    frames = np.asarray(frames)
    resizing.check(frames, resize)
    chunk, found = max(1, min(chunk, len(frames))), []
    for first in range(0, len(frames), chunk):
        # The last chunk goes back over frames that were seen, so that one program of one size serves all.
        start = min(first, len(frames) - chunk)
        part = frames[start : start + chunk]
        part = resizing.bicubic(part, SIZE) if resize == "pillow" else part
        found.append(np.asarray(_apply(module, resize, params, part))[first - start :])
    return np.concatenate(found)


@functools.cache
def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, computing nothing."""
    picture = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    tree = jax.eval_shape(Inception().init, jax.random.key(0), picture)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: Inception, resize: str, params: PyTree, frames: AnyArray) -> AnyArray:
    x = frames if resize == "pillow" else resizing.bilinear(frames, SIZE, resize)
    x = x * (2 / 255) - 1 if resize == "torch" else (x - 128) / 128
    return module.apply({"params": params}, x)


class _Conv(nn.Module):
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int | tuple[int, int] = 0

    @nn.compact
    def __call__(self, x):
        # In full float32 everywhere: the metric must not depend on the device's fast and coarse products.
        exact = jax.lax.Precision.HIGHEST
        padding = (self.padding,) * 2 if isinstance(self.padding, int) else self.padding
        pairs = [(side, side) for side in padding]
        x = nn.Conv(self.channels, self.kernel, self.stride, pairs, use_bias=False, precision=exact, name="conv")(x)
        return nn.relu(_Norm(name="bn")(x))


class _Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        variance = self.param("var", nn.initializers.ones, shape)
        x = (x - self.param("mean", nn.initializers.zeros, shape)) * (scale / jnp.sqrt(variance + EPSILON))
        return x + self.param("bias", nn.initializers.zeros, shape)


def _chain(x: AnyArray, prefix: str, *convs: tuple) -> AnyArray:
    """Apply convolutions in a row, named prefix_1, prefix_2 and so on, within a compact module."""
    for number, conv in enumerate(convs, 1):
        x = _Conv(*conv, name=f"{prefix}_{number}")(x)
    return x


class _BlockA(nn.Module):
    pooled: int

    @nn.compact
    def __call__(self, x):
        five = _chain(x, "branch5x5", (48,), (64, (5, 5), 1, 2))
        double = _chain(x, "branch3x3dbl", (64,), (96, (3, 3), 1, 1), (96, (3, 3), 1, 1))
        pool = _Conv(self.pooled, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([_Conv(64, name="branch1x1")(x), five, double, pool], -1)


class _BlockB(nn.Module):
    @nn.compact
    def __call__(self, x):
        double = _chain(x, "branch3x3dbl", (64,), (96, (3, 3), 1, 1), (96, (3, 3), 2))
        return jnp.concatenate([_Conv(384, (3, 3), 2, name="branch3x3")(x), double, _max_pool(x)], -1)


class _BlockC(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        narrow = self.width
        seven = _chain(x, "branch7x7", (narrow,), _wide(narrow), _high(192))
        double = (narrow,), _high(narrow), _wide(narrow), _high(narrow), _wide(192)
        double = _chain(x, "branch7x7dbl", *double)
        pool = _Conv(192, name="branch_pool")(_average_pool(x))
        return jnp.concatenate([_Conv(192, name="branch1x1")(x), seven, double, pool], -1)


class _BlockD(nn.Module):
    @nn.compact
    def __call__(self, x):
        three = _chain(x, "branch3x3", (192,), (320, (3, 3), 2))
        seven = _chain(x, "branch7x7x3", (192,), _wide(192), _high(192), (192, (3, 3), 2))
        return jnp.concatenate([three, seven, _max_pool(x)], -1)


class _BlockE(nn.Module):
    is_last: bool

    @nn.compact
    def __call__(self, x):
        def split(x, prefix):
            row = _Conv(384, (1, 3), 1, (0, 1), name=f"{prefix}a")(x)
            return [row, _Conv(384, (3, 1), 1, (1, 0), name=f"{prefix}b")(x)]

        three = split(_Conv(384, name="branch3x3_1")(x), "branch3x3_2")
        double = split(_chain(x, "branch3x3dbl", (448,), (384, (3, 3), 1, 1)), "branch3x3dbl_3")
        # The last block's pool is the published graph's, which is not the paper's.
        pool = nn.max_pool(x, (3, 3), (1, 1), [(1, 1)] * 2) if self.is_last else _average_pool(x)
        pool = _Conv(192, name="branch_pool")(pool)
        return jnp.concatenate([_Conv(320, name="branch1x1")(x), *three, *double, pool], -1)


def _wide(channels: int) -> tuple:
    """Return the arguments of a convolution along rows."""
    return channels, (1, 7), 1, (0, 3)


def _high(channels: int) -> tuple:
    return channels, (7, 1), 1, (3, 0)


def _max_pool(x: AnyArray) -> AnyArray:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x: AnyArray) -> AnyArray:
    return nn.avg_pool(x, (3, 3), (1, 1), [(1, 1)] * 2, count_include_pad=False)
