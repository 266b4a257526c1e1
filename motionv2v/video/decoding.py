"""Decode a video file into upright RGB pictures with square pixels on an even clock: the one reader of this package.

`video.read` makes a clip of it or raises an error, `reader` gets out of a file what can be had. Files are opened as
files whatever their names look like, and nothing but that file is opened.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from motionv2v.typing import UInt8
from motionv2v.video import clock
from motionv2v.video.colours import Converter, notice

MAX_FPS = 1000
"""Highest frame rate of files that are read or written."""

_LOOK = 20_000  # packets: the clock of a longer file is that of its beginning
_MAX_ASPECT = 8.0  # of a pixel; more is taken for a fault of the file
_LISTS = frozenset(("concat", "dash", "hls", "imf"))  # FFmpeg's formats that open what they name
# PyAV fails at a picture with side data of a kind that it has no name for, such as EXIF or the views of spatial videos.
# Nobody here reads those: they count as one that it knows.
SideData._missing_ = classmethod(lambda kinds, value: kinds.SEI_UNREGISTERED)
_B_PICTURE = 3  # FFmpeg's number of pictures that are predicted from later ones too


class VideoError(ValueError):
    """Say in one line what is wrong with a video file or with the frames that were to be written."""


class Decoder:
    """Look at a video file, then decode it as often as asked for.

    Attributes:
        path: the file. fps: the rate of its frames. shown: (H, W) of its upright picture in square pixels.
        turn: what was done to make it upright, in words; "" for nothing. bits: per colour.
        notes: what a person should know about the file, in words; complete after an iteration to the end.
    """

    def __init__(self, path: str | os.PathLike, *, threads: int = 0):
        """Read the times of the file's pictures and decode the first one.

        Args:
            path: the file. threads: how many decode; 0 takes all cores.

        Raises:
            VideoError: for what cannot be opened, holds no picture that can be decoded, or states a rate above MAX_FPS.
        """
        self.path, self.notes, self._threads = Path(path), [], threads
        self._converter = Converter(threads)
        with self._open() as (container, stream):
            first = self._look(container, stream)
            aspect = float(stream.sample_aspect_ratio or 1)
        self._check_rate(self.fps)
        if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
            self._note(f"states pixels {aspect:.3g} times as wide as high; they are taken for square")
            aspect = 1.0
        self._turn = _turn(first)
        self.turn = _in_words(self._turn)
        stored = (first.height, max(1, round(first.width * aspect)))
        self.shown = stored[::-1] if self._turn[0] else stored
        self.bits = first.format.components[0].bits if first.format.components else 8
        self._stored = (first.width, first.height)
        if self._clock.jump:
            self._note(
                f"{self._clock.jump:.4g} s between two of its pictures, more than {clock.MAX_GAP:g}, are taken for a "
                "fault and pass as one frame"
            )
        if not self._clock.even:
            self._note(f"variable frame rate put on an even clock of {self.fps:.4g} frames a second")
        if colours := notice(first):
            self._note(colours)

    @property
    def num_frames(self) -> int:
        """Estimate how many frames there are on the file's own clock; no promise."""
        return self._expected

    def pictures(self, fps: float | int | None = None) -> Iterator[tuple[Any, int]]:
        """Decode the file; yield each picture and how many frames show it, 0 or more, as `clock.pace` says.

        Raises VideoError at the first picture that cannot be decoded at all. Of pictures that are damaged and shown
        all the same, `notes` tells when the iteration ends, or is closed.
        """
        damage, count, is_told = _Damage(), 0, False
        with contextlib.closing(self._decode()) as decoded:
            paced = clock.pace(decoded, self._clock._replace(rate=self.fps), self._tick, fps)
            try:
                for picture, times in paced:
                    damage.see(picture, range(count, count + times))
                    if fps is None and self._clock.even and times != 1 and not is_told:
                        self._note(f"pictures are missing or too many from frame {count} on; frames keep the time")
                        is_told = True
                    yield picture, times
                    count += times
            finally:
                if damage.spans:
                    self._note(f"damaged: {damage}; what the decoder made of them is shown")

    def convert(
        self, picture: Any, size: tuple[int, int] | None = None, out: UInt8[np.ndarray, "H W 3"] | None = None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Make a picture RGB, upright and of size (H, W), by default `shown`; into `out` if that is given."""
        height, width = self.shown if size is None else size
        out = np.empty((height, width, 3), np.uint8) if out is None else out
        transposed, mirror_rows, mirror_columns = self._turn
        # The stored picture is written through a view of the upright one: no copy is turned afterwards.
        view = out[:: -1 if mirror_rows else 1, :: -1 if mirror_columns else 1]
        view = view.transpose(1, 0, 2) if transposed else view
        try:
            self._converter.to_rgb(picture, view)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self.path}: colours {picture.format.name} cannot be read ({reason(error)})") from None
        return out

    def _look(self, container: Any, stream: Any) -> Any:
        """Find the clock from the packets, which need not be decoded; return the first picture."""
        first, times, failure, count, last = None, [], "", 0, (-np.inf, None)
        try:
            for packet in container.demux(stream):
                if first is None:
                    first = next(iter(packet.decode()), None)
                at = packet.dts if packet.pts is None else packet.pts
                if not packet.size or packet.is_discard:
                    continue
                if stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10:
                    continue  # a picture that others are predicted from, itself not shown (RFC 6386, 9.1)
                count += 1
                if at is not None:
                    times.append(at)
                    last = max(last, (at, packet.duration))
                if count >= _LOOK and first is not None:
                    break
        except (av.error.FFmpegError, OSError) as error:
            failure = f" ({reason(error)})"
        stated = stream.average_rate or stream.guessed_rate
        if first is None:
            self._check_rate(float(stated or 25))
            what = f"no picture can be read{failure}" if count or failure else "a video stream with zero frames"
            raise VideoError(f"{self.path}: {what}{'; the file is cut short' if is_cut_short(self.path) else ''}")
        self._tick = float(stream.time_base)
        times, shown = np.array(times, np.float64) * self._tick, (last[1] or 0) * self._tick
        self._clock = clock.find(times, self._tick, stated, shown or None)
        self.fps = self._clock.rate
        self._end = times.max() if len(times) else -np.inf
        length = np.ptp(times) if len(times) and not self._clock.even else 0.0
        self._expected = max(count, int(min(length * self.fps, 1e6)) + 1)
        return first

    def _check_rate(self, rate: float) -> None:
        if not 0 < rate <= MAX_FPS:
            raise VideoError(f"{self.path}: states {rate:g} frames a second, expected above 0 and at most {MAX_FPS}")

    def _decode(self) -> Iterator[Any]:
        """Yield the file's pictures in the order they are shown."""
        count, sizes, picture = 0, {self._stored}, None
        with self._open() as (container, stream):
            try:
                for picture in container.decode(stream):
                    if (size := (picture.width, picture.height)) not in sizes:
                        old, new = ("x".join(map(str, wh)) for wh in (self._stored, size))
                        self._note(f"changes its size from {old} to {new} at picture {count}; all are read as {old}")
                        sizes.add(size)
                    count += 1
                    yield picture
            except (av.error.FFmpegError, OSError) as error:
                # Which of the two shows first depends on how many cores decode.
                cut = "; the file is cut short" if is_cut_short(self.path) else ""
                raise VideoError(f"{self.path}: damaged after frame {count} ({reason(error)}{cut})") from None
        if picture is not None and picture.time is not None and picture.time + 0.5 / self.fps < self._end:
            self._note(f"its pictures after {picture.time:.3g} s, up to {self._end:.3g} s, cannot be decoded")

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Open the file and choose its first stream of pictures; raise VideoError where there is none."""
        path = self.path
        _check_file(path)
        cut = "; the file is cut short" if is_cut_short(path) else ""
        try:
            # Of GIFs, show pictures of a hundredth of a second for as long as they say.
            container = av.open(url(path), options={"protocol_whitelist": "file", "min_delay": "1"})
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: not a video file that can be read ({reason(error)}{cut})") from None
        with container:
            if container.format.name == "tty":  # FFmpeg would draw a text file as pictures of its letters
                raise VideoError(f"{path}: not a video file that can be read (it is a text file)")
            if container.format.name in _LISTS:
                raise VideoError(f"{path}: a list of other files ({container.format.long_name}), expected a video file")
            # The cover picture of a sound file is a video stream to FFmpeg, not to a person.
            streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
            if not streams:
                coded = [(s.type, getattr(s.codec_context, "name", "unknown")) for s in container.streams]
                found = ", ".join(f"{kind} ({codec})" for kind, codec in coded)
                raise VideoError(f"{path}: no video in this file; it holds {found or 'no streams at all'}{cut}")
            stream = streams[0]
            if stream.codec_context is None:
                raise VideoError(f"{path}: its video is coded in a format that this FFmpeg cannot decode")
            stream.thread_type = "NONE" if self._threads == 1 else "AUTO"
            stream.codec_context.thread_count = self._threads
            stream.codec_context.options = {"err_detect": "crccheck"}
            yield container, stream

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class _Damage:
    """Collect which frames show damaged pictures, and those that are predicted from them, up to a whole picture."""

    def __init__(self) -> None:
        self.spans: list[list[int]] = []
        self._tainted, self._run = False, 0  # _run: first frame of the pictures between two others, before this one

    def see(self, picture: Any, frames: range) -> None:
        """Look at a picture and the frames that show it."""
        self._tainted = picture.is_corrupt or (self._tainted and not picture.key_frame)
        between = picture.pict_type == _B_PICTURE
        if self._tainted:
            # The pictures just before may be predicted from this one.
            start = frames.start if between else self._run
            if self.spans and self.spans[-1][1] >= start:
                self.spans[-1][1] = frames.stop
            elif frames.stop > start:
                self.spans.append([start, frames.stop])
        if not between:
            self._run = frames.stop

    def __str__(self) -> str:
        spans = [f"{start}" if stop == start + 1 else f"{start} to {stop - 1}" for start, stop in self.spans]
        more = f" and {len(spans) - 8} more stretches" if len(spans) > 8 else ""
        one = len(self.spans) == 1 and self.spans[0][1] == self.spans[0][0] + 1
        return f"frame{'' if one else 's'} {', '.join(spans[:8])}{more}"


def url(path: str | os.PathLike) -> str:
    """Return a path as FFmpeg opens it, which takes what stands before a colon for the name of a protocol."""
    return f"file:{os.fspath(path)}"


def reason(error: Exception) -> str:
    """Return what FFmpeg or the system says about an error, without its number and file name, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def is_cut_short(path: Path) -> bool:
    """Return True where an MP4/MOV file's outermost boxes reach past its end; False for other containers."""
    total, position = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(12)[4:8] != b"ftyp":
            return False
        while position < total:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a 64-bit length follows the box's name
                length = int.from_bytes(header[8:16], "big")
            if length == 0:  # reaches to the end of the file, whatever that is
                return False
            if length < 8:
                return True
            position += length
    return position > total


def _check_file(path: Path) -> None:
    """Raise VideoError where there is nothing to open."""
    try:
        if path.is_dir():
            raise VideoError(f"{path}: is a folder, expected a video file")
        if path.stat().st_size == 0:
            raise VideoError(f"{path}: the file is empty (0 bytes)")
        path.open("rb").close()
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({reason(error)})") from None


def _turn(picture: Any) -> tuple[bool, bool, bool]:
    """Return how a picture is made upright: swap rows and columns, then mirror the rows, then the columns.

    The display matrix maps stored (x, y) to shown (a x + c y, b x + d y); one that is not a multiple of a quarter turn
    is taken for the nearest one.
    """
    stored = picture.side_data.get(SideData.DISPLAYMATRIX)
    if stored is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=9i", bytes(stored))[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _in_words(turn: tuple[bool, bool, bool]) -> str:
    """Say what a turn does; angles are against the clock."""
    transposed, rows, columns = turn
    mirrored = (transposed + rows + columns) % 2
    if not mirrored:
        return {(0, 0, 0): "", (0, 1, 1): "180", (1, 1, 0): "90", (1, 0, 1): "270"}[turn]
    return "mirrored"
