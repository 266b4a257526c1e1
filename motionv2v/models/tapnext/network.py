"""TAPNext: point tracking as masked decoding of coordinate tokens, one frame after another.

A frame is cut into patches, one token each. Every query point adds a token of its own: "not asked yet" before its
frame, its position's embedding in its frame, "where is it now?" afterwards. A block first mixes each token with its
own past (a gated linear recurrence, RG-LRU, after a short convolution over time), then all tokens of the frame with
each other (a ViT block). Two small networks read off a query token in which row and which column the point is, as
logits over pixels, and whether it can be seen. Nothing ever looks at a later frame, and what is remembered of the past
has a fixed size, `State`: a clip may be as long as it likes.

Source: TAPNext (arXiv 2504.05579). The parameters have the names and the shapes of the published `.npz` files, and this
module speaks their convention: queries are (t, y, x), positions (y, x), in pixels of the network's square picture with
(0, 0) at the corner of the top-left pixel. `trackers/tapnext.py` turns that into this package's xy.

The network is here to run with published weights; how it starts untrained is not tuned.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from motionv2v.models.layers import layer_norm
from motionv2v.models.tapnext.layers import EPSILON, Block, Head, State
from motionv2v.typing import AnyArray, Bool, Float, Int, PyTree, UInt8

NEIGHBOURHOOD = 20
"""Pixels on either side of the likeliest row or column over which the position is averaged."""

TEMPERATURE = 0.5
"""Factor on the logits before that average."""

CERTAINTY_RADIUS = 6
"""Pixels around the position within which the probability counts as certainty (the authors' JAX demo)."""


class Transformer(nn.Module):
    """Apply the blocks in turn and normalise what comes out."""

    depth: int
    block: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B n D"], states: tuple[State, ...], first: Bool[AnyArray, ""]
    ) -> tuple[Float[AnyArray, "B n D"], tuple[State, ...]]:
        """Return the tokens and the blocks' states after this frame."""
        after = []
        for index in range(self.depth):
            x, state = Block(**self.block, dtype=self.dtype, name=f"encoderblock_{index}")(x, states[index], first)
            after.append(state)
        return layer_norm("encoder_norm", self.dtype, EPSILON)(x), tuple(after)


class Backbone(nn.Module):
    """Turn a frame and the queries into tokens and transform them."""

    width: int
    depth: int
    patch_size: int
    block: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        frame: Float[AnyArray, "B H W 3"],
        queries: Float[AnyArray, "B Q 3"],
        step: Int[AnyArray, ""],
        states: tuple[State, ...],
    ) -> tuple[Float[AnyArray, "B Q D"], tuple[State, ...]]:
        """Return the queries' tokens after the last block, and the blocks' states."""
        patch = (1, self.patch_size, self.patch_size)
        embed = nn.Conv(self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="embedding")
        image = embed(frame[:, None]).reshape(frame.shape[0], -1, self.width)
        init = nn.initializers.normal(0.02)
        image = image + self.param("pos_embedding", init, (1, image.shape[1], self.width)).astype(self.dtype)
        unknown = self.param("unknown_token", init, (1, 1, self.width))
        # The two other tokens have an axis for the frames, which come one by one here.
        asked = self.param("point_query_token", init, (1, 1, 1, self.width))[:, 0]
        masked = self.param("mask_token", init, (1, 1, 1, self.width))[:, 0]
        asked = asked + position_embedding(queries[..., 1:], frame.shape[1:3], self.width)
        ahead = queries[..., :1] - step
        points = jnp.where(ahead > 0, unknown, jnp.where(ahead == 0, asked, masked)).astype(self.dtype)
        x = jnp.concatenate([image, points], axis=1)
        x, states = Transformer(self.depth, self.block, self.dtype, name="Transformer")(x, states, step == 0)
        return x[:, image.shape[1] :], states


