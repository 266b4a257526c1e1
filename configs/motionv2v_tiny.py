"""The tiny MotionV2V model, stage 3 of 3: the control branch on the frozen base. Released as `tiny`.

    python launch/train.py --config=configs/motionv2v_tiny.py --workdir=runs/motionv2v_tiny

The released weights, on two shared CPU cores, 2026-11-21, were trained in five runs: 1,600 steps on latents of an
earlier autoencoder and earlier scenes (51,200 samples, 29 minutes); from there
`--config.resume_from="('tiny','runs/base_tiny','runs/vae_tiny')" --config.train.steps=3200` on latents of 6,144 pairs
(102,400 samples, 52 minutes), in which held-out PSNR stopped following the training loss at 2,000 steps; from there
`--config.resume_from="('tiny',)" --config.train.steps=3600` on latents of 18,432 pairs (115,200 samples, 94 min), to
a loss of 0.220; and the same command once more with half the rate and more of the noise that a single step starts
from, `--config.loss.power=6.0 --config.optim.schedule="(('(vae|text)/.*',None),('(dit/control|conditioner)/.*',
{'peak':1e-3,'warmup':100,'decay':'cosine','end':1e-5}),('dit/.*',None))"` (115,200 samples, 30 samples/s beside other
work, 60 minutes), to a mean loss of 0.209 over the last 200 steps; and once more so with `'peak':1.5e-3`,
`--config.loss.power=8.0 --config.train.steps=6000` (192,000 samples, 112 minutes), to one of 0.195. The final
table is in motionv2v/evaluation/README.md.

One denoising step by default: on 60 held-out pairs of seed 11 the model of the second run scored 22.8 / 22.4 / 21.9 /
21.5 dB and follow-EPE 6.5 / 7.5 / 8.2 / 8.6 px with 1 / 2 / 4 / 8 steps. An unconverged model is better at guessing the
mean than at drawing detail, and one step is the mean. What such a sample makes of eight views of the clip is averaged
(`motionv2v.editing.ensemble`); that table has the numbers with and without.
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name = "motionv2v_tiny"
    config.init_from = ("runs/vae_tiny", "runs/base_tiny")
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "motionv2v", "sigma": 3.0, "colors": "any", "first_frame_latents": False})
    config.data.update({"caption_dropout": 0.5, "swap": 0.5})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 1, "guidance": "off", "scale": 1.0, "views": 8})
    config.optim = common.branch_alone(2e-3)
    config.train.update({"steps": 1600, "batch_size": 32, "ema_decay": 0.99})
    return config
