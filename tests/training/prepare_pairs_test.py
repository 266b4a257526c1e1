"""From a folder of good and strange videos to a data set, in one go, killed half-way, and with videos added."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from launching import launch
from strange_videos import encode, make_folder, moving_texture

from configs import motion_prompting_tiny, motionv2v_tiny
from motionv2v import video
from motionv2v.data import records
from motionv2v.data.stored_pairs import PairSource
from motionv2v.data.videos import files, job, recipes
from motionv2v.data.videos.job import PairJob, choose_clips
from motionv2v.data.videos.recipes import PairConfig
from motionv2v.training import dataset, prepare_pairs

pytest.importorskip("tensorflow_datasets", reason="needs the extra data: pip install 'motionv2v[data]'")
# Compression noise on pictures of 32x48 moves points by up to a pixel, so they may come back 1.6 px off.
PAIRS = PairConfig(
    5, (32, 48), 8, 4, {"resample": 1.0}, crop=0.0, grid_points=40, query_times=1, min_change=0.02, max_return=0.05
)
JOB = PairJob(PAIRS, tracker_options=(("mode", "lk"),), pairs_per_clip=2, max_clips=2, draws=8)

RUN = """
import pickle, sys
from motionv2v.training import prepare_pairs
job = pickle.load(open(sys.argv[1], "rb"))
if __name__ == "__main__":
    prepare_pairs.write_pairs("videos", sys.argv[2], job, num_workers=1, preview=0)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of videos and what one run makes of it."""
    folder = tmp_path_factory.mktemp("prepared")
    make_folder(folder / "videos")
    lines = []
    prepare_pairs.write_pairs(folder / "videos", folder / "out", JOB, num_workers=1, preview=2, say=lines.append)
    report = json.loads((folder / "out" / "report.json").read_text())
    return folder, lines, {entry["video"]: entry for entry in report["by_video"]}, report


def stored_bytes(out):
    """The bytes of all files of the data set."""
    return {p.name: p.read_bytes() for p in sorted((out / prepare_pairs.DATASET).rglob("*")) if p.is_file()}


def test_good_and_readable_videos_give_pairs(prepared):
    _, lines, by_video, report = prepared
    used = {name for name, entry in by_video.items() if entry["pairs"]}
    assert used == {"red_dog_01.mp4", "more/cat.mp4", "uneven.mkv", "turned.mp4", "ten_bits.mov", "eight_k.mp4"}, (
        by_video
    )
    assert report["pairs"] == sum(entry["pairs"] for entry in by_video.values()) <= 2 * 2 * len(used)
    assert "videos not used" in lines[-1] and report["other_files"] == {".md": 1, ".txt": 1}


@pytest.mark.parametrize("name, reason", [
    ("twin.mp4", "the same file as red_dog_01.mp4"),
    ("noise.mp4", "not a video file that can be read"),
    ("cut_off.mp4", "no picture can be read (Invalid data"),
    ("empty.mp4", "the file is empty (0 bytes)"),
    ("three.mp4", "no shot of 5 frames in 3 (short: 3)"),
    ("still.mp4", "no shot of 5 frames in 12 (frozen: 12)"),
    ("black.mp4", "no shot of 5 frames in 12 (black: 12)"),
    ("sound.mp4", "no video in this file; it holds audio"),
])  # fmt: skip
def test_each_unused_video_has_its_reason(prepared, name, reason):
    folder, _, by_video, _ = prepared
    assert reason in by_video[name]["reason"] and not by_video[name].get("retry")
    line = next(x for x in (folder / "out" / "report.txt").read_text().splitlines() if x.startswith(f"{name}: "))
    assert line.startswith(f"{name}: not used: ") and reason in line and "Traceback" not in line


@pytest.mark.parametrize("name, note", [
    ("uneven.mkv", "variable frame rate"), ("turned.mp4", "turned upright"), ("ten_bits.mov", "10 bits a colour"),
    ("eight_k.mp4", "7680x4320 made smaller"),
])  # fmt: skip
def test_what_is_peculiar_is_noted(prepared, name, note):
    assert note in " ".join(prepared[2][name]["notes"])


def test_samples_show_the_videos(prepared):
    """Every frame of a stored pair is the frame of the video that the record names."""
    source = PairSource(prepared[0] / "out")
    seen = set()
    for index in range(len(source)):
        record, sample = source.record(index), source[index]
        name = record["video"].decode()
        if name not in ("red_dog_01.mp4", "more/cat.mp4"):
            continue
        seen.add(name)
        frames = video.resize(video.read(prepared[0] / "videos" / name).frames, (32, 48)).astype(int)
        for side in ("source", "target"):
            distance = np.abs(frames[:, None] - sample[side][None]).mean((2, 3, 4))  # [video's frames, T]
            # The texture slides by 0.8 px a frame: neighbours are alike, but the right one is the nearest.
            np.testing.assert_array_equal(distance.argmin(0), record[f"{side}_frames"])
        assert sample["caption"] == ("a cat sleeps" if "cat" in name else "red dog") and record["fps"] == 24
        assert (np.diff(record["target_frames"]) == 1).all()
    assert seen == {"red_dog_01.mp4", "more/cat.mp4"}


def test_tracks_follow_the_texture(prepared):
    """Between frames f and g of the video every point moves by (g - f) times the known step, scaled to the clip."""
    source = PairSource(prepared[0] / "out")
    errors = []
    for index in range(len(source)):
        record, sample = source.record(index), source[index]
        if record["video"] == b"red_dog_01.mp4":
            for side in ("source", "target"):
                visible = sample[f"{side}_visible"]
                rest = sample[f"{side}_xy"] - record[f"{side}_frames"][:, None] * np.array([1.5, 0.5]) / 2
                errors += [np.ptp(xy[seen], axis=0).max() for xy, seen in zip(rest, visible, strict=True) if seen.any()]
    assert np.median(errors) < 0.5 and len(errors) > 10  # pixels


def test_the_contact_sheet_is_a_picture(prepared):
    sheet = cv2.imread(str(prepared[0] / "out" / "contact_sheet.png"))
    assert sheet.shape[0] > 4 * 160 and sheet.std() > 20


def test_a_second_run_makes_nothing(prepared, monkeypatch):
    folder = prepared[0]
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / prepare_pairs.DATASET).rglob("*")}
    monkeypatch.setattr(job, "make", lambda *_: pytest.fail("made again"))
    lines = []
    prepare_pairs.write_pairs(folder / "videos", folder / "out", JOB, num_workers=1, preview=0, say=lines.append)
    assert any("is complete" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_need_another_folder(prepared):
    folder = prepared[0]
    with pytest.raises(ValueError, match=r"made with other settings \(seed\); use an empty folder"):
        pair_job = PairJob(PAIRS, tracker_options=JOB.tracker_options, pairs_per_clip=2, max_clips=2, draws=8, seed=1)
        prepare_pairs.write_pairs(folder / "videos", folder / "out", pair_job)


def test_killed_twice_it_ends_with_the_same_bytes(prepared, tmp_path, repository):
    """A real process, killed while it makes pairs and again while it packs."""
    whole = prepared[0]
    (tmp_path / "videos").symlink_to(whole / "videos")
    (tmp_path / "job").write_bytes(pickle.dumps(JOB))
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", RUN, "job", "out"]
    work = tmp_path / "out" / "work"
    total = len(list((whole / "out" / "work").iterdir()))

    def kill_when(condition):
        child = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
        deadline = time.monotonic() + 300
        while not condition() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        running = child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert running and condition()

    kill_when(lambda: work.is_dir() and len(list(work.glob("*.npz"))) >= 2)
    made = {path: path.stat().st_mtime_ns for path in work.glob("*.npz")}
    assert len(made) < total
    kill_when(lambda: (tmp_path / "out" / ".building").is_dir())
    assert not (tmp_path / "out" / "packed.json").exists()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "nothing is made twice"
    assert stored_bytes(tmp_path / "out") == stored_bytes(whole / "out")
    assert (tmp_path / "out" / "report.txt").read_text() == (whole / "out" / "report.txt").read_text()


def test_added_videos_join_and_the_rest_stays(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared[0] / "videos", tmp_path / "videos")
    shutil.copytree(prepared[0] / "out", tmp_path / "out")
    encode(tmp_path / "videos" / "new.mp4", moving_texture(9), options={"crf": "5"})
    made, make = [], job.make
    monkeypatch.setattr(job, "make", lambda v, pair_job: made.append(v.name) or make(v, pair_job))
    prepare_pairs.write_pairs(tmp_path / "videos", tmp_path / "out", JOB, num_workers=1, preview=0, say=lambda _: None)
    assert made == ["new.mp4"]
    old, new = PairSource(prepared[0] / "out"), PairSource(tmp_path / "out")
    key = lambda source, i: (source.record(i)["video"], source.record(i)["source_xy"].tobytes())  # noqa: E731
    keys = [{key(source, i) for i in range(len(source))} for source in (old, new)]
    assert keys[0] < keys[1] and {name for name, _ in keys[1] - keys[0]} == {b"new.mp4"}


def test_an_unforeseen_failure_is_reported_and_tried_again(tmp_path, monkeypatch):
    video.write(tmp_path / "in" / "a.mp4", moving_texture(1), 24, crf=5)
    found = files.find(tmp_path / "in")[0][0]
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "make_pair", lambda *_, **__: 1 / 0)
        path = job.ensure(found, JOB, tmp_path / "work")
    assert job.read_report(path)["reason"] == "ZeroDivisionError: division by zero"
    assert not job.is_made(found, tmp_path / "work")
    assert job.read_report(job.ensure(found, JOB, tmp_path / "work"))["pairs"] > 0


def test_single_clips_with_dense_tracks_feed_motion_prompting(tmp_path):
    video.write(tmp_path / "videos" / "moving.mp4", moving_texture(num_frames=24), fps=10, crf=2)
    lines = []
    launched = replace(JOB, pairs=replace(PAIRS, size=(32, 32), dense=100))
    prepare_pairs.write_pairs(tmp_path / "videos", tmp_path / "out", launched, num_workers=1, say=lines.append)
    assert "up to 2 clips of 5 frames of 32x32, 100 points each" in lines[0]
    report = (tmp_path / "out" / "report.txt").read_text()
    assert lines[-1].startswith("2 clips in ") and "2 clips from 1 of 1 videos" in report
    source = PairSource(tmp_path / "out")
    assert len(source) == 2 and set(records.CLIP_FIELDS) == set(source.record(0))
    assert 40 < len(source[0]["target_xy"]) <= 100

    config = motion_prompting_tiny.get_config()
    config.data.update({"latents": "", "mix": ((str(tmp_path / "out"), 1.0),), "num_frames": 5, "size": (32, 32)})
    config.data.update({"num_points": 24, "buckets": ()})
    config.data.scene.min_points = 12
    config.train.batch_size = 2
    batch = next(iter(dataset.make_dataset(config)))
    assert batch["target"].shape == (2, 5, 32, 32, 3) and batch["target_xy"].shape == (2, 24, 5, 2)
    used = batch["target_visible"].any(axis=2).sum(axis=1)
    assert (used >= 12).all() and (used <= 24).all()
    with pytest.raises(ValueError, match="holds pairs made with other settings"):
        prepare_pairs.write_pairs(tmp_path / "videos", tmp_path / "out", JOB, num_workers=1)
    edits = motionv2v_tiny.get_config()
    edits.data.update({"latents": "", "mix": config.data.mix, "num_frames": 5, "size": (32, 32)})
    with pytest.raises(ValueError, match=r"single clips with dense tracks, but motionv2v learns from pairs"):
        dataset.make_dataset(edits)


def cross_fade(first, last, prompt, num_frames, seed):
    """A generator whose result can be tracked: it moves the first frame's picture sideways."""
    assert "dancing bear" in prompt
    frames = np.stack([np.roll(first, 2 * t, axis=1) for t in range(num_frames)])
    frames[-1] = last
    return frames


