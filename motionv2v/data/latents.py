"""Samples that went through the frozen VAE once: shards of latents on disk, read by random access.

A folder holds `meta.json` and shards `00000.npy`, `00001.npy`, ..., each a structured numpy array with one record per
sample. Shards are memory-mapped, so a data set larger than memory streams from disk. Latents are stored scaled, as
float16: three decimal digits, far below the noise of the smallest diffusion step.

Embeddings of the captions, where a frozen text encoder is too big to run in every step, lie in the folder `text` beside
the shards: `00000.npy` [samples L C] float16 for the shard of that name, and `null.npy` [L C] for a dropped caption.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from motionv2v import files

META, TEXT, NULL = "meta.json", "text", "null.npy"
ENDINGS = ("_latents", "_map")
"""How the names of stored arrays end: a video's latents [t h w z], and what a method draws besides videos."""


def stored(conditions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Name a method's conditions, {"videos": {name: latents}, "maps": {name: array}}, as they are stored."""
    both = zip(ENDINGS, ("videos", "maps"), strict=True)
    return {f"{name}{ending}": x for ending, part in both for name, x in conditions.get(part, {}).items()}


def conditions(arrays: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Find a method's conditions among stored arrays; the inverse of `stored`, for those that are wanted.

    Args:
        arrays: by their stored names. wanted: {"videos": {name: ...}, "maps": {name: ...}}; the values are not read.

    Raises:
        ValueError: for a condition that was not stored, naming what is there.
    """
    found: dict[str, dict[str, Any]] = {}
    for ending, part in zip(ENDINGS, ("videos", "maps"), strict=True):
        for name in wanted[part]:
            if f"{name}{ending}" not in arrays:
                raise ValueError(
                    f"the latents hold no {name}{ending}, which the method needs, but {', '.join(sorted(arrays))}; "
                    "make them again with launch/prepare.py, in an empty folder"
                )
        found[part] = {name: arrays[f"{name}{ending}"] for name in wanted[part]}
    return found


def write_shard(folder: str | Path, index: int, records: dict[str, np.ndarray]) -> None:
    """Write one shard: arrays with a common leading axis, one record per entry; appears complete or not at all."""
    length = len(next(iter(records.values())))
    fields = [(name, array.dtype, array.shape[1:]) for name, array in sorted(records.items())]
    shard = np.empty(length, fields)
    for name, array in records.items():
        shard[name] = array
    write_array(Path(folder) / f"{index:05d}.npy", shard)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an npy file that appears complete or not at all."""
    with files.partial(path) as unfinished:
        np.save(unfinished, array)


def text_folder(folder: str | Path) -> Path:
    """Return where the embeddings of a folder's captions lie."""
    return Path(folder) / TEXT


def write_meta(folder: str | Path, meta: dict[str, Any]) -> None:
    """Write `meta.json`: what the latents were made from, so that a resumed job can tell whether it is the same."""
    files.write(Path(folder) / META, json.dumps(meta, indent=2, sort_keys=True))


def read_meta(folder: str | Path) -> dict[str, Any] | None:
    """Read `meta.json`, or return None where there is none."""
    path = Path(folder) / META
    return json.loads(path.read_text()) if path.exists() else None


class LatentSource:
    """Random access to a folder of latent shards (grain's protocol).

    With `text` a sample also has `text` [L C], the embedding of its caption, and `null_text`, that of a dropped one.

    Raises:
        ValueError: if the folder has no shards, or no embeddings of one, naming what makes them.
    """

    def __init__(self, folder: str | Path, text: bool = False):
        self.folder, self.text = str(folder), text
        paths = sorted(Path(folder).glob("[0-9]*.npy"))
        if not paths:
            raise ValueError(f"no latent shards (00000.npy, ...) in {folder!s}; make them with launch/prepare.py")
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])
        self._texts: list[np.ndarray] = []
        if text:
            beside = [text_folder(folder) / name for name in (NULL, *(path.name for path in paths))]
            missing = [path.name for path in beside if not path.exists()]
            if missing:
                raise ValueError(
                    f"no text embeddings ({', '.join(missing[:3])}) in {text_folder(folder)}; make them with "
                    "launch/prepare.py --config.data.text_embeddings=True"
                )
            self._null = np.load(beside[0])
            self._texts = [np.load(path, mmap_mode="r") for path in beside[1:]]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - self._starts[shard]
        record = self._shards[shard][row]
        sample = {name: np.array(record[name]) for name in record.dtype.names}
        if self.text:
            sample |= {"text": np.array(self._texts[shard][row]), "null_text": self._null}
        return sample

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the arrays of a sample, without those of `text`."""
        return self._shards[0].dtype.names

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes open the shards themselves: a memory map would be pickled with all it maps.
        return LatentSource, (self.folder, self.text)

    def __repr__(self) -> str:
        return f"LatentSource({self.folder!r})"


@dataclass(frozen=True)
class Vary(grain.transforms.RandomMap):
    """Vary what is cached: drop captions, and let the two videos of a pair change places.

    Attributes:
        caption_dropout: share of samples whose tokens become the null caption's (paper, section 4.1: one half).
        swap: share of samples in which source becomes target and target source. Either video of a pair is a motion
            counterfactual of the other, so this makes two pairs of one.
        swapped: which stored arrays then change places, (name, name of the one that takes its place).
    """

    caption_dropout: float
    swap: float = 0.0
    swapped: tuple[tuple[str, str], ...] = ()

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Apply to one sample with `tokens`, `null_tokens` and the latents of its pair.

        `text` and `null_text`, where there are any, go the way of the tokens.
        """
        sample = {k: v for k, v in element.items() if k not in ("null_tokens", "null_text")}
        if rng.random() < self.caption_dropout:
            sample["tokens"] = element["null_tokens"]
            if "text" in element:
                sample["text"] = element["null_text"]
        if rng.random() < self.swap:
            sample |= {name: element[other] for name, other in self.swapped}
        return sample
