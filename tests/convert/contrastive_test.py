"""CLIP's files: all layouts, found whatever their names, known, refused by name; the vocabulary."""

import json

import numpy as np
import pytest
import torch_files
from clip_files import TINY, as_openai, random_arrays
from safetensors.numpy import save_file

from motionv2v import parameters
from motionv2v.convert import ConvertError, contrastive
from motionv2v.models.features import clip

OTHER = TINY._replace(patch=8)


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    monkeypatch.setitem(clip.NETS, "tiny", TINY)
    monkeypatch.setitem(clip.NETS, "other", OTHER)


def refusal(folder, *options, net="tiny"):
    with pytest.raises(ConvertError) as error:
        contrastive.find(folder, net, *options)
    assert "\n" not in str(error.value)
    return str(error.value)


def config(folder, **parts):
    content = {"model_type": "clip", "vision_config": {}, "text_config": {}} | parts
    (folder / "config.json").write_text(json.dumps(content))


def test_all_layouts_make_the_same_network(tmp_path):
    """In a folder or in one within it; other files do not disturb."""
    arrays, found = random_arrays(), []
    for kind in ("archive", "state dict", "safetensors", "transformers"):
        folder = tmp_path / kind
        inner = folder / "clip" if kind == "transformers" else folder
        inner.mkdir(parents=True)
        torch_files.zipped(folder / "other.pth", {"features.0.weight": np.ones(3, np.float32)})
        (folder / "broken.pt").write_bytes(b"no weights")
        (folder / "README.md").write_text("weights")
        if kind == "archive":
            torch_files.scripted(folder / "x.pt", as_openai(arrays))
        elif kind == "state dict":
            torch_files.legacy(folder / "x.pt", as_openai(arrays))
        elif kind == "safetensors":
            save_file(as_openai(arrays), folder / "x.safetensors")
        else:
            save_file(arrays, inner / "model.safetensors")
        found.append(contrastive.load(contrastive.find(folder, "tiny", "gelu")))
    flat = [parameters.flatten(network.params) for network in found]
    assert {path: leaf.shape for path, leaf in flat[0].items()} == clip.parameter_shapes(TINY)
    for other in flat[1:]:
        assert all(np.array_equal(leaf, other[path]) for path, leaf in flat[0].items())
    np.testing.assert_array_equal(flat[0]["text/projection/kernel"].T, arrays["text_projection.weight"])
    assert found[0].module == clip.Clip(TINY, "gelu")
    assert str(found[0].source).startswith("x.pt (sha256 ") and "unverified" in str(found[0].source)


def test_what_is_missing_is_named_with_its_place_and_licence(tmp_path):
    missing = refusal(tmp_path / "nowhere", net="ViT-B/32")
    assert missing.startswith("CLIP ViT-B/32 is not there: put ViT-B-32.pt (from openaipublic.azureedge.net/clip/")
    assert f"licence: MIT) into {tmp_path / 'nowhere'}, which holds no such folder" in missing
    save_file(random_arrays(OTHER), tmp_path / "a.safetensors")
    assert refusal(tmp_path, "gelu").endswith("which holds a.safetensors")
    assert contrastive.find(tmp_path, "other", "gelu").net == "other"
    with pytest.raises(ValueError, match=r"unknown CLIP network 'RN50'; available: ViT-B/32, ViT-B/16, ViT-L/14"):
        contrastive.find(tmp_path, "RN50")
    with pytest.raises(ValueError, match="unknown activation 'relu'; available: quick_gelu, gelu"):
        contrastive.find(tmp_path, "tiny", "relu")


