"""The two sides of `sampling.py`, each in a process of its own that is told what to prepare and to run.

A GPU's memory then belongs to the side that runs, and the peak that it tells is that side's. Orders come as lines of
JSON on the standard input: ["about"], ["prepare", ROW], ["measure"], ["run"], ["release"]; so do answers, behind
`MARK`.
"""

import contextlib
import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MARK = "@ "
GUIDANCE = 6.0


class Row(NamedTuple):
    """What is timed: "forward", "sample" or "train", and how; `guidance` is "", "turns", "batch" or "data"."""

    kind: str
    use_control: bool
    guidance: str = ""
    cached: bool = False


def plan(num_steps: int) -> tuple[bool, ...]:
    """Reuse every second step behind the first two, but not the last."""
    return tuple(2 <= step < num_steps - 1 and step % 2 == 0 for step in range(num_steps))


def make_config(size: str) -> Any:
    """Return the config of a size, for latents of one clip."""
    from configs import motionv2v_cogvideox_5b, motionv2v_tiny

    config = (motionv2v_tiny if size == "tiny" else motionv2v_cogvideox_5b).get_config()
    if size != "tiny":
        config.text.update({"num_layers": 1, "dtype": "bfloat16"})
    if size == "dry":
        config.vae.update({"block_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_groups": 4})
        config.text.update({"width": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "vocab_size": 300})
        config.dit.update({"num_layers": 3, "control_depth": 2, "num_heads": 2, "head_dim": 16, "text_dim": 16})
        config.dit.update({"text_length": 12, "time_embed_dim": 16})
        config.data.update({"num_frames": 9, "size": (32, 48), "text_length": 12})
    config.train.batch_size = config.train.accumulate = 1
    config.optim.name = "adamw"  # as the peer's
    return config


