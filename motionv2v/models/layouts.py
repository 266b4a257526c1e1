"""How published checkpoints hold what a method adds to its base: plain tables that `convert` reads in both directions.

A method's own layouts stand in its file, `methods/<name>.py`; `convert` knows the base and asks no method's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from motionv2v.models.dit import DiT
from motionv2v.typing import AnyArray, Float

Shapes = Mapping[str, tuple[int, ...]]
"""{name of a tensor in the file: its shape}."""


class Trim(NamedTuple):
    """What of a checkpoint carries nothing.

    Attributes:
        config: the config.json that the rest has. without: names of tensors to leave out.
        inputs: {name of a tensor: how many entries of its second axis count}; the others are zero.
        notice: a sentence for whoever converts.
    """

    config: dict[str, Any]
    without: tuple[str, ...]
    inputs: Mapping[str, int]
    notice: str


class Layout(NamedTuple):
    """How the code that a checkpoint came with names a control branch and a conditioner beside the base's tensors.

    Names are those of the file's tensors up to `.weight` and `.bias`; paths are those of a `Denoiser`'s tree, as in
    "dit/control/zero_in". `{i}` counts the branch's blocks.

    Attributes:
        name: of the layout. mark: what one of its names begins with, and none of the base's.
        suffix, prefix: what stands behind, and may stand before, diffusers' names of classes.
        depth_key: the entry of config.json that counts the branch's blocks. depth: its value if it is left out.
        wiring: of the branch, as `DiT.control_wiring`.
        linears: {name: path} of linear layers. blocks: {name: path} of stacks of transformer blocks.
        patches: {name: path} of patch embeddings.
        copies: {name: path} of linear layers that change no output: not read, and written as copies of the path's.
        positions: of the base, where only some are possible, as `DiT.positions`; such a base has no patches in time.
        conditioner: the class of its module; None where what steers passes the transformer's own patch embedding.
        make_conditioner: (the transformer, the file's shapes) -> the module.
        example: (the module, latents [1 t h w z]) -> conditions it can be initialised with.
        section: (the module) -> the `method` section of a config for weights of this layout.
        trim: (config.json, shapes, a reader of tensors by name) -> what carries nothing, or None.
    """

    name: str
    mark: str
    suffix: str
    depth_key: str
    depth: int
    wiring: str
    linears: Mapping[str, str]
    blocks: Mapping[str, str]
    prefix: str = ""
    patches: Mapping[str, str] = {}
    copies: Mapping[str, str] = {}
    positions: tuple[str, ...] = ()
    conditioner: type[nn.Module] | None = None
    make_conditioner: Callable[[DiT, Shapes], nn.Module] | None = None
    example: Callable[[Any, Float[AnyArray, "1 t h w z"]], dict[str, Any]] | None = None
    section: Callable[[Any], dict[str, Any]] | None = None
    trim: Callable[[dict[str, Any], Shapes, Callable[[str], np.ndarray]], Trim | None] | None = None
