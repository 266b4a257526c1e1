"""The videos of a folder: which there are, what they are called in a data set, and what is said about them.

Captions are those of `captions`, or else the words of the file's name.
"""

import hashlib
import os
import re
import unicodedata
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from motionv2v.data.videos import captions
from motionv2v.data.videos.captions import Captions

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
        notes: how the caption differs from what was written.
    """

    name: str
    path: str
    caption: str = ""
    id: str = ""
    split: str = "train"
    problem: str = ""
    notes: tuple[str, ...] = ()


class Found(NamedTuple):
    """What is in a folder.

    Attributes:
        videos: sorted by name. others: how many files of each ending are no videos.
        unused: the captions that no video has, one line each that says where it stands and why.
    """

    videos: list[Video]
    others: dict[str, int]
    unused: list[str]


def find(folder: str | os.PathLike, *, skip: str | os.PathLike | None = None, test_share: float = 0.0) -> Found:
    """List the videos below a folder, with their captions, and what else is in it.

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
    names, rest = _walk(folder, None if skip is None else Path(skip).resolve())
    others = dict(Counter(Path(name).suffix.lower() or "(no ending)" for name in rest))
    if not names:
        found = ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items())) or "no files"
        wanted = " ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} holds no videos (it holds {found}); endings looked for: {wanted}")
    said = Captions(folder, [name for name in rest if name.lower().endswith(".txt")])
    with ThreadPoolExecutor(16) as pool:  # files may be far away: wait for many at once
        contents = list(pool.map(lambda name: digest(folder / name), names))
    videos, first = [], {}
    for path, (content, problem) in zip(names, contents, strict=True):
        name = _readable(path)
        if content and content in first:
            problem = f"the same file as {first[content]}"
        first.setdefault(content, name)
        caption = said.take(path, fallback=words(name))
        videos.append(
            Video(
                name=name,
                path=str(folder / path),
                caption=caption.text,
                id=hashlib.sha256(f"{name}\n{content}".encode()).hexdigest()[:16],
                split="test" if zlib.crc32(content.encode()) < test_share * 2**32 else "train",
                problem=problem,
                notes=caption.notes,
            )
        )
    elsewhere = [name for name in rest if name not in captions.FILES and Path(name).name.lower() in captions.FILES]
    unread = [f"{name}: not read, only {' and '.join(captions.FILES)} of the folder itself are" for name in elsewhere]
    return Found(videos, others, [_readable(line) for line in (*said.unused(), *unread)])


def words(name: str) -> str:
    """Return the words of a file's name: "park/red-dog_run02.mp4" gives "red dog run"; numbers are left out."""
    stem = re.sub(r"([a-z])([A-Z])", r"\1 \2", Path(unicodedata.normalize("NFC", name)).stem)
    found = re.findall(r"[^\W\d_]+", stem)
    return " ".join(word.lower() for word in found if word.lower() not in _CAMERA_NAMES)


def _walk(folder: Path, skip: Path | None) -> tuple[list[str], list[str]]:
    """List the videos and the other files, as paths below the folder with "/", sorted."""
    names, others = [], []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(root) / f).resolve() != skip)
        for file in files:
            if file.startswith("."):
                continue
            path = Path(root) / file
            (names if path.suffix.lower() in SUFFIXES else others).append(path.relative_to(folder).as_posix())
    return sorted(names), sorted(others)


def _readable(name: str) -> str:
    """Return a file's name as people read it, also where its bytes are not UTF-8 and Python keeps them apart."""
    try:
        return captions.decode(os.fsencode(name))[0]
    except ValueError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")


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
