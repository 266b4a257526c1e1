"""A clip as a file to take along: a video with its sound, a GIF, pictures in a zip, or a contact sheet."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from motionv2v import figures, files, video

FORMATS = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "zip": "application/zip",
    "png": "image/png",
}
"""Endings of the files and their kinds: `zip` holds every frame as PNG, `png` is the contact sheet."""


def write(
    path: str | Path, clip: video.Clip, sound: str | Path | None = None, notify: Callable[[str], None] = lambda _: None
) -> Path:
    """Write a clip in the format that a path ends in (`FORMATS`), with the sound of a file where the format has sound.

    Returns the path. Raises ValueError for another ending, and VideoError as `video.write`.
    """
    path = Path(path)
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise ValueError(f"there is no export as {path.suffix or path.name!r}; there are {', '.join(FORMATS)}")
    if ending == "png":
        return figures.save_png(path, figures.contact_sheet([(path.stem, clip.frames)]))
    if ending == "zip":
        return _write_pictures(path, clip)
    try:
        return video.write(path, clip, sound=None if ending == "gif" else sound, notify=notify)
    except video.VideoError as error:
        if sound is None or ending == "gif":
            raise
        notify(f"the sound of {Path(sound).name} cannot be carried over ({error}): the file has none")
        return video.write(path, clip, notify=notify)


def _write_pictures(path: Path, clip: video.Clip) -> Path:
    """Write each frame as frame_0000.png, one at a time."""
    with files.partial(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as packed:
        for index, frame in enumerate(clip.frames):
            picture = io.BytesIO()
            Image.fromarray(np.asarray(frame)).save(picture, "PNG")
            packed.writestr(f"frame_{index:04d}.png", picture.getvalue())
    return path


def to_bytes(name: str, clip: video.Clip, sound: str | Path | None, notify: Callable[[str], None]) -> bytes:
    """Return the content of a file of that name, as `write` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / name, clip, sound, notify).read_bytes()
