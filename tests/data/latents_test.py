"""Shards of latents on disk: what is written is read back, by random access, in this process and in others."""

import pickle

import jax
import numpy as np
import pytest
import tiny_model

from motionv2v import backbone, checkpoints
from motionv2v.data import latents
from motionv2v.data.batches import make_dataset
from motionv2v.methods import fields
from motionv2v.training import dataset, prepare_latents

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


def write_text(folder):
    """Write an embedding [6 3] for each sample, full of its number, and one of -1 for dropped captions."""
    text, first = latents.text_folder(folder), 0
    text.mkdir()
    latents.write_array(text / latents.NULL, np.full((6, 3), -1, np.float16))
    for index, length in enumerate(LENGTHS):
        numbers = np.arange(first, first + length, dtype=np.float16)
        latents.write_array(text / f"{index:05d}.npy", np.broadcast_to(numbers[:, None, None], (length, 6, 3)))
        first += length


def test_embeddings_go_with_their_captions(folder):
    """Also through worker processes (pickled), and dropped captions get the embedding of none."""
    with pytest.raises(ValueError, match=r"no text embeddings \(null.npy, 00000.npy, .*text_embeddings=True"):
        latents.LatentSource(folder, text=True)
    write_text(folder)
    source = pickle.loads(pickle.dumps(latents.LatentSource(folder, text=True)))
    assert "text" not in latents.LatentSource(folder)[0], "folders are read without, too"
    rng = np.random.default_rng(0)
    for index in range(len(source)):
        kept, dropped = (latents.Vary(share).random_map(source[index], rng) for share in (0.0, 1.0))
        assert set(kept) == set(dropped) == {"target_latents", "number", "tokens", "text"}
        np.testing.assert_array_equal(kept["text"], np.full((6, 3), index))
        np.testing.assert_array_equal(dropped["text"], np.full((6, 3), -1))
        assert dropped["tokens"].tolist() == [49] * 6


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


BOTH = ("source_video", "source_tracks", "target_tracks")


@pytest.mark.parametrize("first_frames", [False, True])
def test_swapped_pairs_change_places_whole(first_frames):
    """Videos and tracks go together, the latents of their first frames too: never the one with the other's."""
    streams = [*BOTH, *(f"{name}_first" for name in BOTH if first_frames)] + ["target_first"] * first_frames
    pairs = [("target", "source_video"), ("target_tracks", "source_tracks")]
    pairs += [("target_first", "source_video_first"), ("target_tracks_first", "source_tracks_first")] * first_frames
    places = {name: index for index, pair in enumerate(pairs) for name in pair}
    element = {f"{name}_latents": np.array([name.startswith("source"), place]) for name, place in places.items()}
    element |= {"tokens": np.zeros(1), "null_tokens": np.ones(1)}
    swapped = tuple((f"{a}_latents", f"{b}_latents") for a, b in fields.swapped(streams))
    rng, swaps = np.random.default_rng(0), 0
    for _ in range(200):
        got = latents.Vary(0.0, 0.5, swapped).random_map(element, rng)
        is_swapped = bool(got["target_latents"][0])
        for name, place in places.items():
            # The first frame of the target is read by nobody, and keeps its place.
            moves = is_swapped and name != "target_first"
            assert got[f"{name}_latents"].tolist() == [name.startswith("source") != moves, place], name
        swaps += is_swapped
    # Four standard deviations of 200 draws at one half.
    assert abs(swaps - 100) <= 4 * np.sqrt(50)
    assert latents.Vary(0.0).random_map(element, rng)["target_latents"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "streams", [("target_tracks",), ("source_video", "target_tracks"), (*BOTH, "marks"), (*BOTH, "source_video_first")]
)
def test_pairs_that_cannot_be_swapped_are_errors(streams):
    """As those stored before the target's first frame was: half of two pairs would be trained on."""
    with pytest.raises(ValueError, match="cannot be swapped"):
        fields.swapped(streams)


def test_conditions_are_stored_and_found_again():
    given = {"videos": {"a": 1, "b": 2}, "maps": {"m": 3}}
    stored = latents.stored(given)
    assert stored == {"a_latents": 1, "b_latents": 2, "m_map": 3}
    assert latents.conditions({**stored, "target_latents": 0}, given) == given
    with pytest.raises(ValueError, match="hold no m_map, which the method needs, but a_latents, b_latents"):
        latents.conditions({"a_latents": 1, "b_latents": 2}, given)


