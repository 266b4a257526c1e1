"""A thing followed through the clip by its looks, from the frame that shows most of its points.

Trackers slide off, and call points visible where the thing has left the frame. What lies around a thing's points in its
best frame (the *template*) is looked for in frame after frame, from there to both ends: where the points say, where it
would be had it gone on as before, and around there; the best of these is fitted to the colours (Lucas and Kanade 1981,
with turn and zoom). A thing of several points that looks like itself around those that are seen is where they say: a
fit to all of it would be drawn off by whatever hides a part. A frame shows the thing if it fits the template better
than what is behind it would.
"""

from dataclasses import replace

import cv2
import numpy as np

from motionv2v.draft import background, pictures
from motionv2v.draft.background import Plate
from motionv2v.draft.clip import Prepared
from motionv2v.draft.layers import Layer
from motionv2v.draft.masks import Mask
from motionv2v.typing import Bool, Float

AROUND = 0.04
"""Of a point that counts as the template, in the shorter side."""
CAP = 25.0
"""Distance of colours in Lab from which on a pixel tells no more."""
FITS, BETTER = 14.0, 0.6
"""Mean distance to the template, capped, in a frame that shows it; and at most this share of what is behind it has."""
MOST_ZOOM = 0.2
"""From a frame to the next, in the logarithm; points that say more have slid off."""
LEAST_SHOWN = 20
"""Pixels of a mask, at the working size, that can be compared."""
LEAST_INSIDE = 0.25
"""Share of the template that the frame must hold."""
LIKE_ITSELF = 7.0
"""Distance to the template around the points that are seen, up to which they are where the tracker says (median)."""
STEADY = 0.1
"""Zoom (logarithm) from frame to frame up to which points are believed, which may slide towards one another."""
TRUSTED = 0.85
"""Elsewhere the points' own motion stays unless another one has at most this share of its distance."""
PATIENCE = 5
"""Frames in a row in which a lost thing is looked for around its place; then only where points and course say."""
SEARCH = 0.12
"""How far around its expected place a lost thing is looked for, in the shorter side."""


class _Template:
    """What lies around a layer's points in its best frame, at the working size."""

    def __init__(self, clip: Prepared, layer: Layer):
        best, scale = layer.best, clip.scale
        z = layer.paths()[layer.seen[:, best] if layer.seen[:, best].any() else slice(None), best] * scale
        radius = max(4.0, AROUND * min(clip.small_size))
        height, width = clip.small_size
        low_x, high_x = (int(np.clip(v, 0, width)) for v in (z.real.min() - radius, z.real.max() + radius + 1))
        low_y, high_y = (int(np.clip(v, 0, height)) for v in (z.imag.min() - radius, z.imag.max() + radius + 1))
        self.corner = complex(low_x, low_y)
        self.size = (max(1, high_y - low_y), max(1, high_x - low_x))
        self.picture = cv2.GaussianBlur(clip.lab[best], (0, 0), 1.0)[low_y:high_y, low_x:high_x]
        rows, columns = np.mgrid[: self.size[0], : self.size[1]] + 0.5
        place = columns + 1j * rows + self.corner
        self.window = np.abs(place[..., None] - z).min(axis=-1) < radius
        own = layer.paths()[:, best] * scale
        self.around = (
            np.moveaxis(np.abs(place[..., None] - own) < radius / 2, -1, 0) & self.window
        )  # [M h w], of each point
        self.middle = place[self.window].mean() if self.window.any() else place.mean()
        self.arm = place - self.middle

    def at(self, picture, factor: complex, shift: complex):
        """Return what a frame shows where the template (moved by z -> factor z + shift) would be, and where it does."""
        back = np.linalg.inv(background.similarity_matrix(complex(factor), complex(shift)))
        matrix = pictures.shifting(-self.corner.real, -self.corner.imag) @ back
        shown = pictures.warp(picture, matrix, self.size, value=(-999.0, 0.0, 0.0))
        return shown, self.window & (shown[..., 0] > -1)


def follow(clip: Prepared, layer: Layer, plate: Plate, cameras: Float[np.ndarray, "T 3 3"]) -> Layer:
    """Return the layer with its motion in the clip fitted to the colours, and its points seen only where they are.

    Args:
        plate: the background, with or without things. cameras: take each frame to the reference.
    """
    template = _Template(clip, layer)
    if template.picture.shape[:2] != template.size or not template.window.any():
        return layer  # its points are outside the frame
    follower = _Follower(clip, layer, template, plate, cameras)
    num_frames, best = len(clip.frames), layer.best
    counted = clip.counted(range(num_frames - 1), "thing followed through frame")
    moves: dict[int, tuple[complex, complex]] = {best: (1 + 0j, 0j)}
    shown = np.zeros(num_frames, bool)
    shown[best] = True
    for step in (1, -1):
        speed, state, missed, elsewhere = 0j, moves[best], 0, []
        for q in range(best + step, num_frames if step > 0 else -1, step):
            next(counted)
            found = follower.find(q, state, speed, follower.stepped(q - step, q), searches=missed < PATIENCE)
            missed = missed + 1 if found is None else 0
            if found is None:
                continue
            moved = (found[0] - state[0]) * template.middle + found[1] - state[1]
            by_points = follower.by_points(q)
            if found != by_points:
                off = (found[0] - by_points[0]) * template.middle + found[1] - by_points[1]
                if abs(off) > SEARCH * min(clip.small_size) / 2:
                    elsewhere.append(q)
            else:  # far from where looks alone had led, away from the points: that was another thing, before this one
                for wrong in elsewhere if abs(moved - speed) > SEARCH * min(clip.small_size) else ():
                    del moves[wrong]
                    shown[wrong] = False
                elsewhere = []
            speed, state = (moved if shown[q - step] else 0j), found
            moves[q], shown[q] = found, True
    return _with_moves(layer, moves, shown, clip.scale)


