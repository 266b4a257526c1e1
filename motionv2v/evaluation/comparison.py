"""Compare ways of making a video's points go elsewhere: MotionV2V's protocol (section 4, figure 11) on held-out scenes.

Of a scene that moves for 2 F - 1 frames the first half, reversed, is given, and the second half shall be made: they
share their first frame, in which points are taken on a grid, whose paths in both halves are exact. All models get the
same items, each what it can take:

    from the video          MotionV2V: the given half, and the paths in both; what reads drafts also pasted into these
    from one picture        Motion Prompting: the first frame, and the paths to go
    locally                 ReVideo: the first frame, and the paths to go, with the whole frame as the region

The items are a suite (`suite`, protocol motionv2v) and what models make of them outputs, scored as any method's
(`scoring`), beside the target, the given half, the first frame held and the draft. The paper finds models that see the
video before those that see one picture, and these before local ones.
"""

import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import draft, editing
from motionv2v.data.scenes import pairs
from motionv2v.data.scenes.motion import Motion
from motionv2v.data.scenes.pairs import Pair, Scene, SceneConfig
from motionv2v.editing import opening, repair
from motionv2v.evaluation import measures, method_folders, motion_prompting, remaking, report, scoring, suite, synthetic
from motionv2v.evaluation.drafts import Drafts, PairDrafts, Refined
from motionv2v.evaluation.scoring import Row
from motionv2v.evaluation.suite import Item, Suite
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

POINTS, FEWEST = 25, 3
"""Points of a scene; how many of them must go elsewhere in the target than in the source, or it is passed over."""
WAYS = ("from the video", "from one picture", "locally")
"""How a model edits, in the order in which the paper finds them, the best first."""
ORDERED = ("l2_later", "ssim_later", "lpips_later", "follow_epe")
"""Metrics by which that order is told."""
PASTED = "in_draft"
TAKEN = (*scoring.REFERENCES, method_folders.SCORES)
"""Names of rows and folders that no model may have."""
Progress = Callable[[Iterable[Any]], Iterable[Any]]
Videos = UInt8[np.ndarray, "M T H W 3"]


class Halves(NamedTuple):
    """The halves of a held-out scene: how each moves, and its points' exact paths, by "source" and "target".

    `scene` is what moves. Nothing is drawn before it is asked for.
    """

    scene: Scene
    motions: dict[str, Motion]
    tracks: dict[str, Tracks]

    def files(self) -> dict[str, Any]:
        """Draw both; the files of an item by name, as `protocols` makes them of a video."""
        content = {}
        for side, motion in self.motions.items():
            content[f"{side}.mp4"] = pairs.draw(self.scene.content, motion, self.scene.config)
            content[f"{side}_tracks.npz"] = self.tracks[side]
        return content

    def num_moved(self) -> int:
        """Count the points that go elsewhere by more than a pixel, over the frames in which both are seen."""
        source, target = self.tracks["source"], self.tracks["target"]
        both = source.visible & target.visible
        apart = np.linalg.norm(source.xy - target.xy, axis=-1) * both
        return int((apart.sum(1) > both.sum(1)).sum())


def halves(config: SceneConfig, seed: int, index: int, num_points: int = POINTS) -> Halves:
    """Choose a held-out scene and follow its points; of `config`, `num_frames` are those of one half."""
    scene, (height, width) = pairs.make_scene(config, seed, index, "test"), config.size
    side = round(num_points**0.5)
    steps = (np.arange(side) + 0.5) / side
    screen = np.stack([axis.ravel() for axis in np.meshgrid(steps * width / height, steps)], -1)
    motions, tracks = {}, {}
    for name, end in (("source", 0.0), ("target", 1.0)):
        motions[name] = replace(scene.target, times=np.linspace(0.5, end, config.num_frames))
        points = pairs.points_at(scene.content, motions[name], np.zeros(len(screen), int), screen, config)
        tracks[name] = pairs.track(scene.content, motions[name], points, config)
    return Halves(scene, motions, tracks)


def build(config: SceneConfig, count: int, seed: int, out: Path, num_points: int = POINTS) -> Suite:
    """Build a suite of held-out scenes in whose halves `FEWEST` points or more go elsewhere; resumable.

    Raises:
        ValueError: for a number of points that makes no grid, and where too few scenes move; as `suite.assemble`.
    """
    if round(num_points**0.5) ** 2 != num_points:
        raise ValueError(f"the points are a grid: expected a square number such as 25, given {num_points}")

    def items() -> Iterable[suite.Known]:
        found = 0
        for index in range(20 * count + 20):
            both = halves(config, seed, index, num_points)
            if both.num_moved() >= FEWEST:
                name, told = f"scene_{index:04d}", f"{config} {seed} {index} {num_points}"
                yield suite.Known(name, both.scene.content.caption, told, both.files)
                found += 1
            if found == count:
                return
        raise ValueError(f"of {20 * count + 20} scenes only {found} move in {FEWEST} points; expected {count}")

    settings = {"num_frames": config.num_frames, "size": tuple(config.size), "num_points": num_points}
    return suite.assemble("motionv2v", items(), out, seed=seed, **settings)


