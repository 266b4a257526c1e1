import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import render
from motionv2v.edits import document
from motionv2v.tracks import Tracks

SIZE = (24, 32)
SIGMA = 2.0
METHODS = ("window", "full")


@functools.partial(jax.jit, static_argnames=("size", "sigma", "subpixel", "method"))
def draw(xy, visible, colors, size=SIZE, sigma=SIGMA, subpixel=True, method="auto"):
    return render.blobs(Tracks(xy, visible), colors, size, sigma, subpixel=subpixel, method=method)


def slow(xy, visible, colors, size, sigma, subpixel):
    """Draws pixel by pixel, as the module docstring says it."""
    canvas = np.zeros((xy.shape[1], *size, 3))
    radius = int(np.ceil(3 * sigma))
    for t in range(xy.shape[1]):
        for n in range(xy.shape[0]):
            x, y = xy[n, t]
            own = (np.floor(x), np.floor(y)) if subpixel else (int(x), int(y))
            for row in range(size[0]):
                for column in range(size[1]):
                    if not visible[n, t] or max(abs(column - own[0]), abs(row - own[1])) > radius:
                        continue
                    dx, dy = (column + 0.5 - x, row + 0.5 - y) if subpixel else (column - own[0], row - own[1])
                    g = np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
                    canvas[t, row, column] = canvas[t, row, column] * (1 - g) + colors[n] * g
    return canvas


