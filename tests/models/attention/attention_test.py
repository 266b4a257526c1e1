"""Attention against a loop over queries, its implementations against each other, and lowered for other machines."""

import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from motionv2v.devices import sharding, topologies
from motionv2v.models.attention.dispatch import XLA_LIMIT, attention, choose_implementation, save_policy
from motionv2v.models.attention.splash import BLOCKS, splash_attention

TOKENS_5B = 226 + 13 * 30 * 45
"""226 of text and 13 latent frames of 60 x 90 in patches of 2."""

CUDNN_CALLS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


def _random(length=7, keys=7, seed=0, heads=3, head_dim=8):
    rng = np.random.default_rng(seed)
    shapes = [(2, length, heads, head_dim), *[(2, keys, heads, head_dim)] * 2]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _loop(query, key, value, grad):
    """Return the output, and the gradients of sum(output * grad), one query at a time in float64."""
    query, key, value, grad = (np.asarray(x, np.float64) for x in (query, key, value, grad))
    out, query_grad, key_grad, value_grad = (np.zeros_like(x) for x in (query, query, key, value))
    scale = query.shape[-1] ** -0.5
    for b, s, head in np.ndindex(query.shape[:3]):
        q, k, v, g = query[b, s, head], key[b, :, head], value[b, :, head], grad[b, s, head]
        weights = np.exp(k @ q * scale - np.max(k @ q * scale))
        weights /= weights.sum()
        out[b, s, head] = weights @ v
        logits_grad = weights * (v @ g - weights @ (v @ g))
        query_grad[b, s, head] = logits_grad @ k * scale
        key_grad[b, :, head] += np.outer(logits_grad, q) * scale
        value_grad[b, :, head] += np.outer(weights, g)
    return out, (query_grad, key_grad, value_grad)


def _run(name):
    """Return the implementation as a function of query, key and value that runs on this machine."""
    if name == "splash" and jax.default_backend() != "tpu":
        return lambda *arrays: splash_attention(*arrays, interpret=True)
    if name == "tokamax":
        pytest.importorskip("tokamax", reason="needs tokamax (Python 3.12 or newer): pip install tokamax")
    if name == "cudnn" and jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU and jax[cuda12]")
    return lambda *arrays: attention(*arrays, name, chunk_size=48)


def _pull_back(function, arrays, grad):
    out, vjp = jax.vjp(function, *arrays)
    return out, vjp(jnp.asarray(grad, out.dtype))


@pytest.mark.parametrize("keys", [1, 7, 11])
def test_attention_matches_loop(keys):
    query, key, value = _random(keys=keys)
    expected = np.zeros_like(query)
    for b in range(2):
        for head in range(3):
            for s in range(7):
                logits = key[b, :, head].astype(np.float64) @ query[b, s, head] / np.sqrt(8)
                weights = np.exp(logits - logits.max())
                expected[b, s, head] = (weights / weights.sum()) @ value[b, :, head]
    # float32 sums of at most 11 numbers of order 1.
    np.testing.assert_allclose(attention(query, key, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["xla", "chunked", "splash", "tokamax"])
@pytest.mark.parametrize("largest", [1, 30])
def test_implementations_match_loop_with_gradients(name, largest):
    """The same lengths for all, divided by no block; `largest` 30 has logits of hundreds, where exp would overflow."""
    arrays = _random(130, 200, seed=3, heads=2, head_dim=64)
    arrays[0] *= largest
    grad = np.random.default_rng(4).normal(size=arrays[0].shape)
    out, grads = jax.jit(lambda *arrays: _pull_back(_run(name), arrays, grad))(*arrays)
    expected, expected_grads = _loop(*arrays, grad)
    # float32: sums of 200 numbers of order 1, and a logit of 100 has an error of 1e-5 of its own.
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5 * largest)
    for one, other in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5 * largest)


@pytest.mark.parametrize("name", ["xla", "chunked", "splash", "tokamax", "cudnn"])
def test_bfloat16_rounds_weights_and_output_only(name):
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in _random(130, 200, seed=5, heads=1, head_dim=64)]
    grad = np.random.default_rng(7).normal(size=arrays[0].shape)
    out, grads = jax.jit(lambda *arrays: _pull_back(_run(name), arrays, grad))(*arrays)
    expected, expected_grads = _loop(*arrays, grad)
    assert {x.dtype for x in (out, *grads)} == {jnp.dtype(jnp.bfloat16)}
    # Two roundings by at most 2^-9: of weights that add up to 1, and of an output no larger than the largest value.
    limit = 2**-8 * np.abs(np.asarray(arrays[2], np.float64)).max()
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=limit)
    for one, other in zip(grads, expected_grads, strict=True):
        # Differences of rounded numbers: a few roundings, in the mean over many.
        assert np.linalg.norm(np.asarray(one, np.float64) - other) < 2**-6 * np.linalg.norm(other)


