"""Follow points by dense optical flow, chained from frame to frame: mode "dis" of the classical tracker. No weights.

A point is handed from frame to frame and is given up for good at the first step that does not lead back. What is
claimed to be seen is nearly always right: for building data. The flow costs the same for one point and for thousands.
Where a point is claimed invisible, `xy` goes on along the flow and is a guess.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from motionv2v import progress
from motionv2v.stacks import Lazy
from motionv2v.trackers.classical import check_frames, check_queries, enlarge, enlargement
from motionv2v.trackers.flows import Flows, is_inside
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, Int, Num, UInt8

Follow = Callable[..., tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"], Float[np.ndarray, "N T"]]]
"""`follow(flows, start, points, back)`: xy, visibility and confidence from frame `start` [N] on, or `back` from it."""

Watch = Callable[[int, Float[np.ndarray, "M 2"]], None]
"""`watch(t, places)`: where points seem to be in frame t, in pixels, when that is first known."""


class FlowTracker:
    """What trackers by dense flow share; each has the fields `min_side` and `memory`, and `_follow`, see `Follow`."""

    def track(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Follow queries (t, x, y) through all frames; return xy float32 [N T 2] in pixels and visible [N T].

        Raises ValueError for queries that `trackers.Tracker` does not allow.
        """
        return self.track_with_confidence(frames, queries)[0]

    def track_with_confidence(
        self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]
    ) -> tuple[Tracks, Float[np.ndarray, "N T"]]:
        """Track as `track` does, and say how far to trust it, 0 to 1; 0 where the point is not visible."""
        frames = check_frames(frames)
        return self.for_clip(frames).track_with_confidence(frames, queries)

    def for_clip(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, watch: Watch | None = None) -> "ClipTracker":
        """Return a tracker that computes the flows of this clip once for all its calls, and keeps them while it lives.

        It keeps up to `memory` bytes. The frames must not be changed meanwhile. `watch`: see `trackers.for_clip`.
        Raises ValueError unless the frames are uint8 RGB.
        """
        frames = check_frames(frames)
        scale = enlargement(frames.shape[1:3], self.min_side)
        side = getattr(self, "flow_side", 0)
        fraction = max(1, scale * min(frames.shape[1:3]) // side) if side else 1
        flows = Flows(enlarge(frames, scale), self.memory, fraction)
        if watch is not None:
            flows.watch = lambda t, places: watch(t, (places + 0.5) / scale)
        return ClipTracker(self, frames, flows)


class ClipTracker:
    """A tracker by dense flow with the flows of one clip; other clips are left to the tracker that it comes from."""

    def __init__(self, tracker: Any, frames: UInt8[np.ndarray, "T H W 3"] | Lazy, flows: Flows):
        """Keep a tracker, a clip and its flows; see `FlowTracker.for_clip`."""
        self._tracker, self._frames, self._flows = tracker, frames, flows

    def track(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Track as the tracker does that this one comes from."""
        return self.track_with_confidence(frames, queries)[0]

    def track_with_confidence(
        self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]
    ) -> tuple[Tracks, Float[np.ndarray, "N T"]]:
        """Track as the tracker does that this one comes from: check the queries, follow both ways, join the two."""
        frames, queries = check_frames(frames), np.asarray(queries, np.float64)
        if frames is not self._frames:
            return self._tracker.track_with_confidence(frames, queries)
        check_queries(queries, frames.shape)
        follow, flows, scale = self._tracker._follow, self._flows, self._flows.shape[0] // frames.shape[1]
        start = queries[:, 0].astype(np.int64)
        # OpenCV puts (0, 0) at the centre of the top-left pixel, this package at its corner.
        points = queries[:, 1:] * scale - 0.5
        before = np.arange(len(frames)) < start[:, None]
        halves = zip(follow(flows, start, points, False), follow(flows, start, points, True), strict=True)
        joined = [np.where(before[..., None] if after.ndim == 3 else before, back, after) for after, back in halves]
        xy, visible, confidence = joined
        return Tracks(((xy + 0.5) / scale).astype(np.float32), visible), confidence.astype(np.float32)


@dataclass(frozen=True)
class DenseChain(FlowTracker):
    """Chain DIS flow from frame to frame, checked there and back.

    All lengths are in pixels of the frames as tracked, that is enlarged where the clip is small.

    Confidence is 1 / (1 + the there-and-back errors up to here in pixels).

    max_error: a point is lost for good at the first step that misses it by this many pixels or more when followed back;
        the default is half a pixel in x and in y.
    max_drift: a point is lost for good when the misses of all its steps add up to more than this many pixels; inf sets
        no limit. Where positions are wrong without one bad step, they have drifted.
    min_side: frames with a shorter side below this are enlarged by a whole factor to reach it; 0 never enlarges.
    memory: bytes that kept flows may take; a clip that needs more takes up to twice the time instead.
    say: what to do with a line about how long the rest takes, where it takes long; None for nothing.
    """

    max_error: float | int = 0.7
    max_drift: float | int = 5.0
    min_side: int = 128
    memory: int = 2**28
    say: Callable[[str], None] | None = None

    def __post_init__(self):
        """Raise ValueError for options out of range."""
        check_options(self.max_error, self.min_side, self.memory)
        if not self.max_drift > 0:
            raise ValueError(f"max_drift must be above 0 pixels, given {self.max_drift}")

    def _follow(self, flows: Flows, start: Int[np.ndarray, "N"], points: Float[np.ndarray, "N 2"], back: bool):
        """Follow points from frame `start` [N] to the last frame, or back to the first."""
        xy, visible, error = unmoved(start, points, len(flows))
        for t, before, on in steps(start, len(flows), back, self.say):
            moved, missed = flows.move(before, t, xy[on, before])
            xy[on, t], error[on, t] = moved, error[on, before] + missed
            good = (missed < self.max_error) & (error[on, t] <= self.max_drift) & is_inside(moved, flows.shape)
            visible[on, t] = visible[on, before] & good
        return xy, visible, np.where(visible, 1 / (1 + error), 0)


def check_options(max_error: float | int, min_side: int, memory: int) -> None:
    """Raise ValueError for options out of range."""
    if not max_error > 0:
        raise ValueError(f"max_error must be above 0 pixels, given {max_error}")
    if not 0 <= min_side <= 2048:
        raise ValueError(f"min_side must be 0 to 2048 pixels, given {min_side}")
    if not memory > 0:
        raise ValueError(f"memory must be above 0 bytes, given {memory}")


def unmoved(
    start: Int[np.ndarray, "N"], points: Float[np.ndarray, "N 2"], num_frames: int
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"], Float[np.ndarray, "N T"]]:
    """Return positions that stay at the query, visibility in the query frame only, and errors of zero."""
    visible = np.arange(num_frames) == start[:, None]
    return np.repeat(points[:, None], num_frames, axis=1), visible, np.zeros(visible.shape)


def steps(
    start: Int[np.ndarray, "N"], num_frames: int, back: bool, say: Callable[[str], None] | None = None
) -> Iterator[tuple[int, int, Int[np.ndarray, "M"]]]:
    """Yield each frame to reach, the frame before it in the direction of travel, and the points that are under way."""
    if not start.size:
        return
    order = range(int(start.max()) - 1, -1, -1) if back else range(int(start.min()) + 1, num_frames)
    for t in progress.counted(order, "back through frame" if back else "through frame", say):
        before = t + 1 if back else t - 1
        yield t, before, np.flatnonzero(start >= before if back else start <= before)
