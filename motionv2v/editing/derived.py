"""What follows from a project, worked out when asked for and kept: its clip, paths, `edit.json` and draft."""

import copy
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files, trackers, tracks, video
from motionv2v.editing import operation_list, point_paths, projects
from motionv2v.editing.carrying import Carried, Progress
from motionv2v.editing.drafting import Drafts, Drawn, Moment
from motionv2v.editing.history import History
from motionv2v.edits import document, track_files
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

EDIT, TRACKS = "edit.json", "tracks.npz"
PROXY = 180
"""Rows of the picture that drafts are drawn at while a path is bent."""
_DRAWN = ("clip", "points", "groups", "operations", "order")
"""The parts of a project that a draft is drawn of."""


class Derived(History):
    """A project with what follows from it. `project`, `workspace` and `revision` are as `History` has them."""

    def __init__(self, workspace: str | Path, tracker: str = trackers.DEFAULT):
        """Open a workspace, where one was left, or begin one. Raises ValueError for a folder that cannot be written."""
        super().__init__(workspace)
        self._tracker, self._tracker_name = trackers.named(tracker), tracker
        self._loaded: tuple[str, video.Clip] | None = None
        self._others: dict[str, trackers.Tracker] = {}
        self._followers: tuple[Any, dict[str, trackers.Tracker]] = (None, {})  # of frames, with what they found in them
        self._under_way: dict[int, list[float]] | None = None  # places of what is being followed, by frame
        self._is_stopped = False
        self._tracks: dict[tuple[str, point_paths.Mark], Tracks] = {}  # by who followed it, and from where
        self._imported: dict[str, Tracks] = {}
        self._given = ""  # what the file of tracks was last written of
        self._drafts, self._full = Drafts(PROXY), Drafts(None)
        self._drawn_of = ""  # the parts of the project that drafts are drawn of

    def _save(self, event: dict[str, Any] | None = None) -> None:
        super()._save(event)
        drawn = json.dumps([self.project[part] for part in _DRAWN])
        if drawn != self._drawn_of:
            self._drawn_of = drawn
            for drafts in (self._drafts, self._full):
                drafts.cancel()
        if self.project["points"]:
            files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    def _forget(self) -> None:
        """Forget what was worked out of another clip."""
        for drafts in (self._drafts, self._full):
            drafts.forget()
        self._tracks.clear()
        self._followers = (None, {})

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

    def _track(self, points: list[dict[str, Any]], may_stop: bool = False) -> None:
        """Follow points from each of their marks, those whose paths are not known yet; paths of files are not.

        Raises ValueError where that is stopped (`stop_tracking`), if it may be.
        """
        wanted: dict[str, set[point_paths.Mark]] = {}
        for point in points:
            if "tracks" not in point:
                own = point.get("tracker", "")
                if unknown := {mark for mark in point_paths.marks(point) if (own, mark) not in self._tracks}:
                    wanted.setdefault(own, set()).update(unknown)
        if not wanted:
            return
        self._is_stopped, self._under_way = False, {} if may_stop else None
        try:
            for own, marks in wanted.items():
                queries = sorted(marks)
                with self._drafts.held():  # a person waits for this
                    found = self._follower_of(own).track(self.clip.frames, np.float32(queries))
                if self._under_way is not None:
                    self._stop_if_asked()  # not every tracker tells how far it is
                for index, mark in enumerate(queries):
                    self._tracks[own, mark] = tracks.select(found, [index])
        finally:
            self._under_way = None

    def _tracker_of(self, name: str) -> trackers.Tracker:
        """Return the tracker that a point names; "" is the editor's own."""
        if not name:
            return self._tracker
        if name not in self._others:
            self._others[name] = trackers.named(name)
        return self._others[name]

    def _follower_of(self, name: str) -> trackers.Tracker:
        """Return that tracker with what it worked out of the clip's frames before; of others that is let go."""
        frames = self.clip.frames
        if self._followers[0] is not frames:
            self._followers = (frames, {})
        known = self._followers[1]
        if name not in known:
            known.clear()  # the flows of a clip take hundreds of MiB
            known[name] = trackers.for_clip(self._tracker_of(name), frames, self._watch)
        return known[name]

    def _watch(self, frame: int, places: Float[np.ndarray, "M 2"]) -> None:
        if self._under_way is None:
            return
        self._stop_if_asked()
        self._under_way = {**self._under_way, int(frame): np.round(places[0], 2).tolist()}

    def _stop_if_asked(self) -> None:
        if self._is_stopped:
            raise ValueError("following the point was stopped; nothing has changed")

    def tracking(self) -> dict[str, Any]:
        """Tell how far a point is followed that a command waits for: {frames: {t: [x, y]} so far, of how many}.

        It does not wait for the command. `frames` is None where no point is followed.
        """
        found, loaded = self._under_way, self._loaded
        return {"frames": found, "of": len(loaded[1].frames) - 1 if loaded else 0}

    def stop_tracking(self) -> None:
        """Stop following the point that a command waits for, which then changes nothing.

        A tracker that does not tell how far it is comes to its end first.
        """
        self._is_stopped = True

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
        return self._applied(project)[1]

    def stages(self, project: dict[str, Any] | None = None) -> dict[str, Tracks]:
        """Return the paths that each operation that is on is given, by its id."""
        return self._applied(project)[0]

    def _applied(
        self, project: dict[str, Any] | None = None, source: Tracks | None = None
    ) -> tuple[dict[str, Tracks], Tracks]:
        """Return what `stages` and `target` do, which one application of the edit gives."""
        project = self.project if project is None else project
        source = self.source(project) if source is None else source
        if not project["points"]:
            return {}, source
        *given, target = self._check(project).stages(source)
        on = [each["id"] for each in project["operations"] if each["on"]]
        return dict(zip(on, given, strict=True)), target

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

    # --- drafts ---

    def draft_frames(self) -> UInt8[np.ndarray, "T h w 3"]:
        """Draw the draft of the edit at a small size, `PROXY` rows; the clip taken apart is kept while paths change."""
        return self.drawn().frames

    def drawn(self) -> Drawn:
        """Draw the draft, with what is uncertain of it."""
        return self._drafts.all(self._moment)

    def draft_frame(self, index: int, full: bool = False) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one frame of the draft, and others after it; `full`: at the clip's own size, that one alone."""
        if full:
            with self._drafts.held():  # a person waits for this
                return self._full.single(self._moment, index)
        return self._drafts.frame(self._moment, index).frames[index]

    def uncertain_frame(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """Return how uncertain each pixel of a frame of the draft is."""
        return self._drafts.frame(self._moment, index).uncertain[index]

    def masks(self) -> Carried:
        """Carry what is said of things to all frames, unless that was stopped; things are in the order of `things`."""
        return self._drafts.masks(self._moment)

    def mask_labels(self, index: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return which thing is seen in a frame, as `Carried.labels`; None before masks are carried to it."""
        return self._drafts.labels(self._moment, index)

    def carrying(self) -> Progress:
        """Tell how far masks are carried, and have that done in a thread; as `Drafts.carrying`."""
        return self._drafts.carrying(self._moment)

    def stop_carrying(self) -> None:
        """Stop carrying masks: those that have come stay, and the draft waits for the others until `carry_on`."""
        self._drafts.stop_carrying(self._moment)

    def carry_on(self) -> None:
        """Carry masks on that were stopped."""
        self._drafts.carry_on()

    def expect(self, names: Sequence[str] = (), frame: int = 0) -> None:
        """Get ready, meanwhile, for a bend of points that are selected, as far as there are such; nothing changes."""
        if not self.project["clip"]:
            return
        with self._lock:
            clip, path, (of, _) = self.clip, self.project["clip"], self._bent(names)
            self._drafts.expect(path, clip, of, frame)

    def held_mask(self, names: Sequence[str], frame: int) -> Bool[np.ndarray, "h w"] | None:
        """Return where the things of some points are in a frame, bent or not, at the draft's working size.

        None where that is not known so far: nobody waits for it, it is for a hand that drags them now.
        """
        with self._lock:
            of, rows = self._bent(names)
        return None if of is None else self._drafts.mask_of(of, rows, frame)

    def _bent(self, names: Sequence[str]) -> tuple[Moment | None, list[int]]:
        """Return the project as it is once points are bent, and their rows; None where there are no such points."""
        known = self.project["points"]
        rows = [row for row, point in enumerate(known) if point["id"] in set(names)]
        if not rows:
            return None, rows
        project = copy.deepcopy(self.project)
        names = [known[row]["id"] for row in rows]
        if operation_list.bending(project, names) is None:
            size = np.array(self.clip.frames.shape[2:0:-1])
            now = self.target().xy[rows].mean(axis=0, dtype=np.float64)[[0, -1]]
            away = np.where(now > size / 2, -1, 1) * size[0] / 8
            by = dict(zip(("0", str(len(self.clip.frames) - 1)), away.tolist(), strict=True))
            operation_list.new(project, {"op": "keyframes", "points": names, "by": by})
        return self._moment(project), rows

    def is_getting_ready(self) -> bool:
        """Tell whether something is drawn that nobody waits for."""
        return self._drafts.is_at_work

    def _moment(self, project: dict[str, Any] | None = None) -> Moment:
        with self._lock:
            project = self.project if project is None else project
            clip, path, spec = self.clip, project["clip"], self._check(project)
            # The marks as well, with which the same edit is another one, and who followed the points.
            words = ("marks", "tracks", "row", "tracker")
            marks = [[point.get(word) for word in words] for point in project["points"]]
            edit = {word: part for word, part in self.edit_json(project).items() if word not in ("prompt", "seed")}
            key = json.dumps([path, marks, edit])
            return Moment(key, path, clip, spec, self.source(project))

    def proxy_size(self) -> tuple[int, int]:
        """Return the size (H, W) that drafts are drawn at."""
        return self._drafts.size(self.clip)