def test_a_generator_makes_the_frames_between_two_frames(tmp_path):
    video.write(tmp_path / "in" / "dancing_bear.mp4", moving_texture(1), 24, crf=5)
    found = files.find(tmp_path / "in")[0][0]
    pairs = replace(JOB.pairs, recipes={"interpolate": 1.0}, max_return=0.1, min_returned=0.1, min_points=1)
    pair_job = replace(JOB, pairs=pairs, generator="fade", open_generator={"fade": cross_fade}.get)
    pair_job.check()
    assert pair_job.settings()["generator"] == "fade" and "open_generator" not in pair_job.settings()
    made, report = job.make(found, pair_job)
    assert made, report
    kinds = {record["kind"] for _, record in made}
    assert kinds == {"interpolate"}
    with pytest.raises(ValueError, match="generator='fade' needs open_generator"):
        replace(pair_job, open_generator=None).check()


def test_the_reports_tell_of_captions_that_are_altered_or_not_used(tmp_path):
    """Also of a result that another run made: how a caption is written may change while its words stay."""
    video.write(tmp_path / "in" / "owl.mp4", moving_texture(1), 24, crf=5)
    for encoding, note in (("cp1252", " read as cp1252"), ("utf-8", "")):
        (tmp_path / "in" / "captions.csv").write_bytes("owl,été\nwol,a stray\n".encode(encoding))
        prepare_pairs.write_pairs(tmp_path / "in", tmp_path / "out", JOB, num_workers=1, preview=0, say=lambda _: None)
        lines = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8").splitlines()
        assert "caption not used: captions.csv line 2 (wol): names no video" in lines
        owl = next(line for line in lines if line.startswith("owl.mp4: "))
        assert ("caption of captions.csv line 1 (owl)" + note in owl) == bool(note), owl
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["captions_not_used"] == ["captions.csv line 2 (wol): names no video"]
    assert PairSource(tmp_path / "out")[0]["caption"] == "été"


