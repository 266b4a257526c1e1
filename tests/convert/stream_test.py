"""From disk to disk: whole pipelines both ways, jobs that were killed, the launcher, and the editor on the result."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_model
from convert_test import as_variant
from launching import launch
from safetensors.numpy import load_file, save_file
from tiny_modules import CHAINED, DIT, MODULES, random_params

from motionv2v import backbone, checkpoints, convert, editing
from motionv2v.convert import ConvertError, export, pipeline, scheduler, stream, writing
from motionv2v.data.tokenizer import ByteTokenizer, SentencePieceTokenizer
from motionv2v.editing import editor
from motionv2v.methods.motionv2v import STREAMS, Conditioner
from motionv2v.models.denoiser import Denoiser
from motionv2v.tracks import Tracks
from motionv2v.training import tasks

QUIET = {"say": lambda line: None}


def make_pipeline(spiece, *, control=False, first_frames=False, dit=DIT, tokenizer="sentencepiece"):
    """A pipeline of random modules, as training would give it: nothing kept of any folder."""
    text = MODULES["text"].clone(vocab_size=300)
    dit = dit.clone(sample_size=(2, 2, 2), text_length=tiny_model.LENGTH)
    if control:
        dit = CHAINED.clone(sample_size=(2, 2, 2), text_length=tiny_model.LENGTH)
        dit = Denoiser(dit, Conditioner(32, 2, first_frames))
    modules = {"vae": MODULES["vae"].clone(scaling_factor=0.7), "text": text, "dit": dit}
    length = tiny_model.LENGTH
    tokenizer = ByteTokenizer(length) if tokenizer == "bytes" else SentencePieceTokenizer(spiece, length)
    sampler = scheduler.Sampler({"snr_shift_scale": 3.0}, "dpmpp_2m_sde")
    params = {key: random_params(module) for key, module in modules.items()}
    params |= params.pop("dit") if control else {}
    config = pipeline.make_config("random", modules, tokenizer, sampler, "float32")
    return convert.Pipeline(config, modules, params, tokenizer, sampler, 0.7, {})


@pytest.fixture(scope="module")
def made(spiece, tmp_path_factory):
    """(pipeline, its folder for diffusers in several shards)."""
    made = make_pipeline(spiece)
    folder = tmp_path_factory.mktemp("pipeline") / "diffusers"
    return made, convert.pipeline_to_diffusers(made, folder, shard_size="60KB")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_pipeline_round_trip(made):
    expected, folder = made
    again = convert.pipeline_from_diffusers(folder)
    assert again.modules == expected.modules and again.image_scale == expected.image_scale == 0.7
    assert again.sampler.solver == "dpmpp_2m_sde"
    np.testing.assert_array_equal(again.schedule.alphas_cumprod, expected.schedule.alphas_cumprod)
    assert_same(again.params, expected.params)
    assert again.tokenizer.model == expected.tokenizer.model
    captions = ["a red disk", "<extra_id_3>!"]
    np.testing.assert_array_equal(again.tokenizer.encode(captions), expected.tokenizer.encode(captions))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "CogVideoXPipeline" and index["scheduler"][1] == "CogVideoXDPMScheduler"


def test_kept_files_are_written_back_as_they_were(made, tmp_path):
    """Notes and settings that we have no place for survive; what changed is written anew."""
    _, folder = made
    again = convert.pipeline_from_diffusers(folder)
    note = {**json.loads(again.kept["scheduler/scheduler_config.json"]), "_note": "mine", "clip_sample": True}
    again.kept["scheduler/scheduler_config.json"] = json.dumps(note).encode()
    again.kept["vae/config.json"] = json.dumps(
        {**json.loads(again.kept["vae/config.json"]), "sample_height": 96}
    ).encode()
    out = convert.pipeline_to_diffusers(again, tmp_path / "a")
    assert json.loads((out / "scheduler" / "scheduler_config.json").read_text()) == note
    assert json.loads((out / "vae" / "config.json").read_text())["sample_height"] == 96
    changed = again._replace(sampler=scheduler.Sampler({**again.sampler.schedule, "snr_shift_scale": 2.0}, "ddim"))
    changed.modules["vae"] = changed.modules["vae"].clone(scaling_factor=0.25)
    out = convert.pipeline_to_diffusers(changed, tmp_path / "b")
    config = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert (config["_class_name"], config["snr_shift_scale"], config["_note"]) == (
        "CogVideoXDDIMScheduler",
        2.0,
        "mine",
    )
    vae = json.loads((out / "vae" / "config.json").read_text())
    assert (vae["scaling_factor"], vae["sample_height"]) == (0.25, 96)
    assert json.loads((out / "model_index.json").read_text())["scheduler"][1] == "CogVideoXDDIMScheduler"


def test_model_folder_builds_and_samples_and_comes_back(made, tmp_path):
    expected, folder = made
    ours = stream.convert(folder, tmp_path / "ours", **QUIET)
    config, params = checkpoints.load_model(ours)
    assert_same(params, expected.params)
    model = backbone.build(config)
    assert (model.vae, model.text, model.denoiser.dit) == tuple(expected.modules.values())
    editor = editing.Editor(config, params, ours)
    assert isinstance(editor.tokenizer, SentencePieceTokenizer)
    video = editor.text_to_video(["a red disk"], num_steps=2)
    assert video.shape == (1, 5, 16, 16, 3) and video.std() > 0
    back = stream.convert(ours, tmp_path / "back", shard_size="60KB", **QUIET)
    first, second = contents(folder), contents(back)
    assert first == second, "the way there and back changes no byte"
    assert {p.name for p in tmp_path.iterdir()} == {"ours", "back"}


def test_an_exported_model_goes_back_to_the_same_folder(made, tmp_path):
    """Export carries the vocabulary and diffusers' small files on, without which there is no way back."""
    _, folder = made
    ours = stream.convert(folder, tmp_path / "ours", **QUIET)
    exported = export.model_folder(ours, tmp_path / "exported", dtype="float32")
    back = stream.convert(exported, tmp_path / "back", shard_size="60KB", **QUIET)
    assert contents(back) == contents(folder)


