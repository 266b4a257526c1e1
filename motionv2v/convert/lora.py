"""Low-rank updates of CogVideoX's transformer (LoRA, arXiv 2106.09685): onto a base, beside it, and out again.

W' = W + weight * scale * B A, with A [r in], B [out r] and the scale from a file (`lora_files`), and a weight that is
whatever a person wants.

    update = lora.read("my_lora")                                       a file, or the folder it is saved in
    params = lora.merge(module, params, [update], [0.8])                into the weights
    module, params = lora.apart(module, params, [update])               beside them, as `models.lora` runs it
    lora.export(module, params, "out/pytorch_lora_weights.safetensors") what this package trained, for diffusers

Layers are found by diffusers' names through the same rules as whole checkpoints (`transformer.rules`), so that a layer
that can be converted can be updated.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from motionv2v import backbone, checkpoints, files, parameters
from motionv2v.convert import transformer
from motionv2v.convert.lora_files import NAMES, Layer, Update, find, read
from motionv2v.convert.rules import Op, Step, expand
from motionv2v.convert.tensors import ConvertError, hollow, some
from motionv2v.convert.writing import Planned
from motionv2v.devices import memory
from motionv2v.models import lora
from motionv2v.models.dit import DiT
from motionv2v.typing import AnyArray, Float, PyTree, Shaped


class Term(NamedTuple):
    """What one update adds to one layer: factor * change.load(down) @ up.T, in our order of axes, [in out]."""

    layer: Layer
    factor: float
    change: Op

    @property
    def a(self) -> Float[np.ndarray, "in r"]:
        """Return the first matrix as `models.lora` has it, with scale and weight in it."""
        return self.change.load(self.layer.down.astype(np.float32)) * np.float32(self.factor)

    @property
    def b(self) -> Float[np.ndarray, "r out"]:
        """Return the second matrix as `models.lora` has it."""
        return self.layer.up.astype(np.float32).T


Terms = dict[str, dict[int | None, list[Term]]]
"""{path of a kernel in a DiT's tree: {its layer in the stack, None where there is no stack: what is added}}."""


def parse(text: str) -> tuple[str, float]:
    """Read "FILE" or "FILE:weight" as a command line gives it; the weight is 1 where none is said.

    Raises:
        ConvertError: for a weight that is no finite number.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not path or not math.isfinite(weight):
        raise ConvertError(f"a LoRA is given as FILE or FILE:weight, such as my.safetensors:0.8; got {text!r}")
    return path, weight


def describe(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Describe updates, given as for `parse`, for a record: their files' names and checksums, and weights.

    Raises:
        ConvertError: as `find` and `parse`.
    """
    given = [(find(path), weight) for path, weight in map(parse, texts)]
    return [{"file": path.name, "sha256": files.sha256(path), "weight": weight} for path, weight in given]


def read_all(texts: Sequence[str]) -> tuple[list[Update], list[float]]:
    """Read updates given as for `parse`; return them and their weights. Raises ConvertError as `read` does."""
    given = [parse(text) for text in texts]
    return [read(path) for path, _ in given], [weight for _, weight in given]


def coverage(module: DiT, update: Update) -> str:
    """Say in a line how much of a transformer an update changes."""
    ranks = sorted({len(layer.down) for layer in update.layers.values()})
    scales = sorted({layer.scale for layer in update.layers.values()})
    rank, scale = (f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in (_ends(ranks), _ends(scales)))
    count = f"{len(update.layers)} of {len(linear_layers(module))} Linear layers"
    return f"{update.file}: {count}, rank {rank}, scale {scale}"


def _ends(values):
    return values[0], values[-1]


def linear_layers(module: DiT) -> dict[str, Step]:
    """List the Linear layers of a transformer without its control branch: {diffusers' name: the rule's step}."""
    steps = expand(transformer.rules(module.clone(control_depth=0, parent=None)))
    return {step.source.removesuffix(".weight"): step for step in steps if step.target.endswith("/kernel")}


def fit(
    module: DiT,
    shapes: Mapping[str, Sequence[int]],
    updates: Sequence[Update],
    weights: Sequence[float | int] | None = None,
) -> Terms:
    """Check updates against a transformer, and say what they add where.

    Args:
        module: the transformer. shapes: of its leaves, {path: shape}.
        updates: any number of them. weights: one for each; None stands for 1.

    Raises:
        ConvertError: naming the first layer that the transformer lacks, or has in another size: the update is another
            model's. For as many weights as there are no updates.
    """
    weights = [1.0] * len(updates) if weights is None else list(weights)
    if len(weights) != len(updates):
        raise ConvertError(f"{len(updates)} updates and {len(weights)} weights were given; expected as many")
    known, terms = linear_layers(module), {}
    for update, weight in zip(updates, weights, strict=True):
        unknown = [name for name in update.layers if name not in known]
        if unknown:
            raise ConvertError(
                f"{update.file} updates {len(unknown)} layers that this transformer of {module.num_layers} blocks "
                f"lacks, such as {unknown[0]}: it is another model's; layers are {some(list(known), 2)}"
            )
        for name, layer in update.layers.items():
            step = known[name]
            shape = tuple(shapes[step.target])
            expected = step.rule.op.save(hollow(shape if step.index is None else shape[1:])).shape
            if (len(layer.up), *layer.down.shape[1:]) != expected:
                raise ConvertError(
                    f"{update.file} updates {name} of the size {[len(layer.up), *layer.down.shape[1:]]}, this "
                    f"transformer has {list(expected)}: it is another model's"
                )
            term = Term(layer, weight * layer.scale, step.rule.op)
            terms.setdefault(step.target, {}).setdefault(step.index, []).append(term)
    return terms


def add(value: Shaped[np.ndarray, "in out"], terms: Sequence[Term]) -> Float[np.ndarray, "in out"]:
    """Add updates to one layer's kernel, in float32. Raises ConvertError where the sum is not finite."""
    total = value.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        for term in terms:
            total += term.a @ term.b
    if not np.isfinite(total).all():
        raise ConvertError("the sum of a weight and its updates is not finite: take a smaller weight of the LoRA")
    return total


def merge(
    module: DiT, params: PyTree, updates: Sequence[Update], weights: Sequence[float | int] | None = None
) -> dict[str, Any]:
    """Add updates to a transformer's weights: W + sum of weight * scale * B A, in float32, stored as W is.

    Args:
        module, params: the transformer and its own tree, which stays as it is. updates, weights: as for `fit`.

    Returns:
        The tree, in numpy where something was added; all other leaves are shared with `params`.

    Raises:
        ConvertError: as `fit`, and where the sum is not finite.
    """
    flat = parameters.flatten(params)
    for path, layers in fit(module, _shapes(flat), updates, weights).items():
        leaf = np.array(flat[path])
        for index, terms in layers.items():
            place = leaf if index is None else leaf[index]
            with np.errstate(over="ignore"):  # told below
                place[...] = add(place, terms)
        if count := checkpoints.count_not_finite(leaf):
            raise ConvertError(f"{path} with its updates is too large for {leaf.dtype} in {count:,} places")
        flat[path] = leaf
    return parameters.unflatten(flat)


def apart(
    module: DiT, params: PyTree, updates: Sequence[Update], weights: Sequence[float | int] | None = None
) -> tuple[DiT, dict[str, Any]]:
    """Put updates beside a transformer's weights, which stay untouched: the tree "lora", see `models.lora`.

    Several updates of a layer become one whose rank is the sum of theirs; layers of smaller ranks are padded with
    zeros. Scale and weight are in A.

    Args:
        module, params: a transformer without low-rank updates of its own. updates, weights: as for `fit`.

    Returns:
        The module with rank and targets, and the tree with "lora", float32.

    Raises:
        ConvertError: as `fit`, and for a layer that a block's low-rank updates cannot hold (the embeddings, the output
            and what reads the time), or a module that has some already: `merge` takes those.
    """
    if not updates:
        return module, params
    terms, holds, rank = _held(module, params, updates, weights)
    tree = {}
    for path, layers in terms.items():
        name, (depth, width_in, width_out) = holds[path]
        a = np.zeros((depth, width_in, rank), np.float32)
        b = np.zeros((depth, rank, width_out), np.float32)
        for index, one in layers.items():
            halves = np.concatenate([term.a for term in one], -1), np.concatenate([term.b for term in one])
            a[index, :, : len(halves[1])], b[index, : len(halves[1])] = halves
        tree |= {f"{name}/a": a, f"{name}/b": b}
    module = module.clone(lora_rank=rank, lora_targets=_targets(terms, holds), parent=None)
    return module, {**params, "lora": parameters.unflatten(tree)}


def as_apart(config: Any, updates: Sequence[Update]) -> Any:
    """Return a model's config with the rank and the targets that `apart` gives its transformer.

    Raises:
        ConvertError: as `apart`.
    """
    if not updates:
        return config
    config = ConfigDict(config.to_dict())
    module, params = backbone.build(config).denoiser.dit, memory.parameter_shapes(config)["dit"]
    terms, holds, rank = _held(module, params, updates, None)
    config.dit.update({"lora_rank": rank, "lora_targets": _targets(terms, holds)})
    return config


def _held(module, params, updates, weights):
    """Return what updates add, the layers that can hold it by path: (name, sizes), and the rank that all have room in.

    `params` may be shapes.
    """
    if module.lora_rank:
        raise ConvertError(f"the model has low-rank updates of its own (lora_rank={module.lora_rank}): merge the LoRA")
    terms, holds = fit(module, _shapes(parameters.flatten(params)), updates, weights), {}
    for name, sizes in lora.linear_layers(params["blocks"]).items():
        holds[f"blocks/{name}/kernel"] = (name, sizes)
    if others := [path for path in terms if path not in holds]:
        raise ConvertError(
            f"the update of {others[0]} cannot be kept apart, only those of {some(list(holds), 8)}: merge"
        )
    rank = max(sum(len(term.layer.down) for term in one) for layers in terms.values() for one in layers.values())
    return terms, holds, rank


def _targets(terms, holds):
    return tuple(sorted(holds[path][0] for path in terms))


def export(module: DiT, params: PyTree, path: str | os.PathLike, notify: Callable[[str], None] = warnings.warn) -> Path:
    """Write a transformer's own low-rank updates as a file that diffusers' `load_lora_weights` loads.

    Args:
        module, params: a `DiT` with `lora_rank`, and its tree. path: of the file to write, or of a folder.
        notify: called with a sentence for updates of the control branch, which diffusers has no layer for.

    Raises:
        ConvertError: for a tree without updates, or one of a layer that diffusers does not have.
    """
    if "lora" not in params:
        raise ConvertError(f"the model has no low-rank updates; its parameters are {', '.join(sorted(params))}")
    names = {(step.target, step.index): name for name, step in linear_layers(module).items()}
    state, flat = {}, parameters.flatten(params["lora"])
    for leaf in sorted(leaf for leaf in flat if leaf.endswith("/a")):
        target = leaf.removesuffix("/a")
        a, b = np.asarray(flat[leaf]), np.asarray(flat[f"{target}/b"])
        for index in range(len(a)):
            name = names.get((f"blocks/{target}/kernel", index))
            if name is None:
                raise ConvertError(
                    f"the update of {target} has no layer in diffusers, which has {some(list(names.values()), 6)}"
                )
            state[f"transformer.{name}.lora_A.weight"] = np.ascontiguousarray(a[index].T)
            state[f"transformer.{name}.lora_B.weight"] = np.ascontiguousarray(b[index].T)
    if "lora_branch" in params:
        notify("the low-rank updates of the control branch have no layers in diffusers and are left out")
    path = Path(path)
    path = path if path.suffix else path / NAMES[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.partial(path) as unfinished:
        save_file(state, unfinished, metadata={"format": "pt"})
        unfinished.chmod(0o644)  # safetensors writes files that only their owner can read
    return path


def planned(tensors: Sequence[Planned], terms: Terms, prefix: str = "") -> list[Planned]:
    """Add updates to leaves that are about to be written, whose pieces are the layers of a stack; one at a time."""
    given = {prefix + path: layers for path, layers in terms.items()}

    def pieces(tensor: Planned) -> Iterator[np.ndarray]:
        layers = given[tensor.name]
        for index, value in enumerate(tensor.pieces()):
            yield add(value, layers.get(None if None in layers else index, ()))

    return [one._replace(pieces=partial(pieces, one)) if one.name in given else one for one in tensors]


def reader(
    read_leaf: Callable[[str, int | None], np.ndarray], terms: Terms, prefix: str = ""
) -> Callable[[str, int | None], np.ndarray]:
    """Return a reader of leaves, (path, layer or None) -> values, that adds updates to what another one reads."""

    def read_with(path: str, index: int | None) -> AnyArray:
        found = terms.get(path.removeprefix(prefix), {}).get(index)
        return add(read_leaf(path, index), found) if found else read_leaf(path, index)

    return read_with


def _shapes(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}
