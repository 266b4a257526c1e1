"""Hold what a run needs against the memory that there is: tell it, refuse what cannot fit, and choose what can.

Every run says before it starts what it needs on a device (`check`), and one that cannot fit is refused with what would
fit. Where a model has a choice it takes what costs least time and fits: weights whole or divided over the devices that
share a sample, the text encoder on the devices or waiting on the host, frames whole or in strips, and how many clips at
once.
"""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from motionv2v import sections
from motionv2v.devices import chips, host, memory, sharding
from motionv2v.devices.host import GIB, MARGIN, VARIABLE
from motionv2v.devices.memory import (
    STRIP_ROWS,
    Estimate,
    abstract_mesh,
    autoencoder_bytes,
    estimate,
    parameter_shapes,
    sampled_bytes,
    sampling_bytes,
    sampling_shapes,
    sampling_sizes,
    stored_bytes,
)
from motionv2v.models.activations import BATCH
from motionv2v.typing import PyTree


def capacity(device: Any = None) -> float | None:
    """Return the bytes that a device has for a program, None where nothing says.

    That is the limit of jax's allocator, else what its maker states; for a CPU the host's free memory, or that of the
    control group the process runs in, shared by the CPU devices of this process.
    """
    device = jax.local_devices()[0] if device is None else device
    if device.platform == "cpu":
        free = host.free()
        return None if free is None else free / len(jax.local_devices(backend="cpu"))
    limit = (device.memory_stats() or {}).get("bytes_limit")
    chip = chips.chip(device.device_kind)
    return float(limit) if limit else float(chip.memory) if chip else None


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
        config, mesh, what: as for `memory.estimate`; a sample works in strips if it must.
        available: bytes of a device; None asks it (`capacity`).
        say: called once with the line.

    Raises:
        ValueError: if the estimate exceeds `MARGIN` of what is available, saying what would fit; with `VARIABLE` set to
            "ignore" the line says so instead.
    """
    program, (config, what) = what, memory.sampled(config, what)
    # What is free on hosts differs: one process that refused would leave the others waiting.
    is_common = available is not None or _common_capacity() is not None
    available = capacity() if available is None else available
    if what == "sample":
        config = with_strips_if_needed(config, sampling_shapes(config), mesh, available)
    needed = estimate(config, mesh, what, available)
    _judge(program, needed, available, lambda: advice(config, mesh, what, available), say, must_fit=is_common)
    return needed


def _judge(
    what: str,
    needed: Estimate,
    available: float | None,
    advise: Callable[[], str],
    say: Callable[[str], None],
    must_fit: bool = True,
) -> None:
    """Say what is needed; where that is too much raise ValueError, with advice, or say so unless it `must_fit`."""
    has = "unknown" if available is None else f"{available / GIB:.2f} GiB"
    line = f"memory for {what}: {needed} estimated; available: {has}"
    if available is None or needed.peak <= MARGIN * available:
        say(line)
        return
    advice = advise()
    if os.environ.get(VARIABLE, "").lower() == "ignore" or not must_fit:
        say(f"{line}; this may fail: {advice}")
        return
    say(line)
    raise ValueError(
        f"{what} needs about {needed.peak / GIB:.1f} GiB on each device, which has {available / GIB:.1f}; {advice}; "
        f"{VARIABLE}=ignore tries all the same"
    )


def weights_bytes(config: Any, available: float | None = None) -> float:
    """Estimate the bytes that `check_weights` tells."""
    shapes, one = sampling_shapes(config), abstract_mesh({})
    needed = stored_bytes(shapes, one)
    if jax.default_backend() != "cpu":
        return needed
    return needed + sampling_bytes(with_strips_if_needed(config, shapes, one, available), one)


def check_weights(config: Any, *, available: float | None = None, say: Callable[[str], None] = print) -> float:
    """Say in one line what the host holds while a model's weights are read for samples, and refuse too much.

    Those are all of them, the text encoder's too, which `check` leaves out: they pass through the host's memory. Where
    the host computes, what a sample works on lies beside them.

    Args:
        config: of the model. available: bytes; None asks the host. say: called once with the line.

    Returns:
        The bytes.

    Raises:
        ValueError: as `check`.
    """
    # As in `check`: what is free on hosts differs, and one that refused would leave the others waiting.
    must_fit = available is not None or jax.process_count() == 1
    available = host.free() if available is None else available
    what = "the weights and a sample" if jax.default_backend() == "cpu" else "the weights"
    advise = lambda available: "a smaller model, or a machine with more, would fit"  # noqa: E731
    return host.judge(what, weights_bytes(config, available), available, f"{what} need", advise, say, must_fit)


def sampling_rules(config: Any, params: PyTree, mesh: Any = None, available: float | None = None) -> sharding.Rules:
    """Choose the layout of a sample's weights on a mesh, see `memory.sampling_rules`; `available`: as for `check`."""
    available = _common_capacity() if available is None else available
    if mesh is None or not params or available is None:
        return sharding.RULES
    return memory.sampling_rules(config, params, mesh, available)


