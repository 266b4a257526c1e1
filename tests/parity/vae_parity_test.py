"""Parity of the video autoencoder with diffusers' AutoencoderKLCogVideoX on shared random weights, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.convert import autoencoder, networks, tensors
from motionv2v.models.vae.autoencoder import VAE

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from dit_parity_test import load  # noqa: E402

# Both sides compute in float32 and differ in the order of their sums only: about 1e-6 through some 40 layers.
TOLERANCE = 1e-5

CHANNELS = (8, 16, 16, 32)
GROUPS = 4
LATENTS = 16

# (clips, frames, rows, columns). 1: one latent; 5: one chunk; 9: one chunk of 9; 13: one chunk of 13; 17: 9 + 8;
# 21: 13 + 8 (an even number of latents in two chunks); 25: 9 + 8 + 8.
SHAPES = [(1, 1, 16, 24), (2, 5, 16, 16), (1, 9, 24, 16), (1, 13, 8, 16)]
SHAPES += [(2, 17, 16, 24), (1, 21, 16, 8), (1, 25, 8, 8)]
# Compiling takes nearly all the time, so the deep model, the release's three layers a block, runs on few of them.
CASES = [(1, shape) for shape in SHAPES[:6]] + [(3, SHAPES[i]) for i in (0, 1)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in ((1, SHAPES[6]), (3, SHAPES[4]))]


def to_tree(vae, state_dict):
    return load(autoencoder.rules(vae), {name: value.numpy() for name, value in state_dict.items()})


@functools.cache
def models(layers_per_block):
    torch.manual_seed(layers_per_block)
    theirs = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=CHANNELS, latent_channels=LATENTS, layers_per_block=layers_per_block, norm_num_groups=GROUPS
    ).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            # Norm parameters start at 1 and 0 and would hide a swap; every parameter becomes random.
            value.add_(0.1 * torch.randn(value.shape))
    vae = VAE(CHANNELS, layers_per_block, LATENTS, GROUPS)
    return theirs, vae, to_tree(vae, theirs.state_dict())


def relative_error(ours, theirs):
    theirs = np.moveaxis(theirs.numpy(), 1, -1)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("layers_per_block", [1, 3])
def test_parameter_trees_agree(layers_per_block):
    _, vae, params = models(layers_per_block)
    expected = jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)


@pytest.mark.parametrize(("layers_per_block", "shape"), CASES)
def test_encode_and_decode_match_diffusers(layers_per_block, shape):
    theirs, vae, params = models(layers_per_block)
    rng = np.random.default_rng(0)
    clip = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    with torch.no_grad():
        latents = theirs.encode(torch.from_numpy(np.moveaxis(clip, -1, 1))).latent_dist
        mean, logvar = jax.jit(functools.partial(vae.apply, method="encode"))({"params": params}, clip)
        assert relative_error(mean, latents.mean) <= TOLERANCE
        assert relative_error(logvar, latents.logvar) <= TOLERANCE

        noise = rng.normal(size=mean.shape).astype(np.float32)
        expected = theirs.decode(torch.from_numpy(np.moveaxis(noise, -1, 1))).sample
        video = jax.jit(functools.partial(vae.apply, method="decode"))({"params": params}, noise)
    # An even number of latents makes diffusers return 4t frames; ours drops the three extra copies of the first.
    assert video.shape == clip.shape
    assert expected.shape[2] - video.shape[1] == (3 if mean.shape[1] % 2 == 0 else 0)
    assert relative_error(video, expected[:, :, -video.shape[1] :]) <= TOLERANCE


def test_released_size_has_diffusers_parameters():
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLCogVideoX()
    assert autoencoder.from_config(theirs.config) == VAE()
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    (part,) = (part for part in networks.PARTS if part.key == "vae")
    shapes, rules = networks.shapes_of(part, VAE()), autoencoder.rules(VAE())
    assert {rule.target for rule in rules} == shapes.keys()
    hollow = {rule.source: rule.op.save(tensors.hollow(shapes[rule.target])).shape for rule in rules}
    assert hollow == expected
