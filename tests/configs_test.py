"""Every experiment in configs/ builds, and its parameters have shapes; the 5B one has the published counts."""

import functools
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from motionv2v import backbone, checkpoints, parameters, sections
from motionv2v.devices import memory
from motionv2v.models.dit import base_params
from motionv2v.training import dataset, loop, tasks

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("common", "__init__"))


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def test_there_are_configs():
    assert {"vae_tiny", "base_tiny", "motionv2v_tiny", "motionv2v_cogvideox_5b"} <= set(NAMES)


@functools.cache
def build(name):
    """Build a config's model and the shapes of its parameters: (config, model, shapes)."""
    config = load(name)
    return config, backbone.build(config), memory.parameter_shapes(config)


each_config = pytest.mark.parametrize("name", NAMES)


@each_config
def test_config_builds_and_its_shapes_are_known(name):
    config, _, shapes = build(name)
    assert config.name == name
    loop.check_config(config)
    assert tasks.make(config).trainable == config.optim.schedule
    assert dataset.scene_config(config).num_frames == config.data.num_frames
    # Shapes alone: 13 billion numbers would be more than fits into memory.
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


@each_config
def test_schedule_covers_every_parameter(name):
    """Each stage trains its own part and nothing else; a pattern that decides nothing is an error in `partition`."""
    config, _, shapes = build(name)
    trainable, _ = parameters.partition(shapes, config.optim.schedule)
    branch = {"dit", "conditioner"}
    parts = {"vae": {"vae"}, "base": {"text", "dit"}, "interpolation": {"dit"}, "motion_inversion": {"conditioner"}}
    parts |= dict.fromkeys(("motionv2v", "motion_prompting", "revideo"), branch) | {"diffusion_as_shader": {"dit"}}
    parts = {"base_tiny_factorised": {"dit"}} | parts  # on a text encoder that is trained
    stage = next(stage for stage in parts if f"{name}_".startswith(f"{stage}_"))
    assert set(trainable) == parts[stage]
    if parts[stage] == branch:
        is_last = name.startswith("revideo") and name.endswith("_3")
        assert set(trainable["dit"]) == ({"lora", "lora_branch"} if is_last else {"control"})


@each_config
def test_config_survives_json(name, tmp_path):
    """A checkpoint carries its config as json and is rebuilt from it."""
    config, model, _ = build(name)
    checkpoints.write_config(tmp_path, config)
    rebuilt = backbone.build(checkpoints.read_config(tmp_path))
    assert rebuilt.vae == model.vae and rebuilt.text == model.text and rebuilt.denoiser == model.denoiser


def test_5b_has_the_published_parameter_counts():
    """CogVideoX-5B as released, and the branch of MotionV2V: 18 blocks, 19 zero layers, 48 input channels."""
    config, _, shapes = build("motionv2v_cogvideox_5b")
    assert parameters.count(base_params(shapes["dit"])) == 5_570_283_072
    trainable, frozen = parameters.partition(shapes, config.optim.schedule)
    assert parameters.count(trainable) == pytest.approx(2_559.5e6, abs=0.05e6)
    # The released autoencoder and T5-XXL encoder.
    assert parameters.count(shapes["text"]) == pytest.approx(4.762e9, rel=1e-3)
    assert parameters.count(shapes["vae"]) == pytest.approx(215.6e6, rel=1e-2)
    assert parameters.count(frozen) == parameters.count(shapes) - parameters.count(trainable)


@pytest.mark.parametrize("name", ["motion_prompting_cogvideox_5b", "motion_prompting_cogvideox_5b_i2v"])
def test_motion_prompting_at_full_size_trains_as_the_paper_says(name):
    """Codes of 64 numbers, 1,000 to 2,000 tracks of a clip, Adafactor at 1e-4 that never falls."""
    config = sections.complete(load(name))
    assert (config.method.codes, config.method.channels) == ("identity", 64)
    assert (config.data.scene.min_points, config.data.num_points) == (1000, 2000)
    assert not config.data.scene.get("log_points"), "drawn evenly"
    rates = [dict(rate) for _, rate in config.optim.schedule if rate is not None]
    assert config.optim.name == "adafactor" and rates == [{"peak": 1e-4, "warmup": 500}]
    assert sections.RATE["decay"].default == "constant"


def test_5b_runs_on_shapes():
    """One step of denoising at 49x480x720 goes through: 17,550 video and 226 text tokens."""
    _, model, params = build("motionv2v_cogvideox_5b")
    latents = jax.ShapeDtypeStruct((1, 13, 60, 90, 16), np.float32)
    text = jax.ShapeDtypeStruct((1, 226, 4096), np.float32)
    conditions = {"videos": dict.fromkeys(backbone.condition_shapes(model)["videos"], latents)}
    timestep = jax.ShapeDtypeStruct((1,), np.int32)
    out = jax.eval_shape(
        lambda p, *given: backbone.denoise(model, p, *given), params, latents, timestep, text, conditions
    )
    assert out.shape == latents.shape
