"""What becomes of a project: runs of models, their results as clips to go on from, exports, and copies of the project.

A result that is used as the source of the next edit keeps where it came from (`project["made_from"]`, which travels
with the project); the whole tree of a workspace follows from its runs, each of which names the clip that it edited.
"""

import copy
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import files, trackers, video
from motionv2v.editing import drift, estimates, exports, mask_files, projects
from motionv2v.editing.derived import EDIT, Derived
from motionv2v.editing.runs import MOST_SEEDS, Runs
from motionv2v.typing import UInt8

DRAFT = "draft"
PROJECTS, DRIFT, OPENED = "projects", "drift.json", "opened.json"
MOST_PAST = 200
"""States of the project that a copy may be made of."""


class Results(Derived):
    """A project with its runs and their results; `session.Session` adds the commands that edit it."""

    def __init__(self, workspace: str | Path, tracker: str = trackers.DEFAULT, checkpoint: str = DRAFT):
        """Open a workspace, where one was left, or begin one; `checkpoint` is what a page proposes for runs.

        Raises ValueError for a folder that cannot be written, and for a model that there is not.
        """
        if checkpoint != DRAFT:
            estimates.check_named(checkpoint)
        self.checkpoint = checkpoint
        self._past: dict[int, dict[str, Any]] = {}
        self._watched: tuple[Path, video.Clip] | None = None  # the result that is looked at
        self._watch_lock = threading.Lock()  # two that ask at once decode it once
        self._drift_lock = threading.Lock()  # the page asks for the tree often, and one measure takes seconds
        super().__init__(workspace, tracker)
        self._past[self.revision] = self.project
        self.runs = Runs(self.workspace / "runs")

    def _save(self, event: dict[str, Any] | None = None) -> None:
        super()._save(event)
        self._past[self.revision] = self.project
        while len(self._past) > MOST_PAST:
            self._past.pop(next(iter(self._past)))

    def _forget(self) -> None:
        super()._forget()
        self._watched = None

    # --- runs ---

    def write_edit(self) -> Path:
        """Write `edit.json` beside the project."""
        self._check(self.project)
        return files.write(self.workspace / EDIT, json.dumps(self.edit_json(), indent=1) + "\n")

    def run(
        self,
        checkpoint: str = DRAFT,
        seeds: Sequence[int] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        clocks: str | None = None,
    ) -> str:
        """Put the edit at full size into the line of runs, once for each seed; returns the id of the first run.

        Args:
            checkpoint: "draft", or a model as for `files.run`. seeds: None takes the edit's own.
            num_steps, guidance, clocks: settings of a model as for `files.run`; None takes its own.

        Raises:
            ValueError: for what no checkpoint can be named, too many seeds, and settings of the draft.
        """
        if not re.fullmatch(r"[^\0\n]{1,400}", checkpoint):
            raise ValueError("a checkpoint is a name or a folder, in one line")
        if seeds is not None and not 0 < len(seeds) <= MOST_SEEDS:
            raise ValueError(f"there must be 1 to {MOST_SEEDS} seeds, got {len(seeds)}")
        settings = {"num_steps": num_steps, "guidance": guidance, "clocks": clocks}
        settings = {name: value for name, value in settings.items() if value is not None}
        if checkpoint == DRAFT and (settings or seeds):
            raise ValueError("the draft is drawn without a model: it has no seeds, steps or guidance; leave them empty")
        with self._lock:  # the clip, the edit and the paths are of one moment
            source, target, clip = self.source(), self.target(), self.clip
            parts = (Path(self.project["clip"]), self.write_edit(), checkpoint, self._follow())
            facts = {"frames": len(clip.frames), "num_steps": num_steps, "points": len(source.xy)}
            facts["labels"] = [each["label"] for each in self.project["operations"] if each["on"]]
            names = []
            for seed in seeds or [None]:
                name = self.runs.start(*parts, seed=seed, options=settings, facts=facts)
                far = np.linalg.norm(np.asarray(target.xy) - np.asarray(source.xy), axis=-1).max(-1) > 0.5
                is_moved = far | (np.asarray(source.visible) != np.asarray(target.visible)).any(-1)
                drift.keep(self.workspace / "runs" / name / drift.PATHS, source, target, is_moved)
                names.append(name)
        return names[0]

    def estimate(self, checkpoint: str = DRAFT, num_steps: int | None = None) -> dict[str, Any]:
        """Tell what a run will need before it is started.

        Returns {fits, why, memory: a text, seconds: or None, basis: what they are by, or what is known, notes}. Raises
        ValueError for a model that there is not.
        """
        clip = self.clip
        length, height, width = clip.frames.shape[:3]
        told: dict[str, Any] = {"fits": True, "why": "", "memory": "no model, little memory", "notes": []}
        basis = "not known before the first run of this kind"
        if checkpoint != DRAFT:
            found = estimates.asked(checkpoint, length, num_steps)
            has = "" if found["available"] is None else f" of {found['available']:.1f}"
            told |= {"fits": found["fits"], "why": found["why"], "memory": f"{found['needed']:.1f}{has} GiB"}
            if found["least"] >= 1:
                basis += f"; at least {found['least']:,.0f} s on one {found['chip']}, by what the model computes"
            told["notes"] = _notes(found, length, (height, width), len(self.project["points"]))
        ran = [each | self._facts(each["id"]) for each in self.runs.all() if each["state"] == "done"]
        time = estimates.seconds(ran, {"checkpoint": checkpoint, "frames": length, "num_steps": num_steps})
        return told | {"seconds": time and time[0], "basis": time[1] if time else basis}

    def _facts(self, name: str) -> dict[str, Any]:
        about = json.loads((self.runs.folder / name / "run.json").read_text(encoding="utf-8"))
        return {word: about.get(word) for word in ("frames", "num_steps", "labels", "points")}

    # --- results as sources ---

    def use_result(self, run: str, base: int | None = None) -> str:
        """Make the result of a run the clip to edit next; one step. Returns its place.

        Raises ValueError for a run without a result.
        """
        place = self.runs.result(run).resolve()
        about = self.runs.status(run)
        edit = json.loads((place.parent / EDIT).read_text(encoding="utf-8"))
        clip = video.read(place, notify=lambda line: None)
        said = {word: edit.get(word, 0) if about[word] is None else about[word] for word in ("seed", "prompt")}
        own = {"run": run, "checkpoint": about["checkpoint"], "seed": said["seed"], "prompt": said["prompt"] or ""}
        own |= {"edit": edit, "drift": self.drift(run)}
        with self._step(f"Use the result of run {run}", base) as project:
            before = self._made_from(about["video"])
            kept = {"clip": str(place), "prompt": project["prompt"], "seed": project["seed"]}
            project.clear()
            project.update({**projects.empty(), **kept, "made_from": [*before, own][-projects.MOST_GENERATIONS :]})
        self._forget()
        self._loaded = (str(place), clip)
        return str(place)

    def _made_from(self, clip: str) -> list[dict[str, Any]]:
        """Return what led to a clip: that of the project if it is its, else of an earlier step that used it."""
        known = [self.project, *(step["project"] for step in reversed(self._undo + self._redo))]
        return next((each.get("made_from", []) for each in known if each["clip"] == clip), [])

    def drift(self, run: str) -> float | None:
        """Return how like its first source a result still is where no edit touched it, in dB (`drift.psnr`).

        None where that says nothing, where the first source is gone, and where a run did not keep its paths.
        """
        with self._drift_lock:
            return self._drift(run)

    def _drift(self, run: str) -> float | None:
        place = self.runs.result(run)
        kept = place.parent / DRIFT
        if kept.is_file() and kept.stat().st_mtime >= place.stat().st_mtime:
            return json.loads(kept.read_text(encoding="utf-8"))["psnr"]
        paths, first, name = [], "", run
        while name is not None:
            if not (own := self.runs.folder / name / drift.PATHS).is_file():  # a run of an earlier version
                return None
            with np.load(own) as found:
                paths.append(found["xy"])
            first = self.runs.status(name)["video"]
            name = self.runs.of_clip(first)
        quiet = {"notify": lambda line: None}
        try:
            both = video.read(first, **quiet).frames, video.read(place, **quiet).frames
        except video.VideoError:  # the first source is gone
            return None
        found = drift.psnr(*both, paths)
        files.write(kept, json.dumps({"psnr": found}))
        return found

    def tree(self) -> list[dict[str, Any]]:
        """List the clips and runs of the workspace as a tree, a parent before its children.

        Each is {id, parent: an id or None, depth, label, kind: clip or run, run, checkpoint, seed, prompt, state,
        drift, is_open}; a run hangs below the clip that it edited, or below the run whose result that was.
        """
        nodes: dict[str, dict[str, Any]] = {}
        clips = {each["video"]: None for each in self.runs.all()}
        clips |= {self.project["clip"]: None} if self.project["clip"] else {}
        for place in clips:
            if self.runs.of_clip(place) is None:
                label = Path(place).name
                nodes[place] = {"id": place, "parent": None, "depth": 0, "label": label, "kind": "clip", "run": None}
                nodes[place]["is_open"] = place == self.project["clip"]
        for each in reversed(self.runs.all()):
            parent = self.runs.of_clip(each["video"]) or each["video"]
            label = ", ".join(self._facts(each["id"])["labels"] or ()) or "no change"
            own = {"id": each["id"], "parent": parent, "label": label, "kind": "run", "run": each["id"]}
            own |= {word: each[word] for word in ("checkpoint", "seed", "prompt", "state")}
            own["drift"] = self.drift(each["id"]) if each["state"] == "done" else None
            own["depth"] = nodes[parent]["depth"] + 1 if parent in nodes else 0
            own["is_open"] = self.runs.of_clip(self.project["clip"]) == each["id"] if self.project["clip"] else False
            nodes[each["id"]] = own
        return _in_order(nodes)

    # --- files to take along ---

    def result_frame(self, run: str, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame of a run's result, its last one beyond its end. Raises ValueError where there is none."""
        place = self.runs.result(run)
        with self._watch_lock:
            watched = self._watched  # which may be let go at any time
            if watched is None or watched[0] != place:
                watched = self._watched = place, video.read(place, notify=lambda line: None)
        frames = watched[1].frames
        return np.asarray(frames[min(index, len(frames) - 1)])

    def export(self, what: str, ending: str, notify: Any = lambda line: None) -> tuple[str, bytes]:
        """Return a clip as (name, content) of a file: `what` is "source", "draft" or the id of a run.

        `ending` is one of `exports.FORMATS`. The draft is of the size it is shown at. Raises ValueError for others.
        """
        clip, stem = self.clip, Path(self.project["clip"]).stem
        sound: str | Path = self.project["clip"]
        if what == DRAFT:
            clip = video.Clip(self.draft_frames(), clip.fps)
        elif what != "source":
            sound = place = self.runs.result(what)
            clip, stem = video.read(place, notify=lambda line: None), f"run{what}"
        name = f"{stem[:80]}-{what}.{ending}" if what in (DRAFT, "source") else f"{stem}.{ending}"
        return name, exports.to_bytes(name, clip, sound, notify)

    def keep_copy(self, base: int, command: str = "", arguments: dict[str, Any] | None = None) -> str:
        """Save the project as it was at a revision as a project of its own, with one command done to it.

        For a page whose command came too late, because another changed the project: nothing of either is lost. Returns
        the name of the file, which lies in the workspace. Raises ValueError for a revision that is not kept, and as the
        command does.
        """
        with self._lock:
            if base not in self._past:
                raise ValueError("that state of the project is no longer kept: load the project as it is now")
            with tempfile.TemporaryDirectory(prefix=".copy.", dir=self.workspace) as folder:
                other = type(self)(Path(folder) / "copy", self._tracker_name)
                for place in (projects.tracks_folder(self.workspace), self.workspace / mask_files.FOLDER):
                    if place.is_dir():
                        shutil.copytree(place, other.workspace / place.name)
                other.project = copy.deepcopy(self._past[base])
                if self._loaded and self._loaded[0] == other.project["clip"]:
                    other._loaded, other._tracks = self._loaded, dict(self._tracks)
                if command:
                    getattr(other, command)(**(arguments or {}))
                stem = Path(other.project["clip"]).stem[:80] or "project"
                place = projects.free_path(self.workspace / PROJECTS / f"{stem}-copy{projects.SUFFIX}")
                place.parent.mkdir(exist_ok=True)
                return other.save_project(place).name

    def kept_files(self) -> list[str]:
        """List the projects and clips that lie in the workspace as files, by their places in it."""
        endings = {PROJECTS: (projects.SUFFIX,), projects.OWN_CLIPS: projects.CLIPS}
        places = ((folder, path) for folder in endings for path in (self.workspace / folder).glob("[!.]*"))
        return sorted(f"{folder}/{path.name}" for folder, path in places if path.suffix.lower() in endings[folder])

    def open_once(self, path: str | Path) -> list[str]:
        """Open a clip or a project's file unless that very file was the last one opened so; returns notices.

        A restart with the same command so goes on where it was.
        """
        path = Path(path)
        if path.suffix.lower() != projects.SUFFIX:
            return self.open(path)
        was, kept = {"file": files.sha256(path)}, self.workspace / OPENED
        with_clip = self.project["clip"] and kept.is_file()
        if with_clip and json.loads(kept.read_text(encoding="utf-8")) == was:
            return []
        notices = self.open_project(path)
        files.write(kept, json.dumps(was))
        return notices


def _notes(found: dict[str, Any], length: int, size: tuple[int, int], points: int) -> list[str]:
    """Say what a model does about a clip of another length or size, and about many points; and what that costs."""
    notes = []
    if found["windows"] > 1:
        notes.append(f"{length} frames: edited in {found['windows']} windows of {found['frames']} that overlap")
    elif length < found["frames"]:
        notes.append(f"{length} frames, and the model works on {found['frames']}: the last one is held")
    if list(size) != found["size"]:
        own = f"{found['size'][1]}x{found['size'][0]}"
        notes.append(f"{size[1]}x{size[0]}, and the model works at {own}: resized there and back")
    if points > 20:
        notes.append(f"{points} points: at most 20, well placed, follow better; switch some off or remove them")
    return [*notes, found["cost"]]


def _in_order(nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """List nodes so that each stands behind its parent and the parent's earlier children."""
    listed: list[dict[str, Any]] = []

    def visit(name: str) -> None:
        listed.append(nodes[name])
        for each in nodes.values():
            if each["parent"] == name:
                visit(each["id"])

    for name, node in nodes.items():
        if node["parent"] not in nodes:
            visit(name)
    return listed
