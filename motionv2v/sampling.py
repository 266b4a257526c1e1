"""Sample from a v-prediction model: CogVideoX's time grid, two solvers, guidance; the whole loop is one scan.

Solvers step from timestep to timestep with the model's estimates of x0 and eps at the current one:

    ddim          x' = alpha' x0 + sigma' eps: deterministic (eta 0). In the (xt, x0) form that the released scheduler
                  uses, x' = a xt + b x0 with a = sigma'/sigma, b = alpha' - a alpha
    dpmpp_2m_sde  second order in log(alpha/sigma) with fresh noise each step (arXiv 2211.01095 section 5); the first
                  step, whose lambda is minus infinity, and the last one are first order

Guidance extrapolates from the prediction without text to that with it, v = v_u + w (v_c - v_u), with w constant or
growing along the trajectory. CogVideoX's two published forms of the dynamic scale differ: `sat` uses the step's number,
`diffusers` the training timestep where the formula wants a step number, which makes w jump between 1 and 1 + scale.
Where w is 1 the text-free prediction has no say and is left out: `model_calls` says what each step of a plan costs.

A step may also take its prediction from those of the last two steps that computed one (`reuse`; `step_cache` chooses
which). v is what to continue, because it is the slope of the path: with alpha = cos(a) and sigma = sin(a), dx/da = v. A
reused step extrapolates v linearly in the angle a, as a linear multistep method does. Deep features, which other step
caches keep unchanged (MagCache arXiv 2506.09045, TeaCache arXiv 2411.19108), would take 100 times the memory.
"""

from collections.abc import Callable, Sequence
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


def model_calls(
    guidance: Guidance,
    timesteps: Int[np.ndarray, "S"],
    reuse: Sequence[bool] | None = None,
    void: float = 0.0,
) -> Int[np.ndarray, "S"]:
    """Return how many predictions each step of a plan computes: 0 if it reuses one, 1 without guidance, 2 with it.

    Args:
        guidance: of the text. A step whose float32 weight is within `void` of 1 is not guided.
        timesteps: from `time_grid`. reuse: which steps want to reuse the last prediction; None for none.
        void: 0 leaves out only what the weights make void. 1e-3 changes v by at most a thousandth of the difference
            between the two predictions, and leaves out 20 of 50 guided passes of `sat`.

    The first two steps always compute, and so does a guided step unless the last two predictions are guided too. Raises
    ValueError for an unknown kind or a plan of another length.
    """
    calls = np.where(_is_guided(guidance, timesteps, void), 2, 1)
    if reuse is None:
        return calls
    if len(reuse) != len(timesteps):
        raise ValueError(f"the plan of reused steps has {len(reuse)} entries for {len(timesteps)} steps")
    last, before = 0, 0
    for step, wanted in enumerate(reuse):
        if wanted and min(last, before) >= calls[step]:
            calls[step] = 0
        else:
            last, before = calls[step], last
    return calls


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
    reuse: Sequence[bool] | None = None,
    void: float = 0.0,
) -> Float[AnyArray, "B *x"]:
    """Turn noise into a sample of x0; same key and noise, same sample.

    Args:
        key: of the noise that `dpmpp_2m_sde` adds; unused by `ddim`.
        denoise_fn: (xt [B ...], timestep [B]) -> v with the text. Called once per step that guidance leaves alone.
        noise: the starting point, N(0, 1).
        schedule: of the training. num_steps: how many of its timesteps are visited. solver: one of `SOLVERS`.
        guidance: `off`, or a kind that needs `guided_fn`: (xt, timestep) -> (v with text, v without).
        reuse: for each step, whether it may take its prediction from the last two; None computes every step.
        void: see `model_calls`.

    Returns:
        x0, float32.

    Raises:
        ValueError: for an unknown solver or guidance, guidance without `guided_fn`, or a plan of another length.
    """
    options = {"num_steps": num_steps, "solver": solver, "guidance": guidance, "guided_fn": guided_fn}
    return _run(key, denoise_fn, noise, schedule, **options, reuse=reuse, void=void)[0]


def changes(
    key: Key, denoise_fn: DenoiseFn, noise: Float[AnyArray, "B *x"], schedule: Schedule, **options: Any
) -> tuple[Float[AnyArray, "B *x"], dict[str, Float[AnyArray, "S"]]]:
    """Sample, and measure how the prediction with the text changes from each step to the next.

    Args:
        key, denoise_fn, noise, schedule, options: as for `sample`; every step is computed.

    Returns:
        x0, and {"ratio": |v_i| / |v_i-1|, MagCache's measure; "change": |v_i - v_i-1| / |v_i-1|, TeaCache's, both in
        root mean squares over the batch}; the first step, which has none before it, has ratio 1 and change 0.
    """
    return _run(key, denoise_fn, noise, schedule, measure=True, **options)


