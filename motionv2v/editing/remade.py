"""Make a region of a clip anew (ReVideo, arXiv 2405.13865), and keep every pixel around it.

What a model makes is laid over the clip inside the region and faded out around it; beyond, the clip's own pixels stay
exactly. A clip longer than the model's is made in windows, one after another: each starts from the frame that the one
before it made (appendix A.6 of the paper), all else around the region is the clip's, so that only the inside can
drift, and where windows overlap they are faded into one another.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from motionv2v import video
from motionv2v.data import tokenizer
from motionv2v.draft import given
from motionv2v.editing import windows
from motionv2v.editing.inputs import read_image
from motionv2v.edits import areas
from motionv2v.edits.document import EditSpec
from motionv2v.tracks import Tracks, take_frames
from motionv2v.typing import Bool, Float, UInt8

GROWN, FEATHER, AT = 8.0, 6.0, 480
"""By how many pixels a region is grown, and over how many it then fades out, in a picture of `AT` rows."""
MARGIN = 0.08
"""Room around what moves where no region is said, of the picture's height."""


def remake(
    editor: Any,
    clip: video.Clip,
    region: Bool[np.ndarray, "T H W"],
    target: Tracks,
    *,
    reference: UInt8[np.ndarray, "rows columns 3"] | None = None,
    prompt: str = tokenizer.NULL_PROMPT,
    seed: int = 0,
    num_steps: int | None = None,
    guidance: float | None = None,
    composite: bool = True,
    notify: Callable[[str], None] = lambda line: None,
    progress: Callable[[dict[str, int]], Callable[[str, str], None]] | None = None,
) -> video.Clip:
    """Make a region of a clip anew.

    Args:
        editor: an `editing.Editor` of a model that does so. clip: of any size and length.
        region: True where the video is made anew. An empty one gives the clip itself.
        target: trajectories [N T 2] in pixels of the clip; what is outside the region says nothing.
        reference: the first frame as it shall be, inside the region; None leaves it as it is.
        prompt, seed, num_steps, guidance, notify: as for `Editor.edit`.
        composite: False returns what the model made, around the region as well.
        progress: as for `Editor.edit`: told of each window that is done.

    Raises:
        ValueError: for a model that does not do this, and arrays that do not fit the clip.
    """
    frames = np.asarray(clip.frames)
    _check(editor, frames, region, target, reference)
    if not region.any() and composite:
        notify("the region is empty: the clip stays as it is")
        return clip
    first = frames[0] if reference is None else np.where(region[0][..., None], reference, frames[0])
    tell(editor, frames, notify)
    tokens = editor.tokenizer.encode([prompt], notify)
    plan, made = windows.of_config(editor.config, len(frames)), np.array(frames)
    done = (progress or (lambda pieces: lambda kind, where: None))({"window": len(plan.starts)})
    weight = feathered(region) if composite else None
    for index, start in enumerate(plan.starts):
        stop = min(start + editor.num_frames, len(frames))
        known = np.array(frames[start:stop])
        known[0] = first if index == 0 else made[start]
        batch = _batch(editor, known, region[start:stop], take_frames(target, np.arange(start, stop)))
        key = jax.random.fold_in(jax.random.key(seed), index) if index else jax.random.key(seed)
        options = {"num_steps": num_steps, "guidance": guidance}
        new = np.asarray(editor.generate(key, batch, tokens, **options)[0])
        new = video.resize(new, frames.shape[1:3])
        if composite:
            new[0] = known[0]  # given, in every pixel
            new = over(frames[start:stop], new, weight[start:stop])
        overlap = 0 if index == 0 else min(plan.stops[index - 1], len(frames)) - start
        made[start:stop] = faded(made[start:stop], new, overlap)
        done("window", f"window {index + 1} of {len(plan.starts)}")
    return video.Clip(made, clip.fps)


def _check(editor, frames, region, target, reference):
    method = editor.model.method
    if method is None or not method.remakes():
        raise ValueError(f"{editor.config.name} makes no region of a video anew: that takes a model of revideo")
    if region.shape != frames.shape[:3] or region.dtype != bool:
        raise ValueError(f"the region must be bool {list(frames.shape[:3])}; got {region.dtype} {list(region.shape)}")
    if np.ndim(target.xy) != 3 or np.shape(target.xy)[1] != len(frames):
        raise ValueError(f"the tracks must be [N {len(frames)} 2]; got {list(np.shape(target.xy))}")
    if reference is not None and (reference.shape != frames.shape[1:] or reference.dtype != np.uint8):
        expected = f"uint8 {list(frames.shape[1:])}"
        raise ValueError(f"the reference must be {expected}; got {reference.dtype} {list(reference.shape)}")


def tell(editor: Any, frames: UInt8[np.ndarray, "T H W 3"], notify: Callable[[str], None]) -> None:
    """Say what is done about another size and number of frames than a model's."""
    (length, height, width), size = frames.shape[:3], editor.size
    if (height, width) != size:
        notify(f"the clip is {width}x{height} and the model works at {size[1]}x{size[0]}: it is resized there and back")
    if length < editor.num_frames:
        notify(f"the clip has {length} frames and the model works on {editor.num_frames}: the last frame is held")
    elif length > editor.num_frames:
        count = len(windows.of_config(editor.config, length).starts)
        notify(f"the clip has {length} frames and the model works on {editor.num_frames}: {count} windows, in turn")


