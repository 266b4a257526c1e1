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

A step may also take its prediction from those of the last two steps that computed one (`Settings.reuse`; `step_cache`
chooses which). v is what to continue, because it is the slope of the path: with alpha = cos(a) and sigma = sin(a),
dx/da = v. A reused step extrapolates v linearly in the angle a, as a linear multistep method does. Deep features, which
other step caches keep unchanged (MagCache arXiv 2506.09045, TeaCache arXiv 2411.19108), would take 100 times the
memory.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import solvers
from motionv2v.diffusion import Schedule
from motionv2v.typing import AnyArray, Float, Int, Key

SOLVERS = ("ddim", "dpmpp_2m_sde")
GUIDANCES = ("off", "constant", "sat", "diffusers")

GuidedFn = Callable[..., tuple[Any, Any]]
DenoiseFn = Callable[[Float[AnyArray, "B *x"], Int[AnyArray, "B"]], Float[AnyArray, "B *x"]]


class Guidance(NamedTuple):
    """Classifier-free guidance on the text: its scale and how that changes along the trajectory (`GUIDANCES`)."""

    scale: float = 6.0
    kind: str = "constant"


NO_GUIDANCE = Guidance(1.0, "off")


class Settings(NamedTuple):
    """How a sample is made: everything but the model, the noise and the conditions. Hashable, so static under jit.

    Attributes:
        num_steps: how many of the training's timesteps make up the grid (`time_grid`).
        solver: one of `SOLVERS`.
        guidance: on the text; `off`, or a kind of which the sampler needs `guided_fn`.
        void: a step whose guidance weight is within this of 1 is not guided. 0 leaves out only what the weights make
            void; 1e-3 changes v by at most a thousandth of the difference between the two predictions, and leaves out
            20 of 50 guided passes of `sat`.
        reuse: for each step of the grid, whether it may take its prediction from the last two; None computes all.
        start: steps of the grid that are left out at its noisy end. What a sample then starts from is not noise but a
            clip at the noise level of the first step taken (SDEdit, arXiv 2108.01073).
    """

    num_steps: int = 50
    solver: str = "ddim"
    guidance: Guidance = NO_GUIDANCE
    void: float = 0.0
    reuse: tuple[bool, ...] | None = None
    start: int = 0

    def timesteps(self, num_timesteps: int = 1000) -> Int[np.ndarray, "S"]:
        """Return the timesteps that are visited, those of `time_grid` from `start` on.

        Raises ValueError as `time_grid`, and unless 0 <= start < num_steps.
        """
        grid = time_grid(self.num_steps, num_timesteps)
        if not 0 <= self.start < self.num_steps:
            raise ValueError(f"start is {self.start}; it must leave at least one of {self.num_steps} steps")
        return grid[self.start :]


DEFAULTS = Settings()


class Hold(NamedTuple):
    """A clip that parts of a sample are held to while noise still hides it: an edit without training.

    Time-to-Move (arXiv 2511.08633) holds what moves longer than what is around it; with one clock everywhere this is
    SDEdit (arXiv 2108.01073). Arrays, so that one compiled sample serves all of them.

    Attributes:
        reference: the clip, clean latents [B t h w z].
        clock: [B t h w 1]; until the share of signal, sqrt(abar), passes it a cell is the reference with noise, then it
            is free. 0 is free from the first step taken; 1 stays the reference to the end.
        start: how many steps of the grid are left out at its noisy end; the sample starts as the reference with noise.
    """

    reference: Float[AnyArray, "B t h w z"]
    clock: Float[AnyArray, "#B t h w 1"]
    start: Int[AnyArray, ""] | int = 0


