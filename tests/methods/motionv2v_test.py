"""MotionV2V's conditions and conditioner: colours stand for points, streams have their order, the base starts it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST
from ml_collections import ConfigDict

from motionv2v import methods, sections
from motionv2v.methods import motionv2v
from motionv2v.models import patches
from motionv2v.models.dit import DiT

SIZE = (24, 32)
CONFIG = ConfigDict({"name": "motionv2v", "sigma": 1.5, "colors": "any", "first_frame_latents": False})
CONFIG.update({"streams": motionv2v.STREAMS, "subpixel": True, "patch_embed_from_base": False})


def clip(num_points=3, num_frames=2, seed=0):
    """Make a clip whose points stand at pixel centres, far enough apart that their blobs do not touch."""
    rng = np.random.default_rng(seed)
    # Blobs end ceil(3 sigma) = 5 px from their centre: places 11 px apart share no pixel.
    places = np.array([(5.5, 5.5), (16.5, 5.5), (27.5, 5.5), (5.5, 17.5), (16.5, 17.5), (27.5, 17.5)], np.float32)

    def tracks():
        return np.stack([places[rng.permutation(6)[:num_points]] for _ in range(num_frames)], axis=1)

    visible = np.ones((num_points, num_frames), bool)
    return {
        "source": rng.integers(0, 256, (num_frames, *SIZE, 3), dtype=np.uint8),
        "source_xy": tracks(),
        "target_xy": tracks(),
        "source_visible": visible,
        "target_visible": visible.copy(),
    }


def with_draft(sample, num_frames):
    """Add a draft, half of whose first rows is made up, and which doubts its last frame."""
    rng = np.random.default_rng(9)
    hole, uncertain = (np.zeros((num_frames, *SIZE), np.float32) for _ in range(2))
    hole[:, :4], uncertain[-1] = 1.0, 0.5
    drawn = rng.integers(0, 256, (num_frames, *SIZE, 3), dtype=np.uint8)
    return {**sample, "draft": drawn, "draft_hole": hole, "draft_uncertain": uncertain}


DRAFTED = ConfigDict({**CONFIG.to_dict(), "streams": (*motionv2v.STREAMS, "draft")})


def test_a_draft_comes_with_the_shares_of_each_latent_that_are_made_up_and_doubtful():
    sample = with_draft(clip(num_frames=5), 5)
    drawn = motionv2v.conditions(jax.random.key(0), sample, DRAFTED)
    np.testing.assert_allclose(drawn["videos"]["draft"], sample["draft"] / np.float32(127.5) - 1, atol=1e-6)
    found = np.asarray(drawn["maps"]["draft"])
    assert found.shape == (2, 3, 4, 2)  # 5 frames and 24x32 pixels in latents
    # A latent is of 8x8 pixels: of the first row of them half is made up. The second latent is of frames 1 to 4.
    np.testing.assert_allclose(found[..., 0], np.broadcast_to(np.array([0.5, 0, 0])[None, :, None], (2, 3, 4)))
    np.testing.assert_allclose(found[..., 1], np.broadcast_to(np.array([0, 0.125])[:, None, None], (2, 3, 4)))


def test_a_clip_of_one_frame_has_a_draft():
    sample = with_draft(clip(num_frames=1), 1)
    assert motionv2v.conditions(jax.random.key(0), sample, DRAFTED)["maps"]["draft"].shape == (1, 3, 4, 2)


def test_the_method_reads_a_draft_only_with_that_stream():
    method = methods.get("motionv2v")
    assert list(method.fields(CONFIG)) == ["source", "source_tracks", "target_tracks"]
    assert list(method.fields(DRAFTED)) == ["source", "source_tracks", "target_tracks", "draft"]
    with pytest.raises(ValueError, match="the method reads draft, draft_hole, draft_uncertain; the batch has"):
        method.batch_conditions(jax.random.key(0), jax.tree.map(lambda x: x[None], clip()), DRAFTED)


def test_the_draft_is_invisible_at_zero_kernel_and_seen_at_another():
    videos = {name: jax.random.normal(jax.random.key(i), (1, 2, 4, 4, 16)) for i, name in enumerate(motionv2v.STREAMS)}
    drafted = {"videos": {**videos, "draft": videos["source_video"]}, "maps": {"draft": jnp.ones((1, 2, 4, 4, 2))}}
    plain, repairing = (motionv2v.make_conditioner(config, width=8, patch_size=2) for config in (CONFIG, DRAFTED))
    params = repairing.init(jax.random.key(5), drafted)["params"]
    own = {"params": {"patch_embed": params["patch_embed"]}}
    tokens = plain.apply(own, {"videos": videos}).tokens
    control = repairing.apply({"params": params}, drafted)
    np.testing.assert_array_equal(control.tokens, tokens)
    np.testing.assert_array_equal(control.estimate, jnp.zeros((1, 2, 4, 4, 16)))
    assert set(params["draft_embed"]) == {"kernel"} and params["draft_embed"]["kernel"].shape == (2 * 2 * 18, 8)
    for row in (0, 16, 17):  # the latent's first channel, what is made up, what is doubtful
        kernel = params["draft_embed"]["kernel"].at[row].set(1.0)
        changed = repairing.apply({"params": {**params, "draft_embed": {"kernel": kernel}}}, drafted).tokens
        assert jnp.abs(changed - tokens).max() > 0.1, row


def test_the_estimate_can_be_the_draft_where_it_is_known():
    """Some kernel gives back the draft's latents, where none of them is made up."""
    known = {"draft": jnp.zeros((1, 2, 4, 6, 2)).at[:, 1, :, 2:4, 0].set(1.0)}
    videos = dict.fromkeys((*motionv2v.STREAMS, "draft"), jax.random.normal(jax.random.key(0), (1, 2, 4, 6, 16)))
    repairing = motionv2v.make_conditioner(DRAFTED, width=8, patch_size=2)
    params = repairing.init(jax.random.key(5), {"videos": videos, "maps": known})["params"]
    # Rows are (place in the patch, channel): 16 of the draft, 2 of the maps, 16 without the made up, 16 without doubt.
    # Columns are (channel, place in the patch).
    rows = np.arange(4 * 50).reshape(4, 50)[:, 18:34]
    kernel = np.zeros((200, 64), np.float32)
    kernel[rows.ravel(), np.arange(64).reshape(16, 4).T.ravel()] = 1
    params = {**params, "draft_estimate": {"kernel": kernel}}
    found = repairing.apply({"params": params}, {"videos": videos, "maps": known}).estimate
    np.testing.assert_allclose(found, videos["draft"] * (1 - known["draft"][..., :1]), atol=1e-6)