def test_splash_with_several_blocks_and_without_padding():
    """Every layout of the table: 600 queries and 1,100 keys are padded; 512 and 1,024 are not, and need no segments."""
    for kind, (length, keys) in zip(BLOCKS, [(600, 1100), (300, 640), (512, 1024), (600, 1024)], strict=True):
        arrays = _random(length, keys, seed=6, heads=1, head_dim=64)
        # Float32 sums of about 1,000 numbers in another order.
        expected = attention(*arrays)
        np.testing.assert_allclose(splash_attention(*arrays, kind, interpret=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [3, 7, 64])
def test_chunked_equals_xla_with_gradients(chunk_size):
    """Chunks that leave a rest, divide the length, or exceed it give the same values and gradients."""
    arrays = _random(keys=9, seed=1)
    weight = np.random.default_rng(2).normal(size=arrays[0].shape)

    def total(implementation, *arrays):
        return jnp.sum(attention(*arrays, implementation, chunk_size=chunk_size) * weight)

    values, grads = zip(
        *[jax.value_and_grad(lambda *a, n=n: total(n, *a), (0, 1, 2))(*arrays) for n in ("xla", "chunked")], strict=True
    )
    # The same sums over queries in another order, float32.
    np.testing.assert_allclose(*values, rtol=1e-5)
    for one, other in zip(*grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_chunked_never_holds_all_weights():
    """Of `xla`, one array has S * S elements; of `chunked`, none is larger than one block's, forward or backward."""
    length, block = 256, 16
    shape = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)

    def largest(implementation):
        def total(q, k, v):
            return attention(q, k, v, implementation, chunk_size=block).sum()

        text = str(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(shape, shape, shape))
        return max(math_prod(match) for match in re.findall(r"f32\[([\d,]+)\]", text))

    def math_prod(match):
        return int(np.prod([int(n) for n in match.split(",")]))

    assert largest("xla") == length * length
    assert largest("chunked") == block * length


def test_compiled_memory_grows_linearly_with_chunked():
    """Four times the tokens take the compiler 16 times the memory with `xla`, 4 times with `chunked`, at most."""

    def temporary_bytes(implementation, length):
        def total(q, k, v):
            return jnp.square(attention(q, k, v, implementation, chunk_size=128)).sum()

        shape = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
        compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = (temporary_bytes("chunked", length) for length in (1024, 4096))
    assert large <= 4 * small
    # At least the weights of both heads; the whole of `chunked` is a small part of them.
    assert temporary_bytes("xla", 4096) >= 2 * 4 * 4096**2 > 8 * large


def test_chunked_is_exported_for_any_batch():
    """`launch/export.py` leaves the batch open; nothing here may ask for its number."""
    batch = jax.export.symbolic_shape("b")[0]
    shape = jax.ShapeDtypeStruct((batch, 7, 3, 8), jnp.float32)
    function = jax.jit(lambda *arrays: attention(*arrays, "chunked", chunk_size=3))
    exported = jax.export.export(function)(shape, shape, shape)
    arrays = _random()
    np.testing.assert_allclose(exported.call(*arrays), attention(*arrays), rtol=1e-5, atol=1e-6)


def test_softmax_is_float32_in_bfloat16():
    """512 equal weights of 1/512 add up to exactly 1; summed in bfloat16 they would stop at 256/512."""
    query = jnp.full((1, 1, 1, 4), 64.0, jnp.bfloat16)
    key = jnp.full((1, 512, 1, 4), 64.0, jnp.bfloat16)
    value = jnp.ones((1, 512, 1, 4), jnp.bfloat16)
    for implementation in ("xla", "chunked"):
        out = attention(query, key, value, implementation, chunk_size=64)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(out, np.float32), 1.0)


