"""Edit the motion of a clip with a trained model: `load("tiny").edit(clip, source, target)`.

The model works at its own size and number of frames. A clip of another size is resized there and back; a longer one is
edited in windows that overlap (`windows`), and of a shorter one the last frame is held. The result has the clip's size,
frame count and frame rate. Each such step is told to `notify`.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from motionv2v import backbone, draft, sampling, sections, video
from motionv2v.convert import checked, pipeline
from motionv2v.data import tokenizer
from motionv2v.editing import ensemble, interpolator, kinds, loaded_model, motions, repair, shaded, windows
from motionv2v.editing.kinds import check_config
from motionv2v.methods import fields
from motionv2v.models.dit import base_params
from motionv2v.tracks import Tracks, at_times
from motionv2v.typing import AnyArray, Bool, Float, Int, Key, UInt8

MAX_ADVISED_POINTS = 20


def load(name_or_folder: str | os.PathLike, mesh: jax.sharding.Mesh | None = None) -> "Editor":
    """Load an editor: a released name (`tiny`), a model folder, or a training work dir (its averaged weights).

    Or a folder that diffusers saved. Weights of a model that computes in bfloat16 stay in the number type of their
    file. A text-to-video base loads as well: it has `text_to_video`, and cannot edit. `mesh` as for `Editor`.

    Raises:
        checkpoints.CheckpointError: a one-line reason if there is no such model or it is damaged.
        ValueError: if the checkpoint is of another kind, or its heads do not divide over the mesh.
    """
    config, folder = kinds.described(name_or_folder)
    check_config(config, name_or_folder)
    if (folder / pipeline.INDEX).is_file():
        found = pipeline.stored(folder)
        config = kinds.as_method(sections.complete(found.config), folder, found.image_scale)
        return Editor(config, found.params, folder, mesh, found.tokenizer)
    config, params = checked.read(name_or_folder)
    return Editor(kinds.as_method(config, folder), params, folder, mesh)


class Editor(loaded_model.LoadedModel):
    """A model ready to edit, with its compiled functions; built as `loaded_model.LoadedModel`."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Build as `loaded_model.LoadedModel`; nothing is compiled before it is used."""
        super().__init__(*args, **kwargs)
        self._measure = self.program(self._measure_fn, ("settings", "use_control", "shape"))
        self._windows = windows.Sampler(self)
        self._following: Editor | None = None
        self._generator: tuple[Any, Any] = ({}, None)
        self._digest: tuple[Any, str] = ({}, "")

    def edit(
        self,
        clip: video.Clip | UInt8[np.ndarray, "T H W 3"],
        source: Tracks,
        target: Tracks,
        *,
        prompt: str = tokenizer.NULL_PROMPT,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        cache: float | None = None,
        num_views: int | None = None,
        drawn: draft.Draft | None = None,
        paste: bool = True,
        depth: Float[np.ndarray, "S H W"] | None = None,
        tracker: Any = None,
        notify: Callable[[str], None] = warnings.warn,
        progress: windows.Begin = windows.in_silence,
        watch: Any = None,
    ) -> video.Clip:
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
            drawn: the edit's draft, for a model that reads it (`reads_draft`) or moves its first frame; None draws it.
            paste: whether such a model's result takes the draft's place only where that is not sure (`repair`).
            depth, tracker: for a model that makes a picture move, as for `shaded.edit`.
            notify: called with a sentence for each adaptation of frame count or size, for too many points, and for a
                prompt that is cut.
            progress: called with how many pieces of work of each kind there are if the clip is edited in windows;
                returns what is then called with each that is done, and where it was (`progress.Countdown`).
            watch: a `watching.Watch` in place of that, which hears of every edit; one of several steps is then sampled
                step by step, which differs from one call for all of them by rounding.

        Returns:
            The edited clip, of the same size, frame count and frame rate.

        Raises:
            ValueError: if the tracks do not fit each other or the clip, saying both shapes; if the model cannot edit;
                if `cache` is above 0 and the model's curve was not measured; for no number of `sections.VIEWS`; as
                `check`.
        """
        kinds.check_edits(self.model, self.config.name)
        clip = clip if isinstance(clip, video.Clip) else video.Clip(np.asarray(clip), 8.0)
        frames = clip.frames
        check_tracks(frames, source, target)
        if self.model.method.animates():
            options = {"prompt": prompt, "seed": seed, "num_steps": num_steps, "guidance": guidance, "paste": paste}
            options |= {"tracker": tracker, "progress": watch.begin if watch else progress}
            shaded.check(self.config.name, {"cache": cache, "num_views": num_views})
            return shaded.edit(self, clip, source, target, drawn, depth, notify=notify, **options)
        self.check(len(source.xy), num_steps, guidance)
        if source.xy.shape[0] > MAX_ADVISED_POINTS:
            notify(
                f"{source.xy.shape[0]} points: the method works best with at most {MAX_ADVISED_POINTS} "
                "(paper, section 3.3); fewer, well-placed points follow better"
            )
        reuse = self.reused_steps(cache, num_steps)
        self._tell_length(len(frames), notify)
        if self.reads_draft and drawn is None:
            drawn = draft.render(frames, source, target, notify=notify)
        batch = self._batch(frames, source, target, notify)
        if self.reads_draft:
            batch = self.with_drafts(batch, [drawn])
        tokens = self.tokenizer.encode([prompt], notify)
        options = {"num_steps": num_steps, "guidance": guidance, "num_views": num_views}
        options |= {"progress": progress, "watch": watch}
        options |= {"reuse": reuse} if reuse else {}
        result = self.generate(jax.random.key(seed), batch, tokens, **options)[0]
        result = video.resize(np.asarray(result), frames.shape[1:3])
        if self.reads_draft and paste:
            result = repair.paste(drawn, result)
        return video.Clip(result, clip.fps)

    def animate(
        self,
        image: AnyArray,
        tracks: Tracks,
        *,
        prompt: str = tokenizer.NULL_PROMPT,
        seed: int = 0,
        nearness: Float[np.ndarray, "N"] | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        fps: float = 8.0,
        notify: Callable[[str], None] = warnings.warn,
    ) -> video.Clip:
        """Make a video of a picture whose points move along given paths.

        Models of Motion Prompting (arXiv 2412.02700) and Diffusion-as-Shader (arXiv 2501.03847) do so.

        Args:
            image: its first frame, uint8 [H W 3] of any size.
            tracks: [N T 2] in pixels of the image, any number of them up to `max_points`. A point may appear or go:
                where it is not visible it says nothing. Paths of another number of frames than the model's are
                resampled over the whole of its clip.
            prompt: what the video shows. seed: same seed, same video. fps: of the video.
            nearness: how near each point is in the picture, 0 far to 1 near, for models that read it
                (Diffusion-as-Shader); None: not known.
            num_steps, guidance, notify: as in `edit`.

        Raises:
            ValueError: if the model does not make videos of pictures; for an image or tracks of another form; as
                `check`.
        """
        if self.model.method is None or not self.model.method.animates():
            raise ValueError(
                f"{self.config.name} makes no video of a picture and tracks: that takes a model of motion_prompting, "
                "or Diffusion-as-Shader"
            )
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"the image must be uint8 [H W 3]; got {image.dtype} {list(image.shape)}")
        length = np.shape(tracks.xy)[1]
        check_tracks(np.broadcast_to(image, (length, *image.shape)), tracks, tracks)
        self.check(len(tracks.xy), num_steps, guidance)
        if length != self.num_frames:
            notify(f"the tracks have {length} frames and the model makes {self.num_frames}: they are resampled")
            tracks = at_times(tracks, np.linspace(0, length - 1, self.num_frames))
        if image.shape[:2] != self.size:
            notify(
                f"the picture is {image.shape[1]}x{image.shape[0]} and the model works at {self.size[1]}x"
                f"{self.size[0]}: it is resized there and back"
            )
        small = video.resize(image[None], self.size)
        # Frames after the first are not read.
        frames = np.concatenate([small, np.zeros((self.num_frames - 1, *self.size, 3), np.uint8)])
        batch = {"target": frames[None], **self.sides(image.shape[:2], target=tracks)}
        if "nearness" in self.fields:
            batch |= self._nearness(tracks, nearness, batch["target_xy"].shape[1], notify)
        tokens = self.tokenizer.encode([prompt], notify)
        made = self.generate(jax.random.key(seed), batch, tokens, num_steps=num_steps, guidance=guidance)[0]
        return video.Clip(video.resize(np.asarray(made), image.shape[:2]), fps)

    def _nearness(self, tracks: Tracks, given: Any, count: int, notify: Callable[[str], None]) -> dict[str, np.ndarray]:
        """Return how near the points of a batch of one are, filled up to `count` of them; tell who has no colour."""
        late = int((~np.asarray(tracks.visible)[:, 0] & np.asarray(tracks.visible).any(1)).sum())
        if late:
            notify(
                f"{late} of {len(tracks.xy)} points are not seen in the picture, which gives points their colours: "
                "they get those of where their paths would be in it"
            )
        nearness = np.full(len(tracks.xy), 0.5, np.float32) if given is None else np.asarray(given, np.float32)
        if nearness.shape != (len(tracks.xy),):
            raise ValueError(
                f"nearness has shape {nearness.shape}; expected a number for each of {len(tracks.xy)} points"
            )
        return {"target_nearness": np.pad(nearness, (0, count - len(nearness)))[None]}

    def remake(self, clip: video.Clip, region: Bool[np.ndarray, "T H W"], target: Tracks, **options: Any) -> video.Clip:
        """Make a region of a clip anew along trajectories, with a model of ReVideo; see `remade.remake`."""
        from motionv2v.editing import remade  # which builds on this package

        return remade.remake(self, clip, region, target, **options)

    @property
    def reads_draft(self) -> bool:
        """Tell whether the model repairs the edit's draft (`method.streams`)."""
        return "draft" in self.fields

    def with_drafts(
        self, batch: dict[str, AnyArray], drawn: Sequence[draft.Draft] | None = None
    ) -> dict[str, AnyArray]:
        """Add the drafts that the method reads to a batch of edits; `drawn` are those there are, None draws them."""
        if not self.reads_draft or "draft" in batch:
            return batch
        return {**batch, **repair.arrays(repair.draw(batch) if drawn is None else drawn, self.size)}

    @property
    def max_points(self) -> int | None:
        """Return how many points the model's method can tell apart; None for any number."""
        method = self.model.method
        return None if method is None or method.max_points is None else method.max_points(self.config.method)

    def check(self, num_points: int, num_steps: int | None = None, guidance: float | None = None) -> None:
        """Check what can be known of an edit before its tracks are: the number of points, the settings of the sample.

        Raises:
            ValueError: for more points than `max_points`, and for impossible settings.
        """
        if self.max_points is not None and num_points > self.max_points:
            raise ValueError(
                f"an edit of {num_points} points, but {self.config.name} tells {self.max_points} apart: give it fewer"
            )
        self.settings(num_steps, guidance).timesteps(self.config.schedule.num_timesteps)

    def plan(self, num_frames: int) -> windows.Plan:
        """Lay the windows of a clip of so many frames."""
        return windows.of_config(self.config, num_frames)

    def _tell_length(self, length: int, notify: Callable[[str], None]) -> None:
        """Say what is done about another number of frames than the model's."""
        if length < self.num_frames:
            notify(f"the clip has {length} frames and the model works on {self.num_frames}: the last frame is held")
        elif length > self.num_frames:
            plan = self.plan(length)
            overlap = min(stop - start for stop, start in zip(plan.stops[:-1], plan.starts[1:], strict=True))
            notify(
                f"the clip has {length} frames and the model works on {self.num_frames}: it is edited in "
                f"{len(plan.starts)} windows that overlap by {overlap} or more"
            )

    def _batch(self, frames: np.ndarray, source: Tracks, target: Tracks, notify: Any) -> dict:
        """Bring a clip and its tracks to the model's size, as a batch of one."""
        height, width = frames.shape[1:3]
        if (height, width) != self.size:
            notify(
                f"the clip is {width}x{height} and the model works at {self.size[1]}x{self.size[0]}: "
                "it is resized there and back"
            )
        return {
            "source": video.resize(frames, self.size)[None],
            **self.sides((height, width), source=source, target=target),
        }

    def sides(self, size: tuple[int, int], **sides: Tracks) -> dict[str, np.ndarray]:
        """Bring tracks in a picture of a size (H, W) to the model's, as the arrays of a batch of one.

        Hidden points draw nothing: padding keeps the number of compiled shapes small. A model that animates has one.
        """
        scale = np.array([self.size[1] / size[1], self.size[0] / size[0]], np.float32)
        batch: dict[str, np.ndarray] = {}
        for side, tracks in sides.items():
            count, most = len(tracks.xy), self.max_points
            padding = -count % 16 if most is None else min(-count % 16, most - count)
            if most is not None and self.model.method.animates():
                padding = most - count
            xy = np.pad(np.asarray(tracks.xy, np.float32) * scale, ((0, padding), (0, 0), (0, 0)))
            batch[f"{side}_xy"] = xy[None]
            batch[f"{side}_visible"] = np.pad(np.asarray(tracks.visible), ((0, padding), (0, 0)))[None]
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
        progress: windows.Begin = windows.in_silence,
        watch: Any = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Edit a batch that is already at the model's size.

        Clips no longer than the model's are one compiled call a view, pixels to pixels; longer ones are sampled in
        windows.

        Args:
            key: of the noise and of what the method draws, such as the blobs' colours.
            batch: what the method reads (`methods.fields`); for an edit `source` uint8 [B T H W 3], `source_xy`,
                `target_xy` [B N T 2], `source_visible`, `target_visible` [B N T]. Drafts are drawn where they are
                missing (`with_drafts`).
            tokens: of the prompts. num_steps, guidance: as in `edit`.
            use_control: False samples the frozen base without its control branch, for comparison.
            reuse: which steps are not computed, from `reused_steps` or `step_cache.plan`; None for none.
            num_views: how many `views` of the edit to average; None takes the config's for samples of one step with
                control, else 1: longer samples do not average well, and without control there is no common answer.
            progress, watch: as in `edit`.

        Raises:
            loaded_model.SampleError: for a sample that is not finite.
        """
        settings = self.settings(num_steps, guidance, reuse)
        if num_views is None:
            is_mean = use_control and settings.num_steps == 1
            num_views = self.config.sample.views if is_mean else 1
        read = self.fields
        if use_control:
            batch = self.with_drafts(batch)
        length = fields.length(batch, read) or self.num_frames
        plan = self.plan(length)
        if len(plan.starts) == 1 and length < self.num_frames:
            batch = fields.take_frames(batch, read, plan.frames(0))
        if len(plan.starts) > 1 or (watch and settings.num_steps > 1):
            one = self._in_windows(tokens, settings, plan, use_control, num_views, progress, watch)
        else:
            one = self._at_once(tokens, settings, use_control, num_views, watch)
        numbers = itertools.count(1)

        def numbered(key: Key, batch: dict[str, AnyArray]) -> AnyArray:
            number = next(numbers)
            make = lambda: one(key, batch, number)  # noqa: E731
            return watch.view(number, make) if watch and num_views > 1 else make()

        return ensemble.average(key, numbered, batch, num_views, read)[:, :length]

    def _at_once(self, tokens, settings, use_control, num_views, watch):
        """Build what samples one view of clips by one program; it tells `watch` of each."""
        done = lambda kind, where: None  # noqa: E731
        if watch and num_views > 1:
            done = watch.begin({"view": num_views}, num_views)

        def one(key: Key, batch: dict[str, AnyArray], number: int) -> AnyArray:
            made = self.sample(key, batch, tokens, settings, use_control=use_control)
            done("view", f"view {number} of {num_views}")
            return made

        return one

    def _in_windows(self, tokens, settings, plan, use_control, num_views, progress, watch):
        """Build what samples one view of clips in windows; it tells `progress`, or `watch`, of each of its pieces."""
        has_conditions = use_control and self.model.method is not None
        pieces = windows.pieces(plan, settings, self.config.schedule.num_timesteps, has_conditions)
        pieces = {kind: num_views * count for kind, count in pieces.items()}
        done = watch.begin(pieces, num_views) if watch else progress(pieces)

        def one(key: Key, batch: dict[str, AnyArray], number: int) -> AnyArray:
            of = f"view {number} of {num_views}, " if num_views > 1 else ""
            told = lambda kind, where: done(kind, of + where)  # noqa: E731
            options = {"use_control": use_control, "done": told}
            if watch and settings.num_steps > 1:
                options["turns"] = lambda look: watch.turns(number, look)
            return self._windows.sample(key, batch, tokens, settings, plan, **options)

        return one

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
        settings, shape = self.settings(num_steps, guidance), backbone.clip_shape(self.model)[:3]
        batch = self.with_drafts(batch) if use_control else batch
        return self._call_sampler(self._measure, key, batch, tokens, settings, use_control, shape=shape)

    def _measure_fn(self, params, key, batch, text, null_text, *, settings, use_control, shape):
        sample_key, noise, conditions = self._start(params, key, batch, len(text), shape, use_control)
        functions = self.denoisers(params, text, null_text, conditions, use_control)
        return sampling.changes(sample_key, functions[0], noise, self.model.schedule, settings, functions[1])[1]

    def text_to_video(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        num_steps: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
        *,
        guidance: float | None = None,
        motion: Any = None,
        inverted: Float[AnyArray, "1 t h w z"] | None = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Sample videos from text alone with the base model; `notify` is told of prompts that are cut.

        Args:
            prompts: what the videos show. seed: same seed, same videos. num_steps, guidance: as in `edit`.
            motion: one that was learned on this base (`motions.load`), which the videos follow.
            inverted: the clip it was learned from as noise (`transfer.invert`), which they then start from, as the
                motion's settings say.

        Raises:
            ValueError: for a motion of another base.
        """
        tokens = self.tokenizer.encode(list(prompts), notify)
        if motion is None:
            options = {"num_steps": num_steps, "guidance": guidance, "use_control": False}
            return np.asarray(self.generate(jax.random.key(seed), {}, tokens, **options))
        from motionv2v.editing import transfer  # which builds on this module

        batch = {} if inverted is None else {"inverted": np.broadcast_to(inverted, (len(tokens), *inverted.shape[1:]))}
        self._following = transfer.moved(self, motion, self._following)
        options = {"num_steps": num_steps, "guidance": guidance}
        return np.asarray(self._following.generate(jax.random.key(seed), batch, tokens, **options))

    def image_to_video(
        self,
        image: AnyArray,
        prompts: Sequence[str],
        seed: int = 0,
        num_steps: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
        *,
        guidance: float | None = None,
        num_frames: int | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Make a video of a picture for each prompt, as CogVideoX-I2V does; the picture is its first frame.

        Args:
            image: uint8 [H W 3] of any size; the videos have the model's, to which it is resized.
            prompts: what the videos show. seed: same seed, same videos. num_steps, guidance: as in `edit`.
            notify: told of pictures that are resized and prompts that are cut.
            num_frames: T, 4k + 1; None takes the model's own.

        Raises:
            ValueError: for a model that takes no picture alone, an image of another form, a number of frames that the
                model cannot make.
        """
        if self.model.method is None or not self.model.method.continues():
            raise ValueError(f"{self.config.name} makes no video of a picture alone: that takes CogVideoX-I2V")
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"the image must be uint8 [H W 3]; got {image.dtype} {list(image.shape)}")
        if image.shape[:2] != self.size:
            sizes = [f"{side[1]}x{side[0]}" for side in (image.shape, self.size)]
            notify(f"the picture is {sizes[0]} and the model works at {sizes[1]}: it is resized")
        if self._generator[0] is not self.params:
            parts = (self.config, self.params, self.folder, self.mesh, self.tokenizer)
            self._generator = (self.params, interpolator.Interpolator(*parts))
        first = video.resize(image[None], self.size)[0]
        return self._generator[1].continued(first, prompts, num_frames, seed, num_steps, guidance, notify)

    def base_digest(self) -> str:
        """Return what tells this model's base from another (`motions.digest`); worked out once."""
        if self._digest[0] is not self.params:
            self._digest = (self.params, motions.digest(base_params(self.params["dit"])))
        return self._digest[1]


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
