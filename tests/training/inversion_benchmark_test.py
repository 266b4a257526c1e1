"""The benchmark of Motion Inversion: its rows and keys on a shrunken base, the captions it samples, its settings."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints
from motionv2v.devices import memory
from motionv2v.evaluation import scene_reader
from motionv2v.schema import SchemaError
from motionv2v.training import inversion_benchmark


def test_rows_scores_and_keys(tmp_path, monkeypatch):
    config = tiny_model.config("base")
    params = tiny_model.random_params(memory.parameter_shapes(config))
    base = checkpoints.save_model(tmp_path / "base", config, params, "float32")
    networks = (scene_reader._Colors(), np.zeros((1, 16, 16, 3))), (scene_reader._Shapes(), np.zeros((1, 16, 16)))
    reader = scene_reader.Reader(*(network.init(jax.random.key(0), x) for network, x in networks))  # taught nothing
    monkeypatch.setattr(scene_reader, "train", lambda config: reader)
    monkeypatch.setattr(inversion_benchmark, "USES", {"learned": {}, "not debiased": {"debias": "none"}})
    text, results = inversion_benchmark.table(str(base), ["v=frames"], 2, 7, 2, str(tmp_path), steps=2)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["", "the base alone", "learned", "not debiased", "v=frames"]
    assert "2 held-out scenes, 3 captions each, 2 steps of learning, 2 of sampling" in text
    names = {"motion_fidelity", "text_agreement", "shapes", "leak", "consecutive", "all_pairs"}
    whole = names | {f"{name}_base" for name in names} | {"leak_none", "motion_fidelity_floor"}
    assert set(results) == whole | {f"{name}_a" for name in whole}
    assert 0 <= results["text_agreement"] <= 1 and 0 <= results["leak"] <= 1 and results["leak_a"] == results["leak"]
    assert (tmp_path / "transferred.png").is_file()


def test_captions_name_other_colours_where_there_are_any():
    words = ["red disk, gray", "red star, gray", "blue star, teal", "red cross, rose", "green disk, brown"]
    words += ["cyan star, rose"]
    scenes = [SimpleNamespace(caption=caption) for caption in words]
    chosen = inversion_benchmark._other_captions(0, scenes, 1)
    assert chosen == ["blue star, teal", "green disk, brown", "cyan star, rose"]


def test_settings_are_read_and_others_named():
    assert inversion_benchmark._settings("loss=debiased_v, rank=2") == {"loss": "debiased_v", "rank": 2}
    assert inversion_benchmark._settings("layers=0,1,grid=[2, 3]") == {"layers": (0, 1), "grid": [2, 3]}
    with pytest.raises(SchemaError, match="--compare=tiny: expected settings such as loss=debiased_v,layers=0,1"):
        inversion_benchmark._settings("tiny")


def test_tracks_start_from_a_grid():
    tracks = inversion_benchmark._tracks(np.zeros((3, 20, 40, 3), np.uint8))
    assert tracks.xy.shape == (100, 3, 2)
    assert tracks.xy[0, 0].tolist() == [2, 1] and tracks.xy[-1, 0].tolist() == [38, 19]
