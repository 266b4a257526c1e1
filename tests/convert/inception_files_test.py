"""Files of FID's InceptionV3: known by checksum, else by names and shapes; torchvision's is refused."""

import numpy as np
import pytest
import torch_files
from frechet_files import inception_leaves, inception_state
from safetensors.numpy import save_file

from motionv2v import parameters
from motionv2v.convert import ConvertError, inception


@pytest.fixture(scope="module")
def state():
    return inception_state(inception_leaves())


def refusal(folder):
    with pytest.raises(ConvertError) as error:
        inception.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["legacy", "zipped", "safetensors"])
def test_a_network_is_read_from_all_formats(tmp_path, state, kind):
    if kind == "safetensors":
        save_file(state, tmp_path / "a.safetensors")
    else:
        getattr(torch_files, kind)(tmp_path / "a.pth", state)
    torch_files.scripted(tmp_path / "other.pt", {"a.b": np.ones(3, np.float32)})
    network, leaves = inception.load(tmp_path), inception_leaves()
    found = parameters.flatten(network.params)
    assert set(found) == set(leaves) and all(np.array_equal(leaf, leaves[path]) for path, leaf in found.items())
    assert network.source.verified is False and "unverified" in str(network.source)


def test_the_published_file_is_verified_and_goes_before_others(tmp_path, state, monkeypatch):
    torch_files.zipped(tmp_path / "a.pth", state)
    torch_files.zipped(tmp_path / "b.pth", state | {"fc.bias": np.ones(1008, np.float32)})
    assert "several files of Inception of FID: a.pth (sha256 " in refusal(tmp_path)
    digest = inception.recognise(tmp_path / "b.pth").source.sha256
    monkeypatch.setattr(inception, "PUBLISHED", inception.PUBLISHED._replace(sha256=digest[:8]))
    assert inception.load(tmp_path).source == ("b.pth", digest, True)


def test_look_alikes_are_refused_by_name(tmp_path, state):
    assert inception.PUBLISHED.sha256 in inception.PUBLISHED.name
    path, wanted = tmp_path / "x.pth", "pt_inception-2015-12-05-6726825d.pth"
    torchvisions = "holds torchvision's InceptionV3, another network; pt_inception-2015-12-05-6726825d.pth is needed"
    torch_files.zipped(path, state | {"fc.weight": np.zeros((1000, 2048), np.float32)})
    assert torchvisions in (message := refusal(tmp_path))
    assert message.startswith(f"Inception of FID needs its file: put {wanted} (from github.com/mseitzer/pytorch-fid")
    assert "licence: pytorch-fid's, Apache-2.0" in message
    torch_files.zipped(path, state | {"AuxLogits.conv0.conv.weight": np.zeros(1, np.float32)})
    assert torchvisions in refusal(tmp_path)
    torch_files.zipped(path, {name: x for name, x in state.items() if not name.startswith("fc.")})
    assert "has fc.weight [], expected [1008, 2048]" in refusal(tmp_path)
    torch_files.zipped(path, {name: x for name, x in state.items() if name != "Mixed_6e.branch1x1.bn.running_var"})
    assert "Mixed_6e.branch1x1.bn.running_var" in refusal(tmp_path)
    torch_files.scripted(path, {"layers." + name: x for name, x in state.items()})
    assert f"{path} is a TorchScript archive of an Inception; {wanted} is needed" in refusal(tmp_path)
