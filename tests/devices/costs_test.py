"""What samples cost, told before they are made: calls, operations, seconds at a stated peak, and the host's memory."""

import importlib

import jax
import numpy as np
import pytest
import tiny_model
from ml_collections import ConfigDict

from motionv2v import parameters, sampling, sections
from motionv2v.devices import chips, costs, fit, host, memory
from motionv2v.editing import transfer

GIB = 2**30


def published(name="motionv2v_cogvideox_5b"):
    return sections.complete(importlib.import_module(f"configs.{name}").get_config())


def settings(**changes):
    return sampling.Settings(50, guidance=sampling.Guidance(6.0))._replace(**changes)


def test_an_edit_of_5b_costs_what_the_compiled_programs_table_says():
    """480.95 TFLOP a call with the branch, 332.2 without; an H200 states 989.5 TFLOP/s (benchmarks/README.md: 48.6)."""
    found = costs.of_samples(published(), settings())
    assert (found.calls, found.chip) == (100, costs.REFERENCE)
    assert found.operations / 1e12 == pytest.approx(48087, abs=5) and found.seconds == pytest.approx(48.6, abs=0.1)
    words = "100 calls of the transformer, 48,087 TFLOP; at least 48.6 s at 990 TFLOP/s, stated for H100 80GB HBM3"
    assert str(found) == words
    base = transfer.base_config(published(), "the model")
    assert costs.of_samples(base, settings()).operations / 1e12 == pytest.approx(33220, abs=5)


def test_steps_left_out_reused_unguided_and_samples_more_are_counted():
    config = tiny_model.config()
    once = costs.of_samples(config, sampling.Settings(1)).operations
    cost = lambda **changes: costs.of_samples(config, settings(**changes))  # noqa: E731
    assert cost().calls == 100 and cost().operations == pytest.approx(100 * once)
    assert cost(start=4).calls == 92 and cost(guidance=sampling.NO_GUIDANCE).calls == 50
    assert cost(reuse=(False,) * 2 + (True,) * 10 + (False,) * 38).calls == 80
    assert costs.of_samples(config, settings(), count=3).operations == pytest.approx(300 * once)
    assert str(costs.of_samples(config, sampling.Settings(1))).startswith("1 call of the transformer, ")
    shared = costs.of_samples(config, settings(), devices=4)
    assert shared.seconds == pytest.approx(cost().seconds / 4) and "4 times 990 TFLOP/s" in str(shared)
    assert "less than 0.01 s" in str(shared)


def test_the_chip_is_the_one_at_hand(monkeypatch):
    device = type("Device", (), {"device_kind": "NVIDIA H200", "platform": "gpu"})
    monkeypatch.setattr(jax, "local_devices", lambda *rest, **named: [device])
    found = costs.of_samples(tiny_model.config(), settings())
    assert found.chip == "NVIDIA H200" == chips.name("NVIDIA H200")
    assert found.seconds == pytest.approx(found.operations / 989.5e12)


def test_updates_kept_apart_are_counted():
    """Rank 8 on keys and values of two blocks of width 32, for 12 tokens of text and 2 of video."""
    config, lines = tiny_model.config("base"), []
    kept = ConfigDict(config.to_dict())
    kept.dit.update({"lora_rank": 8, "lora_targets": ("attention/k", "attention/v")})
    plain, more = (costs.tell(each, settings(), say=lines.append) for each in (config, kept))
    numbers = 2 * 2 * 2 * 32 * 8
    assert more.operations - plain.operations == 100 * 2 * (12 + 2) * numbers
    assert lines[0].startswith("cost of the sample: 100 calls of the transformer, ") and len(lines) == 2
    grown = [memory.estimate(each, what="sample").weights for each in (config, kept)]
    assert grown[1] - grown[0] == 4 * numbers


def test_the_host_has_to_hold_all_weights_the_text_encoder_s_too(monkeypatch):
    config, said = published(), []
    leaves = parameters.flatten(memory.parameter_shapes(config)).values()
    weights = 2 * sum(int(np.prod(leaf.shape)) for leaf in leaves)  # bfloat16
    beside = fit.check_weights(config, available=1e12, say=said.append) - weights
    assert beside == memory.sampling_bytes(config, memory.abstract_mesh({}))
    assert said == [f"memory for the weights and a sample: {(weights + beside) / GIB:.2f} GiB of the host's estimated; "
                    f"available: {1e12 / GIB:.2f} GiB"]  # fmt: skip
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fit.check_weights(config, available=1e12, say=said.append) == weights
    with pytest.raises(ValueError, match=r"the weights need about .* GiB of this machine's memory, of which 9\.3 are"):
        fit.check_weights(config, available=10e9, say=said.append)
    monkeypatch.setenv(host.VARIABLE, "ignore")
    fit.check_weights(config, available=10e9, say=said.append)
    assert said[-1].endswith("; this may fail: a smaller model, or a machine with more, would fit")
