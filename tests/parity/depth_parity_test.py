"""Depth models of a folder against transformers: the network's own numbers, inverted where it says inverse depths."""

import socket

import numpy as np
import pytest

from motionv2v import video
from motionv2v.editing import depths

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

SIZE = (48, 64)
BACKBONE = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Let whoever asks the network fail."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def save(folder, kind):
    """Save a small random network of a kind and its image processor, of squares for DPT, which takes no others."""
    torch.manual_seed(0)
    neck = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    if kind == "dpt":
        config = transformers.DPTConfig(
            **BACKBONE, **neck, intermediate_size=32, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False
        )
        network = transformers.DPTForDepthEstimation(config)
    else:
        backbone = transformers.Dinov2Config(
            **BACKBONE, mlp_ratio=2, out_features=[f"stage{n}" for n in range(1, 5)], reshape_hidden_states=False
        )
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            patch_size=8,
            head_hidden_size=8,
            depth_estimation_type=kind,
            max_depth=20,
            **neck,
        )
        network = transformers.DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        # Weights as they are drawn would say the same of every pixel.
        for name, weight in network.named_parameters():
            if "neck" in name or "head" in name:
                weight.mul_(8)
    processor = transformers.DPTImageProcessor(size={"height": 48, "width": 48 if kind == "dpt" else 64})
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


@pytest.mark.parametrize("kind", ["dpt", "relative", "metric"])
def test_a_network_of_a_folder_says_how_deep_a_picture_is(tmp_path, image, kind):
    network, processor = save(tmp_path, kind)
    with torch.no_grad():
        said = network(**processor(images=image, return_tensors="pt")).predicted_depth[0].numpy()
    found = depths.load(tmp_path, image)
    assert found.shape == SIZE and found.dtype == np.float32
    assert said.std() > 0.01 * said.mean() > 0
    # Inverse depths are known up to a factor: the nearest thing has the depth 1.
    expected = said if kind == "metric" else 1 / np.maximum(said / said.max(), 1 / depths.FARTHEST)
    resized = np.clip(video.resize(expected[..., None], SIZE)[..., 0], expected.min(), expected.max())
    np.testing.assert_allclose(found, resized, rtol=1e-5)
    # What a person says of an array does not count: a model knows better.
    np.testing.assert_array_equal(depths.load(tmp_path, image, is_inverse=True), found)


def test_nothing_is_fetched(tmp_path, image):
    with pytest.raises(ValueError, match=r"is no array that numpy\.load reads, nor the folder of a depth model"):
        depths.load("Intel/dpt-large", image)
    save(tmp_path, "dpt")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="holds no depth model of transformers"):
        depths.load(tmp_path, image)
