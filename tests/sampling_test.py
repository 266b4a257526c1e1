import functools
import itertools

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
    settings = sampling.Settings(num_steps, solver, guidance)
    return sampling.sample(key, denoise_fn, noise, SCHEDULE, settings, guided_fn)


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
        sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, sampling.Settings(**{"num_steps": 2, **arguments}))


# --- passes that are left out ----------------------------------------------------------------------------------------


def counted(function, calls):
    """Wrap a denoiser so that every call that is really made adds to `calls`."""

    def wrapped(xt, timestep):
        jax.debug.callback(lambda t: calls.append(int(t[0])), timestep, ordered=True)
        return function(xt, timestep)

    return wrapped


def guided_sample(guidance, solver="ddim", num_steps=50, **options):
    """Sample with counted calls; returns the sample, calls with the text and calls without."""
    with_text, without = [], []
    conditional, free = counted(toy, with_text), counted(other, without)
    result = sampling.sample(
        jax.random.key(0),
        conditional,
        NOISE,
        SCHEDULE,
        sampling.Settings(num_steps, solver, guidance, **options),
        lambda x, t: (conditional(x, t), free(x, t)),
    )
    jax.effects_barrier()
    return result, with_text, without


def always_both(guidance, solver, num_steps=50):
    """The same as one denoiser that computes both predictions in every step, by the step's float32 weight."""
    timesteps = sampling.time_grid(num_steps)
    weights = jnp.asarray(sampling.guidance_weights(guidance, timesteps), jnp.float32)

    def denoise_fn(xt, timestep):
        weight = weights[jnp.searchsorted(-timesteps, -timestep[0])]
        return other(xt, timestep) + weight * (toy(xt, timestep) - other(xt, timestep))

    return sampling.sample(jax.random.key(0), denoise_fn, NOISE, SCHEDULE, sampling.Settings(num_steps, solver))


@pytest.mark.parametrize("solver", sampling.SOLVERS)
@pytest.mark.parametrize("kind", ["sat", "diffusers", "constant"])
def test_void_guidance_is_left_out_and_changes_nothing(kind, solver):
    guidance = Guidance(6.0, kind)
    result, with_text, without = guided_sample(guidance, solver)
    # By the formula, 3 (pi x^5)^2 / 2 with x = step / 50 is below float32's half unit in the last place up to step 7.
    skipped = {"sat": 8, "diffusers": 0, "constant": 0}[kind]
    assert with_text == list(sampling.time_grid(50)) and without == with_text[skipped:]
    # b + 1 (a - b) rounds where a alone does not; 50 steps of it.
    np.testing.assert_allclose(result, always_both(guidance, solver), atol=1e-4)


def test_void_of_a_thousandth_leaves_out_twenty_of_fifty_passes():
    guidance = Guidance(6.0, "sat")
    result, with_text, without = guided_sample(guidance, void=1e-3)
    assert (len(with_text), len(without)) == (50, 30)
    # A thousandth of the difference, 0.2, at 20 steps that each move x by at most 0.05.
    np.testing.assert_allclose(result, always_both(guidance, "ddim"), atol=1e-3 * 0.2)


def test_guidance_of_scale_one_calls_the_text_free_model_never():
    _, with_text, without = guided_sample(Guidance(1.0, "constant"), num_steps=5)
    assert (len(with_text), len(without)) == (5, 0)


# --- reused steps ----------------------------------------------------------------------------------------------------

PLAN = tuple(i % 3 != 0 and 2 <= i < 19 for i in range(20))


