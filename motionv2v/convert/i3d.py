"""I3D of FVD from the files in which its weights are passed on: magvit's, StyleGAN-V's, VideoGPT's; without torch.

    network = i3d.load(Path("weights"))
    i3d.clip_features(network.module, network.params, frames)        # of models.features

All three were made from TF-Hub's deepmind/i3d-kinetics-400, whose batch norms have no gains. The same architecture was
also published with other weights, under the same names and shapes, and FVDs of those were published by mistake. No
checksum of any of these files is known here, so all are marked "unverified", and a file is taken on its own where its
container is its maker's alone: magvit's msgpack (`.flax`), StyleGAN-V's TorchScript archive. A plain state dict needs
the word of whoever has it, `origin="tfhub"`.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import serialization, traverse_util

from motionv2v import files, parameters
from motionv2v.convert import pickled
from motionv2v.convert.published import Published, Source, choose, gather
from motionv2v.convert.rules import SAME, Rule, conv
from motionv2v.convert.tensors import Arrays, ConvertError, Tensors, load_leaves, match
from motionv2v.models.features import i3d
from motionv2v.typing import PyTree

ENDINGS = (".flax", ".pt", ".pth", ".safetensors")
ORIGINS = ("tfhub",)
PUBLISHED = Published(
    "i3d_torchscript.pt",
    "",
    "the place that github.com/universome/stylegan-v names in src/metrics/frechet_video_distance.py; magvit's "
    "i3d_k400.flax serves as well",
    "TF-Hub's deepmind/i3d-kinetics-400, Apache-2.0",
)

LAYOUTS = {
    "VideoGPT": ("Conv3d_1a_7x7.conv3d.weight", "bn", ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), "logits"),
    "StyleGAN-V": (
        "conv3d_1a_7x7.conv3d.weight",
        "batch3d",
        ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
        "conv3d_0c_1x1",
    ),
}
"""By who uses it: a tensor that tells it, the norms' name, those of `i3d.BRANCHES`, and of the last convolution."""


class Network(NamedTuple):
    """A network to measure with: the module, its parameters, and the file."""

    module: i3d.I3d
    params: PyTree
    source: Source


class Found(NamedTuple):
    """A file that was recognised; `layout` is one of `LAYOUTS`, or "magvit" where names are this package's."""

    layout: str
    source: Source
    tensors: Tensors


def load(weights: Path, origin: str | None = None) -> Network:
    """Load I3D from a folder that holds one file of it, under whatever name; folders in it are not searched.

    Args:
        weights: the folder. origin: "tfhub" where you know that a plain state dict was made from TF-Hub's weights.

    Raises:
        ConvertError: a ValueError of one line: when the file is missing (which, where it goes, where it is published
            and under which licence), refused, or there are several.
        ValueError: for another origin.
    """
    if origin not in (None, *ORIGINS):
        raise ValueError(f"unknown origin of I3D {origin!r}; available: {', '.join(ORIGINS)}")
    weights = Path(weights)
    found, refused = gather(weights, ENDINGS, lambda path: recognise(path, origin))
    chosen = choose(weights, found, refused, "I3D", "", PUBLISHED)
    leaves = load_leaves(chosen.tensors, rules(chosen.layout), i3d.parameter_shapes())
    return Network(i3d.I3d(), parameters.unflatten(leaves), chosen.source)


def recognise(path: Path, origin: str | None = None) -> Found | None:
    """Say what a file is to I3D; None when it has nothing to do with it.

    Raises:
        ConvertError: in one line, for a file that cannot be read, one whose weights may be others (`origin`), and one
            that has I3D's names and other tensors, or gains in its norms.
    """
    is_script = path.suffix != ".flax" and pickled.is_scripted(path)
    if path.suffix == ".flax":
        tensors = _magvit(path)
        layout = "magvit" if tensors is not None else None
    else:
        tensors = pickled.open_scripted(path) if is_script else pickled.open_state_dict(path)
        layout = next((name for name, (mark, *_) in LAYOUTS.items() if mark in tensors), None)
        tensors = tensors.trimmed([name for name in tensors if name.endswith("num_batches_tracked")], {})
    if layout is None:
        return None
    _check(tensors, layout)
    if layout != "magvit" and not is_script and origin != "tfhub":
        raise ConvertError(
            f"{path} may hold I3D's weights of TF-Hub, which FVD needs, or others of the same names and shapes "
            "(piergiaj's rgb_imagenet.pt, hassony2's model_rgb.pth): if you know it to be made from TF-Hub's, such as "
            "i3d_pretrained_400.pt, say --i3d_source=tfhub"
        )
    return Found(layout, Source(path.name, files.sha256(path), False), tensors)


def rules(layout: str) -> list[Rule]:
    """Return how the tensors of a layout become parameters of `models.features.i3d.I3d`."""
    if layout == "magvit":
        return [Rule(path, path, SAME) for path in i3d.parameter_shapes()]
    _, norm, branches, last = LAYOUTS[layout]
    found = [
        Rule(f"{last}.conv3d.weight", f"{i3d.LOGITS}/conv_3d/kernel", conv(3)),
        Rule(f"{last}.conv3d.bias", f"{i3d.LOGITS}/conv_3d/bias", SAME),
    ]
    for layer in i3d.LAYERS:
        if isinstance(layer, i3d.Pool):
            continue
        # Torch's names of StyleGAN-V's file begin in lower case.
        name = layer.name if layout == "VideoGPT" else layer.name.lower()
        units = {name: layer.name}
        if isinstance(layer, i3d.Mixed):
            pairs = zip(branches, i3d.BRANCHES, strict=True)
            units = {f"{name}.{theirs}": f"{layer.name}/{ours}" for theirs, ours in pairs}
        for theirs, ours in units.items():
            found += _unit(theirs, norm, ours)
    return found


_STATISTICS = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _unit(theirs: str, norm: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.conv3d.weight", f"{ours}/conv_3d/kernel", conv(3)),
        Rule(f"{theirs}.{norm}.weight", "", SAME),
        *(Rule(f"{theirs}.{norm}.{a}", f"{ours}/batch_norm/{b}", SAME) for a, b in _STATISTICS.items()),
    ]


def _check(tensors: Tensors, layout: str) -> None:
    """Raise ConvertError where a layout's tensors are not all there, of other shapes, or have gains that are not 1."""
    match(tensors, rules(layout), i3d.parameter_shapes())
    for rule in rules(layout):
        if rule.target or rule.source not in tensors:
            continue
        if not np.array_equal(gain := tensors.read(rule.source), np.ones_like(gain)):
            raise ConvertError(f"{tensors.where} has gains in its norms ({rule.source}), which TF-Hub's I3D has not")


def _magvit(path: Path) -> Tensors | None:
    """Read a file of flax' msgpack, which can hold containers and numbers alone; None if it is of another network."""
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat = traverse_util.flatten_dict(tree, sep="/")
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file may end in nearly every error there is
        raise ConvertError(f"{path} is damaged, or no msgpack of flax: copy it again") from error
    arrays = {re.sub("^params/", "", name): value for name, value in flat.items()}
    if "Conv3d_1a_7x7/conv_3d/kernel" not in arrays:
        return None
    if wrong := [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]:
        raise ConvertError(f"{path} holds no array at {wrong[0]}")
    return Arrays(arrays, path)
