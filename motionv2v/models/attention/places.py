"""Full attention in which tokens of one place meet by other queries and keys than tokens of different places.

Motion Inversion's embedding of queries and keys is meant for attention along time: for the few pairs of a place in
different frames. In attention over all tokens it reaches every pair, also those that compare what things look like.
Here it reaches the pairs of one place alone. With logits s, changed ones s', and the sum Z of all e^s of a query,

    out = (Z out_plain + sum over its place of (e^s' - e^s) v) / (Z + sum over its place of (e^s' - e^s))

so that no other pair is computed twice: t * t more logits a place and head.
"""

import jax.numpy as jnp

from motionv2v.models.attention.dispatch import attention_and_sum
from motionv2v.typing import AnyArray, Float

LEAST = 1e-30
"""Keeps a division by zero away where rounding takes all of a query's weight from it."""


def attention(
    grid: tuple[int, int, int],
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B S K d"],
    value: Float[AnyArray, "B S K d"],
    query_same: Float[AnyArray, "B S K d"],
    key_same: Float[AnyArray, "B S K d"],
) -> Float[AnyArray, "B S K d"]:
    """Attend from every token to every token; pairs of video tokens of one place by `query_same` and `key_same`.

    Args:
        grid: (t, h, w) of the video's tokens, which follow the text's.
        query, key, value: of all tokens. query_same, key_same: of all tokens too; the text's are not read.

    Returns:
        The weighted values, in the dtype of `value`.
    """
    out, log_sum = attention_and_sum(query, key, value)
    frames, count = grid[0], grid[0] * grid[1] * grid[2]
    length = query.shape[1] - count

    def video(x):
        """Cut the video's tokens out, places apart: [B t n K d]."""
        return x[:, length:].reshape(x.shape[0], frames, count // frames, *x.shape[2:]).astype(jnp.float32)

    def logits(query, key):
        return jnp.einsum("BtnKd,BunKd->BtnKu", video(query), video(key)) * query.shape[-1] ** -0.5

    plain, changed, whole = logits(query, key), logits(query_same, key_same), video(log_sum)
    largest = jnp.maximum(whole, changed.max(-1, keepdims=True))
    before, after, rest = (jnp.exp(x - largest) for x in (plain, changed, whole))
    more = jnp.einsum("BtnKu,BunKd->BtnKd", after - before, video(value))
    total = jnp.maximum(rest + (after - before).sum(-1, keepdims=True), LEAST)
    changed_out = (rest * video(out) + more) / total
    changed_out = changed_out.reshape(out.shape[0], count, *out.shape[2:]).astype(out.dtype)
    return jnp.concatenate([out[:, :length], changed_out], axis=1)
