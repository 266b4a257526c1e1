"""The three networks of a CogVideoX pipeline, each converted by itself: autoencoder, text encoder, transformer.

`from_diffusers` and `to_diffusers` do it in memory; `load` and the two `plan`s are what whole pipelines and the
launcher's streams are made of.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import checkpoints, parameters
from motionv2v.convert import autoencoder, text_encoder, transformer, writing
from motionv2v.convert.rules import Rule, Step, expand
from motionv2v.convert.tensors import DTYPES, ConvertError, Tensors, hollow, load_leaves, match, open_folder, read_json
from motionv2v.convert.writing import OutputFolder, Planned
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.typing import PyTree

CONFIG = "config.json"
STORED = "stored"

Read = Callable[[str, int | None], np.ndarray]
"""(path of a leaf, layer or None) -> its values."""


Notify = Callable[[str], None]
"""Called with a sentence about what is not as one would expect, and is dealt with."""


class Part(NamedTuple):
    """One network: its key in our configs and parameters, and where and under which names diffusers has it."""

    key: str
    subfolder: str
    stem: str
    library: str
    classes: tuple[str, ...]
    modules: tuple[type[nn.Module], ...]


PARTS = (
    Part("vae", "vae", "diffusion_pytorch_model", "diffusers", (autoencoder.CLASS,), (VAE,)),
    Part("text", "text_encoder", "model", "transformers", (text_encoder.CLASS,), (T5Encoder,)),
    Part("dit", "transformer", "diffusion_pytorch_model", "diffusers", transformer.classes(), (DiT, Denoiser)),
)


class Source(NamedTuple):
    """A network in a diffusers folder, checked and not yet read.

    `rules` tie its `tensors` to the leaves of `module`, whose shapes are `shapes`; `steps` are what there is to read.
    """

    part: Part
    config: dict[str, Any]
    module: nn.Module
    tensors: Tensors
    rules: list[Rule]
    shapes: dict[str, tuple[int, ...]]
    steps: list[Step]


def from_diffusers(
    folder: str | os.PathLike, dtype: str | None = None, notify: Notify = warnings.warn
) -> tuple[nn.Module, PyTree]:
    """Load one network from the folder that diffusers or transformers saved it in.

    Args:
        folder: holds config.json and safetensors, sharded or not, of a variant or none: AutoencoderKLCogVideoX,
            T5EncoderModel (v1.1) or CogVideoXTransformer3DModel, the latter also in a method's layout.
        dtype: of the parameters: "float32" (also None), "bfloat16", "float16", or "stored" as they are in the files.
        notify: called with a sentence when a variant is read, or something in the files is left out.

    Returns:
        The module, computing in float32, and its parameters in numpy: `module.apply({"params": params}, ...)`. With
        a method's conditioner that is a `Denoiser`, else a `VAE`, `T5Encoder` or `DiT`.

    Raises:
        ConvertError: for another class, a setting that is not supported, damaged or missing files, or tensors that do
            not fit the config.
    """
    source = open_source(folder, notify)
    return source.module, load(source, dtype)


def to_diffusers(
    module: nn.Module,
    params: PyTree,
    folder: str | os.PathLike,
    dtype: str = "float32",
    shard_size: int | str = writing.SHARD_SIZE,
) -> Path:
    """Write one network as a folder that diffusers' or transformers' `from_pretrained` loads, and return the folder.

    Args:
        module: a `VAE`, `T5Encoder`, `DiT` or, with a conditioner, `Denoiser`. params: its parameters.
        folder: appears complete or not at all. Replaced if it is empty or was written by this function before.
        dtype: of the stored numbers: "float32", "bfloat16", "float16", or "stored" as they are in `params`.
        shard_size: most bytes per file, or "5GB", "200MB".

    Raises:
        ConvertError: for settings that diffusers does not have, parameters of another model, or a folder that is in
            use.
    """
    part = part_of(module)
    config = to_config(part, module)
    flat = parameters.flatten(params)
    planned = plan_theirs(part, module, *memory_reader(flat), dtype)
    with OutputFolder(folder) as out:
        write_part(out, "", part, config, planned, shard_size)
    return out.folder


def open_source(folder: str | os.PathLike, notify: Notify = warnings.warn) -> Source:
    """Read the config and the headers of a network's folder, and check them against each other."""
    folder = Path(folder)
    if (folder / "model_index.json").is_file():
        raise ConvertError(
            f"{folder} is a whole pipeline: use pipeline_from_diffusers, or one of its folders "
            f"({', '.join(part.subfolder for part in PARTS)})"
        )
    config = read_json(folder / CONFIG)
    part = part_of_config(config, folder)
    tensors = open_folder(folder, part.stem, notify)
    config, tensors = _trim(part, config, tensors, notify)
    module = build(part, config, tensors)
    rules, shapes = rules_of(part, module, tensors), shapes_of(part, module)
    return Source(part, config, module, tensors, rules, shapes, match(tensors, rules, shapes))


