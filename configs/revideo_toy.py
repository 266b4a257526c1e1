"""ReVideo's toy experiments at tiny size (arXiv 2405.13865, figure 3), by name: `configs/revideo_toy.py:one_stage`.

    for i in 1 2 3; do python launch/prepare.py --config=configs/revideo_tiny_$i.py --num_samples=8192; done
    for name in one_stage apart prior joint composed deblocked summed timeless everything; do
      python launch/train.py --config=configs/revideo_toy.py:$name --workdir=runs/revideo_toy/$name
    done
    python launch/evaluate.py --benchmark=revideo --num_pairs=100 --checkpoint=runs/revideo_toy/deblocked \
        --compare=runs/revideo_toy/one_stage --compare=runs/revideo_toy/apart  # and so on

Does a model that sees what is around a region follow the trajectories inside? All start from a base of `base_tiny.py`,
with patches of two latents, and see 600 steps of 32 samples in all, whatever their stages:

    one_stage   content and motion added, from the first step, on whole clips: the paper's experiment 1
    apart       the same with a control branch for each: experiment 2
    prior       200 steps of motion alone, from which the following go on
    joint       400 steps as `one_stage`, from `prior`: experiment 3
    composed    250 steps on compositions of two clips, from `prior`, from which the following go on
    deblocked   150 steps as the third stage, by SAFM, of updates of keys and values: experiment 4, the method
    summed      the same with content and motion added still
    timeless    the same with a SAFM that does not see the diffusion time
    everything  the same as `deblocked` with all of branch and conditioner trained, which brings the coupling back
"""

from ml_collections import ConfigDict

from configs import common, revideo_tiny_1, revideo_tiny_2, revideo_tiny_3

# Name: (stage whose data and training it has, what it goes on from, steps).
RUNS = {
    "one_stage": (revideo_tiny_3, None, 600),
    "apart": (revideo_tiny_3, None, 600),
    "prior": (revideo_tiny_1, None, 200),
    "joint": (revideo_tiny_3, "prior", 400),
    "composed": (revideo_tiny_2, "prior", 250),
    "deblocked": (revideo_tiny_3, "composed", 150),
    "summed": (revideo_tiny_3, "composed", 150),
    "timeless": (revideo_tiny_3, "composed", 150),
    "everything": (revideo_tiny_3, "composed", 150),
}
FUSIONS = {"deblocked": "safm", "everything": "safm", "timeless": "safm_without_time", "apart": "apart"}


def get_config(name: str = "one_stage") -> ConfigDict:
    if name not in RUNS:
        raise ValueError(f"there is no run {name!r}; available: {', '.join(RUNS)}")
    stage, before, steps = RUNS[name]
    config = stage.get_config()
    config.name = "revideo_toy"
    config.init_from = ("runs/base_tiny",)
    config.resume_from = () if before is None else (f"runs/revideo_toy/{before}",)
    config.method.keeps = False  # the question is what the branches do
    config.dit.patch_size = 2
    config.dit.control_branches = 2 if name == "apart" else 1
    config.method.fusion = FUSIONS.get(name, "sum")
    if name in ("one_stage", "apart", "joint", "everything"):
        config.optim = common.branch_alone(1e-3 if name == "everything" else 2e-3)
        config.dit.update({"lora_rank": 0, "lora_in_branch": False})
    config.train.steps = steps
    return config
