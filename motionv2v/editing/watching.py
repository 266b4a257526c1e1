"""Hear how far an edit by a model is, look at what it has so far, and go on where one that was stopped left off.

An edit of several denoising steps is sampled step by step (`windows.Sampler`), so that each can be told, shown and
kept. One that averages views of a single step is told, shown and kept view by view. What is kept is of one edit, which
its key names; all else of a sample follows from the seed, so that an edit that goes on ends in the same frames as one
that was never stopped.
"""

import contextlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from motionv2v import files, progress, sampling
from motionv2v.editing import windows
from motionv2v.editing.runs import PREVIEW, PROGRESS
from motionv2v.typing import UInt8

STATE = "state.npz"
ETA_FROM = 3
"""Steps or views that must be done before the time left is told."""
SHARE = 10
"""What is kept or shown takes at most one in so many seconds of the work."""
_PREVIEW_SIDE, _PREVIEW_FRAMES = 320, 17


class Watch:
    """Tells how far an edit is, in lines; keeps nothing and shows nothing."""

    def __init__(self, say: Callable[[str], None]):
        """Take what is called with each line."""
        self._say = say
        self._countdown = progress.Countdown({}, say)

    def begin(self, pieces: dict[str, int], views: int = 1) -> windows.Done:
        """Begin to count pieces of work, as `windows.Begin`; they are those of so many views, alike."""
        del views
        self._countdown = progress.Countdown(pieces, self._say)
        return self._countdown.done

    def view(self, number: int, make: Callable[[], Any]) -> Any:
        """Return videos uint8 [B T H W 3] of a view, from 1, as `make` makes them."""
        del number
        return make()

    def turns(self, number: int, look: windows.Preview) -> sampling.Turns:
        """Return what hears of the steps of a view. `look` decodes an estimate of x0."""
        del number, look
        return sampling.ALONE