def test_a_missing_draft_is_named():
    videos = dict.fromkeys((*motionv2v.STREAMS, "draft"), jnp.zeros((1, 1, 2, 2, 16)))
    repairing = motionv2v.make_conditioner(DRAFTED, width=8, patch_size=2)
    for given in ({"videos": videos}, {"videos": {**videos}, "maps": {"given": jnp.zeros(1)}}):
        with pytest.raises(ValueError, match=r"conditioning stream 'draft' is missing; got (none|given)"):
            repairing.init(jax.random.key(0), given)


@pytest.mark.parametrize("streams", [("draft",), ("source_video", "source_tracks", "target_tracks"), 3, "draft"])
def test_streams_that_no_branch_has_are_refused(streams):
    with pytest.raises(ValueError, match=r"method.streams is .*, expected .*'draft'"):
        sections.complete(ConfigDict({"method": {"name": "motionv2v", "streams": streams}}))


def at(video, xy, point, frame):
    x, y = xy[point, frame]
    return np.asarray(video[frame, int(y), int(x)])


@functools.cache
def program(first_frame_latents):
    config = ConfigDict({**CONFIG.to_dict(), "first_frame_latents": first_frame_latents})
    return jax.jit(lambda key, sample: motionv2v.conditions(key, sample, config), compiler_options=FAST)


def draw(sample, seed=0, first_frame_latents=False):
    return jax.tree.map(np.array, program(first_frame_latents)(jax.random.key(seed), sample))["videos"]


