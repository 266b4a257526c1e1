"""Holes filled with a picture's own texture: nearer to it than smooth colours, and nothing else is touched."""

import numpy as np

from motionv2v.draft import pictures, texture


def bricks(size=(120, 160), seed=0):
    """A wall of bricks in rows, every second one half a brick along, with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    row = y // 12
    mortar = (y % 12 < 2) | ((x + 12 * (row % 2)) % 24 < 2)
    wall = np.where(mortar[..., None], (200, 195, 190), (150, 70, 50)) + rng.normal(0, 4, (*size, 1))
    return np.clip(wall, 0, 255).astype(np.uint8)


def hole_of(shape, rows, columns):
    known = np.ones(shape, bool)
    known[rows, columns] = False
    return known


def test_a_wall_goes_on_as_a_wall():
    wall = bricks()
    known = hole_of(wall.shape[:2], slice(40, 74), slice(60, 96))
    smooth = pictures.complete(wall, known)
    filled = texture.complete(smooth, known)
    off, was = (np.abs(made.astype(int) - wall)[~known].mean() for made in (filled, smooth))
    assert off < 0.35 * was, f"{off:.1f} levels, and {was:.1f} of smooth colours"
    contrast = [made[~known].astype(float).std() for made in (wall, filled, smooth)]
    assert contrast[1] > 0.85 * contrast[0] > contrast[2]


def test_what_is_known_stays_and_twice_is_the_same():
    wall = bricks()
    known = hole_of(wall.shape[:2], slice(0, 30), slice(50, 80)) & hole_of(wall.shape[:2], slice(90, 110), slice(9, 40))
    smooth = pictures.complete(wall, known)
    filled = texture.complete(smooth, known)
    np.testing.assert_array_equal(filled[known], wall[known])
    np.testing.assert_array_equal(filled, texture.complete(smooth, known))
    for part in (np.s_[:30, 50:80], np.s_[90:110, 9:40]):
        assert (filled[part] != smooth[part]).any(-1).mean() > 0.5


def test_specks_and_large_holes_stay_smooth():
    wall = bricks()
    for rows, columns in ((slice(40, 44), slice(60, 66)), (slice(10, 110), slice(20, 140))):
        known = hole_of(wall.shape[:2], rows, columns)
        smooth = pictures.complete(wall, known)
        np.testing.assert_array_equal(texture.complete(smooth, known), smooth)


def test_where_nothing_is_large_enough_to_take_from_it_stays_smooth():
    wall, known = bricks((60, 200)), np.zeros((60, 200), bool)
    known[::6] = True
    known[:, ::6] = True
    known[20:40, 90:110] = False
    smooth = pictures.complete(wall, known)
    np.testing.assert_array_equal(texture.complete(smooth, known), smooth)
