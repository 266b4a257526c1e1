"""The tiny MotionV2V model with the edit's draft as a fourth stream (`methods.motionv2v`). Released as `tiny_repair`.

    python launch/prepare.py --config=configs/motionv2v_draft_tiny.py --num_samples=5632
    python launch/train.py --config=configs/motionv2v_draft_tiny.py

It goes on from the released `tiny`, to which the draft is invisible at first: its embeddings start as zeros. Drafts are
drawn from the scenes with faults put in on purpose (`data.scenes.drafts`), in milliseconds.

The released weights, on two shared CPU cores, 2026-11-29, beside other work, of 5,632 pairs with drawn drafts: 2,800
steps (89,600 samples, 26 samples/s when alone), in which the mean loss of 20 steps fell from 0.224 to 0.103, while the
draft entered as tokens alone; from there, as an estimate of the answer too, `--config.train.steps=2000` (64,000
samples, 50 minutes), to 0.083. The tables are in motionv2v/evaluation/README.md; by the number of points, on the first
40 of their pairs (`launch/evaluate.py --checkpoint=tiny_repair --compare=tiny --compare=draft --views=1 --num_pairs=40
--seed=7 --num_points=N`), follow-EPE in pixels and PSNR in dB:

    points       1             2             5             10            20            40            64
    tiny_repair  2.44  20.02   2.24  22.16   2.76  23.86   2.67  27.04   2.59  27.99   3.24  27.91   2.74  27.84
    in the draft 1.08  19.27   0.93  22.50   1.52  24.62   1.01  28.77   0.76  30.38   1.04  30.52   0.80  30.56
    draft alone  0.74  19.07   0.84  22.39   1.37  24.25   0.86  28.33   0.77  30.08   0.97  30.33   0.70  30.48
    tiny         4.72  20.19   5.19  21.18   5.56  22.29   5.22  23.14   5.71  23.56   7.18  23.04   7.10  23.14

Beyond 20 points, where the paper's model breaks (section 3.3), `tiny` follows by a quarter worse; with a draft to
repair, following hardly depends on their number. With one point neither has enough to go by.
"""

from ml_collections import ConfigDict

from configs import common, motionv2v_tiny
from motionv2v.methods import motionv2v


def get_config() -> ConfigDict:
    config = motionv2v_tiny.get_config()
    config.name = "motionv2v_draft_tiny"
    config.init_from = ("tiny",)
    config.resume_from = ("tiny",)
    config.method.streams = (*motionv2v.STREAMS, motionv2v.DRAFT)
    config.data.update({"swap": 0.0, "latents": "runs/latents_motionv2v_draft_tiny"})
    config.loss.power = 8.0
    config.sample.views = 1
    config.optim = common.branch_alone(1e-3)
    config.train.steps = 2800
    return config
