"""Shards of latents on disk: what is written is read back, by random access, in this process and in others."""

import pickle

import numpy as np
import pytest

from motionv2v.data import latents, pipeline

LENGTHS = (3, 5, 2)


def records(first, length):
    """Make `length` records that start with number `first`."""
    rng = np.random.default_rng(first)
    return {
        "target_latents": rng.normal(size=(length, 2, 2, 2, 4)).astype(np.float16),
        "number": np.arange(first, first + length, dtype=np.int32),
        "tokens": rng.integers(0, 259, (length, 6)).astype(np.int32),
        "null_tokens": np.full((length, 6), 49, np.int32),
    }


@pytest.fixture
def folder(tmp_path):
    first = 0
    for index, length in enumerate(LENGTHS):
        latents.write_shard(tmp_path, index, records(first, length))
        first += length
    return tmp_path


def test_shards_round_trip(folder):
    source = latents.LatentSource(folder)
    assert len(source) == sum(LENGTHS)
    first = 0
    for length in LENGTHS:
        expected = records(first, length)
        for row in range(length):
            got = source[first + row]
            assert got.keys() == expected.keys()
            for name in expected:
                np.testing.assert_array_equal(got[name], expected[name][row])
                assert got[name].dtype == expected[name].dtype
        first += length
    with pytest.raises(IndexError):
        source[first]


def test_half_written_shards_do_not_count(folder):
    (folder / "00003.partial").write_bytes(b"half")
    assert len(latents.LatentSource(folder)) == sum(LENGTHS)
    assert sorted(p.suffix for p in folder.iterdir()) == [".npy"] * 3 + [".partial"]


def test_empty_folder_says_what_makes_latents(tmp_path):
    with pytest.raises(ValueError, match=r"no latent shards .* in .*; make them with launch/prepare\.py"):
        latents.LatentSource(tmp_path)


def test_samples_are_copies(folder):
    """A sample that is changed in place leaves the next reader's alone: shards are mapped read-only."""
    source = latents.LatentSource(folder)
    before = source[4]["tokens"].copy()
    source[4]["tokens"][:] = 0
    np.testing.assert_array_equal(source[4]["tokens"], before)


def test_workers_get_the_folder_not_its_contents(folder):
    """A worker process opens the shards itself; pickled by value, a large data set would go through a pipe."""
    source = latents.LatentSource(folder)
    packed = pickle.dumps(source)
    assert len(packed) < 400 < sum(path.stat().st_size for path in folder.iterdir())
    np.testing.assert_array_equal(pickle.loads(packed)[7]["target_latents"], source[7]["target_latents"])


def test_meta_round_trip(tmp_path):
    assert latents.read_meta(tmp_path) is None
    meta = {"vae_sha256": "ab", "data": {"size": [64, 64]}}
    latents.write_meta(tmp_path, meta)
    assert latents.read_meta(tmp_path) == meta
    assert [path.name for path in tmp_path.iterdir()] == [latents.META]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_captions_are_dropped_at_their_rate(share):
    rng, drop = np.random.default_rng(0), latents.Vary(share)
    element = {"tokens": np.arange(4), "null_tokens": np.full(4, 49), "number": np.int32(3)}
    dropped = 0
    for _ in range(400):
        got = drop.random_map(element, rng)
        assert set(got) == {"tokens", "number"}
        assert got["tokens"].tolist() in ([0, 1, 2, 3], [49] * 4)
        dropped += got["tokens"][0] == 49
    # Four standard deviations of 400 draws.
    assert abs(dropped / 400 - share) <= 4 * np.sqrt(share * (1 - share) / 400)


def test_swapped_pairs_change_places_whole():
    """Videos and tracks go together: never the one video with the other's tracks."""
    names = [name for pair in latents.SWAPPED for name in pair]
    element = {name: np.full(2, i) for i, name in enumerate(names)} | {"tokens": np.zeros(1), "null_tokens": np.ones(1)}
    rng, seen = np.random.default_rng(0), []
    for _ in range(200):
        got = latents.Vary(0.0, swap=0.5).random_map(element, rng)
        seen.append(tuple(int(got[name][0]) for name in names))
    assert set(seen) == {(0, 1, 2, 3), (1, 0, 3, 2)}
    # Four standard deviations of 200 draws at one half.
    assert abs(seen.count((0, 1, 2, 3)) - 100) <= 4 * np.sqrt(50)
    assert latents.Vary(0.0).random_map(element, rng)["target_latents"].tolist() == [0, 0]


def test_batches_from_shards(folder):
    stream = pipeline.make_dataset(latents.LatentSource(folder), latents.Vary(0.5), batch_size=5, seed=0, num_epochs=1)
    batches = list(stream)
    assert sorted(np.concatenate([b["number"] for b in batches]).tolist()) == list(range(10))
    assert batches[0]["target_latents"].shape == (5, 2, 2, 2, 4)
    assert batches[0]["target_latents"].dtype == np.float16
