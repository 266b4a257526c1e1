"""The tiny text-to-video base, stage 2 of 3 of the released model `tiny`.

    python launch/prepare.py --config=configs/motionv2v_tiny.py --num_samples=4096
    python launch/train.py --config=configs/base_tiny.py --workdir=runs/base_tiny

The released weights, on two shared CPU cores, 2026-11-21: encoding 6,144 pairs took 15 minutes (7.2 pairs/s); the
control branch was later trained on 18,432. 700 steps on an earlier autoencoder's latents of earlier scenes (22,400
samples, 9 minutes), then, from there, `--config.resume_from="('tiny','runs/vae_tiny')" --config.train.steps=400`
(12,800 samples, 4 minutes, 53 samples/s), to a loss of 0.371. Far from converged: backgrounds have the colours that the
text names, shapes are vague.
"""

from ml_collections import ConfigDict

from configs import common

VAE_SCALING_FACTOR = 1.721
"""One over the standard deviation of the latents of scenes, as the autoencoder's last probe printed it."""


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "base_tiny", "init_from": ("runs/vae_tiny",), "resume_from": ()})
    config.vae = common.vae_tiny()
    config.vae.scaling_factor = VAE_SCALING_FACTOR
    config.text = common.text_tiny()
    config.dit = common.dit_tiny()
    config.schedule = common.schedule_tiny()
    config.data = common.data_tiny()
    config.data.latents = "runs/latents_tiny"
    config.loss = ConfigDict({"timesteps": "uniform", "images": False})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 20, "guidance": "constant", "scale": 3.0})
    config.optim = common.optimizer(
        ("vae/.*", None), ("(text|dit)/.*", {"peak": 2e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}), name="muon"
    )
    config.train = common.train_defaults()
    config.train.update({"steps": 700, "batch_size": 32, "ema_decay": 0.99})
    config.mesh = common.mesh()
    return config
