"""From a folder of videos to a data set of training pairs: `launch/prepare.py --videos=DIR --out=DIR`.

With `--movi=DIR` in place of `--videos` the same from MOVi scenes, whose tracks are exact: read "scene" for "video".

What is in the folder that is written:

    motion_pairs/<version>/   the data set: ArrayRecord files, features.json, dataset_info.json
    work/                     one file per video with its pairs; may be deleted when no videos will be added
    report.txt, report.json   each video: its pairs, what the gates rejected, or why it was not used, and how its
                              caption was altered; the captions that no video has
    contact_sheet.png         some pairs with their tracks drawn
    settings.json             what the pairs were made with; packed.json: of which results the data set consists

First all videos are worked on, on any Apache Beam runner, then the results are packed into the data set. Killed
anywhere and started again, it goes on, and ends with the same data set byte for byte. Started again with more videos
in the folder, it makes theirs and packs anew.
"""

import functools
import json
import logging
import os
import shlex
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging as absl_logging

from motionv2v import figures, files
from motionv2v.data import stored_pairs
from motionv2v.data.movi.job import MoviJob
from motionv2v.data.videos import recipes
from motionv2v.data.videos.files import Found, Video
from motionv2v.data.videos.job import PairJob, empty_report, is_made, read_report, result_path
from motionv2v.progress import clock
from motionv2v.tracks import Tracks

DATASET = "motion_pairs"
LOCAL = "DirectRunner"
KINDS = {"videos": PairJob, "movi": MoviJob}
"""What pairs are made of, and the job that makes them."""
_POLL = 10.0  # seconds between two lines of progress


def choose_source(out: str | None, **sources: str | None) -> tuple[str, str]:
    """Return the one kind of `KINDS` that has a folder, and the folder; raise ValueError for none, two, or no `out`."""
    given = [(kind, folder) for kind, folder in sources.items() if folder]
    if not out or len(given) != 1:
        raise ValueError("stage pairs needs --out=DIR and one of " + ", ".join(f"--{kind}=DIR" for kind in KINDS))
    return given[0]


def make_job(
    size: str, num_points: int, tracker: str, tracker_mode: str, kind: str = "videos", **settings: Any
) -> PairJob:
    """Return a job from what a command line gives: `size` as "HxW", the rest fields of PairConfig and of PairJob.

    `kind` is of `KINDS`. `tracker_mode` counts for the classical tracker only. Raises ValueError for a size that is no
    "HxW".
    """
    sides = size.lower().split("x")
    if len(sides) != 2 or not all(side.strip().isdigit() for side in sides):
        raise ValueError(f"size must be HEIGHTxWIDTH such as 480x720, given {size!r}")
    own = {name: settings.pop(name) for name in tuple(settings) if name in PairJob.__dataclass_fields__}
    settings |= {"num_points": num_points, "min_points": min(recipes.PairConfig.min_points, num_points)}
    pairs = recipes.PairConfig(size=(int(sides[0]), int(sides[1])), **settings)
    options = (("mode", tracker_mode),) if tracker == "classical" else ()
    return KINDS[kind](pairs, tracker=tracker, tracker_options=options, open_generator=open_generator, **own)


@functools.cache
def open_generator(folder: str) -> recipes.Generator:
    """Load the model that makes frames between two frames, once per worker process; see `interpolator.load`."""
    # Only where it is asked for: workers that track need no jax.
    from motionv2v.editing import interpolator

    return interpolator.load(folder)


