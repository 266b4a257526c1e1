"""One step of refining a draft (`sampling.Hold`), for exported programs that loop over the steps themselves."""

import jax.numpy as jnp
import numpy as np

from motionv2v import sampling, solvers
from motionv2v.diffusion import Schedule
from motionv2v.typing import AnyArray, Float

HELD_LEVELS = ("alpha", "sigma", "x", "x0", "signal", "spread", "weight")
"""What `held_step` is told of a step: alpha and sigma of its noise level, x' = x * xt + x0 * x0_hat, alpha and sigma of
the level it leads to, and the weight of guidance."""


def held_levels(schedule: Schedule, settings: sampling.Settings) -> Float[np.ndarray, "S 7"]:
    """Tabulate `HELD_LEVELS` for each step of the grid. Raises ValueError for another solver than `ddim`."""
    if settings.solver != "ddim":
        raise ValueError(f'a step that stands alone is of the solver "ddim"; got {settings.solver!r}')
    grid = sampling.time_grid(settings.num_steps, schedule.num_timesteps)
    after = solvers.level_after(schedule.alphas_cumprod, grid)
    table = solvers.ddim_table(schedule.alphas_cumprod, grid) | {"signal": np.sqrt(after), "spread": np.sqrt(1 - after)}
    table["weight"] = sampling.guidance_weights(settings.guidance, grid)
    return np.stack([table[name] for name in HELD_LEVELS], -1).astype(np.float32)


def held_step(
    x: Float[AnyArray, "B *x"],
    predictions: tuple[Float[AnyArray, "B *x"], Float[AnyArray, "B *x"]],
    noise: Float[AnyArray, "B *x"],
    hold: sampling.Hold,
    levels: Float[AnyArray, "B 7"],
) -> Float[AnyArray, "B *x"]:
    """Take one step of a held sample, as `sampling.sample` does with `hold`.

    Args:
        x: the state; at the first step alpha * reference + sigma * noise. predictions: v with the text and without.
        noise: N(0, 1), the same in all steps. hold: reference and clock. levels: the step's row of `held_levels`.
    """
    level = {name: levels[:, i].reshape(-1, *[1] * (x.ndim - 1)) for i, name in enumerate(HELD_LEVELS)}
    with_text, without = predictions
    v = without + level["weight"] * (with_text - without)
    made = level["x"] * x + level["x0"] * (level["alpha"] * x - level["sigma"] * v)
    held = level["signal"] * hold.reference + level["spread"] * noise
    return jnp.where(level["signal"] <= hold.clock, held, made)
