"""Metrics against scikit-image, against loops, and at values that can be computed by hand."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from motionv2v import metrics
from motionv2v.tracks import Tracks


def noisy_pair(dtype, size=(40, 33)):
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, *size, 3))
    b = np.clip(a + rng.normal(0, 25, a.shape), 0, 255).astype(int)
    return (a.astype(np.uint8), b.astype(np.uint8)) if dtype == np.uint8 else (a / 255, b / 255)


@pytest.mark.parametrize("dtype, data_range", [(np.uint8, 255), (np.float64, 1)])
def test_psnr_and_ssim_match_scikit_image(dtype, data_range):
    a, b = noisy_pair(dtype)
    options = dict(data_range=data_range)
    wang = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1)
    expected = np.mean([peak_signal_noise_ratio(y, x, **options) for x, y in zip(a, b, strict=True)])
    # float64 on both sides; the sums are taken in another order.
    assert metrics.psnr(a, b, **options) == pytest.approx(expected, abs=1e-9)
    expected = np.mean([structural_similarity(y, x, **options, **wang) for x, y in zip(a, b, strict=True)])
    assert metrics.ssim(a, b, **options) == pytest.approx(expected, abs=1e-6)


def test_psnr_averages_frames_not_errors():
    target = np.zeros((2, 4, 4, 3))
    prediction = np.stack([np.full((4, 4, 3), 0.1), np.full((4, 4, 3), 0.01)])
    assert metrics.psnr(prediction, target, data_range=1) == pytest.approx((20 + 40) / 2)
    assert metrics.psnr(prediction, target, data_range=2) == pytest.approx(30 + 20 * np.log10(2))
    assert metrics.psnr(target, target, data_range=1) == np.inf


def test_psnr_mask_counts_only_its_pixels():
    a, b = noisy_pair(np.float64)
    mask = np.zeros(a.shape[:3], bool)
    mask[0, 3:9, 5:20] = mask[2, 10:12] = True  # frame 1 has no pixel and is left out
    expected = np.mean([-10 * np.log10(np.mean((a[t][mask[t]] - b[t][mask[t]]) ** 2)) for t in (0, 2)])
    assert metrics.psnr(a, b, data_range=1, mask=mask) == pytest.approx(expected)
    assert np.isnan(metrics.psnr(a, b, data_range=1, mask=np.zeros_like(mask)))


def test_equal_videos_score_perfectly_and_noise_lowers_the_score():
    a, b = noisy_pair(np.uint8)
    assert metrics.ssim(a, a) == pytest.approx(1) and metrics.l2(a, a) == 0
    assert metrics.ssim(b, a) < 0.99 and 0 < metrics.l2(b, a) < 1
    assert metrics.l2(a, b) == pytest.approx(metrics.l2(a / 255, b / 255, data_range=1))


def test_pictures_that_cannot_be_compared_are_refused():
    a, b = noisy_pair(np.uint8)
    with pytest.raises(ValueError, match="float with float"):
        metrics.psnr(a, b / 255)
    with pytest.raises(ValueError, match="data_range is needed"):
        metrics.psnr(a / 255, b / 255)
    with pytest.raises(ValueError, match="at least 11x11"):
        metrics.ssim(a[:, :10], b[:, :10])


def random_tracks(seed=0, num_tracks=5, num_frames=6):
    rng = np.random.default_rng(seed)
    return Tracks(rng.random((num_tracks, num_frames, 2)) * 64, rng.random((num_tracks, num_frames)) < 0.7)


def test_track_epe_matches_a_loop():
    estimated, reference = random_tracks(0), random_tracks(1)
    edited = np.array([True, False, True, True, False])
    for mask in (None, edited, ~edited):
        distances = [
            np.hypot(*(estimated.xy[n, t] - reference.xy[n, t]))
            for n in range(5)
            for t in range(6)
            if reference.visible[n, t] and (mask is None or mask[n])
        ]
        assert metrics.track_epe(estimated, reference, mask) == pytest.approx(np.mean(distances))
    shifted = Tracks(reference.xy + np.array([3.0, 4.0]), reference.visible)
    assert metrics.track_epe(shifted, reference) == pytest.approx(5)
    assert metrics.track_epe(shifted, reference, size=(30, 40)) == pytest.approx(0.1)  # of a diagonal of 50 pixels
    assert np.isnan(metrics.track_epe(estimated, reference, np.zeros(5, bool)))


def test_losing_a_point_does_not_lower_the_error():
    reference = random_tracks(1)
    shifted = reference.xy + 5.0
    seen, lost = Tracks(shifted, reference.visible), Tracks(shifted, np.zeros_like(reference.visible))
    assert metrics.track_epe(lost, reference) == metrics.track_epe(seen, reference) > 0


def test_epe_of_batches_is_the_mean_over_visible_points():
    reference = random_tracks(1)
    xy = reference.xy + np.array([0.0, 2.0])
    batched = metrics.epe(np.stack([xy, xy]), np.stack([reference.xy] * 2), np.stack([reference.visible] * 2))
    assert batched == pytest.approx(2)
    assert metrics.epe(xy, reference.xy) == pytest.approx(2)


def test_identity_copy_rate_counts_tracks_nearer_to_the_source():
    everywhere = np.ones((4, 5), bool)
    source = Tracks(np.zeros((4, 5, 2)), everywhere)
    target = Tracks(np.full((4, 5, 2), 10.0), everywhere)
    estimated = Tracks(np.broadcast_to(np.array([1.0, 9.0, 4.0, 10.0])[:, None, None], (4, 5, 2)), everywhere)
    assert metrics.identity_copy_rate(estimated, source, target) == 0.5
    edited = np.array([True, True, False, True])
    assert metrics.identity_copy_rate(estimated, source, target, edited) == pytest.approx(1 / 3)
    assert metrics.identity_copy_rate(source, source, target) == 1
    assert metrics.identity_copy_rate(target, source, target) == 0
    hidden = Tracks(target.xy, ~everywhere)
    assert np.isnan(metrics.identity_copy_rate(estimated, source, hidden))


def test_tap_vid_scores_by_hand():
    reference = Tracks(np.zeros((1, 4, 2)), np.array([[True, True, True, False]]))
    xy = np.zeros((1, 4, 2))
    xy[0, 1, 0] = 3.0  # within 4, 8 and 16 pixels
    estimated = Tracks(xy, np.array([[True, True, False, True]]))
    scores = metrics.tap_vid(estimated, reference, (256, 256))
    # Thresholds 1, 2: one true positive of 3 visible + 2 false positives; 4, 8, 16: two of 3 + 1.
    assert scores["average_jaccard"] == pytest.approx((2 * 1 / 5 + 3 * 2 / 4) / 5)
    assert scores["position_accuracy"] == pytest.approx((2 * 2 / 3 + 3 * 1) / 5)
    assert scores["occlusion_accuracy"] == pytest.approx(2 / 4)
    # At a quarter of the size the same distance in pixels counts four times as much.
    coarse = metrics.tap_vid(estimated, reference, (64, 64))
    assert coarse["position_accuracy"] == pytest.approx((4 * 2 / 3 + 1) / 5)
    assert set(metrics.tap_vid(reference, reference, (64, 64)).values()) == {1.0}
