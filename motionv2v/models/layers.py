"""Parts of the transformers: the timestep embedding, attention, the block and stacks of blocks."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from motionv2v.models import lora
from motionv2v.models.activations import constrain, layout
from motionv2v.models.attention import places
from motionv2v.models.attention.dispatch import attention, save_policy
from motionv2v.models.positions import apply_rope
from motionv2v.typing import AnyArray, Float, Key, Num, PyTree

REMAT_NAMES = {
    "save_attention": (),
    "save_attention_qkv": ("qkv",),
    "save_attention_qkv_mlp": ("qkv", "mlp_up"),
}
"""Policies that keep attention's output and more: projections to queries, keys and values; the MLP's hidden layer."""
REMAT_POLICIES = ("none", "full", *REMAT_NAMES)


def timestep_embedding(timestep: Num[AnyArray, "B"], width: int) -> Float[AnyArray, "B D"]:
    """Embed timesteps as `width` / 2 cosines followed by as many sines, periods 2 pi to 2 pi * 10,000.

    Args:
        timestep: in the schedule's own units (CogVideoX: 0..999).
        width: D, even.
    """
    half = width // 2
    frequency = jnp.exp(-math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.asarray(timestep, jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def init_stack(key: Key, init_fn: Callable[[Key], PyTree], depth: int) -> PyTree:
    """Initialise `depth` independent copies of a block's parameters, stacked along a new first axis."""
    return jax.vmap(init_fn)(jax.random.split(key, depth))


def scan_stack(
    step_fn: Callable, carry: PyTree, stack: PyTree, *, remat: str | bool = "none", unroll: int | bool = 1
) -> PyTree:
    """Apply `step_fn(carry, layer) -> carry` for each layer of a stack in turn, as one compiled loop.

    Args:
        step_fn: one layer; `layer` is `stack` without its first axis.
        carry: what enters the first layer; every layer returns the same structure, shapes and dtypes.
        stack: arrays with the layers on the first axis.
        remat: what the backward pass recomputes. `none` (or False) keeps every intermediate; `full` (or True) keeps
            only what passes between layers; `save_attention` also keeps each layer's attention output, and the
            other `REMAT_NAMES` what they say: more memory, fewer products computed twice.
        unroll: layers per loop iteration; True writes all of them out, which compiles slower and runs faster when
            the layers are small.

    Raises:
        ValueError: for an unknown `remat`.
    """
    policy = {True: "full", False: "none"}[remat] if isinstance(remat, bool) else remat
    if policy not in REMAT_POLICIES:
        raise ValueError(f"remat {remat!r} is unknown; available: {', '.join(REMAT_POLICIES)}.")

    def step(carry, layer):
        return step_fn(carry, layer), None

    if policy == "full":
        # `prevent_cse` keeps the compiler from merging what is recomputed with what was computed before. Across the
        # iterations of a loop it cannot do so anyway, and there the barrier would only cost time.
        step = jax.checkpoint(step, prevent_cse=unroll is True)
    elif policy in REMAT_NAMES:
        step = jax.checkpoint(step, prevent_cse=unroll is True, policy=save_policy(*REMAT_NAMES[policy]))
    return jax.lax.scan(step, carry, stack, unroll=unroll)[0]


class LayerInputs(NamedTuple):
    """What a method adds inside one layer (`dit.Control.motion`, `models.lora`); None leaves a part out.

    `qk` is added to what queries and keys are read from, `v` to what values are read from, both for the video's tokens
    alone: each a vector a frame, [t D], or a frame and place, [t h w D]. On another grid than the tokens' they are
    brought to it by linear interpolation. `qk_same` is as `qk`, but only where queries and keys of one place meet, as
    along time, within attention over all tokens (`models.attention.places`). `lora` holds low-rank updates of the
    layer's Linear layers.
    """

    qk: Float[AnyArray, "t *n D"] | None = None
    v: Float[AnyArray, "t *n D"] | None = None
    qk_same: Float[AnyArray, "t *n D"] | None = None
    lora: dict[str, Any] | None = None


NO_INPUTS = LayerInputs()


