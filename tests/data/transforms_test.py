"""Transforms of video and tracks: pixels and points go together, index tables, and dropout statistics."""

import numpy as np
import pytest

from motionv2v import camera, tracks
from motionv2v.data import transforms
from motionv2v.data.transforms import TrackedClip

SIZE = (96, 128)


def dots_at(xy, size=SIZE, sigma=2.5):
    """Renders one soft dot per frame of one track, [1 T 2]."""
    ys, xs = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    frames = [255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2)) for x, y in xy[0]]
    return np.repeat(np.array(frames)[..., None], 3, axis=-1).round().astype(np.uint8)


def centroids(frames):
    """Finds the dot of each frame, [T 2]."""
    weight = frames[..., 0].astype(np.float64)
    ys, xs = np.arange(frames.shape[1])[:, None] + 0.5, np.arange(frames.shape[2]) + 0.5
    total = weight.sum(axis=(1, 2))
    return np.stack([(weight * xs).sum(axis=(1, 2)) / total, (weight * ys).sum(axis=(1, 2)) / total], axis=-1)


def dot_clip(xy, size=SIZE):
    return TrackedClip(dots_at(xy, size), tracks.from_arrays(xy))


@pytest.mark.parametrize("seed", range(5))
def test_sliding_crop_moves_pixels_and_tracks_together(seed):
    rng = np.random.default_rng(seed)
    path = camera.random_crop_path(rng, 9, SIZE)
    target = np.linspace((54, 40), (74, 56), 9)[None]  # where the dot ends up: whole, in the middle of the crop
    clip = dot_clip(camera.apply_homography(camera.invert(path.homographies), target))
    cropped = transforms.sliding_crop(clip, path.homographies)
    np.testing.assert_allclose(cropped.tracks.xy, target, atol=1e-3)  # float32
    # 8-bit rounding and bilinear sampling; a forgotten half pixel would be 0.5 to 1.5 px here
    np.testing.assert_allclose(centroids(cropped.frames), target[0], atol=0.1)


def test_warp_by_identity_changes_nothing_and_checks_its_length():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(transforms.warp_video(frames, np.repeat(np.eye(3)[None], 3, axis=0)), frames)
    with pytest.raises(ValueError, match="3 frames, 2 given"):
        transforms.warp_video(frames, np.zeros((2, 3, 3)))


def test_warp_by_whole_pixels_is_a_shift():
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 10, 3), dtype=np.uint8)
    shift = np.array([[[1, 0, 3], [0, 1, -2], [0, 0, 1.0]]])
    np.testing.assert_array_equal(transforms.warp_video(frames, shift)[0, :6, 3:], frames[0, 2:, :7])


@pytest.mark.parametrize("size", [(48, 48), (48, 64), (40, 100), (120, 170), (96, 60)])
def test_cover_crop_moves_pixels_and_tracks_together(size):
    clip = dot_clip(np.linspace((58, 44), (70, 52), 4)[None])
    cropped = transforms.cover_crop(clip, size)
    assert cropped.frames.shape == (4, *size, 3) and cropped.frames.dtype == np.uint8
    # 8-bit rounding of the dot and of the resized picture
    np.testing.assert_allclose(centroids(cropped.frames), cropped.tracks.xy[0], atol=0.1)
    step = np.diff(cropped.tracks.xy[0], axis=0)[0] / np.diff(clip.tracks.xy[0], axis=0)[0]
    factor = max(size[0] / SIZE[0], size[1] / SIZE[1])
    np.testing.assert_allclose(step, factor, rtol=0.02)  # the covering size is rounded to whole pixels


def test_cover_crop_to_its_own_size_is_identity_and_to_nothing_an_error():
    clip = dot_clip(np.full((1, 2, 2), 40.0))
    assert transforms.cover_crop(clip, SIZE) is clip
    with pytest.raises(ValueError, match="positive size"):
        transforms.cover_crop(clip, (0, 10))


def test_take_frames_takes_both():
    clip = dot_clip(np.linspace((30, 30), (60, 50), 5)[None])
    taken = transforms.take_frames(clip, np.array([4, 0, 0]))
    np.testing.assert_array_equal(taken.frames, clip.frames[[4, 0, 0]])
    np.testing.assert_array_equal(taken.tracks.xy, clip.tracks.xy[:, [4, 0, 0]])
    with pytest.raises(ValueError, match=r"no frame 5: the clip has frames 0\.\.4"):
        transforms.take_frames(clip, np.array([5]))


