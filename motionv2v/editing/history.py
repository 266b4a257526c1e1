"""A project with everything that was done to it: each command is one step that can be undone and done again.

It lies in a folder, the workspace, and is written after each step, so that what was killed goes on where it was.
"""

import contextlib
import copy
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from motionv2v import files
from motionv2v.editing import projects

PROJECT = "project.json"
MOST_STEPS = 200
"""Steps that can be undone."""


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
        self._lock = threading.RLock()
        if (self.workspace / PROJECT).is_file():
            self._load()

    def _load(self) -> None:
        try:
            kept = json.loads((self.workspace / PROJECT).read_text(encoding="utf-8"))
            whole = lambda project: {**projects.empty(), **project}  # noqa: E731  of an earlier editor as well
            self.project, self.revision = whole(kept["project"]), int(kept["revision"])
            self._undo, self._redo = (
                [{**step, "project": whole(step["project"])} for step in kept[word]] for word in ("undo", "redo")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.workspace / PROJECT} holds no project ({error}); choose another workspace"
            ) from error

    def _save(self) -> None:
        kept = {"project": self.project, "revision": self.revision, "undo": self._undo, "redo": self._redo}
        files.write(self.workspace / PROJECT, json.dumps(kept))

    @contextlib.contextmanager
    def _step(
        self, label: str, base: int | None, frame: int = 0, names: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Change a copy of the project, which takes its place when nothing went wrong: one step of undo.

        `frame` and `names`, of points and groups, are the place where it is seen.
        """
        with self._lock:
            if base is not None and base != self.revision:
                raise StaleError("the project was changed in another tab: load it anew")
            changed = copy.deepcopy(self.project)
            yield changed
            if changed == self.project:
                return
            step = {"label": label, "frame": int(frame), "names": list(names), "project": self.project}
            self._undo = [*self._undo, step][-MOST_STEPS:]
            self._redo, self.project, self.revision = [], changed, self.revision + 1
            self._save()

    def undo(self, base: int | None = None) -> dict[str, Any]:
        """Take the last step back; returns {label, frame, names} of it. Raises ValueError where there is none."""
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
            return {"label": step["label"], "frame": step["frame"], "names": step.get("names", [])}
