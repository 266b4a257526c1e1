"""Prepare data, resumably: pairs with tracks from --videos or --movi, or latents of pairs or scenes (--config)."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from motionv2v import cli
from motionv2v.training import prepare_latents, prepare_pairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # config files import one another as `configs.common`

CONFIG = config_flags.DEFINE_config_file("config", help_string="latents: such as configs/motionv2v_tiny.py")
STAGE = flags.DEFINE_enum("stage", None, ["pairs", "latents"], "what to prepare; default: as the other flags ask")
OUT = flags.DEFINE_string("out", None, "folder to write; latents default: the config's data.latents")
NUM = flags.DEFINE_integer("num_samples", 16384, "latents: samples, rounded up to whole shards", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 0, "latents: encoded at once; 0: as memory allows, to 16", lower_bound=0)
VIDEOS = flags.DEFINE_string("videos", None, "pairs: folder of videos, searched with the folders in it")
MOVI = flags.DEFINE_string("movi", None, "pairs: in place of videos a TFDS folder of MOVi, or .npz scenes")
flags.DEFINE_string("size", "480x720", "pairs: HEIGHTxWIDTH in pixels")
flags.DEFINE_integer("num_frames", 49, "pairs: frames of a clip", lower_bound=2)
flags.DEFINE_integer("num_points", 64, "pairs: tracks of a pair", lower_bound=1)
flags.DEFINE_integer("dense", 0, "pairs: dense tracks of single clips, for Motion Prompting; 0: pairs", lower_bound=0)
flags.DEFINE_integer("pairs_per_clip", 4, "pairs: drawn from each clip", lower_bound=1)
flags.DEFINE_integer("max_clips", 4, "pairs: clips taken of each video", lower_bound=1)
flags.DEFINE_string("tracker", "classical", "pairs: name for trackers.get")
flags.DEFINE_string("tracker_mode", "dis", "pairs: mode of the classical tracker")
flags.DEFINE_string("generator", "", "pairs: model that makes frames between two frames; '': none are made up")
flags.DEFINE_string("prompts", "grammar", "pairs: of the generator: grammar, a text file, or a language model's folder")
flags.DEFINE_integer("seed", 0, "pairs: of all random choices", lower_bound=0)
flags.DEFINE_float("test_share", 0.0, "pairs: share of the videos that becomes split test")
flags.DEFINE_integer("preview", 4, "pairs: how many are drawn on contact_sheet.png", lower_bound=0)
flags.DEFINE_integer("num_workers", 0, "pairs: processes on this machine; 0: one per core", lower_bound=0)
flags.DEFINE_string("runner", "DirectRunner", "pairs: Beam runner, or FlinkRunner, DataflowRunner, SparkRunner")
flags.DEFINE_string("pipeline_options", "", "pairs: options of the runner, in one string")
JOB = "size num_frames num_points dense pairs_per_clip max_clips tracker tracker_mode generator prompts seed".split()
RUN = "test_share preview num_workers runner pipeline_options".split()


def main(_: list[str]) -> None:
    cli.start()
    try:
        if STAGE.value == "pairs" or (STAGE.value is None and (VIDEOS.value or MOVI.value)):
            kind, folder = prepare_pairs.choose_source(OUT.value, videos=VIDEOS.value, movi=MOVI.value)
            job, options = ({name: flags.FLAGS[name].value for name in names} for names in (JOB, RUN))
            prepare_pairs.write_pairs(folder, OUT.value, prepare_pairs.make_job(kind=kind, **job), **options)
        elif CONFIG.value is None:
            raise ValueError("expected --videos=DIR --out=DIR, or --config=configs/motionv2v_tiny.py for stage latents")
        else:
            prepare_latents.write_latents(CONFIG.value, OUT.value, NUM.value, batch_size=BATCH.value)
    except cli.expected() as error:
        if logging.level_debug():
            raise
        print(f"prepare: {cli.line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parser("prepare", needs_config=False))
