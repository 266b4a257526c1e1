"""transformers' T5EncoderModel, version 1.1: its config and the names of its tensors."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from motionv2v.convert import fields
from motionv2v.convert.rules import SAME, TRANSPOSE, Rule
from motionv2v.convert.tensors import ConvertError, Tensors
from motionv2v.models.text import T5Encoder

CLASS = "T5EncoderModel"

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "model_type": "t5",
}
_SUPPORTED = {"feed_forward_proj": ("gated-gelu",), "model_type": ("t5",)}

TABLES = ("shared.weight", "encoder.embed_tokens.weight")
"""The two names of the token table."""

_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "epsilon": "layer_norm_epsilon",
}
"""Our field -> the name in config.json."""


def from_config(config: Mapping[str, Any]) -> T5Encoder:
    """Build the module that a config.json describes. Raises ConvertError for values that are not supported."""
    values = fields.read(config, _DEFAULTS, _SUPPORTED, CLASS)
    sizes = {
        ours: fields.whole_number(values[theirs], theirs, CLASS)
        for ours, theirs in _FIELDS.items()
        if ours != "epsilon"
    }
    return T5Encoder(**sizes, epsilon=fields.positive(values[_FIELDS["epsilon"]], _FIELDS["epsilon"], CLASS))


def to_config(module: T5Encoder) -> dict[str, Any]:
    """Write the config.json of a module."""
    return {
        "architectures": [CLASS],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "use_cache": False,
        **{theirs: getattr(module, ours) for ours, theirs in _FIELDS.items()},
    }


def example(module: T5Encoder) -> tuple[Any, ...]:
    """Make the smallest input of a module, to learn its parameters' shapes."""
    return (jnp.zeros((1, 1), jnp.int32),)


def check_tables(tensors: Tensors) -> None:
    """Check that a file that holds the token table twice holds the same one. Raises ConvertError if not."""
    if all(name in tensors for name in TABLES) and not np.array_equal(*(tensors.read(name) for name in TABLES)):
        raise ConvertError(f"{tensors.where}: {' and '.join(TABLES)} differ; supported: one table under both names")


def rules(module: T5Encoder, names: Collection[str] = ()) -> list[Rule]:
    """List how transformers' tensors become our leaves.

    The token table has two names there, of which files hold one or both: `names` are those of the file.
    """
    table = TABLES
    if table[0] not in names and table[1] in names:
        table = table[::-1]
    attention, mlp = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
    position = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    linears = {f"{attention}.SelfAttention.{name}": name for name in "qkvo"}
    linears |= {
        f"{mlp}.DenseReluDense.{theirs}": ours
        for theirs, ours in (("wi_0", "mlp_gate"), ("wi_1", "mlp_up"), ("wo", "mlp_down"))
    }
    depth = module.num_layers
    return [
        Rule(table[0], "token_embed", SAME),
        Rule(table[1], "", SAME),  # transformers ties it to the first
        Rule(position, "position_bias", SAME),
        Rule(f"{attention}.layer_norm.weight", "blocks/attention_norm/scale", SAME, depth),
        *(Rule(f"{theirs}.weight", f"blocks/{ours}/kernel", TRANSPOSE, depth) for theirs, ours in linears.items()),
        Rule(f"{mlp}.layer_norm.weight", "blocks/mlp_norm/scale", SAME, depth),
        Rule("encoder.final_layer_norm.weight", "final_norm/scale", SAME),
    ]
