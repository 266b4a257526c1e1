"""Motion Prompting's table: a perfect video and a held frame score what they must, and the numbers are all there."""

import itertools

import frechet_files
import lpips_files
import numpy as np
import pytest
import tiny_model
import torch_files
from PIL import Image

from motionv2v import checkpoints, editing, trackers, video
from motionv2v.convert import perceptual
from motionv2v.data.scenes.pairs import SceneConfig, make_pair, make_scene, track
from motionv2v.evaluation import motion_prompting, sets
from motionv2v.models.features import lpips
from motionv2v.tracks import Tracks

CONFIG = SceneConfig(num_frames=9, num_points=300, dense=True)


@pytest.fixture(scope="module")
def clips():
    tracker = trackers.get("classical")
    pairs = [make_pair(CONFIG, 7, index, "test") for index in range(3)]
    return [motion_prompting.show(pair.target, pair.target_tracks, pair.caption, tracker) for pair in pairs]


def test_dense_points_lie_where_the_target_shows_them():
    """Half are seen in the first frame, and each is what the picture shows there: the topmost thing."""
    scene = make_scene(CONFIG, 3, 5, "test")
    tracks = track(scene.content, scene.target, scene.points, CONFIG)
    assert tracks.xy.shape == (300, 9, 2)
    assert tracks.visible.any(1).all()
    assert tracks.visible[:, 0].mean() > 0.45
    start = tracks.xy[tracks.visible[:, 0], 0]
    counts = np.histogram2d(*start.T, bins=2, range=[(0, 64), (0, 64)])[0]
    assert counts.min() > 0.15 * len(start)
    again = make_scene(CONFIG, 3, 5, "test")
    np.testing.assert_array_equal(scene.points.local, again.points.local)


def test_the_clip_itself_is_perfect_and_a_held_frame_is_not(clips):
    tracker = trackers.get("classical")
    for clip in clips:
        assert 0.3 < clip.usable.mean() <= 1
        perfect = motion_prompting.score(clip.frames, clip, 64, tracker)
        assert perfect["psnr"] == np.inf and perfect["ssim"] == pytest.approx(1) and perfect["epe"] < 1
    still = [motion_prompting.score(motion_prompting.held(clip), clip, 64, tracker) for clip in clips]
    assert np.mean([each["epe"] for each in still]) > 2
    assert max(each["psnr"] for each in still) < 40


def test_a_draft_moves_the_first_frame_along_the_tracks(clips):
    tracker = trackers.get("classical")
    made = [motion_prompting.score(motion_prompting.drafted(clip, 64), clip, 64, tracker) for clip in clips]
    still = [motion_prompting.score(motion_prompting.held(clip), clip, 64, tracker) for clip in clips]
    assert np.mean([each["psnr"] for each in made]) > np.mean([each["psnr"] for each in still]) + 2
    unseen = clips[0]._replace(tracks=Tracks(clips[0].tracks.xy, np.zeros_like(clips[0].tracks.visible)))
    np.testing.assert_array_equal(motion_prompting.drafted(unseen, 8), motion_prompting.held(unseen))


def test_lpips_is_measured_with_a_network(clips):
    module = lpips.Lpips("squeeze")
    network = perceptual.Network(module, lpips_files.random_parameters("squeeze"), {})
    clip, tracker = clips[0]._replace(usable=np.zeros_like(clips[0].usable)), trackers.get("classical")
    assert motion_prompting.score(clip.frames, clip, 4, tracker, network)["lpips"] == 0
    assert motion_prompting.score(motion_prompting.held(clip), clip, 4, tracker, network)["lpips"] > 0
    columns = {**motion_prompting.MEASURES, "lpips": "LPIPS (squeeze)"}
    rows = [*map(str, motion_prompting.COUNTS), "held", "autoencoder", "draft"]
    results = {f"{key}_{row}": 0.12345 for key in columns for row in rows}
    lines = motion_prompting.format_table(results, columns).splitlines()
    assert lines[0].endswith("| LPIPS (squeeze) |") and lines[2].endswith("| 0.12 | 0.123 |")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny model's folder, and few tracks; what "the model" makes is the truth."""
    monkeypatch.setattr(motion_prompting, "COUNTS", (1, 4))
    monkeypatch.setattr(motion_prompting, "DRAFTED", 4)
    truth = lambda editor, clips, *_: np.stack([clip.frames for clip in clips])  # noqa: E731
    monkeypatch.setattr(motion_prompting, "animate", truth)
    return str(tiny_model.save(tmp_path / "model", "prompted"))


