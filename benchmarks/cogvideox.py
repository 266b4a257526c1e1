"""Time CogVideoX's modules, ours in JAX beside diffusers' and transformers' in PyTorch, on the same weights in one run.

    pip install -e .[parity]
    python benchmarks/cogvideox.py                       # both sizes; --size medium alone for one
    python benchmarks/cogvideox.py --size small --quick  # fewer turns, without torch.compile
    python benchmarks/cogvideox.py --memory              # also the peak memory of every call, in processes of its own
    python benchmarks/cogvideox.py --variants            # ways to compute the autoencoder's convolution
    python benchmarks/cogvideox.py --cpu-time            # processor time: for a machine that others use as well

The libraries draw random weights and save them with save_pretrained; `motionv2v.convert` reads those folders. float32.
Before a row is timed, all sides' first results are compared: a difference above 1e-4 of the largest number ends the
run. The sides take turns, A B A B, in blocks of at least `--block` seconds; the table shows the median time of one
call. First calls, which compile, are shown but left out.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from against_diffusers import Timing, header, number, pin_threads, print_table, seconds, show, try_compile
from cogvideox_sides import PARTS, SIDES, SIZES, Checked, JaxSide, TorchSide, build_modules, clock, save_modules

ROWS = {
    "dit": "DiT forward",
    "encode": "VAE encode",
    "decode": "VAE decode",
    "text": "T5 encoder",
    "sample": "whole sample, {steps} DDIM steps, guidance 6, decoded",
}
MOST_SAMPLES = 3
"""Turns of the whole sample, which takes as long as all other rows together."""


class Result(NamedTuple):
    """One row: its label, each side's timing or why there is none, the other sides' errors, MB of memory by side."""

    label: str
    timings: dict[str, Timing | str]
    errors: dict[str, float]
    peaks: dict[str, tuple[float, float]]


def main() -> None:
    options = parse()
    pin_threads(options.threads)
    if options.cpu_time:
        # Threads of OpenMP that wait would count as if they worked. Read when torch is loaded.
        os.environ["GOMP_SPINCOUNT"] = "0"
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if options.first_call:
        first_call(options)
    elif options.peak:
        print(*peak(options))
    elif options.variants:
        import cogvideox_variants

        print_header(options)
        cogvideox_variants.run(options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            # An empty cache for torch.compile, so that first calls are first calls.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
            run_all(options, Path(folder))


def run_all(options: argparse.Namespace, folder: Path) -> None:
    print_header(options)
    for name in options.size:
        results = run_size(name, options, folder / name)
        print_results(name, results, options)


def print_header(options: argparse.Namespace) -> None:
    print(header(options) + (", processor time of all threads" if options.cpu_time else ""), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", default="all", choices=[*SIZES, "all"], help="of the modules and inputs (default all)"
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--steps", type=int, default=20, help="of the whole sample (default 20)")
    parser.add_argument("--quick", action="store_true", help="2 turns, blocks of one call, no torch.compile")
    parser.add_argument("--markdown", action="store_true", help="print the tables as markdown")
    parser.add_argument(
        "--repeats", type=int, help=f"turns of each side (default 7; whole samples at most {MOST_SAMPLES})"
    )
    parser.add_argument("--block", type=float, help="least seconds of a turn (default 0.5)")
    parser.add_argument("--compile-limit", type=int, help="seconds to wait for torch.compile, 0: none (default 300)")
    parser.add_argument("--threads", type=int, default=2, help="cores that both sides may use (default 2)")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, where the machine is shared")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well (Linux)")
    parser.add_argument("--variants", action="store_true", help="time formulations of the convolution instead")
    parser.add_argument("--shape", type=int, nargs=5, metavar="N", help="of --variants: T H W, channels in and out")
    parser.add_argument("--first-call", metavar="SIZE/ROW", help=argparse.SUPPRESS)
    parser.add_argument("--peak", metavar="SIDE/SIZE/ROW", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory and not Path("/proc/self/clear_refs").exists():
        parser.error("--memory reads /proc/self, which this system does not have")
    # The largest convolutions are those of the largest size.
    largest = options.variants and options.size == "all"
    options.size = list(SIZES)[-1:] if largest else list(SIZES) if options.size == "all" else [options.size]
    quick = (2, 0.0, 0) if options.quick else (7, 0.5, 300)
    for name, value in zip(("repeats", "block", "compile_limit"), quick, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def start_torch(options: argparse.Namespace) -> Any:
    import torch

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    return torch


def run_size(size: str, options: argparse.Namespace, folder: Path) -> list[Result]:
    """Make the weights of a size, load them on all sides, and time the rows."""
    torch = start_torch(options)
    parts = {part for row in options.rows for part in PARTS[row]}
    modules = build_modules(SIZES[size], sorted(parts))
    save_modules(modules, folder)
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in modules.items()}
    told = ", ".join(f"{name} {n / 1e6:.1f} M" for name, n in count.items())
    print(f"\n{size}: {SIZES[size]}; parameters: {told}", flush=True)
    shared = (SIZES[size], options.steps)
    sides = {"jax": JaxSide(*shared, folder, modules), "torch": TorchSide(*shared, modules)}
    if options.compile_limit:
        sides["compiled"] = TorchSide(*shared, modules, torch.compile)
    results = []
    for row in options.rows:
        runs = {side: getattr(model, row) for side, model in sides.items()}
        timings, errors = compare(f"{size}/{row}", runs, options)
        timed = [side for side, timing in timings.items() if isinstance(timing, Timing)]
        peaks = {side: measure_peak(side, f"{size}/{row}", folder) for side in timed} if options.memory else {}
        results.append(Result(ROWS[row].format(steps=options.steps), timings, errors, peaks))
        told = [f"{side} {show(timing)}" for side, timing in timings.items()]
        told += [f"relative error of {side} {error:.0e}" for side, error in errors.items()]
        print(f"  {results[-1].label}: {', '.join(told)}", file=sys.stderr, flush=True)
    return results


def compare(
    name: str, runs: dict[str, Callable[[], np.ndarray]], options: argparse.Namespace
) -> tuple[dict[str, Timing | str], dict[str, float]]:
    """Check that a row's calls return the same numbers and time them; where torch.compile does not work, say why."""
    first, reason = try_compile(name, options) if "compiled" in runs else (0.0, "")
    checked = Checked(name)
    able = {side: checked.wrap(side, run) for side, run in runs.items() if not (side == "compiled" and reason)}
    repeats = min(options.repeats, MOST_SAMPLES) if name.endswith("sample") else options.repeats
    timings: dict[str, Timing | str] = dict(clock(able, options, repeats))
    if reason:
        timings["compiled"] = reason
    elif "compiled" in runs:
        timings["compiled"] = timings["compiled"]._replace(first=first)
    return timings, checked.errors


