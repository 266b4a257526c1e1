"""The transformer of `models.dit` in PyTorch, over the same parameters by their paths; `torch_dit` puts it in place.

CogVideoX's alone: one attention over text and video, rotary positions, with a control branch or without. Tensors are
[B S D], text tokens first; B K S d in attention.
"""

import functools
import math
from typing import Any

import torch
from torch.nn import functional as F

Tensors = dict[str, torch.Tensor]


@functools.partial(torch.compile, dynamic=False)
def transformer(settings: tuple, x: Tensors) -> torch.Tensor:
    """Compute `DiT` on patches [B n F]: parameters by their paths, inputs as "input/..."."""
    num_layers, depth, heads, wiring, precision = settings
    dtype = getattr(torch, precision)
    video = _linear(x, "patch_embed", x["input/patches"], dtype)
    text = _linear(x, "text_embed", x["input/text"], dtype)
    time = F.silu(_linear(x, "time_in", x["input/time"], dtype))
    time = F.silu(_linear(x, "time_out", time, dtype))
    length = text.shape[1]

    def block(path, index, stream):
        return _block({n.removeprefix(path): v[index] for n, v in x.items() if n.startswith(path)}, stream)

    def _block(p, stream):
        for step in ("attention", "mlp"):
            of_streams = _linear(p, f"{step}_modulation", time, dtype).unflatten(1, (2, 3, -1))  # [B 2 3 D]
            shift, scale, gate = (_by_stream(of_streams[:, :, i], length, stream) for i in range(3))
            y = _norm(p, f"{step}_norm", stream, 1e-5) * (1 + scale) + shift
            if step == "attention":
                y = _attention(p, y, heads, x["input/cosine"], x["input/sine"], dtype)
            else:
                y = F.gelu(_linear(p, "mlp_up", y, dtype), approximate="tanh")
                y = _linear(p, "mlp_down", y, dtype)
            stream = stream + y * gate
        return stream

    whole = torch.cat([text, video], 1).float()
    has_branch = depth and "input/tokens" in x
    if has_branch:
        branch = _linear(x, "control/zero_in", video + x["input/tokens"], dtype).float()
    for index in range(num_layers):
        whole = block("blocks/", index, whole)
        if has_branch and index < depth:
            stream = block("control/blocks/", index, torch.cat([whole[:, :length], branch], 1))[:, length:]
            zero = {f"zero_out/{n}": x[f"control/zero_out/{n}"][index] for n in ("kernel", "bias")}
            out = _linear(zero, "zero_out", stream, dtype).float()
            whole = torch.cat([whole[:, :length], whole[:, length:] + out], 1)
            branch = out if wiring == "chained" else stream
    shift, scale = _linear(x, "out_modulation", time, dtype)[:, None].chunk(2, -1)
    video = _norm(x, "final_norm", whole[:, length:], 1e-5)
    video = _norm(x, "out_norm", video, 1e-5) * (1 + scale) + shift
    return _linear(x, "out", video, dtype).float()


def _linear(p: Tensors, name: str, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype) @ p[f"{name}/kernel"].to(dtype) + p[f"{name}/bias"].to(dtype)


def _norm(p: Tensors, name: str, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    scale, bias = p[f"{name}/scale"], p[f"{name}/bias"]
    return F.layer_norm(x.float(), scale.shape, scale, bias, epsilon)


def _by_stream(values: torch.Tensor, length: int, stream: torch.Tensor) -> torch.Tensor:
    """Give each token of [B S D] the values [B 2 D] of its stream: video's, then text's."""
    is_text = torch.arange(stream.shape[1])[:, None] < length
    return torch.where(is_text, values[:, 1:], values[:, :1])


def _attention(
    p: Tensors, x: torch.Tensor, heads: int, cosine: torch.Tensor, sine: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    query, key, value = (
        _linear(p, f"attention/{name}", x, dtype).unflatten(2, (heads, -1)).transpose(1, 2) for name in "qkv"
    )  # [B K S d] each
    query, key = (
        _rotated(_norm(p, f"attention/{name}_norm", of, 1e-6), cosine, sine).to(dtype)
        for name, of in (("q", query), ("k", key))
    )
    out = _Attend.apply(query, key, value).transpose(1, 2).flatten(2)
    return _linear(p, "attention/o", out, dtype)


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1).flatten(-2)


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
