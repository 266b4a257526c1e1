"""The transformer of `models.dit` in PyTorch, over the same parameters by their paths; `torch_dit` puts it in place.

Rotary positions alone, with a control branch or without; attention over text and video, or within frames and then
along time. Tensors are [B S D], text tokens first; B K S d in attention.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from motionv2v.models.layers import attention_names

Tensors = dict[str, torch.Tensor]


@functools.partial(torch.compile, dynamic=False)
def transformer(settings: tuple, x: Tensors) -> torch.Tensor:
    """Compute `DiT` on patches [B n F]: parameters by their paths, inputs as "input/..."."""
    num_layers, depth, branches, heads, wiring, precision, axes, grid = settings
    dtype = getattr(torch, precision)
    video = _linear(x, "patch_embed", x["input/patches"], dtype)
    text = _linear(x, "text_embed", x["input/text"], dtype)
    time = F.silu(_linear(x, "time_in", x["input/time"], dtype))
    time = F.silu(_linear(x, "time_out", time, dtype))
    length = text.shape[1]

    def block(path, index, stream):
        return _block({n.removeprefix(path): v[index] for n, v in x.items() if n.startswith(path)}, stream)

    def _block(p, stream):
        for step, along in (*zip(attention_names(axes), axes, strict=True), ("mlp", None)):
            of_streams = _linear(p, f"{step}_modulation", time, dtype).unflatten(1, (2, 3, -1))  # [B 2 3 D]
            shift, scale, gate = (_by_stream(of_streams[:, :, i], length, stream) for i in range(3))
            y = _norm(p, f"{step}_norm", stream, 1e-5) * (1 + scale) + shift
            if along is not None:
                attend = functools.partial(_attend_along, along, grid, length)
                y = _attention(p, step, y, heads, (x["input/cosine"], x["input/sine"]), attend, dtype)
            else:
                y = _Gelu.apply(_linear(p, "mlp_up", y, dtype))
                y = _linear(p, "mlp_down", y, dtype)
            stream = stream + y * gate
        return stream

    whole = torch.cat([text, video], 1).float()
    streams = {}
    if depth and "input/tokens" in x:
        paths = ("control/", "control/second/")[:branches]
        for path, tokens in zip(paths, x["input/tokens"].chunk(branches, -1), strict=True):
            streams[path] = _linear(x, f"{path}zero_in", video + tokens, dtype).float()
    for index in range(num_layers):
        whole = block("blocks/", index, whole)
        added = 0.0
        for path, stream in streams.items() if index < depth else ():
            stream = block(f"{path}blocks/", index, torch.cat([whole[:, :length], stream], 1))[:, length:]
            zero = {f"zero_out/{n}": x[f"{path}zero_out/{n}"][index] for n in ("kernel", "bias")}
            out = _linear(zero, "zero_out", stream, dtype).float()
            added = added + out
            streams[path] = out if wiring == "chained" else stream
        if streams and index < depth:
            whole = torch.cat([whole[:, :length], whole[:, length:] + added], 1)
    shift, scale = _linear(x, "out_modulation", time, dtype)[:, None].chunk(2, -1)
    video = _norm(x, "final_norm", whole[:, length:], 1e-5)
    video = _norm(x, "out_norm", video, 1e-5) * (1 + scale) + shift
    return _linear(x, "out", video, dtype).float()


def _linear(p: Tensors, name: str, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _Linear.apply(x.to(dtype), p[f"{name}/kernel"].to(dtype), p[f"{name}/bias"].to(dtype))


class _Linear(torch.autograd.Function):
    """x kernel + bias, whose bias gets its gradient by a product: compiled sums over all tokens are slow."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, kernel)
        return x @ kernel + bias

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, kernel = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        ones = torch.ones(1, rows.shape[0], dtype=grad.dtype)
        return grad @ kernel.mT, x.flatten(0, -2).mT @ rows, (ones @ rows)[0]


