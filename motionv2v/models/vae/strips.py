"""Work on large frames in horizontal strips: the same numbers, without a whole frame's worth of work space.

A residual block of the autoencoder normalises, activates and convolves. On whole frames that takes, beside input and
output, the activated frames, and those three times over (the frames that one output frame sees, gathered as channels),
and whatever the compiler's convolution copies. A strip needs them for a few rows only. Every strip is given the rows
around it that its outputs see, and rows that see too little are cut off, so the result is that of the whole frame:
norms take their statistics from whole frames first. Unlike `tiling` it is exact; what a layer takes in and gives
out stays in memory whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float, Int

Convolution = Callable[[tuple[AnyArray, ...], Int[AnyArray, "h"] | None], AnyArray]
"""Takes rows of arrays [B T h W C] and their numbers in the whole frame, or whole frames and None; pads with zeros."""


def apply(
    function: Convolution, inputs: tuple[AnyArray, ...], rows: int | None, halo: int
) -> Float[AnyArray, "B T H W C"]:
    """Run a convolution on strips of `rows` rows, one after the other.

    Args:
        function: the convolution; it scales the number of rows, a multiple of `halo`, by a fixed ratio. Rows outside
            the frame must count as zeros: they come as zeros and, if they are changed before the sum, see `blank`.
        inputs: arrays [B T H W C] of one height, cut alike.
        rows: of a strip, rounded up to a multiple of `halo`. None, or as many as there are, takes whole frames.
        halo: rows that are added above and below a strip: at least as many as the kernel reaches over a border, and
            a multiple of the stride.
    """
    height = inputs[0].shape[2]
    rows = height if rows is None else -(-rows // halo) * halo
    if rows >= height:
        return function(inputs, None)

    def run(top: AnyArray) -> AnyArray:
        index = top - halo + jnp.arange(rows + 2 * halo)
        slabs = [jnp.take(x, jnp.clip(index, 0, height - 1), axis=2) for x in inputs]
        return function(tuple(blank(slab, index, height) for slab in slabs), index)

    out = jax.eval_shape(run, jnp.int32(0))
    scaled = lambda count: count * out.shape[2] // (rows + 2 * halo)  # noqa: E731

    def strip(whole: AnyArray, top: AnyArray) -> tuple[AnyArray, None]:
        inner = jax.lax.slice_in_dim(run(top), scaled(halo), scaled(halo + rows), axis=2)
        return jax.lax.dynamic_update_slice_in_dim(whole, inner, scaled(top), 2), None

    # The last strip ends at the border and repeats some rows of the one before it.
    tops = jnp.array([*range(0, height - rows, rows), height - rows])
    # Every row is written, so any start will do. Zeros, the same for all layers, the compiler would make early and copy
    # for every layer; a value of the input keeps the buffer from existing before its layer runs.
    start = inputs[0].reshape(-1)[0].astype(out.dtype)
    whole = jnp.broadcast_to(start, (*out.shape[:2], scaled(height), *out.shape[3:]))
    return jax.lax.scan(strip, whole, tops)[0]


def blank(x: Float[AnyArray, "B T h W C"], index: Int[AnyArray, "h"], height: int) -> Float[AnyArray, "B T h W C"]:
    """Set rows whose number lies outside a frame of `height` rows to zero."""
    inside = (index >= 0) & (index < height)
    return jnp.where(inside[:, None, None], x, jnp.zeros((), x.dtype))


def cost(height: int, rows: int) -> str:
    """Say what strips of `rows` rows cost on a frame of `height` rows: how many there are, and how much more work."""
    rows = min(rows, height)
    count = -(-height // rows)
    work = count * (rows + 2) / height if count > 1 else 1.0
    return (
        f"the autoencoder convolves in {count} strips of {rows} rows: {work:.2f} times the work at full size, a "
        f"convolution's work space {rows / height:.2f} of a frame's, the result unchanged"
    )
