"""Time predictions, whole samples and a training step, beside diffusers in the same run on the same device.

    python benchmarks/sampling.py                                  # the tiny model on whatever device is at hand
    python benchmarks/sampling.py --size 5b --out sampling_5b.json # a GPU: 13x60x90 latents, 50 steps, a training step
    python benchmarks/sampling.py --size 5b --lower                # anywhere: do the 5B programs trace and lower?
    python benchmarks/sampling.py --rows forward-main main+guidance --no-peer

A forward is one prediction of the transformer, latents to latents. A sample is one compiled call from noise (with
control: from uint8 frames and tracks) to uint8 frames, autoencoder included. A training step is that of the control
branch on the frozen base, from cached latents. Weights are random: they do not change the time. The step cache's plan
is fixed, every second step, which is near what threshold 0.2 gives with 20 steps; what it costs in quality says
launch/evaluate.py --benchmark=step_cache. Guidance predicts with and without text in turns, as one batch (:batch), or
on two devices (:data).

The peer is diffusers' modules in PyTorch, eager, in the same type of number (`sampling_torch.py`). Each side is a
process of its own. Small models take turns; at --size 5b one side does all its rows, then the other, because the GPU
holds one of them. The median is of --repeats runs behind the first, which is left out unless a run takes longer than 20
seconds. With --out every row is written as soon as it is there, and a second start goes on behind the last.

GB are the peak that the device tells, where a row raised it; on a CPU (r) how far a run lifts the process above its
loaded weights; else (c) what the compiler sets aside: arguments, results and temporary arrays. TFLOP are what the
transformer needs (`motionv2v.devices.flops`), MFU those over the whole time, the autoencoder's included, as a share of
the device's stated peak or, where none is known, of the rate of a large float32 product measured in the same run. The
text encoder of --size 5b has one layer: text is encoded once and does not belong to the steps. --size dry is the 5B
config with everything small: it shows that all of this runs, and its numbers mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from against_diffusers import header, number, pin_threads, print_table
from sampling_sides import MARK, JaxSide, Row, make_config, plan

from motionv2v import files

SIZES = {"tiny": 20, "5b": 50, "dry": 4}
"""Steps of a sample by size."""

LONG = 20.0
"""Seconds from which a first run counts: what is done once weighs little in it, and repeats cost much."""

FORWARDS = {f"forward-{name}": Row("forward", name == "control") for name in ("main", "control")}
SAMPLES = {
    f"{branch}{'+guidance' if guided else ''}{'+cache' if cached else ''}": Row(
        "sample", branch == "control", "turns" if guided else "", cached
    )
    for branch in ("main", "control")
    for guided in (False, True)
    for cached in (False, True)
}
DIVIDED = {f"control+guidance:{how}": Row("sample", True, how) for how in ("batch", "data")}
ROWS = FORWARDS | SAMPLES | DIVIDED | {"train": Row("train", True)}
DEFAULT = {
    "tiny": [name for name in ROWS if not name.endswith(":data")],
    "dry": list(ROWS),
    "5b": [*FORWARDS, "train", "main+guidance", "control+guidance", "control+guidance+cache", "control+guidance:batch"],
}


def main() -> None:
    options = parse()
    if options.size != "5b":
        pin_threads(options.threads)
    if options.lower:
        lower(options)
        return
    told = load(options)
    together = options.size != "5b"
    sides = ("jax",) if options.no_peer else ("jax", "torch")
    for group in [sides] if together else [(side,) for side in sides]:
        run_sides(group, told, options)
    names = [name for name in options.rows if f"jax {name}" in told["rows"]]
    rows = [show(name, told) for name in names]
    print(describe(told, options))
    print_table(HEAD, rows, markdown=options.markdown)
    if options.out:
        write_markdown(options.out.with_suffix(".md"), describe(told, options), rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=SIZES, help="of the model (default tiny)")
    parser.add_argument("--steps", type=int, help="denoising steps (default 20; 5b 50, dry 4)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=3, help="runs that count (default 3)")
    parser.add_argument("--seconds", type=float, default=60, help="of a row and side behind which no run starts")
    parser.add_argument("--threads", type=int, default=2, help="cores for small models (default 2)")
    parser.add_argument("--no-peer", action="store_true", help="leave out diffusers")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--lower", action="store_true", help="lower the rows' programs and end; nothing is computed")
    parser.add_argument("--out", type=Path, help="a .json for the results, with the table beside it as .md")
    options = parser.parse_args()
    options.steps = options.steps or SIZES[options.size]
    options.rows = options.rows or DEFAULT[options.size]
    return options


class Child:
    """A side in a process of its own."""

    def __init__(self, side: str, options: argparse.Namespace, devices: int = 1):
        # Both may be on one GPU at a time where models are small; a large one needs nearly all of it.
        memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if options.size == "5b":
            memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
        env = os.environ | memory
        if devices > 1:
            flags = f"--xla_force_host_platform_device_count={devices}"  # of CPUs; other devices are there or not
            env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}"
        script = Path(__file__).with_name("sampling_sides.py")
        command = [sys.executable, str(script), side, options.size, str(options.steps)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=env, **pipes)

    def ask(self, *order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer; a process that ends is an answer too."""
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        return {"error": f"the process ended with exit code {self._process.wait()}"}

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run_sides(sides: tuple[str, ...], told: dict[str, Any], options: argparse.Namespace) -> None:
    """Time all rows of one side, or of both in turns, and add them to `told`, which is written as it grows."""
    children: dict[tuple[str, int], Child] = {}
    try:
        for name in options.rows:
            asked = {}
            for side in sides:
                key = f"{side} {name if side == 'jax' else peer_of(name)}"
                if "seconds" in told["rows"].get(key, {}):
                    continue
                place = (side, 2 if side == "jax" and name.endswith(":data") else 1)
                if place not in children:
                    children[place] = Child(side, options, place[1])
                    told["about"][side] = answer = children[place].ask("about")
                    if "error" in answer:
                        sys.exit(f"sampling: {side}: {answer['error']}")
                asked[key] = children[place]
            told["rows"] |= time_row(ROWS[name], asked, options)
            save(told, options)
    finally:
        for child in children.values():
            child.close()


