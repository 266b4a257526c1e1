"""Look after the worker processes of the input pipeline: when they end, and when they do not."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

STOPS = (signal.SIGTERM, signal.SIGINT)
"""How a cluster, and a person at a terminal, ask for an end: both tell every process of the group, workers too."""


def end_with_parent(worker_index: int = 0, worker_count: int = 1) -> None:
    """Make this worker process end when its parent does, however that happens, and never before; else do nothing.

    For grain's `mp_prefetch(..., worker_init_fn=end_with_parent)`. A training process that is SIGKILLed cannot stop its
    workers, and they would wait for it for ever, holding memory and shared buffers. One that is told to stop finishes
    its step and saves, for which it may need one more batch: its workers leave the signal (`STOPS`) to it. To end a
    worker, grain sets an event, and SIGKILLs one that does not listen.
    """
    del worker_index, worker_count
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    for number in STOPS:
        # A handler that does nothing; an ignored signal would stay ignored in what the worker itself may start.
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True, name="end-with-parent").start()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold signals back from processes started inside, until they have come to `end_with_parent`.

    A new process inherits which signals its parent's thread blocks, and the seconds of its imports are as likely a
    moment for a signal as any other. This process gets what was held back on leaving. Nothing happens on systems
    without such masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Python starts this process with the first worker, and unblocks the signals behind it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
