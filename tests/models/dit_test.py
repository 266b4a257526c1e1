"""Invariants of the transformer and its control branch, and the sizes of the released models."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import EXACT, FAST

from motionv2v import parameters
from motionv2v.models import dit, layers, patches
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import Control, DiT
from motionv2v.models.positions import rope_table

SIZES = {
    "num_layers": 3,
    "num_heads": 2,
    "head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "text_length": 6,
    "time_embed_dim": 16,
    "zero_init_modulation": False,
}
WIRINGS = ("side", "chained")
LEARNED = {"positions": "rope+learned", "sample_size": (3, 4, 6), "text_length": 5}


def _inputs(seed=0, shape=(2, 3, 4, 6, 4)):
    rng = np.random.default_rng(seed)
    tokens = (shape[0], shape[1] * shape[2] // 2 * shape[3] // 2, 32)
    arrays = [rng.normal(size=size).astype(np.float32) for size in (shape, (shape[0], 5, 12), tokens)]
    return {"xt": arrays[0], "timestep": jnp.array([7, 901])[: shape[0]], "text": arrays[1]}, Control(arrays[2])


@functools.cache
def _fresh(model):
    """Return the parameters that the model itself initialises."""
    inputs, _ = _inputs()
    return jax.jit(model.init, compiler_options=FAST)(jax.random.key(0), **inputs)["params"]


def _trained(model, inputs=None, seed=0):
    """Return parameters of which none is at its initial value, as after training."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), **(inputs or _inputs()[0]))["params"]
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        # Scales near 1; everything else small enough for three blocks not to blow up.
        return (0.2 * rng.normal(size=shape.shape) + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _program(model, is_exact):
    return jax.jit(
        lambda params, inputs, control: model.apply({"params": params}, **inputs, control=control),
        compiler_options=EXACT if is_exact else FAST,
    )


def _apply(model, params, inputs, control=None, is_exact=False):
    return np.asarray(_program(model, is_exact)(params, inputs, control))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_fresh_control_branch_is_identity(wiring):
    """A branch that was never trained leaves the base model's output unchanged, bit for bit, however it starts."""
    inputs, control = _inputs()
    model = DiT(**SIZES, control_depth=2, control_wiring=wiring)
    params = _trained(model)
    base = _apply(DiT(**SIZES), dit.base_params(params), inputs, is_exact=True)
    assert np.abs(base).max() > 0.1
    for start in ("zero", "identity"):
        branch = _fresh(model.clone(control_start=start))["control"]
        fresh = {**params, "control": branch}
        for given in (fresh, dit.init_control_from_base(fresh)):
            np.testing.assert_array_equal(_apply(model, given, inputs, control, is_exact=True), base)
    assert np.abs(branch["zero_in"]["kernel"] - np.eye(32)).max() == 0


@pytest.mark.parametrize("wiring", WIRINGS)
def test_trained_control_branch_is_not_identity(wiring):
    """Once its zero layers have moved, the branch changes the output, and so do its tokens; without them it rests."""
    inputs, control = _inputs()
    model = DiT(**SIZES, control_depth=2, control_wiring=wiring)
    params = _trained(model)
    out, base = _apply(model, params, inputs, control), _apply(DiT(**SIZES), dit.base_params(params), inputs)
    assert np.abs(out - base).max() > 1e-3
    assert np.abs(out - _apply(model, params, inputs, Control(control.tokens[::-1]))).max() > 1e-3
    np.testing.assert_array_equal(_apply(model, params, inputs), base)


def test_wirings_differ():
    inputs, control = _inputs()
    outs = []
    for wiring in WIRINGS:
        model = DiT(**SIZES, control_depth=2, control_wiring=wiring)
        outs.append(_apply(model, _trained(model), inputs, control))
    assert np.abs(outs[0] - outs[1]).max() > 1e-3


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(("depth", "branches"), [(1, 1), (3, 1), (2, 2)])
def test_control_matches_loop(wiring, depth, branches):
    """The two scans equal a loop that writes the branch's formula out block by block."""
    inputs, control = _inputs()
    tokens = [control.tokens, control.tokens[:, ::-1] * 2][:branches]
    control = Control(jnp.concatenate(tokens, -1))
    model = DiT(**SIZES, control_depth=depth, control_wiring=wiring, control_branches=branches)
    params = _trained(model)
    block = layers.Block(2, 16)
    grid = (3, 2, 3)
    rope = rope_table(grid, 16, 5)

    def linear(weights, x):
        return x @ weights["kernel"] + weights["bias"]

    def update(weights, video, text):
        said = block.apply({"params": weights}, time, method="read_time")
        joined = block.apply({"params": weights}, jnp.concatenate([text, video], 1), 5, said, rope)
        return joined[:, 5:], joined[:, :5]

    time = linear(params["time_in"], layers.timestep_embedding(inputs["timestep"], 32))
    time = linear(params["time_out"], nn.silu(time))
    h = linear(params["patch_embed"], patches.patchify(inputs["xt"], 2))
    e = linear(params["text_embed"], inputs["text"])
    of_branches = [params["control"], params["control"].get("second")][:branches]
    streams = [linear(own["zero_in"], h + x) for own, x in zip(of_branches, tokens, strict=True)]
    for i in range(3):
        main = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        h, e = update(main, h, e)
        for n, own in enumerate(of_branches if i < depth else ()):
            copy, zero = jax.tree.map(lambda leaf, i=i: leaf[i], (own["blocks"], own["zero_out"]))
            k, _ = update(copy, streams[n], e)
            out = linear(zero, k)
            h = h + out
            streams[n] = out if wiring == "chained" else k
    h = nn.LayerNorm(1e-5).apply({"params": params["final_norm"]}, h)
    shift, scale = jnp.split(linear(params["out_modulation"], nn.silu(time))[:, None], 2, -1)
    h = nn.LayerNorm(1e-5).apply({"params": params["out_norm"]}, h) * (1 + scale) + shift
    expected = patches.unpatchify(linear(params["out"], h), grid, 2)
    # Three float32 blocks, compiled in another way.
    np.testing.assert_allclose(_apply(model, params, inputs, control), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_first_gradients(wiring):
    """At step 0 of the released recipe (zero start) only zero_out learns, the last one and all before it."""
    inputs, control = _inputs()
    model = DiT(**SIZES, control_depth=3, control_wiring=wiring)
    params = {**_trained(model), "control": _fresh(model)["control"]}
    base, branch = dit.base_params(params), dit.init_control_from_base(params)["control"]

    def loss(branch, tokens):
        params = {**base, "control": branch}
        return jnp.sum(jnp.sin(model.apply({"params": params}, **inputs, control=Control(tokens))))

    grad_fn = jax.jit(jax.grad(loss, (0, 1)), compiler_options=FAST)
    grads, token_grads = grad_fn(branch, control.tokens)
    for i in range(3):
        assert np.abs(grads["zero_out"]["kernel"][i]).max() > 1e-4
        assert np.abs(grads["zero_out"]["bias"][i]).max() > 1e-4
    for leaf in jax.tree.leaves((grads["zero_in"], grads["blocks"], token_grads)):
        np.testing.assert_array_equal(leaf, 0.0)
    # One step on, the gradient reaches everything the branch has.
    moved = {**branch, "zero_out": jax.tree.map(lambda p, g: p - 0.1 * g, branch["zero_out"], grads["zero_out"])}
    grads, _ = grad_fn(moved, control.tokens)
    assert np.abs(grads["zero_in"]["kernel"]).max() > 0


def test_base_tree_is_independent_of_control():
    """Names, shapes and the initial values of the base are the same with and without a branch."""
    plain, with_branch = _fresh(DiT(**SIZES)), _fresh(DiT(**SIZES, control_depth=2))
    assert "control" not in plain
    jax.tree.map(np.testing.assert_array_equal, dit.base_params(with_branch), plain)


def test_two_branches_start_as_copies_that_change_nothing():
    inputs, control = _inputs()
    model = DiT(**SIZES, control_depth=2, control_branches=2)
    params = dit.init_control_from_base({**_trained(model), "control": _fresh(model)["control"]})
    second = params["control"]["second"]
    assert set(second) == {"zero_in", "blocks", "zero_out"}
    for a, b in zip(jax.tree.leaves(second["blocks"]), jax.tree.leaves(params["blocks"]), strict=True):
        np.testing.assert_array_equal(a, b[:2])
    both = Control(jnp.concatenate([control.tokens] * 2, -1))
    base = _apply(DiT(**SIZES), dit.base_params(params), inputs, is_exact=True)
    np.testing.assert_array_equal(_apply(model, params, inputs, both, is_exact=True), base)
    with pytest.raises(ValueError, match=r"expected \(2, 18, 64\)"):
        model.apply({"params": params}, **inputs, control=control)


def test_init_control_from_base_copies_first_blocks():
    params = _fresh(DiT(**SIZES, control_depth=2))
    copied = dit.init_control_from_base(params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), copied["control"]["blocks"], copied["blocks"])
    with pytest.raises(ValueError, match=r"no control branch; their keys are blocks, "):
        dit.init_control_from_base(dit.base_params(params))


@pytest.mark.slow
def test_speed_settings_do_not_change_gradients():
    """Unrolling, recomputing and chunking are about speed and memory: values and gradients stay."""
    inputs, control = _inputs()
    reference = DiT(**SIZES, control_depth=3)
    params = _trained(reference)

    def value_and_grad(model):
        def loss(params):
            return jnp.mean(jnp.square(model.apply({"params": params}, **inputs, control=control)))

        return jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(params)

    value, grads = value_and_grad(reference)
    for settings in (
        {"scan_unroll": 2, "remat": "save_attention", "attention_implementation": "chunked"},
        {"remat": "save_attention_qkv_mlp"},
    ):
        fast_value, fast_grads = value_and_grad(reference.clone(**settings))
        # The same float32 operations fused differently; gradients of order 1e-2 and below.
        np.testing.assert_allclose(fast_value, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), fast_grads, grads)


