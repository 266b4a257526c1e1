"""Gaussian diffusion with v-prediction and zero terminal signal-to-noise ratio, as CogVideoX uses it.

A clean latent x0 is corrupted at an integer timestep by

    xt = alpha x0 + sigma eps,        eps ~ N(0, 1),        alpha^2 + sigma^2 = 1,        alpha^2 = abar[timestep]

(x0, eps) and (xt, v) are the same plane in two orthonormal bases: v = alpha eps - sigma x0 turns with the angle that
takes x0 to xt, so each pair gives the other back without a division,

    x0 = alpha xt - sigma v,          eps = sigma xt + alpha v,

also at the last timestep, where alpha = 0 and xt is noise alone: there v = -x0, and predicting v is predicting x0.
Predicting eps would say nothing there: solving the corruption for the unknown,

    eps = (xt - alpha x0) / sigma,    v = (alpha xt - x0) / sigma          sigma > 0 always
    x0 = (xt - sigma eps) / alpha,    v = (eps - sigma xt) / alpha         undetermined at alpha = 0: answered by 0

The loss is the mean square of v's error, which is that of x0 divided by 1 - abar (with xt fixed, an error d in v is an
error -sigma d in x0): |x0_hat - x0|^2 / (1 - abar) = |v_hat - v|^2.

The schedule: betas linear in their square roots from 0.00085 to 0.012 over 1000 steps; then the signal-to-noise ratio
is divided by `snr_shift_scale` (1.0 for CogVideoX-5B, 3.0 for 2B); then sqrt(abar) is shifted and scaled so that the
last step has none left and the first is unchanged ("Common diffusion noise schedules and sample steps are flawed",
arXiv 2305.08891, algorithm 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v.typing import AnyArray, Float, Int, Key


class Schedule(NamedTuple):
    """The noise schedule: abar [S] and its two square roots, float32, tables made in float64."""

    alphas_cumprod: Float[AnyArray, "S"]
    alpha: Float[AnyArray, "S"]
    sigma: Float[AnyArray, "S"]

    @property
    def num_timesteps(self) -> int:
        """Return the number of training timesteps."""
        return self.alphas_cumprod.shape[0]


def make_schedule(
    num_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    snr_shift_scale: float = 1.0,
    zero_terminal_snr: bool = True,
) -> Schedule:
    """Build CogVideoX's schedule. Raises ValueError unless 0 < beta_start <= beta_end < 1 and the scale is positive."""
    if not 0 < beta_start <= beta_end < 1 or snr_shift_scale <= 0 or num_timesteps < 2:
        raise ValueError(
            f"expected 0 < beta_start <= beta_end < 1, snr_shift_scale > 0 and at least 2 timesteps; got {beta_start}, "
            f"{beta_end}, {snr_shift_scale} and {num_timesteps}"
        )
    betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2
    abar = np.cumprod(1 - betas)
    abar = abar / (snr_shift_scale + (1 - snr_shift_scale) * abar)
    if zero_terminal_snr:
        root = np.sqrt(abar)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        abar = root**2
    # numpy, not jax: a constant of the program that no device holds until it is used.
    return Schedule(*(table.astype(np.float32) for table in (abar, np.sqrt(abar), np.sqrt(1 - abar))))


def sample_timesteps(
    key: Key, shape: tuple[int, ...], schedule: Schedule, distribution: str = "uniform", power: float = 2.0
) -> Int[AnyArray, "*B"]:
    """Draw training timesteps in 0..S-1.

    "uniform" is CogVideoX's. "high_noise" draws S (1 - u^power) for uniform u: with power > 1 noisy steps come more
    often, which is where a layout is decided and hence where a control branch learns. Raises ValueError for another.
    """
    u = jax.random.uniform(key, shape)
    if distribution == "high_noise":
        u = 1 - u**power
    elif distribution != "uniform":
        raise ValueError(f"unknown timestep distribution {distribution!r}; available: uniform, high_noise")
    return jnp.clip(jnp.floor(u * schedule.num_timesteps), 0, schedule.num_timesteps - 1).astype(jnp.int32)


