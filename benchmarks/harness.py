"""Measure calls of several sides in turns, each side in a process of its own, and print tables.

A side is an object with `about() -> dict`, `prepare(Row) -> call`, where the call takes nothing and returns an array
when its result is there, `facts(Row) -> dict`, `peak() -> dict` and `release()`. Its process runs `serve(side)` and is
told what to do by lines of JSON on the standard input; answers stand behind `MARK`. A GPU's memory then belongs to the
side that runs, and one that fails, or takes too long to compile, ends alone.
"""

import contextlib
import ctypes
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rows import Row

MARK = "@ "
ROOT = Path(__file__).resolve().parents[1]


def pin_threads(count: int, cpu_time: bool = False) -> None:
    """Keep this process, and what it starts, on `count` cores; call it before a library starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)
    if cpu_time:
        # Threads of OpenMP that wait for the next piece of work would count as processor time. Not otherwise: threads
        # that have to be woken make PyTorch's small operations several times slower.
        os.environ["GOMP_SPINCOUNT"] = "0"


def about(options: Namespace) -> str:
    """Say when, where and with what a table comes about."""
    names = []
    for name in ("jax", "flax", "torch", "diffusers", "transformers", "opencv-python-headless"):
        with contextlib.suppress(ImportError):
            names.append(f"{name} {version(name)}")
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    clock = "processor time of all threads" if options.cpu_time else "wall time"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {', '.join(names)}; {options.threads} threads on {cpu} (of {os.cpu_count()} "
        f"cores{load}); {clock}, median of {options.repeats} turns"
    )


class Worker:
    """What a side's process does when it is told to."""

    def __init__(self, side: Any):
        self._side, self._call = side, None

    def about(self) -> dict[str, Any]:
        """Return what the side says of itself."""
        return self._side.about()

    def first(self, row: list[Any], path: str) -> dict[str, Any]:
        """Prepare a row, make its first call, which compiles, and keep its result in a file."""
        self._call = self._side.prepare(Row(*row))
        start = time.perf_counter()
        result = np.asarray(self._call(), np.float32)
        seconds = time.perf_counter() - start
        if not np.isfinite(result).all():
            raise ValueError("numbers that are not finite: the times mean nothing")
        np.save(path, result)
        return {"first": seconds} | self._side.facts(Row(*row))

    def run(self, count: int) -> dict[str, Any]:
        """Make calls; return the seconds that one takes: on the clock, and the processor's, all threads' together."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            self._call()
        return {
            "wall": (time.perf_counter() - wall) / count,
            "cpu": (time.process_time() - cpu) / count,
        } | self._side.peak()

    def memory(self) -> dict[str, Any]:
        """Call once more; return how far that lifts this process, in bytes, where Linux tells it."""
        return work_space(self._call)

    def release(self) -> dict[str, Any]:
        """Give back what the row held."""
        self._call = None
        self._side.release()
        return {}


def serve(side: Any) -> None:
    """Do what the lines of the standard input say, until it ends."""
    worker = Worker(side)
    for line in sys.stdin:
        order, *given = json.loads(line)
        try:
            answer = getattr(worker, order)(*given)
        except Exception as error:  # told to the other end, whose table says so in the row's place
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(MARK + json.dumps(answer), flush=True)


def work_space(call: Callable[[], Any]) -> dict[str, float]:
    """Return by how many bytes a call lifts this process above what it holds, {} where nothing tells.

    The kernel's high-water mark is set back before it. Not `ru_maxrss`, which cannot be, and which a process starts
    with from the one that started it. What was freed goes back to the system first, so that it hides nothing.
    """
    mark = Path("/proc/self/clear_refs")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        mark.write_text("5", encoding="ascii")
    except OSError:  # no Linux, or a container that forbids it
        return {}
    before = resident("VmRSS")
    call()
    return {"rise": resident("VmHWM") - before}


def resident(field: str) -> float:
    """Return the bytes of this process in memory now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) * 1024


