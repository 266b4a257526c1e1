"""The files that low-rank updates (LoRA) of CogVideoX's transformer come in: diffusers' and PEFT's layouts, read.

A file holds two matrices for each layer, named as the layer is: A [r in] ("lora_A", or "down") and B [out r] ("lora_B",
"up"). The scale of B A is alpha / r where an alpha is told: by `.alpha` beside the matrices, by PEFT's
adapter_config.json, or by the description that diffusers puts into the file's header; else 1, as diffusers'
CogVideoXPipeline.load_lora_weights takes it (diffusers 0.42, loaders/peft.py and utils/peft_utils.py). What is no part
of a Linear layer's update is refused with its name: what it does would be missing.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open

from motionv2v import checkpoints, files
from motionv2v.convert import pickled
from motionv2v.convert.tensors import DTYPES, ConvertError, Tensors, listing, read_json
from motionv2v.typing import Shaped

CONFIG = "adapter_config.json"
NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""Of the files in folders that diffusers and PEFT save."""
_OLDER = ("pytorch_lora_weights.bin", "adapter_model.bin")
_HEADER = "lora_adapter_metadata"
"""Under which diffusers describes an update in the header of its file."""
_PREFIXES = ("base_model.model.", "transformer.")
_EXAMPLE = "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"
_HALF = re.compile(
    r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?\.(?P<half>down|up)|\.lora_(?P<letter>[AB]|down|up))"
    r"(?:\.(?!weight)\w+)?\.weight"
)
"""A matrix's name, in every spelling there has been; between matrix and `weight` PEFT may name the adapter."""
_ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora)?\.alpha")
_HALVES = {"A": "down", "B": "up", "down": "down", "up": "up"}
_KINDS = {
    r"lora_magnitude_vector|dora_scale": "of DoRA, which scales whole rows too",
    r"\b(hada|lokr|oft|boft|ia3)_": "of another kind of update than LoRA",
    r"^text_encoder": "an update of the text encoder; that of the transformer alone is applied",
    r"\.bias$|\.diff_b$": "an update of a bias",
    r"^lora_(unet|transformer)_": "a name with its dots lost, as kohya's scripts write it",
}


class Layer(NamedTuple):
    """The update of one layer, scale * up @ down; numbers as they are stored.

    `down` [r in], or [r in row column] where diffusers has a convolution; `up` [out r].
    """

    down: Shaped[np.ndarray, "r ..."]
    up: Shaped[np.ndarray, "out r"]
    scale: float


class Update(NamedTuple):
    """All updates of a file.

    Attributes:
        file: its name. sha256: its checksum. layers: by diffusers' names, "transformer_blocks.0.attn1.to_q".
    """

    file: str
    sha256: str
    layers: dict[str, Layer]


