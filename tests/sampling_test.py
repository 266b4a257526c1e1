import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import diffusion, sampling
from motionv2v.sampling import Guidance

SCHEDULE = diffusion.make_schedule()
SHAPE = (2, 1, 3, 4, 2)
NOISE = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
TRUTH = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


def toward(x0):
    """The exact denoiser of data that is always x0."""
    return lambda xt, timestep: diffusion.v_from_x0(SCHEDULE, xt, x0, timestep)


def toy(xt, timestep):
    return 0.5 * xt - 0.3 * jnp.tanh(xt) + 0.001 * timestep.reshape(-1, 1, 1, 1, 1)


def other(xt, timestep):
    return toy(xt, timestep) + 0.2


@functools.partial(jax.jit, static_argnames=("denoise_fn", "num_steps", "solver", "guidance", "guided_fn"))
def run(key, denoise_fn, noise=NOISE, num_steps=6, solver="ddim", guidance=sampling.NO_GUIDANCE, guided_fn=None):
    return sampling.sample(
        key,
        denoise_fn,
        noise,
        SCHEDULE,
        num_steps=num_steps,
        solver=solver,
        guidance=guidance,
        guided_fn=guided_fn,
    )


def test_time_grid_is_trailing():
    np.testing.assert_array_equal(sampling.time_grid(50), np.arange(999, 0, -20))
    np.testing.assert_array_equal(sampling.time_grid(4), [999, 749, 499, 249])
    np.testing.assert_array_equal(sampling.time_grid(3), [999, 666, 332])
    np.testing.assert_array_equal(sampling.time_grid(1000), np.arange(999, -1, -1))


def test_time_grid_has_the_number_of_steps_it_was_asked_for():
    for num_steps in range(1, 1001):
        grid = sampling.time_grid(num_steps)
        assert len(grid) == num_steps and grid[0] == 999 and grid[-1] >= 0 and (np.diff(grid) < 0).all()


@pytest.mark.parametrize("num_steps", [0, -3, 1001])
def test_time_grid_refuses(num_steps):
    with pytest.raises(ValueError, match=str(num_steps)):
        sampling.time_grid(num_steps)


@pytest.mark.parametrize("solver", sampling.SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 5, 8])
def test_exact_denoiser_recovers_x0(solver, num_steps):
    result = run(jax.random.key(0), toward(TRUTH), num_steps=num_steps, solver=solver)
    # The last step lands on x0_hat, off by float32 rounding.
    np.testing.assert_allclose(result, TRUTH, atol=1e-5)


def test_seven_steps_end_where_the_released_scheduler_ends():
    # 142, the last timestep, less 1000 // 7 is timestep 0 and not clean data: sigma 0.03 of noise stays, as released.
    eps = (NOISE - SCHEDULE.alpha[999] * TRUTH) / SCHEDULE.sigma[999]
    expected = SCHEDULE.alpha[0] * TRUTH + SCHEDULE.sigma[0] * eps
    np.testing.assert_allclose(run(jax.random.key(0), toward(TRUTH), num_steps=7), expected, atol=1e-3)


def test_ddim_matches_a_slow_loop():
    abar = SCHEDULE.alphas_cumprod.astype(np.float64)
    x, t = NOISE.astype(np.float64), 999
    while t >= 0:
        v = np.asarray(toy(jnp.asarray(x, jnp.float32), jnp.full(2, t)), np.float64)
        x0 = np.sqrt(abar[t]) * x - np.sqrt(1 - abar[t]) * v
        eps = np.sqrt(1 - abar[t]) * x + np.sqrt(abar[t]) * v
        t -= 125
        following = abar[t] if t >= 0 else 1.0
        x = np.sqrt(following) * x0 + np.sqrt(1 - following) * eps
    # Eight steps of float32 against float64.
    np.testing.assert_allclose(run(jax.random.key(0), toy, num_steps=8), x, atol=1e-5)


