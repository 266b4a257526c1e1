"""How what a draft shows moves: points followed through it and the flow of its frames, on a square moved exactly."""

import moving_square
import numpy as np
import pytest

from motionv2v import draft
from motionv2v.draft import motion
from motionv2v.tracks import Tracks

SHIFT = np.array([6, 24], np.float32)
FRAMES, (HEIGHT, WIDTH) = moving_square.FRAMES, moving_square.SIZE


def followed_square(shift=(0, 0)):
    """The five points of the square and the four of the ground, with the square moved by a shift, one or [T 2]."""
    centres = moving_square.corners(shift) + moving_square.SIDE / 2
    square = centres[None] + moving_square.OFFSETS[:, None]
    ground = np.repeat(moving_square.GROUND[:, None], FRAMES, axis=1)
    xy = np.concatenate([square, ground]).astype(np.float32)
    return Tracks(xy, np.ones(xy.shape[:2], bool))


@pytest.fixture(scope="module")
def moved():
    """The square, which goes right by 4 pixels a frame, put elsewhere: its clip and its draft."""
    clip = draft.Prepared(moving_square.draw())
    groups, quiet = [[0, 1, 2, 3, 4]], {"notify": lambda line: None}
    return clip, draft.render(clip, followed_square(), followed_square(SHIFT), groups=groups, **quiet)


def at(*places):
    return np.array(places, np.float64)


def test_points_of_a_thing_go_where_the_edit_takes_it(moved):
    clip, drawn = moved
    found = motion.follow(drawn, clip, at((26.5, 64.5), (31.5, 70.5)))
    assert found.layer.tolist() == [1, 1] and found.frame.tolist() == [0, 0]
    steps = np.stack([4 * np.arange(FRAMES), 0 * np.arange(FRAMES)], -1)
    for place, start in enumerate(((26.5, 64.5), (31.5, 70.5))):
        np.testing.assert_allclose(found.tracks.xy[place], at(start) + steps, atol=0.35)
    np.testing.assert_allclose(found.place, at((20.5, 40.5), (25.5, 46.5)), atol=0.35)
    assert found.tracks.visible.all()


def test_the_ground_rests_and_is_hidden_where_the_thing_now_is(moved):
    clip, drawn = moved
    # Beside; where the square was, uncovered all the time; where it comes to lie in frames 3 to 7; where it passed.
    points = at((100.5, 10.5), (20.5, 40.5), (45.5, 64.5), (45.5, 40.5))
    found = motion.follow(drawn, clip, points)
    assert not found.layer.any()
    np.testing.assert_allclose(found.tracks.xy, np.repeat(points[:, None], FRAMES, 1), atol=1.0)
    assert found.tracks.visible[[0, 1, 3]].all()
    left = moving_square.corners(SHIFT)[:, 0]
    np.testing.assert_array_equal(found.tracks.visible[2], ~((left <= 45) & (45 < left + moving_square.SIDE)))


def test_points_are_followed_from_any_frame(moved):
    clip, drawn = moved
    found = motion.follow(drawn, clip, at((46.5, 64.5), (100.5, 10.5)), begin=5)
    np.testing.assert_allclose(found.tracks.xy[0, [0, 8]], at((26.5, 64.5), (58.5, 64.5)), atol=0.35)
    np.testing.assert_allclose(found.tracks.xy[1], np.repeat(at((100.5, 10.5)), FRAMES, 0), atol=0.3)
    assert found.frame.tolist() == [5, 5]


def test_what_nobody_edits_moves_as_the_clip_does():
    """Without an edit the square is a part of the background: its points go by the clip's own flow."""
    clip = draft.Prepared(moving_square.draw())
    drawn = draft.render(clip, followed_square(), followed_square())
    assert len(drawn.courses) == 1
    found = motion.follow(drawn, clip, at((20.5, 40.5)))
    expected = at((20.5, 40.5)) + np.stack([4 * np.arange(FRAMES), 0 * np.arange(FRAMES)], -1)
    np.testing.assert_allclose(found.tracks.xy[0], expected, atol=1.0)
    by = motion.flow(drawn, clip, 0)
    np.testing.assert_allclose(by[36:44, 16:24], np.broadcast_to([4, 0], (8, 8, 2)), atol=0.5)


