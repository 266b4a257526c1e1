"""Tracks that are there already, in a file: what follows no points itself, and is asked like a tracker that does."""

import os

import numpy as np

from motionv2v import tracks
from motionv2v.stacks import Lazy
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Num, UInt8


class GivenTracks:
    """Give the tracks of a file for the queries that they were made of, in the same order."""

    def __init__(self, path: str | os.PathLike):
        """Read an .npz with xy [N T 2] in pixels of the clip and visible [N T]. Raises ValueError where there is none.

        The file is one that an editor wrote beside its edit; those of other programs are read by `edits.track_files`.
        """
        self._path = os.fspath(path)
        try:
            self._tracks = tracks.load(path)
        except OSError as error:
            raise ValueError(f"{self._path} cannot be read ({error.strerror or error})") from None

    def track(self, frames: UInt8[AnyArray, "T H W 3"] | Lazy, queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Return the tracks, xy float32 [N T 2] and visible [N T], one for each query, whose places are not looked at.

        Raises ValueError for another number of points or of frames than the file has.
        """
        try:
            found = tracks.validate(self._tracks, num_frames=len(frames), num_points=len(queries))
        except ValueError as error:
            raise ValueError(f"{self._path} was made for another edit or clip: {error}") from None
        return tracks.from_arrays(np.array(found.xy), np.array(found.visible))
