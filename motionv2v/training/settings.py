"""The config of a training run: whether it can work, and whether a work dir belongs to it."""

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from motionv2v import checkpoints, schema, sections
from motionv2v.devices import processes
from motionv2v.training import dataset

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

ABSENT = "(absent)"


def check_config(config: ConfigDict) -> ConfigDict:
    """Return the complete config of a training run (`sections.complete`); ValueError for one that cannot work."""
    config = sections.complete(config)
    sections.require(config, ("train", "optim"), "to train")
    return config


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
        if processes.is_writer():
            stack.enter_context(_locked(workdir, notify))
        processes.wait_for_all("config checked")
        if processes.is_writer():
            checkpoints.write_config(workdir, config)
            dataset.copy_vocabulary(config, workdir)
        processes.wait_for_all("work dir ready")
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
    value = sections.default(name)
    return ABSENT if value is schema.REQUIRED else value


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted names; lists stay values."""
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat
