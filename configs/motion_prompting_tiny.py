"""The tiny Motion Prompting model: a first frame and any number of tracks, on the frozen base. Not released yet.

    python launch/prepare.py --config=configs/motion_prompting_tiny.py --num_samples=8192
    python launch/train.py --config=configs/motion_prompting_tiny.py

Of each scene's dense tracks a number drawn evenly from 64 to 256 is shown, as the paper shows 1,000 to 2,000 of 16,384
at its size: trained on many tracks, a model also follows few (table 3). The volume has cells of 4x4 pixels. The
probe tracks the points again in what was made, for the loss does not tell whether they are followed.

A first run, 2026-11-30, far from converged and not released: latents of 20,480 clips, on a base of `base_tiny.py` that
was trained for 150,400 samples (`--config.init_from`), `--config.train.backend=torch --config.train.ema_decay=0.99
--config.train.probe_every=250 --config.sample.num_steps=1`, 4,000 steps (128,000 samples) on one CPU core beside other
work, 75 minutes, to a loss of 0.20. For the first 1,000 steps, in which the loss fell from 0.49 to 0.25, the probe's
points were followed no better than by holding the first frame (EPE 5.9 px, held 6.1); then it fell, to 4.7 at 2,000
steps and 4.2 at the end (`python -m motionv2v.training.curves` draws that). Of 40 held-out clips (`launch/evaluate.py
--benchmark=motion_prompting --checkpoint=... --num_clips=40`, eight views):

                            PSNR    SSIM    EPE (px)
    1 track                 20.06   0.72    4.07
    16 tracks               21.03   0.74    3.62
    64 tracks               21.65   0.76    3.20
    256 tracks              22.03   0.76    2.94
    1,024 tracks            21.76   0.76    3.13
    first frame, held       18.46   0.68    4.12
    its draft, 64 tracks    24.18   0.86    0.67
"""

from ml_collections import ConfigDict

from configs import base_tiny_fine, common


def get_config() -> ConfigDict:
    config = base_tiny_fine.get_config()
    config.name = "motion_prompting_tiny"
    config.init_from = ("base_tiny",)
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "motion_prompting", "channels": 18, "codes": "place", "cells": 2})
    config.data.update({"caption_dropout": 0.5, "num_points": 256, "latents": "runs/latents_motion_prompting_tiny"})
    config.data.point_dropout = False
    config.data.scene = ConfigDict({"dense": True, "min_points": 64})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 1, "guidance": "off", "scale": 1.0})
    config.optim = common.branch_alone(2e-3)
    config.train.update({"steps": 2000, "batch_size": 32, "ema_decay": 0.98})
    return config