def write_pairs(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    job: PairJob,
    *,
    runner: str = LOCAL,
    pipeline_options: str = "",
    num_workers: int = 0,
    test_share: float = 0.0,
    preview: int = 4,
    say: Callable[[str], None] = print,
) -> Path:
    """Make the data set of a folder of videos, see the module, and return the folder written.

    Args:
        folder: the videos, or the scenes (`movi.job.find`). out: where to write; on a cluster both are folders that
            all workers share.
        job: how pairs are made.
        runner: a Beam runner: "DirectRunner" on this machine, "FlinkRunner", "DataflowRunner", "SparkRunner".
        pipeline_options: options of the runner, as on a command line.
        num_workers: processes on this machine (DirectRunner); 0 is one per core.
        test_share: share of the videos that becomes split "test".
        preview: pairs on the contact sheet; 0 writes none.
        say: called with lines of progress.

    Raises:
        ValueError: for settings that cannot be met, a folder that holds other pairs, or when not one pair was made.
    """
    job.check()
    builder = _import_builder()
    out = Path(out)
    found = job.find(folder, out, test_share)
    videos = found.videos
    _check_settings(out, job)
    work, options = out / "work", shlex.split(pipeline_options)
    if runner == LOCAL:
        options = _local_options(num_workers, options)
    usable = [video for video in videos if not video.problem]
    todo = [video for video in usable if not is_made(video, work)]
    say(f"{folder}: {len(videos)} {job.unit}, {len(usable) - len(todo)} of them made already; {_describe(job)}")
    if todo:
        with _progress(todo, job.unit, work, say):
            # Workers side by side would fight for the cores if OpenCV used all of them in each.
            alone = runner == LOCAL and not any("direct_num_workers" in option for option in options)
            builder.make_results(todo, job, work, runner, options, threads=-1 if alone else 1)
    reports = _collect(videos, work)
    _write_reports(out, reports, job, found)
    made = [video for video, report in zip(videos, reports, strict=True) if report["pairs"]]
    if not made:
        raise ValueError(f"not one of {len(videos)} {job.unit} gave a {job.makes[:-1]}; {out / 'report.txt'} says why")
    _pack(builder, made, job, work, out, None if runner == LOCAL else runner, options, say)
    if preview:
        figures.save_png(out / "contact_sheet.png", contact_sheet(out, made[0].split, preview))
    say(_summary(reports, job, found, out))
    return out


