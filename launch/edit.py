"""Edit the motion in a video: python launch/edit.py --video=dog.mp4 --edit=edit.json

Without --checkpoint the edit is drawn from the clip's own pixels (the draft), without any flag the packaged example's,
and scored beside what `tiny_repair` makes of it. motionv2v.edits.describe() describes `edit.json`. Bad input: exit 2.
"""

import sys

from absl import app, flags

from motionv2v import cli, trackers
from motionv2v.editing import batch, files, options, previews, signals
from motionv2v.evaluation import example

VIDEO = flags.DEFINE_string("video", None, "the clip to edit; default: the packaged example")
EDIT = flags.DEFINE_string("edit", None, "the edit.json: points, and what to do with their paths")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "draft (default), released name, model folder, work dir or base")
OUT = flags.DEFINE_string("out", "outputs", "folder for edited.mp4, its record.json, comparison.mp4, contact_sheet.png")
TRACKER = flags.DEFINE_string("tracker", trackers.DEFAULT, "lk, dis, multistep, tapnext:WEIGHTS, tracks:FILE.npz")
MASKS = flags.DEFINE_string("masks", None, "where the one thing is that moves: .npz, video, folder of pictures")
BOX = flags.DEFINE_multi_string("box", [], "the thing lies in it: frame,x0,y0,x1,y1 in pixels; one for each frame")
PREVIEW = flags.DEFINE_bool("preview", False, "only draw the edit's paths over the clip, and say what is seen when")
POINTS = flags.DEFINE_bool("points", False, "only find points of --video that can be followed, for an edit.json")
BATCH = flags.DEFINE_string("batch", None, "a table of edits, .csv or .yaml, in place of --video and --edit")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the result of another edit in --out")
flags.adopt_module_key_flags(options)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    is_edit = not (POINTS.value or PREVIEW.value)
    chosen = CHECKPOINT.value if is_edit else files.DRAFT
    cli.start(with_jax=files.needs_jax(BATCH.value or VIDEO.value, chosen, TRACKER.value))
    common, shape = {"out": OUT.value, "tracker": TRACKER.value}, {"masks": MASKS.value, "boxes": BOX.value}
    try:
        model = {"checkpoint": CHECKPOINT.value, **options.given()}
        if BATCH.value:
            if not is_edit or {VIDEO.value, EDIT.value, MASKS.value, *BOX.value} != {None}:
                raise ValueError("--batch names clips and edits itself: leave --video, --edit and the like out")
            rows = batch.run(BATCH.value, **common, **model, expected=cli.expected)
            print(batch.summary(rows, OUT.value))
            sys.exit(any(row.status == "failed" for row in rows))
        if is_edit:
            run, clip = (signals.run, options.SIGNALS.value) if options.SIGNALS.value else (files.run, VIDEO.value)
            made = run(clip, EDIT.value, **common, **shape, **model, overwrite=OVERWRITE.value)
            if clip is None:
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
