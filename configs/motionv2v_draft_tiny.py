"""The tiny MotionV2V model with the edit's draft as a fourth stream (`methods.motionv2v`). Not released.

    python launch/prepare.py --config=configs/motionv2v_draft_tiny.py --num_samples=5632
    python launch/train.py --config=configs/motionv2v_draft_tiny.py

It goes on from the released `tiny`, to which the draft is invisible at first: its embedding starts as zeros. Drafts are
drawn from the scenes with faults put in on purpose (`data.scenes.drafts`), in milliseconds.

Trained once, on two shared CPU cores, 2026-11-29 (89,600 samples, beside other work): the mean loss of 20 steps fell
from 0.224 to 0.103. What the model is worth was not measured.
"""

from ml_collections import ConfigDict

from configs import common, motionv2v_tiny
from motionv2v.methods import motionv2v


def get_config() -> ConfigDict:
    config = motionv2v_tiny.get_config()
    config.name = "motionv2v_draft_tiny"
    config.init_from = ("tiny",)
    config.resume_from = ("tiny",)
    config.method.streams = (*motionv2v.STREAMS, motionv2v.DRAFT)
    config.data.update({"swap": 0.0, "latents": "runs/latents_motionv2v_draft_tiny"})
    config.loss.power = 8.0
    config.optim = common.branch_alone(1e-3)
    config.train.steps = 2800
    return config
