"""Frames to the size that a network takes, in the ways of the programs whose numbers are to be compared.

    tf1      bilinear without half-pixel centres, as TensorFlow 1's resize_bilinear: pixel i comes from i * old / new
    torch    bilinear with half-pixel centres and without smoothing, as torch's interpolate(align_corners=False)
    pillow   bicubic with smoothing, of each channel as floats, as Pillow does it (clean-fid's "clean"); clipped

All ignore the aspect ratio. They make other metrics, which is no matter of rounding: of noise, tf1 and torch differ by
a fifth of the range.
"""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from motionv2v.typing import AnyArray, Float, Num, UInt8

RESIZES = ("tf1", "torch", "pillow")


def check(frames: AnyArray, resize: str) -> None:
    """Raise ValueError for what are no frames uint8 [T H W 3], and for another way than `RESIZES`."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"features are of uint8 frames [T H W 3], given {frames.dtype} {list(frames.shape)}")
    if resize not in RESIZES:
        raise ValueError(f"unknown resize {resize!r}; available: {', '.join(RESIZES)}")


def bilinear(frames: Num[AnyArray, "T H W C"], size: int, resize: str) -> Float[AnyArray, "T S S C"]:
    """Resize to `size` x `size` as "tf1" or "torch"; values keep their range. May run within jax.jit."""
    return _along(_along(frames, 1, size, resize), 2, size, resize)


def bicubic(frames: UInt8[np.ndarray, "T H W 3"], size: int) -> Float[np.ndarray, "T S S 3"]:
    """Resize to `size` x `size` as "pillow", on the host; values in 0..255, not rounded."""
    out = np.empty((len(frames), size, size, 3), np.float32)
    for index in np.ndindex(len(frames), 3):
        channel = Image.fromarray(frames[index[0], :, :, index[1]].astype(np.float32))
        out[index[0], :, :, index[1]] = channel.resize((size, size), Image.Resampling.BICUBIC)
    return out.clip(0, 255)


def _along(x: Num[AnyArray, "..."], axis: int, size: int, resize: str) -> Float[AnyArray, "..."]:
    """Resize one axis: each new pixel lies between two old ones, the last of which is repeated at the end."""
    old = x.shape[axis]
    # With the originals' rounding: TensorFlow multiplies in float32, torch rounds once, after the difference.
    scale, new = np.float32(old) / np.float32(size), np.arange(size, dtype=np.float32)
    halves = (np.float64(scale) * (new + 0.5) - 0.5).astype(np.float32)
    place = new * scale if resize == "tf1" else np.maximum(halves, 0)
    lower = np.minimum(place.astype(np.int32), old - 1)
    share = (place - lower).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    first = jnp.take(x, lower, axis).astype(jnp.float32)
    return first + (jnp.take(x, np.minimum(lower + 1, old - 1), axis).astype(jnp.float32) - first) * share
