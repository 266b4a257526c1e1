"""Measure how a video drifts that is edited again and again: there and back, so that the truth is always known.

Protocol of `repeated`: a held-out pair's source is edited so that its points take their paths in the target, what came
of that so that they take those in the source, and so on, five edits, each of what the one before made. The paths are
exact and the noise of each edit is its own. After an odd number of edits the truth is the target, after an even one the
source. Of each step, the mean over the pairs that have it:

    PSNR         against that truth, of the squared error pooled over the clip
    untouched    the same over the pixels that are equal in source and target, `MARGIN` around them as well: no edit had
                 a reason to change them; of pairs in which they are at least `LEAST` of the clip, each 100 dB at
                 most
    follow-EPE   distance of the edited points, tracked again, from where that edit sent them (`synthetic`)
    gradients    mean difference of neighbouring pixels, of what the truth has: it falls as a video blurs

A model has two rows: its own videos, each made of its last one, and its videos within the draft of every edit, which
keep the pixels of which the draft is sure (`repair.paste`). Through the autoencoder alone, as often, it loses what no
model of that autoencoder can keep.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from motionv2v import editing, figures, metrics, trackers, video
from motionv2v.data.scenes.pairs import Pair
from motionv2v.editing import repair
from motionv2v.evaluation import measures, synthetic
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.evaluation.drafts import Drafts, PairDrafts
from motionv2v.typing import Bool, UInt8

EDITS = 5
CHANGED, MARGIN, LEAST = 8, 3, 0.05
"""Grey levels from which a pixel differs in source and target, pixels around such, and the share that must be left."""
COLUMNS = {
    "psnr": "PSNR (dB)",
    "untouched": "untouched (dB)",
    "follow_epe": "follow-EPE (px)",
    "gradients": "gradients",
}
KEPT, THROUGH = "with the draft's pixels", "through the autoencoder alone"
Videos = UInt8[np.ndarray, "M T H W 3"]


def back(pair: Pair) -> Pair:
    """Return a pair the other way round: its target is edited into its source."""
    sides = {"source": pair.target, "target": pair.source}
    return replace(pair, **sides, source_tracks=pair.target_tracks, target_tracks=pair.source_tracks)


def asked(pairs: Sequence[Pair], index: int) -> list[Pair]:
    """Return the pairs as the edit of an index, from 0, asks for them: there, or back."""
    return [back(pair) for pair in pairs] if index % 2 else list(pairs)


def untouched(pair: Pair) -> Bool[np.ndarray, "T H W"]:
    """Tell which pixels no edit has a reason to change, there and back."""
    differs = np.abs(pair.source.astype(int) - pair.target).max(-1) > CHANGED
    around = np.ones((2 * MARGIN + 1,) * 2, np.uint8)
    return np.stack([cv2.dilate(frame.astype(np.uint8), around) == 0 for frame in differs])


def chain(
    editor: editing.Editor | Drafts,
    pairs: Sequence[Pair],
    num_edits: int = EDITS,
    *,
    keeps: bool = False,
    first: Videos | None = None,
    **options: Any,
) -> Iterator[Videos]:
    """Edit pairs again and again and yield what each edit made, as many times as `num_edits`.

    `keeps`: the pixels of which each edit's draft is sure are the draft's. `first`: what the model made in the first
    edit, if that is known; it is the same with the draft's pixels and without. `options`: of `synthetic.edit_pairs`.
    """
    now = np.stack([pair.source for pair in pairs])
    for index in range(num_edits):
        given = [replace(pair, source=frames) for pair, frames in zip(asked(pairs, index), now, strict=True)]
        drawn = PairDrafts(given)
        is_known = index == 0 and first is not None
        now = first if is_known else synthetic.edit_pairs(editor, given, seed=index, drawn=drawn, **options)
        if keeps:
            now = np.stack([repair.paste(*both) for both in zip(drawn, now, strict=True)])
        yield now


def through(autoencoder: Autoencoder, pairs: Sequence[Pair], num_edits: int = EDITS) -> Iterator[Videos]:
    """Yield the truths of as many edits, each through an autoencoder as often as a model's video has been."""
    sides = [np.stack([pair.target for pair in asked(pairs, index)]) for index in (0, 1)]
    for index in range(num_edits):
        sides = [autoencoder.through(side) for side in sides]
        yield sides[index % 2]


