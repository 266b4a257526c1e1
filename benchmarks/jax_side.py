"""Our side of `against_diffusers.py`: the tiny model's training steps, its parts and a whole edit, ready to be timed.

Weights are random numbers of the right shapes: what they are does not change the time, and drawing them with numpy
saves compiling the initialisers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from motionv2v import backbone, editing, parameters, sampling
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.tracks import Tracks
from motionv2v.training import loop, tasks
from motionv2v.training.optimizer import make_optimizer, update_ema
from motionv2v.typing import PyTree


class WholeClips(tasks.VaeTask):
    """The autoencoder's training without what prepares its batches: clips as they are, neither cut nor drawn."""

    def videos(self, key: Any, batch: dict[str, Any]) -> jax.Array:
        """Return the target clips in [-1, 1]."""
        del key
        return batch["target"].astype(jnp.float32) / 127.5 - 1


def random_params(config: Any) -> PyTree:
    """Draw a tree of the shapes that `config` has; nothing is zero, so that no work can be skipped."""
    shapes = jax.eval_shape(lambda k: backbone.init_params(k, backbone.build(config)), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.05 * rng.standard_normal(s.shape, np.float32)), shapes)


class JaxSide:
    """Everything that is timed, as methods by the row's name. Each blocks until its result is there.

    Attributes:
        parameters: number of parameters by part.
    """

    def __init__(self, configs: dict[str, Any], inputs: dict[str, Any]):
        self.configs, self.inputs = configs, inputs
        self.params = random_params(configs["control"])
        base, branch = dict(self.params["dit"]), self.params["dit"]["control"]
        del base["control"]
        self.base_params = {"vae": self.params["vae"], "text": self.params["text"], "dit": base}
        self.parameters = {
            "autoencoder": parameters.count(self.params["vae"]),
            "text encoder": parameters.count(self.params["text"]),
            "transformer": parameters.count(base),
            "control branch": parameters.count((branch, self.params["conditioner"])),
        }
        self.model = backbone.build(configs["control"])
        self.editor = editing.Editor(configs["control"], self.params)
        self._steps: dict[str, Callable[[], np.ndarray]] = {}
        self._encode, self._decode, self._text = (
            jax.jit(partial(f, self.model)) for f in (backbone.encode, backbone.decode, backbone.embed_text)
        )

    def train_base(self) -> np.ndarray:
        """Make one step of the base and the text encoder from cached latents of either video of a pair."""
        return self._step("base", self.base_params, self.inputs["batch"])

    def train_control(self) -> np.ndarray:
        """Make one step of the branch beside the frozen base, from cached latents of all four videos."""
        return self._step("control", self.params, self.inputs["batch"])

    def train_vae(self) -> np.ndarray:
        """Make one step of the autoencoder."""
        return self._step("vae", {"vae": self.params["vae"]}, {"target": self.inputs["vae_clips"]})

    def _step(self, name: str, params: PyTree, batch: dict[str, np.ndarray]) -> np.ndarray:
        if name not in self._steps:
            self._steps[name] = make_stepper(self.configs[name], params, batch)
        return self._steps[name]()

    def encode(self) -> np.ndarray:
        """Encode clips to the mode of their latents [B t h w z]."""
        return np.asarray(self._encode(self.params, self.inputs["vae_clips"].astype(np.float32) / 127.5 - 1))

    def decode(self) -> np.ndarray:
        """Decode latents to clips [B T H W 3]."""
        return np.asarray(self._decode(self.params, self.inputs["vae_latents"]))

    def text(self) -> np.ndarray:
        """Encode a batch of captions."""
        return np.asarray(self._text(self.params, self.inputs["batch"]["tokens"]))

    def edit(self) -> np.ndarray:
        """Edit one clip, as a caller of the library does: `Editor.edit`, from uint8 frames to uint8 frames."""
        clip = self.inputs["clip"]
        source, target = (Tracks(clip[f"{side}_xy"], clip[f"{side}_visible"]) for side in ("source", "target"))
        return self.editor.edit(clip["source"], source, target, notify=lambda _: None).frames


