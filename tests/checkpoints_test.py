import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_task
from ml_collections import ConfigDict

from motionv2v import checkpoints, optim

PARAMS = {
    "dit": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "steps": np.arange(3, dtype=np.int32)},
    "vae": {"bias": np.float32([0.1, 1e-30])},
}
CONFIG = ConfigDict({"name": "x", "dit": {"channels": (8, 16)}, "optim": {"schedule": ((".*", {"peak": 1.0}),)}})


def test_model_folder_round_trip_fp32(tmp_path):
    folder = checkpoints.save_model(tmp_path / "model", CONFIG, PARAMS, dtype="float32")
    config, params = checkpoints.load_model(folder, expected=PARAMS)
    assert config.to_dict() == CONFIG.to_dict(), "tuples and nested dicts come back as they were"
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
    read["weights"]["sha256"] = checkpoints._sha256(path)
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
    optimizer = optim.make_optimizer(toy_task.config(), {"base": {"w": jnp.ones(1)}, "head": {"w": jnp.ones((2, 2))}})
    trainable = {"head": {"w": jnp.arange(4.0).reshape(2, 2)}}
    return trainable, optimizer.tx.init(trainable)


@pytest.mark.parametrize("data_state", [{"next_index": 7, "workers": [[1, 2], None]}, b"\x00\xff"])
def test_run_checkpoint_round_trip(tmp_path, data_state):
    trainable, opt_state = make_state()
    ema = jax.tree.map(lambda x: x + 1, trainable)
    saver = checkpoints.RunCheckpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        saver.save(step, trainable, ema, opt_state, data_state)
    saver.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]
    restored = checkpoints.RunCheckpoints(tmp_path).restore(trainable, opt_state)
    assert (restored.step, restored.data_state) == (15, data_state)
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(opt_state)
    jax.tree.map(np.testing.assert_array_equal, (restored.trainable, restored.ema), (trainable, ema))


def test_saved_state_survives_donation(tmp_path):
    """The next step overwrites the buffers of the state being saved; on disk must be what was given."""
    trainable, opt_state = {"w": jnp.zeros(1_000_000)}, {"count": jnp.zeros(1)}
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    saver = checkpoints.RunCheckpoints(tmp_path, keep=1)
    saver.save(1, trainable, jax.tree.map(jnp.copy, trainable), opt_state, {})
    for _ in range(20):
        trainable = advance(trainable)
    jax.block_until_ready(trainable)
    saver.close()
    restored = checkpoints.RunCheckpoints(tmp_path).restore(trainable, opt_state)
    assert float(jnp.abs(restored.trainable["w"]).max()) == 0.0


def test_incomplete_checkpoints_are_never_picked_up(tmp_path):
    trainable, opt_state = make_state()
    saver = checkpoints.RunCheckpoints(tmp_path)
    saver.save(5, trainable, trainable, opt_state, {})
    saver.close()
    for name in ("10", "12.orbax-checkpoint-tmp", "junk"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoints.latest_step(tmp_path) == 5
    assert checkpoints.RunCheckpoints(tmp_path).restore(trainable, opt_state).step == 5


def test_restoring_into_another_model_is_one_line(tmp_path):
    trainable, opt_state = make_state()
    saver = checkpoints.RunCheckpoints(tmp_path)
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
    trainable, opt_state = make_state()
    run = tmp_path / "run"
    saver = checkpoints.RunCheckpoints(run)
    saver.save(5, trainable, jax.tree.map(lambda x: x + 1, trainable), opt_state, {})
    saver.close()
    checkpoints.write_config(run, CONFIG)
    checkpoints.save_frozen(run, {"base": {"w": jnp.full(2, 0.5, jnp.bfloat16)}})
    _, params = checkpoints.load_model(checkpoints.export(run, tmp_path / "model"))
    np.testing.assert_array_equal(params["head"]["w"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(params["base"]["w"], [0.5, 0.5])
    np.testing.assert_array_equal(checkpoints.load_model(run)[1]["head"]["w"], params["head"]["w"])
