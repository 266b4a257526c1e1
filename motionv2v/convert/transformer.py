"""CogVideoX's transformer in diffusers' form and in ours: its config.json and the names and layouts of its weights.

The layout `diffusers` is CogVideoXTransformer3DModel, every published size of it. Those that add a control branch or a
conditioner to it are the methods' own business (`methods.layouts`): MotionV2V's and Diffusion-as-Shader's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import numpy as np

from motionv2v import methods
from motionv2v.convert.rules import SAME, Op, Rule, linear, norm
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT
from motionv2v.models.layouts import Layout

CLASS = "CogVideoXTransformer3DModel"
BASE = "diffusers"
"""The layout without branch and conditioner."""

_SIZES = {
    "num_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "attention_head_dim": "head_dim",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "text_embed_dim": "text_dim",
    "max_text_seq_length": "text_length",
    "patch_size": "patch_size",
    "patch_size_t": "patch_size_t",
    "time_embed_dim": "time_embed_dim",
    "ofs_embed_dim": "ofs_embed_dim",
}
_OPTIONAL = ("patch_size_t", "ofs_embed_dim")
_SCALES = ("spatial_interpolation_scale", "temporal_interpolation_scale")
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "temporal_compression_ratio": 4,
    "timestep_activation_fn": "silu",
}
_SAMPLE = {"sample_frames": 49, "sample_height": 60, "sample_width": 90}
_POSITIONS = {(False, False): "sincos", (True, False): "rope", (True, True): "rope+learned"}
"""(use_rotary_positional_embeddings, use_learned_positional_embeddings) -> our setting."""


def from_config(config: dict[str, Any]) -> DiT:
    """Build the module that a transformer/config.json describes; a key that is missing has diffusers' default.

    Args:
        config: the file's content. A class of a method's layout, or its number of blocks (`num_tracking_blocks`), asks
            for a control branch.

    Returns:
        The module, float32, at the pipeline's positions for every size of clip (`sample_size` is set).

    Raises:
        ValueError: for a key that is unknown or a value that is not supported, saying what is.
    """
    known = {*_SIZES, *_SCALES, *_FIXED, *_SAMPLE, "patch_bias", *(layout.depth_key for layout in methods.layouts())}
    known |= {f"use_{kind}_positional_embeddings" for kind in ("rotary", "learned")}
    # Names with an underscore are diffusers' notes about the file; an unknown setting that is off changes nothing.
    unknown = sorted(key for key in config if key not in known and key[0] != "_" and config[key] not in (None, False))
    if unknown:
        raise ValueError(
            f"transformer config has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}."
        )
    name = plain_class(config.get("_class_name", CLASS))
    if name not in classes():
        raise ValueError(f"transformer config is of class {name!r}; supported: {', '.join(classes())}.")
    for key, supported in _FIXED.items():
        if config.get(key, supported) != supported:
            raise ValueError(f"transformer config has {key}={config[key]!r}; supported: {supported!r}.")

    fields = {ours: _size(config, key) for key, ours in _SIZES.items() if key in config}
    fields |= {key: _scale(config, key) for key in _SCALES if key in config}
    if not config.get("patch_bias", True) and config.get("patch_size_t") is None:
        raise ValueError("transformer config has patch_bias=False, which is supported only together with patch_size_t.")
    fields["positions"] = _positions(config)
    fields["sample_size"] = _sample_size(config)
    for layout in methods.layouts():
        if name == CLASS + layout.suffix or layout.depth_key in config:
            depth = _size({layout.depth_key: layout.depth, **config}, layout.depth_key)
            fields |= {"control_depth": depth, "control_wiring": layout.wiring}
    module = DiT(**fields)
    module.check_settings()
    return module


def to_config(model: nn.Module) -> dict[str, Any]:
    """Describe a model as the config.json from which diffusers builds the same.

    Args:
        model: a `DiT`, or a `Denoiser` of one; with `sample_size` set, since diffusers' pipeline reads the default size
            of a clip, and RoPE's positions at other sizes, from it. A control branch makes it a config of the class
            that goes with its layout.

    Raises:
        ValueError: for a setting that diffusers does not have.
    """
    module, layout = _parts(model)[0], layout_of(model)
    if module.mlp_ratio != 4:
        raise ValueError(f"diffusers' transformer has mlp_ratio=4 only, got mlp_ratio={module.mlp_ratio}.")
    if tuple(module.axes) != ("thw",) or module.lora_rank:
        raise ValueError(
            "diffusers' transformer attends over everything at once and holds no low-rank updates; got "
            f"axes={module.axes} and lora_rank={module.lora_rank}"
        )
    if module.sample_size is None:
        raise ValueError(
            "sample_size is not set; diffusers needs the (frames, height, width) in latents that the model was made "
            "for, for example module.clone(sample_size=(13, 60, 90))."
        )
    module.check_settings()
    frames, height, width = module.sample_size
    rotary, learned = next(flags for flags, name in _POSITIONS.items() if name == module.positions)
    config = {"_class_name": CLASS, "_diffusers_version": "0.32.0", **_FIXED}
    config |= {key: getattr(module, ours) for key, ours in _SIZES.items()}
    config |= {key: getattr(module, key) for key in _SCALES}
    config |= {
        # Without effect for patches in time, whose embedding always has a bias; False is what 1.5 was released with.
        "patch_bias": module.patch_size_t is None,
        "sample_frames": (frames - 1) * _FIXED["temporal_compression_ratio"] + 1,
        "sample_height": height,
        "sample_width": width,
        "use_learned_positional_embeddings": learned,
        "use_rotary_positional_embeddings": rotary,
    }
    if layout is not None and module.control_depth:
        _check_wiring(module, layout)
        config |= {"_class_name": CLASS + layout.suffix, layout.depth_key: module.control_depth}
    return config


def classes() -> tuple[str, ...]:
    """List the classes of transformers that are read: diffusers', and those of the methods' layouts."""
    return tuple(dict.fromkeys([CLASS, *(CLASS + layout.suffix for layout in methods.layouts())]))


def plain_class(name: str) -> str:
    """Return a class's name without what a layout's code puts before it."""
    for layout in methods.layouts():
        name = name.removeprefix(layout.prefix)
    return name


def layout_of(model: nn.Module) -> Layout | None:
    """Return the layout that holds a model: None for a bare transformer, which diffusers has itself.

    Raises:
        ValueError: if no layout has the model's conditioner.
    """
    module, conditioner = _parts(model)
    if conditioner is None and not module.control_depth:
        return None
    for layout in methods.layouts():
        if layout.conditioner is (None if conditioner is None else type(conditioner)):
            return layout
    kind = type(conditioner)
    raise ValueError(f"a model that is conditioned by {kind.__module__}.{kind.__name__} has no form in diffusers.")


def rules(module: DiT, layout: str = BASE) -> list[Rule]:
    """Return the table between a layout's tensors and our tree: each tensor once, each leaf once.

    For a layout without conditioner the tree is the DiT's own, for one with a conditioner that of a `Denoiser`:
    {"dit": ..., "conditioner": ...}.

    Args:
        module: the DiT; with a control branch for every layout but `diffusers`.
        layout: "diffusers", or the name of a method's layout.

    Raises:
        ValueError: for an unknown layout, or a module that the layout cannot hold.
    """
    known = {other.name: other for other in methods.layouts()}
    if layout != BASE and layout not in known:
        raise ValueError(f"layout {layout!r} is unknown; available: {', '.join((BASE, *known))}.")
    module.check_settings()
    if layout != BASE:
        return _layout_rules(module, known[layout])
    if module.control_depth:
        raise ValueError(
            f"layout {BASE!r} has no control branch, the module has control_depth={module.control_depth}; use "
            f"{' or '.join(map(repr, known))}, or the base alone: module.clone(control_depth=0) and dit.base_params."
        )
    return _main_rules(module)


def find_layout(names: Iterable[str]) -> Layout | None:
    """Tell a method's layout from the names of a checkpoint's tensors; None if they are no method's."""
    names = set(names)
    marked = (one for one in methods.layouts() if any(name.startswith(one.mark) for name in names))
    return next(marked, None)


