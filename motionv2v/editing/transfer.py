"""A clip's motion for other content: a text-to-video base that samples with a motion learned on it (Motion Inversion).

`launch/transfer.py` learns a motion (`training.inversion`) and uses it; `Editor.text_to_video(prompts, motion=...)`
uses one that was learned before.
"""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, sampling, sections
from motionv2v.convert import checked, pipeline
from motionv2v.data import tokenizer
from motionv2v.editing import kinds, loaded_model
from motionv2v.editing.motions import Motion
from motionv2v.methods import motion_inversion
from motionv2v.models.dit import base_params
from motionv2v.typing import AnyArray, Float, PyTree, UInt8

MOST_PLACES, COARSE = 16 * 16, (10, 15)
"""From more places a frame on m^V has a coarse grid, of these rows and columns."""
STEPS, GUIDANCE, LEAST_STEPS = 50, 3.0, 10
"""How a base is sampled whose model was made for samples of fewer than so many steps."""
MOST_LAYERS = 12
"""Of more layers as many as these have embeddings, spread over the base."""


def base_config(config: Any, name: str) -> ConfigDict:
    """Return the config of a checkpoint's text-to-video base: without its method and what that adds.

    Raises ValueError for a checkpoint that is no such model, or whose base reads an image.
    """
    sections.require(config, loaded_model.NEEDED, "to make videos", name)
    if config.dit.in_channels != config.dit.out_channels:
        raise ValueError(f"{name} reads an image beside the noise; a motion is learned on a text-to-video base")
    return backbone.base_config(config)


def with_method(config: Any, settings: dict[str, Any]) -> ConfigDict:
    """Return a base's config with Motion Inversion, complete; what `settings` leave out fits the base.

    Raises:
        ValueError: for settings that are unknown or impossible.
    """
    config = ConfigDict(config.to_dict())
    grid, frames = tokens_grid(config)
    depth = config.dit.num_layers
    chosen = () if depth <= MOST_LAYERS else tuple(int(i) for i in np.linspace(0, depth - 1, MOST_LAYERS).round())
    own = {"name": "motion_inversion", "depth": depth, "layers": chosen, "frames": frames, "grid": grid}
    config.method = ConfigDict({**own, **settings})
    return sections.complete(config)


def tokens_grid(config: Any) -> tuple[tuple[int, int], int]:
    """Return the (rows, columns) of places that m^V has for a base by default, and its latent frames."""
    model = backbone.build(config)
    shape = backbone.latent_shape((1, *backbone.clip_shape(model)), model.vae.latent_channels)[1:4]
    frames, *places = (side // cell for side, cell in zip(shape, model.denoiser.dit.patch, strict=True))
    return (tuple(places) if places[0] * places[1] <= MOST_PLACES else COARSE), frames


def load_base(name_or_folder: str | os.PathLike) -> tuple[ConfigDict, PyTree]:
    """Load the text-to-video base of a checkpoint, whatever method it has: (config, parameters).

    The checkpoint may be a folder that diffusers saved.

    Raises CheckpointError, ConvertError and ValueError as `editing.load` and `base_config`.
    """
    config, folder = kinds.described(name_or_folder)
    config = base_config(config, str(name_or_folder))
    is_pipeline = (folder / pipeline.INDEX).is_file()
    params = pipeline.stored(folder).params if is_pipeline else checked.read(name_or_folder)[1]
    return config, {"vae": params["vae"], "text": params["text"], "dit": base_params(params["dit"])}


def tokenizer_of(config: Any, folder: str | os.PathLike) -> tokenizer.Tokenizer:
    """Return the tokenizer of a checkpoint in a folder, which diffusers may have saved."""
    if (Path(folder) / pipeline.INDEX).is_file():
        return pipeline.outline(folder)[0].tokenizer
    return tokenizer.make(config.text.tokenizer, config.data.text_length, folder)


def moved(editor: Any, motion: Motion, following: Any = None) -> Any:
    """Build the model of an editor's base with a motion, debiased as the motion's settings say.

    Args:
        editor: an `editing.Editor` of any method on the base; its other parts are left out.
        motion: learned on this base. following: an earlier answer, which takes the motion over if it can.

    Raises:
        ValueError: for a motion of another base.
    """
    config = with_method(base_config(editor.config, editor.config.name), as_used(motion.settings))
    dit = base_params(editor.params["dit"])
    if editor.base_digest() != motion.base:
        raise ValueError(
            f"the motion was learned on another base ({motion.about.get('base', 'unnamed')}) than {editor.config.name}"
        )
    params = {"vae": editor.params["vae"], "text": editor.params["text"], "dit": dit}
    params["conditioner"] = debiased(motion)
    checkpoints.check_shapes(params, loaded_model.expected_shapes(config), "the motion")
    if following is not None and following.config.to_dict() == config.to_dict():
        return following.with_params(params)
    return type(editor)(config, params, editor.folder, editor.mesh, editor.tokenizer)


def debiased(motion: Motion) -> dict[str, np.ndarray]:
    """Return a motion's parameters as they are used."""
    changed = motion_inversion.debiased(motion.params, motion.settings["debias"])
    return {name: np.asarray(value, np.float32) for name, value in changed.items()}


def as_used(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a model that samples with a motion: its programs are the same however it is debiased."""
    return settings | {"debias": "none", "loss": "plain"}


def invert(
    editor: Any, frames: UInt8[np.ndarray, "T H W 3"], num_steps: int = 50, refinements: int = 3
) -> Float[np.ndarray, "1 t h w z"]:
    """Find the noise that the base turns into a clip without a caption (`sampling.invert`), [1 t h w z].

    There and back in 50 steps on `base_tiny`, the packaged scene `shapes`, whose latents have a standard deviation of
    0.816: an error of 0.014 (root of the mean square; 0.068 at most), and without refinements 0.083 (0.41).

    Args:
        editor: of the base. frames: at its size. num_steps, refinements: as for `sampling.invert`.
    """
    model = editor.model

    def find_noise(params: PyTree, video: AnyArray, text: AnyArray, *, num_steps: int, refinements: int) -> AnyArray:
        latents = backbone.encode(model, params, video.astype(jnp.float32) / 127.5 - 1)
        predict = lambda xt, timestep: backbone.denoise(model, params, xt, timestep, text, None, False)  # noqa: E731
        return sampling.invert(predict, latents, model.schedule, num_steps, refinements)

    program = editor.program(find_noise, ("num_steps", "refinements"))
    text = editor.embed(editor.tokenizer.encode([tokenizer.NULL_PROMPT]))
    static = {"num_steps": num_steps, "refinements": refinements}
    return np.asarray(program(editor.params, jnp.asarray(frames)[None], text, **static))


def sampled_as(config: Any, num_steps: int | None = None, guidance: float | None = None) -> tuple[int, float | None]:
    """Return the steps and the guidance of samples of a base, whose config it is: what is given, else the model's own.

    A model made for edits may take one step, without guidance, where its base needs many and with it.
    """
    own = sampling.from_config(config.sample)
    if own.num_steps < LEAST_STEPS:
        return num_steps or STEPS, GUIDANCE if guidance is None and own.guidance.kind == "off" else guidance
    return num_steps or own.num_steps, guidance
