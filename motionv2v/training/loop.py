"""Train the trainable part of a task's parameters: one loop for every kind of training, chosen by the config.

What is trained lives in a task (`tasks.make(config)`). The loop asks it for four things:

    task.init(key) -> params                            the whole tree, fp32
    task.loss(key, params, batch) -> (loss, metrics)    pure, a mean over the batch
    task.dataset(split="train")                         a grain dataset of batches: dicts of arrays, leading axis B
    task.probe(key, params) -> {"scalars", "videos"}    slow, on a fixed set, with averaged parameters

and for five more where it has them:

    task.trainable             table of what trains, see `optimizer`; default config.optim.schedule
    task.flops_per_sample()    operations of one sample's step; without it the progress line tells no rate of them
    task.sharding_rules        layout of its parameters; default sharding.RULES
    task.step_reads()          names of the top-level subtrees that the loss reads; default all
    task.keeps_programs        True if its loss follows from the config alone: what is compiled is kept on disk then

Frozen subtrees that the loss does not read, such as an autoencoder whose latents are cached, wait in the memory of the
host and are on the devices for probes alone; the work dir has them like all others.

The order of the loop is a contract:

    restore -> (probe the state -> save it -> next batch -> step -> log) until done

Probing and saving see the same state, the data iterator's state is saved where no batch is under way, and every
random key is folded from (seed, step): a run that is killed and resumed is bit-equal to one that was not. Metrics
are read one step late, so that the device always has the next step queued; a loss or gradient that is not finite stops
the run then, before anything that it spoiled is saved. SIGTERM and SIGINT finish the step, save, and return. A
checkpoint that cannot be written, for lack of space say, stops the run with the last complete one kept.

On several devices `config.mesh` says how they share the work (`devices.sharding`); a run may go on with another mesh.
In a job of several processes (`devices.processes`) all run this loop on parts of the same batches, and save and probe
together; the first one alone writes the rest of the work dir.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict

from motionv2v import checkpoints, parameters, video
from motionv2v.devices import chips, fit, processes, program_cache, sharding
from motionv2v.devices.processes import StopSignal
from motionv2v.editing import loaded_model
from motionv2v.models.activations import constrain
from motionv2v.progress import MetricsWriter, ProgressLine, Utilisation
from motionv2v.training import dataset
from motionv2v.training.optimizer import Optimizer, accumulate_gradients, make_optimizer, update_ema
from motionv2v.training.saver import RunCheckpoints
from motionv2v.training.settings import check_config, open_workdir
from motionv2v.typing import AnyArray, Int, Key, PyTree

Batch = dict[str, AnyArray]
Metrics = dict[str, AnyArray]
LossFn = Callable[[Key, PyTree, Batch], tuple[AnyArray, Metrics]]


class DivergedError(RuntimeError):
    """Say at which step the loss or the gradients stopped being finite."""


class TrainState(NamedTuple):
    """Hold all that a step changes: the number of updates made, fp32 masters, their average, the optimizer's state."""

    step: Int[AnyArray, ""]
    trainable: PyTree
    ema: PyTree
    opt_state: Any


def train(config: ConfigDict, workdir: str | os.PathLike, task: Any = None) -> TrainState:
    """Train as `config` says, in `workdir`, continuing from its newest complete checkpoint if there is one.

    Returns the last state: that of config.train.steps, or an earlier one when a signal stopped the run (it is saved
    too). Reads config.train (steps, batch_size, accumulate, seed, log_every, checkpoint_every, probe_every, keep,
    ema_decay, clip_norm, and optionally frozen_dtype), config.optim and config.mesh. `checkpoint_every` 0 saves at the
    end alone, `probe_every` 0 never probes. `task` replaces tasks.make(config). Raises ValueError for a config that
    cannot work or that differs from the work dir's, for sources that are not there and for a work dir in which another
    run is at work, CheckpointError for a damaged work dir, DivergedError when the loss or gradients are not finite.
    """
    config = check_config(config)
    is_own = task is None
    if is_own:
        dataset.check_sources(config)
    mesh = sharding.from_config(config)
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(open_workdir(config, workdir))
        if is_own:
            from motionv2v.training import tasks

            task = tasks.make(config)
        saver = stack.enter_context(RunCheckpoints(workdir, keep=config.train.keep))
        is_quiet = not processes.is_writer()
        progress = ProgressLine(config.train.steps, config.train.batch_size, flops=_flops(task), is_quiet=is_quiet)
        stack.callback(progress.close)
        progress.say(f"{config.name}: setting up in {workdir}")
        if is_own:
            has_pixels = "dit" in config and not config.data.latents
            fit.check(config, mesh, "train_pixels" if has_pixels else "train", say=progress.say)
        state, frozen, optimizer, data_state = _restore_or_init(config, workdir, task, saver, mesh, progress.say)
        frozen, idle = _divide(frozen, task, mesh, progress.say)
        first = int(state.step)
        writer = MetricsWriter(workdir, resumed_at=first, is_quiet=is_quiet)
        stack.callback(writer.close)
        for line in _plan(config, state, frozen, idle, mesh):
            progress.say(line)
        step_fn = make_train_step(task.loss, optimizer, config, sharding.of(state, mesh))
        # A config does not tell what else a caller may pass, and a program that calls PyTorch is this process's alone.
        if (is_own or getattr(task, "keeps_programs", False)) and config.train.backend == "jax":
            step_fn = program_cache.Program(step_fn, "train_step", f"{config} {mesh}", notify=progress.say)
        run = _Run(config, workdir, task, frozen, idle, saver, writer, progress, mesh)
        batches = stack.enter_context(open_batches(task, data_state))
        stop = stack.enter_context(StopSignal())
        return _loop(run, state, step_fn, batches, stop)


