"""Drafts of drawn pairs, with the faults that drafts of real clips have, made fast enough to train on.

A real draft (`motionv2v.draft`) finds things, their masks and the camera in the clip's pixels, in seconds. Of a scene
all of that is known, so a draft of it takes milliseconds, but would be too good: at test time masks grow, shrink, leak
and slip, and a model that never saw that would trust them. So the faults are put in on purpose, each at the rate of
`RECIPE`, and the doubt that goes with the draft points at some of them and misses others, as real doubt does.

What the points do not tell, the draft does not know: a thing without a point in use stays where the clip has it, a
single point carries its thing without turning it, and the camera moves as the points of the ground do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from motionv2v import draft
from motionv2v.data.scenes import pairs
from motionv2v.data.scenes.motion import Motion
from motionv2v.draft import paint, pictures
from motionv2v.typing import AnyArray, Bool, Float, Int, UInt8

RECIPE = {"none": 0.36, "grown": 0.14, "shrunk": 0.14, "leaked": 0.14, "shifted": 0.1, "missing": 0.08, "left": 0.04}
"""How often the mask of a thing has which fault. grown, shrunk: by 1 to 3 pixels in 64 rows. leaked: it holds a patch
of what lies beside the thing. shifted: by up to 3 pixels. missing: it is empty for up to half of the frames. left: the
thing was not found, and stays where the clip has it."""
SWAPPED, TOLD = 0.05, 0.8
"""How often the order of things is wrong; how often the doubt tells of a mask's fault."""
EDGE = 0.5
"""Doubt along the edges of things."""


