"""Notebooks: all run from top to bottom, install in their first cell, and hold no model code.

    python tests/notebooks_test.py [notebook ...]

runs the notebooks (default: all) with their own settings and saves them with their outputs, for a commit. The
environment variables of the notebooks (MOTIONV2V_CHECKPOINT, MOTIONV2V_NUM_STEPS, ...) apply there too.
"""

import ast
import importlib.util
import json
import os
import sys
import tempfile
import time
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from motionv2v import checkpoints, figures, video

FOLDER = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MODEL_LIBRARIES = {"flax", "jax", "optax", "torch"}
MAX_BYTES = 1_500_000
"""GitHub's viewer gives up on notebooks of a few megabytes."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in `folder` with this Python's kernel and return it with outputs; an error in a cell is raised."""
    notebook = read(path)
    # Times of execution would make two equal runs differ.
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(folder))
    # The kernel's exact Python version is not worth a change of the file either.
    notebook.metadata = read(path).metadata
    return notebook


def printed(notebook) -> str:
    return "".join(out.text for cell in code_cells(notebook) for out in cell.outputs if out.output_type == "stream")


def pictures(notebook) -> list[str]:
    data = [out.get("data", {}) for cell in code_cells(notebook) for out in cell.outputs]
    return [kind for item in data for kind in item if kind.startswith("image/")]


def players(notebook) -> int:
    data = [out.get("data", {}) for cell in code_cells(notebook) for out in cell.outputs]
    return sum("<video" in item.get("text/html", "") for item in data)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Set the notebooks to the least work that still goes through every cell; skip where there is no model."""
    name = os.environ.get("MOTIONV2V_CHECKPOINT", "tiny")
    try:
        checkpoints.resolve(name)
    except checkpoints.CheckpointError:
        pytest.skip(
            f"needs the model {name!r}: the released one lies in motionv2v/{checkpoints.RELEASED['tiny'].folder}; "
            "or name the folder of another in MOTIONV2V_CHECKPOINT"
        )
    settings = {"CHECKPOINT": name, "NUM_STEPS": "1", "NUM_PAIRS": "2", "VIDEO": "", "OUT": str(tmp_path / "out")}
    for key, value in settings.items():
        monkeypatch.setenv(f"MOTIONV2V_{key}", value)
    return tmp_path / "out"


@pytest.mark.slow
def test_edit_a_video_runs(quick, tmp_path):
    done = execute(FOLDER / "edit_a_video.ipynb", tmp_path)
    # The frame with the queries, the tracks, the draft, and the contact sheet of all.
    assert len(pictures(done)) == 4 and players(done) == 1
    assert "follow_epe" in printed(done) and "nan" not in printed(done)
    assert {path.name for path in quick.iterdir()} == {"edited.mp4", "comparison.mp4", "contact_sheet.png"}


@pytest.mark.slow
def test_evaluate_checkpoint_runs(quick, tmp_path):
    done = execute(FOLDER / "evaluate_checkpoint.ipynb", tmp_path)
    assert len(pictures(done)) == players(done) == 2
    for row in ("copying", "without control", "this model", "true target"):
        assert f"\n{row} " in printed(done)
    assert {path.name for path in quick.iterdir()} == {"results.json", "pair_0.mp4", "pair_1.mp4"}


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["packaged", "own"])
def test_motion_prompting_runs(quick, tmp_path, monkeypatch, own):
    monkeypatch.setenv("MOTIONV2V_NUM_FRAMES", "5")
    if own:
        picture = np.random.default_rng(0).integers(0, 256, (240, 480, 3), np.uint8)
        monkeypatch.setenv("MOTIONV2V_IMAGE", str(figures.save_png(tmp_path / "photo.png", picture)))
    done = execute(FOLDER / "motion_prompting.ipynb", tmp_path)
    assert ("480x240" in printed(done)) == own
    # The picture is no attachment but a table of html; the tracks, and the drafts.
    assert len(pictures(done)) == 2 and players(done) == 1
    for name in ("drag", "ball", "orbit", "dolly zoom", "drag and camera", "recorded mouse"):
        assert f"{name}: " in printed(done)
    assert {path.name for path in quick.iterdir()} == {"animated.mp4"}


@pytest.mark.slow
def test_revideo_runs(quick, tmp_path):
    done = execute(FOLDER / "revideo.ipynb", tmp_path)
    # What is given, and what was made.
    assert len(pictures(done)) == 2 and players(done) == 1
    for name in ("both", "content", "motion"):
        assert f"{name}: " in printed(done)
    assert printed(done).count("of which 0 grey levels change") == 3
    assert {path.name for path in quick.iterdir()} == {"remade.mp4"}


@pytest.mark.slow
def test_motion_inversion_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONV2V_STEPS", "2")
    clip = np.random.default_rng(0).integers(0, 256, (30, 48, 80, 3), np.uint8)
    monkeypatch.setenv("MOTIONV2V_VIDEO", str(video.write(tmp_path / "own.mp4", clip, fps=8)))
    done = execute(FOLDER / "motion_inversion.ipynb", tmp_path)
    # The clip, the loss, all samples.
    assert len(pictures(done)) == 3 and players(done) == 1
    assert "it is resized" in printed(done) and "249,600 numbers" in printed(done)
    for name in ("the base alone", "with the motion", "not debiased"):
        assert f"{name:<16} fidelity " in printed(done)
    assert {"motion.safetensors", "transferred.mp4", "learning"} == {path.name for path in quick.iterdir()}


@pytest.mark.slow
def test_evaluate_suite_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONV2V_NUM_FRAMES", "5")
    done = execute(FOLDER / "evaluate_suite.ipynb", tmp_path)
    # What is given and wanted, and all rows of the table.
    assert len(pictures(done)) == 2 and players(done) == 1
    assert "tiny/courtyard: 5 frames" in printed(done) and "tiny_repair/courtyard: " in printed(done)
    assert "'scores.html'" in printed(done)
    assert {path.name for path in (quick / "outputs").iterdir()} == {"tiny", "tiny_repair", "scores"}
    scores = json.loads((quick / "outputs" / "scores" / "scores.json").read_text())["scores"]
    assert {entry["row"] for entry in scores} == {"target", "source", "held", "draft", "tiny", "tiny_repair"}
    assert {entry["metric"] for entry in scores} >= {"psnr", "follow_epe"}
    assert not {entry["metric"] for entry in scores} & {"lost", "ctd"}, "those alone that are named"


@pytest.mark.slow
def test_editor_runs(quick, tmp_path):
    done = execute(FOLDER / "editor.ipynb", tmp_path)
    assert len(pictures(done)) == players(done) == 1
    assert "run 1: done" in printed(done) and "'keyframes'" in printed(done)
    assert {"project.json", "edit.json", "runs"} <= {path.name for path in quick.iterdir()}


@pytest.mark.slow
def test_train_tiny_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONV2V_STEPS", "4")
    monkeypatch.setenv("MOTIONV2V_TRAINING_PAIRS", "512")
    done = execute(FOLDER / "train_tiny.ipynb", tmp_path)
    # A pair, the curve of the loss, an edit; the probe.
    assert len(pictures(done)) == 3 and players(done) == 1
    assert "4 steps, " in printed(done) and "\nthis branch " in printed(done)
    assert (quick / "train_tiny" / "model" / "model.safetensors").is_file()


def test_all_rows_of_the_evaluation_are_scored_on_the_same_points():
    """Every score in the notebook counts the points that the tracker follows on the truth, as the benchmark does."""
    manager, sources = TransformerManager(), code_cells(read(FOLDER / "evaluate_checkpoint.ipynb"))
    tree = ast.parse("\n".join(manager.transform_cell(cell.source) for cell in sources))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("score")]
    assert len(calls) == 2
    for call in calls:
        _, _, tracker, usable = map(ast.unparse, call.args)
        assert tracker == "tracker" and usable.partition("[")[0] == "usable", ast.unparse(call)
    assert "usable = synthetic.trackable(pairs, tracker)\n" in ast.unparse(tree)


@each_notebook
def test_no_cell_has_failed(path):
    outputs = [out for cell in code_cells(read(path)) for out in cell.outputs]
    assert not [out.ename for out in outputs if out.output_type == "error"]


@each_notebook
def test_first_code_cell_installs(path):
    first, *rest = (cell.source for cell in code_cells(read(path)))
    assert "%pip install" in first
    assert not any("pip install" in source for source in rest)


@each_notebook
def test_notebook_defines_no_models(path):
    manager = TransformerManager()  # turns %pip into Python
    tree = ast.parse("\n".join(manager.transform_cell(cell.source) for cell in code_cells(read(path))))
    imported = set()
    for node in ast.walk(tree):
        assert not isinstance(node, ast.ClassDef), f"{path.name} defines class {node.name}"
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert "motionv2v" in imported
    assert not imported & MODEL_LIBRARIES


def unknown_names(source: str) -> list[str]:
    """List what a source takes from this project's modules that is not there, such as "animated.read_image"."""
    nodes, modules, missing = list(ast.walk(ast.parse(source))), {}, []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "motionv2v":
            parent = importlib.import_module(node.module)
            for alias in node.names:
                found = getattr(parent, alias.name, None) or _submodule(f"{node.module}.{alias.name}")
                if found is None:
                    missing.append(f"{node.module}.{alias.name}")
                elif isinstance(found, types.ModuleType):
                    modules[alias.asname or alias.name] = found
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name in modules and name not in assigned and not hasattr(modules[name], node.attr):
                missing.append(f"{name}.{node.attr}")
    return missing


