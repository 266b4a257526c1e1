"""The project's conventions, held by reading its source: directions of imports, sizes, names, docstrings."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "motionv2v"

FLOORS = (
    {"typing", "files", "schema", "stacks", "pickles"},
    {"models", "diffusion", "solvers", "tracks", "video", "parameters", "progress"},
    {"trackers", "sampling", "camera", "pinhole", "rigid", "render", "figures", "metrics"},
    {"methods", "edits", "draft"},
    {"data"},
    {"sections"},
    {"backbone", "checkpoints"},
    {"devices"},
    {"convert"},
    {"editing", "cli"},
    {"evaluation"},
    {"training"},
)
"""From the bottom up: the rooms of the package, files and folders at its top. A room imports only rooms below it."""

NO_JAX = {
    "typing",
    "files",
    "stacks",
    "pickles",
    "progress",
    "tracks",
    "video",
    "trackers",
    "camera",
    "pinhole",
    "rigid",
    "figures",
    "metrics",
    "edits",
    "draft",
    "data",
}
"""What worker processes of the input pipeline, or a page that only shows an edit, may import."""

LATE_JAX = {"trackers.tapnext"}
"""Imports jax only inside functions, when a tracker is built: listing trackers does not load it."""


def modules():
    """Map each module of the package to its file: "models.dit" -> motionv2v/models/dit.py; the package itself is ""."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NEEDS_AN_EXTRA = {
    "data.videos.beam": "data",
    "data.scenes.blender": "scenes3d",
    "data.scenes.courtyard": "scenes3d",
    "editing.notebook": "editor",
    "editing.pictures": "editor",
    "editing.receiving": "editor",
    "editing.run_routes": "editor",
    "editing.server": "editor",
    "training.torch_transformer": "parity",
}
"""By module: the extra of setup.py whose packages it imports when it is loaded."""