def test_remat_policies_keep_what_they_name():
    """Between forward and backward, `full` keeps what passes between blocks; the others an array, 3 and 4 wide more."""
    inputs, _ = _inputs()

    def residuals(remat):
        model = DiT(**SIZES, remat=remat)
        shapes = jax.eval_shape(
            lambda p: jax.vjp(lambda p: model.apply({"params": p}, **inputs), p)[1], _trained(model)
        )
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    streams = 3 * 2 * (18 + 5) * 32
    kept = [residuals(r) for r in ("full", "save_attention", "save_attention_qkv", "save_attention_qkv_mlp", "none")]
    # Layers whose result is kept are not run again, and need not keep their biases for that.
    wider = streams - 3 * 32
    assert [b - a for a, b in itertools.pairwise(kept[:4])] == [streams, 3 * wider, 4 * wider]
    assert kept[4] > kept[3]


def test_control_does_not_copy_main_blocks():
    """Splitting the loop at the control depth needs far less memory than a second stack of main blocks."""
    model = DiT(**{**SIZES, "num_layers": 8, "num_heads": 8}, control_depth=4)
    inputs, _ = _inputs()
    params = jax.eval_shape(model.init, jax.random.key(0), **inputs)["params"]
    tokens = Control(jax.ShapeDtypeStruct((2, 18, 128), jnp.float32))
    memory = _program(model, is_exact=False).lower(params, inputs, tokens).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * parameters.count(params["blocks"]) / 2


