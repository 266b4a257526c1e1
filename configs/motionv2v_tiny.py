"""The tiny MotionV2V model, stage 3 of 3: the control branch on the frozen base. Released as `tiny`.

    python launch/train.py --config=configs/motionv2v_tiny.py --workdir=runs/motionv2v_tiny

Measured on two shared CPU cores, 2026-11-21: 1,600 steps (51,200 samples of 4,096 pairs, 30 samples/s) took 29 minutes.
Eight held-out pairs while it trained: PSNR 16.1, 18.2, 19.3 and 19.6 dB at step 0, 400, 800 and 1,200, copying the
source 16.9 dB. It was still improving when the time was up; README has the final table.

Two denoising steps by default: on 40 held-out pairs of seed 11 the final model scored 20.4 / 20.0 / 19.7 / 19.5 dB and
follow-EPE 12.3 / 12.9 / 13.5 / 13.5 px with 2 / 4 / 8 / 20 steps. An unconverged model is better at guessing the mean
than at drawing detail, and few steps stay close to the mean.
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name, config.kind = "motionv2v_tiny", "control"
    config.init_from = ("runs/vae_tiny", "runs/base_tiny")
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "motionv2v", "sigma": 3.0, "colors": "any", "first_frame_latents": False})
    config.data.update({"caption_dropout": 0.5, "swap": 0.5})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 2, "guidance": "off", "scale": 1.0})
    config.optim = common.optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 2e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}),
        ("dit/.*", None),
        name="muon",
    )
    config.train.update({"steps": 1600, "batch_size": 32, "ema_decay": 0.99})
    return config