def with_strips_if_needed(config: Any, params: PyTree, mesh: Any = None, available: float | None = None) -> Any:
    """Return a config whose autoencoder works in strips of `memory.STRIP_ROWS` if a sample would not fit without.

    They change nothing in the result (`models.vae.strips`) and cost a few hundredths of the autoencoder's time. A
    config that says how it saves memory is left alone. `params`: with dtypes; `available`: as for `check`.
    """
    in_strips = sections.complete(config)
    if not params or in_strips.vae.strip_rows or in_strips.vae.tile_size:
        return config
    available = _common_capacity() if available is None else available
    if available is None:
        return config
    mesh = abstract_mesh({}) if mesh is None else mesh
    rules = memory.sampling_rules(config, params, mesh, available)
    if sampled_bytes(config, params, mesh, rules) + sampling_bytes(config, mesh) <= MARGIN * available:
        return config
    in_strips.vae.strip_rows = STRIP_ROWS
    return in_strips


def _common_capacity() -> float | None:
    """Return `capacity`; None where what is free on hosts differs between processes, which must all decide alike."""
    return capacity() if jax.process_count() == 1 or jax.default_backend() != "cpu" else None


def holds_text(config: Any, params: PyTree, mesh: Mesh | None = None, available: float | None = None) -> bool:
    """Tell whether the text encoder's parameters have room on the devices beside a sample's; on a CPU they always do.

    `available`: bytes of a device; None asks it, and takes that there is room where nothing says.
    """
    if available is None:
        available = None if jax.default_backend() == "cpu" else capacity()
    if available is None:
        return True
    mesh = abstract_mesh({}) if mesh is None else mesh
    rules = memory.sampling_rules(config, params, mesh, available)
    text = stored_bytes({"text": params["text"]}, mesh, None, rules)
    return text + sampled_bytes(config, params, mesh, rules) + sampling_bytes(config, mesh) <= MARGIN * available


def admits_text(config: Any, params: PyTree, mesh: Mesh | None = None, available: float | None = None) -> bool:
    """Tell whether the text encoder, where it waits on the host, has room beside a sample's weights for a visit.

    `available` as for `holds_text`.
    """
    available = capacity() if available is None else available
    if available is None:
        return True
    mesh = abstract_mesh({}) if mesh is None else mesh
    rules = memory.sampling_rules(config, params, mesh, available)
    stored = stored_bytes({"text": params["text"]}, mesh, None, rules) + sampled_bytes(config, params, mesh, rules)
    return stored <= MARGIN * available


