"""Time whole samples: with and without the control branch, guidance and step cache, beside diffusers in the same run.

    python benchmarks/sampling.py                            # the tiny model on whatever device is at hand
    python benchmarks/sampling.py --size 5b --train          # a GPU: 13x60x90 latents, 50 steps, one training step
    python benchmarks/sampling.py --rows main main+guidance --no-peer

A sample is one compiled call from noise (with control: from uint8 frames and tracks) to uint8 frames, autoencoder
included. Weights are random: they do not change the time. The step cache's plan is fixed, every second step, which is
near what threshold 0.2 gives with 20 steps; what it costs in quality says launch/evaluate.py --benchmark=step_cache.

The peer is diffusers' transformer, scheduler and autoencoder in PyTorch, on the same device and sizes, in the same type
of number, with a control branch of its own blocks (`torch_side.py`); guidance is a batch of two there, as in diffusers'
pipeline, and two calls in a row here. MB are what XLA sets aside: arguments, results and temporary ones. MFU counts the
transformer's operations (`motionv2v.flops`) over the whole time, the autoencoder's included, where the device is known.
The text encoder of --size 5b has one layer: text is encoded once and does not belong to the steps.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from against_diffusers import header, measure, number, pin_threads, print_table

GUIDANCE = 6.0
TRAIN = "training step"


class Row(NamedTuple):
    """What is sampled."""

    use_control: bool
    guided: bool
    cached: bool


ROWS = {
    f"{branch}{'+guidance' if guided else ''}{'+cache' if cached else ''}": Row(branch == "control", guided, cached)
    for branch in ("main", "control")
    for guided in (False, True)
    for cached in (False, True)
}


def main() -> None:
    options = parse()
    if options.size == "tiny":
        pin_threads(options.threads)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import jax

    config = make_config(options.size)
    side = JaxSide(config, options.steps)
    print(header(options), jax.devices()[0].device_kind, sep="; ", flush=True)
    peer = None if options.no_peer else TorchSide(config, options.steps)
    results = run_rows(side, peer, options)
    if options.train:
        results.append(run_train(side, options))
    head = [
        f"{options.size}, {options.steps} steps",
        "steps computed",
        "JAX ms",
        "MB",
        "MFU",
        "torch ms",
        "torch / JAX",
    ]
    print_table([*head, "whole / this"], [show(name, told, results) for name, *told in results], options.markdown)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=["tiny", "5b"], help="of the model (default tiny)")
    parser.add_argument("--steps", type=int, help="denoising steps (default 20; 5b 50)")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--train", action="store_true", help="time a control training step of one sample as well")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="cores for --size tiny (default 2)")
    parser.add_argument("--no-peer", action="store_true", help="leave out diffusers")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    options = parser.parse_args()
    options.steps = options.steps or {"tiny": 20, "5b": 50}[options.size]
    return options


def make_config(size: str) -> Any:
    """Return the config of a size, for latents of one clip."""
    from configs import motionv2v_cogvideox_5b, motionv2v_tiny

    config = (motionv2v_tiny if size == "tiny" else motionv2v_cogvideox_5b).get_config()
    if size == "5b":
        config.text.update({"num_layers": 1, "dtype": "bfloat16"})
    config.train.batch_size = 1
    config.train.accumulate = 1
    return config


class JaxSide:
    """Our side: an `Editor` with random weights on the default device, and inputs of the model's own size."""

    def __init__(self, config: Any, num_steps: int):
        import jax
        import jax.numpy as jnp

        from motionv2v import editing
        from motionv2v import model as modeling
        from motionv2v.tokenizer import ByteTokenizer

        # First calls compile, whatever earlier runs left behind.
        jax.config.update("jax_enable_compilation_cache", False)
        self.config, self.num_steps = config, num_steps
        shapes = jax.eval_shape(lambda k: modeling.init_params(k, modeling.build(config)), jax.random.key(0))
        dtype = jnp.dtype(config.dit.get("dtype", "float32"))
        leaves, tree = jax.tree.flatten(shapes)
        # One small program per shape; drawn on the device, because 8 billion numbers take minutes anywhere else.
        draw = jax.jit(lambda k, shape: 0.02 * jax.random.normal(k, shape, dtype), static_argnums=1)
        keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))
        self.params = tree.unflatten([draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])
        self.editor = editing.Editor(config, self.params, tokenizer=ByteTokenizer(config.data.text_length))
        rng, frames, size = np.random.default_rng(0), self.editor.num_frames, self.editor.size
        self.batch = {"source": rng.integers(0, 256, (1, frames, *size, 3), dtype=np.uint8)}
        for side in ("source", "target"):
            self.batch[f"{side}_xy"] = rng.uniform(0, min(size), (1, 16, frames, 2)).astype(np.float32)
            self.batch[f"{side}_visible"] = np.ones((1, 16, frames), bool)

    def prepare(self, row: Row) -> tuple[Callable[[], np.ndarray], float]:
        """Compile a row; returns the call and the MB that XLA sets aside for it."""
        import jax

        def compile_it(*args: Any, **static: Any) -> tuple[Any, Any]:
            return self.editor._generate.jitted.lower(*args, **static).compile(), args

        compiled, args = self.editor._call(
            compile_it,
            jax.random.key(0),
            self.batch,
            self.editor.tokenizer.encode(["a red disk"]),
            num_steps=self.num_steps,
            guidance=GUIDANCE if row.guided else 1.0,
            use_control=row.use_control,
            reuse=plan(self.num_steps) if row.cached else None,
        )
        return lambda: np.asarray(compiled(*args)), megabytes(compiled)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return the latents' frames, rows and columns."""
        height, width = self.editor.size
        return ((self.editor.num_frames - 1) // 4 + 1, height // 8, width // 8)


def megabytes(compiled: Any) -> float:
    """Return what a program needs on the device, in MB."""
    told = compiled.memory_analysis()
    parts = (told.argument_size_in_bytes, told.output_size_in_bytes, told.temp_size_in_bytes)
    return (sum(parts) - told.alias_size_in_bytes) / 1e6


def plan(num_steps: int) -> tuple[bool, ...]:
    """Reuse every second step behind the first two, but not the last."""
    return tuple(2 <= step < num_steps - 1 and step % 2 == 0 for step in range(num_steps))


class TorchSide:
    """The peer's modules with random weights, on a GPU where torch finds one."""

    def __init__(self, config: Any, num_steps: int):
        import torch
        import torch_side
        from diffusers import CogVideoXDDIMScheduler
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        torch.set_grad_enabled(False)
        self._torch, self._config, self._num_steps = torch, config, num_steps
        where = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
        where["dtype"] = torch.bfloat16 if config.dit.get("dtype", "float32") == "bfloat16" else torch.float32
        self._where = where
        base = torch_side.build_transformer(config)
        streams = len(torch_side.STREAMS) * config.vae.latent_channels
        branch = (config.dit.control_depth, streams, config.dit.control_wiring)
        self._control = torch_side.ControlledTransformer(base, *branch).to(**where).eval()
        self._vae = torch_side.build_vae(config).to(**where).eval()
        self._scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        )
        frames, (height, width) = config.data.num_frames, config.data.size
        self._shape = ((frames - 1) // 4 + 1, config.vae.latent_channels, height // 8, width // 8)
        grid = (height // 16, width // 16)
        rope = get_3d_rotary_pos_embed(config.dit.head_dim, ((0, 0), grid), grid, self._shape[0])
        self._rope = tuple(table.to(where["device"]) for table in rope)

    def sample(self, row: Row) -> np.ndarray:
        """Denoise and decode, with control after encoding three videos."""
        torch, config, where = self._torch, self._config, self._where
        count, (t, z, h, w) = 2 if row.guided else 1, self._shape
        text = torch.zeros(count, config.data.text_length, config.dit.text_dim, **where)
        if row.use_control:
            videos = torch.zeros(3, 3, config.data.num_frames, *config.data.size, **where)
            streams = self._vae.encode(videos).latent_dist.mode().permute(0, 2, 1, 3, 4)
            streams = streams.permute(1, 0, 2, 3, 4).reshape(1, t, 3 * z, h, w).expand(count, -1, -1, -1, -1)
        x = torch.randn(1, t, z, h, w, **where)
        self._scheduler.set_timesteps(self._num_steps)
        for timestep in self._scheduler.timesteps:
            both, time = x.expand(count, -1, -1, -1, -1), timestep.expand(count).to(where["device"])
            if row.use_control:
                v = self._control(both, text, time, self._rope, streams)
            else:
                v = self._control.base(both, text, time, image_rotary_emb=self._rope).sample
            v = v[:1] + GUIDANCE * (v[1:] - v[:1]) if row.guided else v
            x = self._scheduler.step(v, timestep, x, return_dict=False)[0].to(where["dtype"])
        video = self._vae.decode(x.transpose(1, 2) / config.vae.scaling_factor).sample.float().clamp(-1, 1)
        return ((video + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def run_rows(side: JaxSide, peer: TorchSide | None, options: argparse.Namespace) -> list[list[Any]]:
    """Time all rows in turns, so that their ratios hold: each [name, steps computed, ms, MB, MFU, the peer's ms]."""
    from motionv2v import flops

    runs, memory = {}, {}
    for name in options.rows:
        runs[f"jax {name}"], memory[name] = side.prepare(ROWS[name])
        # The peer has no step cache: its plain sample is what a cached one is held against.
        plain = f"torch {name.removesuffix('+cache')}"
        if peer is not None and plain not in runs:
            runs[plain] = lambda row=ROWS[name]: peer.sample(row)
    times = {who: timing.median for who, timing in measure(runs, options.repeats, 0.0).items()}
    results, dit = [], side.editor.model.denoiser.dit
    for name in options.rows:
        row, took = ROWS[name], times[f"jax {name}"]
        computed = options.steps - (sum(plan(options.steps)) if row.cached else 0)
        once = flops.forward(dit, side.grid, side.config.data.text_length, row.use_control).total
        used = mfu(once * computed * (1 + row.guided), took)
        results.append([name, computed, took, memory[name], used, times.get(f"torch {name.removesuffix('+cache')}")])
    return results


def run_train(side: JaxSide, options: argparse.Namespace) -> list[Any]:
    """Time the training loop's own step of one sample, from cached latents; the peer's is in against_diffusers.py."""
    from jax_side import make_stepper

    from motionv2v import flops

    rng, shape = np.random.default_rng(0), (1, *side.grid, side.config.vae.latent_channels)
    names = ("target", *side.editor.model.method.STREAMS)
    batch = {f"{name}_latents": rng.standard_normal(shape, np.float32).astype(np.float16) for name in names}
    batch["tokens"] = rng.integers(3, 259, (1, side.config.data.text_length), np.int32)
    step = make_stepper(side.config, side.params, batch)
    milliseconds = measure({"jax": step}, options.repeats, 0.0)["jax"].median
    dit = side.editor.model.denoiser.dit
    once = flops.train_step(dit, side.grid, side.config.data.text_length, "control")
    return [TRAIN, 1, milliseconds, None, mfu(once, milliseconds), None]


def mfu(operations: float, milliseconds: float) -> float | None:
    import jax

    from motionv2v import flops

    peak = flops.peak(jax.devices()[0].device_kind)
    return None if peak is None else operations / (milliseconds / 1e3) / peak


def show(name: str, told: list[Any], results: list[list[Any]]) -> list[str]:
    computed, ours, memory, used, theirs = told
    whole = {row[0]: row[2] for row in results}.get(name.removesuffix("+cache"))
    cells = [name, str(computed), number(ours), "" if memory is None else f"{memory:.0f}"]
    cells += ["-" if used is None else f"{used:.1%}"]
    cells += ["", ""] if theirs is None else [number(theirs), f"{theirs / ours:.2f}x"]
    return [*cells, f"{whole / ours:.2f}x" if whole and name.endswith("+cache") else ""]


if __name__ == "__main__":
    main()
