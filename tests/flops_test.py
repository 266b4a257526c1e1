"""Operations counted by formula: the published sizes, the compiler's own count, and what a backward pass needs."""

import jax
import jax.numpy as jnp
import pytest

from configs import motionv2v_cogvideox_5b
from motionv2v import flops, model
from motionv2v.models.dit import DiT

GRID = (13, 60, 90)


def dit_5b():
    return model.build(motionv2v_cogvideox_5b.get_config()).denoiser.dit


def test_cogvideox_5b_forward():
    """332.2 and 148.7 TFLOP at 49x480x720; the first agrees with torch's FlopCounterMode on diffusers' model."""
    count = flops.forward(dit_5b(), GRID, 226)
    main = flops.forward(dit_5b(), GRID, 226, use_control=False)
    assert main.total / 1e12 == pytest.approx(332.198, abs=0.01)
    assert (count.total - main.total) / 1e12 == pytest.approx(148.7, abs=0.1)


def test_training_step_of_the_branch_on_the_frozen_base():
    """1,261.6 TFLOP per sample: a frozen main is not counted as trained."""
    assert flops.train_step(dit_5b(), GRID, 226, "control") / 1e12 == pytest.approx(1261.6, abs=0.3)
    assert flops.train_step(dit_5b(), GRID, 226, "base") / 1e12 == pytest.approx(3 * 332.2, abs=0.1)


@pytest.mark.parametrize("patch_size_t", [None, 2])
def test_forward_agrees_with_the_compiler(patch_size_t):
    """XLA counts element-wise operations as well, which are few beside the products."""
    dit = DiT(
        num_layers=2, num_heads=4, head_dim=32, text_dim=64, text_length=16, time_embed_dim=32, control_depth=0,
        patch_size_t=patch_size_t, scan_unroll=True,
    )  # fmt: skip
    grid = (4, 16, 16)
    inputs = (jnp.zeros((1, *grid, 16)), jnp.zeros((1,), jnp.int32), jnp.zeros((1, 16, 64)))
    if patch_size_t:
        dit = dit.clone(positions="rope", sample_size=grid)
    params = jax.eval_shape(dit.init, jax.random.key(0), *inputs)
    counted = jax.jit(dit.apply).lower(params, *inputs).compile().cost_analysis()["flops"]
    assert flops.forward(dit, grid, 16).total == pytest.approx(counted, rel=0.08)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind is 'vae'; operations are counted for base, control"):
        flops.train_step(dit_5b(), GRID, 226, "vae")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA H200", 989.5e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("Tesla T4", None),
    ],
)
def test_peak_by_device_kind(kind, expected):
    assert flops.peak(kind) == expected
