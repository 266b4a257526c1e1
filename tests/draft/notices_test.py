"""What is said of a draft: guesses, cuts, ground that is no plane, things that are not as the edit has them."""

import moving_square
import numpy as np

from motionv2v import draft
from motionv2v.tracks import Tracks

RED, GROUND = [0, 1, 2, 3, 4], [5, 6, 7, 8]
T = moving_square.FRAMES
GUESSED = "thing 1: guessed from points alone where that is; a mask, a box or strokes tell it"


def paths(around=1.0):
    """Return the paths of the square's points, `around` times as far from its middle, and of four of the ground."""
    red = moving_square.corners()[None] + 10 + around * moving_square.OFFSETS[:, None]
    return np.concatenate([red, np.repeat(moving_square.GROUND[:, None], T, 1)]).astype(np.float32)


def said_of(clip, before, after, groups=(RED,), seen=None, hints=None):
    lines, visible = [], np.ones(before.shape[:2], bool)
    source, target = Tracks(before, visible if seen is None else seen), Tracks(after, visible)
    drawn = draft.render(clip, source, target, groups=groups, hints=hints, notify=lines.append)
    return drawn, lines


def moved(xy, by):
    xy = xy.copy()
    xy[RED] += np.float32(by)
    return xy


def test_a_plain_edit_of_a_thing_whose_mask_is_given_goes_without_a_word():
    after, hints = moved(paths(), (10, 20)), [draft.Hint(masks=dict(enumerate(moving_square.masks())))]
    assert said_of(moving_square.draw(), paths(), after, hints=hints)[1] == []


def test_guesses_are_told():
    """Where a thing is that has no mask; and which points are one, where nobody says it."""
    clip, after = moving_square.draw(), moved(paths(), (10, 20))
    assert said_of(clip, paths(), after)[1] == [GUESSED]
    drawn, lines = said_of(clip, paths(), after, groups=None)
    assert drawn.groups == [RED] and lines == ["how many things move, 1, is guessed from the points' paths", GUESSED]


def test_points_of_one_thing_that_go_different_ways_are_told():
    after = moved(paths(), (10, 20))
    after[1:3, 4:] += np.float32([-15, 0])
    _, lines = said_of(moving_square.draw(), paths(), after)
    assert len(lines) == 2 and lines[1].startswith("points of thing 1 are sent different ways, but it is drawn stiff")


def test_a_thing_that_is_not_in_the_clip_where_the_edit_has_it_is_told():
    clip, seen = moving_square.draw(), np.ones((9, T), bool)
    clip[5:], seen[RED, 5:] = moving_square.textured(np.random.default_rng(0), moving_square.SIZE), False
    _, lines = said_of(clip, paths(), moved(paths(), (10, 20)), seen=seen)
    assert "thing 1 is not found in frames 5-8, where the edit has it: drawn as in others" in lines


def test_cuts_are_named():
    clip = moving_square.draw()
    clip[5:] = np.roll(255 - clip[5:], 40, axis=2)[:, ::-1]
    _, lines = said_of(clip, paths(), moved(paths(), (10, 20)))
    assert [line.partition(":")[0] for line in lines][:1] == ["the picture changes as a whole in frame 5"]


def test_what_is_enlarged_is_soft():
    after = moved(paths(2.2), (10, 20))
    _, lines = said_of(moving_square.draw(), paths(), after)
    assert lines[0] == GUESSED and len(lines) == 2
    assert lines[1].startswith("thing 1 becomes 2.2 times as large as in the clip (frame ")


def test_ground_that_is_never_seen_was_made_up():
    """The square rests, and nothing ever shows what it lies on: 400 of 12,288 pixels and its soft edge."""
    frames = np.repeat(moving_square.draw()[4:5], T, 0)
    before = np.repeat(paths()[:, 4:5], T, 1)
    masks = {t: moving_square.masks()[4] for t in range(T)}
    lines, visible = [], np.ones(before.shape[:2], bool)
    after = Tracks(moved(before, (40, 20)), visible)
    hints = [draft.given.Hint(masks=masks)]
    draft.render(frames, Tracks(before, visible), after, groups=(RED,), hints=hints, notify=lines.append)
    assert len(lines) == 1 and lines[0].startswith(
        ("up to 3% of a frame", "up to 4% of a frame", "up to 5% of a frame")
    )


def test_ground_that_is_no_plane_is_told():
    """The lower half passes four times as fast as the upper one: as the near ground does when a camera glides."""
    rng = np.random.default_rng(0)
    far, near = (moving_square.textured(rng, (48, 128 + 8 * T)) for _ in range(2))
    clip = np.stack([np.concatenate([far[:, 2 * t : 2 * t + 128], near[:, 8 * t : 8 * t + 128]]) for t in range(T)])
    places = np.array([[40, 20], [48, 20], [40, 28], [48, 28], [44, 24]], np.float32)
    before = np.repeat(places[:, None], T, 1)
    before[..., 0] -= 2 * np.arange(T)
    after = before + np.float32([12, 4])
    _, lines = said_of(clip, before, after, groups=(RED,))
    assert any("of the ground does not move as one plane with the camera" in line for line in lines), lines
