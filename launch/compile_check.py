"""Compile for a machine that is not here: python launch/compile_check.py --config=configs/motionv2v_cogvideox_5b.py

--topology=v5p:4x4x8 names a TPU slice (needs libtpu, no TPU), h200:8 GPUs (jax's CUDA plugin, no GPU), cpu:512 as many
devices on this machine. Prints what each program needs of every device, see motionv2v/training/compile_check.py. Fields
of the config change on the command line: --config.mesh.fsdp=8. Bad input ends in one line and exit code 2;
--verbosity=1 shows the traceback.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from motionv2v import cli
from motionv2v.devices import memory, topologies
from motionv2v.training import compile_check

# Configs import each other as `configs.*`, from wherever this is started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONFIG = config_flags.DEFINE_config_file("config", help_string="the experiment")
TOPOLOGY = flags.DEFINE_string("topology", "local", f"what to compile for: {topologies.EXAMPLES}")
WHAT = flags.DEFINE_list("what", ["train", "sample"], f"programs: {', '.join(memory.PROGRAMS)}")
JSON = flags.DEFINE_string("json", None, "file to write the reports to")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.DEBUG if logging.level_debug() else logging.WARNING)
    try:
        cli.check_places(None, JSON.value)
        reports = []
        for what in WHAT.value:
            print(f"compiling {what} for {TOPOLOGY.value}: minutes for a large model", flush=True)
            reports.append(compile_check.check(CONFIG.value, TOPOLOGY.value, what)[0])
            print(compile_check.table(reports[-1]), flush=True)
        cli.write_json(JSON.value, [report._asdict() for report in reports])
    except (ValueError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"compile_check: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parser("compile_check"))
