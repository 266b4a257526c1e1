"""Read, write and resize video files; `video_bytes` and `video_scan` beside it are all else that knows codecs.

Frames are uint8 RGB, [T H W 3], values 0 to 255. Decoding and encoding go through PyAV, whose wheel carries FFmpeg and
x264, so no program has to be installed beside Python. Everything that can be wrong with a person's file ends in a
`VideoError` of one line that names the file and says what was found.

A resize keeps the coordinate convention of the package: a point at `xy` moves to `xy * (new / old)`.
"""

import contextlib
import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from motionv2v import files, video_sound
from motionv2v.typing import AnyArray, Num, UInt8

MAX_BYTES = 8 * 2**30
"""Largest clip that `read` returns, in bytes of decoded frames; a longer file needs num_frames or a smaller size."""

_SUFFIXES = (".mp4", ".mov", ".mkv", ".gif")


class VideoError(ValueError):
    """Say in one line what is wrong with a video file or with the frames that were to be written."""


class Clip(NamedTuple):
    """Hold the frames of a video (uint8 RGB) and their rate in frames per second."""

    frames: UInt8[AnyArray, "T H W 3"]
    fps: float | int


def read(
    path: str | os.PathLike,
    num_frames: int | None = None,
    size: tuple[int, int] | None = None,
    start: int = 0,
    fps: float | int | None = None,
) -> Clip:
    """Read frames `start` to `start + num_frames` of a video file, or all frames from `start` on.

    Rotation stored as metadata (telephones) is applied. `size` is (H, W) in pixels of the upright picture; the picture
    is stretched to it. With `fps=None` every stored frame counts once and the result carries the average rate, also
    where the rate varies; with a number, frame k is the picture that a player shows k / fps seconds after the first
    one (frames are repeated or left out), and `start` and `num_frames` count those frames.

    Raises VideoError for a missing, empty, truncated or unreadable file, one without pictures (it says which streams
    there are), fewer frames than asked for, and clips above `MAX_BYTES`.
    """
    path = Path(path)
    _check_request(num_frames, size, start, fps)
    _check_file(path)
    frames, last = [], -1
    stop = None if num_frames is None else start + num_frames
    with _open(path) as (container, stream):
        rate = _rate(stream)
        try:
            pictures = _pictures(container, stream)
            for last, picture in enumerate(pictures if fps is None else _retime(pictures, rate, fps)):
                if last < start:
                    continue
                frames.append(_upright(picture, size))
                if len(frames) * frames[0].nbytes > MAX_BYTES:
                    raise VideoError(
                        f"{path}: more than {MAX_BYTES // 2**30} GiB of frames; give num_frames or a smaller size"
                    )
                if stop is not None and last + 1 >= stop:
                    break
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: damaged after frame {last + 1} ({_reason(error)})") from None
    _check_result(path, len(frames), last + 1, num_frames, start)
    return Clip(np.stack(frames), float(fps or rate))


def write(
    path: str | os.PathLike,
    video: Clip | UInt8[AnyArray, "T H W 3"] | Iterable[UInt8[AnyArray, "H W 3"]],
    fps: float | int | None = None,
    *,
    crf: int = 18,
    lossless: bool = False,
    sound: str | os.PathLike | None = None,
    notify: Callable[[str], None] = warnings.warn,
) -> Path:
    """Write frames as a file that browsers play (.mp4, .mov, .mkv: H.264 yuv420p; .gif) and return its path.

    The file appears whole or not at all (`files.partial`). Frames may come one by one from an iterator, so that a long
    video is never in memory. `fps` may be left out when `video` is a Clip. Chroma subsampling needs even sizes; an odd
    one is padded by repeating the last row or column. `lossless=True` keeps every pixel and any size (H.264 in RGB at
    crf 0, which browsers do not play). `crf` is x264's quality, 0 best to 51 worst. `sound` names a file whose sound is
    written along, from that file's first picture on, for as long as there are frames (`video_sound`). `notify` is
    called with a sentence for padding, and for sound that is changed or cannot be carried over.

    Raises VideoError for an unknown ending, frames that are not uint8 [T H W 3] with T >= 1, or a missing frame rate.
    """
    path = Path(path)
    frames, fps = (video.frames, fps or video.fps) if isinstance(video, Clip) else (video, fps)
    check_writable(path, fps)
    is_gif = path.suffix.lower() == ".gif"
    if is_gif and sound is not None:
        notify(f"{path}: a GIF holds no sound")
    size, pictures = _checked(path, frames, pad=not is_gif and not lossless, notify=notify)
    try:
        with files.partial(path) as unfinished:
            rate = Fraction(fps).limit_denominator(1001)
            if is_gif:
                _encode_gif(unfinished, pictures, size, rate)
            else:
                carry = None if sound is None else functools.partial(video_sound.beside, sound, notify=notify)
                _encode_h264(unfinished, pictures, size, rate, crf=crf, lossless=lossless, carry=carry)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be written ({_reason(error)})") from None
    return path


