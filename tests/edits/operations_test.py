"""The edit vocabulary: an oracle, a round trip or an invariant for every edit."""

import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import edits
from motionv2v.tracks import Tracks, at_times, concatenate, from_arrays, select, take_frames

N, T = 6, 9


@pytest.fixture
def source():
    rng = np.random.default_rng(3)
    start = rng.uniform(50, 600, (N, 1, 2))
    xy = start + np.cumsum(rng.normal(0, 8, (N, T, 2)), axis=1)
    return Tracks(xy.astype(np.float32), rng.random((N, T)) < 0.8)


@pytest.fixture
def seen(source):
    """The same paths, every point visible throughout."""
    return Tracks(source.xy, np.ones_like(source.visible))


def assert_same(got, expected, atol=1e-3):
    """Compares tracks; 1e-3 px is a few float32 roundings of positions below 1000 px."""
    np.testing.assert_allclose(got.xy, expected.xy, atol=atol)
    np.testing.assert_array_equal(got.visible, expected.visible)


def assert_untouched(got, source, points):
    others = np.setdiff1d(np.arange(N), points)
    np.testing.assert_array_equal(got.xy[others], source.xy[others])
    np.testing.assert_array_equal(got.visible[others], source.visible[others])


def test_drag_matches_loop(source):
    window = {"start_frame": 2, "end_frame": 6, "ease": "linear"}
    got = edits.drag(source, [1, 4], start=(10, 20), end=(70, -10), falloff=80, **window)
    for n in range(N):
        distance = min(np.hypot(*(source.xy[n, 2] - source.xy[g, 2])) for g in (1, 4))
        weight = 1.0 if n in (1, 4) else np.exp(-(distance**2) / (2 * 80**2))
        for t in range(T):
            ramp = min(max((t - 2) / 4, 0), 1)
            np.testing.assert_allclose(got.xy[n, t], source.xy[n, t] + weight * ramp * np.array([60, -30]), atol=1e-3)


def test_drag_of_the_whole_clip_moves_only_the_group(source):
    got = edits.drag(source, points=[3], by=(5, -7))
    np.testing.assert_allclose(got.xy[3], source.xy[3] + np.array([5, -7]), atol=1e-3)
    assert_untouched(got, source, [3])
    assert_same(edits.drag(got, 3, by=(-5, 7)), source)


@pytest.mark.parametrize(
    "wrong", [{}, {"start": (0, 0)}, {"end": (1, 1)}, {"start": (0, 0), "end": (1, 1), "by": (1, 1)}]
)
def test_drag_needs_one_meaning(source, wrong):
    with pytest.raises(ValueError, match="either start and end, or by"):
        edits.drag(source, **wrong)


def test_drift_matches_loop_and_is_undone_by_the_opposite(source):
    got = edits.drift(source, [0, 2], velocity=(3, -1), t_origin=4)
    for t in range(T):
        np.testing.assert_allclose(got.xy[[0, 2], t] - source.xy[[0, 2], t], [[3 * (t - 4), 4 - t]] * 2, atol=1e-3)
    assert_untouched(got, source, [0, 2])
    assert_same(edits.drift(got, [0, 2], velocity=(-3, 1), t_origin=4), source)


def test_partial_drift_is_a_drift_and_an_opposite_one_later(source):
    partial = edits.drift(source, velocity=(2, 1), start_frame=2, end_frame=5)
    both = edits.drift(edits.drift(source, velocity=(2, 1), start_frame=2), velocity=(-2, -1), start_frame=5)
    assert_same(partial, both)
    np.testing.assert_array_equal(partial.xy[:, :3], source.xy[:, :3])


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
@pytest.mark.parametrize("keep_motion", [False, True])
def test_tween_hits_its_keyframes(source, interpolation, keep_motion):
    keys = {1: (100, 50), 4: (30, 60), 7: (200, 10)}
    got = edits.tween(source, 2, keyframes=keys, interpolation=interpolation, keep_motion=keep_motion)
    for frame, place in keys.items():
        np.testing.assert_allclose(got.xy[2, frame], place, atol=1e-3)
    assert_untouched(got, source, [2])
    if not keep_motion:
        np.testing.assert_allclose(got.xy[2, [0, 8]], [keys[1], keys[7]], atol=1e-3)
    if interpolation == "linear" and not keep_motion:
        np.testing.assert_allclose(got.xy[2, 2], [100 - 70 / 3, 50 + 10 / 3], atol=1e-3)


