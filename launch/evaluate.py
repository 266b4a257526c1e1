"""Measure a model: python launch/evaluate.py --checkpoint=tiny --num_pairs=200 --seed=7 --json=out.json

Prints a table (the model, the frozen base without its control branch, copying the source) and writes one flat json
object. `--compare` adds rows of other checkpoints. The protocol is described in motionv2v/evaluate.py.
"""

import json
import sys
from pathlib import Path

from absl import app, flags, logging
from rich.progress import track

from motionv2v import editing, evaluate, figures, video

BENCHMARK = flags.DEFINE_enum("benchmark", "synthetic", ["synthetic"], "which protocol")
CHECKPOINT = flags.DEFINE_string("checkpoint", "tiny", "a released name, a model folder or a training work dir")
COMPARE = flags.DEFINE_multi_string("compare", [], "further checkpoints, each a row of the table")
NUM_PAIRS = flags.DEFINE_integer("num_pairs", 200, "held-out pairs", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 7, "which held-out pairs", lower_bound=0)
STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: the model's", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "file for the results")
OUT = flags.DEFINE_string("out", None, "folder for videos and a contact sheet of the first pairs")


def rows() -> list[evaluate.Row]:
    options = {"num_pairs": NUM_PAIRS.value, "seed": SEED.value, "num_steps": STEPS.value}
    progress = lambda steps: track(list(steps), "editing")  # noqa: E731
    editor = editing.load(CHECKPOINT.value)
    result = [evaluate.run_row(CHECKPOINT.value, editor, progress=progress, **options)]
    result.append(evaluate.run_row("frozen base, no control", editor, use_control=False, progress=progress, **options))
    others = [(name, editing.load(name)) for name in COMPARE.value]
    return result + [evaluate.run_row(name, other, progress=progress, **options) for name, other in others]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        table = rows()
    except (ValueError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(evaluate.format_table(table))
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(table[0].results, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {JSON.value}")
    if OUT.value:
        for index, (pair, edited) in enumerate(zip(table[0].pairs[:8], table[0].videos[:8], strict=False)):
            clip = evaluate.comparison_video(pair, edited)
            video.write(Path(OUT.value) / f"pair_{index}.mp4", clip, fps=8)
            figures.save_png(Path(OUT.value) / f"pair_{index}.png", figures.contact_sheet([(pair.caption, clip)], 4))
        print(f"wrote videos and contact sheets in {OUT.value}")


if __name__ == "__main__":
    app.run(main)
