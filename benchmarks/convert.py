"""Time and memory of converting weights: table `convert` of `run.py`. Random numbers at CogVideoX-5B's width.

A pipeline of few layers in diffusers' form is converted in memory, network by network, and from disk to disk, both
ways. Each row is a process of its own, because the peak of resident memory is a process's. The files were just written,
so they are read from the page cache where they fit.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from harness import ROOT, number, print_table

from motionv2v import convert, parameters
from motionv2v.convert import networks, pipeline, stream, writing
from motionv2v.convert.scheduler import Sampler
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE

LAYERS = 4
"""Of the transformer (5B: 42) and of T5 (24)."""
HEAD = ["network", "from", "to", "read GB", "s", "CPU s", "GB/s", "result GB", "largest stack GB", "peak RSS GB"]


def print_convert(options: Namespace) -> None:
    """Print seconds and peaks of all conversions, and whether the way there and back changes a byte."""
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        there, here, back = (Path(temporary) / name for name in ("diffusers", "ours", "back"))
        _child("make", there, 1 if options.quick else LAYERS)
        for part in networks.PARTS:
            folder = there / part.subfolder
            lines.append(_line(part.subfolder, "diffusers bf16", "memory fp32", _child("in", folder, back)))
            lines.append(_line(part.subfolder, "memory fp32", "diffusers bf16", _child("out", folder, back)))
        lines.append(_line("pipeline", "diffusers bf16", "model folder bf16", _child("to_disk", there, here)))
        lines.append(_line("pipeline", "model folder bf16", "diffusers bf16", _child("to_disk", here, back)))
        files = there.rglob("*.safetensors")
        same = all((back / path.relative_to(there)).read_bytes() == path.read_bytes() for path in files)
    print_table(HEAD, lines, options.markdown)
    print(f"the way there and back changes no byte: {same}")


def _modules(layers: int) -> dict:
    dit = DiT(num_layers=layers, num_heads=48, sample_size=(13, 60, 90))
    return {"vae": VAE(scaling_factor=0.7), "text": T5Encoder(num_layers=layers), "dit": dit}


def make(folder: Path, layers: int) -> None:
    """Write the pipeline; numbers are one block of random bits over and over, made as they are written."""
    nets = _modules(layers)
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


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _timed(call: Callable[[], Any]) -> tuple[Any, dict]:
    """Call it; seconds of the clock and of this process, which differ on a machine that does other things too."""
    start, own = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu": time.process_time() - own}


def measure(job: str, source: Path, target: Path) -> dict:
    """Run one conversion in this process; sizes in bytes. `result` is what stays in memory."""
    row = {"result": 0, "stack": 0, "read": _size(source)}
    if job == "to_disk":
        _, times = _timed(lambda: stream.convert(source, target, say=lambda line: None))
    else:
        (module, params), times = _timed(lambda: convert.from_diffusers(source))
        leaves = parameters.flatten(params)
        row["result"] = sum(leaf.nbytes for leaf in leaves.values())
        row["stack"] = max(leaf.nbytes for leaf in leaves.values())
        if job == "out":
            row["read"] = row["result"]
            _, times = _timed(lambda: convert.to_diffusers(module, params, target, dtype="bfloat16"))
    return row | times | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _child(*arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def _line(network: str, there: str, here: str, row: dict) -> list[str]:
    read, result, stack, peak = (number(row[name] / 1e9) for name in ("read", "result", "stack", "peak"))
    seconds = (number(row["seconds"]), number(row["cpu"]), number(row["read"] / row["seconds"] / 1e9))
    return [network, there, here, read, *seconds, result, stack, peak]


if __name__ == "__main__":
    job, source, target = sys.argv[1:]
    done = make(Path(source), int(target)) if job == "make" else measure(job, Path(source), Path(target))
    print(json.dumps(done))
