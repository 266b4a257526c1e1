"""Measure Motion Inversion: is a clip's motion in what is sampled with it, and is the clip's look not?

Protocol of `motion_inversion`, the paper's in kind: of each held-out scene the motion is learned, without a word on
what it shows, and three captions of other scenes are sampled with it, which name other colours. Rows are what is done
with what was learned (`USES`). `--compare` adds rows: `ablations`, `losses`, `starts`, `options`, or `all` of these
(`SETS`); settings such as `loss=debiased_v,qk=places`, learned anew; and another base, beside the first.

    fidelity     motion fidelity, mode "mean" (`evaluation.motion_fidelity`), by a grid of tracks found in both videos;
                 the json has modes "sum" and "dmt_code" too
    at rest      samples in which nothing moves, of which fidelity says nothing: they are in no mean of it
    text         share of the things that a caption names whose colour is found (`evaluation.text_to_video`)
    shapes       of these, the share whose shape is read right
    leak         how much of their colours sample and source share: less is better, and the base alone shares some too
    neighbours, all pairs
                 cosine similarity of the latents of neighbouring latent frames, and of all pairs of them
    clip_text, clip_consec, clip_allpairs
                 what CLIP says, as papers do (`evaluation.clip_scores`), with `--weights`, a folder with its files

The wrong pairing, each sample beside the next scene's, is the least that fidelity means anything above. With `--out`
what was learned and sampled is kept there, and the same command goes on where it was stopped.
"""

import ast
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import figures, files, schema, trackers
from motionv2v.data.scenes import shapes
from motionv2v.editing import motions, opening, transfer
from motionv2v.evaluation import clip_scores, motion_fidelity, scene_reader, synthetic, text_to_video
from motionv2v.evaluation.autoencoded import Autoencoder
from motionv2v.methods import motion_inversion
from motionv2v.tracks import Tracks
from motionv2v.training import inversion
from motionv2v.typing import UInt8

PROMPTS, GRID = 3, 10
"""Captions sampled with each motion, and rows and columns of the grid of tracks."""
VERSION = 1
"""Counts up when what is learned and sampled changes; what was kept then expires."""
COLUMNS = {
    "motion_fidelity": "fidelity",
    "at_rest": "at rest (%)",
    "text_agreement": "text (%)",
    "shapes": "shapes (%)",
    "leak": "leak (%)",
    "consecutive": "neighbours",
    "all_pairs": "all pairs",
    "clip_text": "clip_text",
    "clip_consec": "clip_consec",
    "clip_allpairs": "clip_allpairs",
}
ALONE, LEARNED, NOT_DEBIASED = "the base alone", "learned", "not debiased"
Rows = dict[str, dict[str, Any]]
USES: Rows = {
    LEARNED: {},
    "mean taken off": {"debias": "mean"},
    NOT_DEBIASED: {"debias": "none"},
    "without m^V": {"debias": "drop"},
    "from noise": {"start": "noise"},
    "from the inverted clip": {"start": "inverted"},
}
"""What is done with a learned motion, as rows. The first three are (c), (e) and (f) of the paper's ablation."""
SETS: dict[str, Rows] = {
    "ablations": {
        "(a) m^QK and m^V of frames": {"qk": "frames", "v": "frames"},
        "(b) m^QK of places, m^V of frames": {"qk": "places", "v": "frames"},
        "(d) m^QK and m^V of places": {"qk": "places", "v": "places"},
    },
    "losses": {f"loss {name}": {"loss": name} for name in motion_inversion.LOSSES},
    "starts": {"from the clip's low frequencies": {"start": "frequencies"}},
    "options": {
        "m^QK for pairs of one place": {"temporal_only": True},
        "m^QK alone": {"v": "none"},
        "rank 4": {"rank": 4},
    },
}
"""Further rows, by what `--compare` calls them."""
BESIDE = (LEARNED, NOT_DEBIASED)
"""Rows of further bases, after each base alone."""
AT_USE = ("debias", "start")
"""Settings of samples: a motion need not be learned anew for them."""


class Base(NamedTuple):
    """A base that motions are learned on: its name, what samples with it, its config and parameters, its rows."""

    name: str
    editor: Any
    loaded: Any
    rows: Rows


