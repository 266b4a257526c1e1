"""Edit a clip that is longer than a model's own in windows of the model's length, which agree where they overlap.

The latents of a clip lie on one line of time: latent 0 is frame 0, latent k the frames 4k-3 to 4k. A window starts at a
frame 4a, so that all its latents but one are latents of that line; its first one, which the causal autoencoder makes of
frame 4a alone where the line has a group of four, is the window's own and lies beside the line. All of them together
are the state of one sample (`Plan.table`), which starts from one noise, the same wherever windows meet. Each step
predicts v for every window and averages the predictions where windows share a latent, weighted by ramps over the
overlap (MultiDiffusion, arXiv 2302.08113, in time); solver, guidance and step cache see one sample. Then each window is
decoded by itself, first latent and all, as the autoencoder was trained, and in the overlaps the pictures, which are
nearly alike there, are faded into one another: windows decoded from the line alone, in one stretch, are no better.

The programs are those of one window, so that any length runs by the same ones and the device needs no more memory for
1,000 frames than for the model's own; the state and the conditions' latents wait in the host's memory.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from motionv2v import backbone, sampling
from motionv2v.devices import sharding
from motionv2v.editing import loaded_model
from motionv2v.methods import fields
from motionv2v.models.activations import constrain
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree, UInt8

LEAST_OVERLAP = 2
"""Latents that windows share, nine frames with frame 4a. With `tiny` on clips of 98 frames neighbouring frames differed
at the joins by 1.13 times what they do in truth where windows shared one latent, and by 1.01 times where they shared
two; three cost twice as many windows and made no odds."""
_STATES = 9
"""Arrays of the state at once: x, x0, three predictions with the text and without it, one of each at work."""
Done = Callable[[str, str], None]
"""Called with a piece of work that is done, and where it was: ("predict", "step 3 of 50, window 2 of 12")."""
Begin = Callable[[dict[str, int]], Done]
"""Called with how many pieces of each kind there are to do; returns what hears of those that are done."""

Preview = Callable[[AnyArray], UInt8[np.ndarray, "B T H W 3"]]
"""Decodes the first window of an estimate of x0, latents of the state."""


def in_silence(pieces: dict[str, int]) -> Done:
    """Tell nobody how far the work is."""
    del pieces
    return lambda kind, where: None


class Plan(NamedTuple):
    """Where the windows of a clip lie.

    Attributes:
        num_frames: of the clip. window: frames of a window, the model's own.
        starts: first frame of each window, in order, multiples of `group`; the last window ends with the clip, or less
            than `group` frames behind it, where the last frame is held.
        group: frames of a latent other than a window's first.
    """

    num_frames: int
    window: int
    starts: tuple[int, ...]
    group: int

    @property
    def stops(self) -> tuple[int, ...]:
        """Return the frame behind each window's last."""
        return tuple(start + self.window for start in self.starts)

    @property
    def spans(self) -> list[list[int]]:
        """List the first and the last of the clip's frames that each window shows."""
        return [[start, min(stop, self.num_frames) - 1] for start, stop in zip(self.starts, self.stops, strict=True)]

    @property
    def latents(self) -> int:
        """Return the latents of a window."""
        return (self.window - 1) // self.group + 1

    @property
    def places(self) -> Int[np.ndarray, "W t"]:
        """Return where each window's latents lie on the clip's line of time."""
        return np.array(self.starts)[:, None] // self.group + np.arange(self.latents)

    @property
    def table(self) -> Int[np.ndarray, "W t"]:
        """Return where each window's latents lie in the state: behind the line stand the later windows' first ones."""
        table = self.places
        table[1:, 0] = table[-1, -1] + 1 + np.arange(len(table) - 1)
        return table

    @property
    def sources(self) -> Int[np.ndarray, "S"]:
        """Return the place on the line whose noise each latent of the state starts from."""
        return np.concatenate([np.arange(self.places[-1, -1] + 1), self.places[1:, 0]])

    def frames(self, index: int) -> Int[np.ndarray, "T"]:
        """Return which of the clip's frames a window shows."""
        return np.minimum(self.starts[index] + np.arange(self.window), self.num_frames - 1)

    def latent_weights(self) -> Float[np.ndarray, "W t"]:
        """Return how much each window's prediction counts at its latents; they sum to 1 wherever windows meet."""
        weights = _ramps(self.places[:, 1:])
        return np.concatenate([np.ones((len(weights), 1), np.float32), weights], 1)

    def frame_weights(self) -> Float[np.ndarray, "W T"]:
        """Return how much each window's picture counts at its frames; they sum to 1 at every frame."""
        return _ramps(np.array(self.starts)[:, None] + np.arange(self.window))


def _ramps(places: Int[np.ndarray, "W n"]) -> Float[np.ndarray, "W n"]:
    """Return weights of windows at the places that they cover: level, rising and falling where they overlap, sum 1."""
    count = places.shape[1]
    weights = np.ones(places.shape)
    for index in range(len(places) - 1):
        overlap = np.count_nonzero(places[index] >= places[index + 1, :1])
        rise = (np.arange(count) + 1) / (overlap + 1)
        weights[index] = np.minimum(weights[index], rise[::-1])
        weights[index + 1] = np.minimum(weights[index + 1], rise)
    totals = np.zeros(places.max(initial=0) + 1)
    np.add.at(totals, places, weights)
    return (weights / totals[places]).astype(np.float32)