def test_position_schemes_tell_places_apart():
    """Without positions, equal patches would get equal outputs; both schemes tell them apart."""
    inputs, _ = _inputs(shape=(1, 2, 4, 4, 4))
    inputs["xt"] = np.broadcast_to(inputs["xt"][:, :1, :1, :1], (1, 2, 4, 4, 4))
    for positions in ("rope", "sincos"):
        model = DiT(**SIZES, positions=positions)
        params = _trained(model)
        # Text differs from video, so rotated scores against video keys shift the weights between the two.
        out = np.asarray(_apply(model, params, inputs))
        for other in (out[0, 1, 0, 0], out[0, 0, 2, 0], out[0, 0, 0, 2]):
            assert np.abs(out[0, 0, 0, 0] - other).max() > 1e-5, positions


def test_zero_init_predicts_zero():
    """adaLN-Zero: the blocks start as the identity and the first prediction is 0."""
    inputs, _ = _inputs()
    model = DiT(**{**SIZES, "zero_init_modulation": True})
    params = _fresh(model)
    np.testing.assert_array_equal(_apply(model, params, inputs), 0.0)
    for name in ("attention_modulation", "mlp_modulation"):
        np.testing.assert_array_equal(params["blocks"][name]["kernel"], 0.0)


def test_fresh_branch_has_gradients_without_copying():
    """The copies start with open gates, so zero_out learns even where the branch was never copied from a base."""
    inputs, control = _inputs()
    model = DiT(**{**SIZES, "zero_init_modulation": True}, control_depth=3)
    params = {**_trained(model), "control": _fresh(model)["control"]}

    def loss(zero_out):
        branch = {**params["control"], "zero_out": zero_out}
        return jnp.sum(jnp.sin(model.apply({"params": {**params, "control": branch}}, **inputs, control=control)))

    grads = jax.jit(jax.grad(loss), compiler_options=FAST)(params["control"]["zero_out"])
    assert (np.abs(grads["kernel"]).max(axis=(1, 2)) > 1e-5).all()


