"""A model in memory, ready for use: modules, parameters on the devices, and prompts turned into embeddings.

The text encoder is a program of its own, run once for each new prompt. CogVideoX-5B's is as large as the transformer;
where the devices have no room for it beside a sample, its weights wait in the host's memory and visit for the call, or
the host runs it where there is no room for a visit either. The layers that only the diffusion time passes through,
of which a sample reads tables (`models.time_tables`), wait too.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import backbone, sampling, sections
from motionv2v.convert.checked import expected_shapes
from motionv2v.data.tokenizer import Tokenizer, make
from motionv2v.devices import fit, program_cache, sharding
from motionv2v.editing import step_cache
from motionv2v.methods import fields
from motionv2v.models import positions, time_tables
from motionv2v.models.activations import constrain
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree, UInt8

NEEDED = ("vae", "text", "dit", "schedule", "data", "sample")
"""Sections of a config that a sample is made by."""
SAMPLE_STATIC = ("settings", "use_control", "shape", "skip")
"""Arguments of a sampler that are part of the compiled program."""
REMEMBERED = 8
"""Calls of the text encoder whose results are kept: edits ask for the same prompt and negative prompt over and over."""
Place = Literal["devices", "visits", "host"]
"""Where weights lie: on the devices, in the host's memory until a call takes them to the devices, or used there too."""


