"""What is trained: the autoencoder, or the denoiser, which is a text-to-video base or a method on one.

A config without a section `dit` trains the autoencoder, any other the denoiser; which of its parameters train, and how
fast, follows from `optim.schedule` alone. What a task has to offer is listed in `loop`, which runs any object that
does, a test's or a user's own too.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import backbone, checkpoints, diffusion, editing, methods, parameters, render, sections
from motionv2v.data import latents
from motionv2v.devices import flops, memory
from motionv2v.editing import loaded_model
from motionv2v.evaluation import synthetic
from motionv2v.models.activations import constrain
from motionv2v.models.dit import is_addition
from motionv2v.models.vae.autoencoder import sample_latents
from motionv2v.tracks import Tracks
from motionv2v.training import prepare_latents, torch_dit
from motionv2v.training.dataset import make_dataset, scene_source, start_folders, vocabulary_folder
from motionv2v.typing import Key, PyTree

Batch = dict[str, Any]
Scalars = dict[str, Any]


def make(config: Any) -> "VaeTask | DenoiserTask":
    """Build the task of a config, completed by `sections.complete`."""
    config = sections.complete(config)
    return DenoiserTask(config) if "dit" in config else VaeTask(config)


def draw(key: Key, config: Any, model: backbone.Model, given: Set[str]) -> PyTree:
    """Draw a model's parameters, but for those whose paths are given: their values come from elsewhere afterwards.

    Until then not-a-numbers that take no memory stand for them. Of a branch on a trained base most is given, and
    would be drawn, at its full size in memory, to be thrown away.
    """

    def missing(key: Key) -> dict[str, jax.Array]:
        drawn = parameters.flatten(backbone.init_params(key, model))
        return {path: leaf for path, leaf in drawn.items() if path not in given}

    shapes = parameters.flatten(memory.parameter_shapes(config))
    blank = {path: np.broadcast_to(np.asarray(np.nan, x.dtype), x.shape) for path, x in shapes.items()}
    return parameters.unflatten(blank | (jax.jit(missing)(key) if set(shapes) - given else {}))


def _stored(folders: Iterable[Any]) -> set[str]:
    """List the paths of all parameters that trained models have between them."""
    return set().union(*map(checkpoints.stored_paths, folders))


def start_from(params: PyTree, folders: Any, model: backbone.Model, say: Callable[[str], None] = print) -> PyTree:
    """Start a model from trained ones, folder by folder: the networks they share, and the transformer by its method.

    What a method adds to a base (`methods.Method.start_from`) is new afterwards, drawn or made from the base.

    Args:
        params: the full tree, as drawn. folders: released names, model folders or training work dirs.
        model: its modules. say: called with a line on what is new.

    Raises:
        checkpoints.CheckpointError: if a folder cannot be read or a shape does not fit, naming both.
    """
    params = dict(params)
    for folder in folders:
        _, loaded = checkpoints.load_model(folder)
        for name in ("vae", "text"):
            if name in params and name in loaded:
                checkpoints.check_shapes(loaded[name], params[name], f"{folder} ({name})")
                params[name] = jax.tree.map(jnp.asarray, loaded[name])
        if "dit" in params and "dit" in loaded:
            own = {name: params[name] for name in ("dit", "conditioner") if name in params}
            params |= _start_denoiser(own, loaded["dit"], model, folder, say)
    return params


def _start_denoiser(own: PyTree, base: PyTree, model: backbone.Model, folder: Any, say: Callable) -> PyTree:
    """Return the tree of transformer and conditioner, `own`, as its method starts it from a folder's transformer."""
    added = [path for path in parameters.flatten(own) if _is_added(path)]
    lacks = sorted(set(parameters.flatten(own)) - set(added) - set(parameters.flatten({"dit": base})))
    if lacks:
        names = ", ".join(path.removeprefix("dit/") for path in lacks[:3])
        more = f" (and {len(lacks) - 3} more)" if len(lacks) > 3 else ""
        raise checkpoints.CheckpointError(f"{folder} (dit) is no base of this model, it lacks {names}{more}")
    start = methods.start_from_base if model.method is None else model.method.start_from
    started = start(own, jax.tree.map(jnp.asarray, base), model.denoiser.dit, model.config.get("method"))
    checkpoints.check_shapes(started, own, f"{folder} (dit)")
    if added:
        say(f"{folder}: the base's weights are taken; new beside them: {_parts(added)}")
    return started


