"""Prepare training data: python launch/prepare.py --stage=latents --config=configs/motionv2v_tiny.py --out=runs/latents

The latents stage draws synthetic pairs and encodes them once with the config's frozen VAE. Killed and started again it
goes on; asked for more samples it adds to what is there. Bad input ends in one line and exit code 2.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from motionv2v import prepare

# Config files import one another as `configs.common`; the package itself is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONFIG = config_flags.DEFINE_config_file("config", help_string="the experiment, such as configs/motionv2v_tiny.py")
STAGE = flags.DEFINE_enum("stage", "latents", ["latents"], "what to prepare")
OUT = flags.DEFINE_string("out", None, "folder to write; default: the config's data.latents")
NUM = flags.DEFINE_integer("num_samples", 16384, "pairs, rounded up to whole shards", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    out = OUT.value or CONFIG.value.data.get("latents") or f"runs/latents_{CONFIG.value.name}"
    try:
        folder = prepare.write_latents(CONFIG.value, out, NUM.value)
    except (ValueError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"prepare: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"latents are in {folder}; train with --config.data.latents={folder}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