class Side:
    """The other end of a `Worker`: a process that is started when it is first asked, and again after it has ended."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None):
        self._command, self._env, self._process = [sys.executable, *command], os.environ | (env or {}), None

    def ask(self, *order: Any, limit: float = 0.0) -> dict[str, Any]:
        """Give an order and wait for the answer, at most `limit` seconds if that is set; its end is an answer too."""
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(self._command, env=self._env, cwd=ROOT, **pipes)
        timer = threading.Timer(limit, self._process.kill)
        if limit:
            timer.start()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(MARK):
                timer.cancel()
                return json.loads(line.removeprefix(MARK))
        is_late = limit and not timer.is_alive()
        timer.cancel()
        code, self._process = self._process.wait(), None
        return {"error": f"> {limit:g} s" if is_late else f"the process ended with exit code {code}"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()


def measure(
    row: Row, sides: dict[str, Side], folder: Path, options: Namespace, tolerance: float | None = None
) -> dict[str, dict[str, Any]]:
    """Time one row on each side, in turns; {side: {"seconds", "first", "rise" or "peak", "off", "error"}}.

    All sides must return arrays of one shape and, with a `tolerance`, none further from PyTorch's, as a share of
    its largest number; else ValueError.

    A turn repeats a call for at least `options.block` seconds. No turn starts on a side that has taken
    `options.seconds` for the row. First calls compile and do not count.
    """
    results: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        limit = options.compile_limit if name == "compiled" else 0.0
        results[name] = side.ask("first", row, str(folder / f"{name}.npy"), limit=limit)
    able = {name: side for name, side in sides.items() if "error" not in results[name]}
    compare(row, {name: np.load(folder / f"{name}.npy") for name in able}, results, tolerance)
    clock, counts = "cpu" if options.cpu_time else "wall", {}
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(options.repeats):
        for name, side in able.items():
            if "error" in results[name] or sum(times[name]) > options.seconds:
                continue
            if name not in counts:
                told = side.ask("run", 1)
                counts[name] = max(1, min(200, math.ceil(options.block / max(told.get("wall", 1.0), 1e-6))))
            if counts[name] > 1 or times[name]:  # a long call's trial is its first turn
                time.sleep(0.02)
                told = side.ask("run", counts[name])
            results[name] |= {key: told[key] for key in ("peak", "error") if key in told}
            times[name] += [told[clock]] if clock in told else []
    for name, side in able.items():
        if times[name] and "error" not in results[name]:
            results[name]["seconds"] = median(times[name])
            if options.memory and "peak" not in results[name]:
                results[name] |= side.ask("memory")
        side.ask("release")
    return results


def compare(
    row: Row, outputs: dict[str, np.ndarray], results: dict[str, dict[str, Any]], tolerance: float | None
) -> None:
    """Note in `results` how far each output is from PyTorch's; ValueError where it is not what it must be."""
    shapes = {name: output.shape for name, output in outputs.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{row.label}: the sides return different shapes, {shapes}: nothing to compare")
    if tolerance is None or "torch" not in outputs:
        return
    expected = outputs.pop("torch")
    for name, output in outputs.items():
        off = results[name]["off"] = float(np.abs(output - expected).max() / np.abs(expected).max())
        if not off <= tolerance:
            told = f"{name} and torch differ by {off:.1e} of the largest number, allowed {tolerance:g}"
            raise ValueError(f"{row.label}: {told}: nothing to compare")


def number(value: float) -> str:
    """Write three digits that count, without an exponent."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def print_table(head: list[str], rows: list[list[str]], markdown: bool = False) -> None:
    """Print a table; numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    pad = [str.ljust, *[str.rjust] * (len(head) - 1)]
    lines = [[f(cell, w) for f, cell, w in zip(pad, row, widths, strict=True)] for row in [head, *rows]]
    # A colon at the end of a column's rule aligns it to the right in markdown.
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + (":" if markdown else "-") for w in widths[1:])])
    print()
    for line in lines:
        print(f"| {' | '.join(line)} |" if markdown else "  ".join(line), flush=True)
