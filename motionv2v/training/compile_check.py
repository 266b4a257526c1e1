"""Compile the real training step and the real sampler for devices that this machine does not have, and measure them.

Nothing is allocated and nothing runs: parameters, state and batch are shapes with a layout, and the compiler of the
target says how many bytes each device needs and what the devices send each other. `topologies` says what there is to
compile for; a program is one of `memory.PROGRAMS`: `train`, a step on cached latents; `train_pixels`, one that draws
the conditions and runs the autoencoder too; `sample`, a whole edit of an encoded prompt, all denoising steps and
guidance included, from pixels to pixels; `refine`, the same of a draft that the config's base refines, on one device.

The roofline is the least time a step can take: operations that the mathematics needs at the peak rate; arguments and
results once through memory; what the devices send each other at the full rate of their links. The longest of the three
bounds a step that overlaps them perfectly.
"""

import contextlib
import math
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from motionv2v import backbone, editing, methods, parameters, sampling, sections
from motionv2v.data import latents, tokenizer
from motionv2v.devices import chips, costs, fit, memory, sharding, topologies, traffic
from motionv2v.editing import refine, transfer
from motionv2v.models import time_tables
from motionv2v.models.activations import BATCH
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.training import dataset, loop, tasks
from motionv2v.training.optimizer import make_optimizer
from motionv2v.typing import PyTree

GIB = 2**30


class Program(NamedTuple):
    """A jitted function, its abstract arguments laid out on the mesh, and its static ones; bytes of the optimizer's."""

    function: Any
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    optimizer_bytes: int
    flops: float


class Report(NamedTuple):
    """What the compiler says of one program; bytes are those of one device, times in seconds.

    `peak` holds all the rest at the worst moment. `collectives` are of one execution, {kind: [count, bytes]};
    `operations` those of all devices together; the three `_time`s are the roofline. `_cpu` are seconds of this
    machine's processors, which other work on it does not change. `cost` is the compiler's own count for one device, of
    every loop's body once and of kernels only what they state: {"flops", "bytes accessed"} and whatever else it says.
    """

    program: str
    topology: str
    device: str
    devices: int
    mesh: str
    weights: int
    optimizer: int
    activations: int
    peak: int
    capacity: float
    estimate: float
    collectives: dict[str, list[int]]
    lower_seconds: float
    compile_seconds: float
    lower_cpu: float
    compile_cpu: float
    operations: float
    compute_time: float
    memory_time: float
    link_time: float
    cost: dict[str, float]


def make_mesh(config: Any, devices: list[Any], what: str) -> Mesh:
    """Arrange devices: by `config.mesh` for training, by `memory.sampling_sizes` for one edit. ValueError as there."""
    config = sections.complete(config)
    if what == "sample":
        mesh = sharding.make_mesh(memory.sampling_sizes(config, len(devices)), devices=devices)
    else:
        try:
            mesh = sharding.training_mesh(config, devices)
        except ValueError as error:
            raise ValueError(f"{error}, or none at all: the config's own mesh takes any number") from None
    sharding.check(mesh, config, is_training=what != "sample")
    return mesh


def build(config: Any, mesh: Mesh, what: str) -> Program:
    """Build a program of a config for a mesh. Raises ValueError for a program that the config does not have."""
    if what not in memory.PROGRAMS:
        raise ValueError(f"unknown program {what!r}; available: {', '.join(memory.PROGRAMS)}")
    config = sections.complete(config)
    if what != "train" and "dit" not in config:
        raise ValueError(f"{config.name} has no transformer: its only program is 'train'")
    builders = {"sample": _sampler, "refine": _refiner}
    return builders[what](config, mesh) if what in builders else _training(config, mesh, what)


def _training(config: Any, mesh: Mesh, what: str) -> Program:
    task = tasks.make(config)
    params = _shapes(task.model)
    optimizer = make_optimizer(config, params, task.trainable)
    trainable, frozen = parameters.partition(params, task.trainable)
    state = jax.eval_shape(lambda masters: loop.init_state(masters, optimizer), trainable)
    layout = sharding.shardings(state, trainable, mesh)
    is_cached = what == "train" and task.model.denoiser is not None
    if is_cached:
        reads = backbone.step_reads(latents=True, text=config.data.text_embeddings)
        frozen = {name: tree for name, tree in frozen.items() if name in reads}
    frozen = _cast(frozen, config.train.frozen_dtype)
    batch = (latents_batch if is_cached else pixels_batch)(config, task.model, config.train.batch_size)
    rows = NamedSharding(mesh, PartitionSpec(BATCH))
    placed = _place(state, layout)
    arguments = (
        placed,
        _place(frozen, sharding.shardings(frozen, frozen, mesh)),
        _place(batch, jax.tree.map(lambda _: rows, batch)),
    )
    step = loop.make_train_step(task.loss, optimizer, config, layout)
    count = getattr(task, "flops_per_sample", lambda: math.nan)()
    return Program(step, arguments, {}, _local_bytes((placed.ema, placed.opt_state)), count * config.train.batch_size)


