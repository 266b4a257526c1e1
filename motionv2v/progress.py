"""Show and record how long work is going: metrics as jsonl and tensorboard files, a progress line, a countdown.

Scalars of a step go to `workdir/metrics.jsonl` ({"step": .., "loss": ..} one object a line) and to event files under
`workdir/tensorboard` (tensorboardX, which does not need TensorFlow).
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.console import Console

from motionv2v import files

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Append scalars to a work dir's jsonl and tensorboard files.

    A resumed run repeats the steps that the interrupted one had made after its last checkpoint: what was written of
    those (step > `resumed_at`) is dropped first, so that every step stands in the file once. `is_quiet` writes nothing:
    for the processes of a job other than its first.
    """

    def __init__(self, workdir: str | os.PathLike, resumed_at: int = 0, is_quiet: bool = False):
        self._is_quiet = is_quiet
        if is_quiet:
            return
        path = Path(workdir) / METRICS
        _drop_after(path, resumed_at)
        self._file = path.open("a", encoding="utf-8")
        from tensorboardX import SummaryWriter  # here: it imports torch where there is one, which takes seconds

        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, step: int, scalars: Mapping[str, float | int]) -> None:
        """Record the scalars of one step; the jsonl line is on disk when this returns."""
        if self._is_quiet:
            return
        self._file.write(json.dumps({"step": step, **{k: float(v) for k, v in scalars.items()}}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            if math.isfinite(value):  # a probe says NaN of what its few scenes do not show
                self._board.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        if self._is_quiet:
            return
        self._file.close()
        self._board.close()


class Utilisation(NamedTuple):
    """What it takes to say how well the devices are used: operations per sample, and per second at their peak."""

    flops_per_sample: float
    peak_flops: float | None


class ProgressLine:
    """Print step, loss, samples per second, time left and the share of time spent waiting for data.

    With `flops` also the rate of operations, in TFLOP/s of all devices together, and the share of their peak (MFU)
    where that is known.

    On a terminal one line is rewritten; elsewhere (a log file) every report is a line of its own. The clock runs from
    the first step that is `done`, which compiled, and not while `paused`, so that compiling, probing and saving do not
    spoil the rates. `is_quiet` prints nothing and still counts.
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        stream: TextIO | None = None,
        flops: Utilisation | None = None,
        is_quiet: bool = False,
    ):
        self._total, self._batch_size, self._flops = total_steps, batch_size, flops
        stream = stream or sys.stdout
        self._console = Console(file=stream, highlight=False, soft_wrap=True, quiet=is_quiet)
        self._status = self._console.status("") if self._console.is_terminal and not is_quiet else None
        self._steps, self._waited, self._since, self._last = 0, 0.0, None, None
        self._rate = None

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False)

    def done(self, waited: float | int, at: float | None = None) -> None:
        """Count a step that is done; the first one sets the clock, which has not seen all of it.

        `waited` are the seconds that passed waiting for its batch. `at` is when it was done, by `time.perf_counter`;
        None is now.
        """
        self._last = time.perf_counter() if at is None else at
        if self._since is None:
            self._since = self._last
        else:
            self._steps, self._waited = self._steps + 1, self._waited + waited

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a while, if it runs; call when no step is under way."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            seconds = time.perf_counter() - began
            self._since, self._last = self._since + seconds, self._last + seconds

    def report(self, step: int, loss: float | int) -> dict[str, float]:
        """Show the line for what passed since the last report, and return its rates as scalars."""
        if self._steps:
            seconds = max(self._last - self._since, 1e-9)
            rate = self._steps / seconds
            # Smooth a little: the time left should not jump with every report.
            self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
            share = min(1.0, self._waited / seconds)
            scalars = {"samples_per_second": rate * self._batch_size, "data_wait": share}
            left = clock((self._total - step) / self._rate)
            rates = f"{scalars['samples_per_second']:.1f} samples/s, {left} left, {share:.0%} waiting for data"
            if self._flops is not None:
                done = scalars["samples_per_second"] * self._flops.flops_per_sample
                scalars["tflops_per_second"] = done / 1e12
                rates += f", {done / 1e12:.3g} TFLOP/s"
                if self._flops.peak_flops is not None:
                    scalars["mfu"] = done / self._flops.peak_flops
                    rates += f" (MFU {scalars['mfu']:.1%})"
        else:
            scalars, rates = {}, "compiling"
        line = f"step {step}/{self._total} loss {loss:.5g}, {rates}"
        if self._status is None:
            self.say(line)
        else:
            self._status.update(line)
            self._status.start()
        self._steps, self._waited = 0, 0.0
        self._since = self._last
        return scalars

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._status is not None:
            self._status.stop()


class Countdown:
    """Say now and then how far work of several kinds of pieces is, and how long the rest takes.

    The first piece of a kind, which compiles, counts only until there is a second one.
    """

    def __init__(
        self,
        pieces: Mapping[str, int],
        say: Callable[[str], None] = print,
        *,
        every: float | int = 10,
        now: Callable[[], float] = time.perf_counter,
    ):
        """Start the clock.

        Args:
            pieces: how many there are to do of each kind.
            say: called with a line, at most every so many seconds, or whenever a fiftieth of the time has passed if
                that is longer: a long run is no long list.
        """
        self._pieces, self._say, self._every, self._now = dict(pieces), say, every, now
        self._done, self._seconds = dict.fromkeys(pieces, 0), dict.fromkeys(pieces, 0.0)
        self._began = self._last = self._said = now()

    def done(self, kind: str, where: str) -> None:
        """Count a piece that is done; `where` it was, for the line."""
        at = self._now()
        seconds, self._last = at - self._last, at
        self._done[kind] += 1
        self._seconds[kind] = seconds if self._done[kind] <= 2 else self._seconds[kind] + seconds
        left = self.left()
        if at - self._said >= max(self._every, (at - self._began + left) / 50) and left:
            self._said = at
            self._say(f"{where}, {clock(left)} left")

    def skip(self, kind: str, count: int) -> None:
        """Take pieces off that need not be done."""
        self._pieces[kind] -= count

    def made(self, kind: str) -> int:
        """Return how many pieces of a kind are done."""
        return self._done[kind]

    def left(self) -> float:
        """Return the seconds that the rest takes; a kind of which none is done yet takes as long as the others."""
        known = {kind: self._seconds[kind] / max(count - 1, 1) for kind, count in self._done.items() if count}
        count = {kind: total - self._done[kind] for kind, total in self._pieces.items()}
        mean = sum(known[kind] * self._pieces[kind] for kind in known) / max(sum(self._pieces[k] for k in known), 1)
        return sum(number * known.get(kind, mean) for kind, number in count.items())


def counted(parts: Any, what: str, say: Callable[[str], None] | None) -> Iterator[Any]:
    """Yield the parts of a sequence, and say now and then how many are done and how long the rest takes; None: never.

    `what` is the name of a part. The clock stands while nothing is asked for.
    """
    if say is None:
        yield from parts
        return
    total = len(parts)
    countdown = Countdown({what: total}, say)
    for number, part in enumerate(parts, 1):
        yield part
        countdown.done(what, f"{what} {number} of {total}")


def clock(seconds: float | int) -> str:
    """Write a duration as people read it: 42 s, 3:07 min, 5:01 h."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02d} min"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d} h"


def _drop_after(path: Path, step: int) -> None:
    """Keep the lines up to a step; a last line that a kill cut short goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    files.write(path, "".join(kept))
