"""Before an edit: its paths drawn over the clip, with a line on each point; and points that are worth naming.

`preview` and `points` go from files to files as `files.run` does, without a model and without a draft. Their files lie
in the same folder as an edit's and have other names; `points.json` is not written over another one unless it is told.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motionv2v import draft, figures, files, trackers, tracks, video
from motionv2v.draft import corners
from motionv2v.editing import annotated, inputs, trust
from motionv2v.editing.files import check_folder, moved
from motionv2v.edits import groups
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

PREVIEW, SHEET, POINTS, POINTS_SHEET = "preview.mp4", "preview.png", "points.json", "points.png"
HARDLY = 0.15
"""Share of the frames below which a point is hardly followed."""
_MOVING, _GROUND = (255, 214, 10), (90, 200, 250)


class Shown(NamedTuple):
    """What was written for a person to look at."""

    files: dict[str, Path]


def preview(
    video_path: str | Path | None,
    edit_path: str | Path | None,
    *,
    out: str | Path = "outputs",
    tracker: str = trackers.DEFAULT,
    masks: str | Path | None = None,
    boxes: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Shown:
    """Draw what an edit does to its points over the clip; say for each when it is seen, and what to do if it is not.

    Arguments and errors are those of `files.run`. Returns the files: a video, and a sheet of some of its frames.
    """
    video_path, edit_path, out = *inputs.paths(video_path, edit_path), Path(out)
    check_folder(out, (video_path, edit_path), (PREVIEW, SHEET))
    follow = trackers.named(tracker, lambda line: say(f"tracks  {line}"))
    given = inputs.read(video_path, edit_path, masks=masks, boxes=boxes, say=say, stream=True)
    clip, spec = given.clip, given.spec
    source = follow.track(clip.frames, spec.queries)
    target = spec.apply(source, notify=lambda _: None)
    is_moved = moved(source, target)
    names = {point: name for name, point in spec.names.items()}
    for note in spec.divide().notes:
        say(f"notice  {note}")
    for point in range(len(source.xy)):
        name = f" ({names[point]})" if point in names else ""
        say(f"point   {point}{name}: {told(source, target, point, clip.frames.shape[1:3])}")
    labels = [f"{point} {names[point]}" if point in names else str(point) for point in range(len(source.xy))]
    drawn = annotated.edit_frames(clip.frames, source, target, is_moved, labels)
    made = {
        PREVIEW: video.write(out / PREVIEW, drawn, fps=clip.fps),
        SHEET: figures.save_png(out / SHEET, annotated.sheet([drawn[t] for t in corners.key_frames(len(drawn))])),
    }
    return Shown(made)


def told(source: Tracks, target: Tracks, point: int, size: tuple[int, int]) -> str:
    """Say of a point of an edit of a clip of size (H, W) when it is seen, how far it goes, and what could be done."""
    seen, shown = np.asarray(source.visible)[point], np.asarray(target.visible)[point]
    away = np.linalg.norm(np.asarray(target.xy)[point] - np.asarray(source.xy)[point], axis=-1)
    said = "seen in all frames" if seen.all() else "never seen"
    if seen.any() and not seen.all():
        said = f"seen in {groups.spans(np.flatnonzero(seen))}, lost in {groups.spans(np.flatnonzero(~seen))}"
    changed = bool((seen != shown).any())
    said += f"; moved by up to {away.max():.0f} px" if away.max() > 0.5 else "; stays"
    if changed:
        said += f", shown in {groups.spans(np.flatnonzero(shown))}" if shown.any() else ", hidden throughout"
    beyond = shown & ~tracks.inside(np.asarray(target.xy)[point : point + 1], size)[0]
    if beyond.any():
        said += f", sent out of the frame in {groups.spans(np.flatnonzero(beyond))}"
    advice = _advice(source, point, size, bool(away.max() > 0.5))
    return f"{said}. {advice}" if advice else said


def _advice(source: Tracks, point: int, size: tuple[int, int], is_moved: bool) -> str:
    """Say what a person could do about frames in which a point is not seen."""
    xy, seen = np.asarray(source.xy)[point], np.asarray(source.visible)[point]
    if seen.all():
        return ""
    if seen.mean() < HARDLY:
        return "It is hardly followed: put it on a corner or a pattern, such as --points finds"
    lost = np.flatnonzero(~seen)
    runs = np.split(lost, np.flatnonzero(np.diff(lost) > 1) + 1)
    puzzling = [run for run in runs if len(run) > trust.MERE_GAP and not trust.at_edge(xy, run, size)]
    if not puzzling:
        return "Nothing to do: it is lost for moments, or where it leaves the frame"
    when = groups.spans(np.concatenate(puzzling))
    if not is_moved:
        return f"Something covers it in {when}, or its looks change: nothing to do, as long as others are seen"
    return (
        f"In {when} the other points of its operation lead it; if the thing is in sight then, name another point of it"
    )


def points(
    video_path: str | Path | None,
    *,
    out: str | Path = "outputs",
    tracker: str = trackers.DEFAULT,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Shown:
    """Find points worth naming in a clip; write a sheet that shows them on a grid of pixels, and an edit to begin with.

    Args:
        video_path: the clip; None takes the packaged example's. out, tracker, say: as for `files.run`.
        overwrite: whether to replace a `points.json` that has other content.

    Returns:
        The files: the edit, of queries alone, and the sheet. Errors as those of `files.run`.
    """
    video_path, out = inputs.paths(None, None)[0] if video_path is None else Path(video_path), Path(out)
    check_folder(out, (video_path,), (POINTS, POINTS_SHEET))
    follow = trackers.named(tracker, lambda line: say(f"tracks  {line}"))
    clip = inputs.read(video_path, None, say=say, stream=True).clip
    prepared = draft.Prepared(clip.frames, lambda line: say(f"points  {line}"))
    found = corners.find(prepared, follow)
    if not len(found.queries):
        raise ValueError(f"{video_path}: nothing in it has a corner that can be followed")
    content = edit_of(found)
    place = out / POINTS
    if place.exists() and not overwrite and place.read_text(encoding="utf-8", errors="replace") != content:
        raise ValueError(f"{place} has other content: choose another folder (--out), or replace it (--overwrite)")
    for index, moves in enumerate(found.moves):
        t, x, y = found.queries[index]
        what = "moves by itself" if moves else "ground"
        seen = groups.spans(np.flatnonzero(found.tracks.visible[index]))
        say(f"point   {index}: {what}, ({x:.0f}, {y:.0f}) in frame {t:.0f}, seen in {seen}")
    if not found.moves.any():
        say("notice  nothing moves apart from the camera, so all points are the ground's")
    sheet = [_sheet_of(clip.frames[t], t, found) for t in corners.key_frames(len(clip.frames))]
    made = {
        POINTS: files.write(place, content),
        POINTS_SHEET: figures.save_png(out / POINTS_SHEET, annotated.sheet(sheet)),
    }
    return Shown(made)


def edit_of(found: corners.Points) -> str:
    """Write points as the content of an `edit.json` without operations, a query in a line."""
    rows = ",\n".join(f"    [{t:.0f}, {x:.1f}, {y:.1f}]" for t, x, y in found.queries)
    content = f'{{\n  "queries": [\n{rows}\n  ],\n  "operations": []\n}}\n'
    json.loads(content)
    return content


def _sheet_of(frame: UInt8[np.ndarray, "H W 3"], t: int, found: corners.Points) -> UInt8[np.ndarray, "h w 3"]:
    colors = [_MOVING if moves else _GROUND for moves in found.moves]
    title = f"frame {t}   yellow: moves by itself, blue: ground"
    return annotated.gridded(frame, title, found.tracks.xy[:, t], found.tracks.visible[:, t], colors)
