"""All of the project's timing tables: `python benchmarks/run.py [TABLE ...]`, `speed` if none is named.

    speed       rates of single products, networks and whole jobs, ours beside diffusers in PyTorch (`--size`, `--rows`)
    data        the input pipeline, and whether training waits for it        starts     seconds to the first edit
    convert     published weights there and back                             vae_memory the autoencoder's work space
    trackers    scores and seconds of trackers without weights               render     drawing tracks
    backends    training steps with the transformer in JAX and in PyTorch
    page        how long a person at the editor page waits for a draft       suites     scoring suites of videos

    python benchmarks/run.py --size tiny small --compile-limit 300 --markdown
    python benchmarks/run.py --size 5b --out speed_5b.json          # a GPU: 13x60x90 latents, 50 steps, a training step

In `speed` both sides have the same sizes (parameters are counted and must agree), inputs and, but for `5b`, weights of
the networks: where they must return the same numbers, an error above 1e-4 of the largest ends the run. Each side is a
process; they take turns, A B A B, of at least `--block` seconds, and the table shows the median time of one call. At
`5b` one side does all its rows and then the other, because the GPU holds one of them. First calls, which compile, are
shown but left out. Operations are those that the transformer needs (`motionv2v.devices.flops`); MFU are our operations
a second as a share of the device's stated peak or, where none is known, of the row "matrix product". GB are how far a
call lifts its process above what it holds, or the peak that a GPU tells. torch.compile is a third side with
`--compile-limit`.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import rows
from harness import Side, number, print_table
from rows import GOAL, ROWS, SIZES, Row

SIDES = {"jax": "JAX", "torch": "torch", "compiled": "torch.compile"}
GOALS_5B = {"sample": 60.0, "sample-control": 85.0, "train-control": 3.2}
"""Seconds that `5b` shall take on one H200; and a sample at most 24 GB."""


def main() -> None:
    options = parse()
    harness.pin_threads(options.threads, options.cpu_time)
    sys.path.insert(0, str(harness.ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(harness.ROOT), os.environ.get("PYTHONPATH", "")])
    print(harness.about(options) + f"; `python benchmarks/run.py {' '.join(sys.argv[1:])}`", flush=True)
    for table in options.tables:
        if table == "speed":
            for size in options.size:
                print_speed(size, options)
        else:
            module = {"vae_memory": "starts", "trackers": "tracks", "render": "tracks", "draft": "draft_clips"}.get(
                table, table
            )
            getattr(__import__(module), f"print_{table}")(options)


TABLES = (
    "speed",
    "data",
    "starts",
    "convert",
    "vae_memory",
    "trackers",
    "render",
    "draft",
    "backends",
    "page",
    "suites",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}, or all (default speed)")
    parser.add_argument(
        "--size", nargs="+", default=["tiny"], choices=SIZES, help="of the models of speed (default tiny)"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"of speed; default by size: {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--sides", nargs="+", default=["jax", "torch"], choices=["jax", "torch"], help="of speed (default both)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps of a guided sample (default 20; 5b 50)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side that count (default 7)")
    parser.add_argument("--block", type=float, default=0.5, help="least seconds of a turn (default 0.5)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of a row and side behind which no turn starts (default 60)"
    )
    parser.add_argument("--threads", type=int, default=2, help="cores that may be used (default 2)")
    parser.add_argument(
        "--compile-limit", type=float, default=0.0, help="seconds to wait for torch.compile (default 0: left out)"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time, where other programs use the machine too"
    )
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="do not call once more to measure memory"
    )
    parser.add_argument("--quick", action="store_true", help="show that everything runs: one turn, little data")
    parser.add_argument("--markdown", action="store_true", help="print tables as markdown")
    parser.add_argument(
        "--out", type=Path, help="a .json for the results of speed; a second start goes on behind the last row"
    )
    parser.add_argument(
        "--dataset", help="of data: a folder that launch/prepare.py --videos wrote, in place of drawn scenes"
    )
    parser.add_argument("--videos", type=int, default=100, help="of suites: large videos of a suite (default 100)")
    parser.add_argument("--clips", help="of draft: a folder with the clips that draft_clips.py names")
    parser.add_argument("--sheets", help="of draft: write a sheet of each edit of the clips into this folder")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.block, options.memory = 1, 0.0, False
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles in a fraction of the time
    options.tables = list(TABLES) if options.tables == ["all"] else options.tables or ["speed"]
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; available: {', '.join(TABLES)}, all")
    return options


def print_speed(size: str, options: argparse.Namespace) -> None:
    """Measure the rows of one size and print their table."""
    told = measure(size, options)
    devices = {name: about["device"] for name, about in told["about"].items()}
    count = next(iter(told["about"].values()))["parameters"]
    sums = ", ".join(f"{part} {n:,}" for part, n in count.items())
    where = " and ".join(sorted(set(devices.values())))
    print(f"\n{size} on {where}; samples of {told['steps']} steps; parameters: {sums}")
    if size == "5b":
        print(
            "goals on one H200, seconds: " + ", ".join(f"{n} {s:g}" for n, s in GOALS_5B.items()) + "; a sample 24 GB"
        )
    sides = [name for name in SIDES if name in told["about"]]
    print_table(head(sides), [show(name, sides, told) for name in chosen(size, options)], options.markdown)


def chosen(size: str, options: argparse.Namespace) -> list[str]:
    """Return the rows of a size."""
    return options.rows or list(SIZES[size].rows)


def measure(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time a size's rows; {"size", "steps", "about": {side: ..}, "rows": {row: {side: result}}}."""
    steps = options.steps or SIZES[size].steps
    told = {"size": size, "steps": steps, "about": {}, "rows": {}}
    if options.out and options.out.exists():
        told = json.loads(options.out.read_text(encoding="utf-8"))
        if (told["size"], told["steps"]) != (size, steps):
            sys.exit(f"run: {options.out} is of size {told['size']} and {told['steps']} steps; name another file")
    with tempfile.TemporaryDirectory() as name:
        sides = make_sides(size, steps, Path(name), options)
        try:
            for group in [{name: side} for name, side in sides.items()] if size == "5b" else [sides]:
                run_rows(size, group, told, Path(name), options)
        except ValueError as error:
            sys.exit(f"run: {size}: {error}")
        finally:
            for side in sides.values():
                side.close()
    return told


