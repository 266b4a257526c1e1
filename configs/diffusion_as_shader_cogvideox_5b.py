"""Diffusion-as-Shader on CogVideoX-5B-I2V: a branch that reads a drawing of coloured points, 49 frames of 480x720.

    python launch/convert.py --source=CogVideoX-5b-I2V --target=cogvideox_5b_i2v
    python launch/prepare.py --videos=DIR --out=runs/clips --dense=4900
    python launch/prepare.py --stage=latents --config=configs/diffusion_as_shader_cogvideox_5b.py \
        --config.init_from="('cogvideox_5b_i2v',)" --config.data.mix="(('runs/clips',1.0),)"
    python launch/train.py --config=configs/diffusion_as_shader_cogvideox_5b.py \
        --config.init_from="('cogvideox_5b_i2v',)"

The published model (arXiv 2501.03847) has this shape, and was trained with 4,900 points a clip; to use its weights no
config is needed (motionv2v/convert/weights.md).

This project has not run it: it states the shapes for which the library is checked (tests/configs_test.py).
"""

from ml_collections import ConfigDict

from configs import common, motion_prompting_cogvideox_5b_i2v
from motionv2v.methods import diffusion_as_shader


def get_config() -> ConfigDict:
    config = motion_prompting_cogvideox_5b_i2v.get_config()
    config.name = "diffusion_as_shader_cogvideox_5b"
    config.dit.control_wiring = "chained"
    config.method = ConfigDict(diffusion_as_shader.released_settings())
    config.data.update({"num_points": 4900, "latents": "runs/latents_diffusion_as_shader_5b"})
    config.data.scene.min_points = 4900
    branch = {"peak": 1e-4, "warmup": 100}
    config.optim = common.optimizer(("(vae|text)/.*", None), ("dit/control/.*", branch), ("dit/.*", None), name="adamw")
    config.train.update({"steps": 2000, "batch_size": 64})
    return config