def test_no_pairs_at_all_is_an_error_that_points_to_the_report(tmp_path):
    video.write(tmp_path / "in" / "still.mp4", moving_texture(step=(0, 0)), 24)
    with pytest.raises(ValueError, match=r"not one of 1 videos gave a pair; .*report.txt says why"):
        prepare_pairs.write_pairs(tmp_path / "in", tmp_path / "out", JOB, num_workers=1, say=lambda _: None)


@pytest.mark.parametrize("shots, longest, most, clips", [
    ([range(0, 10), range(12, 40)], 12, 9, [range(0, 10), range(12, 24), range(24, 36)]),
    ([range(0, 100)], 10, 2, [range(20, 30), range(70, 80)]),
    ([range(3)], 10, 5, []),
])  # fmt: skip
def test_clips_are_cut_from_shots_and_spread(shots, longest, most, clips):
    assert choose_clips(shots, 5, longest, most) == clips
    if clips == [range(20, 30), range(70, 80)]:
        assert choose_clips(shots, 5, longest, 10)[3] == range(30, 40)


@pytest.mark.parametrize("settings, message", [
    ({"size": "480"}, "size must be HEIGHTxWIDTH such as 480x720, given '480'"),
    ({"size": "33x48"}, "size must be even numbers of at least 16 pixels"),
    ({"tracker_mode": "best"}, "unknown mode 'best' of the classical tracker"),
    ({"tracker": "best"}, "unknown tracker 'best'"),
    ({"max_clips": 0}, "max_clips must be at least 1, given 0"),
])  # fmt: skip
def test_bad_settings_are_named_before_any_work(settings, message):
    given = {
        "size": "32x48",
        "num_points": 4,
        "num_frames": 5,
        "tracker": "classical",
        "tracker_mode": "lk",
        **settings,
    }
    with pytest.raises(ValueError, match=message):
        prepare_pairs.make_job(**given).check()


def test_the_launcher_says_what_is_wrong_in_one_line(tmp_path):
    child = launch("prepare", "--videos=missing", "--out=out", "--tracker_mode=lk", cwd=tmp_path)
    assert child.returncode == 2 and "Traceback" not in child.stderr
    assert child.stderr.strip().splitlines()[-1] == "prepare: missing is not there; expected a folder of videos"