def test_concat_channels_enter_the_patches():
    inputs, _ = _inputs()
    model = DiT(**{**SIZES, "in_channels": 6})
    extra = np.random.default_rng(3).normal(size=(2, 3, 4, 6, 2)).astype(np.float32)
    joined = {**inputs, "xt": np.concatenate([inputs["xt"], extra], -1)}
    params = _trained(model, joined)
    out = _apply(model, params, inputs, Control(concat=extra))
    np.testing.assert_array_equal(out, _apply(model, params, joined))
    assert out.shape == (2, 3, 4, 6, 4)


class _PatchConditioner(nn.Module):
    @nn.compact
    def __call__(self, conditions, time):
        x = jnp.concatenate(list(conditions["videos"].values()), -1)
        return Control(tokens=nn.Dense(32)(patches.patchify(x, 2)) * time[:, None, None])


def test_denoiser_joins_conditioner_and_dit():
    inputs, _ = _inputs()
    rng = np.random.default_rng(0)
    videos = {name: rng.normal(size=(2, 3, 4, 6, 4)).astype(np.float32) for name in ("source", "target")}
    model = Denoiser(DiT(**SIZES, control_depth=1), _PatchConditioner())
    params = _trained(model, {**inputs, "conditions": {"videos": videos}})
    assert set(params) == {"dit", "conditioner"}
    assert {"blocks", "control", "patch_embed"} <= set(params["dit"])
    out = jax.jit(lambda p: model.apply({"params": p}, **inputs, conditions={"videos": videos}), compiler_options=FAST)(
        params
    )
    tokens = _PatchConditioner().apply({"params": params["conditioner"]}, {"videos": videos}, inputs["timestep"] / 999)
    direct = _apply(DiT(**SIZES, control_depth=1), params["dit"], inputs, tokens)
    # One program against two.
    np.testing.assert_allclose(out, direct, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"conditions \['videos'\] were given, but the model has no conditioner"):
        Denoiser(model.dit).apply({"params": params}, **inputs, conditions={"videos": videos})


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({}, (1, 3, 5, 6, 4), r"5x6 do not divide into patches of 2x2"),
        ({}, (1, 3, 4, 6, 3), r"3 channels.*in_channels=4"),
        ({"text_length": 4}, (1, 3, 4, 6, 4), r"text of 5 tokens, 12 wide.*text_length=4"),
        ({"text_dim": 8, "positions": "sincos"}, (1, 3, 4, 6, 4), r"text_dim=8"),
        ({"patch_size_t": 2}, (1, 3, 4, 6, 4), r"3 latent frames.*patches of 2 \(patch_size_t\); sample 1 more"),
        ({"patch_size_t": 2, "positions": "sincos"}, (1, 4, 4, 6, 4), r"no form for patch_size_t=2; only 'rope' has"),
        ({"positions": "learned"}, (1, 3, 4, 6, 4), r"positions='learned' is unknown; available: rope, sincos"),
        ({"positions": "rope+learned"}, (1, 3, 4, 6, 4), r"needs sample_size, the \(frames, height, width\)"),
        (LEARNED, (1, 3, 4, 8, 4), r"latents of 4x8 do not fit the learned positions, which are for 4x6 only"),
        ({**LEARNED, "text_length": 7}, (1, 3, 4, 6, 4), r"text of 5 tokens.*exactly text_length=7; pad it"),
        ({"sample_size": (3, 4, 0)}, (1, 3, 4, 6, 4), r"sample_size=\(3, 4, 0\) must be \(frames, height, width\)"),
        ({"ofs_embed_dim": 8}, (1, 3, 4, 6, 4), r"ofs_embed_dim=8 must be None or equal time_embed_dim=16"),
        ({"control_wiring": "x"}, (1, 3, 4, 6, 4), r"available: side, chained"),
        ({"control_depth": 4}, (1, 3, 4, 6, 4), r"control_depth=4 must lie in 0..num_layers=3"),
        ({"head_dim": 24}, (1, 3, 4, 6, 4), r"multiple of 16, got 24"),
    ],
)
def test_unsupported_settings_and_sizes_are_explained(changes, shape, message):
    inputs, _ = _inputs(shape=(1, 3, 4, 6, 4))
    inputs["xt"] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(DiT(**{**SIZES, **changes}).init, jax.random.key(0), **inputs)


