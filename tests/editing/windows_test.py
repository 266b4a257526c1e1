"""Edits in windows: where they lie, that they are one sample where they meet, and every length of clip."""

import jax
import numpy as np
import pytest
import tiny_model

from configs import motionv2v_cogvideox_5b
from motionv2v import checkpoints, diffusion, editing, sampling, sections, video
from motionv2v.editing import loaded_model, windows
from motionv2v.tracks import Tracks

OPTIONS = ({"num_steps": 1}, {"num_steps": 3, "guidance": 3.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of nine frames, three latents, whose windows share two of them."""
    return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny", num_frames=9)


@pytest.fixture(scope="module")
def editor(folder):
    return editing.load(folder)


def batch(num_frames, count=1, seed=0, size=(16, 16)):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(2, 14, (count, 4, num_frames, 2)).astype(np.float32)
    given = {"source": rng.integers(0, 256, (count, num_frames, *size, 3), dtype=np.uint8)}
    for side, by in (("source", 0), ("target", 2)):
        given |= {f"{side}_xy": xy + by, f"{side}_visible": rng.random((count, 4, num_frames)) < 0.8}
    return given


def cut(given, frames):
    return {name: x[:, frames] if name == "source" else x[:, :, frames] for name, x in given.items()}


def sampled(editor, given, settings=None, plan=None, key=3, done=lambda kind, where: None, **options):
    tokens = editor.tokenizer.encode(["a red disk"] * len(given["source"]))
    settings = settings or editor.settings()
    plan = plan or editor.plan(given["source"].shape[1])
    return editor._windows.sample(jax.random.key(key), given, tokens, settings, plan, done=done, **options)


# --- where windows lie -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 5, 9, 17, 49, 85])
def test_windows_cover_every_length_and_no_more(window):
    for length in range(1, 400):
        laid = windows.plan(length, window)
        assert laid.starts[0] == 0 and all(start % laid.group == 0 for start in laid.starts)
        assert (len(laid.starts) == 1) == (length <= window)
        # Held frames behind the clip's end, only where no window ends with it.
        assert length == laid.stops[-1] or length < window or 0 < laid.stops[-1] - length < laid.group
        covered = np.zeros(laid.stops[-1])
        for start, stop in zip(laid.starts, laid.stops, strict=True):
            covered[start:stop] += 1
        assert (covered > 0).all()
        shared = [before - after for before, after in zip(laid.stops, laid.starts[1:], strict=False)]
        wanted = min(window, 1 + 4 * max(2, laid.latents // 4)) if window > 9 else 1 if window > 1 else 0
        assert all(frames >= wanted for frames in shared)


@pytest.mark.parametrize(("length", "window", "starts"), [
    (17, 17, (0,)),
    (18, 17, (0, 4)),
    (21, 17, (0, 4)),
    (25, 17, (0, 8)),
    (97, 49, (0, 24, 48)),
    (98, 17, (0, 8, 16, 24, 32, 40, 44, 52, 60, 68, 76, 84)),
    (98, 49, (0, 24, 52)),
])  # fmt: skip
def test_where_windows_lie(length, window, starts):
    assert windows.plan(length, window).starts == starts


def test_a_window_shows_the_frames_of_its_latents():
    """Latent k of a clip is its frames 4k-3 to 4k; a window's first one, its first frame alone, is nobody else's."""
    laid = windows.plan(98, 17)
    assert laid.table[0].tolist() == [0, 1, 2, 3, 4]
    assert laid.table[1].tolist() == [26, 3, 4, 5, 6]
    assert laid.table[6].tolist() == [31, 12, 13, 14, 15]
    assert len(laid.sources) == 26 + 11 and laid.sources[laid.table[6]].tolist() == [11, 12, 13, 14, 15]
    for start, places in zip(laid.starts, laid.places, strict=True):
        assert [4 * place for place in places] == list(range(start, start + 17, 4))
    assert laid.frames(11).tolist() == [*range(84, 98), 97, 97, 97]


@pytest.mark.parametrize("window", [1, 5, 9, 17, 49])
def test_weights_of_windows_sum_to_one(window):
    for length in (window, window + 1, window + 9, 3 * window + 2, 200):
        laid = windows.plan(length, window)
        frames, latents = np.zeros(laid.stops[-1]), np.zeros(len(laid.sources))
        for index, start in enumerate(laid.starts):
            frames[start : start + window] += laid.frame_weights()[index]
            latents[laid.table[index]] += laid.latent_weights()[index]
        np.testing.assert_allclose(frames, 1, rtol=1e-6)
        np.testing.assert_allclose(latents[latents > 0], 1, rtol=1e-6)
        assert window == 1 or (latents > 0).all()


def test_weights_rise_and_fall_over_the_overlap():
    """Of nine shared frames each counts a tenth more than the one before; level where a window is alone."""
    weights = windows.plan(25, 17).frame_weights()
    np.testing.assert_allclose(weights[0], [1] * 8 + [n / 10 for n in range(9, 0, -1)], rtol=1e-6)
    np.testing.assert_allclose(weights[1], weights[0][::-1], rtol=1e-6)
    assert windows.plan(17, 17).frame_weights().tolist() == [[1.0] * 17]


def test_what_windows_hold_of_the_hosts_memory():
    """CogVideoX's size: the clip and its edit, one window in floats, the state's latents, three streams a window."""
    config = sections.complete(motionv2v_cogvideox_5b.get_config())
    assert windows.host_bytes(config, 49) == 0
    frame, latent = 480 * 720 * 3, 60 * 90 * 16 * 4
    laid = windows.of_config(config, 1000)
    assert len(laid.starts) == 28 and laid.stops[-1] == 1001
    state = 251 + 27  # of the clip's line of time, and the first latent of each window but one
    expected = frame * (2 * 1000 + 3 * 4 * 49) + 9 * state * latent + 28 * 3 * 13 * latent
    assert windows.host_bytes(config, 1000) == pytest.approx(expected)
    assert expected < 4e9


# --- one sample ------------------------------------------------------------------------------------------------------


def test_a_clip_of_the_models_length_is_one_call_as_ever(editor, monkeypatch):
    """Bit for bit what `sample` gives, and windows have no part in it."""
    monkeypatch.setattr(editor, "_windows", None)
    given, tokens, settings = batch(9), editor.tokenizer.encode(["a red disk"]), OPTIONS[1]
    made = editor.generate(jax.random.key(1), given, tokens, num_views=1, **settings)
    np.testing.assert_array_equal(made, editor.sample(jax.random.key(1), given, tokens, editor.settings(**settings)))


@pytest.mark.parametrize("options", [pytest.param(OPTIONS[0], marks=pytest.mark.slow), OPTIONS[1]])
def test_one_window_is_what_a_model_samples(editor, options):
    """The same clip by the programs of windows; what differs is rounding, here and there to another level of 255."""
    given, tokens = batch(9), editor.tokenizer.encode(["a red disk"])
    settings = editor.settings(**options)
    made = sampled(editor, given, settings).astype(int)
    expected = np.asarray(editor.sample(jax.random.key(3), given, tokens, settings))
    assert np.abs(made - expected).max() <= 1 and (made != expected).mean() < 0.01


def exact(editor, monkeypatch, truth):
    """Let the model know the clip's latents `truth` [G h w z] in the order of the state, and see what it is asked."""
    asked = []

    def predict(params, xt, timestep, text, null, conditions, *, is_guided, use_control):
        number = len(asked) % len(truth)
        asked.append({"xt": xt, "timestep": timestep, "conditions": conditions})
        v = np.asarray(diffusion.v_from_x0(editor.model.schedule, xt, truth[number][None], timestep))
        return (v, v) if is_guided else (v,)

    monkeypatch.setattr(editor._windows, "_predict", predict)
    return asked


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_windows_share_noise_and_every_step(editor, monkeypatch, solver):
    """Latents of one place are the same number in all windows, at the first step and at all that follow."""
    laid = editor.plan(30)
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((len(laid.starts), laid.latents, 2, 2, 16)).astype(np.float32)
    asked = exact(editor, monkeypatch, truth)
    settings = editor.settings(3)._replace(solver=solver)
    states = []
    monkeypatch.setattr(
        editor._windows, "_decode", lambda params, z: (states.append(z), (np.zeros((1, 9, 16, 16, 3)), True))[1]
    )
    sampled(editor, batch(30), settings, laid)
    steps = [asked[n : n + len(truth)] for n in range(0, len(asked), len(truth))]
    assert len(steps) == 3
    for step in steps:
        seen = {}
        for call, places in zip(step, laid.table, strict=True):
            for latent, place in zip(call["xt"][0], places.tolist(), strict=True):
                np.testing.assert_array_equal(seen.setdefault(place, latent), latent)
        assert sorted(seen) == list(range(len(laid.sources)))
    # A later window's first latent starts from the noise of the group that its frame is the last of.
    noise = {
        p: x
        for call, places in zip(steps[0], laid.table[:, 1:], strict=True)
        for p, x in zip(places, call["xt"][0, 1:], strict=True)
    }
    for call, place in zip(steps[0][1:], laid.places[1:, 0], strict=True):
        np.testing.assert_array_equal(call["xt"][0, 0], noise[place])
    # Where windows disagree the sample is between them, by the weights; elsewhere it is what the one window says.
    weights = laid.latent_weights()
    mean = np.zeros((len(laid.sources), 2, 2, 16))
    for index, places in enumerate(laid.table):
        mean[places] += weights[index][:, None, None, None] * truth[index]
    for state, places in zip(states, laid.table, strict=True):
        np.testing.assert_allclose(state[0], mean[places], atol=1e-4)


def test_what_is_shown_on_the_way_is_decoded_where_the_edit_is(editor, monkeypatch):
    """Steps are added in the host's memory; previews are a model's work, and made on the device."""
    devices = []
    monkeypatch.setattr(editor._windows, "_look", lambda params, plan, device, x0: devices.append(device))

    def turns(look):
        look(None)
        return sampling.ALONE

    assert jax.config.jax_default_device is None
    sampled(editor, batch(9), editor.settings(2), turns=turns)
    assert devices == [None]


def test_pictures_of_windows_fade_into_one_another(editor, monkeypatch):
    laid = editor.plan(20)
    levels = iter(np.linspace(-1, 1, len(laid.starts)))
    monkeypatch.setattr(
        editor._windows, "_decode", lambda *_: (np.full((1, 9, 16, 16, 3), next(levels), np.float32), True)
    )
    made = sampled(editor, batch(20), editor.settings(1), laid)[0, :, 0, 0, 0].astype(float)
    levels, expected = np.linspace(-1, 1, len(laid.starts)), np.zeros(laid.stops[-1])
    for index, start in enumerate(laid.starts):
        expected[start : start + 9] += laid.frame_weights()[index] * levels[index]
    np.testing.assert_allclose(made, (expected[:20] + 1) * 127.5, atol=0.51)


def test_each_window_reads_its_own_frames_and_points(editor, monkeypatch):
    """Paths and visibility are cut like frames: what is hidden in a whole window is hidden there. Colours are one's."""
    given, read = batch(21), []
    given["target_visible"][:, 1, 9:] = False
    encode = editor._windows._encode
    monkeypatch.setattr(editor._windows, "_encode", lambda *a: (read.append(a[1:]), encode(*a))[1])
    sampled(editor, given, editor.settings(1))
    laid = editor.plan(21)
    assert laid.starts == (0, 4, 8, 12)
    for index, (key, seen) in enumerate(read):
        assert sorted(seen) == sorted(given)
        for name, expected in cut(given, laid.frames(index)).items():
            np.testing.assert_array_equal(seen[name], expected)
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(read[0][0]))
    assert not read[-1][1]["target_visible"][:, 1].any() and read[-1][1]["target_visible"].any()


def test_guidance_and_step_cache_see_one_sample(editor, monkeypatch):
    calls, predict = [], editor._windows._predict
    monkeypatch.setattr(
        editor._windows, "_predict", lambda *a, **k: (calls.append(k["is_guided"]), predict(*a, **k))[1]
    )
    reuse = (False, False, True, False)
    settings = editor.settings(4, 3.0, reuse)
    told = []
    sampled(editor, batch(13), settings, done=lambda kind, where: told.append((kind, where)))
    count = len(editor.plan(13).starts)
    assert calls == [True] * 3 * count
    expected = windows.pieces(editor.plan(13), settings, 1000)
    assert expected == {"encode": count, "predict": 3 * count, "decode": count}
    assert {kind: sum(kind == k for k, _ in told) for kind in expected} == expected
    assert ("predict", f"step 3 of 3, window 1 of {count}") in told


def test_the_base_alone_has_windows_too(editor):
    made = sampled(editor, batch(13), editor.settings(1), use_control=False)
    assert made.shape == (1, 13, 16, 16, 3)


def test_a_window_that_is_not_finite_is_no_black_picture(folder):
    config, params = checkpoints.load_model(folder)
    params["vae"]["decoder"] = jax.tree.map(lambda x: x * np.float32(1e30), params["vae"]["decoder"])
    with pytest.raises(loaded_model.SampleError, match="not finite, which no video can show"):
        sampled(editing.Editor(config, params, folder), batch(13))


# --- every length ----------------------------------------------------------------------------------------------------


def edit(editor, length, seed=0):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)
    tracks = Tracks(rng.uniform(2, 14, (2, length, 2)).astype(np.float32), np.ones((2, length), bool))
    edited = editor.edit(video.Clip(clip, 12.5), tracks, tracks, num_steps=1, num_views=1, notify=str)
    assert edited.frames.shape == clip.shape and edited.fps == 12.5
    return edited.frames


