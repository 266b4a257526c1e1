"""CLIP of random weights, in transformers' and in OpenAI's layout, small enough to run in a moment."""

import math

import numpy as np

from motionv2v.convert import contrastive
from motionv2v.convert.rules import expand
from motionv2v.models.features import byte_pairs, clip

TINY = clip.Sizes(patch=16, width=64, depth=2, text_width=64, text_depth=1, features=32, side=32, vocabulary=49408)


def random_arrays(sizes=TINY, seed=0):
    """Draw {transformers' name: array}, scaled so that features neither vanish nor explode."""
    rng, shapes, found = np.random.default_rng(seed), clip.parameter_shapes(sizes), {}
    for step in expand(contrastive.rules(sizes)):
        shape = shapes[step.target] if step.index is None else shapes[step.target][1:]
        drawn = rng.normal(size=shape) * (1 if len(shape) < 2 else math.sqrt(1 / math.prod(shape[:-1])))
        found[step.source] = np.ascontiguousarray(step.rule.op.save(drawn.astype(np.float32)))
    return found | {"logit_scale": np.float32([1])}


def as_openai(arrays):
    """Give arrays OpenAI's names: attention's three matrices are one, and projections are the other way round."""
    found = {}
    for name, array in arrays.items():
        part = "visual." if name.startswith(("vision_model", "visual_")) else ""
        name = name.removeprefix("vision_model.").removeprefix("text_model.")
        if name.endswith("_projection.weight"):
            found["visual.proj" if part else "text_projection"] = np.ascontiguousarray(array.T)
        elif "self_attn." in name and "out_proj" not in name:
            block = name.split(".")[2]
            joined = f"{part}transformer.resblocks.{block}.attn.in_proj_{name.rpartition('.')[2]}"
            found.setdefault(joined, {})["qkv".index(name.split(".")[4][0])] = array
        else:
            found[part + _renamed(name)] = array
    joined = {name: np.concatenate([x[i] for i in range(3)]) for name, x in found.items() if isinstance(x, dict)}
    return found | joined | {"context_length": np.array(77, np.int64)}


def _renamed(name):
    for there, here in (
        ("encoder.layers.", "transformer.resblocks."),
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("embeddings.patch_embedding", "conv1"),
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.token_embedding", "token_embedding"),
        ("pre_layrnorm", "ln_pre"),
        ("post_layernorm", "ln_post"),
        ("final_layer_norm", "ln_final"),
    ):
        name = name.replace(there, here)
    return name


def vocabulary():
    """A vocabulary of as many pairs as CLIP's, none of which joins what a text holds: every byte is a token."""
    return byte_pairs.BytePairs([(f"\u2603{rank}", "\u2603") for rank in range(byte_pairs.NUM_MERGES)])
