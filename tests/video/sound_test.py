"""Sound goes from one file to another: at its time, copied where browsers play it, and told where it cannot."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from motionv2v import video
from motionv2v.video import sound

RATE, FPS = 48000, 24
PICTURES = np.random.default_rng(0).integers(0, 256, (48, 32, 48, 3), np.uint8)  # two seconds
BEEP = 1.25
"""Seconds after the first picture at which the sound begins; it lasts a tenth of a second."""


def waveform(seconds=2.0, start=0.0):
    """Two channels, silent but for a beep `BEEP` seconds after time 0; begins at `start`."""
    t = start + np.arange(round(seconds * RATE)) / RATE
    beep = 0.5 * np.sin(2 * np.pi * 1000 * t) * ((t >= BEEP) & (t < BEEP + 0.1))
    return np.stack([beep, beep]).astype(np.float32)


def film(path, codec, *, sound_from=0.0, pictures_from=0.0, seconds=2.0, streams=1):
    """Write pictures and sound; each begins at its time on the file's clock. The beep follows the pictures."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS)
        pictures.height, pictures.width, pictures.pix_fmt = 32, 48, "yuv420p"
        sounds = [container.add_stream(codec, rate=RATE, layout="stereo") for _ in range(streams)]
        for i, frame in enumerate(PICTURES):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i + round(pictures_from * FPS), Fraction(1, FPS)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        for track in sounds:
            frame = av.AudioFrame.from_ndarray(waveform(seconds, sound_from - pictures_from), "fltp", "stereo")
            frame.rate, frame.pts, frame.time_base = RATE, round(sound_from * RATE), Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def listen(path):
    """Return the codec of a file's sound, the time of its beep and of its end, after the first picture, in seconds."""
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
        begin = container.streams.video[0].start_time * container.streams.video[0].time_base
        codec = container.streams.audio[0].codec_context.name.removesuffix("float")
        loud, end = None, 0.0
        for frame in container.decode(audio=0):
            at = float(frame.pts * frame.time_base - begin)
            samples = np.abs(frame.to_ndarray().reshape(len(frame.layout.channels), -1)[0].astype(float))
            samples /= 1 if frame.format.name.startswith("flt") else 2.0**15
            if loud is None and samples.max() > 0.25:
                loud = at + float(np.argmax(samples > 0.25)) / frame.sample_rate
            end = at + frame.samples / frame.sample_rate
    return codec, loud, end


CASES = {
    "aac.mp4": ("aac", "aac", []),
    "mp3.mp4": ("libmp3lame", "mp3", []),
    "opus.mkv": ("libopus", "opus", []),
    "aac.ts": ("aac", "aac", []),
    "pcm.mov": ("pcm_s16le", "aac", ["sound coded as pcm_s16le is written as AAC"]),
    "ac3.mkv": ("ac3", "aac", ["sound coded as ac3 is written as AAC"]),
}


@pytest.mark.parametrize("name", CASES)
def test_sound_is_heard_when_it_was(name, tmp_path, repeatable):
    coded, expected, notices = CASES[name]
    source, said = film(tmp_path / name, coded), []
    out = video.write(tmp_path / "edited.mp4", PICTURES, FPS, sound=source, notify=said.append)
    codec, beep, end = listen(out)
    assert said == notices and codec == expected
    # A coded beep swells over some milliseconds; an offset of one packet would be 21.
    assert beep == pytest.approx(BEEP, abs=0.012) and end == pytest.approx(2.0, abs=0.07)
    np.testing.assert_array_equal(
        video.read(out).frames, video.read(video.write(tmp_path / "mute.mp4", PICTURES, FPS)).frames
    )


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("coded", ["aac", "libmp3lame", "libopus", "flac"])
def test_what_a_container_does_not_take_is_coded_anew(coded, ending, tmp_path):
    """QuickTime takes neither Opus nor FLAC: then the whole file could not be written."""
    source, said = film(tmp_path / "clip.mkv", coded), []
    out = video.write(tmp_path / f"edited{ending}", PICTURES, FPS, sound=source, notify=said.append)
    codec, beep, _ = listen(out)
    name = coded.removeprefix("lib").removesuffix("lame")
    is_copied = ending != ".mov" or name in ("aac", "mp3")
    assert codec == (name if is_copied else "aac") and beep == pytest.approx(BEEP, abs=0.012)
    assert said == ([] if is_copied else [f"sound coded as {name} is written as AAC"])


