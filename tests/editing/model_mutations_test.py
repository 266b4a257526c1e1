"""Model folders and work dirs with something wrong in them: a model, or one line, and nothing half-written.

Every seed draws one change. A few seeds run always, all of them with `-m slow`.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from safetensors.numpy import load_file, save_file

from motionv2v import backbone, checkpoints, cli, parameters, sampling
from motionv2v.convert import checked, export
from motionv2v.editing import opening
from motionv2v.files import sha256
from motionv2v.models import time_tables
from motionv2v.training.saver import RunCheckpoints

QUICK, ALL = 16, 100
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 7.5, 1e-300, 1e30, math.nan, -math.inf, 2**40, 10**400, "", "x", "ddim", [], [0], [8, 8],
    ["a", None], {}, {"name": 1}, [[[[[]]]]], "\u0000\ud7ff",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A sound model folder and a sound work dir of the same weights."""
    root = tmp_path_factory.mktemp("sound")
    folder = tiny_model.save(root / "folder")
    config, params = checkpoints.load_model(folder)
    trainable, frozen = parameters.partition(params, config.optim.schedule)
    saver = RunCheckpoints(root / "run")
    saver.save(3, trainable, trainable, {"count": jnp.zeros(1)}, {})
    saver.close()
    checkpoints.write_config(root / "run", config)
    checkpoints.save_frozen(root / "run", frozen)
    return {"folder": folder, "run": root / "run"}


# --- changes ---------------------------------------------------------------------------------------------------------


