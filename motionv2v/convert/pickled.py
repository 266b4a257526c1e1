"""State dicts as torch saves them (`.pth`, `.pt`), read without torch and without running anything in them.

torch has two formats. The older is several pickles in a row (a magic number, the protocol, the machine, the state dict,
the names of its storages) and then each storage's count and bytes; the newer a zip archive with one pickle, `data.pkl`,
and one file per storage. In both a pickle only says where tensors lie in storages, so that what is read here becomes
`Tensors`: names, shapes and places in the file, from which numbers are read one tensor at a time.

A pickle is a program. This one's vocabulary is a handful of names, none of which is looked up: a dict, the name of a
number type, and two functions that note down where a tensor lies. Any other name ends the reading.

A TorchScript archive holds a program besides, and its pickle a tree of modules; `open_scripted` reads the tensors of
that tree and leaves the program alone.
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import checkpoints, pickles
from motionv2v.convert.tensors import DTYPES, STORED, ConvertError, Entry, Tensors, read_header, some

STORAGES = {
    "FloatStorage": DTYPES["float32"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "HalfStorage": DTYPES["float16"],
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""The number types that are read, by the names of torch's storages."""

_COUNTS = {"I64": np.dtype(np.int64), "F64": np.dtype(np.float64)}
"""What a safetensors file of a whole classifier holds besides: counts of batches, which are named and never read."""
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LEGACY, _ZIP = b"\x80\x02\x8a\n" + _MAGIC.to_bytes(10, "little"), b"PK\x03\x04"
_SAVE_AGAIN = "where it was made, save it with safetensors.torch.save_file(model.state_dict(), 'NAME.safetensors')"
_UNSCRIPT = (
    "turn it into a state dict with safetensors.torch.save_file({k: v.clone() for k, v in "
    "torch.jit.load('NAME').state_dict().items()}, 'NAME.safetensors')"
)


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    """Where a tensor lies in a storage; offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def open_state_dict(path: str | os.PathLike) -> Tensors:
    """Open a state dict in either of torch's formats, told by its first bytes, or one file of safetensors.

    Returns:
        The tensors by their names, as `tensors.open_folder` does; numbers are read when they are asked for.

    Raises:
        ConvertError: in one line, for a file that is missing, damaged, or no state dict: a whole module, a TorchScript
            archive, or anything that names a class besides tensors. Nothing in the file is ever run.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return Tensors(read_header(path, STORED | _COUNTS), str(path))
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
            file.seek(0)
            if start.startswith(_ZIP):
                return Tensors(_read_zip(path, file), str(path))
            if start == _LEGACY:
                return Tensors(_read_legacy(path, file), str(path))
    except ConvertError:
        raise
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle or archive may end in nearly every error there is
        reason = checkpoints.one_line(error) or type(error).__name__
        raise ConvertError(f"{path} is damaged, or no state dict ({reason}): {_SAVE_AGAIN}") from error
    raise ConvertError(f"{path} is no file of torch.save: {_SAVE_AGAIN}")


def is_scripted(path: str | os.PathLike) -> bool:
    """Tell whether a file is a TorchScript archive; False for one that is damaged or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _has_program(info.filename.partition("/")[2] for info in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def open_scripted(path: str | os.PathLike) -> Tensors:
    """Open the tensors of a TorchScript archive by the names of their modules, as `state_dict` there has them.

    The program in it is not looked at, so that what the module does with the tensors is not known from the file.

    Raises:
        ConvertError: as `open_state_dict`, and for what is no TorchScript archive.
    """
    path = Path(path)
    if not is_scripted(path):
        raise ConvertError(f"{path} is no TorchScript archive: {_SAVE_AGAIN}")
    try:
        with path.open("rb") as file:
            return Tensors(_read_zip(path, file, _Modules), str(path))
    except ConvertError:
        raise
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # as in `open_state_dict`
        reason = checkpoints.one_line(error) or type(error).__name__
        raise ConvertError(f"{path} is damaged, or no module ({reason}): copy it again") from error


class _Reader(pickle.Unpickler):
    """Unpickle what the vocabulary allows; `storages` are those that were named, by their keys."""

    def __init__(self, file: io.BufferedIOBase, path: Path):
        super().__init__(file, encoding="utf-8")  # Python 2 wrote names as bytes
        self._path, self._file = path, file
        self.storages: dict[str, _Storage] = {}

    def read(self) -> Any:
        """Unpickle the pickle that the file stands at, if it fits into the file."""
        pickles.check_size(self._file)
        return self.load()

    def find_class(self, module: str, name: str) -> Any:
        """Give what stands for a name. Functions are made anew, so that no file can change them for the next one."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in STORAGES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: _Tensor(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        raise ConvertError(f"{self._path} names {module}.{name}, which no state dict needs: {_SAVE_AGAIN}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Note a storage: ("storage", number type, key, device, count) and, in the older format, a part of another."""
        kind, name, key, _, count, *view = pid
        if kind != "storage" or name not in STORAGES or not isinstance(key, str) or any(v is not None for v in view):
            raise ConvertError(f"{self._path} has a storage of a kind that is not read: {_SAVE_AGAIN}")
        storage = _Storage(key, STORAGES[name], _natural(count))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} has two types")
        return storage


class _Module:
    """Stands for a module of a script: keeps its attributes, and is told nothing else."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Modules(_Reader):
    """Unpickle a tree of modules as well, whose tensors `read` then returns by their names."""

    def read(self) -> dict[str, _Tensor]:
        """Unpickle the tree; what is no tensor of a module, such as a number or a list, is left out."""
        return dict(_in_modules(super().read(), "", set()))

    def find_class(self, module: str, name: str) -> Any:
        """Give what stands for a name, as for a state dict, and for a module a type of its own."""
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Module,), {"__slots__": ()})
        if module == "torch.jit._pickle" and name in _SCRIPTED_LISTS:
            return lambda values, *rest: values
        return super().find_class(module, name)


