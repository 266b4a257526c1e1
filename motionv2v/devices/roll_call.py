"""Count the processes of a job before they start, and notice at once when one of them is gone.

jax joins processes too and sends heartbeats, but where a job does not fit or a process has died it raises no error that
a program could catch: jax 0.10.2 aborts with a stack trace, after `initialization_timeout` or missed heartbeats. Of two
CPU processes that wait and of which one is killed, the other ends so (two runs of each, on one machine):

    killed       jax alone                                   with the roll call
    process 1    after 28 s, aborted, 21 lines               after 5 s, exit code 3, one line
    process 0    at once, aborted, 20 lines                  at once, exit code 3, jax's lines and then ours

The first process listens beside jax's coordinator, on the port after it; every other one connects and says which it is,
"INDEX COUNT". When all are there, and each is there once, all get "ok", else all get the reason. The connections then
stay open and silent: the end of one that was not announced by "bye" means that its process died, because the kernel
closes what a killed process leaves open.
"""

import atexit
import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable


class RollCallError(ValueError):
    """Say in one line who is missing or does not fit."""


class RollCall:
    """The open connections of this process, number `index` of `count`, with the others of its job."""

    def __init__(self, connections: list[socket.socket], index: int, count: int):
        self._connections = connections
        self.index, self.count = index, count

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Call `on_loss` from a thread of its own when a process ends without having said goodbye."""
        atexit.register(self.leave)
        threading.Thread(target=self._watch, args=(on_loss,), daemon=True, name="roll-call").start()

    def leave(self) -> None:
        """Say goodbye: the end of this process is not a loss."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"bye\n")

    def _watch(self, on_loss: Callable[[], None]) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection, selectors.EVENT_READ)
            while selector.get_map():
                for ready, _ in selector.select():
                    if _read_line(ready.fileobj) != "bye":
                        on_loss()
                        return
                    selector.unregister(ready.fileobj)


def call(address: str, count: int, index: int, timeout: float = 300.0) -> RollCall:
    """Wait until all `count` processes of a job have called; `address` is HOST:PORT of the first one's roll call.

    Raises:
        RollCallError: when not all come within `timeout` seconds, two have one index, or counts differ.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    connections = (
        _listen(int(port), count, deadline, timeout)
        if index == 0
        else [_connect(host, int(port), f"{index} {count}", deadline, timeout)]
    )
    for connection in connections:
        connection.settimeout(None)
    return RollCall(connections, index, count)


def _listen(port: int, count: int, deadline: float, timeout: float) -> list[socket.socket]:
    """Gather the other processes, as the first one, and answer them."""
    try:
        server = socket.create_server(("", port), backlog=count)
    except OSError as error:
        raise RollCallError(
            f"port {port} of this machine is taken ({error.strerror}): does another process 0 run? Choose another one"
        ) from error
    present: dict[int, socket.socket] = {}
    guests: list[socket.socket] = []
    problem = None
    with server:
        while problem is None and len(present) < count - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                guest, _ = server.accept()
            except TimeoutError:
                missing = [str(i) for i in range(1, count) if i not in present]
                problem = (
                    f"{len(present) + 1} of {count} processes came within {timeout:.0f} s; missing: {_some(missing)}"
                )
                break
            said = _numbers(guest)
            if said is None:  # not one of ours
                guest.close()
                continue
            guests.append(guest)
            problem = _misfit(said, count, present)
            present[said[0]] = guest
    for guest in guests:
        with contextlib.suppress(OSError):
            guest.sendall(f"{problem or 'ok'}\n".encode())
    if problem is not None:
        raise RollCallError(problem)
    return list(present.values())


def _connect(host: str, port: int, words: str, deadline: float, timeout: float) -> socket.socket:
    """Report to the first process and wait for its answer."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RollCallError(
                    f"no process 0 at {host}, port {port}, within {timeout:.0f} s ({error}); does it run, with this "
                    "address and more than one process?"
                ) from error
            time.sleep(0.2)
    connection.sendall(f"{words}\n".encode())
    # The first process gives up at its own deadline, and says so.
    connection.settimeout(max(0.1, deadline - time.monotonic()) + 10)
    answer = _read_line(connection)
    if answer != "ok":
        raise RollCallError(answer or f"process 0 at {host} ended before all had come")
    return connection


def _misfit(said: tuple[int, int], count: int, present: dict[int, socket.socket]) -> str | None:
    """Say what is wrong with a process's index and count, if anything is."""
    index, its_count = said
    if its_count != count:
        return f"process {index} counts {its_count} processes and process 0 counts {count}; all need the same number"
    if index in present or not 0 < index < count:
        return f"two processes have the index {index}; the {count} processes have the indices 0 to {count - 1}"
    return None


def _numbers(guest: socket.socket) -> tuple[int, int] | None:
    guest.settimeout(10)
    words = _read_line(guest).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(w.isdecimal() for w in words) else None


def _read_line(connection: socket.socket) -> str:
    """Read to the end of a line or of the connection; "" if it breaks off."""
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < 1000:
            piece = connection.recv(1)
            if not piece:
                return ""
            line += piece
    return line.decode(errors="replace").strip()


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