def way(editor: editing.Editor | Drafts) -> str:
    """Tell how a model edits, one of `WAYS`. Raises ValueError for one that follows no paths."""
    method = None if isinstance(editor, Drafts) else editor.model.method
    if isinstance(editor, Drafts) or (method is not None and method.edits()):
        return WAYS[0]
    if method is not None and (method.animates() or method.remakes()):
        return WAYS[1] if method.animates() else WAYS[2]
    raise ValueError(
        "the model follows no paths: expected one that edits a clip, animates a picture or remakes a region"
    )


def answer(
    editor: editing.Editor | Drafts,
    given: Sequence[Pair],
    drawn: Sequence[draft.Draft],
    seed: int,
    num_steps: int | None = None,
    num_views: int | None = None,
    progress: Progress = iter,
) -> tuple[Videos, Videos | None]:
    """Let a model make videos of what is `given` of items; of one that reads drafts also return them in `drawn` ones.

    `num_views` are of edits: what makes one picture move takes its own, and what edits locally one.
    """
    how = way(editor)
    if how == WAYS[0]:
        options = {"num_steps": num_steps, "num_views": num_views, "progress": progress}
        made = synthetic.edit_pairs(editor, given, seed=seed, drawn=drawn, **options)
        if isinstance(editor, Drafts) or not editor.reads_draft:
            return made, None
        return made, np.stack([repair.paste(*both) for both in zip(drawn, made, strict=True)])
    if how == WAYS[1]:
        most = max(len(pair.target_tracks.xy) for pair in given)
        none = np.zeros(most, bool)
        # The first frame in all of them: nothing of the video that shall come is at hand.
        held = [np.repeat(pair.source[:1], len(pair.source), axis=0) for pair in given]
        both = zip(held, given, strict=True)
        shown = [motion_prompting.Shown(frames, pair.target_tracks, pair.caption, none) for frames, pair in both]
        return motion_prompting.animate(editor, shown, most, seed, num_steps, progress), None
    everywhere = np.ones(given[0].source.shape[:3], bool)
    cases = [
        remaking.Case(pair.source, pair.source, everywhere, pair.target_tracks, pair.caption, pair.edited)
        for pair in given
    ]
    return remaking.make(editor, cases, seed, num_steps, progress), None


def given_of(item: Item) -> Pair:
    """Return what a method is given of an item: its target is the source, for nobody sees the true one."""
    source, paths = item.source(), (item.source_tracks(), item.target_tracks())
    return Pair(source, source, *paths, np.ones(len(paths[0].xy), bool), item.prompt, "reverse")


def write(folder: Path, items: Sequence[Item], videos: Videos, about: dict[str, Any]) -> None:
    """Write what a model made as a method's outputs: pictures without loss, and what it says of itself."""
    # It comes last: where it stands, all items are of what it says.
    (folder / method_folders.ABOUT).unlink(missing_ok=True)
    for item, frames in zip(items, videos, strict=True):
        method_folders.write(folder / item.id, frames)
    method_folders.write_about(folder, about)