def _run(
    key: Key,
    denoise_fn: DenoiseFn,
    noise: Any,
    schedule: Schedule,
    *,
    num_steps: int,
    solver: str = "ddim",
    guidance: Guidance = NO_GUIDANCE,
    guided_fn: Callable[..., tuple[Any, Any]] | None = None,
    reuse: Sequence[bool] | None = None,
    void: float = 0.0,
    measure: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Scan over the steps; with `measure`, also return how v changes."""
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; available: {', '.join(SOLVERS)}")
    timesteps = time_grid(num_steps, schedule.num_timesteps)
    weights, calls = guidance_weights(guidance, timesteps), model_calls(guidance, timesteps, reuse, void)
    if guidance.kind != "off" and guided_fn is None:
        raise ValueError(f"guidance {guidance.kind!r} needs guided_fn, which predicts with and without the text")
    predict, start_held = _predictor(denoise_fn, guided_fn, noise, calls, keep=measure)
    table = _ddim_table(schedule, timesteps) if solver == "ddim" else _dpm_table(schedule, timesteps)
    table = {name: jnp.asarray(column, jnp.float32) for name, column in table.items()}

    def step(carry: tuple[Any, ...], row: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, last_x0, held = carry
        pair, held = predict(row, x, held)
        v = pair[0]
        if len(pair) == 2:
            v = jnp.where(row["guided"], pair[1] + row["weight"] * (pair[0] - pair[1]), pair[0])
        c = row["table"]
        x0 = c["alpha"] * x - c["sigma"] * v
        x = c["x"] * x + c["x0"] * x0
        if solver == "dpmpp_2m_sde":
            fresh = jax.random.normal(jax.random.fold_in(key, row["index"]), x.shape)
            x = x + c["last"] * last_x0 + c["noise"] * fresh
        return (x, x0, held), _compare(*(p[0] for p in held)) if measure else {}

    rows = {
        "timestep": jnp.asarray(timesteps),
        "weight": jnp.asarray(weights, jnp.float32),
        "guided": jnp.asarray(_is_guided(guidance, timesteps, void)),
        "ahead": jnp.asarray(_ahead(schedule, timesteps, calls), jnp.float32),
        "branch": jnp.asarray(np.searchsorted(np.unique(calls), calls)),
        "index": jnp.arange(num_steps),
        "table": table,
    }
    start = noise.astype(jnp.float32)
    (x, _, _), measured = jax.lax.scan(step, (start, jnp.zeros_like(start), start_held), rows)
    return x, measured


def _is_guided(guidance: Guidance, timesteps: Int[np.ndarray, "S"], void: float) -> np.ndarray:
    """Tell at which steps guidance has a say; in float32, as the weight is applied."""
    return np.abs(guidance_weights(guidance, timesteps).astype(np.float32) - 1) > void


def _ahead(schedule: Schedule, timesteps: Int[np.ndarray, "S"], calls: Int[np.ndarray, "S"]) -> np.ndarray:
    """Return how far each step lies behind the last computed one, in angles between the last two computed ones."""
    abar = np.asarray(schedule.alphas_cumprod, np.float64)[timesteps]
    angle = np.arctan2(np.sqrt(1 - abar), np.sqrt(abar))
    ahead = np.zeros(len(timesteps))
    for step in np.flatnonzero(calls == 0):
        before, last = np.flatnonzero(calls[:step])[-2:]
        ahead[step] = (angle[step] - angle[last]) / (angle[last] - angle[before])
    return ahead


def _predictor(
    denoise_fn: DenoiseFn, guided_fn: Any, noise: Any, calls: Int[np.ndarray, "S"], keep: bool
) -> tuple[Callable[..., tuple[Any, Any]], tuple[Any, ...]]:
    """Build (row, x, held) -> (prediction, held), and the first held.

    A prediction is a tuple: with the text, and if any step is guided without. Held are the last two that were computed.
    The branches are the kinds of step that occur, cheapest first; where all steps are of one kind there is no switch,
    and where none is reused nothing is held, unless told to `keep`.
    """
    width, kinds = int(calls.max()), np.unique(calls)
    keep = keep or 0 in kinds

    def computed(pair: tuple[Any, ...], held: tuple[Any, ...]) -> tuple[Any, Any]:
        pair = tuple(v.astype(jnp.float32) for v in pair)
        return pair, (pair, held[0]) if keep else ()

    def extrapolated(row: Any, x: Any, t: Any, held: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda last, before: last + row["ahead"] * (last - before), *held), held

    def alone(row: Any, x: Any, t: Any, held: Any) -> tuple[Any, Any]:
        return computed((denoise_fn(x, t),) * width, held)

    def guided(row: Any, x: Any, t: Any, held: Any) -> tuple[Any, Any]:
        return computed(guided_fn(x, t), held)

    branches = [(extrapolated, alone, guided)[kind] for kind in kinds]

    def predict(row: Any, x: Any, held: Any) -> tuple[Any, Any]:
        given = (row, x, jnp.full(x.shape[:1], row["timestep"]), held)
        return branches[0](*given) if len(branches) == 1 else jax.lax.switch(row["branch"], branches, *given)

    zeros = (jnp.zeros(noise.shape, jnp.float32),) * width
    return predict, (zeros, zeros) if keep else ()


def _compare(v: Any, before: Any) -> dict[str, Any]:
    """Measure the change from one prediction to the next, see `changes`; 1 and 0 where there is none before."""
    norm = jnp.linalg.norm(before)
    some = norm > 0
    norm = jnp.where(some, norm, 1.0)
    return {
        "ratio": jnp.where(some, jnp.linalg.norm(v) / norm, 1.0),
        "change": jnp.where(some, jnp.linalg.norm(v - before) / norm, 0.0),
    }


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
