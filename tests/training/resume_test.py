"""Kill and resume training with real processes: what comes out is bit-equal to a run that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from motionv2v import checkpoints, parameters

STEPS, EVERY = 100, 10
PATIENCE = 300  # seconds; only a hang, or a machine that is very busy, takes that long


def run_child(workdir, num_workers, delay):
    """Train the toy in this process: what the parent test starts, stops and kills."""
    import toy_task

    from motionv2v.training import loop

    cfg = toy_task.config(
        steps=STEPS, checkpoint_every=EVERY, log_every=EVERY, probe_every=0, num_workers=num_workers, delay=delay
    )
    loop.train(cfg, workdir, toy_task.ToyTask(cfg))


def start(workdir, num_workers=0, delay=0.0):
    code = f"import resume_test as r; r.run_child({str(workdir)!r}, {num_workers}, {delay})"
    # The child's main module must be importable for spawned workers, hence -c and not this file as a script.
    folders = [str(Path(__file__).parents[n]) for n in range(3)]  # of this file, of the toy, of the package
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "JAX_PLATFORMS": "cpu"}
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    # The child and its workers are a group of their own, which a signal can reach as a whole.
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)


def wait_for_step(workdir, child, step):
    """Wait until a complete checkpoint of at least this step is on disk."""
    deadline = time.monotonic() + PATIENCE
    while (checkpoints.latest_step(workdir) or 0) < step:
        assert child.poll() is None, child.stdout.read().decode()
        assert time.monotonic() < deadline, f"no checkpoint at step {step} within {PATIENCE} s"
        time.sleep(0.01)


def finish(child):
    output, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, output.decode()
    return output.decode()


def live_children(pid):
    """List the processes that any thread of pid started and that still run (Linux)."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for child in " ".join(lists).split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists child processes through Linux's /proc")
def test_killed_runs_resume_bit_equal(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = start(whole)
    # 8 samples of 5 ms over two workers: 20 ms a step, time enough to be caught midway.
    child = start(broken, num_workers=2, delay=0.005)
    wait_for_step(broken, child, EVERY)
    workers = live_children(child.pid)
    child.kill()
    child.communicate()
    assert checkpoints.latest_step(broken) < STEPS, "killed too late to test anything"
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(alive(pid) for pid in workers), "worker processes outlive a killed run"

    killed_at = checkpoints.latest_step(broken)
    child = start(broken, num_workers=2, delay=0.005)
    wait_for_step(broken, child, killed_at + EVERY)
    # As SLURM does it, and Ctrl-C in a terminal: the signal goes to the workers as well, which leave it to the run.
    os.killpg(child.pid, signal.SIGTERM)
    output = finish(child)
    assert "Traceback" not in output and "unexpectedly" not in output, output
    stopped_at = checkpoints.latest_step(broken)
    assert killed_at < stopped_at < STEPS
    assert f"continue from step {killed_at} of {STEPS}" in output
    assert f"SIGTERM: saved step {stopped_at}" in output

    finish(start(broken, num_workers=2, delay=0.005))
    finish(undisturbed)
    for ema in (False, True):
        expected = parameters.flatten(checkpoints.load_workdir(whole, ema=ema)[1])
        got = parameters.flatten(checkpoints.load_workdir(broken, ema=ema)[1])
        assert expected.keys() == got.keys()
        for path in expected:
            np.testing.assert_array_equal(got[path], expected[path], err_msg=path)
    lines = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps)), "a step that was repeated after the kill stands in the metrics twice"
