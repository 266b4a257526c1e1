"""Let models of this package make the videos of a suite's items: one more method's outputs each (`method_folders`).

What a model is given follows from how it edits, as in `comparison`, and each works at its own size and number of
frames, which outputs are brought back from:

    from the video          the item's source, and the points' paths in both; what reads drafts is pasted into these
    from one picture        the first frame, edited where the protocol has that, and the paths to go
    locally                 the source, the region to make anew, the whole frame where there is no mask, the paths to go

OUTPUTS/METHOD/made.json says what each video was made of and with, so that the same command goes on where it stopped.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import draft, files, progress, video
from motionv2v.editing import opening, refine
from motionv2v.evaluation import comparison, method_folders, suite
from motionv2v.evaluation.comparison import WAYS
from motionv2v.evaluation.suite import Item, Suite
from motionv2v.tracks import Tracks

DONE = "made.json"


def make(
    of: str | Path,
    outputs: str | Path,
    checkpoints: Sequence[str],
    *,
    seed: int = 0,
    num_steps: int | None = None,
    num_views: int | None = None,
    jitter: float = 0.0,
    devices: int = 1,
    say: Callable[[str], None] = print,
) -> dict[str, list[str]]:
    """Make the videos of a suite's items, of one model after another.

    Args:
        of: the suite's folder. outputs: gets a folder for each model, with pictures for each item.
        checkpoints: as for `editing.opening.load`, each once. seed: of the noise, the same for every item, and jitter.
        num_steps, num_views: of the samples; None takes each model's own. Views are of edits of videos.
        jitter: moves each point in each frame by up to so many pixels along x and y, in the paths that models see; 2 in
            MotionV2V (section 3.3). devices: how many share an edit. say: called with lines on what is done.

    Returns:
        The ids of what was made now, by the names of the methods' folders.

    Raises:
        ValueError: in one line, for what is no suite, for items without paths to go, models that follow no paths or
            need others than an item has, and as `editing.opening.load`.
    """
    if drafts := [name for name in checkpoints if name == "draft" or name.startswith(refine.PREFIX)]:
        raise ValueError(f"{drafts[0]} is no model: of drafts every table has a row, and launch/edit.py refines them")
    found, made = suite.load(of), {}
    if not all("target_tracks.npz" in item.files for item in found.items):
        raise ValueError(f"{of} says nowhere where points should go: launch/transfer.py makes videos that move as one")
    settings = {"num_steps": num_steps, "num_views": num_views}
    for name, row in comparison.row_names(list(dict.fromkeys(checkpoints))).items():
        editor = opening.load(name, devices, say=say)
        how = comparison.way(editor)
        if how == WAYS[0] and not all(_has_source_paths(item) for item in found.items):
            raise ValueError(f"{name} edits from the points' paths in the source, which items of {of} do not have")
        editor.check(max(len(item.target_tracks().xy) for item in found.items), num_steps)
        about = {"name": row, "way": how, "seed": seed, "jitter": jitter, **comparison.model_of(name, editor, settings)}
        options = {"seed": seed, "num_steps": num_steps} | ({"num_views": num_views} if how == WAYS[0] else {})
        made[row] = _make_all(editor, found, Path(outputs) / row, about, jitter, options, say)
    return made


def _make_all(
    editor: Any, found: Suite, folder: Path, about: dict, jitter: float, options: dict, say: Callable[[str], None]
) -> list[str]:
    """Make what a model has not made yet, and return its ids."""
    # Of a work dir and of a folder of diffusers nothing tells whether the weights are still the same.
    is_known, done = "sha256" in about["model"], _read(folder / DONE)
    wanted = {item.id: _digest(item, about) for item in found.items}
    for name in (name for name, digest in done.items() if not is_known or wanted.get(name) != digest):
        shutil.rmtree(folder / name, ignore_errors=True)
    files.check_place(folder, is_folder=True)
    method_folders.write_about(folder, about)
    done = {name: digest for name, digest in done.items() if (folder / name).is_dir()}
    told: set[str] = set()

    def notify(line: str) -> None:
        if line not in told:
            say(f"{folder.name}: {line}")
        told.add(line)

    todo = [item for item in found.items if item.id not in done]
    for item in progress.counted(todo, "item", say):
        frames = _make(editor, item, about["way"], jitter, options | {"notify": notify})
        method_folders.write(folder / item.id, frames)
        done[item.id] = wanted[item.id]
        files.write(folder / DONE, json.dumps(done, indent=1) + "\n")
    return [item.id for item in todo]


def _make(editor: Any, item: Item, how: str, jitter: float, options: dict[str, Any]) -> np.ndarray:
    """Return a model's video of an item, uint8 [T H W 3]."""
    given = {"prompt": item.prompt, **options}
    rng = np.random.default_rng([given["seed"], *hashlib.sha256(item.id.encode()).digest()[:4]])
    clip, source, target = video.Clip(item.source(), item.fps), item.source_tracks(), item.target_tracks()
    moved = [_moved(rng, paths, jitter) for paths in (source, target)]
    if how == WAYS[0]:
        if jitter and editor.reads_draft:  # which takes paths at their word
            given["drawn"] = draft.render(clip.frames, source, target, notify=lambda line: None)
        return editor.edit(clip, *moved, **given).frames
    if how == WAYS[1]:
        return editor.animate(item.first(), moved[1], fps=item.fps, **given).frames
    # Other protocols' masks say what things there are, and not what may change.
    region = item.mask() if "first.png" in item.files else np.ones(clip.frames.shape[1:3], bool)
    everywhere = np.repeat(region[None], len(clip.frames), axis=0)
    reference = item.first() if "first.png" in item.files else None
    return editor.remake(clip, everywhere, moved[1], reference=reference, **given).frames


def _has_source_paths(item: Item) -> bool:
    """Tell whether it is known where an item's points are in its source; in a held frame they rest."""
    return "source_tracks.npz" in item.files or "source.mp4" not in item.files


def _moved(rng: np.random.Generator, paths: Tracks, jitter: float) -> Tracks:
    shift = rng.uniform(-jitter, jitter, np.shape(paths.xy)).astype(np.float32)
    return Tracks(np.asarray(paths.xy) + shift, paths.visible)


def _digest(item: Item, about: dict[str, Any]) -> str:
    """Return a checksum of all that a model's video of an item depends on."""
    told = [item.prompt, item.fps, item.files, {name: value for name, value in about.items() if name != "name"}]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Read what was made before, by item; nothing where it cannot be read."""
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return done if isinstance(done, dict) else {}
