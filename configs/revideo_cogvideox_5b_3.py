"""ReVideo on CogVideoX-5B, the last stage: SAFM, and updates of rank 64 of keys and values, main blocks and branch.

See revideo_cogvideox_5b_1.py, and revideo_tiny_3.py for why no more than that trains: 47 million numbers in the
updates, where all keys and values are 1.1 thousand million. This project has not run it.
"""

from ml_collections import ConfigDict

from configs import common, revideo_cogvideox_5b_2


def get_config() -> ConfigDict:
    config = revideo_cogvideox_5b_2.get_config()
    config.name = "revideo_cogvideox_5b_3"
    config.resume_from = ("runs/revideo_cogvideox_5b_2",)
    config.method.fusion = "safm"
    config.dit.update({"lora_rank": 64, "lora_targets": ("attention/k", "attention/v"), "lora_in_branch": True})
    config.data.update({"region": "rectangle", "latents": "runs/latents_revideo_5b_3"})
    config.optim = common.optimizer(
        ("conditioner/safm_.*|dit/lora(_branch)?/.*", {"peak": 3e-5, "warmup": 500}),
        ("(vae|text|dit|conditioner)/.*", None),
    )
    config.train.steps = 20000
    return config
