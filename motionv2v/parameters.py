"""Parameters of a model by their paths: flatten and nest, split by a table of patterns, join, count.

A parameter's path is its keys joined by "/", as in "dit/control/zero_in/kernel". A table is a sequence of `(pattern,
options)`; the first pattern that matches the *whole* path (re.fullmatch) decides, and options of None freeze the
parameter. What the other options mean is the optimizer's business (`training.optimizer`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

from motionv2v.typing import PyTree

ScheduleTable = Sequence[tuple[str, Mapping[str, Any] | None]]
"""(pattern, options or None) in order of precedence; lists are welcome, as a config read from json has them."""


def flatten(params: PyTree) -> dict[str, Any]:
    """Flatten nested dicts into {"a/b/c": leaf}, in sorted order of paths."""
    return dict(sorted(traverse_util.flatten_dict(params, sep="/").items()))


def unflatten(flat: dict[str, Any]) -> PyTree:
    """Nest {"a/b/c": leaf} into dicts, the inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def assign(params: PyTree, table: ScheduleTable, strict: bool = True) -> dict[str, int]:
    """Find for every parameter path the index of the first pattern that matches it.

    ValueError names the uncovered paths; with `strict` also the patterns that decide nothing.
    """
    paths = list(flatten(params))
    compiled = [_compile(pattern) for pattern, _ in table]
    owner = {path: next((i for i, p in enumerate(compiled) if p.fullmatch(path)), None) for path in paths}
    uncovered = [path for path, i in owner.items() if i is None]
    if uncovered:
        raise ValueError(
            f"no pattern of the schedule covers {len(uncovered)} of {len(paths)} parameters: {_some(uncovered)};"
            f" patterns are {_some([p for p, _ in table])} (None freezes)"
        )
    used = set(owner.values())
    for i, (pattern, _) in enumerate(table):
        if strict and i not in used:
            hidden = any(compiled[i].fullmatch(path) for path in paths)
            why = "matches only what earlier patterns took" if hidden else "matches no parameter"
            raise ValueError(f"schedule pattern {pattern!r} {why}; parameters are {_some(paths)}")
    return owner


def partition(params: PyTree, table: ScheduleTable) -> tuple[PyTree, PyTree]:
    """Split nested params into (trainable, frozen), two nested dicts without empty branches.

    ValueError as `assign`, and when nothing is left to train.
    """
    flat, owner = flatten(params), assign(params, table)
    trainable = {path: leaf for path, leaf in flat.items() if table[owner[path]][1] is not None}
    frozen = {path: leaf for path, leaf in flat.items() if table[owner[path]][1] is None}
    if not trainable:
        raise ValueError(f"the schedule freezes every parameter: {_some([p for p, _ in table])}")
    return unflatten(trainable), unflatten(frozen)


def merge(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Join two nested dicts with disjoint paths into one, the inverse of `partition`.

    ValueError names a path that both have.
    """
    a, b = flatten(trainable), flatten(frozen)
    both = sorted(set(a) & set(b))
    if both:
        raise ValueError(f"parameters are in both trees: {_some(both)}")
    return unflatten({**a, **b})


def count(params: PyTree) -> int:
    """Count the numbers in all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"schedule pattern {pattern!r} is not a regular expression: {error}") from error


def _some(names: Sequence[str], limit: int = 8) -> str:
    """Join names for an error line, at most `limit` of them."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
