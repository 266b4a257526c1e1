"""Formulations of the autoencoder's causal convolution: the same sum, for different machines.

On accelerators one 2-D convolution over the frames gathered as channels. On CPUs the convolution over time is done with
fewer products, by the minimal filtering algorithms F(m, 3) that Winograd gave (Lavin and Gray, 1509.09308, section 4.1;
here along time only): m frames out of m + 2 frames in take m + 2 products of frame and kernel instead of 3 m. A product
is a 2-D convolution, so that adding frames up before and after it costs little beside it. With m = 4 half the products
are left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float, PyTree

FORMULATIONS = ("auto", "conv2d", "conv3d", "winograd")


class Filter(NamedTuple):
    """F(m, 3): out = outputs @ ((kernels @ kernel) * (inputs @ frames)), with m + 2 frames in and m frames out.

    Attributes:
        outputs: [m m+2], or [1 3]. kernels: [m+2 3]. inputs: [m+2 m+2].
    """

    outputs: tuple[tuple[int | float, ...], ...]
    kernels: tuple[tuple[int | float, ...], ...]
    inputs: tuple[tuple[int | float, ...], ...]


FILTERS = (
    Filter(
        outputs=((1, 1, 1),),
        kernels=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        inputs=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ),
    Filter(
        outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
        kernels=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    ),
    Filter(
        outputs=((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
        kernels=((1 / 2, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 6, -1 / 6, 1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1)),
        inputs=((2, -1, -2, 1, 0), (0, 2, 1, -1, 0), (0, -2, 3, -1, 0), (0, -1, 0, 1, 0), (0, 2, -1, -2, 1)),
    ),
    Filter(
        outputs=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
        kernels=(
            (1 / 4, 0, 0),
            (1 / 6, 1 / 6, 1 / 6),
            (1 / 6, -1 / 6, 1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        inputs=(
            (4, 0, -5, 0, 1, 0),
            (0, 4, 4, -1, -1, 0),
            (0, -4, 4, 1, -1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
    ),
)
"""F(1, 3), which is the plain sum, to F(4, 3). Larger ones save little more and lose digits."""

FEWEST_CHANNELS = 8
"""Where products are cheap, adding frames up costs more than it saves. Rows `convolution:winograd`
and `convolution:conv2d` of `benchmarks/run.py` compare them, with 8 channels at size `tiny`, 32 at `small`."""


def conv2d(
    x: Float[AnyArray, "M H W C"], kernel: Float[AnyArray, "kh kw C D"], stride: int, padding: tuple
) -> Float[AnyArray, "M h w D"]:
    """Convolve pictures, padded with zeros by `padding`: (above, below), (left, right)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def per_frame(x: Float[AnyArray, "B T H W C"]) -> Float[AnyArray, "M H W C"]:
    """Count clips and frames on one axis."""
    return x.reshape(-1, *x.shape[2:])  # [B T H W C] -> [M H W C], M = B T


def causal(
    x: Float[AnyArray, "B T H W C"],
    before: Float[AnyArray, "B k H W C"] | None,
    kernel: Float[AnyArray, "kt kh kw C D"],
    impl: str = "auto",
) -> Float[AnyArray, "B T H W D"]:
    """Convolve frames over time and space; every frame sees itself and the kt - 1 frames before it.

    Args:
        x: the frames. Rows and columns are padded with zeros.
        before: the k = kt - 1 frames before them, or None at the start of a clip: copies of its first frame.
        kernel: with an odd number of rows and columns.
        impl: one of `FORMULATIONS`, all the same up to rounding. "conv2d" gathers the frames that one output frame sees
            on the channel axis and runs one 2-D convolution over all frames; "conv3d" leaves it all to the compiler;
            "winograd" takes kernels of kt = 3, see the module, and rounds 2 to 4 times as coarsely (so that a frame may
            move by that much with the frames after it); where gradients are taken it is "conv2d", which then takes less
            time. "auto" is "winograd" for such kernels of at least
            `FEWEST_CHANNELS`, in float32, where the program is compiled for a CPU, otherwise "conv2d".

    Raises ValueError for any other `impl` and for "winograd" with a kernel of another length.
    """
    if impl not in FORMULATIONS:
        raise ValueError(f"conv_impl is {impl!r}; available: {', '.join(FORMULATIONS)}")
    able = kernel.shape[0] == 3
    if impl == "winograd" and not able:
        raise ValueError(f"conv_impl is 'winograd' with a kernel of {kernel.shape[0]} frames; it takes 3 frames")
    if impl == "auto" and able and kernel.shape[3] >= FEWEST_CHANNELS and x.dtype == jnp.float32:
        given = (x, kernel) if before is None else (x, kernel, before)
        return jax.lax.platform_dependent(*given, cpu=_winograd, default=_conv2d)
    return {"winograd": _winograd, "conv3d": _conv3d}.get(impl, _conv2d)(x, kernel, before)


