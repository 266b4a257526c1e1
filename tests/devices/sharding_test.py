"""Meshes, layouts of parameters and activations; and, in a process with 8 devices, that they change no result."""

import functools
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharding_process
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from ml_collections import ConfigDict

from configs import motionv2v_cogvideox_5b
from motionv2v import checkpoints, parameters
from motionv2v.devices import memory, sharding
from motionv2v.models import activations
from motionv2v.training import loop
from motionv2v.training.optimizer import make_optimizer


def abstract(**sizes):
    sizes = tuple(sizes.get(axis, 1) for axis in activations.AXES)
    return AbstractMesh(sizes, activations.AXES, axis_types=(AxisType.Auto,) * 4)


def devices(count, slices=None, processes=1):
    """Stand-ins for devices: what arranging them looks at."""
    made = []
    for i in range(count):
        device = SimpleNamespace(id=i, platform="cpu", device_kind="cpu", process_index=i * processes // count)
        if slices:
            device.slice_index = i * slices // count
        made.append(device)
    return made


# --- meshes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        ({"data": 3, "fsdp": 2}, 8, "mesh data 3 x fsdp 2 needs 6 devices; there are 8; e.g. data 4 x fsdp 2"),
        ({"data": -1, "tensor": 3}, 8, "data -1 x tensor 3 needs a multiple of 3 devices; there are 8; e.g. data 8"),
        ({"context": 16}, 8, "context 16 needs 16 devices; there are 8; e.g. context 8"),
        ({"model": 8}, 8, "expected a positive size for each of data, fsdp, context, tensor, or -1 for one"),
        ({"data": -1, "fsdp": -1}, 8, "or -1 for one of them"),
        ({"data": 0}, 8, "expected a positive size"),
    ],
)
def test_impossible_meshes_say_what_would_fit(sizes, count, message):
    with pytest.raises(ValueError) as error:
        sharding.make_mesh(sizes, devices=devices(count))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_one_axis_takes_what_the_others_leave():
    assert sharding.arrange({"fsdp": -1, "tensor": 2}, None, devices(8)).shape == (1, 4, 1, 2)
    assert sharding.arrange({"data": -1}, None, devices(1)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ({"data": 1, "fsdp": -1}, 32, {"data": 1, "fsdp": -1}),
        ({"data": 1, "fsdp": -1, "context": 1, "tensor": 1}, 128, {"fsdp": 32, "context": 4}),
        ({"data": -1, "fsdp": 8}, 128, {"data": 4, "fsdp": 8, "context": 4}),
        ({"data": -1, "fsdp": 8, "context": 2}, 128, {"data": -1, "fsdp": 8, "context": 2}),  # as a person wants it
        ({"data": -1}, 32 * 5, {"data": -1}),  # 48 heads do not divide by 5
    ],
)
def test_devices_that_a_batch_is_too_small_for_share_its_clips(sizes, count, expected):
    """32 samples, the 5B config."""
    config = motionv2v_cogvideox_5b.get_config()
    got = sharding.training_sizes(config, sizes, count)
    assert {axis: size for axis, size in got.items() if size != 1 or axis in expected} == expected


