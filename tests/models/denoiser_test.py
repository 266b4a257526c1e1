"""The seam between transformer and conditioner: what the conditioner estimates counts in the prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import diffusion
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import Control, DiT

DIT = DiT(num_layers=1, num_heads=1, head_dim=16, text_dim=8, text_length=4, time_embed_dim=8, in_channels=16)
X0 = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 16))
TIMESTEPS = jnp.array([300, 999])


class Knows(nn.Module):
    """Estimates clean latents: those it is shown."""

    def __call__(self, conditions, time):
        return Control(estimate=conditions["videos"]["answer"])


class Keeps(nn.Module):
    """Knows the left column of the answer, and estimates nothing."""

    def __call__(self, conditions, time):
        is_known = jnp.zeros((2, 1, 2, 2, 1)).at[..., :1, :].set(1.0)
        return Control(known=conditions["videos"]["answer"], is_known=is_known)


def predicted(conditioner, noisy=None, **given):
    denoiser = Denoiser(DIT, conditioner)
    videos = {"videos": {"answer": X0}}
    noisy = jnp.zeros((2, 1, 2, 2, DIT.in_channels)) if noisy is None else noisy
    inputs = (noisy, TIMESTEPS, jnp.zeros((2, 4, 8)), videos if conditioner else None)
    params = denoiser.init(jax.random.key(1), *inputs, sigma=jnp.ones(2))
    return denoiser.apply(params, *inputs, **given)


def test_an_estimate_is_what_the_prediction_starts_from():
    """A new transformer predicts zero: what is left is v of the estimate without noise."""
    schedule = diffusion.make_schedule()
    found = predicted(Knows(), sigma=jnp.asarray(schedule.sigma)[TIMESTEPS])
    np.testing.assert_allclose(found, diffusion.velocity(schedule, X0, jnp.zeros_like(X0), TIMESTEPS), rtol=1e-6)
    np.testing.assert_array_equal(predicted(Knows(), sigma=jnp.ones(2), use_control=False), jnp.zeros_like(X0))


def test_what_is_known_is_the_answer_there_and_nowhere_else():
    schedule = diffusion.make_schedule()
    eps = jax.random.normal(jax.random.key(3), X0.shape)
    noisy = diffusion.corrupt(schedule, X0, eps, TIMESTEPS)
    found = predicted(Keeps(), noisy, sigma=jnp.asarray(schedule.sigma)[TIMESTEPS])
    expected = diffusion.velocity(schedule, X0, eps, TIMESTEPS)
    np.testing.assert_allclose(found[..., :1, :], expected[..., :1, :], atol=1e-5)
    np.testing.assert_array_equal(found[..., 1:, :], 0 * X0[..., 1:, :])
    with pytest.raises(ValueError, match="`sigma` is needed"):
        predicted(Keeps())


def test_without_an_estimate_the_noise_level_does_not_matter():
    np.testing.assert_array_equal(predicted(None), predicted(None, sigma=jnp.ones(2)))


def test_an_estimate_needs_the_noise_level():
    with pytest.raises(ValueError, match="`sigma` is needed"):
        predicted(Knows())
