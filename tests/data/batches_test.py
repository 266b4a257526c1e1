"""The stream of batches: deterministic, restorable, split over hosts without overlap, the same from any worker."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import grain
import numpy as np
import pytest
from absl import flags

from motionv2v.data import batches, workers
from motionv2v.data.batches import Prepare, make_dataset
from motionv2v.data.scenes.drawn_pairs import SyntheticSource
from motionv2v.data.scenes.pairs import SceneConfig
from motionv2v.data.tokenizer import NULL_PROMPT, ByteTokenizer

SCENES = SyntheticSource(SceneConfig(num_frames=5, size=(8, 8), num_points=4), length=10)


class Numbers:
    """Sample i is {"index": i}."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"index": np.int64(index)}


def indices(stream, count=None):
    """Read `count` batches of Numbers, or all of them."""
    batches = iter(stream)
    return [batch["index"].tolist() for batch, _ in zip(batches, range(count or 10**6), strict=False)]


def assert_batches_equal(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
        assert got[name].dtype == expected[name].dtype


def test_batches_hold_arrays_only():
    batch = next(iter(make_dataset(SCENES, Prepare(12), batch_size=3, seed=0)))
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    tracks, seen = ((3, 4, 5, 2), "float32"), ((3, 4, 5), "bool")
    assert shapes == {
        "source": ((3, 5, 8, 8, 3), "uint8"),
        "target": ((3, 5, 8, 8, 3), "uint8"),
        "source_xy": tracks,
        "target_xy": tracks,
        "source_visible": seen,
        "target_visible": seen,
        "edited": ((3, 4), "bool"),
        "tokens": ((3, 12), "int32"),
    }


def test_restored_iterator_goes_on_bit_equal():
    """Through a state taken midway and across the end of an epoch, with random maps under way."""

    def stream():
        return iter(make_dataset(SCENES, Prepare(12), batch_size=3, seed=4))

    batches = stream()
    for _ in range(2):
        next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(4)]
    other = stream()
    other.set_state(state)
    for batch in expected:
        assert_batches_equal(next(other), batch)


