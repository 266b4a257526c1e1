"""The TAP-Vid benchmark of point trackers (Doersch et al. 2022): on scenes with exact tracks, and on its own files.

On the scenes of `data/scenes/hard.py` ("moderate" and "hard": 49 frames of 480x720, 256 points each) every point is
given in one frame drawn at random in which it is visible, and all other frames count ("strided"); the tracker sees the
full size. On a file of TAP-Vid's the paper's protocol holds: videos are resized to 256x256 by mediapy's
`resize_video`, as for the published scores; "first" gives every point where it is first visible and counts the frames
after it; "strided" gives every visible point in every fifth frame and counts all frames but that one. A point that is
never visible is given nowhere and does not count.

All scores are means over clips. "precision" and "recall" are those of claims to see a point, right within 6 pixels of
the frames that the tracker saw (`metrics.claimed_visible`).
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from motionv2v import metrics, trackers
from motionv2v.data import tapvid_files
from motionv2v.data.scenes import hard
from motionv2v.tracks import Tracks, resize
from motionv2v.typing import Float, UInt8

RESOLUTION = (256, 256)  # of TAP-Vid's own files
STRIDE = 5


class Example(NamedTuple):
    """A clip, N queries (t, x, y) in its pixels, and the true tracks of the queried points, in the same order."""

    frames: UInt8[np.ndarray, "T H W 3"]
    queries: Float[np.ndarray, "N 3"]
    reference: Tracks


class Dataset(NamedTuple):
    """Clips that share a name and a query mode; `num_clips` is 0 where only reading them tells how many there are."""

    name: str
    query_mode: str
    num_clips: int
    examples: Callable[[], Iterator[Example]]


class Row(NamedTuple):
    """One row of the table: which tracker on which clips in which query mode, the number of clips, and the scores."""

    tracker: str
    dataset: str
    query_mode: str
    num_clips: int
    scores: dict[str, float]


def first_queries(tracks: Tracks) -> tuple[Float[np.ndarray, "M 3"], Tracks]:
    """Query every point where it is first visible; return the queries and the tracks of the points that ever are."""
    seen = np.flatnonzero(tracks.visible.any(axis=1))
    return _queries(tracks, seen, tracks.visible[seen].argmax(axis=1))


def strided_queries(tracks: Tracks, stride: int = STRIDE) -> tuple[Float[np.ndarray, "M 3"], Tracks]:
    """Query every point in frames 0, `stride`, 2 `stride` ... where it is visible; return queries and their tracks."""
    frames, points = np.nonzero(tracks.visible[:, ::stride].T)
    return _queries(tracks, points, frames * stride)


def _queries(tracks: Tracks, points: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, Tracks]:
    queries = np.column_stack([frames, tracks.xy[points, frames]]).astype(np.float64)
    return queries, Tracks(tracks.xy[points], tracks.visible[points])


def scene_examples(difficulty: str, num_scenes: int, seed: int) -> Iterator[Example]:
    """Draw scenes of a difficulty of `hard.DIFFICULTIES`; raises ValueError for another one."""
    for index in range(num_scenes):
        scene = hard.make_scene(difficulty, seed, index)
        yield Example(scene.frames, scene.queries, scene.tracks)


def pickle_examples(path: str, query_mode: str) -> Iterator[Example]:
    """Read a TAP-Vid pickle, resize it to 256x256 and choose queries; raises ValueError as `tapvid_files.read` does."""
    import mediapy  # late: it brings matplotlib, which nothing else here needs

    for clip in tapvid_files.read(path):
        tracks = resize(clip.tracks, clip.frames.shape[1:3], RESOLUTION)
        queries, reference = first_queries(tracks) if query_mode == "first" else strided_queries(tracks)
        if len(queries):
            # Annotations may lie a little outside the frame, where no tracker can be asked.
            queries[:, 1:] = np.clip(queries[:, 1:], 0, RESOLUTION[::-1])
            yield Example(mediapy.resize_video(clip.frames, RESOLUTION), queries, reference)


def score(tracker: trackers.Tracker, example: Example, query_mode: str) -> dict[str, float]:
    """Run a tracker on one clip and return its scores.

    Keys: average_jaccard, delta_avg, occlusion_accuracy, precision, recall (each 0 to 1; NaN where not defined: without
    a claim there is no precision), `visible_share` of the true tracks, and `seconds` of tracking.
    """
    frames, queries, reference = example
    start = time.perf_counter()
    estimated = tracker.track(frames, queries)
    seconds = time.perf_counter() - start
    given = queries[:, 0].astype(int)
    scores = metrics.tapvid(estimated, reference, given, frames.shape[1:3], query_mode)
    scores |= metrics.claimed_visible(estimated, reference, given, query_mode)
    return scores | {"visible_share": float(reference.visible.mean()), "seconds": seconds}


def mean_scores(clips: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average what `score` returns over clips; a clip in which a score is not defined is left out of that score.

    Raises ValueError where there is no clip.
    """
    if not clips:
        raise ValueError("no clip has a visible point to track")
    values = {key: np.array([clip[key] for clip in clips]) for key in clips[0]}
    return {key: float(np.mean(v[np.isfinite(v)])) for key, v in values.items() if np.isfinite(v).any()}


