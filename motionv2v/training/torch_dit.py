"""The transformer's forward and backward pass in PyTorch, inside a training step that is JAX's.

XLA does not reach the bfloat16 matrix units that recent CPUs have (Intel's AMX), PyTorch does: without an accelerator
the tiny models train faster (`train.backend`; README says by how much). All else of a step stays where it is:
conditions, text encoder, conditioner, loss and optimizer are JAX's, so every method and every schedule trains so, as
long as its transformer has rotary positions alone. Low-rank updates are added to the weights that PyTorch is given, so
that their gradients are JAX's, too.

    with torch_dit.instead():
        prediction = backbone.denoise(model, params, xt, timestep, text, conditions)

Products and attention are computed in bfloat16; parameters, norms, sums over the layers and gradients are float32.
"""

import contextlib
import functools
import itertools
import shutil
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from motionv2v import parameters
from motionv2v.devices import sharding
from motionv2v.models import lora, positions
from motionv2v.models.dit import DiT
from motionv2v.models.layers import timestep_embedding
from motionv2v.models.patches import patchify, unpatchify
from motionv2v.typing import PyTree

_PRECISIONS = ("bfloat16", "float32")
_COMPILERS = ("c++", "g++", "clang++")


@contextlib.contextmanager
def instead(precision: str = "bfloat16") -> Iterator[None]:
    """Run every `DiT` that is applied within in PyTorch; `float32` is for comparisons.

    Raises:
        ValueError: where PyTorch is not installed; and, when a `DiT` is applied, for one without rotary positions,
            or with embeddings of motion or latents of the branch.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
    _torch_transformer()

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, DiT) or context.method_name != "__call__":
            return call(*args, **kwargs)
        return _apply(context.module, precision, *args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def check(config: Any) -> None:
    """Raise a ValueError where a config's training cannot run so: no PyTorch, no compiler, or several devices."""
    _torch_transformer()
    if not any(map(shutil.which, _COMPILERS)):
        raise ValueError(
            f'train.backend "torch" compiles with one of {", ".join(_COMPILERS)}, and there is none; use "jax"'
        )
    if jax.default_backend() != "cpu" or sharding.from_config(config) is not None:
        raise ValueError('train.backend "torch" is for the processors of one machine; on other devices use "jax"')


def _torch_transformer() -> Any:
    try:
        from motionv2v.training import torch_transformer
    except ImportError:
        raise ValueError('train.backend is "torch", which is not installed: pip install torch') from None
    return torch_transformer


