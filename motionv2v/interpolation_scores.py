"""Measure a generator of videos between two frames: known videos are made again from their ends, and compared."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from motionv2v import evaluate, figures
from motionv2v.interpolate import Interpolator
from motionv2v.typing import UInt8


def cross_fade(
    first: UInt8[np.ndarray, "H W 3"], last: UInt8[np.ndarray, "H W 3"], num_frames: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Blend from one frame into the other at even steps: what a generator has to beat."""
    weight = np.linspace(0, 1, num_frames, dtype=np.float32)[:, None, None, None]
    return np.round((1 - weight) * first + weight * last).astype(np.uint8)


def probe(
    interpolator: Interpolator, videos: UInt8[np.ndarray, "M T H W 3"], captions: Sequence[str]
) -> dict[str, Any]:
    """Generate videos again from their first and last frames, and compare.

    Args:
        interpolator: the model. videos: the true ones, at the model's frames and size. captions: one each.

    Returns:
        {"scalars": {"psnr", "psnr_cross_fade"} in dB, means over the videos; "videos": the first four, side by side}.
    """
    ends, tokens = videos[:, [0, -1]], interpolator.tokenizer.encode(captions)
    made = np.asarray(interpolator.generate(jax.random.key(0), ends, np.ones(len(videos), bool), tokens))
    faded = np.stack([cross_fade(*pair, videos.shape[1]) for pair in ends])
    shown = {
        f"between_{i}": figures.side_by_side([("cross-fade", faded[i]), ("generated", made[i]), ("true", videos[i])])
        for i in range(min(4, len(videos)))
    }
    return {"scalars": {"psnr": _psnr(made, videos), "psnr_cross_fade": _psnr(faded, videos)}, "videos": shown}


def _psnr(videos: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([evaluate.clip_psnr(*pair) for pair in zip(videos, truth, strict=True)]))
