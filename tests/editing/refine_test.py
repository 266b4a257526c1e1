"""Drafts refined by bases that were never trained for edits: clocks, what is held, what stays, and from files."""

import functools
import hashlib
import itertools
import json

import jax
import moving_square
import numpy as np
import pytest
import tiny_model
from launching import launch
from safetensors.numpy import save_file

from motionv2v import backbone, checkpoints, draft, sampling, video
from motionv2v.convert import ConvertError, lora
from motionv2v.devices import fit, memory
from motionv2v.editing import refine, windows
from motionv2v.editing.refine import Clocks, Provenance
from motionv2v.tracks import Tracks

SIZE = (40, 56)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("models") / "base", "base")


@pytest.fixture(scope="module")
def refiner(base):
    return refine.load(base)


def low_rank(path, seed=0):
    """A file of updates of one layer of a base whose width is 32."""
    rng, name = np.random.default_rng(seed), "transformer.transformer_blocks.1.attn1.to_v"
    halves = {"lora_A": rng.normal(size=(2, 32)), "lora_B": rng.normal(size=(32, 2))}
    save_file({f"{name}.{half}.weight": value.astype(np.float32) for half, value in halves.items()}, path)
    return path


def clip(length=5, seed=0):
    return video.Clip(np.random.default_rng(seed).integers(0, 255, (length, *SIZE, 3)).astype(np.uint8), 8.0)


def drawn(length=5):
    """A draft that shows a part of the clip elsewhere, and made a part up."""
    frames = np.array(clip(length).frames)
    frames[:, 10:20, 20:30] = 128
    layer, hole = np.zeros(frames.shape[:3], int), np.zeros(frames.shape[:3], bool)
    layer[:, 10:20, 20:30] = 1
    hole[:, 25:30, 20:30] = True
    frames[hole] = 99
    return draft.Draft(frames, hole, layer, [[0]], np.where(hole, 1.0, 0.0).astype(np.float32))


def test_every_pixel_of_a_draft_is_from_somewhere():
    found = refine.provenance(clip().frames, drawn())
    assert found.moved[:, 10:20, 20:30].all() and found.moved.sum() == 5 * 100
    assert not found.kept[drawn().hole].any() and found.kept.sum() == found.kept.size - 5 * 150
    doubtful = drawn()
    doubtful.uncertain[2, :5] = 0.8
    assert not refine.provenance(clip().frames, doubtful).kept[2, :5].any()
    nothing = np.zeros((0, *SIZE))
    bare = draft.Draft(clip().frames, nothing.astype(bool), nothing.astype(int), [], nothing.astype(np.float32))
    with pytest.raises(ValueError, match="drawn without its maps"):
        refine.provenance(clip().frames, bare)