def _apply(
    dit: DiT, precision: str, xt, timestep, text, control=None, ofs: float = 2.0, modulations: PyTree | None = None
) -> jax.Array:
    """Do what `DiT.__call__` does, with its arguments."""
    del ofs
    tokens = None if control is None else control.tokens
    unlike = {
        "dit.positions": dit.positions != "rope",
        "dit.ofs_embed_dim": dit.ofs_embed_dim is not None,
        "embeddings of motion": control is not None and control.motion is not None,
        "latents of the branch": control is not None and control.latents is not None,
        "tables of the time": modulations is not None,
    }
    if any(unlike.values()):
        names = ", ".join(name for name, is_unlike in unlike.items() if is_unlike)
        raise ValueError(f'train.backend "torch" runs transformers with rotary positions alone, not {names}; use "jax"')
    dit.check_settings()
    if control is not None and control.concat is not None:
        xt = jnp.concatenate([xt, control.concat.astype(xt.dtype)], axis=-1)
    grid = tuple(length // side for length, side in zip(xt.shape[1:4], dit.patch, strict=True))
    rope = positions.rope(grid, dit.head_dim, text.shape[1], dit.patch, dit.sample_size)
    inputs = {
        "patches": patchify(xt, dit.patch_size, dit.patch[0]),
        "time": timestep_embedding(timestep, dit.width),
        "text": text,
        "cosine": rope[0],
        "sine": rope[1],
    }
    if tokens is not None and dit.control_depth:
        inputs["tokens"] = tokens
    flat = parameters.flatten(_without_updates(dit.variables["params"]))
    if "tokens" not in inputs:
        flat = {path: x for path, x in flat.items() if not path.startswith("control/")}
    # PyTorch takes no arrays of numpy's bfloat16; cast here, gradients find their way back by themselves.
    flat, inputs = ({name: jnp.asarray(x, jnp.float32) for name, x in part.items()} for part in (flat, inputs))
    branch = (dit.control_depth, dit.control_branches)
    settings = (dit.num_layers, *branch, dit.num_heads, dit.control_wiring, precision, dit.axes, grid)
    out = _run(settings, flat, inputs)  # [B n F]
    return unpatchify(out, grid, dit.patch_size, dit.patch[0])


def _without_updates(params: PyTree) -> PyTree:
    """Merge a transformer's low-rank updates into its weights."""
    plain = {name: inner for name, inner in params.items() if name not in ("lora", "lora_branch")}
    plain["blocks"] = lora.merged(params["blocks"], params.get("lora"))
    if "control" in params:
        blocks = lora.merged(params["control"]["blocks"], params.get("lora_branch"))
        plain["control"] = {**params["control"], "blocks": blocks}
    return plain


# --- the seam: JAX calls PyTorch --------------------------------------------------------------------------------------

_begun: dict[int, tuple[Any, list[Any]]] = {}
"""Forward passes whose backward pass is still to come, by number: (output, what gradients are wanted of)."""
_numbers = itertools.count()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(settings: tuple, flat: dict[str, Any], inputs: dict[str, Any]) -> jax.Array:
    return _forward(settings, (), {**flat, **_named(inputs)}, _out_shape(flat, inputs))[0]


def _run_forward(settings, flat, inputs):
    arrays = {name: x.value for name, x in {**flat, **_named(inputs)}.items()}
    wanted = tuple(name for name, x in {**flat, **_named(inputs)}.items() if x.perturbed)
    values = [{name: x.value for name, x in part.items()} for part in (flat, inputs)]
    out, number = _forward(settings, wanted, arrays, _out_shape(*values))
    # Shapes alone are kept of what no gradient is wanted of.
    kept = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    return out, (number, _Static((wanted, tuple(flat), kept)))


def _run_backward(settings, residuals, cotangent):
    number, static = residuals
    wanted, of_flat, shapes = static.value
    results = {name: jax.ShapeDtypeStruct(shapes[name].shape, jnp.float32) for name in wanted}
    found = io_callback(functools.partial(_backward_in_torch, wanted), results, number, cotangent)
    zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items() if name not in found}
    every = {name: x.astype(shapes[name].dtype) for name, x in found.items()} | zeros
    flat = {name: every[name] for name in of_flat}
    return flat, {name.removeprefix("input/"): x for name, x in every.items() if name not in flat}


_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


@jax.tree_util.register_static
class _Static:
    """Carry what is no array from the forward to the backward pass."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.value == other.value


def _named(inputs: dict[str, Any]) -> dict[str, Any]:
    return {f"input/{name}": x for name, x in inputs.items()}


def _out_shape(flat: dict[str, Any], inputs: dict[str, Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*inputs["patches"].shape[:2], flat["out/bias"].shape[0]), jnp.float32)


def _forward(settings, wanted, arrays, shape):
    call = functools.partial(_forward_in_torch, settings, wanted)
    return io_callback(call, (shape, jax.ShapeDtypeStruct((), jnp.int32)), arrays)


def _forward_in_torch(settings: tuple, wanted: tuple, arrays: dict[str, Any]) -> tuple[np.ndarray, np.int32]:
    torch = _torch_transformer().torch
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
    for name in wanted:
        tensors[name].requires_grad_()
    with torch.set_grad_enabled(bool(wanted)):
        out = _torch_transformer().transformer(settings, tensors)
    number = next(_numbers) % 2**31
    if wanted:
        _begun[number] = out, [tensors[name] for name in wanted]
    return out.detach().numpy(), np.int32(number)


def _backward_in_torch(wanted: tuple, number: Any, cotangent: Any) -> dict[str, np.ndarray]:
    torch = _torch_transformer().torch
    out, leaves = _begun.pop(int(number))
    found = torch.autograd.grad(out, leaves, torch.from_numpy(np.array(cotangent)))
    return {name: x.numpy() for name, x in zip(wanted, found, strict=True)}
