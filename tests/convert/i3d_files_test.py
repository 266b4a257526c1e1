"""Files of I3D: three layouts make one network; what may hold other weights needs a word, what is wrong is refused."""

import numpy as np
import pytest
import torch_files
from flax import serialization
from frechet_files import i3d_leaves, i3d_state, inception_leaves, inception_state, magvit_tree
from safetensors.numpy import save_file

from motionv2v import files, parameters
from motionv2v.convert import ConvertError, i3d


@pytest.fixture(scope="module")
def leaves():
    return i3d_leaves()


def save_magvit(path, leaves):
    path.write_bytes(serialization.msgpack_serialize(magvit_tree(leaves)))
    return path


def refusal(folder, origin=None):
    with pytest.raises(ConvertError) as error:
        i3d.load(folder, origin)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_layouts_make_the_same_network(tmp_path, leaves):
    """Under any name, beside files of others."""
    writers = {
        "magvit": lambda folder: save_magvit(folder / "a.flax", leaves),
        "script": lambda folder: torch_files.scripted(folder / "a.pt", i3d_state("StyleGAN-V", leaves)),
        "legacy": lambda folder: torch_files.legacy(folder / "a.pth", i3d_state("VideoGPT", leaves)),
        "zipped": lambda folder: torch_files.zipped(folder / "a.pt", i3d_state("VideoGPT", leaves)),
        "safetensors": lambda folder: save_file(i3d_state("StyleGAN-V", leaves), folder / "a.safetensors"),
    }
    for kind, write in writers.items():
        folder = tmp_path / kind
        folder.mkdir()
        write(folder)
        torch_files.zipped(folder / "other.pth", {"visual.proj": np.ones(3, np.float32)})
        (folder / "other.flax").write_bytes(serialization.msgpack_serialize({"a": np.ones(3)}))
        network = i3d.load(folder, None if kind in ("magvit", "script") else "tfhub")
        found = parameters.flatten(network.params)
        assert set(found) == set(leaves), kind
        assert all(np.array_equal(leaf, leaves[path]) for path, leaf in found.items()), kind
        path = next(folder.glob("a.*"))
        assert str(network.source) == f"{path.name} (sha256 {files.sha256(path)[:8]}, unverified)"


@pytest.mark.parametrize("layout", i3d.LAYOUTS)
def test_state_dicts_that_may_hold_other_weights_need_a_word(tmp_path, leaves, layout):
    torch_files.zipped(tmp_path / "x.pt", i3d_state(layout, leaves))
    message = refusal(tmp_path)
    assert message.startswith("I3D needs its file: put i3d_torchscript.pt (from ")
    assert "others of the same names and shapes" in message and message.endswith("say --i3d_source=tfhub")
    assert i3d.load(tmp_path, "tfhub").source.verified is False
    with pytest.raises(ValueError, match="unknown origin of I3D 'deepmind'; available: tfhub"):
        i3d.load(tmp_path, "deepmind")


def test_what_is_missing_is_named_with_its_place_and_licence(tmp_path, leaves):
    message = refusal(tmp_path / "nowhere")
    assert "licence: TF-Hub's deepmind/i3d-kinetics-400, Apache-2.0" in message
    assert f"into {tmp_path / 'nowhere'}, which holds no such folder" in message
    # FID's network is no I3D, and not worth a word.
    torch_files.zipped(tmp_path / "fid.pth", inception_state(inception_leaves()))
    assert refusal(tmp_path).endswith("which holds fid.pth")
    save_magvit(tmp_path / "a.flax", leaves)
    save_magvit(tmp_path / "copy.flax", leaves)
    assert i3d.load(tmp_path).source.file == "copy.flax"
    save_magvit(tmp_path / "b.flax", {path: 2 * leaf for path, leaf in leaves.items()})
    assert "several files with the file of I3D" not in (message := refusal(tmp_path))
    assert message.startswith(f"{tmp_path} holds several files of I3D: ") and message.endswith("leave one there")


def test_files_with_the_names_and_something_else_are_refused(tmp_path, leaves):
    state = i3d_state("StyleGAN-V", leaves)
    path = tmp_path / "x.pt"
    gains = "mixed_3b.branch_0.batch3d.weight"
    torch_files.scripted(path, state | {gains: 2 * state[gains]})
    assert f"{path} has gains in its norms ({gains}), which TF-Hub's I3D has not" in refusal(tmp_path)
    torch_files.scripted(path, {name: x for name, x in state.items() if name != "mixed_5c.branch_0.conv3d.weight"})
    assert "mixed_5c.branch_0.conv3d.weight" in refusal(tmp_path)
    flow = np.zeros((64, 2, 7, 7, 7), np.float32)
    torch_files.scripted(path, state | {"conv3d_1a_7x7.conv3d.weight": flow})
    assert "conv3d_1a_7x7.conv3d.weight is [64, 2, 7, 7, 7], expected [64, 3, 7, 7, 7]" in refusal(tmp_path)
    path.unlink()
    for content, words in (
        (b"no msgpack", "is damaged, or no msgpack of flax"),
        (serialization.msgpack_serialize({"params": {"Conv3d_1a_7x7": {"conv_3d": {"kernel": 3}}}}), "no array at"),
    ):
        (tmp_path / "x.flax").write_bytes(content)
        assert words in refusal(tmp_path)
    save_magvit(tmp_path / "x.flax", leaves | {"Conv3d_2b_1x1/batch_norm/beta": np.full(64, np.nan, np.float32)})
    assert "is not finite in 64 places" in refusal(tmp_path)
