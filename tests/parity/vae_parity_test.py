"""Parity of the video autoencoder with diffusers' AutoencoderKLCogVideoX on shared random weights, in float32."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.vae import VAE

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

# Both sides compute in float32 and differ in the order of their sums only: about 1e-6 through some 40 layers.
TOLERANCE = 1e-5

CHANNELS = (8, 16, 16, 32)
GROUPS = 4
LATENTS = 16

# (clips, frames, rows, columns). 1: one latent; 5: one chunk; 9: one chunk of 9; 13: one chunk of 13; 17: 9 + 8;
# 21: 13 + 8 (an even number of latents in two chunks); 25: 9 + 8 + 8.
SHAPES = [(1, 1, 16, 24), (2, 5, 16, 16), (1, 9, 24, 16), (1, 13, 8, 16)]
SHAPES += [(2, 17, 16, 24), (1, 21, 16, 8), (1, 25, 8, 8)]
# Compiling takes nearly all the time, so the deep model, the release's three layers a block, runs on three of them.
CASES = [(1, shape) for shape in SHAPES] + [(3, SHAPES[i]) for i in (0, 1, 4)]


def ours_name(name):
    """encoder.down_blocks.0.resnets.1.conv1.conv.weight -> (encoder, down_blocks_0_resnets_1, conv1, kernel)."""
    name = re.sub(r"\.conv\.(weight|bias)$", r".\1", name)
    name = re.sub(r"(down_blocks|up_blocks)\.(\d+)\.(\w+)\.(\d+)", r"\1_\2_\3_\4", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", r"mid_block_resnets_\1", name)
    *path, leaf = name.split(".")
    is_norm = re.fullmatch(r"norm_layer|norm\d|norm_out", path[-1])
    return (*path, {"weight": "scale" if is_norm else "kernel"}.get(leaf, leaf))


def ours_value(path, value):
    value = value.numpy()
    if path[-1] != "kernel":
        return value
    value = np.moveaxis(value, (0, 1), (-1, -2))
    return value.reshape(value.shape[-2:]) if value.shape[:3] == (1, 1, 1) else value


def to_tree(state_dict):
    tree = {}
    for name, value in state_dict.items():
        path = ours_name(name)
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = ours_value(path, value)
    return tree


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
    return theirs, VAE(CHANNELS, layers_per_block, LATENTS, GROUPS), to_tree(theirs.state_dict())


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
    expected = {ours_name(name): tuple(value.shape) for name, value in theirs.state_dict().items()}
    clip = jax.ShapeDtypeStruct((1, 1, 8, 8, 3), jnp.float32)
    ours = jax.eval_shape(VAE().init, jax.random.key(0), clip)["params"]
    ours = {tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(ours)}
    assert ours.keys() == expected.keys()
    assert all(np.prod(ours[path]) == np.prod(expected[path]) for path in ours)
