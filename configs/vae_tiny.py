r"""The tiny autoencoder, stage 1 of 3 of the released model `tiny`.

Many cheap steps on small pieces of clips, then a few on whole clips, which fit the norms' statistics to their size:

    python launch/train.py --config=configs/vae_tiny.py --workdir=runs/vae_tiny_crops
    python launch/train.py --config=configs/vae_tiny.py --workdir=runs/vae_tiny \
        --config.init_from="('runs/vae_tiny_crops',)" --config.data.crop="(17,64,64)" --config.data.clips=2 \
        --config.train.steps=260 --config.train.ema_decay=0.97

The released weights went through both twice, on two shared CPU cores, 2026-11-21. First on scenes with harder edges
and faster motion: 2,483 steps of the first command and 260 of the second, 21 minutes. Then from there, on the scenes as
they are now: `--config.init_from="('tiny',)" --config.train.steps=6500 --config.data.blob_share=0.35`, 34 minutes, and
360 steps of the second, 5 minutes. The last probe (8 held-out scenes): reconstruction PSNR 32.3 dB on scenes, 35.5 dB
on blobs, standard deviation of the latents 0.581. On crops it rose from 28.2 to 35.4 dB, to the end. At last the
decoder alone, so that latents stay what they are, on whole clips (`--config.data.clips=2 --config.train.steps=2800
--config.train.ema_decay=0.99 --config.data.blob_share=0.1 --config.loss.edges=2.0` and an `optim.schedule` that
freezes `vae/encoder/.*`), 5,600 samples in 65 minutes beside other work: 32.3 to 33.6 dB on scenes.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "vae_tiny", "init_from": ()})
    config.vae = common.vae_tiny()
    config.data = common.data_tiny()
    config.data.update({"crop": (5, 32, 32), "clips": 8, "blob_share": 0.4, "sigma": 3.0, "colors": "any"})
    config.loss = ConfigDict({"l1": 1.0, "mse": 5.0, "edges": 0.0, "kl": 1e-4})
    rate = {"peak": 4e-3, "warmup": 50, "decay": "cosine", "end": 1e-5}
    config.optim = common.optimizer((".*", rate), name="muon")
    config.train = common.train_defaults()
    config.train.update({"steps": 4000, "batch_size": 2, "ema_decay": 0.995})
    config.mesh = common.mesh()
    return config
