"""Convert folders on disk in either direction, streaming: what launch/convert.py runs.

A folder of diffusers (a pipeline, or one network) becomes a model folder, see `checkpoints`:

    config.json          {"config": sections as in configs/*.py, "weights": {...}}
    model.safetensors    every parameter by its path, "dit/blocks/attention/q/kernel"
    spiece.model         T5's vocabulary, if `text.tokenizer` is "sentencepiece"
    diffusers/           the small files of the source, for the way back
    checksums.json       sha256 of each file

and a model folder becomes a folder of diffusers. No more than one layer's tensor is in memory at a time. A job that was
killed goes on where it stopped when it is started again, see `writing.OutputFolder`.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, progress
from motionv2v.convert import lora, networks, pipeline, writing
from motionv2v.convert.networks import PARTS
from motionv2v.convert.pipeline import Pipeline
from motionv2v.convert.scheduler import Sampler
from motionv2v.convert.tensors import DTYPES, ConvertError, Tensors, listing, read_header, read_json
from motionv2v.convert.writing import OutputFolder, Planned
from motionv2v.data.tokenizer import SPIECE, SentencePieceTokenizer, make
from motionv2v.models.denoiser import Denoiser

KEPT = "diffusers"
_DIT = "dit/"
"""Before the paths of a transformer's leaves in a model folder."""
DIRECTIONS = ("to_motionv2v", "to_diffusers")
_EVERY = 5.0
"""Seconds between two lines of progress."""


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    direction: str | None = None,
    dtype: str = networks.STORED,
    shard_size: int | str = writing.SHARD_SIZE,
    drop_control: bool = False,
    loras: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Convert a folder and return the new one, which appears complete or not at all.

    Args:
        source: a pipeline or network that diffusers saved, a model folder of ours or a released name.
        target: the new folder; replaced if it is empty or was written by this function.
        direction: one of `DIRECTIONS`; None tells from the source.
        dtype: of the stored numbers: "stored" keeps them, or "float32", "bfloat16", "float16".
        shard_size: most bytes per file of a folder for diffusers.
        drop_control: write the base for diffusers, without the control branch and its conditioner.
        loras: low-rank updates that are merged into the transformer, FILE or FILE:weight (`lora.parse`).
        say: called with lines of progress, and how much of the transformer each update changes.

    Raises:
        ConvertError, checkpoints.CheckpointError: for a source that cannot be converted, and a target that is in use.
    """
    if Path(source).is_dir() and Path(source).resolve() == Path(target).resolve():
        raise ConvertError(f"source and target are the same folder, {source}")
    networks.check_dtype(dtype)
    writing.parse_size(shard_size)
    folder = Path(source) if Path(source).is_dir() else checkpoints.resolve(source)
    found = detect(folder)
    if direction not in (None, found):
        raise ConvertError(f"{folder} can be converted {found}, not {direction}")
    settings = {"dtype": dtype, "shard_size": shard_size, "drop_control": drop_control, "direction": found}
    settings |= {"loras": lora.describe(loras)} if loras else {}
    job = fingerprint(folder, settings)
    if found == "to_motionv2v":
        return _to_ours(folder, target, job, dtype, loras, say)
    return _to_theirs(folder, target, job, dtype, shard_size, drop_control, loras, say)


def detect(folder: Path) -> str:
    """Tell what a folder is and hence the direction: one of `DIRECTIONS`. Raises ConvertError if it is neither."""
    if (folder / pipeline.INDEX).is_file():
        return "to_motionv2v"
    if (folder / checkpoints.CHECKPOINTS).is_dir():
        raise ConvertError(
            f"{folder} is a training work dir: make a model folder of it first, launch/export.py --checkpoint={folder}"
        )
    if not (folder / networks.CONFIG).is_file():
        raise ConvertError(
            f"{folder} holds {listing(folder)}; expected {pipeline.INDEX} or {networks.CONFIG} of diffusers, or a "
            "model folder of ours"
        )
    config = read_json(folder / networks.CONFIG)
    return "to_diffusers" if isinstance(config.get("config"), dict) else "to_motionv2v"


def fingerprint(folder: Path, settings: dict[str, Any]) -> str:
    """Identify a job by its settings and the names, sizes and times of its source's files."""
    stats = {str(p.relative_to(folder)): p.stat() for p in sorted(folder.rglob("*")) if p.is_file()}
    listed = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return hashlib.sha256(json.dumps([settings, listed]).encode()).hexdigest()


