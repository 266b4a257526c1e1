r"""What is said about the videos of a folder: read in whatever way it was written, matched to the videos, nothing lost.

Captions of a video come from, in this order:

    dog.txt or dog.mp4.txt    beside dog.mp4
    captions.json             {"path": "text"} in the folder
    captions.csv              path,text in the folder; a first line that names the columns is passed over

A path is relative to the folder, a file's name, or either without its ending, with "/" or "\", in any normal form of
Unicode. Text is UTF-8, UTF-16 or UTF-32 with a byte-order mark, UTF-16 without one if most letters are Latin, or
Windows-1252, which has Latin-1's letters in the same places. It is brought to Unicode's composed form (NFC). Whatever
is altered is a note of the video; whatever is not used has a line of its own.
"""

import codecs
import contextlib
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

FILES = ("captions.json", "captions.csv")
"""Files with captions of many videos, in the order in which they are asked."""
_HEADER = (frozenset("path file filename file_name name video clip".split()), frozenset("text caption prompt".split()))
"""What the columns of captions.csv may be called in its first line."""
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Caption(NamedTuple):
    """What a video shows, and in a few words each how that text differs from what was written."""

    text: str
    notes: tuple[str, ...] = ()


class _Entry(NamedTuple):
    """One caption as it was found: its words, where they stand (for people), what was altered."""

    text: str
    place: str
    notes: tuple[str, ...]


def decode(data: bytes) -> tuple[str, str]:
    """Turn the bytes of a text file into text; returns it and the name of the encoding.

    Raises:
        ValueError: if it is no text: bytes that no encoding has here, or control characters.
    """
    encodings = ["utf-8", "cp1252"]
    # Without a mark the zero bytes tell: every other byte of Latin letters in UTF-16 is one, and none in between.
    zeros = [data[start::2].count(0) for start in (0, 1)]
    if len(data) % 2 == 0 and min(zeros) == 0 and 0 < len(data) <= 4 * max(zeros):
        encodings = ["utf-16-le" if zeros[1] else "utf-16-be"]
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            data, encodings = data[len(mark) :], [encoding]
            break
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]", text):
                return text, encoding
    raise ValueError(f"not a text in {' or '.join(encodings)}")


def read(path: str | os.PathLike) -> tuple[str, tuple[str, ...]]:
    """Read a text file in the encoding that it is in.

    Returns:
        The text, and a note if that is not UTF-8.

    Raises:
        OSError: if it cannot be read. ValueError: if it is no text.
    """
    text, encoding = decode(Path(path).read_bytes())
    return text, () if encoding == "utf-8" else (f"read as {encoding}",)


def path_key(path: str) -> str:
    r"""Return what paths have in common that name the same file: "/" for "\", no "./", Unicode's composed form."""
    return PurePosixPath(unicodedata.normalize("NFC", path.strip()).replace("\\", "/")).as_posix()


