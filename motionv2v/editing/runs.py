"""Edits at full size, each in a process of its own, so that one can be stopped and none takes the editor down with it.

A run is a folder: `run.json` says what it is, `log.txt` what it told, and beside them lie the results that
`launch/edit.py` would have written. One is at work at a time; the others wait in a line (`queue.json`), which outlives
the editor. A run whose process is gone without a result was killed. It goes on only when a person says so: behind its
last step or view if those were kept (`watching.Kept`), else from the beginning, with the same result either way.
"""

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from motionv2v import files, trackers

RUN, LOG, EDITED, ENDED, CANCELLED, QUEUE = (
    "run.json",
    "log.txt",
    "edited.mp4",
    "ended.json",
    "cancelled",
    "queue.json",
)
PROGRESS, PREVIEW = "progress.json", "preview.webp"
"""How far a model's edit is, and what it has so far, in the folder `STATE`."""
STATE = "state"
"""Folder in a run's, of what it keeps while it works."""
MOST_SEEDS = 16
"""Runs that one command may start."""
_PATIENCE = 0.5
"""Seconds between two looks at a run that is no child of this process."""
_FLAGS = {"num_steps": "num_steps", "guidance": "guidance", "clocks": "clocks"}
_CODE = """
import json, sys, time
from pathlib import Path
import motionv2v.files
from motionv2v import cli
from motionv2v.editing import files
given, out = json.loads(sys.argv[1]), sys.argv[2]
begun, say = time.time(), lambda line: print(line, flush=True)
cli.start(with_jax=files.needs_jax(given["video_path"], given["checkpoint"], given["tracker"]))
try:
    files.run(**given, out=out, keep=Path(out) / "state", overwrite=True, say=say)
except cli.expected() as error:
    print(f"failed  {cli.line(error)}", flush=True)
    sys.exit(2)
motionv2v.files.write(Path(out) / "ended.json", json.dumps({"seconds": time.time() - begun}))
"""