class JaxSide:
    """Our side: random weights on the default device, or for `abstract` only their shapes, and inputs of one sample."""

    def __init__(self, config: Any, num_steps: int, abstract: bool = False):
        import jax
        import jax.numpy as jnp

        from motionv2v import backbone
        from motionv2v.models.vae.autoencoder import latent_shape

        # First calls compile, whatever earlier runs left behind.
        jax.config.update("jax_enable_compilation_cache", False)
        self.config, self.num_steps, self.model = config, num_steps, backbone.build(config)
        dtype = jnp.dtype(config.dit.get("dtype", "float32"))
        shapes = jax.eval_shape(lambda k: backbone.init_params(k, self.model), jax.random.key(0))
        if abstract:
            self.params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
        else:
            # One small program per shape; drawn on the device, because 8 billion numbers take minutes anywhere else.
            draw = jax.jit(lambda k, shape: 0.02 * jax.random.normal(k, shape, dtype), static_argnums=1)
            leaves, tree = jax.tree.flatten(shapes)
            keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))
            self.params = tree.unflatten([draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])
        _, *self.grid, self.channels = latent_shape((1, *backbone.clip_shape(self.model)), config.vae.latent_channels)
        self._rng, self._call, self._peak = np.random.default_rng(0), None, 0

    def about(self) -> dict[str, Any]:
        """Name the device, and compare its attention with a plain one: what is fast and wrong shall not be timed."""
        import jax

        from motionv2v.devices import chips

        error = _attention_error(self.config.dit.get("dtype", "float32"))
        if not error < 0.02:  # bfloat16 has 8 bits: 0.4 % for a number, less for a norm over many
            raise ValueError(f"attention on this device is off by {error:.1%}: its times would mean nothing")
        device = jax.devices()[0]
        told = {"device": device.device_kind, "platform": device.platform, "attention_error": error}
        return told if chips.peak(device.device_kind) else told | {"rate": _product_rate()}

    def lower(self, row: Row) -> str:
        """Trace and lower a row without compiling it; return its program's text."""
        return self._program(row)[0].as_text()

    def prepare(self, row: Row) -> dict[str, Any]:
        """Compile a row; return the bytes that XLA sets aside and the operations that one run needs."""
        lowered, arguments = self._program(row)
        compiled = lowered.compile()
        told = compiled.memory_analysis()
        parts = (told.argument_size_in_bytes, told.output_size_in_bytes, told.temp_size_in_bytes)
        self._call = self._repeat(compiled, arguments, row)
        told = {"bytes": sum(parts) - told.alias_size_in_bytes, "operations": self.operations(row)}
        return told | ({"remat": self.config.dit.get("remat", "none")} if row.kind == "train" else {})

    def run(self) -> dict[str, Any]:
        """Run what was prepared; return the seconds, and the peak of the device's memory if this run raised it."""
        import jax

        start = time.perf_counter()
        result = self._call()
        seconds = time.perf_counter() - start
        if not np.isfinite(np.asarray(result, np.float32)).all():
            raise ValueError("numbers that are not finite: the times mean nothing")
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        rose, self._peak = peak > self._peak, max(peak, self._peak)
        return {"seconds": seconds} | ({"peak": peak} if rose else {})

    def measure(self) -> dict[str, Any]:
        """Run what was prepared, and on a CPU return what that takes of the host's memory."""
        import jax

        return work_space(self._call) if jax.default_backend() == "cpu" else {}

    def release(self) -> dict[str, Any]:
        """Give back what the row held."""
        self._call = None
        gc.collect()
        return {}

    def operations(self, row: Row) -> float:
        """Count what one run needs of the transformer; see `motionv2v.devices.flops`."""
        from motionv2v.devices import flops

        dit, length = self.model.denoiser.dit, self.config.data.text_length
        if row.kind == "train":
            return flops.train_step(dit, self.grid, length, "control")
        once = flops.forward(dit, self.grid, length, row.use_control).total
        steps = self.num_steps - sum(plan(self.num_steps)) * row.cached if row.kind == "sample" else 1
        return once * steps * (2 if row.guidance else 1)

    def _program(self, row: Row) -> tuple[Any, tuple[Any, ...]]:
        return {"forward": self._forward, "sample": self._sample, "train": self._train}[row.kind](row)

    def _repeat(self, compiled: Any, arguments: tuple[Any, ...], row: Row) -> Callable[[], np.ndarray]:
        import jax

        if row.kind != "train":
            return lambda: np.asarray(compiled(*arguments))
        held = list(arguments)

        def step() -> np.ndarray:
            held[0], metrics = compiled(*held)
            return np.asarray(jax.block_until_ready((held[0], metrics))[1]["loss"])

        return step

    def _latents(self, dtype: Any = np.float32) -> np.ndarray:
        return self._rng.standard_normal((1, *self.grid, self.channels), np.float32).astype(dtype)

    def _text(self, dtype: Any = np.float32) -> np.ndarray:
        shape = (1, self.config.data.text_length, self.config.dit.text_dim)
        return self._rng.standard_normal(shape, np.float32).astype(dtype)

    def _forward(self, row: Row) -> tuple[Any, tuple[Any, ...]]:
        """Predict v once, latents to latents."""
        import jax

        from motionv2v import backbone

        conditions = None
        if row.use_control:
            conditions = {"videos": {name: self._latents() for name in self.model.method.STREAMS}}
        arguments = (self.params, self._latents(), np.full(1, 500, np.int32), self._text(), conditions)
        return jax.jit(partial(backbone.denoise, self.model)).lower(*arguments), arguments

    def _sample(self, row: Row) -> tuple[Any, tuple[Any, ...]]:
        """Make a video, from noise (with control: from frames and tracks) to uint8 frames."""
        import jax

        from motionv2v import backbone, editing
        from motionv2v.data.tokenizer import ByteTokenizer
        from motionv2v.devices import sharding
        from motionv2v.models import time_tables

        count = {"batch": 1, "data": 2}.get(row.guidance, 0)
        if count > len(jax.devices()):
            raise ValueError(f"guidance divided over 2 devices, but there is {len(jax.devices())}")
        mesh = sharding.make_mesh({"data": count}, devices=jax.devices()[:count]) if count else None
        is_abstract = isinstance(jax.tree.leaves(self.params)[0], jax.ShapeDtypeStruct)
        tokenizer = ByteTokenizer(self.config.data.text_length)
        editor = editing.Editor(self.config, {} if is_abstract else self.params, mesh=mesh, tokenizer=tokenizer)
        if is_abstract:
            editor.embed = lambda tokens: self._text()
            tabulate = partial(backbone.tabulate, self.model, num_steps=self.num_steps)
            tables = jax.eval_shape(tabulate, time_tables.split(self.params["dit"])[0])
            editor.sampling_params = lambda num_steps: backbone.sampling_params(self.params, tables)

        def lower(*arguments: Any, **static: Any) -> tuple[Any, Any]:
            return editor._generate.jitted.lower(*arguments, **static), arguments

        return editor._call(
            lower,
            jax.random.key(0),
            self._pixels(),
            tokenizer.encode(["a red disk"]),
            num_steps=self.num_steps,
            guidance=GUIDANCE if row.guidance else 1.0,
            use_control=row.use_control,
            reuse=plan(self.num_steps) if row.cached else None,
        )

    def _train(self, row: Row) -> tuple[Any, tuple[Any, ...]]:
        """Make the training loop's own step of one sample, from cached latents."""
        import jax

        from motionv2v import parameters
        from motionv2v.training import loop, tasks
        from motionv2v.training.optimizer import make_optimizer

        if jax.default_backend() != "cpu":
            self.config.dit.remat = roomiest_remat(self.config)
        task, optimizer = tasks.make(self.config), make_optimizer(self.config, self.params)
        trainable, frozen = parameters.partition(self.params, self.config.optim.schedule)
        is_abstract = isinstance(jax.tree.leaves(trainable)[0], jax.ShapeDtypeStruct)
        start = partial(loop.init_state, optimizer=optimizer)
        state = jax.eval_shape(start, trainable) if is_abstract else start(trainable)
        names = ("target", *self.model.method.STREAMS)
        batch = {f"{name}_latents": self._latents(np.float16) for name in names}
        batch["tokens"] = self._rng.integers(3, 259, (1, self.config.data.text_length), np.int32)
        unread = {"vae"}  # whose latents are cached: the loop keeps what no step reads off the device too
        if self.config.data.get("text_embeddings"):
            batch["text"] = self._text(np.float16)
            unread.add("text")
        frozen = {name: tree for name, tree in frozen.items() if name not in unread}
        step = loop.make_train_step(task.loss, optimizer, self.config)
        return step.lower(state, frozen, batch), (state, frozen, batch)

    def _pixels(self) -> dict[str, np.ndarray]:
        frames, size = self.config.data.num_frames, tuple(self.config.data.size)
        batch = {"source": self._rng.integers(0, 256, (1, frames, *size, 3), dtype=np.uint8)}
        for side in ("source", "target"):
            batch[f"{side}_xy"] = self._rng.uniform(0, min(size), (1, 16, frames, 2)).astype(np.float32)
            batch[f"{side}_visible"] = np.ones((1, 16, frames), bool)
        return batch