def make_sides(size: str, steps: int, folder: Path, options: argparse.Namespace) -> dict[str, Side]:
    """Return the sides by name. PyTorch's come first: they save the weights that ours starts with."""
    here = Path(__file__).parent
    # Both may be on one GPU at a time where models are small; a large one needs nearly all of it.
    share = {"MEM_FRACTION": "0.95"} if size == "5b" else {"PREALLOCATE": "false"}
    env = {"jax": {f"XLA_PYTHON_CLIENT_{name}": value for name, value in share.items()}}
    env["compiled"] = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    names = [name for name in ("torch", "jax") if name in options.sides]
    names.insert(1, "compiled") if options.compile_limit and "torch" in names else None
    arguments = [size, str(steps), str(folder)]
    script = {name: str(here / ("jax_side.py" if name == "jax" else "torch_side.py")) for name in names}
    last = {"compiled": ["compile"]}
    return {name: Side([script[name], *arguments, *last.get(name, [])], env.get(name)) for name in names}


def run_rows(
    size: str, sides: dict[str, Side], told: dict[str, Any], folder: Path, options: argparse.Namespace
) -> None:
    """Time all rows on the given sides and add them to `told`, which is written as it grows."""
    wanted = {name: list(sides) for name in chosen(size, options)}
    for name, row in wanted.items():
        done = told["rows"].get(name, {})
        peers = ["jax"] if ROWS[name].peer else row
        wanted[name] = [side for side in peers if side in sides and "seconds" not in done.get(side, {})]
    for side in sides if any(wanted.values()) else ():
        told["about"][side] = answer = sides[side].ask("about")
        if "error" in answer:
            sys.exit(f"run: {side}: {answer['error']}")
    if len(counts := {json.dumps(about["parameters"], sort_keys=True) for about in told["about"].values()}) > 1:
        sys.exit(f"run: the sides have different numbers of parameters, nothing to compare: {' and '.join(counts)}")
    for name, names in wanted.items():
        if names:
            asked = {side: sides[side] for side in names}
            results = harness.measure(ROWS[name], asked, folder, options, rows.tolerance(name, size))
            told["rows"].setdefault(name, {}).update(results)
            print(f"  {size}, {name}: {results}", file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def batch_of(row: Row, size: str) -> int:
    """Return how many samples, captions or clips one call of a row takes."""
    if row.kind in ("encode", "decode") or "vae" in row.how:
        return SIZES[size].clips
    return SIZES[size].batch if row.kind in ("train", "loss", "text") else 1


def head(sides: list[str]) -> list[str]:
    """Return the table's first line."""
    names, others = [SIDES[side] for side in sides], [side for side in sides if side != "jax"]
    compared = [f"{SIDES[side]} / JAX" for side in others if "jax" in sides]
    rates = [f"{name} {unit}" for unit in ("GFLOP/s", "GB") for name in names]
    return ["", "batch", *(f"{name} ms" for name in names), *compared, *rates, "MFU", "off by", "first calls s"]


def show(name: str, sides: list[str], told: dict[str, Any]) -> list[str]:
    """Lay out a row: of milliseconds, ratios, rates, memory, and how far our result is from PyTorch's."""
    row, results = ROWS[name], dict(told["rows"].get(name, {}))
    if row.peer:
        results |= {side: result for side, result in told["rows"].get(row.peer, {}).items() if side != "jax"}
    results = {side: results.get(side, {}) for side in sides}
    seconds = {side: result.get("seconds") for side, result in results.items()}
    ours = results.get("jax", {})
    cells = [row.label + (f" (goal {GOAL}x)" if row.goal else ""), str(batch_of(row, told["size"]))]
    for side, result in results.items():
        cells.append(f"fails: {result['error'][:80]}" if "error" in result else in_units(seconds[side], 1e3))
    if "jax" in sides:
        pairs = [(seconds[side], seconds["jax"]) for side in sides if side != "jax"]
        cells += [f"{theirs / mine:.2f}x" if theirs and mine else "-" for theirs, mine in pairs]
    needed = ours.get("operations")
    rates = {side: needed / s / 1e9 if needed and s else None for side, s in seconds.items()}
    # A peer's row does all steps, also where ours reuses some.
    rates |= dict.fromkeys([side for side in sides if side != "jax" and row.peer.startswith("sample")])
    cells += [in_units(rate) for rate in rates.values()]
    cells += [in_units(result.get("peak", result.get("rise")), 1e-9) for result in results.values()]
    top = peak_rate(told)
    cells += [f"{1e9 * rates['jax'] / top:.1%}" if top and rates.get("jax") else "-"]
    cells += [f"{ours['off']:.0e}" if "off" in ours else "-"]
    return [*cells, ", ".join(in_units(result.get("first")) for result in results.values())]


def in_units(value: float | None, factor: float = 1.0) -> str:
    """Write a number that may be missing."""
    return "-" if value is None else number(factor * value)


def peak_rate(told: dict[str, Any]) -> float | None:
    """Return the operations a second that MFU are a share of: the device's, or those of a product in the same run."""
    from motionv2v.devices import chips

    product = told["rows"].get("product", {}).get("jax", {})
    measured = product["operations"] / product["seconds"] if "seconds" in product else None
    return chips.peak(told["about"].get("jax", {}).get("device", "")) or measured


if __name__ == "__main__":
    main()
