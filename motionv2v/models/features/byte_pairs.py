"""CLIP's tokenizer: words as byte pairs (Radford et al. 2021, section 2.4), from its published vocabulary.

A text is in lower case, entities of HTML are undone twice, it is composed (NFC) and its spaces are single, as CLIP's
own code and its copies do; what the library ftfy mends besides (curly quotes, text decoded wrongly) stays as it is. It
is cut into runs of letters, single digits, runs of other signs, and the endings 's 't 're 've 'm 'll 'd. The UTF-8
bytes of each are then joined, pair by pair, in the order in which the vocabulary lists the pairs.

The 49,408 tokens: each byte, each byte at the end of a word, 48,894 pairs, a start and an end.
"""

import functools
import gzip
import hashlib
import html
import itertools
import os
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from motionv2v.typing import Int

NUM_MERGES, VOCABULARY = 48_894, 49_408
LENGTH = 77
"""Tokens of a text, the start and the end among them; longer ones are cut off, and shorter ones filled up with ends."""
_MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
_WORD_END, _SPECIAL = "</w>", ("<|startoftext|>", "<|endoftext|>")
_SUFFIXES = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class BytePairs:
    """Turn texts into tokens; made of the pairs in the order in which they are joined."""

    def __init__(self, merges: Sequence[tuple[str, str]]):
        """Take the pairs, each of two strings of the vocabulary's characters. Raises ValueError for another number."""
        if len(merges) != NUM_MERGES:
            raise ValueError(f"a vocabulary of {len(merges):,} pairs, expected CLIP's {NUM_MERGES:,}")
        letters = _letters()
        names = [*letters.values(), *(letter + _WORD_END for letter in letters.values())]
        names += ["".join(pair) for pair in merges] + list(_SPECIAL)
        self._letters, self._ids = letters, {name: index for index, name in enumerate(names)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._word = functools.lru_cache(maxsize=1 << 14)(self._join)
        self.start, self.end = (self._ids[name] for name in _SPECIAL)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start, end and a limit."""
        return [token for word in words(clean(text)) for token in self._word(word)]

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B 77"]:
        """Return each text's tokens from its start to its end and the ends that fill it up."""
        found = np.full((len(texts), LENGTH), self.end, np.int32)
        for row, text in zip(found, texts, strict=True):
            tokens = [self.start, *self.encode(text)][: LENGTH - 1]
            row[: len(tokens)] = tokens
        return found

    def _join(self, word: str) -> tuple[int, ...]:
        """Join the bytes of a word, the pair first that comes first in the vocabulary, all its places at once."""
        if word in _SPECIAL:
            return (self._ids[word],)
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += _WORD_END
        while len(parts) > 1:
            best = min(itertools.pairwise(parts), key=lambda pair: self._ranks.get(pair, NUM_MERGES))
            if best not in self._ranks:
                break
            joined, place = [], 0
            while place < len(parts):
                is_pair = tuple(parts[place : place + 2]) == best
                joined.append("".join(best) if is_pair else parts[place])
                place += 1 + is_pair
            parts = joined
        return tuple(self._ids[part] for part in parts)


def load(path: str | os.PathLike) -> BytePairs:
    """Read CLIP's vocabulary: bpe_simple_vocab_16e6.txt.gz as published, or transformers' merges.txt.

    Either has a line of its version and then a pair in each; the published one goes on with pairs that are not used.

    Raises:
        OSError, ValueError: for a file that cannot be read, and one that is no such vocabulary.
    """
    with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
        lines = file.read().decode("utf-8").splitlines()[1 : 1 + NUM_MERGES]
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != _MERGES_SHA256:
        raise ValueError(f"{len(lines):,} lines that are not CLIP's {NUM_MERGES:,} pairs in their order")
    return BytePairs([tuple(line.split()) for line in lines])


def clean(text: str) -> str:
    """Undo entities, compose characters, make spaces single and letters small."""
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text)))
    return " ".join(text.split()).lower()


def words(text: str) -> Iterator[str]:
    """Cut a clean text into what is joined by itself; spaces are left out."""
    place = 0
    while place < len(text):
        kind = _kind(text[place])
        ending = next((known for known in (*_SPECIAL, *_SUFFIXES) if text.startswith(known, place)), None)
        stop = place + (len(ending) if ending else 1)
        while not ending and kind in ("letter", "sign") and stop < len(text) and _kind(text[stop]) == kind:
            stop += 1
        if kind != "space":
            yield text[place:stop]
        place = stop


def _kind(character: str) -> str:
    """Name the Unicode class that decides where words end."""
    if character.isspace():
        return "space"
    return {"L": "letter", "N": "digit"}.get(unicodedata.category(character)[0], "sign")


def _letters() -> dict[int, str]:
    """Return the character by which the vocabulary writes each byte: itself where it prints, else from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + place) for place, byte in enumerate(others)}
