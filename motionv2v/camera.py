"""Planar camera motion: transforms fitted to points, and random crop-rotate-zoom paths.

A transform is a 3x3 homography on homogeneous pixel coordinates (x, y, 1) of `motionv2v.typing`'s convention, so a path
is an array [T 3 3] and `tracks.warp` applies it. Fits are done in float64 numpy, one frame at a time in one batch, on
coordinates shifted and scaled to mean 0 and mean distance sqrt(2) (Hartley's normalisation), because the direct linear
transform mixes 1 with products of coordinates, which are about 1e5 at video sizes.
"""

from typing import Literal, NamedTuple

import numpy as np

from motionv2v.tracks import apply_homography
from motionv2v.typing import AnyArray, Float, Shaped

__all__ = ["MODELS", "CropPath", "Model", "apply_homography", "fit", "invert", "model_for", "random_crop_path"]

Model = Literal["translation", "similarity", "affine", "homography"]

MODELS: dict[str, int] = {"translation": 1, "similarity": 2, "affine": 3, "homography": 4}
"""The number of reference points that each kind of transform needs at least."""

_DEGENERATE = 1e-4
# Singular values relative to the largest. Three of four points in a line measure 3e-9 when rounded to float32, 1e-4
# when 0.1 px off a line of 400 px, 1e-3 when 1 px off; a square measures 0.36.


class CropPath(NamedTuple):
    """A moving crop: per-frame transforms to the crop's pixels, and the crop's corners in the source frame."""

    homographies: Float[np.ndarray, "T 3 3"]
    quads: Float[np.ndarray, "T 4 2"]


def model_for(num_points: int) -> Model:
    """Names the richest transform that a number of reference points determines: 1, 2, 3, or 4 and more.

    Raises ValueError for no points.
    """
    if num_points < 1:
        raise ValueError("fitting camera motion needs at least one reference point, got none")
    return list(MODELS)[min(num_points, 4) - 1]


def fit(
    source: Float[AnyArray, "N T 2"], target: Float[AnyArray, "N T 2"], model: str | None = None
) -> Float[np.ndarray, "T 3 3"]:
    """Fits one transform per frame that maps `source` positions to `target` positions in least squares (float64).

    `model` is a key of `MODELS`; by default the richest one that N points determine. With the minimal number of points
    the fit is exact. Raises ValueError for an unknown model, too few points, and for a frame whose points coincide, lie
    in a line, or turn inside out so that no camera could have seen them (the frame is named).
    """
    source, target = (np.swapaxes(np.asarray(points, np.float64), 0, 1) for points in (source, target))
    if source.shape != target.shape:
        raise ValueError(f"source and target must have one shape [N T 2], got {source.shape} and {target.shape}")
    num_points = source.shape[1]
    model = model_for(num_points) if model is None else model
    if model not in MODELS:
        raise ValueError(f"unknown camera model {model!r}: choose one of {', '.join(MODELS)}")
    if num_points < MODELS[model]:
        least = MODELS[model]
        raise ValueError(f"the camera model {model!r} needs at least {least} reference points, got {num_points}")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("reference points must be finite")
    if model == "translation":
        homographies = np.broadcast_to(np.eye(3), (len(source), 3, 3)).copy()
        homographies[:, :2, 2] = (target - source).mean(axis=1)
        return homographies
    for points in (source, target):
        _check_spread(points, model)
    source, normalise = _normalised(source)
    target, normalise_target = _normalised(target)
    fitters = {"similarity": _fit_similarity, "affine": _fit_affine, "homography": _fit_homography}
    fitted = fitters[model](source, target)
    # The points' mean is the origin here, and it lies on the camera's side of the horizon: a divisor that is never 0.
    return np.linalg.inv(normalise_target) @ (fitted / fitted[:, 2:, 2:]) @ normalise


