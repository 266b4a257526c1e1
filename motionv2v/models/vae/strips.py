"""Work on large frames in horizontal strips: the same numbers, without a whole frame's worth of work space.

A residual block of the autoencoder normalises, activates and convolves. On whole frames that takes memory for more than
input and output: for the activated frames, for those three times over (the frames that one output frame sees, gathered
as channels), and for whatever the compiler's convolution copies. A strip takes it for a few rows only.

`in_strips` is what every convolution layer calls. Strip by strip it takes the rows and, above and below, the rows that
a kernel reaches (the halo), activates them, sets those outside the frame to zero, convolves, cuts the halo off again
and writes the rest into the whole result. Norms have taken their statistics from whole frames before. So the result is
that of the whole frame, unlike with `tiling`; what a layer takes in and gives out stays in memory whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float, Int

Convolution = Callable[[AnyArray, AnyArray | None], AnyArray]
"""Convolves rows [B T h W C], given the frames before them, [B k h W C] or None; pads with zeros above and below."""

Activation = Callable[[AnyArray, AnyArray | None], AnyArray]
"""What is done to a convolution's input pixel by pixel, given rows [B T h W C] and their numbers, None for all rows."""


def in_strips(
    convolve: Convolution,
    activate: Activation,
    x: Float[AnyArray, "B T H W C"],
    before: Float[AnyArray, "B k H W C"] | None,
    *,
    rows: int | None,
    halo: int,
) -> Float[AnyArray, "B t h w D"]:
    """Compute `convolve(activate(x), before)`, strip by strip where `rows` says so.

    Args:
        convolve: scales the number of rows, a multiple of `halo`, by a fixed ratio.
        activate: applied to x first, never to `before`.
        x: whole frames.
        before: whole frames in front of them, activated already; None where there are none.
        rows: of a strip, rounded up to a multiple of `halo`. None, or as many as there are, takes whole frames.
        halo: rows that are added above and below a strip: at least as many as the kernel reaches over a border, and
            a multiple of the stride.
    """
    height = x.shape[2]
    rows = height if rows is None else -(-rows // halo) * halo
    if rows >= height:
        return convolve(activate(x, None), before)

    def convolve_around(top: AnyArray) -> AnyArray:
        """Convolve the strip that begins at row `top`, and its halo."""
        index = top - halo + jnp.arange(rows + 2 * halo)  # [h]
        inside = jnp.clip(index, 0, height - 1)
        strip = activate(jnp.take(x, inside, axis=2), index)  # [B T h W C]
        strip_before = None if before is None else blank(jnp.take(before, inside, axis=2), index, height)
        return convolve(blank(strip, index, height), strip_before)

    out = jax.eval_shape(convolve_around, jnp.int32(0))
    to_output = lambda row: row * out.shape[2] // (rows + 2 * halo)  # noqa: E731

    def add_strip(whole: AnyArray, top: AnyArray) -> tuple[AnyArray, None]:
        strip = jax.lax.slice_in_dim(convolve_around(top), to_output(halo), to_output(halo + rows), axis=2)
        return jax.lax.dynamic_update_slice_in_dim(whole, strip, to_output(top), 2), None

    # The last strip ends at the border and repeats some rows of the one before it.
    tops = jnp.array([*range(0, height - rows, rows), height - rows])
    # Every row is written, so any start will do. A constant would be made early, once for all layers, and copied for
    # each; a value of the input keeps the compiler from making the array before its layer runs.
    start = x.reshape(-1)[0].astype(out.dtype)
    whole = jnp.broadcast_to(start, (*out.shape[:2], to_output(height), *out.shape[3:]))
    return jax.lax.scan(add_strip, whole, tops)[0]


def blank(x: Float[AnyArray, "B T h W C"], index: Int[AnyArray, "h"], height: int) -> Float[AnyArray, "B T h W C"]:
    """Set rows whose number lies outside a frame of `height` rows to zero, as a convolution's padding is."""
    is_inside = (index >= 0) & (index < height)
    return jnp.where(is_inside[:, None, None], x, jnp.zeros((), x.dtype))


def cost(height: int, rows: int) -> str:
    """Say what strips of `rows` rows cost on a frame of `height` rows: how many there are, and how much more work."""
    rows = min(rows, height)
    count = -(-height // rows)
    work = count * (rows + 2) / height if count > 1 else 1.0
    return (
        f"the autoencoder convolves in {count} strips of {rows} rows: {work:.2f} times the work at full size, a "
        f"convolution's work space {rows / height:.2f} of a frame's, the result unchanged"
    )
