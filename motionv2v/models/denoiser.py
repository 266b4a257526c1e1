"""The one seam between the backbone and the methods: a transformer and the conditioner that feeds its control."""

import flax.linen as nn
import jax.numpy as jnp

from motionv2v.models.dit import DiT
from motionv2v.typing import AnyArray, Float, Num, PyTree


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
        use_control: bool = True,
        modulations: PyTree | None = None,
        sigma: Float[AnyArray, "B"] | None = None,
    ) -> Float[AnyArray, "B t h w zout"]:
        """Predict for one batch.

        Args:
            xt: noisy latents.
            timestep: in the schedule's units.
            text: the text encoder's output.
            conditions: what the conditioner takes, {"videos": ..., "maps": ...}; None for a method that draws nothing.
            use_control: False runs the transformer alone, as if there were no conditioner.
            modulations: a row of `models.time_tables`, see `DiT`.
            sigma: how much noise `xt` holds at `timestep` (`diffusion.Schedule`); needed where the conditioner gives
                a `Control.estimate`, or what is `known`.

        Raises:
            ValueError: when conditions are given and there is no conditioner for them, or an estimate without `sigma`.
        """
        if conditions is not None and self.conditioner is None:
            raise ValueError(f"conditions {sorted(conditions)} were given, but the model has no conditioner.")
        control = None
        if self.conditioner is not None and use_control:
            time = jnp.asarray(timestep, jnp.float32) / (self.num_timesteps - 1)
            control = self.conditioner({"videos": {}, "maps": {}, **(conditions or {})}, time)
        prediction = self.dit(xt, timestep, text, control, modulations=modulations)
        if control is None or (control.estimate is None and control.known is None):
            return prediction
        if sigma is None:
            raise ValueError("the conditioner tells clean latents, or an estimate; `sigma` is needed beside them.")
        sigma = jnp.reshape(sigma, (-1, 1, 1, 1, 1)).astype(prediction.dtype)
        if control.estimate is not None:
            # v = alpha eps - sigma x0: with the estimate for x0, the transformer predicts what it leaves over.
            prediction = prediction - sigma * control.estimate
        if control.known is not None:
            # Who knows x0 knows eps, too: v = (alpha xt - x0) / sigma.
            alpha, noisy = jnp.sqrt(1 - sigma**2), xt[..., : prediction.shape[-1]]
            exact = (alpha * noisy - control.known) / jnp.maximum(sigma, 1e-3)
            prediction = jnp.where(control.is_known > 0, exact.astype(prediction.dtype), prediction)
        return prediction
