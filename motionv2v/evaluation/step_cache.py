"""Measure a model's step cache: its curve, written beside the checkpoint, and what each threshold costs in quality.

The curve comes from edits of one half of the held-out scenes, the table from the other half: videos of the same seed
with the cache and without, and for comparison those of a plain sample that computes as many steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import checkpoints, editing, metrics
from motionv2v.editing import opening, step_cache
from motionv2v.editing.step_cache import Curve
from motionv2v.evaluation import synthetic
from motionv2v.typing import AnyArray, Int

THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
MOST_PAIRS = 16
"""Scenes that are measured at most: the curve hardly differs from scene to scene."""
NUM_STEPS = 50


def table(
    checkpoint: str,
    num_pairs: int = MOST_PAIRS,
    seed: int = 7,
    num_steps: int | None = None,
    progress: Callable[[Any], Any] = iter,
) -> tuple[str, dict[str, float]]:
    """Measure a checkpoint's curve, write it into its folder, and lay out what thresholds cost.

    Args:
        checkpoint: a released name, a model folder or a training work dir.
        num_pairs: of held-out scenes, at least 2; those above `MOST_PAIRS` are left out. seed: which ones.
        num_steps: of the samples; None takes `NUM_STEPS`, whatever the model's own. progress: wraps loops.

    Returns:
        Markdown, and the flat results {"computed_<threshold>", "psnr_<threshold>", "psnr_fewer_<threshold>": ..}.

    Raises:
        ValueError: for fewer than 2 pairs or steps. OSError: if the folder cannot be written.
    """
    if num_pairs < 2:
        raise ValueError(f"num_pairs is {num_pairs}; the step cache is measured on one half and tried on the other")
    editor, steps = opening.load(checkpoint), num_steps or NUM_STEPS
    pairs = synthetic.held_out_pairs(editor, min(num_pairs, MOST_PAIRS) // 2 * 2, seed)
    measured, tried = (make_batch(editor, half) for half in (pairs[::2], pairs[1::2]))
    curve = step_cache.calibrate(editor, [measured], num_steps=steps, progress=progress)
    path = step_cache.save(checkpoints.resolve(checkpoint), curve)
    rows = losses(editor, *tried, curve, THRESHOLDS, num_steps=steps)
    results = {
        f"{name}_{row.threshold:g}": float(getattr(row, name))
        for row in rows
        for name in ("computed", "psnr", "psnr_fewer")
    }
    return f"{format_losses(rows)}\nwrote {path}", results


def make_batch(editor: editing.Editor, pairs: Sequence[Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Stack pairs into (batch, tokens) as `Editor.generate` takes them."""
    batch = {"source": np.stack([pair.source for pair in pairs])}
    for side in ("source", "target"):
        tracks = [getattr(pair, f"{side}_tracks") for pair in pairs]
        batch[f"{side}_xy"] = np.stack([t.xy for t in tracks])
        batch[f"{side}_visible"] = np.stack([t.visible for t in tracks])
    return batch, editor.tokenizer.encode([pair.caption for pair in pairs])


class Loss(NamedTuple):
    """What a threshold saves and costs: steps computed of all, and PSNR (dB) to the videos of the full sample.

    `psnr_fewer` is that of a plain sample with as many steps as `computed`: what the cache has to beat.
    """

    threshold: float
    computed: int
    num_steps: int
    psnr: float
    psnr_fewer: float


def losses(
    editor: Any,
    batch: dict[str, AnyArray],
    tokens: Int[AnyArray, "B L"],
    curve: Curve,
    thresholds: Sequence[float],
    *,
    num_steps: int = 50,
    guidance: float | None = None,
    use_control: bool = True,
) -> list[Loss]:
    """Measure the quality that thresholds cost: videos of the same seed, with the step cache and without.

    Args:
        editor: an `editing.Editor`. batch, tokens, guidance, use_control: as for its `generate`.
        curve: of the model. thresholds: to try. num_steps: of the samples.
    """

    def make(steps: int, reuse: tuple[bool, ...] | None = None) -> np.ndarray:
        options = {"guidance": guidance, "use_control": use_control, "reuse": reuse}
        return np.asarray(editor.generate(jax.random.key(1), batch, tokens, num_steps=steps, **options))

    whole, rows = make(num_steps), []
    for threshold in thresholds:
        reuse = step_cache.plan(curve, num_steps, threshold)
        computed = num_steps - sum(reuse)
        videos, fewer = make(num_steps, reuse), make(computed)
        rows.append(Loss(threshold, computed, num_steps, _psnr(videos, whole), _psnr(fewer, whole)))
    return rows


def format_losses(rows: Sequence[Loss]) -> str:
    """Lay out rows as markdown."""
    head = ["| threshold | steps computed | PSNR to the full sample (dB) | of a plain sample with as many steps (dB) |"]
    return "\n".join(
        [*head, "|---|---|---|---|"]
        + [f"| {r.threshold:g} | {r.computed} of {r.num_steps} | {r.psnr:.1f} | {r.psnr_fewer:.1f} |" for r in rows]
    )


def _psnr(videos: np.ndarray, truth: np.ndarray) -> float:
    """Return the PSNR in dB of the squared error pooled over the videos; infinity where all are equal."""
    error = float(np.mean([metrics.l2(*pair) for pair in zip(videos, truth, strict=True)]))
    return math.inf if error == 0 else -10 * math.log10(error)
