"""Models that repair the edit's draft: what they are given of it, and how their video goes back into it.

A draft is made of the clip's own pixels, at the clip's own size: where it is right, no network draws it as well. Where
it doubts (`draft.Draft.uncertain`), the model's repair takes its place, faded in as the doubt grows.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from motionv2v import draft, video
from motionv2v.typing import AnyArray, Float, UInt8

SURE, UNSURE = 0.3, 0.9
"""Doubt up to which the draft stands alone, and from which the model does."""
FADE = 1 / 64
"""Over how much of the picture's shorter side the model is faded in around what the draft doubts."""


def draw(batch: Mapping[str, AnyArray]) -> list[draft.Draft]:
    """Draw the drafts of a batch of edits, as `draft.of_sample`."""
    count = len(batch["source"])
    return [draft.of_sample({name: x[index] for name, x in batch.items()}) for index in range(count)]


def arrays(drawn: Sequence[draft.Draft], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return drafts, brought to a model's size, as the arrays of a batch (`methods.fields`).

    Raises ValueError for one that was drawn without its maps.
    """
    for each in drawn:
        if len(each.uncertain) != len(each.frames):
            raise ValueError(
                f"the draft has {len(each.frames)} frames, and maps of where it is unsure of {len(each.uncertain)}: "
                "draw it with its maps (stream=False)"
            )
    shares = {f"draft_{name}": [getattr(each, name) for each in drawn] for name in ("hole", "uncertain")}
    return {
        "draft": np.stack([video.resize(np.asarray(each.frames), size) for each in drawn]),
        **{name: np.stack([_resize(mask, size) for mask in masks]) for name, masks in shares.items()},
    }


def _resize(mask: AnyArray, size: tuple[int, int]) -> Float[np.ndarray, "T H W"]:
    """Average a mask, or shares from 0 to 1, over the pixels that become one of another size."""
    return np.stack(
        [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in np.asarray(mask, np.float32)]
    )


def share(uncertain: Float[np.ndarray, "T H W"]) -> Float[np.ndarray, "T H W"]:
    """Return how much of each pixel is the model's, 0 to 1."""
    reach = max(1, round(FADE * min(uncertain.shape[1:])))
    around = (2 * reach + 1,) * 2
    shares = np.empty(uncertain.shape, np.float32)
    for made, doubt in zip(shares, uncertain.astype(np.float32), strict=True):
        made[:] = np.clip((cv2.blur(cv2.dilate(doubt, np.ones(around)), around) - SURE) / (UNSURE - SURE), 0, 1)
    return shares


def paste(drawn: draft.Draft, repaired: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Lay a model's video over the draft of the same edit and size, where the draft is not sure."""
    shares, result = share(drawn.uncertain), np.array(drawn.frames)
    for t in range(len(result)):
        if shares[t].any():
            part = shares[t][..., None]
            result[t] = np.round(result[t] * (1 - part) + repaired[t] * part)
    return result
