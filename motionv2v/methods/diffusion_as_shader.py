"""Diffusion-as-Shader (Gu et al., arXiv 2501.03847): a first frame, and points whose colours say where they came from.

Points are drawn as small squares on black. A point keeps, in all frames, the colour that its place in the first one
gives it: red is its share of the width, green that of the height, blue how near it is (section 3.1). The drawing's
latents pass the transformer's own patch embedding into the control branch, and beside them, as the first frame's beside
the noise of an image-to-video base, those of its first frame.

The released weights were shown 70 x 70 points; where nothing is known of depth, any blue will do, and here it is one
half. What was never in the first frame has no colour of its own: such a point is drawn in that of the place where its
path would have been. The published demo encodes its drawings in [0, 1] where training did in [-1, 1] (`demo_range`).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from motionv2v import render
from motionv2v.methods import Method, fields, start_from_base, with_image_channels
from motionv2v.models.dit import Control, DiT
from motionv2v.schema import Field, flag, number, whole
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Key, PyTree

SETTINGS = {
    "radius": Field(whole(0, 64), "a point's square has 2 radius + 1 pixels a side", 2),
    "image_scale": Field(number(above=0), "the first frame's latents are multiplied by this", 1.0),
    "demo_range": Field(flag, "encode the drawing in [0, 1], as the published demo does", False),
}
"""The fields of `config.method`, see `schema`."""

MAX_POINTS = 4900
"""Points of a sample, a grid of 70 x 70; fewer are filled up with hidden ones, so that one program serves all."""
STREAMS = ("first", "points", "points_first")


def colors(
    first: Float[AnyArray, "N 2"], size: tuple[int, int], nearness: Float[AnyArray, "N"]
) -> Float[AnyArray, "N 3"]:
    """Colour points by their places in the first frame, in pixels of a picture of (H, W), and how near they are."""
    share = jnp.asarray(first, jnp.float32) / jnp.asarray([size[1], size[0]], jnp.float32)
    return jnp.clip(jnp.concatenate([share, jnp.asarray(nearness, jnp.float32)[:, None]], -1), 0, 1)


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
    """Draw one sample's points, and take its first frame; jittable and vmappable.

    Args:
        key: unused; part of the protocol.
        clip: `target` uint8 [T H W 3], of which the first frame alone is read; `target_xy` [N T 2] in pixels and
            `target_visible` [N T]; `target_nearness` [N] in [0, 1], 1 near, or nothing.
        config: `radius`, `demo_range`.

    Returns:
        {"videos": {"first": [1 H W 3], "points": [T H W 3], "points_first": [1 H W 3]}} in [-1, 1].
    """
    del key
    frames, tracks = clip["target"], Tracks(clip["target_xy"], clip["target_visible"])
    size = frames.shape[1:3]
    nearness = clip.get("target_nearness", jnp.full(tracks.xy.shape[0], 0.5))
    drawn = render.point_video(tracks, colors(tracks.xy[:, 0], size, nearness), size, config.radius, nearness)
    return {
        "videos": {
            "first": frames[:1].astype(jnp.float32) / 127.5 - 1,
            "points": drawn if config.demo_range else drawn * 2 - 1,
            "points_first": drawn[:1] * 2 - 1,
        }
    }


class Conditioner(nn.Module):
    """Lay the drawing's latents out for the branch, and the first frame's beside the noise. It has no parameters.

    Attributes:
        image_scale: the first frames' latents are multiplied by this besides the VAE's scaling factor.
    """

    image_scale: float = 1.0

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with concat [B t h w z] and latents [B t h w 2z].

        Args:
            conditions: {"videos": {"first", "points_first": [B 1 h w z], "points": [B t h w z]}}, scaled.
            time: unused; part of the protocol.

        Raises:
            ValueError: if a stream is missing, naming those that are there.
        """
        videos = conditions.get("videos", {})
        for name in STREAMS:
            if name not in videos:
                raise ValueError(f"conditioning stream {name!r} is missing; got {', '.join(sorted(videos)) or 'none'}")
        points = videos["points"]
        after = ((0, 0), (0, points.shape[1] - 1), (0, 0), (0, 0), (0, 0))
        first, points_first = (jnp.pad(videos[n], after) * self.image_scale for n in ("first", "points_first"))
        return Control(latents=jnp.concatenate([points, points_first], -1), concat=first)


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for; sizes and type are the transformer's business."""
    del width, patch_size, dtype
    return Conditioner(config.image_scale)


def released_settings() -> dict[str, Any]:
    """Return the `method` section of a config for the released weights."""
    return {"name": "diffusion_as_shader", "radius": 2, "image_scale": 1.0, "demo_range": False}


def start_from(params: PyTree, base: PyTree, dit: DiT, config: Any) -> PyTree:
    """Start branch and transformer from a base; one that reads an image may start from one that does not."""
    return start_from_base(params, with_image_channels(base, dit), dit, config)


METHOD = Method(
    reads=("target", "target_tracks"),
    conditions=conditions,
    make_conditioner=make_conditioner,
    settings=SETTINGS,
    also_reads=lambda config: ("nearness",),
    turn={
        # A clip that is turned round in time starts with another frame than the one that is given.
        "target": fields.FIELDS["target"]._replace(turn=None),
        "nearness": fields.Field({"target_nearness": (("N",), np.float32)}, None, optional=("target_nearness",)),
    },
    start_from=start_from,
    max_points=lambda config: MAX_POINTS,
)
