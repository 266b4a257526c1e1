"""The sections of a config and their fields, for models and training runs alike.

    vae, text, dit      arguments of the networks        schedule    of the noise
    method              declared by each method          sample      how samples are made
    data, loss          what training reads, and how its error is measured
    optim, train, mesh  how it is optimised, for how long, on what machines
    task                settings of a task of one's own (`loop.train(config, workdir, task)`); nothing here reads them

A section that is absent stays absent, for a config without `dit` is an autoencoder's; in the others `complete` fills in
what was left out. Configs of earlier versions lack fields that came later: a field's default is how things were before.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from motionv2v import diffusion, methods, sampling, schema
from motionv2v.data import regions, tokenizer
from motionv2v.data.scenes.pairs import SceneConfig
from motionv2v.models import layers, positions
from motionv2v.models.attention import dispatch
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae import convolution
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.schema import Field, choice, either, flag, number, optional, several, text, whole

VIEWS = (1, 2, 4, 8)
"""How many views of an edit can be averaged."""
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Bounds that no model comes near, so that a slip of the pen cannot ask for more memory than there is.
_count, _width, _side = whole(1, 1024), whole(1, 2**17), whole(1, 2**14)
_share, _positive, _not_negative = number(0, 1), number(above=0), number(0)
_range, _names = several(_not_negative, 2), several(text)


def _of(made: Callable[..., Any], described: dict[str, tuple[schema.Kind, str]]) -> dict[str, Field]:
    """Describe the arguments of a module or function, whose defaults are its own; a data type by its name."""
    if dataclasses.is_dataclass(made):
        defaults = {field.name: field.default for field in dataclasses.fields(made)}
    else:
        defaults = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    words = {dtype: name for name, dtype in DTYPES.items()}
    defaults = {name: words.get(value, value) if isinstance(value, type) else value for name, value in defaults.items()}
    return {name: Field(kind, about, defaults[name]) for name, (kind, about) in described.items()}


def _listed(expected: str) -> schema.Kind:
    """Describe a list of whatever it says, which its reader checks."""
    return schema.Kind(expected, several(schema.plain()).read)


_dtype = (choice(*DTYPES), "number type of the computation")
_remat = (either(choice(*layers.REMAT_POLICIES), flag), "what the backward pass computes a second time")
_unroll = (either(flag, _count), "layers per turn of the compiled loop; True writes all out")

_VAE = _of(
    VAE,
    {
        "block_channels": (several(_width, least=2, most=8), "channels at each spatial level"),
        "layers_per_block": (_count, "residual blocks per level"),
        "latent_channels": (_width, "channels of the latents"),
        "norm_groups": (_width, "groups of channels that are normalised together"),
        "in_channels": (choice(3), "channels of the clips"),
        "temporal_compression": (whole(1, 64), "frames per latent frame, a power of two"),
        "eps": (_positive, "of the norms"),
        "scaling_factor": (_positive, "what latents are multiplied by before diffusion"),
        "num_sample_frames_batch_size": (whole(1, 2**14), "frames encoded at a time"),
        "num_latent_frames_batch_size": (whole(1, 2**14), "latent frames decoded at a time"),
        "conv_impl": (choice(*convolution.FORMULATIONS), "how convolutions are computed"),
        "strip_rows": (optional(_side), "rows convolved at a time, None for all; changes nothing but memory"),
        "tile_size": (optional(several(_side, 2)), "height and width of blended tiles in pixels, None for none"),
        "tile_overlap": (several(number(0, below=1), 2), "share of a tile that overlaps its neighbour"),
        "dtype": _dtype,
    },
)

_TEXT = {
    **_of(
        T5Encoder,
        {
            "vocab_size": (whole(1, 2**22), "rows of the token table"),
            "width": (_width, "features of a token"),
            "num_layers": (_count, "blocks"),
            "num_heads": (_count, "heads"),
            "head_dim": (_count, "features of a head"),
            "mlp_dim": (_width, "hidden width of the MLP"),
            "num_buckets": (whole(4, 2**14), "distances that the position bias tells apart"),
            "max_distance": (whole(2, 2**20), "from here on all distances share a bucket"),
            "epsilon": (_positive, "of the norms"),
            "remat": _remat,
            "scan_unroll": _unroll,
            "dtype": _dtype,
        },
    ),
    "tokenizer": Field(choice(*tokenizer.KINDS), "how captions become tokens", "bytes"),
}

_DIT = _of(
    DiT,
    {
        "num_layers": (_count, "main blocks"),
        "num_heads": (_count, "heads"),
        "head_dim": (_count, "features of a head"),
        "in_channels": (_width, "channels of the latents and what a method lays beside them"),
        "out_channels": (_width, "channels of the prediction"),
        "text_dim": (_width, "features of the text encoder's tokens"),
        "text_length": (whole(1, 2**12), "most text tokens"),
        "patch_size": (whole(1, 64), "side of a patch in latents"),
        "patch_size_t": (optional(whole(1, 64)), "latent frames of a patch, None for 1"),
        "time_embed_dim": (_width, "features of the time embedding"),
        "ofs_embed_dim": (optional(_width), "features of the second number's embedding (1.5-5B-I2V), None for none"),
        "positions": (choice(*positions.SCHEMES), "how tokens are told their places"),
        "sample_size": (optional(several(_side, 3)), "latent frames, height and width of a published model's clips"),
        "spatial_interpolation_scale": (_positive, "sin-cos patch positions are divided by this"),
        "temporal_interpolation_scale": (_positive, "sin-cos frame positions are divided by this"),
        "mlp_ratio": (whole(1, 64), "hidden width of the MLP over the width"),
        "control_depth": (whole(0, 1024), "blocks of the control branch, 0 for none"),
        "control_branches": (choice(1, 2), "control branches beside one another, each with tokens of its own"),
        "control_wiring": (choice("side", "chained"), "how the branch's outputs reach the main blocks"),
        "control_start": (choice("zero", "identity"), "how the branch's first layer starts"),
        "zero_init_modulation": (flag, "start the main blocks as the identity"),
        "axes": (several(choice("thw", "hw", "t"), least=1, most=2), "along what each block attends, in turn"),
        "lora_rank": (whole(0, 1024), "of low-rank updates of the main blocks, 0 for none"),
        "lora_targets": (several(text), "layers of a block that have a low-rank update"),
        "lora_in_branch": (flag, "whether the control branch's blocks have them too"),
        "attention_implementation": (choice(*dispatch.IMPLEMENTATIONS), "how attention is computed"),
        "remat": _remat,
        "scan_unroll": _unroll,
        "dtype": _dtype,
    },
)

_SCHEDULE = _of(
    diffusion.make_schedule,
    {
        "num_timesteps": (whole(2, 10**5), "timesteps of the training"),
        "beta_start": (number(above=0, below=1), "noise of the first step"),
        "beta_end": (number(above=0, below=1), "noise of the last step"),
        "snr_shift_scale": (_positive, "the signal-to-noise ratio is divided by this"),
        "zero_terminal_snr": (flag, "whether the last step is noise alone"),
    },
)

_SCENE = _of(
    SceneConfig,
    {
        "num_points": (whole(1, 8192), "points per sample"),
        "min_points": (whole(1, 8192), "least points in use"),
        "log_points": (flag, "draw how many are in use evenly in its logarithm, in drawn scenes"),
        "num_sprites": (several(whole(0, 64), 2), "least and most sprites"),
        "radius": (_range, "least and greatest radius of a sprite in frame heights"),
        "edge": (_not_negative, "pixels from a sprite to what is behind it"),
        "speed": (_not_negative, "largest displacement of a sprite in frame heights"),
        "camera_speed": (_not_negative, "the same of the camera"),
        "turn": (_not_negative, "largest rotation of a sprite in radians"),
        "zoom": (_not_negative, "largest log scale of a sprite"),
        "kinds": (several(_not_negative, 6), "weights of the kinds of pairs"),
        "sprite_points": (_share, "share of the points put on sprites"),
        "moving_camera": (_share, "share of scenes whose camera moves"),
        "dense": (flag, "spread the points over all that the target shows"),
    },
)

_DATA = {
    "num_frames": Field(whole(1, 2**12), "frames T of a clip, 4k + 1"),
    "size": Field(several(_side, 2), "height and width of a clip in pixels"),
    "text_length": Field(whole(1, 2**12), "tokens of a caption"),
    "caption_dropout": Field(_share, "share of captions left out in training", 0.0),
    "swap": Field(_share, "share of cached pairs whose videos change places", 0.0),
    "seed": Field(whole(), "of the draw of scenes and of the order of samples", 0),
    "num_workers": Field(whole(0, 4096), "processes that read data beside the training", 0),
    "latents": Field(text, "folder with latents that launch/prepare.py wrote, empty for none", ""),
    "text_embeddings": Field(flag, "whether embeddings of the captions lie beside the latents", False),
    "mix": Field(_listed("a list of (data set, weight)"), "data sets and their weights", ()),
    "buckets": Field(_listed("a list of (T, H, W)"), "shapes of batches", ()),
    "num_points": Field(whole(0, 8192), "points per sample, 0 for the scenes' own", 0),
    "point_dropout": Field(flag, "hide points now and then, as MotionV2V's training does", True),
    "vocabulary": Field(text, "folder with spiece.model, empty to find it in `init_from`", ""),
    # Left as it is: cached latents remember which of these fields they were drawn with.
    "scene": Field(schema.fields(_SCENE, fill=False), "how rich the drawn scenes are", {}),
    "real_drafts": Field(_share, "share of scenes whose drafts are found in the clip, not drawn from the scene", 0.0),
    "region": Field(choice("", *regions.KINDS), "how ReVideo's regions are drawn, see `data.regions`", ""),
    "crop": Field(optional(several(_side, 3)), "frames, height and width of the pieces an autoencoder trains on", None),
    "clips": Field(whole(1, 4096), "pieces per step of an autoencoder's training", 1),
    "blob_share": Field(_share, "share of those pieces that show blobs", 0.0),
    "sigma": Field(_positive, "of those blobs, in pixels", 3.0),
    "colors": Field(text, "pool of those blobs' colours", "any"),
}

_LOSS = {
    "timesteps": Field(choice("uniform", "high_noise"), "which timesteps training draws", "uniform"),
    "power": Field(_positive, "of `high_noise`: the larger, the noisier", 2.0),
    "images": Field(flag, "train on single latent frames, drawn from each clip", False),
    "l1": Field(_not_negative, "weight of an autoencoder's absolute error", 1.0),
    "mse": Field(_not_negative, "of its squared error", 0.0),
    "edges": Field(_not_negative, "of the absolute error of its edges", 0.0),
    "kl": Field(_not_negative, "of the distance of its latents from N(0, 1)", 0.0),
}

_SAMPLE = {
    "solver": Field(choice(*sampling.SOLVERS), "how a sample steps from noise to data", "ddim"),
    "num_steps": Field(whole(1, 10**5), "denoising steps", 50),
    "guidance": Field(choice(*sampling.GUIDANCES), "how guidance on the text changes along a sample", "constant"),
    "scale": Field(_not_negative, "of the guidance; 1 is off", 6.0),
    "guidance_void": Field(_not_negative, "guided passes whose weight is so near to 1 are left out", 0.0),
    "negative_prompt": Field(text, "what guidance moves away from", tokenizer.NULL_PROMPT),
    "views": Field(choice(*VIEWS), "views of an edit of one step that are averaged", 1),
    "step_cache": Field(_not_negative, "steps that change less are extrapolated; 0 is off", 0.0),
}

RATE = {
    "peak": Field(_positive, "learning rate after the warm-up"),
    "warmup": Field(whole(), "steps of linear rise", 0),
    "decay": Field(choice("constant", "linear", "cosine"), "course from `peak` to `end`", "constant"),
    "end": Field(_not_negative, "learning rate at the last step", 0.0),
}
"""The course of one learning rate, as a row of `optim.schedule` has it."""


def _pattern(value: Any) -> tuple[str, dict[str, Any] | None]:
    pattern, options = value
    if options is not None:
        options = schema.fields(RATE, fill=False).read(options)
    return text.read(pattern), options


_OPTIM = {
    "name": Field(choice("adamw", "muon", "adafactor"), "the optimizer", "adamw"),
    "b1": Field(number(0, below=1), "decay of the mean of gradients", 0.9),
    "b2": Field(number(0, below=1), "decay of the mean of their squares", 0.999),
    "eps": Field(_positive, "added to the root of that mean", 1e-8),
    "weight_decay": Field(_not_negative, "decoupled, on kernels", 0.0),
    "schedule": Field(
        several(schema.Kind("(pattern, None or peak, warmup, decay, end)", _pattern)), "what trains, and how fast"
    ),
}

_TRAIN = {
    "steps": Field(whole(1), "updates"),
    "batch_size": Field(whole(1, 2**20), "samples of an update, over all devices"),
    "accumulate": Field(whole(1, 2**20), "pieces of a batch that are worked on one after another", 1),
    "seed": Field(whole(), "of the first weights and of all draws"),
    "log_every": Field(whole(1), "steps between lines of metrics"),
    "checkpoint_every": Field(whole(), "steps between checkpoints, 0 for the last alone"),
    "probe_every": Field(whole(), "steps between probes, 0 for the last alone"),
    "probe_samples": Field(whole(1, 4096), "held-out samples of a probe", 8),
    "keep": Field(whole(1), "checkpoints that stay"),
    "ema_decay": Field(number(0, below=1), "of the average of the weights"),
    "clip_norm": Field(optional(_not_negative), "largest norm of a gradient; 0 for no limit", 0.0),
    "frozen_dtype": Field(choice(*DTYPES), "number type of the weights that do not train", "float32"),
    "backend": Field(choice("jax", "torch"), "what runs the transformer: torch is faster on CPUs with AMX", "jax"),
}

_axis = either(choice(-1), whole(1, 2**20))
_AXES = {name: Field(_axis, "devices (-1: what the others leave)", 1) for name in ("data", "fsdp", "context", "tensor")}
_MESH = {**_AXES, "dcn": Field(optional(schema.fields(_AXES)), "the same in slices, where there are several", None)}

SECTIONS: dict[str, dict[str, Field]] = {
    "vae": _VAE, "text": _TEXT, "dit": _DIT, "schedule": _SCHEDULE, "data": _DATA, "loss": _LOSS, "sample": _SAMPLE,
    "optim": _OPTIM, "train": _TRAIN, "mesh": _MESH,
}  # fmt: skip
"""The fields of each section; those of `method` are its own (`method_fields`), those of `task` are nobody's."""

