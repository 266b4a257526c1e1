"""Diffusion-as-Shader: the drawing of points against a loop, their colours, and where each stream enters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from motionv2v import methods, render
from motionv2v.methods import diffusion_as_shader
from motionv2v.tracks import Tracks

SIZE = (12, 20)
CONFIG = ConfigDict(diffusion_as_shader.released_settings())


def random_tracks(count=30, length=5, seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform((-4, -4), (SIZE[1] + 4, SIZE[0] + 4), (count, length, 2)).astype(np.float32)
    return Tracks(xy, rng.random((count, length)) < 0.7)


def loop(tracks, colors, radius, order):
    frames = np.zeros((tracks.xy.shape[1], *SIZE, 3), np.float32)
    for t in range(len(frames)):
        for n in order:
            if tracks.visible[n, t]:
                x, y = np.floor(tracks.xy[n, t]).astype(int)
                top, left = max(0, y - radius), max(0, x - radius)
                frames[t, top : max(0, y + radius + 1), left : max(0, x + radius + 1)] = colors[n]
    return frames


@pytest.mark.parametrize("radius", [0, 2])
def test_points_are_drawn_as_a_loop_draws_them_far_ones_first(radius):
    tracks, rng = random_tracks(), np.random.default_rng(1)
    colors, nearness = rng.random((30, 3)).astype(np.float32), rng.integers(0, 5, 30).astype(np.float32)
    draw = jax.jit(lambda nearness: render.point_video(tracks, colors, SIZE, radius, nearness))
    far_first = sorted(range(30), key=lambda n: nearness[n])
    np.testing.assert_array_equal(draw(nearness), loop(tracks, colors, radius, far_first))
    np.testing.assert_array_equal(
        render.point_video(tracks, colors, SIZE, radius), loop(tracks, colors, radius, range(30))
    )


def test_a_point_that_is_no_number_is_left_out():
    xy = np.full((1, 2, 2), np.nan, np.float32)
    assert not np.asarray(render.point_video(Tracks(xy, np.ones((1, 2), bool)), np.ones((1, 3)), SIZE)).any()


def test_colours_are_those_of_the_first_frame_and_stay():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    start = np.stack([columns, rows], -1).reshape(-1, 1, 2) + np.float32(0.5)
    xy = start + np.array([[0, 0], [3, 0]], np.float32)  # all move three pixels to the right
    clip = {"target": np.zeros((2, *SIZE, 3), np.uint8), "target_xy": xy}
    clip |= {"target_visible": np.ones(xy.shape[:2], bool), "target_nearness": np.full(len(xy), 0.25, np.float32)}
    videos = diffusion_as_shader.conditions(jax.random.key(0), clip, CONFIG.copy_and_resolve_references())["videos"]
    drawn = (np.asarray(videos["points"]) + 1) / 2
    # The last of the points whose squares cover a pixel lies in front: the one two rows and two columns further.
    np.testing.assert_allclose(drawn[0, 3, 4], [6.5 / SIZE[1], 5.5 / SIZE[0], 0.25], atol=1e-6)
    np.testing.assert_allclose(drawn[1, :, 3:], drawn[0, :, :-3], atol=1e-6)
    np.testing.assert_array_equal(videos["points_first"], videos["points"][:1])
    demo = ConfigDict({**CONFIG, "demo_range": True})
    of_demo = diffusion_as_shader.conditions(jax.random.key(0), clip, demo)["videos"]
    np.testing.assert_allclose(of_demo["points"], drawn, atol=1e-6)
    np.testing.assert_array_equal(of_demo["points_first"], videos["points_first"])
    del clip["target_nearness"]
    unknown = diffusion_as_shader.conditions(jax.random.key(0), clip, CONFIG)["videos"]["points"]
    np.testing.assert_allclose((np.asarray(unknown)[0, ..., 2] + 1) / 2, 0.5, atol=1e-6)


def test_streams_enter_where_the_released_code_has_them():
    rng = np.random.default_rng(0)
    points, first, points_first = (rng.normal(size=(2, t, 2, 3, 4)).astype(np.float32) for t in (3, 1, 1))
    videos = {"points": points, "first": first, "points_first": points_first}
    control = diffusion_as_shader.Conditioner().apply({}, {"videos": videos}, jnp.zeros(2))
    assert control.tokens is None and control.latents.shape == (2, 3, 2, 3, 8)
    np.testing.assert_array_equal(control.latents[..., :4], points)
    np.testing.assert_array_equal(control.latents[:, :1, ..., 4:], points_first)
    np.testing.assert_array_equal(control.concat[:, :1], first)
    assert not np.asarray(control.latents[:, 1:, ..., 4:]).any() and not np.asarray(control.concat[:, 1:]).any()
    with pytest.raises(ValueError, match="'first' is missing; got points, points_first"):
        diffusion_as_shader.Conditioner().apply({}, {"videos": {n: videos[n] for n in ("points", "points_first")}})


def test_it_animates_and_is_told_how_near_points_are_where_that_is_known():
    method = methods.get("diffusion_as_shader")
    assert method.animates() and not method.edits()
    tracks = random_tracks()
    batch = {"target": np.zeros((1, 5, *SIZE, 3), np.uint8), "target_xy": tracks.xy[None]}
    batch["target_visible"] = tracks.visible[None]
    without = method.batch_conditions(jax.random.key(0), batch, CONFIG)["videos"]["points"]
    near = {**batch, "target_nearness": np.ones((1, 30), np.float32)}
    with_it = method.batch_conditions(jax.random.key(0), near, CONFIG)["videos"]["points"]
    assert (np.asarray(without) != np.asarray(with_it)).any()