def test_a_point_has_one_colour_in_both_videos():
    sample = clip()
    videos = draw(sample)
    colors = []
    for point in range(3):
        shown = [
            at(videos[f"{side}_tracks"], sample[f"{side}_xy"], point, frame)
            for side in ("source", "target")
            for frame in range(2)
        ]
        # At a blob's centre its opacity is exp(0) = 1: the colour itself, up to float32.
        np.testing.assert_allclose(shown, np.repeat(shown[:1], 4, 0), atol=1e-6)
        colors.append(shown[0])
    gaps = np.linalg.norm(np.array(colors)[:, None] - np.array(colors), axis=-1)[np.triu_indices(3, 1)]
    # The 26 colours of the cube are at least 0.5 apart in one channel, that is 1 in [-1, 1].
    assert gaps.min() > 0.99
    other = draw(sample, seed=1)["source_tracks"]
    assert not np.allclose(other, videos["source_tracks"], atol=0.1), "another key draws other colours"


def test_hidden_points_draw_nothing():
    sample = clip()
    shown = draw(sample)
    sample["target_visible"][1, 0] = False
    videos = draw(sample)
    np.testing.assert_array_equal(videos["source_tracks"], shown["source_tracks"])
    x, y = sample["target_xy"][1, 0].astype(int)
    square = videos["target_tracks"][0, y - 5 : y + 6, x - 5 : x + 6]
    np.testing.assert_array_equal(square, -1.0)
    videos["target_tracks"][0, y - 5 : y + 6, x - 5 : x + 6] = shown["target_tracks"][0, y - 5 : y + 6, x - 5 : x + 6]
    np.testing.assert_array_equal(videos["target_tracks"], shown["target_tracks"])
    everything = {name: np.zeros_like(v) if name.endswith("visible") else v for name, v in sample.items()}
    for side in ("source", "target"):
        np.testing.assert_array_equal(draw(everything)[f"{side}_tracks"], -1.0)


def test_videos_are_in_the_models_range():
    sample = clip()
    videos = draw(sample, first_frame_latents=True)
    assert sorted(videos) == sorted(name + end for name in motionv2v.STREAMS for end in ("", "_first"))
    for name, video in videos.items():
        assert -1 <= video.min() and video.max() <= 1
        if name.endswith("_first"):
            np.testing.assert_array_equal(video, videos[name.removesuffix("_first")][:1])
    # Float32: 255 / 127.5 - 1 is exact, the levels between are not.
    np.testing.assert_allclose((videos["source_video"] + 1) * 127.5, sample["source"], atol=1e-4)


@pytest.mark.parametrize(("settings", "offset"), [({}, (0.4, -0.3)), ({"subpixel": False}, (0.0, 0.0))])
def test_blobs_sit_between_pixels_or_snap_to_one(settings, offset):
    """Released weights saw blobs at pixel (int(x), int(y))."""
    sample = clip(num_points=1, num_frames=1)
    for side in ("source", "target"):
        sample[f"{side}_xy"] = np.array([[[16.9, 8.2]]], np.float32)
    config = ConfigDict({**CONFIG.to_dict(), **settings})
    videos = motionv2v.conditions(jax.random.key(0), sample, config)["videos"]
    # Pixel (16, 8) has its centre at (16.5, 8.5); its neighbours' opacities tell how far from it the blob's is.
    for side in ("source_tracks", "target_tracks"):
        blob = (np.asarray(videos[side])[0].max(-1) + 1) / 2
        for axis, line in enumerate((blob[8, 15:18], blob[7:10, 16])):
            # exp(-(d - 1)^2 / 2s^2) / exp(-(d + 1)^2 / 2s^2) = exp(2 d / s^2)
            measured = np.log(line[2] / line[0]) * CONFIG.sigma**2 / 2
            np.testing.assert_allclose(measured, offset[axis], atol=1e-4)


def test_batch_equals_samples_one_by_one():
    samples = [clip(seed=seed) for seed in range(2)]
    batch = {name: np.stack([s[name] for s in samples]) for name in samples[0]} | {"tokens": np.zeros((2, 4), np.int32)}
    draw_batch = jax.jit(
        lambda key, batch: motionv2v.METHOD.batch_conditions(key, batch, CONFIG), compiler_options=FAST
    )
    together = draw_batch(jax.random.key(5), batch)["videos"]
    for row, (key, sample) in enumerate(zip(jax.random.split(jax.random.key(5), 2), samples, strict=True)):
        alone = program(False)(key, sample)["videos"]
        for name in alone:
            # The same float32 sums, compiled differently.
            np.testing.assert_allclose(together[name][row], alone[name], atol=1e-5)


