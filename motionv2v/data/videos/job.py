"""From one video file to its training pairs: the unit of work of `launch/prepare.py --videos`.

A video is read twice: small, to find its shots, and again at the size that is needed, one clip of a shot in memory at a
time. Each clip is tracked once; several pairs are drawn from it. The result is one file in a work folder, written whole
or not at all: what exists is never made again, so that a job that was killed goes on where it was, and two workers that
make the same video write the same bytes. All random numbers come from (seed, id of the video, clip, pair).

A video that cannot be used, for whatever reason, has a result too: a report without pairs that says why.
"""

import functools
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from motionv2v import trackers
from motionv2v.data import records
from motionv2v.data.videos import files, generator_prompts, recipes, shots, stored_clip
from motionv2v.data.videos.files import Video
from motionv2v.data.videos.reader import Reader, chunks, take
from motionv2v.files import partial
from motionv2v.tracks import Tracks
from motionv2v.video import VideoError

_open_prompts = functools.cache(generator_prompts.get)  # it may be a language model
_SHOT_SIZE = (96, 144)
"""Shots are found on pictures that just cover this size, in pixels."""


@dataclass(frozen=True)
class PairJob:
    """How pairs are made of a video.

    Attributes:
        pairs: frames, size and points of a pair, recipes and gates.
        tracker, tracker_options: name and options for `trackers.get`.
        pairs_per_clip: pairs drawn from one clip. draws: tries per pair, since gates reject some.
        max_clips: clips taken of one video, spread over it.
        clip_frames: frames of a clip; 0 means twice a pair's, which leaves room for other speeds.
        max_frames: a longer video is used up to this frame.
        crf: quality of the stored clips, see `stored_clip`. seed: of all random choices.
        generator: what `open_generator` is given to open a model that makes frames between two frames, for the recipe
            "interpolate"; "" leaves that recipe out. prompts: what it is asked for, see `generator_prompts.get`.
        unit: what pairs are made of, for lines of progress.
    """

    pairs: recipes.PairConfig = field(default_factory=recipes.PairConfig)
    tracker: str = "classical"
    tracker_options: tuple[tuple[str, Any], ...] = (("mode", "dis"),)
    pairs_per_clip: int = 4
    draws: int = 3
    max_clips: int = 4
    clip_frames: int = 0
    max_frames: int = 20_000
    crf: int = stored_clip.CRF
    seed: int = 0
    generator: str = ""
    prompts: str = "grammar"
    open_generator: Callable[[str], recipes.Generator] | None = field(default=None, compare=False)
    unit: ClassVar[str] = "videos"

    @property
    def fields(self) -> dict[str, records.Field]:
        """Return the fields of the records that are made."""
        return records.CLIP_FIELDS if self.pairs.dense else records.FIELDS

    @property
    def makes(self) -> str:
        """Return what is made, for lines of progress and reports."""
        return "clips" if self.pairs.dense else "pairs"

    def check(self) -> None:
        """Raise ValueError in one line for settings that no video could meet, before any work is done."""
        height, width = self.pairs.size
        if height % 2 or width % 2 or min(height, width) < 16:
            raise ValueError(f"size must be even numbers of at least 16 pixels (H, W), given {height}x{width}")
        for name in ("pairs_per_clip", "draws", "max_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.clip_frames and self.clip_frames < self.pairs.num_frames:
            raise ValueError(f"clip_frames={self.clip_frames} is below the {self.pairs.num_frames} frames of a pair")
        if self.generator and self.open_generator is None:
            raise ValueError(f"generator={self.generator!r} needs open_generator, which opens it")
        if self.generator and self.pairs.dense:
            raise ValueError(f"generator={self.generator!r} is for pairs, and dense tracks are of single clips")
        if self.generator:
            _open_prompts(self.prompts)
        trackers.get(self.tracker, **dict(self.tracker_options))

    def find(self, folder: str | os.PathLike, skip: str | os.PathLike, test_share: float) -> files.Found:
        """List what pairs are made of, as `files.find` does."""
        return files.find(folder, skip=skip, test_share=test_share)

    def make(self, video: Video) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
        """Make the pairs of a video, see the function `make`."""
        return make(video, self)

    def settings(self) -> dict[str, Any]:
        """Return everything that a result depends on, as JSON holds it."""
        fields = {name: value for name, value in asdict(self).items() if name != "open_generator"}
        if not self.pairs.dense:  # pairs made before there was a choice stay valid
            fields["pairs"] = {name: value for name, value in fields["pairs"].items() if name != "dense"}
        return json.loads(json.dumps({**fields, "version": records.VERSION}, default=str))


def ensure(video: Video, job: PairJob, work: str | os.PathLike) -> Path:
    """Make the result of a video unless it is there, and return its file in the work folder.

    Reading and writing that file apart (a full disk), nothing raises: every other failure becomes a report.
    """
    path = result_path(video, work)
    if is_made(video, work):
        return path
    made, report = job.make(video)
    arrays = {"report": np.array(json.dumps(report, sort_keys=True))}
    for key, record in made:
        for name, value in record.items():
            arrays[f"{key}/{name}"] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    with partial(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)
    return path


def result_path(video: Video, work: str | os.PathLike) -> Path:
    """Return where the result of a video is kept: another content or caption has another file."""
    return Path(work) / f"{video.id}-{zlib.crc32(video.caption.encode()):08x}.npz"


def is_made(video: Video, work: str | os.PathLike) -> bool:
    """Return whether a video has a result that need not be tried again."""
    path = result_path(video, work)
    return path.exists() and not read_report(path).get("retry")


def read_report(path: str | os.PathLike) -> dict[str, Any]:
    """Return the report of a result: what `make` reports; fast, for the pairs are not read."""
    with np.load(path, allow_pickle=False) as file:
        return json.loads(file["report"].item())


def read_examples(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, record) of a result, one at a time in memory; keys are unique in a data set."""
    with np.load(path, allow_pickle=False) as file:
        for key in json.loads(file["report"].item())["keys"]:
            record = {}
            fields = records.CLIP_FIELDS if f"{key}/tracks" in file else records.FIELDS
            for name, kind in fields.items():
                value = file[f"{key}/{name}"]
                record[name] = value.tobytes() if kind.dtype == "bytes" else value
                if kind.dtype == "text":
                    record[name] = value.item()
            yield key, record


def empty_report(video: Video) -> dict[str, Any]:
    """Return the report of a video that was not looked into: its `problem` is the reason."""
    counts = {"pairs": 0, "clips": 0, "frames": 0, "rejected": {}, "left_out": {}}
    return {"video": video.name, **counts, "notes": [], "keys": [], "reason": video.problem}


def make(video: Video, job: PairJob) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """Make the pairs of a video: [(key, record)] and a report.

    The report is a dict of JSON: `video`, `pairs`, `clips`, `frames` (seen), `left_out` (frames by reason, and the
    number of cuts), `rejected` (gate -> draws), `notes` (what is peculiar about the file), `reason` (why there are no
    pairs, or ""), `keys`; `retry` is True where the failure may not be the video's: another run tries it again.
    """
    report = empty_report(video)
    made: list[tuple[str, dict[str, Any]]] = []
    try:
        reader = Reader(video.path, job.pairs.size)
        report["notes"] = reader.notes
        spans = _clips(video, job, report)
        rejected = Counter()
        for index, (span, frames) in enumerate(zip(spans, take(reader, spans), strict=True)):
            found = _pairs(video, job, index, frames, rejected)
            report["clips"] += 1
            for name, pair in found:
                fps, first = reader.fps, span.start
                made.append((name, records.encode(pair, video=video.name, fps=fps, first_frame=first, crf=job.crf)))
        report["rejected"] = dict(sorted(rejected.items()))
        if not made and not report["reason"]:
            counts = ", ".join(f"{gate}: {n}" for gate, n in sorted(rejected.items()))
            report["reason"] = f"every {job.makes[:-1]} was rejected ({counts})"
    except VideoError as error:
        report["reason"] = _line(error, video)
    except Exception as error:
        # One strange file among 100,000 must not stop the others; the report names the kind of failure.
        report |= {"reason": f"{type(error).__name__}: {_line(error, video)}", "retry": True}
        made = []
    return made, report | {"pairs": len(made), "keys": [key for key, _ in made]}


def _clips(video: Video, job: PairJob, report: dict[str, Any]) -> list[range]:
    """Find the shots of a video and choose clips of them; say in the report what is left out."""
    small, needed = Reader(video.path, _SHOT_SIZE), job.pairs.num_frames
    found = shots.scan(chunks(small, 64, job.max_frames), min_frames=needed)
    report["frames"] = found.num_frames
    report["notes"] += [note for note in small.notes if note not in report["notes"]]
    if found.num_frames == job.max_frames:
        report["notes"].append(f"only the first {job.max_frames} frames are used")
    report["left_out"] = {reason: count for reason, count in sorted(found.counts.items()) if count}
    longest = job.clip_frames or (needed if job.pairs.dense else 2 * needed)
    spans = choose_clips(found.shots, needed, longest, job.max_clips)
    if not spans:
        why = ", ".join(f"{reason}: {count}" for reason, count in report["left_out"].items())
        report["reason"] = f"no shot of {needed} frames in {found.num_frames} ({why})"
    return spans


def choose_clips(found: list[range], shortest: int, longest: int, max_clips: int) -> list[range]:
    """Cut shots into clips of `shortest` to `longest` frames and choose at most `max_clips`, spread over the video.

    A shot is cut into as many clips of `longest` frames as it holds, from its start; a rest that is long enough is a
    clip too.
    """
    clips = [
        range(start, min(start + longest, shot.stop))
        for shot in found
        for start in range(shot.start, shot.stop, longest)
        if min(start + longest, shot.stop) - start >= shortest
    ]
    if len(clips) <= max_clips:
        return clips
    chosen = ((np.arange(max_clips) + 0.5) * len(clips) / max_clips).astype(int)
    return [clips[index] for index in chosen]


def _pairs(
    video: Video, job: PairJob, index: int, frames: np.ndarray, rejected: Counter
) -> Iterator[tuple[str, recipes.PairSample | recipes.ClipSample]]:
    """Track one clip and draw its pairs, or take it with dense tracks; count what the gates reject."""
    tracker = trackers.get(job.tracker, **dict(job.tracker_options))
    if job.pairs.dense:
        rng = np.random.default_rng([job.seed, zlib.crc32(video.id.encode()), index])

        def track(window: np.ndarray, start: int) -> Tracks:
            return recipes.track_densely(rng, window, trackers.for_clip(tracker, window), job.pairs)

        try:
            yield f"{video.id}_{index:03d}", recipes.dense_clip(rng, frames, track, job.pairs, video.caption)
        except recipes.Rejected as error:
            rejected[error.gate] += 1
        return
    made_up = {}
    if job.generator:
        made_up = {"generator": job.open_generator(job.generator), "prompts": _open_prompts(job.prompts)}
    number = zlib.crc32(video.id.encode())
    try:
        rng = np.random.default_rng([job.seed, number, index])
        # Points are tracked there and back: twice through the same clip.
        tracks = recipes.track_grid(rng, frames, trackers.for_clip(tracker, frames), job.pairs)
    except recipes.Rejected as error:
        rejected[error.gate] += 1
        return
    for pair in range(job.pairs_per_clip):
        # From 1 on: numpy takes [seed, number, index] and [seed, number, index, 0] for the same seed.
        rng = np.random.default_rng([job.seed, number, index, pair + 1])
        for _ in range(job.draws):
            try:
                sample = recipes.make_pair(rng, frames, tracks, tracker, job.pairs, caption=video.caption, **made_up)
            except recipes.Rejected as error:
                rejected[error.gate] += 1
                continue
            yield f"{video.id}_{index:03d}_{pair:03d}", sample
            break


def _line(error: Exception, video: Video) -> str:
    """Return what an error says, in one line, without the path that the report names already."""
    return " ".join(str(error).replace(f"{video.path}: ", "").split())
