"""The whole model behind one config: VAE, text encoder, denoiser (DiT and a method's conditioner), noise schedule.

Parameters are one tree, {"vae", "text", "dit", "conditioner"}; a config without a section has no such module, so the
same functions serve a VAE alone, the text-to-video base and the base with a control branch.
"""

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from motionv2v import diffusion, methods, sampling, sections
from motionv2v.models import time_tables
from motionv2v.models.activations import constrain
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae import VAE, latent_shape
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree


class Model(NamedTuple):
    """The modules of one config; None where the config has no such section."""

    config: Any
    vae: VAE
    text: T5Encoder | None
    denoiser: Denoiser | None
    method: ModuleType | None
    schedule: diffusion.Schedule | None


def _fields(section: Any) -> dict[str, Any]:
    """Turn a config section into constructor arguments: the name of a dtype into the dtype."""
    return {**section, "dtype": sections.DTYPES[section.dtype]}


def build(config: Any) -> Model:
    """Build the modules of a config (`configs/*.py`). ValueError for one that cannot be (`sections.complete`)."""
    config = sections.complete(config)
    sections.require(config, ("vae",), "to build a model")
    if "dit" in config:
        sections.require(config, ("text", "schedule"), "beside a transformer")
    vae = VAE(**_fields(config.vae))
    if "dit" not in config:
        return Model(config, vae, None, None, None, None)
    dit = DiT(**_fields(config.dit))
    method = conditioner = None
    if "method" in config:
        method = methods.get(config.method.name)
        sizes = {"width": dit.num_heads * dit.head_dim, "patch_size": dit.patch_size, "dtype": dit.dtype}
        conditioner = method.make_conditioner(config.method, **sizes)
    schedule = diffusion.make_schedule(**config.schedule)
    # Which tokenizer goes with the text encoder is no matter of the module's.
    text = T5Encoder(**{name: value for name, value in _fields(config.text).items() if name != "tokenizer"})
    return Model(config, vae, text, Denoiser(dit, conditioner), method, schedule)


def clip_shape(model: Model) -> tuple[int, int, int, int]:
    """Return the shape (T, H, W, 3) of the clips that a config is for."""
    return (model.config.data.num_frames, *model.config.data.size, 3)


def init_params(key: Key, model: Model) -> PyTree:
    """Draw all parameters, fp32. Use under `jax.jit`, or `jax.eval_shape` for the shapes of a large model."""
    vae_key, text_key, dit_key = jax.random.split(key, 3)
    video = jnp.zeros((1, *clip_shape(model)))
    params = {"vae": model.vae.init(vae_key, video)["params"]}
    if model.denoiser is None:
        return params
    tokens = jnp.zeros((1, model.config.data.text_length), jnp.int32)
    params["text"] = model.text.init(text_key, tokens)["params"]
    # Without a method, what a published model reads beside the noise counts among its latents.
    channels = model.denoiser.dit.in_channels if model.method is None else model.vae.latent_channels
    latents = jnp.zeros(latent_shape(video.shape, channels))
    text = jnp.zeros((1, model.config.data.text_length, model.denoiser.dit.text_dim))
    conditions = None if model.method is None else _empty_conditions(model, latents)
    # Nothing attends here: shapes are the same with `xla`, which every machine has.
    dit = model.denoiser.dit.clone(attention_implementation="xla")
    return (
        params
        | model.denoiser.clone(dit=dit).init(dit_key, latents, jnp.zeros((1,), jnp.int32), text, conditions)["params"]
    )


def step_reads(*, latents: bool, text: bool) -> tuple[str, ...]:
    """Name the subtrees of the parameters that a training step of the denoiser reads.

    Args:
        latents: whether its batches bring latents of the videos. text: whether they bring embeddings of the captions.
    """
    is_cached = {"vae": latents, "text": text, "dit": False, "conditioner": False}
    return tuple(name for name, cached in is_cached.items() if not cached)


def condition_lengths(model: Model) -> dict[str, int]:
    """Return the number of latent frames t of each video that the method's conditions hold, without drawing them."""
    frames, height, width, _ = clip_shape(model)
    tracks = {"xy": jnp.zeros((1, frames, 2)), "visible": jnp.zeros((1, frames), bool)}
    clip = {f"{side}_{name}": value for side in ("source", "target") for name, value in tracks.items()}
    clip |= {side: jnp.zeros((frames, height, width, 3), jnp.uint8) for side in ("source", "target")}
    drawn = jax.eval_shape(lambda k: model.method.conditions(k, clip, model.config.method), jax.random.key(0))
    length = latent_shape((1, frames, height, width, 3), model.vae.latent_channels)[1]
    return {name: 1 if video.shape[0] == 1 else length for name, video in drawn["videos"].items()}


