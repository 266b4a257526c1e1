"""Training steps of the tiny models with the transformer in JAX and in PyTorch (`train.backend`): table `backends`."""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from harness import number, print_table

from configs import base_tiny_fine, motionv2v_tiny
from motionv2v import backbone, parameters, sections
from motionv2v.data import latents
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.training import loop, optimizer, tasks

CASES = (
    ("text to video, single frames", base_tiny_fine, True, 128),
    ("text to video, clips", base_tiny_fine, False, 32),
    ("MotionV2V's branch", motionv2v_tiny, False, 32),
)
"""What is trained, its config, whether on single latent frames (`loss.images`), and samples of a step."""
BACKENDS = ("jax", "torch")


def print_backends(options: Namespace) -> None:
    """Print samples a second of whole training steps, latents given; both sides take turns in one process."""
    rows = []
    for name, module, images, batch_size in CASES[:1] if options.quick else CASES:
        batch_size = 2 if options.quick else batch_size
        steps = {backend: make_step(module, backend, images, batch_size) for backend in BACKENDS}
        found: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
        for _ in range(1 if options.quick else options.repeats):
            for backend, step in steps.items():
                found[backend].append(batch_size / turn(step, options.block))
        speeds = {backend: statistics.median(values) for backend, values in found.items()}
        ratio = f"{speeds['torch'] / speeds['jax']:.2f}x"
        rows.append([name, str(batch_size), *(number(speeds[backend]) for backend in BACKENDS), ratio])
    print_table(["trained", "batch", "JAX samples/s", "torch samples/s", "torch / JAX"], rows, options.markdown)


def make_step(module: Any, backend: str, images: bool, batch_size: int) -> Callable[[], None]:
    """Build one training step of a config on random latents and weights, compiled; a call waits until it is done."""
    config = module.get_config()
    config.loss.images = images
    config.train.update({"backend": backend, "batch_size": batch_size})
    config = sections.complete(config)
    task = tasks.make(config)
    params = jax.jit(lambda key: backbone.init_params(key, task.model))(jax.random.key(0))
    trainable, frozen = parameters.partition(params, task.trainable)
    chosen = optimizer.make_optimizer(config, params)
    state, step_fn = loop.init_state(trainable, chosen), loop.make_train_step(task.loss, chosen, config)
    batch = draw_batch(task.model, batch_size)

    def step() -> None:
        nonlocal state
        state, metrics = step_fn(state, frozen, batch)
        jax.block_until_ready(metrics["loss"])

    step()
    return step


def draw_batch(model: backbone.Model, batch_size: int) -> dict[str, np.ndarray]:
    """Draw what `launch/prepare.py` would have stored: latents of the target and of the method's conditions, tokens."""
    rng = np.random.default_rng(0)
    shape = latent_shape((1, *backbone.clip_shape(model)), model.vae.latent_channels)[1:]
    arrays = {"target_latents": jax.ShapeDtypeStruct(shape, np.float32)}
    if model.method is not None:
        arrays |= latents.stored(backbone.condition_shapes(model))
    batch = {name: rng.normal(size=(batch_size, *x.shape)).astype(np.float16) for name, x in arrays.items()}
    length = model.config.data.text_length
    return batch | {"tokens": rng.integers(3, 200, (batch_size, length)).astype(np.int32)}


def turn(step: Callable[[], None], least: float) -> float:
    """Return the seconds of a step, over at least so many seconds."""
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < least or not count:
        step()
        count += 1
    return (time.perf_counter() - begun) / count
