"""Read what training runs saved, and write and read the model folders that people pass around.

A *work dir* belongs to `loop.train`:

    workdir/config.json             the experiment
    workdir/frozen.safetensors      the weights that do not train, written once
    workdir/checkpoints/<step>/     trainable, EMA, optimizer state, step and data iterator state (`training.saver`)

A *model folder* is what `load_model` reads anywhere, without the training code's optimizer or data:

    folder/config.json              the config, and shape, number type and sha256 of the weights
    folder/model.safetensors        every parameter by its path, "dit/blocks/qkv/kernel"

One that stands on a released model may leave out what it has in common with it: config.json then names that model, the
sha256 of its weights, and the parts of the tree that are read from there ("vae", "dit/blocks").

`RELEASED` names the model folders that ship inside this package.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from absl import flags, logging
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from motionv2v import ROOT, files, parameters, schema, sections
from motionv2v.typing import PyTree

WEIGHTS, CONFIG, FROZEN, CHECKPOINTS = "model.safetensors", "config.json", "frozen.safetensors", "checkpoints"
STEP_CACHE = "step_cache.json"
"""Lies beside the weights where the step cache was measured: the curve of `step_cache`."""
_DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float16": np.float16}
_EXPONENTS = {np.dtype(ml_dtypes.bfloat16): 0x7F80, np.dtype(np.float16): 0x7C00}
"""The bits of a number of 16 bits that are all set in infinity and NaN alone."""
_PART = 1 << 20


class CheckpointError(ValueError):
    """Say in one line what is wrong with a checkpoint, and what would be right."""


@dataclasses.dataclass(frozen=True)
class Released:
    """Describe a model that ships with this package: its folder inside it, its config, and the commit that made it."""

    folder: str
    config: str
    commit: str
    description: str


RELEASED: dict[str, Released] = {
    "tiny": Released(
        folder="released/tiny",
        config="configs/motionv2v_tiny.py",
        commit="41b9da2",
        description="MotionV2V on synthetic scenes: VAE, text encoder, base and control branch trained by this project",
    ),
    "tiny_repair": Released(
        folder="released/tiny_repair",
        config="configs/motionv2v_draft_tiny.py",
        commit="8790e41",
        description="`tiny`, its branch trained further to repair the draft of an edit, in one step and one view",
    ),
    "motion_prompting_tiny": Released(
        folder="released/motion_prompting_tiny",
        config="configs/motion_prompting_tiny.py",
        commit="f34c771",
        description="Motion Prompting on `base_tiny`: a first frame moves along any tracks, of synthetic scenes",
    ),
    "revideo_tiny": Released(
        folder="released/revideo_tiny",
        config="configs/revideo_tiny_3.py",
        commit="a12f3f1",
        description="ReVideo on `base_tiny`: a region of a synthetic scene is made anew along trajectories",
    ),
    "base_tiny": Released(
        folder="released/base_tiny",
        config="configs/base_tiny_fine.py",
        commit="2ca1f25",
        description="text to video of synthetic scenes, with patches of one latent; it cannot edit by itself",
    ),
}


def latest_step(workdir: str | os.PathLike) -> int | None:
    """Find the newest complete checkpoint's step in a work dir, or None; folders half-written do not count."""
    folder = Path(workdir) / CHECKPOINTS
    names = [p.parent.name for p in folder.glob("*/_CHECKPOINT_METADATA")]
    return max((int(name) for name in names if name.isdigit()), default=None)