def _with_moves(layer, moves, shown, scale):
    """Return the layer moved so, relative to its best frame at the working size; between by interpolation."""
    factor, shift, best = layer.factor.copy(), layer.shift.copy(), layer.best
    for q, (a, b) in moves.items():
        factor[q], shift[q] = a * layer.factor[best], a * layer.shift[best] + b / scale
    # Where the tracker saw nothing either, its guess is all there is; where it saw what is not there it misleads.
    open_frames, known = np.flatnonzero(~shown & layer.seen.any(axis=0)), np.flatnonzero(shown)
    for parts in (factor, shift):
        parts[open_frames] = np.interp(open_frames, known, parts[known].real) + 1j * np.interp(
            open_frames, known, parts[known].imag
        )
    return replace(layer, factor=factor, shift=shift, there=shown)


def look_again(clip: Prepared, mask: Mask, plate: Plate, cameras: Float[np.ndarray, "T 3 3"]) -> Bool[np.ndarray, "T"]:
    """Return which frames show a thing, now that its whole mask is known: also those that hide or cut all its points.

    A frame shows it if, where the mask lies, it looks like the thing rather than like the plate.
    """
    there = mask.layer.there.copy()
    for q in np.flatnonzero(~there).tolist():
        under, _ = mask.in_frame(clip, q)
        if under.sum() < LEAST_SHOWN:
            continue
        own = pictures.warp(mask.picture, np.linalg.inv(mask.from_frame(q, clip.scale)), clip.small_size)
        behind, known = plate.seen_from(np.linalg.inv(clip.to_small(cameras[q])), clip.small_size)
        as_thing, as_plate = (
            np.minimum(pictures.distance(clip.lab[q], pictures.to_lab(part)), CAP)[under] for part in (own, behind)
        )
        there[q] = as_thing.mean() < min(FITS, BETTER * as_plate.mean()) or not known[under].any()
    return there


