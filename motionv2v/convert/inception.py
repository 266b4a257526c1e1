"""InceptionV3 of FID from its published file, `pt_inception-2015-12-05-6726825d.pth`, without torch.

    network = inception.load(Path("weights"))
    inception.frame_features(network.module, network.params, frames)        # of models.features

torchvision's own InceptionV3 has nearly the same names and gives plausible, wrong FIDs; 1008 classes tell the right
file, and it is verified by the eight digits of its sha256 that end its name.
"""

from pathlib import Path
from typing import NamedTuple

from motionv2v import files, parameters
from motionv2v.convert import pickled
from motionv2v.convert.published import Found, Published, Source, choose, gather
from motionv2v.convert.rules import SAME, Rule, conv
from motionv2v.convert.tensors import ConvertError, load_leaves, match
from motionv2v.models.features import inception
from motionv2v.typing import PyTree

ENDINGS = (".pth", ".pt", ".safetensors")
NUM_CLASSES = 1008
"""Of the classifier, which FID does not use: ImageNet's 1000 would be torchvision's network."""
PUBLISHED = Published(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d",
    "github.com/mseitzer/pytorch-fid, release fid_weights",
    "pytorch-fid's, Apache-2.0",
)
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class Network(NamedTuple):
    """A network to measure with: the module, its parameters, and the file."""

    module: inception.Inception
    params: PyTree
    source: Source


def load(weights: Path) -> Network:
    """Load InceptionV3 of FID from a folder that holds its file, under whatever name; folders in it are not searched.

    Raises:
        ConvertError: a ValueError of one line: when the file is missing (which, where it goes, where it is published
            and under which licence), when only a look-alike is there, or several that cannot be told apart.
    """
    weights = Path(weights)
    found, refused = gather(weights, ENDINGS, recognise)
    chosen = choose(weights, found, refused, "Inception of FID", "", PUBLISHED)
    leaves = load_leaves(chosen.tensors, rules(), inception.parameter_shapes())
    return Network(inception.Inception(), parameters.unflatten(leaves), chosen.source)


def recognise(path: Path) -> Found | None:
    """Say what a file is to FID; None when it has nothing to do with it.

    Raises:
        ConvertError: in one line, for a file that cannot be read, for torchvision's InceptionV3, and for one that has
            the names and other tensors.
    """
    if pickled.is_scripted(path):
        if any(name.endswith("Mixed_7c.branch_pool.conv.weight") for name in pickled.open_scripted(path)):
            raise ConvertError(f"{path} is a TorchScript archive of an Inception; {PUBLISHED.name} is needed")
        return None
    tensors = pickled.open_state_dict(path)
    if "Mixed_7c.branch_pool.conv.weight" not in tensors:
        return None
    shape = tuple(tensors["fc.weight"].shape) if "fc.weight" in tensors else ()
    if shape[:1] == (1000,) or any(name.startswith("AuxLogits.") for name in tensors):
        raise ConvertError(f"{path} holds torchvision's InceptionV3, another network; {PUBLISHED.name} is needed")
    if shape != (NUM_CLASSES, inception.NUM_FEATURES):
        raise ConvertError(f"{path} has fc.weight {list(shape)}, expected [{NUM_CLASSES}, {inception.NUM_FEATURES}]")
    unused = [name for name in tensors if name.startswith("fc.") or name.endswith("num_batches_tracked")]
    tensors = tensors.trimmed(unused, {})
    match(tensors, rules(), inception.parameter_shapes())
    digest = files.sha256(path)
    return Found(Source(path.name, digest, digest.startswith(PUBLISHED.sha256)), tensors)


def rules() -> list[Rule]:
    """Return how the tensors of the published file become parameters of `models.features.inception.Inception`."""
    kernels = [path.removesuffix("/conv/kernel") for path in inception.parameter_shapes() if path.endswith("kernel")]
    found = []
    for ours in kernels:
        theirs = ours.replace("/", ".")
        found.append(Rule(f"{theirs}.conv.weight", f"{ours}/conv/kernel", conv(2)))
        found += [Rule(f"{theirs}.bn.{a}", f"{ours}/bn/{b}", SAME) for a, b in _NORM.items()]
    return found
