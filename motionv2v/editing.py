"""Edit the motion of a clip with a trained model: `load("tiny").edit(clip, source, target)`.

The model works at its own number of frames and its own size. A clip of another shape is adapted first, and the result
is mapped back to the clip's size, frame count and frame rate; each such step is told to `notify`.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import checkpoints, inference, sampling, sections, sharding, views
from motionv2v import model as modeling
from motionv2v import video as video_io
from motionv2v.models.activations import constrain
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree, UInt8

MAX_ADVISED_POINTS = 20
KINDS = ("control", "base")
"""Kinds of model that an `Editor` runs: one with a control branch, and a text-to-video base without."""


def load(name_or_folder: str | os.PathLike, mesh: jax.sharding.Mesh | None = None) -> "Editor":
    """Load an editor: a released name (`tiny`), a model folder, or a training work dir (its averaged weights).

    Weights of a model that computes in bfloat16 stay in the number type of their file. A text-to-video base loads as
    well: it has `text_to_video`, and cannot edit. `mesh` as for `Editor`.

    Raises:
        checkpoints.CheckpointError: a one-line reason if there is no such model or it is damaged.
        ValueError: if the checkpoint is of another kind, or its heads do not divide over the mesh.
    """
    folder = checkpoints.resolve(name_or_folder)
    config = checkpoints.read_config(folder)
    if config.kind not in KINDS:
        raise ValueError(
            f"{name_or_folder} holds a {config.kind or 'nameless'!r} model ({config.name}); "
            "editing needs one of kind 'control', such as the released 'tiny'"
        )
    check_inputs(config, name_or_folder)
    return Editor(*inference.read(name_or_folder), folder, mesh)


def check_inputs(config: Any, name: str | os.PathLike) -> None:
    """Raise a ValueError for a config that lacks a section, or a published model that an `Editor` cannot feed.

    The published ones read an image's latents beside the noise, or have a control branch for conditions that no
    method here draws.
    """
    sections.require(config, inference.NEEDED, "to edit", str(name))
    given = config.dit.in_channels - config.dit.out_channels
    if config.dit.control_depth and "method" not in config:
        base = "image-to-video" if given else "text-to-video"
        raise ValueError(
            f"{name} has a control branch that no method of this package draws conditions for, as "
            f"Diffusion-as-Shader's: it cannot edit; launch/convert.py writes it back for diffusers, or with "
            f"--drop_control its {base} base"
        )
    if given:
        raise ValueError(
            f"{name} is an image-to-video model ({given} of its input channels are an image's): it cannot edit; "
            "interpolate.load generates videos from a first frame with it, launch/convert.py writes it for diffusers"
        )


class Editor(inference.LoadedModel):
    """A model ready to edit, with its compiled functions; built as `inference.LoadedModel`."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Build as `inference.LoadedModel`; nothing is compiled before it is used."""
        super().__init__(*args, **kwargs)
        static = ("num_steps", "solver", "guidance", "use_control", "void")
        self._generate = self.program(self._generate_fn, (*static, "reuse"))
        self._measure = self.program(self._measure_fn, static)

    def edit(
        self,
        clip: video_io.Clip | UInt8[np.ndarray, "T H W 3"],
        source: Tracks,
        target: Tracks,
        *,
        prompt: str = inference.NULL_PROMPT,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        cache: float | None = None,
        num_views: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
    ) -> video_io.Clip:
        """Redraw a clip so that its points move along other paths (paper, section 3.3).

        Args:
            clip: the video; uint8 frames, any size and length. An array is taken at 8 frames per second.
            source: the points' paths [N T 2] in pixels of the clip, and where they are visible.
            target: where the same points shall go.
            prompt: what the video shows. seed: same seed, same video.
            num_steps: denoising steps; None takes the config's.
            guidance: classifier-free guidance scale on the text; None takes the config's, 1 switches it off.
            cache: threshold of the step cache (`step_cache`), 0 is off; None takes the config's, off unless it says so.
            num_views: how many views to average, as in `generate`.
            notify: called with a sentence for each adaptation of frame count or size, for too many points, and for a
                prompt that is cut.

        Returns:
            The edited clip, of the same size, frame count and frame rate.

        Raises:
            ValueError: if the tracks do not fit each other or the clip, saying both shapes; if the model cannot edit;
                if `cache` is above 0 and the model's curve was not measured; for no number of `views.COUNTS`.
        """
        if self.model.method is None:
            raise ValueError(f"{self.config.name} has no control branch: it cannot edit motion")
        clip = clip if isinstance(clip, video_io.Clip) else video_io.Clip(np.asarray(clip), 8.0)
        frames = clip.frames
        check_tracks(frames, source, target)
        if source.xy.shape[0] > MAX_ADVISED_POINTS:
            notify(
                f"{source.xy.shape[0]} points: the method works best with at most {MAX_ADVISED_POINTS} "
                "(paper, section 3.3); fewer, well-placed points follow better"
            )
        reuse = self.reused_steps(cache, num_steps)
        times = self._frame_times(len(frames), notify)
        batch = self._batch(frames, source, target, times, notify)
        tokens = self.tokenizer.encode([prompt], notify)
        options = {"num_steps": num_steps, "guidance": guidance, "num_views": num_views}
        options |= {"reuse": reuse} if reuse else {}
        result = self.generate(jax.random.key(seed), batch, tokens, **options)[0]
        nearest = np.abs(np.arange(len(frames))[:, None] - times).argmin(1)
        return video_io.Clip(video_io.resize(np.asarray(result)[nearest], frames.shape[1:3]), clip.fps)

    def _frame_times(self, length: int, notify: Callable[[str], None]) -> Int[np.ndarray, "T"]:
        """Choose which of the clip's frames the model sees: all in order, evenly spaced, or padded with the last."""
        if length == self.num_frames:
            return np.arange(length)
        if length > self.num_frames:
            notify(
                f"the clip has {length} frames and the model works on {self.num_frames}: it edits {self.num_frames} "
                f"evenly spaced ones, and each frame of the result is the nearest of those"
            )
            return np.round(np.linspace(0, length - 1, self.num_frames)).astype(int)
        notify(f"the clip has {length} frames and the model works on {self.num_frames}: the last frame is held")
        return np.minimum(np.arange(self.num_frames), length - 1)

    def _batch(self, frames: np.ndarray, source: Tracks, target: Tracks, times: np.ndarray, notify: Any) -> dict:
        """Bring a clip and its tracks to the model's frames and size, as a batch of one."""
        height, width = frames.shape[1:3]
        if (height, width) != self.size:
            notify(
                f"the clip is {width}x{height} and the model works at {self.size[1]}x{self.size[0]}: "
                "it is resized there and back"
            )
        scale = np.array([self.size[1] / width, self.size[0] / height], np.float32)
        batch = {"source": video_io.resize(frames[times], self.size)[None]}
        # Hidden points draw nothing: padding to a multiple of 16 keeps the number of compiled shapes small.
        padding = -len(source.xy) % 16
        for side, tracks in (("source", source), ("target", target)):
            xy = np.pad(np.asarray(tracks.xy, np.float32)[:, times] * scale, ((0, padding), (0, 0), (0, 0)))
            batch[f"{side}_xy"] = xy[None]
            batch[f"{side}_visible"] = np.pad(np.asarray(tracks.visible)[:, times], ((0, padding), (0, 0)))[None]
        return batch

    def generate(
        self,
        key: Key,
        batch: dict[str, AnyArray],
        tokens: Int[AnyArray, "B L"],
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        use_control: bool = True,
        reuse: tuple[bool, ...] | None = None,
        num_views: int | None = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Edit a batch that is already at the model's frames and size; one compiled call a view, pixels to pixels.

        Args:
            key: of the noise and the blobs' colours.
            batch: `source` uint8 [B T H W 3], `source_xy`, `target_xy` [B N T 2], `source_visible`,
                `target_visible` [B N T].
            tokens: of the prompts. num_steps, guidance: as in `edit`.
            use_control: False samples the frozen base without its control branch, for comparison.
            reuse: which steps are not computed, from `reused_steps` or `step_cache.plan`; None for none.
            num_views: how many `views` of the edit to average; None takes the config's for samples of one step with
                control, else 1: longer samples do not average well, and without control there is no common answer.

        Raises:
            inference.SampleError: for a sample that is not finite.
        """
        options = {"num_steps": num_steps, "guidance": guidance, "use_control": use_control, "reuse": reuse}
        if num_views is None:
            is_mean = use_control and int(num_steps or self.config.sample.num_steps) == 1
            num_views = self.config.sample.views if is_mean else 1

        def one(key: Key, batch: dict[str, AnyArray]) -> AnyArray:
            made, is_finite = self._call(self._generate, key, batch, tokens, **options)
            inference.check_sample(is_finite, self.config)
            return made

        return views.average(key, one, batch, num_views)

    def measure_changes(
        self,
        key: Key,
        batch: dict[str, AnyArray],
        tokens: Int[AnyArray, "B L"],
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        use_control: bool = True,
    ) -> dict[str, Float[AnyArray, "S"]]:
        """Sample as `generate` does, and return how the prediction changes from step to step: `sampling.changes`."""
        options = {"num_steps": num_steps, "guidance": guidance, "use_control": use_control}
        return self._call(self._measure, key, batch, tokens, **options)

    def _call(
        self,
        function: Callable[..., Any],
        key: Key,
        batch: dict[str, AnyArray],
        tokens: AnyArray,
        *,
        num_steps: int | None,
        guidance: float | None,
        **options: Any,
    ) -> Any:
        """Call a compiled function with the config's settings where none are given."""
        settings = self.config.sample
        scale = float(settings.scale if guidance is None else guidance)
        kind = settings.guidance if guidance is None else "constant"
        num_steps = int(num_steps or settings.num_steps)
        text, null_text = self.embed_with_null(tokens)
        params = self.sampling_params(num_steps)
        with sharding.use(self.mesh):
            return function(
                params,
                key,
                {name: jnp.asarray(value) for name, value in batch.items() if name != "tokens"},
                text,
                null_text,
                num_steps=num_steps,
                solver=settings.solver,
                guidance=sampling.Guidance(scale, "off" if scale == 1.0 else kind),
                void=settings.guidance_void,
                **options,
            )

    def text_to_video(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        num_steps: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Sample videos from text alone with the base model; `notify` is told of prompts that are cut."""
        shape = (len(prompts), *modeling.clip_shape(self.model))
        batch = {"source": np.zeros(shape, np.uint8)}
        tokens = self.tokenizer.encode(list(prompts), notify)
        return np.asarray(self.generate(jax.random.key(seed), batch, tokens, num_steps=num_steps, use_control=False))

    def _generate_fn(self, params, key, batch, text, null_text, *, use_control, **settings):
        """Edit from pixels to pixels, and tell whether the sample is finite: what `generate` compiles."""
        sample_key, noise, conditions = self._start(params, key, batch, use_control)
        latents = self.sample_latents(sample_key, params, noise, text, null_text, conditions, **settings)
        video = modeling.decode(self.model, params, latents)
        made = constrain(jnp.round((video + 1) * 127.5).astype(jnp.uint8), "whole")
        return made, inference.all_finite(latents, video)

    def _measure_fn(self, params, key, batch, text, null_text, *, use_control, **settings):
        sample_key, noise, conditions = self._start(params, key, batch, use_control)
        functions = self._denoisers(params, text, null_text, conditions)
        return sampling.changes(sample_key, noise=noise, schedule=self.model.schedule, **functions, **settings)[1]

    def _start(self, params: PyTree, key: Key, batch: dict[str, AnyArray], use_control: bool) -> tuple[Any, ...]:
        """Draw the solver's key, the noise and, with the control branch, the conditions' latents."""
        model = self.model
        draw_key, noise_key, sample_key = jax.random.split(key, 3)
        conditions = None
        if use_control:
            drawn = model.method.batch_conditions(draw_key, batch, self.config.method)
            conditions = modeling.encode_conditions(model, params, drawn)
        shape = modeling.latent_shape(batch["source"].shape, model.vae.latent_channels)
        return sample_key, jax.random.normal(noise_key, shape), conditions

    def sample_latents(
        self,
        key: Key,
        params: PyTree,
        noise: Float[AnyArray, "B t h w z"],
        text: Float[AnyArray, "B L C"],
        null_text: Float[AnyArray, "B L C"],
        conditions: PyTree,
        **settings: Any,
    ) -> Float[AnyArray, "B t h w z"]:
        """Sample scaled latents from noise; pure, for use under jit (and, on a mesh, within `sharding.use`).

        Args:
            key: of the solver's own noise. params: `sampling_params` for the number of steps.
            noise: N(0, 1). text, null_text: embeddings of the prompts, and of what guidance moves away from.
            conditions: latents of the method's conditions, or None for the base alone.
            settings: num_steps, solver, guidance, reuse, void of `sampling.sample`.
        """
        functions = self._denoisers(params, text, null_text, conditions)
        return sampling.sample(key, noise=noise, schedule=self.model.schedule, **functions, **settings)

    def _denoisers(self, params: PyTree, text: AnyArray, null_text: AnyArray, conditions: PyTree) -> dict[str, Any]:
        """Build `denoise_fn` and `guided_fn` of a sample."""
        predict = partial(modeling.denoise, self.model, params)

        def guided(xt: AnyArray, timestep: AnyArray) -> tuple[AnyArray, AnyArray]:
            if self.mesh is None:
                # One after the other, by one copy of the program: half the compilation of two calls.
                both = jax.lax.map(lambda t: predict(xt, timestep, t, conditions), jnp.stack([text, null_text]))
                return both[0], both[1]
            # One batch of both: where `data` is 2, each half of the devices predicts one.
            twice = lambda tree: jax.tree.map(lambda x: constrain(jnp.concatenate([x, x]), "batch"), tree)  # noqa: E731
            texts = jnp.concatenate([text, null_text])
            return tuple(jnp.split(predict(twice(xt), twice(timestep), texts, twice(conditions)), 2))

        return {
            "denoise_fn": lambda xt, timestep: predict(xt, timestep, text, conditions),
            "guided_fn": guided,
        }


def check_tracks(frames: UInt8[np.ndarray, "T H W 3"], source: Tracks, target: Tracks) -> None:
    """Check that a clip and its two sets of tracks belong together. Raises ValueError naming both shapes."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"the clip must be uint8 [T H W 3]; got {frames.dtype} {list(frames.shape)}")
    if np.shape(source.xy) != np.shape(target.xy):
        raise ValueError(
            f"source has tracks {np.shape(source.xy)} and target {np.shape(target.xy)}; they must be the same"
        )
    if np.ndim(source.xy) != 3 or np.shape(source.xy)[1] != len(frames):
        raise ValueError(
            f"tracks must be [N {len(frames)} 2] for a clip of {len(frames)} frames; got {np.shape(source.xy)}"
        )
    if not (np.isfinite(source.xy).all() and np.isfinite(target.xy).all()):
        raise ValueError("tracks hold values that are not finite; every position must be a number, hidden points too")