def first_call(options: argparse.Namespace) -> None:
    """Print the seconds of torch.compile's first call of one row: what the process that `try_compile` starts does."""
    run = make_run("compiled", *options.first_call.split("/"), options)
    # Nobody catches this signal: it ends the process.
    signal.alarm(options.compile_limit)
    print(seconds(run))


def make_run(side: str, size: str, row: str, options: argparse.Namespace) -> Callable[[], np.ndarray]:
    """Load what one side needs for one row, and no more; torch draws the same weights again."""
    shared = (SIZES[size], options.steps)
    if side == "jax":
        return getattr(JaxSide(*shared, options.weights, PARTS[row]), row)
    torch = start_torch(options)
    modules = build_modules(SIZES[size], PARTS[row])
    return getattr(TorchSide(*shared, modules, *([torch.compile] if side == "compiled" else [])), row)


def measure_peak(side: str, name: str, folder: Path) -> tuple[float, float]:
    """Measure a call's memory in a process of its own: MB above the loaded weights, of later calls and the first."""
    command = [sys.executable, *sys.argv, "--peak", f"{side}/{name}", "--weights", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"cogvideox: measuring the memory of {side}/{name} failed:\n{result.stderr}")
    later, first = map(float, result.stdout.split()[-2:])
    return later, first


def peak(options: argparse.Namespace) -> tuple[float, float]:
    """Return by how many MB the memory of this process rises above the loaded weights: in a later and the first call.

    The kernel's high-water mark of this process, set back before each call. Not `ru_maxrss`: it cannot be set back,
    and a process starts with that of the one that started it. Memory that was freed goes back to the system first, so
    that loading and compiling, which need more for a while, hide nothing.
    """
    run = make_run(*options.peak.split("/"), options)
    release_memory()
    before = memory("VmRSS")
    peaks = []
    for _ in range(2):
        release_memory()
        Path("/proc/self/clear_refs").write_text("5")
        run()
        peaks.append(memory("VmHWM") - before)
    return peaks[1], peaks[0]


def release_memory() -> None:
    """Give memory that the process has freed back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(field: str) -> float:
    """Return MB in memory now (VmRSS) or at most since the mark was set back (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def print_results(size: str, results: list[Result], options: argparse.Namespace) -> None:
    sides = {side: name for side, name in SIDES.items() if side != "compiled" or options.compile_limit}
    others = list(sides)[1:]
    head = [size, *(f"{name} ms" for name in sides.values()), *(f"{sides[side]} / JAX" for side in others)]
    head += ["relative error", "first calls s"]
    if options.memory:
        head += [f"{name} peak MB" for name in sides.values()] + ["in first calls MB"]
    rows = []
    for label, timings, errors, peaks in results:
        timed = {side: t if isinstance(t, Timing) else None for side, t in timings.items()}
        row = [label, *(number(timed[side].median) if timed[side] else timings[side] for side in sides)]
        row += [f"{timed[side].median / timed['jax'].median:.2f}x" if timed[side] else "" for side in others]
        row += [", ".join(f"{errors[side]:.0e}" if side in errors else "-" for side in others)]
        row += [", ".join(f"{timed[side].first:.1f}" if timed[side] else "-" for side in sides)]
        if options.memory:
            row += [f"{peaks[side][0]:.0f}" if side in peaks else "" for side in sides]
            row += [", ".join(f"{peaks[side][1]:.0f}" if side in peaks else "-" for side in sides)]
        rows.append(row)
    print_table(head, rows, options.markdown)


if __name__ == "__main__":
    main()
