"""What the solvers of `sampling` need of each step: noise levels and coefficients, tables in float64.

`alphas_cumprod` is that of all training timesteps, `timesteps` those that are visited. `ddim` is deterministic,
x' = a xt + b x0; `dpmpp_2m_sde` is DPM++(2M SDE), arXiv 2211.01095 section 5.
"""

import numpy as np

from motionv2v.typing import AnyArray, Float, Int


def levels(alphas_cumprod: Float[AnyArray, "N"], timesteps: Int[np.ndarray, "S"]) -> tuple[np.ndarray, ...]:
    """Return float64 abar at each step and at the next one; behind the last step lies clean data, abar = 1."""
    abar = np.asarray(alphas_cumprod, np.float64)[timesteps]
    # The next timestep by the training grid's ratio, as the released schedulers take it. Where 1000 / num_steps is
    # rounded up (6, 7, 11, 13, .. steps) the last one is timestep 0, abar 0.99915, instead of clean data.
    ratio = len(alphas_cumprod) // len(timesteps)
    following = timesteps - ratio
    after = np.where(following >= 0, np.asarray(alphas_cumprod, np.float64)[np.maximum(following, 0)], 1.0)
    return abar, after


def level_after(alphas_cumprod: Float[AnyArray, "N"], timesteps: Int[np.ndarray, "S"]) -> np.ndarray:
    """Return abar after each step; behind the last one the clip itself stands, however the grid ends."""
    return np.concatenate([levels(alphas_cumprod, timesteps)[1][:-1], [1.0]])


def ddim_table(alphas_cumprod: Float[AnyArray, "N"], timesteps: Int[np.ndarray, "S"]) -> dict[str, np.ndarray]:
    """Return per-step coefficients: x' = x * xt + x0 * x0_hat, with x0_hat = alpha xt - sigma v."""
    abar, after = levels(alphas_cumprod, timesteps)
    a = np.sqrt((1 - after) / (1 - abar))
    return {"alpha": np.sqrt(abar), "sigma": np.sqrt(1 - abar), "x": a, "x0": np.sqrt(after) - a * np.sqrt(abar)}


def dpm_table(
    alphas_cumprod: Float[AnyArray, "N"], timesteps: Int[np.ndarray, "S"], first: int
) -> dict[str, np.ndarray]:
    """Return per-step coefficients of DPM++(2M SDE): x' = x xt + x0 x0_hat + last x0_hat_before + noise z.

    With lambda = log(alpha/sigma) and h its increase: x = (sigma'/sigma) e^-h, data weight d = alpha' (1 - e^-2h) split
    between this and the last estimate of x0 by r = h_before/h, noise = sigma' sqrt(1 - e^-2h). The `first` step taken
    has no estimate before it.
    """
    abar, after = levels(alphas_cumprod, timesteps)
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
    usable[first] = False
    second[usable] = h[usable] / h_before[usable] / 2
    return {
        "alpha": np.sqrt(abar),
        "sigma": np.sqrt(1 - abar),
        "x": x,
        "x0": data * (1 + second),
        "last": -data * second,
        "noise": noise,
    }