class Kept(Watch):
    """Writes into a folder how far an edit is, what it has so far, and what it needs to go on.

    `progress.json`: {done, of, where, left}, of steps or views, with the seconds left from the third on.
    `preview.webp`: the estimate of x0, an animation of the clip's first window. `state.npz` and `view_N.npz`: what
    `clear` takes away.
    """

    def __init__(self, folder: str | os.PathLike, key: str, say: Callable[[str], None], now: Any = time.perf_counter):
        """Take the folder; what lies there under another `key` is not used."""
        super().__init__(say)
        self._folder, self._key, self._now = Path(folder), key, now
        self._folder.mkdir(parents=True, exist_ok=True)
        self._free = dict.fromkeys((STATE, PREVIEW), -float("inf"))  # when each may be written again
        self._counted = ""
        self._total = self._skipped = 0

    def begin(self, pieces: dict[str, int], views: int = 1) -> windows.Done:
        """Begin to count pieces of work; what was kept of an earlier try is not counted as to do."""
        done = super().begin(pieces)
        self._counted = "predict" if "predict" in pieces else max(pieces, key=pieces.__getitem__, default="")
        self._total, self._skipped, made = pieces.get(self._counted, 0), 0, dict.fromkeys(pieces, 0)
        kept = self._kept_views(views)
        for kind, count in pieces.items():
            self._skip(kind, count // views * kept)

        def heard(kind: str, where: str) -> None:
            done(kind, where)
            made[kind] += 1
            self._tell(made[self._counted], where)

        return heard

    def _tell(self, made: int, where: str) -> None:
        left = self._countdown.left() if made >= min(ETA_FROM, self._total) else None
        told = {"done": made + self._skipped, "of": self._total + self._skipped, "where": where, "left": left}
        files.write(self._folder / PROGRESS, json.dumps(told))

    def _skip(self, kind: str, count: int) -> None:
        """Take pieces off that are done already."""
        self._countdown.skip(kind, count)
        if kind == self._counted:
            self._skipped, self._total = self._skipped + count, self._total - count

    def _kept_views(self, count: int) -> int:
        """Return how many of so many views lie in the folder; one alone is the edit itself, and is not kept."""
        names = range(1, count + 1) if count > 1 else ()
        return sum(self._read(f"view_{number}.npz") is not None for number in names)

    def view(self, number: int, make: Callable[[], Any]) -> Any:
        """Return videos uint8 [B T H W 3] of a view: those kept, or as `make` makes them, which are then kept."""
        name = f"view_{number}.npz"
        if found := self._read(name):
            return found[0]
        made = np.asarray(make())
        self._write(name, [made])
        if number == 1:  # others are turned
            self._show(lambda: made)
        return made

    def turns(self, number: int, look: windows.Preview) -> sampling.Turns:
        """Return what keeps the steps of a view and shows their estimates of x0, those of the first view."""
        return _Steps(self, number, look)

    def clear(self) -> None:
        """Take away what an edit that is finished does not need."""
        for path in (*self._folder.glob("view_*.npz"), self._folder / STATE):
            path.unlink(missing_ok=True)

    def _show(self, make: Callable[[], UInt8[np.ndarray, "B T H W 3"]]) -> None:
        """Write what an edit has so far as a small animation, unless that was done a moment ago."""
        if self._now() < self._free[PREVIEW]:
            return
        with self._paced(PREVIEW):
            files.write(self._folder / PREVIEW, animation(make()[0]))

    @contextlib.contextmanager
    def _paced(self, name: str) -> Any:
        began = self._now()
        yield
        ended = self._now()
        self._free[name] = ended + SHARE * (ended - began)

    def _write(self, name: str, arrays: list[np.ndarray], **facts: int) -> None:
        content = io.BytesIO()
        named = {f"array_{index}": array for index, array in enumerate(arrays)}
        np.savez(content, key=np.array(self._key), **facts, **named)
        files.write(self._folder / name, content.getvalue())

    def _read(self, name: str, *facts: str) -> list[Any] | None:
        """Read facts and arrays; None where there are none of this edit, or a file that a full disk cut short."""
        try:
            with np.load(self._folder / name, allow_pickle=False) as found:
                if str(found["key"]) != self._key:
                    return None
                arrays = [found[f"array_{index}"] for index in range(sum(key.startswith("array_") for key in found))]
                return [*(int(found[fact]) for fact in facts), *arrays]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


class _Steps(sampling.Turns):
    """The steps of one view of a `Kept`."""

    def __init__(self, kept: Kept, number: int, look: windows.Preview):
        self._kept, self._number, self._look = kept, number, look

    def begin(self, state: list[Any]) -> tuple[int, list[Any]]:
        found = self._kept._read(STATE, "view", "taken", "done")
        if not found or found[0] != self._number or [x.shape for x in found[3:]] != [np.shape(x) for x in state]:
            return super().begin(state)
        _, taken, done, *state = found
        self._kept._skip(self._kept._counted, done - self._kept._skipped)
        self._kept._say(f"goes on behind step {taken}")
        return taken, state

    def done(self, taken: int, state: list[Any]) -> None:
        kept = self._kept
        if kept._now() >= kept._free[STATE]:
            with kept._paced(STATE):
                made = kept._skipped + kept._countdown.made(kept._counted)
                kept._write(STATE, [np.asarray(x) for x in state], view=self._number, taken=taken, done=made)
        if self._number == 1:
            kept._show(lambda: self._look(state[1]))


def animation(frames: UInt8[np.ndarray, "T H W 3"], seconds: float = 2.0) -> bytes:
    """Encode frames as a small animated WebP that takes so many seconds: every other one where there are many."""
    frames = frames[:: max(1, -(-len(frames) // _PREVIEW_FRAMES))]
    scale = min(1.0, _PREVIEW_SIDE / max(frames.shape[1:3]))
    size = tuple(max(1, round(side * scale)) for side in frames.shape[2:0:-1])
    pictures = [Image.fromarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) for frame in frames]
    kept = io.BytesIO()
    duration = max(1, round(1000 * seconds / len(pictures)))
    options = {"save_all": True, "append_images": pictures[1:], "duration": duration, "loop": 0}
    pictures[0].save(kept, "WEBP", quality=70, method=0, **options)
    return kept.getvalue()
