"""Camera fits and crop paths: round trips over random transforms, and the paths' promises."""

import numpy as np
import pytest

from motionv2v import camera

SQUARE = np.array([[100, 100], [600, 80], [650, 400], [90, 420], [300, 250], [200, 300]], np.float64)


def points_over_time(num_points, num_frames=4):
    return np.repeat(SQUARE[:num_points, None], num_frames, axis=1)


def random_transforms(model, num_frames=4, seed=0):
    rng = np.random.default_rng(seed)
    transforms = np.repeat(np.eye(3)[None], num_frames, axis=0)
    transforms[:, :2, 2] = rng.uniform(-50, 50, (num_frames, 2))
    if model == "similarity":
        angle, scale = rng.uniform(-3, 3, num_frames), rng.uniform(0.3, 2, num_frames)
        transforms[:, 0, 0] = transforms[:, 1, 1] = scale * np.cos(angle)
        transforms[:, 1, 0] = scale * np.sin(angle)
        transforms[:, 0, 1] = -transforms[:, 1, 0]
    if model in ("affine", "homography"):
        transforms[:, :2, :2] += rng.uniform(-0.4, 0.4, (num_frames, 2, 2))
    if model == "homography":
        transforms[:, 2, :2] = rng.uniform(-5e-4, 5e-4, (num_frames, 2))
    return transforms


@pytest.mark.parametrize("model", camera.MODELS)
@pytest.mark.parametrize("more", [0, 2])
def test_fit_recovers_the_transform(model, more):
    true = random_transforms(model)
    source = points_over_time(camera.MODELS[model] + more)
    fitted = camera.fit(source, camera.apply_homography(true, source), model)
    everywhere = points_over_time(6) * 1.1 - 30
    # float64 and a system whose condition number is at most about 1e4 after normalisation, at 1000 px
    np.testing.assert_allclose(
        camera.apply_homography(fitted, everywhere), camera.apply_homography(true, everywhere), atol=1e-7
    )


def test_fit_chooses_the_model_by_the_number_of_points():
    assert [camera.model_for(n) for n in (1, 2, 3, 4, 9)] == [*camera.MODELS, "homography"]
    with pytest.raises(ValueError, match="at least one"):
        camera.model_for(0)


def test_fit_with_noise_is_least_squares():
    rng = np.random.default_rng(0)
    true, source = random_transforms("affine"), points_over_time(6)
    target = camera.apply_homography(true, source) + rng.normal(0, 1, source.shape)
    fitted = camera.fit(source, target, "affine")
    for t in range(4):
        design = np.concatenate([source[:, t], np.ones((6, 1))], axis=1)
        expected = np.linalg.lstsq(design, target[:, t], rcond=None)[0].T
        np.testing.assert_allclose(fitted[t, :2], expected, atol=1e-8)  # another solver, float64


def test_fit_is_accurate_with_float32_tracks_far_from_the_origin():
    source = (points_over_time(4) / 10 + 3000).astype(np.float32)
    true = random_transforms("translation")
    fitted = camera.fit(source, camera.apply_homography(true, source))
    # 50 px of points near 3000 px, rounded to 1.2e-4: stays well below a pixel inside the points' box
    np.testing.assert_allclose(
        camera.apply_homography(fitted, source), camera.apply_homography(true, source), atol=2e-3
    )


@pytest.mark.parametrize(
    ("num_points", "break_it", "message"),
    [
        (2, lambda p: p[:1], "coincide in frame 2"),
        (3, lambda p: np.array([[0, 0], [100, 50], [300, 150]]), "lie in a line in frame 2"),
        (4, lambda p: np.array([[0, 0], [100, 50], [300, 150], [50, 300]]), "lie in a line but for one in frame 2"),
        (4, lambda p: p[[0, 2, 1, 3]], "turn inside out in frame 2"),
    ],
)
def test_fit_refuses_degenerate_points(num_points, break_it, message):
    source, target = points_over_time(num_points), points_over_time(num_points)
    target[:, 2] = break_it(target[:, 2])
    for one, two in ((source, target), (target, source)):
        with pytest.raises(ValueError, match=message):
            camera.fit(one, two)


