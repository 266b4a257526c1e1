"""The vocabulary in a pipeline's tokenizer folder: spiece.model as published, or tokenizer.json as transformers writes.

transformers 5 writes a T5 tokenizer as tokenizer.json alone: the same pieces, scores and table of character changes in
another container. `from_json` puts them back into sentencepiece's.
"""

import base64
import json
from collections.abc import Mapping

from sentencepiece import sentencepiece_model_pb2

from motionv2v.convert.files import ConvertError
from motionv2v.tokenizer import SPIECE, ByteTokenizer, SentencePieceTokenizer, Tokenizer

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
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    proto = sentencepiece_model_pb2.ModelProto()
    for i, (piece, score) in enumerate(vocab):
        if piece.startswith("<extra_id_"):
            continue  # beyond the vocabulary, not of it
        kind = kinds.CONTROL if piece in ("<pad>", "</s>") else kinds.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kinds.UNKNOWN if i == model["unk_id"] else kind)
    places = {piece: i for i, (piece, _) in enumerate(vocab)}
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.trainer_spec.unk_id = model["unk_id"]
    proto.trainer_spec.pad_id = places.get("<pad>", -1)
    proto.trainer_spec.eos_id = places.get("</s>", -1)
    proto.trainer_spec.bos_id = -1
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(normalizer.get("precompiled_charsmap", ""))
    # T5's settings, which the other container states as steps before the model.
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = True
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString()


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
