"""Measure how well a model makes a region of a video anew (ReVideo): what stays, what follows, what the border shows.

Protocol of `revideo`: of held-out pairs in which things move otherwise and the camera does not, the source is given
around a rectangle that holds all that differs, of the target the first frame and ten trajectories inside, or as many
as move more than the mean there: of all things that are to be seen inside, those of the source that stay as they were
too, which nothing else tells of. The target is the truth.

    outside, raw     PSNR around the region, against the source: of the result, and of what the model made before the
                     clip's own pixels are laid around it; beside it stands the autoencoder's own
    follow-EPE       distance of the points, tracked again in the result, from their trajectories; held: of a result
                     that keeps the first frame
    inside           PSNR inside the region against the truth; copy: of the source
    seam             mean difference of neighbouring pixels across the region's border, and the truth's
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import editing, figures, metrics, trackers, tracks, video
from motionv2v.data import regions
from motionv2v.data.scenes.pairs import make_pair
from motionv2v.editing import opening, remade
from motionv2v.evaluation import retracked, synthetic
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

POINTS, MARGIN, CHANGED = 64, 3, 8
"""Points of a scene to draw trajectories from; pixels around what differs; grey levels from which a pixel does."""
MOST = 0.75
"""Part of the picture that a region may be; pairs with more are passed over."""
BATCH = 10
COLUMNS = {
    "psnr_outside": "outside (dB)",
    "psnr_outside_raw": "raw (dB)",
    "follow_epe": "follow-EPE (px)",
    "psnr_inside": "inside (dB)",
    "seam": "seam (levels)",
}
Progress = Callable[[Iterable[int]], Iterable[int]]


class Case(NamedTuple):
    """One pair: the source, the target it shall become, where they differ, what steers it, and its caption.

    `usable` are the tracks that count: those that the tracker follows in the target itself.
    """

    source: UInt8[np.ndarray, "T H W 3"]
    target: UInt8[np.ndarray, "T H W 3"]
    region: Bool[np.ndarray, "T H W"]
    tracks: Tracks
    caption: str
    usable: Bool[np.ndarray, "N"]

    @property
    def known(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Return what a model is given: the source, whose first frame is the target's inside the region."""
        first = np.where(self.region[0, ..., None], self.target[0], self.source[0])
        return np.concatenate([first[None], self.source[1:]])

    @property
    def held(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Return the source with the region of that first frame held over it."""
        return np.where(self.region[..., None], self.known[:1], self.source)


def cases(editor: editing.Editor, num_pairs: int, seed: int, tracker: Any) -> list[Case]:
    """Draw held-out pairs at the model's size; some indices have none, see `MOST`."""
    config = replace(synthetic.scene_config(editor, POINTS), kinds=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), min_points=POINTS)
    found, index = [], 0
    while len(found) < num_pairs:
        made = case(np.random.default_rng([seed, index]), make_pair(config, seed, index, "test"), tracker)
        found += [] if made is None else [made]
        index += 1
        if index > 20 * (num_pairs + 5):
            raise ValueError(f"of {index} scenes only {len(found)} leave room around what moves; expected {num_pairs}")
    return found


def case(rng: np.random.Generator, pair: Any, tracker: Any) -> Case | None:
    """Make a case of a pair; None where nothing moves otherwise, or nothing is left around it."""
    differs = np.abs(pair.source.astype(int) - pair.target).max(-1) > CHANGED
    rows, columns = (np.flatnonzero(differs.any((0, axis))) for axis in (2, 1))
    if not len(rows):
        return None
    inside = np.zeros(differs.shape[1:], bool)
    low = [max(0, ends[0] - MARGIN) for ends in (rows, columns)]
    inside[low[0] : rows[-1] + 1 + MARGIN, low[1] : columns[-1] + 1 + MARGIN] = True
    xy, visible = regions.trajectories(rng, *pair.target_tracks, inside, regions.MOST_POINTS)
    if inside.mean() > MOST or not visible.any():
        return None
    given = tracks.select(Tracks(xy, visible), np.flatnonzero(visible.any(1)))
    where, counted = retracked.track(pair.target, given, tracker)
    mean = (np.linalg.norm(where - given.xy, axis=-1) * counted).sum(1) / np.maximum(counted.sum(1), 1)
    usable = counted.any(1) & (mean < synthetic.TRACKABLE)
    region = np.repeat(inside[None], len(pair.target), axis=0)
    return Case(pair.source, pair.target, region, given, pair.caption, usable)


