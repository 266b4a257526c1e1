"""Whole CogVideoX pipelines: the folder with model_index.json, in one call, and back.

    vae/  text_encoder/  transformer/        networks, see `parts`
    scheduler/scheduler_config.json          noise schedule and solver, see `scheduler`
    tokenizer/                               see `spiece`

A pipeline becomes a config with the sections of `configs/*.py`, so that `backbone.build(pipeline.config)` makes the
modules and `backbone.embed_text`, `denoise` and `decode` take `pipeline.params`. What the config has no place for is
kept as it was (`Pipeline.kept`) and written back.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from motionv2v import diffusion, methods, parameters
from motionv2v.convert import autoencoder, networks, scheduler, spiece, tensors, writing
from motionv2v.convert.networks import PARTS, Part, Source
from motionv2v.convert.scheduler import Sampler
from motionv2v.convert.tensors import ConvertError
from motionv2v.convert.writing import OutputFolder
from motionv2v.data.tokenizer import ByteTokenizer, Tokenizer
from motionv2v.models.denoiser import Denoiser
from motionv2v.typing import PyTree

INDEX, SCHEDULER, TOKENIZER = "model_index.json", "scheduler/scheduler_config.json", "tokenizer"
CLASSES = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline")
_RUN_SETTINGS = {
    "parent", "name", "dtype", "attention_implementation", "remat", "scan_unroll", "conv_impl", "strip_rows",
    "tile_size", "tile_overlap", "control_start", "zero_init_modulation",
}  # fmt: skip
"""Fields that say how a module runs or starts, not what it computes: left to whoever edits the config."""


class Pipeline(NamedTuple):
    """A text-to-video or image-to-video model.

    Attributes:
        config: sections as in `configs/*.py`; `backbone.build(config)` makes the modules.
        modules: {"vae": VAE, "text": T5Encoder, "dit": DiT, or Denoiser with a method's conditioner}.
        params: {"vae", "text", "dit"} and, with a conditioner, "conditioner".
        tokenizer: of the captions. sampler: arguments of the noise schedule, and the solver.
        image_scale: what an image's latents are multiplied by (image-to-video); video latents take scaling_factor.
        kept: {path in the pipeline's folder: content} of its small files.
    """

    config: ConfigDict
    modules: dict[str, nn.Module]
    params: PyTree
    tokenizer: Tokenizer
    sampler: Sampler
    image_scale: float
    kept: dict[str, bytes]

    @property
    def schedule(self) -> diffusion.Schedule:
        """Return the tables of the noise schedule."""
        return self.sampler.make_schedule()


def pipeline_from_diffusers(
    folder: str | os.PathLike, dtype: str | None = None, notify: networks.Notify = warnings.warn
) -> Pipeline:
    """Load a pipeline that diffusers saved.

    Args:
        folder: holds model_index.json. dtype, notify: as for `from_diffusers`.

    Raises:
        ConvertError: for another pipeline, a part that is missing, and whatever `from_diffusers` raises.
    """
    pipeline, sources = outline(folder, notify)
    params: dict[str, Any] = {}
    for source in sources:
        tree = networks.load(source, dtype)
        params |= tree if isinstance(source.module, Denoiser) else {source.part.key: tree}
    return pipeline._replace(params=params)


def described(folder: str | os.PathLike) -> ConfigDict:
    """Return the config of a pipeline that diffusers saved, to be used as `stored` loads it; no weights are read."""
    outlined, sources = outline(folder)
    types = {source.tensors[tensor].dtype for source in sources for tensor in source.tensors}
    return _computing(outlined.config, types == {np.dtype(np.float32)})


def stored(folder: str | os.PathLike) -> Pipeline:
    """Load a pipeline that diffusers saved in the number types of its files, to compute in float32 if they are all.

    Raises ConvertError as `pipeline_from_diffusers` does.
    """
    found = pipeline_from_diffusers(folder, dtype=networks.STORED)
    exact = all(leaf.dtype == np.float32 for leaf in parameters.flatten(found.params).values())
    return found._replace(config=_computing(found.config, exact))


def _computing(config: ConfigDict, exact: bool) -> ConfigDict:
    """Set the number type that the networks of a config compute in."""
    for part in PARTS:
        config[part.key].dtype = "float32" if exact else "bfloat16"
    return config


def pipeline_to_diffusers(
    pipeline: Pipeline,
    folder: str | os.PathLike,
    dtype: str = "float32",
    shard_size: int | str = writing.SHARD_SIZE,
) -> Path:
    """Write a pipeline as a folder that diffusers' `from_pretrained` loads, and return the folder.

    Scheduler, tokenizer and configs are written as they came (`Pipeline.kept`) where they still say the same.

    Args:
        pipeline: loaded, or made of trained parts. folder, dtype, shard_size: as for `to_diffusers`.

    Raises:
        ConvertError: as `to_diffusers` does.
    """
    flat = parameters.flatten(pipeline.params)
    read, given = networks.memory_reader(flat)
    plans = plan_parts(pipeline.modules, read, given, dtype)
    with OutputFolder(folder) as out:
        write_pipeline(out, pipeline, plans, shard_size)
    return out.folder


def outline(folder: str | os.PathLike, notify: networks.Notify = warnings.warn) -> tuple[Pipeline, list[Source]]:
    """Read everything of a pipeline's folder but the weights; the sources are checked and ready to be read."""
    folder = Path(folder)
    index = tensors.read_json(folder / INDEX)
    _check_index(index, folder)
    kept = {name: (folder / name).read_bytes() for name in (INDEX, SCHEDULER) if (folder / name).is_file()}
    sampler = scheduler.from_config(tensors.read_json(folder / SCHEDULER))
    sources = [networks.open_source(folder / part.subfolder, notify) for part in PARTS]
    for source, part in zip(sources, PARTS, strict=True):
        if source.part is not part:
            raise ConvertError(
                f"{folder / part.subfolder} holds a {source.part.classes[0]}, expected {part.classes[0]}"
            )
        name = f"{part.subfolder}/{networks.CONFIG}"
        kept[name] = (folder / name).read_bytes()
    modules = {source.part.key: source.module for source in sources}
    content = {p.name: p.read_bytes() for p in sorted((folder / TOKENIZER).glob("*")) if p.is_file()}
    kept |= {f"{TOKENIZER}/{name}": value for name, value in content.items()}
    length = networks.dit_of(modules["dit"]).text_length
    tokenizer = spiece.read(index[TOKENIZER][1], content, length, str(folder / TOKENIZER))
    if tokenizer.vocab_size > modules["text"].vocab_size:
        raise ConvertError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the text encoder {modules['text'].vocab_size}"
        )
    config = make_config(folder.resolve().name, modules, tokenizer, sampler, "float32")
    scale = autoencoder.image_scale(sources[0].config)
    return Pipeline(config, modules, {}, tokenizer, sampler, scale, kept), sources


def _check_index(index: Mapping[str, Any], folder: Path) -> None:
    name = index.get("_class_name")
    if not isinstance(name, str) or _plain_class(name) not in CLASSES:
        raise ConvertError(f"{folder / INDEX} is of class {name!r}; supported: {', '.join(CLASSES)}")
    needed = (*(part.subfolder for part in PARTS), "scheduler", TOKENIZER)
    absent = [
        part for part in needed
        if not (isinstance(index.get(part), list) and len(index[part]) == 2 and index[part][1])
        or not (folder / part).is_dir()
    ]  # fmt: skip
    if absent:
        raise ConvertError(
            f"{folder} is no whole pipeline, it lacks {', '.join(absent)}; convert its other folders one by one"
        )


def _plain_class(name: str) -> str:
    """Return a pipeline's class without what a method's layout puts behind it."""
    for layout in methods.layouts():
        name = name.removesuffix(layout.suffix)
    return name


def make_config(
    name: str, modules: Mapping[str, nn.Module], tokenizer: Tokenizer, sampler: Sampler, compute: str
) -> ConfigDict:
    """Describe a pipeline as a config with the sections of `configs/*.py`; `compute` is the modules' dtype."""
    model, dit = modules["dit"], networks.dit_of(modules["dit"])
    has_conditioner = isinstance(model, Denoiser)
    config = ConfigDict({"name": name, "init_from": ()})
    for key, module in (("vae", modules["vae"]), ("text", modules["text"]), ("dit", dit)):
        config[key] = ConfigDict({**section(module), "dtype": compute})
    config.text.tokenizer = "bytes" if isinstance(tokenizer, ByteTokenizer) else "sentencepiece"
    if has_conditioner:
        config.method = ConfigDict(networks.method_config(model))
    config.schedule = ConfigDict(sampler.schedule)
    vae, (frames, height, width) = modules["vae"], dit.sample_size
    side = vae.spatial_compression
    size = {"num_frames": (frames - 1) * vae.temporal_compression + 1, "size": (height * side, width * side)}
    config.data = ConfigDict({**size, "text_length": dit.text_length})
    # The defaults of diffusers' pipelines, which hold no sampling settings of their own.
    config.sample = ConfigDict({"solver": sampler.solver, "num_steps": 50, "guidance": "constant", "scale": 6.0})
    config.sample.negative_prompt = ""
    return config


def section(module: nn.Module) -> dict[str, Any]:
    """Return the fields of a module that say what it computes."""
    fields = [field.name for field in dataclasses.fields(module) if field.name not in _RUN_SETTINGS]
    return {name: getattr(module, name) for name in fields}


def plan_parts(
    modules: Mapping[str, nn.Module], read: networks.Read, given: Mapping[str, Any], dtype: str
) -> dict[str, list[writing.Planned]]:
    """Plan the networks' tensors, {key: tensors}; `read` and `given` are of the whole tree: `networks.plan_theirs`."""
    plans = {}
    for part in PARTS:
        if part.key not in modules:
            continue
        module = modules[part.key]
        prefixes = ("dit/", "conditioner/") if isinstance(module, Denoiser) else (f"{part.key}/",)
        cut = 0 if isinstance(module, Denoiser) else len(prefixes[0])
        own = {path[cut:]: leaf for path, leaf in given.items() if path.startswith(prefixes)}
        reader = networks.with_prefix(read, "" if not cut else prefixes[0])
        plans[part.key] = networks.plan_theirs(part, module, reader, own, dtype)
    return plans


def write_pipeline(
    out: OutputFolder, pipeline: Pipeline, plans: Mapping[str, list[writing.Planned]], shard_size: int | str
) -> None:
    """Write all files of a pipeline's folder."""
    named = {}
    for part in PARTS:
        kept = _kept_json(pipeline, f"{part.subfolder}/{networks.CONFIG}")
        config = part_config(part, pipeline.modules[part.key], kept)
        named[part.subfolder] = [part.library, config.get("_class_name", part.classes[0])]
        networks.write_part(out, part.subfolder, part, config, plans[part.key], shard_size)
    kept = _kept_json(pipeline, SCHEDULER)
    if not kept or scheduler.from_config(kept) != pipeline.sampler:
        kept |= scheduler.to_config(pipeline.sampler)
    out.write_bytes(SCHEDULER, _json(kept))
    index = _kept_json(pipeline, INDEX) or {"_class_name": _pipeline_class(pipeline)}
    name, content = _tokenizer_files(pipeline, index)
    for file, value in content.items():
        out.write_bytes(f"{TOKENIZER}/{file}", value)
    components = {**named, "scheduler": ["diffusers", kept["_class_name"]], TOKENIZER: ["transformers", name]}
    for component, entry in components.items():
        # A kept entry may name another library for the same class: the code that a checkpoint came with.
        if index.get(component, entry)[1] != entry[1] or component not in index:
            index[component] = entry
    index["_class_name"] = _class_to_write(index["_class_name"], pipeline)
    out.write_bytes(INDEX, _json(index))


def _tokenizer_files(pipeline: Pipeline, index: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return the tokenizer's class and files: those that were read, if they still make the same tokens."""
    kept = {p.removeprefix(f"{TOKENIZER}/"): c for p, c in pipeline.kept.items() if p.startswith(f"{TOKENIZER}/")}
    if kept and TOKENIZER in index:
        name, tokenizer = index[TOKENIZER][1], pipeline.tokenizer
        before = spiece.read(name, kept, tokenizer.max_length, TOKENIZER)
        if getattr(before, "model", None) == getattr(tokenizer, "model", None):
            return name, kept
    return spiece.write(pipeline.tokenizer)


def _class_to_write(name: str, pipeline: Pipeline) -> str:
    """Return the class that was read, or one that goes with what the pipeline is now."""
    dit, plain = networks.dit_of(pipeline.modules["dit"]), _plain_class(name)
    suffix = name.removeprefix(plain) if dit.control_depth else ""
    takes_image = plain == CLASSES[1]
    return (plain if takes_image == (dit.in_channels != dit.out_channels) else _pipeline_class(pipeline)) + suffix


def _pipeline_class(pipeline: Pipeline) -> str:
    """Return the class for a pipeline of ours: with an image's latents beside the noise it is image-to-video."""
    dit = networks.dit_of(pipeline.modules["dit"])
    return CLASSES[0] if dit.in_channels == dit.out_channels else CLASSES[1]


def part_config(part: Part, module: nn.Module, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json to write: the one that was read if it still describes the module, else a new one."""
    config = networks.to_config(part, module)
    if kept:
        before = networks.build(part, kept, tensors.Tensors({}, part.subfolder))
        if section(before) == section(networks.dit_of(module)):
            return dict(kept)
        # Of the old one stays what says nothing about the module.
        kept = {name: value for name, value in kept.items() if name not in networks.to_config(part, before)}
    return {**kept, **config}


def _kept_json(pipeline: Pipeline, name: str) -> dict[str, Any]:
    return json.loads(pipeline.kept[name]) if name in pipeline.kept else {}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), indent=2, sort_keys=True) + "\n"
