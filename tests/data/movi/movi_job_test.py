"""From files of MOVi scenes to a data set, in one go, again after a stop, and read back as training does."""

import json

import numpy as np
import pytest
from launching import launch
from movi_scenes_test import H, W, make_world

from motionv2v.data import batches, records
from motionv2v.data.movi import scenes
from motionv2v.data.movi.job import MoviJob
from motionv2v.data.stored_pairs import PairSource
from motionv2v.data.videos.recipes import PairConfig
from motionv2v.training import prepare_pairs

pytest.importorskip("tensorflow_datasets", reason="needs the extra data: pip install 'motionv2v[data]'")


def save_scene(path, scene):
    """Writes a scene as `scenes.load_scene` reads it."""
    flat = {name: value for name, value in scene.items() if not isinstance(value, dict)}
    flat |= {f"{part}/{n}": v for part, values in scene.items() if isinstance(values, dict) for n, v in values.items()}
    np.savez_compressed(path, **flat)


@pytest.fixture(scope="module")
def scene():
    return make_world()[0]


@pytest.fixture(scope="module")
def prepared(scene, tmp_path_factory):
    """Two scenes and a damaged file, and the data set that the launcher makes of them."""
    folder = tmp_path_factory.mktemp("movi")
    (folder / "scenes").mkdir()
    save_scene(folder / "scenes" / "one.npz", scene)
    save_scene(folder / "scenes" / "two.npz", scene | {"video": scene["video"] // 2})
    (folder / "scenes" / "broken.npz").write_bytes(b"PK nothing")
    sizes = ["--size=48x64", "--num_frames=5", "--num_points=16", "--pairs_per_clip=3"]
    child = launch("prepare", "--movi=scenes", "--out=out", *sizes, "--num_workers=1", cwd=folder)
    assert child.returncode == 0, child.stderr[-3000:]
    return folder, child.stdout


def test_scenes_become_a_data_set_with_exact_tracks(scene, prepared):
    folder, text = prepared
    assert "3/3 scenes in" in text and "1 of 3 scenes not used" in text
    report = json.loads((folder / "out" / "report.json").read_text())
    reasons = {entry["video"]: entry["reason"] for entry in report["by_video"]}
    assert "not an .npz file of a scene's arrays" in reasons["broken.npz"] and not reasons["one.npz"]
    assert (folder / "out" / "contact_sheet.png").is_file()
    source = PairSource(folder / "out")
    assert len(source) == report["pairs"] >= 4
    for index in range(len(source)):
        record, sample = source.record(index), source[index]
        assert record["fps"] == 12 and record["video"] in (b"one.npz", b"two.npz") and sample["caption"] == "toys"
        visible, frames = sample["target_visible"], record["target_frames"]
        rows = np.flatnonzero(visible.any(axis=1))
        first = visible[rows].argmax(axis=1)
        at = sample["target_xy"][rows, first]
        followed = scenes.exact_tracks(scene, np.column_stack([frames[first], np.minimum(at, [W - 0.1, H - 0.1])]))
        error = np.linalg.norm(followed.xy[:, frames] - sample["target_xy"][rows], axis=-1)
        # The query is rounded to a pixel's middle, up to 0.7 px away: nearly always the same surface is met there.
        assert np.median(error) < 0.8 and (np.median(error, axis=1) < 1.5).mean() > 0.75
    settings = {"buckets": [(5, 48, 64)], "num_points": 16, "batch_size": 2, "seed": 0}
    batch = next(iter(batches.mix({"movi": source}, {"movi": 1.0}, batches.Prepare(16), **settings)))
    assert batch["source"].shape == (2, 5, 48, 64, 3) and batch["target_xy"].shape == (2, 16, 5, 2)


def test_a_scene_is_one_clip_with_exact_dense_tracks(scene, prepared):
    folder, _ = prepared
    job = MoviJob(PairConfig(5, (48, 64), dense=600))
    [one] = [video for video in job.find(folder / "scenes", folder, 0.0).videos if video.name == "one.npz"]
    made, report = job.make(one)
    assert [len(made), report["pairs"], report["reason"]] == [1, 1, ""]
    record = made[0][1]
    sample, frames = records.decode(record), record["frames"]
    xy, visible = sample["target_xy"], sample["target_visible"]
    assert 400 < len(xy) <= 600 and (np.diff(frames) == 1).all() and sample["caption"] == "toys"
    at = visible[:, 0]
    assert at.sum() > 250, "half of them start in the first frame"
    followed = scenes.exact_tracks(scene, np.column_stack([np.full(at.sum(), frames[0]), xy[at, 0]]))
    error = np.linalg.norm(followed.xy[:, frames] - xy[at], axis=-1)
    # The query is rounded to a pixel's middle, up to 0.7 px away: nearly always the same surface is met there.
    assert np.median(error) < 0.8 and (np.median(error, axis=1) < 1.5).mean() > 0.75


def test_scenes_go_on_where_a_run_stopped_and_end_with_the_same_bytes(prepared, monkeypatch):
    folder, _ = prepared
    out = folder / "out"
    made, make = [], MoviJob.make
    monkeypatch.setattr(MoviJob, "make", lambda job, video: made.append(video.name) or make(job, video))
    names = {"size": "48x64", "num_frames": 5, "num_points": 16, "pairs_per_clip": 3, "max_clips": 4}
    names |= {"tracker": "classical", "tracker_mode": "dis", "generator": "", "prompts": "grammar", "seed": 0}
    job, lines = prepare_pairs.make_job(kind="movi", **names), []

    def run():
        prepare_pairs.write_pairs(folder / "scenes", out, job, num_workers=1, preview=0, say=lines.append)
        return {path.name: path.read_bytes() for path in (out / "motion_pairs").rglob("*") if path.is_file()}

    first = run()
    assert made == [] and any("is complete" in line for line in lines)
    one = next(video for video in job.find(folder / "scenes", out, 0.0)[0] if video.name == "one.npz")
    next((out / "work").glob(f"{one.id}-*.npz")).unlink()
    (out / "packed.json").unlink()
    assert run() == first and made == ["one.npz"]


def test_what_scenes_cannot_give_is_said_before_any_work(prepared):
    folder, _ = prepared
    job = MoviJob(PairConfig(num_frames=9, size=(48, 64)))
    with pytest.raises(ValueError, match=r"its scenes have 6 frames, a pair needs 9; give e\.g\. --num_frames=5"):
        job.find(folder / "scenes", folder, 0.0)
    with pytest.raises(ValueError, match=r"holds neither dataset_info\.json nor \.npz files"):
        job.find(folder / "out" / "motion_pairs", folder, 0.0)
    with pytest.raises(ValueError, match="is for videos"):
        MoviJob(job.pairs, generator="model", open_generator=len).check()
    with pytest.raises(ValueError, match="needs --out=DIR and one of --videos=DIR, --movi=DIR"):
        prepare_pairs.choose_source("out", videos="a", movi="b")
