"""Draw an edit: the background as the edit's camera sees it, and every thing where the edit puts it, in front of it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from motionv2v import rigid
from motionv2v.draft import background, layers, masks, pictures, times
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.layers import Layer
from motionv2v.draft.masks import Mask
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, Int, UInt8

AROUND = 1.5
"""Pixels around a thing that are removed with it: its soft edge."""


@dataclass
class Draft:
    """An edit drawn from the clip's own pixels.

    Attributes:
        frames: uint8 [T H W 3]. hole: [T H W], where nothing of the clip shows what is behind, so it was made up.
        layer: [T H W], the thing that is seen, counted from 1; 0 is the background.
        groups: the points of each thing.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    hole: Bool[np.ndarray, "T H W"]
    layer: Int[np.ndarray, "T H W"]
    groups: list[list[int]]


def render(
    clip: AnyArray | Prepared,
    source: Tracks,
    target: Tracks,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Draft:
    """Draw an edit without a network. No edit gives the clip itself, bit for bit.

    Args:
        clip: its frames, uint8 [T H W 3], or what was prepared of them.
        source, target: the points' paths in the clip and in the edit, [N T 2] in pixels.
        groups: which points move as one thing each; the others are the background's. None guesses.
        notify: called with a sentence for what had to be guessed or made up.

    Raises:
        ValueError: for a clip that is none, and for tracks that do not belong to it.
    """
    clip = clip if isinstance(clip, Prepared) else Prepared(clip)
    _check(clip, source, target)
    whole = clip.frames.shape[:3]
    result = Draft(clip.frames.copy(), np.zeros(whole, bool), np.zeros(whole, np.int16), [])
    before, after = layers.places(source), layers.places(target)
    if np.array_equal(before, after) and np.array_equal(source.visible, target.visible):
        return result
    shown = times.find(before, after, np.asarray(target.visible))
    for t in np.flatnonzero(np.isfinite(shown)):
        result.frames[t] = clip.between(float(shown[t]))
    if np.isfinite(shown).all():
        return result
    behind, result.groups = _grouped(clip, source, target, groups)
    things = [layers.make_layer(points, source, target) for points in result.groups]
    if unseen := [thing for thing in things if not thing.seen.any()]:
        notify(f"{len(unseen)} things are never visible in the clip, so there is nothing to draw them from")
    things = [thing for thing in things if thing.seen.any()]
    scene = _Scene(clip, things)
    views = _views(clip, scene.cameras, behind, source, target)
    scene.stay([_goes_along(thing, views, scene.cameras) for thing in things])
    for t in np.flatnonzero(~np.isfinite(shown)):
        result.frames[t], result.hole[t], result.layer[t] = scene.draw(int(t), views[t])
    return result


def _check(clip, source, target):
    num_frames = len(clip.frames)
    for name, tracks in (("source", source), ("target", target)):
        shape = np.shape(tracks.xy)
        if len(shape) != 3 or shape[1:] != (num_frames, 2) or np.shape(tracks.visible) != shape[:2]:
            raise ValueError(f"{name} must be tracks [N {num_frames} 2] of a clip of {num_frames} frames, got {shape}")
        if not np.isfinite(tracks.xy).all():
            raise ValueError(f"{name} has positions that are not finite")
    if np.shape(source.xy) != np.shape(target.xy):
        raise ValueError(f"source has {len(source.xy)} points and target {len(target.xy)}; expected the same")


def _grouped(clip, source, target, groups):
    """Return the background's points and the groups of all others."""
    if groups is None:
        return layers.guess(source, target, clip.cameras, clip.size[0])
    groups = [[int(i) for i in group] for group in groups]
    taken = {i for group in groups for i in group}
    if bad := [i for i in taken if not 0 <= i < len(source.xy)]:
        raise ValueError(f"groups name point {bad[0]}; the tracks have points 0..{len(source.xy) - 1}")
    return [i for i in range(len(source.xy)) if i not in taken], groups


def _views(clip, cameras, behind, source, target):
    """Return the edit's camera in each frame, reference to frame: the clip's, unless the background's points move."""
    own = np.stack([np.linalg.inv(camera) for camera in cameras])
    behind = [i for i in behind if target.visible[i].any()]
    points, after = np.array(behind, int), layers.places(target)
    if not behind or np.array_equal(layers.places(source)[points], after[points]):
        return own
    rest = layers.resting_places(source, cameras)[points]
    shown = np.asarray(target.visible)[points]
    if len(points) == 1:  # its turn and zoom are the clip's
        here = [background.move(view, np.array([[rest[0].real, rest[0].imag]]))[0] for view in own]
        moves = [(after[points[0], t].real - x, after[points[0], t].imag - y) for t, (x, y) in enumerate(here)]
        return np.stack([pictures.shifting(*by) @ view for by, view in zip(moves, own, strict=True)])
    factor, shift = rigid.poses(after[points], shown | ~shown.any(axis=0), rest)
    return np.stack([background.similarity_matrix(complex(a), complex(b)) for a, b in zip(factor, shift, strict=True)])


def _goes_along(thing: Layer, views: Float[np.ndarray, "T 3 3"], cameras: Float[np.ndarray, "T 3 3"]) -> bool:
    """Tell whether the edit moves a thing as it moves the background, so that nothing has to be cut out."""
    here, there = thing.paths(False), thing.paths(True)
    led = [
        background.move(view @ camera, np.stack([z.real, z.imag], axis=-1))
        for view, camera, z in zip(views, cameras, here.T, strict=True)
    ]
    off = np.abs(np.stack(led, axis=1) @ np.array([1, 1j]) - there)
    counts = thing.seen | thing.shown
    return bool(off[counts].mean() < layers.TOLERANCE) if counts.any() else True


class _Scene:
    """The parts of a clip from which frames of an edit are put together."""

    def __init__(self, clip: Prepared, things: list[Layer]):
        self.clip, self.cameras = clip, clip.cameras
        plate = Plate(clip.frames, self.cameras)
        self.masks = masks.find_all(clip, things, plate, self.cameras)
        covered = self._covered(self.masks)
        self.plate = Plate(clip.frames, self.cameras, covered)
        if not clip.is_still and len(clip.frames) > 1:
            smaller = [cv2.resize(part.astype(np.uint8), clip.small_size[::-1]) for part in covered]
            free = np.stack(smaller) == 0
            for _ in range(2):
                self.cameras = background.register(clip.lab, clip.scale, self.plate, self.cameras, free)
                self.plate = Plate(clip.frames, self.cameras, covered)
        self.removed, self.stays = covered, [False] * len(things)
        self.order = _order(self.masks, clip)
        self.looks = [_Look(mask, clip) for mask in self.masks]

    def stay(self, stays: list[bool]) -> None:
        """Leave things in the background's picture, where the edit moves them with it."""
        self.stays = stays
        if any(stays):
            self.removed = self._covered([mask for mask, stay in zip(self.masks, stays, strict=True) if not stay])

    def _covered(self, found: Sequence[Mask]) -> Bool[np.ndarray, "T H W"]:
        """Return where things and their soft edges are in the clip."""
        clip, reach = self.clip, round(AROUND * max(1.0, self.clip.scale))
        kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        covered = np.zeros(clip.frames.shape[:3], bool)
        for q in range(len(clip.frames)):
            small = np.zeros(clip.small_size, np.uint8)
            for mask in found:
                small |= mask.in_frame(clip, q)[0].astype(np.uint8)
            small = cv2.dilate(small * 255, kernel)
            covered[q] = cv2.resize(small, clip.size[::-1], interpolation=cv2.INTER_LINEAR) > 40
        return covered

    def draw(
        self, t: int, view: Float[np.ndarray, "3 3"]
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"], Int[np.ndarray, "H W"]]:
        """Draw frame t of the edit: its picture, what was made up, and which thing is where."""
        clip, size = self.clip, self.clip.size
        way = view @ self.cameras[t]
        is_same = np.abs(way - np.eye(3)).max() < 1e-9
        if is_same:
            picture, gone = clip.frames[t].copy(), self.removed[t]
        else:
            cubic = {"interpolation": cv2.INTER_CUBIC, "border": cv2.BORDER_REPLICATE}
            picture = pictures.warp(clip.frames[t], way, size, **cubic)
            gone = pictures.warp(self.removed[t].astype(np.uint8) * 255, way, size) > 20
            gone |= ~pictures.inside(size, way, size)
        hole, owner = np.zeros(size, bool), np.zeros(size, np.int16)
        if gone.any():
            behind, known = self.plate.seen_from(view, size)
            picture[gone] = behind[gone]
            hole = gone & ~known
        canvas = picture.astype(np.float32)
        for index in self.order:
            colours, alpha = self.looks[index].at(t)
            if self.stays[index]:  # it is there already, but for where something else was taken away or put
                alpha = alpha * (gone | (owner > 0))
            canvas += alpha[..., None] * (colours - canvas)
            owner[alpha > 0.5] = index + 1
            hole &= alpha < 0.9
        touched = gone | (owner > 0) | (np.abs(canvas - picture).max(axis=-1) > 0.5)
        drawn = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
        return np.where(touched[..., None], drawn, picture), hole, owner


class _Look:
    """What a thing looks like, and where it is drawn from."""

    def __init__(self, mask: Mask, clip: Prepared):
        self.mask, self.clip = mask, clip
        soft = 0.35 * max(1.0, clip.scale)
        self.alpha = cv2.GaussianBlur(mask.is_thing.astype(np.float32), (0, 0), soft)
        reach = round(max(1.0, clip.scale))
        core = cv2.erode(mask.is_thing.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
        self.colours = pictures.spread(mask.picture, core if core.sum() >= 20 else mask.is_thing)

    def at(self, t: int) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
        """Return its colours and how much it covers in frame t of the edit."""
        clip, layer = self.clip, self.mask.layer
        way = layer.to_target(layer.best, t) @ np.linalg.inv(self.mask.to_canvas)
        # Drawn at the working size where that is larger, so that edges are averaged over pixels.
        larger = max(1.0, clip.scale)
        size = tuple(round(side * larger) for side in clip.size)
        matrix = pictures.scaling(larger) @ way
        alpha = pictures.warp(self.alpha, matrix, size)
        if alpha.max() < 0.01:
            return np.zeros((*clip.size, 3), np.float32), np.zeros(clip.size, np.float32)
        colours = pictures.warp(self.colours, matrix, size, border=cv2.BORDER_REPLICATE)
        if larger > 1:
            alpha, colours = (
                cv2.resize(part, clip.size[::-1], interpolation=cv2.INTER_AREA) for part in (alpha, colours)
            )
        return colours.astype(np.float32), alpha


def _order(found: Sequence[Mask], clip: Prepared) -> list[int]:
    """Return the things from back to front, as the points' visibility under one another's masks says.

    A point that cannot be seen where another thing is lies behind that thing; one that can lies before it. Points of
    the clip and of the edit vote alike.
    """
    votes = np.zeros((len(found), len(found)))
    for i, mine in enumerate(found):
        for j, other in enumerate(found):
            if i != j:
                votes[j, i] = _votes(mine.layer, other, clip)
    votes = votes - votes.T  # [j i] above 0: j is in front of i
    return [int(i) for i in np.argsort((votes > 0).sum(axis=1) - (votes < 0).sum(axis=1), kind="stable")]


def _votes(mine: Layer, other: Mask, clip: Prepared) -> int:
    """Count points of `mine` under the other's mask: hidden ones for, visible ones against the other being in front."""
    core = cv2.erode(other.is_thing.astype(np.uint8), np.ones((5, 5), np.uint8))
    best, total = other.layer, 0
    for is_target, visible in ((False, mine.seen), (True, mine.shown)):
        z = mine.paths(is_target)
        factor, shift = (best.target_factor, best.target_shift) if is_target else (best.factor, best.shift)
        ratio = best.factor[best.best] / factor
        there = ratio * z + best.shift[best.best] - ratio * shift
        at = background.move(other.to_canvas, np.stack([there.real, there.imag], axis=-1).reshape(-1, 2))
        x, y = np.floor(at).astype(int).T.reshape(2, *z.shape)
        on_canvas = (x >= 0) & (y >= 0) & (x < core.shape[1]) & (y < core.shape[0])
        under = np.zeros(z.shape, bool)
        under[on_canvas] = core[y[on_canvas], x[on_canvas]] > 0
        under &= (z.real > 0) & (z.imag > 0) & (z.real < clip.size[1]) & (z.imag < clip.size[0])
        total += int((under & ~visible).sum()) - int((under & visible).sum())
    return total
