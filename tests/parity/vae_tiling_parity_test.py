"""The autoencoder in tiles against diffusers' `enable_tiling`, on shared random weights, float32."""

import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from vae_parity_test import TOLERANCE, models, relative_error  # noqa: E402

# Tile (rows, columns) and overlaps; clip (batch, frames, rows, columns).
CASES = [
    # 2 x 2 tiles, the last ones smaller.
    pytest.param((48, 80), (1 / 6, 1 / 5), (1, 5, 72, 104), marks=pytest.mark.slow),
    # One tile high; several chunks of frames.
    ((64, 32), (0.25, 0.25), (2, 17, 40, 48)),
    # Smaller than a tile: nothing is cut.
    ((64, 64), (1 / 6, 1 / 5), (1, 1, 40, 48)),
]


@pytest.mark.parametrize(("tile", "overlap", "shape"), CASES)
def test_tiles_match_diffusers(tile, overlap, shape):
    theirs, vae, params = models(1)
    theirs.enable_tiling(*tile, *overlap)
    ours = vae.clone(tile_size=tile, tile_overlap=overlap)
    rng = np.random.default_rng(0)
    clip = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    try:
        with torch.no_grad():
            expected = theirs.encode(torch.from_numpy(np.moveaxis(clip, -1, 1))).latent_dist.mean
            mean, _ = jax.jit(functools.partial(ours.apply, method="encode"))({"params": params}, clip)
            assert relative_error(mean, expected) <= TOLERANCE
            noise = rng.normal(size=mean.shape).astype(np.float32)
            expected = theirs.decode(torch.from_numpy(np.moveaxis(noise, -1, 1))).sample
    finally:
        theirs.disable_tiling()
    video = jax.jit(functools.partial(ours.apply, method="decode"))({"params": params}, noise)
    # An even number of latents makes diffusers return three extra copies of the first frame.
    assert relative_error(video, expected[:, :, -video.shape[1] :]) <= TOLERANCE
    whole = vae.apply({"params": params}, noise, method="decode")
    same = float(np.linalg.norm(whole - video) / np.linalg.norm(whole)) <= TOLERANCE
    assert same == (shape[2] <= tile[0] and shape[3] <= tile[1])
