"""Spread a model over many devices: the mesh, where parameters lie on it, and where a batch goes.

The mesh has four axes. `data` holds copies of the model, each with its part of the batch. `fsdp` divides the batch too,
and the parameters with it: every device stores a part and gathers a layer's weights when it needs them. `context`
divides the tokens of a sample, `tensor` heads and hidden layers. Where activations lie is said in
`models.activations`, which the models use; `use(mesh)` puts a mesh in force for them.

Parameters are laid out by `RULES`: (pattern, axes of the last dimensions). As in `parameters`, the first pattern that
matches the whole path decides, and a parameter that nobody named is an error. Dimensions in front of those named, such
as the stack of blocks, stay whole; so does a dimension that the axes do not divide. Optimizer state and averages lie
where their parameter lies. Kernels that read the width are divided along it over `EMBED`, the other side of a large
kernel over `tensor`; norms, biases, what embeds patches and time, conditioners and autoencoder are whole everywhere.
A conditioner's embeddings of every layer, which are large, have names that start with `motion_` and are divided too.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from motionv2v import parameters
from motionv2v.models.activations import AXES, BATCH, fitting
from motionv2v.typing import AnyArray, PyTree

EMBED = ("fsdp", "context")

Rules = Sequence[tuple[str, tuple[Any, ...]]]


def _rules(embed: tuple[str, ...]) -> Rules:
    return (
        ("(dit|text)/.*/(q|k|v|mlp_up|mlp_gate)/kernel", (embed, "tensor")),
        ("(dit|text)/.*/(o|mlp_down)/kernel", ("tensor", embed)),
        ("dit/(.*_modulation|control/zero_in|control/zero_out|text_embed|out)/kernel", (embed, None)),
        ("text/token_embed|dit/position_table", (None, embed)),
        ("dit/(patch_embed|time_in|time_out|ofs_in|ofs_out)/kernel|text/position_bias", ()),
        ("dit/lora(_branch)?/.*/a", (embed, None)),
        ("dit/lora(_branch)?/.*/b", (None, embed)),
        ("conditioner/motion_.*", (embed,)),
        ("(vae|conditioner)/.*|.*/(bias|scale)", ()),
    )


RULES = _rules(EMBED)
"""The layout of this project's models."""
WHOLE_RULES = _rules(("fsdp",))
"""The same with weights whole along `context`: more room, and no gathering where devices share one sample."""


