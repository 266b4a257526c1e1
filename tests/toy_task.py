"""A task small enough to train in a second, with everything the loop has to get right: frozen weights, a loss that
draws random numbers, strings in the batch, and a data iterator with state."""

import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motionv2v.data.workers import end_with_parent

FEATURES = 4
TRUTH = np.linspace(-1, 1, FEATURES * 2, dtype=np.float32).reshape(FEATURES, 2)


def config(**changes):
    """Build the toy's config; keyword arguments replace fields of `train` or `task`, where they exist."""
    cfg = ConfigDict(
        {
            "name": "toy",
            "task": {"noise": 0.1, "delay": 0.0, "num_workers": 0, "nan_from": -1},
            "train": {
                "steps": 20, "batch_size": 8, "accumulate": 1, "seed": 3, "log_every": 5, "checkpoint_every": 5,
                "probe_every": 10, "keep": 2, "ema_decay": 0.9, "clip_norm": 1.0,
            },
            "optim": {
                "name": "adamw", "b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 1e-3,
                "schedule": (("base/.*", None), ("head/.*", {"peak": 0.1, "warmup": 2, "decay": "cosine"})),
            },
        }
    )  # fmt: skip
    for name, value in changes.items():
        (cfg.train if name in cfg.train else cfg.task)[name] = value
    return cfg


class MakeSample:
    """Draw sample `index`: picklable, so that worker processes can; slow on request."""

    def __init__(self, delay, nan_from):
        self.delay, self.nan_from = delay, nan_from

    def __call__(self, index):
        time.sleep(self.delay)
        x = np.random.default_rng(index).normal(size=FEATURES).astype(np.float32)
        bad = 0 <= self.nan_from <= index
        return {"x": x, "y": x @ TRUTH + (np.float32("nan") if bad else np.float32(0)), "caption": f"sample {index}"}


class ToyTask:
    """Fit y = x @ TRUTH by head(base(x)), with a frozen identity as base."""

    def __init__(self, cfg):
        self.config, self.probed = cfg, []

    def init(self, key):
        kernel = jax.random.normal(key, (FEATURES, 2)) * 0.1
        return {"base": {"kernel": jnp.eye(FEATURES)}, "head": {"kernel": kernel, "bias": jnp.zeros(2)}}

    def loss(self, key, params, batch):
        x = batch["x"] + self.config.task.noise * jax.random.normal(key, batch["x"].shape)
        y = x @ params["base"]["kernel"] @ params["head"]["kernel"] + params["head"]["bias"]
        error = jnp.square(y - batch["y"])
        return error.mean(), {"worst": error.max()}

    def dataset(self, split="train"):
        samples = grain.MapDataset.range(64).seed(5)
        if self.config.task.nan_from < 0:
            samples = samples.shuffle()
        samples = samples.repeat().map(MakeSample(self.config.task.delay, self.config.task.nan_from))
        stream = samples.batch(self.config.train.batch_size).to_iter_dataset(grain.ReadOptions(1, 2))
        if self.config.task.num_workers:
            options = grain.MultiprocessingOptions(self.config.task.num_workers, per_worker_buffer_size=1)
            stream = stream.mp_prefetch(options, worker_init_fn=end_with_parent)
        return stream

    def probe(self, key, params):
        error = float(jnp.abs(params["head"]["kernel"] - TRUTH).max())
        self.probed.append(error)
        return {"scalars": {"error": error}, "videos": {"grey": np.full((2, 16, 16, 3), 128, np.uint8)}}
