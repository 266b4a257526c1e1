"""Estimate, before anything is compiled, the memory that a run needs on each device.

With u the bytes of one stream of tokens [B n D] on one device, r the ratio of the MLP and K heads of d features:

    weights        frozen weights that the step reads, fp32 masters, their copies in the number type of compute
    optimizer      Adam's two moments (Muon's one for large matrices), the moving average, gradients: fp32
    activations    what the backward pass finds saved, and what one layer needs while it runs

Saved per layer by `remat`: `full` u, and u more beside the control branch; `save_attention` also attention's output and
its sums for each block, with `qkv` 3 u more, with `mlp` r u more; `none` about (9 + 3 r) u for each block. What a layer
needs at work is fitted to what XLA's compilers for TPUs, GPUs and CPUs report (`compile_check`);
benchmarks/compile_budgets.json and tests/devices/memory_test.py say how close that comes. `fit` holds the estimates
against the devices at hand. What a config leaves out is filled in where the model is built, whose config is read.
"""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from ml_collections import ConfigDict

from motionv2v import backbone, parameters, sections
from motionv2v.devices import sharding
from motionv2v.devices.host import GIB, MARGIN
from motionv2v.models import time_tables
from motionv2v.models.activations import AXES, BATCH, PIXELS_PER_LATENT, layout
from motionv2v.models.layers import REMAT_NAMES
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import PyTree

PROGRAMS = ("train", "train_pixels", "sample", "refine")
"""A step on cached latents, a step that runs the autoencoder too, a whole edit of a prompt already encoded, and one of
a draft that the config's base refines."""
STRIP_ROWS = 30
"""Of the autoencoder where memory is short (`models.vae.strips`)."""


class Fit(NamedTuple):
    """What was fitted to one platform's compiler.

    `decoder`, `encoder`: arrays of the autoencoder's largest layer at once, in strips, and whole. `copies`: share of
    the masters that are held in the number type of compute too. `attention_bytes` of a query's number at work; None:
    as the model computes. `computes_wide`: whether bfloat16 is computed in float32. `frees_early`: whether gradients
    come only when what the main blocks behind the branch saved is gone.
    """

    decoder: tuple[int, int]
    encoder: tuple[int, int]
    copies: float
    attention_bytes: int | None
    computes_wide: bool
    frees_early: bool


FITS = {
    "tpu": Fit((14, 28), (6, 12), 1.0, 4, False, False),
    "gpu": Fit((10, 16), (6, 12), 0.0, None, False, True),
    "cpu": Fit((10, 16), (6, 12), 1.0, 4, True, False),
}


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


def estimate(
    config: Any, mesh: Mesh | AbstractMesh | None = None, what: str = "train", available: float | None = None
) -> Estimate:
    """Estimate the memory of a program of a config on each device of a mesh; None is one device.

    Args:
        config: of the experiment. mesh: devices by the axes of `sharding`; only sizes and the platform are read.
        what: one of `PROGRAMS`. A config that trains the autoencoder has only `train`.
        available: bytes of a device. A sample that has room holds its weights whole, see `sampling_rules`.

    Raises:
        ValueError: for another program, or a config that cannot be built.
    """
    if what not in PROGRAMS:
        raise ValueError(f"unknown program {what!r}; available: {', '.join(PROGRAMS)}")
    mesh = abstract_mesh({}) if mesh is None else mesh
    config, what = sampled(config, what)
    model = backbone.build(config)
    config = model.config
    if what == "sample":
        params = sampling_shapes(config)
        rules = sharding.RULES if available is None else sampling_rules(config, params, mesh, available)
        return Estimate(sampled_bytes(config, params, mesh, rules), 0.0, sampling_bytes(config, mesh))
    params = parameter_shapes(config)
    trainable, frozen = parameters.partition(params, config.optim.schedule)
    runs_vae = what == "train_pixels" or model.denoiser is None
    if not runs_vae:
        reads = backbone.step_reads(latents=True, text=config.data.text_embeddings)
        frozen = {name: tree for name, tree in frozen.items() if name in reads}
    masters = stored_bytes(trainable, mesh, "float32")
    computes = model.vae.dtype if model.denoiser is None else model.denoiser.dit.dtype
    copies = fit(mesh).copies * masters / 2 if computes == jnp.bfloat16 else 0.0
    weights = masters + copies + stored_bytes(frozen, mesh, config.train.frozen_dtype)
    moments = {"adamw": 2, "muon": 1, "adafactor": 0}  # Adafactor's rows and columns are thousandths of a master
    optimizer = (moments[config.optim.name] + 2) * masters
    activations = 0.0
    if model.denoiser is not None:
        saved, working = _saved(model, mesh), _working(model, mesh, True)
        activations = saved + working
        depth, layers = model.denoiser.dit.control_depth, model.denoiser.dit.num_layers
        if fit(mesh).frees_early and depth:
            optimizer -= masters  # the gradients, which are counted where they are
            activations = max(activations, saved * 2 * depth / (layers + depth) + working + masters)
    if runs_vae:
        activations = max(activations, autoencoder_bytes(config, mesh, config.train.batch_size))
    return Estimate(weights, optimizer, activations)


