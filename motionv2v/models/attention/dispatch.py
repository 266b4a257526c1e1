"""Attention behind one function: softmax(q k^T / sqrt(head_dim)) v, with the implementation chosen by the config.

    xla        materialises the [S M] weights; anywhere, meant for short sequences
    chunked    a head and a block of queries at a time, memory linear in S and M, backward as well; anywhere
    cudnn      flash attention of NVIDIA's cuDNN; GPU, bfloat16 or float16
    splash     flash attention in Pallas, see `models.attention.splash`; TPU
    tokamax    flash attention of the package tokamax, if it is installed; GPU, TPU
    auto       splash on a TPU; cudnn on a GPU where it takes the arguments; otherwise xla, or chunked above `XLA_LIMIT`

There is no mask argument on purpose. CogVideoX attends over its text and video tokens jointly and without a padding
mask, so none of the implementations has to build or read a [S M] tensor of booleans.

What the backward pass needs of the forward pass is named "attention": the output and, where no weights are kept, the
logarithm of their sum. `save_policy` keeps it, so that remat does not run attention, half of the model's work, a second
time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from motionv2v.models.attention.chunked import chunked_attention, chunked_attention_and_sum
from motionv2v.models.attention.splash import splash_attention
from motionv2v.typing import AnyArray, Float

IMPLEMENTATIONS = ("xla", "chunked", "cudnn", "splash", "tokamax", "auto")
"""What `attention` takes, see the module's docstring."""

XLA_LIMIT = {"cpu": 8 * 2**20, "gpu": 32 * 2**20}
"""Bytes of float32 logits per sample above which `auto` prefers `chunked` to `xla`: on a GPU 418 tokens of 48 heads.

On CPUs `chunked` is faster from there on, forward and with gradients.
"""

_GPU = ("gpu", "cuda")
_RESIDUAL = "attention"


def attention(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
    implementation: str = "xla",
    *,
    chunk_size: int = 512,
) -> Float[AnyArray, "B S K d"]:
    """Attend from every query to every key, with the softmax in float32.

    On a mesh, call it inside a `shard_map` over batch and heads: XLA cannot cut the kernels (cudnn, splash, tokamax)
    itself. The mesh in force (`jax.set_mesh`) also tells which device is compiled for, so that a machine without TPUs
    can compile for them; without a mesh it is jax's default device.

    Args:
        query: what each of the S positions asks, already normalised and rotated.
        key: what each of the M positions offers.
        value: what each of the M positions carries.
        implementation: one of `IMPLEMENTATIONS`. The config says which; nothing is decided at import.
        chunk_size: queries handled at a time by `chunked`; the others ignore it.

    Returns:
        The weighted values, in the dtype of `value`.

    Raises:
        ValueError: for an unknown implementation, one that the platform or the machine lacks, or a dtype or head size
            that it does not take.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} is unknown; available: {', '.join(IMPLEMENTATIONS)}."
        )
    platform, device_kind = _target()
    if implementation == "auto":
        implementation = choose_implementation(query, key, platform)
    if implementation == "chunked":
        return chunked_attention(query, key, value, chunk_size, _RESIDUAL)
    if implementation == "xla":
        return checkpoint_name(_softmax_attention(query, key, value), _RESIDUAL)
    if implementation == "cudnn":
        _check_cudnn(query, platform)
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    if implementation == "splash":
        _check_splash(platform)
        return splash_attention(query, key, value, device_kind, residual_name=_RESIDUAL)
    return checkpoint_name(_import_tokamax().dot_product_attention(query, key, value), _RESIDUAL)


def attention_and_sum(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
) -> tuple[Float[AnyArray, "B S K d"], Float[AnyArray, "B S K 1"]]:
    """Attend, and return the logarithm of the sum of each query's weights too, with gradients of both.

    `chunked`, on any device: the kernels of GPUs and TPUs do not take the gradient of the sum.
    """
    return chunked_attention_and_sum(query, key, value, residual_name=_RESIDUAL)


def choose_implementation(query: Float[AnyArray, "B S K d"], key: Float[AnyArray, "B M K d"], platform: str) -> str:
    """Return what `auto` means for these arguments on a platform, as jax names it: "cpu", "gpu" or "tpu".

    Only shapes and dtypes are read. The batch does not count: a sample's result does not depend on its neighbours.
    """
    if platform == "tpu":
        return "splash"
    if platform in _GPU and _cudnn_takes(query):
        return "cudnn"
    logits = 4 * query.shape[1] * key.shape[1] * query.shape[2]
    return "xla" if logits <= XLA_LIMIT["gpu" if platform in _GPU else "cpu"] else "chunked"


def save_policy(*names: str) -> Callable[..., bool]:
    """Build a `policy` for `jax.checkpoint`: keep what attention's backward pass needs, what has these names, no more.

    cuDNN's output and sum of weights are kept by the primitive's name, because they carry no name of ours.
    """
    is_named = jax.checkpoint_policies.save_only_these_names(_RESIDUAL, *names)

    def policy(primitive: Any, *arguments: Any, **parameters: Any) -> bool:
        return primitive.name == "dot_product_attention_fwd_wrapper" or is_named(primitive, *arguments, **parameters)

    return policy


def _target():
    """Return the platform and the kind of the device that is compiled for."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform, device.device_kind


def _softmax_attention(query, key, value):
    # Heads first, which XLA does not do by itself on CPUs and which is faster there.
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))  # [B K S d]
    logits = jnp.einsum("BKSd,BKMd->BKSM", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("BKSM,BKMd->BKSd", weights, value).swapaxes(1, 2)


def _cudnn_takes(query):
    return query.dtype in (jnp.bfloat16, jnp.float16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128


def _check_cudnn(query, platform):
    if platform not in _GPU:
        raise ValueError(
            f"attention implementation 'cudnn' needs an NVIDIA GPU, but jax runs on {platform!r} here; "
            f"available: {_others(platform)}."
        )
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"attention implementation 'cudnn' takes bfloat16 or float16, got {query.dtype}.")
    if not _cudnn_takes(query):
        raise ValueError(
            "attention implementation 'cudnn' takes heads of a multiple of 8 features, at most 128, "
            f"got {query.shape[-1]}; available: {_others(platform)}."
        )


def _check_splash(platform):
    if platform != "tpu":
        raise ValueError(
            f"attention implementation 'splash' needs a TPU, but jax runs on {platform!r} here; "
            f"available: {_others(platform)}."
        )


def _import_tokamax():
    try:
        import tokamax
    except ImportError as error:
        raise ValueError(
            "attention implementation 'tokamax' needs the package tokamax, which does not import here "
            f"({error}); install it, or use one of: {_others(None)}."
        ) from None

    return tokamax


def _others(platform):
    """Name what runs on a platform without an extra package."""
    extra = ("splash",) if platform == "tpu" else ("cudnn",) if platform in _GPU else ()
    return ", ".join(["xla", "chunked", *extra])
