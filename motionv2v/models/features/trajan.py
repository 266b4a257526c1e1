"""TRAJAN's autoencoder of point tracks (arXiv 2504.21853): whether a video's points move as points of real videos do.

Tracks that are given (the support) become a few latent tokens, from which the path of any other point is read off,
given where that point is in one frame. A path that was read off well is one that goes with the others as paths in real
videos do.

Each support track is read by a transformer over the frames in which it is seen, whose mean is the track's token. Latent
tokens, which are learned, attend to each other and to the tracks' tokens at once. They are narrowed, kept between -1
and 1 and widened again; a point's query and all of them go through a last transformer, and the point's whole path, at
once for all frames, is what comes out at the query's place. The query's frame enters by a window of the latents'
channels alone, which starts further on for later frames.

Published weights were trained with latents rounded to 1/128 and dithered; the rounding is left out here, because its
noise differs between versions of jax. Parameters have the names of the published file.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from motionv2v.typing import AnyArray, Bool, Float, Int, PyTree

_PRECISION = jax.lax.Precision.HIGHEST


class Sizes(NamedTuple):
    """Sizes of the network; the defaults are the published one's.

    Attributes:
        frames: of a clip; shorter ones are filled up. latents, latent: number and width of the latent tokens.
        frequencies: of the sines of each coordinate. track, encoder, decoder: widths. window, stride: channels of the
            latents that a query's frame chooses, and by how many they lie apart for the next frame. heads, head: of
            attention. mlps, depths: of the transformers over a track, from tracks to latents, of latents, of a query.
    """

    frames: int = 150
    latents: int = 128
    latent: int = 64
    frequencies: int = 32
    track: int = 256
    encoder: int = 512
    decoder: int = 1024
    window: int = 128
    stride: int = 5
    heads: int = 8
    head: int = 64
    mlps: tuple[int, int, int, int] = (1024, 2048, 2048, 1024)
    depths: tuple[int, int, int, int] = (2, 6, 3, 4)


PUBLISHED = Sizes()
QUERIES = 32
"""Points that are read off at a time: each has all latent tokens for itself."""


class Trajan(nn.Module):
    """The autoencoder; called with support tracks and queries of one clip, it returns their paths."""

    sizes: Sizes = PUBLISHED

    def setup(self) -> None:
        """Declare the parts under their names in the published file."""
        sizes = self.sizes
        transformers = [
            _Transformer(sizes.heads, sizes.head, mlp, depth)
            for mlp, depth in zip(sizes.mlps, sizes.depths, strict=True)
        ]
        self.input_track_transformer, self.tracks_to_latents, self.decompress_attn, self.track_readout_attn = (
            transformers
        )
        self.initializer = _Learned((sizes.latents, sizes.encoder))
        self.track_token_projection, self.compressor = _dense(sizes.track), _dense(sizes.latent)
        self.decompressor = _dense(sizes.decoder - sizes.window)
        self.query_encoder, self.track_predictor = _dense(sizes.decoder), _dense(4 * sizes.frames)

    def __call__(
        self,
        xy: Float[AnyArray, "N T 2"],
        visible: Bool[AnyArray, "N T"],
        places: Float[AnyArray, "M 2"],
        frames: Int[AnyArray, "M"],
    ) -> Float[AnyArray, "M T 4"]:
        """Read points' paths off a clip's tracks: x, y and the logits of being visible and of being certain.

        Args:
            xy: of the support in [0, 1], pixel centres at a half; T is `sizes.frames`. visible: False behind the clip.
            places: where each point is, in [0, 1]. frames: when.
        """
        return self.decode(self.encode(xy, visible), places, frames)

    def encode(self, xy: Float[AnyArray, "N T 2"], visible: Bool[AnyArray, "N T"]) -> Float[AnyArray, "L z"]:
        """Return the latents of a clip's tracks, in [-1, 1]."""
        time = jnp.broadcast_to(jnp.arange(xy.shape[1]) / xy.shape[1], xy.shape[:2])
        tokens = self.track_token_projection(self._waves(jnp.concatenate([xy, time[..., None]], -1)))
        tokens = self.input_track_transformer(tokens, mask=visible[:, None, None, :])
        seen = visible[..., None]
        tokens = (tokens * seen).sum(1) / jnp.maximum(seen.sum(1), 1)
        latents = self.tracks_to_latents(self.initializer(), tokens)
        return jnp.clip(self.compressor(latents), -1, 1)

    def decode(
        self, latents: Float[AnyArray, "L z"], places: Float[AnyArray, "M 2"], frames: Int[AnyArray, "M"]
    ) -> Float[AnyArray, "M T 4"]:
        """Read points' paths off latents, as `__call__`."""
        sizes = self.sizes
        wide = self.decompress_attn(self.decompressor(latents))
        # The sines of sines are no mistake here, nor is the number behind them, which is the frame's in whole clips.
        identity = jnp.pad(self._waves(places), ((0, 0), (0, 1)))
        query = self.query_encoder(self._waves(identity))
        channels = frames[:, None] * sizes.stride + jnp.arange(sizes.window)
        window = jnp.take(wide, channels, axis=-1, mode="fill", fill_value=0).transpose(1, 0, 2)
        tokens = jnp.broadcast_to(wide, (len(places), *wide.shape))
        tokens = jnp.concatenate([tokens, window], -1)
        found = self.track_readout_attn(jnp.concatenate([query[:, None], tokens], 1))[:, 0]
        return self.track_predictor(found).reshape(len(places), 4, sizes.frames).transpose(0, 2, 1)

    def _waves(self, x: Float[AnyArray, "*B C"]) -> Float[AnyArray, "*B F"]:
        """Return sines, then cosines, of each coordinate at frequencies that double with every third.

        Step by step as the authors do: angles reach a thousand, and the sines of sines make much of their last digit.
        """
        frequencies = jnp.asarray(2 ** (np.arange(self.sizes.frequencies) / 3), jnp.float32)
        angles = x[..., None] * frequencies
        waves = jnp.sin(jnp.concatenate([angles, angles + 0.5 * jnp.pi], -1))
        return waves.reshape(*x.shape[:-1], -1)