class TapNext(nn.Module):
    """Follow query points into one more frame.

    The defaults are the published network's (194.2 M parameters).

    Attributes:
        image_size: side of the square picture in pixels, and number of rows and columns that the head tells apart.
        patch_size: side of a patch in pixels.
        width: D, features of a token; a multiple of 4 and of num_heads.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_dim: hidden width of both MLPs of a block.
        lru_width: L, features of the recurrence; a multiple of lru_blocks.
        lru_blocks: parts of the features that the recurrence's gates treat apart.
        conv_width: frames that the convolution over time sees, this one included.
        head_dim: hidden width of the two heads.
        implementation: see `attention.dispatch.IMPLEMENTATIONS`.
        dtype: of what is computed; norms' statistics, the recurrence and the heads stay float32.
    """

    image_size: int = 256
    patch_size: int = 8
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    lru_width: int = 768
    lru_blocks: int = 12
    conv_width: int = 4
    head_dim: int = 256
    implementation: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        frame: Float[AnyArray, "B H W 3"],
        queries: Float[AnyArray, "B Q 3"],
        step: Int[AnyArray, ""],
        states: tuple[State, ...],
    ) -> tuple[Float[AnyArray, "B Q M"], Float[AnyArray, "B Q"], tuple[State, ...]]:
        """Look at frame number `step`, and return logits of position and of visibility and the states after it.

        Args:
            frame: in [-1, 1], image_size pixels high and wide.
            queries: (t, y, x), t a whole number.
            step: 0 for the first frame, which needs the states of `initial_states`.
            states: what the call for the frame before returned.

        Returns:
            Logits of the image_size rows, then of the columns (M = 2 * image_size); logits of being visible; states.
            Before its own frame a query's logits mean nothing.
        """
        names = ("num_heads", "mlp_dim", "lru_width", "lru_blocks", "implementation")
        block = {name: getattr(self, name) for name in names}
        backbone = Backbone(self.width, self.depth, self.patch_size, block, self.dtype, name="backbone")
        x, states = backbone(frame, queries, step, states)
        position = Head(self.head_dim, 2 * self.image_size, name="coordinate_head")(x)
        return position, Head(self.head_dim, 1, name="visible_head")(x)[..., 0], states

    @nn.nowrap
    def initial_states(self, batch: int, num_queries: int) -> tuple[State, ...]:
        """Return the states before the first frame for `batch` clips with `num_queries` points each: zeros."""
        tokens = (self.image_size // self.patch_size) ** 2 + num_queries
        window, hidden = (batch, tokens, self.conv_width - 1, self.lru_width), (batch, tokens, self.lru_width)
        # Arrays of their own for each block: a caller may donate them.
        return tuple(State(jnp.zeros(window, self.dtype), jnp.zeros(hidden, jnp.float32)) for _ in range(self.depth))


def position_embedding(yx: Float[AnyArray, "*B 2"], size: tuple[int, int], width: int) -> Float[AnyArray, "*B D"]:
    """Read the fixed table of sines and cosines at positions in pixels, between pixel centres linearly.

    The table has a row of `width` features per pixel: sin x, cos x, sin y, cos y at width / 4 frequencies from 1 down
    to 1e-4 each (MoCo v3). It is never built: of features that depend on x alone, bilinear interpolation is linear
    interpolation in x. Outside the outermost pixel centres their features go on.
    """
    count = width // 4
    frequency = 10_000.0 ** (-jnp.arange(count, dtype=jnp.float32) / max(count - 1, 1))
    parts = []
    for axis in (1, 0):
        last = size[axis] - 1
        at = jnp.clip(yx[..., axis] - 0.5, 0, last)[..., None]
        low = jnp.floor(at)
        rest = at - low
        low, high = low * frequency, jnp.minimum(low + 1, last) * frequency
        parts += [wave(low) * (1 - rest) + wave(high) * rest for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate(parts, axis=-1)


def decode(logits: Float[AnyArray, "*B M"]) -> tuple[Float[AnyArray, "*B 2"], Float[AnyArray, "*B"]]:
    """Turn the coordinate head's logits (rows, then columns) into positions (y, x) in pixels and their certainty.

    A coordinate is the mean over the pixels within `NEIGHBOURHOOD` of the likeliest one, weighted by the softmax of
    `TEMPERATURE` times the logits. Certainty, in [0, 1], is the probability (softmax of the logits themselves) of all
    pixels whose centres lie within `CERTAINTY_RADIUS` of the position. Near the right and the lower edge the authors'
    demo shifts this disc by some pixels; here it stays where the point is.
    """
    logits = logits.reshape(*logits.shape[:-1], 2, -1)
    index = jnp.arange(logits.shape[-1])
    near = jnp.abs(index - jnp.argmax(logits, axis=-1, keepdims=True)) <= NEIGHBOURHOOD
    weights = jax.nn.softmax(jnp.where(near, logits * TEMPERATURE, -jnp.inf), axis=-1)
    yx = jnp.sum(weights * index, axis=-1) + 0.5
    # All pixels within the radius are among these 2 * radius + 1 rows and as many columns.
    start = jnp.floor(yx - CERTAINTY_RADIUS - 0.5).astype(jnp.int32)
    window = start[..., None] + jnp.arange(2 * CERTAINTY_RADIUS + 1)
    inside = (window >= 0) & (window < logits.shape[-1])
    probability = jax.nn.softmax(logits, axis=-1)
    probability = inside * jnp.take_along_axis(probability, jnp.clip(window, 0, logits.shape[-1] - 1), axis=-1)
    squared = jnp.square(window + 0.5 - yx[..., None])
    disc = squared[..., 0, :, None] + squared[..., 1, None, :] <= CERTAINTY_RADIUS**2 + 1e-8
    return yx, jnp.sum(disc * probability[..., 0, :, None] * probability[..., 1, None, :], axis=(-2, -1))


def follow(
    module: TapNext,
    params: PyTree,
    frames: UInt8[AnyArray, "T H W 3"],
    queries: Float[AnyArray, "Q 3"],
    step: Int[AnyArray, ""],
    states: tuple[State, ...],
) -> tuple[Float[AnyArray, "T Q 2"], Float[AnyArray, "T Q"], Float[AnyArray, "T Q"], tuple[State, ...]]:
    """Follow points through frames `step`, `step` + 1, ... of one clip, as a scan that carries the states.

    Returns positions (y, x) in pixels, probabilities of being visible, certainties (see `decode`), and the states with
    which the next frames go on.
    """

    def one(carry, frame):
        states, step = carry
        picture = frame.astype(jnp.float32) / 127.5 - 1
        position, visible, states = module.apply({"params": params}, picture[None], queries[None], step, states)
        yx, certainty = decode(position[0])
        return (states, step + 1), (yx, nn.sigmoid(visible[0]), certainty)

    (states, _), (yx, visible, certainty) = jax.lax.scan(one, (states, step), frames)
    return yx, visible, certainty, states


def parameter_shapes(module: TapNext) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, such as "backbone/embedding/kernel", computing nothing."""

    def init(key):
        frame = jnp.zeros((1, module.image_size, module.image_size, 3))
        queries = jnp.zeros((1, 1, 3))
        return module.init(key, frame, queries, jnp.zeros((), jnp.int32), module.initial_states(1, 1))["params"]

    leaves = flatten_dict(jax.eval_shape(init, jax.random.key(0)), sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}
