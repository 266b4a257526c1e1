"""Skip denoising steps that a model's own measurements say are near enough to those before: a static step cache.

Along a sample the model's prediction v turns slowly. `calibrate` measures by how much from each step to the next, on
edits of the model, and `save` writes the curve beside the checkpoint. `plan` turns it into a fixed list of steps that
are not computed but extrapolated from the last two that were (`sampling.sample`), so that the whole sample stays one
compiled loop without decisions that depend on data:

    a step is reused while the change since the last computed step is below the threshold

The accumulated relative change is TeaCache's rule (arXiv 2411.19108, section 3.3), there decided while sampling; that
the schedule can be fixed beforehand because it hardly depends on the prompt is MagCache's finding (arXiv 2506.09045,
section 3.1), whose magnitude ratio is measured and stored as well. The ratio is not what decides: it stays near 1 while
the direction turns. Change is additive along the path, so that one curve serves every number of steps.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import files, sampling
from motionv2v.checkpoints import STEP_CACHE
from motionv2v.typing import AnyArray, Float, Int

WARM_UP = 2
"""Steps at the start that are always computed: there is nothing to extrapolate from."""


class Curve(NamedTuple):
    """How a model's prediction changes along a sample; row i is from step i - 1 to step i, row 0 has change 0, ratio 1.

    `timesteps` fall. `ratio` is |v_i| / |v_i-1| and `change` |v_i - v_i-1| / |v_i-1|, means over what was measured.
    `about` says what that was.
    """

    timesteps: Int[np.ndarray, "S"]
    ratio: Float[np.ndarray, "S"]
    change: Float[np.ndarray, "S"]
    about: dict[str, Any]


def plan(curve: Curve, num_steps: int, threshold: float) -> tuple[bool, ...]:
    """Choose the steps of a sample that are reused.

    Args:
        curve: of the model. num_steps: of the sample, any number.
        threshold: how far the prediction may have turned since the last computed step, relative to its length; 0 reuses
            none. With 20 steps of the released tiny model, 0.1 computes 13 and 0.2 computes 9, and both come nearer to
            the full sample than a plain one of as many steps; from 0.3 on they do not: take fewer steps instead.

    Returns:
        One entry per step, True where it is reused; the first two steps and the last one never are.

    Raises:
        ValueError: for a threshold below 0 or not finite, or an impossible num_steps.
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"the step cache's threshold is {threshold}; expected 0 (off) or more, such as 0.1")
    timesteps = sampling.time_grid(num_steps)
    path = np.interp(timesteps, curve.timesteps[::-1], np.cumsum(curve.change)[::-1])
    reused, last = [], 0
    for step in range(num_steps):
        near = path[step] - path[last] < threshold
        reused.append(bool(WARM_UP <= step < num_steps - 1 and near))
        last = last if reused[-1] else step
    return tuple(reused)


def of_config(
    config: Any, folder: str | Path | None, threshold: float | None, num_steps: int | None = None
) -> tuple[bool, ...] | None:
    """Plan the steps that a sample of a model reuses, None where it reuses none.

    Args:
        config, folder: of the model. threshold: None takes the config's. num_steps: None takes the config's.

    Raises:
        ValueError: if the threshold is impossible, or above 0 and nobody measured the model's curve.
    """
    settings = config.sample
    threshold = settings.step_cache if threshold is None else threshold
    if threshold == 0:
        return None
    found = plan(load(folder), int(num_steps or settings.num_steps), threshold)
    return found if any(found) else None


def save(folder: str | Path, curve: Curve) -> Path:
    """Write a curve beside a checkpoint, as `step_cache.json`, and return the file. Raises OSError if it cannot."""
    columns = {name: np.asarray(getattr(curve, name)).tolist() for name in ("timesteps", "ratio", "change")}
    return files.write(Path(folder) / STEP_CACHE, json.dumps({**curve.about, **columns}, indent=1) + "\n")


def load(folder: str | Path | None) -> Curve:
    """Read the curve of a model folder. Raises ValueError, in one line, if there is none or it is damaged."""
    advice = "measure it: python launch/evaluate.py --benchmark=step_cache --checkpoint=..."
    if folder is None or not (path := Path(folder) / STEP_CACHE).is_file():
        raise ValueError(f"the step cache needs {STEP_CACHE} in {folder or 'the folder of the model'}; {advice}")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        timesteps, ratio, change = (np.asarray(stored.pop(name), float) for name in ("timesteps", "ratio", "change"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {advice}") from None
    sound = (
        timesteps.ndim == 1
        and len(timesteps) > 1
        and timesteps.shape == ratio.shape == change.shape
        and (np.diff(timesteps) < 0).all()
        and all(np.isfinite(column).all() and (column >= 0).all() for column in (timesteps, ratio, change))
    )
    if not sound:
        raise ValueError(
            f"{path} is damaged: expected columns of one length, falling timesteps, no negatives; {advice}"
        )
    return Curve(timesteps.astype(np.int64), ratio, change, stored)


def calibrate(
    editor: Any,
    batches: Sequence[tuple[dict[str, AnyArray], Int[AnyArray, "B L"]]],
    *,
    num_steps: int = 50,
    progress: Callable[[Any], Any] = iter,
) -> Curve:
    """Measure the curve of a model on edits.

    Args:
        editor: an `editing.Editor`, or anything with its `measure_changes`.
        batches: (batch, tokens) as `Editor.generate` takes them, all of one size.
        num_steps: of the samples that are measured. progress: wraps the loop over batches.

    Raises:
        ValueError: for no batches, or fewer than two steps.
    """
    if not batches or num_steps < 2:
        raise ValueError(f"a step cache is measured on at least 1 batch and 2 steps; got {len(batches)}, {num_steps}")
    rows = [
        editor.measure_changes(jax.random.fold_in(jax.random.key(0), index), batch, tokens, num_steps=num_steps)
        for index, (batch, tokens) in progress(list(enumerate(batches)))
    ]
    ratio, change = (np.mean([np.asarray(row[name], np.float64) for row in rows], 0) for name in ("ratio", "change"))
    about = {
        "model": editor.config.name,
        "solver": editor.config.sample.solver,
        "samples": sum(len(tokens) for _, tokens in batches),
    }
    return Curve(sampling.time_grid(num_steps).astype(np.int64), ratio, change, about)
