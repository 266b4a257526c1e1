"""Parity of the schedule and of both solvers with diffusers' CogVideoX schedulers, whole trajectories in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import diffusion, sampling

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")
from diffusers.schedulers import scheduling_dpm_cogvideox as dpm_module  # noqa: E402

# Both sides step in float32 and round once per operation: a few 1e-7 per step, damped by the denoiser.
TOLERANCE = 1e-5
SHAPE = (2, 3, 4, 5, 6)
STEPS = [1, 7, 20, 30, 50]


def peer(cls, shift):
    return cls(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=shift,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def toy(xt, timestep, lib):
    """A linear "network": mixes each latent with its neighbour and depends on time."""
    return 0.4 * xt + 0.3 * lib.roll(xt, 1, -1) - 0.2 * lib.cos(timestep / 150.0)


def ours(key, noise, schedule, num_steps, solver):
    """Runs the compiled sampler and returns every latent the denoiser saw, then the result."""
    seen = []

    def denoise_fn(xt, timestep):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), xt, ordered=True)
        return toy(xt, timestep.astype(jnp.float32).reshape(-1, 1, 1, 1, 1), jnp)

    run = jax.jit(lambda x: sampling.sample(key, denoise_fn, x, schedule, sampling.Settings(num_steps, solver)))
    result = np.asarray(run(noise))
    jax.effects_barrier()
    return np.stack([*seen, result])


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_alphas_cumprod_match(name, shift):
    theirs = peer(getattr(diffusers, name), shift).alphas_cumprod.numpy()
    table = diffusion.make_schedule(snr_shift_scale=shift)
    # Ours is theirs (float64) rounded once: half a unit in the last place of float32.
    np.testing.assert_allclose(table.alphas_cumprod, theirs, rtol=6.1e-8, atol=0)
    np.testing.assert_allclose(table.sigma, np.sqrt(1 - theirs), rtol=6.1e-8, atol=0)


def test_time_grids_match_for_every_number_of_steps():
    scheduler = peer(diffusers.CogVideoXDDIMScheduler, 1.0)
    for num_steps in range(1, 301):
        scheduler.set_timesteps(num_steps)
        theirs = scheduler.timesteps.numpy()
        # Where 1000 / num_steps does not add up to 1000 exactly (61, 103, ...) theirs has a step too many, timestep -1.
        assert len(theirs) == num_steps or (len(theirs) == num_steps + 1 and theirs[-1] == -1)
        np.testing.assert_array_equal(sampling.time_grid(num_steps), theirs[:num_steps], str(num_steps))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_corrupt_and_velocity_match(shift):
    scheduler = peer(diffusers.CogVideoXDDIMScheduler, shift)
    schedule = diffusion.make_schedule(snr_shift_scale=shift)
    rng = np.random.default_rng(0)
    t = np.array([0, 1, 19, 500, 998, 999])
    x0, eps = rng.standard_normal((2, len(t), 7), dtype=np.float32)
    args = torch.tensor(x0), torch.tensor(eps), torch.tensor(t)
    # diffusers rounds abar to float32 before 1 - abar, which near abar = 1 costs 1 / (1 - abar) = 1000 units of 6e-8.
    np.testing.assert_allclose(diffusion.corrupt(schedule, x0, eps, t), scheduler.add_noise(*args), atol=1e-5)
    np.testing.assert_allclose(diffusion.velocity(schedule, x0, eps, t), scheduler.get_velocity(*args), atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", STEPS)
def test_ddim_trajectory_matches(num_steps, shift):
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    scheduler = peer(diffusers.CogVideoXDDIMScheduler, shift)
    scheduler.set_timesteps(num_steps)
    theirs = [torch.tensor(noise)]
    for t in scheduler.timesteps:
        v = toy(theirs[-1], t.float(), torch)
        theirs.append(scheduler.step(v, t, theirs[-1], return_dict=False)[0])
    mine = ours(jax.random.key(0), noise, diffusion.make_schedule(snr_shift_scale=shift), num_steps, "ddim")
    assert relative(mine, torch.stack(theirs).numpy()) < TOLERANCE


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", STEPS)
def test_dpm_trajectory_matches_under_the_same_noise(num_steps, shift, monkeypatch):
    key = jax.random.key(3)
    noise = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    scheduler = peer(diffusers.CogVideoXDPMScheduler, shift)
    scheduler.set_timesteps(num_steps)
    step = 0
    # Theirs draws twice in a second-order step and uses the last draw; both draws get the step's noise.
    draw = lambda *_, **__: torch.tensor(np.asarray(jax.random.normal(jax.random.fold_in(key, step), SHAPE)))  # noqa: E731
    monkeypatch.setattr(dpm_module, "randn_tensor", draw)
    theirs, x0 = [torch.tensor(noise)], None
    for step, t in enumerate(scheduler.timesteps):
        before = scheduler.timesteps[step - 1] if step else None
        v = toy(theirs[-1], t.float(), torch)
        # As the pipeline calls it: the latents are float32 again after each step.
        latents, x0 = scheduler.step(v, x0, t, before, theirs[-1], return_dict=False)
        theirs.append(latents.float())
    mine = ours(key, noise, diffusion.make_schedule(snr_shift_scale=shift), num_steps, "dpmpp_2m_sde")
    assert relative(mine, torch.stack(theirs).numpy()) < TOLERANCE


@pytest.mark.parametrize("num_steps", [20, 50])
def test_dynamic_guidance_matches_the_pipelines_formula(num_steps):
    scheduler = peer(diffusers.CogVideoXDDIMScheduler, 1.0)
    scheduler.set_timesteps(num_steps)
    t = scheduler.timesteps.numpy().astype(np.float64)
    theirs = 1 + 6 * (1 - np.cos(np.pi * ((num_steps - t) / num_steps) ** 5)) / 2
    mine = sampling.guidance_weights(sampling.Guidance(6.0, "diffusers"), sampling.time_grid(num_steps))
    # cos of angles up to 1e7: float64 keeps nine digits of them.
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
