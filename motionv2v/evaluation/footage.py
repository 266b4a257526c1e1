"""The clips of a folder, for benchmarks: videos and folders of numbered pictures, brought to one size."""

import csv
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from motionv2v import stacks, video
from motionv2v.data.videos import files
from motionv2v.editing import inputs
from motionv2v.typing import Float, UInt8

PICTURES = (".jpg", ".jpeg", ".png")
PICTURE_RATE = 24.0
"""Frames per second of a folder of pictures, which says nothing of it; DAVIS was filmed at 24."""


class Found(NamedTuple):
    """A clip of a folder: what it is called, where it is, what it shows, why it cannot be used, or "", and its edit.

    `masks`: a folder of pictures of which pixels show which thing, named as those of the clip.
    """

    id: str
    path: Path
    prompt: str
    problem: str = ""
    edit: Path | None = None
    masks: Path | None = None


def find(folder: str | Path, split: str | None = None) -> list[Found]:
    """List the clips below a folder, sorted by id: videos, and folders that hold two pictures or more.

    Of a folder laid out as DAVIS is, `JPEGImages/480p/NAME/00000.jpg`, the pictures of 480p alone are taken: those in
    other folders are masks (`Annotations/480p/NAME/00000.png`), or the same larger. `split` takes those alone that
    `ImageSets/*/SPLIT.txt` names; what it names and is not there has that as its problem. An id is the path below the
    folder without its ending, "-" for "/". A prompt is the caption of the file (`data.videos`), or the words of its
    name.

    Raises ValueError where there is no such folder or split, and for captions that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of videos")
    root = folder
    for inner in ("JPEGImages", "480p"):
        root = root / inner if (root / inner).is_dir() else root
    found: list[Found] = []
    beside = {path.parent for path in _below(folder) if path.suffix.lower() in files.SUFFIXES}
    if beside:
        for each in files.find(folder).videos:
            found.append(Found(_id(Path(each.name).with_suffix("")), Path(each.path), each.caption, each.problem))
    for path in [root, *_below(root)]:
        # Pictures beside videos are thumbnails.
        if path.is_dir() and path not in beside and len(pictures_in(path)) > 1:
            inside = path.relative_to(root) if path != root else Path(root.name)
            masks = folder / "Annotations" / path.relative_to(folder / "JPEGImages") if root != folder else None
            masks = masks if masks and masks.is_dir() else None
            found.append(Found(_id(inside), path, files.words(path.name), masks=masks))
    if split is not None:
        named = _split(folder, split)
        missing = sorted(set(named) - {each.id for each in found})
        found = [each for each in found if each.id in named]
        found += [Found(name, root / name, "", f"is named by {split}.txt and is not there") for name in missing]
    found.sort(key=lambda each: each.id)
    taken: dict[str, Path] = {}
    for index, each in enumerate(found):
        if taken.setdefault(each.id, each.path) != each.path:
            found[index] = each._replace(id=_id(Path(each.path.name)), problem=f"named as {taken[each.id].name} is")
    return found


def _split(folder: Path, name: str) -> list[str]:
    """Return the names that a split of DAVIS lists, the newest year's."""
    lists = {path.stem: path for path in sorted(folder.glob("ImageSets/*/*.txt"))}
    if name not in lists:
        there = ", ".join(lists) or "none"
        raise ValueError(f"{folder} has no ImageSets/*/{name}.txt, as DAVIS has; available: {there}")
    return lists[name].read_text(encoding="utf-8").split()


