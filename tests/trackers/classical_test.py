"""Lucas-Kanade on textures whose motion is known exactly, and on real clips out and back."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from motionv2v import trackers, video

CLIPS = Path(__file__).parents[3] / "shared" / "clips"


def texture(seed, height, width, smooth):
    """Smooth coloured noise over a torus, as Fourier coefficients: it can be shifted by any fraction of a pixel."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    y, x = np.fft.fftfreq(height)[:, None, None], np.fft.fftfreq(width)[None, :, None]
    return np.fft.fft2(noise, axes=(0, 1)) * np.exp(-2 * (np.pi * smooth) ** 2 * (x**2 + y**2)), x, y


def sliding(shifts, height=64, width=64, seed=0, smooth=1.5):
    """Frames of one texture moved by `shifts` [T 2] pixels (x, y), exactly, by the Fourier shift theorem."""
    spectrum, x, y = texture(seed, height, width, smooth)
    frames = [np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (x * dx + y * dy)), axes=(0, 1)).real for dx, dy in shifts]
    frames = np.stack(frames)
    return np.clip(128 + 45 * frames / frames.std(), 0, 255).round().astype(np.uint8)


def path(num_frames, speed):
    return np.arange(num_frames)[:, None] * np.asarray(speed, float)


@pytest.mark.parametrize("height, width", [(64, 64), (120, 160)])
@pytest.mark.parametrize("query_frame", [0, 4, 8])
def test_translation_is_followed_to_a_fraction_of_a_pixel(height, width, query_frame):
    shifts = path(9, (1.37, -0.61))
    xy = np.array([[30.5, 31.0], [22.25, 40.75], [28.0, 26.1]]) + [0, 8]
    queries = np.column_stack([np.full(3, query_frame), xy])
    tracks = trackers.get("classical").track(sliding(shifts, height, width), queries)
    assert tracks.xy.dtype == np.float32 and tracks.visible.dtype == bool and tracks.visible.all()
    expected = xy[:, None] + shifts - shifts[query_frame]
    # uint8 rounding, the enlarging of small frames and chained steps leave some hundredths of a pixel.
    np.testing.assert_allclose(tracks.xy, expected, atol=0.12)
    # A convention converted on one side only would show as a common bias of half a pixel.
    assert np.abs((tracks.xy - expected).mean(axis=(0, 1))).max() < 0.05


def test_fast_motion_is_followed():
    shifts = path(5, (6.0, 3.0))  # a tenth of the frame in every step
    tracks = trackers.get("classical").track(sliding(shifts, smooth=3), np.array([[2, 32.0, 32.0]]))
    assert tracks.visible.all()
    np.testing.assert_allclose(tracks.xy[0], 32 + shifts - shifts[2], atol=0.2)


