"""The modulations of the transformer's blocks, worked out once for all the steps of a sampler.

Every block reads its shifts, scales and gates (its modulations) off the time embedding by Linear layers, which hold a
seventh of all weights (CogVideoX-5B with its branch: 1.14 of 8.13 billion). A sampler visits a few timesteps, the same
ones for every clip, so the modulations are a table with a row for each step: 50 steps take a tenth of the room of these
weights, and no step runs the layers.

`DiT` takes a row of the table as `modulations`, in place of the layers. Rows equal what the layers return, up to the
rounding of a product over another number of rows.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v.models import layers
from motionv2v.typing import AnyArray, Int, PyTree

EMBEDDINGS = ("time_in", "time_out", "ofs_in", "ofs_out")
MODULATION = "_modulation"
"""How the names of the layers end that read modulations off the time embedding."""


def split(params: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide a DiT's parameters into those that only the time passes through, and the others."""
    time_layers, rest = {}, {}
    for name, tree in params.items():
        if name in EMBEDDINGS or name.endswith(MODULATION):
            time_layers[name] = tree
        elif isinstance(tree, dict):
            inner, outer = split(tree)
            rest[name] = outer
            if inner:
                time_layers[name] = inner
        else:
            rest[name] = tree
    return time_layers, rest


def join(one: PyTree, other: PyTree) -> dict[str, Any]:
    """Put two trees of dicts together that share no leaf: `join(*split(params))` is `params`."""
    both = {name: join(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def tabulate(dit: Any, time_layers: PyTree, timesteps: Int[np.ndarray, "S"], ofs: float = 2.0) -> dict[str, Any]:
    """Work out the tables of a sampler's timesteps.

    Args:
        dit: the `models.dit.DiT`. time_layers: the first tree of `split`.
        timesteps: in the schedule's units, each once. ofs: as for the DiT.

    Returns:
        {"timesteps": [S], "rows": a tree like `time_layers` without the embeddings, which holds in the place of a layer
        what the layer returns [S F], in the DiT's dtype; in stacks of blocks [depth S F]}.
    """

    def dense(layer: PyTree, x: AnyArray) -> AnyArray:
        return nn.Dense(layer["bias"].shape[-1], dtype=dit.dtype).apply({"params": layer}, x)

    def embed(name: str, number: AnyArray, width: int) -> AnyArray:
        x = layers.timestep_embedding(number, width).astype(dit.dtype)
        return dense(time_layers[f"{name}_out"], nn.silu(dense(time_layers[f"{name}_in"], x)))

    time = embed("time", jnp.asarray(timesteps), dit.width)
    if dit.ofs_embed_dim is not None:
        time = time + embed("ofs", jnp.full((1,), ofs), dit.ofs_embed_dim)

    def read(layer: PyTree) -> AnyArray:
        return jax.vmap(read)(layer) if layer["kernel"].ndim == 3 else dense(layer, nn.silu(time))

    def visit(tree: PyTree) -> dict[str, Any]:
        return {
            name: read(inner) if name.endswith(MODULATION) else visit(inner)
            for name, inner in tree.items()
            if name not in EMBEDDINGS
        }

    return {"timesteps": jnp.asarray(timesteps), "rows": visit(time_layers)}


def at(tables: PyTree, timestep: Int[AnyArray, ""]) -> dict[str, Any]:
    """Take the row [.. 1 F] of one of the tables' timesteps; for another timestep it is the first step's."""
    index = jnp.argmax(tables["timesteps"] == timestep)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index, 1, axis=-2), tables["rows"])
