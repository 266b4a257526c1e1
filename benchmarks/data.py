"""Time the input pipeline: `python benchmarks/data.py`, and `--dataset=DIR` for pairs that launch/prepare.py stored.

With `--train` the question is another: does input starve the device? The tiny model's training loop then runs on cached
latents and on stored clips with each number of workers, and one table holds batches per second beside the time of a
step and the share of it that the loop waited (`data_waiting.py`).

For scenes drawn on the fly, and for a data set in ArrayRecord files if one is named, it prints where the time of a pair
goes (read, decode, fit, prepare, batch; CPU time, which a busy machine does not stretch as much as the clock), and
pairs and megabytes per second of the whole grain pipeline with 0, 1 and 2 worker processes. Of the drawing of a scene
it prints the parts too. The model trains on no more than the pipeline gives: 40 pairs/s per core is the least that is
wanted of scenes of 17x64x64, and 2 pairs/s per core of stored pairs of 49x480x720.
"""

import argparse
import cProfile
import os
import platform
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from motionv2v.data import batches, buckets
from motionv2v.data.scenes import pairs

PARTS = ("draw", "track", "random_points", "random_content", "random_motion", "_source_motion")
TEXT_LENGTH = 32
Stages = dict[str, Callable[[Any], Any]]


def print_shares(config: pairs.SceneConfig, count: int) -> None:
    """Profile `count` pairs and print each part's share of the time, parts within parts included."""
    with cProfile.Profile() as profile:
        for index in range(count):
            pairs.make_pair(config, 2, index)
    rows = {name: row for (_, _, name), row in pstats.Stats(profile).stats.items()}
    total = rows["make_pair"][3]
    print(f"  where the time of drawing goes ({1e3 * total / count:.1f} ms under the profiler):")
    print("    " + ", ".join(f"{name} {rows[name][3] / total:.0%}" for name in PARTS))
    inner = {name: rows[name][3] / total for name in ("_paint_sprite", "paint", "inside")}
    print("    within them: " + ", ".join(f"{name} {share:.0%}" for name, share in inner.items()))


def scene_stages(source: pairs.SyntheticSource) -> Stages:
    """Return what happens to a drawn pair, in order; the first takes an index."""
    rng = np.random.default_rng(0)
    return {
        "draw": source.__getitem__,
        "prepare": lambda sample: batches.Prepare(TEXT_LENGTH).random_map(sample, rng),
    }


def stored_stages(source: Any, bucket: buckets.Bucket, num_points: int) -> Stages:
    """Return what happens to a stored pair, in order; the first takes an index."""
    from motionv2v.data import records

    rng = np.random.default_rng(0)
    return {
        "read": lambda index: source.record(index % len(source)),
        "decode": records.decode,
        "fit": lambda sample: buckets.Fit(bucket, num_points).random_map(sample, rng),
        "prepare": lambda sample: batches.Prepare(TEXT_LENGTH).random_map(sample, rng),
    }


def _run(stages: Stages, index: int, seconds: dict[str, float]) -> dict[str, np.ndarray]:
    """Take one pair through the stages and add to each one's CPU seconds."""
    value: Any = index
    for name, stage in stages.items():
        start = time.process_time()
        value = stage(value)
        seconds[name] += time.process_time() - start
    return value