def test_every_length_of_clip_gives_as_many_frames(editor, monkeypatch):
    """From 1 to 60, with a model that draws the number of each frame that it was given."""
    numbers, read = (
        [],
        lambda batch: np.asarray(batch["source_xy"])[:, 0, :, 0, None, None, None] + np.zeros((16, 16, 3)),
    )
    monkeypatch.setattr(editor, "sample", lambda key, batch, *_, **__: read(batch).astype(np.uint8))
    monkeypatch.setattr(editor._windows, "_encode", lambda params, key, batch: numbers.append(read(batch)))
    monkeypatch.setattr(editor._windows, "_predict", lambda params, xt, *_, **__: (xt,))
    monkeypatch.setattr(editor._windows, "_decode", lambda *_: (numbers.pop(0) / 127.5 - 1, True))
    for length in range(1, 61):
        frames = np.zeros((length, 16, 16, 3), np.uint8)
        xy = np.broadcast_to(np.arange(length, dtype=np.float32)[:, None], (1, length, 2))
        tracks = Tracks(xy, np.ones((1, length), bool))
        edited = editor.edit(frames, tracks, tracks, num_steps=1, num_views=1, notify=str)
        np.testing.assert_array_equal(np.asarray(edited.frames)[:, 8, 8, 1], np.arange(length))


