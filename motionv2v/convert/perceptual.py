"""LPIPS from its published files: find them in a folder, know them, refuse what only looks like them, and load.

    network = perceptual.load(Path("weights"), "alex")
    lpips.frame_distances(network.module, network.params, video, truth)

A network is a trunk (torchvision's classifier, whose own last layers are not used) and heads (LPIPS' own), from two
files or from one saved `lpips.LPIPS`. Files are known by what they hold, not by their names: where the sha256 is that
of a published file it is verified; else names and shapes of the tensors decide, and it is marked "unverified", for the
heads of v0.0 and other trainings of a trunk have the same.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motionv2v import files, parameters
from motionv2v.convert import pickled
from motionv2v.convert.published import Published, Source, choose, gather
from motionv2v.convert.rules import SAME, Op, Rule, conv
from motionv2v.convert.tensors import ConvertError, Tensors, load_leaves, some
from motionv2v.models.features import lpips
from motionv2v.typing import PyTree

ENDINGS = (".pth", ".pt", ".safetensors")
PARTS = ("trunk", "heads")


def _trunk(name: str, sha256: str) -> Published:
    return Published(name, sha256, f"download.pytorch.org/models/{name}", "torchvision's, BSD-3-Clause")


def _heads(net: str, sha256: str) -> Published:
    origin = f"github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/{net}.pth"
    return Published(f"lpips_v0.1_{net}.pth", sha256, origin, "BSD-2-Clause")


PUBLISHED = {
    ("alex", "trunk"): _trunk("alexnet-owt-7be5be79.pth", "7be5be79"),
    ("vgg", "trunk"): _trunk("vgg16-397923af.pth", "397923af"),
    ("squeeze", "trunk"): _trunk("squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
    ("alex", "heads"): _heads("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ("vgg", "heads"): _heads("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    ("squeeze", "heads"): _heads("squeeze", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
}
"""By network and part. Of trunks, the 8 digits that end torchvision's names are all that is known here."""

LOOK_ALIKES = {
    "18720f55": "heads of LPIPS v0.0, which did not normalise pictures; v0.1 is needed",
    "b9e42362": "heads of LPIPS v0.0, which did not normalise pictures; v0.1 is needed",
    "c27abd3a": "heads of LPIPS v0.0, which did not normalise pictures; v0.1 is needed",
    "88682ab5": "torchvision's VGG16 of IMAGENET1K_FEATURES, trained on other colours; IMAGENET1K_V1 is needed",
}
"""What has the names and shapes of the right files and is not: by how its sha256 begins."""


class Network(NamedTuple):
    """A network to measure with: the module, its parameters, and the source of each of `PARTS`."""

    module: lpips.Lpips
    params: PyTree
    sources: dict[str, Source]


class Found(NamedTuple):
    """A file that was recognised: the network, and which of `PARTS` it holds; `tensors` have torchvision's names."""

    net: str
    parts: tuple[str, ...]
    source: Source
    tensors: Tensors


def load(weights: Path, net: str = "alex") -> Network:
    """Load LPIPS v0.1 from a folder that holds its files, under whatever names; folders in it are not searched.

    Args:
        weights: the folder. net: one of `lpips.TRUNKS`: "alex", "vgg" or "squeeze".

    Raises:
        ConvertError: a ValueError of one line: when a file is missing (which, where it goes, where it is published and
            under which licence), when only a look-alike is there, or several that cannot be told apart.
        ValueError: for another network.
    """
    if net not in lpips.TRUNKS:
        raise ValueError(f"unknown LPIPS network {net!r}; available: {', '.join(lpips.TRUNKS)}")
    weights = Path(weights)
    found, refused = gather(weights, ENDINGS, recognise)
    leaves, sources = {}, {}
    for part in PARTS:
        fitting = [file for file in found if file.net == net and part in file.parts]
        chosen = choose(weights, fitting, refused, f"LPIPS {net}", part, PUBLISHED[net, part])
        leaves |= _load_part(chosen, part)
        sources[part] = chosen.source
    return Network(lpips.Lpips(net), parameters.unflatten(leaves), sources)


