"""Measure Motion Inversion: is a clip's motion in what is sampled with it, and is the clip's look not?

Protocol of `motion_inversion`, the paper's in kind: of each held-out scene the motion is learned, without a word on
what it shows, and three captions of other scenes are sampled with it, which name other colours. Rows are what is done
with what was learned; `--compare=loss=debiased_v,qk=places` and the like learn it once more with other settings.

    fidelity     motion fidelity, mode "mean" (`evaluation.motion_fidelity`), by a grid of tracks found in both videos
    text         share of the things that a caption names whose colour is found (`evaluation.text_to_video`)
    shapes       of these, the share whose shape is read right
    leak         how much of their colours sample and source share: less is better, and the base alone shares some too
    neighbours, all pairs
                 cosine similarity of the latents of neighbouring latent frames, and of all pairs of them; CLIP's, which
                 papers use, takes weights that nobody ships here

The wrong pairing, each sample beside the next scene's, is the least that fidelity means anything above.
"""

import ast
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import figures, schema, trackers
from motionv2v.data.scenes import shapes
from motionv2v.editing import motions, opening, transfer
from motionv2v.evaluation import motion_fidelity, scene_reader, synthetic, text_to_video
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.tracks import Tracks
from motionv2v.training import inversion
from motionv2v.typing import UInt8

PROMPTS, GRID = 3, 10
"""Captions sampled with each motion, and rows and columns of the grid of tracks."""
COLUMNS = {
    "motion_fidelity": "fidelity",
    "text_agreement": "text (%)",
    "shapes": "shapes (%)",
    "leak": "leak (%)",
    "consecutive": "neighbours",
    "all_pairs": "all pairs",
}
USES: dict[str, dict[str, Any]] = {
    "learned": {},
    "mean taken off": {"debias": "mean"},
    "not debiased": {"debias": "none"},
    "without m^V": {"debias": "drop"},
    "from noise": {"start": "noise"},
    "from the inverted clip": {"start": "inverted"},
}
"""What is done with a learned motion, as rows."""


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_clips: int,
    seed: int,
    num_steps: int | None = None,
    out: str | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    steps: int = inversion.STEPS,
) -> tuple[str, dict[str, float]]:
    """Learn the motion of held-out scenes and score samples that follow it.

    Args:
        checkpoint: a text-to-video base, or a model on one. compare: further settings, "name=value,name=value", each
            learned again and a row. num_clips, seed: which scenes. num_steps: of the samples; None: the model's own.
        out: a folder for `transferred.png`. progress: wraps the loop over scenes. steps: of learning.

    Returns:
        Markdown, and scores by name: of the first row, with `_base` of the base alone, `leak_none` without debiasing,
        `motion_fidelity_floor` of the wrong pairing; all of them once more with `_a` (full attention) or `_b`.

    Raises:
        ValueError: for settings that are unknown, and as `opening.load`.
    """
    editor = opening.load(checkpoint)
    others = {text: _settings(text) for text in compare}
    for settings in others.values():  # what is impossible is said before anything is learned
        transfer.with_method(transfer.base_config(editor.config, checkpoint), settings)
    num_steps, guidance = transfer.sampled_as(editor.config, num_steps)
    scenes = synthetic.held_out_pairs(editor, num_clips * (1 + PROMPTS), seed, num_points=1)
    sources = [scene.target for scene in scenes[:num_clips]]
    prompts = [_other_captions(i, scenes, num_clips) for i in range(num_clips)]
    base = transfer.load_base(checkpoint)
    made: dict[str, list[np.ndarray]] = {name: [] for name in ("the base alone", *USES, *others)}
    for index in progress(range(num_clips)):
        options = {"num_steps": num_steps, "guidance": guidance, "seed": seed + index}
        found = _sampled(editor, checkpoint, base, sources[index], prompts[index], others, options, steps)
        for name, videos in found.items():
            made[name].append(videos)
    reader = scene_reader.train(synthetic.scene_config(editor, num_points=1))
    encoder = Autoencoder(editor)
    rows = {name: _score(sources, prompts, videos, reader, encoder) for name, videos in made.items()}
    floor = _fidelity(sources[1:] + sources[:1], made["learned"]) if num_clips > 1 else float("nan")
    results = dict(rows["learned"]) | {f"{name}_base": value for name, value in rows["the base alone"].items()}
    results |= {"leak_none": rows["not debiased"]["leak"], "motion_fidelity_floor": floor}
    port = "b" if "t" in editor.config.dit.axes else "a"
    results |= {f"{name}_{port}": value for name, value in results.items()}
    text = (
        f"{num_clips} held-out scenes, {PROMPTS} captions each, {steps} steps of learning, {num_steps} of sampling; "
        f"motion fidelity in mode mean, {GRID * GRID} tracks (classical); wrong pairing {floor:.2f}\n{_format(rows)}"
    )
    if out:
        shown = [("source", sources[0]), *zip(prompts[0], made["learned"][0], strict=True)]
        text += f"\nwrote {figures.save_png(Path(out) / 'transferred.png', figures.contact_sheet(shown, 5))}"
    return text, results