def make(
    editor: editing.Editor, given: Sequence[Case], seed: int, num_steps: int | None, progress: Progress
) -> UInt8[np.ndarray, "M T H W 3"]:
    """Make the regions anew, in batches of one compiled size, as the model makes them."""
    made = []
    for start in progress(range(0, len(given), BATCH)):
        chunk = list(given[start : start + BATCH])
        padded = chunk + chunk[-1:] * (BATCH - len(chunk))
        sides = [editor.sides(each.region.shape[1:], target=each.tracks) for each in padded]
        batch = {name: np.concatenate([side[name] for side in sides]) for name in sides[0]}
        batch |= {"target": np.stack([each.known for each in padded])}
        batch |= {"region": np.stack([each.region for each in padded]).astype(np.float32)}
        tokens = editor.tokenizer.encode([each.caption for each in padded], lambda line: None)
        key = jax.random.fold_in(jax.random.key(seed), start)
        made.append(np.asarray(editor.generate(key, batch, tokens, num_steps=num_steps))[: len(chunk)])
    return np.concatenate(made)


def composed(made: UInt8[np.ndarray, "T H W 3"], of: Case) -> UInt8[np.ndarray, "T H W 3"]:
    """Lay what a model made over the source, as `remade.remake` does."""
    made = np.concatenate([of.known[:1], made[1:]])
    return remade.over(of.source, made, remade.feathered(of.region))


def seam(frames: UInt8[np.ndarray, "T H W 3"], region: Bool[np.ndarray, "T H W"]) -> float:
    """Return the mean difference of neighbouring pixels one of which is inside; NaN for a region without a border."""
    frames, total, count = frames.astype(np.float64), 0.0, 0
    for axis in (1, 2):
        across = np.diff(region.astype(np.int8), axis=axis) != 0
        total += np.abs(np.diff(frames, axis=axis)).mean(-1)[across].sum()
        count += int(across.sum())
    return total / count if count else math.nan


def follow(frames: UInt8[np.ndarray, "T H W 3"], of: Case, tracker: Any) -> float:
    """Return how far the points go from their trajectories; NaN where none counts."""
    if not of.usable.any():
        return math.nan
    chosen = tracks.select(of.tracks, np.flatnonzero(of.usable))
    found, counted = retracked.track(frames, chosen, tracker)
    return metrics.epe(found, chosen.xy, counted)


