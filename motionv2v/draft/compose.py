"""Draw an edit: the background as the edit's camera sees it, and every thing where the edit puts it, in front of it."""

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from motionv2v import rigid, stacks
from motionv2v.draft import background, layers, notices, pictures, times
from motionv2v.draft.choice import FLIPS, Choice, choose, relate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.given import Hint
from motionv2v.draft.paint import Painter
from motionv2v.draft.scene import Scene
from motionv2v.stacks import Lazy
from motionv2v.tracks import Tracks, select
from motionv2v.typing import AnyArray, Bool, Float, Int, UInt8

_SIDES = ("source", "target")
AROUND_MISSED, LEAST_MISSED = 0.125, 0.25
"""How far around a point that is not where the edit shows it all is doubtful, in the shorter side; how much there."""


@dataclass
class Course:
    """How the background of a draft, or a thing in it, was taken from the clip, and so how it moves.

    Attributes:
        frame: [T], the frame of the clip that it is taken from in each frame of the draft.
        time: [T], the same where the draft shows what is between two frames; of the background, for things None.
        way: [T 3 3], what takes that frame's pixels to those of the draft.
        pose: [T 3 3], what takes the thing from a frame of its own to where it lies; None for the background, in which
            much may move by itself.
        group: of the thing's points, in `Draft.groups`; none for the background.
    """

    frame: Int[np.ndarray, "T"]
    way: Float[np.ndarray, "T 3 3"]
    pose: Float[np.ndarray, "T 3 3"] | None = None
    group: int | None = None
    time: Float[np.ndarray, "T"] | None = None


@dataclass
class Draft:
    """An edit drawn from the clip's own pixels.

    Attributes:
        frames: uint8 [T H W 3]. hole: [T H W], where nothing of the clip shows what is behind, so it was made up. It
            and the other maps have no frames where they were not asked for.
        layer: [T H W], the thing that is seen, counted from 1; 0 is the background.
        groups: the points of each thing. uncertain: [T H W], 0 to 1, how likely a pixel is wrong.
        courses: of the background and of each thing, as `layer` counts them. order: the things from back to front.
        clip: what it was drawn from, where that was kept for who follows what moves in it (`prepared`).
    """

    frames: UInt8[np.ndarray, "T H W 3"] | Lazy
    hole: Bool[np.ndarray, "S H W"]
    layer: Int[np.ndarray, "S H W"]
    groups: list[list[int]]
    uncertain: Float[np.ndarray, "S H W"]
    courses: list[Course] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    clip: Prepared | None = field(default=None, repr=False, compare=False)

    def prepared(self, frames: AnyArray | Lazy) -> Prepared:
        """Return what it was drawn from as it was kept, else the clip's frames prepared anew."""
        return Prepared(frames) if self.clip is None else self.clip