def _join(x: AnyArray, kernel: AnyArray, before: AnyArray | None) -> AnyArray:
    if before is None:
        before = jnp.repeat(x[:, :1], kernel.shape[0] - 1, axis=1)
    return jnp.concatenate([before, x], axis=1)


def _same(kernel: AnyArray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pad rows and columns so that their number stays."""
    rows, columns = (size // 2 for size in kernel.shape[-4:-2])
    return (rows, rows), (columns, columns)


def _conv2d(x: AnyArray, kernel: AnyArray, before: AnyArray | None = None) -> AnyArray:
    kt, kh, kw, channels, features = kernel.shape
    batch, frames, padded = *x.shape[:2], _join(x, kernel, before)
    taps = jnp.concatenate([padded[:, i : i + frames] for i in range(kt)], axis=-1)  # [B T H W kt*C]
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * channels, features)  # [kh kw kt*C D]
    y = conv2d(per_frame(taps), flat, 1, _same(kernel))  # [M H W D]
    return y.reshape(batch, frames, *y.shape[1:])


def _conv3d(x: AnyArray, kernel: AnyArray, before: AnyArray | None = None) -> AnyArray:
    numbers, padding = ("NDHWC", "DHWIO", "NDHWC"), ((0, 0), *_same(kernel))
    return jax.lax.conv_general_dilated(_join(x, kernel, before), kernel, (1, 1, 1), padding, dimension_numbers=numbers)


@jax.custom_vjp
def _winograd(x: AnyArray, kernel: AnyArray, before: AnyArray | None = None) -> AnyArray:
    frames, padded, start, parts = x.shape[1], _join(x, kernel, before), 0, []
    if before is None and frames % 2:
        # The first frame of a clip sees itself three times.
        parts.append(conv2d(x[:, 0], kernel.sum(0), 1, _same(kernel))[:, None])
        start = 1
    while start < frames:
        count = min(len(FILTERS), frames - start)
        stop = start + (frames - start) // count * count
        parts.append(_filter(padded[:, start : stop + 2], kernel, count))
        start = stop
    return jnp.concatenate(parts, axis=1)


def _winograd_forward(x: AnyArray, kernel: AnyArray, before: AnyArray | None = None) -> tuple[AnyArray, PyTree]:
    # Many small products and the sums around them would be transposed one by one, which takes longer than it saves.
    return jax.vjp(_conv2d, x, kernel, before)


def _winograd_backward(pull: PyTree, gradient: AnyArray) -> tuple[AnyArray | None, ...]:
    return pull(gradient)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _filter(padded: AnyArray, kernel: AnyArray, count: int) -> AnyArray:
    """Compute `count` frames at a time from `count` + 2 frames; both counts of frames fit."""
    batch, frames = padded.shape[0], padded.shape[1] - 2
    last = frames - count
    seen = [padded[:, i : i + last + 1 : count] for i in range(count + 2)]
    rule, taps = FILTERS[count - 1], list(kernel)
    products = [
        conv2d(per_frame(combine(inputs, seen)), combine(kernels, taps), 1, _same(kernel))  # [M H W D]
        for inputs, kernels in zip(rule.inputs, rule.kernels, strict=True)
    ]
    y = jnp.stack([combine(outputs, products) for outputs in rule.outputs], axis=1)  # [M count H W D]
    return y.reshape(batch, frames, *y.shape[2:])


def combine(weights: Sequence[int | float], parts: Sequence[AnyArray]) -> AnyArray:
    """Add parts of one shape up with their weights; most of these are 0 or 1, which need no multiplication."""
    terms = [part if weight == 1 else weight * part for weight, part in zip(weights, parts, strict=True) if weight]
    return sum(terms[1:], terms[0])
