"""Read the values of a config.json of diffusers or transformers, and refuse those that our modules cannot follow."""

from collections.abc import Mapping, Sequence
from typing import Any

from motionv2v.convert.tensors import ConvertError


def read(
    config: Mapping[str, Any], defaults: Mapping[str, Any], supported: Mapping[str, Sequence[Any]], where: str
) -> dict[str, Any]:
    """Return a config's values, with the peer's defaults for those left out.

    Args:
        config: as in the file. defaults: every key that is read, with the value the peer takes without it.
        supported: for some keys the values that we can follow. where: what the config is of, for messages.

    Raises:
        ConvertError: for a value that is not supported.
    """
    values = {name: config.get(name, default) for name, default in defaults.items()}
    for name, choices in supported.items():
        if values[name] not in choices:
            raise ConvertError(
                f"{where}: {name} is {values[name]!r}; supported: {' or '.join(repr(choice) for choice in choices)}"
            )
    return values


def refuse_unknown(config: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise a ConvertError for a setting that we have never heard of, unless it is off or a note ("_class_name").

    A newer diffusers may add settings that change what a model computes.
    """
    unknown = [
        name for name, value in config.items() if name not in known and not name.startswith("_") and value is not None
        and value is not False
    ]  # fmt: skip
    if unknown:
        raise ConvertError(
            f"{where}: unknown setting {unknown[0]} = {config[unknown[0]]!r}; known: {', '.join(sorted(known))}"
        )


def whole_number(value: Any, name: str, where: str) -> int:
    """Return a positive whole number, also where it is written as 4.0. Raises ConvertError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise ConvertError(f"{where}: {name} is {value!r}; expected a whole number of at least 1")
    return int(value)


def positive(value: Any, name: str, where: str) -> float:
    """Return a number above 0. Raises ConvertError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConvertError(f"{where}: {name} is {value!r}; expected a number above 0")
    return float(value)
