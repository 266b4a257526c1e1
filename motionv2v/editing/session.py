"""What the editor page can do, without a page: open a clip, name points, bend their paths, see the draft, run a model.

A session lives in a folder, its workspace; every command is kept there when it is done, so that a session that was
killed goes on where it was. Each changes the project as one step that can be undone and done again. What follows from
the project (tracks, drafts) is worked out when it is asked for, and kept.

The project is an `edit.json` with a wrapper: operations have a name, and may be off. `edit_json` is the file that
`launch/edit.py` takes, and the only thing that a run reads.
"""

import contextlib
import copy
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import draft, files, trackers, tracks, video
from motionv2v.editing.runs import Runs
from motionv2v.edits import document
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

PROJECT, EDIT = "project.json", "edit.json"
MOST_STEPS = 200
"""Steps that can be undone."""
PROXY = 180
"""Rows of the picture that drafts are drawn at while a path is bent."""
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which people who see colours otherwise tell apart."""


class StaleError(ValueError):
    """Say that a command was given for a project that has changed since."""


def empty_project() -> dict[str, Any]:
    """Return a project without a clip."""
    return {"clip": "", "points": [], "operations": [], "prompt": "", "seed": 0, "next": 1}


class Session:
    """One clip and one edit of it, with everything that was done.

    Attributes:
        workspace: its folder. project: points {id, name, color, t, x, y}, operations {id, on, label, op}, prompt, seed.
        revision: how many changes there were, undone ones too. runs: of models.
    """

    def __init__(self, workspace: str | Path, tracker: str = trackers.DEFAULT):
        """Open a workspace, where one was left, or begin one. Raises ValueError for a folder that cannot be written."""
        self.workspace = Path(workspace)
        files.check_place(self.workspace, is_folder=True)
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.project, self.revision = empty_project(), 0
        self._undo: list[dict[str, Any]] = []
        self._redo: list[dict[str, Any]] = []
        self._tracker, self._tracker_name = trackers.named(tracker), tracker
        self._loaded: tuple[str, video.Clip] | None = None
        self._tracks: dict[tuple[float, ...], Tracks] = {}
        self._prepared: tuple[str, draft.Prepared] | None = None
        self._drawn: dict[str, UInt8[np.ndarray, "T h w 3"]] = {}
        self._lock, self._drawing = threading.RLock(), threading.Lock()
        self.runs = Runs(self.workspace / "runs")
        if (self.workspace / PROJECT).is_file():
            self._load()

    # --- the project ---

    def _load(self) -> None:
        try:
            kept = json.loads((self.workspace / PROJECT).read_text(encoding="utf-8"))
            self.project, self.revision = {**empty_project(), **kept["project"]}, int(kept["revision"])
            self._undo, self._redo = list(kept["undo"]), list(kept["redo"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.workspace / PROJECT} holds no project ({error}); choose another workspace"
            ) from error

    def _save(self) -> None:
        kept = {"project": self.project, "revision": self.revision, "undo": self._undo, "redo": self._redo}
        files.write(self.workspace / PROJECT, json.dumps(kept))
        if self.project["points"]:
            files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    @contextlib.contextmanager
    def _step(self, label: str, base: int | None, frame: int = 0) -> Iterator[dict[str, Any]]:
        """Change a copy of the project, which takes its place when nothing went wrong: one step of undo."""
        with self._lock:
            if base is not None and base != self.revision:
                raise StaleError("the project was changed in another tab: load it anew")
            changed = copy.deepcopy(self.project)
            yield changed
            if changed == self.project:
                return
            self._undo = [*self._undo, {"label": label, "frame": frame, "project": self.project}][-MOST_STEPS:]
            self._redo, self.project, self.revision = [], changed, self.revision + 1
            self._save()

    def undo(self, base: int | None = None) -> dict[str, Any]:
        """Take the last step back; returns {label, frame} of it. Raises ValueError where there is none."""
        return self._turn(self._undo, self._redo, "undo", base)

    def redo(self, base: int | None = None) -> dict[str, Any]:
        """Do the step again that was taken back last. Raises ValueError where there is none."""
        return self._turn(self._redo, self._undo, "do again", base)

    def _turn(self, taken: list, given: list, what: str, base: int | None) -> dict[str, Any]:
        with self._lock:
            if base is not None and base != self.revision:
                raise StaleError("the project was changed in another tab: load it anew")
            if not taken:
                raise ValueError(f"there is nothing to {what}")
            step = taken.pop()
            given.append({**step, "project": self.project})
            self.project, self.revision = step["project"], self.revision + 1
            self._save()
            return {"label": step["label"], "frame": step["frame"]}

    # --- the clip ---

    def open(self, path: str | Path, base: int | None = None) -> list[str]:
        """Open a clip in place of the one there is, unless it is that; returns notices. Raises VideoError."""
        notices: list[str] = []
        clip, place = video.read(path, notify=notices.append), str(Path(path).resolve())
        with self._lock:
            if place != self.project["clip"]:  # the same one again goes on where it was
                with self._step(f"Open {Path(path).name}", base) as project:
                    project.update({**empty_project(), "clip": place})
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

    def add_point(self, frame: int, x: float | int, y: float | int, base: int | None = None) -> str:
        """Name a point that frame shows at (x, y), and follow it both ways; returns its id. One step."""
        length, height, width = self.clip.frames.shape[:3]
        if not (0 <= frame < length and 0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"frame {frame}, x {x:g}, y {y:g} lies outside the clip: {length} frames of {width}x{height}"
            )
        with self._step(f"Add a point at {frame}", base, frame) as project:
            name = f"p{project['next']}"
            color = COLORS[(project["next"] - 1) % len(COLORS)]
            point = {"id": name, "name": name, "color": color, "t": int(frame), "x": float(x), "y": float(y)}
            project["points"].append(point)
            project["next"] += 1
            self._track([point])
        return name

    def remove_point(self, name: str, base: int | None = None) -> None:
        """Take a point away, and out of every operation; one that is about nothing else goes with it."""
        with self._step(f"Remove {name}", base) as project:
            self._find(project["points"], name, "point")
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
        with self._step(f"Bend {', '.join(names)} at {frame}", base, frame) as project:
            for name in names:
                self._find(project["points"], name, "point")
            now = self._centre(self.target(project), names)
            bent = self._bending(project, names)
            if bent is None:
                op = {"op": "keyframes", "points": list(names), "keyframes": {}, "keep_motion": True}
                bent = self._new(project, {**op, "interpolation": "smooth"})
                for end in {0, last} - {frame}:
                    bent["op"]["keyframes"][str(end)] = now[end].tolist()
                bent["label"] = f"bend {', '.join(names)}"
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

    def _check(self, project: dict[str, Any]) -> document.EditSpec:
        """Hold an edit against the clip. Raises EditError, with the place in the file."""
        spec = document.parse(self.edit_json(project))
        return spec.validate_against(self.clip.frames.shape[1:3], len(self.clip.frames))

    def _track(self, points: list[dict[str, Any]]) -> None:
        wanted = [key for key in ((p["t"], p["x"], p["y"]) for p in points) if key not in self._tracks]
        if wanted:
            found = self._tracker.track(self.clip.frames, np.float32(wanted))
            for index, key in enumerate(wanted):
                self._tracks[key] = tracks.select(found, [index])

    def source(self) -> Tracks:
        """Return the points' paths in the clip, in their order."""
        length = len(self.clip.frames)  # first, for another clip's paths are forgotten with it
        self._track(self.project["points"])
        parts = [self._tracks[p["t"], p["x"], p["y"]] for p in self.project["points"]]
        if not parts:
            return Tracks(np.zeros((0, length, 2), np.float32), np.zeros((0, length), bool))
        return Tracks(*(np.concatenate(side) for side in zip(*parts, strict=True)))

    def target(self, project: dict[str, Any] | None = None) -> Tracks:
        """Return where the points shall go."""
        project = self.project if project is None else project
        return (
            self._check(project).apply(self.source(), notify=lambda line: None) if project["points"] else self.source()
        )

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
            f"--tracker={self._tracker_name}",
        ]
        return shlex.join(["python", "launch/edit.py", *flags])

    def draft_frames(self) -> UInt8[np.ndarray, "T h w 3"]:
        """Draw the draft of the edit at a small size, `PROXY` rows; the clip taken apart is kept while paths change."""
        with self._drawing:
            with self._lock:  # all of one moment
                clip, path, spec = self.clip, self.project["clip"], self._check(self.project)
                key, source = path + json.dumps(self.edit_json(), sort_keys=True), self.source()
            if key in self._drawn:
                return self._drawn[key]
            whole, size = clip.frames.shape[1:3], self.proxy_size()
            if self._prepared is None or self._prepared[0] != path:
                self._prepared = (path, draft.Prepared(video.resize(clip.frames, size)))
            prepared = self._prepared[1]
            groups = [list(thing.points) for thing in spec.divide().things] or None
            sides = [_scaled(each, whole, size) for each in (source, spec.apply(source, notify=lambda line: None))]
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
        return self.runs.start(Path(self.project["clip"]), self.write_edit(), checkpoint, self._tracker_name)


def _scaled(of: Tracks, size: tuple[int, int], new: tuple[int, int]) -> Tracks:
    factor = np.float32([new[1] / size[1], new[0] / size[0]])
    return Tracks(of.xy * factor, of.visible)
