"""What is trained: the VAE, the text-to-video base, or a method's control branch on the frozen base.

`train.train` runs any object with this protocol:

    init(key) -> params                      the full tree, fp32, weights of earlier stages already in place
    loss(key, params, batch) -> (loss, {name: scalar})           pure, jittable
    dataset(split) -> grain.IterDataset      batches of numpy arrays, leading axis B
    probe(key, params) -> {"scalars": ..., "videos": ...}        a slow look at a fixed set of held-out samples
"""

from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import checkpoints, diffusion, editing, evaluate, render
from motionv2v import model as modeling
from motionv2v.data import latents as latent_data
from motionv2v.data import pipeline, synthetic
from motionv2v.models.dit import base_params, init_control_from_base
from motionv2v.models.vae import sample_latents
from motionv2v.tracks import Tracks
from motionv2v.typing import Key, PyTree

Batch = dict[str, Any]
Scalars = dict[str, Any]


def make(config: Any) -> "VaeTask | DenoiserTask":
    """Build the task that `config.kind` names: "vae", "base" or "control". Raises ValueError for another kind."""
    kinds = {"vae": VaeTask, "base": DenoiserTask, "control": DenoiserTask}
    if config.kind not in kinds:
        raise ValueError(f"unknown kind {config.kind!r}; available: {', '.join(kinds)}")
    return kinds[config.kind](config)


def scene_config(config: Any) -> synthetic.SceneConfig:
    """Read the synthetic scenes' settings out of a config."""
    data = config.data
    scene = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in data.get("scene", {}).items()}
    return synthetic.SceneConfig(num_frames=data.num_frames, size=tuple(data.size), **scene)


def check_tokenizer(config: Any) -> None:
    """Check that training reads the tokens that the text encoder knows: the data pipeline makes bytes only.

    Raises:
        ValueError: for another `text.tokenizer`, whose ids bytes would be mistaken for.
    """
    kind = config.get("text", {}).get("tokenizer", "bytes")
    if kind != "bytes":
        raise ValueError(f"text.tokenizer is {kind!r}: training data have byte tokens only so far, expected 'bytes'")


def make_dataset(config: Any, split: str = "train") -> grain.IterDataset:
    """Build the stream of batches of a config: cached latents if `data.latents` names a folder, else drawn scenes."""
    check_tokenizer(config)
    data = config.data
    if data.get("latents"):
        source = latent_data.LatentSource(data.latents)
        transform = latent_data.Vary(data.caption_dropout, data.get("swap", 0.0))
    else:
        source = synthetic.SyntheticSource(scene_config(config), data.seed, split)
        transform = pipeline.Prepare(data.text_length, data.caption_dropout)
    return pipeline.make_dataset(
        source,
        transform,
        batch_size=config.train.batch_size // jax.process_count(),
        seed=data.seed,
        num_workers=data.get("num_workers", 0),
        host_index=jax.process_index(),
        host_count=jax.process_count(),
    )


