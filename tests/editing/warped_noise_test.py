"""Noise carried along a motion: its law whatever the motion, that it follows, and that what is new is independent."""

import itertools

import moving_square
import numpy as np
import pytest
from scipy import stats

from motionv2v import draft
from motionv2v.editing import warped_noise
from motionv2v.tracks import Tracks

SIZE, CHANNELS = (64, 96), 16


def shifted(by, steps=8, seed=0, layers=None):
    """Carry a canvas by the same shift, (x, y) in cells, several times; the canvases, the first one included."""
    rng = np.random.default_rng(seed)
    canvases, flow = [warped_noise.draw(rng, SIZE, CHANNELS)], np.broadcast_to(np.float32(by), (*SIZE, 2))
    layers = layers or [np.zeros(SIZE, int)] * (steps + 1)
    for t in range(steps):
        canvases.append(warped_noise.step(rng, canvases[-1], flow, -flow, layers[t], layers[t + 1]))
    return canvases


def zoomed(factor, steps=6):
    rng, middle = np.random.default_rng(0), np.array(SIZE[::-1]) / 2
    place = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in SIZE[::-1])), -1) - middle
    canvases, layer = [warped_noise.draw(rng, SIZE, CHANNELS)], np.zeros(SIZE, int)
    flows = ((factor - 1) * place).astype(np.float32), ((1 / factor - 1) * place).astype(np.float32)
    for _ in range(steps):
        canvases.append(warped_noise.step(rng, canvases[-1], *flows, layer, layer))
    return canvases


MOTIONS = {
    "rest": lambda: shifted((0, 0)),
    "whole": lambda: shifted((4, -8)),
    "fractions": lambda: shifted((0.3, 0.7)),
    "growing": lambda: zoomed(1.15),
    "shrinking": lambda: zoomed(0.85),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_law_stays_whatever_the_motion(motion):
    last = warped_noise.read(MOTIONS[motion]()[-1])
    assert last.shape == (SIZE[0] // 4, SIZE[1] // 4, CHANNELS)
    error = 1 / np.sqrt(last.size)  # 0.013
    assert abs(last.mean()) < 4 * error and abs(last.var() - 1) < 6 * error
    for axis in (0, 1):
        lag = np.take(last, range(1, last.shape[axis]), axis) * np.take(last, range(last.shape[axis] - 1), axis)
        assert abs(lag.mean()) < 4 * error, motion
    assert abs(np.corrcoef(last.reshape(-1, CHANNELS).T)[np.triu_indices(CHANNELS, 1)]).mean() < 0.1
    assert stats.kstest(last.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("factor", [1.05, 1.5])
def test_what_has_moved_stays_put_at_rest(factor):
    """Noise of cells that a zoom made anew does not wander when the zoom is over."""
    rng, nothing, layer = np.random.default_rng(2), np.zeros((*SIZE, 2), np.float32), np.zeros(SIZE, int)
    canvas = zoomed(factor, steps=1)[-1]
    after = warped_noise.step(rng, canvas, nothing, nothing, layer, layer)
    np.testing.assert_allclose(after.noise, canvas.noise, atol=1e-5)


def test_large_canvases_are_white():
    """As above with errors small enough for the bound: correlations of neighbours below 0.02."""
    rng, size = np.random.default_rng(1), (256, 256)
    canvas, layer = warped_noise.draw(rng, size, CHANNELS), np.zeros(size, int)
    flow = rng.normal(size=(8, 8, 2)).repeat(32, 0).repeat(32, 1).astype(np.float32) * 3
    for _ in range(3):
        canvas = warped_noise.step(rng, canvas, flow, -flow, layer, layer)
    made = warped_noise.read(canvas)
    assert abs((made[1:] * made[:-1]).mean()) < 0.02 and abs((made[:, 1:] * made[:, :-1]).mean()) < 0.02
    assert abs(made.mean()) < 0.02 and abs(made.var() - 1) < 0.02


def test_noise_follows_whole_shifts_and_rest_is_the_same_noise():
    frames = [warped_noise.read(canvas) for canvas in shifted((4, -8), steps=3)]
    for before, after in itertools.pairwise(frames):
        there = after[:-2, 1:]  # a latent to the right, two up
        assert np.corrcoef(there.ravel(), before[2:, :-1].ravel())[0, 1] > 0.99
        assert abs(np.corrcoef(after[-2:].ravel(), before[-2:].ravel())[0, 1]) < 0.15  # came in from outside
    rest = shifted((0, 0))
    np.testing.assert_allclose(rest[-1].noise, rest[0].noise, atol=1e-5)


def test_slow_motions_arrive():
    """A quarter of a cell a frame: four frames are a cell."""
    first, *_, last = (canvas.noise for canvas in shifted((0.25, 0), steps=8))
    best = {by: np.corrcoef(first[:, 8:-8].ravel(), last[:, 8 + by : by - 8 or None].ravel())[0, 1] for by in range(5)}
    assert max(best, key=best.get) == 2 and best[2] > 0.8, best


def test_what_a_thing_uncovers_is_new_and_the_thing_takes_its_noise_along():
    steps = 4
    layers = []
    for t in range(steps + 1):
        layer = np.zeros(SIZE, int)
        layer[16:48, 8 + 8 * t : 40 + 8 * t] = 1
        layers.append(layer)
    rng = np.random.default_rng(0)
    canvases = [warped_noise.draw(rng, SIZE, CHANNELS)]
    for before, after in itertools.pairwise(layers):
        forward = np.where(before[..., None] == 1, np.float32([8, 0]), 0).astype(np.float32)
        backward = np.where(after[..., None] == 1, np.float32([-8, 0]), 0).astype(np.float32)
        canvases.append(warped_noise.step(rng, canvases[-1], forward, backward, before, after))
    first, last = warped_noise.read(canvases[0]), warped_noise.read(canvases[-1])
    alike = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]  # noqa: E731
    assert alike(last[4:12, 10:18], first[4:12, 2:10]) > 0.99  # the thing
    assert alike(last[:4], first[:4]) > 0.99  # the ground that nothing covers
    uncovered = last[4:12, 2:10]
    for other in (first[4:12, 2:10], last[4:12, 10:18], first[4:12, 10:18]):
        assert abs(alike(uncovered, other)) < 0.1
    assert abs(uncovered.var() - 1) < 0.15


def test_fresh_noise_is_mixed_in_by_its_share():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 40, 16), np.float32)
    for share in (0.0, 0.5, 1.0):
        made = warped_noise.degraded(np.random.default_rng(1), noise, share)
        assert abs(made.var() - 1) < 0.03
        expected = (1 - share) / np.hypot(1 - share, share)
        assert np.corrcoef(made.ravel(), noise.ravel())[0, 1] == pytest.approx(expected, abs=0.02)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"a share of fresh noise from 0 to 1, such as 0\.5; got"):
            warped_noise.check(share)