def take_weights(params: PyTree, folders: Any, say: Callable[[str], None] = print) -> PyTree:
    """Go on from trained models, folder by folder: every parameter that they and `params` have in common.

    What a method adds to a base (control branch, low-rank updates, a conditioner) stays as it is where a folder has
    none, and is left out where `params` has none; either is said.

    Args:
        params: the full tree. folders: released names, model folders or training work dirs. say: called with a line.

    Raises:
        checkpoints.CheckpointError: if a folder cannot be read, lacks something else or a shape does not fit.
    """
    params = dict(params)
    for folder in folders:
        _, loaded = checkpoints.load_model(folder)
        names = [name for name in ("vae", "text", "dit") if name in params and name in loaded]
        names += ["conditioner"] if "dit" in names else []
        own, theirs = (
            parameters.flatten({name: tree[name] for name in names if name in tree}) for tree in (params, loaded)
        )
        kept = {path: leaf for path, leaf in own.items() if path not in theirs and _is_added(path)}
        left = [path for path in theirs if path not in own and _is_added(path)]
        if kept:
            say(f"{folder} lacks {_parts(kept)}: what this run has of them stays as it is")
        if left:
            say(f"{folder} also has {_parts(left)}, which this run has not: left out")
        taken = parameters.unflatten({path: leaf for path, leaf in theirs.items() if path not in left} | kept)
        for name, tree in taken.items():
            checkpoints.check_shapes(tree, params[name], f"{folder} ({name})")
            params[name] = jax.tree.map(jnp.asarray, tree)
    return params


def _is_added(path: str) -> bool:
    """Tell whether a parameter, by its path in the full tree, is of what a method adds to a base."""
    return path.startswith("conditioner/") or (path.startswith("dit/") and is_addition(path.removeprefix("dit/")))


def _parts(paths: Iterable[str]) -> str:
    """Name the parts that parameters belong to: "conditioner/patch_embed, dit/control"."""
    names = set()
    for path in paths:
        first, second, *rest = path.split("/")
        names.add("/".join((first, second, *(rest[:1] if second == "blocks" else ()))))
    return ", ".join(sorted(names))