def claim() -> None:
    """Let jax take nearly all of a GPU's memory, three quarters of which is its default; call it before jax starts.

    An `XLA_PYTHON_CLIENT_MEM_FRACTION` that is set stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")


def pairs_at_once(
    config: Any,
    most: int = 16,
    available: float | None = None,
    *,
    count: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Return how many pairs a device can encode at once: a power of two, at least 1.

    The four clips of a pair, both videos and both sets of blobs, are encoded in turn.

    Args:
        config: of the experiment. most: pairs.
        available: bytes of the device; None asks it, and takes `most` where nothing says.
        count: what a person wants, who is told whether that fits.
        say: called once, with what that needs.

    Raises:
        ValueError: as `check`, if what is wanted, or not even one pair, fits.
    """
    available, wanted = capacity() if available is None else available, count
    count = wanted or most
    one = abstract_mesh({})
    weights = stored_bytes({"vae": parameter_shapes(config)["vae"]}, one, "float32")
    clip = autoencoder_bytes(config, one, 1)
    while wanted is None and available is not None and count > 1 and weights + count * clip > MARGIN * available:
        count //= 2
    strips = "would fit: fewer pairs (--batch_size), strips of the autoencoder (config.vae.strip_rows), or tiles"
    _judge(f"encoding {count} pair(s) at once", Estimate(weights, 0.0, count * clip), available, lambda: strips, say)
    return count


def edits_at_once(config: Any, mesh: Mesh | None = None, most: int = 10, available: float | None = None) -> int:
    """Return how many clips the devices of a mesh can edit in one batch, 1 to `most`; `available` as above."""
    available = capacity() if available is None else available
    if available is None:
        return most
    needed = estimate(config, mesh, "sample", available)
    return max(1, min(most, int((MARGIN * available - needed.weights) / needed.activations)))


def probed_at_once(
    config: Any, mesh: Mesh | AbstractMesh | None = None, most: int = 10, available: float | None = None
) -> int:
    """Return how many clips a training can edit at once beside what it holds, 1 to `most`; `available` as above.

    By the config alone, so that the processes of a job, whose devices are alike, decide alike.
    """
    available = _common_capacity() if available is None else available
    if available is None:
        return most
    held, sample = estimate(config, mesh, "train_pixels"), estimate(config, mesh, "sample")
    free = MARGIN * available - held.weights - held.optimizer
    return max(1, min(most, int(free / sample.activations)))


def advice(config: Any, mesh: Mesh | AbstractMesh | None, what: str, available: float) -> str:
    """Name the smallest changes after which an estimate fits into `available` bytes, or say that none of them does."""
    is_less = lambda changed, other: estimate(changed, other, what, available).peak <= MARGIN * available  # noqa: E731
    fits = [name for name, changed, other in _changes(config, mesh, what) if is_less(changed, other)]
    return f"would fit: {'; '.join(fits[:4])}" if fits else "no smaller batch, remat, number type or mesh would fit"


def _changes(config, mesh, what):
    """Yield (description, config, mesh) of what a person could change, the least harmful first."""
    mesh = abstract_mesh({}) if mesh is None else mesh
    plain = sections.complete(config)

    def changed(**fields):
        other = ConfigDict(plain.to_dict())
        other.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return other

    smaller = plain
    if what != "sample":
        if plain.train.frozen_dtype != "bfloat16":
            smaller = changed(train__frozen_dtype="bfloat16")
            yield "train.frozen_dtype='bfloat16'", smaller, mesh
        if "dit" in plain and plain.dit.remat != "full":
            smaller = changed(dit__remat="full")
            yield "dit.remat='full'", smaller, mesh
        rows = math.prod(mesh.shape[axis] for axis in BATCH)
        sizes = [plain.train.batch_size // 2**n for n in range(1, 12)]
        for size in sizes:
            if size >= rows and size % (rows * plain.train.accumulate) == 0:
                yield f"train.batch_size={size}", changed(train__batch_size=size), mesh
        accumulate = [n for n in (2, 4, 8, 16, 32) if plain.train.batch_size % (rows * n) == 0]
        for count in accumulate:
            yield f"train.accumulate={count}", changed(train__accumulate=count), mesh
    for factor in (2, 4, 8, 16, 32, 64, 128):
        sizes = {**mesh.shape, "fsdp": mesh.shape["fsdp"] * factor}
        if what == "sample":
            other = abstract_mesh(sampling_sizes(plain, mesh.size * factor), mesh)
            yield f"{other.size} devices (mesh {sharding.describe(other.shape)})", plain, other
        elif plain.train.batch_size % (sizes["data"] * sizes["fsdp"]) == 0:
            yield f"mesh.fsdp={sizes['fsdp']} ({mesh.size * factor} devices)", plain, abstract_mesh(sizes, mesh)
