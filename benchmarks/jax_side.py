"""Our side: `python jax_side.py SIZE STEPS FOLDER`, told by `harness.Side` what to run.

Weights are random, or the ones that PyTorch's side has saved in FOLDER; what they are does not change the time.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rows
from harness import serve

from motionv2v import backbone, convert, editing, parameters
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.devices import fit, flops, memory, sharding
from motionv2v.models.attention.dispatch import attention
from motionv2v.models.layers import REMAT_NAMES
from motionv2v.models.vae.convolution import causal
from motionv2v.tracks import Tracks
from motionv2v.training import loop, tasks
from motionv2v.training.optimizer import make_optimizer
from motionv2v.typing import PyTree

FOLDERS = {"vae": "vae", "text": "text_encoder", "dit": "transformer"}
"""Of a pipeline in diffusers' form, by our names of the networks."""


class WholeClips(tasks.VaeTask):
    """The autoencoder's training without what prepares its batches: clips as they are, neither cut nor drawn."""

    def videos(self, key: Any, batch: dict[str, Any]) -> jax.Array:
        """Return the target clips in [-1, 1]."""
        del key
        return batch["target"].astype(jnp.float32) / 127.5 - 1


class JaxSide:
    """Random weights on the default device, and a method for each kind of row, which returns what is timed."""

    def __init__(self, size: str, steps: int, folder: Path):
        # First calls compile, whatever earlier runs left behind.
        jax.config.update("jax_enable_compilation_cache", False)
        self.size, self.steps, self.config = size, steps, rows.make_config(size)
        self.dtype = jnp.dtype(self.config.dit.get("dtype", "float32"))
        self.model = backbone.build(self.config)
        self.params = random_params(self.config, self.dtype)
        for name in FOLDERS:
            if (folder / FOLDERS[name]).exists():
                self.params[name] = _load(folder / FOLDERS[name], self.params[name], self.dtype)
        self.grid, self.channels = rows.latent_grid(self.config), self.config.vae.latent_channels
        self.wide_grid = rows.SIZES[size].grid or self.grid
        self._editors: dict[int, editing.Editor] = {}
        self._peak = 0

    def about(self) -> dict[str, Any]:
        """Name the device, count parameters, and compare attention with a plain one: fast and wrong is not timed."""
        error = attention_error(self.dtype)
        if not error < 0.02:  # bfloat16 has 8 bits: 0.4 % for a number, less for a norm over many
            raise ValueError(f"attention on this device is off by {error:.1%}: its times would mean nothing")
        count = {name: parameters.count(self.params[name]) for name in ("vae", "text")}
        branch = parameters.count((self.params["dit"]["control"], self.params["conditioner"]))
        count |= {"transformer": parameters.count(self.params["dit"]) - branch, "branch": branch}
        count["transformer"] += parameters.count(self.params["conditioner"])
        device = jax.devices()[0]
        return {"device": device.device_kind, "platform": device.platform, "parameters": count}

    def prepare(self, row: rows.Row) -> Callable[[], np.ndarray]:
        """Return the call that a row times."""
        return getattr(self, row.kind)(*row.how)

    def peak(self) -> dict[str, float]:
        """Return the peak of the device's memory, where it tells one and the last call has raised it."""
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        rose, self._peak = peak > self._peak, max(peak, self._peak)
        return {"peak": float(peak)} if rose else {}

    def release(self) -> None:
        """Give back what is held for a row."""
        gc.collect()

    def _given(self, name: str, *shape: int) -> jax.Array:
        return jnp.asarray(rows.normal(name, *shape), self.dtype)

    def _text(self, count: int) -> jax.Array:
        return jnp.asarray(rows.normal("text", count, self.config.data.text_length, self.config.dit.text_dim))

    def product(self) -> Callable[[], np.ndarray]:
        """Multiply as a feed-forward layer does."""
        _, tokens, heads, depth = rows.attention_shape(self.config, self.wide_grid)
        return _call(
            jnp.matmul, self._given("a", tokens, heads * depth), self._given("b", heads * depth, 4 * heads * depth)
        )

    def attention(self) -> Callable[[], np.ndarray]:
        """Attend as one block does."""
        shape = rows.attention_shape(self.config, self.wide_grid)
        return _call(partial(attention, implementation="auto"), *(self._given(name, *shape) for name in "qkv"))

    def convolution(self, impl: str) -> Callable[[], np.ndarray]:
        """Convolve as the decoder does at the clips' size."""
        frames, height, width, channels = rows.convolution_shape(self.config)
        kernel = self._given("kernel", 3, 3, 3, channels, channels)
        x, before = (self._given(name, 1, n, height, width, channels) for name, n in (("x", frames), ("before", 2)))
        return _call(partial(causal, impl=impl), x, before, kernel)

    def predict(self, *how: str) -> Callable[[], np.ndarray]:
        """Predict v once, latents to latents."""
        use_control, shape = "control" in how, (1, *self.wide_grid, self.channels)
        names = backbone.condition_shapes(self.model)["videos"] if use_control else ()
        conditions = {"videos": {name: self._given(name, *shape) for name in names}}
        predict = partial(backbone.denoise, self.model, use_control=use_control)
        return _call(predict, self.params, self._given("xt", *shape), np.full(1, 500), self._text(1), conditions)

    def encode(self) -> Callable[[], np.ndarray]:
        """Encode clips to their latents' mode."""
        videos = jnp.asarray(rows.clips(self.config, rows.SIZES[self.size].clips)) / 127.5 - 1
        return _call(partial(backbone.encode, self.model), self.params, videos)

    def decode(self) -> Callable[[], np.ndarray]:
        """Decode latents to clips in [-1, 1]."""
        latents = self._given("latents", rows.SIZES[self.size].clips, *self.grid, self.channels)
        return _call(partial(backbone.decode, self.model), self.params, latents)

    def text(self) -> Callable[[], np.ndarray]:
        """Encode captions."""
        tokens = rows.tokens(self.config, rows.SIZES[self.size].batch)
        return _call(partial(backbone.embed_text, self.model), self.params, tokens)

    def sample(self, *how: str) -> Callable[[], np.ndarray]:
        """Make a video: from noise (with control: from frames and tracks) to uint8 frames; or edit one."""
        editor, batch = self._editor("batch" in how), rows.edit_batch(self.config)
        if "edit" in how:
            tracks = [Tracks(batch[f"{side}_xy"][0], batch[f"{side}_visible"][0]) for side in ("source", "target")]
            prompts = iter(range(10**9))

            def edit() -> np.ndarray:
                # Another prompt each time, because an editor remembers the embeddings of those it has seen.
                options = {"prompt": str(next(prompts)), "num_views": 1, "notify": lambda text: None}
                return editor.edit(batch["source"][0], *tracks, **options).frames

            return edit
        reuse = rows.reused(self.steps) if "cache" in how else None
        settings = editor.settings(self.steps, rows.GUIDANCE if "guidance" in how else 1.0, reuse)
        caption, use_control = editor.tokenizer.encode(["a red disk"]), "control" in how
        key = jax.random.key(0)
        return lambda: np.asarray(editor.sample(key, batch, caption, settings, use_control=use_control))[0]

    def _editor(self, is_batch: bool) -> editing.Editor:
        """Return the editor; on a mesh, also of one device, it predicts with and without text as one batch."""
        if is_batch not in self._editors:
            mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1]) if is_batch else None
            tokenizer = ByteTokenizer(self.config.data.text_length)
            self._editors = {is_batch: editing.Editor(self.config, self.params, mesh=mesh, tokenizer=tokenizer)}
        return self._editors[is_batch]

    def train(self, stage: str) -> Callable[[], np.ndarray]:
        """Make the training loop's own step on a batch in host memory; the loss."""
        task, params, batch = self._training(stage)
        config, self._editors = task.config, {}
        optimizer = make_optimizer(config, params)
        trainable, frozen = parameters.partition(params, config.optim.schedule)
        # The loop keeps what no step reads off the device, such as an autoencoder whose latents are cached.
        frozen = {name: tree for name, tree in frozen.items() if name in _read(task, batch)}
        step, state = loop.make_train_step(task.loss, optimizer, config), loop.init_state(trainable, optimizer)

        def run() -> np.ndarray:
            nonlocal state
            state, metrics = step(state, frozen, batch)
            return np.asarray(jax.block_until_ready((state, metrics))[1]["loss"])

        return run

    def loss(self, stage: str) -> Callable[[], np.ndarray]:
        """Compute the loss of a training step alone."""
        task, params, batch = self._training(stage)
        params = {name: tree for name, tree in params.items() if name in _read(task, batch)}
        return _call(lambda params, batch: task.loss(jax.random.key(0), params, batch)[0], params, batch)

    def _training(self, stage: str) -> tuple[Any, PyTree, dict[str, np.ndarray]]:
        """Return a stage's task, its parameters, and a batch in host memory."""
        config, size = rows.stage_config(self.config, self.size, stage), rows.SIZES[self.size]
        if stage == "vae":
            return WholeClips(config), {"vae": self.params["vae"]}, {"target": rows.clips(config, size.clips)}
        if jax.default_backend() != "cpu":
            config.dit.remat = roomiest_remat(config)
        task = tasks.make(config)
        videos = backbone.condition_shapes(task.model)["videos"] if stage == "control" else ["source_video"]
        # float16, as they are cached.
        shape = (size.batch, *self.grid, self.channels)
        batch = {f"{name}_latents": rows.normal(name, *shape).astype(np.float16) for name in ("target", *videos)}
        batch["tokens"] = rows.tokens(config, size.batch)
        if config.data.text_embeddings:
            batch["text"] = np.asarray(self._text(size.batch), np.float16)
        params = dict(self.params)
        if stage == "base":
            params["dit"] = {name: tree for name, tree in params["dit"].items() if name != "control"}
            del params["conditioner"]
        return task, params, batch

    def facts(self, row: rows.Row) -> dict[str, float]:
        """Return the operations that one call of a row needs, where they are counted."""
        needed = self._operations(row)
        return {} if needed is None else {"operations": float(needed)}

    def _operations(self, row: rows.Row) -> float | None:
        """Count what a call needs of the transformer (`devices.flops`), or of a single product; None for others."""
        size, length = rows.SIZES[self.size], self.config.data.text_length
        if row.kind in ("product", "attention", "convolution"):
            return rows.operations(row, self.config, self.wide_grid)
        if row.kind == "train" and "vae" not in row.how:
            task, params, _ = self._training(*row.how)
            schedule = task.config.optim.schedule
            return size.batch * flops.train_step(task.model.denoiser.dit, self.grid, length, params, schedule)
        if row.kind not in ("predict", "sample", "loss"):
            return None
        grid = self.wide_grid if row.kind == "predict" else self.grid
        once = flops.forward(self.model.denoiser.dit, grid, length, "control" in row.how, self.params).total
        if row.kind != "sample":
            return once * (size.batch if row.kind == "loss" else 1)
        editor = self._editor(False)
        settings = editor.settings() if "edit" in row.how else editor.settings(self.steps, rows.GUIDANCE)
        steps = settings.num_steps - (sum(rows.reused(self.steps)) if "cache" in row.how else 0)
        return once * steps * (1 if settings.guidance.kind == "off" else 2)