def sampled(config: Any, what: str) -> tuple[Any, str]:
    """Return what a program takes the memory of: refining that of a sample of the base, others their own.

    An image-to-video model, which is given the first frame, is its own base.
    """
    if what != "refine" or "dit" not in config:
        return config, what
    config = sections.complete(config)
    reads_image = config.dit.in_channels != config.dit.out_channels
    return config if reads_image else backbone.base_config(config), "sample"


def parameter_shapes(config: Any) -> PyTree:
    """Return the shapes of a config's parameters, remembered: tracing a large model's initialisers takes seconds."""
    read = ("vae", "text", "dit", "method", "schedule", "data")
    needed = {name: config[name].to_dict() for name in read if name in config}
    needed.get("dit", {}).pop("remat", None)
    return _trace(json.dumps(needed, sort_keys=True))


def sampling_shapes(config: Any) -> PyTree:
    """Return the shapes of the parameters in the number type in which a loaded model holds them."""
    shapes = parameter_shapes(config)
    if sections.complete(config).dit.dtype != "bfloat16":
        return shapes
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)


@functools.lru_cache(maxsize=8)
def _trace(config):
    model = backbone.build(ConfigDict(json.loads(config)))
    return jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))


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


def abstract_mesh(sizes: Mapping[str, int], like: Mesh | AbstractMesh | None = None) -> AbstractMesh:
    """Build a mesh from the sizes of its axes; those left out have 1. Of devices of the kind in `like`, or of none."""
    sizes = {axis: sizes.get(axis, 1) for axis in AXES}
    like = like.abstract_mesh if isinstance(like, Mesh) else like
    device = None if like is None else like.abstract_device
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=types, abstract_device=device)


def fit(mesh: Mesh | AbstractMesh | None) -> Fit:
    """Return what was fitted to the platform of a mesh, or of jax's default device where the mesh has no devices."""
    mesh = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
    device = None if mesh is None else mesh.abstract_device
    return FITS.get(device.platform if device else jax.default_backend(), FITS["tpu"])


def stored_bytes(params: PyTree, mesh: Any, dtype: str | None = None, rules: sharding.Rules = sharding.RULES) -> float:
    """Add up the parts of parameters that one device stores, by the layout rules; None: in the types they have."""
    if not params:
        return 0.0
    specs = sharding.parameter_specs(params, mesh, rules, notify=lambda _: None)
    return float(
        sum(
            math.prod(NamedSharding(mesh, specs[path]).shard_shape(leaf.shape))
            * jnp.dtype(dtype or leaf.dtype).itemsize
            for path, leaf in parameters.flatten(params).items()
        )
    )


def sampled_bytes(config: Any, params: PyTree, mesh: Any, rules: sharding.Rules) -> float:
    """Add up what one device stores of what a sample reads, see `backbone.sampling_params`.

    That is neither the text encoder, a program of its own which stays only where it has room (`fit.holds_text`), nor
    the layers that read the diffusion time, but their tables of one row for each step.
    """
    time_layers, rest = time_tables.split(params["dit"])
    others = {name: tree for name, tree in params.items() if name not in ("dit", "text")}
    ending = f"{time_tables.MODULATION}/bias"
    biases = [leaf for path, leaf in parameters.flatten(time_layers).items() if path.endswith(ending)]
    row = sum(leaf.size * leaf.dtype.itemsize for leaf in biases)
    return stored_bytes({**others, "dit": rest}, mesh, rules=rules) + config.sample.num_steps * row


def sampling_rules(config: Any, params: PyTree, mesh: Any, available: float) -> sharding.Rules:
    """Return the layout of a sample's weights: whole along `context` where that has room, else divided along it too.

    The devices that share a clip then need not send each other every layer's weights at every step. Counted is the room
    that a sample takes in strips (`fit.with_strips_if_needed`).
    """
    narrow = sections.complete(config)
    if not narrow.vae.tile_size:
        narrow.vae.strip_rows = narrow.vae.strip_rows or STRIP_ROWS
    needed = sampled_bytes(config, params, mesh, sharding.WHOLE_RULES) + sampling_bytes(narrow, mesh)
    return sharding.WHOLE_RULES if needed <= MARGIN * available else sharding.RULES


class _Sizes(NamedTuple):
    """A device's share of the tokens: samples, all tokens of a sample, bytes of a number, u, and parts of heads."""

    samples: float
    tokens: int
    item: int
    stream: float
    head_parts: int


