"""Cut frames into overlapping tiles, run the autoencoder on each, and blend what comes back.

Large frames need much memory: at 480x720 one activation of CogVideoX's decoder takes 0.8 GB in bfloat16. Tiles cut it
in proportion. It is not the same function: group norms see one tile each, so the result differs a little, in the same
way as that of the published demos, which tiled. Positions, overlaps and the ramps of the blending are those of
diffusers' `enable_tiling`, with which the results agree number for number.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float


class Tiling(NamedTuple):
    """How to cut: sizes of a tile in pixels, and the share of it that it has in common with the next one."""

    height: int
    width: int
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5


class Axis(NamedTuple):
    """One axis of a tiled picture: where tiles start, their size, the length blended and the length kept of each."""

    starts: tuple[int, ...]
    size: int
    blend: int
    keep: int


def cut(length: int, size_in: int, size_out: int, overlap: float) -> Axis:
    """Place tiles along one axis of `length`; sizes of a tile before and after the network differ by its compression.

    Raises ValueError for an overlap outside [0, 1), one so large that tiles do not advance, and one that is no whole
    number of pixels and latents: what is kept of the tiles would not be as long as the picture.
    """
    step = int(size_in * (1 - overlap)) if 0 <= overlap < 1 else 0
    blend = int(size_out * overlap)
    if step < 1:
        raise ValueError(f"tiles of {size_in} that overlap by {overlap} do not advance; expected 0 <= overlap < 1")
    if step * size_out != (size_out - blend) * size_in:
        raise ValueError(
            f"an overlap of {overlap:.4g} of tiles of {max(size_in, size_out)} pixels is no whole number of latents; "
            f"nearest overlap: {round(overlap * min(size_in, size_out)) / min(size_in, size_out):.4g}"
        )
    return Axis(tuple(range(0, length, step)), size_in, blend, size_out - blend)


def apply(
    function: Callable[[Float[AnyArray, "M B t h w C"]], Float[AnyArray, "M B T H W D"]],
    x: Float[AnyArray, "B t h w C"],
    rows: Axis,
    columns: Axis,
) -> Float[AnyArray, "B T H W D"]:
    """Run `function` on the tiles of x and blend the results into one picture.

    `function` is given the M tiles of one size together, so that it can work on one after the other in a loop, which is
    what saves the memory; tiles at the right and lower border are smaller.
    """
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for top, left in itertools.product(rows.starts, columns.starts):
        size = (min(rows.size, x.shape[2] - top), min(columns.size, x.shape[3] - left))
        groups.setdefault(size, []).append((top, left))
    tiles: dict[tuple[int, int], AnyArray] = {}
    for (height, width), corners in groups.items():
        stack = jnp.stack([x[:, :, top : top + height, left : left + width] for top, left in corners])  # [M B t h w C]
        tiles.update(zip(corners, function(stack), strict=True))
    above: list[AnyArray] = []
    bands = []
    for top in rows.starts:
        line: list[AnyArray] = []
        for index, left in enumerate(columns.starts):
            tile = tiles[top, left]
            if above:
                tile = _blend(above[index], tile, rows.blend, 2)
            if line:
                tile = _blend(line[-1], tile, columns.blend, 3)
            line.append(tile)
        bands.append(jnp.concatenate([tile[:, :, : rows.keep, : columns.keep] for tile in line], axis=3))
        above = line
    return jnp.concatenate(bands, axis=2)


def _blend(before: AnyArray, tile: AnyArray, extent: int, axis: int) -> AnyArray:
    """Fade from the end of the tile before to this one over its first `extent` rows or columns."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if extent == 0:
        return tile
    ramp = (jnp.arange(extent) / extent).reshape(-1, *[1] * (tile.ndim - 1 - axis)).astype(tile.dtype)
    end = jnp.take(before, jnp.arange(before.shape[axis] - extent, before.shape[axis]), axis)
    start, rest = jnp.split(tile, [extent], axis)
    return jnp.concatenate([end * (1 - ramp) + start * ramp, rest], axis)


def cost(height: int, width: int, tiling: Tiling) -> str:
    """Say what tiling a frame of this size costs and saves: tiles, work and memory against the whole frame at once."""
    rows = cut(height, tiling.height, tiling.height, tiling.overlap_height)
    columns = cut(width, tiling.width, tiling.width, tiling.overlap_width)
    work = sum(min(rows.size, height - top) for top in rows.starts)
    work *= sum(min(columns.size, width - left) for left in columns.starts)
    largest = min(tiling.height, height) * min(tiling.width, width)
    tiles = len(rows.starts) * len(columns.starts)
    whole = height * width
    return (
        f"the autoencoder works in {tiles} tiles of {tiling.height}x{tiling.width}: {work / whole:.2f} times the work, "
        f"{largest / whole:.2f} of the memory, and norms per tile, which changes the result slightly"
    )