def test_control_model_comes_through_diffusers_layout_and_edits(spiece, tmp_path):
    """MotionV2V's layout: branch and second patch embedding in one transformer folder; then a real edit."""
    expected = make_pipeline(spiece, control=True)
    theirs = convert.pipeline_to_diffusers(expected, tmp_path / "theirs")
    ours = stream.convert(theirs, tmp_path / "ours", dtype="bfloat16", **QUIET)
    editor = editing.load(str(ours))
    rounded = jax.tree.map(lambda x: np.asarray(jax.numpy.asarray(x, "bfloat16"), np.float32), expected.params)
    assert_same(jax.tree.map(np.asarray, editor.params), rounded)
    assert editor.model.denoiser.dit.dtype == jax.numpy.bfloat16
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    tracks = Tracks(np.full((1, 5, 2), 8.0, np.float32), np.ones((1, 5), bool))
    assert editor.edit(frames, tracks, tracks, prompt="a red disk", num_steps=1).frames.shape == frames.shape
    base = stream.convert(ours, tmp_path / "base", drop_control=True, **QUIET)
    again = convert.pipeline_from_diffusers(base)
    assert again.modules["dit"].control_depth == 0 and "control" not in again.params["dit"]


def test_a_pipeline_of_variants_converts_as_one_without(made, tmp_path):
    _, source = made
    shutil.copytree(source, tmp_path / "in")
    for name in ("vae", "text_encoder", "transformer"):
        as_variant(tmp_path / "in" / name)
    assert len(list((tmp_path / "in" / "transformer").glob("*.fp16-0*.safetensors"))) > 1
    lines = []
    expected = stream.convert(source, tmp_path / "expected", **QUIET)
    ours = stream.convert(tmp_path / "in", tmp_path / "ours", say=lines.append)
    assert (ours / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert sum("as the variant fp16, which is read" in line for line in lines) == 3


def save_as_trained(folder):
    """Turn MotionV2V's pipeline into what its training code saves: I2V's config and tables, text-to-video weights."""
    spoil(folder, "model_index.json", _class_name="CogVideoXImageToVideoPipelineTracking")
    spoil(folder, "transformer/config.json", in_channels=8, use_learned_positional_embeddings=True)
    (path,) = (folder / "transformer").glob("*.safetensors")
    state = load_file(path)
    name = "patch_embed.proj.weight"
    state[name] = np.concatenate([state[name], np.zeros_like(state[name])], 1)
    table = np.random.default_rng(0).normal(size=(1, tiny_model.LENGTH + 2, 32)).astype(np.float32)
    state |= {"patch_embed.pos_embedding": table, "second_patch_embed.pos_embedding": table}
    save_file(state, path)
    return path, state


def test_a_checkpoint_as_motionv2v_trains_it_converts_and_edits(spiece, tmp_path):
    expected = make_pipeline(spiece, control=True)
    theirs = convert.pipeline_to_diffusers(expected, tmp_path / "theirs")
    weights = (theirs / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    path, state = save_as_trained(theirs)
    lines = []
    ours = stream.convert(theirs, tmp_path / "ours", say=lines.append)
    assert (
        f"{theirs / 'transformer'}: 4 input channels of zeros and patch_embed.pos_embedding and "
        "second_patch_embed.pos_embedding, which text-to-video weights switch off, are left out: the model computes "
        "the same without them"
    ) in lines
    config, params = checkpoints.load_model(ours)
    assert_same(params, expected.params)
    assert (config.dit.in_channels, config.dit.positions) == (4, "rope")
    assert config.method.to_dict() == {
        "name": "motionv2v", "sigma": 10.0, "colors": "any", "subpixel": False, "first_frame_latents": False,
        "patch_embed_from_base": False, "streams": STREAMS,
    }  # fmt: skip
    editor.check_config(config, ours)
    back = stream.convert(ours, tmp_path / "back", **QUIET)
    assert (back / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    index = json.loads((back / "model_index.json").read_text())
    assert index["_class_name"] == "CogVideoXPipelineTracking"
    # A channel that is read is kept, and then the tables may be in use too.
    state["patch_embed.proj.weight"][3, 7, 1, 0] = 1e-8
    save_file(state, path)
    with pytest.raises(ConvertError, match=r"is supported with positions='rope' .* got positions='rope.learned'"):
        stream.convert(theirs, tmp_path / "other", **QUIET)
    spoil(theirs, "transformer/config.json", use_learned_positional_embeddings=False)
    save_file({name: value for name, value in state.items() if "pos_embedding" not in name}, path)
    module, kept = convert.from_diffusers(theirs / "transformer")
    assert module.dit.in_channels == 8
    np.testing.assert_array_equal(
        kept["dit"]["patch_embed"]["kernel"].reshape(2, 2, 8, 32)[1, 0, 7, 3], np.float32(1e-8)
    )


def converted(made, folder):
    """A pipeline, saved as diffusers does and converted."""
    return stream.convert(convert.pipeline_to_diffusers(made, folder / "in"), folder / "ours", **QUIET)


@pytest.mark.parametrize("name", ["vae", "text", "dit", "motionv2v"])
def test_one_network_by_itself(name, tmp_path):
    module = MODULES[name]
    params = random_params(module)
    theirs = convert.to_diffusers(module, params, tmp_path / "theirs", shard_size="20KB")
    ours = stream.convert(theirs, tmp_path / "ours", **QUIET)
    _, loaded = checkpoints.load_model(ours)
    key = {"motionv2v": None}.get(name, name)
    assert_same(loaded if key is None else loaded[key], params)
    back = stream.convert(ours, tmp_path / "back", shard_size="20KB", **QUIET)
    assert contents(back) == contents(theirs)


def test_one_network_can_start_a_training(tmp_path):
    """`init_from` takes converted folders one by one."""
    vae = random_params(MODULES["vae"])
    ours = stream.convert(convert.to_diffusers(MODULES["vae"], vae, tmp_path / "theirs"), tmp_path / "ours", **QUIET)
    fresh = {"vae": random_params(MODULES["vae"], seed=1), "text": {"x": np.ones(1)}}
    taken = tasks.take_weights(fresh, (ours,))
    assert_same(jax.tree.map(np.asarray, taken["vae"]), vae)


def test_own_models_are_exported(tmp_path):
    """A model of bytes and of no diffusers' origin: its base, with transformers' tokenizer of bytes."""
    ours = tiny_model.save(tmp_path / "ours")
    with pytest.raises(ConvertError, match=r"control_wiring='chained'.* drop_control writes the base alone"):
        stream.convert(ours, tmp_path / "out", **QUIET)
    out = stream.convert(ours, tmp_path / "out", drop_control=True, **QUIET)
    again = convert.pipeline_from_diffusers(out)
    _, params = checkpoints.load_model(ours)
    base = {key: value for key, value in params["dit"].items() if key != "control"}
    assert_same(again.params, {"vae": params["vae"], "text": params["text"], "dit": base})
    assert isinstance(again.tokenizer, ByteTokenizer)
    assert again.config.data.size == (16, 16) and again.config.data.num_frames == 5


class _Killed(BaseException):
    """What ends a process, and no program catches."""


@pytest.mark.slow
def test_killed_job_goes_on_and_ends_as_if_it_had_not_been(made, tmp_path, monkeypatch):
    _, source = made
    monkeypatch.setattr(writing, "SAVE_EVERY", 20_000)
    for direction in ("to_motionv2v", "to_diffusers"):
        whole = stream.convert(source, tmp_path / f"whole_{direction}", shard_size="60KB", **QUIET)
        target = tmp_path / f"again_{direction}"
        counts, rounds = [], 0
        report = stream._Meter.__call__

        def kill(meter, count, is_new, report=report, counts=counts):
            report(meter, count, is_new)
            counts.append(count if is_new else 0)
            if sum(counts) > 100_000:
                raise _Killed

        while not target.exists():
            counts.clear()
            monkeypatch.setattr(stream._Meter, "__call__", kill)
            try:
                stream.convert(source, target, shard_size="60KB", **QUIET)
            except _Killed:
                rounds += 1
                assert (tmp_path / f".{target.name}.partial").is_dir() and not target.exists()
            assert rounds < 100, "every round gets further"
        monkeypatch.setattr(stream._Meter, "__call__", report)
        assert rounds > 2
        assert contents(target) == contents(whole)
        source = whole
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_changed_source_starts_again(made, tmp_path, monkeypatch):
    _, source = made
    target = tmp_path / "out"
    seen = []

    def kill(meter, count, is_new):
        seen.append(is_new)
        if len(seen) == 40:
            raise _Killed

    monkeypatch.setattr(writing, "SAVE_EVERY", 1)
    for settings, resumes in (({}, False), ({}, True), ({"dtype": "bfloat16"}, False)):
        seen.clear()
        monkeypatch.setattr(stream._Meter, "__call__", kill)
        with pytest.raises(_Killed):
            stream.convert(source, target, **settings, **QUIET)
        assert (False in seen) == resumes
    monkeypatch.undo()
    stream.convert(source, target, dtype="bfloat16", **QUIET)
    writing.verify(target)


def spoil(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil_weights(folder, value):
    """Put a value into a network's first tensor."""
    path = sorted(folder.glob("vae/*.safetensors"))[0]
    tensors = load_file(path)
    tensors[min(tensors)].reshape(-1)[0] = value
    save_file(tensors, path)


def nest(path, depth):
    path.write_text("[" * depth + "]" * depth)


WRONG = {
    "class": (lambda f: spoil(f, "model_index.json", _class_name="StableDiffusionPipeline"), "supported: CogVideoXPip"),
    "part": (lambda f: spoil(f, "model_index.json", vae=[None, None]), "no whole pipeline, it lacks vae"),
    "scheduler": (
        lambda f: spoil(f, "scheduler/scheduler_config.json", timestep_spacing="leading"),
        "timestep_spacing is 'leading'; supported: 'trailing'",
    ),
    "tokenizer": (
        lambda f: spoil(f, "model_index.json", tokenizer=["transformers", "CLIPTokenizer"]),
        "tokenizer class 'CLIPTokenizer' is not supported; supported: T5Tokenizer, T5TokenizerFast, ByT5Tokenizer",
    ),
    "no vocabulary": (lambda f: (f / "tokenizer/spiece.model").unlink(), "expected spiece.model or tokenizer.json"),
    "bad vocabulary": (lambda f: (f / "tokenizer/spiece.model").write_bytes(b"x"), "no sentencepiece model"),
    "cut shard": (
        lambda f: next(f.glob("transformer/*.safetensors")).write_bytes(b"12345678"), "is damaged or cut off"
    ),
    "not a number": (lambda f: spoil_weights(f, np.nan), "tensor .+ is not finite in 1 places: copy"),
    "infinite": (lambda f: spoil_weights(f, np.inf), "is not finite in 1 places"),
    "nested": (lambda f: nest(f / "transformer/config.json", 100_000), "transformer/config.json is not json"),
    "swapped": (
        lambda f: (f / "vae/config.json").write_text((f / "transformer/config.json").read_text()),
        "tensors named|is not this model|not a CogVideoX",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_pipeline_is_one_line_and_leaves_nothing(case, made, tmp_path):
    change, message = WRONG[case]
    for name, value in contents(made[1]).items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    change(tmp_path / "in")
    with pytest.raises(ConvertError, match=message) as error:
        stream.convert(tmp_path / "in", tmp_path / "out", **QUIET)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_model_folder_that_is_not_finite_is_not_exported(tmp_path):
    folder = tiny_model.save(tmp_path / "model")
    params = load_file(folder / checkpoints.WEIGHTS)
    params["dit/patch_embed/bias"][0] = np.nan
    save_file(params, folder / checkpoints.WEIGHTS)
    with pytest.raises(ConvertError, match=r"tensor dit/patch_embed/bias of .+ is not finite in 1 places"):
        stream.convert(folder, tmp_path / "out", drop_control=True, **QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_wrong_requests(made, tmp_path):
    _, source = made
    (tmp_path / "work" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    cases = [
        ((source, source), {}, "the same folder"),
        ((source, tmp_path / "x"), {"direction": "to_diffusers"}, "can be converted to_motionv2v, not to_diffusers"),
        ((source, tmp_path / "x"), {"dtype": "int8"}, "dtype is 'int8'"),
        ((source, tmp_path / "x"), {"shard_size": "big"}, "shard_size is 'big'"),
        ((tmp_path / "work", tmp_path / "x"), {}, "training work dir: make a model folder of it first"),
        ((tmp_path / "empty", tmp_path / "x"), {}, "holds none; expected model_index.json or config.json"),
        (("nowhere", tmp_path / "x"), {}, "no checkpoint 'nowhere'"),
    ]
    for paths, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            stream.convert(*paths, **settings, **QUIET)
    assert not (tmp_path / "x").exists()


def test_launcher(made, tmp_path):
    """Real processes: there, back, verified; bad input; and one that is killed while it writes."""
    _, source = made
    run = functools.partial(launch, "convert", cwd=tmp_path)
    there = run(f"--source={source}", "--target=ours", "--verify")
    assert there.returncode == 0, there.stderr
    assert "(100%)" in there.stdout and "files of" in there.stdout and "wrote" in there.stdout
    back = run("--source=ours", "--target=back", "--shard_size=60KB", "--verify")
    assert back.returncode == 0, back.stderr
    assert contents(tmp_path / "back") == contents(source)
    (tmp_path / "ours" / "spiece.model").write_bytes(b"other")
    for arguments, message in (
        (["--source=ours", "--verify"], "changed spiece.model"),
        (["--source=nowhere", "--target=x"], "no checkpoint 'nowhere'"),
    ):
        child = run(*arguments)
        assert child.returncode == 2
        assert len(child.stderr.strip().splitlines()) == 1 and message in child.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "ours"]


def test_process_killed_while_writing(tmp_path, repository):
    """SIGKILL in the middle of a file; the next run keeps what was written and the result is the undisturbed one."""
    module = MODULES["text"].clone(width=64)
    source = convert.to_diffusers(module, random_params(module), tmp_path / "in", shard_size="50KB")
    code = (
        "import sys, time; from motionv2v.convert import stream, writing; writing.SAVE_EVERY = 1000;"
        "real = stream._Meter.__call__\n"
        "def slow(self, count, is_new):\n"
        "    real(self, count, is_new); time.sleep(0.2 if is_new else 0)\n"
        "stream._Meter.__call__ = slow; stream.convert(sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    child = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    progress = tmp_path / ".out.partial" / writing.PROGRESS
    deadline = time.monotonic() + 120
    while not (progress.is_file() and json.loads(progress.read_text())["current"].get("tensors", 0) >= 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "out").exists()
    lines = []
    out = stream.convert(source, tmp_path / "out", say=lines.append)
    assert "going on with what an earlier run left" in lines[0]
    whole = stream.convert(source, tmp_path / "whole", **QUIET)
    assert contents(out) == contents(whole)
