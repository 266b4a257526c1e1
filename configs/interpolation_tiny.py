"""A tiny generator of the video between two frames: the released model's base with 16 further input channels.

    python launch/train.py --config=configs/interpolation_tiny.py --workdir=runs/interpolation_tiny

Starts from the autoencoder, text encoder and base inside the released `tiny`. Scenes are drawn and encoded anew at
every step; to encode them once instead:

    python launch/prepare.py --config=configs/interpolation_tiny.py --out=runs/latents_interpolation --num_samples=4096
    python launch/train.py --config=configs/interpolation_tiny.py --config.data.latents=runs/latents_interpolation

The probe compares held-out scenes, generated from their first and last frames, with a cross-fade of the two.
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name = "interpolation_tiny"
    config.init_from = ("tiny",)
    config.dit.in_channels = 32
    config.method = ConfigDict({"name": "interpolation", "drop_last": 0.1, "image_scale": 1.0})
    config.data.latents = ""
    config.optim = common.optimizer(
        ("(vae|text)/.*", None), ("dit/.*", {"peak": 1e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}), name="muon"
    )
    config.train.update({"steps": 2000, "batch_size": 16, "ema_decay": 0.99})
    return config
