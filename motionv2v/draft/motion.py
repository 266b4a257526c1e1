"""How what a draft shows moves in it: points of any of its frames followed, and the flow from frame to frame.

A thing moves as a whole, as it was drawn. The background goes as the clip's own pixels go, by dense flow, under the
motion that the draft's camera adds; where the flow loses it, or the draft shows what the clip hides there, it goes as
the ground does.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

from motionv2v import trackers
from motionv2v.draft import background, pictures
from motionv2v.draft.clip import Prepared
from motionv2v.draft.compose import Draft
from motionv2v.tracks import Tracks, apply_homography, inside
from motionv2v.typing import Bool, Float, Int

ALIKE = 16
"""Grey levels by which a pixel of a draft may differ from the clip's and still be the clip's own."""


class Followed(NamedTuple):
    """Points of one frame of a draft, followed.

    Attributes:
        tracks: [N T], through the draft. layer: [N], what each point is on, as `Draft.layer` counts.
        frame, place: [N], [N 2], the frame of the clip that it is taken from, and where it is there.
    """

    tracks: Tracks
    layer: Int[np.ndarray, "N"]
    frame: Int[np.ndarray, "N"]
    place: Float[np.ndarray, "N 2"]


def follow(
    drawn: Draft, clip: Prepared, points: Float[np.ndarray, "N 2"], begin: int = 0, tracker: Any = None
) -> Followed:
    """Follow points of a frame of a draft through all of it.

    Args:
        drawn: with its maps and courses, see `check`. clip: what it was drawn from.
        points: in pixels, inside the frame `begin`.
        tracker: of the clip's background, as `trackers.named` builds one; None takes the default.

    Raises:
        ValueError: for a draft without its maps.
    """
    check(drawn)
    points = np.asarray(points, np.float64)
    size, length = drawn.layer.shape[1:], len(drawn.layer)
    layer = drawn.layer[begin][_cells(points, size)].astype(int)
    xy, visible = np.zeros((len(points), length, 2)), np.zeros((len(points), length), bool)
    frame, place = np.zeros(len(points), int), np.zeros((len(points), 2))
    for name, course in enumerate(drawn.courses):
        own = np.flatnonzero(layer == name)
        if not len(own):
            continue
        frame[own] = course.frame[begin]
        place[own] = background.move(np.linalg.inv(course.way[begin]), points[own])
        if name:
            moved = course.pose @ np.linalg.inv(course.pose[begin])
            xy[own] = apply_homography(moved, np.repeat(points[own, None], length, axis=1))
            visible[own] = True
        else:
            tracker = tracker or trackers.named()
            xy[own], visible[own] = _follow_ground(drawn, clip, points[own], place[own], begin, tracker)
    visible &= inside(xy, size)
    for t in range(length):
        visible[:, t] &= drawn.layer[t][_cells(xy[:, t], size)] == layer
    xy[:, begin], visible[:, begin] = points, True
    return Followed(Tracks(xy.astype(np.float32), visible), layer, frame, place)


def flow(drawn: Draft, clip: Prepared, t: int, to: int | None = None) -> Float[np.ndarray, "H W 2"]:
    """Return by how many pixels what frame t of a draft shows moves to frame `to`, the next one by default.

    Other arguments and errors are those of `follow`.
    """
    check(drawn)
    to = t + 1 if to is None else to
    size, ground = drawn.layer.shape[1:], drawn.courses[0]
    places = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), -1).reshape(-1, 2)
    layer = drawn.layer[t].reshape(-1)
    taken = background.move(np.linalg.inv(ground.way[t]), places)
    own = alike(drawn, clip, t).reshape(-1) & _within(taken, clip.size)
    led = taken + _by_then(clip, taken, own, float(ground.time[t]), float(ground.time[to]))
    moved = background.move(ground.way[to], led)
    for name, course in enumerate(drawn.courses[1:], 1):
        own = layer == name
        moved[own] = background.move(course.pose[to] @ np.linalg.inv(course.pose[t]), places[own])
    return (moved - places).reshape(*size, 2).astype(np.float32)


def check(drawn: Draft) -> None:
    """Raise ValueError for a draft that was drawn without its maps, or by another program."""
    if not drawn.courses:
        raise ValueError("the draft does not say where its pixels are from: it was not drawn by draft.render")
    if len(drawn.layer) != len(drawn.courses[0].frame):
        raise ValueError("the draft was drawn without its maps; draw it with them (stream=False)")


def alike(drawn: Draft, clip: Prepared, t: int) -> Bool[np.ndarray, "H W"]:
    """Tell where frame t of a draft shows the background's own pixels, and not what was put in their place."""
    ground, size = drawn.courses[0], drawn.layer.shape[1:]
    shown = clip.between(float(ground.time[t]))
    if np.abs(ground.way[t] - np.eye(3)).max() >= 1e-9:  # drawn as the draft draws it
        options = {"interpolation": cv2.INTER_CUBIC, "border": cv2.BORDER_REPLICATE}
        shown = pictures.warp(shown, ground.way[t], size, **options)
    off = cv2.absdiff(shown, np.ascontiguousarray(drawn.frames[t])).max(axis=-1)
    off = cv2.dilate(off, np.ones((3, 3), np.uint8))  # one pixel may be alike by chance
    return (off <= ALIKE) & (drawn.layer[t] == 0) & ~drawn.hole[t]


