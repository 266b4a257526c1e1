"""The data set that TFDS writes: through Beam and without it, read by name and by PairSource, never with TensorFlow."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from records_test import CONFIG, make_pair

from motionv2v.data import records
from motionv2v.data.stored_pairs import PairSource, find_dataset
from motionv2v.data.videos import job
from motionv2v.data.videos.files import Video
from motionv2v.data.videos.job import PairJob
from motionv2v.data.videos.recipes import PairConfig

pytest.importorskip("tensorflow_datasets", reason="needs the extra data: pip install 'motionv2v[data]'")
JOB = PairJob(PairConfig(CONFIG.num_frames, CONFIG.size, CONFIG.num_points, 1))
VIDEOS = [Video(f"{i}.mp4", "nowhere", "", f"{i:016x}", "test" if i == 3 else "train") for i in range(4)]

BUILD = """
import pickle, sys
from motionv2v.data.videos import beam
videos, job = pickle.load(open(sys.argv[1], "rb"))
for folder, runner in (("streamed", None), ("beamed", "DirectRunner")):
    beam.build(videos, job, "work", folder, runner=runner)
import tensorflow_datasets as tfds
source = tfds.data_source("motion_pairs", data_dir="beamed", split="train")
assert len(source) == 6 and source[5]["source_xy"].shape == (6, 5, 2), source
assert "tensorflow" not in sys.modules and "jax" not in sys.modules, "slow imports"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory, repository):
    """Write results of four videos with two pairs each, and build both data sets from them in another process."""
    folder = tmp_path_factory.mktemp("built")

    def fake(video, pair_job):
        made = [records.encode(make_pair(2 * int(video.id) + k), video=video.name, fps=24) for k in range(2)]
        keys = [f"{video.id}_{k}" for k in range(2)]
        return list(zip(keys, made, strict=True)), {**job.empty_report(video), "keys": keys, "pairs": 2}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "make", fake)
        for video in VIDEOS:
            job.ensure(video, JOB, folder / "work")
    (folder / "job.pickle").write_bytes(pickle.dumps((VIDEOS, JOB)))
    command = [sys.executable, "-c", BUILD, "job.pickle"]
    environment = {"PYTHONPATH": str(repository), "PATH": "", "HOME": str(folder)}
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr[-3000:]
    return folder


def test_beam_and_streaming_write_the_same_bytes(built):
    folders = [find_dataset(built / name) for name in ("streamed", "beamed")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] and any("array_record" in name for name in names[0])
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_records_come_back_whole_and_in_mixed_order(built):
    source = PairSource(built / "streamed")
    stored = [source.record(index) for index in range(len(source))]
    videos = [record["video"].decode() for record in stored]
    assert sorted(videos) == ["0.mp4", "0.mp4", "1.mp4", "1.mp4", "2.mp4", "2.mp4"] and videos != sorted(videos)
    pairs = {pair.source_tracks.xy.tobytes(): pair for pair in (make_pair(index) for index in range(6))}
    for index, record in enumerate(stored):
        sample = source[index]
        pair = pairs.pop(sample["source_xy"].tobytes())
        assert sample["caption"] == pair.caption and sample["source"].shape == (5, 32, 48, 3)
        np.testing.assert_array_equal(sample["target_visible"], pair.target_tracks.visible)
        np.testing.assert_array_equal(sample["edited"], pair.edited)
        assert float(record["fps"]) == 24.0
    assert not pairs


def test_splits_hold_their_own_videos(built):
    test = PairSource(built / "streamed", "test")
    assert [test.record(i)["video"] for i in range(len(test))] == [b"3.mp4"] * 2
    assert len(PairSource(built / "streamed", "train[:50%]")) == 3


def test_features_are_described_with_fixed_shapes(built):
    features = json.loads((find_dataset(built / "streamed") / "features.json").read_text())["featuresDict"]["features"]
    assert set(features) == set(records.FIELDS)
    assert all(features[name]["description"] == field.meaning for name, field in records.FIELDS.items())
    assert features["source_xy"]["tensor"]["shape"] == {"dimensions": ["6", "5", "2"]}


def test_sources_travel_to_worker_processes(built):
    source = pickle.loads(pickle.dumps(PairSource(built / "streamed")))
    assert len(source) == 6 and source[0]["source"].dtype == np.uint8


@pytest.mark.parametrize("where, split, message", [
    ("nothing", "train", r"holds no data set \(dataset_info.json\); launch/prepare.py --videos=DIR --out="),
    ("streamed", "validation", "has no split 'validation'; available: train, test"),
])  # fmt: skip
def test_what_is_not_there_is_named(built, where, split, message):
    with pytest.raises(ValueError, match=message):
        PairSource(built / where, split)