@pytest.mark.parametrize(("sound_from", "pictures_from"), [(0.0, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_time_0_is_that_of_the_first_picture(codec, sound_from, pictures_from, tmp_path):
    source = film(tmp_path / "late.mkv", codec, sound_from=sound_from, pictures_from=pictures_from, seconds=2.5)
    out = video.write(tmp_path / "edited.mp4", PICTURES, FPS, sound=source, notify=lambda _: None)
    assert listen(out)[1] == pytest.approx(BEEP, abs=0.012)
    assert listen(out)[2] == pytest.approx(2.0, abs=0.07)


def test_sound_ends_with_the_pictures(tmp_path):
    source = film(tmp_path / "long.mp4", "aac", seconds=4.0)
    out = video.write(tmp_path / "edited.mp4", PICTURES[:36], FPS, sound=source)
    assert listen(out)[1:] == pytest.approx((BEEP, 1.5), abs=0.05)


def test_files_without_sound_add_none_and_say_nothing(tmp_path):
    source, said = video.write(tmp_path / "mute.mp4", PICTURES, FPS), []
    out = video.write(tmp_path / "edited.mp4", PICTURES, FPS, sound=source, notify=said.append)
    with av.open(str(out)) as container:
        assert not container.streams.audio and said == []


def test_what_cannot_be_carried_over_is_told(tmp_path):
    said = []
    source = film(tmp_path / "two.mkv", "aac", streams=2)
    video.write(tmp_path / "edited.gif", PICTURES[:4], FPS, sound=source, notify=said.append)
    video.write(tmp_path / "edited.mp4", PICTURES[:4], FPS, sound=source, notify=said.append)
    out = video.write(tmp_path / "gone.mp4", PICTURES[:4], FPS, sound=tmp_path / "none.mp4", notify=said.append)
    assert len(video.read(out).frames) == 4
    assert [line.removeprefix(f"{tmp_path}/") for line in said] == [
        "edited.gif: a GIF holds no sound",
        "of 2 sound streams the first is carried over",
        f"the sound of {tmp_path}/none.mp4 cannot be carried over (No such file or directory): the result has none",
    ]


def test_sound_that_is_damaged_ends_there_and_the_pictures_are_whole(tmp_path, monkeypatch):
    copied, said = sound._copied, []

    def break_off(*args):
        yield from itertools.islice(copied(*args), 71)  # packets of 1024 samples, the first one before time 0
        raise av.error.InvalidDataError(1, "Invalid data found")

    monkeypatch.setattr(sound, "_copied", break_off)
    source = film(tmp_path / "clip.mp4", "aac")
    out = video.write(tmp_path / "edited.mp4", PICTURES, FPS, sound=source, notify=said.append)
    assert said == [f"the sound of {source} is damaged after 1.5 s and ends there (Invalid data found)"]
    assert len(video.read(out).frames) == 48 and listen(out)[1:] == pytest.approx((BEEP, 1.5), abs=0.05)


def test_frames_may_come_one_by_one(tmp_path, repeatable):
    at_once = video.write(tmp_path / "a.mp4", PICTURES, FPS)
    in_turn = video.write(tmp_path / "b.mp4", (frame for frame in PICTURES), FPS)
    np.testing.assert_array_equal(video.read(in_turn).frames, video.read(at_once).frames)
    with pytest.raises(video.VideoError, match=r"like the first one, uint8 \[32, 48, 3\], given uint8 \[32, 40, 3\]"):
        video.write(tmp_path / "c.mp4", (frame[:, : 48 - 8 * (i == 3)] for i, frame in enumerate(PICTURES)), FPS)
    with pytest.raises(video.VideoError, match="T >= 1"):
        video.write(tmp_path / "c.mp4", iter(()), FPS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