def resize(frames: Num[AnyArray, "*B H W C"], size: tuple[int, int]) -> Num[AnyArray, "*B h w C"]:
    """Resize pictures (uint8 or float32) to size (H, W) in pixels, stretching where the proportions differ.

    An axis that shrinks is averaged over its pixel areas (no aliasing); one that grows is interpolated cubically, which
    may overshoot a float picture's range slightly (uint8 is clipped). Points follow as `xy * (new / old)`. Raises
    ValueError for a size that is not two positive integers.
    """
    height, width = _check_size(size)
    old_height, old_width, channels = frames.shape[-3:]
    if (height, width) == (old_height, old_width):
        return np.asarray(frames)
    # cv2 has one interpolation for both axes: average the axes that shrink first, then interpolate the ones that grow.
    middle = (min(width, old_width), min(height, old_height))
    out = np.empty((*frames.shape[:-3], height, width, channels), frames.dtype)
    for index in np.ndindex(*frames.shape[:-3]):
        picture = np.ascontiguousarray(frames[index])
        if middle != (old_width, old_height):
            picture = cv2.resize(picture, middle, interpolation=cv2.INTER_AREA)
        if middle != (width, height):
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        out[index] = picture.reshape(height, width, channels)  # cv2 drops a single channel's axis
    return out


