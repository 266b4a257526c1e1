"""Measure what a model does: follow-EPE, keep-EPE and PSNR of edits of held-out scenes whose truth is known exactly.

Protocol of `synthetic`: pairs of the test split, N points each, N exact tracks. The model gets the source video, the
points' paths in it and their paths in the target. A tracker that knows nothing else is started on each output at the
target position where a point's longest visible run begins, and followed to that run's end:

    follow-EPE   mean distance, in pixels, between those tracks and the target paths, over the points that were edited
                 (Motion Prompting's EPE, restricted to edits)
    keep-EPE     the same over the points whose paths are equal in both videos
    PSNR         against the true target video, of the squared error pooled over the clip: per frame, the exact first
                 frame of a copy would count as infinitely good; its mean over the pairs, and the 5th percentile: how
                 bad the bad ones are
    gradients    mean difference of neighbouring pixels, of what the true targets have: below 1 is blurred

A point counts only if the same tracker follows it on the true target to within a pixel (`trackable`): otherwise the
number would measure the tracker. The share of points that count is reported.

A model is an `editing.Editor`, or a `Drafts` that answers with drafts, drawn without a network.

"Copy" rows give the source video to the same protocol. `truth` is the same tracker on the true target: the floor that
tracking itself sets. "Through the autoencoder" is the true target encoded and decoded: the ceiling that a model's
autoencoder sets. `exact` distances need no tracker: the source's exact paths against the target's.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import checkpoints, draft, editing, figures, metrics, trackers, tracks, video
from motionv2v.data.scenes.pairs import KINDS, Pair, SceneConfig, make_pair
from motionv2v.data.tokenizer import NULL_PROMPT
from motionv2v.devices import fit
from motionv2v.editing import opening, refine, repair
from motionv2v.evaluation import joins, retracked
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.evaluation.drafts import Drafts, PairDrafts, Refined
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

NUM_POINTS = 10
TRACKABLE = 1.0
"""Pixels: a point counts if the tracker follows it this well on the true target, see `trackable`."""
ALIGNED = 1.0
"""Pixels between a point's places in source and target where its tracking starts, up to which they are one."""


def held_out_pairs(
    editor: editing.Editor | Drafts,
    num_pairs: int,
    seed: int,
    num_points: int = NUM_POINTS,
    num_frames: int | None = None,
) -> list[Pair]:
    """Draw pairs of the test split at the model's size, every one with `num_points` points.

    `num_frames`: of the clips, whose things move as far as in shorter ones, and slower; None takes the model's.
    """
    config = scene_config(editor, num_points, num_frames)
    return [make_pair(config, seed, index, "test") for index in range(num_pairs)]


def scene_config(
    editor: editing.Editor | Drafts, num_points: int = NUM_POINTS, num_frames: int | None = None
) -> SceneConfig:
    """Return how the scenes of `held_out_pairs` are drawn."""
    settings = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in editor.config.data.scene.items()}
    settings |= {"num_points": num_points, "num_frames": num_frames or editor.num_frames, "size": editor.size}
    return SceneConfig(**settings)


