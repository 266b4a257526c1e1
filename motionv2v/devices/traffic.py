"""Read out of a compiled program what its devices send each other: the collectives of XLA's text, loops multiplied out.

A collective inside a loop of 42 layers happens 42 times. Loops say how often they run in one of two ways: a
`known_trip_count` beside the loop, or, on TPUs, the constant that the loop's condition compares its counter with.
"""

import re
from collections import Counter
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.\-]+ = (.+)$")
_OPERATION = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?[:=]"?(\d+)')
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


class Traffic(NamedTuple):
    """How often a kind of collective runs in one execution, and the bytes that it leaves on each device in all."""

    count: int
    bytes: int


def traffic(text: str) -> dict[str, Traffic]:
    """Count the collectives of a compiled program.

    Args:
        text: the program as XLA writes it (`jax.stages.Compiled.as_text`), after partitioning.

    Returns:
        Per kind of `KINDS` that occurs, executions and bytes of results on one device. On TPUs a reduction of which
        each device keeps its part is an all-reduce in a computation of its own; it counts as reduce-scatter.
    """
    bodies, entry = _computations(text)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            found = _OPERATION.search(line)
            if found:
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else found[1]
                counts[kind] += times
                sizes[kind] += times * _result_bytes(line[: found.start()], is_started=found[2] is not None)
            loop = _WHILE.search(line)
            if loop:
                visit(loop[2], times * _trips(line, bodies.get(loop[1], ())))
                continue
            branches = _BRANCHES.search(line)
            called = re.findall(r"[\w.\-]+", branches[1]) if branches else _CALLED.findall(line)
            for other in called:
                visit(other, times)

    visit(entry, 1)
    return {kind: Traffic(counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Split the text into computations, {name: right-hand sides of instructions}, and find the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = header[1]
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction and current:
            # The leading "= " is what constants are recognised by.
            bodies[current].append("= " + instruction[1])
    return bodies, entry


def _trips(loop: str, condition: list[str]) -> int:
    known = _TRIPS.search(loop)
    bounds = [int(n) for line in condition for n in _CONSTANT.findall(line)]
    return int(known[1]) if known else max(bounds, default=1)


def _result_bytes(types: str, is_started: bool) -> int:
    """Add up the arrays of a result; a started one holds its argument beside its result, of which the larger counts."""
    sizes = []
    for dtype, shape in _ARRAY.findall(types):
        size = _BYTES.get(dtype, 4)
        for length in filter(None, shape.split(",")):
            size *= int(length)
        sizes.append(size)
    return max(sizes, default=0) if is_started else sum(sizes)