def time_row(row: Row, asked: dict[str, Child], options: argparse.Namespace) -> dict[str, Any]:
    """Time one row on each side in turns; {"jax ROW": {"seconds": median, "bytes": .., ..} or {"error": ..}}."""
    results: dict[str, Any] = {}
    for key, child in asked.items():
        start = time.perf_counter()
        results[key] = child.ask("prepare", row)
        results[key].setdefault("prepared", time.perf_counter() - start)
        if "error" not in results[key]:
            results[key] |= child.ask("measure")
    times: dict[str, list[float]] = {key: [] for key in asked}
    for turn in range(options.repeats + 1):
        for key, child in asked.items():
            if "error" in results[key] or sum(times[key]) > options.seconds:
                continue
            run = child.ask("run")
            seconds = run.pop("seconds", None)
            results[key] |= run
            if seconds is not None and (turn or seconds > LONG):
                times[key].append(seconds)
    for key, child in asked.items():
        child.ask("release")
        if times[key] and "error" not in results[key]:
            results[key] |= {"seconds": median(times[key]), "runs": len(times[key])}
        print(f"  {key}: {results[key]}", file=sys.stderr, flush=True)
    return results


def peer_of(name: str) -> str:
    """Name the peer's row that one of ours is held against: it has no step cache, and one way to guide."""
    return name.partition(":")[0].removesuffix("+cache")


GOALS = {"main+guidance": 60.0, "control+guidance": 85.0, "train": 3.2}
"""Seconds that --size 5b shall take on one H200, whole samples of 50 steps and a training step; and see `PEAK_GOAL`."""
PEAK_GOAL = 24e9
"""Bytes that samples of --size 5b shall need at most, weights in bfloat16."""

HEAD = ["", "steps computed", "JAX s", "torch s", "torch / JAX", "JAX GB", "torch GB", "TFLOP", "MFU"]