def _trim(part: Part, config: dict[str, Any], tensors: Tensors, notify: Notify) -> tuple[dict[str, Any], Tensors]:
    """Leave out what carries nothing in a checkpoint of a method's layout, with a notice."""
    layout = transformer.find_layout(tensors) if part.key == "dit" else None
    trim = layout.trim(config, tensors.shapes(), tensors.read) if layout and layout.trim else None
    if trim is None:
        return config, tensors
    notify(f"{tensors.where}: {trim.notice}")
    return trim.config, tensors.trimmed(trim.without, trim.inputs)


def part_of_config(config: Mapping[str, Any], where: Path) -> Part:
    """Tell which network a config.json is of."""
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    for part in PARTS:
        if isinstance(named, str) and transformer.plain_class(named) in part.classes:
            return part
    supported = ", ".join(name for part in PARTS for name in part.classes)
    if named is None:
        raise ConvertError(f"{where / CONFIG} names no class (_class_name, architectures); supported: {supported}")
    raise ConvertError(f"{where / CONFIG} is of class {named}; supported: {supported}")


def part_of(module: nn.Module) -> Part:
    """Tell which network a module is."""
    if isinstance(module, Denoiser) and module.conditioner is None:
        raise ConvertError("a denoiser without conditioner is its transformer: pass module.dit and params['dit']")
    for part in PARTS:
        if isinstance(module, part.modules):
            return part
    names = ", ".join(kind.__name__ for part in PARTS for kind in part.modules)
    raise ConvertError(f"a module of class {type(module).__name__} has no form in diffusers; supported: {names}")


def build(part: Part, config: Mapping[str, Any], tensors: Tensors) -> nn.Module:
    """Build the module of a config.json; `tensors` tell of a conditioner, of which the config says nothing."""
    try:
        if part.key == "vae":
            return autoencoder.from_config(config)
        if part.key == "text":
            text_encoder.check_tables(tensors)
            return text_encoder.from_config(config)
        dit, layout = transformer.from_config(dict(config)), transformer.find_layout(tensors)
        if layout is None or layout.make_conditioner is None:
            return dit
        return Denoiser(dit, layout.make_conditioner(dit, tensors.shapes()))
    except ConvertError:
        raise
    except (ValueError, TypeError) as error:
        raise ConvertError(f"{tensors.where}: {error}") from error


def to_config(part: Part, module: nn.Module) -> dict[str, Any]:
    """Write a module's config.json. Raises ConvertError for settings that diffusers does not have."""
    try:
        if part.key == "vae":
            return autoencoder.to_config(module)
        if part.key == "text":
            return text_encoder.to_config(module)
        return transformer.to_config(module)
    except ValueError as error:
        raise ConvertError(str(error)) from error


def dit_of(module: nn.Module) -> nn.Module:
    """Return the transformer of a denoiser, and any other module as it is."""
    return module.dit if isinstance(module, Denoiser) else module


def rules_of(part: Part, module: nn.Module, names: Sequence[str] | Mapping[str, Any] = ()) -> list[Rule]:
    """List the rules of a module; `names` are those of the file to be read, if there is one."""
    if part.key == "vae":
        return autoencoder.rules(module)
    if part.key == "text":
        return text_encoder.rules(module, tuple(names))
    dit = dit_of(module)
    try:
        if names:
            return transformer.rules(dit, transformer.detect_layout(names))
        layout = transformer.layout_of(module)
        return transformer.rules(dit, transformer.BASE if layout is None else layout.name)
    except ValueError as error:
        raise ConvertError(str(error)) from error


def shapes_of(part: Part, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each leaf of a module's parameters, {path: shape}, without making any."""
    example = {"vae": autoencoder.example, "text": text_encoder.example, "dit": _denoiser_example}[part.key]
    try:
        tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *example(module))["params"])
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConvertError(f"{type(module).__name__}: {' '.join(str(error).split())}") from error
    return {path: tuple(leaf.shape) for path, leaf in parameters.flatten(tree).items()}


def _denoiser_example(module: nn.Module) -> tuple[Any, ...]:
    dit = dit_of(module)
    # A learned table of positions fits one size only.
    size = dit.sample_size if dit.positions == "rope+learned" else dit.patch
    latents, text = jnp.zeros((1, *size, dit.in_channels)), jnp.zeros((1, dit.text_length, dit.text_dim))
    example = (latents, jnp.zeros((1,), jnp.int32), text)
    layout = transformer.layout_of(module)
    if layout is None or layout.example is None:
        return example
    return (*example, layout.example(module.conditioner, jnp.zeros((1, *size, dit.out_channels))))


def load(source: Source, dtype: str | None = None) -> PyTree:
    """Read a network's parameters as a tree, see `from_diffusers`."""
    leaves = load_leaves(source.tensors, source.rules, source.shapes, check_dtype(dtype or "float32"))
    return parameters.unflatten(leaves)