def from_config(
    section: Any, *, num_steps: int | None = None, guidance: float | None = None, reuse: Sequence[bool] | None = None
) -> Settings:
    """Read the settings of a sample out of `config.sample`.

    Args:
        section: num_steps, solver, guidance (a kind), scale and guidance_void.
        num_steps: in place of the config's. guidance: a constant scale in place of the config's; 1 switches it off.
        reuse: as in `Settings`.

    Raises:
        ValueError: for a guidance scale that is below 0 or not finite.
    """
    scale = float(section.scale if guidance is None else guidance)
    if not 0 <= scale < math.inf:
        raise ValueError(f"guidance is {scale}; expected a finite number of at least 0, where 1 is off")
    kind = section.guidance if guidance is None else "constant"
    return Settings(
        int(num_steps or section.num_steps),
        section.solver,
        Guidance(scale, "off" if scale == 1.0 else kind),
        float(section.guidance_void),
        None if reuse is None else tuple(reuse),
    )


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


def model_calls(settings: Settings, num_timesteps: int = 1000) -> Int[np.ndarray, "S"]:
    """Return how many predictions each visited step computes: 0 if it reuses one, 1 without guidance, 2 with it.

    The first two steps always compute, and so does a guided step unless the last two predictions are guided too. Raises
    ValueError for an unknown kind or a plan of another length.
    """
    calls = np.where(_is_guided(settings, num_timesteps), 2, 1)
    if settings.reuse is None:
        return calls
    if len(settings.reuse) != settings.num_steps:
        raise ValueError(f"the plan of reused steps has {len(settings.reuse)} entries for {settings.num_steps} steps")
    last, before = 0, 0
    for step, wanted in enumerate(settings.reuse[settings.start :]):
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
    settings: Settings = DEFAULTS,
    guided_fn: GuidedFn | None = None,
    hold: Hold | None = None,
) -> Float[AnyArray, "B *x"]:
    """Turn noise into a sample of x0; same key and noise, same sample.

    Args:
        key: of the noise that `dpmpp_2m_sde` adds; unused by `ddim`.
        denoise_fn: (xt [B ...], timestep [B]) -> v with the text. Called once per step that guidance leaves alone.
        noise: the starting point: N(0, 1), or with `settings.start` a clip noised to the first step's level.
        schedule: of the training. settings: of the sample.
        guided_fn: (xt, timestep) -> (v with text, v without), needed by every guidance but `off`.
        hold: what the sample is held to; `noise` is then N(0, 1), and the same in all that is held.

    Returns:
        x0, float32.

    Raises:
        ValueError: for an unknown solver or guidance, guidance without `guided_fn`, a plan of another length, and
            `hold` beside `settings.start` or `settings.reuse`.
    """
    if hold is not None and (settings.start or settings.reuse):
        raise ValueError("a sample that is held to a clip leaves steps out by hold.start, and reuses none")
    return _run(key, denoise_fn, noise, schedule, settings, guided_fn, measure=False, hold=hold)[0]


class Turns:
    """What hears of a sample's steps as they are taken in turn; this one leaves them alone.

    A state is what a step leaves to the next one: x_t, the estimate of x0, and the last two predictions with the text
    and without it, all [B ...]. Where an earlier sample of the same key, noise and settings was left at a state, the
    steps from there on make the same x0, bit for bit.
    """

    def begin(self, state: list[Any]) -> tuple[int, list[Any]]:
        """Return how many steps were taken already, and the state behind them; `state` is that of no step."""
        return 0, state

    def done(self, taken: int, state: list[Any]) -> None:
        """Hear that so many steps are taken, and the state behind them."""
        del taken, state


ALONE = Turns()


def sample_in_turn(
    key: Key,
    denoise_fn: DenoiseFn,
    noise: Float[AnyArray, "B *x"],
    schedule: Schedule,
    settings: Settings = DEFAULTS,
    guided_fn: GuidedFn | None = None,
    turns: Turns = ALONE,
) -> Float[AnyArray, "B *x"]:
    """As `sample`, with a loop of Python over the steps: for functions that no compiled program can hold.

    The same steps in the same order; without a compiler that fuses them, results differ by rounding. `turns` hears of
    each step.
    """
    return _run(key, denoise_fn, noise, schedule, settings, guided_fn, measure=False, turns=turns)[0]


