"""Attention in memory linear in the number of tokens, on any device: softmax(q k^T / sqrt(d)) v block by block.

The softmax is online (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022). Over blocks j of keys with logits
s_j, each query carries the largest logit so far m, its sum of weights l and its sum of weighted values a:

    m' = max(m, max s_j)    l' = l e^(m - m') + sum e^(s_j - m')    a' = a e^(m - m') + e^(s_j - m') v_j

and ends with a / l. The backward pass keeps no weights either. From m + log l, one number per query and head, each
block of weights p is computed anew, and with g the gradient of the output o:

    dv = p^T g    ds = p (g v^T - sum(g o))    dq = ds k    dk = ds^T q

In the code S and M are the lengths of one block of queries and one of keys, and heads stand before positions: one block
is [B K S d], a stack of n blocks [n B K S d]. The largest array of either pass is one block of weights, [B K S M], or
one of the arguments.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from motionv2v.typing import AnyArray, Float


def chunked_attention(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
    chunk_size: int = 512,
    residual_name: str = "attention",
) -> Float[AnyArray, "B S K d"]:
    """Attend block by block; exact up to rounding, sums in float32, any lengths.

    Args:
        query: what each of the S positions asks.
        key: what each of the M positions offers.
        value: what each of the M positions carries.
        chunk_size: at most this many queries and this many keys at a time.
        residual_name: name, for remat policies, of what the backward pass needs beside the arguments.

    Returns:
        The weighted values, in the dtype of `value`.

    Raises:
        ValueError: when `chunk_size` is not positive.
    """
    if chunk_size < 1:
        raise ValueError(f"attention's chunk_size must be at least 1, got {chunk_size}.")
    return _attention(query, key, value, chunk_size, residual_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(query, key, value, chunk_size, residual_name):
    return _forward(query, key, value, chunk_size)[0]


def _attention_forward(query, key, value, chunk_size, residual_name):
    out, log_sum = _forward(query, key, value, chunk_size)
    # Both have to be saved, or the backward pass would run the whole forward pass again to have the missing one.
    out, log_sum = checkpoint_name(out, residual_name), checkpoint_name(log_sum, residual_name)
    return out, (query, key, value, out, log_sum)


def _attention_backward(chunk_size, residual_name, residuals, grad):
    query, key, value, out, log_sum = residuals
    scale = query.shape[-1] ** -0.5
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    by_query = [_blocks(x, chunk_size) for x in (query * scale, grad.astype(value.dtype), delta)]
    by_query.insert(2, log_sum)
    by_key = [_blocks(key, chunk_size), _blocks(value, chunk_size), _key_bias(key, chunk_size)]

    def one_key_block(query_grads, block):
        key_block, value_block, bias = block

        def one_query_block(carry, block):
            key_grad, value_grad = carry
            q, g, log_sum, delta, query_grad = block
            weights = jnp.exp(_logits(q, key_block, bias) - log_sum)
            value_grad += _einsum("BKSM,BKSd->BKMd", weights.astype(g.dtype), g)
            logits_grad = weights * (_einsum("BKSd,BKMd->BKSM", g, value_block) - delta)
            logits_grad = logits_grad.astype(q.dtype)
            key_grad += _einsum("BKSM,BKSd->BKMd", logits_grad, q)
            query_grad += _einsum("BKSM,BKMd->BKSd", logits_grad, key_block)
            return (key_grad, value_grad), query_grad

        zeros = [jnp.zeros(x.shape, jnp.float32) for x in (key_block, value_block)]
        grads, query_grads = jax.lax.scan(one_query_block, tuple(zeros), (*by_query, query_grads))
        return query_grads, grads

    query_grads = jnp.zeros(by_query[0].shape, jnp.float32)
    query_grads, (key_grads, value_grads) = jax.lax.scan(one_key_block, query_grads, tuple(by_key))
    return (
        _whole(query_grads * scale, query.shape[1]).astype(query.dtype),
        _whole(key_grads, key.shape[1]).astype(key.dtype),
        _whole(value_grads, value.shape[1]).astype(value.dtype),
    )


_attention.defvjp(_attention_forward, _attention_backward)


def _forward(query, key, value, chunk_size):
    """Return the output and, per block of queries, the logarithm of the sum of the weights [n B K c 1]."""
    by_key = (_blocks(key, chunk_size), _blocks(value, chunk_size), _key_bias(key, chunk_size))

    def one_query_block(q):
        def one_key_block(carry, block):
            largest, total, out = carry
            key_block, value_block, bias = block
            logits = _logits(q, key_block, bias)
            new_largest = jnp.maximum(largest, logits.max(axis=-1, keepdims=True))
            weights = jnp.exp(logits - new_largest)
            shrink = jnp.exp(largest - new_largest)
            total = total * shrink + weights.sum(axis=-1, keepdims=True)
            out = out * shrink + _einsum("BKSM,BKMd->BKSd", weights.astype(value.dtype), value_block)
            return (new_largest, total, out), None

        column = jnp.zeros((*q.shape[:-1], 1), jnp.float32)
        start = (column - jnp.inf, column, jnp.zeros(q.shape, jnp.float32))
        (largest, total, out), _ = jax.lax.scan(one_key_block, start, by_key)
        return (out / total).astype(value.dtype), largest + jnp.log(total)

    out, log_sum = jax.lax.map(one_query_block, _blocks(query * query.shape[-1] ** -0.5, chunk_size))
    return _whole(out, query.shape[1]), log_sum


def _einsum(equation, *arrays):
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


def _logits(query, key, bias):
    return _einsum("BKSd,BKMd->BKSM", query, key) + bias


def _chunk(length, chunk_size):
    """Return the number of blocks and their size: even, so that the last is not mostly padding."""
    num_blocks = -(-length // chunk_size)
    return num_blocks, -(-length // num_blocks)


def _blocks(x, chunk_size):
    """Cut [B S K d] into blocks of positions [n B K c d]; the last one is padded with zeros."""
    num_blocks, size = _chunk(x.shape[1], chunk_size)
    x = jnp.pad(x, ((0, 0), (0, num_blocks * size - x.shape[1]), (0, 0), (0, 0)))
    x = x.reshape(x.shape[0], num_blocks, size, *x.shape[2:])  # [B n c K d]
    return x.transpose(1, 0, 3, 2, 4)  # [n B K c d]


def _whole(blocks, length):
    """Undo `_blocks`."""
    x = blocks.transpose(1, 0, 3, 2, 4)  # [B n c K d]
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]  # [B S K d]


def _key_bias(key, chunk_size):
    """Return [n c], minus infinity for padding: its weight is exactly 0. Every block has at least one real key.

    Queries need no such thing: a padded one gets an output that `_whole` drops, and its gradient is 0.
    """
    num_blocks, size = _chunk(key.shape[1], chunk_size)
    real = jnp.arange(num_blocks * size).reshape(num_blocks, size) < key.shape[1]
    return jnp.where(real, 0.0, -jnp.inf).astype(jnp.float32)