class _Meter:
    """Say every few seconds how much is done, how fast, and how long the rest takes."""

    def __init__(self, planned: Sequence[Planned], say: Callable[[str], None]):
        self._total, self._say = sum(tensor.nbytes for tensor in planned), say
        self._done, self._new, self._start = 0, 0, time.perf_counter()
        self._last = self._start

    def __call__(self, count: int, is_new: bool) -> None:
        self._done += count
        self._new += count if is_new else 0
        now = time.perf_counter()
        if now - self._last >= _EVERY or self._done == self._total:
            self._last = now
            rate = self._new / max(now - self._start, 1e-9)
            left = progress.clock((self._total - self._done) / rate) + " left" if rate else "resumed"
            share = self._done / max(self._total, 1)
            self._say(
                f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB ({share:.0%}), {rate / 1e9:.2f} GB/s, {left}"
            )


def _to_ours(
    folder: Path, target: str | os.PathLike, job: str, dtype: str, loras: Sequence[str], say: Callable[[str], None]
) -> Path:
    if (folder / pipeline.INDEX).is_file():
        made, sources = pipeline.outline(folder, say)
        config, kept, tokenizer = made.config, made.kept, made.tokenizer
    else:
        source = networks.open_source(folder, say)
        sources, tokenizer = [source], None
        kept = {networks.CONFIG: (folder / networks.CONFIG).read_bytes()}
        config = _part_config(folder.resolve().name, source)
    planned = []
    for source in sources:
        prefix = "" if isinstance(source.module, Denoiser) else f"{source.part.key}/"
        planned += networks.plan_ours(source, dtype, prefix)
    if loras:
        modules, shapes = {one.part.key: one.module for one in sources}, {one.name: one.shape for one in planned}
        planned = lora.planned(planned, _terms(folder, modules, shapes, loras, say), _DIT)
    kinds = {name for name, kind in DTYPES.items() if kind in {tensor.dtype for tensor in planned}}
    for key in ("vae", "text", "dit"):
        if key in config:
            config[key].dtype = "float32" if kinds == {"float32"} else "bfloat16"
    meter = _Meter(planned, say)
    with OutputFolder(target, job, meter) as out:
        if out.resumed:
            say(f"going on with what an earlier run left for {out.folder}")
        digest = out.write_tensors(checkpoints.WEIGHTS, planned)
        count = sum(tensor.nbytes // tensor.dtype.itemsize for tensor in planned)
        stored = "mixed" if len(kinds) > 1 else next(iter(kinds))
        weights = {"file": checkpoints.WEIGHTS, "sha256": digest, "dtype": stored, "parameters": count}
        weights |= {"loras": lora.describe(loras)} if loras else {}
        content = {"config": checkpoints.config_to_json(config), "weights": weights}
        out.write_bytes(checkpoints.CONFIG, json.dumps(content, indent=1) + "\n")
        if isinstance(tokenizer, SentencePieceTokenizer):
            out.write_bytes(SPIECE, tokenizer.model)
        for name, value in kept.items():
            # The vocabulary is not kept twice.
            if name != f"{pipeline.TOKENIZER}/{SPIECE}":
                out.write_bytes(f"{KEPT}/{name}", value)
    return out.folder


def _part_config(name: str, source: networks.Source) -> ConfigDict:
    """Describe one network: the section of a config that it is."""
    module = networks.dit_of(source.module)
    config = ConfigDict({"name": name, source.part.key: pipeline.section(module)})
    if isinstance(source.module, Denoiser):
        config.method = ConfigDict(networks.method_config(source.module))
    return config


def _to_theirs(
    folder: Path,
    target: str | os.PathLike,
    job: str,
    dtype: str,
    shard_size: int | str,
    drop_control: bool,
    loras: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    config = checkpoints.read_config(folder)
    entries: dict[str, Any] = {}
    for path, _, parts in checkpoints.weight_files(folder):
        entries |= {name: entry for name, entry in read_header(path).items() if checkpoints.is_within(name, parts)}
    tensors = Tensors(entries, str(folder))
    kept_folder = folder / KEPT
    kept = {str(p.relative_to(kept_folder)): p.read_bytes() for p in sorted(kept_folder.rglob("*")) if p.is_file()}
    given: dict[str, Any] = dict(tensors)
    if drop_control:
        given = {path: entry for path, entry in given.items() if not path.startswith(("dit/control/", "conditioner/"))}
    modules = _modules(folder, config, drop_control)
    if not drop_control and isinstance(modules.get("dit"), Denoiser):
        try:
            networks.rules_of(PARTS[-1], modules["dit"])
        except ConvertError as error:
            raise ConvertError(f"{folder}: {error} drop_control writes the base alone.") from error
    read: networks.Read = tensors.read
    if loras:
        shapes = {path: entry.shape for path, entry in given.items()}
        read = lora.reader(read, _terms(folder, modules, shapes, loras, say), _DIT)
    if len(modules) == 1:
        (part,) = (part for part in PARTS if part.key in modules)
        plan = pipeline.plan_parts(modules, read, given, dtype)[part.key]
        was = json.loads(kept[networks.CONFIG]) if networks.CONFIG in kept else {}
        part_config = pipeline.part_config(part, modules[part.key], was)
        with OutputFolder(target, job, _Meter(plan, say)) as out:
            networks.write_part(out, "", part, part_config, plan, shard_size)
        return out.folder
    made = _pipeline(folder, config, modules, kept)
    plans = pipeline.plan_parts(modules, read, given, dtype)
    with OutputFolder(target, job, _Meter([tensor for plan in plans.values() for tensor in plan], say)) as out:
        pipeline.write_pipeline(out, made, plans, shard_size)
    return out.folder


def _terms(
    folder: Path,
    modules: Mapping[str, nn.Module],
    shapes: Mapping[str, Sequence[int]],
    loras: Sequence[str],
    say: Callable[[str], None],
) -> lora.Terms:
    """Read low-rank updates and check them against a folder's transformer; say how much of it they change."""
    if "dit" not in modules:
        raise ConvertError(f"{folder} holds {', '.join(modules)} and no transformer, which is what a LoRA changes")
    dit, (updates, weights) = networks.dit_of(modules["dit"]), lora.read_all(loras)
    terms = lora.fit(dit, {path.removeprefix(_DIT): shape for path, shape in shapes.items()}, updates, weights)
    for update, weight in zip(updates, weights, strict=True):
        say(f"merging {lora.coverage(dit, update)}, weight {weight:g}")
    return terms


def _modules(folder: Path, config: ConfigDict, drop_control: bool) -> dict[str, nn.Module]:
    """Build the networks that a model folder's config has sections for: all of them, or one."""
    found = [part.key for part in PARTS if part.key in config]
    if len(found) not in (1, len(PARTS)):
        raise ConvertError(
            f"{folder} has the sections {', '.join(found) or 'none'} of vae, text and dit; expected all of them, or one"
        )
    try:
        # A network that is not there is built at its defaults, which costs nothing, and left out below.
        empty: dict[str, Any] = {name: {} for name in ("vae", "text", "dit", "schedule")}
        if "dit" in config:
            empty |= {"text": {"width": config.dit.text_dim}, "vae": {"latent_channels": config.dit.out_channels}}
        else:
            sizes = {"text_dim": ("text", "width"), "out_channels": ("vae", "latent_channels")}
            empty["dit"] = {name: config[part][field] for name, (part, field) in sizes.items() if part in config}
        model = backbone.build(ConfigDict({**empty, **config}))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConvertError(f"{folder}: its config cannot be built: {error}") from error
    dit, conditioner = model.denoiser.dit, model.denoiser.conditioner
    if dit.sample_size is None and "data" in config:
        frames, (height, width), side = config.data.num_frames, config.data.size, model.vae.spatial_compression
        frames = (frames - 1) // model.vae.temporal_compression + 1
        dit = dit.clone(sample_size=(frames, height // side, width // side), parent=None)
    if drop_control:
        dit, conditioner = dit.clone(control_depth=0, parent=None), None
    denoiser = dit if conditioner is None else Denoiser(dit, conditioner)
    modules = {"vae": model.vae, "text": model.text, "dit": denoiser}
    return {key: modules[key] for key in found}


def _pipeline(folder: Path, config: ConfigDict, modules: dict[str, nn.Module], kept: dict[str, bytes]) -> Pipeline:
    """Describe a model folder as a pipeline without parameters."""
    try:
        tokenizer = make(config.text.get("tokenizer", "bytes"), config.data.text_length, folder)
        sampler = Sampler(dict(config.schedule), config.sample.solver)
    except (ValueError, AttributeError) as error:
        raise ConvertError(f"{folder}: {' '.join(str(error).split())}") from error
    if kept and isinstance(tokenizer, SentencePieceTokenizer):
        kept = {f"{pipeline.TOKENIZER}/{SPIECE}": tokenizer.model, **kept}
    return Pipeline(config, modules, {}, tokenizer, sampler, modules["vae"].scaling_factor, kept)
