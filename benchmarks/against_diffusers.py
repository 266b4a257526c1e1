"""Time the tiny model beside the same architecture in diffusers + PyTorch, in one process on the same cores.

    pip install -e .[parity]
    python benchmarks/against_diffusers.py             # about a quarter of an hour on two idle cores
    python benchmarks/against_diffusers.py --quick     # fewer repeats, without torch.compile

Both sides have the same sizes (parameters are counted and must agree; `tests/parity` shows on shared weights that they
compute the same), float32, the same batches, AdamW, gradient clipping and a moving average of the weights. The sides
take turns, A B A B, in blocks of at least `--block` seconds; the tables show the median time of one call. First calls,
which compile, are shown but left out. torch.compile is one more side where its first call, in a process of its own,
ends within `--compile-limit` seconds.
"""

import argparse
import contextlib
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS = {
    # name: (label, key of the batch size)
    "train_base": ("base training step", "latents"),
    "train_control": ("control training step, frozen base", "latents"),
    "encode": ("VAE encode", "clips"),
    "decode": ("VAE decode", "clips"),
    "train_vae": ("VAE training step, whole clips", "clips"),
    "text": ("T5 text encoder", "latents"),
    "edit": ("whole edit of one clip, {steps} steps", "one"),
}
NUM_POINTS, NUM_CLIPS = 10, 4


class Timing(NamedTuple):
    """The first call in seconds, and the median and the fastest of the later ones in milliseconds."""

    first: float
    median: float
    fastest: float


class Result(NamedTuple):
    """One row: its label, the samples of one call, and each side's timing, or why there is none."""

    label: str
    batch: int
    timings: dict[str, Timing | str]


def main() -> None:
    options = parse()
    pin_threads(options.threads)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if options.first_call:
        first_call(options)
        return
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache for torch.compile, so that first calls are first calls.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        run_all(options)


def pin_threads(count: int) -> None:
    """Keep this process, and what it starts, on `count` cores; call it before either library starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)


def run_all(options: argparse.Namespace) -> None:
    import torch
    from jax_side import JaxSide
    from torch_side import TorchSide

    torch.set_num_threads(options.threads)
    configs = make_configs(options)
    inputs = make_inputs(configs)
    print(header(options), flush=True)
    ours, theirs = JaxSide(configs, inputs), TorchSide(configs, inputs)
    compiled = TorchSide(configs, inputs, torch.compile) if options.compile_limit else None
    compare_sizes(ours, theirs, options)
    sides = {"jax": ours, "torch": theirs, "compiled": compiled}
    batches = {"latents": len(inputs["batch"]["tokens"]), "clips": len(inputs["vae_clips"]), "one": 1}
    results = {}
    for name in options.rows:
        label, batch = ROWS[name]
        runs = {side: getattr(model, name) for side, model in sides.items() if model}
        timings = compare(name, runs, options)
        results[name] = Result(label.format(steps=configs["control"].sample.num_steps), batches[batch], timings)
        told = ", ".join(f"{side} {show(timing)}" for side, timing in timings.items())
        print(f"  {results[name].label}: {told}", file=sys.stderr, flush=True)
    print_comparison(results, options)
    if not options.no_parts:
        print_parts(ours, results, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 turns, blocks of one call, no torch.compile")
    parser.add_argument("--markdown", action="store_true", help="print the tables as markdown")
    parser.add_argument("--repeats", type=int, help="turns of each side (default 7)")
    parser.add_argument("--block", type=float, help="least seconds of a turn (default 0.5)")
    parser.add_argument("--compile-limit", type=int, help="seconds to wait for torch.compile, 0: none (default 60)")
    parser.add_argument("--threads", type=int, default=2, help="cores that both sides may use (default 2)")
    parser.add_argument("--batch-size", type=int, help="of the training steps from cached latents (default: config)")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--no-parts", action="store_true", help="leave out where the time goes")
    parser.add_argument("--first-call", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    defaults = (2, 0.0, 0) if options.quick else (7, 0.5, 60)
    for name, value in zip(("repeats", "block", "compile_limit"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def make_configs(options: argparse.Namespace) -> dict[str, Any]:
    """Read the tiny model's configs and set what both sides must share."""
    from configs import base_tiny, motionv2v_tiny, vae_tiny

    configs = {"vae": vae_tiny.get_config(), "base": base_tiny.get_config(), "control": motionv2v_tiny.get_config()}
    for config in configs.values():
        config.init_from = ()
        # PyTorch has no Muon of ours: AdamW on both sides.
        config.optim.name = "adamw"
    configs["control"].sample.update({"solver": "ddim", "guidance": "off", "scale": 1.0})
    if options.batch_size:
        configs["base"].train.batch_size = configs["control"].train.batch_size = options.batch_size
    return configs