def print_stages(stages: Stages, count: int, batch_size: int) -> None:
    """Run `count` pairs, rounded up to whole batches, through the stages; print the CPU time per pair of each."""
    count = -(-count // batch_size) * batch_size
    seconds = dict.fromkeys([*stages, "batch"], 0.0)
    samples: list[dict[str, np.ndarray]] = []
    _run(stages, 0, dict(seconds))  # pays for what is loaded once
    for index in range(count):
        samples.append(_run(stages, index, seconds))
        if len(samples) == batch_size:
            start = time.process_time()
            _ = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
            seconds["batch"] += time.process_time() - start
            samples = []
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {1e3 * s / count:.1f} ms ({s / total:.0%})" for name, s in seconds.items())
    print(f"  {count / total:.1f} pairs per second of CPU time; a pair takes {1e3 * total / count:.1f} ms: {parts}")


def print_pipeline(stream: Any, num_workers: int, pairs: int, batch_size: int) -> None:
    """Time whole batches after a first few, which wait for the workers to start."""
    batches = iter(stream)
    # Batches that were ready when the clock started must be few among those that are counted.
    count = max(pairs // batch_size, 4 * (num_workers + 1))
    for _ in range(1 + 2 * num_workers):
        size = sum(array.nbytes for array in next(batches).values())
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    rate = count / (time.perf_counter() - start)
    if hasattr(batches, "close"):
        batches.close()
    print(
        f"  pipeline, {num_workers} worker processes {rate * batch_size:8.1f} pairs/s {rate * size / 1e6:8.1f} MB/s",
        flush=True,
    )


def set_defaults(options: argparse.Namespace, shape: tuple[int, int, int], pairs: int) -> None:
    """Choose what was not given: batches of 32 pairs of clips of (T, H, W), or of as many as 256 MB hold."""
    options.pairs = options.pairs or pairs
    options.batch_size = options.batch_size or int(np.clip(256e6 // (6 * np.prod(shape)), 1, 32))


def bench_scenes(options: argparse.Namespace) -> None:
    """Time scenes drawn on the fly."""
    frames, *size = options.size
    config = pairs.SceneConfig(num_frames=frames, size=tuple(size), num_points=options.num_points)
    source = pairs.SyntheticSource(config)
    set_defaults(options, (frames, *size), 200)
    what = f"{frames}x{size[0]}x{size[1]}, {options.num_points} points, batches of {options.batch_size}"
    print(f"scenes drawn on the fly, {what}")
    print_stages(scene_stages(source), options.pairs, options.batch_size)
    print_shares(config, max(options.pairs // 4, 1))
    for workers in options.workers:
        settings = {"batch_size": options.batch_size, "seed": 0, "num_workers": workers, "prefetch": 1}
        stream = batches.make_dataset(source, batches.Prepare(TEXT_LENGTH), **settings)
        print_pipeline(stream, workers, options.pairs, options.batch_size)


def bench_stored(options: argparse.Namespace) -> None:
    """Time a data set in ArrayRecord files at its own shape."""
    from motionv2v.data.stored_pairs import PairSource

    source = PairSource(options.dataset, options.split)
    bucket = source[0]["source"].shape[:3]
    set_defaults(options, bucket, 24)
    some = [source.record(index) for index in range(min(len(source), 50))]
    stored = np.mean([len(record["source"]) + len(record["target"]) for record in some])
    what = f"{len(source)} pairs of {'x'.join(map(str, bucket))}, {stored / 1e6:.2f} MB of video each"
    print(f"{options.dataset}: {what}, batches of {options.batch_size}")
    print_stages(stored_stages(source, bucket, options.num_points), options.pairs, options.batch_size)
    for workers in options.workers:
        stream = batches.mix(
            {"stored": source}, {"stored": 1.0}, batches.Prepare(TEXT_LENGTH), buckets=[bucket],
            num_points=options.num_points, batch_size=options.batch_size, seed=0, num_workers=workers, prefetch=1,
        )  # fmt: skip
        print_pipeline(stream, workers, options.pairs, options.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a folder that launch/prepare.py --videos wrote; then scenes are not timed")
    parser.add_argument("--split", default="train", help="of the data set")
    parser.add_argument("--pairs", type=int, help="pairs per measurement; default: 200 scenes, or 24 stored pairs")
    parser.add_argument("--batch_size", type=int, help="default: 32, or fewer where a batch would exceed 256 MB")
    parser.add_argument("--size", type=int, nargs=3, default=[17, 64, 64], metavar=("T", "H", "W"), help="of scenes")
    parser.add_argument("--num_points", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--train", action="store_true", help="training steps beside the batches that they are fed")
    parser.add_argument("--steps", type=int, default=24, help="of --train, for each row (default 24)")
    parser.add_argument("--count", type=int, default=40, help="of --train: batches that are timed alone (default 40)")
    parser.add_argument("--markdown", action="store_true", help="print the table of --train as markdown")
    options = parser.parse_args()
    # Grain reads absl flags when it starts workers.
    flags.FLAGS.mark_as_parsed()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores ({platform.machine()}{load})")
    try:
        if options.train:
            sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
            import data_waiting

            data_waiting.run(options)
            return
        (bench_stored if options.dataset else bench_scenes)(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"data: {error}")


if __name__ == "__main__":
    main()
