"""A generator: it starts as the base, trains, loads, and sees both frames; folders of CogVideoX-I2V load too."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from ml_collections import ConfigDict
from tiny_modules import DIT, MODULES, random_params

from motionv2v import backbone, checkpoints, convert, diffusion, sampling
from motionv2v.convert import export, pipeline, scheduler, stream
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.editing import interpolator
from motionv2v.methods import interpolation
from motionv2v.models.dit import Control
from motionv2v.training import loop, prepare_latents, tasks

QUIET = {"say": lambda line: None}


def config(base):
    cfg = tiny_model.config("base")
    cfg.name, cfg.init_from = "interpolation_tiny", (str(base),)
    cfg.dit.in_channels = 32
    cfg.method = ConfigDict({"name": "interpolation", "drop_last": 0.1, "image_scale": 1.0})
    cfg.optim.schedule = (("(vae|text)/.*", None), ("dit/.*", {"peak": 1e-2, "warmup": 2}))
    return cfg


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random text-to-video base."""
    return tiny_model.save(tmp_path_factory.mktemp("base") / "base", "base")


@pytest.fixture(scope="module")
def latents(base, tmp_path_factory):
    """Two pairs, encoded once: with batches of two, every batch holds the same."""
    folder = tmp_path_factory.mktemp("latents") / "latents"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_latents, "SHARD", 2)
        prepare_latents.write_latents(config(base), folder, 2, batch_size=2, **QUIET)
    return folder


@pytest.fixture(scope="module")
def workdir(base, latents, tmp_path_factory):
    """A generator that was trained for eight steps on one batch."""
    cfg = config(base)
    cfg.train.steps, cfg.train.probe_every, cfg.data.latents = 8, 8, str(latents)
    folder = tmp_path_factory.mktemp("runs") / "generator"
    loop.train(cfg, folder)
    return folder


@pytest.fixture(scope="module")
def generator(workdir):
    """The same architecture with random weights: eight steps teach too little to be seen in eight bits."""
    loaded = interpolator.load(workdir)
    return loaded.with_params(tiny_model.random_params(loaded.expected_shapes()))


