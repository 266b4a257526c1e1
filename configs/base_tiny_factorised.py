"""The tiny text-to-video base with attention within frames and then along time, for Motion Inversion and ReVideo.

    python launch/train.py --config=configs/base_tiny_factorised.py

On this base Motion Inversion's equation 3 holds as the paper writes it, and ReVideo's last stage trains the keys and
values of attention along time. It starts from `base_tiny`: attention over all tokens becomes attention within frames,
and that along time starts as nothing. Not released yet.
"""

from ml_collections import ConfigDict

from configs import base_tiny


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name = "base_tiny_factorised"
    config.init_from = ("runs/base_tiny",)
    config.dit.axes = ("hw", "t")
    return config
