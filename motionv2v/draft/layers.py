"""Which points move together: the background's, and those of each thing that moves in its own way.

Who edits a clip names groups of points. Where nobody did, they are guessed from the paths, before and after the edit
together: points of one thing keep their shape up to a similarity in all frames of both. Complex positions as in
`motionv2v.rigid`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motionv2v import rigid
from motionv2v.draft import background
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, Int, Shaped

TOLERANCE = 0.6
"""Pixels that a point may be off the motion that it is said to have."""
DRIFT = 0.6
"""Pixels that a point of the background may be off its place: a camera followed from frame to frame drifts."""
KEPT = 0.25
"""Pixels that a point may move by in an edit that leaves it alone."""
MOST_STRETCH = 0.35
"""Of a pair of points that defines a group: how much the logarithm of their distance may vary (standard deviation)."""
MOST_STRETCH_OF_TWO = 0.12
"""The same of two points alone, which any motion of both fits."""
FURTHEST_TWO = 0.45
"""How far two points alone may be apart, in frame heights."""
MOST_PAIRS = 500
"""Pairs of points that are tried for a group."""


@dataclass
class Layer:
    """Points that move as one thing, and its motion in the clip.

    Attributes:
        points: their indices. shape: [M], where they are in the layer's own frame.
        tracked, seen: [M T], where they are in the clip and whether they are visible, as the tracker says.
        factor, shift: of the layer in each frame of the clip, [T].
        there: [T], which frames show the thing: those with visible points, until it was looked for.
        best: the frame of the clip that shows most of it.
    """

    points: Int[np.ndarray, "M"]
    shape: Shaped[np.ndarray, "M"]
    tracked: Shaped[np.ndarray, "M T"]
    seen: Bool[np.ndarray, "M T"]
    factor: Shaped[np.ndarray, "T"]
    shift: Shaped[np.ndarray, "T"]
    there: Bool[np.ndarray, "T"]
    best: int

    def to_frame(self, q: int, r: int) -> Float[np.ndarray, "3 3"]:
        """Return what takes the layer in frame q of the clip to where it is in frame r."""
        factor = self.factor[r] / self.factor[q]
        return background.similarity_matrix(complex(factor), complex(self.shift[r] - factor * self.shift[q]))

    def paths(self) -> Shaped[np.ndarray, "M T"]:
        """Return where the motion takes the points."""
        return self.factor * self.shape[:, None] + self.shift


def places(tracks: Tracks) -> Shaped[np.ndarray, "N T"]:
    """Return positions as complex numbers."""
    xy = np.asarray(tracks.xy, np.float64)
    return xy[..., 0] + 1j * xy[..., 1]


def turns(cameras: Float[np.ndarray, "T 3 3"]) -> Shaped[np.ndarray, "T"]:
    """Return turn and zoom of the similarities nearest to some motions, as complex factors.

    Of what mirrors, those of what is upside down before that.
    """
    side = np.sign(np.linalg.det(cameras[:, :2, :2]))
    a, b = cameras[:, 0, 0] + side * cameras[:, 1, 1], cameras[:, 1, 0] - side * cameras[:, 0, 1]
    return (a + 1j * b) / 2


def make_layer(
    points: Sequence[int], source: Tracks, cameras: Float[np.ndarray, "T 3 3"] | None = None
) -> Layer | None:
    """Fit the motion of some points; None if no frame of the clip shows any of them.

    With `cameras` (each frame to the reference) what the points do not tell goes on as the camera does, not at rest.
    """
    visible = np.asarray(source.visible)
    points = np.array([i for i in points if visible[i].any()], np.int64)
    if not len(points):
        return None
    seen, z = visible[points], places(source)[points]
    led, by = np.ones(z.shape[1], complex), np.zeros(z.shape[1], complex)
    if cameras is not None:
        views = np.linalg.inv(cameras)
        led, by = turns(views), views[:, 0, 2] + 1j * views[:, 1, 2]
    own = (z - by) / led
    _, _, shape = rigid.fit(own, seen)
    # Where no point is visible, guesses of where they are hidden are all that is known.
    factor, shift = rigid.poses(own, seen | ~seen.any(axis=0), shape)
    factor, shift = led * factor, led * shift + by
    return Layer(points, shape, z, seen, factor, shift, seen.any(axis=0), int(seen.sum(axis=0).argmax()))


def stabilised(source: Tracks, cameras: Float[np.ndarray, "T 3 3"]) -> Shaped[np.ndarray, "N T"]:
    """Return the points' places in the reference frame's coordinates."""
    xy = np.asarray(source.xy, np.float64)
    moved = np.stack([background.move(camera, xy[:, t]) for t, camera in enumerate(cameras)], axis=1)
    return moved[..., 0] + 1j * moved[..., 1]


def resting_places(source: Tracks, cameras: Float[np.ndarray, "T 3 3"]) -> Shaped[np.ndarray, "N"]:
    """Return each point's median place in the reference, over the frames that show it."""
    still, seen = stabilised(source, cameras), np.asarray(source.visible)
    seen = seen | ~seen.any(axis=1, keepdims=True)
    middles = [(np.median(row.real[ok]), np.median(row.imag[ok])) for row, ok in zip(still, seen, strict=True)]
    return np.array([x + 1j * y for x, y in middles])


