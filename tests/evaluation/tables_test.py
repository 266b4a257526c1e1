"""The tables of launch/evaluate.py: each module makes one of the flags named for it, and none is loaded before."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from motionv2v.evaluation import tables

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def launched():
    """The launcher's tables; in a process of its own, for it defines flags."""
    code = (
        "import json, runpy; found = runpy.run_path('launch/evaluate.py', run_name='launcher')['TABLES']\n"
        "print(json.dumps(found))"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    return {name: tables.Table(module, tuple(flags)) for name, (module, flags) in found.items()}


def test_a_table_of_a_higher_floor_is_the_launchers(launched):
    assert all(table.module.startswith("evaluation.") for table in tables.TABLES.values())
    assert launched == tables.TABLES | {"motion_inversion": launched["motion_inversion"]}


@pytest.mark.parametrize("name", [*tables.TABLES, "motion_inversion"])
def test_each_table_takes_the_flags_named_for_it(launched, name):
    table = launched[name]
    module = importlib.import_module(f"motionv2v.{table.module}")
    taken = list(inspect.signature(module.table).parameters)
    taken = taken[: taken.index("progress")]
    renamed = {"num_views": "views", "net": "lpips"}
    if name == "motionv2v":
        renamed["num_points"] = "num_tracks"
    if name == "tapvid":
        renamed = {"name": "tracker", "modes": "mode", "weights": "checkpoint", "path": "pickle"}
    assert tuple(renamed.get(each, each) for each in taken) == table.flags
    defined = "".join((ROOT / path).read_text() for path in ("launch/evaluate.py", "motionv2v/evaluation/commands.py"))
    assert set(table.flags) <= set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", defined))


def test_values_are_passed_in_the_order_of_the_flags(monkeypatch):
    given = []

    def table(*values):
        given.append(values)
        return "", {}

    monkeypatch.setattr(importlib, "import_module", lambda name: given.append(name) or SimpleNamespace(table=table))
    tables.Table("evaluation.any", ("seed", "out")).make({"out": "there", "seed": 3, "other": 1}, iter)
    assert given == ["motionv2v.evaluation.any", (3, "there", iter)]


def test_scoring_a_suite_loads_no_jax():
    code = "import sys; from motionv2v.evaluation import commands, tables; assert 'jax' not in sys.modules"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
