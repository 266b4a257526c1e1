"""Attention in memory linear in the number of tokens, on any device: one head and one block of queries at a time.

A block of S queries meets all M keys of its head (in every sample), so its softmax is an ordinary one: with logits s,
m = max s and l = sum e^(s - m), the output is e^(s - m) v / l. The backward pass keeps no weights either. From
m + log l, one number per query and head, a block's weights p are computed anew; with g the gradient of the output o:

    dv = p^T g    ds = p (g v^T - sum(g o) + h)    dq = ds k    dk = ds^T q

where h is the gradient of m + log l itself, which is returned to those who combine attentions.

The largest array of either pass is one block of weights, [B S M], or one of the arguments.

One head at a time, because XLA multiplies two large matrices on a CPU faster than a stack of small ones.
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
        chunk_size: at most this many queries at a time.
        residual_name: name, for remat policies, of what the backward pass needs beside the arguments.

    Returns:
        The weighted values, in the dtype of `value`.

    Raises:
        ValueError: when `chunk_size` is not positive.
    """
    return chunked_attention_and_sum(query, key, value, chunk_size, residual_name)[0]


def chunked_attention_and_sum(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
    chunk_size: int = 512,
    residual_name: str = "attention",
) -> tuple[Float[AnyArray, "B S K d"], Float[AnyArray, "B S K 1"]]:
    """Attend as `chunked_attention`, and return the logarithm of the sum of each query's weights as well."""
    if chunk_size < 1:
        raise ValueError(f"attention's chunk_size must be at least 1, got {chunk_size}.")
    out, log_sum = _attention(query, key, value, chunk_size, residual_name)
    return out, _whole(log_sum, query.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(query, key, value, chunk_size, residual_name):
    return _forward(query, key, value, chunk_size)


def _attention_forward(query, key, value, chunk_size, residual_name):
    out, log_sum = _forward(query, key, value, chunk_size)
    # Both have to be saved, or the backward pass would run the whole forward pass again to have the missing one.
    out, log_sum = checkpoint_name(out, residual_name), checkpoint_name(log_sum, residual_name)
    return (out, log_sum), (query, key, value, out, log_sum)


def _attention_backward(chunk_size, residual_name, residuals, grads):
    query, key, value, out, log_sum = residuals
    grad, log_sum_grad = grads
    scale = query.shape[-1] ** -0.5
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

    def one_head(head):
        keys, values, *blocks = head

        def one_block(carry, block):
            key_grad, value_grad = carry
            q, g, delta, log_sum, log_sum_grad = block
            weights = jnp.exp(_einsum("BSd,BMd->BSM", q, keys) - log_sum)
            value_grad += _einsum("BSM,BSd->BMd", weights.astype(g.dtype), g)
            logits_grad = weights * (_einsum("BSd,BMd->BSM", g, values) - delta + log_sum_grad)
            logits_grad = logits_grad.astype(q.dtype)
            key_grad += _einsum("BSM,BSd->BMd", logits_grad, q)
            return (key_grad, value_grad), _einsum("BSM,BMd->BSd", logits_grad, keys)

        zeros = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
        grads, query_grad = jax.lax.scan(one_block, zeros, tuple(blocks))
        return query_grad * scale, *grads

    by_query = [_blocks(x, chunk_size) for x in (query * scale, grad.astype(value.dtype), delta)]
    query_grad, *grads = jax.lax.map(one_head, (_heads(key), _heads(value), *by_query, log_sum, log_sum_grad))
    whole = [_whole(query_grad, query.shape[1]), *(x.transpose(1, 2, 0, 3) for x in grads)]  # [B S K d]
    return tuple(x.astype(argument.dtype) for x, argument in zip(whole, (query, key, value), strict=True))


_attention.defvjp(_attention_forward, _attention_backward)


def _forward(query, key, value, chunk_size):
    """Return the output and, per head and block of queries, the logarithm of the sum of the weights [K n B S 1]."""

    def one_head(head):
        # Turned over once for all blocks, so that the product reads rows.
        queries, keys, values = head[0], head[1].swapaxes(1, 2), head[2]

        def one_block(q):
            logits = _einsum("BSd,BdM->BSM", q, keys)
            largest = logits.max(axis=-1, keepdims=True)
            weights = jnp.exp(logits - largest)
            total = weights.sum(axis=-1, keepdims=True)
            out = _einsum("BSM,BMd->BSd", weights.astype(values.dtype), values) / total
            return out.astype(values.dtype), largest + jnp.log(total)

        return jax.lax.map(one_block, queries)

    blocks = _blocks(query * query.shape[-1] ** -0.5, chunk_size)
    out, log_sum = jax.lax.map(one_head, (blocks, _heads(key), _heads(value)))
    return _whole(out, query.shape[1]), log_sum


def _einsum(equation, *arrays):
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


def _heads(x):
    """Put heads first: [B S K d] -> [K B S d]."""
    return x.transpose(2, 0, 1, 3)


def _blocks(x, chunk_size):
    """Cut [B S K d] into blocks of positions [K n B c d], even ones, so that the last is not mostly padding.

    The last one is padded with zeros: a padded query gets an output that `_whole` drops, and its gradient is 0.
    """
    num_blocks = -(-x.shape[1] // chunk_size)
    size = -(-x.shape[1] // num_blocks)
    x = jnp.pad(x, ((0, 0), (0, num_blocks * size - x.shape[1]), (0, 0), (0, 0)))
    x = x.reshape(x.shape[0], num_blocks, size, *x.shape[2:])  # [B n c K d]
    return x.transpose(3, 1, 0, 2, 4)


def _whole(blocks, length):
    """Undo `_blocks`."""
    x = blocks.transpose(2, 1, 3, 0, 4)  # [B n c K d]
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]  # [B S K d]
