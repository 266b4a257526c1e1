"""Methods as thin plug-ins on one backbone. A method is a module of this package with these names:

    conditions(key, clip, config) -> {"videos": {name: [T H W 3]}, "maps": {name: [T H W C]}}
        drawn in jax.numpy, jittable and vmappable; `videos` reach the conditioner as latents of the frozen VAE
    make_conditioner(config, width=, patch_size=, dtype=) -> linen module: (conditions, time) -> models.dit.Control
    init_from_base(params, base_kernel, base_bias) -> params        how the conditioner starts from a trained base
    draw_maps(key, shape, config) -> {name: [B ...]}    optional: "maps" that need no clip, for latents of `shape`
    fit_base(params, dit) -> params                     optional: how the transformer itself starts from a base
    loss(...), initial_noise(...)                       optional; the defaults are diffusion.loss and N(0, 1)
    LAYOUTS = (models.layouts.Layout, ...)              optional: how published weights of the method are laid out

Nothing else in the package asks which method runs: `get(config.method.name)` is the only look-up.
"""

import importlib
from types import ModuleType

from motionv2v.models.layouts import Layout

AVAILABLE = ("motionv2v", "interpolation")


def get(name: str) -> ModuleType:
    """Return a method's module by name. Raises ValueError listing what is available."""
    if name not in AVAILABLE:
        raise ValueError(f"unknown method {name!r}; available: {', '.join(AVAILABLE)}")
    return importlib.import_module(f"motionv2v.methods.{name}")


def layouts() -> tuple[Layout, ...]:
    """List the layouts of all methods' published weights; one that builds on another stands before it."""
    return tuple(layout for name in AVAILABLE for layout in getattr(get(name), "LAYOUTS", ()))
