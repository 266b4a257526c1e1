"""Start fast: keep compiled programs on disk, so that the second start neither traces nor compiles what the first did.

`use_cache` switches both caches on; launchers call it, and nothing is kept without it:

    XLA's own       every compilation of jax (`jax_compilation_cache_dir`); tracing and lowering are still done
    programs        whole executables of the functions wrapped in `Program`: a start only reads a file

They lie in `MOTIONV2V_CACHE`, or `motionv2v` in the user's cache folder; `MOTIONV2V_CACHE=off` keeps nothing.

A program is found by its key, which is everything that it depends on. Within a process that is the `Signature` of a
call: the tree, types and layouts of its arguments, and the static ones. On disk it is a hash of that and of what a
process does not change: the function's name and the caller's `identity` (config, mesh), this package's source,
versions, flags and options of jax, the runtime and the devices, and for CPUs the processor's instruction set, because
code made for another one ends in an illegal instruction. The whole key is stored in the file and compared again, and a
checksum covers the rest. What does not fit, or cannot be read, is compiled anew, with one notice. Reading a program
runs code from the file, so only files of this user are read.
"""

import contextlib
import hashlib
import json
import os
import pickle
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from motionv2v import ROOT, files

VARIABLE = "MOTIONV2V_CACHE"
OFF = ("off", "0", "no", "false")
MAX_BYTES = 4 * 2**30
"""Of stored programs; the ones that were not used for longest are removed first."""
MAGIC = b"motionv2v program 1\n"
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Packages that decide what a program computes."""

_folder: Path | None = None


class _UnusableError(Exception):
    """A stored program that must not be run, and why."""


def use_cache(folder: str | os.PathLike | None = None) -> Path | None:
    """Keep compiled programs from now on, in this process; returns the folder, or None if that is switched off.

    Args:
        folder: where; None takes `MOTIONV2V_CACHE` or the user's cache folder.

    A folder that cannot be written is no error: a notice says so, and nothing is kept. A `jax_compilation_cache_dir`
    that is already set stays.
    """
    global _folder
    told = os.environ.get(VARIABLE, "") if folder is None else os.fspath(folder)
    _folder = None
    if told.lower() in OFF:
        return None
    try:
        base = Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motionv2v"
        (base / "programs").mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=base / "programs").close()
    except (OSError, RuntimeError) as error:
        warnings.warn(f"compiled programs are not kept: {error}; set {VARIABLE} to a folder, or to off", stacklevel=2)
        return None
    if jax.config.jax_compilation_cache_dir is None:
        # By processor: jax's own key does not tell instruction sets apart.
        jax.config.update("jax_compilation_cache_dir", str(base / "xla" / _digest(_processor())[:16]))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _folder = base
    return base


class Signature(NamedTuple):
    """Tell a call of a function from those that need another program; of one process, which never mixes up types."""

    tree: Any
    leaves: tuple[tuple[Any, Any], ...]
    static: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, args: Any, static: dict[str, Any]) -> "Signature":
        """Read a call: (shape and type, sharding) of each array, and the static arguments by name."""
        leaves, tree = jax.tree.flatten(args)
        read = tuple((jax.typeof(x), getattr(x, "sharding", None)) for x in leaves)
        return cls(tree, read, tuple(sorted(static.items())))

    def __str__(self) -> str:
        """Write it out, the same in every process."""
        told = [f"{of_type} {of_type.weak_type} {_layout(sharding)}" for of_type, sharding in self.leaves]
        return json.dumps([str(self.tree), told, [(name, repr(value)) for name, value in self.static]])


class Program:
    """A jitted function whose executables are kept on disk; called like the function.

    Keyword arguments are the static ones, positional arguments the traced ones.
    """

    def __init__(self, jitted: Callable[..., Any], name: str, identity: Any, *, notify: Any = warnings.warn):
        """Wrap a function; nothing is read or compiled before the first call.

        Args:
            jitted: from `jax.jit`, with its static and donated arguments.
            name: of the function, unique within the package.
            identity: everything that the function closes over and that the package's source does not fix, such as the
                config and the mesh; any object whose `str` tells it apart. Weights must be arguments.
            notify: called with a sentence when a stored program could not be used.
        """
        self.jitted, self.name = jitted, name
        self._identity, self._notify = str(identity), notify
        self._programs: dict[Signature, Callable[..., Any]] = {}

    def __call__(self, *args: Any, **static: Any) -> Any:
        """Run the function: by a program of this process, of the disk, or a new one, in this order."""
        if _folder is None or jax.process_count() > 1 or _is_traced(args):
            return self.jitted(*args, **static)
        signature = Signature.of(args, static)
        if signature not in self._programs:
            self._programs[signature] = self._obtain(_folder / "programs", signature, args, static)
        return self._programs[signature](*args)

    def _obtain(self, folder: Path, signature: Signature, args: Any, static: dict[str, Any]) -> Callable[..., Any]:
        """Load a program, or compile and store it."""
        key = json.dumps({"name": self.name, "identity": self._identity, "call": str(signature)} | _surroundings())
        path = folder / f"{self.name}-{_digest(key)}.program"
        if path.exists():
            try:
                program = _load(path, key, args)
                os.utime(path)
                return program
            except Exception as error:
                # Whatever is wrong with the file, in jax, pickle or the runtime, the answer is the same.
                self._notify(f"stored program {path} cannot be used ({_line(error)}): compiled anew")
        with _compiling_anew():
            compiled = self.jitted.lower(*args, **static).compile()
        try:
            _store(path, key, compiled)
        except Exception as error:
            self._notify(f"program {self.name} is not kept for the next start ({_line(error)})")
        return compiled


def remembered(name: str, identity: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, from disk if the same package, versions and identity made it before.

    Args:
        name: of the value. identity: everything that it depends on, as for `Program`.
        make: called without arguments; returns something that json holds.
    """
    if _folder is None:
        return make()
    key = json.dumps({"name": name, "identity": str(identity), "source": _source(), "versions": _versions()})
    path = _folder / "programs" / f"{name}-{_digest(key)}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key and stored["sum"] == _digest(json.dumps(stored["value"])):
            return stored["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there or damaged: it is made again, which takes seconds and needs no notice
    value = json.loads(json.dumps(make()))
    try:
        files.write(path, json.dumps({"key": key, "sum": _digest(json.dumps(value)), "value": value}))
    except OSError:
        pass
    return value


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Leave XLA's cache out: what came from it cannot be stored again, parts of it would be missing when it runs."""
    used = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # jax looks at the option once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", used)
        compilation_cache.reset_cache()


def _load(path: Path, key: str, args: Any) -> Callable[..., Any]:
    if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
        raise _UnusableError("it belongs to another user")
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise _UnusableError("it is no program")
    stored_key, _, rest = content[len(MAGIC) :].partition(b"\n")
    digest, _, payload = rest.partition(b"\n")
    if stored_key != key.encode():
        raise _UnusableError("it was made for something else")
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise _UnusableError("it is damaged")
    device = {"execution_devices": devices} if (devices := _devices(args)) else {}
    return serialize_executable.deserialize_and_load(*pickle.loads(payload), **device)


def _store(path: Path, key: str, compiled: Any) -> None:
    payload = pickle.dumps(serialize_executable.serialize(compiled))
    files.write(path, MAGIC + key.encode() + b"\n" + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    stored = sorted(path.parent.glob("*.program"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in stored:
        total += file.stat().st_size
        if total > MAX_BYTES and file != path:
            file.unlink(missing_ok=True)


def _layout(sharding: Any) -> str:
    return "" if sharding is None else f"{sharding} {[d.id for d in sharding._device_assignment]}"


def _devices(args: Any) -> list[Any]:
    """List the devices that a program runs on, in the order of its arguments' mesh."""
    shardings = [x.sharding for x in jax.tree.leaves(args) if isinstance(x, jax.Array)]
    largest = max(shardings, key=lambda s: len(s.device_set), default=None)
    return [] if largest is None else list(largest._device_assignment)


def _is_traced(args: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))


@cache
def _source() -> str:
    """Hash the package's source: an edited layer is another program."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES} | {"python": sys.version}


def _surroundings() -> dict[str, Any]:
    """Describe all else that a program depends on."""
    devices = jax.devices()
    # Where caches and logs lie changes no program; all other options of jax may.
    options = {name: str(getattr(jax.config, name, "")) for name in sorted(jax.config.values) if _matters(name)}
    return {
        "source": _source(),
        "versions": _versions(),
        "flags": {name: os.environ.get(name, "") for name in FLAGS},
        "options": options,
        "runtime": devices[0].client.platform_version,
        "devices": [f"{device.id} {device.platform} {device.device_kind}" for device in devices],
        "processor": _processor(),
    }


def _matters(option: str) -> bool:
    return not any(word in option for word in ("cache", "log", "traceback", "dump", "profiler"))


@cache
def _processor() -> str:
    """Describe the processor and its instruction set."""
    told = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    known = [told.get(name, "") for name in ("model name", "flags", "Features", "CPU part", "CPU implementer")]
    return " | ".join([platform.machine(), platform.processor(), str(os.cpu_count()), *known])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__.strip('_')}: {error}".split())[:200]
