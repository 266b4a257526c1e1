"""Draw an edit as a document says it, without a model: its things, what is said of where they are, its camera.

`motionv2v.draft` draws from tracks and groups of points; this module makes them of an `edit.json`.
"""

import gc
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v import draft, tracks
from motionv2v.draft import given, layers
from motionv2v.draft.given import Hint, Stroke
from motionv2v.edits.document import EditSpec
from motionv2v.edits.table import OPERATIONS
from motionv2v.edits.things import Division
from motionv2v.stacks import Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float

STEP = 0.01
"""Doubt of a carried mask for each frame that it is carried on."""
RESTS = 0.007
"""Share of the frame's diagonal that a point may move by, when the camera's motion is taken out, and still rest."""
_SEEN = "tells models which points are seen: the draft reads in it what lies in front of what, and draws all things"
LEFT_OUT = {
    "jitter": "is for models: the draft leaves it out",
    "hide": _SEEN,
    "show": _SEEN,
    "spin": "turns a thing in depth: the draft moves and turns it in the picture alone",
}
"""What a draft does not draw of operations, to be said after where they stand."""


def with_shape(spec: EditSpec, masks: str | Path | None, boxes: Sequence[str]) -> EditSpec:
    """Say of an edit of one thing where that is: a file or folder of masks, boxes "frame,x0,y0,x1,y1".

    They take the place of what the edit says. The spec must know the clip's size.

    Raises:
        ValueError: in one line, for boxes that are none, and for an edit of no thing or of several.
    """
    shape: dict[str, Any] = {} if masks is None else {"masks": str(Path(masks).absolute())}
    for frame, box in map(given.parse_box, boxes):
        if frame in shape.setdefault("boxes", {}):
            raise ValueError(f"--box: frame {frame} is given twice")
        given.check_box(box, spec.size, f"--box of frame {frame}")
        shape["boxes"][frame] = box
    if not shape:
        return spec
    things = spec.divide().things
    if not things:  # what moves points all over the frame moves a thing, where a person says which
        moving = [step for step in spec.steps if OPERATIONS[step.name].shapes]
        if len(moving) != 1:
            raise ValueError("--masks and --box say where a thing is, and this edit moves none")
    if len(things) > 1:
        raise ValueError(
            f"--masks and --box are for an edit of one thing, and this one moves {len(things)}: in edit.json each "
            'operation may have its own "masks" and "boxes"'
        )
    chosen = things[0].steps if things else moving
    told = {step.index: {k: v for k, v in step.shape.items() if k not in shape} for step in chosen}
    told[chosen[0].index] |= shape
    steps = tuple(replace(step, shape=told.get(step.index, step.shape)) for step in spec.steps)
    return replace(spec, steps=steps)


def read_hints(
    spec: EditSpec,
    division: Division,
    size: tuple[int, int],
    num_frames: int,
    notify: Callable[[str], None],
) -> list[Hint | None]:
    """Read what an edit says of where each of its things is; None for a thing of which it says nothing.

    Raises ValueError, one line, as `given.read` and `Hint.check` do.
    """
    hints: list[Hint | None] = []
    for thing in division.things:
        hint = Hint(boxes=dict(thing.shape.get("boxes", {})))
        for frame, strokes in thing.shape.get("strokes", {}).items():
            hint.strokes[frame] = [Stroke(tuple(s["path"]), s["radius"], s["sign"] == "add") for s in strokes]
        masks = thing.shape.get("masks", {})
        if isinstance(masks, Mapping):
            for frame, name in masks.items():
                hint.masks |= given.read(spec.folder / name, size, num_frames, frame=frame, notify=notify)
        else:
            hint.masks = given.read(spec.folder / masks, size, num_frames, notify=notify)
        hint.check(size, num_frames)
        hints.append(hint if hint.frames else None)
    return hints


def digest(hints: Sequence[Hint | None]) -> str:
    """Return a checksum of hints by their content, "" where there are none."""
    if not any(hints):
        return ""
    found = hashlib.sha256()
    for hint in hints:
        found.update(repr((hint and hint.boxes, hint and hint.strokes)).encode())
        for frame, mask in sorted(hint.masks.items()) if hint else ():
            found.update(repr((frame, mask.shape)).encode() + np.packbits(mask).tobytes())
    return found.hexdigest()


