"""Patches against loops over their entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models import patches


def test_patchify_matches_loop():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 5)).astype(np.float32)
    tokens = patches.patchify(x, 2)
    assert tokens.shape == (2, 3 * 2 * 3, 2 * 2 * 5)
    for row, (t, i, j) in enumerate(np.ndindex(3, 2, 3)):
        patch = x[:, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(tokens[:, row], patch.reshape(2, -1))


def test_unpatchify_is_channel_major():
    grid, channels = (3, 2, 4), 5
    tokens = np.random.default_rng(0).normal(size=(2, 24, channels * 4)).astype(np.float32)
    out = np.asarray(patches.unpatchify(tokens, grid, 2))
    assert out.shape == (2, 3, 4, 8, channels)
    for t, y, x, c in np.ndindex(3, 4, 8, channels):
        token, feature = (t * 2 + y // 2) * 4 + x // 2, (c * 2 + y % 2) * 2 + x % 2
        np.testing.assert_array_equal(out[:, t, y, x, c], tokens[:, token, feature])


def test_patches_in_time_match_loop():
    """A patch of 2 frames is read frame, row, column, channel, and written channel, frame, row, column."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 6, 5)).astype(np.float32)
    tokens = patches.patchify(x, 2, 2)
    assert tokens.shape == (2, 2 * 2 * 3, 2 * 2 * 2 * 5)
    for row, (t, i, j) in enumerate(np.ndindex(2, 2, 3)):
        patch = x[:, 2 * t : 2 * t + 2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(tokens[:, row], patch.reshape(2, -1))
    out = np.asarray(patches.unpatchify(tokens, (2, 2, 3), 2, 2))
    assert out.shape == x.shape
    for t, y, x, c in np.ndindex(4, 4, 6, 5):
        token = (t // 2 * 2 + y // 2) * 3 + x // 2
        feature = ((c * 2 + t % 2) * 2 + y % 2) * 2 + x % 2
        np.testing.assert_array_equal(out[:, t, y, x, c], tokens[:, token, feature])


def test_patchify_rejects_odd_sizes():
    with pytest.raises(ValueError, match=r"3 latent frames do not divide into patches of 2 frames"):
        patches.patchify(np.zeros((1, 3, 4, 4, 1), np.float32), 2, 2)
    with pytest.raises(ValueError, match=r"height 5 and width 4.*multiples of 2"):
        patches.patchify(np.zeros((1, 1, 5, 4, 1), np.float32), 2)


def test_patches_are_exported_for_any_batch():
    x = np.random.default_rng(0).normal(size=(2, 2, 4, 6, 5)).astype(np.float32)
    there_and_back = lambda x: patches.unpatchify(patches.patchify(x, 2, 2), (1, 2, 3), 2, 2)  # noqa: E731
    shape = jax.ShapeDtypeStruct((jax.export.symbolic_shape("b")[0], *x.shape[1:]), jnp.float32)
    np.testing.assert_array_equal(jax.export.export(jax.jit(there_and_back))(shape).call(x), there_and_back(x))
