"""Measure what a text-to-video base draws: does a sample show what its caption names, and does it hold together?

Protocol of `text_to_video`: the captions of held-out scenes ("green cross, yellow cross, rose": the two topmost things
and the ground) are sampled with guidance, and read by a small network that was trained on drawn scenes
(`scene_reader`). The scenes themselves, through the autoencoder, are the ceiling:

    colours         share of the named things whose colour fills one region of a plausible size in most of the frames
    shapes          share of those found by their colour whose shape is read right, by all frames together
    objects         how many things a frame shows on average, named or not
    coherence       how far, in grey levels, each frame is from the one before it moved by the flow between them
    gradients       mean difference of neighbouring pixels, of what the scenes have: below 1 is blurred
    latent_frechet  Frechet distance of clip features (means, spreads and changes of the latents' channels) to those of
                    as many other scenes; an own measure, not the FVD of papers
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v import editing, figures, metrics
from motionv2v.data.scenes import shapes
from motionv2v.editing import opening
from motionv2v.evaluation import distances, scene_reader, synthetic
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.typing import AnyArray, Float, UInt8

Videos = UInt8[np.ndarray, "M T H W 3"]
Progress = Callable[[Iterable[int]], Iterable[int]]
MOST_FRAMES = 0.6
"""The share of a clip's frames in which a thing must be found: things move behind others, and out of sight."""
COLUMNS = {
    "colours": "colours (%)",
    "shapes": "shapes (%)",
    "objects": "objects a frame",
    "coherence": "coherence (levels)",
    "gradients": "gradients",
    "latent_frechet": "latent Frechet",
}
BATCH = 25
"""Captions that are sampled together."""
IN_HUNDREDTHS = ("colours", "shapes")


class Row(NamedTuple):
    """One row of the table: what was sampled, its videos and their scores."""

    name: str
    videos: Videos
    scores: dict[str, float]


def named_things(caption: str) -> list[tuple[str, str]]:
    """Return the (colour, shape) of each thing that a scene's caption names."""
    words = [part.split() for part in caption.split(", ")]
    return [(color, shape) for color, shape in (pair for pair in words if len(pair) == 2)]


def faithfulness(videos: Videos, captions: Sequence[str], reader: scene_reader.Reader) -> dict[str, float]:
    """Score how much of what captions name is shown: `colours`, `shapes` (0 to 1; NaN if no colour is), `objects`."""
    found, right, counts = [], [], []
    for frames, caption in zip(videos, captions, strict=True):
        read = reader.read(frames)
        counts += [len(things) for things in read]
        for color, shape in named_things(caption):
            seen = [thing for things in read for thing in things if thing.color == color]
            found.append(len(seen) >= MOST_FRAMES * len(frames))
            if found[-1]:
                votes = np.sum([thing.shape for thing in seen], axis=0)
                right.append(shapes.SHAPES[int(votes.argmax())] == shape)
    shown = float(np.mean(right)) if right else math.nan
    return {"colours": float(np.mean(found)), "shapes": shown, "objects": float(np.mean(counts))}