def test_tween_moves_a_group_rigidly(seen):
    got = edits.tween(seen, [0, 1, 5], keyframes={0: (10, 10), 8: (90, 50)})
    np.testing.assert_allclose(got.xy[[0, 1, 5]].mean(axis=0), np.linspace((10, 10), (90, 50), T), atol=1e-3)
    np.testing.assert_allclose(got.xy[0] - got.xy[5], seen.xy[0] - seen.xy[5], atol=1e-3)


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_tween_by_shifts_each_point_on_whatever_path_it_has(source, seen, interpolation):
    by = {1: (0, 0), 4: (30, -8), 7: (-5, 2)}
    ways = {"interpolation": interpolation, "ease": {1: "in"}}
    got = edits.tween(source, [0, 2], by=by, **ways)
    shift = got.xy[0] - source.xy[0]
    for frame, way in by.items():
        np.testing.assert_allclose(shift[frame], way, atol=1e-3)
    np.testing.assert_allclose(shift[[0, 8]], [by[1], by[7]], atol=1e-3)
    assert 0 < shift[2, 0] < 30 / 3, "slow at first"
    np.testing.assert_allclose(got.xy[2] - source.xy[2], shift, atol=1e-3)
    assert_untouched(got, source, [0, 2])
    alone = edits.tween(edits.drag(source, [2], by=(9, 9)), 2, by=by, **ways)
    np.testing.assert_allclose(alone.xy[2], got.xy[2] + 9, atol=1e-3)
    places = {frame: seen.xy[2, frame] + way for frame, way in by.items()}
    kept = edits.tween(seen, 2, keyframes=places, keep_motion=True, **ways)
    np.testing.assert_allclose(edits.tween(seen, 2, by=by, **ways).xy, kept.xy, atol=1e-3)
    assert_same(edits.tween(source, 2, by=by, keep_motion=True), edits.tween(source, 2, by=by))


def test_tween_through_its_own_path_changes_nothing(source):
    path = {t: source.xy[4, t] for t in range(T)}
    assert_same(edits.tween(source, [4], keyframes=path), source)


def test_retime(source):
    assert_same(edits.retime(source, speed=1.0), source, atol=0)
    assert_same(edits.retime(source, speed=-1.0, about=(T - 1) / 2), edits.reverse(source), atol=0)
    double = edits.retime(source, [1], speed=2, about=2)
    np.testing.assert_array_equal(double.xy[1, 1:6], source.xy[1, [0, 2, 4, 6, 8]])
    np.testing.assert_array_equal(double.visible[1, 1:6], source.visible[1, [0, 2, 4, 6, 8]])
    assert_untouched(double, source, [1])
    np.testing.assert_array_equal(double.xy[1, 6:], source.xy[1, [8, 8, 8]])
    times = np.array([0, 0, 1, 1.5, 2, 8, 7, 6, 20.0])
    assert_same(edits.retime(source, times=times), at_times(source, times), atol=0)


@pytest.mark.parametrize("window", [{}, {"start_frame": 0}, {"end_frame": 8}])
def test_retime_backwards_starts_at_the_end(source, window):
    assert_same(edits.retime(source, speed=-1, **window), edits.reverse(source), atol=0)
    slow = edits.retime(source, speed=-0.5, **window)
    assert_same(slow, at_times(source, 8 - 0.5 * np.arange(T)), atol=0)
    fast = edits.retime(source, speed=-2, **window)
    assert_same(fast, at_times(source, np.array([8, 6, 4, 2, 0, 0, 0, 0, 0])), atol=0)


