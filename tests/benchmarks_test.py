"""The benchmarks' harness and tables; that every row runs on both sides, and every other table at all."""

import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import harness
import rows
import run
from rows import ROWS, Row

ROOT = Path(__file__).parents[1]
OPTIONS = Namespace(repeats=3, block=0.0, seconds=60.0, compile_limit=0.0, cpu_time=False, memory=False)
ROW = Row("a row", "any", same=True)


class Scripted:
    """A side that takes the given seconds, call by call, and returns `result`."""

    def __init__(self, seconds, result=1.0, error=None):
        self.seconds, self.result, self.error, self.orders = list(seconds), result, error, []

    def ask(self, order, *given, limit=0.0):
        self.orders.append(order)
        if self.error:
            return {"error": self.error}
        if order == "first":
            np.save(given[1], np.full(3, self.result, np.float32))
            return {"first": 9.0}
        if order == "run":
            taken = self.seconds.pop(0)
            return {"wall": taken, "cpu": 2 * taken}
        return {}


def test_sides_take_turns_and_medians_are_told(tmp_path):
    sides = {"torch": Scripted([2.0, 4.0, 9.0]), "jax": Scripted([1.0, 5.0, 3.0], 1.0 + 5e-5)}
    results = harness.measure(ROW, sides, tmp_path, OPTIONS, 1e-4)
    assert {side: result["seconds"] for side, result in results.items()} == {"torch": 4.0, "jax": 3.0}
    assert results["jax"]["off"] == pytest.approx(5e-5, rel=0.01) and results["jax"]["first"] == 9.0
    assert sides["jax"].orders == ["first", "run", "run", "run", "release"]
    options = Namespace(**{**vars(OPTIONS), "cpu_time": True})
    assert harness.measure(ROW, {"jax": Scripted([1.0, 5.0, 3.0])}, tmp_path, options)["jax"]["seconds"] == 6.0


def test_short_calls_are_repeated_and_long_rows_end_early(tmp_path):
    short, long = Scripted([0.1] * 4), Scripted([50.0, 40.0, 1.0])
    harness.measure(ROW, {"jax": short}, tmp_path, Namespace(**{**vars(OPTIONS), "block": 0.5}))
    assert short.orders.count("run") == 4, "one to see how long it takes, and three turns"
    results = harness.measure(ROW, {"jax": long}, tmp_path, OPTIONS)
    assert results["jax"]["seconds"] == 45.0, "90 s are more than 60"


def test_other_results_end_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"a row: jax and torch differ by 5.0e-01 of the largest number, allowed 0.01"):
        harness.measure(ROW, {"torch": Scripted([1.0]), "jax": Scripted([1.0], 1.5)}, tmp_path, OPTIONS, 0.01)


def test_a_side_that_fails_says_so_in_its_row(tmp_path):
    sides = {"torch": Scripted([], error="out of memory"), "jax": Scripted([1.0] * 3)}
    told = {"size": "5b", "steps": 50, "about": {}, "rows": {"dit": harness.measure(ROW, sides, tmp_path, OPTIONS)}}
    cells = dict(zip(run.head(["jax", "torch"]), run.show("dit", ["jax", "torch"], told), strict=True))
    assert cells["torch ms"] == "fails: out of memory" and cells["JAX ms"] == "1000" and cells["torch / JAX"] == "-"


def test_a_side_that_takes_too_long_is_ended_and_started_again():
    side = harness.Side(
        ["-c", "import sys, time\nfor line in sys.stdin: time.sleep('slow' in line and 60); print('@ {}', flush=True)"]
    )
    assert side.ask("slow", limit=1.0) == {"error": "> 1 s"}
    assert side.ask("quick") == {}
    side.close()


@pytest.mark.parametrize(("device", "used"), [("NVIDIA H200", "50.0%"), ("cpu", "25.0%")])
def test_a_row_of_the_table(device, used):
    """2 s for half of what an H200 does in them: 989.5 TFLOP; the row "product" was four times as fast."""
    ours = {"seconds": 2.0, "rise": 3e9, "operations": 989.5e12, "first": 8.0}
    told = {"size": "5b", "steps": 50, "about": {"jax": {"device": device}}, "rows": {}}
    told["rows"]["sample-control:cache"] = {"jax": ours}
    told["rows"]["sample-control"] = {"jax": {}, "torch": {"seconds": 3.0, "peak": 4e9, "first": 4.0}}
    told["rows"]["product"] = {"jax": {"seconds": 1.0, "operations": 1979e12}}
    sides = ["jax", "torch"]
    cells = dict(zip(run.head(sides), run.show("sample-control:cache", sides, told), strict=True))
    assert cells == {
        "": "the same, every second step reused",
        "batch": "1",
        "JAX ms": "2000",
        "torch ms": "3000",
        "torch / JAX": "1.50x",
        "JAX GFLOP/s": "494750",
        "torch GFLOP/s": "-",  # the peer has no step cache: it computes all steps
        "JAX GB": "3.00",
        "torch GB": "4.00",
        "MFU": used,
        "off by": "-",
        "first calls s": "8.00, 4.00",
    }
    assert run.show("sample-control", sides, told)[0] == "whole sample with control (goal 1.2x)"


