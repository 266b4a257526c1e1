"""The two sides of `cogvideox.py`: CogVideoX's modules in JAX and in diffusers + PyTorch, on the same weights.

`torch_side.py` builds the modules of diffusers and transformers, which draw their own random weights and are saved with
`save_pretrained`; ours are read from those folders. Both sides get the same numbers, each in its own layout.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from against_diffusers import Timing, measure
from ml_collections import ConfigDict

GUIDANCE = 6.0
SIDES = {"jax": "JAX", "torch": "torch", "compiled": "torch.compile"}
TOLERANCE = 1e-4


class Size(NamedTuple):
    """How large the modules and their inputs are; everything else is as in CogVideoX-5B.

    `latents` (frames, rows, columns) are what the transformer row gets; `clip` (frames, height, width in pixels) is
    what the autoencoder encodes and decodes and what the whole sample makes.
    """

    layers: int
    heads: int
    latents: tuple[int, int, int]
    channels: tuple[int, ...]
    clip: tuple[int, int, int]
    text_layers: int
    text_width: int
    text_mlp: int
    text_length: int


SIZES = {
    "small": Size(4, 6, (5, 16, 16), (32, 64, 64, 128), (17, 128, 128), 4, 512, 1024, 64),
    # 17x192x256: a larger clip takes one call of the decoder well over 20 seconds on two cores.
    "medium": Size(6, 12, (7, 30, 44), (64, 128, 128, 256), (17, 192, 256), 8, 1024, 2816, 226),
}
PARTS = {
    "dit": ("transformer",),
    "encode": ("vae",),
    "decode": ("vae",),
    "text": ("text_encoder",),
    "sample": ("transformer", "vae"),
}
"""Which modules a row needs, by the names of a pipeline's folders."""


def make_config(size: Size) -> ConfigDict:
    """Write a size as the sections that the builders of `torch_side` read."""
    (frames, *latents), width = size.latents, size.text_width
    sections = {
        "dit": {
            "num_layers": size.layers,
            "num_heads": size.heads,
            "head_dim": 64,
            "time_embed_dim": 512,
            "text_dim": width,
            "text_length": size.text_length,
            "positions": "rope",
        },
        "vae": {"block_channels": size.channels, "latent_channels": 16, "layers_per_block": 3, "norm_groups": 32},
        "text": {
            "vocab_size": 32128,
            "width": width,
            "head_dim": 64,
            "mlp_dim": size.text_mlp,
            "num_layers": size.text_layers,
            "num_heads": width // 64,
        },
        "data": {"num_frames": 4 * (frames - 1) + 1, "size": tuple(8 * side for side in latents)},
    }
    return ConfigDict(sections)