@dataclass
class Drawing:
    """An edit that is ready to be drawn: any of its frames, in any order.

    Attributes:
        clip: what it is drawn of. groups: the points of each thing.
        times: [T], the time of the clip that a frame shows as it is, NaN where it is put together.
        courses, order: as `Draft` has them.
        paint: puts a frame together, as `frame` says.
    """

    clip: Prepared
    groups: list[list[int]]
    times: Float[np.ndarray, "T"]
    courses: list[Course]
    order: list[int] = field(default_factory=list)
    paint: Callable[[int, bool], tuple[AnyArray, AnyArray, AnyArray, AnyArray]] | None = None

    def frame(
        self, t: int, with_doubt: bool = True
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"], Int[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        """Draw a frame: its picture, and the maps hole, layer and uncertain as `Draft` has them.

        `with_doubt` False is for who does not read the last, which is then too low.
        """
        if self.paint is None or np.isfinite(self.times[t]):
            nothing = (np.zeros(self.clip.size, kind) for kind in (bool, np.int16, np.float32))
            return self.clip.between(float(self.times[t])), *nothing
        return self.paint(t, with_doubt)

    def draw(self, notify: Callable[[str], None], stream: bool = False) -> Draft:
        """Draw all frames; arguments as for `render`."""
        result = _empty(self.clip.frames.shape, stream)
        made_up = np.zeros(len(self.times))
        for t in self.clip.counted(range(len(self.times)), "drawn frame"):
            result.frames[t], hole, layer, unsure = self.frame(t, not stream)
            made_up[t] = hole.mean()
            if not stream:
                result.hole[t], result.layer[t], result.uncertain[t] = hole, layer, unsure
        for line in notices.of_holes(made_up):
            notify(line)
        result.groups, result.courses, result.order = self.groups, self.courses, self.order
        return result


def render(
    clip: AnyArray | Lazy | Prepared,
    source: Tracks,
    target: Tracks,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    hints: Sequence[Hint | None] | None = None,
    order: Sequence[int] | None = None,
    mirrored: Sequence[int] = (),
    notify: Callable[[str], None] = warnings.warn,
    stream: bool = False,
) -> Draft:
    """Draw an edit without a network. No edit gives the clip itself, bit for bit.

    Args:
        clip, source, target, groups, hints, order, mirrored: as for `plan`.
        notify: called with a sentence for what had to be guessed or made up.
        stream: for who takes the frames one by one and nothing else: they are a stack, not in memory if the clip is
            long (`stacks.zeros`), and the maps have no frames.

    Raises:
        ValueError: for a clip that is none, and for tracks that do not belong to it.
    """
    said: dict[str, Any] = {"groups": groups, "hints": hints, "order": order, "mirrored": mirrored, "notify": notify}
    return plan(clip, source, target, **said).draw(notify, stream)


def plan(
    clip: AnyArray | Lazy | Prepared,
    source: Tracks,
    target: Tracks,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    hints: Sequence[Hint | None] | None = None,
    order: Sequence[int] | None = None,
    mirrored: Sequence[int] = (),
    notify: Callable[[str], None] = warnings.warn,
) -> Drawing:
    """Find out how an edit is drawn, and draw no frame of it yet.

    Args:
        clip: its frames, uint8 [T H W 3], or what was prepared of them.
        source, target: the points' paths in the clip and in the edit, [N T 2] in pixels.
        groups: which points move as one thing each; the others are the background's. None guesses.
        hints: where each group's thing is, as far as a person says so; one for each group, or None in its place.
        order: groups from front to back, as far as it is known; the others are ordered by what hides what.
        mirrored: groups that the edit mirrors in some frames; which, their points tell.
        notify: called with a sentence for what had to be guessed.

    Raises:
        ValueError: as `render`.
    """
    clip = clip if isinstance(clip, Prepared) else Prepared(clip)
    _check(clip, source, target)
    before, after = layers.places(source), layers.places(target)
    if np.array_equal(before, after) and np.array_equal(source.visible, target.visible):
        own = np.arange(len(clip.frames))
        return Drawing(clip, [], own.astype(np.float64), [_in_time(own, own)])
    shown = np.full(len(clip.frames), np.nan)
    if groups is None or _moves_the_rest(before, after, groups):
        shown = times.find(before, after, np.asarray(source.visible), np.asarray(target.visible))
    if np.isfinite(shown).all():
        return Drawing(clip, [], shown, [_in_time(times.nearest(shown), shown)])
    guessed = groups is None
    behind, groups = _grouped(clip, source, target, groups)
    _check_said(clip, groups, hints, order)
    scene, told = _taken_apart(clip, source, groups, hints)
    if unseen := len(groups) - len(scene.things):
        notify(f"{unseen} things are never visible in the clip, so there is nothing to draw them from")
    views, is_camera = _views(scene.cameras, behind, source, target)
    if is_camera:
        shown[:] = np.nan  # a slow camera may be where it was at other times, too
    choices = _choices(scene, before, after, target.visible, views, mirrored)
    base = times.nearest(shown)
    stays = [_goes_along(thing, views, scene.cameras, base, source, target) for thing in scene.things]
    if behind and not np.array_equal(before[behind], after[behind]):
        told = told + notices.of_camera(views, scene, source, target, behind)
    told = told + notices.of_masks(scene, stays, hints, guessed)
    for line in told + notices.of_things(choices, scene, target, mirrored):
        notify(line)
    painter = Painter(scene, choices, stays, _order(scene, choices, stays, source, target, order or ()))

    def paint(t, with_doubt):
        picture, hole, layer, unsure = painter.draw(t, views[t], int(base[t]))
        missed = _missed(layer, t, target, groups, scene.names, stays) if with_doubt else 0
        return picture, hole, layer, np.maximum(unsure, missed)

    courses = _courses(scene, choices, views, base, shown)
    return Drawing(clip, groups, shown, courses, [index + 1 for index in painter.order], paint)


def _choices(scene, before, after, shown, views, mirrored) -> list[Choice]:
    led = layers.turns(views), layers.turns(scene.cameras)
    choices = []
    for name, thing, look in zip(scene.names, scene.things, scene.looks, strict=True):
        paths = (part[thing.points] for part in (before, after, shown))
        choices.append(choose(thing, *paths, look.body(), scene.clip.size, led, may_mirror=name in mirrored))
    return choices


def _empty(shape, stream) -> Draft:
    """Return what a draft is drawn into."""
    maps = (0 if stream else shape[0], *shape[1:3])
    hole, layer, uncertain = (np.zeros(maps, kind) for kind in (bool, np.int16, np.float32))
    return Draft((stacks.zeros if stream else np.zeros)(shape, np.uint8), hole, layer, [], uncertain)


def _in_time(frames, shown) -> Course:
    """Return the course of a background that shows the clip as it is at some times, and the frames nearest to these."""
    return Course(frames, np.stack([np.eye(3)] * len(frames)), time=np.asarray(shown, np.float64))


def _courses(scene, choices, views, base, shown) -> list[Course]:
    """Return from where a draft takes the background, whose frames may be whole ones of the clip, and its things."""
    found = _in_time(base, np.where(np.isfinite(shown), shown, base))
    drawn = np.flatnonzero(~np.isfinite(shown))
    found.way[drawn] = views[drawn] @ scene.cameras[base[drawn]]
    things = []
    for name, thing, choice in zip(scene.names, scene.things, choices, strict=True):
        way = np.stack([choice.matrix(t) for t in range(len(base))])
        own = [background.similarity_matrix(complex(thing.factor[q]), complex(thing.shift[q])) for q in choice.frame]
        things.append(Course(choice.frame, way, way @ np.stack(own), name))
    return [found, *things]


def of_sample(sample: Mapping[str, AnyArray]) -> Draft:
    """Draw the edit of a sample, in silence; its groups are guessed, and points that are seen nowhere fill it up.

    Args:
        sample: `source` uint8 [T H W 3], `source_xy`, `target_xy` [N T 2], `source_visible`, `target_visible` [N T].
    """
    sides = [Tracks(*(np.asarray(sample[f"{side}_{part}"]) for part in ("xy", "visible"))) for side in _SIDES]
    used = np.flatnonzero((sides[0].visible | sides[1].visible).any(axis=1))
    return render(np.asarray(sample["source"]), *(select(side, used) for side in sides), notify=lambda line: None)


def _missed(owner, t, target, groups, names, stays) -> Float[np.ndarray, "H W"]:
    """Return doubt around points that the edit shows, and where something else than what they belong to was drawn.

    That is so where a thing was never seen, and where masks or the order of things are wrong.
    """
    doubt = np.zeros(owner.shape, np.float32)
    group = {i: index for index, points in enumerate(groups) for i in points}
    away = np.full(owner.shape, 255, np.uint8)
    for i in np.flatnonzero(target.visible[:, t]):
        x, y = np.floor(target.xy[i, t]).astype(int)
        near = owner[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] if x >= 0 and y >= 0 else np.zeros(0)
        wanted = 0 if i not in group else names.index(group[i]) + 1 if group[i] in names else -1
        stayed = wanted > 0 and stays[wanted - 1] and (near == 0).any()
        if near.size and not (near == wanted).any() and not stayed:
            away[min(y, owner.shape[0] - 1), min(x, owner.shape[1] - 1)] = 0
    if (away == 0).any():
        distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / min(owner.shape)
        doubt = np.clip(1 - distance * (1 - LEAST_MISSED) / AROUND_MISSED, 0, 1) * (distance <= AROUND_MISSED)
    return doubt.astype(np.float32)


def find_masks(
    clip: Prepared, source: Tracks, groups: Sequence[Sequence[int]], hints: Sequence[Hint | None] | None = None
) -> list[Bool[np.ndarray, "T h w"] | Lazy | None]:
    """Return where each group's thing is in the clip's frames, at the working size, as a draft has it; None: nowhere.

    Arguments and errors are those of `render`. What is found is kept for a draft of the same groups.
    """
    _check(clip, source, source)
    _, groups = _grouped(clip, source, source, groups)
    _check_said(clip, groups, hints, None)
    scene, _ = _taken_apart(clip, source, groups, hints)
    found: list[Any] = [None] * len(groups)
    for name, mask in zip(scene.names, scene.masks, strict=True):
        found[name] = mask.in_frames(clip)
    return found


def _taken_apart(clip, source, groups, hints) -> tuple[Scene, list[str]]:
    """Return the clip taken apart, and what there is to say of it: once, however often a path is bent."""
    key = (source.xy.tobytes(), source.visible.tobytes(), repr(groups), pickle.dumps(hints))

    def take_apart():
        scene = Scene(clip, source, groups, hints)
        return scene, notices.of_clip(scene)

    return clip.kept(key, take_apart)


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


def _moves_the_rest(before, after, groups):
    """Tell whether points of no group go elsewhere: otherwise an edit of time is one of its things, not of the clip."""
    rest = np.setdiff1d(np.arange(len(before)), [int(i) for group in groups for i in group])
    return bool((np.abs(before[rest] - after[rest]) > layers.KEPT).any())


def _check_said(clip, groups, hints, order):
    if hints is not None and len(hints) != len(groups):
        raise ValueError(f"{len(hints)} hints for {len(groups)} groups; expected one for each, or None in its place")
    for hint in hints or ():
        if hint is not None:
            hint.check(clip.size, len(clip.frames))
    if bad := [index for index in order or () if not 0 <= index < len(groups)]:
        raise ValueError(f"order names group {bad[0]}; there are groups 0..{len(groups) - 1}")


def _grouped(clip, source, target, groups):
    """Return the background's points and the groups of all others."""
    if groups is None:
        return layers.guess(source, target, clip.cameras, clip.size[0])
    groups = [[int(i) for i in group] for group in groups]
    taken = {i for group in groups for i in group}
    if bad := [i for i in taken if not 0 <= i < len(source.xy)]:
        raise ValueError(f"groups name point {bad[0]}; the tracks have points 0..{len(source.xy) - 1}")
    return [i for i in range(len(source.xy)) if i not in taken], groups


def _views(cameras, behind, source, target):
    """Return the edit's camera in each frame, reference to frame: the clip's, unless the background's points move.

    Also whether nothing but the camera was moved.
    """
    own = np.stack([np.linalg.inv(camera) for camera in cameras])
    behind = [i for i in behind if target.visible[i].any()]
    points, before, after = np.array(behind, int), layers.places(source), layers.places(target)
    if not behind or np.array_equal(before[points], after[points]):
        return own, False
    if (ways := _moves_as_one(before, after, source.visible, target.visible)) is not None:
        return ways @ own, True
    rest = layers.resting_places(source, cameras)[points]
    shown = np.asarray(target.visible)[points]
    if len(points) == 1:  # its turn and zoom are the clip's
        here = [background.move(view, np.array([[rest[0].real, rest[0].imag]]))[0] for view in own]
        moves = [(after[points[0], t].real - x, after[points[0], t].imag - y) for t, (x, y) in enumerate(here)]
        return np.stack([pictures.shifting(*by) @ view for by, view in zip(moves, own, strict=True)]), False
    factor, shift = rigid.poses(after[points], shown | ~shown.any(axis=0), rest)
    moves = zip(factor, shift, strict=True)
    return np.stack([background.similarity_matrix(complex(a), complex(b)) for a, b in moves]), False


def _moves_as_one(before, after, seen, shown) -> Float[np.ndarray, "T 3 3"] | None:
    """Return what takes each frame of the clip to that of the edit, if one similarity takes all points there,
    mirrored or not.

    So it is where only the camera was moved. The background's points alone, of which there may be one, say less.
    """
    used = (seen | shown).any(axis=1)
    if used.sum() < 3:
        return None
    before, after, weight = before[used], after[used], 0.05 + (seen | shown)[used]
    ways = []
    for t in range(before.shape[1]):
        for side, first in ((np.asarray, np.eye(3)), (np.conj, FLIPS)):
            factor, shift, off = relate(side(before[:, t, None]), after[:, t], weight[:, t, None])
            if off[0] <= layers.TOLERANCE:
                ways.append(background.similarity_matrix(complex(factor[0]), complex(shift[0])) @ first)
                break
        else:
            return None
    return np.stack(ways)


def _goes_along(thing, views, cameras, base, source, target) -> bool:
    """Tell whether the edit moves a thing as it moves the background, so that nothing has to be cut out.

    `base`: the frames of the clip that the background is taken from.
    """
    here, there = source.xy[thing.points][:, base], target.xy[thing.points]
    moves = zip(views, cameras[base], range(here.shape[1]), strict=True)
    led = np.stack([background.move(view @ camera, here[:, t]) for view, camera, t in moves], axis=1)
    counts = source.visible[thing.points][:, base] | target.visible[thing.points]
    return bool(np.linalg.norm(led - there, axis=-1)[counts].mean() < layers.TOLERANCE)


def _order(
    scene: Scene, choices: list[Choice], stays: list[bool], source: Tracks, target: Tracks, said: Sequence[int]
) -> list[int]:
    """Return the things from back to front, as the points' visibility under one another's masks says.

    A point that cannot be seen where another thing is lies behind that thing; one that can lies before it. Points of
    the clip and of the edit vote alike, but for points of the edit that are hidden in the clip's frame, too, which
    their thing is drawn from: they may be on its far side. Where points say nothing, what the edit moves is in front of
    what `stays`. `said` are groups from front to back, which is not voted on.
    """
    count = len(scene.things)
    votes = np.zeros((count, count))
    rank = {scene.names.index(group): place for place, group in enumerate(said) if group in scene.names}
    for i, mine in enumerate(scene.things):
        for j, other in enumerate(scene.masks):
            if i in rank and j in rank:
                votes[j, i] = 1e6 * (rank[j] < rank[i])
            elif i != j:
                frames = np.arange(len(scene.clip.frames))
                own = [np.eye(3)] * len(frames)
                drawn = [choices[j].matrix(t) for t in range(len(frames))]
                votes[j, i] = _votes(scene, mine, other, source, frames, own)
                shown = source.visible[mine.points][:, choices[i].frame]
                votes[j, i] += _votes(scene, mine, other, target, choices[j].frame, drawn, shown)
    votes = votes - votes.T  # [j i] above 0: j is in front of i
    return [int(i) for i in np.lexsort((~np.array(stays, bool), (votes > 0).sum(axis=1) - (votes < 0).sum(axis=1)))]


def _votes(scene, mine, other, tracks, frames, moves, shown: Bool[np.ndarray, "M T"] | bool = True) -> int:
    """Count points of `mine` under the other's mask: hidden ones for, visible ones against the other being in front.

    `moves` take the other thing from frames of the clip to where it is when the points are at their places. Hidden
    points count where they would be `shown` if nothing were in front of their thing.
    """
    xy, visible = tracks.xy[mine.points], tracks.visible[mine.points]
    total = 0
    for t, (q, move) in enumerate(zip(frames, moves, strict=True)):
        under = other.holds(scene.clip, int(q), background.move(np.linalg.inv(move), xy[:, t]))
        under &= (xy[:, t] > 0).all(axis=-1) & (xy[:, t] < scene.clip.size[::-1]).all(axis=-1)
        hidden = ~visible[:, t] & (shown if isinstance(shown, bool) else shown[:, t])
        total += int((under & hidden).sum()) - int((under & visible[:, t]).sum())
    return total
