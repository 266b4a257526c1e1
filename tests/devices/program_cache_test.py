"""Programs on disk: found again, never when anything differs, and never trusted when damaged."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.devices import program_cache

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of this test's own; programs only, because jax's own cache is global to the process."""
    monkeypatch.setattr(program_cache, "_folder", tmp_path)
    (tmp_path / "programs").mkdir()
    return tmp_path / "programs"


def make(traces, scale=2.0, identity="model", name="scaled"):
    """Wrap x -> scale x ** power in a Program that tells when it is traced."""

    def function(tree, *, power):
        traces.append(power)
        return {"y": scale * tree["x"] ** power, "sum": tree["x"].sum()}

    notices = []
    program = program_cache.Program(
        jax.jit(function, static_argnames="power"), name, f"{identity} {scale}", notify=notices.append
    )
    return program, notices


def call(program, x=X, power=2):
    result = program({"x": jnp.asarray(x)}, power=power)
    return np.asarray(result["y"])


def test_second_program_neither_traces_nor_compiles(folder):
    traces = []
    for _ in range(2):
        program, notices = make(traces)
        np.testing.assert_array_equal(call(program), 2 * X**2)
        np.testing.assert_array_equal(call(program, X + 1), 2 * (X + 1) ** 2)
        assert notices == []
    assert traces == [2] and len(list(folder.iterdir())) == 1


def test_anything_that_differs_is_another_program(folder, monkeypatch):
    traces = []
    call(make(traces)[0])
    seen = 1
    for program, x, power in (
        (make(traces)[0], X[:1], 2),  # a shape
        (make(traces)[0], X.astype(np.int32), 2),  # a type
        (make(traces)[0], X, 3),  # a static argument
        (make(traces, scale=5.0)[0], X, 2),  # what the function closes over
        (make(traces, name="other")[0], X, 2),
    ):
        call(program, x, power)
        seen += 1
        assert len(traces) == seen == len(list(folder.iterdir()))
    for name, value in (("_source", "edited"), ("_processor", "an older one"), ("_versions", {"jax": "0.0"})):
        with monkeypatch.context() as patch:
            patch.setattr(program_cache, name, lambda value=value: value)
            call(make(traces)[0])
        seen += 1
        assert len(traces) == seen == len(list(folder.iterdir()))
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=true")
    call(make(traces)[0])
    assert len(traces) == seen + 1


def test_one_program_serves_many_shapes(folder):
    traces = []
    program, _ = make(traces)
    for _ in range(2):
        for x, power in ((X, 2), (X[:1], 2), (X, 3), (X.T, 2)):
            np.testing.assert_array_equal(call(program, x, power), 2 * x**power)
    assert len(traces) == 4


def damage_end(content):
    return content[:-20] + bytes(20)


def damage_middle(content):
    return content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "end": damage_end,
    "middle": damage_middle,
    "text": lambda content: b"this is no program",
    "key": lambda content: content.replace(b'"jaxlib"', b'"jaxlid"'),
    "payload": lambda content: content.partition(b"\n")[0] + b"\n" + content.split(b"\n")[1] + b"\n\nnonsense",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_compiled_anew_with_one_notice(name, folder):
    traces = []
    call(make(traces)[0])
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(DAMAGES[name](good))
    program, notices = make(traces)
    np.testing.assert_array_equal(call(program), 2 * X**2)
    assert traces == [2, 2] and len(notices) == 1
    assert str(path) in notices[0] and "compiled anew" in notices[0] and "\n" not in notices[0]
    # Mended: the next start is quiet.
    program, notices = make(traces)
    np.testing.assert_array_equal(call(program), 2 * X**2)
    assert traces == [2, 2] and notices == []


def test_a_checksum_that_was_made_to_fit_does_not_crash(folder):
    """Valid header, valid sum, and a payload that is pickle but no program: what another version might leave."""
    import hashlib
    import pickle

    traces = []
    call(make(traces)[0])
    (path,) = folder.iterdir()
    magic, key, *_ = path.read_bytes().split(b"\n")
    payload = pickle.dumps((b"not an executable", None, None))
    path.write_bytes(b"\n".join([magic, key, hashlib.sha256(payload).hexdigest().encode(), payload]))
    program, notices = make(traces)
    np.testing.assert_array_equal(call(program), 2 * X**2)
    assert len(notices) == 1 and traces == [2, 2]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs a system with user ids")
def test_files_of_another_user_are_not_read(folder, monkeypatch):
    traces = []
    call(make(traces)[0])
    monkeypatch.setattr(os, "getuid", lambda real=os.getuid(): real + 1)
    program, notices = make(traces)
    call(program)
    assert traces == [2, 2] and "another user" in notices[0]


