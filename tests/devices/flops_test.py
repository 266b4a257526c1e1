"""Operations counted by formula: the published sizes, the compiler's own count, and what a backward pass needs."""

import jax
import jax.numpy as jnp
import pytest

from configs import motionv2v_cogvideox_5b
from motionv2v import backbone
from motionv2v.devices import chips, flops, memory
from motionv2v.models.dit import DiT, base_params

GRID = (13, 60, 90)


def dit_5b():
    return backbone.build(motionv2v_cogvideox_5b.get_config()).denoiser.dit


def test_cogvideox_5b_forward():
    """332.2 and 148.7 TFLOP at 49x480x720; the first agrees with torch's FlopCounterMode on diffusers' model."""
    count = flops.forward(dit_5b(), GRID, 226)
    main = flops.forward(dit_5b(), GRID, 226, use_control=False)
    assert main.total / 1e12 == pytest.approx(332.198, abs=0.01)
    assert (count.total - main.total) / 1e12 == pytest.approx(148.7, abs=0.1)


def test_training_step_of_the_branch_on_the_frozen_base():
    """1,261.6 TFLOP per sample: a frozen main is not counted as trained."""
    config = motionv2v_cogvideox_5b.get_config()
    shapes = memory.parameter_shapes(config)
    schedule = config.optim.schedule
    assert flops.train_step(dit_5b(), GRID, 226, shapes, schedule) / 1e12 == pytest.approx(1261.6, abs=0.3)
    bare = dit_5b().clone(control_depth=0)
    base = {"dit": base_params(shapes["dit"])}
    assert flops.train_step(bare, GRID, 226, base, ((".*", {}),)) / 1e12 == pytest.approx(3 * 332.2, abs=0.1)


def test_training_step_of_low_rank_updates_and_of_embeddings():
    """Both leave the base's weights alone: its backward pass is that to the layers' inputs, once for all blocks."""
    dit = dit_5b().clone(control_depth=0, lora_rank=64)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)  # noqa: E731
    updates = {name: {"a": shape(42, 3072, 64), "b": shape(42, 64, 3072)} for name in ("k", "v")}
    params = {"dit": {"lora": {"attention": updates}, "out": {"bias": shape(4)}}}
    schedule = (("dit/lora/.*", {}), (".*", None))
    count = flops.forward(dit, GRID, 226, params=params)
    # 17,776 tokens through two products of 3072 x 64 for keys and values of 42 blocks.
    assert count.lora == 2 * 17776 * 4 * 42 * 3072 * 64
    expected = count.total + 41 / 42 * (count.main_linear + 2 * count.main_attention + count.lora) + count.lora
    assert flops.train_step(dit, GRID, 226, params, schedule) == pytest.approx(expected)
    embeddings = {"dit": params["dit"], "conditioner": {"motion_qk": shape(42, 13, 3072)}}
    moved = flops.train_step(dit, GRID, 226, embeddings, (("conditioner/.*", {}), (".*", None)))
    assert moved == pytest.approx(expected - count.lora)


@pytest.mark.parametrize("axes", [("thw",), ("hw", "t")])
def test_attention_counts_the_pairs_that_see_each_other(axes):
    dit = dit_5b().clone(axes=axes)
    pairs = {"thw": 17776**2, "hw": 13 * (1350 + 226) ** 2, "t": 1350 * 13**2}
    expected = 42 * 4 * 3072 * sum(pairs[along] for along in axes)
    assert flops.forward(dit, GRID, 226).main_attention == expected


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
    assert chips.peak(kind) == expected