def test_clocks_are_laid_by_a_loop_anyone_can_read():
    rng = np.random.default_rng(0)
    kept = rng.random((9, 32, 48)) < 0.9995
    moved = np.zeros((9, 32, 48), bool)
    moved[3, 9, 17] = True  # one pixel in one frame of the second latent
    moved[0, 30, 40] = True
    clocks = Clocks(0.1, 0.3, 0.9)
    found = refine.clock_map(Provenance(kept & ~moved, moved), clocks)
    assert found.shape == (3, 4, 6, 1)
    frames_of = [range(1), range(1, 5), range(5, 9)]
    cells = {}
    for t, frames in enumerate(frames_of):
        for y in range(4):
            for x in range(6):
                part = (list(frames), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
                cells[t, y, x] = (moved[part].any(), (kept & ~moved)[part].all())
    for (t, y, x), (is_moved, is_kept) in cells.items():
        around = any(cells.get((t, y + i, x + j), (False,))[0] for i in (-1, 0, 1) for j in (-1, 0, 1))
        expected = 0.3 if is_moved else 0.2 if around else 0.9 if is_kept else 0.0
        assert found[t, y, x, 0] == pytest.approx(expected), (t, y, x)
    assert {round(float(value), 3) for value in np.unique(found)} == {0.0, 0.2, 0.3, 0.9}


def test_a_mask_that_is_made_smaller_keeps_what_moves_and_nothing_that_does_not_stay_whole():
    dot = np.zeros((96, 96), bool)
    dot[40, 50] = True
    moved = refine._shrunk(dot, (32, 32), False)
    assert moved.sum() == 1 and moved[13, 16]
    np.testing.assert_array_equal(refine._shrunk(~dot, (32, 32), True), ~moved)


def test_clocks_mean_the_same_in_any_number_of_steps(refiner):
    schedule = refiner.model.schedule
    signal = np.asarray(schedule.alpha)
    for num_steps in (10, 50, 200):
        first = refine.first_step(schedule, num_steps, 0.12)
        levels = signal[sampling.time_grid(num_steps)]
        assert abs(levels[first] - 0.12) <= np.diff(levels[first - 1 : first + 2]).max() / 2
    assert refine.Clocks() == refine.IMAGE_TO_VIDEO == (0.04, 0.12, 0.98)
    assert refine.first_step(schedule, 50, 0.0) == 0
    assert refine.parse("0.04,0.2") == Clocks(0.04, 0.2)
    for text, message in (
        ("0.1", "clocks are weak,strong, such as 0.04,0.12"),
        ("a,b", "clocks are weak,strong, such as 0.04,0.12"),
        ("0.5,0.2", r"the clocks are weak 0.5, strong 0.2, kept 0.98; expected 0 <= weak <= strong <= kept <= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            refine.parse(text)


@pytest.mark.parametrize("length", [1, 3, 5, 12])
def test_what_the_edit_leaves_alone_stays_the_clips_own(refiner, length):
    said = []
    made = refiner.refine(clip(length), drawn(length), num_steps=4, notify=said.append)
    assert made.frames.shape == (length, *SIZE, 3) and made.fps == 8.0
    far = np.ones(SIZE, bool)
    far[5:35, 15:35] = False
    np.testing.assert_array_equal(made.frames[:, far], clip(length).frames[:, far])
    assert np.abs(made.frames[:, 10:20, 20:30].astype(int) - 128).mean() > 2
    assert any("windows, in turn" in line for line in said) == (length > 5)
    whole = refiner.refine(clip(length), drawn(length), num_steps=4, paste=False, notify=str)
    assert np.abs(whole.frames[:, far].astype(int) - clip(length).frames[:, far]).mean() > 2


def small(count=2, seed=3):
    return np.random.default_rng(seed).integers(0, 255, (count, 5, 16, 16, 3)).astype(np.uint8)


def test_held_to_nothing_is_a_plain_sample_and_held_to_the_end_is_the_reference(refiner):
    tokens = refiner.tokenizer.encode(["a", "b"])
    settings, key = refiner.settings(4), jax.random.key(0)
    free = np.zeros((2, 2, 2, 2, 1), np.float32)
    plain = refiner.sample(key, {}, tokens, settings, use_control=False)
    np.testing.assert_array_equal(refiner.sample_held(key, small(), free, 0, tokens, settings), plain)
    # Not the same program: held to nothing but for a cell that is let go at once.
    nearly = free.copy()
    nearly[0, 0, 0, 0] = 1e-9
    other = np.asarray(refiner.sample_held(key, small(), nearly, 0, tokens, settings))
    assert np.abs(other.astype(int) - plain).max() <= 1
    held = np.asarray(refiner.sample_held(key, small(), free + 1, 0, tokens, settings))
    through = backbone.decode(
        refiner.model, refiner.params, backbone.encode(refiner.model, refiner.params, small() / np.float32(127.5) - 1)
    )
    assert np.abs(held.astype(int) - np.round((np.asarray(through) + 1) * 127.5)).max() <= 1


def test_one_compiled_program_serves_all_clocks_and_starts(refiner):
    tokens, settings = refiner.tokenizer.encode(["a", "b"]), refiner.settings(4)
    made, sizes = [], set()
    for value, start in ((0.2, 0), (0.5, 1), (0.9, 3)):
        clock = np.full((2, 2, 2, 2, 1), value, np.float32)
        made.append(np.asarray(refiner.sample_held(jax.random.key(0), small(), clock, start, tokens, settings)))
        sizes.add(refiner._refine.jitted._cache_size())
    assert len(sizes) == 1
    assert all(np.abs(a.astype(int) - b).max() > 0 for a, b in itertools.pairwise(made))


def untouched(length):
    """The draft of an edit that moves nothing: the clip's own frames."""
    plain = np.zeros((length, *SIZE))
    frames = clip(length).frames
    return draft.Draft(frames, plain.astype(bool), plain.astype(np.int16), [], plain.astype(np.float32))


def test_an_image_to_video_base_is_given_the_first_frame(tmp_path, monkeypatch):
    config = tiny_model.config("base")
    config.dit.in_channels = 32
    params = tiny_model.random_params(memory.parameter_shapes(config))
    folder = checkpoints.save_model(tmp_path / "i2v", config, params, "float32")
    refiner = refine.load(folder)
    assert refiner.reads_image and refiner.clocks == refine.IMAGE_TO_VIDEO
    tokens, settings = refiner.tokenizer.encode(["a", "b"]), refiner.settings(2)
    free = np.zeros((2, 2, 2, 2, 1), np.float32)
    one = refiner.sample_held(jax.random.key(0), small(), free, 0, tokens, settings)
    other = small()
    other[:, 1:] = 0
    np.testing.assert_array_equal(refiner.sample_held(jax.random.key(0), other, free, 0, tokens, settings), one)
    other[:, 0] = 0
    changed = np.asarray(refiner.sample_held(jax.random.key(0), other, free, 0, tokens, settings))
    assert np.abs(changed.astype(int) - one).max() > 0
    given, sample = [], refiner.sample_held

    def note(key, frames, *rest):
        given.append(frames)
        return sample(key, frames, *rest)

    monkeypatch.setattr(refiner, "sample_held", note)
    for edited in (drawn(12), untouched(12)):
        given.clear()
        refiner.refine(clip(12), edited, num_steps=1, notify=str)
        starts = windows.of_config(refiner.config, 12).starts
        assert len(given) == len(starts) > 1
        for frames, start in zip(given, starts, strict=True):  # each window's first frame is the draft's there
            np.testing.assert_array_equal(frames[0, 0], video.resize(edited.frames[start][None], refiner.size)[0])
    np.testing.assert_array_equal(untouched(12).frames, clip(12).frames)


@pytest.mark.parametrize("in_channels", [16, 32])
def test_patches_of_two_latent_frames_refine_clips_that_do_not_divide_into_them(in_channels, tmp_path):
    """CogVideoX 1.5: the sample is longer by the latent frames that are missing, in front, which are dropped again."""
    config = tiny_model.config("base", num_frames=9)
    config.dit.update({"patch_size_t": 2, "positions": "rope", "in_channels": in_channels})
    config.sample.solver = "ddim"
    params = tiny_model.random_params(memory.parameter_shapes(config))
    refiner = refine.load(checkpoints.save_model(tmp_path / "later", config, params, "float32"), say=str)
    tokens, settings, key = refiner.tokenizer.encode(["a"]), refiner.settings(2), jax.random.key(0)
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 255, (1, 9, 16, 16, 3)).astype(np.uint8)
    free = np.zeros((1, 3, 2, 2, 1), np.float32)
    plain = np.asarray(refiner.sample_held(key, reference, free, 0, tokens, settings))
    held = np.asarray(refiner.sample_held(key, reference, free + 1, 0, tokens, settings))
    assert plain.shape == held.shape == reference.shape
    model, video_in = refiner.model, reference / np.float32(127.5) - 1
    there_and_back = jax.jit(lambda params, x: backbone.decode(model, params, backbone.encode(model, params, x)))
    through = np.round((np.asarray(there_and_back(refiner.params, video_in)) + 1) * 127.5)
    assert np.abs(held.astype(int) - through).max() <= 1 and np.abs(plain.astype(int) - through).mean() > 5
    # Held to nothing it is the plain sample of this model, which is longer in the same way.
    nearly = free.copy()
    nearly[0, 0, 0, 0] = 1e-9
    assert (
        np.abs(np.asarray(refiner.sample_held(key, reference, nearly, 0, tokens, settings)).astype(int) - plain).max()
        <= 1
    )
    made = refiner.refine(clip(12), drawn(12), num_steps=2, notify=str)
    assert made.frames.shape == (12, *SIZE, 3)


@pytest.mark.parametrize("in_channels", [16, 32])
def test_low_rank_updates_are_merged_into_either_kind_of_base(in_channels, tmp_path):
    config, said = tiny_model.config("base"), []
    config.dit.in_channels = in_channels
    params = tiny_model.random_params(memory.parameter_shapes(config))
    folder = checkpoints.save_model(tmp_path / "base", config, params, "float32")
    path = low_rank(tmp_path / "mine.safetensors")
    refiner = refine.load(folder, [f"{path}:0.5"], said.append)
    module = backbone.build(config).denoiser.dit
    merged = lora.merge(module, params["dit"], [lora.read(path)], [0.5])
    jax.tree.map(np.testing.assert_array_equal, dict(refiner.params["dit"]), merged)
    assert np.abs(
        merged["blocks"]["attention"]["v"]["kernel"] - params["dit"]["blocks"]["attention"]["v"]["kernel"]
    ).any()
    assert [line.partition(":")[0] for line in said[:2]] == ["memory for sample", "memory for the weights and a sample"]
    assert said[2:] == ["lora mine.safetensors: 1 of 22 Linear layers, rank 2, scale 1, weight 0.5"]


@pytest.mark.parametrize("in_channels", [16, 32])
def test_a_base_that_does_not_fit_is_refused_before_its_weights_are_read(in_channels, tmp_path, monkeypatch):
    config = tiny_model.config("base")
    config.dit.in_channels = in_channels
    params = tiny_model.random_params(memory.parameter_shapes(config))
    folder = checkpoints.save_model(tmp_path / "base", config, params, "float32")
    (folder / checkpoints.WEIGHTS).write_bytes(b"damaged")
    monkeypatch.setattr(fit, "capacity", lambda device=None: 1e5)
    with pytest.raises(ValueError, match=r"sample needs about .* GiB on each device"):
        refine.load(folder, say=lambda line: None)


@pytest.mark.parametrize("in_channels", [16, 32])
def test_what_is_wrong_with_updates_and_what_it_costs_is_told_before_weights_are_read(in_channels, tmp_path):
    config = tiny_model.config("base")
    config.dit.in_channels = in_channels
    params = tiny_model.random_params(memory.parameter_shapes(config))
    folder, said = checkpoints.save_model(tmp_path / "base", config, params, "float32"), []
    (folder / checkpoints.WEIGHTS).write_bytes(b"damaged")
    wide, name = {"lora_A": np.ones((2, 48)), "lora_B": np.ones((48, 2))}, "transformer_blocks.0.attn1.to_q"
    halves = {f"transformer.{name}.{half}.weight": value.astype(np.float32) for half, value in wide.items()}
    save_file(halves, tmp_path / "wide.safetensors")
    with pytest.raises(
        ConvertError, match=r"to_q of the size \[48, 48\], this transformer has \[32, 32\]: it is another"
    ):
        refine.load(folder, [str(tmp_path / "wide.safetensors")], said.append)
    assert not said
    asked = {"num_frames": 12, "num_steps": 50, "clocks": Clocks(0.3, 0.4)}
    with pytest.raises(checkpoints.CheckpointError, match="sha256 differs"):
        refine.load(folder, say=said.append, asked=asked)
    assert [line.split(":")[0] for line in said] == [
        "memory for sample", "memory for the weights and a sample", "cost of 3 samples"
    ]  # fmt: skip
    left_out = refine.first_step(backbone.build(config).schedule, 50, 0.3)
    assert left_out > 0 and f"{3 * 2 * (50 - left_out)} calls of the transformer" in said[2]


def test_noise_that_goes_along_with_the_draft_is_what_the_sample_starts_from(refiner, monkeypatch):
    square = moving_square.corners() + np.float32(moving_square.SIDE / 2)
    source = Tracks(square[None] + moving_square.OFFSETS[:, None], np.ones((5, moving_square.FRAMES), bool))
    frames = moving_square.draw()
    options = {"groups": [[0, 1, 2, 3, 4]], "notify": lambda line: None}
    moved = draft.render(frames, source, Tracks(source.xy + np.float32([0, 24]), source.visible), **options)
    prepared = draft.Prepared(frames)
    moved.clip = prepared
    taken_apart = []
    monkeypatch.setattr(draft.Prepared, "__init__", lambda self, *rest, **named: taken_apart.append(self))
    given, plain = [], refiner.sample_held
    monkeypatch.setattr(refiner, "sample_held", lambda *rest: given.append(rest[-1]) or plain(*rest))
    make = functools.partial(refiner.refine, video.Clip(frames, 8.0), moved, num_steps=2, paste=False, notify=str)
    clocks = {"clocks": Clocks(0.0, 0.0, 0.0)}  # held to nothing: the noise alone differs
    made = {share: make(warped=share, **clocks).frames for share in (0.0, 1.0, None)}
    assert len(given) == 6 and given[4] is None is given[5] and given[0].shape == (1, 2, 2, 2, 16)
    assert (made[0.0] != made[1.0]).any() and (made[0.0] != made[None]).any()
    np.testing.assert_array_equal(make(warped=0.0, **clocks).frames, made[0.0])
    key, tokens = jax.random.key(0), refiner.tokenizer.encode(["a"])
    reference, free = np.zeros((1, 5, 16, 16, 3), np.uint8), np.full((1, 2, 2, 2, 1), 1e-9, np.float32)
    noise = jax.random.normal(key, (1, 2, 2, 2, 16))
    one, two = (plain(key, reference, free, 0, tokens, refiner.settings(2), each) for each in (noise, -noise))
    assert (np.asarray(one) != np.asarray(two)).any()
    assert not taken_apart  # the draft has with it what it was drawn from
    with pytest.raises(ValueError, match="a share of fresh noise from 0 to 1"):
        make(warped=2.0)
    with pytest.raises(ValueError, match="does not say where its pixels are from"):
        refiner.refine(clip(), drawn(), warped=0.5, notify=str)


def test_few_steps_that_cannot_tell_the_clocks_apart_are_told(refiner):
    said = []
    refiner.refine(clip(), drawn(), num_steps=10, clocks=Clocks(0.04, 0.05), notify=said.append)
    assert any("fall on one step" in line for line in said)
    for num_steps, clocks, words in (
        (1, refine.IMAGE_TO_VIDEO, ["fall on one step", "starts from noise alone"]),
        (1, None, ["fall on one step", "starts from noise alone"]),
        (4, None, ["starts from noise alone"]),
        (5, refine.IMAGE_TO_VIDEO, ["fall on one step", "starts from noise alone"]),
        (50, refine.IMAGE_TO_VIDEO, []),
        (50, None, []),
    ):
        said = []
        start = refine.first_step(refiner.model.schedule, num_steps, (clocks or refiner.clocks).weak)
        refiner._tell_few_steps(num_steps, start, clocks or refiner.clocks, said.append)
        told = ("fall on one step", "starts from noise alone")
        assert [word for line in said for word in told if word in line] == words
    with pytest.raises(ValueError, match=r"the draft is \[5, 40, 56, 3\] and the clip \[3, 40, 56, 3\]"):
        refiner.refine(clip(3), drawn(), notify=str)


def test_the_launcher_refines_with_a_base_and_with_that_of_another_model(base, tmp_path):
    video.write(tmp_path / "clip.mp4", moving_square.draw(), fps=8, crf=4)
    x, y = (float(side) + 10 for side in moving_square.corners()[0])
    operations = [{"op": "drag", "points": [0], "start": [x, y], "end": [x + 9, y]}]
    edit = {"queries": [[0, x, y]], "operations": operations}
    (tmp_path / "edit.json").write_text(json.dumps(edit))
    common = ["--video=clip.mp4", "--edit=edit.json", "--num_steps=3"]
    own = [f"--checkpoint={base}", "--clocks=0.1,0.5", f"--lora={low_rank(tmp_path / 'mine.safetensors')}:0.5"]
    own += ["--warped_noise=0.5"]
    child = launch("edit", *common, *own, "--out=out", cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    told = "lora    mine.safetensors: 1 of 22 Linear layers, rank 2, scale 1, weight 0.5"
    for words in (
        "a base (text to video)",
        "held to the draft up to a signal of 0.5, from 0.1 on, what stays up to 0.98; 3 steps",
        told,
        "a share of 0.5 of it fresh",
    ):
        assert words in child.stdout
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    height, width = video.read(tmp_path / "out" / "comparison.mp4").frames.shape[1:3]
    panels, (rows, columns) = ("source", "target tracks", "draft", "edited"), moving_square.draw().shape[1:3]
    assert width / height == pytest.approx(len(panels) * columns / rows, rel=0.2)
    assert record["settings"]["clocks"] == "0.1,0.5" and record["settings"]["warped"] == 0.5
    assert record["model"]["checkpoint"] == "base"
    digest = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    assert record["model"]["loras"] == [{"file": "mine.safetensors", "sha256": digest, "weight": 0.5}]
    assert "loras" not in record["settings"]
    control = tiny_model.save(tmp_path / "control")
    child = launch("edit", *common, f"--checkpoint=refine:{control}", "--out=other", cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    for arguments, message in (
        ([f"--checkpoint={base}", "--views=2"], "--views: of no use to"),
        ([f"--checkpoint={base}", "--clocks=1"], "clocks are weak,strong"),
        ([f"--checkpoint={base}", "--warped_noise=2"], "a share of fresh noise from 0 to 1"),
        ([f"--checkpoint={control}", "--clocks=0.1,0.5"], "--clocks is for a base that refines the draft"),
        (["--clocks=0.1,0.5"], "--clocks is a setting of a model"),
        (["--lora=mine.safetensors"], "--lora is a setting of a model"),
        ([f"--checkpoint={control}", "--warped_noise=0.5"], "--warped_noise is for a base that refines the draft"),
        ([f"--checkpoint={control}", "--lora=mine.safetensors"], "--lora is for a base that refines the draft"),
        ([f"--checkpoint={base}", "--lora=nobody"], "nobody is no LoRA"),
        (["--checkpoint=refine:nobody"], "nobody"),
    ):
        child = launch("edit", *common[:2], *arguments, "--out=more", cwd=tmp_path)
        assert child.returncode == 2 and message in child.stderr, (child.stderr, child.stdout)
        assert len(child.stderr.strip().splitlines()) == 1
