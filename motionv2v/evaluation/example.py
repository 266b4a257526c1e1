"""Score the edit of the packaged example, whose true result is known because a program drew it."""

from collections.abc import Mapping

from motionv2v import trackers, tracks, video
from motionv2v.data.scenes.pairs import Pair
from motionv2v.editing import files, inputs
from motionv2v.tracks import Tracks

UNITS = {"follow_epe": "px", "keep_epe": "px", "psnr": "dB"}


def score(clip: video.Clip, edited: video.Clip, source: Tracks) -> dict[str, float]:
    """Score an edit of the example against its truth, next to what copying the source scores.

    Args:
        clip: the example's. edited: what became of it. source: the tracks of its points as they were found.

    Returns:
        {"follow_epe", "keep_epe" in pixels, "psnr" in dB}, and the same of the unedited clip with "_copy" behind.
    """
    from motionv2v.evaluation import synthetic  # late: it loads jax, and launch/edit.py draws drafts without

    truth = video.read(inputs.EXAMPLE / "target.mp4").frames
    true_tracks = tracks.load(inputs.EXAMPLE / "target_tracks.npz")
    pair = Pair(clip.frames, truth, source, true_tracks, files.moved(source, true_tracks), "", "object")
    tracker = trackers.get("classical")
    scores, copied = (synthetic.score(of.frames[None], [pair], tracker) for of in (edited, clip))
    # Of one pair there is no percentile.
    return {name: scores[name] for name in UNITS} | {f"{name}_copy": copied[name] for name in UNITS}


def format_scores(scores: Mapping[str, dict[str, float]]) -> str:
    """Lay out scores in a row each, by name, above the row of copying the source."""
    copied = next(iter(scores.values()))
    rows = {**scores, "copying": {name: copied[f"{name}_copy"] for name in UNITS}}
    lines = [f"{'':12s}" + "".join(f"{name:>13s}" for name in UNITS) + "   (against the example's known truth)"]
    for row, values in rows.items():
        lines.append(f"{row:12s}" + "".join(f"{values[name]:10.2f} {unit}" for name, unit in UNITS.items()))
    return "\n".join(lines)


def report(result: files.Result) -> str:
    """Score what was made of the example, the draft and the result of a model alike, and lay it out."""
    made = {} if result.draft is None else {"draft": result.draft}
    if result.edited is not result.draft:
        made["this edit"] = result.edited
    return format_scores({name: score(result.clip, clip, result.source) for name, clip in made.items()})
