"""Point trackers: from a video and query points to tracks through the whole clip, before and after each query.

A tracker is any object with the method `track(frames, queries) -> Tracks`. `get("classical")` builds one by name; a
tracker's options are the keyword arguments of `get`.

The classical trackers also have `track_with_confidence(frames, queries) -> (Tracks, confidence [N T])`: 0 where the
point is not visible, 1 for the query itself, and between them higher where the position is more to be relied on. The
numbers order the positions of one tracker; they are no probabilities and are not to be compared between trackers.
"""

import inspect
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from motionv2v.stacks import Lazy
from motionv2v.trackers.classical import LucasKanade
from motionv2v.trackers.dense import DenseChain, Watch
from motionv2v.trackers.given import GivenTracks
from motionv2v.trackers.multistep import MultiStep
from motionv2v.trackers.tapnext import TapNextTracker
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Num, UInt8

__all__ = [
    "CLASSICAL_MODES",
    "DEFAULT",
    "GIVEN",
    "DenseChain",
    "GivenTracks",
    "LucasKanade",
    "MultiStep",
    "TapNextTracker",
    "Tracker",
    "Watch",
    "for_clip",
    "get",
    "named",
]


@runtime_checkable
class Tracker(Protocol):
    """Follow points through a video."""

    def track(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Follow each query (t, x, y) through all frames and return xy [N T 2] in pixels and visible [N T].

        x and y are in pixels of `frames` with (0, 0) at the corner of the top-left pixel; t is a whole frame index.
        Where a point is not visible, xy holds the tracker's best guess, which is finite ("lk": the last position it
        saw; "dis" and "multistep": where the flow leads).
        Raises ValueError for queries outside the clip, and for frames of another kind.
        """
        ...


_MODES = {"lk": LucasKanade, "dis": DenseChain, "multistep": MultiStep}
CLASSICAL_MODES = tuple(_MODES)
"""What `get("classical", mode=...)` takes; the first is the default."""
DEFAULT = "multistep"
"""The tracker that edits a person's clip best."""
GIVEN = "tracks"
"""How the name begins of tracks that a file holds: "tracks:FILE"."""


def _classical(mode: str = "lk", **options) -> Tracker:
    """Build a tracker that needs no weights; `mode` names the method."""
    if mode not in _MODES:
        raise ValueError(f"unknown mode {mode!r} of the classical tracker; available: {', '.join(_MODES)}")
    fields = _MODES[mode].__dataclass_fields__
    for name in options:
        if name not in fields:
            raise ValueError(
                f"tracker 'classical' with mode {mode!r} has no option {name!r}; "
                f"available options: mode, {', '.join(fields)}"
            )
    return _MODES[mode](**options)


def _tapnext(**options) -> Tracker:
    """Build the tracker with TAPNext's weights, which reads them."""
    fields = list(inspect.signature(TapNextTracker).parameters)
    wrong = [name for name in options if name not in fields]
    if wrong or "checkpoint" not in options:
        problem = f"has no option {wrong[0]!r}" if wrong else "needs checkpoint=, the path of its .npz file"
        raise ValueError(f"tracker 'tapnext' {problem}; available options: {', '.join(fields)}")
    return TapNextTracker(**options)


_TRACKERS = {"classical": _classical, "tapnext": _tapnext}


def get(name: str, **options) -> Tracker:
    """Build the tracker of this name, passing it `options`; raise ValueError naming the trackers and options there are.

    "classical" takes mode="lk" (pyramidal Lucas-Kanade: fastest for some dozens of points), mode="dis" (dense flow, few
    wrong claims: for building data) or mode="multistep" (dense flow in steps of several lengths, which finds points
    again: for editing), and the fields of `trackers.LucasKanade`, `DenseChain` or `MultiStep`.
    "tapnext" takes checkpoint="bootstapnext_ckpt.npz" and the other arguments of `trackers.TapNextTracker`.
    """
    if name not in _TRACKERS:
        raise ValueError(f"unknown tracker {name!r}; available: {', '.join(sorted(_TRACKERS))}")
    return _TRACKERS[name](**options)


def named(name: str = DEFAULT, say: Callable[[str], None] | None = None) -> Tracker:
    """Build the tracker that a person names in one word: a mode of the classical one, "tapnext:FILE" with its weights,
    or "tracks:FILE": the tracks in an .npz file, one for each query, which an editor has made or corrected.

    `say` is called with lines about the time that is left, by those that take long.

    Raises ValueError, one line, for another name, and as the tracker does where its weights cannot be read.
    """
    if name in _MODES:
        return get("classical", mode=name, **({} if name == "lk" else {"say": say}))
    kind, _, weights = name.partition(":")
    if kind == GIVEN and weights:
        return GivenTracks(weights)
    if kind == "tapnext" and weights:
        return get("tapnext", checkpoint=weights)
    if kind == "tapnext":
        raise ValueError("tapnext needs its weights, such as tapnext:bootstapnext_ckpt.npz")
    raise ValueError(
        f"there is no tracker {name!r}; available: {', '.join(_MODES)}, tapnext:FILE with its weights, tracks:FILE.npz"
    )


def for_clip(tracker: Tracker, frames: UInt8[AnyArray, "T H W 3"] | Lazy, watch: Watch | None = None) -> Tracker:
    """Return a tracker for several calls with this clip, whose work the calls share where the tracker knows how to.

    The classical modes "dis" and "multistep" do: they keep the clip's flows until the returned tracker is dropped. The
    results are the same. These also tell how far they are: `watch(t, places [M 2])` is called with the places in frame
    t that points under way seem to have, before they are settled, perhaps several times; what it raises ends the call.
    """
    return tracker.for_clip(frames, watch) if hasattr(tracker, "for_clip") else tracker
