"""InceptionV3 of FID against torch: the network of the published layer table in torch's operations, random weights.

The table is written twice by the same hand. torch-fidelity 0.4.0, whose package asks for torchvision and is therefore
no part of the extra `parity`, was run once beside it: its own network and TensorFlow's resize, on the same weights and
2 frames of 50x37, agreed with `frame_features(..., "tf1")` to 2.7e-7, relative.
"""

import numpy as np
import pytest
from frechet_files import inception_leaves, inception_state

from motionv2v import parameters
from motionv2v.convert import inception
from motionv2v.models.features import resizing

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")

from torch.nn import functional  # noqa: E402


class Oracle:
    """The network on a state dict in the published names."""

    def __init__(self, state):
        self.state = {name: torch.tensor(x) for name, x in state.items()}
        self.used = set()

    def conv(self, x, name, channels, kernel=(1, 1), stride=1, padding=0):
        weight = self.state[f"{name}.conv.weight"]
        assert weight.shape == (channels, x.shape[1], *kernel)
        self.used.add(name)
        x = functional.conv2d(x, weight, stride=stride, padding=padding)
        norm = [self.state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *norm, training=False, eps=1e-3).relu()

    def row(self, x, name, *convs):
        for last, *rest in convs:
            x = self.conv(x, f"{name}{last}", *rest)
        return x

    def a(self, x, name, pool):
        sides = [
            self.conv(x, f"{name}.branch1x1", 64),
            self.row(x, f"{name}.branch5x5_", (1, 48), (2, 64, (5, 5), 1, 2)),
            self.row(x, f"{name}.branch3x3dbl_", (1, 64), (2, 96, (3, 3), 1, 1), (3, 96, (3, 3), 1, 1)),
            self.conv(average(x), f"{name}.branch_pool", pool),
        ]
        return torch.cat(sides, 1)

    def b(self, x, name):
        sides = [
            self.conv(x, f"{name}.branch3x3", 384, (3, 3), 2),
            self.row(x, f"{name}.branch3x3dbl_", (1, 64), (2, 96, (3, 3), 1, 1), (3, 96, (3, 3), 2)),
            functional.max_pool2d(x, 3, 2),
        ]
        return torch.cat(sides, 1)

    def c(self, x, name, n):
        flat, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        double = (1, n), (2, n, *tall), (3, n, *flat), (4, n, *tall), (5, 192, *flat)
        sides = [
            self.conv(x, f"{name}.branch1x1", 192),
            self.row(x, f"{name}.branch7x7_", (1, n), (2, n, *flat), (3, 192, *tall)),
            self.row(x, f"{name}.branch7x7dbl_", *double),
            self.conv(average(x), f"{name}.branch_pool", 192),
        ]
        return torch.cat(sides, 1)

    def d(self, x, name):
        seven = (1, 192), (2, 192, (1, 7), 1, (0, 3)), (3, 192, (7, 1), 1, (3, 0)), (4, 192, (3, 3), 2)
        sides = [
            self.row(x, f"{name}.branch3x3_", (1, 192), (2, 320, (3, 3), 2)),
            self.row(x, f"{name}.branch7x7x3_", *seven),
            functional.max_pool2d(x, 3, 2),
        ]
        return torch.cat(sides, 1)

    def e(self, x, name, pool):
        three = self.conv(x, f"{name}.branch3x3_1", 384)
        double = self.row(x, f"{name}.branch3x3dbl_", (1, 448), (2, 384, (3, 3), 1, 1))
        sides = [
            self.conv(x, f"{name}.branch1x1", 320),
            self.conv(three, f"{name}.branch3x3_2a", 384, (1, 3), 1, (0, 1)),
            self.conv(three, f"{name}.branch3x3_2b", 384, (3, 1), 1, (1, 0)),
            self.conv(double, f"{name}.branch3x3dbl_3a", 384, (1, 3), 1, (0, 1)),
            self.conv(double, f"{name}.branch3x3dbl_3b", 384, (3, 1), 1, (1, 0)),
            self.conv(pool(x), f"{name}.branch_pool", 192),
        ]
        return torch.cat(sides, 1)

    def features(self, x):
        """Take [B 3 H W] in [-1, 1]."""
        with torch.no_grad():
            x = self.conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
            x = self.conv(self.conv(x, "Conv2d_2a_3x3", 32, (3, 3)), "Conv2d_2b_3x3", 64, (3, 3), 1, 1)
            x = self.conv(functional.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", 80)
            x = functional.max_pool2d(self.conv(x, "Conv2d_4a_3x3", 192, (3, 3)), 3, 2)
            x = self.a(self.a(self.a(x, "Mixed_5b", 32), "Mixed_5c", 64), "Mixed_5d", 64)
            x = self.b(x, "Mixed_6a")
            for block, width in zip("bcde", (128, 160, 160, 192), strict=True):
                x = self.c(x, f"Mixed_6{block}", width)
            x = self.e(self.d(x, "Mixed_7a"), "Mixed_7b", average)
            x = self.e(x, "Mixed_7c", lambda x: functional.max_pool2d(x, 3, 1, 1))
            return x.mean((2, 3)).numpy()


def average(x):
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def drawn():
    leaves = inception_leaves()
    return Oracle(inception_state(leaves)), parameters.unflatten(leaves)


def test_features_are_torchs(drawn):
    """Of so many pixels 2x3 places are left at the end, so that its pools tell."""
    oracle, params = drawn
    x = np.random.default_rng(0).uniform(-1, 1, (1, 107, 139, 3)).astype(np.float32)
    found = np.asarray(inception.inception.Inception().apply({"params": params}, x))
    expected = oracle.features(torch.tensor(x).permute(0, 3, 1, 2))
    assert found.shape == (1, 2048) and relative_error(found, expected) < 1e-4
    assert len(oracle.used) == 94


def test_features_of_bytes_are_torchs(tmp_path, drawn):
    """From torch's own file; resized and scaled as pytorch-fid does it."""
    oracle, _ = drawn
    torch.save(oracle.state, tmp_path / "inception.pth")
    network = inception.load(tmp_path)
    frames = np.random.default_rng(1).integers(0, 256, (3, 50, 37, 3), np.uint8)
    x = torch.tensor(frames).permute(0, 3, 1, 2).float() / 255
    x = 2 * functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
    found = inception.inception.frame_features(network.module, network.params, frames, "torch", chunk=2)
    assert relative_error(found, oracle.features(x)) < 1e-4


@pytest.mark.parametrize("size", [(50, 37), (31, 480), (224, 224)])
def test_bilinear_resizing_is_torchs(size):
    frames = np.random.default_rng(2).integers(0, 256, (2, *size, 3), np.uint8)
    expected = torch.tensor(frames).permute(0, 3, 1, 2).float()
    expected = functional.interpolate(expected, (224, 224), mode="bilinear", align_corners=False)
    found = np.asarray(resizing.bilinear(frames, 224, "torch"))
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), atol=1e-3)
