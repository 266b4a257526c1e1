"""How much of a clip's motion another video has, whatever it shows: motion fidelity (Yatim et al. 2023), by tracks.

Of each track the directions of its steps are compared with those of every track of the other video (Motion Inversion,
equation 6):

    corr(a, b) = mean over frames of cos(step of a, step of b)
    mean over tracks a of max over b, and the same the other way round

The mean is over the frames in which a itself moves and is seen: where b does not, they agree as little as if b moved
across. (Over the frames in which both do, some b of many always agrees in the one frame that it shares with a.)

`MODES` name what is made of the two halves. "sum" is the equation as printed, up to 2; "mean" half of it; "dmt_code"
what the published script computes: the made video's half alone, after an identity matrix is taken from the
correlations, regardless of what is visible; a video compared with itself does not reach 1 there.

The maximum over many tracks grows with their number, and tracks of unrelated videos agree somewhat: the number of
tracks belongs to the result, and so does the score of a wrong pairing.
"""

import numpy as np

from motionv2v.tracks import Tracks
from motionv2v.typing import Float, UInt8

MODES = ("mean", "sum", "dmt_code")
STILL = 0.05
"""Steps shorter than this, in pixels, have no direction and do not count."""
LEAST = 3
"""Steps that a track must take to count, or all of a shorter clip: a single one agrees with something anywhere."""


def motion_fidelity(source: Tracks, made: Tracks, mode: str = "mean") -> float:
    """Compare the tracks of two videos, [N T 2] and [M T 2] in pixels; NaN where nothing moves in one of them.

    Raises ValueError for an unknown mode, and for tracks of different lengths.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r} of motion fidelity; available: {', '.join(MODES)}")
    if source.xy.shape[1] != made.xy.shape[1]:
        raise ValueError(f"the tracks have {source.xy.shape[1]} and {made.xy.shape[1]} frames; expected as many")
    if mode == "dmt_code":
        agreement = _in_common(made, source)
        return _mean_of_best(agreement - np.eye(*agreement.shape))
    halves = [_mean_of_best(_correlations(made, source)), _mean_of_best(_correlations(source, made))]
    return float(np.sum(halves) * (0.5 if mode == "mean" else 1.0))


def _correlations(rows: Tracks, columns: Tracks) -> Float[np.ndarray, "M N"]:
    """Return the mean cosine of the steps of every two tracks, over frames in which that of the row moves and is seen.

    NaN for rows that do so in too few (`LEAST`).
    """
    (of_rows, counts), (of_columns, _) = (_directions(tracks, True) for tracks in (rows, columns))
    total, moving = np.einsum("itc,jtc->ij", of_rows, of_columns), counts.sum(axis=1)[:, None]
    return np.where(moving >= max(1, min(LEAST, counts.shape[1])), total / np.maximum(moving, 1), np.nan)


def _in_common(rows: Tracks, columns: Tracks) -> Float[np.ndarray, "M N"]:
    """Return the mean cosine of the steps of every two tracks, over frames in which both move, seen or not."""
    directions, counts = zip(*(_directions(tracks, False) for tracks in (rows, columns)), strict=True)
    total, together = np.einsum("itc,jtc->ij", *directions), np.einsum("it,jt->ij", *counts)
    return np.where(together > 0, total / np.maximum(together, 1), np.nan)


def _directions(tracks: Tracks, is_weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return unit steps [N T-1 2], zeros where they do not count, and which do [N T-1]."""
    steps = np.diff(np.asarray(tracks.xy, np.float64), axis=1)
    length = np.linalg.norm(steps, axis=-1)
    counts = length > STILL
    if is_weighted:
        counts &= np.asarray(tracks.visible[:, 1:]) & np.asarray(tracks.visible[:, :-1])
    unit = np.where(counts[..., None], steps / np.maximum(length, STILL)[..., None], 0)
    return unit, counts.astype(np.float64)


def _mean_of_best(agreement: Float[np.ndarray, "M N"]) -> float:
    """Average the best of each row over the rows that have one."""
    there = ~np.isnan(agreement).all(axis=1)
    return float(np.nanmax(agreement[there], axis=1).mean()) if there.any() else float("nan")


def histogram_overlap(one: UInt8[np.ndarray, "T H W 3"], other: UInt8[np.ndarray, "S H W 3"], bins: int = 8) -> float:
    """Return how much of their colours two videos share, 0 to 1: what one shows of the other's look, for one."""
    edges = [np.linspace(0, 256, bins + 1)] * 3
    found = [np.histogramdd(frames.reshape(-1, 3), edges)[0] for frames in (one, other)]
    shares = [counts / counts.sum() for counts in found]
    return float(np.minimum(*shares).sum())


def consistency(features: Float[np.ndarray, "T F"]) -> dict[str, float]:
    """Return mean cosine similarities of a video's frames: `consecutive` ones, and `all_pairs` of different ones.

    Papers name either "temporal consistency", and they are different numbers. A still video has 1 in both. NaN for a
    single frame.
    """
    if len(features) < 2:
        return {"consecutive": float("nan"), "all_pairs": float("nan")}
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(length, 1e-12)
    similar = unit @ unit.T
    different = ~np.eye(len(unit), dtype=bool)
    return {"consecutive": float(np.diagonal(similar, 1).mean()), "all_pairs": float(similar[different].mean())}
