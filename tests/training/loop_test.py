import ast
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_task

from motionv2v import ROOT, checkpoints, parameters, sections, video
from motionv2v.progress import MetricsWriter, ProgressLine, Utilisation, clock
from motionv2v.training import loop, settings
from motionv2v.training.optimizer import make_optimizer


def run(workdir, **changes):
    cfg = toy_task.config(**changes)
    task = toy_task.ToyTask(cfg)
    return loop.train(cfg, workdir, task), task


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    state, task = run(workdir)
    return workdir, state, task


def test_loss_falls_and_the_truth_is_found(finished):
    workdir, state, task = finished
    losses = [line["loss"] for line in read_metrics(workdir) if "loss" in line]
    assert len(losses) == 4 and losses[-1] < losses[0] / 4
    assert task.probed[-1] < task.probed[0] / 2
    assert int(state.step) == 20


def test_frozen_leaves_stay_bit_equal(finished):
    workdir, state, _ = finished
    assert list(parameters.flatten(state.trainable)) == ["head/bias", "head/kernel"]
    _, params = checkpoints.load_workdir(workdir)
    np.testing.assert_array_equal(params["base"]["kernel"], np.eye(toy_task.FEATURES, dtype=np.float32))


def test_workdir_holds_what_the_run_made(finished):
    workdir, state, _ = finished
    probes = [line["step"] for line in read_metrics(workdir) if "probe/error" in line]
    assert probes == [0, 10, 20]
    assert sorted(p.name for p in (workdir / "samples").iterdir()) == ["00000000", "00000010", "00000020"]
    assert video.read(workdir / "samples" / "00000010" / "grey.mp4").frames.shape == (2, 16, 16, 3)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["15", "20"]
    assert list((workdir / "tensorboard").glob("events*"))
    config, params = checkpoints.load_workdir(workdir)
    assert config.to_dict() == sections.complete(toy_task.config()).to_dict()
    np.testing.assert_array_equal(params["head"]["bias"], state.ema["head"]["bias"])


def test_step_matches_plain_sgd_loop():
    """The jitted step, split in trainable and frozen, equals gradients of the whole tree written out."""
    cfg = toy_task.config(noise=0.0)
    task = toy_task.ToyTask(cfg)
    params = task.init(jax.random.key(0))
    optimizer = make_optimizer(cfg, params)
    trainable, frozen = parameters.partition(params, cfg.optim.schedule)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, 4)).astype(np.float32), "y": rng.normal(size=(8, 2)).astype(np.float32)}
    step_fn = loop.make_train_step(task.loss, optimizer, cfg)
    state, metrics = step_fn(loop.init_state(trainable, optimizer), frozen, batch)
    (loss, _), grads = jax.value_and_grad(lambda p: task.loss(jax.random.key(9), p, batch), has_aux=True)(params)
    updates, _ = optimizer.tx.update({"head": grads["head"]}, optimizer.tx.init(trainable), trainable)
    expected = jax.tree.map(lambda p, u: p + u, trainable, updates)
    # fp32, fused differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.trainable, expected)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics["learning_rate"]) == pytest.approx(0.05)  # first of two warm-up steps to 0.1
    assert int(state.step) == 1


def test_state_is_donated_and_frozen_is_not():
    cfg = toy_task.config()
    task = toy_task.ToyTask(cfg)
    params = task.init(jax.random.key(0))
    optimizer = make_optimizer(cfg, params)
    trainable, frozen = parameters.partition(params, cfg.optim.schedule)
    state = loop.init_state(trainable, optimizer)
    batch = {"x": jnp.ones((8, 4)), "y": jnp.ones((8, 2))}
    loop.make_train_step(task.loss, optimizer, cfg)(state, frozen, batch)
    assert state.trainable["head"]["kernel"].is_deleted()
    assert not frozen["base"]["kernel"].is_deleted() and not params["head"]["kernel"].is_deleted()


