"""Whole pipelines that diffusers saved, converted and sampled from the same noise; and ours, run by diffusers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from motionv2v import backbone, checkpoints, convert, sampling
from motionv2v.convert import scheduler, stream
from motionv2v.editing import opening, refine
from motionv2v.models import positions
from motionv2v.models.dit import Control

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

from diffusers.pipelines.cogvideo import pipeline_cogvideox_image2video as i2v_module  # noqa: E402
from diffusers.schedulers import scheduling_dpm_cogvideox as dpm_module  # noqa: E402

# Five steps of a text encoder, three blocks and an autoencoder in float32, guidance multiplying differences by six.
TOLERANCE = 1e-4
LENGTH, FRAMES, SIZE, STEPS, SCALE = 16, 9, (64, 48), 5, 6.0
PROMPTS = ["a red disk moves left", "two blue squares"]
NEGATIVE = "blurred"
SCHEDULE = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join([*PROMPTS, NEGATIVE, "a green cross turns slowly"] * 10))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=60, bos_id=-1, pad_id=0,
        eos_id=1, unk_id=2, pad_piece="<pad>", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return transformers.T5Tokenizer.from_pretrained(folder)


def randomise(module, seed):
    """Move every parameter off its start, where norms are 1 and 0 and would hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    kept = [*module.parameters(), *(b for n, b in module.named_buffers() if n in module.state_dict())]
    with torch.no_grad():
        for value in kept:
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return module.float().eval()


def assemble(tokenizer, *, pipeline="CogVideoXPipeline", solver="CogVideoXDDIMScheduler", shift=1.0, vae=None, **dit):
    """A pipeline of small random modules."""
    torch.manual_seed(0)
    small = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    t5 = transformers.T5Config(
        vocab_size=200, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 3}
    sizes |= {"time_embed_dim": 24, "text_embed_dim": 24, "max_text_seq_length": LENGTH, "sample_frames": FRAMES}
    sizes |= {"sample_height": SIZE[0] // 8, "sample_width": SIZE[1] // 8, "use_rotary_positional_embeddings": True}
    run = getattr(diffusers, pipeline)(
        tokenizer=tokenizer,
        text_encoder=randomise(transformers.T5EncoderModel(t5), 1),
        vae=randomise(diffusers.AutoencoderKLCogVideoX(**small, scaling_factor=0.7, **(vae or {})), 2),
        transformer=randomise(diffusers.CogVideoXTransformer3DModel(**{**sizes, **dit}), 3),
        scheduler=getattr(diffusers, solver)(**SCHEDULE, snr_shift_scale=shift),
    )
    run.set_progress_bar_config(disable=True)
    return run


def to_torch(latents):
    return torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 1, 4, 2, 3)))


def to_numpy(latents):
    return latents.numpy().transpose(0, 1, 3, 4, 2)


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected)


