"""The project of an editor as a record, and as one file that travels: NAME.mv2v, with the clip and all steps of undo.

The file is a zip of `project.json`, `clip/NAME`, `tracks/*.npz` and `masks/*.npz`, paths and masks that came as files.
It may come from anybody: every member is looked at before any is unpacked. Names are those alone, so that nothing is
written outside the workspace; links are none; sizes are bounded; what the record says is checked as if a page had sent
it.
"""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files, trackers
from motionv2v.editing import freehand, mask_files, point_groups
from motionv2v.edits import document, fields, track_files
from motionv2v.tracks import Tracks, inside, load

SUFFIX, RECORD, VERSION = ".mv2v", "project.json", 1
MOST_CLIP, MOST_RECORD, MOST_MEMBERS = 2 << 30, 1 << 28, 1000
"""Bytes of the clip and of the record, and members of the file."""
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
"""Endings of clips that a page may send. Others, such as playlists, would let a file name further files to be read."""
OWN_CLIPS = "clips"
"""The folder of a workspace for clips that were sent, and that came with projects."""
MOST_NAME = 200
"""Bytes of a clip's name: file systems take 255, and numbers and endings may be added to it."""
MOST_BRANCHES = 5
"""Rows of steps that are kept which were undone and not done again before another step."""
MOST_GENERATIONS = 50
"""Edits one after the other, each of the result of the one before, that a project remembers."""
_POINT = ("id", "name", "color", "t", "x", "y", "marks", "tracks", "row", "locked", "tracker")
_MEMBERS = {
    re.compile(re.escape(RECORD)): MOST_RECORD,
    # No sign that leads into another folder, or that is none on some system; no hidden file.
    re.compile(r"clip/[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]{0,199}"): MOST_CLIP,
    re.compile(r"tracks/[0-9a-f]{16}\.npz"): track_files.MOST_BYTES,
    mask_files.NAME: mask_files.MOST_BYTES,
}
_TRACKS_NAME = re.compile(r"[0-9a-f]{16}\.npz")


# --- the record ---


def empty() -> dict[str, Any]:
    """Return a project without a clip."""
    return {
        "clip": "",
        "points": [],
        "groups": [],
        "order": [],
        "operations": [],
        "prompt": "",
        "seed": 0,
        "next": 1,
    }


def check(project: Any) -> dict[str, Any]:
    """Return a project that a file holds. Raises ValueError, with the place, for what is none.

    Whether the edit fits the clip is another question (`document`, `check_tracks`).
    """
    required = tuple(word for word in empty() if word not in ("groups", "order"))  # earlier editors had none
    fields.check_object(project, (*empty(), "made_from"), "project", required=required)
    project = {**empty(), **fields.plain(project)}
    for name in ("clip", "prompt"):
        _text(project[name], name)
    for name, least in (("seed", 0), ("next", 1)):
        project[name] = fields.integer(project[name], name, least)
    check_points(project)
    check_generations(project)
    point_groups.check(project)
    operations = _list(project["operations"], "operations", document.MAX_OPERATIONS)
    for index, operation in enumerate(operations):
        where = f"operations[{index}]"
        names = ("id", "on", "label", "op")
        fields.check_object(operation, (*names, "drawn"), where, required=names)
        _identity(operation["id"], "o", project["next"], where)
        _text(operation["label"], f"{where}.label")
        if not isinstance(operation["on"], bool) or not isinstance(operation["op"], dict):
            raise ValueError(f"{where}: on must be true or false, and op an object")
        kind = operation["op"].get("op")
        # Of those that are off as well: commands look all of them up by their kind.
        if not isinstance(kind, str) or document.ALIASES.get(kind, kind) not in document.OPERATIONS:
            raise ValueError(f"{where}: unknown operation {fields.shown(kind)}")
        if operation["op"].get("masks") is not None:
            mask_files.check_name(operation["op"]["masks"])
        if "drawn" in operation:
            operation["drawn"] = freehand.check(operation["drawn"], f"{where}.drawn")
    _once([each["id"] for each in operations], "operations")
    if not project["clip"] and (project["points"] or operations):
        raise ValueError("project: has points, but no clip that they are of")
    if operations and not project["points"]:
        raise ValueError("project: has operations, but no points that they are about")
    return project


