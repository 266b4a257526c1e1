"""The editor: clips of any shape in and back out, seeds, advice, and checkpoints that are not for editing."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from motionv2v import checkpoints, editing, parameters, render, video
from motionv2v.editing import loaded_model
from motionv2v.tracks import Tracks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def editor(folder):
    return editing.load(str(folder))


@pytest.fixture
def copying(editor, monkeypatch):
    """An editor whose model gives back the source that it gets, and the calls that were made of it."""
    calls = []

    def generate(key, batch, tokens, **options):
        calls.append({"key": jax.random.key_data(key), "batch": batch, "tokens": tokens, **options})
        return batch["source"]

    monkeypatch.setattr(editor, "generate", generate)
    return editor, calls


def case(num_frames=5, size=(16, 16), num_points=2, seed=0, fps=12.5):
    """Make a clip of noise and points that move to the right in the source and down in the target."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)
    start = rng.uniform(0.2, 0.8, (num_points, 1, 2)) * np.array(size[::-1])
    steps = np.arange(num_frames, dtype=np.float32)[:, None]
    visible = np.ones((num_points, num_frames), bool)
    source, target = (Tracks((start + steps * np.array(by)).astype(np.float32), visible) for by in ((1, 0), (0, 1)))
    return video.Clip(frames, fps), source, target


def silent(line):
    raise AssertionError(f"nothing to notify here: {line}")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_load_gives_the_saved_model(editor, folder):
    config, params = checkpoints.load_model(folder)
    assert (editor.num_frames, editor.size) == (5, (16, 16))
    assert editor.config.to_dict() == config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, editor.params, params)


def test_models_of_other_kinds_are_refused_in_one_line(tmp_path):
    folder = tiny_model.save(tmp_path / "model", "vae")
    with pytest.raises(ValueError) as error:
        editing.load(folder)
    assert "has no section 'text', 'dit', 'schedule', 'sample', needed to edit; it has vae" in str(error.value)


def test_a_base_makes_videos_from_text_and_cannot_edit(tmp_path):
    editor = editing.load(tiny_model.save(tmp_path / "model", "base"))
    video = editor.text_to_video(["red disk", "blue star"], num_steps=1)
    assert video.shape == (2, 5, 16, 16, 3)
    assert (video[0] != video[1]).any()
    notices = []
    editor.text_to_video(["red disk dances", "red disk sings"], num_steps=1, notify=notices.append)
    assert len(notices) == 1 and "after 'red disk da' it does not read 'nces'; 1 more" in notices[0]
    tracks = Tracks(np.ones((1, 5, 2), np.float32), np.ones((1, 5), bool))
    with pytest.raises(ValueError, match="base_tiny has no method for edits, only a base: it cannot edit motion"):
        editor.edit(video[0], tracks, tracks)


