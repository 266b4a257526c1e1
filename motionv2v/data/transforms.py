"""Transforms of a clip and its tracks together: crops, sizes, frame indices, and random masks over time.

Videos are uint8 [T H W 3], tracks in pixels of the same clip. Whatever moves pixels moves points by the same map, with
(0, 0) at the corner of the top-left pixel; OpenCV puts it at that pixel's centre, and this module is where the half
pixel is added and taken away. Numpy and OpenCV only. Random functions take a numpy Generator first.
"""

from typing import NamedTuple

import cv2
import numpy as np

from motionv2v import tracks
from motionv2v.tracks import Tracks, crop, resize, warp
from motionv2v.typing import Bool, Float, Int, UInt8

SPEEDS = ("regular", "half", "half_middle", "half_second_half", "two_thirds", "two_thirds_middle", "two_thirds_later")
"""Names of the speed presets: how slow, and which part of the slowed clip is shown (the paper's released code)."""


class TrackedClip(NamedTuple):
    """A video and the tracks of points in it, in the video's pixels."""

    frames: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks


def warp_video(
    frames: UInt8[np.ndarray, "T H W 3"], homographies: Float[np.ndarray, "M 3 3"], size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Moves the pixels of frame t by the homography of frame t, bilinearly; what comes from outside repeats the edge.

    The result has `size` (H, W), by default the input's. Raises ValueError for another number of homographies.
    """
    if len(homographies) != len(frames):
        raise ValueError(f"warp_video needs one homography per frame: {len(frames)} frames, {len(homographies)} given")
    height, width = frames.shape[1:3] if size is None else size
    to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    to_centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    warped = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, homography, out in zip(frames, homographies, warped, strict=True):
        matrix = to_centre @ homography @ to_corner
        # A result of its own, then a copy: OpenCV may replace a destination that is not laid out as it likes.
        out[:] = cv2.warpPerspective(
            frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return warped


def sliding_crop(clip: TrackedClip, homographies: Float[np.ndarray, "T 3 3"]) -> TrackedClip:
    """Follows a moving crop (`camera.random_crop_path`) with video and tracks; the size stays.

    Points that the crop leaves out keep their visibility and lie outside the frame, as in the paper's released code.
    """
    return TrackedClip(warp_video(clip.frames, homographies), warp(clip.tracks, homographies))


def cover_crop(clip: TrackedClip, size: tuple[int, int]) -> TrackedClip:
    """Scales a clip until it just covers `size` (H, W), keeping its aspect ratio, and cuts out the centre.

    Shrinking averages over pixel areas, growing is bilinear. Raises ValueError for a size that is not positive.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"cover_crop needs a positive size (H, W), got {tuple(size)}")
    old_height, old_width = clip.frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return clip
    factor = max(height / old_height, width / old_width)
    new = (max(round(old_height * factor), height), max(round(old_width * factor), width))
    top, left = (new[0] - height) // 2, (new[1] - width) // 2
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    frames = np.stack(
        [
            cv2.resize(frame, (new[1], new[0]), interpolation=method)[top : top + height, left : left + width]
            for frame in clip.frames
        ]
    )
    resized = resize(clip.tracks, (old_height, old_width), new)
    return TrackedClip(frames, crop(resized, top, left))


def take_frames(clip: TrackedClip, indices: Int[np.ndarray, "S"]) -> TrackedClip:
    """Takes frames of video and tracks by index, in order. Raises ValueError for a frame that does not exist."""
    num_frames = len(clip.frames)
    outside = indices[(indices < 0) | (indices >= num_frames)]
    if outside.size:
        raise ValueError(f"there is no frame {outside[0]}: the clip has frames 0..{num_frames - 1}")
    return TrackedClip(clip.frames[indices], tracks.take_frames(clip.tracks, indices))


def resample_indices(num_in: int, num_out: int) -> Int[np.ndarray, "S"]:
    """Spreads `num_out` frame indices evenly over `num_in` frames, both ends included; halves round to even.

    Raises ValueError for counts below 1.
    """
    if num_in < 1 or num_out < 1:
        raise ValueError(f"resample_indices needs counts of at least 1, got num_in={num_in}, num_out={num_out}")
    if num_out == 1:
        return np.zeros(1, int)
    return np.round(np.arange(num_out) * (num_in - 1) / (num_out - 1)).astype(int)


