"""Measure videos and tracks: PSNR, SSIM, L2, end-point errors, identity-copy rate, TAP-Vid scores. numpy only.

Pictures are [T H W 3], uint8 in 0..255 or float in 0..`data_range`; both arguments must be of one kind. Every picture
metric is taken per frame and then averaged over frames. Track metrics are in pixels of the tracks at hand. A mean over
nothing (no visible point, an empty mask) is NaN, never zero, so that it cannot pass for a perfect score.
"""

import cv2
import numpy as np

from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, Int, Num, UInt8

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


def psnr(
    prediction: Num[AnyArray, "T H W C"],
    target: Num[AnyArray, "T H W C"],
    *,
    data_range: float | int | None = None,
    mask: Bool[AnyArray, "T H W"] | None = None,
) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(data_range^2 / MSE) of each frame, averaged over frames.

    That is not the PSNR of the pooled MSE. `data_range` is 255 for uint8 and must be given for floats (1 for [0, 1], 2
    for [-1, 1]). `mask` counts only its True pixels (pass `~edited` for the unedited region, as ReVideo reports);
    frames without any are left out. Equal frames give infinity. Raises ValueError for unlike pictures.
    """
    prediction, target, data_range = _pictures(prediction, target, data_range)
    squared = np.square(prediction - target)
    if mask is None:
        errors = squared.mean(axis=(1, 2, 3))
    else:
        counts = mask.sum(axis=(1, 2)) * target.shape[-1]
        errors = (squared * mask[..., None]).sum(axis=(1, 2, 3))[counts > 0] / counts[counts > 0]
    with np.errstate(divide="ignore"):
        return _mean(10 * np.log10(data_range**2 / errors))


def clip_psnr(
    video: Num[AnyArray, "T H W 3"], truth: Num[AnyArray, "T H W 3"], mask: Bool[AnyArray, "T H W"] | None = None
) -> float:
    """Return the PSNR in dB of the squared error pooled over a clip; infinity for equal clips.

    `mask` counts only its True pixels; if there are none the answer is NaN.
    """
    if mask is None:
        error = float(l2(video, truth))
    else:
        prediction, target, data_range = _pictures(video, truth, None)
        error = _mean(np.square((prediction - target) / data_range)[mask])
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(
    prediction: Num[AnyArray, "T H W C"], target: Num[AnyArray, "T H W C"], *, data_range: float | int | None = None
) -> float:
    """Return the mean structural similarity (1 for equal videos), per frame and channel, averaged.

    Wang et al. 2004: a Gaussian window of 11x11 and sigma 1.5, K1 = 0.01, K2 = 0.03, population statistics, on pixels
    whose whole window lies in the frame. `data_range` as in `psnr`. Raises ValueError for frames smaller than 11x11.
    """
    prediction, target, data_range = _pictures(prediction, target, data_range)
    if min(target.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs frames of at least {_WINDOW}x{_WINDOW} pixels, given {list(target.shape[1:3])}")
    return _mean([_frame_ssim(p, t, data_range) for p, t in zip(prediction, target, strict=True)])


def _frame_ssim(a: Float[AnyArray, "H W C"], b: Float[AnyArray, "H W C"], data_range: float | int) -> float:
    """Return the structural similarity of two frames (equation 13 of Wang et al.)."""

    def blur(picture: AnyArray) -> AnyArray:
        half = _WINDOW // 2
        blurred = cv2.GaussianBlur(picture, (_WINDOW, _WINDOW), _SIGMA)
        return blurred[half:-half, half:-half]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, covariance = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_a + var_b + c2)).mean())


def gradients(videos: UInt8[AnyArray, "M T H W 3"]) -> float:
    """Return the mean difference of neighbouring pixels along both sides, in levels: blur makes it smaller."""
    return float(np.mean([np.abs(np.diff(videos.astype(np.float32), axis=axis)).mean() for axis in (2, 3)]))


def l2(
    prediction: Num[AnyArray, "T H W C"], target: Num[AnyArray, "T H W C"], *, data_range: float | int | None = None
) -> float:
    """Return the mean squared error of pictures scaled to [0, 1], averaged over frames (MotionV2V's frame-wise L2)."""
    prediction, target, data_range = _pictures(prediction, target, data_range)
    return _mean(np.square((prediction - target) / data_range).mean(axis=(1, 2, 3)))


def epe(
    xy: Float[AnyArray, "*B N T 2"],
    reference_xy: Float[AnyArray, "*B N T 2"],
    visible: Bool[AnyArray, "*B N T"] | None = None,
) -> float:
    """Return the end-point error: the mean distance in pixels over the (n, t) where `visible` is True (None: all)."""
    distance = np.linalg.norm(np.asarray(xy, np.float64) - np.asarray(reference_xy, np.float64), axis=-1)
    return _mean(distance if visible is None else distance[np.asarray(visible)])


def track_epe(
    estimated: Tracks,
    reference: Tracks,
    mask: Bool[AnyArray, "*B N"] | None = None,
    size: tuple[int, int] | None = None,
) -> float:
    """Return the end-point error of estimated tracks over the (n, t) where the reference is visible.

    `mask` chooses tracks: pass `edited` for the follow-EPE and `~edited` for the keep-EPE. Where the estimate has lost
    its point its last position counts, so that losing a point never improves the score. `size` (H, W) divides the
    result by the frame's diagonal. (Motion Prompting's EPE.)
    """
    visible = np.asarray(reference.visible)
    if mask is not None:
        visible = visible & np.asarray(mask)[..., None]
    error = epe(estimated.xy, reference.xy, visible)
    return error if size is None else error / float(np.hypot(*size))


def identity_copy_rate(
    estimated: Tracks, source: Tracks, target: Tracks, edited: Bool[AnyArray, "*B N"] | None = None
) -> float:
    """Return the share (0 to 1) of edited tracks that lie closer to the source track than to the target track.

    1 means that the edit was ignored and the source was copied. Distances are averaged over the frames where both the
    source and the target point are visible; tracks without such a frame, and those not `edited` (None: all are), are
    left out.
    """
    both = np.asarray(source.visible) & np.asarray(target.visible)
    chosen = both.any(axis=-1) if edited is None else both.any(axis=-1) & np.asarray(edited)

    def gap(reference: Tracks) -> AnyArray:
        distance = np.linalg.norm(np.asarray(estimated.xy, np.float64) - np.asarray(reference.xy), axis=-1)
        return (distance * both).sum(axis=-1)[chosen]  # the two means share their count of frames

    return _mean(gap(source) < gap(target))


def tapvid(
    estimated: Tracks,
    reference: Tracks,
    query_frames: Int[AnyArray, "N"],
    size: tuple[int, int],
    query_mode: str = "strided",
) -> dict[str, float]:
    """Return TAP-Vid's scores of one clip, each 0 to 1: "average_jaccard", "delta_avg" and "occlusion_accuracy".

    As in the TAP-Vid paper (Doersch et al. 2022, section 3) and its reference code: positions are scaled from `size`
    (H, W) to 256x256 and compared with 1, 2, 4, 8 and 16 pixels (strictly below), whose scores are averaged. Over all
    points of the clip together, `delta_avg` is the share of near positions where the reference is visible, whatever
    the tracker claims there; Jaccard is TP / (visible in the reference + FP), where TP is near and visible in both and
    FP is claimed visible but hidden or too far off; occlusion accuracy is the share of right claims. A data set's score
    is the mean over its clips.

    `query_frames` says where each point was given. With `query_mode` "strided" all frames but that one count, with
    "first" only those after it. Frames in which nothing counts give NaN. Raises ValueError for another mode and for
    query frames that the tracks do not have.
    """
    num_points, num_frames = reference.visible.shape
    query_frames = np.asarray(query_frames)
    if len(query_frames) != num_points or estimated.visible.shape != reference.visible.shape:
        raise ValueError(
            f"{len(query_frames)} query frames, estimated tracks {list(estimated.visible.shape)} and reference tracks "
            f"{[num_points, num_frames]} (points, frames) do not belong together"
        )
    if ((query_frames < 0) | (query_frames >= num_frames)).any():
        given = f"{query_frames.min()} to {query_frames.max()}"
        raise ValueError(f"query frames must be 0 to {num_frames - 1}, given {given}")
    counted = _counted(query_frames, num_frames, query_mode)
    scale = 256.0 / np.array([size[1], size[0]], np.float64)
    distance = np.linalg.norm((np.asarray(estimated.xy) - np.asarray(reference.xy)) * scale, axis=-1)
    truth, claim = np.asarray(reference.visible) & counted, np.asarray(estimated.visible) & counted
    jaccard, accuracy = [], []
    for threshold in (1, 2, 4, 8, 16):
        near = distance < threshold
        positives = truth.sum() + (claim & ~(near & truth)).sum()
        jaccard.append((claim & truth & near).sum() / positives if positives else np.nan)
        accuracy.append(_mean(near[truth]))
    return {
        "average_jaccard": _mean(jaccard),
        "delta_avg": _mean(accuracy),
        "occlusion_accuracy": _mean((truth == claim)[counted]),
    }


def claimed_visible(
    estimated: Tracks,
    reference: Tracks,
    query_frames: Int[AnyArray, "N"],
    query_mode: str = "strided",
    threshold: float | int = 6.0,
) -> dict[str, float]:
    """Return "precision" and "recall" (0 to 1) of claims to see a point, in the frames that `tapvid` counts.

    A claim is right where the reference is visible and nearer than `threshold`, in pixels of the tracks. Precision is
    the share of right claims among all claims, recall that among the frames in which the reference is visible.
    """
    counted = _counted(np.asarray(query_frames), reference.visible.shape[1], query_mode)
    distance = np.linalg.norm(np.asarray(estimated.xy, np.float64) - np.asarray(reference.xy), axis=-1)
    truth, claim = np.asarray(reference.visible) & counted, np.asarray(estimated.visible) & counted
    right = (distance < threshold) & truth & claim
    return {"precision": _mean(right[claim]), "recall": _mean(right[truth])}


def _counted(query_frames: Int[AnyArray, "N"], num_frames: int, query_mode: str) -> Bool[AnyArray, "N T"]:
    """Say which frames of each track count in a query mode; raise ValueError for an unknown one."""
    frames, query_frames = np.arange(num_frames), query_frames[:, None]
    if query_mode == "first":
        return frames > query_frames
    if query_mode == "strided":
        return frames != query_frames
    raise ValueError(f"unknown query mode {query_mode!r}; available: first, strided")


def _pictures(prediction, target, data_range: float | int | None) -> tuple[AnyArray, AnyArray, float]:
    """Return both videos as float64 and their data range; raise ValueError where they cannot be compared."""
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"videos differ in shape: {list(prediction.shape)} and {list(target.shape)}")
    is_bytes = [video.dtype == np.uint8 for video in (prediction, target)]
    if any(is_bytes) != all(is_bytes):
        raise ValueError(f"compare uint8 with uint8 or float with float, given {prediction.dtype} and {target.dtype}")
    if data_range is None and not all(is_bytes):
        raise ValueError(f"data_range is needed for {target.dtype} videos: 1 for [0, 1], 2 for [-1, 1]")
    return prediction.astype(np.float64), target.astype(np.float64), 255.0 if data_range is None else float(data_range)


def _mean(values) -> float:
    """Return the mean, NaN (without numpy's warning) of nothing."""
    values = np.asarray(values)
    return float(values.mean()) if values.size else float("nan")