def test_retime_backwards_in_a_window_plays_it_backwards_without_a_jump(source):
    back = edits.retime(source, speed=-1, start_frame=4, end_frame=6)
    assert_same(back, at_times(source, np.array([0, 1, 2, 3, 4, 3, 2, 3, 4])), atol=0)
    further = edits.retime(source, speed=-1, start_frame=2, end_frame=5)
    assert_same(further, at_times(source, np.array([1, 2, 3, 2, 1, 0, 1, 2, 3])), atol=0)
    too_far = edits.retime(source, speed=-3, start_frame=2, end_frame=5)
    assert_same(too_far, at_times(source, np.array([3, 4, 5, 2, 0, 0, 0, 0, 0])), atol=0)


def test_retime_refuses_a_speed_that_freezes(source):
    with pytest.raises(ValueError, match="at speed -1 about frame 0 nothing but frame 0 is left to see"):
        edits.retime(source, speed=-1, about=0)
    with pytest.raises(ValueError, match="at speed 3 about frame -20 nothing but frame 8 is left to see"):
        edits.retime(source, speed=3, about=-20)
    assert_same(edits.retime(source, speed=0, about=3), edits.freeze(source, frame=3, start_frame=0), atol=0)
    assert_same(
        edits.retime(take_frames(source, np.arange(2)), speed=1),
        take_frames(source, np.arange(2)),
        atol=0,
    )


def test_retime_in_a_window_joins_without_a_jump(source):
    got = edits.retime(source, speed=0.5, start_frame=2, end_frame=6)
    assert_same(got, at_times(source, np.array([0, 1, 2, 2.5, 3, 3.5, 4, 5, 6])), atol=0)


def test_reverse_twice_is_identity(source):
    once = edits.reverse(source, [1, 2], start_frame=1, end_frame=7)
    np.testing.assert_array_equal(once.xy[1, 1:8], source.xy[1, 7:0:-1])
    np.testing.assert_array_equal(once.visible[2, 1:8], source.visible[2, 7:0:-1])
    assert_untouched(once, source, [1, 2])
    assert_same(edits.reverse(once, [1, 2], start_frame=1, end_frame=7), source, atol=0)


def test_freeze(source):
    later = edits.freeze(source, [0], frame=3)
    np.testing.assert_array_equal(later.xy[0], source.xy[0, [0, 1, 2, 3, 3, 3, 3, 3, 3]])
    np.testing.assert_array_equal(later.visible[0], source.visible[0, [0, 1, 2, 3, 3, 3, 3, 3, 3]])
    assert_untouched(later, source, [0])
    whole = edits.freeze(source, frame=3, start_frame=0)
    np.testing.assert_array_equal(whole.xy, np.repeat(source.xy[:, 3:4], T, axis=1))
    assert_same(edits.freeze(whole, frame=5, start_frame=0), whole, atol=0)


def test_scale_matches_loop_and_is_undone_by_the_inverse(seen):
    got = edits.scale(seen, [0, 3], factor=0.5, center=(100, 40))
    np.testing.assert_allclose(got.xy[3], 0.5 * seen.xy[3] + np.array([50, 20]), atol=1e-3)
    assert_untouched(got, seen, [0, 3])
    assert_same(edits.scale(got, [0, 3], factor=2, center=(100, 40)), seen)
    ramped = edits.scale(seen, factor=4, start_frame=2, end_frame=4, ease="linear")
    spread = np.linalg.norm(ramped.xy[0] - ramped.xy[1], axis=-1) / np.linalg.norm(seen.xy[0] - seen.xy[1], axis=-1)
    np.testing.assert_allclose(spread, [1, 1, 1, 2, 4, 4, 4, 4, 4], rtol=1e-4)  # float32 differences
    np.testing.assert_allclose(ramped.xy.mean(axis=0), seen.xy.mean(axis=0), atol=1e-3)


def test_rotate_turns_clockwise_on_the_screen_and_back(seen):
    right = Tracks(np.array([[[110.0, 40.0]] * T] * N, np.float32), seen.visible)
    np.testing.assert_allclose(edits.rotate(right, degrees=90, center=(100, 40)).xy[0, 0], [100, 50], atol=1e-4)
    got = edits.rotate(seen, [1, 2, 5], degrees=33, start_frame=1, end_frame=6)
    np.testing.assert_allclose(
        np.linalg.norm(got.xy[1] - got.xy[5], axis=-1), np.linalg.norm(seen.xy[1] - seen.xy[5], axis=-1), atol=1e-3
    )
    assert_untouched(got, seen, [1, 2, 5])
    assert_same(edits.rotate(got, [1, 2, 5], degrees=-33, start_frame=1, end_frame=6), seen)


