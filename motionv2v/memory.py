"""Estimate, before anything is compiled, the memory that a run needs on each device; refuse it where that is too much.

With u the bytes of one stream of tokens [B n D] on one device, r the ratio of the MLP and K heads of d features:

    weights        frozen weights that the step reads, fp32 masters, their copies in the number type of compute
    optimizer      Adam's two moments (Muon's one for large matrices), the moving average, gradients: fp32
    activations    what the backward pass finds saved, and what one layer needs while it runs

Saved per layer by `remat`: `full` u, and u more beside the control branch; `save_attention` also attention's output and
its sums for each block; `none` about (9 + 3 r) u for each block. What a layer needs at work is fitted to what XLA's
compilers report (`compile_check`); benchmarks/tpu_budgets.json and tests/memory_test.py say how close that comes.
"""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from ml_collections import ConfigDict

from motionv2v import flops, optim, sharding
from motionv2v import model as modeling
from motionv2v.models.activations import AXES, BATCH, PIXELS_PER_LATENT, layout
from motionv2v.models.vae import latent_shape
from motionv2v.typing import PyTree

GIB = 2**30
PROGRAMS = ("train", "train_pixels", "sample")
"""A step on cached latents, a step that runs the autoencoder too, a whole edit of a prompt already encoded."""
FITTED = ("train", "train_pixels")
"""Programs whose estimate is close enough to refuse a run; the others are said, and warned of."""
STRIP_ROWS = 30
MARGIN = 0.95
"""Share of a device's memory that an estimate may fill: runtimes keep some, and it fragments."""


ENCODER_ARRAYS, DECODER_ARRAYS = (6, 12), (14, 28)
"""In strips, and whole: what the TPU's compiler needs for 49x480x720 in bfloat16. The CPU's needs half."""


class Estimate(NamedTuple):
    """Bytes on one device; see the module's docstring."""

    weights: float
    optimizer: float
    activations: float

    @property
    def peak(self) -> float:
        """Return the sum."""
        return self.weights + self.optimizer + self.activations

    def __str__(self) -> str:
        """Write the four numbers in GiB."""
        parts = [f"{name} {getattr(self, name) / GIB:.2f}" for name in self._fields]
        return f"{' + '.join(parts)} = {self.peak / GIB:.2f} GiB per device"


def estimate(config: Any, mesh: Mesh | AbstractMesh | None = None, what: str = "train") -> Estimate:
    """Estimate the memory of a program of a config on each device of a mesh; None is one device.

    Args:
        config: of the experiment. mesh: devices by the axes of `sharding`; only sizes are read.
        what: one of `PROGRAMS`. A config that trains the autoencoder has only `train`.

    Raises:
        ValueError: for another program, or a config that cannot be built.
    """
    if what not in PROGRAMS:
        raise ValueError(f"unknown program {what!r}; available: {', '.join(PROGRAMS)}")
    mesh = abstract_mesh({}) if mesh is None else mesh
    model = modeling.build(config)
    params = _shapes(config)
    if what == "sample":
        dtype = "bfloat16" if model.denoiser.dit.dtype == jnp.bfloat16 else "float32"
        # The text encoder is a program of its own, and stays only where it has room: `holds_text`.
        params = {name: tree for name, tree in params.items() if name != "text"}
        return Estimate(_bytes(params, mesh, dtype), 0.0, _sampling(config, model, mesh))
    trainable, frozen = optim.partition(params, config.optim.schedule)
    runs_vae = what == "train_pixels" or model.denoiser is None
    if not runs_vae:
        reads = modeling.step_reads(latents=True, text=bool(config.data.get("text_embeddings")))
        frozen = {name: tree for name, tree in frozen.items() if name in reads}
    masters = _bytes(trainable, mesh, "float32")
    computes = model.vae.dtype if model.denoiser is None else model.denoiser.dit.dtype
    copies = masters / 2 if computes == jnp.bfloat16 else 0.0
    weights = masters + copies + _bytes(frozen, mesh, config.train.get("frozen_dtype", "float32"))
    moments = 1 if config.optim.name == "muon" else 2
    activations = 0.0 if model.denoiser is None else _saved(config, model, mesh) + _working(config, model, mesh, True)
    if runs_vae:
        activations = max(activations, _autoencoder(config, model, mesh, config.train.batch_size))
    return Estimate(weights, (moments + 2) * masters, activations)


