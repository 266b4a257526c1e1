"""The background of a clip: how the camera moves, and one picture of everything that some frame shows.

The camera's motion from frame to frame is the simplest of rest, shift, similarity and homography that nearly as many
points of the dense flow agree with as with the best. Frames then lie in the coordinates of the first one (the
*reference*), where they are laid on each other: the median of what is not covered is the *plate*. Laid on the plate
again by their colours, frames lose the drift that a long chain of steps has.
"""

import copy
from collections.abc import Iterable

import cv2
import numpy as np

from motionv2v.draft import pictures
from motionv2v.stacks import Frames, Lazy
from motionv2v.tracks import apply_homography
from motionv2v.typing import Bool, Float, Num, UInt8

AGREES = 0.5
"""Pixels of the working size: how far a flow may be from a motion that it agrees with (a standard deviation)."""
SIMPLER = 0.85
"""A simpler motion is taken if this share of what agrees with the best one agrees with it."""
STILL = 0.7
"""A camera that rests in this share of the steps rests, unless it creeps."""
CREEPS = 1.0, 0.04
"""Pixels of the working size by which a corner leaves its place, at all and by step, if a camera creeps."""
ENOUGH = 120
"""Rows, or columns where there are fewer, whose pixels lay a frame on the plate."""
MAX_FRAMES = 25
"""Of a clip that are laid on each other."""
MAX_CANVAS = 1.5
"""The plate reaches at most this many frame sizes beyond the reference frame, on each side."""


