"""The video autoencoder: causality, chunks with caches, the two convolution formulations, shapes and errors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.vae.autoencoder import VAE, chunk_bounds, latent_shape, sample_latents
from motionv2v.models.vae.layers import CausalConv3d, Downsample, GroupNorm, Normaliser, SpatialNorm, Upsample

KEY = jax.random.key(0)
TINY = {"block_channels": (4, 8), "layers_per_block": 1, "latent_channels": 4, "norm_groups": 2}


def tiny(**fields):
    # Two levels: space is compressed twice, time twice; the chunks stay 8 frames and 2 latents.
    return VAE(**{**TINY, "temporal_compression": 2, **fields})


@functools.cache
def tiny_params():
    # Random everywhere: zero-initialised kernels would hide the path through the latents in the decoder's norms.
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("kernel", "scale"):
            fan_in = max(1, np.prod(leaf.shape[:-1]))
            return rng.normal(size=leaf.shape).astype(np.float32) / np.sqrt(fan_in).astype(np.float32)
        return rng.normal(size=leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(tiny().init, KEY, jnp.zeros((1, 1, 4, 4, 3)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def encode(**fields):
    return jax.jit(functools.partial(tiny(**fields).apply, method="encode"))


@functools.cache
def decode():
    return jax.jit(functools.partial(tiny().apply, method="decode"))


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def conv_loop(x, kernel, bias):
    """Sum the causal convolution one product at a time."""
    kt, kh, kw = kernel.shape[:3]
    padded = np.pad(np.concatenate([x[:1]] * (kt - 1) + [x]), ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for t, row, column in np.ndindex(x.shape[:3]):
        for i, j, k in np.ndindex(kt, kh, kw):
            y[t, row, column] += padded[t + i, row + j, column + k] @ kernel[i, j, k]
    return y + bias


@pytest.mark.parametrize("impl", ["conv2d", "conv3d"])
def test_causal_conv_matches_loop(impl):
    x = random(2, 4, 3, 5, 2)
    conv = CausalConv3d(3, (3, 3, 3), impl)
    params = {"kernel": random(3, 3, 3, 2, 3, seed=1), "bias": random(3, seed=2)}
    y, _ = conv.apply({"params": params}, x)
    expected = [conv_loop(np.asarray(clip, np.float64), params["kernel"], params["bias"]) for clip in x]
    # Sums of 54 float32 products of order one.
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_conv_with_cache_equals_unchunked():
    x = random(1, 9, 4, 4, 2)
    conv = CausalConv3d(3)
    params = conv.init(KEY, x)
    whole, _ = conv.apply(params, x)
    chunks, cache = [], None
    for start, stop in ((0, 3), (3, 4), (4, 9)):
        y, cache = conv.apply(params, x[:, start:stop], cache)
        chunks.append(y)
    # The same sums; only the order may differ with the shape.
    np.testing.assert_allclose(jnp.concatenate(chunks, axis=1), whole, atol=1e-5)


def test_conv2d_equals_conv3d_in_the_whole_model():
    video = random(1, 9, 8, 8, 3)
    # The same sums in another order, through some ten layers.
    for a, b in zip(encode()(tiny_params(), video), encode(conv_impl="conv3d")(tiny_params(), video), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_group_norm_normalises_over_frames_and_pixels():
    x = 3 + random(2, 3, 4, 4, 6)
    y = GroupNorm(groups=2).apply({"params": {"scale": jnp.ones(6), "bias": jnp.zeros(6)}}, x)
    grouped = np.asarray(y, np.float64).reshape(2, -1, 2, 3)
    # float32 sums of 144 values; eps 1e-6 against a variance of 1/3.
    np.testing.assert_allclose(grouped.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.std(axis=(1, 3)), 1, atol=1e-5)


@pytest.mark.parametrize(("frames", "latent_of_frame"), [(1, [0]), (5, [0, 1, 1, 2, 2]), (6, [0, 0, 1, 1, 2, 2])])
def test_spatial_norm_takes_each_pixels_latent(frames, latent_of_frame):
    latents = random(1, max(latent_of_frame) + 1, 2, 2, 3)
    x = random(1, frames, 4, 8, 4, seed=1)
    norm = SpatialNorm(groups=2)
    params = norm.init(KEY, x, latents)["params"]
    params["conv_y"]["kernel"] = random(3, 4, seed=2)
    params["conv_b"]["kernel"] = random(3, 4, seed=3)
    y = np.asarray(norm.apply({"params": params}, x, latents))
    plain = GroupNorm(groups=2).apply({"params": params["norm_layer"]}, x)
    params, plain, latents = jax.tree.map(np.asarray, (params, plain, latents))
    for t, row, column in np.ndindex(frames, 4, 8):
        latent = latents[0, latent_of_frame[t], row // 2, column // 4]
        gain, shift = 1 + latent @ params["conv_y"]["kernel"], latent @ params["conv_b"]["kernel"]
        # A handful of float32 operations on values of order one.
        np.testing.assert_allclose(y[0, t, row, column], plain[0, t, row, column] * gain + shift, atol=1e-5)


@pytest.mark.parametrize(("frames", "copies"), [(1, [0]), (3, [0, 1, 1, 2, 2]), (4, [0, 0, 1, 1, 2, 2, 3, 3])])
def test_upsample_is_repeat_then_convolution(frames, copies):
    x = random(1, frames, 3, 2, 2)
    params = {"kernel": random(3, 3, 2, 3, seed=1), "bias": random(3, seed=2)}
    y = Upsample(3, compress_time=True).apply({"params": params}, x)
    large = np.asarray(x[0])[copies].repeat(2, axis=1).repeat(2, axis=2)
    expected = [conv_loop(frame[None], params["kernel"][None], params["bias"])[0] for frame in large]
    # Sums of 18 float32 products, grouped differently.
    np.testing.assert_allclose(y[0], expected, atol=1e-5)


@pytest.mark.parametrize(("frames", "sources"), [(1, [[0]]), (5, [[0], [1, 2], [3, 4]]), (4, [[0, 1], [2, 3]])])
def test_downsample_averages_pairs_after_the_first(frames, sources):
    x = random(1, frames, 4, 4, 2)
    params = {"kernel": random(3, 3, 2, 3, seed=1), "bias": random(3, seed=2)}
    y = Downsample(3, compress_time=True).apply({"params": params}, x)
    merged = np.stack([np.asarray(x[0])[source].mean(axis=0) for source in sources])
    # A stride of 2 padded below and on the right reads the centred convolution at the odd pixels.
    expected = [conv_loop(frame[None], params["kernel"][None], params["bias"])[0][1::2, 1::2] for frame in merged]
    # Sums of 18 float32 products.
    np.testing.assert_allclose(y[0], expected, atol=1e-5)


def without_norms(method, **fields):
    """The model with its group norms cut out: their statistics are the only path from a frame to an earlier one."""

    def cut(call, args, kwargs, context):
        if not isinstance(context.module, GroupNorm):
            return call(*args, **kwargs)
        ones = jnp.ones((args[0].shape[0], args[0].shape[-1]))
        identity = Normaliser(ones, 0 * ones, None, None, *args[0].shape[1:3], args[0].dtype)
        return {"measure": identity, "__call__": args[0]}[context.method_name]

    def apply(params, x):
        with nn.intercept_methods(cut):
            return tiny(**fields).apply(params, x, method=method)

    return jax.jit(apply)


def test_vae_first_latent_sees_only_first_frame():
    encode = without_norms("encode")
    video = random(1, 9, 8, 8, 3)
    before, _ = encode(tiny_params(), video)
    later, _ = encode(tiny_params(), video.at[:, 1:].set(-video[:, 1:]))
    first, _ = encode(tiny_params(), video.at[:, :1].set(-video[:, :1]))
    np.testing.assert_array_equal(before[:, 0], later[:, 0])
    assert np.abs(before[:, 1] - later[:, 1]).max() > 1e-3
    assert np.abs(before[:, 0] - first[:, 0]).max() > 1e-3


@pytest.mark.parametrize(
    ("impl", "rounding"),
    # "winograd" adds up the frames of a block before it multiplies: the later ones cancel, up to the rounding of
    # values of up to 30.
    [("conv2d", 0), ("winograd", 1e-4)],
)
def test_vae_is_causal_in_time(impl, rounding):
    encode, decode = (without_norms(method, conv_impl=impl) for method in ("encode", "decode"))
    video, latents = random(1, 9, 8, 8, 3), random(1, 5, 4, 4, 4)
    codes, clip = encode(tiny_params(), video)[0], decode(tiny_params(), latents)
    for k in range(1, 5):
        # Latent k holds frames 2k - 1 and 2k; nothing before them may change when they do.
        changed = encode(tiny_params(), video.at[:, 2 * k - 1 :].multiply(-1))[0]
        np.testing.assert_allclose(codes[:, :k], changed[:, :k], rtol=0, atol=rounding)
        changed = decode(tiny_params(), latents.at[:, k:].multiply(-1))
        np.testing.assert_allclose(clip[:, : 2 * k - 1], changed[:, : 2 * k - 1], rtol=0, atol=rounding)
        assert np.abs(clip[:, 2 * k - 1] - changed[:, 2 * k - 1]).max() > 1e-3


def test_chunks_with_cache_equal_one_chunk_when_norms_are_cut():
    video, latents = random(1, 17, 4, 4, 3), random(1, 9, 2, 2, 4)
    whole = {"num_sample_frames_batch_size": 16, "num_latent_frames_batch_size": 8}
    for method, x in (("encode", video), ("decode", latents)):
        chunked, once = without_norms(method)(tiny_params(), x), without_norms(method, **whole)(tiny_params(), x)
        for a, b in zip(jax.tree.leaves(chunked), jax.tree.leaves(once), strict=True):
            # The same sums in another order; without norms values grow to about ten.
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_later_chunks_do_not_change_earlier_latents():
    video = random(1, 17, 8, 8, 3)
    changed = video.at[:, 9:].set(-video[:, 9:])
    before, after = encode()(tiny_params(), video)[0], encode()(tiny_params(), changed)[0]
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_earlier_chunks_reach_later_latents_through_the_cache():
    video = random(1, 17, 8, 8, 3)
    changed = video.at[:, 8].set(-video[:, 8])
    before, after = encode()(tiny_params(), video)[0], encode()(tiny_params(), changed)[0]
    assert np.abs(before[:, 5] - after[:, 5]).max() > 1e-3


@pytest.mark.parametrize(("t", "frames"), [(1, 1), (2, 3), (3, 5), (4, 7)])
def test_decode_inverts_the_shape_of_encode(t, frames):
    # Even t starts with a chunk of two latents, whose extra first frame is dropped.
    video = jax.eval_shape(decode(), tiny_params(), jnp.zeros((2, t, 3, 2, 4)))
    assert video.shape == (2, frames, 6, 4, 3)
    assert jax.eval_shape(encode(), tiny_params(), jnp.zeros(video.shape))[0].shape == (2, t, 3, 2, 4)


def test_released_size_has_the_expected_latents():
    vae = VAE()
    params = jax.eval_shape(vae.init, KEY, jnp.zeros((1, 1, 8, 8, 3)))
    video = jax.ShapeDtypeStruct((1, 17, 480, 720, 3), jnp.float32)
    mean, logvar = jax.eval_shape(functools.partial(vae.apply, method="encode"), params, video)
    assert mean.shape == logvar.shape == latent_shape((1, 17, 480, 720, 3)) == (1, 5, 60, 90, 16)
    assert latent_shape((2, 49, 480, 720, 3)) == (2, 13, 60, 90, 16)


def test_chunk_bounds_follow_the_release():
    assert chunk_bounds(1, 8) == [(0, 1)]
    assert chunk_bounds(13, 8) == [(0, 13)]
    assert chunk_bounds(25, 8) == [(0, 9), (9, 17), (17, 25)]
    assert chunk_bounds(13, 2) == [(0, 3), (3, 5), (5, 7), (7, 9), (9, 11), (11, 13)]


def test_sample_latents_has_the_given_moments():
    mean = jnp.full((100, 10, 10, 10, 1), 2.0)
    latents = sample_latents(KEY, mean, jnp.full(mean.shape, 2 * jnp.log(3.0)))
    # 1e5 draws: the mean is known to 3 / sqrt(1e5) = 0.01, five times over.
    assert abs(float(latents.mean()) - 2) < 0.05
    assert abs(float(latents.std()) - 3) < 0.05


def test_log_variance_is_clipped():
    params = jax.tree.map(jnp.asarray, tiny_params())
    params["params"]["encoder"]["conv_out"]["bias"] = jnp.asarray([0.0] * 4 + [1e3, -1e3, 0.0, 0.0])
    _, logvar = encode()(params, random(1, 9, 8, 8, 3))
    assert np.all(logvar[..., 0] == 20) and np.all(logvar[..., 1] == -30)


def test_bfloat16_is_close_to_float32():
    video = random(1, 9, 8, 8, 3)
    exact, rough = encode()(tiny_params(), video)[0], encode(dtype=jnp.bfloat16)(tiny_params(), video)[0]
    assert rough.dtype == jnp.float32
    # bfloat16 keeps 8 bits (0.4 %) and some ten layers add up their roundings.
    assert np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.05


def test_reconstruction_gradient_is_finite_and_reaches_every_parameter():
    def loss(params, video):
        return jnp.mean(jnp.square(tiny().apply(params, video) - video))

    # One chunk of five frames; the loss sees the encoder's mean but not its log variance.
    gradient = jax.jit(jax.grad(loss))(tiny_params(), random(2, 5, 4, 4, 3))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        is_logvar = "conv_out" in str(path) and "encoder" in str(path)
        assert np.abs(leaf[..., :4] if is_logvar else leaf).max() > 0, path


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 64, 64, 3), "16 frames.*4k \\+ 1.*nearest: 13 and 17"),
        ((1, 17, 60, 64, 3), "height 60.*multiples of 8.*nearest: 56 and 64"),
        ((1, 17, 64, 4, 3), "width 4.*multiples of 8.*nearest: 8"),
        ((1, 17, 64, 64, 4), "4 channels.*takes 3"),
    ],
)
def test_clips_that_do_not_fit_are_explained(shape, message):
    vae = VAE((4, 4, 4, 4), 1, 4, 2)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(vae.init, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temporal_compression": 3}, "temporal_compression is 3.*power of two up to 2"),
        ({"num_latent_frames_batch_size": 3}, "num_latent_frames_batch_size is 3.*of 2"),
        ({"conv_impl": "fft"}, "'fft'; available: auto, conv2d, conv3d, winograd"),
        ({"norm_groups": 3}, "norm_groups is 3, which does not divide 4"),
    ],
)
def test_fields_that_do_not_fit_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, KEY, jax.ShapeDtypeStruct((1, 1, 4, 4, 3), jnp.float32))
