"""Cutting into tiles and blending, on functions whose result is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.vae import tiling
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.models.vae.tiling import Tiling, cut


@pytest.mark.parametrize(("size", "overlap"), [(12, 0.25), (8, 0.5), (16, 0.0), (40, 0.2)])
def test_tiles_of_a_pointwise_function_change_nothing(size, overlap):
    """Where a pixel depends on itself alone, all tiles agree and blending must give the function of the whole."""
    x = np.random.default_rng(0).normal(size=(2, 3, 20, 33, 4)).astype(np.float32)
    rows, columns = cut(20, size, size, overlap), cut(33, size, size, overlap)
    out = tiling.apply(lambda tile: tile * 2 + 1, jnp.asarray(x), rows, columns)
    # The ramp's two parts add up to one, up to float32's rounding.
    np.testing.assert_allclose(out, x * 2 + 1, rtol=0, atol=2e-6)


def test_blending_fades_from_one_tile_to_the_next():
    """Tiles that return their own number: the strip that two share goes from the one to the other in even steps."""
    numbers = iter([0.0, 1.0, 0.0])
    columns, rows = cut(12, 8, 8, 0.5), cut(4, 4, 4, 0.0)
    constant = lambda tiles: jnp.stack([jnp.full_like(tile, next(numbers)) for tile in tiles])  # noqa: E731
    out = tiling.apply(constant, jnp.zeros((1, 1, 4, 12, 1)), rows, columns)[0, 0, 0, :, 0]
    np.testing.assert_allclose(out[:8], [0, 0, 0, 0, 0, 0.25, 0.5, 0.75])


def test_cost_counts_pixels():
    """CogVideoX's tiles on its own frames: 9 tiles starting every 200 rows and 288 columns."""
    told = tiling.cost(480, 720, Tiling(240, 360))
    rows, columns = 240 + 240 + 80, 360 + 360 + 144
    assert "9 tiles of 240x360" in told
    assert f"{rows * columns / (480 * 720):.2f} times the work, 0.25 of the memory" in told


def test_bad_tiles_are_refused():
    with pytest.raises(ValueError, match=r"tiles of 8 that overlap by 1.0 do not advance; expected 0 <= overlap < 1"):
        cut(20, 8, 8, 1.0)
    with pytest.raises(ValueError, match=r"overlap of 0.2 of tiles of 64 pixels.*nearest overlap: 0.25"):
        cut(20, 8, 64, 0.2)
    with pytest.raises(ValueError, match=r"tile_size is \(20, 24\); expected multiples of 8 pixels"):
        VAE((4, 4, 4, 4), 1, 4, 2, tile_size=(20, 24)).init(jnp.zeros(2, jnp.uint32), jnp.zeros((1, 1, 32, 32, 3)))
