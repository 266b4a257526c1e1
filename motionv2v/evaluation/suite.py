"""Benchmarks on disk, made from any folder of videos: what a method is given, and what it should make of it.

    SUITE/manifest.json       protocol, seed, frames, size, rate, and the items with the SHA-256 of their files
    SUITE/items/ID/           source.mp4, or source.png (one frame); target.mp4
                              source_tracks.npz, target_tracks.npz: xy [N T 2] in pixels, visible [N T]

Videos are H.264 in RGB without loss: `video.read` gives the exact pixels, and few browsers play them.

`motionv2v` (MotionV2V, section 4 and figure 11): of F frames up to the middle of a video, in reversed order, the input,
and F frames from the middle on, the target; they share their first frame. Points on a grid in that frame are tracked
through both. The paper keeps videos in which a substantial number of points is hidden at the end of input and of
target, and does not say how many; here `min_hidden` at each, 10 of 25.

`motion_prompting` (Motion Prompting, section 5): the first frame and the tracks of N points, drawn at random among
those seen in it, are given; the target is the video.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import figures, files, progress, trackers, tracks, video
from motionv2v.editing import inputs
from motionv2v.evaluation import footage
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

MANIFEST, VERSION = "manifest.json", 1
_SETTINGS = ("protocol", "seed", "frames", "size", "fps", "num_points", "min_hidden", "tracker")


@dataclass(frozen=True)
class Item:
    """One item of a suite.

    Attributes:
        id: its name, and of the files that are made for it. folder: where its files are.
        prompt: what the video shows; may be empty. fps: of both videos.
        files: the SHA-256 of each by name. video, video_sha256: what it was made from.
        hidden: how many points are hidden at the end of source and of target.
    """

    id: str
    folder: Path
    prompt: str
    fps: float
    files: dict[str, str]
    video: str
    video_sha256: str
    hidden: list[int] = field(default_factory=list)

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
    say: Callable[[str], None] | None = None,
) -> Suite:
    """Build a suite, or go on where it stopped: an item that is whole is not made again.

    Args:
        protocol: of `PROTOCOLS`. videos: a folder of videos, or of folders of pictures as DAVIS is (`footage.find`).
        out: the suite's folder. num_frames: F; 25 makes items of DAVIS' short clips. size: (H, W); videos are scaled
            until they cover it, and their middle is cut out. fps: of the items; None leaves each video its own.
        num_points: of an item, for `motionv2v` a square number. min_hidden: how many must be hidden at the end of
            source and of target each. tracker: as for `trackers.named`. seed: of the points that are drawn.
        most: take so many items at most. say: called with lines on what is left out, and how long the rest takes.

    Returns:
        The suite. What could not be made of a video stands in `left_out`, and in the manifest.

    Raises:
        ValueError: in one line, for settings that make no suite or differ from those of the one that is there, and
            where no item could be made.
    """
    chosen, folder = trackers.named(tracker), Path(out)
    settings = _settings(protocol, num_frames, size, fps, num_points, min_hidden, tracker, seed)
    found = footage.find(videos)
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


def load(folder: str | Path) -> Suite:
    """Read a suite and check its files.

    Raises ValueError in one line where there is none, where building it was interrupted, and for files that are
    missing or were changed since.
    """
    folder = Path(folder)
    manifest = _read(folder)
    if not manifest["is_whole"]:
        raise ValueError(f"{folder}: building it was interrupted; the same build again goes on")
    made = {name: record for name, record in manifest["items"].items() if "reason" not in record}
    for name, record in made.items():
        if (wrong := _wrong_file(folder / "items" / name, record)) is not None:
            raise ValueError(f"{wrong} is not what {folder / MANIFEST} says; the same build again makes it anew")
    left_out = {name: record["reason"] for name, record in manifest["items"].items() if "reason" in record}
    items = [Item(id=name, folder=folder / "items" / name, **record) for name, record in sorted(made.items())]
    return Suite(folder, {name: manifest[name] for name in _SETTINGS}, items, left_out)


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the files in a folder."""
    path = Path(path)
    if not path.is_dir():
        return files.sha256(path)
    lines = [f"{file.name} {files.sha256(file)}" for file in sorted(path.iterdir()) if file.is_file()]
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
    if num_points < 1 or (default.is_grid and round(num_points**0.5) ** 2 != num_points):
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


def _wrong_file(folder: Path, record: dict[str, Any]) -> Path | None:
    """Return the first file of an item that is not there or is not what its record says."""
    for name, sha256 in record["files"].items():
        if not (folder / name).is_file() or files.sha256(folder / name) != sha256:
            return folder / name
    return None


