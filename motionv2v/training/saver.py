"""Write and restore the checkpoints of a training run: all that it takes to go on as if nothing had happened.

A checkpoint is written beside its place and renamed when complete, so a process killed while writing leaves nothing
that would be restored. The processes of a job write one together, each what its devices hold, into a folder that they
all see; it can be read on any mesh, by any number of processes. Random keys are derived from (seed, step), hence not
saved.
"""

import contextlib
import logging
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from motionv2v import checkpoints
from motionv2v.devices import processes
from motionv2v.typing import PyTree


class Restored(NamedTuple):
    """Hold one restored training checkpoint; `opt_state` is None where it was not asked for."""

    step: int
    trainable: PyTree
    ema: PyTree
    opt_state: Any
    data_state: Any


class _ToldHere(logging.Filter):
    """Drop what orbax and asyncio log of an error in orbax's threads: it is raised here too, and told in one line.

    Orbax logs a traceback; asyncio logs the tasks that nobody waits for after another has failed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        trace = record.exc_info[2] if record.exc_info else None
        files = [record.pathname, *(frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))]
        return not (record.exc_info and any(f"{os.sep}orbax{os.sep}" in file for file in files))


_TOLD_HERE = _ToldHere()


class RunCheckpoints:
    """Write and read the checkpoints of one training run: atomic, in the background, the newest `keep` of them."""

    def __init__(self, workdir: str | os.PathLike, keep: int = 2):
        self._folder = Path(workdir).resolve() / checkpoints.CHECKPOINTS
        # What a killed run left half-written is removed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._has_failed = False
        # Never taken off again: asyncio logs a failed task when it is collected, which can be long after.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_TOLD_HERE)

    def latest_step(self) -> int | None:
        """Find the newest complete checkpoint's step, or None."""
        return checkpoints.latest_step(self._folder.parent)

    def save(self, step: int, trainable: PyTree, ema: PyTree, opt_state: Any, data_state: Any) -> None:
        """Start writing a checkpoint; the trees may be donated to the next step as soon as this returns.

        `data_state` is whatever the data iterator's get_state() gave: made of json types, or bytes. CheckpointError if
        this checkpoint or the one before cannot be written.
        """
        trees = (trainable, ema, opt_state)
        if jax.default_backend() == "cpu":
            # On an accelerator saving copies to the host first; on the CPU it would read, in the background, the very
            # buffers that the next step overwrites.
            trees = jax.tree.map(jnp.copy, trees)
        meta = {"step": step, "data": _encode_data_state(data_state)}
        items = dict(zip(("trainable", "ema", "optimizer"), map(ocp.args.StandardSave, trees), strict=True))
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)))

    def check(self) -> None:
        """Raise a CheckpointError if a checkpoint that was begun could not be written; does not wait for it."""
        with self._writing():
            self._manager.check_for_errors()

    def restore(self, trainable: PyTree, opt_state: Any) -> Restored:
        """Restore the newest complete checkpoint into trees with the structure, shapes and types of those given.

        CheckpointError when there is none, or when it holds another model.
        """
        step = self.latest_step()
        if step is None:
            raise checkpoints.CheckpointError(checkpoints.nothing_found(self._folder.parent))
        args = {
            "trainable": ocp.args.StandardRestore(_abstract(trainable)),
            "ema": ocp.args.StandardRestore(_abstract(trainable)),
            "optimizer": ocp.args.StandardRestore(_abstract(opt_state)),
            "meta": ocp.args.JsonRestore(),
        }
        got = checkpoints.restore_step(self._manager, step, args, self._folder)
        checkpoints.check_shapes(got.trainable, trainable, f"checkpoint {self._folder / str(step)}")
        return Restored(step, got.trainable, got.ema, got.optimizer, _decode_data_state(got.meta["data"]))

    def wait(self) -> None:
        """Block until every checkpoint begun is complete on disk; CheckpointError if one could not be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # What is being written with a process that is gone will not be complete, and waiting for it takes long.
        if error is None or processes.lost_process(error) is None:
            self.close()

    def close(self) -> None:
        """Finish writing and stop the background threads."""
        with contextlib.suppress(Exception) if self._has_failed else self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong while writing into one line."""
        try:
            yield
        except Exception as error:
            self._has_failed = True
            kept = self.latest_step()
            rest = "there is no complete one yet" if kept is None else f"step {kept} is complete and kept"
            raise checkpoints.CheckpointError(
                f"a checkpoint cannot be written in {self._folder}: {_reason(error)}; {rest}, and the same command "
                "continues from there once that is put right"
            ) from error


def _reason(error: Exception) -> str:
    """Say in a few words what an error of writing is, in the operating system's words if there are any."""
    found = re.search(r"(?:: |\] )([^:\]]+) \[os_error_code=", str(error))
    if found:
        return found[1]
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else checkpoints.one_line(error)


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _encode_data_state(state: Any) -> dict[str, Any]:
    return {"hex": state.hex()} if isinstance(state, bytes) else {"json": state}


def _decode_data_state(encoded: dict[str, Any]) -> Any:
    return bytes.fromhex(encoded["hex"]) if "hex" in encoded else encoded["json"]
