import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
import toy_task
from ml_collections import ConfigDict

from motionv2v import checkpoints, files, sections
from motionv2v.convert import checked, export
from motionv2v.training import loop
from motionv2v.training.optimizer import make_optimizer
from motionv2v.training.saver import RunCheckpoints

PARAMS = {
    "dit": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "steps": np.arange(3, dtype=np.int32)},
    "vae": {"bias": np.float32([0.1, 1e-30])},
}
CONFIG = ConfigDict({"name": "x", "vae": {"block_channels": (8, 16)}, "optim": {"schedule": ((".*", {"peak": 1.0}),)}})


def test_model_folder_round_trip_fp32(tmp_path):
    folder = checkpoints.save_model(tmp_path / "model", CONFIG, PARAMS, dtype="float32")
    config, params = checkpoints.load_model(folder, expected=PARAMS)
    assert config.to_dict() == sections.complete(CONFIG).to_dict(), "tuples and nested dicts come back as they were"
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_model_folder_rounds_to_bfloat16_once(tmp_path):
    first = checkpoints.save_model(tmp_path / "a", CONFIG, PARAMS)
    _, params = checkpoints.load_model(first)
    expected = np.asarray(jnp.asarray(PARAMS["dit"]["kernel"], jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(params["dit"]["kernel"], expected)
    assert params["dit"]["kernel"].dtype == np.float32
    assert params["dit"]["steps"].dtype == np.int32
    second = checkpoints.save_model(tmp_path / "b", CONFIG, params)
    assert (first / checkpoints.WEIGHTS).read_bytes() == (second / checkpoints.WEIGHTS).read_bytes()


def test_saving_replaces_a_folder_and_leaves_nothing_else(tmp_path):
    checkpoints.save_model(tmp_path / "model", CONFIG, {"old": np.ones(1, np.float32)})
    checkpoints.save_model(tmp_path / "model", CONFIG, PARAMS)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert "old" not in checkpoints.load_model(tmp_path / "model")[1]


def break_json(folder):
    (folder / "config.json").write_text('{"config": ')


def break_weights(folder):
    path = folder / checkpoints.WEIGHTS
    path.write_bytes(path.read_bytes()[:-3] + b"abc")


def cut_weights_and_fix_checksum(folder):
    path = folder / checkpoints.WEIGHTS
    path.write_bytes(path.read_bytes()[:-3])
    read = json.loads((folder / "config.json").read_text())
    read["weights"]["sha256"] = files.sha256(path)
    (folder / "config.json").write_text(json.dumps(read))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_json, "is not json"),
        (break_weights, "sha256 differs"),
        (cut_weights_and_fix_checksum, "not a readable safetensors file"),
        (lambda folder: (folder / checkpoints.WEIGHTS).unlink(), "holds config.json; expected"),
        (lambda folder: (folder / "config.json").unlink(), "holds model.safetensors; expected"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "holds a list, expected an object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no 'config' and 'weights'"),
        (lambda folder: (folder / "config.json").write_text('{"config": {}, "weights": 3}'), "no 'config' and"),
    ],
)
def test_damaged_model_folder_is_one_line(tmp_path, damage, message):
    folder = checkpoints.save_model(tmp_path / "model", CONFIG, PARAMS)
    damage(folder)
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load_model(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_shapes_are_named(tmp_path):
    folder = checkpoints.save_model(tmp_path / "model", CONFIG, PARAMS)
    expected = {"dit": {"kernel": np.ones((2, 4)), "more": np.ones(1), "steps": np.ones(3)}}
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load_model(folder, expected=expected)
    for part in ("dit/more is missing [1]", "vae/bias [2] is not part", "dit/kernel is [2, 3], expected [2, 4]"):
        assert part in str(error.value)


def test_unknown_name_lists_released_ones(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint 'huge'.*released name .*tiny"):
        checkpoints.load_model("huge")
    with pytest.raises(checkpoints.CheckpointError, match=r"it holds nothing; expected config.json"):
        checkpoints.load_model(tmp_path)


def make_state():
    optimizer = make_optimizer(toy_task.config(), {"base": {"w": jnp.ones(1)}, "head": {"w": jnp.ones((2, 2))}})
    trainable = {"head": {"w": jnp.arange(4.0).reshape(2, 2)}}
    return trainable, optimizer.tx.init(trainable)


@pytest.mark.parametrize("data_state", [{"next_index": 7, "workers": [[1, 2], None]}, b"\x00\xff"])
def test_run_checkpoint_round_trip(tmp_path, data_state):
    trainable, opt_state = make_state()
    ema = jax.tree.map(lambda x: x + 1, trainable)
    saver = RunCheckpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        saver.save(step, trainable, ema, opt_state, data_state)
    saver.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]
    restored = RunCheckpoints(tmp_path).restore(trainable, opt_state)
    assert (restored.step, restored.data_state) == (15, data_state)
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(opt_state)
    jax.tree.map(np.testing.assert_array_equal, (restored.trainable, restored.ema), (trainable, ema))


def test_saved_state_survives_donation(tmp_path):
    """The next step overwrites the buffers of the state being saved; on disk must be what was given."""
    trainable, opt_state = {"w": jnp.zeros(1_000_000)}, {"count": jnp.zeros(1)}
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    saver = RunCheckpoints(tmp_path, keep=1)
    saver.save(1, trainable, jax.tree.map(jnp.copy, trainable), opt_state, {})
    for _ in range(20):
        trainable = advance(trainable)
    jax.block_until_ready(trainable)
    saver.close()
    restored = RunCheckpoints(tmp_path).restore(trainable, opt_state)
    assert float(jnp.abs(restored.trainable["w"]).max()) == 0.0


def test_incomplete_checkpoints_are_never_picked_up(tmp_path):
    trainable, opt_state = make_state()
    saver = RunCheckpoints(tmp_path)
    saver.save(5, trainable, trainable, opt_state, {})
    saver.close()
    for name in ("10", "12.orbax-checkpoint-tmp", "junk"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoints.latest_step(tmp_path) == 5
    assert RunCheckpoints(tmp_path).restore(trainable, opt_state).step == 5


def save_for_ever(workdir):
    """Save a state of 40 MB again and again, each full of its step's number: what the next test kills."""
    saver = RunCheckpoints(workdir)
    for step in range(1, 10**6):
        trainable = {"w": jnp.full(10**7, float(step))}
        saver.save(step, trainable, trainable, {"count": jnp.zeros(1)}, {})


def test_a_save_cut_off_by_a_kill_is_never_picked_up(tmp_path):
    """A real process, killed while the folder of a checkpoint that is not complete is there."""
    code = f"import checkpoints_test as c; c.save_for_ever({str(tmp_path)!r})"
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder, deadline = tmp_path / "checkpoints", time.monotonic() + 300

    def incomplete():
        return [p.name for p in folder.glob("*") if not (p.name.isdigit() and (p / "_CHECKPOINT_METADATA").exists())]

    while (checkpoints.latest_step(tmp_path) or 0) < 2 or not incomplete():
        assert child.poll() is None, child.stdout.read().decode()
        assert time.monotonic() < deadline, "no save to cut off within 300 s"
    child.kill()
    child.communicate()
    assert incomplete(), "killed too late to test anything"
    step = checkpoints.latest_step(tmp_path)
    shapes = {"w": jnp.zeros(10**7)}, {"count": jnp.zeros(1)}
    saver = RunCheckpoints(tmp_path)
    restored = saver.restore(*shapes)
    assert restored.step == step and float(restored.trainable["w"].min()) == float(restored.ema["w"].max()) == step
    saver.save(step + 1, *([shapes[0]] * 2), shapes[1], {})
    saver.close()
    assert checkpoints.latest_step(tmp_path) == step + 1 and not incomplete(), "what the kill left is in the way"


def test_a_full_disk_stops_training_and_keeps_the_last_checkpoint(tmp_path, caplog):
    """A limit on the size of files makes writes fail for real, as a full disk does, with no need to fill one."""

    class Wide(toy_task.ToyTask):
        def init(self, key):
            params = super().init(key)
            unused = jax.random.normal(key, (200, 1000))  # 0.8 MB that do not compress
            return {**params, "head": {**params["head"], "unused": unused}}

    cfg = toy_task.config(steps=5, probe_every=0)
    loop.train(cfg, tmp_path, Wide(cfg))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    cfg.train.steps = 15
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(checkpoints.CheckpointError) as error:
            loop.train(cfg, tmp_path, Wide(cfg))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoints: File too large; step 5 is complete and kept, and the same command" in str(error.value)
    assert "\n" not in str(error.value) and not [record for record in caplog.records if record.exc_info]
    assert checkpoints.latest_step(tmp_path) == 5
    assert int(loop.train(cfg, tmp_path, Wide(cfg)).step) == 15


@pytest.mark.parametrize(("file", "is_told"), [("/lib/orbax/checkpoint/serialize.py", False), ("/app/server.py", True)])
def test_what_asyncio_tells_of_a_failed_save_is_dropped(tmp_path, caplog, file, is_told):
    """Tasks of orbax that nobody waits for any more; other people's are their own business."""
    RunCheckpoints(tmp_path).close()
    try:
        exec(compile("raise OSError('File too large')", file, "exec"))
    except OSError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    assert bool(caplog.records) == is_told


def test_reading_a_work_dir_prints_nothing(tmp_path):
    """Orbax tells what it does in a dozen lines, which stood between a launcher's own."""
    trainable, opt_state = make_state()
    saver = RunCheckpoints(tmp_path)
    saver.save(5, trainable, trainable, opt_state, {})
    saver.close()
    checkpoints.write_config(tmp_path, CONFIG)
    code = (
        "from absl import app\n"
        "from motionv2v import checkpoints\n"
        f"app.run(lambda _: print(len(checkpoints.load_workdir({str(tmp_path)!r}))), argv=['x'])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_restoring_into_another_model_is_one_line(tmp_path):
    trainable, opt_state = make_state()
    saver = RunCheckpoints(tmp_path)
    saver.save(5, trainable, trainable, opt_state, {})
    saver.wait()
    other = {"head": {"w": jnp.ones((3, 3))}}
    with pytest.raises(checkpoints.CheckpointError) as error:
        saver.restore(other, opt_state)
    assert "\n" not in str(error.value)


def test_load_workdir_lists_what_is_there(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(checkpoints.CheckpointError, match=r"it holds notes.txt; expected config.json and"):
        checkpoints.load_workdir(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="does not exist"):
        checkpoints.load_workdir(tmp_path / "absent")


def test_export_holds_averaged_and_frozen_weights(tmp_path):
    config, run = tiny_model.config("vae"), tmp_path / "run"
    shapes = checked.expected_shapes(config)["vae"]
    trainable = {"vae": {"decoder": jax.tree.map(lambda x: jnp.full(x.shape, 2.0), shapes["decoder"])}}
    frozen = {"vae": {"encoder": jax.tree.map(lambda x: jnp.full(x.shape, 0.5, jnp.bfloat16), shapes["encoder"])}}
    saver = RunCheckpoints(run)
    saver.save(5, trainable, jax.tree.map(lambda x: x + 1, trainable), {"count": jnp.zeros(1)}, {})
    saver.close()
    checkpoints.write_config(run, config)
    checkpoints.save_frozen(run, frozen)
    _, params = checkpoints.load_model(export.model_folder(run, tmp_path / "model"))
    assert {float(x.mean()) for x in jax.tree.leaves(params["vae"]["decoder"])} == {3.0}
    assert {float(x.mean()) for x in jax.tree.leaves(params["vae"]["encoder"])} == {0.5}
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load_model(run)[1], params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, dtype, value):
    """They would draw black, with exit code 0."""
    params = {"dit": {"kernel": np.ones((3, 5), np.float32), "steps": np.arange(3)}}
    params["dit"]["kernel"][1, 2] = value
    folder = checkpoints.save_model(tmp_path / "model", CONFIG, params, dtype=dtype)
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load_model(folder, as_stored=True)
    assert f"{folder / checkpoints.WEIGHTS} holds weights that are not finite: 1 numbers of dit/kernel; " in str(
        error.value
    )


def test_averaged_weights_of_a_run_are_finite_or_refused(tmp_path):
    trainable, opt_state = make_state()
    saver = RunCheckpoints(tmp_path)
    saver.save(5, trainable, jax.tree.map(lambda x: x * jnp.nan, trainable), opt_state, {})
    saver.close()
    checkpoints.write_config(tmp_path, CONFIG)
    with pytest.raises(checkpoints.CheckpointError, match=r"/5 holds weights that are not finite: 4 numbers"):
        checkpoints.load_model(tmp_path)
    assert checkpoints.load_model(tmp_path, ema=False)[1]["head"]["w"].shape == (2, 2)


def test_numbers_that_are_not_finite_are_counted_as_numpy_counts_them():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**16, 3_000_000).astype(np.uint16)
    bits[:70_000] = np.arange(70_000)
    for kind in (jnp.bfloat16, np.float16):
        x = bits.view(kind)
        assert checkpoints.count_not_finite(x) == np.count_nonzero(~np.isfinite(x.astype(np.float32))) > 0
    x = rng.integers(0, 2**32, 3_000_000).astype(np.uint32).view(np.float32)
    assert checkpoints.count_not_finite(x[::2]) == np.count_nonzero(~np.isfinite(x[::2])) > 0
    assert checkpoints.count_not_finite(np.arange(3)) == 0


def test_a_number_too_large_for_its_type_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match=r"a/b has numbers too large for float16; store as float32"):
        checkpoints.save_model(tmp_path / "model", CONFIG, {"a": {"b": np.float32([1.0, 1e5])}}, dtype="float16")
    assert list(tmp_path.iterdir()) == []
