"""A base with low-rank updates against diffusers' transformer whose own Linear layers were updated by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_parity_test import TOLERANCE, both, inputs, relative_error, run_diffusers
from safetensors.numpy import save_file

from motionv2v.convert import lora

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")

from diffusers import CogVideoXPipeline  # noqa: E402

BLOCK = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
READS_TIME = ("norm1.linear", "norm2.linear")
OUTSIDE = ("patch_embed.proj", "patch_embed.text_proj", "time_embedding.linear_1", "norm_out.linear", "proj_out")


def update_by_hand(model, layers, rank, factor, seed):
    """Add factor * B A to layers of diffusers' model, and return the tensors as PEFT names them."""
    rng, state, modules = np.random.default_rng(seed), {}, dict(model.named_modules())
    for name in layers:
        weight = modules[name].weight
        ones = [1] * (weight.ndim - 2)
        down, up = (
            torch.from_numpy(rng.normal(0, 0.3, shape).astype(np.float32))
            for shape in ((rank, *weight.shape[1:]), (len(weight), rank, *ones))
        )
        with torch.no_grad():
            weight += factor * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        state[f"transformer.{name}.lora_A.weight"], state[f"transformer.{name}.lora_B.weight"] = (
            down.numpy(),
            up.numpy(),
        )
    return state


@pytest.mark.parametrize(
    ("kind", "shape"), [("5B", (2, 3, 8, 12)), ("5B-I2V", (1, 3, 8, 12)), ("1.5-5B", (1, 2, 4, 10))]
)
def test_updated_bases_match_diffusers(kind, shape, tmp_path):
    """Two updates of different ranks, scales and weights; all blocks' layers, then those outside of them too."""
    theirs, ours, params = both(kind)
    params = jax.tree.map(np.copy, params)  # not views of the weights that are updated below
    given = inputs(theirs, shape)
    plain = run_diffusers(theirs, *given)
    in_blocks = [f"transformer_blocks.{i}.{name}" for i in range(3) for name in BLOCK]
    first = update_by_hand(theirs, in_blocks, 4, 0.7 * 2 / 4, 0)
    first |= {f"transformer.{name}.alpha": np.array(2, np.float32) for name in in_blocks}
    save_file(first, tmp_path / "first.safetensors")
    second = update_by_hand(theirs, in_blocks[::3], 2, -0.5, 1)
    save_file(second, tmp_path / "second.safetensors")
    updates = [lora.read(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    expected, (xt, timestep, text) = run_diffusers(theirs, *given), given
    assert relative_error(plain, expected) > 0.1
    merged = lora.merge(ours, params, updates, [0.7, -0.5])
    module, tree = lora.apart(ours, params, updates, [0.7, -0.5])
    for one, of in ((ours, merged), (module, tree)):
        out = one.apply({"params": of}, xt, jnp.asarray(timestep), text)
        assert relative_error(out, expected) <= TOLERANCE
    others = [*OUTSIDE, *(f"transformer_blocks.1.{name}" for name in READS_TIME)]
    save_file(update_by_hand(theirs, others, 3, 1.0, 2), tmp_path / "third.safetensors")
    # At 999 both sides round the time's angles in their own way (`dit_parity_test.TOLERANCE`), which updates of the
    # layers that read the time make larger; without that the two are twenty times as near.
    timestep = np.array([12, 3])[: len(xt)]
    final = run_diffusers(theirs, xt, timestep, text)
    assert relative_error(run_diffusers(both(kind)[0], xt, timestep, text), final) > 0.1
    merged = lora.merge(ours, merged, [lora.read(tmp_path / "third.safetensors")])
    out = ours.apply({"params": merged}, xt, jnp.asarray(timestep), text)
    assert relative_error(out, final) <= TOLERANCE


def test_what_is_exported_is_what_diffusers_has(tmp_path):
    """diffusers' own file is read, ours is read by it; names and sizes are its model's Linear layers'."""
    theirs, ours, params = both("5B")
    state = update_by_hand(theirs, [f"transformer_blocks.{i}.attn1.to_k" for i in range(3)], 4, 1.0, 0)
    layers = {name.removeprefix("transformer."): torch.from_numpy(x) for name, x in state.items()}
    CogVideoXPipeline.save_lora_weights(tmp_path / "given", transformer_lora_layers=layers)
    module, tree = lora.apart(ours, params, [lora.read(tmp_path / "given")])
    again = lora.read(out := lora.export(module, tree, tmp_path / "out"))
    read = CogVideoXPipeline.lora_state_dict(out)
    assert set(read) == set(state)
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)
    modules = dict(theirs.named_modules())
    for name, layer in again.layers.items():
        assert isinstance(modules[name], torch.nn.Linear)
        assert (len(layer.up), layer.down.shape[1]) == tuple(modules[name].weight.shape)
        np.testing.assert_array_equal(layer.down, state[f"transformer.{name}.lora_A.weight"])
        np.testing.assert_array_equal(layer.up, state[f"transformer.{name}.lora_B.weight"])
