"""Which place every token of a published CogVideoX model is told: the tables of `layers`, at any size of clip.

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

from motionv2v.models import layers
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
    """Compute the rotations of a clip's tokens, `layers.rope_table`, as the pipeline of the model does.

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
        return layers.rope_table(grid, head_dim, text_length)
    base = (sample_size[1] // patch[1], sample_size[2] // patch[2])
    if patch[0] == 1:
        return layers.rope_table(grid, head_dim, text_length, spread_over(base, grid))
    if grid[1] > base[0] or grid[2] > base[1]:
        raise ValueError(
            f"latents of {grid[1] * patch[1]}x{grid[2] * patch[2]} reach beyond the positions of this model, "
            f"sample_size={sample_size}: at most {sample_size[1]} rows and {sample_size[2]} columns."
        )
    return layers.rope_table(grid, head_dim, text_length)


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
    """Compute `layers.sincos_table` with rows of zeros for the text in front: how a learned table starts.

    Args:
        text_length: rows of zeros. width: D. scales: spatial and temporal positions are divided by these.
        grid: frames, rows and columns of the clip, counted in patches.
    """
    return jnp.pad(layers.sincos_table(grid, width, *scales), ((text_length, 0), (0, 0)))


def extra_frames(frames: int, patch_size_t: int | None) -> int:
    """Count the latent frames to add so that a clip divides into patches in time (CogVideoX 1.5).

    diffusers' pipelines sample a clip that is so much longer and drop the extra latent frames, the first ones, before
    decoding. An image-to-video model's image stays at the first frame of the longer clip.

    Args:
        frames: latent frames wanted.
        patch_size_t: latent frames of a patch; None for 1.
    """
    return -frames % (patch_size_t or 1)