@dataclass
class Drawn:
    """A draft: frames uint8 [T H W 3], the share of each pixel that is made up, and how unsure it is, [T H W]."""

    frames: UInt8[np.ndarray, "T H W 3"]
    hole: Float[np.ndarray, "T H W"]
    uncertain: Float[np.ndarray, "T H W"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the field `draft` (`methods.fields`)."""
        return {"draft": self.frames, "draft_hole": self.hole, "draft_uncertain": self.uncertain}


def draw(
    rng: np.random.Generator, scene: pairs.Scene, source: UInt8[np.ndarray, "T H W 3"], used: Bool[np.ndarray, "N"]
) -> Drawn:
    """Draw the draft of a pair, faults and all.

    Args:
        rng: decides on the faults. scene: of the pair. source: its clip.
        used: which of the scene's points the edit has.
    """
    shown = _shown(rng, scene, used)
    whole = source.shape[:3]
    told = {int(layer): np.flatnonzero(used & (scene.points.layer == layer)) for layer in scene.points.layer[used]}
    ground = _ways(rng, scene, -1, told.pop(-1, np.zeros(0, int)))
    things = [_Thing.find(rng, scene, index, told[index], ground) for index in sorted(told)]
    things = [thing for thing in things if thing is not None]
    cut = np.zeros(whole, bool)
    for thing in things:
        cut |= thing.mask
    plate, known, to_plate = _plate(scene, source, cut)
    drawn = Drawn(np.empty_like(source), np.zeros(whole, np.float32), np.zeros(whole, np.float32))
    if len(things) > 1 and rng.random() < SWAPPED:
        things[0], things[1] = things[1], things[0]
    for t in range(len(source)):
        if np.isfinite(shown[t]):
            q = int(shown[t])
            drawn.frames[t] = cv2.addWeighted(
                source[q], 1 - shown[t] + q, source[int(np.ceil(shown[t]))], shown[t] - q, 0
            )
            continue
        gone = np.zeros(whole[1:], bool)
        for thing in things:
            gone |= thing.mask[t] & ~thing.stays[t]
        picture, hole, unsure = _ground(source[t], gone, ground[t, t], plate, known, to_plate[t])
        for thing in things:
            if not thing.stays[t]:
                picture, hole, unsure = thing.lay(t, source, picture, hole, unsure)
        drawn.frames[t], drawn.hole[t], drawn.uncertain[t] = picture, hole, np.maximum(unsure, hole)
    return drawn


def find(sample: Mapping[str, AnyArray]) -> Drawn:
    """Draw the draft of a sample as at test time, from the clip's pixels and its points alone, in seconds."""
    made = draft.of_sample(sample)
    return Drawn(made.frames, made.hole.astype(np.float32), made.uncertain)


def _shown(rng, scene: pairs.Scene, used) -> Float[np.ndarray, "T"]:
    """Return which frame of the clip, also between two, a frame of the edit is, where the points tell of it; else NaN.

    Drafts find that of edits of time, but for frames that the clip does not show.
    """
    count = scene.config.num_frames
    if scene.kind not in ("retime", "reverse") or used.sum() < 3 or rng.random() < 0.1:
        return np.full(count, np.nan)
    taken, wanted = scene.source.frame_times(count), scene.target.frame_times(count)
    rises = np.argsort(taken)
    return np.interp(wanted, taken[rises], rises.astype(np.float64), left=np.nan, right=np.nan)


def _to_layer(scene: pairs.Scene, motion: Motion, layer: int) -> Float[np.ndarray, "T 3 3"]:
    """Return how pixels of each frame map to coordinates at rest in a layer, -1 being the ground."""
    count, (height, width) = scene.config.num_frames, scene.config.size
    found = _matrices(*motion.screen_to_world(count, width / height)) @ pictures.scaling(1 / height)
    if layer >= 0:
        radius = scene.content.sprites[layer].radius
        found = _matrices(*motion.world_to_sprite(layer, radius, count)) @ found
    return found


def _matrices(matrix: Float[np.ndarray, "T 2 2"], offset: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, "T 3 3"]:
    whole = np.zeros((len(matrix), 3, 3))
    whole[:, :2, :2], whole[:, :2, 2], whole[:, 2, 2] = matrix, offset, 1
    return whole


def _ways(rng, scene: pairs.Scene, layer: int, points: Int[np.ndarray, "M"]) -> Float[np.ndarray, "T T 3 3"]:
    """Return how a layer moves from each frame of the clip to each of the edit, as far as its points tell."""
    before, after = _to_layer(scene, scene.source, layer), _to_layer(scene, scene.target, layer)
    ways = np.linalg.inv(after)[None] @ before[:, None]
    if len(points) > 1:
        slips = rng.normal(0, 0.15, (len(before), 2)) * (np.abs(ways - np.eye(3)).max() > 1e-9)
        ways[..., :2, 2] += slips[None]
        return ways
    if len(points) == 1:
        local = np.append(scene.points.local[points[0]], 1.0)
        places = [(np.linalg.inv(frames) @ local)[:, :2] for frames in (before, after)]
        ways = np.broadcast_to(np.eye(3), ways.shape).copy()
        ways[..., :2, 2] = places[1][None] - places[0][:, None]
        return ways
    # Nothing tells of it: it is taken to move as in the clip.
    return np.linalg.inv(before)[None] @ before[:, None]


@dataclass
class _Thing:
    """A thing that the points tell of: its mask in the clip, where it is drawn from, and how unsure that is.

    `stays`: the frames in which the edit moves it as the ground, so that it is left in the ground's picture. `cuts`:
    its colours, cover and doubt, cut out of frames of the clip.
    """

    mask: Bool[np.ndarray, "T H W"]
    doubt: Float[np.ndarray, "T H W"]
    frame: Int[np.ndarray, "T"]
    ways: Float[np.ndarray, "T T 3 3"]
    stays: Bool[np.ndarray, "T"]
    cuts: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def find(cls, rng, scene: pairs.Scene, layer: int, points, ground) -> "_Thing | None":
        """Find a thing as drafts do, faults of `RECIPE` and all; None where it is not found."""
        fault = rng.choice(list(RECIPE), p=np.array(list(RECIPE.values())))
        true = scene.owner == layer
        if fault == "left" or not true.any():
            return None
        mask = _with_fault(rng, true, fault)
        doubt = np.stack([cv2.morphologyEx(m, cv2.MORPH_GRADIENT, np.ones((5, 5))) for m in mask.astype(np.uint8)])
        doubt = doubt * np.float32(EDGE)
        if rng.random() < TOLD:
            doubt[mask != true] = np.maximum(doubt[mask != true], rng.uniform(0.2, 0.6))
        doubt[mask] = np.maximum(doubt[mask], paint.ALONE * (len(points) == 1))
        ways = _ways(rng, scene, layer, points)
        each = np.arange(len(mask))
        off = np.abs(ways[each, each] - ground[each, each])[:, :2].max(axis=(1, 2))
        return cls(mask, doubt, _frames(rng, mask, ways), ways, off < 1e-6)

    def lay(self, t: int, source, picture, hole, unsure):
        """Lay it on frame t of the edit."""
        q = self.frame[t]
        if not self.mask[q].any():
            return picture, hole, unsure
        if q not in self.cuts:
            mask = self.mask[q].astype(np.uint8)
            soft = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)
            colours = pictures.spread(source[q], cv2.erode(mask, np.ones((3, 3))) > 0)
            self.cuts[q] = colours, np.stack([soft, self.doubt[q]], -1)
        colours, cover = self.cuts[q]
        size, way = picture.shape[:2], self.ways[q, t]
        colours = pictures.warp(colours, way, size, border=cv2.BORDER_REPLICATE)
        alpha, doubt = np.moveaxis(pictures.warp(cover, way, size), -1, 0)
        mixed = picture + alpha[..., None] * (colours.astype(np.float32) - picture)
        return np.round(mixed).astype(np.uint8), hole * (1 - alpha), np.maximum(unsure * (1 - alpha), doubt)


