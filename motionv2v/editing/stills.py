"""A picture as a clip: the same frame again and again, so that what it shows can be bent in time."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motionv2v import files, video
from motionv2v.editing import inputs
from motionv2v.typing import UInt8

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of what is taken for a picture."""
NUM_FRAMES, FPS = 49, 8
"""Of the clip: what CogVideoX-5B-I2V makes of a picture."""
MOST_SIDE = 1280
"""Pixels of the longer side; a larger picture is made smaller, for the clip is held as so many frames of it."""


def is_picture(path: str | Path) -> bool:
    """Tell by its ending whether a file is a picture."""
    return Path(path).suffix.lower() in PICTURES


def as_clip(path: str | Path, folder: Path, notify: Callable[[str], None]) -> Path:
    """Write a picture as a clip into a folder, unless it lies there, and return that file.

    The file is named by the picture's name and content, so that the same picture is the same clip. `notify` is told
    what the clip is. Raises ValueError for what is no picture that can be read.
    """
    path = Path(path)
    image = inputs.read_image(path)
    stem = path.stem.encode()[:180].decode(errors="ignore")  # names of files have at most 255 bytes
    place = folder / f"{stem}-{files.sha256(path)[:8]}.mp4"
    still = _fit(image)
    height, width = still.shape[:2]
    if not place.is_file():
        video.write(place, itertools.repeat(still, NUM_FRAMES), fps=FPS, crf=8)
    notify(f"{path.name} is a picture: it stands for {NUM_FRAMES} frames of {width}x{height}, {FPS} a second")
    return place


def _fit(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Make a picture small enough, and its sides even by repeating the last row or column, as clips have them."""
    scale = min(1.0, MOST_SIDE / max(image.shape[:2]))
    if scale < 1:
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        image = video.resize(image[None], (height, width))[0]
    return np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)], "edge")
