"""The networks that metrics take, from the person's folder of weights: one of each group of metrics that needs one.

lpips           LPIPS' trunk and heads      convert.perceptual
clip, vbench    CLIP and its vocabulary     convert.contrastive
i3d             I3D of Kinetics-400         convert.i3d
inception       InceptionV3 of FID          convert.inception
trajan          TRAJAN's autoencoder        convert.trajan
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from motionv2v.evaluation import clip_scores

GROUPS = ("lpips", "clip", "vbench", "i3d", "inception", "trajan")
NETS = ("alex", "vgg", "squeeze")
"""LPIPS' networks."""
CLIP_NETS, ACTIVATIONS = ("ViT-B/32", "ViT-B/16", "ViT-L/14"), ("quick_gelu", "gelu")
"""CLIP's, and what a person can say of a file that does not tell it (`convert.contrastive`)."""
ORIGINS = ("tfhub",)
"""What a person can say of a state dict of I3D (`convert.i3d`)."""
_SAME = {"vbench": "clip"}


class Loaded(NamedTuple):
    """A network: what its loader returns, its name and files in words, and what tells it from all others."""

    network: Any
    words: str
    digest: str


def load(
    group: str,
    weights: str | Path,
    *,
    net: str = "alex",
    clip_net: str = "ViT-B/32",
    clip_activation: str | None = None,
    i3d_source: str | None = None,
) -> Loaded:
    """Load the network of a group.

    Args:
        group: one of `GROUPS`. weights: the folder. net: LPIPS' network. clip_net, clip_activation: as `net` and
            `activation` of `clip_scores.find`. i3d_source: as `origin` of `convert.i3d.load`.

    Raises:
        ValueError: in one line, for what is missing: which file, where it goes, where it is published, its licence; for
            look-alikes and for names that there are not.
    """
    from motionv2v.convert import i3d, inception, perceptual, trajan  # which load jax

    weights = Path(weights)
    if group == "lpips":
        network = perceptual.load(weights, net)
        return _told(network, net, network.sources.values())
    if group in ("clip", "vbench"):
        sight = clip_scores.find(weights, clip_net, clip_activation)
        return Loaded(sight, str(sight), sight.digest)
    if group == "i3d":
        network = i3d.load(weights, i3d_source)
        return _told(network, "I3D", [network.source])
    if group == "inception":
        network = inception.load(weights)
        return _told(network, "InceptionV3 of FID", [network.source])
    if group == "trajan":
        network = trajan.load(weights)
        return _told(network, "TRAJAN", [network.source])
    raise ValueError(f"no metric takes a network {group!r}; available: {', '.join(GROUPS)}")


def load_all(
    groups: Mapping[str, str], weights: str | Path | None, *, must: bool, **options: Any
) -> tuple[dict[str, Loaded], dict[str, str]]:
    """Load what metrics take; also say of metrics why theirs is not there.

    Args:
        groups: by metric; of other groups than `GROUPS` nothing is loaded. weights, options: as for `load`.
        must: raise for what is missing.

    Raises:
        ValueError: with `must`, as `load`; where no folder was named.
    """
    loaded: dict[str, Loaded] = {}
    absent: dict[str, str] = {}
    for group in GROUPS:
        taking = [metric for metric, of in groups.items() if of == group]
        if taking and weights is None:
            raise ValueError(
                f"{taking[0]} takes a network's weights: name their folder (--weights); `list` says which files"
            )
        try:
            loaded |= {group: loaded.get(_SAME.get(group, "")) or load(group, weights, **options)} if taking else {}
        except ValueError as error:
            if must:
                raise
            absent |= dict.fromkeys(taking, str(error))
    return loaded, absent


def _told(network: Any, name: str, sources: Iterable[Any]) -> Loaded:
    sources = list(dict.fromkeys(sources))
    digest = " ".join([name, *(source.sha256 for source in sources)])
    return Loaded(network, f"{name}, {' and '.join(map(str, sources))}", digest)
