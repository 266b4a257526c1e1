"""ReVideo on CogVideoX-5B, the second stage: content and motion apart, on clips composed of two.

See revideo_cogvideox_5b_1.py. This project has not run it.
"""

from ml_collections import ConfigDict

from configs import common, revideo_cogvideox_5b_1


def get_config() -> ConfigDict:
    config = revideo_cogvideox_5b_1.get_config()
    config.name = "revideo_cogvideox_5b_2"
    config.resume_from = ("runs/revideo_cogvideox_5b_1",)
    config.data.update({"region": "composed", "latents": "runs/latents_revideo_5b_2"})
    config.optim = common.optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 3e-5, "warmup": 500}),
        ("dit/.*", None),
    )
    config.train.steps = 30000
    return config