_SCRIPTED_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


def _in_modules(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """Yield a tree's tensors; a module that is there twice, or within itself, is looked at once."""
    if _is_tensor(value):
        yield name, value
    elif isinstance(value, _Module) and id(value) not in seen:
        seen.add(id(value))
        for key, inner in value.attributes.items():
            yield from _in_modules(inner, f"{name}.{key}" if name else key, seen)


def _read_legacy(path: Path, file: io.BufferedIOBase) -> dict[str, Entry]:
    """Read the older format."""
    magic, protocol, machine = (_Reader(file, path).read() for _ in range(3))
    if (magic, protocol, machine["little_endian"]) != (_MAGIC, _PROTOCOL, True):
        raise ValueError(f"protocol {protocol} of torch.save, expected {_PROTOCOL} of a little-endian machine")
    reader = _Reader(file, path)
    named = _checked(path, reader.read())
    keys = _Reader(file, path).read()
    starts, end = {}, path.stat().st_size
    for key in keys:
        storage = reader.storages[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        starts[key] = file.tell()
        size = storage.count * storage.dtype.itemsize
        if count != storage.count or starts[key] + size > end:
            raise ConvertError(f"{path} ends within storage {key}, or its count is another: copy it again")
        file.seek(size, os.SEEK_CUR)
    return {name: _entry(path, name, tensor, starts) for name, tensor in named.items()}


def _read_zip(path: Path, file: io.BufferedIOBase, kind: type[_Reader] = _Reader) -> dict[str, Entry]:
    """Read the newer format, or with `_Modules` a TorchScript archive."""
    with zipfile.ZipFile(file) as archive:
        inside = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if kind is _Reader and _has_program(inside):
            raise ConvertError(f"{path} is a TorchScript archive, a program and no state dict: {_UNSCRIPT}")
        if "data.pkl" not in inside:
            raise ConvertError(f"{path} is a zip archive without data.pkl, not a file of torch.save: {_SAVE_AGAIN}")
        if "byteorder" in inside and archive.read(_stored(path, inside["byteorder"])) != b"little":
            raise ConvertError(f"{path} is of a big-endian machine: {_SAVE_AGAIN}")
        with archive.open(_stored(path, inside["data.pkl"])) as pickled:
            reader = kind(pickled, path)
            named = _checked(path, reader.read())
        starts = {}
        for key, storage in reader.storages.items():
            info = _stored(path, inside[f"data/{key}"])
            if info.file_size != storage.count * storage.dtype.itemsize:
                raise ConvertError(f"{path} holds storage {key} in another size than it says: copy it again")
            # A file in an archive follows its own header: 30 bytes, its name and a field of padding.
            file.seek(info.header_offset + 26)
            starts[key] = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return {name: _entry(path, name, tensor, starts) for name, tensor in named.items()}


def _has_program(names: Iterable[str]) -> bool:
    return any(name == "constants.pkl" or name.startswith("code/") for name in names)


def _stored(path: Path, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Check that a file in an archive is as torch leaves it, whose bytes are those on the disk."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ConvertError(f"{path} was compressed, as torch does not: {_SAVE_AGAIN}")
    return info


def _checked(path: Path, named: Any) -> dict[str, _Tensor]:
    """Check that what was unpickled is tensors by their names."""
    if not isinstance(named, dict):
        raise ConvertError(f"{path} holds a {type(named).__name__}, expected a state dict: {_SAVE_AGAIN}")
    others = sorted(str(name) for name, value in named.items() if not (isinstance(name, str) and _is_tensor(value)))
    if others or not named:
        raise ConvertError(f"{path} holds no tensor at {some(others)}, expected a state dict alone: {_SAVE_AGAIN}")
    return named


def _entry(path: Path, name: str, tensor: _Tensor, starts: Mapping[str, int]) -> Entry:
    shape, strides = tuple(map(_natural, tensor.shape)), tuple(map(_natural, tensor.strides))
    size, offset = math.prod(shape), _natural(tensor.offset)
    usual = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    is_usual = all(s == u for n, s, u in zip(shape, strides, usual, strict=True) if n > 1)
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size else 0
    # One number may stand for many only within a storage: a small file shall not ask for more memory than it fills.
    if offset + span > tensor.storage.count or size > tensor.storage.count:
        raise ConvertError(f"tensor {name} of {path} reaches beyond its storage: copy it again")
    start = starts[tensor.storage.key] + offset * tensor.storage.dtype.itemsize
    return Entry(path, start, shape, tensor.storage.dtype, strides=None if is_usual or not size else strides)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, _Tensor) and isinstance(value.storage, _Storage)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} where a size belongs")
    return value
