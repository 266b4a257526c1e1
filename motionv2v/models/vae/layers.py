"""The layers of the causal video autoencoder: convolution with a cache, the two norms, residual block, resampling.

Every layer works on `[B T H W C]`. A clip is processed in chunks of frames, so each layer with a temporal kernel takes
the last input frames of the previous chunk (its cache) and returns its own last input frames for the next one; a cache
of None means that the clip starts here. Caches are plain nested dicts keyed by layer name.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from motionv2v.models.vae import convolution, strips
from motionv2v.typing import AnyArray, Float, PyTree

Initializer = Callable[..., AnyArray]


class CausalConv3d(nn.Module):
    """Convolve over time and space so that a frame sees only itself and the frames before it.

    The kernel is `[kt kh kw C D]`. Space is padded with zeros; time is padded in front, with `cache` (the last kt - 1
    input frames of the previous chunk) or, at the start of a clip, with copies of the first frame. `impl` says how the
    sum is computed, see `convolution.causal`; with `strip_rows` it is that many rows at a time, see `strips.in_strips`.
    Returns the output and the cache for the next chunk.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    impl: str = "auto"
    strip_rows: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[AnyArray, "B T H W C"],
        cache: Float[AnyArray, "B k H W C"] | None = None,
        activate: strips.Activation | None = None,
    ) -> tuple[Float[AnyArray, "B T H W D"], Float[AnyArray, "B k H W C"]]:
        """Convolve one chunk, of `activate(x)` where that is given; see the class."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3)), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        kt, kh, _ = self.kernel_size

        def activated(x: AnyArray, index: AnyArray | None) -> AnyArray:
            return (activate(x, index) if activate else x).astype(self.dtype)

        def convolve(x: AnyArray, before: AnyArray | None) -> AnyArray:
            return convolution.causal(x, before, kernel, self.impl)

        y = strips.in_strips(convolve, activated, x, cache, rows=self.strip_rows, halo=max(1, kh // 2))
        recent = activated(x[:, max(0, x.shape[1] - (kt - 1)) :], None)
        # Only a chunk of fewer than kt - 1 frames keeps any of `before`; `recent` then begins with the chunk's first.
        before = jnp.repeat(recent[:, :1], kt - 1, axis=1) if cache is None else cache
        kept = jnp.concatenate([before, recent], axis=1)  # [B T+k H W C], k = kt - 1
        return y + bias, kept[:, kept.shape[1] - (kt - 1) :]


class PointConv(nn.Module):
    """Mix the channels of every pixel: a 1x1x1 convolution, run as a matrix product."""

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B T H W C"]) -> Float[AnyArray, "B T H W D"]:
        """Multiply the channels by the kernel [C D] and add the bias."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return x.astype(self.dtype) @ kernel + bias


