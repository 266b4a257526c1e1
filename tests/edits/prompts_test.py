"""Motion prompt expansions: each against a loop, an exact value or an identity."""

import json

import numpy as np
import pytest

from motionv2v import pinhole
from motionv2v.edits import prompts
from motionv2v.edits.prompts import Mouse
from motionv2v.tracks import Tracks

T = 9


def line(start=(10.0, 20.0), end=(34.0, 12.0), pressed=None):
    share = np.linspace(0, 1, T)[:, None]
    held = np.ones(T, bool) if pressed is None else np.asarray(pressed, bool)
    return Mouse((1 - share) * start + share * end, held)


def test_a_recorded_mouse_is_resampled_in_time():
    samples = [(2.0, 0, 0, 0), (4.0, 20, 8, 1), (3.0, 10, 4, 1)]
    mouse = prompts.record(samples, 5)
    np.testing.assert_allclose(mouse.xy, [[0, 0], [5, 2], [10, 4], [15, 6], [20, 8]])
    assert mouse.pressed.tolist() == [False, False, True, True, True]
    half = prompts.record(samples, 3, seconds=1.0)
    np.testing.assert_allclose(half.xy, [[0, 0], [5, 2], [10, 4]])
    beyond = prompts.record([(0, 1, 2)], 3, seconds=1.0)
    assert beyond.xy.tolist() == [[1, 2]] * 3 and beyond.pressed.all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "needs rows"),
        ([(0, 1)], "needs rows"),
        ([(0, 1, np.nan)], "needs rows"),
        ([(1, 0, 0), (1, 2, 2)], "two samples of the mouse have one time, 1 seconds"),
    ],
)
def test_samples_that_say_nothing_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        prompts.record(samples, 3)


def test_a_drag_moves_a_grid_with_the_mouse():
    mouse = line()
    made = prompts.drag(mouse, side=3, spacing=4)
    assert made.xy.shape == (9, T, 2) and made.visible.all()
    for n, (row, column) in enumerate((r, c) for r in (-4, 0, 4) for c in (-4, 0, 4)):
        np.testing.assert_allclose(made.xy[n], mouse.xy + (column, row), rtol=1e-6)


def test_a_drag_is_seen_while_the_button_is_held_or_always():
    mouse = line(pressed=[0, 1, 1, 0, 0, 1, 1, 1, 0])
    made = prompts.drag(mouse, side=1)
    assert made.visible.tolist() == [[False, True, True] + [False] * 6, [False] * 5 + [True] * 3 + [False]]
    held = prompts.drag(mouse, side=1, persist=True)
    assert held.visible.all()
    np.testing.assert_allclose(held.xy[0], mouse.xy[[1, 1, 2, 2, 2, 2, 2, 2, 2]], rtol=1e-6)
    np.testing.assert_allclose(held.xy[1], mouse.xy[[5, 5, 5, 5, 5, 5, 6, 7, 7]], rtol=1e-6)
    with pytest.raises(ValueError, match="never pressed"):
        prompts.drag(line(pressed=[0] * T))
    with pytest.raises(ValueError, match="at least 1 point a side and a spacing above 0, got 2 and 0"):
        prompts.drag(mouse, side=2, spacing=0)


def test_pins_hold_still_where_they_may_be():
    made = prompts.pins((40, 60), T, spacing=10, keep_free=[(25, 15, 12)])
    by_loop = [(x, y) for y in (5, 15, 25, 35) for x in (5, 15, 25, 35, 45, 55) if np.hypot(x - 25, y - 15) > 12]
    assert [tuple(xy) for xy in made.xy[:, 0].tolist()] == by_loop
    assert made.visible.all() and (made.xy == made.xy[:, :1]).all()
    mask = np.zeros((40, 60), bool)
    mask[:, :30] = True
    assert (prompts.pins((40, 60), T, 10, mask=mask).xy[..., 0] < 30).all()
    with pytest.raises(ValueError, match="mask is 60x40, the picture 64x48"):
        prompts.pins((48, 64), T, mask=mask)


