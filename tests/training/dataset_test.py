"""From a config to batches: which tokens, which data sets in which shapes, and what is refused."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import tiny_model
from absl import flags

from motionv2v import backbone, checkpoints, sections
from motionv2v.data import batches, latents, records, stored_pairs, tokenizer
from motionv2v.data.scenes import drawn_pairs, pairs, shapes
from motionv2v.data.videos import files, recipes
from motionv2v.training import dataset, prepare_latents, tasks

RUNS = pytest.mark.parametrize(
    "run", [dataset.make_dataset, lambda config: prepare_latents.write_latents(config, "nowhere", 1)]
)


def pieces_config(kind="control"):
    """A tiny config whose text is T5's: pieces of the vocabulary that `vocabulary` makes."""
    config = tiny_model.config(kind)
    config.text.update({"tokenizer": "sentencepiece", "vocab_size": 200})
    return config


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with a small spiece.model."""
    folder = tmp_path_factory.mktemp("vocabulary")
    words = [
        " ".join([*shapes.SPRITE_COLORS, *shapes.BACKGROUND_COLORS, *shapes.SHAPES]),
        "red disk, blue star, teal .",
    ]
    (folder / "text.txt").write_text("\n".join(words * 20))
    ids = {"bos_id": -1, "pad_id": 0, "eos_id": 1, "unk_id": 2, "pad_piece": "<pad>"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=90, hard_vocab_limit=False,
        minloglevel=2, **ids,
    )  # fmt: skip
    return folder


@RUNS
def test_a_missing_vocabulary_is_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = pieces_config()
    with pytest.raises(ValueError, match=r"no spiece.model in init_from, which names no folder; set data.vocabulary"):
        run(config)
    config.data.vocabulary = "words"
    with pytest.raises(ValueError, match=r"text.tokenizer is 'sentencepiece', but there is no spiece.model in words;"):
        run(config)
    assert list(tmp_path.iterdir()) == []


@RUNS
def test_tokens_that_the_encoder_does_not_know_are_refused(run, vocabulary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = pieces_config()
    config.data.vocabulary, config.text.vocab_size = str(vocabulary), 100
    size = tokenizer.SentencePieceTokenizer(vocabulary / "spiece.model", 4).vocab_size
    with pytest.raises(ValueError, match=rf"'sentencepiece' has {size} tokens, but the text encoder knows 100"):
        run(config)
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_the_vocabulary_it_trains_with(vocabulary, tmp_path):
    """Else its checkpoints could be neither edited with nor exported."""
    config = tiny_model.config("base")
    dataset.copy_vocabulary(config, tmp_path)
    assert not list(tmp_path.iterdir())
    config.text.tokenizer, config.data.vocabulary = "sentencepiece", str(vocabulary)
    dataset.copy_vocabulary(config, tmp_path)
    assert (tmp_path / "spiece.model").read_bytes() == (vocabulary / "spiece.model").read_bytes()


def test_bytes_are_not_taken_for_words(vocabulary, tmp_path):
    """A model that comes with a vocabulary cannot be trained on bytes by a config that forgot to say so."""
    folder = tmp_path / "base"
    shutil.copytree(vocabulary, folder)
    config = tiny_model.config("control")
    config.init_from = (str(folder),)
    with pytest.raises(ValueError, match=r"text.tokenizer is 'bytes', but .*base has a vocabulary .*'sentencepiece'"):
        dataset.make_dataset(config)


def test_training_reads_pieces(vocabulary, tmp_path):
    """Captions through the vocabulary, of `data.vocabulary` or of the model the run starts from; "." where dropped."""
    (tmp_path / "bare").mkdir()
    folders = ("runs/not_there", str(tmp_path / "bare"), str(vocabulary))
    for where in ({"init_from": folders}, {"vocabulary": str(vocabulary)}):
        config = pieces_config()
        config.init_from = where.get("init_from", ())
        config.data.update({"vocabulary": where.get("vocabulary", ""), "caption_dropout": 0.5})
        config.train.batch_size = 16
        tokens = next(iter(dataset.make_dataset(config)))["tokens"]
        reader = tokenizer.SentencePieceTokenizer(vocabulary / "spiece.model", tiny_model.LENGTH)
        source = drawn_pairs.SyntheticSource(dataset.scene_config(config), config.data.seed)
        captions = set(reader.decode(tokens))
        assert tokenizer.NULL_PROMPT in captions and len(captions) > 2
        assert (tokens == reader.end).any(1).all()
        colors = [c.replace(",", " ").split()[0] for c in captions - {tokenizer.NULL_PROMPT}]
        assert set(colors) <= set(shapes.SPRITE_COLORS), captions
        assert dataset.check_tokenizer(config).encode([source[0]["caption"]]).shape == (1, tiny_model.LENGTH)


def test_latents_keep_pieces(vocabulary, tmp_path, monkeypatch):
    """Cached tokens and the null caption's come from the vocabulary, and the folder remembers which one it was."""
    monkeypatch.setattr(prepare_latents, "SHARD", 4)
    config = pieces_config()
    config.init_from = (str(tiny_model.save(tmp_path / "vae", "vae")),)
    config.data.vocabulary = str(vocabulary)
    folder = prepare_latents.write_latents(config, tmp_path / "latents", 4, say=lambda line: None, batch_size=4)
    cached, reader = latents.LatentSource(folder), dataset.check_tokenizer(config)
    source = drawn_pairs.SyntheticSource(dataset.scene_config(config), config.data.seed)
    for index in range(4):
        np.testing.assert_array_equal(cached[index]["tokens"], reader.encode([source[index]["caption"]])[0])
        np.testing.assert_array_equal(cached[index]["null_tokens"], reader.encode([tokenizer.NULL_PROMPT])[0])
    config.text.tokenizer = "bytes"
    config.text.vocab_size = 259
    with pytest.raises(ValueError, match=r"made with other settings \(vocabulary_sha256\)"):
        prepare_latents.write_latents(config, folder, 4, say=lambda line: None)


