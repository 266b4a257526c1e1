"""What the editor page can do, without a page: open a clip, name points, bend their paths, see the draft, run a model.

A session lives in a folder, its workspace; every command is kept there when it is done, so that a session that was
killed goes on where it was. Each changes the project as one step that can be undone and done again. What follows from
the project (tracks, drafts) is `derived`, what becomes of it (runs, exports) `results`; how its operations are changed
is `operation_list`.

The project is an `edit.json` with a wrapper: operations have a name, and may be off; points have a name, a colour, the
path of a file perhaps, and marks where a person puts the tracker right (`point_paths`). `edit_json` is the file that
`launch/edit.py` takes; a run reads it, and `tracks.npz` beside it where paths are not the tracker's alone.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import tracks, video
from motionv2v.editing import operation_list, point_paths, projects
from motionv2v.editing.history import MOST_STEPS
from motionv2v.editing.results import Results
from motionv2v.edits import document, fields, track_files
from motionv2v.tracks import Tracks

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which people who see colours otherwise tell apart."""


class Session(Results):
    """One clip and one edit of it, with everything that was done.

    Attributes:
        workspace: its folder. project: points {id, name, color, t, x, y}, operations {id, on, label, op}, prompt, seed;
            points may have marks [{t, x, y}], tracks (a file of `projects.keep_tracks`, with their row), locked.
        revision: how many changes there were, undone ones too. runs: of models.
    """

    # --- the clip ---

    def open(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open a clip in place of the one there is, unless it is that; returns notices. Raises VideoError."""
        notices: list[str] = []
        clip, place = video.read(path, notify=notices.append), str(Path(path).resolve())
        with self._lock:
            if place != self.project["clip"]:  # the same one again goes on where it was
                with self._step(f"Open {Path(path).name}", base) as project:
                    project.clear()  # what led to the other clip too
                    project.update({**projects.empty(), "clip": place})
                self._forget()
            self._loaded = (place, clip)
        return notices

    @staticmethod
    def check_clip(path: Path) -> None:
        """Raise VideoError for a file that is no video."""
        video.measure(path)

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
            point = operation_list.find(project["points"], name, "point")
            if unknown := set(changes) - {"label", "color", "locked"}:
                raise ValueError(f"a point has no {', '.join(sorted(unknown))}; it has label, color, locked")
            if "label" in changes:
                changes["name"] = fields.name(changes.pop("label"), "label")
            point.update(changes)
            projects.check_points(project)

    def _movable(self, project: dict[str, Any], name: str) -> dict[str, Any]:
        point = operation_list.find(project["points"], name, "point")
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
                    projects.check_off(project)
            before, revision = self._undo, self.revision
            with self._step(f"Open {Path(path).name}", base) as project:
                place = found.keep()
                project.clear()
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
            bent = operation_list.bending(project, names)
            if bent is None:
                op = {"op": "keyframes", "points": list(names), "keyframes": {}, "keep_motion": True}
                bent = operation_list.new(project, {**op, "interpolation": "smooth"})
                for end in {0, last} - {frame}:
                    bent["op"]["keyframes"][str(end)] = now[end].tolist()
                bent["label"] = f"bend {self._called(names)}"
            bent["op"]["keyframes"][str(frame)] = [round(float(side), 3) for side in now[frame] + (dx, dy)]
            self._check(project)

    def _centre(self, of: Tracks, names: list[str]) -> np.ndarray:
        rows = [index for index, point in enumerate(self.project["points"]) if point["id"] in names]
        return of.xy[rows].mean(axis=0)

    # --- operations ---

    def add_operation(self, kind: str, given: dict[str, Any] | None = None, base: int | None = None) -> str:
        """Add an operation of `edit.json` by its name, with its fields, points by their ids; returns its id.

        An uncamera brings the recamera that it needs. Raises EditError for fields that are none, or do not fit.
        """
        with self._step(f"Add {kind}", base) as project:
            operation = operation_list.new(project, {"op": kind})
            self._change_fields(operation, given or {})
            if kind == "uncamera":
                operation_list.new(project, {"op": "recamera"})
            self._check(project)
            operation_list.normalise(operation["op"])
        return operation["id"]

    def change_operation(
        self, name: str, given: dict[str, Any] | None = None, base: int | None = None, **changes: Any
    ) -> None:
        """Change fields of an operation (None: back to the default), or whether it is `on`, or its `label`.

        Raises EditError as `add_operation`, for one that is off as well.
        """
        if unknown := set(changes) - {"on", "label"}:
            raise ValueError(f"an operation has no {', '.join(sorted(unknown))}; it has on and label")
        with self._step(f"Change {self._titled(name)}", base) as project:
            operation = operation_list.find(project["operations"], name, "operation")
            pair = operation_list.with_pair(project, operation)
            self._change_fields(operation, given or {})
            was = operation["on"]
            for each in pair:
                each["on"] = True  # so that what is off is checked as well
            self._check(project)
            for each in pair:
                each["on"] = changes.get("on", was)
            operation["label"] = changes.get("label", operation["label"])
            operation_list.normalise(operation["op"])
            self._check(project)

    @staticmethod
    def _change_fields(operation: dict[str, Any], given: dict[str, Any]) -> None:
        operation_list.change_fields(operation["op"], copy.deepcopy(fields.plain(given)))

    def move_operation(self, name: str, place: int, base: int | None = None) -> None:
        """Move an operation to a place in the list, from 0. Raises ValueError where there is no such place."""
        with self._step(f"Move {self._titled(name)}", base) as project:
            operations = project["operations"]
            operation = operation_list.find(operations, name, "operation")
            if not 0 <= place < len(operations):
                raise ValueError(f"there is no place {place} in the list; its places are 0..{len(operations) - 1}")
            operations.remove(operation)
            operations.insert(int(place), operation)
            self._check(project)

    def remove_operation(self, name: str, base: int | None = None) -> None:
        """Take an operation away, and an uncamera's recamera with it."""
        with self._step(f"Remove {self._titled(name)}", base) as project:
            operation = operation_list.find(project["operations"], name, "operation")
            for each in operation_list.with_pair(project, operation):
                project["operations"].remove(each)
            self._check(project)

    def _titled(self, name: str) -> str:
        return next((each["label"] for each in self.project["operations"] if each["id"] == name), name)

    def set_box(self, names: list[str], frame: int, box: Sequence[float | int], base: int | None = None) -> None:
        """Say where the thing of these points is in a frame, for the draft: inside (x0, y0, x1, y1), in pixels.

        Raises ValueError where no operation moves them, and EditError for a box that leaves the frame.
        """
        with self._step(f"Box {self._called(names)} at {frame}", base, frame) as project:
            operation_list.put_box(project, names, frame, box)
            self._check(project)

    def remove_box(self, names: list[str], frame: int, base: int | None = None, operation: str | None = None) -> None:
        """Take a box away that `set_box` drew, or that of an operation. Raises ValueError where there is none."""
        with self._step(f"Remove the box of {self._called(names)} at {frame}", base, frame) as project:
            operation_list.take(project, names, frame, "boxes", operation)
            self._check(project)

    def add_stroke(self, names: list[str], frame: int, stroke: dict[str, Any], base: int | None = None) -> None:
        """Say with a brush what is the thing of these points in a frame, or is not, over what else is said of it.

        `stroke` is {path: [[x, y], ...], radius, sign: "add" or "remove"}, in pixels. Raises as `set_box`.
        """
        with self._step(f"Brush {self._called(names)} at {frame}", base, frame) as project:
            operation_list.put_stroke(project, names, frame, copy.deepcopy(stroke))
            self._check(project)

    def remove_strokes(
        self, names: list[str], frame: int, base: int | None = None, operation: str | None = None
    ) -> None:
        """Take the strokes of a frame away, those of an operation if one is named. Raises as `remove_box`."""
        with self._step(f"Remove the strokes of {self._called(names)} at {frame}", base, frame) as project:
            operation_list.take(project, names, frame, "strokes", operation)
            self._check(project)

    # --- all else ---

    def set(self, base: int | None = None, **values: Any) -> None:
        """Set the prompt or the seed."""
        if unknown := set(values) - {"prompt", "seed"}:
            raise ValueError(f"there is no setting {', '.join(sorted(unknown))}; there are prompt and seed")
        with self._step(f"Set {', '.join(values)}", base) as project:
            project.update(values)
            document.parse({"queries": [[0, 0, 0]], "operations": [], **values})

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
