"""Frame interpolation: a video between two frames, by the base model with further input channels.

MotionV2V (arXiv 2511.20640, section 3.2) makes counterfactuals of a clip by generating what happens between two of its
frames. The frames enter as the image of CogVideoX-I2V does: each goes through the VAE alone, as a clip of one frame,
and its latents stand beside the noise, in 16 channels of their own, at the latent frame that holds it,

    channels 0..15    noisy latents       x_0    x_1   ..   x_t-2   x_t-1
    channels 16..31   given frames        first  0     ..   0       last

with zeros, not latents of a black video, where nothing is given. Without `last` this is image-to-video, so published
I2V weights fit. They never saw a last frame; a model trained here is shown one most of the time (`drop_last`).

A model starts from a text-to-video base: its patch embedding gets zero rows for the new channels (`start_from`), so
that it predicts what the base predicts until it has been trained. All of the transformer trains, on the base's loss.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import figures, metrics
from motionv2v.methods import Method, fields, start_from_base, with_image_channels
from motionv2v.models.dit import Control, DiT
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.schema import Field, number
from motionv2v.typing import AnyArray, Key, PyTree, UInt8

ENDS = ("first", "last")

SETTINGS = {
    "drop_last": Field(number(0, 1), "share of clips whose last frame is hidden in training", 0.0),
    "image_scale": Field(number(above=0), "the given frames' latents are multiplied by this", 1.0),
}
"""The fields of `config.method`, see `schema`."""


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
    """Take the first and the last frame of one sample, and tell which of them the model sees; jittable and vmappable.

    Args:
        key: draws, for a share `drop_last` of the samples, that there is no last frame.
        clip: `target` uint8 [T H W 3], of which the frames between the ends are not read; `has_last`, a truth value
            that takes the place of the draw, in sampling.
        config: `drop_last`, in 0..1.

    Returns:
        {"videos": {"first", "last": [1 H W 3] in [-1, 1]}, "maps": {"given": [t 1 1 1], 1 at the latent frames that
        hold a given frame, else 0}}.

    Raises:
        ValueError: for a clip of one latent frame, whose first and last frames would be the same.
    """
    frames = clip["target"]
    length = latent_shape((1, *frames.shape))[1]
    if length < 2:
        raise ValueError(f"the clip has {length} latent frame; interpolation needs a first and a last one, at least 2")
    has_last = clip["has_last"] if "has_last" in clip else ~jax.random.bernoulli(key, config.drop_last)
    given = jnp.zeros(length).at[0].set(1.0).at[-1].set(has_last)
    ends = {"first": frames[:1], "last": frames[-1:]}
    videos = {name: frame.astype(jnp.float32) / 127.5 - 1 for name, frame in ends.items()}
    return {"videos": videos, "maps": {"given": given[:, None, None, None]}}


class Conditioner(nn.Module):
    """Lay the given frames' latents out as the further channels of the clip's. It has no parameters.

    Attributes:
        image_scale: the latents are multiplied by this besides the VAE's scaling factor f: 1 for CogVideoX, 1 / f^2
            for CogVideoX 1.5-I2V, which divides its image by the factor instead.
    """

    image_scale: float = 1.0

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with concat [B t h w z].

        Args:
            conditions: {"videos": {"first", "last": [B 1 h w z], scaled}, "maps": {"given": [B t 1 1 1]}}.
            time: unused; part of the protocol.

        Raises:
            ValueError: if a frame or the map is missing, naming what is there.
        """
        videos, maps = conditions["videos"], conditions.get("maps", {})
        for needed, there in ((ENDS, videos), (("given",), maps)):
            for name in needed:
                if name not in there:
                    raise ValueError(f"condition {name!r} is missing; got {', '.join(sorted({**videos, **maps}))}")
        first, last = (videos[name] for name in ENDS)
        between = ((0, 0), (0, maps["given"].shape[1] - 2), (0, 0), (0, 0), (0, 0))
        frames = jnp.concatenate([jnp.pad(first, between), last], axis=1)
        return Control(concat=frames * maps["given"] * self.image_scale)


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for; sizes and type are the transformer's business."""
    del width, patch_size, dtype
    return Conditioner(config.image_scale)


def released_settings(image_scale: float) -> dict[str, Any]:
    """Return the `method` section of a config for published image-to-video weights.

    Args:
        image_scale: as in `Conditioner`.
    """
    return {"name": "interpolation", "drop_last": 0.0, "image_scale": image_scale}


def start_from(params: PyTree, base: PyTree, dit: DiT, config: Any) -> PyTree:
    """Start from a base whose patch embedding gets zero rows for the given frames' channels: the same prediction.

    Args:
        params, dit, config: as for `methods.start_from_base`.
        base: a transformer's tree, of half of `dit`'s input channels, or of all of them, as CogVideoX-I2V's.
    """
    return start_from_base(params, with_image_channels(base, dit), dit, config)


def cross_fade(
    first: UInt8[np.ndarray, "H W 3"], last: UInt8[np.ndarray, "H W 3"], num_frames: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Blend from one frame into the other at even steps: what a generator has to beat."""
    weight = np.linspace(0, 1, num_frames, dtype=np.float32)[:, None, None, None]
    return np.round((1 - weight) * first + weight * last).astype(np.uint8)


def probe(generate: Callable[[dict[str, Any]], AnyArray], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Generate videos again from their first and last frames, and compare.

    Args:
        generate: the model, as `Method.probe` says. samples: held-out ones with `target`, the true video.

    Returns:
        {"scalars": {"psnr", "psnr_cross_fade"} in dB, means over the videos; "videos": the first four, side by side}.
    """
    videos = np.stack([sample["target"] for sample in samples])
    made = np.asarray(generate({"target": videos, "has_last": np.ones(len(videos), bool)}))
    faded = np.stack([cross_fade(video[0], video[-1], len(video)) for video in videos])
    shown = {
        f"between_{i}": figures.side_by_side([("cross-fade", faded[i]), ("generated", made[i]), ("true", videos[i])])
        for i in range(min(4, len(videos)))
    }
    mean = lambda found: float(np.mean([metrics.clip_psnr(*pair) for pair in zip(found, videos, strict=True)]))  # noqa: E731
    return {"scalars": {"psnr": mean(made), "psnr_cross_fade": mean(faded)}, "videos": shown}


METHOD = Method(
    reads=("target", "given"),
    conditions=conditions,
    make_conditioner=make_conditioner,
    settings=SETTINGS,
    # Not a field that a view could turn: first and last would have to change places.
    turn={"given": fields.Field({"has_last": ((), bool)}, None, optional=("has_last",))},
    start_from=start_from,
    probe=probe,
)
