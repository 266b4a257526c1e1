"""Read TAP-Vid's pickle files (DAVIS, Kinetics, RGB-stacking; Doersch et al. 2022) without running what is in them.

A file holds a dict (name -> video) or a list of videos. A video is a dict of `video`, uint8 [T H W 3] or T encoded
pictures (JPEG bytes); `points`, [N T 2] in fractions of the width and height; `occluded`, bool [N T].

A pickle can call any function when it is loaded; `motionv2v.pickles` reads them without calling any.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from motionv2v import pickles
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8


class Video(NamedTuple):
    """A named video, uint8 [T H W 3], and the tracks of its annotated points, in its pixels."""

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks


def read(path: str | os.PathLike) -> Iterator[Video]:
    """Read a file's videos one by one. A hidden point's position is kept if it is finite, else it is (0, 0).

    Raises FileNotFoundError for a missing file and ValueError for one that is not of this form; both in one line.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        try:
            content = pickles.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a TAP-Vid pickle that can be read safely: {error}") from None
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list | tuple):
        items = list(enumerate(content))
    else:
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict or a list of videos")
    if not items:
        raise ValueError(f"{path} holds no video")
    return (_video(f"{path}, video {name!r}", str(name), item) for name, item in items)


def _video(where: str, name: str, item: Any) -> Video:
    """Check one video and bring it into this package's form."""
    if not isinstance(item, dict) or not {"video", "points", "occluded"} <= set(item):
        holds = sorted(map(str, item)) if isinstance(item, dict) else type(item).__name__
        raise ValueError(f"{where} holds {holds}; expected a dict with video, points and occluded")
    frames = item["video"]
    if not isinstance(frames, np.ndarray):
        frames = _decode(where, frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{where} has frames {frames.dtype} {list(frames.shape)}; expected uint8 [T H W 3]")
    points, occluded = (np.asarray(item[key]) for key in ("points", "occluded"))
    shape = (*occluded.shape, 2)
    if occluded.ndim != 2 or points.shape != shape or occluded.shape[1] != len(frames):
        raise ValueError(
            f"{where} has {len(frames)} frames, points {list(points.shape)} and occluded {list(occluded.shape)}; "
            "expected points [N T 2] and occluded [N T] with T frames"
        )
    if points.dtype.kind not in "fiu" or occluded.dtype.kind not in "bfiu":
        raise ValueError(f"{where} has points {points.dtype} and occluded {occluded.dtype}; expected numbers")
    visible = ~occluded.astype(bool)
    if not np.isfinite(points[visible]).all():
        raise ValueError(f"{where} has visible points that are not finite")
    xy = np.where(np.isfinite(points), points, 0) * [frames.shape[2], frames.shape[1]]
    return Video(name, frames, Tracks(xy.astype(np.float32), visible))


def _decode(where: str, pictures: Any) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode a sequence of encoded pictures (as Kinetics' files hold them)."""
    if not isinstance(pictures, list | tuple) or not pictures or not all(isinstance(p, bytes) for p in pictures):
        raise ValueError(f"{where} has frames of type {type(pictures).__name__}; expected an array or JPEG bytes")
    frames = []
    for t, picture in enumerate(pictures):
        frame = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
        if frame is None or (frames and frame.shape != frames[0].shape):
            raise ValueError(f"{where}, frame {t} is no picture, or not of the size of the first one")
        frames.append(frame[..., ::-1])
    return np.stack(frames)
