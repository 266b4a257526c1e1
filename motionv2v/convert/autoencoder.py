"""diffusers' AutoencoderKLCogVideoX: its config and the names of its tensors."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from motionv2v.convert import fields
from motionv2v.convert.rules import SAME, Rule, conv, norm, point_conv
from motionv2v.convert.tensors import ConvertError
from motionv2v.models.vae.autoencoder import VAE

CLASS = "AutoencoderKLCogVideoX"

_BLOCKS = {"down_block_types": "CogVideoXDownBlock3D", "up_block_types": "CogVideoXUpBlock3D"}
_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": (_BLOCKS["down_block_types"],) * 4,
    "up_block_types": (_BLOCKS["up_block_types"],) * 4,
    "block_out_channels": (128, 256, 256, 512),
    "latent_channels": 16,
    "layers_per_block": 3,
    "act_fn": "silu",
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "temporal_compression_ratio": 4,
    "scaling_factor": 1.15258426,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_SIZES = {
    "layers_per_block": "layers_per_block",
    "latent_channels": "latent_channels",
    "norm_groups": "norm_num_groups",
    "in_channels": "in_channels",
    "temporal_compression": "temporal_compression_ratio",
}
"""Our field -> the name in config.json."""
_SUPPORTED = {
    "act_fn": ("silu", "swish"),
    # Half of diffusers' norms have this number built in, whatever the config says.
    "norm_eps": (1e-6,),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "use_quant_conv": (False,),
    "use_post_quant_conv": (False,),
}
_UNUSED = ("sample_size", "sample_height", "sample_width", "force_upcast", "invert_scale_latents")
"""Sizes of tiles, a wish about number types, and how callers scale an image's latents: no matter of the module's."""


def from_config(config: Mapping[str, Any]) -> VAE:
    """Build the module that a config.json describes. Raises ConvertError for values that are not supported."""
    fields.refuse_unknown(config, (*_DEFAULTS, *_UNUSED), CLASS)
    values = fields.read(config, _DEFAULTS, _SUPPORTED, CLASS)
    channels = tuple(fields.whole_number(c, "block_out_channels", CLASS) for c in values["block_out_channels"])
    for name, block in _BLOCKS.items():
        if tuple(values[name]) != (block,) * len(channels):
            raise ConvertError(f"{CLASS}: {name} is {values[name]}; supported: {block} for all {len(channels)} levels")
    if values["in_channels"] != values["out_channels"]:
        raise ConvertError(
            f"{CLASS}: in_channels is {values['in_channels']} and out_channels is {values['out_channels']}; "
            "supported: the same number"
        )
    sizes = {ours: fields.whole_number(values[theirs], theirs, CLASS) for ours, theirs in _SIZES.items()}
    scale = fields.positive(values["scaling_factor"], "scaling_factor", CLASS)
    return VAE(block_channels=channels, eps=values["norm_eps"], scaling_factor=scale, **sizes)


def image_scale(config: Mapping[str, Any]) -> float:
    """Return what an image's latents are multiplied by in image-to-video: CogVideoX 1.5 divides by the usual factor."""
    factor = fields.read(config, _DEFAULTS, {}, CLASS)["scaling_factor"]
    return 1 / factor if config.get("invert_scale_latents") else factor


def to_config(module: VAE) -> dict[str, Any]:
    """Write the config.json of a module. Raises ConvertError for settings that diffusers does not have."""
    released = {"num_sample_frames_batch_size": 8, "num_latent_frames_batch_size": 2, "eps": 1e-6}
    for name, value in released.items():
        # diffusers has these built in, and the norms depend on them.
        if getattr(module, name) != value:
            raise ConvertError(f"VAE: {name} is {getattr(module, name)}; diffusers' {CLASS} has {value} only")
    levels = len(module.block_channels)
    return {
        "_class_name": CLASS,
        "act_fn": "silu",
        "block_out_channels": list(module.block_channels),
        **{name: [block] * levels for name, block in _BLOCKS.items()},
        **{theirs: getattr(module, ours) for ours, theirs in _SIZES.items()},
        "norm_eps": module.eps,
        "out_channels": module.in_channels,
        "scaling_factor": module.scaling_factor,
    }


def example(module: VAE) -> tuple[Any, ...]:
    """Make the smallest input of a module, to learn its parameters' shapes."""
    side = module.spatial_compression
    return (jnp.zeros((1, 1, side, side, module.in_channels)),)


def rules(module: VAE) -> list[Rule]:
    """List how diffusers' tensors become our leaves."""
    channels, last = module.block_channels, len(module.block_channels) - 1
    found = _causal("encoder.conv_in", "encoder/conv_in")
    before = channels[0]
    for i, width in enumerate(channels):
        for j in range(module.layers_per_block):
            there, here = f"encoder.down_blocks.{i}.resnets.{j}", f"encoder/down_blocks_{i}_resnets_{j}"
            found += _resnet(there, here, shortcut=before != width, spatial=False)
            before = width
        if i < last:
            found += _frame_conv(f"encoder.down_blocks.{i}.downsamplers.0", f"encoder/down_blocks_{i}_downsamplers_0")
    for part, spatial in (("encoder", False), ("decoder", True)):
        for j in range(2):
            there, here = f"{part}.mid_block.resnets.{j}", f"{part}/mid_block_resnets_{j}"
            found += _resnet(there, here, shortcut=False, spatial=spatial)
        found += _norm(f"{part}.norm_out", f"{part}/norm_out", spatial) + _causal(
            f"{part}.conv_out", f"{part}/conv_out"
        )
    found += _causal("decoder.conv_in", "decoder/conv_in")
    for i, width in enumerate(channels[::-1]):
        for j in range(module.layers_per_block + 1):
            there, here = f"decoder.up_blocks.{i}.resnets.{j}", f"decoder/up_blocks_{i}_resnets_{j}"
            found += _resnet(there, here, shortcut=before != width, spatial=True)
            before = width
        if i < last:
            found += _frame_conv(f"decoder.up_blocks.{i}.upsamplers.0", f"decoder/up_blocks_{i}_upsamplers_0")
    return found


def _causal(there: str, here: str) -> list[Rule]:
    return [
        Rule(f"{there}.conv.weight", f"{here}/kernel", conv(3)),
        Rule(f"{there}.conv.bias", f"{here}/bias", SAME),
    ]


def _frame_conv(there: str, here: str) -> list[Rule]:
    return [
        Rule(f"{there}.conv.weight", f"{here}/kernel", conv(2)),
        Rule(f"{there}.conv.bias", f"{here}/bias", SAME),
    ]


def _point(there: str, here: str) -> list[Rule]:
    return [Rule(f"{there}.weight", f"{here}/kernel", point_conv(3)), Rule(f"{there}.bias", f"{here}/bias", SAME)]


def _norm(there: str, here: str, spatial: bool) -> list[Rule]:
    """A group norm, or one that the latents modulate through two convolutions of single pixels."""
    if not spatial:
        return norm(there, here)
    maps = [rule for name in ("conv_y", "conv_b") for rule in _point(f"{there}.{name}.conv", f"{here}/{name}")]
    return norm(f"{there}.norm_layer", f"{here}/norm_layer") + maps


def _resnet(there: str, here: str, *, shortcut: bool, spatial: bool) -> list[Rule]:
    found = _point(f"{there}.conv_shortcut", f"{here}/conv_shortcut") if shortcut else []
    for i in (1, 2):
        found += _norm(f"{there}.norm{i}", f"{here}/norm{i}", spatial) + _causal(f"{there}.conv{i}", f"{here}/conv{i}")
    return found
