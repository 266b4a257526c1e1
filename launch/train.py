"""Train: python launch/train.py --config=configs/motionv2v_tiny.py --workdir=runs/motionv2v_tiny

The same command continues a run; --verbosity=1 shows tracebacks. On a cluster see motionv2v/devices/processes.py.
"""

import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from motionv2v import cli
from motionv2v.devices import processes
from motionv2v.training import dataset, loop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # config files import one another as `configs.common`

CONFIG = config_flags.DEFINE_config_file("config", help_string="the experiment, such as configs/motionv2v_tiny.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<config name>")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of a job; auto: jax finds the cluster")
PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of the job")
PROCESS = flags.DEFINE_integer("process_id", None, "which of them this one is, from 0")
EXPECTED = (*cli.expected(), loop.DivergedError)


def fail(error: Exception) -> None:
    lost = processes.lost_process(error)
    if logging.level_debug() or not (lost or isinstance(error, EXPECTED)):
        traceback.print_exception(error)
        processes.leave(1)
    print(f"train: {lost or cli.line(error)}", file=sys.stderr)
    processes.leave(processes.LOST_EXIT_CODE if lost else 2)


def parse(argv: list[str]) -> list[str]:
    try:
        return cli.read_flags(argv)
    except ValueError as error:
        fail(error)


def main(_: list[str]) -> None:
    try:
        cli.start()
        processes.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        config = CONFIG.value
        if not cli.is_given("config.data.latents"):
            config = dataset.without_missing_latents(config, print)
        loop.train(config, WORKDIR.value or f"runs/{Path(file).stem}")
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