def coefficients(
    schedule: Schedule, timestep: Int[AnyArray, "B"], ndim: int
) -> tuple[Float[AnyArray, "B *one"], Float[AnyArray, "B *one"]]:
    """Look up (alpha, sigma) of each sample, shaped to broadcast against arrays of `ndim` axes."""
    shape = (-1,) + (1,) * (ndim - 1)
    return tuple(jnp.asarray(table)[timestep].reshape(shape) for table in (schedule.alpha, schedule.sigma))


def corrupt(
    schedule: Schedule, x0: Float[AnyArray, "B *x"], eps: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return xt = alpha x0 + sigma eps."""
    alpha, sigma = coefficients(schedule, timestep, x0.ndim)
    return alpha * x0 + sigma * eps


def velocity(
    schedule: Schedule, x0: Float[AnyArray, "B *x"], eps: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return v = alpha eps - sigma x0, what the network predicts."""
    alpha, sigma = coefficients(schedule, timestep, x0.ndim)
    return alpha * eps - sigma * x0


def x0_from_v(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], v: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return x0 = alpha xt - sigma v; valid at every timestep."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return alpha * xt - sigma * v


def eps_from_v(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], v: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return eps = sigma xt + alpha v; valid at every timestep."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return sigma * xt + alpha * v


def eps_from_x0(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], x0: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return eps = (xt - alpha x0) / sigma; sigma is never zero in CogVideoX's schedule."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return (xt - alpha * x0) / sigma


def x0_from_eps(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], eps: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return x0 = (xt - sigma eps) / alpha, and 0 where alpha = 0: there eps says nothing about x0."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return _divide(xt - sigma * eps, alpha)


def v_from_x0(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], x0: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return v = (alpha xt - x0) / sigma; sigma is never zero in CogVideoX's schedule."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return (alpha * xt - x0) / sigma


def v_from_eps(
    schedule: Schedule, xt: Float[AnyArray, "B *x"], eps: Float[AnyArray, "B *x"], timestep: Int[AnyArray, "B"]
) -> Float[AnyArray, "B *x"]:
    """Return v = (eps - sigma xt) / alpha, and 0 where alpha = 0: there eps says nothing about x0 = -v."""
    alpha, sigma = coefficients(schedule, timestep, xt.ndim)
    return _divide(eps - sigma * xt, alpha)


def _divide(numerator: AnyArray, alpha: AnyArray) -> AnyArray:
    """Return numerator / alpha, and 0 where alpha is 0, with finite gradients in both places."""
    return jnp.where(alpha > 0, numerator / jnp.where(alpha > 0, alpha, 1), 0)


CONVERSIONS = {
    ("x0", "eps"): eps_from_x0,
    ("x0", "v"): v_from_x0,
    ("eps", "x0"): x0_from_eps,
    ("eps", "v"): v_from_eps,
    ("v", "x0"): x0_from_v,
    ("v", "eps"): eps_from_v,
}
"""How to turn one kind of prediction into another: (kind given, kind wanted) -> function."""


def convert(
    schedule: Schedule,
    xt: Float[AnyArray, "B *x"],
    prediction: Float[AnyArray, "B *x"],
    timestep: Int[AnyArray, "B"],
    given: str,
    wanted: str,
) -> Float[AnyArray, "B *x"]:
    """Convert a prediction at noisy latents `xt` between the kinds "x0", "eps" and "v"; finite at every timestep.

    From eps, errors grow by sigma / alpha: 2254 times at timestep 998 of the default schedule. Raises ValueError for
    another kind.
    """
    for kind in (given, wanted):
        if kind not in ("x0", "eps", "v"):
            raise ValueError(f"unknown kind of prediction {kind!r}; available: x0, eps, v")
    return prediction if given == wanted else CONVERSIONS[given, wanted](schedule, xt, prediction, timestep)


def loss(
    prediction: Float[AnyArray, "B *x"],
    x0: Float[AnyArray, "B *x"],
    eps: Float[AnyArray, "B *x"],
    timestep: Int[AnyArray, "B"],
    schedule: Schedule,
) -> Float[AnyArray, "B"]:
    """Return each sample's mean squared error of v: the x0 error divided by 1 - abar."""
    error = prediction - velocity(schedule, x0, eps, timestep)
    return jnp.square(error).mean(tuple(range(1, x0.ndim)))