def test_swapped_pairs_take_their_first_frames_along(tmp_path, monkeypatch):
    """With latents of first frames a swapped sample is the other pair whole, and not half of each."""
    monkeypatch.setattr(prepare_latents, "SHARD", 2)
    config = tiny_model.config()
    config.init_from = (str(tiny_model.save(tmp_path / "vae", "vae")),)
    config.method.first_frame_latents = True
    config.data.update({"latents": str(tmp_path / "latents"), "caption_dropout": 0.0, "swap": 1.0})
    folder = prepare_latents.write_latents(config, None, 2, say=lambda line: None, batch_size=2)
    stored = np.load(folder / "00000.npy")
    batch = next(iter(dataset.make_dataset(config)))
    order = [int(np.flatnonzero((batch["tokens"] == row["tokens"]).all(1))[0]) for row in stored]
    for name, other in (
        ("target", "source_video"),
        ("source_video", "target"),
        ("source_video_first", "target_first"),
        ("target_tracks_first", "source_tracks_first"),
        ("source_tracks", "target_tracks"),
    ):
        for row, place in zip(stored, order, strict=True):
            np.testing.assert_array_equal(batch[f"{name}_latents"][place], row[f"{other}_latents"], err_msg=name)


def mixed_config(**data):
    config = tiny_model.config("control")
    config.data.update(data)
    return config


def test_without_a_mix_scenes_are_drawn_as_ever():
    config = mixed_config()
    source = drawn_pairs.SyntheticSource(dataset.scene_config(config), config.data.seed)
    transform = batches.Prepare(tiny_model.LENGTH, config.data.caption_dropout)
    expected = next(iter(batches.make_dataset(source, transform, batch_size=2, seed=config.data.seed)))
    got = next(iter(dataset.make_dataset(config)))
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def stored(folder, split):
    """Stand for a stored data set of 8 pairs of 9 frames of 20x40, all black."""
    scene = pairs.SceneConfig(num_frames=9, size=(20, 40), num_points=9)
    samples = [drawn_pairs.SyntheticSource(scene, 5, split)[i] for i in range(8)]
    for one in samples:
        one["source"], one["target"] = np.zeros_like(one["source"]), np.zeros_like(one["target"])
    return samples


