"""Does input starve the device? What `data.py --train` measures: batches a second beside the training steps they feed.

The training loop itself runs, and tells the share of its time that it waited for batches. On a CPU the workers take the
cores that the step computes on, so a step there is longer the more of them there are; on an accelerator they do not.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from against_diffusers import number, print_table

SAMPLES = 64
LATENTS_5B, TEXT_5B = (13, 60, 90), (226, 4096)
STEP_5B = 3.2
"""Seconds of a 5B training step of one sample on each device that this project aims at on an H200: no measurement."""


class StoredClips:
    """Drawn pairs as a data set stores them: their clips encoded, in memory; read by decoding (grain's protocol)."""

    def __init__(self, scene: Any, count: int):
        from motionv2v.data.scenes import pairs
        from motionv2v.data.videos import stored_clip

        drawn = [pairs.SyntheticSource(scene)[index] for index in range(count)]
        clips = ("source", "target")
        self._records = [pair | {name: stored_clip.encode(pair[name]) for name in clips} for pair in drawn]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from motionv2v.data import records

        return records.decode(self._records[int(index)])


def write_latents(folder: Path, count: int, grid: tuple[int, int, int], length: int, text: bool = False) -> None:
    """Write random latents of `count` pairs (t, h, w), and with `text` embeddings of the 5B model's size."""
    from motionv2v.data import latents

    rng = np.random.default_rng(0)
    names = ("target", "target_tracks", "source_tracks", "source_video")
    videos = {
        f"{name}_latents": rng.standard_normal((count, *grid, 16), np.float32).astype(np.float16) for name in names
    }
    tokens = rng.integers(3, 259, (count, length)).astype(np.int32)
    latents.write_shard(folder, 0, videos | {"tokens": tokens, "null_tokens": np.full_like(tokens, 46)})
    if text:
        latents.text_folder(folder).mkdir()
        embeddings = rng.standard_normal((count, *TEXT_5B), np.float32).astype(np.float16)
        latents.write_array(latents.text_folder(folder) / "00000.npy", embeddings)
        latents.write_array(latents.text_folder(folder) / latents.NULL, embeddings[0])


def streams(options: argparse.Namespace, config: Any, folder: Path) -> dict[str, Callable[[int], Any]]:
    """Return what opens each kind of input with a number of workers."""
    from motionv2v.data import batches, latents
    from motionv2v.models.vae.autoencoder import latent_shape
    from motionv2v.training import dataset

    frames, *size = options.size
    grid = latent_shape((1, frames, *size, 3), 16)[1:4]
    write_latents(folder, SAMPLES, grid, config.data.text_length)
    settings = {"batch_size": options.batch_size, "seed": 0, "prefetch": 2}
    if options.dataset:
        from motionv2v.data.stored_pairs import PairSource

        stored = PairSource(options.dataset, options.split)
    else:
        stored = StoredClips(dataset.scene_config(config), SAMPLES)

    def cached(workers: int) -> Any:
        vary = latents.Vary(config.data.caption_dropout, config.data.swap)
        return batches.make_dataset(latents.LatentSource(folder), vary, num_workers=workers, **settings)

    def clips(workers: int) -> Any:
        prepare = batches.Prepare(config.data.text_length, config.data.caption_dropout)
        mixed = {"buckets": [tuple(options.size)], "num_points": options.num_points, "num_workers": workers}
        return batches.mix({"stored": stored}, {"stored": 1.0}, prepare, **mixed, **settings)

    return {"cached latents": cached, "stored clips": clips}


def make_config(options: argparse.Namespace, workdir_steps: int) -> Any:
    """Return the tiny model's config at the size that was asked for, to be trained for a few steps."""
    from configs import motionv2v_tiny

    config = motionv2v_tiny.get_config()
    config.init_from = ()
    config.data.update({"num_frames": options.size[0], "size": tuple(options.size[1:]), "latents": ""})
    config.data.scene.num_points = options.num_points
    steps = {"steps": workdir_steps, "log_every": workdir_steps, "checkpoint_every": 0, "probe_every": 0}
    config.train.update(steps | {"batch_size": options.batch_size})
    return config


def train(config: Any, dataset: Callable[[], Any]) -> dict[str, float]:
    """Run the training loop on a stream; return what it tells of its last steps."""
    from motionv2v.training import loop, tasks

    class Task(tasks.DenoiserTask):
        """The control branch's training without its probe, on the stream that is measured."""

        def dataset(self, split: str = "train") -> Any:
            return dataset()

        def probe(self, key: Any, params: Any) -> dict[str, Any]:
            return {}

    with tempfile.TemporaryDirectory() as workdir:
        loop.train(config, workdir, Task(config))
        lines = (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(told for told in map(json.loads, reversed(lines)) if "data_wait" in told)


def rate(stream: Any, count: int) -> float:
    """Return a pipeline's batches per second when nothing else is asked of the machine."""
    batches: Iterator[Any] = iter(stream)
    try:
        for _ in range(8):  # what lies ready when the clock starts does not count
            next(batches)
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
        return count / (time.perf_counter() - start)
    finally:
        batches.close()


def run(options: argparse.Namespace) -> None:
    """Print the table, and what the pipeline gives of samples of the 5B model's size."""
    from motionv2v.devices import program_cache

    options.batch_size = options.batch_size or 8
    config, rows = make_config(options, options.steps), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program_cache.use_cache(folder / "cache")  # one compilation for all numbers of workers
        (folder / "latents").mkdir()
        for kind, open_stream in streams(options, config, folder / "latents").items():
            for workers in options.workers:
                alone = rate(open_stream(workers), options.count)
                told = train(config, partial(open_stream, workers))
                whole = options.batch_size / told["samples_per_second"]
                step = whole * (1 - told["data_wait"])
                cells = [number(alone), number(whole), number(step), f"{told['data_wait']:.1%}", number(alone * step)]
                rows.append([f"{kind}, {workers} workers", *cells])
                print(f"  {rows[-1]}", file=sys.stderr, flush=True)
        head = [f"batches of {options.batch_size}, {'x'.join(map(str, options.size))}", "batches/s alone"]
        head += ["s a step", "of it at work", "waiting", "batches a step alone"]
        print_table(head, rows, options.markdown)
        print_5b(options, folder / "5b")


def print_5b(options: argparse.Namespace, folder: Path) -> None:
    """Measure reading of the 5B model's cached samples; set beside it what training wants, which is arithmetic."""
    from motionv2v.data import batches, latents

    folder.mkdir()
    write_latents(folder, 4 * options.batch_size, LATENTS_5B, TEXT_5B[0], text=True)
    source = latents.LatentSource(folder, text=True)
    size = sum(array.nbytes for array in source[0].values()) * options.batch_size
    print(
        f"\ncached samples of the 5B model, {size / 1e6:.0f} MB a batch of {options.batch_size}, from the file cache:"
    )
    for workers in options.workers:
        settings = {"batch_size": options.batch_size, "seed": 0, "prefetch": 1, "num_workers": workers}
        found = rate(batches.make_dataset(source, latents.Vary(0.5, 0.5), **settings), options.count)
        share = f"{1 / STEP_5B / found:.0%}"
        print(
            f"  {workers} workers: {found:.2f} batches/s; a host whose devices take {STEP_5B} s for such a batch (the "
            f"goal for one sample on each H200, by arithmetic) wants {1 / STEP_5B:.2f} of them, {share}"
        )
