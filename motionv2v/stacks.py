"""Arrays with one part for each frame of a clip, whose memory is bounded however long the clip is.

`zeros` makes such a *stack*: [T ...]. As long as all stacks of the process together take at most `MOST` bytes it is a
numpy array. What is made beyond that is `Stored`: its parts lie in a temporary file, which has no name and goes with
the last reference to it or with the process, however that ends; a part is read when it is asked for and written when
it is set. Whoever takes or sets one frame at a time, `stack[t]`, need not know which it is, and gets the same bits from
either. The file is read and written rather than mapped: pages of a mapped file count as the process's memory for as
long as the system has room for them. What can be made again in no time is not stored at all (`Frames`), and what costs
time to make and is asked for again is kept up to a number of bytes (`Kept`).
"""

import math
import operator
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Shaped

MOST = 400 * 2**20
"""Bytes that the stacks of a process may take of its memory together; an edit of 49 frames of 480x720 stays below."""

_lock, _held = threading.Lock(), 0


def zeros(shape: tuple[int, ...], dtype: Any) -> "Shaped[np.ndarray, '...'] | Stored":
    """Return a stack of zeros, [T ...]: an array, or where `MOST` would be exceeded one that is `Stored`.

    Raises OSError where there is no room for the file.
    """
    global _held
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with _lock:
        fits = _held + size <= MOST
        _held += size * fits
    if not fits:
        return Stored(shape, dtype)
    made = np.zeros(shape, dtype)
    weakref.finalize(made, _give_back, size)
    return made


def _give_back(size: int) -> None:
    global _held
    with _lock:
        _held -= size


class Frames:
    """A sequence whose parts, one for each frame, are made when they are asked for: by index or in turn.

    What draws clips takes these as well as arrays, and `video.write` takes either.

    Attributes:
        shape: (T, ...), as an array's.
    """

    def __init__(self, shape: tuple[int, ...], draw: Callable[[int], Shaped[np.ndarray, "..."]]):
        """Keep what makes part t, 0 <= t < T."""
        self.shape, self._draw = tuple(shape), draw

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.shape[0]

    def __getitem__(self, t: SupportsIndex) -> Shaped[np.ndarray, "..."]:
        """Make part t; raises IndexError for one that there is not."""
        if not 0 <= operator.index(t) < len(self):
            raise IndexError(f"frame {t} of {len(self)}")
        return self._draw(operator.index(t))

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "..."]]:
        """Make all parts in turn."""
        return map(self._draw, range(len(self)))


class Stored:
    """A stack in a temporary file: `stack[t]` reads a part as an array of its own, `stack[t] = part` writes one.

    A slice is a view of the same file, as an array's is. `np.asarray` reads all of it into memory.

    Attributes:
        shape, dtype, ndim: as an array's.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.dtype, self._part, self._lock = np.dtype(dtype), tuple(shape[1:]), threading.Lock()
        self._places, self._file = range(shape[0]), tempfile.TemporaryFile(buffering=0)
        self._size = math.prod(self._part) * self.dtype.itemsize
        self._file.truncate(shape[0] * self._size)  # takes room on the disk only where something is written

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (T, ...)."""
        return len(self._places), *self._part

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._places)

    def __getitem__(self, t: SupportsIndex | slice) -> "Shaped[np.ndarray, '...'] | Stored":
        """Read part t, or return a view of a slice; raises IndexError for a part that there is not."""
        if isinstance(t, slice):
            view = object.__new__(Stored)
            view.__dict__ |= self.__dict__ | {"_places": self._places[t]}
            return view
        made = np.empty(self._part, self.dtype)
        bytes_of, done = memoryview(made.reshape(-1).view(np.uint8)), 0
        with self._lock:
            self._file.seek(self._places[operator.index(t)] * self._size)
            while done < self._size:
                done += self._file.readinto(bytes_of[done:]) or self._cut_short()
        return made

    def __setitem__(self, t: SupportsIndex, part: Any) -> None:
        """Write part t, or the same to all of it; raises OSError where there is no room."""
        made = np.ascontiguousarray(np.broadcast_to(part, self._part), self.dtype)
        bytes_of, done = memoryview(made.reshape(-1).view(np.uint8)), 0
        with self._lock:
            self._file.seek(self._places[operator.index(t)] * self._size)
            try:
                while done < self._size:
                    done += self._file.write(bytes_of[done:])
            except OSError as error:
                where = f"{tempfile.gettempdir()} (TMPDIR says where)"
                raise OSError(f"a clip of {len(self)} frames finds no room in {where}: {error.strerror}") from None

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "..."]]:
        """Read all parts in turn."""
        return map(self.__getitem__, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Shaped[np.ndarray, "T ..."]:
        """Read all of it into memory."""
        made = np.empty(self.shape, self.dtype)
        for t in range(len(self)):
            made[t] = self[t]
        return made if dtype is None else made.astype(dtype, copy=False)

    def _cut_short(self):
        raise OSError(f"a temporary file in {tempfile.gettempdir()} was cut short by another program")


Lazy = Frames | Stored
"""What stands for an array of frames that is not in memory."""


def lengthened(stack: Any, count: int) -> Any:
    """Return a stack of `count` frames that begins with those of another one, which is not used any more."""
    if isinstance(stack, Stored):
        with stack._lock:
            stack._file.truncate(count * stack._size)
            stack._places = range(count)
        return stack
    more = zeros((count, *stack.shape[1:]), stack.dtype)
    for t, part in enumerate(stack):
        more[t] = part
    return more


class Kept:
    """What `make(t)` returns, an array or a tuple of some or None, kept up to `most` bytes; the last used stay."""

    def __init__(self, make: Callable[[int], Any], most: int):
        self._make, self._most, self._bytes = make, most, 0
        self._parts: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, t: int) -> Any:
        """Return what was made for t, or make it."""
        if t in self._parts:
            self._parts.move_to_end(t)
            return self._parts[t]
        made = self._make(t)
        self._parts[t], self._bytes = made, self._bytes + _size(made)
        while self._bytes > self._most and len(self._parts) > 1:
            self._bytes -= _size(self._parts.popitem(last=False)[1])
        return made


def _size(parts):
    parts = parts if isinstance(parts, tuple) else (parts,)
    return sum(part.nbytes for part in parts if part is not None)