def draw_noise(frames=(FRAMES - 1) // 4 + 1, channels=4):
    shape = (len(PROMPTS), frames, SIZE[0] // 8, SIZE[1] // 8, channels)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def run_diffusers(run, noise, prompts=PROMPTS, scale=SCALE, **settings):
    """Sample latents with the pipeline; CogVideoX draws the solver's noise after each step, see `same_noise`."""
    count = len(prompts)
    with torch.no_grad():
        frames = run(
            prompt=prompts,
            negative_prompt=[NEGATIVE] * count,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=scale,
            latents=to_torch(noise),
            max_sequence_length=run.transformer.config.max_text_seq_length,
            output_type="latent",
            **settings,
        ).frames
    return to_numpy(frames)


def run_ours(key, pipeline, noise, prompts=PROMPTS, scale=SCALE, control=None):
    """Sample latents from a converted pipeline's config and parameters alone."""
    model = backbone.build(pipeline.config)
    params = pipeline.params
    text = backbone.embed_text(model, params, pipeline.tokenizer.encode([*prompts, NEGATIVE]))
    null = jnp.repeat(text[-1:], len(prompts), axis=0)

    def predict(xt, timestep, text):
        return model.denoiser.dit.apply({"params": params["dit"]}, xt, timestep, text, control)

    return sampling.sample(
        key,
        functools.partial(predict, text=text[:-1]),
        noise,
        pipeline.schedule,
        sampling.Settings(STEPS, pipeline.config.sample.solver, sampling.Guidance(scale)),
        lambda xt, timestep: (predict(xt, timestep, text[:-1]), predict(xt, timestep, null)),
    )


@pytest.fixture
def same_noise(monkeypatch):
    """Let diffusers' DPM solver draw what ours draws from this key; it draws twice a step and uses the last."""
    key = jax.random.key(5)
    step = [0]
    real = dpm_module.CogVideoXDPMScheduler.step

    def counted(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        step[0] += 1
        return out

    def draw(shape, **_):
        batch, frames, channels, rows, columns = shape
        noise = jax.random.normal(jax.random.fold_in(key, step[0]), (batch, frames, rows, columns, channels))
        return to_torch(np.asarray(noise))

    monkeypatch.setattr(dpm_module.CogVideoXDPMScheduler, "step", counted)
    monkeypatch.setattr(dpm_module, "randn_tensor", draw)
    return key


@pytest.mark.parametrize(
    ("solver", "shift", "dit"),
    [
        ("CogVideoXDDIMScheduler", 1.0, {}),
        ("CogVideoXDPMScheduler", 3.0, {"use_rotary_positional_embeddings": False}),
        ("CogVideoXDPMScheduler", 1.0, {}),
    ],
)
def test_text_to_video_from_the_same_noise(solver, shift, dit, tokenizer, same_noise, tmp_path):
    run = assemble(tokenizer, solver=solver, shift=shift, **dit)
    run.save_pretrained(tmp_path / "pipe", max_shard_size="100KB")
    pipeline = convert.pipeline_from_diffusers(tmp_path / "pipe")
    noise = draw_noise()
    expected = run_diffusers(run, noise, height=SIZE[0], width=SIZE[1])
    latents = run_ours(same_noise, pipeline, noise)
    assert relative_error(latents, expected) <= TOLERANCE
    # The text and the guidance matter by far more.
    assert relative_error(run_ours(same_noise, pipeline, noise, PROMPTS[::-1]), expected) > 100 * TOLERANCE
    with torch.no_grad():
        video = run.decode_latents(to_torch(expected)).numpy().transpose(0, 2, 3, 4, 1)
    ours = backbone.decode(backbone.build(pipeline.config), pipeline.params, latents)
    assert relative_error(ours, np.clip(video, -1, 1)) <= TOLERANCE


@pytest.mark.parametrize("shards", ["100KB", "1GB"])
def test_a_variant_that_diffusers_saved_is_read(shards, tokenizer, tmp_path):
    run = assemble(tokenizer)
    run.save_pretrained(tmp_path / "plain")
    run.save_pretrained(tmp_path / "variant", variant="fp16", max_shard_size=shards)
    for name in ("vae", "text_encoder", "transformer"):
        saved = [path.name for path in (tmp_path / "variant" / name).glob("*safetensors*")]
        assert saved and all("fp16" in one for one in saved), saved
    assert list((tmp_path / "variant" / "transformer").glob("*.index.fp16.json")) or shards == "1GB"
    notices = []
    pipeline = convert.pipeline_from_diffusers(tmp_path / "variant", notify=notices.append)
    assert len(notices) == 3 and all("variant fp16" in notice for notice in notices)
    expected = convert.pipeline_from_diffusers(tmp_path / "plain")
    jax.tree.map(np.testing.assert_array_equal, pipeline.params, expected.params)


def test_written_pipeline_runs_in_diffusers(tokenizer, tmp_path):
    run = assemble(tokenizer, solver="CogVideoXDDIMScheduler", shift=3.0)
    run.save_pretrained(tmp_path / "pipe", max_shard_size="100KB")
    pipeline = convert.pipeline_from_diffusers(tmp_path / "pipe")
    convert.pipeline_to_diffusers(pipeline, tmp_path / "out", shard_size="40KB")
    again = diffusers.CogVideoXPipeline.from_pretrained(tmp_path / "out")
    again.set_progress_bar_config(disable=True)
    for name in ("vae", "text_encoder", "transformer"):
        expected = getattr(run, name).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in getattr(again, name).state_dict().items())
        assert len(list((tmp_path / "out" / name).glob("*.safetensors"))) > 1
    for name in ("model_index.json", "scheduler/scheduler_config.json", "vae/config.json", "transformer/config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((tmp_path / "pipe" / name).read_text())
    assert type(again.scheduler) is type(run.scheduler)
    for path in (tmp_path / "pipe" / "tokenizer").iterdir():
        assert (tmp_path / "out" / "tokenizer" / path.name).read_bytes() == path.read_bytes()
    noise = draw_noise()
    first, second = (run_diffusers(r, noise, height=SIZE[0], width=SIZE[1]) for r in (run, again))
    # The same weights in the same library.
    assert relative_error(second, first) <= 1e-6


@pytest.mark.parametrize(
    ("dit", "vae"),
    [
        ({"use_learned_positional_embeddings": True}, {}),
        (
            {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 24},
            {"invert_scale_latents": True},
        ),
    ],
    ids=["5B-I2V", "1.5-5B-I2V"],
)
def test_image_to_video_from_the_same_noise(dit, vae, tokenizer, tmp_path, monkeypatch):
    """The image's latents, scaled as the config says, stand beside the noise in the first latent frame."""
    run = assemble(tokenizer, pipeline="CogVideoXImageToVideoPipeline", in_channels=8, vae=vae, **dit)
    run.save_pretrained(tmp_path / "pipe", max_shard_size="100KB")
    pipeline = convert.pipeline_from_diffusers(tmp_path / "pipe")
    monkeypatch.setattr(i2v_module, "retrieve_latents", lambda encoded, generator: encoded.latent_dist.mode())
    image = np.random.default_rng(1).uniform(0, 1, (len(PROMPTS), *SIZE, 3)).astype(np.float32)
    module = pipeline.modules["dit"]
    frames = (FRAMES - 1) // 4 + 1
    extra = positions.extra_frames(frames, module.patch_size_t)
    noise = draw_noise(frames + extra)
    expected = run_diffusers(
        run, noise, image=torch.from_numpy(image.transpose(0, 3, 1, 2)), height=SIZE[0], width=SIZE[1]
    )
    encode = jax.jit(functools.partial(pipeline.modules["vae"].apply, method="encode"))
    mean, _ = encode({"params": pipeline.params["vae"]}, 2 * jnp.asarray(image)[:, None] - 1)
    first = jnp.pad(mean * pipeline.image_scale, ((0, 0), (0, frames + extra - 1), (0, 0), (0, 0), (0, 0)))
    latents = run_ours(jax.random.key(0), pipeline, noise, control=Control(concat=first))
    assert relative_error(latents, expected) <= TOLERANCE
    convert.pipeline_to_diffusers(pipeline, tmp_path / "out")
    again = diffusers.CogVideoXImageToVideoPipeline.from_pretrained(tmp_path / "out")
    assert again.vae.config.invert_scale_latents == run.vae.config.invert_scale_latents
    state = run.transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.transformer.state_dict().items())


def test_the_released_model_runs_in_diffusers(tmp_path):
    """`tiny`, trained by this project: its base as a pipeline of diffusers, with transformers' tokenizer of bytes."""
    folder = stream.convert("tiny", tmp_path / "tiny", dtype="float32", drop_control=True, say=lambda line: None)
    run = diffusers.CogVideoXPipeline.from_pretrained(folder)
    run.set_progress_bar_config(disable=True)
    config, params = checkpoints.load_model("tiny")
    pipeline = convert.pipeline_from_diffusers(folder)
    base = {name: value for name, value in params["dit"].items() if name != "control"}
    jax.tree.map(np.testing.assert_array_equal, pipeline.params["dit"], base)
    prompts = ["a large red disk moves left"]
    noise = np.random.default_rng(2).standard_normal((1, 5, 8, 8, 16)).astype(np.float32)
    size = {"height": config.data.size[0], "width": config.data.size[1]}
    shared = pipeline.config.data.num_frames
    assert shared == config.data.num_frames == 17
    with torch.no_grad():
        expected = to_numpy(
            run(
                prompt=prompts, negative_prompt=[NEGATIVE], num_frames=17, num_inference_steps=STEPS,
                guidance_scale=SCALE, latents=to_torch(noise), max_sequence_length=32, output_type="latent", **size,
            ).frames
        )  # fmt: skip
    latents = run_ours(jax.random.key(0), pipeline, noise, prompts)
    assert relative_error(latents, expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
@pytest.mark.parametrize(
    "settings",
    [{"snr_shift_scale": 1.0}, {}, {"beta_end": 0.02, "num_train_timesteps": 500}, {"rescale_betas_zero_snr": False}],
)
def test_scheduler_configs_make_the_same_schedule(name, settings, tmp_path):
    """As written by diffusers, its defaults included; and ours, read by diffusers."""
    theirs = getattr(diffusers, name)(**{**SCHEDULE, **settings})
    theirs.save_pretrained(tmp_path / "in")
    sampler = scheduler.from_config(json.loads((tmp_path / "in" / "scheduler_config.json").read_text()))
    abar = sampler.make_schedule().alphas_cumprod
    # Theirs (float64) rounded once: half a unit in the last place of float32.
    np.testing.assert_allclose(abar, theirs.alphas_cumprod.numpy(), rtol=6.1e-8, atol=0)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler.to_config(sampler)))
    again = getattr(diffusers, name).from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, theirs.alphas_cumprod)
    assert again.config.timestep_spacing == "trailing" and again.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("reads_image", [False, True])