PYTHON_FILES = sorted(
    path
    for folder in ("motionv2v", "configs", "launch", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def imported(tree, everywhere=True):
    """List the dotted names that a module imports; without `everywhere` only those outside functions."""
    names = set()

    def visit(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not everywhere:
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return names


def own_imports(name, everywhere=True):
    """List the modules of this package that a module of it imports."""
    found = set()
    for dotted in imported(TREES[name], everywhere):
        if dotted.split(".")[0] != "motionv2v":
            continue
        inner = dotted.removeprefix("motionv2v").lstrip(".")
        # "tracks.Tracks" is an object of module "tracks"; an object of the package itself is module "".
        while inner not in MODULES:
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found - {name}


def floor(name):
    room = name.split(".")[0]
    return next((number for number, rooms in enumerate(FLOORS, 1) if room in rooms), None)


def test_every_module_has_a_floor():
    assert [name for name in MODULES if name and floor(name) is None] == []


def test_a_room_imports_only_rooms_below_it():
    wrong = [
        f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        for name in MODULES
        if name
        for other in own_imports(name)
        if other and other.split(".")[0] != name.split(".")[0] and floor(other) >= floor(name)
    ]
    assert wrong == []


def test_no_import_renames():
    """What importers would rename has the wrong name."""
    wrong = []
    for path in PYTHON_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for alias in node.names:
                origin = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
                if alias.asname and origin.split(".")[0] in ("motionv2v", "configs"):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {alias.name} as {alias.asname}")
    assert wrong == []


def test_folders_say_what_lives_in_them():
    """A folder of the package with more than four files has a page that says so, and how to add one."""
    wrong = []
    for folder in {path.parent for path in MODULES.values()} - {PACKAGE}:
        page = folder / "README.md"
        if len(list(folder.glob("*.py"))) > 4 and not page.is_file():
            wrong.append(f"{folder.relative_to(ROOT)}: no README.md")
        if page.is_file() and len(page.read_text(encoding="utf-8").splitlines()) > 60:
            wrong.append(f"{page.relative_to(ROOT)}: longer than a page")
    assert wrong == []


def test_packages_that_are_imported_are_installed_with_this_one():
    """What modules import when they are loaded stands in setup.py, so that a fresh machine has it.

    What needs an extra is itself imported inside functions alone, or a script.
    """
    required = re.search(
        r"install_requires=\[(.*?)\n    \]", (ROOT / "setup.py").read_text(encoding="utf-8"), re.DOTALL
    )
    declared = {normal(name) for name in re.findall(r'"([\w-]+)', required.group(1))}
    distributions = metadata.packages_distributions()
    missing = {
        f"{name}: {package}"
        for name, tree in TREES.items()
        for package in {dotted.split(".")[0] for dotted in imported(tree, everywhere=False)}
        if name not in NEEDS_AN_EXTRA and package != "motionv2v" and package not in sys.stdlib_module_names
        if not declared & {normal(one) for one in distributions.get(package, ())}
    }
    assert missing == set()


def test_what_needs_an_extra_is_not_loaded_with_the_package():
    """Blender is under the GPL and large; apache-beam is large."""
    for name in MODULES:
        others = own_imports(name, everywhere=False) & set(NEEDS_AN_EXTRA)
        assert not others or name in NEEDS_AN_EXTRA, f"{name} imports {others}"
    blender = {name for name, tree in TREES.items() if "bpy" in {part.split(".")[0] for part in imported(tree)}}
    assert blender == {"data.scenes.blender", "data.scenes.courtyard"}
    assert not [name for name in MODULES if own_imports(name) & blender and name not in blender]


def normal(name):
    """Spell the name of a distribution as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_imports_have_no_cycles():
    order = {}

    def visit(name, path):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        if name not in order:
            for other in own_imports(name):
                visit(other, [*path, name])
            order[name] = True

    for name in MODULES:
        if name:
            visit(name, [])


def test_methods_know_neither_each_other_nor_data_nor_training():
    for name in MODULES:
        if name.startswith("methods."):
            # The record that each of them is, and the fields that they read, are everybody's.
            others = own_imports(name) - {"methods", "methods.fields"}
            parts = {other.split(".")[0] for other in others}
            assert not parts & {"methods", "data", "training", "editing"}, name


def test_no_part_but_the_methods_asks_which_method_runs():
    """`if config.method.name == ...` or a method's own name in a comparison would be a branch outside the seam."""
    methods = {name.split(".")[1] for name in MODULES if name.startswith("methods.")}
    for name, tree in TREES.items():
        if name.split(".")[0] == "methods":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                constants = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
                assert not methods.intersection(c for c in constants if isinstance(c, str)), f"{name}:{node.lineno}"


def test_numpy_parts_do_not_import_jax():
    banned = {"jax", "flax", "optax", "orbax"}
    for name, tree in TREES.items():
        if name.split(".")[0] in NO_JAX:
            everywhere = name not in LATE_JAX
            roots = {dotted.split(".")[0] for dotted in imported(tree, everywhere)}
            assert not roots & banned, f"{name} imports {roots & banned}"
            own = own_imports(name, everywhere)
            others = {other for other in own if other and other.split(".")[0] not in NO_JAX}
            assert not others, f"{name} imports {others}, which may import jax"


def test_scenes_and_tracks_are_drawn_without_loading_jax():
    """Stronger than reading the source: in a fresh process, nothing pulls jax in by a detour."""
    code = (
        "import sys; from motionv2v import edits, trackers; from motionv2v.data import counterfactual; "
        "from motionv2v.data.scenes import pairs; from motionv2v.edits import document; "
        "pairs.make_pair(pairs.SceneConfig(num_frames=5, size=(8, 8)), 0, 0);"
        "assert not {'jax', 'flax'} & set(sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr


def functions(tree):
    """Yield (qualified name, function, is public) for module functions and methods, not for functions in functions."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node, not node.name.startswith("_")
        elif isinstance(node, ast.ClassDef):
            public = not node.name.startswith("_")
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    name = child.name
                    yield f"{node.name}.{name}", child, public and (not name.startswith("_") or name == "__call__")


def arguments(function, method):
    given = function.args
    listed = [*given.posonlyargs, *given.args]
    if method and not any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list):
        listed = listed[1:]
    return [*listed, *given.kwonlyargs]


def test_public_functions_are_annotated_and_described():
    missing = []
    for module, tree in TREES.items():
        if not ast.get_docstring(tree):
            missing.append(f"{module or 'the package'}: module docstring")
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{module}.{node.name}: docstring")
        for name, function, public in functions(tree):
            if not public:
                continue
            if not ast.get_docstring(function):
                missing.append(f"{module}.{name}: docstring")
            if function.returns is None:
                missing.append(f"{module}.{name}: return annotation")
            for argument in arguments(function, "." in name):
                if argument.annotation is None:
                    missing.append(f"{module}.{name}({argument.arg}): annotation")
    assert missing == []


def test_random_sources_come_first():
    """`key` is a jax key, `rng` a numpy Generator, and either is a function's first argument."""
    wrong = []
    for module, tree in TREES.items():
        for name, function, public in functions(tree):
            # Grain's protocol fixes the order of `random_map(element, rng)`.
            if not public or name.endswith(".random_map"):
                continue
            for argument in arguments(function, "." in name)[1:]:
                # Attention's `key` is an array, as its annotation says.
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                if argument.arg in ("key", "rng") and not annotation.startswith("Float["):
                    wrong.append(f"{module}.{name}")
    assert wrong == []


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    # Far above what is usual (200 lines a file): a limit that must be dodged makes worse code than a long function.
    limit = 60 if path.parent.name == "launch" else 500
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 80, node.name


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_for_later(path):
    # Put together here, so that this file does not find itself.
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK", "place" + "holder", "NotImplemented" + "Error"]
    text = path.read_text(encoding="utf-8")
    assert re.findall(rf"\b({'|'.join(words)})\b", text) == []


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_path_of_somebodys_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"[\"' ](/(?:home|root|work|tmp|Users)/\S*)", text) == []


def test_names_say_what_is_inside():
    vague = {"util", "utils", "helper", "helpers", "common", "misc", "tools"}
    assert [name for name in MODULES if vague & set(name.split("."))] == []


def test_only_files_renames():
    """What appears whole or not at all is written by `files`, not by hand."""
    by_hand = re.compile(r"\bos\.(?:replace|rename)\(|\.rename\(|\bshutil\.move\(")
    found = [name for name, path in MODULES.items() if by_hand.search(path.read_text(encoding="utf-8"))]
    assert found == ["files"]


def test_test_files_have_one_name_each():
    """Two test files of one name in different folders cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("*_test.py")]
    assert len(names) == len(set(names))
