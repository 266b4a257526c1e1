"""A model in memory, ready for use: modules, parameters on the devices, and prompts turned into embeddings.

The text encoder is a program of its own, run once for each new prompt. CogVideoX-5B's is as large as the transformer;
where the devices have no room for it beside a sample, its weights wait in the host's memory and visit for the call.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import compiled, memory, optim, sharding, step_cache
from motionv2v import model as modeling
from motionv2v import tokenizer as tokenizers
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
        params: the full tree; the text encoder's as numpy arrays where it but visits the devices (`memory.holds_text`).
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
            config = memory.with_strips_if_needed(config, params, mesh)
        self.config, self.mesh, self.folder = config, mesh, folder
        self.model = modeling.build(config)
        self.params = self._place(params)
        self._encode_text = self.program(self._encode_text_fn, ())
        kind, length = config.text.get("tokenizer", "bytes"), config.data.text_length
        self.tokenizer = tokenizers.make(kind, length, folder) if tokenizer is None else tokenizer

    def with_params(self, params: PyTree) -> "LoadedModel":
        """Take other parameters of the same shapes, keeping what is compiled; returns itself."""
        self.params = self._place(params)
        return self

    def _place(self, params: PyTree) -> PyTree:
        """Put parameters on the devices, the text encoder's only if there is room; forget what it said before."""
        self._embeddings: dict[bytes, AnyArray] = {}
        text = params.get("text", {})
        if not text or _within_mesh() or memory.holds_text(self.config, params, self.mesh):
            return sharding.place(params, self.mesh)
        text = jax.tree.map(np.asarray, text)
        return {**sharding.place({n: tree for n, tree in params.items() if n != "text"}, self.mesh), "text": text}

    @property
    def sampling_params(self) -> PyTree:
        """Return the parameters that a sample reads: all but the text encoder's."""
        return {name: tree for name, tree in self.params.items() if name != "text"}

    def embed(self, tokens: Int[AnyArray, "B L"]) -> Float[AnyArray, "B L C"]:
        """Encode the tokens of prompts; the last `REMEMBERED` answers are kept."""
        tokens = np.asarray(tokens, np.int32)
        key = str(tokens.shape).encode() + tokens.tobytes()
        if key not in self._embeddings:
            weights = self.params["text"]
            if isinstance(jax.tree.leaves(weights)[0], np.ndarray):
                weights = sharding.place({"text": weights}, self.mesh)["text"]
            with sharding.use(self.mesh):
                self._embeddings[key] = self._encode_text(weights, jnp.asarray(tokens))
        # Asked for last, forgotten last.
        self._embeddings[key] = found = self._embeddings.pop(key)
        while len(self._embeddings) > REMEMBERED:
            self._embeddings.pop(next(iter(self._embeddings)))
        return found

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
            return {path: list(leaf.shape) for path, leaf in optim.flatten(shapes).items()}

        # Tracing every initialiser takes longer than loading the weights.
        shapes = compiled.remembered("shapes", self.config, trace)
        return optim.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()})

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


def _within_mesh() -> bool:
    """Tell whether a caller's mesh is in force, as in the probes of a training: then the caller placed everything."""
    return not jax.sharding.get_abstract_mesh().empty
