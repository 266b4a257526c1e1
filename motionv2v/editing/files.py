"""One edit from files to files: a clip and an `edit.json` in; the edited clip, a comparison and a contact sheet out.

`launch/edit.py` calls `run`. Without a clip it edits the packaged example, whose true result is known.

Beside the result lies `record.json`: the edit, the seed, the clip and the model by their checksums, the settings of
sampling, and the versions of the libraries. The same edit may be made again in the same folder; another one is refused
unless it is told to replace what is there.
"""

import importlib.metadata
import json
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from motionv2v import ROOT, checkpoints, editing, figures, files, trackers, video
from motionv2v.convert import checked
from motionv2v.data import tokenizer
from motionv2v.devices import fit, memory, sharding
from motionv2v.edits import document
from motionv2v.tracks import Tracks

EXAMPLE = ROOT / "examples" / "shapes"
EDITED, RECORD, COMPARISON, SHEET = "edited.mp4", "record.json", "comparison.mp4", "contact_sheet.png"
_LIBRARIES = ("motionv2v", "jax", "jaxlib", "flax", "numpy", "av", "opencv-python-headless")


@dataclass
class Result:
    """What an edit made: the clips, the tracks and the files."""

    clip: video.Clip
    edited: video.Clip
    source: Tracks
    target: Tracks
    files: dict[str, Path]