def test_a_ball_turns_under_the_mouse():
    """The point that is grabbed goes exactly where the mouse goes, and the ball stays a ball."""
    centre, radius = (50.0, 40.0), 30.0
    mouse = Mouse(np.array([[45 + 3.0 * t, 35 + t] for t in range(T)]), np.ones(T, bool))
    made = prompts.spin(mouse, centre, radius, num_points=4000)
    near = made.visible[:, 0]
    grabbed = np.flatnonzero(near)[np.linalg.norm(made.xy[near, 0] - mouse.xy[0], axis=-1).argmin()]
    assert np.linalg.norm(made.xy[grabbed] - mouse.xy, axis=-1).max() < 1.0  # a point is at most 0.9 px off at first
    assert np.linalg.norm(made.xy - centre, axis=-1).max() <= radius + 1e-3
    assert abs(near.mean() - 0.5) < 0.01
    exact = prompts._lift((mouse.xy - centre) / radius, 0.95)
    turned = prompts._between(exact[0], exact[-1]) @ exact[0]
    np.testing.assert_allclose(turned, exact[-1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(exact, axis=-1), 1)


def test_a_ball_is_grabbed_again_where_it_is():
    """Let go, it rests; grabbed at another place and moved, it turns on from there; moved back, it turns back."""
    there = [[50, 40], [60, 40], [30, 50], [20, 50], [30, 50], [60, 40], [50, 40]]
    mouse = Mouse(np.array(there, float), np.array([1, 1, 0, 1, 1, 1, 1], bool))
    made = prompts.spin(mouse, (50, 40), 30, num_points=50)
    np.testing.assert_array_equal(made.xy[:, 1], made.xy[:, 2])
    np.testing.assert_array_equal(made.xy[:, 1], made.xy[:, 3])
    assert np.abs(made.xy[:, 4] - made.xy[:, 3]).max() > 3
    back = Mouse(np.array([[50, 40], [60, 45], [50, 40]], float), np.ones(3, bool))
    once = prompts.spin(back, (50, 40), 30, num_points=50)
    np.testing.assert_allclose(once.xy[:, 0], once.xy[:, 2], atol=1e-4)


def test_beyond_the_ball_its_edge_is_held():
    made = prompts.spin(Mouse(np.array([[50, 40], [500, 40]], float), np.ones(2, bool)), (50, 40), 30, 20)
    edge = prompts.spin(Mouse(np.array([[50, 40], [50 + 28.5, 40]], float), np.ones(2, bool)), (50, 40), 30, 20)
    np.testing.assert_allclose(made.xy, edge.xy, atol=1e-4)
    with pytest.raises(ValueError, match="radius above 0"):
        prompts.spin(line(), (0, 0), 0)


DEPTH = np.full((48, 64), 4.0)
DEPTH[16:32, 24:40] = 2.0


def path(motion="truck", amount=0.5):
    return getattr(pinhole, motion)(pinhole.law(T), amount, 60.0, np.array([32.0, 24.0]))


def test_near_things_move_more_and_hide_what_is_behind_them():
    made = prompts.through_depth(DEPTH, path(), num_points=400)
    assert 200 < len(made.xy) <= 400
    start = made.xy[:, 0]
    is_near = (np.abs(start - (32, 24)) < 8).all(-1)
    moved = made.xy[:, -1, 0] - start[:, 0]
    np.testing.assert_allclose(moved[is_near], -60 * 0.5 / 2, rtol=1e-4)
    np.testing.assert_allclose(moved[~is_near], -60 * 0.5 / 4, rtol=1e-4)
    assert made.visible[:, 0].mean() > 0.8
    # The block has moved by 15 px over a wall that moved by 7.5.
    covered = ~is_near & (np.abs(made.xy[:, -1] - (17, 24)) < 6).all(-1)
    assert covered.any() and not made.visible[covered, -1].any()
    assert made.visible[is_near, -1].all()


def test_a_camera_at_rest_moves_nothing():
    made = prompts.through_depth(DEPTH, path(amount=0.0), num_points=100)
    np.testing.assert_allclose(made.xy, made.xy[:, :1].repeat(T, 1), atol=1e-4)
    with pytest.raises(ValueError, match="finite numbers above 0"):
        prompts.through_depth(DEPTH - 2, path())


@pytest.mark.parametrize(("shape", "num"), [((48, 64), 100), ((3, 500), 10), ((5, 5), 25), ((5, 5), 1)])
def test_points_are_spread_over_a_grid(shape, num):
    chosen = prompts.spread(shape, num)
    assert 0 < len(chosen) <= num and len(set(chosen.tolist())) == len(chosen)
    assert 0 <= chosen.min() and chosen.max() < shape[0] * shape[1]
    if num == 100:
        assert len(chosen) >= 80
    if num == 25:
        assert len(chosen) == 25


def test_on_a_plane_composing_in_the_picture_equals_composing_in_depth():
    flat = np.full((48, 64), 4.0)
    objects = prompts.drag(line((20, 20), (40, 30)), side=2)
    camera = prompts.through_depth(flat, path(), num_points=2000)
    added = prompts.compose(camera, objects)
    exact = prompts.compose_in_depth(objects, flat, path())
    np.testing.assert_allclose(added.xy, exact.xy, atol=1e-3)
    assert exact.visible.all()


def test_a_camera_says_nothing_among_the_points_of_things():
    objects = prompts.drag(line((20, 20), (40, 30)), side=3, spacing=6)
    camera = prompts.through_depth(np.full((48, 64), 4.0), path(), num_points=2000)
    left = prompts.clear_of(camera, objects)
    apart = np.linalg.norm(left.xy[:, None, 0] - objects.xy[None, :, 0], axis=-1).min(1)
    assert apart.min() > 6 and 0 < len(camera.xy) - len(left.xy) < 0.2 * len(camera.xy)
    one = prompts.drag(line(), side=1)
    assert len(prompts.clear_of(camera, one).xy) >= len(camera.xy) - 1


def test_composing_in_depth_is_right_where_the_picture_is_wrong():
    """A dolly: what is near grows more, so displacements on it grow too."""
    objects = prompts.drag(line((32, 24), (38, 24)), side=1)
    exact = prompts.compose_in_depth(objects, DEPTH, path("dolly", 1.0))
    np.testing.assert_allclose(exact.xy[0, -1], (32 + 6 * 2, 24), atol=1e-4)
    with pytest.raises(ValueError, match="they have 5 and 9"):
        prompts.compose(Tracks(objects.xy[:, :5], objects.visible[:, :5]), objects)


def given(seed=0, num=20):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1, (num, T, 2))
    steps[:, 0] = rng.uniform(10, 50, (num, 2))
    return Tracks(steps.cumsum(1).astype(np.float32), rng.random((num, T)) < 0.8)


