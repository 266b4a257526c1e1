"""The input pipeline: where the time of a pair goes, and whether training waits for it. Table `data` of `run.py`.

Pairs are scenes drawn on the fly or, with `--dataset`, stored ones. 40 pairs/s per core is the least that is wanted of
scenes of 17x64x64, and 2 of stored pairs of 49x480x720.

Then the training loop itself runs on cached latents and on stored clips, and tells the share of its time that it waited
for batches. On a CPU the workers take the cores that the step computes on, so a step there is longer the more of them
there are; on an accelerator they do not.
"""

import atexit
import contextlib
import json
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rows
from absl import flags
from harness import number, print_table

from motionv2v.data import batches, buckets, latents, records
from motionv2v.data.scenes import drawn_pairs
from motionv2v.data.stored_pairs import PairSource
from motionv2v.data.videos import stored_clip
from motionv2v.data.videos.recipes import ClipSample
from motionv2v.devices import program_cache
from motionv2v.tracks import Tracks
from motionv2v.training import dataset, loop, tasks

SAMPLES, BATCH, POINTS = 64, 8, 16
DENSE = (1024, 16384)
"""Tracks of a clip that are stored for Motion Prompting: of drawn ones, and of videos (the paper's number)."""
LATENTS_5B, TEXT_5B = (13, 60, 90), (226, 4096)
STEP_5B = 3.2
"""Seconds of a 5B training step of one sample on each device that this project aims at on an H200: no measurement."""


