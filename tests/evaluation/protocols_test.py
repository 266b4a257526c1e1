"""Suites without a target: other prompts for a video's motion, and a region that a person edits."""

import numpy as np
import pytest
from moving_square import textured
from PIL import Image
from suite_test import FRAMES, SIZE, STEPS, draw

from motionv2v import figures, tracks, video
from motionv2v.evaluation import report, scoring, suite
from motionv2v.evaluation.motion_fidelity import motion_fidelity
from motionv2v.tracks import Tracks

OPTIONS = {"num_frames": FRAMES, "size": SIZE, "tracker": "lk"}


@pytest.fixture
def videos(tmp_path):
    for name, step in STEPS.items():
        video.write(tmp_path / "videos" / f"{name}.mp4", draw(step), fps=8, lossless=True)
    return tmp_path / "videos"


def values(scores, metric):
    return {row.name: row.mean(metric)[0] for row in scores.rows}


def test_a_video_makes_an_item_for_each_prompt(videos, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text('video,prompt\nright,"a box, moving"\nright,a cat walks\ndown,rain\n', encoding="utf-8")
    options = OPTIONS | {"num_points": 36, "prompts": table}
    made = suite.build("motion_inversion", videos, tmp_path / "suite", **options)
    told = [(item.id, item.prompt) for item in made.items]
    assert told == [("down-1", "rain"), ("right-1", "a box, moving"), ("right-2", "a cat walks")]
    assert made.left_out == {"left": "has no prompt in prompts.csv"}
    assert set(made.items[1].files) == {"source.mp4", "source_tracks.npz"}
    np.testing.assert_array_equal(made.items[1].source(), draw(STEPS["right"])[:FRAMES])
    table.write_text("video,prompt\nright,a dog\nright,a cat walks\ndown,rain\n", encoding="utf-8")
    again = suite.build("motion_inversion", videos, tmp_path / "suite", **options)
    assert [item.prompt for item in again.items] == ["rain", "a dog", "a cat walks"]
    table.write_text("video,prompt\nup,rain\n")
    with pytest.raises(ValueError, match=r"there is no video 'up'; available: down, left, right"):
        suite.build("motion_inversion", videos, tmp_path / "suite", **options)
    table.write_text("clip,text\nup,rain\n")
    with pytest.raises(ValueError, match=r"expected a table with the columns video and prompt"):
        suite.build("motion_inversion", videos, tmp_path / "suite", **options)


def test_motion_is_kept_by_what_moves_as_the_source_whatever_it_shows(videos, tmp_path):
    made = suite.build("motion_inversion", videos, tmp_path / "suite", **OPTIONS, num_points=144)
    for index, item in enumerate(made.items):
        other = made.items[(index + 1) % 3]
        for name, frames in (("negative", 255 - item.source()), ("wrong", other.source())):
            video.write(tmp_path / "outputs" / name / f"{item.id}.mp4", frames, fps=8, lossless=True)
    scores = scoring.score(made.folder, tmp_path / "outputs")
    assert [row.name for row in scores.rows] == ["source", "held", "negative", "wrong"]
    modes = [f"motion_fidelity{mode}" for mode in ("", "_floor", "_sum", "_dmt")]
    assert scores.metrics == [*modes, "flicker", "dynamic_dis"]
    for row in ("source", "negative", "wrong"):
        assert values(scores, "motion_fidelity_sum")[row] == pytest.approx(2 * values(scores, "motion_fidelity")[row])
    found, floor = values(scores, "motion_fidelity"), values(scores, "motion_fidelity_floor")
    assert found["source"] > 0.9 and found["negative"] > 0.85 and np.isnan(found["held"])
    assert found["wrong"] < found["negative"] - 0.3 and floor["source"] < found["source"] - 0.3
    assert floor["wrong"] > 0.9, "it is the pairing that the floor is of"
    item, after = made.items[0], made.items[1]
    expected = motion_fidelity(after.source_tracks(), item.source_tracks())
    assert scores.rows[0].scores[item.id]["motion_fidelity_floor"] == pytest.approx(expected, abs=0.05)
    assert any("144 points an item, tracked by lk, again by lk" in note for note in report.notes(scores))
    with pytest.raises(ValueError, match="psnr is not measured on items of motion_inversion, for want of its truth"):
        scoring.score(made.folder, tmp_path / "outputs", ["psnr"])


def edit_of(folder, name, frames):
    """A person's edit: the square's middle painted red, a mask over it, and a path to the right."""
    first, mask = frames[0].copy(), np.zeros_like(frames[0])
    first[20:40, 40:60], mask[20:40, 40:60] = (255, 0, 0), 255
    figures.save_png(folder / name / "first.png", first)
    figures.save_png(folder / name / "mask.png", mask)
    xy = np.array([[50, 30]], np.float32)[:, None] + np.arange(FRAMES)[None, :, None] * np.array([2, 0], np.float32)
    tracks.save(folder / name / "tracks.npz", Tracks(xy, np.ones((1, FRAMES), bool)))
    (folder / name / "prompt.txt").write_text("a red box\n")


def test_what_lies_outside_of_an_edit_should_stay(videos, tmp_path, monkeypatch):
    frames = draw(STEPS["right"])[:FRAMES]
    edit_of(tmp_path / "edits", "right", frames)
    made = suite.build("revideo", videos, tmp_path / "suite", **OPTIONS, edits=tmp_path / "edits")
    (item,) = made.items
    assert item.prompt == "a red box" and made.left_out["down"] == "its edit lacks down/first.png"
    assert set(item.files) == {"source.mp4", "target_tracks.npz", "first.png", "mask.png"}
    np.testing.assert_array_equal(item.first()[20:40, 40:60], np.full((20, 20, 3), (255, 0, 0)))
    assert item.mask().sum() == 400 and item.mask()[20:40, 40:60].all()
    np.testing.assert_allclose(item.target_tracks().xy[0, :, 0], 50 + 2 * np.arange(FRAMES))
    near, inside = frames.copy(), frames.copy()
    inside[:, 20:40, 40:60] = 0
    near[:, 41:48, 40:60] ^= 64
    for name, made_of_it in (("inside", inside), ("near", near)):
        for t, frame in enumerate(made_of_it):
            (tmp_path / "outputs" / name / "right").mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(tmp_path / "outputs" / name / "right" / f"{t:05d}.png")
    scores = scoring.score(made.folder, tmp_path / "outputs")
    assert [row.name for row in scores.rows] == ["source", "held", "inside", "near"]
    assert scores.metrics == ["kept_psnr", "kept_psnr_8", "flicker", "dynamic_dis"]
    psnr, far = values(scores, "kept_psnr"), values(scores, "kept_psnr_8")
    assert psnr["source"] == psnr["inside"] == far["inside"] == 100
    share = 7 * 20 / (64 * 96 - 400)
    assert psnr["near"] == pytest.approx(-10 * np.log10(share * (64 / 255) ** 2), abs=1e-6) and far["near"] == 100
    assert psnr["held"] < 30 and values(scores, "flicker")["held"] == 1
    assert report.write(scores, tmp_path / "scores") == tmp_path / "scores"
    monkeypatch.setattr(suite.Item, "mask", lambda self: np.ones(SIZE, bool))
    whole = scoring.score(made.folder, tmp_path / "outputs", ["kept_psnr", "kept_psnr_8"], out=tmp_path / "whole")
    assert all(np.isnan(value) for name in whole.metrics for value in values(whole, name).values()), "nothing is kept"
    edit_of(tmp_path / "edits", "right", textured(np.random.default_rng(0), SIZE)[None])
    (again,) = suite.build("revideo", videos, tmp_path / "suite", **OPTIONS, edits=tmp_path / "edits").items
    assert again.files["first.png"] != item.files["first.png"], "another edit is another item"


def test_edits_of_larger_videos_are_cut_as_these_are(tmp_path):
    """Of 96 rows of 240 columns the middle 144 make 64x96: 48 columns go on each side, and the rest is two thirds."""
    frames = np.stack([textured(np.random.default_rng(t), (96, 240)) for t in range(FRAMES)])
    video.write(tmp_path / "videos" / "a.mp4", frames, fps=8, lossless=True)
    edit_of(tmp_path / "edits", "a", frames)
    xy = np.tile(np.array([[[48, 0], [120, 48]]], np.float32).transpose(1, 0, 2), (1, FRAMES, 1))
    tracks.save(tmp_path / "edits" / "a" / "tracks.npz", Tracks(xy, np.ones((2, FRAMES), bool)))
    edits = {"edits": tmp_path / "edits"}
    (item,) = suite.build("revideo", tmp_path / "videos", tmp_path / "suite", **OPTIONS, **edits).items
    np.testing.assert_allclose(item.target_tracks().xy[:, 0], [[0, 0], [48, 32]], atol=1e-4)
    rows, columns = np.nonzero(item.mask())
    assert (rows.min(), rows.max()) == (13, 26) and (columns.min(), columns.max()) == (0, 7)


def test_edits_that_do_not_fit_are_told(videos, tmp_path):
    frames = draw(STEPS["right"])[:FRAMES]
    edit_of(tmp_path / "edits", "right", frames)
    figures.save_png(tmp_path / "edits" / "right" / "mask.png", frames[0][:32])
    with pytest.raises(ValueError, match=r"revideo's items are edits: name their folder"):
        suite.build("revideo", videos, tmp_path / "suite", **OPTIONS)
    with pytest.raises(ValueError, match=r"nowhere is not there; expected a folder of edits"):
        suite.build("revideo", videos, tmp_path / "suite", **OPTIONS, edits=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"makes an item"):
        suite.build("revideo", videos, tmp_path / "suite", **OPTIONS, edits=tmp_path / "edits")
    edit_of(tmp_path / "edits", "right", frames)
    tracks.save(tmp_path / "edits" / "right" / "tracks.npz", Tracks(np.zeros((1, 2, 2)), np.ones((1, 2), bool)))
    edit_of(tmp_path / "edits", "left", draw(STEPS["left"])[:FRAMES])
    edit_of(tmp_path / "edits", "down", np.repeat(draw(STEPS["down"])[:FRAMES], 2, axis=2))
    made = suite.build("revideo", videos, tmp_path / "suite2", **OPTIONS, edits=tmp_path / "edits")
    assert made.left_out["down"] == "first.png has 192x64 pixels and the video 96x64, expected as many"
    assert made.left_out["right"] == "tracks.npz has 2 frames, expected at least 5"
