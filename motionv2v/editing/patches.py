"""What changed between two states of a json record, so that many states can be kept for little more than one.

A patch is json itself: {"set": value} puts another value in the place; {"in": {name: patch}, "gone": [names]} changes
an object; {"at": {index: patch}} changes elements of a list, and {"cut": [first, number, elements]} puts elements in
the place of a number of others. What is the same in both states is the same object in them.
"""

from typing import Any


def diff(old: Any, new: Any) -> dict[str, Any] | None:
    """Return the patch that makes `new` of `old`, or None where they are equal. Names of objects keep their order."""
    if old is new or old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        kept = [name for name in old if name in new]
        if [*kept, *(name for name in new if name not in old)] != list(new):
            return {"set": new}
        inside = {name: diff(old[name], value) if name in old else {"set": value} for name, value in new.items()}
        made: dict[str, Any] = {"in": {name: patch for name, patch in inside.items() if patch is not None}}
        return made | ({"gone": [name for name in old if name not in new]} if len(kept) < len(old) else {})
    if isinstance(old, list) and isinstance(new, list):
        if len(old) == len(new):
            pairs = enumerate(zip(old, new, strict=True))
            return {"at": {str(place): patch for place, pair in pairs if (patch := diff(*pair)) is not None}}
        first = _same(old, new)
        last = min(_same(old[::-1], new[::-1]), min(len(old), len(new)) - first)
        return {"cut": [first, len(old) - first - last, new[first : len(new) - last]]}
    return {"set": new}


def _same(old: list[Any], new: list[Any]) -> int:
    """Count the elements that both begin with."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))


def apply(old: Any, patch: dict[str, Any] | None) -> Any:
    """Return what a patch makes of `old`, which stays as it is.

    Raises ValueError, KeyError, TypeError, IndexError or AttributeError for a patch of another record.
    """
    if patch is None:
        return old
    if "set" in patch:
        return patch["set"]
    if "in" in patch:
        gone = set(patch.get("gone", ()))
        made = {name: value for name, value in old.items() if name not in gone}
        return made | {name: apply(old.get(name), each) for name, each in patch["in"].items()}
    if "at" in patch:
        made = list(old)
        for place, each in patch["at"].items():
            made[int(place)] = apply(made[int(place)], each)
        return made
    first, number, elements = patch["cut"]
    return [*old[:first], *elements, *old[first + number :]]
