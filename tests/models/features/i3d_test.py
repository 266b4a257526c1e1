"""I3D's sizes and what it refuses. Values are compared with torch in tests/parity, whole features in the slow test."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frechet_files import i3d_leaves

from motionv2v import parameters
from motionv2v.models.features import i3d, resizing


def test_sizes_are_those_of_the_published_network():
    """As counted in TF-Hub's graph: 58 convolutions, 230 variables."""
    shapes = i3d.parameter_shapes()
    assert len(shapes) == 230 and sum(map(math.prod, shapes.values())) == 12_704_544
    assert sum(path.endswith("kernel") for path in shapes) == 58
    assert shapes["Conv3d_1a_7x7/conv_3d/kernel"] == (7, 7, 7, 3, 64)
    assert shapes["Mixed_5b/Branch_2.Conv3d_0b_3x3/conv_3d/kernel"] == (3, 3, 3, 32, 128)
    assert shapes["Logits.Conv3d_0c_1x1/conv_3d/bias"] == (400,)


def test_clips_that_are_too_short_or_of_another_size_are_refused():
    module, clip = i3d.I3d(), lambda t, h, w: jax.ShapeDtypeStruct((1, t, h, w, 3), jnp.float32)
    for wrong, given in (
        (clip(8, 224, 224), "8x224x224"),
        (clip(9, 192, 224), "9x192x224"),
        (clip(9, 224, 225), "225"),
    ):
        with pytest.raises(ValueError, match=f"at least 9 frames of 224x224 pixels, given .*{given}"):
            jax.eval_shape(module.init, jax.random.key(0), wrong)
    assert jax.eval_shape(module.init_with_output, jax.random.key(0), clip(9, 193, 200))[0].shape == (1, 400)
    frames = np.zeros((9, 10, 10, 3), np.uint8)
    for x, resize, words in (
        (frames, "pillow", "no FVD resizes frames as 'pillow'"),
        (frames, "area", "unknown resize"),
        (frames / 255, "tf1", "uint8 frames"),
    ):
        with pytest.raises(ValueError, match=words):
            i3d.clip_features(module, {}, x, resize)


def test_frames_are_resized_then_scaled(monkeypatch):
    """With the network out of the way: 0 and 255 are -1 and 1."""
    seen = []
    monkeypatch.setattr(i3d.I3d, "apply", lambda module, params, x: seen.append(x) or x.mean((2, 3, 4)))
    frames = np.random.default_rng(0).integers(0, 256, (9, 20, 31, 3), np.uint8)
    frames[0], frames[1] = 0, 255
    for resize in ("tf1", "torch"):
        found = i3d._apply.__wrapped__(i3d.I3d(), resize, {}, frames)
        np.testing.assert_allclose(found[:2], [-1, 1], atol=1e-6)
        expected = np.asarray(resizing.bilinear(frames, 224, resize)) / 127.5 - 1
        np.testing.assert_allclose(seen[-1][0], expected, atol=1e-5)


@pytest.mark.slow
def test_features_tell_clips_resizes_and_epsilons_apart():
    params = parameters.unflatten(i3d_leaves())
    clips = np.random.default_rng(0).integers(0, 256, (2, 9, 40, 50, 3), np.uint8)
    first, other = (i3d.clip_features(i3d.I3d(), params, clip) for clip in clips)
    assert first.shape == (400,) and np.linalg.norm(first - other) > 0.01 * np.linalg.norm(first)
    for changed in (
        i3d.clip_features(i3d.I3d(), params, clips[0], "torch"),
        i3d.clip_features(i3d.I3d(1e-5), params, clips[0]),
        i3d.clip_features(i3d.I3d(), params, clips[0][::-1]),
    ):
        assert np.linalg.norm(first - changed) > 1e-4 * np.linalg.norm(first)