def run(
    video_path: str | Path | None = None,
    edit_path: str | Path | None = None,
    *,
    checkpoint: str = "tiny",
    out: str | Path = "outputs",
    num_steps: int | None = None,
    guidance: float | None = None,
    cache: float | None = None,
    num_views: int | None = None,
    seed: int | None = None,
    devices: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Edit a clip as an `edit.json` says; write the edited clip, its record, a comparison and a contact sheet.

    The edited clip has the sound of the clip. Once it is written it stays, whatever befalls the files after it.

    Args:
        video_path, edit_path: both, or neither for the packaged example.
        checkpoint: a released name, a model folder or a training work dir.
        out: folder of the results: `edited.mp4`, `record.json`, `comparison.mp4`, `contact_sheet.png`.
        num_steps, guidance, cache, num_views: as for `Editor.edit`; None takes the model's.
        seed: None takes the edit's.
        devices: how many share the edit, as `memory.sampling_sizes` divides it; -1 takes all.
        overwrite: whether to replace the result of another edit in `out`.
        say: called with one line per step of the work, and with every notice.

    Returns:
        The clips, tracks and files; `example.score` measures those of the example.

    Raises:
        ValueError: (VideoError, EditError, CheckpointError) in one line, before anything is sampled or written: for
            bad input, for an `out` that cannot be written to or holds another edit, and where memory is too small.
    """
    if (video_path is None) != (edit_path is None):
        raise ValueError("an edit needs both --video and --edit, or neither for the packaged example")
    example, out = video_path is None, Path(out)
    video_path = EXAMPLE / "source.mp4" if example else Path(video_path)
    edit_path = EXAMPLE / "edit.json" if example else Path(edit_path)
    check_folder(out, inputs=(video_path, edit_path))
    spec = document.load(edit_path)
    # As wide as the first words of the other lines.
    spaced = lambda line: say(line.replace("memory ", "memory  ", 1))  # noqa: E731
    length, size = video.measure(video_path)
    fit.check_clip(min(length, spec.frames or length), size, say=spaced)
    clip = video.read(video_path, num_frames=spec.frames, notify=lambda line: say(f"notice  {line}"))
    frames = clip.frames
    video.check_writable(out / EDITED, clip.fps)
    spec = spec.validate_against(frames.shape[1:3], len(frames))
    name = "the packaged example" if example else video_path
    say(f"clip    {name}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}, {clip.fps:.3g} fps")
    settings = {"num_steps": num_steps, "guidance": guidance, "cache": cache, "num_views": num_views}
    seed = spec.seed if seed is None else seed
    record = make_record(edit_path, video_path, clip, checkpoint, seed, settings)
    if again := check_record(out, record, overwrite):
        say(f"notice  {again}")
    editor = load(checkpoint, devices, say=spaced)
    shared = "" if editor.mesh is None else f", {editor.mesh.size} devices: {sharding.describe(editor.mesh.shape)}"
    say(f"model   {checkpoint}: {editor.num_frames} frames of {editor.size[1]}x{editor.size[0]}{shared}")
    editor.check(len(spec.queries), num_steps, guidance)
    if notice := editor.model.vae.memory_notice(*editor.size):
        say(f"notice  {notice}")
    if plan := editor.reused_steps(cache, num_steps):
        say(f"cache   {len(plan) - sum(plan)} of {len(plan)} denoising steps are computed, the others extrapolated")
    source = trackers.get("classical").track(frames, spec.queries)
    target = spec.apply(source, notify=lambda line: say(f"notice  {line}"))
    say(f"tracks  {len(source.xy)} points, visible {source.visible.mean():.0%} of the time")
    options = {**settings, "prompt": spec.prompt or tokenizer.NULL_PROMPT, "seed": seed}
    edited = editor.edit(clip, source, target, **options, notify=lambda line: say(f"notice  {line}"))
    result = Result(clip, edited, source, target, {})
    result.files = write(out, result, record, sound=video_path, notify=lambda line: say(f"notice  {line}"))
    return result


def load(checkpoint: str | Path, devices: int = 1, *, say: Callable[[str], None] = print) -> editing.Editor:
    """Load an editor for so many devices, after saying what an edit needs of each.

    Raises:
        ValueError: as `device_mesh` and `editing.load`, and if the devices are too small, before weights are read.
    """
    config = checkpoints.read_config(checkpoints.resolve(checkpoint))
    editing.check_config(config, checkpoint)
    checked.expected_shapes(config, str(checkpoint))
    mesh = device_mesh(checkpoint, devices)
    fit.check(config, mesh, "sample", say=say)
    return editing.load(checkpoint, mesh)


def device_mesh(checkpoint: str | Path, count: int) -> jax.sharding.Mesh | None:
    """Build the mesh on which `count` devices share the edits of a checkpoint, None for one; -1 takes all there are.

    Raises ValueError for more devices than jax finds, and CheckpointError if there is no such checkpoint.
    """
    found = jax.devices()
    if count not in range(1, len(found) + 1) and count != -1:
        raise ValueError(f"{count} devices asked for; jax finds {len(found)} ({jax.default_backend()}); -1 takes all")
    found = found if count == -1 else found[:count]
    config = checkpoints.read_config(checkpoints.resolve(checkpoint))
    if len(found) == 1 or "dit" not in config:
        return None
    return sharding.make_mesh(memory.sampling_sizes(config, len(found)), devices=found)


def check_folder(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ValueError where no folder of results can be made or written to, before any work is done.

    Nor may a file of the results take the place of one that the edit is made from, `--overwrite` or not.
    """
    files.check_place(out, is_folder=True)
    for name in (EDITED, RECORD, COMPARISON, SHEET):
        files.check_place(out / name)
        for given in inputs:
            if (out / name).exists() and given.exists() and given.samefile(out / name):
                raise ValueError(f"{given} lies where {name} of the results would go: choose another folder (--out)")


def make_record(
    edit_path: Path,
    video_path: Path,
    clip: video.Clip,
    checkpoint: str,
    seed: int,
    settings: dict[str, float | int | None],
) -> dict[str, Any]:
    """Describe what makes a result, so that it can be made again: as json, without the names of folders.

    Settings that are None are those of the model; they are told as the model has them.
    """
    folder = checkpoints.resolve(checkpoint)
    config = checkpoints.read_config(folder)
    stored = json.loads((folder / checkpoints.CONFIG).read_text(encoding="utf-8")).get("weights")
    model = {"checkpoint": Path(checkpoint).name, "name": config.get("name", "")}
    # What the config says of the weights is checked when they are loaded.
    is_folder = isinstance(stored, dict) and "sha256" in stored
    model |= {"sha256": stored["sha256"]} if is_folder else {"step": checkpoints.latest_step(folder)}
    sample = dict(config.sample.to_dict()) if "sample" in config else {}
    given = {"num_steps": "num_steps", "guidance": "scale", "cache": "step_cache", "num_views": "views"}
    sample |= {given[name]: value for name, value in settings.items() if value is not None}
    if settings["guidance"] is not None:
        sample["guidance"] = "constant"
    height, width = clip.frames.shape[1:3]
    record = {
        "edit": json.loads(edit_path.read_text(encoding="utf-8-sig")),
        "seed": seed,
        "clip": {"file": video_path.name, "sha256": files.sha256(video_path), "frames": len(clip.frames)},
        "model": model,
        "settings": sample,
        "versions": {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
    }
    record["clip"] |= {"width": width, "height": height, "fps": clip.fps}
    return json.loads(json.dumps(record))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # run from its folder, or installed under another name
        return "unknown"


def check_record(out: Path, record: dict[str, Any], overwrite: bool = False) -> str:
    """Say in a sentence what earlier result will be replaced; "" where there is none.

    Raises ValueError for results of another edit, or of one that is not known, unless `overwrite`.
    """
    found = [name for name in (EDITED, RECORD, COMPARISON, SHEET) if (out / name).exists()]
    if not found:
        return ""
    try:
        before = json.loads((out / RECORD).read_text(encoding="utf-8"))
        differs = [name for name in record if name != "versions" and before.get(name) != record[name]]
    except (OSError, ValueError, AttributeError):
        differs = ["a record that cannot be read"]
    if not differs:
        return f"{out} holds the result of this very edit, which is replaced"
    what = f"{out} holds {found[0]} of another edit (it differs in {', '.join(differs)})"
    if not overwrite:
        raise ValueError(f"{what}: choose another folder (--out), or replace it (--overwrite)")
    return f"{what}, which is replaced"


def write(
    out: Path,
    result: Result,
    record: dict[str, Any],
    *,
    sound: str | os.PathLike | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> dict[str, Path]:
    """Write the edited clip with the sound of a file, its record, then what people look at; return what was written.

    The comparison and the contact sheet are drawn frame by frame. Where one of them fails the edited clip stays, and
    `notify` is called with the reason. Raises VideoError and OSError where the clip itself or its record cannot be
    written.
    """
    clip, edited = result.clip, result.edited
    if sound is not None and (len(edited.frames), edited.fps) != (len(clip.frames), clip.fps):
        notify("the edit has another length than the clip: it has no sound")
        sound = None
    made = {
        EDITED: _write_edited(out / EDITED, edited, sound, notify),
        RECORD: files.write(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n"),
    }
    drawn = figures.track_frames(clip.frames, result.target, highlight=moved(result.source, result.target))
    panels = [("source", clip.frames), ("target tracks", drawn), ("edited", edited.frames)]
    extras = {
        COMPARISON: lambda path: video.write(path, figures.frames_side_by_side(panels), fps=clip.fps),
        SHEET: lambda path: figures.save_png(path, figures.contact_sheet(panels)),
    }
    for name, make in extras.items():
        try:
            (out / name).unlink(missing_ok=True)  # an old one would show another edit
            made[name] = make(out / name)
        except Exception as error:  # whatever it is, memory included, the edit is finished
            reason = " ".join(str(error).split()) or type(error).__name__
            notify(f"{name} could not be made ({reason}); {EDITED} is complete")
    return made


def _write_edited(
    path: Path, edited: video.Clip, sound: str | os.PathLike | None, notify: Callable[[str], None]
) -> Path:
    """Write the edited clip; without sound where no file can be made with it: the pictures took longer to make."""
    try:
        return video.write(path, edited, sound=sound, notify=notify)
    except video.VideoError as error:
        if sound is None:
            raise
        notify(f"the sound of {sound} cannot be carried over ({error}): the result has none")
        return video.write(path, edited, notify=notify)


def moved(source: Tracks, target: Tracks, at_least: float = 0.5) -> np.ndarray:
    """Tell which points [N] an edit moves, by more than `at_least` pixels in some frame, or shows or hides."""
    far = np.linalg.norm(np.asarray(target.xy) - np.asarray(source.xy), axis=-1).max(-1) > at_least
    return far | (np.asarray(source.visible) != np.asarray(target.visible)).any(-1)
