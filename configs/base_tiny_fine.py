"""The tiny text-to-video base with patches of one latent: a token sees 8x8 pixels. Released as `base_tiny`.

    python launch/prepare.py --config=configs/interpolation_tiny.py --num_samples=12288 --out=runs/latents_fine \
        --config.data.text_length=40 --config.dit.text_length=40
    python launch/train.py --config=configs/base_tiny_fine.py

Four times as many tokens as `base_tiny.py` has, and captions of up to 40 letters, so that none is cut. It starts from
that base (`methods.with_finer_patches`).

The released weights, on two shared CPU cores, 2026-11-30: from a base of `base_tiny.py` trained for 150,400 samples (48
minutes), 12,288 clips encoded in 10 minutes, 3,286 steps (52,576 samples, 82 minutes beside other work), in which the
mean loss of 20 steps fell from 0.48 to 0.28; from there, `--config.init_from` naming that run, 1,200 steps of
`--config.optim.schedule="(('vae/.*',None),('(text|dit)/.*',{'peak':1.5e-3,'warmup':20,'decay':'cosine','end':1e-5}))"
--config.train.ema_decay=0.98` (19,200 samples, 21 minutes, 15.4 samples/s), to 0.260 over the last 200. Not converged:
things have their colours and go on from frame to frame, few have their shapes (released/base_tiny/samples.jpg: captions
of held-out scenes, 50 steps, guidance 3; first, middle and last frame).

Of 100 held-out captions (`launch/evaluate.py --benchmark=text_to_video --checkpoint=base_tiny --compare=tiny
--num_clips=100 --num_steps=20`, and 50), colours and shapes in per cent:

                          colours  shapes  objects  coherence  gradients  latent Frechet
    20 steps                 90      23      1.57      2.35       0.91         0.61
    50 steps                 93      22      1.61      2.46       0.94         0.55
    `tiny`'s base, 20        20      29      1.14      2.70       0.78         1.18
    the scenes themselves    82      86      1.81      1.64       1.00         0.45
"""

from ml_collections import ConfigDict

from configs import base_tiny, common


def get_config() -> ConfigDict:
    config = base_tiny.get_config()
    config.name = "base_tiny_fine"
    config.init_from = ("runs/base_tiny",)
    config.dit.update({"patch_size": 1, "text_length": 40, "attention_implementation": "chunked"})
    config.data.update({"text_length": 40, "latents": "runs/latents_fine"})
    config.optim = common.optimizer(
        ("vae/.*", None), ("(text|dit)/.*", {"peak": 2e-3, "warmup": 50, "decay": "constant"}), name="muon"
    )
    config.sample.num_steps = 50
    config.train.update({"steps": 4500, "batch_size": 16, "ema_decay": 0.999})
    return config
