"""Colours of video files: by oracles in plain numpy, from the numbers that are stored to what is shown."""

import av
import cv2
import numpy as np
import pytest

from motionv2v import video
from motionv2v.data.videos.reader import Reader
from motionv2v.video import VideoError

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
NAMES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}  # as x264 calls the matrices
BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""ITU-R BT.2087, for linear light."""


def smooth(height=64, width=96, seed=0, low=0.0, high=1.0):
    """A soft picture of all colours, [H W 3] in low..high."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width, 3)).astype(np.float32), (0, 0), 5)
    noise = (noise - noise.min((0, 1))) / np.ptp(noise, (0, 1))
    return low + (high - low) * noise.astype(np.float64)


def to_yuv(signal, matrix, bits, full=False):
    """The numbers [H W 3] that stand for an RGB signal in 0..1, not rounded."""
    red, blue = WEIGHTS[matrix]
    luma = signal @ [red, 1 - red - blue, blue]
    chroma = [(signal[..., 2] - luma) / (2 - 2 * blue), (signal[..., 0] - luma) / (2 - 2 * red)]
    scale = 2 ** (bits - 8)
    if full:
        top = 2**bits - 1
        return np.stack([luma * top, *(c * top + 2 ** (bits - 1) for c in chroma)], -1)
    return np.stack([16 + 219 * luma, *(128 + 224 * c for c in chroma)], -1) * scale


