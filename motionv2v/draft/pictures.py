"""Pictures moved, compared and completed: what the other files of this folder do to pixels.

A matrix [3 3] maps positions of one picture to positions of another, in the package's coordinates: (0, 0) is the corner
of the top-left pixel. OpenCV puts it at that pixel's centre, which `warp` alone knows.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from motionv2v.typing import Bool, Float, Int, Num, Shaped, UInt8

BAND = 60
"""Rows of pictures that are sorted at once: the copies that it takes are as large."""
_TO_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])


def warp(
    picture: Num[np.ndarray, "H W *C"],
    matrix: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    *,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_CONSTANT,
    value: float | int | tuple[float | int, ...] = 0,
) -> Num[np.ndarray, "h w *C"]:
    """Draw a picture moved by `matrix` on a canvas of size (h, w); outside it the border that OpenCV is told."""
    matrix = _TO_CENTRES @ matrix @ np.linalg.inv(_TO_CENTRES)
    matrix = matrix / matrix[2, 2]
    options = {"flags": interpolation, "borderMode": border, "borderValue": value}
    if np.abs(matrix[2, :2]).max() < 1e-12:
        return cv2.warpAffine(picture, matrix[:2], size[::-1], **options)
    return cv2.warpPerspective(picture, matrix, size[::-1], **options)


def inside(size: tuple[int, int], matrix: Float[np.ndarray, "3 3"], to: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Say where a picture of one size lands, moved by `matrix`, on a canvas of the size `to`."""
    return warp(np.full(size, 255, np.uint8), matrix, to) > 250


def scaling(factor: float | int | np.number) -> Float[np.ndarray, "3 3"]:
    """Return the matrix of an enlargement."""
    return np.diag([factor, factor, 1.0])


def shifting(x: float | int | np.number, y: float | int | np.number) -> Float[np.ndarray, "3 3"]:
    """Return the matrix of a shift, in pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def extent(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice] | None:
    """Return the rows and columns of the smallest box that holds a mask; None if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows else None


def to_lab(picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """Return colours in which distances are near what the eye sees; OpenCV's 8-bit Lab, as float32."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)


def distance(
    picture: Float[np.ndarray, "H W 3"], other: Float[np.ndarray, "H W 3"], reach: int = 1
) -> Float[np.ndarray, "H W"]:
    """Return how far each colour is from all of those within `reach` pixels of its place in the other picture.

    The neighbourhood counts as the box that its colours span, so that an edge which is a fraction of a pixel off, and
    every colour between its two sides, is near.
    """
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    low, high = cv2.erode(other, kernel), cv2.dilate(other, kernel)
    return np.linalg.norm(np.maximum(np.maximum(low - picture, picture - high), 0), axis=-1)


def median(
    pictures: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "F H W 3"],
    valid: Sequence[Bool[np.ndarray, "H W"]] | Bool[np.ndarray, "F H W"],
) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
    """Return the median of each pixel over the pictures in which it is valid, and their number."""
    middle, count = np.empty_like(pictures[0]), np.empty(valid[0].shape, np.int64)
    for start in range(0, len(count), BAND):
        rows = slice(start, start + BAND)
        parts = (np.stack([of[rows] for of in every]) for every in (pictures, valid))
        middle[rows], count[rows] = _median_of_rows(*parts)
    return middle, count


def _median_of_rows(pictures, valid):
    # What is not valid becomes black and white in turn, half above and half below what is.
    filler = np.where(np.cumsum(~valid, axis=0) % 2, 0, 255).astype(np.uint8)
    rows = list(np.where(valid[..., None], pictures, filler[..., None]))
    # Bubble sort of whole pictures, up to the middle: several times as fast as a sort of each pixel's values.
    for end in range(len(rows) - 1, len(rows) // 2 - 2, -1):
        for k in range(end):
            rows[k], rows[k + 1] = np.minimum(rows[k], rows[k + 1]), np.maximum(rows[k], rows[k + 1])
    upper, lower = rows[len(rows) // 2], rows[(len(rows) - 1) // 2]
    return cv2.addWeighted(upper, 0.5, lower, 0.5, 0), valid.sum(axis=0)


def complete(picture: UInt8[np.ndarray, "H W 3"], known: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Fill what is not known smoothly from what is, coarse to fine; where nothing is known the picture stays."""
    filled = complete_values(picture.astype(np.float32), known)
    return np.where(known[..., None], picture, np.clip(filled + 0.5, 0, 255).astype(np.uint8))


def complete_values(values: Float[np.ndarray, "H W C"], known: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W C"]:
    """Continue values smoothly to where they are not known, coarse to fine; where nothing is known they stay."""
    if known.all() or not known.any():
        return values
    kept = np.where(known[..., None], values, 0).astype(np.float32)
    levels = [(kept, known.astype(np.float32))]
    while min(levels[-1][1].shape) > 2 and (levels[-1][1] == 0).any():
        smaller, weight = (cv2.pyrDown(part) for part in levels[-1])
        levels.append((smaller.reshape(*weight.shape, -1), weight))
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for part, weight in levels[-2::-1]:
        filled = cv2.pyrUp(filled, dstsize=weight.shape[::-1]).reshape(*weight.shape, -1)
        filled = part + (1 - np.minimum(weight, 1))[..., None] * filled
    return np.where(known[..., None], values, filled).astype(np.float32)


def spread(picture: Shaped[np.ndarray, "H W *C"], core: Bool[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H W *C"]:
    """Continue the values of `core` beyond its edge, where colours are mixed with what lies behind: the nearest ones.

    Without a core the picture stays.
    """
    if not core.any():
        return picture
    options = {"distanceType": cv2.DIST_L2, "maskSize": cv2.DIST_MASK_5, "labelType": cv2.DIST_LABEL_PIXEL}
    _, labels = cv2.distanceTransformWithLabels((~core).astype(np.uint8), **options)
    place = np.zeros(labels.max() + 1, np.int64)
    place[labels[core]] = np.flatnonzero(core)
    return picture.reshape(-1, *picture.shape[2:])[place[labels]]


def matte(picture: UInt8[np.ndarray, "H W 3"], cover: Float[np.ndarray, "H W"], reach: int) -> Float[np.ndarray, "H W"]:
    """Lay a coarse mask's edge on the picture's: a guided filter (He et al. 2010) in a band along it.

    Args:
        cover: the mask, 0 to 1. reach: of the filter, and of the band, in pixels.
    """
    guide = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    box = (2 * reach + 1,) * 2
    mean_g, mean_c = cv2.blur(guide, box), cv2.blur(cover, box)
    slope = (cv2.blur(guide * cover, box) - mean_g * mean_c) / (cv2.blur(guide * guide, box) - mean_g**2 + 1e-3)
    offset = mean_c - slope * mean_g
    fine = np.clip(cv2.blur(slope, box) * guide + cv2.blur(offset, box), 0, 1)
    # Thin edges: what the filter leaves half-covered over many pixels is decided.
    fine = np.clip((fine - 0.5) * 2 + 0.5, 0, 1)
    kernel = np.ones(box, np.uint8)
    binary = (cover > 0.5).astype(np.uint8)
    band = (cv2.dilate(binary, kernel) - cv2.erode(binary, kernel)) > 0
    return np.where(band, fine, binary).astype(np.float32)
