"""Read a checkpoint of this package, and check that a model can be built of its config and weights."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from motionv2v import checkpoints, parameters
from motionv2v.devices import memory, program_cache
from motionv2v.typing import PyTree


def read(name_or_folder: str | os.PathLike, *, ema: bool = True, as_stored: bool = True) -> tuple[ConfigDict, PyTree]:
    """Read a checkpoint, as `checkpoints.load_model` does, and check that a model can be built of it and its weights.

    Args:
        name_or_folder: a released name, a model folder or a training work dir. ema: averaged weights, or the raw ones,
            which only work dirs have.
        as_stored: keep the number type of a model folder's file if the model computes in bfloat16.

    Raises:
        checkpoints.CheckpointError: in one line, for a checkpoint that is not there, damaged, or of another shape than
            its config says.
    """
    folder = checkpoints.resolve(name_or_folder)
    config = checkpoints.read_config(folder)
    as_stored = as_stored and "dit" in config and config.dit.dtype == "bfloat16"
    config, params = checkpoints.load_model(name_or_folder, as_stored=as_stored, ema=ema)
    check(config, params, str(name_or_folder))
    return config, params


def check(config: Any, params: PyTree, where: str) -> None:
    """Check that a config describes a model, and that parameters are that model's. CheckpointError names `where`."""
    checkpoints.check_shapes(params, expected_shapes(config, where), where)


def expected_shapes(config: Any, where: str = "the config") -> PyTree:
    """Return the shapes that a config's parameters must have.

    Raises CheckpointError, naming `where`, if no model can be built of the config.
    """
    try:
        return _expected_shapes(config)
    except Exception as error:  # every library that a config passes through has its own way to say what cannot be
        reason = checkpoints.one_line(error) or type(error).__name__
        raise checkpoints.CheckpointError(f"{where} describes no model: {reason}") from error


def _expected_shapes(config: Any) -> PyTree:

    def trace() -> dict[str, list[int]]:
        shapes = parameters.flatten(memory.parameter_shapes(config))
        return {path: list(leaf.shape) for path, leaf in shapes.items()}

    # Tracing every initialiser takes longer than loading the weights.
    shapes = program_cache.remembered("shapes", config, trace)
    return parameters.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})
