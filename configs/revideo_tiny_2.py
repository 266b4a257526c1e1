"""ReVideo at tiny size, the second stage: content and motion apart, on clips composed of two. See `revideo_tiny_3`.

    python launch/train.py --config=configs/revideo_tiny_2.py --config.train.backend=torch

What is around a rectangle has nothing to do with what is inside, so that the motion inside can be read off the
trajectories alone. Goes on from the first stage with the content read too, which then is simply added.
"""

from ml_collections import ConfigDict

from configs import common, revideo_tiny_1


def get_config() -> ConfigDict:
    config = revideo_tiny_1.get_config()
    config.name = "revideo_tiny_2"
    config.resume_from = ("runs/revideo_tiny_1",)
    config.method.keeps = True
    config.data.update({"region": "composed", "latents": "runs/latents_revideo_tiny_2"})
    config.optim = common.branch_alone(1e-3)
    config.train.steps = 500
    return config
