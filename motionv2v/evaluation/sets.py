"""What a set of videos is worth beside the set of the true ones: FVD, FID and KID by networks, FVMD by a tracker.

A number belongs to a whole row of the table, and none to one video. Named by the program that it is to be compared
with, for each has its own resize, divisor and epsilon; numbers of different names cannot be compared.

    fvd_tf          a row of features for each clip, all of its frames; TF-Hub's script, magvit
    fvd_styleganv   StyleGAN-V, fed with the suite's own pixels
    fvd_cd_i3d      cd-fvd's I3D, VideoGPT; its epsilon of the batch norms is not the one they were trained with
    fid_, kid_      a row of features for each frame of each clip, which are not independent of one another;
                    pytorch (pytorch-fid), tf (the original, torch-fidelity), clean (clean-fid)
    fvmd            a row of features for each window of each clip, of how points of a tracker move (`fvmd`)
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v import files
from motionv2v.evaluation import distances, fvmd
from motionv2v.evaluation.networks import Loaded
from motionv2v.typing import Float, UInt8

Rows = Float[np.ndarray, "M F"]


class Features(NamedTuple):
    """How a video becomes rows of features; `version` counts up when their numbers change, and kept ones expire.

    `network` is a group of `networks`, or TRACKER: what tracks points takes a network's place.
    """

    network: str
    resize: str
    epsilon: float = 1e-3
    version: int = 1


class SetMetric(NamedTuple):
    """How a number is made of two sets of features: which, and the covariances' divisor, "" for the kernel distance."""

    features: str
    divisor: str = ""


TRACKER = "fvmd"
"""The group of what needs no weights but a tracker."""
FEATURES = {
    "i3d_tf": Features("i3d", "tf1"),
    "i3d_torch": Features("i3d", "torch"),
    "i3d_torch_small_epsilon": Features("i3d", "torch", 1e-5),
    "inception_torch": Features("inception", "torch"),
    "inception_tf": Features("inception", "tf1"),
    "inception_pillow": Features("inception", "pillow"),
    "windows": Features(TRACKER, "area or cubic"),
}
SETS = {
    "fvd_tf": SetMetric("i3d_tf", "n-1"),
    "fvd_styleganv": SetMetric("i3d_torch", "n"),
    "fvd_cd_i3d": SetMetric("i3d_torch_small_epsilon", "n"),
    "fid_pytorch": SetMetric("inception_torch", "n-1"),
    "kid_pytorch": SetMetric("inception_torch"),
    "fid_tf": SetMetric("inception_tf", "n-1"),
    "kid_tf": SetMetric("inception_tf"),
    "fid_clean": SetMetric("inception_pillow", "n-1"),
    "kid_clean": SetMetric("inception_pillow"),
    "fvmd": SetMetric("windows", "n-1"),
}
"""By the names of `measures.METRICS`."""
USUAL = ("fvd_tf", "fid_pytorch", "kid_pytorch")
"""Those that are measured where no metric is named; the others cost as much again and say nearly the same."""
FEWEST_FRAMES = {"i3d": (9, "I3D"), "inception": (1, "Inception"), TRACKER: (fvmd.WINDOW, "FVMD")}
"""Frames of a clip that features need, and who does."""


class About(NamedTuple):
    """What must stand beside a set's numbers.

    Attributes:
        rows: of features, of each set. floor: as `floor` returns it. notes: warnings, or why there is no number.
    """

    rows: int
    floor: float
    notes: tuple[str, ...] = ()


def obstacle(metric: str, num_clips: int, num_frames: int) -> str:
    """Say why a metric cannot be measured on so many clips of so many frames each; "" where it can."""
    network = FEATURES[SETS[metric].features].network
    fewest, who = FEWEST_FRAMES[network]
    if num_frames < fewest:
        return f"{who} takes clips of at least {fewest} frames, here they have {num_frames}"
    rows, what = (num_clips, "clips") if network == "i3d" else (num_clips * (num_frames - fewest + 1), "frames")
    what = "windows" if network == TRACKER else what
    fewest = distances.FEWEST if SETS[metric].divisor else 2
    return f"{rows} {what} are too few, it needs at least {fewest}" if rows < fewest else ""


