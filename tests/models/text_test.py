"""T5's position buckets against loops; the encoder's invariants."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models import text

TINY = {"vocab_size": 259, "width": 24, "num_layers": 3, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}


def test_position_buckets_match_loop():
    buckets = text.position_buckets(200, num_buckets=32, max_distance=128)
    for query in (0, 77, 199):
        for key in range(200):
            distance = abs(key - query)
            if distance < 8:
                expected = distance
            else:
                # Distances 16, 32, 64 lie on an edge exactly; the nudge keeps the logarithm from falling short of it.
                expected = min(15, 8 + int(math.log(distance / 8) / math.log(16) * 8 + 1e-6))
            assert buckets[query, key] == expected + (16 if key > query else 0)


def test_encoder_sees_order_and_padding():
    """Swapping two tokens changes the others' vectors, and so does more padding: there is no mask."""
    model = text.T5Encoder(**TINY)
    tokens = jnp.array([[10, 20, 30, 1, 0, 0]])
    params = model.init(jax.random.key(0), tokens)
    out = model.apply(params, tokens)
    assert out.shape == (1, 6, 24)
    swapped = model.apply(params, tokens[:, jnp.array([1, 0, 2, 3, 4, 5])])
    assert np.abs(out[0, 2] - swapped[0, 2]).max() > 1e-3
    longer = model.apply(params, jnp.pad(tokens, ((0, 0), (0, 2))))
    assert np.abs(out[0, 0] - longer[0, 0]).max() > 1e-3


def test_token_outside_table_reads_as_nan():
    model = text.T5Encoder(**TINY)
    params = model.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    assert np.isnan(model.apply(params, jnp.array([[5, 259, 1]]))).any()
    assert not np.isnan(model.apply(params, jnp.array([[5, 258, 1]]))).any()


@pytest.mark.parametrize("settings", [{"scan_unroll": True}, {"remat": "full"}])
def test_encoder_settings_do_not_change_result(settings):
    tokens = jnp.array([[10, 20, 1], [7, 1, 0]])
    model = text.T5Encoder(**TINY)
    params = model.init(jax.random.key(0), tokens)
    # The same operations fused differently, float32.
    np.testing.assert_allclose(
        text.T5Encoder(**TINY, **settings).apply(params, tokens), model.apply(params, tokens), rtol=1e-4, atol=1e-5
    )


def test_xxl_parameter_count():
    """T5-XXL's encoder: 24 blocks of 4 x 16.8 M (attention) and 3 x 41.9 M (MLP), and a table of 131.6 M."""
    shapes = jax.eval_shape(text.T5Encoder().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == (
        32128 * 4096 + 32 * 64 + 4096 + 24 * (4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096)
    )
