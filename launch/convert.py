"""Convert CogVideoX weights: python launch/convert.py --source=CogVideoX-5b --target=cogvideox_5b

A folder that diffusers saved (a pipeline, or its vae, text_encoder or transformer) becomes a model folder of this
package; a model folder, or a released name, becomes a folder that diffusers loads. The same command goes on where a
killed one stopped. --verify reads the files back against their checksums; without --target it only does that. Bad input
ends in one line and exit code 2, and leaves nothing half-written.
"""

import sys
import time

from absl import app, flags, logging

from motionv2v.convert import stream, writing

SOURCE = flags.DEFINE_string("source", None, "a folder of diffusers, a model folder or a released name")
TARGET = flags.DEFINE_string("target", None, "folder to write; one that this program wrote is replaced")
DIRECTION = flags.DEFINE_enum("direction", None, list(stream.DIRECTIONS), "default: told from the source")
DTYPE = flags.DEFINE_enum("dtype", "stored", ["stored", "bfloat16", "float16", "float32"], "of the stored numbers")
SHARD = flags.DEFINE_string("shard_size", "5GB", "most bytes per file of a folder for diffusers")
DROP = flags.DEFINE_bool("drop_control", False, "write the base for diffusers, without the control branch")
LORA = flags.DEFINE_multi_string("lora", [], "a LoRA to merge into the transformer: FILE or FILE:weight; repeatable")
VERIFY = flags.DEFINE_bool("verify", False, "read the files back and compare their checksums")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if not TARGET.value and not VERIFY.value:
        raise app.UsageError("--target is needed, or --verify")
    try:
        if VERIFY.value and (not TARGET.value or writing.has_checksums(SOURCE.value)):
            print(f"{writing.verify(SOURCE.value)} files of {SOURCE.value} are as they were written")
        if not TARGET.value:
            return
        print(f"converting {SOURCE.value} to {TARGET.value}, numbers {DTYPE.value}")
        start = time.perf_counter()
        settings = {"direction": DIRECTION.value, "dtype": DTYPE.value, "shard_size": SHARD.value}
        settings |= {"drop_control": DROP.value, "loras": LORA.value}
        folder = stream.convert(SOURCE.value, TARGET.value, **settings)
        seconds = time.perf_counter() - start
        if VERIFY.value:
            print(f"{writing.verify(folder)} files of {folder} are as they were written")
    except (ValueError, OSError) as error:
        if logging.level_debug():
            raise
        print(f"convert: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {size / 1e9:.3f} GB in {seconds:.1f} s; checksums in {folder / writing.CHECKSUMS}")


if __name__ == "__main__":
    flags.mark_flag_as_required("source")
    app.run(main)
