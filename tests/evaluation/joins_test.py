"""Whether windows show where they meet: a seam is found, and found to be one; a perfect edit has none."""

import numpy as np
import pytest

from motionv2v import editing
from motionv2v.data.scenes.pairs import Pair, SceneConfig, make_pair
from motionv2v.editing import windows
from motionv2v.evaluation import joins, synthetic

PLAN = windows.plan(41, 17)


@pytest.fixture(scope="module")
def pairs():
    return [make_pair(SceneConfig(num_frames=41, num_points=4), 3, index, "test") for index in range(2)]


def test_frames_that_windows_share():
    assert PLAN.starts == (0, 8, 16, 24)
    assert joins.shared(PLAN).tolist() == [8 <= t <= 32 for t in range(41)]
    assert joins.shared(windows.plan(19, 17)).tolist() == [4 <= t <= 16 for t in range(19)]


def test_a_perfect_edit_has_no_joins(pairs):
    scores = joins.score(np.stack([pair.target for pair in pairs]), pairs, PLAN)
    assert all(row == {"psnr": np.inf, "step": 1.0, "jump": 0.0} for row in scores.values())


def test_a_seam_is_found_where_it_is(pairs):
    """Every other frame of the overlaps 10 levels off: 28.1 dB there, and steps of ten levels more than in truth."""
    still = Pair(**{**vars(pairs[0]), "target": np.full_like(pairs[0].target, 100)})
    still.target[:, :32] = (np.arange(41) + 100)[:, None, None, None]
    video = still.target.copy()
    video[9:33:2] += 10
    scores = joins.score(video[None], [still], PLAN)
    assert scores["elsewhere"] == {"psnr": np.inf, "step": 1.0, "jump": 0.0}
    # 12 of the 25 frames, and a truth whose step is half a level on average.
    assert scores["overlaps"]["psnr"] == pytest.approx(10 * np.log10(255**2 / (100 * 12 / 25)))
    assert scores["overlaps"]["jump"] == pytest.approx(10) and scores["overlaps"]["step"] > 10
    assert scores["overlaps"]["psnr"] < scores["all"]["psnr"] < np.inf
    table = joins.format_table(scores, PLAN)
    assert table.startswith("41 frames in 4 windows of 17, 61% of the frames in overlaps:\n| | PSNR (dB) | step")


def edited(num_pairs, seed, num_views):
    editor = editing.load("tiny")
    options = {"num_pairs": num_pairs, "seed": seed, "num_frames": 98, "num_views": num_views, "batch_size": 1}
    row = synthetic.run_row("tiny", editor, **options)
    assert row.videos.shape == (num_pairs, 98, 64, 64, 3)
    return joins.score(row.videos, row.pairs, editor.plan(98)), row


@pytest.mark.slow
def test_joins_of_tiny():
    """Of ten scenes each of two seeds: as near to the truth in overlaps as elsewhere, and no more restless there."""
    for seed in (7, 23):
        scores, row = edited(10, seed, None)
        assert scores["all"]["psnr"] > row.results["psnr_copy"] + 1
        assert scores["overlaps"]["psnr"] > scores["elsewhere"]["psnr"] - 0.3
        assert scores["overlaps"]["step"] < scores["elsewhere"]["step"] + 0.05
        assert scores["overlaps"]["jump"] < scores["elsewhere"]["jump"] + 0.5