def make_train_step(
    loss_fn: LossFn, optimizer: Optimizer, config: ConfigDict, shardings: TrainState | None = None
) -> Callable[[TrainState, PyTree, Batch], tuple[TrainState, Metrics]]:
    """Build the jitted `(state, frozen, batch) -> (state, metrics)`; the state is donated, the frozen tree is not.

    Only the trainable tree is differentiated. Metrics are fp32 scalars: those of the task, `loss`, `grad_norm` (before
    clipping) and the learning rates. `shardings` are those of the state on a mesh, which the step keeps; call it within
    `sharding.use(mesh)`.
    """
    options = config.train
    run_key = jax.random.fold_in(jax.random.key(options.seed), 1)

    def step_fn(state: TrainState, frozen: PyTree, batch: Batch) -> tuple[TrainState, Metrics]:
        def loss_of(key: Key, trainable: PyTree, piece: Batch) -> tuple[AnyArray, Metrics]:
            piece = {name: constrain(x, "batch") for name, x in piece.items()}
            loss, metrics = loss_fn(key, parameters.merge(trainable, frozen), piece)
            return loss.astype(jnp.float32), metrics

        key = jax.random.fold_in(run_key, state.step)
        grads, loss, metrics = accumulate_gradients(key, loss_of, state.trainable, batch, options.accumulate)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = update_ema(state.ema, trainable, state.step, options.ema_decay)
        rates = [rate(state.step) for rate in optimizer.learning_rates.values()]
        names = ["learning_rate"] if len(rates) == 1 else [f"learning_rate/{p}" for p in optimizer.learning_rates]
        metrics = metrics | {"loss": loss, "grad_norm": optax.global_norm(grads)} | dict(zip(names, rates, strict=True))
        return TrainState(state.step + 1, trainable, ema, opt_state), metrics

    out = None if shardings is None else (shardings, shardings.step)  # metrics, like the step, are whole everywhere
    return jax.jit(step_fn, donate_argnums=0, out_shardings=out)


def init_state(trainable: PyTree, optimizer: Optimizer) -> TrainState:
    """Start from these masters, copied: the first step donates its input, which the task may still hold."""
    masters = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), trainable)
    ema = jax.tree.map(jnp.copy, masters)
    return TrainState(jnp.zeros([], jnp.int32), masters, ema, optimizer.tx.init(masters))


@contextlib.contextmanager
def open_batches(task: Any, state: Any = None) -> Iterator[Any]:
    """Open the task's training batches at an iterator state, and stop their worker processes on leaving."""
    if not flags.FLAGS.is_parsed():
        # Grain reads absl flags when it starts workers; in a notebook or a test nobody parsed any.
        flags.FLAGS.mark_as_parsed()
    batches = iter(task.dataset(split="train"))
    try:
        if state is not None:
            batches.set_state(state)
        yield batches
    finally:
        if hasattr(batches, "close"):
            batches.close()


class _Pending(NamedTuple):
    """A step that was begun: its metrics, seconds that its batch was waited for, when it was done, if that is known."""

    step: int
    metrics: Metrics
    waited: float
    done_at: float | None = None

    def looked_at(self) -> "_Pending":
        """Note the time if the step is done: where it is not, reading its metrics waits for just that."""
        is_done = all(leaf.is_ready() for leaf in jax.tree.leaves(self.metrics))
        return self._replace(done_at=time.perf_counter()) if is_done else self


