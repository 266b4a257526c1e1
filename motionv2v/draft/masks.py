"""Where a thing is: a mask in its own frame, from how it moves and how it looks.

A thing that keeps its shape has one mask in a frame of its own (that of the frame which shows most of its points, with
a margin), to which all frames are moved. There two kinds of evidence are added up, as log-odds:

    motion   colours agree with those of other frames where the thing's motion takes them, and not where the camera's
    plate    colours differ from the background, where that is known

and GrabCut (Rother et al. 2004) makes a mask of it, with the colours of the median over all frames. Then each thing's
mask is found again without the pixels that belong rather to another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from motionv2v import stacks
from motionv2v.draft import background, pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.layers import Layer
from motionv2v.stacks import Lazy
from motionv2v.typing import Bool, Float, Shaped, UInt8

OFFSETS = (-6, -4, -2, -1, 1, 2, 4, 6)
"""Frames that one is compared with."""
MOST_FRAMES = 17
"""In which evidence is looked for."""
MARGIN = 0.5
"""Of a thing's own frame around the clip's, in the longer side."""
SEEDS = 0.02
"""Pixels this near to a point are the thing's, in the shorter side; beyond `NEAR` they become unlikely, and beyond
`FAR` impossible."""
NEAR, FAR = 0.25, 0.6
FAR_DOUBT = 1.75
"""Doubt of a pixel by its distance to the nearest point, in shorter sides: points say best what is near to them."""
BESIDE = 0.08
"""Around what may be the thing, in the longer side, that shows what it is not."""
RESTS = -1.0
"""Log-odds by the plate, at its own points, up to which a thing is in the plate itself (median)."""
AMID = 0.5
"""Log-odds of what lies between points, where nothing is known of what is behind them."""
EDGE = 0.03
"""From the edge of a mask that colours alone decide, in the shorter side, within which it is not sure."""
SURE = 1.5
"""Log-odds from which on GrabCut may not object."""


@dataclass
class Mask:
    """A thing in its own frame: its mask, log-odds and colours on a canvas, and how to get there from frames.

    Attributes:
        layer: the thing. to_canvas: from the layer's best frame, in the frames' pixels, to the canvas.
        odds: log-odds [h w]. is_thing: the mask. picture: the median colours of what no other thing covers.
        seen: share of the frames that show each place.
    """

    layer: Layer
    to_canvas: Float[np.ndarray, "3 3"]
    odds: Float[np.ndarray, "h w"]
    is_thing: Bool[np.ndarray, "h w"]
    picture: UInt8[np.ndarray, "h w 3"]
    seen: Float[np.ndarray, "h w"]

    def from_frame(self, q: int, scale: float) -> Float[np.ndarray, "3 3"]:
        """Return what takes frame q, enlarged by `scale`, to the canvas."""
        return self.to_canvas @ self.layer.to_frame(q, self.layer.best) @ pictures.scaling(1 / scale)

    def in_frames(self, clip: Prepared) -> Bool[np.ndarray, "T h w"] | Lazy:
        """Return where the thing is in every frame, at the working size; nowhere in frames that do not show it."""
        found = stacks.zeros((len(clip.frames), *clip.small_size), bool)
        for q in np.flatnonzero(self.layer.there):
            found[q] = self.in_frame(clip, int(q))[0]
        return found

    def body(self, scale: float, most: int = 300) -> Shaped[np.ndarray, "P"]:
        """Return complex places all over the thing, at most so many, in the layer's own frame."""
        y, x = np.nonzero(self.is_thing)
        step = max(1, len(y) // most)
        at = background.move(np.linalg.inv(self.to_canvas), np.stack([x, y], axis=-1)[::step] + 0.5)
        best = self.layer.best
        return (at @ np.array([1, 1j]) - self.layer.shift[best]) / self.layer.factor[best]

    def holds(self, clip: Prepared, q: int, xy: Shaped[np.ndarray, "N 2"]) -> Bool[np.ndarray, "N"]:
        """Tell which positions in frame q are well inside."""
        core = cv2.erode(self.is_thing.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        return at(core, background.move(self.from_frame(q, 1.0), xy))

    def known(self, matrix: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """Return where some frame shows the thing, on a picture that `matrix` takes the canvas to."""
        return pictures.warp((self.seen > 0).astype(np.uint8) * 255, matrix, size) > 127

    def doubt(self, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
        """Return how likely each pixel of the canvas is on the wrong side of the edge: near it, far from points.

        `size`: of the frames that the canvas was made of, (h, w).
        """
        z = self.layer.paths()[:, self.layer.best]
        z = background.move(self.to_canvas, np.stack([z.real, z.imag], axis=-1)) @ np.array([1, 1j])
        far = FAR_DOUBT * distance_to(z, self.odds.shape) / min(size)
        edge = np.exp(-np.abs(self.odds)) * (self.odds > -3)
        return np.maximum(edge, np.minimum(far, 0.6) * self.is_thing).astype(np.float32)

    def soft(self, clip: Prepared, q: int) -> tuple[Float[np.ndarray, "h w"], tuple[int, int]] | None:
        """Return the mask as it lies in frame q, and around it, at the working size; and its corner (y, x) there."""
        y, x = np.nonzero(self.is_thing)
        if not len(y):
            return None
        ends = np.array(
            [[x.min(), y.min()], [x.max() + 1, y.min()], [x.max() + 1, y.max() + 1], [x.min(), y.max() + 1]]
        )
        matrix = np.linalg.inv(self.from_frame(q, clip.scale))
        there = background.move(matrix, ends)
        low, high = np.floor(there.min(axis=0)).astype(int) - 2, np.ceil(there.max(axis=0)).astype(int) + 2
        # Far outside the frame nothing is drawn from.
        reach = np.array(clip.small_size[::-1])
        low, high = np.maximum(low, -reach), np.minimum(high, 2 * reach)
        if (low >= high).any():
            return None
        (left, top), (right, bottom) = low.tolist(), high.tolist()
        matrix = pictures.shifting(-left, -top) @ matrix
        return pictures.warp(self.is_thing.astype(np.float32), matrix, (bottom - top, right - left)), (top, left)

    def in_frame(self, clip: Prepared, q: int) -> tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
        """Return the whole mask in frame q at the working size, covered or not, and the log-odds."""
        matrix = np.linalg.inv(self.from_frame(q, clip.scale))
        mask = pictures.warp(self.is_thing.astype(np.uint8) * 255, matrix, clip.small_size) > 127
        return mask, pictures.warp(self.odds, matrix, clip.small_size, value=-9.0)


def find(
    clip: Prepared,
    layer: Layer,
    found: dict[int, Float[np.ndarray, "h w"]],
    by_colours: bool = False,
    covered: Mapping[int, Bool[np.ndarray, "h w"]] | None = None,
) -> Mask:
    """Find the mask of a layer from log-odds by frame; `covered` of these frames belongs to other things.

    `by_colours`: the log-odds say little, and what is far from the edge that colours have is no less sure for it.
    """
    height, width = clip.small_size
    pad = int(MARGIN * max(clip.small_size))
    canvas = (height + 2 * pad, width + 2 * pad)
    to_canvas = pictures.shifting(pad, pad) @ pictures.scaling(clip.scale)
    odds, count, laid, valid = np.zeros(canvas, np.float32), np.zeros(canvas, np.float32), [], []
    for q, log_odds in found.items():
        free = np.ones(clip.small_size, np.float32) if covered is None else (~covered[q]).astype(np.float32)
        matrix = to_canvas @ layer.to_frame(q, layer.best) @ pictures.scaling(1 / clip.scale)
        odds += pictures.warp(log_odds * free, matrix, canvas)
        shown = pictures.warp(free, matrix, canvas)
        count += shown
        laid.append(pictures.warp(clip.small[q], matrix, canvas))
        valid.append(shown > 0.9)
    picture, _ = pictures.median(laid, valid)
    seen = count > 0.3
    z = layer.paths()[:, layer.best] * clip.scale + pad * (1 + 1j)
    away = distance_to(z, canvas) / min(clip.small_size)
    odds = odds / np.maximum(count, 0.3) - np.clip((away - NEAR) / 0.1, 0, 4)
    odds = np.where(seen, odds, -9).astype(np.float32)
    is_thing = _holding(_cut(picture, odds, away, seen), z)
    if by_colours:
        inside, outside = (
            cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (is_thing, ~is_thing)
        )
        odds = odds + np.clip((inside - outside) / (EDGE * min(clip.small_size)), -2, 2)
    return Mask(layer, to_canvas, odds.astype(np.float32), is_thing, picture, count / len(found))


def _all_evidence(clip, layer, plate, cameras):
    """Return log-odds [h w] that pixels are the layer's, for some of the frames that show it, and if colours decide.

    A thing that rests in most frames is in the plate itself, which then tells nothing: so it is where its own points
    look like the plate.
    """
    frames = np.flatnonzero(layer.there)
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).astype(int))]
    found = {q: _evidence(clip, layer, plate, cameras, q) for q in chosen.tolist()}
    z = {q: layer.paths()[:, q] * clip.scale for q in found}
    at_points = [
        by_plate[distance_to(z[q][layer.seen[:, q]], by_plate.shape) < 1]
        for q, (_, by_plate) in found.items()
        if layer.seen[:, q].any()
    ]
    if not at_points or np.median(np.concatenate(at_points)) > RESTS:
        return {q: motion + by_plate for q, (motion, by_plate) in found.items()}, False
    return {q: motion + AMID * _amid(z[q], motion.shape) for q, (motion, _) in found.items()}, True


def _amid(z, size) -> Bool[np.ndarray, "h w"]:
    """Return what lies between points, and near to them."""
    amid = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(amid, cv2.convexHull(np.stack([z.real, z.imag], axis=-1).astype(np.float32)).astype(np.int32), 1)
    return (amid > 0) | (distance_to(z, size) < 2 * SEEDS * min(size))


def _evidence(clip, layer, plate, cameras, q):
    """Return log-odds [h w] that pixels of frame q are the layer's, as its motion says and as the plate says."""
    to_small, to_frame = pictures.scaling(clip.scale), pictures.scaling(1 / clip.scale)
    frame, size, seen = clip.lab[q], clip.small_size, layer.there
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for r in (q + offset for offset in OFFSETS):
        if not (0 <= r < len(clip.frames) and seen[r]):
            continue
        ways = (layer.to_frame(r, q), np.linalg.inv(cameras[q]) @ cameras[r])
        there = [pictures.warp(clip.lab[r], to_small @ way @ to_frame, size, value=(-999.0, 0.0, 0.0)) for way in ways]
        by_layer, by_camera = (np.minimum(pictures.distance(frame, other), 25) for other in there)
        known = (there[0][..., 0] > -1) & (there[1][..., 0] > -1)
        total += np.where(known, by_camera - by_layer, 0)
        count += known
    motion = np.clip(total / np.maximum(count, 1) / 3, -3, 3)
    behind, known = plate.seen_from(np.linalg.inv(clip.to_small(cameras[q])), size)
    unlike = pictures.distance(frame, pictures.to_lab(behind), reach=2)
    by_plate = np.where(known, np.clip((unlike - 10) / 6, -1.5, 2.5), 0)
    return motion.astype(np.float32), by_plate.astype(np.float32)


def distance_to(z: Shaped[np.ndarray, "M"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Return each pixel's distance to the nearest of some points, at least that of one pixel."""
    away = np.full(size, 255, np.uint8)
    x, y = (np.clip(np.floor(part), 0, most - 1).astype(int) for part, most in ((z.real, size[1]), (z.imag, size[0])))
    away[y, x] = 0
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _cut(picture, odds, away, seen):
    """Divide a picture in thing and rest by GrabCut, starting from log-odds and the points' distances."""
    labels = np.where(odds > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[(odds < -1.2) | (away > FAR)] = cv2.GC_BGD
    labels[odds > SURE] = cv2.GC_FGD
    labels[away < SEEDS] = cv2.GC_FGD
    labels[~seen] = cv2.GC_BGD
    return grab(picture, labels, labels != cv2.GC_BGD, BESIDE * max(labels.shape))


def grab(
    picture: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    possible: Bool[np.ndarray, "h w"],
    margin: float,
    rounds: int = 3,
) -> Bool[np.ndarray, "h w"]:
    """Run GrabCut on what is possible and some pixels around it; without two parts to tell apart the labels stay."""
    box = pictures.extent(possible)
    found = np.zeros(labels.shape, bool)
    if box is None:
        return found
    box = tuple(slice(max(0, part.start - round(margin)), part.stop + round(margin)) for part in box)
    part = np.ascontiguousarray(labels[box])
    is_thing = lambda: (part == cv2.GC_FGD) | (part == cv2.GC_PR_FGD)  # noqa: E731
    # It needs some of both, and enough of each for a model of its colours.
    if min(is_thing().sum(), (~is_thing()).sum()) >= 20:
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(picture[box]), part, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    found[box] = is_thing()
    return found


def _holding(is_thing, z):
    """Return the connected parts of a mask that hold points, or all if none does."""
    _, parts = cv2.connectedComponents(is_thing.astype(np.uint8))
    limits = (parts.shape[1] - 1, parts.shape[0] - 1)
    x, y = (np.clip(np.floor(part), 0, most).astype(int) for part, most in zip((z.real, z.imag), limits, strict=True))
    holding = set(parts[y, x].tolist()) - {0}
    return np.isin(parts, list(holding)) if holding else is_thing


def find_all(
    clip: Prepared,
    layers: list[Layer],
    plate: Plate,
    cameras: Float[np.ndarray, "T 3 3"],
    given: Sequence[Bool[np.ndarray, "T h w"] | Lazy] = (),
    rounds: int = 2,
) -> list[Mask]:
    """Find all masks; from the second round on a pixel counts only for the thing that claims it most.

    `given`: where things are whose masks are known; they are nobody else's.
    """
    everything = [_all_evidence(clip, layer, plate, cameras) for layer in layers]
    frames = sorted({q for evidence, _ in everything for q in evidence})
    nothing = np.zeros(clip.small_size, bool)
    taken = {q: np.any([nothing, *(mask[q] for mask in given)], axis=0) for q in frames}
    found = [find(clip, layer, *of, taken) for layer, of in zip(layers, everything, strict=True)]
    for _ in range(rounds - 1 if len(layers) > 1 else 0):
        covered = [{q: of[q] | taken[q] for q in frames} for of in claimed_by_others(clip, found, frames)]
        found = [find(clip, layer, *of, other) for layer, of, other in zip(layers, everything, covered, strict=True)]
    return found


def at(mask: Bool[np.ndarray, "h w"], xy: Shaped[np.ndarray, "N 2"]) -> Bool[np.ndarray, "N"]:
    """Look positions up in a mask; outside it there is nothing."""
    x, y = np.floor(xy).astype(int).T
    found = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    found[found] = mask[y[found], x[found]]
    return found


def claimed_by_others(
    clip: Prepared, masks: list[Mask], frames: Sequence[int]
) -> list[dict[int, Bool[np.ndarray, "h w"]]]:
    """Return for each thing which pixels of some frames belong rather to another one."""
    covered: list[dict[int, Bool[np.ndarray, "h w"]]] = [{} for _ in masks]
    for q in frames:
        claims = []
        for mask in masks:
            is_thing, odds = mask.in_frame(clip, q)
            visible = mask.layer.there[q]
            claims.append(np.where(is_thing, odds, -9.0) - (0 if visible else 3))
        owner = np.argmax(claims, axis=0)
        someone = np.max(claims, axis=0) > -5
        for index, of in enumerate(covered):
            of[q] = someone & (owner != index)
    return covered