class Placement(NamedTuple):
    """Say where the weights lie that not every step of a sample reads; all others are on the devices.

    `time_layers`: the layers that only the diffusion time passes through. `text`: the text encoder.
    """

    time_layers: Place = "devices"
    text: Place = "devices"

    def divide(self, params: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
        """Divide parameters into those on the devices, and those that wait on the host."""
        on_devices, waiting = dict(params), {}
        if self.time_layers != "devices":
            waiting["dit"], on_devices["dit"] = time_tables.split(params["dit"])
        if self.text != "devices":
            waiting["text"] = on_devices.pop("text")
        return on_devices, waiting


def choose_placement(config: Any, params: PyTree, mesh: jax.sharding.Mesh | None) -> Placement:
    """Decide where the weights of a model lie between calls, by the memory of the devices.

    In the probe of a training, which has put all of them on devices itself (`_within_mesh`), they stay there; so do
    layers of the time that are given on devices, since they belong to a training without a mesh.
    """
    if _within_mesh():
        return Placement()
    time_layers, _ = time_tables.split(params.get("dit", {}))
    is_there = all(isinstance(x, jax.Array) for x in jax.tree.leaves(time_layers))
    text: Place = "devices"
    if params.get("text") and not fit.holds_text(config, params, mesh):
        text = "visits" if fit.admits_text(config, params, mesh) else "host"
    return Placement("devices" if is_there else "visits", text)


class SampleError(ValueError):
    """Say that a sample holds values that are no numbers, and what may help."""


def all_finite(*arrays: AnyArray) -> AnyArray:
    """Tell on the device whether arrays hold numbers alone: one flag, whole on every device."""
    return constrain(jnp.stack([jnp.isfinite(x).all() for x in arrays]).all(), "whole")


def check_sample(is_finite: AnyArray | bool, config: Any) -> None:
    """Raise a SampleError unless a sample came out finite: NaN would be drawn as black."""
    if isinstance(is_finite, jax.core.Tracer) or bool(is_finite):  # a caller's trace asks for shapes alone
        return
    help_ = ["another number of steps", "a guidance scale nearer to 1"]
    if "bfloat16" in (config.dit.dtype, config.vae.dtype, config.text.dtype):
        help_.insert(0, "dtype 'float32' in the sections dit, vae and text of the model's config.json")
    raise SampleError(
        f"the sample holds values that are not finite, which no video can show, although the weights of {config.name} "
        f"are finite; what may help: {', '.join(help_)}"
    )


class LoadedModel:
    """A model in memory: modules, parameters and tokenizer, whatever is done with it.

    Attributes:
        config: the checkpoint's own, with `strip_rows` for the autoencoder where memory is short.
        model: the modules. mesh: of devices, or None. tokenizer: of the prompts.
        params: the full tree, as numpy arrays what is not on the devices. placement: says what that is.
    """

    def __init__(
        self,
        config: Any,
        params: PyTree,
        folder: str | os.PathLike | None = None,
        mesh: jax.sharding.Mesh | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        """Build the modules, and put the parameters on one device, or on a mesh by `sharding.RULES`.

        Args:
            config, params: of the model.
            folder: where the model's curve for the step cache lies, and a sentencepiece vocabulary, if `text.tokenizer`
                asks for one and no `tokenizer` is given.
            mesh: from `sharding.make_mesh`. Guidance then runs its two predictions as one batch, one half of which each
                half of a `data` axis takes; `context` and `tensor` divide a single clip.

        Raises:
            ValueError: if the config lacks what a sample is made by, or the heads do not divide over the mesh.
        """
        config = sections.complete(config)
        sections.require(config, NEEDED, "to sample", config.name)
        if mesh is not None:
            sharding.check(mesh, config, is_training=False)
        if not _within_mesh():
            config = fit.with_strips_if_needed(config, params, mesh)
        self._rules = sharding.RULES if _within_mesh() else fit.sampling_rules(config, params, mesh)
        self.config, self.mesh, self.folder = config, mesh, folder
        self.model = backbone.build(config)
        self.params = self._place(params)
        self._encode_text = self.program(self._encode_text_fn, ())
        self._tabulate = self.program(self._tabulate_fn, ("settings",))
        self._sample = self.program(self._sample_fn, SAMPLE_STATIC)
        kind, length = config.text.tokenizer, config.data.text_length
        self.tokenizer = make(kind, length, folder) if tokenizer is None else tokenizer
        if self.tokenizer.vocab_size > config.text.vocab_size:
            raise ValueError(
                f"{config.name}: the tokenizer has {self.tokenizer.vocab_size} tokens, but the text encoder knows "
                f"{config.text.vocab_size} (text.vocab_size)"
            )

    def with_params(self, params: PyTree) -> "LoadedModel":
        """Take other parameters of the same shapes, keeping what is compiled; returns itself."""
        self.params = self._place(params)
        return self

    def _place(self, params: PyTree) -> PyTree:
        """Put parameters where `placement`, decided here, wants them; forget what followed from others."""
        self._embeddings: dict[bytes, AnyArray] = {}
        self._tables: dict[sampling.Settings, PyTree] = {}
        self.placement = choose_placement(self.config, params, self.mesh)
        on_devices, waiting = self.placement.divide(params)
        placed = sharding.place(on_devices, self.mesh, rules=self._rules)
        return time_tables.join(placed, jax.tree.map(np.asarray, waiting))

    def _visit(self, name: str, weights: PyTree) -> PyTree:
        """Put weights of the subtree `name`, which wait on the host, on the devices for a call."""
        return sharding.place({name: weights}, self.mesh, rules=self._rules)[name]

    def settings(
        self, num_steps: int | None = None, guidance: float | None = None, reuse: Sequence[bool] | None = None
    ) -> sampling.Settings:
        """Return the settings of a sample: the config's, but for what is given (`sampling.from_config`)."""
        return sampling.from_config(self.config.sample, num_steps=num_steps, guidance=guidance, reuse=reuse)

    def sampling_params(self, settings: sampling.Settings | None = None) -> PyTree:
        """Return what a sample reads (`backbone.sampling_params`); None takes the config's settings."""
        settings = settings or self.settings()
        # The modulations at a timestep are the same whatever else is set.
        steps = sampling.Settings(settings.num_steps, start=settings.start)

        def tabulate() -> PyTree:
            time_layers, _ = time_tables.split(self.params["dit"])
            if self.placement.time_layers == "visits":
                time_layers = self._visit("dit", time_layers)
            with sharding.use(self.mesh):
                return self._tabulate(time_layers, settings=steps)

        return backbone.sampling_params(self.params, _remember(self._tables, steps, tabulate, most=1))

    def _tabulate_fn(self, time_layers, *, settings):
        tables = backbone.tabulate(self.model, time_layers, settings)
        return jax.tree.map(lambda x: constrain(x, "whole"), tables)

    def sample(
        self,
        key: Key,
        batch: dict[str, AnyArray],
        tokens: Int[AnyArray, "B L"],
        settings: sampling.Settings,
        *,
        use_control: bool = True,
        shape: tuple[int, int, int] | None = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Make videos of what the method reads, at the model's frames and size; one compiled call, pixels to pixels.

        Args:
            key: of the noise, of what the method draws, and of the solver.
            batch: the arrays of `methods.Method.fields`, [B ...]; others are left aside.
            tokens: of the prompts. settings: of the sample.
            use_control: False samples the base alone, whatever the batch holds.
            shape: (T, H, W) of the videos; None takes the model's. What the batch holds has the frames of `longer`.

        Raises:
            SampleError: for a sample that is not finite.
        """
        shape, skip = self.longer(shape or backbone.clip_shape(self.model)[:3])
        static = {"shape": shape, "skip": skip}
        videos, is_finite = self._call_sampler(self._sample, key, batch, tokens, settings, use_control, **static)
        check_sample(is_finite, self.config)
        return videos

    def longer(self, shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
        """Return (T, H, W) of what is sampled for videos (T, H, W), and the latent frames in front that are dropped.

        CogVideoX 1.5 samples a clip whose latent frames divide into patches (`models.positions.extra_frames`).
        """
        dit, vae = self.model.denoiser.dit, self.model.vae
        skip = positions.extra_frames(latent_shape((1, *shape, 3), vae.latent_channels)[1], dit.patch_size_t)
        return (int(shape[0]) + skip * vae.temporal_compression, *map(int, shape[1:])), skip

    def _call_sampler(self, program, key, batch, tokens, settings, use_control, **static):
        names = {*fields.arrays(self.fields), *fields.optional(self.fields)} if use_control else set()
        read = {name: jnp.asarray(x) for name, x in batch.items() if name in names}
        params = self.sampling_params(settings)
        texts = self.embed_with_null(tokens)
        static |= {"settings": settings, "use_control": use_control and self.model.method is not None}
        with sharding.use(self.mesh):
            return program(params, key, read, *texts, **static)

    @property
    def fields(self) -> dict[str, fields.Field]:
        """Return the fields that the method reads by name; none without a method."""
        return {} if self.model.method is None else self.model.method.fields(self.config.method)

    def _sample_fn(self, params, key, batch, text, null_text, *, settings, use_control, shape, skip):
        """Sample from what the method reads to pixels, and tell whether it is finite: what `sample` compiles."""
        sample_key, noise, conditions = self._start(params, key, batch, len(text), shape, use_control)
        latents = self.sample_latents(
            sample_key, params, noise, text, null_text, conditions, settings, use_control=use_control
        )
        video = backbone.decode(self.model, params, latents[:, skip:])
        videos = constrain(jnp.round((video + 1) * 127.5).astype(jnp.uint8), "whole")
        return videos, all_finite(latents, video)

    def sample_latents(
        self,
        key: Key,
        params: PyTree,
        noise: Float[AnyArray, "B t h w z"],
        text: Float[AnyArray, "B L C"],
        null_text: Float[AnyArray, "B L C"],
        conditions: PyTree,
        settings: sampling.Settings,
        use_control: bool = True,
    ) -> Float[AnyArray, "B t h w z"]:
        """Sample scaled latents; pure, for use under jit (and, on a mesh, within `sharding.use`).

        Args:
            key: of the solver's own noise. params: `sampling_params` for the settings.
            noise: what the sample starts from. text, null_text: embeddings of the prompts, and of what guidance moves
                away from.
            conditions: latents of the method's conditions. settings, use_control: as for `sample`.
        """
        functions = self.denoisers(params, text, null_text, conditions, use_control)
        return sampling.sample(key, functions[0], noise, self.model.schedule, settings, functions[1])

    def _start(self, params, key, batch, count, shape, use_control):
        """Draw the solver's key, the noise and, with control, the conditions' latents."""
        model = self.model
        draw_key, noise_key, sample_key = jax.random.split(key, 3)
        latents = backbone.latent_shape((count, *shape, 3), model.vae.latent_channels)
        if not use_control:
            return sample_key, jax.random.normal(noise_key, latents), None
        conditions = backbone.encode_conditions(model, params, backbone.draw_conditions(draw_key, model, batch))
        noise = model.method.initial_noise(noise_key, batch, latents, self.config.method)
        return sample_key, noise, conditions

    def denoisers(
        self, params: PyTree, text: AnyArray, null_text: AnyArray, conditions: PyTree, use_control: bool
    ) -> tuple[sampling.DenoiseFn, sampling.GuidedFn]:
        """Build `denoise_fn` and `guided_fn` of a sample (`sampling.sample`); for a program, as `sample_latents`."""
        predict = partial(backbone.denoise, self.model, params, use_control=use_control)

        def guided(xt: AnyArray, timestep: AnyArray) -> tuple[AnyArray, AnyArray]:
            if self.mesh is None:
                # One after the other, by one copy of the program: half the compilation of two calls.
                both = jax.lax.map(lambda t: predict(xt, timestep, t, conditions), jnp.stack([text, null_text]))
                return both[0], both[1]
            # One batch of both: where `data` is 2, each half of the devices predicts one.
            twice = lambda tree: jax.tree.map(lambda x: constrain(jnp.concatenate([x, x]), "batch"), tree)  # noqa: E731
            texts = jnp.concatenate([text, null_text])
            return tuple(jnp.split(predict(twice(xt), twice(timestep), texts, twice(conditions)), 2))

        return (lambda xt, timestep: predict(xt, timestep, text, conditions)), guided

    def embed(self, tokens: Int[AnyArray, "B L"]) -> Float[AnyArray, "B L C"]:
        """Encode the tokens of prompts; the last `REMEMBERED` answers are kept."""
        tokens = np.asarray(tokens, np.int32)

        def encode() -> AnyArray:
            weights = self.params["text"]
            if self.placement.text == "host":
                with sharding.on_host():
                    return np.asarray(self._encode_text.jitted(jax.tree.map(jnp.asarray, weights), jnp.asarray(tokens)))
            if self.placement.text == "visits":
                weights = self._visit("text", weights)
            with sharding.use(self.mesh):
                return self._encode_text(weights, jnp.asarray(tokens))

        return _remember(self._embeddings, str(tokens.shape).encode() + tokens.tobytes(), encode)

    def _encode_text_fn(self, weights, tokens):
        return constrain(backbone.embed_text(self.model, {"text": weights}, tokens), "whole")

    def embed_with_null(
        self, tokens: Int[AnyArray, "B L"]
    ) -> tuple[Float[AnyArray, "B L C"], Float[AnyArray, "B L C"]]:
        """Encode prompts, and as often the text that guidance moves away from: the config's, or an empty one."""
        negative = self.config.sample.negative_prompt
        return self.embed(tokens), self.embed(self.tokenizer.encode([negative] * len(tokens)))

    def expected_shapes(self) -> PyTree:
        """Return the shapes that the config's parameters must have."""
        return expected_shapes(self.config)

    def program(self, function: Callable[..., Any], static: Sequence[str]) -> program_cache.Program:
        """Jit a function of this model, whose `static` arguments are its keywords; kept on disk (`program_cache`)."""
        name = f"{type(self).__name__}.{function.__name__}"
        return program_cache.Program(jax.jit(function, static_argnames=static), name, f"{self.config} {self.mesh}")

    def reused_steps(self, threshold: float | None, num_steps: int | None = None) -> tuple[bool, ...] | None:
        """Plan the step cache of a sample, see `step_cache.plan`; None where no step is reused.

        Args:
            threshold: None takes the config's, which is 0 unless it says otherwise. num_steps: None takes the config's.

        Raises:
            ValueError: if the threshold is impossible, or above 0 and nobody measured this model's curve.
        """
        return step_cache.of_config(self.config, self.folder, threshold, num_steps)

    @property
    def num_frames(self) -> int:
        """Return the number of frames the model works at."""
        return int(self.config.data.num_frames)

    @property
    def size(self) -> tuple[int, int]:
        """Return the (height, width) the model works at."""
        return tuple(self.config.data.size)


def _remember(kept: dict[Any, Any], key: Any, make: Callable[[], Any], most: int = REMEMBERED) -> Any:
    """Return what is kept under a key, made if it is not there; what was asked for longest ago is forgotten."""
    if key not in kept:
        kept[key] = make()
    kept[key] = found = kept.pop(key)
    while len(kept) > most:
        kept.pop(next(iter(kept)))
    return found


def _within_mesh() -> bool:
    """Tell whether a caller's mesh is in force, as in the probes of a training: then the caller placed everything."""
    return not jax.sharding.get_abstract_mesh().empty