def recognise(path: Path) -> Found | None:
    """Say what a file is to LPIPS; None when it has nothing to do with it.

    Raises:
        ConvertError: in one line, for a file that cannot be read, one that is known to be something else of the same
            names (heads of v0.0, VGG16 with batch norm, SqueezeNet 1.0), and one whose tensors fit no network.
    """
    tensors = pickled.open_state_dict(path)
    _check_scaling(tensors)
    tensors = _plain(tensors)
    if not any(re.match(r"features\.\d+\.|lin\d+\.model\.", name) for name in tensors):
        return None
    # Asked only now, for a folder of weights may hold large files that are others' business.
    digest = files.sha256(path)
    wrong = next((what for start, what in LOOK_ALIKES.items() if digest.startswith(start)), None)
    if wrong := wrong or _look_alike(tensors):
        raise ConvertError(f"{path} holds {wrong}")
    for net in lpips.TRUNKS:
        parts = tuple(part for part in PARTS if _fits(tensors, net, part))
        if parts and set(tensors) == {rule.source for part in parts for rule in rules(net, part)}:
            verified = len(parts) == 1 and digest.startswith(PUBLISHED[net, parts[0]].sha256)
            return Found(net, parts, Source(path.name, digest, verified), tensors)
    nets = ", ".join(lpips.TRUNKS)
    raise ConvertError(f"{path} holds {len(tensors)} tensors of no LPIPS network ({some(sorted(tensors))}): {nets}")


def rules(net: str, part: str) -> list[Rule]:
    """Return how the tensors of a part, by torchvision's and LPIPS' names, become parameters of `lpips.Lpips`."""
    trunk = lpips.TRUNKS[net]
    if part == "heads":
        return [Rule(f"lin{i}.model.1.weight", f"lin{i}", _HEAD) for i in range(len(trunk.taps()))]
    found = []
    for layer in trunk.layers:
        if isinstance(layer, lpips.Conv):
            found += _conv(f"features.{layer.index}", f"features_{layer.index}")
        elif isinstance(layer, lpips.Fire):
            for side in ("squeeze", "expand1x1", "expand3x3"):
                found += _conv(f"features.{layer.index}.{side}", f"features_{layer.index}/{side}")
    return found


_HEAD = Op(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))
"""A head: torch [1 C 1 1], ours [C]."""


def _conv(source: str, target: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}/kernel", conv(2)),
        Rule(f"{source}.bias", f"{target}/bias", SAME),
    ]


def _plain(tensors: Tensors) -> Tensors:
    """Give tensors of a saved `lpips.LPIPS` torchvision's names, and leave out what is not used."""
    entries = {}
    for name in tensors:
        plain = re.sub(r"^net\.slice\d+\.", "features.", name)
        plain = re.sub(r"^lins\.(\d+)\.", r"lin\1.", plain)  # there twice, as lin0 and as lins.0
        if not plain.startswith(("classifier.", "scaling_layer.")):
            entries[plain] = tensors[name]
    return Tensors(entries, tensors.where)


def _look_alike(tensors: Tensors) -> str | None:
    """Name what a trunk is whose tensors tell that it is another network."""
    if "features.1.running_mean" in tensors:
        return "a VGG with batch norm; VGG16 without it is needed"
    if "features.0.weight" in tensors and tensors["features.0.weight"].shape == (96, 3, 7, 7):
        return "SqueezeNet 1.0; 1.1 is needed"
    return None


def _check_scaling(tensors: Tensors) -> None:
    """Refuse a saved LPIPS that normalises pictures in another way than `lpips` does."""
    for name, expected in (("scaling_layer.shift", lpips.SHIFT), ("scaling_layer.scale", lpips.SCALE)):
        if name in tensors and not np.array_equal(tensors.read(name).reshape(-1), np.float32(expected)):
            raise ConvertError(f"{tensors.where} has another {name} than LPIPS v0.1, whose is {list(expected)}")


def _fits(tensors: Tensors, net: str, part: str) -> bool:
    """Say whether all tensors of a part are there and of the right shapes."""
    shapes = lpips.parameter_shapes(net)
    return all(
        rule.source in tensors
        and tuple(tensors[rule.source].shape) == rule.op.save(np.empty(shapes[rule.target], np.uint8)).shape
        for rule in rules(net, part)
    )


def _load_part(file: Found, part: str) -> dict[str, np.ndarray]:
    """Read the parameters of a part, by their paths."""
    wanted = rules(file.net, part)
    tensors = Tensors({rule.source: file.tensors[rule.source] for rule in wanted}, file.tensors.where)
    shapes = lpips.parameter_shapes(file.net)
    return load_leaves(tensors, wanted, {rule.target: shapes[rule.target] for rule in wanted})
