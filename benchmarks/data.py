"""Time the synthetic data: `python benchmarks/data.py`.

Prints pairs per second of `synthetic.make_pair` at the tiny size in this process, where its time goes, and pairs per
second of the whole grain pipeline (caption and point dropout, tokens, batches of 32) with 0, 1 and 2 worker processes.
The model trains on no more than the pipeline gives; 40 pairs/s per core is the least that is wanted.
"""

import argparse
import cProfile
import os
import platform
import pstats
import time

from absl import flags

from motionv2v.data import pipeline, synthetic

PARTS = ("draw", "track", "random_points", "random_content", "random_motion", "_source_motion")


def pairs_per_second(config: synthetic.SceneConfig, count: int) -> tuple[float, float]:
    """Time `make_pair`: pairs per second, and per second of CPU time, which a busy machine does not slow as much."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        synthetic.make_pair(config, 1, index)
    return count / (time.perf_counter() - start), count / (time.process_time() - start_cpu)


def print_shares(config: synthetic.SceneConfig, count: int) -> None:
    """Profile `count` pairs and print each part's share of the time, parts within parts included."""
    with cProfile.Profile() as profile:
        for index in range(count):
            synthetic.make_pair(config, 2, index)
    rows = {name: row for (_, _, name), row in pstats.Stats(profile).stats.items()}
    total = rows["make_pair"][3]
    print(f"where the time of make_pair goes ({1e3 * total / count:.1f} ms under the profiler):")
    for name in PARTS:
        print(f"    {name:18s}{rows[name][3] / total:5.0%}")
    inner = {name: rows[name][3] / total for name in ("_paint_sprite", "paint", "inside")}
    print("    within them: " + ", ".join(f"{name} {share:.0%}" for name, share in inner.items()))


def batches_per_second(config: synthetic.SceneConfig, num_workers: int, batches: int, batch_size: int) -> float:
    """Time whole batches after a first one, which waits for the workers to start."""
    source = synthetic.SyntheticSource(config)
    stream = iter(
        pipeline.make_dataset(
            source, pipeline.Prepare(32), batch_size=batch_size, seed=0, num_workers=num_workers, prefetch=1
        )
    )
    # What workers have ready when the clock starts would flatter them: read it first.
    for _ in range(1 + 2 * num_workers):
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    seconds = time.perf_counter() - start
    if hasattr(stream, "close"):
        stream.close()
    return batches / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200, help="pairs per measurement")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    # Grain reads absl flags when it starts workers.
    flags.FLAGS.mark_as_parsed()
    config = synthetic.SceneConfig()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    frames, (height, width) = config.num_frames, config.size
    print(f"{os.cpu_count()} cores ({platform.machine()}{load}); pairs of {frames}x{height}x{width}")
    pairs_per_second(config, 10)
    rate, cpu_rate = pairs_per_second(config, options.pairs)
    print(f"make_pair, one process           {rate:7.1f} pairs/s ({cpu_rate:.1f} per second of CPU time)")
    print_shares(config, max(options.pairs // 4, 1))
    for workers in options.workers:
        # Batches that were ready when the clock started must be few among those that are counted.
        count = max(options.pairs // options.batch_size, 4 * (workers + 1))
        rate = batches_per_second(config, workers, count, options.batch_size) * options.batch_size
        print(f"pipeline, {workers} worker processes   {rate:7.1f} pairs/s")


if __name__ == "__main__":
    main()
