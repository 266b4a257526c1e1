"""Point trackers: from a video and query points to tracks through the whole clip, before and after each query.

A tracker is any object with the method `track(frames, queries) -> Tracks`. `get("classical")` builds one by name; a
tracker's options are the keyword arguments of `get`.
"""

from typing import Protocol, runtime_checkable

from motionv2v.trackers.classical import LucasKanade
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Num, UInt8

__all__ = ["LucasKanade", "Tracker", "get"]


@runtime_checkable
class Tracker(Protocol):
    """Follow points through a video."""

    def track(self, frames: UInt8[AnyArray, "T H W 3"], queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Follow each query (t, x, y) through all frames and return xy [N T 2] in pixels and visible [N T].

        x and y are in pixels of `frames` with (0, 0) at the corner of the top-left pixel; t is a whole frame index.
        Where a point is not visible, xy holds its position in the nearest frame (towards the query) where it was.
        Raises ValueError for queries outside the clip.
        """
        ...


def _classical(mode: str = "lk", **options) -> Tracker:
    """Build a tracker that needs no weights; `mode` names the method."""
    modes = {"lk": LucasKanade}
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r} of the classical tracker; available: {', '.join(sorted(modes))}")
    return modes[mode](**options)


_TRACKERS = {"classical": _classical}


def get(name: str, **options) -> Tracker:
    """Build the tracker of this name, passing it `options`; raise ValueError naming the trackers and options there are.

    "classical" takes mode="lk" (pyramidal Lucas-Kanade) and the fields of `trackers.LucasKanade`.
    """
    if name not in _TRACKERS:
        raise ValueError(f"unknown tracker {name!r}; available: {', '.join(sorted(_TRACKERS))}")
    try:
        return _TRACKERS[name](**options)
    except TypeError as error:  # an option that the tracker does not have
        fields = ", ".join(LucasKanade.__dataclass_fields__)
        raise ValueError(f"tracker {name!r}: {error}; available options: mode, {fields}") from None