def draw(
    frames: np.ndarray | Lazy,
    spec: EditSpec,
    source: Tracks,
    hints: Sequence[Hint | None] = (),
    *,
    notify: Callable[[str], None],
    say: Callable[[str], None] | None = None,
    stream: bool = False,
    keep: bool = False,
) -> draft.Draft:
    """Draw an edit of frames uint8 [T H W 3] whose points go along `source`.

    Args:
        spec: validated against the clip.
        source: the points' tracks, as for `EditSpec.apply`.
        hints: what `read_hints` returned.
        notify: called with a sentence for what was decided for the person, guessed, or left out.
        say: called with a line about how long the rest takes, where it takes long. stream: as for `draft.render`.
        keep: whether the draft has with it what it was drawn from (`draft.Draft.prepared`), for who follows it.
    """
    clip = draft.Prepared(frames, say)
    drawn = draw_prepared(clip, spec, source, hints, notify=notify, stream=stream)
    # Parts of what it was drawn from refer to one another: their memory is wanted now, not when Python next looks.
    clip.forget()
    drawn.clip = clip if keep else None
    del clip
    gc.collect()
    return drawn


def draw_prepared(
    clip: draft.Prepared,
    spec: EditSpec,
    source: Tracks,
    hints: Sequence[Hint | None] = (),
    *,
    notify: Callable[[str], None],
    stream: bool = False,
) -> draft.Draft:
    """Draw an edit as `draw`, of a clip that is kept for other edits, and that may be of another size than the spec's.

    `source` and `hints` are of the spec's size.
    """
    return plan_prepared(clip, spec, source, hints, notify=notify).draw(notify, stream)


def plan_prepared(
    clip: draft.Prepared,
    spec: EditSpec,
    source: Tracks,
    hints: Sequence[Hint | None] = (),
    *,
    notify: Callable[[str], None],
) -> draft.Drawing:
    """Find out how an edit is drawn, frame by frame; arguments as for `draw_prepared`."""
    source, target, groups, behind, hints = _arranged(clip, spec, source, hints, notify)
    division = spec.divide()
    used = sorted({point for group in [behind, *groups] for point in group})
    place = {point: index for index, point in enumerate(used)}
    options: dict[str, Any] = {"mirrored": [i for i, thing in enumerate(division.things) if thing.is_mirrored]}
    if any(hints):
        options["hints"] = [*hints, *[None] * (len(groups) - len(hints))]
    if division.order:
        options["order"] = division.order
    drawing = draft.plan(
        clip,
        tracks.select(source, used),
        tracks.select(target, used),
        # Where the whole clip is edited, in time or as a camera, what moves by itself is guessed.
        groups=[[place[point] for point in group] for group in groups] if division.things else None,
        notify=notify,
        **options,
    )
    return replace(drawing, groups=[[used[point] for point in group] for group in drawing.groups])


def masks_prepared(
    clip: draft.Prepared, spec: EditSpec, source: Tracks, hints: Sequence[Hint | None] = ()
) -> list[Bool[np.ndarray, "T h w"]]:
    """Return where each thing of an edit is in the clip, as its draft has it; arguments as for `draw_prepared`."""
    source, _, groups, behind, hints = _arranged(clip, spec, source, hints, lambda line: None)
    count = len(spec.divide().things)
    if not count:
        return []
    used = sorted({point for group in [behind, *groups] for point in group})
    place = {point: index for index, point in enumerate(used)}
    every = [*hints, *[None] * (len(groups) - len(hints))] if any(hints) else None
    found = draft.find_masks(
        clip, tracks.select(source, used), [[place[point] for point in group] for group in groups], every
    )
    nowhere = np.zeros((len(clip.frames), *clip.small_size), bool)
    return [nowhere if mask is None else np.stack([mask[t] for t in range(len(mask))]) for mask in found[:count]]