def load_workdir(workdir: str | os.PathLike, ema: bool = True) -> tuple[ConfigDict, PyTree]:
    """Load config and all parameters (fp32) of a training run's newest complete checkpoint; averaged ones with `ema`.

    CheckpointError lists what was found when the folder is not a work dir or has no complete checkpoint yet.
    """
    workdir = Path(workdir).resolve()
    step = latest_step(workdir)
    if step is None:
        raise CheckpointError(nothing_found(workdir))
    config = read_config(workdir)
    item = "ema" if ema else "trainable"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        # Named, because the manager cannot tell what kind of item one is that this process has not written.
        handlers = {item: ocp.StandardCheckpointHandler()}
        manager = stack.enter_context(ocp.CheckpointManager(workdir / CHECKPOINTS, item_handlers=handlers))
        # Onto one device, whatever mesh the run used.
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        stored = _stored_tree(manager, step, item, workdir / CHECKPOINTS / str(step))
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), stored)
        args = {item: ocp.args.StandardRestore(target)}
        trainable = restore_step(manager, step, args, workdir / CHECKPOINTS)[item]
    try:
        params = parameters.merge(jax.tree.map(np.asarray, trainable), load_frozen(workdir))
    except ValueError as error:
        raise CheckpointError(f"{workdir}: {FROZEN} and the checkpoints are of two runs: {one_line(error)}") from error
    check_finite(params, f"{workdir / CHECKPOINTS / str(step)}")
    return config, _to_float32(params)


def _stored_tree(manager: ocp.CheckpointManager, step: int, item: str, folder: Path) -> PyTree:
    """Read the shapes of what a checkpoint holds as `item`; CheckpointError where there is none that can be read."""
    tree = None
    # Asked of the folder, because versions of orbax answer differently for an item that is not there.
    if (folder / item).is_dir():
        try:
            tree = manager.item_metadata(step)[item].tree
        except Exception as error:  # orbax says in many ways that files are damaged
            raise CheckpointError(
                f"checkpoint {folder} cannot be read: {one_line(error) or type(error).__name__}"
            ) from error
    if not tree:
        found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "nothing"
        raise CheckpointError(f"checkpoint {folder} has no {item!r}, it holds {found}: copy it again, or remove it")
    return tree


def save_frozen(workdir: str | os.PathLike, frozen: PyTree) -> None:
    """Write the weights that do not train into a work dir, in their own number type, atomically."""
    with files.partial(Path(workdir) / FROZEN) as unfinished:
        _write_weights({path: np.asarray(leaf) for path, leaf in parameters.flatten(frozen).items()}, unfinished)


def load_frozen(workdir: str | os.PathLike) -> PyTree:
    """Read what `save_frozen` wrote; an empty tree if it wrote nothing."""
    path = Path(workdir) / FROZEN
    return _read_weights(path) if path.exists() else {}


def save_model(
    folder: str | os.PathLike,
    config: ConfigDict | dict,
    params: PyTree,
    dtype: str = "bfloat16",
    beside: dict[str, str | Path] | None = None,
    shares: str = "",
) -> Path:
    """Write a model folder and return it; floating-point leaves are stored as `dtype`, others as they are.

    The folder appears complete or not at all; one of that name is replaced. `beside` is what else belongs to the
    model, {name: a text to write, or the path of a file or folder to copy}. `shares` is the name of a released model:
    weights that are bit for bit the same there are left out. CheckpointError for an unknown `dtype`, one that a number
    is too large for, and a model to share with that is none, or has nothing in common.
    """
    if dtype not in _DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
    folder = Path(folder).resolve()
    flat = {path: np.asarray(leaf) for path, leaf in parameters.flatten(params).items()}
    flat = {path: _narrow(path, x, dtype) if _is_float(x) else x for path, x in flat.items()}
    count, shared = parameters.count(flat), _find_shared(flat, shares) if shares else None
    own = {path: x for path, x in flat.items() if not shared or not is_within(path, shared["parts"])}
    with files.partial_folder(folder) as unfinished:
        _write_weights(own, unfinished / WEIGHTS)
        weights = {"file": WEIGHTS, "sha256": files.sha256(unfinished / WEIGHTS)}
        weights |= {"dtype": dtype, "parameters": count} | ({"shares": shared} if shared else {})
        _write_json(unfinished / CONFIG, {"config": config_to_json(config), "weights": weights})
        for name, content in (beside or {}).items():
            if isinstance(content, str):
                files.write(unfinished / name, content)
            else:
                (shutil.copytree if content.is_dir() else shutil.copyfile)(content, unfinished / name)
    return folder


