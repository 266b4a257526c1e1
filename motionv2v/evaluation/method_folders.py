"""What methods made of a suite's items, on disk: where it is found, and how it is read.

    OUTPUTS/METHOD/ID.mp4 or OUTPUTS/METHOD/ID/00000.png ...    what a method made of an item
    OUTPUTS/METHOD/method.json                                  what it says of itself; may be left out

A video of another length or size than the suite's is resampled, frame i of F from frame round(i (G - 1) / (F - 1)) of
G, and stretched to the suite's size.
"""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import figures, files, video
from motionv2v.data.videos.files import SUFFIXES
from motionv2v.editing import inputs
from motionv2v.evaluation import footage
from motionv2v.typing import UInt8

ABOUT = "method.json"
SCORES = "scores"
"""The folder of the results beside the methods' by default; no method may have its name."""


class Method(NamedTuple):
    """A method: its name and folder, what it says of itself, and its videos of no item, by name."""

    name: str
    folder: Path
    about: dict[str, Any]
    strangers: Sequence[str]


def find(places: Iterable[Path], ids: Collection[str], out: Path, taken: Collection[str] = ()) -> list[Method]:
    """List the methods of folders, sorted by name.

    Args:
        places: each holds methods, or is one itself: where videos of items or method.json lie in it. ids: of a suite's
            items. out: where results go, which is no method. taken: names that none may have.

    Raises:
        ValueError: in one line, for what is no folder, names that are taken or that two methods have, and a method.json
            that cannot be read.
    """
    methods: dict[str, Method] = {}
    for place in places:
        if not place.is_dir():
            raise ValueError(f"{place} is {'a file' if place.exists() else 'not there'}; expected a folder of methods")
        inner = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for folder in [place] if _is_method(place, ids) else inner:
            name = folder.resolve().name  # of "." as well
            if name == SCORES or folder.resolve() == out.resolve():
                continue
            if name in taken:
                raise ValueError(f"{folder}: a row of the table is named so; expected another name for a method")
            if name in methods:
                raise ValueError(f"{methods[name].folder} and {folder} have one name; expected one for each method")
            inside = [p.stem if _is_file(p) else p.name for p in sorted(folder.iterdir()) if _is_video(p)]
            strangers = [each for each in inside if each not in ids]
            methods[name] = Method(name, folder, _about(folder / ABOUT), strangers)
    return [methods[name] for name in sorted(methods)]


def place(outputs: Sequence[Path], of: str | Path) -> Path:
    """Return where results go by default: beside the first method, or into the suite's folder where there is none."""
    if not outputs:
        return Path(of) / SCORES
    first = outputs[0]
    ids = [path.name for path in (Path(of) / "items").iterdir()] if (Path(of) / "items").is_dir() else []
    if first.is_dir() and _is_method(first, ids):
        first = first.parent if first.name not in ("", "..") else first.resolve().parent
    return first / SCORES


def _is_method(folder: Path, ids: Collection[str]) -> bool:
    """Tell a method's own folder from one of methods, of which one may be named as an item is."""
    return any(
        path.name == ABOUT
        or (_is_file(path) and path.stem in ids)
        or (path.name in ids and path.is_dir() and footage.pictures_in(path))
        for path in folder.iterdir()
        if not path.name.startswith(".")
    )


def _is_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_video(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or _is_file(path))


def _about(path: Path) -> dict[str, Any]:
    """Read what a method says of itself."""
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"), parse_constant=str)  # NaN is no JSON
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} holds no object; expected such as {{'name': ..., 'steps': ...}}")
    return about


def output(folder: Path, name: str) -> Path | None:
    """Find what a method made of an item; raises ValueError for two of them."""
    candidates = [folder / f"{name}{suffix}" for suffix in sorted(SUFFIXES)] + [folder / name]
    there = [path for path in candidates if path.exists()]
    if len(there) > 1:
        raise ValueError(f"{there[0]} and {there[1].name} are both there; expected one of them")
    return there[0] if there else None


def read(path: Path, num_frames: int, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "T H W 3"], list[str]]:
    """Read an output as a suite measures it, and say how that differs from the file.

    Raises ValueError, one line, for what cannot be read.
    """
    if path.is_dir():
        pictures = footage.pictures_in(path)
        if not pictures:
            raise ValueError(f"{path} holds no pictures; expected 00000.png and so on")
        frames, notes = [inputs.read_image(picture) for picture in pictures], []
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"{path}: its pictures are of several sizes")
        frames = np.stack(frames)
    else:
        frames, notes = np.asarray(video.read(path, notify=lambda line: None).frames), [f"read from {path.suffix[1:]}"]
    if frames.shape[:3] != (num_frames, *size):
        count, height, width = frames.shape[:3]
        notes.append(f"resampled from {count} frames of {width}x{height}")
        frames = video.resize(frames[_resampled(count, num_frames)], size)
    return frames, notes


def write(path: Path, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
    """Write an output as pictures, without loss, all of them or none."""
    with files.partial_folder(path) as unfinished:
        for index, frame in enumerate(frames):
            figures.save_png(unfinished / f"{index:05d}.png", frame)


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write what a method says of itself."""
    files.write(folder / ABOUT, json.dumps(about, indent=1) + "\n")


def _resampled(count: int, wanted: int) -> list[int]:
    """Return which frames stand for `wanted` ones, halves up."""
    return [math.floor(i * (count - 1) / (wanted - 1) + 0.5) for i in range(wanted)]
