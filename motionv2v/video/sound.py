"""Carry the sound of one video file over to another that is being written, without decoding it where that can be.

Sound that browsers play in MP4 is copied packet by packet; any other becomes AAC, in WebM Opus. Pictures
and sound keep the distance in time that they have in the file: time 0 is that of the file's first picture.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av

COPIED = ("aac", "mp3", "opus", "flac")
"""Codecs that are copied where the container takes them: those that browsers play in MP4."""

_NOT_IN_MOV = ("opus", "flac")  # FFmpeg lists them for QuickTime too, and fails when the header is written

_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # those of AAC
_BIT_RATE = 96_000  # bits per second and channel

Mix = Callable[[float], None]


@contextlib.contextmanager
def beside(source: str | os.PathLike, target: Any, notify: Callable[[str], None]) -> Iterator[Mix]:
    """Add the first sound stream of a file to a PyAV container that is being written.

    Args:
        source: the file; one without sound adds nothing.
        target: the container, with its other streams added and nothing muxed yet.
        notify: called with a sentence where the sound is changed, breaks off, or cannot be carried over.

    Yields:
        A function that muxes the sound up to a time in seconds, to be called with rising times as pictures are muxed.
        What is never asked for is left out.
    """
    with contextlib.ExitStack() as stack:
        try:
            # The "file:" keeps FFmpeg from taking a name with a colon for a protocol.
            container = stack.enter_context(av.open(f"file:{os.fspath(source)}"))
            packets = _packets(container, target, notify) if container.streams.audio else iter(())
            packets = _ahead(packets)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            notify(f"the sound of {source} cannot be carried over ({_reason(error)}): the result has none")
            packets = iter(())
        waiting: list[tuple[float, Any]] = []
        reached = 0.0

        def mix(seconds: float) -> None:
            nonlocal reached, packets
            try:
                while waiting or (item := next(packets, None)):
                    time, packet = waiting.pop() if waiting else item
                    if time >= seconds:
                        waiting.append((time, packet))
                        break
                    target.mux(packet)
                    reached = time
            except (av.error.FFmpegError, OSError, ValueError) as error:
                notify(f"the sound of {source} is damaged after {reached:.1f} s and ends there ({_reason(error)})")
                packets = iter(())

        yield mix


def _ahead(packets: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """Make the first packet now, so that sound which cannot be read at all gets no stream in the target."""
    first = next(packets, None)
    return iter(()) if first is None else chain([first], packets)


def _packets(container: Any, target: Any, notify: Callable[[str], None]) -> Iterator[tuple[float, Any]]:
    """Yield (time in seconds, packet) of the sound, in order, for a stream that is added to the target first."""
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise ValueError("it is coded in a format that this FFmpeg does not know")
    if len(container.streams.audio) > 1:
        notify(f"of {len(container.streams.audio)} sound streams the first is carried over")
    pictures = next(iter(container.streams.video), None)
    start = Fraction(0)
    if pictures is not None and pictures.start_time is not None:
        start = pictures.start_time * pictures.time_base
    codec = stream.codec_context.name.removesuffix("float").removesuffix("_fixed")
    is_taken = codec in target.supported_codecs and not (target.format.name == "mov" and codec in _NOT_IN_MOV)
    if codec in COPIED and is_taken:
        yield from _copied(container, stream, target, start)
    else:
        made = "libopus" if target.format.name == "webm" else "aac"
        notify(f"sound coded as {codec} is written as {'Opus' if made == 'libopus' else 'AAC'}")
        yield from _encoded(container, stream, target, start, made)


def _copied(container: Any, stream: Any, target: Any, start: Fraction) -> Iterator[tuple[float, Any]]:
    """Copy packets. One before the first that is heard is kept: decoders need it to begin."""
    copy, offset = None, round(start / stream.time_base)
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size or packet.pts + 2 * (packet.duration or 0) <= offset:
            continue
        copy = copy or target.add_stream_from_template(stream)
        packet.pts, packet.dts = packet.pts - offset, packet.pts - offset
        packet.stream = copy
        yield float(packet.pts * stream.time_base), packet


def _encoded(container: Any, stream: Any, target: Any, start: Fraction, coder: str) -> Iterator[tuple[float, Any]]:
    """Decode, and encode as AAC or Opus, in one channel or two."""
    rates = (8000, 12000, 16000, 24000, 48000) if coder == "libopus" else _RATES
    made = None
    for frame in container.decode(stream):
        at = frame.pts * frame.time_base - start
        if at + Fraction(frame.samples, frame.sample_rate) <= 0:
            continue
        if made is None:
            rate = frame.sample_rate if frame.sample_rate in rates else 48000
            layout = "mono" if len(frame.layout.channels) == 1 else "stereo"
            made = target.add_stream(coder, rate=rate, layout=layout)
            made.bit_rate = _BIT_RATE * len(made.layout.channels)
        frame.pts = round(at / frame.time_base)
        yield from ((float(packet.pts * packet.time_base), packet) for packet in made.encode(frame))
    if made is not None:
        yield from ((float(packet.pts * packet.time_base), packet) for packet in made.encode(None))


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
