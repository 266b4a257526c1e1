"""What the fields of a config may hold: one line per field says its kind, its default and what it is for.

    FIELDS = {
        "sigma": Field(number(above=0), "standard deviation of a blob, in pixels", 10.0),
        "colors": Field(choice("any", "7", "26"), "pool of the blobs' colours"),          # has to be given
    }

`read` checks what somebody wrote against such a table and returns it with the defaults filled in, so that the code
behind it reads `config.sigma` and asks nothing again. `sections` holds the tables of everything but the methods, which
declare their own beside their code.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class SchemaError(ValueError):
    """Say in one line which field is wrong, what it holds, and what was expected."""


class Kind(NamedTuple):
    """A kind of value: what is expected, in words, and a function that returns the value or raises ValueError."""

    expected: str
    read: Callable[[Any], Any]


REQUIRED = object()
"""The default of a field that has none."""


class Field(NamedTuple):
    """One field: its kind, what it is for in a few words, and its default, unless it has to be given."""

    kind: Kind
    about: str
    default: Any = REQUIRED


Table = Mapping[str, Field]
Bound = int | float | None


def read(given: Any, table: Table, where: str, section: str = "") -> dict[str, Any]:
    """Check the fields of a section and fill in the defaults.

    Args:
        given: what somebody wrote. table: the fields that there are. where: whose config it is, for messages.
        section: its name, for messages; empty for the top level.

    Returns:
        All fields in the table's order, each as its kind reads it: tuples for lists, 1.0 for a number written 1.

    Raises:
        SchemaError: for a field that is not in the table, is missing or holds something else.
    """
    name = f"section {section!r}" if section else "the top level"
    before, dotted = f"{where}: " if where else "", f"{section}." if section else ""
    if not isinstance(given, Mapping):
        raise SchemaError(f"{before}{name} is {shown(given)}, expected fields: {', '.join(table)}")
    for word in given:
        if word not in table:
            close = difflib.get_close_matches(str(word), table, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SchemaError(f"{before}unknown field {shown(f'{dotted}{word}')}; {hint}there are {', '.join(table)}")
    missing = [f"{dotted}{word}" for word, field in table.items() if field.default is REQUIRED and word not in given]
    if missing:
        raise SchemaError(f"{where or name} lacks {', '.join(missing)}; configs/ holds working examples")
    return {
        word: read_value(given[word], field.kind, f"{before}{dotted}{word}") if word in given else field.default
        for word, field in table.items()
    }


def read_value(value: Any, kind: Kind, name: str) -> Any:
    """Return a value as its kind reads it. Raises SchemaError saying what `name` is and what was expected."""
    try:
        return kind.read(value)
    except SchemaError as error:  # of a field inside it
        raise SchemaError(f"{name}: {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SchemaError(f"{name} is {shown(value)}, expected {kind.expected}") from error


def describe(table: Table) -> list[str]:
    """Write a table in lines for a person: field, what is expected, what for, and the default."""
    ends = {name: "" if f.default is REQUIRED else f" [{shown(f.default)}]" for name, f in table.items()}
    return [f"{name}: {field.about} ({field.kind.expected}){ends[name]}" for name, field in table.items()]


def whole(least: int = 0, most: int = 2**31 - 1) -> Kind:
    """Describe a whole number, which may be written as 4.0."""

    def integer(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError
        if value != int(value):
            raise ValueError
        return int(value)

    end = f"of at least {least}" if most == 2**31 - 1 else f"from {least} to {most}"
    return Kind(f"a whole number {end}", integer)


def number(least: Bound = None, most: Bound = None, above: Bound = None, below: Bound = None) -> Kind:
    """Describe a finite number: from `least` to `most`, above `above` and below `below`, where they are given."""
    bounds = [("at least", least), ("at most", most), ("above", above), ("below", below)]
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    def finite(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        value = float(value)
        fits = (
            math.isfinite(value)
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not fits:
            raise ValueError
        return value

    return Kind(f"a number {words}".rstrip(), finite)


def exactly(kind: type, expected: str) -> Kind:
    """Describe a value of one of Python's types."""

    def same(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return Kind(expected, same)


flag = exactly(bool, "True or False")
text = exactly(str, "a text")


def choice(*names: Any) -> Kind:
    """Describe one of a few values. True is no 1 here, though Python holds them for equal."""

    def chosen(value: Any) -> Any:
        for name in names:
            if type(name) is type(value) and name == value:
                return name
        raise ValueError

    return Kind(f"one of {', '.join(str(name) for name in names)}", chosen)


def either(*kinds: Kind) -> Kind:
    """Describe a value of one of several kinds; the first that reads it counts."""

    def first(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.read(value)
            except (ValueError, TypeError, OverflowError):
                continue
        raise ValueError

    return Kind(" or ".join(kind.expected for kind in kinds), first)


nothing = exactly(type(None), "None")


def optional(kind: Kind) -> Kind:
    """Describe a value that may be left open with None."""
    return either(kind, nothing)


def several(kind: Kind, count: int | None = None, least: int = 0, most: int = 1000) -> Kind:
    """Describe a list or tuple, of `count` values where it is given, else `least` to `most`; read as a tuple."""

    def row(value: Any) -> tuple:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise ValueError
        if count is not None and len(value) != count:
            raise ValueError
        return tuple(kind.read(each) for each in value)

    size = f"{count} values" if count is not None else f"at least {least} values" if least else "values"
    return Kind(f"a list of {size}, each {kind.expected}", row)


def fields(table: Table, fill: bool = True) -> Kind:
    """Describe a section in a section; without `fill` it stays as given, only checked."""

    def section(value: Any) -> dict[str, Any]:
        complete = read(value, table, "")
        return complete if fill else {name: complete[name] for name in value}

    return Kind(f"fields {', '.join(table)}", section)


def plain(depth: int = 8) -> Kind:
    """Describe anything that json holds, at most `depth` levels deep."""

    def value(given: Any, left: int = depth) -> Any:
        if left < 0:
            raise ValueError
        if isinstance(given, Mapping):
            return {str(name): value(each, left - 1) for name, each in given.items()}
        if isinstance(given, list | tuple):
            return tuple(value(each, left - 1) for each in given)
        if given is not None and not isinstance(given, str | int | float | bool):
            raise ValueError
        return given

    return Kind(f"anything that json holds, at most {depth} levels deep", value)


def shown(value: Any) -> str:
    """Write a value in a few words: nothing long or deep, whatever it is."""
    words = reprlib.Repr()
    words.maxlevel, words.maxstring, words.maxother = 2, 60, 60
    return " ".join(words.repr(value).split())[:100]
