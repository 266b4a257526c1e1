"""Which frame of the clip a frame of an edit is drawn from, thing by thing, and how it is moved there.

What the edit did to a thing is the relation of its points' places in a frame q of the clip to those in a frame t of the
edit. Whatever a tracker got wrong is in both: a thing that was moved as it is is drawn from its own frame, moved by
exactly that; one that was frozen or reversed from the frame that it was frozen at, or that now has its turn. A course
through the frames that is cheap in all of this is found by dynamic programming (Viterbi).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motionv2v.draft import background
from motionv2v.draft.layers import Layer
from motionv2v.typing import Bool, Float, Int, Shaped

STRETCH, TURN = 40.0, 20.0
"""What a unit of the logarithm of a zoom costs, and a radian, beyond the background's; a pixel that the points are off,
at 480 rows, costs 1."""
HIDDEN, MISSING = 8.0, 40.0
"""What it costs if all points that the edit shows are hidden, and if all of the thing that it shows lies outside."""
AWAY = 0.01
"""What a frame between q and t costs: of two that do as well the nearer one is taken."""
MOST_AWAY = 100
"""Frames from which on none counts as further away."""
MOST_TRIED = 256
"""Frames of the clip that are tried for one of the edit."""
JUMP, FURTHEST_JUMP = 0.3, 4
"""What it costs to leave the course by a frame, up to so many."""
FLIPS = np.diag([1.0, -1.0, 1.0])
"""What mirrors a picture, and takes a complex place to its conjugate."""
FLAT = 0.98
"""Of how much of the points' spread lies along one line, from which on they do not tell whether they are mirrored."""


@dataclass
class Choice:
    """For each frame of an edit: the frame of the clip, and what takes the thing from there to the edit.

    Attributes:
        frame: [T]. factor, shift: of complex places, [T]. off: pixels that the points are off on average, [T].
        mirrored: whether the thing is mirrored (`FLIPS`) before all that, [T].
    """

    frame: Int[np.ndarray, "T"]
    factor: Shaped[np.ndarray, "T"]
    shift: Shaped[np.ndarray, "T"]
    off: Float[np.ndarray, "T"]
    mirrored: Bool[np.ndarray, "T"]

    def matrix(self, t: int) -> Float[np.ndarray, "3 3"]:
        """Return what takes frame `frame[t]` of the clip to frame t of the edit."""
        matrix = background.similarity_matrix(complex(self.factor[t]), complex(self.shift[t]))
        return matrix @ FLIPS if self.mirrored[t] else matrix


def tell_sides(shape: Shaped[np.ndarray, "M"]) -> bool:
    """Tell whether a shape and its mirror image differ by more than a turn: three points or more, not on one line."""
    arm = shape - shape.mean()
    return bool(np.abs((arm**2).sum()) < FLAT * (np.abs(arm) ** 2).sum())


