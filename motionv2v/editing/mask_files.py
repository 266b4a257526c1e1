"""Masks that a person has as files, kept in a workspace: one file for each thing, named by its content.

They come as `draft.given.read` takes them, or as a zip of such pictures, and lie as arrays `mask_FRAME`, bool [H W].
An operation of the project names its file as `masks/NAME.npz`; nothing else is read.
"""

import contextlib
import hashlib
import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files
from motionv2v.draft import given
from motionv2v.edits.fields import EditError, shown
from motionv2v.typing import Bool

FOLDER = "masks"
NAME = re.compile(FOLDER + r"/[0-9a-f]{16}\.npz")
MOST_BYTES, MOST_UNPACKED, MOST_PICTURES = 1 << 28, 1 << 30, 10_000
"""Of a file, of what is in it, and how many pictures that is."""
TAKEN = (*given.ARRAYS, *given.PICTURES, ".zip", ".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
"""Endings of files of masks that a page may send."""

ByFrame = dict[int, Bool[np.ndarray, "H W"]]


def read(path: Path, size: tuple[int, int], length: int, frame: int, notify: Callable[[str], None]) -> ByFrame:
    """Read masks of a clip of T frames (H, W); a single picture without a number is that of `frame`.

    Raises ValueError, one line, for what holds none, or is too large.
    """
    if path.suffix.lower() in (".zip", ".npz"):
        _check_archive(path)
    is_one = path.suffix.lower() in given.PICTURES and not re.search(r"\d", path.stem)
    with _folder(path) as place:
        try:
            return given.read(place, size, length, frame=frame if is_one else None, notify=notify)
        except ValueError as error:
            raise ValueError(str(error).replace(str(place), path.name)) from None


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise ValueError(f"{path.name} is not a zip of masks that can be read, or is damaged: pack it again") from None
    if len(infos) > MOST_PICTURES or sum(info.file_size for info in infos) > MOST_UNPACKED:
        raise ValueError(
            f"{path.name} holds more than {MOST_PICTURES} masks or {MOST_UNPACKED >> 20} MiB; make a smaller one"
        )


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Unpack the pictures of a zip, without their folders, for a block; another file is yielded as it is."""
    if path.suffix.lower() != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        seen = set()
        for info in archive.infolist():
            name = Path(info.filename.replace("\\", "/")).name
            if info.is_dir() or name.startswith(".") or Path(name).suffix.lower() not in given.PICTURES:
                continue
            if name in seen:
                raise ValueError(f"{path.name} has two pictures {name[:80]}: put the masks of one thing in one zip")
            seen.add(name)
            try:
                content = archive.read(info)
            except (zipfile.BadZipFile, RuntimeError, OSError):
                raise ValueError(f"{path.name}: {name[:80]} cannot be unpacked") from None
            (Path(folder) / name).write_bytes(content)
        if not seen:
            raise ValueError(f"{path.name} has no pictures in it; expected {', '.join(given.PICTURES)}")
        yield Path(folder)


def keep(workspace: Path, masks: ByFrame) -> str:
    """Keep masks in a file that is named by its content; returns the name that an operation gives."""
    kept = io.BytesIO()
    np.savez_compressed(kept, **{f"mask_{frame}": masks[frame] for frame in sorted(masks)})
    content = kept.getvalue()
    name = f"{FOLDER}/{content_name(content)}"
    if not (workspace / name).is_file():
        files.write(workspace / name, content)
    return name


def content_name(content: bytes) -> str:
    """Name a file by its content."""
    return f"{hashlib.sha256(content).hexdigest()[:16]}.npz"


def named(project: dict[str, Any]) -> Iterator[str]:
    """Yield the files of masks that a project names."""
    for operation in project["operations"]:
        if operation["op"].get("masks") is not None:
            yield operation["op"]["masks"]


def check_name(value: Any, workspace: Path | None = None) -> None:
    """Raise EditError for anything but the name of a file that `keep` made, and that is there."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise EditError(f"masks: must be masks that were sent to the editor, got {shown(value)}; send the file")
    if workspace is not None and not (workspace / value).is_file():
        raise EditError(f"masks: {value} is not in the workspace; send the file again")