def test_slices_are_joined_along_the_axis_that_spans_them():
    """On every axis the outer part of the index is the slice, so that fast links join the inner one."""
    for slices, processes in ((2, 1), (None, 2)):
        given = devices(8, slices, processes)
        grid = sharding.arrange({"fsdp": 2, "tensor": 2}, {"data": 2}, given)
        assert grid.shape == (2, 2, 1, 2)
        assert [{device.id // 4 for device in half.flat} for half in grid] == [{0}, {1}]
    assert sharding.arrange({"fsdp": -1}, None, devices(8, 2)).shape == (2, 4, 1, 1)
    machines = devices(8, 2)
    for device in machines:
        device.platform = "gpu"
    assert sharding.arrange({"fsdp": -1}, None, machines).shape == (1, 8, 1, 1), "machines of GPUs are no slices"
    with pytest.raises(ValueError, match=r"data 3 needs 3 slices; there are 2; e.g. data 2"):
        sharding.arrange({"fsdp": 4}, {"data": 3}, devices(8, 2))


def test_heads_and_batches_that_do_not_divide_are_named():
    cfg = ConfigDict({"dit": {"num_heads": 6}, "train": {"batch_size": 12, "accumulate": 1}})
    with pytest.raises(ValueError, match=r"num_heads=6 .* context 4 x tensor 1 = 4, .* possible: 1, 2, 3, 6"):
        sharding.check(abstract(data=2, context=4), cfg)
    with pytest.raises(ValueError, match=r"batch_size=12 .* data 4 x fsdp 2 x train.accumulate 1 = 8; e.g. 8"):
        sharding.check(abstract(data=4, fsdp=2), cfg)
    sharding.check(abstract(data=4, fsdp=2), cfg, is_training=False)
    sharding.check(abstract(data=2, context=3), cfg)


def test_processes_that_hold_the_same_rows_read_the_same_samples(monkeypatch):
    def share(process, processes, **sizes):
        grid = np.array(devices(8, None, processes)).reshape([sizes.get(axis, 1) for axis in activations.AXES])
        mesh = SimpleNamespace(devices=grid, shape={axis: sizes.get(axis, 1) for axis in activations.AXES})
        monkeypatch.setattr(jax, "process_index", lambda: process)
        return sharding.host_share(mesh)

    assert [share(p, 4, data=4, fsdp=2) for p in range(4)] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [share(p, 4, data=2, context=4) for p in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert share(1, 2, tensor=8) == (0, 1)
    with pytest.raises(ValueError, match="unevenly over 3 processes"):
        share(0, 3, data=4, context=2)


def test_one_device_needs_no_mesh():
    assert sharding.from_config(ConfigDict({"mesh": {"data": 1, "fsdp": -1}})) is None
    assert sharding.from_config(ConfigDict({})) is None
    with pytest.raises(ValueError, match=r"mesh fsdp 2 needs 2 devices; there are 1; e\.g\. data 1"):
        sharding.from_config(ConfigDict({"mesh": {"fsdp": 2}}))


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["motionv2v_cogvideox_5b", "interpolation_cogvideox_5b", "vae_tiny"])
def test_rules_cover_the_models(name):
    shapes = memory.parameter_shapes(importlib.import_module(f"configs.{name}").get_config())
    notices = []
    specs = sharding.parameter_specs(shapes, abstract(fsdp=4, tensor=2), notify=notices.append)
    assert set(specs) == set(parameters.flatten(shapes)) and notices == []
    if "5b" not in name:
        return
    assert specs["dit/blocks/attention/q/kernel"] == PartitionSpec(None, ("fsdp", "context"), ("tensor",))
    assert specs["dit/blocks/mlp_down/kernel"] == PartitionSpec(None, ("tensor",), ("fsdp", "context"))
    assert specs["dit/blocks/attention_norm/scale"] == PartitionSpec(None, None)
    # What stays whole on all of the eight devices is small; the autoencoder, 2% of the numbers, is most of it.
    parts = {
        path: math.prod({"fsdp": 4, "tensor": 2}.get(a, 1) for axes in s for a in axes or ())
        for path, s in specs.items()
    }
    sizes = {path: leaf.size for path, leaf in parameters.flatten(shapes).items()}
    assert sum(sizes[path] for path in sizes if parts[path] == 1) < 0.03 * sum(sizes.values())
    assert all(parts[path] > 1 for path in sizes if sizes[path] > 20e6)


def test_what_a_method_adds_to_every_layer_is_divided():
    """Low-rank updates along the width, as the kernels that they add to, and embeddings of layers, which are large."""
    updates = {"k": {"a": jnp.zeros((2, 32, 4)), "b": jnp.zeros((2, 4, 32))}}
    params = {"dit": {"lora": {"attention": updates}}, "conditioner": {"motion_v": jnp.zeros((2, 3, 2, 2, 32))}}
    specs = sharding.parameter_specs(params, abstract(fsdp=4, tensor=2), notify=lambda _: None)
    width = ("fsdp", "context")
    assert specs["dit/lora/attention/k/a"] == PartitionSpec(None, width, None)
    assert specs["dit/lora/attention/k/b"] == PartitionSpec(None, None, width)
    assert specs["conditioner/motion_v"] == PartitionSpec(None, None, None, None, width)


def test_dimensions_that_do_not_divide_stay_whole_and_are_told_once():
    params = {"dit": {"blocks": {name: {"kernel": jnp.zeros((2, 12, 10))} for name in ("q", "k")}}}
    notices = []
    specs = sharding.parameter_specs(params, abstract(fsdp=2, context=4, tensor=4), notify=notices.append)
    assert specs["dit/blocks/q/kernel"] == PartitionSpec(None, ("fsdp",), None)
    assert len(notices) == 1 and "2 of 2 parameters" in notices[0]
    assert "fsdp 2 x context 4 x tensor 4 does not divide" in notices[0]


def test_uncovered_parameters_are_an_error():
    with pytest.raises(ValueError, match="no sharding rule covers 1 of 2 parameters: head/kernel; patterns are"):
        sharding.parameter_specs({"head": {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}}, abstract(data=2))
    with pytest.raises(ValueError, match=r"gives text/token_embed .* 2 dimensions"):
        sharding.parameter_specs({"text": {"token_embed": jnp.zeros(2)}}, abstract(data=2))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_optimizer_state_and_average_lie_where_their_parameter_lies(optimizer):
    cfg = sharding_process.config()
    cfg.optim.name = optimizer
    cfg.dit.num_heads = 4
    shapes = memory.parameter_shapes(cfg)
    trainable, _ = parameters.partition(shapes, cfg.optim.schedule)
    start = functools.partial(loop.init_state, optimizer=make_optimizer(cfg, shapes))
    state = jax.eval_shape(start, trainable)
    placed = sharding.shardings(state, trainable, abstract(fsdp=4, tensor=2))
    jax.tree.map(lambda a, b: None if a == b else pytest.fail(f"{a} {b}"), placed.trainable, placed.ema)
    assert placed.step.spec == PartitionSpec()
    flat = parameters.flatten(trainable)
    (shape,) = {leaf.shape for path, leaf in flat.items() if path.endswith("q/kernel")}
    count = 0
    for (path, leaf), layout in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        if "'q'" in jax.tree_util.keystr(path) and path[-1].key == "kernel" and leaf.shape == shape:
            assert layout.spec == PartitionSpec(None, ("fsdp", "context"), ("tensor",)), path
            count += 1
    assert count == {"adamw": 4, "muon": 3, "adafactor": 3}[optimizer]  # master, average, and two moments or one


# --- activations -----------------------------------------------------------------------------------------------------


def test_activations_are_laid_out_by_name(monkeypatch):
    def layout(shape, name, **sizes):
        monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: abstract(**sizes))
        return activations.layout(shape, name)

    mesh = {"data": 2, "context": 4, "tensor": 2}
    batch = ("data", "fsdp")
    assert layout((2, 17550, 3072), "tokens", **mesh) == PartitionSpec(batch, "context", None)
    assert layout((2, 17776, 12288), "features", **mesh) == PartitionSpec(batch, "context", ("tensor",))
    assert layout((2, 17776, 48, 64), "heads", **mesh) == PartitionSpec(batch, None, ("tensor", "context"), None)
    # 90 columns do not divide by 4, 60 rows do: 4 x 2 exact pieces.
    assert layout((2, 13, 60, 90, 16), "latents", **mesh) == PartitionSpec(batch, None, ("context",), ("tensor",), None)
    assert layout((2, 49, 480, 720, 3), "pixels", **mesh) == PartitionSpec(batch, None, ("context",), ("tensor",), None)
    assert layout((1, 17550, 3072), "tokens", data=8) == PartitionSpec(None, "context", None), "one clip, 8 copies"
    assert layout((8, 3), "batch", fsdp=8) == PartitionSpec(batch)
    with pytest.raises(ValueError, match="unknown activation 'rows'; available: tokens"):
        layout((8, 3), "rows")


def test_nothing_is_constrained_without_a_mesh():
    x = jnp.zeros((2, 4, 4))
    assert activations.constrain(x, "tokens") is x


# --- eight devices ---------------------------------------------------------------------------------------------------


def run_on_eight(folder, *meshes):
    """Run sharding_process.py with 8 devices; return its folder and what it found."""
    tests = Path(__file__).parents[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    paths = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, str(tests / "sharding_process.py"), str(folder), *meshes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads((folder / "differences.json").read_text())


QUICK = ("fsdp 4 x tensor 2",)
"""One of two axes that divide parameters and what passes through them; the others are slow."""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return run_on_eight(tmp_path_factory.mktemp("eight"), *QUICK)


def assert_no_result_has_changed(differences):
    """Differences relative to each array's largest value: sums in fp32 taken in another order, no more."""
    assert sum(key.startswith("gradient dit/control") for key in differences) > 10
    assert {key: value for key, value in differences.items() if not value < 2e-5} == {}


@pytest.mark.parametrize("name", QUICK)
def test_a_mesh_changes_no_result(eight, name):
    assert_no_result_has_changed(eight[1][name])


@pytest.mark.slow
def test_no_mesh_changes_a_result(tmp_path):
    """The other meshes, and edits, one of them in windows."""
    names = [name for name in sharding_process.MESHES if name not in QUICK]
    found = run_on_eight(tmp_path, *names, "edits")[1]
    # Autoencoder divided in space and guidance over `data`: rounding to uint8 may fall either way.
    assert found["edit"] <= 1 and found["edit in windows"] <= 1
    for name in names:
        assert_no_result_has_changed(found[name])


def test_devices_share_an_edit(eight):
    """Of the model that was trained here: 8 heads, no guidance, so one prediction that all divide."""
    meshes = eight[1]["shared edits"]
    assert meshes["2"] == {"data": 1, "fsdp": 1, "context": 2, "tensor": 1}
    assert meshes["8"] == meshes["all"] == {"data": 1, "fsdp": 1, "context": 4, "tensor": 2}


def test_the_autoencoder_is_never_gathered(eight):
    """Devices exchange the rows at their borders and the sums of their norms, not whole pictures."""
    expected = ["all-reduce", "collective-permute"]
    assert eight[1]["autoencoder"] == {"decode": expected, "encode": expected}


def test_the_state_is_divided(eight):
    """mlp_up's momentum [depth D 4D] on fsdp 4 x tensor 2."""
    assert eight[1]["whole"] == [1, 128, 512] and eight[1]["part"] == [1, 32, 256]


@pytest.mark.slow
def test_a_run_goes_on_with_other_meshes_and_equals_one_device(eight, tmp_path):
    """One step on fsdp 8, one on fsdp 4 x tensor 2, one on this process's only device; against three on it."""
    config, params = checkpoints.load_workdir(eight[0] / "run", ema=False)
    assert config.mesh.tensor == 2 and params["dit"]["control"]
    moved = sharding_process.run(eight[0] / "run", 3)
    whole = sharding_process.run(tmp_path, 3)
    start = sharding_process.Task(sharding_process.config()).init(jax.random.key(0))
    kernel = lambda tree: np.asarray(tree["dit"]["control"]["blocks"]["mlp_up"]["kernel"])  # noqa: E731
    step = np.abs(kernel(whole.trainable) - kernel(start)).max()
    assert step > 1e-3
    # The three steps move parameters by `step`; Adam divides rounding by eps = 1e-3 at worst.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.01 * step, rtol=1e-5), moved, whole)