def read_off(
    module: Trajan,
    params: PyTree,
    xy: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    places: Float[np.ndarray, "M 2"],
    frames: Int[np.ndarray, "M"],
) -> tuple[Float[np.ndarray, "M T 2"], Bool[np.ndarray, "M T"]]:
    """Read points' paths off the tracks of a clip, `QUERIES` at a time; where they are, and whether they are seen.

    Args:
        module, params: as `convert.trajan.load` returns them. xy, visible: the support, in [0, 1].
        places, frames: where each point is, in [0, 1], and when.

    Raises:
        ValueError: for clips that are longer than the network's.
    """
    length, most = xy.shape[1], module.sizes.frames
    if length > most:
        raise ValueError(f"TRAJAN reads clips of at most {most} frames, given {length}")
    filled = ((0, 0), (0, most - length))
    latents = _encode(module, params, np.pad(xy, (*filled, (0, 0))).astype(np.float32), np.pad(visible, filled))
    made = []
    for start in range(0, len(places), QUERIES):
        chunk = [part[start : start + QUERIES] for part in (places.astype(np.float32), frames.astype(np.int32))]
        count = len(chunk[0])
        chunk = [np.concatenate([part, np.repeat(part[-1:], QUERIES - count, axis=0)]) for part in chunk]
        made.append(np.asarray(_decode(module, params, latents, *chunk))[:count, :length])
    found = np.concatenate(made)
    # As the authors' example scores it, from both logits.
    chance = 1 / (1 + np.exp(-found[..., 2:].astype(np.float64)))
    return found[..., :2], (1 - chance[..., 0]) * (1 - chance[..., 1]) <= 0.5


@functools.cache
def parameter_shapes(sizes: Sizes = PUBLISHED) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, such as "compressor/kernel", computing nothing."""
    given = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((1, sizes.frames, 2), jnp.float32),
            ((1, sizes.frames), jnp.bool_),
            ((1, 2), jnp.float32),
            ((1,), jnp.int32),
        )
    ]
    tree = jax.eval_shape(Trajan(sizes).init, jax.random.key(0), *given)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Trajan, params: PyTree, xy: AnyArray, visible: AnyArray) -> AnyArray:
    return module.apply({"params": params}, xy, visible, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: Trajan, params: PyTree, latents: AnyArray, places: AnyArray, frames: AnyArray) -> AnyArray:
    return module.apply({"params": params}, latents, places, frames, method="decode")


class _Transformer(nn.Module):
    """Blocks and a last norm; with `others` each block attends to these as well."""

    heads: int
    head: int
    mlp: int
    depth: int

    @nn.compact
    def __call__(self, x: AnyArray, others: AnyArray | None = None, mask: AnyArray | None = None) -> AnyArray:
        for index in range(self.depth):
            x = _Block(self.heads, self.head, self.mlp, name=f"layer_{index}")(x, others, mask)
        return _norm("norm_encoder")(x)


class _Block(nn.Module):
    """Attention to itself and, beside it, to others, whose tokens come as they are; then an MLP."""

    heads: int
    head: int
    mlp: int

    @nn.compact
    def __call__(self, x, others, mask):
        normed, sizes = _norm("norm_q")(x), (self.heads, self.head)
        attended = x + _Attention(*sizes, name="self_att")(normed, normed, mask)
        if others is not None:
            attended += _Attention(*sizes, name="cross_att")(normed, others, None)
        hidden = nn.gelu(_dense(self.mlp, "MLP_in")(_norm("norm_attn")(attended)))
        return attended + _dense(x.shape[-1], "MLP_out")(hidden)


class _Attention(nn.Module):
    """Attention whose queries and keys are normalised within each head; `mask` [... 1 1 K] says which keys count."""

    heads: int
    head: int

    @nn.compact
    def __call__(self, x, others, mask):
        each = functools.partial(nn.DenseGeneral, (self.heads, self.head), use_bias=False, precision=_PRECISION)
        query = nn.RMSNorm(name="norm_query")(each(name="dense_query")(x))
        key = nn.RMSNorm(name="norm_key")(each(name="dense_key")(others))
        value = each(name="dense_value")(others)
        found = nn.dot_product_attention(query, key, value, mask=mask, precision=_PRECISION)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), precision=_PRECISION, name="dense_out")(found)


class _Learned(nn.Module):
    """Tokens that are learned."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self):
        return self.param("state_init", nn.initializers.normal(1.0), self.shape)


def _dense(features: int, name: str | None = None) -> nn.Dense:
    return nn.Dense(features, precision=_PRECISION, name=name)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(use_bias=False, name=name)
