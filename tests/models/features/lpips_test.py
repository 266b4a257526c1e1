"""LPIPS on random weights: what holds whatever the weights are. Values are compared with torch in tests/parity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lpips_files import random_parameters

from motionv2v.models.features import lpips

TRUNK_PARAMETERS = {"alex": 2_469_696, "vgg": 14_714_688, "squeeze": 722_496}
HEAD_CHANNELS = {
    "alex": [64, 192, 384, 256, 256],
    "vgg": [64, 128, 256, 512, 512],
    "squeeze": [64, 128, 256, 384, 384, 512, 512],
}
"""torchvision's trunks without their classifiers, and the published heads."""


def frames(seed, count=5, size=(33, 47)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    return lpips.Lpips("squeeze"), random_parameters("squeeze")


@pytest.mark.parametrize("net", lpips.TRUNKS)
def test_sizes_are_those_of_the_published_files(net):
    shapes = lpips.parameter_shapes(net)
    heads = {path: shape for path, shape in shapes.items() if path.startswith("lin")}
    assert [heads[f"lin{i}"] for i in range(len(heads))] == [(channels,) for channels in HEAD_CHANNELS[net]]
    assert sum(math.prod(shapes[path]) for path in shapes if path not in heads) == TRUNK_PARAMETERS[net]


@pytest.mark.parametrize(
    "net, sizes",
    [
        ("alex", [(15, 23), (7, 11), (3, 5), (3, 5), (3, 5)]),
        ("vgg", [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]),
        ("squeeze", [(31, 47), (15, 23), (7, 11), (3, 5), (3, 5), (3, 5), (3, 5)]),
    ],
)
def test_features_of_64x96_pictures_have_torchvisions_sizes(net, sizes):
    """Pools round up in SqueezeNet alone."""
    x = jax.ShapeDtypeStruct((1, 3, 64, 96), jnp.float32)

    def features(x):
        module, found = lpips.Lpips(net), {}
        picture = x.transpose(0, 2, 3, 1)
        params = module.init(jax.random.key(0), picture, picture)
        for name, value in module.apply(params, picture, picture, capture_intermediates=True)[1][
            "intermediates"
        ].items():
            found |= {name: value["__call__"][0]} if "__call__" in value and name != "__call__" else {}
        return found

    shapes = jax.eval_shape(features, x)
    taps = [shapes[f"features_{layer.index}"].shape for layer in lpips.TRUNKS[net].taps()]
    assert [shape[1:3] for shape in taps] == sizes


def test_equal_frames_are_at_0_and_order_does_not_matter(network):
    a, b = frames(1), frames(2)
    assert lpips.frame_distances(*network, a, a).tolist() == [0] * 5
    there, back = lpips.frame_distances(*network, a, b), lpips.frame_distances(*network, b, a)
    assert there.min() > 0.01
    np.testing.assert_allclose(there, back, rtol=1e-5)


def test_frames_are_compared_one_by_one(network):
    """Whatever shares a chunk with a frame; the last chunk is not full."""
    a, b = frames(1), frames(2)
    b[2] = a[2]
    alone = [lpips.frame_distances(*network, a[t : t + 1], b[t : t + 1])[0] for t in range(5)]
    assert alone[2] == 0 and len(set(alone)) == 5
    for chunk in (2, 8):
        np.testing.assert_allclose(lpips.frame_distances(*network, a, b, chunk=chunk), alone, rtol=1e-5, atol=1e-7)


def test_bytes_are_pictures_from_minus_1_to_1(network):
    module, params = network
    a, b = frames(1), frames(2)
    scaled = [x.astype(np.float32) / 127.5 - 1 for x in (a, b)]
    expected = lpips.frame_distances(module, params, a, b)
    np.testing.assert_allclose(module.apply({"params": params}, *scaled), expected, rtol=1e-5)
    wrong = module.apply({"params": params}, *[x.astype(np.float32) / 255 for x in (a, b)])
    assert np.abs(wrong / expected - 1).max() > 0.01


def test_heads_weigh_channels(network):
    """Twice the weights are twice the distance; weights of 0 leave the other layers."""
    module, params = network
    a, b = frames(1), frames(2)
    heads = [name for name in params if name.startswith("lin")]
    whole = lpips.frame_distances(module, params, a, b)
    parts = [
        lpips.frame_distances(module, params | {other: 0 * params[other] for other in heads if other != name}, a, b)
        for name in heads
    ]
    np.testing.assert_allclose(np.sum(parts, 0), whole, rtol=1e-5)
    doubled = lpips.frame_distances(module, params | {name: 2 * params[name] for name in heads}, a, b)
    np.testing.assert_allclose(doubled, 2 * whole, rtol=1e-5)


def test_pictures_that_cannot_be_compared_are_refused(network):
    a = frames(1)
    for net, first, words in (
        ("squeeze", a[:0], r"given \[0, 33, 47, 3\]"),
        ("squeeze", a[:, :16], r"squeeze needs frames of at least 17x17, given \[16, 47\]"),
        ("alex", a[:, :30], r"alex needs frames of at least 31x31"),
        ("resnet", a, "unknown LPIPS network 'resnet'; available: alex, vgg, squeeze"),
        ("squeeze", a / 255, r"uint8 frames in 0\.\.255, given float64 and float64"),
    ):
        with pytest.raises(ValueError, match=words):
            lpips.frame_distances(lpips.Lpips(net), network[1], first, first)
    # What the annotations would refuse first, in a test.
    with pytest.raises(ValueError, match=r"one shape, given \[5, 33, 47, 3\] and \[5, 32, 47, 3\]"):
        lpips._check(a, a[:, :32], "squeeze")
    module, params = network
    with pytest.raises(ValueError, match="uint8 with uint8 or float with float, given float32 and uint8"):
        module.apply({"params": params}, a.astype(np.float32), a)
    with pytest.raises(ValueError, match="given int32"):
        module.apply({"params": params}, a.astype(np.int32), a.astype(np.int32))
