"""Resizes against hand values, jax's own and Pillow's. torch's is compared in tests/parity."""

import jax
import numpy as np
import pytest
from PIL import Image

from motionv2v.models.features import resizing


def frames(size, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def line(values, size, resize):
    """Resize one row of pixels, in a square picture of equal rows."""
    x = np.array(values, np.uint8).reshape(1, 1, -1, 1).repeat(3, axis=-1).repeat(len(values), axis=1)
    return np.asarray(resizing.bilinear(x, size, resize))[0, 0, :, 0].tolist()


def test_hand_values():
    """Three pixels to two, and two to four: TensorFlow 1 starts at the corner, and its last pixel is repeated."""
    assert line([0, 30, 60], 2, "tf1") == [0, 45]
    assert line([0, 30, 60], 2, "torch") == [7.5, 52.5]
    assert line([0, 80], 4, "tf1") == [0, 40, 80, 80]
    assert line([0, 80], 4, "torch") == [0, 20, 60, 80]


@pytest.mark.parametrize("resize", ["tf1", "torch"])
def test_rows_are_resized_as_columns_and_equal_sizes_stay(resize):
    x = frames((24, 37))
    turned = np.asarray(resizing.bilinear(x.transpose(0, 2, 1, 3), 29, resize)).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(resizing.bilinear(x, 29, resize), turned, atol=1e-4)
    np.testing.assert_array_equal(resizing.bilinear(frames((24, 24)), 24, resize), frames((24, 24)))


@pytest.mark.parametrize("size", [(24, 37), (90, 31)])
def test_half_pixel_bilinear_is_jaxs_without_smoothing(size):
    x = frames(size).astype(np.float32)
    expected = jax.image.resize(x, (2, 48, 48, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(resizing.bilinear(x, 48, "torch"), expected, atol=2e-3)
    assert np.abs(np.asarray(resizing.bilinear(x, 48, "tf1")) - expected).max() > 20


def test_bicubic_is_pillows_of_floats_and_stays_within_bytes():
    """Nearly jax's cubic with smoothing; Pillow's of bytes, which cuts off and rounds in between, is another."""
    x = frames((90, 61))
    found = resizing.bicubic(x, 48)
    smooth = np.clip(jax.image.resize(x.astype(np.float32), (2, 48, 48, 3), "cubic"), 0, 255)
    assert np.abs(found - smooth).max() < 0.05 and found.min() >= 0 and found.max() <= 255
    rounded = np.stack([np.asarray(Image.fromarray(f).resize((48, 48), Image.Resampling.BICUBIC)) for f in x])
    assert 2 < np.abs(found - rounded).max() < 20
    contrast = np.zeros((1, 8, 8, 3), np.uint8)
    contrast[:, :, 4:] = 255
    overshoot = jax.image.resize(contrast.astype(np.float32), (1, 48, 48, 3), "cubic")
    assert overshoot.max() > 256 and resizing.bicubic(contrast, 48).max() == 255


def test_what_are_no_frames_is_refused():
    for x, resize, words in (
        (frames((4, 4)) / 255, "tf1", r"uint8 frames \[T H W 3\], given float64 \[2, 4, 4, 3\]"),
        (frames((4, 4))[0], "tf1", r"given uint8 \[4, 4, 3\]"),
        (frames((4, 4))[:0], "tf1", r"given uint8 \[0, 4, 4, 3\]"),
        (frames((4, 4)), "area", "unknown resize 'area'; available: tf1, torch, pillow"),
    ):
        with pytest.raises(ValueError, match=words):
            resizing.check(x, resize)