def _empty_conditions(model: Model, latents: Float[AnyArray, "B t h w z"]) -> dict[str, dict[str, AnyArray]]:
    """Make latents of a method's conditions: zeros of the right shapes."""
    videos = {name: jnp.zeros_like(latents[:, :t]) for name, t in condition_lengths(model).items()}
    return add_maps(jax.random.key(0), model, {"videos": videos}, latents.shape)


def add_maps(key: Key, model: Model, conditions: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Add what the method draws for a batch's latents of `shape` [B t h w z] besides its videos, if it draws any."""
    draw = getattr(model.method, "draw_maps", None)
    return conditions if draw is None else {**conditions, "maps": draw(key, shape, model.config.method)}


def encode(model: Model, params: PyTree, video: Float[AnyArray, "B T H W 3"]) -> Float[AnyArray, "B t h w z"]:
    """Encode clips in [-1, 1] to scaled latents: the mode of the VAE's distribution, times its scaling factor.

    On a mesh the clips' rows and columns are divided over `context` and `tensor`, see `models.activations`.
    """
    mean, _ = model.vae.apply({"params": params["vae"]}, constrain(video, "pixels"), method="encode")
    return mean * model.vae.scaling_factor


def decode(model: Model, params: PyTree, latents: Float[AnyArray, "B t h w z"]) -> Float[AnyArray, "B T H W 3"]:
    """Decode scaled latents to clips in [-1, 1]; on a mesh divided as in `encode`."""
    latents = constrain(latents, "latents")
    video = model.vae.apply({"params": params["vae"]}, latents / model.vae.scaling_factor, method="decode")
    return jnp.clip(video, -1, 1)


def encode_conditions(model: Model, params: PyTree, conditions: dict[str, Any]) -> dict[str, Any]:
    """Replace a method's drawn videos [B T H W 3] by their scaled latents; maps stay as they are."""
    videos = conditions["videos"]
    names = sorted(videos)
    latents = {}
    for length in {videos[name].shape[1] for name in names}:
        # One copy of the encoder's program for all videos of one length, and one video at a time: at full size its
        # activations are gigabytes for each.
        group = [name for name in names if videos[name].shape[1] == length]
        stacked = jax.lax.map(partial(encode, model, params), jnp.stack([videos[name] for name in group]))
        latents |= dict(zip(group, stacked, strict=True))
    return {**conditions, "videos": latents}


def embed_text(model: Model, params: PyTree, tokens: Int[AnyArray, "B L"]) -> Float[AnyArray, "B L C"]:
    """Encode token ids with the text encoder."""
    return model.text.apply({"params": params["text"]}, tokens)


def denoise(
    model: Model,
    params: PyTree,
    xt: Float[AnyArray, "B t h w z"],
    timestep: Int[AnyArray, "B"],
    text: Float[AnyArray, "B L C"],
    conditions: dict[str, Any] | None = None,
) -> Float[AnyArray, "B t h w z"]:
    """Predict v at xt; without conditions the base model runs alone.

    With `params` of `sampling_params` all of a batch are at one of their timesteps.
    """
    tree = {name: params[name] for name in ("dit", "conditioner") if name in params}
    is_tabulated = "time" in params
    if is_tabulated:
        tree["dit"] = time_tables.join(tree["dit"], time_tables.at(params["time"], timestep[0]))
    return model.denoiser.apply({"params": tree}, xt, timestep, text, conditions, is_tabulated)


def tabulate(model: Model, of_time: PyTree, num_steps: int) -> PyTree:
    """Work out what the time says at each step of a sample; `of_time` is `time_tables.split(params["dit"])[0]`."""
    return time_tables.tabulate(
        model.denoiser.dit, of_time, sampling.time_grid(num_steps, model.schedule.num_timesteps)
    )


def sampling_params(params: PyTree, tables: PyTree) -> dict[str, Any]:
    """Return what the steps of a sample read: all but text encoder and layers of the time, and `time`, the tables."""
    others = {name: tree for name, tree in params.items() if name not in ("dit", "text")}
    return {**others, "dit": time_tables.split(params["dit"])[1], "time": tables}