def _with_fault(rng, mask: Bool[np.ndarray, "T H W"], fault: str) -> Bool[np.ndarray, "T H W"]:
    """Return a mask with a fault of `RECIPE`."""
    height = mask.shape[1]
    reach = height / 64 * rng.uniform(1, 3)
    if fault in ("grown", "shrunk"):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(reach) + 1,) * 2)
        change = cv2.dilate if fault == "grown" else cv2.erode
        return np.stack([change(frame, kernel) for frame in mask.astype(np.uint8)]) > 0
    if fault == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        way = pictures.shifting(reach * np.cos(angle), reach * np.sin(angle))
        return np.stack([pictures.warp(frame, way, frame.shape) for frame in mask.astype(np.uint8) * 255]) > 127
    if fault == "leaked":
        angle, sides, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.16, 2) * height, rng.uniform(0, 180)
        leaked = mask.astype(np.uint8)
        for frame in leaked:
            if not frame.any():
                continue
            rows, columns = np.nonzero(frame)
            ahead = (columns - columns.mean()) * np.cos(angle) + (rows - rows.mean()) * np.sin(angle)
            far = int(ahead.argmax())
            centre = (int(columns[far]), int(rows[far]))
            cv2.ellipse(frame, centre, tuple(np.maximum(1, sides).astype(int).tolist()), turn, 0, 360, 1, -1)
        return leaked > 0
    if fault == "missing":
        length = int(rng.integers(1, max(2, len(mask) // 2 + 1)))
        start = int(rng.integers(0, len(mask) - length + 1))
        mask = mask.copy()
        mask[start : start + length] = False
    return mask


def _frames(rng, mask: Bool[np.ndarray, "T H W"], ways: Float[np.ndarray, "T T 3 3"]) -> Int[np.ndarray, "T"]:
    """Choose from which frame of the clip each of the edit takes a thing: whole, alike in size and turn, and near."""
    area = mask.sum(axis=(1, 2)).astype(np.float64)
    hidden = 1 - area / max(area.max(), 1)
    scale = np.abs(np.log(np.sqrt(np.abs(np.linalg.det(ways[..., :2, :2])))))
    turn = np.abs(np.arctan2(ways[..., 1, 0], ways[..., 0, 0]))
    each = np.arange(len(mask))
    cost = 2 * hidden[:, None] + scale + 0.5 * turn + 0.02 * np.abs(each[:, None] - each) + (area == 0)[:, None] * 9
    return (cost + rng.uniform(0, 0.1, len(mask))[:, None]).argmin(axis=0)


def _plate(scene: pairs.Scene, source, cut: Bool[np.ndarray, "T H W"]):
    """Put what the clip shows of the ground into one picture: it, where it is known, and how frames of the edit see it.

    The last are [T 3 3], from the picture to each frame.
    """
    size = source.shape[1:3]
    before, after = _to_layer(scene, scene.source, -1), _to_layer(scene, scene.target, -1)
    to_first = np.linalg.inv(before[0])[None] @ before
    corners = np.array([[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]], np.float64)
    there = (np.c_[corners, np.ones(4)] @ to_first.transpose(0, 2, 1)).reshape(-1, 3)[:, :2]
    low, high = np.floor(there.min(axis=0)) - 1, np.ceil(there.max(axis=0)) + 1
    whole = tuple((high - low)[::-1].astype(int).tolist())
    ways = pictures.shifting(*-low)[None] @ to_first
    chosen = range(0, len(source), 2)  # what one frame shows, its neighbour nearly always does
    rows = [pictures.warp(source[q], ways[q], whole) for q in chosen]
    seen = [pictures.warp(255 - 255 * cut[q].astype(np.uint8), ways[q], whole) > 250 for q in chosen]
    picture, count = pictures.median(np.stack(rows), np.stack(seen))
    known = count > 0
    return picture, known, np.linalg.inv(after) @ before[0] @ pictures.shifting(*low)


def _ground(frame, gone, way, plate, known, to_frame):
    """Draw the ground of one frame of the edit: it, the share that is made up, and how unsure it is."""
    size, is_moved = frame.shape[:2], np.abs(way - np.eye(3)).max() > 1e-9
    if not is_moved and not gone.any():
        return frame, np.zeros(size, np.float32), np.zeros(size, np.float32)
    gone = cv2.dilate(gone.astype(np.uint8), np.ones((3, 3))) * 255
    edge = cv2.morphologyEx(gone, cv2.MORPH_GRADIENT, np.ones((3, 3)))
    picture, outside = frame, np.zeros(size, bool)
    if is_moved:
        picture = pictures.warp(frame, way, size, border=cv2.BORDER_REPLICATE)
        parts = pictures.warp(np.stack([gone, edge, np.full(size, 255, np.uint8)], -1), way, size)
        gone, edge, outside = parts[..., 0], parts[..., 1], parts[..., 2] <= 250
    missing = (gone > 0) | outside
    unsure = np.where(outside, np.float32(paint.BEYOND), edge * np.float32(EDGE / 255))
    if not missing.any():
        return picture, np.zeros(size, np.float32), unsure
    behind = pictures.warp(plate, to_frame, size, border=cv2.BORDER_REPLICATE)
    there = pictures.warp(known.astype(np.uint8) * 255, to_frame, size) > 250
    picture = np.where((missing & there)[..., None], behind, picture)
    hole = missing & ~there
    if hole.any():
        picture = pictures.complete(picture, ~hole)
    return picture, hole.astype(np.float32), unsure
