"""The tiny Motion Prompting model: a first frame and any number of tracks, on the frozen base. Released by its name.

    python launch/prepare.py --config=configs/motion_prompting_tiny.py --num_samples=20480
    python launch/train.py --config=configs/motion_prompting_tiny.py --config.train.backend=torch

Of each scene's dense tracks 16 to 1,024 are shown, their number drawn evenly in its logarithm; the paper shows 1,000 to
2,000 of 16,384 at its size. The volume has cells of 4x4 pixels, which hold where what they show started, and not
identities as the paper's (`methods.motion_prompting`). The probe tracks the points again in what was made, for the loss
does not tell whether they are followed.

The released weights, 2026-11-30, one CPU core beside other work, three stages, each from the last one's average
(`--config.resume_from`):

1. 20,480 clips with 64 to 256 tracks, drawn evenly (`--config.data.num_points=256 --config.data.scene.min_points=64
   --config.data.scene.log_points=False`, for launch/prepare.py too), `--config.method.carries=False`: 897 of 2,000
   planned steps (28,704 samples), to a loss of 0.16;
2. the same clips with the first frame's latents carried, 1,000 steps (32,000 samples), to 0.13; both in 100 minutes;
3. 15,360 clips as this config has them, 1,000 steps (32,000 samples, some 55 minutes), to 0.125.

Of 40 held-out clips (`launch/evaluate.py --benchmark=motion_prompting --checkpoint=motion_prompting_tiny
--num_clips=40`, eight views), beside the weights after stage 2:

                            PSNR    SSIM    EPE (px)  after stage 2
    1 track                 20.43   0.73    1.98      19.54, 2.55
    4 tracks                21.09   0.76    1.73      20.11, 2.41
    16 tracks               22.70   0.79    1.37      21.90, 1.85
    64 tracks               24.46   0.84    1.16      23.91, 1.31
    256 tracks              25.68   0.86    1.10      25.24, 1.17
    1,024 tracks            26.00   0.87    1.08      25.42, 1.20
    first frame, held       18.46   0.68    4.12
    through the autoencoder 31.99   0.94    0.65
    its draft, 64 tracks    24.18   0.86    0.67

With other scenes (`--seed=3`) EPE is 1.81, 1.49, 1.28, 1.14, 0.95 and 0.98, and PSNR goes from 21.19 to 27.14 dB (the
first frame held: 3.97 px, 19.08 dB). From 256 to 1,024 tracks the two seeds differ as what the autoencoder alone makes
of the clips does, when the same tracks are followed in it: 0.66 and 0.65 px here, 0.58 and 0.60 there.

Things go where they are sent and blur on the way (released/motion_prompting_tiny/samples.jpg: 64 tracks; of each clip
tracks, made, true); what comes into the picture later is a blur from the start.

Does training on many tracks serve few tracks too, as the paper found (table 3)? Three equal runs, 500 steps (16,000
samples, 7 minutes on one core) of 4,096 clips, from a base of `base_tiny.py` trained for 150,400 samples
(`--config.dit.patch_size=2 --config.data.text_length=32 --config.dit.text_length=32 --config.data.num_points=P
--config.data.scene.min_points=M --config.data.scene.log_points=L --config.train.steps=500`): sparse shows 1 to 8 tracks
(P = 8, M = 1), dense 64 to 256 (256, 64), mixed 1 to 256, evenly in the logarithm (256, 1, True). EPE in pixels and
PSNR of the 40 clips above, by the command above:

    tracks  1            4            16           64           256          1,024
    sparse  3.83  20.04  3.58  20.11  3.82  20.49  3.52  21.04  3.33  21.27  3.46  21.21
    dense   4.26  18.48  3.85  18.76  3.75  19.87  2.52  21.58  2.05  22.76  2.04  22.78
    mixed   3.64  20.04  3.27  20.14  3.33  20.71  2.68  21.59  2.37  22.19  2.58  21.89

Here it does not, so early: dense wins where many tracks are given, mixed where few are, and sparse nowhere. What dense
training brings goes over to numbers it has not seen where they are larger, and hardly where they are smaller. That is
why stage 3 draws from few to many.

Identities, as in the paper, learn far more slowly: 4,000 steps (128,000 samples, 75 minutes) with patches of two
latents, codes of 16 channels and nothing carried, on a base of `base_tiny.py` trained for 150,400 samples, ended at
21.65 dB and 3.20 px at 64 tracks. Both runs show what the paper found, that the loss does not tell whether control
works: with identities it falls from 0.49 to 0.28 in the first 620 steps, in which points are followed no better than by
holding the first frame, and from there to the end by 0.08 more, while the probe's error falls from 6.5 to 4.2 px. That
convergence is sudden, as the paper says, is not seen at this size: the error takes from step 750 to 2,250 to fall to
4.6 px, and with places from step 200 to 600 to fall from 6.9 to 3.3 (identities.png beside the weights; places.png: the
first stage above; `python -m motionv2v.training.curves` draws them).
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
    config.data.update({"caption_dropout": 0.5, "num_points": 1024, "latents": "runs/latents_motion_prompting_tiny"})
    config.data.point_dropout = False
    config.data.scene = ConfigDict({"dense": True, "min_points": 16, "log_points": True})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 1, "guidance": "off", "scale": 1.0, "views": 8})
    config.optim = common.branch_alone(2e-3)
    config.train.update({"steps": 3000, "batch_size": 32, "ema_decay": 0.98})
    return config