def _mesh(platform, kind, sizes=(1,), names=("data",)):
    """Return a mesh of devices that this machine does not have."""
    return AbstractMesh(sizes, names, abstract_device=AbstractDevice(kind, 1, platform))


def _gradient(name, wrap=lambda function: function):
    attend = wrap(lambda *arrays: attention(*arrays, name, chunk_size=64))
    return jax.jit(jax.grad(lambda *arrays: jnp.square(attend(*arrays).astype(jnp.float32)).sum(), (0, 1, 2)))


@pytest.fixture
def cudnn_version(monkeypatch):
    """Answer the one question that jax asks cuDNN while it traces, which version it is, where there is none to ask."""
    if jax.default_backend() != "gpu":
        from jax._src.cudnn import fused_attention_stablehlo

        version = SimpleNamespace(cudnn_get_version=lambda: 91000)
        monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", version)


def _lowered(function, platform, *shapes):
    """Return the program that would be compiled on a platform, as text."""
    # cuDNN's calls are outside jax's promise that an exported program runs with a later jax; nothing is kept here.
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(call) for call in CUDNN_CALLS]
    export = jax.export.export(function, platforms=[platform], disabled_checks=unchecked)
    return export(*shapes).mlir_module()


@pytest.mark.parametrize(
    ("name", "device", "kind", "platform", "operation"),
    [
        ("chunked", "cpu", "cpu", "cpu", "stablehlo.dot_general"),
        ("splash", "tpu", "TPU v5", "tpu", "custom_call @tpu_custom_call"),
        ("cudnn", "gpu", "NVIDIA H200", "cuda", f"custom_call @{CUDNN_CALLS[0]}("),
    ],
)
def test_remat_does_not_run_attention_twice(name, device, kind, platform, operation, cudnn_version):
    """With `save_policy` the gradient runs as much as without remat; without the policy, a forward more."""
    shape = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)

    def count(wrap):
        with jax.sharding.use_abstract_mesh(_mesh(device, kind)):
            return _lowered(_gradient(name, wrap=wrap), platform, shape, shape, shape).count(operation)

    saved = count(lambda function: jax.checkpoint(function, policy=save_policy()))
    assert saved == count(lambda function: function) > 0
    assert count(jax.checkpoint) > saved


