"""Follow points with pyramidal Lucas-Kanade optical flow: no weights, well under a second for a small clip.

A point is handed from frame to frame, forwards and backwards from its query frame, on the colour pictures. Each
hand-over is checked by following the point back again: where it does not return to within `max_error` pixels, other
window sizes are tried, and if none succeeds the point is lost. It is lost as well where its surroundings stop looking
like those in the query frame, which is how a passing object shows. A lost point is looked for in every later frame,
near where it was last seen, starting from the query frame's own picture.

Small frames are enlarged first: the windows are fixed in pixels, and on a 64x64 clip they would span a third of the
picture.

Coordinates: OpenCV puts (0, 0) at the centre of the top-left pixel, this package at its corner, so half a pixel is
subtracted on the way in and added on the way out, here and nowhere else.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.stacks import Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, Num, UInt8
from motionv2v.video import resize

_PATCH = 9  # side in pixels of the patch by which a point is recognised
_MARGIN = 64  # pixels around a few points that are cut out before they are searched, which is faster than whole frames


@dataclass(frozen=True)
class LucasKanade:
    """Track points with OpenCV's pyramidal Lucas-Kanade, checked there and back.

    All lengths are in pixels of the frames as tracked, that is enlarged where the clip is small.

    max_error: largest distance in pixels between a point and itself followed one frame on and back again.
    windows: odd sides in pixels of the compared squares, at least 3, in the order in which they are tried: the next one
        only for points that the ones before could not follow.
    levels: pyramid levels above the full resolution, 0 to 8; None chooses them so that the coarsest short side is about
        16 pixels.
    min_side: frames with a shorter side below this are enlarged by a whole factor to reach it; 0 never enlarges.
    max_change: largest mean absolute colour difference (0 to 255) between a point's 9x9 patch and the query's; None
        never compares them.
    reacquire: whether lost points are looked for again; they come back only where they pass both checks.
    """

    max_error: float | int = 1.0
    windows: tuple[int, ...] = (21, 13, 41)
    levels: int | None = None
    min_side: int = 128
    max_change: float | int | None = 30.0
    reacquire: bool = True

    def __post_init__(self):
        """Raise ValueError for options out of range."""
        if not self.max_error > 0:
            raise ValueError(f"max_error must be above 0 pixels, given {self.max_error}")
        if not self.windows or any(window < 3 or window % 2 == 0 for window in self.windows):
            raise ValueError(f"windows must be odd numbers of pixels, each at least 3, given {self.windows}")
        if self.levels is not None and not 0 <= self.levels <= 8:
            raise ValueError(f"levels must be 0 to 8 or None, given {self.levels}")
        if not 0 <= self.min_side <= 2048:
            raise ValueError(f"min_side must be 0 to 2048 pixels, given {self.min_side}")
        if self.max_change is not None and not self.max_change > 0:
            raise ValueError(f"max_change must be above 0 colour values or None, given {self.max_change}")

    def track(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Follow queries (t, x, y) through all frames; return xy float32 [N T 2] in pixels and visible [N T].

        A point is visible in its query frame. Where it is invisible (lost, covered, or outside the picture), xy keeps
        the last position that was seen, counted from the query frame. Raises ValueError for queries that are not [N 3],
        have a fractional t, lie outside the clip, or are not finite, and for frames that are not uint8 RGB.
        """
        return self.track_with_confidence(frames, queries)[0]

    def track_with_confidence(
        self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]
    ) -> tuple[Tracks, Float[AnyArray, "N T"]]:
        """Track, and say how far to trust it: 1 / (1 + there-and-back errors up to here in pixels), 0 where invisible.

        A point that was found again counts only what it missed from the query's picture to there.
        """
        frames, queries = check_frames(frames), np.asarray(queries, np.float64)
        check_queries(queries, frames.shape)
        scale = enlargement(frames.shape[1:3], self.min_side)
        pictures = enlarge(frames, scale)
        start = queries[:, 0].astype(np.int64)
        points = (queries[:, 1:] * scale - 0.5).astype(np.float32)
        with ThreadPoolExecutor(1) as other:  # most calls are too small for OpenCV to share them between its threads
            forward = other.submit(self._follow, pictures, start, points)
            backward, backward_confidence = self._follow(pictures[::-1], len(frames) - 1 - start, points)
            forward, forward_confidence = forward.result()
        before = np.arange(len(frames)) < start[:, None]
        xy = np.where(before[..., None], backward.xy[:, ::-1], forward.xy)
        visible = np.where(before, backward.visible[:, ::-1], forward.visible)
        confidence = np.where(before, backward_confidence[:, ::-1], forward_confidence)
        return Tracks(((xy + 0.5) / scale).astype(np.float32), visible), confidence.astype(np.float32)

    def _follow(
        self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, start: AnyArray, points: Float[AnyArray, "N 2"]
    ) -> tuple[Tracks, Float[AnyArray, "N T"]]:
        """Follow points forwards from frame `start` [N]; every step moves all points that are visible in one call."""
        num_points, num_frames = len(points), len(frames)
        xy = np.repeat(points[:, None], num_frames, axis=1)
        visible = np.zeros((num_points, num_frames), bool)
        visible[np.arange(num_points), start] = True
        error = np.zeros((num_points, num_frames))
        patches = np.zeros((num_points, _PATCH**2, 3), np.float32)
        for t in range(num_frames - 1):
            new = np.flatnonzero(start == t)
            patches[new] = cut_patches(frames[t], points[new])
            groups = [(t, np.flatnonzero(visible[:, t]), xy[:, t])]
            if self.reacquire:
                lost = (start < t) & ~visible[:, t]
                groups += [(first, np.flatnonzero(lost & (start == first)), points) for first in np.unique(start[lost])]
            for first, chosen, origin in groups:
                guess = xy[chosen, t]
                moved, good, missed = self._flow(frames[first], frames[t + 1], origin[chosen], guess)
                if self.max_change is not None:
                    change = np.abs(cut_patches(frames[t + 1], moved) - patches[chosen]).mean(axis=(1, 2))
                    good &= change <= self.max_change
                xy[chosen[good], t + 1 :] = moved[good, None]
                visible[chosen[good], t + 1] = True
                error[chosen, t + 1] = missed + (error[chosen, t] if first == t else 0)
        return Tracks(xy, visible), np.where(visible, 1 / (1 + error), 0)

    def _flow(
        self,
        old: UInt8[AnyArray, "H W 3"],
        new: UInt8[AnyArray, "H W 3"],
        points: Float[AnyArray, "N 2"],
        guess: Float[AnyArray, "N 2"],
    ) -> tuple[Float[AnyArray, "N 2"], Bool[AnyArray, "N"], Float[AnyArray, "N"]]:
        """Find points of `old` in `new`, starting from `guess`; say which return when followed back, and how nearly."""
        moved, good, missed = guess.copy(), np.zeros(len(points), bool), np.zeros(len(points))
        levels = max(0, int(np.log2(min(old.shape[:2]) / 16))) if self.levels is None else self.levels
        for window in self.windows:
            rest = np.flatnonzero(~good)
            if rest.size == 0:
                break
            box, corner = _box(old.shape, points[rest], guess[rest])
            here, there = points[rest] - corner, guess[rest] - corner
            # OpenCV's default threshold on texture gives up the smooth surfaces that colour and the check can follow.
            options = dict(winSize=(window, window), maxLevel=levels, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
            options["minEigThreshold"] = 1e-6
            a, b = np.ascontiguousarray(old[box]), np.ascontiguousarray(new[box])
            there, found, _ = cv2.calcOpticalFlowPyrLK(a, b, here[:, None], there[:, None].copy(), **options)
            back = there + (points[rest] - guess[rest])[:, None]
            back, returned, _ = cv2.calcOpticalFlowPyrLK(b, a, there, back, **options)
            error = np.linalg.norm(back[:, 0] - here, axis=-1)
            moved[rest], missed[rest] = there[:, 0] + corner, error
            # In OpenCV's coordinates the picture reaches from -0.5 to width - 0.5.
            inside = np.all((moved[rest] >= -0.5) & (moved[rest] <= np.array(new.shape[1::-1]) - 0.5), axis=-1)
            good[rest] = (found[:, 0] == 1) & (returned[:, 0] == 1) & (error < self.max_error) & inside
        return moved, good, missed


def check_frames(frames: AnyArray | Lazy) -> UInt8[np.ndarray, "T H W 3"] | Lazy:
    """Return frames as an array, or as the stack they are; raise ValueError unless they are uint8 RGB [T H W 3].

    Every tracker calls it: OpenCV would fail in words of its own, or take other numbers for colours. The error says
    what to do.
    """
    frames = frames if isinstance(frames, stacks.Stored) else np.asarray(frames)
    is_clip = frames.ndim == 4 and 0 not in frames.shape
    if is_clip and frames.dtype == np.uint8 and frames.shape[-1] == 3:
        return frames
    advice = ""
    if is_clip and frames.dtype.kind == "f":
        advice = "; of floats from 0 to 1, (255 * frames).round().astype(np.uint8) makes them"
    elif is_clip and frames.shape[-1] == 4:
        advice = "; of RGBA, frames[..., :3] does without the fourth channel"
    raise ValueError(
        f"frames to track must be uint8 RGB [T H W 3], at least one, given {frames.dtype} {list(frames.shape)}{advice}"
    )


def check_queries(queries: Num[AnyArray, "..."], shape: tuple[int, ...]) -> None:
    """Raise ValueError, naming the first bad query, unless queries are [N 3] (t, x, y) inside a clip [T H W 3]."""
    num_frames, height, width = shape[:3]
    if queries.ndim != 2 or queries.shape[1] != 3:
        raise ValueError(f"queries must be [N 3], each (t, x, y), given the shape {list(queries.shape)}")
    t, x, y = queries.T
    tests = [
        (~np.isfinite(queries).all(axis=1), "must be finite numbers"),
        (t != np.round(t), "needs a whole frame index t"),
        ((t < 0) | (t >= num_frames), f"has t outside the clip, whose frames are 0 to {num_frames - 1}"),
        ((x < 0) | (x > width) | (y < 0) | (y > height), f"lies outside the frame of {width}x{height} pixels"),
    ]
    for bad, problem in tests:
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            given = ", ".join(f"{value:g}" for value in queries[index])
            raise ValueError(f"query {index} (t, x, y) = ({given}) {problem}")


def enlargement(size: tuple[int, int], min_side: int = LucasKanade.min_side) -> int:
    """Return the whole factor by which frames of size (H, W) are enlarged, so that their short side is `min_side`."""
    return max(1, -(-min_side // min(size)))


def enlarge(frames: UInt8[AnyArray, "T H W 3"] | Lazy, scale: int) -> UInt8[AnyArray, "T h w 3"] | Lazy:
    """Enlarge frames by a whole factor. Positions counted from the corner are multiplied by it."""
    if scale == 1:
        return frames
    size = (frames.shape[1] * scale, frames.shape[2] * scale)
    larger = stacks.zeros((len(frames), *size, 3), np.uint8)
    for t, frame in enumerate(frames):
        larger[t] = resize(frame, size)
    return larger


def cut_patches(
    picture: UInt8[AnyArray, "H W *C"], points: Float[AnyArray, "N 2"], side: int = _PATCH, spacing: float = 1.0
) -> Float[AnyArray, "N P *C"]:
    """Cut a square of side^2 = P samples, `spacing` pixels apart, around each point; interpolated, float32.

    Points are in OpenCV's coordinates. The frame's edge pixels continue outside it.
    """
    steps = spacing * (np.arange(side, dtype=np.float32) - side // 2)
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    if len(points) == 0:
        return np.zeros((0, len(offsets), *picture.shape[2:]), np.float32)
    grid = (points[:, None] + offsets).astype(np.float32)
    parts = [  # cv2.remap takes at most 32767 rows at a time
        cv2.remap(picture, part[..., 0], part[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.array_split(grid, -(-len(grid) // 32000))
    ]
    return np.concatenate(parts).astype(np.float32)


def _box(shape: tuple[int, ...], *points: Float[AnyArray, "N 2"]) -> tuple[tuple[slice, slice], Float[AnyArray, "2"]]:
    """Return the rows and columns that hold all points with a margin, and the (x, y) of their first pixel."""
    both = np.concatenate(points)
    limit = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(both.min(axis=0)) - _MARGIN, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(both.max(axis=0)) + _MARGIN + 1, low + 1, limit).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])), low.astype(np.float32)
