"""The byte tokenizer: values, truncation, round trip."""

import numpy as np
import pytest

from motionv2v.tokenizer import ByteTokenizer


def test_tokenizer_values():
    out = ByteTokenizer(6).encode(["ab", "", "é!"])
    np.testing.assert_array_equal(out, [[100, 101, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0xC3 + 3, 0xA9 + 3, 36, 1, 0, 0]])
    assert out.dtype == np.int32


def test_tokenizer_truncation_keeps_end():
    np.testing.assert_array_equal(ByteTokenizer(3).encode(["abcdef", "ab"]), [[100, 101, 1], [100, 101, 1]])
    np.testing.assert_array_equal(ByteTokenizer(1).encode(["abc"]), [[1]])


def test_tokenizer_round_trip():
    caption = "two dogs, 走る"
    row = ByteTokenizer(64).encode([caption])[0]
    assert bytes(int(b) - 3 for b in row if b >= 3).decode("utf-8") == caption
    assert row.max() < ByteTokenizer.vocab_size


def test_tokenizer_errors():
    with pytest.raises(ValueError, match=r"at least 1; got 0"):
        ByteTokenizer(0)
    with pytest.raises(ValueError, match=r"list of captions.*'a dog'"):
        ByteTokenizer(8).encode("a dog")


def test_decode_inverts_encode():
    captions = ["two dogs, 走る", "", "red disk"]
    assert ByteTokenizer(64).decode(ByteTokenizer(64).encode(captions)) == captions
