"""One edit from files to files: a clip and an `edit.json` in; the edited clip, a comparison and a contact sheet out.

`launch/edit.py` calls `run`. A clip is drawn as a draft unless a model is named; beside that of the packaged example,
whose true result is known, a model's is made, so that one sees both.

Beside the result lies its record (`records`). The same edit may be made again in the same folder; another one is
refused unless it is told to replace what is there.
"""

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from motionv2v import figures, files, progress, trackers, video
from motionv2v.data import tokenizer
from motionv2v.draft.given import Hint
from motionv2v.editing import depths, drafted, inputs, records
from motionv2v.editing.inputs import Inputs
from motionv2v.editing.records import COMPARISON, DRAFT, EDITED, RECORD, SHEET
from motionv2v.tracks import Tracks

EXAMPLE_MODEL = "tiny_repair"
_DRAWN = "draft   drawn from the clip's own pixels, without a model"
_REFINED = f"; a model refines it: --checkpoint={EXAMPLE_MODEL}, or one of your own"
_MODEL_FLAGS = {
    "num_steps": "--num_steps",
    "guidance": "--guidance",
    "cache": "--step_cache",
    "num_views": "--views",
    "clocks": "--clocks",
    "warped": "--warped_noise",
    "loras": "--lora",
    "depth": "--depth",
    "inverse_depth": "--inverse_depth",
    "seed": "--seed",
}


@dataclass
class Result:
    """What an edit made: the clips, the tracks and the files.

    `draft` is the draft, where one was drawn; `beside` what a model made, where the draft is the result.
    """

    clip: video.Clip
    edited: video.Clip
    source: Tracks
    target: Tracks
    files: dict[str, Path]
    draft: video.Clip | None = None
    beside: video.Clip | None = None


def needs_jax(video_path: str | Path | None, checkpoint: str | None, tracker: str = trackers.DEFAULT) -> bool:
    """Tell whether `run` loads jax, which takes seconds: for a model, and for a tracker that is one."""
    kind = tracker.partition(":")[0]
    return _chosen(video_path, checkpoint) != DRAFT or kind not in (*trackers.CLASSICAL_MODES, trackers.GIVEN)


def _chosen(video_path, checkpoint):
    return checkpoint or (EXAMPLE_MODEL if video_path is None else DRAFT)


