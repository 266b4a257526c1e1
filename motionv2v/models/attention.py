"""Attention behind one function: softmax(q k^T / sqrt(head_dim)) v, with the implementation chosen by the config.

There is no mask argument on purpose. CogVideoX attends over its text and video tokens jointly and without a padding
mask, so none of the implementations has to build or read a [S S] tensor of booleans.
"""

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float

IMPLEMENTATIONS = ("xla", "chunked", "cudnn")
"""`xla` materialises the [S S] weights; `chunked` runs anywhere in memory linear in S; `cudnn` is flash attention."""


def attention(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
    implementation: str = "xla",
    *,
    chunk_size: int = 512,
) -> Float[AnyArray, "B S K d"]:
    """Attend from every query to every key, with the softmax in float32.

    Args:
        query: what each of the S positions asks, already normalised and rotated.
        key: what each of the M positions offers.
        value: what each of the M positions carries.
        implementation: one of `IMPLEMENTATIONS`. Never chosen here: the config says which.
        chunk_size: queries handled at a time by `chunked`; the others ignore it.

    Returns:
        The weighted values, in the dtype of `value`.

    Raises:
        ValueError: for an unknown implementation, or `cudnn` without a GPU or in a dtype that it lacks.
    """
    if implementation == "xla":
        return _softmax_attention(query, key, value)
    if implementation == "chunked":
        return _chunked_attention(query, key, value, chunk_size)
    if implementation == "cudnn":
        _check_cudnn(query)
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    raise ValueError(
        f"attention implementation {implementation!r} is unknown; available: {', '.join(IMPLEMENTATIONS)}."
    )


def _softmax_attention(query, key, value):
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("bqkd,bmkd->bkqm", query * scale, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bkqm,bmkd->bqkd", weights, value)


def _chunked_attention(query, key, value, chunk_size):
    """Run `chunk_size` queries at a time against all keys, so that memory is linear in S, backwards as well.

    Each chunk's softmax is exact, so nothing is rescaled afterwards. The checkpoint makes the backward pass recompute
    a chunk's weights; without it the scan would keep them all, which is the [S S] tensor again.
    """
    batch, length, heads, head_dim = query.shape
    num_chunks, rest = divmod(length, chunk_size)
    if num_chunks == 0:
        return _softmax_attention(query, key, value)
    whole = query[:, : num_chunks * chunk_size].reshape(batch, num_chunks, chunk_size, heads, head_dim)

    @jax.checkpoint
    def one_chunk(chunk):
        return _softmax_attention(chunk, key, value)

    out = jax.lax.map(one_chunk, jnp.moveaxis(whole, 1, 0))
    out = jnp.moveaxis(out, 0, 1).reshape(batch, num_chunks * chunk_size, heads, head_dim)
    if rest:
        # A shorter last chunk rather than padding: padding would need a mask.
        out = jnp.concatenate([out, one_chunk(query[:, -rest:])], axis=1)
    return out


def _check_cudnn(query):
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"attention implementation 'cudnn' needs an NVIDIA GPU, but jax runs on {jax.default_backend()!r} here; "
            "available: xla, chunked."
        )
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"attention implementation 'cudnn' takes bfloat16 or float16, got {query.dtype}.")
