"""Edit the motion in a video: python launch/edit.py --video=dog.mp4 --edit=edit.json

Without --checkpoint the edit is drawn from the clip's own pixels (the draft), without any flag the packaged example's,
and scored beside what `tiny_repair` makes of it. motionv2v.edits.describe() describes `edit.json`. Bad input: exit 2.
"""

from absl import app, flags

from motionv2v import cli, trackers
from motionv2v.editing import files, previews
from motionv2v.evaluation import example

VIDEO = flags.DEFINE_string("video", None, "the clip to edit; default: the packaged example")
EDIT = flags.DEFINE_string("edit", None, "the edit.json: points, and what to do with their paths")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "draft (default), a released name, model folder, work dir, or base"
)
OUT = flags.DEFINE_string("out", "outputs", "folder for edited.mp4, its record.json, comparison.mp4, contact_sheet.png")
TRACKER = flags.DEFINE_string("tracker", trackers.DEFAULT, "lk, dis, multistep, tapnext:WEIGHTS, tracks:FILE.npz")
MASKS = flags.DEFINE_string("masks", None, "where the one thing is that moves: .npz, video, folder of pictures")
BOX = flags.DEFINE_multi_string("box", [], "the thing lies in it: frame,x0,y0,x1,y1 in pixels; one for each frame")
PREVIEW = flags.DEFINE_bool("preview", False, "only draw the edit's paths over the clip, and say what is seen when")
POINTS = flags.DEFINE_bool("points", False, "only find points of --video that can be followed, for an edit.json")
STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: model's", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "text guidance scale, 1 is off; default: the model's", lower_bound=0.0)
CACHE = flags.DEFINE_float("step_cache", None, "skip steps that change less, such as 0.1; 0 is off", lower_bound=0.0)
VIEWS = flags.DEFINE_enum("views", None, ["1", "2", "4", "8"], "average that many views of a clip; default: model's")
CLOCKS = flags.DEFINE_string("clocks", None, "of a base that refines the draft: weak,strong shares of signal")
LORA = flags.DEFINE_multi_string("lora", [], "merged into a base that refines the draft: FILE or FILE:weight")
DEVICES = flags.DEFINE_integer("devices", 1, "how many share one edit, where a model is too big for one; -1: all")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the result of another edit in --out")
SEED = flags.DEFINE_integer("seed", None, "random seed; default: the edit's", lower_bound=0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    is_edit = not (POINTS.value or PREVIEW.value)
    cli.start(with_jax=files.needs_jax(VIDEO.value, CHECKPOINT.value if is_edit else files.DRAFT, TRACKER.value))
    common, shape = {"out": OUT.value, "tracker": TRACKER.value}, {"masks": MASKS.value, "boxes": BOX.value}
    model = {"checkpoint": CHECKPOINT.value, "num_steps": STEPS.value, "guidance": GUIDANCE.value, "seed": SEED.value}
    model |= {"cache": CACHE.value, "num_views": VIEWS.value and int(VIEWS.value), "clocks": CLOCKS.value}
    model |= {"devices": DEVICES.value, "loras": LORA.value}
    try:
        if is_edit:
            made = files.run(VIDEO.value, EDIT.value, **common, **shape, **model, overwrite=OVERWRITE.value)
            if VIDEO.value is None:
                print(example.report(made))
        elif PREVIEW.value:
            made = previews.preview(VIDEO.value, EDIT.value, **common, **shape)
        else:
            made = previews.points(VIDEO.value, **common, overwrite=OVERWRITE.value)
    except cli.expected() as error:
        cli.refuse("edit", error)
    for path in made.files.values():
        print(f"wrote   {path}")


if __name__ == "__main__":
    app.run(main)