def test_fvd_is_measured_where_its_network_is(small, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    with pytest.raises(ValueError, match=r"LPIPS alex needs"):
        motion_prompting.table(small, 8, 7, weights=str(weights))
    torch_files.zipped(weights / "a.pt", frechet_files.i3d_state("VideoGPT", frechet_files.i3d_leaves()))
    with pytest.raises(ValueError, match=r"LPIPS alex needs.*i3d_source"):
        motion_prompting.table(small, 8, 7, weights=str(weights))
    options = {"weights": str(weights), "i3d_source": "tfhub"}
    text, results = motion_prompting.table(small, 8, 7, **options)
    assert not any(key.startswith("fvd") for key in results)
    assert "\nno FVD: I3D takes clips of at least 9 frames, here they have 5\n" in text
    assert "\nno LPIPS: LPIPS alex needs" in text and "i3d by" not in text.splitlines()[0]
    # The network itself is tested elsewhere, and slow: here it sees how bright each part of each frame is.
    monkeypatch.setitem(sets.FEWEST_FRAMES, "i3d", (5, "I3D"))
    seen = lambda name, network, frames: frames[:, ::4, ::4].reshape(1, -1) / 255  # noqa: E731
    monkeypatch.setattr(sets, "features", seen)
    text, results = motion_prompting.table(small, 8, 7, **options)
    assert results["fvd_1"] == pytest.approx(0, abs=1e-6) and results["fvd_held"] > 0.01
    assert {key for key in results if key.startswith("fvd")} == {
        f"fvd_{row}" for row in ("1", "4", "held", "autoencoder", "draft")
    }
    header = next(line for line in text.splitlines() if line.startswith("| |"))
    assert "; i3d by I3D, a.pt" in text.splitlines()[0] and "no FVD" not in text
    assert header.endswith("| FVD (fvd_tf) |") and "| 1 track | inf | 1.00 |" in text


def test_points_that_nobody_can_follow_do_not_count(clips):
    nothing = clips[0]._replace(usable=np.zeros_like(clips[0].usable))
    assert np.isnan(motion_prompting.score(nothing.frames, nothing, 4, trackers.get("classical"))["epe"])


def test_the_table_and_its_numbers(tmp_path, monkeypatch):
    folder = tiny_model.save(tmp_path / "model", "prompted")
    monkeypatch.setattr(motion_prompting, "COUNTS", (1, 4))
    monkeypatch.setattr(motion_prompting, "DRAFTED", 4)
    monkeypatch.setattr(motion_prompting, "BATCH", 2)
    text, results = motion_prompting.table(str(folder), 3, 7, 2, str(tmp_path / "out"))
    assert text.startswith("3 held-out scenes, 2 steps; of the tracks ")
    assert [line.split(" | ")[0] for line in text.splitlines()[3:8]] == [
        "| 1 track",
        "| 4 tracks",
        "| the first frame, held",
        "| the clip, through the autoencoder",
        "| the first frame's draft, 4 tracks",
    ]
    rows = ("1", "4", "held", "autoencoder", "draft")
    names = [f"{key}_{row}" for row in rows for key in motion_prompting.MEASURES]
    assert sorted(results) == sorted(names)
    assert (tmp_path / "out" / "clip_2.png").is_file()
    with pytest.raises(ValueError, match="makes no video of a picture and tracks"):
        motion_prompting.table(str(tiny_model.save(tmp_path / "base", "base")), 3, 7)


def test_videos_and_folders_of_pictures_take_the_place_of_scenes(tmp_path, monkeypatch, clips):
    editor = editing.load(tiny_model.save(tmp_path / "model", "prompted"))
    monkeypatch.setattr(motion_prompting, "COUNTS", (1, 32))
    pictures = tmp_path / "videos" / "JPEGImages" / "480p" / "bear"
    pictures.mkdir(parents=True)
    for t, frame in enumerate(clips[0].frames):
        Image.fromarray(frame[8:56]).save(pictures / f"{t:05d}.jpg")
    video.write(tmp_path / "videos" / "a.mp4", clips[1].frames, fps=8)
    video.write(tmp_path / "videos" / "short.mp4", clips[1].frames[:3], fps=8)
    shown = motion_prompting.clips_of(tmp_path / "videos", editor, 0, trackers.get("classical"))
    assert [clip.frames.shape for clip in shown] == [(5, 16, 16, 3)] * 2
    assert all(clip.tracks.xy.shape == (32, 5, 2) for clip in shown)
    # 48 rows of 64 columns, whose middle is square: 8 columns are cut off on each side.
    expected = video.resize(clips[0].frames[:5, 8:56, 8:56], (16, 16))
    assert np.abs(shown[1].frames.astype(int) - expected).mean() < 8
    text, _ = motion_prompting.table(str(tmp_path / "model"), 1, 7, 1, videos=str(tmp_path / "videos"))
    assert text.startswith(f"1 videos of {tmp_path / 'videos'}, 1 steps")
    (pictures / "none").mkdir()
    with pytest.raises(ValueError, match="holds no video of 5 frames or more"):
        motion_prompting.clips_of(pictures / "none", editor, 0, trackers.get("classical"))


def test_a_picture_is_animated_by_any_number_of_tracks(tmp_path):
    editor = editing.load(tiny_model.save(tmp_path / "model", "prompted"))
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    told = []
    for count, frames in ((1, 5), (40, 9), (2048, 5)):
        paths = np.random.default_rng(1).uniform(0, 20, (count, frames, 2)).astype(np.float32)
        made = editor.animate(image, Tracks(paths, np.ones((count, frames), bool)), notify=told.append)
        assert made.frames.shape == (5, 20, 24, 3) and made.frames.dtype == np.uint8
    assert told == [
        "the picture is 24x20 and the model works at 16x16: it is resized there and back",
        "the tracks have 9 frames and the model makes 5: they are resampled",
        "the picture is 24x20 and the model works at 16x16: it is resized there and back",
        "the picture is 24x20 and the model works at 16x16: it is resized there and back",
    ]
    assert editor._sample.jitted._cache_size() == 1, "one program serves any number of tracks"
    tracks = Tracks(np.zeros((2049, 5, 2), np.float32), np.ones((2049, 5), bool))
    with pytest.raises(ValueError, match="2049 points, but motion_prompting_tiny tells 2048 apart"):
        editor.animate(image, tracks)
    with pytest.raises(ValueError, match=r"uint8 \[H W 3\]; got float64"):
        editor.animate(image / 255, tracks)
    few = Tracks(paths[:1, :5], np.ones((1, 5), bool))
    assert editor.edit(np.stack([image] * 5), few, few, notify=told.append).frames.shape == (5, 20, 24, 3)
    plain = editing.load(tiny_model.save(tmp_path / "base", "base"))
    with pytest.raises(ValueError, match="base_tiny makes no video of a picture and tracks"):
        plain.animate(image, tracks)


def test_the_released_model_is_small():
    folder = checkpoints.resolve("motion_prompting_tiny")
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000


@pytest.mark.slow
def test_the_released_model_meets_its_goals():
    """As they were set before it was trained; a run on 40 held-out scenes, the same that its config tells of."""
    _, found = motion_prompting.table("motion_prompting_tiny", 40, 7)
    epe = [found[f"epe_{count}"] for count in motion_prompting.COUNTS]
    assert all(fewer > more for fewer, more in itertools.pairwise(epe)), f"EPE falls with every row: {epe}"
    assert found["epe_64"] <= found["epe_held"] / 3
    assert found["psnr_64"] >= found["psnr_held"] + 4
    assert found["psnr_1024"] >= found["psnr_held"] + 6


def test_the_released_model_moves_pictures_along_their_tracks():
    """On a few scenes it is far nearer to the truth than a picture that stands still, and its points go along.

    Only that it works at all: its goals are held by the slow test above.
    """
    editor, tracker = editing.load("motion_prompting_tiny"), trackers.get("classical")
    shown = motion_prompting.scenes(editor, 6, 11, tracker)
    made = motion_prompting.animate(editor, shown, 64, 0, None, iter)
    rows = (made, [motion_prompting.held(clip) for clip in shown])
    own, still = (
        [motion_prompting.score(frames, clip, 64, tracker) for frames, clip in zip(row, shown, strict=True)]
        for row in rows
    )
    gained, epe, epe_still = (
        np.nanmean([each[key] for each in row]) for row, key in ((own, "psnr"), (own, "epe"), (still, "epe"))
    )
    assert gained > np.mean([each["psnr"] for each in still]) + 3
    assert epe < 0.6 * epe_still