def test_motion_is_laid_onto_a_picture_by_a_map():
    tracks = given()
    moved = prompts.transfer(tracks, scale=(2, -1), shift=(5, 7), turn=90, about=(30, 30), points=[2, 3])
    x, y = (tracks.xy[2].astype(float) - 30).T
    np.testing.assert_allclose(moved.xy[2], np.stack([y + 35, 2 * x + 37], -1), rtol=1e-5)
    np.testing.assert_array_equal(moved.xy[4:], tracks.xy[4:])
    same = prompts.transfer(tracks)
    np.testing.assert_allclose(same.xy, tracks.xy, rtol=1e-6)
    few = prompts.transfer(tracks, keep=5)
    np.testing.assert_array_equal(few.visible, tracks.visible[[0, 5, 10, 14, 19]])
    with pytest.raises(ValueError, match=r"points 0..19, asked for 3..20"):
        prompts.transfer(tracks, points=[3, 20])


def test_magnifying_by_one_without_smoothing_is_the_identity():
    tracks = given()
    np.testing.assert_allclose(
        prompts.magnify(tracks, 1.0).xy, np.where(tracks.visible[..., None], tracks.xy, tracks.xy), rtol=1e-5
    )
    eight = prompts.magnify(tracks, 8.0)
    seen = tracks.visible & tracks.visible[:, :1]
    expected = tracks.xy[:, :1] + 8 * (tracks.xy - tracks.xy[:, :1])
    np.testing.assert_allclose(eight.xy[seen], expected[seen], rtol=1e-4)


