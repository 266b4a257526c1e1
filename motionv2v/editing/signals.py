"""A draft that somebody else made, as Time-to-Move's authors keep theirs: a first frame, a motion signal, a mask.

The motion signal is a crude video of what shall move, the mask a video of the same length, white where the signal's
motion is to be obeyed. All around it is free from the weak clock on: nothing of it is taken for the clip's own. A base
that is given the first frame is given that picture, not the signal's.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motionv2v import draft, video
from motionv2v.draft import given
from motionv2v.editing import inputs


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