def changes(
    key: Key,
    denoise_fn: DenoiseFn,
    noise: Float[AnyArray, "B *x"],
    schedule: Schedule,
    settings: Settings = DEFAULTS,
    guided_fn: GuidedFn | None = None,
) -> tuple[Float[AnyArray, "B *x"], dict[str, Float[AnyArray, "S"]]]:
    """Sample, and measure how the prediction with the text changes from each step to the next.

    Args:
        key, denoise_fn, noise, schedule, settings, guided_fn: as for `sample`; every step is computed.

    Returns:
        x0, and {"ratio": |v_i| / |v_i-1|, MagCache's measure; "change": |v_i - v_i-1| / |v_i-1|, TeaCache's, both in
        root mean squares over the batch}; the first step, which has none before it, has ratio 1 and change 0.
    """
    return _run(key, denoise_fn, noise, schedule, settings._replace(reuse=None), guided_fn, measure=True)


def invert(
    denoise_fn: DenoiseFn,
    x0: Float[AnyArray, "B *x"],
    schedule: Schedule,
    num_steps: int = 50,
    refinements: int = 3,
) -> Float[AnyArray, "B *x"]:
    """Find the noise that `sample` (`ddim`, no guidance, as many steps) turns into given latents: DDIM inversion.

    A step of the sampler turns the pair (x, v) by an angle, x' = cos(d) x - sin(d) v(x), see `diffusion`; its inverse
    is the x that solves x = (x' + sin(d) v(x)) / cos(d). The usual inversion (Song et al. 2020, arXiv 2010.02502) puts
    v(x') there; putting in what comes out, again and again, converges wherever the steps are small.

    Args:
        denoise_fn: (xt [B ...], timestep [B]) -> v. x0: clean latents. num_steps: of the sampler.
        refinements: how often each step is solved again; the model is called 1 + refinements times a step.

    Returns:
        Noise, float32, of the shape of x0.
    """
    grid = time_grid(num_steps, schedule.num_timesteps)
    here, after = (
        np.arctan2(np.sqrt(1 - abar), np.sqrt(abar)) for abar in solvers.levels(schedule.alphas_cumprod, grid)
    )
    rows = {"timestep": grid, "cos": np.cos(here - after), "sin": np.sin(here - after)}
    rows = {name: jnp.asarray(np.flip(column), jnp.float32) for name, column in rows.items()}

    def step(x: AnyArray, row: dict[str, Any]) -> tuple[AnyArray, None]:
        timestep = jnp.full(x.shape[:1], row["timestep"].astype(jnp.int32))

        def solve(_: Any, guess: AnyArray) -> AnyArray:
            return (x + row["sin"] * denoise_fn(guess, timestep).astype(jnp.float32)) / row["cos"]

        return jax.lax.fori_loop(0, 1 + refinements, solve, x), None

    return jax.lax.scan(step, x0.astype(jnp.float32), rows)[0]


class _Prediction(NamedTuple):
    """What one step computed: v with the text and without; the same twice where guidance has no say."""

    with_text: Any
    without: Any


class _Step(NamedTuple):
    """What the three kinds of step are given: x_t, the timestep [B], how far to extrapolate, the last predictions."""

    x: Any
    timestep: Any
    ahead: Any
    last: _Prediction
    before: _Prediction


def _reuse(step: _Step) -> _Prediction:
    """Continue the line through the last two computed predictions."""
    return jax.tree.map(lambda last, before: last + step.ahead * (last - before), step.last, step.before)


def _predict_alone(denoise_fn: DenoiseFn, step: _Step) -> _Prediction:
    """Compute the prediction with the text, which stands for both."""
    v = denoise_fn(step.x, step.timestep).astype(jnp.float32)
    return _Prediction(v, v)


