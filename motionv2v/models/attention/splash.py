"""Attention on TPUs by jax's Pallas kernel "splash attention", without a mask.

The kernel wants lengths that its blocks divide, and blocks that are multiples of 128. CogVideoX-5B's 226 + 13 * 30 * 45
= 17,776 tokens are no such length, so the arguments are padded to a multiple of 512, here 17,920. Segment ids, one
number per token rather than a [S S] mask, keep the padding out: queries are of segment 0, padded keys of segment 1.
Every layer pads, within the fusion that turns [S K d] into [K S d] and scales, which it needs anyway: in the program
for v5p there is no other. Tokens padded once, before the layers, would send 0.8 % more through every Linear layer
instead. Heads of 64 features run as they are. Arguments are laid out with the sequence last where the chip is faster
that way: a last axis of 64 would be padded to 128 lanes.
"""

import dataclasses

import jax
import jax.numpy as jnp

from motionv2v.typing import AnyArray, Float

PAD_MULTIPLE = 512
"""Sequences are padded to a multiple of this many tokens."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Upper bounds of the kernel's blocks, in tokens, and which arguments have the sequence as their last axis."""

    query: int
    keys: int
    keys_at_once: int
    backward_query: int
    backward_keys: int
    backward_keys_at_once: int
    sequence_last: str


BLOCKS = {
    "TPU v5 lite": Blocks(896, 3584, 256, 512, 2560, 256, sequence_last="kv"),
    "TPU v5": Blocks(896, 3584, 256, 512, 3584, 256, sequence_last="kv"),
    "TPU v6": Blocks(896, 3584, 512, 512, 3584, 256, sequence_last="qkv"),
    "TPU7x": Blocks(896, 3584, 256, 512, 3584, 256, sequence_last="k"),
}
"""By the start of the device kind, longer names first; other kinds take the first row.

Layouts and the forward `keys_at_once` are those that tokamax's autotuning found best for 64 features on v5p, v6e and
v7x. Its blocks of 2,048 or 4,096 queries need more than the 16 MiB of VMEM that XLA grants by default, so these trade
queries for keys. Each block of keys writes its own share of the queries' gradient to memory before they are added up:
3,584 keys mean 5 such shares, 2,560 mean 7; on v5e 3,584 need 16.8 MiB of VMEM. Forward and backward have been compiled
for v5e, v5p and v6e at 17,776 tokens (libtpu 0.0.42.1), not timed.
"""


def splash_attention(
    query: Float[AnyArray, "B S K d"],
    key: Float[AnyArray, "B M K d"],
    value: Float[AnyArray, "B M K d"],
    device_kind: str = "",
    *,
    interpret: bool = False,
    residual_name: str = "attention",
) -> Float[AnyArray, "B S K d"]:
    """Attend with the TPU kernel, forward and fused backward; the softmax is float32, no weights reach the memory.

    Args:
        query: what each of the S positions asks.
        key: what each of the M positions offers.
        value: what each of the M positions carries.
        device_kind: as jax names it ("TPU v5", "TPU v6 lite"); decides the blocks.
        interpret: run the kernel's code on the CPU, slowly, for tests.
        residual_name: name, for remat policies, of what the backward pass needs beside the arguments.

    Returns:
        The weighted values, in the dtype of `query`.
    """
    # Pallas for TPUs is a second's import, and of use to nobody else.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, num_keys = query.shape[1], key.shape[1]
    query, key, value = (_pad_heads_first(x) for x in (query * query.shape[-1] ** -0.5, key, value))
    padded, padded_keys = query.shape[2], key.shape[2]
    mask = masks.MultiHeadMask([masks.FullMask((padded, padded_keys))] * query.shape[1])
    attend = kernel.make_splash_mha(
        mask,
        block_sizes=_block_sizes(kernel, device_kind, padded, padded_keys),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=residual_name,
        interpret=interpret,
    )
    segments = None
    if padded_keys > num_keys:
        is_padding = (jnp.arange(padded_keys) >= num_keys).astype(jnp.int32)
        segments = kernel.SegmentIds(q=jnp.zeros(padded, jnp.int32), kv=is_padding)
    out = jax.vmap(lambda q, k, v: attend(q, k, v, segments))(query, key, value)
    return jnp.moveaxis(out, 1, 2)[:, :length]


def _pad_heads_first(x):
    """Turn [B S K d] into [B K S' d], S' the next multiple of `PAD_MULTIPLE`."""
    padding = -x.shape[1] % PAD_MULTIPLE
    return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))), 2, 1)


def _block_sizes(kernel, device_kind, num_queries, num_keys):
    """Fit the device's blocks to the padded lengths."""
    known = [blocks for name, blocks in BLOCKS.items() if device_kind.startswith(name)]
    blocks = known[0] if known else next(iter(BLOCKS.values()))
    keys = _divisor(num_keys, blocks.keys)
    backward_keys = _divisor(num_keys, blocks.backward_keys)
    layouts = {
        f"{name}_layout": kernel.QKVLayout.SEQ_MINOR
        if name in blocks.sequence_last
        else kernel.QKVLayout.HEAD_DIM_MINOR
        for name in "qkv"
    }
    return kernel.BlockSizes(
        block_q=_divisor(num_queries, blocks.query),
        block_kv=keys,
        block_kv_compute=_divisor(keys, blocks.keys_at_once),
        block_q_dkv=_divisor(num_queries, blocks.backward_query),
        block_kv_dkv=backward_keys,
        block_kv_dkv_compute=_divisor(backward_keys, blocks.backward_keys_at_once),
        use_fused_bwd_kernel=True,
        **layouts,
    )


def _divisor(length, limit):
    """Return the largest divisor of `length` up to `limit` that is a multiple of the TPU's 128 lanes."""
    return max(size for size in range(128, min(length, limit) + 1, 128) if length % size == 0)