def load_model(
    name_or_folder: str | os.PathLike, expected: PyTree | None = None, as_stored: bool = False, ema: bool = True
) -> tuple[ConfigDict, PyTree]:
    """Load (config, params in numpy) of a released model by name, of a model folder, or of a training work dir.

    `expected`: a tree of anything with shapes (as jax.eval_shape gives) that the parameters must agree with.
    `as_stored` keeps the number type of a model folder's file, which for bfloat16 takes half the memory; else, and for
    work dirs always, floats become fp32. `ema`: the averaged weights of a work dir, or the raw ones.
    CheckpointError in one line: no such name or folder, bad json, weights missing, cut off, altered or not finite,
    other shapes.
    """
    folder = resolve(name_or_folder)
    if (folder / CHECKPOINTS).is_dir():
        config, params = load_workdir(folder, ema)
    else:
        found, flat = weight_files(folder), {}
        config = read_config(folder)
        for path, sha256, parts in found:
            if files.sha256(path) != sha256:
                raise CheckpointError(
                    f"{path} is not the file that {folder / CONFIG} describes (sha256 differs): copy it again"
                )
            read = _read_weights(path)
            check_finite(read, str(path))
            flat |= {name: x for name, x in parameters.flatten(read).items() if is_within(name, parts)}
        params = parameters.unflatten(flat)
        params = params if as_stored else _to_float32(params)
    if expected is not None:
        check_shapes(params, expected, str(name_or_folder))
    return config, params


class WeightFile(NamedTuple):
    """A file of weights that a model folder is read from: what it should be, and which parts of its tree are read."""

    path: Path
    sha256: str
    parts: tuple[str, ...]


EVERYTHING = ("",)


def weight_files(folder: Path) -> list[WeightFile]:
    """List the files that a model folder's weights lie in: its own, after that of the model it shares some with.

    CheckpointError for a folder that is none, or one whose files are not there.
    """
    weights = _read_json(folder / CONFIG).get("weights")
    if not isinstance(weights, dict) or "sha256" not in weights:
        raise CheckpointError(f"{folder / CONFIG} has no 'config' and 'weights' with a sha256: not a model folder")
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(nothing_found(folder))
    own, shares = WeightFile(folder / WEIGHTS, weights["sha256"], EVERYTHING), weights.get("shares")
    if shares is None:
        return [own]
    try:
        name, sha256, parts = (shares[key] for key in ("model", "sha256", "parts"))
        is_right = len(shares) == 3 and name in RELEASED and all(isinstance(part, str) for part in parts)
    except (LookupError, TypeError):
        is_right = False
    if not is_right:
        raise CheckpointError(
            f"{folder / CONFIG}: 'shares' should name a released model, its 'sha256' and 'parts' of its tree"
        )
    path = resolve(name) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(nothing_found(path.parent))
    return [WeightFile(path, sha256, tuple(parts)), own]