def mask_of(
    each: Found, index: int, size: tuple[int, int], fps: float | int | None
) -> UInt8[np.ndarray, "H W 3"] | None:
    """Return which pixels of a frame show which thing, by number, 0 the background; None where nothing says so.

    Args:
        each: a clip that is a folder of pictures. index: of the frame, as `read` counts them at `fps`.
        size: (H, W), that the mask is brought to as the frames are, each pixel of one thing.

    Raises:
        ValueError: in one line, for a mask that cannot be read or is of another size than the picture.
    """
    if each.masks is None:
        return None
    picture = _thinned(pictures_in(each.path), fps)[index]
    path = each.masks / f"{picture.stem}.png"
    if not path.is_file():
        return None
    shape = inputs.read_image(picture).shape[:2]
    try:
        with Image.open(path) as image:  # of a palette, whose indices are the things
            things = np.asarray(image if image.mode in ("P", "L") else image.convert("L"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read as a mask ({error})") from None
    if things.shape != shape:
        was, expected = (f"{pixels[1]}x{pixels[0]}" for pixels in (things.shape, shape))
        raise ValueError(f"{path.name} has {was} pixels as a mask and {expected} as a picture, expected as many")
    top, left, rows, columns = _middle(shape, size)
    cut = things[top : top + rows, left : left + columns]
    return cv2.resize(cut, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)[..., None].repeat(3, axis=-1)


def with_prompts(found: list[Found], path: str | Path) -> list[Found]:
    """Give clips the prompts of a CSV file with the columns video (an id) and prompt; a clip for each, ID-1, ID-2, ...

    Raises ValueError for a file that is no such table, and for a video that is not there.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not rows or not {"video", "prompt"} <= rows[0].keys():
        raise ValueError(f"{path}: expected a table with the columns video and prompt")
    prompts: dict[str, list[str]] = {each.id: [] for each in found}
    for row in rows:
        if row["video"] not in prompts:
            raise ValueError(f"{path}: there is no video {row['video']!r}; available: {', '.join(prompts)}")
        prompts[row["video"]].append((row["prompt"] or "").strip())
    made = [each._replace(problem=each.problem or f"has no prompt in {Path(path).name}") for each in found]
    made = [each for each in made if not prompts[each.id]]
    for each in found:
        made += [each._replace(id=f"{each.id}-{k}", prompt=text) for k, text in enumerate(prompts[each.id], 1)]
    return sorted(made, key=lambda each: each.id)


def with_edits(found: list[Found], folder: str | Path) -> list[Found]:
    """Give clips a person's edits of them: FOLDER/ID/first.png, mask.png, tracks.npz and, if you like, prompt.txt.

    Pictures are as large as the video, and tracks in its pixels, for as many frames as an item has or more. Raises
    ValueError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'not there'}; expected a folder of edits")
    made = []
    for each in found:
        edit, needed = folder / each.id, ("first.png", "mask.png", "tracks.npz")
        missing = [name for name in needed if not (edit / name).is_file()]
        if missing:
            made.append(each._replace(problem=each.problem or f"its edit lacks {each.id}/{missing[0]}"))
            continue
        text = edit / "prompt.txt"
        prompt = text.read_text(encoding="utf-8").strip() if text.is_file() else each.prompt
        made.append(each._replace(prompt=prompt, edit=edit))
    return made


def read(
    path: Path, size: tuple[int, int], fps: float | int | None = None, num_frames: int | None = None
) -> video.Clip:
    """Read a clip at a size (H, W): its middle of these proportions, scaled.

    Args:
        path: of a video, or of a folder of pictures. fps: of the result; None is the file's own.
        num_frames: the most that are needed.

    Returns:
        The frames, as many as there are, not in memory where that is long.

    Raises:
        ValueError: (VideoError) in one line, for what cannot be read.
    """
    if path.is_dir():
        pictures = _thinned(pictures_in(path), fps)[:num_frames]
        # Each has a size of its own, which is looked at when it is read.
        raw = stacks.Frames((len(pictures), 1, 1, 3), lambda t: inputs.read_image(pictures[t]))
        rate = PICTURE_RATE if fps is None else float(fps)
        return video.Clip(_fitted(raw, size), rate)
    length, shown = video.measure(path)
    # How many frames there are only decoding tells; of a file that is surely longer no more than needed are decoded.
    is_long = num_frames is not None and fps is None and length > 2 * num_frames
    raw = video.read(
        path, num_frames if is_long else None, _cover(shown, size), fps=fps, notify=lambda line: None, stream=True
    )
    return video.Clip(_fitted(raw.frames[:num_frames], size), raw.fps)


def _thinned(pictures: list[Path], fps: float | int | None) -> list[Path]:
    """Return the pictures of a folder at a rate: picture k is the one that is shown k / fps seconds after the first."""
    if fps is None:
        return pictures
    return [pictures[int(time)] for time in np.arange(0, len(pictures), PICTURE_RATE / fps)]


def _below(folder: Path) -> list[Path]:
    """List what is below a folder, but for what is hidden."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(folder / path for path in found if not any(part.startswith(".") for part in path.parts))


def _id(path: Path) -> str:
    return "-".join(path.parts)


def pictures_in(folder: Path) -> list[Path]:
    """List the pictures of a folder by name, without hidden files."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def _cover(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size (H, W) of a picture's proportions that covers another."""
    scale = max(size[0] / shape[0], size[1] / shape[1])
    return max(size[0], round(shape[0] * scale)), max(size[1], round(shape[1] * scale))


def _fitted(frames: UInt8[np.ndarray, "T H W 3"] | stacks.Lazy, size: tuple[int, int]) -> stacks.Frames:
    """Return frames whose middle, of a size's proportions, is cut out and brought to it when they are asked for."""
    return stacks.Frames((len(frames), *size, 3), lambda t: fit(frames[t], size))


def fit(picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Return the middle of a picture that has a size's proportions (H, W), brought to it."""
    top, left, rows, columns = _middle(picture.shape, size)
    return video.resize(picture[top : top + rows, left : left + columns], size)


def fit_points(
    xy: Float[np.ndarray, "N T 2"], shape: tuple[int, ...], size: tuple[int, int]
) -> Float[np.ndarray, "N T 2"]:
    """Return where points of a picture of a shape (H, W, ...) are in what `fit` makes of it."""
    top, left, rows, columns = _middle(shape, size)
    return (xy - np.array([left, top])) * np.array([size[1] / columns, size[0] / rows])


def _middle(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the first row and column of what `fit` cuts out, and how many of both."""
    height, width = shape[:2]
    share = min(height / size[0], width / size[1])
    rows, columns = (max(1, round(side * share)) for side in size)
    return (height - rows) // 2, (width - columns) // 2, rows, columns