def contact_sheet(folder: str | os.PathLike, split: str = "train", count: int = 4, points: int = 16) -> np.ndarray:
    """Draw pairs of a data set, spread over it: source above target, the same points in the same colours.

    Returns a uint8 picture [H W 3]. Of each pair at most `points` points are drawn, those seen longest in both clips;
    edited ones are larger. Of single clips with dense tracks, some from all over the picture.
    """
    source, rows = stored_pairs.PairSource(folder, split), []
    for index in np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)):
        sample, video = source[index], source.record(index)["video"]
        name = video.decode() if isinstance(video, bytes) else str(video)
        seen = np.minimum(sample["source_visible"].sum(1), sample["target_visible"].sum(1))
        is_pair = sample["source"] is not sample["target"]
        if is_pair:
            chosen = np.sort(np.argsort(-seen, kind="stable")[:points])
            chosen = chosen[seen[chosen] > 0]
        else:
            long = np.flatnonzero(2 * seen >= seen.max())
            chosen = long[:: max(1, len(long) // (4 * points))]
        for side in ("source", "target") if is_pair else ("source",):
            tracks = Tracks(sample[f"{side}_xy"][chosen], sample[f"{side}_visible"][chosen])
            drawn = figures.draw_tracks(sample[side], tracks, highlight=sample["edited"][chosen], hidden=False)
            label = f"{side + ', ' if is_pair else ''}{sample['kind']}: {name}" + (
                f' "{sample["caption"]}"' if side == "source" else ""
            )
            rows.append((label, drawn))
    return figures.contact_sheet(rows)


def _import_builder() -> Any:
    """Import what needs the extra; Beam warns on import about clouds that are not in use."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from motionv2v.data.videos import beam
    except ImportError as error:
        raise ValueError(f'data sets of videos need the extra "data": pip install -e ".[data]" ({error})') from None
    finally:
        logging.disable(level)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    if not absl_logging.level_debug():
        absl_logging.set_verbosity(absl_logging.WARNING)  # TFDS tells of each of its steps
    return beam


def _check_settings(out: Path, job: PairJob) -> None:
    """Keep what the pairs are made with beside them; refuse a folder with pairs that were made with something else."""
    path, settings = out / "settings.json", job.settings()
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        differ = sorted(name for name in settings | known if known.get(name) != settings.get(name))
        if differ:
            raise ValueError(f"{out} holds pairs made with other settings ({', '.join(differ)}); use an empty folder")
    files.write(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _local_options(num_workers: int, options: Sequence[str]) -> list[str]:
    """Return the options with which the local runner uses `num_workers` processes."""
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers < 2 or any("direct_" in option for option in options):
        return list(options)
    quiet = "--default_sdk_harness_log_level=ERROR"
    return [*options, f"--direct_num_workers={num_workers}", "--direct_running_mode=multi_processing", quiet]


def _describe(job: PairJob) -> str:
    height, width = job.pairs.size
    clip = f"{job.pairs.num_frames} frames of {width}x{height}, {job.pairs.dense or job.pairs.num_points} points"
    if job.pairs.dense:
        return f"up to {job.max_clips} clips of {clip} each"
    return f"up to {job.pairs_per_clip * job.max_clips} pairs of {clip} each"


@contextmanager
def _progress(todo: Sequence[Video], unit: str, work: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Say every few seconds how many are done and how long the rest will take, whoever works on them."""
    names, stop, start = {result_path(v, work).name for v in todo}, threading.Event(), time.monotonic()

    def count() -> int:
        return len(names.intersection(os.listdir(work))) if work.is_dir() else 0

    def watch() -> None:
        while not stop.wait(_POLL):
            done = count()
            if done:
                left = (time.monotonic() - start) / done * (len(names) - done)
                say(f"{done}/{len(names)} {unit}, {clock(left)} left")

    thread = threading.Thread(target=watch, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    say(f"{count()}/{len(names)} {unit} in {clock(time.monotonic() - start)}")


def _collect(videos: Sequence[Video], work: Path) -> list[dict[str, Any]]:
    def report(video: Video) -> dict[str, Any]:
        if video.problem:
            found = empty_report(video)
        else:
            found = read_report(result_path(video, work))
        # Not of the result, which depends on the caption's words alone and not on how they were written.
        return found | {"notes": [*video.notes, *found["notes"]]}

    with ThreadPoolExecutor(16) as pool:  # the results may be far away
        return list(pool.map(report, videos))


def _pack(
    builder: Any,
    videos: Sequence[Video],
    job: PairJob,
    work: Path,
    out: Path,
    runner: str | None,
    options: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Pack results into the data set, unless it consists of just these; the old one stays until the new is whole."""
    record = {result_path(v, work).name: v.split for v in videos}
    packed, final, building = out / "packed.json", out / DATASET, out / ".building"
    if packed.exists() and final.exists() and json.loads(packed.read_text(encoding="utf-8")) == record:
        say(f"{final} is complete")
        return
    shutil.rmtree(building, ignore_errors=True)
    say(f"packing the pairs of {len(videos)} {job.unit}")
    builder.build(videos, job, work, building, runner=runner, options=options)
    packed.unlink(missing_ok=True)
    files.move(building / DATASET, final)
    shutil.rmtree(building, ignore_errors=True)
    files.write(packed, json.dumps(record, indent=0, sort_keys=True) + "\n")


def _write_reports(out: Path, reports: Sequence[dict[str, Any]], job: PairJob, found: Found) -> None:
    gates = Counter()
    for report in reports:
        gates.update(report["rejected"])
    public = [{k: v for k, v in report.items() if k != "keys"} for report in reports]
    total = {"videos": len(reports), "used": sum(r["pairs"] > 0 for r in reports)}
    total["pairs"] = sum(report["pairs"] for report in reports)
    full = {**total, "rejected": dict(sorted(gates.items())), "other_files": found.others}
    full |= {"captions_not_used": found.unused, "by_video": public}
    files.write(out / "report.json", json.dumps(full, indent=1, sort_keys=True) + "\n")
    lines = [f"{total['pairs']} {job.makes} from {total['used']} of {total['videos']} {job.unit}"]
    lines += [f"rejected draws: {', '.join(f'{gate} {n}' for gate, n in sorted(gates.items())) or 'none'}"]
    if found.others:
        lines.append(f"other files: {', '.join(f'{n} {suffix}' for suffix, n in sorted(found.others.items()))}")
    lines += [f"caption not used: {line}" for line in found.unused]
    for report in public:
        rejected = ", ".join(f"{gate} {n}" for gate, n in report["rejected"].items())
        what = f"{report['pairs']} {job.makes} from {report['clips']} clips"
        what = what if report["pairs"] else f"not used: {report['reason']}"
        notes = [f"rejected: {rejected}"] * bool(rejected and report["pairs"]) + report["notes"]
        lines.append(f"{report['video']}: {'; '.join([what, *notes])}")
    files.write(out / "report.txt", "\n".join(lines) + "\n")


def _summary(reports: Sequence[dict[str, Any]], job: PairJob, found: Found, out: Path) -> str:
    made, unused = sum(report["pairs"] for report in reports), sum(not report["pairs"] for report in reports)
    captions = f" and {len(found.unused)} captions" if found.unused else ""
    unit = f"{job.unit}{captions}"
    return f"{made} {job.makes} in {out}; {unused} of {len(reports)} {unit} not used, see {out / 'report.txt'}"
