"""Average what a model makes of several views of one edit: as it is, backwards in time, mirrored, upside down.

Turned clips are clips, and turned paths are their paths, so a model can edit any view; turned back, its answers should
be equal, and what differs is error. The mean of the answers has less of it ("geometric self-ensemble" of image
restoration: Timofte et al. 2016; Lim et al. 2017, arXiv 1707.02921). The clip backwards is the second view, because
the causal autoencoder cuts it into other groups of frames, which should make its errors most unlike the first's.

This holds for samples of one denoising step, which are means themselves. Longer samples are draws, and the mean of
draws is a blur. Each view costs one more sample. Texts are not turned: a prompt that says "left" or "rises" is wrong
in half of the views.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v.typing import AnyArray, Key, UInt8

COUNTS = (1, 2, 4, 8)
"""How many views can be averaged: each doubling also turns all the views before it."""


class View(NamedTuple):
    """Which axes of a clip are turned round."""

    time: bool
    rows: bool
    columns: bool


def first(count: int) -> list[View]:
    """List the first `count` views, the clip as it is before others. Raises ValueError for no count of `COUNTS`."""
    if count not in COUNTS:
        raise ValueError(f"views={count!r}; it must be one of {', '.join(map(str, COUNTS))}")
    return [View(bool(i & 1), bool(i & 2), bool(i & 4)) for i in range(count)]


def turn(batch: dict[str, AnyArray], view: View) -> dict[str, AnyArray]:
    """Turn a batch for editing: `source` [B T H W 3], `*_xy` [B N T 2] in its pixels, `*_visible` [B N T]."""
    height, width = batch["source"].shape[2:4]
    turned = {}
    for name, array in batch.items():
        array = np.asarray(array)
        if name == "source":
            array = turn_videos(array, view)
        elif name.endswith("_xy"):
            array = array[:, :, ::-1] if view.time else array
            # (0, 0) is the corner of the picture, not the centre of its first pixel.
            x = width - array[..., 0] if view.columns else array[..., 0]
            y = height - array[..., 1] if view.rows else array[..., 1]
            array = np.stack([x, y], -1)
        elif name.endswith("_visible"):
            array = array[:, :, ::-1] if view.time else array
        turned[name] = array
    return turned


def turn_videos(videos: AnyArray, view: View) -> AnyArray:
    """Turn videos [B T H W 3], or turn them back: doing it twice changes nothing."""
    return np.flip(videos, [axis for axis, is_turned in zip((1, 2, 3), view, strict=True) if is_turned])


def average(
    key: Key, generate: Callable[[Key, dict[str, AnyArray]], Any], batch: dict[str, AnyArray], count: int
) -> UInt8[AnyArray, "B T H W 3"]:
    """Edit the first `count` views of a batch and average the results, rounded to uint8.

    Args:
        key: of the whole edit; every further view draws its own noise and colours.
        generate: makes uint8 videos [B T H W 3] of (key, batch). One view is exactly one call with the arguments given.
        batch: as for `editing.Editor.generate`. count: one of `COUNTS`.

    Raises:
        ValueError: for another count.
    """
    views, total = first(count), 0.0
    if count == 1:
        return generate(key, batch)
    for index, view in enumerate(views):
        videos = generate(jax.random.fold_in(key, index) if index else key, turn(batch, view))
        total = total + turn_videos(np.asarray(videos), view).astype(np.float32)
    return np.round(total / count).astype(np.uint8)
