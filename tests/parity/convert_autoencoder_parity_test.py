"""Folders that diffusers saved of its autoencoder, loaded and written back: the same moments, videos and weights."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import convert
from motionv2v.convert import ConvertError

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from vae_parity_test import TOLERANCE, relative_error  # noqa: E402

CHANNELS, GROUPS, LATENTS = (8, 16, 16, 24), 4, 6
# (clips, frames, rows, columns): not square, one frame, the chunkings 5, 9 + 8 and 13 + 8.
SHAPES = [(1, 1, 24, 8), (2, 5, 8, 24), (1, 17, 16, 8), pytest.param((2, 21, 8, 16), marks=pytest.mark.slow)]


@functools.cache
def diffusers_vae():
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=CHANNELS,
        latent_channels=LATENTS,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        scaling_factor=0.7,
        sample_height=48,
        sample_width=64,
    ).eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return theirs


def encode(theirs, clip):
    with torch.no_grad():
        return theirs.encode(torch.from_numpy(np.moveaxis(clip, -1, 1)).to(theirs.dtype)).latent_dist


def decode(theirs, latents):
    """Decode; an even number of latents makes diffusers return three copies of the first frame more than ours."""
    frames = 4 * (latents.shape[1] - 1) + 1
    with torch.no_grad():
        return theirs.decode(torch.from_numpy(np.moveaxis(latents, -1, 1)).to(theirs.dtype)).sample[:, :, -frames:]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(module, params, folder) of the autoencoder saved by diffusers in several shards."""
    folder = tmp_path_factory.mktemp("vae")
    diffusers_vae().save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return *convert.from_diffusers(folder), folder


@pytest.mark.parametrize("shape", SHAPES)
def test_loaded_autoencoder_matches(loaded, shape):
    module, params, _ = loaded
    theirs = diffusers_vae()
    assert module.scaling_factor == 0.7
    rng = np.random.default_rng(0)
    clip = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    mean, logvar = jax.jit(functools.partial(module.apply, method="encode"))({"params": params}, clip)
    noise = rng.normal(size=mean.shape).astype(np.float32)
    video = jax.jit(functools.partial(module.apply, method="decode"))({"params": params}, noise)
    try:
        if shape[0] > 1:
            theirs.enable_slicing()  # one sample at a time: a matter of memory, not of results
        expected = encode(theirs, clip)
        assert relative_error(mean, expected.mean) <= TOLERANCE
        assert relative_error(logvar, expected.logvar) <= TOLERANCE
        assert relative_error(video, decode(theirs, noise)) <= TOLERANCE
    finally:
        theirs.disable_slicing()


def test_written_autoencoder_loads_in_diffusers(loaded, tmp_path):
    module, params, _ = loaded
    convert.to_diffusers(module, params, tmp_path / "out", shard_size="150KB")
    again, info = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = diffusers_vae().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    clip = np.random.default_rng(1).uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)
    # The same weights in the same library: nothing but its own threads could differ.
    assert (
        relative_error(np.moveaxis(encode(again, clip).mean.numpy(), 1, -1), encode(diffusers_vae(), clip).mean) <= 1e-6
    )


def test_bfloat16_is_as_good_as_diffusers(tmp_path):
    """Against diffusers in float32 ours may err twice as much as its own bfloat16: both round, in other places."""
    exact, rounded = diffusers_vae(), copy.deepcopy(diffusers_vae()).to(torch.bfloat16)
    rounded.save_pretrained(tmp_path / "vae")
    module, params = convert.from_diffusers(tmp_path / "vae", dtype="stored")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(jnp.bfloat16)}
    module = module.clone(dtype=jnp.bfloat16)
    rng = np.random.default_rng(2)
    clip = rng.uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)
    mean, _ = jax.jit(functools.partial(module.apply, method="encode"))({"params": params}, clip)
    noise = rng.normal(size=mean.shape).astype(np.float32)
    video = jax.jit(functools.partial(module.apply, method="decode"))({"params": params}, noise)
    for ours, reference, peer in (
        (mean, encode(exact, clip).mean, encode(rounded, clip).mean),
        (video, decode(exact, noise), decode(rounded, noise)),
    ):
        allowed = 2 * relative_error(np.moveaxis(peer.float().numpy(), 1, -1), reference)
        assert 0 < relative_error(np.asarray(ours, np.float32), reference) <= allowed


def test_released_settings_are_read_and_others_refused(tmp_path):
    """What diffusers writes for settings that change the model never loads as if it had not been there."""
    small = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    for settings, message in (
        ({"use_quant_conv": True, "out_channels": 3}, "use_quant_conv is True; supported: False"),
        ({"norm_eps": 1e-3}, "norm_eps is 0.001; supported: 1e-06"),
        ({"act_fn": "relu"}, "act_fn is 'relu'; supported"),
        ({"latents_mean": (0.0,) * 4}, "latents_mean is .*; supported: None"),
    ):
        diffusers.AutoencoderKLCogVideoX(**small, **settings).save_pretrained(tmp_path / "vae")
        with pytest.raises(ConvertError, match=message):
            convert.from_diffusers(tmp_path / "vae")
    # CogVideoX 1.5's autoencoder: how callers scale an image is no matter of the module's.
    diffusers.AutoencoderKLCogVideoX(**small, invert_scale_latents=True).save_pretrained(tmp_path / "vae")
    convert.from_diffusers(tmp_path / "vae")
