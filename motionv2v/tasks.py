"""What is trained: the VAE, the text-to-video base, a method's control branch on it, or the base with its channels.

`train.train` runs any object with this protocol:

    init(key) -> params                      the full tree, fp32, weights of earlier stages already in place
    loss(key, params, batch) -> (loss, {name: scalar})           pure, jittable
    dataset(split) -> grain.IterDataset      batches of numpy arrays, leading axis B
    probe(key, params) -> {"scalars": ..., "videos": ...}        a slow look at a fixed set of held-out samples
    flops_per_sample() -> float                                  of the denoisers: operations of one training sample
    step_reads() -> names                                        of the denoisers: subtrees that the loss reads
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import (
    checkpoints,
    diffusion,
    editing,
    evaluate,
    flops,
    interpolate,
    interpolation_scores,
    prepare,
    render,
    sections,
)
from motionv2v import model as modeling
from motionv2v.data import synthetic
from motionv2v.datasets import make_dataset, scene_config, start_folders, vocabulary_folder
from motionv2v.models.activations import constrain
from motionv2v.models.dit import base_params, init_control_from_base
from motionv2v.models.vae import sample_latents
from motionv2v.tracks import Tracks
from motionv2v.typing import Key, PyTree

Batch = dict[str, Any]
Scalars = dict[str, Any]


def make(config: Any) -> "VaeTask | DenoiserTask":
    """Build the task that `config.kind` names, see `kinds`. Raises ValueError for another kind."""
    config = sections.complete(config)
    kinds = {"vae": VaeTask, "base": DenoiserTask, "control": DenoiserTask, "generator": GeneratorTask}
    if config.kind not in kinds:
        raise ValueError(f"unknown kind {config.kind!r}; available: {', '.join(kinds)}")
    return kinds[config.kind](config)


def take_weights(params: PyTree, folders: Any, fit: Callable[[PyTree], PyTree] | None = None) -> PyTree:
    """Replace subtrees of `params` by those of earlier stages, folder by folder; leaves nothing half-loaded.

    Args:
        params: the full tree. folders: released names, model folders or training work dirs.
        fit: changes a transformer's subtree before its shapes are checked (a method's `fit_base`).

    Raises:
        checkpoints.CheckpointError: if a folder cannot be read or a shape does not fit, naming both.
    """
    params = dict(params)
    for folder in folders:
        _, loaded = checkpoints.load_model(folder)
        for name, subtree in loaded.items():
            if name not in params:
                continue
            if name == "dit":
                # A base and a model with a branch may start from one another.
                branch = (subtree if "control" in subtree else params["dit"]).get("control")
                subtree = base_params(subtree) | ({"control": branch} if "control" in params["dit"] else {})
                subtree = subtree if fit is None else fit(subtree)
            checkpoints.check_shapes(subtree, params[name], f"{folder} ({name})")
            params[name] = jax.tree.map(jnp.asarray, subtree)
    return params


class VaeTask:
    """Train the autoencoder: L1 + L2 reconstruction and a light KL, on scenes and on blobs."""

    def __init__(self, config: Any):
        self.config, self.model = config, modeling.build(config)
        self.trainable = config.optim.schedule
        whole = modeling.clip_shape(self.model)[:3]
        if config.data.crop is None:
            raise ValueError(
                "data.crop is missing: frames, height and width (T, H, W) of the pieces that are trained on"
            )
        if any(piece > size for piece, size in zip(config.data.crop, whole, strict=True)):
            raise ValueError(f"data.crop {tuple(config.data.crop)} is larger than the clips (T, H, W) = {whole}")
        # Compiled once, not once per probe.
        # Whole on every process, which all read the results.
        self._encode = jax.jit(lambda p, x: constrain(modeling.encode(self.model, p, x), "whole"))
        self._decode = jax.jit(lambda p, z: constrain(modeling.decode(self.model, p, z), "whole"))
        self._blobs = jax.jit(lambda key, batch: constrain(self.blobs(key, batch), "whole"))

    def init(self, key: Key) -> PyTree:
        """Draw the parameters, or take them from `config.init_from`."""
        params = jax.jit(lambda k: modeling.init_params(k, self.model))(key)
        return take_weights(params, self.config.get("init_from", ()))

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches."""
        return make_dataset(self.config, split)

    def videos(self, key: Key, batch: Batch) -> jax.Array:
        """Draw the clips to reconstruct, in [-1, 1]: `data.clips` pieces of `data.crop` (T, H, W) cut at random.

        A share `data.blob_share` of them shows the blobs of the target's tracks, the others either video of a pair.
        The autoencoder is convolutional: small pieces make many cheap steps, and a last stage on whole clips
        (`crop` of the full size) fits the norms' statistics to them.
        """
        data = self.config.data
        keys = jax.random.split(key, 4)
        clips = jnp.concatenate([batch["source"], batch["target"]]).astype(jnp.float32) / 127.5 - 1
        is_blob = jax.random.bernoulli(keys[0], data.blob_share, (data.clips,))
        which = jax.random.randint(keys[1], (data.clips,), 0, clips.shape[0])
        which = jnp.where(is_blob, clips.shape[0] + which % batch["target"].shape[0], which)
        clips = jnp.concatenate([clips, self.blobs(keys[2], batch)])
        room = jnp.array(clips.shape[1:4]) - jnp.array(data.crop) + 1
        corner = jnp.floor(jax.random.uniform(keys[3], (data.clips, 3)) * room).astype(jnp.int32)
        zero = jnp.int32(0)
        cut = lambda i, c: jax.lax.dynamic_slice(clips, (i, *c, zero), (1, *data.crop, 3))[0]  # noqa: E731
        return jnp.stack([cut(which[n], corner[n]) for n in range(data.clips)])

    def blobs(self, key: Key, batch: Batch) -> jax.Array:
        """Draw the blobs of a batch's target tracks in [-1, 1]."""
        data, xy = self.config.data, batch["target_xy"]
        keys = jax.random.split(key, xy.shape[0])
        colors = jax.vmap(lambda k: render.random_colors(k, xy.shape[1], data.colors))(keys)
        size = batch["target"].shape[2:4]
        draw = jax.vmap(lambda xy, visible, c: render.blobs(Tracks(xy, visible), c, size, data.sigma))
        return draw(xy, batch["target_visible"], colors) * 2 - 1

    def loss(self, key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Scalars]:
        """Return the weighted L1, MSE, edge error and KL to N(0, 1) of the reconstruction, each a mean over elements.

        The edge error is the L1 distance of the differences between neighbouring pixels (after Mathieu et al. 2016,
        arXiv 1511.05440, section 3.2): an average of positions has the right colours and no edges, and it is edges
        that a tracker holds on to.
        """
        video_key, noise_key = jax.random.split(key)
        video = self.videos(video_key, batch)
        variables = {"params": params["vae"]}
        mean, logvar = self.model.vae.apply(variables, video, method="encode")
        output = self.model.vae.apply(variables, sample_latents(noise_key, mean, logvar), method="decode")
        l1, mse = jnp.abs(output - video).mean(), jnp.square(output - video).mean()
        edges = sum(jnp.abs(jnp.diff(output - video, axis=axis)).mean() for axis in (2, 3))
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
        psnr = -10 * jnp.log10(jnp.square((output - video) / 2).mean((1, 2, 3, 4)) + 1e-10).mean()
        weights = self.config.loss
        total = weights.l1 * l1 + weights.mse * mse + weights.get("edges", 0.0) * edges + weights.kl * kl
        return total, {
            "l1": l1,
            "edges": edges,
            "kl": kl,
            "psnr": psnr,
            "latent_std": mean.std(),
        }

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Reconstruct held-out clips; PSNR over scenes and over blobs apart, and the latents' standard deviation."""
        scene = scene_config(self.config)
        source = synthetic.SyntheticSource(scene, self.config.data.seed, "test")
        samples = [source[i] for i in range(self.config.train.probe_samples)]
        batch = {k: np.stack([s[k] for s in samples]) for k in ("target", "target_xy", "target_visible")}
        scenes = batch["target"].astype(np.float32) / 127.5 - 1
        blobs = np.asarray(self._blobs(key, batch))
        scalars, videos = {}, {}
        for name, clips in (("scenes", scenes), ("blobs", blobs)):
            latents = self._encode(params, clips)
            output = np.asarray(self._decode(params, latents))
            error = np.square((output - clips) / 2).mean((2, 3, 4))
            scalars[f"psnr_{name}"] = float(np.mean(-10 * np.log10(error + 1e-10)))
            scalars[f"latent_std_{name}"] = float(np.std(np.asarray(latents)) / self.model.vae.scaling_factor)
            both = np.concatenate([clips[:4], output[:4]], 2)
            videos[f"{name}_in_out"] = _to_uint8(np.concatenate(list(both), 2))
        return {"scalars": scalars, "videos": videos}


