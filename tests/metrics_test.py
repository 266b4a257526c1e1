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


def test_tapvid_scores_by_hand():
    # Frame 0 is the query's and counts nowhere.
    reference = Tracks(np.zeros((1, 5, 2)), np.array([[True, True, True, True, False]]))
    xy = np.zeros((1, 5, 2))
    xy[0, 2, 0] = 3.0  # within 4, 8 and 16 pixels
    xy[0, 0] = 99.0
    estimated = Tracks(xy, np.array([[False, True, True, False, True]]))
    scores = metrics.tapvid(estimated, reference, np.array([0]), (256, 256))
    # Thresholds 1, 2: one true positive of 3 visible + 2 false positives; 4, 8, 16: two of 3 + 1.
    assert scores["average_jaccard"] == pytest.approx((2 * 1 / 5 + 3 * 2 / 4) / 5)
    assert scores["delta_avg"] == pytest.approx((2 * 2 / 3 + 3 * 1) / 5)
    assert scores["occlusion_accuracy"] == pytest.approx(2 / 4)
    # At a quarter of the size the same distance in pixels counts four times as much.
    coarse = metrics.tapvid(estimated, reference, np.array([0]), (64, 64))
    assert coarse["delta_avg"] == pytest.approx((4 * 2 / 3 + 1) / 5)
    assert set(metrics.tapvid(reference, reference, np.array([0]), (64, 64)).values()) == {1.0}


def slow_tapvid(estimated, reference, query_frames, size, query_mode):
    """TAP-Vid's scores in plain loops, point by point and frame by frame."""
    jaccards, deltas, right, cases = [], [], 0, 0
    for threshold in (1, 2, 4, 8, 16):
        true_positives = false_positives = false_negatives = near_and_visible = visible = 0
        for n, query_frame in enumerate(query_frames):
            for t in range(reference.xy.shape[1]):
                if t == query_frame or (query_mode == "first" and t < query_frame):
                    continue
                dx = (estimated.xy[n, t, 0] - reference.xy[n, t, 0]) * 256 / size[1]
                dy = (estimated.xy[n, t, 1] - reference.xy[n, t, 1]) * 256 / size[0]
                near = dx * dx + dy * dy < threshold * threshold
                truth, claim = reference.visible[n, t], estimated.visible[n, t]
                true_positives += truth and claim and near
                false_positives += claim and not (truth and near)
                # A point claimed visible in the wrong place is missed as well: the paper counts it in both.
                false_negatives += truth and not (claim and near)
                near_and_visible += truth and near
                visible += truth
                right += truth == claim
                cases += 1
        jaccards.append(true_positives / (true_positives + false_positives + false_negatives))
        deltas.append(near_and_visible / visible)
    return {"average_jaccard": sum(jaccards) / 5, "delta_avg": sum(deltas) / 5, "occlusion_accuracy": right / cases}


@pytest.mark.parametrize("query_mode", ["first", "strided"])
def test_tapvid_matches_a_loop(query_mode):
    rng = np.random.default_rng(3)
    reference = random_tracks(1, 12, 9)
    error = rng.normal(0, 1, (12, 9, 2)) * rng.uniform(0, 8, (12, 9, 1))
    estimated = Tracks(reference.xy + error, rng.random((12, 9)) < 0.6)
    query_frames = rng.integers(0, 8, 12)
    scores = metrics.tapvid(estimated, reference, query_frames, (96, 160), query_mode)
    assert scores == pytest.approx(slow_tapvid(estimated, reference, query_frames, (96, 160), query_mode))
    other = metrics.tapvid(estimated, reference, query_frames, (96, 160), {"first": "strided"}.get(query_mode, "first"))
    assert scores != pytest.approx(other)


def test_tapvid_refuses_what_does_not_belong_together():
    tracks = random_tracks(0)
    with pytest.raises(ValueError, match="'last'; available: first, strided"):
        metrics.tapvid(tracks, tracks, np.zeros(5, int), (64, 64), "last")
    with pytest.raises(ValueError, match="0 to 5"):
        metrics.tapvid(tracks, tracks, np.full(5, 6), (64, 64))
    with pytest.raises(ValueError, match="4 query frames"):
        metrics.tapvid(tracks, tracks, np.zeros(4, int), (64, 64))
    hidden = Tracks(tracks.xy, np.zeros_like(tracks.visible))
    scores = metrics.tapvid(hidden, hidden, np.zeros(5, int), (64, 64))
    assert np.isnan(scores["average_jaccard"]) and np.isnan(scores["delta_avg"]) and scores["occlusion_accuracy"] == 1


def test_claims_are_right_where_the_point_is_seen_and_near():
    reference = Tracks(np.zeros((1, 5, 2)), np.array([[True, True, True, True, False]]))
    xy = np.zeros((1, 5, 2))
    xy[0, 2] = 6.0  # more than 6 pixels away
    estimated = Tracks(xy, np.array([[True, True, True, False, True]]))
    scores = metrics.claimed_visible(estimated, reference, np.array([0]))
    assert scores == pytest.approx({"precision": 1 / 3, "recall": 1 / 3})
    late = metrics.claimed_visible(estimated, reference, np.array([2]), "first")
    assert late == pytest.approx({"precision": 0, "recall": 0})  # of frames 3 and 4: one claim, which is hidden
    wide = metrics.claimed_visible(estimated, reference, np.array([0]), threshold=9)
    assert wide["precision"] == pytest.approx(2 / 3)


def test_psnr_pools_the_error_over_the_clip():
    """Ten levels off in one of four frames: mean squared error 25, whatever the other three frames are."""
    truth = np.full((4, 8, 8, 3), 100, np.uint8)
    video = truth.copy()
    video[2] += 10
    # Float32 sums of 768 numbers.
    assert metrics.clip_psnr(video, truth) == pytest.approx(10 * np.log10(255**2 / 25), abs=1e-3)
    assert metrics.clip_psnr(truth, truth) == np.inf
    half = np.arange(truth.shape[2]) < truth.shape[2] // 2
    mask = np.broadcast_to(half, truth.shape[:3])
    mixed = np.where(half[:, None], video, truth)
    assert metrics.clip_psnr(mixed, truth, mask) == pytest.approx(metrics.clip_psnr(video, truth, mask))
    assert metrics.clip_psnr(mixed, truth, ~mask) == np.inf and np.isnan(metrics.clip_psnr(video, truth, mask & False))
