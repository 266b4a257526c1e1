"""Work space of CogVideoX's autoencoder on large frames: whole, in exact strips, and in blended tiles.

    python benchmarks/vae_memory.py                      # decode 13 latent frames of 60x90, bfloat16
    python benchmarks/vae_memory.py --method encode --height 240 --width 360

Nothing is run: XLA compiles for the device at hand and says how much memory it would set aside beside the arguments and
the result.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["encode", "decode"], default="decode")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--strips", type=int, nargs="*", default=[120, 60, 30, 15], help="rows of a strip")
    parser.add_argument(
        "--conv-impl", default="auto", help="formulation of the convolutions, see models/vae/convolution.py"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    tile = (options.height // 16 * 8, options.width // 16 * 8)
    rows = [("whole frames", {})]
    rows += [(f"strips of {count} rows", {"strip_rows": count}) for count in options.strips]
    rows += [(f"tiles of {tile[0]}x{tile[1]} (not exact)", {"tile_size": tile})]
    print(f"{options.method} {options.frames}x{options.height}x{options.width}, {options.dtype}, jax {jax.__version__}")
    print(f"on {jax.devices()[0].device_kind}\n\n| | work space, GB | seconds to compile |\n|---|---|---|", flush=True)
    for name, fields in rows:
        temp, seconds = work_space(options, fields)
        print(f"| {name} | {temp / 1e9:.2f} | {seconds:.0f} |", flush=True)


def work_space(options: argparse.Namespace, fields: dict) -> tuple[int, float]:
    """Compile one way of working; return the bytes of temporary memory and the seconds it took to compile."""
    from motionv2v.models.vae.autoencoder import VAE, latent_shape

    module = VAE(dtype=jnp.dtype(options.dtype), conv_impl=options.conv_impl, **fields)
    shape = (1, options.frames, options.height, options.width, 3)
    # The parameters do not depend on the size of the clip.
    small = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(VAE().init, jax.random.key(0), small)
    x = jax.ShapeDtypeStruct(shape if options.method == "encode" else latent_shape(shape), jnp.float32)
    start = time.perf_counter()
    compiled = jax.jit(lambda p, x: module.apply(p, x, method=options.method)).lower(params, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes, time.perf_counter() - start


if __name__ == "__main__":
    main()
