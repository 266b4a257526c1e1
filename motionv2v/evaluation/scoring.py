"""Score what methods made of a suite's items, next to what must stand beside every number.

Outputs lie in folders of methods (`method_folders`). Rows of reference are always there: the target itself (where it is
not perfect, that is the tracker's floor), the source copied, the first frame held, and the draft of the edit, drawn
without a network (`motionv2v.draft`); without the first and the last where a protocol has no target.

Only the items that all methods have are scored. A video of another length or size is resampled, and its row says so.
What was measured once is kept, by the SHA-256 of the video and of the item's files, and the version of the metrics.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import ROOT, draft, files, progress, trackers, video
from motionv2v.evaluation import measures, method_folders, networks, sets, suite, trajan_scores
from motionv2v.evaluation.checksums import Checksums
from motionv2v.evaluation.measures import GROUPS, METRICS, Truth
from motionv2v.evaluation.networks import Loaded
from motionv2v.evaluation.protocols import PROTOCOLS, Protocol
from motionv2v.evaluation.sets import FEATURES, SETS
from motionv2v.evaluation.suite import Item, Suite
from motionv2v.typing import UInt8

REFERENCES = {
    "target": "the target itself",
    "source": "the source, copied",
    "held": "the first frame, held",
    "draft": "the draft, no network",
}
"""Rows that are always there, by the names that no method may have."""
TRACKER = "lk"
"""What tracks points again. Another one than found the suite's tracks, so that its error on the target tells."""


