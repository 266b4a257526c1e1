"""Optimise some parameters of a model and leave the others alone, by regular expressions over parameter paths.

A schedule is a table of `parameters`: the first pattern that matches a parameter's path decides. `options=None` freezes
the parameter; otherwise `options` is a mapping with the course of its learning rate, whose fields are `sections.RATE`:
`peak` after `warmup` steps of linear rise from 0, then by `decay` ("constant", "linear" or "cosine") to `end` at the
last step.

What nobody named never trains by accident: an uncovered parameter is an error, and so is a pattern that decides
nothing. Gradients, optimizer state and masters exist for the trainable tree only; the frozen tree is data.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from motionv2v import parameters, schema, sections
from motionv2v.parameters import ScheduleTable
from motionv2v.typing import AnyArray, Int, PyTree

LearningRate = Callable[[Any], Any]
NAMES = ("adamw", "muon", "adafactor")


class Optimizer(NamedTuple):
    """Hold the gradient transformation of the trainable tree and each pattern's learning rate (step -> rate)."""

    tx: optax.GradientTransformation
    learning_rates: dict[str, LearningRate]


class _ByLabelState(NamedTuple):
    """Count the updates made so far: the step that the learning rates are read at."""

    count: Int[AnyArray, ""]


def make_optimizer(config: Any, params: PyTree, schedule: ScheduleTable | None = None) -> Optimizer:
    """Build the optimizer of the trainable part of `params`: clip, direction, weight decay, each pattern's rate.

    Reads config.optim (a name of `NAMES`, b1, b2, eps, weight_decay, schedule), config.train.steps and
    config.train.clip_norm, of the global norm (0 or None: no clipping). `schedule` replaces config.optim.schedule.
    Leaves of `params` only need a path and a shape. Weight decay (decoupled, Loshchilov and Hutter 2019) falls on
    kernels alone. ValueError for an unknown optimizer, a bad schedule, an uncovered parameter or a pattern that decides
    nothing.
    """
    options = config.optim
    if options.name not in NAMES:
        raise ValueError(f"optim.name is {options.name!r}, expected one of: {', '.join(NAMES)}")
    table = options.schedule if schedule is None else schedule
    trainable, _ = parameters.partition(params, table)
    courses = {pattern: learning_rate(o, config.train.steps, pattern) for pattern, o in table if o is not None}
    owners = parameters.assign(trainable, table, strict=False)
    labels = parameters.unflatten({path: table[i][0] for path, i in owners.items()})
    clip_norm = config.train.clip_norm
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        _direction(options, trainable),
        optax.add_decayed_weights(options.weight_decay, mask=parameters.unflatten(decayed(trainable))),
        _scale_by_label(labels, courses),
    )
    return Optimizer(tx, courses)


def _direction(options: Any, trainable: PyTree) -> optax.GradientTransformation:
    """Build what turns gradients into steps of a size that the rates then scale: Adam, Adafactor, or Muon.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix: fewer samples for the same loss when training
    from scratch. Its updates are given Adam's usual root mean square (0.2), so that one rate serves both; vectors,
    modulations and small matrices stay with Adam. A convolution counts as one matrix, window by features.
    """
    if options.name == "adafactor":
        # Shazeer and Stern 2018, sections 3 and 6: second moments of rows and columns alone, updates of at most size 1.
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    adam = optax.scale_by_adam(b1=options.b1, b2=options.b2, eps=options.eps)
    if options.name == "adamw":
        return adam

    # A convolution maps its whole window to its features; stacked blocks hold one matrix per layer.
    window = lambda x: tuple(range(x.ndim - 1)) if x.ndim > 3 else (x.ndim - 2,)  # noqa: E731
    sides = lambda x: (math.prod(x.shape[i] for i in window(x)), x.shape[-1])  # noqa: E731
    muon = optax.chain(
        optax.contrib.scale_by_muon(
            weight_dimension_numbers=lambda tree: jax.tree.map(
                lambda x: optax.contrib.MuonDimensionNumbers(window(x), x.ndim - 1), tree
            )
        ),
        # An orthogonal matrix has entries of size 1 / sqrt(longer side).
        optax.stateless(lambda updates, _: jax.tree.map(lambda u: 0.2 * math.sqrt(max(sides(u))) * u, updates)),
    )
    large = {
        path: "muon" if path.endswith("kernel") and (x.ndim > 3 or min(x.shape[-2:]) >= 64) else "adam"
        for path, x in parameters.flatten(trainable).items()
    }
    return optax.partition({"muon": muon, "adam": adam}, parameters.unflatten(large))


