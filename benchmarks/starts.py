"""From the start of a process to the first edit, and memory of the autoencoder: `starts` and `vae_memory` of `run.py`.

Three kinds of start, each a process of its own that imports, loads a model's weights and edits one clip twice:

    nothing kept    every program is traced, lowered and compiled
    jax's cache     jax's persistent compilation cache alone, as `JAX_COMPILATION_CACHE_DIR` switches it on
    programs        stored programs (`motionv2v.devices.program_cache`), and no other cache

`again` is the second edit, which all kinds pay alike; "to ready" is the first edit without it. All edits must be equal
bit for bit, else the run ends.
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rows
from harness import ROOT, number, print_table

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "medium": {"num_layers": 8, "control_depth": 8, "num_heads": 8, "head_dim": 64},
}
"""Changes to the transformer of configs/motionv2v_tiny.py; its blocks are unrolled, which makes compilation long."""
STEPS = 10


def print_starts(options: Namespace) -> None:
    """Print the seconds of all kinds of start."""
    table = []
    with tempfile.TemporaryDirectory() as name:
        for size in list(SIZES)[:1] if options.quick else SIZES:
            folder = Path(name) / size
            _save_model(size, folder)
            kinds = _kinds(Path(name) / f"{size}-cache")
            for kind in list(kinds)[1:]:
                _start(folder, kinds[kind])  # fills it
            starts: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
            for _ in range(1 if options.quick else min(options.repeats, 3)):
                for kind, variables in kinds.items():
                    starts[kind].append(_start(folder, variables))
            if len({told["sum"] for turns in starts.values() for told in turns}) > 1:
                sys.exit(f"run: edits of {size} differ between kinds of start")
            middle = {kind: {k: median(t[k] for t in turns) for k in turns[0]} for kind, turns in starts.items()}
            ready = {kind: told["whole"] - 2 * told["again"] for kind, told in middle.items()}
            for kind, told in middle.items():
                parts = [told[part] for part in ("again", "imports", "weights", "edit")]
                ratio = f"{ready['nothing kept'] / ready[kind]:.1f}x"
                table.append([f"{size}: {kind}", f"{ready[kind]:.1f}", ratio, *(f"{part:.1f}" for part in parts)])
    head = [f"seconds, {STEPS} steps", "to ready", "nothing kept / this", "again", "imports", "weights", "first edit"]
    print_table(head, table, options.markdown)


def _save_model(size: str, folder: Path) -> None:
    from jax_side import random_params

    from motionv2v import checkpoints

    config = rows.make_config("tiny")
    config.dit.update(SIZES[size])
    checkpoints.save_model(folder, config, random_params(config))


def _kinds(cache: Path) -> dict[str, dict[str, str]]:
    """Return what each kind of start has in its environment."""
    from motionv2v.devices import program_cache

    nothing = {program_cache.VARIABLE: "off"}
    jax_alone = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        # Without these two it keeps no program that compiles within a second.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    programs = {program_cache.VARIABLE: str(cache / "ours"), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {"nothing kept": nothing, "jax's cache": nothing | jax_alone, "programs": programs}


def _start(model: Path, variables: dict[str, str]) -> dict[str, float]:
    """Run a process as a person waits for it; return its seconds, `whole` as seen from outside."""
    begin, env = time.perf_counter(), os.environ | variables
    told = subprocess.run([sys.executable, __file__, str(model)], env=env, cwd=ROOT, capture_output=True, text=True)
    whole = time.perf_counter() - begin
    if told.returncode:
        sys.exit(f"run: a start failed:\n{told.stderr}")
    parts = ("imports", "weights", "edit", "again", "sum")
    return {"whole": whole} | dict(zip(parts, map(float, told.stdout.split()[-len(parts) :]), strict=True))


def child(folder: str) -> None:
    """Edit twice and print the seconds of each part, and a sum over the result."""
    times = [time.perf_counter()]
    import jax

    from motionv2v import editing
    from motionv2v.devices import program_cache

    program_cache.use_cache()
    times.append(time.perf_counter())
    editor = editing.load(folder)
    times.append(time.perf_counter())
    batch = rows.edit_batch(editor.config)
    for _ in range(2):
        tokens = editor.tokenizer.encode(["a red disk"])
        video = np.asarray(editor.generate(jax.random.key(0), batch, tokens, num_steps=STEPS))
        times.append(time.perf_counter())
    weights = np.arange(video.size, dtype=np.uint64).reshape(video.shape) % 9973
    print(*np.diff(times), int((video * weights).sum() % 2**50))


def print_vae_memory(options: Namespace) -> None:
    """Print what XLA sets aside, beside arguments and result, to decode with CogVideoX's autoencoder in bfloat16.

    Nothing is run: whole frames, exact strips of rows, and blended tiles are compiled for the device at hand.
    """
    import jax
    import jax.numpy as jnp

    from motionv2v.models.vae.autoencoder import VAE, latent_shape

    frames, height, width = (5, 96, 80) if options.quick else (49, 480, 720)
    tile, table = (height // 16 * 8, width // 16 * 8), []
    ways = {"whole frames": {}} | {f"strips of {n} rows": {"strip_rows": n} for n in (60, 30)}
    ways[f"tiles of {tile[0]}x{tile[1]} (not exact)"] = {"tile_size": tile}
    # The parameters do not depend on the size of the clip.
    params = jax.eval_shape(VAE().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32))
    latents = jax.ShapeDtypeStruct(latent_shape((1, frames, height, width, 3)), jnp.float32)
    for name, fields in ways.items():
        module, start = VAE(dtype=jnp.bfloat16, **fields), time.perf_counter()
        decode = jax.jit(lambda p, z, module=module: module.apply(p, z, method="decode"))
        needed = decode.lower(params, latents).compile().memory_analysis().temp_size_in_bytes
        table.append([name, number(needed / 1e9), f"{time.perf_counter() - start:.0f}"])
    head = [f"decode {frames}x{height}x{width}, {jax.devices()[0].device_kind}", "work space, GB", "s to compile"]
    print_table(head, table, options.markdown)


if __name__ == "__main__":
    child(sys.argv[1])
