"""Find the shots of a video: stretches without a cut, without black and without frozen pictures.

Every frame is looked at once, as a picture of 32x48 averaged blocks, so that a video of any length streams through in
little memory and neither noise nor compression shows. Per frame three numbers are kept: the mean and the largest change
since the frame before, and the brightest block, all in grey levels (0..255).

A cut is a change that is large and stands out from those around it; steady motion, a hand-held camera and pictures held
for two to four frames (drawn animation, converted frame rates) do not stand out. Slow transitions are not found: in a
dissolve tracking fails, which the gates of `recipes` see. A flash of light counts as a cut; that costs a little
footage and no harm.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v.typing import Bool, Float, UInt8

_SMALL = (32, 48)
_AROUND = 4  # frames on either side with which a change is compared


@dataclass(frozen=True)
class ShotConfig:
    """What counts as a cut, as black and as frozen; the measured values are from nine real clips without a cut.

    Attributes:
        cut: least mean change of a cut, in grey levels. From one clip to another it measures 34 to 104, from the end to
            the beginning of one scene 22; motion within a shot reaches 14, but not alone.
        ratio: how many times a cut's change exceeds the second largest of the eight changes around it. The second, so
            that of two cuts close together neither hides the other.
        black: a picture none of whose blocks is brighter is black. Video black is 16 in many files; a night scene has
            lights.
        frozen: a picture none of whose blocks changes by this much, in grey levels, is the same picture. Noise averages
            out and rounding is one level; nearly still scenes go below it in single frames only.
        frozen_frames: so many same pictures in a row are frozen; animation holds a drawing for up to four.
    """

    cut: float = 12.0
    ratio: float = 3.0
    black: float = 24.0
    frozen: float = 2.0
    frozen_frames: int = 8


class ShotReport(NamedTuple):
    """Shots as ranges of frames; what is left out, each with its reason; the first frame after each cut."""

    shots: list[range]
    left_out: list[tuple[str, range]]
    cuts: list[int]
    num_frames: int

    @property
    def counts(self) -> dict[str, int]:
        """Return the frames left out by reason ("black", "frozen", "short") and the number of cuts ("cut")."""
        counts = Counter(cut=len(self.cuts))
        for reason, frames in self.left_out:
            counts[reason] += len(frames)
        return dict(counts)


def find_shots(
    frames: UInt8[np.ndarray, "T H W 3"] | Iterable[UInt8[np.ndarray, "_ _ _ 3"]],
    *,
    min_frames: int = 1,
    config: ShotConfig | None = None,
) -> list[range]:
    """Return the shots of at least `min_frames` frames, in order; see `scan`, which also tells what is left out."""
    return scan(frames, min_frames=min_frames, config=config).shots


def scan(
    frames: UInt8[np.ndarray, "T H W 3"] | Iterable[UInt8[np.ndarray, "_ _ _ 3"]],
    *,
    min_frames: int = 1,
    config: ShotConfig | None = None,
) -> ShotReport:
    """Find the shots of a video, given whole or as an iterator of chunks, and say why the rest is left out.

    A video without frames has no shots. Raises ValueError for frames that are not uint8 [T H W 3].
    """
    config = ShotConfig() if config is None else config
    change, largest, brightest = _measure(frames)
    num_frames = len(change)
    reasons = np.full(num_frames, "", dtype="U6")
    reasons[_frozen(largest, config)] = "frozen"
    reasons[brightest < config.black] = "black"
    cuts = _cuts(change, config)
    # From black to a picture is a cut by its change, but the black stretch says it already.
    cuts = [t for t in cuts if reasons[t] != "black" and reasons[t - 1] != "black"]
    at_cut = np.isin(np.arange(num_frames), cuts)
    starts = [t for t in range(num_frames) if t == 0 or at_cut[t] or reasons[t] != reasons[t - 1]]
    report = ShotReport([], [], cuts, num_frames)
    for start, stop in zip(starts, [*starts[1:], num_frames][: len(starts)], strict=True):
        stretch, reason = range(start, stop), str(reasons[start])
        if not reason and len(stretch) < min_frames:
            reason = "short"
        if reason:
            report.left_out.append((reason, stretch))
        else:
            report.shots.append(stretch)
    return report


def defect(frames: UInt8[np.ndarray, "T H W 3"], config: ShotConfig | None = None) -> str | None:
    """Name what keeps frames from being one clean shot, "cut", "black" or "frozen"; None if nothing does."""
    report = scan(frames, config=config)
    if report.cuts:
        return "cut"
    return report.left_out[0][0] if report.left_out else None


def _measure(
    frames: UInt8[np.ndarray, "T H W 3"] | Iterable[UInt8[np.ndarray, "_ _ _ 3"]],
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """Return per frame the mean and largest change since the frame before (0 for the first) and the brightest block."""
    rows, previous = [], None
    for frame in _each(frames):
        small = cv2.resize(frame, _SMALL[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        change = np.zeros(1) if previous is None else np.abs(small - previous)
        rows.append((change.mean(), change.max(), small.max()))
        previous = small
    return tuple(np.array(rows, np.float64).reshape(-1, 3).T)


def _each(frames: UInt8[np.ndarray, "T H W 3"] | Iterable[UInt8[np.ndarray, "_ _ _ 3"]]) -> Iterator[np.ndarray]:
    """Yield the frames of an array or of an iterator of chunks."""
    for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
        if chunk.ndim != 4 or chunk.shape[-1] != 3 or chunk.dtype != np.uint8:
            raise ValueError(f"shots are found in uint8 frames [T H W 3], given {chunk.dtype} {list(chunk.shape)}")
        yield from chunk


def _cuts(change: Float[np.ndarray, "T"], config: ShotConfig) -> list[int]:
    """Return the first frame after each cut."""
    cuts = []
    for t in np.flatnonzero(change >= config.cut):
        around = np.concatenate([change[max(t - _AROUND, 1) : t], change[t + 1 : t + 1 + _AROUND]])
        # Near the ends of the video there is less to compare with, and the largest counts.
        usual = np.sort(around)[-2 if len(around) == 2 * _AROUND else -1] if len(around) else 0.0
        if change[t] >= config.ratio * usual:
            cuts.append(int(t))
    return cuts


def _frozen(largest: Float[np.ndarray, "T"], config: ShotConfig) -> Bool[np.ndarray, "T"]:
    """Say which frames belong to a run of at least `frozen_frames` same pictures."""
    frozen = np.zeros(len(largest), bool)
    start = 0
    for t in range(1, len(largest) + 1):
        if t == len(largest) or largest[t] >= config.frozen:
            if t - start >= config.frozen_frames:
                frozen[start:t] = True
            start = t
    return frozen