@pytest.mark.parametrize("axis", ["vertical", "horizontal"])
@pytest.mark.parametrize("at", [None, 120.0])
def test_mirror_twice_is_identity(seen, axis, at):
    once = edits.mirror(seen, [0, 1], axis=axis, at=at, start_frame=2)
    kept, flipped = (1, 0) if axis == "vertical" else (0, 1)
    line = seen.xy[[0, 1], 2:, flipped].mean(axis=0) if at is None else at
    np.testing.assert_allclose(once.xy[1, 2:, flipped], 2 * line - seen.xy[1, 2:, flipped], atol=1e-3)
    np.testing.assert_array_equal(once.xy[..., kept], seen.xy[..., kept])
    np.testing.assert_array_equal(once.xy[:, :2], seen.xy[:, :2])
    assert_untouched(once, seen, [0, 1])
    assert_same(edits.mirror(once, [0, 1], axis=axis, at=at, start_frame=2), seen)


def test_swap_by_point_exchanges_paths(source):
    once = edits.swap(source, [0, 1], [4, 3], end_frame=5)
    np.testing.assert_array_equal(once.xy[[0, 1, 4, 3], :6], source.xy[[4, 3, 0, 1], :6])
    np.testing.assert_array_equal(once.visible[[0, 1, 4, 3], :6], source.visible[[4, 3, 0, 1], :6])
    np.testing.assert_array_equal(once.xy[:, 6:], source.xy[:, 6:])
    assert_untouched(once, source, [0, 1, 3, 4])
    assert_same(edits.swap(once, [0, 1], [4, 3], end_frame=5), source, atol=0)


