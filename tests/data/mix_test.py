"""Several data sets and several shapes in one stream: proportions, buckets, hosts, and resuming after a kill."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from motionv2v.data.batches import Prepare, mix
from motionv2v.data.scenes.drawn_pairs import SyntheticSource
from motionv2v.data.scenes.pairs import SceneConfig

WIDE, TALL = (5, 8, 16), (5, 16, 8)
PREPARE = Prepare(12)


class Stored:
    """A stored data set of flat clips: sample i of data set `mark` is grey level i, in a shape from `sizes`.

    Which sample a batch holds can be read from its pixels, and which data set from their blue.
    """

    def __init__(self, mark, length, sizes=((6, 9, 20),), with_shapes=False):
        self.mark, self.length, self.sizes = mark, length, sizes
        if with_shapes:
            self.shapes = np.array([sizes[i % len(sizes)] for i in range(length)])

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        frames, height, width = self.sizes[index % len(self.sizes)]
        video = np.full((frames, height, width, 3), index, np.uint8)
        video[..., 2] = self.mark
        tracks = {"xy": np.full((7, frames, 2), 4, np.float32), "visible": np.ones((7, frames), bool)}
        sample = {f"{side}_{name}": value for side in ("source", "target") for name, value in tracks.items()}
        return sample | {"source": video, "target": video, "edited": np.ones(7, bool), "caption": "x", "kind": "stored"}


def scenes(bucket):
    """Give scenes of a bucket's own shape."""
    return SyntheticSource(SceneConfig(num_frames=bucket[0], size=bucket[1:], num_points=3), length=50)


def stream(sources, weights, buckets=(WIDE, TALL), batch_size=4, seed=0, **settings):
    return mix(
        sources, weights, PREPARE, buckets=buckets, num_points=3, batch_size=batch_size, seed=seed, **settings
    )  # fmt: skip


def everything(**settings):
    """Two stored data sets and scenes, in two buckets."""
    sources = {
        "one": Stored(101, 20, ((6, 9, 20), (5, 20, 9)), with_shapes=True),
        "two": Stored(202, 9),
        "synthetic": scenes,
    }
    return stream(sources, {"one": 0.5, "two": 0.25, "synthetic": 0.25}, **settings)


def take(dataset, count):
    batches = iter(dataset)
    return [next(batches) for _ in range(count)]


def indices(batches, mark):
    """List the stored data set's samples in batches, by the grey level of their pixels."""
    clips = [clip for batch in batches for clip in batch["source"]]
    # Drawn scenes are not flat, whatever their blue.
    return [int(c[0, 0, 0, 0]) for c in clips if c[0, 0, 0, 2] == mark and (c == c[0, 0, 0]).all()]


