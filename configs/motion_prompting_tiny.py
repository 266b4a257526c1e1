"""The tiny Motion Prompting model: a first frame and any number of tracks, on the frozen base. Released by its name.

    python launch/prepare.py --config=configs/motion_prompting_tiny.py --num_samples=20480
    python launch/train.py --config=configs/motion_prompting_tiny.py --config.train.backend=torch

Of each scene's dense tracks a number drawn evenly from 64 to 256 is shown, as the paper shows 1,000 to 2,000 of 16,384
at its size: trained on many tracks, a model also follows few (table 3). The volume has cells of 4x4 pixels, which hold
where what they show started, and not identities as the paper's (`methods.motion_prompting`). The probe tracks the
points again in what was made, for the loss does not tell whether they are followed.

The released weights, 2026-11-30, one CPU core beside other work, 20,480 clips, two stages in some 100 minutes: 897 of
2,000 planned steps (28,704 samples) with `--config.method.carries=False`, to a loss of 0.16; from their average
(`--config.resume_from`) 1,000 steps (32,000 samples, `--config.train.steps=1000`) with the first frame's latents
carried, to 0.13. Of 40 held-out clips (`launch/evaluate.py --benchmark=motion_prompting
--checkpoint=motion_prompting_tiny --num_clips=40`, eight views):

                            PSNR    SSIM    EPE (px)
    1 track                 19.54   0.69    2.55
    4 tracks                20.11   0.72    2.41
    16 tracks               21.90   0.77    1.85
    64 tracks               23.91   0.82    1.31
    256 tracks              25.24   0.85    1.17
    1,024 tracks            25.42   0.86    1.20
    first frame, held       18.46   0.68    4.12
    through the autoencoder 31.99   0.94    0.65
    its draft, 64 tracks    24.18   0.86    0.67

Things go where they are sent and blur on the way (released/motion_prompting_tiny/samples.jpg: 64 tracks; of each clip
tracks, made, true). 1,024 tracks, of which a cell takes the mean, are more than it was trained on.

Identities, as in the paper, learn far more slowly: 4,000 steps (128,000 samples, 75 minutes) with patches of two
latents, codes of 16 channels and nothing carried, on a base of `base_tiny.py` trained for 150,400 samples, ended at
21.65 dB and 3.20 px at 64 tracks. Both runs show what the paper found, that the loss does not tell whether control
works: with identities it falls to 0.25 in 1,000 steps in which points are followed no better than by holding the first
frame, and hardly further while they begin to be (identities.png beside the weights; places.png: the first stage above,
where that takes 300 steps; `python -m motionv2v.training.curves` draws them).
"""

from ml_collections import ConfigDict

from configs import base_tiny_fine, common


def get_config() -> ConfigDict:
    config = base_tiny_fine.get_config()
    config.name = "motion_prompting_tiny"
    config.init_from = ("base_tiny",)
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict(
        {"name": "motion_prompting", "channels": 18, "codes": "place", "carries": True, "cells": 2}
    )
    config.data.update({"caption_dropout": 0.5, "num_points": 256, "latents": "runs/latents_motion_prompting_tiny"})
    config.data.point_dropout = False
    config.data.scene = ConfigDict({"dense": True, "min_points": 64})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 1, "guidance": "off", "scale": 1.0, "views": 8})
    config.optim = common.branch_alone(2e-3)
    config.train.update({"steps": 2000, "batch_size": 32, "ema_decay": 0.98})
    return config