def make_inputs(configs: dict[str, Any]) -> dict[str, Any]:
    """Draw the arrays that both sides are given, channels last, in host memory."""
    config, rng = configs["control"], np.random.default_rng(0)
    frames, (height, width) = config.data.num_frames, config.data.size
    shape = ((frames - 1) // 4 + 1, height // 8, width // 8, config.vae.latent_channels)
    count = config.train.batch_size
    names = ("target", "target_tracks", "source_tracks", "source_video")
    # float16, as `launch/prepare.py` caches them.
    batch = {f"{name}_latents": rng.standard_normal((count, *shape), np.float32).astype(np.float16) for name in names}
    batch["tokens"] = rng.integers(3, 259, (count, config.data.text_length), np.int32)
    clip = {"source": rng.integers(0, 256, (frames, height, width, 3), np.uint8)}
    for side in ("source", "target"):
        clip[f"{side}_xy"] = rng.uniform(0, (width, height), (NUM_POINTS, frames, 2)).astype(np.float32)
        clip[f"{side}_visible"] = rng.uniform(size=(NUM_POINTS, frames)) < 0.9
    return {
        "batch": batch,
        "clip": clip,
        "prompt_tokens": batch["tokens"][:1],
        "vae_clips": rng.integers(0, 256, (NUM_CLIPS, frames, height, width, 3), np.uint8),
        "vae_latents": rng.standard_normal((NUM_CLIPS, *shape), np.float32),
    }


def header(options: argparse.Namespace) -> str:
    names = ("jax", "flax", "torch", "diffusers", "transformers")
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
        cpu = next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{', '.join(f'{name} {version(name)}' for name in names)}; {options.threads} threads on {cpu} "
        f"(of {os.cpu_count()} cores{load}); float32; median of {options.repeats} turns"
    )


def compare_sizes(ours: Any, theirs: Any, options: argparse.Namespace) -> None:
    """Print both sides' parameter counts; end the run if they differ."""
    rows = [[part, f"{count:,}", f"{theirs.parameters[part]:,}"] for part, count in ours.parameters.items()]
    print_table(["parameters", "motionv2v (JAX)", "diffusers (PyTorch)"], rows, options.markdown)
    if ours.parameters != theirs.parameters:
        sys.exit("against_diffusers: the two sides have different numbers of parameters; nothing to compare")


def compare(name: str, runs: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, Timing | str]:
    """Time a row's calls, which must return arrays of one shape; where torch.compile does not work, say why."""
    first, reason = try_compile(name, options) if "compiled" in runs else (0.0, "")
    able = {side: run for side, run in runs.items() if not (side == "compiled" and reason)}
    timings = measure(able, options.repeats, options.block)
    check_alike(able)
    if "compiled" in runs:
        timings["compiled"] = reason or timings["compiled"]._replace(first=first)
    return timings


def try_compile(name: str, options: argparse.Namespace) -> tuple[float, str]:
    """Make torch.compile's first call in another process; return the seconds it took and, where it failed, why.

    What it compiles stays in this run's cache on disk. A process can be ended when its time is up, also in the middle
    of the compiler, which does not survive an exception there.
    """
    command = [sys.executable, *sys.argv, "--first-call", name]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return float(result.stdout.split()[-1]), ""
    if result.returncode == -signal.SIGALRM:
        return math.inf, f"> {options.compile_limit} s"
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    return math.inf, f"fails: {last.split(':')[0].split('.')[-1][:30]}"


def first_call(options: argparse.Namespace) -> None:
    """Print the seconds of torch.compile's first call of one row: what the process that `try_compile` starts does."""
    import torch
    from torch_side import TorchSide

    torch.set_num_threads(options.threads)
    configs = make_configs(options)
    run = getattr(TorchSide(configs, make_inputs(configs), torch.compile), options.first_call)
    # Nobody catches this signal: it ends the process.
    signal.alarm(options.compile_limit)
    print(seconds(run))


