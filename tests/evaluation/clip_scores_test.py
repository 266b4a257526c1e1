"""Scores by CLIP: what is still, what is shown and what is not; features are kept by what was seen and by whom."""

import math
from types import SimpleNamespace

import clip_files
import numpy as np
import pytest
from safetensors.numpy import save_file

from motionv2v.convert import contrastive
from motionv2v.evaluation import clip_scores
from motionv2v.models.features import clip


@pytest.fixture
def sight(tmp_path, monkeypatch):
    """A small network of random weights."""
    monkeypatch.setitem(clip.NETS, "tiny", clip_files.TINY)
    save_file(clip_files.random_arrays(), tmp_path / "model.safetensors")
    found = contrastive.find(tmp_path, "tiny", "quick_gelu")
    return clip_scores.Sight(found, clip_files.vocabulary(), tmp_path / "kept")


class Known:
    """Features that are given: frames are worth their first pixel, texts are words."""

    def __init__(self, of_frame, of_text):
        self._frames, self._texts = of_frame, of_text

    def of_frames(self, frames, preparation):
        chosen = self._frames[preparation]
        return np.array([chosen[frame[0, 0, 0]] for frame in frames], np.float32)

    def of_text(self, text):
        return np.float32([self._texts[text]])


def video(*values):
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)


def truth(clip, prompt="right"):
    return SimpleNamespace(clip=clip, item=SimpleNamespace(prompt=prompt))


def test_scores_are_those_of_the_definitions():
    """Frames at 0, 60 and 180 degrees, of lengths that do not matter; the text at 0 and at 90."""
    angles = {0: (2, 0), 1: (0.5, math.sqrt(0.75)), 2: (-3, 0)}
    known = Known({"shorter_side": angles, "vbench": angles}, {"right": (5, 0), "wrong": (0, 1)})
    moving = clip_scores.measure(video(0, 1, 2), truth(known))
    assert moving["clip_text"] == pytest.approx((1 + 0.5 - 1) / 3)
    assert moving["clip_consec"] == pytest.approx((0.5 - 0.5) / 2, abs=1e-6)
    assert moving["clip_allpairs"] == pytest.approx((0.5 - 0.5 - 1) / 3)
    background = clip_scores.measure_background(video(0, 1, 2), truth(known))["vbench_background"]
    assert background == pytest.approx(((0.5 + 0.5) / 2 + (0 + 0) / 2) / 2), "cosines below 0 count as 0"
    still = clip_scores.measure(video(0, 0, 0), truth(known))
    assert still == pytest.approx({"clip_text": 1, "clip_consec": 1, "clip_allpairs": 1})
    assert clip_scores.measure(video(0, 0), truth(known, "wrong"))["clip_text"] == pytest.approx(0, abs=1e-6)
    assert clip_scores.measure_background(video(1, 1), truth(known))["vbench_background"] == pytest.approx(1)


def test_what_there_is_not_is_no_number():
    known = Known({"shorter_side": {0: (1, 0)}, "vbench": {0: (1, 0)}}, {})
    found = clip_scores.measure(video(0), truth(known, "  "))
    assert all(math.isnan(value) for value in found.values())
    assert math.isnan(clip_scores.measure_background(video(0), truth(known))["vbench_background"])


def test_a_network_sees_what_is_still_and_what_is_not(sight):
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 256, (1, 40, 64, 3), np.uint8), 3, axis=0)
    moving = rng.integers(0, 256, (3, 40, 64, 3), np.uint8)
    for measure in (clip_scores.measure, clip_scores.measure_background):
        rest, motion = (measure(frames, truth(sight, "a dog")) for frames in (still, moving))
        for name in set(rest) - {"clip_text"}:
            assert rest[name] == pytest.approx(1, abs=1e-5) and motion[name] < 0.9999
    # The cosine is that of the features, whatever their lengths.
    expected = clip.picture_features(*contrastive.load(sight.found)[:2], clip.shorter_side(moving, 32))
    text = sight.of_text("a dog")[0]
    cosines = expected @ text / np.linalg.norm(expected, axis=1) / np.linalg.norm(text)
    assert clip_scores.measure(moving, truth(sight, "a dog"))["clip_text"] == pytest.approx(cosines.mean(), abs=1e-5)


def test_features_are_kept_by_what_was_seen_and_by_whom(sight, tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    first, text = sight.of_frames(frames, "shorter_side"), sight.of_text("a dog")
    looked = []
    load = contrastive.load
    monkeypatch.setattr(contrastive, "load", lambda found: looked.append(found) or load(found))
    again = clip_scores.Sight(sight.found, sight._vocabulary, sight.folder)
    np.testing.assert_array_equal(again.of_frames(frames, "shorter_side"), first)
    np.testing.assert_array_equal(again.of_text("a dog"), text)
    assert not looked, "weights are not even read"
    assert np.abs(again.of_frames(frames, "vbench") - first).max() > 1e-3 and len(looked) == 1
    assert np.abs(again.of_text("a cat") - text).max() > 1e-3
    other = clip_scores.Sight(sight.found._replace(activation="gelu"), sight._vocabulary, sight.folder)
    assert np.abs(other.of_frames(frames, "shorter_side") - first).max() > 1e-4
    # What is no whole file is made anew.
    for path in sight.folder.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(again.of_frames(frames, "shorter_side"), first)


def test_the_network_is_named_with_its_file(sight, weights, tmp_path):
    assert (
        str(sight) == f"CLIP tiny, quick_gelu, model.safetensors (sha256 {sight.found.source.sha256[:8]}, unverified)"
    )
    with pytest.raises(ValueError, match="CLIP's vocabulary is not there"):
        clip_scores.find(tmp_path, "tiny", "gelu")
    name = contrastive.VOCABULARIES[0]
    (tmp_path / name).write_bytes((weights / name).read_bytes())
    assert clip_scores.find(tmp_path, "tiny", "gelu").found.activation == "gelu"