def make_inputs(size: Size) -> dict[str, np.ndarray]:
    """Draw what the modules are given, channels last; `text` [2 L C] holds the text and the empty one of guidance."""
    rng = np.random.default_rng(0)
    frames, height, width = size.clip
    latents = ((frames - 1) // 4 + 1, height // 8, width // 8)
    return {
        "xt": rng.standard_normal((1, *size.latents, 16), np.float32),
        "text": rng.standard_normal((2, size.text_length, size.text_width), np.float32),
        "tokens": rng.integers(0, 32128, (1, size.text_length), np.int32),
        "video": rng.uniform(-1, 1, (1, *size.clip, 3)).astype(np.float32),
        "latents": rng.standard_normal((1, *latents, 16), np.float32),
    }


def build_modules(size: Size, parts: Iterable[str]) -> dict[str, Any]:
    """Build modules of diffusers and transformers with random weights, the same ones in every process."""
    import torch
    import torch_side

    builders = {
        "transformer": torch_side.build_transformer,
        "vae": torch_side.build_vae,
        "text_encoder": torch_side.build_text,
    }
    modules = {}
    for part in parts:
        torch.manual_seed(0)
        modules[part] = builders[part](make_config(size)).eval()
    return modules


def save_modules(modules: dict[str, Any], folder: Path) -> None:
    """Save modules as the folders of a pipeline."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    for part, module in modules.items():
        module.save_pretrained(folder / part)


class Checked:
    """Compare the first results of calls, on the way to whoever made the calls.

    Attributes:
        errors: largest difference from the first caller's result, relative to the largest number, by caller.
    """

    def __init__(self, name: str):
        self._name, self._first, self.errors = name, None, {}

    def wrap(self, side: str, run: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        """Return a call that does what `run` does and ends the program when its first result is another one."""

        def checked() -> np.ndarray:
            result = run()
            if self._first is None:
                self._first = (side, np.array(result))
            elif side not in self.errors and side != self._first[0]:
                self.errors[side] = self._error(side, result)
            return result

        return checked

    def _error(self, side: str, result: np.ndarray) -> float:
        reference, expected = self._first
        told = f"cogvideox: {self._name}: {SIDES.get(side, side)} and {SIDES.get(reference, reference)}"
        if result.shape != expected.shape:
            sys.exit(f"{told} return shapes {result.shape} and {expected.shape}; nothing to compare")
        error = float(np.abs(result - expected).max() / np.abs(expected).max())
        # Written so that not a number fails as well.
        if not error <= TOLERANCE:
            sys.exit(f"{told} differ by {error:.1e} of the largest number, allowed {TOLERANCE:.0e}; nothing to compare")
        return error


def clock(runs: dict[str, Callable[[], Any]], options: argparse.Namespace, repeats: int | None = None) -> Any:
    """Time calls in turns: the seconds on the wall or, with `options.cpu_time`, the processor's, all threads' together.

    Where other programs take most of a machine, how long a call takes says more about them than about the call.
    """
    repeats = repeats or options.repeats
    if not options.cpu_time:
        return measure(runs, repeats, options.block)

    def seconds(run: Callable[[], Any]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    first = {name: seconds(run) for name, run in runs.items()}
    turns = [{name: 1e3 * seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    times = {name: [turn[name] for turn in turns] for name in runs}
    return {name: Timing(first[name], float(np.median(times[name])), min(times[name])) for name in runs}


class JaxSide:
    """Our modules: the methods are what is timed, by the row's name, and return when the result is there.

    Only the modules of `parts` are loaded, from the folders in `folder`.
    """

    def __init__(self, size: Size, num_steps: int, folder: Path, parts: Iterable[str]):
        import jax
        import jax.numpy as jnp

        from motionv2v import backbone, convert, diffusion
        from motionv2v.models.denoiser import Denoiser

        # First calls compile, whatever earlier runs left behind.
        jax.config.update("jax_enable_compilation_cache", False)
        modules, self._params = {}, {}
        for part in parts:
            key = {"transformer": "dit", "text_encoder": "text"}.get(part, part)
            modules[key], params = convert.from_diffusers(folder / part)
            self._params[key] = jax.tree.map(jnp.array, params)
        denoiser = Denoiser(modules["dit"]) if "dit" in modules else None
        schedule = diffusion.make_schedule()
        model = backbone.Model(None, modules.get("vae"), modules.get("text"), denoiser, None, schedule)
        self._given = {name: jnp.array(value) for name, value in make_inputs(size).items()} | {"time": jnp.array([500])}
        self._denoise = jax.jit(partial(backbone.denoise, model))
        self._encode, self._decode, self._text = (
            jax.jit(partial(f, model)) for f in (backbone.encode, backbone.decode, backbone.embed_text)
        )
        self._sample = jax.jit(partial(sample_video, model, num_steps))

    def dit(self) -> np.ndarray:
        """Predict v [B t h w z] for one clip."""
        g = self._given
        return np.asarray(self._denoise(self._params, g["xt"], g["time"], g["text"][:1]))

    def encode(self) -> np.ndarray:
        """Encode a clip to the scaled mode of its latents [B t h w z]."""
        return np.asarray(self._encode(self._params, self._given["video"]))

    def decode(self) -> np.ndarray:
        """Decode scaled latents to a clip [B T H W 3] in [-1, 1]."""
        return np.asarray(self._decode(self._params, self._given["latents"]))

    def text(self) -> np.ndarray:
        """Encode a caption [B L C]."""
        return np.asarray(self._text(self._params, self._given["tokens"]))

    def sample(self) -> np.ndarray:
        """Make a clip [B T H W 3] in [0, 1] from noise and encoded text."""
        return np.asarray(self._sample(self._params, self._given["latents"], self._given["text"]))


def sample_video(model: Any, num_steps: int, params: Any, noise: Any, text: Any) -> Any:
    """Sample with guidance from `text` [2 L C], the text and the empty one, and decode, as `editing.Editor` does."""
    import jax

    from motionv2v import backbone, sampling

    def predict(xt: Any, timestep: Any, which: int) -> Any:
        return backbone.denoise(model, params, xt, timestep, text[which : which + 1])

    latents = sampling.sample(
        jax.random.key(0),
        lambda xt, timestep: predict(xt, timestep, 0),
        noise,
        model.schedule,
        sampling.Settings(num_steps, guidance=sampling.Guidance(GUIDANCE)),
        lambda xt, timestep: (predict(xt, timestep, 0), predict(xt, timestep, 1)),
    )
    return (backbone.decode(model, params, latents) + 1) / 2


class TorchSide:
    """The modules of diffusers and transformers, called as `CogVideoXPipeline` calls them; methods as in `JaxSide`.

    `wrap` is torch.compile or nothing. The modules of a compiled side share their weights with those given.
    """

    def __init__(self, size: Size, num_steps: int, modules: dict[str, Any], wrap: Callable[[Any], Any] = lambda f: f):
        import torch

        # Shallow copies, whose methods can be replaced without changing the originals.
        vae = copy.copy(modules["vae"]) if "vae" in modules else None
        self._transformer, self._text = (
            wrap(modules[part]) if part in modules else None for part in ("transformer", "text_encoder")
        )
        if vae is not None:
            vae.encode, vae.decode = wrap(vae.encode), wrap(vae.decode)
        self._vae, self._num_steps, self._size = vae, num_steps, size
        self._given = {name: torch.from_numpy(value) for name, value in make_inputs(size).items()}
        # Frames before channels for the transformer, after them for the autoencoder, contiguous.
        for name in ("xt", "latents"):
            self._given[name] = self._given[name].movedim(-1, 2).contiguous()
        self._given["video"] = self._given["video"].movedim(-1, 1).contiguous()
        self._given |= {"time": torch.tensor([500]), "tokens": self._given["tokens"].long()}
        if "transformer" in modules:
            self._prepare(modules)

    def _prepare(self, modules: dict[str, Any]) -> None:
        """Make the positions of the transformer row and, with an autoencoder, the pipeline."""
        from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        frames, *latents = self._size.latents
        grid = tuple(side // 2 for side in latents)
        head_dim = modules["transformer"].config.attention_head_dim
        self._rope = get_3d_rotary_pos_embed(head_dim, ((0, 0), grid), grid, frames)
        if self._vae is None:
            return
        # The scheduler of CogVideoX-5B.
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
            clip_sample=False,
        )
        self._pipeline = CogVideoXPipeline(None, None, self._vae, self._transformer, scheduler)
        self._pipeline.set_progress_bar_config(disable=True)

    def dit(self) -> np.ndarray:
        """Predict v [B t h w z] for one clip."""
        g = self._given
        return _array(self._transformer(g["xt"], g["text"][:1], g["time"], image_rotary_emb=self._rope).sample, 2)

    def encode(self) -> np.ndarray:
        """Encode a clip to the scaled mode of its latents [B t h w z]."""
        latents = self._vae.encode(self._given["video"]).latent_dist.mode() * self._vae.config.scaling_factor
        return _array(latents, 1)

    def decode(self) -> np.ndarray:
        """Decode scaled latents to a clip [B T H W 3] in [-1, 1]."""
        latents = self._given["latents"].movedim(1, 2) / self._vae.config.scaling_factor
        return _array(self._vae.decode(latents).sample.clamp(-1, 1), 1)

    def text(self) -> np.ndarray:
        """Encode a caption [B L C]."""
        return self._text(self._given["tokens"]).last_hidden_state.numpy()

    def sample(self) -> np.ndarray:
        """Make a clip [B T H W 3] in [0, 1] from noise and encoded text."""
        frames, height, width = self._size.clip
        text, empty = self._given["text"].split(1)
        video = self._pipeline(
            prompt_embeds=text,
            negative_prompt_embeds=empty,
            num_frames=frames,
            height=height,
            width=width,
            num_inference_steps=self._num_steps,
            guidance_scale=GUIDANCE,
            latents=self._given["latents"],
            output_type="pt",
        )
        return _array(video.frames, 2)


def _array(tensor: Any, channels: int) -> np.ndarray:
    """Show a tensor as an array with the channels last."""
    return tensor.movedim(channels, -1).numpy()
