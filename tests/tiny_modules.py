"""Small modules of every published kind, and random parameters for them."""

import jax
import numpy as np
import tiny_model

from motionv2v import parameters
from motionv2v.convert import networks
from motionv2v.methods.motionv2v import Conditioner
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE

SIZES = {"num_heads": 2, "head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 12, "text_length": 6}
SIZES |= {"num_layers": 3, "time_embed_dim": 8, "sample_size": (3, 8, 8)}
DIT = DiT(**SIZES)
CHAINED = DIT.clone(control_depth=2, control_wiring="chained")
MODULES = {
    "vae": VAE((4, 4, 8, 8), 1, 4, 2),
    "text": T5Encoder(vocab_size=30, width=12, num_layers=3, num_heads=2, head_dim=4, mlp_dim=20),
    "dit": DIT,
    "learned": DIT.clone(positions="rope+learned", in_channels=8),
    "shader": CHAINED,
    "first_frames": Denoiser(CHAINED, Conditioner(32, 2, True)),
    "motionv2v": Denoiser(CHAINED, Conditioner(32, 2, False)),
}


def random_params(module, seed=0):
    part = networks.part_of(module)
    shapes = {path: jax.ShapeDtypeStruct(s, np.float32) for path, s in networks.shapes_of(part, module).items()}
    return tiny_model.random_params(parameters.unflatten(shapes), seed)
