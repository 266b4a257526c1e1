"""Average what a model makes of several views of one edit: as it is, backwards, mirrored, upside down, shifted.

Turned clips are clips, and turned paths are their paths, so a model can edit any view; turned back, its answers should
be equal, and what differs is error. The mean of the answers has less of it ("geometric self-ensemble" of image
restoration: Timofte et al. 2016; Lim et al. 2017, arXiv 1707.02921). The clip backwards is the second view, because
the causal autoencoder cuts it into other groups of frames, which should make its errors most unlike the first's. All
views but the first are shifted by half a cell of the autoencoder too: turned alone, a picture whose sides are whole
cells is cut into the same cells, and errors that go with a place in a cell stay.

This holds for samples of one denoising step, which are means themselves. Longer samples are draws, and the mean of
draws is a blur. Each view costs one more sample. Texts are not turned: a prompt that says "left" or "rises" is wrong
in half of the views.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import tracks
from motionv2v.typing import AnyArray, Bool, Key, UInt8

COUNTS = (1, 2, 4, 8)
"""How many views can be averaged: each doubling also turns all the views before it."""


SHIFT = 4
"""Pixels: half a cell of the autoencoder, which is 8 at every size of CogVideoX."""
_SHIFTS = ((0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (0, 1), (-1, 0))


class View(NamedTuple):
    """How far a clip is moved, in pixels, and along which axes it is then turned round."""

    time: bool = False
    rows: bool = False
    columns: bool = False
    down: int = 0
    right: int = 0


def first(count: int) -> list[View]:
    """List the first `count` views, the clip as it is before others. Raises ValueError for no count of `COUNTS`."""
    if count not in COUNTS:
        raise ValueError(f"views={count!r}; it must be one of {', '.join(map(str, COUNTS))}")
    shifts = [(SHIFT * down, SHIFT * right) for down, right in _SHIFTS[:count]]
    return [View(bool(i & 1), bool(i & 2), bool(i & 4), *shift) for i, shift in enumerate(shifts)]


def turn(batch: dict[str, AnyArray], view: View) -> dict[str, AnyArray]:
    """Shift and turn a batch for editing: `source` [B T H W 3], `*_xy` [B N T 2] in its pixels, `*_visible` [B N T].

    What a shift lays bare shows the picture's edge pixels; points that it moves out of the picture are hidden.
    """
    height, width = batch["source"].shape[2:4]
    turned = {name: np.asarray(array) for name, array in batch.items()}
    turned["source"] = _flip(_shift(turned["source"], view.down, view.right), view)
    for side in [name.removesuffix("_xy") for name in batch if name.endswith("_xy")]:
        xy = turned[f"{side}_xy"] + np.float32([view.right, view.down])
        visible = turned[f"{side}_visible"]
        if view.down or view.right:
            visible = visible & tracks.inside(xy, (height, width))
        # (0, 0) is the corner of the picture, not the centre of its first pixel.
        x = width - xy[..., 0] if view.columns else xy[..., 0]
        y = height - xy[..., 1] if view.rows else xy[..., 1]
        xy = np.stack([x, y], -1)
        turned[f"{side}_xy"] = xy[:, :, ::-1] if view.time else xy
        turned[f"{side}_visible"] = visible[:, :, ::-1] if view.time else visible
    return turned


def turn_back(videos: AnyArray, view: View) -> tuple[AnyArray, Bool[np.ndarray, "1 1 H W 1"]]:
    """Turn and shift videos [B T H W 3] of a view back; and tell which pixels of the picture the view has."""
    height, width = videos.shape[2:4]
    has = [np.ones(size, bool) for size in (height, width)]
    for side, by, size in zip(has, (view.down, view.right), (height, width), strict=True):
        side[max(size - by, 0) if by > 0 else size :] = False
        side[: max(-by, 0)] = False
    return _shift(_flip(videos, view), -view.down, -view.right), np.outer(*has)[None, None, :, :, None]


def _flip(videos: AnyArray, view: View) -> AnyArray:
    return np.flip(videos, [axis for axis, is_turned in zip((1, 2, 3), view[:3], strict=True) if is_turned])


def _shift(videos: AnyArray, down: int, right: int) -> AnyArray:
    """Move the pictures [B T H W 3]; the pixels at their edges are repeated."""
    height, width = videos.shape[2:4]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return videos[:, :, rows][:, :, :, columns]


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
    views, total, counts = first(count), 0.0, 0
    if count == 1:
        return generate(key, batch)
    for index, view in enumerate(views):
        videos = generate(jax.random.fold_in(key, index) if index else key, turn(batch, view))
        back, has = turn_back(np.asarray(videos), view)
        total = total + np.where(has, back, 0).astype(np.float32)
        counts = counts + has.astype(np.float32)
    return np.round(total / counts).astype(np.uint8)
