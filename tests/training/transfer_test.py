"""A motion from clip to file to other content: what is learned, kept, mixed and refused, on a shrunken base."""

import json
import os
import signal

import ml_dtypes
import numpy as np
import pytest
import tiny_model
from launching import launch
from tiny_modules import DIT, MODULES, random_params

from motionv2v import checkpoints, convert, editing, figures, parameters, sections, video
from motionv2v.checkpoints import CheckpointError
from motionv2v.convert import pipeline, scheduler
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.devices import memory
from motionv2v.editing import kinds, motions, transfer
from motionv2v.training import inversion, transferred

FRAMES = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A text-to-video base with weights of its own, none at its initial value."""
    config = tiny_model.config("base")
    params = tiny_model.random_params(memory.parameter_shapes(config))
    return checkpoints.save_model(tmp_path_factory.mktemp("models") / "base", config, params, "float32")


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """A motion of three steps, and the work dir it comes from."""
    workdir = tmp_path_factory.mktemp("learned") / "run"
    return inversion.learn(FRAMES, "a disk", base, workdir, steps=3, batch_size=2, about={"video": "a.mp4"}), workdir


@pytest.fixture(scope="module")
def editor(base):
    return editing.load(base)


def test_embeddings_alone_are_learned(base, learned):
    motion, workdir = learned
    assert {name: x.shape for name, x in motion.params.items()} == {
        "motion_qk": (2, 2, 32), "motion_v": (2, 2, 1, 1, 32)
    }  # fmt: skip
    assert all(np.abs(x).max() > 1e-3 and x.dtype == np.float32 for x in motion.params.values())
    _, params = checkpoints.load_model(base)
    _, after = checkpoints.load_model(workdir)
    for path, value in parameters.flatten(params).items():
        np.testing.assert_array_equal(parameters.flatten(after)[path], value, err_msg=path)
    assert motion.about == {
        "base": "base", "caption": "a disk", "steps": 3, "seed": 0, "frames": 5, "size": [16, 16], "video": "a.mp4"
    }  # fmt: skip
    again = inversion.learn(FRAMES, "a disk", base, workdir, steps=3, batch_size=2)
    for name, value in motion.params.items():
        np.testing.assert_array_equal(again.params[name], value)


def test_a_file_keeps_all_of_it(learned, tmp_path):
    motion = learned[0]
    back = motions.load(motions.save(tmp_path / "m.safetensors", motion))
    assert (back.settings, back.base, back.about) == (motion.settings, motion.base, motion.about)
    for name, value in motion.params.items():
        np.testing.assert_array_equal(back.params[name], value)


def test_samples_follow_a_motion_and_a_still_one_is_none(editor, learned):
    motion = learned[0]
    plain = editor.text_to_video(["a star"], 3)
    still = motion._replace(params={name: 0 * x for name, x in motion.params.items()})
    # Two compiled programs may round a grey level differently.
    assert np.abs(editor.text_to_video(["a star"], 3, motion=still).astype(int) - plain).max() <= 1
    strong = motion._replace(params={name: 30 * x for name, x in motion.params.items()})
    followed = editor.text_to_video(["a star"], 3, motion=strong)
    assert followed.shape == plain.shape and np.abs(followed.astype(int) - plain).mean() > 1
    inverted = transfer.invert(editor, FRAMES, num_steps=4)
    assert inverted.shape == (1, 2, 2, 2, 16) and 0.1 < inverted.std() < 10
    started = editor.text_to_video(["a star", "a disk"], 3, motion=strong, inverted=inverted)
    assert len(started) == 2 and np.abs(started[0].astype(int) - followed[0]).mean() > 1


def test_motions_add_up_by_weight(learned):
    motion = learned[0]
    mixed = motions.mixed([motion, motion], [0.25, 0.5])
    for name, value in motion.params.items():
        np.testing.assert_allclose(mixed.params[name], 0.75 * value, rtol=1e-6)
    assert [weight for weight, _ in mixed.about["mixed"]] == [0.25, 0.5]
    for other, message in (
        (motion._replace(base="x"), "different bases"),
        (motion._replace(settings=motion.settings | {"v": "none"}), "differ in v"),
    ):
        with pytest.raises(ValueError, match=message):
            motions.mixed([motion, other], [1, 1])
    motions.mixed([motion, motion._replace(settings=motion.settings | {"start": "noise", "debias": "mean"})], [1, 1])
    factors = motion._replace(settings=motion.settings | {"rank": 2})
    with pytest.raises(ValueError, match="sums of products"):
        motions.mixed([factors], [0.5])
    with pytest.raises(ValueError, match="given 2 motions and 1 weights"):
        motions.mixed([motion, motion], [1])


def test_what_does_not_fit_is_one_line(base, editor, learned, tmp_path):
    motion = learned[0]
    with pytest.raises(ValueError, match=r"learned on another base \(base\) than base_tiny"):
        editor.text_to_video(["x"], motion=motion._replace(base="other"))
    wrong = {name: x[:, :1] for name, x in motion.params.items()}
    with pytest.raises(CheckpointError, match="the motion holds another model: conditioner/motion_qk is"):
        editor.text_to_video(["x"], motion=motion._replace(params=wrong))
    with pytest.raises(ValueError, match=r"the clip must be uint8 \[5, 16, 16, 3\]"):
        inversion.learn(FRAMES[:4], "", base, tmp_path / "a")
    with pytest.raises(ValueError, match=r"unknown field 'method.layer'; did you mean 'layers'"):
        inversion.learn(FRAMES, "", base, tmp_path / "b", settings={"layer": (0,)})
    with pytest.raises(CheckpointError, match="no motion at"):
        motions.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no motion")
    with pytest.raises(CheckpointError, match=r"holds no motion that launch/transfer.py wrote"):
        motions.load(tmp_path / "bad.safetensors")
    image = sections.complete(tiny_model.config("base"))
    image.dit.in_channels = 32
    with pytest.raises(ValueError, match="reads an image beside the noise"):
        transfer.base_config(image, "i2v")


def test_large_bases_have_a_coarse_grid_in_some_layers():
    config = tiny_model.config("base", num_frames=9, size=(320, 512))
    config.dit.num_layers = 30
    config = sections.complete(config)
    found = transfer.with_method(transfer.base_config(config, "large"), {}).method
    assert found.depth == 30 and len(found.layers) == 12 and (found.layers[0], found.layers[-1]) == (0, 29)
    assert found.frames == 3 and tuple(found.grid) == (10, 15)
    assert tuple(transfer.with_method(transfer.base_config(config, "large"), {"layers": (3,)}).method.layers) == (3,)


@pytest.mark.parametrize("length", [1, 3, 5, 6, 9])
def test_clips_of_any_length_and_size_are_learned_from(length, tmp_path):
    said = []
    clip = video.Clip(
        np.zeros((length, 24, 20, 3), np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None], 8.0
    )
    frames = inversion.fit_clip(clip, tiny_model.config("base"), said.append)
    assert frames.shape == (5, 16, 16, 3)
    assert frames[:, 0, 0, 0].tolist() == [min(t, length - 1) for t in range(5)]
    assert len(said) == (1 if length == 5 else 2) and "it is resized" in said[-1]
    noise = np.random.default_rng(0).integers(0, 255, (length, 16, 16, 3)).astype(np.uint8)
    path = video.write(tmp_path / "clip.mp4", noise, fps=8, lossless=True)
    read = inversion.read_clip(path, tiny_model.config("base"), said.append)
    assert read.fps == 8 and np.abs(read.frames.astype(int) - noise[np.arange(5).clip(max=length - 1)]).max() <= 1
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(video.VideoError):
        inversion.read_clip(path, tiny_model.config("base"), said.append)


@pytest.mark.parametrize("loss", ["plain", "debiased_eps", "cosine"])
def test_a_clip_that_rests_and_one_of_one_frame_are_learned_from(base, editor, tmp_path, loss):
    """Nothing is no number, and what is sampled is a video; a clip of one frame is held."""
    clip = video.write(tmp_path / "clip.mp4", FRAMES[:1], fps=8, crf=4)
    assert len(video.read(clip).frames) == 1
    frames = inversion.read_clip(clip, editor.config, lambda line: None).frames
    np.testing.assert_array_equal(frames, np.repeat(frames[:1], 5, axis=0))
    motion = inversion.learn(
        frames, "", base, tmp_path / "run", steps=3, batch_size=2, settings={"loss": loss}, say=lambda line: None
    )
    assert all(np.isfinite(x).all() and np.abs(x).max() > 1e-3 for x in motion.params.values())
    assert np.isfinite(transfer.invert(editor, frames, num_steps=4)).all()
    assert editor.text_to_video(["a star"], motion=motion).shape == (1, 5, 16, 16, 3)


def test_a_motion_is_float32_on_a_base_that_computes_in_bfloat16(base, tmp_path):
    config, params = transfer.load_base(base)
    for part in ("vae", "text", "dit"):
        config[part].dtype = "bfloat16"
    half = checkpoints.save_model(tmp_path / "half", config, params, "bfloat16")
    assert transfer.load_base(half)[1]["dit"]["blocks"]["mlp_up"]["kernel"].dtype == ml_dtypes.bfloat16
    motion = inversion.learn(FRAMES, "", half, tmp_path / "run", steps=3, batch_size=2, rate=1e-3)
    for value in motion.params.values():
        assert value.dtype == np.float32
        # Three steps of AdamW at 0.001: finer numbers than bfloat16 has would be lost in it.
        assert (value.astype(ml_dtypes.bfloat16).astype(np.float32) != value).any()
    on_it = editing.load(half)
    assert on_it.text_to_video(["a star"], motion=motion).shape == (1, 5, 16, 16, 3)


def test_the_launcher_learns_writes_and_uses_a_motion(base, tmp_path):
    video.write(tmp_path / "clip.mp4", np.repeat(FRAMES, 2, axis=0), fps=8, crf=4)
    common = [f"--base={base}", "--prompt=a red square", "--num_steps=2"]
    given = ["--steps=2", "--batch_size=2", "--layers=1", "--grid=1,1", "--m_qk=places", "--m_v=frames"]
    child = launch("transfer", "--video=clip.mp4", *common, *given, "--out=out", cwd=tmp_path)
    assert child.returncode == 0, child.stderr[-2000:]
    assert "the motion of the first 5 is learned" in child.stdout and "step 2/2" in child.stdout
    names = ["comparison_0.mp4", "contact_sheet.png", "learning", "motion.safetensors", "transferred_0.mp4"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    motion = motions.load(tmp_path / "out" / "motion.safetensors")
    assert motion.about["video"] == "clip.mp4" and motion.settings["debias"] == "difference"
    assert {name: x.shape for name, x in motion.params.items()} == {
        "motion_qk": (1, 2, 1, 1, 32), "motion_v": (1, 2, 32)
    }  # fmt: skip
    assert motion.about["fps"] == 8 and "in 2 steps" in child.stdout
    result = transferred.run(
        ["a star", "a disk"], motion_paths=[tmp_path / "out/motion.safetensors"] * 2, weights=[0.5, 0.25],
        base=str(base), out=tmp_path / "used", settings={"debias": "drop"}, num_steps=2, say=lambda line: None,
    )  # fmt: skip
    assert result.videos.shape == (2, 5, 16, 16, 3) and result.source is None
    assert sorted(result.files) == ["contact_sheet.png", "transferred_0.mp4", "transferred_1.mp4"]
    again = transferred.run(  # from the folder that it was written to, beside the clip that samples start from
        ["a star"], motion_paths=[tmp_path / "out/motion.safetensors"], video_path=tmp_path / "clip.mp4",
        base=str(base), out=tmp_path / "out", settings={"start": "inverted"}, num_steps=2, say=lambda line: None,
    )  # fmt: skip
    assert sorted(again.files) == ["comparison_0.mp4", "contact_sheet.png", "transferred_0.mp4"]
    for arguments, message in (
        ([], "expected a clip to learn from"),
        (["--video=clip.mp4", "--weight=2"], "weights are of motions"),
        (["--motion=out/motion.safetensors", "--start=inverted"], "expected the clip that samples start from"),
        (["--motion=out/motion.safetensors", "--rank=2", "--steps=9"], "rank, steps: for learning a motion"),
        (["--motion=none.safetensors"], "no motion at none.safetensors"),
        (
            ["--video=clip.mp4", "--layers=0,x"],
            "method.layers is [0, 'x'], expected a list of values, each a whole number",
        ),
    ):
        child = launch("transfer", *common, *arguments, "--out=more", cwd=tmp_path)
        assert child.returncode == 2 and message in child.stderr, child.stderr
        assert len(child.stderr.strip().splitlines()) == 1
    assert json.loads((tmp_path / "out/learning/config.json").read_text())["config"]["method"]["depth"] == 2


def test_a_folder_that_diffusers_saved_is_a_base(tmp_path):
    modules = {"vae": MODULES["vae"], "text": MODULES["text"].clone(vocab_size=300)}
    modules["dit"] = DIT.clone(sample_size=(2, 2, 2), text_length=tiny_model.LENGTH)
    tokens, sampler = ByteTokenizer(tiny_model.LENGTH), scheduler.Sampler({"snr_shift_scale": 3.0}, "ddim")
    params = {key: random_params(module) for key, module in modules.items()}
    made = pipeline.make_config("random", modules, tokens, sampler, "float32")
    made = convert.Pipeline(made, modules, params, tokens, sampler, 0.7, {})
    folder = convert.pipeline_to_diffusers(made, tmp_path / "theirs")
    config = kinds.described(folder)[0]
    frames = np.random.default_rng(0).integers(0, 255, (config.data.num_frames, *config.data.size, 3)).astype(np.uint8)
    clip = video.write(tmp_path / "clip.mp4", frames, fps=8, crf=4)
    done = transferred.run(
        ["a star"], video_path=clip, base=str(folder), out=tmp_path / "out", num_steps=2, steps=2, batch_size=1,
        say=lambda line: None,
    )  # fmt: skip
    assert done.videos.shape == (1, *frames.shape) and done.motion.about["base"] == "theirs"
    assert all(np.abs(x).max() > 0 for x in done.motion.params.values())


@pytest.mark.parametrize("settings", [{"loss": "hybrid"}, {"temporal_only": True}, {"v": "none", "loss": "cosine"}])
def test_other_ways_to_learn_leave_the_base_alone_and_can_be_sampled(base, editor, tmp_path, settings):
    motion = inversion.learn(
        FRAMES, "a disk", base, tmp_path / "run", steps=2, batch_size=2, settings=settings,
        prompts=["a star"], probe_every=1, loaded=transfer.load_base(base),
    )  # fmt: skip
    assert set(motion.params) == {"motion_qk"} | ({"motion_v"} if settings.get("v") != "none" else set())
    assert all(np.abs(x).max() > 1e-3 for x in motion.params.values())
    _, before = checkpoints.load_model(base)
    config, after = checkpoints.load_model(tmp_path / "run")
    for path, value in parameters.flatten(before).items():
        np.testing.assert_array_equal(parameters.flatten(after)[path], value, err_msg=path)
    updates = {path: x for path, x in parameters.flatten(after["dit"]).items() if path.startswith("lora/")}
    assert bool(updates) == (settings.get("loss") == "hybrid") and config.dit.lora_rank == 32 * bool(updates)
    assert all(np.abs(x).max() > 0 for x in updates.values())
    assert len(list((tmp_path / "run" / "samples").rglob("*.mp4"))) == 3  # at steps 0, 1 and 2
    made = editor.text_to_video(["a star"], motion=motion, num_steps=2)
    assert made.shape == (1, 5, 16, 16, 3)


def test_a_probe_shows_what_a_sample_with_the_motion_is(base, editor, learned, tmp_path):
    """From noise, with the debiasing that was asked for, in the steps of samples."""
    motion, _ = learned
    config, params = transfer.load_base(base)
    config = inversion.run_config(config, base, {}, steps=1)
    task = inversion.ClipTask(config, params, FRAMES, "", ["a star"], {"debias": "mean"}, lambda line: None)
    for scale in (30, 60):
        strong = {name: scale * x for name, x in motion.params.items()}
        probed = task.probe(None, {**params, "conditioner": strong})["videos"]["transferred"]
        asked = motion._replace(params=strong, settings=motion.settings | {"debias": "mean"})
        made = editor.text_to_video(["a star"], motion=asked, num_steps=50)
        expected = figures.side_by_side([("source", FRAMES), ("a star", made[0])])
        assert np.abs(probed.astype(int) - expected).max() <= 1


def test_another_clip_in_the_same_work_dir_is_refused_and_other_uses_are_not(base, learned):
    motion, workdir = learned
    same = {"base": base, "workdir": workdir, "steps": 3, "batch_size": 2}
    for frames, caption in ((FRAMES[::-1].copy(), "a disk"), (FRAMES, "a star")):
        with pytest.raises(ValueError, match="belongs to another config: name was motion_of_"):
            inversion.learn(frames, caption, **same)
    used = inversion.learn(FRAMES, "a disk", settings={"debias": "mean", "start": "noise"}, **same)
    assert used.settings == motion.settings | {"debias": "mean", "start": "noise"}
    with pytest.raises(ValueError, match="one of difference, mean, none, drop"):
        inversion.learn(FRAMES, "a disk", settings={"debias": "all"}, **same)


def test_learning_that_is_stopped_says_so_and_goes_on_to_the_same_motion(base, learned, tmp_path, monkeypatch):
    class Stopped(inversion.ClipTask):
        def probe(self, key, params):
            os.kill(os.getpid(), signal.SIGTERM)  # before the first step, which is finished
            return {"scalars": {}, "videos": {}}

    def learn():
        return inversion.learn(FRAMES, "a disk", base, tmp_path / "run", steps=3, batch_size=2, probe_every=5)

    with monkeypatch.context() as patched:
        patched.setattr(inversion, "ClipTask", Stopped)
        with pytest.raises(InterruptedError, match="stopped after step 1 of 3; the same command goes on"):
            learn()
    probed = []

    def probe(self, key, params):
        probed.append(1)
        return {"scalars": {}, "videos": {}}

    monkeypatch.setattr(inversion.ClipTask, "probe", probe)
    resumed = learn()
    assert len(probed) == 1, "after the last step; a run from the start is probed before its first one too"
    for name, value in learned[0].params.items():
        np.testing.assert_array_equal(resumed.params[name], value)


def test_a_model_made_for_one_step_is_sampled_as_a_base(editor):
    assert transfer.sampled_as(editor.config) == (50, None)  # the shrunken base takes two, with guidance of its own
    assert transfer.sampled_as(editor.config, 4, 2.0) == (4, 2.0)