def check_dtype(dtype: str) -> str:
    """Return the name of a number type. Raises ConvertError for an unknown one."""
    if dtype not in (*DTYPES, STORED):
        raise ConvertError(f"dtype is {dtype!r}; expected {', '.join(DTYPES)} or {STORED}")
    return dtype


def memory_reader(flat: Mapping[str, Any]) -> tuple[Read, dict[str, Any]]:
    """Return a reader of leaves in memory, and {path: shape and dtype}."""

    def read(path: str, index: int | None) -> np.ndarray:
        return np.asarray(flat[path] if index is None else flat[path][index])

    return read, {path: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for path, leaf in flat.items()}


def with_prefix(read: Read, prefix: str) -> Read:
    """Return a reader of the leaves below a path."""
    return lambda path, index: read(prefix + path, index)


def plan_theirs(part: Part, module: nn.Module, read: Read, given: Mapping[str, Any], dtype: str) -> list[Planned]:
    """List the tensors of a network's diffusers folder, made from our leaves when they are written.

    Args:
        part, module: what to write. read: gives our leaves. given: {path: anything with shape and dtype} of them.
        dtype: of the stored numbers, "stored" keeps that of the leaves.

    Raises:
        ConvertError: when the leaves are not those of the module.
    """
    check_dtype(dtype)
    shapes = shapes_of(part, module)
    try:
        checkpoints.check_shapes(
            parameters.unflatten(dict(given)),
            parameters.unflatten({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}),
            f"params for {type(module).__name__}",
        )
    except checkpoints.CheckpointError as error:
        raise ConvertError(str(error)) from error
    rules = rules_of(part, module)
    planned, leaves = [], _Leaves(read)
    for step in expand(rules):
        if not step.target and step.rule.fill is None:
            continue
        if not step.target:
            value = step.rule.fill(leaves)
            planned.append(Planned(step.source, value.shape, _stored(value.dtype, dtype), partial(iter, [value])))
            continue
        shape = shapes[step.target] if step.index is None else shapes[step.target][1:]
        make = partial(_saved, read, step)
        shape = step.rule.op.save(hollow(shape)).shape
        planned.append(Planned(step.source, shape, _stored(given[step.target].dtype, dtype), make))
    return planned


class _Leaves(dict):
    """{path: leaf}, read when asked for; a dict, because that is what a rule's `fill` takes."""

    def __init__(self, read: Read):
        super().__init__()
        self._read = read

    def __missing__(self, path: str) -> np.ndarray:
        return self._read(path, None)


def _saved(read: Read, step: Step) -> Iterator[np.ndarray]:
    yield step.rule.op.save(read(step.target, step.index))


def _stored(given: Any, dtype: str) -> np.dtype:
    kind = np.dtype(given) if dtype == STORED else DTYPES[dtype]
    if kind not in DTYPES.values():
        raise ConvertError(f"parameters of type {kind} cannot be stored; supported: {', '.join(DTYPES)}")
    return kind


def plan_ours(source: Source, dtype: str, prefix: str = "") -> list[Planned]:
    """List the leaves of a network, by path with `prefix`, made from its diffusers tensors when they are written."""
    check_dtype(dtype)
    by_leaf: dict[str, list[Step]] = {}
    for step in source.steps:
        by_leaf.setdefault(step.target, []).append(step)
    planned = []
    for path, steps in sorted(by_leaf.items()):
        kind = _stored(source.tensors[steps[0].source].dtype, dtype)
        steps = sorted(steps, key=lambda step: step.index or 0)
        planned.append(Planned(prefix + path, source.shapes[path], kind, partial(_loaded, source.tensors, steps)))
    return planned


def _loaded(tensors: Tensors, steps: Sequence[Step]) -> Iterator[np.ndarray]:
    for step in steps:
        yield step.rule.op.load(tensors.read(step.source))


def write_part(
    out: OutputFolder,
    subfolder: str,
    part: Part,
    config: Mapping[str, Any],
    planned: Sequence[Planned],
    shard_size: int | str,
) -> None:
    """Write a network's files into a folder: config.json, shards and their index."""
    prefix = f"{subfolder}/" if subfolder else ""
    shards = writing.split(planned, part.stem, shard_size)
    for name, tensors in shards.items():
        out.write_tensors(prefix + name, tensors)
    if len(shards) > 1:
        out.write_bytes(f"{prefix}{part.stem}.safetensors.index.json", writing.index_json(shards))
    kinds = {tensor.dtype for tensor in planned}
    if part.library == "transformers" and len(kinds) == 1:
        # transformers loads in the type that the config names, under one of two keys.
        name = next(name for name, dtype in DTYPES.items() if dtype in kinds)
        config = {**{key: value for key, value in config.items() if key != "dtype"}, "torch_dtype": name}
    out.write_bytes(prefix + CONFIG, json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def method_config(module: Denoiser) -> dict[str, Any]:
    """Return the `method` section of a config for a denoiser that was read from a method's layout."""
    return transformer.layout_of(module).section(module.conditioner)
