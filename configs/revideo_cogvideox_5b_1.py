"""ReVideo on CogVideoX-5B, the first of three stages: how things move, 49 frames of 480x720.

    for i in 1 2 3; do
      python launch/prepare.py --stage=latents --config=configs/revideo_cogvideox_5b_$i.py \
          --config.init_from="('FOLDER',)" --config.data.mix="(('runs/pairs',1.0),)"
      python launch/train.py --config=configs/revideo_cogvideox_5b_$i.py --config.init_from="('FOLDER',)"
    done

The paper (arXiv 2405.13865) trained on Stable Video Diffusion, 14 frames of 512x320, four clips a step on each of four
GPUs, 40, 30 and 20 thousand steps in some six days. The first frame enters the control branch here; for weights that
read an image beside the noise, --config.method.first_frame=concat --config.dit.in_channels=32.

This project has not run it: it states the shapes for which the library is checked (tests/configs_test.py).
"""

from ml_collections import ConfigDict

from configs import common, motionv2v_cogvideox_5b


def get_config() -> ConfigDict:
    config = motionv2v_cogvideox_5b.get_config()
    config.name = "revideo_cogvideox_5b_1"
    config.method = ConfigDict({"name": "revideo", "sigma": 10.0, "first_frame": "control"})
    config.dit.in_channels = 16
    config.data.update({"caption_dropout": 0.1, "num_points": 256, "region": "whole"})
    config.data.update({"point_dropout": False, "latents": "runs/latents_revideo_5b_1"})
    config.data.scene = ConfigDict({"min_points": 256})
    config.optim = common.optimizer(
        ("(vae|text)/.*|conditioner/content_.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 3e-5, "warmup": 500}),
        ("dit/.*", None),
    )
    config.train.update({"steps": 40000, "batch_size": 16})
    return config
