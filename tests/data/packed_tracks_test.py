"""Dense tracks as bytes: what comes back, how little it takes, and what cannot be stored or read."""

import numpy as np
import pytest

from motionv2v.data import packed_tracks
from motionv2v.tracks import Tracks


def smooth(num_points, num_frames, reach=700.0, seed=0):
    rng = np.random.default_rng(seed)
    start = np.stack(np.meshgrid(np.linspace(0, reach, num_points), [3.7]), -1).reshape(-1, 1, 2)
    path = np.cumsum(rng.normal(0, 0.4, (1, num_frames, 2)), axis=1)
    xy = (start + path + rng.normal(0, 0.02, (num_points, num_frames, 2))).astype(np.float32)
    return Tracks(xy, rng.random((num_points, num_frames)) < 0.8)


@pytest.mark.parametrize(("points", "frames"), [(1, 1), (7, 5), (1000, 49), (0, 5)])
def test_what_goes_in_comes_out_within_a_thirty_second_of_a_pixel(points, frames):
    tracks = smooth(points, frames)
    found = packed_tracks.unpack(packed_tracks.pack(tracks))
    assert found.xy.dtype == np.float32 and found.xy.shape == (points, frames, 2)
    np.testing.assert_allclose(found.xy, tracks.xy, rtol=0, atol=1 / 32 + 1e-4)
    np.testing.assert_array_equal(found.visible, tracks.visible)


def test_packing_again_changes_nothing():
    once = packed_tracks.unpack(packed_tracks.pack(smooth(50, 9)))
    twice = packed_tracks.unpack(packed_tracks.pack(once))
    np.testing.assert_array_equal(once.xy, twice.xy)


def test_positions_far_outside_and_jumps_are_kept():
    tracks = smooth(3, 4)
    tracks.xy[1, 2] = (-50_000, 80_000)
    found = packed_tracks.unpack(packed_tracks.pack(tracks))
    np.testing.assert_allclose(found.xy, tracks.xy, rtol=0, atol=1 / 32 + 0.01)


def test_smooth_tracks_take_a_tenth_of_their_size():
    tracks = smooth(4000, 49)
    assert len(packed_tracks.pack(tracks)) < tracks.xy.nbytes / 9


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_what_cannot_be_stored_is_an_error(value):
    tracks = smooth(3, 4)
    tracks.xy[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"not finite|cannot be stored"):
        packed_tracks.pack(tracks)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:5], lambda b: b[:-3], lambda b: b"", lambda b: b[:12] + bytes([b[12] ^ 255]) + b[13:]]
)
def test_damaged_bytes_are_an_error(damage):
    with pytest.raises(ValueError, match="damaged"):
        packed_tracks.unpack(damage(packed_tracks.pack(smooth(20, 6))))