def frames(count=2, size=(16, 16), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def test_starts_as_the_base(base):
    task = tasks.make(config(base))
    params = task.init(jax.random.key(0))
    base_config, base_params = checkpoints.load_model(base)
    assert set(params) == {"vae", "text", "dit"}
    rng = np.random.default_rng(0)
    xt = rng.normal(size=(2, 2, 2, 2, 16)).astype(np.float32)
    text = rng.normal(size=(2, tiny_model.LENGTH, 8)).astype(np.float32)
    videos = {name: rng.normal(size=(2, 1, 2, 2, 16)).astype(np.float32) for name in ("first", "last")}
    timestep = jnp.array([999, 300])
    conditions = {"videos": videos, "maps": {"given": np.ones((2, 2, 1, 1, 1), np.float32)}}
    base_model = backbone.build(base_config)
    expected = jax.jit(lambda p: backbone.denoise(base_model, p, xt, timestep, text))(base_params)
    start = jax.jit(lambda p: backbone.denoise(task.model, p, xt, timestep, text, conditions))(params)
    # The same sums, with products of zero between.
    np.testing.assert_allclose(start, expected, atol=1e-5)


def first_batch(task):
    with loop.open_batches(task) as batches:
        return {name: np.asarray(x) for name, x in next(batches).items() if np.asarray(x).dtype.kind in "biuf"}


def test_training_lowers_the_loss(base, latents, workdir):
    """On the batch that was trained on, for one and the same noise; only the transformer has changed."""
    cfg = checkpoints.read_config(workdir)
    task = tasks.make(cfg)
    batch, before = first_batch(task), task.init(jax.random.key(0))
    after = checkpoints.load_workdir(workdir, ema=False)[1]
    loss = jax.jit(lambda params, batch: task.loss(jax.random.key(3), params, batch)[0])
    assert loss(after, batch) < 0.7 * loss(before, batch)
    for name in ("vae", "text"):
        jax.tree.map(np.testing.assert_array_equal, after[name], before[name])
    new = after["dit"]["patch_embed"]["kernel"].reshape(4, 2, 16, -1)[:, 1]
    assert (np.abs(new).max(axis=(0, 2)) > 0).all(), "every channel of the given frames is used"


def test_training_takes_latents_and_pixels(base, latents):
    """The two frames are stored with the clip's latents; without them they are cut out of the clip and encoded."""
    cfg = config(base)
    for folder in ("", str(latents)):
        cfg.data.latents = folder
        task = tasks.make(cfg)
        batch = first_batch(task)
        if folder:
            shapes = {name: x.shape for name, x in batch.items() if name.endswith("latents")}
            one = (2, 1, 2, 2, 16)
            assert batch["given_map"].shape == (2, 2, 1, 1, 1)
            assert shapes == {"target_latents": (2, 2, 2, 2, 16), "first_latents": one, "last_latents": one}
        params = interpolator.Interpolator(cfg, {}).expected_shapes()
        loss, metrics = jax.eval_shape(task.loss, jax.random.key(0), params, batch)
        assert loss.shape == () and set(metrics) == {"loss_low_noise", "loss_high_noise"}


def test_loop_probes_against_a_cross_fade(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    *_, probe = (line for line in lines if "probe/psnr" in line)  # before the first step, and behind the last
    assert 0 < probe["probe/psnr"] < 60 and 0 < probe["probe/psnr_cross_fade"] < 60
    assert len(list((workdir / "samples" / "00000008").rglob("between_*.mp4"))) == 2


def test_cross_fade_goes_from_one_frame_to_the_other():
    first, last = frames()
    video = interpolation.cross_fade(first, last, 5)
    assert video.dtype == np.uint8
    np.testing.assert_array_equal(video[[0, -1]], [first, last])
    # Rounding to whole levels.
    assert np.abs(video[2] - (first.astype(float) + last) / 2).max() <= 0.5


def test_frames_seed_and_prompt_reach_the_output(generator):
    first, last, other = frames(3)

    def run(first, last, prompt="a disk moves", seed=0):
        # As the recipes of counterfactual pairs call it.
        return generator(first, last, prompt, 5, seed)

    video = run(first, last)
    assert video.shape == (5, 16, 16, 3) and video.dtype == np.uint8
    np.testing.assert_array_equal(run(first, last), video)
    changed = [
        run(first, last, seed=1),
        run(other, last),
        run(first, other),
        run(first, None),
        run(first, last, "a square"),
    ]
    for result in changed:
        assert result.shape == video.shape and not np.array_equal(result, video)
    # What stands where no last frame is given does not matter, and is not the same as a black one.
    assert not np.array_equal(run(first, None), run(first, np.zeros_like(first)))


FIRST, LAST = frames()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((FIRST[:, :10], LAST[:, :10]), "the frames are 10x16; this model takes .* multiples of 16, such as 16x16"),
        ((FIRST[:8], None), "the frames are 16x8; .* such as 16x16"),
        ((FIRST, LAST, "", 10), "the clip has 10 frames; the autoencoder takes 4k . 1 frames; nearest: 9 and 13"),
        ((FIRST, LAST, "", 1), "num_frames is 1; interpolation makes 4k . 1 frames, at least 5"),
        ((FIRST, LAST[:8]), r"must have one shape; got \[16, 16, 3\] and \[8, 16, 3\]"),
        ((FIRST / 255, LAST), r"the first frame must be uint8 \[H W 3\]; got float64 \[16, 16, 3\]"),
        ((FIRST, LAST[..., :1]), r"the last frame must be .*; got uint8 \[16, 16, 1\]"),
    ],
)
def test_what_it_cannot_take_is_refused_in_one_line(generator, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        generator(*given)
    assert "\n" not in str(caught.value)


def test_it_is_exported_as_programs(workdir, tmp_path):
    programs = export.stablehlo(workdir, tmp_path / "programs", platforms=("cpu",), dtype="float32", **QUIET)
    arguments = json.loads((programs / "manifest.json").read_text())["functions"]["denoise"]["arguments"]
    assert sorted(arguments[3]) == ["first_latents", "given_map", "last_latents"]


def test_other_models_are_refused(base):
    with pytest.raises(ValueError, match=r"tiny is a model of motionv2v \(motionv2v_tiny\); interpolation needs"):
        interpolator.load("tiny")
    with pytest.raises(ValueError, match=r"a model .* with 16 input channels; interpolation needs .* with 32"):
        interpolator.load(base)
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint 'nowhere'"):
        interpolator.load("nowhere")


# --- CogVideoX-I2V ---------------------------------------------------------------------------------------------------

I2V = {
    "5B-I2V": {"positions": "rope+learned", "sample_size": (3, 2, 2)},
    "1.5-5B-I2V": {"positions": "rope", "sample_size": (4, 2, 4), "patch_size_t": 2, "ofs_embed_dim": 8},
}
FACTOR = 0.7
TOKENS = ByteTokenizer(tiny_model.LENGTH).encode(["a dog"])


def write_pipeline(folder, kind):
    """Write an image-to-video folder in diffusers' layout with random weights."""
    dit = DIT.clone(in_channels=8, text_length=tiny_model.LENGTH, **I2V[kind])
    modules = {"vae": MODULES["vae"].clone(scaling_factor=FACTOR), "text": MODULES["text"].clone(vocab_size=300)}
    modules["dit"] = dit
    tokenizer, sampler = ByteTokenizer(tiny_model.LENGTH), scheduler.Sampler({"snr_shift_scale": 3.0}, "ddim")
    params = {key: random_params(module) for key, module in modules.items()}
    made = pipeline.make_config("random", modules, tokenizer, sampler, "float32")
    convert.pipeline_to_diffusers(convert.Pipeline(made, modules, params, tokenizer, sampler, FACTOR, {}), folder)
    if kind == "1.5-5B-I2V":
        path = folder / "vae" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "invert_scale_latents": True}))
    return modules, params


