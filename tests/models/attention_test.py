"""Attention against a loop over queries, and its implementations against each other."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.attention import attention


def _random(length=7, keys=7, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("keys", [1, 7, 11])
def test_attention_matches_loop(keys):
    query, key, value = _random(keys=keys)
    expected = np.zeros_like(query)
    for b in range(2):
        for head in range(3):
            for s in range(7):
                logits = key[b, :, head].astype(np.float64) @ query[b, s, head] / np.sqrt(8)
                weights = np.exp(logits - logits.max())
                expected[b, s, head] = (weights / weights.sum()) @ value[b, :, head]
    # float32 sums of at most 11 numbers of order 1.
    np.testing.assert_allclose(attention(query, key, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [3, 7, 64])
def test_chunked_equals_xla_with_gradients(chunk_size):
    """Chunks that leave a rest, divide the length, or exceed it give the same values and gradients."""
    arrays = _random(keys=9, seed=1)
    weight = np.random.default_rng(2).normal(size=arrays[0].shape)

    def total(implementation, *arrays):
        return jnp.sum(attention(*arrays, implementation, chunk_size=chunk_size) * weight)

    values, grads = zip(
        *[jax.value_and_grad(lambda *a, n=n: total(n, *a), (0, 1, 2))(*arrays) for n in ("xla", "chunked")], strict=True
    )
    # The same sums over queries in another order, float32.
    np.testing.assert_allclose(*values, rtol=1e-5)
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_chunked_never_holds_all_weights():
    """No array of the forward and backward pass of `chunked` has S * S elements; one of `xla` does."""
    length = 256
    shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)

    def largest(implementation):
        def total(q, k, v):
            return attention(q, k, v, implementation, chunk_size=16).sum()

        text = str(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(shape, shape, shape))
        return max(math_prod(match) for match in re.findall(r"f32\[([\d,]+)\]", text))

    def math_prod(match):
        return int(np.prod([int(n) for n in match.split(",")]))

    assert largest("xla") == length * length
    assert largest("chunked") == 16 * length


def test_softmax_is_float32_in_bfloat16():
    """512 equal weights of 1/512 add up to exactly 1; summed in bfloat16 they would stop at 256/512."""
    query = jnp.full((1, 1, 1, 4), 64.0, jnp.bfloat16)
    key = jnp.full((1, 512, 1, 4), 64.0, jnp.bfloat16)
    value = jnp.ones((1, 512, 1, 4), jnp.bfloat16)
    out = attention(query, key, value)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(out, np.float32), 1.0)


def test_unavailable_implementations_are_named():
    arrays = _random()
    with pytest.raises(ValueError, match=r"'flash' is unknown; available: xla, chunked, cudnn"):
        attention(*arrays, "flash")
    if jax.default_backend() != "gpu":
        with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*available: xla, chunked"):
            attention(*arrays, "cudnn")