def _predict_guided(guided_fn: GuidedFn, step: _Step) -> _Prediction:
    """Compute both predictions."""
    return _Prediction(*(v.astype(jnp.float32) for v in guided_fn(step.x, step.timestep)))


def _run(
    key: Key,
    denoise_fn: DenoiseFn,
    noise: Any,
    schedule: Schedule,
    settings: Settings,
    guided_fn: GuidedFn | None,
    measure: bool,
    turns: Turns | None = None,
    hold: Hold | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Scan over the steps; with `measure`, also return how v changes. `turns`: in Python, and nothing is compiled."""
    if settings.solver not in SOLVERS:
        raise ValueError(f"unknown solver {settings.solver!r}; available: {', '.join(SOLVERS)}")
    settings.timesteps(schedule.num_timesteps)  # refuses what leaves no step
    rows = _rows(schedule, settings)
    if settings.guidance.kind != "off" and guided_fn is None:
        raise ValueError(
            f"guidance {settings.guidance.kind!r} needs guided_fn, which predicts with and without the text"
        )
    calls = model_calls(settings, schedule.num_timesteps)
    # Only the kinds of step that occur are compiled, cheapest first; where all are of one kind there is no switch.
    kinds = np.unique(calls)
    functions = (_reuse, partial(_predict_alone, denoise_fn), partial(_predict_guided, guided_fn))
    branches = [functions[kind] for kind in kinds]
    rows |= {"branch": np.searchsorted(kinds, calls), "computed": calls > 0}

    def step(carry: tuple[Any, ...], row: dict[str, Any], is_new: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, last_x0, last, before = carry
        given = _Step(x, jnp.full(x.shape[:1], row["timestep"]), row["ahead"], last, before)
        if turns or len(branches) == 1:
            found = branches[int(row["branch"]) if turns else 0](given)
        else:
            found = jax.lax.switch(row["branch"], branches, given)
        # Only what was computed is a point to extrapolate from.
        kept = jax.tree.map(lambda new, old: jnp.where(row["computed"], new, old), (found, last), (last, before))
        difference = found.with_text - found.without
        v = jnp.where(row["guided"], found.without + row["weight"] * difference, found.with_text)
        x0 = row["alpha"] * x - row["sigma"] * v
        x = row["x"] * x + row["x0"] * x0
        if settings.solver == "dpmpp_2m_sde":
            fresh = jax.random.normal(jax.random.fold_in(key, row["index"]), x.shape)
            # Where x was replaced, the last estimate is of another state: the step is of first order there.
            last_x0 = last_x0 if is_new is None else jnp.where(is_new, x0, last_x0)
            x = x + row["last"] * last_x0 + row["noise"] * fresh
        return (x, x0, *kept), _compare(found.with_text, last.with_text) if measure else {}

    start = noise.astype(jnp.float32)
    zeros = jnp.zeros_like(start)
    nothing = _Prediction(zeros, zeros)
    carry = (start, zeros, nothing, nothing)
    if hold is not None:
        return _run_held(step, carry, rows, schedule, settings, hold), {}
    if turns:
        form = jax.tree.structure(carry)
        taken, state = turns.begin(jax.tree.leaves(carry))
        for index in range(taken, len(calls)):
            row = {name: column[index] for name, column in rows.items()}
            state = jax.tree.leaves(step(jax.tree.unflatten(form, state), row)[0])
            turns.done(index + 1, state)
        return state[0], {}
    (x, *_), measured = jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, rows))
    return x, measured


def _run_held(step: Callable, carry: tuple[Any, ...], rows: dict, schedule: Schedule, settings: Settings, hold: Hold):
    """Scan over the steps from `hold.start` on, and put the reference, noised, in the place of what is held."""
    noise, *others = carry
    reference, clock = hold.reference.astype(jnp.float32), hold.clock
    grid = time_grid(settings.num_steps, schedule.num_timesteps)
    now, after = solvers.levels(schedule.alphas_cumprod, grid)[0], solvers.level_after(schedule.alphas_cumprod, grid)
    rows |= {"signal": np.sqrt(after), "spread": np.sqrt(1 - after)}
    rows = {
        name: jnp.asarray(column, None if column.dtype != np.float64 else jnp.float32) for name, column in rows.items()
    }
    first = [jnp.asarray(level, jnp.float32)[hold.start] for level in (np.sqrt(now), np.sqrt(1 - now))]
    is_new = jnp.ones(jnp.broadcast_shapes(clock.shape, (*noise.shape[:-1], 1)), bool)

    def held(carry: tuple[Any, ...], row: dict[str, Any]) -> tuple[tuple[Any, ...], None]:
        def take(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            state, is_new = carry
            (x, *rest), _ = step(state, row, is_new)
            is_held = jnp.broadcast_to(row["signal"] <= clock, is_new.shape)
            return (jnp.where(is_held, row["signal"] * reference + row["spread"] * noise, x), *rest), is_held

        return jax.lax.cond(row["index"] < hold.start, lambda same: same, take, carry), None

    begun = first[0] * reference + first[1] * noise
    return jax.lax.scan(held, ((begun, *others), is_new), rows)[0][0][0]


def _rows(schedule: Schedule, settings: Settings) -> dict[str, np.ndarray]:
    """Lay out what each visited step needs: its timestep and number, guidance weight, and the solver's coefficients."""
    num, first = schedule.num_timesteps, settings.start
    grid = time_grid(settings.num_steps, num)
    is_ddim, abar = settings.solver == "ddim", schedule.alphas_cumprod
    table = solvers.ddim_table(abar, grid) if is_ddim else solvers.dpm_table(abar, grid, first)
    table["weight"] = guidance_weights(settings.guidance, grid)
    rows = {name: column[first:].astype(np.float32) for name, column in table.items()}
    rows["ahead"] = _ahead(schedule, settings).astype(np.float32)
    return rows | {
        "timestep": settings.timesteps(num),
        "guided": _is_guided(settings, num),
        "index": np.arange(first, settings.num_steps),
    }


def _is_guided(settings: Settings, num_timesteps: int) -> np.ndarray:
    """Tell at which visited steps guidance has a say; in float32, as the weight is applied."""
    weights = guidance_weights(settings.guidance, time_grid(settings.num_steps, num_timesteps))
    return (np.abs(weights.astype(np.float32) - 1) > settings.void)[settings.start :]


def _ahead(schedule: Schedule, settings: Settings) -> np.ndarray:
    """Return how far each reused step lies past the last computed one, where 1 is from the last but one to the last.

    Distances are those of the angle a, see the module; steps that are computed have 0.
    """
    calls = model_calls(settings, schedule.num_timesteps)
    abar = np.asarray(schedule.alphas_cumprod, np.float64)[settings.timesteps(schedule.num_timesteps)]
    angle = np.arctan2(np.sqrt(1 - abar), np.sqrt(abar))
    ahead = np.zeros(len(calls))
    for step in np.flatnonzero(calls == 0):
        before, last = np.flatnonzero(calls[:step])[-2:]
        ahead[step] = (angle[step] - angle[last]) / (angle[last] - angle[before])
    return ahead


def _compare(v: Any, before: Any) -> dict[str, Any]:
    """Measure the change from one prediction to the next, see `changes`; 1 and 0 where there is none before."""
    norm = jnp.linalg.norm(before)
    some = norm > 0
    norm = jnp.where(some, norm, 1.0)
    return {
        "ratio": jnp.where(some, jnp.linalg.norm(v) / norm, 1.0),
        "change": jnp.where(some, jnp.linalg.norm(v - before) / norm, 0.0),
    }