def guess(
    source: Tracks, target: Tracks, cameras: Float[np.ndarray, "T 3 3"], height: int
) -> tuple[list[int], list[list[int]]]:
    """Guess the points of the background, and the groups of all others that are ever visible.

    Args:
        cameras: take each frame to the reference. height: of a frame, in pixels.
    """
    seen, shown = np.asarray(source.visible), np.asarray(target.visible)
    before, after = places(source), places(target)
    used = (seen | shown).any(axis=1)
    paths, visible = np.concatenate([before, after], axis=1), np.concatenate([seen, shown], axis=1)
    groups, rest = [], [int(i) for i in np.flatnonzero(used)]
    while len(rest) >= 3:
        found = _largest_group(paths, visible, rest)
        if len(found) < 3:
            break
        groups.append(found)
        rest = [i for i in rest if i not in found]
    behind = _background(source, before, after, seen, shown, groups + [[i] for i in rest], cameras)
    groups = [left for group in groups if len(left := [i for i in group if i not in behind]) > 1]
    rest = [int(i) for i in np.flatnonzero(used) if i not in {*behind, *(i for group in groups for i in group)}]
    # What zooms the whole picture stretches no thing.
    paths = paths / _zoom(after, shown, behind, resting_places(source, cameras), cameras)
    pairs = sorted((_stretch(paths, i, j), i, j) for k, i in enumerate(rest) for j in rest[k + 1 :])
    for stretch, i, j in pairs:
        near = np.abs(paths[i] - paths[j]).mean() < FURTHEST_TWO * height
        if stretch < MOST_STRETCH_OF_TWO and near and i in rest and j in rest:
            groups.append([i, j])
            rest = [k for k in rest if k not in (i, j)]
    return behind, groups + [[i] for i in rest]


def _zoom(after, shown, behind, rest, cameras):
    """Return the zoom of the background in the clip's frames, and in the edit's as far as its points tell, [2 T]."""
    clip = 1 / np.abs(turns(cameras))
    told = [i for i in behind if shown[i].any()]
    if len(told) < 2:
        return np.tile(clip, 2)
    visible = shown[told] | ~shown[told].any(axis=0)
    return np.concatenate([clip, np.abs(rigid.poses(after[told], visible, rest[told])[0])])


def _background(source, before, after, seen, shown, groups, cameras):
    """Return the points that rest in the stabilised clip, with their whole group, and share one motion in the edit."""
    still, rest = stabilised(source, cameras), resting_places(source, cameras)
    weight = seen | ~seen.any(axis=1, keepdims=True)
    off = np.abs(still - rest[:, None]) * weight
    # Of a thing that creeps some points may seem to rest, but not all.
    rests = [i for group in groups if off[group].sum() / weight[group].sum() < DRIFT for i in group]
    surely = np.flatnonzero(off.sum(axis=1) / weight.sum(axis=1) < KEPT)
    resting = np.array(sorted({*rests, *(int(i) for i in surely if (seen | shown)[i].any())}), np.int64)
    either = seen | shown
    moved = (np.abs(before - after) * either).sum(axis=1) / np.maximum(either.sum(axis=1), 1)
    # A point of the background that stays where it was says that the edit has the clip's camera.
    if kept := [int(i) for i in resting if moved[i] < KEPT]:
        return kept
    if len(resting) < 2:
        return [int(i) for i in resting]
    best: list[int] = []
    visible = shown | ~shown.any(axis=1, keepdims=True)
    for k, i in enumerate(resting):
        for j in resting[k + 1 :]:
            pair = [i, j]
            factor, shift = rigid.poses(after[pair], visible[pair], rest[pair])
            off = np.abs(factor * rest[resting, None] + shift - after[resting]) * visible[resting]
            agrees = resting[off.sum(axis=1) / visible[resting].sum(axis=1) < 2 * TOLERANCE]
            if len(agrees) > len(best):
                best = [int(i) for i in agrees]
    return best


def _largest_group(paths, visible, rest):
    """Return the points of `rest` that move as some two of them do, as many as can be found."""
    best, most = [], (2, 0.0)
    pairs = [(i, j) for k, i in enumerate(rest) for j in rest[k + 1 :]]
    if len(pairs) > MOST_PAIRS:
        pairs = [pairs[k] for k in np.random.default_rng(0).choice(len(pairs), MOST_PAIRS, replace=False)]
    for i, j in pairs:
        stretch = _stretch(paths, i, j)
        if stretch < MOST_STRETCH:
            agrees = [n for n, off in zip(rest, _misfits(paths, visible, i, j, rest), strict=True) if off < TOLERANCE]
            if (len(agrees), -stretch) > most:
                best, most = agrees, (len(agrees), -stretch)
    return best


def _stretch(paths, i, j):
    return float(np.log(np.maximum(np.abs(paths[i] - paths[j]), 0.5)).std())


def _misfits(paths, visible, i, j, rest):
    """Return by how many pixels, on average, points leave their places in the frame that points i and j span."""
    span = paths[j] - paths[i]
    far = np.abs(span) > 1
    if far.sum() < 4:
        return np.full(len(rest), np.inf)
    counts = far & visible[rest]
    counts = np.where(counts.sum(axis=1, keepdims=True) >= 2, counts, far)
    share = np.where(counts, (paths[rest] - paths[i]) / np.where(far, span, 1), complex(np.nan, np.nan))
    middle = np.nanmedian(share.real, axis=1) + 1j * np.nanmedian(share.imag, axis=1)
    return np.nanmean(np.abs(share - middle[:, None]) * np.abs(span), axis=1)
