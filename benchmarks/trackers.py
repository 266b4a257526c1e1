"""Measure the point trackers that need no weights: `python benchmarks/trackers.py`.

Prints their scores on the scenes of `motionv2v/evaluation/tapvid.py`, which also defines them, and then their times for
growing numbers of points on one scene: wall time, and CPU time, which a busy machine changes less. Times are of both
directions and of the first call; OpenCV uses all cores.
"""

import argparse
import functools
import os
import platform
import time

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from motionv2v import trackers
from motionv2v.data.scenes import hard
from motionv2v.evaluation import tapvid


def seconds(tracker: trackers.Tracker, scene: hard.Scene, num_points: int) -> tuple[float, float]:
    """Time one call with points on a grid of the middle frame: wall time and CPU time in seconds."""
    frames, height, width, _ = scene.frames.shape
    side = int(np.ceil(np.sqrt(num_points)))
    x, y = np.meshgrid((np.arange(side) + 0.5) * width / side, (np.arange(side) + 0.5) * height / side)
    queries = np.column_stack([np.full(side**2, frames // 2), x.ravel(), y.ravel()])[:num_points]
    start, start_cpu = time.perf_counter(), time.process_time()
    tracker.track(scene.frames, queries)
    return time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=list(trackers.CLASSICAL_MODES), choices=trackers.CLASSICAL_MODES)
    parser.add_argument("--scenes", type=int, default=4, help="scenes of each difficulty; 0 leaves out the scores")
    parser.add_argument("--points", type=int, nargs="*", default=[64, 1024, 4096])
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores ({platform.machine()}{load}), OpenCV {cv2.__version__}, seed {options.seed}")
    if options.scenes:
        entrants = tapvid.entrants("classical", options.modes)
        shown = functools.partial(track, console=Console(stderr=True))
        rows = tapvid.run(entrants, num_scenes=options.scenes, seed=options.seed, progress=shown)
        print(tapvid.format_table(rows))
    scene = hard.make_scene("moderate", options.seed)
    print("| points | " + " | ".join(f"{mode}: s (CPU s)" for mode in options.modes) + " |")
    print("|---" * (1 + len(options.modes)) + "|")
    for count in options.points:
        times = [seconds(trackers.get("classical", mode=mode), scene, count) for mode in options.modes]
        print(f"| {count} | " + " | ".join(f"{wall:.1f} ({cpu:.1f})" for wall, cpu in times) + " |", flush=True)


if __name__ == "__main__":
    main()
