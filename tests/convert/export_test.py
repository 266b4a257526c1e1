"""Exported folders: what `editing.load` reads back, and programs that run where this package is not imported."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from launching import launch
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, convert, editing, files, sampling
from motionv2v.convert import export
from motionv2v.devices import memory
from motionv2v.editing import refine

CALL = """
import json, pathlib, sys
import jax, jax.export, numpy as np
from safetensors.numpy import load_file

folder, inputs = pathlib.Path(sys.argv[1]), np.load(sys.argv[2])
manifest = json.loads((folder / "manifest.json").read_text())
weights = load_file(folder / "weights.safetensors")

def call(name, *args):
    exported = jax.export.deserialize((folder / f"{name}.jaxexport").read_bytes())
    return exported.call({n: weights[n] for n in manifest["functions"][name]["weights"]}, *args)
"""
RUN = (
    CALL
    + """
latents = call("encode", inputs["video"])
text = call("text", inputs["tokens"])
streams = {name: latents for name in manifest["functions"]["denoise"]["arguments"][3]}
v = call("denoise", inputs["xt"], inputs["timestep"], text, streams)
video = call("decode", v)
assert not any(name.split(".")[0] == "motionv2v" for name in sys.modules)
np.savez(sys.argv[3], latents=latents, text=text, v=v, video=video)
"""
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small random control model, saved as a model folder."""
    return tiny_model.save(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def programs(saved):
    return export.stablehlo(saved, saved.parent / "programs", dtype="float32", say=lambda line: None)


def jitted(function, model):
    return jax.jit(functools.partial(function, model))


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_programs_run_without_the_package(saved, programs, batch, tmp_path):
    """One process lowered them, another, which knows only jax, gets the numbers of the package for any batch."""
    config, params = checkpoints.load_model(saved)
    model = backbone.build(config)
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (batch, *backbone.clip_shape(model))).astype(np.float32)
    tokens = rng.integers(0, 250, (batch, tiny_model.LENGTH)).astype(np.int32)
    latents = jitted(backbone.encode, model)(params, video)
    xt, timestep = rng.normal(size=latents.shape).astype(np.float32), np.arange(batch, dtype=np.int32) * 300 + 20
    np.savez(tmp_path / "in.npz", video=video, tokens=tokens, xt=xt, timestep=timestep)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, script, programs, tmp_path / "in.npz", tmp_path / "out.npz"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    out = np.load(tmp_path / "out.npz")
    text = jitted(backbone.embed_text, model)(params, tokens)
    streams = {"videos": dict.fromkeys(backbone.condition_shapes(model)["videos"], latents)}
    v = jitted(backbone.denoise, model)(params, xt, timestep, text, streams)
    expected = {"latents": latents, "text": text, "v": v, "video": jitted(backbone.decode, model)(params, v)}
    for name, value in expected.items():
        # Compiled in another process with other fusions: float32's rounding through a few layers.
        np.testing.assert_allclose(out[name], value, rtol=0, atol=2e-5 * float(jnp.abs(value).max()), err_msg=name)


HELD = (
    CALL
    + """
reference, text, null = call("encode", inputs["video"]), call("text", inputs["tokens"]), call("text", inputs["null"])
plan, start, batch = manifest["refine"], int(inputs["start"]), len(text)
levels = np.asarray(plan["levels"], np.float32)
x = levels[start, 0] * reference + levels[start, 1] * inputs["noise"]
given = []
if "image" in manifest["functions"]:
    first, there = call("image", inputs["video"][:, :1]), np.zeros((batch, reference.shape[1], 1, 1, 1), np.float32)
    there[:, 0] = 1
    given = [{"first_latents": first, "last_latents": np.zeros_like(first), "given_map": there}]
for timestep, level in list(zip(plan["timesteps"], levels))[start:]:
    times, rows = np.full(batch, timestep, np.int32), np.repeat(level[None], batch, 0)
    x = call("refine", x, times, text, null, reference, inputs["noise"], inputs["clock"], rows, *given)
assert not any(name.split(".")[0] == "motionv2v" for name in sys.modules)
np.savez(sys.argv[3], x=x)
"""
)


@pytest.mark.parametrize("in_channels", [16, 32])
def test_a_draft_is_refined_without_the_package(in_channels, tmp_path):
    """A base's `refine` program, called step by step by a process that knows only jax, makes the package's sample."""
    config = tiny_model.config("base")
    config.dit.in_channels = in_channels
    config.sample.num_steps = 5
    params = tiny_model.random_params(memory.parameter_shapes(config))
    saved = checkpoints.save_model(tmp_path / "base", config, params, "float32")
    folder = export.stablehlo(saved, tmp_path / "out", platforms=["cpu"], dtype="float32", say=lambda line: None)
    refiner = refine.load(saved, say=lambda line: None)
    settings, rng = refiner.settings(), np.random.default_rng(0)
    assert settings.guidance.kind == "constant" and settings.num_steps == 5
    video = rng.integers(0, 256, (2, *backbone.clip_shape(refiner.model))).astype(np.float32) / 127.5 - 1
    tokens, null = (
        refiner.tokenizer.encode(["a", "b"]),
        refiner.tokenizer.encode([refiner.config.sample.negative_prompt] * 2),
    )
    reference = jitted(backbone.encode, refiner.model)(refiner.params, video)
    noise = rng.normal(size=reference.shape).astype(np.float32)
    clock = rng.choice([0, 0.4, 0.98], (*reference.shape[:-1], 1)).astype(np.float32)
    given = {"video": video, "tokens": tokens, "null": null, "noise": noise, "clock": clock, "start": 1}
    np.savez(tmp_path / "in.npz", **given)
    (tmp_path / "run.py").write_text(HELD)
    command = [sys.executable, tmp_path / "run.py", folder, tmp_path / "in.npz", tmp_path / "out.npz"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    texts = (jitted(backbone.embed_text, refiner.model)(refiner.params, t) for t in (tokens, null))
    frames = jnp.asarray(np.round((video + 1) * 127.5), jnp.uint8)
    given, conditions = {"target": frames, "has_last": jnp.zeros(2, bool)}, None
    if refiner.reads_image:
        conditions = refiner._start(refiner.params, jax.random.key(0), given, 2, video.shape[1:4], True)[2]
    functions = refiner.denoisers(refiner.params, *texts, conditions, refiner.reads_image)
    hold = sampling.Hold(reference, clock, 1)
    made = sampling.sample(jax.random.key(0), functions[0], noise, refiner.model.schedule, settings, functions[1], hold)
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["x"], made, rtol=0, atol=1e-4 * float(np.abs(made).max()))