class _Follower:
    def __init__(self, clip, layer, template, plate, cameras):
        self.clip, self.layer, self.template, self.plate, self.cameras = clip, layer, template, plate, cameras

    def by_points(self, q: int) -> tuple[complex, complex]:
        """Return the motion from the best frame to frame q as the points say."""
        layer, best = self.layer, self.layer.best
        ratio = layer.factor[q] / layer.factor[best]
        return complex(ratio), complex((layer.shift[q] - ratio * layer.shift[best]) * self.clip.scale)

    def stepped(self, q: int, r: int) -> complex | None:
        """Return how far the points go from frame q to the next one, r, at the working size; None if none is in both.

        Points that slid off their places on a thing still go with it, from frame to frame.
        """
        both = self.layer.seen[:, q] & self.layer.seen[:, r]
        if not both.any():
            return None
        steps = (self.layer.tracked[both, r] - self.layer.tracked[both, q]) * self.clip.scale
        return complex(np.median(steps.real), np.median(steps.imag))

    def find(
        self, q: int, before: tuple[complex, complex], speed: complex, stepped: complex | None, searches: bool
    ) -> tuple[complex, complex] | None:
        """Return the motion from the best frame to frame q, or None where it is not seen.

        `before`: the motion to the frame before; `speed`: by how much it went on there; `stepped`: as the points say.
        """
        layer, template = self.layer, self.template
        frame = cv2.GaussianBlur(self.clip.lab[q], (0, 0), 1.0)
        by_points = self.by_points(q)
        claimed = layer.seen[:, q].any() and abs(np.log(abs(by_points[0] / before[0]))) < MOST_ZOOM
        courses = [(before[0], before[1] + speed)]
        if stepped is not None and not claimed:  # points that slid off their places still go with the thing
            courses.append((before[0], before[1] + stepped))
        starts = [before, *courses]
        if claimed:
            # The points may know where, and yet be too near to one another to know its turn and zoom.
            there = by_points[0] * template.middle + by_points[1]
            starts += [(before[0], there - before[0] * template.middle), by_points]
            # What hides a part of a thing draws a fit off it; one point alone tells neither turn nor zoom.
            near = template.around[layer.seen[:, q]].any(axis=0)
            shown, inside = template.at(frame, *by_points)
            steady = abs(np.log(abs(by_points[0] / before[0]))) < STEADY
            if len(layer.points) > 1 and steady and (inside & near).any():
                unlike = pictures.distance(shown, template.picture)[inside & near]
                if np.median(unlike) < LIKE_ITSELF:
                    return by_points
        errors = [self._error(frame, start) for start in starts]
        start = starts[int(np.argmin(errors))]
        found = self._fit(frame, start)
        error = self._error(frame, found)
        if not self._is_there(q, frame, found, error):
            if not searches:
                return None
            near = min(courses, key=lambda course: self._error(frame, course))
            found = self._fit(frame, self._search(frame, near))
            error = self._error(frame, found)
            if not self._is_there(q, frame, found, error):
                return None
        return by_points if claimed and TRUSTED * errors[-1] <= error + 0.3 else found

    def _error(self, frame, move) -> float:
        shown, inside = self.template.at(frame, *move)
        if inside.sum() < LEAST_INSIDE * self.template.window.sum():
            return CAP
        return float(np.minimum(pictures.distance(shown, self.template.picture), CAP)[inside].mean())

    def _is_there(self, q, frame, move, error) -> bool:
        if error > FITS:
            return False
        view = np.linalg.inv(self.clip.to_small(self.cameras[q]))
        behind, known = self.plate.seen_from(view, self.clip.small_size)
        behind = cv2.GaussianBlur(pictures.to_lab(behind), (0, 0), 1.0)
        behind[~known] = (-999, 0, 0)
        shown, inside = self.template.at(behind, *move)
        if inside.sum() < LEAST_INSIDE * self.template.window.sum():
            return True  # nothing is known of what is behind it
        of_plate = float(np.minimum(pictures.distance(shown, self.template.picture), CAP)[inside].mean())
        # A thing that rests in most frames is in the plate itself, which then is no witness.
        return error <= BETTER * of_plate + 1 or max(error, of_plate) < LIKE_ITSELF

    def _search(self, frame, move):
        """Return the motion whose shift fits best within reach."""
        template, reach = self.template, round(SEARCH * min(self.clip.small_size))
        size = tuple(side + 2 * reach for side in template.size)
        back = np.linalg.inv(background.similarity_matrix(*map(complex, move)))
        corner = template.corner - reach * (1 + 1j)
        wide = pictures.warp(
            frame, pictures.shifting(-corner.real, -corner.imag) @ back, size, border=cv2.BORDER_REPLICATE
        )
        mask = np.repeat(template.window[..., None], 3, axis=-1).astype(np.float32)
        cost = cv2.matchTemplate(wide, template.picture, cv2.TM_SQDIFF, mask=mask)
        y, x = np.unravel_index(int(np.argmin(cost)), cost.shape)
        by = complex(x - reach, y - reach)
        return move[0], move[1] + move[0] * by

    def _fit(self, frame, move, rounds=6):
        """Fit shift, turn and zoom to the colours by Gauss and Newton's steps, with Cauchy's weights."""
        template, (factor, shift) = self.template, move
        spread = float(np.sqrt((np.abs(template.arm[template.window]) ** 2).mean()))
        for _ in range(rounds):
            shown, inside = template.at(frame, factor, shift)
            if inside.sum() < LEAST_INSIDE * template.window.sum():
                return move
            shown = np.where(inside[..., None], shown, template.picture)
            across, down = (cv2.Sobel(shown, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
            difference = template.picture - shown
            distance = np.linalg.norm(difference, axis=-1)
            weight = inside / (1 + (distance / max(3.0, 2 * float(np.median(distance[inside])))) ** 2) ** 2
            x, y = template.arm.real[..., None], template.arm.imag[..., None]
            slopes = np.stack([across * x + down * y, down * x - across * y, across, down], axis=-1)
            normal = np.einsum("hwci,hwcj,hw->ij", slopes, slopes, weight, optimize=True)
            right = np.einsum("hwci,hwc,hw->i", slopes, difference, weight, optimize=True)
            # Turn and zoom are held back as by a tenth of all pixels' evidence: small templates say little of them.
            # Where all is of one colour nothing says anything, and all stays as it is.
            hold = max(0.1 * max(normal[2, 2], normal[3, 3]) * spread**2, 1e-6)
            normal += np.diag([hold, hold, 1e-3 * normal[2, 2] + 1e-6, 1e-3 * normal[3, 3] + 1e-6])
            a, b, dx, dy = np.linalg.solve(normal, right)
            # In the template's coordinates z -> z + (a + ib) (z - middle) + d comes before the motion.
            turn, by = complex(a, b), complex(dx, dy)
            shift = shift + factor * (by - turn * template.middle)
            factor = factor * (1 + turn)
            if abs(by) < 0.02:
                break
        return (factor, shift) if 0.2 < abs(factor) < 5 else move