def check_off(project: dict[str, Any]) -> None:
    """Raise ValueError for operations that are off and have fields that no such operation has.

    They need not fit the clip, nor one another: points that they are about may be gone, and a recamera may have been
    moved to before its uncamera. All that is told when they are on again.
    """
    off = [operation["op"] for operation in project["operations"] if not operation["on"]]
    if not off:
        return
    ids = [point["id"] for point in project["points"]]
    gone = sorted(set(re.findall(r'"(p[1-9][0-9]{0,8})"', json.dumps(off))) - set(ids))
    queries = [{"t": 0, "x": 0, "y": 0, "name": name} for name in (*ids, *gone)]
    out, back = ([op for op in off if op["op"] == word] for word in ("uncamera", "recamera"))
    others = [op for op in off if op["op"] not in ("uncamera", "recamera")]
    more = len(out) - len(back)
    paired = [*out, *[{"op": "uncamera"}] * -more, *others, *back, *[{"op": "recamera"}] * more]
    try:
        document.parse({"queries": queries, "operations": paired})
    except fields.EditError as error:
        reason = re.sub(r"^operations\[\d+\] \((\w+)\)", r"\1", str(error))
        raise ValueError(f"an operation that is off is none: {reason}") from None


def check_points(project: dict[str, Any]) -> None:
    """Raise ValueError, with the place, for points of a project that are none."""
    for index, point in enumerate(_list(project["points"], "points", document.MAX_POINTS)):
        where = f"points[{index}]"
        fields.check_object(point, _POINT, where, required=_POINT[:6])
        _identity(point["id"], "p", project["next"], where)
        fields.name(point["name"], f"{where}.name")
        point_groups.check_color(point["color"], f"{where}.color")
        if not isinstance(point.get("locked", False), bool):
            raise ValueError(f"{where}.locked: must be true or false")
        marks = _list(point.get("marks", []), f"{where}.marks", 100_000)
        for mark in marks:
            fields.check_object(mark, ("t", "x", "y"), f"{where}.marks", required=("t", "x", "y"))
        for mark in (point, *marks):
            mark["t"] = fields.integer(mark["t"], f"{where}.t", 0)
            mark["x"], mark["y"] = (fields.number(mark[side], f"{where}.{side}") for side in "xy")
        _once([mark["t"] for mark in (point, *marks)], f"{where}.marks")
        if ("tracks" in point) != ("row" in point):
            raise ValueError(f"{where}: must have tracks and row, or neither")
        if "tracker" in point:
            # No other name: that of a tracker with weights is a path, and a project may come from anybody.
            if "tracks" in point or point["tracker"] not in trackers.CLASSICAL_MODES:
                raise ValueError(
                    f"{where}.tracker: must be one of {', '.join(trackers.CLASSICAL_MODES)}, without tracks"
                )
        if "tracks" in point:
            point["row"] = fields.integer(point["row"], f"{where}.row", 0)
            if not isinstance(point["tracks"], str) or not _TRACKS_NAME.fullmatch(point["tracks"]):
                raise ValueError(f"{where}.tracks: must be a file of tracks, got {fields.shown(point['tracks'])}")
    _once([point["id"] for point in project["points"]], "points")


def check_generations(project: dict[str, Any]) -> None:
    """Raise ValueError, with the place, for edits that a clip was made by (`made_from`) that are none."""
    names = ("run", "checkpoint", "seed", "prompt", "edit", "drift")
    for index, each in enumerate(_list(project.get("made_from", []), "made_from", MOST_GENERATIONS)):
        where = f"made_from[{index}]"
        fields.check_object(each, names, where, required=names)
        for name in ("run", "checkpoint", "prompt"):
            _text(each[name], f"{where}.{name}")
        each["seed"] = fields.integer(each["seed"], f"{where}.seed", 0)
        if each["drift"] is not None:
            each["drift"] = fields.number(each["drift"], f"{where}.drift")
        document.parse(each["edit"])