class Normaliser(NamedTuple):
    """A norm whose statistics are known, so that it can be applied to any rows: x * gain + shift, then * y + b.

    Attributes:
        gain, shift: [B C], float32. y, b: [B t h w C] at the size of the latents, or None for a plain norm.
        frames, rows: of the whole clip x. dtype: of the result.
    """

    gain: AnyArray
    shift: AnyArray
    y: AnyArray | None
    b: AnyArray | None
    frames: int
    rows: int
    dtype: DTypeLike

    def __call__(self, x: Float[AnyArray, "B T h W C"], index: AnyArray | None = None) -> Float[AnyArray, "B T h W C"]:
        """Normalise the last T frames of the clip: all rows, or those with the numbers `index` [h]."""
        # The norm is one multiplication and one addition per pixel; gain and shift were worked out per channel.
        over_pixels = lambda a: a[:, None, None, None]  # noqa: E731
        normed = (x.astype(jnp.float32) * over_pixels(self.gain) + over_pixels(self.shift)).astype(self.dtype)
        if self.y is None:
            return normed
        y, b = (self._at(a, x.shape[1], index) for a in (self.y, self.b))
        # One latent's y and b hold for i x j pixels: broadcast over such blocks they need not be copied.
        batch, frames, rows, columns, channels = y.shape
        blocks = (batch, frames, rows, x.shape[2] // rows, columns, x.shape[3] // columns, channels)
        y, b = y[:, :, :, None, :, None], b[:, :, :, None, :, None]  # [B T h 1 w 1 C]
        return (normed.reshape(blocks) * y + b).reshape(x.shape)  # [B T h i w j C] -> [B T H W C]

    def _at(self, a: AnyArray, frames: int, index: AnyArray | None) -> AnyArray:
        """Take the modulation of the last `frames` frames, and of single rows where `index` asks for them."""
        a = _repeat_frames(a, self.frames)[:, self.frames - frames :]
        if index is None:
            return a
        return jnp.take(a, jnp.clip(index, 0, self.rows - 1) * a.shape[2] // self.rows, axis=2)


class GroupNorm(nn.Module):
    """Normalise groups of channels with the mean and variance over all frames and pixels of the chunk.

    Statistics and the normalisation are float32 whatever the compute dtype. Raises ValueError when the number of
    groups does not divide the channels.
    """

    groups: int = 32
    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[AnyArray, "B T H W C"]) -> Float[AnyArray, "B T H W C"]:
        """Normalise x, then scale and shift each channel."""
        return self.measure(x)(x)

    @nn.compact
    def measure(self, x: Float[AnyArray, "B T H W C"]) -> Normaliser:
        """Take the statistics of x."""
        batch, channels = x.shape[0], x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"norm_groups is {self.groups}, which does not divide {channels} channels")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def over_groups(per_channel: AnyArray) -> AnyArray:
            """Average means of channels [B C] over each group, and give the group's to each of its channels."""
            shape = (batch, self.groups, channels // self.groups)
            grouped = per_channel.reshape(shape).mean(axis=-1, keepdims=True)  # [B groups 1]
            return jnp.broadcast_to(grouped, shape).reshape(batch, channels)  # [B C]

        # Axes are not merged: on a mesh that divides rows or columns, every device would gather the merged array.
        wide = x.astype(jnp.float32)
        mean = over_groups(wide.mean(axis=(1, 2, 3)))  # [B C]
        # Two passes: E[x^2] - E[x]^2 loses digits when a channel's mean is large against its spread.
        variance = over_groups(jnp.square(wide - mean[:, None, None, None]).mean(axis=(1, 2, 3)))
        gain = scale * jax.lax.rsqrt(variance + self.eps)
        return Normaliser(gain, bias - mean * gain, None, None, x.shape[1], x.shape[2], self.dtype)


class SpatialNorm(nn.Module):
    """Normalise `x` and modulate it per pixel with the latents: norm(x) * y(latents) + b(latents).

    The maps y and b are 1x1x1 convolutions, applied at the latent size and then repeated to the size of x (the same
    result as repeating first, far fewer products). When x has an odd number of frames, above one, its first frame
    belongs to the first latent alone and the rest is shared evenly by the other latents. From MoVQ (2209.09002).
    """

    groups: int = 32
    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def __call__(
        self, x: Float[AnyArray, "B T H W C"], latents: Float[AnyArray, "B t h w z"]
    ) -> Float[AnyArray, "B T H W C"]:
        """Normalise and modulate x."""
        return self.measure(x, latents)(x)

    @nn.compact
    def measure(self, x: Float[AnyArray, "B T H W C"], latents: Float[AnyArray, "B t h w z"]) -> Normaliser:
        """Take the statistics of x and the modulation from the latents."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        # A fresh layer is a plain group norm: y = 1, b = 0.
        y = PointConv(x.shape[-1], kernel_init=zeros, bias_init=ones, dtype=self.dtype, name="conv_y")(latents)
        b = PointConv(x.shape[-1], kernel_init=zeros, dtype=self.dtype, name="conv_b")(latents)
        return GroupNorm(self.groups, self.eps, self.dtype, name="norm_layer").measure(x)._replace(y=y, b=b)


def _repeat_frames(x: AnyArray, frames: int) -> AnyArray:
    """Repeat frames evenly up to `frames`; an odd count, above one, keeps one copy of the first."""
    if frames > 1 and frames % 2 == 1:
        rest = jnp.repeat(x[:, 1:], (frames - 1) // (x.shape[1] - 1), axis=1)
        return jnp.concatenate([x[:, :1], rest], axis=1)
    return jnp.repeat(x, frames // x.shape[1], axis=1)


def silu_after(normalise: Normaliser) -> strips.Activation:
    """Return the function that normalises rows and applies SiLU to them."""
    return lambda x, index=None: nn.silu(normalise(x, index))


def unchanged(x: Float[AnyArray, "B T h W C"], _: AnyArray | None = None) -> Float[AnyArray, "B T h W C"]:
    """Return x: the activation of a convolution that has none."""
    return x


class ResnetBlock(nn.Module):
    """Add two rounds of (norm, SiLU, causal convolution) to the input; the norm is spatial when latents are given."""

    features: int
    groups: int
    eps: float
    impl: str
    strip_rows: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B T H W C"], latents: Float[AnyArray, "B t h w z"] | None, cache: PyTree
    ) -> tuple[Float[AnyArray, "B T H W D"], PyTree]:
        """Return the block's output and the caches of its two convolutions."""
        hidden, new_cache = x, {}
        for i in (1, 2):
            norm = GroupNorm if latents is None else SpatialNorm
            norm = norm(self.groups, self.eps, self.dtype, name=f"norm{i}")
            options = {"impl": self.impl, "strip_rows": self.strip_rows, "dtype": self.dtype}
            conv = CausalConv3d(self.features, **options, name=f"conv{i}")
            activate = silu_after(norm.measure(hidden, *(() if latents is None else (latents,))))
            hidden, new_cache[f"conv{i}"] = conv(hidden, cache.get(f"conv{i}"), activate)
        if x.shape[-1] != self.features:
            x = PointConv(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + hidden, new_cache


def _frame_conv_params(module: nn.Module, channels: int, features: int) -> tuple[AnyArray, AnyArray]:
    """Declare the kernel [3 3 C D] and the bias [D] of a convolution of single frames."""
    kernel = module.param("kernel", nn.initializers.lecun_normal(in_axis=(0, 1, 2)), (3, 3, channels, features))
    return kernel, module.param("bias", nn.initializers.zeros, (features,))


class Downsample(nn.Module):
    """Halve rows and columns by a strided 3x3 convolution and, with `compress_time`, first average pairs of frames.

    An odd number of frames keeps its first frame as it is. The convolution pads one zero row below and one zero column
    on the right.
    """

    features: int
    compress_time: bool
    strip_rows: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B T H W C"]) -> Float[AnyArray, "B t h w D"]:
        """Downsample x."""
        if self.compress_time:
            first = x.shape[1] % 2
            pairs = (x[:, first::2] + x[:, first + 1 :: 2]) / 2  # [B T//2 H W C]
            x = jnp.concatenate([x[:, :1], pairs], axis=1) if first else pairs  # [B t H W C]
        kernel, bias = _frame_conv_params(self, x.shape[-1], self.features)

        def convolve(x: AnyArray, _: None) -> AnyArray:
            y = convolution.conv2d(convolution.per_frame(x), kernel.astype(self.dtype), 2, ((0, 1), (0, 1)))
            return y.reshape(*x.shape[:2], *y.shape[1:])  # [B t h w D]

        y = strips.in_strips(convolve, unchanged, x.astype(self.dtype), None, rows=self.strip_rows, halo=2)
        return y + bias.astype(self.dtype)


class Upsample(nn.Module):
    """Double rows and columns by repetition, convolve each frame, and with `compress_time` double the frames.

    An odd number of frames keeps one copy of its first frame. The convolution works on single frames, so frames are
    repeated after it: half the work of repeating them before. In a twice repeated image a 3x3 kernel touches only 2x2
    different pixels, so each of the four output parities is a 2x2 convolution of the small image, with the kernel
    entries that meet the same pixel summed: the same result with 16 products instead of 36 for each small pixel.
    """

    features: int
    compress_time: bool
    strip_rows: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B t h w C"]) -> Float[AnyArray, "B T H W D"]:
        """Upsample x."""
        batch, frames, _, columns, channels = x.shape
        kernel, bias = _frame_conv_params(self, channels, self.features)
        # merge[p, a, i] = 1 where, at output parity p, kernel entry i meets small pixel a of two.
        merge = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
        kernels = jnp.einsum("pai,qbj,ijCD->pqabCD", merge, merge, kernel).astype(self.dtype)  # [2 2 2 2 C D]

        def convolve(x: AnyArray, _: None) -> AnyArray:
            small = convolution.per_frame(x)  # [M h w C]

            def parity(p: int, q: int) -> AnyArray:
                return convolution.conv2d(small, kernels[p, q], 1, ((1 - p, p), (1 - q, q)))  # [M h w D]

            by_row = [jnp.stack([parity(p, 0), parity(p, 1)], axis=3) for p in (0, 1)]  # two of [M h w 2 D]
            y = jnp.stack(by_row, axis=2)  # [M h 2 w 2 D]
            return y.reshape(batch, frames, -1, 2 * columns, self.features)  # [B t H W D]

        y = strips.in_strips(convolve, unchanged, x.astype(self.dtype), None, rows=self.strip_rows, halo=1)
        y = y + bias.astype(self.dtype)
        if self.compress_time and frames > 1:
            y = _repeat_frames(y, 2 * frames - frames % 2)
        return y