def _sizes(model, mesh, samples):
    dit = model.denoiser.dit
    _, *grid = latent_shape((1, *backbone.sampled_shape(model)), model.vae.latent_channels)[:4]
    tokens = model.config.data.text_length + math.prod(n // side for n, side in zip(grid, dit.patch, strict=True))
    rows = math.prod(mesh.shape[axis] for axis in BATCH)
    samples = max(samples / rows, 1.0)
    # XLA's CPU compiler computes bfloat16 in float32, and keeps what it saves for the backward pass so.
    item = 4 if fit(mesh).computes_wide else jnp.dtype(dit.dtype).itemsize
    stream = samples * -(-tokens // mesh.shape["context"]) * dit.width * item
    return _Sizes(samples, tokens, item, stream, mesh.shape["context"] * mesh.shape["tensor"])


def _saved(model, mesh):
    """Bytes that wait for the backward pass."""
    dit, train = model.denoiser.dit, model.config.train
    size = _sizes(model, mesh, train.batch_size / train.accumulate)
    blocks = dit.num_layers + dit.control_depth * dit.control_branches
    remat = {True: "full", False: "none"}.get(dit.remat, dit.remat)
    if remat == "none":
        return blocks * (1 + 8 * len(dit.axes) + 3 * dit.mlp_ratio) * size.stream
    saved = blocks * size.stream
    attentions = blocks * len(dit.axes)
    if remat in REMAT_NAMES:
        heads = size.samples * size.tokens * dit.num_heads / size.head_parts
        saved += attentions * heads * (dit.head_dim * size.item + 4)
        more = {"qkv": 3 * len(dit.axes), "mlp_up": dit.mlp_ratio}
        saved += blocks * size.stream / mesh.shape["tensor"] * sum(more[name] for name in REMAT_NAMES[remat])
    return saved


def _working(model, mesh, is_training):
    """Bytes that the layer at work needs, with its gradients when training, of one block or two."""
    dit, config = model.denoiser.dit, model.config
    samples = config.train.batch_size / config.train.accumulate if is_training else 2
    size = _sizes(model, mesh, samples)
    hidden = dit.mlp_ratio * size.stream / mesh.shape["tensor"]
    together = 2 if dit.control_depth and is_training else 1
    passes = 3 if is_training else 1
    streams = (8 * size.stream + 2 * hidden) * (together if is_training else 1)
    # Queries, keys and values in float32 and their gradients.
    heads = size.samples * size.tokens * dit.width / size.head_parts
    attention = 4 * heads * (fit(mesh).attention_bytes or size.item) * passes
    # Weights of attention, float32, a few at once: all of them, or of one block of 512 queries and keys.
    frames = latent_shape((1, *backbone.sampled_shape(model)), model.vae.latent_channels)[1] // dit.patch[0]
    length = size.tokens if "thw" in dit.axes else size.tokens // frames + config.data.text_length
    groups = 1 if "thw" in dit.axes else frames
    side = length if dit.attention_implementation == "xla" else min(length, 512)
    attention += (1 + passes) * 4 * size.samples * groups * side**2 * dit.num_heads / size.head_parts
    gathered = layer_weights(dit) * size.item  # of one layer, while the next one's are under way
    return streams + attention + 2 * gathered


def layer_weights(dit: Any) -> int:
    """Count the numbers in the kernels of one block that tokens pass through: all its attentions' and the MLP's."""
    return (4 * len(dit.axes) + 2 * dit.mlp_ratio) * dit.width**2


def autoencoder_bytes(config: Any, mesh: Mesh | AbstractMesh, samples: int, is_decoding: bool = False) -> float:
    """Estimate the autoencoder's largest layer, in arrays of 9 frames at full size and the narrowest width."""
    model = backbone.build(config)
    _, height, width, _ = backbone.clip_shape(model)
    if model.vae.tile_size is not None:
        height, width = min(height, model.vae.tile_size[0]), min(width, model.vae.tile_size[1])
    is_whole = model.vae.strip_rows is None or model.vae.strip_rows >= height
    fitted = fit(mesh)
    arrays = (fitted.decoder if is_decoding else fitted.encoder)[is_whole]
    item = 4 if fitted.computes_wide else jnp.dtype(model.vae.dtype).itemsize
    rows = math.prod(mesh.shape[axis] for axis in BATCH)
    clips = samples / rows if samples % rows == 0 else samples
    area = height * width / autoencoder_parts(config, mesh)
    return clips * 9 * area * model.vae.block_channels[0] * item * arrays


def sampling_bytes(config: Any, mesh: Mesh | AbstractMesh) -> float:
    """Estimate what one clip's sample works on, on each device: a denoising step, or the decoder."""
    model = backbone.build(config)
    return max(_working(model, mesh, False), autoencoder_bytes(config, mesh, 1, is_decoding=True))
