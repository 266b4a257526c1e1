"""LPIPS v0.1: how different two pictures look, by the features of a network that classifies (Zhang et al. 2018).

Section 3 and equation 1 of the paper: at some layers of a trunk the features of both pictures are scaled to unit length
along their channels; their squared differences, weighted by a learned head and averaged over space, are summed over the
layers. Trunks are AlexNet, VGG16 and SqueezeNet 1.1, whose numbers cannot be compared with one another, nor with those
of v0.0, which did not normalise the pictures. Nothing is resized: the distance depends on the resolution.

Parameters have torchvision's indices: "features_0/kernel", "features_3/expand1x1/bias", and the heads "lin0" [C].
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from motionv2v.typing import AnyArray, Float, Num, PyTree

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Pictures in [-1, 1] become (x - SHIFT) / SCALE, the normalisation with which the trunks were trained."""
_TINY = 1e-10


class Conv(NamedTuple):
    """A convolution and ReLU; `index` is its place in torchvision's `features`, `tap` whether its output is compared.

    Shapes: [B h w C] to [B h' w' channels], zeros around.
    """

    index: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    tap: bool = False


class Fire(NamedTuple):
    """SqueezeNet's module: 1x1 to `squeeze` channels, then 1x1 and 3x3 to `expand` channels each, side by side."""

    index: int
    squeeze: int
    expand: int
    tap: bool = False

    @property
    def channels(self) -> int:
        """Count the channels that come out."""
        return 2 * self.expand


class Pool(NamedTuple):
    """The largest of each `window` x `window` pixels, two apart; with `ceil` also of the last window, cut off."""

    window: int
    ceil: bool = False


class Trunk(NamedTuple):
    """A network's layers, and the rows and columns that a picture must have at least."""

    layers: tuple[Conv | Fire | Pool, ...]
    smallest: int

    def taps(self) -> list[Conv | Fire]:
        """List the layers that are compared."""
        return [layer for layer in self.layers if not isinstance(layer, Pool) and layer.tap]


TRUNKS = {
    "alex": Trunk(
        (
            Conv(0, 64, 11, stride=4, padding=2, tap=True),
            Pool(3),
            Conv(3, 192, 5, padding=2, tap=True),
            Pool(3),
            Conv(6, 384, tap=True),
            Conv(8, 256, tap=True),
            Conv(10, 256, tap=True),
        ),
        smallest=31,
    ),
    "vgg": Trunk(
        (
            *(Conv(0, 64), Conv(2, 64, tap=True), Pool(2)),
            *(Conv(5, 128), Conv(7, 128, tap=True), Pool(2)),
            *(Conv(10, 256), Conv(12, 256), Conv(14, 256, tap=True), Pool(2)),
            *(Conv(17, 512), Conv(19, 512), Conv(21, 512, tap=True), Pool(2)),
            *(Conv(24, 512), Conv(26, 512), Conv(28, 512, tap=True)),
        ),
        smallest=16,
    ),
    "squeeze": Trunk(
        (
            *(Conv(0, 64, stride=2, padding=0, tap=True), Pool(3, ceil=True)),
            *(Fire(3, 16, 64), Fire(4, 16, 64, tap=True), Pool(3, ceil=True)),
            *(Fire(6, 32, 128), Fire(7, 32, 128, tap=True), Pool(3, ceil=True)),
            *(Fire(9, 48, 192, tap=True), Fire(10, 48, 192, tap=True)),
            *(Fire(11, 64, 256, tap=True), Fire(12, 64, 256, tap=True)),
        ),
        smallest=17,
    ),
}


class Lpips(nn.Module):
    """Compare pictures pair by pair; `net` is one of `TRUNKS`."""

    net: str = "alex"

    @nn.compact
    def __call__(self, a: Num[AnyArray, "B H W 3"], b: Num[AnyArray, "B H W 3"]) -> Float[AnyArray, "B"]:
        """Return the distance of each pair, at least 0 and 0 for equal pictures.

        Pictures are RGB, uint8 in 0..255 or float in [-1, 1] as everywhere inside models; the number type tells which,
        so never scale bytes to floats of [0, 1]. Raises ValueError for pairs of two kinds or shapes, for integers of
        another type, and for pictures that are smaller than `TRUNKS[net].smallest`.
        """
        trunk = TRUNKS[self.net]
        _check(a, b, self.net)
        x = jnp.concatenate([a, b])
        x = x.astype(jnp.float32) / 127.5 - 1 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
        x = (x - jnp.array(SHIFT)) / jnp.array(SCALE)
        total, number = jnp.zeros(len(a)), 0
        for layer in trunk.layers:
            x = _run(layer, x)  # [2B h w C]
            if isinstance(layer, Pool) or not layer.tap:
                continue
            head = self.param(f"lin{number}", nn.initializers.ones, (layer.channels,))
            unit = x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + _TINY)
            difference = jnp.square(unit[: len(a)] - unit[len(a) :])
            total, number = total + (difference * head).sum(-1).mean((1, 2)), number + 1
        return total


