"""The tiny MotionV2V model with the edit's draft as a fourth stream (`methods.motionv2v`). Released as `tiny_repair`.

    python launch/prepare.py --config=configs/motionv2v_draft_tiny.py --num_samples=5632
    python launch/train.py --config=configs/motionv2v_draft_tiny.py

It goes on from the released `tiny`, to which the draft is invisible at first: its embedding starts as zeros. Drafts are
drawn from the scenes with faults put in on purpose (`data.scenes.drafts`), in milliseconds.

The released weights, on two shared CPU cores, 2026-11-29, beside other work, of 5,632 pairs with drawn drafts: 2,800
steps (89,600 samples, 26 samples/s when alone), in which the mean loss of 20 steps fell from 0.224 to 0.103, while the
draft entered as tokens alone; from there, as an estimate of the answer too, `--config.train.steps=2000` (64,000
samples, 50 minutes), to 0.083. On 30 held-out pairs of seed 100 the model alone made 28.16 dB after the first run and
29.41 dB after the second, where the draft is 31.96 dB, through the autoencoder 29.99, and the true target through it
32.93. The tables are in motionv2v/evaluation/README.md.
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
    config.sample.views = 1
    config.optim = common.branch_alone(1e-3)
    config.train.steps = 2800
    return config
