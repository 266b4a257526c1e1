"""Sample from a v-prediction model: CogVideoX's time grid, two solvers, guidance; the whole loop is one scan.

Solvers step from timestep to timestep with the model's estimates of x0 and eps at the current one:

    ddim          x' = alpha' x0 + sigma' eps: deterministic (eta 0). In the (xt, x0) form that the released scheduler
                  uses, x' = a xt + b x0 with a = sigma'/sigma, b = alpha' - a alpha
    dpmpp_2m_sde  second order in log(alpha/sigma) with fresh noise each step (arXiv 2211.01095 section 5); the first
                  step, whose lambda is minus infinity, and the last one are first order

Guidance extrapolates from the prediction without text to that with it, v = v_u + w (v_c - v_u), with w constant or
growing along the trajectory. CogVideoX's two published forms of the dynamic scale differ: `sat` uses the step's number,
`diffusers` the training timestep where the formula wants a step number, which makes w jump between 1 and 1 + scale.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v.diffusion import Schedule
from motionv2v.typing import AnyArray, Float, Int, Key

SOLVERS = ("ddim", "dpmpp_2m_sde")
GUIDANCES = ("off", "constant", "sat", "diffusers")

DenoiseFn = Callable[[Float[AnyArray, "B *x"], Int[AnyArray, "B"]], Float[AnyArray, "B *x"]]


class Guidance(NamedTuple):
    """Classifier-free guidance on the text: its scale and how that changes along the trajectory (`GUIDANCES`)."""

    scale: float = 6.0
    kind: str = "constant"


NO_GUIDANCE = Guidance(1.0, "off")


def time_grid(num_steps: int, num_timesteps: int = 1000) -> Int[np.ndarray, "S"]:
    """Return a sampler's timesteps, "trailing" spacing: the last training step first; 50 steps are 999, 979, .., 19.

    Raises ValueError unless 1 <= num_steps <= num_timesteps.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps must be in 1..{num_timesteps}; got {num_steps}")
    return np.round(np.arange(num_timesteps, 0, -num_timesteps / num_steps)).astype(np.int32)[:num_steps] - 1


def guidance_weights(guidance: Guidance, timesteps: Int[np.ndarray, "S"]) -> Float[np.ndarray, "S"]:
    """Return the guidance weight of each step. Raises ValueError for an unknown kind."""
    steps = len(timesteps)
    if guidance.kind == "off":
        return np.ones(steps)
    if guidance.kind == "constant":
        return np.full(steps, guidance.scale)
    if guidance.kind == "sat":
        return 1 + guidance.scale * (1 - np.cos(np.pi * (np.arange(steps) / steps) ** 5)) / 2
    if guidance.kind == "diffusers":
        progress = (steps - timesteps.astype(np.float64)) / steps
        return 1 + guidance.scale * (1 - np.cos(np.pi * progress**5)) / 2
    raise ValueError(f"unknown guidance {guidance.kind!r}; available: {', '.join(GUIDANCES)}")


