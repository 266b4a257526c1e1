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

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from motionv2v.methods import fields
from motionv2v.methods.fields import View
from motionv2v.sections import VIEWS
from motionv2v.typing import AnyArray, Bool, Key, UInt8

SHIFT = 4
"""Pixels: half a cell of the autoencoder, which is 8 at every size of CogVideoX."""
_SHIFTS = ((0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (0, 1), (-1, 0))


def first(count: int, keeps_time: bool = False) -> list[View]:
    """List the first `count` views, the clip as it is before others. Raises ValueError for no count of `VIEWS`.

    With `keeps_time` none is backwards: the eight are four that are turned, each shifted in two ways.
    """
    if count not in VIEWS:
        raise ValueError(f"views={count!r}; it must be one of {', '.join(map(str, VIEWS))}")
    shifts = [(SHIFT * down, SHIFT * right) for down, right in _SHIFTS[:count]]
    turns = [
        (False, bool(i & 1), bool(i & 2)) if keeps_time else (bool(i & 1), bool(i & 2), bool(i & 4)) for i in range(8)
    ]
    return [View(*turn, *shift) for turn, shift in zip(turns, shifts, strict=False)]


def turn_back(videos: AnyArray, view: View) -> tuple[AnyArray, Bool[np.ndarray, "1 1 H W 1"]]:
    """Turn and shift videos [B T H W 3] of a view back; and tell which pixels of the picture the view has."""
    height, width = videos.shape[2:4]
    has = [np.ones(size, bool) for size in (height, width)]
    for side, by, size in zip(has, (view.down, view.right), (height, width), strict=True):
        side[max(size - by, 0) if by > 0 else size :] = False
        side[: max(-by, 0)] = False
    return fields.shift(fields.flip(videos, view), -view.down, -view.right), np.outer(*has)[None, None, :, :, None]


def average(
    key: Key,
    generate: Callable[[Key, dict[str, AnyArray]], Any],
    batch: dict[str, AnyArray],
    count: int,
    read: Mapping[str, fields.Field],
) -> UInt8[AnyArray, "B T H W 3"]:
    """Edit the first `count` views of a batch and average the results, rounded to uint8.

    Args:
        key: of the whole edit; every further view draws its own noise and colours.
        generate: makes uint8 videos [B T H W 3] of (key, batch). One view is exactly one call with the arguments given.
        batch: as for `editing.Editor.generate`. count: one of `VIEWS`.
        read: the fields of the batch that the method reads (`methods.Method.fields`): these are turned.

    Raises:
        ValueError: for another count, and for more views than one of a field that cannot be turned.
    """
    views, total, counts = first(count, any(field.keeps_time for field in read.values())), 0.0, 0
    if count == 1:
        return generate(key, batch)
    size = next(x.shape[2:4] for x in batch.values() if np.ndim(x) == 5)
    for index, view in enumerate(views):
        turned = fields.turn(batch, read, view, size)
        videos = generate(jax.random.fold_in(key, index) if index else key, turned)
        back, has = turn_back(np.asarray(videos), view)
        total = total + np.where(has, back, 0).astype(np.float32)
        counts = counts + has.astype(np.float32)
    return np.round(total / counts).astype(np.uint8)
