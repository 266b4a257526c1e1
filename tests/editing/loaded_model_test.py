"""Models in memory: the text encoder runs once for each prompt, and lives on the host where the devices are full."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from motionv2v import backbone, editing, parameters
from motionv2v.devices import fit, memory, sharding
from motionv2v.editing import loaded_model
from motionv2v.models import time_tables

GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


def batch(editor):
    rng = np.random.default_rng(0)
    xy = rng.uniform(2, 14, (1, 16, editor.num_frames, 2)).astype(np.float32)
    given = {"source": rng.integers(0, 256, (1, editor.num_frames, *editor.size, 3), dtype=np.uint8)}
    for side, by in (("source", 0), ("target", 2)):
        given |= {f"{side}_xy": xy + by, f"{side}_visible": np.ones((1, 16, editor.num_frames), bool)}
    return given


def counted(editor, monkeypatch):
    """Count the calls of the text encoder."""
    calls, encode = [], editor._encode_text
    monkeypatch.setattr(editor, "_encode_text", lambda *a: calls.append(a) or encode(*a))
    return calls


def test_embeddings_are_those_of_the_text_encoder(folder):
    editor = editing.load(folder)
    tokens = editor.tokenizer.encode(["a red disk", "a star"])
    expected = backbone.embed_text(editor.model, editor.params, jnp.asarray(tokens))
    np.testing.assert_allclose(editor.embed(tokens), expected, rtol=1e-5, atol=1e-6)
    assert "text" in editor.params and "text" not in editor.sampling_params()


def test_a_prompt_is_encoded_once(folder, monkeypatch):
    """Until other parameters come, or so many other prompts that it is forgotten."""
    editor = editing.load(folder)
    calls = counted(editor, monkeypatch)
    tokens = editor.tokenizer.encode(["a red disk"])
    for seed in range(3):
        editor.generate(jax.random.key(seed), batch(editor), tokens, num_steps=1, guidance=2.0, num_views=2)
    assert len(calls) == 2  # the prompt, and what guidance moves away from
    first = editor.embed(tokens)
    editor.with_params(jax.tree.map(lambda x: 2 * x, editor.params))
    assert np.abs(editor.embed(tokens) - first).max() > 1e-3
    calls.clear()
    for index in range(loaded_model.REMEMBERED):
        editor.embed(tokens)
        editor.embed(editor.tokenizer.encode([f"{index}"]))
    assert len(calls) == loaded_model.REMEMBERED
    editor.embed(tokens)
    editor.embed(editor.tokenizer.encode(["0"]))
    assert len(calls) == loaded_model.REMEMBERED + 1 and len(editor._embeddings) == loaded_model.REMEMBERED


def test_batches_of_other_shapes_with_the_same_bytes_are_told_apart(folder):
    editor = editing.load(folder)
    tokens = np.zeros((2, tiny_model.LENGTH), np.int32)
    assert editor.embed(tokens).shape[0] == 2
    assert editor.embed(tokens.reshape(1, -1)[:, : tiny_model.LENGTH]).shape[0] == 1


def test_layers_of_the_time_stay_where_a_training_has_them(folder):
    """On devices only if all of them are there already: else they wait in the host's memory, whole."""
    editor = editing.load(folder)
    placements = []
    for move in (jnp.asarray, np.asarray, lambda x: jnp.asarray(x) if x.ndim == 1 else np.asarray(x)):
        editor.with_params(jax.tree.map(move, editor.params))
        time_layers, _ = time_tables.split(editor.params["dit"])
        on_host = {isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(time_layers)}
        placements.append((editor.placement.time_layers, on_host))
    assert placements == [("devices", {False}), ("visits", {True}), ("visits", {True})]


@pytest.mark.parametrize(
    ("is_stored", "visits"), [(False, True), pytest.param(True, True, marks=pytest.mark.slow), (False, False)]
)
def test_a_text_encoder_without_room_waits_on_the_host(folder, monkeypatch, is_stored, visits):
    """The same video, and its weights are never among the sample's arguments; without room to visit the host runs."""
    expected, got = editing.load(folder), None
    tokens = expected.tokenizer.encode(["a red disk"])
    made = expected.generate(jax.random.key(1), batch(expected), tokens, num_steps=1, guidance=2.0)
    monkeypatch.setattr(fit, "holds_text", lambda *_: False)
    monkeypatch.setattr(fit, "admits_text", lambda *_: visits)
    placed = []
    place = sharding.place
    monkeypatch.setattr(sharding, "place", lambda params, *a, **k: placed.extend(params) or place(params, *a, **k))
    got = editing.Editor(expected.config, expected.params) if is_stored else editing.load(folder)
    assert expected.placement == loaded_model.Placement("visits", "devices")
    assert got.placement == loaded_model.Placement("visits", "visits" if visits else "host")
    assert {type(leaf) for leaf in jax.tree.leaves(got.params["text"])} == {np.ndarray}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got.sampling_params(got.settings(1))))
    np.testing.assert_array_equal(got.generate(jax.random.key(1), batch(got), tokens, num_steps=1, guidance=2.0), made)
    assert {type(leaf) for leaf in jax.tree.leaves(got.params["text"])} == {np.ndarray}
    assert ("text" in placed) == visits


def test_where_the_5b_text_encoder_lives():
    """26 GB of weights in bfloat16 with T5, 16.7 without: they do not fit into 24 GB, with room to work in into 80."""
    from configs import motionv2v_cogvideox_5b

    config = motionv2v_cogvideox_5b.get_config()
    shapes = memory.parameter_shapes(config)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)
    whole, text = parameters.count(params), parameters.count(params["text"])
    assert 2 * whole > 25.5e9 and 2 * (whole - text) < 16.8e9
    fits = {size: fit.holds_text(config, params, available=size * 1e9) for size in (24, 80)}
    assert fits == {24: False, 80: True}
    # 14.7 GB of weights stay on the device during a visit of 9.5.
    assert [fit.admits_text(config, params, available=size * 1e9) for size in (24, 32)] == [False, True]
    # Where the device is the host there is nowhere else to wait.
    assert fit.holds_text(config, params)
