"""Motion Prompting on CogVideoX-5B-I2V, which knows what a first frame is: it stands in the base's own channels.

    python launch/convert.py --source=CogVideoX-5b-I2V --target=cogvideox_5b_i2v
    python launch/prepare.py --stage=latents --config=configs/motion_prompting_cogvideox_5b_i2v.py \
        --config.init_from="('cogvideox_5b_i2v',)"
    python launch/train.py --config=configs/motion_prompting_cogvideox_5b_i2v.py \
        --config.init_from="('cogvideox_5b_i2v',)"

Otherwise as configs/motion_prompting_cogvideox_5b.py; not run here either.
"""

from ml_collections import ConfigDict

from configs import motion_prompting_cogvideox_5b


def get_config() -> ConfigDict:
    config = motion_prompting_cogvideox_5b.get_config()
    config.name = "motion_prompting_cogvideox_5b_i2v"
    config.dit.update({"in_channels": 32, "positions": "rope+learned", "sample_size": (13, 60, 90)})
    config.method.first_frame = "concat"
    config.data.latents = "runs/latents_motion_prompting_5b_i2v"
    return config