def plan(num_frames: int, window: int, group: int = 4) -> Plan:
    """Lay windows evenly over a clip; one where it is no longer than the window.

    Neighbours share a quarter of a window's latents, and at least `LEAST_OVERLAP`.

    Args:
        num_frames: of the clip. window: frames of a window, 4k + 1. group: frames of a latent.
    """
    latents = (window - 1) // group + 1
    group = group if latents > 1 else 1
    room = -(-max(num_frames - window, 0) // group)  # latents from the first window's start to the last one's
    overlap = max(LEAST_OVERLAP, latents // 4)
    count = -(-room // max(latents - 1 - overlap, 1)) + 1
    starts = np.round(np.linspace(0, room, count)).astype(int) * group
    return Plan(num_frames, window, tuple(starts.tolist()), group)


def of_config(config: Any, num_frames: int) -> Plan:
    """Lay the windows of a model by its config, complete as `checkpoints.read_config` gives it."""
    return plan(num_frames, config.data.num_frames, config.vae.temporal_compression)


def pieces(plan: Plan, settings: sampling.Settings, num_timesteps: int, has_conditions: bool = True) -> dict[str, int]:
    """Count the pieces of work of one sample by their kind, as `Sampler.sample` tells of them."""
    count = len(plan.starts)
    steps = int(np.count_nonzero(sampling.model_calls(settings, num_timesteps)))
    return {"encode": count * has_conditions, "predict": count * steps, "decode": count}


def host_bytes(config: Any, num_frames: int) -> float:
    """Estimate what a clip's edit in windows holds in the host's memory: frames at the model's size, and latents."""
    model = backbone.build(config)
    config = model.config
    window, height, width, channels = backbone.clip_shape(model)
    laid = of_config(config, num_frames)
    if len(laid.starts) == 1:
        return 0.0
    # The clip, and its edit before it is resized; where views are averaged, the turned clip, its edit, and sums of
    # floats beside them. Of one window floats, decoded, weighted and added up.
    by_one = model.method is not None and (model.method.animates() or model.method.remakes())
    is_mean = config.sample.num_steps == 1 and config.sample.views > 1 and not by_one
    frames = float(height * width * channels * ((13 if is_mean else 2) * num_frames + 3 * 4 * window))
    latent = 4.0 * math.prod(latent_shape((1, window, height, width, 3), model.vae.latent_channels)[2:])
    conditions = 0 if model.method is None else jax.tree.leaves(backbone.condition_shapes(model))
    kept = sum(4.0 * leaf.size for leaf in conditions)
    return frames + _STATES * latent * len(laid.sources) + kept * len(laid.starts)


class Sampler:
    """Samples clips of any length with a loaded model, by three programs, each of one window."""

    def __init__(self, loaded: loaded_model.LoadedModel):
        """Take a model; nothing is compiled before it is used."""
        self._loaded = loaded
        self._encode = loaded.program(self._encode_window, ())
        self._predict = loaded.program(self._predict_window, ("is_guided", "use_control"))
        self._decode = loaded.program(self._decode_window, ())

    def sample(
        self,
        key: Key,
        batch: Mapping[str, AnyArray],
        tokens: Int[AnyArray, "B L"],
        settings: sampling.Settings,
        plan: Plan,
        *,
        use_control: bool = True,
        done: Done,
        turns: Callable[["Preview"], sampling.Turns] | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Sample clips in the windows of a plan.

        Args:
            key, tokens, settings, use_control: as for `LoadedModel.sample`.
            batch: the arrays of `methods.Method.fields` [B ...], of the whole clips; others are left aside.
            plan: of the windows. done: called with each of `pieces`, when it is done, and where it was.
            turns: given what decodes an estimate of x0, returns what hears of the steps (`sampling.Turns`).

        Raises:
            loaded_model.SampleError: for a sample that is not finite.
        """
        model = self._loaded.model
        use_control = use_control and model.method is not None
        draw_key, noise_key, sample_key = jax.random.split(key, 3)
        texts = self._loaded.embed_with_null(tokens)
        params = self._loaded.sampling_params(settings)
        conditions = [None] * len(plan.starts)
        if use_control:
            conditions = self._conditions(params, draw_key, batch, plan, done)
        predict = self._joint(params, texts, conditions, settings, plan, use_control, done)
        look = partial(self._look, params, plan, jax.config.jax_default_device)  # read here: not the host's
        with sharding.on_host():
            noise = self._noise(noise_key, batch if use_control else {}, len(tokens), plan)
            functions = partial(predict, False), partial(predict, True)
            heard = sampling.ALONE if turns is None else turns(look)
            parts = (sample_key, functions[0], noise, model.schedule, settings, functions[1])
            state = sampling.sample_in_turn(*parts, turns=heard)
        return self._frames(params, np.asarray(state), plan, done)

    def _conditions(self, params: PyTree, key: Key, batch: Any, plan: Plan, done: Done) -> list[PyTree]:
        """Draw and encode each window's conditions, by one key: a point has one colour in all of them."""
        found = []
        for index in range(len(plan.starts)):
            cut = fields.take_frames(batch, self._loaded.fields, plan.frames(index))
            with sharding.use(self._loaded.mesh):
                found.append(jax.tree.map(np.asarray, self._encode(params, key, cut)))
            done("encode", f"reading {_window(index, plan)}")
        return found

    def _noise(self, key: Key, batch: Mapping[str, AnyArray], count: int, plan: Plan) -> np.ndarray:
        """Draw the noise of the clips' line of time, and give it to the state's latents."""
        model = self._loaded.model
        window = latent_shape((count, *backbone.clip_shape(model)), model.vae.latent_channels)
        shape = (count, int(plan.places[-1, -1]) + 1, *window[2:])
        if not batch:
            return np.asarray(jax.random.normal(key, shape))[:, plan.sources]
        held = np.minimum(np.arange(plan.stops[-1]), plan.num_frames - 1)
        whole = fields.take_frames(batch, self._loaded.fields, held)
        noise = model.method.initial_noise(key, whole, shape, self._loaded.config.method)
        return np.asarray(noise)[:, plan.sources]

    def _joint(self, params, texts, conditions, settings, plan, use_control, done):
        """Build the prediction of the whole state: (is_guided, xt, timestep) -> the mean of the windows'."""
        table, weights = plan.table, plan.latent_weights()[..., None, None, None]
        device, num_timesteps = jax.config.jax_default_device, self._loaded.model.schedule.num_timesteps
        computed = sampling.model_calls(settings, num_timesteps) > 0
        steps = settings.timesteps(num_timesteps)[computed].tolist()

        def predict(is_guided: bool, xt: AnyArray, timestep: AnyArray) -> Any:
            xt, timestep = np.asarray(xt), np.asarray(timestep)
            means = tuple(np.zeros_like(xt) for _ in range(1 + is_guided))
            for index, places in enumerate(table):
                static = {"is_guided": is_guided, "use_control": use_control}
                with jax.default_device(device), sharding.use(self._loaded.mesh):
                    found = self._predict(params, xt[:, places], timestep, *texts, conditions[index], **static)
                for mean, v in zip(means, found, strict=True):
                    mean[:, places] += weights[index] * np.asarray(v, np.float32)
                step = steps.index(int(timestep[0])) + 1
                where = f", {_window(index, plan)}" if len(table) > 1 else ""
                done("predict", f"step {step} of {len(steps)}{where}")
            return means if is_guided else means[0]

        return predict

    def _look(self, params: PyTree, plan: Plan, device: Any, x0: AnyArray) -> UInt8[np.ndarray, "B T H W 3"]:
        """Decode the first window of an estimate of x0."""
        with jax.default_device(device), sharding.use(self._loaded.mesh):
            video, _ = self._decode(params, np.asarray(x0)[:, plan.table[0]])
        return np.round((np.asarray(video) + 1) * 127.5).astype(np.uint8)

    def _frames(self, params: PyTree, state: np.ndarray, plan: Plan, done: Done) -> np.ndarray:
        """Decode window by window, and fade each into the next one."""
        weights = plan.frame_weights()[..., None, None, None]
        shape = (len(state), plan.window, *self._loaded.size, 3)
        clips = np.empty((len(state), plan.num_frames, *shape[2:]), np.uint8)
        mixed = np.zeros(shape, np.float32)  # this window's frames, as far as windows have had their say
        for index, (start, places) in enumerate(zip(plan.starts, plan.table, strict=True)):
            with sharding.use(self._loaded.mesh):
                video, is_finite = self._decode(params, state[:, places])
            loaded_model.check_sample(is_finite, self._loaded.config)
            mixed += weights[index] * np.asarray(video)
            stop = (*plan.starts, plan.num_frames)[index + 1]
            clips[:, start:stop] = np.round((mixed[:, : stop - start] + 1) * 127.5)
            mixed = np.concatenate([mixed[:, stop - start :], np.zeros_like(mixed[:, : stop - start])], 1)
            done("decode", f"drawing {_window(index, plan)}")
        return clips

    def _encode_window(self, params, key, batch):
        model = self._loaded.model
        found = backbone.encode_conditions(model, params, backbone.draw_conditions(key, model, batch))
        return jax.tree.map(lambda x: constrain(x, "whole"), found)

    def _predict_window(self, params, xt, timestep, text, null_text, conditions, *, is_guided, use_control):
        alone, guided = self._loaded.denoisers(params, text, null_text, conditions, use_control)
        found = guided(xt, timestep) if is_guided else (alone(xt, timestep),)
        return tuple(constrain(v, "whole") for v in found)

    def _decode_window(self, params, latents):
        video = backbone.decode(self._loaded.model, params, latents)
        return constrain(video, "whole"), loaded_model.all_finite(latents, video)


def _window(index: int, plan: Plan) -> str:
    if len(plan.starts) == 1:
        return "the clip"
    return f"window {index + 1} of {len(plan.starts)}"