def edit_pairs(
    editor: editing.Editor | Drafts,
    pairs: list[Pair],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    num_views: int | None = None,
    use_control: bool = True,
    captions: bool = True,
    jitter: float = 0.0,
    drawn: Sequence[draft.Draft] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> UInt8[np.ndarray, "M T H W 3"]:
    """Run the model over pairs in batches; the last batch is filled up so that one compilation serves all.

    `batch_size` None takes 10, or as many as the devices can hold; of drafts one. `jitter` moves every point in every
    frame of both videos by up to so many pixels along x and y, which the model then sees (paper, section 3.3). `drawn`
    are the pairs' drafts, for a model that reads them, None draws them. Further options are those of `Editor.generate`.
    """
    drawn, rng = PairDrafts(pairs) if drawn is None else drawn, np.random.default_rng(seed)
    if batch_size is None:
        batch_size = editor.at_once if isinstance(editor, Drafts) else fit.edits_at_once(editor.config, editor.mesh)
    outputs = []
    for first in progress(range(0, len(pairs), batch_size)):
        chunk = pairs[first : first + batch_size]
        padded = chunk + [chunk[-1]] * (batch_size - len(chunk))
        batch = {"source": np.stack([p.source for p in padded])}
        for side in ("source", "target"):
            paths = [getattr(p, f"{side}_tracks") for p in padded]
            xy = np.stack([path.xy for path in paths])
            batch[f"{side}_xy"] = xy + rng.uniform(-jitter, jitter, xy.shape).astype(np.float32)
            batch[f"{side}_visible"] = np.stack([path.visible for path in paths])
        if editor.reads_draft and use_control:
            last = len(pairs) - 1
            batch = editor.with_drafts(batch, [drawn[min(first + i, last)] for i in range(batch_size)])
        tokens = editor.tokenizer.encode([p.caption if captions else NULL_PROMPT for p in padded])
        key = jax.random.fold_in(jax.random.key(seed), first)
        options = {"num_steps": num_steps, "guidance": guidance, "num_views": num_views, "use_control": use_control}
        outputs.append(np.asarray(editor.generate(key, batch, tokens, **options))[: len(chunk)])
    return np.concatenate(outputs)


def tracked_errors(
    frames: UInt8[np.ndarray, "T H W 3"], pair: Pair, tracker: Any
) -> tuple[Float[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """Track a video from where points start to be visible in the target; distances to it, and where they count."""
    found, counted = retracked.track(frames, pair.target_tracks, tracker)
    return np.linalg.norm(found - pair.target_tracks.xy, axis=-1), counted


def trackable(pairs: list[Pair], tracker: Any) -> list[Bool[np.ndarray, "N"]]:
    """Tell which points of each pair the tracker follows on the *true* target to within `TRACKABLE` pixels on average.

    On the others (smooth ground, fast turns) an error would be the tracker's own, whatever the video.
    """
    usable = []
    for pair in pairs:
        error, counted = tracked_errors(pair.target, pair, tracker)
        mean = (error * counted).sum(1) / np.maximum(counted.sum(1), 1)
        usable.append((mean < TRACKABLE) & counted.any(1))
    return usable


def score(
    videos: UInt8[np.ndarray, "M T H W 3"],
    pairs: list[Pair],
    tracker: Any,
    usable: list[Bool[np.ndarray, "N"]] | None = None,
) -> dict[str, float]:
    """Score videos against the pairs they should equal, by the measures that the module's docstring names.

    Distances are averaged within a pair, then over the pairs that have such points; NaN if none has. `usable` names the
    points that count, all by default. `identity_copy_rate` is the share of edited points, of all pairs, that stayed on
    their path in the source rather than going where they were sent (`metrics.identity_copy_rate`), among those whose
    paths start together (`ALIGNED`): a tracker that is started on the one is then started on the other, too.
    """
    follow, keep, psnr, copied = [], [], [], []
    for index, (frames, pair) in enumerate(zip(videos, pairs, strict=True)):
        found, counted = retracked.track(frames, pair.target_tracks, tracker)
        error = np.linalg.norm(found - pair.target_tracks.xy, axis=-1)
        if usable is not None:
            counted = counted & usable[index][:, None]
        copied += _copied(found, pair, counted)
        for rows, result in ((pair.edited, follow), (~pair.edited, keep)):
            where = counted & rows[:, None]
            if where.any():
                result.append(float(error[where].mean()))
        psnr.append(metrics.clip_psnr(frames, pair.target))
    scores = {"follow_epe": _mean(follow), "keep_epe": _mean(keep), "psnr": _mean(psnr), "psnr_p5": _worst(psnr)}
    sharp = metrics.gradients(videos) / metrics.gradients(np.stack([pair.target for pair in pairs]))
    return scores | {"gradients": sharp, "identity_copy_rate": _mean(copied)}


def _copied(found: Float[np.ndarray, "N T 2"], pair: Pair, counted: Bool[np.ndarray, "N T"]) -> list[float]:
    """Tell of each edited point that counts, and starts where it did, whether it stayed on its path, 1 or 0."""
    each, (first, _) = np.arange(len(found)), retracked.longest_runs(pair.target_tracks.visible)
    apart = np.linalg.norm(pair.source_tracks.xy - pair.target_tracks.xy, axis=-1)[each, first]
    starts_together = (apart < ALIGNED) & pair.source_tracks.visible[each, first]
    went, target = Tracks(found, counted), Tracks(pair.target_tracks.xy, counted)
    rates = [
        metrics.identity_copy_rate(*(tracks.select(t, [n]) for t in (went, pair.source_tracks, target)))
        for n in np.flatnonzero(pair.edited & starts_together).tolist()
    ]
    return [rate for rate in rates if not np.isnan(rate)]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _worst(values: list[float]) -> float:
    """Return the 5th percentile: one of the pairs, not a mean of two, because a perfect one is infinitely good."""
    return float(np.percentile(values, 5, method="lower"))


def exact_copy_epe(pairs: list[Pair]) -> float:
    """Average how far edited points are from their target in the source video itself, in pixels, by exact tracks."""
    errors = []
    for pair in pairs:
        where = pair.target_tracks.visible & pair.edited[:, None]
        if where.any():
            gap = np.linalg.norm(pair.source_tracks.xy - pair.target_tracks.xy, axis=-1)
            errors.append(float(gap[where].mean()))
    return _mean(errors)


def synthetic(
    editor: editing.Editor | Drafts,
    *,
    num_pairs: int = 200,
    seed: int = 7,
    num_frames: int | None = None,
    num_points: int = NUM_POINTS,
    pairs: list[Pair] | None = None,
    **options: Any,
) -> tuple[dict[str, float], UInt8[np.ndarray, "M T H W 3"], list[Pair]]:
    """Run the synthetic benchmark.

    Args:
        editor: the model. num_pairs, seed: which held-out pairs. num_frames: of them; None takes the model's.
        num_points: of each. pairs: these ones; None draws them. options: of `edit_pairs`.

    Returns:
        The flat results, the edited videos, and the pairs. Keys: those of `measure`; of drafts also of `calibration`.
    """
    pairs = held_out_pairs(editor, num_pairs, seed, num_points, num_frames) if pairs is None else pairs
    drawn = options.pop("drawn", None) or PairDrafts(pairs)
    videos = edit_pairs(editor, pairs, drawn=drawn, **options)
    results = measure(videos, pairs)
    if type(editor) is Drafts:
        uncertain = np.stack([each.uncertain for each in drawn])
        results |= calibration(videos, uncertain, np.stack([p.target for p in pairs]))
    return results, videos, pairs


def measure(videos: UInt8[np.ndarray, "M T H W 3"], pairs: list[Pair]) -> dict[str, float]:
    """Score edits of pairs, and beside them what the source and the true target score.

    Keys: `follow_epe`, `keep_epe`, `psnr`, `psnr_p5`, `gradients` of the edits; the same with `_copy` for the source
    video and `_truth` for the target video; `identity_copy_rate` of the edits; `follow_epe_copy_exact`;
    `trackable_share` of the points, those that count.
    """
    tracker = trackers.get("classical")
    usable = trackable(pairs, tracker)
    results = score(videos, pairs, tracker, usable)
    copied = score(np.stack([p.source for p in pairs]), pairs, tracker, usable)
    truth = score(np.stack([p.target for p in pairs]), pairs, tracker, usable)
    results |= {f"{name}_copy": value for name, value in copied.items()}
    results |= {f"{name}_truth": truth[name] for name in ("follow_epe", "keep_epe")}
    results["follow_epe_copy_exact"] = exact_copy_epe(pairs)
    results["trackable_share"] = float(np.concatenate(usable).mean())
    return results


LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75)


def calibration(
    videos: UInt8[np.ndarray, "M T H W 3"],
    uncertain: Float[np.ndarray, "M T H W"],
    targets: UInt8[np.ndarray, "M T H W 3"],
) -> dict[str, float]:
    """Measure what a draft's doubt is worth: the shares of pixels, and of the squared error, at or above `LEVELS`.

    Keys: `unsure_pixels_25`, `unsure_error_25` and so on, the levels in hundredths.
    """
    error = np.stack([((a.astype(np.float32) - b) ** 2).sum(axis=-1) for a, b in zip(videos, targets, strict=True)])
    found = {}
    for level in LEVELS:
        above = uncertain >= level
        found[f"unsure_pixels_{round(100 * level)}"] = float(above.mean())
        found[f"unsure_error_{round(100 * level)}"] = float(error[above].sum() / max(error.sum(), 1e-9))
    return found


class Row(NamedTuple):
    """One row of a table: what was measured, the numbers, and the videos they were measured on."""

    name: str
    results: dict[str, float]
    videos: UInt8[np.ndarray, "M T H W 3"]
    pairs: list[Pair]


def run_row(name: str, editor: editing.Editor | Drafts, **options: Any) -> Row:
    """Run the synthetic benchmark and keep what it made under a name; `options` are those of `synthetic`."""
    return Row(name, *synthetic(editor, **options))


COLUMNS = {
    "follow_epe": "follow-EPE (px)",
    "keep_epe": "keep-EPE (px)",
    "psnr": "PSNR (dB)",
    "psnr_p5": "PSNR, 5th percentile",
    "gradients": "gradients",
}


PASTED = "pasted into the draft"


def run_rows(
    name: str, editor: editing.Editor | Drafts, drafts: dict[Any, PairDrafts], *, ceiling: bool = False, **options: Any
) -> list[Row]:
    """Run the synthetic benchmark as `run_row`; what a model that reads drafts makes also stands pasted into these.

    `drafts` holds those drawn for other rows, by what pairs they are of. `ceiling` asks for a row of the true target
    through the model's autoencoder, too, and of that pasted into the drafts (`repair.paste`).
    """
    shape = (editor.size, options.get("num_frames") or editor.num_frames)
    pairs = held_out_pairs(editor, options["num_pairs"], options["seed"], options["num_points"], shape[1])
    drawn = drafts.setdefault(shape, PairDrafts(pairs))
    rows = [run_row(name, editor, pairs=pairs, drawn=drawn, **options)]
    if isinstance(editor, Drafts):
        return rows
    if ceiling:
        targets = Autoencoder(editor).through(np.stack([pair.target for pair in pairs]))
        rows.append(Row("the true target through the autoencoder", measure(targets, pairs), targets, pairs))
    if editor.reads_draft:
        for row in list(rows):
            videos = np.stack([repair.paste(*both) for both in zip(drawn, row.videos, strict=True)])
            rows.append(Row(f"{row.name}, {PASTED}", measure(videos, pairs), videos, pairs))
    return rows


def format_table(rows: list[Row]) -> str:
    """Lay out rows as markdown, with what copying the source scores and the tracker's own floor below them.

    A second table has the PSNR by kind of pair, the mean and the 5th percentile.
    """
    first, pairs = rows[0].results, rows[0].pairs
    lines = [(row.name, *(row.results[key] for key in COLUMNS)) for row in rows]
    lines.append(("copy the source", *(first[f"{key}_copy"] for key in COLUMNS)))
    floor = (first["follow_epe_truth"], first["keep_epe_truth"], math.inf, math.inf, 1.0)
    lines.append(("the true target (tracker's floor)", *floor))
    text = [
        f"{len(pairs)} held-out pairs, {len(pairs[0].edited)} points each, of which the tracker can follow "
        f"{first['trackable_share']:.0%} on the true target",
        *_markdown(["", *COLUMNS.values()], lines),
        *(
            f"{row.name}: of edited points that start where they did, {row.results['identity_copy_rate']:.0%} stay on "
            "their path instead of going where they are sent."
            for row in rows
        ),
        f"Copying against exact tracks, without a tracker: follow-EPE {first['follow_epe_copy_exact']:.2f} px.",
        "",
        *_kinds_table(rows),
    ]
    for row in rows:
        if "unsure_pixels_25" in row.results:
            text += ["", *_doubt(row)]
    return "\n".join(text)


def _doubt(row: Row) -> list[str]:
    """Lay out what the doubt of a row of drafts is worth."""
    keys = [round(100 * level) for level in LEVELS]
    lines = [
        (f"share of {what} (%)", *(100 * row.results[f"unsure_{key}_{level}"] for level in keys))
        for key, what in (("pixels", "pixels"), ("error", "squared error"))
    ]
    return _markdown([f"{row.name}: where it doubts", *(f"at least {level:g}" for level in LEVELS)], lines)


def _markdown(head: list[str], lines: list[tuple[Any, ...]]) -> list[str]:
    body = [" | ".join([name, *(v if isinstance(v, str) else f"{v:.2f}" for v in values)]) for name, *values in lines]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {line} |" for line in body)]


def _kinds_table(rows: list[Row]) -> list[str]:
    pairs = rows[0].pairs
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS}
    head = ["PSNR (dB) by kind of pair: mean / 5th percentile", *(f"{kind} ({n})" for kind, n in counts.items() if n)]
    copied = Row("copy the source", {}, np.stack([pair.source for pair in pairs]), pairs)
    return _markdown(head, [(row.name, *map(_two, by_kind(row).values())) for row in (*rows, copied)])


def _two(values: tuple[float, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def by_kind(row: Row) -> dict[str, tuple[float, float]]:
    """Return mean and 5th percentile of a row's PSNR for each kind of pair that it has."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for frames, pair in zip(row.videos, row.pairs, strict=True):
        found[pair.kind].append(metrics.clip_psnr(frames, pair.target))
    return {kind: (_mean(values), _worst(values)) for kind, values in found.items() if values}


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_pairs: int,
    seed: int,
    num_steps: int | None = None,
    num_views: str | int | None = None,
    devices: int = 1,
    out: str | None = None,
    num_frames: int | None = None,
    num_points: int = NUM_POINTS,
    jitter: float = 0.0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[str, dict[str, float]]:
    """Evaluate a checkpoint, its base without control, and others beside it; the table's text, and its numbers.

    The numbers are those of `synthetic`, and `psnr_KIND` and `psnr_p5_KIND` for each kind of pair.

    Of a model that edits such clips in windows it is measured too whether they show (`joins`).

    Args:
        checkpoint, compare: as for `editing.opening.load`; "draft" draws without a network, at the size of `tiny`,
            and "refine:NAME@WEAK,STRONG" has the base of a model refine that (`Refined`).
        devices: how many share each batch of edits. out: a folder for videos of the first pairs.
        num_frames: of the pairs; None takes the model's. num_points: of each. jitter: as for `edit_pairs`.
    """
    options = {"num_pairs": num_pairs, "seed": seed, "num_steps": num_steps, "progress": progress}
    options |= {"num_frames": num_frames, "num_points": num_points, "jitter": jitter}
    views = num_views and int(num_views)
    editor = open_editor(checkpoint, devices)
    drafts: dict[Any, PairDrafts] = {}
    rows = run_rows(checkpoint, editor, drafts, ceiling=True, num_views=views, **options)
    if not isinstance(editor, Drafts):
        rows.append(run_row("frozen base, no control", editor, use_control=False, **options))
    for name in compare:
        rows += run_rows(name, open_editor(name, devices), drafts, num_views=views, **options)
    text, results = format_table(rows), rows[0].results
    for kind, (mean, worst) in by_kind(rows[0]).items():
        results |= {f"psnr_{kind}": mean, f"psnr_p5_{kind}": worst}
    for row in rows:
        if row.name == f"{checkpoint}, {PASTED}":
            results |= {f"{key}_pasted": row.results[key] for key in COLUMNS}
    if not isinstance(editor, Drafts) and len((plan := editor.plan(len(rows[0].videos[0]))).starts) > 1:
        found = joins.score(rows[0].videos, rows[0].pairs, plan)
        text += f"\n\n{joins.format_table(found, plan)}"
        results |= {f"{key}_{name}": value for name, row in found.items() for key, value in row.items()}
    wrote = f"\nwrote videos in {write_videos(rows[0], out)}" if out else ""
    return text + wrote, results


def open_editor(name: str, devices: int = 1) -> editing.Editor | Drafts:
    """Open what a row is of, as `table` names it. Raises ValueError as `opening.load` and `drafts.Refined`."""
    if name == "draft":
        return Drafts(checkpoints.read_config(checkpoints.resolve("tiny")))
    if name.startswith(refine.PREFIX):
        return Refined(name)
    return opening.load(name, devices)


def check_one_size(editors: dict[str, editing.Editor | Drafts]) -> None:
    """Raise a ValueError of one line for models, by name, that work at different frames and sizes."""
    shapes = {name: (each.num_frames, *each.size) for name, each in editors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the models work at different frames and sizes, {shapes}: compare those of one size")


def write_videos(row: Row, folder: str | Path, most: int = 8) -> Path:
    """Write the first pairs of a row, `pair_0.mp4` and a contact sheet `pair_0.png` for each; returns the folder."""
    for index, (pair, edited) in enumerate(zip(row.pairs[:most], row.videos[:most], strict=True)):
        clip, file = comparison_video(pair, edited), Path(folder) / f"pair_{index}"
        video.write(file.with_suffix(".mp4"), clip, fps=8)
        figures.save_png(file.with_suffix(".png"), figures.contact_sheet([(pair.caption, clip)], 4))
    return Path(folder)


def comparison_video(pair: Pair, edited: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T h w 3"]:
    """Lay out source, target tracks on the source, edited result and true target side by side, with labels."""
    drawn = figures.draw_tracks(pair.source, pair.target_tracks, highlight=pair.edited)
    panels = [("source", pair.source), ("target tracks", drawn), ("edited", edited), ("true target", pair.target)]
    return figures.side_by_side(panels)


def probe_synthetic(editor: editing.Editor, num_pairs: int, seed: int) -> dict[str, Any]:
    """Evaluate during training: the benchmark on few pairs, and videos of the first four."""
    size = fit.probed_at_once(editor.config, editor.mesh, num_pairs)
    results, videos, pairs = synthetic(editor, num_pairs=num_pairs, seed=seed, batch_size=size)
    shown = {
        f"edit_{i}": comparison_video(pair, video)
        for i, (pair, video) in enumerate(zip(pairs[:4], videos[:4], strict=True))
    }
    return {"scalars": results, "videos": shown}
