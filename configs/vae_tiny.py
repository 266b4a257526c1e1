"""The tiny autoencoder, stage 1 of 3 of the released model `tiny`.

python launch/train.py --config=configs/vae_tiny.py --workdir=runs/vae_tiny
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "vae_tiny", "kind": "vae", "init_from": ()})
    config.vae = common.vae_tiny()
    config.data = common.data_tiny()
    config.data.update({"crop": (5, 32, 32), "clips": 8, "blob_share": 0.4, "sigma": 3.0, "colors": "any"})
    config.loss = ConfigDict({"l1": 1.0, "mse": 5.0, "kl": 1e-4})
    rate = {"peak": 4e-3, "warmup": 50, "decay": "cosine", "end": 1e-5}
    config.optim = common.optimizer((".*", rate), name="muon")
    config.train = common.train_defaults()
    config.train.update({"steps": 4000, "batch_size": 2, "ema_decay": 0.995})
    return config
