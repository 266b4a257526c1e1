"""InceptionV3 of FID: sizes, chunks, scaling. Values are compared with torch in tests/parity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frechet_files import inception_leaves

from motionv2v import parameters
from motionv2v.models.features import inception, resizing


def test_sizes_are_those_of_the_published_network():
    """Its file has 23,885,392 numbers with the classifier."""
    shapes = inception.parameter_shapes()
    assert sum(map(math.prod, shapes.values())) == 23_885_392 - 1008 * 2049
    assert sum(path.endswith("kernel") for path in shapes) == 94
    assert shapes["Mixed_6c/branch7x7dbl_4/conv/kernel"] == (7, 1, 160, 160)


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"pictures of 299x299, given \[74, 80\]"):
        jax.eval_shape(inception.Inception().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 74, 80, 3), jnp.float32))
    with pytest.raises(ValueError, match="unknown resize 'tf2'; available: tf1, torch, pillow"):
        inception.frame_features(inception.Inception(), {}, np.zeros((2, 9, 9, 3), np.uint8), "tf2")


def test_frames_are_scaled_as_each_program_does(monkeypatch):
    """With the network out of the way: 0 and 255 are -1 and 1, but (255 - 128) / 128 in TensorFlow's manner."""
    monkeypatch.setattr(inception.Inception, "apply", lambda module, params, x: x.mean((1, 2)))
    monkeypatch.setattr(inception, "_apply", inception._apply.__wrapped__)
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 31, 3), np.uint8)
    frames[0], frames[1] = 0, 255
    for resize in resizing.RESIZES:
        found = inception.frame_features(inception.Inception(), {}, frames, resize)
        np.testing.assert_allclose(found[0], -1, atol=1e-6)
        np.testing.assert_allclose(found[1], 1 if resize == "torch" else 127 / 128, atol=1e-6)


def test_frames_are_seen_one_by_one(monkeypatch):
    """Whatever shares a chunk with a frame; the last chunk is not full. Small pictures, so that it is quick."""
    traced = inception._apply.__wrapped__

    def small(*given):  # a function of its own: what other tests traced of the same one, at its own size, is kept
        return traced(*given)

    monkeypatch.setattr(inception, "SIZE", 75)
    monkeypatch.setattr(inception, "_apply", jax.jit(small, static_argnums=(0, 1)))
    network = inception.Inception(), parameters.unflatten(inception_leaves())
    frames = np.random.default_rng(1).integers(0, 256, (3, 20, 31, 3), np.uint8)
    alone = np.concatenate([inception.frame_features(*network, frames[t : t + 1]) for t in range(3)])
    assert alone.shape == (3, 2048) and alone.std(axis=0).max() > 0
    np.testing.assert_allclose(inception.frame_features(*network, frames, chunk=2), alone, rtol=1e-3, atol=1e-5)
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_allclose(alone[0], alone[1], rtol=1e-3, atol=1e-5)
