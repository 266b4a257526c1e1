"""A project with everything that was done to it: each command is one step that can be undone and done again.

It lies in a folder, the workspace, so that what was killed goes on where it was: `project.json` holds a state with its
steps, `steps.jsonl` what was done since, a line for each. A step is written as what it changed (`patches`): however
many points and steps there are, one more costs a line, and the whole is written anew when the lines have grown long.
"""

import contextlib
import copy
import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from motionv2v import files
from motionv2v.editing import patches, projects

PROJECT, JOURNAL = "project.json", "steps.jsonl"
MOST_STEPS = 200
"""Steps that can be undone."""
MOST_JOURNAL = 1 << 20
"""Bytes of lines from which the whole is written anew."""
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError)


class StaleError(ValueError):
    """Say that a command was given for a project that has changed since."""


class History:
    """A project in a workspace, and its steps.

    Attributes:
        workspace: its folder. project: as `projects` has it. revision: how many changes there were, undone ones too.
    """

    def __init__(self, workspace: str | Path):
        """Open a workspace, where one was left, or begin one. Raises ValueError for a folder that cannot be written."""
        self.workspace = Path(workspace)
        files.check_place(self.workspace, is_folder=True)
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.project, self.revision = projects.empty(), 0
        self._undo: list[dict[str, Any]] = []
        self._redo: list[dict[str, Any]] = []
        self._branches: list[list[dict[str, Any]]] = []
        self._journal: tuple[int, ...] | None = None  # the file of lines as it was left; None: it is not to be gone on
        self._lock = threading.RLock()
        if (self.workspace / PROJECT).is_file():
            self._load()

    # --- what lies in the workspace ---

    def _load(self) -> None:
        try:
            kept = json.loads((self.workspace / PROJECT).read_text(encoding="utf-8"))
            self.project, self.revision = _whole(kept["project"]), int(kept["revision"])
            self._undo, self._redo = (_unpacked(self.project, kept[word]) for word in ("undo", "redo"))
            self._branches = [_unpacked(self.project, each) for each in kept.get("branches", [])]
        except _DAMAGE as error:
            raise ValueError(
                f"{self.workspace / PROJECT} holds no project ({error}); choose another workspace"
            ) from error
        path = self.workspace / JOURNAL
        if "journal" not in kept or not path.is_file():
            return
        first, *lines = path.read_bytes().split(b"\n")
        if first != _header(kept["journal"]) or not lines:
            return  # of the state before: the program was killed before it could begin anew
        torn = lines.pop()
        try:
            for line in lines:
                self._happen(json.loads(line))
        except _DAMAGE:
            return
        self._journal = None if torn else _stamp(path)

    def _save(self, event: dict[str, Any] | None = None) -> None:
        """Write what happened last, or without an event all there is."""
        path = self.workspace / JOURNAL
        known = self._journal is not None and path.is_file() and _stamp(path) == self._journal
        self._journal = None  # until it is written: half a line is not to be gone on
        if event is not None and known and path.stat().st_size < MOST_JOURNAL:
            with path.open("ab") as file:
                file.write(json.dumps(event).encode() + b"\n")
        else:
            own = secrets.token_hex(8)
            kept = {"journal": own, "project": self.project, "revision": self.revision}
            kept |= {"undo": _packed(self.project, self._undo), "redo": _packed(self.project, self._redo)}
            kept["branches"] = [_packed(self.project, each) for each in self._branches]
            files.write(self.workspace / PROJECT, json.dumps(kept))
            files.write(path, _header(own) + b"\n")
        self._journal = _stamp(path)

    # --- what happens ---

    def _happen(self, event: dict[str, Any]) -> dict[str, Any]:
        """Let something happen again, {do, ...}, in memory alone; returns the step that it was."""
        if event["do"] == "step":
            step = {**event["step"], "project": self.project}
            self._put([step], patches.apply(self.project, event["patch"]))
        elif event["do"] == "branch":
            steps = self._branches[event["number"]]
            self._branches = [each for each in self._branches if each is not steps]
            before = [self.project, *(each["project"] for each in reversed(steps))]
            done = [{**each, "project": was} for each, was in zip(reversed(steps), before, strict=False)]
            done[0]["label"], step = f"Other branch: {done[0]['label']}", steps[0]
            self._put(done, before[-1])
        else:
            taken, given = (self._undo, self._redo) if event["do"] == "undo" else (self._redo, self._undo)
            step = taken[-1]
            rest, more = taken[:-1], [*given, {**step, "project": self.project}]
            self._undo, self._redo = (rest, more) if event["do"] == "undo" else (more, rest)
            self.project = step["project"]
        self.revision += 1
        return step

    def _put(self, steps: list[dict[str, Any]], project: dict[str, Any]) -> None:
        """Do steps in place of those that were undone, which are kept as a branch."""
        if self._redo:
            self._branches = [*self._branches, self._redo][-projects.MOST_BRANCHES :]
        self._undo, self._redo, self.project = [*self._undo, *steps][-MOST_STEPS:], [], project

    def _do(self, event: dict[str, Any]) -> dict[str, Any]:
        """Let something happen, and write it; where that fails nothing has happened."""
        before = (self.project, self.revision, self._undo, self._redo, self._branches)
        step = self._happen(event)
        try:
            self._save(event)
        except BaseException:
            self.project, self.revision, self._undo, self._redo, self._branches = before
            self._journal = None
            raise
        return {"label": step["label"], "frame": step["frame"], "names": step.get("names", [])}

    def _check_base(self, base: int | None) -> None:
        if base is not None and base != self.revision:
            raise StaleError("the project was changed in another tab: load it anew")

    @contextlib.contextmanager
    def _step(
        self, label: str, base: int | None, frame: int = 0, names: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Change a copy of the project, which takes its place when nothing went wrong: one step of undo.

        `frame` and `names`, of points and groups, are the place where it is seen.
        """
        with self._lock:
            self._check_base(base)
            changed = copy.deepcopy(self.project)
            yield changed
            if (patch := patches.diff(self.project, changed)) is not None:
                step = {"label": label, "frame": int(frame), "names": list(names)}
                self._do({"do": "step", "step": step, "patch": patch})

    def undo(self, base: int | None = None) -> dict[str, Any]:
        """Take the last step back; returns {label, frame, names} of it. Raises ValueError where there is none."""
        with self._lock:
            self._check_base(base)
            if not self._undo:
                raise ValueError("there is nothing to undo")
            return self._do({"do": "undo"})

    def redo(self, base: int | None = None) -> dict[str, Any]:
        """Do the step again that was taken back last. Raises ValueError where there is none."""
        with self._lock:
            self._check_base(base)
            if not self._redo:
                raise ValueError("there is nothing to do again")
            return self._do({"do": "redo"})

    def branches(self) -> list[dict[str, Any]]:
        """List what was undone and then left for another step, the last one last: {steps: how many, label: the last}.

        The last `projects.MOST_BRANCHES` are kept.
        """
        return [{"steps": len(steps), "label": steps[0]["label"]} for steps in self._branches]

    def take_branch(self, number: int, base: int | None = None) -> dict[str, Any]:
        """Go to the end of a branch, by its place in `branches`; its steps follow those that are done.

        Undo leads back through it to what there is now. Returns {label, frame, names} of its last step. Raises
        ValueError where there is no such branch.
        """
        with self._lock:
            self._check_base(base)
            if not 0 <= number < len(self._branches):
                raise ValueError(f"there is no branch {number}; there are {len(self._branches)}")
            return self._do({"do": "branch", "number": int(number)})


def _whole(project: dict[str, Any]) -> dict[str, Any]:
    return {**projects.empty(), **project}  # of an earlier editor as well


def _packed(project: dict[str, Any], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the states of steps as what changed, from the project to the last step, and from each to that before."""
    made = []
    for step in reversed(steps):
        own = {word: value for word, value in step.items() if word != "project"}
        made.append({**own, "patch": patches.diff(project, step["project"])})
        project = step["project"]
    return made[::-1]


def _unpacked(project: dict[str, Any], steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn `_packed` back; earlier editors kept whole projects."""
    made = []
    for step in reversed(steps):
        own = {word: value for word, value in step.items() if word not in ("project", "patch")}
        project = _whole(step["project"]) if "project" in step else patches.apply(project, step["patch"])
        made.append({**own, "project": project})
    return made[::-1]


def _header(own: str) -> bytes:
    return json.dumps({"of": own}).encode()


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells a file from that which another program writes in its place or goes on with."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size