def detect_layout(names: Iterable[str]) -> str:
    """Tell the layout's name from the names of a checkpoint's tensors.

    Raises:
        ValueError: when they are not a CogVideoX transformer's, with a few of them.
    """
    names = set(names)
    found = find_layout(names)
    if found is not None:
        return found.name
    if any(name.startswith("transformer_blocks.0.") for name in names):
        return BASE
    shown = ", ".join(sorted(names)[:3]) or "none"
    raise ValueError(f"tensors named {shown} are not a CogVideoX transformer's; expected transformer_blocks.0. ...")


def _main_rules(module: DiT) -> list[Rule]:
    table = [
        Rule("patch_embed.proj.weight", "patch_embed/kernel", _patches(module)),
        Rule("patch_embed.proj.bias", "patch_embed/bias", SAME),
        *linear("patch_embed.text_proj", "text_embed"),
        *linear("time_embedding.linear_1", "time_in"),
        *linear("time_embedding.linear_2", "time_out"),
        *_block_rules("transformer_blocks", "blocks", module.num_layers),
        *norm("norm_final", "final_norm"),
        *linear("norm_out.linear", "out_modulation"),
        *norm("norm_out.norm", "out_norm"),
        *linear("proj_out", "out"),
    ]
    if module.positions == "rope+learned":
        table.append(Rule("patch_embed.pos_embedding", "position_table", Op(lambda x: x[0], lambda x: x[None])))
    if module.ofs_embed_dim is not None:
        table += linear("ofs_embedding.linear_1", "ofs_in") + linear("ofs_embedding.linear_2", "ofs_out")
    return table


