"""Checkpoints for inference: one model folder, or programs that run without this package.

`model_folder` writes what `editing.load` reads: averaged or raw weights, config, checksums, a note on licences, and
what lies beside the weights it was made of: vocabulary, curve of the step cache, small files of diffusers.

`diffusers_folder` writes a pipeline that diffusers loads (`convert.stream`).

`stablehlo` writes the functions of an edit as serialised StableHLO (`jax.export`), one file for all platforms, and
beside them the weights, which stay an argument: constants of 5B parameters fit into no program.

    folder/encode.jaxexport     (weights, video [b T H W 3] in [-1, 1]) -> scaled latents [b t h w z]
    folder/image.jaxexport      of models that are given frames alone: (weights, [b 1 H W 3]) -> latents [b 1 h w z]
    folder/text.jaxexport       (weights, tokens [b L]) -> [b L C]
    folder/denoise.jaxexport    (weights, xt, timestep [b], text, {condition: array}) -> v, one call of a
                                denoising step; conditions are NAME_latents of videos, NAME_map of what else is drawn
    folder/refine.jaxexport     of bases alone: (weights, x, timestep [b], text, text of no prompt, reference, noise,
                                clock [b t h w 1], levels [b 7]) -> x after one step that is held to a reference
                                (`held_step`); the manifest's `refine` has timesteps and levels of all steps. A base
                                that is given the first frame takes its conditions too, last: the frame's latents in
                                first_latents, zeros in last_latents, 1 at latent frame 0 of given_map and 0 elsewhere
    folder/decode.jaxexport     (weights, latents) -> video in [-1, 1]
    folder/weights.safetensors  every parameter by its path; each function takes the dict of those in its manifest
    folder/spiece.model         the vocabulary of `text.tokenizer` "sentencepiece", where the checkpoint has one
    folder/manifest.json        for each function its platforms, arguments and weights; alphas of the noise schedule;
                                sha256 of the files

Running one takes jax, numpy and safetensors:

    exported = jax.export.deserialize(pathlib.Path("decode.jaxexport").read_bytes())
    weights = safetensors.numpy.load_file("weights.safetensors")
    video = exported.call({name: weights[name] for name in manifest["functions"]["decode"]["weights"]}, latents)
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from motionv2v import backbone, checkpoints, files, parameters, sampling
from motionv2v.convert import checked, generators, held_step, stream
from motionv2v.data.latents import conditions, stored
from motionv2v.data.tokenizer import SPIECE
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
NOTE = "LICENCE_NOTE.txt"
_DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
_GENERAL_NOTE = (
    "These weights were exported by motionv2v (Apache-2.0), config {name!r}. The licence of the code says nothing\n"
    "about the weights: whoever trained them states theirs here. Weights that started from CogVideoX carry its\n"
    "licence on: CogVideoX-2B is Apache-2.0; CogVideoX-5B, 5B-I2V and 1.5 are under the CogVideoX License, which\n"
    "asks for a notice and, for commercial use, a registration.\n"
)


class Function(NamedTuple):
    """One function to export: what it computes, the shapes of its arguments with "b" for the batch, its weights."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    prefixes: tuple[str, ...]