def test_weights_stay_bfloat16_where_the_model_computes_in_it(tmp_path):
    """Half the memory, and the frames of the same weights widened to float32 first."""
    cfg, params = checkpoints.load_model(tiny_model.save(tmp_path / "first"))
    for section in ("dit", "vae"):
        cfg[section].dtype = "bfloat16"
    editor = editing.load(checkpoints.save_model(tmp_path / "model", cfg, params, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(editor.params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    kept = editor.text_to_video(["red disk"], num_steps=2).astype(int)
    widened = editor.with_params(jax.tree.map(lambda x: x.astype(jnp.float32), editor.params))
    difference = np.abs(widened.text_to_video(["red disk"], num_steps=2).astype(int) - kept)
    # Parameters that are not cast before use, such as the norms', meet float32 numbers either way; what is left is one
    # rounding to bfloat16's eight bits here and there, of 255 colours.
    assert difference.mean() < 2


def test_missing_and_foreign_weights_are_named_in_one_line(folder, tmp_path):
    config, params = checkpoints.load_model(folder)
    without = {name: tree for name, tree in params.items() if name != "conditioner"}
    wider = {**params, "conditioner": {"patch_embed": {"kernel": np.zeros((192, 48)), "bias": np.zeros(48)}}}
    for name, tree, message in (
        ("without", without, "conditioner/patch_embed/bias is missing [32]"),
        ("wider", wider, "conditioner/patch_embed/bias is [48], expected [32]"),
    ):
        with pytest.raises(checkpoints.CheckpointError) as error:
            editing.load(str(checkpoints.save_model(tmp_path / name, config, tree)))
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(
        checkpoints.CheckpointError,
        match=rf"no checkpoint 'nowhere'.*a released name \({', '.join(checkpoints.RELEASED)}\)",
    ):
        editing.load("nowhere")


# --- adapting clips --------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_cut_is_told(copying):
    """Two prompts that differ behind what the model reads would give the same video without a word."""
    editor, calls = copying
    notices = []
    for prompt in ("a star dances", "a star danced"):
        editor.edit(*case(), prompt=prompt, notify=notices.append)
    np.testing.assert_array_equal(calls[0]["tokens"], calls[1]["tokens"])
    assert [notice.split("does not read ")[1] for notice in notices] == ["'es'", "'ed'"]


def test_clip_of_the_models_shape_passes_through_untouched(copying):
    editor, calls = copying
    clip, source, target = case()
    out = editor.edit(clip, source, target, prompt="a star", seed=3, num_steps=7, guidance=2.0, notify=silent)
    np.testing.assert_array_equal(out.frames, clip.frames)
    assert out.fps == clip.fps
    (call,) = calls
    assert (call["num_steps"], call["guidance"]) == (7, 2.0)
    np.testing.assert_array_equal(call["key"], jax.random.key_data(jax.random.key(3)))
    np.testing.assert_array_equal(call["tokens"], editor.tokenizer.encode(["a star"]))
    batch = call["batch"]
    np.testing.assert_array_equal(batch["source"][0], clip.frames)
    for side, tracks in (("source", source), ("target", target)):
        # Hidden points fill the number up to 16, so that few shapes are ever compiled.
        assert batch[f"{side}_xy"].shape == (1, 16, 5, 2) and batch[f"{side}_xy"].dtype == np.float32
        np.testing.assert_array_equal(batch[f"{side}_xy"][0, :2], tracks.xy)
        np.testing.assert_array_equal(batch[f"{side}_visible"][0], np.arange(16)[:, None] < [2] * 5)


def test_other_clips_are_adapted_with_a_notice_and_mapped_back(copying):
    """Twelve frames of 24x40: all of them, in windows, resized there and back."""
    editor, calls = copying
    clip, source, target = case(12, (24, 40))
    notices = []
    out = editor.edit(clip, source, target, notify=notices.append)
    assert len(notices) == 2
    assert notices[0].endswith("it is edited in 3 windows that overlap by 1 or more")
    assert "has 12 frames and the model works on 5" in notices[0]
    assert "is 40x24 and the model works at 16x16" in notices[1]
    small = video.resize(clip.frames, (16, 16))
    batch = calls[0]["batch"]
    np.testing.assert_array_equal(batch["source"][0], small)
    # Float32: the ratios 16/40 and 16/24 are not exact.
    np.testing.assert_allclose(batch["source_xy"][0, :2], source.xy * [16 / 40, 16 / 24], rtol=1e-5)
    np.testing.assert_allclose(batch["target_xy"][0, :2], target.xy * [16 / 40, 16 / 24], rtol=1e-5)
    assert out.frames.shape == clip.frames.shape and out.fps == clip.fps
    np.testing.assert_array_equal(out.frames, video.resize(small, (24, 40)))


@pytest.mark.parametrize("num_views", [1, 2])
def test_short_clips_hold_their_last_frame(editor, monkeypatch, num_views):
    calls = []
    monkeypatch.setattr(editor, "sample", lambda key, batch, *_, **__: (calls.append(batch), batch["source"])[1])
    clip, source, target = case(3)
    notices = []
    out = editor.edit(clip, source, target, num_steps=1, num_views=num_views, notify=notices.append)
    assert len(notices) == 1 and "has 3 frames and the model works on 5: the last frame is held" in notices[0]
    np.testing.assert_array_equal(calls[0]["source"][0], clip.frames[[0, 1, 2, 2, 2]])
    np.testing.assert_array_equal(calls[0]["target_xy"][0, :2], target.xy[:, [0, 1, 2, 2, 2]])
    np.testing.assert_array_equal(out.frames, clip.frames)
    assert len(calls) == num_views
    for call in calls[1:]:
        np.testing.assert_array_equal(call["source_visible"].sum(-1) > 0, calls[0]["source_visible"].sum(-1) > 0)


def test_more_than_twenty_points_are_advised_against(copying):
    editor, calls = copying
    clip, source, target = case(num_points=20)
    editor.edit(clip, source, target, notify=silent)
    clip, source, target = case(num_points=21)
    with pytest.warns(UserWarning, match="21 points: the method works best with at most 20"):
        editor.edit(clip, source, target)
    assert calls[1]["batch"]["source_xy"].shape == (1, 32, 5, 2), "they are used all the same"


@pytest.mark.parametrize(("pool", "least", "most"), [("7", 7, 7), ("26", 20, 26), ("64", 64, 64), ("any", 16, 4096)])
def test_no_more_points_than_there_are_colours(copying, pool, least, most):
    """Hidden points that fill the number up to 16 take no colour that there is not; too many are told before."""
    editor, calls = copying
    with editor.config.unlocked():
        editor.config.method.colors, before = pool, editor.config.method.colors
    try:
        assert editor.max_points == most
        num_points = min(least, most)
        clip, source, target = case(num_points=num_points)
        editor.edit(clip, source, target, notify=str)
        given = calls[0]["batch"]["source_xy"][0]
        assert given.shape[0] == min(-(-num_points // 16) * 16, most)
        render.random_colors(jax.random.key(0), len(given), pool)  # enough for all
        with pytest.raises(ValueError, match=rf"an edit of {most + 1} points, but \w+ tells {most} apart"):
            editor.check(most + 1)
    finally:
        editor.config.method.colors = before


@pytest.mark.parametrize("options, message", [
    ({"guidance": float("nan")}, "guidance is nan; expected a finite number of at least 0"),
    ({"guidance": float("inf")}, "guidance is inf"),
    ({"guidance": -1.0}, r"guidance is -1\.0"),
    ({"num_steps": 1001}, r"num_steps must be in 1\.\.1000; got 1001"),
])  # fmt: skip
def test_impossible_settings_are_told_before_anything_is_sampled(copying, options, message):
    editor, calls = copying
    with pytest.raises(ValueError, match=message):
        editor.edit(*case(), **options)
    assert calls == []


def test_arrays_are_clips_of_eight_frames_per_second(copying):
    clip, source, target = case()
    out = copying[0].edit(clip.frames, source, target, notify=silent)
    assert out.fps == 8.0


def test_tracks_that_do_not_fit_are_named(copying):
    editor, calls = copying
    clip, source, target = case()
    _, fewer, _ = case(num_points=1)
    _, longer, _ = case(6)
    infinite = Tracks(np.where(np.arange(5)[:, None] == 2, np.float32(np.nan), source.xy), source.visible)
    for tracks, message in (
        ((source, fewer), r"source has tracks \(2, 5, 2\) and target \(1, 5, 2\)"),
        ((longer, longer), r"tracks must be \[N 5 2\] for a clip of 5 frames; got \(2, 6, 2\)"),
        ((source, infinite), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            editor.edit(clip, *tracks)
    with pytest.raises(ValueError, match=r"uint8 \[T H W 3\]; got float32 \[5, 16, 16, 3\]"):
        # Without the tests' type checks, which would refuse the array first.
        inspect.unwrap(editing.check_tracks)(clip.frames.astype(np.float32), source, target)
    assert calls == []


# --- settings of the sampler -----------------------------------------------------------------------------------------


def test_options_reach_the_sampler(editor, monkeypatch):
    calls = []

    def remember(params, key, batch, tokens, null, **options):
        calls.append(options)
        return np.zeros((len(tokens), 5, 16, 16, 3), np.uint8), True

    monkeypatch.setattr(editor, "_sample", remember)
    batch = {"source": np.zeros((1, 5, 16, 16, 3), np.uint8)}
    tokens = editor.tokenizer.encode(["x"])
    for options in ({}, {"guidance": 3.0, "num_steps": 9}, {"guidance": 1.0}, {"use_control": False}):
        editor.generate(jax.random.key(0), batch, tokens, **options)
    guidances = [tuple(call["settings"].guidance) for call in calls]
    assert guidances == [(1.0, "off"), (3.0, "constant"), (1.0, "off"), (1.0, "off")]
    assert [call["settings"].num_steps for call in calls] == [2, 9, 2, 2]
    assert [call["use_control"] for call in calls] == [True, True, True, False]
    editor.text_to_video(["a", "b"], seed=1)
    assert calls[-1]["use_control"] is False


# --- the model itself ------------------------------------------------------------------------------------------------


def test_same_seed_same_video(editor):
    """One compiled program: the seed decides the noise and colours, and the target's paths reach the result."""
    clip, source, target = case()
    first = editor.edit(clip, source, target, seed=0, notify=silent).frames
    assert first.shape == clip.frames.shape and first.dtype == np.uint8
    assert first.std() > 1, "random weights still draw something"
    np.testing.assert_array_equal(editor.edit(clip, source, target, seed=0, notify=silent).frames, first)
    assert not np.array_equal(editor.edit(clip, source, target, seed=1, notify=silent).frames, first)
    assert not np.array_equal(editor.edit(clip, source, source, seed=0, notify=silent).frames, first)
    other = video.Clip(255 - clip.frames, clip.fps)
    assert not np.array_equal(editor.edit(other, source, target, seed=0, notify=silent).frames, first)


def test_expected_shapes_are_the_saved_ones(editor):
    expected = {path: leaf.shape for path, leaf in parameters.flatten(editor.expected_shapes()).items()}
    assert expected == {path: leaf.shape for path, leaf in parameters.flatten(editor.params).items()}


# --- numbers that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "name", "factor"), [("dit", "patch_embed", np.nan), ("vae", "decoder", 1e30)])
def test_a_sample_that_is_not_finite_is_no_black_video(folder, part, name, factor):
    """Latents that are no numbers, and weights that are finite, but so large that what they decode is not."""
    config, params = checkpoints.load_model(folder)
    params[part][name] = jax.tree.map(lambda x: x * np.float32(factor), params[part][name])
    huge = editing.Editor(config, params, folder)
    with pytest.raises(loaded_model.SampleError) as error:
        huge.text_to_video(["x"], num_steps=1)
    assert "the sample holds values that are not finite" in str(error.value)
    assert "what may help: another number of steps" in str(error.value)
