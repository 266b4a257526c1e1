"""The chained control branch against Diffusion-as-Shader's wiring, rebuilt in torch from diffusers' own blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.models import dit, layers
from motionv2v.models.dit import Control

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock  # noqa: E402
from dit_parity_test import TOLERANCE, block, both, linear, randomise, relative_error, stack, torch_rope  # noqa: E402
from torch import nn  # noqa: E402

WIDTH = 128


class _Branch(nn.Module):
    """Hold the branch's parameters: copies of blocks, one zero Linear before the first and one after each."""

    def __init__(self, depth):
        super().__init__()
        self.patch = nn.Conv2d(12, WIDTH, 2, 2)
        self.blocks = nn.ModuleList([CogVideoXBlock(WIDTH, 2, 64, 24, attention_bias=True) for _ in range(depth)])
        self.initial = nn.Linear(WIDTH, WIDTH)
        self.combine = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])


def _forward(model, branch, xt, maps, text, timestep, rope, wiring):
    """Run the base model with the branch beside it, block by block, as the released code's forward does."""
    batch, frames, _, height, width = xt.shape
    time = model.time_embedding(model.time_proj(timestep))
    joined = model.patch_embed(text, xt)
    e, h = joined[:, : text.shape[1]], joined[:, text.shape[1] :]
    patches = branch.patch(maps.flatten(0, 1)).flatten(2).transpose(1, 2)
    k = branch.initial(h + patches.reshape(batch, -1, WIDTH))
    for i, main in enumerate(model.transformer_blocks):
        h, e = main(h, e, time, rope)
        if i < len(branch.blocks):
            k, _ = branch.blocks[i](k, e, time, rope)
            out = branch.combine[i](k)
            h = h + out
            k = out if wiring == "chained" else k
    h = model.proj_out(model.norm_out(model.norm_final(h), temb=time))
    h = h.reshape(batch, frames, height // 2, width // 2, -1, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return h.flatten(5, 6).flatten(3, 4)


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (1, 1, 8, 4)])
@pytest.mark.parametrize(("wiring", "depth"), [("chained", 2), ("chained", 3), ("side", 2)])
def test_control_matches_replica(wiring, depth, shape):
    model, ours, params = both(64, "rope", control_depth=depth, control_wiring=wiring)
    branch = randomise(_Branch(depth))
    state = {name: value.detach().numpy() for name, value in branch.state_dict().items()}
    params["control"] = {
        "zero_in": linear(state, "initial"),
        "blocks": stack([block(state, f"blocks.{i}") for i in range(depth)]),
        "zero_out": stack([linear(state, f"combine.{i}") for i in range(depth)]),
    }
    batch, frames, height, width = shape
    rng = np.random.default_rng(2)
    xt, maps = (rng.normal(size=(*shape, c)).astype(np.float32) for c in (4, 12))
    text = rng.normal(size=(batch, 5, 20)).astype(np.float32)
    timestep = np.array([500, 3])[:batch]
    with torch.no_grad():
        expected = _forward(
            model,
            branch,
            *(torch.from_numpy(x.transpose(0, 1, 4, 2, 3)) for x in (xt, maps)),
            torch.from_numpy(text),
            torch.from_numpy(timestep),
            torch_rope((frames, height // 2, width // 2), 64),
            wiring,
        ).numpy()
    tokens = layers.patchify(maps, 2) @ state["patch.weight"].transpose(2, 3, 1, 0).reshape(-1, WIDTH)
    control = Control(tokens + state["patch.bias"])
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text, control)
    assert relative_error(out, expected.transpose(0, 1, 3, 4, 2)) <= TOLERANCE
    # The branch matters: without it the result is another one.
    base = ours.clone(control_depth=0).apply({"params": dit.base_params(params)}, xt, jnp.asarray(timestep), text)
    assert relative_error(base, expected.transpose(0, 1, 3, 4, 2)) > 0.01
