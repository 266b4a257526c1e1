"""Find points again in a video that a model made, to see whether they go where they were sent."""

import numpy as np

from motionv2v import trackers
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray


def epe(frames: AnyArray, tracks: Tracks) -> float:
    """Return how far the points that the first frame shows are from their tracks, in pixels; NaN where it shows none.

    Args:
        frames: uint8 [T H W 3]. tracks: xy [N T 2] in its pixels, visible [N T].
    """
    seen = np.flatnonzero(tracks.visible[:, 0])
    if not seen.size or len(frames) < 2:
        return float("nan")
    queries = np.concatenate([np.zeros((len(seen), 1)), tracks.xy[seen, 0]], axis=1).astype(np.float32)
    found = trackers.get("classical").track(np.asarray(frames), queries)
    visible = tracks.visible[seen, 1:]
    away = np.linalg.norm(found.xy[:, 1:] - tracks.xy[seen, 1:], axis=-1)[visible]
    return float(away.mean()) if away.size else float("nan")
