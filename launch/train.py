"""Train: python launch/train.py --config=configs/motionv2v_tiny.py --workdir=runs/motionv2v_tiny

The same command continues a run that was stopped or killed. Fields of the config change on the command line:
--config.train.steps=1000. Bad input ends in one line and exit code 2; --verbosity=1 shows the traceback.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from motionv2v import train

# Configs import each other as `configs.*`, from wherever this is started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONFIG = config_flags.DEFINE_config_file("config", help_string="the experiment, such as configs/motionv2v_tiny.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<config name>")


def fail(error: Exception) -> None:
    if logging.level_debug():
        raise error
    print(f"train: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}; flags are --config, --workdir and --config.FIELD=VALUE")
        if not flags.FLAGS["config"].present:
            raise ValueError("--config is missing, expected a config file such as configs/motionv2v_tiny.py")
        CONFIG.value  # noqa: B018  (a config file that cannot be read shows when it is first looked at)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        fail(error)
    return rest


def main(argv: list[str]) -> None:
    del argv
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        train.train(CONFIG.value, WORKDIR.value or f"runs/{name}")
    except (ValueError, OSError, train.DivergedError) as error:
        fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