def assert_batches_equal(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_every_batch_is_of_one_bucket_and_holds_the_same_fields():
    shapes = Counter()
    for batch in take(everything(), 40):
        shapes[batch["source"].shape[1:4]] += 1
        bucket = batch["source"].shape[1:4]
        assert batch["source"].shape == batch["target"].shape == (4, *bucket, 3)
        assert batch["source_xy"].shape == batch["target_xy"].shape == (4, 3, 5, 2)
        assert batch["source_visible"].shape == (4, 3, 5) and batch["edited"].shape == (4, 3)
        assert batch["tokens"].shape == (4, 12) and set(batch) & {"caption", "kind"} == set()
        assert {array.dtype.kind for array in batch.values()} <= set("biuf")
    # `one` is half wide, half tall; `two` wide; scenes half and half: 0.25 + 0.25 + 0.125 of the samples are wide.
    assert shapes == {WIDE: 25, TALL: 15}


def test_data_sets_come_in_their_proportions():
    """Without chance, so exactly: of 160 samples a half, a quarter and a quarter."""
    batches = take(everything(), 40)
    counts = [len(indices(batches, mark)) for mark in (101, 202)]
    # Each pair of a data set and a bucket is rounded down or up by itself.
    assert abs(counts[0] - 80) <= 2 and abs(counts[1] - 40) <= 1
    scarce = take(stream({"a": Stored(1, 30), "b": Stored(2, 30)}, {"a": 99.0, "b": 1.0}, buckets=[WIDE]), 50)
    assert len(indices(scarce, 2)) == 2


def test_clips_go_to_their_nearest_bucket():
    """Even samples of `one` are wide, odd ones tall."""
    for batch in take(everything(), 30):
        parity = 0 if batch["source"].shape[1:4] == WIDE else 1
        assert all(index % 2 == parity for index in indices([batch], 101))


def test_every_sample_is_seen_once_before_any_is_seen_twice():
    seen = indices(take(stream({"a": Stored(1, 12), "synthetic": scenes}, {"a": 1.0, "synthetic": 1.0}), 12), 1)
    assert len(seen) == 24 and sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:], "every epoch in an order of its own"


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_out_every_batch(hosts):
    """The hosts' rows, one after the other, are the batch of one host: of one bucket, without overlap in an epoch."""
    parts = [take(everything(batch_size=12 // hosts, host_index=host, host_count=hosts), 20) for host in range(hosts)]
    for rows, expected in zip(zip(*parts, strict=True), take(everything(batch_size=12), 20), strict=True):
        assert_batches_equal({name: np.concatenate([row[name] for row in rows]) for name in expected}, expected)


def test_seed_decides():
    first, again, other = (take(everything(seed=seed), 6) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert_batches_equal(a, b)
    assert [b["source"].shape for b in first] == [b["source"].shape for b in other]
    assert indices(first, 101) != indices(other, 101)


def test_restored_iterator_goes_on_bit_equal():
    expected = take(everything(), 30)
    batches = iter(everything())
    for _ in range(11):
        next(batches)
    # As a checkpoint keeps it.
    state = json.loads(json.dumps(batches.get_state()))
    other = iter(everything())
    other.set_state(state)
    for batch in expected[11:]:
        assert_batches_equal(next(other), batch)


def test_worker_processes_give_the_same_batches():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    expected = take(everything(), 5)
    workers = iter(everything(num_workers=2, prefetch=1))
    try:
        for batch in expected:
            assert_batches_equal(next(workers), batch)
    finally:
        workers.close()


def run_child(folder, num_workers):
    """Read batches for ever: write each, and the state after it, to a file that appears complete."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    folder, batches = Path(folder), iter(everything(num_workers=num_workers, prefetch=1))
    states = sorted(folder.glob("*.json"))
    if states:
        batches.set_state(json.loads(states[-1].read_text()))
    for step in range(len(states), 10**6):
        np.savez(folder / "batch.partial.npz", **next(batches))
        os.replace(folder / "batch.partial.npz", folder / f"{step:06d}.npz")
        (folder / "state.partial").write_text(json.dumps(batches.get_state()))
        os.replace(folder / "state.partial", folder / f"{step:06d}.json")
        time.sleep(0.02)


def run_until(folder, num_workers, count):
    """Let a process of its own read until `count` batches are there, and kill it."""
    code = f"import mix_test as m; m.run_child({str(folder)!r}, {num_workers})"
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.json"))) < count:
        assert child.poll() is None, child.stdout.read().decode()
        assert time.monotonic() < deadline, "the process reads nothing"
        time.sleep(0.01)
    child.kill()
    child.communicate()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_processes_go_on_bit_equal(tmp_path, num_workers):
    """Read by a process that is killed and another that goes on: together the batches of one that nobody disturbed."""
    for count in (7, 15):
        run_until(tmp_path, num_workers, count)
    files = sorted(tmp_path.glob("0*.npz"))
    assert len(files) >= 15
    for file, expected in zip(files, everything(), strict=False):
        with np.load(file) as got:
            assert_batches_equal({name: got[name] for name in got.files}, expected)


class Lame(Stored):
    """A data set of something else."""

    def __getitem__(self, index):
        return {"image": np.zeros(3), "caption": "x"}


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ({}, {}, "given data sets none; weights for none"),
        ({"a": Stored(1, 4)}, {"b": 1.0}, "given data sets a; weights for b"),
        ({"a": Stored(1, 4)}, {"a": 0.0}, "the weight of a is 0.0, expected a positive number"),
        ({"a": Stored(1, 4)}, {"a": float("nan")}, "the weight of a is nan"),
        ({"a": Stored(1, 0)}, {"a": 1.0}, "a has no samples"),
        ({"a": Lame(1, 4)}, {"a": 1.0}, "the samples of a have no source, target, .*; they hold caption, image"),
        ({"a": Stored(1, 4, ((4, 9, 20),))}, {"a": 1.0}, "a: clips of 4 frames fit no bucket: the shortest has 5"),
        ({"a": Stored(1, 2)}, {"a": 1.0}, r"a has 2 samples for the bucket \(5, 8, 16\), fewer than the 3 hosts"),
    ],
)
def test_what_cannot_be_mixed_is_named(sources, weights, message):
    with pytest.raises(ValueError, match=message):
        stream(sources, weights, host_count=3)