def test_control_tokens_must_fit():
    inputs, control = _inputs()
    with pytest.raises(ValueError, match=r"no control branch \(control_depth=0\)"):
        jax.eval_shape(DiT(**SIZES).init, jax.random.key(0), **inputs, control=control)
    with pytest.raises(ValueError, match=r"\(2, 17, 32\), expected \(2, 18, 32\)"):
        short = Control(control.tokens[:, :-1])
        jax.eval_shape(DiT(**SIZES, control_depth=1).init, jax.random.key(0), **inputs, control=short)
    with pytest.raises(ValueError, match=r"Control.latents have shape \(2, 2, 4, 6, 4\), expected \(2, 3, 4, 6, 4\)"):
        short = Control(latents=inputs["xt"][:, 1:])
        jax.eval_shape(DiT(**SIZES, control_depth=1).init, jax.random.key(0), **inputs, control=short)
    with pytest.raises(ValueError, match=r"tokens and Control.latents were given; .* takes one of them"):
        two = control._replace(latents=inputs["xt"])
        jax.eval_shape(DiT(**SIZES, control_depth=1).init, jax.random.key(0), **inputs, control=two)


def test_released_parameter_counts():
    """CogVideoX-5B, -2B and the 48-channel branch of depth 18 have exactly the released models' sizes."""

    def count(latents=(1, 1, 2, 2, 16), **settings):
        model = DiT(**settings)
        text = jax.ShapeDtypeStruct((1, 1, 4096), jnp.float32)
        latents = jax.ShapeDtypeStruct(latents, jnp.float32)
        return jax.eval_shape(model.init, jax.random.key(0), latents, jnp.zeros(1), text)["params"]

    five = count(num_layers=42, num_heads=48, head_dim=64, control_depth=18)
    assert parameters.count(dit.base_params(five)) == 5_570_283_072
    # The 48-channel patch embedding belongs to the conditioner; the rest of what is trained to the branch.
    patch_embed = 2 * 2 * 48 * 3072 + 3072
    trained = parameters.count(five["control"]) + patch_embed
    one_block = (parameters.count(five["blocks"])) // 42
    assert trained == 18 * one_block + 19 * (3072 * 3072 + 3072) + patch_embed
    assert trained == pytest.approx(2_559.5e6, abs=0.05e6)
    assert parameters.count(count(positions="sincos")) == pytest.approx(1.694e9, abs=0.0005e9)
