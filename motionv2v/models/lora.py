"""Low-rank updates of Linear layers (LoRA, arXiv 2106.09685): y = W x + scale B A x, with A and B the only new weights.

The updates of a stack of blocks are stacked as the blocks are, {"attention": {"k": {"a": [depth in r], "b": [depth r
out]}}, "mlp_up": ...}, and scanned beside them. B starts at zero, so a new update changes nothing. The scale is part of
how A is drawn and trained here, not a setting of its own: only the product counts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float, Key, PyTree


def init(key: Key, kernels: PyTree, targets: Sequence[str], rank: int) -> dict[str, Any]:
    """Draw updates for some of a stack's Linear layers.

    Args:
        key: of A, which is drawn as LoRA's authors do, N(0, 1 / in).
        kernels: the stack's parameters, of which the shapes are read: {"attention": {"k": {"kernel": [depth in out]}}}.
        targets: paths of the layers, such as "attention/k". rank: r.

    Raises:
        ValueError: for a layer that is not there, naming those that are.
    """
    known = linear_layers(kernels)
    tree: dict[str, Any] = {}
    for index, target in enumerate(targets):
        if target not in known:
            raise ValueError(f"lora_targets has {target!r}; available: {', '.join(sorted(known))}")
        depth, width_in, width_out = known[target]
        *folders, name = target.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        a = jax.random.normal(jax.random.fold_in(key, index), (depth, width_in, rank)) / width_in**0.5
        inner[name] = {"a": a, "b": jnp.zeros((depth, rank, width_out))}
    return tree


def linear_layers(kernels: PyTree, prefix: str = "") -> dict[str, tuple[int, int, int]]:
    """List the Linear layers of a stack of blocks that tokens pass through: {path: (depth, in, out)}."""
    found = {}
    for name, inner in kernels.items():
        if name.endswith("_modulation") or not isinstance(inner, dict):
            continue
        if "kernel" in inner:
            found[prefix + name] = tuple(inner["kernel"].shape)
        else:
            found |= linear_layers(inner, f"{prefix}{name}/")
    return found


def within(updates: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Return the updates inside one part of a block, None where it has none."""
    return None if updates is None else updates.get(name)


def update(
    y: Float[AnyArray, "B S F"], x: Float[AnyArray, "B S D"], updates: dict[str, Any] | None, name: str
) -> Float[AnyArray, "B S F"]:
    """Add the update of the layer `name` to what the layer made of x, y = W x; y itself where it has none."""
    if updates is None or name not in updates:
        return y
    a, b = (updates[name][part].astype(x.dtype) for part in ("a", "b"))
    return y + (x @ a) @ b


def merged(kernels: PyTree, updates: dict[str, Any] | None) -> PyTree:
    """Add updates to the layers' kernels: a stack that does without them what it does with them.

    `kernels`: the stack's parameters, as for `init`. `updates`: None leaves the stack as it is.
    """
    if updates is None:
        return kernels
    if "a" in updates:
        product = jnp.einsum("lir,lro->lio", updates["a"], updates["b"])
        return {**kernels, "kernel": kernels["kernel"] + product.astype(kernels["kernel"].dtype)}
    return {name: merged(inner, updates.get(name)) for name, inner in kernels.items()}
