"""Refine a draft with a model that was never trained for edits: any text-to-video or image-to-video base.

The draft is laid into the sample as a reference with noise, and parts of it are let go at different noise levels
(Time-to-Move, arXiv 2511.08633, whose two clocks are two values here; `sampling.Hold`). How long a latent's cell is
held follows from where its pixels are from:

    kept      pixels of the clip that the edit leaves where they were    almost to the end
    object    pixels of the clip that are seen elsewhere                 `strong`: the motion is decided, looks are free
    band      a cell around what moves                                   halfway between the two
    hole      made up, or doubtful                                       never: they start from the draft with noise

Clocks are shares of signal, sqrt(abar), and no numbers of steps, so that they mean the same in any number of steps. An
image-to-video model is also given the draft's first frame. Afterwards the kept pixels are laid over the result, faded
in, so that they stay the clip's own.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, draft, methods, parameters, sampling, sections, video
from motionv2v.convert import checked, generators, lora, pipeline
from motionv2v.data import tokenizer
from motionv2v.devices import costs, fit, memory
from motionv2v.editing import interpolator, kinds, loaded_model, remade, transfer, warped_noise, windows
from motionv2v.models.activations import constrain
from motionv2v.models.dit import base_params
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import AnyArray, Bool, Float, PyTree, UInt8

PREFIX = "refine:"
"""Before a checkpoint's name: its base, without what a method added to it."""
SURE = 0.3
"""Doubt up to which a draft's pixel counts as the clip's."""


class Clocks(NamedTuple):
    """Shares of signal, 0 to 1, at which parts of a draft are let go; see the module.

    `weak`: at which the sample starts. `strong`: of what moves. `kept`: of what stays.
    """

    weak: float = 0.04
    strong: float = 0.12
    kept: float = 0.98

    def check(self) -> None:
        """Raise ValueError unless 0 <= weak <= strong <= kept <= 1."""
        if not 0 <= self.weak <= self.strong <= self.kept <= 1:
            raise ValueError(
                f"the clocks are weak {self.weak:g}, strong {self.strong:g}, kept {self.kept:g}; expected "
                "0 <= weak <= strong <= kept <= 1, shares of signal"
            )


def parse(text: str) -> Clocks:
    """Read "weak,strong" as a command line gives it. Raises ValueError, one line, for anything else."""
    try:
        weak, strong = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"clocks are weak,strong, such as 0.04,0.12, shares of signal from 0 to 1; got {text!r}"
        ) from None
    clocks = Clocks(weak, strong)
    clocks.check()
    return clocks


IMAGE_TO_VIDEO, TEXT_TO_VIDEO = Clocks(), Clocks(strong=0.4)
"""What is used unless something is said. A text-to-video model knows the clip from the draft alone, and has to be held
to it until more of its look is decided."""


class Provenance(NamedTuple):
    """Where the pixels of a draft are from, masks [T H W]; what is in none of them is made up or doubtful."""

    kept: Bool[np.ndarray, "T H W"]
    moved: Bool[np.ndarray, "T H W"]


def provenance(clip: UInt8[np.ndarray, "T H W 3"], drawn: draft.Draft) -> Provenance:
    """Tell where a draft's pixels are from. Raises ValueError for one that was drawn without its maps."""
    if len(drawn.hole) != len(clip):
        raise ValueError("the draft was drawn without its maps; draw it with them (stream=False)")
    is_sure = ~drawn.hole & (drawn.uncertain <= SURE)
    stays = (np.asarray(drawn.frames) == clip).all(-1) & (drawn.layer == 0)
    return Provenance(is_sure & stays, is_sure & ~stays | ~drawn.hole & (drawn.layer > 0))


