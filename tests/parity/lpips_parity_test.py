"""LPIPS against torch: the trunks written as torchvision's nn.Sequential with random weights, and the real heads.

Whatever torch.save writes, of today's and the older format, is read as torch reads it.
"""

import numpy as np
import pytest
import torch_files
from lpips_files import onnx_arrays, random_part, random_trunk, saved_module

from motionv2v.convert import perceptual, pickled
from motionv2v.models.features import lpips

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")

from torch import nn  # noqa: E402

TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
"""The modules of torchvision's `features` after which features are compared."""


class Fire(nn.Module):
    def __init__(self, channels, squeeze, expand):
        super().__init__()
        self.squeeze, self.expand1x1 = nn.Conv2d(channels, squeeze, 1), nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


def trunk(net):
    if net == "alex":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
    if net == "vgg":
        layers, channels = [], 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
            channels = width or channels
        return nn.Sequential(*layers)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


def torch_distances(net, features, heads, a, b):
    """Compare uint8 frames [T H W 3] as the paper says, in torch."""
    model = trunk(net)
    state = {name.removeprefix("features."): torch.tensor(x) for name, x in features.items()}
    model.load_state_dict({name: x for name, x in state.items() if "classifier" not in name})
    shift, scale = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (lpips.SHIFT, lpips.SCALE))
    sides = [(torch.tensor(x).permute(0, 3, 1, 2).float() / 127.5 - 1 - shift) / scale for x in (a, b)]
    total, number = 0, 0
    with torch.no_grad():
        for index, layer in enumerate(model):
            sides = [layer(x) for x in sides]
            if index in TAPS[net]:
                first, second = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in sides)
                head = torch.tensor(heads[f"lin{number}.model.1.weight"])
                total = total + nn.functional.conv2d((first - second).square(), head).mean((1, 2, 3))
                number += 1
    assert number == len(heads)
    return total.numpy()


def frames(size, seed=0):
    """Pairs of all kinds: independent, a little noise, and the same."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 3, *size, 3), np.uint8)
    b[1] = np.clip(a[1] + rng.normal(0, 8, a[1].shape), 0, 255)
    b[2] = a[2]
    return a, b


def relative_error(found, expected):
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-6)))


def read_heads(weights, net):
    tensors = pickled.open_state_dict(weights / f"lpips_v0.1_{net}.pth")
    return {name: tensors.read(name) for name in tensors}


@pytest.mark.parametrize(
    "net, size",
    [
        ("alex", (64, 96)),
        ("alex", (47, 66)),
        ("vgg", (35, 52)),
        ("squeeze", (64, 96)),
        ("squeeze", (47, 66)),
        ("squeeze", (49, 35)),
    ],
)
def test_distances_with_real_heads_are_torchs(tmp_path, weights, net, size):
    """Sides that are odd and even at the pools; the file of the trunk is torch's own."""
    features, heads = random_trunk(net), read_heads(weights, net)
    torch.save({name: torch.tensor(x) for name, x in features.items()}, tmp_path / "trunk.pth")
    (tmp_path / "heads.pth").write_bytes((weights / f"lpips_v0.1_{net}.pth").read_bytes())
    network, (a, b) = perceptual.load(tmp_path, net), frames(size)
    assert [network.sources[part].verified for part in perceptual.PARTS] == [False, True]
    found = lpips.frame_distances(network.module, network.params, a, b)
    expected = torch_distances(net, features, heads, a, b)
    assert relative_error(found[:2], expected[:2]) < 1e-4
    assert found[2] == expected[2] == 0
    back = lpips.frame_distances(network.module, network.params, b, a)
    assert relative_error(back[:2], found[:2]) < 1e-5


def test_distances_without_any_real_weights_are_torchs(tmp_path):
    features, heads = random_trunk("squeeze"), random_part("squeeze", "heads")
    torch_files.legacy(tmp_path / "trunk.pth", features)
    torch_files.legacy(tmp_path / "heads.pth", heads)
    network, (a, b) = perceptual.load(tmp_path, "squeeze"), frames((40, 41))
    found = lpips.frame_distances(network.module, network.params, a, b)
    assert relative_error(found[:2], torch_distances("squeeze", features, heads, a, b)[:2]) < 1e-4


def test_the_real_network_is_torchs(tmp_path, weights):
    saved = saved_module(onnx_arrays(weights / "lpips_sq.onnx"))
    torch_files.legacy(tmp_path / "lpips.pth", saved)
    tensors = perceptual.recognise(tmp_path / "lpips.pth").tensors
    arrays = {name: tensors.read(name) for name in tensors}
    features = {name: x for name, x in arrays.items() if name.startswith("features.")}
    heads = {name: x for name, x in arrays.items() if name.startswith("lin")}
    network, (a, b) = perceptual.load(tmp_path, "squeeze"), frames((64, 80))
    found = lpips.frame_distances(network.module, network.params, a, b)
    assert relative_error(found[:2], torch_distances("squeeze", features, heads, a, b)[:2]) < 1e-4


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, is_zip):
    """Parameters, parts of one storage, turned tensors, channels last, all number types, scalars, empty ones."""
    x = torch.randn(4, 6, 5, 3)
    state = nn.BatchNorm2d(3).state_dict() | {
        "parameter": nn.Parameter(torch.randn(3, 2)),
        "whole": x,
        "part": x[1:3, :, 2],
        "turned": x[0, 0].T,
        "channels_last": x.to(memory_format=torch.channels_last),
        "empty": torch.zeros(0, 4),
        "ä": torch.tensor(2.5),
    }
    kinds = ("float16", "float64", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    state |= {kind: (3 * x[0]).to(getattr(torch, kind)) for kind in kinds}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    found = pickled.open_state_dict(tmp_path / "x.pt")
    assert list(found) == list(state)
    for name, tensor in state.items():
        value = found.read(name)
        assert str(value.dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(value.astype(np.float64), tensor.detach().double().numpy())


@pytest.mark.parametrize("is_zip", [True, False])
def test_whole_modules_are_refused(tmp_path, is_zip):
    torch.save(nn.Linear(2, 3), tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(perceptual.ConvertError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        pickled.open_state_dict(tmp_path / "x.pt")


def test_torchscript_is_refused(tmp_path):
    torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(perceptual.ConvertError, match="TorchScript archive"):
        pickled.open_state_dict(tmp_path / "x.pt")
