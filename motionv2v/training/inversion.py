"""Learn the motion of one clip (Motion Inversion): some hundred steps on a frozen base, of its embeddings alone.

The clip is encoded once, its caption too; each step draws other noise at other levels for a batch of it. The run is
`loop.train`'s, in a work dir: it tells how far it is, saves, and goes on where it was stopped.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, diffusion, editing, figures, parameters, sections, video
from motionv2v.data import batches
from motionv2v.devices import fit
from motionv2v.editing import motions, transfer
from motionv2v.models.dit import base_params
from motionv2v.training import loop, tasks
from motionv2v.typing import Key, PyTree, UInt8

Batch = dict[str, Any]

STEPS, BATCH, RATE = 300, 4, 0.02
"""Steps (the paper's code: 250 to 400), samples of the clip in each, and AdamW's constant rate, that of its code."""
LORA_RANK, LORA_RATE, LORA_LEFT_OUT = 32, 5e-4, 0.2
"""Of the updates that learn the look of single frames beside the embeddings (`loss` "hybrid"): their rank and rate, and
the share of steps without them; as in the paper's code, which also has a dropout of 0.1 there."""
LORA_TARGETS = tuple(f"attention/{name}" for name in "qkvo")
"""What they update: attention within frames, or where there is no such attention, all of it."""


def learn(
    frames: UInt8[np.ndarray, "T H W 3"],
    caption: str,
    base: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    batch_size: int = BATCH,
    settings: dict[str, Any] | None = None,
    prompts: Sequence[str] = (),
    probe_every: int = 0,
    seed: int = 0,
    about: dict[str, Any] | None = None,
    loaded: tuple[ConfigDict, PyTree] | None = None,
    say: Callable[[str], None] = print,
) -> motions.Motion:
    """Learn the motion of a clip.

    Args:
        frames: the clip at the base's size and number of frames. caption: what it shows.
        base: a text-to-video base, or a model on one: a released name, a folder or a work dir.
        workdir: of the run; the same call goes on where a run there was stopped.
        steps, rate, batch_size: of AdamW. settings: fields of `config.method` besides those that follow from the base.
        prompts: what is sampled with the motion every `probe_every` steps, for the eye; 0 samples nothing.
        seed: of the run. about: what else the motion shall tell of itself.
        loaded: the base, where `transfer.load_base` has read it already. say: called with a line on what is done.

    Returns:
        The motion, not debiased.

    Raises:
        ValueError: for settings that are impossible, a clip of another size, a work dir of another clip, a loss that is
            no number any more, and as `loop.train`.
        InterruptedError: where a signal stopped the run, whose state is saved.
    """
    config, params = loaded or transfer.load_base(base)
    settings, own = dict(settings or {}), motions.digest(params["dit"])
    at_use = {name: settings.pop(name) for name in ("debias", "start") if name in settings}
    transfer.with_method(config, at_use)  # which checks them
    config = run_config(config, base, settings, steps, rate, batch_size, probe_every, seed)
    # A run in this work dir of another clip is another run, and is refused as one.
    content = hashlib.sha256(np.ascontiguousarray(frames).tobytes() + f"{caption}\n{own}".encode())
    config.name = f"motion_of_{content.hexdigest()[:12]}"
    expected = (*config.data.size, 3)
    if frames.shape != (config.data.num_frames, *expected) or frames.dtype != np.uint8:
        shape = [config.data.num_frames, *expected]
        raise ValueError(f"the clip must be uint8 {shape}, as {base} works; got {frames.dtype} {list(frames.shape)}")
    fit.check(as_prepared(config), what="train", say=say)
    task = ClipTask(config, params, frames, caption, prompts, at_use, say)
    try:
        state = loop.train(config, workdir, task)
    except loop.DivergedError as error:
        raise ValueError(f"{error}; a smaller rate than {rate:g} may help") from error
    if int(state.step) < steps:
        raise InterruptedError(
            f"learning was stopped after step {int(state.step)} of {steps}; the same command goes on"
        )
    learned = {name: np.asarray(value) for name, value in state.trainable["conditioner"].items()}
    told = {"base": Path(base).name, "caption": caption, "steps": int(state.step), "seed": seed}
    told |= {"frames": len(frames), "size": list(config.data.size), **(about or {})}
    return motions.Motion(learned, checkpoints.config_to_json(config)["method"] | at_use, own, told)


def run_config(
    base: ConfigDict,
    base_name: str | os.PathLike,
    settings: dict[str, Any],
    steps: int = STEPS,
    rate: float = RATE,
    batch_size: int = BATCH,
    probe_every: int = 0,
    seed: int = 0,
) -> ConfigDict:
    """Build the config of a run from its base's. Raises ValueError for settings that are impossible."""
    config = transfer.with_method(base, settings)
    config = ConfigDict(config.to_dict())
    # By one name from wherever it is called, so that a run knows its base again.
    name = str(base_name) if str(base_name) in checkpoints.RELEASED else str(Path(base_name).resolve())
    config.update({"name": "motion_inversion", "init_from": (name,), "resume_from": ()})
    # What belongs to the machine and the data that the base was trained on.
    config.data.update({"latents": "", "mix": (), "buckets": (), "caption_dropout": 0.0})
    config.data.update({"text_embeddings": False, "vocabulary": ""})
    if "mesh" in config:
        del config.mesh
    config.loss = ConfigDict({"timesteps": "uniform"})
    table = (("conditioner/.*", {"peak": rate}), ("(vae|text|dit)/.*", None))
    if config.method.loss == "hybrid":
        config.dit.update({"lora_rank": LORA_RANK, "lora_targets": LORA_TARGETS})
        table = (("dit/lora/.*", {"peak": LORA_RATE}), *table)
    config.optim = ConfigDict({"name": "adamw", "b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "schedule": table})
    config.train = ConfigDict(
        {"steps": steps, "batch_size": batch_size, "seed": seed, "log_every": 20, "checkpoint_every": 100, "keep": 1}
        | {"probe_every": probe_every, "probe_samples": 1, "ema_decay": 0.0}
        # As the base computes: its weights are rounded to that anyway where they are used.
        | {"frozen_dtype": config.dit.dtype}
    )
    return sections.complete(config)


def as_prepared(config: ConfigDict) -> ConfigDict:
    """Return a run's config as that of a run on prepared latents and texts: its steps need the same memory."""
    config = ConfigDict(config.to_dict())
    config.data.text_embeddings = True
    return config


class ClipTask(tasks.DenoiserTask):
    """Train the embeddings of one clip: every sample is that clip, which the batches bring."""

    keeps_programs = True

    def __init__(
        self,
        config: ConfigDict,
        params: PyTree,
        frames: UInt8[np.ndarray, "T H W 3"],
        caption: str,
        prompts: Sequence[str],
        at_use: dict[str, Any],
        say: Callable[[str], None],
    ):
        """Encode the clip and its caption with the base's parameters; `prompts` are probed as `at_use` says."""
        super().__init__(config)
        self._base, self._at_use = params, at_use
        folder = checkpoints.resolve(config.init_from[0])
        self._tokenizer = transfer.tokenizer_of(config, folder)
        self._frames, self._prompts, self._folder = frames, list(prompts), folder
        tokens = self._tokenizer.encode([caption], say)
        pixels = jnp.asarray(frames)[None].astype(jnp.float32) / 127.5 - 1
        latents = jax.jit(lambda p, x: backbone.encode(self.model, p, x))(params, pixels)
        text = jax.jit(lambda p, x: backbone.embed_text(self.model, p, x))(params, tokens)
        self._sample = {
            "target_latents": np.asarray(latents[0], np.float32), "tokens": tokens[0],
            "text": np.asarray(text[0], np.float32),
        }  # fmt: skip

    def init(self, key: Key) -> PyTree:
        """Draw what is learned, beside the base."""
        base = parameters.flatten(self._base)
        drawn = parameters.flatten(tasks.draw(key, self.config, self.model, set(base)))
        return parameters.unflatten(drawn | base)

    def step_reads(self) -> tuple[str, ...]:
        """Name the subtrees that the loss reads: neither the autoencoder nor the text encoder."""
        return backbone.step_reads(latents=True, text=True)

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches, all alike."""
        size = self.config.train.batch_size
        return batches.make_dataset([self._sample] * size, None, batch_size=size, seed=0)

    def loss(self, key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss of the clip; for "hybrid" also that of one frame of it, drawn by chance, without a motion."""
        if self.config.method.loss != "hybrid":
            return super().loss(key, params, batch)
        keys = jax.random.split(jax.random.fold_in(key, 2), 5)
        used = jax.random.bernoulli(keys[0], 1 - LORA_LEFT_OUT).astype(jnp.float32)
        params = {**params, "dit": _with_updates(params["dit"], used)}
        whole, parts = super().loss(key, params, batch)
        clip = batch["target_latents"]
        frame = jax.lax.dynamic_slice_in_dim(clip, jax.random.randint(keys[1], (), 0, clip.shape[1]), 1, axis=1)
        schedule = self.model.schedule
        timestep = diffusion.sample_timesteps(keys[2], (len(frame),), schedule, self.config.loss.timesteps)
        eps = jax.random.normal(keys[3], frame.shape)
        noisy = diffusion.corrupt(schedule, frame, eps, timestep)
        made = backbone.denoise(self.model, params, noisy, timestep, batch["text"], None, use_control=False)
        one_frame = used * diffusion.loss(made, frame, eps, timestep, schedule).mean()
        return whole + one_frame, parts | {"loss_one_frame": one_frame}

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Sample the prompts with the motion, from noise, beside the clip."""
        del key
        method = checkpoints.config_to_json(self.config)["method"] | self._at_use
        motion = motions.Motion(params["conditioner"], method, "", {})
        if self._sampler is None:
            config = transfer.with_method(transfer.base_config(self.config, self.config.name), transfer.as_used(method))
            self._sampler = editing.Editor(config, {}, self._folder, tokenizer=self._tokenizer)
        used = {**params, "dit": base_params(params["dit"]), "conditioner": transfer.debiased(motion)}
        with tasks.lent(self._sampler, used) as sampler:
            num_steps, guidance = transfer.sampled_as(sampler.config)
            tokens = self._tokenizer.encode(self._prompts, lambda line: None)
            options = {"num_steps": num_steps, "guidance": guidance}
            made = np.asarray(sampler.generate(jax.random.key(self.config.train.seed), {}, tokens, **options))
        shown = [("source", self._frames), *zip(self._prompts, made, strict=True)]
        return {"scalars": {}, "videos": {"transferred": figures.side_by_side(shown)}}


def _with_updates(dit: PyTree, used: jax.Array) -> PyTree:
    """Return a transformer's parameters with its low-rank updates times a number."""
    halves = parameters.flatten(dit["lora"])
    scaled = {path: leaf * used if path.endswith("/b") else leaf for path, leaf in halves.items()}
    return {**dit, "lora": parameters.unflatten(scaled)}


def read_clip(path: str | os.PathLike, config: Any, notify: Callable[[str], None]) -> video.Clip:
    """Read the clip whose motion shall be learned, as far as a base works on it, and bring it to the base's size.

    Raises VideoError as `video.read`.
    """
    try:
        clip = video.read(path, num_frames=config.data.num_frames + 1, notify=notify)
    except video.VideoError:  # a shorter one, or what cannot be read at all
        clip = video.read(path, notify=notify)
    return clip._replace(frames=fit_clip(clip, config, notify))


def fit_clip(clip: video.Clip, config: Any, notify: Callable[[str], None]) -> UInt8[np.ndarray, "T H W 3"]:
    """Bring a clip to a base's size and frames: the first ones of a longer one, the last held of a shorter one."""
    frames, wanted, size = clip.frames, config.data.num_frames, tuple(config.data.size)
    if len(frames) > wanted:
        notify(f"the clip has more than {wanted} frames: the motion of the first {wanted} is learned")
    if len(frames) < wanted:
        notify(f"the clip has {len(frames)} frames and the base works on {wanted}: the last frame is held")
    frames = np.asarray(frames[:wanted])
    frames = np.concatenate([frames, np.repeat(frames[-1:], wanted - len(frames), axis=0)])
    if frames.shape[1:3] != size:
        notify(
            f"the clip is {frames.shape[2]}x{frames.shape[1]} and the base works at {size[1]}x{size[0]}: it is resized"
        )
    return video.resize(frames, size)