class _Gelu(torch.autograd.Function):
    """GELU with its tanh approximation, as x sigmoid(2 u): compiled code has no quick tanh, and needs it once a way."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        wide = x.float()
        return (wide * _half(wide)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        wide = x.float()
        half = _half(wide)
        slope = 1.5957691216 + 0.2140644488 * wide * wide
        return (grad.float() * (half + wide * half * (1 - half) * slope)).to(x.dtype)


def _half(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x * (1.5957691216 + 0.0713548163 * x * x)))


def _norm(p: Tensors, name: str, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    scale, bias = p[f"{name}/scale"], p[f"{name}/bias"]
    return F.layer_norm(x.float(), scale.shape, scale, bias, epsilon)


def _by_stream(values: torch.Tensor, length: int, stream: torch.Tensor) -> torch.Tensor:
    """Give each token of [B S D] the values [B 2 D] of its stream: video's, then text's."""
    is_text = torch.arange(stream.shape[1])[:, None] < length
    return torch.where(is_text, values[:, 1:], values[:, :1])


def _attention(
    p: Tensors,
    step: str,
    x: torch.Tensor,
    heads: int,
    rope: tuple[torch.Tensor, torch.Tensor],
    attend: Callable[..., torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:
    # Even channels before odd ones, so that rotated pairs lie in two halves; scores are the same in any order.
    def sorted_channels(values, count):
        return values.unflatten(-1, (count, -1, 2)).transpose(-1, -2).flatten(-3)

    def rotated(name):
        names = (f"{step}/{name}/kernel", f"{step}/{name}/bias")
        kernel, bias = (sorted_channels(p[n], heads).to(dtype) for n in names)
        y = (x.to(dtype) @ kernel + bias).unflatten(2, (heads, -1))
        scale, shift = (sorted_channels(p[f"{step}/{name}_norm/{n}"], 1) for n in ("scale", "bias"))
        even, odd = F.layer_norm(y.float(), scale.shape, scale, shift, 1e-6).chunk(2, -1)
        c, s = (part[:, None] for part in rope)
        return torch.cat([even * c - odd * s, odd * c + even * s], -1).to(dtype).transpose(1, 2)

    value = _linear(p, f"{step}/v", x, dtype).unflatten(2, (heads, -1)).transpose(1, 2)
    out = attend(rotated("q"), rotated("k"), value).transpose(1, 2).flatten(2)
    return _linear(p, f"{step}/o", out, dtype)


def _attend_along(along: str, grid: tuple[int, int, int], length: int, *of_all: torch.Tensor) -> torch.Tensor:
    """Attend on queries, keys and values [B K S d] along some axes, as `models.layers` does."""
    if along == "thw":
        return _Attend.apply(*of_all)
    frames, places = grid[0], grid[1] * grid[2]
    text, video = zip(
        *((x[:, :, :length], x[:, :, length:].unflatten(2, (frames, places))) for x in of_all), strict=True
    )
    if along == "hw":  # text attends once a frame, and takes the mean
        each = [
            torch.cat([a.repeat_interleave(frames, 0), b.transpose(1, 2).flatten(0, 1)], 2)
            for a, b in zip(text, video, strict=True)
        ]
        out = _Attend.apply(*(x.contiguous() for x in each)).unflatten(0, (-1, frames))  # [B t K L+n d]
        return torch.cat([out[..., :length, :].mean(1), out[..., length:, :].transpose(1, 2).flatten(2, 3)], 2)
    out = _Attend.apply(*(x.permute(0, 3, 1, 2, 4).flatten(0, 1).contiguous() for x in video))  # [B n, K t d]
    out = out.unflatten(0, (-1, places)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return torch.cat([torch.zeros_like(text[0]), out], 2)


class _Attend(torch.autograd.Function):
    """Attend on [B K S d] and compute the weights again on the way back.

    PyTorch's own backward pass on CPUs takes several times as long as these products.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False)
        ctx.save_for_backward(query, key, value, out, log_sum)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value, out, log_sum = ctx.saved_tensors
        scale = 1 / math.sqrt(query.shape[-1])
        mean = (grad.float() * out.float()).sum(-1, keepdim=True)
        weights = torch.exp((query @ key.mT).float() * scale - log_sum[..., None])
        scores = (weights * ((grad @ value.mT).float() - mean) * scale).to(query.dtype)
        return scores @ key, scores.mT @ query, weights.to(query.dtype).mT @ grad
