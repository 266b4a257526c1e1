"""The tiny text-to-video base with attention within frames and then along time, for Motion Inversion. Not released.

    python launch/train.py --config=configs/base_tiny_factorised.py --config.train.backend=torch
    python launch/export.py --checkpoint=runs/base_tiny_factorised --out=MODEL --shares=base_tiny

It trains on the latents that `base_tiny_fine.py` makes. On this base Motion Inversion's equation 3 holds as the paper
writes it. It starts from the released `base_tiny`: attention over all tokens becomes attention within frames, and that
along time starts as nothing. Text encoder, autoencoder and the second halves of the MLPs stay `base_tiny`'s, so that
4.6 MB hold what is new. Its samples beside `base_tiny`'s, and motions learned on both:

    for table in text_to_video motion_inversion; do
      python launch/evaluate.py --benchmark=$table --checkpoint=MODEL --compare=base_tiny --out=outputs/$table
    done
"""

from ml_collections import ConfigDict

from configs import base_tiny_fine, common


def get_config() -> ConfigDict:
    config = base_tiny_fine.get_config()
    config.name = "base_tiny_factorised"
    config.init_from = ("base_tiny",)
    config.dit.axes = ("hw", "t")
    config.optim = common.optimizer(
        ("(vae|text)/.*|dit/blocks/mlp_down/.*", None),
        ("dit/.*", {"peak": 2e-3, "warmup": 50, "decay": "cosine", "end": 1e-5}),
        name="muon",
    )
    config.train.update({"steps": 3000, "batch_size": 32, "ema_decay": 0.98})
    return config
