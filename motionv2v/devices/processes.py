"""Join the processes of one training job, and notice when it has to stop.

A job of several processes (hosts of a TPU pod, nodes of a GPU cluster, or processes on one machine) runs the same
command everywhere. Each process finds out which one it is (`detect`):

    --coordinator=HOST:PORT --num_processes=N --process_id=I   flags of launch/train.py, on any machines
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID    the same as environment variables
    SLURM (srun), Open MPI (mpirun), TPU slices on Kubernetes     found in their environment
    --coordinator=auto                                            whatever jax.distributed.initialize finds: TPU VMs

Work dir and data lie on a file system that all share; process 0 alone writes metrics, samples and config. A process
that dies takes the job with it: the others say so in one line and end with `LOST_EXIT_CODE`, as soon as the network
tells (`lost_process`), or within seconds by their open connections (`roll_call`, which uses the port after the
coordinator's), else when jax has missed heartbeats for `HEARTBEAT_SECONDS` (jax then writes a few lines of its own).
The same command, on any number of processes, goes on from the last checkpoint.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from motionv2v.devices import roll_call

HEARTBEAT_SECONDS = 30
LOST_EXIT_CODE = 3
GRACE_SECONDS = 5
"""How long the work itself has to tell of a lost process, in better words, before the watch over the others does."""
AUTO = "auto"
CALL_SECONDS = 60.0
"""How long processes that jax has joined wait for each other's roll call."""

_place: tuple[int, int] | None = None
"""(index, count) of this process in the job that it has joined, as the roll call has them. jax is not asked where they
are known: before it has found its devices it would wait for all processes, the one that is gone too."""

_RANKS = (
    # (index, count) of the process. SLURM's own variables also stand in a batch script that is no step of srun.
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
_LOST = re.compile(
    r"gloo|nccl|heartbeat|coordination (service|agent)|socket closed|connection (reset|closed|refused)|barrier"
    r"|task.*(died|failed|unhealthy)|deadline_exceeded|unavailable",
    re.IGNORECASE,
)


class JobError(ValueError):
    """Say in one line why a process cannot join its job, and what would fit."""


def detect(environ: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Find (index, count) of this process in the environment of a cluster; None where there is no other process.

    Slices on Google's Kubernetes count as (their worker's index, number of workers). Raises JobError for numbers that
    cannot be.
    """
    for names in _RANKS:
        given = [environ.get(name) for name in names]
        if given[1] is None or (given[0] is None and given[1] == "1"):
            continue
        if not all((value or "").isdecimal() for value in given) or int(given[0]) >= max(1, int(given[1])):
            raise JobError(f"{names[0]}={given[0]} and {names[1]}={given[1]}: {_fitting(given[1])}")
        if int(given[1]) > 1:
            return int(given[0]), int(given[1])
    workers = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    if len(workers) * slices > 1:
        index = int(environ.get("TPU_WORKER_ID") or 0)
        return index + int(environ.get("MEGASCALE_SLICE_ID") or 0) * len(workers), len(workers) * slices
    return None


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connect this process with the others of its job; nothing happens where it is the only one.

    Call before anything asks jax for a device. Arguments left out come from the environment, see this module's docs.

    Raises:
        JobError: when arguments are missing or impossible, or the others do not come.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if all(value is None for value in given.values()):
        if detect() is None or jax.distributed.is_initialized():
            return
        arguments = _environment()
    elif coordinator == AUTO and num_processes is None and process_id is None:
        arguments = {}
    else:
        _check(given)
        if num_processes == 1:
            return
        arguments = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    global _place
    if not jax.config.jax_cpu_collectives_implementation:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        calls = _call_roll(arguments)
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        calls = calls or _call_roll_of_cluster()
        if calls is not None:
            _place = calls.index, calls.count
            calls.watch(_end_on_loss)
    except (RuntimeError, ValueError, OSError) as error:
        raise JobError(
            f"this process cannot join the job {arguments or 'that jax looked for'}: {_first_words(error)}; every "
            "process needs the same coordinator and number, and an index of its own"
        ) from error


def share() -> tuple[int, int]:
    """Return (index, count) of this process for work that needs no talk between processes, such as files to write."""
    return detect() or (jax.process_index(), jax.process_count())


def is_writer() -> bool:
    """Tell whether this is the one process that writes what the job writes once."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until every process of the job has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def lost_process(error: BaseException) -> str | None:
    """Return one line for people if an error says that another process of this job is gone, None if it says else."""
    if not jax.distributed.is_initialized() or isinstance(error, JobError) or not _LOST.search(str(error)):
        return None
    return f"{_loss()} ({_first_words(error)})"


def leave(code: int) -> None:
    """End this process with an exit code; in a job at once, since a proper goodbye would wait for the others."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class StopSignal:
    """Notice SIGTERM and SIGINT, as a context manager; alone, the second signal acts as it did before.

    In a job of several processes any of them may get the signal, and all stop after the same step: jax agrees on one
    (`multihost_utils.reached_preemption_sync_point`), which is within a second or two.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, Any] = {}
        self._is_job = jax.process_count() > 1

    def __enter__(self) -> "StopSignal":
        # Python allows handlers in the main thread only; elsewhere the run just cannot be stopped this way.
        if threading.current_thread() is threading.main_thread():
            if self._is_job:
                # SIGTERM is jax's.
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: _raise(signal.SIGTERM))
            else:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def reached(self, step: int) -> bool:
        """Tell whether to stop at this step; in a job ask at every step, once."""
        if self._is_job and self.name is None and multihost_utils.reached_preemption_sync_point(step):
            self.name = "SIGTERM"
        return self.name is not None

    def _notice(self, number: int, _: Any) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._previous[number])


