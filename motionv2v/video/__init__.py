"""Read, write and resize video files; the modules of this folder are all that knows codecs.

Frames are uint8 RGB, [T H W 3], values 0 to 255. Decoding and encoding go through PyAV, whose wheel carries FFmpeg and
x264, so no program has to be installed beside Python. Everything that can be wrong with a person's file ends in a
`VideoError` of one line that names the file and says what was found.

A resize keeps the coordinate convention of the package: a point at `xy` moves to `xy * (new / old)`.
"""

import contextlib
import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Colorspace

from motionv2v import files, stacks
from motionv2v.typing import AnyArray, Num, UInt8
from motionv2v.video import colours, decoding
from motionv2v.video.decoding import MAX_FPS, Decoder, VideoError
from motionv2v.video.sound import beside

MAX_BYTES = 8 * 2**30
"""Largest clip that `read` returns, in bytes of decoded frames; a longer file needs num_frames or a smaller size."""

_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif")
X264: tuple[str, ...] = ()
"""Further parameters of the encoder. With its trees of macroblocks x264 does not write the same bytes of the same
pictures each time; ("mbtree=0",) makes it, for more bytes at the same quality."""


class Clip(NamedTuple):
    """Hold the frames of a video (uint8 RGB) and their rate in frames per second."""

    frames: UInt8[AnyArray, "T H W 3"] | stacks.Lazy
    fps: float | int