def is_written(folder: Path, items: Sequence[Item], about: dict[str, Any]) -> bool:
    """Tell whether `write` wrote a folder to its end, of these items and with the same to say."""
    try:
        known = json.loads((folder / method_folders.ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return known == json.loads(json.dumps(about)) and all(method_folders.output(folder, item.id) for item in items)


def table(
    checkpoint: str,
    compare: Sequence[str],
    num_pairs: int,
    seed: int,
    num_steps: int | None = None,
    num_views: str | int | None = None,
    num_points: int | None = None,
    out: str | None = None,
    weights: str | None = None,
    net: str = "alex",
    progress: Progress = iter,
) -> tuple[str, dict[str, Any]]:
    """Compare models on held-out scenes, beside the target, the source, its first frame held, and the draft.

    Args:
        checkpoint, compare: as for `synthetic.table`, also of Motion Prompting and ReVideo; all of one size.
        num_pairs, seed: which scenes, and the noise. num_steps, num_views: of the samples; None takes each model's own.
        num_points: of an item; None takes `POINTS`. out: a folder for `suite`, `outputs` and their `scores`; the same
            command goes on there: released models and model folders that are done, with the same weights, settings and
            items, sample no more.
        weights, net: LPIPS is measured too with its files in a folder (`scoring.score`). progress: wraps loops.

    Returns:
        Markdown, and what `scores.json` holds, with "order": {metric: whether the paper's order holds by it}.

    Raises:
        ValueError: for a model that follows no paths, or not so many in so many steps, models of different sizes, or of
            one name; as `build`. Before anything is made.
    """
    names = [name for name in dict.fromkeys((checkpoint, *compare)) if name != "draft"]  # which has its row anyway
    if not names:
        raise ValueError("the draft alone is compared with nothing: name a model, --checkpoint=tiny")
    editors = {name: synthetic.open_editor(name) for name in names}
    ways = {name: way(editor) for name, editor in editors.items()}
    for editor in editors.values():
        editor.check(num_points or POINTS, num_steps)
    synthetic.check_one_size(editors)
    rows = row_names(names)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(out or temporary)
        config = replace(synthetic.scene_config(editors[names[0]]), min_points=1)
        found = build(config, num_pairs, seed, place / "suite", num_points or POINTS)
        of_way: dict[str, list[str]] = {each: [] for each in WAYS}
        given = [given_of(item) for item in found.items]
        drawn, checksum = PairDrafts(given), _checksum(found.items)
        for name, editor in editors.items():
            settings = {"num_steps": num_steps, "num_views": num_views and int(num_views)}
            about = {"name": rows[name], "way": ways[name], "seed": seed, "items_sha256": checksum}
            about |= model_of(name, editor, settings)
            mine = [rows[name], f"{rows[name]}_{PASTED}"][: 1 + (not isinstance(editor, Drafts) and editor.reads_draft)]
            of_way[ways[name]] += mine
            # Of a work dir and of a folder of diffusers nothing tells whether the weights are still the same.
            is_known = "sha256" in about["model"]
            if is_known and all(is_written(place / "outputs" / row, found.items, about) for row in mine):
                continue
            made = answer(editor, given, drawn, seed, progress=progress, **settings)
            for row, videos in zip(mine, made, strict=False):
                write(place / "outputs" / row, found.items, videos, about)
        options = {"weights": weights, "net": net, "say": print}
        scores = scoring.score(place / "suite", place / "outputs", **options)
        folder = report.write(scores, place / "outputs" / method_folders.SCORES)
    holds, words = order(scores.rows, scores.metrics, of_way)
    wrote = f"\nwrote {folder}/scores.html, .md, .csv and .json" if out else ""
    return f"{report.markdown(scores)}\n{words}{wrote}", report.content(scores) | {"order": holds}


def order(rows: Sequence[Row], metrics: Sequence[str], of_way: dict[str, list[str]]) -> tuple[dict[str, bool], str]:
    """Tell by each of `ORDERED` whether the best rows of each of `WAYS` come in that order; also in words.

    `of_way`: the rows by how they edit; a way without rows is left out, and of one alone nothing is told. A metric that
    a row has on no item, such as distances where no point counts, tells nothing and is left out as well.
    """
    present, holds = [each for each in WAYS if of_way[each]], {}
    if len(present) < 2:
        return {}, "Models of one way alone: nothing is said of an order."
    by_name = {row.name: row for row in rows}
    for metric in (each for each in ORDERED if each in metrics):
        means = {name: by_name[name].mean(metric)[0] for each in present for name in of_way[each]}
        if any(math.isnan(mean) for mean in means.values()):
            continue
        sign = 1 if measures.METRICS[metric].is_more_better else -1
        best = [max(sign * means[name] for name in of_way[each]) for each in present]
        holds[metric] = all(a > b for a, b in itertools.pairwise(best))
    told = ", ".join(f"{metric} {'yes' if value else 'no'}" for metric, value in holds.items())
    return holds, f"Edits {' before '.join(present)}, as the paper finds: {told or 'no metric tells'}."


def row_names(names: Sequence[str]) -> dict[str, str]:
    """Return the folders' names of models: the last part of where each lies, two of them where one is not enough.

    Raises ValueError for models that share even these.
    """
    parts = {name: Path(name.replace(":", "_")).parts for name in names}
    last = [part[-1] for part in parts.values()]
    rows = {
        name: "-".join(part[-2:]) if last.count(part[-1]) > 1 or part[-1] in TAKEN else part[-1]
        for name, part in parts.items()
    }
    if len(set(rows.values())) < len(rows) or set(TAKEN) & set(rows.values()):
        raise ValueError(
            f"the models' folders need names of their own, other than {', '.join(TAKEN)}: {', '.join(names)}"
        )
    return rows


def model_of(name: str, editor: editing.Editor | Drafts, settings: dict[str, Any]) -> dict[str, Any]:
    """Say which weights a model has and how it samples here (`answer`), as a record of an edit does."""
    asked = {**settings, "guidance": None}
    if isinstance(editor, Refined):  # which has no views
        clocks = f"{editor.clocks.weak:g},{editor.clocks.strong:g}"
        return opening.record(editor.base, asked | {"num_views": None, "clocks": clocks}, 1)
    own = opening.own_views(editor.config, settings["num_steps"])
    views = dict(zip(WAYS, (settings["num_views"], own, own), strict=True))
    return opening.record(name, asked | {"num_views": views[way(editor)]}, 1)


def _checksum(items: Sequence[Item]) -> str:
    """Return one checksum of all items' files and prompts."""
    told = [(item.id, item.prompt, item.files) for item in items]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