def relate(
    before: Shaped[np.ndarray, "M Q"],
    after: Shaped[np.ndarray, " M"],
    weight: Float[np.ndarray, "M Q"],
    led: Shaped[np.ndarray, " Q"] | float = 1.0,
) -> tuple[Shaped[np.ndarray, " Q"], Shaped[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """Fit a similarity from the points' places in each of some frames to those in one frame; also how far it is off.

    `led`: the turn and zoom of points that tell none, which are one or all in one place.
    """
    for _ in range(3):
        total = np.maximum(weight.sum(axis=0), 1e-9)
        middle, centre = (weight * before).sum(axis=0) / total, (weight * after[:, None]).sum(axis=0) / total
        arm, offset = before - middle, after[:, None] - centre
        power = (weight * np.abs(arm) ** 2).sum(axis=0)
        factor = np.where(power > 1, (weight * arm.conj() * offset).sum(axis=0) / np.maximum(power, 1e-9), led)
        factor = np.where(np.abs(factor) > 1e-2, factor, led)
        shift = centre - factor * middle
        misses = np.abs(factor * before + shift - after[:, None])
        # Points that are far off what most agree with hardly count.
        typical = np.maximum((weight * misses).sum(axis=0) / total, 0.5)
        weight = weight / (1 + (misses / (2 * typical)) ** 2)
    return factor, shift, (weight * misses).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)


def choose(
    thing: Layer,
    before: Shaped[np.ndarray, "M T"],
    after: Shaped[np.ndarray, "M T"],
    shown: Bool[np.ndarray, "M T"],
    body: Shaped[np.ndarray, "P"],
    size: tuple[int, int],
    led: tuple[Shaped[np.ndarray, "T"], Shaped[np.ndarray, "T"]] | None = None,
    *,
    may_mirror: bool = False,
) -> Choice:
    """Choose the frames that a thing is drawn from.

    Args:
        before, after: the points' complex places in the clip and in the edit, as they were given. shown: in the edit.
        body: places [P] all over the thing, in the layer's own frame. size: of a frame, (H, W).
        led: turn and zoom of the background, from the reference to each frame of the edit [T], and from each frame of
            the clip to the reference [T]; none by default.
        may_mirror: whether it may be drawn mirrored, in frames where the points fit that better.
    """
    num_frames = before.shape[1]
    cost_of = _costs(thing, before, after, shown, body, size, led, may_mirror and tell_sides(thing.shape))
    everything = np.arange(num_frames)
    tried = [everything] * num_frames
    if num_frames > MOST_TRIED:  # roughly first, in steps; then exactly around that, and around the frame itself
        step = -(-num_frames // (MOST_TRIED // 3))
        tried = [everything[::step]] * num_frames
        rough = step * _cheapest([cost_of(t, q)[0] for t, q in enumerate(tried)], tried, step)
        near = np.arange(-step, step + 1)
        tried = [np.unique(np.clip([near + rough[t], near + t], 0, num_frames - 1)) for t in range(num_frames)]
    rows = [cost_of(t, q) for t, q in enumerate(tried)]
    places = _cheapest([row[0] for row in rows], tried)
    chosen = [(q[at], *(part[at] for part in row[1:])) for q, row, at in zip(tried, rows, places, strict=True)]
    return Choice(*(np.array(part) for part in zip(*chosen, strict=True)))


def _costs(thing, before, after, shown, body, size, led, may_mirror):
    """Return a function of a frame of the edit, and of some of the clip: their costs, and how they are related."""
    seen = thing.seen & thing.there
    claims = seen | ~seen.any(axis=0)
    visible = shown | ~shown.any(axis=0)
    frames, unit = np.arange(before.shape[1]), size[0] / 480
    places = thing.factor * body[:, None] + thing.shift  # [P Q]
    inside = _inside(places, size)
    views, cameras = led if led is not None else np.ones((2, before.shape[1]))

    def cost_of(t, q):
        plain = cost_as(t, q, False)
        if not may_mirror:
            return plain
        mirrored = cost_as(t, q, True)
        better = mirrored[0] < plain[0]
        return tuple(np.where(better, *parts) for parts in zip(mirrored, plain, strict=True))

    def cost_as(t, q, mirrored):
        side = np.conj if mirrored else np.asarray
        led = views[t] * side(cameras[q])
        weight = (0.05 + claims[:, q]) * (0.05 + visible[:, t, None].astype(float))
        factor, shift, misses = relate(side(before[:, q]), after[:, t], weight, led)
        wanted = _inside(factor * side(places[:, q]) + shift, size)
        missing = (wanted & ~inside[:, q]).sum(axis=0) / np.maximum(wanted.sum(axis=0), 1)
        # What the tracker does not see and the looks do is there; what it alone sees has slid off, in the edit too.
        hidden = (shown[:, t, None] & ~thing.seen[:, q] & ~thing.there[q]).sum(axis=0) / max(1, shown[:, t].sum())
        own = factor / led  # what the whole picture does needs no reason
        # Mirrored left to right is mirrored upside down and turned by half.
        turn = np.angle(own**2) / 2 if mirrored else np.angle(own)
        cost = misses / unit + STRETCH * np.abs(np.log(np.abs(own))) + TURN * np.abs(turn)
        cost += HIDDEN * hidden + MISSING * missing + AWAY * np.minimum(np.abs(frames[q] - t), MOST_AWAY)
        return cost, factor, shift, misses, np.full(len(cost), mirrored)

    return cost_of


def _cheapest(
    costs: Sequence[Float[np.ndarray, "..."]], frames: Sequence[Int[np.ndarray, "..."]], step: int = 1
) -> Int[np.ndarray, "T"]:
    """Return the course that costs least, jumps counted, as places in the frames that are tried for each of the edit.

    The course goes on by one frame, or stays, or goes back by one, for nothing. `step`: frames that count as one.
    """
    total, came_from = costs[0], []
    for t in range(1, len(costs)):
        jump = np.abs(frames[t][:, None] - frames[t - 1]) / step
        ways = total + JUMP * np.clip(jump - 1, 0, FURTHEST_JUMP)
        came_from.append(ways.argmin(axis=1))
        total = ways.min(axis=1) + costs[t]
    places = [int(total.argmin())]
    for origin in reversed(came_from):
        places.append(int(origin[places[-1]]))
    return np.array(places[::-1])


def _inside(places, size):
    return (places.real > 0) & (places.imag > 0) & (places.real < size[1]) & (places.imag < size[0])
