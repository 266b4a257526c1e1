"""Positions and patches of the published CogVideoX models, by themselves and in the transformer."""

import dit_test as base
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models import layers, patches, positions
from motionv2v.models.dit import Control, DiT


def test_clips_spread_over_the_base_grid():
    """A clip of the base's size has whole numbers; others are fitted into it and centred, diffusers' way."""
    for length, axis in zip((13, 30, 45), positions.spread_over((30, 45), (13, 30, 45)), strict=True):
        np.testing.assert_array_equal(axis, np.arange(length))
    # A square fits the 30 rows and stands 7.5, rounded to even 8, columns from the left.
    frames, rows, columns = positions.spread_over((30, 45), (2, 60, 60))
    np.testing.assert_array_equal(frames, [0, 1])
    np.testing.assert_allclose(rows, np.linspace(0, 30 * 59 / 60, 60), rtol=1e-6)
    np.testing.assert_allclose(columns, np.linspace(8, 38 * 59 / 60, 60), rtol=1e-6)
    # A strip fills the columns; its 4 of 30 rows would be 45 / 60 as far apart as the clip's.
    _, rows, columns = positions.spread_over((30, 45), (1, 4, 60))
    np.testing.assert_allclose(rows, np.linspace(14, 17 * 3 / 4, 4), rtol=1e-6)
    assert columns[0] == 0 and columns[-1] == pytest.approx(45 * 59 / 60)
    assert [len(axis) for axis in positions.spread_over((30, 45), (1, 1, 1))] == [1, 1, 1]


def test_positions_of_a_model_with_patches_in_time():
    """CogVideoX 1.5 counts whole numbers, as far as its base grid reaches."""
    table = positions.rope((3, 4, 6), 16, 2, (2, 2, 2), (21, 12, 12))
    for part, expected in zip(table, positions.rope_table((3, 4, 6), 16, 2), strict=True):
        np.testing.assert_array_equal(part, expected)
    with pytest.raises(ValueError, match=r"latents of 8x14 reach beyond.*at most 12 rows and 12 columns"):
        positions.rope((3, 4, 7), 16, 2, (2, 2, 2), (21, 12, 12))


def test_extra_frames():
    assert [positions.extra_frames(frames, 2) for frames in (1, 2, 21)] == [1, 0, 1]
    assert [positions.extra_frames(7, patch_size_t) for patch_size_t in (None, 1, 4)] == [0, 0, 1]


def test_control_latents_pass_the_models_own_patch_embedding():
    """Latents for the branch are tokens of the main branch's embedding, its positions included."""
    inputs, _ = base._inputs()
    latents = np.random.default_rng(3).normal(size=inputs["xt"].shape).astype(np.float32)
    for settings in ({}, {"positions": "sincos"}, base.LEARNED):
        model = DiT(**{**base.SIZES, **settings}, control_depth=2, control_wiring="chained")
        params = base._trained(model)
        tokens = patches.patchify(latents, 2) @ params["patch_embed"]["kernel"] + params["patch_embed"]["bias"]
        if model.positions == "sincos":
            tokens = tokens + positions.sincos_table((3, 2, 3), 32, 1.875, 1.0)
        elif settings:
            tokens = tokens + params["position_table"][5:]
        out = base._apply(model, params, inputs, Control(latents=latents))
        # One product of matrices summed in another program.
        np.testing.assert_allclose(out, base._apply(model, params, inputs, Control(tokens)), rtol=1e-4, atol=1e-5)
        assert np.abs(out - base._apply(model, params, inputs)).max() > 1e-3


def test_learned_positions():
    """The table starts as sin-cos positions with zeros for text; its rows count, and other lengths leave it out."""
    inputs, _ = base._inputs()
    model = DiT(**{**base.SIZES, **base.LEARNED})
    start = base._fresh(model)["position_table"]
    np.testing.assert_array_equal(start[:5], 0.0)
    np.testing.assert_array_equal(start[5:], positions.sincos_table((3, 2, 3), 32, 1.875, 1.0))
    params = base._trained(model)
    out = base._apply(model, params, inputs)
    for row in (0, 4, 5, 22):
        other = {**params, "position_table": params["position_table"].copy()}
        # Not one number for all features: the norms would take it out again.
        other["position_table"][row] += np.linspace(-1, 1, 32)
        assert np.abs(base._apply(model, other, inputs) - out).max() > 1e-4, row
    short = {**inputs, "xt": inputs["xt"][:, :2]}
    computed = positions.sincos_table((2, 2, 3), 32, 1.875, 1.0)
    table = np.concatenate([np.zeros((5, 32), np.float32), computed])
    exact = model.clone(sample_size=(2, 4, 6))
    np.testing.assert_array_equal(
        base._apply(model, params, short), base._apply(exact, {**params, "position_table": table}, short)
    )


def test_patches_in_time_and_ofs():
    """CogVideoX 1.5: half the tokens, prediction of the input's size; `ofs` moves the time embedding."""
    inputs, _ = base._inputs(shape=(2, 4, 4, 6, 4))
    model = DiT(**base.SIZES, patch_size_t=2, ofs_embed_dim=16)
    params = base._trained(model, inputs)
    assert params["patch_embed"]["kernel"].shape == (2 * 2 * 2 * 4, 32)
    assert params["out"]["kernel"].shape == (32, 2 * 2 * 2 * 4)
    out = base._apply(model, params, inputs)
    assert out.shape == (2, 4, 4, 6, 4)
    # Only the sum of both embeddings is seen by the blocks.
    embedded = nn.silu(
        layers.timestep_embedding(jnp.full((1,), 2.0), 16) @ params["ofs_in"]["kernel"] + params["ofs_in"]["bias"]
    )
    embedded = embedded @ params["ofs_out"]["kernel"] + params["ofs_out"]["bias"]
    moved = {name: value for name, value in params.items() if not name.startswith("ofs")}
    moved["time_out"] = {**params["time_out"], "bias": params["time_out"]["bias"] + np.asarray(embedded)[0]}
    plain = base._apply(model.clone(ofs_embed_dim=None), moved, inputs)
    # Two small sums in another order.
    np.testing.assert_allclose(out, plain, rtol=1e-4, atol=1e-5)
    assert np.abs(model.apply({"params": params}, **inputs, ofs=3.0) - out).max() > 1e-4


def test_base_size_moves_positions_of_other_sizes_only():
    """With a base size RoPE is unchanged at that size, bit for bit, and another elsewhere."""
    inputs, _ = base._inputs()
    model = DiT(**base.SIZES)
    params = base._trained(model)
    out = base._apply(model, params, inputs)
    np.testing.assert_array_equal(base._apply(model.clone(sample_size=(1, 4, 6)), params, inputs), out)
    assert np.abs(base._apply(model.clone(sample_size=(1, 8, 6)), params, inputs) - out).max() > 1e-5
