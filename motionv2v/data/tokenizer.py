"""Text to token ids: bytes, for models trained by this project, or T5's vocabulary, for CogVideoX. numpy only."""

import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import sentencepiece

from motionv2v.typing import Int

NEGATIVE_PROMPT = (
    "The video is not of a high quality, it has a low resolution. Watermark present in each frame. The background is "
    "solid. Strange body and strange trajectory. Distortion."
)
"""The text that guidance moves away from with CogVideoX-sized models, as in the published demos."""


NULL_PROMPT = "."
"""What replaces a dropped caption, as in the code behind the paper (section 4.1), and what an edit without a prompt
reads."""

KINDS = ("bytes", "sentencepiece")
"""What a config's `text.tokenizer` may be; without one it is bytes."""
SPIECE = "spiece.model"
"""Name of the vocabulary's file in a model folder."""
_JOINER, _SHOWN = "\u200d", 40


@runtime_checkable
class Tokenizer(Protocol):
    """What turns captions into tokens: rows of `max_length` ids, of which `vocab_size` exist."""

    max_length: int
    vocab_size: int

    def encode(self, captions: Sequence[str], notify: Callable[[str], None] = warnings.warn) -> Int[np.ndarray, "B L"]:
        """Return int32 tokens, one padded row per caption; `notify` is told of those that are cut."""
        ...

    def decode(self, tokens: Int[np.ndarray, "B L"]) -> list[str]:
        """Return the captions of token rows."""
        ...


def make(kind: str, max_length: int, folder: str | os.PathLike | None = None) -> Tokenizer:
    """Make a config's tokenizer.

    Args:
        kind: one of `KINDS`. max_length: tokens per caption.
        folder: where `spiece.model` lies, for "sentencepiece".

    Raises:
        ValueError: for an unknown kind, or when there is no vocabulary file.
    """
    if kind not in KINDS:
        raise ValueError(f"text.tokenizer is {kind!r}; available: {', '.join(KINDS)}.")
    if kind == "bytes":
        return ByteTokenizer(max_length)
    if folder is None:
        raise ValueError(f"text.tokenizer is 'sentencepiece', which needs the folder with the model's {SPIECE}.")
    return SentencePieceTokenizer(Path(folder) / SPIECE, max_length)


class _PaddedRows:
    """What the tokenizers share: rows of a fixed length that hold ids, one end token and padding.

    A tokenizer adds `pad`, `end`, how a caption becomes ids (`_ids`) and ids a caption (`_caption`), and whether a cut
    before an id is one inside a character (`_splits`).
    """

    pad: int
    end: int

    def __init__(self, max_length: int):
        if max_length < 1:
            raise ValueError(f"max_length must leave room for the end token, so be at least 1; got {max_length}.")
        self.max_length = max_length

    def encode(self, captions: Sequence[str], notify: Callable[[str], None] = warnings.warn) -> Int[np.ndarray, "B L"]:
        """Return int32 tokens, one row of `max_length` per caption: its ids, the end token, padding.

        A caption that is too long loses its last characters, whole ones, and keeps the end token; `notify` is then
        called once, with a sentence that says which part is not read.

        Raises:
            ValueError: when given one string instead of a list of strings.
        """
        if isinstance(captions, str):
            raise ValueError(f"encode takes a list of captions, got the single string {captions!r}.")
        tokens = np.full((len(captions), self.max_length), self.pad, np.int32)
        cuts = {}
        for row, caption in zip(tokens, captions, strict=True):
            ids = self._ids(caption)
            kept = min(len(ids), self.max_length - 1)
            if kept < len(ids):
                while kept and self._splits(ids, kept):
                    kept -= 1
                cuts[caption] = ids, kept
            row[:kept] = ids[:kept]
            row[kept] = self.end
        if cuts:
            notify(self._notice(cuts))
        return tokens

    def _notice(self, cuts: dict[str, tuple[Any, int]]) -> str:
        """Say of the first caption that was cut how long it may be and what of it is not read."""
        ids, kept = next(iter(cuts.values()))
        read, rest = self._caption(np.asarray(ids[:kept])), self._caption(np.asarray(ids[kept:]))
        read, more = read[-_SHOWN:], "..." if len(rest) > _SHOWN else ""
        others = f"; {len(cuts) - 1} more captions are cut too" if len(cuts) > 1 else ""
        return (
            f"a prompt of {len(ids)} tokens is cut, for the model reads {self.max_length - 1}: after {read!r} it does "
            f"not read {rest[:_SHOWN] + more!r}{others}"
        )

    def decode(self, tokens: Int[np.ndarray, "B L"]) -> list[str]:
        """Return the captions of token rows, up to each end token, without padding."""
        captions = []
        for row in np.asarray(tokens):
            ends = np.flatnonzero(row == self.end)
            captions.append(self._caption(row[: ends[0]] if ends.size else row))
        return captions