def test_swap_by_center_keeps_shapes(seen):
    once = edits.swap(seen, [0, 1], [2, 3, 4], by="center")
    np.testing.assert_allclose(once.xy[[0, 1]].mean(axis=0), seen.xy[[2, 3, 4]].mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(once.xy[[2, 3, 4]].mean(axis=0), seen.xy[[0, 1]].mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(once.xy[0] - once.xy[1], seen.xy[0] - seen.xy[1], atol=1e-3)
    assert_same(edits.swap(once, [0, 1], [2, 3, 4], by="center"), seen)


def test_show_and_hide_set_a_window(source):
    hidden = edits.hide(source, [2], start_frame=3, end_frame=5)
    assert not hidden.visible[2, 3:6].any()
    np.testing.assert_array_equal(np.delete(hidden.visible[2], [3, 4, 5]), np.delete(source.visible[2], [3, 4, 5]))
    assert_untouched(hidden, source, [2])
    assert edits.show(hidden, start_frame=2).visible[:, 2:].all()
    np.testing.assert_array_equal(edits.show(source).xy, source.xy)


def test_blend_back_goes_from_edited_to_original(source):
    edited = edits.hide(edits.drag(source, by=(40, 0)))
    got = edits.blend_back(edited, source, start_frame=2, end_frame=6, ease="linear")
    offset = (got.xy - source.xy)[0, :, 0]
    np.testing.assert_allclose(offset, [40, 40, 40, 30, 20, 10, 0, 0, 0], atol=1e-3)
    np.testing.assert_array_equal(got.xy[:, 6:], source.xy[:, 6:])
    np.testing.assert_array_equal(got.visible, source.visible & (np.arange(T) >= 4))
    assert_same(edits.blend_back(source, source), source)


@pytest.mark.parametrize("num_reference", [1, 2, 3, 4, 5])
def test_uncamera_then_recamera_is_identity(source, num_reference):
    square = np.array([[50, 50], [600, 60], [40, 400], [580, 420], [300, 100]])[:, None]
    sway = np.linspace(0, 40, T)[:, None] * [1, 0.5]
    camera_points = (square + sway + np.random.default_rng(0).normal(0, 2, (5, T, 2))).astype(np.float32)
    both = concatenate([Tracks(camera_points, np.ones((5, T), bool)), source])
    still, homographies = edits.uncamera(both, list(range(num_reference)), frame=3)
    if num_reference <= 4:  # the minimal fit is exact: reference points stand still
        np.testing.assert_allclose(
            still.xy[:num_reference], np.repeat(both.xy[:num_reference, 3:4], T, axis=1), atol=1e-2
        )
    np.testing.assert_allclose(still.xy[:, 3], both.xy[:, 3], atol=1e-3)
    assert_same(edits.recamera(still, homographies), both, atol=1e-2)  # float32 through perspective and back


def test_uncamera_with_a_named_model(source):
    _, homographies = edits.uncamera(source, [0, 1, 2, 3], model="translation")
    np.testing.assert_array_equal(homographies[:, :2, :2], np.repeat(np.eye(2)[None], T, axis=0))


def test_edit_in_the_stabilised_frame_follows_the_camera():
    """A point put still in the stabilised frame moves with the camera in the result."""
    pan = np.arange(T)[:, None] * np.array([10.0, -4.0])
    places = np.array([[100, 100], [400, 120], [120, 300], [380, 330], [250, 200]])[:, None]
    walk = np.zeros((5, T, 2))
    walk[4, :, 0] = 5 * np.arange(T)
    tracks = from_arrays(places + pan + walk)
    still, homographies = edits.uncamera(tracks, [0, 1, 2, 3])
    got = edits.recamera(edits.freeze(still, [4]), homographies)
    np.testing.assert_allclose(got.xy[4], [250, 200] + pan, atol=1e-2)  # float32 through perspective and back


def test_whole_floats_are_indices(source):
    got = edits.drag(source, [1.0, 2.0], by=(5, 0), falloff=20, start_frame=2.0, end_frame=np.float32(6))
    assert_same(got, edits.drag(source, [1, 2], by=(5, 0), falloff=20, start_frame=2, end_frame=6), atol=0)
    assert_same(edits.freeze(source, frame=3.0), edits.freeze(source, frame=3), atol=0)
    assert_same(
        edits.tween(source, 2.0, keyframes={4.0: (1, 2)}), edits.tween(source, 2, keyframes={4: (1, 2)}), atol=0
    )


def test_magnifying_scales_what_moved_since_the_first_frame(source):
    source = edits.show(source)
    got = edits.magnify(source, [1, 3], factor=5)
    expected = source.xy.copy()
    for n in (1, 3):
        for t in range(source.xy.shape[1]):
            expected[n, t] = source.xy[n, 0] + 5 * (source.xy[n, t] - source.xy[n, 0])
    np.testing.assert_allclose(got.xy, expected, atol=1e-3)
    np.testing.assert_array_equal(got.visible, source.visible)
    np.testing.assert_allclose(edits.magnify(source, factor=1).xy, source.xy, atol=1e-4)


def test_magnifying_grows_over_its_window_and_takes_noise_away():
    rng, t = np.random.default_rng(0), np.arange(40)
    start = np.stack(np.meshgrid([100.0, 104, 108, 112], [50.0, 54, 58, 62]), -1).reshape(-1, 1, 2)
    true = start + np.stack([np.sin(t / 5), 0 * t], -1)
    noisy = from_arrays(true + rng.normal(0, 0.3, true.shape))
    wanted = start + 10 * (true - true[:, :1])
    plain, smooth = (
        np.abs(edits.magnify(noisy, factor=10, space=space, time=time).xy - wanted)[:, 5:-5].mean()
        for space, time in ((0, 0), (20, 1.5))
    )
    assert smooth < plain / 2
    window = edits.magnify(noisy, factor=10, start_frame=10, end_frame=20)
    np.testing.assert_array_equal(window.xy[:, :11], noisy.xy[:, :11])
    np.testing.assert_allclose(window.xy[:, 20:], edits.magnify(noisy, factor=10).xy[:, 20:], atol=1e-3)


def test_jitter_is_uniform_and_bounded():
    still = from_arrays(np.full((40, 50, 2), 300.0))
    noise = edits.jitter(np.random.default_rng(0), still).xy - 300
    assert np.abs(noise).max() <= 2 + 1e-4
    # 4000 draws of U(-2, 2): the standard error of the mean is 0.018, of the standard deviation about 0.008
    assert abs(noise.mean()) < 0.08 and abs(noise.std() - 4 / np.sqrt(12)) < 0.04
    again = edits.jitter(np.random.default_rng(0), still, [3], amount=0.5)
    assert_same(Tracks(np.delete(again.xy, 3, 0), np.delete(again.visible, 3, 0)), select(still, range(39)))
    assert 0.3 < np.abs(again.xy[3] - 300).max() <= 0.5 + 1e-4


def test_jax_gives_what_numpy_gives(source):
    device = Tracks(jnp.asarray(source.xy), jnp.asarray(source.visible))

    def everything(tracks):
        edited = edits.drag(tracks, [1], by=(4, 5), falloff=50.0, start_frame=1, end_frame=5)
        edited = edits.drift(edited, [0, 3], velocity=(1, 2))
        edited = edits.tween(edited, [2, 3], keyframes={0: (3, 4), 6: (60, 70)}, interpolation="smooth")
        edited = edits.tween(edited, [5], by={1: (3, 4), 6: (-6, 7)}, interpolation="smooth", ease="out")
        edited = edits.retime(edited, [4], speed=0.7)
        edited = edits.freeze(edits.reverse(edited, [0]), [5], frame=2)
        edited = edits.rotate(edits.scale(edited, factor=1.5), degrees=10, start_frame=2, end_frame=7)
        edited = edits.swap(edits.mirror(edited, [1, 2]), 0, 1, start_frame=2)
        edited = edits.show(edits.hide(edited, [2], end_frame=4), 3)
        return edits.blend_back(edited, tracks, start_frame=3)

    got, expected = everything(device), everything(source)
    assert isinstance(got.xy, jnp.ndarray)
    np.testing.assert_array_equal(got.visible, expected.visible)
    np.testing.assert_allclose(got.xy, expected.xy, atol=5e-3)  # twelve edits in float32, numpy's partly in float64


def test_every_edit_keeps_dtype_and_leaves_its_input_alone(source):
    before = source.xy.copy()
    for edited in (
        edits.drag(source, by=(1, 1)),
        edits.scale(source, factor=2),
        edits.rotate(source, degrees=3),
        edits.magnify(source, factor=3, space=5, time=1),
        edits.mirror(source),
        edits.retime(source, speed=0.3),
        edits.tween(source, keyframes={0: (1, 1)}),
        edits.tween(source, by={0: (1, 1)}),
        edits.jitter(np.random.default_rng(0), source),
        edits.uncamera(source, [0])[0],
    ):
        assert edited.xy.dtype == np.float32 and edited.visible.dtype == np.bool_
        assert edited.xy.shape == source.xy.shape
    np.testing.assert_array_equal(source.xy, before)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: edits.reverse(s, [1, 6]), r"points: there is no point 6; the tracks have points 0\.\.5"),
        (lambda s: edits.hide(s, np.array([0.5])), "list of point indices"),
        (lambda s: edits.hide(s, []), "list of point indices"),
        (lambda s: edits.freeze(s, frame=9), r"frame: there is no frame 9; the clip has frames 0\.\.8"),
        (lambda s: edits.hide(s, start_frame=5, end_frame=4), "start_frame 5 comes after end_frame 4"),
        (lambda s: edits.tween(s, keyframes={}), "at least one keyframe"),
        (lambda s: edits.tween(s, by={}), "at least one keyframe"),
        (lambda s: edits.tween(s), "either keyframes, .* or by"),
        (lambda s: edits.tween(s, keyframes={0: (0, 0)}, by={0: (0, 0)}), "either keyframes, .* or by"),
        (lambda s: edits.tween(s, by={0: (0, 0)}, keep_motion=False), "without keep_motion give keyframes"),
        (lambda s: edits.tween(s, keyframes={11: (0, 0)}), "keyframe: there is no frame 11"),
        (lambda s: edits.tween(s, by={11: (0, 0)}), "keyframe: there is no frame 11"),
        (lambda s: edits.tween(s, keyframes={1: (0, np.nan)}), "keyframe 1 must be two numbers"),
        (lambda s: edits.tween(s, keyframes={1: (0, 1)}, interpolation="cubic"), "one of linear, smooth"),
        (lambda s: edits.drag(s, by=(1, 2), ease="bounce"), "one of linear, smooth"),
        (lambda s: edits.drag(s, by=(1, 2), falloff=-1.0), "falloff must be 0, or from 0.1 to 100000 pixels, got -1.0"),
        (lambda s: edits.magnify(s, factor=0), "factor must be from 0.001 to 1000, got 0"),
        (lambda s: edits.magnify(s, factor=2, space=-1), "space must be 0, or from 0.1"),
        (lambda s: edits.magnify(s, factor=2, time=0.05), "time must be 0, or from 0.1 to 1000 frames, got 0.05"),
        (lambda s: edits.retime(s), "either speed or times"),
        (lambda s: edits.retime(s, times=[1.0, 2.0]), "each of the 9 frames"),
        (lambda s: edits.scale(s, factor=0), "factor must be from 0.001 to 1000, got 0"),
        (lambda s: edits.rotate(s, degrees=np.inf), "degrees must be from -36000 to 36000 degrees, got inf"),
        (lambda s: edits.drag(s, by=(1e30, 0)), "by must be two numbers .* each from -100000 to 100000 pixels"),
        (lambda s: edits.drag(s, by=np.array(["a", 0])), "by must be two numbers"),
        (
            lambda s: edits.drag(s, by=(1, 2), falloff=1e-300),
            "falloff must be 0, or from 0.1 to 100000 pixels, got 1e-300",
        ),
        (lambda s: edits.drift(s, velocity=(1e30, 0)), "velocity .* each from -10000 to 10000 pixels per frame"),
        (lambda s: edits.drift(s, velocity=(1, 0), t_origin=np.nan), "t_origin must be from -100000 to 100000 frames"),
        (lambda s: edits.scale(s, factor=1e6), "factor must be from 0.001 to 1000, got 1000000.0"),
        (lambda s: edits.scale(s, factor=np.complex64(2j)), "factor must be from 0.001 to 1000, got 2j"),
        (
            lambda s: edits.retime(s, speed=1e9),
            "speed must be from -1000 to 1000 times the clip's own, got 1000000000.0",
        ),
        (lambda s: edits.retime(s, speed=1, about=np.inf), "about must be from -100000 to 100000 frames, got inf"),
        (lambda s: edits.retime(s, times=[0.0] * 8 + [1e30]), r"times\[8\] must be from -100000 to 100000 frames"),
        (lambda s: edits.mirror(s, at=1e7), "at must be from -100000 to 100000 pixels"),
        (lambda s: edits.jitter(np.random.default_rng(0), s, amount=1e5), "amount must be from 0 to 1000 pixels"),
        (lambda s: edits.freeze(s, frame=2.5), "frame must be a frame index, got 2.5"),
        (lambda s: edits.freeze(s, frame=True), "frame must be a frame index, got True"),
        (lambda s: edits.mirror(s, axis="diagonal"), "one of vertical, horizontal"),
        (lambda s: edits.swap(s, [0, 1], [1, 2]), "point 1 is in both"),
        (lambda s: edits.swap(s, [0, 1], [2]), "equal size, got 2 and 1"),
        (lambda s: edits.swap(s, 0, 1, by="name"), "one of point, center"),
        (
            lambda s: edits.jitter(np.random.default_rng(0), s, amount=-1.0),
            "amount must be from 0 to 1000 pixels, got -1.0",
        ),
        (lambda s: edits.recamera(s, np.zeros((3, 3, 3))), "needs 9 transforms"),
        (lambda s: edits.uncamera(s, [0, 1], model="affine"), "'affine' needs at least 3"),
        (lambda s: edits.blend_back(s, select(s, [0])), "one shape"),
    ],
)
def test_errors_name_the_bad_value(source, edit, message):
    with pytest.raises(ValueError, match=message):
        edit(source)
