"""Time a program from its start to the first edit, in fresh processes: nothing kept, XLA's cache, stored programs.

    python benchmarks/startup.py                      # both sizes; --size tiny alone for one
    python benchmarks/startup.py --repeats 3          # the median of three starts of each kind but the first

What is timed is a whole process, as a person waits for it: interpreter, imports, weights from disk, compilation, and
one edit of the model's own size, down to its frames in memory. Three kinds of start, each in a process of its own:

    first       nothing on disk; it fills both caches
    XLA cache   jax's persistent compilation cache alone (stored programs are taken away)
    programs    stored programs (`motionv2v.devices.program_cache`)

`again` is a second edit in the same process, which every kind of start pays alike; "to ready" is the first without it.
All edits must be bit-equal, else the run ends.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from against_diffusers import pin_threads, print_table

ROOT = Path(__file__).resolve().parents[1]
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "medium": {"num_layers": 8, "control_depth": 8, "num_heads": 8, "head_dim": 64},
}
"""Changes to the transformer of configs/motionv2v_tiny.py; its blocks are unrolled, which makes compilation long."""


def main() -> None:
    options = parse()
    pin_threads(options.threads)
    sys.path.insert(0, str(ROOT))
    if options.child:
        child(options.child, options.steps)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.size:
            rows += run_size(size, Path(folder), options)
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    head = [f"seconds, {options.steps} steps", "whole", "again", "to ready", "first / this", "imports", "weights"]
    print_table([*head, "first edit"], rows, options.markdown)
    print(f"{options.threads} of {os.cpu_count()} cores{load}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=SIZES, help="models (default all)")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps of the edit (default 10)")
    parser.add_argument("--repeats", type=int, default=1, help="starts of each kind but the first (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="cores that may be used (default 2)")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_size(size: str, folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """Start a size in all three ways and lay out its rows."""
    model, cache = save_model(size, folder / size), folder / f"{size}-cache"
    starts = {"first": [start(model, cache, options)], "XLA cache": [], "programs": []}
    for _ in range(options.repeats):
        starts["programs"].append(start(model, cache, options))
        shutil.rmtree(cache / "programs")
        # It stores its programs anew, for the next turn.
        starts["XLA cache"].append(start(model, cache, options))
    sums = {told["sum"] for turns in starts.values() for told in turns}
    if len(sums) > 1:
        sys.exit(f"startup: edits of {size} differ between kinds of start: {sums}")
    middle = {kind: {k: statistics.median(t[k] for t in turns) for k in turns[0]} for kind, turns in starts.items()}
    ready = {kind: told["whole"] - 2 * told["again"] for kind, told in middle.items()}
    rows = []
    for kind, told in middle.items():
        values = [told["whole"] - told["again"], told["again"], ready[kind], ready["first"] / ready[kind]]
        values += [told[name] for name in ("imports", "weights", "edit")]
        rows.append([f"{size}: {kind}", *(f"{value:.1f}" for value in values)])
        rows[-1][4] += "x"
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def save_model(size: str, folder: Path) -> Path:
    """Write a model folder with random weights, drawn by numpy."""
    from jax_side import random_params

    from configs import motionv2v_tiny
    from motionv2v import checkpoints

    config = motionv2v_tiny.get_config()
    config.dit.update(SIZES[size])
    return checkpoints.save_model(folder, config, random_params(config))


def start(model: Path, cache: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run a child and return its seconds, `whole` as seen from outside."""
    from motionv2v.devices import program_cache

    command = [sys.executable, __file__, "--child", str(model), "--steps", str(options.steps)]
    command += ["--threads", str(options.threads)]
    begin = time.perf_counter()
    told = subprocess.run(
        command, env=os.environ | {program_cache.VARIABLE: str(cache)}, capture_output=True, text=True
    )
    whole = time.perf_counter() - begin
    if told.returncode:
        sys.exit(f"startup: a start failed:\n{told.stderr}")
    names: Sequence[str] = ("imports", "weights", "edit", "again", "sum")
    return {"whole": whole} | dict(zip(names, map(float, told.stdout.split()[-len(names) :]), strict=True))


def child(folder: str, steps: int) -> None:
    """Edit twice and print the seconds of each part, and a sum over the result."""
    times = [time.perf_counter()]
    import jax

    from motionv2v import editing
    from motionv2v.devices import program_cache

    program_cache.use_cache()
    times.append(time.perf_counter())
    editor = editing.load(folder)
    times.append(time.perf_counter())
    rng, points, frames = np.random.default_rng(0), 16, editor.num_frames
    batch = {"source": rng.integers(0, 256, (1, frames, *editor.size, 3), dtype=np.uint8)}
    for side in ("source", "target"):
        batch[f"{side}_xy"] = rng.uniform(0, min(editor.size), (1, points, frames, 2)).astype(np.float32)
        batch[f"{side}_visible"] = np.ones((1, points, frames), bool)
    for _ in range(2):
        tokens = editor.tokenizer.encode(["a red disk"])
        video = np.asarray(editor.generate(jax.random.key(0), batch, tokens, num_steps=steps))
        times.append(time.perf_counter())
    weights = np.arange(video.size, dtype=np.uint64).reshape(video.shape) % 9973
    print(*np.diff(times), int((video * weights).sum() % 2**50))


if __name__ == "__main__":
    main()
