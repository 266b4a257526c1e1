"""TAPNext's two kinds of block against code by others: transformers' RecurrentGemma and torch's own encoder layer.

The whole network exists only in a repository that is not a package; the blocks are published parts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.tapnext import layers

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

from transformers import RecurrentGemmaConfig  # noqa: E402
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import (  # noqa: E402
    RecurrentGemmaRecurrentBlock,
    RecurrentGemmaRMSNorm,
)

# float32 sums in different orders, through at most six steps of the recurrence.
TOLERANCE = 1e-5


def randomise(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return module.eval()


def numbers(tensor):
    return tensor.detach().numpy()


def linear(layer):
    return {"kernel": numbers(layer.weight).T, "bias": numbers(layer.bias)}


@pytest.mark.parametrize("num_frames", [1, 3, 6])
def test_recurrent_block_matches_recurrent_gemma(num_frames):
    """All frames at once on their side, one after another on ours."""
    config = RecurrentGemmaConfig(
        hidden_size=24, lru_width=20, num_attention_heads=5, conv1d_width=4, hidden_activation="gelu_pytorch_tanh"
    )
    theirs = randomise(RecurrentGemmaRecurrentBlock(config, 0))
    lru = theirs.rg_lru
    params = {name: linear(getattr(theirs, name)) for name in ("linear_x", "linear_y", "linear_out")}
    params["conv_1d"] = {"w": numbers(theirs.conv_1d.weight)[:, 0].T, "b": numbers(theirs.conv_1d.bias)}
    params["rg_lru"] = {
        "a_param": numbers(lru.recurrent_param),
        "a_gate": {"w": numbers(lru.recurrent_gate_weight), "b": numbers(lru.recurrent_gate_bias)},
        "input_gate": {"w": numbers(lru.input_gate_weight), "b": numbers(lru.input_gate_bias)},
    }
    ours = layers.RecurrentBlock(lru_width=20, lru_blocks=5)
    tokens = np.random.default_rng(1).normal(size=(7, num_frames, 24)).astype(np.float32)  # tokens are their batch
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), torch.arange(num_frames)[None], None, use_cache=False)[0].numpy()
    state = layers.State(jnp.zeros((1, 7, 3, 20)), jnp.zeros((1, 7, 20)))
    step = jax.jit(lambda x, state, first: ours.apply({"params": params}, x, state, first))
    for t in range(num_frames):
        out, state = step(jnp.asarray(tokens[None, :, t]), state, jnp.asarray(t == 0))
        np.testing.assert_allclose(out[0], expected[:, t], atol=TOLERANCE, rtol=TOLERANCE)
    assert np.abs(expected).std() > 0.1


def test_rms_norm_matches_recurrent_gemma():
    theirs = randomise(RecurrentGemmaRMSNorm(24, eps=1e-6))
    x = np.random.default_rng(2).normal(size=(3, 24)).astype(np.float32)
    out = layers.RMSNorm().apply({"params": {"scale": numbers(theirs.weight)}}, jnp.asarray(x))
    np.testing.assert_allclose(out, numbers(theirs(torch.from_numpy(x))), atol=TOLERANCE)


def test_spatial_block_matches_torch():
    theirs = randomise(
        torch.nn.TransformerEncoderLayer(
            24,
            3,
            dim_feedforward=40,
            dropout=0.0,
            activation=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
    )
    attention = theirs.self_attn
    heads = {}
    weights, biases = numbers(attention.in_proj_weight), numbers(attention.in_proj_bias)
    for name, weight, bias in zip(("query", "key", "value"), np.split(weights, 3), np.split(biases, 3), strict=True):
        heads[name] = {"kernel": weight.T.reshape(24, 3, 8), "bias": bias.reshape(3, 8)}
    out = linear(attention.out_proj)
    heads["out"] = {"kernel": out["kernel"].reshape(3, 8, 24), "bias": out["bias"]}
    norms = [{"scale": numbers(norm.weight), "bias": numbers(norm.bias)} for norm in (theirs.norm1, theirs.norm2)]
    params = {
        "LayerNorm_0": norms[0],
        "LayerNorm_1": norms[1],
        "MultiHeadDotProductAttention_0": heads,
        "MlpBlock_0": {"Dense_0": linear(theirs.linear1), "Dense_1": linear(theirs.linear2)},
    }
    x = np.random.default_rng(3).normal(size=(2, 11, 24)).astype(np.float32)
    block = layers.SpatialBlock(num_heads=3, mlp_dim=40)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(block.apply({"params": params}, jnp.asarray(x)), expected, atol=TOLERANCE, rtol=1e-5)
