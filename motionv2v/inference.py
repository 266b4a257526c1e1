"""A model in memory, ready for use: modules, parameters on the devices, and prompts turned into embeddings.

The text encoder is a program of its own, run once for each new prompt. CogVideoX-5B's is as large as the transformer;
where the devices have no room for it beside a sample, its weights wait in the host's memory and visit for the call, or
the host runs it where there is no room for a visit either. The layers that only the diffusion time passes through,
of which a sample reads tables (`models.time_tables`), wait too.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import compiled, parameters, room, sharding, step_cache
from motionv2v import model as modeling
from motionv2v import tokenizer as tokenizers
from motionv2v.models import time_tables
from motionv2v.models.activations import constrain
from motionv2v.typing import AnyArray, Float, Int, PyTree

NEGATIVE_PROMPT = (
    "The video is not of a high quality, it has a low resolution. Watermark present in each frame. The background is "
    "solid. Strange body and strange trajectory. Distortion."
)
"""The text that guidance moves away from with CogVideoX-sized models, as in the published demos."""
NULL_PROMPT = "."
REMEMBERED = 8
"""Calls of the text encoder whose results are kept: edits ask for the same prompt and negative prompt over and over."""


class LoadedModel:
    """A model in memory: modules, parameters and tokenizer, whatever is done with it.

    Attributes:
        config: the checkpoint's own, with `strip_rows` for the autoencoder where memory is short.
        model: the modules. mesh: of devices, or None. tokenizer: of the prompts.
        params: the full tree; as numpy arrays what but visits the devices: the layers that read the diffusion time, if
            they were not there before, and the text encoder where there is no room for it (`room.holds_text`).
    """

    def __init__(
        self,
        config: Any,
        params: PyTree,
        folder: str | os.PathLike | None = None,
        mesh: jax.sharding.Mesh | None = None,
        tokenizer: tokenizers.Tokenizer | None = None,
    ):
        """Build the modules, and put the parameters on one device, or on a mesh by `sharding.RULES`.

        Args:
            config, params: of the model.
            folder: where the model's curve for the step cache lies, and a sentencepiece vocabulary, if `text.tokenizer`
                asks for one and no `tokenizer` is given.
            mesh: from `sharding.make_mesh`. Guidance then runs its two predictions as one batch, one half of which each
                half of a `data` axis takes; `context` and `tensor` divide a single clip.

        Raises:
            ValueError: if the heads do not divide over the mesh.
        """
        if mesh is not None:
            sharding.check(mesh, config, is_training=False)
        if not _within_mesh():
            config = room.with_strips_if_needed(config, params, mesh)
        self._rules = sharding.RULES if _within_mesh() else room.sampling_rules(config, params, mesh)
        self.config, self.mesh, self.folder = config, mesh, folder
        self.model = modeling.build(config)
        self.params = self._place(params)
        self._encode_text = self.program(self._encode_text_fn, ())
        self._tabulate = self.program(self._tabulate_fn, ("num_steps",))
        kind, length = config.text.get("tokenizer", "bytes"), config.data.text_length
        self.tokenizer = tokenizers.make(kind, length, folder) if tokenizer is None else tokenizer

    def with_params(self, params: PyTree) -> "LoadedModel":
        """Take other parameters of the same shapes, keeping what is compiled; returns itself."""
        self.params = self._place(params)
        return self

    def _place(self, params: PyTree) -> PyTree:
        """Put parameters on the devices, but what only visits them on the host; forget what followed from others."""
        self._embeddings: dict[bytes, AnyArray] = {}
        self._tables: dict[int, PyTree] = {}
        if _within_mesh() or not params:
            return sharding.place(params, self.mesh)
        of_time, rest = time_tables.split(params.get("dit", {}))
        # What is on devices already, of a training that goes on, stays there.
        waits = {"dit": jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), of_time)}
        stays = {**params, "dit": rest}
        if params.get("text") and not room.holds_text(self.config, params, self.mesh):
            waits["text"] = jax.tree.map(np.asarray, stays.pop("text"))
        placed = sharding.place(stays, self.mesh, rules=self._rules)
        return time_tables.join(placed, waits)

    def _visiting(self, name: str, params: PyTree) -> PyTree:
        """Put parameters of the subtree `name` on the devices for a call, if they wait on the host."""
        return sharding.place({name: params}, self.mesh, rules=self._rules)[name] if _waits(params) else params

    def sampling_params(self, num_steps: int | None = None) -> PyTree:
        """Return what a sample of so many steps reads (`model.sampling_params`); None takes the config's steps."""
        num_steps = int(num_steps or self.config.sample.num_steps)

        def tabulate() -> PyTree:
            of_time = self._visiting("dit", time_tables.split(self.params["dit"])[0])
            with sharding.use(self.mesh):
                return self._tabulate(of_time, num_steps=num_steps)

        return modeling.sampling_params(self.params, _remember(self._tables, num_steps, tabulate, most=1))

    def _tabulate_fn(self, of_time, *, num_steps):
        tables = modeling.tabulate(self.model, of_time, num_steps)
        return jax.tree.map(lambda x: constrain(x, "whole"), tables)

    def embed(self, tokens: Int[AnyArray, "B L"]) -> Float[AnyArray, "B L C"]:
        """Encode the tokens of prompts; the last `REMEMBERED` answers are kept."""
        tokens = np.asarray(tokens, np.int32)

        def encode() -> AnyArray:
            weights = self.params["text"]
            if _waits(weights) and not room.admits_text(self.config, self.params, self.mesh):
                with sharding.on_host():
                    return np.asarray(self._encode_text.jitted(jax.tree.map(jnp.asarray, weights), jnp.asarray(tokens)))
            weights = self._visiting("text", weights)
            with sharding.use(self.mesh):
                return self._encode_text(weights, jnp.asarray(tokens))

        return _remember(self._embeddings, str(tokens.shape).encode() + tokens.tobytes(), encode)

    def _encode_text_fn(self, weights, tokens):
        return constrain(modeling.embed_text(self.model, {"text": weights}, tokens), "whole")

    def embed_with_null(
        self, tokens: Int[AnyArray, "B L"]
    ) -> tuple[Float[AnyArray, "B L C"], Float[AnyArray, "B L C"]]:
        """Encode prompts, and as often the text that guidance moves away from: the config's, or an empty one."""
        negative = self.config.sample.get("negative_prompt", NULL_PROMPT)
        return self.embed(tokens), self.embed(self.tokenizer.encode([negative] * len(tokens)))

    def expected_shapes(self) -> PyTree:
        """Return the shapes that the config's parameters must have."""

        def trace() -> dict[str, list[int]]:
            shapes = jax.eval_shape(lambda k: modeling.init_params(k, self.model), jax.random.key(0))
            return {path: list(leaf.shape) for path, leaf in parameters.flatten(shapes).items()}

        # Tracing every initialiser takes longer than loading the weights.
        shapes = compiled.remembered("shapes", self.config, trace)
        return parameters.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})

    def program(self, function: Callable[..., Any], static: Sequence[str]) -> compiled.Program:
        """Jit a function of this model, whose `static` arguments are its keywords; kept on disk, see `compiled`."""
        name = f"{type(self).__name__}.{function.__name__}"
        return compiled.Program(jax.jit(function, static_argnames=static), name, f"{self.config} {self.mesh}")

    def reused_steps(self, threshold: float | None, num_steps: int | None = None) -> tuple[bool, ...] | None:
        """Plan the step cache of a sample, see `step_cache.plan`; None where no step is reused.

        Args:
            threshold: None takes the config's, which is 0 unless it says otherwise. num_steps: None takes the config's.

        Raises:
            ValueError: if the threshold is impossible, or above 0 and nobody measured this model's curve.
        """
        settings = self.config.sample
        threshold = settings.get("step_cache", 0.0) if threshold is None else threshold
        if threshold == 0:
            return None
        plan = step_cache.plan(step_cache.load(self.folder), int(num_steps or settings.num_steps), threshold)
        return plan if any(plan) else None

    @property
    def num_frames(self) -> int:
        """Return the number of frames the model works at."""
        return int(self.config.data.num_frames)

    @property
    def size(self) -> tuple[int, int]:
        """Return the (height, width) the model works at."""
        return tuple(self.config.data.size)


def _waits(params: PyTree) -> bool:
    """Tell whether parameters are in the host's memory."""
    return isinstance(jax.tree.leaves(params)[0], np.ndarray)


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