def random_params(config: Any, dtype: Any = jnp.float32) -> PyTree:
    """Draw a tree of the shapes that `config` has; nothing is zero, so that no work can be skipped."""
    shapes = jax.eval_shape(lambda key: backbone.init_params(key, backbone.build(config)), jax.random.key(0))
    # One small program per shape; drawn on the device, because 8 billion numbers take minutes anywhere else.
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=1)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), len(leaves))
    return tree.unflatten([draw(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


def roomiest_remat(config: Any, available: float | None = None) -> str:
    """Choose the remat policy that computes least twice of those that fit the device; `available`: its bytes."""
    available, config = fit.capacity() if available is None else available, config.copy_and_resolve_references()
    for policy in reversed(REMAT_NAMES):
        config.dit.remat = policy
        if available is None or memory.estimate(config).peak <= memory.MARGIN * available:
            return policy
    return "full"


def attention_error(dtype: Any) -> float:
    """Compare the device's attention with `chunked` in float32, gradients too: the largest relative error of a norm."""
    arrays = [jnp.asarray(rows.normal(name, 1, 1024, 4, 64), dtype) for name in "qkv"]

    def evaluate(name: str, arrays: list[Any]) -> list[Any]:
        out, pull_back = jax.vjp(partial(attention, implementation=name), *arrays)
        return [out, *pull_back(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype))]

    got = jax.jit(partial(evaluate, "auto"))(arrays)
    expected = jax.jit(partial(evaluate, "chunked"))([x.astype(jnp.float32) for x in arrays])
    pairs = zip(got, expected, strict=True)
    return max(float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in pairs)


def _read(task: Any, batch: dict[str, Any]) -> tuple[str, ...]:
    """Name the subtrees of the parameters that a task's loss reads with such a batch."""
    if isinstance(task, tasks.VaeTask):
        return ("vae",)
    return backbone.step_reads(latents="target_latents" in batch, text="text" in batch)


def _load(folder: Path, own: PyTree, dtype: Any) -> PyTree:
    """Take weights in diffusers' form; what a base lacks, a branch, stays as it is."""
    flat = parameters.flatten(own)
    for path, array in parameters.flatten(convert.from_diffusers(folder)[1]).items():
        if flat[path].shape != array.shape:
            raise ValueError(f"{folder.name}: {path} is {array.shape} in diffusers and {flat[path].shape} here")
        flat[path] = jnp.asarray(array, dtype)
    return parameters.unflatten(flat)


def _call(function: Callable[..., Any], *arguments: Any) -> Callable[[], np.ndarray]:
    """Compile a function at its first call; its result is there when a call returns."""
    compiled = jax.jit(function)
    return lambda: np.asarray(compiled(*arguments))


if __name__ == "__main__":
    serve(JaxSide(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