def _call_roll(arguments: dict[str, Any]) -> roll_call.RollCall | None:
    """Count the processes of a job whose coordinator has a known address; jax counts the others."""
    address = arguments.get("coordinator_address")
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    return roll_call.call(f"{host}:{int(port) + 1}", arguments["num_processes"], arguments["process_id"])


def _call_roll_of_cluster() -> roll_call.RollCall | None:
    """Count the processes again where jax found the coordinator itself; without it losses are told later."""
    try:
        # jax keeps what it found to itself.
        from jax._src.distributed import global_state as found

        if found.num_processes == 1:
            return None
        host, _, port = found.coordinator_address.rpartition(":")
        port = int(port) + (1 if int(port) < 65535 else -1)
        return roll_call.call(f"{host}:{port}", found.num_processes, found.process_id, CALL_SECONDS)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        print(f"the end of another process will be noticed late: {_first_words(error)}", file=sys.stderr)
        return None


def _end_on_loss() -> None:
    """End this process because another one is gone."""
    # Process 0 sees any of the others go, and gives the work a while to fail in better words. The others see only
    # process 0 go, and jax's coordinator with it: jax would end them within moments, so they speak at once.
    if _place is not None and _place[0] == 0:
        time.sleep(GRACE_SECONDS)
    print(f"{Path(sys.argv[0]).stem}: {_loss()}", file=sys.stderr)
    leave(LOST_EXIT_CODE)


def _loss() -> str:
    index, count = _place or (jax.process_index(), jax.process_count())
    return (
        f"another process of this job of {count} is gone, so process {index} stops; start the job again, on any number "
        "of processes, to go on from the last checkpoint"
    )


def _raise(number: int) -> None:
    os.kill(os.getpid(), number)


def _environment() -> dict[str, Any]:
    """Read jax's own variables; what they do not say, jax finds out."""
    found: dict[str, Any] = {}
    if "JAX_NUM_PROCESSES" in os.environ:
        index, count = detect() or (0, 1)
        found = {"num_processes": count, "process_id": index}
        address = os.environ.get("JAX_COORDINATOR_ADDRESS")
        if not address:
            raise JobError(f"JAX_NUM_PROCESSES is {count}, but JAX_COORDINATOR_ADDRESS is not set; expected HOST:PORT")
        _check({"coordinator": address, "num_processes": count, "process_id": index})
        found["coordinator_address"] = address
    return found


def _check(given: dict[str, Any]) -> None:
    """Raise a JobError for flags of a job that are missing or cannot be."""
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise JobError(
            f"{', '.join(missing)} missing; expected --coordinator=HOST:PORT --num_processes=N --process_id=0..N-1, or "
            "--coordinator=auto alone on a cluster that jax knows"
        )
    address, count, index = given.values()
    if not re.fullmatch(r".+:\d+", address):
        raise JobError(f"--coordinator is {address!r}, expected HOST:PORT of process 0, such as 10.0.0.1:1234")
    if count < 1 or not 0 <= index < count:
        raise JobError(f"--process_id is {index} and --num_processes {count}: {_fitting(str(count))}")


def _fitting(count: str | None) -> str:
    if count and count.isdecimal() and int(count):
        return f"the {count} processes have the indices 0 to {int(count) - 1}"
    return "expected a number of processes, and an index from 0 to that less one"


def _first_words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
