"""A config file for launch/train.py in tests/devices/multiprocess_test.py: a text-to-video base, as small as can be."""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import tiny_model

from motionv2v import backbone, checkpoints
from motionv2v.data import latents

SAMPLES = 22  # no multiple of the batch, so that batches cross the ends of epochs


def get_config():
    """Build the config; `--config.data.latents` and `--config.resume_from` name what `write` wrote."""
    cfg = tiny_model.config("base")
    cfg.name = "job"
    cfg.dit.update({"num_layers": 1, "scan_unroll": False})
    cfg.optim.name = "adamw"
    # Adam's division by the root of a tiny second moment would turn rounding into steps of full size.
    cfg.optim.eps = 1e-3
    cfg.optim.schedule = tuple((pattern, options and {"peak": 1e-2}) for pattern, options in cfg.optim.schedule)
    cfg.sample.num_steps = 1
    cfg.train.update({"batch_size": 4, "checkpoint_every": 4, "keep": 2, "probe_samples": 1})
    cfg.train.probe_every = 4
    cfg.mesh = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
    return cfg


def write(folder):
    """Write random latents to FOLDER/latents, and to FOLDER/model random weights none of which is at its start."""
    rng = np.random.default_rng(0)
    videos = {
        f"{name}_latents": rng.normal(size=(SAMPLES, 2, 2, 2, 16)).astype(np.float16)
        for name in ("target", "source_video")
    }
    tokens = rng.integers(0, 256, (SAMPLES, tiny_model.LENGTH)).astype(np.int32)
    (folder / "latents").mkdir()
    latents.write_shard(folder / "latents", 0, videos | {"tokens": tokens, "null_tokens": np.full_like(tokens, 46)})
    cfg = get_config()
    model = backbone.build(cfg)
    shapes = jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))
    checkpoints.save_model(folder / "model", cfg, tiny_model.random_params(shapes), dtype="float32")