def measure(runs: dict[str, Callable[[], Any]], repeats: int, block: float) -> dict[str, Timing]:
    """Time the calls in turns; every turn repeats a call as often as fills `block` seconds."""
    first, calls, times = {}, {}, {name: [] for name in runs}
    for name, run in runs.items():
        first[name], again = seconds(run), seconds(run)
        calls[name] = max(1, min(200, math.ceil(block / max(again, 1e-6))))
    for _ in range(repeats):
        for name, run in runs.items():
            # The other side's idle threads spin for a moment before they sleep.
            time.sleep(0.05)
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append(1e3 * (time.perf_counter() - start) / calls[name])
    return {name: Timing(first[name], float(np.median(times[name])), min(times[name])) for name in runs}


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def check_alike(runs: dict[str, Callable[[], np.ndarray]]) -> None:
    """Raise ValueError unless the calls return finite arrays of one shape: else their times could not be compared."""
    outputs = {side: run() for side, run in runs.items()}
    if len({output.shape for output in outputs.values()}) > 1:
        raise ValueError(f"the sides return different shapes: { ({side: out.shape for side, out in outputs.items()}) }")
    spoiled = [side for side, output in outputs.items() if not np.isfinite(output).all()]
    if spoiled:
        raise ValueError(f"numbers that are not finite from {', '.join(spoiled)}: the times mean nothing")


def show(timing: Timing | str) -> str:
    return timing if isinstance(timing, str) else f"{timing.median:.4g} ms (first call {timing.first:.1f} s)"


def print_comparison(results: dict[str, Result], options: argparse.Namespace) -> None:
    sides = {"jax": "JAX", "torch": "torch"} | ({"compiled": "torch.compile"} if options.compile_limit else {})
    others = list(sides)[1:]
    head = ["", "batch", *(f"{name} ms" for name in sides.values()), *(f"{sides[side]} / JAX" for side in others)]
    head += [*(f"{name} samples/s" for name in sides.values()), "first calls s"]
    rows = []
    for label, batch, timings in results.values():
        timed = {side: t if isinstance(t, Timing) else None for side, t in timings.items()}
        row = [label, str(batch), *(number(t.median) if t else timings[side] for side, t in timed.items())]
        row += [f"{timed[side].median / timed['jax'].median:.2f}x" if timed[side] else "" for side in others]
        row += [number(1e3 * batch / t.median) if t else "" for t in timed.values()]
        row += [", ".join(f"{t.first:.1f}" if t else "-" for t in timed.values())]
        rows.append(row)
    print_table(head, rows, options.markdown)


def print_parts(ours: Any, results: dict[str, Result], options: argparse.Namespace) -> None:
    """Print where the time of our control training step and of our edit goes, whichever of them were asked for."""
    from jax_side import control_step_parts, edit_parts

    def medians(parts: dict[str, Callable[[], Any]]) -> dict[str, float]:
        return {name: timing.median for name, timing in measure(parts, options.repeats, options.block).items()}

    rows = []
    if "train_control" in results:
        batch, t = results["train_control"].batch, medians(control_step_parts(ours))
        parts = {
            "text encoder, frozen": t["text"],
            "frozen base, forward": t["base forward"],
            "control branch, forward": t["forward"] - t["base forward"],
            "backward through both, for the branch": t["gradients"] - t["text"] - t["forward"],
            "clipping, AdamW, moving average": t["update"],
        }
        rows += shares(f"control training step, batch {batch}", parts, t["whole"])
        if "encode" in results:
            encode = results["encode"]
            cost = 4 * batch * encode.timings["jax"].median / encode.batch
            rows.append(["spared by cached latents: encoding its 4 videos a sample", number(cost), ""])
    if "edit" in results:
        t = medians(edit_parts(ours))
        parts = {
            "draw the conditions": t["draw"],
            "encode 3 videos": t["encode"],
            "text encoder": t["text"],
            "denoise": t["denoise"],
            "decode": t["decode"],
        }
        rows += shares(results["edit"].label, parts, t["whole"])
    if rows:
        print_table(["where the time goes (JAX)", "ms", "share"], rows, options.markdown)


def shares(title: str, parts: dict[str, float], whole: float) -> list[list[str]]:
    """Make a table's rows. The last is what the parts leave of the whole; parts timed alone can add up to more."""
    parts = {**parts, "the rest": whole - sum(parts.values())}
    rows = [[f"- {name}", number(ms), f"{100 * ms / whole:.0f} %"] for name, ms in parts.items()]
    return [[title, number(whole), "100 %"], *rows]


def number(value: float) -> str:
    """Write three digits that count, without an exponent."""
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def print_table(head: list[str], rows: list[list[str]], markdown: bool) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    pad = [str.ljust, *[str.rjust] * (len(head) - 1)]
    lines = [[f(cell, w) for f, cell, w in zip(pad, row, widths, strict=True)] for row in [head, *rows]]
    # A colon at the end of a column's rule aligns it to the right in markdown.
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + (":" if markdown else "-") for w in widths[1:])])
    print()
    for line in lines:
        print(f"| {' | '.join(line)} |" if markdown else "  ".join(line), flush=True)


if __name__ == "__main__":
    main()
