"""A motion from files to files: a clip in, its motion as a file, and videos of other content that follow it.

`launch/transfer.py` calls `run`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import editing, figures, video
from motionv2v.data import tokenizer
from motionv2v.editing import kinds, motions, transfer
from motionv2v.editing.files import check_folder
from motionv2v.training import inversion
from motionv2v.typing import UInt8

BASE = "base_tiny"
"""The base that is taken unless another is named."""
FPS = 8.0
"""Of videos that follow several motions."""
OWN = re.compile(r"(transferred|comparison)_\d+\.mp4")
MOTION, SHEET, LEARNING = "motion.safetensors", "contact_sheet.png", "learning"


@dataclass
class Result:
    """What was made: the source as the base sees it (None where none was given), the videos, and the files."""

    source: UInt8[np.ndarray, "T H W 3"] | None
    videos: UInt8[np.ndarray, "B T H W 3"]
    motion: motions.Motion
    files: dict[str, Path]


def run(
    prompts: Sequence[str],
    *,
    video_path: str | Path | None = None,
    motion_paths: Sequence[str | Path] = (),
    weights: Sequence[float] = (),
    base: str = BASE,
    caption: str = "",
    out: str | Path = "outputs/transfer",
    settings: dict[str, Any] | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    **learning: Any,
) -> Result:
    """Learn the motion of a clip, or take motions that were learned, and sample prompts that follow it.

    Args:
        prompts: what the videos shall show.
        video_path: the clip to learn from; beside motions, what their samples start from.
        motion_paths: motions that were learned, added by `weights` (1 each by default).
        base: the text-to-video base, or a model on one. caption: what the clip shows.
        out: folder of the files; learning goes on from its folder `learning` where it was stopped.
        settings: fields of `config.method`; of motions from files only `debias` and `start` may be given.
        num_steps, guidance, seed: of the samples. say: called with a line on what is done.
        learning: further arguments of `training.inversion.learn`.

    Raises:
        ValueError: in one line, for files that cannot be read and settings that do not fit.
    """
    out, notify = Path(out), lambda line: say(f"notice  {line}")
    if video_path is None and not motion_paths:
        raise ValueError("expected a clip to learn from (--video), or motions that were learned (--motion)")
    if weights and not motion_paths:
        raise ValueError("weights are of motions that were learned (--motion), and none is given")
    if not prompts:
        raise ValueError("expected at least one prompt (--prompt): what the new video shall show")
    editing.check_config(config := kinds.described(base)[0], base)
    learns, has_source = not motion_paths, video_path is not None
    names = [f"transferred_{index}.mp4" for index in range(len(prompts))]
    beside = [f"comparison_{index}.mp4" for index in range(len(prompts))] if has_source else []
    inputs = tuple(map(Path, (*motion_paths, *([video_path] if has_source else []))))
    check_folder(out, inputs, (*([MOTION] if learns else []), SHEET, *names, *beside))
    settings, frames, fps = dict(settings or {}), None, None
    if has_source:
        frames, fps = inversion.read_clip(video_path, config, notify)
    if learns:
        say(f"motion  learning that of {video_path} on {base}: {learning.get('steps', inversion.STEPS)} steps")
        about = {"video": Path(video_path).name, "fps": float(fps)}
        motion = inversion.learn(
            frames, caption or tokenizer.NULL_PROMPT, base, out / LEARNING, prompts=prompts, settings=settings,
            about=about, seed=seed, say=notify, **learning,
        )  # fmt: skip
        motions.save(out / MOTION, motion)
    else:
        if learning_only := sorted({*settings, *learning} - {"debias", "start"}):
            raise ValueError(f"{', '.join(learning_only)}: for learning a motion, and this one is learned")
        if frames is None and settings.get("start", "noise") != "noise":
            raise ValueError(f"start={settings['start']}: expected the clip that samples start from too (--video)")
        found = [motions.load(path) for path in motion_paths]
        motion = found[0] if len(found) == 1 and not weights else motions.mixed(found, weights or [1.0] * len(found))
    motion = motion._replace(settings={**motion.settings, **settings})
    editor = editing.load(base)
    num_steps, guidance = transfer.sampled_as(editor.config, num_steps, guidance)
    inverted = None
    if frames is not None and motion.settings["start"] != "noise":
        say("start   turning the clip back into noise")
        inverted = transfer.invert(editor, frames, num_steps)
    elif motion.settings["start"] != "noise":
        notify(f"samples start from noise: start={motion.settings['start']} needs the clip too (--video)")
    say(f"sample  {len(prompts)} videos of {editor.num_frames} frames in {num_steps} steps")
    options = {"num_steps": num_steps, "guidance": guidance, "motion": motion, "inverted": inverted}
    made = editor.text_to_video(prompts, seed, notify=notify, **options)
    fps = fps or motion.about.get("fps", FPS)
    files = {MOTION: out / MOTION} if learns else {}
    files |= _write(out, names, beside, prompts, frames, made, fps, notify)
    return Result(frames, made, motion, files)


def _write(
    out: Path,
    names: Sequence[str],
    beside: Sequence[str],
    prompts: Sequence[str],
    source: UInt8[np.ndarray, "T H W 3"] | None,
    made: UInt8[np.ndarray, "B T H W 3"],
    fps: float,
    notify: Callable[[str], None],
) -> dict[str, Path]:
    """Write the videos, each beside the source where there is one, and the contact sheet of them all."""
    files = {}
    shown = [] if source is None else [("source", source)]
    for index, (prompt, result) in enumerate(zip(prompts, made, strict=True)):
        files[names[index]] = video.write(out / names[index], result, fps=fps)
        if beside:
            both = figures.side_by_side([*shown, (prompt, result)])
            files[beside[index]] = video.write(out / beside[index], both, fps=fps)
    rows = [*shown, *zip(prompts, made, strict=True)]
    files[SHEET] = figures.save_png(out / SHEET, figures.contact_sheet(rows, 5))
    others = {path.name for path in out.glob("*_*.mp4") if OWN.fullmatch(path.name)} - files.keys()
    if others:
        notify(f"{', '.join(sorted(others))}: of an earlier run in {out}")
    return files
