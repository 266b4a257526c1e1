"""What samples cost, told before one is made: calls of the transformer, operations, and the least time they take.

Operations are those of `flops`, what the mathematics needs of the transformer; the time is what they take at the peak
that a chip's maker states (`chips`), so that no run is faster. Text encoder and autoencoder are left out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from motionv2v import backbone, sampling
from motionv2v.devices import chips, flops, memory
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import PyTree

REFERENCE = "H100 80GB HBM3"
"""Of `chips.CHIPS`: whose peak is told where nothing is known of the device at hand, such as a CPU."""


class Cost(NamedTuple):
    """What samples cost.

    Attributes:
        calls: of the transformer. operations: on all devices together.
        chip: whose stated peak is meant, a name of `chips.CHIPS`. devices: that share the work.
    """

    calls: int
    operations: float
    chip: str
    devices: int = 1

    @property
    def seconds(self) -> float:
        """Return the least time, at the chip's stated peak."""
        return self.operations / (chips.CHIPS[self.chip].flops * self.devices)

    def __str__(self) -> str:
        """Say it in words."""
        time = f"at least {_short(self.seconds)} s" if self.seconds >= 0.01 else "less than 0.01 s"
        those = "" if self.devices == 1 else f"{self.devices} times "
        peak = f"{those}{_short(chips.CHIPS[self.chip].flops / 1e12)} TFLOP/s, stated for {self.chip}"
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        return f"{calls} of the transformer, {_short(self.operations / 1e12)} TFLOP; {time} at {peak}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def counted(
    model: backbone.Model, params: PyTree, settings: sampling.Settings, use_control: bool = True
) -> tuple[int, float]:
    """Count a sample of one clip: the calls of the transformer, and the operations of all of them.

    Args:
        model: with its config. params: its parameters or their shapes. settings: of the sample.
        use_control: whether conditioner and control branch run.
    """
    shape = backbone.sampled_shape(model)[:3]
    _, *grid = latent_shape((1, *shape, 3), model.vae.latent_channels)[:4]
    calls = int(sampling.model_calls(settings, model.schedule.num_timesteps).sum())
    once = flops.forward(model.denoiser.dit, grid, model.config.data.text_length, use_control, params)
    return calls, calls * once.total


def of_samples(config: Any, settings: sampling.Settings, count: int = 1, devices: int = 1) -> Cost:
    """Tell what `count` samples of a config cost; no weights are read.

    Args:
        config: of a model with a transformer, complete. settings: of each of them; of a refined one with its `start`.
        count: of samples: windows of a clip, times views. devices: that share them, all like the first one.

    Raises:
        ValueError: for a config that cannot be built, and as `sampling.model_calls`.
    """
    model = backbone.build(config)
    calls, operations = counted(model, memory.parameter_shapes(config), settings, model.method is not None)
    kind = jax.local_devices()[0].device_kind
    return Cost(count * calls, count * operations, chips.name(kind) or REFERENCE, devices)


def tell(
    config: Any,
    settings: sampling.Settings,
    count: int = 1,
    devices: int = 1,
    *,
    say: Callable[[str], None] = print,
) -> Cost:
    """Say in one line what `of_samples` tells, and return it."""
    found = of_samples(config, settings, count, devices)
    many = "the sample" if count == 1 else f"{count} samples"
    say(f"cost of {many}: {found}")
    return found
