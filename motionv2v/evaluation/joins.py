"""Measure whether an edit in windows (`editing.windows`) shows where they meet, on pairs whose truth is known.

Frames that more than one window shows are held against those that one window alone shows:

    PSNR         of the squared error against the true target, pooled over pairs and frames
    step         mean absolute difference of neighbouring frames, over that of the true target's: above 1 something
                 moves, flickers or jumps that should not, below 1 it stands still or is blurred
    jump         how much larger than the true target's the largest such difference is, in levels of 255: the 95th
                 percentile over pairs and frames

At the ends of a clip one window is alone, and what was outside of the picture before or after is seen by none: the
two sets of frames are not equally hard.
"""

import numpy as np

from motionv2v.data.scenes.pairs import Pair
from motionv2v.editing.windows import Plan
from motionv2v.typing import Bool, Float, UInt8

COLUMNS = {"psnr": "PSNR (dB)", "step": "step / true step", "jump": "jump (levels)"}


def shared(plan: Plan) -> Bool[np.ndarray, "T"]:
    """Tell which frames of a clip more than one window shows."""
    counts = np.zeros(plan.num_frames, int)
    for first, last in plan.spans:
        counts[first : last + 1] += 1
    return counts > 1


def score(videos: UInt8[np.ndarray, "M T H W 3"], pairs: list[Pair], plan: Plan) -> dict[str, dict[str, float]]:
    """Score edits in windows where windows meet and elsewhere.

    Args:
        videos: the edits. pairs: what they should equal, as long. plan: of the windows, two or more.

    Returns:
        {"overlaps": {"psnr", "step", "jump"}, "elsewhere": the same, "all": the same}.
    """
    truths = np.stack([pair.target for pair in pairs])
    errors = np.stack([_squared(video, truth) for video, truth in zip(videos, truths, strict=True)])
    made, true = (np.stack([_steps(clip) for clip in clips]) for clips in (videos, truths))
    is_shared = shared(plan)
    frames = {"overlaps": is_shared, "elsewhere": ~is_shared, "all": is_shared | True}
    return {
        name: {
            "psnr": _psnr(errors[:, chosen]),
            # A step belongs to both of its frames.
            **_compare(*(steps[:, chosen[1:] & chosen[:-1]] for steps in (made, true))),
        }
        for name, chosen in frames.items()
    }


def _squared(video: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, "T"]:
    """Return each frame's mean squared error."""
    return np.square(video.astype(np.float32) - truth).mean((1, 2, 3))


def _steps(clip: np.ndarray) -> Float[np.ndarray, "S"]:
    """Return the mean absolute difference of neighbouring frames."""
    return np.abs(np.diff(clip.astype(np.float32), axis=0)).mean((1, 2, 3))


def _psnr(squared: np.ndarray) -> float:
    mean = float(squared.mean())
    return float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))


def _compare(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {"step": float(made.mean() / true.mean()), "jump": float(np.percentile(made - true, 95))}


def format_table(scores: dict[str, dict[str, float]], plan: Plan) -> str:
    """Lay out scores as markdown."""
    share = f"{shared(plan).mean():.0%} of the frames in overlaps"
    lines = [
        f"{plan.num_frames} frames in {len(plan.starts)} windows of {plan.window}, {share}:",
        f"| | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(f'{row[key]:.2f}' for key in COLUMNS)} |" for name, row in scores.items()]
    return "\n".join(lines)
