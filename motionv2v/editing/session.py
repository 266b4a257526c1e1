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
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files, tracks, video
from motionv2v.editing import inputs, mask_files, operation_list, point_groups, point_paths, projects, stills, trust
from motionv2v.editing.history import MOST_STEPS
from motionv2v.editing.presets import CAMERAS, Presets
from motionv2v.edits import document, fields, track_files


def _readable(work: Callable[..., Any], path: str | Path, **options: Any) -> Any:
    """Do what reads a clip; the VideoError of one that cannot be read says what to do."""
    try:
        return work(path, **options)
    except video.VideoError as error:
        raise video.VideoError(f"{error}: choose another file, or copy it anew") from error


class Session(Presets):
    """One clip and one edit of it, with everything that was done.

    Attributes:
        workspace: its folder. project: points {id, name, color, t, x, y}, operations {id, on, label, op}, prompt, seed;
            points may have marks [{t, x, y}], tracks (a file of `projects.keep_tracks`, with their row), locked.
        revision: how many changes there were, undone ones too. runs: of models.
    """

    # --- the clip ---

    def open(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open a clip in place of the one there is, unless it is that; returns notices.

        A picture is opened as a clip that stands still (`stills`). Raises VideoError, ValueError for a picture.
        """
        notices: list[str] = []
        if stills.is_picture(path):
            path = stills.as_clip(path, self.workspace / projects.OWN_CLIPS, notices.append)
        clip, place = _readable(video.read, path, notify=notices.append), str(Path(path).resolve())
        with self._lock:
            if place != self.project["clip"]:  # the same one again goes on where it was
                with self._step(f"Open {Path(path).name}", base) as project:
                    project.clear()  # what led to the other clip too
                    project.update({**projects.empty(), "clip": place})
                self._forget()
            self._loaded = (place, clip)
        return notices

    def open_sample(self, base: int | None = None) -> list[str]:
        """Open the packaged example's clip, a copy of it in the workspace, as `open` does."""
        content = (inputs.EXAMPLE / "source.mp4").read_bytes()
        place = self.workspace / projects.OWN_CLIPS / f"{inputs.EXAMPLE.name}.mp4"
        if not (place.is_file() and place.read_bytes() == content):
            place = files.write(projects.free_path(place), content)
        return self.open(place, base)

    @staticmethod
    def check_clip(path: Path) -> None:
        """Raise ValueError for a file that is neither a video nor a picture."""
        if stills.is_picture(path):
            inputs.read_image(path)
        else:
            _readable(video.measure, path)

    # --- points and operations ---

    def _check_place(self, frame: int, x: float | int, y: float | int) -> None:
        length, height, width = self.clip.frames.shape[:3]
        if not (0 <= frame < length and 0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"frame {frame}, x {x:g}, y {y:g} lies outside the clip: {length} frames of {width}x{height}"
            )

    def add_point(self, frame: int, x: float | int, y: float | int, base: int | None = None, tracker: str = "") -> str:
        """Name a point that frame shows at (x, y), and follow it both ways; returns its id. One step.

        `tracker` follows it, one of `trust.TRACKERS`; "" is the editor's own. Raises ValueError for other names.
        """
        self._check_place(frame, x, y)
        tracker = self._known_tracker(tracker)
        with self._step(f"Add a point at {frame}", base, frame, [f"p{self.project['next']}"]) as project:
            point = self._name(project, (int(frame), float(x), float(y)))
            point.update({"tracker": tracker} if tracker else {})
            self._track([point], may_stop=True)
        return point["id"]

    def change_point(self, name: str, base: int | None = None, **changes: Any) -> None:
        """Change how a point is called (`label`), its `color` (#rrggbb), or whether it is `locked`: not to be moved."""
        with self._step(f"Change {self._called([name])}", base, names=[name]) as project:
            point = operation_list.find(project["points"], name, "point")
            if unknown := set(changes) - {"label", "color", "locked"}:
                raise ValueError(f"a point has no {', '.join(sorted(unknown))}; it has label, color, locked")
            if "label" in changes:
                changes["name"] = fields.name(changes.pop("label"), "label")
            point.update(changes)
            projects.check_points(project)

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

    def track_by(self, name: str, tracker: str, base: int | None = None) -> None:
        """Follow one point anew from its marks, by another tracker of `trust.TRACKERS`, or by the editor's own: "".

        The paths of other points stay; one that a file gave is the tracker's from then on. Raises ValueError for other
        names, and for the tracker that follows it already.
        """
        tracker = self._known_tracker(tracker)
        called = tracker or self._tracker_name.partition(":")[0]  # where its weights lie is nobody's business
        with self._lock:
            self._check_base(base)
            point = operation_list.find(self.project["points"], name, "point")
            if "tracks" not in point and tracker == point.get("tracker", ""):
                raise ValueError(f"{point['name']} is followed by {called} already; try another one")
            own = tracks.select(self.source(), [self.project["points"].index(point)])
            (doubt,) = trust.report(own, self.clip.frames.shape[1:3])
            frame = doubt["frames"][0] if doubt else point["t"]
            with self._correct(f"Track {point['name']} by {called}", name, base, frame) as changed:
                for word in ("tracks", "row", "tracker"):
                    changed.pop(word, None)
                changed.update({"tracker": tracker} if tracker else {})

    def _known_tracker(self, name: str) -> str:
        """Return what a point is to say of its tracker: nothing where that is the editor's own."""
        if name and name not in trust.TRACKERS:
            raise ValueError(f"there is no tracker {name!r} for a point; there are {', '.join(trust.TRACKERS)}")
        return "" if name == self._tracker_name else name

    def _trackers(self) -> list[dict[str, str]]:
        """List what may follow a point, {name, called, says}, the editor's own first, as ""."""
        own = self._tracker_name
        first = {"name": "", "called": own.partition(":")[0], "says": trust.TRACKERS.get(own, "the editor's own")}
        others = [each for each in trust.TRACKERS.items() if each[0] != own]
        return [first, *({"name": name, "called": name, "says": says} for name, says in others)]

    @contextlib.contextmanager
    def _correct(self, label: str, name: str, base: int | None, frame: int) -> Iterator[dict[str, Any]]:
        """Change a point's marks, and let its bends ride on the path that follows."""
        with self._step(label, base, frame, [name]) as project:
            yield self._movable(project, name)
            self._track(project["points"], may_stop=True)
            sides = [self._given_to(self.project), self._given_to(project)]
            point_paths.shift_bends(project, *sides, len(self.clip.frames))
            self._check(project)

    def remove_point(self, name: str, base: int | None = None) -> None:
        """Take a point away, as `remove_points` does."""
        operation_list.find(self.project["points"], name, "point")
        self.remove_points([name], base)

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
            given = self.project, steps, self._branches, self._tracker_name
            return projects.write(path, self.workspace, *given)

    def open_project(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open what `save_project` wrote: the same project with its steps, behind those there are; returns notices.

        Raises ValueError, one line, for another file, and for one that is damaged or made to do harm; nothing changes.
        """
        with projects.unpacked(path, self.workspace) as found, self._lock:
            try:
                clip = video.read(found.clip, notify=lambda line: None)
            except video.VideoError as error:
                raise ValueError(str(error).replace(str(found.clip), f"{Path(path).name}, {found.clip.name}")) from None
            length, *size = clip.frames.shape[:3]
            projects.check_masks(found.projects(), found.masks, length, tuple(size))
            for project in found.projects():
                projects.check_tracks(project, found.tracks, length, tuple(size))
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
                self._branches = [*self._branches, *found.record["branches"]][-projects.MOST_BRANCHES :]
                self._save()
                self._forget()
                self._loaded = (place, clip)
        was, own = found.record["tracker"], self._tracker_name.partition(":")[0]
        return [] if was == own else [f"the project was tracked by {was}, and this editor tracks by {own}"]

    # --- operations ---

    def add_operation(self, kind: str, given: dict[str, Any] | None = None, base: int | None = None) -> str:
        """Add an operation of `edit.json` by its name, with its fields, points by their ids; returns its id.

        An uncamera brings the recamera that it needs. Raises EditError for fields that are none, or do not fit.
        """
        with self._step(f"Add {kind}", base) as project:
            operation = operation_list.new(project, {"op": kind})
            self._change_fields(project, operation, given or {})
            if kind == "uncamera":
                operation_list.new(project, {"op": "recamera"})
            self._check(project)
            operation_list.normalise(operation["op"])
        return operation["id"]

    def change_operation(
        self, name: str, given: dict[str, Any] | None = None, base: int | None = None, **changes: Any
    ) -> None:
        """Change fields of an operation (None: back to the default), or whether it is `on`, or its `label`.

        Keyframes that shall keep the points' motion from now on, or no longer, are written anew for where they are now.
        Raises EditError as `add_operation`, for one that is off as well.
        """
        if unknown := set(changes) - {"on", "label"}:
            raise ValueError(f"an operation has no {', '.join(sorted(unknown))}; it has on and label")
        with self._step(f"Change {self._titled(name)}", base) as project:
            operation = operation_list.find(project["operations"], name, "operation")
            pair = operation_list.with_pair(project, operation)
            if {"keyframes", "by", "keep_motion"} & set(given or {}):
                operation.pop("drawn", None)  # it is no longer what was drawn
            self._change_fields(project, operation, self._keep_motion(project, operation, given or {}))
            was = operation["on"]
            for each in pair:
                each["on"] = True  # so that what is off is checked as well
            self._check(project)
            for each in pair:
                each["on"] = changes.get("on", was)
            operation["label"] = changes.get("label", operation["label"])
            operation_list.normalise(operation["op"])
            self._check(project)

    def _change_fields(self, project: dict[str, Any], operation: dict[str, Any], given: dict[str, Any]) -> None:
        given = copy.deepcopy(fields.plain(given))
        if given.get("masks") is not None:
            mask_files.check_name(given["masks"], self.workspace)
        if isinstance(given.get("points"), list) and any(each["id"] in given["points"] for each in project["groups"]):
            given["points"] = point_groups.members(project, given["points"])
        operation_list.change_fields(operation["op"], given)

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
            shown["checkpoint"] = self.checkpoint
            shown["session"] = hashlib.sha256(os.fsencode(self.workspace.resolve())).hexdigest()[:16]  # of its tabs
            shown["undo"] = [step["label"] for step in self._undo]
            shown["redo"] = [step["label"] for step in self._redo]
            shown["branches"] = self.branches()
            if not self.project["clip"]:
                return shown | {"clip": None}
            length, height, width = self.clip.frames.shape[:3]
            name = Path(self.project["clip"]).name
            shown["clip"] = {"name": name, "frames": length, "width": width, "height": height, "fps": self.clip.fps}
            source = self.source()
            given, target = self._applied(source=source)
            for side, of in (("source", source), ("target", target)):
                shown[side] = {"xy": np.round(of.xy, 2).tolist(), "visible": of.visible.tolist()}
            shown["trust"], shown["trackers"] = trust.report(source, (height, width)), self._trackers()
            shown["cameras"] = list(CAMERAS)
            shown["things"], shown["offsets"] = self.things(), self.offsets(given)
            return shown | {"command": self.command()}
