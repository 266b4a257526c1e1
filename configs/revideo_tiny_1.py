"""ReVideo at tiny size, the first of three stages: how things move. See `revideo_tiny_3`.

    for i in 1 2 3; do
      python launch/prepare.py --config=configs/revideo_tiny_$i.py --num_samples=8192
      python launch/train.py --config=configs/revideo_tiny_$i.py --config.train.backend=torch
    done

The paper (arXiv 2405.13865, section 3) trains 40, 30 and 20 thousand steps at 512x320: here a branch learns to follow
up to ten trajectories through whole clips, without seeing anything of them but the first frame. What reads the content
is left alone until the second stage. Maps tell how far points have come since the first frame, and the first frame is
carried along them, of which the paper does neither (`methods.revideo`). The branch starts as Motion Prompting's, which
has learned to mend a first frame that was carried along tracks; what reads the maps is new.
"""

from ml_collections import ConfigDict

from configs import base_tiny_fine, common


def get_config() -> ConfigDict:
    config = base_tiny_fine.get_config()
    config.name = "revideo_tiny_1"
    config.init_from = ("base_tiny",)
    config.resume_from = ("motion_prompting_tiny",)
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "revideo", "sigma": 8.0, "maps": "shifts", "carries": True, "hole": "first"})
    config.data.update({"caption_dropout": 0.5, "num_points": 64, "region": "whole"})
    config.data.update({"point_dropout": False, "latents": "runs/latents_revideo_tiny_1"})
    config.data.scene = ConfigDict({"min_points": 64})
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 1, "guidance": "off", "scale": 1.0, "views": 8})
    branch = {"peak": 2e-3, "warmup": 50, "decay": "cosine", "end": 1e-5}
    config.optim = common.optimizer(
        ("(vae|text)/.*|conditioner/content_.*", None), ("(dit/control|conditioner)/.*", branch), ("dit/.*", None),
        name="muon",
    )  # fmt: skip
    config.train.update({"steps": 700, "batch_size": 32, "ema_decay": 0.98})
    return config
