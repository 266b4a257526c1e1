import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import diffusion

KINDS = ("x0", "eps", "v")
SCHEDULE = diffusion.make_schedule()
T = np.array([0, 1, 250, 500, 900, 998, 999])


@pytest.fixture(scope="module")
def batch():
    """One sample per timestep of T: x0, eps, xt and v."""
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, len(T), 2, 3, 4)).astype(np.float32)
    xt, v = (f(SCHEDULE, x0, eps, T) for f in (diffusion.corrupt, diffusion.velocity))
    return {"x0": x0, "eps": eps, "xt": xt, "v": v}


@pytest.mark.parametrize(
    ("timestep", "value"),
    [(0, 0.99915), (250, 0.652457), (500, 0.241019), (750, 0.0327991), (998, 1.968e-7), (999, 0.0)],
)
def test_alphas_cumprod_has_the_published_values(timestep, value):
    # The values are given to the digits shown.
    np.testing.assert_allclose(SCHEDULE.alphas_cumprod[timestep], value, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_schedule_matches_a_slow_loop(shift):
    abar, product = [], 1.0
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        snr = product / (1 - product) / shift
        abar.append(snr / (1 + snr))
    first, last = abar[0] ** 0.5, abar[-1] ** 0.5
    abar = [((a**0.5 - last) * first / (first - last)) ** 2 for a in abar]
    table = diffusion.make_schedule(snr_shift_scale=shift).alphas_cumprod
    # Float64 against float64 rounded to float32 (6e-8); near the end sqrt(abar) - last loses three digits of 1e-16.
    np.testing.assert_allclose(table, abar, rtol=2e-7, atol=1e-20)


def test_schedule_tables_are_consistent_and_fall():
    for schedule in (SCHEDULE, diffusion.make_schedule(zero_terminal_snr=False), diffusion.make_schedule(50)):
        # Three numbers rounded to float32 each.
        np.testing.assert_allclose(schedule.alpha.astype(float) ** 2, schedule.alphas_cumprod, rtol=3e-7)
        np.testing.assert_allclose(schedule.alpha.astype(float) ** 2 + schedule.sigma.astype(float) ** 2, 1, rtol=3e-7)
        assert (np.diff(schedule.alphas_cumprod) < 0).all()
    assert diffusion.make_schedule(zero_terminal_snr=False).alphas_cumprod[-1] > 0
    assert SCHEDULE.num_timesteps == 1000


@pytest.mark.parametrize(
    "bad", [{"num_timesteps": 1}, {"beta_start": 0.0}, {"beta_end": 1.5}, {"snr_shift_scale": -1.0}]
)
def test_make_schedule_refuses(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        diffusion.make_schedule(**bad)


@pytest.mark.parametrize(("given", "wanted"), itertools.product(KINDS, KINDS))
def test_conversions_give_the_truth(batch, given, wanted):
    # From eps, errors of 1e-7 grow by sigma / alpha, 2254 at 998; 999 has its own test.
    keep = slice(0, -1) if given == "eps" else slice(None)
    xt, prediction, truth = batch["xt"][keep], batch[given][keep], batch[wanted][keep]
    result = diffusion.convert(SCHEDULE, xt, prediction, T[keep], given, wanted)
    # x0 -> eps, v divides by sigma, 0.03 at timestep 0: 1e-7 / 0.03; eps -> x0, v: 1e-7 * 2254.
    np.testing.assert_allclose(result, truth, atol=2e-3 if given == "eps" else 2e-5)


@pytest.mark.parametrize(("given", "wanted"), itertools.permutations(KINDS, 2))
def test_conversions_round_trip(batch, given, wanted):
    # A network's prediction, not the truth; away from both ends, where one direction loses digits.
    middle = slice(1, 5)
    xt, t = batch["xt"][middle], T[middle]
    prediction = np.cos(5 * xt)
    there = diffusion.convert(SCHEDULE, xt, prediction, t, given, wanted)
    back = diffusion.convert(SCHEDULE, xt, there, t, wanted, given)
    np.testing.assert_allclose(back, prediction, atol=1e-4)  # 1e-7 / sigma_1 / ... : at most three digits are lost


@pytest.mark.parametrize(("given", "wanted"), itertools.permutations(KINDS, 2))
def test_conversions_are_finite_where_nothing_is_left_of_x0(given, wanted):
    xt, t = jnp.array([[1.5, -0.5]]), np.array([999])
    convert = lambda p: diffusion.convert(SCHEDULE, xt, p, t, given, wanted)  # noqa: E731
    assert np.isfinite(convert(xt)).all()
    assert np.isfinite(jax.grad(lambda p: convert(p).sum())(xt)).all()
    if given == "eps":
        np.testing.assert_array_equal(convert(xt), 0)


def test_last_timestep_is_pure_noise_and_its_velocity_minus_x0(batch):
    np.testing.assert_array_equal(batch["xt"][-1], batch["eps"][-1])
    np.testing.assert_array_equal(batch["v"][-1], -batch["x0"][-1])


def test_convert_refuses_an_unknown_kind(batch):
    with pytest.raises(ValueError, match=r"'noise'.*x0, eps, v"):
        diffusion.convert(SCHEDULE, batch["xt"], batch["v"], T, "noise", "v")


def test_loss_is_the_x0_error_divided_by_one_minus_abar(batch):
    prediction = np.asarray(batch["v"] + 0.3 * np.sin(9 * batch["x0"]), np.float32)
    x0_hat = np.asarray(diffusion.x0_from_v(SCHEDULE, batch["xt"], prediction, T), np.float64)
    one_minus = 1 - diffusion.make_schedule().alphas_cumprod.astype(np.float64)[T]
    weighted = np.square(x0_hat - batch["x0"]).mean((1, 2, 3)) / one_minus
    result = diffusion.loss(prediction, batch["x0"], batch["eps"], T, SCHEDULE)
    # At timestep 0 x0_hat - x0 is about 0.01 and known to 1e-7, and 1 - abar = 8.5e-4 to 6e-8.
    np.testing.assert_allclose(result, weighted, rtol=2e-4)
    perfect = diffusion.loss(batch["v"], batch["x0"], batch["eps"], T, SCHEDULE)
    np.testing.assert_array_equal(perfect, 0)


def test_uniform_timesteps_cover_the_schedule_evenly():
    t = np.asarray(diffusion.sample_timesteps(jax.random.key(0), (40_000,), SCHEDULE))
    assert t.dtype == np.int32 and t.min() == 0 and t.max() == 999
    # 4000 per tenth, standard deviation 60: five of them.
    np.testing.assert_allclose(np.histogram(t, 10, (0, 1000))[0], 4000, atol=300)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
def test_high_noise_timesteps_follow_their_law(power):
    t = np.asarray(diffusion.sample_timesteps(jax.random.key(1), (40_000,), SCHEDULE, "high_noise", power))
    assert t.min() >= 0 and t.max() <= 999
    for fraction in (0.2, 0.5, 0.8):
        # P(t >= f S) = (1 - f)^(1/power); 40,000 draws: standard deviation at most 0.0025.
        assert abs((t >= 1000 * fraction).mean() - (1 - fraction) ** (1 / power)) < 0.0125


def test_sample_timesteps_is_deterministic_and_refuses_unknown_distributions():
    draw = lambda seed: diffusion.sample_timesteps(jax.random.key(seed), (8,), SCHEDULE)  # noqa: E731
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    with pytest.raises(ValueError, match=r"'cosine'.*uniform, high_noise"):
        diffusion.sample_timesteps(jax.random.key(0), (8,), SCHEDULE, "cosine")
