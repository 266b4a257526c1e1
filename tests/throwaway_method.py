"""A fourth method in one file, to show that the seam holds: dots on the latent grid, a bias on every layer's queries.

It draws a video and a map, gives the branch tokens and the main blocks embeddings, and has a loss and a setting of its
own. Nothing else in the project knows of it.
"""

import flax.linen as nn
import jax.numpy as jnp

from motionv2v import diffusion, methods
from motionv2v.models import patches
from motionv2v.models.dit import Control
from motionv2v.schema import Field, number, whole


def conditions(key, clip, config):
    """Show the clip, and mark the latent cells in which a point shall be."""
    frames, height, width, _ = clip["source"].shape
    grid = ((frames - 1) // 4 + 1, height // 8, width // 8)
    xy = clip["target_xy"][:, ::4] / 8  # the frames that begin a latent one
    x, y = (jnp.clip(xy[..., axis].astype(int), 0, grid[2 - axis] - 1) for axis in (0, 1))
    seen = clip["target_visible"][:, ::4].astype(jnp.float32)
    marks = jnp.zeros((*grid, 1)).at[jnp.arange(grid[0]), y, x, 0].max(seen * config.weight)
    return {"videos": {"source_video": clip["source"] / 127.5 - 1}, "maps": {"marks": marks}}


class Conditioner(nn.Module):
    """Patchify both; learn an embedding of each layer's queries and keys, zero at first."""

    width: int
    patch_size: int
    depth: int

    @nn.compact
    def __call__(self, conditions, time):
        """Return tokens and motion embeddings."""
        both = jnp.concatenate([conditions["videos"]["source_video"], conditions["maps"]["marks"]], -1)
        motion = self.param("motion_qk", nn.initializers.zeros, (self.depth, both.shape[1], self.width))
        tokens = nn.Dense(self.width, name="patch_embed")(patches.patchify(both, self.patch_size))
        return Control(tokens=tokens, motion={"qk": motion})


def loss(key, prediction, x0, eps, timestep, schedule, config):
    """Weigh the plain loss."""
    return config.weight * diffusion.loss(prediction, x0, eps, timestep, schedule)


METHOD = methods.Method(
    reads=("source", "target_tracks"),
    conditions=conditions,
    make_conditioner=lambda config, *, width, patch_size, dtype: Conditioner(width, patch_size, config.layers),
    settings={
        "weight": Field(number(above=0), "of the marks, and of the loss", 1.0),
        "layers": Field(whole(1), "main blocks of the transformer"),
    },
    loss=loss,
)
