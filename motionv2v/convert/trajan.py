"""TRAJAN's autoencoder of tracks from its published file, `track_autoencoder_ckpt.npz`.

    network = trajan.load(Path("weights"))
    trajan.read_off(network.module, network.params, xy, visible, places, frames)        # of models.features

The file's checksum is not known here, so that it is "unverified"; names and shapes of all 252 arrays must fit.
"""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motionv2v import files, parameters
from motionv2v.convert.published import Found, Published, Source, choose, gather
from motionv2v.convert.rules import SAME, Rule
from motionv2v.convert.tensors import Arrays, ConvertError, load_leaves, match
from motionv2v.models.features import trajan
from motionv2v.typing import PyTree

ENDINGS = (".npz",)
MARK = "track_readout_attn/norm_encoder/scale"
"""An array that no other network's file has, such as TAPNext's, which are `.npz` as well."""
PUBLISHED = Published(
    "track_autoencoder_ckpt.npz", "", "github.com/google-deepmind/tapnet, which says where in its README", "Apache-2.0"
)


class Network(NamedTuple):
    """A network to measure with: the module, its parameters, and the file."""

    module: trajan.Trajan
    params: PyTree
    source: Source


def load(weights: Path) -> Network:
    """Load TRAJAN from a folder that holds its file, under whatever name; folders in it are not searched.

    Raises:
        ConvertError: a ValueError of one line: when the file is missing (which, where it goes, where it is published
            and under which licence), refused, or there are several.
    """
    weights = Path(weights)
    found, refused = gather(weights, ENDINGS, recognise)
    chosen = choose(weights, found, refused, "TRAJAN", "", PUBLISHED)
    leaves = load_leaves(chosen.tensors, rules(), trajan.parameter_shapes())
    return Network(trajan.Trajan(), parameters.unflatten(leaves), chosen.source)


def recognise(path: Path) -> Found | None:
    """Say what a file is to TRAJAN; None when it has nothing to do with it.

    Raises:
        ConvertError: in one line, for a file that cannot be read, and for one that has the names and other arrays, such
            as a network for clips of another length.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if MARK not in file.files:
                return None
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConvertError(f"{path} is no readable .npz file, or cut off, or pickled ({reason})") from None
    if wrong := [name for name, value in arrays.items() if value.dtype != np.float32]:
        raise ConvertError(f"{path} holds {wrong[0]} as {arrays[wrong[0]].dtype}, expected float32")
    tensors = Arrays(arrays, path)
    match(tensors, rules(), trajan.parameter_shapes())
    return Found(Source(path.name, files.sha256(path), False), tensors)


def rules() -> list[Rule]:
    """Return how the arrays of the published file become parameters of `models.features.trajan.Trajan`: as they are."""
    return [Rule(path, path, SAME) for path in trajan.parameter_shapes()]