@pytest.fixture
def mixed(monkeypatch):
    """A config that mixes scenes and a stored data set, in two buckets, with six points."""
    monkeypatch.setattr(stored_pairs, "PairSource", stored)
    buckets = ((5, 16, 32), (5, 32, 16))
    return mixed_config(mix=(("synthetic", 0.5), ("some/folder", 0.5)), buckets=buckets, num_points=6)


def test_a_config_mixes_data_sets_in_buckets(mixed):
    """The stored clips are wide, the scenes of both shapes: of 4 samples 3 are wide; 2 are black."""
    batches = [batch for batch, _ in zip(iter(dataset.make_dataset(mixed)), range(16), strict=False)]
    shapes = [batch["source"].shape[1:4] for batch in batches]
    assert shapes.count((5, 16, 32)) == 12 and shapes.count((5, 32, 16)) == 4
    black = sum(int((clip == 0).all()) for batch in batches for clip in batch["source"])
    assert abs(black - 16) <= 1
    assert all(batch["target_xy"].shape == (2, 6, 5, 2) for batch in batches)


def test_a_stored_data_set_is_mixed_in(tmp_path, monkeypatch):
    """Through files: pairs written as ArrayRecord are what the batches hold, cut to their bucket."""
    pytest.importorskip("tensorflow_datasets", reason="needs the extra data: pip install 'motionv2v[data]'")
    from motionv2v.data.videos import beam, job

    scene = pairs.SceneConfig(num_frames=5, size=(16, 32), num_points=9)
    pair_job = job.PairJob(recipes.PairConfig(num_frames=5, size=(16, 32), num_points=9, min_points=1))
    clip = files.Video("grey.mp4", "nowhere", "", "0" * 16, "train")

    def make(video, pair_job):
        made = {}
        for level in range(6):
            pair = pairs.make_pair(scene, 0, level)
            grey = np.full_like(pair.source, 40 * level + 10)
            fields = (grey, grey, pair.source_tracks, pair.target_tracks, pair.edited, f"level {level}", "grey")
            sample = recipes.PairSample(*fields, np.arange(5), np.arange(5))
            made[f"{level}"] = records.encode(sample, video=video.name, fps=24.0)
        report = {**job.empty_report(video), "keys": list(made), "pairs": len(made)}
        return list(made.items()), report

    monkeypatch.setattr(job, "make", make)
    job.ensure(clip, pair_job, tmp_path / "work")
    beam.build([clip], pair_job, tmp_path / "work", tmp_path / "pairs")
    config = mixed_config(mix=((str(tmp_path / "pairs"), 1.0),), size=(16, 16), caption_dropout=0.0)
    batches = [batch for batch, _ in zip(iter(dataset.make_dataset(config)), range(3), strict=False)]
    reader = tokenizer.ByteTokenizer(tiny_model.LENGTH)
    for batch in batches:
        assert batch["source"].shape == batch["target"].shape == (2, 5, 16, 16, 3)
        for level, caption in zip(batch["source"][:, 0, 0, 0, 0], reader.decode(batch["tokens"]), strict=True):
            # Video in 8 bits of luma at a limited range: a grey level may move by one or two.
            assert abs(int(level) - (40 * int(caption.split()[1]) + 10)) <= 2
    levels = {caption for batch in batches for caption in reader.decode(batch["tokens"])}
    assert levels == {f"level {level}" for level in range(6)}, "an epoch is every pair once"


