"""The text encoder: T5 v1.1's encoder at any size.

CogVideoX reads captions with T5-XXL: 226 tokens, padded, and *without* a padding mask, so that padding is attended to
like any other token. A small model can use the same encoder on `tokenizer.ByteTokenizer`'s tokens, with a vocab_size
of 259 or more.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v.models import layers
from motionv2v.typing import AnyArray, Float, Int


class RMSNorm(nn.Module):
    """Divide by the root mean square and scale; no mean is taken off and nothing is added (T5's LayerNorm)."""

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*B C"]) -> Float[AnyArray, "*B C"]:
        """Return the normalised features; the statistics are taken in float32."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * scale).astype(self.dtype)


class T5Block(nn.Module):
    """Update tokens by unscaled self-attention with a position bias, then by a gated MLP; no Linear has a bias."""

    num_heads: int
    head_dim: int
    mlp_dim: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B L C"], bias: Float[AnyArray, "K L L"]) -> Float[AnyArray, "B L C"]:
        """Return the updated tokens; `bias` [heads, query, key] is added to the attention's logits."""
        width, inner = x.shape[-1], self.num_heads * self.head_dim

        def dense(name, features, variance):
            init = nn.initializers.normal(variance**-0.5)
            return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)

        def heads(name, variance):
            projected = dense(name, inner, variance)(y)
            return projected.reshape(*x.shape[:2], self.num_heads, self.head_dim)  # [B L K d]

        y = RMSNorm(self.epsilon, self.dtype, name="attention_norm")(x)
        # T5 leaves out the 1 / sqrt(head_dim) of the logits and puts it into q's initial scale instead.
        query, key, value = heads("q", width * self.head_dim), heads("k", width), heads("v", width)
        logits = jnp.einsum("BSKd,BMKd->BKSM", query, key, preferred_element_type=jnp.float32) + bias
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        y = jnp.einsum("BKSM,BMKd->BSKd", weights, value).reshape(*x.shape[:2], inner)  # [B L K*d]
        x = x + dense("o", width, inner)(y)

        y = RMSNorm(self.epsilon, self.dtype, name="mlp_norm")(x)
        gate = nn.gelu(dense("mlp_gate", self.mlp_dim, width)(y), approximate=True)
        return x + dense("mlp_down", width, self.mlp_dim)(gate * dense("mlp_up", self.mlp_dim, width)(y))


class T5Encoder(nn.Module):
    """Encode tokens as T5 v1.1's encoder does.

    Attributes:
        vocab_size: rows of the token table (T5-XXL: 32,128).
        width: C, features per token (T5-XXL: 4096).
        num_layers: blocks (T5-XXL: 24).
        num_heads: heads (T5-XXL: 64).
        head_dim: features per head (T5-XXL: 64); num_heads * head_dim need not be `width`.
        mlp_dim: hidden width of the gated MLP (T5-XXL: 10,240).
        num_buckets: distances that the position bias tells apart, half for each direction.
        max_distance: from here on all distances share a bucket.
        epsilon: of the norms.
        remat: see `layers.scan_stack`; `save_attention` keeps nothing here that `full` does not.
        scan_unroll: see `layers.scan_stack`.
        dtype: of the computation; parameters are float32.
    """

    vocab_size: int = 32128
    width: int = 4096
    num_layers: int = 24
    num_heads: int = 64
    head_dim: int = 64
    mlp_dim: int = 10240
    num_buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    remat: str | bool = "none"
    scan_unroll: int | bool = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[AnyArray, "B L"]) -> Float[AnyArray, "B L C"]:
        """Return one vector per token, padding included; a token outside the table reads as NaN, not as another."""
        table = self.param("token_embed", nn.initializers.normal(1.0), (self.vocab_size, self.width))
        x = jnp.take(table, tokens, axis=0, mode="fill").astype(self.dtype)

        init = nn.initializers.normal(self.width**-0.5)
        position_bias = self.param("position_bias", init, (self.num_buckets, self.num_heads))
        buckets = position_buckets(tokens.shape[1], self.num_buckets, self.max_distance)
        bias = position_bias.astype(jnp.float32)[buckets].transpose(2, 0, 1)  # [L L K] -> [K L L]

        block = T5Block(self.num_heads, self.head_dim, self.mlp_dim, self.epsilon, self.dtype, parent=None)

        def init_block(key):
            return block.init(key, jnp.zeros((1, 1, self.width), self.dtype), jnp.zeros((self.num_heads, 1, 1)))[
                "params"
            ]

        blocks = self.param("blocks", lambda key: layers.init_stack(key, init_block, self.num_layers))
        x = layers.scan_stack(
            lambda x, layer: block.apply({"params": layer}, x, bias),
            x,
            blocks,
            remat=self.remat,
            unroll=self.scan_unroll,
        )
        return RMSNorm(self.epsilon, self.dtype, name="final_norm")(x)


def position_buckets(length: int, num_buckets: int = 32, max_distance: int = 128) -> Int[np.ndarray, "L L"]:
    """Sort the distance from every query (row) to every key (column) into T5's buckets.

    Keys after the query use the upper half of the buckets. In each half, the first half of the buckets hold one
    distance each; the rest widen as the logarithm of the distance up to `max_distance`, and the last takes all beyond.
    """
    half = num_buckets // 2
    exact = half // 2
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    distance = np.abs(offset)
    # float32, as in T5: a distance on a bucket's edge must fall on the same side.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(wide, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)