def test_rotation_and_zoom_are_followed_from_the_middle():
    big = sliding(np.zeros((1, 2)), 128, 128, smooth=3)[0]
    frames, expected = [], []
    for t in range(-4, 5):
        # cv2 has pixel centres at whole numbers: the centre of a 128 pixel frame is 63.5 there and 64 here.
        matrix = cv2.getRotationMatrix2D((63.5, 63.5), 2.0 * t, 1.02**t)
        frames.append(cv2.warpAffine(big, matrix, (128, 128), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
        expected.append(matrix @ [80 - 0.5, 50 - 0.5, 1] + 0.5)
    tracks = trackers.get("classical").track(np.stack(frames), np.array([[4, 80.0, 50.0]]))
    assert tracks.visible.all()
    # warpAffine places pixels to 1/32 pixel, and windows do not rotate with the picture.
    np.testing.assert_allclose(tracks.xy[0], expected, atol=0.25)


def test_positions_are_counted_from_the_corner():
    big = sliding(np.zeros((1, 2)), 128, 128, smooth=3)[0]
    frames = []
    for t in range(9):
        zoom = 2 ** (t / 8)  # about the corner of the top-left pixel, which is (-0.5, -0.5) to cv2
        matrix = np.array([[zoom, 0, (zoom - 1) / 2], [0, zoom, (zoom - 1) / 2]])
        frames.append(cv2.warpAffine(big, matrix, (128, 128), flags=cv2.INTER_CUBIC))
    queries = np.array([[0, x, y] for x in range(20, 56, 5) for y in range(20, 56, 5)], float)
    tracks = trackers.get("classical", max_change=None).track(np.stack(frames), queries)
    error = (tracks.xy[:, -1] - 2 * queries[:, 1:])[tracks.visible[:, -1]]
    assert len(error) > 48
    # With (0, 0) taken for the pixel's centre every point would end half a pixel off. Windows do not grow with the
    # picture, so single points drift by more than that; the median over 64 does not.
    np.testing.assert_allclose(np.median(error, axis=0), 0, atol=0.2)


def passing_bar():
    """A still texture behind a bar of another one that passes to the right, and the left edge of the bar per frame."""
    frames = np.repeat(sliding(np.zeros((1, 2)), seed=1), 13, axis=0).copy()
    bar = sliding(np.zeros((1, 2)), seed=2)[0]
    edges = np.arange(13) * 5 - 10
    for frame, edge in zip(frames, edges, strict=True):
        left, right = max(0, edge), max(0, min(64, edge + 14))
        frame[:, left:right] = 255 - bar[:, left - edge : right - edge]
    return frames, edges


@pytest.mark.parametrize("query_frame", [0, 12])
def test_covered_points_are_hidden_and_found_again(query_frame):
    frames, edges = passing_bar()
    tracks = trackers.get("classical").track(frames, np.array([[query_frame, 32.0, 30.0]]))
    covered = (edges + 3 < 32) & (32 < edges + 11)  # by more than 3 pixels; at the bar's edges either answer is fair
    clear = (edges - 8 > 32) | (edges + 22 < 32)
    assert covered.any() and not tracks.visible[0, covered].any()
    assert tracks.visible[0, clear].all()
    # A point found again while the bar is still in its window is drawn to it a little, and carries that on.
    np.testing.assert_allclose(tracks.xy[0, clear], [[32, 30]] * clear.sum(), atol=0.35)


def test_without_reacquire_a_lost_point_stays_lost():
    frames, _ = passing_bar()
    visible = trackers.get("classical", reacquire=False).track(frames, np.array([[0, 32.0, 30.0]])).visible[0]
    lost = np.flatnonzero(~visible)[0]
    assert not visible[lost:].any()


def test_points_that_leave_the_frame_are_hidden_and_keep_their_last_position():
    shifts = path(9, (4.0, 0.0))
    tracks = trackers.get("classical").track(sliding(shifts, 128, 128), np.array([[0, 110.0, 60.0]]))
    x = 110 + shifts[:, 0]
    assert tracks.visible[0, x < 118].all() and not tracks.visible[0, x > 128].any()
    assert ((tracks.xy >= 0) & (tracks.xy <= 128)).all()
    last = np.flatnonzero(tracks.visible[0])[-1]
    np.testing.assert_array_equal(tracks.xy[0, last:], np.broadcast_to(tracks.xy[0, last], (9 - last, 2)))


def test_points_are_tracked_alone_as_together_and_time_reversal_mirrors_them():
    frames = sliding(path(7, (1.2, 0.7)))
    rng = np.random.default_rng(0)
    queries = np.column_stack([rng.integers(0, 7, 6), rng.uniform(16, 48, (6, 2))])
    tracker = trackers.get("classical")
    together = tracker.track(frames, queries)
    alone = [tracker.track(frames, query[None]) for query in queries]
    # Cut-outs around different points differ at their borders only.
    np.testing.assert_allclose(together.xy, np.concatenate([part.xy for part in alone]), atol=0.05)
    backward = tracker.track(frames[::-1], queries * [-1, 1, 1] + [6, 0, 0])
    np.testing.assert_array_equal(backward.xy[:, ::-1], together.xy)
    np.testing.assert_array_equal(backward.visible[:, ::-1], together.visible)


def test_no_queries_and_single_frames():
    frames = sliding(path(3, (1, 0)))
    assert trackers.get("classical").track(frames, np.zeros((0, 3))).xy.shape == (0, 3, 2)
    single = trackers.get("classical").track(frames[:1], np.array([[0, 0.0, 64.0]]))  # on the border, still inside
    np.testing.assert_array_equal(single.xy, [[[0, 64]]])
    assert single.visible.all()


@pytest.mark.parametrize(
    "query, message",
    [
        ((0.5, 3, 3), "whole frame index"),
        ((3, 3, 3), "frames are 0 to 2"),
        ((-1, 3, 3), "frames are 0 to 2"),
        ((0, 64.5, 3), "outside the frame of 64x64"),
        ((0, 3, -0.1), "outside the frame of 64x64"),
        ((0, np.nan, 3), "finite"),
    ],
)
def test_bad_queries_are_named(query, message):
    with pytest.raises(ValueError, match=rf"query 1 .*{message}"):
        trackers.get("classical").track(sliding(path(3, (0, 0))), np.array([(0.0, 3.0, 3.0), query]))


FRAMES = sliding(path(3, (0, 0)))
WRONG_FRAMES = {
    "float": (FRAMES / 255.0, r"given float64 \[3, 64, 64, 3\]; of floats from 0 to 1, \(255 \* frames\)"),
    "rgba": (FRAMES[..., [0, 1, 2, 0]], r"given uint8 \[3, 64, 64, 4\]; of RGBA, frames\[\.\.\., :3\]"),
    "grey": (FRAMES[..., 0], r"given uint8 \[3, 64, 64\]$"),
    "wide": (FRAMES.astype(np.int64), r"given int64 \[3, 64, 64, 3\]$"),
    "none": (FRAMES[:0], r"given uint8 \[0, 64, 64, 3\]$"),
}


@pytest.mark.parametrize("frames", WRONG_FRAMES)
@pytest.mark.parametrize("name", ["lk", "dis", "multistep", "tapnext"])
def test_frames_of_another_kind_are_refused_by_all_trackers(name, frames):
    frames, message = WRONG_FRAMES[frames]
    tapnext = object.__new__(trackers.TapNextTracker)  # it looks at the frames before it uses its weights
    tracker = tapnext if name == "tapnext" else trackers.get("classical", mode=name)
    calls = [lambda: plain(type(tracker).track_with_confidence)(tracker, frames, np.array([(0.0, 3.0, 3.0)]))]
    if hasattr(tracker, "for_clip"):
        calls.append(lambda: plain(type(tracker).for_clip)(tracker, frames))
    for call in calls:
        with pytest.raises(ValueError, match=rf"frames to track must be uint8 RGB \[T H W 3\], .*{message}"):
            call()


def plain(function):
    """The function under the shape checks of the tests: a person's call has none."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cotracker", {}, "available: .*classical"),
        ("classical", dict(mode="raft"), "available: lk"),
        ("classical", dict(colour=1), "available options: mode, max_error"),
        ("classical", dict(windows=(20,)), "odd numbers"),
        ("classical", dict(max_error=0), "above 0"),
        ("classical", dict(levels=9), "0 to 8"),
        ("classical", dict(min_side=-1), "0 to 2048"),
        ("classical", dict(max_change=0), "above 0"),
    ],
)
def test_get_says_what_is_available(name, options, message):
    get = getattr(trackers.get, "__wrapped__", trackers.get)
    with pytest.raises(ValueError, match=message):
        get(name, **options)


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"needs the real clips in {CLIPS}; put folder shared/clips there")
def test_real_clip_out_and_back():
    frames = video.read(CLIPS / "juggle.mp4", num_frames=13, size=(240, 360)).frames
    x, y = np.meshgrid(np.arange(30, 360, 60), np.arange(30, 240, 60))
    tracker = trackers.get("classical")
    start = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    out = tracker.track(frames, np.column_stack([np.zeros(len(start)), start]))
    kept = out.visible[:, -1]
    back = tracker.track(frames, np.column_stack([np.full(kept.sum(), 12), out.xy[kept, -1]]))
    error = np.linalg.norm(back.xy[:, 0] - start[kept], axis=-1)
    # A static-ish camera: nearly all points must survive 12 frames; measured 100 % and 100 % within 4 pixels.
    assert kept.mean() > 0.8 and (error < 4).mean() > 0.9