class Attention(nn.Module):
    """Attend along some axes of the tokens; queries and keys are normalised per head, then rotated."""

    num_heads: int
    head_dim: int
    implementation: str = "xla"
    axes: str = "thw"
    zero_init: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "B S D"],
        rope: tuple[AnyArray, AnyArray] | None = None,
        grid: tuple[int, int, int] | None = None,
        inputs: LayerInputs = NO_INPUTS,
    ) -> Float[AnyArray, "B S D"]:
        """Return the attended tokens.

        Args:
            x: text tokens, then the video's. rope: `rope_table` for all S, or None.
            grid: (t, h, w) of the video's tokens, needed for other axes than `thw` and for `inputs`.
            inputs: of this layer; motion embeddings enter where attention runs along time.
        """
        qk, v, qk_same = (inputs.qk, inputs.v, inputs.qk_same) if "t" in self.axes else (None, None, None)
        if self.axes == "t" and qk_same is not None:
            qk, qk_same = qk_same if qk is None else qk + qk_same, None  # all that meet here are of one place
        dense = {n: nn.Dense(self.num_heads * self.head_dim, dtype=self.dtype, name=n) for n in ("q", "k", "v")}
        norms = {n: layer_norm(f"{n}_norm", self.dtype, 1e-6) for n in ("q", "k")}

        def heads(name, source):
            projected = lora.update(dense[name](source), source, inputs.lora, name)
            projected = checkpoint_name(constrain(projected, "features"), "qkv")
            projected = projected.reshape(*x.shape[:2], self.num_heads, self.head_dim)  # [B S K d]
            if name == "v":
                return projected
            projected = norms[name](projected)
            # The layout is fixed here too, so that devices exchange these, and their gradients on the way back, in
            # this dtype and not in the rotation's float32.
            return projected if rope is None else constrain(apply_rope(projected, rope), "features")

        asked = _with_motion(x, qk, grid)
        query, key, value = heads("q", asked), heads("k", asked), heads("v", _with_motion(x, v, grid))
        if qk_same is None:
            out = _attend_along(self.axes, grid, query, key, value, self.implementation)
        else:
            asked = _with_motion(asked, qk_same, grid)
            attend = functools.partial(places.attention, grid)
            out = _attend(attend, query, key, value, heads("q", asked), heads("k", asked))
        out = constrain(out.reshape(x.shape), "features")  # [B S K d] -> [B S D]
        kernel_init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=kernel_init, name="o")(out)
        return lora.update(y, out, inputs.lora, "o")


def _with_motion(x, motion, grid):
    """Add an embedding [t D] or [t h w D], of any t, h and w, to the video's tokens of x [B S D]."""
    if motion is None:
        return x
    if motion.ndim == 2:
        motion = motion[:, None, None]
    if motion.shape[1:3] == (1, 1):
        motion = _resized(motion, (grid[0], 1, 1))
        motion = jnp.broadcast_to(motion, (*grid, motion.shape[-1]))
    motion = _resized(motion, grid).reshape(-1, motion.shape[-1])  # [n D]
    return x + jnp.pad(motion, ((x.shape[1] - motion.shape[0], 0), (0, 0))).astype(x.dtype)


def _resized(motion, grid):
    """Bring an embedding [t h w D] to another grid; what has it already stays bit for bit."""
    if motion.shape[:3] == tuple(grid):
        return motion
    return jax.image.resize(motion, (*grid, motion.shape[-1]), "linear", antialias=False)


def _attend_along(axes, grid, query, key, value, implementation):
    """Attend over all tokens (`thw`), within each frame and its text (`hw`), or each place's frames (`t`).

    Text attends once per frame in `hw` and takes the mean; in `t` it takes no part, and its rows are zeros.
    """
    attend = functools.partial(attention, implementation=implementation)
    if axes == "thw":
        return _attend(attend, query, key, value)
    t, h, w = grid
    length = query.shape[1] - t * h * w
    text, video = zip(*(jnp.split(x, [length], axis=1) for x in (query, key, value)), strict=True)
    if axes == "hw":
        parts = [
            jnp.concatenate([jnp.repeat(of_text, t, 0), einops.rearrange(x, "B (t n) K d -> (B t) n K d", t=t)], 1)
            for of_text, x in zip(text, video, strict=True)
        ]
        out_text, out = jnp.split(_attend(attend, *parts), [length], axis=1)
        out_text = einops.reduce(out_text, "(B t) L K d -> B L K d", "mean", t=t)
        return jnp.concatenate([out_text, einops.rearrange(out, "(B t) n K d -> B (t n) K d", t=t)], axis=1)
    parts = [einops.rearrange(x, "B (t n) K d -> (B n) t K d", t=t) for x in video]
    out = einops.rearrange(_attend(attend, *parts), "(B n) t K d -> B (t n) K d", n=h * w)
    return jnp.concatenate([jnp.zeros_like(text[0]), out], axis=1)


def _attend(attend, *arrays):
    """Call an attention with arrays [B S K d]. On a mesh each device first gets all tokens of some of the heads.

    `shard_map` says so by hand, because compilers cannot divide a kernel that was written for one kind of device.
    """
    spec = layout(arrays[0].shape, "heads")
    if spec is None:
        return attend(*arrays)
    return jax.shard_map(attend, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False)(*arrays)


def attention_names(axes: tuple[str, ...]) -> tuple[str, ...]:
    """Name a block's attention modules: the first as in CogVideoX, so that its weights fit, others by their axes."""
    return ("attention", *(f"attention_{along}" for along in axes[1:]))