def test_latents_are_made_of_stored_pairs(mixed, tmp_path, monkeypatch):
    """Eight black pairs give twelve samples, their captions whole; the files do not depend on the number of workers."""
    monkeypatch.setattr(prepare_latents, "SHARD", 4)
    mixed.init_from = (str(tiny_model.save(tmp_path / "vae", "vae")),)
    mixed.data.update({"mix": (("some/folder", 1.0),), "buckets": (), "caption_dropout": 1.0})
    said = []
    folder = prepare_latents.write_latents(mixed, tmp_path / "latents", 9, said.append, batch_size=2)
    assert said[0].startswith("memory for encoding 2 pair(s) at once: ")
    assert "3 shards of 4 pairs, 0 there already" in said[1] and "waiting for data, 0 min left" in said[-2]
    assert said[-1].endswith(f"train with --config.data.latents={folder}; leave data.mix out")
    cached = latents.LatentSource(folder)
    captions = {one["caption"] for one in stored("some/folder", "train")}
    # The encoder reads bytes and keeps as many as the text is long.
    read = tokenizer.ByteTokenizer(tiny_model.LENGTH)
    expected = {read.decode(read.encode([caption]))[0] for caption in captions}
    assert len(cached) == 12 and {read.decode(cached[i]["tokens"][None])[0] for i in range(12)} == expected
    black = cached[0]["target_latents"]
    for index in range(12):
        # float16 of what the same network makes of the same black clip, in batches of other rows.
        np.testing.assert_allclose(cached[index]["target_latents"], black, rtol=2**-9, atol=1e-3)
        np.testing.assert_allclose(cached[index]["source_video_latents"], black, rtol=2**-9, atol=1e-3)
    # Four pairs were drawn twice, each time with other points and colours; blobs of points that all hide are alike.
    assert len({cached[i]["source_tracks_latents"].tobytes() for i in range(12)}) > 8
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read flags of their own
    mixed.data.num_workers = 2
    again = prepare_latents.write_latents(mixed, tmp_path / "again", 9, said.append, batch_size=2)
    for path in sorted(folder.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    monkeypatch.setattr(stored_pairs, "PairSource", lambda name, split: stored(name, split)[:7])
    with pytest.raises(ValueError, match=r"made with other settings \(mix\)"):
        prepare_latents.write_latents(mixed, folder, 9, said.append)


def test_latents_are_of_one_shape(mixed, tmp_path):
    with pytest.raises(ValueError, match=r"latents are of one shape, data.num_frames and data.size \(5, 16, 16\)"):
        dataset.samples(mixed)


def test_buckets_alone_are_scenes_of_those_shapes():
    config = mixed_config(buckets=((5, 16, 16), (9, 16, 16)))
    shapes = {b["source"].shape for b, _ in zip(iter(dataset.make_dataset(config)), range(4), strict=False)}
    assert shapes == {(2, 5, 16, 16, 3), (2, 9, 16, 16, 3)}


def test_a_mix_survives_json(mixed, tmp_path):
    """A checkpoint keeps its config as json; the stream made of it is the same."""
    checkpoints.write_config(tmp_path, mixed)
    got, expected = (next(iter(dataset.make_dataset(c))) for c in (checkpoints.read_config(tmp_path), mixed))
    np.testing.assert_array_equal(got["source"], expected["source"])


def test_training_takes_every_bucket(mixed):
    """One set of parameters, batches of both shapes: traced, which is where a shape goes wrong, and not compiled."""
    task, model, key = tasks.make(mixed), backbone.build(mixed), jax.random.key(0)
    params = jax.eval_shape(lambda k: backbone.init_params(k, model), key)
    batches = {b["source"].shape[1:4]: b for b, _ in zip(iter(task.dataset()), range(8), strict=False)}
    assert set(batches) == set(mixed.data.buckets)
    step = jax.value_and_grad(lambda p, batch: task.loss(key, p, batch), has_aux=True)
    for batch in batches.values():
        (loss, _), gradient = jax.eval_shape(step, params, batch)
        assert loss.shape == ()
        assert jax.tree.map(np.shape, gradient) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"mix": (("synthetic", 1.0),), "latents": "some"},
            r"data.latents is 'some' and data.mix .* set data.latents to ''",
        ),
        ({"buckets": ((5, 16, 16),), "latents": "some"}, "data.latents is 'some'"),
        ({"mix": ("synthetic", 0.5)}, r"data.mix is \('synthetic', 0.5\); expected \(\(\"synthetic\", 0.5\), "),
        ({"mix": (("synthetic", 0.5), ("synthetic", 0.5))}, "each data set once"),
        ({"mix": (("synthetic", -1.0),)}, "the weight of synthetic is -1.0, expected a positive number"),
        ({"mix": (("no/such/folder", 1.0),)}, "no/such/folder holds no data set"),
        ({"buckets": (5, 16, 16)}, r"data.buckets is \(5, 16, 16\); expected \(\(T, H, W\), ...\) with T = 4k \+ 1"),
        ({"buckets": ((6, 16, 16),)}, "with T = 4k"),
        ({"buckets": ((5, 16, 24),)}, r"data.buckets has \(5, 16, 24\); expected H and W to be multiples of 16"),
    ],
)
def test_impossible_data_settings_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        dataset.make_dataset(mixed_config(**data))