class _Run:
    """Hold what one run writes to, and the numbers read since the last report."""

    def __init__(self, config, workdir, task, frozen, idle, saver, writer, progress, mesh):
        self.config, self.workdir, self.task, self.mesh = config, workdir, task, mesh
        self.frozen, self.idle = frozen, idle
        self.saver, self.writer, self.progress = saver, writer, progress
        self._sums: dict[str, float] = {}
        self._count = 0

    def read(self, pending: _Pending | None) -> None:
        """Wait for the metrics of a step, check them, and log the mean since the last report when one is due."""
        if pending is None:
            return
        step = pending.step
        scalars = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(scalars[name]):
                raise DivergedError(f"{name} is {scalars[name]} at step {step}: stopped, nothing saved since")
        self.progress.done(pending.waited, pending.done_at)
        self.saver.check()
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in scalars.items()}
        if step % self.config.train.log_every and step != self.config.train.steps:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        self.writer.write(step, {**means, **self.progress.report(step, means["loss"])})

    def probe(self, step: int, state: TrainState) -> None:
        """Evaluate the averaged parameters on the task's fixed set; always the same key, so that steps compare."""
        key = jax.random.fold_in(jax.random.key(self.config.train.seed), 2)
        idle = sharding.place(self.idle, self.mesh, rules=_rules(self.task), notify=lambda _: None)
        # Divided as they are in training: all processes sample together, and none needs the memory for a whole model.
        try:
            with sharding.use(self.mesh):
                result = self.task.probe(key, parameters.merge(parameters.merge(state.ema, self.frozen), idle))
        except loaded_model.SampleError as error:
            # Told, but no end of a training whose loss is finite.
            self.progress.say(f"probe at step {step}: {error}")
            return
        if not processes.is_writer():
            return
        scalars = {name: float(value) for name, value in result.get("scalars", {}).items()}
        folder = self.workdir / "samples" / f"{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, frames in result.get("videos", {}).items():
            video.write(folder / f"{name}.mp4", np.asarray(frames), fps=8.0)
        (folder / "scalars.json").write_text(json.dumps({"step": step, **scalars}) + "\n", encoding="utf-8")
        self.writer.write(step, {f"probe/{name}": value for name, value in scalars.items()})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        self.progress.say(f"probe at step {step}: {shown}")

    def save(self, step: int, state: TrainState, data_state: Any) -> None:
        """Start writing a checkpoint of a state whose metrics have been read, hence known to be finite."""
        self.saver.save(step, state.trainable, state.ema, state.opt_state, data_state)