def frame_distances(
    module: Lpips,
    params: PyTree,
    a: Num[AnyArray, "T H W 3"],
    b: Num[AnyArray, "T H W 3"],
    chunk: int = 4,
) -> Float[np.ndarray, "T"]:
    """Return LPIPS of each frame of two clips; a paper's number is usually its mean over frames, then over clips.

    Args:
        module, params: as `convert.perceptual.load` returns them.
        a, b: RGB, uint8 in 0..255 as they are in files; they are scaled here.
        chunk: pairs of frames that are on the device at once; of one of 480x720, VGG's first features are 177 MB.

    Raises:
        ValueError: for clips that are not uint8 or not of one shape, without frames, or smaller than the trunk needs.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"LPIPS compares uint8 frames in 0..255, given {a.dtype} and {b.dtype}")
    _check(a, b, module.net)
    chunk, found = max(1, min(chunk, len(a))), []
    for first in range(0, len(a), chunk):
        # The last chunk goes back over frames that were seen, so that one program of one size serves all.
        start = min(first, len(a) - chunk)
        values = _apply(module, params, a[start : start + chunk], b[start : start + chunk])
        found.append(np.asarray(values)[first - start :])
    return np.concatenate(found)


@functools.cache
def parameter_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, such as "features_0/kernel", computing nothing."""
    side = TRUNKS[net].smallest
    picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tree = jax.eval_shape(Lpips(net).init, jax.random.key(0), picture, picture)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: Lpips, params: PyTree, a: AnyArray, b: AnyArray) -> AnyArray:
    return module.apply({"params": params}, a, b)


def _check(a: AnyArray, b: AnyArray, net: str) -> None:
    """Raise ValueError for pictures that cannot be compared."""
    if net not in TRUNKS:
        raise ValueError(f"unknown LPIPS network {net!r}; available: {', '.join(TRUNKS)}")
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or not len(a):
        raise ValueError(f"LPIPS compares frames [T H W 3] of one shape, given {list(a.shape)} and {list(b.shape)}")
    if a.dtype != b.dtype or not (a.dtype == jnp.uint8 or jnp.issubdtype(a.dtype, jnp.floating)):
        raise ValueError(f"LPIPS compares uint8 with uint8 or float with float, given {a.dtype} and {b.dtype}")
    smallest = TRUNKS[net].smallest
    if min(a.shape[1:3]) < smallest:
        raise ValueError(f"LPIPS {net} needs frames of at least {smallest}x{smallest}, given {list(a.shape[1:3])}")


def _run(layer: Conv | Fire | Pool, x: Float[AnyArray, "B h w C"]) -> Float[AnyArray, "B h2 w2 F"]:
    """Apply a layer within a compact module."""
    if isinstance(layer, Pool):
        # Only a last window that starts inside is cut off; with windows of 3, two apart, that is for even sides.
        padding = [(0, int(layer.ceil and side % 2 == 0)) for side in x.shape[1:3]]
        return nn.max_pool(x, (layer.window,) * 2, (2, 2), padding)
    name = f"features_{layer.index}"
    if isinstance(layer, Fire):
        return _Fire(layer.squeeze, layer.expand, name=name)(x)
    return nn.relu(_conv(layer.channels, layer.kernel, layer.stride, layer.padding, name)(x))


class _Fire(nn.Module):
    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(_conv(self.squeeze, 1, 1, 0, "squeeze")(x))
        sides = [_conv(self.expand, 1, 1, 0, "expand1x1")(x), _conv(self.expand, 3, 1, 1, "expand3x3")(x)]
        return nn.relu(jnp.concatenate(sides, -1))


def _conv(channels: int, kernel: int, stride: int, padding: int, name: str) -> nn.Conv:
    # In full float32 everywhere: the metric must not depend on the device's fast and coarse products.
    return nn.Conv(channels, (kernel,) * 2, stride, padding, precision=jax.lax.Precision.HIGHEST, name=name)
