"""Parts of TAPNext: the recurrence over time, the attention within a frame, the block of both, and the heads.

Sources: TRecViT (arXiv 2412.14294) for the block; Griffin (arXiv 2402.19427, section 2.4) for the recurrence. Parts and
parameters are named as in the published `.npz` files. What a token remembers of the past is its `State`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from motionv2v.models.attention.dispatch import attention
from motionv2v.models.layers import layer_norm
from motionv2v.typing import AnyArray, Bool, Float

EPSILON = 1e-6
"""Added to the variance by every norm."""


class State(NamedTuple):
    """What one block remembers of the past of B x n tokens; zeros before the first frame.

    window: [B n k-1 L], the inputs of the convolution in the last k - 1 frames, oldest first.
    hidden: float32 [B n L], the recurrence's hidden state.
    """

    window: Float[AnyArray, "B n k L"]
    hidden: Float[AnyArray, "B n L"]


class RMSNorm(nn.Module):
    """Divide by the root mean square and multiply by 1 + scale, so that a scale of 0 changes nothing."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*B C"]) -> Float[AnyArray, "*B C"]:
        """Return the normalised features; the statistics are taken in float32."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON)
        return (x * (1 + scale)).astype(self.dtype)


class BlockLinear(nn.Module):
    """Apply a linear layer to each of `num_blocks` equal parts of the features by itself."""

    num_blocks: int

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*B L"]) -> Float[AnyArray, "*B L"]:
        """Return features of the same number, in float32."""
        size = x.shape[-1] // self.num_blocks
        w = self.param("w", nn.initializers.lecun_normal(batch_axis=0), (self.num_blocks, size, size))
        b = self.param("b", nn.initializers.zeros, (self.num_blocks, size))
        # Always float32: a gate close to 1 decides how long the past is kept.
        parts = x.astype(jnp.float32).reshape(*x.shape[:-1], self.num_blocks, size)
        return (jnp.einsum("...ki,kij->...kj", parts, w) + b).reshape(x.shape)


class RgLru(nn.Module):
    """Take one step of the real-gated linear recurrence (Griffin, equations 1 to 4), in float32.

    h = a h + sqrt(1 - a^2) gate x, where a in (0, 1) depends on the input as well. In the first frame there is no past
    to make room for, and h = gate x.
    """

    num_blocks: int

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n L"], hidden: Float[AnyArray, "B n L"], first: Bool[AnyArray, ""]
    ) -> Float[AnyArray, "B n L"]:
        """Return the new hidden state, which is the output too; `first` says that this is the first frame."""
        a_param = self.param("a_param", nn.initializers.zeros, (x.shape[-1],))
        input_gate = nn.sigmoid(BlockLinear(self.num_blocks, name="input_gate")(x))
        log_a = -8.0 * nn.sigmoid(BlockLinear(self.num_blocks, name="a_gate")(x)) * nn.softplus(a_param)
        # 1 - a^2 without the cancellation when a is close to 1.
        room = jnp.where(first, 1.0, jnp.sqrt(-jnp.expm1(2 * log_a)))
        return jnp.exp(log_a) * hidden + room * input_gate * x.astype(jnp.float32)


class CausalConv(nn.Module):
    """Convolve each feature over the last k frames; the last tap is the current frame's."""

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n L"], window: Float[AnyArray, "B n k L"]
    ) -> tuple[Float[AnyArray, "B n L"], Float[AnyArray, "B n k L"]]:
        """Return the convolved features and the window for the next frame."""
        taps = jnp.concatenate([window, x[:, :, None]], axis=2)
        w = self.param("w", nn.initializers.normal(0.1), taps.shape[2:])
        b = self.param("b", nn.initializers.zeros, taps.shape[3:])
        return jnp.einsum("BnkL,kL->BnL", taps, w.astype(x.dtype)) + b.astype(x.dtype), taps[:, :, 1:]


class RecurrentBlock(nn.Module):
    """Mix each token with its own past: convolution and recurrence, gated by the present."""

    lru_width: int
    lru_blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n D"], state: State, first: Bool[AnyArray, ""]
    ) -> tuple[Float[AnyArray, "B n D"], State]:
        """Return the mixed tokens of this frame and the state after it."""
        gate = nn.gelu(nn.Dense(self.lru_width, dtype=self.dtype, name="linear_y")(x))
        y = nn.Dense(self.lru_width, dtype=self.dtype, name="linear_x")(x)
        y, window = CausalConv(name="conv_1d")(y, state.window)
        hidden = RgLru(self.lru_blocks, name="rg_lru")(y, state.hidden, first)
        out = nn.Dense(x.shape[-1], dtype=self.dtype, name="linear_out")(hidden.astype(self.dtype) * gate)
        return out, State(window, hidden)


