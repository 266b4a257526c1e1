"""One animation from files to files: a picture and a `motion.json` in; a video, its tracks and a contact sheet out,
and the last frame, which is the picture as it was edited where the motion is a short drag.

`launch/animate.py` calls `run`. Without a model the picture itself is warped along the tracks: its draft.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import interpolate, spatial

from motionv2v import figures, trackers, video
from motionv2v.editing import depths, inputs
from motionv2v.editing.files import check_folder, spaced
from motionv2v.edits import motion, prompts
from motionv2v.tracks import Tracks, concatenate, select
from motionv2v.typing import Float, UInt8

ANIMATED, TRACKS, SHEET, LAST = "animated.mp4", "tracks.mp4", "contact_sheet.png", "last_frame.png"
DRAFT = "draft"
NUM_FRAMES, FPS = 49, 12.0
"""Of an animation without a model, unless something says otherwise."""
DENSE = 400
"""Tracks from which on the whole picture is taken to move by them, as when a camera does, and nothing to be cut out."""
FOLLOWED = 1024
"""Points of a grid that are followed in another video, whose motion a picture takes over."""
MOVES = 1.0
"""Pixels by which a track must go somewhere to take something along."""


@dataclass
class Result:
    """What was made: the video, the tracks in pixels of the picture, and the files."""

    clip: video.Clip
    tracks: Tracks
    files: dict[str, Path]


def run(
    image_path: str | Path,
    motion_path: str | Path,
    *,
    checkpoint: str | None = None,
    out: str | Path = "outputs",
    depth: str | Path | None = None,
    inverse_depth: bool = False,
    preview: bool = False,
    fps: float = FPS,
    seed: int | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Make a picture move.

    Args:
        image_path: the picture, png or jpeg. motion_path: the `motion.json` (`motion.describe`).
        checkpoint: a model of Motion Prompting or Diffusion-as-Shader, as for `editing.load`; None or "draft" warps
            the picture.
        out: folder for the files. depth: as for `depths.load`. inverse_depth: it holds inverse depths.
        preview: only draw the tracks, and the draft; no model. fps: of the video.
        seed, num_steps, guidance: as for `Editor.animate`; None takes the file's, and the model's.
        say: called with a line on what is done.

    Raises:
        ValueError: in one line, for files that cannot be read or do not fit.
    """
    image = inputs.read_image(image_path)
    spec = motion.load(motion_path)
    others = [spec.folder / given["file"] for _, given in spec.motions if "file" in given]
    check_folder(Path(out), (Path(image_path), Path(motion_path), *others), (ANIMATED, TRACKS, SHEET, LAST))
    editor = None
    if not preview and checkpoint not in (None, DRAFT):
        from motionv2v.editing import opening

        asked = {"num_steps": num_steps, "guidance": guidance}
        editor = opening.load(checkpoint, asked=asked, say=lambda line: say(spaced(line)))
        if editor.model.method is None or not editor.model.method.animates():
            raise ValueError(f"{checkpoint} makes no video of a picture and tracks; --checkpoint=draft warps it")
    num_frames = spec.frames or (NUM_FRAMES if editor is None else editor.num_frames)
    found = None if depth is None else depths.load(depth, image, is_inverse=inverse_depth)
    if found is None and any(name == "camera" for name, _ in spec.motions):
        say("notice  no --depth: the camera sees the picture as a plane straight ahead")
    followed = functools.cache(lambda file: follow(file, say))  # several motions may be of one video
    picture = motion.Picture(image.shape[:2], num_frames, found, follow=followed)
    parts = spec.parts(picture)
    given = concatenate([part for part in parts if part is not None])
    if editor is not None:
        editor.check(len(given.xy), num_steps, guidance)
    seen = given.visible.any(axis=1)
    say(f"tracks  {len(seen)} over {num_frames} frames, {int(seen.sum())} of them seen")
    drawn = draw_draft(image, *parts, say)
    if editor is None:
        result, made_by = drawn, "the picture warped along the tracks (draft)"
        if not preview:
            say("notice  no model was named: the picture is warped; --checkpoint=NAME draws it anew")
    else:
        steps = editor.settings(num_steps).num_steps
        say(f"model   {checkpoint} makes {editor.num_frames} frames in {steps} step{'s' if steps > 1 else ''}")
        result = editor.animate(
            image,
            given,
            prompt=spec.prompt,
            seed=spec.seed if seed is None else seed,
            nearness=None if found is None else depths.nearness(found, given.xy[:, 0]),
            num_steps=num_steps,
            guidance=guidance,
            fps=fps,
            notify=lambda line: say(f"notice  {line}"),
        ).frames
        made_by = str(checkpoint)
    rows = [("the picture and its tracks", figures.draw_tracks(np.repeat(image[None], num_frames, axis=0), given))]
    rows += [(made_by, result)] + ([] if editor is None else [("draft", drawn)])
    return Result(video.Clip(result, fps), given, _write(Path(out), rows, fps))


def _write(out: Path, rows: list[tuple[str, UInt8[np.ndarray, "T _ _ 3"]]], fps: float) -> dict[str, Path]:
    """Write the files of an animation; rows are what its sheet shows: the tracks, the result, what else there is."""
    (_, shown), (_, result) = rows[:2]
    made = {TRACKS: video.write(out / TRACKS, shown, fps=fps), ANIMATED: video.write(out / ANIMATED, result, fps=fps)}
    made[LAST] = figures.save_png(out / LAST, result[-1])
    made[SHEET] = figures.save_png(out / SHEET, figures.contact_sheet(rows, 5))
    return made


