"""Formulations of the causal convolution: the filters' identity in fractions, and all against a loop over taps."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.vae import convolution
from motionv2v.models.vae.layers import CausalConv3d

# Relative errors in the 2-norm. float32 sums of 432 terms; F(4, 3) multiplies rounding by about 4.
TOLERANCE = {"conv2d": 1e-6, "conv3d": 1e-6, "winograd": 4e-6, "auto": 4e-6}


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_taps(x, before, kernel):
    """Add up every tap's product of shifted frames and kernel in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    before = np.repeat(x[:, :1], 2, axis=1) if before is None else before
    frames, rows, columns = x.shape[1:4]
    padded = np.pad(np.concatenate([before, x], axis=1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + frames, j : j + rows, k : k + columns] @ kernel[i, j, k]
        for i in range(3)
        for j in range(3)
        for k in range(3)
    )


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)


@pytest.mark.parametrize("count", range(1, 1 + len(convolution.FILTERS)))
def test_filter_is_a_convolution(count):
    """Frame i of the result must hold kernel entry t times input frame j exactly where j = i + t."""
    rule = convolution.FILTERS[count - 1]
    # Table entries such as 1/6 are rounded floats; the fractions they stand for have small denominators.
    outputs, kernels, inputs = (
        [[Fraction(value).limit_denominator(100) for value in row] for row in table] for table in rule
    )
    for i in range(count):
        for t in range(3):
            for j in range(count + 2):
                terms = zip(outputs[i], kernels, inputs, strict=True)
                assert sum(a * row[t] * seen[j] for a, row, seen in terms) == (j == i + t)


@pytest.mark.parametrize("impl", convolution.FORMULATIONS)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8])
def test_formulations_match_loop(impl, frames):
    kernel = random(0, 3, 3, 3, 16, 5)
    for before in (None, random(1, 2, 2, 4, 6, 16)):
        x = random(2, 2, frames, 4, 6, 16)
        y = jax.jit(convolution.causal, static_argnums=3)(x, before, kernel, impl)
        assert relative(y, by_taps(x, before, kernel)) < TOLERANCE[impl]


@pytest.mark.parametrize("chunk", ["first", "later"])
def test_winograd_has_the_gradients_of_conv3d(chunk):
    x, kernel, weight = random(0, 1, 5, 4, 4, 3), random(1, 3, 3, 3, 3, 2), random(2, 1, 5, 4, 4, 2)
    given = (x, kernel) if chunk == "first" else (x, kernel, random(3, 1, 2, 4, 4, 3))

    def gradients(impl):
        def total(x, kernel, before=None):
            return jnp.sum(convolution.causal(x, before, kernel, impl) * weight)

        return jax.jit(jax.grad(total, tuple(range(len(given)))))(*given)

    for ours, expected in zip(gradients("winograd"), gradients("conv3d"), strict=True):
        # Sums of up to 160 terms in another order.
        assert relative(ours, np.asarray(expected)) < 2e-6


def lowered(platform, dtype, channels=convolution.FEWEST_CHANNELS):
    shapes = (1, 8, 4, 4, channels), (1, 2, 4, 4, channels), (3, 3, 3, channels, 2)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    text = jax.jit(convolution.causal).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution")


def test_auto_saves_products_on_cpus_only():
    # Eight frames: two blocks in each of the six products of F(4, 3), or one convolution of gathered frames.
    assert lowered("cpu", jnp.float32) == 6
    assert lowered("cuda", jnp.float32) == lowered("tpu", jnp.float32) == 1
    # Half precision has no digits to lose, and few channels have no products to save.
    assert lowered("cpu", jnp.bfloat16) == lowered("cpu", jnp.float32, convolution.FEWEST_CHANNELS - 1) == 1


def test_kernels_that_do_not_fit_are_explained():
    x, kernel = jnp.zeros((1, 2, 4, 4, 1)), jnp.zeros((2, 3, 3, 1, 1))
    with pytest.raises(ValueError, match="'winograd' with a kernel of 2 frames; it takes 3"):
        convolution.causal(x, None, kernel, "winograd")
    assert convolution.causal(x, None, kernel).shape == x.shape


@pytest.mark.parametrize("strip_rows", [None, 2])
def test_winograd_in_chunks_and_strips_matches_loop(strip_rows):
    x, kernel = random(0, 1, 9, 5, 4, 3), random(1, 3, 3, 3, 3, 2)
    conv = CausalConv3d(2, impl="winograd", strip_rows=strip_rows)
    params = {"params": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}
    chunks, cache = [], None
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        y, cache = conv.apply(params, x[:, start:stop], cache)
        chunks.append(y)
    assert relative(np.concatenate(chunks, axis=1), by_taps(x, None, kernel)) < TOLERANCE["winograd"]
