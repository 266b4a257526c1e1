"""Ways to compute the autoencoder's causal 3x3x3 convolution on a CPU: what `cogvideox.py --variants` times.

Each takes a chunk of frames, the two frames before it, a kernel and a bias, and returns the chunk's output: joining the
frames, padding and bias included, on both sides. All of them must return the same numbers.

What `--variants --cpu-time --quick --repeats 3 --shape 8 48 64 128 128` counts, as multiples of PyTorch's 111 GFLOP/s
of one core's time (2-core AMD EPYC that ran other programs, 2026-11-21, jax 0.10.2, torch 2.13.0; the operations are
those of the plain sum):

    winograd F(4, 3) over time           1.55    torch conv3d, either layout        1.00
    winograd F(4x4, 3x3) over space      1.41    conv2d, channels before rows       0.76
    3 conv2d, added                      0.84    im2col and one matmul              0.58
    conv2d, frames on the channel axis   0.83    winograd F(2x2, 3x3) over space    0.55
    27 shifted matmuls                   0.54    conv3d, channels last, first       0.44, 0.41

XLA's 2-D convolution comes near PyTorch's rate and cannot pass it: only fewer products can. Filters over time add whole
frames up, which compiles to a few loops; filters over space cut frames into 16 or 36 sets of pixels and move much more
memory; F(4x4, 3x3) took ten times as long to compile and rounds three times as coarsely.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from against_diffusers import number, print_table
from cogvideox_sides import SIZES, Checked, Size, clock, make_config

from motionv2v.models.vae import convolution
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.models.vae.layers import CausalConv3d

Shape = tuple[int, int, int, int, int]
"""Frames, rows, columns, channels in, channels out."""

SPACE = ((1, 1), (1, 1))
TAPS = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]


def run(options: argparse.Namespace) -> None:
    """Print the GFLOP/s of every formulation at each size's three largest shapes."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    for size in options.size:
        shapes = [tuple(options.shape)] if options.shape else largest_shapes(SIZES[size])
        columns = []
        for shape in shapes:
            checked = Checked(f"convolution {shape}")
            runs = {name: checked.wrap(name, call) for name, call in make_runs(shape).items()}
            timings = clock(runs, options)
            columns.append({name: number(flops(shape) / timing.median / 1e6) for name, timing in timings.items()})
        head = [f"{size}, GFLOP/s", *(show(shape) for shape in shapes)]
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        print_table(head, rows, options.markdown)


def largest_shapes(size: Size, count: int = 3) -> list[Shape]:
    """Return the shapes of the convolutions in which the autoencoder does most of its work, largest first.

    Chunks of another number of frames are the same shape: the first chunk stands for all.
    """
    work: dict[tuple[int, ...], float] = {}
    frames: dict[tuple[int, ...], int] = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, CausalConv3d) and context.method_name == "__call__":
            _, length, *rest = args[0].shape
            key = (*rest, context.module.features)
            work[key] = work.get(key, 0) + flops((length, *key))
            frames.setdefault(key, length)
        return call(*args, **kwargs)

    vae = VAE(**make_config(size).vae)
    video = jax.ShapeDtypeStruct((1, *size.clip, 3), jnp.float32)
    params = jax.eval_shape(vae.init, jax.random.key(0), video)
    with nn.intercept_methods(record):
        # Encodes and decodes.
        jax.eval_shape(vae.apply, params, video)
    found = sorted(work, key=work.get, reverse=True)[:count]
    return [(frames[key], *key) for key in found]


def flops(shape: Shape) -> float:
    """Count the operations of one convolution, a product and its sum as two."""
    return 2.0 * 27 * np.prod(shape)


def show(shape: Shape) -> str:
    frames, rows, columns, channels, features = shape
    return f"{frames}x{rows}x{columns}, {channels} to {features}"


def make_runs(shape: Shape) -> dict[str, Callable[[], np.ndarray]]:
    """Build the calls, ours and PyTorch's, on shared numbers; each in the layout it is for."""
    (frames, rows, columns, channels, features), rng = shape, np.random.default_rng(0)
    x = rng.standard_normal((1, frames, rows, columns, channels), np.float32)
    cache = rng.standard_normal((1, 2, rows, columns, channels), np.float32)
    kernel = rng.standard_normal((3, 3, 3, channels, features), np.float32) / np.sqrt(27 * channels, dtype=np.float32)
    bias = rng.standard_normal(features, np.float32)
    args = [jnp.array(value) for value in (x, cache, kernel, bias)]
    runs = {f"JAX: {name}": partial(_ours, jax.jit(f), args) for name, f in LAST.items()}
    # Channels before rows (of each frame) or before frames: only the inputs change place, kernels are small.
    for axis, variants in ((2, FRAMES_FIRST), (1, CHANNELS_FIRST)):
        moved = [jnp.array(np.moveaxis(value, -1, axis)) for value in (x, cache)]
        for name, f in variants.items():
            runs[f"JAX: {name}"] = partial(_ours, jax.jit(f), [*moved, *args[2:]], axis)
    for name, layout in (("", torch.contiguous_format), (", channels last in memory", torch.channels_last_3d)):
        tensors = [torch.from_numpy(value).movedim(-1, 1) for value in (x, cache)]
        tensors.append(torch.from_numpy(kernel).permute(4, 3, 0, 1, 2))
        tensors = [tensor.contiguous(memory_format=layout) for tensor in tensors]
        runs[f"torch: conv3d{name}"] = partial(_theirs, [*tensors, torch.from_numpy(bias)])
    return runs