def entrants(name: str, modes: Sequence[str] = (), weights: str | None = None) -> dict[str, trackers.Tracker]:
    """Build the classical tracker in several modes (default: in all of them), or another one from its file of weights.

    Raises ValueError for a tracker or a mode that does not exist, and for modes of another tracker.
    """
    if name == "classical":
        return {f"{name} {mode}": trackers.get(name, mode=mode) for mode in modes or trackers.CLASSICAL_MODES}
    if modes:
        raise ValueError(f"tracker {name!r} has no modes, given {', '.join(modes)}; only 'classical' has")
    return {name: trackers.get(name, **({"checkpoint": weights} if weights else {}))}


def run(
    competitors: dict[str, trackers.Tracker],
    path: str | None = None,
    *,
    num_scenes: int = 4,
    seed: int = 7,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Row]:
    """Score named trackers on the scenes, or on the TAP-Vid pickle at `path` in both query modes.

    `progress` may wrap what is run, one item for each clip and tracker, to show it and the time that is left. Raises
    ValueError and OSError as the readers do.
    """
    if path is None:
        datasets = [
            Dataset(name, "strided", num_scenes, functools.partial(scene_examples, name, num_scenes, seed))
            for name in hard.DIFFICULTIES
        ]
    else:
        datasets = [
            Dataset(os.path.basename(path), mode, 0, functools.partial(pickle_examples, path, mode))
            for mode in ("first", "strided")
        ]
    found: dict[tuple[Dataset, str], list[dict[str, float]]] = {(d, name): [] for d in datasets for name in competitors}
    for dataset, name, example in progress(_Jobs(datasets, list(competitors))):
        found[dataset, name].append(score(competitors[name], example, dataset.query_mode))
    return [Row(name, d.name, d.query_mode, len(clips), mean_scores(clips)) for (d, name), clips in found.items()]


class _Jobs:
    """Every tracker on every clip; a clip is drawn or read once, for all trackers, and only one is in memory."""

    def __init__(self, datasets: Sequence[Dataset], names: Sequence[str]):
        self._datasets, self._names = datasets, names

    def __iter__(self) -> Iterator[tuple[Dataset, str, Example]]:
        for dataset in self._datasets:
            for example in dataset.examples():
                for name in self._names:
                    yield dataset, name, example

    def __length_hint__(self) -> int:
        # What shows progress asks for this number to tell the time that is left; 0 means that it is not known.
        return sum(dataset.num_clips for dataset in self._datasets) * len(self._names)


def table(
    name: str,
    modes: Sequence[str] = (),
    weights: str | None = None,
    path: str | None = None,
    seed: int = 7,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[str, dict[str, float]]:
    """Run what `entrants` builds through `run`; return the table as text and the scores, flat, for a json file."""
    rows = run(entrants(name, modes, weights), path, seed=seed, progress=progress)
    return format_table(rows), results(rows)


def results(rows: list[Row]) -> dict[str, float]:
    """Flatten rows for a json file: "tracker/dataset/query mode/score" -> value."""
    return {
        f"{row.tracker}/{row.dataset}/{row.query_mode}/{key}": value
        for row in rows
        for key, value in row.scores.items()
    }


def format_table(rows: list[Row]) -> str:
    """Lay out rows as markdown; scores in per cent. A score that no clip defines is shown as a dash."""
    keys = ("average_jaccard", "delta_avg", "occlusion_accuracy", "precision", "recall")
    lines = [
        "| tracker | clips | visible | queries | AJ | delta avg | OA | precision | recall | s per clip |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        scores = " | ".join(f"{100 * row.scores[key]:.1f}" if key in row.scores else "-" for key in keys)
        lines.append(
            f"| {row.tracker} | {row.num_clips} {row.dataset} | {row.scores['visible_share']:.0%} | {row.query_mode} | "
            f"{scores} | {row.scores['seconds']:.1f} |"
        )
    return "\n".join(lines)