def test_dpm_noise_has_the_variance_of_the_schedule():
    # With x0 = 0 known exactly, the latent before the last step is pure noise of level sigma.
    levels = []

    def denoise_fn(xt, timestep):
        jax.debug.callback(lambda x, t: levels.append((np.std(x), SCHEDULE.sigma[t[0]])), xt, timestep, ordered=True)
        return toward(jnp.zeros_like(xt))(xt, timestep)

    noise = np.random.default_rng(2).standard_normal((1, 100, 100, 1)).astype(np.float32)
    run(jax.random.key(0), denoise_fn, noise, num_steps=4, solver="dpmpp_2m_sde")
    jax.effects_barrier()
    seen, expected = np.array(levels).T
    # 10,000 values: the standard deviation is known to 0.7 %; four times that.
    np.testing.assert_allclose(seen, expected, rtol=0.03)


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_same_key_same_sample(solver):
    first, again = (run(jax.random.key(0), toy, solver=solver) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    changed = run(jax.random.key(1), toy, solver=solver)
    # DDIM draws nothing; the other solver draws fresh noise in every step.
    assert (np.asarray(first) == np.asarray(changed)).all() == (solver == "ddim")


def test_samples_of_a_batch_do_not_meet():
    both = run(jax.random.key(0), toy)
    alone = run(jax.random.key(0), toy, NOISE[1:])
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)  # another batch size may be vectorised otherwise


def test_denoiser_sees_float32_latents_and_int_timesteps_of_the_grid():
    seen = []

    def denoise_fn(xt, timestep):
        assert xt.dtype == jnp.float32 and xt.shape == SHAPE and timestep.shape == SHAPE[:1]
        assert jnp.issubdtype(timestep.dtype, jnp.integer)
        jax.debug.callback(lambda t: seen.append(t[0]), timestep, ordered=True)
        return toy(xt, timestep).astype(jnp.bfloat16)

    result = run(jax.random.key(0), denoise_fn, jnp.asarray(NOISE, jnp.bfloat16), num_steps=4)
    jax.effects_barrier()
    assert seen == [999, 749, 499, 249] and result.dtype == jnp.float32


def test_guidance_scale_one_is_the_conditional_model():
    guided = run(
        jax.random.key(0), toy, guidance=Guidance(1.0, "constant"), guided_fn=lambda x, t: (toy(x, t), other(x, t))
    )
    # b + 1 (a - b) rounds where a alone does not.
    np.testing.assert_allclose(guided, run(jax.random.key(0), toy), atol=1e-5)


def test_guidance_extrapolates():
    def extrapolated(xt, timestep):
        return other(xt, timestep) + 3 * (toy(xt, timestep) - other(xt, timestep))

    guided = run(jax.random.key(0), toy, guidance=Guidance(3.0), guided_fn=lambda x, t: (toy(x, t), other(x, t)))
    np.testing.assert_allclose(guided, run(jax.random.key(0), extrapolated), atol=1e-5)
    assert np.abs(guided - run(jax.random.key(0), toy)).max() > 0.1


def test_sat_guidance_grows_from_one_to_one_plus_scale():
    weights = sampling.guidance_weights(Guidance(6.0, "sat"), sampling.time_grid(50))
    assert weights[0] == 1 and (np.diff(weights) >= 0).all() and 6.8 < weights[-1] < 7
    # 20 of 50 steps hardly guide at all: w - 1 <= 6 (1 - cos(pi 0.38^5)) / 2.
    assert weights[19] < 1.001
    np.testing.assert_allclose(weights[25], 1 + 3 * (1 - np.cos(np.pi / 32)), rtol=1e-12)


def test_diffusers_guidance_has_the_published_jumps():
    weights = sampling.guidance_weights(Guidance(6.0, "diffusers"), sampling.time_grid(50))
    # As read off a run of the released pipeline, to the digits given.
    np.testing.assert_allclose(weights[:5], [2.29, 2.54, 6.97, 6.42, 2.79], atol=0.005)
    # From timestep 49 on the formula means what it says: two smooth steps at 39 and 19.
    np.testing.assert_allclose(weights[-1], 1 + 3 * (1 - np.cos(np.pi * (31 / 50) ** 5)), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "euler"}, r"'euler'.*ddim, dpmpp_2m_sde"),
        ({"guidance": Guidance(3.0, "cosine")}, r"'cosine'.*off, constant, sat, diffusers"),
        ({"guidance": Guidance(3.0)}, "guided_fn"),
        ({"num_steps": 0}, "0"),
    ],
)
def test_sample_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, **{"num_steps": 2, **arguments})