def read(
    path: str | os.PathLike,
    num_frames: int | None = None,
    size: tuple[int, int] | None = None,
    start: int = 0,
    fps: float | int | None = None,
    *,
    notify: Callable[[str], None] = warnings.warn,
    stream: bool = False,
) -> Clip:
    """Read frames `start` to `start + num_frames` of a video file, or all frames from `start` on.

    Pictures are turned and mirrored as the file says (telephones), their pixels made square, and their colours those of
    BT.709 in standard range. `size` is (H, W) in pixels of the upright picture; the picture is stretched to it. With
    `fps=None` the result has the file's own rate; where that varies, pictures are repeated or left out on a constant
    one. With a number, frame k is the picture that a player shows k / fps seconds after the first one. `start` and
    `num_frames` count the frames of the result.

    `notify` is called with a sentence for whatever makes the frames differ from what the file stores: a variable rate,
    high dynamic range or wide colours, damaged pictures, pictures that change their size.

    With `stream` the frames are a stack (`stacks.zeros`): of a long clip they are not in memory.

    Raises VideoError for a missing, empty, truncated or unreadable file, one without pictures (it says which streams
    there are), fewer frames than asked for, clips above `MAX_BYTES`, and rates above 1000 frames a second.
    """
    path = Path(path)
    _check_request(num_frames, size, start, fps)
    decoder = Decoder(path)
    stop = None if num_frames is None else start + num_frames
    expected = decoder.num_frames if fps is None else int(decoder.num_frames * fps / decoder.fps) + 1
    shape = (*(size or decoder.shown), 3)
    # Memory that is never written to costs nothing, so one frame too many is no waste.
    held = min(min(expected, stop or expected) - start, MAX_BYTES // math.prod(shape))
    frames = (stacks.zeros if stream else np.empty)((max(1, held), *shape), np.uint8)
    seen = count = 0
    with contextlib.closing(decoder.pictures(fps)) as pictures:
        for picture, times in pictures:
            wanted = min(seen + times, stop or seen + times) - max(seen, start)
            seen += times
            if wanted > 0:
                frames = _make_room(path, frames, count + wanted)
                # A part of an array is drawn into in its place; that of a stored stack has to be put back.
                frames[count] = decoder.convert(picture, size, frames[count])
                for t in range(count + 1, count + wanted):
                    frames[t] = frames[count]
                count += wanted
            if stop is not None and seen >= stop:
                break
    _check_result(path, count, min(seen, stop or seen), num_frames, start)
    for note in decoder.notes:
        notify(f"{path}: {note}")
    return Clip(frames[:count], float(fps or decoder.fps))


def measure(path: str | os.PathLike) -> tuple[int, tuple[int, int]]:
    """Return about how many frames `read` would return of a file, and their size (H, W); without decoding them.

    Raises VideoError as `read` does for what cannot be opened.
    """
    decoder = Decoder(path)
    return decoder.num_frames, decoder.shown


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
    """Write frames as a file that browsers play (H.264 in .mp4, .mov, .mkv; VP9 in .webm; .gif); return the path.

    The file appears whole or not at all (`files.partial`). Frames may come one by one from an iterator, so that a long
    video is never in memory. `fps` may be left out when `video` is a Clip. Chroma subsampling needs even sizes; an odd
    one is padded by repeating the last row or column. `lossless=True` keeps every pixel and any size (H.264 in RGB at
    crf 0, which browsers do not play). `crf` is x264's quality, 0 best to 51 worst. `sound` names a file whose sound is
    written along, from that file's first picture on, for as long as there are frames (`video.sound`). `notify` is
    called with a sentence for padding, and for sound that is changed or cannot be carried over.

    Raises VideoError for an unknown ending, frames that are not uint8 [T H W 3] with T >= 1, or a missing frame rate.
    """
    path = Path(path)
    frames, fps = (video.frames, fps or video.fps) if isinstance(video, Clip) else (video, fps)
    check_writable(path, fps)
    is_gif = path.suffix.lower() == ".gif"
    if lossless and path.suffix.lower() == ".webm":
        raise VideoError(f"{path}: lossless files end in .mp4, .mov or .mkv")
    if is_gif and sound is not None:
        notify(f"{path}: a GIF holds no sound")
    size, pictures = _checked(path, frames, pad=not is_gif and not lossless, notify=notify)
    try:
        with files.partial(path) as unfinished:
            rate = Fraction(fps).limit_denominator(1001)
            carry = None if sound is None else functools.partial(beside, sound, notify=notify)
            if is_gif:
                _encode_gif(unfinished, pictures, size, rate)
            elif path.suffix.lower() == ".webm":
                _encode_vp9(unfinished, pictures, size, rate, carry=carry)
            else:
                _encode_h264(unfinished, pictures, size, rate, crf=crf, lossless=lossless, carry=carry)
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be written ({decoding.reason(error)})") from None
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
    out = np.empty((*frames.shape[:-3], height, width, channels), frames.dtype)
    for index in np.ndindex(*frames.shape[:-3]):
        picture = colours.resize(np.ascontiguousarray(frames[index]), height, width)
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
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise VideoError(f"fps must be above 0 and at most {MAX_FPS}, given {fps}")
    if size is not None:
        _check_size(size)


def _check_size(size) -> tuple[int, int]:
    """Return size as two integers (H, W) or raise VideoError."""
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise VideoError(f"size must be (H, W), two positive integers, given {tuple(size)}")
    return int(size[0]), int(size[1])


def _check_result(path: Path, num_read: int, num_seen: int, num_frames: int | None, start: int) -> None:
    """Raise VideoError where the file had fewer frames than were asked for, or stops before its stated end."""
    if num_frames is not None and num_read == num_frames:
        return
    if decoding.is_cut_short(path):
        rest = f"its first {num_seen} frames can be read by giving num_frames" if num_seen else "no frame can be read"
        raise VideoError(f"{path}: the file is cut short; {rest}")
    if num_seen == 0:
        raise VideoError(f"{path}: a video stream with zero frames")
    if num_frames is None and num_read == 0:
        raise VideoError(f"{path}: has {num_seen} frames, so none from start={start} on")
    if num_frames is not None:
        raise VideoError(f"{path}: has {num_seen} frames, but start={start} and num_frames={num_frames} were asked for")


def _make_room(
    path: Path, frames: UInt8[AnyArray, "T H W 3"] | stacks.Lazy, count: int
) -> UInt8[AnyArray, "S H W 3"] | stacks.Lazy:
    """Return the frames in an array that holds at least `count` of them; raise VideoError above MAX_BYTES."""
    most = MAX_BYTES // math.prod(frames.shape[1:])
    if count > most:
        raise VideoError(f"{path}: more than {MAX_BYTES // 2**30} GiB of frames; give num_frames or a smaller size")
    if count <= len(frames):
        return frames
    return stacks.lengthened(frames, min(most, max(count, len(frames) * 5 // 4)))


def check_writable(path: str | os.PathLike, fps: float | int | None) -> None:
    """Raise VideoError for rates and file endings that cannot be written, before there are frames."""
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise VideoError(f"{path}: cannot write files ending in {path.suffix!r}; available: {', '.join(_SUFFIXES)}")
    if fps is None or not 0 < fps <= MAX_FPS:
        raise VideoError(f"{path}: frames need fps, above 0 and at most {MAX_FPS}, given {fps}")
    if path.suffix.lower() == ".gif" and fps > 100:
        raise VideoError(f"{path}: a GIF holds at most 100 frames a second, given {fps}")


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
    with av.open(decoding.url(path), "w", options=flags) as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.options = {"crf": "0" if lossless else str(crf), "preset": "medium"}
        if not lossless:  # say what the conversion below makes; it is also what players guess that read no tags
            matrix = "bt709" if colours.matrix_for(*size) == Colorspace.ITU709 else "smpte170m"
            tags = f"colormatrix={matrix}:colorprim=bt709:transfer=bt709:fullrange=off:chromaloc=1"
            stream.options |= {"x264-params": ":".join([tags, *X264])}
        converter = colours.Converter()
        with contextlib.nullcontext(lambda _: None) if carry is None else carry(target=container) as mix:
            for count, frame in enumerate(pictures, 1):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24") if lossless else converter.to_yuv(frame)
                container.mux(stream.encode(picture))
                mix(float(count / rate))
            container.mux(stream.encode(None))


def _encode_vp9(path: Path, pictures: Iterator, size: tuple[int, int], rate: Fraction, *, carry) -> None:
    """Encode with libvpx in YUV 4:2:0, at a quality near that of x264's default here; `carry` adds sound."""
    with av.open(decoding.url(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        converter = colours.Converter()
        with contextlib.nullcontext(lambda _: None) if carry is None else carry(target=container) as mix:
            for count, frame in enumerate(pictures, 1):
                container.mux(stream.encode(converter.to_yuv(frame)))
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
    with av.open(decoding.url(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for _ in range(count):
            container.mux(stream.encode(sink.pull()))
        container.mux(stream.encode(None))
