"""Devices that are not here: which names are understood, what is said of others, and what a GPU's compiler is told."""

import importlib.util
import re

import jax
import pytest

from motionv2v.devices import chips, topologies

HAS_CUDA = importlib.util.find_spec("jax_cuda12_plugin") or importlib.util.find_spec("jax_cuda13_plugin")


@pytest.mark.parametrize(
    "name",
    ["v9:2x2", "gpu", "cpu:0", "cpu:2x2", "cpu:many", "v5p:", "v5p:2x", "h200", "h200:0", "h200:1x2x3", "h100:x2", ""],
)
def test_unknown_topologies_say_what_there_is(name):
    with pytest.raises(ValueError, match=r"unknown topology '.*'; expected one like .*v5p:4x4x8, .*h200:1") as error:
        topologies.devices(name)
    assert "\n" not in str(error.value)


def test_devices_that_jax_was_not_started_with():
    jax.devices()
    with pytest.raises(ValueError, match=r"'cpu:7': jax started with 1 CPU device.*fresh process"):
        topologies.devices("cpu:7")


def test_devices_at_hand():
    assert topologies.devices("local") == jax.devices()
    assert topologies.devices("cpu:1") == jax.devices("cpu")[:1]


@pytest.mark.skipif(HAS_CUDA is not None, reason="says what is missing where jax's CUDA plugin is not installed")
@pytest.mark.parametrize("name", ["h200:1", "a100:2x8"])
def test_a_missing_gpu_compiler_is_named(name):
    with pytest.raises(
        ValueError, match=rf"topology '{name}': the GPU compiler is not installed: pip install"
    ) as error:
        topologies.devices(name)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(HAS_CUDA is None, reason="needs jax's CUDA plugin: pip install 'motionv2v[cuda]'")
@pytest.mark.parametrize(("name", "count", "processes"), [("h200:1", 1, 1), ("h100:8", 8, 1), ("a100:2x4", 8, 2)])
def test_gpus_that_are_not_here(name, count, processes):
    """They have the number, the processes and the name that the memory estimates and the roofline go by."""
    found = topologies.devices(name)
    assert len(found) == count and len({device.process_index for device in found}) == processes
    assert all(device.platform == "gpu" for device in found)
    assert chips.chip(found[0].device_kind) == chips.CHIPS[topologies.GPUS[name.split(":")[0]].kind]


@pytest.mark.parametrize("name", sorted(topologies.GPUS))
def test_what_xla_is_told_of_a_gpu(name):
    """The stated peak is that of its multiprocessors' tensor cores at a clock that it reaches."""
    gpu = topologies.GPUS[name]
    chip = chips.CHIPS[gpu.kind]
    per_cycle = {(8, 0): 1024, (8, 9): 256, (9, 0): 2048}[gpu.capability]  # dense bfloat16 products into float32 sums
    assert 0.9 * gpu.clock <= chip.flops / (2 * per_cycle * gpu.cores) / 1e9 <= 1.001 * gpu.clock
    text = topologies._description(gpu)
    assert text.count("{") == text.count("}") and f'device_description_str: "{gpu.kind}"' in text
    told = dict(re.findall(r"(\w+): ([\d.]+)", text))
    assert int(told["device_memory_size"]) == chip.memory and int(told["memory_bandwidth"]) == chip.bandwidth
    assert int(told["shared_memory_per_block_optin"]) < int(told["shared_memory_per_core"])
