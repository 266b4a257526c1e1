"""The tiny MotionV2V model with the edit's draft as a fourth stream (`methods.motionv2v`).

    python launch/prepare.py --config=configs/motionv2v_draft_tiny.py --num_samples=12288
    python launch/train.py --config=configs/motionv2v_draft_tiny.py --workdir=runs/motionv2v_draft_tiny

It goes on from the released `tiny`, to which the draft is invisible at first: its embedding starts as zeros. Drafts are
drawn from the scenes with faults put in on purpose (`data.scenes.drafts`), in milliseconds.
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
    config.optim = common.optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 1e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}),
        ("dit/.*", None),
        name="muon",
    )
    config.train.update({"steps": 3600, "batch_size": 32, "ema_decay": 0.99})
    return config
