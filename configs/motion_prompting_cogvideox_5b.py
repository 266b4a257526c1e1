"""Motion Prompting on CogVideoX-5B: a control branch of 18 blocks on the frozen base, 49 frames of 480x720.

    python launch/prepare.py --videos=DIR --out=runs/clips --dense=16384
    python launch/prepare.py --stage=latents --config=configs/motion_prompting_cogvideox_5b.py \
        --config.init_from="('FOLDER',)" --config.data.mix="(('runs/clips',1.0),)"
    python launch/train.py --config=configs/motion_prompting_cogvideox_5b.py --config.init_from="('FOLDER',)"

The paper (arXiv 2412.02700, section 3) trained on Lumiere, at 128x128 and 80 frames: 1,000 to 2,000 of 16,384 tracks a
clip, codes of 64 numbers, Adafactor at a constant 1e-4, 70,000 steps; the rate here gets there in 500 steps. Its branch
copies the encoder of a U-Net; here it is MotionV2V's, and the volume has the grid of the latents, 60x90, each cell as
large as one of the paper's 128x128 seen at 1024. The first frame's latents are channels of the branch. Hardly anything
is followed in the first 20,000 steps there, whatever the loss says: look at the probe's EPE.

Without `data.mix` scenes are drawn, whose tracks are exact.

This project has not run it: it states the shapes for which the library is checked (tests/configs_test.py).
"""

from ml_collections import ConfigDict

from configs import common, motionv2v_cogvideox_5b


def get_config() -> ConfigDict:
    config = motionv2v_cogvideox_5b.get_config()
    config.name = "motion_prompting_cogvideox_5b"
    config.method = ConfigDict({"name": "motion_prompting", "channels": 64, "cells": 1})
    config.data.update({"caption_dropout": 0.1, "num_points": 2000, "latents": "runs/latents_motion_prompting_5b"})
    config.data.point_dropout = False
    config.data.scene = ConfigDict({"dense": True, "min_points": 1000})
    branch = {"peak": 1e-4, "warmup": 500}
    config.optim = common.optimizer(
        ("(vae|text)/.*", None), ("(dit/control|conditioner)/.*", branch), ("dit/.*", None), name="adafactor"
    )
    config.train.update({"steps": 70000, "batch_size": 32})
    return config
