"""Which place every token of a published CogVideoX model is told: the tables below, at any size of clip.

| model | `positions` | at the size the model was made for | at another size |
|---|---|---|---|
| 2B | sincos | whole numbers over the interpolation scales | the same |
| 5B | rope | whole numbers | rows and columns spread over that size's grid (`spread_over`) |
| 5B-I2V | rope+learned | rope and a trained table | rope; frames: sin-cos for the table; height, width: an error |
| 1.5-5B, 1.5-5B-I2V | rope, patches in time | whole numbers | the same, as far as that size's grid reaches |

This is what diffusers' pipelines do. A model without a `sample_size` belongs to no pipeline: its RoPE counts whole
numbers at any size.
"""

import jax.numpy as jnp
import numpy as np

from motionv2v.typing import AnyArray, Float

SCHEMES = ("rope", "sincos", "rope+learned")

Grid = tuple[int, int, int]


def check(scheme: str, patch: Grid, sample_size: Grid | None) -> None:
    """Check settings that depend on each other.

    Args:
        scheme: one of `SCHEMES`.
        patch: latent frames, rows and columns of a patch.
        sample_size: latent frames, rows and columns of the clips the model was made for, or None.

    Raises:
        ValueError: saying which setting does not fit and what would.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"positions={scheme!r} is unknown; available: {', '.join(SCHEMES)}.")
    if scheme != "rope" and patch[0] != 1:
        raise ValueError(f"positions={scheme!r} has no form for patch_size_t={patch[0]}; only 'rope' has.")
    if scheme == "rope+learned" and sample_size is None:
        raise ValueError("positions='rope+learned' needs sample_size, the (frames, height, width) of its table.")
    if sample_size is not None and (len(sample_size) != 3 or min(sample_size) < 1):
        raise ValueError(f"sample_size={sample_size} must be (frames, height, width) in latents, each at least 1.")


def check_size(size: Grid, patch: Grid) -> None:
    """Check that latents of `size` (frames, height, width) divide into patches. Raises ValueError naming both."""
    frames, height, width = size
    if height % patch[1] or width % patch[2]:
        raise ValueError(
            f"latents of {height}x{width} do not divide into patches of {patch[1]}x{patch[2]}; "
            f"height and width must be multiples of {patch[1]}."
        )
    if frames % patch[0]:
        raise ValueError(
            f"{frames} latent frames do not divide into patches of {patch[0]} (patch_size_t); sample "
            f"{extra_frames(frames, patch[0])} more and drop them, see positions.extra_frames."
        )


def check_table(size: Grid, text_length: int, sample_size: Grid, table_length: int) -> None:
    """Check that a learned table has rows for a clip. Raises ValueError naming the table's size.

    Args:
        size: latent frames, height and width of the clip; another number of frames is allowed, as in diffusers.
        text_length: text tokens given.
        sample_size: what the table's video rows are for. table_length: how many text rows it has.
    """
    if size[1:] != sample_size[1:]:
        raise ValueError(
            f"latents of {size[1]}x{size[2]} do not fit the learned positions, which are for "
            f"{sample_size[1]}x{sample_size[2]} only."
        )
    if text_length != table_length:
        raise ValueError(
            f"text of {text_length} tokens does not fit the learned positions, which are for exactly "
            f"text_length={table_length}; pad it."
        )


def rope(
    grid: Grid, head_dim: int, text_length: int, patch: Grid, sample_size: Grid | None
) -> tuple[Float[AnyArray, "S d2"], Float[AnyArray, "S d2"]]:
    """Compute the rotations of a clip's tokens, `rope_table`, as the pipeline of the model does.

    Args:
        grid: frames, rows and columns of the clip, counted in patches.
        head_dim: features per head.
        text_length: text tokens in front of the video's.
        patch: latent frames, rows and columns of a patch; more than one frame means CogVideoX 1.5.
        sample_size: see `check`.

    Raises:
        ValueError: when the grid of a 1.5 model reaches further than its table.
    """
    if sample_size is None:
        return rope_table(grid, head_dim, text_length)
    base = (sample_size[1] // patch[1], sample_size[2] // patch[2])
    if patch[0] == 1:
        return rope_table(grid, head_dim, text_length, spread_over(base, grid))
    if grid[1] > base[0] or grid[2] > base[1]:
        raise ValueError(
            f"latents of {grid[1] * patch[1]}x{grid[2] * patch[2]} reach beyond the positions of this model, "
            f"sample_size={sample_size}: at most {sample_size[1]} rows and {sample_size[2]} columns."
        )
    return rope_table(grid, head_dim, text_length)


def spread_over(base: tuple[int, int], grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spread a clip's patches over the base grid, as the pipelines of CogVideoX-5B do; frames keep whole numbers.

    The clip is scaled to fit into the base grid and centred there, edges rounded to whole patches. Its first row lies
    on the upper edge and its last of n rows at (n - 1) / n of the lower edge's position, the rest at equal distances;
    columns likewise. A clip of the base's size gets whole numbers.

    Args:
        base: rows and columns of the base grid.
        grid: frames, rows and columns of the clip.

    Returns:
        Positions of frames, rows and columns, float32.
    """
    frames, rows, columns = grid
    if rows / columns > base[0] / base[1]:
        size = (base[0], round(base[0] / rows * columns))
    else:
        size = (round(base[1] / columns * rows), base[1])
    axes = []
    for length, inner, outer in zip((rows, columns), size, base, strict=True):
        start = round((outer - inner) / 2)
        axes.append(np.linspace(start, (start + inner) * (length - 1) / length, length, dtype=np.float32))
    return np.arange(frames, dtype=np.float32), *axes


