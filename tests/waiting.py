"""Waiting for what other threads do."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], what: str = "it did not come", seconds: float = 300) -> None:
    """Wait for a condition; an AssertionError says what did not come."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, what
        time.sleep(0.01)