TOP = {
    "name": Field(text, "of the model or run", "unnamed"),
    "init_from": Field(_names, "models whose weights a run starts from", ()),
    "resume_from": Field(_names, "models whose weights take the place of those, the branch's too", ()),
}

GONE = ("kind", "branch_from_base")
"""Fields of earlier configs that say nothing any more, and are left out: what trains says `optim.schedule`."""


def method_fields(name: str) -> dict[str, Field]:
    """Return the fields of a method's section, its name included. Raises ValueError for an unknown method."""
    own = methods.get(name).settings
    return {"name": Field(text, "the method"), **own}


def complete(config: Any, where: str = "the config") -> ConfigDict:
    """Check a config against its sections and return it with all defaults filled in; the given one is left as it is.

    Args:
        config: a ConfigDict or dict. where: whose it is, for messages.

    Raises:
        schema.SchemaError: in one line, for a field that is unknown, missing or holds what it cannot, and for fields
            that do not go together.
    """
    given = config.to_dict() if isinstance(config, ConfigDict) else config
    anything = Field(schema.plain(), "")
    parts = dict.fromkeys((*SECTIONS, "method", "task"), Field(anything.kind, "", None))
    if not isinstance(given, dict):
        raise schema.SchemaError(f"{where} is {schema.shown(given)}, expected sections: {', '.join(parts)}")
    top = {name: value for name, value in given.items() if name not in parts and name not in GONE}
    if unknown := [name for name in top if name not in TOP]:
        # Through the same door as every other field, with the sections among what there is.
        schema.read({unknown[0]: None}, {**TOP, **parts}, where)
    made: dict[str, Any] = schema.read(top, TOP, where)
    for name in (name for name in given if name in parts):
        made[name] = _section(name, given[name], where)
    _check_together(made, where)
    return ConfigDict(made)


