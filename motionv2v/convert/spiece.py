"""The vocabulary in a pipeline's tokenizer folder: spiece.model as published, or tokenizer.json as transformers writes.

transformers 5 writes a T5 tokenizer as tokenizer.json alone: the same pieces, scores and table of character changes in
another container. `from_json` puts them back into sentencepiece's.
"""

import base64
import json
import struct
from collections.abc import Mapping

from motionv2v.convert.tensors import ConvertError
from motionv2v.data.tokenizer import SPIECE, ByteTokenizer, SentencePieceTokenizer, Tokenizer

JSON = "tokenizer.json"
CLASSES = {"T5Tokenizer": "sentencepiece", "T5TokenizerFast": "sentencepiece", "ByT5Tokenizer": "bytes"}
"""transformers' class -> our kind (`tokenizer.KINDS`)."""


def read(name: str, content: Mapping[str, bytes], max_length: int, where: str) -> Tokenizer:
    """Make the tokenizer of a pipeline.

    Args:
        name: transformers' class, as in model_index.json. content: {file name: bytes} of the tokenizer's folder.
        max_length: tokens per caption. where: the folder, for messages.

    Raises:
        ConvertError: for another class, or when the vocabulary is missing or not T5's.
    """
    if name not in CLASSES:
        raise ConvertError(f"tokenizer class {name!r} is not supported; supported: {', '.join(CLASSES)}")
    if CLASSES[name] == "bytes":
        return ByteTokenizer(max_length)
    if SPIECE not in content and JSON not in content:
        raise ConvertError(f"{where} holds {', '.join(sorted(content)) or 'nothing'}; expected {SPIECE} or {JSON}")
    try:
        model = content[SPIECE] if SPIECE in content else from_json(content[JSON])
        return SentencePieceTokenizer(model, max_length)
    except ValueError as error:
        raise ConvertError(f"{where}: {error}") from error


def from_json(content: bytes) -> bytes:
    """Turn a T5 tokenizer.json into the bytes of a spiece.model. Raises ConvertError when it is of another kind."""
    try:
        saved = json.loads(content)
        model, normalizer = saved["model"], saved["normalizer"] or {}
        vocab = [(str(piece), float(score)) for piece, score in model["vocab"]]
        if model["type"] != "Unigram" or normalizer.get("type", "Precompiled") != "Precompiled":
            raise ConvertError(
                f"{JSON} holds a {model['type']} model with {normalizer.get('type')} normalisation; supported: Unigram "
                "with Precompiled"
            )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConvertError):
            raise
        raise ConvertError(f"{JSON} is not a tokenizer of transformers: {error!r}") from error
    pieces = []
    for i, (piece, score) in enumerate(vocab):
        if piece.startswith("<extra_id_"):
            continue  # beyond the vocabulary, not of it
        kind = _UNKNOWN if i == model["unk_id"] else _CONTROL if piece in ("<pad>", "</s>") else _NORMAL
        pieces.append(_message({1: piece.encode(), 2: score, 3: kind}))
    places = {piece: i for i, (piece, _) in enumerate(vocab)}
    trainer = {3: _UNIGRAM, 4: len(pieces), 40: model["unk_id"], 41: -1}
    trainer |= {42: places.get("</s>", -1), 43: places.get("<pad>", -1)}
    # Dummy prefix, no extra blanks, escaped blanks: T5's settings, which the other container states as steps.
    charsmap = base64.b64decode(normalizer.get("precompiled_charsmap", ""))
    settings = {2: charsmap, 3: 1, 4: 1, 5: 1}
    head = b"".join(_message({1: piece}) for piece in pieces)
    return head + _message({2: _message(trainer), 3: _message(settings)})


_NORMAL, _UNKNOWN, _CONTROL, _UNIGRAM = 1, 2, 3, 1


def _message(fields: Mapping[int, bytes | float | int]) -> bytes:
    """Encode a protocol buffer by field numbers (sentencepiece_model.proto): ints, 32-bit floats and byte strings.

    sentencepiece's own generated classes are not used: they load only beside the newest protobuf, which other packages
    do not admit.
    """
    parts = []
    for number, value in fields.items():
        if isinstance(value, bytes):
            parts += [_varint(number << 3 | 2), _varint(len(value)), value]
        elif isinstance(value, float):
            parts += [_varint(number << 3 | 5), struct.pack("<f", value)]
        else:
            parts += [_varint(number << 3), _varint(value)]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits, lowest first; negative ones as 64-bit two's complement."""
    value %= 1 << 64
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def write(tokenizer: Tokenizer, end: str = "</s>") -> tuple[str, dict[str, bytes]]:
    """Return transformers' class for a tokenizer and {file name: bytes} of a folder that it loads from."""
    special = {"eos_token": end, "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {**special, "model_max_length": tokenizer.max_length}
    if isinstance(tokenizer, ByteTokenizer):
        name, files = "ByT5Tokenizer", {}
    else:
        name, files = "T5Tokenizer", {SPIECE: tokenizer.model}
        config["extra_ids"] = tokenizer.num_extra
    content = json.dumps({"tokenizer_class": name, **config}, indent=2) + "\n"
    return name, {**files, "tokenizer_config.json": content.encode()}