def _sampler(config: Any, mesh: Mesh, size: int = 1) -> Program:
    settings = sampling.from_config(config.sample)
    params = _sampling_params(config, settings)
    # Bytes stand in for a vocabulary: the program sees no tokens, only their embeddings.
    tokens = tokenizer.make("bytes", config.data.text_length)
    # As `opening.device_mesh`: one device edits without a mesh, and predicts with and without the text in turns.
    editor = editing.Editor(config, {}, mesh=None if mesh.size == 1 else mesh, tokenizer=tokens)
    model = editor.model
    whole = NamedSharding(mesh, PartitionSpec())
    given = _rows_of(backbone.sample_shapes(model, _num_points(config)), size)
    text = jax.ShapeDtypeStruct((size, config.data.text_length, model.denoiser.dit.text_dim), model.text.dtype)
    arguments = (
        _placed_params(config, params, mesh),
        *_place_whole((jax.eval_shape(lambda: jax.random.key(0)), given, text, text), whole),
    )
    shape = backbone.sampled_shape(model)[:3]
    skip = (shape[0] - backbone.clip_shape(model)[0]) // model.vae.temporal_compression
    static = {"settings": settings, "use_control": model.method is not None, "shape": shape, "skip": skip}
    _, operations = costs.counted(model, params, settings, static["use_control"])
    generate = jax.jit(editor._sample_fn, static_argnames=tuple(static))
    return Program(generate, arguments, static, 0, size * operations)


def _refiner(config: Any, mesh: Mesh | AbstractMesh) -> Program:
    """A draft refined on one device: encoded, held to its clocks while noise hides it, decoded."""
    if mesh.size > 1:
        raise ValueError(f"refining takes one device, and there are {mesh.size}")
    refiner = refine.Refiner(config, {}, tokenizer=tokenizer.make("bytes", config.data.text_length))
    model, whole = refiner.model, NamedSharding(mesh, PartitionSpec())
    settings = refiner.settings(*transfer.sampled_as(refiner.config))
    params = _sampling_params(config, settings)
    if refiner.reads_image and not model.method.continues():
        raise ValueError(f"{config.name} is more than its image-to-video base, which alone refines")
    clip, (longer, _) = backbone.clip_shape(model), refiner.longer(backbone.clip_shape(model)[:3])
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((1, *sizes), dtype)  # noqa: E731
    batch = {"target": shape(*longer, 3, dtype=jnp.uint8), "has_last": shape(dtype=jnp.bool)}
    text = shape(config.data.text_length, model.denoiser.dit.text_dim, dtype=model.text.dtype)
    clock = shape(*latent_shape((1, *clip), model.vae.latent_channels)[1:4], 1)
    key, start = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    given = (key, batch if refiner.reads_image else {}, shape(*clip, dtype=jnp.uint8), clock, start, text, text)
    arguments = (_placed_params(config, params, mesh), *_place_whole(given, whole), None)
    static = {"settings": settings, "use_control": refiner.reads_image}
    first = refine.first_step(model.schedule, settings.num_steps, refiner.clocks.weak)
    _, operations = costs.counted(model, params, settings._replace(start=first), refiner.reads_image)
    return Program(jax.jit(refiner._refine_fn, static_argnames=tuple(static)), arguments, static, 0, operations)


def _sampling_params(config: Any, settings: sampling.Settings) -> PyTree:
    """Return the shapes of the parameters that a sample reads, tables of the time among them."""
    model, params = backbone.build(config), memory.sampling_shapes(config)
    time_layers, _ = time_tables.split(params["dit"])
    tables = jax.eval_shape(lambda weights: backbone.tabulate(model, weights, settings), time_layers)
    return backbone.sampling_params(params, tables)


