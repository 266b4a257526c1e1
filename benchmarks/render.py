"""Time `render.blobs` beside a plain numpy loop: `python benchmarks/render.py`.

Both draw the same tracks in one process, in turn, after a warm-up that also checks that they agree. Prints, per size,
the median and the fastest of `--repeats` runs in milliseconds and the ratio of medians.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import render
from motionv2v.tracks import Tracks

SIZES = (
    # name, batch (None: one clip, no vmap), tracks, frames, rows, columns, sigma
    ("one clip, 64 tracks, 49x480x720", None, 64, 49, 480, 720, 10.0),
    ("32 clips, 16 tracks, 17x64x64", 32, 16, 17, 64, 64, 2.0),
)


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


def median_ms(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times)), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    backend = jax.devices()[0]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"jax {jax.__version__} on {backend.device_kind}, {os.cpu_count()} cores ({platform.machine()}{load})")
    print(f"median (fastest) of {repeats} runs in ms, blobs as float32 on the device, compilation left out")
    print(f"{'size':34s} {'motionv2v.render':>20s} {'numpy loop':>20s} {'ratio':>7s}")
    for name, batch, num_tracks, num_frames, height, width, sigma in SIZES:
        rng = np.random.default_rng(0)
        clips = batch or 1
        xy = rng.uniform((0, 0), (width, height), (clips, num_tracks, num_frames, 2)).astype(np.float32)
        visible = rng.uniform(size=xy.shape[:-1]) < 0.9
        colors = np.tile(render.distinct_colors(num_tracks), (clips, 1, 1))

        def draw(xy, visible, colors, size=(height, width), sigma=sigma):
            return render.blobs(Tracks(xy, visible), colors, size, sigma)

        def loop(clips=clips, xy=xy, visible=visible, colors=colors, size=(height, width), sigma=sigma):
            return np.stack([numpy_blobs(xy[i], visible[i], colors[i], size, sigma) for i in range(clips)])

        compiled = jax.jit(jax.vmap(draw) if batch else draw)
        inputs = [jnp.asarray(a if batch else a[0]) for a in (xy, visible, colors)]
        np.testing.assert_allclose(np.asarray(compiled(*inputs)).reshape(loop().shape), loop(), atol=1e-5)
        ours, theirs = median_ms(lambda c=compiled, i=inputs: c(*i), repeats), median_ms(loop, repeats)
        cells = [f"{median:.1f} ({fastest:.1f})" for median, fastest in (ours, theirs)]
        print(f"{name:34s} {cells[0]:>20s} {cells[1]:>20s} {theirs[0] / ours[0]:6.1f}x")


if __name__ == "__main__":
    main()