def features(name: str, network: Any, frames: UInt8[np.ndarray, "T H W 3"]) -> Rows:
    """Return a video's features, [1 400] of a clip, [T 2048] of its frames or [T-15 1024] of its windows.

    Args:
        name: one of `FEATURES`. network: as `convert.i3d.load` or `convert.inception.load` returns it, or a tracker.
        frames: RGB in 0..255.
    """
    how = FEATURES[name]
    if how.network == TRACKER:
        return fvmd.features(frames, network)
    if how.network == "i3d":
        from motionv2v.models.features import i3d  # which loads jax, as the next

        return i3d.clip_features(i3d.I3d(how.epsilon), network.params, frames, how.resize)[None]
    from motionv2v.models.features import inception

    return inception.frame_features(network.module, network.params, frames, how.resize)


def distance(metric: str, made: Rows, true: Float[np.ndarray, "N F"], notify: Callable[[str], None]) -> float:
    """Return a metric of two sets of features; `notify` is called as `distances.frechet` does."""
    if divisor := SETS[metric].divisor:
        return distances.frechet(made, true, divisor, notify=notify)
    return distances.kid(np.random.default_rng(0), made, true)


def floor(metric: str, true: Sequence[Rows]) -> float:
    """Return a Frechet metric of two random halves of the true videos, by the features of each of them.

    Halves are made of whole videos, with the same draw each time. NaN where a half has no two rows, and for the kernel
    distance, which is unbiased: that of equal distributions is 0 on average.
    """
    divisor, together = SETS[metric].divisor, len(true[0])
    if not divisor or len(true) // 2 * together < 2:
        return math.nan
    rng, whole = np.random.default_rng(0), np.concatenate(true)
    return distances.frechet_floor(rng, whole, divisor, together=together, fewest=2, notify=lambda line: None)


class Comparison:
    """Sets of videos by their features, which are kept in a folder by what they depend on: video, network, resize."""

    def __init__(
        self, metrics: Sequence[str], networks: Mapping[str, Loaded], folder: Path, shape: tuple[int, tuple[int, int]]
    ):
        """Take names of `SETS`, the networks by group, and frames and size (H, W) that all videos are resampled to."""
        self._metrics, self._networks, self._folder, self._shape = metrics, networks, folder, shape
        self.names = list(dict.fromkeys(SETS[metric].features for metric in metrics))
        self._rows: dict[tuple[str, str, str], Rows] = {}
        self._digests: dict[tuple[str, str], str] = {}

    def take(self, row: str, item: str, name: str, digest: str, read: Callable[[], tuple[Any, list[str]]]) -> list[str]:
        """Take a video's features into a row's set, and return the notes on how it was altered.

        Args:
            name: one of `names`. digest: the SHA-256 of the video. read: returns frames and notes; called where nothing
                is kept.
        """
        self._digests[row, item] = digest
        how = FEATURES[name]
        network = self._networks[how.network]
        told = json.dumps([name, how, network.digest, digest, self._shape])
        path = self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npz"
        try:
            with np.load(path) as kept:
                self._rows[row, item, name], notes = kept["rows"], kept["notes"].tolist()
            return notes
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # nothing there, or nothing whole
            frames, notes = read()
        rows = self._rows[row, item, name] = features(name, network.network, frames)
        content = io.BytesIO()
        np.savez(content, rows=rows, notes=np.array(notes, str))
        files.write(path, content.getvalue())
        return notes

    def distances(
        self, true: str, rows: Sequence[str], items: Sequence[str], references: Sequence[str] = ()
    ) -> tuple[dict[str, dict[str, float]], dict[str, About]]:
        """Compare rows with the row of the true videos; return {row: {metric: value}} and what stands beside them.

        A video that several items have, for they differ in their prompts, counts once in the true row and in
        `references`: copies of it would stand on both sides of the floor, and beside one another in the kernel's sums.
        Of a metric that is not to be had of so few items there is no value, and `About.notes` says why.
        """
        values: dict[str, dict[str, float]] = {row: {} for row in rows}
        about = {}
        for metric in self._metrics:
            name = SETS[metric].features
            distinct = list({self._digests[true, item]: item for item in items}.values())
            sets = {
                row: [self._rows[row, item, name] for item in (distinct if row in {true, *references} else items)]
                for row in {true, *rows}
            }
            count, heard = sum(map(len, sets[true])), []
            if why := obstacle(metric, len(distinct), self._shape[0]):
                about[metric] = About(count, math.nan, (why,))
                continue
            for row in rows:
                values[row][metric] = distance(metric, *map(np.concatenate, (sets[row], sets[true])), heard.append)
            about[metric] = About(count, floor(metric, sets[true]), tuple(dict.fromkeys(heard)))
        return values, about
