"""Drafts of a clip at one size, for a person who waits: the frame that is looked at first, the others behind it.

What is asked for is drawn at once. A thread draws the rest of that edit, the nearest frames first, and stands back
whenever somebody waits. When that is done, and a path is about to be bent, it takes the clip apart for the edit that is
expected (`Drafts.expect`), so that the bend itself waits for nothing but its own frame.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from motionv2v import draft, stacks, video
from motionv2v.editing import drafted
from motionv2v.editing.carrying import Carried, Carrying, Progress, StoppedError
from motionv2v.edits.document import EditSpec
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, UInt8

KEPT = 2**26
"""Bytes of single frames, with their maps, that are kept."""
SCENES = 3
"""Ways of taking a clip apart that are kept: for what is bent, and for what was or may be bent beside it."""


class Moment(NamedTuple):
    """What a draft is drawn from, all of one moment; `key` tells it from that of another."""

    key: str
    path: str
    clip: video.Clip
    spec: EditSpec
    source: Tracks


class Drawn(NamedTuple):
    """A draft: `frames` uint8 [T h w 3], and how `uncertain` each pixel is, uint8 [T h w] of 255."""

    frames: UInt8[np.ndarray, "T h w 3"]
    uncertain: UInt8[np.ndarray, "T h w"]


class _Edit:
    """A draft in the making: its frames as far as they are drawn, and which are `left`; or `one` of them at a time."""

    def __init__(self, key: str, drawing: draft.Drawing):
        self.key, self._drawing = key, drawing
        self.left = set(range(len(drawing.clip.frames)))
        self.one = stacks.Kept(lambda t: drawing.frame(t, False), KEPT)  # nobody reads its doubt

    @cached_property
    def drawn(self) -> Drawn:
        shape = self._drawing.clip.frames.shape
        return Drawn(np.zeros(shape, np.uint8), np.zeros(shape[:3], np.uint8))

    def draw(self, t: int) -> None:
        if t in self.left:
            self.drawn.frames[t], _, _, uncertain = self._drawing.frame(t)
            self.drawn.uncertain[t] = np.uint8(uncertain * 255)
            self.left.discard(t)


class Drafts:
    """Draws drafts of a session's clip."""

    def __init__(self, rows: int | None):
        """Draw with at most so many rows; None draws at the clip's own size."""
        self._rows = rows
        self._prepared: tuple[str, draft.Prepared] | None = None
        self._edit: _Edit | None = None
        self._carried: tuple[str, Carried] | None = None
        self._held: tuple[str, list[Bool[np.ndarray, "T h w"]]] | None = None  # masks of things that a hand may drag
        self._carrying: Carrying | None = None  # what is carried now, or was last
        self._stopped: Carrying | None = None
        self._to_carry: Moment | None = None  # in the thread
        self._failed: tuple[str, Exception] | None = None  # of what was to be carried
        self._said: tuple[str, list[draft.Hint | None]] | None = None
        self._lock = threading.Lock()  # of whoever draws
        self._waits = threading.Condition()
        self._number_waiting = 0
        self._behind: tuple[Moment, int] | None = None  # to be drawn from a frame outwards
        self._ahead: Iterator[None] | None = None  # steps towards an edit that is expected
        self._expected: str | None = None
        self._worker: threading.Thread | None = None
        self._round = 0  # of edits: a frame that was begun in an earlier one asks for no others

    def size(self, clip: video.Clip) -> tuple[int, int]:
        """Return the size (H, W) that drafts of a clip are drawn at."""
        height, width = clip.frames.shape[1:3]
        scale = min(1.0, (self._rows or height) / height)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def forget(self) -> None:
        """Forget what was worked out of another clip."""
        self.cancel()
        self._prepared = self._edit = self._carried = self._held = self._said = self._expected = None
        self._carrying = self._stopped = self._failed = None

    def cancel(self) -> None:
        """Leave what nobody waits for: the edit has changed."""
        self._round += 1
        self._behind = self._ahead = self._expected = self._to_carry = None

    # --- for who waits ---

    def frame(self, moment: Callable[[], Moment], index: int) -> Drawn:
        """Draw one frame, in front of all others; returns the draft, of which others may not be drawn yet."""
        with self._hurrying():
            begun, of = self._round, moment()
            edit = self._plan(of)
            edit.draw(index)
            if begun == self._round:
                self._behind = (of, index) if edit.left else None
        self._wake()
        return edit.drawn

    def single(self, moment: Callable[[], Moment], index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Draw one frame and no other: of a long clip at its own size not all can be kept."""
        with self._hurrying():
            return self._plan(moment()).one(index)[0]

    def all(self, moment: Callable[[], Moment]) -> Drawn:
        """Draw all frames; who waits for a single one goes first."""
        with self._hurrying():
            edit = self._plan(moment())
        for t in range(len(edit.drawn.frames)):
            with self._standing_back():
                edit.draw(t)
        return edit.drawn

    def masks(self, moment: Callable[[], Moment]) -> Carried:
        """Carry what is said of things to all frames; the foremost things first, as far as that is said.

        Where that was stopped, this is what had come by then.
        """
        with self._hurrying():
            return self._carry(moment())

    # --- for who looks on ---

    def carrying(self, moment: Callable[[], Moment]) -> Progress:
        """Tell how far masks are carried, and let a thread do it; returns at once. Raises, once, what went wrong."""
        of = moment()
        length = len(of.clip.frames)
        if (carried := self._carried_of(of)) is not None:
            return Progress("done", [1] * length, carried, [True] * length)
        if (stopped := self._stopped_of(of)) is not None:
            return Progress("stopped", list(stopped.told), stopped.carried(self._hints(of)), stopped.reached)
        failed = self._failed
        if failed is not None and failed[0] == of.key:
            self._failed = None  # who asks again has it tried again
            raise failed[1]
        if not self._waits_for(of):
            self._to_carry = of
            self._wake()
        now = self._under_way(of) or self._begin(of)
        return Progress("carrying", list(now.told), Carried([], []), now.reached)

    def labels(self, moment: Callable[[], Moment], index: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return what is seen in a frame, as `Carried.labels`; None before one has come that is carried, or is to be.

        Where nobody has masks carried this waits for them.
        """
        of = moment()
        known, stopped, now = self._carried_of(of), self._stopped_of(of), self._under_way(of)
        if known is None and stopped is None and (now is None or now.is_over):
            if self._waits_for(of):
                return None
            known, stopped = self.masks(lambda: of), self._stopped_of(of)
        return (stopped or known or now).labels(index)  # what was stopped tells which frames it has not come to

    def mask_of(self, of: Moment, points: Sequence[int], index: int) -> Bool[np.ndarray, "h w"] | None:
        """Return where the things of some points are in a frame, as far as that was found out; None where it was not.

        Of an edit that is drawn, or that was expected and made ready for, all is known.
        """
        things = [place for place, thing in enumerate(of.spec.divide().things) if set(points) & set(thing.points)]
        is_drawn = self._edit is not None and self._edit.key == of.key
        is_ready = self._expected == of.key and self._ahead is None
        if (is_drawn or is_ready) and (self._held is None or self._held[0] != of.key):
            with self._hurrying():
                prepared = self._prepare(of.path, of.clip)
                self._held = (of.key, drafted.masks_prepared(prepared, of.spec, of.source, self._hints(of)))
        held, now = self._held, self._under_way(of)
        if held is not None and held[0] == of.key:
            found = [held[1][thing][index] for thing in things]
        else:
            found = [mask for thing in things if now and (mask := now.mask(thing, index)) is not None]
        return np.logical_or.reduce(found) if found else None

    def stop_carrying(self, moment: Callable[[], Moment]) -> None:
        """Stop carrying masks for an edit; what has come stays, and nothing is drawn of it until `carry_on`."""
        of = moment()
        with self._waits:  # `_heard` may begin, or come to its end, at this time
            now = self._under_way(of) or self._begin(of)
            if now.is_over or self._carried_of(of) is not None or self._stopped_of(of) is not None:
                return
            self._stopped, self._to_carry = now, None
            now.stop()

    def carry_on(self) -> None:
        """Let masks be carried again that were stopped."""
        self._stopped = self._carrying = None

    # --- behind their backs ---

    def expect(self, path: str, clip: video.Clip, of: Moment | None = None, index: int = 0) -> None:
        """Get ready, in a thread, for an edit that may be made next, from a frame outwards; returns at once.

        Without one the clip, which lies at a path, is taken apart as far as that depends on no edit.
        """
        wanted = of.key if of else path
        if wanted != self._expected:
            self._expected, self._ahead = wanted, self._get_ready(path, clip, of, index)
            self._wake()

    @property
    def is_at_work(self) -> bool:
        """Tell whether something is drawn that nobody waits for."""
        return self._worker is not None

    def _get_ready(self, path: str, clip: video.Clip, of: Moment | None, index: int) -> Iterator[None]:
        """Yield between steps that take a moment each."""
        prepared = self._prepare(path, clip)
        for name in ("flows", "cameras", "plate"):
            getattr(prepared, name)
            yield
        if of is not None:
            with self._heard(of):
                drawing = drafted.plan_prepared(prepared, of.spec, of.source, self._hints(of), notify=_quiet)
            for t in _outwards(range(len(clip.frames)), index):
                yield
                drawing.frame(t, False)  # keeps what is behind things, and their pictures

    def _wake(self) -> None:
        with self._waits:
            if self._worker is None and (self._to_carry or self._behind or self._ahead):
                self._worker = threading.Thread(target=self._work)
                self._worker.start()

    def _work(self) -> None:
        while self._goes_on():
            begun = self._round
            # What goes wrong here is told to whoever asks for the frame.
            with contextlib.suppress(Exception), self._standing_back():
                self._take_a_step()
                continue
            if begun == self._round:
                self.cancel()

    def _goes_on(self) -> bool:
        with self._waits:
            # A thread that the program leaves behind in the middle of OpenCV's work takes it down as it ends.
            is_over = not threading.main_thread().is_alive()
            if is_over or (self._to_carry is None and self._behind is None and self._ahead is None):
                self._worker = None
            return self._worker is not None

    def _take_a_step(self) -> None:
        carry, behind, ahead = self._to_carry, self._behind, self._ahead
        if carry is not None:
            try:
                self._carry(carry)
            except Exception as error:  # told to who asks how far it is
                self._failed = (carry.key, error)
            if self._to_carry is carry:
                self._to_carry = None
        elif behind is not None:
            of, index = behind
            edit = self._plan(of)
            if edit.left:
                edit.draw(_outwards(edit.left, index)[0])
            if not edit.left and self._behind is behind:
                self._behind = None
        elif ahead is not None and next(ahead, self) is self and self._ahead is ahead:
            self._ahead = None

    # --- whose turn it is ---

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing begin, within a block, that nobody waits for."""
        with self._waits:
            self._number_waiting += 1
        try:
            yield
        finally:
            with self._waits:
                self._number_waiting -= 1
                self._waits.notify_all()

    @contextlib.contextmanager
    def _hurrying(self) -> Iterator[None]:
        """Draw as soon as what is being drawn is done."""
        with self.held(), self._lock:
            yield

    @contextlib.contextmanager
    def _standing_back(self) -> Iterator[None]:
        """Draw when nobody is in a hurry."""
        with self._waits:
            self._waits.wait_for(lambda: not self._number_waiting)
        with self._lock:
            yield

    # --- with the lock ---

    def _plan(self, of: Moment) -> _Edit:
        edit = self._edit  # another clip may be opened, and all forgotten, at any time
        if edit is None or edit.key != of.key:
            with self._heard(of) as prepared:
                drawing = drafted.plan_prepared(prepared, of.spec, of.source, self._hints(of), notify=_quiet)
            edit = self._edit = _Edit(of.key, drawing)
        return edit

    def _carry(self, of: Moment) -> Carried:
        carried = self._carried_of(of)
        if carried is None:
            hints = self._hints(of)
            try:
                with self._heard(of) as prepared:
                    found = drafted.masks_prepared(prepared, of.spec, of.source, hints)
            except StoppedError:
                return (self._stopped_of(of) or self._begin(of)).carried(hints)  # it may be carried on by now
            order = _things(of)
            doubts = [drafted.doubts(found[at], hint.frames if (hint := hints[at]) else []) for at in order]
            carried = Carried([found[at] for at in order], doubts)
            self._carried = (of.key, carried)
        return carried

    @contextlib.contextmanager
    def _heard(self, of: Moment) -> Iterator[draft.Prepared]:
        """Hear of the masks that are carried within a block; raises StoppedError where that was stopped, or is."""
        prepared = self._prepare(of.path, of.clip)
        with self._waits:  # nobody stops it between a look at that and its beginning
            if (stopped := self._stopped_of(of)) is not None:
                raise StoppedError(stopped.says())
            now = self._under_way(of) or self._begin(of)
            self._carrying, prepared.watch, now.is_over = now, now.hear, False
        try:
            yield prepared
            with self._waits:  # who stops it from here on, or did so after the last mask had come, is too late
                now.is_over, now.is_stopped = True, False
                if self._stopped_of(of) is not None:
                    self._stopped = None
        finally:
            now.is_over, prepared.watch = True, None

    def _begin(self, of: Moment) -> Carrying:
        return Carrying(of.key, _things(of), len(of.clip.frames))

    def _under_way(self, of: Moment) -> Carrying | None:
        now = self._carrying
        # One that was stopped, and another edit after it, is begun anew.
        return now if now is not None and now.key == of.key and not now.is_stopped else None

    def _carried_of(self, of: Moment) -> Carried | None:
        carried = self._carried
        return carried[1] if carried is not None and carried[0] == of.key else None

    def _waits_for(self, of: Moment) -> bool:
        waits = self._to_carry
        return waits is not None and waits.key == of.key

    def _stopped_of(self, of: Moment) -> Carrying | None:
        stopped = self._stopped
        return stopped if stopped is not None and stopped.key == of.key else None

    def _prepare(self, path: str, clip: video.Clip) -> draft.Prepared:
        """Return the clip at the size of drafts, taken apart as far as it was."""
        prepared = self._prepared
        if prepared is None or prepared[0] != path:
            prepared = (path, draft.Prepared(video.resize(clip.frames, self.size(clip)), keep=SCENES))
            self._prepared = prepared
        return prepared[1]

    def _hints(self, of: Moment) -> list[draft.Hint | None]:
        """Return what is said of where things are; files of masks, named by their content, are read once."""
        division, (length, *size) = of.spec.divide(), of.clip.frames.shape[:3]
        key = repr((of.path, [thing.shape for thing in division.things]))
        said = self._said
        if said is None or said[0] != key:
            said = self._said = (key, drafted.read_hints(of.spec, division, tuple(size), length, _quiet))
        return said[1]


def _things(of: Moment) -> list[int]:
    """List an edit's things, the foremost first as far as that is said."""
    division = of.spec.divide()
    return list(dict.fromkeys([*division.order, *range(len(division.things))]))


def _outwards(frames: Iterable[int], index: int) -> list[int]:
    return sorted(frames, key=lambda t: abs(t - index))


def _quiet(line: str) -> None:
    """Tell nobody."""
