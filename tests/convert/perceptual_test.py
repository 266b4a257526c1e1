"""LPIPS' files: found whatever their names, known, refused by name; and what the real network says of pictures."""

import cv2
import numpy as np
import pytest
import torch_files
from lpips_files import onnx_arrays, random_part, random_trunk, saved_module
from safetensors.numpy import save_file

from motionv2v import ROOT, parameters, video
from motionv2v.convert import ConvertError, perceptual
from motionv2v.models.features import lpips


def save_module(path, net="squeeze", seed=0, **changes):
    """Write a saved lpips.LPIPS of random weights."""
    parts = random_part(net, "trunk", seed) | random_part(net, "heads", seed)
    renamed = {name.replace("features.", "net.slice1."): array for name, array in parts.items()}
    renamed |= {name.replace("lin", "lins."): array for name, array in renamed.items() if name.startswith("lin")}
    renamed["scaling_layer.shift"] = np.float32(lpips.SHIFT).reshape(1, 3, 1, 1)
    renamed["scaling_layer.scale"] = np.float32(lpips.SCALE).reshape(1, 3, 1, 1)
    return torch_files.legacy(path, renamed | changes)


def refusal(folder, net="squeeze"):
    with pytest.raises(ConvertError) as error:
        perceptual.load(folder, net)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_two_files_or_one_make_the_same_network(tmp_path):
    """In any of the formats and under any name; other files in the folder do not disturb."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        folder.mkdir()
        (folder / "README.md").write_text("weights")
        torch_files.zipped(folder / "other.pth", {"visual.proj": np.ones(3, np.float32)})
        torch_files.zipped(folder / "script.pt", {"a": np.ones(3, np.float32)}, extra=[("constants.pkl", b"")])
    save_module(one / "a.pth")
    torch_files.zipped(two / "a.pt", random_trunk("squeeze"))
    torch_files.legacy(two / "b.pth", random_part("squeeze", "heads"))
    save_file(random_trunk("squeeze"), three / "b.safetensors")
    save_file(random_part("squeeze", "heads"), three / "a.safetensors")
    flat = [parameters.flatten(perceptual.load(folder, "squeeze").params) for folder in (one, two, three)]
    assert {path: leaf.shape for path, leaf in flat[0].items()} == lpips.parameter_shapes("squeeze")
    for other in flat[1:]:
        assert all(np.array_equal(leaf, other[path]) for path, leaf in flat[0].items())
    sources = perceptual.load(two, "squeeze").sources
    assert {part: source.file for part, source in sources.items()} == {"trunk": "a.pt", "heads": "b.pth"}
    assert str(sources["trunk"]) == f"a.pt (sha256 {sources['trunk'].sha256[:8]}, unverified)"


@pytest.mark.parametrize("net", lpips.TRUNKS)
def test_parts_of_all_networks_are_told_apart(tmp_path, net):
    """AlexNet and VGG16 have as many heads."""
    for part in perceptual.PARTS:
        found = perceptual.recognise(torch_files.legacy(tmp_path / "x.pth", random_part(net, part)))
        assert (found.net, found.parts, found.source.verified) == (net, (part,), False)
        assert found.tensors.shapes() == {name: array.shape for name, array in random_part(net, part).items()}


def test_what_is_missing_is_named_with_its_place_and_licence(tmp_path):
    missing = refusal(tmp_path / "nowhere", "alex")
    assert missing.startswith("LPIPS alex needs its trunk: put alexnet-owt-7be5be79.pth (from download.pytorch.org")
    assert "BSD-3-Clause" in missing and f"into {tmp_path / 'nowhere'}, which holds no such folder" in missing
    torch_files.zipped(tmp_path / "trunk.pth", random_trunk("squeeze"))
    missing = refusal(tmp_path)
    assert missing.startswith("LPIPS squeeze needs its heads: put lpips_v0.1_squeeze.pth (from github.com/richzhang")
    assert "licence: BSD-2-Clause" in missing and missing.endswith("which holds trunk.pth")
    with pytest.raises(ValueError, match="available: alex, vgg, squeeze"):
        perceptual.load(tmp_path, "vgg19")


def test_look_alikes_are_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "trunk.pth"
    with_norm = random_part("vgg", "trunk")
    with_norm["features.1.running_mean"] = np.zeros(64, np.float32)
    torch_files.zipped(path, with_norm)
    assert "not used: " in (message := refusal(tmp_path, "vgg"))
    assert f"{path} holds a VGG with batch norm; VGG16 without it is needed" in message
    older = random_part("squeeze", "trunk") | {"features.0.weight": np.zeros((96, 3, 7, 7), np.float32)}
    torch_files.zipped(path, older)
    assert f"{path} holds SqueezeNet 1.0; 1.1 is needed" in refusal(tmp_path)
    torch_files.zipped(path, random_part("squeeze", "trunk") | {"features.13.weight": np.ones(1, np.float32)})
    assert "of no LPIPS network" in refusal(tmp_path)
    # Nobody can make a file of a given sha256: these heads stand for those of v0.0.
    heads = torch_files.legacy(tmp_path / "heads.pth", random_part("squeeze", "heads"))
    torch_files.zipped(path, random_trunk("squeeze"))
    start = perceptual.load(tmp_path, "squeeze").sources["heads"].sha256[:8]
    assert all(len(start) == 8 for start in perceptual.LOOK_ALIKES)
    monkeypatch.setitem(perceptual.LOOK_ALIKES, start, perceptual.LOOK_ALIKES["18720f55"])
    assert f"{heads} holds heads of LPIPS v0.0" in refusal(tmp_path)


def test_a_saved_network_that_scales_otherwise_is_refused(tmp_path):
    save_module(tmp_path / "x.pth", **{"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)})
    assert "another scaling_layer.shift than LPIPS v0.1" in refusal(tmp_path)


def test_of_several_files_the_published_one_is_used(tmp_path, monkeypatch):
    torch_files.zipped(tmp_path / "trunk.pth", random_trunk("squeeze"))
    first = torch_files.legacy(tmp_path / "a.pth", random_part("squeeze", "heads", 1))
    torch_files.legacy(tmp_path / "copy.pth", random_part("squeeze", "heads", 1))
    assert perceptual.load(tmp_path, "squeeze").sources["heads"].verified is False
    torch_files.legacy(tmp_path / "z.pth", random_part("squeeze", "heads", 2))
    assert "several files with the heads of LPIPS squeeze" in refusal(tmp_path)
    digest = perceptual.recognise(first).source.sha256
    published = perceptual.PUBLISHED["squeeze", "heads"]._replace(sha256=digest)
    monkeypatch.setitem(perceptual.PUBLISHED, ("squeeze", "heads"), published)
    network = perceptual.load(tmp_path, "squeeze")
    assert network.sources["heads"].verified and "unverified" not in str(network.sources["heads"])
    expected = random_part("squeeze", "heads", 1)["lin3.model.1.weight"]
    np.testing.assert_array_equal(network.params["lin3"], expected.reshape(-1))


@pytest.mark.parametrize("net", lpips.TRUNKS)
def test_published_heads_are_verified(weights, net):
    found = perceptual.recognise(weights / f"lpips_v0.1_{net}.pth")
    assert (found.net, found.parts, found.source.verified) == (net, ("heads",), True)
    values = [found.tensors.read(name) for name in found.tensors]
    assert all(value.min() >= 0 for value in values)
    if net == "alex":
        assert [np.count_nonzero(value) for value in values] == [29, 137, 347, 238, 251]


@pytest.fixture(scope="module")
def real(weights, tmp_path_factory):
    """The real squeeze network, from a file as torch.save would have written it."""
    folder = tmp_path_factory.mktemp("real")
    torch_files.legacy(folder / "lpips.pth", saved_module(onnx_arrays(weights / "lpips_sq.onnx")))
    return perceptual.load(folder, "squeeze")


def test_the_real_networks_heads_are_the_published_ones(weights, real):
    heads = perceptual.recognise(weights / "lpips_v0.1_squeeze.pth").tensors
    for i in range(7):
        np.testing.assert_array_equal(real.params[f"lin{i}"], heads.read(f"lin{i}.model.1.weight").reshape(-1))


def test_the_real_network_orders_what_is_done_to_a_picture(real):
    """More of one thing is farther; a shift, which the eye hardly sees, is nearer than its squared error says."""
    whole = video.read(ROOT / "examples" / "courtyard" / "source.mp4").frames[0]
    picture, rng = whole[40:240, 40:360], np.random.default_rng(0)
    noise = rng.normal(size=picture.shape)
    changed = {f"shift {n}": whole[40:240, 40 + n : 360 + n] for n in (1, 4, 16)}
    changed |= {f"blur {n}": cv2.GaussianBlur(picture, (0, 0), n) for n in (1, 2, 4)}
    changed |= {f"noise {n}": np.clip(picture + n * noise, 0, 255).astype(np.uint8) for n in (8, 24, 72)}
    changed["other"] = np.ascontiguousarray(picture[::-1, ::-1])
    shape = (len(changed), *picture.shape)
    values = lpips.frame_distances(*real[:2], np.broadcast_to(picture, shape), np.stack(list(changed.values())))
    found = dict(zip(changed, values.tolist(), strict=True))
    for kind in ("shift", "blur", "noise"):
        three = [value for name, value in found.items() if name.startswith(kind)]
        assert 0 < three[0] < three[1] < three[2] < 1, found
    squared = {name: np.square(other.astype(float) - picture).mean() for name, other in changed.items()}
    assert squared["blur 1"] < squared["shift 1"] and found["shift 1"] < found["blur 1"] / 2, (found, squared)
    assert found["other"] > found["shift 16"]


def test_the_real_network_says_what_the_reference_arithmetic_says(real):
    """Of noise, noise with a little more, and a picture with itself; the numbers are torch's in float64."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 3, 64, 80, 3), np.uint8)
    b[1] = np.clip(a[1] + rng.normal(0, 8, a[1].shape), 0, 255)
    b[2] = a[2]
    found = lpips.frame_distances(real.module, real.params, a, b)
    np.testing.assert_allclose(found, [0.09204666833372717, 0.0022736321769584802, 0.0], atol=1e-6)
