"""Make a picture move: python launch/animate.py --image=photo.png --motion=motion.json

Without --checkpoint the picture is warped along the motion's tracks (the draft); a model of Motion Prompting, or the
converted weights of Diffusion-as-Shader, draws a video. motionv2v.edits.motion.describe() describes `motion.json`. Bad
input is exit code 2.
"""

import sys

from absl import app, flags, logging

from motionv2v import cli
from motionv2v.editing import animated

IMAGE = flags.DEFINE_string("image", None, "the picture, png or jpeg", required=True)
MOTION = flags.DEFINE_string("motion", None, "the motion.json: what moves, and how", required=True)
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "draft (default), motion_prompting_tiny, a model folder or a work dir"
)
OUT = flags.DEFINE_string("out", "outputs", "folder for animated.mp4, tracks.mp4, contact_sheet.png, last_frame.png")
DEPTH = flags.DEFINE_string("depth", None, "for cameras: an .npy, or the folder of a depth model; default: a plane")
INVERSE = flags.DEFINE_bool("inverse_depth", False, "the array of --depth holds inverse depths")
PREVIEW = flags.DEFINE_bool(
    "preview", False, "no model: only the tracks on the picture, and the picture warped by them"
)
FPS = flags.DEFINE_float("fps", animated.FPS, "frames per second", lower_bound=1, upper_bound=120)
SEED = flags.DEFINE_integer("seed", None, "random seed; default: the file's", lower_bound=0)
STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: model's", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "text guidance scale, 1 is off; default: the model's", lower_bound=0.0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    cli.start(with_jax=not PREVIEW.value and CHECKPOINT.value not in (None, animated.DRAFT))
    options = {"checkpoint": CHECKPOINT.value, "depth": DEPTH.value, "inverse_depth": INVERSE.value, "fps": FPS.value}
    options |= {"seed": SEED.value, "num_steps": STEPS.value, "guidance": GUIDANCE.value, "preview": PREVIEW.value}
    try:
        made = animated.run(IMAGE.value, MOTION.value, out=OUT.value, **options)
    except cli.expected() as error:
        if logging.level_debug():
            raise
        print(f"animate: {cli.line(error)}", file=sys.stderr)
        sys.exit(2)
    for path in made.files.values():
        print(f"wrote   {path}")


if __name__ == "__main__":
    app.run(main)
