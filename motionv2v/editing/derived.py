"""What follows from a project, worked out when asked for and kept: its clip, paths, `edit.json` and draft."""

import json
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import draft, files, trackers, tracks, video
from motionv2v.editing import drafted, point_paths, projects
from motionv2v.editing.history import History
from motionv2v.edits import document, track_files
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

EDIT, TRACKS = "edit.json", "tracks.npz"
PROXY = 180
"""Rows of the picture that drafts are drawn at while a path is bent."""


class Drawn(NamedTuple):
    """A draft: `frames` uint8 [T h w 3], and how `uncertain` each pixel is, uint8 [T h w] of 255."""

    frames: UInt8[np.ndarray, "T h w 3"]
    uncertain: UInt8[np.ndarray, "T h w"]


class Carried(NamedTuple):
    """Where things are: `masks` bool [T h w] of each at the draft's working size, and the `doubts` [T] of its frames.

    A doubt is 0 where something was said, and grows with what changed since (`drafted.doubts`).
    """

    masks: list[Bool[np.ndarray, "T h w"]]
    doubts: list[Float[np.ndarray, "T"]]

    def labels(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """Return what is seen in a frame: 0 for no thing, else its place in the list from 1; the foremost counts."""
        made = np.zeros(self.masks[0].shape[1:] if self.masks else (1, 1), np.uint8)
        for place in range(min(len(self.masks), 255) - 1, -1, -1):
            made[np.asarray(self.masks[place][frame])] = place + 1
        return made


class _Moment(NamedTuple):
    """What a draft is drawn from, all of one moment; `key` tells it from that of another."""

    key: str
    path: str
    clip: video.Clip
    spec: document.EditSpec
    source: Tracks


def _quiet(line: str) -> None:
    """Tell nobody."""


class Derived(History):
    """A project with what follows from it. `project`, `workspace` and `revision` are as `History` has them."""

    def __init__(self, workspace: str | Path, tracker: str = trackers.DEFAULT):
        """Open a workspace, where one was left, or begin one. Raises ValueError for a folder that cannot be written."""
        super().__init__(workspace)
        self._tracker, self._tracker_name = trackers.named(tracker), tracker
        self._loaded: tuple[str, video.Clip] | None = None
        self._others: dict[str, trackers.Tracker] = {}
        self._tracks: dict[tuple[str, point_paths.Mark], Tracks] = {}  # by who followed it, and from where
        self._imported: dict[str, Tracks] = {}
        self._given = ""  # what the file of tracks was last written of
        self._prepared: tuple[str, draft.Prepared] | None = None
        self._drawn: dict[str, Drawn] = {}
        self._carried: tuple[str, Carried] | None = None
        self._drawing = threading.Lock()

    def _save(self, event: dict[str, Any] | None = None) -> None:
        super()._save(event)
        if self.project["points"]:
            files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    def _forget(self) -> None:
        """Forget what was worked out of another clip."""
        self._prepared = self._carried = None
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

    def edit_json(self, project: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the edit as `launch/edit.py` takes it, operations that are on. Raises ValueError without points."""
        project = self.project if project is None else project
        if not project["points"]:
            raise ValueError("the edit has no points: click on a thing to name one")
        queries = [{"t": p["t"], "x": p["x"], "y": p["y"], "name": p["id"]} for p in project["points"]]
        operations = [self._with_masks(each["op"]) for each in project["operations"] if each["on"]]
        made = {"queries": queries, "operations": operations, "seed": project["seed"]}
        made |= {"prompt": project["prompt"]} if project["prompt"] else {}
        if project["order"] and (order := self._order(project, made)):
            made["order"] = order
        return made

    def _with_masks(self, op: dict[str, Any]) -> dict[str, Any]:
        """Name an operation's file of masks with its folder, so that the edit may lie anywhere."""
        return op if op.get("masks") is None else {**op, "masks": str((self.workspace / op["masks"]).resolve())}

    def _order(self, project: dict[str, Any], edit: dict[str, Any]) -> list[str]:
        """Return the order of layers as far as they are things of the edit: others may be things again."""
        frames = self.clip.frames
        spec = document.parse(edit).validate_against(frames.shape[1:3], len(frames))
        known = [point["id"] for point in project["points"]]
        moved = {known[point] for thing in spec.divide().things for point in thing.points}
        return [name for name in project["order"] if name in moved]

    def things(self) -> list[dict[str, Any]]:
        """List the things that the edit moves, the foremost first as far as that is said: {points, color, said, masks}.

        `said` are the frames in which a person said where it is, `masks` the operations that have a file of masks.
        """
        if not self.project["points"]:
            return []
        points, division = self.project["points"], self._check(self.project).divide()
        on = [each for each in self.project["operations"] if each["on"]]
        found = []
        for place in dict.fromkeys([*division.order, *range(len(division.things))]):
            thing = division.things[place]
            own = [on[step.index] for step in thing.steps]
            said = {int(t) for word in ("boxes", "strokes") for each in own for t in each["op"].get(word, {})}
            found.append(
                {
                    "points": [points[index]["id"] for index in thing.points],
                    "color": points[thing.points[0]]["color"],
                    "said": sorted(said),
                    "masks": [each["id"] for each in own if "masks" in each["op"]],
                }
            )
        return found

    def _check(self, project: dict[str, Any], clip: video.Clip | None = None) -> document.EditSpec:
        """Hold an edit against the clip. Raises EditError, with the place in the file."""
        spec, frames = document.parse(self.edit_json(project)), (clip or self.clip).frames
        return replace(spec.validate_against(frames.shape[1:3], len(frames)), folder=self.workspace)

    def _track(self, points: list[dict[str, Any]]) -> None:
        """Follow points from each of their marks, those whose paths are not known yet; paths of files are not."""
        wanted: dict[str, set[point_paths.Mark]] = {}
        for point in points:
            if "tracks" not in point:
                own = point.get("tracker", "")
                unknown = {mark for mark in point_paths.marks(point) if (own, mark) not in self._tracks}
                wanted.setdefault(own, set()).update(unknown)
        for own, marks in wanted.items():
            if queries := sorted(marks):
                found = self._tracker_of(own).track(self.clip.frames, np.float32(queries))
                for index, mark in enumerate(queries):
                    self._tracks[own, mark] = tracks.select(found, [index])

    def _tracker_of(self, name: str) -> trackers.Tracker:
        """Return the tracker that a point names; "" is the editor's own."""
        if not name:
            return self._tracker
        if name not in self._others:
            self._others[name] = trackers.named(name)
        return self._others[name]

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
            paths = [self._tracks[point.get("tracker", ""), mark] for mark in marks]
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

    def stages(self, project: dict[str, Any] | None = None) -> dict[str, Tracks]:
        """Return the paths that each operation that is on is given, by its id."""
        project = self.project if project is None else project
        if not project["points"]:
            return {}
        on = [each["id"] for each in project["operations"] if each["on"]]
        return dict(zip(on, self._check(project).stages(self.source(project)), strict=False))  # the last is the target

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
            if not any(set(point) & {"tracks", "marks", "tracker"} for point in self.project["points"]):
                return self._tracker_name
            path, key = self.workspace / TRACKS, json.dumps([self.project["clip"], self.project["points"]])
            if key != self._given or not path.is_file():  # it lies where a person may tidy up
                clip = self.clip
                track_files.write(path, self.source(), clip.frames.shape[1:3], clip.fps)
                self._given = key
            return f"{trackers.GIVEN}:{path}"

    def draft_frames(self) -> UInt8[np.ndarray, "T h w 3"]:
        """Draw the draft of the edit at a small size, `PROXY` rows; the clip taken apart is kept while paths change."""
        return self.drawn().frames

    def drawn(self) -> Drawn:
        """Draw the draft, with what is uncertain of it."""
        with self._drawing:
            moment = self._moment()
            found = self._drawn.get(moment.key)  # another clip may be opened, and all forgotten, at any time
            if found is None:
                prepared, hints = self._prepare(moment)
                made = drafted.draw_prepared(prepared, moment.spec, moment.source, hints, notify=_quiet)
                found = Drawn(np.asarray(made.frames), np.uint8(np.asarray(made.uncertain) * 255))
                self._drawn = {moment.key: found}
            return found

    def masks(self) -> Carried:
        """Carry what is said of things to all frames; things are in the order of `things`."""
        with self._drawing:
            moment = self._moment()
            carried = self._carried
            if carried is None or carried[0] != moment.key:
                prepared, hints = self._prepare(moment)
                found = drafted.masks_prepared(prepared, moment.spec, moment.source, hints)
                order = dict.fromkeys([*moment.spec.divide().order, *range(len(found))])
                doubts = [
                    drafted.doubts(found[place], hint.frames if (hint := hints[place]) else []) for place in order
                ]
                carried = self._carried = (moment.key, Carried([found[place] for place in order], doubts))
            return carried[1]

    def _moment(self) -> _Moment:
        with self._lock:
            clip, path, spec = self.clip, self.project["clip"], self._check(self.project)
            # The marks as well, with which the same edit is another one, and who followed the points.
            words = ("marks", "tracks", "row", "tracker")
            marks = [[point.get(word) for word in words] for point in self.project["points"]]
            return _Moment(json.dumps([path, marks, self.edit_json()]), path, clip, spec, self.source())

    def _prepare(self, of: _Moment) -> tuple[draft.Prepared, list[draft.Hint | None]]:
        """Return the clip at the size of drafts, taken apart as far as it was, and what is said of its things."""
        prepared = self._prepared
        if prepared is None or prepared[0] != of.path:
            prepared = (of.path, draft.Prepared(video.resize(of.clip.frames, self._small(of.clip))))
            self._prepared = prepared
        whole, length = of.clip.frames.shape[1:3], len(of.clip.frames)
        return prepared[1], drafted.read_hints(of.spec, of.spec.divide(), whole, length, _quiet)

    def proxy_size(self) -> tuple[int, int]:
        """Return the size (H, W) that drafts are drawn at."""
        return self._small(self.clip)

    @staticmethod
    def _small(clip: video.Clip) -> tuple[int, int]:
        height, width = clip.frames.shape[1:3]
        scale = min(1.0, PROXY / height)
        return max(1, round(height * scale)), max(1, round(width * scale))
