"""How the tests compile: many small programs that run once, on two cores."""

from importlib import metadata

FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of `jax.jit`: optimising code that runs once would be half of the suite's time."""

HAS_OLDER_EMITTERS = metadata.version("jaxlib").startswith("0.10.")
"""Whether XLA has `xla_cpu_use_fusion_emitters`; a flag that it does not know would end the process."""

EXACT = FAST | ({"xla_cpu_use_fusion_emitters": True} if HAS_OLDER_EMITTERS else {})
"""For comparisons bit for bit between two programs: the older emitters contract sums, not the same ones in both."""


def flags() -> str:
    """Return the `XLA_FLAGS` of all tests: `FAST`, and the older emitters of fused operations where XLA has them.

    Their code runs slower, but is written faster, and most programs of the tests run once.
    """
    told = {name: str(value).lower() for name, value in FAST.items()}
    if HAS_OLDER_EMITTERS:
        told["xla_cpu_use_fusion_emitters"] = "false"
    return " ".join(f"--{name}={value}" for name, value in told.items())
