"""Frame interpolation's conditions, conditioner and start: where the frames go, and that a base stays what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, methods, parameters
from motionv2v.methods import interpolation
from motionv2v.models.dit import Control, DiT

CONFIG = ConfigDict({"name": "interpolation", "drop_last": 0.25, "image_scale": 1.0})
SHAPE = (2, 3, 4, 6, 5)


def test_it_is_found_by_name():
    assert methods.get("interpolation") is interpolation.METHOD


def test_conditions_are_the_first_and_the_last_frame():
    videos = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 16, 3), dtype=np.uint8)
    drawn = interpolation.METHOD.batch_conditions(
        jax.random.key(0), {"target": videos, "tokens": np.zeros((2, 3), np.int32)}, CONFIG
    )
    assert sorted(drawn["videos"]) == ["first", "last"]
    for name, index in (("first", 0), ("last", -1)):
        frame = np.asarray(drawn["videos"][name])
        assert frame.shape == (2, 1, 8, 16, 3) and -1 <= frame.min() < frame.max() <= 1
        # Float32: 255 / 127.5 - 1 is exact, the levels between are not.
        np.testing.assert_allclose((frame[:, 0] + 1) * 127.5, videos[:, index], atol=1e-4)


def test_share_of_clips_without_a_last_frame():
    batch = {"target": np.zeros((4000, 9, 8, 8, 3), np.uint8)}
    given = np.asarray(interpolation.METHOD.batch_conditions(jax.random.key(0), batch, CONFIG)["maps"]["given"])
    assert given.shape == (4000, 3, 1, 1, 1)
    assert (given[:, 0] == 1).all() and (given[:, 1] == 0).all() and set(np.unique(given[:, 2])) == {0, 1}
    # Four standard deviations of a mean of 4,000 draws, sqrt(0.25 * 0.75 / 4000) = 0.0068.
    assert abs((given[:, 2] == 0).mean() - 0.25) < 0.028


def test_a_sampler_says_whether_there_is_a_last_frame():
    batch = {"target": np.zeros((4, 5, 8, 8, 3), np.uint8), "has_last": np.array([True, False, True, False])}
    given = interpolation.METHOD.batch_conditions(jax.random.key(0), batch, CONFIG)["maps"]["given"]
    np.testing.assert_array_equal(given[..., 0, 0, 0], [[1, 1], [1, 0], [1, 1], [1, 0]])


def given_frames(has_first, has_last, length):
    """Mark the latent frames that hold a given frame, by a loop."""
    given = np.zeros((len(has_first), length, 1, 1, 1), np.float32)
    for row, (first, last) in enumerate(zip(has_first, has_last, strict=True)):
        given[row, 0], given[row, -1] = first, last
    return given


def latents(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(SHAPE[0], 1, *SHAPE[2:])).astype(np.float32) for name in interpolation.ENDS}


def lay_out(videos, has_first, has_last, image_scale=1.0, length=SHAPE[1]):
    module = interpolation.make_conditioner(ConfigDict({**CONFIG, "image_scale": image_scale}), width=8, patch_size=2)
    given = given_frames(has_first, has_last, length)
    conditions = {"videos": videos, "maps": {"given": given}}
    assert not module.init(jax.random.key(0), conditions), "nothing to train"
    return np.asarray(module.apply({}, conditions).concat)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_frames_lie_at_their_latent_frames(length):
    """Against a loop: zeros except where a frame is given."""
    videos, has_first, has_last = latents(), [True, False], [True, True]
    out = lay_out(videos, has_first, has_last, 0.5, length)
    expected = np.zeros((SHAPE[0], length, *SHAPE[2:]), np.float32)
    for row in range(SHAPE[0]):
        if has_first[row]:
            expected[row, 0] = 0.5 * videos["first"][row, 0]
        if has_last[row]:
            expected[row, length - 1] = 0.5 * videos["last"][row, 0]
    np.testing.assert_array_equal(out, expected)


def test_a_frame_that_is_not_given_does_not_show():
    videos = latents()
    other = {**videos, "last": latents(1)["last"]}
    assert not np.array_equal(lay_out(videos, [True] * 2, [True] * 2), lay_out(other, [True] * 2, [True] * 2))
    np.testing.assert_array_equal(lay_out(videos, [True] * 2, [False] * 2), lay_out(other, [True] * 2, [False] * 2))


def test_what_is_missing_is_named():
    module = interpolation.make_conditioner(CONFIG, width=8, patch_size=2)
    given = {"given": given_frames([True] * 2, [True] * 2, 3)}
    with pytest.raises(ValueError, match="condition 'last' is missing; got first, given"):
        module.apply({}, {"videos": {"first": latents()["first"]}, "maps": given})
    with pytest.raises(ValueError, match="condition 'given' is missing; got first, last"):
        module.apply({}, {"videos": latents()})
    with pytest.raises(ValueError, match="1 latent frame; interpolation needs a first and a last one"):
        interpolation.conditions(jax.random.key(0), {"target": np.zeros((1, 8, 8, 3), np.uint8)}, CONFIG)


@pytest.mark.parametrize("patch_size_t", [None, 2])
def test_a_widened_base_predicts_what_the_base_predicts(patch_size_t):
    """Whatever the new channels hold, until the new rows are trained."""
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 16, "text_dim": 6, "text_length": 3, "time_embed_dim": 8}
    base = DiT(**sizes, in_channels=4, out_channels=4, patch_size_t=patch_size_t)
    wide = base.clone(in_channels=8)
    rng = np.random.default_rng(0)
    xt, concat = (rng.normal(size=(1, 2, 4, 4, 4)).astype(np.float32) for _ in range(2))
    rest = (jnp.array([500]), rng.normal(size=(1, 3, 6)).astype(np.float32))

    def shapes(dit, *given):
        return jax.eval_shape(dit.init, jax.random.key(0), *given)["params"]

    control = Control(concat=concat)
    run = jax.jit(wide.apply)
    wanted = shapes(wide, xt, *rest, control)
    params = tiny_model.random_params(shapes(base, xt, *rest))
    fresh = tiny_model.random_params(wanted, seed=1)
    fitted = interpolation.start_from({"dit": fresh}, params, wide, CONFIG)["dit"]
    checkpoints.check_shapes(fitted, wanted, "widened")
    expected = jax.jit(base.apply)({"params": params}, xt, *rest)
    # The same sums, with products of zero between.
    np.testing.assert_allclose(run({"params": fitted}, xt, *rest, control), expected, atol=1e-5)

    trained = tiny_model.random_params(wanted)
    same = interpolation.start_from({"dit": fresh}, trained, wide, CONFIG)["dit"]
    assert jax.tree.all(jax.tree.map(np.array_equal, same, trained)), "already wide"
    gap = run({"params": trained}, xt, *rest, control) - run({"params": trained}, xt, *rest, Control(concat=0 * concat))
    assert np.abs(gap).max() > 1e-2, "a trained model sees the frames"


def test_other_shapes_are_left_to_the_check_of_shapes():
    dit = DiT(in_channels=8, out_channels=4)
    odd = {"patch_embed": {"kernel": np.zeros((12, 5)), "bias": np.zeros(5)}}
    assert interpolation.start_from({"dit": {}}, odd, dit, CONFIG)["dit"]["patch_embed"]["kernel"].shape == (12, 5)


def test_5b_has_the_published_shapes():
    """CogVideoX-5B, 16 more input channels and a table of positions for 226 text and 17,550 video tokens."""
    from configs import interpolation_cogvideox_5b

    denoiser = backbone.build(interpolation_cogvideox_5b.get_config()).denoiser
    latents, image = (jax.ShapeDtypeStruct((1, t, 60, 90, 16), np.float32) for t in (13, 1))
    given = {"videos": {"first": image, "last": image}, "maps": {"given": np.ones((1, 13, 1, 1, 1), np.float32)}}
    text = jax.ShapeDtypeStruct((1, 226, 4096), np.float32)
    shapes = jax.eval_shape(denoiser.init, jax.random.key(0), latents, jnp.zeros(1, int), text, given)["params"]
    assert set(shapes) == {"dit"}
    assert parameters.count(shapes["dit"]) == 5_570_283_072 + 2 * 2 * 16 * 3072 + (226 + 13 * 30 * 45) * 3072
