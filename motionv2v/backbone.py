"""The whole model behind one config: VAE, text encoder, denoiser (DiT and a method's conditioner), noise schedule.

Parameters are one tree, {"vae", "text", "dit", "conditioner"}; a config without a section has no such module, so the
same functions serve a VAE alone, the text-to-video base and the base with a control branch.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from motionv2v import diffusion, methods, sampling, sections
from motionv2v.models import positions, time_tables
from motionv2v.models.activations import constrain
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE, latent_shape
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree


class Model(NamedTuple):
    """The modules of one config; None where the config has no such section."""

    config: Any
    vae: VAE
    text: T5Encoder | None
    denoiser: Denoiser | None
    method: methods.Method | None
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
    # The section also names the tokenizer, which is no argument of the module.
    text = T5Encoder(**{name: value for name, value in _fields(config.text).items() if name != "tokenizer"})
    return Model(config, vae, text, Denoiser(dit, conditioner), method, schedule)


def base_config(config: Any) -> ConfigDict:
    """Return the config of a model's base: without its method, and what that adds to the transformer."""
    config = ConfigDict(config.to_dict())
    config.dit.update({"control_depth": 0, "lora_rank": 0, "lora_in_branch": False})
    if "method" in config:
        del config.method
    return config


def clip_shape(model: Model) -> tuple[int, int, int, int]:
    """Return the shape (T, H, W, 3) of the clips that a config is for."""
    return (model.config.data.num_frames, *model.config.data.size, 3)


def sampled_shape(model: Model) -> tuple[int, int, int, int]:
    """Return the shape (T, H, W, 3) of the clips that are sampled: longer where latents do not divide into patches.

    See `models.positions.extra_frames`.
    """
    (frames, *size), vae = clip_shape(model), model.vae
    extra = positions.extra_frames((frames - 1) // vae.temporal_compression + 1, model.denoiser.dit.patch_size_t)
    return (frames + extra * vae.temporal_compression, *size)


def init_params(key: Key, model: Model) -> PyTree:
    """Draw all parameters, fp32. Use under `jax.jit`, or `jax.eval_shape` for the shapes of a large model."""
    vae_key, text_key, dit_key = jax.random.split(key, 3)
    # The autoencoder has the same parameters at every size: the smallest clip is traced many times faster.
    params = {"vae": model.vae.init(vae_key, jnp.zeros((1, 1, 8, 8, 3)))["params"]}
    if model.denoiser is None:
        return params
    tokens = jnp.zeros((1, model.config.data.text_length), jnp.int32)
    params["text"] = model.text.init(text_key, tokens)["params"]
    # Without a method, what a published model reads beside the noise counts among its latents.
    channels = model.denoiser.dit.in_channels if model.method is None else model.vae.latent_channels
    latents = jnp.zeros(latent_shape((1, *sampled_shape(model)), channels))
    text = jnp.zeros((1, model.config.data.text_length, model.denoiser.dit.text_dim))
    conditions = None
    if model.method is not None:
        conditions = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), condition_shapes(model))
    # Nothing attends here: shapes are the same with `xla`, which every machine has.
    denoiser = model.denoiser.clone(dit=model.denoiser.dit.clone(attention_implementation="xla"))
    timestep, sigma = jnp.zeros((1,), jnp.int32), jnp.zeros((1,))
    return params | denoiser.init(dit_key, latents, timestep, text, conditions, sigma=sigma)["params"]


def step_reads(*, latents: bool, text: bool) -> tuple[str, ...]:
    """Name the subtrees of the parameters that a training step of the denoiser reads.

    Args:
        latents: whether its batches bring latents of the videos. text: whether they bring embeddings of the captions.
    """
    is_cached = {"vae": latents, "text": text, "dit": False, "conditioner": False}
    return tuple(name for name, cached in is_cached.items() if not cached)


def sample_shapes(model: Model, num_points: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of what the method reads of one sample (`methods.fields`); nothing without a method."""
    if model.method is None:
        return {}
    frames, height, width, _ = sampled_shape(model)
    t, h, w = latent_shape((1, frames, height, width, 3), model.vae.latent_channels)[1:4]
    sizes = {"T": frames, "H": height, "W": width, "N": num_points, "t": t, "h": h, "w": w}
    found = methods.fields.shapes(model.method.fields(model.config.method), sizes)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in found.items()}


def condition_shapes(model: Model) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Return the shapes of one sample's conditions as the conditioner gets them, without drawing them.

    Returns:
        {"videos": {name: latents [t h w z]}, "maps": {name: as the method draws them}}.
    """
    draw = partial(model.method.draw, config=model.config.method)
    drawn = jax.eval_shape(draw, jax.random.key(0), sample_shapes(model))
    encoded = {
        name: jax.ShapeDtypeStruct(latent_shape((1, *video.shape), model.vae.latent_channels)[1:], jnp.float32)
        for name, video in drawn["videos"].items()
    }
    return {"videos": encoded, "maps": drawn["maps"]}


def draw_conditions(key: Key, model: Model, batch: dict[str, AnyArray]) -> dict[str, Any]:
    """Draw the method's conditions of a batch, see `methods.Method.batch_conditions`."""
    return model.method.batch_conditions(key, batch, model.config.method)


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
    use_control: bool = True,
) -> Float[AnyArray, "B t h w z"]:
    """Predict v at xt; without `use_control` the base model runs alone.

    With `params` of `sampling_params` all of a batch are at one of their timesteps.
    """
    tree = {name: params[name] for name in ("dit", "conditioner") if name in params}
    modulations = time_tables.at(params["time"], timestep[0]) if "time" in params else None
    sigma = jnp.asarray(model.schedule.sigma)[timestep]
    return model.denoiser.apply({"params": tree}, xt, timestep, text, conditions, use_control, modulations, sigma)


def tabulate(model: Model, time_layers: PyTree, settings: sampling.Settings) -> PyTree:
    """Work out the modulations at each step of a sample; `time_layers` is `time_tables.split(params["dit"])[0]`."""
    return time_tables.tabulate(model.denoiser.dit, time_layers, settings.timesteps(model.schedule.num_timesteps))


def sampling_params(params: PyTree, tables: PyTree) -> dict[str, Any]:
    """Return what the steps of a sample read: all but the text encoder and the layers that read the time, whose tables
    are `time`.
    """
    others = {name: tree for name, tree in params.items() if name not in ("dit", "text")}
    return {**others, "dit": time_tables.split(params["dit"])[1], "time": tables}
