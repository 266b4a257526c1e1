"""ReVideo at tiny size, the last stage: clips that are whole again, so that borders do not show.

Released as `revideo_tiny`.

    python launch/train.py --config=configs/revideo_tiny_3.py --config.train.backend=torch

Trained are SAFM, which weighs motion against content, and updates of rank 16 of keys and values in the main blocks and
the branch: of all that there is, what is least able to learn again that content tells motion (the paper trains keys and
values of attention along time). On a base with attention along time (`dit.axes` ("hw", "t")) the paper's own choice is
--config.dit.lora_targets="('attention_t/k','attention_t/v')".

The released weights, 2026-12-01, one CPU core beside other work, by the commands of the three configs, batches of 32:

1. `revideo_tiny_1`, 8,192 clips, 700 steps (22,400 samples, 23 minutes), to a loss of 0.175;
2. `revideo_tiny_2`, 4,096 compositions, 500 steps (16,000 samples, 15 minutes), to 0.14;
3. this one, 4,096 clips, 300 steps (9,600 samples, 10 minutes), to 0.11.

Of 40 held-out pairs (`launch/evaluate.py --benchmark=revideo --checkpoint=revideo_tiny --compare=runs/revideo_tiny_2
--compare=runs/revideo_tiny_1 --num_pairs=40`, one step, eight views), ten trajectories or fewer in each; raw is what
the model made around the region before the clip's own pixels are laid there, which then are exact:

                              raw (dB)  follow-EPE (px)  inside (dB)  seam (grey levels)
    after stage 3               38.80        2.39           23.39           3.00
    after stage 2               38.35        2.59           23.18           3.59
    after stage 1               28.70        1.94           23.51           3.07
    first frame, held           exact        9.63           18.92           8.93
    the source                  exact        8.22           18.93           2.65
    the truth                   exact        0.53           exact           2.65
    through the autoencoder     45.29

What is raw is worst along the region's border, in latents that it shares with what is around: of the first 20 pairs
39.97 dB beyond the region, 45.2 beyond 4 pixels more, 46.4 by the autoencoder alone. Composing brings borders, and the
last stage takes most of them back, as the paper says. Things go where they are sent and blur on the way
(released/revideo_tiny/samples.jpg); what comes into the region later is not made.
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
