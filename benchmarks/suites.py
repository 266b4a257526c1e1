"""What scoring a suite costs: table `suites` of `run.py`.

Seconds of each group of metrics for one clip of 49 frames of 480x720; networks have random weights, whose values change
no time. Then `launch/evaluate.py score` of whole suites with all that needs no weights, rows of reference without the
draft, and one method: of 100 small videos and of `--videos` large ones, twice each. The second run finds everything
kept; the peak of resident memory is that of its process. Videos are crops of a texture that glide over it, with noise,
so that their files are as large as those of footage.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from flax.traverse_util import unflatten_dict
from harness import ROOT, number, print_table

from motionv2v import draft, trackers, video
from motionv2v.evaluation import fvmd, measures, suite, trajan_scores
from motionv2v.models.features import clip, i3d, inception, lpips, trajan
from motionv2v.tracks import Tracks

LARGE, SMALL, QUICK = (49, (480, 720)), (16, (64, 96)), (16, (48, 64))
MANY, FEW = 100, 8
NOISE, POINTS = 4.0, 25
CHILD = (
    "import atexit, runpy, sys\n"
    "peak = lambda: print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
    "atexit.register(peak)\n"
    "del sys.argv[0]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def print_suites(options: Namespace) -> None:
    """Print the costs of metrics and of whole runs."""
    frames, size = QUICK if options.quick else LARGE
    with tempfile.TemporaryDirectory() as temporary:
        found = build(Path(temporary) / "one", 2, frames, size)
        rows = [[name, *(number(value) for value in values)] for name, *values in costs(found, options.quick)]
    print_table([f"one clip of {frames}x{size[0]}x{size[1]}", "s", "CPU s"], rows, options.markdown)
    suites = ((2, *QUICK),) if options.quick else ((MANY, *SMALL), (options.videos, *LARGE))
    rows = []
    for count, frames, size in suites:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_outputs(build(folder / "suite", count, frames, size), folder / "outputs" / "backwards")
            gigabytes = sum(path.stat().st_size for path in folder.rglob("*.mp4")) / 1e9
            time.sleep(3)  # checksums of files that were just written are not kept
            what = f"{count} of {frames}x{size[0]}x{size[1]}"
            for run in ("first", "second"):
                values = score(folder)
                rows.append([what, number(gigabytes), run, *(number(value) for value in values)])
    print_table(["videos", "files GB", "run", "s", "CPU s", "peak RSS GB"], rows, options.markdown)


def costs(found: suite.Suite, quick: bool) -> Iterator[tuple[str, float, float]]:
    """Yield the seconds of each group of metrics, by name, for the first item: its source against its target.

    A network that sees frame by frame is timed on `FEW` of them, in its second call, for the first one compiles.
    """
    item, tracker = found.items[0], trackers.named("lk")
    frames, truth = item.source(), measures.Truth(item, tracker, other=found.items[1])
    assert truth.usable.any() and len(truth.frames) == len(frames)
    yield "read a video", *timed(item.target)
    for group in ("pictures", "tracks", "objects", "motion", "fidelity"):
        names = [name for name, metric in measures.METRICS.items() if metric.group == group]
        yield ", ".join(names), *timed(lambda group=group: measures.GROUPS[group].measure(frames, truth))
    yield "fvmd", *timed(lambda: fvmd.features(frames, tracker))
    paths = (item.source_tracks(), item.target_tracks())
    yield "the draft of an item", *timed(lambda: draft.render(frames, *paths, notify=lambda line: None))
    few, times = (frames[:FEW], truth.frames[:FEW]), len(frames) / FEW

    def network(name: str, call: Callable[[], Any], share: float) -> tuple[str, float, float]:
        call()
        return name, *(share * value for value in timed(call))

    for net in ("squeeze",) if quick else ("alex", "vgg", "squeeze"):
        module, params = lpips.Lpips(net), random(lpips.parameter_shapes(net))
        yield network(f"lpips ({net})", partial(lpips.frame_distances, module, params, *few), times)
    if quick:
        return
    sizes = clip.NETS["ViT-B/32"]
    module, params = clip.Clip(sizes, "quick_gelu"), random(clip.parameter_shapes(sizes))
    seen = partial(clip.picture_features, module, params)
    yield network("clip_*, vbench_background (ViT-B/32)", lambda: seen(clip.shorter_side(few[0])), times)
    network_of = SimpleNamespace(module=trajan.Trajan(), params=random(trajan.parameter_shapes()))
    moving = SimpleNamespace(trajan=network_of, tracker=tracker)
    yield network("trajan_jaccard, trajan_occlusion", partial(trajan_scores.measure, frames, moving), 1)
    params = random(i3d.parameter_shapes())
    yield network("fvd_tf", partial(i3d.clip_features, i3d.I3d(), params, frames, "tf1"), 1)
    params = random(inception.parameter_shapes())
    seen = partial(inception.frame_features, inception.Inception(), params, few[0], "torch")
    yield network("fid_pytorch, kid_pytorch", seen, times)


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Draw parameters; all are positive, because some are variances."""
    rng = np.random.default_rng(0)
    flat = {tuple(name.split("/")): 0.01 + 0.01 * rng.random(shape, np.float32) for name, shape in shapes.items()}
    return unflatten_dict(flat)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of a call, on the clock and of the processor."""
    start, own = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - own


def build(folder: Path, count: int, frames: int, size: tuple[int, int]) -> suite.Suite:
    """Write a suite of gliding textures."""
    items = [
        suite.Known(f"{index:03d}", "a texture", f"glide {index}", lambda index=index: glide(index, frames, size))
        for index in range(count)
    ]
    return suite.assemble("motionv2v", items, folder, num_frames=frames, size=size, num_points=POINTS)


def glide(index: int, frames: int, size: tuple[int, int]) -> dict[str, Any]:
    """Draw both videos of an item, which glide apart from their first frame on, and the points' paths."""
    rng = np.random.default_rng(index)
    room, (height, width) = frames + 1, size
    ground = rng.integers(0, 255, (height + 2 * room, width + 2 * room, 3)).astype(np.uint8)
    ground = cv2.normalize(cv2.GaussianBlur(ground, (0, 0), 3), None, 20, 235, cv2.NORM_MINMAX)
    step = rng.uniform(-1, 1, 2)
    grid = (np.arange(5) + 0.5) / 5
    start = np.stack([axis.ravel() for axis in np.meshgrid(grid * width, grid * height)], -1)
    content = {}
    for side, sign in (("source", -1), ("target", 1)):
        way = np.round(sign * step * np.arange(frames)[:, None]).astype(int)
        clips = [ground[room - y :, room - x :][:height, :width] for x, y in way]
        noisy = np.stack(clips) + rng.normal(0, NOISE, (frames, height, width, 1)).astype(np.float32)
        xy = (start[:, None] + way).astype(np.float32)
        visible = ((xy >= 0) & (xy < (width, height))).all(-1)
        content |= {f"{side}.mp4": np.clip(noisy, 0, 255).astype(np.uint8), f"{side}_tracks.npz": Tracks(xy, visible)}
    return content


def make_outputs(found: suite.Suite, folder: Path) -> None:
    """Write what a method made: each target backwards."""
    for item in found.items:
        video.write(folder / f"{item.id}.mp4", item.target()[::-1], fps=8, lossless=True)


def score(folder: Path) -> tuple[float, float, float]:
    """Score in a process of its own; seconds on the clock and of the processor, and the peak of its memory in GB."""
    words = ["score", "--nodraft", f"--suite={folder / 'suite'}", f"--outputs={folder / 'outputs'}"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(ROOT / "launch" / "evaluate.py"), *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if child.returncode:
        sys.exit(f"run: suites: {child.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, int(re.search(r"peak (\d+)", child.stderr)[1]) * 1024 / 1e9
