"""Published files of weights in a person's folder: what is known of each, and how the right one is chosen.

Files are known by what they hold, not by their names: where the sha256 is that of a published file it is verified; else
names and shapes of the tensors decide, and it is marked "unverified". Folders within the folder are not searched.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from motionv2v.convert.tensors import ConvertError, Tensors, listing


class Published(NamedTuple):
    """A published file: its name, how its sha256 begins ("" where nothing is known), its place, and its licence."""

    name: str
    sha256: str
    origin: str
    licence: str


class Source(NamedTuple):
    """Where a part of a network came from: for the protocol that stands beside a number."""

    file: str
    sha256: str
    verified: bool

    def __str__(self) -> str:
        return f"{self.file} (sha256 {self.sha256[:8]}{'' if self.verified else ', unverified'})"


class Found(NamedTuple):
    """A file that was recognised as a whole network; `tensors` are those that are used."""

    source: Source
    tensors: Tensors


def gather(weights: Path, endings: Collection[str], recognise: Callable[[Path], Any]) -> tuple[list[Any], list[str]]:
    """Recognise the files of a folder with these endings; also return why some were refused, a line each.

    `recognise` returns a record with a `source`, None for a file of others, and raises ConvertError to refuse one.
    """
    found, refused = [], []
    for path in sorted(weights.iterdir()) if weights.is_dir() else ():
        if path.suffix not in endings or not path.is_file():
            continue
        try:
            if (file := recognise(path)) is not None:
                found.append(file)
        except ConvertError as error:
            refused.append(str(error))
    return found, refused


def choose(
    weights: Path, fitting: Iterable[Any], refused: Sequence[str], network: str, part: str, published: Published
) -> Any:
    """Choose the file of a part of a network: a verified one before others, which must be one alone.

    `part` is "" for a network that is one file.

    Raises:
        ConvertError: in one line, for several, and for none, with the file that is missing and its licence.
    """
    fitting = list(fitting)
    fitting = [file for file in fitting if file.source.verified] or fitting
    # Copies of one file are one.
    fitting = list({file.source.sha256: file for file in fitting}.values())
    if len(fitting) > 1:
        names = ", ".join(str(file.source) for file in fitting)
        what = f"with the {part} of {network}" if part else f"of {network}"
        raise ConvertError(f"{weights} holds several files {what}: {names}; leave one there")
    if not fitting:
        reasons = f"; not used: {'; '.join(refused)}" if refused else ""
        raise ConvertError(
            f"{network} needs its {part or 'file'}: put {published.name} (from {published.origin}; licence: "
            f"{published.licence}) into {weights}, which holds {listing(weights)}{reasons}"
        )
    return fitting[0]
