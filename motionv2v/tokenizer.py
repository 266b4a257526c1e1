"""Text to token ids without a vocabulary file, for models trained by this project. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motionv2v.typing import Int

PAD, EOS, OFFSET = 0, 1, 3


@dataclass(frozen=True)
class ByteTokenizer:
    """Encode text as its UTF-8 bytes plus three, as ByT5 does: id 0 pads, 1 ends, 2 is unused.

    A text longer than `max_length - 1` bytes is cut; the end token is always there.
    """

    max_length: int
    vocab_size: int = 256 + OFFSET

    def encode(self, texts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Encode texts to int32 ids, padded to `max_length`. Raises TypeError if given one string, not a list."""
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts; got one string: pass [text]")
        tokens = np.full((len(texts), self.max_length), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            data = np.frombuffer(text.encode("utf-8")[: self.max_length - 1], np.uint8)
            row[: data.size] = data.astype(np.int32) + OFFSET
            row[data.size] = EOS
        return tokens

    def decode(self, tokens: Int[np.ndarray, "B L"]) -> list[str]:
        """Decode ids to texts, up to each end token; bytes cut in the middle of a character are replaced."""
        texts = []
        for row in np.asarray(tokens):
            ends = np.flatnonzero(row == EOS)
            row = row[: ends[0]] if ends.size else row
            texts.append((row[row >= OFFSET] - OFFSET).astype(np.uint8).tobytes().decode("utf-8", "replace"))
        return texts
