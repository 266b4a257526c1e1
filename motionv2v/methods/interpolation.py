"""Frame interpolation: a video between two frames, by the base model with further input channels.

MotionV2V (arXiv 2511.20640, section 3.2) makes counterfactuals of a clip by generating what happens between two of its
frames. The frames enter as the image of CogVideoX-I2V does: each goes through the VAE alone, as a clip of one frame,
and its latents stand beside the noise, in 16 channels of their own, at the latent frame that holds it,

    channels 0..15    noisy latents       x_0    x_1   ..   x_t-2   x_t-1
    channels 16..31   given frames        first  0     ..   0       last

with zeros, not latents of a black video, where nothing is given. Without `last` this is image-to-video, so published
I2V weights fit. They never saw a last frame; a model trained here is shown one most of the time (`drop_last`).

A model starts from a text-to-video base: its patch embedding gets zero rows for the new channels (`fit_base`), so that
it predicts what the base predicts until it has been trained. All of the transformer trains, on the base's own loss.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from motionv2v.models.dit import Control, DiT
from motionv2v.schema import Field, number
from motionv2v.typing import AnyArray, Bool, Float, Key, PyTree

ENDS = ("first", "last")

FIELDS = {
    "drop_last": Field(number(0, 1), "share of clips whose last frame is hidden in training", 0.0),
    "image_scale": Field(number(above=0), "the given frames' latents are multiplied by this", 1.0),
}
"""The fields of `config.method`, see `schema`."""


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, Float[AnyArray, "1 H W 3"]]]:
    """Take the first and the last frame of one sample; jittable and vmappable, the same in training and in sampling.

    Args:
        key: unused; part of the protocol.
        clip: `target` uint8 [T H W 3], of which the frames between the ends are not read.
        config: unused.

    Returns:
        {"videos": {"first", "last": [1 H W 3] in [-1, 1]}}; which of them the model sees, `draw_maps` says.
    """
    del key, config
    ends = {"first": clip["target"][:1], "last": clip["target"][-1:]}
    return {"videos": {name: frame.astype(jnp.float32) / 127.5 - 1 for name, frame in ends.items()}}


def batch_conditions(key: Key, batch: dict[str, AnyArray], config: Any) -> dict[str, Any]:
    """Take the conditions of a batch: `conditions` mapped over its leading axis."""
    return jax.vmap(lambda target: conditions(key, {"target": target}, config))(batch["target"])


def draw_maps(key: Key, shape: tuple[int, ...], config: Any) -> dict[str, Float[AnyArray, "B t 1 1 1"]]:
    """Draw which frames the model gets to see in training: always the first, the last but for a share `drop_last`.

    Args:
        key: of the draw. shape: of the batch's latents, [B t h w z]. config: `drop_last`, in 0..1.
    """
    count, length = shape[:2]
    has_last = ~jax.random.bernoulli(key, config.drop_last, (count,))
    return {"given": given_frames(jnp.ones(count, bool), has_last, length)}


def given_frames(
    has_first: Bool[AnyArray, "B"], has_last: Bool[AnyArray, "B"], length: int
) -> Float[AnyArray, "B t 1 1 1"]:
    """Mark the latent frames that hold a given frame with 1, the others with 0.

    Raises:
        ValueError: for a clip of `length` 1, whose first and last frames would be the same.
    """
    if length < 2:
        raise ValueError(f"the clip has {length} latent frame; interpolation needs a first and a last one, at least 2")
    given = jnp.zeros((has_first.shape[0], length)).at[:, 0].set(has_first).at[:, -1].set(has_last)
    return given[:, :, None, None, None]


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
    return Conditioner(config.get("image_scale", 1.0))


def fit_base(params: PyTree, dit: DiT) -> PyTree:
    """Give a base's patch embedding zero rows for the given frames' channels: the same prediction, whatever they hold.

    Args:
        params: a transformer's tree, of half of `dit`'s input channels. Any other comes back as it is.
        dit: the transformer that shall take it.
    """
    kernel = params["patch_embed"]["kernel"]
    own, wanted = kernel.shape[0] * 2, dit.in_channels * dit.patch[0] * dit.patch[1] * dit.patch[2]
    if own != wanted:
        return params
    # Rows are positions in a patch, each with all channels: the new ones come behind the old ones of each position.
    rows = kernel.reshape(-1, dit.in_channels // 2, kernel.shape[1])
    rows = jnp.concatenate([rows, jnp.zeros_like(rows)], axis=1).reshape(wanted, -1)
    return {**params, "patch_embed": {**params["patch_embed"], "kernel": rows}}