@pytest.mark.parametrize("kind", [pytest.param("5B-I2V", marks=pytest.mark.slow), "1.5-5B-I2V"])
def test_image_to_video_folder_is_a_generator(kind, tmp_path):
    """As diffusers saved it, and as our own converter made it from that."""
    write_pipeline(tmp_path / "theirs", kind)
    generator = interpolator.load(tmp_path / "theirs")
    again = interpolator.load(stream.convert(tmp_path / "theirs", tmp_path / "ours", **QUIET))
    # 1.5's pipeline divides the image's latents by the factor that it multiplies the video's by.
    expected = 1.0 if kind == "5B-I2V" else 1 / FACTOR**2
    for loaded in (generator, again):
        assert loaded.model.denoiser.conditioner.image_scale == pytest.approx(expected, rel=1e-12)
        assert loaded.config.vae.dtype == loaded.config.dit.dtype == "float32"
    assert again.model.denoiser == generator.model.denoiser and again.model.vae == generator.model.vae
    jax.tree.map(np.testing.assert_array_equal, again.params, generator.params)
    for last in (True, False):
        video = jax.eval_shape(
            lambda key, has_last: generator.generate(key, np.zeros((1, 2, 16, 16, 3), np.uint8), has_last, TOKENS),
            jax.random.key(0),
            np.array([last]),
        )
        assert video.shape[1:] == (generator.num_frames, 16, 16, 3)
    if kind == "5B-I2V":
        with pytest.raises(ValueError, match="the frames are 32x16; this model's learned positions are for 16x16 only"):
            generator(*frames(size=(16, 32)), num_frames=9)


@pytest.mark.slow
def test_image_to_video_is_what_diffusers_makes(tmp_path):
    """Against its recipe written out: an image's latents, zeros behind them, 1.5's extra latent frame dropped."""
    modules, params = write_pipeline(tmp_path, "1.5-5B-I2V")
    generator, notes = interpolator.load(tmp_path), []
    first, last = frames()
    options = {"num_frames": 9, "seed": 4, "num_steps": 2, "guidance": 1.0, "notify": notes.append}
    video = generator(first, None, "a dog", **options)
    assert notes == ["the model was made for 13 frames of 32x16 and generates 9 frames of 16x16"]

    @jax.jit
    def recipe(params):
        vae, text, dit = (modules[name] for name in ("vae", "text", "dit"))
        image, _ = vae.apply({"params": params["vae"]}, first[None, None] / 127.5 - 1.0, method="encode")
        image = jnp.pad(image / FACTOR, ((0, 0), (0, 3), (0, 0), (0, 0), (0, 0)))
        embedded = text.apply({"params": params["text"]}, TOKENS)
        latents = sampling.sample(
            jax.random.key(0),
            lambda xt, t: dit.apply({"params": params["dit"]}, xt, t, embedded, Control(concat=image)),
            jax.random.normal(jax.random.split(jax.random.key(4), 3)[1], (1, 4, 2, 2, 4)),
            diffusion.make_schedule(snr_shift_scale=3.0),
            sampling.Settings(2),
        )
        return vae.apply({"params": params["vae"]}, latents[:, 1:] / FACTOR, method="decode")[0]

    expected = np.clip((np.asarray(recipe(params)) + 1) * 127.5, 0, 255)
    # Half a level of rounding, and float32 sums in another order.
    assert np.abs(video - expected).max() < 0.6
    assert expected.std() > 1, "a picture, not one colour"
    ended = generator(first, last, "a dog", **options)
    assert ended.shape == video.shape and not np.array_equal(ended, video)


def test_a_trained_generator_is_written_as_image_to_video(workdir, tmp_path):
    """`drop_control` writes it for diffusers, where it takes the first frame; that folder is a generator again."""
    trained = interpolator.load(workdir)
    model = export.model_folder(workdir, tmp_path / "model", dtype="float32")
    theirs = stream.convert(model, tmp_path / "theirs", drop_control=True, dtype="float32", **QUIET)
    assert json.loads((theirs / "model_index.json").read_text())["_class_name"] == "CogVideoXImageToVideoPipeline"
    again = interpolator.load(theirs)
    assert again.model.denoiser.conditioner == trained.model.denoiser.conditioner
    assert (again.num_frames, again.size) == (trained.num_frames, trained.size)
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)