class StoredClips:
    """Drawn pairs as a data set stores them: their clips encoded, in memory; read by decoding (grain's protocol)."""

    def __init__(self, scene: Any, count: int):
        drawn = [drawn_pairs.SyntheticSource(scene)[index] for index in range(count)]
        self._records = [p | {name: stored_clip.encode(p[name]) for name in ("source", "target")} for p in drawn]

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> dict[str, Any]:
        """Return a pair as it is stored."""
        return self._records[int(index)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return records.decode(self.record(index))


class DenseClips(StoredClips):
    """Drawn clips with dense tracks, stored as Motion Prompting's data sets store them."""

    def __init__(self, scene: Any, count: int):
        self._records = []
        for sample in (drawn_pairs.SyntheticSource(scene)[index] for index in range(count)):
            tracks = Tracks(sample["target_xy"], sample["target_visible"])
            clip = ClipSample(sample["target"], tracks, np.arange(scene.num_frames), sample["caption"])
            self._records.append(records.encode(clip, video="drawn", fps=24))


class Fed(tasks.DenoiserTask):
    """The control branch's training without its probe, on the stream that is measured."""

    def __init__(self, config: Any, stream: Callable[[], Any]):
        super().__init__(config)
        self._stream = stream

    def dataset(self, split: str = "train") -> Any:
        """Open the stream."""
        return self._stream()

    def probe(self, key: Any, params: Any) -> dict[str, Any]:
        """Measure nothing."""
        return {}


def print_data(options: Namespace) -> None:
    """Print the tables."""
    flags.FLAGS.mark_as_parsed()  # grain reads absl's flags when it starts workers
    config = rows.make_config("tiny")
    config.data.latents = ""
    stored = PairSource(options.dataset, "train") if options.dataset else None
    shape = stored[0]["source"].shape[:3] if stored else (config.data.num_frames, *config.data.size)
    config.data.update({"num_frames": shape[0], "size": tuple(shape[1:])})
    config.data.scene.num_points = POINTS
    scenes = drawn_pairs.SyntheticSource(dataset.scene_config(config))
    clips = stored or StoredClips(dataset.scene_config(config), SAMPLES)
    count = 2 if options.quick else 48
    length, rng = config.data.text_length, np.random.default_rng(0)
    prepare = {"prepare": lambda sample: batches.Prepare(length).random_map(sample, rng)}
    fit = {"fit": lambda sample: buckets.Fit(shape, POINTS).random_map(sample, rng)}
    read = {"read": lambda index: clips.record(index % len(clips)), "decode": records.decode}
    found = {"stored pairs": _stages(read | fit | prepare, count)}
    if not stored:
        drawn = {"drawn scenes": _stages({"draw": scenes.__getitem__} | prepare, count)}
        for kind, real, share in (("drawn scenes with drafts", 0.0, 1), ("with drafts found in the clip", 1.0, 8)):
            drafted = replace(scenes, has_drafts=True, real_drafts=real)
            drawn[kind] = _stages({"draw": drafted.__getitem__} | prepare, max(1, count // share))
        found = drawn | found
        for num_tracks in DENSE:
            found |= _dense(scenes.config, prepare, num_tracks, max(1, count // (num_tracks // DENSE[0])))
    head = [f"{'x'.join(map(str, shape))}, {POINTS} points", "pairs/s of CPU time", "ms of CPU time a pair"]
    print_table(head, [[kind, *cells] for kind, cells in found.items()], options.markdown)
    with tempfile.TemporaryDirectory() as name:
        _print_waiting(options, config, clips, Path(name))
        _print_5b(options, Path(name) / "5b")


def _dense(scene: Any, prepare: dict[str, Callable[[Any], Any]], num_tracks: int, count: int) -> dict[str, list[str]]:
    """Measure clips with dense tracks, an eighth of which a sample shows at most, as drawn and as stored."""
    scene = replace(scene, dense=True, num_points=num_tracks, min_points=num_tracks)
    drawn, clips = drawn_pairs.SyntheticSource(scene), DenseClips(scene, min(8, count))
    fit, rng = buckets.Fit((scene.num_frames, *scene.size), num_tracks // 8, num_tracks // 16), np.random.default_rng(0)
    stages = {"read": lambda index: clips.record(index % len(clips)), "decode": records.decode}
    stages |= {"fit": lambda sample: fit.random_map(sample, rng)} | prepare
    found = {"drawn": {"draw": drawn.__getitem__} | prepare, "stored": stages}
    return {f"{kind} clips with {num_tracks:,} tracks": _stages(steps, count) for kind, steps in found.items()}


def _stages(stages: dict[str, Callable[[Any], Any]], count: int) -> list[str]:
    """Take pairs through the stages one after the other; CPU time, which a busy machine stretches less."""
    seconds = dict.fromkeys(stages, 0.0)
    for index in range(count + 1):
        value: Any = index
        for name, stage in stages.items():
            start = time.process_time()
            value = stage(value)
            seconds[name] += (time.process_time() - start) * (index > 0)  # the first pays for what is loaded once
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {1e3 * s / count:.1f} ({s / total:.0%})" for name, s in seconds.items())
    return [number(count / total), parts]


def _print_waiting(options: Namespace, config: Any, stored: Any, folder: Path) -> None:
    steps, count, table = (2, 2, []) if options.quick else (24, 40, [])
    config.train.update({"steps": steps, "log_every": steps, "checkpoint_every": 0, "probe_every": 0})
    config.train.batch_size = BATCH
    shape = (config.data.num_frames, *config.data.size)
    (folder / "latents").mkdir()
    _write_latents(folder / "latents", SAMPLES, rows.latent_grid(config), config.data.text_length)
    # One compilation for all numbers of workers. jax goes on writing there until the process ends.
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    program_cache.use_cache(cache)
    settings = {"batch_size": BATCH, "seed": 0, "prefetch": 2}
    vary = latents.Vary(config.data.caption_dropout, config.data.swap)
    prepare = batches.Prepare(config.data.text_length, config.data.caption_dropout)
    fitted = settings | {"buckets": [shape], "num_points": POINTS}
    streams = {
        "cached latents": partial(batches.make_dataset, latents.LatentSource(folder / "latents"), vary, **settings),
        "stored clips": partial(batches.mix, {"stored": stored}, {"stored": 1.0}, prepare, **fitted),
    }
    for kind, stream in streams.items():
        for workers in (0,) if options.quick else (0, 1, 2):
            alone = _rate(stream(num_workers=workers), count)
            told = _train(config, partial(stream, num_workers=workers))
            whole = BATCH / told["samples_per_second"]
            step = whole * (1 - told["data_wait"])
            cells = [number(alone), number(whole), number(step), f"{told['data_wait']:.1%}", number(alone * step)]
            table.append([f"{kind}, {workers} workers", *cells])
            print(f"  {table[-1]}", file=sys.stderr, flush=True)
    head = [f"batches of {BATCH}, {'x'.join(map(str, shape))}", "batches/s alone", "s a step", "of it at work"]
    print_table([*head, "waiting", "batches a step alone"], table, options.markdown)


def _write_latents(folder: Path, count: int, grid: tuple[int, int, int], length: int, text: bool = False) -> None:
    """Write random latents of pairs and, with `text`, embeddings of the 5B model's size."""
    names = ("target", "target_tracks", "source_tracks", "source_video")
    videos = {f"{name}_latents": rows.normal(name, count, *grid, 16).astype(np.float16) for name in names}
    tokens = np.random.default_rng(0).integers(3, 259, (count, length)).astype(np.int32)
    latents.write_shard(folder, 0, videos | {"tokens": tokens, "null_tokens": np.full_like(tokens, 46)})
    if text:
        latents.text_folder(folder).mkdir()
        embeddings = rows.normal("text", count, *TEXT_5B).astype(np.float16)
        latents.write_array(latents.text_folder(folder) / "00000.npy", embeddings)
        latents.write_array(latents.text_folder(folder) / latents.NULL, embeddings[0])


def _train(config: Any, stream: Callable[[], Any]) -> dict[str, float]:
    """Run the training loop on a stream; return what it tells of its last steps."""
    # What the loop says does not belong among the tables.
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(sys.stderr):
        loop.train(config, workdir, Fed(config, stream))
        lines = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(told for told in map(json.loads, reversed(lines)) if "data_wait" in told)


def _rate(stream: Any, count: int) -> float:
    """Return a pipeline's batches per second when nothing else is asked of the machine."""
    opened: Iterator[Any] = iter(stream)
    try:
        for _ in range(8):  # what lies ready when the clock starts does not count
            next(opened)
        start = time.perf_counter()
        for _ in range(count):
            next(opened)
        return count / (time.perf_counter() - start)
    finally:
        opened.close()


def _print_5b(options: Namespace, folder: Path) -> None:
    """Print how fast the 5B model's cached samples are read, beside what training wants, which is arithmetic."""
    folder.mkdir()
    count = BATCH if options.quick else 4 * BATCH
    _write_latents(folder, count, LATENTS_5B, TEXT_5B[0], text=True)
    source, table = latents.LatentSource(folder, text=True), []
    size = sum(array.nbytes for array in source[0].values()) * BATCH
    for workers in (0,) if options.quick else (0, 1, 2):
        settings = {"batch_size": BATCH, "seed": 0, "prefetch": 1, "num_workers": workers}
        vary = latents.Vary(0.5, 0.5)
        found = _rate(batches.make_dataset(source, vary, **settings), 2 if options.quick else 40)
        table.append([f"{workers} workers", number(found), f"{1 / STEP_5B:.2f}", f"{1 / STEP_5B / found:.0%}"])
    head = [f"cached samples of the 5B model, {size / 1e6:.0f} MB a batch of {BATCH}, from the file cache"]
    print_table([*head, "batches/s", f"wanted where a step takes {STEP_5B} s", "share"], table, options.markdown)