def check_tracks(project: dict[str, Any], tracks: dict[str, Tracks], length: int, size: tuple[int, int]) -> None:
    """Raise ValueError where marks lie outside a clip of T frames (H, W), and where imported paths are not of it."""
    for point in project["points"]:
        for mark in point.get("marks", []):
            if mark["t"] >= length or not inside(np.float64([[[mark["x"], mark["y"]]]]), size).all():
                raise ValueError(f"a mark of {point['name']} lies outside the clip")
        if "tracks" in point:
            found = tracks.get(point["tracks"])
            if found is None or found.xy.shape[1] != length or point["row"] >= len(found.xy):
                raise ValueError(f"the imported path of {point['name']} is not in the file, or of another length")


def check_masks(states: Sequence[dict[str, Any]], masks: dict[str, Path], length: int, size: tuple[int, int]) -> None:
    """Raise ValueError where masks that a project names in any of its states are not in its file, or of another clip.

    The clip has T frames (H, W). Each file is read once, however many states name it.
    """
    for name in dict.fromkeys(name for project in states for name in mask_files.named(project)):
        if name not in masks:
            raise ValueError(f"the file of masks {name} is not in the project")
        mask_files.read(masks[name], size, length, 0, lambda line: None)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 2000 or "\0" in value:
        raise ValueError(f"{where}: must be a text of at most 2000 letters")
    return value


def _list(value: Any, where: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{where}: must be a list of at most {most}")
    return value


def _identity(value: Any, letter: str, below: int, where: str) -> None:
    is_one = isinstance(value, str) and re.fullmatch(letter + r"[1-9][0-9]{0,8}", value)
    if not is_one or int(value[1:]) >= below:
        raise ValueError(f"{where}.id: must be {letter} and a number below {below}, got {fields.shown(value)}")


def _once(values: list[Any], where: str) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{where}: the same is there twice")


# --- files of a workspace ---


def tracks_folder(workspace: Path) -> Path:
    """Return where the imported paths of a workspace lie. They are never changed: steps of undo may need them."""
    return workspace / "tracks"


def keep_tracks(workspace: Path, tracks: Tracks) -> Path:
    """Keep imported paths, xy [N T 2], in a file that is named by its content; returns it."""
    content = io.BytesIO()
    np.savez_compressed(content, xy=tracks.xy, visible=tracks.visible)
    return _keep_content(tracks_folder(workspace), content.getvalue())


def _keep_content(folder: Path, content: bytes) -> Path:
    path = folder / mask_files.content_name(content)
    return path if path.is_file() else files.write(path, content)


def free_path(path: Path) -> Path:
    """Return a path that nothing has: the given one, or with a number."""
    further = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([path], further) if not place.exists())


# --- the file ---


