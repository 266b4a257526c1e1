"""Random weights of the networks of FVD and FID, as their files name them."""

import math

import numpy as np

from motionv2v import parameters
from motionv2v.convert import i3d, inception


def random_leaves(shapes, seed=0):
    """Draw parameters by their paths, scaled so that features neither vanish nor explode; variances are positive."""
    rng, found = np.random.default_rng(seed), {}
    for path, shape in shapes.items():
        kind = path.rpartition("/")[2]
        if kind == "kernel":
            drawn = rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[:-1]))
        elif kind in ("var", "moving_variance", "scale"):
            drawn = rng.uniform(0.5, 1.5, shape)
        else:
            drawn = rng.normal(size=shape) * 0.1
        found[path] = drawn.astype(np.float32)
    return found


def i3d_leaves(seed=0):
    return random_leaves(i3d.i3d.parameter_shapes(), seed)


def i3d_state(layout, leaves):
    """Name I3D's parameters as a layout of `convert.i3d` does; gains are 1, and counts of batches are there."""
    found = {}
    for rule in i3d.rules(layout):
        if rule.target:
            found[rule.source] = np.ascontiguousarray(rule.op.save(leaves[rule.target]))
        else:
            found[rule.source] = np.ones_like(
                found[rule.source.rpartition(".")[0].rpartition(".")[0] + ".conv3d.weight"][:, 0, 0, 0, 0]
            )
            found[rule.source.removesuffix("weight") + "num_batches_tracked"] = np.array(3, np.int64)
    return found


def magvit_tree(leaves):
    return {"params": parameters.unflatten(leaves)}


def inception_leaves(seed=0):
    return random_leaves(inception.inception.parameter_shapes(), seed)


def inception_state(leaves):
    """Name the parameters of Inception as the published file does, with its classifier."""
    found = {rule.source: np.ascontiguousarray(rule.op.save(leaves[rule.target])) for rule in inception.rules()}
    found |= {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}
    return found | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(3, np.int64)}
