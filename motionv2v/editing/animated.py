"""One animation from files to files: a picture and a `motion.json` in; a video, its tracks and a contact sheet out.

`launch/animate.py` calls `run`. Without a model the picture itself is warped along the tracks: its draft.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import interpolate

from motionv2v import draft, figures, video
from motionv2v.editing import depths
from motionv2v.editing.files import check_folder
from motionv2v.edits import motion
from motionv2v.tracks import Tracks, select
from motionv2v.typing import UInt8

ANIMATED, TRACKS, SHEET = "animated.mp4", "tracks.mp4", "contact_sheet.png"
DRAFT = "draft"
NUM_FRAMES, FPS = 49, 12.0
"""Of an animation without a model, unless something says otherwise."""
DENSE = 400
"""Tracks from which on the whole picture is taken to move by them, as when a camera does, and nothing to be cut out."""


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
        checkpoint: a model of Motion Prompting, as for `editing.load`; None or "draft" warps the picture.
        out: folder for the files. depth: as for `depths.load`. inverse_depth: it holds inverse depths.
        preview: only draw the tracks, and the draft; no model. fps: of the video.
        seed, num_steps, guidance: as for `Editor.animate`; None takes the file's, and the model's.
        say: called with a line on what is done.

    Raises:
        ValueError: in one line, for files that cannot be read or do not fit.
    """
    image = read_image(image_path)
    spec = motion.load(motion_path)
    check_folder(Path(out), (Path(image_path), Path(motion_path)), (ANIMATED, TRACKS, SHEET))
    editor = None
    if not preview and checkpoint not in (None, DRAFT):
        from motionv2v.editing import opening

        editor = opening.load(checkpoint, say=lambda line: say(f"model   {line}"))
        if editor.model.method is None or not editor.model.method.animates():
            raise ValueError(f"{checkpoint} makes no video of a picture and tracks; --checkpoint=draft warps it")
    num_frames = spec.frames or (NUM_FRAMES if editor is None else editor.num_frames)
    found = None if depth is None else depths.load(depth, image, is_inverse=inverse_depth)
    given = spec.tracks(motion.Picture(image.shape[:2], num_frames, found))
    seen = given.visible.any(axis=1)
    say(f"tracks  {len(seen)} over {num_frames} frames, {int(seen.sum())} of them seen")
    drawn = draw_draft(image, given, say)
    if editor is None:
        result, made_by = drawn, "the picture warped along the tracks (draft)"
        if not preview:
            say("notice  no model was named: the picture is warped; --checkpoint=NAME draws it anew")
    else:
        say(f"model   {checkpoint} makes {editor.num_frames} frames in {editor.settings(num_steps).num_steps} steps")
        result = editor.animate(
            image,
            given,
            prompt=spec.prompt,
            seed=spec.seed if seed is None else seed,
            num_steps=num_steps,
            guidance=guidance,
            fps=fps,
            notify=lambda line: say(f"notice  {line}"),
        ).frames
        made_by = str(checkpoint)
    still = np.repeat(image[None], num_frames, axis=0)
    shown = figures.draw_tracks(still, given)
    rows = [("the picture and its tracks", shown), (made_by, result)]
    rows += [] if editor is None else [("draft", drawn)]
    out = Path(out)
    made = {TRACKS: video.write(out / TRACKS, shown, fps=fps)}
    made[ANIMATED] = video.write(out / ANIMATED, result, fps=fps)
    made[SHEET] = figures.save_png(out / SHEET, figures.contact_sheet(rows, 5))
    return Result(video.Clip(result, fps), given, made)


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, turned upright as its camera says. Raises ValueError naming the file, for one that is none."""
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is not a picture that can be read, such as png or jpeg") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def draw_draft(
    image: UInt8[np.ndarray, "H W 3"], given: Tracks, say: Callable[[str], None]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Warp a picture along those of its tracks that its first frame shows."""
    num_frames = given.xy.shape[1]
    still = np.repeat(image[None], num_frames, axis=0)
    shown = np.flatnonzero(given.visible[:, 0])
    if not len(shown):
        say("notice  no track is seen in the first frame: the draft is the picture itself")
        return still
    there = select(given, shown)
    if len(shown) >= DENSE:
        return warp(image, there)
    source = Tracks(np.repeat(there.xy[:, :1], num_frames, axis=1), np.ones_like(there.visible))
    return draft.render(still, source, there, notify=lambda line: say(f"draft   {line}")).frames


def warp(image: UInt8[np.ndarray, "H W 3"], given: Tracks) -> UInt8[np.ndarray, "T H W 3"]:
    """Pull a whole picture along dense tracks: between them linearly, beyond them by the nearest one's displacement."""
    height, width = image.shape[:2]
    step = max(1, min(height, width) // 120)
    rows, columns = np.mgrid[0 : height + step : step, 0 : width + step : step]
    places = np.stack([columns, rows], axis=-1).astype(np.float64)
    frames = []
    for t in range(given.xy.shape[1]):
        seen = np.flatnonzero(given.visible[:, t])
        if len(seen) < 4:
            frames.append(image)
            continue
        there, moved = given.xy[seen, t], given.xy[seen, 0] - given.xy[seen, t]
        inside = interpolate.LinearNDInterpolator(there, moved)(places)
        beyond = interpolate.NearestNDInterpolator(there, moved)(places)
        origin = (places + np.where(np.isnan(inside), beyond, inside)).astype(np.float32)
        # The coarse grid's node (i, j) lies at pixel corner (i, j) * step, a pixel's centre half a pixel further.
        full = ((np.mgrid[0:height, 0:width] + 0.5) / step).astype(np.float32)
        maps = [
            cv2.remap(np.ascontiguousarray(origin[..., axis]), full[1], full[0], cv2.INTER_LINEAR) for axis in (0, 1)
        ]
        frames.append(cv2.remap(image, maps[0] - 0.5, maps[1] - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return np.stack(frames)