def run(
    video_path: str | Path | None = None,
    edit_path: str | Path | None = None,
    *,
    checkpoint: str | None = None,
    out: str | Path = "outputs",
    tracker: str = trackers.DEFAULT,
    masks: str | Path | None = None,
    boxes: Sequence[str] = (),
    num_steps: int | None = None,
    guidance: float | None = None,
    cache: float | None = None,
    num_views: int | None = None,
    clocks: str | None = None,
    warped: float | None = None,
    loras: Sequence[str] = (),
    depth: str | Path | None = None,
    inverse_depth: bool | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    devices: int = 1,
    overwrite: bool = False,
    keep: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Edit a clip as an `edit.json` says; write the edited clip, its record, a comparison and a contact sheet.

    The edited clip has the clip's sound, and stays once it is written, whatever befalls the files after it.

    Args:
        video_path, edit_path: both, or neither for the packaged example. checkpoint: "draft", or a model: a released
            name, a model folder or a training work dir. None draws the draft, and of the example a model's beside it.
        out: folder of the results. tracker: as for `trackers.named`. masks, boxes: where the one thing is that the edit
            moves, for the draft (`drafted.with_shape`). prompt: what the video shows; None takes the edit's.
        num_steps, guidance, cache, num_views: as for `Editor.edit`; None takes the model's. seed: None: the edit's.
        clocks, warped, loras: of a base that refines the draft: "weak,strong" (`refine.Clocks`), as for
            `Refiner.refine`, and FILE or FILE:weight of what is merged into it (`convert.lora`).
        depth, inverse_depth: of the clip, for a model that makes its first frame move (`depths.load_clip`).
        devices: how many share the edit; -1: all. overwrite: whether to replace the result of another edit in `out`.
        keep: a folder for what was done so far (`watching.Kept`), to go on from. say: called with each step and notice.

    Returns:
        The clips, tracks and files; `example.score` measures those of the example.

    Raises:
        ValueError: (VideoError, EditError, CheckpointError, ConvertError) in one line, before anything is sampled or
            written: for bad input, an `out` that is not writable or holds another edit, and too little memory.
    """
    notify, out = lambda line: say(f"notice  {line}"), Path(out)
    model = _chosen(video_path, checkpoint)
    video_path, edit_path = inputs.paths(video_path, edit_path)
    settings: dict[str, Any] = {"num_steps": num_steps, "guidance": guidance, "cache": cache, "num_views": num_views}
    settings |= {"clocks": clocks, "warped": warped, "loras": tuple(loras) or None}
    settings |= {"depth": depth, "inverse_depth": inverse_depth}
    _check_settings(model, settings | {"seed": seed}, devices)
    check_folder(out, inputs=(video_path, edit_path))
    follow = trackers.named(tracker, lambda line: say(f"tracks  {line}"))
    given = inputs.read(video_path, edit_path, masks=masks, boxes=boxes, prompt=prompt, say=say, stream=model == DRAFT)
    clip, spec, frames = given.clip, given.spec, given.clip.frames
    video.check_writable(out / EDITED, clip.fps)
    seed, is_drawn = spec.seed if seed is None else seed, checkpoint in (None, DRAFT) or _opening().reads_draft(model)
    hints = _hints(given, is_drawn, notify)
    made_by = describe(checkpoint or DRAFT, settings, len(frames))
    record = records.make(given, made_by, seed, tracker) | _told_hints(hints, masks, boxes)
    records.check(out, record, overwrite, notify)
    sample = None if model == DRAFT else _sampler(given, model, settings, seed, devices, say, (keep, record), follow)
    if is_drawn:
        say(_DRAWN if model != DRAFT else _DRAWN + _REFINED)
    target = spec.apply(source := follow.track(frames, spec.queries), notify=notify)
    say(f"tracks  {len(source.xy)} points, visible {source.visible.mean():.0%} of the time")
    options = {"notify": notify, "say": lambda line: say(f"draft   {line}"), "stream": not sample}
    options["keep"] = sample is not None and _opening().follows_draft(model, warped)
    drawn = drafted.draw(frames, spec, source, hints, **options) if is_drawn else None
    shown, made = drawn and video.Clip(drawn.frames, clip.fps), sample and sample(source, target, drawn=drawn)
    first, second = (shown, made) if checkpoint is None else (made or shown, None)
    result = Result(clip, first, source, target, {}, shown, second)
    result.files = write(out, result, record, sound=video_path, notify=notify, say=say)
    if sample and keep:
        _watch(keep, record, say).clear()
    return result


def _watch(keep: str | Path | None, record: dict[str, Any], say: Callable[[str], None]) -> Any:
    """Return what hears how far a model's edit is: `watching.Kept` in a folder, for the edit of a record."""
    from motionv2v.editing import watching

    told = lambda line: say(f"edit    {line}")  # noqa: E731
    if keep is None:
        return watching.Watch(told)
    return watching.Kept(keep, hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest(), told)


def _told_hints(hints: list[Hint | None], masks: str | Path | None, boxes: Sequence[str]) -> dict[str, Any]:
    """Return what a record says of where an edit's things are; nothing where nobody says so."""
    content = drafted.digest(hints) if hints else ""
    told = {"sha256": content, "masks": masks and Path(masks).name, "boxes": list(boxes)}
    return {"hints": told} if content else {}


def _hints(given: Inputs, is_drawn: bool, notify: Callable[[str], None]) -> list[Hint | None]:
    """Read what an edit says of where its things are, for a draft; without one say that nothing reads it."""
    spec, (length, *size, _) = given.spec, given.clip.frames.shape
    if is_drawn:
        if spec.region or spec.reference:
            notify("region and reference are for models of ReVideo: the draft does not read them")
        return drafted.read_hints(spec, spec.divide(), tuple(size), length, notify)
    if any(step.shape for step in spec.steps):
        notify("masks, boxes and strokes are for the draft: a model does not read them")
    return []


def _opening() -> ModuleType:
    """Return what opens models; it loads JAX, which a draft does without."""
    from motionv2v.editing import opening

    return opening


def _check_settings(model: str, settings: dict[str, Any], devices: int) -> None:
    """Raise ValueError for settings of a model where a draft is asked for."""
    given = [_MODEL_FLAGS[name] for name, value in settings.items() if value is not None]
    given += ["--devices"] if devices != 1 else []
    if given and model == DRAFT:
        what = "is a setting" if len(given) == 1 else "are settings"
        raise ValueError(
            f"{', '.join(given)} {what} of a model, and the draft is drawn without one: name a model "
            f"(--checkpoint={EXAMPLE_MODEL}), or leave that out"
        )


def _sampler(
    given: Inputs,
    checkpoint: str,
    settings: dict[str, float | int | None],
    seed: int,
    devices: int,
    say: Callable[[str], None],
    kept: tuple[str | Path | None, dict[str, Any]],
    follow: trackers.Tracker,
) -> Callable[[Tracks, Tracks], video.Clip]:
    """Open a model, say what it is and needs, and check what is asked of it; return what edits the clip by tracks."""
    from motionv2v.devices import sharding
    from motionv2v.editing import kinds, opening

    notify, spec = lambda line: say(f"notice  {line}"), given.spec
    if opening.refines(checkpoint):
        return refiner(given.clip, spec.prompt, checkpoint, settings, seed, devices, say, kept)
    for name in ("clocks", "warped"):
        if settings[name] is not None:
            raise ValueError(
                f"{_MODEL_FLAGS[name]} is for a base that refines the draft, and {checkpoint} edits by itself: "
                "leave it out"
            )
    if settings["loras"]:
        raise ValueError(
            f"--lora is for a base that refines the draft, and {checkpoint} edits by itself: merge it with "
            "launch/convert.py, or leave it out"
        )
    animates = opening.animates(checkpoint)
    depth = _read_depth(given, checkpoint, settings, animates)
    shape = given.clip.frames.shape[:3]
    config = kinds.as_method(*kinds.described(checkpoint))
    asked = settings | {"num_views": opening.views_of_edit(config, settings["num_steps"], settings["num_views"])}
    editor = opening.load(checkpoint, devices, clip=shape, asked=asked, say=lambda line: say(spaced(line)))
    if depth and "nearness" not in editor.fields:
        raise ValueError(f"--depth: of no use to {checkpoint}, which reads no depth; leave it out")
    shared = "" if editor.mesh is None else f", {editor.mesh.size} devices: {sharding.describe(editor.mesh.shape)}"
    say(f"model   {checkpoint}: {editor.num_frames} frames of {editor.size[1]}x{editor.size[0]}{shared}")
    editor.check(len(spec.queries), settings["num_steps"], settings["guidance"])
    if notice := editor.model.vae.memory_notice(*editor.size):
        notify(notice)
    if plan := editor.reused_steps(settings["cache"], settings["num_steps"]):
        say(f"cache   {len(plan) - sum(plan)} of {len(plan)} denoising steps are computed, the others extrapolated")
    options = {
        name: value for name, value in settings.items() if name in ("num_steps", "guidance", "cache", "num_views")
    }
    options |= {"prompt": spec.prompt or tokenizer.NULL_PROMPT, "seed": seed, "notify": notify}
    options |= depth
    if animates and not isinstance(follow, trackers.GivenTracks):  # which knows the edit's points alone
        options["tracker"] = follow
    watch = _watch(*kept, say)
    if editor.model.method.remakes():
        from motionv2v.editing import remade

        unused = [_MODEL_FLAGS[name] for name in ("cache", "num_views") if options.pop(name) is not None]
        if unused:
            raise ValueError(f"{', '.join(unused)}: of no use to {checkpoint}, which makes a region anew; leave it out")
        return remade.editing(editor, given.clip, spec, progress=watch.begin, **options)
    if (spec.region or spec.reference) and not opening.reads_draft(checkpoint):  # which says it already
        notify("region and reference are for models of ReVideo: this one does not read them")
    return functools.partial(editor.edit, given.clip, watch=watch, **options)


def spaced(line: str) -> str:
    """Put the first word of a line on a model, such as "memory for sample: ...", into the column of such words."""
    word, _, rest = line.partition(" ")
    return f"{word:<8}{rest}"


def _read_depth(given: Inputs, checkpoint: str, settings: dict[str, Any], animates: bool) -> dict[str, np.ndarray]:
    """Read the depth of a clip for a model that makes its first frame move; empty where none is given.

    Raises ValueError for what is no depth of the clip, and for settings that mean nothing to the model.
    """
    useless = ("cache", "num_views") if animates else ("depth", "inverse_depth")
    unused = [_MODEL_FLAGS[name] for name in useless if settings[name] is not None]
    if unused:
        what = "makes a picture move" if animates else "reads no depth"
        raise ValueError(f"{', '.join(unused)}: of no use to {checkpoint}, which {what}; leave it out")
    if settings["depth"] is None:
        if settings["inverse_depth"]:
            raise ValueError("--inverse_depth says what --depth holds: give both")
        return {}
    return {"depth": depths.load_clip(settings["depth"], given.clip.frames, bool(settings["inverse_depth"]))}


def refiner(
    clip: video.Clip,
    prompt: str,
    checkpoint: str,
    settings: dict[str, Any],
    seed: int,
    devices: int,
    say: Callable[[str], None],
    kept: tuple[str | Path | None, dict[str, Any]],
) -> Callable[..., video.Clip]:
    """Open a base, say what it is and needs, and return what refines drafts of a clip with it (`refine.editing`).

    Arguments and errors as for `run`; `kept`: a folder for what was done so far, and the edit's record.
    """
    from motionv2v.editing import refine, warped_noise

    useless = ("cache", "num_views", "depth", "inverse_depth")
    unused = [_MODEL_FLAGS[name] for name in useless if settings[name] is not None]
    unused += ["--devices"] if devices != 1 else []
    if unused:
        raise ValueError(f"{', '.join(unused)}: of no use to {checkpoint}, which refines the draft; leave it out")
    notify = lambda line: say(f"notice  {line}")  # noqa: E731
    clocks = None if settings["clocks"] is None else refine.parse(settings["clocks"])
    if settings["warped"] is not None:
        warped_noise.check(settings["warped"])
    asked = {"num_frames": len(clip.frames), "clocks": clocks}
    asked |= {name: settings[name] for name in ("num_steps", "guidance")}
    base = refine.load(checkpoint, settings["loras"] or (), lambda line: say(spaced(line)), asked)
    clocks = clocks or base.clocks
    read = "is given the first frame" if base.reads_image else "text to video"
    say(f"model   {checkpoint}: {base.num_frames} frames of {base.size[1]}x{base.size[0]}, a base ({read})")
    taken = refine.settings(base.config, settings["num_steps"], settings["guidance"])
    say(
        f"refine  what moves is held to the draft up to a signal of {clocks.strong:g}, from {clocks.weak:g} on, what "
        f"stays up to {clocks.kept:g}; {taken['num_steps']} steps, guidance {taken['scale']:g}"
    )
    if settings["warped"] is not None:
        say(f"noise   goes along with the draft, a share of {settings['warped']:g} of it fresh")
        if not settings["loras"]:
            notify("--warped_noise: a base that was not trained for such noise wants a --lora that was")
    options = {name: settings[name] for name in ("num_steps", "guidance", "warped")} | {"clocks": clocks, "seed": seed}
    options |= {"prompt": prompt or tokenizer.NULL_PROMPT, "notify": notify}
    options["progress"] = _watch(*kept, say).begin
    return refine.editing(base, clip, **options)


def check_folder(
    out: Path, inputs: Sequence[Path] = (), names: Sequence[str] = (EDITED, RECORD, COMPARISON, SHEET)
) -> None:
    """Raise ValueError where no folder of results can be made or written to, before any work is done.

    Nor may a file of the results take the place of one that the edit is made from, `--overwrite` or not.
    """
    files.check_place(out, is_folder=True)
    for name in names:
        files.check_place(out / name)
        for given in inputs:
            if (out / name).exists() and given.exists() and given.samefile(out / name):
                raise ValueError(f"{given} lies where {name} of the results would go: choose another folder (--out)")


def describe(model: str, settings: dict[str, float | int | None], num_frames: int) -> dict[str, Any]:
    """Describe what makes a result, "draft" or a model with its settings of sampling, as `opening.record` does."""
    if model == DRAFT:
        return {"model": DRAFT, "settings": {}}
    from motionv2v.editing import opening

    return opening.record(model, settings, num_frames)


def write(
    out: Path,
    result: Result,
    record: dict[str, Any],
    *,
    sound: str | os.PathLike | None = None,
    notify: Callable[[str], None] = warnings.warn,
    say: Callable[[str], None] | None = None,
) -> dict[str, Path]:
    """Write the edited clip with the sound of a file, its record, then what people look at; return what was written.

    The comparison and the contact sheet are drawn frame by frame; `say` is called with how long that takes. Where one
    of them fails the edited clip stays, and `notify` is called with the reason. Raises VideoError and OSError where the
    clip itself or its record cannot be written.
    """
    clip, edited = result.clip, result.edited
    if sound is not None and (len(edited.frames), edited.fps) != (len(clip.frames), clip.fps):
        notify("the edit has another length than the clip: it has no sound")
        sound = None
    left = None if say is None else lambda line: say(f"write   {line}")
    made = {
        EDITED: _write_edited(out / EDITED, edited, sound, notify, left),
        RECORD: files.write(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n"),
    }
    panels = [] if result.draft is clip else [("source", clip.frames)]
    if len(result.target.xy):
        drawn = figures.track_frames(clip.frames, result.target, highlight=moved(result.source, result.target))
        panels.append(("target tracks", drawn))
    if result.draft is not None:
        panels.append(("draft", result.draft.frames))
    if result.draft is not edited:
        panels.append(("edited", edited.frames))
    if result.beside is not None:
        panels.append((EXAMPLE_MODEL, result.beside.frames))
    extras = {
        COMPARISON: lambda path: video.write(path, _counted(figures.frames_side_by_side(panels), path, left), clip.fps),
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


def _counted(frames: Any, path: Path, say: Callable[[str], None] | None) -> Iterator[np.ndarray]:
    """Yield the frames of a file that is being written, and say how long the rest takes."""
    return progress.counted(frames, f"{path.name}, frame", say)


def _write_edited(
    path: Path,
    edited: video.Clip,
    sound: str | os.PathLike | None,
    notify: Callable[[str], None],
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write the edited clip; without sound where no file can be made with it: the pictures took longer to make."""
    try:
        return video.write(path, _counted(edited.frames, path, say), edited.fps, sound=sound, notify=notify)
    except video.VideoError as error:
        if sound is None:
            raise
        notify(f"the sound of {sound} cannot be carried over ({error}): the result has none")
        return video.write(path, edited, notify=notify)


def moved(source: Tracks, target: Tracks, at_least: float = 0.5) -> np.ndarray:
    """Tell which points [N] an edit moves, by more than `at_least` pixels in some frame, or shows or hides."""
    far = np.linalg.norm(np.asarray(target.xy) - np.asarray(source.xy), axis=-1).max(-1) > at_least
    return far | (np.asarray(source.visible) != np.asarray(target.visible)).any(-1)
