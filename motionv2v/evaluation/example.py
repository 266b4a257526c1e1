"""Score the edit of the packaged example, whose true result is known because a program drew it."""

from motionv2v import trackers, tracks, video
from motionv2v.data.scenes.pairs import Pair
from motionv2v.editing import files
from motionv2v.evaluation import synthetic
from motionv2v.tracks import Tracks


def score(clip: video.Clip, edited: video.Clip, source: Tracks) -> dict[str, float]:
    """Score an edit of the example against its truth, next to what copying the source scores.

    Args:
        clip: the example's. edited: what became of it. source: the tracks of its points as they were found.

    Returns:
        {"follow_epe", "keep_epe" in pixels, "psnr" in dB}, and the same of the unedited clip with "_copy" behind.
    """
    truth = video.read(files.EXAMPLE / "target.mp4").frames
    true_tracks = tracks.load(files.EXAMPLE / "target_tracks.npz")
    pair = Pair(clip.frames, truth, source, true_tracks, files.moved(source, true_tracks), "", "object")
    tracker = trackers.get("classical")
    scores, copied = (synthetic.score(of.frames[None], [pair], tracker) for of in (edited, clip))
    names = ("follow_epe", "keep_epe", "psnr")  # of one pair there is no percentile
    return {name: scores[name] for name in names} | {f"{name}_copy": copied[name] for name in names}


def format_scores(scores: dict[str, float]) -> str:
    """Lay out scores in lines, what copying the source gives beside what the edit gives."""
    lines = [f"{'':12s}{'this edit':>12s}{'copying':>12s}   (against the example's known truth)"]
    for name, unit in (("follow_epe", "px"), ("keep_epe", "px"), ("psnr", "dB")):
        lines.append(f"{name:12s}{scores[name]:9.2f} {unit}{scores[name + '_copy']:9.2f} {unit}")
    return "\n".join(lines)