def _record(each: footage.Found, folder: Path, settings: dict[str, Any], tracker: Any, known: dict | None) -> dict:
    """Make an item if it is not there, and return its record: of its files, or of the reason why there is none."""
    if each.problem:
        return {"video": each.path.name, "video_sha256": "", "reason": each.problem}
    of = {"video": each.path.name, "video_sha256": digest(each.path)}
    place = folder / "items" / each.id
    if known is not None and known["video_sha256"] == of["video_sha256"]:
        if "reason" in known or _wrong_file(place, known) is None:
            return known
    try:
        content, rate, hidden = PROTOCOLS[settings["protocol"]].make(each, settings, tracker)
    except ValueError as error:
        return of | {"reason": str(error).removeprefix(f"{each.path}: ")}
    with files.partial_folder(place) as unfinished:
        for name, part in content.items():
            if isinstance(part, Tracks):
                tracks.save(unfinished / name, part)
            elif name.endswith(".png"):
                figures.save_png(unfinished / name, part)
            else:
                video.write(unfinished / name, part, fps=rate, lossless=True)
        sums = {name: files.sha256(unfinished / name) for name in content}
    return {"prompt": each.prompt, "fps": rate, "files": sums, **of, "hidden": hidden}


def _motionv2v(each: footage.Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Cut a video in halves, and track the points of a grid in both from the frame that they share."""
    clip, count = footage.read(each.path, tuple(settings["size"]), settings["fps"]), settings["frames"]
    if len(clip.frames) < 2 * count - 1:
        needed = f"{2 * count - 1} for two halves of {count} that share one"
        raise ValueError(f"has {len(clip.frames)} frames, expected at least {needed}")
    middle = len(clip.frames) // 2
    source = np.stack([clip.frames[t] for t in range(middle, middle - count, -1)])
    target = np.stack([clip.frames[t] for t in range(middle, middle + count)])
    queries = _grid(settings["num_points"], source.shape[1:3])
    found = [tracker.track(frames, queries) for frames in (source, target)]
    hidden = [int((~_visible(of)[:, -1]).sum()) for of in found]
    if min(hidden) < settings["min_hidden"]:
        ends = (
            f"{hidden[0]} of {len(queries)} points are hidden at the end of the source and {hidden[1]} of the target's"
        )
        raise ValueError(f"{ends}, expected {settings['min_hidden']} or more at each (min_hidden)")
    content = {"source.mp4": source, "target.mp4": target}
    content |= {"source_tracks.npz": found[0], "target_tracks.npz": found[1]}
    return content, float(clip.fps), hidden


def _motion_prompting(each: footage.Found, settings: dict[str, Any], tracker: Any) -> tuple[dict, float, list[int]]:
    """Take the first frames of a video, and track points drawn at random in the first of them."""
    size, count = tuple(settings["size"]), settings["frames"]
    clip = footage.read(each.path, size, settings["fps"], count)
    if len(clip.frames) < count:
        raise ValueError(f"has {len(clip.frames)} frames, expected at least {count}")
    target = np.stack([clip.frames[t] for t in range(count)])
    # What is drawn for a video does not depend on which others there are.
    rng = np.random.default_rng([settings["seed"], *hashlib.sha256(each.id.encode()).digest()[:4]])
    places = rng.uniform((0, 0), size[::-1], (settings["num_points"], 2))
    found = tracker.track(target, np.insert(places, 0, 0, axis=1).astype(np.float32))
    hidden = int((~_visible(found)[:, -1]).sum())
    if hidden < settings["min_hidden"]:
        raise ValueError(
            f"{hidden} points are hidden at the end, expected {settings['min_hidden']} or more (min_hidden)"
        )
    return {"source.png": target[0], "target.mp4": target, "target_tracks.npz": found}, float(clip.fps), [0, hidden]


class Protocol(NamedTuple):
    """How an item is made of a video: the function that does, points by default, and whether they lie on a grid."""

    make: Callable[[footage.Found, dict[str, Any], Any], tuple[dict[str, Any], float, list[int]]]
    num_points: int
    min_hidden: int
    is_grid: bool


PROTOCOLS = {
    "motionv2v": Protocol(_motionv2v, num_points=25, min_hidden=10, is_grid=True),
    "motion_prompting": Protocol(_motion_prompting, num_points=64, min_hidden=0, is_grid=False),
}
"""By name, as the paper's method is called."""


def _visible(found: Tracks) -> Bool[np.ndarray, "N T"]:
    return np.asarray(found.visible)


def _grid(count: int, size: tuple[int, int]) -> Float[np.ndarray, "N 3"]:
    """Return queries at the centres of the cells that a frame is cut into, in frame 0."""
    side = round(count**0.5)
    steps = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(steps * size[1], steps * size[0])
    return np.stack([np.zeros(count), x.ravel(), y.ravel()], axis=1).astype(np.float32)