class Block(nn.Module):
    """Update text and video tokens by joint attention and a shared MLP, each stream modulated by the time embedding.

    Attributes:
        axes: along which axes the block attends, one attention after the other, see `_attend_along`.
        zero_init_modulation: start as the identity. Attentions after the first one always do, so that a model without
            them can be grown.
    """

    num_heads: int
    head_dim: int
    mlp_ratio: int = 4
    attention_implementation: str = "xla"
    zero_init_modulation: bool = False
    axes: tuple[str, ...] = ("thw",)
    dtype: Any = jnp.float32

    @property
    def step_names(self) -> tuple[str, ...]:
        """Name what the block does in turn, each step with a norm and a modulation of its own."""
        return (*attention_names(self.axes), "mlp")

    def setup(self) -> None:
        """Declare the layers; those that read the time have parameters only where `read_time` is called."""
        width = self.num_heads * self.head_dim
        for along, name in zip(self.axes, attention_names(self.axes), strict=True):
            is_added = name != "attention"
            sizes = (self.num_heads, self.head_dim, self.attention_implementation)
            setattr(self, name, Attention(*sizes, along, is_added, self.dtype))
        for name in self.step_names:
            setattr(self, f"{name}_norm", layer_norm(None, self.dtype))
            setattr(self, f"{name}_modulation", modulation(6 * width, self.zero_init_modulation, self.dtype))
        self.mlp_up = nn.Dense(self.mlp_ratio * width, dtype=self.dtype)
        self.mlp_down = nn.Dense(width, dtype=self.dtype)

    def read_time(self, time: Float[AnyArray, "B E"]) -> dict[str, Float[AnyArray, "B F"]]:
        """Return the modulations of each of the block's steps at a time embedding: its shifts, scales and gates."""
        return {f"{name}_modulation": getattr(self, f"{name}_modulation")(nn.silu(time)) for name in self.step_names}

    def __call__(
        self,
        x: Float[AnyArray, "B S D"],
        text_length: int,
        modulations: PyTree,
        rope: tuple[AnyArray, AnyArray] | None = None,
        grid: tuple[int, int, int] | None = None,
        inputs: LayerInputs = NO_INPUTS,
    ) -> Float[AnyArray, "B S D"]:
        """Return the updated tokens.

        Args:
            x: the first `text_length` of the tokens are text.
            modulations: {name: [B F]} from `read_time`; or [1 F] for the whole batch, from `models.time_tables`.
            rope, grid, inputs: as for `Attention`; `lora` by the names of the steps.
        """
        for name in self.step_names[:-1]:
            y, gate = self._modulate(name, x, text_length, modulations)
            y = getattr(self, name)(y, rope, grid, inputs._replace(lora=lora.within(inputs.lora, name)))
            x = x + _per_stream(jnp.multiply, text_length, y, gate)

        y, gate = self._modulate("mlp", x, text_length, modulations)
        up = constrain(lora.update(self.mlp_up(y), y, inputs.lora, "mlp_up"), "features")
        up = nn.gelu(checkpoint_name(up, "mlp_up"), approximate=True)
        y = lora.update(self.mlp_down(up), up, inputs.lora, "mlp_down")
        return constrain(x + _per_stream(jnp.multiply, text_length, y, gate), "tokens")

    def _modulate(self, name, x, text_length, modulations):
        """Normalise, shift and scale the tokens of both streams; return them and the streams' gates [B 2 D]."""
        of_streams = modulations[f"{name}_modulation"].reshape(-1, 2, 3, x.shape[-1])  # [B 2 3 D]
        shift, scale, gate = jnp.moveaxis(of_streams, 2, 0)  # 3 of [B 2 D]
        normed = getattr(self, f"{name}_norm")(x)
        y = _per_stream(lambda x, scale, shift: x * (1 + scale) + shift, text_length, normed, scale, shift)
        return constrain(y, "tokens"), gate


def _per_stream(fn, text_length, x, *values):
    """Compute `fn(x, *values)` where tokens [B S D] take the values [B 2 D] of their stream: video's, then text's.

    The stream is looked up for each token: cutting a sequence that is divided over devices in two, and joining it
    again, would send all of it around. `checkpoint` repeats the look-up in the backward pass, which would otherwise
    keep a value for every token.
    """

    # `prevent_cse` would put barriers around this, and the compiler could not fuse it with its neighbours.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(x, *values):
        is_text = jnp.arange(x.shape[1])[:, None] < text_length
        return fn(x, *(jnp.where(is_text, value[:, 1:], value[:, :1]) for value in values))

    return run(x, *values)


def layer_norm(name: str | None, dtype: Any, epsilon: float = 1e-5) -> nn.LayerNorm:
    """Build a LayerNorm with scale and bias whose statistics are float32 and taken in two passes.

    The one-pass variance E[x^2] - E[x]^2 loses digits that parity with the released weights needs.
    """
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


def modulation(features: int, zero_init: bool, dtype: Any, name: str | None = None) -> nn.Dense:
    """Build the Linear layer that reads shifts, scales and gates off the time embedding; give it `silu(time)`.

    With `zero_init` everything it yields starts at 0.
    """
    kernel_init = nn.initializers.zeros if zero_init else nn.initializers.lecun_normal()
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)
