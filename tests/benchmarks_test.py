"""The table of benchmarks/sampling.py: which runs count, what stands in a cell, and where a second start goes on."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import sampling


class Scripted:
    """A side that takes the given seconds, run by run."""

    def __init__(self, seconds, prepared=None):
        self.seconds, self.prepared, self.orders = list(seconds), prepared or {"bytes": 3e9, "operations": 2e15}, []

    def ask(self, *order):
        self.orders.append(order[0])
        if order[0] == "run":
            return {"seconds": self.seconds.pop(0), "peak": 5e9}
        return dict(self.prepared) if order[0] == "prepare" else {}


def time_row(seconds, limit=60.0, **given):
    child = Scripted(seconds, **given)
    options = Namespace(repeats=3, seconds=limit)
    return sampling.time_row(sampling.ROWS["forward-main"], {"jax forward-main": child}, options), child


def test_the_first_run_does_not_count():
    results, child = time_row([9.0, 1.0, 3.0, 2.0])
    assert results["jax forward-main"]["seconds"] == 2.0 and results["jax forward-main"]["runs"] == 3
    assert child.orders == ["prepare", "measure", *["run"] * 4, "release"]


def test_a_long_first_run_counts_and_long_rows_end_early():
    results, child = time_row([50.0, 40.0, 1.0, 1.0])
    assert results["jax forward-main"]["seconds"] == 45.0
    assert child.orders.count("run") == 2, "90 s are more than 60"


def test_a_side_that_fails_says_so_in_its_row():
    results, child = time_row([], prepared={"error": "RESOURCE_EXHAUSTED: out of memory"})
    assert child.orders == ["prepare", "release"]
    told = {"steps": 50, "rows": results, "about": {"jax": {"device": "NVIDIA H200"}}}
    assert sampling.show("forward-main", told)[2] == "fails: RESOURCE_EXHAUSTED: out of memory"


@pytest.mark.parametrize(("device", "used"), [("NVIDIA H200", "50.0%"), ("cpu", "-")])
def test_a_row_of_the_table(device, used):
    """2 s for half of what an H200 does in them: 989.5 TFLOP. The peer's row has no step cache."""
    ours = {"seconds": 2.0, "bytes": 3e9, "operations": 989.5e12}
    told = {"steps": 50, "about": {"jax": {"device": device}}}
    told["rows"] = {"jax control+guidance+cache": ours, "torch control+guidance": {"seconds": 3.0, "peak": 4e9}}
    cells = sampling.show("control+guidance+cache", told)
    assert cells == ["control+guidance+cache", "26", "2.00", "3.00", "1.50x", "3.00 c", "4.00", "989.5", used]
    ours["rise"] = 7e9
    assert sampling.show("control+guidance+cache", told)[5] == "7.00 r", "what a run takes of the host's memory"
    ours["peak"] = 6e9
    assert sampling.show("control+guidance+cache", told)[5] == "6.00", "what the device tells, where it does"
    # Where the maker's peak is not known: of the rate that was measured.
    told["about"]["jax"]["rate"] = 989.5e12
    assert sampling.show("control+guidance+cache", told)[8] == "50.0%"


def test_work_space_is_what_a_run_takes():
    """An array of 100 MB that is written to, and given back."""
    from sampling_sides import work_space

    told = work_space(lambda: np.ones(25_000_000, np.float32).sum())
    if not told:
        pytest.skip("needs a Linux whose /proc/self/clear_refs may be written")
    assert told["rise"] == pytest.approx(1e8, rel=0.1)


def test_a_training_step_keeps_what_the_device_has_room_for(monkeypatch):
    from sampling_sides import make_config, roomiest_remat

    config = make_config("5b")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    got = [roomiest_remat(config, size * 1e9) for size in (141, 100, 85, 60)]
    assert got == ["save_attention_qkv_mlp", "save_attention_qkv", "save_attention", "full"]
    assert config.dit.remat == "save_attention", "the config stays as it is"


def test_every_row_has_a_peer_among_the_rows():
    assert {sampling.peer_of(name) for name in sampling.ROWS} <= set(sampling.ROWS)
    assert all(set(names) <= set(sampling.ROWS) for names in sampling.DEFAULT.values())


def test_results_are_kept_and_other_sizes_refused(tmp_path):
    options = Namespace(size="dry", steps=4, out=tmp_path / "told.json")
    told = sampling.load(options)
    told["rows"]["jax forward-main"] = {"seconds": 1.0}
    sampling.save(told, options)
    assert sampling.load(options) == told
    with pytest.raises(SystemExit, match="of size dry and 4 steps; name another file"):
        sampling.load(Namespace(size="5b", steps=50, out=options.out))
