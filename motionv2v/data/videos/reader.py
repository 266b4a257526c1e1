"""Read a video file of any length and size once through, a picture at a time, at the size that is needed.

Where `video.read` returns a clip or an error, this gets out of a file what can be had: pictures are made smaller while
they are decoded (an 8k picture is never held as RGB), and a file that is damaged in the middle ends there, which
`Reader.notes` says. In all else both read alike (`video.decoding`).
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from motionv2v.typing import UInt8
from motionv2v.video.decoding import Decoder, VideoError


class Reader:
    """Iterate over a file's frames, uint8 RGB [H W 3], at a constant rate; can be iterated again.

    Attributes:
        fps: frames a second. shown: (H, W) of the upright picture as a player shows it. size: (H, W) of the frames.
        notes: what is peculiar about the file, in words; complete after an iteration to the end.
    """

    def __init__(self, path: str | os.PathLike, cover: tuple[int, int]):
        """Look at the first picture. Frames keep its proportions and are made smaller as long as they cover `cover`.

        Args:
            path: the file. cover: (H, W) in pixels; smaller videos keep their size.

        Raises:
            VideoError: if not a single picture can be read, with the reason.
        """
        self._decoder = decoder = Decoder(path, threads=1)  # many files are read side by side
        self.fps, self.shown, self.notes = decoder.fps, decoder.shown, decoder.notes
        if decoder.bits > 8:
            self._note(f"{decoder.bits} bits a colour read as 8")
        if decoder.turn:
            self._note(f"turned upright by {decoder.turn} degrees" if decoder.turn.isdigit() else decoder.turn)
        scale = min(1.0, max(cover[0] / self.shown[0], cover[1] / self.shown[1]))
        self.size = tuple(max(1, round(side * scale)) for side in self.shown)
        if scale < 1 and max(self.shown) > 4096:
            self._note(f"{self.shown[1]}x{self.shown[0]} made smaller while reading")

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        try:
            with contextlib.closing(self._decoder.pictures()) as pictures:
                for picture, times in pictures:
                    if times:
                        frame = self._decoder.convert(picture, self.size)
                    for _ in range(times):
                        yield frame
        except VideoError as error:
            self._note(f"{str(error).removeprefix(f'{self._decoder.path}: ')}; what comes before is used")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def chunks(frames: Iterable, length: int, limit: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
    """Stack frames into pieces of `length`, of the first `limit` frames; the last piece may be shorter."""
    held = []
    for index, frame in enumerate(frames):
        if index == limit:
            break
        held.append(frame)
        if len(held) == length:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def take(frames: Iterable, spans: Sequence[range]) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
    """Yield the frames of each span, one span in memory at a time; spans are in order and do not overlap.

    Raises ValueError for spans that overlap, are out of order or reach past the last frame.
    """
    if any(a.stop > b.start for a, b in itertools.pairwise(spans)):
        raise ValueError(f"spans must be in order and not overlap, given {list(spans)}")
    frames, position = iter(frames), 0
    for span in spans:
        held = []
        while position < span.stop:
            frame = next(frames, None)
            if frame is None:
                raise ValueError(f"frames {span.start} to {span.stop - 1} were asked for, but there are {position}")
            if position >= span.start:
                held.append(frame)
            position += 1
        yield np.stack(held)
