"""The tokenizers: values, truncation, round trip. Against transformers: tests/parity."""

import numpy as np
import pytest
import sentencepiece

from motionv2v.data import tokenizer
from motionv2v.data.tokenizer import ByteTokenizer, SentencePieceTokenizer


def test_tokenizer_values():
    out = ByteTokenizer(6).encode(["ab", "", "é!"])
    np.testing.assert_array_equal(out, [[100, 101, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0xC3 + 3, 0xA9 + 3, 36, 1, 0, 0]])
    assert out.dtype == np.int32


def test_tokenizer_truncation_keeps_end():
    np.testing.assert_array_equal(ByteTokenizer(3).encode(["abcdef", "ab"], str), [[100, 101, 1], [100, 101, 1]])
    np.testing.assert_array_equal(ByteTokenizer(1).encode(["abc"], str), [[1]])


@pytest.mark.parametrize("length, caption, read", [
    (6, "abcdé", "abcd"),  # é is two bytes: five fit, and half of it would be the fifth
    (7, "abcdé", "abcdé"),
    (5, "走る", "走"),
    (3, "走る", ""),
    (4, "ab\u0915\u093f", "ab"),  # a letter and its vowel sign
    (12, "hi \U0001f469\u200d\U0001f680!", "hi "),  # two emoji that a joiner makes one: an astronaut
    (6, "x\U0001f44d\U0001f3fd", "x"),  # a thumb, and the colour of its skin
])  # fmt: skip
def test_captions_are_cut_between_characters_and_say_so(length, caption, read):
    notices = []
    tokens = ByteTokenizer(length).encode(["", caption], notices.append)
    assert ByteTokenizer(length).decode(tokens) == ["", read] and tokens.shape == (2, length)
    if read == caption:
        assert not notices
    else:
        (notice,) = notices
        assert f"the model reads {length - 1}: after {read!r} it does not read {caption[len(read) :]!r}" in notice


def test_a_cut_is_told_even_where_nobody_listens():
    with pytest.warns(
        UserWarning, match=r"a prompt of 6 tokens is cut.*after 'ab' it does not read 'cdef'; 1 more cap"
    ):
        ByteTokenizer(3).encode(["abcdef", "x", "ghi"])


def test_letters_that_look_the_same_are_the_same_bytes():
    ours = ByteTokenizer(8)
    np.testing.assert_array_equal(ours.encode(["cafe\u0301"]), ours.encode(["caf\u00e9"]))


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


def train(folder, **settings):
    """Train a small vocabulary in T5's form and return its path."""
    (folder / "text.txt").write_text("\n".join(["a red disk moves left", "two blue squares turn"] * 20))
    ids = {"bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2, "pad_piece": "<pad>"} | settings
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "spiece"),
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 50} | ids,
    )
    return folder / "spiece.model"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return train(tmp_path_factory.mktemp("spiece"))


def test_pieces_end_padding_and_truncation(vocabulary):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    captions = ["a red disk", "", "two  blue\nsquares"]
    out = SentencePieceTokenizer(vocabulary, 30).encode(captions)
    assert out.shape == (3, 30) and out.dtype == np.int32
    for row, caption in zip(out, captions, strict=True):
        ids = pieces.encode(caption)
        np.testing.assert_array_equal(row, [*ids, 1, *[0] * (29 - len(ids))])
    short = SentencePieceTokenizer(vocabulary, 3).encode(["a red disk moves left", ""], str)
    np.testing.assert_array_equal(short, [[*pieces.encode("a red disk")[:2], 1], [1, 0, 0]])
    np.testing.assert_array_equal(SentencePieceTokenizer(vocabulary, 1).encode(["a"], str), [[1]])


def test_pieces_are_cut_between_characters_and_say_so(vocabulary, tmp_path):
    notices = []
    short = SentencePieceTokenizer(vocabulary, 3).encode(["a red disk moves left", ""], notices.append)
    assert list(short[:, -1]) == [1, 0] and len(notices) == 1
    assert "the model reads 2: after " in notices[0] and "moves left'" in notices[0]
    spelling = SentencePieceTokenizer(train(tmp_path, byte_fallback=True, vocab_size=300), 30)
    whole = spelling.encode(["a 走る"])[0]
    assert spelling.decode(whole[None]) == ["a 走る"]
    end = int(np.flatnonzero(whole == 1)[0])  # the last three pieces before it are the bytes of the last character
    for missing in (1, 2, 3):
        cut = SentencePieceTokenizer(spelling.model, end + 1 - missing)
        assert cut.decode(cut.encode(["a 走る"], notices.append)) == ["a 走"]
    assert len(notices) == 4


def test_special_pieces_in_captions(vocabulary):
    """Written out in a caption they are one token each; extra ids count down from the end of the table."""
    ours = SentencePieceTokenizer(vocabulary, 20)
    size = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary)).vocab_size()
    assert ours.vocab_size == size + 100
    row = ours.encode(["<extra_id_0><extra_id_99></s><pad><unk>"])[0]
    np.testing.assert_array_equal(row[:6], [size + 99, size, 1, 0, 2, 1])
    assert ours.encode(["<extra_id_100>"])[0].max() < size, "there are only a hundred"
    assert ours.encode(["red <extra_id_3>"])[0].max() == size + 96


def test_pieces_round_trip(vocabulary):
    ours = SentencePieceTokenizer(vocabulary.read_bytes(), 64)
    captions = ["two blue disks turn", "", "a red square"]
    assert ours.decode(ours.encode(captions)) == captions
    assert ours.decode(ours.encode(["a red <extra_id_3> disk"])) == ["a red disk"]


def test_t5s_own_vocabulary(repository):
    path = repository.parent / "shared" / "tokenizer" / "spiece.model"
    if not path.is_file():
        pytest.skip(f"needs T5's vocabulary at {path}; put folder shared/tokenizer beside the repository to run it")
    ours = SentencePieceTokenizer(path, 8)
    assert ours.vocab_size == 32100
    # What transformers' T5Tokenizer gives.
    np.testing.assert_array_equal(
        ours.encode(["a dog runs", "A <extra_id_0> thing"]),
        [[3, 9, 1782, 3154, 1, 0, 0, 0], [71, 32099, 589, 1, *[0] * 4]],
    )


def test_choice_by_config(vocabulary):
    assert isinstance(tokenizer.make("bytes", 7), ByteTokenizer)
    made = tokenizer.make("sentencepiece", 7, vocabulary.parent)
    assert isinstance(made, SentencePieceTokenizer) and made.max_length == 7
    assert all(isinstance(t, tokenizer.Tokenizer) for t in (made, ByteTokenizer(3)))


def test_wrong_vocabularies_are_explained(vocabulary, tmp_path):
    for message, call in {
        "is 'words'; available: bytes, sentencepiece": lambda: tokenizer.make("words", 7),
        "needs the folder with the model's spiece.model": lambda: tokenizer.make("sentencepiece", 7),
        "no vocabulary at .*spiece.model: copy spiece.model": lambda: tokenizer.make("sentencepiece", 7, tmp_path),
        "no sentencepiece model": lambda: SentencePieceTokenizer(b"not a model", 7),
        "lacks <pad>, which T5's has": lambda: SentencePieceTokenizer(train(tmp_path, pad_id=-1), 7),
        "at least 1; got 0": lambda: SentencePieceTokenizer(vocabulary, 0),
        "list of captions.*'a dog'": lambda: SentencePieceTokenizer(vocabulary, 7).encode("a dog"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