def test_buckets_hold_the_pieces_that_the_autoencoder_trains_on():
    config = tiny_model.config("vae")
    config.data.buckets = ((5, 16, 8),)
    with pytest.raises(ValueError, match=r"data.buckets has \(5, 16, 8\), smaller than data.crop \(5, 16, 16\)"):
        dataset.make_dataset(config)


def draft_config(**data):
    config = sections.complete(tiny_model.config("draft"))
    config.data.update(data)
    return config


def test_a_method_that_reads_drafts_is_given_them():
    batch = next(iter(dataset.make_dataset(draft_config())))
    assert batch["draft"].shape == batch["source"].shape and batch["draft_hole"].shape == batch["source"].shape[:4]
    source = dataset.scene_source(draft_config())
    assert source.has_drafts and source.real_drafts == 0
    assert dataset.scene_source(draft_config(real_drafts=0.25)).real_drafts == 0.25
    assert not dataset.scene_source(sections.complete(tiny_model.config("control"))).has_drafts


def test_latents_hold_the_draft_and_its_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_latents, "SHARD", 2)
    config = draft_config(latents=str(tmp_path / "latents"))
    config.init_from = (str(tiny_model.save(tmp_path / "vae", "vae")),)
    folder = prepare_latents.write_latents(config, None, 2, say=lambda line: None, batch_size=2)
    sample = latents.LatentSource(folder)[1]
    drawn = dataset.scene_source(config)[1]
    assert sample["draft_latents"].shape == sample["source_video_latents"].shape
    np.testing.assert_allclose(sample["draft_map"][0, ..., 1].mean(), drawn["draft_uncertain"][0].mean(), atol=2e-3)
    task = tasks.make(config)
    batch = jax.tree.map(jnp.asarray, next(iter(task.dataset())))
    loss, _ = task.loss(jax.random.key(0), task.init(jax.random.key(1)), batch)
    assert np.isfinite(loss)
    config.data.real_drafts = 0.5
    with pytest.raises(ValueError, match=r"made with other settings \(real_drafts\)"):
        prepare_latents.write_latents(config, None, 2, say=lambda line: None, batch_size=2)
    config.data.swap = 0.5
    with pytest.raises(ValueError, match=r"data.swap: a pair cannot be swapped: 'draft' has no counterpart"):
        dataset.make_dataset(config)


def test_stored_pairs_have_no_drafts(tmp_path):
    config = draft_config(mix=(("synthetic", 0.5), ("some/folder", 0.5)))
    with pytest.raises(ValueError, match=r"data.mix has 'some/folder', and motionv2v reads drafts"):
        dataset.make_dataset(config)


def test_points_are_dropped_unless_the_config_says_otherwise():
    config = sections.complete(tiny_model.config("control"))
    seen = dataset.scene_source(config)[3]["target_visible"]
    for is_dropped in (True, False):
        config.data.point_dropout = is_dropped
        kept = dataset.samples(config)[3]["target_visible"]
        assert not (kept & ~seen).any() and (kept.sum() < seen.sum()) == is_dropped