def _find_shared(flat: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """Find what a released model has in common with a tree, as config.json says it."""
    folder = ROOT / RELEASED[name].folder if name in RELEASED else None
    if folder is None:
        raise CheckpointError(f"shares is {name!r}, expected a released model: {', '.join(RELEASED)}")
    if len(found := weight_files(folder)) > 1:
        raise CheckpointError(f"{name} shares weights itself, with {found[0].path.parent.name}: name that one")
    parts = _equal_parts(parameters.unflatten(flat), _read_weights(found[0].path), "")
    if not parts:
        raise CheckpointError(f"{name} has no weights in common with this model, in this number type")
    return {"model": name, "sha256": found[0].sha256, "parts": parts}


def _equal_parts(a: PyTree, b: PyTree, at: str) -> list[str]:
    """Name the largest subtrees of two trees that are the same bit for bit, by their paths."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        is_equal = not isinstance(a, dict) and not isinstance(b, dict) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return [at] if is_equal and a.tobytes() == b.tobytes() else []
    inside = {key: f"{at}/{key}" if at else key for key in a}
    found = {key: _equal_parts(a[key], b[key], path) for key, path in inside.items() if key in b}
    if at and set(a) == set(b) and all(found[key] == [path] for key, path in inside.items()):
        return [at]
    return [path for paths in found.values() for path in paths]


def is_within(path: str, parts: Sequence[str]) -> bool:
    """Tell whether a parameter lies in one of the parts of a tree; "" is all of it."""
    return any(part in ("", path) or path.startswith(f"{part}/") for part in parts)


def stored_paths(name_or_folder: str | os.PathLike) -> set[str]:
    """List the parameters that `load_model` would load, "dit/blocks/qkv/kernel", without reading a weight.

    CheckpointError as there, but for weights that were altered.
    """
    folder = resolve(name_or_folder)
    paths: set[str] = set()
    if (folder / CHECKPOINTS).is_dir():
        step = latest_step(folder)
        if step is None:
            raise CheckpointError(nothing_found(folder))
        handlers, steps = {"trainable": ocp.StandardCheckpointHandler()}, (folder / CHECKPOINTS).resolve()
        with _quiet(), ocp.CheckpointManager(steps, item_handlers=handlers) as manager:
            paths |= set(parameters.flatten(_stored_tree(manager, step, "trainable", steps / str(step))))
        found = [(folder / FROZEN, EVERYTHING)] if (folder / FROZEN).exists() else []
    else:
        found = [(path, parts) for path, _, parts in weight_files(folder)]
    for path, parts in found:
        try:
            with safe_open(path, "numpy") as file:
                paths |= {name for name in file.keys() if is_within(name, parts)}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return paths


def resolve(name_or_folder: str | os.PathLike) -> Path:
    """Find the folder of a RELEASED name or of a path; a released name wins.

    CheckpointError lists the released names when there is no such folder.
    """
    name = str(name_or_folder)
    folder = ROOT / RELEASED[name].folder if name in RELEASED else Path(name)
    if not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint {name!r}: expected a folder with {CONFIG} and {WEIGHTS}, a training work dir,"
            f" or a released name ({', '.join(RELEASED)})"
        )
    return folder


def check_shapes(params: PyTree, expected: PyTree, where: str) -> None:
    """Raise a CheckpointError naming the first parameters that are missing, superfluous or of another shape or kind."""
    got, want = parameters.flatten(params), parameters.flatten(expected)
    wrong = [f"{p} is missing {list(want[p].shape)}" for p in want if p not in got]
    wrong += [f"{p} {list(got[p].shape)} is not part of the model" for p in got if p not in want]
    wrong += [
        f"{p} holds numbers of type {got[p].dtype}, expected floating point"
        for p in want
        if p in got and _is_float(want[p]) and not _is_float(got[p])
    ]
    wrong += [
        f"{p} is {list(got[p].shape)}, expected {list(want[p].shape)}"
        for p in want
        if p in got and tuple(got[p].shape) != tuple(want[p].shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 4} more)" if len(wrong) > 4 else ""
        raise CheckpointError(f"{where} holds another model: {'; '.join(wrong[:4])}{more}")


def check_finite(params: PyTree, where: str) -> None:
    """Raise a CheckpointError naming the first parameters that hold NaN or infinity: a model of those draws black."""
    counts = {path: count_not_finite(np.asarray(leaf)) for path, leaf in parameters.flatten(params).items()}
    wrong = [f"{count:,} numbers of {path}" for path, count in counts.items() if count]
    if wrong:
        more = f" (and of {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{where} holds weights that are not finite: {', '.join(wrong[:3])}{more}; copy it again, or take an "
            "earlier checkpoint or a wider number type"
        )


def count_not_finite(x: np.ndarray) -> int:
    """Count the NaNs and infinities of an array, a part at a time, which needs no second array of its size.

    In a type of 16 bits by the exponent's bits: numpy's isfinite takes 8 times as long for bfloat16.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    bits = _EXPONENTS.get(flat.dtype)
    if bits is None and not _is_float(flat):
        return 0
    parts = (flat[start : start + _PART] for start in range(0, flat.size, _PART))
    if bits is None:
        return sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
    return sum(int(np.count_nonzero((part.view(np.uint16) & bits) == bits)) for part in parts)


def config_to_json(config: ConfigDict | dict) -> dict:
    """Turn a config into plain json types (tuples become lists); CheckpointError where json cannot hold a value."""
    try:
        return json.loads(config.to_json() if isinstance(config, ConfigDict) else json.dumps(config))
    except TypeError as error:
        raise CheckpointError(f"the config holds something that json cannot: {error}") from error


def write_config(workdir: str | os.PathLike, config: ConfigDict | dict) -> None:
    """Write a work dir's config.json, atomically; the folder is made if there is none."""
    Path(workdir).mkdir(parents=True, exist_ok=True)
    _write_json(Path(workdir) / CONFIG, {"config": config_to_json(config)})


def read_config(folder: str | os.PathLike) -> ConfigDict:
    """Read the config of a work dir or model folder, with the defaults of what it leaves out (`sections.complete`).

    CheckpointError for a field that is unknown or holds what it cannot.
    """
    path = Path(folder) / CONFIG
    config = _read_json(path).get("config")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} has no 'config'")
    try:
        return sections.complete(config, str(path))
    except schema.SchemaError as error:
        raise CheckpointError(str(error)) from error