def _settings(text: str) -> dict[str, Any]:
    """Read "name=value,name=value" as fields of `config.method`."""
    found: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+=)", text):
        name, equals, value = part.partition("=")
        if not equals:
            raise schema.SchemaError(f"--compare={text}: expected settings such as loss=debiased_v,layers=0,1")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def _other_captions(index: int, scenes: Sequence[Any], num_clips: int) -> list[str]:
    """Choose captions of further scenes that name none of a scene's colours, as far as there are any."""
    colors = lambda caption: set(caption.replace(",", "").split()) - set(shapes.SHAPES)  # noqa: E731
    own = colors(scenes[index].caption)
    further = scenes[num_clips:]
    start = index * PROMPTS
    turned = [further[(start + k) % len(further)].caption for k in range(len(further))]
    shared = [len(own & colors(caption)) for caption in turned]
    return [turned[k] for k in np.argsort(shared, kind="stable")[:PROMPTS]]


def _sampled(
    editor: Any,
    checkpoint: str,
    base: Any,
    source: UInt8[np.ndarray, "T H W 3"],
    prompts: list[str],
    others: dict[str, dict[str, Any]],
    options: dict[str, Any],
    steps: int,
) -> dict[str, np.ndarray]:
    """Learn a clip's motion and sample all rows: {name: [PROMPTS T H W 3]}."""
    quiet, seed = (lambda line: None), options["seed"]
    with tempfile.TemporaryDirectory() as folder:

        def learn(name: str, settings: dict[str, Any]) -> motions.Motion:
            where = Path(folder) / name
            options = {"steps": steps, "settings": settings, "seed": seed, "loaded": base, "say": quiet}
            return inversion.learn(source, "", checkpoint, where, **options)

        motion = learn("learned", {})
        found = {name: motion._replace(settings=motion.settings | changed) for name, changed in USES.items()}
        found |= {name: learn(f"other{i}", settings) for i, (name, settings) in enumerate(others.items())}
    options = {**options, "notify": quiet}
    inverted = transfer.invert(editor, source, options["num_steps"])
    made = {"the base alone": np.asarray(editor.text_to_video(prompts, **options))}
    for name, each in found.items():
        made[name] = np.asarray(editor.text_to_video(prompts, **options, motion=each, inverted=inverted))
    return made


def _score(sources: Any, prompts: Any, made: Any, reader: Any, encoder: Any) -> dict[str, float]:
    videos = np.concatenate(made)
    captions = [caption for of_clip in prompts for caption in of_clip]
    read = text_to_video.faithfulness(videos, captions, reader)
    leaks = [
        motion_fidelity.histogram_overlap(source, video)
        for source, of_clip in zip(sources, made, strict=True)
        for video in of_clip
    ]
    latents = encoder.encode(videos)
    steady = [motion_fidelity.consistency(latent.reshape(len(latent), -1)) for latent in latents]
    return {
        "motion_fidelity": _fidelity(sources, made),
        "text_agreement": read["colours"],
        "shapes": read["shapes"],
        "leak": float(np.mean(leaks)),
        **{name: float(np.mean([each[name] for each in steady])) for name in ("consecutive", "all_pairs")},
    }


def _fidelity(sources: Any, made: Any) -> float:
    found = []
    for source, of_clip in zip(sources, made, strict=True):
        tracks = _tracks(source)
        found += [motion_fidelity.motion_fidelity(tracks, _tracks(video)) for video in of_clip]
    return float(np.nanmean(found))


def _tracks(frames: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
    """Follow a grid of points from the first frame on."""
    height, width = frames.shape[1:3]
    x, y = np.meshgrid((np.arange(GRID) + 0.5) * width / GRID, (np.arange(GRID) + 0.5) * height / GRID)
    queries = np.stack([np.zeros(GRID * GRID), x.ravel(), y.ravel()], axis=1).astype(np.float32)
    return trackers.get("classical").track(frames, queries)


def _format(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, scores in rows.items():
        values = (
            f"{100 * scores[key]:.0f}" if COLUMNS[key].endswith("(%)") else f"{scores[key]:.2f}" for key in COLUMNS
        )
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)