def capacity(device: Any = None) -> float | None:
    """Return the bytes that a device has for a program, None where nothing says.

    That is the limit of jax's allocator, else what its maker states; for a CPU the host's free memory, or that of the
    control group the process runs in, shared by the CPU devices of this process.
    """
    device = jax.local_devices()[0] if device is None else device
    if device.platform == "cpu":
        free = host_memory()
        return None if free is None else free / len(jax.local_devices(backend="cpu"))
    limit = (device.memory_stats() or {}).get("bytes_limit")
    chip = flops.chip(device.device_kind)
    return float(limit) if limit else float(chip.memory) if chip else None


def host_memory(root: Path = Path("/")) -> float | None:
    """Return the bytes that this process may still take on a Linux host; None on other systems.

    `root` is the folder that holds `proc` and `sys`.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            folder = root / "sys/fs/cgroup"
            found.append(float((folder / limit).read_text()) - float((folder / used).read_text()))
    return min(found, default=None)


def check(
    config: Any,
    mesh: Mesh | AbstractMesh | None = None,
    what: str = "train",
    *,
    available: float | None = None,
    say: Callable[[str], None] = print,
) -> Estimate:
    """Say in one line what a program of a config needs on each device, and refuse it where the device is too small.

    Args:
        config, mesh, what: as for `estimate`. available: bytes of a device; None asks it (`capacity`).
        say: called once with the line.

    Raises:
        ValueError: if the estimate of one of `FITTED` exceeds `MARGIN` of what is available, saying what would fit. Of
            another program the line says so, unless even what it stores is more than there is.
    """
    available = capacity() if available is None else available
    needed = estimate(config, mesh, what)
    has = "unknown" if available is None else f"{available / GIB:.2f} GiB"
    line = f"memory for {what}: {needed} estimated; available: {has}"
    if available is None or needed.peak <= MARGIN * available:
        say(line)
        return needed
    fits = advice(config, mesh, what, available)
    if what not in FITTED and needed.weights + needed.optimizer <= available:
        say(f"{line}; this may fail: {fits}")
        return needed
    say(line)
    raise ValueError(
        f"{what} needs about {needed.peak / GIB:.1f} GiB on each device, which has {available / GIB:.1f}; {fits}"
    )


def with_strips_if_needed(config: Any, params: PyTree, mesh: Any = None, available: float | None = None) -> Any:
    """Return a config whose autoencoder works in strips of `STRIP_ROWS` if a sample would not fit without.

    They change nothing in the result (`models.vae_strips`) and cost a few hundredths of the autoencoder's time. A
    config that says how it saves memory is left alone. `params`: with dtypes; `available`: as for `check`.
    """
    if not params or config.vae.get("strip_rows") or config.vae.get("tile_size"):
        return config
    if available is None and (jax.process_count() == 1 or jax.default_backend() != "cpu"):
        # What is free on a host differs between processes, which must all run one program.
        available = capacity()
    mesh = abstract_mesh({}) if mesh is None else mesh
    weights = _bytes({name: tree for name, tree in params.items() if name != "text"}, mesh)
    if available is None or weights + _sampling(config, modeling.build(config), mesh) <= MARGIN * available:
        return config
    config = ConfigDict(config.to_dict())
    config.vae.strip_rows = STRIP_ROWS
    return config


def holds_text(config: Any, params: PyTree, mesh: Mesh | None = None, available: float | None = None) -> bool:
    """Tell whether the text encoder's parameters have room on the devices beside a sample's; on a CPU they always do.

    `available`: bytes of a device; None asks it, and takes that there is room where nothing says.
    """
    if available is None:
        available = None if jax.default_backend() == "cpu" else capacity()
    if available is None:
        return True
    mesh = abstract_mesh({}) if mesh is None else mesh
    return _bytes(params, mesh) + _sampling(config, modeling.build(config), mesh) <= MARGIN * available


def pairs_at_once(config: Any, most: int = 16, available: float | None = None) -> int:
    """Return how many pairs a device can encode at once: a power of two, at least 1.

    The four clips of a pair, both videos and both sets of blobs, are encoded in turn. `available`: bytes of the device;
    None asks it, and takes `most` where nothing says.
    """
    available = capacity() if available is None else available
    model, count = modeling.build(config), most
    weights = _bytes({"vae": _shapes(config)["vae"]}, abstract_mesh({}), "float32")
    clip = _autoencoder(config, model, abstract_mesh({}), 1)
    while available is not None and count > 1 and weights + count * clip > MARGIN * available:
        count //= 2
    return count


def edits_at_once(config: Any, mesh: Mesh | None = None, most: int = 10, available: float | None = None) -> int:
    """Return how many clips the devices of a mesh can edit in one batch, 1 to `most`; `available` as above."""
    available = capacity() if available is None else available
    if available is None:
        return most
    needed = estimate(config, mesh, "sample")
    return max(1, min(most, int((MARGIN * available - needed.weights) / needed.activations)))


def advice(config: Any, mesh: Mesh | AbstractMesh | None, what: str, available: float) -> str:
    """Name the smallest changes after which an estimate fits into `available` bytes, or say that none of them does."""
    is_less = lambda changed, other: estimate(changed, other, what).peak <= MARGIN * available  # noqa: E731
    fits = [name for name, changed, other in _changes(config, mesh, what) if is_less(changed, other)]
    return f"would fit: {'; '.join(fits[:4])}" if fits else "no smaller batch, remat, number type or mesh would fit"


def _changes(config, mesh, what):
    """Yield (description, config, mesh) of what a person could change, the least harmful first."""
    mesh = abstract_mesh({}) if mesh is None else mesh
    plain = ConfigDict(config.to_dict())

    def changed(**fields):
        other = ConfigDict(plain.to_dict())
        other.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return other

    smaller = plain
    if what != "sample":
        if plain.train.get("frozen_dtype", "float32") != "bfloat16":
            plain.train.frozen_dtype = plain.train.get("frozen_dtype", "float32")
            smaller = changed(train__frozen_dtype="bfloat16")
            yield "train.frozen_dtype='bfloat16'", smaller, mesh
        if "dit" in plain and plain.dit.get("remat", "none") != "full":
            plain.dit.remat = plain.dit.get("remat", "none")
            smaller = changed(dit__remat="full")
            yield "dit.remat='full'", smaller, mesh
        rows = math.prod(mesh.shape[axis] for axis in BATCH)
        sizes = [plain.train.batch_size // 2**n for n in range(1, 12)]
        for size in sizes:
            if size >= rows and size % (rows * plain.train.get("accumulate", 1)) == 0:
                yield f"train.batch_size={size}", changed(train__batch_size=size), mesh
        accumulate = [n for n in (2, 4, 8, 16, 32) if plain.train.batch_size % (rows * n) == 0]
        for count in accumulate:
            plain.train.accumulate = plain.train.get("accumulate", 1)
            yield f"train.accumulate={count}", changed(train__accumulate=count), mesh
    for factor in (2, 4, 8, 16, 32, 64, 128):
        sizes = {**mesh.shape, "fsdp": mesh.shape["fsdp"] * factor}
        if what == "sample":
            other = abstract_mesh(sampling_sizes(plain, mesh.size * factor))
            yield f"{other.size} devices (mesh {sharding.describe(other.shape)})", plain, other
        elif plain.train.batch_size % (sizes["data"] * sizes["fsdp"]) == 0:
            yield f"mesh.fsdp={sizes['fsdp']} ({mesh.size * factor} devices)", plain, abstract_mesh(sizes)


def _shapes(config):
    """Return the shapes of a config's parameters, remembered: tracing a large model's initialisers takes seconds."""
    sections = ("vae", "text", "dit", "method", "schedule", "data")
    needed = {name: config[name].to_dict() for name in sections if name in config}
    needed.get("dit", {}).pop("remat", None)
    return _trace(json.dumps(needed, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _trace(config):
    model = modeling.build(ConfigDict(json.loads(config)))
    return jax.eval_shape(lambda key: modeling.init_params(key, model), jax.random.key(0))


def autoencoder_parts(config: Any, mesh: Mesh | AbstractMesh) -> int:
    """Return over how many devices of a mesh the autoencoder divides one clip: those that divide its latents' sides."""
    grid = latent_shape((1, config.data.num_frames, *config.data.size, 3), spatial_compression=PIXELS_PER_LATENT)
    mesh = abstract_mesh(mesh.shape)
    with jax.sharding.use_abstract_mesh(mesh):
        share = NamedSharding(mesh, layout(grid, "latents")).shard_shape(grid)
    return math.prod(grid) // math.prod(share)