class GatedUp(nn.Module):
    """Project features to two wider sets, of which one gates the other."""

    features: int

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B n D"]) -> Float[AnyArray, "B n F"]:
        """Return gelu(first) * second."""
        w = self.param("w", nn.initializers.lecun_normal(batch_axis=0), (2, x.shape[-1], self.features))
        b = self.param("b", nn.initializers.zeros, (2, 1, 1, self.features))
        w, b = w.astype(x.dtype), b.astype(x.dtype)
        return nn.gelu(x @ w[0] + b[0]) * (x @ w[1] + b[1])


class GatedMlp(nn.Module):
    """Widen, gate and narrow each token's features."""

    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B n D"]) -> Float[AnyArray, "B n D"]:
        """Return features of the same number."""
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="ffw_down")(GatedUp(self.mlp_dim, name="ffw_up")(x))


class TemporalBlock(nn.Module):
    """Update every token from its own past, then from itself (Griffin's residual block)."""

    mlp_dim: int
    lru_width: int
    lru_blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n D"], state: State, first: Bool[AnyArray, ""]
    ) -> tuple[Float[AnyArray, "B n D"], State]:
        """Return the updated tokens and the state after this frame."""
        y = RMSNorm(self.dtype, name="temporal_pre_norm")(x)
        y, state = RecurrentBlock(self.lru_width, self.lru_blocks, self.dtype, name="recurrent_block")(y, state, first)
        x = x + y
        y = RMSNorm(self.dtype, name="channel_pre_norm")(x)
        return x + GatedMlp(self.mlp_dim, self.dtype, name="mlp_block")(y), state


class Attention(nn.Module):
    """Attend from every token of a frame to all of them; parameters as flax's MultiHeadDotProductAttention has them."""

    num_heads: int
    implementation: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B n D"]) -> Float[AnyArray, "B n D"]:
        """Return the attended tokens."""
        shape = (self.num_heads, x.shape[-1] // self.num_heads)
        query, key, value = (nn.DenseGeneral(shape, dtype=self.dtype, name=n)(x) for n in ("query", "key", "value"))
        out = attention(query, key, value, self.implementation)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, name="out")(out)


class Mlp(nn.Module):
    """Widen and narrow each token's features."""

    mlp_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B n D"]) -> Float[AnyArray, "B n D"]:
        """Return features of the same number."""
        y = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="Dense_0")(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="Dense_1")(y)


class SpatialBlock(nn.Module):
    """Update all tokens of a frame from each other, then from themselves (a ViT's block)."""

    num_heads: int
    mlp_dim: int
    implementation: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B n D"]) -> Float[AnyArray, "B n D"]:
        """Return the updated tokens."""
        y = layer_norm("LayerNorm_0", self.dtype, EPSILON)(x)
        x = x + Attention(self.num_heads, self.implementation, self.dtype, name="MultiHeadDotProductAttention_0")(y)
        y = layer_norm("LayerNorm_1", self.dtype, EPSILON)(x)
        return x + Mlp(self.mlp_dim, self.dtype, name="MlpBlock_0")(y)


class Head(nn.Module):
    """Read `features` numbers off each query token, in float32."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B Q D"]) -> Float[AnyArray, "B Q F"]:
        """Return logits."""
        x = x.astype(jnp.float32)
        for index in (0, 3):
            x = nn.Dense(self.hidden, name=f"layers_{index}")(x)
            x = nn.gelu(layer_norm(f"layers_{index + 1}", jnp.float32, EPSILON)(x))
        return nn.Dense(self.features, name="layers_6")(x)


class Block(nn.Module):
    """Mix over time, then over the frame."""

    num_heads: int
    mlp_dim: int
    lru_width: int
    lru_blocks: int
    implementation: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n D"], state: State, first: Bool[AnyArray, ""]
    ) -> tuple[Float[AnyArray, "B n D"], State]:
        """Return the updated tokens and the state after this frame."""
        temporal = TemporalBlock(self.mlp_dim, self.lru_width, self.lru_blocks, self.dtype, name="ssm_block")
        spatial = SpatialBlock(self.num_heads, self.mlp_dim, self.implementation, self.dtype, name="vit_block")
        x, state = temporal(x, state, first)
        return spatial(x), state
