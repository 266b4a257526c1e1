"""Motion Inversion on CogVideoX-5B: the motion of one clip of 49 frames of 480x720 as 72.4 M numbers.

    python launch/transfer.py --base=FOLDER --batch_size=1 --video=clip.mp4 --prompt="..."

learns with these settings, which follow from the base: embeddings in 12 of its 42 blocks, those of values on a grid of
10x15 places, a third of the tokens' along each side; the paper's code (doi 10.1145/3721238.3730735) has 73.7 M, in
five blocks of a U-Net. The base is frozen, in bfloat16. AdamW at a constant 0.02, 300 steps of one sample.

This project has not run it: it states the shapes for which memory is told and held (`benchmarks/compile_budgets.json`).
"""

from ml_collections import ConfigDict

from configs import motionv2v_cogvideox_5b
from motionv2v import sections
from motionv2v.editing import transfer
from motionv2v.training import inversion


def get_config() -> ConfigDict:
    base = transfer.base_config(sections.complete(motionv2v_cogvideox_5b.get_config()), "cogvideox_5b")
    config = inversion.as_prepared(inversion.run_config(base, "cogvideox_5b", {}, batch_size=1))
    config.update({"name": "motion_inversion_cogvideox_5b", "init_from": ()})
    return config
