"""Motion Prompting (Geng et al., arXiv 2412.02700): a first frame, and any set of point tracks that it shall follow.

The tracks enter as a volume (section 3): each is given an identity at random, whose code stands in every frame where
the track is seen (`render.track_volume`), on a grid of the latents' rows and columns, or a finer one. As the latents
hold four frames each, the codes of four frames stand beside one another in channels, so that no frame is lost, and so
do the cells of a finer grid within each latent's. The volume goes straight to the control branch's tokens, without the
autoencoder. How many tracks a sample has is the data's business (`data.num_points`, `data.scene.min_points`).

With `codes` "place" a cell holds where what it shows was first seen (`render.place_volume`), of our own design: a model
that is trained for an hour on a CPU has no time to learn to find identities again in the first frame. With `carries`
the first frame's latents are also brought to where the places say (`carry`), as Wan-Move does (arXiv 2512.08765), and
the branch has to mend what arrives.

The first frame is encoded as a clip of one frame. Its latents are further channels of the control branch's, on a
text-to-video base, or beside the noise, as an image-to-video base has them (`first_frame`).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from motionv2v import figures, metrics, render
from motionv2v.methods import Method, fields, start_from_base, with_image_channels
from motionv2v.models.dit import Control, DiT
from motionv2v.models.patches import patchify
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.schema import Field, choice, flag, number, whole
from motionv2v.trackers import followed
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Key, PyTree

SETTINGS = {
    "channels": Field(whole(2, 1024), "numbers in a track's code, an even number", 64),
    "codes": Field(choice("identity", "place"), "what a cell is told: who is there, or where it came from", "identity"),
    "carries": Field(flag, "the first frame's latents are carried along the tracks, with codes of places", False),
    "cells": Field(choice(1, 2, 4, 8), "cells of the volume along each side of a latent's pixel", 1),
    "first_frame": Field(
        choice("control", "concat"), "where its latents enter: the branch, or beside the noise", "control"
    ),
    "image_scale": Field(number(above=0), "the first frame's latents beside the noise are multiplied by this", 1.0),
}
"""The fields of `config.method`, see `schema`."""


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
    """Take the first frame of one sample, and write its tracks into a volume; jittable and vmappable.

    Args:
        key: draws the tracks' identities, if they have any.
        clip: `target` uint8 [T H W 3], of which the first frame alone is read; `target_xy` [N T 2] in pixels and
            `target_visible` [N T].
        config: `channels`, `codes`, `cells`.

    Returns:
        {"videos": {"first": [1 H W 3] in [-1, 1]}, "maps": {"volume": [t h w C]}}, C = 4 cells^2 channels.
    """
    frames = clip["target"]
    tracks = Tracks(clip["target_xy"], clip["target_visible"])
    height, width = latent_shape((1, *frames.shape))[2:4]
    grid = (height * config.cells, width * config.cells)
    if config.codes == "place":
        volume = render.place_volume(tracks, frames.shape[1:3], grid, config.channels)
    else:
        identities = render.random_identities(key, tracks.xy.shape[0])
        volume = render.track_volume(tracks, identities, frames.shape[1:3], grid, config.channels)
    return {
        "videos": {"first": frames[:1].astype(jnp.float32) / 127.5 - 1},
        "maps": {"volume": render.pack(volume, config.cells)},
    }


def carry(
    first: Float[AnyArray, "B 1 h w z"], volume: Float[AnyArray, "B t h w C"], cells: int
) -> Float[AnyArray, "B t h w F"]:
    """Bring the first frame's latents to where a volume of places says that they are seen.

    Args:
        first: the latents. volume: of `render.place_volume`, packed. cells: along each side of a latent's pixel.

    Returns:
        For each of a latent's four frames z numbers, zero where no track that started in the first frame is seen, and
        how much of the cell's is; F = 4 (z + 1). Latents are interpolated linearly.
    """
    height, width = first.shape[2:4]
    codes = volume.reshape(*volume.shape[:4], render.FRAMES, cells, cells, -1)  # [B t h w frame y x channels]
    pairs = codes.shape[-1] // 2
    octaves = (pairs - 1) // 2
    # Half a period of the slowest turns spans the picture, so that their angle is the place.
    x, y = (jnp.arctan2(codes[..., pairs + i], codes[..., i]) / jnp.pi for i in (0, octaves))
    num_frames = 1 + render.FRAMES * (volume.shape[1] - 1)
    started = codes[..., 2 * octaves] > (1 + math.cos(math.pi / num_frames)) / 2  # in the first frame, not later
    off = (jnp.arange(cells) + 0.5) / cells - 0.5  # of a cell's centre from the latent's, in latents
    found = render.between(first[:, 0], y * height - 0.5 - off[:, None], x * width - 0.5 - off)
    seen = started[..., None].astype(first.dtype)
    count = seen.sum((-3, -2))
    mean = (found * seen).sum((-3, -2)) / jnp.maximum(count, 1)
    return jnp.concatenate([mean, count / cells**2], -1).reshape(*volume.shape[:4], -1)


class Conditioner(nn.Module):
    """Patchify volume and first frame into the control branch's tokens.

    Attributes:
        width: model width D. patch_size: rows and columns of latents per token, as in the DiT.
        is_beside_noise: the first frame is not the branch's business, but stands beside the noise.
        image_scale: its latents there are multiplied by this besides the VAE's scaling factor.
        carries: the first frame's latents enter along the tracks, too. cells: of the volume, see `SETTINGS`.
        dtype: compute type; parameters are float32.
    """

    width: int
    patch_size: int = 2
    is_beside_noise: bool = False
    image_scale: float = 1.0
    carries: bool = False
    cells: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with tokens [B t*h*w/p^2 D], and concat [B t h w z] if the first frame stands there.

        Args:
            conditions: {"videos": {"first": [B 1 h w z], scaled}, "maps": {"volume": [B t h w C]}}.
            time: unused; part of the protocol.

        Raises:
            ValueError: if either is missing, naming what is there.
        """
        videos, maps = conditions.get("videos", {}), conditions.get("maps", {})
        for name, there in (("first", videos), ("volume", maps)):
            if name not in there:
                raise ValueError(
                    f"condition {name!r} is missing; got {', '.join(sorted({**videos, **maps})) or 'none'}"
                )
        volume, first = maps["volume"], videos["first"]
        carried = carry(first, volume, self.cells) if self.carries else None
        first = jnp.pad(first, ((0, 0), (0, volume.shape[1] - 1), (0, 0), (0, 0), (0, 0)))
        seen = volume if self.is_beside_noise else jnp.concatenate([first, volume], -1)
        embed = nn.Dense(self.width, dtype=self.dtype, name="patch_embed")
        tokens = embed(patchify(seen.astype(self.dtype), self.patch_size))
        if carried is not None:
            # Zeros at first, so that a model that was trained without goes on from where it was.
            bring = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="carried_embed")
            tokens += bring(patchify(carried.astype(self.dtype), self.patch_size))
        return Control(tokens=tokens, concat=first * self.image_scale if self.is_beside_noise else None)


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for."""
    if config.carries and config.codes != "place":
        raise ValueError(
            f'method.carries needs places to carry from: method.codes is {config.codes!r}, expected "place"'
        )
    is_beside_noise = config.first_frame == "concat"
    return Conditioner(
        width, patch_size, is_beside_noise, config.image_scale, config.carries, config.cells, dtype=dtype
    )


def start_from(params: PyTree, base: PyTree, dit: DiT, config: Any) -> PyTree:
    """Start branch and transformer from a base; one that reads an image may start from one that does not."""
    base = with_image_channels(base, dit) if config.first_frame == "concat" else base
    return start_from_base(params, base, dit, config)


MAX_TRACKS = 2048
"""Tracks that a sample may have at most; fewer are filled up with hidden ones, so that one program serves all."""


def probe(generate: Callable[[dict[str, Any]], AnyArray], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Animate held-out first frames by their tracks, and see whether these are followed; the loss does not tell.

    Args:
        generate: the model, as `Method.probe` says. samples: held-out ones with `target` and its tracks.

    Returns:
        {"scalars": {"epe", "epe_held" in pixels, "psnr", "psnr_held" in dB}, "videos": the first four, side by side};
        "held" is the first frame, for the whole clip.
    """
    names = ("target", "target_xy", "target_visible")
    batch = {name: np.stack([sample[name] for sample in samples]) for name in names}
    truth = batch["target"]
    made = np.asarray(generate(batch))
    held = np.repeat(truth[:, :1], truth.shape[1], axis=1)
    tracks = [Tracks(*both) for both in zip(batch["target_xy"], batch["target_visible"], strict=True)]
    scalars = {}
    for name, videos in (("", made), ("_held", held)):
        scalars[f"epe{name}"] = float(np.nanmean([followed.epe(*both) for both in zip(videos, tracks, strict=True)]))
        psnr = [metrics.clip_psnr(*both) for both in zip(videos, truth, strict=True)]
        scalars[f"psnr{name}"] = float(np.mean(psnr))
    shown = {}
    for i in range(min(4, len(made))):
        drawn = figures.draw_tracks(held[i], tracks[i])
        shown[f"animated_{i}"] = figures.side_by_side([("tracks", drawn), ("made", made[i]), ("true", truth[i])])
    return {"scalars": scalars, "videos": shown}


METHOD = Method(
    reads=("target", "target_tracks"),
    conditions=conditions,
    make_conditioner=make_conditioner,
    settings=SETTINGS,
    # A clip that is turned round in time starts with another frame than the one that is given.
    turn={"target": fields.FIELDS["target"]._replace(keeps_time=True)},
    start_from=start_from,
    probe=probe,
    max_points=lambda config: MAX_TRACKS,
)