def _layout_rules(module: DiT, layout: Layout) -> list[Rule]:
    """List the rules of a method's layout: the base's, and those of what it adds."""
    if not module.control_depth:
        raise ValueError(f"layout {layout.name!r} is for a control branch, the module has control_depth=0.")
    if module.control_branches != 1:
        raise ValueError(f"layout {layout.name!r} has one control branch, the module has {module.control_branches}.")
    if layout.positions and (module.positions not in layout.positions or module.patch_size_t is not None):
        raise ValueError(
            f"layout {layout.name!r} is supported with positions={' or '.join(map(repr, layout.positions))} and "
            f"patch_size_t=None, as its text-to-video base has them; got positions={module.positions!r} and "
            f"patch_size_t={module.patch_size_t}."
        )
    _check_wiring(module, layout)
    table = [rule._replace(target=f"dit/{rule.target}") for rule in _main_rules(module)]
    for theirs, ours in layout.linears.items():
        table += linear(theirs, ours, module.control_depth if "{i}" in theirs else 0)
    for theirs, ours in layout.blocks.items():
        table += _block_rules(theirs, ours, module.control_depth)
    for theirs, ours in layout.patches.items():
        table.append(Rule(f"{theirs}.weight", f"{ours}/kernel", _patches(module)))
        table.append(Rule(f"{theirs}.bias", f"{ours}/bias", SAME))
    for theirs, ours in layout.copies.items():
        table.append(Rule(f"{theirs}.weight", "", SAME, fill=_copy(f"{ours}/kernel", np.transpose)))
        table.append(Rule(f"{theirs}.bias", "", SAME, fill=_copy(f"{ours}/bias", np.asarray)))
    if layout.conditioner is not None:
        return table
    return [rule._replace(target=rule.target.removeprefix("dit/")) for rule in table]


def _copy(path: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    return lambda leaves: change(leaves[path])


def _block_rules(source: str, target: str, depth: int) -> list[Rule]:
    linears = {
        "norm1.linear": "attention_modulation",
        "attn1.to_q": "attention/q",
        "attn1.to_k": "attention/k",
        "attn1.to_v": "attention/v",
        "attn1.to_out.0": "attention/o",
        "norm2.linear": "mlp_modulation",
        "ff.net.0.proj": "mlp_up",
        "ff.net.2": "mlp_down",
    }
    norms = {
        "norm1.norm": "attention_norm",
        "attn1.norm_q": "attention/q_norm",
        "attn1.norm_k": "attention/k_norm",
        "norm2.norm": "mlp_norm",
    }
    table = []
    for make, names in ((linear, linears), (norm, norms)):
        for theirs, ours in names.items():
            table += make(f"{source}.{{i}}.{theirs}", f"{target}/{ours}", depth)
    return table


def _patches(module: DiT) -> Op:
    """Return the change for a patch embedding's weight.

    There it is a convolution, [D C row column], or for patches in time a Linear layer over (channel, frame, row,
    column); here it is always a Linear layer over (frame, row, column, channel).
    """
    frames, side = module.patch[0], module.patch_size

    def load(x):
        return x.reshape(len(x), -1, frames, side, side).transpose(2, 3, 4, 1, 0).reshape(-1, len(x))

    def save(x):
        return x.reshape(frames, side, side, -1, x.shape[-1]).transpose(4, 3, 0, 1, 2)

    if module.patch_size_t is None:
        return Op(load, lambda x: save(x).reshape(x.shape[-1], -1, side, side))
    return Op(load, lambda x: save(x).reshape(x.shape[-1], -1))


def _size(config: dict[str, Any], key: str) -> int | None:
    value = config[key]
    if value is None and key in _OPTIONAL:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        none = " or null" if key in _OPTIONAL else ""
        raise ValueError(f"transformer config has {key}={value!r}; supported: a whole number from 1{none}.")
    return value


def _scale(config: dict[str, Any], key: str) -> float:
    value = config[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"transformer config has {key}={value!r}; supported: a number above 0.")
    return float(value)


def _positions(config: dict[str, Any]) -> str:
    flags = tuple(bool(config.get(f"use_{kind}_positional_embeddings", False)) for kind in ("rotary", "learned"))
    if flags not in _POSITIONS:
        raise ValueError(
            "transformer config has learned positions without rotary ones; supported: rotary, both, or neither."
        )
    return _POSITIONS[flags]


def _sample_size(config: dict[str, Any]) -> tuple[int, int, int]:
    frames, height, width = (_size({**_SAMPLE, **config}, key) for key in _SAMPLE)
    ratio = _FIXED["temporal_compression_ratio"]
    if frames % ratio != 1:
        raise ValueError(f"transformer config has sample_frames={frames}; supported: {ratio}k + 1.")
    return frames // ratio + 1, height, width


def _check_wiring(module: DiT, layout: Layout) -> None:
    if module.control_wiring != layout.wiring:
        raise ValueError(
            f"layout {layout.name!r} means control_wiring={layout.wiring!r}, the module has "
            f"{module.control_wiring!r}: code that reads it would compute something else."
        )


def _parts(model: nn.Module) -> tuple[DiT, nn.Module | None]:
    """Return a model's transformer and its conditioner."""
    return (model.dit, model.conditioner) if isinstance(model, Denoiser) else (model, None)
