"""Time and memory of converting weights: CogVideoX-5B's shapes at full width and a few layers, random numbers.

    python benchmarks/convert.py --layers 4

Writes a pipeline in diffusers' form (bfloat16) into a temporary folder, converts it in memory network by network and
from disk to disk as a whole, both ways, and prints one table. Each row is a process of its own, because the peak of
resident memory is a process's. The files were just written, so they are read from the page cache where they fit.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from motionv2v import convert, parameters
from motionv2v.convert import networks, pipeline, stream, writing
from motionv2v.convert.scheduler import Sampler
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE

COLUMNS = ("network", "from", "to", "read GB", "s", "cpu s", "GB/s", "result GB", "largest stack GB", "peak RSS GB")
COLUMNS += ("above result GB",)


def modules(layers: int) -> dict:
    dit = DiT(num_layers=layers, num_heads=48, sample_size=(13, 60, 90))
    return {"vae": VAE(scaling_factor=0.7), "text": T5Encoder(num_layers=layers), "dit": dit}


def make(folder: Path, layers: int) -> None:
    """Write the pipeline; numbers are one block of random bits over and over, made as they are written."""
    nets = modules(layers)
    bits = np.random.default_rng(0).standard_normal(1 << 20).astype(ml_dtypes.bfloat16)
    given = {}
    for part in networks.PARTS:
        for path, shape in networks.shapes_of(part, nets[part.key]).items():
            given[f"{part.key}/{path}"] = jax.ShapeDtypeStruct(shape, ml_dtypes.bfloat16)

    def read(path: str, index: int | None) -> np.ndarray:
        return np.resize(bits, given[path].shape if index is None else given[path].shape[1:])

    tokenizer, sampler = ByteTokenizer(226), Sampler({}, "ddim")
    config = pipeline.make_config("benchmark", nets, tokenizer, sampler, "bfloat16")
    made = convert.Pipeline(config, nets, {}, tokenizer, sampler, 0.7, {})
    plans = pipeline.plan_parts(nets, read, given, "stored")
    with writing.OutputFolder(folder) as out:
        pipeline.write_pipeline(out, made, plans, writing.SHARD_SIZE)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def timed(call: Callable[[], Any]) -> tuple[Any, dict]:
    """Call it; seconds of the clock and of this process, which differ on a machine that does other things too."""
    start, own = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu": time.process_time() - own}


def measure(job: str, source: Path, target: Path) -> dict:
    """Run one conversion in this process; sizes in bytes. `result` is what stays in memory."""
    row = {"result": 0, "stack": 0, "read": size(source)}
    if job == "to_disk":
        _, times = timed(lambda: stream.convert(source, target, say=lambda line: None))
    else:
        (module, params), times = timed(lambda: convert.from_diffusers(source))
        leaves = parameters.flatten(params)
        row["result"] = sum(leaf.nbytes for leaf in leaves.values())
        row["stack"] = max(leaf.nbytes for leaf in leaves.values())
        if job == "out":
            row["read"] = row["result"]
            _, times = timed(lambda: convert.to_diffusers(module, params, target, dtype="bfloat16"))
    return row | times | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def child(*arguments: object) -> dict:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def line(network: str, there: str, here: str, row: dict) -> tuple[str, ...]:
    figures = (row["read"], row["result"], row["stack"], row["peak"], row["peak"] - row["result"])
    read, result, stack, peak, above = (f"{value / 1e9:.2f}" for value in figures)
    rate = f"{row['read'] / row['seconds'] / 1e9:.2f}"
    times = f"{row['seconds']:.1f}", f"{row['cpu']:.1f}"
    return network, there, here, read, *times, rate, result, stack, peak, above


def table(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(COLUMNS, *lines, strict=True)]
    rows = [COLUMNS, tuple("-" * width for width in widths), *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, help="blocks of the transformer (5B: 42) and of T5 (24)")
    parser.add_argument("--folder", help="where the temporary folder is made; default: the system's")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job, source, target = options.child
        row = make(Path(source), int(target)) if job == "make" else measure(job, Path(source), Path(target))
        print(json.dumps(row))
        return
    lines = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        there, here, back = (Path(temporary) / name for name in ("diffusers", "ours", "back"))
        child("make", there, options.layers)
        print(f"{options.layers} layers, {size(there) / 1e9:.2f} GB in bfloat16", flush=True)
        for part in networks.PARTS:
            folder = there / part.subfolder
            lines.append(line(part.subfolder, "diffusers bf16", "memory fp32", child("in", folder, back)))
            lines.append(line(part.subfolder, "memory fp32", "diffusers bf16", child("out", folder, back)))
        lines.append(line("pipeline", "diffusers bf16", "model folder bf16", child("to_disk", there, here)))
        lines.append(line("pipeline", "model folder bf16", "diffusers bf16", child("to_disk", here, back)))
        same = all(
            (back / path.relative_to(there)).read_bytes() == path.read_bytes() for path in there.rglob("*.safetensors")
        )
    print(table(lines))
    print(f"the way there and back changes no byte: {same}")


if __name__ == "__main__":
    main()