def roomiest_remat(config: Any, available: float | None = None) -> str:
    """Choose the remat policy that computes least twice of those that fit the device; `available`: its bytes."""
    from motionv2v.devices import fit, memory
    from motionv2v.models.layers import REMAT_NAMES

    available, config = fit.capacity() if available is None else available, config.copy_and_resolve_references()
    for policy in reversed(REMAT_NAMES):
        config.dit.remat = policy
        if available is None or memory.estimate(config).peak <= memory.MARGIN * available:
            return policy
    return "full"


def _attention_error(dtype: str) -> float:
    """Compare the device's attention with `chunked` in float32, gradients too: the largest relative error of a norm."""
    import jax
    import jax.numpy as jnp

    from motionv2v.models.attention.dispatch import attention

    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((1, 1024, 4, 64), np.float32), dtype) for _ in range(3)]

    def evaluate(name: str, arrays: list[Any]) -> list[Any]:
        attend = partial(attention, implementation=name)
        out, pull_back = jax.vjp(attend, *arrays)
        return [out, *pull_back(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype))]

    got = jax.jit(partial(evaluate, "auto"))(arrays)
    expected = jax.jit(partial(evaluate, "chunked"))([x.astype(jnp.float32) for x in arrays])
    pairs = zip(got, expected, strict=True)
    return max(float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in pairs)


def _product_rate(size: int = 2048) -> float:
    """Multiply two float32 matrices; return the best of five in operations per second."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size))
    product = jax.jit(jnp.matmul).lower(x, x).compile()
    times = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


def work_space(call: Callable[[], Any]) -> dict[str, Any]:
    """Run once to warm up and once more; return how far that lifts this process, in bytes, where Linux tells it."""
    call()
    mark = Path("/proc/self/clear_refs")
    if not mark.exists():
        return {}
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the process has freed, it gives back
    try:
        mark.write_text("5", encoding="ascii")
    except OSError:  # some containers forbid it
        return {}
    before = _resident("VmRSS")
    call()
    return {"rise": _resident("VmHWM") - before}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def serve(side: Any) -> None:
    """Do what the lines of the standard input say, until it ends."""
    for line in sys.stdin:
        order, *given = json.loads(line)
        try:
            answer = getattr(side, order)(*(Row(*row) for row in given))
        except Exception as error:  # told to the other end, whose table says so in the row's place
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(MARK + json.dumps(answer), flush=True)


def main() -> None:
    name, size, steps = sys.argv[1:4]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    config = make_config(size)
    if name == "torch":
        from sampling_torch import TorchSide

        serve(TorchSide(config, int(steps)))
    else:
        serve(JaxSide(config, int(steps)))


if __name__ == "__main__":
    main()
