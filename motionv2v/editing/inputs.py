"""Read what an edit is made from, files as a person gives them: the clip, and the `edit.json` held against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from motionv2v import ROOT, video
from motionv2v.devices import host
from motionv2v.editing import drafted
from motionv2v.edits import document
from motionv2v.edits.document import EditSpec
from motionv2v.typing import UInt8

EXAMPLES = ROOT / "examples"
EXAMPLE = EXAMPLES / "courtyard"
"""What is edited where no clip is named; `evaluation.example` loads it and the others, with their truth."""


@dataclass
class Inputs:
    """A clip and an edit of it that fit one another, and the files that they are from; no edit for the clip alone."""

    clip: video.Clip
    video_path: Path
    spec: EditSpec | None = None
    edit_path: Path | None = None


def paths(video_path: str | Path | None, edit_path: str | Path | None) -> tuple[Path, Path]:
    """Return the files of a clip and its edit, those of the packaged example for neither; ValueError for one alone."""
    if (video_path is None) != (edit_path is None):
        raise ValueError("an edit needs both --video and --edit, or neither for the packaged example")
    if video_path is None or edit_path is None:
        return EXAMPLE / "source.mp4", EXAMPLE / "edit.json"
    return Path(video_path), Path(edit_path)


def read(
    video_path: Path,
    edit_path: Path | None,
    *,
    masks: str | Path | None = None,
    boxes: Sequence[str] = (),
    prompt: str | None = None,
    say: Callable[[str], None],
    stream: bool = False,
) -> Inputs:
    """Read a clip and its edit, and say what the clip is and what memory it takes.

    Args:
        video_path: of the clip. edit_path: of the edit; None reads the clip alone.
        masks, boxes: where the one thing is that the edit moves, as for `drafted.with_shape`.
        prompt: in place of the edit's. say: called with one line per step, and with every notice.
        stream: whether a long clip stays out of memory, for what takes it frame by frame: all but models.

    Raises:
        ValueError: (VideoError, EditError) in one line, for what cannot be read, does not fit, or has no room.
    """
    spec = None if edit_path is None else document.load(edit_path)
    length, size = video.measure(video_path)
    wanted = None if spec is None else spec.frames
    spaced = lambda line: say(line.replace("memory ", "memory  ", 1))  # noqa: E731  (as the other lines)
    host.check_clip(min(length, wanted or length), size, stream=stream, say=spaced)
    clip = video.read(video_path, num_frames=wanted, notify=lambda line: say(f"notice  {line}"), stream=stream)
    num_frames, height, width, _ = clip.frames.shape
    if spec is not None:
        spec = drafted.with_shape(spec.validate_against((height, width), num_frames), masks, boxes)
        spec = spec.validate_against((height, width), num_frames)
        spec = spec if prompt is None else replace(spec, prompt=prompt)
    name = "the packaged example" if EXAMPLE in video_path.parents else video_path
    say(f"clip    {name}: {num_frames} frames of {width}x{height}, {clip.fps:.3g} fps")
    return Inputs(clip, video_path, spec, edit_path)


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, turned upright as its camera says. Raises ValueError naming the file, for one that is none."""
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is not a picture that can be read, such as png or jpeg") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: has more pixels than are read; make it smaller") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SyntaxError as error:  # which Pillow raises for damaged png
        raise ValueError(f"{path}: cannot be read ({error})") from error
