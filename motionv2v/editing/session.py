"""What the editor page can do, without a page: open a clip, name points, bend their paths, see the draft, run a model.

A session lives in a folder, its workspace; every command is kept there when it is done, so that a session that was
killed goes on where it was. Each changes the project as one step that can be undone and done again. What follows from
the project (tracks, drafts) is worked out when it is asked for, and kept.

The project is an `edit.json` with a wrapper: operations have a name, and may be off; points have a name, a colour, the
path of a file perhaps, and marks where a person puts the tracker right (`point_paths`). `edit_json` is the file that
`launch/edit.py` takes; a run reads it, and `tracks.npz` beside it where paths are not the tracker's alone.
"""

import contextlib
import copy
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import draft, files, trackers, tracks, video
from motionv2v.editing import point_paths, projects
from motionv2v.editing.history import MOST_STEPS, History
from motionv2v.editing.runs import Runs
from motionv2v.edits import document, fields, track_files
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

EDIT, TRACKS = "edit.json", "tracks.npz"
PROXY = 180
"""Rows of the picture that drafts are drawn at while a path is bent."""
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which people who see colours otherwise tell apart."""


class Session(History):
    """One clip and one edit of it, with everything that was done.

    Attributes:
        workspace: its folder. project: points {id, name, color, t, x, y}, operations {id, on, label, op}, prompt, seed;
            points may have marks [{t, x, y}], tracks (a file of `projects.keep_tracks`, with their row), locked.
        revision: how many changes there were, undone ones too. runs: of models.
    """

    def __init__(self, workspace: str | Path, tracker: str = trackers.DEFAULT):
        """Open a workspace, where one was left, or begin one. Raises ValueError for a folder that cannot be written."""
        super().__init__(workspace)
        self._tracker, self._tracker_name = trackers.named(tracker), tracker
        self._loaded: tuple[str, video.Clip] | None = None
        self._tracks: dict[tuple[float, ...], Tracks] = {}
        self._imported: dict[str, Tracks] = {}
        self._given = ""  # what the file of tracks was last written of
        self._prepared: tuple[str, draft.Prepared] | None = None
        self._drawn: dict[str, UInt8[np.ndarray, "T h w 3"]] = {}
        self._drawing = threading.Lock()
        self.runs = Runs(self.workspace / "runs")

    def _save(self) -> None:
        super()._save()
        if self.project["points"]:
            files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    # --- the clip ---

    def open(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open a clip in place of the one there is, unless it is that; returns notices. Raises VideoError."""
        notices: list[str] = []
        clip, place = video.read(path, notify=notices.append), str(Path(path).resolve())
        with self._lock:
            if place != self.project["clip"]:  # the same one again goes on where it was
                with self._step(f"Open {Path(path).name}", base) as project:
                    project.update({**projects.empty(), "clip": place})
                self._forget()
            self._loaded = (place, clip)
        return notices

    @staticmethod
    def check_clip(path: Path) -> None:
        """Raise VideoError for a file that is no video."""
        video.measure(path)

    def _forget(self) -> None:
        """Forget what was worked out of another clip."""
        self._prepared = None
        self._tracks.clear()
        self._drawn.clear()

    @property
    def clip(self) -> video.Clip:
        """Return the clip. Raises ValueError where none is open."""
        path = self.project["clip"]
        if not path:
            raise ValueError("no clip is open: drop a video on the page, or give --video")
        with self._lock:
            if self._loaded is None or self._loaded[0] != path:  # after a restart, or an undo
                self._loaded = (path, video.read(path, notify=lambda line: None))
                self._forget()
            return self._loaded[1]

    # --- points and operations ---

    def _check_place(self, frame: int, x: float | int, y: float | int) -> None:
        length, height, width = self.clip.frames.shape[:3]
        if not (0 <= frame < length and 0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"frame {frame}, x {x:g}, y {y:g} lies outside the clip: {length} frames of {width}x{height}"
            )

    def add_point(self, frame: int, x: float | int, y: float | int, base: int | None = None) -> str:
        """Name a point that frame shows at (x, y), and follow it both ways; returns its id. One step."""
        self._check_place(frame, x, y)
        with self._step(f"Add a point at {frame}", base, frame) as project:
            point = self._name(project, (int(frame), float(x), float(y)))
            self._track([point])
        return point["id"]

    @staticmethod
    def _name(project: dict[str, Any], mark: point_paths.Mark) -> dict[str, Any]:
        number = project["next"]
        point = {"id": f"p{number}", "name": f"p{number}", "color": COLORS[(number - 1) % len(COLORS)]}
        point |= dict(zip("txy", mark, strict=True))
        project["points"].append(point)
        project["next"] += 1
        return point

    def change_point(self, name: str, base: int | None = None, **changes: Any) -> None:
        """Change how a point is called (`label`), its `color` (#rrggbb), or whether it is `locked`: not to be moved."""
        with self._step(f"Change {self._called([name])}", base) as project:
            point = self._find(project["points"], name, "point")
            if unknown := set(changes) - {"label", "color", "locked"}:
                raise ValueError(f"a point has no {', '.join(sorted(unknown))}; it has label, color, locked")
            if "label" in changes:
                changes["name"] = fields.name(changes.pop("label"), "label")
            point.update(changes)
            projects.check_points(project)

    def _movable(self, project: dict[str, Any], name: str) -> dict[str, Any]:
        point = self._find(project["points"], name, "point")
        if point.get("locked"):
            raise ValueError(f"{point['name']} is locked: unlock it first")
        return point

    def _called(self, names: list[str]) -> str:
        called = {point["id"]: point["name"] for point in self.project["points"]}
        return ", ".join(called.get(name, name) for name in names)

    def fix(self, name: str, frame: int, x: float | int, y: float | int, base: int | None = None) -> None:
        """Say that the tracker is wrong and the point is at (x, y) in a frame: a mark there.

        The path between the neighbouring marks is followed anew (`point_paths`); bends go on from it as they were.
        """
        self._check_place(frame, x, y)
        with self._correct(f"Correct {self._called([name])} at {frame}", name, base, frame) as point:
            kept = [mark for mark in point.pop("marks", []) if mark["t"] != frame]
            place = {"t": int(frame), "x": float(x), "y": float(y)}
            if frame == point["t"]:
                point.update(place)  # the point was named there
            else:
                kept = sorted([*kept, place], key=lambda mark: mark["t"])
            point.update({"marks": kept} if kept else {})

    def unfix(self, name: str, frame: int, base: int | None = None) -> None:
        """Take a mark away that `fix` made. Raises ValueError where there is none."""
        with self._correct(f"Take back the mark of {self._called([name])} at {frame}", name, base, frame) as point:
            marks = point.pop("marks", [])
            kept = [mark for mark in marks if mark["t"] != frame]
            if kept == marks:
                raise ValueError(f"{point['name']} has no mark at frame {frame}")
            point.update({"marks": kept} if kept else {})

    @contextlib.contextmanager
    def _correct(self, label: str, name: str, base: int | None, frame: int) -> Iterator[dict[str, Any]]:
        """Change a point's marks, and let its bends ride on the path that follows."""
        with self._step(label, base, frame) as project:
            yield self._movable(project, name)
            self.source(project)
            sides = [self._given_to(self.project), self._given_to(project)]
            point_paths.shift_bends(project, *sides, len(self.clip.frames))
            self._check(project)

    def _given_to(self, project: dict[str, Any]) -> Callable[[int], Tracks]:
        """Return what paths an operation is given, by its place in the list."""

        def paths(place: int) -> Tracks:
            # A camera's motion may be put back behind that place only: left out, on both sides of a comparison.
            before = [each for each in project["operations"][:place] if not each["op"]["op"].endswith("camera")]
            return self.target({**project, "operations": before})

        return paths

    # --- tracks of files ---

    def import_tracks(self, path: str | Path, base: int | None = None) -> dict[str, Any]:
        """Make the tracks of a file (`track_files`) points whose paths need no tracker; one step.

        Returns {points: their ids, notices}. Raises ValueError for files and tracks that do not fit the clip.
        """
        length, *size = self.clip.frames.shape[:3]
        found, info = track_files.read(path, tuple(size))
        found, notices = point_paths.fit(found, info.size, (length, *size))
        queries = [point_paths.first_seen(tracks.select(found, [row]), tuple(size)) for row in range(len(found.xy))]
        if outside := [str(row) for row, query in enumerate(queries) if query is None]:
            notices.append(f"left out, for they are never in the frame: {len(outside)} tracks, {outside[0]} the first")
        rows = [row for row, query in enumerate(queries) if query is not None]
        free = document.MAX_POINTS - len(self.project["points"])
        if not 0 < len(rows) <= free:
            raise ValueError(f"{Path(path).name} has {len(rows)} tracks in the frame; expected 1 to {free}")
        place = projects.keep_tracks(self.workspace, tracks.select(found, rows))
        with self._step(f"Import {len(rows)} tracks of {Path(path).name}", base) as project:
            for at, row in enumerate(rows):
                point = self._name(project, queries[row])
                point.update({"tracks": place.name, "row": at})
                if info.names and info.names[row].strip("0123456789"):  # more than a number
                    point["name"] = fields.name(info.names[row], f"{Path(path).name}: track {row}")
        return {"points": [point["id"] for point in self.project["points"][-len(rows) :]], "notices": notices}

    def export_tracks(self, path: str | Path, which: str = "target") -> Path:
        """Write the points' paths, `source` or `target`, in the format that the path ends in; returns it."""
        if which not in ("source", "target"):
            raise ValueError(f"there are tracks source and target, not {which!r}")
        if not self.project["points"]:
            raise ValueError("there are no points, and no tracks of them: click on a thing to name one")
        clip = self.clip
        return track_files.write(path, getattr(self, which)(), clip.frames.shape[1:3], clip.fps)

    # --- projects as files ---

    def save_project(self, path: str | Path) -> Path:
        """Write the project, its steps, its clip and imported tracks to one file (`projects`); returns its path."""
        self.clip  # noqa: B018  raises where there is none
        with self._lock:
            steps = {"undo": self._undo, "redo": self._redo}
            return projects.write(path, self.workspace, self.project, steps, self._tracker_name)

    def open_project(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open what `save_project` wrote: the same project with its steps, behind those there are; returns notices.

        Raises ValueError, one line, for another file, and for one that is damaged or made to do harm; nothing changes.
        """
        with projects.unpacked(path, self.workspace) as found, self._lock:
            try:
                clip = video.read(found.clip, notify=lambda line: None)
            except video.VideoError as error:
                raise ValueError(str(error).replace(str(found.clip), f"{Path(path).name}, {found.clip.name}")) from None
            for project in found.projects():
                projects.check_tracks(project, found.tracks, len(clip.frames), clip.frames.shape[1:3])
                if project["points"]:
                    self._check(project, clip)
            before, revision = self._undo, self.revision
            with self._step(f"Open {Path(path).name}", base) as project:
                place = found.keep()
                project.update(found.record["project"])
            if self.revision > revision:  # another one than was open
                opening = self._undo[-1:] if before else []
                self._undo = [*before, *opening, *found.record["undo"]][-MOST_STEPS:]
                self._redo = found.record["redo"]
                self._save()
                self._forget()
                self._loaded = (place, clip)
        was, own = found.record["tracker"], self._tracker_name.partition(":")[0]
        return [] if was == own else [f"the project was tracked by {was}, and this editor tracks by {own}"]

    def remove_point(self, name: str, base: int | None = None) -> None:
        """Take a point away, and out of every operation; one that is about nothing else goes with it."""
        with self._step(f"Remove {self._called([name])}", base) as project:
            self._movable(project, name)
            project["points"] = [point for point in project["points"] if point["id"] != name]
            for operation in project["operations"]:
                about = operation["op"].get("points")
                if isinstance(about, list):
                    operation["op"]["points"] = [each for each in about if each != name]
            project["operations"] = [each for each in project["operations"] if each["op"].get("points") != []]
            if project["points"]:
                self._check(project)  # an operation may name it in another way
            else:
                project["operations"] = []

    def bend(self, names: list[str], frame: int, dx: float | int, dy: float | int, base: int | None = None) -> None:
        """Move points at a frame: a keyframe of their path there, which both ends of the clip keep where they were.

        Where they were bent before, that operation has one keyframe more. Their own motion goes on.
        """
        last = len(self.clip.frames) - 1
        if not 0 <= frame <= last:
            raise ValueError(f"there is no frame {frame}: the clip has frames 0..{last}")
        with self._step(f"Bend {self._called(names)} at {frame}", base, frame) as project:
            for name in names:
                self._movable(project, name)
            now = self._centre(self.target(project), names)
            bent = self._bending(project, names)
            if bent is None:
                op = {"op": "keyframes", "points": list(names), "keyframes": {}, "keep_motion": True}
                bent = self._new(project, {**op, "interpolation": "smooth"})
                for end in {0, last} - {frame}:
                    bent["op"]["keyframes"][str(end)] = now[end].tolist()
                bent["label"] = f"bend {self._called(names)}"
            bent["op"]["keyframes"][str(frame)] = [round(float(side), 3) for side in now[frame] + (dx, dy)]
            self._check(project)

    def _centre(self, of: Tracks, names: list[str]) -> np.ndarray:
        rows = [index for index, point in enumerate(self.project["points"]) if point["id"] in names]
        return of.xy[rows].mean(axis=0)

    def _bending(self, project: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
        """Find the operation that bends these points, if nothing behind it moves any of them again."""
        for operation in reversed(project["operations"]):
            op = operation["op"]
            about = op.get("points")
            if not operation["on"]:
                continue
            if op["op"] == "keyframes" and op.get("keep_motion") and sorted(about or []) == sorted(names):
                return operation
            if not isinstance(about, list) or set(about) & set(names):
                return None
        return None

    def _new(self, project: dict[str, Any], op: dict[str, Any]) -> dict[str, Any]:
        operation = {"id": f"o{project['next']}", "on": True, "label": str(op.get("op")), "op": op}
        project["next"] += 1
        project["operations"].append(operation)
        return operation

    def add_operation(self, op: dict[str, Any], base: int | None = None) -> str:
        """Add an operation as `edit.json` has it, points by their ids; returns its id. Raises EditError."""
        with self._step(f"Add {op.get('op')}", base) as project:
            operation = self._new(project, copy.deepcopy(op))
            self._check(project)
        return operation["id"]

    def change_operation(self, name: str, base: int | None = None, **changes: Any) -> None:
        """Change an operation: `on`, `label`, `op` in place of the old one, or `place` in the list."""
        with self._step(f"Change {name}", base) as project:
            operation = self._find(project["operations"], name, "operation")
            if unknown := set(changes) - {"on", "label", "op", "place"}:
                raise ValueError(f"an operation has no {', '.join(sorted(unknown))}; it has on, label, op, place")
            place = changes.pop("place", None)
            operation.update(changes)
            if place is not None:
                project["operations"].remove(operation)
                project["operations"].insert(int(place), operation)
            self._check(project)

    def remove_operation(self, name: str, base: int | None = None) -> None:
        """Take an operation away."""
        with self._step(f"Remove {name}", base) as project:
            project["operations"].remove(self._find(project["operations"], name, "operation"))

    def set(self, base: int | None = None, **values: Any) -> None:
        """Set the prompt or the seed."""
        if unknown := set(values) - {"prompt", "seed"}:
            raise ValueError(f"there is no setting {', '.join(sorted(unknown))}; there are prompt and seed")
        with self._step(f"Set {', '.join(values)}", base) as project:
            project.update(values)
            document.parse({"queries": [[0, 0, 0]], "operations": [], **values})

    def _find(self, rows: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
        for row in rows:
            if row["id"] == name:
                return row
        raise ValueError(f"there is no {what} {name!r}; there are {', '.join(row['id'] for row in rows) or 'none'}")

    # --- what follows from the project ---

    def edit_json(self, project: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the edit as `launch/edit.py` takes it, operations that are on. Raises ValueError without points."""
        project = self.project if project is None else project
        if not project["points"]:
            raise ValueError("the edit has no points: click on a thing to name one")
        queries = [{"t": p["t"], "x": p["x"], "y": p["y"], "name": p["id"]} for p in project["points"]]
        operations = [each["op"] for each in project["operations"] if each["on"]]
        made = {"queries": queries, "operations": operations, "seed": project["seed"]}
        return made | ({"prompt": project["prompt"]} if project["prompt"] else {})

    def _check(self, project: dict[str, Any], clip: video.Clip | None = None) -> document.EditSpec:
        """Hold an edit against the clip. Raises EditError, with the place in the file."""
        spec, frames = document.parse(self.edit_json(project)), (clip or self.clip).frames
        return spec.validate_against(frames.shape[1:3], len(frames))

    def _track(self, points: list[dict[str, Any]]) -> None:
        """Follow points from each of their marks, those whose paths are not known yet; paths of files are not."""
        marks = {mark for point in points if "tracks" not in point for mark in point_paths.marks(point)}
        if wanted := [mark for mark in sorted(marks) if mark not in self._tracks]:
            found = self._tracker.track(self.clip.frames, np.float32(wanted))
            for index, mark in enumerate(wanted):
                self._tracks[mark] = tracks.select(found, [index])

    def _path(self, point: dict[str, Any]) -> Tracks:
        """Return the path of a point that was followed, xy [1 T 2]."""
        marks = point_paths.marks(point)
        if "tracks" in point:
            name = point["tracks"]
            if name not in self._imported:
                self._imported[name] = tracks.load(projects.tracks_folder(self.workspace) / name)
            path = tracks.select(self._imported[name], [point["row"]])
            paths = [point_paths.through(path, mark) for mark in marks]
        else:
            paths = [self._tracks[mark] for mark in marks]
        return point_paths.join([mark[0] for mark in marks], tracks.concatenate(paths))

    def source(self, project: dict[str, Any] | None = None) -> Tracks:
        """Return the points' paths in the clip, in their order."""
        length = len(self.clip.frames)  # first, for another clip's paths are forgotten with it
        points = (self.project if project is None else project)["points"]
        if not points:
            return Tracks(np.zeros((0, length, 2), np.float32), np.zeros((0, length), bool))
        with self._lock:
            self._track(points)
            return tracks.concatenate([self._path(point) for point in points])

    def target(self, project: dict[str, Any] | None = None) -> Tracks:
        """Return where the points shall go."""
        project = self.project if project is None else project
        source = self.source(project)
        return self._check(project).apply(source, notify=lambda line: None) if project["points"] else source

    def state(self) -> dict[str, Any]:
        """Return all that a page shows, as json."""
        with self._lock:
            shown: dict[str, Any] = {"revision": self.revision, "project": self.project}
            shown["undo"] = [step["label"] for step in self._undo]
            shown["redo"] = [step["label"] for step in self._redo]
            if not self.project["clip"]:
                return shown | {"clip": None}
            length, height, width = self.clip.frames.shape[:3]
            name = Path(self.project["clip"]).name
            shown["clip"] = {"name": name, "frames": length, "width": width, "height": height, "fps": self.clip.fps}
            for side, of in (("source", self.source()), ("target", self.target())):
                shown[side] = {"xy": np.round(of.xy, 2).tolist(), "visible": of.visible.tolist()}
            return shown | {"command": self.command()}

    def command(self) -> str:
        """Return the command line that makes the same edit, of the file that lies beside the project."""
        flags = [
            f"--video={self.project['clip']}",
            f"--edit={self.workspace / EDIT}",
            f"--tracker={self._follow()}",
        ]
        return shlex.join(["python", "launch/edit.py", *flags])

    def _follow(self) -> str:
        """Name what gives a run the points' paths: the tracker, or the file of paths that are not its alone."""
        with self._lock:
            if not any("tracks" in point or "marks" in point for point in self.project["points"]):
                return self._tracker_name
            path, key = self.workspace / TRACKS, json.dumps([self.project["clip"], self.project["points"]])
            if key != self._given:
                clip = self.clip
                track_files.write(path, self.source(), clip.frames.shape[1:3], clip.fps)
                self._given = key
            return f"{trackers.GIVEN}:{path}"

    def draft_frames(self) -> UInt8[np.ndarray, "T h w 3"]:
        """Draw the draft of the edit at a small size, `PROXY` rows; the clip taken apart is kept while paths change."""
        with self._drawing:
            with self._lock:  # all of one moment
                clip, path, spec = self.clip, self.project["clip"], self._check(self.project)
                # The marks as well, with which the same edit is another one.
                marks = [[point.get(word) for word in ("marks", "tracks", "row")] for point in self.project["points"]]
                key, source = json.dumps([path, marks, self.edit_json()]), self.source()
            if key in self._drawn:
                return self._drawn[key]
            whole, size = clip.frames.shape[1:3], self.proxy_size()
            if self._prepared is None or self._prepared[0] != path:
                self._prepared = (path, draft.Prepared(video.resize(clip.frames, size)))
            prepared = self._prepared[1]
            groups = [list(thing.points) for thing in spec.divide().things] or None
            sides = [
                tracks.resize(each, whole, size) for each in (source, spec.apply(source, notify=lambda line: None))
            ]
            made = np.asarray(draft.render(prepared, *sides, groups=groups, notify=lambda line: None).frames)
            self._drawn = {key: made}
            return made

    def proxy_size(self) -> tuple[int, int]:
        """Return the size (H, W) that drafts are drawn at."""
        height, width = self.clip.frames.shape[1:3]
        scale = min(1.0, PROXY / height)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def write_edit(self) -> Path:
        """Write `edit.json` beside the project."""
        self._check(self.project)
        return files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    def run(self, checkpoint: str = "draft") -> str:
        """Make the edit at full size, in a process of its own; returns the run's id (`runs.Runs`)."""
        if not re.fullmatch(r"[^\0\n]{1,400}", checkpoint):
            raise ValueError("a checkpoint is a name or a folder, in one line")
        return self.runs.start(Path(self.project["clip"]), self.write_edit(), checkpoint, self._follow())
