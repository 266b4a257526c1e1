"""Benchmarks on disk, made from any folder of videos: what a method is given, and what it should make of it.

    SUITE/manifest.json       protocol, seed, frames, size, rate, and the items with the SHA-256 of their files
    SUITE/items/ID/           source.mp4, or source.png (one frame); target.mp4; first.png, mask.png
                              source_tracks.npz, target_tracks.npz: xy [N T 2] in pixels, visible [N T]
                              as far as the protocol has them

Videos are H.264 in RGB without loss: `video.read` gives the exact pixels, and few browsers play them.

What an item is, each protocol says: `protocols`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import figures, files, progress, trackers, tracks, video
from motionv2v.editing import inputs
from motionv2v.evaluation import footage
from motionv2v.evaluation.protocols import PROTOCOLS
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, UInt8

MANIFEST, VERSION, EXACT = "manifest.json", 1, "exact"
_ORIGINS = ("video_sha256", "edit_sha256", "masks_sha256")
_SETTINGS = ("protocol", "seed", "frames", "size", "fps", "num_points", "min_hidden", "tracker")


@dataclass(frozen=True)
class Item:
    """One item of a suite.

    Attributes:
        id: its name, and of the files that are made for it. folder: where its files are.
        prompt: what the video shows; may be empty. fps: of both videos.
        files: the SHA-256 of each by name. video, video_sha256: what it was made from. masks_sha256: with which masks.
        hidden: how many points are hidden at the end of source and of target. edit_sha256: of a person's edit of it.
    """

    id: str
    folder: Path
    prompt: str
    fps: float
    files: dict[str, str]
    video: str
    video_sha256: str
    hidden: list[int] = field(default_factory=list)
    edit_sha256: str = ""
    masks_sha256: str = ""

    def target(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Read what a method should make."""
        return np.asarray(video.read(self.folder / "target.mp4").frames)

    def target_tracks(self) -> Tracks:
        """Read where the points should go, [N T 2]."""
        return tracks.load(self.folder / "target_tracks.npz")

    def source(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Read what a method is given, a first frame held for the whole video."""
        if "source.mp4" in self.files:
            return np.asarray(video.read(self.folder / "source.mp4").frames)
        picture = inputs.read_image(self.folder / "source.png")
        return np.repeat(picture[None], self.target_tracks().xy.shape[1], axis=0)

    def first(self) -> UInt8[np.ndarray, "H W 3"]:
        """Read the first frame that a method is given, edited where the protocol has that."""
        name = next((name for name in ("first.png", "source.png") if name in self.files), None)
        return inputs.read_image(self.folder / name) if name else self.source()[0]

    def mask(self) -> Bool[np.ndarray, "H W"]:
        """Read which region changes, for `revideo`, or which pixels of the points' first frame show things."""
        return inputs.read_image(self.folder / "mask.png")[..., 0] > 0

    def source_tracks(self) -> Tracks:
        """Read where the points are in the source, [N T 2]; in a held frame they rest."""
        if "source_tracks.npz" in self.files:
            return tracks.load(self.folder / "source_tracks.npz")
        given = self.target_tracks()
        return Tracks(np.repeat(given.xy[:, :1], given.xy.shape[1], axis=1), np.ones_like(given.visible))


@dataclass(frozen=True)
class Suite:
    """A suite as `load` finds it.

    Attributes:
        folder: where it is. settings: what it was built with (protocol, seed, frames, size [H, W], fps, num_points,
        min_hidden, tracker). items: sorted by id. left_out: the reasons by id.
    """

    folder: Path
    settings: dict[str, Any]
    items: list[Item]
    left_out: dict[str, str]


def build(
    protocol: str,
    videos: str | Path,
    out: str | Path,
    *,
    num_frames: int = 49,
    size: tuple[int, int] = (480, 720),
    fps: float | int | None = None,
    num_points: int | None = None,
    min_hidden: int | None = None,
    tracker: str = trackers.DEFAULT,
    seed: int = 0,
    most: int | None = None,
    split: str | None = None,
    prompts: str | Path | None = None,
    edits: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Suite:
    """Build a suite, or go on where it stopped: an item that is whole is not made again.

    Args:
        protocol: of `PROTOCOLS`. videos: a folder of videos, or of folders of pictures as DAVIS is (`footage.find`).
        out: the suite's folder. num_frames: F; 25 makes items of DAVIS' short clips. size: (H, W); videos are scaled
            until they cover it, and their middle is cut out. fps: of the items; None leaves each video its own.
        num_points: of an item, for `motionv2v` a square number. min_hidden: how many must be hidden at the end of
            source and of target each. tracker: as for `trackers.named`. seed: of the points that are drawn.
        most: take so many items at most. split: of DAVIS, as for `footage.find`. prompts, edits: as for
            `footage.with_prompts` and `with_edits`.
        say: called with lines on what is left out, and how long the rest takes.

    Returns:
        The suite. What could not be made of a video stands in `left_out`, and in the manifest.

    Raises:
        ValueError: in one line, for settings that make no suite or differ from those of the one that is there, and
            where no item could be made.
    """
    chosen, folder = trackers.named(tracker), Path(out)
    settings = _settings(protocol, num_frames, size, fps, num_points, min_hidden, tracker, seed)
    found = footage.find(videos, split)
    found = found if prompts is None else footage.with_prompts(found, prompts)
    found = found if edits is None else footage.with_edits(found, edits)
    if PROTOCOLS[protocol].needs_edits and edits is None:
        raise ValueError(f"{protocol}'s items are edits: name their folder (edits, ID/first.png, mask.png, tracks.npz)")
    files.check_place(folder, is_folder=True)
    if not found:
        raise ValueError(f"{videos} holds no videos, nor folders with two pictures or more")
    records, made = _before(folder, settings), {}
    for each in progress.counted(found, "video", say):
        if most is not None and sum("reason" not in record for record in made.values()) >= most:
            break
        made[each.id] = _record(each, folder, settings, chosen, records.get(each.id))
        if say is not None and "reason" in made[each.id]:
            say(f"left out {each.id}: {made[each.id]['reason']}")
        _write(folder, settings, records | made, is_whole=False)
    _write(folder, settings, made, is_whole=True)
    if all("reason" in record for record in made.values()):
        first = next(iter(made.items()))
        raise ValueError(f"none of the {len(made)} videos of {videos} makes an item; {first[0]}: {first[1]['reason']}")
    return load(folder)


class Known(NamedTuple):
    """An item whose videos and paths are known, and not found in a file.

    Attributes:
        id, prompt: as `Item`'s. made_of: in words, all that its content depends on. make: returns its files' content by
            name, as a protocol does: frames uint8 [T H W 3], `Tracks`. fps: of its videos.
    """

    id: str
    prompt: str
    made_of: str
    make: Callable[[], dict[str, Any]]
    fps: float = 8.0


def assemble(
    protocol: str,
    items: Iterable[Known],
    out: str | Path,
    *,
    num_frames: int,
    size: tuple[int, int],
    num_points: int,
    seed: int = 0,
) -> Suite:
    """Write a suite of items whose paths are exact, or go on where that stopped: as `build` does of videos.

    Args:
        protocol, num_frames, size, num_points, seed: what they were made by, for the manifest. items: all of them.
        out: the suite's folder.

    Raises:
        ValueError: in one line, where another suite is there, and for no items.
    """
    folder = Path(out)
    values = (protocol, seed, num_frames, list(size), None, num_points, 0, EXACT)
    settings = dict(zip(_SETTINGS, values, strict=True))
    files.check_place(folder, is_folder=True)
    records, made = _before(folder, settings), {}
    for each in items:
        of = {"video": "", "video_sha256": hashlib.sha256(each.made_of.encode()).hexdigest()}
        known, place = records.get(each.id, {}), folder / "items" / each.id
        if known.get("video_sha256") != of["video_sha256"] or _wrong_file(place, known) is not None:
            content = each.make()
            sides = (content.get(f"{side}_tracks.npz") for side in ("source", "target"))
            hidden = [0 if side is None else int((~np.asarray(side.visible)[:, -1]).sum()) for side in sides]
            known = {"fps": each.fps, "files": _save(place, content, each.fps), **of, "hidden": hidden}
        made[each.id] = known | {"prompt": each.prompt}
        _write(folder, settings, records | made, is_whole=False)
    if not made:
        raise ValueError(f"there are no items for {folder}; expected one at least")
    _write(folder, settings, made, is_whole=True)
    return load(folder)


def load(folder: str | Path, sha256: Callable[[Path], str] = files.sha256) -> Suite:
    """Read a suite and check its files, by their SHA-256 as a function tells it.

    Raises ValueError in one line where there is none, where building it was interrupted, and for files that are
    missing or were changed since.
    """
    folder = Path(folder)
    manifest = _read(folder)
    if not manifest["is_whole"]:
        raise ValueError(f"{folder}: building it was interrupted; the same build again goes on")
    made = {name: record for name, record in manifest["items"].items() if "reason" not in record}
    for name, record in made.items():
        # Suites are handed around: nothing outside their folder is read or written by what a manifest says.
        if strange := [
            word for word in (name, *record["files"]) if word in ("", ".", "..") or set(word) & set("/\\\0")
        ]:
            raise ValueError(f"{folder / MANIFEST} names {strange[0]!r}, which is no name of a file")
        if (wrong := _wrong_file(folder / "items" / name, record, sha256)) is not None:
            raise ValueError(f"{wrong} is not what {folder / MANIFEST} says; the same build again makes it anew")
    left_out = {name: record["reason"] for name, record in manifest["items"].items() if "reason" in record}
    items = [Item(id=name, folder=folder / "items" / name, **record) for name, record in sorted(made.items())]
    return Suite(folder, {name: manifest[name] for name in _SETTINGS}, items, left_out)


def digest(path: str | Path, sha256: Callable[[Path], str] = files.sha256) -> str:
    """Return the SHA-256 of a file as a function tells it, or of the names and contents of the files in a folder."""
    path = Path(path)
    if not path.is_dir():
        return sha256(path)
    lines = [f"{file.name} {sha256(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(tracker: str) -> str:
    """Name a tracker for a record: its weights by the beginning of their SHA-256, not by where they are."""
    kind, _, weights = tracker.partition(":")
    return f"{kind} {files.sha256(weights)[:12]}" if weights else kind


def _settings(protocol, num_frames, size, fps, num_points, min_hidden, tracker, seed) -> dict[str, Any]:
    """Check what a suite is built with, and return it as its manifest has it."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; available: {', '.join(PROTOCOLS)}")
    if num_frames < 2:
        raise ValueError(f"an item needs at least 2 frames, given {num_frames}")
    if min(size) < 16:
        raise ValueError(f"an item's frames need at least 16x16 pixels, given {size[0]}x{size[1]}")
    default = PROTOCOLS[protocol]
    num_points = default.num_points if num_points is None else num_points
    min_hidden = default.min_hidden if min_hidden is None else min_hidden
    if num_points < min(1, default.num_points) or (default.is_grid and round(num_points**0.5) ** 2 != num_points):
        raise ValueError(f"{protocol}'s points are a grid: expected a square number such as 25, given {num_points}")
    values = (protocol, seed, num_frames, list(size), fps, num_points, min_hidden, describe(tracker))
    return dict(zip(_SETTINGS, values, strict=True))


def _before(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of a suite that was begun, none where there is no such."""
    if not (folder / MANIFEST).exists():
        return {}
    manifest = _read(folder)
    differing = [
        f"{name} {manifest[name]}, now {settings[name]}" for name in settings if manifest[name] != settings[name]
    ]
    if differing:
        raise ValueError(f"{folder} was built with {'; '.join(differing)}: another folder, or the same settings")
    return manifest["items"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {MANIFEST}; expected a suite, such as `build` makes") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    missing = [name for name in (*_SETTINGS, "items", "is_whole") if name not in manifest]
    if missing or manifest.get("version") != VERSION:
        what = f"has no {missing[0]!r}" if missing else f"is of version {manifest.get('version')}, expected {VERSION}"
        raise ValueError(f"{path} {what}")
    return manifest


def _write(folder: Path, settings: dict[str, Any], records: dict[str, dict], is_whole: bool) -> None:
    content = {
        "version": VERSION,
        **settings,
        "query_frame": 0,
        "is_whole": is_whole,
        "items": dict(sorted(records.items())),
    }
    files.write(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def _wrong_file(folder: Path, record: dict[str, Any], sha256: Callable[[Path], str] = files.sha256) -> Path | None:
    """Return the first file of an item that is not there or is not what its record says."""
    for name, told in record["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != told:
            return folder / name
    return None


def _record(each: footage.Found, folder: Path, settings: dict[str, Any], tracker: Any, known: dict | None) -> dict:
    """Make an item if it is not there, and return its record: of its files, or of the reason why there is none."""
    if each.problem:
        return {"video": each.path.name, "video_sha256": "", "reason": each.problem}
    of = {"video": each.path.name, "video_sha256": digest(each.path)}
    of |= {"edit_sha256": digest(each.edit)} if each.edit else {}
    of |= {"masks_sha256": digest(each.masks)} if each.masks else {}
    place = folder / "items" / each.id
    if known is not None and all(known.get(name) == of.get(name) for name in _ORIGINS):
        if "reason" in known:
            return known
        if _wrong_file(place, known) is None:
            return known | {"prompt": each.prompt}
    try:
        content, rate, hidden = PROTOCOLS[settings["protocol"]].make(each, settings, tracker)
    except ValueError as error:
        return of | {"reason": str(error).removeprefix(f"{each.path}: ")}
    return {"prompt": each.prompt, "fps": rate, "files": _save(place, content, rate), **of, "hidden": hidden}


def _save(place: Path, content: dict[str, Any], rate: float) -> dict[str, str]:
    """Write the files of an item, and return the SHA-256 of each."""
    with files.partial_folder(place) as unfinished:
        for name, part in content.items():
            if isinstance(part, Tracks):
                tracks.save(unfinished / name, part)
            elif name.endswith(".png"):
                figures.save_png(unfinished / name, part)
            else:
                video.write(unfinished / name, part, fps=rate, lossless=True)
        return {name: files.sha256(unfinished / name) for name in content}
