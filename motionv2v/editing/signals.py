"""A draft that somebody else made, as Time-to-Move's authors keep theirs: a first frame, a motion signal, a mask.

The motion signal is a crude video of what shall move, the mask a video of the same length, white where the signal's
motion is to be obeyed. All around it is free from the weak clock on: nothing of it is taken for the clip's own. A base
that is given the first frame is given that picture, not the signal's. `run` goes from their files to ours, as
launch/edit.py does with --time_to_move.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import draft, files, trackers, video
from motionv2v.draft import given
from motionv2v.editing import inputs, records
from motionv2v.editing.files import Result, check_folder, refiner, write
from motionv2v.tracks import Tracks

FRAME, SIGNAL, MASK, PROMPT = "first_frame.png", "motion_signal.mp4", "mask.mp4", "prompt.txt"
"""How the names of the files end, the last of which may be missing."""
SETTINGS = ("num_steps", "guidance", "cache", "num_views", "clocks", "warped", "loras", "depth", "inverse_depth")
"""Of a model, as `files.run` takes them."""


def read(
    first_frame: str | Path,
    motion_signal: str | Path,
    mask: str | Path,
    notify: Callable[[str], None] = warnings.warn,
) -> tuple[video.Clip, draft.Draft]:
    """Read such a draft: `Refiner.refine(*signals.read(...), prompt=...)` makes a video of it.

    Args:
        first_frame: a picture. motion_signal: a video. mask: whatever `draft.given.read` takes, such as a video.
        notify: called with a sentence for what is resized or cut short.

    Returns:
        The signal with the picture as its first frame, and the same as a draft.

    Raises:
        ValueError: (VideoError) in one line, for files that cannot be read or do not fit one another.
    """
    clip, image = video.read(motion_signal), inputs.read_image(first_frame)
    frames = np.array(clip.frames)
    (rows, columns), size = image.shape[:2], frames.shape[1:3]
    if (rows, columns) != size:
        if abs(rows * size[1] / (columns * size[0]) - 1) > given.SAME_SHAPE:
            raise ValueError(
                f"{first_frame}: is {columns}x{rows}, and the motion signal {size[1]}x{size[0]}; expected the same "
                "proportions"
            )
        notify(f"the first frame is {columns}x{rows} and the motion signal {size[1]}x{size[0]}: it is resized")
        image = video.resize(image[None], size)[0]
    frames[0] = image
    found = given.read(mask, size, len(frames), notify=notify)
    moved = np.stack([found.get(t, np.zeros(size, bool)) for t in range(len(frames))])
    drawn = draft.Draft(frames, np.zeros_like(moved), moved.astype(np.int16), [[]], (~moved).astype(np.float32))
    return video.Clip(frames, clip.fps), drawn


def find(folder: str | Path) -> dict[str, Path]:
    """Find the files of a folder by how their names end, {`FRAME`: path, ...}, such as monkey_first_frame.png.

    Raises ValueError where one is missing, or there are several.
    """
    found = {}
    for name in (FRAME, SIGNAL, MASK, PROMPT):
        there = sorted(Path(folder).glob(f"*{name}"))
        if len(there) > 1 or (not there and name != PROMPT):
            has = ", ".join(path.name for path in there) or "none"
            raise ValueError(f"{folder}: expected one file whose name ends in {name}; there is {has}")
        if there:
            found[name] = there[0]
    return found


def run(
    folder: str | Path,
    edit_path: str | Path | None = None,
    *,
    checkpoint: str | None = None,
    out: str | Path = "outputs",
    tracker: str = trackers.DEFAULT,
    seed: int | None = None,
    prompt: str | None = None,
    devices: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> Result:
    """Refine a draft from such files to the files of an edit.

    Args:
        folder: of the files (`find`). checkpoint: a base, as for `files.run`; so are `out`, `overwrite` and `say`.
        seed, prompt: None takes 0, and that of the folder.
        settings: further ones of `files.run`. Those of other models, or of an edit.json, are refused.

    Raises:
        ValueError: as `files.run`.
    """
    from motionv2v.editing import opening

    out, notify = Path(out), lambda line: say(f"notice  {line}")
    of_edits = {"edit": edit_path, "tracker": None if tracker == trackers.DEFAULT else tracker}
    of_edits |= {"masks": settings.pop("masks", None), "box": settings.pop("boxes", None)}
    if unused := [f"--{name}" for name, value in of_edits.items() if value]:
        raise ValueError(f"{', '.join(unused)}: of no use to --time_to_move, whose files say what moves; leave it out")
    settings = dict.fromkeys(SETTINGS) | settings | {"loras": settings.get("loras") or None}
    if settings["warped"] is not None:
        raise ValueError("--warped_noise goes along with the draft of an edit.json, not --time_to_move: leave it out")
    if checkpoint is None or not opening.refines(checkpoint):
        raise ValueError(
            f"--time_to_move: {checkpoint or 'the draft'} refines nothing; name a base, such as --checkpoint=FOLDER of "
            "CogVideoX-5B-I2V, or refine:NAME for that of another model"
        )
    found = find(folder)
    check_folder(out, inputs=tuple(found.values()))
    clip, drawn = read(found[FRAME], found[SIGNAL], found[MASK], notify)
    if prompt is None and PROMPT in found:
        prompt = found[PROMPT].read_text(encoding="utf-8-sig").strip()
    say(f"clip    {folder}: {len(clip.frames)} frames of {clip.frames.shape[2]}x{clip.frames.shape[1]}")
    record = {"time_to_move": {name: files.sha256(path) for name, path in found.items()}, "prompt": prompt or ""}
    record |= {"seed": seed or 0, **opening.record(checkpoint, settings, len(clip.frames))}
    records.check(out, record, overwrite, notify)
    refined = refiner(clip, prompt or "", checkpoint, settings, seed or 0, devices, say, (None, record))
    nothing = Tracks(np.zeros((0, len(clip.frames), 2), np.float32), np.zeros((0, len(clip.frames)), bool))
    result = Result(clip, refined(nothing, nothing, drawn=drawn), nothing, nothing, {}, draft=clip)
    result.files = write(out, result, record, notify=notify, say=say)
    return result