def sampling_sizes(config: Any, count: int) -> dict[str, int]:
    """Divide one guided sample: both predictions over `data`, tokens and heads over `context` and `tensor`.

    As many devices as the heads allow share a prediction; how the two axes share them is chosen for the autoencoder,
    whose rows and columns both must divide, and then for the larger `context`, which sends less. The rest is `fsdp`.
    """
    data = 2 if count % 2 == 0 and config.sample.guidance != "off" else 1
    both = math.gcd(config.dit.num_heads, count // data)

    def parts(tensor: int) -> int:
        return autoencoder_parts(config, abstract_mesh({"context": both // tensor, "tensor": tensor}))

    tensor = max((n for n in range(1, both + 1) if both % n == 0), key=parts)
    return {"data": data, "context": both // tensor, "tensor": tensor, "fsdp": count // data // both}


def abstract_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
    """Build a mesh of no particular devices from the sizes of its axes; those left out have 1."""
    sizes = {axis: sizes.get(axis, 1) for axis in AXES}
    return AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _bytes(params: PyTree, mesh: Any, dtype: str | None = None) -> float:
    """Add up the parts of parameters that one device stores, by the layout rules; None: in the types they have."""
    if not params:
        return 0.0
    specs = sharding.parameter_specs(params, mesh, notify=lambda _: None)
    return float(
        sum(
            math.prod(NamedSharding(mesh, specs[path]).shard_shape(leaf.shape))
            * jnp.dtype(dtype or leaf.dtype).itemsize
            for path, leaf in optim.flatten(params).items()
        )
    )


class _Sizes(NamedTuple):
    """A device's share of the tokens: samples, all tokens of a sample, bytes of a number, u, and parts of heads."""

    samples: float
    tokens: int
    item: int
    stream: float
    head_parts: int


def _sizes(config, model, mesh, samples):
    dit = model.denoiser.dit
    _, *grid = latent_shape((1, *modeling.clip_shape(model)), model.vae.latent_channels)[:4]
    tokens = config.data.text_length + math.prod(n // side for n, side in zip(grid, dit.patch, strict=True))
    rows = math.prod(mesh.shape[axis] for axis in BATCH)
    samples = max(samples / rows, 1.0)
    item = jnp.dtype(dit.dtype).itemsize
    stream = samples * -(-tokens // mesh.shape["context"]) * dit.width * item
    return _Sizes(samples, tokens, item, stream, mesh.shape["context"] * mesh.shape["tensor"])


def _saved(config, model, mesh):
    """Bytes that wait for the backward pass."""
    dit = model.denoiser.dit
    size = _sizes(config, model, mesh, config.train.batch_size / config.train.get("accumulate", 1))
    blocks = dit.num_layers + dit.control_depth
    remat = {True: "full", False: "none"}.get(dit.remat, dit.remat)
    if remat == "none":
        return blocks * (9 + 3 * dit.mlp_ratio) * size.stream
    saved = blocks * size.stream
    if remat == "save_attention":
        heads = size.samples * size.tokens * dit.num_heads / size.head_parts
        saved += blocks * heads * (dit.head_dim * size.item + 4)
    return saved


def _working(config, model, mesh, is_training):
    """Bytes that the layer at work needs, with its gradients when training, of one block or two."""
    dit = model.denoiser.dit
    samples = config.train.batch_size / config.train.get("accumulate", 1) if is_training else 2
    size = _sizes(config, model, mesh, samples)
    hidden = dit.mlp_ratio * size.stream / mesh.shape["tensor"]
    together = 2 if dit.control_depth and is_training else 1
    passes = 3 if is_training else 1
    streams = (8 * size.stream + 2 * hidden) * (together if is_training else 1)
    # Queries, keys and values in float32 and their gradients.
    heads = size.samples * size.tokens * dit.width / size.head_parts
    attention = 4 * heads * 4 * passes
    # Weights of attention, float32, a few at once: all of them, or of one block of 512 queries and keys.
    side = size.tokens if dit.attention_implementation == "xla" else min(size.tokens, 512)
    attention += (1 + passes) * 4 * size.samples * side**2 * dit.num_heads / size.head_parts
    block = 12 * dit.width**2 * size.item  # one layer's weights, gathered
    return streams + attention + 2 * block


def _autoencoder(config, model, mesh, samples, is_decoding=False):
    """Bytes of the largest layer, in arrays of 9 frames at full size and the narrowest width; one clip per sample."""
    _, height, width, _ = modeling.clip_shape(model)
    if model.vae.tile_size is not None:
        height, width = min(height, model.vae.tile_size[0]), min(width, model.vae.tile_size[1])
    is_whole = model.vae.strip_rows is None or model.vae.strip_rows >= height
    arrays = (DECODER_ARRAYS if is_decoding else ENCODER_ARRAYS)[is_whole]
    rows = math.prod(mesh.shape[axis] for axis in BATCH)
    clips = samples / rows if samples % rows == 0 else samples
    area = height * width / autoencoder_parts(config, mesh)
    return clips * 9 * area * model.vae.block_channels[0] * jnp.dtype(model.vae.dtype).itemsize * arrays


def _sampling(config, model, mesh):
    return max(_working(config, model, mesh, False), _autoencoder(config, model, mesh, 1, is_decoding=True))