def linear_in_the_angle(xt, timestep):
    """A prediction that depends on nothing but the angle of the step, and on that linearly."""
    angle = jnp.arctan2(jnp.asarray(SCHEDULE.sigma)[timestep], jnp.asarray(SCHEDULE.alpha)[timestep])
    return TRUTH * (1 - 0.4 * angle.reshape(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_reuse_is_exact_where_the_prediction_is_linear_in_the_angle(solver):
    calls = []
    full_plan = sampling.Settings(20, solver)
    fewer = full_plan._replace(reuse=PLAN)
    result = sampling.sample(jax.random.key(0), counted(linear_in_the_angle, calls), NOISE, SCHEDULE, fewer)
    jax.effects_barrier()
    assert calls == [t for t, skipped in zip(sampling.time_grid(20), PLAN, strict=True) if not skipped]
    full = sampling.sample(jax.random.key(0), linear_in_the_angle, NOISE, SCHEDULE, full_plan)
    np.testing.assert_allclose(result, full, atol=2e-5)  # float32 rounding of the angles
    other_plan = sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, fewer)
    assert np.abs(other_plan - sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, full_plan)).max() > 1e-5


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_reuse_keeps_both_predictions_of_guidance(solver):
    """With guidance whose weight changes, the two predictions are extrapolated apart and weighted anew."""
    plan = tuple(i % 2 == 1 and i > 4 for i in range(20))
    guidance = Guidance(6.0, "sat")

    def pair(x, t):
        return linear_in_the_angle(x, t), 0.5 * linear_in_the_angle(x, t) + 0.1

    def run(reuse):
        return sampling.sample(
            jax.random.key(0),
            linear_in_the_angle,
            NOISE,
            SCHEDULE,
            sampling.Settings(20, solver, guidance, reuse=reuse),
            pair,
        )

    # Seven times the rounding of one prediction.
    np.testing.assert_allclose(run(plan), run(None), atol=2e-4)


def test_a_plan_without_reuse_is_bit_equal_to_none():
    for solver in sampling.SOLVERS:
        none = run(jax.random.key(0), toy, num_steps=8, solver=solver)
        empty = jax.jit(
            lambda solver=solver: sampling.sample(
                jax.random.key(0), toy, NOISE, SCHEDULE, sampling.Settings(8, solver, reuse=(False,) * 8)
            )
        )()
        np.testing.assert_array_equal(none, empty)


def test_model_calls_force_what_cannot_be_extrapolated():
    plan = sampling.Settings(10, reuse=(True,) * 10)
    np.testing.assert_array_equal(sampling.model_calls(plan), [1, 1] + [0] * 8)
    # Steps 0 and 1 are not guided: the first two guided ones have to be computed.
    calls = sampling.model_calls(plan._replace(guidance=Guidance(6.0, "sat")))
    np.testing.assert_array_equal(calls, [1, 1, 2, 2] + [0] * 6)
    np.testing.assert_array_equal(sampling.model_calls(sampling.Settings(10, guidance=Guidance(6.0))), [2] * 10)
    with pytest.raises(ValueError, match="3 entries for 10 steps"):
        sampling.model_calls(plan._replace(reuse=(False,) * 3))


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_a_later_start_goes_on_from_a_noised_clip(solver):
    """With the exact denoiser a sample from any step on recovers the clip, in the steps that are left."""
    settings, calls = sampling.Settings(8, solver, start=5), []
    first = int(settings.timesteps()[0])
    assert first == sampling.time_grid(8)[5]
    noised = SCHEDULE.alpha[first] * TRUTH + SCHEDULE.sigma[first] * NOISE
    result = sampling.sample(jax.random.key(0), counted(toward(TRUTH), calls), noised, SCHEDULE, settings)
    jax.effects_barrier()
    assert calls == list(sampling.time_grid(8)[5:])
    np.testing.assert_allclose(result, TRUTH, atol=1e-5)  # float32 rounding of the last step
    with pytest.raises(ValueError, match=r"start is 8.*one of 8 steps"):
        sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, settings._replace(start=8))


def test_a_later_start_equals_the_end_of_a_whole_sample():
    """Deterministic steps: stopping at a step and going on from there is the sample without a stop."""
    whole = sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, sampling.Settings(6))
    seen = []

    def denoise_fn(xt, timestep):
        jax.debug.callback(lambda x: seen.append(np.array(x)), xt, ordered=True)
        return toy(xt, timestep)

    sampling.sample(jax.random.key(0), denoise_fn, NOISE, SCHEDULE, sampling.Settings(6))
    jax.effects_barrier()
    rest = sampling.sample(jax.random.key(0), toy, seen[2], SCHEDULE, sampling.Settings(6, start=2))
    np.testing.assert_allclose(rest, whole, atol=1e-6)  # another program, other rounding