def test_work_space_is_what_a_call_takes():
    """An array of 100 MB that is written to, and given back."""
    told = harness.work_space(lambda: np.ones(25_000_000, np.float32).sum())
    if not told:
        pytest.skip("needs a Linux whose /proc/self/clear_refs may be written")
    assert told["rise"] == pytest.approx(1e8, rel=0.1)


def test_a_training_step_keeps_what_the_device_has_room_for(monkeypatch):
    from jax_side import roomiest_remat

    config = rows.make_config("5b")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    got = [roomiest_remat(config, size * 1e9) for size in (141, 100, 85, 60)]
    assert got == ["save_attention_qkv_mlp", "save_attention_qkv", "save_attention", "full"]
    assert config.dit.remat == "save_attention", "the config stays as it is"


def test_every_row_has_a_peer_among_the_rows():
    assert {row.peer for row in ROWS.values() if row.peer} <= set(ROWS)
    assert all(set(size.rows) <= set(ROWS) for size in rows.SIZES.values())


def test_results_are_kept_and_other_sizes_refused(tmp_path, monkeypatch):
    """A second start measures nothing that is there already."""
    path = tmp_path / "told.json"
    made = {"dry": Scripted([1.0])}
    monkeypatch.setattr(run, "make_sides", lambda *args: {"jax": made["dry"]})
    monkeypatch.setattr(Scripted, "close", lambda self: None, raising=False)
    options = run.parse(["--size", "dry", "--rows", "product", "--sides", "jax", "--repeats", "1", "--out", str(path)])
    made["dry"].ask("about")
    about = {"parameters": {}, "device": "cpu"}
    ask = made["dry"].ask
    made["dry"].ask = lambda order, *given, **limit: about if order == "about" else ask(order, *given, **limit)
    first = run.measure("dry", options)
    assert first["rows"]["product"]["jax"]["seconds"] == 1.0
    assert run.measure("dry", options) == first, "the side has no second call to give"
    with pytest.raises(SystemExit, match="of size dry and 4 steps; name another file"):
        run.measure("5b", options)


def table(*arguments):
    """Run the one command; return the rows of its last table, by their first cell."""
    command = [sys.executable, "benchmarks/run.py", *arguments, "--quick", "--markdown"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert told.returncode == 0, told.stderr[-2000:]
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in told.stdout.splitlines() if line[:2] == "| "]
    return {cells[0]: cells for cells in lines[2:]}


QUICK = ("product", "attention", "convolution", "text")


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ("dry", QUICK),
        pytest.param("dry", ROWS, marks=pytest.mark.slow),
        pytest.param("tiny", ROWS, marks=pytest.mark.slow),
    ],
    ids=["dry-quick", "dry", "tiny"],
)
def test_every_row_runs_on_both_sides(size, names):
    """Networks on shared weights: both sides return the same numbers, or the command ends with an error."""
    for module in ("torch", "diffusers", "transformers"):
        pytest.importorskip(module, reason=f"needs {module}: pip install -e .[parity]")
    found = table("--size", size, "--rows", *names)
    assert len(found) == len(names)
    failed = [cells for cells in found.values() if not re.fullmatch(r"[\d.]+ [\d.]+", " ".join(cells[2:4]))]
    assert not failed


@pytest.mark.slow
def test_every_row_runs_without_torch():
    found = table("--size", "dry", "--sides", "jax")
    assert len(found) == len(ROWS) and not [cells for cells in found.values() if not re.fullmatch(r"[\d.]+", cells[2])]


@pytest.mark.parametrize(
    "name",
    ["render", *(pytest.param(name, marks=pytest.mark.slow) for name in run.TABLES if name not in ("speed", "render"))],
)
def test_other_tables_run(name):
    if name == "backends":
        pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
    assert table(name)
