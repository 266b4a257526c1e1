"""Frame interpolation at CogVideoX-5B-I2V's size: 49 frames of 480x720, 16 channels of noise and 16 of given frames.

    python launch/convert.py --source=CogVideoX-5b-I2V --target=cogvideox_5b_i2v
    python launch/train.py --config=configs/interpolation_cogvideox_5b.py --config.init_from="('cogvideox_5b_i2v',)"

The weights of CogVideoX-5B-I2V fit as they are and know what a first frame is; this teaches them the last one. The
paper (section 3.2) only says that such a model was used. The rate, the steps and the share of clips without a last
frame are this project's choice and have not been run here; tests/configs_test.py checks that the shapes are right.
"""

from ml_collections import ConfigDict

from configs import common, motionv2v_cogvideox_5b


def get_config() -> ConfigDict:
    config = motionv2v_cogvideox_5b.get_config()
    config.name = "interpolation_cogvideox_5b"
    config.dit = motionv2v_cogvideox_5b.dit_5b()
    config.dit.update({"in_channels": 32, "positions": "rope+learned", "sample_size": (13, 60, 90)})
    config.method = ConfigDict({"name": "interpolation", "drop_last": 0.1, "image_scale": 1.0})
    config.data.update({"caption_dropout": 0.1, "latents": "", "text_embeddings": False})
    config.optim = common.optimizer(("(vae|text)/.*", None), ("dit/.*", {"peak": 2e-5, "warmup": 100}))
    config.train.steps = 2000
    return config
