"""The released model's configs, shrunk until they compile in seconds: 5 frames of 16x16, random weights."""

import jax
import numpy as np

from configs import base_tiny, motion_prompting_tiny, motionv2v_draft_tiny, motionv2v_tiny, revideo_tiny_1, vae_tiny
from motionv2v import checkpoints
from motionv2v.devices import memory

CONFIGS = {
    "vae": vae_tiny,
    "base": base_tiny,
    "control": motionv2v_tiny,
    "draft": motionv2v_draft_tiny,
    "prompted": motion_prompting_tiny,
    "remade": revideo_tiny_1,
}
LENGTH = 12


def config(kind="control", num_frames=5, size=(16, 16)):
    """Build the shrunken config of one of the stages, without latents and without earlier stages."""
    cfg = CONFIGS[kind].get_config()
    cfg.init_from = cfg.resume_from = ()
    cfg.vae.update({"block_channels": (4, 4, 4, 4), "norm_groups": 2, "layers_per_block": 1})
    cfg.data.update({"num_frames": num_frames, "size": size, "text_length": LENGTH, "latents": "", "num_workers": 0})
    cfg.data.scene.num_points = 4
    if kind == "vae":
        cfg.data.update({"crop": (5, 16, 16), "clips": 4})
    if kind != "vae":
        cfg.text.update({"width": 8, "num_layers": 1, "num_heads": 2, "head_dim": 4, "mlp_dim": 8})
        cfg.dit.update({"num_layers": 2, "num_heads": 2, "head_dim": 16, "text_dim": 8, "text_length": LENGTH})
        cfg.dit.time_embed_dim = 8
        cfg.sample.num_steps = 2
    if kind in ("control", "draft", "prompted", "remade"):
        cfg.dit.control_depth = 1
    cfg.optim.name = "adamw"  # a step of Muon, with loops for every shape of a matrix, takes twice as long to compile
    cfg.train.update({"steps": 3, "batch_size": 2, "log_every": 1, "probe_every": 0, "checkpoint_every": 0})
    cfg.train.probe_samples = 2
    return cfg


def random_params(shapes, seed=0):
    """Draw parameters of the given shapes of which none is at its initial value, as after training; numpy, fast."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 0.5 / np.sqrt(max(1, np.prod(leaf.shape[:-1]) ** 0.5))
        return (scale * rng.normal(size=leaf.shape) + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def save(folder, kind="control", **settings):
    """Write a model folder with random weights and return it."""
    cfg = config(kind, **settings)
    return checkpoints.save_model(folder, cfg, random_params(memory.parameter_shapes(cfg)), dtype="float32")