def move(matrix: Float[np.ndarray, "3 3"], points: Num[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """Map points by one matrix."""
    return apply_homography(matrix[None], np.asarray(points, np.float64)[:, None])[:, 0]


def camera_steps(
    forward: Float[np.ndarray, "S h w 2"] | Lazy,
    backward: Float[np.ndarray, "S h w 2"] | Lazy,
    texture: Iterable[Float[np.ndarray, "h w"]],
    size: tuple[int, int],
) -> list[Float[np.ndarray, "3 3"]]:
    """Estimate the camera's motion from each frame to the next, in the flows' pixels; all rest if most do.

    `texture`: of each frame but the last. `size`: theirs, (h, w).
    """
    steps = [_camera_step(*parts) for parts in zip(forward, backward, texture, strict=True)]
    still = sum(np.array_equal(step, np.eye(3)) for step, _ in steps)
    if not steps or still < STILL * len(steps):
        return [step for step, _ in steps]
    height, width = size
    corners, way, far = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), np.eye(3), 0.0
    for _, moving in steps:
        way = moving @ way
        far = max(far, float(np.linalg.norm(move(way, corners) - corners, axis=1).mean()))
    # Many steps that are too small to tell from rest may lead far.
    creeps = far > max(CREEPS[0], CREEPS[1] * len(steps))
    return [moving if creeps else np.eye(3) for _, moving in steps]


def _camera_step(
    flow: Float[np.ndarray, "h w 2"], back: Float[np.ndarray, "h w 2"], texture: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 3"]]:
    """Return the simplest motion that will do, and the simplest but rest."""
    points, moves, weight = _samples(flow, back, texture)
    if len(points) < 12:  # a cut, or nothing to see
        return np.eye(3), np.eye(3)

    def support(matrix: Float[np.ndarray, "3 3"]) -> float:
        return float(weight @ _agreement(matrix, points, moves, AGREES))

    shifts = [_refine(pictures.shifting(*shift), points, moves, weight, turns=False) for shift in _modes(moves, weight)]
    similarities = [_refine(shift, points, moves, weight) for shift in shifts[:3]]
    homographies = []
    robust = {"method": cv2.RANSAC, "ransacReprojThreshold": 2 * AGREES, "maxIters": 400}
    affine, _ = cv2.estimateAffinePartial2D(points, points + moves, **robust)
    if affine is not None:
        similarities.append(_refine(np.vstack([affine, [0, 0, 1]]), points, moves, weight))
    found, _ = cv2.findHomography(points, points + moves, cv2.RANSAC, 2 * AGREES, maxIters=400)
    if found is not None:
        homographies.append(found)
    best = [max(models, key=support) for models in ([np.eye(3)], shifts, similarities, homographies) if models]
    least = SIMPLER * max(map(support, best))
    enough = [support(model) >= least for model in best]
    return best[enough.index(True)], best[enough.index(True, 1) if any(enough[1:]) else 1]


def _samples(flow, back, texture):
    """Return points of a grid, where the flow takes them, and their weights; only those that the way back confirms."""
    height, width = flow.shape[:2]
    spacing = max(4, round(min(height, width) / 40))
    y, x = (part.ravel() for part in np.mgrid[spacing // 2 : height : spacing, spacing // 2 : width : spacing])
    moves = flow[y, x].astype(np.float64)
    points = np.stack([x + 0.5, y + 0.5], axis=1)
    there = points + moves
    at = np.clip(np.floor(there).astype(int), 0, (width - 1, height - 1))
    missed = np.linalg.norm(moves + back[at[:, 1], at[:, 0]], axis=1)
    good = (missed < 1) & (there > 0).all(axis=1) & (there < (width, height)).all(axis=1)
    share = points / (width, height)
    edge = np.minimum(share, 1 - share).min(axis=1)
    # Smooth ground tells little of its motion; and what touches the frame's border is more often background.
    weight = (np.sqrt(texture[y, x]) + 0.3) * (1 + 2 * np.exp(-edge / 0.1))
    return points[good], moves[good], weight[good]


def _agreement(matrix, points, moves, deviation):
    return np.exp(-0.5 * (np.linalg.norm(move(matrix, points) - points - moves, axis=1) / deviation) ** 2)


def _modes(moves, weight, most=4):
    """Return the commonest shifts, in pixels."""
    cells, which = np.unique(np.round(2 * moves).astype(int), axis=0, return_inverse=True)
    heaviest = np.argsort(-np.bincount(which.ravel(), weights=weight))[:most]
    return cells[heaviest] / 2


def _refine(matrix, points, moves, weight, turns=True, rounds=7):
    """Fit a similarity, or a shift, again and again to the points that agree with the last one."""
    start, end = (part[:, 0] + 1j * part[:, 1] for part in (points, points + moves))
    for index in range(rounds):
        trust = weight * _agreement(matrix, points, moves, AGREES * (3 if index == 0 else 1.5))
        if trust.sum() < 1e-6:
            break
        middle, centre = (trust @ part / trust.sum() for part in (start, end))
        arm = start - middle
        power = trust @ np.abs(arm) ** 2
        factor = (trust * arm.conj()) @ (end - centre) / power if turns and power > 1e-9 else 1.0 + 0j
        shift = centre - factor * middle
        matrix = similarity_matrix(factor, shift)
    return matrix


def similarity_matrix(factor: complex, shift: complex) -> Float[np.ndarray, "3 3"]:
    """Return z -> factor z + shift of complex positions as a matrix."""
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag], [0, 0, 1.0]])


class Plate:
    """The background in the reference's coordinates, on a canvas that holds all frames.

    Attributes:
        picture, known: uint8 [h w 3], and where some frame shows it. to_canvas: from the reference to the canvas.
        spread: how far frames are from the picture on average, in levels, [h w]; only if it was asked for.
    """

    def __init__(
        self,
        frames: UInt8[np.ndarray, "T H W 3"] | Lazy,
        cameras: Float[np.ndarray, "T 3 3"],
        covered: Bool[np.ndarray, "T H W"] | Lazy | None = None,
        spread: bool = False,
    ):
        """Lay the frames on each other: `cameras` take each one to the reference; `covered` pixels do not count.

        `spread`: find how far they are from one another, too.
        """
        size, (height, width) = np.array(frames.shape[2:0:-1]), frames.shape[1:3]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        reach = np.concatenate([move(camera, corners) for camera in cameras])
        low = np.clip(np.floor(reach.min(axis=0)), -MAX_CANVAS * size, 0)
        high = np.clip(np.ceil(reach.max(axis=0)), size, (1 + MAX_CANVAS) * size)
        self.to_canvas = pictures.shifting(*-low)
        canvas = tuple(int(n) for n in (high - low)[::-1])
        laid, valid = [], []
        for t in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).astype(int)):
            matrix = self.to_canvas @ cameras[t]
            cubic = {"interpolation": cv2.INTER_CUBIC, "border": cv2.BORDER_REPLICATE}
            laid.append(pictures.warp(frames[t], matrix, canvas, **cubic))
            free = np.full((height, width), 255, np.uint8)
            if covered is not None:
                free[covered[t]] = 0
            valid.append(pictures.warp(free, matrix, canvas) > 250)
        picture, count = pictures.median(laid, valid)
        self.known = count > 0
        self.picture = pictures.complete(picture, self.known)
        self.spread = np.zeros(canvas, np.float32)
        if spread:
            for frame, shown in zip(laid, valid, strict=True):
                self.spread += cv2.absdiff(frame, picture).max(axis=-1) * shown
            self.spread /= np.maximum(count, 1)

    def reduced(self, times: int) -> "Plate":
        """Return the plate of frames that are so many times smaller."""
        made, size = copy.copy(self), tuple(-(-side // times) for side in self.known.shape[::-1])
        made.picture = cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA)
        made.known = cv2.resize(self.known.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 250
        factor = np.diag([*(np.array(size) / self.known.shape[::-1]), 1.0])
        made.to_canvas = factor @ self.to_canvas @ pictures.scaling(times)
        return made

    def seen_from(
        self, camera: Float[np.ndarray, "3 3"], size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
        """Draw the plate as a camera sees it (reference to frame), and where some frame has shown it."""
        matrix = camera @ np.linalg.inv(self.to_canvas)
        cubic = {"interpolation": cv2.INTER_CUBIC, "border": cv2.BORDER_REPLICATE}
        picture = pictures.warp(self.picture, matrix, size, **cubic)
        return picture, pictures.warp(self.known.astype(np.uint8) * 255, matrix, size) > 250


def register(
    small: Frames,
    plate: Plate,
    cameras: Float[np.ndarray, "T 3 3"],
    free: Frames,
    frames: Iterable[int],
    rounds: int = 5,
) -> Float[np.ndarray, "T 3 3"]:
    """Lay every frame on the plate by its colours; return better `cameras`, to the first frame again.

    Args:
        small: frames in Lab, float32 [h w 3]. plate, cameras: of frames of that size.
        free: what is background, bool [h w] of each.
        frames: the numbers of all frames, in turn.
        rounds: of Gauss and Newton, each of which corrects by one similarity.
    """
    # Far fewer pixels than there are fix four numbers: larger frames are looked at half as large, or smaller.
    every = max(1, round(min(small.shape[1:3]) / ENOUGH))
    whole, cameras = pictures.scaling(every), pictures.scaling(1 / every) @ cameras @ pictures.scaling(every)
    plate, middle = plate.reduced(every), slice(every // 2, None, every)
    height, width = size = tuple(len(range(side)[middle]) for side in free.shape[1:])
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = columns - width / 2, rows - height / 2
    to_middle = pictures.shifting(width / 2, height / 2)
    better = []
    for t in frames:
        camera, frame = cameras[t], small[t][: height * every, : width * every]
        frame = cv2.GaussianBlur(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), (0, 0), 1.0)
        is_free = free[t][middle, middle]
        for _ in range(rounds):
            seen, known = plate.seen_from(np.linalg.inv(camera), size)
            seen = cv2.GaussianBlur(pictures.to_lab(seen), (0, 0), 1.0)
            across, down = (cv2.Sobel(seen, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
            difference = frame - seen
            size_of = np.linalg.norm(difference, axis=-1)
            usable = known & is_free
            if usable.mean() < 0.05:
                break
            # Cauchy's weights: what is much unlike the plate, such as an object that was not found, hardly counts.
            weight = usable / (1 + (size_of / max(3.0, 2 * np.median(size_of[usable]))) ** 2) ** 2
            zoom = across * x[..., None] + down * y[..., None]
            turn = down * x[..., None] - across * y[..., None]
            slopes = np.stack([zoom, turn, across, down], axis=-1)  # [h w 3 4]
            normal = np.einsum("hwci,hwcj,hw->ij", slopes, slopes, weight, optimize=True)
            right = np.einsum("hwci,hwc,hw->i", slopes, difference, weight, optimize=True)
            # A little of the diagonal keeps directions still that the picture says nothing about.
            a, b, dx, dy = np.linalg.solve(normal + 1e-3 * np.diag(np.diag(normal)) + 1e-6 * np.eye(4), right)
            step = to_middle @ similarity_matrix(complex(1 + a, b), complex(dx, dy)) @ np.linalg.inv(to_middle)
            camera = camera @ step
            if max(abs(dx), abs(dy)) < 0.01:
                break
        better.append(camera)
    # The plate is where most frames are: the first one, which is the reference, is off it as the others are off them.
    return whole @ np.linalg.inv(better[0]) @ np.stack(better) @ np.linalg.inv(whole)
