"""Follow points by optical flow over steps of several lengths: mode "multistep" of the classical tracker. No weights.

Frame t is reached from 1, 2, 4, ... 32 frames before, after the idea of MFT (Neoral et al. 2024) with DIS for the flow.
Candidates are judged by how far the flows there miss when followed back, summed from the query on, and by how much the
place looks like the query. The best one is then moved onto the query's own picture by Lucas-Kanade (in the inverse
compositional form of Baker and Matthews 2004), which ends the drift of a chain. A point is visible where it looks like
its query and its last step leads back; it comes back after it was covered: for the editor.

Where a point is claimed invisible, `xy` is the best candidate and a guess.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from motionv2v.trackers.classical import cut_patches
from motionv2v.trackers.dense import FlowTracker, check_options, steps, unmoved
from motionv2v.trackers.flows import Flows, is_inside
from motionv2v.typing import Float, Int, UInt8

_SIDE, _SPACING = 11, 1.5  # samples per side of a patch, and pixels between them
# Similarity is SSIM's structure term with SSIM's constant: patches that vary less than noise does count as alike.
_FLAT = (0.03 * 255) ** 2 / 2
_ITERATIONS, _REACH = 8, 3.0  # of Lucas-Kanade: steps, and pixels that it may move a point in all


@dataclass(frozen=True)
class MultiStep(FlowTracker):
    """Follow points by DIS flow over several step lengths, with a check against the query's picture.

    All lengths are in pixels of the frames as tracked, that is enlarged where the clip is small.

    Confidence is the similarity to the query (0 to 1) / (1 + the summed there-and-back errors in pixels).

    deltas: step lengths in frames. min_similarity: least similarity (-1 to 1) of a visible point to its query.
    max_error: largest distance in pixels between a visible point and itself followed along its last step and back.
    weight: pixels of there-and-back error that weigh as much as a similarity lower by one.
    min_side: frames with a shorter side below this are enlarged by a whole factor to reach it; 0 never enlarges.
    memory: bytes that kept flows may take; a clip that needs more takes up to twice the time instead.
    flow_side: the flow is that of frames made smaller by a whole factor, whose shorter side is at least this; 0 makes
        them never smaller. Places are found at full size all the same, by their looks.
    say: what to do with a line about how long the rest takes, where it takes long; None for nothing.
    """

    deltas: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    min_similarity: float | int = 0.6
    max_error: float | int = 1.5
    weight: float | int = 3.0
    min_side: int = 128
    memory: int = 2**28
    flow_side: int = 240
    say: Callable[[str], None] | None = None

    def __post_init__(self):
        """Raise ValueError for options out of range."""
        check_options(self.max_error, self.min_side, self.memory)
        if 1 not in self.deltas or any(delta < 1 for delta in self.deltas):
            raise ValueError(f"deltas must be whole numbers of frames, at least 1, and contain 1, given {self.deltas}")
        if not -1 <= self.min_similarity < 1:
            raise ValueError(f"min_similarity must be at least -1 and below 1, given {self.min_similarity}")
        if not self.flow_side >= 0:
            raise ValueError(f"flow_side must be 0 pixels or more, given {self.flow_side}")
        if not self.weight >= 0:
            raise ValueError(f"weight must not be negative, given {self.weight}")

    def _follow(self, flows: Flows, start: Int[np.ndarray, "N"], points: Float[np.ndarray, "N 2"], back: bool):
        """Follow points from frame `start` [N] to the last frame, or back to the first."""
        xy, visible, error = unmoved(start, points, len(flows))
        similarity = np.ones(visible.shape)
        template = _Template(flows, start, points)
        for t, _, on in steps(start, len(flows), back, self.say):
            cost, missed = np.full((2, len(points)), np.inf)
            for delta in self.deltas:
                origin = t + delta if back else t - delta
                some = on[start[on] >= origin] if back else on[start[on] <= origin]
                if some.size == 0 or not 0 <= origin < len(flows):
                    continue
                moved, miss = flows.move(origin, t, xy[some, origin])
                alike = template.similarity(flows.frames[t], some, moved)
                total = error[some, origin] + miss
                better = total + self.weight * (1 - alike) < cost[some]
                some = some[better]
                cost[some] = (total + self.weight * (1 - alike))[better]
                missed[some], error[some, t] = miss[better], total[better]
                xy[some, t], similarity[some, t] = moved[better], alike[better]
            moved, alike = template.align(flows.frames[t], on, xy[on, t])
            better = alike > similarity[on, t]
            xy[on[better], t], similarity[on[better], t] = moved[better], alike[better]
            good = (similarity[on, t] > self.min_similarity) & (missed[on] < self.max_error)
            visible[on, t] = good & is_inside(xy[on, t], flows.shape)
        return xy, visible, np.where(visible, np.clip(similarity, 0, 1) / (1 + error), 0)


class _Template:
    """The queries' own patches [N P], by which points are recognised and onto which they are moved.

    A patch is the list of its samples' colours. Its mean over all of them does not count, so that brightness may
    change; a change of hue counts, which tells smooth surfaces from one another.
    """

    def __init__(self, flows: Flows, start: Int[np.ndarray, "N"], points: Float[np.ndarray, "N 2"]):
        self.patches, right, left, below, above = np.zeros((5, len(points), 3 * _SIDE**2), np.float32)
        for t in np.unique(start):
            some = np.flatnonzero(start == t)
            for out, shift in zip(
                (self.patches, right, left, below, above), ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)), strict=True
            ):
                out[some] = _cut(flows.frames[t], points[some] + shift)
        self.slopes = np.stack([right - left, below - above], axis=-1) / 2
        self.slopes -= self.slopes.mean(axis=1, keepdims=True)  # a change of brightness moves nothing
        square = np.einsum("npi,npj->nij", self.slopes, self.slopes)
        # As much as slopes of one grey value per pixel add up to: where a patch is flat, points stay.
        self.inverse = np.linalg.inv(square + 3 * _SIDE**2 * np.eye(2))

    def similarity(self, frame: UInt8[np.ndarray, "H W 3"], some: Int[np.ndarray, "M"], at) -> Float[np.ndarray, "M"]:
        """Compare the places `at` [M 2] of a frame with the queries `some` [M]."""
        return _similarity(_cut(frame, at), self.patches[some])

    def align(
        self, frame: UInt8[np.ndarray, "H W 3"], some: Int[np.ndarray, "M"], at: Float[np.ndarray, "M 2"]
    ) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, "M"]]:
        """Move places `at` of a frame so that they look like the queries; return them and their similarities."""
        template, slopes = self.patches[some], self.slopes[some]
        middle, spread = template.mean(1, keepdims=True), template.std(1, keepdims=True)
        now = at
        for _ in range(_ITERATIONS):
            patch = _cut(frame, now)
            # The patch gets the query's brightness and contrast before the two are compared.
            contrast = np.sqrt((spread**2 + _FLAT) / (patch.var(1, keepdims=True) + _FLAT))
            difference = (patch - patch.mean(1, keepdims=True)) * contrast - (template - middle)
            now = now - np.einsum("nij,npj,np->ni", self.inverse[some], slopes, difference, optimize=True)
            now = at + np.clip(now - at, -_REACH, _REACH)
        return now, _similarity(_cut(frame, now), template)


def _cut(frame: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N P"]:
    return cut_patches(frame, points.astype(np.float32), _SIDE, _SPACING).reshape(len(points), 3 * _SIDE**2)


def _similarity(a: Float[np.ndarray, "N P"], b: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N"]:
    """Return the zero-mean normalised cross-correlation of patches, with a constant that calms flat ones."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return ((a * b).mean(axis=1) + _FLAT) / (np.sqrt((a * a).mean(axis=1) * (b * b).mean(axis=1)) + _FLAT)
