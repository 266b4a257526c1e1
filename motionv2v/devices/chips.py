"""What one device can do, as its maker states it: operations, memory, and what it sends."""

from typing import NamedTuple


class Chip(NamedTuple):
    """What one device, as jax counts them, can do, as its maker states it.

    Dense bfloat16 operations per second; bytes of its memory; bytes per second between memory and chip; bytes per
    second that it sends to the other chips of its slice or node.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float


CHIPS = {
    "TPU v4": Chip(275e12, 32.0 * 2**30, 1200e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16.0 * 2**30, 819e9, 200e9),
    "TPU v5e": Chip(197e12, 16.0 * 2**30, 819e9, 200e9),
    "TPU v5p": Chip(459e12, 95.0 * 2**30, 2765e9, 600e9),
    "TPU v5": Chip(459e12, 95.0 * 2**30, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32.0 * 2**30, 1638e9, 400e9),
    "TPU v6e": Chip(918e12, 32.0 * 2**30, 1638e9, 400e9),
    "TPU7x": Chip(1153.5e12, 96.0 * 2**30, 3690e9, 300e9),
    "A100-SXM4-40GB": Chip(312e12, 40e9, 1555e9, 300e9),
    "A100-SXM4-80GB": Chip(312e12, 80e9, 2039e9, 300e9),
    "H100 80GB HBM3": Chip(989.5e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989.5e12, 141e9, 4800e9, 450e9),
    "A100-PCIE-40GB": Chip(312e12, 40e9, 1555e9, 300e9),
    "A100 80GB PCIe": Chip(312e12, 80e9, 1935e9, 300e9),
    "H100 PCIe": Chip(756.5e12, 80e9, 2000e9, 300e9),
    "H100 NVL": Chip(835.5e12, 94e9, 3900e9, 300e9),
    "GH200": Chip(989.5e12, 96e9, 4000e9, 450e9),
    "NVIDIA H20": Chip(148e12, 96e9, 4000e9, 450e9),
    "NVIDIA B200": Chip(2250e12, 180e9, 8000e9, 900e9),
    "L40S": Chip(362e12, 48e9, 864e9, 32e9),
    "GeForce RTX 3090": Chip(71e12, 24.0 * 2**30, 936e9, 32e9),
    "GeForce RTX 4090": Chip(165.2e12, 24.0 * 2**30, 1008e9, 32e9),
}
"""By a part of jax's `device_kind`, the longest that is found in it; a TPU7x device is one of two cores.

The TPUs' figures are those of their maker's pages (docs.cloud.google.com/tpu/docs), except v4's links, which are not
there; the GPUs' are from secondary sources: check them before you plan on them."""


def chip(device_kind: str) -> Chip | None:
    """Return what is known of a device by jax's `device_kind`; None if it is not in `CHIPS`."""
    return CHIPS.get(name(device_kind))


def name(device_kind: str) -> str | None:
    """Return the name in `CHIPS` of a device by jax's `device_kind`; None if it is not there."""
    return max((each for each in CHIPS if each.lower() in device_kind.lower()), key=len, default=None)


def peak(device_kind: str) -> float | None:
    """Return the bfloat16 operations per second of a device by jax's `device_kind`; None if it is not in `CHIPS`."""
    known = chip(device_kind)
    return known.flops if known else None
