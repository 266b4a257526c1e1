"""Export a checkpoint for inference: python launch/export.py --checkpoint=runs/motionv2v_tiny --out=exported

--format=model      one folder that launch/edit.py --checkpoint takes: weights, config, checksums, licence note
--format=diffusers  a pipeline folder that diffusers loads; --drop_control for the base alone
--format=stablehlo  programs for cpu, cuda and tpu that run with jax alone, see motionv2v/convert/export.py

Bad input ends in one line and exit code 2, and leaves nothing half-written.
"""

import sys

from absl import app, flags, logging

from motionv2v import checkpoints
from motionv2v.convert import export

CHECKPOINT = flags.DEFINE_string("checkpoint", "tiny", "a training work dir, a model folder or a released name")
OUT = flags.DEFINE_string("out", None, "folder to write; one of that name is replaced")
FORMAT = flags.DEFINE_enum("format", "model", ["model", "diffusers", "stablehlo"], "what to write")
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "averaged or raw weights (training work dirs have both)")
DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "number type of the stored weights")
PLATFORMS = flags.DEFINE_list("platforms", list(export.PLATFORMS), "which to lower for (stablehlo)")
DROP = flags.DEFINE_bool("drop_control", False, "leave the control branch out (diffusers)")
SHARES = flags.DEFINE_enum("shares", "", ["", *checkpoints.RELEASED], "leave out what this model holds (model)")
NOTE = flags.DEFINE_string("licence_note", "", "text of the licence note; default: a general one")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.DEBUG if logging.level_debug() else logging.WARNING)
    print(f"exporting {CHECKPOINT.value} as {FORMAT.value}, {WEIGHTS.value} weights in {DTYPE.value}, to {OUT.value}")
    settings = {"dtype": DTYPE.value, "ema": WEIGHTS.value == "ema"}
    try:
        if FORMAT.value == "model":
            folder = export.model_folder(CHECKPOINT.value, OUT.value, note=NOTE.value, shares=SHARES.value, **settings)
        elif FORMAT.value == "diffusers":
            folder = export.diffusers_folder(CHECKPOINT.value, OUT.value, drop_control=DROP.value, **settings)
        else:
            settings |= {"platforms": PLATFORMS.value, "note": NOTE.value}
            folder = export.stablehlo(CHECKPOINT.value, OUT.value, **settings)
    except (ValueError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"export: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 1e6:9.2f} MB  {path}")


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    app.run(main)
