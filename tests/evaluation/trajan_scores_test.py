"""TRAJAN: the published sizes, what its parts may and may not see, files that are refused, and what a reader scores."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from motionv2v import parameters
from motionv2v.convert.tensors import ConvertError
from motionv2v.convert.trajan import load
from motionv2v.evaluation import measures, networks, trajan_scores
from motionv2v.models.features import trajan
from motionv2v.models.features.trajan import Sizes, Trajan
from motionv2v.tracks import Tracks

SMALL = Sizes(12, 5, 6, 4, 8, 10, 30, 10, 1, 2, 4, (8, 8, 8, 8), (1, 2, 1, 2))


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    scale = {path: 1 / np.sqrt(max(1, np.prod(shape[:-1]))) for path, shape in shapes.items()}
    return {path: (scale[path] * rng.normal(size=shape)).astype(np.float32) for path, shape in shapes.items()}


@pytest.fixture(scope="module")
def small():
    """A small network with random weights, and what it is asked."""
    params = parameters.unflatten(draw(trajan.parameter_shapes(SMALL)))
    rng = np.random.default_rng(1)
    xy, visible = rng.random((7, 9, 2)).astype(np.float32), rng.random((7, 9)) < 0.7
    places, frames = rng.random((3, 2)).astype(np.float32), np.array([0, 4, 8])
    return SimpleNamespace(module=Trajan(SMALL), params=params), [xy, visible, places, frames]


def read(network, *asked):
    return trajan.read_off(network.module, network.params, *asked)


def test_the_published_network_has_its_numbers():
    shapes = trajan.parameter_shapes()
    assert len(shapes) == 252 and sum(int(np.prod(shape)) for shape in shapes.values()) == 68_333_080
    assert shapes["query_encoder/kernel"] == (8256, 1024) and shapes["initializer/state_init"] == (128, 512)
    assert shapes["tracks_to_latents/layer_0/cross_att/dense_key/kernel"] == (256, 8, 64)
    assert shapes["input_track_transformer/layer_1/self_att/norm_query/scale"] == (64,)


def test_where_a_point_is_hidden_its_place_says_nothing(small):
    network, (xy, visible, *query) = small
    made, seen = read(network, xy, visible, *query)
    assert made.shape == (3, 9, 2) and seen.shape == (3, 9) and np.isfinite(made).all()
    moved = np.where(visible[..., None], xy, 0.5 - 3 * xy)
    again, _ = read(network, moved, visible, *query)
    np.testing.assert_allclose(again, made, atol=1e-5)
    elsewhere, _ = read(network, np.where(visible[..., None], 1 - xy, xy), visible, *query)
    assert np.abs(elsewhere - made).max() > 1e-4


def test_tracks_have_no_order_and_a_query_stands_alone(small):
    network, (xy, visible, places, frames) = small
    made, _ = read(network, xy, visible, places, frames)
    turned, _ = read(network, xy[::-1], visible[::-1], places[::-1], frames[::-1])
    np.testing.assert_allclose(turned[::-1], made, atol=1e-5)
    many = trajan.QUERIES + 3
    rows = np.arange(many) % 3
    more, _ = read(network, xy, visible, places[rows], frames[rows])
    np.testing.assert_allclose(more, made[rows], atol=1e-5)


def test_a_querys_frame_chooses_channels_of_the_latents(small):
    """By the window that the authors' code cuts out with a shifted identity."""
    network, (_, _, places, frames) = small
    latents = np.random.default_rng(2).uniform(-1, 1, (5, 6)).astype(np.float32)
    bound = network.module.bind({"params": network.params})
    wide = np.asarray(bound.decompress_attn(bound.decompressor(latents)))
    query = bound.query_encoder(bound._waves(np.pad(np.asarray(bound._waves(places)), ((0, 0), (0, 1)))))
    expected = []
    for index, frame in enumerate(frames):
        eye = np.eye(SMALL.window, wide.shape[1], frame * SMALL.stride, dtype=np.float32)
        tokens = np.concatenate([wide, wide @ eye.T], axis=1)
        found = bound.track_readout_attn(np.concatenate([np.asarray(query)[index][None], tokens])[None])[0, 0]
        expected.append(np.asarray(bound.track_predictor(found)).reshape(4, SMALL.frames).T)
    made = network.module.apply({"params": network.params}, latents, places, frames, method="decode")
    np.testing.assert_allclose(np.asarray(made), expected, atol=1e-5)


def test_a_point_is_seen_where_one_of_two_chances_is_likely(small, monkeypatch):
    network, asked = small
    logits = np.zeros((trajan.QUERIES, SMALL.frames, 4), np.float32)
    logits[0, :4, 2:] = [(9, -9), (-9, 9), (-9, -9), (-1.1, -1.1)]  # the last: (1 - .25)^2 = .56
    monkeypatch.setattr(trajan, "_decode", lambda *of: logits)
    assert read(network, *asked)[1][0, :4].tolist() == [True, True, False, False]


def test_clips_longer_than_the_networks_are_refused(small):
    network, (_, _, places, frames) = small
    with pytest.raises(ValueError, match="at most 12 frames, given 13"):
        read(network, np.zeros((1, 13, 2), np.float32), np.ones((1, 13), bool), places, frames)


@pytest.fixture
def published_small(monkeypatch):
    """The published network in the small one's sizes."""
    shapes = trajan.parameter_shapes(SMALL)
    monkeypatch.setattr(trajan, "parameter_shapes", lambda: shapes)
    return draw(shapes)


