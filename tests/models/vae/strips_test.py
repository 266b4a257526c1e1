"""Convolving in strips: the same numbers as whole frames, with less work space, at a cost that is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.vae import strips
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.models.vae.layers import CausalConv3d, Downsample, Upsample

LAYERS = {
    "conv2d": lambda rows: CausalConv3d(5, impl="conv2d", strip_rows=rows),
    "conv3d": lambda rows: CausalConv3d(5, impl="conv3d", strip_rows=rows),
    "downsample": lambda rows: Downsample(5, True, strip_rows=rows),
    "upsample": lambda rows: Upsample(5, True, strip_rows=rows),
}


def close(a, b):
    # The same products; a convolution of another shape may add them in another order.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 8, 100])
@pytest.mark.parametrize("layer", LAYERS)
def test_strips_equal_the_whole_frame(layer, rows):
    """Strips that divide the 8 rows, that do not, and that are larger than the frame."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 6, 4)), jnp.float32)
    whole = LAYERS[layer](None)
    params = whole.init(jax.random.key(0), x)
    run = lambda module: jax.tree.leaves(jax.jit(module.apply)(params, x))[0]  # noqa: E731
    close(run(LAYERS[layer](rows)), run(whole))


def test_rows_outside_the_frame_are_zero_after_the_activation():
    """A sum over three rows of x + 1, by hand: the rows above and below the frame count as 0, not as 1."""
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1, 1)
    before = np.full_like(x, 10)

    def add_neighbours(x, before):
        x = jnp.pad(x + before, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
        return x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]

    for rows in (None, 1, 2, 3, 4):
        y = strips.in_strips(add_neighbours, lambda x, index: x + 1, x, before, rows=rows, halo=1)
        # Rows are 11, 12, 13, 14, 15.
        assert y.ravel().tolist() == [23, 36, 39, 42, 29]


@pytest.mark.slow
def test_whole_model_in_strips_equals_whole_frames():
    """Encode and decode with caches, several chunks and norms between the strips."""
    fields = {"block_channels": (4, 4, 4, 4), "layers_per_block": 1, "latent_channels": 4, "norm_groups": 2}
    whole, strips = VAE(**fields), VAE(**fields, strip_rows=7)
    video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 17, 16, 8, 3)), jnp.float32)
    params = jax.jit(whole.init)(jax.random.key(0), video)
    latents = jax.jit(lambda p, x: whole.apply(p, x, method="encode")[0])(params, video)
    close(jax.jit(lambda p, x: strips.apply(p, x, method="encode")[0])(params, video), latents)
    decoded = jax.jit(lambda p, z: whole.apply(p, z, method="decode"))(params, latents)
    close(jax.jit(lambda p, z: strips.apply(p, z, method="decode"))(params, latents), decoded)


@pytest.mark.parametrize(("impl", "least"), [("conv2d", 3), ("winograd", 2)])
def test_strips_need_less_work_space(impl, least):
    """What the compiler sets aside for one convolution of a tall frame; gathered frames alone are 3 inputs."""
    x = jax.ShapeDtypeStruct((1, 8, 256, 32, 32), jnp.float32)

    def work_space(rows):
        module = CausalConv3d(32, impl=impl, strip_rows=rows)
        params = jax.eval_shape(module.init, jax.random.key(0), x)
        return (
            jax.jit(lambda p, x: module.apply(p, x)[0]).lower(params, x).compile().memory_analysis().temp_size_in_bytes
        )

    size = np.prod(x.shape) * 4
    assert work_space(None) > least * size
    assert work_space(16) < 2 * size


def test_cost_is_told():
    told = strips.cost(480, 60)
    assert "8 strips of 60 rows: 1.03 times the work" in told
    notice = VAE(strip_rows=60, tile_size=(240, 360)).memory_notice(480, 720)
    assert notice.startswith(told)
    assert "9 tiles of 240x360" in notice
    assert VAE(strip_rows=480).memory_notice(480, 720) is None


def test_strips_without_rows_are_refused():
    with pytest.raises(ValueError, match="strip_rows is 0; expected at least 1"):
        VAE((4, 4, 4, 4), 1, 4, 2, strip_rows=0).init(jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))
