"""Folders of safetensors files: read tensors one at a time, and check them against a model's rules before any is read.

A folder holds one file `<stem>.safetensors`, or shards and `<stem>.safetensors.index.json` with the map from tensor to
shard; a variant has its name in them, `<stem>.fp16.safetensors`, `<stem>.safetensors.index.fp16.json`.

Tensors are read from the file's bytes, not through a memory map: a map's pages would count as the process's memory
until the file is closed, and a 20 GB model would look, to whoever limits memory, like 20 GB more.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from motionv2v import checkpoints
from motionv2v.convert.rules import Rule, Step, expand

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
STORED = {"F32": DTYPES["float32"], "BF16": DTYPES["bfloat16"], "F16": DTYPES["float16"]}
"""The number types that are read and written, by their names in safetensors' headers."""

BLOCK = 32
"""Columns copied at a time from a transposed array: measured, 2 to 5 times as fast as all at once."""


class ConvertError(ValueError):
    """Say in one line what cannot be converted, what was expected and what is supported."""


class Entry(NamedTuple):
    """Where a tensor's bytes lie.

    Attributes:
        shape: that is read. inputs: the size of the second axis in the file, where `shape` has its first entries only.
        strides: how many numbers apart the neighbours along each axis lie in the file; None for the usual order.
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    inputs: int | None = None
    strides: tuple[int, ...] | None = None


class Tensors(Mapping):
    """The tensors of a folder by name; `tensors[name]` is its `Entry`, `read` its values."""

    def __init__(self, entries: Mapping[str, Entry], where: str):
        self._entries, self.where = dict(entries), where

    def __getitem__(self, name: str) -> Entry:
        """Return where a tensor is, its shape and its type."""
        return self._entries[name]

    def __iter__(self) -> Any:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._entries)

    def read(self, name: str, index: int | None = None) -> np.ndarray:
        """Read one tensor in its stored type, or one entry of its first axis.

        Raises:
            ConvertError: when the file has become shorter than its header says, or holds NaN or infinity.
        """
        entry = self._entries[name]
        shape, start = entry.shape, entry.start
        if entry.strides is not None:
            # All numbers from the first to the last, then put in order.
            span = 1 + sum((size - 1) * stride for size, stride in zip(shape, entry.strides, strict=True))
            flat = Tensors({name: entry._replace(shape=(span,), strides=None)}, self.where).read(name)
            steps = [stride * entry.dtype.itemsize for stride in entry.strides]
            whole = np.lib.stride_tricks.as_strided(flat, shape, steps)
            return np.ascontiguousarray(whole if index is None else whole[index])
        if entry.inputs is not None:
            whole = entry._replace(shape=(shape[0], entry.inputs, *shape[2:]), inputs=None)
            return Tensors({name: whole}, self.where).read(name)[:, : shape[1]]
        if index is not None:
            shape = shape[1:]
            start += index * math.prod(shape) * entry.dtype.itemsize
        size = math.prod(shape) * entry.dtype.itemsize
        values = np.fromfile(entry.path, np.uint8, size, offset=start)
        if values.size != size:
            raise ConvertError(f"{entry.path} ends within tensor {name}: copy it again")
        values = values.view(entry.dtype).reshape(shape)
        if count := checkpoints.count_not_finite(values):
            raise ConvertError(f"tensor {name} of {entry.path} is not finite in {count:,} places: copy it again")
        return values

    def dtypes(self) -> set[str]:
        """Name the number types that occur."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        return {names[entry.dtype] for entry in self._entries.values()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors' shapes by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def trimmed(self, without: Collection[str], inputs: Mapping[str, int]) -> "Tensors":
        """Return these tensors without some, and of others the first entries of their second axis, {name: how many}."""
        entries = {name: entry for name, entry in self._entries.items() if name not in without}
        for name, count in inputs.items():
            shape = entries[name].shape
            entries[name] = entries[name]._replace(shape=(shape[0], count, *shape[2:]), inputs=shape[1])
        return Tensors(entries, self.where)


