"""Patches: their order, and the order inside one, by a loop over places; sizes that do not divide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.patches import patchify, unpatchify

SIDE, SIDE_T = 2, 3
GRID = (2, 3, 4)
CHANNELS = 5


def latents():
    shape = (2, GRID[0] * SIDE_T, GRID[1] * SIDE, GRID[2] * SIDE, CHANNELS)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def cut(x, t, h, w):
    """Take one patch [B pt ph pw C]."""
    return x[:, t * SIDE_T : (t + 1) * SIDE_T, h * SIDE : (h + 1) * SIDE, w * SIDE : (w + 1) * SIDE]


def test_patches_come_by_frame_row_column_and_are_flat_with_channels_last():
    x = latents()
    tokens = patchify(x, SIDE, SIDE_T)
    expected = [cut(x, *place).reshape(2, -1) for place in np.ndindex(GRID)]
    np.testing.assert_array_equal(tokens, np.stack(expected, axis=1))


def test_output_patches_are_flat_with_channels_first():
    x = latents()
    tokens = [np.moveaxis(cut(x, *place), -1, 1).reshape(2, -1) for place in np.ndindex(GRID)]
    np.testing.assert_array_equal(unpatchify(np.stack(tokens, axis=1), GRID, SIDE, SIDE_T), x)


def test_patches_are_exported_for_any_batch():
    shape = jax.ShapeDtypeStruct((jax.export.symbolic_shape("b")[0], *latents().shape[1:]), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: unpatchify(patchify(x, SIDE, SIDE_T), GRID, SIDE, SIDE_T)))(shape)
    np.testing.assert_array_equal(
        exported.call(latents()), unpatchify(patchify(latents(), SIDE, SIDE_T), GRID, SIDE, SIDE_T)
    )


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="height 3 and width 4 do not divide into patches of 2"):
        patchify(np.zeros((1, 1, 3, 4, 1)), 2)
    with pytest.raises(ValueError, match="3 latent frames do not divide into patches of 2 frames"):
        patchify(np.zeros((1, 3, 2, 2, 1)), 2, 2)