def test_changes_match_a_slow_loop():
    seen = []

    def denoise_fn(xt, timestep):
        v = toy(xt, timestep)
        jax.debug.callback(lambda value: seen.append(np.array(value, np.float64)), v, ordered=True)
        return v

    sample, measured = sampling.changes(jax.random.key(0), denoise_fn, NOISE, SCHEDULE, sampling.Settings(6))
    jax.effects_barrier()
    norm = np.linalg.norm
    ratio = [1] + [norm(b) / norm(a) for a, b in itertools.pairwise(seen)]
    change = [0] + [norm(b - a) / norm(a) for a, b in itertools.pairwise(seen)]
    np.testing.assert_allclose(measured["ratio"], ratio, rtol=1e-5)
    np.testing.assert_allclose(measured["change"], change, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(sample, run(jax.random.key(0), toy), atol=1e-6)


@pytest.mark.parametrize("solver", sampling.SOLVERS)
@pytest.mark.parametrize("guidance", [sampling.NO_GUIDANCE, Guidance(3.0), Guidance(6.0, "sat")])
def test_steps_in_turn_are_those_of_the_loop(solver, guidance):
    """Functions of numpy, which no compiled program could hold, see the same steps; reused ones are not computed."""
    settings = sampling.Settings(8, solver, guidance, 1e-3, (False,) * 3 + (True, False, True, False, False))
    calls = []

    def seen(function, kind):
        def call(xt, timestep):
            calls.append(kind)
            assert not isinstance(xt, jax.core.Tracer)
            return jax.tree.map(np.asarray, function(np.asarray(xt), np.asarray(timestep)))

        return call

    guided = lambda xt, timestep: (toy(xt, timestep), other(xt, timestep))  # noqa: E731
    key = jax.random.key(2)
    result = sampling.sample_in_turn(key, seen(toy, 1), NOISE, SCHEDULE, settings, seen(guided, 2))
    assert calls == [kind for kind in sampling.model_calls(settings) if kind]
    expected = sampling.sample(key, toy, NOISE, SCHEDULE, settings, guided)
    # Rounding in another order, of numbers of about 1.
    np.testing.assert_allclose(result, expected, atol=2e-5)


def test_inverting_comes_back():
    """A toy model whose v depends on x: there and back again, the better the more often each step is solved."""
    schedule = diffusion.make_schedule()
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)

    def model(xt, timestep):
        share = (timestep / 999.0)[:, None, None]
        return jnp.sin(2 * xt + share) - 0.5 * xt * share

    settings = sampling.Settings(50)
    errors = []
    for refinements in (0, 1, 3, 8):
        noise = sampling.invert(model, x0, schedule, 50, refinements)
        back = sampling.sample(jax.random.key(0), model, noise, schedule, settings)
        errors.append(float(jnp.abs(back - x0).max()))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-4 and errors[0] > 1e-2, errors


def test_inverting_a_perfect_model_finds_its_noise():
    """Where v is the true one of a single clip, every noise leads to it; the inversion finds the one that it has."""
    schedule, rng = diffusion.make_schedule(), np.random.default_rng(0)
    x0, eps = (jnp.asarray(rng.standard_normal((1, 6)), jnp.float32) for _ in range(2))
    truth = lambda xt, timestep: diffusion.velocity(schedule, x0, eps, timestep)  # noqa: E731
    np.testing.assert_allclose(sampling.invert(truth, x0, schedule, 20), eps, atol=1e-4)


# --- held to a clip --------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("denoise_fn", "num_steps", "solver", "guidance", "guided_fn"))
def run_held(hold, denoise_fn=toy, num_steps=6, solver="ddim", guidance=sampling.NO_GUIDANCE, guided_fn=None):
    settings = sampling.Settings(num_steps, solver, guidance)
    return sampling.sample(jax.random.key(0), denoise_fn, NOISE, SCHEDULE, settings, guided_fn, hold)