def test_a_folder_of_diffusers_refines_a_clip(reads_image, tokenizer, tmp_path):
    """Text to video and image to video alike: held to the end a sample is the clip, held to nothing it is not."""
    kind = {"pipeline": "CogVideoXImageToVideoPipeline", "in_channels": 8} if reads_image else {}
    assemble(tokenizer, **kind).save_pretrained(tmp_path / "pipe")
    said = []
    refiner = refine.load(tmp_path / "pipe", say=said.append)
    assert said[0].startswith("memory for sample: ")
    assert refiner.reads_image == reads_image
    assert opening.refines(tmp_path / "pipe") and opening.refines(f"{refine.PREFIX}{tmp_path / 'pipe'}")
    clip = np.random.default_rng(0).integers(0, 255, (1, FRAMES, *SIZE, 3)).astype(np.uint8)
    grid = backbone.latent_shape((1, FRAMES, *SIZE, 3), 4)[1:4]
    tokens, settings = refiner.tokenizer.encode([PROMPTS[0]]), refiner.settings(3)
    params = {"vae": refiner.params["vae"]}
    latents = backbone.encode(refiner.model, params, clip.astype(np.float32) / 127.5 - 1)
    through = np.round((np.asarray(backbone.decode(refiner.model, params, latents)) + 1) * 127.5)
    held, free = (
        refiner.sample_held(jax.random.key(0), clip, np.full((1, *grid, 1), clock, np.float32), 1, tokens, settings)
        for clock in (1, 0)
    )
    assert np.abs(np.asarray(held).astype(int) - through).max() <= 1
    assert np.abs(np.asarray(free).astype(int) - through).mean() > 1


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_video_to_video_from_the_same_noise(strength, tokenizer, tmp_path):
    """diffusers' video-to-video is SDEdit: a clip with noise, from a step in the middle on; so is a hold of clock 0."""
    run = assemble(tokenizer, pipeline="CogVideoXVideoToVideoPipeline")
    run.save_pretrained(tmp_path / "pipe")
    refiner = refine.load(tmp_path / "pipe", say=lambda line: None)
    clip = np.random.default_rng(1).integers(0, 255, (2, FRAMES, *SIZE, 3)).astype(np.uint8)
    reference = backbone.encode(refiner.model, {"vae": refiner.params["vae"]}, clip.astype(np.float32) / 127.5 - 1)
    noise = draw_noise()
    start = STEPS - int(STEPS * strength)
    run.scheduler.set_timesteps(STEPS)
    first = run.scheduler.timesteps[start : start + 1]
    begun = run.scheduler.add_noise(to_torch(np.asarray(reference)), to_torch(noise), first)
    with torch.no_grad():
        frames = run(
            prompt=PROMPTS, negative_prompt=[NEGATIVE] * 2, num_inference_steps=STEPS, strength=strength,
            guidance_scale=SCALE, latents=begun, max_sequence_length=LENGTH, output_type="latent", height=SIZE[0],
            width=SIZE[1],
        ).frames  # fmt: skip
    params, tokens = refiner.params, refiner.tokenizer.encode([*PROMPTS, NEGATIVE])
    text = backbone.embed_text(refiner.model, params, tokens)
    denoise, guided = refiner.denoisers(params, text[:-1], jnp.repeat(text[-1:], 2, axis=0), None, False)
    settings = sampling.Settings(STEPS, "ddim", sampling.Guidance(SCALE))
    for clock in (0.0, 1e-3):  # below the start's share of signal a clock holds nothing
        hold = sampling.Hold(jnp.asarray(reference), jnp.full((1, 1, 1, 1, 1), clock), start)
        made = sampling.sample(jax.random.key(0), denoise, noise, refiner.model.schedule, settings, guided, hold)
        assert relative_error(made, to_numpy(frames)) < TOLERANCE