def test_smoothing_is_that_of_a_loop():
    tracks, space, time = given(num=6), 9.0, 1.5
    made = prompts.magnify(tracks, 4.0, space, time)
    start, smooth = tracks.xy[:, 0].astype(float), np.zeros((6, T, 2))
    for n in range(6):
        for t in range(T):
            total, weights = np.zeros(2), 0.0
            for m in range(6):
                for s in range(T):
                    w = np.exp(-0.5 * (np.linalg.norm(start[n] - start[m]) / space) ** 2 - 0.5 * ((t - s) / time) ** 2)
                    w *= tracks.visible[m, s]
                    total, weights = total + w * (tracks.xy[m, s] - start[m]), weights + w
            smooth[n, t] = total / weights
    expected = start[:, None] + 4 * (smooth - smooth[:, :1])
    np.testing.assert_allclose(made.xy, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 0, got -1 and 0"):
        prompts.magnify(tracks, 2, -1)


def skeleton(frames=3, count=17):
    joints = np.random.default_rng(0).uniform(0, 60, (frames, count, 3))
    joints[..., 2] = 0.9
    joints[1, 9, 2] = 0.1  # the left wrist is lost in frame 1
    return joints


def test_limbs_end_in_their_joints():
    joints = skeleton()
    made = prompts.pose(joints, num_points=4)
    limbs = prompts.SKELETONS["coco17"]
    assert made.xy.shape == (16 * 4, 3, 2)
    for i, (start, end) in enumerate(limbs):
        ends = made.xy[[4 * i, 4 * i + 3]]
        np.testing.assert_allclose(ends[0], joints[:, start, :2], rtol=1e-5)
        np.testing.assert_allclose(ends[1], joints[:, end, :2], rtol=1e-5)
        np.testing.assert_allclose(made.xy[4 * i + 1], ends[0] + (ends[1] - ends[0]) / 3, rtol=1e-4)
        assert made.visible[4 * i : 4 * i + 4, 1].all() == (9 not in (start, end))
    assert made.visible[:, [0, 2]].all()


@pytest.mark.parametrize(("count", "name"), [(17, "coco17"), (18, "openpose18"), (25, "openpose25")])
def test_every_order_of_joints_is_one_connected_body(count, name):
    limbs = prompts.SKELETONS[name]
    joined = {limbs[0][0]}
    for _ in limbs:
        joined |= {joint for limb in limbs if set(limb) & joined for joint in limb}
    # COCO's head hangs in the air: it has no neck.
    assert len(joined) == (5 if name == "coco17" else count)
    assert {joint for limb in limbs for joint in limb} == set(range(count))
    assert len(prompts.pose(skeleton(count=count), 2, skeleton=name).xy) == 2 * len(limbs)


def test_keypoints_of_other_programs_are_read():
    joints = skeleton()
    flat = json.loads(json.dumps([frame.ravel().tolist() for frame in joints]))
    np.testing.assert_allclose(prompts.read_keypoints(flat), joints)
    np.testing.assert_allclose(prompts.read_keypoints([{"keypoints": frame} for frame in flat]), joints)
    people = [{"people": [{"pose_keypoints_2d": frame}]} for frame in flat]
    people[1] = {"people": []}
    found = prompts.read_keypoints(people)
    np.testing.assert_allclose(found[[0, 2]], joints[[0, 2]])
    assert not found[1].any()
    assert not prompts.pose(found).visible[:, 1].any()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "a list with an entry for each frame"),
        ([[1, 2]], "keypoints of frame 0 must be joints"),
        ([[[1, 2, 3]], "x"], "keypoints of frame 1 must be joints"),
        ([[[1, 2, 3]], [[1, 2, 3]] * 2], "different numbers of keypoints: 1, 2"),
        ([[]], "different numbers of keypoints: none"),
    ],
)
def test_other_keypoints_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        prompts.read_keypoints(value)


def test_an_unknown_order_of_joints_is_refused():
    with pytest.raises(ValueError, match=r"9 keypoints are in no known order; there are coco17 \(17\), open"):
        prompts.pose(skeleton(count=10)[:, :9])