def test_the_activation_is_told_or_must_be_said(tmp_path):
    """Nothing in a file tells OpenAI's training from LAION's."""
    save_file(random_arrays(), tmp_path / "model.safetensors")
    assert "differ in their activation: say which, as its config has it: quick_gelu (OpenAI's" in refusal(tmp_path)
    assert contrastive.find(tmp_path, "tiny", "quick_gelu").activation == "quick_gelu"
    config(tmp_path)
    assert contrastive.find(tmp_path, "tiny").activation == "quick_gelu", "transformers' default"
    config(tmp_path, vision_config={"hidden_act": "gelu"}, text_config={"hidden_act": "gelu"})
    assert contrastive.find(tmp_path, "tiny").activation == "gelu"
    assert refusal(tmp_path, "quick_gelu").endswith("takes the activation gelu, not quick_gelu")
    config(tmp_path, vision_config={"hidden_act": "gelu"})
    assert "config.json names the activations gelu, quick_gelu; expected one of" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert "say which" in refusal(tmp_path)


def test_look_alikes_are_refused_by_name(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(random_arrays(TINY._replace(side=48)), path)
    assert f"{path} holds a CLIP of width 64 that sees 48 pixels in patches of 16" in refusal(tmp_path, "gelu")
    save_file(random_arrays(TINY._replace(depth=3)), path)
    assert f"{path} holds a CLIP of width 64" in refusal(tmp_path, "gelu")
    save_file({"visual.attnpool.positional_embedding": np.ones((2, 2), np.float32)}, path)
    assert f"{path} holds one of CLIP's ResNets; available: ViT-B/32" in refusal(tmp_path, "gelu")
    assert all(len(known.sha256) == 64 for each in contrastive.PUBLISHED.values() for known in each)


def test_of_several_files_the_published_one_is_used(tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    for name in ("a.safetensors", "copy/b.safetensors"):
        save_file(random_arrays(), tmp_path / name)
    found = contrastive.find(tmp_path, "tiny", "gelu")
    assert not found.source.verified
    save_file(random_arrays(seed=1), tmp_path / "z.safetensors")
    assert "several files with CLIP tiny" in refusal(tmp_path, "gelu")
    digest = contrastive.recognise(tmp_path / "z.safetensors").source.sha256
    known = (contrastive.PUBLISHED["ViT-B/16"][0]._replace(sha256=digest),)
    monkeypatch.setitem(contrastive.PUBLISHED, "tiny", known)
    found = contrastive.find(tmp_path, "tiny")
    assert found.source.verified and found.activation == "quick_gelu" and found.source.file == "z.safetensors"
    assert str(found) == f"tiny, quick_gelu, z.safetensors (sha256 {digest[:8]})"
    assert "takes the activation quick_gelu, not gelu" in refusal(tmp_path, "gelu")


def test_of_two_formats_in_one_folder_the_safer_is_read(tmp_path):
    save_file(random_arrays(), tmp_path / "model.safetensors")
    torch_files.zipped(tmp_path / "pytorch_model.bin", random_arrays(seed=1))
    assert contrastive.find(tmp_path, "tiny", "gelu").source.file == "model.safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert contrastive.find(tmp_path, "tiny", "gelu").source.file == "pytorch_model.bin"


def test_the_vocabulary_is_found_or_named(tmp_path, weights):
    with pytest.raises(ConvertError, match=r"put bpe_simple_vocab_16e6.txt.gz or transformers' merges.txt into .*MIT"):
        contrastive.find_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\ni n\nt h\n")
    with pytest.raises(ConvertError, match="2 lines that are not CLIP's 48,894 pairs in their order"):
        contrastive.find_vocabulary(tmp_path)
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "a").mkdir()
    name = contrastive.VOCABULARIES[0]
    (tmp_path / "a" / name).write_bytes((weights / name).read_bytes()[:-1000])
    with pytest.raises(ConvertError, match="cannot be read as CLIP's vocabulary"):
        contrastive.find_vocabulary(tmp_path)
    (tmp_path / "a" / name).write_bytes((weights / name).read_bytes())
    assert contrastive.find_vocabulary(tmp_path).encode("a dog running") == [320, 1929, 2761]