def _loop(run: _Run, state: TrainState, step_fn: Callable, batches: Any, stop: StopSignal) -> TrainState:
    """Run the loop of the module docstring from `state` to the last step or a signal."""
    options = run.config.train
    step = first = int(state.step)
    pending = None
    while True:
        done, stopped = step >= options.steps, stop.reached(step)
        probe_due = options.probe_every > 0 and (done or step % options.probe_every == 0)
        probe_due = probe_due and not stopped and (step != first or first == 0)
        every = options.checkpoint_every
        save_due = (done or stopped or (every > 0 and step % every == 0)) and step != first
        if probe_due or save_due or done or stopped:
            run.read(pending)
            pending = None
            with run.progress.paused():
                if probe_due:
                    run.probe(step, state)
                if save_due:
                    run.save(step, state, batches.get_state())
        if done or stopped:
            break
        began = time.perf_counter()
        batch = _next_batch(batches, step, options.batch_size // sharding.host_share(run.mesh)[1], stop)
        if batch is None:
            continue
        waited = time.perf_counter() - began
        pending = pending and pending.looked_at()
        with sharding.use(run.mesh):
            state, metrics = step_fn(state, run.frozen, sharding.place_batch(batch, run.mesh))
        step += 1
        run.read(pending)
        pending = _Pending(step, metrics, waited)
        if step == first + 1:  # at once: the clock starts when what compiled is done
            run.read(pending)
            pending = None
    run.saver.wait()
    _say_end(run, step, stop)
    return state


def _next_batch(batches: Any, step: int, batch_size: int, stop: StopSignal) -> Batch | None:
    """Take the next batch's numeric arrays; None when a signal that also reached the workers broke it off."""
    try:
        batch = next(batches)
    except StopIteration:
        raise ValueError(f"the training data ended at step {step}; a training dataset must repeat") from None
    except Exception:
        if stop.name is not None:
            return None
        raise
    # Captions and the like stay on the host: devices hold numbers only.
    arrays = {name: np.asarray(x) for name, x in batch.items() if np.asarray(x).dtype.kind in "biuf"}
    wrong = {name: x.shape for name, x in arrays.items() if x.ndim == 0 or len(x) != batch_size}
    if wrong or not arrays:
        raise ValueError(f"every array of a batch must have {batch_size} rows (train.batch_size), got {wrong}")
    return arrays


def _restore_or_init(
    config: ConfigDict, workdir: Path, task: Any, saver: RunCheckpoints, mesh: Any, say: Callable
) -> tuple[TrainState, PyTree, Optimizer, Any]:
    """Build the first state, or read the newest one: (state, frozen, optimizer, data iterator state or None).

    The frozen weights are not on the mesh yet.
    """
    with sharding.on_host():
        params = task.init(jax.random.fold_in(jax.random.key(config.train.seed), 0))
    table = getattr(task, "trainable", None) or config.optim.schedule
    optimizer = make_optimizer(config, params, table)
    trainable, frozen = parameters.partition(params, table)
    rules = _rules(task)
    state = sharding.build(lambda x: init_state(x, optimizer), trainable, mesh, rules=rules, notify=say)
    dtype = config.train.frozen_dtype
    if saver.latest_step() is None:
        with sharding.on_host():
            frozen = jax.tree.map(lambda x: _cast(x, dtype), frozen)
        if processes.is_writer():
            checkpoints.save_frozen(workdir, frozen)
        return state, frozen, optimizer, None
    restored = saver.restore(state.trainable, state.opt_state)
    # The frozen weights come from the work dir too: where they were first taken from may have changed since.
    kept = checkpoints.load_frozen(workdir)
    checkpoints.check_shapes(kept, frozen, f"{workdir / checkpoints.FROZEN}")
    step = jax.device_put(jnp.asarray(restored.step, jnp.int32), state.step.sharding)
    state = TrainState(step, restored.trainable, restored.ema, restored.opt_state)
    return state, kept, optimizer, restored.data_state


def _divide(frozen: PyTree, task: Any, mesh: Any, say: Callable) -> tuple[PyTree, PyTree]:
    """Put the frozen weights that a step reads on the devices, and keep the others in the host's memory: (both)."""
    reads = task.step_reads() if hasattr(task, "step_reads") else tuple(frozen)
    idle = jax.tree.map(np.asarray, {name: tree for name, tree in frozen.items() if name not in reads})
    read = {name: tree for name, tree in frozen.items() if name in reads}
    return sharding.place(read, mesh, rules=_rules(task), notify=say), idle


def _plan(config: ConfigDict, state: TrainState, frozen: PyTree, idle: PyTree, mesh: Any) -> list[str]:
    """Say in a few lines what the run will do."""
    options, device, first = config.train, jax.devices()[0], int(state.step)
    begin = f"continue from step {first} of" if first else "train"
    waits = f" ({parameters.count(idle):,} of them, {', '.join(idle)}, wait on the host)" if idle else ""
    return [
        f"{config.name}: {begin} {options.steps} steps x {options.batch_size} samples"
        f" = {options.steps * options.batch_size:,} samples",
        f"on {1 if mesh is None else sharding.describe(mesh.shape)} {device.platform} device(s) ({device.device_kind})"
        f"{'' if jax.process_count() == 1 else f' of {jax.process_count()} processes'};"
        f" {parameters.count(state.trainable):,} parameters train,"
        f" {parameters.count(frozen) + parameters.count(idle):,} are frozen"
        f"{waits};"
        " the first step compiles, which takes a while",
    ]


def _rules(task: Any) -> sharding.Rules:
    return getattr(task, "sharding_rules", sharding.RULES)


def _flops(task: Any) -> Utilisation | None:
    """Find what the progress line needs to tell how well the devices are used; None where operations are unknown."""
    count = getattr(task, "flops_per_sample", None)
    if count is None:
        return None
    each = chips.peak(jax.devices()[0].device_kind)
    return Utilisation(count(), None if each is None else each * jax.device_count())


def _say_end(run: _Run, step: int, stop: StopSignal) -> None:
    workdir = run.workdir
    if step < run.config.train.steps:
        run.progress.say(f"{stop.name}: saved step {step} in {workdir}; the same command continues from there")
        return
    run.progress.say(f"done: step {step} in {workdir} (metrics.jsonl, tensorboard/, samples/, checkpoints/)")
    run.progress.say(f"export: python launch/export.py --checkpoint={workdir} --out={workdir}/model")


def _cast(x: AnyArray, dtype: str) -> AnyArray:
    x = jnp.asarray(x)
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
