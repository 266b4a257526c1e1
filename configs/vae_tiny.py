"""The tiny autoencoder, stage 1 of 3 of the released model `tiny`.

    python launch/train.py --config=configs/vae_tiny.py --workdir=runs/vae_tiny
"""

from configs import common
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "vae_tiny", "kind": "vae", "init_from": ()})
    config.vae = common.vae_tiny()
    config.data = common.data_tiny()
    config.data.blob_share = 0.25
    config.data.sigma = 2.0
    config.data.colors = "any"
    config.loss = ConfigDict({"kl": 1e-4})
    config.optim = common.adamw((".*", {"peak": 2e-3, "warmup": 50, "decay": "cosine", "end": 1e-5}))
    config.train = common.train_defaults()
    config.train.update({"steps": 1000, "batch_size": 4, "ema_decay": 0.995, "checkpoint_every": 100})
    return config