def test_batches_from_shards(folder):
    stream = make_dataset(latents.LatentSource(folder), latents.Vary(0.5), batch_size=5, seed=0, num_epochs=1)
    batches = list(stream)
    assert sorted(np.concatenate([b["number"] for b in batches]).tolist()) == list(range(10))
    assert batches[0]["target_latents"].shape == (5, 2, 2, 2, 4)
    assert batches[0]["target_latents"].dtype == np.float16


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Latents of 6 pairs in shards of 2 with embeddings, by one process that was asked for the latents alone first."""
    folder = tmp_path_factory.mktemp("prepared")
    config = tiny_model.config("control")
    config.init_from = (str(tiny_model.save(folder / "model")),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 2)
        quiet = {"say": lambda line: None, "batch_size": 2}
        prepare_latents.write_latents(config, folder / "alone", 6, **quiet)
        before = contents(folder / "alone")
        config.data.text_embeddings = True
        prepare_latents.write_latents(config, folder / "alone", 6, **quiet)
        assert {name: contents(folder / "alone")[name] for name in before} == before, "latents that exist stay valid"
        patch.setenv("JAX_NUM_PROCESSES", "2")
        for index in (1, 0):
            patch.setenv("JAX_PROCESS_ID", str(index))
            prepare_latents.write_latents(config, folder / "shared", 6, **quiet)
    config.data.latents = str(folder / "alone")
    return folder, config


def test_files_do_not_depend_on_the_number_of_processes(prepared):
    folder, _ = prepared
    alone = contents(folder / "alone")
    assert set(alone) == {
        f"{d}{n}" for d in ("", "text/") for n in ("00000.npy", "00001.npy", "00002.npy", "meta.json")
    } | {"text/null.npy"}
    assert contents(folder / "shared") == alone


def test_shards_that_are_there_are_kept(prepared, monkeypatch):
    """Process 1 of 2 has shard 1 alone; what is missing is made again, byte for byte, and nothing else is touched."""
    folder, config = prepared
    monkeypatch.setattr(prepare_latents, "SHARD", 2)
    alone, said = contents(folder / "shared"), []
    (folder / "shared/text/00001.npy").unlink()
    (folder / "shared/text/00002.npy").unlink()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    prepare_latents.write_latents(config, folder / "shared", 6, said.append, batch_size=2)
    assert "1 shards of 2 pairs of process 1 of 2, 1 there already" in said[1] and "of 1 shards written" in said[2]
    assert not (folder / "shared/text/00002.npy").exists(), "that is process 0's"
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    monkeypatch.delenv("JAX_PROCESS_ID")
    prepare_latents.write_latents(config, folder / "shared", 6, said.append, batch_size=2)
    assert contents(folder / "shared") == alone


def test_training_reads_what_the_text_encoder_would_say(prepared):
    _, config = prepared
    config.train.batch_size = 4
    batch = next(iter(dataset.make_dataset(config)))
    assert batch["text"].shape == (4, tiny_model.LENGTH, 8) and "null_text" not in batch
    model = backbone.build(config)
    _, params = checkpoints.load_model(config.init_from[0])
    expected = jax.jit(lambda p, tokens: backbone.embed_text(model, p, tokens))(params, batch["tokens"])
    # Stored as float16, 11 bits.
    np.testing.assert_allclose(batch["text"].astype(np.float32), expected, rtol=2**-11, atol=1e-6)
    assert np.ptp(batch["text"]) > 0.1


def test_embeddings_of_a_text_encoder_that_trains_are_refused(prepared):
    folder, config = prepared
    base = tiny_model.config("base")
    base.data.update({"latents": str(folder / "alone"), "text_embeddings": True})
    with pytest.raises(
        ValueError, match=r"text_embeddings is set, but optim.schedule trains the text encoder \(\(text"
    ):
        dataset.make_dataset(base)
    base.data.latents = ""
    with pytest.raises(ValueError, match=r"data.text_embeddings needs data.latents"):
        dataset.make_dataset(base)
    other = config.copy_and_resolve_references()
    other.init_from = ()
    with pytest.raises(ValueError, match=r"none of init_from=\(\) holds a VAE"):
        prepare_latents.write_latents(other, folder / "alone", 6)