def incoherence(frames: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Return how far each frame is from the one before moved by the flow between them: mean grey levels, 0 to 255."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    errors = []
    for before, now in itertools.pairwise(gray):
        height, width = now.shape
        # From now to where it was: `remap` asks every pixel where it came from.
        places = flow.calc(now, before, None) + np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        moved = cv2.remap(before, places.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        errors.append(float(np.abs(moved.astype(np.float32) - now).mean()))
    return float(np.mean(errors)) if errors else math.nan


def clip_features(latents: Float[AnyArray, "M t h w z"]) -> Float[np.ndarray, "M F"]:
    """Describe clips by their latents: each channel's mean, its spread over the clip, and its change in time."""
    latents = np.asarray(latents, np.float64)
    change = np.abs(np.diff(latents, axis=1)).mean((1, 2, 3)) if latents.shape[1] > 1 else 0 * latents.mean((1, 2, 3))
    return np.concatenate([latents.mean((1, 2, 3)), latents.std((1, 2, 3)), change], -1)


def latent_frechet(a: Float[np.ndarray, "M F"], b: Float[np.ndarray, "L F"]) -> float:
    """Return the Frechet distance of two sets of clip features, however small: the table says of how many clips."""
    return distances.frechet(a, b, fewest=2, notify=lambda _: None)


def sample(
    editor: editing.Editor,
    captions: Sequence[str],
    seed: int,
    num_steps: int | None = None,
    progress: Progress = iter,
) -> Videos:
    """Sample a video of each caption, in batches of one compiled size."""
    videos = []
    for first in progress(range(0, len(captions), BATCH)):
        chunk = list(captions[first : first + BATCH])
        padded = chunk + chunk[-1:] * (BATCH - len(chunk))
        sampled = editor.text_to_video(padded, seed + first, num_steps, notify=lambda line: None)
        videos.append(np.asarray(sampled)[: len(chunk)])
    return np.concatenate(videos)


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_clips: int,
    seed: int,
    num_steps: int | None = None,
    out: str | None = None,
    progress: Progress = iter,
) -> tuple[str, dict[str, float]]:
    """Sample captions of held-out scenes and score what comes out, beside the scenes through the autoencoder.

    Args:
        checkpoint, compare: as for `editing.opening.load`; the control branch of one that has one is not used.
        num_clips, seed: which held-out scenes, and the noise. num_steps: of the samples; None takes the model's own.
        out: a folder for `samples.png`, the first captions' samples. progress: wraps loops.

    Returns:
        Markdown, and the scores of `COLUMNS` by their names; with `_real` those of the scenes, with `_before` those of
        the first to compare.

    Raises:
        ValueError: for fewer than 2 clips, of which no distance can be told.
    """
    if num_clips < 2:
        raise ValueError(f"num_clips is {num_clips}; a distance of distributions needs at least 2")
    editor = opening.load(checkpoint)
    held_out = synthetic.held_out_pairs(editor, 2 * num_clips, seed, num_points=1)
    scenes, others = held_out[:num_clips], held_out[num_clips:]
    captions, encoder = [scene.caption for scene in scenes], Autoencoder(editor)
    reference = clip_features(encoder.encode(np.stack([other.target for other in others])))
    reader = scene_reader.train(synthetic.scene_config(editor, num_points=1), progress=progress)
    real = encoder.decode(encoder.encode(np.stack([scene.target for scene in scenes])))

    def row(name: str, videos: Videos) -> Row:
        scores = faithfulness(videos, captions, reader)
        scores["coherence"] = float(np.mean([incoherence(frames) for frames in videos]))
        scores["gradients"] = metrics.gradients(videos) / metrics.gradients(real)
        scores["latent_frechet"] = latent_frechet(clip_features(encoder.encode(videos)), reference)
        return Row(name, videos, scores)

    rows = []
    for name in (checkpoint, *compare):
        model = editor if name == checkpoint else opening.load(name)
        rows.append(row(name, sample(model, captions, seed, num_steps, progress=progress)))
    rows.append(row("the scenes, through the autoencoder", real))
    results = dict(rows[0].scores) | {f"{key}_real": value for key, value in rows[-1].scores.items()}
    if compare:
        results |= {f"{key}_before": value for key, value in rows[1].scores.items()}
    steps = editor.settings(num_steps, None).num_steps
    text = f"{num_clips} captions of held-out scenes, {steps} steps\n{format_table(rows)}"
    if out:
        path = Path(out) / "samples.png"
        figures.save_png(path, sheet(captions, rows[0].videos))
        text += f"\nwrote {path}"
    return text, results


def format_table(rows: Sequence[Row]) -> str:
    """Lay out rows as markdown."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row in rows:
        values = (
            f"{100 * row.scores[key]:.0f}" if key in IN_HUNDREDTHS else f"{row.scores[key]:.2f}" for key in COLUMNS
        )
        lines.append(f"| {row.name} | {' | '.join(values)} |")
    return "\n".join(lines)


def sheet(captions: Sequence[str], videos: Videos, most: int = 24) -> UInt8[np.ndarray, "h w 3"]:
    """Lay out the first, middle and last frame of samples under their captions."""
    return figures.contact_sheet([(caption, clip) for caption, clip in zip(captions[:most], videos, strict=False)], 3)