def test_what_cannot_be_kept_still_runs(folder):
    """A program that calls back into this process belongs to it; it runs, and one notice says that it is not kept."""
    seen, notices = [], []

    def function(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return x + 1

    program = program_cache.Program(jax.jit(function), "talking", "", notify=notices.append)
    assert float(program(jnp.float32(1))) == 2
    jax.effects_barrier()
    assert seen == [1.0]
    assert len(notices) == 1 and "not kept" in notices[0] and list(folder.iterdir()) == []


def test_donated_and_nested_arguments(folder):
    traces = []

    def step(state, batch):
        traces.append(1)
        return {"n": state["n"] + 1, "w": [state["w"][0] + batch.sum()]}

    for _ in range(2):
        program = program_cache.Program(jax.jit(step, donate_argnums=0), "step", "")
        state = {"n": jnp.int32(0), "w": [jnp.zeros(3)]}
        for _ in range(3):
            state = program(state, X)
        assert int(state["n"]) == 3 and np.asarray(state["w"][0]).tolist() == [45.0] * 3
    assert traces == [1]


def test_oldest_programs_make_room(folder, monkeypatch):
    traces = []
    for age, power in enumerate((1, 2, 3)):
        call(make(traces)[0], power=power)
        for path in folder.iterdir():
            os.utime(path, (path.stat().st_mtime - 100, path.stat().st_mtime - 100))
    size = max(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(program_cache, "MAX_BYTES", 2 * size + size // 2)
    call(make(traces)[0], power=4)
    assert len(list(folder.iterdir())) == 2
    call(make(traces)[0], power=3)
    assert len(traces) == 4, "the newest of the old ones was kept"


def test_without_a_folder_nothing_is_kept_and_traced_calls_pass_through(folder, monkeypatch):
    traces = []
    program, _ = make(traces)
    inner = jax.jit(lambda x: program({"x": x}, power=2)["y"])(X)
    np.testing.assert_array_equal(inner, 2 * X**2)
    monkeypatch.setattr(program_cache, "_folder", None)
    call(make(traces)[0])
    assert list(folder.iterdir()) == []


def test_values_are_remembered_until_anything_differs(folder, monkeypatch):
    made = []

    def value():
        made.append(1)
        return {"a": (1, 2)}

    for _ in range(2):
        assert program_cache.remembered("shapes", "one", value) == {"a": [1, 2]}
    assert len(made) == 1
    program_cache.remembered("shapes", "two", value)
    assert len(made) == 2
    for path in folder.iterdir():
        stored = json.loads(path.read_text())
        path.write_text(json.dumps(stored | {"value": {"a": [9, 9]}}))
    assert program_cache.remembered("shapes", "one", value) == {"a": [1, 2]} and len(made) == 3


CHILD = """
import jax, sys, warnings
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np, jax.numpy as jnp
from motionv2v.devices import program_cache
print(program_cache.use_cache())
traces = []
def function(x):
    traces.append(1)
    return jnp.cumsum(x * 2, axis=0)
device = jax.devices()[int(sys.argv[1])]
mesh = Mesh(np.array(jax.devices()[::-1]), ("data",))
for name, layout in (("one", device), ("mesh", NamedSharding(mesh, PartitionSpec("data")))):
    program = program_cache.Program(jax.jit(function), name, "")
    x = jax.device_put(np.arange(8.0, dtype=np.float32), layout)
    print(name, np.asarray(program(x)).tolist() == np.cumsum(2 * np.arange(8.0)).tolist(), len(traces))
"""


def start(folder, repository, device="2", **environment):
    command = [sys.executable, "-W", "always", "-c", CHILD, device]
    variables = os.environ | {"PYTHONPATH": str(repository), program_cache.VARIABLE: str(folder)} | environment
    child = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    return child.stdout.split("\n")[:-1], child.stderr


def test_fresh_processes_with_several_devices(tmp_path, repository):
    """One device that is not the first, and a mesh in an order of its own; then damaged caches, and none at all."""
    first, _ = start(tmp_path, repository)
    assert first == [str(tmp_path), "one True 1", "mesh True 2"]
    again, told = start(tmp_path, repository)
    assert again == [str(tmp_path), "one True 0", "mesh True 0"] and told == ""
    elsewhere, _ = start(tmp_path, repository, device="1")
    assert elsewhere[1:] == ["one True 1", "mesh True 1"], "a program belongs to its device"
    for path in (tmp_path / "programs").glob("one*"):
        path.unlink()
    # XLA's cache still has it, but a program read from there would lack functions if it were stored.
    for traced in (1, 0):
        assert start(tmp_path, repository)[0][1:] == [f"one True {traced}", f"mesh True {traced}"]
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        path.write_bytes(b"\x00garbage" * 9)
    damaged, told = start(tmp_path, repository)
    assert damaged == [str(tmp_path), "one True 1", "mesh True 2"] and told.count(".program cannot be used") == 2
    off, _ = start(tmp_path / "nothing", repository, **{program_cache.VARIABLE: "off"})
    assert off == ["None", "one True 1", "mesh True 2"] and not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_text("")
    refused, told = start(tmp_path / "file", repository)
    assert refused == ["None", "one True 1", "mesh True 2"] and "are not kept" in told
