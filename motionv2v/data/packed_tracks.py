"""Dense tracks as bytes and back: how data sets store the thousands of tracks of a clip. numpy only.

Positions are rounded to sixteenths of a pixel, finer than any tracker is right, and stored as
steps from frame to frame. Steps of points beside one another are alike and small, which zlib makes use of: smooth
tracks take about a tenth of what they do as float32 (`tests/data/packed_tracks_test.py`).
"""

import struct
import zlib

import numpy as np

from motionv2v.tracks import Tracks, validate

UNITS = 16
"""Steps of stored positions in a pixel."""
_HEADER = struct.Struct("<IIB")  # points, frames, bytes of a step
_REACH = 2**31 - 1


def pack(tracks: Tracks) -> bytes:
    """Pack tracks [N T 2], pixels, and their visibility; ValueError for positions that are not finite, or far off."""
    xy, visible = validate(tracks)
    places = np.rint(xy.astype(np.float64) * UNITS)
    if places.size and np.abs(places).max() > _REACH // 2:
        raise ValueError(f"tracks up to {np.abs(xy).max():.3g} pixels off cannot be stored; expected a picture's")
    steps = np.diff(places.astype(np.int64), axis=1, prepend=0)
    width = 2 if not steps.size or np.abs(steps).max() < 2**15 else 4
    # Coordinate by coordinate, frame by frame, and all low bytes before all high ones, which are nearly all the same.
    ordered = np.ascontiguousarray(steps.transpose(2, 1, 0).astype(f"<i{width}"))
    planes = ordered.view(np.uint8).reshape(-1, width).T
    content = planes.tobytes() + np.packbits(visible).tobytes()
    return _HEADER.pack(*visible.shape, width) + zlib.compress(content)


def unpack(data: bytes) -> Tracks:
    """Give back what `pack` packed: float32 [N T 2], at most 1/32 pixel off. Raises ValueError for damaged bytes."""
    try:
        points, frames, width = _HEADER.unpack_from(data)
        content = np.frombuffer(zlib.decompress(data[_HEADER.size :]), np.uint8)
        size = 2 * points * frames * width
        planes, bits = content[:size].reshape(width, -1), content[size:]
        steps = np.ascontiguousarray(planes.T).view(f"<i{width}").reshape(2, frames, points)
        seen = np.unpackbits(bits, count=points * frames).reshape(points, frames).astype(bool)
    except (struct.error, zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"stored tracks of {len(data)} bytes are damaged ({error})") from None
    places = np.cumsum(steps.astype(np.int64), axis=1).transpose(2, 1, 0)
    return Tracks((places / UNITS).astype(np.float32), seen)
