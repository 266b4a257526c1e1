"""The benchmark of Motion Inversion: its rows and keys on a shrunken base, the captions it samples, its settings."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints
from motionv2v.devices import memory
from motionv2v.evaluation import clip_scores, scene_reader
from motionv2v.methods import motion_inversion
from motionv2v.schema import SchemaError
from motionv2v.training import inversion_benchmark

CLIP = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Shrunken bases with weights of their own: attention over all tokens, and within frames and along time."""
    folder, made = tmp_path_factory.mktemp("models"), []
    for name, axes in (("base", ("thw",)), ("factorised", ("hw", "t"))):
        config = tiny_model.config("base")
        config.dit.axes = axes
        params = tiny_model.random_params(memory.parameter_shapes(config))
        made.append(str(checkpoints.save_model(folder / name, config, params, "float32")))
    return made


@pytest.fixture
def quick(monkeypatch):
    """A reader of scenes that was taught nothing, and few rows."""
    networks = (scene_reader._Colors(), np.zeros((1, 16, 16, 3))), (scene_reader._Shapes(), np.zeros((1, 16, 16)))
    reader = scene_reader.Reader(*(network.init(jax.random.key(0), x) for network, x in networks))
    monkeypatch.setattr(scene_reader, "train", lambda config: reader)
    monkeypatch.setattr(inversion_benchmark, "USES", {"learned": {}, "not debiased": {"debias": "none"}})
    monkeypatch.setitem(inversion_benchmark.SETS, "starts", {"low frequencies": {"start": "frequencies"}})


def test_rows_scores_and_keys(bases, quick, tmp_path, monkeypatch):
    learned = []
    learn = inversion_benchmark.inversion.learn
    monkeypatch.setattr(
        inversion_benchmark.inversion, "learn", lambda *args, **kwargs: learned.append(1) or learn(*args, **kwargs)
    )
    given = bases[0], ["v=frames", "starts", bases[1]], 2, 7, 2, str(tmp_path)
    text, results = inversion_benchmark.table(*given, steps=2)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    own = ["the base alone", "learned", "not debiased", "v=frames", "low frequencies"]
    assert rows == ["", *own, *(f"{name}, {bases[1]}" for name in own[:3])]
    assert "2 held-out scenes, 3 captions each, 2 steps of learning, 2 of sampling" in text
    modes = {"motion_fidelity", "motion_fidelity_sum", "motion_fidelity_dmt_code"}
    names = modes | {"at_rest", "text_agreement", "shapes", "leak", "consecutive", "all_pairs"}
    whole = names | {f"{name}_base" for name in names} | {"leak_none", "motion_fidelity_floor"}
    assert set(results) == whole | {f"{name}_{port}" for name in whole for port in "ab"} | {"rows"}
    assert 0 <= results["text_agreement"] <= 1 and 0 <= results["leak"] <= 1 and results["leak_a"] == results["leak"]
    assert results["leak_b"] == results["rows"][f"learned, {bases[1]}"]["leak"] != results["leak_a"]
    assert set(results["rows"]) == set(rows[1:])
    assert results["motion_fidelity_sum"] == pytest.approx(2 * results["motion_fidelity"], nan_ok=True)
    assert (tmp_path / "transferred.png").is_file()
    # One motion of each clip for each base, one more for what was learned otherwise; the same again makes nothing.
    assert len(learned) == 2 * 3
    (next((tmp_path / "kept").glob("*.npz"))).write_bytes(b"cut off")
    again = inversion_benchmark.table(*given, steps=2)
    assert again[0] == text and len(learned) == 2 * 3


def test_all_rows_are_those_of_the_paper_and_of_every_setting():
    """Its ablation (a) to (f), each loss, each start, each way to debias."""
    sets = inversion_benchmark.SETS
    whole = inversion_benchmark.USES | {name: row for rows in sets.values() for name, row in rows.items()}
    assert len(sets["ablations"]) == 3 and len(whole) == 6 + 3 + 4 + 1 + 3
    for field in ("loss", "debias", "start"):
        tried = {motion_inversion.SETTINGS[field].default, *(row.get(field) for row in whole.values())} - {None}
        for value in tried:
            motion_inversion.SETTINGS[field].kind.read(value)
        all_of_them = {"plain", *motion_inversion.LOSSES} if field == "loss" else None
        assert tried == (all_of_them or set(getattr(motion_inversion, {"debias": "DEBIAS", "start": "STARTS"}[field])))


def test_samples_in_which_nothing_moves_are_in_no_mean():
    assert inversion_benchmark._mean([1.0, float("nan"), 3.0]) == 2.0
    assert np.isnan(inversion_benchmark._mean([float("nan")]))


def test_clip_says_what_it_sees_where_it_is(quick):
    class Sight(clip_scores.Sight):
        def of_frames(self, frames, preparation):
            return np.stack([frames.reshape(len(frames), -1).mean(1), np.ones(len(frames))], 1)

        def of_text(self, text):
            return np.array([[0.0, 1.0]])

    job = inversion_benchmark.Job(CLIP, ["red disk, teal"] * 3, 1, 1, None, 0, None)
    encoder = SimpleNamespace(encode=lambda videos: np.ones((len(videos), 2, 1, 1, 4)))
    reader = scene_reader.train(None)
    made = [np.stack([CLIP] * 3)]
    scores = inversion_benchmark.Scorer([job], reader, encoder, Sight(None, None)).score(made)
    seen = np.stack([CLIP.reshape(len(CLIP), -1).mean(1), np.ones(len(CLIP))], 1)
    assert scores["clip_text"] == pytest.approx(np.mean(seen[:, 1] / np.linalg.norm(seen, axis=1)))
    assert {"clip_consec", "clip_allpairs"} < set(scores)
    assert not {"clip_text"} & set(inversion_benchmark.Scorer([job], reader, encoder).score(made))
    line = inversion_benchmark._format({"a": scores}).splitlines()[0]
    assert "clip_consec" in line and "clip_allpairs" in line
    with pytest.raises(ValueError, match="CLIP"):
        inversion_benchmark.table("base_tiny", [], 1, 7, weights="nowhere")


def test_bases_of_other_sizes_and_impossible_settings_are_refused_before_anything_is_learned(bases, tmp_path):
    other = tiny_model.config("base", size=(32, 32))
    params = tiny_model.random_params(memory.parameter_shapes(other))
    large = str(checkpoints.save_model(tmp_path / "large", other, params, "float32"))
    with pytest.raises(ValueError, match="large makes clips of another size"):
        inversion_benchmark._bases(bases[0], [large])
    with pytest.raises(ValueError, match=r"unknown field 'method\.layer'"):
        inversion_benchmark._bases(bases[0], ["layer=9"])
    with pytest.raises(ValueError, match="no checkpoint 'abblations'"):
        inversion_benchmark._bases(bases[0], ["abblations"])


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