def test_nan_stops_with_the_step_and_nothing_saved_after(tmp_path):
    # Unshuffled batches of 8: sample 48 is the first of step 7.
    with pytest.raises(loop.DivergedError, match="loss is nan at step 7"):
        run(tmp_path, nan_from=48, checkpoint_every=2)
    assert checkpoints.latest_step(tmp_path) == 6
    _, params = checkpoints.load_workdir(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_nan_in_the_step_about_to_be_saved_is_not_saved(tmp_path):
    with pytest.raises(loop.DivergedError, match="step 6"):
        run(tmp_path, nan_from=40, checkpoint_every=6)
    assert checkpoints.latest_step(tmp_path) is None


def test_resume_in_two_parts_is_bit_equal(finished, tmp_path):
    class StopAfterTen(toy_task.ToyTask):
        def probe(self, key, params):
            if self.probed:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().probe(key, params)

    _, whole, _ = finished
    cfg = toy_task.config()
    before = signal.getsignal(signal.SIGTERM)
    half = loop.train(cfg, tmp_path, StopAfterTen(cfg))
    assert int(half.step) == 11, "the step after the probe is finished, then saved"
    assert signal.getsignal(signal.SIGTERM) is before
    state = loop.train(cfg, tmp_path, toy_task.ToyTask(cfg))
    jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_resume_keeps_the_frozen_weights_of_the_workdir(tmp_path):
    class OtherBase(toy_task.ToyTask):
        def init(self, key):
            return {**super().init(key), "base": {"kernel": jnp.zeros((4, 4))}}

    run(tmp_path, steps=5)
    cfg = toy_task.config(steps=10)
    loop.train(cfg, tmp_path, OtherBase(cfg))
    np.testing.assert_array_equal(checkpoints.load_workdir(tmp_path)[1]["base"]["kernel"], np.eye(4))


def test_another_config_is_refused_by_field(finished):
    workdir, _, _ = finished
    with pytest.raises(ValueError) as error:
        run(workdir, noise=0.2, batch_size=16)
    assert "noise was 0.1, is 0.2; train.batch_size was 8, is 16" in str(error.value)


def test_allowed_fields_may_change(finished):
    workdir, state, _ = finished
    again, task = run(workdir, steps=20, log_every=1, probe_every=1, checkpoint_every=7, keep=1)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert not task.probed, "a finished run has nothing left to do"


def test_work_dirs_of_earlier_versions_go_on():
    """A field that came later, at the value that runs without it have, makes no other experiment; another one does."""
    old, new = toy_task.config(), toy_task.config()
    del old.train.accumulate
    new.data = {"text_embeddings": False, "num_workers": 4, "scene": {"speed": 0.6}}
    new.dit = {"num_layers": 30, "dtype": "float32", "positions": "rope"}
    assert {name: settings.default(f"dit.{name}") for name in new.dit} == new.dit.to_dict()
    assert settings.differences(old, new) == settings.differences(new, old) == []
    new.data.swap, new.dit.control_wiring, new.dit.remat = 0.5, "chained", "full"
    assert settings.differences(old, new) == [
        "data.swap was (absent), is 0.5",
        "dit.control_wiring was (absent), is chained",
    ]
    new = toy_task.config()
    new.optim.schedule = (("base/.*", None), ("head/.*", {"peak": 0.2}))
    new.unheard_of = 1
    assert [line.split(" was ")[0] for line in settings.differences(old, new)] == ["optim.schedule", "unheard_of"]


def test_fields_that_may_be_missing_are_the_code_s_own_defaults():
    """Every `.get("field", value)` of a config section in the package agrees with `sections`."""
    read = {}
    for path in ROOT.rglob("*.py"):
        found = re.findall(r'(data|loss|train)\.get\("(\w+)", ([^()]+?|\(\))\)', path.read_text())
        read |= {f"{section}.{name}": ast.literal_eval(value) for section, name, value in found}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in read.items()} == {
        name: sections.default(name) for name in read
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, "batch_size=8 does not divide by train.accumulate=3"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"steps": 0}, "train.steps is 0, expected a whole number of at least 1"),
    ],
)
def test_impossible_settings_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        run(tmp_path / "run", **changes)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_missing_fields_are_named(tmp_path):
    cfg = toy_task.config()
    del cfg.train.seed
    with pytest.raises(ValueError, match=r"lacks train\.seed"):
        loop.train(cfg, tmp_path, toy_task.ToyTask(cfg))


def test_wrong_batches_and_ended_data_are_named(tmp_path):
    class Short(toy_task.ToyTask):
        def dataset(self, split="train"):
            import grain

            return grain.MapDataset.range(24).map(toy_task.MakeSample(0, -1)).batch(self.size).to_iter_dataset()

    cfg = toy_task.config()
    task = Short(cfg)
    task.size = 8
    with pytest.raises(ValueError, match="data ended at step 3"):
        loop.train(cfg, tmp_path / "a", task)
    task.size = 4
    with pytest.raises(ValueError, match="must have 8 rows"):
        loop.train(cfg, tmp_path / "b", task)


def test_frozen_weights_may_be_bfloat16(tmp_path):
    cfg = toy_task.config(steps=5)
    cfg.train.frozen_dtype = "bfloat16"
    loop.train(cfg, tmp_path, toy_task.ToyTask(cfg))
    assert checkpoints.load_frozen(tmp_path)["base"]["kernel"].dtype == jnp.bfloat16


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    MetricsWriter(tmp_path, resumed_at=2).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_progress_line_says_how_well_the_device_is_used(capsys):
    """MFU is operations needed per second over the peak; without a known peak only the rate is told."""
    for peak, end in ((1e15, "%)"), (None, "TFLOP/s")):
        progress = ProgressLine(100, 4, flops=Utilisation(2e12, peak))
        progress.done(0.0)
        progress.done(0.0)
        scalars = progress.report(1, 0.5)
        assert scalars["tflops_per_second"] == pytest.approx(2 * scalars["samples_per_second"])
        assert ("mfu" in scalars) == (peak is not None)
        assert capsys.readouterr().out.strip().endswith(end)
        if peak is not None:
            assert scalars["mfu"] == pytest.approx(scalars["tflops_per_second"] / 1e3)