def _placed_params(config: Any, params: PyTree, mesh: Mesh) -> PyTree:
    """Lay those parameters out on a mesh as a loaded model does."""
    chip = chips.chip(mesh.devices.flat[0].device_kind)
    shapes = memory.sampling_shapes(config)
    rules = fit.sampling_rules(config, shapes, mesh, float(chip.memory)) if chip else sharding.RULES
    weights = {name: tree for name, tree in params.items() if name != "time"}
    placed = _place(weights, sharding.shardings(weights, weights, mesh, rules=rules))
    return placed | _place_whole({"time": params["time"]}, NamedSharding(mesh, PartitionSpec()))


def latents_batch(config: Any, model: backbone.Model, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of `size` cached samples, as `data.latents` stores them, and `text_embeddings`."""
    shape = latent_shape(backbone.clip_shape(model), model.vae.latent_channels)
    target = jax.ShapeDtypeStruct(shape, np.float16)
    conditions = {"videos": {"source_video": target}} if model.method is None else backbone.condition_shapes(model)
    stored = {"target_latents": target, **latents.stored(conditions)}
    batch = {name: jax.ShapeDtypeStruct((size, *x.shape), np.float16) for name, x in stored.items()}
    length = config.data.text_length
    if config.data.text_embeddings:
        batch["text"] = jax.ShapeDtypeStruct((size, length, model.denoiser.dit.text_dim), np.float16)
    return batch | {"tokens": jax.ShapeDtypeStruct((size, length), np.int32)}


def pixels_batch(config: Any, model: backbone.Model, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of `size` drawn or stored pairs: clips, tracks, tokens, and what else is read."""
    frames, height, width, _ = backbone.clip_shape(model)
    sizes = {"T": frames, "H": height, "W": width, "N": _num_points(config)}
    pair = methods.fields.shapes(methods.fields.select(("source", "target", "source_tracks", "target_tracks")), sizes)
    rows = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in pair.items()}
    rows |= {"edited": jax.ShapeDtypeStruct((sizes["N"],), bool)}
    rows |= {"tokens": jax.ShapeDtypeStruct((config.data.text_length,), np.int32)}
    return _rows_of(rows | backbone.sample_shapes(model, sizes["N"]), size)


def _rows_of(sample: dict[str, jax.ShapeDtypeStruct], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for name, x in sample.items()}


def _num_points(config: Any) -> int:
    return dataset.scene_config(config).num_points


def check(config: Any, topology: str, what: str = "train") -> tuple[Report, Any]:
    """Compile a program of a config for a topology; return the report and jax's compiled program.

    Raises:
        ValueError: for an unknown topology or program, a mesh or batch that does not fit it, or a program that needs
            more memory than the device has, each with what would fit.
    """
    found, program_name = topologies.devices(topology), what
    config, what = memory.sampled(sections.complete(config), what)
    mesh = make_mesh(config, found, what)
    chip = chips.chip(found[0].device_kind)
    if what == "sample" and chip and "dit" in config:
        shapes = memory.sampling_shapes(config)
        config = fit.with_strips_if_needed(config, shapes, mesh, float(chip.memory))
    program = build(config, mesh, program_name)
    estimate = memory.estimate(config, mesh, what, float(chip.memory) if chip else None)
    start = _Times.now()
    with sharding.use(mesh):
        lowered = program.function.lower(*program.arguments, **program.static)
    middle = _Times.now()
    with _explained(config, mesh, what, chip):
        compiled = lowered.compile()
    end = _Times.now()
    used = compiled.memory_analysis()
    exchanged = traffic.traffic(compiled.as_text())
    peak = _peak(used, found[0].platform)
    sent = sum(one.bytes for one in exchanged.values())
    per_chip = program.flops / len(found)
    moved = used.argument_size_in_bytes + used.output_size_in_bytes
    report = Report(
        program=program_name,
        topology=topology,
        device=found[0].device_kind,
        devices=len(found),
        mesh=sharding.describe(mesh.shape),
        weights=used.argument_size_in_bytes - program.optimizer_bytes,
        optimizer=program.optimizer_bytes,
        activations=peak - used.argument_size_in_bytes,
        peak=peak,
        capacity=chip.memory if chip else math.nan,
        estimate=estimate.peak,
        collectives={kind: list(one) for kind, one in exchanged.items()},
        lower_seconds=middle.wall - start.wall,
        compile_seconds=end.wall - middle.wall,
        lower_cpu=middle.cpu - start.cpu,
        compile_cpu=end.cpu - middle.cpu,
        operations=program.flops,
        compute_time=per_chip / chip.flops if chip else math.nan,
        memory_time=moved / chip.bandwidth if chip else math.nan,
        link_time=sent / chip.link if chip else math.nan,
        cost=_cost(compiled),
    )
    return report, compiled


