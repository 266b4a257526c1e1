"""ReVideo's table: what the truth, the source and a held frame must score, and what a model is refused for."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, editing, trackers
from motionv2v.data import regions
from motionv2v.evaluation import remaking

SIZE = {"num_frames": 9, "size": (48, 48)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("models") / "remade", "remade", **SIZE)


@pytest.fixture(scope="module")
def given(model):
    return remaking.cases(editing.load(model), 4, 7, trackers.get("classical"))


def test_cases_differ_inside_the_region_alone(given):
    for of in given:
        assert of.region.any() and (of.region == of.region[0]).all() and of.region.mean() <= remaking.MOST
        differs = np.abs(of.source.astype(int) - of.target).max(-1) > remaking.CHANGED
        assert differs[of.region].any() and not differs[~of.region].any()
        inside = of.region[0]
        np.testing.assert_array_equal(of.known[0][inside], of.target[0][inside])
        np.testing.assert_array_equal(of.known[0][~inside], of.source[0][~inside])
        np.testing.assert_array_equal(of.known[1:], of.source[1:])
        assert 1 <= len(of.tracks.xy) <= 10 and of.tracks.visible.any(1).all()
        for xy, visible in zip(of.tracks.xy, of.tracks.visible, strict=True):
            column, row = np.floor(xy[visible]).astype(int).T.clip(0, 47)
            assert inside[row, column].all()


def test_trajectories_are_of_all_that_is_seen_inside_and_not_of_what_is_edited_alone(model, monkeypatch):
    plain = remaking.make_pair
    unedited = lambda *given: replace(made := plain(*given), edited=np.zeros_like(made.edited))  # noqa: E731
    monkeypatch.setattr(remaking, "make_pair", unedited)
    found = remaking.cases(editing.load(model), 3, 11, trackers.get("classical"))
    assert max(len(of.tracks.xy) for of in found) == regions.MOST_POINTS


def test_the_truth_scores_best_and_a_held_frame_does_not_follow(given):
    tracker = trackers.get("classical")
    for of in given:
        best, held = (remaking.score(frames, of, tracker) for frames in (of.target, of.held))
        assert best["psnr_outside"] == np.inf and best["psnr_inside"] > 45 > held["psnr_inside"]
        assert best["seam"] == pytest.approx(remaking.seam(of.target, of.region), rel=0.1)
        noise = np.random.default_rng(0).integers(0, 255, of.target.shape).astype(np.uint8)
        noisy = remaking.score(noise, of, tracker)
        assert noisy["psnr_outside"] == np.inf and noisy["psnr_outside_raw"] < 15 and noisy["seam"] > 2 * best["seam"]
    true, held = ([remaking.follow(getattr(of, name), of, tracker) for of in given] for name in ("target", "held"))
    assert np.nanmean(true) < 1 < np.nanmean(held)


def test_a_seam_is_counted_across_the_border_alone():
    frames = np.zeros((2, 6, 6, 3), np.uint8)
    frames[:, 2:4, 2:4] = 50
    region = frames[..., 0] > 0
    assert remaking.seam(frames, region) == 50
    frames[:, 0, 0] = 255
    assert remaking.seam(frames, region) == 50
    assert np.isnan(remaking.seam(frames, np.ones_like(region)))


def test_the_table_has_a_row_for_each_model_and_what_they_are_measured_against(model, tmp_path):
    text, results = remaking.table(str(model), [str(model)], 3, 7, 1, str(tmp_path))
    assert {*remaking.COLUMNS, "follow_epe_held", "psnr_inside_copy", "seam_truth", "psnr_autoencoder"} == set(results)
    assert results["psnr_outside"] == np.inf and np.isfinite(results["psnr_autoencoder"])
    for words in ("3 held-out pairs, 1 steps", "| the first frame, held | exact |", "| the truth | exact |"):
        assert words in text
    assert (tmp_path / "remade.png").is_file() and len(list(tmp_path.glob("remade_*.mp4"))) == 3
    other = tiny_model.save(tmp_path / "control", "control", **SIZE)
    with pytest.raises(ValueError, match="makes no region of a video anew; this needs a revideo model"):
        remaking.table(str(other), [], 1, 7)


@pytest.mark.slow
def test_the_released_model_meets_its_goals():
    """As they were set before it was trained, but one, which it misses: raw pixels within 1 dB of the autoencoder's."""
    _, found = remaking.table("revideo_tiny", (), 40, 7)
    assert found["psnr_outside"] >= 45
    assert found["psnr_outside_raw"] >= 38
    assert found["follow_epe"] <= found["follow_epe_held"] / 3
    assert found["psnr_inside"] >= found["psnr_inside_copy"] + 4


def test_the_released_model_follows_its_trajectories():
    """On a few pairs, and only that it works at all: its goals are held by the slow test above."""
    assert (checkpoints.resolve("revideo_tiny") / "model.safetensors").stat().st_size <= 5_000_000
    _, found = remaking.table("revideo_tiny", (), 6, 11)
    assert found["follow_epe"] < 0.5 * found["follow_epe_held"]
    assert found["psnr_inside"] > found["psnr_inside_copy"] + 2 and found["psnr_outside"] >= 45
