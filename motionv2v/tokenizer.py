"""Text to token ids without a vocabulary file, for models trained by this project. numpy only."""

from collections.abc import Sequence

import numpy as np

from motionv2v.typing import Int


class ByteTokenizer:
    """Turn captions into UTF-8 bytes, numbered as ByT5 does: 0 pads, 1 ends, byte b is b + 3.

    Attributes:
        max_length: tokens per caption, the end token included.
    """

    pad, end, offset = 0, 1, 3
    vocab_size = 259

    def __init__(self, max_length: int):
        if max_length < 1:
            raise ValueError(f"max_length must leave room for the end token, so be at least 1; got {max_length}.")
        self.max_length = max_length

    def encode(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Return int32 tokens, one row of `max_length` per caption: its bytes, the end token, padding.

        A caption that is too long loses its last bytes and keeps the end token.

        Raises:
            ValueError: when given one string instead of a list of strings.
        """
        if isinstance(captions, str):
            raise ValueError(f"encode takes a list of captions, got the single string {captions!r}.")
        tokens = np.full((len(captions), self.max_length), self.pad, np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            content = np.frombuffer(caption.encode("utf-8")[: self.max_length - 1], np.uint8)
            row[: len(content)] = content.astype(np.int32) + self.offset
            row[len(content)] = self.end
        return tokens

    def decode(self, tokens: Int[np.ndarray, "B L"]) -> list[str]:
        """Return the captions of token rows, up to each end token; a character that was cut in two is replaced."""
        captions = []
        for row in np.asarray(tokens):
            ends = np.flatnonzero(row == self.end)
            row = row[: ends[0]] if ends.size else row
            content = (row[row >= self.offset] - self.offset).astype(np.uint8)
            captions.append(content.tobytes().decode("utf-8", "replace"))
        return captions