def invert(homographies: Float[AnyArray, "T 3 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Inverts each transform (float64).

    Raises ValueError that names the first frame whose transform has no inverse.
    """
    homographies = np.asarray(homographies, np.float64)
    scale = np.abs(homographies).max(axis=(1, 2))
    bad = np.flatnonzero(~(np.abs(np.linalg.det(homographies)) > 1e-12 * scale**3))
    if bad.size:
        raise ValueError(f"the transform of frame {bad[0]} has no inverse")
    return np.linalg.inv(homographies)


def random_crop_path(
    rng: np.random.Generator, num_frames: int, size: tuple[int, int], max_attempts: int = 20_000
) -> CropPath:
    """Draws a smoothly moving, rotating and zooming crop that stays inside a frame of size (H, W).

    Each end of the path has angle U(-45, 45) * u^2 degrees, scale 1 - 0.75 u'^2 and a centre uniform where the rotated
    box fits; between the ends the scale is log-linear, angle and centre are linear. Everything is redrawn until every
    frame's box lies inside (the paper, supplement: sliding crops). `quads` are the corners in the source frame,
    clockwise from the crop's top left, and map to (0, 0), (W, 0), (W, H), (0, H). Raises ValueError for an empty size
    or path, and when no crop fits (extreme aspect ratios).
    """
    height, width = size
    if num_frames < 1 or height < 1 or width < 1:
        raise ValueError(f"a crop path needs frames and pixels, got num_frames={num_frames} and size={tuple(size)}")
    box = np.array([width, height], np.float64)
    corners = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - 0.5) * box
    ramp = np.linspace(0, 1, num_frames)
    for _ in range(max_attempts):
        angle, scale, centre = _crop_ends(rng, box)
        if np.isnan(centre).any():
            continue
        angles = angle[0] + (angle[1] - angle[0]) * ramp
        scales = scale[0] ** (1 - ramp) * scale[1] ** ramp
        centres = centre[0] + (centre[1] - centre[0]) * ramp[:, None]
        rotations = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], -1).reshape(-1, 2, 2)
        quads = centres[:, None] + scales[:, None, None] * np.einsum("tij,cj->tci", rotations, corners)
        # A path that does not rotate or zoom touches the frame's edge exactly; allow its rounding error.
        if (quads >= -1e-9).all() and (quads <= box + 1e-9).all():
            homographies = np.broadcast_to(np.eye(3), (num_frames, 3, 3)).copy()
            homographies[:, :2, :2] = np.swapaxes(rotations, 1, 2) / scales[:, None, None]
            homographies[:, :2, 2] = box / 2 - np.einsum("tij,tj->ti", homographies[:, :2, :2], centres)
            return CropPath(homographies, np.clip(quads, 0, box))
    raise ValueError(f"found no rotating crop inside a frame of size {tuple(size)} in {max_attempts} attempts")


def _crop_ends(
    rng: np.random.Generator, box: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
    """Draws angle (radians), scale and centre of both ends; a box that cannot fit has a centre of NaN."""
    uniform = rng.uniform(size=(2, 3))
    angle = np.deg2rad(90 * uniform[:, 0] - 45) * uniform[:, 1] ** 2
    scale = 1 - 0.75 * uniform[:, 2] ** 2
    cos, sin = np.cos(angle), np.abs(np.sin(angle))
    half = scale[:, None] * np.stack([box[0] * cos + box[1] * sin, box[0] * sin + box[1] * cos], -1) / 2
    centre = np.where((2 * half <= box).all(axis=1, keepdims=True), half, np.nan)
    return angle, scale, centre + (box - 2 * half) * rng.uniform(size=(2, 2))


def _normalised(
    points: Float[np.ndarray, "T N 2"],
) -> tuple[Float[np.ndarray, "T N 2"], Float[np.ndarray, "T 3 3"]]:
    """Shifts and scales each frame's points to mean 0 and mean distance sqrt(2); also returns that transform."""
    centre = points.mean(axis=1)
    scale = np.sqrt(2) / np.linalg.norm(points - centre[:, None], axis=-1).mean(axis=1)
    transform = np.zeros((len(points), 3, 3))
    transform[:, 0, 0] = transform[:, 1, 1] = scale
    transform[:, :2, 2] = -scale[:, None] * centre
    transform[:, 2, 2] = 1
    return (points - centre[:, None]) * scale[:, None, None], transform


def _check_spread(points: Float[np.ndarray, "T N 2"], model: str) -> None:
    """Raises ValueError where points coincide, or lie in a line though the model needs a plane."""
    centred = points - points.mean(axis=1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False)
    extent = np.maximum(np.abs(points).max(axis=(1, 2)), 1.0)
    _reject(values[:, 0] < 1e-6 * extent, "coincide", model)
    if model != "similarity":
        _reject(values[:, 1] < _DEGENERATE * values[:, 0], "lie in a line", model)


def _reject(bad: Shaped[np.ndarray, "T"], what: str, model: str) -> None:
    """Raises ValueError that names the first bad frame."""
    if bad.any():
        raise ValueError(
            f"the reference points {what} in frame {int(np.argmax(bad))}, so no {model} can be fitted: choose points "
            "that are further apart, or a simpler model"
        )


def _fit_similarity(
    source: Float[np.ndarray, "T N 2"], target: Float[np.ndarray, "T N 2"]
) -> Float[np.ndarray, "T 3 3"]:
    """Fits rotation and scale as one complex factor, target = factor * source (both have mean 0)."""
    z = source[..., 0] + 1j * source[..., 1]
    w = target[..., 0] + 1j * target[..., 1]
    factor = (z.conj() * w).sum(axis=1) / (np.abs(z) ** 2).sum(axis=1)
    _reject(np.abs(factor) < _DEGENERATE, "turn inside out", "similarity")
    transform = np.zeros((len(z), 3, 3))
    transform[:, 0, 0] = transform[:, 1, 1] = factor.real
    transform[:, 1, 0] = factor.imag
    transform[:, 0, 1] = -factor.imag
    transform[:, 2, 2] = 1
    return transform


def _fit_affine(source: Float[np.ndarray, "T N 2"], target: Float[np.ndarray, "T N 2"]) -> Float[np.ndarray, "T 3 3"]:
    """Fits the 2x2 matrix of least squares (both have mean 0)."""
    gram = np.einsum("tni,tnj->tij", source, source)
    cross = np.einsum("tni,tnj->tij", target, source)
    transform = np.zeros((len(source), 3, 3))
    transform[:, :2, :2] = cross @ np.linalg.inv(gram)
    transform[:, 2, 2] = 1
    return transform


def _fit_homography(
    source: Float[np.ndarray, "T N 2"], target: Float[np.ndarray, "T N 2"]
) -> Float[np.ndarray, "T 3 3"]:
    """Fits by the direct linear transform: the null vector of two equations per point."""
    ones, zeros = np.ones_like(source[..., :1]), np.zeros_like(source)
    point = np.concatenate([source, ones], axis=-1)
    nothing = np.concatenate([zeros, np.zeros_like(ones)], axis=-1)
    rows_x = np.concatenate([point, nothing, -target[..., :1] * point], axis=-1)
    rows_y = np.concatenate([nothing, point, -target[..., 1:] * point], axis=-1)
    _, values, vectors = np.linalg.svd(np.concatenate([rows_x, rows_y], axis=1))
    _reject(values[:, 7] < _DEGENERATE * values[:, 0], "lie in a line but for one", "homography")
    transform = vectors[:, 8].reshape(-1, 3, 3)
    depth = np.einsum("tj,tnj->tn", transform[:, 2], point)
    flipped = ~((depth > 0).all(axis=1) | (depth < 0).all(axis=1))
    singular = np.abs(np.linalg.det(transform)) < _DEGENERATE**2
    _reject(singular, "lie in a line but for one", "homography")
    _reject(flipped, "turn inside out", "homography")
    return transform
