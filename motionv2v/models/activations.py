"""Where activations lie on a mesh of devices: a few names that the models use, which mean nothing on one device.

The mesh has the four axes of `AXES`. Between attention calls the tokens of a sample are divided over `context` and,
where features are many, the features over `tensor`; inside attention every device has all tokens of some heads
(DeepSpeed-Ulysses, arXiv 2309.14509), so that the softmax needs no communication. The mesh is jax's own: whatever
`jax.set_mesh` put in force where the program is traced.

    tokens    [B n D]    batch over data and fsdp, sequence over context
    features  [B n F ..] the same, features over tensor: the MLP's hidden layer, and queries, keys, values (or heads)
    heads     [B n K d]  heads over tensor and context, every token
    batch     [B ...]    batch alone
    latents   [B t h w z], pixels [B T H W C]: the autoencoder's two ends: batch, and width, then height, over context
              and tensor
    whole     everything on every device
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from motionv2v.typing import AnyArray

AXES = ("data", "fsdp", "context", "tensor")
BATCH = ("data", "fsdp")
HEADS = ("tensor", "context")
"""`tensor` first: a projection leaves each device the heads of its tensor part, and context divides those further."""

NAMES = ("tokens", "features", "heads", "batch", "latents", "pixels", "whole")
PIXELS_PER_LATENT = 8


def constrain(x: AnyArray, name: str) -> AnyArray:
    """Lay out an activation on the mesh in force; return it untouched where there is none.

    Raises ValueError for a name that is not one of `NAMES`.
    """
    spec = layout(x.shape, name)
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def layout(shape: tuple[Any, ...], name: str) -> PartitionSpec | None:
    """Return how an activation of this shape is laid out; None without a mesh, or on one with other axes than `AXES`.

    A dimension that an axis does not divide stays whole along it. The one exception is the sequence, whose last piece
    may be shorter: CogVideoX-5B has 17,550 video tokens. In programs that are exported without a mesh, dimensions may
    be symbols. Raises ValueError as `constrain`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown activation {name!r}; available: {', '.join(NAMES)}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(AXES) <= set(mesh.axis_names):
        return None
    if name == "whole":
        return PartitionSpec()
    batch = fitting(mesh, BATCH, shape[0])
    if name == "heads":
        return PartitionSpec(batch, None, fitting(mesh, HEADS, shape[2]), None)
    if name in ("latents", "pixels"):
        height, width = _spatial(mesh, shape, PIXELS_PER_LATENT if name == "pixels" else 1)
        return PartitionSpec(batch, None, height, width, None)
    if name == "batch":
        return PartitionSpec(batch)
    sequence = "context" if shape[1] >= mesh.shape["context"] else None
    return PartitionSpec(batch, sequence, fitting(mesh, ("tensor",), shape[2]) if name == "features" else None)


def fitting(mesh: Mesh | AbstractMesh, axes: Iterable[str], length: int) -> tuple[str, ...] | None:
    """Return as many of the axes, from the first on, as divide `length` together; None if not even one does."""
    kept: list[str] = []
    for axis in axes:
        if length % math.prod(mesh.shape[name] for name in (*kept, axis)):
            break
        kept.append(axis)
    return tuple(kept) or None


def _spatial(mesh, shape, unit):
    """Give context, then tensor, to the width if they divide it in whole units, else to the height, else to none.

    Each device has at least two units: XLA's convolutions give wrong results where it has one (measured, jax 0.10.2).
    """

    def divides(axes, units):
        parts = math.prod(mesh.shape[axis] for axis in axes)
        return units % parts == 0 and (parts == 1 or units >= 2 * parts)

    rows, columns = shape[2] // unit, shape[3] // unit
    height: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    for axis in ("context", "tensor"):
        if divides((*width, axis), columns):
            width = (*width, axis)
        elif divides((*height, axis), rows):
            height = (*height, axis)
    return height or None, width or None
