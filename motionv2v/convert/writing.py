"""Write folders of safetensors files tensor by tensor: complete or not at all, and able to go on after a kill.

`OutputFolder` collects files in a hidden folder beside the target and renames it when all are there. While it works it
holds `progress.json`: which source and settings it is for, the files that are complete with their sha256, and how far
the current one is. A job that is started again with the same fingerprint goes on from there; any other starts anew.

A safetensors file is the length of a json header (8 bytes), the header, and the tensors' bytes in the header's order,
so that it can be written as a stream, and continued after any tensor.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from motionv2v import files
from motionv2v.convert.tensors import STORED, ConvertError, copy_into, listing, read_json, some

CHECKSUMS, PROGRESS = "checksums.json", "progress.json"
SHARD_SIZE = 5_000_000_000
SAVE_EVERY = 256_000_000
"""Bytes after which a file's progress is on disk."""

_NAMES = {dtype: name for name, dtype in STORED.items()}


Report = Callable[[int, bool], None]


def _ignore(count: int, is_new: bool) -> None:
    """Report to nobody."""


class Planned(NamedTuple):
    """A tensor to be written: `pieces` makes, one after the other, the arrays whose bytes it consists of."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Return the size of the tensor on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_size(size: int | str) -> int:
    """Read a number of bytes: 5000000 or "5GB", "200MB", "64KB". Raises ConvertError for anything else."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMG]?B?)", str(size).strip(), re.IGNORECASE)
    if not found or found[2].upper() not in units or float(found[1]) <= 0:
        raise ConvertError(f"shard_size is {size!r}; expected a number of bytes such as 5000000000, 5GB or 200MB")
    return int(float(found[1]) * units[found[2].upper()])


def split(tensors: Sequence[Planned], stem: str, shard_size: int | str = SHARD_SIZE) -> dict[str, list[Planned]]:
    """Sort tensors into files of at most `shard_size` bytes, named as diffusers names them; {file: tensors}.

    A tensor that is larger than that has a file of its own.
    """
    limit, shards, size = parse_size(shard_size), [[]], 0
    for tensor in tensors:
        # 160 bytes are more than a tensor's entry in the header takes, its name apart.
        cost = tensor.nbytes + len(tensor.name.encode()) + 160
        if shards[-1] and size + cost > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += cost
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def index_json(files: dict[str, list[Planned]]) -> str:
    """Write the index that goes with shards: which file a tensor is in."""
    total = sum(tensor.nbytes for shard in files.values() for tensor in shard)
    weight_map = {tensor.name: name for name, shard in files.items() for tensor in shard}
    return (
        json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"
    )