def store(path, signal, matrix="bt709", bits=8, layout="444", count=2, tags="", full=False):
    """Write frames of one RGB signal as lossless H.264, its colours shared by pixels as `layout` says."""
    planes = to_yuv(signal, matrix, bits, full)
    across, down = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[layout]
    height, width = signal.shape[:2]
    shared = planes.reshape(height // down, down, width // across, across, 3).mean((1, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = height, width
        stream.pix_fmt = f"yuv{layout}p{'' if bits == 8 else f'{bits}le'}"
        stream.options = {"qp": "0", "x264-params": f"{tags}:fullrange={'on' if full else 'off'}".lstrip(":")}
        for _ in range(count):
            picture = av.VideoFrame(width, height, stream.pix_fmt)
            for plane, values in zip(
                picture.planes, [planes[..., 0], *np.moveaxis(shared[..., 1:], -1, 0)], strict=True
            ):
                size = 1 if bits == 8 else 2
                rows = np.zeros((plane.height, plane.line_size // size), f"<u{size}")
                rows[:, : plane.width] = np.round(values)
                plane.update(rows.tobytes())
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def tags(matrix, transfer="bt709", primaries="bt709"):
    return f"colormatrix={NAMES[matrix]}:transfer={transfer}:colorprim={primaries}"


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("bits, layout", [(8, "444"), (8, "422"), (8, "420"), (10, "420"), (10, "444")])
@pytest.mark.parametrize("full", [False, True])
def test_reading_neither_darkens_nor_shifts_colours(tmp_path, matrix, bits, layout, full):
    signal = smooth(low=0.15, high=0.85)  # nothing is clipped
    path = store(tmp_path / "a.mp4", signal, matrix, bits, layout, tags=tags(matrix), full=full)
    error = video.read(path).frames[0].astype(float) - 255 * signal
    assert np.abs(error.mean((0, 1))).max() < 0.25  # grey levels; it was 0.9, and 1.5 of green
    # Two roundings, and the mean colour of up to four pixels in place of each one's.
    assert np.abs(error).mean() < {"444": 0.6, "422": 2.0, "420": 2.5}[layout]


@pytest.mark.parametrize("layout, bits", [
    ("gray", 8), ("gray10le", 10), ("gray16le", 16), ("gbrp", 8), ("gbrp10le", 10), ("gbrp12le", 12), ("gbrp16le", 16),
])  # fmt: skip
def test_reading_neither_darkens_nor_lights_rgb_and_grey(tmp_path, layout, bits):
    signal = np.linspace(0, 1, 64 * 96).reshape(64, 96)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1" if layout != "gbrp" else "libx264rgb", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, layout if layout != "gbrp" else "rgb24"
        stream.options = {"crf": "0"} if layout == "gbrp" else {}
        picture = av.VideoFrame(96, 64, layout)
        for plane in picture.planes:
            rows = np.zeros((64, plane.line_size // (1 + (bits > 8))), "<u2" if bits > 8 else "u1")
            rows[:, :96] = np.round(signal * (2**bits - 1))
            plane.update(rows.tobytes())
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    error = video.read(tmp_path / "a.mkv").frames[0] - 255 * signal[..., None]
    assert np.abs(error.mean((0, 1))).max() < 0.05 and np.abs(error).max() < 0.7  # it was 0.5 lighter


@pytest.mark.parametrize("size, matrix", [
    ((480, 96), "bt601"), ((718, 96), "bt601"), ((720, 96), "bt709"), ((1080, 64), "bt709"), ((64, 1280), "bt709"),
])  # fmt: skip
def test_what_names_no_matrix_goes_by_its_size(tmp_path, size, matrix):
    signal = np.broadcast_to([0.2, 0.7, 0.4], (*size, 3))
    frame = video.read(store(tmp_path / "a.mp4", signal, matrix, count=1)).frames[0]
    assert np.abs(frame - 255 * signal).max() < 2  # the other matrix is 13 off


def test_real_pictures_survive_eight_rounds(clips, tmp_path):
    original = frames = video.read(clips / "juggle.mp4", 3).frames
    for _ in range(8):
        frames = video.read(video.write(tmp_path / "a.mp4", frames, 24, crf=1)).frames
    error = frames.astype(float) - original
    assert np.abs(error.mean((0, 1, 2))).max() < 0.25 and np.abs(error).mean() < 1  # it was 7 darker


def test_drawn_pictures_survive_eight_rounds(tmp_path):
    """As above, where there are no real clips; four pixels that share a colour have the same one."""
    picture = np.round(255 * smooth(32, 48, low=0.05, high=0.95)).astype(np.uint8)
    original = frames = picture.repeat(2, 0).repeat(2, 1)[None].repeat(3, 0)
    for _ in range(8):
        frames = video.read(video.write(tmp_path / "a.mp4", frames, 24, crf=1)).frames
    error = frames.astype(float) - original
    assert np.abs(error.mean((0, 1, 2))).max() < 0.25 and np.abs(error).mean() < 1  # it was 7 darker


@pytest.mark.parametrize("height", [480, 720])
def test_what_is_written_says_its_matrix_and_is_the_guess_of_those_who_do_not_read_it(tmp_path, height):
    colour = np.full((2, height, 64, 3), (60, 160, 90), np.uint8)
    with av.open(str(video.write(tmp_path / "a.mp4", colour, 24, crf=1))) as container:
        picture = next(container.decode(video=0))
        assert (picture.colorspace, picture.color_range) == (1 if height == 720 else 6, 1)
        planes = [np.frombuffer(plane, np.uint8)[0] for plane in picture.planes]
    expected = to_yuv(colour[0, :1, :1] / 255, "bt709" if height == 720 else "bt601", 8)
    np.testing.assert_allclose(planes, expected[0, 0], atol=1)


def test_a_mixed_edge_is_averaged_not_shifted(tmp_path):
    """Colours that are averaged over four pixels and repeated over them stay where they were, round after round."""
    frames = np.zeros((2, 64, 96, 3), np.uint8)
    frames[:, :, :48] = (220, 30, 30)
    frames[:, :, 48:] = (30, 30, 220)
    read = frames
    for _ in range(4):
        read = video.read(video.write(tmp_path / "a.mp4", read, 24, crf=0)).frames
    assert np.abs(read.astype(int) - frames).max() <= 4


# High dynamic range.


def pq(nits):
    powered = (np.maximum(nits, 0) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * powered) / (1 + 18.6875 * powered)) ** 78.84375


def hlg(nits):
    """The signal of display light [H W 3] in cd/m2 on a display of 1000 cd/m2: inverse system gamma, then the curve."""
    luminance = (nits @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = np.maximum(nits, 0) / 1000 * np.maximum(luminance / 1000, 1e-9) ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def shown(light):
    """What linear light of BT.709's primaries, 1 = white of standard range, becomes in 0..255."""
    light = np.clip(light, 0, None)
    peak = np.maximum(light.max(-1, keepdims=True), 1e-9)
    above = (peak - 0.8) / 0.2
    mapped = np.where(peak > 0.8, 0.8 + 0.2 * above / (1 + above), peak)
    return 255 * (light * mapped / peak) ** (1 / 2.4)


@pytest.mark.parametrize("transfer, curve", [("smpte2084", pq), ("arib-std-b67", hlg)])
@pytest.mark.parametrize("brightest", [0.75, 4.0])
def test_high_dynamic_range_is_tone_mapped(tmp_path, transfer, curve, brightest):
    """White of standard range is 203 cd/m2; up to 0.8 of it nothing changes, 4 times as bright is still not white."""
    light = smooth(low=0.01, high=brightest)
    signal = curve(203 * light @ np.linalg.inv(BT2020_TO_BT709).T)
    path = store(tmp_path / "a.mp4", signal, "bt2020", 10, tags=tags("bt2020", transfer, "bt2020"))
    notes = []
    frame = video.read(path, notify=notes.append).frames[0].astype(float)
    error = frame - shown(light)
    # Ten bits cannot tell the darkest colours beside bright ones apart, so a few pixels are further off.
    assert np.percentile(np.abs(error), 99) < 2.5 and np.abs(error.mean((0, 1))).max() < 0.25
    assert frame.max() < 255 and len(notes) == 1
    name = "PQ" if curve is pq else "HLG"
    assert f"high dynamic range ({name}, BT.2020) tone-mapped to standard range" in notes[0] and str(path) in notes[0]
    reader = Reader(path, (64, 96))
    np.testing.assert_array_equal(next(iter(reader)), frame)
    assert any("tone-mapped" in note for note in reader.notes)


def test_white_of_standard_range_in_a_picture_of_high_range_is_nearly_white(tmp_path):
    white = np.ones((64, 96, 3))
    path = store(tmp_path / "a.mp4", pq(203 * white), "bt2020", 10, tags=tags("bt2020", "smpte2084", "bt2020"))
    with pytest.warns(UserWarning, match="high dynamic range"):
        frame = video.read(path).frames[0]
    np.testing.assert_allclose(frame, 255 * 0.9 ** (1 / 2.4), atol=1)  # 244


@pytest.mark.parametrize("named", ["bt2020-10 bt2020", "bt2020-10 undef", "bt709 undef"])
def test_wide_colours_of_standard_range_are_converted(tmp_path, named):
    """Where a file leaves its primaries out, its matrix and transfer tell of them."""
    light = smooth(low=0.1, high=0.9) ** 2.4
    signal = np.clip(light @ np.linalg.inv(BT2020_TO_BT709).T, 0, 1) ** (1 / 2.4)
    path = store(tmp_path / "a.mp4", signal, "bt2020", 10, tags=tags("bt2020", *named.split()))
    notes = []
    frame = video.read(path, notify=notes.append).frames[0].astype(float)
    error = frame - 255 * light ** (1 / 2.4)
    assert np.percentile(np.abs(error), 99) < 2.5 and np.abs(error.mean((0, 1))).max() < 0.25  # unconverted: 14
    assert "wide colours (BT.2020) converted to those of BT.709" in notes[0]


def test_a_mistaken_size_of_high_range_is_tone_mapped_in_the_size_asked_for(tmp_path):
    light = np.full((64, 96, 3), 0.5)
    path = store(tmp_path / "a.mp4", pq(203 * light), "bt2020", 10, "420", tags=tags("bt2020", "smpte2084", "bt2020"))
    frame = video.read(path, size=(30, 40), notify=lambda _: None).frames[0]
    np.testing.assert_allclose(frame, 255 * 0.5 ** (1 / 2.4), atol=1.5)


def test_matrices_that_cannot_be_converted_are_named(tmp_path):
    path = store(tmp_path / "a.mp4", np.full((64, 96, 3), 0.5), tags="colormatrix=ictcp:transfer=bt709:colorprim=bt709")
    with pytest.warns(UserWarning, match="coded as ICtCp cannot be converted"):
        video.read(path)


@pytest.mark.parametrize("name", ["cups", "bunny", "flower", "car_topdown", "press"])
def test_real_clips_are_what_their_planes_say(clips, name):
    """Against the arithmetic of the standard on the decoder's own planes."""
    with av.open(str(clips / f"{name}.mp4")) as container:
        picture = next(container.decode(video=0))
        luma, *chroma = (
            np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width].astype(float)
            for p in picture.planes
        )
    red, blue = WEIGHTS["bt709" if picture.colorspace == 1 else "bt601"]
    luma, (u, v) = (luma - 16) / 219, ((np.kron(c, np.ones((2, 2))) - 128) / 224 for c in chroma)
    r, b = luma + (2 - 2 * red) * v, luma + (2 - 2 * blue) * u
    expected = 255 * np.clip(np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], -1), 0, 1)
    error = video.read(clips / f"{name}.mp4", 1).frames[0] - expected
    assert np.abs(error).max() < 1 and np.abs(error.mean()) < 0.1


def test_formats_that_are_not_planar_are_read_alike(tmp_path):
    """nv12 and packed 4:2:2 hold the numbers of their planar kin in another order."""
    frame = np.repeat(np.repeat(np.round(255 * smooth(32, 48, low=0.2, high=0.8)).astype(np.uint8), 2, 0), 2, 1)
    planar_kin, read = {"yuv420p": "yuv420p", "nv12": "yuv420p", "yuv422p": "yuv422p", "yuyv422": "yuv422p"}, {}
    for layout in planar_kin:
        with av.open(str(tmp_path / f"{layout}.nut"), "w") as container:
            stream = container.add_stream("rawvideo", rate=24)
            stream.height, stream.width, stream.pix_fmt = 64, 96, layout
            planar = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=planar_kin[layout])
            container.mux(stream.encode(planar.reformat(format=layout)))
            container.mux(stream.encode(None))
        read[layout] = video.read(tmp_path / f"{layout}.nut").frames[0]
    np.testing.assert_array_equal(read["nv12"], read["yuv420p"])
    np.testing.assert_array_equal(read["yuyv422"], read["yuv422p"])


def test_gif_of_more_frames_a_second_than_it_can_hold_is_refused(tmp_path):
    with pytest.raises(VideoError, match="a GIF holds at most 100 frames a second, given 240"):
        video.write(tmp_path / "a.gif", np.zeros((2, 8, 8, 3), np.uint8), 240)
    assert not list(tmp_path.iterdir())