def sincos_with_text(text_length: int, width: int, scales: tuple[float, float], grid: Grid) -> Float[AnyArray, "S D"]:
    """Compute `sincos_table` with rows of zeros for the text in front: how a learned table starts.

    Args:
        text_length: rows of zeros. width: D. scales: spatial and temporal positions are divided by these.
        grid: frames, rows and columns of the clip, counted in patches.
    """
    return jnp.pad(sincos_table(grid, width, *scales), ((text_length, 0), (0, 0)))


def extra_frames(frames: int, patch_size_t: int | None) -> int:
    """Count the latent frames to add so that a clip divides into patches in time (CogVideoX 1.5).

    diffusers' pipelines sample a clip that is so much longer and drop the extra latent frames, the first ones, before
    decoding. An image-to-video model's image stays at the first frame of the longer clip.

    Args:
        frames: latent frames wanted.
        patch_size_t: latent frames of a patch; None for 1.
    """
    return -frames % (patch_size_t or 1)


def rope_table(
    grid: tuple[int, int, int],
    head_dim: int,
    text_length: int,
    positions: tuple[AnyArray, AnyArray, AnyArray] | None = None,
) -> tuple[Float[AnyArray, "S d2"], Float[AnyArray, "S d2"]]:
    """Compute cosines and sines that rotate each pair of features by the token's frame, row and column.

    A quarter of the head's features follow time and three eighths each follow rows and columns (64 = 16 + 24 + 24); the
    base is 10,000. The rows of text tokens, which come first, are the identity: cosine 1, sine 0.

    Args:
        grid: frames, rows and columns counted in patches.
        head_dim: features per head, a multiple of 16.
        text_length: text tokens in front of the video's.
        positions: of the frames, rows and columns, one numpy array each; None counts them from 0.

    Returns:
        (cosine, sine), float32, S = text_length + product of `grid`, d2 = head_dim / 2.

    Raises:
        ValueError: when `head_dim` does not split into pairs for all three axes.
    """
    if head_dim % 16:
        raise ValueError(f"rotary positions need a head_dim that is a multiple of 16, got {head_dim}.")
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    positions = [np.arange(length) for length in grid] if positions is None else positions
    angles = []
    for axis, (position, size) in enumerate(zip(positions, sizes, strict=True)):
        frequency = 1.0 / 10_000.0 ** (np.arange(0, size, 2, dtype=np.float32) / size)
        angle = np.outer(position.astype(np.float32), frequency).astype(np.float32)
        shape = [1, 1, 1, size // 2]
        shape[axis] = grid[axis]
        # The three one-dimensional tables are constants of the program; the large one is built on the device.
        angles.append(jnp.broadcast_to(jnp.asarray(angle).reshape(shape), (*grid, size // 2)))
    angle = jnp.concatenate(angles, axis=-1).reshape(-1, head_dim // 2)  # [t h w d/2] -> [n d/2]
    # An angle of 0 turns nothing, which is what the text needs.
    angle = jnp.pad(angle, ((text_length, 0), (0, 0)))
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(
    x: Float[AnyArray, "B S K d"], table: tuple[Float[AnyArray, "S d2"], Float[AnyArray, "S d2"]]
) -> Float[AnyArray, "B S K d"]:
    """Rotate the feature pairs (0, 1), (2, 3), ... of every head by `rope_table`'s angles, in float32."""
    cosine, sine = (part[None, :, None, :] for part in table)  # [1 S 1 d/2]
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)  # [B S K d/2 2]
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = jnp.stack([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def sincos_table(
    grid: tuple[int, int, int], width: int, spatial_scale: float, temporal_scale: float
) -> Float[AnyArray, "n D"]:
    """Compute CogVideoX-2B's fixed position table: a quarter of the width for time, then columns, then rows.

    Args:
        grid: frames, patch rows and patch columns.
        width: D, a multiple of 16.
        spatial_scale: patch positions are divided by this.
        temporal_scale: frame positions are divided by this.

    Returns:
        One float32 row per video token, in the order of `patchify`.

    Raises:
        ValueError: when `width` does not split into sines and cosines for all three axes.
    """
    if width % 16:
        raise ValueError(f"sin-cos positions need a width that is a multiple of 16, got {width}.")
    frames, rows, columns = grid
    spatial = width * 3 // 8
    parts = (
        (_sincos(frames, temporal_scale, width // 4), (frames, 1, 1)),
        (_sincos(columns, spatial_scale, spatial), (1, 1, columns)),
        (_sincos(rows, spatial_scale, spatial), (1, rows, 1)),
    )
    full = [jnp.broadcast_to(jnp.asarray(part).reshape(*shape, -1), (*grid, part.shape[-1])) for part, shape in parts]
    return jnp.concatenate(full, axis=-1).reshape(-1, width)  # [t h w D] -> [n D]


def _sincos(length, scale, size):
    position = np.arange(length, dtype=np.float32) / np.float32(scale)
    # float64 as in CogVideoX: the highest frequencies lose digits otherwise.
    frequency = 1.0 / 10_000.0 ** (np.arange(size // 2, dtype=np.float64) / (size / 2.0))
    angle = np.outer(position, frequency)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