def speed_indices(name: str, num_frames: int) -> Int[np.ndarray, "T"]:
    """Gives the source frame of each of T frames under a speed preset: the clip stretched in time, then cut back to T.

    "half" stretches to 2T frames and takes the first T, "half_middle" and "half_second_half" the middle and last ones;
    "two_thirds" stretches to 1.5 T; "two_thirds_later" takes what "two_thirds" leaves over and stretches it to T.
    Raises ValueError for an unknown name or an empty clip.
    """
    if name not in SPEEDS:
        raise ValueError(f"unknown speed {name!r}: choose one of {', '.join(SPEEDS)}")
    if name == "regular":
        return resample_indices(num_frames, num_frames)
    length = 2 * num_frames if name.startswith("half") else 3 * num_frames // 2
    stretched = resample_indices(num_frames, length)
    if name == "half_second_half":
        return stretched[-num_frames:]
    if name == "two_thirds_later":
        rest = stretched[num_frames:]
        return rest[resample_indices(len(rest), num_frames)]
    start = (length - num_frames) // 2 if name.endswith("_middle") else 0
    return stretched[start : start + num_frames]


def window_indices(rng: np.random.Generator, num_available: int, num_frames: int) -> Int[np.ndarray, "T"]:
    """Draws a contiguous window of T frames, its start uniform in 0..num_available - T (the paper, section 3.2).

    Raises ValueError for a clip shorter than the window.
    """
    if num_available < num_frames:
        raise ValueError(f"a window of {num_frames} frames does not fit a clip of {num_available}")
    return int(rng.integers(num_available - num_frames + 1)) + np.arange(num_frames)


def shuffle_indices(rng: np.random.Generator, num_frames: int, max_segments: int = 4) -> Int[np.ndarray, "T"]:
    """Cuts a clip at random into 2..max_segments pieces and puts them together in another order, some of them reversed.

    Within a piece motion stays smooth. Every frame appears once, and the order is never the clip's own (the paper's
    figure 4 shuffles generated clips in time and states no numbers). Raises ValueError for fewer than 2 frames or
    pieces.
    """
    if num_frames < 2 or max_segments < 2:
        raise ValueError(f"a shuffle needs 2 frames and 2 pieces, got {num_frames} frames, max_segments={max_segments}")
    frames = np.arange(num_frames)
    while True:
        count = int(rng.integers(2, min(max_segments, num_frames) + 1))
        cuts = np.sort(rng.choice(frames[1:], size=count - 1, replace=False))
        pieces = [piece[::-1] if rng.random() < 0.5 else piece for piece in np.split(frames, cuts)]
        order = np.concatenate([pieces[index] for index in rng.permutation(count)])
        if (order != frames).any():
            return order


def temporal_dropout(rng: np.random.Generator, num_frames: int, proportion: float) -> Bool[np.ndarray, "T"]:
    """Draws a keep mask over frames, made of whole segments, that keeps each frame with probability `proportion`.

    The clip is cut at U{0..T-1} random places; with q = u^(1/proportion - 1), u ~ U(0, 1), each segment is kept with
    probability q, so q's mean is `proportion` and all-kept and nearly-nothing-kept masks are common. One random frame
    is kept when no segment is. Raises ValueError for a proportion outside [0, 1].
    """
    if not 0 <= proportion <= 1:
        raise ValueError(f"temporal_dropout needs a proportion in [0, 1], got {proportion}")
    return temporal_dropout_masks(rng, num_frames, np.array([proportion], np.float64))[0]


def temporal_dropout_masks(
    rng: np.random.Generator, num_frames: int, proportions: Float[np.ndarray, "N"]
) -> Bool[np.ndarray, "N T"]:
    """Draws one `temporal_dropout` mask per proportion, all at once."""
    count = len(proportions)
    rows = np.arange(count)
    cuts = rng.integers(num_frames, size=count)
    # Of the T-1 places between frames, the `cuts` with the smallest random numbers become cuts.
    order = rng.random((count, num_frames - 1)).argsort(axis=1).argsort(axis=1)
    segment = np.zeros((count, num_frames), int)
    segment[:, 1:] = (order < cuts[:, None]).cumsum(axis=1)
    with np.errstate(divide="ignore"):
        keep_probability = rng.random(count) ** (1 / np.asarray(proportions) - 1)
    keep_segment = rng.random((count, num_frames)) < keep_probability[:, None]
    keep = keep_segment[rows[:, None], segment]
    spared = rng.integers(num_frames, size=count)
    keep[rows, spared] |= ~keep.any(axis=1)
    return keep
