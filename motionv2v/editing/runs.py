"""Edits at full size, each in a process of its own, so that one can be stopped and none takes the editor down with it.

A run is a folder: `run.json` says what it is, `log.txt` what it told, and beside them lie the results that
`launch/edit.py` would have written. A run whose process is gone without a result was killed; the same may be started
again.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from motionv2v import files, trackers

RUN, LOG, EDITED = "run.json", "log.txt", "edited.mp4"
_CODE = """
import sys
from motionv2v import cli
from motionv2v.editing import files
video, edit, checkpoint, tracker, out = sys.argv[1:]
cli.start(with_jax=files.needs_jax(video, checkpoint, tracker))
say = lambda line: print(line, flush=True)
try:
    files.run(video, edit, checkpoint=checkpoint, tracker=tracker, out=out, overwrite=True, say=say)
except cli.expected() as error:
    print(f"failed  {cli.line(error)}", flush=True)
    sys.exit(2)
"""


class Runs:
    """The runs of a session, by their ids, in the folders of the same name."""

    def __init__(self, folder: Path):
        """Take the folder that they lie in; it need not exist."""
        self.folder = Path(folder).resolve()
        self._processes: dict[str, subprocess.Popen] = {}

    def start(self, video: Path, edit: Path, checkpoint: str, tracker: str) -> str:
        """Start an edit of a clip; returns the run's id. The edit, and tracks that are given, are copied: a run of now.

        Args:
            video, edit: the clip and its `edit.json`. checkpoint: as for `files.run`. tracker: for `trackers.named`.
        """
        first = 1 + max((int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit()), default=0)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(first):  # another start may take a number in between
            out = self.folder / str(number)
            with contextlib.suppress(FileExistsError):
                out.mkdir()
                break
        files.write(out / edit.name, edit.read_text(encoding="utf-8"))
        kind, _, tracks = tracker.partition(":")
        if kind == trackers.GIVEN:
            tracker = f"{kind}:{files.write(out / Path(tracks).name, Path(tracks).read_bytes())}"
        about = {"checkpoint": checkpoint, "video": str(video), "begun": time.time()}
        command = [sys.executable, "-c", _CODE, str(video), str(out / edit.name), checkpoint, tracker, str(out)]
        with (out / LOG).open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        files.write(out / RUN, json.dumps(about | {"pid": process.pid}))
        self._processes[out.name] = process
        return out.name

    def cancel(self, name: str) -> None:
        """Stop a run. Raises ValueError for one that there is not."""
        pid = self._alive(name)
        if pid is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, sign)
            deadline = time.time() + 5
            while self._alive(name) is not None and time.time() < deadline:
                time.sleep(0.05)
        files.write(self.folder / name / "cancelled", "")

    def _alive(self, name: str) -> int | None:
        """Return the process of a run, which may have been started by an editor that is gone; None if it has ended."""
        pid = json.loads((self._folder(name) / RUN).read_text(encoding="utf-8"))["pid"]
        if name in self._processes:
            return pid if self._processes[name].poll() is None else None
        try:  # that number may be another process's by now
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return pid if os.fsencode(self.folder / name) in told else None

    def close(self) -> None:
        """Stop all that is running."""
        for name in list(self._processes):
            self.cancel(name)

    def status(self, name: str) -> dict[str, Any]:
        """Tell how a run stands: {id, checkpoint, state, log}; running, done, failed, cancelled or interrupted."""
        out = self._folder(name)
        about = json.loads((out / RUN).read_text(encoding="utf-8"))
        process = self._processes.get(name)
        code = None if process is None else process.poll()
        log = (out / LOG).read_text(encoding="utf-8", errors="replace") if (out / LOG).is_file() else ""
        if (out / "cancelled").exists():
            state = "cancelled"
        elif self._alive(name) is not None:
            state = "running"
        elif (out / EDITED).is_file() and code in (0, None):
            state = "done"
        else:
            state = "interrupted" if process is None else "failed"
        return {"id": name, "checkpoint": about["checkpoint"], "state": state, "log": log.splitlines()[-40:]}

    def all(self) -> list[dict[str, Any]]:
        """List the runs, the last one first."""
        names = [path.parent.name for path in self.folder.glob(f"*/{RUN}")]
        return [self.status(name) for name in sorted(names, key=lambda name: -int(name) if name.isdigit() else 0)]

    def result(self, name: str) -> Path:
        """Return the edited clip of a run. Raises ValueError where there is none."""
        path = self._folder(name) / EDITED
        if not path.is_file():
            raise ValueError(f"run {name} has no result")
        return path

    def _folder(self, name: str) -> Path:
        if not name.isdigit() or not (self.folder / name / RUN).is_file():
            raise ValueError(f"there is no run {name!r}")
        return self.folder / name
