"""Position tables and stacks of blocks against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models import layers, positions


def test_timestep_embedding_values():
    out = layers.timestep_embedding(jnp.array([0, 999]), 8)
    frequency = 10_000.0 ** (-np.arange(4) / 4)
    expected = [np.concatenate([np.cos(t * frequency), np.sin(t * frequency)]) for t in (0, 999)]
    # An angle of 999 has float32 spacing 6e-5.
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_rope_matches_complex_rotation(head_dim):
    """Each feature pair of each token turns by its axis' position times its frequency; text does not turn at all."""
    grid, text = (3, 2, 5), 4
    x = np.random.default_rng(0).normal(size=(1, text + 30, 2, head_dim)).astype(np.float32)
    out = np.asarray(positions.apply_rope(x, positions.rope_table(grid, head_dim, text)))
    np.testing.assert_array_equal(out[:, :text], x[:, :text])
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    for token, position in enumerate(np.ndindex(grid)):
        angle = np.concatenate(
            [p * 10_000.0 ** (-np.arange(0, n, 2) / n) for p, n in zip(position, sizes, strict=True)]
        )
        pairs = x[0, text + token, :, 0::2] + 1j * x[0, text + token, :, 1::2]
        turned = pairs * np.exp(1j * angle)
        # float32 cosines of angles below 5.
        np.testing.assert_allclose(out[0, text + token, :, 0::2], turned.real, atol=1e-5)
        np.testing.assert_allclose(out[0, text + token, :, 1::2], turned.imag, atol=1e-5)


def test_rope_scores_depend_on_distance_only():
    """Moving query and key together by whole patches leaves their score unchanged; moving one changes it."""
    query, key = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 32)).astype(np.float32)
    cosine, sine = positions.rope_table((4, 4, 4), 32, 0)

    def score(a, b):
        rows = [np.ravel_multi_index(position, (4, 4, 4)) for position in (a, b)]
        q, k = (
            positions.apply_rope(v, (cosine[None, i], sine[None, i])) for v, i in zip((query, key), rows, strict=True)
        )
        return float(jnp.sum(q * k))

    # Sums of 32 float32 products of order 1.
    assert score((0, 1, 2), (1, 0, 1)) == pytest.approx(score((2, 3, 3), (3, 2, 2)), abs=1e-4)
    assert abs(score((0, 1, 2), (1, 0, 1)) - score((0, 1, 2), (1, 0, 3))) > 1e-2


def test_rope_of_given_positions():
    """Positions that are whole numbers from 0 are what None means; others turn by their own angle."""
    grid = (2, 3, 4)
    counted = tuple(np.arange(length) for length in grid)
    for table, expected in zip(
        positions.rope_table(grid, 16, 1, counted), positions.rope_table(grid, 16, 1), strict=True
    ):
        np.testing.assert_array_equal(table, expected)
    cosine, _ = positions.rope_table((1, 1, 2), 16, 0, (np.zeros(1), np.zeros(1), np.array([0.5, 2.25])))
    # The first pair of the columns' features: frequency 1.
    np.testing.assert_allclose(cosine[:, 5], np.cos([0.5, 2.25]), atol=1e-6)


def test_position_tables_reject_widths_that_do_not_split():
    with pytest.raises(ValueError, match=r"multiple of 16, got 24"):
        positions.rope_table((1, 1, 1), 24, 0)
    with pytest.raises(ValueError, match=r"multiple of 16, got 40"):
        positions.sincos_table((1, 1, 1), 40, 1.0, 1.0)


def test_sincos_table_matches_loop():
    grid, width = (2, 3, 4), 32
    table = np.asarray(positions.sincos_table(grid, width, 1.875, 2.0))
    for token, (t, y, x) in enumerate(np.ndindex(grid)):
        expected = []
        for position, size in ((t / 2.0, 8), (x / 1.875, 12), (y / 1.875, 12)):
            angle = position * 10_000.0 ** (-np.arange(size // 2) / (size / 2))
            expected += [np.sin(angle), np.cos(angle)]
        # Positions are float32.
        np.testing.assert_allclose(table[token], np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("remat", "unroll"),
    [("none", 1), ("full", 2), ("save_attention", True), ("save_attention_qkv_mlp", 1), (True, 1), (False, True)],
)
def test_scan_stack_matches_loop(remat, unroll):
    stack = {"w": np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)}

    def step(x, layer):
        return jnp.tanh(x @ layer["w"])

    def scanned(stack):
        return layers.scan_stack(step, jnp.ones(4), stack, remat=remat, unroll=unroll)

    def looped(stack):
        x = jnp.ones(4)
        for i in range(3):
            x = step(x, {"w": stack["w"][i]})
        return x

    # Same float32 operations, fused differently.
    np.testing.assert_allclose(scanned(stack), looped(stack), rtol=1e-5)
    grads = [jax.grad(lambda s, f=f: f(s).sum())(stack)["w"] for f in (scanned, looped)]
    np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-6)


def test_scan_stack_rejects_unknown_remat():
    with pytest.raises(ValueError, match=r"'some' is unknown; available: none, full, save_attention"):
        layers.scan_stack(lambda x, _: x, 0.0, np.zeros(2), remat="some")


def test_layer_norm_keeps_digits_far_from_zero():
    """Mean 1,000, deviation 2: the one-pass variance E[x^2] - E[x]^2 in float32 is off by percents there."""
    rng = np.random.default_rng(3)
    x = rng.normal(1000, 2, (4, 64)).astype(np.float32)
    params = {"scale": rng.normal(1, 0.3, 64).astype(np.float32), "bias": rng.normal(0, 0.3, 64).astype(np.float32)}
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    got = layers.layer_norm("norm", jnp.float32, 1e-6).apply({"params": params}, x)
    # float32 numbers near 1,000 are 6e-5 apart, against a deviation of 2; scales are below 2.
    np.testing.assert_allclose(got, normal * params["scale"] + params["bias"], atol=3e-4)
