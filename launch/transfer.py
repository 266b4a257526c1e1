"""Give a clip's motion to other content: python launch/transfer.py --video=clip.mp4 --prompt="a red square, teal"

Learns the motion as embeddings of a frozen text-to-video base (Motion Inversion), writes it as one file, and samples
each --prompt with it. --motion=FILE uses motions that were learned. Killed and started again, learning goes on.
"""

from absl import app, flags

from motionv2v import cli
from motionv2v.methods import motion_inversion
from motionv2v.training import transferred

VIDEO = flags.DEFINE_string("video", None, "the clip whose motion is learned; beside --motion: what samples start from")
MOTION = flags.DEFINE_multi_string("motion", [], "a motion that was learned, a file; may be given several times")
WEIGHT = flags.DEFINE_multi_float("weight", [], "of each --motion; default: 1")
PROMPT = flags.DEFINE_multi_string("prompt", [], "what a new video shall show; may be given several times")
CAPTION = flags.DEFINE_string("caption", "", "what the clip shows; default: nothing is said")
BASE = flags.DEFINE_string("base", transferred.BASE, "text-to-video base, or a model on one: a name or a folder")
OUT = flags.DEFINE_string("out", "outputs/transfer", "folder for the motion, the videos and contact_sheet.png")
LEARN = {
    "steps": flags.DEFINE_integer("steps", 300, "of learning", lower_bound=1),
    "rate": flags.DEFINE_float("rate", 0.02, "learning rate", lower_bound=1e-6, upper_bound=1.0),
    "batch_size": flags.DEFINE_integer("batch_size", 4, "samples of the clip in a step", lower_bound=1),
    "probe_every": flags.DEFINE_integer("probe_every", 0, "steps between probe videos, 0: none", lower_bound=0),
}
SETTINGS = {
    "debias": flags.DEFINE_enum("debias", None, motion_inversion.DEBIAS, "how the clip's look is taken away"),
    "start": flags.DEFINE_enum("start", None, motion_inversion.STARTS, "what samples start from"),
    "loss": flags.DEFINE_enum("loss", None, ["plain", *motion_inversion.LOSSES], "what is compared when learning"),
    "temporal_only": flags.DEFINE_bool("temporal_only", None, "queries and keys change within a place alone"),
    "qk": flags.DEFINE_enum("m_qk", None, motion_inversion.SHAPES, "what queries and keys have a vector for"),
    "v": flags.DEFINE_enum("m_v", None, motion_inversion.SHAPES, "what values have one for; none: a camera's motion"),
    "layers": flags.DEFINE_list("layers", None, "blocks that have embeddings, as 0,4,8; default: 12 at most"),
    "grid": flags.DEFINE_list("grid", None, "rows,columns of places of values; default: the tokens', or 10,15"),
    "rank": flags.DEFINE_integer("rank", None, "products that make up the values' embedding, 0: all", lower_bound=0),
}
SEED = flags.DEFINE_integer("seed", 0, "random seed", lower_bound=0)
STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: model's", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "text guidance scale, 1 is off; default: the model's", lower_bound=0.0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    cli.start()
    settings = {name: flag.value for name, flag in SETTINGS.items() if flag.value is not None}
    for name in {"layers", "grid"} & settings.keys():
        settings[name] = [int(part) if part.isdecimal() else part for part in settings[name]]
    options = {"base": BASE.value, "caption": CAPTION.value, "out": OUT.value, "settings": settings, "seed": SEED.value}
    options |= {"num_steps": STEPS.value, "guidance": GUIDANCE.value, "video_path": VIDEO.value}
    options |= {name: flag.value for name, flag in LEARN.items() if cli.is_given(name)}
    try:
        made = transferred.run(PROMPT.value, motion_paths=MOTION.value, weights=WEIGHT.value, **options)
    except cli.expected() as error:
        cli.refuse("transfer", error)
    print(*(f"wrote   {path}" for path in made.files.values()), sep="\n")


if __name__ == "__main__":
    app.run(main)
