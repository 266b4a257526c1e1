"""MotionV2V (arXiv 2511.20640, section 3.3): a source video, its tracks and the wanted tracks steer the control branch.

Three conditioning videos go through the frozen VAE: the source video, its points drawn as coloured Gaussian blobs, and
the same points, in the same colours, where the edit wants them. Their latents are concatenated on channels in the order
[target tracks | source tracks | source video], 3 x 16 = 48 channels, and patchified into the control branch's tokens.
The code behind the published demos adds to each stream the latent of its first frame (zero elsewhere): 96 channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from motionv2v import render
from motionv2v.models.dit import Control
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Key, PyTree

STREAMS = ("target_tracks", "source_tracks", "source_video")


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, Float[AnyArray, "T H W 3"]]]:
    """Draw the conditioning videos of one sample; jittable and vmappable, the same in training and in editing.

    Args:
        key: draws the blobs' colours.
        clip: `source` uint8 [T H W 3]; `source_xy`, `target_xy` float [N T 2] in pixels; `source_visible`,
            `target_visible` bool [N T]. A hidden point draws nothing.
        config: `sigma` (pixels), `colors` (a pool of `render.random_colors`), `first_frame_latents`, and `subpixel`:
            whether a blob's centre lies between pixels (the default), or snaps to one as the released weights saw it.

    Returns:
        {"videos": {name: [T H W 3] in [-1, 1]}}; with first-frame latents also `<name>_first` of one frame each.
    """
    size = clip["source"].shape[1:3]
    colors = render.random_colors(key, clip["source_xy"].shape[0], config.colors)
    videos = {"source_video": clip["source"].astype(jnp.float32) / 127.5 - 1}
    for side in ("source", "target"):
        tracks = Tracks(clip[f"{side}_xy"], clip[f"{side}_visible"])
        drawn = render.blobs(tracks, colors, size, config.sigma, subpixel=config.get("subpixel", True))
        videos[f"{side}_tracks"] = drawn * 2 - 1
    if config.first_frame_latents:
        videos |= {f"{name}_first": video[:1] for name, video in videos.items()}
    return {"videos": videos}


class Conditioner(nn.Module):
    """Patchify the conditioning latents into the control branch's tokens (paper, section 3.3).

    Attributes:
        width: model width D. patch_size: rows and columns of latents per token, as in the DiT.
        first_frame_latents: 96 channels instead of 48.
        dtype: compute type; parameters are float32.
    """

    width: int
    patch_size: int = 2
    first_frame_latents: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with tokens [B t*h*w/p^2 D].

        Args:
            conditions: {"videos": {name: latents [B t h w z], scaled}}; `<name>_first` are [B 1 h w z].
            time: unused; part of the protocol.

        Raises:
            ValueError: if a stream is missing, naming those that are there.
        """
        latents = jnp.concatenate(self._streams(conditions["videos"]), -1).astype(self.dtype)
        b, t, h, w, c = latents.shape
        p = self.patch_size
        patches = latents.reshape(b, t, h // p, p, w // p, p, c).transpose(0, 1, 2, 4, 3, 5, 6)
        patches = patches.reshape(b, t * (h // p) * (w // p), p * p * c)
        return Control(tokens=nn.Dense(self.width, dtype=self.dtype, name="patch_embed")(patches))

    def _streams(self, videos: dict[str, Float[AnyArray, "B t h w z"]]) -> list[Float[AnyArray, "B t h w z"]]:
        suffixes = ("", "_first") if self.first_frame_latents else ("",)
        streams = []
        for name in STREAMS:
            for suffix in suffixes:
                if name + suffix not in videos:
                    raise ValueError(
                        f"conditioning stream {name + suffix!r} is missing; got {', '.join(sorted(videos))}"
                    )
                stream = videos[name + suffix]
                length = videos[name].shape[1]
                streams.append(jnp.pad(stream, ((0, 0), (0, length - stream.shape[1]), (0, 0), (0, 0), (0, 0))))
        return streams


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for."""
    return Conditioner(width, patch_size, config.first_frame_latents, dtype)


def init_from_base(params: PyTree, base_kernel: Float[AnyArray, "P D"], base_bias: Float[AnyArray, "D"]) -> PyTree:
    """Start the patch embedding from the base model's: its kernel on the target tracks' latents, zeros elsewhere.

    This is the 48-channel form of how the released code starts its second patch embedding: with two streams of zeros
    the tokens are the base's own embedding of the target tracks.

    Args:
        params: the conditioner's parameters. base_kernel: [p*p*16, D], pixels of a patch major, channels minor.
    """
    embed = params["patch_embed"]
    patch_area = base_kernel.shape[0] // 16
    channels = embed["kernel"].shape[0] // patch_area
    kernel = jnp.zeros((patch_area, channels, base_kernel.shape[1]), embed["kernel"].dtype)
    kernel = kernel.at[:, :16].set(base_kernel.reshape(patch_area, 16, -1))
    return {**params, "patch_embed": {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": jnp.asarray(base_bias)}}


def batch_conditions(key: Key, batch: dict[str, AnyArray], config: Any) -> dict[str, Any]:
    """Draw the conditions of a batch: `conditions` mapped over its leading axis."""
    names = ("source", "source_xy", "source_visible", "target_xy", "target_visible")
    clips = {name: batch[name] for name in names}
    keys = jax.random.split(key, batch["source"].shape[0])
    return jax.vmap(lambda k, clip: conditions(k, clip, config))(keys, clips)