def score(made: UInt8[np.ndarray, "T H W 3"], of: Case, tracker: Any) -> dict[str, float]:
    """Score what a model made of one case by each of `COLUMNS`."""
    result = composed(made, of)
    beyond = remade.feathered(of.region) == 0
    return {
        "psnr_outside": metrics.clip_psnr(result, of.source, beyond),
        "psnr_outside_raw": metrics.clip_psnr(made, of.source, ~of.region),
        "follow_epe": follow(result, of, tracker),
        "psnr_inside": metrics.clip_psnr(result, of.target, of.region),
        "seam": seam(result, of.region),
    }


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_pairs: int,
    seed: int,
    num_steps: int | None = None,
    out: str | None = None,
    progress: Progress = iter,
) -> tuple[str, dict[str, float]]:
    """Measure models of ReVideo, such as the stages of one training, on held-out pairs.

    Args:
        checkpoint, compare: as for `editing.opening.load`, each a row. num_pairs, seed: which scenes, and the noise.
        num_steps: of the samples; None takes the models' own. out: a folder for `remade.png`, cases of the first model,
            and their videos. progress: wraps loops.

    Returns:
        Markdown, and the first model's scores, with `follow_epe_held`, `psnr_inside_copy`, `seam_truth` and
        `psnr_autoencoder`, that of the source around the region through the autoencoder alone.

    Raises:
        ValueError: for a model of another kind, and models of different sizes.
    """
    tracker, editors = trackers.get("classical"), {}
    for name in (checkpoint, *compare):
        editors[name] = opening.load(name)
        if not (method := editors[name].model.method) or not method.remakes():
            raise ValueError(f"{name} makes no region of a video anew; this needs a revideo model")
    editor = editors[checkpoint]
    synthetic.check_one_size(editors)
    given = cases(editor, num_pairs, seed, tracker)
    rows, first = {}, None
    for name, each in editors.items():
        made = make(each, given, seed, num_steps, progress)
        first = made if first is None else first
        rows[name] = _mean([score(*both, tracker) for both in zip(made, given, strict=True)])
    rows["the first frame, held"] = _mean([score(each.held, each, tracker) for each in given])
    rows["the source"] = _mean([_of_clip(each.source, each, tracker) for each in given])
    rows["the truth"] = _mean([_of_clip(each.target, each, tracker) for each in given])
    results = dict(rows[checkpoint]) | {
        "follow_epe_held": rows["the first frame, held"]["follow_epe"],
        "psnr_inside_copy": rows["the source"]["psnr_inside"],
        "seam_truth": rows["the truth"]["seam"],
        "psnr_autoencoder": _autoencoder(editor, given),
    }
    steps = editor.settings(num_steps, None).num_steps
    usable = np.mean([each.usable.any() for each in given])
    text = (
        f"{len(given)} held-out pairs, {steps} steps; in {usable:.0%} a point can be tracked again in the truth; the "
        f"autoencoder alone gives {results['psnr_autoencoder']:.2f} dB around the region\n{_format(rows)}"
    )
    return text + (f"\nwrote {_write(given, first, Path(out))}" if out else ""), results


def _of_clip(frames: UInt8[np.ndarray, "T H W 3"], of: Case, tracker: Any) -> dict[str, float]:
    """Score a clip that no model made: nothing is laid over it."""
    outside = metrics.clip_psnr(frames, of.source, ~of.region)
    inside = metrics.clip_psnr(frames, of.target, of.region)
    scores = {"psnr_outside": outside, "psnr_outside_raw": outside, "psnr_inside": inside}
    return scores | {"follow_epe": follow(frames, of, tracker), "seam": seam(frames, of.region)}


def _autoencoder(editor: editing.Editor, given: Sequence[Case]) -> float:
    """Return the PSNR around the regions of sources that went through the autoencoder."""
    sources = np.stack([each.source for each in given])
    through = Autoencoder(editor).through(sources)
    return float(np.mean([metrics.clip_psnr(a, c.source, ~c.region) for a, c in zip(through, given, strict=True)]))


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average scores; those of exact pixels are infinite, and those that nothing tells are left out."""
    found: dict[str, float] = {}
    for name in COLUMNS:
        values: Float[np.ndarray, "M"] = np.array([each[name] for each in scores])
        known = values[~np.isnan(values)]
        finite = known[np.isfinite(known)]  # one pair of exactly equal pixels would make the mean infinite
        found[name] = float((finite if len(finite) else known).mean()) if len(known) else math.nan
    return found


def _format(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    shown = lambda value: "exact" if value == math.inf else f"{value:.2f}"  # noqa: E731
    lines += [f"| {name} | {' | '.join(shown(row[key]) for key in COLUMNS)} |" for name, row in rows.items()]
    return "\n".join(lines)


def _write(given: Sequence[Case], made: UInt8[np.ndarray, "M T H W 3"], folder: Path, most: int = 4) -> Path:
    """Write the first cases: what is given, what was made, the truth; as a sheet and as videos."""
    rows = []
    for index, (of, frames) in enumerate(zip(given[:most], made, strict=False)):
        grey = np.where(of.region[..., None], of.known // 4 + 160, of.known).astype(np.uint8)
        grey[0] = of.known[0]
        own = [("given", figures.draw_tracks(grey, of.tracks)), ("made", composed(frames, of)), ("true", of.target)]
        video.write(folder / f"remade_{index}.mp4", figures.side_by_side(own), fps=8)
        rows += [(f"{name}: {of.caption}" if name == "given" else name, clip) for name, clip in own]
    return figures.save_png(folder / "remade.png", figures.contact_sheet(rows, 5))