def leaves(value, path=()):
    """List the paths of all fields of a config, sections too."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += leaves(inner, (*path, name))
    return found


def change_config(rng, folder):
    """Change, drop or add one field, or a section as a whole."""
    path = folder / checkpoints.CONFIG
    read = json.loads(path.read_text())
    paths = leaves(read["config"])
    *way, last = paths[rng.integers(len(paths))]
    inner = read["config"]
    for name in way:
        inner = inner[name]
    value = STRANGE[rng.integers(len(STRANGE))]
    what = rng.choice(["replace", "drop", "add"], p=[0.7, 0.15, 0.15])
    if what == "replace":
        inner[last] = value
    elif what == "drop":
        del inner[last]
    else:
        inner[f"{last}s"] = value
    path.write_text(json.dumps(read))
    return f"{what} {'.'.join([*way, last])}: {value!r}"


def break_json(rng, folder):
    """Cut the config off, nest it deep, or write bytes that are no text."""
    path = folder / checkpoints.CONFIG
    text = path.read_bytes()
    broken = [text[: rng.integers(len(text))], b"[" * 100_000 + b"]" * 100_000, b"\xff\xfe" + text, b"", b"null", b"{}"]
    deep = json.loads(text)
    deep["config"]["task"] = {"deep": json.loads("[" * 400 + "]" * 400)}
    broken.append(json.dumps(deep).encode())
    chosen = rng.integers(len(broken))
    path.write_bytes(broken[chosen])
    return f"json {chosen}"


def weights_of(folder):
    return folder / (checkpoints.WEIGHTS if (folder / checkpoints.WEIGHTS).exists() else checkpoints.FROZEN)


def sign(folder):
    """Write down the checksum of changed weights, so that it is not what stops them."""
    path, config = weights_of(folder), folder / checkpoints.CONFIG
    read = json.loads(config.read_text())
    if "weights" in read:
        read["weights"]["sha256"] = sha256(path)
        config.write_text(json.dumps(read))


def change_bytes(rng, folder):
    """Cut a file of weights off, or turn one bit of it, with and without the checksum of what is there."""
    path = weights_of(folder)
    content = bytearray(path.read_bytes())
    place = int(rng.integers(min(len(content), 3000)) if rng.random() < 0.5 else rng.integers(len(content)))
    if rng.random() < 0.4:
        content = content[:place]
    else:
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    if rng.random() < 0.7:
        sign(folder)
    return f"bytes at {place}, now {len(content)}"


def change_tensors(rng, folder):
    """Drop, rename, reshape or recast a tensor, drop a whole network, or put NaN into one."""
    path = weights_of(folder)
    tensors = load_file(path)
    name = list(tensors)[rng.integers(len(tensors))]
    what = rng.choice(["drop", "rename", "reshape", "int", "bool", "double", "nan", "inf", "network", "inside", "none"])
    x = tensors[name]
    if what == "drop":
        del tensors[name]
    elif what == "rename":
        tensors[name + "s"] = tensors.pop(name)
    elif what == "reshape":
        tensors[name] = x.reshape(-1, 1)
    elif what in ("int", "bool", "double"):
        tensors[name] = x.astype({"int": np.int32, "bool": bool, "double": np.float64}[what])
    elif what in ("nan", "inf"):
        tensors[name] = np.full_like(x, float(what))
    elif what == "network":
        tensors = {key: value for key, value in tensors.items() if key.split("/")[0] != name.split("/")[0]}
    elif what == "inside":
        tensors[name + "/inside"] = x
    else:
        tensors = {}
    save_file(tensors, path)
    sign(folder)
    return f"{what} {name}"


def change_files(rng, folder):
    """Remove a file or folder, empty a file, or put a folder in its place."""
    found = sorted(folder.rglob("*"))
    path = found[rng.integers(len(found))]
    what = rng.choice(["remove", "empty", "folder"])
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if what == "empty":
        path.touch()
    elif what == "folder":
        path.mkdir()
    return f"{what} {path.relative_to(folder)}"


CHANGES = (change_config, change_config, change_config, break_json, change_bytes, change_tensors, change_files)


# --- what comes of it ------------------------------------------------------------------------------------------------


def trace(editor):
    """Go through an edit on shapes alone, nothing compiled: what a sound model does without a word."""
    model, config = editor.model, editor.config
    shape = (1, *backbone.clip_shape(model))
    read = backbone.sample_shapes(model, num_points=4)
    batch = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in read.items()}
    settings = sampling.from_config(config.sample)

    def edit(params, key, batch, tokens):
        text = backbone.embed_text(model, params, tokens)
        tables = backbone.tabulate(model, time_tables.split(params["dit"])[0], settings)
        options = {"settings": settings, "use_control": model.method is not None, "shape": shape[1:4], "skip": 0}
        return editor._sample_fn(backbone.sampling_params(params, tables), key, batch, text, text, **options)

    tokens = jax.ShapeDtypeStruct((1, config.data.text_length), np.int32)
    made, _ = jax.eval_shape(edit, editor.params, jax.random.key(0), batch, tokens)
    assert made.shape == shape and made.dtype == np.uint8


def outcome(work, told):
    """Return what `work` makes and None, or None and the line that is told instead; anything else fails the test."""
    try:
        return work(), None
    except cli.expected() as error:
        line = cli.line(error)
        assert line and "\n" not in line and len(line) < 1000, told
        return None, line


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < QUICK else pytest.mark.slow) for seed in range(ALL)]
)
def test_a_changed_model_is_a_model_or_one_line(models, tmp_path, seed):
    rng = np.random.default_rng([seed, 15])
    kind = "run" if rng.random() < 0.3 else "folder"
    folder = tmp_path / "model"
    shutil.copytree(models[kind], folder)
    told = f"{kind}: {CHANGES[rng.integers(len(CHANGES))](rng, folder)}"
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    editor, line = outcome(lambda: opening.load(str(folder), say=lambda text: None), told)
    if editor is not None:
        trace(editor)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before, told
    made, refusal = outcome(lambda: export.model_folder(folder, tmp_path / "out", say=lambda text: None), told)
    if made is None:
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before, told
    if line is not None and "would fit" not in line:  # a model that this machine has no room for can be exported
        assert refusal is not None, f"{told}: exported, though it does not load: {line}"


def test_sound_models_load(models, tmp_path):
    for kind, folder in models.items():
        editor, line = outcome(lambda folder=folder: opening.load(str(folder), say=lambda text: None), kind)
        assert line is None
        trace(editor)
        assert Path(export.model_folder(folder, tmp_path / kind, say=lambda text: None)).is_dir()


@pytest.mark.parametrize("item", ["ema", "trainable"])
def test_a_run_without_its_weights_says_what_there_is(models, tmp_path, item):
    shutil.copytree(models["run"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / checkpoints.CHECKPOINTS / "3" / item)
    with pytest.raises(checkpoints.CheckpointError, match=f"checkpoints/3 has no '{item}', it holds "):
        checked.read(tmp_path / "run", ema=item == "ema")


def test_a_run_without_what_it_trained_says_so_before_a_weight_is_read(models, tmp_path):
    shutil.copytree(models["run"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / checkpoints.CHECKPOINTS / "3" / "trainable")
    with pytest.raises(checkpoints.CheckpointError, match="checkpoints/3 has no 'trainable', it holds ema"):
        checkpoints.stored_paths(tmp_path / "run")


def test_weights_without_a_network_are_one_line(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models["folder"], folder)
    tensors = load_file(folder / checkpoints.WEIGHTS)
    save_file({name: x for name, x in tensors.items() if not name.startswith("dit/")}, folder / checkpoints.WEIGHTS)
    sign(folder)
    for load in (opening.load, lambda path: export.model_folder(path, tmp_path / "out")):
        with pytest.raises(checkpoints.CheckpointError, match=r"holds another model: dit/\S+ is missing .+ more\)"):
            load(str(folder))
