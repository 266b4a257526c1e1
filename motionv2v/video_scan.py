"""Read a video file of any length and size once through, a picture at a time, at the size that is needed.

Where `video.read` returns a clip or an error, this gets out of a file what can be had: pictures are made smaller while
they are decoded (an 8k picture is never held as RGB), turned upright, and put on an even clock; a file that is damaged
in the middle ends there, and `Reader.notes` says so. 10-bit and other layouts of colours arrive as 8-bit RGB.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from motionv2v import video
from motionv2v.typing import UInt8

MAX_GAP = 1.0
"""Seconds: a longer time between two pictures is taken for a fault of the file's clock and counts as one frame."""

MAX_RATE = 120.0
"""Frames a second: files that state more (some state their clock's ticks) are read picture by picture."""


class Reader:
    """Iterate over a file's frames, uint8 RGB [H W 3], at its average rate; can be iterated again.

    The rate stays: a picture that varies in its duration is repeated or left out so that frame k is what a player shows
    k / fps seconds after the first picture.

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
        self.path = Path(path)
        self.notes: list[str] = []
        with video.open_stream(self.path) as (container, stream):
            self.fps = _rate(stream)
            aspect = float(getattr(stream, "sample_aspect_ratio", None) or 1)
            picture = next(self._decode(container, stream), None)
        if picture is None:
            raise video.VideoError(f"{self.path}: no picture can be read" + "".join(f" ({n})" for n in self.notes))
        if picture.format.components and picture.format.components[0].bits > 8:
            self._note(f"{picture.format.components[0].bits} bits a colour read as 8")
        turns = _quarter_turns(picture)
        if turns:
            self._note(f"turned upright by {turns * 90} degrees")
        width = max(1, round(picture.width * aspect))
        self.shown = (width, picture.height) if turns % 2 else (picture.height, width)
        scale = min(1.0, max(cover[0] / self.shown[0], cover[1] / self.shown[1]))
        self.size = tuple(max(1, round(side * scale)) for side in self.shown)
        if scale < 1 and max(self.shown) > 4096:
            self._note(f"{self.shown[1]}x{self.shown[0]} made smaller while reading")

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        with video.open_stream(self.path) as (container, stream):
            for picture, times in self._paced(self._decode(container, stream)):
                frame = self._convert(picture)
                for _ in range(times):
                    yield frame

    def _decode(self, container, stream) -> Iterator:
        """Decode pictures until the end or the first damage; one thread, since many files are read side by side."""
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        count = 0
        try:
            for picture in container.decode(stream):
                count += 1
                yield picture
        except av.error.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            self._note(f"damaged after picture {count} ({reason}); what comes before is used" if count else reason)

    def _paced(self, pictures: Iterator) -> Iterator[tuple]:
        """Say how many times each picture is shown on a clock of `fps` ticks a second."""
        if self.fps > MAX_RATE:
            yield from ((picture, 1) for picture in pictures)
            return
        shown, begin, clock, ticks, uneven = None, 0.0, 0.0, 0, False
        for picture in pictures:
            step = 1 / self.fps
            if shown is not None:
                if picture.time is not None and begin is not None:
                    step = picture.time - begin
                step = step if 0 <= step <= MAX_GAP else 1 / self.fps
                clock += step
                # Half a tick of slack: on an even clock, rounding of the file's times must not move a frame.
                times = max(0, round(clock * self.fps) - ticks)
                uneven |= times != 1
                ticks += times
                yield shown, times
            shown, begin = picture, picture.time
        if shown is not None:
            yield shown, 1
        if uneven:
            self._note(f"variable frame rate put on an even clock of {self.fps:.3g} frames a second")

    def _convert(self, picture) -> UInt8[np.ndarray, "H W 3"]:
        """Make a picture smaller, RGB and upright, in this order: FFmpeg does the first two in one pass."""
        turns = _quarter_turns(picture)
        height, width = self.size[::-1] if turns % 2 else self.size
        if (height, width) == (picture.height, picture.width):
            rgb = picture.to_ndarray(format="rgb24")
        else:
            # Planar: FFmpeg scales to packed RGB with a pattern that stands still, and trackers follow that.
            method = "AREA" if height <= picture.height else "BICUBIC"
            rgb = picture.reformat(width=width, height=height, format="gbrp", interpolation=method).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, turns))

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


def _rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _quarter_turns(picture) -> int:
    """Return the turn stored with the picture in quarters against the clock, as np.rot90 counts."""
    return round(getattr(picture, "rotation", 0) / 90) % 4