class OutputFolder:
    """A folder that appears complete or not at all; use as a context.

    Leaving the context without an error puts the folder in its place. A `ConvertError` removes what was written; after
    any other end it is kept for a later run, if there is a fingerprint, and removed if there is none.

    Attributes:
        folder: where the result will be. resumed: whether an earlier run's work is used.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: str = "", report: Report = _ignore):
        """Begin, or go on where an earlier run with this fingerprint stopped.

        Args:
            folder: replaced if it is empty or was written by this class.
            fingerprint: of source and settings; "" for a job that cannot be continued.
            report: called with a number of bytes, and whether they were written now or found written.

        Raises:
            ConvertError: when something else is in the folder's place.
        """
        self.folder, self._report = Path(folder).resolve(), report
        if self.folder.exists() and not (self.folder.is_dir() and self._replaceable()):
            raise ConvertError(
                f"{self.folder} exists and holds {listing(self.folder) if self.folder.is_dir() else 'a file'}, which "
                "was not converted by this program: remove it, or name another target"
            )
        self._partial = self.folder.with_name(f".{self.folder.name}.partial")
        self._state: dict[str, Any] = {"fingerprint": fingerprint, "files": {}, "current": {}}
        if fingerprint and (self._partial / PROGRESS).is_file():
            state = read_json(self._partial / PROGRESS)
            if state.get("fingerprint") == fingerprint:
                self._state = state
        self.resumed = bool(self._state["files"] or self._state["current"])
        if not self.resumed:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True, exist_ok=True)

    @property
    def checksums(self) -> dict[str, str]:
        """Return the sha256 of each file that is complete."""
        return dict(sorted(self._state["files"].items()))

    def _replaceable(self) -> bool:
        return not any(self.folder.iterdir()) or (self.folder / CHECKSUMS).is_file()

    def __enter__(self) -> "OutputFolder":
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        """Put the folder in its place, or clear up, see the class."""
        if kind is None:
            self._finish()
        elif issubclass(kind, ConvertError) or not self._state["fingerprint"]:
            shutil.rmtree(self._partial, ignore_errors=True)

    def write_bytes(self, name: str, content: bytes | str) -> None:
        """Write a small file; `name` is relative to the folder, "vae/config.json"."""
        content = content.encode() if isinstance(content, str) else content
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._complete(name, hashlib.sha256(content).hexdigest())

    def write_tensors(self, name: str, tensors: Sequence[Planned]) -> str:
        """Write a safetensors file, or what is missing of it, and return its sha256."""
        if name in self._state["files"] and (self._partial / name).is_file():
            self._report(sum(tensor.nbytes for tensor in tensors), False)
            return self._state["files"][name]
        path = self._partial / (name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        head = _header(tensors)
        current = self._state["current"]
        done = current["tensors"] if current.get("file") == name and path.is_file() else 0
        offset = len(head) + sum(tensor.nbytes for tensor in tensors[:done])
        if done and path.stat().st_size < offset:
            done = 0
        digest = _digest(path, offset) if done else hashlib.sha256(head)
        with path.open("r+b" if done else "wb") as file:
            if done:
                file.truncate(offset)
                file.seek(offset)
                self._report(offset - len(head), False)
            else:
                file.write(head)
            saved = file.tell()
            for i, tensor in enumerate(tensors[done:], done + 1):
                self._write_tensor(file, digest, tensor)
                if file.tell() - saved >= SAVE_EVERY:
                    _sync(file)
                    saved = file.tell()
                    self._save(current={"file": name, "tensors": i})
            _sync(file)
        files.move(path, self._partial / name)
        self._complete(name, digest.hexdigest())
        return digest.hexdigest()

    def _write_tensor(self, file: BinaryIO, digest: Any, tensor: Planned) -> None:
        written = 0
        for piece in tensor.pieces():
            values = np.empty(piece.shape, tensor.dtype)
            with np.errstate(over="ignore"):
                copy_into(values, piece)
            if tensor.dtype == np.float16 and not np.isfinite(values).all() and np.isfinite(piece).all():
                raise ConvertError(
                    f"tensor {tensor.name} has numbers beyond float16's 65504; store as bfloat16 or float32"
                )
            content = values.reshape(-1).view(np.uint8).data
            digest.update(content)
            file.write(content)
            written += values.nbytes
            self._report(values.nbytes, True)
        if written != tensor.nbytes:
            raise ConvertError(f"tensor {tensor.name} has {written} bytes, expected {tensor.nbytes}")

    def _complete(self, name: str, sha256: str) -> None:
        self._state["files"][name] = sha256
        self._save(current={})

    def _save(self, current: dict[str, Any]) -> None:
        self._state["current"] = current
        files.write(self._partial / PROGRESS, json.dumps(self._state))

    def _finish(self) -> None:
        checksums = json.dumps({"sha256": self.checksums}, indent=1) + "\n"
        (self._partial / CHECKSUMS).write_text(checksums, encoding="utf-8")
        (self._partial / PROGRESS).unlink(missing_ok=True)
        files.move(self._partial, self.folder)


def verify(folder: str | os.PathLike) -> int:
    """Read every file back that `checksums.json` lists and return how many there are.

    Raises:
        ConvertError: when there is no such list, or a file is missing or has changed.
    """
    folder = Path(folder)
    expected = read_json(folder / CHECKSUMS).get("sha256")
    if not isinstance(expected, dict) or not expected:
        raise ConvertError(f"{folder / CHECKSUMS} lists no files")
    missing = [name for name in expected if not (folder / name).is_file()]
    changed = [name for name in expected if name not in missing and files.sha256(folder / name) != expected[name]]
    if missing or changed:
        raise ConvertError(f"{folder} is not as it was written: missing {some(missing)}; changed {some(changed)}")
    return len(expected)


def _header(tensors: Sequence[Planned]) -> bytes:
    """Write the length and the json that begin a safetensors file; diffusers and transformers ask for the format."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        span = [start, start + tensor.nbytes]
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        start = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text


def _digest(path: Path, size: int) -> Any:
    """Return the running sha256 of the first `size` bytes of a file."""
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 24))):
            digest.update(block)
            left -= len(block)
    return digest


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def has_checksums(folder: str | os.PathLike) -> bool:
    """Tell whether a folder lists the checksums of its files."""
    return (Path(folder) / CHECKSUMS).is_file()
