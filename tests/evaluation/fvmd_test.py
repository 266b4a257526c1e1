"""Frechet video motion distance: its histograms on tracks that are known, and sets of videos that move alike or not."""

import numpy as np
import pytest
from moving_square import textured

from motionv2v import trackers
from motionv2v.evaluation import distances, fvmd
from motionv2v.tracks import Tracks


def window(velocity):
    """Tracks of the grid that all go by one velocity, [2] or [15 2], in pixels a frame."""
    steps = np.zeros((fvmd.WINDOW, 2))
    steps[1:] = velocity
    return (fvmd._grid()[:, None, 1:] + np.cumsum(steps, axis=0)).astype(np.float64)


def cells(features):
    """Split features into velocities and accelerations, [2, rows, columns, frames, directions]."""
    return features.reshape(2, 4, 4, 4, 8)


def test_what_rests_moves_nowhere():
    assert not fvmd.of_tracks(window((0, 0))).any() and fvmd.of_tracks(window((0, 0))).shape == (1024,)


@pytest.mark.parametrize(("length", "weight"), [(0.5, 0.125), (2.9, 0.25), (20, 0.625), (1000, 1)])
@pytest.mark.parametrize(("angle", "direction"), [(100, 2), (200, 4), (350, 7)])
def test_velocities_count_by_direction_and_logarithm(length, weight, angle, direction):
    """Directions are those of atan2(x, y); the first frame has no velocity, so that its cells count three of four."""
    turned = np.radians(angle)
    velocity, acceleration = cells(fvmd.of_tracks(window(length * np.array([np.sin(turned), np.cos(turned)]))))
    expected = np.zeros((4, 4, 4, 8))
    expected[..., direction] = weight * 25 * np.array([3, 4, 4, 4])
    np.testing.assert_allclose(velocity, expected)
    assert not acceleration.any(), "what goes evenly is not accelerated"


def test_accelerations_begin_with_the_third_frame():
    """A point that goes faster by (2, 1) pixels in each frame, of which the first two have no acceleration."""
    velocity = np.arange(1, 16)[:, None] * np.array([2, 1])
    _, acceleration = cells(fvmd.of_tracks(window(velocity)))
    expected = np.zeros((4, 4, 4, 8))
    expected[..., 1] = 0.25 * 25 * np.array([2, 4, 4, 4])  # log2(sqrt(5) + 1) is between 1 and 2; 63 degrees
    np.testing.assert_allclose(acceleration, expected)


def test_cells_are_where_their_points_are():
    xy = window((0, 0)).reshape(20, 20, 16, 2)
    xy[5:10, 15:20, 9:, 0] += 10  # second row, last column, once, in the third cell of time
    velocity, _ = cells(fvmd.of_tracks(xy.reshape(400, 16, 2)))
    assert np.argwhere(velocity.any(axis=-1)).tolist() == [[1, 3, 2]]


class Pan:
    """Says that all points go by one velocity, and tremble."""

    def __init__(self, rng, velocity):
        self._rng, self._velocity = rng, velocity

    def track(self, frames, queries):
        steps = np.arange(len(frames))[:, None] * np.array(self._velocity)
        xy = queries[:, None, 1:] + steps + self._rng.normal(0, 0.2, (len(queries), len(frames), 2))
        return Tracks(xy.astype(np.float32), np.ones(xy.shape[:2], bool))


def test_videos_that_move_alike_are_near_and_others_are_far():
    frames = np.zeros((25, 32, 48, 3), np.uint8)
    right, again, left = (
        fvmd.features(frames, Pan(np.random.default_rng(seed), velocity))
        for seed, velocity in ((0, (4, 1)), (1, (4, 1)), (0, (-4, 1)))
    )
    assert right.shape == (10, 1024)
    near, far = (distances.frechet(right, other, notify=lambda line: None) for other in (again, left))
    assert distances.frechet(right, right, notify=lambda line: None) == pytest.approx(0, abs=1e-6)
    assert 0 < near < far / 5
    assert fvmd.features(frames, Pan(np.random.default_rng(0), (4, 1)), stride=5).shape == (2, 1024)
    assert fvmd.features(frames[:15], Pan(np.random.default_rng(0), (4, 1))).shape == (0, 1024)


def test_a_tracker_of_ours_sees_which_way_a_picture_goes():
    """Two pixels a frame to the right, which are five at 256x256; what comes in at the edge is left out."""
    wide = textured(np.random.default_rng(0), (96, 128))
    frames = np.stack([wide[:, 32 - 2 * t : 128 - 2 * t] for t in range(16)])
    (features,) = fvmd.features(frames, trackers.named("lk"))
    velocity, _ = cells(features)
    inner = velocity[1:-1, :2, 1:].sum(axis=(0, 1, 2))
    assert inner[1:3].sum() > 0.9 * inner.sum(), "right, on the edge of two directions"