def follow(path: str | Path, say: Callable[[str], None] = print) -> Tracks:
    """Follow a grid of at most `FOLLOWED` points from the first frame of a video through all of it, by optical flow.

    Returns:
        Tracks in pixels of the video.

    Raises:
        ValueError: (VideoError) naming the file, for one that cannot be read.
    """
    frames = video.read(path, notify=lambda line: say(f"notice  {line}"), stream=True).frames
    length, height, width, _ = frames.shape
    rows, columns = np.divmod(prompts.spread((height, width), FOLLOWED), width)
    say(f"follow  {path}: {len(rows)} points through {length} frames")
    queries = np.stack([np.zeros(len(rows)), columns + 0.5, rows + 0.5], axis=-1).astype(np.float32)
    return trackers.get("classical", mode="dis", say=lambda line: say(f"notice  {line}")).track(frames, queries)


def draw_draft(
    image: UInt8[np.ndarray, "H W 3"], things: Tracks | None, camera: Tracks | None, say: Callable[[str], None] = print
) -> UInt8[np.ndarray, "T H W 3"]:
    """Warp a picture along the tracks of its things and of a camera (`motion.MotionSpec.parts`).

    One picture does not tell where things end: what lies among points that move together goes along with them, over the
    rest, and what was there is painted over from around it. A camera's tracks, and others where they are many, pull the
    whole picture. Only tracks that its first frame shows can say what moves.
    """
    if camera is None and things is not None and things.visible[:, 0].sum() >= DENSE:
        things, camera = None, things
    things, camera = (None if part is None else _shown_first(part) for part in (things, camera))
    length = next(part.xy.shape[1] for part in (things, camera) if part is not None)
    if things is not None:
        moves = np.linalg.norm(things.xy - things.xy[:, :1], axis=-1).max(axis=1, initial=0) > MOVES
        things = select(things, np.flatnonzero(moves))
    groups, plate, reach = np.zeros(0, int), image, 0.0
    if things is not None and len(things.xy):
        reach = _reach(things.xy[:, 0])
        covered = _around(things.xy[:, 0], image.shape[:2], reach)
        plate = cv2.inpaint(image, covered, max(3, round(reach)), cv2.INPAINT_TELEA)
        _, labels = cv2.connectedComponents(covered)
        cells = np.clip(things.xy[:, 0].astype(int), 0, np.array(image.shape[1::-1]) - 1)
        groups = labels[cells[:, 1], cells[:, 0]]
    elif camera is None or not len(camera.xy):
        say("notice  no track that is seen in the first frame moves: the draft is the picture itself")
    frames = []
    for t in range(length):
        ground = None if camera is None else _pulled(plate, camera, t)
        frame = (plate if ground is None else ground).astype(np.float32)
        for group in np.unique(groups).tolist():
            own = select(things, np.flatnonzero(groups == group))
            pulled = _pulled(image, own, t)
            if pulled is not None:
                cover = _around(own.xy[own.visible[:, t], t], image.shape[:2], reach)
                share = cv2.GaussianBlur(cover, (0, 0), 1.0).astype(np.float32)[..., None] / 255
                frame += share * (pulled - frame)
        frames.append(np.round(frame).astype(np.uint8))
    return np.stack(frames)


def _shown_first(given: Tracks) -> Tracks:
    return select(given, np.flatnonzero(given.visible[:, 0]))


def _reach(places: Float[np.ndarray, "N 2"]) -> float:
    """Return how far around each point things go along with it: as far as its nearest neighbour, at least 8 pixels."""
    if len(places) < 2:
        return 16.0
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float(np.clip(np.median(apart.min(axis=1)), 8, 64))


def _around(places: Float[np.ndarray, "N 2"], size: tuple[int, int], reach: float) -> UInt8[np.ndarray, "H W"]:
    """Mark, by 255, what lies within reach of places, and the gaps among them."""
    mask = np.zeros(size, np.uint8)
    for x, y in np.clip(np.nan_to_num(places), -1e4, 1e4):
        cv2.circle(mask, (round(float(x)), round(float(y))), round(reach), 255, -1)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((2 * round(reach) + 1,) * 2, np.uint8))


def _pulled(image: UInt8[np.ndarray, "H W 3"], given: Tracks, t: int) -> UInt8[np.ndarray, "H W 3"] | None:
    """Pull a picture to frame t: between tracks linearly, beyond them as the nearest one; None where none is seen."""
    height, width = image.shape[:2]
    seen = np.flatnonzero(given.visible[:, t])
    if not len(seen):
        return None
    step = max(1, min(height, width) // 120)
    rows, columns = np.mgrid[0 : height + step : step, 0 : width + step : step]
    places = np.stack([columns, rows], axis=-1).astype(np.float64)
    there, moved = given.xy[seen, t].astype(np.float64), given.xy[seen, 0] - given.xy[seen, t]
    back = interpolate.NearestNDInterpolator(there, moved)(places)
    try:
        inside = interpolate.LinearNDInterpolator(there, moved)(places)
        back = np.where(np.isnan(inside), back, inside)
    except spatial.QhullError:
        pass  # fewer than three points, or all in a line: nothing lies between them
    origin = (places + back).astype(np.float32)
    # The coarse grid's node (i, j) lies at the corner of pixel (i, j) * step, a pixel's centre half a pixel further.
    full = ((np.mgrid[0:height, 0:width] + 0.5) / step).astype(np.float32)
    maps = [cv2.remap(np.ascontiguousarray(origin[..., axis]), full[1], full[0], cv2.INTER_LINEAR) for axis in (0, 1)]
    return cv2.remap(image, maps[0] - 0.5, maps[1] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