class Job(NamedTuple):
    """A source clip, what is sampled with its motion, and how; `kept` is the folder of what was made, or None."""

    source: UInt8[np.ndarray, "T H W 3"]
    prompts: list[str]
    steps: int
    num_steps: int
    guidance: float | None
    seed: int
    kept: Path | None


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_clips: int,
    seed: int,
    num_steps: int | None = None,
    out: str | None = None,
    weights: str | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    steps: int = inversion.STEPS,
) -> tuple[str, dict[str, Any]]:
    """Learn the motion of held-out scenes and score samples that follow it.

    Args:
        checkpoint: a text-to-video base, or a model on one. compare: names of `SETS`, further settings,
            "name=value,name=value", each a row, and further bases.
        num_clips, seed: which scenes. num_steps: of the samples; None: the model's own.
        out: a folder for `transferred.png` and for what is kept. weights: a folder with CLIP's files, None: no CLIP.
        progress: wraps the loop over rows and scenes. steps: of learning.

    Returns:
        Markdown, and scores by name: of the first base's motions, with `_base` of the base alone, `leak_none` without
        debiasing, `motion_fidelity_floor` of the wrong pairing; all of them once more with `_a` (full attention) or
        `_b` (along time alone), of the first base of each kind; and in `rows` those of every row.

    Raises:
        ValueError: for settings that are unknown, bases of another size, CLIP's files missing, and as `opening.load`.
    """
    sight = clip_scores.find(weights) if weights else None
    bases = _bases(checkpoint, compare)
    first = bases[0].editor
    num_steps, guidance = transfer.sampled_as(first.config, num_steps)
    scenes = synthetic.held_out_pairs(first, num_clips * (1 + PROMPTS), seed, num_points=1)
    kept = Path(out) / "kept" if out else None
    jobs = [
        Job(scenes[i].target, _other_captions(i, scenes, num_clips), steps, num_steps, guidance, seed + i, kept)
        for i in range(num_clips)
    ]
    made = _made(bases, jobs, progress)
    scorer = Scorer(jobs, scene_reader.train(synthetic.scene_config(first, num_points=1)), Autoencoder(first), sight)
    results: dict[str, Any] = {}
    shown: dict[str, dict[str, float]] = {}
    for index, base in enumerate(bases):
        scores = {name: scorer.score(videos) for name, videos in made[index].items()}
        shown |= {name if index == 0 else f"{name}, {base.name}": row for name, row in scores.items()}
        found = scores[LEARNED] | {f"{name}_base": value for name, value in scores[ALONE].items()}
        found |= {
            "leak_none": scores[NOT_DEBIASED]["leak"],
            "motion_fidelity_floor": scorer.floor(made[index][LEARNED]),
        }
        results = (found if index == 0 else {}) | {f"{name}_{_port(base)}": x for name, x in found.items()} | results
    results["rows"] = shown
    text = (
        f"{num_clips} held-out scenes, {PROMPTS} captions each, {steps} steps of learning, {num_steps} of sampling; "
        f"motion fidelity in mode mean, {GRID * GRID} tracks (classical); wrong pairing "
        f"{results['motion_fidelity_floor']:.2f}{'' if sight is None else f'; {sight}'}\n{_format(shown)}"
    )
    if out:
        pictures = [("source", jobs[0].source), *zip(jobs[0].prompts, made[0][LEARNED][0], strict=True)]
        text += f"\nwrote {figures.save_png(Path(out) / 'transferred.png', figures.contact_sheet(pictures, 5))}"
    return text, results