def test_manifest_says_what_is_there(saved, programs):
    manifest = json.loads((programs / "manifest.json").read_text())
    assert set(manifest["functions"]) == {"encode", "text", "denoise", "decode"}
    for name, function in manifest["functions"].items():
        assert function["platforms"] == ["cpu", "cuda", "tpu"]
        assert function["batch"] == "b", f"{name} lost its symbolic batch"
    alphas = np.asarray(manifest["alphas_cumprod"])
    assert alphas.shape == (1000,) and alphas[-1] == 0 and (np.diff(alphas) < 0).all()
    _, params = checkpoints.load_model(saved)
    used = {name for function in manifest["functions"].values() for name in function["weights"]}
    assert used == set(export.parameters.flatten(params)), "every weight belongs to a program"
    for file, digest in manifest["sha256"].items():
        assert files.sha256(programs / file) == digest


def test_autoencoder_alone_exports(tmp_path):
    config = tiny_model.config("vae")
    params = tiny_model.random_params(memory.parameter_shapes(config))
    beside = {"spiece.model": "words", export.NOTE: "mine\n"}
    saved = checkpoints.save_model(tmp_path / "vae", config, params, beside=beside)
    folder = export.stablehlo(saved, tmp_path / "out", platforms=["cpu"], say=lambda line: None)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["functions"]) == {"encode", "decode"}
    for name, content in beside.items():
        assert (folder / name).read_text() == content and name in manifest["sha256"]


def test_model_folder_loads_and_has_a_note(saved, tmp_path):
    folder = export.model_folder(saved, tmp_path / "out", dtype="bfloat16", note="for tests\n")
    assert (folder / export.NOTE).read_text() == "for tests\n"
    editor = editing.load(str(folder))
    _, params = checkpoints.load_model(saved)
    for ours, theirs in zip(jax.tree.leaves(editor.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(jnp.bfloat16).astype(np.float32))


def test_what_lies_beside_the_weights_comes_along(saved, tmp_path):
    """Vocabulary, curve of the step cache, diffusers' small files and the licence note belong to the model."""
    source = shutil.copytree(saved, tmp_path / "source")
    beside = {"spiece.model": b"\x00words", "step_cache.json": b"{}", "LICENCE_NOTE.txt": b"mine\n"}
    beside["diffusers/vae/config.json"] = b"{}"
    for name, content in beside.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    folder = export.model_folder(source, tmp_path / "out")
    for name, content in beside.items():
        assert (folder / name).read_bytes() == content, name
    other = export.model_folder(source, tmp_path / "other", note="theirs\n")
    assert (other / export.NOTE).read_text() == "theirs\n"


def test_an_exported_model_keeps_its_step_cache(tmp_path):
    folder = export.model_folder("tiny", tmp_path / "out")
    kept = checkpoints.resolve("tiny") / "step_cache.json"
    assert (folder / "step_cache.json").read_bytes() == kept.read_bytes()


def test_a_curve_of_averaged_weights_does_not_go_with_raw_ones(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_cache.json").write_text("{}")
    monkeypatch.setattr(export, "_load", lambda *_: (ConfigDict({"name": "x"}), {"w": np.ones(2, np.float32)}))
    lines = []
    folder = export.model_folder(tmp_path / "run", tmp_path / "raw", ema=False, say=lines.append)
    assert not (folder / "step_cache.json").exists()
    assert lines == ["step_cache.json was measured on the averaged weights and is left out; measure the raw ones again"]


def test_diffusers_folder_holds_the_base(saved, tmp_path):
    """A side-wired branch has no form there; the base alone converts back to the weights it came from."""
    quiet = {"dtype": "float32", "say": lambda line: None}
    with pytest.raises(convert.ConvertError, match="drop_control writes the base alone"):
        export.diffusers_folder(saved, tmp_path / "out", **quiet)
    folder = export.diffusers_folder(saved, tmp_path / "out", drop_control=True, **quiet)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "CogVideoXPipeline"
    _, back = convert.from_diffusers(folder / "transformer")
    _, params = checkpoints.load_model(saved)
    base = {name: value for name, value in params["dit"].items() if name != "control"}
    jax.tree.map(np.testing.assert_array_equal, back, base)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platforms": ["metal"]}, "unknown platforms.*metal.*cpu, cuda, tpu"),
        ({"dtype": "int8"}, "dtype is 'int8'; available: bfloat16, float32"),
        ({"ema": False}, "raw weights are in training work dirs"),
    ],
)
def test_bad_settings_leave_nothing(saved, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export.stablehlo(saved, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_launcher_says_what_is_wrong(tmp_path):
    result = launch("export", "--checkpoint=nowhere", f"--out={tmp_path / 'out'}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("export: no checkpoint 'nowhere': expected a folder")
    assert list(tmp_path.iterdir()) == []
