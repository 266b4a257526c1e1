"""Models that leave out what they have in common with a released one, and read it from there."""

import json

import numpy as np
import pytest

from motionv2v import checkpoints, parameters
from motionv2v.convert import export, stream


@pytest.fixture(scope="module")
def tuned():
    """`tiny` with another branch: its config and parameters."""
    config, params = checkpoints.load_model("tiny")
    flat = parameters.flatten(params)
    flat |= {path: x + 1 for path, x in flat.items() if path.startswith("dit/control/")}
    return config, parameters.unflatten(flat)


@pytest.fixture
def saved(tuned, tmp_path):
    return checkpoints.save_model(tmp_path / "tuned", *tuned, shares="tiny")


def test_what_is_the_same_is_read_from_the_other(tuned, saved, tmp_path):
    whole = checkpoints.save_model(tmp_path / "whole", *tuned)
    own = (saved / checkpoints.WEIGHTS).stat().st_size
    assert own < 0.4 * (whole / checkpoints.WEIGHTS).stat().st_size
    shares = json.loads((saved / checkpoints.CONFIG).read_text())["weights"]["shares"]
    assert shares["model"] == "tiny" and {"vae", "text", "dit/blocks"} < set(shares["parts"])
    assert not any(part == "dit" or part.startswith("dit/control") for part in shares["parts"])
    expected, found = (parameters.flatten(checkpoints.load_model(folder)[1]) for folder in (whole, saved))
    assert list(found) and set(found) == set(expected) == checkpoints.stored_paths(saved)
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_it_goes_wherever_a_whole_one_goes(saved, tmp_path):
    """Exported again it is whole; as a folder of diffusers it is the same as a whole one's."""
    whole = export.model_folder(saved, tmp_path / "whole", say=lambda line: None)
    assert "shares" not in json.loads((whole / checkpoints.CONFIG).read_text())["weights"]
    options = {"drop_control": True, "say": lambda line: None}
    made = [stream.convert(source, tmp_path / f"{source.name}_out", **options) for source in (saved, whole)]
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*.safetensors")) for folder in made]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()


def test_parts_that_the_other_has_and_the_model_lacks_stay_out(tuned, tmp_path):
    """A base without a branch shares with a model that has one, and gets none."""
    config, params = tuned
    base = {**params, "dit": {name: x for name, x in params["dit"].items() if name != "control"}}
    folder = checkpoints.save_model(tmp_path / "base", config, base, shares="tiny")
    loaded = checkpoints.load_model(folder)[1]
    assert "control" not in loaded["dit"] and set(loaded) == set(params)


@pytest.mark.parametrize(
    ("shares", "dtype", "message"),
    [
        ("tony", "bfloat16", "shares is 'tony', expected a released model: tiny, "),
        ("tiny_repair", "bfloat16", "tiny_repair shares weights itself, with tiny: name that one"),
        ("tiny", "float32", "tiny has no weights in common with this model, in this number type"),
    ],
)
def test_what_cannot_be_shared_is_one_line(tuned, tmp_path, shares, dtype, message):
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.save_model(tmp_path / "model", *tuned, dtype=dtype, shares=shares)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "tiny/model.safetensors is not the file that .*tuned/config.json describes"),
        ({"model": "../tiny"}, "'shares' should name a released model"),
        ({"parts": None}, "'shares' should name a released model"),
        ({"parts": ["vae", 3]}, "'shares' should name a released model"),
        ({"more": 1}, "'shares' should name a released model"),
    ],
)
def test_damaged_sharing_is_one_line(saved, change, message):
    path = saved / checkpoints.CONFIG
    content = json.loads(path.read_text())
    content["weights"]["shares"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.load_model(saved)


def test_the_packages_weights_stay_small():
    """Beside them lies nothing that is as large, so that an installation stays a matter of seconds."""
    folder = checkpoints.resolve("tiny").parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name == checkpoints.WEIGHTS]) >= 4
    assert sum(path.stat().st_size for path in files) <= 40e6