def _made(
    bases: Sequence[Base], jobs: Sequence[Job], progress: Callable[[Iterable[int]], Iterable[int]]
) -> list[dict[str, list[UInt8[np.ndarray, "B T H W 3"]]]]:
    """Sample all rows of each base: {row: [videos of each clip]}."""
    cells = [(base, row) for base in bases for row in (ALONE, *base.rows)]
    samplers = {base.name: [Sampler(base, job) for job in jobs] for base in bases}
    made: dict[str, dict[str, list[np.ndarray]]] = {base.name: {} for base in bases}
    # Row by row: a model that samples another way is compiled anew.
    for index in progress(range(len(cells) * len(jobs))):
        base, row = cells[index // len(jobs)]
        sampler = samplers[base.name][index % len(jobs)]
        made[base.name].setdefault(row, []).append(sampler.row(base.rows.get(row)))
    return [made[base.name] for base in bases]


def _port(base: Base) -> str:
    return "b" if "t" in base.editor.config.dit.axes else "a"


def _bases(checkpoint: str, compare: Sequence[str]) -> list[Base]:
    """Load the bases with the rows of each, from what is compared; raises ValueError for what cannot be."""
    rows, names = dict(USES), [checkpoint]
    for text in compare:
        if text == "all":
            rows |= {name: settings for each in SETS.values() for name, settings in each.items()}
        elif text in SETS:
            rows |= SETS[text]
        elif "=" in text:
            rows[text] = _settings(text)
        else:
            names.append(text)
    bases: list[Base] = []
    for name in names:
        editor = opening.load(name)
        size = (editor.num_frames, *editor.size)
        if bases and size != (bases[0].editor.num_frames, *bases[0].editor.size):
            raise ValueError(f"{name} makes clips of another size than {checkpoint}: they cannot be compared")
        own = {each: rows[each] for each in BESIDE} if bases else rows
        for settings in own.values():  # what is impossible is said before anything is learned
            transfer.with_method(transfer.base_config(editor.config, name), settings)
        bases.append(Base(name, editor, transfer.load_base(name), own))
    return bases


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


class Sampler:
    """A base that learns one clip's motion, and samples with it: what rows share is made once."""

    def __init__(self, base: Base, job: Job):
        """Take the base and the clip; nothing is made yet."""
        self._base, self._job = base, job
        self._source = hashlib.sha256(np.ascontiguousarray(job.source)).hexdigest()
        self._learned: dict[str, motions.Motion] = {}
        self._inverted: np.ndarray | None = None

    def row(self, settings: dict[str, Any] | None) -> UInt8[np.ndarray, "B T H W 3"]:
        """Sample the clip's captions with its motion, learned and used by some settings; None: by the base alone."""
        job = self._job
        path = self._path(".npz", settings, prompts=job.prompts, num_steps=job.num_steps, guidance=job.guidance)
        return _kept(path, lambda: self._sample(settings))

    def _sample(self, settings: dict[str, Any] | None) -> UInt8[np.ndarray, "B T H W 3"]:
        job, editor = self._job, self._base.editor
        options: dict[str, Any] = {"num_steps": job.num_steps, "guidance": job.guidance, "notify": _quiet}
        if settings is not None:
            motion = self._learn({name: value for name, value in settings.items() if name not in AT_USE})
            at_use = {name: settings[name] for name in AT_USE if name in settings}
            if self._inverted is None:
                self._inverted = transfer.invert(editor, job.source, job.num_steps)
            options |= {"motion": motion._replace(settings=motion.settings | at_use), "inverted": self._inverted}
        return np.asarray(editor.text_to_video(job.prompts, job.seed, **options))

    def _learn(self, settings: dict[str, Any]) -> motions.Motion:
        name, path = json.dumps(settings, sort_keys=True), self._path(".safetensors", settings)
        if name not in self._learned:
            if path is not None and path.is_file():
                self._learned[name] = motions.load(path)
                return self._learned[name]
            job, base = self._job, self._base
            options = {"steps": job.steps, "settings": settings, "seed": job.seed, "loaded": base.loaded, "say": _quiet}
            with tempfile.TemporaryDirectory() as folder:
                self._learned[name] = inversion.learn(job.source, "", base.name, Path(folder) / "run", **options)
            if path is not None:
                motions.save(path, self._learned[name])
        return self._learned[name]

    def _path(self, suffix: str, settings: Any, **more: Any) -> Path | None:
        """Return where something is kept: its name tells it from all else that is made here."""
        if self._job.kept is None:
            return None
        told = {"base": self._base.editor.base_digest(), "source": self._source, "version": VERSION}
        told |= {"steps": self._job.steps, "seed": self._job.seed, "settings": settings, **more}
        return self._job.kept / f"{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]}{suffix}"


def _quiet(line: str) -> None:
    del line


def _kept(path: Path | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Read videos that are kept in a file, or make them and keep them."""
    if path is None:
        return make()
    try:
        with np.load(path) as file:
            return file["videos"]
    except (OSError, ValueError, KeyError, EOFError):  # nothing there, or nothing whole
        videos = make()
    content = io.BytesIO()
    np.savez_compressed(content, videos=videos)
    files.write(path, content.getvalue())
    return videos


class Scorer:
    """What scores videos of `PROMPTS` captions for each of some clips: what is needed is worked out once."""

    def __init__(self, jobs: Sequence[Job], reader: Any, encoder: Any, sight: Any = None):
        """Take the clips, a reader of scenes, an autoencoder, and CLIP where it is at hand."""
        self._jobs, self._reader, self._encoder, self._sight = jobs, reader, encoder, sight
        self._tracks = [_tracks(job.source) for job in jobs]

    def score(self, made: Sequence[UInt8[np.ndarray, "B T H W 3"]]) -> dict[str, float]:
        """Return scores by the names of `COLUMNS`, and the other modes of motion fidelity."""
        videos = np.concatenate(made)
        captions = [caption for job in self._jobs for caption in job.prompts]
        sources = [job.source for job in self._jobs for _ in job.prompts]
        read = text_to_video.faithfulness(videos, captions, self._reader)
        pairs = zip(sources, videos, strict=True)
        leak = float(np.mean([motion_fidelity.histogram_overlap(source, video) for source, video in pairs]))
        moved = self._fidelity(self._tracks, made)
        scores = {"motion_fidelity": _mean(moved["mean"]), "at_rest": float(np.isnan(moved["mean"]).mean())}
        scores |= {f"motion_fidelity_{mode}": _mean(found) for mode, found in moved.items() if mode != "mean"}
        scores |= {"text_agreement": read["colours"], "shapes": read["shapes"], "leak": leak}
        latents = self._encoder.encode(videos)
        steady = [motion_fidelity.consistency(latent.reshape(len(latent), -1)) for latent in latents]
        scores |= {name: _mean([each[name] for each in steady]) for name in ("consecutive", "all_pairs")}
        if self._sight is not None:
            seen = [clip_scores.of_video(v, text, self._sight) for v, text in zip(videos, captions, strict=True)]
            scores |= {name: _mean([each[name] for each in seen]) for name in seen[0]}
        return scores

    def floor(self, made: Sequence[UInt8[np.ndarray, "B T H W 3"]]) -> float:
        """Return the motion fidelity of a wrong pairing: to the next clip's motion; NaN where there is one clip."""
        turned = self._tracks[1:] + self._tracks[:1]
        return _mean(self._fidelity(turned, made)["mean"]) if len(turned) > 1 else float("nan")

    def _fidelity(self, sources: Sequence[Tracks], made: Any) -> dict[str, list[float]]:
        """Compare each video's motion with that of its clip: {mode: [value, ...]}."""
        found: dict[str, list[float]] = {mode: [] for mode in motion_fidelity.MODES}
        for source, of_clip in zip(sources, made, strict=True):
            for tracks in map(_tracks, of_clip):
                for mode, values in found.items():
                    values.append(motion_fidelity.motion_fidelity(source, tracks, mode))
        return found


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what can be told, NaN where that is nothing."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _tracks(frames: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
    """Follow a grid of points from the first frame on."""
    height, width = frames.shape[1:3]
    x, y = np.meshgrid((np.arange(GRID) + 0.5) * width / GRID, (np.arange(GRID) + 0.5) * height / GRID)
    queries = np.stack([np.zeros(GRID * GRID), x.ravel(), y.ravel()], axis=1).astype(np.float32)
    return trackers.get("classical").track(frames, queries)


def _format(rows: dict[str, dict[str, float]]) -> str:
    columns = {name: title for name, title in COLUMNS.items() if any(name in scores for scores in rows.values())}
    lines = [f"| | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for name, scores in rows.items():
        values = (
            f"{100 * scores[key]:.0f}" if title.endswith("(%)") else f"{scores[key]:.2f}"
            for key, title in columns.items()
        )
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)