def doubts(mask: Bool[np.ndarray, "T h w"], said: Sequence[int]) -> Float[np.ndarray, "T"]:
    """Return how far each frame of a carried mask is to be doubted: by what changed since the nearest frame said.

    Each step from frame to frame adds how much the mask's shape changes, 1 minus the overlap with itself moved there,
    and a little for the step. Frames that are said are 0; where none is, the first one is.
    """
    steps = np.array([_change(*pair) for pair in itertools.pairwise(mask)] or [0.0]) + STEP
    way = np.r_[0, steps.cumsum()][: len(mask)]
    marks = way[list(said)] if len(said) else way[:1]
    return np.abs(way[:, None] - marks).min(axis=1).astype(np.float32)


def _change(before: Bool[np.ndarray, "h w"], after: Bool[np.ndarray, "h w"]) -> float:
    """Return 1 minus the overlap of two masks laid on one another by their centres; 1 where one of them is empty."""
    if not (before.any() and after.any()):
        return float(before.any() != after.any())
    at = [np.argwhere(each).mean(axis=0) for each in (before, after)]
    moved = np.roll(before, np.round(at[1] - at[0]).astype(int), axis=(0, 1))
    return 1 - float((moved & after).sum() / (moved | after).sum())


def _arranged(clip, spec, source, hints, notify):
    """Return source and target at the clip's size, the groups that move, the background's points, and the hints."""
    division = spec.divide()
    for note in division.notes:
        notify(note)
    for step in spec.steps:
        if step.name in LEFT_OUT:
            notify(f"{step.where} {LEFT_OUT[step.name]}")
        if step.arguments.get("falloff"):
            notify(f"{step.where}.falloff: the draft moves things as a whole, and what is around them stays")
    plain = replace(spec, steps=tuple(step for step in spec.steps if step.name != "jitter"))
    target = plain.apply(source, notify=lambda _: None)
    if tuple(clip.size) != tuple(spec.size):
        source, target = (tracks.resize(each, spec.size, clip.size) for each in (source, target))
        hints = [hint and given.resized(hint, spec.size, clip.size) for hint in hints]
    groups = [list(thing.points) for thing in division.things]
    taken = {point for group in groups for point in group}
    if division.camera:
        behind, others = _resting(clip, source, target, division.camera)
        groups += others
        if others and division.things:
            notify(f"{len(others)} things that move by themselves go along with the camera; which, is guessed")
    else:
        behind = [point for point in range(len(source.xy)) if point not in taken]
        # Where only things move, what is around them stays, whatever the operations did to its points.
        xy, visible = np.array(target.xy), np.array(target.visible)
        xy[behind], visible[behind] = source.xy[behind], source.visible[behind]
        target = Tracks(xy, visible)
        if groups:
            behind, others = _resting(clip, source, target, behind)
            others = [group for group in others if len(group) > 1]  # one point that strays is no thing
            groups += others
            for group in others:
                named = ", ".join(map(str, group))
                notify(f"points {named} move by themselves: taken for a thing that may pass before what is moved")
    return source, target, groups, behind, hints


def _resting(clip: draft.Prepared, source: Tracks, target: Tracks, points: Sequence[int]):
    """Divide points that move with the camera in those of the background and groups that move by themselves as well."""
    points = list(points)
    part = tracks.select(source, points)
    still, rest = layers.stabilised(part, clip.cameras), layers.resting_places(part, clip.cameras)
    seen = np.asarray(part.visible) | ~np.asarray(part.visible).any(axis=1, keepdims=True)
    away = (np.abs(still - rest[:, None]) * seen).sum(axis=1) / seen.sum(axis=1)
    rests = away < max(layers.TOLERANCE, RESTS * float(np.hypot(*clip.size)))
    if not rests.any():
        return points, []
    behind = [point for point, ok in zip(points, rests, strict=True) if ok]
    moving = [point for point, ok in zip(points, rests, strict=True) if not ok]
    if not moving:
        return behind, []
    also, groups = layers.guess(
        tracks.select(source, moving), tracks.select(target, moving), clip.cameras, clip.size[0]
    )
    return behind + [moving[i] for i in also], [[moving[i] for i in group] for group in groups]