def _cells(places: Float[np.ndarray, "N 2"], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels that hold some places; for those outside of the nearest pixels."""
    column, row = (np.clip(np.floor(places[:, i]), 0, size[1 - i] - 1).astype(int) for i in (0, 1))
    return row, column


def _within(places: Float[np.ndarray, "N 2"], size: tuple[int, int]) -> Bool[np.ndarray, "N"]:
    return inside(places[:, None], size)[:, 0]


def _clip_flow(clip: Prepared, here: int, then: int):
    """Return the clip's flow from one frame to another, [H W 2] in pixels, and where it leads there and back."""
    if abs(here - then) == 1:
        there, back = (side[min(here, then)] for side in clip.flows)
        there, back = (there, back) if then > here else (back, there)
    else:
        grey = [cv2.cvtColor(clip.small[t], cv2.COLOR_RGB2GRAY) for t in (here, then)]
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        there, back = dis.calc(*grey, None), dis.calc(*grey[::-1], None)
    rows, columns = np.mgrid[: there.shape[0], : there.shape[1]].astype(np.float32)
    returned = cv2.remap(back, columns + there[..., 0], rows + there[..., 1], cv2.INTER_LINEAR)
    missed = np.linalg.norm(there + returned, axis=-1)
    larger = [cv2.resize(part, clip.size[::-1], interpolation=cv2.INTER_LINEAR) for part in (there, missed)]
    return larger[0] / np.float32(clip.scale), larger[1] < 1


def _by_then(clip, places, own, here, then):
    """Return by how much what lies at places of a clip moves from one time to another, [N 2] in pixels.

    `own` pixels go by the flow, where it leads there and back, all others as the ground does.
    """
    if here == then:
        return np.zeros(places.shape)
    a, b, share = round(here), round(then), 1.0
    if (here != a or then != b) and abs(then - here) < 1.5:  # a part of the way between two frames
        a = int(np.clip(np.floor((here + then) / 2), 0, len(clip.frames) - 2))
        b, share = a + 1, then - here
    by = background.move(np.linalg.inv(clip.cameras[b]) @ clip.cameras[a], places) - places
    if a != b and own.any():
        flow, is_there_and_back = _clip_flow(clip, a, b)
        cells = _cells(places, clip.size)
        by = np.where((own & is_there_and_back[cells])[:, None], flow[cells], by)
    return share * by


def _follow_ground(drawn, clip, points, place, begin, tracker):
    """Follow points of the background whose places in the clip's frame are given: where they are, and are not hidden.

    Those that something else was drawn over there, or that the clip hides on its way, go as the ground does, from the
    frame that saw them last.
    """
    ground, size = drawn.courses[0], clip.size
    start, length = int(ground.frame[begin]), len(clip.frames)
    own = alike(drawn, clip, begin)[_cells(points, size)] & _within(place, size)
    place = place + _by_then(clip, place, own, float(ground.time[begin]), float(start))
    xy, seen = np.repeat(place[:, None], length, axis=1), np.zeros((len(place), length), bool)
    seen[:, start] = True
    if own.any():
        queries = np.concatenate([np.full((own.sum(), 1), start), place[own]], axis=1)
        found = tracker.track(clip.frames, queries)
        xy[own], seen[own] = found.xy, found.visible
        xy[own, start], seen[own, start] = place[own], True
    # The frame, between the first one and each other, that last saw the point.
    frames = np.arange(length)
    after = np.maximum.accumulate(np.where(seen & (frames >= start), frames, -1), axis=1)
    before = np.where(seen & (frames <= start), frames, length)[:, ::-1]
    last = np.where(frames >= start, after, np.minimum.accumulate(before, axis=1)[:, ::-1])
    moved, shown = np.empty((len(place), len(ground.frame), 2)), np.empty((len(place), len(ground.frame)), bool)

    def at(q):
        """Return where the points are in a frame of the clip."""
        from_last = np.linalg.inv(clip.cameras[q])[None] @ clip.cameras[last[:, q]]
        return apply_homography(from_last, xy[np.arange(len(place)), last[:, q]][None])[0]

    for t, (q, time) in enumerate(zip(ground.frame, ground.time, strict=True)):
        early, share = int(np.floor(time)), time - np.floor(time)
        there = at(q) if not share else (1 - share) * at(early) + share * at(early + 1)
        moved[:, t] = background.move(ground.way[t], there)
        # What hides a point in the clip need not do so in the draft.
        shown[:, t] = seen[:, q] | ~own | ~alike(drawn, clip, t)[_cells(moved[:, t], size)]
    return moved, shown
