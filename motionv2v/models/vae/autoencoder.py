"""The causal video autoencoder of CogVideoX: clips [B T H W 3] to latents [B t h w z] and back.

Time is compressed 4 times and space 8 times; the first latent frame comes from the first video frame alone, so
T = 4 (t - 1) + 1. Clips are encoded in chunks of 8 frames (the first takes the remainder too) and decoded in chunks of
2 latent frames. The causal convolutions carry their last input frames from chunk to chunk, so chunks do not change
them; group norms see one chunk at a time, so the chunk sizes are part of the model, as in CogVideoX as released.

Latents are unscaled here: callers multiply by `scaling_factor` before diffusion and divide by it before `decode`.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from motionv2v.models.vae import strips, tiling
from motionv2v.models.vae.layers import (
    CausalConv3d,
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialNorm,
    Upsample,
    silu_after,
)
from motionv2v.typing import AnyArray, Float, Key, PyTree


def sample_latents(
    key: Key, mean: Float[AnyArray, "*B t h w z"], logvar: Float[AnyArray, "*B t h w z"]
) -> Float[AnyArray, "*B t h w z"]:
    """Draw latents from the normal distribution with the encoder's mean and log variance."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def check_video_shape(
    frames: int, height: int, width: int, *, temporal_compression: int = 4, spatial_compression: int = 8
) -> None:
    """Check that a clip of this size can be encoded.

    Raises ValueError unless `frames` is a multiple of the temporal compression plus one and `height` and `width` are
    multiples of the spatial compression; the message names the nearest sizes that are.
    """
    n = temporal_compression
    if frames < 1 or (frames - 1) % n:
        below = max(0, (frames - 1) // n) * n + 1
        nearest = f"{below} and {below + n}" if frames > 1 else f"{below}"
        raise ValueError(f"the clip has {frames} frames; the autoencoder takes {n}k + 1 frames; nearest: {nearest}")
    n = spatial_compression
    for name, size in (("height", height), ("width", width)):
        if size < n or size % n:
            below = size // n * n
            nearest = f"{below} and {below + n}" if below else f"{n}"
            raise ValueError(f"the clip has {name} {size}; the autoencoder takes multiples of {n}; nearest: {nearest}")


def latent_shape(
    video_shape: tuple[int, ...],
    latent_channels: int = 16,
    temporal_compression: int = 4,
    spatial_compression: int = 8,
) -> tuple[int, ...]:
    """Return the shape (*B, t, h, w, z) of the latents of a clip of shape (*B, T, H, W, C).

    Raises ValueError for sizes that cannot be encoded, see `check_video_shape`.
    """
    *batch, frames, height, width, _ = video_shape
    sizes = {"temporal_compression": temporal_compression, "spatial_compression": spatial_compression}
    check_video_shape(frames, height, width, **sizes)
    t = (frames - 1) // temporal_compression + 1
    return (*batch, t, height // spatial_compression, width // spatial_compression, latent_channels)


def chunk_bounds(length: int, size: int) -> list[tuple[int, int]]:
    """Split `length` frames into chunks (start, stop) of `size`, the first of which also takes the remainder."""
    first = size + length % size if length >= size else length
    return [(0, first), *((start, start + size) for start in range(first, length, size))]


def _by_chunks(network: nn.Module, x: Float[AnyArray, "B t h w C"], size: int) -> Float[AnyArray, "B T H W D"]:
    """Run a network over chunks of frames, handing on its cache; float32.

    The first chunk differs from the others (it has no cache, and takes the remainder). The others are equal: from three
    chunks on they run in one loop, which is compiled once whatever the length of the clip.
    """
    (_, first), *others = chunk_bounds(x.shape[1], size)
    out, cache = network(x[:, :first], {})
    outs = [out]
    if len(others) == 1:
        outs.append(network(x[:, first:], cache)[0])
    elif others:
        chunks = x[:, first:].reshape(x.shape[0], -1, size, *x.shape[2:])  # [B c t h w C], c chunks
        chunks = jnp.moveaxis(chunks, 1, 0)  # [c B t h w C]
        step = nn.scan(
            lambda module, cache, chunk: module(chunk, cache)[::-1],
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, rest = step(network, cache, chunks)
        rest = jnp.moveaxis(rest, 0, 1)  # [B c T H W D]
        outs.append(rest.reshape(x.shape[0], -1, *rest.shape[3:]))  # [B c*T H W D]
    return jnp.concatenate(outs, axis=1).astype(jnp.float32)


class _Network(nn.Module):
    """What encoder and decoder share: their settings, and layers that keep what they need of the chunks before."""

    block_channels: tuple[int, ...]
    layers_per_block: int
    out_channels: int
    temporal_levels: int
    groups: int
    eps: float
    impl: str
    strip_rows: int | None = None
    dtype: DTypeLike = jnp.float32

    def _conv(self, features: int, name: str) -> CausalConv3d:
        return CausalConv3d(features, impl=self.impl, strip_rows=self.strip_rows, dtype=self.dtype, name=name)

    def _resnet(self, features: int, name: str) -> ResnetBlock:
        return ResnetBlock(features, self.groups, self.eps, self.impl, self.strip_rows, self.dtype, name=name)


def _run(cache: PyTree, new_cache: dict[str, PyTree], module: nn.Module, x: AnyArray, *args: Any) -> AnyArray:
    """Run a layer, which finds its cache under its own name; the next chunk's goes to the same place."""
    default = None if isinstance(module, CausalConv3d) else {}
    x, new_cache[module.name] = module(x, *args, cache.get(module.name, default))
    return x


class Encoder(_Network):
    """Encode one chunk of frames to moments [B t h w 2z], the mean and the log variance, given the cache so far."""

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B T H W C"], cache: PyTree) -> tuple[Float[AnyArray, "B t h w z2"], PyTree]:
        """Return the moments of the chunk and the cache for the next one."""
        new_cache: dict[str, PyTree] = {}
        run = functools.partial(_run, cache, new_cache)
        x = run(self._conv(self.block_channels[0], "conv_in"), x)
        last = len(self.block_channels) - 1
        for i, features in enumerate(self.block_channels):
            for j in range(self.layers_per_block):
                x = run(self._resnet(features, f"down_blocks_{i}_resnets_{j}"), x, None)
            if i < last:
                name = f"down_blocks_{i}_downsamplers_0"
                x = Downsample(features, i < self.temporal_levels, self.strip_rows, self.dtype, name=name)(x)
        for j in range(2):
            x = run(self._resnet(self.block_channels[-1], f"mid_block_resnets_{j}"), x, None)
        norm = GroupNorm(self.groups, self.eps, self.dtype, name="norm_out").measure(x)
        conv = self._conv(self.out_channels, "conv_out")
        out, new_cache["conv_out"] = conv(x, cache.get("conv_out"), silu_after(norm))
        return out, new_cache


class Decoder(_Network):
    """Decode one chunk of latent frames to frames, given the cache so far."""

    @nn.compact
    def __call__(
        self, latents: Float[AnyArray, "B t h w z"], cache: PyTree
    ) -> tuple[Float[AnyArray, "B T H W C"], PyTree]:
        """Return the frames of the chunk and the cache for the next one."""
        new_cache: dict[str, PyTree] = {}
        run = functools.partial(_run, cache, new_cache)
        channels = self.block_channels[::-1]
        x = run(self._conv(channels[0], "conv_in"), latents)
        for j in range(2):
            x = run(self._resnet(channels[0], f"mid_block_resnets_{j}"), x, latents)
        for i, features in enumerate(channels):
            for j in range(self.layers_per_block + 1):
                x = run(self._resnet(features, f"up_blocks_{i}_resnets_{j}"), x, latents)
            if i < len(channels) - 1:
                name = f"up_blocks_{i}_upsamplers_0"
                x = Upsample(features, i < self.temporal_levels, self.strip_rows, self.dtype, name=name)(x)
        norm = SpatialNorm(self.groups, self.eps, self.dtype, name="norm_out").measure(x, latents)
        conv = self._conv(self.out_channels, "conv_out")
        out, new_cache["conv_out"] = conv(x, cache.get("conv_out"), silu_after(norm))
        return out, new_cache


class VAE(nn.Module):
    """Encode clips to latent moments and decode latents to clips, as CogVideoX's autoencoder does.

    The defaults are CogVideoX as released. `dtype` is the compute dtype; parameters, norm statistics and results are
    float32. `conv_impl` says how convolutions are computed, see `convolution.causal`. Two ways to save memory, both
    off by default: `strip_rows` convolves that many rows at a time, which changes nothing in the result (`strips`), and
    frames larger than `tile_size` (height, width in pixels) are worked on in blended tiles, which does (`tiling`).
    Raises ValueError for a temporal compression that is not a power of two or is more than the spatial levels, for
    chunk sizes that would split a group of frames that belongs together, and for strips without rows.
    """

    block_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    latent_channels: int = 16
    norm_groups: int = 32
    in_channels: int = 3
    temporal_compression: int = 4
    eps: float = 1e-6
    scaling_factor: float = 1.15258426
    num_sample_frames_batch_size: int = 8
    num_latent_frames_batch_size: int = 2
    conv_impl: str = "auto"
    strip_rows: int | None = None
    tile_size: tuple[int, int] | None = None
    tile_overlap: tuple[float, float] = (1 / 6, 1 / 5)
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Build the encoder and the decoder."""
        levels = int(math.log2(self.temporal_compression))
        if 2**levels != self.temporal_compression or levels > len(self.block_channels) - 1:
            limit = 2 ** (len(self.block_channels) - 1)
            raise ValueError(
                f"temporal_compression is {self.temporal_compression}; expected a power of two up to {limit}"
            )
        if self.num_sample_frames_batch_size % self.temporal_compression or self.num_latent_frames_batch_size % 2:
            raise ValueError(
                f"num_sample_frames_batch_size is {self.num_sample_frames_batch_size} and num_latent_frames_batch_size "
                f"is {self.num_latent_frames_batch_size}; expected a multiple of {self.temporal_compression} and of 2"
            )
        if self.tile_size is not None and any(side % self.spatial_compression for side in self.tile_size):
            raise ValueError(f"tile_size is {self.tile_size}; expected multiples of {self.spatial_compression} pixels")
        if self.strip_rows is not None and self.strip_rows < 1:
            raise ValueError(f"strip_rows is {self.strip_rows}; expected at least 1, or None for whole frames")
        shared = {
            "block_channels": self.block_channels,
            "layers_per_block": self.layers_per_block,
            "temporal_levels": levels,
            "groups": self.norm_groups,
            "eps": self.eps,
            "impl": self.conv_impl,
            "strip_rows": self.strip_rows,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(out_channels=2 * self.latent_channels, **shared)
        self.decoder = Decoder(out_channels=self.in_channels, **shared)

    def memory_notice(self, height: int, width: int) -> str | None:
        """Say what strips or tiles cost on frames of this size in pixels; None where whole frames are worked on."""
        notices = []
        if self.strip_rows is not None and self.strip_rows < height:
            notices.append(strips.cost(height, self.strip_rows))
        if self.tile_size is not None and (self.tile_size[0] < height or self.tile_size[1] < width):
            notices.append(tiling.cost(height, width, tiling.Tiling(*self.tile_size, *self.tile_overlap)))
        return "; ".join(notices) or None

    @property
    def spatial_compression(self) -> int:
        """Return how many pixels one latent covers along each side."""
        return 2 ** (len(self.block_channels) - 1)

    def encode(
        self, video: Float[AnyArray, "B T H W C"]
    ) -> tuple[Float[AnyArray, "B t h w z"], Float[AnyArray, "B t h w z"]]:
        """Encode clips in [-1, 1] to the mean and log variance of their unscaled latents, log variance in [-30, 20].

        Raises ValueError unless T is a multiple of the temporal compression plus one and H, W are multiples of the
        spatial compression.
        """
        _, frames, height, width, channels = video.shape
        if channels != self.in_channels:
            raise ValueError(f"the clip has {channels} channels; the autoencoder takes {self.in_channels}")
        sizes = {"temporal_compression": self.temporal_compression, "spatial_compression": self.spatial_compression}
        check_video_shape(frames, height, width, **sizes)
        size = self.num_sample_frames_batch_size
        mean, logvar = jnp.split(self._tiled(self.encoder, video, size, 1, self.spatial_compression), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[AnyArray, "B t h w z"]) -> Float[AnyArray, "B T H W C"]:
        """Decode unscaled latents to clips of T = temporal compression * (t - 1) + 1 frames, near [-1, 1], not clipped.

        When t is even, the first chunk has no first frame of its own and the network, as released, draws the first
        latent as a whole group of frames; only the group's last frame is returned, so T holds for every t.
        Raises ValueError when the latents have another number of channels than the model.
        """
        if latents.shape[-1] != self.latent_channels:
            raise ValueError(f"the latents have {latents.shape[-1]} channels; the model has {self.latent_channels}")
        video = self._tiled(self.decoder, latents, self.num_latent_frames_batch_size, self.spatial_compression, 1)
        num_frames = self.temporal_compression * (latents.shape[1] - 1) + 1
        return video[:, video.shape[1] - num_frames :]

    def _tiled(self, network: nn.Module, x: AnyArray, chunk: int, size_in: int, size_out: int) -> AnyArray:
        """Run a network on x, in tiles where x is larger than `tile_size`; size_*: pixels that one element covers."""
        height, width = self.tile_size or x.shape[2:4]
        sizes = (height // size_in, width // size_in)
        if self.tile_size is None or (x.shape[2] <= sizes[0] and x.shape[3] <= sizes[1]):
            return _by_chunks(network, x, chunk)
        one_by_one = nn.scan(
            lambda module, _, tile: ((), _by_chunks(module, tile, chunk)),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        outs = (height // size_out, width // size_out)
        axes = map(tiling.cut, x.shape[2:4], sizes, outs, self.tile_overlap)
        return tiling.apply(lambda tiles: one_by_one(network, (), tiles)[1], x, *axes)

    def __call__(self, video: Float[AnyArray, "B T H W C"]) -> Float[AnyArray, "B T H W C"]:
        """Encode clips and decode the means: the reconstruction without noise."""
        mean, _ = self.encode(video)
        return self.decode(mean)
