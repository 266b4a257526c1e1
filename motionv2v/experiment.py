"""The config of a training run: whether it can work, and whether a work dir belongs to it."""

import contextlib
import dataclasses
import inspect
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from motionv2v import checkpoints, datasets, diffusion, distributed, model
from motionv2v.data.synthetic import SceneConfig
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae import VAE

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps a second run out
    fcntl = None

LOCK = ".lock"
"""Name of the file in a work dir that the run in it has locked."""

MAY_CHANGE = (
    "train.steps", "train.log_every", "train.checkpoint_every", "train.probe_every", "train.keep", "data.num_workers",
    "dit.attention_implementation", "dit.remat", "dit.scan_unroll", "mesh",
)  # fmt: skip
"""The fields or sections that may differ between a work dir's config and the one that resumes it: how long, how often
told, and on what machines."""

WITHOUT: dict[str, Any] = {
    "name": "experiment",
    "init_from": [],
    "resume_from": [],
    "branch_from_base": True,
    "data.latents": "",
    "data.text_embeddings": False,
    "data.mix": [],
    "data.buckets": [],
    "data.num_points": 0,
    "data.vocabulary": "",
    "data.swap": 0.0,
    "data.scene": {},
    "text.tokenizer": "bytes",
    "method.patch_embed_from_base": False,
    "method.image_scale": 1.0,
    "method.subpixel": True,
    "loss.edges": 0.0,
    "loss.power": 2.0,
    "optim.b1": 0.9,
    "optim.b2": 0.999,
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "train.accumulate": 1,
    "train.clip_norm": 0,
    "train.frozen_dtype": "float32",
}
"""What a run does where its config lacks a field. With the defaults of `MADE_OF` it tells which configs are the same:
the work dir of an earlier version, whose config lacks the fields that came later, still belongs to its experiment."""

MADE_OF = {
    "dit": DiT,
    "vae": VAE,
    "text": T5Encoder,
    "schedule": diffusion.make_schedule,
    "data.scene": SceneConfig,
}
"""Sections that are the arguments of something."""

ABSENT = "(absent)"


def check_config(config: ConfigDict) -> None:
    """Raise a ValueError naming the fields of config.train that are missing or cannot work."""
    options = config.get("train", ConfigDict())
    needed = ("steps", "batch_size", "seed", "log_every", "checkpoint_every", "probe_every", "keep", "ema_decay")
    missing = [f"train.{name}" for name in needed if name not in options]
    if missing or "optim" not in config:
        raise ValueError(f"the config lacks {', '.join(missing or ['optim'])}; configs/ holds working examples")
    accumulate = options.get("accumulate", 1)
    if options.steps < 1 or options.batch_size < 1 or options.log_every < 1 or options.keep < 1:
        raise ValueError("train.steps, train.batch_size, train.log_every and train.keep must be at least 1")
    if accumulate < 1 or options.batch_size % accumulate:
        raise ValueError(f"train.batch_size={options.batch_size} does not divide by train.accumulate={accumulate}")
    if not 0 <= options.ema_decay < 1:
        raise ValueError(f"train.ema_decay is {options.ema_decay}, expected a number in [0, 1)")


@contextlib.contextmanager
def open_workdir(
    config: ConfigDict, given: str | os.PathLike, notify: Callable[[str], None] = warnings.warn
) -> Iterator[Path]:
    """Make the work dir if there is none, write its config, and keep other runs out of it while this one goes on.

    Every process of a job checks; the first one locks and writes, and the others wait for it. `notify` is told where
    the file system has no locks.

    Raises:
        ValueError: if it is no folder, holds checkpoints of another experiment, or another run is at work in it.
    """
    if "://" in os.fspath(given):
        raise ValueError(f"workdir {given} is no path; mount the bucket (gcsfuse, s3fs) and name a folder in it")
    workdir = Path(given)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {workdir} is a file, expected a folder")
    if checkpoints.latest_step(workdir) is not None:
        differ = differences(checkpoints.read_config(workdir), config)
        if differ:
            raise ValueError(
                f"workdir {workdir} belongs to another config: {'; '.join(differ[:6])}"
                + (f" (and {len(differ) - 6} more)" if len(differ) > 6 else "")
                + f". Use a new workdir; only {', '.join(MAY_CHANGE)} may change"
            )
    with contextlib.ExitStack() as stack:
        if distributed.is_writer():
            stack.enter_context(_locked(workdir, notify))
        distributed.wait_for_all("config checked")
        if distributed.is_writer():
            checkpoints.write_config(workdir, config)
            datasets.copy_vocabulary(config, workdir)
        distributed.wait_for_all("work dir ready")
        yield workdir


@contextlib.contextmanager
def _locked(workdir: Path, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the operating system's lock on a file of the work dir, which ends with this process however that ends.

    The file tells who holds it, and means nothing without the lock.
    """
    if fcntl is None:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"workdir {workdir} is in use by {file.read().strip() or 'another run'}; wait for that run or stop it, "
                "or name another workdir"
            ) from None
        except OSError as error:  # some mounted buckets have none
            notify(f"workdir {workdir} cannot be locked ({error.strerror}): start no second run in it")
        file.truncate(0)
        command = " ".join(sys.argv)[:200]
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}: {command}\n")
        file.flush()
        yield
        file.truncate(0)


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """List how two configs differ, "train.seed was 0, is 1", but for `MAY_CHANGE`.

    A field that one of them lacks counts as `default` of it.
    """
    before, after = (_flat(checkpoints.config_to_json(config)) for config in (old, new))
    found = []
    for name in sorted({*before, *after}):
        values = [config.get(name, ABSENT) for config in (before, after)]
        effective = [default(name) if value == ABSENT else value for value in values]
        if effective[0] != effective[1] and not {name, name.split(".")[0]} & {*MAY_CHANGE}:
            found.append(f"{name} was {values[0]}, is {values[1]}")
    return found


def default(name: str) -> Any:
    """Return what a run does where its config lacks a field, in json's types; `ABSENT` where nobody says."""
    if name in WITHOUT:
        return WITHOUT[name]
    section, _, field = name.rpartition(".")
    made = MADE_OF.get(section)
    if made is None:
        return ABSENT
    if inspect.isclass(made):
        fields = {f.name: f.default for f in dataclasses.fields(made) if f.default is not dataclasses.MISSING}
    else:
        parameters = inspect.signature(made).parameters.values()
        fields = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    value = fields.get(field, ABSENT)
    value = next((text for text, dtype in model.DTYPES.items() if dtype is value), value)
    return _lists(value)


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted names; lists stay values."""
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat
