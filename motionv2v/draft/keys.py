"""Masks by hand on some frames, carried to all others.

Where a person gave a box, or strokes, the mask in that frame is cut out first: the thing is inside, holds its points,
and looks unlike what is outside, and unlike what other frames show at that place. For that the boxes, which go from
frame to frame between those that are said, are left out of a *clean* plate. Strokes without a box say as much as one
around them and the points there, with room (`REACH`) on all sides, which the thing need not fill.

A mask goes to other frames with the thing's own motion, where what the said frame shows is found there again: what is
not has something before it. A thing that bends goes with the flow, from frame to frame. Everywhere it is laid on the
frame's colours (GrabCut in a band along its edge). Between two frames that are said what comes from both sides is
blended by its distances to the edge.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import masks, pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.given import Hint
from motionv2v.draft.ground import Ground, displaced
from motionv2v.draft.layers import Layer
from motionv2v.stacks import Lazy
from motionv2v.typing import Bool, Float, Int, Shaped

BAND = 0.025
"""Along a carried mask's edge, in the shorter side, that is decided anew by the colours of each frame."""
BESIDE = 0.15
"""Around a box, in the longer side, that shows what the thing is not."""
REACH, LEAST_REACH = 1.0, 0.15
"""How far around strokes and points a thing may reach: in the longer side of what holds them; at least so much of the
frame's shorter side."""
SAME, SHOWN = 12.0, 0.3
"""Distance in Lab to what the said frame shows, up to which a pixel is found again; and the share of a thing's pixels
that must be, for it to be there at all."""
RIGID, NEAREST = 0.75, 8
"""Share of a thing's pixels that its own motion must find again, in all but a quarter of so many frames."""
STRAYS = 1.5
"""Pixels of the working size, beyond half its motion, by which flow may be off that, or something is before it."""
LEAST = 20
"""Pixels of the working size; a smaller mask has left the frame."""


@dataclass
class MaskByFrame:
    """A thing that may bend: its mask [T h w] in each frame, at the working size; the counterpart of `masks.Mask`.

    `place`: [T h w], where it is, also where something is before it.
    """

    layer: Layer
    by_frame: Bool[np.ndarray, "T h w"] | Lazy
    place: Bool[np.ndarray, "T h w"] | Lazy
    picture: None = None

    def in_frame(self, clip: Prepared, q: int) -> tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
        """Return the mask in frame q, and log-odds: what a person says counts more than what is found."""
        return self.by_frame[q], np.where(self.by_frame[q], 9.0, -9.0).astype(np.float32)

    def in_frames(self, clip: Prepared) -> Bool[np.ndarray, "T h w"] | Lazy:
        """Return where the thing is in every frame."""
        return self.by_frame

    def soft(self, clip: Prepared, q: int) -> tuple[Float[np.ndarray, "h w"], tuple[int, int]] | None:
        """Return the mask in frame q, and its corner (y, x)."""
        return (self.by_frame[q].astype(np.float32), (0, 0)) if self.by_frame[q].any() else None

    def body(self, scale: float, most: int = 0) -> Shaped[np.ndarray, "P"]:
        """Return no places: a thing that bends has no frame of its own, so that what of it is missing is not known."""
        return np.zeros(0, complex)

    def holds(self, clip: Prepared, q: int, xy: Shaped[np.ndarray, "N 2"]) -> Bool[np.ndarray, "N"]:
        """Tell which positions in frame q are well inside."""
        core = cv2.erode(self.by_frame[q].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        return masks.at(core, xy * clip.scale)


def carry(
    clip: Prepared,
    layer: Layer,
    hint: Hint,
    plate: Plate,
    cameras: Float[np.ndarray, "T 3 3"],
    watch: Callable[[int, Bool[np.ndarray, "h w"]], None] | None = None,
) -> MaskByFrame:
    """Find a thing's mask in every frame from what a person said of some, from these outwards, to both sides in turn.

    `watch(q, mask)`, where it is given, is called with each mask as soon as it is there, and again where what comes
    from the other side changes it; what it raises ends the work.
    """
    num_frames, keys = len(clip.frames), hint.frames
    said = {t: _labels(clip, hint, t) for t in keys}
    brushed = {t for t in hint.strokes if t not in hint.boxes and t not in hint.masks}
    said |= {t: _within_reach(clip, layer, said[t], t) for t in brushed}
    if len(keys) < num_frames or hint.boxes or hint.strokes:
        ground = Ground(clip, layer, said, plate, cameras)
    by_frame, place, is_known = (stacks.zeros((num_frames, *clip.small_size), bool) for _ in range(3))
    sweeps, came = [], {}

    def put(q, mask):
        by_frame[q] = mask
        if watch is not None:
            watch(q, by_frame[q])

    for t in keys:
        is_sure = said[t].all()
        mask = said[t] > 0 if is_sure else _cut_out(clip, layer, said[t], ground, t, is_filled=t not in brushed)
        place[t] = mask
        put(t, mask)
    for before, after in zip([None, *keys], [*keys, None], strict=True):
        between = range((-1 if before is None else before) + 1, num_frames if after is None else after)
        for start, frames in ((before, between), (after, between[::-1])):
            if start is not None and between:
                sweeps.append((start, _carried(clip, layer, ground, by_frame[start], start, frames), len(between)))
    counted = clip.counted(range(sum(count for *_, count in sweeps)), "mask carried through frame")
    for start, (q, mask, where, knows) in _in_turn([(start, found) for start, found, _ in sweeps]):
        next(counted)
        place[q] |= where
        if q not in came:
            came[q] = start
            is_known[q] = knows
            put(q, mask)
        else:  # from the other side of the gap as well; each knows what its frame showed
            put(q, _blended(q, (came[q], by_frame[q], is_known[q]), (start, mask, knows)))
    for q in range(num_frames):
        place[q] |= by_frame[q]
    return MaskByFrame(replace(layer, there=np.array([mask.sum() >= LEAST for mask in by_frame])), by_frame, place)


def _in_turn(sweeps):
    """Yield from several generators in turn, with their names, until all are at their end."""
    while sweeps:
        for each in list(sweeps):
            found = next(each[1], None)
            if found is None:
                sweeps.remove(each)
            else:
                yield each[0], found


def _blended(q, one, other):
    """Return the mask of a frame from what came to it of two frames that are said: (that frame, mask, where known)."""
    (before, early, early_known), (after, late, late_known) = sorted((one, other), key=lambda each: each[0])
    share = (q - before) / (after - before)
    blend = (1 - share) * _signed(early) + share * _signed(late) > 0
    return np.where(early_known & late_known, blend, np.where(early_known, early, late))


def _labels(clip, hint, t) -> Int[np.ndarray, "h w"]:
    """Return what is said of each pixel of a frame at the working size, as `Hint.labels` does."""
    return cv2.resize(hint.labels(t, clip.size), clip.small_size[::-1], interpolation=cv2.INTER_NEAREST)


def _within_reach(clip, layer, said, t) -> Int[np.ndarray, "h w"]:
    """Say of what lies far from all strokes and points of a frame that it is not the thing's."""
    marked = said > 0
    z = layer.tracked[layer.seen[:, t], t] * clip.scale
    columns, rows = np.floor(z.real).astype(int), np.floor(z.imag).astype(int)
    inside = (rows >= 0) & (columns >= 0) & (rows < said.shape[0]) & (columns < said.shape[1])
    marked[rows[inside], columns[inside]] = True
    box = pictures.extent(marked)
    if box is None:  # nothing tells where it is but what a person took away
        return said
    longer = max(part.stop - part.start for part in box)
    room = round(max(REACH * longer, LEAST_REACH * min(said.shape)))
    near = np.zeros(said.shape, bool)
    near[tuple(slice(max(0, part.start - room), part.stop + room) for part in box)] = True
    return np.where(near, said, np.int8(-1))


def _signed(mask):
    """Return the distance to a mask's edge, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask))
    return inside - outside


def _carried(clip, layer, ground, mask, start, frames):
    """Yield other frames, and for each what a mask of frame `start` becomes, its place, hidden or not, and if known."""
    if _keeps_its_shape(clip, layer, mask, start, frames):
        yield from _with_own_motion(clip, layer, ground, mask, start, frames)
    else:
        yield from _with_flow(clip, ground, mask, start, frames)


def _in_frame(clip, layer, mask, start, q):
    """Return where a thing's motion takes its mask, what frame `start` shows of frame q, and how far colours differ."""
    way = clip.to_small(layer.to_frame(start, q))
    moved = pictures.warp(clip.lab[start], way, clip.small_size, value=(-999.0, 0.0, 0.0))
    # What touches the border goes on beyond it.
    place = pictures.warp(mask.astype(np.uint8) * 255, way, clip.small_size, border=cv2.BORDER_REPLICATE) > 127
    return place, moved[..., 0] > -1, pictures.distance(clip.lab[q], moved, reach=2)


def _keeps_its_shape(clip, layer, mask, start, frames):
    """Tell whether a thing's motion finds it again in the nearest frames; what bends soon looks otherwise."""
    found = []
    for q in [q for q in frames if layer.there[q]][:NEAREST]:
        place, _, off = _in_frame(clip, layer, mask, start, q)
        if place.sum() >= LEAST:
            found.append(float((off < SAME)[place].mean()))
    return bool(found) and np.quantile(found, 0.25) >= RIGID


def _with_own_motion(clip, layer, ground, mask, start, frames):
    """Yield the mask where the thing's motion takes it, less what is before it; see `_carried`."""
    for q in frames:
        place, is_known, off = _in_frame(clip, layer, mask, start, q)
        seen = place & is_known
        again = float((off < SAME)[seen].mean()) if seen.any() else 1.0
        as_ground = float(ground.differs(q)[1][seen].mean()) if seen.any() else 0.0
        if as_ground > max(again, 0.5):  # it has left
            yield q, np.zeros_like(place), np.zeros_like(place), is_known
        elif again < SHOWN:
            yield q, np.zeros_like(place), place, is_known
        else:
            hidden = _goes_otherwise(clip, layer, q) & place
            hidden = cv2.morphologyEx(hidden.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
            yield q, _settled(clip, ground, place & ~hidden, q, hidden), place, is_known


def _goes_otherwise(clip, layer, q) -> Bool[np.ndarray, "h w"]:
    """Return where the flow leaves a thing's own motion, both to the frame before and to the next one."""
    otherwise = np.ones(clip.small_size, bool)
    for r, flow in ((q + 1, clip.flows[0][q : q + 1]), (q - 1, clip.flows[1][max(0, q - 1) : q])):
        if len(flow) and 0 <= r < len(clip.frames):
            way = clip.to_small(layer.to_frame(q, r))
            own = displaced(way, clip.small_size)
            otherwise &= np.linalg.norm(flow[0] - own, axis=-1) > STRAYS + 0.5 * np.linalg.norm(own, axis=-1)
    return otherwise


def _with_flow(clip, ground, mask, start, frames):
    """Yield the masks that a mask of frame `start` becomes along the flow, from frame to frame; see `_carried`."""
    q, whole = start, np.ones(clip.small_size, bool)
    y, x = np.mgrid[: clip.small_size[0], : clip.small_size[1]].astype(np.float32)
    for r in frames:
        if mask.sum() < LEAST:
            mask = np.zeros_like(mask)
        else:
            back = clip.flows[1][q] if r > q else clip.flows[0][r]  # from r to q
            # Near the edge the flow is a mixture: the thing's own, from well inside, reaches out.
            core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            ahead = clip.flows[0][q] if r > q else clip.flows[1][r]  # from q to r
            moved = pictures.spread(ahead, core if core.any() else mask)
            step = np.median(ahead[core if core.any() else mask], axis=0)
            rough = cv2.remap(mask.astype(np.float32), x - step[0], y - step[1], cv2.INTER_LINEAR)
            own = cv2.dilate((rough > 0.5).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            where = np.where(own[..., None], -cv2.remap(moved, x - step[0], y - step[1], cv2.INTER_LINEAR), back)
            carried = cv2.remap(mask.astype(np.float32), x + where[..., 0], y + where[..., 1], cv2.INTER_LINEAR) > 0.5
            mask = _settled(clip, ground, carried, r)
        yield r, mask, mask, whole
        q = r


def _settled(clip, ground, mask, q, hidden=None):
    """Lay a carried mask on the colours of its frame: what lies in a band along its edge is decided anew.

    `hidden` has something before it, and is not the thing's.
    """
    if mask.sum() < LEAST:
        return np.zeros_like(mask)
    reach = max(2, round(BAND * min(clip.small_size)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    sure = cv2.erode(mask.astype(np.uint8), kernel) > 0
    possible = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    is_not_ground, is_ground = ground.differs(q)
    moves, other, stays = ground.moves(q, possible)
    labels[is_ground | stays] = cv2.GC_PR_BGD
    labels[is_not_ground & mask] = cv2.GC_PR_FGD
    labels[moves & mask], labels[other] = cv2.GC_FGD, cv2.GC_BGD
    labels[sure], labels[~possible] = cv2.GC_FGD, cv2.GC_BGD
    if hidden is not None:
        labels[hidden] = cv2.GC_BGD
    return masks.grab(clip.small[q], labels, possible, 4.0 * reach, rounds=2)


def _cut_out(clip, layer, said, ground, t, is_filled=True) -> Bool[np.ndarray, "h w"]:
    """Return the mask of a frame that a person said something of.

    Inside a box all is the thing that may be; around strokes (not `is_filled`) what looks like them, or is no ground.
    """
    away = masks.distance_to(layer.paths()[:, t] * clip.scale, clip.small_size) / min(clip.small_size)
    is_not_ground, is_ground = ground.differs(t)
    moves, other, stays = ground.moves(t, ground.around[t])
    beside = ground.around[t] & (said < 0) & (is_not_ground | moves) & ~other
    labels = np.full(said.shape, cv2.GC_PR_FGD if is_filled else cv2.GC_PR_BGD, np.uint8)
    labels[is_not_ground] = cv2.GC_PR_FGD
    labels[is_ground | (stays & ~is_not_ground)] = cv2.GC_PR_BGD
    labels[moves], labels[other] = cv2.GC_FGD, cv2.GC_BGD
    labels[(away < masks.SEEDS) & layer.there[t]] = cv2.GC_FGD
    labels[said > 0], labels[said < 0] = cv2.GC_FGD, cv2.GC_BGD
    labels[beside] = cv2.GC_PR_FGD
    return masks.grab(clip.small[t], labels, (said >= 0) | beside, BESIDE * max(clip.small_size), rounds=5) | (said > 0)
