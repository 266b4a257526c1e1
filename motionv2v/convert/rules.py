"""How one name and layout becomes the other: a table of rules per model, read in both directions.

A rule ties one tensor of a torch state dict to one leaf of our tree. `{i}` in a rule's names counts layers: torch keeps
one tensor per layer, our tree one leaf with the layers stacked on its first axis. Names of our leaves are paths
joined by "/".
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Op(NamedTuple):
    """A change of layout without change of values: `load` from torch to ours, `save` back; both take one layer."""

    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """One tensor there, one leaf here.

    Attributes:
        source: torch's name. target: path of our leaf; "" for a tensor that carries nothing we need (it is read over on
            the way in, and `fill` makes it again on the way out).
        op: change of layout. depth: number of layers, when the names hold `{i}`.
        fill: for a rule without target, makes the tensor for `save` from {path of leaf: array}.
    """

    source: str
    target: str
    op: Op
    depth: int = 0
    fill: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None


class Step(NamedTuple):
    """A rule applied to one layer: `index` is its place in the stack, None for a leaf that is not stacked."""

    source: str
    target: str
    index: int | None
    rule: Rule


SAME = Op(lambda x: x, lambda x: x)
TRANSPOSE = Op(np.transpose, np.transpose)
"""A Linear's weight: torch [out in], ours [in out]."""


def conv(kernel: int) -> Op:
    """Return the change for a convolution's weight with `kernel` spatial axes: [out in *k] there, [*k in out] here."""
    there, here = (*range(2, kernel + 2), 1, 0), (kernel + 1, kernel, *range(kernel))
    return Op(lambda x: x.transpose(there), lambda x: x.transpose(here))


def point_conv(kernel: int) -> Op:
    """Return the change for a convolution whose kernel is 1 along `kernel` axes: [out in 1..1] there, [in out] here."""
    return Op(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T.reshape(*x.T.shape, *[1] * kernel))


def linear(source: str, target: str, depth: int = 0) -> list[Rule]:
    """Return the rules of a Linear layer with bias: weight and bias there, kernel and bias here."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", TRANSPOSE, depth),
        Rule(f"{source}.bias", f"{target}/bias", SAME, depth),
    ]


def norm(source: str, target: str, depth: int = 0) -> list[Rule]:
    """Return the rules of a norm with gain and shift: weight and bias there, scale and bias here."""
    return [
        Rule(f"{source}.weight", f"{target}/scale", SAME, depth),
        Rule(f"{source}.bias", f"{target}/bias", SAME, depth),
    ]


def expand(rules: Sequence[Rule]) -> Iterator[Step]:
    """Write out the rules layer by layer."""
    for rule in rules:
        if "{i}" not in rule.source:
            yield Step(rule.source, rule.target, None, rule)
            continue
        for i in range(rule.depth):
            yield Step(rule.source.format(i=i), rule.target, i, rule)
