"""Trackers without weights, and drawing tracks: tables `trackers` and `render` of `run.py`."""

import functools
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from harness import number, print_table
from rich.console import Console
from rich.progress import track

from motionv2v import draft, metrics, render, trackers
from motionv2v.data.scenes import hard
from motionv2v.data.scenes.pairs import KINDS, SceneConfig, make_pair
from motionv2v.evaluation import tapvid
from motionv2v.tracks import Tracks

SEED = 7


def print_trackers(options: Namespace) -> None:
    """Print scores on scenes with exact tracks (`tapvid`), seconds for growing numbers of points, and scores of drafts.

    Times are of both directions and of the first call, on the clock and of the processor; OpenCV uses all cores.
    """
    modes = trackers.CLASSICAL_MODES[:1] if options.quick else trackers.CLASSICAL_MODES
    if not options.quick:
        shown = functools.partial(track, console=Console(stderr=True))
        rows = tapvid.run(tapvid.entrants("classical", modes), num_scenes=4, seed=SEED, progress=shown)
        print(f"\n{tapvid.format_table(rows)}")
    scene, rows = hard.make_scene("moderate", SEED), []
    frames, height, width, _ = scene.frames.shape
    for count in (64,) if options.quick else (64, 1024, 4096):
        side = int(np.ceil(np.sqrt(count)))
        x, y = np.meshgrid((np.arange(side) + 0.5) * width / side, (np.arange(side) + 0.5) * height / side)
        queries = np.column_stack([np.full(side**2, frames // 2), x.ravel(), y.ravel()])[:count]
        rows.append([str(count)])
        for mode in modes:
            start, own = time.perf_counter(), time.process_time()
            trackers.get("classical", mode=mode).track(scene.frames, queries)
            rows[-1].append(f"{time.perf_counter() - start:.1f} ({time.process_time() - own:.1f})")
    print_table(["points", *(f"{mode}: s (CPU s)" for mode in modes)], rows, options.markdown)
    rows = [[mode, *(number(value) for value in values)] for mode, values in drafts(modes, 1 if options.quick else 16)]
    print_table(["drafts with the tracks of", "PSNR dB", "5th percentile"], rows, options.markdown)


def drafts(modes: Sequence[str], num_pairs: int) -> list[tuple[str, list[float]]]:
    """Draw edits of one thing of synthetic scenes from the paths that each tracker finds; score them by the truth.

    A path is edited by what separates the true paths, so that a tracker's mistakes stay in it. "exact" has true paths,
    and "a copy" is the clip unedited.
    """
    only = tuple(float(kind == "object") for kind in KINDS)
    config = SceneConfig(num_points=12, min_points=8, size=(96, 128), kinds=only)
    found: dict[str, list[float]] = {mode: [] for mode in ("a copy", *modes, "exact")}
    for index in range(num_pairs):
        pair = make_pair(config, SEED + 1, index, "test")
        exact = pair.source_tracks
        used = np.flatnonzero(exact.visible.any(axis=1))
        moved = (pair.target_tracks.xy - exact.xy)[used]
        start = exact.visible[used].argmax(axis=1)
        queries = np.column_stack([start, exact.xy[used, start]])
        for mode in found:
            if mode == "a copy":
                frames = pair.source
            else:
                source = Tracks(exact.xy[used], exact.visible[used])
                if mode != "exact":
                    source = trackers.get("classical", mode=mode).track(pair.source, queries)
                target = Tracks(source.xy + moved, pair.target_tracks.visible[used])
                frames = draft.render(pair.source, source, target, notify=lambda line: None).frames
            found[mode].append(metrics.clip_psnr(frames, pair.target))
    return [(mode, [float(np.mean(psnr)), float(np.percentile(psnr, 5))]) for mode, psnr in found.items()]


def numpy_blobs(xy: np.ndarray, visible: np.ndarray, colors: np.ndarray, size: tuple[int, int], sigma: float):
    """Draw frame by frame and track by track, one window at a time: what one writes first."""
    height, width = size
    radius = int(np.ceil(3 * sigma))
    canvas = np.zeros((xy.shape[1], height, width, 3), np.float32)
    for t in range(xy.shape[1]):
        for n in range(xy.shape[0]):
            x, y = xy[n, t]
            left, right = max(0, int(np.floor(x)) - radius), min(width, int(np.floor(x)) + radius + 1)
            top, bottom = max(0, int(np.floor(y)) - radius), min(height, int(np.floor(y)) + radius + 1)
            if not visible[n, t] or left >= right or top >= bottom:
                continue
            dx, dy = np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y
            g = np.exp(-(dy[:, None] ** 2 + dx[None] ** 2) / (2 * sigma**2)).astype(np.float32)[..., None]
            window = canvas[t, top:bottom, left:right]
            window += g * (colors[n] - window)
    return canvas


SCENES = (
    # clips, tracks, frames, rows, columns, sigma
    (32, 16, 17, 64, 64, 2.0),
    (1, 64, 49, 480, 720, 10.0),
)


def print_render(options: Namespace) -> None:
    """Print `render.blobs` beside a plain loop in numpy, which must draw the same."""
    rows = []
    for clips, count, frames, height, width, sigma in SCENES[:1] if options.quick else SCENES:
        rng, size = np.random.default_rng(0), (height, width)
        xy = rng.uniform((0, 0), (width, height), (clips, count, frames, 2)).astype(np.float32)
        visible = rng.uniform(size=xy.shape[:-1]) < 0.9
        colors = np.tile(render.distinct_colors(count), (clips, 1, 1))
        one = functools.partial(_blobs, size=size, sigma=sigma)
        draw, given = jax.jit(jax.vmap(one)), [jnp.asarray(a) for a in (xy, visible, colors)]
        calls: dict[str, Callable] = {
            "ours": functools.partial(lambda draw, given: np.asarray(draw(*given)), draw, given),
            "loop": functools.partial(_loop, list(zip(xy, visible, colors, strict=True)), size, sigma),
        }
        np.testing.assert_allclose(calls["ours"](), calls["loop"](), atol=1e-5)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
        ours, loop = (float(np.median(times[name])) for name in calls)
        what = f"{clips} clips, {count} tracks, {frames}x{height}x{width}"
        rows.append([what, number(ours), number(loop), f"{loop / ours:.1f}x"])
    print_table(["drawing tracks", "render ms", "numpy loop ms", "loop / render"], rows, options.markdown)


def _blobs(xy: jax.Array, visible: jax.Array, colors: jax.Array, size: tuple[int, int], sigma: float) -> jax.Array:
    return render.blobs(Tracks(xy, visible), colors, size, sigma)


def _loop(clips: list[tuple], size: tuple[int, int], sigma: float) -> np.ndarray:
    return np.stack([numpy_blobs(*clip, size, sigma) for clip in clips])