@dataclass
class Row:
    """One row of the table: a method, or a reference.

    Attributes:
        name: as the folder's. title: for people. about: of method.json; empty for references. folder: a method's.
        videos: of the scored items, by id: its file for the page. scores: {id: {metric: value}}.
        sets: {metric of the whole set: value and rows of features}.
        notes: {id: how the video was altered before it was measured}. missing: {id: why there is none}.
    """

    name: str
    title: str
    about: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    sets: dict[str, tuple[float, int]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    strangers: Sequence[str] = ()
    folder: Path = Path()

    @property
    def is_reference(self) -> bool:
        """Tell whether it is no method's."""
        return self.name in REFERENCES

    def mean(self, metric: str) -> tuple[float, int]:
        """Return a metric's mean over the items that have it, NaN for none, and their number.

        Of a metric of the whole set its value, and the rows of features that it was made of.
        """
        if metric in SETS:
            return self.sets.get(metric, (math.nan, 0))
        values = [each.get(metric, math.nan) for each in self.scores.values()]
        values = [value for value in values if not math.isnan(value)]
        return (float(np.mean(values)) if values else math.nan), len(values)


class Scores(NamedTuple):
    """What `score` found: the suite, the ids of the items that count, the rows, the metrics, and the tracker's name.

    `usable` is each item's share of points that count. `networks` names those that were taken, with their files, by
    group, and `digests` have these files' whole SHA-256. `about` is what stands beside the numbers of whole sets.
    `lacking` says why metrics were not measured.
    """

    suite: Suite
    ids: list[str]
    rows: list[Row]
    metrics: list[str]
    tracker: str
    usable: dict[str, float]
    networks: dict[str, str] = {}
    digests: dict[str, str] = {}
    about: dict[str, sets.About] = {}
    lacking: dict[str, str] = {}


class _Unreadable(ValueError):
    """Say why there is no output: a reason to leave its item out, as a full disk is none."""


class _Made(NamedTuple):
    """A video to be measured: what tells it from others, and how to read it, with notes on how that altered it."""

    digest: str
    read: Callable[[], tuple[UInt8[np.ndarray, "T H W 3"], list[str]]]


def score(
    of: str | Path,
    outputs: str | Path | Sequence[str | Path],
    metrics: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    tracker: str = TRACKER,
    draws: bool = True,
    weights: str | Path | None = None,
    net: str = "alex",
    clip_net: str = "ViT-B/32",
    clip_activation: str | None = None,
    i3d_source: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Scores:
    """Score outputs of methods against a suite.

    Args:
        of: the suite's folder. outputs: a folder with one folder for each method, or a method's own, or several of
            either; none of them: the rows of reference alone.
        metrics: names of `measures.METRICS`; None takes those of single videos that need no weights and, with
            `weights`, those of LPIPS and CLIP and `sets.USUAL` as far as their files are there.
        out: where kept scores and the page's videos go; None is `method_folders.place` of the outputs.
        tracker: as for `trackers.named`, tracks points again.
        draws: whether to draw the drafts, which takes some seconds for each item, once.
        weights: the folder with the networks' files (`networks`). net, clip_net, clip_activation, i3d_source: as for
            `networks.load`.
        say: called with lines on how long the rest takes.

    Raises:
        ValueError: in one line, for what is no suite or no folder, names that are taken, metrics that there are not,
            weights that are missing for what was named, and where the methods have no item in common.
    """
    outputs = [Path(each) for each in ([outputs] if isinstance(outputs, str | Path) else outputs)]
    out = method_folders.place(outputs, of) if out is None else Path(out)
    sums = Checksums(out / "kept" / "checksums.json")
    found = suite.load(of, sums.of)
    kind = PROTOCOLS[found.settings["protocol"]]
    chosen = list(metrics or _usual(kind, weights is not None))
    if unknown := [name for name in chosen if name not in METRICS]:
        raise ValueError(f"there is no metric {unknown[0]!r}; available: {', '.join(METRICS)}")
    if other := [name for name in chosen if name not in SETS and METRICS[name].group not in kind.groups]:
        raise ValueError(f"{other[0]} is not measured on items of {found.settings['protocol']}, for want of its truth")
    rows = _references(found, draws) + _methods(outputs, found, out)
    methods = [row for row in rows if not row.is_reference]
    common = [item for item in found.items if all(item.id not in row.missing for row in methods)]
    distinct = len({item.video_sha256 for item in common})  # items may share a video, and differ in their prompts
    few = {name: sets.obstacle(name, distinct, found.settings["frames"]) for name in chosen if name in SETS}
    lacking = {name: why for name, why in few.items() if why}
    groups = {name: METRICS[name].group for name in chosen if name not in lacking}
    options = {"net": net, "clip_net": clip_net, "clip_activation": clip_activation, "i3d_source": i3d_source}
    loaded, absent = networks.load_all(groups, weights, must=bool(metrics), **options)
    lacking |= absent
    if sets.TRACKER in groups.values():
        by = suite.describe(tracker)
        loaded[sets.TRACKER] = Loaded(trackers.named(tracker), f"the tracker {by}", by)
    here = [name for name in chosen if name not in lacking]
    bench = _Bench(found, out, tracker, here, loaded, sums)
    ids, usable = [], {}
    for item in progress.counted(common, "item", say):
        # Methods first: an item that one of them has, and that cannot be read, costs nothing more.
        truth = bench.truth(item)
        if all(bench.take(row, item, truth) for row in sorted(rows, key=lambda row: row.is_reference)):
            ids.append(item.id)
            usable[item.id] = bench.share(truth)
    if not ids:
        without = [f"{row.name} lacks {', '.join(list(row.missing)[:3])}" for row in methods if row.missing]
        raise ValueError(f"the methods have no item of {of} in common: {'; '.join(without)}")
    sums.save()
    for row in rows:
        row.scores = {name: values for name, values in row.scores.items() if name in ids}
    values, about = bench.sets.distances(kind.true, [row.name for row in rows], ids, tuple(REFERENCES))
    for row in rows:
        row.sets = {metric: (value, about[metric].rows) for metric, value in values[row.name].items()}
    words = {group: network.words for group, network in loaded.items()}
    digests = {group: network.digest for group, network in loaded.items()}
    # What was asked for by its name has a column, with or without numbers.
    shown = chosen if metrics else here
    return Scores(found, ids, rows, shown, suite.describe(tracker), usable, words, digests, about, lacking)


def _usual(kind: Protocol, has_weights: bool) -> list[str]:
    """List the metrics that are measured where none is named."""
    usual = [name for name in METRICS if name in sets.USUAL or METRICS[name].group in kind.groups]
    return [name for name in usual if has_weights or METRICS[name].group not in networks.GROUPS]


def _references(found: Suite, draws: bool) -> list[Row]:
    """Return the rows that are always there; a held frame is itself what Motion Prompting is given."""
    names = [name for name in REFERENCES if draws or name != "draft"]
    if not any("source.mp4" in item.files for item in found.items):
        names.remove("source")
    if PROTOCOLS[found.settings["protocol"]].true != "target":
        names = [name for name in names if name not in ("target", "draft")]
    return [Row(name, REFERENCES[name]) for name in names]


def _methods(outputs: Sequence[Path], found: Suite, out: Path) -> list[Row]:
    """List the methods, and what each of them lacks."""
    rows, ids = [], [item.id for item in found.items]
    for method in method_folders.find(outputs, ids, out, tuple(REFERENCES)):
        missing = {name: "no video" for name in ids if method_folders.output(method.folder, name) is None}
        told = {"about": method.about, "strangers": method.strangers, "folder": method.folder}
        rows.append(Row(method.name, method.name, missing=missing, **told))
    if outputs and not rows:
        places = " and ".join(map(str, outputs))
        raise ValueError(f"{places}: no method has a folder there; expected such as METHOD/{ids[0]}.mp4")
    return rows


class _Bench:
    """Measures videos, or finds what was measured before in a folder of kept scores."""

    def __init__(
        self,
        found: Suite,
        out: Path,
        tracker: str,
        metrics: Sequence[str],
        loaded: dict[str, Loaded],
        sums: Checksums,
    ):
        files.check_place(out, is_folder=True)
        self._sums = sums
        self._shape = (found.settings["frames"], tuple(found.settings["size"]))
        self._out, self._items = out, found.items
        self._tracker, self._name = trackers.named(tracker), suite.describe(tracker)
        self.groups = [name for name in GROUPS if any(METRICS[metric].group == name for metric in metrics)]
        self.sets = sets.Comparison([metric for metric in metrics if metric in SETS], loaded, out / "kept", self._shape)
        self._loaded = loaded
        for group in loaded.keys() & {"clip", "vbench"}:
            loaded[group].network.folder = out / "kept"

    def truth(self, item: Item) -> Truth:
        """Return what an item's videos are measured against, with the points that count if they are known."""
        known = self._kept(self._usable_key(item))
        nets = {group: self._loaded[group].network for group in self._loaded}
        known = None if known is None else np.array(known, bool)
        clip = nets.get("clip", nets.get("vbench"))
        return Truth(item, self._tracker, known, nets.get("lpips"), clip, self._other(item), nets.get("trajan"))

    def _other(self, item: Item) -> Item | None:
        """Return the next item in turn that is made of another video."""
        at = self._items.index(item)
        turned = self._items[at:] + self._items[:at]
        return next((each for each in turned if each.video_sha256 != item.video_sha256), None)

    def share(self, truth: Truth) -> float:
        """Return the share of an item's points that count, NaN where points are not asked for; keep which they are."""
        if not set(measures.TRACKED) & set(self.groups):
            return math.nan
        key = self._usable_key(truth.item)
        if self._kept(key) is None:
            self._keep(key, truth.usable.tolist())
        return float(truth.usable.mean())

    def take(self, row: Row, item: Item, truth: Truth) -> bool:
        """Score a row's video of an item; False where it cannot be read, which the row then says."""
        try:
            made = _reference(row.name, item) if row.is_reference else self._made(row.folder, item)
            found, notes = self._measure(row, item, truth, made)
        except _Unreadable as error:
            row.missing[item.id] = str(error).replace(f"{row.folder.parent}/", "")
            return False
        row.scores[item.id], row.notes[item.id] = found, notes
        return True

    def _measure(self, row: Row, item: Item, truth: Truth, made: _Made) -> tuple[dict[str, float], list[str]]:
        """Return a video's scores and notes, keep its features, and see to it that the page has a video to show."""
        found, notes, loaded = {}, [], functools.cache(made.read)
        for name in self.groups:
            key = self._key(name, GROUPS[name].version, made.digest, item)
            if (part := self._kept(key)) is None:
                frames, notes = loaded()
                part = {"scores": GROUPS[name].measure(frames, truth), "notes": notes}
                self._keep(key, part)
            found, notes = found | part["scores"], part["notes"]
        for name in self.sets.names:
            notes = self.sets.take(row.name, item.id, name, made.digest, loaded)
        shown = self._out / "videos" / row.name / item.id / f"{made.digest[:12]}.mp4"
        if not shown.exists():
            for old in shown.parent.glob("*.mp4"):
                old.unlink()
            video.write(shown, loaded()[0], item.fps, notify=lambda line: None)
        row.videos[item.id] = shown
        return found, notes

    def _made(self, method: Path, item: Item) -> _Made:
        """Return what a method made of an item, as long and as large as the target."""
        path = method_folders.output(method, item.id)
        if path is None:
            raise _Unreadable("no video")

        def resampled() -> tuple[UInt8[np.ndarray, "T H W 3"], list[str]]:
            try:
                return method_folders.read(path, *self._shape)
            except ValueError as error:
                raise _Unreadable(str(error)) from error

        return _Made(suite.digest(path, self._sums.of), resampled)

    def _usable_key(self, item: Item) -> Path:
        return self._key("usable", GROUPS["tracks"].version, "", item)

    def _key(self, what: str, version: int, content: str, item: Item) -> Path:
        """Return where a score is kept: everything that it depends on is in the name."""
        by = self._name if what in (*measures.TRACKED, "usable", "fidelity") else ""
        by = self._loaded[what].digest if what in self._loaded else by
        by = f"{by} {self._name}" if what == "trajan" else by
        parts = [what, version, content, by, item.fps, sorted(item.files.items())]
        parts += [item.prompt] if what == "clip" else []
        if what == "fidelity":
            parts += [None if (other := self._other(item)) is None else other.files["source_tracks.npz"]]
        return self._out / "kept" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"

    def _kept(self, path: Path) -> Any:
        """Return what is kept, None for nothing and for what cannot be read; null stands for NaN."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if isinstance(content, dict):
            content["scores"] = {k: math.nan if v is None else v for k, v in content["scores"].items()}
        return content

    def _keep(self, path: Path, content: Any) -> None:
        if isinstance(content, dict):
            scores = {name: None if math.isnan(value) else value for name, value in content["scores"].items()}
            content = content | {"scores": scores}
        files.write(path, json.dumps(content))


def _reference(name: str, item: Item) -> _Made:
    """Return a row of reference's video of an item."""
    of = item.files.get("source.mp4") or item.files["source.png"]
    if name == "target":
        return _Made(item.files["target.mp4"], lambda: (item.target(), []))
    if name == "source":
        return _Made(of, lambda: (item.source(), []))
    if name == "held":
        of = item.files.get("first.png", of)
        frames = lambda: np.repeat(item.first()[None], len(item.source()), axis=0)  # noqa: E731
        return _Made(_joined("held", of), lambda: (frames(), []))
    paths = [item.files.get("source_tracks.npz", ""), item.files["target_tracks.npz"]]
    return _Made(_joined("draft", _drawn_by(), of, *paths), lambda: (_drafted(item), []))


def _drafted(item: Item) -> UInt8[np.ndarray, "T H W 3"]:
    tracks = (item.source_tracks(), item.target_tracks())
    return np.asarray(draft.render(item.source(), *tracks, notify=lambda line: None).frames)


def _joined(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _drawn_by() -> str:
    """Tell one draft's source from another's: where it changed, drafts are drawn anew."""
    return _joined(*(files.sha256(path) for path in sorted((ROOT / "draft").glob("*.py"))))


def protocol(scores: Scores, metric: str) -> dict[str, Any]:
    """Return what a number needs beside it to be compared with another: how it was measured, and on what."""
    settings = scores.suite.settings
    told = {name: settings[name] for name in ("protocol", "frames", "size", "fps", "seed")}
    group = METRICS[metric].group
    how = FEATURES[SETS[metric].features] if metric in SETS else GROUPS[group]
    told |= {"metric": METRICS[metric].words, "version": how.version, "items": len(scores.ids)}
    told |= {"suite_items": len(scores.suite.items), "resize": "area or cubic, stretched", "average": "over items"}
    if group in measures.TRACKED:
        share = np.nanmean(list(scores.usable.values()))
        told |= {"num_points": settings["num_points"], "suite_tracker": settings["tracker"], "tracker": scores.tracker}
        told |= {"usable_points": round(float(share), 4), "trackable": list(measures.TRACKABLE)}
    if group == "fidelity":
        told |= {"num_points": settings["num_points"], "suite_tracker": settings["tracker"], "tracker": scores.tracker}
    if group == "trajan":
        told |= {"tracker": scores.tracker, "num_points": trajan_scores.POINTS}
    if group in scores.networks:
        told["tracker" if group == sets.TRACKER else "network"] = scores.networks[group]
        told["digest"] = scores.digests[group]
    if metric in scores.lacking:
        told["not_measured"] = scores.lacking[metric]
    if metric in scores.about:
        rows, floor, notes = scores.about[metric]
        told |= {"average": "none, a distance of sets", "rows": rows, "divisor": SETS[metric].divisor or None}
        told |= {"network_resize": how.resize, "floor": None if math.isnan(floor) else floor, "notes": list(notes)}
    return told


def entries(scores: Scores) -> Iterator[dict[str, Any]]:
    """Yield each number as a record: {row, metric, value, unit, n, protocol}; value None where no item has it."""
    for row in scores.rows:
        for metric in scores.metrics:
            value, count = row.mean(metric)
            yield {
                "row": row.name,
                "metric": metric,
                "value": None if math.isnan(value) else value,
                "unit": METRICS[metric].unit,
                "n": count,
                "protocol": protocol(scores, metric),
            }