def _submodule(name: str) -> types.ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


@each_notebook
def test_what_cells_take_from_this_project_is_there(path):
    manager = TransformerManager()
    source = "\n".join(manager.transform_cell(cell.source) for cell in code_cells(read(path)))
    assert not unknown_names(source)
    assert unknown_names("from motionv2v.editing import animated\nanimated.nothing(1)") == ["animated.nothing"]


@each_notebook
def test_committed_outputs_have_pictures(path):
    notebook = read(path)
    assert any(cell.outputs for cell in code_cells(notebook)), "`python tests/notebooks_test.py` runs and saves it"
    assert pictures(notebook) and players(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert path.stat().st_size <= MAX_BYTES
    for place in (str(FOLDER.parent), str(Path.home())):
        assert len(place) < 2 or place not in path.read_text(encoding="utf-8"), f"{path.name} names a folder, {place}"


def main(paths: list[str]) -> None:
    """Run notebooks and save them with outputs; one that fails stays as it was."""
    for path in [Path(name) for name in paths] or NOTEBOOKS:
        begin = time.time()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        nbformat.write(notebook, path)
        size = path.stat().st_size
        print(f"{path.name}: {time.time() - begin:.0f} s, {size / 1e6:.2f} MB, {len(pictures(notebook))} pictures")
        if size > MAX_BYTES:
            print(f"{path.name} is above {MAX_BYTES / 1e6} MB, too large to commit: show fewer or smaller videos")


if __name__ == "__main__":
    main(sys.argv[1:])
