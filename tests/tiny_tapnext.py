"""A TAPNext of a few thousand parameters with random weights, for the tests of the network and of the tracker."""

import math

import numpy as np
from flax.traverse_util import unflatten_dict

from motionv2v.models.tapnext.network import parameter_shapes

SIZES = dict(
    image_size=32,
    patch_size=8,
    width=24,
    depth=2,
    num_heads=3,
    mlp_dim=40,
    lru_width=20,
    lru_blocks=5,
    conv_width=4,
    head_dim=16,
)
"""No two of those that could be taken for one another are equal."""


def weights(seed, module, sharpness=6.0):
    """Random weights by path, none of them at 0 or 1: a bias or a scale that is not used would show.

    `sharpness` makes peaks of the logits, so that points lie in different places and some can be seen.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    for path, shape in parameter_shapes(module).items():
        name = path.split("/")[-1]
        if name == "kernel":
            scale = (shape[0] if path.split("/")[-2] in ("query", "key", "value") else math.prod(shape[:-1])) ** -0.5
        else:
            scale = shape[-2] ** -0.5 if name == "w" else 1.0 if "token" in name else 0.2
        scale *= sharpness if path.endswith("layers_6/kernel") else 1.0
        offset = 1.0 if name == "scale" and "pre_norm" not in path else 0.0
        drawn[path] = (offset + scale * rng.normal(size=shape)).astype(np.float32)
    drawn["visible_head/layers_6/bias"] += 9  # some points in sight, some not
    return drawn


def tree(drawn):
    return unflatten_dict(drawn, sep="/")