def _continues(before: str, char: str) -> bool:
    """Tell whether a code point belongs to the character that people see before it: an accent, a part of an emoji."""
    joins = before == _JOINER or char == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff"
    return joins or unicodedata.category(char) in ("Mn", "Me", "Mc")


class ByteTokenizer(_PaddedRows):
    """Turn captions into UTF-8 bytes, numbered as ByT5 does: 0 pads, 1 ends, byte b is b + 3.

    Captions are brought to Unicode's composed form (NFC) first: letters that look the same are the same bytes.

    Attributes:
        max_length: tokens per caption, the end token included.
    """

    pad, end, offset = 0, 1, 3
    vocab_size = 259

    def _ids(self, caption: str) -> np.ndarray:
        composed = unicodedata.normalize("NFC", caption)
        return np.frombuffer(composed.encode("utf-8"), np.uint8).astype(np.int32) + self.offset

    def _splits(self, ids: np.ndarray, index: int) -> bool:
        if (ids[index] - self.offset) & 0xC0 == 0x80:  # not the first byte of a code point
            return True
        return _continues(self._caption(ids[:index])[-1], self._caption(ids[index:])[0])

    def _caption(self, ids: np.ndarray) -> str:
        content = (ids[ids >= self.offset] - self.offset).astype(np.uint8)
        return content.tobytes().decode("utf-8", "replace")


class SentencePieceTokenizer(_PaddedRows):
    """Turn captions into the pieces of T5's vocabulary, with the ids of transformers' T5Tokenizer.

    Behind the vocabulary's pieces come 100 ids of "<extra_id_99>" .. "<extra_id_0>"; these and the special pieces count
    as one token where they stand in a caption; `decode` leaves the extra ids out.

    Attributes:
        model: the content of spiece.model. max_length: tokens per caption, the end token included.
        pad, end, vocab_size: ids, and how many there are.
    """

    num_extra = 100
    special = ("<pad>", "</s>", "<unk>")

    def __init__(self, model: str | os.PathLike | bytes, max_length: int):
        """Read a vocabulary.

        Args:
            model: path of a spiece.model, or its content. max_length: tokens per caption.

        Raises:
            ValueError: if there is no such file, it is no T5 vocabulary, or `max_length` is below 1.
        """
        super().__init__(max_length)
        if not isinstance(model, bytes):
            path = Path(model)
            if not path.is_file():
                raise ValueError(f"no vocabulary at {path}: copy {SPIECE} of the model's tokenizer there.")
            model = path.read_bytes()
        self.model = model
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"the vocabulary is no sentencepiece model: {' '.join(str(error).split())}") from error
        ids = [self._pieces.piece_to_id(piece) for piece in self.special]
        missing = [piece for piece, i in zip(self.special, ids, strict=True) if self._pieces.id_to_piece(i) != piece]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}, which T5's has.")
        self.pad, self.end, _ = ids
        size = self._pieces.vocab_size()
        self.vocab_size = size + self.num_extra
        self._special_ids = dict(zip(self.special, ids, strict=True))
        self._special_ids |= {f"<extra_id_{i}>": self.vocab_size - 1 - i for i in range(self.num_extra)}
        self._marks = re.compile("(" + "|".join(map(re.escape, self._special_ids)) + ")")

    def _ids(self, caption: str) -> list[int]:
        ids: list[int] = []
        # transformers takes the control character "next line" for a space; sentencepiece alone would not know it.
        for part in self._marks.split(caption.replace("\x85", " ")):
            ids += [self._special_ids[part]] if part in self._special_ids else self._pieces.encode(part)
        return ids

    def _splits(self, ids: list[int], index: int) -> bool:
        if max(ids[index - 1 : index + 1]) >= self.vocab_size - self.num_extra:
            return False
        if self._pieces.is_byte(ids[index]):  # a vocabulary may spell out bytes that it has no piece for: <0xE8>
            return int(self._pieces.id_to_piece(ids[index])[1:-1], 16) & 0xC0 == 0x80
        before, after = (self._pieces.id_to_piece(i) for i in ids[index - 1 : index + 1])
        return _continues(before[-1], after[0])

    def _caption(self, ids: np.ndarray) -> str:
        size = self.vocab_size - self.num_extra
        return self._pieces.decode([int(i) for i in ids if i != self.pad and i < size])
