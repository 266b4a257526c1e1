"""MotionV2V at the paper's size: a 48-channel control branch of 18 blocks on the frozen CogVideoX-5B (section 4.1).

The settings are the paper's and its released code's: 49 frames of 480x720, blobs of sigma 10 px, N ~ U(1, 64) points,
AdamW at 1e-4, 32 samples a step, 15,000 steps, half of the captions dropped. Base 5,570,283,072 parameters, frozen in
bfloat16; 2,559.5 M train in float32 with bfloat16 compute. The paper trained for a week on 8 H100.

It trains on what the frozen networks made once, so that neither autoencoder nor text encoder takes part in a step or
room on the devices. The first command writes it, on any number of machines, of procedural scenes at that size or, with
--config.data.mix="(('runs/pairs',1.0),)", of pairs prepared from videos:

    python launch/prepare.py --stage=latents --config=configs/motionv2v_cogvideox_5b.py --config.init_from="('FOLDER',)"
    python launch/train.py --config=configs/motionv2v_cogvideox_5b.py --config.init_from="('FOLDER',)" --workdir=...

With --config.data.latents="" --config.data.text_embeddings=False every step encodes its pairs, drawn or of `data.mix`.
This project has not run it: it states the shapes for which the library is checked (tests/configs_test.py).
"""

from ml_collections import ConfigDict, FieldReference

from configs import common
from motionv2v.data.tokenizer import NEGATIVE_PROMPT


def vae_cogvideox() -> ConfigDict:
    """CogVideoX's autoencoder as released with the 5B model."""
    return ConfigDict(
        {
            "block_channels": (128, 256, 256, 512),
            "layers_per_block": 3,
            "norm_groups": 32,
            "latent_channels": 16,
            "scaling_factor": 0.7,
            # To save memory: strips change nothing, tiles (height, width) do.
            "strip_rows": FieldReference(None, field_type=int),
            "tile_size": FieldReference(None, field_type=tuple),
            "dtype": "bfloat16",
        }
    )


def text_t5_xxl() -> ConfigDict:
    """The encoder of T5 v1.1 XXL."""
    return ConfigDict(
        {
            "vocab_size": 32128,
            "width": 4096,
            "num_layers": 24,
            "num_heads": 64,
            "head_dim": 64,
            "mlp_dim": 10240,
            "tokenizer": "sentencepiece",
            "dtype": "bfloat16",
        }
    )


def dit_5b() -> ConfigDict:
    """CogVideoX-5B's transformer."""
    return ConfigDict(
        {
            "num_layers": 42,
            "num_heads": 48,
            "head_dim": 64,
            "text_dim": 4096,
            "text_length": 226,
            "time_embed_dim": 512,
            "positions": "rope",
            "remat": "save_attention",
            "attention_implementation": "auto",
            "dtype": "bfloat16",
        }
    )


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "motionv2v_cogvideox_5b", "init_from": ()})
    config.vae = vae_cogvideox()
    config.text = text_t5_xxl()
    config.dit = dit_5b()
    config.dit.update({"control_depth": 18, "control_wiring": "side", "control_start": "zero"})
    config.method = ConfigDict({"name": "motionv2v", "sigma": 10.0, "colors": "any", "first_frame_latents": False})
    # Blobs snap to pixels in the released code; weights that were trained so want them so.
    config.method.subpixel = False
    config.method.patch_embed_from_base = True
    config.schedule = ConfigDict({"snr_shift_scale": 1.0})
    config.data = common.data_tiny()
    config.data.update({"num_frames": 49, "size": (480, 720), "text_length": 226, "caption_dropout": 0.5})
    config.data.num_workers = 8
    config.data.update({"latents": "runs/latents_cogvideox_5b", "text_embeddings": True})
    config.data.scene = ConfigDict({"num_points": 64})
    config.loss = ConfigDict({"timesteps": "uniform"})
    config.sample = ConfigDict({"solver": "ddim", "num_steps": 50, "guidance": "constant", "scale": 6.0})
    # With guidance "sat", passes whose weight is within `guidance_void` of 1 are left out: 1e-3 leaves out 20 of 50.
    config.sample.guidance_void = 0.0
    config.sample.negative_prompt = NEGATIVE_PROMPT
    config.optim = common.optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": 1e-4, "warmup": 100}),
        ("dit/.*", None),
    )
    config.train = common.train_defaults()
    config.train.update({"steps": 15000, "batch_size": 32, "log_every": 1, "frozen_dtype": "bfloat16"})
    # Parameters and optimizer state divided over all devices: 62 GB together, too much for most.
    config.mesh = common.mesh(data=1, fsdp=-1)
    return config
