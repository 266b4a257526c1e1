"""Devices to compile for, whether they are here or not: TPU slices, NVIDIA GPUs, and as many CPU devices as one likes.

    v5p:4x4x8    a TPU slice as the cloud names it; needs libtpu (`pip install 'motionv2v[tpu]'`) and no TPU
    h200:8       so many GPUs of one machine; needs jax's CUDA plugin (`pip install 'motionv2v[cuda]'`) and no GPU
    h100:4x8     GPUs of 4 machines with 8 each
    cpu:512      so many devices on this machine: layouts and partitioning, in a minute; bytes of another compiler,
                 which computes bfloat16 in float32 and keeps it so: 24.53 GiB where that of v5e:4x4 needs 14.69
    local        the devices at hand

For GPUs XLA reads a description of the device instead of asking it, and chooses kernels by rules of thumb where it
would otherwise time them on the device. What cuDNN's attention sets aside while it runs is known to the device alone
and is in no number of the compiler's.
"""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from motionv2v.devices import chips

EXAMPLES = "v5e:4x4, v6e:2x4, v5p:2x2x1, v5p:4x4x8, tpu7x:2x2x1, h200:1, h100:4x8, a100:8, cpu:512, local"
TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")


class Gpu(NamedTuple):
    """What XLA asks of an NVIDIA GPU: its name in `chips.CHIPS`, compute capability, multiprocessors and their units.

    `fp32_units`, `shared_memory` and `shared_memory_per_block` (bytes, the most that a kernel may ask for) are those of
    one multiprocessor; `l2_cache` is in bytes, `clock` in GHz.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    fp32_units: int
    shared_memory: int
    shared_memory_per_block: int
    l2_cache: int
    clock: float


GPUS = {
    "a100": Gpu("A100-SXM4-80GB", (8, 0), 108, 64, 164 * 1024, 163 * 1024, 40 * 2**20, 1.41),
    "h100": Gpu("H100 80GB HBM3", (9, 0), 132, 128, 228 * 1024, 227 * 1024, 50 * 2**20, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 228 * 1024, 227 * 1024, 50 * 2**20, 1.98),
    "rtx4090": Gpu("GeForce RTX 4090", (8, 9), 128, 128, 100 * 1024, 99 * 1024, 72 * 2**20, 2.52),
}
"""SXM boards and a card of 24 GB. From secondary sources, as `chips.CHIPS`; peaks and clocks agree (a test)."""


def devices(topology: str) -> list[Any]:
    """Return the devices of a topology, which may exist in the compiler's eyes only.

    Raises ValueError for an unknown topology, or one whose compiler is missing, saying what there is.
    """
    kind, _, shape = topology.partition(":")
    sizes = [int(size) for size in shape.split("x")] if re.fullmatch(r"\d+(x\d+)*", shape) else []
    if topology == "local":
        return jax.devices()
    if kind == "cpu" and len(sizes) == 1 and sizes[0] > 0:
        return _host_devices(sizes[0])
    if kind in GPUS and len(sizes) in (1, 2) and min(sizes) > 0:
        return _gpus(topology, GPUS[kind], sizes)
    if kind in TPUS and sizes:
        return _tpus(topology)
    raise ValueError(f"unknown topology {topology!r}; expected one like {EXAMPLES}")


def _host_devices(count: int) -> list[Any]:
    with contextlib.suppress(RuntimeError):  # jax has started already, perhaps with enough devices
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise ValueError(f"topology 'cpu:{count}': jax started with {len(found)} CPU device(s); ask in a fresh process")
    return found[:count]


def _tpus(topology: str) -> list[Any]:
    # A machine without TPUs has no metadata server to ask, and may compile more than one program at a time.
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name, "1")
    from jax.experimental import topologies

    def describe() -> Any:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology)

    return _found(topology, describe, "the TPU compiler is not installed: pip install 'motionv2v[tpu]'")


def _gpus(topology: str, gpu: Gpu, sizes: list[int]) -> list[Any]:
    # The plugin's check of versions asks the driver for its GPUs, and a machine without GPUs has no driver.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    from jax.experimental import topologies

    machines, each = (1, *sizes)[-2:]

    def describe() -> Any:
        shape = f"1x{machines}x{each}"  # machines that NVLink joins, processes, devices of a process
        return topologies.get_topology_desc(shape, "cuda", topology=shape, target_config=_description(gpu))

    return _found(topology, describe, "the GPU compiler is not installed: pip install 'motionv2v[cuda]'")


def _found(topology: str, describe: Callable[[], Any], missing: str) -> list[Any]:
    """Return the devices of a topology that a compiler describes, or say in one line why there is none."""
    try:
        return list(describe().devices)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "not installed" in reason or "not implemented" in reason:
            reason = missing
        raise ValueError(f"topology {topology!r}: {reason}; topologies are like {EXAMPLES}") from None


def _description(gpu: Gpu) -> str:
    """Write what XLA would ask a GPU as it reads it: a text of protocol buffers, its GpuTargetConfigProto."""
    chip, cudnn = chips.CHIPS[gpu.kind], (9, 10, 0)
    for package in ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            cudnn = tuple(importlib.metadata.version(package).split(".")[:3])
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 1536 if gpu.capability == (8, 9) else 2048,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": gpu.shared_memory_per_block,
        "shared_memory_per_core": gpu.shared_memory,
        "registers_per_core_limit": 64 * 1024,
        "registers_per_block_limit": 64 * 1024,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.fp32_units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(chip.bandwidth),
        "l2_cache_size": gpu.l2_cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": int(chip.memory),
    }
    fields = " ".join(f"{name}: {value}" for name, value in device.items())
    major, minor = gpu.capability
    return (
        f"gpu_device_info {{ cuda_compute_capability {{ major: {major} minor: {minor} }} {fields} }} "
        f'platform_name: "CUDA" device_description_str: "{gpu.kind}" '
        f"dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}"
    )
