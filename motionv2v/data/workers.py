"""Look after the worker processes of the input pipeline."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent(worker_index: int = 0, worker_count: int = 1) -> None:
    """Make this worker process end when its parent is gone, however that happened; does nothing elsewhere.

    For grain's `mp_prefetch(..., worker_init_fn=end_with_parent)`. A training process that is SIGKILLed cannot stop its
    workers, and they would wait for it for ever, holding memory and shared buffers.
    """
    del worker_index, worker_count
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True, name="end-with-parent").start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
