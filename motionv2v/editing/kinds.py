"""What kind of model a checkpoint's config describes, and what it can do here: known before any weights are read."""

import functools
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from motionv2v import checkpoints, methods, sections
from motionv2v.convert import generators, pipeline
from motionv2v.editing import loaded_model
from motionv2v.methods import diffusion_as_shader


def described(checkpoint: str | os.PathLike) -> tuple[ConfigDict, Path]:
    """Return the config of a checkpoint, which may be a folder that diffusers saved, and where it lies.

    Raises:
        checkpoints.CheckpointError, convert.ConvertError: a one-line reason if there is no such model.
    """
    folder = Path(checkpoint)
    if (folder / pipeline.INDEX).is_file():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        seen = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        return ConfigDict(_of_pipeline(str(folder), seen).to_dict()), folder
    folder = checkpoints.resolve(checkpoint)
    return checkpoints.read_config(folder), folder


@functools.lru_cache(maxsize=4)
def _of_pipeline(folder: str, seen: tuple[tuple[str, int, int], ...]) -> ConfigDict:
    """Describe a folder that diffusers saved; an edit asks many times. `seen`: its files, as they were then."""
    del seen
    return sections.complete(pipeline.described(folder))


def as_method(config: Any, folder: str | os.PathLike, image_scale: float | None = None) -> Any:
    """Return the config of a published model that tells no method with the one that draws for it, others as they are.

    Input channels for an image are those of CogVideoX-I2V; a control branch beside them, which takes what the base
    takes, is Diffusion-as-Shader's. `folder` is where the model lies, `image_scale` as for `generators.as_generator`.
    """
    if "method" in config or "dit" not in config or config.dit.in_channels != 2 * config.dit.out_channels:
        return config
    if not config.dit.control_depth:
        return generators.as_generator(config, Path(folder), image_scale)
    config = ConfigDict(config)
    config.method = ConfigDict(diffusion_as_shader.released_settings())
    return config


def check_config(config: Any, name: str | os.PathLike) -> None:
    """Raise a ValueError for a config of no model that an `Editor` runs, saying what it is and what it can do.

    Some published models read an image's latents beside the noise, or have a control branch for conditions that no
    method here draws.
    """
    sections.require(config, loaded_model.NEEDED, "to edit", str(name))
    method = methods.get(config.method.name) if "method" in config else None
    can = None if method is None else (method.edits(), method.animates(), method.remakes(), method.continues())
    if can is not None and not any(can):
        raise ValueError(
            f"{name} is a model of {config.method.name} ({config.name}), which reads {', '.join(method.reads)}: it "
            "cannot edit a clip by its points, as the released 'tiny' does"
        )
    given = config.dit.in_channels - config.dit.out_channels
    if config.dit.control_depth and method is None and not given:
        raise ValueError(
            f"{name} has a control branch as Diffusion-as-Shader's, but on a text-to-video base, which lacks the "
            f"{config.dit.out_channels} input channels of a first frame: it cannot edit or animate; launch/convert.py "
            "writes it back for diffusers, or with --drop_control its base"
        )


def check_edits(model: Any, name: str) -> None:
    """Raise a ValueError for a `backbone.Model` that cannot edit motion, neither by tracks nor from a draft's picture.

    `name` is its config's.
    """
    method = model.method
    if method is None or not (method.edits() or method.animates()):
        reads = "only a base" if method is None else f"it reads {', '.join(method.reads)}"
        also = "; it makes regions anew (Editor.remake)" if method and method.remakes() else ""
        raise ValueError(f"{name} has no method for edits, {reads}: it cannot edit motion{also}")