def test_a_camera_that_the_edit_moves_takes_the_ground_along():
    clip = draft.Prepared(moving_square.draw())
    source = followed_square()
    pan = np.stack([-2 * np.arange(FRAMES), 0 * np.arange(FRAMES)], -1).astype(np.float32)
    drawn = draft.render(clip, source, Tracks(source.xy + pan, source.visible), notify=lambda line: None)
    found = motion.follow(drawn, clip, at((100.5, 80.5), (8.5, 80.5)))
    np.testing.assert_allclose(found.tracks.xy[0], at((100.5, 80.5)) + pan, atol=0.5)
    assert found.tracks.visible[0].all() and found.tracks.visible[1].tolist() == [True] * 5 + [False] * 4
    np.testing.assert_allclose(
        motion.flow(drawn, clip, 3)[70:, 60:120], np.broadcast_to([-2, 0], (26, 60, 2)), atol=0.5
    )


def test_a_clip_played_backwards_flows_backwards():
    clip, source = draft.Prepared(moving_square.draw()), followed_square()
    back = Tracks(source.xy[:, ::-1], source.visible)
    drawn = draft.render(clip, source, back, notify=lambda line: None)
    assert drawn.courses[0].frame.tolist() == list(range(FRAMES))[::-1]
    np.testing.assert_allclose(motion.flow(drawn, clip, 0)[36:44, 48:56], np.broadcast_to([-4, 0], (8, 8, 2)), atol=0.5)


@pytest.mark.parametrize("speed", [0.5, 0.75])
def test_a_clip_that_is_slowed_moves_evenly(speed):
    """What lies between two frames of the clip is followed, and flows, as far as its time has come."""
    clip, source = draft.Prepared(moving_square.draw()), followed_square()
    steps = speed * np.arange(FRAMES)
    slow = np.apply_along_axis(lambda part: np.interp(steps, np.arange(FRAMES), part), 1, source.xy).astype(np.float32)
    drawn = draft.render(clip, source, Tracks(slow, source.visible), notify=lambda line: None)
    np.testing.assert_allclose(drawn.courses[0].time, steps, atol=0.03)
    for begin in (0, 1):
        start = at((20.5, 40.5)) + (4 * steps[begin], 0)
        found = motion.follow(drawn, clip, start, begin=begin)
        expected = at((20.5, 40.5)) + np.stack([4 * steps, 0 * steps], -1)
        np.testing.assert_allclose(found.tracks.xy[0], expected, atol=1.0)
        assert np.abs(np.diff(found.tracks.xy[0, :, 0]) - 4 * speed).max() < 0.8
    for t in range(4):
        left = round(10 + 4 * steps[t])
        by = motion.flow(drawn, clip, t)[36:44, left + 6 : left + 14]
        assert np.abs(np.median(by.reshape(-1, 2), axis=0) - (4 * speed, 0)).max() < 0.4, t


def test_the_flow_of_a_draft_is_that_of_what_it_shows(moved):
    clip, drawn = moved
    by = motion.flow(drawn, clip, 2)
    square = drawn.layer[2] == 1
    assert 300 < square.sum() < 500
    np.testing.assert_allclose(by[square], np.broadcast_to([4, 0], (square.sum(), 2)), atol=0.05)
    # But for a few pixels around where the square was, to which the clip's flow reaches.
    assert (np.abs(by[~square]).max(axis=-1) < 0.5).mean() > 0.98


def test_a_draft_without_its_maps_is_one_line(moved):
    clip, _ = moved
    bare = draft.render(clip, followed_square(), followed_square(SHIFT), notify=lambda line: None, stream=True)
    for call in (lambda: motion.follow(bare, clip, at((1, 1))), lambda: motion.flow(bare, clip, 0)):
        with pytest.raises(ValueError, match="drawn without its maps"):
            call()