def find(path: str | os.PathLike) -> Path:
    """Return the file that holds an update: `path` itself, or one of the usual names in that folder.

    Raises:
        ConvertError: when there is none, or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    found = [path / name for name in NAMES if (path / name).is_file()]
    found = found or [path / name for name in _OLDER if (path / name).is_file()]
    if len(found) != 1:
        raise ConvertError(
            f"{path} is no LoRA: expected a file, or a folder with one of {', '.join(NAMES)}; found {listing(path)}"
        )
    return found[0]


def read(path: str | os.PathLike) -> Update:
    """Read the low-rank updates of a transformer, as diffusers or PEFT save them.

    Args:
        path: a file of safetensors or of torch (read without running it), or a folder with one; adapter_config.json
            beside `adapter_model.*` is read with it.

    Raises:
        ConvertError: in one line, for a damaged file, a tensor that is no half of a Linear layer's update (DoRA, biases
            and text encoders among them), halves that do not belong together, and settings that are not supported.
    """
    path = find(path)
    tensors = pickled.open_state_dict(path)
    config = _settings(path)
    named: dict[str, dict[str, str]] = {}
    for name in tensors:
        layer, half = _parse(name, path)
        if named.setdefault(layer, {}).setdefault(half, name) != name:
            raise ConvertError(f"{path} has {half} of {layer} twice: {named[layer][half]} and {name}")
    if not named:
        raise ConvertError(f"{path} holds nothing, expected tensors such as {_EXAMPLE}")
    layers = {layer: _layer(tensors, layer, named[layer], config) for layer in sorted(named)}
    return Update(path.name, files.sha256(path), layers)


def _parse(name: str, path: Path) -> tuple[str, str]:
    """Tell a tensor's layer, by diffusers' name, and what it is of it: "down", "up" or "alpha"."""
    plain = name
    for prefix in _PREFIXES:
        plain = plain.removeprefix(prefix)
    found, kind = _HALF.fullmatch(plain), "alpha"
    if found:
        kind = _HALVES[found["half"] or found["letter"]]
    found = found or _ALPHA.fullmatch(plain)
    others = [words for pattern, words in _KINDS.items() if re.search(pattern, plain)]
    if others or not found:
        raise ConvertError(
            f"{path} holds {name}, {others[0] if others else 'which is no part of a low-rank update'}; expected "
            f"lora_A, lora_B and alpha of Linear layers, such as {_EXAMPLE}"
        )
    layer = found["layer"].replace(".processor.", ".")
    # Older files name the list that the output layer is in, not the layer.
    return layer + ".0" * layer.endswith(".to_out"), kind


def _layer(tensors: Tensors, layer: str, names: Mapping[str, str], config: Mapping[str, Any]) -> Layer:
    """Read the halves of a layer's update, and their scale."""
    where = f"{tensors.where}: {layer}"
    absent = [half for half in ("down", "up") if half not in names]
    if absent:
        raise ConvertError(f"{where} has {', '.join(names)} and no {' or '.join(absent)}: copy the file again")
    down, up = (tensors.read(names[half]) for half in ("down", "up"))
    if not {down.dtype, up.dtype} <= set(DTYPES.values()):
        raise ConvertError(f"{where} is of type {down.dtype} and {up.dtype}; supported: {', '.join(DTYPES)}")
    is_pair = down.ndim in (2, 4) and up.ndim == down.ndim and set(up.shape[2:]) <= {1}
    if not is_pair or up.shape[1] != len(down) or not len(down):
        raise ConvertError(
            f"{where} has halves {list(down.shape)} and {list(up.shape)}, expected [rank, in] and [out, rank]"
        )
    rank = len(down)
    told = _setting(config, "rank_pattern", "r", layer)
    if told not in (None, rank):
        raise ConvertError(f"{where} is of rank {rank}, its settings say {told}: they are of another file")
    alpha = _setting(config, "alpha_pattern", "lora_alpha", layer)
    if "alpha" in names:
        value = tensors.read(names["alpha"])
        if value.size != 1:
            raise ConvertError(f"{where} has an alpha of shape {list(value.shape)}, expected one number")
        alpha = float(value.reshape(()))
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return Layer(down, up.reshape(up.shape[:2]), 1.0 if alpha is None else alpha / divisor)


def _settings(path: Path) -> dict[str, Any]:
    """Read what is told about a file's update, beside it or in its header: PEFT's LoraConfig, or {}."""
    beside = path.with_name(CONFIG)
    if path.stem == "adapter_model" and beside.is_file():
        where, config = beside, read_json(beside)
    elif path.suffix == ".safetensors":
        where, config = path, _header(path)
    else:
        return {}
    if config.get("peft_type", "LORA") != "LORA":
        raise ConvertError(f"{where} has peft_type={config['peft_type']!r}; supported: 'LORA'")
    for key, plain in {"use_dora": False, "bias": "none", "lora_bias": False, "modules_to_save": None}.items():
        if config.get(key) and config[key] != plain:
            raise ConvertError(f"{where} has {key}={config[key]!r}; supported: {plain!r}")
    start = str(config.get("init_lora_weights"))
    if re.match("pissa|olora|loftq|corda", start):
        raise ConvertError(
            f"{where} has init_lora_weights={start!r}, which changes the base too: save it as plain LoRA"
        )
    return config


def _header(path: Path) -> dict[str, Any]:
    """Read diffusers' description of the transformer's update in a file's header."""
    with safe_open(path, framework="np") as file:
        text = (file.metadata() or {}).get(_HEADER, "{}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: {_HEADER} in its header is not json: {checkpoints.one_line(error)}") from error
    if not isinstance(found, dict):
        raise ConvertError(f"{path}: {_HEADER} in its header holds a {type(found).__name__}, expected an object")
    return {key.removeprefix("transformer."): value for key, value in found.items()}


def _setting(config: Mapping[str, Any], patterns: str, key: str, layer: str) -> float | int | None:
    """Look up a layer's rank or alpha: PEFT's patterns are regular expressions for the end of a name."""
    try:
        own = [v for end, v in (config.get(patterns) or {}).items() if re.fullmatch(rf"(.*\.)?({end})", layer)]
    except (re.error, AttributeError) as error:
        raise ConvertError(f"{patterns} of the LoRA is no table of names: {error}") from error
    value = own[0] if own else config.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not is_number:
        raise ConvertError(f"the LoRA has {key}={value!r} for {layer}; expected a number")
    return value