def learning_rate(options: Mapping[str, Any], steps: int, pattern: str = "?") -> LearningRate:
    """Build one learning rate as a function of the number of updates made, from the fields `sections.RATE`.

    The first update already has a rate above 0 ((step + 1) / warmup). Beyond `steps` the rate stays at `end`.
    SchemaError, a ValueError, names the pattern and what is wrong with its options.
    """
    course = schema.read(dict(options), sections.RATE, f"schedule for {pattern!r}")
    peak, warmup, decay, end = (course[name] for name in ("peak", "warmup", "decay", "end"))

    # Not built of optax's schedules, which round in another way (by up to 3e-6 of the rate, at most steps): a run that
    # was begun before must go on bit for bit.
    def rate(step: Any) -> Any:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        if decay == "constant":
            return peak * rise
        share = 1 - done if decay == "linear" else 0.5 * (1 + jnp.cos(math.pi * done))
        return rise * (end + (peak - end) * share)

    return rate


def decayed(params: PyTree) -> dict[str, bool]:
    """Tell for every parameter path whether weight decay falls on it: kernels and embeddings, not biases or norms.

    Stacked blocks give a bias two axes [depth D], so the name decides along with the number of axes (>= 2).
    """
    gains = ("bias", "scale")
    flat = parameters.flatten(params)
    return {path: leaf.ndim >= 2 and path.split("/")[-1] not in gains for path, leaf in flat.items()}


def update_ema(ema: PyTree, params: PyTree, step: Int[AnyArray, ""] | int, decay: float) -> PyTree:
    """Move the exponential moving average towards `params` after update number `step` (0 for the first).

    The decay warms up, min(decay, (1 + step) / (10 + step)), so that the start is forgotten early.
    """
    step = jnp.asarray(step, jnp.float32)
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + (1 - d) * (p - e), ema, params)


def accumulate_gradients(
    key: Any, loss_fn: Callable[..., Any], trainable: PyTree, batch: dict[str, AnyArray], parts: int
) -> tuple[PyTree, AnyArray, dict[str, AnyArray]]:
    """Compute gradients, loss and metrics of a batch in `parts` equal pieces, one after another, and average them.

    `loss_fn(key, trainable, batch) -> (loss, metrics)` must be a mean over its batch; then the result equals that of
    the whole batch up to rounding. Piece i of B / parts samples gets the key folded with i. ValueError if B does not
    divide.
    """
    grad_fn = jax.value_and_grad(loss_fn, argnums=1, has_aux=True)
    if parts == 1:
        (loss, metrics), grads = grad_fn(key, trainable, batch)
        return grads, loss, metrics
    size = len(next(iter(batch.values())))
    if size % parts:
        raise ValueError(f"a batch of {size} does not divide into {parts} parts (train.accumulate)")
    pieces = jax.tree.map(lambda x: x.reshape(parts, size // parts, *x.shape[1:]), batch)

    def body(total: PyTree, index_and_piece: Any) -> tuple[PyTree, None]:
        index, piece = index_and_piece
        (loss, metrics), grads = grad_fn(jax.random.fold_in(key, index), trainable, piece)
        return jax.tree.map(lambda s, x: s + x / parts, total, (grads, loss, metrics)), None

    (loss, metrics), grads = jax.eval_shape(grad_fn, key, trainable, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), (grads, loss, metrics))
    (grads, loss, metrics), _ = jax.lax.scan(body, zeros, (jnp.arange(parts), pieces))
    return grads, loss, metrics


def _scale_by_label(labels: PyTree, courses: dict[str, LearningRate]) -> optax.GradientTransformation:
    """Multiply every leaf's update by minus the learning rate of its label.

    `optax.partition` of `optax.scale_by_learning_rate` does the same with a count of steps for each label; checkpoints
    hold one count for all.
    """

    def update(updates: PyTree, state: _ByLabelState, params: PyTree = None) -> tuple[PyTree, _ByLabelState]:
        del params
        rates = {label: course(state.count) for label, course in courses.items()}
        scaled = jax.tree.map(lambda label, u: -rates[label] * u, labels, updates)
        return scaled, _ByLabelState(state.count + 1)

    return optax.GradientTransformation(lambda params: _ByLabelState(jnp.zeros([], jnp.int32)), update)
