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

from motionv2v import backbone, checkpoints, editing, figures, sections, video
from motionv2v.data import batches, tokenizer
from motionv2v.editing import motions, transfer
from motionv2v.training import loop, tasks
from motionv2v.typing import Key, PyTree, UInt8

STEPS, BATCH, RATE = 300, 4, 0.02
"""Steps (the paper's code: 250 to 400), samples of the clip in each, and AdamW's constant rate, that of its code."""


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
    say: Callable[[str], None] = print,
) -> motions.Motion:
    """Learn the motion of a clip.

    Args:
        frames: the clip at the base's size and number of frames. caption: what it shows.
        base: a text-to-video base, or a model on one: a released name, a folder or a work dir.
        workdir: of the run; the same call goes on where a run there was stopped.
        steps, rate, batch_size: of AdamW. settings: fields of `config.method` besides those that follow from the base.
        prompts: what is sampled with the motion every `probe_every` steps, for the eye; 0 samples nothing.
        seed: of the run. about: what else the motion shall tell of itself. say: called with a line on the captions.

    Returns:
        The motion, not debiased.

    Raises:
        ValueError: for settings that are impossible, a clip of another size, a work dir of another clip, a loss that is
            no number any more, and as `loop.train`.
        InterruptedError: where a signal stopped the run, whose state is saved.
    """
    config, params = transfer.load_base(base)
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
    task = ClipTask(config, params, frames, caption, prompts, say)
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
    config.optim = ConfigDict({"name": "adamw", "b1": 0.9, "b2": 0.999, "weight_decay": 0.0, "schedule": table})
    config.train = ConfigDict(
        {"steps": steps, "batch_size": batch_size, "seed": seed, "log_every": 20, "checkpoint_every": 100, "keep": 1}
        | {"probe_every": probe_every, "probe_samples": 1, "ema_decay": 0.0}
    )
    return sections.complete(config)


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
        say: Callable[[str], None],
    ):
        """Encode the clip and its caption with the base's parameters."""
        super().__init__(config)
        kind, length = config.text.tokenizer, config.data.text_length
        folder = checkpoints.resolve(config.init_from[0])
        self._tokenizer = tokenizer.make(kind, length, folder)
        self._frames, self._prompts, self._folder = frames, list(prompts), folder
        tokens = self._tokenizer.encode([caption], say)
        pixels = jnp.asarray(frames)[None].astype(jnp.float32) / 127.5 - 1
        latents = jax.jit(lambda p, x: backbone.encode(self.model, p, x))(params, pixels)
        text = jax.jit(lambda p, x: backbone.embed_text(self.model, p, x))(params, tokens)
        self._sample = {
            "target_latents": np.asarray(latents[0], np.float32), "tokens": tokens[0],
            "text": np.asarray(text[0], np.float32),
        }  # fmt: skip

    def step_reads(self) -> tuple[str, ...]:
        """Name the subtrees that the loss reads: neither the autoencoder nor the text encoder."""
        return backbone.step_reads(latents=True, text=True)

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches, all alike."""
        size = self.config.train.batch_size
        return batches.make_dataset([self._sample] * size, None, batch_size=size, seed=0)

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Sample the prompts with the motion, debiased by the default, in the model's own steps, beside the clip."""
        editor = editing.Editor(self.config, self._debiased(params), self._folder, tokenizer=self._tokenizer)
        tokens = self._tokenizer.encode(self._prompts, lambda line: None)
        made = np.asarray(editor.generate(jax.random.key(0), {}, tokens))
        shown = [("source", self._frames), *zip(self._prompts, made, strict=True)]
        return {"scalars": {}, "videos": {"transferred": figures.side_by_side(shown)}}

    def _debiased(self, params: PyTree) -> PyTree:
        motion = motions.Motion(params["conditioner"], checkpoints.config_to_json(self.config)["method"], "", {})
        return {**params, "conditioner": transfer.debiased(motion)}


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
