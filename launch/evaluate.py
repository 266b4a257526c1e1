"""Measure a model: python launch/evaluate.py --checkpoint=tiny --json=out.json; or any method: build, score, study."""

from absl import app, flags
from rich.progress import track

from motionv2v import cli
from motionv2v.evaluation import commands, tables

CHECKPOINT = flags.DEFINE_string("checkpoint", "tiny", "a released name, model folder, work dir; draft; weights")
COMPARE = flags.DEFINE_multi_string(
    "compare", [], "further checkpoints, each a row; motion_inversion: also all, ablations, losses, starts, name=value"
)
NUM_PAIRS = flags.DEFINE_integer("num_pairs", 200, "held-out pairs", lower_bound=1)
NUM_CLIPS = flags.DEFINE_integer("num_clips", 200, "text_to_video, motion_prompting: scenes; motion_inversion: 22")
NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "synthetic: of the pairs; default: model's", lower_bound=1)
NUM_POINTS = flags.DEFINE_integer("num_points", 10, "synthetic: points of each pair", lower_bound=1, upper_bound=256)
JITTER = flags.DEFINE_float("jitter", 0.0, "synthetic, make: move all points by up to so many pixels", lower_bound=0.0)
SEED = flags.DEFINE_integer("seed", 7, "which held-out pairs, or scenes", lower_bound=0)
STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: the model's", lower_bound=1)
VIEWS = flags.DEFINE_enum("views", None, ["1", "2", "4", "8"], "average that many views of a clip; default: model's")
DEVICES = flags.DEFINE_integer("devices", 1, "synthetic: how many share each batch of edits; -1: all")
JSON = flags.DEFINE_string("json", None, "file for the results")
OUT = flags.DEFINE_string("out", None, "folder for videos and sheets of what was made")
TRACKER = flags.DEFINE_string("tracker", "classical", "tapvid: the tracker's name")
MODE = flags.DEFINE_multi_string("mode", [], "tapvid: modes of the classical tracker; default: all")
VIDEOS = flags.DEFINE_string("videos", None, "motion_prompting, build: folder of videos, or of pictures (DAVIS)")
PICKLE = flags.DEFINE_string("pickle", None, "tapvid: a TAP-Vid pickle, such as tapvid_davis.pkl; default: scenes")

flags.adopt_module_key_flags(commands)
INVERSION = tables.Table("training.inversion_benchmark", (*tables.MODELS, *tables.CLIPS, "weights"))
TABLES = tables.TABLES | {"motion_inversion": INVERSION}
BENCHMARK = flags.DEFINE_enum("benchmark", "synthetic", [*TABLES], "what to measure")


def main(argv: list[str]) -> None:
    if set(argv[2:]) | set(argv[1:]) - set(commands.COMMANDS):
        raise app.UsageError(f"unexpected argument {argv[-1]!r}; available: {', '.join(commands.COMMANDS)}")
    cli.start(with_jax=argv[1:] in ([], ["make"]) or commands.WEIGHTS.value is not None)
    chosen = commands.COMMANDS[argv[1]] if argv[1:] else TABLES[BENCHMARK.value]
    what, common = (argv[1], ["json"]) if argv[1:] else (f"--benchmark={BENCHMARK.value}", ["json", "benchmark"])
    try:
        cli.check_given(what, [*chosen.flags, *common])
        cli.check_places(OUT.value, JSON.value)
        if argv[1:]:
            text, results = chosen.run()
        else:
            values = flags.FLAGS.flag_values_dict()
            if BENCHMARK.value == "motion_inversion" and not cli.is_given("num_clips"):
                values["num_clips"] = 22  # as in the paper
            text, results = chosen.make(values, track)
    except cli.expected() as error:
        cli.refuse("evaluate", error)
    print(text)
    cli.write_json(JSON.value, results)


if __name__ == "__main__":
    app.run(main)