def model_folder(
    name_or_folder: str | Path,
    folder: str | Path,
    *,
    dtype: str = "bfloat16",
    ema: bool = True,
    note: str = "",
    shares: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Write a checkpoint as one model folder that `editing.load` reads, and return it.

    Args:
        name_or_folder: a training work dir, a model folder or a released name.
        folder: where to write; appears complete or not at all, and replaces one of that name.
        dtype: "bfloat16", "float16" or "float32". ema: averaged weights, or the raw ones (work dirs have both).
        note: the licence note; by default the checkpoint's own, or a general one.
        shares: a released model whose weights the new folder may read instead of holding the same ones again.
        say: called with a line when something of the checkpoint's folder is not part of the new one.

    Raises:
        checkpoints.CheckpointError: if there is no such checkpoint, it has no raw weights to give, or nothing to share.
    """
    config, params = _load(name_or_folder, ema)
    source = checkpoints.resolve(name_or_folder)
    beside = {**_beside(source, ema, say), NOTE: note or _own_note(source, config)}
    return checkpoints.save_model(folder, config, params, dtype=dtype, beside=beside, shares=shares)


def _beside(source: Path, ema: bool, say: Callable[[str], None]) -> dict[str, str | Path]:
    """List what belongs to a checkpoint's weights and lies beside them, {name: path}."""
    found: dict[str, str | Path] = {
        name: source / name for name in (SPIECE, checkpoints.STEP_CACHE, stream.KEPT) if (source / name).exists()
    }
    if checkpoints.STEP_CACHE in found and not ema:
        # A checkpoint is measured by its averaged weights.
        del found[checkpoints.STEP_CACHE]
        say(
            f"{checkpoints.STEP_CACHE} was measured on the averaged weights and is left out; measure the raw ones again"
        )
    return found


def _load(name_or_folder: str | Path, ema: bool) -> tuple[Any, PyTree]:
    source = checkpoints.resolve(name_or_folder)
    if (source / checkpoints.CHECKPOINTS).is_dir():
        return checked.read(source, ema=ema)
    if not ema:
        raise checkpoints.CheckpointError(
            f"{name_or_folder} is a model folder, which holds one set of weights; raw weights are in training work dirs"
        )
    return checked.read(source)


def _own_note(source: Path, config: Any) -> str:
    """Return the licence note that lies beside a checkpoint, else a general one."""
    if (source / NOTE).is_file():
        return (source / NOTE).read_text(encoding="utf-8")
    return _GENERAL_NOTE.format(name=config.name)


def diffusers_folder(
    name_or_folder: str | Path,
    folder: str | Path,
    *,
    dtype: str = "bfloat16",
    ema: bool = True,
    drop_control: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a checkpoint as a folder that diffusers' `from_pretrained` loads, and return it.

    Args:
        name_or_folder, folder, dtype, ema: as for `model_folder`.
        drop_control: write the base without its control branch, the only form for a branch with `side` wiring.
        say: called with lines of progress.

    Raises:
        convert.ConvertError: for a model that has no such form. checkpoints.CheckpointError: as for `model_folder`.
    """
    with tempfile.TemporaryDirectory() as own:
        model = model_folder(name_or_folder, Path(own) / "model", dtype=dtype, ema=ema, say=say)
        return stream.convert(model, folder, direction="to_diffusers", drop_control=drop_control, say=say)


def functions(model: backbone.Model) -> dict[str, Function]:
    """List what is exported of a model: autoencoder alone, or with text encoder and denoiser."""
    video = ("b", *backbone.clip_shape(model))
    latents = ("b", *latent_shape((1, *video[1:]), model.vae.latent_channels)[1:])
    parts = {
        "encode": Function(lambda p, x: backbone.encode(model, p, x), ((video, "float32"),), ("vae/encoder",)),
        "decode": Function(lambda p, z: backbone.decode(model, p, z), ((latents, "float32"),), ("vae/decoder",)),
    }
    if model.denoiser is None:
        return parts
    tokens = ("b", model.config.data.text_length)
    parts["text"] = Function(lambda p, t: backbone.embed_text(model, p, t), ((tokens, "int32"),), ("text",))
    steps = [(latents, "float32"), (("b",), "int32"), ((*tokens, model.denoiser.dit.text_dim), "float32")]
    streams = []
    if model.method is None:
        call = lambda p, xt, time, text: backbone.denoise(model, p, xt, time, text)  # noqa: E731
    else:
        wanted = backbone.condition_shapes(model)
        streams = [{name: (("b", *x.shape), "float32") for name, x in stored(wanted).items()}]
        frames = {x.shape[0] for x in wanted["videos"].values()}
        if 1 in frames and latents[1] > 1:
            image = ("b", 1, *video[2:])
            parts["image"] = parts["encode"]._replace(arguments=((image, "float32"),))
        call = lambda p, xt, time, text, streams: backbone.denoise(  # noqa: E731
            model, p, xt, time, text, conditions(streams, wanted)
        )
    parts["denoise"] = Function(call, (*steps, *streams), ("dit", "conditioner"))
    if model.method is None or model.method.continues():
        parts["refine"] = _refine_step(call, steps, streams)
    return parts


def _refine_step(denoise: Callable[..., Any], arguments: Sequence[Any], streams: Sequence[Any]) -> Function:
    """Describe one step of refining a draft with a base (`editing.refine`), of what `denoise` takes.

    `streams`: its conditions, where it is given the first frame.
    """

    def call(p, x, time, text, null_text, reference, noise, clock, levels, *given):
        # One after the other, by one copy of the denoiser.
        predictions = jax.lax.map(lambda each: denoise(p, x, time, each, *given), jnp.stack([text, null_text]))
        return held_step.held_step(x, (predictions[0], predictions[1]), noise, sampling.Hold(reference, clock), levels)

    latents, time, text = arguments
    clock = ((*latents[0][:-1], 1), "float32")
    levels = (("b", len(held_step.HELD_LEVELS)), "float32")
    given = (latents, time, text, text, latents, latents, clock, levels, *streams)
    return Function(call, given, ("dit", "conditioner"))


def _refine_plan(model: backbone.Model) -> dict[str, Any]:
    """Tell the steps of a refined sample as the config has them: for the manifest."""
    settings = sampling.from_config(model.config.sample)._replace(solver="ddim")
    levels = held_step.held_levels(model.schedule, settings)
    timesteps = sampling.time_grid(settings.num_steps, model.schedule.num_timesteps)
    return {"names": held_step.HELD_LEVELS, "timesteps": timesteps.tolist(), "levels": levels.tolist()}


def stablehlo(
    name_or_folder: str | Path,
    folder: str | Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    dtype: str = "bfloat16",
    ema: bool = True,
    note: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Write the programs of a checkpoint, see the module; the folder appears complete or not at all.

    The batch is symbolic where the function lowers so, else 1; the manifest says which.

    Args:
        name_or_folder: as for `model_folder`. folder: where to write; one of that name is replaced.
        platforms: which to lower for, of `PLATFORMS`; none of them needs to be at hand.
        dtype: "bfloat16" or "float32", of the stored weights; the programs take them as they are stored.
        ema, note: as for `model_folder`.
        say: called with a line per function.

    Raises:
        ValueError: for an unknown platform or dtype. checkpoints.CheckpointError: if there is no such checkpoint.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ValueError(f"unknown platforms {unknown}; available: {', '.join(PLATFORMS)}")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; available: {', '.join(_DTYPES)}")
    config, params = _load(name_or_folder, ema)
    source = checkpoints.resolve(name_or_folder)
    model = backbone.build(generators.as_generator(config, source) if generators.reads_image(config) else config)
    flat = {name: np.asarray(leaf, _DTYPES[dtype]) for name, leaf in parameters.flatten(params).items()}
    manifest: dict[str, Any] = {"config": checkpoints.config_to_json(config), "functions": {}}
    folder = Path(folder).resolve()
    with files.partial_folder(folder) as unfinished:
        for name, function in functions(model).items():
            weights = {k: v for k, v in flat.items() if k.startswith(tuple(f"{p}/" for p in function.prefixes))}
            exported, batch = _export(function, weights, tuple(platforms))
            (unfinished / f"{name}.jaxexport").write_bytes(exported.serialize())
            manifest["functions"][name] = {
                "platforms": list(exported.platforms),
                "batch": batch,
                "arguments": _shapes(function.arguments, batch),
                "weights": sorted(weights),
            }
            say(f"{name}: {', '.join(exported.platforms)}; batch {batch}; {len(weights)} weights")
        if "refine" in manifest["functions"]:
            manifest["refine"] = _refine_plan(model)
        if model.schedule is not None:
            manifest["alphas_cumprod"] = np.asarray(model.schedule.alphas_cumprod, np.float64).tolist()
        save_file(flat, unfinished / "weights.safetensors")
        files.write(unfinished / NOTE, note or _own_note(source, config))
        if (source / SPIECE).is_file():
            shutil.copyfile(source / SPIECE, unfinished / SPIECE)
        manifest["sha256"] = {path.name: files.sha256(path) for path in sorted(unfinished.iterdir())}
        files.write(unfinished / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return folder


def _export(
    function: Function, weights: dict[str, np.ndarray], platforms: tuple[str, ...]
) -> tuple[jax.export.Exported, str | int]:
    """Lower a function for all platforms, with a symbolic batch if that works; return the batch that it takes."""
    call = jax.jit(lambda flat, *args: function.call(parameters.unflatten(flat), *args))
    abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    export = jax.export.export(call, platforms=platforms)
    try:
        return export(abstract, *_abstract(function.arguments, jax.export.symbolic_shape("b")[0])), "b"
    except Exception:
        # Some operation needs to know the size, which each reports in its own way; one clip at a time always lowers.
        return export(abstract, *_abstract(function.arguments, 1)), 1


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and len(node) == 2 and isinstance(node[0], tuple)


def _abstract(arguments: tuple[Any, ...], batch: Any) -> PyTree:
    def make(node: Any) -> jax.ShapeDtypeStruct:
        shape, dtype = node
        return jax.ShapeDtypeStruct((batch, *shape[1:]), jnp.dtype(dtype))

    return jax.tree.map(make, arguments, is_leaf=_is_shape)


def _shapes(arguments: tuple[Any, ...], batch: str | int) -> list[Any]:
    return jax.tree.map(
        lambda node: {"shape": [batch, *node[0][1:]], "dtype": node[1]}, list(arguments), is_leaf=_is_shape
    )
