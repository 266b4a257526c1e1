"""Count the floating-point operations of the transformer, and how much of a device's peak a run uses.

A multiply-add is two operations. With N tokens (text and video), V of them video, width D, a feed-forward layer of r D:

    linear layers of a block      (8 + 4 r) N D^2          queries, keys, values, output; feed-forward up and down
    attention of a block          4 N^2 D                  scores and their sum over values
    zero layers of a branch       2 V D^2 each             one before its blocks and one after every block

    attention within frames (`axes` "hw")   4 N^2 D / t, with the text once a frame; along time ("t") 4 V t D
    conditioner and low-rank updates        2 V times the numbers in their kernels

Training counts what the mathematics needs, and no more: a backward pass needs the gradient to a layer's input (as many
operations as forward) and, where the layer trains, to its weights (as many again); attention has no weights, and needs
twice its forward operations. Frozen layers in front of everything that trains need no backward pass at all. Work that
is repeated to save memory does not count, nor do text encoder and autoencoder, which cached data leave out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from motionv2v import parameters
from motionv2v.typing import PyTree

LORA = ("lora", "lora_branch")
"""Low-rank updates in a transformer's tree: of the main blocks, and of the control branch's."""


class Count(NamedTuple):
    """Operations of one sample: linear layers and attention of the main blocks and of the branch, and the rest.

    `lora` and `conditioner` are what a method's further weights cost.
    """

    main_linear: float
    main_attention: float
    branch_linear: float
    branch_attention: float
    zero_layers: float
    ends: float
    lora: float = 0.0
    conditioner: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum."""
        return float(sum(self))


def forward(
    dit: Any, grid: Sequence[int], text_length: int, use_control: bool = True, params: PyTree | None = None
) -> Count:
    """Count one forward pass of one sample.

    Args:
        dit: a `models.dit.DiT`, or anything with its fields.
        grid: (t, h, w) of the latents. text_length: tokens of text.
        use_control: whether conditioner and control branch run.
        params: the model's tree, or its shapes: low-rank updates and conditioner are counted of it; None for neither.
    """
    width, patch = dit.width, dit.patch
    sides = [length // side for length, side in zip(grid, patch, strict=True)]
    video = math.prod(sides)
    tokens = video + text_length
    # Projections and feed-forward; every attention has projections of its own.
    linear = (8 * len(dit.axes) + 4 * dit.mlp_ratio) * tokens * width**2
    # Modulated norms, each from one vector per sample to six vectors.
    modulation = (len(dit.axes) + 1) * 2 * dit.time_embed_dim * 6 * width
    per_frame = video // sides[0] + text_length
    pairs = {"thw": tokens**2, "hw": sides[0] * per_frame**2, "t": video * sides[0]}
    attention = 4 * width * sum(pairs[along] for along in dit.axes)
    branches = dit.control_branches if use_control and dit.control_depth else 0
    depth = dit.control_depth * branches
    ends = 2 * video * width * math.prod(patch) * (dit.in_channels + dit.out_channels)
    ends += 2 * text_length * dit.text_dim * width
    ends += 2 * width * dit.time_embed_dim + 2 * dit.time_embed_dim**2 + 2 * dit.time_embed_dim * 2 * width
    params = params or {}
    updates = {name: params.get("dit", {}).get(name, {}) for name in LORA}
    return Count(
        dit.num_layers * (linear + modulation),
        dit.num_layers * attention,
        depth * (linear + modulation),
        depth * attention,
        (depth + branches) * 2 * video * width**2,
        ends,
        2 * tokens * _size(updates),
        2 * video * _size(params.get("conditioner", {}), "kernel") if use_control else 0.0,
    )


def _size(tree: PyTree, ending: str = "") -> float:
    return float(sum(math.prod(x.shape) for path, x in parameters.flatten(tree).items() if path.endswith(ending)))


def train_step(
    dit: Any, grid: Sequence[int], text_length: int, params: PyTree, schedule: Sequence[tuple[str, Any]]
) -> float:
    """Count one training step of one sample; what trains follows from the schedule.

    A branch is added after main block 0, so that block needs no backward pass when the main blocks are frozen. Low-rank
    updates and motion embeddings in block 0 leave it out too, but for what is behind the first of them in it.

    Args:
        dit, grid, text_length: as for `forward`. params: the model's tree, or its shapes.
        schedule: as `parameters.partition` takes it.
    """
    trainable, _ = parameters.partition(params, schedule)
    paths = parameters.flatten({name: tree for name, tree in trainable.items() if name in ("dit", "conditioner")})
    trains = {"/".join(path.split("/")[:2]) if path.startswith("dit/") else "conditioner" for path in paths}
    count = forward(dit, grid, text_length, params=params)
    of_lora = {f"dit/{name}" for name in LORA}
    if not trains <= {"dit/control", *of_lora, "conditioner"}:
        return 3 * count.total
    behind = (dit.num_layers - 1) / dit.num_layers if trains else 0.0
    passed = behind * (count.main_linear + 2 * count.main_attention + count.lora)
    # Gradients to the inputs of the branch's layers, and to the weights of what trains.
    if trains & {"dit/control", "dit/lora_branch", "conditioner"}:
        passed += count.branch_linear + 2 * count.branch_attention + count.zero_layers
    weights = count.branch_linear + count.zero_layers if "dit/control" in trains else 0.0
    weights += count.lora if trains & of_lora else 0.0
    weights += count.conditioner if "conditioner" in trains else 0.0
    return count.total + passed + weights