class VaeTask:
    """Train the autoencoder: L1 + L2 reconstruction and a light KL, on scenes and on blobs."""

    def __init__(self, config: Any):
        config = sections.complete(config)
        self.config, self.model = config, backbone.build(config)
        self.trainable = config.optim.schedule
        if config.loss.images or config.train.backend != "jax":
            raise ValueError("loss.images and train.backend are for transformers; leave them out for an autoencoder")
        whole = backbone.clip_shape(self.model)[:3]
        if config.data.crop is None:
            raise ValueError(
                "data.crop is missing: frames, height and width (T, H, W) of the pieces that are trained on"
            )
        if any(piece > size for piece, size in zip(config.data.crop, whole, strict=True)):
            raise ValueError(f"data.crop {tuple(config.data.crop)} is larger than the clips (T, H, W) = {whole}")
        # Jitted here, so that they are compiled once and not at each probe. Every process of a job reads the results,
        # which are therefore whole on each.
        self._encode = jax.jit(lambda p, x: constrain(backbone.encode(self.model, p, x), "whole"))
        self._decode = jax.jit(lambda p, z: constrain(backbone.decode(self.model, p, z), "whole"))
        self._blobs = jax.jit(lambda key, batch: constrain(self.blobs(key, batch), "whole"))

    def init(self, key: Key) -> PyTree:
        """Draw the parameters, or take them from `config.init_from` or `config.resume_from`."""
        folders = (*self.config.init_from, *self.config.resume_from)
        return take_weights(draw(key, self.config, self.model, _stored(folders)), folders)

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
        total = weights.l1 * l1 + weights.mse * mse + weights.edges * edges + weights.kl * kl
        return total, {
            "l1": l1,
            "edges": edges,
            "kl": kl,
            "psnr": psnr,
            "latent_std": mean.std(),
        }

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Reconstruct held-out clips; PSNR over scenes and over blobs apart, and the latents' standard deviation."""
        source = scene_source(self.config, "test")
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
    """Train the denoiser by v-prediction: a text-to-video base or, with a section `method`, what the method adds."""

    def __init__(self, config: Any):
        config = sections.complete(config)
        self.config, self.model = config, backbone.build(config)
        self.trainable = config.optim.schedule
        if config.loss.images and self.model.method is not None:
            raise ValueError(f"loss.images trains a base on single frames; {config.method.name} needs whole clips")
        if config.loss.images and self.model.denoiser.dit.patch[0] != 1:
            raise ValueError("loss.images trains on single latent frames, and dit.patch_size_t needs several")
        if config.train.backend == "torch":
            torch_dit.check(config)
        self._sampler: loaded_model.LoadedModel | None = None

    def init(self, key: Key) -> PyTree:
        """Draw the parameters; start them from the models of `init_from`, then go on from those of `resume_from`."""
        init_from, resume_from = start_folders(self.config, memory.parameter_shapes(self.config))
        # What a method adds is new beside a base, even where the base's folder has something of that name.
        given = {path for path in _stored(init_from) if not _is_added(path)} | _stored(resume_from)
        params = start_from(draw(key, self.config, self.model, given), init_from, self.model)
        params = take_weights(params, resume_from)
        if self.config.data.text_embeddings:
            prepare_latents.check_text(self.config.data.latents, params)
        return params

    def step_reads(self) -> tuple[str, ...]:
        """Name the subtrees of the parameters that the loss reads: what is cached in the data needs none."""
        data = self.config.data
        return backbone.step_reads(latents=bool(data.latents), text=data.text_embeddings)

    def flops_per_sample(self) -> float:
        """Count the operations that one sample's training step needs in the transformer (`flops.train_step`)."""
        grid = backbone.latent_shape((1, *backbone.clip_shape(self.model)), self.model.vae.latent_channels)[1:4]
        grid = (1, *grid[1:]) if self.config.loss.images else grid
        shapes = memory.parameter_shapes(self.config)
        return flops.train_step(self.model.denoiser.dit, grid, self.config.data.text_length, shapes, self.trainable)

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches."""
        return make_dataset(self.config, split)

    def loss(self, key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Scalars]:
        """Return the v-prediction loss (mean squared error), and it at low and at high noise apart."""
        draw_key, time_key, noise_key, pick_key = jax.random.split(key, 4)
        x0, conditions = self._latents(draw_key, pick_key, params, batch)
        settings = self.config.loss
        if settings.images:
            frame = jax.random.randint(jax.random.fold_in(pick_key, 1), (x0.shape[0], 1, 1, 1, 1), 0, x0.shape[1])
            x0 = jnp.take_along_axis(x0, frame, axis=1)
        timestep = diffusion.sample_timesteps(
            time_key, (x0.shape[0],), self.model.schedule, settings.timesteps, power=settings.power
        )
        eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
        xt = diffusion.corrupt(self.model.schedule, x0, eps, timestep)
        if "text" in batch:  # cached: the text encoder is frozen
            text = batch["text"].astype(jnp.float32)
        else:
            text = backbone.embed_text(self.model, params, batch["tokens"])
        with torch_dit.instead() if self.config.train.backend == "torch" else contextlib.nullcontext():
            prediction = backbone.denoise(self.model, params, xt, timestep, text, conditions)
        of_method = methods.v_loss if self.model.method is None else self.model.method.loss
        options = (self.model.schedule, self.config.get("method"))
        each = of_method(jax.random.fold_in(key, 1), prediction, x0, eps, timestep, *options)
        high = timestep >= 800
        parts = {
            "loss_low_noise": jnp.sum(each * ~high) / jnp.maximum(jnp.sum(~high), 1),
            "loss_high_noise": jnp.sum(each * high) / jnp.maximum(jnp.sum(high), 1),
        }
        return each.mean(), parts

    def _latents(self, draw_key: Key, pick_key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Any]:
        """Return (x0, conditions) of a batch, from cached latents or by drawing and encoding on the device."""
        if "target_latents" in batch:
            stored = {name: x.astype(jnp.float32) for name, x in batch.items() if name.endswith(latents.ENDINGS)}
            x0 = stored["target_latents"]
            if self.model.method is not None:
                return x0, latents.conditions(stored, backbone.condition_shapes(self.model))
            # Both videos of a pair show the same scene under a plausible motion: the base learns from either.
            pick = jax.random.bernoulli(pick_key, 0.5, (x0.shape[0], 1, 1, 1, 1))
            return jnp.where(pick, x0, stored.get("source_video_latents", x0)), None
        x0 = backbone.encode(self.model, params, batch["target"].astype(jnp.float32) / 127.5 - 1)
        if self.model.method is None:
            return x0, None
        drawn = backbone.draw_conditions(draw_key, self.model, batch)
        return x0, backbone.encode_conditions(self.model, params, drawn)

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Sample on held-out scenes and measure what the method's `probe` says, or the scores of an edit.

        A model without a method makes videos of held-out captions.
        """
        if self._sampler is None:
            self._sampler = editing.Editor(self.config, params, vocabulary_folder(self.config))
        # The same one every time: its compiled functions take the parameters as an argument.
        with lent(self._sampler, params) as sampler:
            count, seed = self.config.train.probe_samples, self.config.data.seed
            method = self.model.method
            if method is not None and method.probe is None:
                return synthetic.probe_synthetic(sampler, num_pairs=count, seed=seed)
            source = scene_source(self.config, "test")
            samples = [source[i] for i in range(count)]
            captions = [sample["caption"] for sample in samples]
            if method is None:
                videos = sampler.text_to_video(captions)
                return {"scalars": {}, "videos": {"text_to_video": np.concatenate(list(videos), 2)}}
            tokens = sampler.tokenizer.encode(captions)
            generate = lambda batch: sampler.generate(jax.random.key(0), batch, tokens)  # noqa: E731
            return method.probe(generate, samples)


@contextlib.contextmanager
def lent(model: Any, params: PyTree) -> Iterator[Any]:
    """Give a model parameters for a while, so that those which only probes need do not stay on the devices."""
    try:
        yield model.with_params(params)
    finally:
        model.with_params({})


def _to_uint8(video: np.ndarray) -> np.ndarray:
    return np.clip((video + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
