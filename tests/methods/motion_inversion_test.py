"""Motion Inversion: what is learned and where it enters, the losses against loops, what debiasing takes away."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from ml_collections import ConfigDict

from motionv2v import backbone, diffusion, sections
from motionv2v.devices import memory
from motionv2v.methods import motion_inversion
from motionv2v.methods.motion_inversion import DEBIAS, METHOD, debiased

TOKENS = (2, 2, 2)  # of the model here: 5 frames of 32x32, latents 2x4x4, patches of 2x2
SHAPE = (2, 2, 4, 4, 16)


def config(axes=("thw",), **given):
    cfg = tiny_model.config("base", size=(32, 32))
    cfg.dit.axes = axes
    cfg.method = ConfigDict({"name": "motion_inversion", "depth": 2, "frames": 2, "grid": (2, 2), **given})
    return sections.complete(cfg)


@functools.cache
def built(axes=("thw",), **given):
    cfg = config(axes, **given)
    model = backbone.build(cfg)
    params = tiny_model.random_params(memory.parameter_shapes(cfg))
    rng = np.random.default_rng(0)
    xt = rng.standard_normal(SHAPE).astype(np.float32)
    text = rng.standard_normal((2, 12, 8)).astype(np.float32)
    predict = jax.jit(functools.partial(backbone.denoise, model), static_argnames="use_control")
    return params, lambda tree, **options: np.asarray(predict(tree, xt, jnp.array([300, 800]), text, None, **options))


def with_motion(params, change):
    return params | {"conditioner": jax.tree.map(change, params["conditioner"])}


@pytest.mark.parametrize("axes", [("thw",), ("hw", "t")])
def test_embeddings_of_zero_are_the_base_bit_for_bit(axes):
    params, predict = built(axes)
    zero = with_motion(params, jnp.zeros_like)
    with jax.disable_jit():  # two compiled programs may round differently; the operations themselves must not
        np.testing.assert_array_equal(predict(zero), predict(params, use_control=False))
    for name in ("motion_qk", "motion_v"):
        one = zero | {"conditioner": zero["conditioner"] | {name: params["conditioner"][name]}}
        assert np.abs(predict(one) - predict(zero)).max() > 1e-3, name


def test_a_new_conditioner_is_zero_and_learns_from_there():
    for rank in (0, 2):
        cfg = config(rank=rank)
        model = backbone.build(cfg)
        module = model.denoiser.conditioner
        variables = module.init(jax.random.key(0), {}, None)
        for value in module.apply(variables, {}, None).motion.values():
            assert not np.asarray(value).any()
        params = tiny_model.random_params(memory.parameter_shapes(cfg)) | {"conditioner": variables["params"]}
        xt = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), jnp.float32)

        def loss(learned, params=params, model=model, xt=xt):
            made = backbone.denoise(
                model, params | {"conditioner": learned}, xt, jnp.array([9, 500]), jnp.ones((2, 12, 8))
            )
            return jnp.square(made - xt).mean()

        slopes = jax.grad(loss)(variables["params"])
        moved = {name for name, slope in slopes.items() if np.abs(slope).max() > 1e-6}
        assert moved == ({"motion_qk", "motion_v_features"} if rank else {"motion_qk", "motion_v"})


def test_chosen_layers_have_embeddings_and_the_others_zeros():
    cfg = config(layers=(1,), v="frames")
    module = backbone.build(cfg).denoiser.conditioner
    shapes = jax.eval_shape(module.init, jax.random.key(0), {}, None)["params"]
    assert {name: x.shape for name, x in shapes.items()} == {"motion_qk": (1, 2, 32), "motion_v": (1, 2, 32)}
    motion = module.apply({"params": jax.tree.map(lambda x: jnp.ones(x.shape), shapes)}, {}, None).motion
    for value in motion.values():
        np.testing.assert_array_equal(np.asarray(value).mean(axis=(1, 2)), [0, 1])


def test_a_sum_of_products_is_one_of_a_loop():
    module = motion_inversion.Conditioner(6, 2, (), 3, (2, 2), rank=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), {}, None)["params"]
    params = tiny_model.random_params(shapes)
    found = np.asarray(module.apply({"params": params}, {}, None).motion["v"])
    time, place, features = (params[f"motion_v_{name}"] for name in ("time", "place", "features"))
    for layer, t, y, x in np.ndindex(2, 3, 2, 2):
        expected = sum(time[layer, r, t] * place[layer, r, y, x] * features[layer, r] for r in range(2))
        np.testing.assert_allclose(found[layer, t, y, x], expected, rtol=1e-5, atol=1e-6)


# --- debiasing -------------------------------------------------------------------------------------------------------


def test_what_is_the_same_in_all_frames_is_taken_away_but_for_the_first():
    still = jnp.broadcast_to(jnp.arange(2.0 * 4 * 8).reshape(2, 1, 2, 2, 8), (2, 5, 2, 2, 8))
    motion = {"motion_qk": jnp.ones((2, 5, 8)), "motion_v": still}
    after = debiased(motion, "difference")["motion_v"]
    np.testing.assert_array_equal(after[:, 0], still[:, 0])
    assert not np.asarray(after[:, 1:]).any()
    assert not np.asarray(debiased(motion, "mean")["motion_v"]).any()
    for how in DEBIAS:
        np.testing.assert_array_equal(debiased(motion, how)["motion_qk"], motion["motion_qk"])
    np.testing.assert_array_equal(debiased(motion, "none")["motion_v"], still)


def test_differences_are_those_of_equation_5():
    rng = np.random.default_rng(0)
    value = rng.standard_normal((2, 4, 3, 2, 5)).astype(np.float32)
    found = np.asarray(debiased({"motion_v": value}, "difference")["motion_v"])
    for layer, j in np.ndindex(2, 4):
        expected = value[layer, j] - (value[layer, j - 1] if j else 0)
        np.testing.assert_allclose(found[layer, j], expected, rtol=1e-6)


@pytest.mark.parametrize("how", DEBIAS)
def test_products_are_debiased_as_what_they_stand_for(how):
    module = motion_inversion.Conditioner(6, 2, (), 4, (2, 3), rank=2)
    params = tiny_model.random_params(jax.eval_shape(module.init, jax.random.key(0), {}, None)["params"])
    whole = module.apply({"params": params}, {}, None).motion["v"]
    expected = debiased({"motion_v": whole}, how)["motion_v"]
    found = module.apply({"params": debiased(params, how)}, {}, None).motion["v"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_dropped_values_do_not_count():
    params, predict = built()
    one, other = (params | {"conditioner": debiased(params["conditioner"], "drop")} for _ in range(2))
    other["conditioner"] = debiased(params["conditioner"] | {"motion_v": params["conditioner"]["motion_v"] * 7}, "drop")
    np.testing.assert_array_equal(predict(one), predict(other))
    assert np.abs(predict(one) - predict(params)).max() > 1e-3
    with pytest.raises(ValueError, match="one of difference, mean, none, drop, got 'all'"):
        debiased({}, "all")


# --- losses ----------------------------------------------------------------------------------------------------------

SCHEDULE = diffusion.make_schedule()


def sample(seed=0):
    rng = np.random.default_rng(seed)
    v, x0, eps = (rng.standard_normal((3, 4, 2, 2, 5)).astype(np.float32) for _ in range(3))
    return v, x0, eps, np.array([100, 500, 999])


def measured(name, key=0, **changed):
    v, x0, eps, timestep = sample()
    v = changed.get("v", v)
    method = config(loss=name).method
    return np.asarray(METHOD.loss(jax.random.key(key), v, x0, eps, timestep, SCHEDULE, method))


def true_v():
    _, x0, eps, timestep = sample()
    return np.asarray(diffusion.velocity(SCHEDULE, x0, eps, timestep))


@pytest.mark.parametrize("name", ["plain", "debiased_v", "debiased_eps", "cosine"])
def test_the_truth_costs_nothing(name):
    np.testing.assert_allclose(measured(name, v=true_v()), 0, atol=1e-5)
    assert (measured(name) > 0.05).all()


@pytest.mark.parametrize("key", range(3))
def test_the_debiased_losses_are_those_of_loops(key):
    v, x0, eps, timestep = sample()
    anchor = int(jax.random.randint(jax.random.key(key), (), 0, 4))
    true = true_v()
    of_v, of_eps = [], []
    for b in range(3):
        abar = SCHEDULE.alphas_cumprod[timestep[b]]
        xt = np.sqrt(abar) * x0[b] + np.sqrt(1 - abar) * eps[b]
        made = np.sqrt(1 - abar) * xt + np.sqrt(abar) * v[b]
        errors = {"v": 0.0, "eps": 0.0}
        for j in range(4):
            for word, found, wanted in (("v", v[b], true[b]), ("eps", made, eps[b])):
                beside = [np.sqrt(2) * x[j] - x[anchor] for x in (found, wanted)]
                errors[word] += np.square(beside[0] - beside[1]).mean() / 4
        plain = np.square(v[b] - true[b]).mean()
        of_v.append(plain + errors["v"])
        of_eps.append(plain + errors["eps"] * (abar > 0.01))
    np.testing.assert_allclose(measured("debiased_v", key), of_v, rtol=1e-4)
    np.testing.assert_allclose(measured("debiased_eps", key), of_eps, rtol=1e-3)


def test_what_frames_have_beside_one_another_is_the_same_of_v_and_of_noise_and_clip():
    """phi(v) = sqrt(abar) phi(eps) - sqrt(1 - abar) phi(x0), for v is linear in both."""
    _, x0, eps, timestep = sample()
    root = np.sqrt(SCHEDULE.alphas_cumprod[timestep]).reshape(-1, 1, 1, 1, 1)
    for anchor in range(4):
        beside = [np.asarray(motion_inversion.relative(x, jnp.int32(anchor))) for x in (true_v(), eps, x0)]
        np.testing.assert_allclose(beside[0], root * beside[1] - np.sqrt(1 - root**2) * beside[2], atol=2e-5)


def test_what_frames_have_beside_an_anchor_is_not_as_large_as_noise():
    """Variance 2 + 1 beside another frame, and (sqrt(2) - 1)^2 = 0.17 of the anchor itself."""
    noise = np.random.default_rng(0).standard_normal((1, 3, 100, 100, 4)).astype(np.float32)
    beside = np.asarray(motion_inversion.relative(noise, jnp.int32(1)))
    assert [round(float(beside[0, j].var()), 1) for j in (0, 2)] == [3.0, 3.0]
    assert beside[0, 1].var() == pytest.approx((np.sqrt(2) - 1) ** 2, rel=0.03)


def test_an_error_that_all_frames_share_counts_for_less_beside_the_anchor():
    """Of an error d in all frames (sqrt(2) - 1)^2 is left, of one in a single frame twice as much as it was."""
    shift = np.ones((3, 1, 2, 2, 5), np.float32)
    shared = measured("debiased_v", v=true_v() + shift) - 1
    np.testing.assert_allclose(shared, (np.sqrt(2) - 1) ** 2, rtol=1e-3)
    anchor = int(jax.random.randint(jax.random.key(0), (), 0, 4))
    other = (anchor + 1) % 4
    alone = true_v() + shift * (np.arange(4) == other).reshape(1, 4, 1, 1, 1)
    np.testing.assert_allclose(measured("debiased_v", v=alone) - 0.25, 2 * 0.25, rtol=1e-3)


def test_cosine_compares_directions_of_change_alone():
    still = np.ones((3, 1, 2, 2, 5), np.float32)
    np.testing.assert_allclose(measured("cosine", v=3 * true_v() + 5 * still), 0, atol=1e-5)
    np.testing.assert_allclose(measured("cosine", v=-true_v()), 2, atol=1e-5)
    one = [x[:, :1] for x in sample()[:3]]
    assert not np.asarray(motion_inversion.cosine(None, *one, sample()[3], SCHEDULE)).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": (0, 2)}, "method.layers names layer 2, but the base has layers 0..1"),
        ({"layers": (1, 1)}, "expected each layer once"),
        ({"grid": (2,)}, "method.grid.*list of 2 values"),
        ({"loss": "l1"}, "one of plain, debiased_v, debiased_eps, cosine"),
        ({"debias": "some"}, "one of difference, mean, none, drop"),
        ({"v": "pixels"}, "one of frames, places, none"),
        ({"start": "zero"}, "one of noise, inverted, blend, frequencies"),
        ({"rank": -1}, "a whole number of at least 0"),
    ],
)
def test_bad_settings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        backbone.build(config(**given))


# --- starts ----------------------------------------------------------------------------------------------------------


def start(name, **batch):
    return np.asarray(METHOD.initial_noise(jax.random.key(0), batch, (3, 5, 8, 8, 2), config(start=name).method))


def test_starts_keep_what_they_say_of_the_inverted_clip():
    inverted = np.random.default_rng(0).standard_normal((1, 5, 8, 8, 2)).astype(np.float32)
    noise = start("noise", inverted=inverted)
    np.testing.assert_array_equal(noise, start("blend"))
    np.testing.assert_array_equal(start("inverted", inverted=inverted), np.broadcast_to(inverted, noise.shape))
    blend = start("blend", inverted=inverted)
    np.testing.assert_allclose(blend, (noise + inverted) / np.sqrt(2), rtol=1e-5)
    mixed = start("frequencies", inverted=inverted)
    for x in (blend, mixed):
        assert 0.85 < x.std() < 1.15, "as much noise as the model was trained on"
    low = motion_inversion.low_pass
    np.testing.assert_allclose(low(mixed), low(np.broadcast_to(inverted, noise.shape)), atol=1e-5)
    np.testing.assert_allclose(mixed - low(mixed), noise - low(noise), atol=1e-5)


def test_low_frequencies_are_those_of_a_loop():
    x = np.random.default_rng(1).standard_normal((1, 5, 8, 4, 1)).astype(np.float32)
    spectrum = np.fft.fftn(x, axes=(1, 2, 3))
    for t, row, column in np.ndindex(5, 8, 4):
        cycles = [min(k, n - k) / n for k, n in ((t, 5), (row, 8), (column, 4))]
        if max(cycles) > 0.125:
            spectrum[:, t, row, column] = 0
    np.testing.assert_allclose(motion_inversion.low_pass(x), np.fft.ifftn(spectrum, axes=(1, 2, 3)).real, atol=1e-5)
