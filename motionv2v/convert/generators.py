"""Published image-to-video models, whose config tells no method, as what they are here: a base that is given frames."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from motionv2v.convert import autoencoder, networks, stream
from motionv2v.methods import interpolation


def reads_image(config: Any) -> bool:
    """Tell whether a config is that of such a model: an image's channels beside the noise, no branch and no method."""
    if "dit" not in config or "method" in config:
        return False
    return config.dit.in_channels == 2 * config.dit.out_channels and not config.dit.control_depth


def as_generator(config: Any, folder: Path, image_scale: float | None = None) -> ConfigDict:
    """Describe a published image-to-video model, whose config tells no method, as a generator.

    Args:
        config: of the model. folder: where it lies, as launch/convert.py made it.
        image_scale: what an image's latents are multiplied by; None reads it from what the folder keeps.

    Raises:
        ValueError: for a model without an image's input channels.
    """
    inputs = 2 * config.vae.latent_channels
    channels = config.dit.in_channels if "dit" in config else 0
    if channels != inputs:
        raise ValueError(
            f"{folder} holds a model ({config.name}) with {channels} input channels; interpolation needs one of "
            f"configs/interpolation_*.py, or CogVideoX-I2V with {inputs}"
        )
    kept, factor = folder / stream.KEPT / "vae" / networks.CONFIG, config.vae.scaling_factor
    if image_scale is None:
        image_scale = autoencoder.image_scale(json.loads(kept.read_text())) if kept.is_file() else factor
    config = ConfigDict(config)
    config.method = ConfigDict(interpolation.released_settings(image_scale / factor))
    return config