def clock(value):
    return np.full((*SHAPE[:-1], 1), value, np.float32)


@pytest.mark.parametrize("solver", sampling.SOLVERS)
@pytest.mark.parametrize("guided", [False, True])
def test_a_clock_of_zero_is_plain_sampling_and_one_of_one_is_the_clip(solver, guided):
    options = {"solver": solver}
    if guided:
        options |= {
            "guidance": Guidance(3.0),
            "guided_fn": lambda xt, timestep: (toy(xt, timestep), other(xt, timestep)),
        }
    plain = run(jax.random.key(0), toy, **options)
    # Two programs, which round in other places.
    np.testing.assert_allclose(run_held(sampling.Hold(TRUTH, clock(0), 0), **options), plain, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run_held(sampling.Hold(TRUTH, clock(1), 0), **options), TRUTH)
    np.testing.assert_array_equal(run_held(sampling.Hold(TRUTH, clock(1), 4), **options), TRUTH)


def test_a_clock_of_zero_that_starts_late_is_sampling_from_a_noised_clip():
    for start in (1, 4):
        settings = sampling.Settings(6, start=start)
        level = jnp.full(SHAPE[:1], settings.timesteps()[0])
        noised = diffusion.corrupt(SCHEDULE, TRUTH, NOISE, level)
        expected = sampling.sample(jax.random.key(0), toy, noised, SCHEDULE, settings)
        found = run_held(sampling.Hold(TRUTH, clock(0), start))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_cells_are_the_noised_clip_until_their_clock_is_up():
    """Against a loop of Python over the steps: what the model is shown in each."""
    seen, steps = [], 8
    clocks = clock(0)
    clocks[0], clocks[1, :, 1] = 0.3, 0.7

    def watching(xt, timestep):
        jax.debug.callback(lambda x, t: seen.append((int(t[0]), np.array(x))), xt, timestep, ordered=True)
        return toy(xt, timestep)

    sampling.sample(
        jax.random.key(0), watching, NOISE, SCHEDULE, sampling.Settings(steps), hold=sampling.Hold(TRUTH, clocks, 2)
    )
    jax.effects_barrier()
    grid = sampling.time_grid(steps)
    assert [t for t, _ in seen] == grid[2:].tolist()
    released = 0
    for t, x in seen:
        alpha, sigma = float(SCHEDULE.alpha[t]), float(SCHEDULE.sigma[t])
        noised = alpha * TRUTH + sigma * NOISE
        held = np.broadcast_to(clocks >= alpha, SHAPE) if t != grid[2] else np.ones(SHAPE, bool)
        np.testing.assert_allclose(x[held], noised[held], rtol=1e-4, atol=1e-5)
        free = ~held
        released += bool(free.any() and np.abs(x[free] - noised[free]).max() > 1e-3)
    assert released > 3


def test_a_solver_with_a_memory_forgets_what_was_replaced():
    """Two runs that differ in what the model says while all is held: nothing of it is left once it is free."""
    first = sampling.time_grid(6)[2]

    def lying(xt, timestep):
        return toy(xt, timestep) + 5.0 * (timestep.reshape(-1, 1, 1, 1, 1) > first)

    level = float(SCHEDULE.alpha[first])
    hold = sampling.Hold(TRUTH, clock(level * 1.001), 0)
    made = [run_held(hold, denoise_fn=fn, solver="dpmpp_2m_sde") for fn in (toy, lying)]
    np.testing.assert_allclose(*made, rtol=1e-5, atol=1e-6)


def test_steps_are_left_out_and_reused_by_one_rule_alone():
    hold = sampling.Hold(TRUTH, clock(0), 1)
    for settings in (sampling.Settings(6, start=1), sampling.Settings(6, reuse=(False,) * 6)):
        with pytest.raises(ValueError, match=r"leaves steps out by hold.start, and reuses none"):
            sampling.sample(jax.random.key(0), toy, NOISE, SCHEDULE, settings, hold=hold)