def _section(name: str, given: Any, where: str) -> dict[str, Any]:
    if name == "task":
        return schema.read_value(given, schema.plain(), f"{where}: task")
    if name != "method":
        return schema.read(given, SECTIONS[name], where, name)
    named = given.get("name") if isinstance(given, dict) else None
    if not isinstance(named, str):
        raise schema.SchemaError(f"{where}: section 'method' is {schema.shown(given)}, expected the 'name' of a method")
    try:
        table = method_fields(named)
    except ValueError as error:
        raise schema.SchemaError(f"{where}: {error}") from error
    return schema.read(given, table, where, name)


def _check_together(config: dict[str, Any], where: str) -> None:
    """Raise SchemaError for fields that contradict each other, where the sections of both are there."""

    def flat(name: str) -> Any:
        section, field = name.split(".")
        return config.get(section, {}).get(field)

    equal = (("dit.text_dim", "text.width"), ("dit.out_channels", "vae.latent_channels"))
    ordered = (
        ("sample.num_steps", "schedule.num_timesteps"),
        ("data.text_length", "dit.text_length"),
        ("dit.control_depth", "dit.num_layers"),
        ("dit.out_channels", "dit.in_channels"),
        ("schedule.beta_start", "schedule.beta_end"),
    )
    for (first, second), word in (*((pair, "equal to") for pair in equal), *((pair, "at most") for pair in ordered)):
        a, b = flat(first), flat(second)
        if a is None or b is None or a == b or (word == "at most" and a < b):
            continue
        raise schema.SchemaError(f"{where}: {first} is {a}, expected {word} {second}, which is {b}")
    batch, parts = flat("train.batch_size"), flat("train.accumulate")
    if batch is not None and batch % parts:
        raise schema.SchemaError(f"{where}: train.batch_size={batch} does not divide by train.accumulate={parts}")


def require(config: Any, sections: Sequence[str], what_for: str, where: str = "the config") -> None:
    """Raise SchemaError unless a config has these sections, saying what they are needed for."""
    missing = [name for name in sections if name not in config]
    if missing:
        there = ", ".join(name for name in (*SECTIONS, "method") if name in config) or "none"
        raise schema.SchemaError(
            f"{where} has no section {', '.join(map(repr, missing))}, needed {what_for}; it has {there}"
        )


def default(name: str) -> Any:
    """Return a field's default, "dit.num_heads", in json's types; `schema.REQUIRED` where nobody says.

    Methods are tried in turn, because the default of a method's field is asked for where the section is absent.
    """
    tables = {"": TOP, "data.scene": _SCENE, "mesh.dcn": _AXES, **SECTIONS}
    section, field = name.rpartition(".")[::2]
    if section == "method":
        own = (method_fields(each) for each in methods.available())
        table = next((fields for fields in own if field in fields), {})
    else:
        table = tables.get(section, {})
    return _lists(table[field].default) if field in table else schema.REQUIRED


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value
