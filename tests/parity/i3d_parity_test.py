"""I3D against torch: the network of the published layer table written with torch's operations, on random weights."""

import math

import numpy as np
import pytest
import torch_files
from frechet_files import i3d_leaves, i3d_state

from motionv2v import parameters
from motionv2v.convert import i3d, pickled

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")

from torch.nn import functional  # noqa: E402

TABLE = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class Oracle:
    """The network on a state dict in VideoGPT's names."""

    def __init__(self, state, epsilon):
        self.state = {name: torch.tensor(x) for name, x in state.items()}
        self.epsilon = epsilon

    def unit(self, x, name, channels, kernel, stride=1):
        weight = self.state[f"{name}.conv3d.weight"]
        assert weight.shape == (channels, x.shape[1], kernel, kernel, kernel)
        x = functional.conv3d(padded(x, (kernel,) * 3, (stride,) * 3), weight, stride=stride)
        norm = [self.state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *norm, training=False, eps=self.epsilon).relu()

    def mixed(self, x, block):
        name, (a, b, c, d, e, f) = f"Mixed_{block}", TABLE[block]
        return torch.cat(
            [
                self.unit(x, f"{name}.b0", a, 1),
                self.unit(self.unit(x, f"{name}.b1a", b, 1), f"{name}.b1b", c, 3),
                self.unit(self.unit(x, f"{name}.b2a", d, 1), f"{name}.b2b", e, 3),
                self.unit(pooled(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b", f, 1),
            ],
            1,
        )

    def logits(self, x):
        """Take [B 3 T H W] in [-1, 1]."""
        with torch.no_grad():
            x = pooled(self.unit(x, "Conv3d_1a_7x7", 64, 7, 2), (1, 3, 3), (1, 2, 2))
            x = self.unit(self.unit(x, "Conv3d_2b_1x1", 64, 1), "Conv3d_2c_3x3", 192, 3)
            x = self.mixed(self.mixed(pooled(x, (1, 3, 3), (1, 2, 2)), "3b"), "3c")
            x = pooled(x, (3, 3, 3), (2, 2, 2))
            for block in ("4b", "4c", "4d", "4e", "4f"):
                x = self.mixed(x, block)
            x = self.mixed(self.mixed(pooled(x, (2, 2, 2), (2, 2, 2)), "5b"), "5c")
            x = functional.avg_pool3d(x, (2, 7, 7), 1)
            x = functional.conv3d(x, self.state["logits.conv3d.weight"], self.state["logits.conv3d.bias"])
            return x.squeeze(-1).squeeze(-1).mean(2).numpy()


def padded(x, kernel, stride):
    """Pad as TensorFlow's SAME does: what is odd goes to the end. Zeros are as good as anything below after ReLU."""
    pads = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return functional.pad(x, pads)


def pooled(x, kernel, stride):
    return functional.max_pool3d(padded(x, kernel, stride), kernel, stride)


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_logits_are_torchs():
    """Odd and even lengths and sides, which TensorFlow pads in different ways."""
    leaves = i3d_leaves()
    oracle, params = Oracle(i3d_state("VideoGPT", leaves), 1e-3), parameters.unflatten(leaves)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 11, 193, 224, 3)).astype(np.float32)
    found = np.asarray(i3d.i3d.I3d().apply({"params": params}, x))
    expected = oracle.logits(torch.tensor(x).permute(0, 4, 1, 2, 3))
    assert found.shape == (1, 400) and relative_error(found, expected) < 1e-4


def test_features_of_bytes_are_torchs(tmp_path):
    """Resized as torch does, and with cd-fvd's epsilon, which small variances make felt."""
    leaves = i3d_leaves()
    leaves = {path: x * 0.02 if path.endswith("moving_variance") else x for path, x in leaves.items()}
    leaves = {path: x * 0.1 if path.endswith("kernel") else x for path, x in leaves.items()}
    state = i3d_state("VideoGPT", leaves)
    torch.save({name: torch.tensor(x) for name, x in state.items()}, tmp_path / "i3d.pt")
    network = i3d.load(tmp_path, "tfhub")
    frames = np.random.default_rng(1).integers(0, 256, (9, 40, 61, 3), np.uint8)
    clip = torch.tensor(frames).permute(0, 3, 1, 2).float()
    clip = functional.interpolate(clip, (224, 224), mode="bilinear", align_corners=False) * 2 / 255 - 1
    clip = clip.permute(1, 0, 2, 3)[None]
    found = i3d.i3d.clip_features(i3d.i3d.I3d(1e-5), network.params, frames, "torch")
    assert relative_error(found, Oracle(state, 1e-5).logits(clip)[0]) < 1e-4
    assert relative_error(found, Oracle(state, 1e-3).logits(clip)[0]) > 0.01


class I3D(torch.nn.Module):
    """Stands for StyleGAN-V's network: the tensors at their names, and an attribute that is none."""

    def __init__(self, state):
        super().__init__()
        self.name = "inception"
        for name, x in state.items():
            *parents, last = name.split(".")
            node = self
            for parent in parents:
                if not hasattr(node, parent):
                    node.add_module(parent, torch.nn.Module())
                node = getattr(node, parent)
            node.register_buffer(last, torch.tensor(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_torchscript_archive_is_read_as_torch_reads_it(tmp_path):
    leaves = i3d_leaves()
    state = i3d_state("StyleGAN-V", leaves)
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(I3D(state)).save(str(path))
    found, expected = pickled.open_scripted(path), torch.jit.load(str(path)).state_dict()
    assert set(found) == set(expected) == set(state)
    for name, value in expected.items():
        np.testing.assert_array_equal(found.read(name), value.numpy())
    network = i3d.load(tmp_path)
    for path, leaf in parameters.flatten(network.params).items():
        np.testing.assert_array_equal(leaf, leaves[path])
    # The tests' own writer of such archives is read alike.
    torch_files.scripted(tmp_path / "i3d_torchscript.pt", state)
    again = parameters.flatten(i3d.load(tmp_path).params)
    assert all(np.array_equal(leaf, leaves[path]) for path, leaf in again.items())