def pasted(
    drafted: UInt8[np.ndarray, "T H W 3"], made: UInt8[np.ndarray, "T H W 3"], kept: Bool[np.ndarray, "T H W"]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Lay the kept pixels of a draft over what a model made of it, faded in around them; `made` is changed."""
    for t in range(len(made)):  # one by one: their weights are as large as four clips
        part = slice(t, t + 1)
        made[part] = remade.over(drafted[part], made[part], remade.feathered(~kept[part]))
    return made


def clock_map(found: Provenance, clocks: Clocks) -> Float[np.ndarray, "t h w 1"]:
    """Lay clocks over the latents of a clip whose sides are the model's.

    A cell is kept if all of its pixels are, in all of its frames, and of an object if any of them is: what moves within
    a group of frames would be lost otherwise.
    """
    shape = latent_shape((1, *found.kept.shape, 3))[1:4]
    kept, moved = _per_cell(found.kept, shape, np.all), _per_cell(found.moved, shape, np.any)
    around = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) for mask in moved]).astype(bool)
    clock = np.where(kept, clocks.kept, 0.0)
    clock = np.where(around, (clocks.weak + clocks.strong) / 2, clock)
    return np.where(moved, clocks.strong, clock)[..., None].astype(np.float32)


def _per_cell(mask, shape, reduce):
    """Reduce a mask [T H W] over the pixels and frames of each latent; the first one has one frame."""
    rows, columns = shape[1:]
    height, width = mask.shape[1:]
    cells = reduce(mask.reshape(len(mask), rows, height // rows, columns, width // columns), axis=(2, 4))
    return np.stack([cells[0], *(reduce(cells[1 + 4 * k : 5 + 4 * k], axis=0) for k in range(shape[0] - 1))])


def first_step(schedule: Any, num_steps: int, weak: float) -> int:
    """Return how many steps are left out at the noisy end: those before the level nearest to `weak`."""
    grid = sampling.time_grid(num_steps, schedule.num_timesteps)
    return int(np.abs(np.asarray(schedule.alpha)[grid] - weak).argmin())


def described(name_or_folder: str | os.PathLike) -> tuple[ConfigDict, Path]:
    """Return the config of the base that a name stands for, as it is sampled, and where it lies; no weights are read.

    Raises:
        checkpoints.CheckpointError, convert.ConvertError, ValueError: as `load`.
    """
    name = str(name_or_folder).removeprefix(PREFIX)
    config, folder = kinds.described(name)
    if not _reads_image(config):
        return sections.complete(transfer.base_config(config, name)), folder
    is_known = "method" not in config or methods.get(config.method.name).continues()
    if config.dit.control_depth or not is_known:
        raise ValueError(
            f"{name} is more than its image-to-video base, which alone refines: launch/convert.py "
            "--drop_control writes that as a folder of diffusers"
        )
    return sections.complete(config if "method" in config else generators.as_generator(config, folder)), folder


def tell_cost(
    config: ConfigDict,
    num_frames: int,
    num_steps: int | None = None,
    guidance: float | None = None,
    clocks: Clocks | None = None,
    say: Callable[[str], None] = print,
) -> costs.Cost:
    """Say in one line what refining a draft of so many frames costs, by the config that `described` returns.

    Other arguments are those of `Refiner.refine`.
    """
    num_steps, guidance = transfer.sampled_as(config, num_steps, guidance)
    settings = sampling.from_config(config.sample, num_steps=num_steps, guidance=guidance)
    start = first_step(backbone.build(config).schedule, num_steps, (clocks or suited(config)).weak)
    pieces = len(windows.of_config(config, num_frames).starts)
    return costs.tell(config, settings._replace(start=start), pieces, say=say)


def load(
    name_or_folder: str | os.PathLike,
    loras: Sequence[str] = (),
    say: Callable[[str], None] = print,
    asked: Mapping[str, Any] | None = None,
) -> "Refiner":
    """Load a base to refine with: of a released name, a model folder, or a folder that diffusers saved.

    Args:
        name_or_folder: the base. loras: merged into its transformer, FILE or FILE:weight (`convert.lora`).
        say: called with lines on memory, and one for each of them, how much of the transformer it changes.
        asked: arguments of `tell_cost`: what will be refined, whose cost is said too.

    Raises:
        checkpoints.CheckpointError, convert.ConvertError: a one-line reason if there is no such model.
        ValueError: for a model of another kind, and for one that does not fit, before weights are read.
    """
    name = str(name_or_folder).removeprefix(PREFIX)
    own = None
    sampled, _ = described(name)
    updates = _read_loras(sampled, loras)
    fit.check(sampled, None, "sample", say=say)
    fit.check_weights(kinds.described(name)[0], say=say)  # what is no base's is read too, and left out then
    if asked is not None:
        tell_cost(sampled, **asked, say=say)
    if _reads_image(sampled):
        found = interpolator.read(name)  # on the host: what is merged into weights is merged there
        params = _with_loras(found.config, found.params, *updates, say)
        return Refiner(found.config, params, found.folder, tokenizer=found.tokenizer)
    if (Path(name) / pipeline.INDEX).is_file():
        stored = pipeline.stored(name)
        config, params, own, folder = stored.config, stored.params, stored.tokenizer, Path(name)
    else:
        (config, params), folder = checked.read(name), checkpoints.resolve(name)
    config = sections.complete(transfer.base_config(config, name))
    tree = {"vae": params["vae"], "text": params["text"], "dit": base_params(params["dit"])}
    return Refiner(config, _with_loras(config, tree, *updates, say), folder, tokenizer=own)


def _read_loras(config: ConfigDict, loras: Sequence[str]) -> tuple[list[lora.Update], list[float]]:
    """Read low-rank updates, and check that they are the base's by its config alone, before its weights are read."""
    updates, weights = lora.read_all(loras)
    shapes = {path: leaf.shape for path, leaf in parameters.flatten(memory.parameter_shapes(config)["dit"]).items()}
    lora.fit(backbone.build(config).denoiser.dit, shapes, updates, weights)
    return updates, weights


def _with_loras(
    config: ConfigDict,
    params: PyTree,
    updates: Sequence[lora.Update],
    weights: Sequence[float],
    say: Callable[[str], None],
) -> PyTree:
    """Merge low-rank updates into a model's transformer, and say how much of it each of them changes."""
    if not updates:
        return params
    module = backbone.build(config).denoiser.dit
    merged = lora.merge(module, params["dit"], updates, weights)
    for update, weight in zip(updates, weights, strict=True):
        say(f"lora {lora.coverage(module, update)}, weight {weight:g}")
    return {**params, "dit": merged}


def settings(config: ConfigDict, num_steps: int | None = None, guidance: float | None = None) -> dict[str, Any]:
    """Return how a base of a config samples, for a record: as `Refiner.refine` takes what is given and what is not."""
    num_steps, guidance = transfer.sampled_as(config, num_steps, guidance)
    own, clocks = config.sample, suited(config)
    made = {"num_steps": num_steps, "scale": own.scale if guidance is None else guidance, "solver": own.solver}
    return made | {"clocks": f"{clocks.weak:g},{clocks.strong:g}"}


def suited(config: ConfigDict) -> Clocks:
    """Return the clocks that suit the kind of model that a config describes."""
    return IMAGE_TO_VIDEO if _reads_image(config) else TEXT_TO_VIDEO


def _reads_image(config: ConfigDict) -> bool:
    sections.require(config, loaded_model.NEEDED, "to refine", str(config.get("name", "the model")))
    return config.dit.in_channels == 2 * config.vae.latent_channels


class Refiner(loaded_model.LoadedModel):
    """A base ready to refine drafts, with its compiled function; built as `loaded_model.LoadedModel`."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Build as `loaded_model.LoadedModel`; nothing is compiled before it is used."""
        super().__init__(*args, **kwargs)
        self._refine = self.program(self._refine_fn, ("settings", "use_control"))

    @property
    def reads_image(self) -> bool:
        """Tell whether the model is given the first frame."""
        return self.model.method is not None

    @property
    def clocks(self) -> Clocks:
        """Return the clocks that suit the kind of model."""
        return suited(self.config)

    def refine(
        self,
        clip: video.Clip,
        drawn: draft.Draft,
        *,
        prompt: str = tokenizer.NULL_PROMPT,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        clocks: Clocks | None = None,
        warped: float | None = None,
        paste: bool = True,
        notify: Callable[[str], None] = warnings.warn,
        progress: Callable[[dict[str, int]], Callable[[str, str], None]] | None = None,
    ) -> video.Clip:
        """Refine the draft of an edit.

        Args:
            clip: the video before the edit, of any size and length. drawn: the draft, with its maps.
            prompt: what the result shows. seed: same seed, same video.
            num_steps, guidance: None takes those of the model, or what suits a base.
            clocks: None takes `self.clocks`.
            warped: start from noise that goes along with the draft (`warped_noise`), which takes a model or a low-rank
                update trained for it, with this share of fresh noise, 0 to 1, mixed in. None: plain noise.
            paste: whether the pixels that the edit leaves alone are laid over the result.
            notify: called with a sentence for what is adapted. progress: told of each window that is done.

        Raises:
            ValueError: for clocks out of order, a share that is none, and a draft of another clip.
        """
        clocks = clocks or self.clocks
        clocks.check()
        carried = None
        if warped is not None:
            warped_noise.check(warped)
            carried = warped, drawn, drawn.prepared(clip.frames)
        frames, drafted = np.asarray(clip.frames), np.asarray(drawn.frames)
        if drafted.shape != frames.shape:
            raise ValueError(
                f"the draft is {list(drafted.shape)} and the clip {list(frames.shape)}; expected one shape"
            )
        found = provenance(frames, drawn)
        num_steps, guidance = transfer.sampled_as(self.config, num_steps, guidance)
        start = first_step(self.model.schedule, num_steps, clocks.weak)
        self._tell_few_steps(num_steps, start, clocks, notify)
        remade.tell(self, frames, notify)
        tokens = self.tokenizer.encode([prompt], notify)
        plan, made = windows.of_config(self.config, len(frames)), np.array(drafted)
        done = (progress or (lambda pieces: lambda kind, where: None))({"window": len(plan.starts)})
        for index, begin in enumerate(plan.starts):
            stop = min(begin + self.num_frames, len(frames))
            part = slice(begin, stop)
            key = jax.random.fold_in(jax.random.key(seed), index) if index else jax.random.key(seed)
            own = Provenance(*(mask[part] for mask in found))
            noise = None if carried is None else self._carried(*carried, begin, seed)
            new = self._window(key, drafted[part], own, tokens, num_steps, guidance, clocks, start, noise)
            new = video.resize(new, frames.shape[1:3])
            overlap = 0 if index == 0 else min(plan.stops[index - 1], len(frames)) - begin
            made[part] = remade.faded(made[part], new, overlap)
            done("window", f"window {index + 1} of {len(plan.starts)}")
        return video.Clip(pasted(drafted, made, found.kept) if paste else made, clip.fps)

    def _tell_few_steps(self, num_steps, start, clocks, notify):
        """Say what so few steps cannot do; `start` is the first of them that is taken."""
        signal = np.asarray(self.model.schedule.alpha)[
            sampling.time_grid(num_steps, self.config.schedule.num_timesteps)
        ]
        is_last = start + 1 >= num_steps
        if clocks.strong > clocks.weak and (is_last or signal[start + 1] > clocks.strong):
            notify(
                f"in {num_steps} steps the clocks {clocks.weak:g} and {clocks.strong:g} fall on one step: all but what "
                "is kept is let go at once; more steps tell them apart"
            )
        if clocks.weak > 0 and signal[start] == 0:
            notify(
                f"in {num_steps} steps the one whose signal is nearest to {clocks.weak:g} has none: the sample starts "
                "from noise alone, and not from the draft; more steps start from it"
            )

    def _carried(self, share, drawn, clip, begin, seed):
        """Draw the noise of a window from frame `begin` on, which goes along with the draft."""
        frames = np.minimum(begin + np.arange(self.num_frames), len(drawn.frames) - 1)
        rng, channels = np.random.default_rng((seed % 2**32, begin)), self.config.vae.latent_channels
        return warped_noise.of_draft(rng, drawn, clip, frames, self.size, channels, share)[None]

    def _window(self, key, drafted, found, tokens, num_steps, guidance, clocks, start, noise):
        """Refine as many frames as the model makes, at its size; the last one of fewer is held."""
        size, length = self.size, len(drafted)
        held = np.minimum(np.arange(self.num_frames), length - 1)
        small = video.resize(drafted, size)[held]
        masks = [
            np.stack([_shrunk(mask, size, name == "kept") for mask in getattr(found, name)]) for name in found._fields
        ]
        clock = clock_map(Provenance(*(mask[held] for mask in masks)), clocks)
        settings = self.settings(num_steps, guidance)
        made = self.sample_held(key, small[None], clock[None], start, tokens, settings, noise)
        return np.asarray(made[0])[:length]

    def sample_held(
        self,
        key: Any,
        reference: UInt8[AnyArray, "B T H W 3"],
        clock: Float[AnyArray, "B t h w 1"],
        start: int,
        tokens: AnyArray,
        settings: sampling.Settings,
        noise: Float[AnyArray, "B t h w z"] | None = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Sample clips held to references; one compiled call for all clocks and starts.

        Args:
            key: of the noise. reference: clips at the model's size. clock, start: as in `sampling.Hold`.
            tokens: of the prompts. settings: of the sample. noise: that it starts from; None draws it.

        Raises:
            loaded_model.SampleError: for a sample that is not finite.
        """
        use_control, length = self.reads_image, np.shape(reference)[1]
        batch = {}
        if use_control:
            # Frames after the first are not read, however many there are.
            lead = np.repeat(reference[:, :1], self.longer(np.shape(reference)[1:4])[0][0] - length, axis=1)
            target = jnp.asarray(np.concatenate([lead, reference], axis=1))
            batch = {"target": target, "has_last": jnp.zeros(len(reference), bool)}
        # Held to nothing that is a plain sample, bit for bit: the program that holds would round in other places.
        if not np.any(clock) and start == 0 and noise is None:
            return self.sample(key, batch, tokens, settings, use_control=use_control, shape=np.shape(reference)[1:4])
        params, texts = self.sampling_params(settings), self.embed_with_null(tokens)
        arrays = (jnp.asarray(reference), jnp.asarray(clock), jnp.asarray(start, jnp.int32))
        static = {"settings": settings, "use_control": use_control}
        videos, is_finite = self._refine(params, key, batch, *arrays, *texts, noise, **static)
        loaded_model.check_sample(is_finite, self.config)
        return videos

    def _refine_fn(self, params, key, batch, reference, clock, start, text, null_text, given, *, settings, use_control):
        """Sample from references to pixels: what `sample_held` compiles."""
        clean = backbone.encode(self.model, params, reference.astype(jnp.float32) / 127.5 - 1)
        # CogVideoX 1.5 samples a clip whose latent frames divide into patches; those in front are dropped again, and
        # are held to what the first one is.
        shape, skip = self.longer(reference.shape[1:4])
        sample_key, noise, conditions = self._start(params, key, batch, len(text), shape, use_control)
        denoise, guided = self.denoisers(params, text, null_text, conditions, use_control)
        noise = noise if given is None else noise.at[:, skip:].set(given.astype(noise.dtype))
        hold = sampling.Hold(*(jnp.concatenate([*[x[:, :1]] * skip, x], axis=1) for x in (clean, clock)), start)
        latents = sampling.sample(sample_key, denoise, noise, self.model.schedule, settings, guided, hold)
        made = backbone.decode(self.model, params, latents[:, skip:])
        videos = constrain(jnp.round((made + 1) * 127.5).astype(jnp.uint8), "whole")
        return videos, loaded_model.all_finite(latents, made)


def _shrunk(mask, size, whole):
    """Bring a mask to a size (H, W): True where the whole of what becomes a pixel is, or else any of it."""
    if mask.shape == tuple(size):
        return mask
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return share > (1 - 1e-4 if whole else 1e-4)


def editing(
    refiner: Refiner, clip: video.Clip, notify: Callable[[str], None], **options: Any
) -> Callable[..., video.Clip]:
    """Return what refines the draft of an edit, as `files` calls it. `options` are those of `Refiner.refine`."""

    def run(source: Any, target: Any, drawn: Any = None) -> video.Clip:
        if drawn is None:
            drawn = draft.render(clip.frames, source, target, notify=notify)
        return refiner.refine(clip, drawn, notify=notify, **options)

    return run
