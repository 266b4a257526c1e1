"""Windows, ramps and keyframe weights."""

import numpy as np
import pytest

from motionv2v.edits import selection
from motionv2v.tracks import from_arrays


def test_key_weights_linear_is_numpy_interp():
    frames, values = np.array([2, 3, 7]), np.array([5.0, -1.0, 4.0])
    got = selection.key_weights(frames, 10, "linear") @ values
    np.testing.assert_allclose(got, np.interp(np.arange(10), frames, values), atol=1e-12)


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_key_weights_hit_keyframes_hold_outside_and_keep_straight_lines(interpolation):
    frames = np.array([2, 3, 7, 8])
    weights = selection.key_weights(frames, 12, interpolation)
    np.testing.assert_array_equal(weights[frames], np.eye(4))
    np.testing.assert_array_equal(weights[:2], np.eye(4)[[0, 0]])
    np.testing.assert_array_equal(weights[9:], np.eye(4)[[3, 3, 3]])
    np.testing.assert_allclose(weights[2:9] @ frames, np.arange(2, 9), atol=1e-12)  # a constant velocity stays so


def test_key_weights_smooth_has_no_kink():
    frames = np.array([0, 400, 1000])
    path = selection.key_weights(frames, 1001, "smooth") @ np.array([0.0, 10.0, 0.0])
    speed = np.diff(path)
    # a linear path's speed jumps by 0.042 at frame 400; a spline's changes by acceleration * 1 frame only
    assert abs(speed[400] - speed[399]) < 5e-4


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_key_weights_with_a_pace_go_the_same_way_at_other_times(interpolation):
    frames, values = np.array([0, 10, 20]), np.array([0.0, 5.0, -10.0])
    fine = selection.key_weights(frames * 10, 201, interpolation) @ values  # the same way, finer in time
    paces = {"in": lambda s: s**2, "out": lambda s: 1 - (1 - s) ** 2, "in-out": lambda s: 3 * s**2 - 2 * s**3}
    for word, pace in paces.items():
        got = selection.key_weights(frames, 25, interpolation, word) @ values
        times = [10 * min(t // 10, 1) + 10 * pace(min((t - 10 * min(t // 10, 1)) / 10, 1)) for t in range(25)]
        np.testing.assert_allclose(got, np.interp(np.multiply(times, 10), np.arange(201), fine), atol=0.02)
    held = selection.key_weights(frames, 25, interpolation, "hold") @ values
    assert held.tolist() == [0] * 10 + [5] * 10 + [-10] * 5
    own = selection.key_weights(frames, 25, interpolation, {10: "hold"}) @ values
    plain = selection.key_weights(frames, 25, interpolation) @ values
    assert own[:11].tolist() == plain[:11].tolist() and own[10:20].tolist() == [5] * 10 and own[20] == -10
    for ease, message in (("slow", "choose one of even, in"), ({5: "in"}, "frame 5 is no keyframe; keyframes are")):
        with pytest.raises(ValueError, match=message):
            selection.key_weights(frames, 25, interpolation, ease)


def test_clock_in_a_window_runs_without_a_jump():
    frames = np.arange(10)
    got = selection.clock(frames, 0.5, 2, 6, 9)
    assert got.tolist() == [0, 1, 2, 2.5, 3, 3.5, 4, 5, 6, 7]
    assert selection.clock(frames, 2.0, None, None, 9).tolist() == (2.0 * frames).tolist()


def test_ramp_of_windows():
    tracks = from_arrays(np.zeros((1, 6, 2)))
    assert selection.ramp(tracks, None, None, "smooth").tolist() == [1] * 6
    assert selection.ramp(tracks, 1, 5, "linear").tolist() == [0, 0, 0.25, 0.5, 0.75, 1]
    assert selection.ramp(tracks, 3, 3, "linear").tolist() == [0, 0, 0, 1, 1, 1]
    smooth = selection.ramp(tracks, 0, 4, "smooth")
    assert smooth[[0, 2, 4, 5]].tolist() == [0, 0.5, 1, 1] and smooth[1] < 0.25 < 0.75 < smooth[3]
