"""Whether points move as they do in real videos: what TRAJAN reads off half of a video's tracks about the other half.

Protocol (TRAJAN, arXiv 2504.21853): points are drawn anywhere in a video and tracked; of half of them, the support, the
network makes latents, and from these it reads off each of the others, given where that is in one frame, drawn among
those in which it is seen. The score is TAP-Vid's average Jaccard of what was read off against what was tracked, at
256x256, over all frames but that one, and the accuracy of saying when points are hidden. No target is needed.

A point counts as seen where (1 - s(v)) (1 - s(c)) <= 0.5, v and c the network's two logits and s the logistic function,
as in the authors' example; another reading, s(v) s(c) > 0.5, finds fewer.

The paper has 4,096 points and tracks them by BootsTAPIR; here they are fewer, and the tracker is the one of the table:
compare within one tracker only.
"""

from typing import Any

import numpy as np

from motionv2v import metrics
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

VERSION = 1
POINTS = 1024
"""Points of a video, half of them the support."""


def measure(frames: UInt8[np.ndarray, "T H W 3"], truth: Any) -> dict[str, float]:
    """Score a video by `truth.trajan`, of tracks by `truth.tracker`; NaN where no point is seen in two frames.

    Of a video that is longer than the network's clips its beginning is scored.
    """
    frames = frames[: truth.trajan.module.sizes.frames]
    rng, (length, height, width) = np.random.default_rng(0), frames.shape[:3]
    queries = rng.uniform((0, 0, 0), (length, width, height), (POINTS, 3)).astype(np.float32)
    queries[:, 0] = np.floor(queries[:, 0])
    return score(np.random.default_rng(1), truth.trajan, truth.tracker.track(frames, queries), (height, width))


def score(rng: np.random.Generator, network: Any, found: Tracks, size: tuple[int, int]) -> dict[str, float]:
    """Score tracks [N T 2] of a video of `size` (H, W), the first half of which are the support.

    `rng` draws each other point's frame. `network` is a `convert.trajan.Network`.
    """
    from motionv2v.models.features import trajan  # which loads jax

    xy, visible = np.asarray(found.xy, np.float32), np.asarray(found.visible)
    half, scaled = len(xy) // 2, xy / np.array(size[::-1], np.float32)
    rows = half + np.flatnonzero(visible[half:].sum(axis=1) > 1)
    if not len(rows) or not visible[:half].any():
        return {"trajan_jaccard": float("nan"), "trajan_occlusion": float("nan")}
    when = np.array([rng.choice(np.flatnonzero(visible[row])) for row in rows])
    made, seen = trajan.read_off(
        network.module, network.params, scaled[:half], visible[:half], scaled[rows, when], when
    )
    estimated = Tracks((made * np.array(size[::-1])).astype(np.float32), seen)
    told = metrics.tapvid(estimated, Tracks(xy[rows], visible[rows]), when, size)
    return {"trajan_jaccard": told["average_jaccard"], "trajan_occlusion": told["occlusion_accuracy"]}