class Captions:
    """The captions of a folder: `take` gives each video its own, `unused` tells what is left."""

    def __init__(self, folder: str | os.PathLike, texts: Sequence[str] = ()):
        """Read the folder's caption files.

        Args:
            folder: of the videos. texts: the text files in it, as paths below it with "/", of which those count that
                lie beside a video.

        Raises:
            ValueError: if captions.json or captions.csv cannot be read as captions, in one line.
        """
        self._folder = Path(folder)
        # Why nobody takes a caption, as far as that is known, by the place where it stands.
        self._left: dict[str, str] = {}
        self._taken: set[str] = set()
        self._beside: dict[str, list[str]] = {}
        for text in sorted(texts):
            self._beside.setdefault(path_key(_stem(text)), []).append(text)
            self._left[text] = "lies beside no video of that name"
        paths = [self._folder / name for name in FILES]
        self._lists = [self._read_list(path) for path in paths if path.is_file()]

    def take(self, name: str, fallback: str) -> Caption:
        """Return the caption of a video, given its path below the folder with "/"; `fallback` where there is none."""
        path = PurePosixPath(path_key(name))
        texts = [text for key in (_stem(path), str(path)) for text in self._beside.get(key, ())]
        found = [entry for text in texts if (entry := self._read_text(text))]
        for entries in self._lists:
            keys = dict.fromkeys((str(path), _stem(path), path.name, path.stem))
            found += [entries[key] for key in keys if key in entries]
        if not found:
            return Caption(fallback)
        first = found[0]
        self._taken |= {entry.place for entry in found if entry.text == first.text}
        self._left |= {e.place: f"{name} has another caption, in {first.place}" for e in found if e.text != first.text}
        notes = first.notes if first.text else (*first.notes, "is empty: no caption")
        return Caption(first.text, tuple(f"caption of {first.place} {note}" for note in notes))

    def unused(self) -> list[str]:
        """List the captions that no video has taken, one line each that says where it stands and why."""
        return [f"{place}: {why}" for place, why in self._left.items() if place not in self._taken]

    def _read_text(self, text: str) -> _Entry | None:
        """Read a text file beside a video; None, and a line for it, where it is no text."""
        try:
            return _entry(*read(self._folder / text), text)
        except (OSError, ValueError) as error:
            self._left[text] = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            return None

    def _read_list(self, path: Path) -> dict[str, _Entry]:
        """Read captions.json or captions.csv: what it says by `path_key`."""
        try:
            text, notes = read(path)
            rows = _json_rows(text) if path.suffix == ".json" else _csv_rows(text)
        except (OSError, ValueError, csv.Error, RecursionError) as error:
            raise ValueError(f"{path}: not readable as captions ({error})") from None
        entries: dict[str, _Entry] = {}
        for place, name, caption in rows:
            entry, key = _entry(caption, notes, f"{path.name} {place}"), path_key(name)
            before = entries.setdefault(key, entry)
            twice = f"the same video is named before, in {before.place}"
            self._left[entry.place] = "names no video" if before is entry else twice
        return entries


def _stem(path: str | PurePosixPath) -> str:
    """Return a path without its ending."""
    return str(PurePosixPath(path).with_suffix(""))


def _entry(text: str, notes: Sequence[str], place: str) -> _Entry:
    """Clean one caption, and note what that altered: spaces at its ends do not count."""
    found, notes = text.strip(), [*notes]
    whole = found.encode("utf-8", "replace").decode("utf-8")
    if whole != found:
        notes.append("holds half characters (lone surrogates), now question marks")
    composed = unicodedata.normalize("NFC", whole)
    if composed != whole:
        notes.append("brought to Unicode's composed form (NFC)")
    words = " ".join(composed.split())
    if words != composed:
        notes.append("line breaks and wide spaces are now single spaces")
    return _Entry(words, place, tuple(notes))


def _json_rows(text: str) -> list[tuple[str, str, str]]:
    """Return (place, path, caption) of captions.json, in order; what is there twice comes twice."""
    found: Any = json.loads(text, object_pairs_hook=lambda pairs: tuple(pairs))
    if not isinstance(found, tuple) or not all(isinstance(caption, str) for _, caption in found):
        raise ValueError("expected an object of texts by path")
    return [(f"entry {number} ({path})", path, caption) for number, (path, caption) in enumerate(found, 1)]


def _csv_rows(text: str) -> list[tuple[str, str, str]]:
    """Return (place, path, caption) of captions.csv, in order."""
    reader, rows = csv.reader(io.StringIO(text, newline="")), []
    for row in filter(None, reader):
        if len(row) != 2:
            raise ValueError(f"expected path,text in every line, given {','.join(row)!r}")
        is_header = reader.line_num == 1 and all(
            cell.strip().lower() in known for cell, known in zip(row, _HEADER, strict=True)
        )
        if not is_header:
            rows.append((f"line {reader.line_num} ({row[0].strip()})", *row))
    return rows
