"""Samples of text: the scenes themselves score what they must, wrong captions and broken clips do not."""

import numpy as np
import pytest
import tiny_model

from motionv2v import editing, metrics
from motionv2v.data.scenes.pairs import SceneConfig, make_pair
from motionv2v.evaluation import scene_reader, text_to_video

CONFIG = SceneConfig(num_frames=9, edge=1.0)


@pytest.fixture(scope="module")
def reader():
    return scene_reader.train(CONFIG, num_steps=200, num_scenes=150)


@pytest.fixture(scope="module")
def scenes():
    return [make_pair(CONFIG, 7, index, "test") for index in range(16)]


def test_captions_name_things_and_the_ground():
    assert text_to_video.named_things("red disk, blue star, teal") == [("red", "disk"), ("blue", "star")]
    assert text_to_video.named_things("white wedge, olive") == [("white", "wedge")]


def test_scenes_show_what_their_captions_name(reader, scenes):
    videos, captions = np.stack([scene.target for scene in scenes]), [scene.caption for scene in scenes]
    right = text_to_video.faithfulness(videos, captions, reader)
    wrong = text_to_video.faithfulness(videos, captions[5:] + captions[:5], reader)
    assert right["colours"] > 0.7 and right["colours"] > wrong["colours"] + 0.3
    assert right["shapes"] > 0.5
    assert 0.8 < right["objects"] < 3
    nothing = text_to_video.faithfulness(np.full_like(videos, 128), captions, reader)
    assert nothing["colours"] == 0 and np.isnan(nothing["shapes"]) and nothing["objects"] == 0


def test_the_largest_region():
    mask = np.zeros((6, 6), bool)
    mask[0, :2] = mask[3:, 3:] = True
    assert scene_reader.largest_region(mask).sum() == 9
    assert not scene_reader.largest_region(np.zeros((3, 3), bool)).any()


def test_a_thing_is_cut_out_at_one_scale_wherever_it_is():
    """A square of 12 and one of 6 look the same, up to what pixels leave of them."""
    found = []
    for start, side in ((2, 12), (17, 6)):
        mask = np.zeros((32, 32), bool)
        mask[start : start + side, start + 3 : start + 3 + side] = True
        found.append(scene_reader._cutout(mask, mask.astype(np.float32)))
    assert np.abs(found[0] - found[1]).mean() < 0.08
    assert found[0].mean() == pytest.approx(np.pi / 4 / 1.7**2, abs=0.03)
    np.testing.assert_allclose(found[0], found[0].T, atol=1e-5)


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 8; got \(60, 64\)"):
        scene_reader.train(SceneConfig(size=(60, 64)), num_steps=1)


def test_what_moves_evenly_is_coherent_and_what_flickers_is_not():
    rows, columns = np.mgrid[:64, :80]
    texture = 120 + 50 * np.sin(rows / 5) * np.cos(columns / 6) + 30 * np.sin(columns / 3 + rows / 9)
    moving = np.stack([np.repeat(texture[:, t : t + 64, None], 3, 2) for t in range(6)]).astype(np.uint8)
    flickering = np.clip(moving + np.array([0, 12] * 3)[:, None, None, None], 0, 255).astype(np.uint8)
    assert text_to_video.incoherence(moving) < 1.5
    assert text_to_video.incoherence(flickering) > 8
    assert np.isnan(text_to_video.incoherence(moving[:1]))


def test_gradients_of_a_ramp():
    ramp = np.zeros((1, 2, 8, 8, 3), np.uint8)
    ramp[:] = (3 * np.arange(8))[:, None]
    assert metrics.gradients(ramp) == pytest.approx(1.5)


def test_features_see_colours_spread_and_motion():
    still = np.ones((2, 3, 4, 4, 5))
    assert text_to_video.clip_features(still).tolist() == [[1] * 5 + [0] * 10] * 2
    moving = still * np.array([0, 1, 2])[:, None, None, None]
    np.testing.assert_allclose(text_to_video.clip_features(moving)[0], [1] * 5 + [(2 / 3) ** 0.5] * 5 + [1] * 5)
    assert text_to_video.clip_features(still[:, :1]).shape == (2, 15)


def test_the_table_and_its_numbers(tmp_path, monkeypatch, reader):
    folder, other = (tiny_model.save(tmp_path / name, "base") for name in ("one", "two"))
    taught = []
    monkeypatch.setattr(scene_reader, "train", lambda config, **kwargs: taught.append(config.size) or reader)
    monkeypatch.setattr(text_to_video, "BATCH", 2)
    text, results = text_to_video.table(str(folder), [str(other)], 3, 7, 2, str(tmp_path / "out"))
    assert taught == [(16, 16)]
    lines = text.splitlines()
    assert lines[0] == "3 captions of held-out scenes, 2 steps"
    assert [line.split(" | ")[0] for line in lines[3:6]] == [
        f"| {folder}",
        f"| {other}",
        "| the scenes, through the autoencoder",
    ]
    assert (tmp_path / "out" / "samples.png").stat().st_size > 1000
    assert set(results) == {f"{key}{end}" for key in text_to_video.COLUMNS for end in ("", "_real", "_before")}
    assert results["gradients_real"] == 1
    # Both folders have the same weights.
    assert results["latent_frechet"] == results["latent_frechet_before"] != results["latent_frechet_real"]
    with pytest.raises(ValueError, match="num_clips is 1"):
        text_to_video.table(str(folder), [], 1, 7)


def test_samples_are_those_of_their_captions(tmp_path):
    """However many go together, one caption's sample depends on its batch alone, and none is lost."""
    editor = editing.load(tiny_model.save(tmp_path / "base", "base"))
    videos = text_to_video.sample(editor, ["red disk, teal", "blue star, rose", "red disk, teal"], 3, 2)
    assert videos.shape == (3, 5, 16, 16, 3) and videos.dtype == np.uint8
