"""The videos of a folder: which there are, what they are called in a data set, and what is said about them.

Captions come from, in this order: a text file beside the video (dog.txt for dog.mp4); captions.json ({"path": "text"})
or captions.csv (path,text) in the folder, where the path is relative to it, a file name, or that without its ending;
else from the words of the file's name.
"""

import csv
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mj2 .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf "
    ".ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
"""Endings of files that are looked into; others are counted in the report."""

_CAMERA_NAMES = frozenset("img vid mov dsc dji pxl mvi gopro gh gx clip video final copy".split())
_SAMPLES, _BLOCK = 16, 65536


@dataclass(frozen=True)
class Video:
    """One video of a folder.

    Attributes:
        name: path below the folder, with "/". path: where the file is. caption: what it shows; may be empty.
        id: stands for name and content, in 16 hexadecimal digits. split: "train" or "test".
        problem: why the file cannot be used, where that shows from outside (empty, unreadable, there twice); else "".
    """

    name: str
    path: str
    caption: str = ""
    id: str = ""
    split: str = "train"
    problem: str = ""


def find(
    folder: str | os.PathLike, *, skip: str | os.PathLike | None = None, test_share: float = 0.0
) -> tuple[list[Video], dict[str, int]]:
    """List the videos below a folder, sorted by name, and count the endings of the files that are not videos.

    A file with the same content as one before it in the list gets a `problem`. Which split a video belongs to follows
    from its content alone, so it stays when others are added.

    Args:
        folder: searched with all folders in it; names that start with a dot are passed over.
        skip: a folder that is passed over, such as the one that is written.
        test_share: share of the videos, 0 to below 1, that go to split "test".

    Raises:
        ValueError: if there is no such folder or no video in it, or a caption file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of videos")
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share must be at least 0 and below 1, given {test_share}")
    names, others = _walk(folder, None if skip is None else Path(skip).resolve())
    if not names:
        found = ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items())) or "no files"
        wanted = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} holds no videos (it holds {found}); endings looked for: {wanted}")
    captions = _read_captions(folder)
    with ThreadPoolExecutor(16) as pool:  # files may be far away: wait for many at once
        contents = list(pool.map(lambda name: digest(folder / name), names))
    videos, first = [], {}
    for name, (content, problem) in zip(names, contents, strict=True):
        if content and content in first:
            problem = f"the same file as {first[content]}"
        first.setdefault(content, name)
        videos.append(
            Video(
                name=name,
                path=str(folder / name),
                caption=_caption(folder, name, captions),
                id=hashlib.sha256(f"{name}\n{content}".encode()).hexdigest()[:16],
                split="test" if zlib.crc32(content.encode()) < test_share * 2**32 else "train",
                problem=problem,
            )
        )
    return videos, others


def words(name: str) -> str:
    """Return the words of a file's name: "park/red-dog_run02.mp4" gives "red dog run"; numbers are left out."""
    stem = re.sub(r"([a-z])([A-Z])", r"\1 \2", Path(name).stem)
    found = re.findall(r"[^\W\d_]+", stem)
    return " ".join(word.lower() for word in found if word.lower() not in _CAMERA_NAMES)


def _walk(folder: Path, skip: Path | None) -> tuple[list[str], dict[str, int]]:
    names, others = [], Counter()
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(root) / f).resolve() != skip)
        for file in files:
            if file.startswith("."):
                continue
            path = Path(root) / file
            suffix = path.suffix.lower()
            if suffix in SUFFIXES:
                names.append(path.relative_to(folder).as_posix())
            else:
                others[suffix or "(no ending)"] += 1
    return sorted(names), dict(others)


def digest(path: Path) -> tuple[str, str]:
    """Return a digest of a file's size and of blocks spread evenly over it, and why it cannot be read, if so.

    Whole videos would take as long to digest as to decode; a change of a compressed video changes nearly all of it.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            return "", "the file is empty (0 bytes)"
        found = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES):
                file.seek(max(0, size - _BLOCK) * index // (_SAMPLES - 1))
                found.update(file.read(_BLOCK))
        return found.hexdigest(), ""
    except OSError as error:
        return "", f"cannot be read ({error.strerror or type(error).__name__})"


def _read_captions(folder: Path) -> dict[str, str]:
    """Read captions.json or captions.csv, if there is one."""
    path = folder / "captions.json"
    try:
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
                raise ValueError("expected an object of texts by path")
            return found
        path = folder / "captions.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                return {row[0]: _one(row) for row in csv.reader(file) if row}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not readable as captions ({error})") from None
    return {}


def _one(row: Sequence[str]) -> str:
    if len(row) != 2:
        raise ValueError(f"expected path,text in every line, given {','.join(row)!r}")
    return row[1].strip()


def _caption(folder: Path, name: str, captions: Mapping[str, str]) -> str:
    beside = (folder / name).with_suffix(".txt")
    try:
        if beside.is_file():
            return " ".join(beside.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        pass  # a text file that is no text: the name's words have to do
    path = Path(name)
    for key in (name, path.with_suffix("").as_posix(), path.name, path.stem):
        if key in captions:
            return captions[key]
    return words(name)