def table(report: Report) -> str:
    """Write a report for people."""
    lines = [
        f"{report.program} for {report.topology}: {report.devices} x {report.device}, mesh {report.mesh}",
        f"  weights      {report.weights / GIB:9.2f} GiB per device, with the batch",
        f"  optimizer    {report.optimizer / GIB:9.2f} GiB",
        f"  activations  {report.activations / GIB:9.2f} GiB, gradients and temporary arrays",
    ]
    of = "" if math.isnan(report.capacity) else f" of {report.capacity / GIB:.1f}"
    lines += [
        f"  peak         {report.peak / GIB:9.2f} GiB{of} (estimated without compiling: {report.estimate / GIB:.2f})"
    ]
    if report.device == "cpu":
        lines += [
            "    (the CPU's compiler computes bfloat16 in float32: a TPU or GPU needs about half of the activations)"
        ]
    lines += [f"  {kind:19s} {count:5d} x, {size / GIB:8.2f} GiB" for kind, (count, size) in report.collectives.items()]
    lines += [
        f"  lowered in {report.lower_seconds:.0f} s ({report.lower_cpu:.0f} s of CPU), compiled in "
        f"{report.compile_seconds:.0f} s ({report.compile_cpu:.0f} s of CPU)"
    ]
    if "flops" in report.cost:
        counted = report.cost["flops"] / 1e12, report.cost.get("bytes accessed", math.nan) / GIB
        lines += [f"  compiler's count, loops once: {counted[0]:,.2f} TFLOP and {counted[1]:,.1f} GiB moved per device"]
    lines += [f"  {report.operations / 1e12:,.1f} TFLOP needed on all devices"]
    if not math.isnan(report.compute_time):
        parts = (report.compute_time, report.memory_time, report.link_time)
        lines += [f"  at least {max(parts):.3f} s: compute {parts[0]:.3f}, memory {parts[1]:.3f}, links {parts[2]:.3f}"]
    return "\n".join(lines)


@contextlib.contextmanager
def _explained(config: Any, mesh: Mesh, what: str, chip: chips.Chip | None) -> Iterator[None]:
    """Turn the compiler's refusal into a line that says what would fit."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise ValueError(f"{what}: the compiler fails: {' '.join(str(error).split())[:300]}") from error
        text = " ".join(str(error).split())
        space = re.search(r"memory space (\w+)", text)
        sizes = re.search(
            r"(Used [\d.]+\w+ of [\d.]+\w+|Scoped allocation with size [\d.]+\w+ and limit [\d.]+\w+)", text
        )
        reason = sizes[1] if sizes else text[:200]
        if space and space[1] == "vmem":
            raise ValueError(
                f"{what} does not compile: a kernel needs more of the chip's own memory than XLA grants: {reason}; "
                "expected smaller blocks in motionv2v.models.attention.splash.BLOCKS"
            ) from None
        advice = fit.advice(config, mesh, what, float(chip.memory) if chip else math.inf)
        raise ValueError(f"{what} does not fit: {reason}; {advice}") from None


class _Times(NamedTuple):
    """Clocks, in seconds: on the wall, and of the processors in this process, the compiler's threads included."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "_Times":
        """Read both clocks."""
        return cls(time.perf_counter(), time.process_time())


def _cost(compiled: Any) -> dict[str, float]:
    """Return the compiler's own count of a program, without the many entries for single operands."""
    found = compiled.cost_analysis() or {}
    return {name: float(value) for name, value in found.items() if not re.search(r"[\d{]", name)}


def _peak(used: Any, platform: str) -> int:
    """Return the bytes at the worst moment; XLA's CPU compiler leaves its temporary arrays out of that number."""
    if platform != "cpu":
        return used.peak_memory_in_bytes
    given = used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes
    return given + used.temp_size_in_bytes


def _shapes(model: backbone.Model) -> PyTree:
    return jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))


def _place(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _place_whole(tree: PyTree, whole: NamedSharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)


def _cast(tree: PyTree, dtype: str) -> PyTree:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype), tree
    )


def _local_bytes(tree: PyTree) -> int:
    """Add up what one device stores."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
