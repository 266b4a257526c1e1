"""I3D of Kinetics-400, the network of FVD (Carreira and Zisserman 2017; Unterthiner et al. 2018).

Inception V1 with its kernels inflated along time. FVD's features are the 400 logits, averaged over time, before any
softmax. A unit is a convolution without bias, a batch norm without gains, ReLU; padding is TensorFlow's SAME. The
implementations in use differ in how frames are resized (`resizing`), and VideoGPT's and cd-fvd's also in the norm's
epsilon, 1e-5, which moves the logits by more than their own size where variances are small.

Parameters have magvit's names: "Conv3d_1a_7x7/conv_3d/kernel", "Mixed_3b/Branch_1.Conv3d_0b_3x3/batch_norm/beta".
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from motionv2v.models.features import resizing
from motionv2v.typing import AnyArray, Float, Num, PyTree

SIZE, FEWEST_FRAMES, NUM_CLASSES = 224, 9, 400
"""Rows and columns of a frame; frames that a clip must have; the logits."""
EPSILON = 1e-3
"""Of the batch norms in TF-Hub's graph."""


class Unit(NamedTuple):
    """A convolution with a cube of `kernel` pixels and frames, every `stride`-th of them, norm and ReLU."""

    name: str
    channels: int
    kernel: int
    stride: int = 1


class Pool(NamedTuple):
    """The largest of each window of (frames, rows, columns)."""

    window: tuple[int, int, int]
    strides: tuple[int, int, int]


class Mixed(NamedTuple):
    """Four branches side by side; `channels` of `BRANCHES` in their order."""

    name: str
    channels: tuple[int, int, int, int, int, int]


BRANCHES = (
    "Branch_0.Conv3d_0a_1x1",
    "Branch_1.Conv3d_0a_1x1",
    "Branch_1.Conv3d_0b_3x3",
    "Branch_2.Conv3d_0a_1x1",
    "Branch_2.Conv3d_0b_3x3",
    "Branch_3.Conv3d_0b_1x1",
)
"""The units of a `Mixed`; the last comes after a pool of 3x3x3."""

LAYERS = (
    Unit("Conv3d_1a_7x7", 64, 7, 2),
    Pool((1, 3, 3), (1, 2, 2)),
    Unit("Conv3d_2b_1x1", 64, 1),
    Unit("Conv3d_2c_3x3", 192, 3),
    Pool((1, 3, 3), (1, 2, 2)),
    Mixed("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    Mixed("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    Pool((3, 3, 3), (2, 2, 2)),
    Mixed("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    Mixed("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    Mixed("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    Mixed("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    Mixed("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    Pool((2, 2, 2), (2, 2, 2)),
    Mixed("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    Mixed("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
LOGITS = "Logits.Conv3d_0c_1x1"


class I3d(nn.Module):
    """Work out the logits of clips; `epsilon` is that of the batch norms."""

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B T H W 3"]) -> Float[AnyArray, "B F"]:
        """Return the 400 logits of each clip, averaged over time.

        Clips are RGB in [-1, 1], of at least `FEWEST_FRAMES` frames of `SIZE` x `SIZE`; a little smaller ones, down to
        193 pixels, give features of 7x7 places too. Raises ValueError for others.
        """
        if x.shape[1] < FEWEST_FRAMES or any(-(-side // 32) != 7 for side in x.shape[2:4]):
            given = "x".join(map(str, x.shape[1:4]))
            raise ValueError(f"I3D takes at least {FEWEST_FRAMES} frames of {SIZE}x{SIZE} pixels, given {given}")
        for layer in LAYERS:
            if isinstance(layer, Pool):
                x = nn.max_pool(x, layer.window, layer.strides, "SAME")
            elif isinstance(layer, Mixed):
                x = _Mixed(layer.channels, self.epsilon, name=layer.name)(x)
            else:
                x = _Unit(layer.channels, layer.kernel, layer.stride, self.epsilon, name=layer.name)(x)
        x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), "VALID")  # [B t 1 1 1024]
        return _Logits(name=LOGITS)(x).mean((1, 2, 3))


def clip_features(
    module: I3d, params: PyTree, frames: Num[AnyArray, "T H W 3"], resize: str = "tf1"
) -> Float[np.ndarray, "F"]:
    """Return FVD's features of one clip, 400 numbers.

    Args:
        module, params: as `convert.i3d.load` returns them.
        frames: RGB in 0..255, at least `FEWEST_FRAMES` of any size; first resized, then scaled to [-1, 1].
        resize: "tf1" as in TF-Hub's script and magvit, "torch" as in StyleGAN-V's and cd-fvd's.

    Raises:
        ValueError: for clips that are too short or not uint8, and another resize.
    """
    frames = np.asarray(frames)
    resizing.check(frames, resize)
    if resize == "pillow":
        raise ValueError("no FVD resizes frames as 'pillow'; expected 'tf1' or 'torch'")
    return np.asarray(_apply(module, resize, params, frames))


@functools.cache
def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, computing nothing."""
    clip = jax.ShapeDtypeStruct((1, FEWEST_FRAMES, SIZE, SIZE, 3), jnp.float32)
    tree = jax.eval_shape(I3d().init, jax.random.key(0), clip)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: I3d, resize: str, params: PyTree, frames: AnyArray) -> AnyArray:
    x = resizing.bilinear(frames, SIZE, resize) * (2 / 255) - 1
    return module.apply({"params": params}, x[None])[0]


class _Unit(nn.Module):
    channels: int
    kernel: int
    stride: int
    epsilon: float

    @nn.compact
    def __call__(self, x):
        x = _conv(self.channels, self.kernel, self.stride, use_bias=False, name="conv_3d")(x)
        return nn.relu(_Norm(self.epsilon, name="batch_norm")(x))


class _Norm(nn.Module):
    epsilon: float

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        mean = self.param("moving_mean", nn.initializers.zeros, shape)
        variance = self.param("moving_variance", nn.initializers.ones, shape)
        beta = self.param("beta", nn.initializers.zeros, shape)
        return (x - mean) / jnp.sqrt(variance + self.epsilon) + beta


class _Mixed(nn.Module):
    channels: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, x):
        def unit(x, branch):
            name = BRANCHES[branch]
            return _Unit(self.channels[branch], int(name[-1]), 1, self.epsilon, name=name)(x)

        pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
        sides = [unit(x, 0), unit(unit(x, 1), 2), unit(unit(x, 3), 4), unit(pooled, 5)]
        return jnp.concatenate(sides, -1)


class _Logits(nn.Module):
    @nn.compact
    def __call__(self, x):
        return _conv(NUM_CLASSES, 1, 1, use_bias=True, name="conv_3d")(x)


def _conv(channels: int, kernel: int, stride: int, use_bias: bool, name: str) -> nn.Conv:
    # In full float32 everywhere: the metric must not depend on the device's fast and coarse products.
    exact = jax.lax.Precision.HIGHEST
    return nn.Conv(channels, (kernel,) * 3, stride, "SAME", use_bias=use_bias, precision=exact, name=name)
