"""Write files and folders whole or not at all, and take checksums of files.

What is being written lies in a hidden folder beside its place, `.NAME.*.part`, and is renamed into its place when it is
complete: whoever looks, and whatever kills the writer, finds the old content or the new and never a part. Several
writers of one path do not disturb one another, the last one wins. What fails is removed; what a killed writer left is
removed by the next one that writes the same path, once it is `STALE` seconds old.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STALE = 24 * 3600
"""Age in seconds from which the unfinished work of another writer counts as that of one that was killed."""


@contextlib.contextmanager
def partial(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path at which to write a file or a folder that is to appear at `path`, replacing what is there.

    The path has the same name as `path` has, for writers that choose a format by its ending. Folders on the way are
    created. If the block raises, `path` stays as it was. Raises OSError as writing does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):  # another writer may be removing it as well
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left)
    with _beside(path) as own:
        unfinished = own / path.name
        yield unfinished
        move(unfinished, path)


@contextlib.contextmanager
def partial_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder to fill, which is to appear at `path` with all that is in it; otherwise as `partial`."""
    with partial(path) as unfinished:
        unfinished.mkdir()
        yield unfinished


def write(path: str | os.PathLike, content: bytes | str) -> Path:
    """Write a file, text as UTF-8, and return its path; see `partial`."""
    with partial(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def check_place(path: str | os.PathLike, is_folder: bool = False) -> None:
    """Raise ValueError where a file, or a folder of them, cannot be made or written to; for before any work is done."""
    path = Path(path)
    if not is_folder and path.is_dir():
        raise ValueError(f"{path} is a folder, where a file of the results would go")
    place = path if is_folder else path.parent
    while not os.path.lexists(place):
        place = place.parent
    where = f"{path}: {'' if place == path else f'{place} '}is a"
    if not place.is_dir():
        raise ValueError(f"{where} file, expected a folder for the results")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{where} folder that may not be written to")


def move(source: str | os.PathLike, path: str | os.PathLike) -> Path:
    """Put a finished file or folder in its place on the same file system, replacing what is there; return the place.

    A file is replaced in one step. A folder can only be renamed away first; it comes back if the new one cannot be put
    there. Raises OSError, in that case too.
    """
    source, path = Path(source), Path(path)
    if not path.is_dir() or path.is_symlink():
        return source.replace(path)
    with _beside(path) as own:
        old = path.rename(own / path.name)
        try:
            return source.rename(path)
        except OSError:
            old.rename(path)
            raise


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Make a hidden folder beside a path for the time of a block."""
    name = {"prefix": f".{path.name}.", "suffix": ".part"}
    with tempfile.TemporaryDirectory(**name, dir=path.parent, ignore_cleanup_errors=True) as own:
        yield Path(own)
