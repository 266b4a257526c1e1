"""Array annotations and the axis glossary that every docstring of this package uses.

Axis letters, also inside jaxtyping strings:

    B        batch                      t h w    latent frames, latent rows, latent columns
    T H W    frames, rows, columns      z        latent channels
    N        tracks (points)            D        model width
    S        sampling steps             K        attention heads
    L        text tokens                C        features or colour channels

Channels come last everywhere. Pixel coordinates `xy` are in pixels of the clip at hand, x to the right, y down, with
(0, 0) at the *corner* of the top-left pixel, so pixel centres lie at +0.5 and a resize is `xy * (new / old)`.
Queries are `txy`: frame index, then x and y. `visible` is True where a point can be seen.
Videos are uint8 [0, 255] on disk and in the input pipeline and float [-1, 1] inside models; blobs are drawn in [0, 1].

The annotations accept numpy and jax arrays alike: `Float[AnyArray, "N T 2"]`. This module does not import jax, because
the worker processes of the input pipeline must not.
"""

from typing import Any

from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8

AnyArray = Any
"""A numpy array in the input pipeline, a jax array on the device."""

PyTree = Any
"""A nested dict of arrays."""

Key = Any
"""A jax.random key."""

__all__ = ["AnyArray", "Bool", "Float", "Int", "Key", "Num", "PyTree", "Shaped", "UInt8"]