@pytest.fixture(scope="module")
def scene():
    """Seven tracks over three frames, some hidden, some over each other, beyond every border and far away."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(-8, 40, (7, 3, 2)).astype(np.float32)
    xy[0, :, :] = [[0.0, 0.0], [31.99, 23.99], [-0.4, 12.3]]
    xy[1, :, :] = [[1e9, 3.0], [-1e9, -1e9], [-5.9, -5.9]]
    return xy, rng.uniform(size=(7, 3)) < 0.8, rng.uniform(size=(7, 3)).astype(np.float32)


def one(x, y, color=(1.0, 1.0, 1.0), **options):
    xy, visible = np.array([[[x, y]]], np.float32), np.ones((1, 1), bool)
    return np.asarray(draw(xy, visible, np.array([color], np.float32), **options))[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("subpixel", [True, False])
def test_blobs_match_a_slow_loop(scene, subpixel, method):
    drawn = np.asarray(draw(*scene, subpixel=subpixel, method=method))
    assert drawn.max() > 0.5
    # Float32 exponentials of at most -9 and up to seven layers: a few 1e-7.
    np.testing.assert_allclose(drawn, slow(*scene, SIZE, SIGMA, subpixel), atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_blobs_have_the_published_values(method):
    # sigma 10; red at (100.9, 100.2), then blue at (130, 100); integer centres as in the released renderer.
    xy = np.array([[[100.9, 100.2]], [[130, 100]]], np.float32)
    colors = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    image = np.asarray(draw(xy, np.ones((2, 1), bool), colors, (200, 240), 10.0, subpixel=False, method=method))[0]
    # The values are given to five digits.
    np.testing.assert_allclose(image[100, 100], [0.98889, 0, 0.01111], atol=6e-6)
    np.testing.assert_allclose(image[100, 110], [0.52445, 0, 0.13534], atol=6e-6)
    rows, columns, _ = np.nonzero(image)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (70, 160, 70, 130)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("subpixel", [True, False])
def test_shifted_tracks_shift_blobs(subpixel, method):
    # A quarter pixel is exact in float32, so whole-pixel shifts only move the picture.
    still = one(12.25, 10.75, subpixel=subpixel, method=method)
    moved = one(12.25 + 3, 10.75 - 2, subpixel=subpixel, method=method)
    np.testing.assert_array_equal(np.roll(still, (-2, 3), (0, 1)), moved)


def test_blob_is_centred_on_its_point():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for x, y in [(15.0, 12.0), (15.3, 12.8), (14.99, 11.5)]:
        mass = one(x, y)[..., 0]
        centre = (mass * columns).sum() / mass.sum(), (mass * rows).sum() / mass.sum()
        # The cut at 3 sigma follows the pixel, not the point: up to half a column of weight 0.011 / 2.5 on one side.
        np.testing.assert_allclose(centre, (x, y), atol=0.03)
    # A point in the middle of a pixel is symmetric, exactly.
    image = one(15.5, 12.5)
    np.testing.assert_array_equal(image[:, 9:22], image[:, 9:22][:, ::-1])
    assert image[12, 15, 0] == 1


def test_snapped_blobs_do_not_move_inside_a_pixel():
    np.testing.assert_array_equal(one(12.01, 9.99, subpixel=False), one(12.99, 9.0, subpixel=False))
    assert one(12.01, 9.99, subpixel=False)[9, 12, 0] == 1


@pytest.mark.parametrize("method", METHODS)
def test_hidden_points_draw_nothing(scene, method):
    xy, visible, colors = scene
    assert not np.asarray(draw(xy, np.zeros_like(visible), colors, method=method)).any()
    kept = visible.any(1) & (np.arange(7) % 2 == 0)
    without = draw(xy[kept], visible[kept], colors[kept], method=method)
    hidden = draw(xy, visible & kept[:, None], colors, method=method)
    np.testing.assert_array_equal(without, hidden)


@pytest.mark.parametrize("method", METHODS)
def test_points_that_are_not_finite_draw_nothing(method):
    for bad in (np.nan, np.inf, -np.inf):
        assert not one(bad, 5.0, method=method).any()


def test_later_tracks_cover_earlier_ones():
    xy, visible = np.full((2, 1, 2), 10.5, np.float32), np.ones((2, 1), bool)
    red_blue = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    np.testing.assert_allclose(draw(xy, visible, red_blue)[0, 10, 10], [0, 0, 1], atol=1e-7)
    np.testing.assert_allclose(draw(xy, visible, red_blue[::-1])[0, 10, 10], [1, 0, 0], atol=1e-7)


def test_values_stay_in_range_and_color_is_not_squared():
    rng = np.random.default_rng(3)
    xy = rng.uniform(0, 24, (40, 2, 2)).astype(np.float32)
    drawn = np.asarray(draw(xy, np.ones((40, 2), bool), np.ones((40, 3), np.float32)))
    assert drawn.min() >= 0 and drawn.max() <= 1 + 1e-6  # canvas + g (1 - canvas) may round up
    np.testing.assert_allclose(one(10.5, 10.5, color=(0.6, 0.3, 0.0))[10, 10], [0.6, 0.3, 0.0], atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_drawn_like_single_clips(scene, method):
    xy, visible, colors = (np.stack([a, a[::-1], np.roll(a, 1, 0)]) for a in scene)
    batch = jax.jit(jax.vmap(functools.partial(draw, method=method)))(xy, visible, colors)
    for i in range(3):
        # The same operations, possibly vectorised otherwise.
        np.testing.assert_allclose(batch[i], draw(xy[i], visible[i], colors[i], method=method), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_canvas_smaller_than_a_blob(scene, method):
    drawn = draw(*scene, size=(5, 6), method=method)
    np.testing.assert_allclose(drawn, slow(*scene, (5, 6), SIGMA, True), atol=2e-6)


def test_blobs_refuse_wrong_arguments(scene):
    tracks = Tracks(*scene[:2])
    with pytest.raises(ValueError, match="sigma"):
        render.blobs(tracks, scene[2], SIZE, 0.0)
    with pytest.raises(ValueError, match="7 tracks"):
        render.blobs(tracks, scene[2][:3], SIZE, SIGMA)
    with pytest.raises(ValueError, match="auto, window, full"):
        render.blobs(tracks, scene[2], SIZE, SIGMA, method="fast")


def test_distinct_colors_start_with_the_released_ones():
    first = [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0.5, 0.5, 0.5)]
    colors = render.distinct_colors(64)
    np.testing.assert_array_equal(colors[:8], first)
    assert {tuple(2 * c) for c in colors[:26]} == set(np.ndindex(3, 3, 3)) - {(0, 0, 0)}
    assert colors.dtype == np.float32 and colors.min() >= 0 and colors.max() <= 1


def test_distinct_colors_are_distinct_and_not_black():
    colors = np.concatenate([np.zeros((1, 3)), render.distinct_colors(64)])
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 10 * np.eye(len(colors))
    # 1 / 5 in one channel is the finest step of the grid they are taken from.
    assert gaps.min() > 0.19
    np.testing.assert_array_equal(render.distinct_colors(5), render.distinct_colors(30)[:5])
    for n in (-1, 5000):
        with pytest.raises(ValueError, match=f"0 to 4096 distinct colours are available; asked for {n}"):
            render.distinct_colors(n)


def test_colors_of_more_points_go_on_after_those_of_fewer():
    """The first 128 are those that models were trained with: their sum tells a change of any of them."""
    many = render.distinct_colors(1024)
    np.testing.assert_array_equal(render.distinct_colors(128), many[:128])
    weights = np.arange(1, 129)[:, None] * [1, 10, 100]
    assert (many[:128].astype(np.float64) * weights).sum() == pytest.approx(502498.607, abs=1e-2)
    gaps = np.linalg.norm(many[:, None] - many[None], axis=-1) + np.eye(len(many))
    # 1 / 10 in one channel is the step of the second grid; 1 / 20 that of the third.
    assert gaps[:128, :128].min() > 0.19 and gaps.min() > 0.09 and many.max(axis=1).min() >= 0.5


@pytest.mark.slow
def test_as_many_colors_as_an_edit_may_have_points():
    colors = np.asarray(render.random_colors(jax.random.key(0), document.MAX_POINTS))
    assert len(np.unique(colors, axis=0)) == document.MAX_POINTS
    with pytest.raises(ValueError, match="4096"):
        render.random_colors(jax.random.key(0), document.MAX_POINTS + 1)


@pytest.mark.parametrize(
    ("pool", "n"), [("7", 7), ("26", 20), ("64", 64), ("any", 3), ("any", 30), ("any", 70), ("any", 144)]
)
def test_random_colors_are_drawn_without_replacement(pool, n):
    colors = np.asarray(render.random_colors(jax.random.key(0), n, pool))
    assert colors.shape == (n, 3) and len(np.unique(colors, axis=0)) == n
    allowed = {tuple(c) for c in render.distinct_colors(int(pool) if pool != "any" else max(n, 128))}
    assert {tuple(c) for c in colors} <= allowed


def test_random_colors_depend_on_the_key_only():
    pick = jax.jit(lambda key: render.random_colors(key, 7, "7"))
    np.testing.assert_array_equal(pick(jax.random.key(0)), pick(jax.random.key(0)))
    firsts = {tuple(np.asarray(pick(jax.random.key(i))[0])) for i in range(60)}
    assert len(firsts) == 7  # each colour comes first at times; P(one missing) = 7 (6/7)^60 = 7e-4, with fixed keys


def test_random_colors_refuse_a_pool_that_is_too_small():
    with pytest.raises(ValueError, match=r"'7'.*7.*8"):
        render.random_colors(jax.random.key(0), 8, "7")
    with pytest.raises(ValueError, match=r"'all'.*26"):
        render.random_colors(jax.random.key(0), 8, "all")


def test_random_colors_run_under_vmap():
    colors = jax.vmap(lambda key: render.random_colors(key, 5, "any"))(jax.random.split(jax.random.key(0), 4))
    assert jnp.shape(colors) == (4, 5, 3)
