"""What launchers share: the set-up, and reading a command line with a config, with what is wrong told in one line."""

import re
import sys
from collections.abc import Callable

from absl import flags, logging

from motionv2v import compiled, room


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
        # The fields of a config are flags too; ml_collections names the part of the path that is not there.
        unknown, *similar = re.findall(r"[\w.]+", str(error.args[0]).replace("\\n", " ").replace("Did you mean", ""))
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"the config has no field {unknown!r}{hint}") from None
    except (ValueError, OSError, TypeError, flags.Error) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return rest


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


def start() -> None:
    """Set up a launcher that computes: quiet libraries, kept programs (`compiled`), all of a GPU's memory."""
    logging.set_verbosity(logging.DEBUG if logging.level_debug() else logging.WARNING)
    room.claim()
    compiled.use_cache()


def _names() -> str:
    own = flags.FLAGS.get_flags_for_module(sys.argv[0]) or flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return ", ".join(sorted(f"--{flag.name}" for flag in own if "." not in flag.name))
