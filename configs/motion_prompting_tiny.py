"""The tiny Motion Prompting model: a first frame and any number of tracks, on the frozen base. Not released yet.

    python launch/prepare.py --config=configs/motion_prompting_tiny.py --num_samples=8192
    python launch/train.py --config=configs/motion_prompting_tiny.py

Of each scene's dense tracks a number drawn evenly from 64 to 256 is shown, as the paper shows 1,000 to 2,000 of 16,384
at its size: trained on many tracks, a model also follows few (table 3). The volume has cells of 4x4 pixels. The
probe tracks the points again in what was made, for the loss does not tell whether they are followed.
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name = "motion_prompting_tiny"
    config.init_from = ("tiny",)
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "motion_prompting", "channels": 16, "cells": 2})
    config.data.update({"caption_dropout": 0.5, "num_points": 256, "latents": "runs/latents_motion_prompting_tiny"})
    config.data.point_dropout = False
    config.data.scene = ConfigDict({"dense": True, "min_points": 64})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 20, "guidance": "off", "scale": 1.0})
    config.optim = common.branch_alone(2e-3)
    config.train.update({"steps": 4000, "batch_size": 32})
    return config