def sample(
    key: Key,
    denoise_fn: DenoiseFn,
    noise: Float[AnyArray, "B *x"],
    schedule: Schedule,
    *,
    num_steps: int,
    solver: str = "ddim",
    guidance: Guidance = NO_GUIDANCE,
    guided_fn: Callable[..., tuple[Any, Any]] | None = None,
) -> Float[AnyArray, "B *x"]:
    """Turn noise into a sample of x0; same key and noise, same sample.

    Args:
        key: of the noise that `dpmpp_2m_sde` adds; unused by `ddim`.
        denoise_fn: (xt [B ...], timestep [B]) -> v with the text. Called once per step when guidance is off.
        noise: the starting point, N(0, 1).
        schedule: of the training. num_steps: how many of its timesteps are visited. solver: one of `SOLVERS`.
        guidance: `off`, or a kind that needs `guided_fn`: (xt, timestep) -> (v with text, v without).

    Returns:
        x0, float32.

    Raises:
        ValueError: for an unknown solver or guidance, or guidance without `guided_fn`.
    """
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; available: {', '.join(SOLVERS)}")
    timesteps = time_grid(num_steps, schedule.num_timesteps)
    weights = guidance_weights(guidance, timesteps)
    if guidance.kind != "off" and guided_fn is None:
        raise ValueError(f"guidance {guidance.kind!r} needs guided_fn, which predicts with and without the text")
    table = _ddim_table(schedule, timesteps) if solver == "ddim" else _dpm_table(schedule, timesteps)
    table = {name: jnp.asarray(column, jnp.float32) for name, column in table.items()}

    def step(carry: tuple[Any, Any], row: dict[str, Any]) -> tuple[tuple[Any, Any], None]:
        x, last_x0 = carry
        t = jnp.full(x.shape[:1], row["timestep"])
        if guidance.kind == "off":
            v = denoise_fn(x, t).astype(jnp.float32)
        else:
            with_text, without = (p.astype(jnp.float32) for p in guided_fn(x, t))
            v = without + row["weight"] * (with_text - without)
        c = row["table"]
        x0 = c["alpha"] * x - c["sigma"] * v
        x = c["x"] * x + c["x0"] * x0
        if solver == "dpmpp_2m_sde":
            fresh = jax.random.normal(jax.random.fold_in(key, row["index"]), x.shape)
            x = x + c["last"] * last_x0 + c["noise"] * fresh
        return (x, x0), None

    rows = {
        "timestep": jnp.asarray(timesteps),
        "weight": jnp.asarray(weights, jnp.float32),
        "index": jnp.arange(num_steps),
        "table": table,
    }
    start = noise.astype(jnp.float32)
    (x, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), rows)
    return x


def _levels(schedule: Schedule, timesteps: Int[np.ndarray, "S"]) -> tuple[np.ndarray, ...]:
    """Return float64 abar at each step and at the next one; behind the last step lies clean data, abar = 1."""
    abar = np.asarray(schedule.alphas_cumprod, np.float64)[timesteps]
    # The next timestep by the training grid's ratio, as the released schedulers take it. Where 1000 / num_steps is
    # rounded up (6, 7, 11, 13, .. steps) the last one is timestep 0, abar 0.99915, instead of clean data.
    ratio = schedule.num_timesteps // len(timesteps)
    following = timesteps - ratio
    after = np.where(following >= 0, np.asarray(schedule.alphas_cumprod, np.float64)[np.maximum(following, 0)], 1.0)
    return abar, after


def _ddim_table(schedule: Schedule, timesteps: Int[np.ndarray, "S"]) -> dict[str, np.ndarray]:
    """Return per-step coefficients: x' = x * xt + x0 * x0_hat, with x0_hat = alpha xt - sigma v."""
    abar, after = _levels(schedule, timesteps)
    a = np.sqrt((1 - after) / (1 - abar))
    return {"alpha": np.sqrt(abar), "sigma": np.sqrt(1 - abar), "x": a, "x0": np.sqrt(after) - a * np.sqrt(abar)}


def _dpm_table(schedule: Schedule, timesteps: Int[np.ndarray, "S"]) -> dict[str, np.ndarray]:
    """Return per-step coefficients of DPM++(2M SDE): x' = x xt + x0 x0_hat + last x0_hat_before + noise z.

    With lambda = log(alpha/sigma) and h its increase: x = (sigma'/sigma) e^-h, data weight d = alpha' (1 - e^-2h) split
    between this and the last estimate of x0 by r = h_before/h, noise = sigma' sqrt(1 - e^-2h).
    """
    abar, after = _levels(schedule, timesteps)
    with np.errstate(divide="ignore"):
        lam, lam_next = (0.5 * (np.log(a) - np.log(1 - a)) for a in (abar, after))
    h = lam_next - lam
    decay = np.exp(-h)  # 0 where h is infinite: the first step forgets pure noise, the last one lands on x0
    x = np.sqrt((1 - after) / (1 - abar)) * decay
    data = np.sqrt(after) * (1 - decay**2)
    noise = np.sqrt(1 - after) * np.sqrt(1 - decay**2)
    second = np.zeros_like(h)
    h_before = np.concatenate([[np.nan], lam[1:] - lam[:-1]])
    usable = np.isfinite(h_before) & np.isfinite(h)
    second[usable] = h[usable] / h_before[usable] / 2
    return {
        "alpha": np.sqrt(abar),
        "sigma": np.sqrt(1 - abar),
        "x": x,
        "x0": data * (1 + second),
        "last": -data * second,
        "noise": noise,
    }