class Arrays(Tensors):
    """Tensors that are in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray], path: Path):
        """Take arrays by name, and the file that they were read from."""
        entries = {name: Entry(path, 0, array.shape, array.dtype) for name, array in arrays.items()}
        super().__init__(entries, str(path))
        self._arrays = arrays

    def read(self, name: str, index: int | None = None) -> np.ndarray:
        """Return one tensor, or one entry of its first axis. Raises ConvertError where it holds NaN or infinity."""
        value = self._arrays[name] if index is None else self._arrays[name][index]
        if count := checkpoints.count_not_finite(value):
            raise ConvertError(f"tensor {name} of {self.where} is not finite in {count:,} places: copy it again")
        return value


def open_folder(folder: str | os.PathLike, stem: str, notify: Callable[[str], None] = warnings.warn) -> Tensors:
    """Open `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` lists; reads headers only.

    A variant is opened where it is all there is, and `notify` called with a sentence.

    Raises:
        ConvertError: when there is no such file, or several variants; a shard is missing or cut off, or index and
            shards disagree.
    """
    folder = Path(folder)
    index = find_weights(folder, stem, notify)
    if index.suffix != ".json":
        return Tensors(read_header(index), str(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ConvertError(f"{index} has no 'weight_map' from tensor to shard")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ConvertError(f"{folder} lacks {some(missing)} of the {len(shards)} shards that {index.name} lists")
    entries: dict[str, Entry] = {}
    for shard in shards:
        entries |= read_header(folder / shard)
    listed = {name for name in weight_map if name in entries and entries[name].path.name == weight_map[name]}
    astray = sorted(set(weight_map) - listed), sorted(set(entries) - set(weight_map))
    if any(astray):
        raise ConvertError(
            f"{index} does not describe its shards: not where it says: {some(astray[0])}; not listed: {some(astray[1])}"
        )
    return Tensors(entries, str(folder))


def find_weights(folder: Path, stem: str, notify: Callable[[str], None]) -> Path:
    """Choose the file that `open_folder` opens: an index before a single file, no variant before one."""
    plain = [folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"]
    for path in plain:
        if path.is_file():
            return path
    # An index of today's and of an earlier diffusers, and a single file, which no shard's name is.
    name, word = re.escape(f"{stem}.safetensors"), r"([^.]+)"
    patterns = (
        rf"{name}\.index\.{word}\.json",
        rf"{name}\.{word}\.index\.json",
        rf"{re.escape(stem)}\.{word}\.safetensors",
    )
    variants: dict[str, Path] = {}
    for pattern in patterns:
        for path in sorted(folder.glob(f"{stem}*")):
            found = re.fullmatch(pattern, path.name)
            if found and not re.search(r"-\d+-of-\d+$", found[1]):
                variants.setdefault(found[1], path)
    if len(variants) > 1:
        raise ConvertError(
            f"{folder} holds the variants {', '.join(sorted(variants))} of its weights and none without a name: leave "
            "one of them there"
        )
    if not variants:
        raise ConvertError(
            f"no weights in {folder}: expected {plain[1].name} or {plain[0].name}, or a variant such as {stem}.fp16."
            f"safetensors, found {listing(folder)}; other formats are not read, save the model again as safetensors"
        )
    ((variant, path),) = variants.items()
    notify(f"{folder} holds its weights as the variant {variant}, which is read")
    return path


def read_header(path: str | os.PathLike, stored: Mapping[str, np.dtype] = STORED) -> dict[str, Entry]:
    """Read where the tensors of one safetensors file lie, of the number types `stored` by their names in its header.

    Raises:
        ConvertError: when the file is cut off or no safetensors file, or holds a number type that is not read.
    """
    path = Path(path)
    try:
        # The library checks that the header is sound and covers the file exactly.
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConvertError(f"{path} is damaged or cut off: {' '.join(str(error).split())}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    entries = {}
    for name, value in header.items():
        if name == "__metadata__":
            continue
        if value["dtype"] not in stored:
            raise ConvertError(f"tensor {name} of {path} is stored as {value['dtype']}; supported: {', '.join(stored)}")
        start = 8 + length + value["data_offsets"][0]
        entries[name] = Entry(path, start, tuple(value["shape"]), stored[value["dtype"]])
    return entries


def match(tensors: Tensors, rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]]) -> list[Step]:
    """Check that rules tie every tensor of a folder to the model and fill every leaf of it; return what to read.

    Args:
        tensors: of the folder. rules: of the model. shapes: the model's leaves, {path: shape}.

    Raises:
        ConvertError: listing what is left over on both sides, or the first tensors of a wrong shape.
    """
    steps = list(expand(rules))
    read = [step for step in steps if step.target]
    sources = {step.source for step in read}
    unused = [name for name in tensors if name not in {step.source for step in steps}]
    unfilled = [name for name in sources if name not in tensors]
    no_rule = [path for path in shapes if path not in {step.target for step in read}]
    if unused or unfilled or no_rule:
        raise ConvertError(
            f"{tensors.where} is not this model: {len(unused)} of its {len(tensors)} tensors have no place in it "
            f"({some(sorted(unused))}); {len(unfilled) + len(no_rule)} tensors of the model are not there "
            f"({some(sorted(unfilled) + sorted(no_rule))})"
        )
    wrong = []
    for step in read:
        if step.target not in shapes:
            raise ConvertError(f"rule {step.rule.source} -> {step.target} names no leaf of the model")
        layer = shapes[step.target] if step.index is None else shapes[step.target][1:]
        depth = None if step.index is None else shapes[step.target][0]
        expected = step.rule.op.save(hollow(layer)).shape
        if tuple(tensors[step.source].shape) != expected or depth not in (None, step.rule.depth):
            wrong.append(f"{step.source} is {list(tensors[step.source].shape)}, expected {list(expected)}")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ConvertError(
            f"{tensors.where} has tensors of other shapes than its config says: {'; '.join(wrong[:3])}{more}"
        )
    return read


def load_leaves(
    tensors: Tensors, rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Read a model's leaves as {path: array}; a leaf that stacks layers is allocated once and filled layer by layer.

    Args:
        tensors, rules, shapes: as for `match`. dtype: "float32", "bfloat16", "float16", or "stored" as in the files.

    Raises:
        ConvertError: as `match` does.
    """
    leaves: dict[str, np.ndarray] = {}
    for step in match(tensors, rules, shapes):
        value = tensors.read(step.source)
        kind = value.dtype if dtype == "stored" else DTYPES[dtype]
        if step.target not in leaves:
            leaves[step.target] = np.empty(shapes[step.target], kind)
        leaf = leaves[step.target]
        copy_into(leaf if step.index is None else leaf[step.index], step.rule.op.load(value))
    return leaves


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
    """Copy with a change of type; transposed arrays in blocks, which keeps their reads within the cache."""
    strides = [stride for stride, size in zip(source.strides, source.shape, strict=True) if size > 1]
    if not strides or strides[-1] == min(strides):
        target[...] = source
        return
    for i in range(0, source.shape[-1], BLOCK):
        # Numbers change type in the order they lie in, then places.
        target[..., i : i + BLOCK] = source[..., i : i + BLOCK].astype(target.dtype, copy=False)


def hollow(shape: Iterable[int]) -> np.ndarray:
    """Make an array of a shape without memory, to ask an op for the shape it returns."""
    return np.broadcast_to(np.zeros((), np.uint8), tuple(shape))


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object. Raises ConvertError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConvertError(
            f"{path} cannot be read ({error.strerror}); the folder holds {listing(path.parent)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not json: {checkpoints.one_line(error)}") from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def listing(folder: Path) -> str:
    """Name what a folder holds, for a message."""
    if not folder.is_dir():
        return "no such folder"
    return some(sorted(path.name for path in folder.iterdir()), 8)


def some(names: Sequence[str], count: int = 3) -> str:
    """Write the first few names and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more