def test_fit_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="choose one of translation, similarity"):
        camera.fit(points_over_time(4), points_over_time(4), "fisheye")
    with pytest.raises(ValueError, match="'homography' needs at least 4 reference points, got 3"):
        camera.fit(points_over_time(3), points_over_time(3), "homography")


def test_invert_round_trip_and_error():
    transforms = random_transforms("homography")
    points = points_over_time(6)
    back = camera.apply_homography(camera.invert(transforms), camera.apply_homography(transforms, points))
    np.testing.assert_allclose(back, points, atol=1e-8)  # float64
    transforms[1] = 0
    with pytest.raises(ValueError, match="frame 1 has no inverse"):
        camera.invert(transforms)


@pytest.mark.parametrize("size", [(480, 720), (64, 64), (720, 400)])
def test_crop_path_quads_lie_inside_and_map_to_the_frame(size):
    height, width = size
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    for _ in range(50):
        path = camera.random_crop_path(rng, 9, size)
        assert (path.quads >= 0).all() and (path.quads <= [width, height]).all()
        mapped = camera.apply_homography(path.homographies, np.swapaxes(path.quads, 0, 1))
        # float64 rounding, and quads clipped by at most 1e-9 px and enlarged up to 4 times
        np.testing.assert_allclose(np.swapaxes(mapped, 0, 1), np.broadcast_to(corners, (9, 4, 2)), atol=1e-6)


def test_crop_path_moves_as_the_paper_says():
    rng = np.random.default_rng(0)
    scales, angles = [], []
    for _ in range(400):
        path = camera.random_crop_path(rng, 5, (480, 720))
        edge = path.quads[:, 1] - path.quads[:, 0]
        scale, angle = np.linalg.norm(edge, axis=1) / 720, np.arctan2(edge[:, 1], edge[:, 0])
        centre = path.quads.mean(axis=1)
        # log-linear, linear, linear: second differences vanish, up to float64 rounding at 700 px
        assert max(np.abs(np.diff(v, 2, axis=0)).max() for v in (np.log(scale), angle, centre)) < 1e-9
        scales.append(scale)
        angles.append(angle)
    scales, angles = np.array(scales), np.rad2deg(angles)
    assert 0.25 <= scales.min() < 0.27 and scales.max() <= 1 + 1e-12
    assert 20 < np.abs(angles).max() <= 45


def test_crop_path_ends_are_distributed_as_the_paper_says():
    """Against a loop that draws both ends by the formulas and rejects; two frames, so that only the ends matter."""
    rng, drawn, expected = np.random.default_rng(0), [], []
    for _ in range(800):
        edge = np.subtract(*camera.random_crop_path(rng, 2, (480, 720)).quads[:, [1, 0]].swapaxes(0, 1))
        drawn.append((np.abs(np.arctan2(edge[:, 1], edge[:, 0])).mean(), np.linalg.norm(edge, axis=1).mean() / 720))
    while len(expected) < 800:
        ends = [(rng.uniform(-45, 45) * rng.uniform() ** 2, 1 - 0.75 * rng.uniform() ** 2) for _ in range(2)]
        angle, scale = np.deg2rad(np.abs([end[0] for end in ends])), np.array([end[1] for end in ends])
        fits_width = scale * (720 * np.cos(angle) + 480 * np.sin(angle)) <= 720
        fits_height = scale * (720 * np.sin(angle) + 480 * np.cos(angle)) <= 480
        if (fits_width & fits_height).all():
            expected.append((angle.mean(), scale.mean()))
    angle, scale = np.mean(drawn, axis=0) - np.mean(expected, axis=0)
    # standard errors of the differences: 0.25 degrees and 0.0075; u instead of u^2 shifts them by 3.2 and 0.04
    assert abs(np.rad2deg(angle)) < 1 and abs(scale) < 0.03


def test_crop_path_refuses_empty_sizes():
    with pytest.raises(ValueError, match="num_frames=0"):
        camera.random_crop_path(np.random.default_rng(0), 0, (4, 4))