def fit_frame_count(num_frames: int) -> int:
    """Return the number 4k + 1 nearest to `num_frames`, the smaller one of two that are equally near.

    The causal video VAE codes the first frame alone and then four frames at a time. Raises ValueError below 1.
    """
    if num_frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, given {num_frames}")
    return 4 * (num_frames // 4) + 1


def set_frame_count(frames: UInt8[AnyArray, "T H W 3"], num_frames: int) -> UInt8[AnyArray, "S H W 3"]:
    """Trim a clip at its end, or repeat its last frame, until it has `num_frames` frames; raise ValueError below 1."""
    if num_frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, given num_frames={num_frames}")
    return np.asarray(frames)[np.minimum(np.arange(num_frames), len(frames) - 1)]


def _check_request(num_frames, size, start, fps) -> None:
    """Raise VideoError for arguments that no file could satisfy."""
    if num_frames is not None and num_frames < 1:
        raise VideoError(f"num_frames must be at least 1 (or None for all), given {num_frames}")
    if start < 0:
        raise VideoError(f"start must be 0 or more, given {start}")
    if fps is not None and not 0 < fps <= 1000:
        raise VideoError(f"fps must be above 0 and at most 1000, given {fps}")
    if size is not None:
        _check_size(size)


def _check_size(size) -> tuple[int, int]:
    """Return size as two integers (H, W) or raise VideoError."""
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise VideoError(f"size must be (H, W), two positive integers, given {tuple(size)}")
    return int(size[0]), int(size[1])


def _check_file(path: Path) -> None:
    """Raise VideoError where there is nothing to open."""
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")


def _check_result(path: Path, num_read: int, num_seen: int, num_frames: int | None, start: int) -> None:
    """Raise VideoError where the file had fewer frames than were asked for, or stops before its stated end."""
    if num_frames is not None and num_read == num_frames:
        return
    if _is_cut_short(path):
        rest = f"its first {num_seen} frames can be read by giving num_frames" if num_seen else "no frame can be read"
        raise VideoError(f"{path}: the file is cut short; {rest}")
    if num_seen == 0:
        raise VideoError(f"{path}: a video stream with zero frames")
    if num_frames is None and num_read == 0:
        raise VideoError(f"{path}: has {num_seen} frames, so none from start={start} on")
    if num_frames is not None:
        raise VideoError(f"{path}: has {num_seen} frames, but start={start} and num_frames={num_frames} were asked for")


def _is_cut_short(path: Path) -> bool:
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


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple]:
    """Open a file for decoding and choose its first stream of pictures; raise VideoError where there is none."""
    cut = "; the file is cut short" if _is_cut_short(path) else ""
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not a video file that can be read ({_reason(error)}{cut})") from None
    with container:
        if container.format.name == "tty":  # FFmpeg would draw a text file as pictures of its letters
            raise VideoError(f"{path}: not a video file that can be read (it is a text file)")
        # The cover picture of a sound file is a video stream to FFmpeg, not to a person.
        streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
        if not streams:
            coded = [(s.type, getattr(s.codec_context, "name", "unknown")) for s in container.streams]
            found = ", ".join(f"{kind} ({codec})" for kind, codec in coded)
            raise VideoError(f"{path}: no video in this file; it holds {found or 'no streams at all'}{cut}")
        if streams[0].codec_context is None:
            raise VideoError(f"{path}: its video is coded in a format that this FFmpeg cannot decode")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _rate(stream) -> float:
    """Return the average frame rate; 25 where the file states none (single pictures)."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _pictures(container, stream) -> Iterator:
    """Decode pictures in the order they are shown."""
    yield from container.decode(stream)


def _retime(pictures: Iterator, rate: float, fps: float | int) -> Iterator:
    """Yield, for k = 0, 1, ..., the picture that is on the screen k / fps seconds after the first one."""
    first, shown, count, end = None, None, 0, 0.0
    for index, picture in enumerate(pictures):
        time = index / rate if picture.time is None else picture.time
        first = time if first is None else first
        begin = time - first
        # The small margin keeps a picture that starts at k / fps up to rounding from coming one frame late.
        while shown is not None and count / fps < begin - 1e-4:
            yield shown
            count += 1
        shown, end = picture, begin + 1 / rate
    while shown is not None and count / fps < end - 1e-4:
        yield shown
        count += 1


def _upright(picture, size: tuple[int, int] | None) -> UInt8[AnyArray, "H W 3"]:
    """Convert a decoded picture to RGB, turn it as its metadata says, and resize it."""
    frame = picture.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(picture, "rotation", 0) / 90) % 4  # degrees against the clock, as np.rot90 turns
    frame = np.ascontiguousarray(np.rot90(frame, quarter_turns))
    return frame if size is None else resize(frame, size)


def check_writable(path: str | os.PathLike, fps: float | int | None) -> None:
    """Raise VideoError for rates and file endings that cannot be written, before there are frames."""
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise VideoError(f"{path}: cannot write files ending in {path.suffix!r}; available: {', '.join(_SUFFIXES)}")
    if fps is None or not 0 < fps <= 1000:
        raise VideoError(f"{path}: frames need fps, above 0 and at most 1000, given {fps}")


def _checked(path: Path, frames, *, pad: bool, notify: Callable[[str], None]) -> tuple[tuple[int, int], Iterator]:
    """Return the size (H, W) to be written and an iterator over the pictures, checked one by one.

    With `pad` the last row or column is repeated where a size is odd.
    """
    rest = map(np.asarray, frames)
    first = next(rest, np.zeros((0, 0, 3), np.uint8))
    shape = first.shape
    if first.dtype != np.uint8 or len(shape) != 3 or shape[-1] != 3 or 0 in shape:
        raise VideoError(
            f"{path}: expected frames [T H W 3], T >= 1, uint8, given {first.dtype} and one frame of {list(shape)}"
        )
    bottom, right = (shape[0] % 2, shape[1] % 2) if pad else (0, 0)
    size = (shape[0] + bottom, shape[1] + right)
    if bottom or right:
        sizes = f"{shape[1]}x{shape[0]} is written as {size[1]}x{size[0]}"
        notify(f"{path}: H.264 needs even sizes, so {sizes} (last row or column repeated)")

    def finish(picture):
        if picture.shape != shape or picture.dtype != np.uint8:
            given = f"{picture.dtype} {list(picture.shape)}"
            raise VideoError(f"{path}: expected frames like the first one, uint8 {list(shape)}, given {given}")
        return np.ascontiguousarray(np.pad(picture, ((0, bottom), (0, right), (0, 0)), mode="edge"))

    return size, map(finish, itertools.chain([first], rest))


def _encode_h264(
    path: Path, pictures: Iterator, size: tuple[int, int], rate: Fraction, *, crf: int, lossless: bool, carry
) -> None:
    """Encode with x264: in YUV 4:2:0 for players and browsers, or exactly in RGB; `carry` adds sound to a container."""
    # faststart puts the index first, so that a browser can play while it still loads.
    flags = {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
    with av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.options = {"crf": "0" if lossless else str(crf), "preset": "medium"}
        if not lossless:  # name the matrix of the conversion below; else players guess it from the picture's size
            stream.options |= {"x264-params": "colormatrix=smpte170m:colorprim=bt709:transfer=bt709:range=tv"}
        with contextlib.nullcontext(lambda _: None) if carry is None else carry(target=container) as mix:
            for count, frame in enumerate(pictures, 1):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                container.mux(stream.encode(picture))
                mix(float(count / rate))
            container.mux(stream.encode(None))


def _encode_gif(path: Path, pictures: Iterator, size: tuple[int, int], rate: Fraction) -> None:
    """Encode a looping GIF with a palette of 256 colours chosen from all of its frames."""
    height, width = size
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=1 / rate)
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    count = 0
    for index, frame in enumerate(pictures):
        picture, count = av.VideoFrame.from_ndarray(frame, format="rgb24"), index + 1
        picture.pts, picture.time_base = index, 1 / rate
        source.push(picture)
    source.push(None)
    with av.open(str(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for _ in range(count):
            container.mux(stream.encode(sink.pull()))
        container.mux(stream.encode(None))


def _reason(error: Exception) -> str:
    """Return what FFmpeg or the system says about an error, without its number and file name."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


@contextlib.contextmanager
def open_stream(path: str | os.PathLike) -> Iterator[tuple]:
    """Open a file for whoever decodes it picture by picture; yield PyAV's container and its first stream of pictures.

    Raises VideoError as `read` does for what cannot be opened.
    """
    _check_file(Path(path))
    with _open(Path(path)) as (container, stream):
        yield container, stream