class Runs:
    """The runs of a session, by their ids, in the folders of the same name."""

    def __init__(self, folder: Path):
        """Take the folder that they lie in; it need not exist. Runs that wait there do so until `go_on`."""
        self.folder = Path(folder).resolve()
        self._processes: dict[str, subprocess.Popen] = {}
        self._adopted: set[str] = set()  # runs of an editor that is gone, whose end is waited for
        self._lock = threading.RLock()
        self._is_closed = False
        self.is_held = bool(self.queue())

    # --- the line ---

    def start(
        self,
        video: Path,
        edit: Path,
        checkpoint: str,
        tracker: str,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> str:
        """Put an edit of a clip in the line; returns the run's id. The edit, and tracks that are given, are copied.

        Args:
            video, edit: the clip and its `edit.json`. checkpoint: as for `files.run`. tracker: for `trackers.named`.
            seed: in place of the edit's. options: further settings of `files.run`. facts: kept in `run.json`.
        """
        first = 1 + max((int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit()), default=0)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(first):  # another start may take a number in between
            out = self.folder / str(number)
            with contextlib.suppress(FileExistsError):
                out.mkdir()
                break
        content = json.loads(edit.read_text(encoding="utf-8"))
        content |= {} if seed is None else {"seed": seed}
        files.write(out / edit.name, json.dumps(content, indent=1) + "\n")
        kind, _, tracks = tracker.partition(":")
        if kind == trackers.GIVEN:
            tracker = f"{kind}:{files.write(out / Path(tracks).name, Path(tracks).read_bytes())}"
        given = {"video_path": str(video), "edit_path": str(out / edit.name), "checkpoint": checkpoint}
        given |= {"tracker": tracker} | (options or {})
        about = {"checkpoint": checkpoint, "video": str(video), "seed": content.get("seed", 0)}
        about |= {"prompt": content.get("prompt", ""), "begun": time.time(), "pid": None, "given": given}
        files.write(out / RUN, json.dumps(about | (facts or {})))
        self._wait(out.name)
        return out.name

    def _wait(self, name: str) -> None:
        with self._lock:
            self._write_queue([*self.queue(), name])
            self.is_held = False
            self._pump()

    def queue(self) -> list[str]:
        """Return the runs that wait, the next one first."""
        try:
            found = json.loads((self.folder / QUEUE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in found if isinstance(name, str) and self._is_run(name)]

    def _write_queue(self, names: list[str]) -> None:
        files.write(self.folder / QUEUE, json.dumps(names))

    def move(self, name: str, place: int) -> None:
        """Move a run that waits to a place in the line, from 0. Raises ValueError for another, and for no place."""
        with self._lock:
            names = self.queue()
            if name not in names:
                raise ValueError(f"run {name[:20]} does not wait")
            if not 0 <= place < len(names):
                raise ValueError(f"there is no place {place} in the line; its places are 0..{len(names) - 1}")
            names.remove(name)
            names.insert(place, name)
            self._write_queue(names)

    def go_on(self) -> None:
        """Start the runs that wait since before the editor was started, one after the other."""
        with self._lock:
            self.is_held = False
            self._pump()

    def clear(self) -> None:
        """Take all that wait out of the line."""
        for name in self.queue():
            self.cancel(name)

    def _pump(self) -> None:
        """Start the next run if none is at work."""
        with self._lock:
            if self._is_closed or self.is_held:
                return
            if live := [name for name in self._names() if self._alive(name) is not None]:
                for name in set(live) - set(self._processes):
                    self._adopt(name)
                return
            if names := self.queue():
                self._write_queue(names[1:])
                self._launch(names[0])

    def _adopt(self, name: str) -> None:
        """Wait for the end of a run that another editor started and did not live to see."""
        if name in self._adopted:
            return
        self._adopted.add(name)

        def wait() -> None:
            with contextlib.suppress(OSError, ValueError):  # the workspace may be gone
                while self._alive(name) is not None and not self._is_closed:
                    time.sleep(_PATIENCE)
                self._adopted.discard(name)
                self._pump()

        threading.Thread(target=wait, daemon=True).start()

    def _launch(self, name: str) -> None:
        out = self._folder(name)
        about = self._about(name)
        command = [sys.executable, "-c", _CODE, json.dumps(about["given"]), str(out)]
        with (out / LOG).open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        files.write(out / RUN, json.dumps(about | {"pid": process.pid, "editor": os.getpid()}))
        self._processes[name] = process

        def wait() -> None:
            process.wait()
            with contextlib.suppress(OSError, ValueError):  # the workspace may be gone
                self._pump()

        threading.Thread(target=wait, daemon=True).start()

    # --- one run ---

    def cancel(self, name: str) -> None:
        """Stop a run, or take it out of the line; what it kept stays. Raises ValueError for one that there is not."""
        with self._lock:
            out = self._folder(name)
            if name in (names := self.queue()):
                self._write_queue([each for each in names if each != name])
                files.write(out / CANCELLED, "")
                return
            pid = self._alive(name)
            if pid is None:
                return
            files.write(out / CANCELLED, "")
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, sign)
            deadline = time.time() + 5
            while self._alive(name) is not None and time.time() < deadline:
                time.sleep(0.05)

    def resume(self, name: str) -> None:
        """Put a run that was stopped, killed or failed into the line again. Raises ValueError for any other."""
        with self._lock:
            state = self.status(name)["state"]
            if state not in ("cancelled", "interrupted", "failed"):
                raise ValueError(f"run {name} is {state}: there is nothing to go on with")
            if "given" not in self._about(name):
                raise ValueError(f"run {name} is of an earlier version of the editor: start it anew instead")
            (self._folder(name) / CANCELLED).unlink(missing_ok=True)
            self._processes.pop(name, None)
            files.write(self._folder(name) / RUN, json.dumps(self._about(name) | {"pid": None}))
            self._wait(name)

    def discard(self, name: str) -> None:
        """Remove a run that has no result. Raises ValueError for one that has, or is at work: edits may rest on it."""
        with self._lock:
            state = self.status(name)["state"]
            if state not in ("cancelled", "interrupted", "failed"):
                raise ValueError(f"run {name} is {state}: only runs without a result are discarded")
            shutil.rmtree(self._folder(name))
            self._processes.pop(name, None)

    def _alive(self, name: str) -> int | None:
        """Return the process of a run, which may have been started by an editor that is gone; None if it has ended."""
        pid = self._about(name).get("pid")
        if pid is None:
            return None
        if name in self._processes:
            return pid if self._processes[name].poll() is None else None
        try:  # that number may be another process's by now
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return pid if os.fsencode(self.folder / name) in told.split(b"\0") else None

    def close(self) -> None:
        """Stop what is running, also what an editor left behind that is gone; what waits goes on waiting.

        What was stopped can be resumed. Runs of another editor on the same workspace, which is there, are its own.
        """
        self._is_closed = True
        for name in self._names():
            pid = self._alive(name)
            if pid is not None and (name in self._processes or self._is_left_behind(name, pid)):
                self.cancel(name)

    def _is_left_behind(self, name: str, pid: int) -> bool:
        """Tell whether a process has another parent than the editor that started it."""
        try:
            told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        parent = int(told.rpartition(")")[2].split()[1])
        return parent != self._about(name).get("editor", parent)

    def status(self, name: str) -> dict[str, Any]:
        """Tell how a run stands.

        Returns {id, checkpoint, state, log, seed, prompt, video, begun, seconds, progress, has_preview, command};
        states are queued, running, done, failed, cancelled, or interrupted: killed without a word. A run of an earlier
        version of the editor has no command, and cannot be resumed.
        """
        with self._lock:
            out, about = self._folder(name), self._about(name)
            process = self._processes.get(name)
            log = (out / LOG).read_text(encoding="utf-8", errors="replace") if (out / LOG).is_file() else ""
            lines, ended = log.splitlines(), _read(out / ENDED)
            if name in self.queue():
                state = "queued"
            elif self._alive(name) is not None:
                state = "running"
            elif (out / CANCELLED).exists():
                state = "cancelled"
            elif (ended or "given" not in about) and (out / EDITED).is_file():
                state = "done"
            elif (process and process.poll() == 2) or (lines and lines[-1].startswith("failed  ")):
                state = "failed"
            else:
                state = "interrupted"
            told = {"id": name, "checkpoint": about["checkpoint"], "state": state, "log": lines[-40:]}
            told |= {word: about.get(word) for word in ("seed", "prompt", "video", "begun")}
            told |= {"seconds": ended.get("seconds"), "progress": _read(out / STATE / PROGRESS) or None}
            return told | {"has_preview": (out / STATE / PREVIEW).is_file(), "command": self.command(name)}

    def command(self, name: str) -> str | None:
        """Return the command line that makes a run's result again, in a folder beside it; None if that is not kept."""
        given = self._about(name).get("given")
        if given is None:
            return None
        words = [f"--video={given['video_path']}", f"--edit={given['edit_path']}"]
        words += [f"--checkpoint={given['checkpoint']}", f"--tracker={given['tracker']}"]
        words += [f"--{flag}={given[word]}" for word, flag in _FLAGS.items() if given.get(word) is not None]
        return shlex.join(["python", "launch/edit.py", *words, f"--out={self.folder / name / 'again'}"])

    def all(self) -> list[dict[str, Any]]:
        """List the runs, the last one first."""
        return [self.status(name) for name in reversed(self._names())]

    def _names(self) -> list[str]:
        names = [path.parent.name for path in self.folder.glob(f"*/{RUN}")]
        return sorted(filter(str.isdigit, names), key=int)

    def result(self, name: str) -> Path:
        """Return the edited clip of a run. Raises ValueError where there is none."""
        path = self._folder(name) / EDITED
        if not path.is_file():
            raise ValueError(f"run {name} has no result")
        return path

    def preview(self, name: str) -> Path:
        """Return the picture of what a run has so far. Raises ValueError where there is none."""
        path = self._folder(name) / STATE / PREVIEW
        if not path.is_file():
            raise ValueError(f"run {name} shows nothing yet")
        return path

    def of_clip(self, path: str | Path) -> str | None:
        """Return the run whose result a clip is; None for any other clip."""
        path = Path(path)
        is_one = path.name == EDITED and path.parent.parent == self.folder and self._is_run(path.parent.name)
        return path.parent.name if is_one else None

    def _is_run(self, name: str) -> bool:
        return len(name) < 10 and name.isdecimal() and name.isascii() and (self.folder / name / RUN).is_file()

    def _folder(self, name: str) -> Path:
        if not self._is_run(name):
            raise ValueError(f"there is no run {name[:20]!r}")
        return self.folder / name

    def _about(self, name: str) -> dict[str, Any]:
        return json.loads((self._folder(name) / RUN).read_text(encoding="utf-8"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