def write(
    path: str | Path,
    workspace: Path,
    project: dict[str, Any],
    steps: dict[str, list[dict[str, Any]]],
    branches: Sequence[list[dict[str, Any]]],
    tracker: str,
) -> Path:
    """Write a project, its clip, its imported paths, and its steps as far as they are about that clip.

    `steps` are those to `undo` and to `redo`, `branches` rows of such that were left for others. Returns the path.
    Raises ValueError where the clip is gone or too large, and OSError as writing does.
    """
    clip = Path(project["clip"])
    if not clip.is_file() or clip.stat().st_size > MOST_CLIP:
        raise ValueError(f"{clip} is gone, or larger than the {MOST_CLIP >> 30} GiB that a project holds")
    if clip.suffix.lower() not in CLIPS:
        raise ValueError(f"{clip.name} cannot be in a project; expected a clip that ends in {', '.join(CLIPS)}")
    name = f"clip/{clip.name}"
    if not any(pattern.fullmatch(name) for pattern in _MEMBERS) or len(os.fsencode(clip.name)) > MOST_NAME:
        name = f"clip/clip{clip.suffix}"
    record = {"version": VERSION, "tracker": tracker.partition(":")[0], "project": _about(project, name)}

    def travelling(row):
        of_clip = itertools.takewhile(lambda step: step["project"]["clip"] in ("", str(clip)), reversed(row))
        return [{**step, "project": _about(step["project"], name)} for step in of_clip][::-1]

    record |= {word: travelling(row) for word, row in steps.items()}
    if rows := [row for row in map(travelling, branches) if row]:
        record["branches"] = rows
    used = {point["tracks"] for each in _projects(record) for point in each["points"] if "tracks" in point}
    with files.partial(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        archive.writestr(RECORD, json.dumps(record), zipfile.ZIP_DEFLATED)
        for each in sorted(used):
            archive.write(tracks_folder(workspace) / each, f"tracks/{each}")
        for each in sorted({name for project in _projects(record) for name in mask_files.named(project)}):
            archive.write(workspace / each, each)
        archive.write(clip, name)  # is compressed already
    return Path(path)


def _about(project: dict[str, Any], clip: str) -> dict[str, Any]:
    return {**project, "clip": clip if project["clip"] else ""}


def _projects(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the project of a record and those of its steps."""
    yield record["project"]
    for row in (record["undo"], record["redo"], *record.get("branches", ())):
        for step in row:
            yield step["project"]


@dataclass
class Unpacked:
    """A project out of a file, in a folder that is there for a while: `keep` puts its files into the workspace.

    Attributes:
        record: {project, undo, redo, branches, tracker}. clip: its clip. tracks: the imported paths by the names of
            their files. masks: files of masks by what operations call them.
    """

    record: dict[str, Any]
    clip: Path
    tracks: dict[str, Tracks]
    masks: dict[str, Path]
    workspace: Path

    def projects(self) -> list[dict[str, Any]]:
        """List the project and those of its steps."""
        return list(_projects(self.record))

    def keep(self) -> str:
        """Put the clip and the paths into the workspace; returns the clip's place, which the projects then name."""
        place, content = self.workspace / OWN_CLIPS / self.clip.name, files.sha256(self.clip)
        place.parent.mkdir(exist_ok=True)
        if not (place.is_file() and files.sha256(place) == content):
            place = free_path(place)
            files.move(self.clip, place)
        for name in self.tracks:
            target = tracks_folder(self.workspace) / name
            if not target.is_file():
                target.parent.mkdir(exist_ok=True)
                files.move(self.clip.parent.parent / "tracks" / name, target)
        for name, path in self.masks.items():
            if not (self.workspace / name).is_file():
                (self.workspace / name).parent.mkdir(exist_ok=True)
                files.move(path, self.workspace / name)
        for project in self.projects():
            project["clip"] = str(place.resolve()) if project["clip"] else ""
        return str(place.resolve())


@contextlib.contextmanager
def unpacked(path: str | Path, workspace: Path) -> Iterator[Unpacked]:
    """Check a file and unpack it into a folder of the workspace, which is gone when the block ends.

    Raises ValueError, one line, for what is no project, is damaged, too large, or has members that no project has.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=".opening.", dir=workspace) as own:
        folder = Path(own)
        try:
            with zipfile.ZipFile(path) as archive:
                infos = _checked_members(archive)
                record = _record(archive.read(infos.pop(RECORD)))
                for name, info in infos.items():
                    target = folder / name
                    target.parent.mkdir(exist_ok=True)
                    with archive.open(info) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
            (clip,) = (folder / name for name in infos if name.startswith("clip/"))
            tracks, masks = {}, {name: folder / name for name in infos if mask_files.NAME.fullmatch(name)}
            for name, place in masks.items():
                if f"{mask_files.FOLDER}/{mask_files.content_name(place.read_bytes())}" != name:
                    raise ValueError(f"{name} is not named by its content")
            for name in (name for name in infos if name.startswith("tracks/")):
                if mask_files.content_name((folder / name).read_bytes()) != Path(name).name:
                    raise ValueError(f"{name} is not named by its content")
                tracks[Path(name).name] = _canonical(folder / name)
        except (ValueError, MemoryError) as error:
            reason = " ".join(str(error).replace(f"{folder}/", "").split()) or "it is too large"
            raise ValueError(f"{path.name} is no project that can be opened: {reason}") from None
        except Exception as error:  # damaged archives fail in nearly any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path.name} is no project, or damaged ({reason}); expected a {SUFFIX} file") from None
        yield Unpacked(record, clip, tracks, masks, workspace)


def _canonical(path: Path) -> Tracks:
    """Read imported paths as `keep_tracks` writes them. Raises ValueError for a file that holds them in another way.

    Tracks of other programs are put right while they are read; these are kept as they are, and read as they are.
    """
    found = track_files.read(path)[0]  # first, for it takes no more memory than such a file may
    kept = load(path)
    if kept.xy.dtype != found.xy.dtype or not all(map(np.array_equal, kept, found)):
        raise ValueError(f"tracks/{path.name} does not hold xy float32 [N T 2] and visible [N T] of an editor")
    return kept


def _checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their names. Raises ValueError unless all may be unpacked."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"it has {len(infos)} members; a project has at most {MOST_MEMBERS}")
    for info in infos:
        name = info.orig_filename  # as it was written: zipfile leaves out what follows a zero byte
        most = next((most for pattern, most in _MEMBERS.items() if pattern.fullmatch(name)), None)
        if most is None:
            expected = f"{RECORD}, clip/NAME, tracks/*.npz and masks/*.npz"
            raise ValueError(f"it has a member {name[:80]!r}; expected {expected}")
        if most == MOST_CLIP and (
            Path(name).suffix.lower() not in CLIPS or len(os.fsencode(Path(name).name)) > MOST_NAME
        ):
            raise ValueError(
                f"its clip {name[:80]!r} is none by its ending, or its name is longer than {MOST_NAME} bytes; "
                f"expected {', '.join(CLIPS)}"
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise ValueError(f"its member {name[:80]!r} is a link, or encrypted; expected plain files")
        if info.file_size > most:
            raise ValueError(f"its member {name[:80]!r} has {info.file_size} bytes; at most {most} are read")
    names = [info.filename for info in infos]
    _once(names, "its members")
    if RECORD not in names or sum(name.startswith("clip/") for name in names) != 1:
        raise ValueError(f"it has {len(names)} members without {RECORD} and one clip among them")
    most = MOST_CLIP + MOST_RECORD + track_files.MOST_BYTES + mask_files.MOST_UNPACKED
    if sum(info.file_size for info in infos) > most:
        raise ValueError("it is too large when it is unpacked")
    return dict(zip(names, infos, strict=True))


def _record(content: bytes) -> dict[str, Any]:
    """Read `project.json`. Raises ValueError, with the place, for what a project cannot be."""
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RECORD}: is not valid JSON ({error})") from None
    names = ("version", "tracker", "project", "undo", "redo")
    fields.check_object(found, (*names, "branches"), RECORD, required=names)
    if found["version"] != VERSION:
        raise ValueError(f"{RECORD}: is of version {fields.shown(found['version'])}; this program reads {VERSION}")
    _text(found["tracker"], "tracker")
    found["branches"] = _list(found.get("branches", []), "branches", MOST_BRANCHES)
    for word in ("undo", "redo"):
        _check_steps(found[word], word)
    for number, row in enumerate(found["branches"]):
        _check_steps(row, f"branches[{number}]")
        if not row:
            raise ValueError(f"branches[{number}]: has no steps")
    found["project"] = check(found["project"])
    if not found["project"]["clip"]:
        raise ValueError(f"{RECORD}: the project has no clip")
    return found


def _check_steps(steps: Any, where: str) -> None:
    """Raise ValueError, with the place, for steps of undo that are none, and put their projects right."""
    for index, step in enumerate(_list(steps, where, 1000)):
        place = f"{where}[{index}]"
        words = ("label", "frame", "project")
        fields.check_object(step, (*words, "names"), place, required=words)
        _text(step["label"], f"{place}.label")
        for name in _list(step.get("names", []), f"{place}.names", 2 * document.MAX_POINTS):
            _text(name, f"{place}.names")
        fields.integer(step["frame"], f"{place}.frame", 0)
        step["project"] = check(step["project"])


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
