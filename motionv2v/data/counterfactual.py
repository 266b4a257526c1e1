"""Counterfactual pairs: the same content under two motions, and which points the model gets to see.

The paper, section 3.2: the target clip is a contiguous window of a longer video; the source (counterfactual) is made
from the same video by evenly spaced frames between two free times (another speed, a shift, a reversal), by speed
presets, and by sliding crops. Points are the same in both; their visibility is then dropped at random, the target's
more than the source's, so that a person need not specify everything. Numpy only; random functions take `rng` first.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from motionv2v import camera
from motionv2v.data import transforms
from motionv2v.data.transforms import TrackedClip
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int

MODES: dict[str, float] = {
    "full": 1 / 6,
    "counter_mask": 1 / 6,
    "sync_mask": 1 / 6,
    "point_to_point": 2 / 6,
    "track_to_point": 1 / 6,
}
"""The ways of hiding a point and their probabilities (the intended meaning of the paper's released code).

full: nothing is hidden. counter_mask: the target is shown in random segments of time. sync_mask: both are, in the same
segments. point_to_point: both are shown only at a few times at which both are visible. track_to_point: the target is
shown only at a few times at which it is visible; the source is untouched.
"""

MAX_HOLD = 2
"""A time shown by itself is widened by 0..2 frames on both sides: one video latent covers four frames."""


class FramePair(NamedTuple):
    """The frames of a longer clip that make up source and target."""

    source: Int[np.ndarray, "T"]
    target: Int[np.ndarray, "T"]


class ClipPair(NamedTuple):
    """Source and target clips of one training sample; track n is the same point in both."""

    source: TrackedClip
    target: TrackedClip


def resample_pair(rng: np.random.Generator, num_available: int, num_frames: int, min_common: int = 1) -> FramePair:
    """Draws the frames of a temporally resampled pair out of `num_available` frames (the paper, section 3.2).

    The target is a contiguous window; the source is T frames evenly spaced from one uniform time to another, backwards
    if the first is later. Redrawn until at least `min_common` frames are in both, so that points can be placed on them.
    Raises ValueError for a clip shorter than T and for a `min_common` that no draw can reach.
    """
    if not 0 <= min_common <= num_frames:
        raise ValueError(f"min_common must be in 0..{num_frames}, got {min_common}")
    for _ in range(10_000):
        target = transforms.window_indices(rng, num_available, num_frames)
        start, end = rng.integers(num_available, size=2)
        source = np.round(np.linspace(start, end, num_frames)).astype(int)
        if len(common_frames(FramePair(source, target))) >= min_common:
            return FramePair(source, target)
    raise ValueError(f"found no pair of {num_frames} out of {num_available} frames with {min_common} frames in common")


def common_frames(pair: FramePair) -> Int[np.ndarray, "M"]:
    """Lists the frames of the longer clip that are in both source and target, in order."""
    return np.intersect1d(pair.source, pair.target)


def preset_pair(
    rng: np.random.Generator, num_frames: int, reverse_source: float = 0.3, reverse_target: float = 0.2
) -> FramePair:
    """Draws the frames of a pair by speed presets: one side, by the toss of a coin, gets a random preset.

    Each side is then reversed with its own probability (the paper's released code).
    """
    speed = transforms.speed_indices(str(rng.choice(transforms.SPEEDS)), num_frames)
    regular = transforms.speed_indices("regular", num_frames)
    source, target = (speed, regular) if rng.random() < 0.5 else (regular, speed)
    source = source[::-1] if rng.random() < reverse_source else source
    target = target[::-1] if rng.random() < reverse_target else target
    return FramePair(source, target)


def slowed_pair(
    rng: np.random.Generator, num_available: int, num_frames: int, reverse_source: float = 0.3
) -> FramePair:
    """Draws a contiguous window as the target and, as the source, that window under a speed preset, perhaps reversed.

    Unlike `preset_pair`, never changes the target: what is generated should move as filmed. The source always differs.
    Raises ValueError for a clip shorter than T.
    """
    target = transforms.window_indices(rng, num_available, num_frames)
    source = target[transforms.speed_indices(str(rng.choice(transforms.SPEEDS[1:])), num_frames)]
    return FramePair(source[::-1] if rng.random() < reverse_source else source, target)


def shuffled_pair(rng: np.random.Generator, num_available: int, num_frames: int) -> FramePair:
    """Draws a contiguous window as the target and its pieces in another order (`shuffle_indices`) as the source.

    Raises ValueError for a clip shorter than T.
    """
    target = transforms.window_indices(rng, num_available, num_frames)
    return FramePair(target[transforms.shuffle_indices(rng, num_frames)], target)


def same_pair(rng: np.random.Generator, num_available: int, num_frames: int) -> FramePair:
    """Draws a contiguous window as both source and target: what is to differ, a crop, comes after it."""
    target = transforms.window_indices(rng, num_available, num_frames)
    return FramePair(target, target)


def take_pair(clip: TrackedClip, pair: FramePair) -> ClipPair:
    """Cuts source and target out of one tracked clip. Raises ValueError for a frame that does not exist."""
    return ClipPair(transforms.take_frames(clip, pair.source), transforms.take_frames(clip, pair.target))


def random_sliding_crop(rng: np.random.Generator, clip: TrackedClip, probability: float = 0.2) -> TrackedClip:
    """Applies a random crop-rotate-zoom path to video and tracks with a given probability, else returns them as is."""
    if rng.random() >= probability:
        return clip
    path = camera.random_crop_path(rng, len(clip.frames), clip.frames.shape[1:3])
    return transforms.sliding_crop(clip, path.homographies)


def crop_pair(rng: np.random.Generator, pair: ClipPair, probability: float = 0.2) -> ClipPair:
    """Applies sliding crops to source and target, each with its own path and its own toss."""
    return ClipPair(*(random_sliding_crop(rng, clip, probability) for clip in pair))


def sample_queries(
    rng: np.random.Generator,
    size: tuple[int, int],
    frames: Int[np.ndarray, "M"] | None = None,
    max_points: int = 64,
) -> Float[np.ndarray, "N 3"]:
    """Draws N ~ U{1..max_points} query points (t, x, y): t from `frames`, x and y uniform in a frame of size (H, W).

    `frames` are those present in both clips (`common_frames`), by default frame 0. Raises ValueError for none.
    """
    frames = np.zeros(1, int) if frames is None else frames
    if len(frames) == 0 or max_points < 1:
        raise ValueError(f"sample_queries needs frames and points, got {len(frames)} frames, max_points={max_points}")
    count = int(rng.integers(1, max_points + 1))
    xy = rng.random((count, 2)) * np.array([size[1], size[0]])
    return np.concatenate([rng.choice(frames, size=(count, 1)), xy], axis=1).astype(np.float32)


def sample_points(
    rng: np.random.Generator, num_available: int, max_points: int = 64, min_points: int = 1
) -> Int[np.ndarray, "N"]:
    """Draws N ~ U{min_points..max_points} of the available tracks without replacement, regardless of their visibility.

    N is at most `num_available`. Raises ValueError when there is nothing to draw from.
    """
    if num_available < 1 or not 1 <= min_points <= max_points:
        raise ValueError(
            f"sample_points needs tracks and 1 <= min_points <= max_points, got {num_available}, {min_points} and "
            f"{max_points}"
        )
    most = min(max_points, num_available)
    count = int(rng.integers(min(min_points, most), most + 1))
    return rng.permutation(num_available)[:count]


def drop_points(
    rng: np.random.Generator,
    source_visible: Bool[np.ndarray, "N T"],
    target_visible: Bool[np.ndarray, "N T"],
    modes: Mapping[str, float] = MODES,
) -> tuple[Bool[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """Hides points at random, each in its own way (`MODES`); nothing that was hidden becomes visible.

    A point that ends up hidden everywhere in one clip is hidden in the other too. Time that a single shown frame is
    widened to shows the point's own positions. Raises ValueError for unknown modes or probabilities that do not add
    up to 1.
    """
    shown_source, shown_target, _, _ = _draw_masks(rng, source_visible, target_visible, modes)
    return _hide_together(shown_source & source_visible, shown_target & target_visible)


def drop_tracks(
    rng: np.random.Generator, source: Tracks, target: Tracks, modes: Mapping[str, float] = MODES
) -> tuple[Tracks, Tracks]:
    """Hides points as `drop_points` does, but a single shown frame is widened by *holding its position*.

    That is what the paper's released code trains on and what an edit that gives a point at one time only looks like:
    the blob stands still for up to two frames on both sides, also where the point itself is hidden.
    """
    shown_source, shown_target, held_source, held_target = _draw_masks(rng, source.visible, target.visible, modes)
    rows = np.arange(len(source.visible))[:, None]
    visible = _hide_together(
        shown_source & source.visible[rows, held_source], shown_target & target.visible[rows, held_target]
    )
    return Tracks(source.xy[rows, held_source], visible[0]), Tracks(target.xy[rows, held_target], visible[1])


def _draw_masks(
    rng: np.random.Generator,
    source_visible: Bool[np.ndarray, "N T"],
    target_visible: Bool[np.ndarray, "N T"],
    modes: Mapping[str, float],
) -> tuple[Bool[np.ndarray, "N T"], Bool[np.ndarray, "N T"], Int[np.ndarray, "N T"], Int[np.ndarray, "N T"]]:
    """Draws what is shown of source and target, and which frame's position each frame shows."""
    unknown = sorted(set(modes) - set(MODES))
    if unknown or abs(sum(modes.values()) - 1) > 1e-6:
        raise ValueError(f"modes must be probabilities of {', '.join(MODES)} that add up to 1, got {dict(modes)}")
    num_points, num_frames = target_visible.shape
    names = list(modes)
    drawn = np.searchsorted(np.cumsum(list(modes.values()))[:-1], rng.random(num_points), side="right")
    counter, sync, both_points, target_points = (
        (drawn == names.index(name))[:, None] if name in names else np.zeros((num_points, 1), bool)
        for name in ("counter_mask", "sync_mask", "point_to_point", "track_to_point")
    )
    segments = transforms.temporal_dropout_masks(rng, num_frames, rng.random(num_points))
    candidates = np.where(both_points, source_visible & target_visible, target_visible)
    few, held = _few_times(rng, candidates)
    frames = np.broadcast_to(np.arange(num_frames), few.shape)
    shown_source = ~(sync & ~segments) & ~(both_points & ~few)
    shown_target = ~((counter | sync) & ~segments) & ~((both_points | target_points) & ~few)
    held_source = np.where(both_points, held, frames)
    return shown_source, shown_target, held_source, np.where(both_points | target_points, held, frames)


def _few_times(
    rng: np.random.Generator, candidates: Bool[np.ndarray, "N T"]
) -> tuple[Bool[np.ndarray, "N T"], Int[np.ndarray, "N T"]]:
    """Draws a few of each row's candidate frames, widened by U{0..MAX_HOLD}; also the nearest drawn frame.

    Of n candidates m = U{1..U{1..U{1..n}}} are drawn, so most points are shown at very few times.
    """
    num_points, num_frames = candidates.shape
    count = candidates.sum(axis=1)
    for _ in range(3):
        count = (rng.random(num_points) * count).astype(int) + (count > 0)
    score = np.where(candidates, rng.random(candidates.shape), 2.0)
    chosen = score.argsort(axis=1).argsort(axis=1) < count[:, None]
    frames = np.arange(num_frames)
    distance = np.where(chosen[:, None, :], np.abs(frames[:, None] - frames), num_frames)
    held = distance.argmin(axis=2)
    nearest = np.take_along_axis(distance, held[:, :, None], axis=2)[:, :, 0]
    radius = rng.integers(MAX_HOLD + 1, size=(num_points, 1))
    return nearest <= np.minimum(radius, num_frames - 1), held


def _hide_together(
    source_visible: Bool[np.ndarray, "N T"], target_visible: Bool[np.ndarray, "N T"]
) -> tuple[Bool[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
    """Hides a point in both clips when it is visible in only one of them."""
    both = source_visible.any(axis=1, keepdims=True) & target_visible.any(axis=1, keepdims=True)
    return source_visible & both, target_visible & both