def make_stepper(config: Any, params: PyTree, batch: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """Build a call that makes the training loop's own step on a batch in host memory and returns the loss."""
    optimizer = make_optimizer(config, params)
    trainable, frozen = parameters.partition(params, config.optim.schedule)
    task = WholeClips(config) if config.kind == "vae" else tasks.make(config)
    step = loop.make_train_step(task.loss, optimizer, config)
    state = loop.init_state(trainable, optimizer)

    def run() -> np.ndarray:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return np.asarray(jax.block_until_ready((state, metrics))[1]["loss"])

    return run


def control_step_parts(side: JaxSide) -> dict[str, Callable[[], Any]]:
    """Return the parts of the control training step as compiled calls of their own; each contains what is named."""
    config, params, batch, model = side.configs["control"], side.params, side.inputs["batch"], side.model
    task, optimizer = tasks.make(config), make_optimizer(config, params)
    trainable, frozen = parameters.partition(params, config.optim.schedule)
    x0 = jnp.asarray(batch["target_latents"], jnp.float32)
    conditions = {"videos": {n: jnp.asarray(batch[f"{n}_latents"], jnp.float32) for n in model.method.STREAMS}}
    timestep, text = jnp.full(len(x0), 500), jax.block_until_ready(side._text(params, batch["tokens"]))
    predict = jax.jit(partial(backbone.denoise, model))

    @jax.jit
    def gradients(trainable: PyTree, frozen: PyTree, batch: Any) -> Any:
        loss = lambda part: task.loss(jax.random.key(0), parameters.merge(part, frozen), batch)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(trainable)

    @partial(jax.jit, donate_argnums=(1, 2, 3))
    def update(grads: PyTree, trainable: PyTree, average: PyTree, opt_state: Any) -> Any:
        updates, opt_state = optimizer.tx.update(grads, opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        return trainable, update_ema(average, trainable, 0, config.train.ema_decay), opt_state

    grads = jax.tree.map(lambda x: 1e-3 * x, trainable)
    state = loop.init_state(trainable, optimizer)
    held = [state.trainable, state.ema, state.opt_state]

    def run_update() -> Any:
        held[:] = update(grads, *held)
        return jax.block_until_ready(held)

    return {
        "text": side.text,
        "base forward": lambda: jax.block_until_ready(predict(params, x0, timestep, text)),
        "forward": lambda: jax.block_until_ready(predict(params, x0, timestep, text, conditions)),
        "gradients": lambda: jax.block_until_ready(gradients(trainable, frozen, batch)),
        "update": run_update,
        "whole": side.train_control,
    }


def edit_parts(side: JaxSide) -> dict[str, Callable[[], Any]]:
    """Return the parts of an edit as compiled calls of their own."""
    config, params, model, clip = side.configs["control"], side.params, side.model, side.inputs["clip"]
    padding = -len(clip["source_xy"]) % 16  # as `Editor.edit` pads
    batch = {
        name: np.pad(value, ((0, padding), *((0, 0),) * (value.ndim - 1)))[None] if name != "source" else value[None]
        for name, value in clip.items()
    }
    draw = jax.jit(lambda key, b: model.method.batch_conditions(key, b, config.method))
    drawn = draw(jax.random.key(0), batch)
    encode = jax.jit(partial(backbone.encode_conditions, model))
    conditions = encode(params, drawn)
    tokens = side.inputs["prompt_tokens"]
    text = side._text(params, tokens)
    noise = jnp.asarray(side.inputs["vae_latents"][:1])
    assert noise.shape == latent_shape(batch["source"].shape, model.vae.latent_channels)

    @jax.jit
    def denoise(params: PyTree, noise: Any, text: Any, conditions: Any) -> Any:
        predict = lambda xt, timestep: backbone.denoise(model, params, xt, timestep, text, conditions)  # noqa: E731
        settings = config.sample
        return sampling.sample(
            jax.random.key(0), predict, noise, model.schedule, num_steps=settings.num_steps, solver=settings.solver
        )

    decode = jax.jit(lambda p, z: jnp.round((backbone.decode(model, p, z) + 1) * 127.5).astype(jnp.uint8))
    return {
        "draw": lambda: jax.block_until_ready(draw(jax.random.key(0), batch)),
        "encode": lambda: jax.block_until_ready(encode(params, drawn)),
        "text": lambda: jax.block_until_ready(side._text(params, tokens)),
        "denoise": lambda: jax.block_until_ready(denoise(params, noise, text, conditions)),
        "decode": lambda: jax.block_until_ready(decode(params, noise)),
        "whole": side.edit,
    }
