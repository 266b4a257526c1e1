"""Holes in a picture filled with its own texture, where smooth colours would show as a stain.

From coarse to fine, every place of a hole looks for the place of the picture whose surroundings are most like its own,
and takes its colours; places that are near to one another take from places that are, because what is found on a coarse
picture is where a finer one looks (after Wexler et al. 2007, "Space-time completion of video", for one frame). Nobody
knows what was there: this is a guess that the eye lives with.
"""

import cv2
import numpy as np

from motionv2v.typing import Bool, Float, Int, UInt8

PATCH, HALF = 7, 3
"""Pixels of the side of what is compared."""
FEW = 900
"""Places of a hole on the coarsest picture, about, which are compared with all of its surroundings."""
LARGEST = 0.08
"""Share of the picture that a hole may be of; larger ones stay smooth."""
ROUNDS = 4
"""Times that places of a hole look for their likes, and pixels are put together of these, at each size."""


def complete(picture: UInt8[np.ndarray, "H W 3"], known: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Fill the holes of a picture with texture; its unknown pixels hold a smooth guess (`pictures.complete`)."""
    picture = picture.copy()
    count, labels, boxes, _ = cv2.connectedComponentsWithStats((~known).astype(np.uint8))
    for index in range(1, count):
        x, y, width, height, area = boxes[index].tolist()
        if not PATCH**2 < area <= LARGEST * known.size:
            continue
        around = max(width, height, 8 * PATCH)
        box = slice(max(0, y - around), y + height + around), slice(max(0, x - around), x + width + around)
        picture[box] = _fill(picture[box], known[box], labels[box] == index)
    return picture


def _fill(picture, known, hole) -> UInt8[np.ndarray, "h w 3"]:
    """Fill one hole."""
    levels = [(picture.astype(np.float32), known, hole)]
    while levels[-1][2].sum() > FEW and min(levels[-1][1].shape) > 8 * PATCH:
        part, seen, gap = levels[-1]
        size = tuple(-(-side // 2) for side in seen.shape[::-1])
        smaller = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        shares = [cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) for mask in (seen, gap)]
        levels.append((smaller, shares[0] > 0.999, shares[1] > 0.001))
    found = None
    for part, seen, gap in levels[::-1]:
        if not (cv2.erode(seen.astype(np.uint8), np.ones((PATCH, PATCH)), borderValue=0) > 0).any():
            return picture  # nothing around it is large enough to take from
        part, found = _at_level(part, seen, gap, found)
    return np.clip(part + 0.5, 0, 255).astype(np.uint8)


def _at_level(part, seen, gap, found):
    """Fill the hole of one level, from smooth colours, or from where the level before had `found` its likes [h w 2]."""
    takes = cv2.erode(seen.astype(np.uint8), np.ones((PATCH, PATCH)), borderValue=0) > 0
    wanted = cv2.dilate(gap.astype(np.uint8), np.ones((PATCH, PATCH))) > 0
    wanted[:HALF] = wanted[-HALF:] = wanted[:, :HALF] = wanted[:, -HALF:] = False
    places, choices = (np.stack(np.nonzero(mask), axis=-1) for mask in (wanted, takes))
    if found is not None:
        coarse = np.minimum(places // 2, np.array(found.shape[:2]) - 1)
        likes = _snapped(2 * found[coarse[:, 0], coarse[:, 1]] + places % 2, takes)
        part = _vote(part, gap, places, likes)
    for _ in range(ROUNDS):
        own = _patches(part, places)
        if found is None:
            likes = choices[_nearest(own, _patches(part, choices))]
        else:
            likes = _better(part, own, likes, takes)
        part = _vote(part, gap, places, likes)
    found = np.stack(np.mgrid[: gap.shape[0], : gap.shape[1]], axis=-1)
    found[places[:, 0], places[:, 1]] = likes
    return part, found


def _patches(part, places: Int[np.ndarray, "M 2"]) -> Float[np.ndarray, "M F"]:
    """Return the surroundings of places."""
    windows = np.lib.stride_tricks.sliding_window_view(part, (PATCH, PATCH), axis=(0, 1))
    return windows[places[:, 0] - HALF, places[:, 1] - HALF].reshape(len(places), -1)


def _nearest(own, others) -> Int[np.ndarray, "M"]:
    """Return for each patch which of the others is most like it."""
    lengths, best = (others**2).sum(axis=1), []
    for start in range(0, len(own), 256):
        best.append((lengths - 2 * own[start : start + 256] @ others.T).argmin(axis=1))
    return np.concatenate(best)


def _snapped(likes, takes) -> Int[np.ndarray, "M 2"]:
    """Move places to the nearest ones that may be taken from."""
    options = {"distanceType": cv2.DIST_L2, "maskSize": cv2.DIST_MASK_5, "labelType": cv2.DIST_LABEL_PIXEL}
    _, labels = cv2.distanceTransformWithLabels((~takes).astype(np.uint8), **options)
    place = np.zeros((labels.max() + 1, 2), np.int64)
    place[labels[takes]] = np.stack(np.nonzero(takes), axis=-1)
    inside = np.clip(likes, 0, np.array(takes.shape) - 1)
    return place[labels[inside[:, 0], inside[:, 1]]]


def _better(part, own, likes, takes) -> Int[np.ndarray, "M 2"]:
    """Return the best of the places within two pixels of those that were found."""
    best, least = likes, np.full(len(likes), np.inf)
    for step in np.ndindex(5, 5):
        there = np.clip(likes + step - 2, HALF, np.array(takes.shape) - 1 - HALF)
        off = ((_patches(part, there) - own) ** 2).sum(axis=1)
        off[~takes[there[:, 0], there[:, 1]]] = np.inf
        closer = off < least
        best, least = np.where(closer[:, None], there, best), np.where(closer, off, least)
    return best


def _vote(part, gap, places, likes):
    """Give each pixel of a hole the mean of what the patches over it would put there, the more alike, the more."""
    theirs = _patches(part, likes)
    off = ((_patches(part, places) - theirs) ** 2).mean(axis=1)
    trust = np.exp(-off / (2 * max(float(np.percentile(off, 75)), 1.0))).astype(np.float32) + 1e-6
    theirs = theirs.reshape(-1, 3, PATCH, PATCH)
    total, weights = np.zeros_like(part), np.zeros(gap.shape, np.float32)
    for down, right in np.ndindex(PATCH, PATCH):
        # No place comes twice, so that plain addition will do.
        y, x = places[:, 0] + down - HALF, places[:, 1] + right - HALF
        total[y, x] += theirs[:, :, down, right] * trust[:, None]
        weights[y, x] += trust
    voted = total / np.maximum(weights, 1e-6)[..., None]
    return np.where((gap & (weights > 0))[..., None], voted, part)