def make_mesh(
    sizes: Mapping[str, int], dcn: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """Build a mesh with the axes `AXES` of all devices, or those given, see `arrange`."""
    grid = arrange(sizes, dcn, jax.devices() if devices is None else devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(sizes: Mapping[str, int], dcn: Mapping[str, int] | None, devices: Sequence[Any]) -> np.ndarray:
    """Arrange devices in an array with the axes `AXES`, those that work together most next to each other.

    Args:
        sizes: per axis, devices that fast links join (ICI: one TPU slice, or all devices of anything else). Axes left
            out have size 1; one of them may be -1 and takes what the others leave.
        dcn: per axis, the number of slices that the slower network joins, likewise; an axis has the product of its two
            sizes. None puts all slices on `data`. Where there are no TPU slices, each process counts as one.
        devices: of jax.

    Raises:
        ValueError: for an unknown axis, or sizes that do not use all devices, saying which would.
    """
    devices = list(devices)
    # GPUs have one too: their machine, which is no limit of a mesh.
    slices = len({0 if device.platform == "gpu" else getattr(device, "slice_index", 0) for device in devices})
    by_process = slices == 1 and any(size not in (1, -1) for size in (dcn or {}).values())
    if by_process:
        slices = len({device.process_index for device in devices})
    outer = _fill({"data": slices} if dcn is None else dcn, slices, "slice")
    inner = _fill(sizes, len(devices) // slices, "device")
    if slices == 1:
        return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, process_is_granule=by_process)


def _fill(sizes: Mapping[str, int], available: int, unit: str) -> tuple[int, ...]:
    """Check the sizes of a mesh against the number of devices or slices, and return all four."""
    unknown = sorted(set(sizes) - set(AXES))
    wrong = [f"{axis} {size}" for axis, size in sizes.items() if not isinstance(size, int) or size < -1 or size == 0]
    if unknown or wrong or sum(size == -1 for size in sizes.values()) > 1:
        raise ValueError(
            f"mesh {describe(sizes)}: expected a positive size for each of {', '.join(AXES)}, or -1 for one of them"
        )
    full = [sizes.get(axis, 1) for axis in AXES]
    needed = math.prod(size for size in full if size != -1)
    if needed == available or (-1 in full and available % needed == 0):
        return tuple(available // needed if size == -1 else size for size in full)
    rest, fits = available, {}
    for axis, size in list(zip(AXES, full, strict=True))[1:]:
        fits[axis] = math.gcd(max(size, 1), rest)
        rest //= fits[axis]
    example = describe({"data": rest, **fits})
    needs = f"needs {'a multiple of ' if -1 in full else ''}{needed} {unit}s"
    raise ValueError(f"mesh {describe(sizes)} {needs}; there are {available}; e.g. {example}")


def describe(sizes: Mapping[str, int]) -> str:
    """Write the sizes of a mesh as in "data 4 x fsdp 2"; axes of size 1 are left out."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "data 1"


def from_config(config: Any) -> Mesh | None:
    """Build the mesh of `config.mesh` over all devices, and check that the config fits on it; None for one device.

    Fields are the axes' sizes and `dcn`, a section of sizes, see `make_mesh` and `training_sizes`; without a mesh all
    devices are on `data`. Raises ValueError as `make_mesh`, `check` and `host_share`.
    """
    mesh = training_mesh(config, jax.devices())
    if mesh.size == 1:
        return None
    check(mesh, config)
    host_share(mesh)
    return mesh


def training_mesh(config: Any, devices: Sequence[Any]) -> Mesh:
    """Build the mesh of `config.mesh` of these devices; ValueError as `make_mesh`."""
    sizes = dict(config.mesh) if "mesh" in config else {"data": -1}
    dcn = sizes.pop("dcn", None)
    return make_mesh(training_sizes(config, sizes, len(devices)), None if dcn is None else dict(dcn), devices)


def training_sizes(config: Any, sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Let `context` take the devices that the batch is too small for, where `data` or `fsdp` would take all there are.

    That is: where one of the two is -1, `context` is 1, and the rows of a batch do not divide over so many devices. The
    heads must divide over what `context` gets; where they do not, the sizes stay as they are.
    """
    open_axis = next((axis for axis in BATCH if sizes.get(axis) == -1), None)
    fixed = math.prod(size for size in sizes.values() if size > 0)
    if open_axis is None or sizes.get("context", 1) != 1 or count % fixed or "train" not in config:
        return dict(sizes)
    rows = config.train.batch_size // config.train.accumulate
    other = math.prod(max(sizes.get(axis, 1), 1) for axis in BATCH)
    taken = math.gcd(count // fixed, max(rows // other, 1))
    rest = count // fixed // taken
    heads = _num_heads(config)
    if rest == 1 or not heads or heads % (rest * sizes.get("tensor", 1)):
        return dict(sizes)
    return {**sizes, open_axis: taken, "context": rest}


def _num_heads(config: Any) -> int:
    """Return the heads that `context` and `tensor` divide; an autoencoder has none."""
    return config.dit.num_heads if "dit" in config else 0


def check(mesh: Mesh | AbstractMesh, config: Any, is_training: bool = True) -> None:
    """Raise ValueError if the heads, or for training the batch, of a config cannot be divided over the mesh."""
    heads, parts = _num_heads(config), mesh.shape["context"] * mesh.shape["tensor"]
    if heads % parts:
        possible = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise ValueError(
            f"dit.num_heads={heads} does not divide by context {mesh.shape['context']} x tensor "
            f"{mesh.shape['tensor']} = {parts}, over which attention divides the heads; possible: {possible}"
        )
    if not is_training:
        return
    size, accumulate = config.train.batch_size, config.train.accumulate
    unit = accumulate * math.prod(mesh.shape[axis] for axis in BATCH)
    if size % unit:
        raise ValueError(
            f"train.batch_size={size} does not divide by data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x "
            f"train.accumulate {accumulate} = {unit}; e.g. {max(size // unit, 1) * unit}"
        )


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Put a mesh in force for what is traced and compiled inside; None changes nothing."""
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        yield


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Compute in the host's memory: what is to be divided over devices, or made smaller for one, may not fit on one."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may name the accelerator alone
        device = None
    with contextlib.nullcontext() if device is None else jax.default_device(device):
        yield


def parameter_specs(
    params: PyTree, mesh: Mesh | AbstractMesh, rules: Rules = RULES, notify: Callable[[str], None] = warnings.warn
) -> dict[str, PartitionSpec]:
    """Find every parameter's layout: {path: PartitionSpec}. Leaves of `params` only need a shape.

    `notify` is called at most once, with a sentence on the dimensions that stay whole because they do not divide.
    Raises ValueError naming the parameters that no rule covers, and a rule with more dimensions than its parameter.
    """
    compiled = [(re.compile(pattern), axes) for pattern, axes in rules]
    specs, whole, uncovered = {}, [], []
    for path, leaf in parameters.flatten(params).items():
        axes = next((axes for pattern, axes in compiled if pattern.fullmatch(path)), None)
        if axes is None:
            uncovered.append(path)
            continue
        if len(axes) > len(leaf.shape):
            raise ValueError(f"a sharding rule gives {path} {list(leaf.shape)} {len(axes)} dimensions: {axes}")
        wanted = (None,) * (len(leaf.shape) - len(axes)) + tuple((a,) if isinstance(a, str) else a for a in axes)
        got = [fitting(mesh, axes or (), length) for axes, length in zip(wanted, leaf.shape, strict=True)]
        specs[path] = PartitionSpec(*got)
        whole += [path] if any(_lost(mesh, a, b) for a, b in zip(wanted, got, strict=True)) else []
    if uncovered:
        raise ValueError(
            f"no sharding rule covers {len(uncovered)} of {len(uncovered) + len(specs)} parameters: "
            f"{', '.join(uncovered[:6])}; patterns are {', '.join(pattern for pattern, _ in rules)}"
        )
    if whole:
        notify(
            f"{len(whole)} of {len(specs)} parameters have a dimension that {describe(mesh.shape)} does not divide, "
            f"which stays whole: {', '.join(whole[:4])}{', ...' if len(whole) > 4 else ''}"
        )
    return specs


def _lost(mesh: Mesh | AbstractMesh, wanted: tuple[str, ...] | None, got: tuple[str, ...] | None) -> bool:
    return any(mesh.shape[axis] > 1 for axis in (wanted or ())[len(got or ()) :])


def shardings(tree: PyTree, params: PyTree, mesh: Mesh | AbstractMesh, **options: Any) -> PyTree:
    """Return a tree like `tree` of NamedShardings: a leaf whose path ends in a parameter's lies where that one lies.

    Args:
        tree: anything made of arrays or shapes: parameters, an optimizer's state, a whole TrainState.
        params: the parameters whose paths and shapes count. What is none of them, such as counters, is whole.
        options: `rules` and `notify` of `parameter_specs`.
    """
    specs = parameter_specs(params, mesh, **options)
    shapes = {path: tuple(leaf.shape) for path, leaf in parameters.flatten(params).items()}

    def find(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names: list[str] = []
        for key in reversed(path):
            if not isinstance(key, jax.tree_util.DictKey):
                break
            names.insert(0, str(key.key))
        name = "/".join(names)
        follows = name in specs and shapes[name] == tuple(leaf.shape)
        return NamedSharding(mesh, specs[name] if follows else PartitionSpec())

    return jax.tree_util.tree_map_with_path(find, tree)


def place(params: PyTree, mesh: Mesh | None, **options: Any) -> PyTree:
    """Put parameters on the mesh by the rules, see `shardings`; on the default device without one."""
    if mesh is None:
        # One call for all leaves, since one for each takes fifteen times as long; and copies, because a training step
        # overwrites its parameters. What lies on devices, perhaps on those of several processes, stays there.
        leaves, tree = jax.tree.flatten(params)
        stays = [_is_on_devices(x) for x in leaves]
        given = [np.asarray(x) for x, there in zip(leaves, stays, strict=True) if not there]
        put = iter(jax.device_put(given, may_alias=False))
        return tree.unflatten(x if there else next(put) for x, there in zip(leaves, stays, strict=True))
    target = shardings(params, params, mesh, **options)
    if jax.process_count() == 1:
        return jax.device_put(params, target)

    def spread(x: AnyArray, sharding: NamedSharding) -> AnyArray:
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    # device_put would first send every copy around to compare it; the processes read the same files.
    return jax.tree.map(spread, params, target)


def _is_on_devices(x: Any) -> bool:
    """Tell an array on devices of the default kind from one that the host holds, see `on_host`."""
    return isinstance(x, jax.Array) and next(iter(x.devices())).platform == jax.default_backend()


def build(fn: Callable[[PyTree], PyTree], params: PyTree, mesh: Mesh | None, **options: Any) -> PyTree:
    """Return fn(params), computed and laid out on the mesh: what follows from parameters is never on one device.

    `options` as for `shardings`. Without a mesh `fn` is just called, with parameters on the default device.
    """
    if mesh is None:
        return fn(place(params, None))
    target = shardings(jax.eval_shape(fn, params), params, mesh, **options)
    placed = place(params, mesh, **{**options, "notify": lambda _: None})  # told once, just above
    return jax.jit(fn, out_shardings=target)(placed)


def of(tree: PyTree, mesh: Mesh | None) -> PyTree | None:
    """Return the shardings of a tree of arrays; None without a mesh."""
    return None if mesh is None else jax.tree.map(lambda x: x.sharding, tree)


def host_share(mesh: Any) -> tuple[int, int]:
    """Return (index, count): batches are drawn in `count` equal parts and this process feeds number `index`.

    Processes that hold the same rows of the batch, because `context` or `tensor` reaches from one to the other, have
    the same index: they must read the same samples. Raises ValueError if processes share only some of their rows.
    """
    if mesh is None:
        return 0, 1
    grid = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    rows: dict[int, frozenset[int]] = {}
    for row, devices in enumerate(grid):
        for device in devices:
            rows[device.process_index] = rows.get(device.process_index, frozenset()) | {row}
    groups = sorted(set(rows.values()), key=min)
    if sum(map(len, groups)) != len(grid) or len({len(group) for group in groups}) != 1:
        raise ValueError(
            f"mesh {describe(mesh.shape)} divides the batch unevenly over {len(rows)} processes; data x fsdp should be "
            "a multiple of them, or context x tensor fill whole ones"
        )
    return groups.index(rows[jax.process_index()]), len(groups)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh | None) -> dict[str, AnyArray]:
    """Join the rows that each process has into arrays of the whole batch, on `data` and `fsdp`; see `host_share`."""
    if mesh is None:
        return batch
    rows = NamedSharding(mesh, PartitionSpec(BATCH))
    count = host_share(mesh)[1]
    join = jax.make_array_from_process_local_data
    return {name: join(rows, x, (len(x) * count, *x.shape[1:])) for name, x in batch.items()}
