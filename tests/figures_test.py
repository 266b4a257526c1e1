"""Figures: marks lie where the points are, sizes fit, and nothing is drawn for what is not there."""

import numpy as np
import pytest
from PIL import Image

from motionv2v import figures
from motionv2v.tracks import Tracks

GREY = np.full((5, 64, 80, 3), 100, np.uint8)


def one_track(visible=True):
    xy = np.stack([np.linspace(20, 60, 5), np.full(5, 30)], axis=-1)[None]
    return Tracks(xy, np.full((1, 5), visible))


def changed(drawn, frames, t):
    return np.any(drawn[t] != figures.enlarge(frames)[t], axis=-1)


def test_dots_are_centred_on_the_points():
    drawn = figures.draw_tracks(GREY, one_track(), trail=0)
    assert drawn.shape == (5, 256, 320, 3)
    for t, x in enumerate(np.linspace(20, 60, 5)):
        rows, columns = np.nonzero(changed(drawn, GREY, t))
        # Pixel centres lie at +0.5; a dot is symmetric to within the rounding of its rim.
        assert columns.mean() + 0.5 == pytest.approx(4 * x, abs=0.5)
        assert rows.mean() + 0.5 == pytest.approx(4 * 30, abs=0.5)


def test_colours_are_used_and_given_in_zero_to_one():
    drawn = figures.draw_tracks(GREY, one_track(), np.array([[1.0, 0.0, 0.5]]))
    np.testing.assert_array_equal(drawn[2, 120, 160], [255, 0, 128])


def test_trails_reach_back_over_the_frames_asked_for():
    long, short = (figures.draw_tracks(GREY, one_track(), trail=n) for n in (4, 1))
    reach = [np.nonzero(changed(drawn, GREY, 4))[1].min() for drawn in (long, short)]
    # A trail of 4 frames starts at x = 20 and one of 1 frame at x = 50, less half of its thickness.
    assert 4 * 20 - 3 <= reach[0] <= 4 * 20 and 4 * 50 - 3 <= reach[1] <= 4 * 50


def test_hidden_points_are_rings_or_nothing():
    rings = figures.draw_tracks(GREY, one_track(visible=False))
    assert changed(rings, GREY, 2).any()
    np.testing.assert_array_equal(rings[2, 120, 160], [100, 100, 100])  # hollow, and no trail leads through it
    np.testing.assert_array_equal(figures.draw_tracks(GREY, one_track(False), hidden=False), figures.enlarge(GREY))


def test_points_outside_the_frame_and_no_points_are_fine():
    far = Tracks(np.full((1, 5, 2), 1e9), np.ones((1, 5), bool))
    np.testing.assert_array_equal(figures.draw_tracks(GREY, far), figures.enlarge(GREY))
    none = Tracks(np.zeros((0, 5, 2)), np.zeros((0, 5), bool))
    np.testing.assert_array_equal(figures.draw_tracks(GREY, none), figures.enlarge(GREY))


def test_frames_are_drawn_one_by_one_and_shown_as_arrays_are():
    drawn = figures.track_frames(GREY, one_track())
    assert drawn.shape == (5, 256, 320, 3) and len(drawn) == 5
    np.testing.assert_array_equal(np.stack(list(drawn)), figures.draw_tracks(GREY, one_track()))
    np.testing.assert_array_equal(drawn[3], figures.draw_tracks(GREY, one_track())[3])
    with pytest.raises(IndexError, match="frame 5 of 5"):
        drawn[5]
    both = figures.frames_side_by_side([("lazy", drawn), ("array", GREY[:2])])
    array = figures.side_by_side([("lazy", figures.draw_tracks(GREY, one_track())), ("array", GREY[:2])])
    assert both.shape == array.shape
    np.testing.assert_array_equal(both[4], array[4])
    rows = [[("row", drawn)], [("row", figures.draw_tracks(GREY, one_track()))]]
    np.testing.assert_array_equal(*(figures.contact_sheet(row, columns=3) for row in rows))


def test_draw_tracks_leaves_its_input_and_wants_equal_lengths():
    before = np.array(GREY)
    figures.draw_tracks(GREY, one_track(), min_side=0)
    np.testing.assert_array_equal(GREY, before)
    with pytest.raises(ValueError, match="5 frames but the clip has 4"):
        figures.draw_tracks(GREY[:4], one_track())


def test_enlarge_uses_the_smallest_whole_factor():
    assert figures.enlarge(GREY).shape == (5, 256, 320, 3)
    assert figures.enlarge(GREY, 65).shape == (5, 128, 160, 3)
    assert figures.enlarge(GREY, 64) is not None and figures.enlarge(GREY, 64).shape == GREY.shape


def test_side_by_side_shows_every_clip_whole_and_even():
    big = np.full((3, 301, 261, 3), 7, np.uint8)
    panel = figures.side_by_side([("source", GREY), ("a longer label than the panel is wide, by far", big)])
    assert len(panel) == 5 and panel.shape[1] % 2 == 0 and panel.shape[2] % 2 == 0
    # 256x320 grows to the height of the tallest clip, 301; labels never touch the pictures.
    assert (panel[4] == 7).all(axis=-1).sum() == 301 * 261
    assert (panel[0] == 100).all(axis=-1).sum() == 301 * round(320 * 301 / 256)
    assert (panel[0][: panel.shape[1] - 301] < 90).any()  # the labels


def test_contact_sheet_shows_first_and_last_frame_in_order():
    frames = np.stack([np.full((60, 90, 3), 10 + t, np.uint8) for t in range(17)])
    sheet = figures.contact_sheet([("one", frames), ("two", frames[:9])], columns=5, height=60)
    for row, expected in enumerate([[10, 14, 18, 22, 26], [10, 12, 14, 16, 18]]):
        found = [[(sheet == 10 + t).all(axis=-1)[half].sum() for t in range(17)] for half in halves(sheet)][row]
        assert [10 + t for t in range(17) if found[t] >= 60 * 90] == expected


def halves(sheet):
    """The rows of the sheet that belong to its first and second clip (22 pixels of head, bands of 22, gaps of 6)."""
    middle = 14 + 22 + 22 + 60 + 6
    return slice(0, middle), slice(middle, None)


def test_contact_sheet_has_no_more_columns_than_frames():
    few, many = (figures.contact_sheet([("one", GREY)], columns=n) for n in (5, 9))
    assert few.shape == many.shape


def test_save_png_round_trip_and_refusals(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = figures.save_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match=r"written as \.png"):
        figures.save_png(tmp_path / "a.jpg", picture)


@pytest.mark.parametrize("draw", [figures.side_by_side, figures.contact_sheet])
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="needs"):
        draw([])
