"""Read pickles without running what is in them: arrays of numbers, plain containers and scalars, and nothing else.

A pickle can call whatever it names when it is loaded. Here it gets stand-ins for the few names that arrays need, which
only note what they are given; the arrays are made of that afterwards. At any other name reading stops.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"\?|[bBhHiIlLqQefd]|b1|[iu][1248]|f[248]")  # types of arrays, without their byte order


def load(file: io.BufferedIOBase) -> Any:
    """Read a pickle from a file that is open for reading, from where it stands.

    Raises ValueError, one line, for one that asks for more than arrays, containers and scalars, and for a damaged one.
    """
    try:
        check_size(file)
        return _with_arrays(_Unpickler(file).load(), {})
    except MemoryError:
        raise
    # A damaged pickle can make the reader fail in nearly any way.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"it is no pickle that can be read safely: {reason}") from None


def check_size(file: io.BufferedIOBase) -> None:
    """Raise UnpicklingError for numbers of objects, and lengths, that the file cannot hold: they would take memory."""
    start = file.tell()
    length = file.seek(0, 2)
    file.seek(start)
    for code, argument, _ in pickletools.genops(file):  # fails by itself where a length leads past the file's end
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > length:
            raise pickle.UnpicklingError(f"it numbers an object {argument}, and has {length} bytes")
    file.seek(start)


class _Call:
    """What a pickle may call. It has no state that a pickle could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it may call")


class _Type:
    """Stands for the type of an array's numbers."""

    def __init__(self, name: Any = "", *_: Any):
        self.name, self.order = str(name), "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="  # the rest describes types that are no numbers

    def numbers(self) -> np.dtype:
        if not _NUMBERS.fullmatch(self.name):
            raise pickle.UnpicklingError(f"it has an array of {self.name[:20]!r}; expected numbers")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """Stands for an array, whose content comes later."""

    def __init__(self, *_: Any):
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        self.value = _array(content, kind, shape, "F" if is_fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("it has an array that is not made of numbers")
    array = np.frombuffer(content, kind.numbers()).reshape(shape, order="F" if order == "F" else "C")
    if order != "K" or axes is None:
        return array
    # Numpy 2.4 and later write transposed arrays as they lie in memory, and with them the order of the axes.
    if not isinstance(axes, tuple) or sorted(axes) != list(range(array.ndim)):
        raise pickle.UnpicklingError("it has an array whose axes are no order of its axes")
    return array.transpose(axes)


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for codecs.encode, by which old pickle protocols write bytes; only in the encoding that they use."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Give out stand-ins for the names that arrays need."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; raise UnpicklingError for any but those of arrays."""
        if (module, name) == ("_codecs", "encode"):
            return _Call(_latin1)
        if (module, name) == ("numpy", "dtype"):
            return _Call(_Type)
        if (module, name) == ("numpy", "ndarray"):
            return "an array"  # is only handed on to `_reconstruct`
        # Numpy's own modules have moved between its versions.
        if module.removeprefix("numpy.").replace("_core", "core") in ("core.multiarray", "core.numeric"):
            if name == "_reconstruct":
                return _Call(_Array)
            if name == "_frombuffer":
                return _Call(_array)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only numpy arrays and plain containers are read")


def _with_arrays(value: Any, known: dict[int, Any]) -> Any:
    """Put the arrays where their stand-ins are; what is there several times, or contains itself, is looked at once."""
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in known:
        return known[id(value)][0]
    if isinstance(value, tuple):
        made = tuple(_with_arrays(each, known) for each in value)
        known[id(value)] = (made, value)  # the old one as well, or another could get its id
        return made
    known[id(value)] = (value, value)
    for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
        value[key] = _with_arrays(each, known)
    return value