def test_processes_that_do_not_write_are_quiet(tmp_path, capsys):
    writer, progress = MetricsWriter(tmp_path / "absent", is_quiet=True), ProgressLine(10, 4, is_quiet=True)
    progress.say("hello")
    progress.done(0.0)
    progress.done(0.0)
    assert progress.report(1, 0.5)["samples_per_second"] > 0
    writer.write(1, {"loss": 0.5})
    writer.close()
    progress.close()
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_progress_line_says_rates_and_time_left(capsys):
    progress = ProgressLine(total_steps=100, batch_size=4)
    for _ in range(11):
        progress.done(0.0)
    scalars = progress.report(10, 0.5)
    line = capsys.readouterr().out.strip()
    assert line.startswith("step 10/100 loss 0.5, ") and line.endswith("left, 0% waiting for data")
    assert scalars["samples_per_second"] > 0 and scalars["data_wait"] == 0
    assert [clock(s) for s in (42.2, 187, 18060)] == ["42 s", "3:07 min", "5:01 h"]


def test_the_clock_sees_whole_steps_and_no_pauses(monkeypatch):
    """Steps of 2 s, the first of 60 because it compiles, a save of 30 s in between: 4 samples each 2 s throughout."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress, rates = ProgressLine(100, 4, is_quiet=True), []

    def step(seconds, waited=0.5):
        now[0] += seconds
        progress.done(waited)

    step(60)
    rates.append(progress.report(1, 0.5))
    for number in range(2, 6):
        step(2)
        if number == 3:
            with progress.paused():
                now[0] += 30
        rates.append(progress.report(number, 0.5))
    assert rates == [{}, *[{"samples_per_second": 2.0, "data_wait": 0.25}] * 4]


def test_saves_and_probes_leave_the_rate_alone(tmp_path, capsys, monkeypatch):
    """No report between two saves is faster than the steps can be, and none but the first says that it compiles."""
    make = loop.make_train_step

    def slow(*args):
        step = make(*args)

        def call(*given):
            time.sleep(0.02)
            return jax.block_until_ready(step(*given))

        return call

    monkeypatch.setattr(loop, "make_train_step", slow)
    run(tmp_path, log_every=1, checkpoint_every=2, probe_every=3, steps=9)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.endswith("compiling") for line in lines] == [True] + [False] * 8
    rates = [line["samples_per_second"] for line in read_metrics(tmp_path) if "samples_per_second" in line]
    assert len(rates) == 8 and max(rates) < 8 / 0.02


def test_probe_every_0_never_probes(tmp_path):
    _, task = run(tmp_path, steps=5, probe_every=0)
    assert not task.probed and not (tmp_path / "samples").exists()
    assert checkpoints.latest_step(tmp_path) == 5


def test_a_second_run_in_a_work_dir_is_refused(tmp_path):
    """It says who is at work there, and changes nothing; the run that is there ends undisturbed, and can be resumed."""

    class Intruded(toy_task.ToyTask):
        def probe(self, key, params):
            with pytest.raises(ValueError, match=rf"run is in use by process {os.getpid()} on .* since 20.*; wait for"):
                run(tmp_path / "run", steps=7)
            return super().probe(key, params)

    cfg = toy_task.config(steps=5, probe_every=5)
    task = Intruded(cfg)
    loop.train(cfg, tmp_path / "run", task)
    assert len(task.probed) == 2 and checkpoints.read_config(tmp_path / "run").train.steps == 5
    assert int(run(tmp_path / "run", steps=7)[0].step) == 7


def test_the_lock_of_a_killed_run_is_gone(tmp_path, repository):
    code = (
        "import sys, time, toy_task; from motionv2v.training import settings\n"
        "with settings.open_workdir(toy_task.config(), sys.argv[1]): print('in', flush=True); time.sleep(600)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), str(repository / "tests")])}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match=rf"in use by process {child.pid} on "):
            with settings.open_workdir(toy_task.config(), tmp_path):
                pass
    finally:
        child.kill()
        child.wait()
    with settings.open_workdir(toy_task.config(), tmp_path) as workdir:
        assert f"process {os.getpid()} " in (workdir / settings.LOCK).read_text()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(settings.fcntl, "flock", refuse)
    notices = []
    with settings.open_workdir(toy_task.config(), tmp_path, notices.append):
        assert notices == [f"workdir {tmp_path} cannot be locked (No locks available): start no second run in it"]


def test_a_bucket_is_no_work_dir():
    with pytest.raises(ValueError, match=r"workdir gs://bucket/run is no path; mount the bucket \(gcsfuse, s3fs\)"):
        loop.train(toy_task.config(), "gs://bucket/run", toy_task.ToyTask(toy_task.config()))