def test_the_noise_of_a_draft_goes_where_its_thing_goes():
    square = (moving_square.corners() + moving_square.SIDE / 2)[None] + moving_square.OFFSETS[:, None]
    source = Tracks(square.astype(np.float32), np.ones(square.shape[:2], bool))
    resting = Tracks(np.repeat(source.xy[:, :1], 9, 1) + np.float32([0, 24]), source.visible)
    clip, frames = draft.Prepared(moving_square.draw()), np.arange(9)
    size, options = moving_square.SIZE, {"channels": CHANNELS, "share": 0.0}
    quiet = {"groups": [[0, 1, 2, 3, 4]], "notify": lambda line: None}
    follows = draft.render(clip, source, source, groups=[], notify=lambda line: None)
    moves = draft.render(clip, source, Tracks(source.xy + np.float32([0, 24]), source.visible), **quiet)
    rests = draft.render(clip, source, resting, **quiet)
    made = {
        name: warped_noise.of_draft(np.random.default_rng(0), drawn, clip, frames, size, **options)
        for name, drawn in (("moves", moves), ("rests", rests), ("follows", follows))
    }
    alike = lambda a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1]  # noqa: E731
    for noise in made.values():
        assert noise.shape == (3, 12, 16, CHANNELS) and noise.dtype == np.float32
        assert alike(noise[0, :, 10:], noise[2, :, 10:]) > 0.8  # the ground
    # Rows 54 to 74, columns 10 to 30 at first: of latents rows 7 and 8, column 2 lie inside, two columns further each.
    assert alike(made["moves"][0, 7:9, 2], made["moves"][1, 7:9, 4]) > 0.6
    assert alike(made["rests"][0, 7:9, 2], made["rests"][2, 7:9, 2]) > 0.9
    held = np.array([0, 1, 2, 3, 4, 4, 4, 4, 4])
    short = warped_noise.of_draft(np.random.default_rng(0), rests, clip, held, size, **options)
    np.testing.assert_allclose(short[2], short[1], atol=1e-6)