def test_resample_indices():
    assert transforms.resample_indices(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert transforms.resample_indices(3, 5).tolist() == [0, 0, 1, 2, 2]  # 0.5 and 1.5 go to the even 0 and 2
    assert transforms.resample_indices(49, 1).tolist() == [0]
    with pytest.raises(ValueError, match="num_in=0"):
        transforms.resample_indices(0, 3)


def test_speed_tables_at_49_frames():
    """The presets of the paper's released code, written out from their definitions."""
    long, middle = [round(i * 48 / 97) for i in range(98)], [round(i * 48 / 72) for i in range(73)]
    later = middle[49:]
    expected = {
        "regular": list(range(49)),
        "half": long[:49],
        "half_second_half": long[-49:],
        "half_middle": long[24:73],
        "two_thirds": middle[:49],
        "two_thirds_later": [later[round(i * 23 / 48)] for i in range(49)],
        "two_thirds_middle": middle[12:61],
    }
    assert set(expected) == set(transforms.SPEEDS)
    for name, indices in expected.items():
        assert transforms.speed_indices(name, 49).tolist() == indices, name
    assert expected["half"][-1] == 24 and expected["two_thirds_middle"][0] == 8


@pytest.mark.parametrize("num_frames", [5, 17, 49])
@pytest.mark.parametrize("name", transforms.SPEEDS)
def test_speeds_run_forward_inside_the_clip(name, num_frames):
    indices = transforms.speed_indices(name, num_frames)
    assert indices.shape == (num_frames,) and indices.min() >= 0 and indices.max() < num_frames
    assert (np.diff(indices) >= 0).all() and np.diff(indices).max() <= 1


def test_unknown_speed_lists_the_known():
    with pytest.raises(ValueError, match="choose one of regular, half"):
        transforms.speed_indices("double", 9)


def test_windows_are_contiguous_and_uniform():
    rng = np.random.default_rng(0)
    windows = np.array([transforms.window_indices(rng, 8, 5) for _ in range(4000)])
    assert (np.diff(windows, axis=1) == 1).all()
    # 4 starts, expected 1000 each, standard deviation 27
    np.testing.assert_allclose(np.bincount(windows[:, 0], minlength=4), 1000, atol=120)
    with pytest.raises(ValueError, match="does not fit a clip of 4"):
        transforms.window_indices(rng, 4, 5)


def test_shuffles_keep_every_frame_and_motion_within_pieces():
    rng = np.random.default_rng(0)
    orders = np.array([transforms.shuffle_indices(rng, 17) for _ in range(2000)])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(17), orders.shape))
    assert (orders != np.arange(17)).any(axis=1).all()
    jumps = (np.abs(np.diff(orders, axis=1)) != 1).sum(axis=1)
    # 4 pieces meet at 3 places; a join can also happen to go on smoothly.
    assert jumps.max() == 3 and jumps.min() <= 1
    reversed_steps = (np.diff(orders, axis=1) == -1).mean()
    assert 0.4 < reversed_steps < 0.55  # half of the pieces, fewer than half of the steps because of the joins
    assert transforms.shuffle_indices(rng, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="got 1 frames, max_segments=4"):
        transforms.shuffle_indices(rng, 1)


def test_temporal_dropout_has_its_statistics():
    """With L frames and proportion 1/2, q is uniform: P(all) = mean of 1 / (k + 1) over k = 1..L segments."""
    keep = transforms.temporal_dropout_masks(np.random.default_rng(0), 13, np.full(60_000, 0.5))
    all_kept = np.mean([1 / (k + 1) for k in range(1, 14)])
    # standard errors over 60,000 draws: 0.0015 each for the rates; the spared frame adds P(none) / 13 to the mean
    assert abs(keep.all(axis=1).mean() - all_kept) < 0.006
    assert abs(keep.mean() - (0.5 + all_kept / 13)) < 0.006
    # measured on the paper's released code with fewer draws: .511, .170, .232
    assert abs(keep.mean() - 0.511) < 0.01
    assert abs(keep.all(axis=1).mean() - 0.170) < 0.01
    assert abs((keep.sum(axis=1) == 1).mean() - 0.232) < 0.01


@pytest.mark.parametrize("proportion", [0.2, 0.8])
def test_temporal_dropout_keeps_each_frame_with_the_proportion(proportion):
    rng = np.random.default_rng(1)
    keep = transforms.temporal_dropout_masks(rng, 49, np.full(20_000, proportion))
    # standard error about 0.002; sparing a frame adds at most P(none) / 49 < 0.02
    assert -0.01 < keep.mean() - proportion < 0.03
    assert np.ptp(keep.mean(axis=0)) < 0.03  # no frame is special


def test_temporal_dropout_edges():
    rng = np.random.default_rng(0)
    assert all(transforms.temporal_dropout(rng, 9, 1.0).all() for _ in range(20))
    assert all(transforms.temporal_dropout(rng, 9, 0.0).sum() == 1 for _ in range(20))
    assert transforms.temporal_dropout(rng, 1, 0.3).tolist() == [True]
    with pytest.raises(ValueError, match=r"proportion in \[0, 1\], got 1.5"):
        transforms.temporal_dropout(rng, 9, 1.5)