@pytest.mark.parametrize("kind", BLOCKS)
def test_splash_is_lowered_for_tpu_at_full_size(kind):
    """One layer of CogVideoX-5B: one forward and one backward kernel, padded once, and no square of tokens."""
    shape = jax.ShapeDtypeStruct((1, TOKENS_5B, 48, 64), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(_mesh("tpu", kind)):
        text = _lowered(_gradient("auto"), "tpu", shape, shape, shape)
    assert text.count("custom_call @tpu_custom_call") == 2
    assert "48x17920x64" in text
    assert not re.search(r"(17776|17920)x(17776|17920)", text)


def test_splash_runs_on_its_share_of_batch_and_heads():
    """On a mesh of 2 x 4 TPUs each kernel sees one sample of two and 12 heads of 48."""
    mesh = _mesh("tpu", "TPU v5", (2, 4), ("data", "tensor"))
    spec = PartitionSpec("data", None, "tensor", None)
    shape = jax.ShapeDtypeStruct((2, TOKENS_5B, 48, 64), jnp.bfloat16, sharding=NamedSharding(mesh, spec))

    def share(function):
        return jax.shard_map(function, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)

    with jax.sharding.use_abstract_mesh(mesh):
        text = _lowered(_gradient("splash", share), "tpu", shape, shape, shape)
    kernels = [line for line in text.splitlines() if "custom_call @tpu_custom_call" in line]
    assert len(kernels) == 2
    # Mosaic's kernels are called without the batch's axis when that has length 1.
    assert all("tensor<12x17920x64xbf16>" in line and "48x17920" not in line for line in kernels)


def test_cudnn_is_lowered_for_cuda_at_full_size(cudnn_version):
    shape = jax.ShapeDtypeStruct((1, TOKENS_5B, 48, 64), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(_mesh("gpu", "NVIDIA H200")):
        text = _lowered(_gradient("auto"), "cuda", shape, shape, shape)
    assert [text.count(f"custom_call @{call}(") for call in CUDNN_CALLS] == [1, 1]
    assert f"{TOKENS_5B}x{TOKENS_5B}" not in text


@pytest.mark.parametrize(
    ("topology", "package", "extra", "kernels"),
    [
        ("h200:1", "jax_cuda12_plugin", "cuda", CUDNN_CALLS),
        ("v5p:2x2x1", "libtpu", "tpu", ("tpu_custom_call",)),
        ("v5e:2x2", "libtpu", "tpu", ("tpu_custom_call",)),
        ("v6e:2x2", "libtpu", "tpu", ("tpu_custom_call",)),
    ],
)
def test_attention_compiles_for_its_platform_at_full_size(topology, package, extra, kernels):
    """One layer of CogVideoX-5B and its gradient, by the compiler of the device: kernels fit its memory on the chip."""
    pytest.importorskip(package, reason=f"needs the compiler of {topology}: pip install 'motionv2v[{extra}]'")
    mesh = sharding.make_mesh({"data": 1}, devices=topologies.devices(topology)[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    shape = jax.ShapeDtypeStruct((1, TOKENS_5B, 48, 64), jnp.bfloat16, sharding=whole)

    def share(function):
        return jax.shard_map(function, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)

    with jax.set_mesh(mesh):
        compiled = _gradient("auto", share).lower(shape, shape, shape).compile()
    text = compiled.as_text()
    assert all(f'custom_call_target="{kernel}"' in text for kernel in kernels)
    # Weights of all pairs of tokens would be 30 GB; splash's shares of the queries' gradient are 1.5 in float32.
    assert compiled.memory_analysis().temp_size_in_bytes < 4e9


@pytest.mark.parametrize(
    ("platform", "tokens", "dtype", "head_dim", "expected"),
    [
        ("tpu", TOKENS_5B, jnp.float32, 64, "splash"),
        ("gpu", TOKENS_5B, jnp.bfloat16, 64, "cudnn"),
        ("gpu", TOKENS_5B, jnp.float32, 64, "chunked"),
        ("gpu", 256, jnp.bfloat16, 20, "xla"),
        ("cpu", 256, jnp.bfloat16, 64, "xla"),
        ("gpu", 2048, jnp.float32, 64, "xla"),
        ("gpu", 2049, jnp.float32, 64, "chunked"),
        ("cpu", 1024, jnp.float32, 64, "xla"),
        ("cpu", 1025, jnp.float32, 64, "chunked"),
    ],
)
def test_auto_depends_on_platform_dtype_and_size(platform, tokens, dtype, head_dim, expected):
    limits = {"gpu": 2048**2 * 2 * 4, "cpu": 1024**2 * 2 * 4}
    assert limits == XLA_LIMIT, "the last four cases: two heads of float32 logits"
    shape = jax.ShapeDtypeStruct((8, tokens, 2, head_dim), dtype)
    assert choose_implementation(shape, shape, platform) == expected


def test_auto_runs_here():
    arrays = _random()
    np.testing.assert_allclose(attention(*arrays, "auto"), attention(*arrays), rtol=1e-5, atol=1e-6)


def test_unavailable_implementations_are_named(monkeypatch):
    arrays = _random()
    with pytest.raises(ValueError, match=r"'flash' is unknown; available: xla, chunked, cudnn, splash, tokamax, auto"):
        attention(*arrays, "flash")
    with pytest.raises(ValueError, match=r"chunk_size must be at least 1, got 0"):
        attention(*arrays, "chunked", chunk_size=0)
    if jax.default_backend() != "gpu":
        with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*available: xla, chunked"):
            attention(*arrays, "cudnn")
    if jax.default_backend() != "tpu":
        with pytest.raises(ValueError, match=r"'splash' needs a TPU, but jax runs on .*; available: xla, chunked"):
            attention(*arrays, "splash")
    monkeypatch.setitem(sys.modules, "tokamax", None)
    with pytest.raises(ValueError, match=r"'tokamax' needs the package tokamax, .*or use one of: xla, chunked"):
        attention(*arrays, "tokamax")


def test_cudnn_says_what_it_takes():
    with jax.sharding.use_abstract_mesh(_mesh("gpu", "NVIDIA H200")):
        with pytest.raises(ValueError, match=r"takes bfloat16 or float16, got float32"):
            attention(*_random(), "cudnn")
        arrays = [jnp.asarray(x, jnp.bfloat16) for x in _random(head_dim=20)]
        with pytest.raises(ValueError, match=r"multiple of 8 features, at most 128, got 20; available: xla, chunked"):
            attention(*arrays, "cudnn")
