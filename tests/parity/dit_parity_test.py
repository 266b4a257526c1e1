"""The transformer against diffusers' CogVideoXTransformer3DModel on shared random weights, float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models.dit import DiT

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from diffusers import CogVideoXTransformer3DModel  # noqa: E402
from diffusers.models.embeddings import get_3d_rotary_pos_embed  # noqa: E402

# 30 times float32's spacing: three blocks of differently ordered sums.
TOLERANCE = 1e-5
TEXT_LENGTH = 9


def randomise(module):
    """Give every parameter a random value; scales near 1, everything else small enough not to blow up."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0.0, 0.15, generator=generator)
            if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
                parameter.add_(1.0)
    return module.eval()


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def block(state, name):
    attention = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
    return {
        "attention_modulation": linear(state, f"{name}.norm1.linear"),
        "attention_norm": norm(state, f"{name}.norm1.norm"),
        "attention": {
            **{ours: linear(state, f"{name}.attn1.{theirs}") for ours, theirs in attention.items()},
            "q_norm": norm(state, f"{name}.attn1.norm_q"),
            "k_norm": norm(state, f"{name}.attn1.norm_k"),
        },
        "mlp_modulation": linear(state, f"{name}.norm2.linear"),
        "mlp_norm": norm(state, f"{name}.norm2.norm"),
        "mlp_up": linear(state, f"{name}.ff.net.0.proj"),
        "mlp_down": linear(state, f"{name}.ff.net.2"),
    }


def stack(blocks):
    if isinstance(blocks[0], dict):
        return {name: stack([b[name] for b in blocks]) for name in blocks[0]}
    return np.stack(blocks)


def transformer(state, num_layers):
    patch = state["patch_embed.proj.weight"]
    return {
        "patch_embed": {
            "kernel": patch.transpose(2, 3, 1, 0).reshape(-1, patch.shape[0]),
            "bias": state["patch_embed.proj.bias"],
        },
        "text_embed": linear(state, "patch_embed.text_proj"),
        "time_in": linear(state, "time_embedding.linear_1"),
        "time_out": linear(state, "time_embedding.linear_2"),
        "blocks": stack([block(state, f"transformer_blocks.{i}") for i in range(num_layers)]),
        "final_norm": norm(state, "norm_final"),
        "out_modulation": linear(state, "norm_out.linear"),
        "out_norm": norm(state, "norm_out.norm"),
        "out": linear(state, "proj_out"),
    }


def torch_rope(grid, head_dim):
    """Compute the table as CogVideoX's pipeline does for a clip of the size the model was trained on."""
    frames, rows, columns = grid
    return get_3d_rotary_pos_embed(head_dim, ((0, 0), (rows, columns)), (rows, columns), frames)


def both(head_dim, positions, **settings):
    """Build diffusers' model and ours with the same random weights."""
    theirs = randomise(
        CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=head_dim,
            in_channels=4,
            out_channels=3,
            time_embed_dim=24,
            text_embed_dim=20,
            num_layers=3,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=TEXT_LENGTH,
            use_rotary_positional_embeddings=positions == "rope",
        )
    )
    ours = DiT(
        num_layers=3,
        num_heads=2,
        head_dim=head_dim,
        in_channels=4,
        out_channels=3,
        text_dim=20,
        text_length=TEXT_LENGTH,
        time_embed_dim=24,
        positions=positions,
        **settings,
    )
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    return theirs, ours, transformer(state, 3)


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 1, 4, 10), (2, 4, 12, 6)])
@pytest.mark.parametrize(
    ("head_dim", "positions", "settings"),
    [(64, "rope", {}), (32, "rope", {"attention_implementation": "chunked"}), (64, "sincos", {"scan_unroll": True})],
)
def test_dit_matches_diffusers(head_dim, positions, settings, shape):
    """Batches, single frames, and grids that are neither square nor diffusers' own sample size."""
    theirs, ours, params = both(head_dim, positions, **settings)
    batch, frames, height, width = shape
    rng = np.random.default_rng(1)
    xt = rng.normal(size=(*shape, 4)).astype(np.float32)
    # With sin-cos positions diffusers takes exactly `max_text_seq_length` tokens; with RoPE any number.
    text = rng.normal(size=(batch, TEXT_LENGTH if positions == "sincos" else 7, 20)).astype(np.float32)
    timestep = np.array([999, 12])[:batch]
    rope = torch_rope((frames, height // 2, width // 2), head_dim) if positions == "rope" else None
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(xt.transpose(0, 1, 4, 2, 3)),
            torch.from_numpy(text),
            torch.from_numpy(timestep),
            image_rotary_emb=rope,
        ).sample.numpy()
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert out.shape == (*shape, 3)
    assert relative_error(out, expected.transpose(0, 1, 3, 4, 2)) <= TOLERANCE