def test_a_file_is_known_by_its_arrays(published_small, tmp_path):
    np.savez(tmp_path / "any name.npz", **published_small)
    np.savez(tmp_path / "tapnext.npz", **{"backbone/pos_embedding": np.zeros(3)})
    network = load(tmp_path)
    flat = parameters.flatten(network.params)
    assert {path: value.tolist() for path, value in flat.items()} == {
        path: value.tolist() for path, value in published_small.items()
    }
    assert str(network.source).startswith("any name.npz (sha256 ") and str(network.source).endswith("unverified)")
    assert "TRAJAN, any name.npz" in networks.load("trajan", tmp_path).words


def test_what_is_not_the_published_network_is_refused_in_a_line(published_small, tmp_path):
    with pytest.raises(
        ConvertError, match=r"put track_autoencoder_ckpt.npz \(from .*tapnet.*Apache-2.0\) into"
    ) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    path = tmp_path / "a.npz"
    wrong = {
        "other sizes": (
            published_small | {"track_predictor/kernel": np.zeros((30, 44), np.float32)},
            "track_predictor",
        ),
        "less": ({k: v for k, v in published_small.items() if "compressor/bias" not in k}, "compressor/bias"),
        "more": (published_small | {"image/kernel": np.zeros(2, np.float32)}, "image/kernel"),
        "halves": (published_small | {"compressor/bias": np.zeros(6, np.float16)}, "float16, expected float32"),
        "NaN": (published_small | {"compressor/bias": np.full(6, np.nan, np.float32)}, "not finite"),
    }
    for arrays, words in wrong.values():
        np.savez(path, **arrays)
        with pytest.raises(ConvertError, match=words) as error:
            load(tmp_path)
        assert "\n" not in str(error.value)
    whole = path.read_bytes()
    np.savez(path, **published_small)
    path.write_bytes(path.read_bytes()[: len(whole) // 2])
    with pytest.raises(ConvertError, match="is no readable"):
        load(tmp_path)
    np.savez(path, **published_small, **{"x": np.array([{}], object)})
    with pytest.raises(ConvertError, match="pickled"):
        load(tmp_path)


def scored(monkeypatch, answer, found):
    """Score tracks by a reader that answers as it is told, and return what it was asked as well."""
    asked = []

    def read_off(module, params, *of):
        asked.append(of)
        return answer(*of)

    monkeypatch.setattr(trajan, "read_off", read_off)
    network = SimpleNamespace(module=None, params=None)
    return trajan_scores.score(np.random.default_rng(3), network, found, (128, 256)), asked


def test_a_reader_is_scored_on_the_half_that_it_does_not_see(monkeypatch):
    rng = np.random.default_rng(4)
    found = Tracks(rng.uniform(0, 100, (8, 5, 2)).astype(np.float32), rng.random((8, 5)) < 0.8)
    visible = np.array(found.visible)
    visible[5], visible[6] = False, np.arange(5) == 2  # never seen, and seen once: nothing to read off
    found, size = Tracks(found.xy, visible), np.array([256, 128], np.float32)
    perfect = lambda *of: (found.xy[[4, 7]] / size, visible[[4, 7]])  # noqa: E731
    best, [(xy, seen, places, frames)] = scored(monkeypatch, perfect, found)
    assert best == {"trajan_jaccard": 1.0, "trajan_occlusion": 1.0}
    np.testing.assert_allclose(xy, found.xy[:4] / size)
    np.testing.assert_array_equal(seen, visible[:4])
    assert visible[[4, 7], frames].all()
    np.testing.assert_allclose(places, found.xy[[4, 7], frames] / size)
    # 3 pixels of a picture of 256 columns: within 4, 8 and 16 of those thresholds alone.
    off, _ = scored(monkeypatch, lambda *of: ((found.xy[[4, 7]] + (3, 0)) / size, visible[[4, 7]]), found)
    assert off["trajan_jaccard"] == pytest.approx(3 / 5) and off["trajan_occlusion"] == 1
    blind, _ = scored(monkeypatch, lambda *of: (found.xy[[4, 7]] / size, ~visible[[4, 7]]), found)
    assert blind["trajan_jaccard"] == 0 and blind["trajan_occlusion"] == 0
    nothing, asked = scored(monkeypatch, perfect, Tracks(found.xy, np.zeros((8, 5), bool)))
    assert np.isnan(list(nothing.values())).all() and not asked


def test_a_video_is_tracked_all_over_and_cut_to_the_networks_length(small, monkeypatch):
    network, _ = small
    frames, asked = np.zeros((20, 32, 48, 3), np.uint8), []

    class Tracker:
        def track(self, frames, queries):
            asked.append((frames, queries))
            xy = np.repeat(queries[:, None, 1:], len(frames), axis=1)
            return Tracks(xy, np.ones(xy.shape[:2], bool))

    monkeypatch.setattr(trajan_scores, "POINTS", 64)
    found = measures.GROUPS["trajan"].measure(frames, SimpleNamespace(tracker=Tracker(), trajan=network))
    (cut, queries), = asked  # fmt: skip
    assert len(cut) == 12 and queries.shape == (64, 3) and set(queries[:, 0]) <= set(range(12))
    assert (queries[:, 1:].min(0) < (8, 8)).all() and (queries[:, 1:].max(0) > (40, 24)).all()
    assert set(found) == {name for name, metric in measures.METRICS.items() if metric.group == "trajan"}
    assert all(0 <= value <= 1 for value in found.values())


def test_random_numbers_of_jax_have_no_part_in_it(small):
    """Latents are neither rounded nor dithered: the dither would differ between versions."""
    network, asked = small
    first, _ = read(network, *asked)
    jax.config.update("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable)
    try:
        second, _ = read(network, *asked)
    finally:
        jax.config.update("jax_threefry_partitionable", not jax.config.jax_threefry_partitionable)
    np.testing.assert_array_equal(first, second)
