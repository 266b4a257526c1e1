"""What launchers share: the set-up, and reading a command line with a config, with what is wrong told in one line."""

import json
import re
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from absl import flags, logging

from motionv2v import files


def expected() -> tuple[type[BaseException], ...]:
    """Return what a launcher tells in one line (`line`): mistakes of a person, and what a device or the host refuses.

    The device's errors are jax's, and there are none where nothing has loaded it.
    """
    return (ValueError, OSError, MemoryError, *_device_errors())


def _device_errors() -> tuple[type[BaseException], ...]:
    return (sys.modules["jax"].errors.JaxRuntimeError,) if "jax" in sys.modules else ()


def read_flags(argv: list[str], needs_config: bool = True) -> list[str]:
    """Parse the command line, and read the config file that `--config` names.

    Returns:
        argv without the flags, as `absl.app.run` hands it to main: the program's name alone.

    Raises:
        ValueError: for flags or fields that there are not, values that cannot be read, further words, and a config that
            is missing or cannot be read, in one line.
    """
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}; flags are {_names()} and --config.FIELD=VALUE")
        if flags.FLAGS["config"].present:
            flags.FLAGS["config"].value  # noqa: B018  (a file that cannot be read shows when it is first looked at)
        elif needs_config:
            raise ValueError("--config is missing, expected a file such as configs/motionv2v_tiny.py")
    except (AttributeError, KeyError) as error:
        raise ValueError(_explain(str(error.args[0] if error.args else error))) from error
    except (ValueError, OSError, TypeError, flags.Error) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return rest


def _explain(text: str) -> str:
    """Turn what ml_collections says of a field that is not there, its name in quotes, into a sentence."""
    text = text.replace("\\n", " ").replace("\\", "")
    found = re.fullmatch(r"\W*'?(\w+)'?\s*(?:Did you mean \"(\w+)\" .*)?\W*", text, re.DOTALL)
    if found is None:
        return " ".join(text.split())
    return f"the config has no field {found[1]!r}{f'; did you mean {found[2]!r}?' if found[2] else ''}"


def parser(name: str, needs_config: bool = True) -> Callable[[list[str]], list[str]]:
    """Build the `flags_parser` of `absl.app.run` for a launcher: `read_flags`, or one line and exit code 2."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return read_flags(argv, needs_config)
        except ValueError as error:
            if logging.level_debug():
                raise
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(2)

    return parse


def is_given(name: str) -> bool:
    """Tell whether a flag, or a field as "config.data.latents", stands on the command line."""
    return name in flags.FLAGS and flags.FLAGS[name].present > 0


def check_given(what: str, taken: Collection[str]) -> None:
    """Raise ValueError, in a line, where a launcher's own flag is given that what it shall do does not take.

    `taken` are the names of those that it does.
    """
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    if idle := sorted(name for name in own - {*taken} if is_given(name)):
        told = f"; its flags are {', '.join(f'--{name}' for name in taken)}"
        raise ValueError(f"{what} takes no --{idle[0]}, which would do nothing{told}")


def line(error: BaseException) -> str:
    """Say in one line what was wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"this machine's memory is full ({text or 'no more to be had'}); shorter or smaller clips need less"
    if not isinstance(error, _device_errors()):
        return text
    if "RESOURCE_EXHAUSTED" in text:
        advice = "smaller batches, fewer frames or pixels, or more devices need less (see the line on memory above)"
        return f"a device ran out of memory: {text[:200]}; {advice}"
    return f"{text[:300]}; --verbosity=1 shows where"


def refuse(name: str, error: BaseException) -> NoReturn:
    """End a launcher with one line on what was wrong and exit code 2; --verbosity=1 raises the error instead."""
    if logging.level_debug():
        raise error
    print(f"{name}: {line(error)}", file=sys.stderr)
    sys.exit(2)


def check_places(folder: str | None, file: str | None) -> None:
    """Check what flags name for results, where they do, before any work is done; raise ValueError as `files` does."""
    if folder is not None:
        files.check_place(folder, is_folder=True)
    if file is not None:
        files.check_place(file)


def write_json(path: str | None, content: Any) -> None:
    """Write what a flag asked for as a file, whole or not at all, and say so; nothing where no path is given."""
    if not path:
        return
    files.write(path, json.dumps(content, indent=2) + "\n")
    print(f"wrote {path}")


def start(with_jax: bool = True) -> None:
    """Set up a launcher that computes: quiet libraries, notices in a line.

    With jax, which takes seconds to load, also kept programs and all of a GPU's memory.
    """
    logging.set_verbosity(logging.DEBUG if logging.level_debug() else logging.WARNING)
    warnings.formatwarning = _notice
    if with_jax:
        from motionv2v.devices import fit, program_cache

        fit.claim()
        program_cache.use_cache()


def _notice(message: Warning | str, category: type[Warning], *_: object) -> str:
    """Write a warning without the place in the source that gives it."""
    kind = "notice" if category is UserWarning else category.__name__
    return f"{kind}  {' '.join(str(message).split())}\n"


def _names() -> str:
    own = flags.FLAGS.get_flags_for_module(sys.argv[0]) or flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return ", ".join(sorted(f"--{flag.name}" for flag in own if "." not in flag.name))
