"""The one seam between the backbone and the methods: a transformer and the conditioner that feeds its control."""

import flax.linen as nn
import jax.numpy as jnp

from motionv2v.models.dit import DiT
from motionv2v.typing import AnyArray, Float, Num


class Denoiser(nn.Module):
    """Join a transformer and a method's conditioner into one model: {"dit": ..., "conditioner": ...} in the tree.

    Attributes:
        dit: the transformer.
        conditioner: a `Conditioner` module, or None for the bare transformer.
        num_timesteps: of the training schedule; timestep num_timesteps - 1 is time 1.
    """

    dit: DiT
    conditioner: nn.Module | None = None
    num_timesteps: int = 1000

    def __call__(
        self,
        xt: Float[AnyArray, "B t h w zin"],
        timestep: Num[AnyArray, "B"],
        text: Float[AnyArray, "B L C"],
        conditions: dict | None = None,
        is_tabulated: bool = False,
    ) -> Float[AnyArray, "B t h w zout"]:
        """Predict for one batch; without `conditions` only the transformer runs.

        Args:
            xt: noisy latents.
            timestep: in the schedule's units.
            text: the text encoder's output.
            conditions: what the conditioner takes. Pass them to `init`, or it has no parameters to create.
            is_tabulated: whether the transformer's parameters are those of this timestep, see `models.time_tables`.

        Raises:
            ValueError: when conditions are given and there is no conditioner for them.
        """
        of_dit = None if is_tabulated else timestep
        if conditions is None:
            return self.dit(xt, of_dit, text)
        if self.conditioner is None:
            raise ValueError(f"conditions {sorted(conditions)} were given, but the model has no conditioner.")
        time = jnp.asarray(timestep, jnp.float32) / (self.num_timesteps - 1)
        return self.dit(xt, of_dit, text, self.conditioner(conditions, time))