def _batch(editor, frames, region, target):
    """Bring what a model reads to its size, as a batch of one."""
    size = editor.size
    small = np.stack([cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) for mask in region])
    batch = {"target": video.resize(frames, size)[None], "region": (small > 0).astype(np.float32)[None]}
    height, width = frames.shape[1:3]
    column, row = (
        np.clip(np.floor(np.nan_to_num(target.xy[..., i])), 0, n - 1).astype(int) for i, n in ((0, width), (1, height))
    )
    inside = region[np.arange(len(region)), row, column]
    return batch | editor.sides((height, width), target=Tracks(target.xy, target.visible & inside))


def feathered(region: Bool[np.ndarray, "T H W"]) -> Float[np.ndarray, "T H W"]:
    """Return how much of each pixel is made anew: 1 inside, falling off around the grown region, 0 beyond."""
    scale = region.shape[1] / AT
    grown, spread = max(1, round(GROWN * scale)), max(0.5, FEATHER * scale)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grown + 1, 2 * grown + 1))
    weight = np.empty(region.shape, np.float32)
    for t, mask in enumerate(region):
        wide = cv2.dilate(mask.astype(np.uint8), kernel).astype(np.float32)
        soft = cv2.GaussianBlur(wide, (0, 0), spread)
        # Below this a pixel's value would not change by half a grey level.
        weight[t] = np.where(mask, 1.0, np.where(soft < 1 / 512, 0.0, soft))
    return weight


def over(
    below: UInt8[np.ndarray, "T H W 3"], above: UInt8[np.ndarray, "T H W 3"], weight: Float[np.ndarray, "T H W"]
) -> UInt8[np.ndarray, "T H W 3"]:
    """Lay one clip over another, as much of each pixel as its weight says; where that is 0 or 1 exactly one of them."""
    share = weight[..., None]
    return (below + share * (above.astype(np.float32) - below) + 0.5).astype(np.uint8)


def faded(
    before: UInt8[np.ndarray, "T H W 3"], new: UInt8[np.ndarray, "T H W 3"], overlap: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Fade from frames that were made to new ones over the first `overlap`."""
    if overlap <= 0:
        return new
    share = np.ones(len(new), np.float32)
    share[:overlap] = np.linspace(0, 1, overlap + 1)[:-1]
    return over(before, new, np.broadcast_to(share[:, None, None], new.shape[:3]))


# --- from an edit file -----------------------------------------------------------------------------------------------


def of_edit(
    spec: EditSpec, frames: UInt8[np.ndarray, "T H W 3"], notify: Callable[[str], None]
) -> tuple[Bool[np.ndarray, "T H W"] | None, UInt8[np.ndarray, "H W 3"] | None]:
    """Read the region and the reference of an edit; None for what it does not say.

    Raises:
        ValueError: in one line, for files that cannot be read or do not fit.
    """
    (length, height, width), region, reference = frames.shape[:3], None, None
    if spec.region:
        read = lambda path: given.read(spec.folder / path, (height, width), length, notify=notify)  # noqa: E731
        region = areas.mask(spec.region, (height, width), length, read)
    if spec.reference:
        reference = read_image(spec.folder / Path(spec.reference))
        if reference.shape[:2] != (height, width):
            rows, columns = reference.shape[:2]
            if abs(rows * width / (columns * height) - 1) > given.SAME_SHAPE:
                raise ValueError(
                    f"reference: {spec.reference} is {columns}x{rows}, the clip {width}x{height}; expected the clip's "
                    "first frame, edited"
                )
            notify(f"the reference is {columns}x{rows} and the clip {width}x{height}: it is resized")
            reference = video.resize(reference[None], (height, width))[0]
    return region, reference


def around(source: Tracks, target: Tracks, size: tuple[int, int]) -> Bool[np.ndarray, "T H W"]:
    """Draw a box around all that moves, before and after, for the whole clip. Raises ValueError where nothing does."""
    moved = np.linalg.norm(np.asarray(target.xy) - source.xy, axis=-1).max(-1) > 0.5
    places = [np.asarray(side.xy)[moved][np.asarray(side.visible)[moved]] for side in (source, target)]
    places = np.concatenate(places)
    if not len(places):
        raise ValueError('no point is moved, so that nothing says what is made anew: give the edit a "region"')
    room = MARGIN * size[0]
    (left, top), (right, bottom) = places.min(0) - room, places.max(0) + room
    box = areas.Shape("rectangle", ((float(left), float(top)), (float(right), float(bottom))), "", "region")
    return areas.mask((box,), size, source.xy.shape[1], dict.get)


def editing(
    editor: Any, clip: video.Clip, spec: EditSpec, notify: Callable[[str], None], **options: Any
) -> Callable[..., video.Clip]:
    """Return what makes a clip anew by tracks, as an edit says; its files are read before.

    Args:
        editor, clip: as for `remake`. spec: held against the clip. options: of `remake`.
    """
    region, reference = of_edit(spec, clip.frames, notify)
    if reference is None:
        notify('no "reference": the first frame stays, and the region goes on from what it shows')

    def run(source: Tracks, target: Tracks, drawn: Any = None) -> video.Clip:
        del drawn
        where = region
        if where is None:
            where = around(source, target, clip.frames.shape[1:3])
            rows, columns = (np.flatnonzero(where[0].any(axis)) for axis in (1, 0))
            notify(
                f'no "region": what moves is made anew, x {columns[0]}..{columns[-1] + 1}, y {rows[0]}..{rows[-1] + 1}'
            )
        return remake(editor, clip, where, target, reference=reference, notify=notify, **options)

    return run