def take_weights(params: PyTree, folders: Any) -> PyTree:
    """Replace subtrees of `params` by those of earlier stages, folder by folder; leaves nothing half-loaded.

    Args:
        params: the full tree. folders: released names, model folders or training work dirs.

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
            checkpoints.check_shapes(subtree, params[name], f"{folder} ({name})")
            params[name] = jax.tree.map(jnp.asarray, subtree)
    return params


class VaeTask:
    """Train the autoencoder: L1 + L2 reconstruction and a light KL, on scenes and on blobs."""

    def __init__(self, config: Any):
        self.config, self.model = config, modeling.build(config)
        self.trainable = config.optim.schedule
        whole = modeling.clip_shape(self.model)[:3]
        if any(piece > size for piece, size in zip(config.data.crop, whole, strict=True)):
            raise ValueError(f"data.crop {tuple(config.data.crop)} is larger than the clips (T, H, W) = {whole}")
        # Compiled once, not once per probe.
        self._encode = jax.jit(lambda p, x: modeling.encode(self.model, p, x))
        self._decode = jax.jit(lambda p, z: modeling.decode(self.model, p, z))
        self._blobs = jax.jit(self.blobs)

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
        """Return the weighted L1, MSE and KL to N(0, 1) of the reconstruction, each a mean over elements."""
        video_key, noise_key = jax.random.split(key)
        video = self.videos(video_key, batch)
        variables = {"params": params["vae"]}
        mean, logvar = self.model.vae.apply(variables, video, method="encode")
        output = self.model.vae.apply(variables, sample_latents(noise_key, mean, logvar), method="decode")
        l1, mse = jnp.abs(output - video).mean(), jnp.square(output - video).mean()
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).mean()
        psnr = -10 * jnp.log10(jnp.square((output - video) / 2).mean((1, 2, 3, 4)) + 1e-10).mean()
        weights = self.config.loss
        return weights.l1 * l1 + weights.mse * mse + weights.kl * kl, {
            "l1": l1,
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
        params = take_weights(params, self.config.get("init_from", ()))
        if self.is_control and self.config.get("branch_from_base", True):
            params["dit"] = init_control_from_base(params["dit"])
        if self.is_control and self.config.method.get("patch_embed_from_base", False):
            base = params["dit"]["patch_embed"]
            init = self.model.method.init_from_base
            params["conditioner"] = init(params["conditioner"], base["kernel"], base["bias"])
        return take_weights(params, self.config.get("resume_from", ()))

    def dataset(self, split: str = "train") -> grain.IterDataset:
        """Build the stream of batches."""
        return make_dataset(self.config, split)

    def loss(self, key: Key, params: PyTree, batch: Batch) -> tuple[jax.Array, Scalars]:
        """Return the v-prediction loss (mean squared error), and it at low and at high noise apart."""
        draw_key, time_key, noise_key, pick_key = jax.random.split(key, 4)
        x0, conditions = self._latents(draw_key, pick_key, params, batch)
        settings = self.config.loss
        timestep = diffusion.sample_timesteps(
            time_key, (x0.shape[0],), self.model.schedule, settings.timesteps, power=settings.get("power", 2.0)
        )
        eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
        xt = diffusion.corrupt(self.model.schedule, x0, eps, timestep)
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
            if self.is_control:
                cached = {name.removesuffix("_latents"): x for name, x in batch.items() if name.endswith("_latents")}
                del cached["target"]
                return x0, {"videos": {name: x.astype(jnp.float32) for name, x in cached.items()}}
            # Both videos of a pair show the same scene under a plausible motion: the base learns from either.
            other = batch["source_video_latents"].astype(jnp.float32)
            pick = jax.random.bernoulli(pick_key, 0.5, (x0.shape[0], 1, 1, 1, 1))
            return jnp.where(pick, x0, other), None
        x0 = modeling.encode(self.model, params, batch["target"].astype(jnp.float32) / 127.5 - 1)
        if not self.is_control:
            return x0, None
        drawn = self.model.method.batch_conditions(draw_key, batch, self.config.method)
        return x0, modeling.encode_conditions(self.model, params, drawn)

    def probe(self, key: Key, params: PyTree) -> dict[str, Any]:
        """Sample on held-out scenes: text to video for the base, edits with follow-EPE for the branch."""
        if self._editor is None:
            self._editor = editing.Editor(self.config, params)
        # The same editor every time: its compiled functions take the parameters as an argument.
        editor = self._editor.with_params(params)
        pairs = self.config.train.probe_samples
        if self.is_control:
            return evaluate.probe_synthetic(editor, num_pairs=pairs, seed=self.config.data.seed)
        source = synthetic.SyntheticSource(scene_config(self.config), self.config.data.seed, "test")
        captions = [source[i]["caption"] for i in range(pairs)]
        return {"scalars": {}, "videos": {"text_to_video": np.concatenate(list(editor.text_to_video(captions)), 2)}}


def _to_uint8(video: np.ndarray) -> np.ndarray:
    return np.clip((video + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