class DenoiserTask:
    """Train the denoiser by v-prediction: the text-to-video base, or a method's branch on the frozen base."""

    def __init__(self, config: Any):
        self.config, self.model = config, modeling.build(config)
        self.trainable = config.optim.schedule
        self.is_control = config.kind == "control"
        self._editor: editing.Editor | None = None

    def init(self, key: Key) -> PyTree:
        """Draw the parameters, take those of earlier stages, and start the branch from the base's own blocks."""
        params = jax.jit(lambda k: modeling.init_params(k, self.model))(key)
        fit = getattr(self.model.method, "fit_base", None)
        take = partial(take_weights, fit=fit and partial(fit, dit=self.model.denoiser.dit))
        init_from, resume_from = start_folders(self.config, params)
        params = take(params, init_from)
        if self.is_control and self.config.get("branch_from_base", True):
            params["dit"] = init_control_from_base(params["dit"])
        if self.is_control and self.config.method.get("patch_embed_from_base", False):
            base = params["dit"]["patch_embed"]
            init = self.model.method.init_from_base
            params["conditioner"] = init(params["conditioner"], base["kernel"], base["bias"])
        params = take(params, resume_from)
        if self.config.data.get("text_embeddings"):
            prepare.check_text(self.config.data.latents, params)
        return params

    def step_reads(self) -> tuple[str, ...]:
        """Name the subtrees of the parameters that the loss reads: what is cached in the data needs none."""
        data = self.config.data
        return modeling.step_reads(latents=bool(data.get("latents")), text=bool(data.get("text_embeddings")))

    def flops_per_sample(self) -> float:
        """Count the operations that one sample's training step needs in the transformer (`flops.train_step`)."""
        grid = modeling.latent_shape((1, *modeling.clip_shape(self.model)), self.model.vae.latent_channels)[1:4]
        trained = "control" if self.is_control else "base"
        return flops.train_step(self.model.denoiser.dit, grid, self.config.data.text_length, trained)

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches."""
        return make_dataset(self.config, split)

    def loss(self, key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Scalars]:
        """Return the v-prediction loss (mean squared error), and it at low and at high noise apart."""
        draw_key, time_key, noise_key, pick_key = jax.random.split(key, 4)
        x0, conditions = self._latents(draw_key, pick_key, params, batch)
        if conditions is not None:
            conditions = modeling.add_maps(jax.random.fold_in(draw_key, 1), self.model, conditions, x0.shape)
        settings = self.config.loss
        timestep = diffusion.sample_timesteps(
            time_key, (x0.shape[0],), self.model.schedule, settings.timesteps, power=settings.get("power", 2.0)
        )
        eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
        xt = diffusion.corrupt(self.model.schedule, x0, eps, timestep)
        if "text" in batch:  # cached: the text encoder is frozen
            text = batch["text"].astype(jnp.float32)
        else:
            text = modeling.embed_text(self.model, params, batch["tokens"])
        prediction = modeling.denoise(self.model, params, xt, timestep, text, conditions)
        each = diffusion.loss(prediction, x0, eps, timestep, self.model.schedule)
        high = timestep >= 800
        parts = {
            "loss_low_noise": jnp.sum(each * ~high) / jnp.maximum(jnp.sum(~high), 1),
            "loss_high_noise": jnp.sum(each * high) / jnp.maximum(jnp.sum(high), 1),
        }
        return each.mean(), parts

    def _latents(self, draw_key: Key, pick_key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Any]:
        """Return (x0, conditions) of a batch, from cached latents or by drawing and encoding on the device."""
        if "target_latents" in batch:
            x0 = batch["target_latents"].astype(jnp.float32)
            if self.model.method is not None:
                cached = {name.removesuffix("_latents"): x for name, x in batch.items() if name.endswith("_latents")}
                del cached["target"]
                return x0, {"videos": {name: x.astype(jnp.float32) for name, x in cached.items()}}
            # Both videos of a pair show the same scene under a plausible motion: the base learns from either.
            other = batch["source_video_latents"].astype(jnp.float32)
            pick = jax.random.bernoulli(pick_key, 0.5, (x0.shape[0], 1, 1, 1, 1))
            return jnp.where(pick, x0, other), None
        x0 = modeling.encode(self.model, params, batch["target"].astype(jnp.float32) / 127.5 - 1)
        if self.model.method is None:
            return x0, None
        drawn = self.model.method.batch_conditions(draw_key, batch, self.config.method)
        return x0, modeling.encode_conditions(self.model, params, drawn)

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Sample on held-out scenes: text to video for the base, edits with follow-EPE for the branch."""
        if self._editor is None:
            self._editor = editing.Editor(self.config, params, vocabulary_folder(self.config))
        # The same editor every time: its compiled functions take the parameters as an argument.
        with _lent(self._editor, params) as editor:
            pairs = self.config.train.probe_samples
            if self.is_control:
                return evaluate.probe_synthetic(editor, num_pairs=pairs, seed=self.config.data.seed)
            source = synthetic.SyntheticSource(scene_config(self.config), self.config.data.seed, "test")
            captions = [source[i]["caption"] for i in range(pairs)]
            return {"scalars": {}, "videos": {"text_to_video": np.concatenate(list(editor.text_to_video(captions)), 2)}}


class GeneratorTask(DenoiserTask):
    """Train the whole transformer with a method's further input channels, from a base that does not have them."""

    _interpolator: interpolate.Interpolator | None = None

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Generate held-out scenes again from their first and last frames; PSNR, and that of a cross-fade."""
        if self._interpolator is None:
            self._interpolator = interpolate.Interpolator(self.config, params, vocabulary_folder(self.config))
        source = synthetic.SyntheticSource(scene_config(self.config), self.config.data.seed, "test")
        samples = [source[i] for i in range(self.config.train.probe_samples)]
        videos = np.stack([sample["target"] for sample in samples])
        with _lent(self._interpolator, params) as interpolator:
            return interpolation_scores.probe(interpolator, videos, [s["caption"] for s in samples])


@contextlib.contextmanager
def _lent(model: Any, params: PyTree) -> Iterator[Any]:
    """Give a model parameters for a while, so that those which only probes need do not stay on the devices."""
    try:
        yield model.with_params(params)
    finally:
        model.with_params({})


def _to_uint8(video: np.ndarray) -> np.ndarray:
    return np.clip((video + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