# --- the conditioner -------------------------------------------------------------------------------------------------

SHAPE = (1, 2, 4, 6, 16)


def latents(first_frames=False):
    rng = np.random.default_rng(0)
    videos = {name: rng.normal(size=SHAPE).astype(np.float32) for name in motionv2v.STREAMS}
    if first_frames:
        videos |= {
            f"{name}_first": rng.normal(size=(1, 1, *SHAPE[2:])).astype(np.float32) for name in motionv2v.STREAMS
        }
    return videos


def tokens(videos, kernel, bias, first_frames=False):
    config = ConfigDict({**CONFIG.to_dict(), "first_frame_latents": first_frames})
    module = motionv2v.make_conditioner(config, width=kernel.shape[1], patch_size=2)
    params = {"patch_embed": {"kernel": kernel, "bias": bias}}
    shapes = jax.eval_shape(module.init, jax.random.key(0), {"videos": videos})["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    return np.asarray(module.apply({"params": params}, {"videos": videos}).tokens)


@pytest.mark.parametrize("first_frames", [False, True])
def test_streams_are_concatenated_in_order(first_frames):
    """With an identity as patch embedding, the tokens are the patches: target tracks, source tracks, source video."""
    videos = latents(first_frames)
    channels = 96 if first_frames else 48
    width = 4 * channels
    out = tokens(videos, np.eye(width, dtype=np.float32), np.zeros(width, np.float32), first_frames)
    patches = out.reshape(1, 2, 2, 3, 2, 2, channels)
    ends = ("", "_first") if first_frames else ("",)
    order = [name + end for name in ("target_tracks", "source_tracks", "source_video") for end in ends]
    for index, name in enumerate(order):
        grid = patches[..., 16 * index : 16 * (index + 1)].transpose(0, 1, 2, 4, 3, 5, 6).reshape(1, 2, 4, 6, 16)
        expected = videos[name]
        if name.endswith("_first"):
            expected = np.concatenate([expected, np.zeros_like(expected)], 1)
        np.testing.assert_array_equal(grid, expected, err_msg=name)


def test_starts_as_the_bases_embedding_of_the_target_tracks():
    """With two streams of zeros, tokens equal what the base's own patch embedding makes of the target tracks."""
    rng = np.random.default_rng(1)
    base_kernel = rng.normal(size=(2 * 2 * 16, 10)).astype(np.float32)
    base_bias = rng.normal(size=10).astype(np.float32)
    for first_frames in (False, True):
        channels = 96 if first_frames else 48
        fresh = {"patch_embed": {"kernel": np.ones((4 * channels, 10), np.float32), "bias": np.ones(10, np.float32)}}
        base = {"patch_embed": {"kernel": base_kernel, "bias": base_bias}}
        config = ConfigDict({"patch_embed_from_base": True})
        started = motionv2v.start_from({"dit": {}, "conditioner": fresh}, base, DiT(), config)
        params = started["conditioner"]["patch_embed"]
        videos = {name: np.zeros_like(v) for name, v in latents(first_frames).items()}
        videos["target_tracks"] = latents()["target_tracks"]
        out = tokens(videos, params["kernel"], params["bias"], first_frames)
        expected = patches.patchify(jnp.asarray(videos["target_tracks"]), 2) @ base_kernel + base_bias
        # Sums of 64 against 192 float32 products of which the others are zero.
        np.testing.assert_allclose(out, expected, atol=1e-5)
        # The other streams do not show before they are trained.
        noisy = latents(first_frames) | {"target_tracks": videos["target_tracks"]}
        np.testing.assert_allclose(tokens(noisy, params["kernel"], params["bias"], first_frames), expected, atol=1e-5)


def test_missing_stream_is_named():
    module = motionv2v.make_conditioner(CONFIG, width=8, patch_size=2)
    videos = latents()
    del videos["source_tracks"]
    with pytest.raises(ValueError, match="'source_tracks' is missing; got source_video, target_tracks"):
        jax.eval_shape(module.init, jax.random.key(0), {"videos": videos})


def test_unknown_method_lists_what_there_is():
    assert methods.get("motionv2v") is motionv2v.METHOD
    with pytest.raises(
        ValueError,
        match="unknown method 'revideo2'; available: diffusion_as_shader, interpolation, motion_inversion",
    ):
        methods.get("revideo2")