def restore_step(manager: ocp.CheckpointManager, step: int, args: dict[str, Any], folder: Path) -> Any:
    """Restore items of a checkpoint with orbax; whatever goes wrong inside becomes one line, a CheckpointError."""
    try:
        return manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:
        where = folder / str(step)
        raise CheckpointError(f"checkpoint {where} cannot be restored into this model: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Write an error's message without line breaks, and not too long."""
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's notices and its warnings of items left aside off the terminal, unless --verbosity asks for some."""
    level = logging.get_verbosity()
    is_asked = flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present
    if not is_asked:
        logging.set_verbosity(min(level, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _narrow(path: str, x: np.ndarray, dtype: str) -> np.ndarray:
    """Change the number type of a parameter that has room in it."""
    with np.errstate(over="ignore"):
        narrow = x.astype(_DTYPES[dtype])
    if dtype != "float32" and count_not_finite(narrow) > count_not_finite(x):
        raise CheckpointError(f"{path} has numbers too large for {dtype}; store as float32")
    return narrow


def _write_weights(flat: dict[str, np.ndarray], path: Path) -> None:
    save_file({name: np.ascontiguousarray(x) for name, x in flat.items()}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner can read


def _read_weights(path: Path) -> PyTree:
    try:
        return parameters.unflatten(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {one_line(error)}") from error
    except (LookupError, TypeError, ValueError) as error:  # a number type that numpy lacks, or "a" beside "a/b"
        raise CheckpointError(f"{path} holds what is no tree of parameters: {one_line(error)}") from error


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise CheckpointError(nothing_found(path.parent))
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not json: {one_line(error)}") from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds a {type(read).__name__}, expected an object")
    return read


def _write_json(path: Path, value: dict) -> None:
    files.write(path, json.dumps(value, indent=1) + "\n")


def nothing_found(folder: Path) -> str:
    """Say that a folder holds no checkpoint, and what it holds."""
    found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else None
    listing = "does not exist" if found is None else f"holds {', '.join(found) or 'nothing'}"
    return (
        f"no checkpoint in {folder}: it {listing}; expected {CONFIG} and {WEIGHTS} (a model folder),"
        f" or {CONFIG} and {CHECKPOINTS}/<step> (a training work dir with a complete checkpoint)"
    )


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _to_float32(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.asarray(x, np.float32) if _is_float(x) else np.asarray(x), tree)