def test_clips_of_all_lengths_run_by_the_same_programs(folder):
    editor = editing.load(folder)
    for length in (1, 8, 9, 10, 13, 30):
        assert edit(editor, length).std() > 1
    sampler = editor._windows
    assert [p.jitted._cache_size() for p in (sampler._encode, sampler._predict, sampler._decode)] == [1, 1, 1]
    assert editor._sample.jitted._cache_size() == 1


@pytest.mark.parametrize("num_views", [1, 2, 8])
def test_progress_tells_every_piece(editor, num_views):
    begun, told = [], []
    tokens = editor.tokenizer.encode(["a red disk"])
    begin = lambda pieces: (begun.append(pieces), lambda kind, where: told.append((kind, where)))[1]  # noqa: E731
    editor.generate(jax.random.key(0), batch(13), tokens, num_steps=1, num_views=num_views, progress=begin)
    assert begun == [dict.fromkeys(("encode", "predict", "decode"), 2 * num_views)]
    assert {kind: sum(kind == k for k, _ in told) for kind in begun[0]} == begun[0]
    of = f"view {num_views} of {num_views}, " if num_views > 1 else ""
    assert told[-3:] == [
        ("predict", f"{of}step 1 of 1, window 2 of 2"),
        ("decode", f"{of}drawing window 1 of 2"),
        ("decode", f"{of}drawing window 2 of 2"),
    ]
    editor.generate(jax.random.key(0), batch(9), tokens, num_steps=1, num_views=1, progress=begin)
    assert len(begun) == 1, "one window is one call"
