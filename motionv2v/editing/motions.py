"""Motions that were learned from clips, as files: one safetensors file each, with what it was learned from and for.

The file's metadata hold json under `motion`: the method's settings, the base it was learned on, and of the clip its
name, its caption and its size. A motion belongs to the base it was learned on; to another of the same shapes it means
nothing.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from motionv2v import files, parameters
from motionv2v.checkpoints import CheckpointError, check_finite
from motionv2v.typing import PyTree

KEY = "motion"


class Motion(NamedTuple):
    """What a clip's motion is: the conditioner's parameters, the settings they have, where they come from.

    Attributes:
        params: {"motion_qk": ..., ...} (`methods.motion_inversion.Conditioner`).
        settings: `config.method`. base: sha256 of the base's transformer (`digest`). about: of the clip and the run.
    """

    params: dict[str, np.ndarray]
    settings: dict[str, Any]
    base: str
    about: dict[str, Any]


def digest(dit: PyTree) -> str:
    """Return what tells one base from another: a sha256 of its transformer's parameters, in float32."""
    found = hashlib.sha256()
    for path, leaf in sorted(parameters.flatten(dit).items()):
        found.update(path.encode())
        found.update(np.asarray(leaf, np.float32).tobytes())
    return found.hexdigest()


def save(path: str | os.PathLike, motion: Motion) -> Path:
    """Write a motion as one file, which appears whole or not at all."""
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in motion.params.items()}
    told = {"settings": motion.settings, "base": motion.base, "about": motion.about}
    with files.partial(path) as unfinished:
        save_file(arrays, unfinished, metadata={KEY: json.dumps(told, sort_keys=True)})
        unfinished.chmod(0o644)  # safetensors writes files that only their owner can read
    return Path(path)


def load(path: str | os.PathLike) -> Motion:
    """Read a motion. Raises CheckpointError, in one line, where the file is none, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no motion at {path}; launch/transfer.py --video=clip.mp4 learns one")
    try:
        with safe_open(path, "numpy") as file:
            told = json.loads((file.metadata() or {})[KEY])
            params = {name: file.get_tensor(name) for name in file.keys()}
        motion = Motion(params, dict(told["settings"]), str(told["base"]), dict(told["about"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no motion that launch/transfer.py wrote ({error})") from error
    check_finite(params, str(path))
    return motion


def mixed(motions: Sequence[Motion], weights: Sequence[float | int | np.number]) -> Motion:
    """Add several motions of one base, each by its weight. Raises ValueError for those that do not fit together."""
    if not motions or len(motions) != len(weights):
        raise ValueError(f"each motion needs one weight; given {len(motions)} motions and {len(weights)} weights")
    first = motions[0]
    if first.settings["rank"]:
        raise ValueError(
            "the motions are sums of products (rank): only embeddings without a rank can be added or weighed"
        )
    for other in motions[1:]:
        if other.base != first.base:
            raise ValueError("the motions were learned on different bases, and cannot be mixed")
        differ = sorted(k for k in {*first.settings, *other.settings} if first.settings.get(k) != other.settings.get(k))
        differ = [name for name in differ if name not in ("loss", "debias", "start")]
        if differ:
            raise ValueError(f"the motions differ in {', '.join(differ)}: only embeddings of one shape can be added")
    names = first.params
    params = {name: sum(w * m.params[name] for m, w in zip(motions, weights, strict=True)) for name in names}
    about = {"mixed": [[float(w), m.about] for m, w in zip(motions, weights, strict=True)]}
    return first._replace(params=params, about=about)