def show(name: str, told: dict[str, Any]) -> list[str]:
    """Lay out a row of the table."""
    ours, theirs, row = told["rows"][f"jax {name}"], told["rows"].get(f"torch {peer_of(name)}", {}), ROWS[name]
    computed = told["steps"] - sum(plan(told["steps"])) * row.cached if row.kind == "sample" else 1
    if "seconds" not in ours:
        return [name, str(computed), f"fails: {ours['error'][:80]}", *[""] * 6]
    cells = [name, str(computed), number(ours["seconds"])]
    if "seconds" in theirs:
        cells += [number(theirs["seconds"]), f"{theirs['seconds'] / ours['seconds']:.2f}x"]
    else:
        cells += [f"fails: {theirs['error'][:80]}" if "error" in theirs else "-", "-"]
    cells += [gigabytes(ours), gigabytes(theirs)]
    about = told["about"]["jax"]
    peak = peak_rate(about["device"]) or about.get("rate")
    used = "-" if peak is None else f"{ours['operations'] / ours['seconds'] / peak:.1%}"
    return [*cells, f"{ours['operations'] / 1e12:,.4g}", used]


def gigabytes(side: dict[str, Any]) -> str:
    """Write what is known of a side's memory: the device's peak, the process's rise, or the compiler's sum."""
    for name, mark in (("peak", ""), ("rise", " r"), ("bytes", " c")):
        if name in side:
            return f"{number(side[name] / 1e9)}{mark}"
    return "-"


def peak_rate(device: str) -> float | None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from motionv2v.devices import chips

    return chips.peak(device)


def describe(told: dict[str, Any], options: argparse.Namespace) -> str:
    """Say when, where and how the table came about."""
    about = told["about"]["jax"]
    where = header(options).replace("; float32", "") if about["platform"] == "cpu" else versions()
    if options.size == "5b":
        goals = ", ".join(f"{name} {seconds:g} s" for name, seconds in GOALS.items())
        where += f"; goals on one H200: {goals}, {PEAK_GOAL / 1e9:g} GB for a sample"
    where += f"; MFU of {about['rate'] / 1e9:,.0f} GFLOP/s, measured" if "rate" in about else ""
    return (
        f"{told['date']}, {about['device']}; {where}; size {options.size}, samples of {options.steps} steps; attention "
        f"within {about['attention_error']:.1e} of float32; `python benchmarks/sampling.py {' '.join(sys.argv[1:])}`"
    )


def versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch", "diffusers"))


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Read what an earlier run of the same size and steps wrote, if there is any."""
    new = {"size": options.size, "steps": options.steps, "date": f"{datetime.now(UTC):%Y-%m-%d}", "about": {}}
    new["rows"] = {}
    if not (options.out and options.out.exists()):
        return new
    old = json.loads(options.out.read_text(encoding="utf-8"))
    if (old["size"], old["steps"]) != (options.size, options.steps):
        sys.exit(f"sampling: {options.out} is of size {old['size']} and {old['steps']} steps; name another file")
    return old


def save(told: dict[str, Any], options: argparse.Namespace) -> None:
    if options.out:
        files.write(options.out, json.dumps(told, indent=1) + "\n")


def write_markdown(path: Path, caption: str, rows: list[list[str]]) -> None:
    rule = ["---", *["---:"] * (len(HEAD) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in [HEAD, rule, *rows]]
    path.write_text(f"{caption}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")


def lower(options: argparse.Namespace) -> None:
    """Trace and lower the rows' programs on abstract weights, which shows that all shapes fit."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    side = JaxSide(make_config(options.size), options.steps, abstract=True)
    for name in options.rows:
        if not name.endswith(":data"):
            start = time.process_time()
            text = side.lower(ROWS[name])
            seconds = time.process_time() - start
            needed = side.operations(ROWS[name]) / 1e12
            print(f"{name}: {len(text):,} characters in {seconds:.1f} s of CPU, {needed:,.4g} TFLOP", flush=True)


if __name__ == "__main__":
    main()
