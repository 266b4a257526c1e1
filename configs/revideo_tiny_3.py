"""ReVideo at tiny size, the last stage: clips that are whole again, so that borders do not show. Not released yet.

    python launch/train.py --config=configs/revideo_tiny_3.py --config.train.backend=torch

Trained are SAFM, which weighs motion against content, and updates of rank 16 of keys and values in the main blocks and
the branch: of all that there is, what is least able to learn again that content tells motion (the paper trains keys and
values of attention along time). On a base with attention along time (`dit.axes` ("hw", "t")) the paper's own choice is
--config.dit.lora_targets="('attention_t/k','attention_t/v')".
"""

from ml_collections import ConfigDict

from configs import common, revideo_tiny_2


def get_config() -> ConfigDict:
    config = revideo_tiny_2.get_config()
    config.name = "revideo_tiny_3"
    config.resume_from = ("runs/revideo_tiny_2",)
    config.method.fusion = "safm"
    config.dit.update({"lora_rank": 16, "lora_targets": ("attention/k", "attention/v"), "lora_in_branch": True})
    config.data.update({"region": "rectangle", "latents": "runs/latents_revideo_tiny_3"})
    trained = {"peak": 1e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}
    config.optim = common.optimizer(
        ("conditioner/safm_.*|dit/lora(_branch)?/.*", trained), ("(vae|text|dit|conditioner)/.*", None)
    )
    config.train.steps = 300
    return config