def test_seed_decides_order_and_masks():
    first, again, other = (next(iter(make_dataset(SCENES, Prepare(12), batch_size=4, seed=s))) for s in (1, 1, 2))
    assert_batches_equal(again, first)
    assert any(not np.array_equal(other[name], first[name]) for name in first)


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hosts_share_out_all_samples_without_overlap(hosts):
    """Each host reads its own samples; together all but the fewer-than-`hosts` that would make shares unequal."""
    shares = []
    for host in range(hosts):
        stream = make_dataset(Numbers(23), None, batch_size=1, seed=0, num_epochs=1, host_index=host, host_count=hosts)
        shares.append([index for batch in indices(stream) for index in batch])
    assert {len(share) for share in shares} == {23 // hosts}
    alone = [
        index
        for batch in indices(make_dataset(Numbers(23), None, batch_size=1, seed=0, num_epochs=1))
        for index in batch
    ]
    assert sorted(alone) == list(range(23))
    assert sorted(index for share in shares for index in share) == sorted(alone[: 23 // hosts * hosts])


@pytest.mark.parametrize(("hosts", "num_workers"), [(2, 1), (3, 0), (6, 0)])
def test_batches_do_not_depend_on_the_number_of_hosts(hosts, num_workers):
    """Rows of the hosts, one after the other, are the batch of one host: samples, captions dropped, points dropped.

    13 samples and 12 rows: batches cross the ends of epochs.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    scenes = SyntheticSource(SceneConfig(num_frames=5, size=(8, 8), num_points=4), length=13)
    whole = iter(make_dataset(scenes, Prepare(12), batch_size=12, seed=4))
    shared = {"batch_size": 12 // hosts, "seed": 4, "num_workers": num_workers, "prefetch": 1, "host_count": hosts}
    parts = [iter(make_dataset(scenes, Prepare(12), host_index=host, **shared)) for host in range(hosts)]
    try:
        for _ in range(3):
            rows = [next(part) for part in parts]
            assert_batches_equal({name: np.concatenate([r[name] for r in rows]) for name in rows[0]}, next(whole))
    finally:
        for part in parts:
            part.close()


def test_a_position_fits_another_number_of_hosts_and_workers():
    """Saved by one host without workers, read by two hosts with one worker, and back; also grain's own older states."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    settings = {"batch_size": 2, "seed": 1}
    expected = indices(make_dataset(Numbers(11), None, batch_size=4, seed=1), 9)
    alone = iter(make_dataset(Numbers(11), None, batch_size=4, seed=1))
    assert [next(alone)["index"].tolist() for _ in range(5)] == expected[:5]
    state = json.loads(json.dumps(alone.get_state()))
    hosts = [
        iter(make_dataset(Numbers(11), None, **settings, num_workers=host, host_index=host, host_count=2, prefetch=1))
        for host in range(2)
    ]
    for host in hosts:
        host.set_state(state)
    try:
        for step in range(5, 8):
            assert [int(i) for host in hosts for i in next(host)["index"]] == expected[step]
        assert hosts[0].get_state() == hosts[1].get_state() == {"next_batch": 8}
    finally:
        hosts[1].close()
    old = [
        {"next_index": 8},
        {
            "next_index_in_cycle": 0,
            "iterators_in_use_states": [{"next_index": 4}, {"next_index": 4}],
            "exhausted": [0, 0],
        },
    ]
    for saved in (hosts[0].get_state(), *old):
        alone.set_state(saved)
        assert next(alone)["index"].tolist() == expected[8]
    with pytest.raises(ValueError, match="the saved position of the training data is"):
        alone.set_state({"file": 3})


def test_older_versions_states_are_those_of_grain():
    """What `_position` reads is what grain writes, without workers."""
    plain = iter(grain.MapDataset.range(20).batch(2).to_iter_dataset())
    next(plain)
    assert batches._position(plain.get_state()) == 1


def test_every_epoch_is_shuffled_anew_and_complete():
    epochs = indices(make_dataset(Numbers(8), None, batch_size=8, seed=0), 3)
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    plain = make_dataset(Numbers(7), None, batch_size=3, seed=0, shuffle=False, num_epochs=1)
    assert indices(plain) == [[0, 1, 2], [3, 4, 5]], "the incomplete batch is dropped"


def test_impossible_splits_are_named():
    with pytest.raises(ValueError, match=r"host_index 2 is not in 0\.\.1 \(host_count 2\)"):
        make_dataset(Numbers(8), None, batch_size=1, seed=0, host_index=2, host_count=2)
    with pytest.raises(ValueError, match=r"a batch of 5 .* share is 4 of 9; use a batch size of at most 4"):
        make_dataset(Numbers(9), None, batch_size=5, seed=0, host_count=2)


def test_worker_process_gives_the_same_batches():
    """One real worker: the same batches as in this process (tests/training/resume_test.py resumes with workers)."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def stream(num_workers):
        return iter(make_dataset(SCENES, Prepare(12), batch_size=3, seed=4, num_workers=num_workers, prefetch=1))

    here, worker = stream(0), stream(1)
    try:
        for _ in range(3):
            assert_batches_equal(next(worker), next(here))
    finally:
        worker.close()


def test_workers_end_with_their_parent(monkeypatch):
    """What makes a killed run's workers go away is handed to grain (tests/training/resume_test.py kills such a run)."""
    given = {}

    def remember(self, options, **settings):
        given.update(settings, num_workers=options.num_workers)
        return self

    monkeypatch.setattr(grain.IterDataset, "mp_prefetch", remember)
    next(iter(make_dataset(Numbers(4), None, batch_size=1, seed=0, num_workers=3)))
    assert given == {"worker_init_fn": batches.end_with_parent, "num_workers": 3}


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_workers_leave_signals_to_their_parent():
    """SLURM, Kubernetes and Ctrl-C tell all processes of a group; the workers go on until the run has no more use."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    before = set(multiprocessing.active_children())
    settings = {"batch_size": 1, "seed": 4, "prefetch": 1}
    expected = indices(make_dataset(Numbers(12), None, **settings), 12)
    batches = iter(make_dataset(Numbers(12), None, **settings, num_workers=2))
    try:
        got = [next(batches)["index"].tolist()]
        children = set(multiprocessing.active_children()) - before
        assert len(children) == 2
        for child in children:
            for number in workers.STOPS:
                os.kill(child.pid, number)
        got += [next(batches)["index"].tolist() for _ in range(11)]
    finally:
        batches.close()
    assert got == expected
    for child in children:
        child.join(timeout=60)
    assert not any(child.is_alive() for child in children)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_processes_started_in_a_shield_are_deaf_until_they_say_otherwise():
    code = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"

    def blocked():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return {int(number) for number in child.stdout.split()}

    outside = blocked()
    with workers.shielded():
        assert blocked() == outside | set(workers.STOPS)
    assert blocked() == outside


def sample(num_points=6, num_frames=9):
    visible = np.ones((num_points, num_frames), bool)
    visible[0, :4] = False
    return {"source_visible": visible, "target_visible": visible, "caption": "red disk, teal", "kind": "both"}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_their_rate(share):
    tokenizer, rng = ByteTokenizer(16), np.random.default_rng(0)
    prepare = Prepare(16, caption_dropout=share, point_dropout=False)
    captions = [tokenizer.decode(prepare.random_map(sample(), rng)["tokens"][None])[0] for _ in range(400)]
    assert set(captions) <= {NULL_PROMPT, "red disk, teal"}
    # Four standard deviations of 400 draws.
    assert abs(captions.count(NULL_PROMPT) / 400 - share) <= 4 * np.sqrt(share * (1 - share) / 400)


def test_the_first_caption_that_is_cut_is_told_of_once(monkeypatch):
    monkeypatch.setattr(batches, "_warned", [])
    rng, element = np.random.default_rng(0), {**SCENES[0], "caption": "a grey owl flies"}
    prepare = Prepare(8, caption_dropout=0.0)
    with pytest.warns(UserWarning, match="training captions: .*after 'a grey ' it does not read 'owl flies'") as found:
        for _ in range(3):
            prepare.random_map(element, rng)
    assert len(found) == 1


def test_point_dropout_only_hides_and_the_target_more():
    rng, element = np.random.default_rng(0), sample()
    kept = np.zeros(2)
    for _ in range(200):
        result = Prepare(16).random_map(element, rng)
        for side, name in enumerate(("source_visible", "target_visible")):
            assert not (result[name] & ~element[name]).any(), "a hidden point came into sight"
            kept[side] += result[name].mean()
    assert kept[1] < kept[0] < 200 * element["source_visible"].mean()
    exact = Prepare(16, point_dropout=False).random_map(element, rng)
    np.testing.assert_array_equal(exact["target_visible"], element["target_visible"])
    assert set(exact) == {"source_visible", "target_visible", "tokens"}


def test_hosts_draw_their_own_masks():
    """Two hosts that read the same samples would still drop other captions and points: more variety, same data."""
    copies = [SCENES[0]] * 8
    first, second = (
        next(iter(make_dataset(copies, Prepare(12), batch_size=4, seed=0, host_index=host, host_count=2)))
        for host in range(2)
    )
    np.testing.assert_array_equal(first["source"], second["source"])
    assert not np.array_equal(first["target_visible"], second["target_visible"])


def test_prepare_reads_captions_with_the_tokenizer_it_is_given():
    class Letters:
        """Number the letters."""

        max_length, vocab_size = 5, 27

        def encode(self, captions, notify=None):
            rows = [[ord(c) % 27 for c in caption[:5].ljust(5)] for caption in captions]
            return np.array(rows, np.int32)

        def decode(self, tokens):
            return []

    rng = np.random.default_rng(0)
    for share, expected in ((0.0, "red d"), (1.0, NULL_PROMPT + "    ")):
        got = Prepare(Letters(), caption_dropout=share).random_map(sample(), rng)["tokens"]
        assert got.tolist() == [ord(c) % 27 for c in expected]
