"""The tiny MotionV2V model, stage 3 of 3: the control branch on the frozen base. Released as `tiny`.

python launch/train.py --config=configs/motionv2v_tiny.py --workdir=runs/motionv2v_tiny
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name, config.kind = "motionv2v_tiny", "control"
    config.init_from = ("runs/vae_tiny", "runs/base_tiny")
    config.dit.update({"control_depth": 4, "control_wiring": "side", "control_start": "identity"})
    config.method = ConfigDict({"name": "motionv2v", "sigma": 3.0, "colors": "any", "first_frame_latents": False})
    config.data.caption_dropout = 0.5
    config.loss = ConfigDict({"timesteps": "high_noise", "power": 3.0})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 8, "guidance": "off", "scale": 1.0})
    config.optim = common.optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 2e-3, "warmup": 100, "decay": "cosine", "end": 1e-5}),
        ("dit/.*", None),
        name="muon",
    )
    config.train.update({"steps": 1600, "batch_size": 32, "ema_decay": 0.99})
    return config
