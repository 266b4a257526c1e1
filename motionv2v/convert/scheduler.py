"""CogVideoX's schedulers in diffusers: scheduler_config.json to a noise schedule and a solver, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from motionv2v import diffusion
from motionv2v.convert import fields
from motionv2v.convert.tensors import ConvertError

SOLVERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}
"""diffusers' class -> our solver (`sampling.SOLVERS`)."""

_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "set_alpha_to_one": True,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 3.0,
}
_SUPPORTED = {
    "beta_schedule": ("scaled_linear",),
    "trained_betas": (None,),
    "set_alpha_to_one": (True,),
    "prediction_type": ("v_prediction",),
    "timestep_spacing": ("trailing",),
}
_UNUSED = ("clip_sample", "clip_sample_range", "sample_max_value", "steps_offset")
"""Neither class ever clips, and the offset belongs to another spacing of timesteps."""

_FIELDS = {
    "num_timesteps": "num_train_timesteps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "snr_shift_scale": "snr_shift_scale",
    "zero_terminal_snr": "rescale_betas_zero_snr",
}
"""Argument of `diffusion.make_schedule` -> the name in scheduler_config.json."""


class Sampler(NamedTuple):
    """How to sample from a model: arguments of `diffusion.make_schedule`, and the solver's name."""

    schedule: dict[str, Any]
    solver: str

    def make_schedule(self) -> diffusion.Schedule:
        """Build the tables of the noise schedule."""
        return diffusion.make_schedule(**self.schedule)


def from_config(config: Mapping[str, Any]) -> Sampler:
    """Read a scheduler_config.json. Raises ConvertError for another class and for values that are not supported."""
    name = config.get("_class_name")
    if name not in SOLVERS:
        raise ConvertError(f"scheduler class {name!r} is not supported; supported: {', '.join(SOLVERS)}")
    fields.refuse_unknown(config, (*_DEFAULTS, *_UNUSED), name)
    values = fields.read(config, _DEFAULTS, _SUPPORTED, name)
    sampler = Sampler({ours: values[theirs] for ours, theirs in _FIELDS.items()}, SOLVERS[name])
    try:
        sampler.make_schedule()
    except (ValueError, TypeError) as error:
        raise ConvertError(f"{name}: {error}") from error
    return sampler


def to_config(sampler: Sampler) -> dict[str, Any]:
    """Write the scheduler_config.json of a sampler. Raises ConvertError for a solver that diffusers does not have."""
    classes = {solver: name for name, solver in SOLVERS.items()}
    if sampler.solver not in classes:
        raise ConvertError(f"solver {sampler.solver!r} has no class in diffusers; supported: {', '.join(classes)}")
    config = {theirs: sampler.schedule[ours] for ours, theirs in _FIELDS.items() if ours in sampler.schedule}
    # What a config of ours leaves out has make_schedule's default, not diffusers'.
    ours = {"snr_shift_scale": 1.0, "rescale_betas_zero_snr": True}
    fixed = {name: choices[0] for name, choices in _SUPPORTED.items()}
    return {"_class_name": classes[sampler.solver], "clip_sample": False, **fixed, **ours, **config}