def _ours(f: Callable, args: list, axis: int = -1) -> np.ndarray:
    return np.moveaxis(np.asarray(f(*args)), axis, -1)


def _theirs(args: list) -> np.ndarray:
    x, cache, kernel, bias = args
    return torch.nn.functional.conv3d(torch.cat([cache, x], 2), kernel, bias, padding=(0, 1, 1)).movedim(1, -1).numpy()


def _module(impl: str, x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """The package's own layer."""
    module = CausalConv3d(kernel.shape[-1], impl=impl)
    return module.apply({"params": {"kernel": kernel, "bias": bias}}, x, cache)[0]


def _conv(x: Any, kernel: Any, numbers: tuple[str, str, str], depth: bool = False) -> Any:
    padding = ((0, 0), *SPACE) if depth else SPACE
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(padding), padding, dimension_numbers=numbers)


def _three_conv2d(x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """One 2-D convolution per frame of the kernel, added up: the frames are not gathered on the channel axis."""
    padded, frames = jnp.concatenate([cache, x], 1)[0], x.shape[1]
    parts = [_conv(padded[i : i + frames], kernel[i], ("NHWC", "HWIO", "NHWC")) for i in range(3)]
    return sum(parts)[None] + bias


def _by_frame(one: Callable[[Any, Any], Any], x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """Compute frame after frame from the three padded frames that each one sees: all at once would need 27 clips."""
    padded = jnp.pad(jnp.concatenate([cache, x], 1)[0], ((0, 0), *SPACE, (0, 0)))
    starts = jnp.arange(x.shape[1])
    frame = lambda start: one(jax.lax.dynamic_slice_in_dim(padded, start, 3), kernel)  # noqa: E731
    return jax.lax.map(frame, starts)[None] + bias


def _windows(seen: Any) -> list[Any]:
    """Return the 27 shifted views [H W C] of three padded frames."""
    rows, columns = seen.shape[1] - 2, seen.shape[2] - 2
    return [seen[i, j : j + rows, k : k + columns] for i, j, k in TAPS]


def _shifted_matmuls(seen: Any, kernel: Any) -> Any:
    return sum(window @ kernel[tap] for window, tap in zip(_windows(seen), TAPS, strict=True))


def _im2col_matmul(seen: Any, kernel: Any) -> Any:
    return jnp.concatenate(_windows(seen), -1) @ kernel.reshape(-1, kernel.shape[-1])


def _winograd_space(count: int, x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """Take the filters F(count, 3) over rows and columns instead of time; sizes must be multiples of count."""
    padded, frames = jnp.pad(jnp.concatenate([cache, x], 1)[0], ((0, 0), *SPACE, (0, 0))), x.shape[1]
    rule, size = convolution.FILTERS[count - 1], count + 2

    def cut(a: Any, axis: int) -> list[Any]:
        return [jax.lax.slice_in_dim(a, i, a.shape[axis] - size + i + 1, count, axis) for i in range(size)]

    rows = [convolution.combine(weights, cut(padded, 1)) for weights in rule.inputs]
    tiles = [[convolution.combine(weights, cut(row, 2)) for weights in rule.inputs] for row in rows]
    small = jnp.array(rule.kernels)
    kernels = jnp.einsum("ai,bj,tijcd->abtcd", small, small, kernel).reshape(size, size, -1, kernel.shape[-1])
    seen = lambda tile: jnp.concatenate([tile[i : i + frames] for i in range(3)], -1)  # noqa: E731
    products = [[seen(tiles[a][b]) @ kernels[a, b] for a in range(size)] for b in range(size)]
    lines = [[convolution.combine(weights, column) for column in products] for weights in rule.outputs]
    pixels = [jnp.stack([convolution.combine(weights, line) for weights in rule.outputs], 3) for line in lines]
    return jnp.stack(pixels, 2).reshape(x.shape[:4] + kernel.shape[-1:]) + bias


def _conv2d_channels_first(x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """The package's conv2d with the channels before the rows: x [1 T C H W]."""
    padded, frames = jnp.concatenate([cache, x], 1)[0], x.shape[1]
    taps = jnp.concatenate([padded[i : i + frames] for i in range(3)], 1)
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, -1, kernel.shape[-1])
    return (_conv(taps, kernel, ("NCHW", "HWIO", "NCHW")) + bias[:, None, None])[None]


def _conv3d_channels_first(x: Any, cache: Any, kernel: Any, bias: Any) -> Any:
    """A 3-D convolution in PyTorch's layout: x [1 C T H W]."""
    y = _conv(jnp.concatenate([cache, x], 2), kernel, ("NCDHW", "DHWIO", "NCDHW"), depth=True)
    return y + bias[:, None, None, None]


LAST = {
    "winograd F(4, 3) over time (the default on CPUs)": partial(_module, "winograd"),
    "conv2d, frames on the channel axis (elsewhere)": partial(_module, "conv2d"),
    "conv3d": partial(_module, "conv3d"),
    "3 conv2d, added": _three_conv2d,
    "27 shifted matmuls, frame by frame": partial(_by_frame, _shifted_matmuls),
    "im2col and one matmul, frame by frame": partial(_by_frame, _im2col_matmul),
    "winograd F(2x2, 3x3) over space": partial(_winograd_space, 2),
    "winograd F(4x4, 3x3) over space": partial(_winograd_space, 4),
}
FRAMES_FIRST = {"conv2d, channels before rows": _conv2d_channels_first}
CHANNELS_FIRST = {"conv3d, channels before frames": _conv3d_channels_first}