class Truths:
    """What chains of edits of the same pairs are scored against; it is found once for all of them.

    Attributes:
        still: of each pair, which pixels no edit has a reason to change (`untouched`).
    """

    def __init__(self, pairs: Sequence[Pair]):
        """Take the pairs, and find which points can be tracked in them there and back."""
        self._tracker = trackers.get("classical")
        self._ways = [asked(pairs, index) for index in (0, 1)]
        self._usable = [synthetic.trackable(way, self._tracker) for way in self._ways]
        self.still = [untouched(pair) for pair in pairs]

    @property
    def num_still(self) -> int:
        """Return how many pairs have enough such pixels."""
        return sum(where.mean() >= LEAST for where in self.still)

    def score(self, steps: Iterable[Videos]) -> list[dict[str, float]]:
        """Score what each edit made by each of `COLUMNS`; NaN where no pair has what is measured."""
        found = []
        for index, videos in enumerate(steps):
            way = self._ways[index % 2]
            scores = synthetic.score(videos, way, self._tracker, self._usable[index % 2])
            kept = [
                min(measures.PSNR_MOST, metrics.clip_psnr(frames, pair.target, where))
                for frames, pair, where in zip(videos, way, self.still, strict=True)
                if where.mean() >= LEAST
            ]
            found.append({**{name: scores[name] for name in COLUMNS if name in scores}, "untouched": _mean(kept)})
        return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_pairs: int,
    seed: int,
    num_steps: int | None = None,
    num_views: str | int | None = None,
    out: str | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[str, dict[str, float]]:
    """Measure how models drift; a row for each, for each with the draft's pixels, and for the first's autoencoder.

    Args:
        checkpoint, compare: as for `synthetic.table`. num_pairs, seed: which held-out pairs. num_steps, num_views: of
            every edit; None takes the models' own. out: a folder for a sheet of the first model's first pairs.
        progress: wraps loops.

    Returns:
        Markdown, and the first model's scores after each edit, "psnr_1" to "psnr_5" and so on, with "_kept" for those
        with the draft's pixels and "_through" for those of the autoencoder.

    Raises:
        ValueError: as `synthetic.open_editor`, and for a model that edits no clip.
    """
    options = {"num_steps": num_steps, "num_views": num_views and int(num_views), "progress": progress}
    rows: dict[str, list[dict[str, float]]] = {}
    results, wrote = {}, ""
    for name in (checkpoint, *compare):
        editor = synthetic.open_editor(name)
        check(editor, name)
        pairs = synthetic.held_out_pairs(editor, num_pairs, seed)
        own = list(chain(editor, pairs, **options))
        made = {name: own}
        if not isinstance(editor, Drafts):
            made[f"{name}, {KEPT}"] = chain(editor, pairs, keeps=True, first=own[0], **options)
            if name == checkpoint:
                made[THROUGH] = through(Autoencoder(editor), pairs)
        truths = Truths(pairs)
        scored = {row: truths.score(steps) for row, steps in made.items()}
        rows |= scored
        if name == checkpoint:
            counts, ends = (len(pairs), truths.num_still), ("", "_kept", "_through")
            results = {
                f"{key}_{index}{end}": value
                for end, steps in zip(ends, scored.values(), strict=False)
                for index, step in enumerate(steps, 1)
                for key, value in step.items()
            }
            wrote = f"\nwrote {write(pairs, own, Path(out))}" if out else ""
    text = (
        f"{counts[0]} held-out pairs, edited {EDITS} times, there and back; {counts[1]} have pixels that no edit "
        f"should touch\n{format_table(rows)}"
    )
    return text + wrote, results


def check(editor: editing.Editor | Drafts, name: str) -> None:
    """Raise a ValueError in one line for a model whose method edits no clip by its points."""
    method = None if isinstance(editor, Drafts) else editor.model.method
    if not isinstance(editor, Drafts) and (method is None or not method.edits()):
        raise ValueError(
            f"{name} edits no clip by its points, so that it cannot edit one again; this needs such as tiny"
        )


def format_table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Lay out rows as markdown, a table for each of `COLUMNS`, a column for each edit."""
    tables = []
    for key, words in COLUMNS.items():
        heads = [f"{words} after edit", *(str(index + 1) for index in range(EDITS))]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [f"| {row} | {' | '.join(f'{step[key]:.2f}' for step in steps)} |" for row, steps in rows.items()]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def write(pairs: Sequence[Pair], steps: Sequence[Videos], folder: Path, most: int = 4) -> Path:
    """Write a sheet of the first pairs: the source, what each edit made of it, and the target; and their videos."""
    rows = []
    for index, pair in enumerate(pairs[:most]):
        edits = [(f"edit {count}", videos[index]) for count, videos in enumerate(steps, 1)]
        own = [(f"source: {pair.caption}", pair.source), *edits, ("target", pair.target)]
        video.write(folder / f"repeated_{index}.mp4", figures.side_by_side(own), fps=8)
        rows += own
    return figures.save_png(folder / "repeated.png", figures.contact_sheet(rows, 5))
