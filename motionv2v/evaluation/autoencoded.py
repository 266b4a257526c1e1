"""Clips to latents, and there and back: what measures need of a model's autoencoder."""

import jax
import numpy as np

from motionv2v import backbone, editing
from motionv2v.typing import Float, UInt8


class Autoencoder:
    """A model's autoencoder, for clips of bytes."""

    def __init__(self, editor: editing.Editor):
        """Take the autoencoder of a model."""
        self._params, model = {"vae": editor.params["vae"]}, editor.model
        self._encode = jax.jit(lambda params, x: backbone.encode(model, params, x))
        self._decode = jax.jit(lambda params, z: backbone.decode(model, params, z))

    def encode(self, videos: UInt8[np.ndarray, "M T H W 3"]) -> Float[np.ndarray, "M t h w z"]:
        """Encode clips one by one."""
        scaled = (clip[None].astype(np.float32) / 127.5 - 1 for clip in videos)
        return np.concatenate([np.asarray(self._encode(self._params, clip)) for clip in scaled])

    def decode(self, latents: Float[np.ndarray, "M t h w z"]) -> UInt8[np.ndarray, "M T H W 3"]:
        """Decode clips one by one."""
        clips = (np.asarray(self._decode(self._params, latent[None])) for latent in latents)
        return np.concatenate([np.clip(np.round((clip + 1) * 127.5), 0, 255).astype(np.uint8) for clip in clips])

    def through(self, videos: UInt8[np.ndarray, "M T H W 3"]) -> UInt8[np.ndarray, "M T H W 3"]:
        """Encode and decode clips: what the best of all models could show of them."""
        return self.decode(self.encode(videos))
