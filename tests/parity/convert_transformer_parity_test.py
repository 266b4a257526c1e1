"""The transformer's config.json, names and layouts against diffusers' own, both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import parameters
from motionv2v.convert import transformer
from motionv2v.convert.rules import expand
from motionv2v.methods.motionv2v import STREAMS, Conditioner
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import DiT

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from control_parity_test import BRANCH_CLASS, released_model  # noqa: E402
from diffusers import CogVideoXTransformer3DModel  # noqa: E402
from dit_parity_test import KINDS, arrays, diffusers_model, load, save  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

# The config.json of each released transformer, where it differs from diffusers' defaults.
LARGE = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
LATER = {**LARGE, "patch_size_t": 2, "patch_bias": False, "sample_frames": 81}
RELEASED = {
    "2B": {},
    "5B": LARGE,
    "5B-I2V": {**LARGE, "in_channels": 32, "use_learned_positional_embeddings": True},
    "1.5-5B": {**LATER, "sample_height": 96, "sample_width": 170},
    "1.5-5B-I2V": {**LATER, "in_channels": 32, "ofs_embed_dim": 512, "sample_height": 300, "sample_width": 300},
}


def shapes_of(module):
    """Return the shapes of a module's own parameters without making any."""
    dit = module.dit if isinstance(module, Denoiser) else module
    size = dit.sample_size if dit.positions == "rope+learned" else dit.patch
    size = [jax.ShapeDtypeStruct((1, *size, dit.in_channels), jnp.float32), jnp.zeros(1)]
    given = [*size, jax.ShapeDtypeStruct((1, dit.text_length, dit.text_dim), jnp.float32)]
    if isinstance(module, Denoiser):
        channels = dit.in_channels // 2
        streams = [name + suffix for name in STREAMS for suffix in ("", "_first")]
        given.append({"videos": {name: jnp.zeros((1, *dit.patch, channels)) for name in streams}})
    return jax.eval_shape(module.init, jax.random.key(0), *given)["params"]


def check_both_ways(module, layout, state):
    """Convert there and back again; every number returns to its place, and every leaf of the module is filled."""
    table = transformer.rules(module.dit if isinstance(module, Denoiser) else module, layout)
    tree = load(table, state)
    assert jax.tree.map(lambda leaf: leaf.shape, tree) == jax.tree.map(lambda leaf: leaf.shape, shapes_of(module))
    back = save(table, tree)
    assert set(back) == set(state)
    dead = {step.source for step in expand(table) if not step.target}
    for name, value in state.items():
        if name not in dead:
            np.testing.assert_array_equal(back[name], value, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, load(table, back), tree)
    return tree, back, dead


@pytest.mark.parametrize("kind", KINDS)
def test_weights_there_and_back(kind):
    theirs = diffusers_model(kind)
    state = arrays(theirs)
    ours = transformer.from_config(dict(theirs.config))
    assert transformer.detect_layout(state) == "diffusers"
    *_, dead = check_both_ways(ours, "diffusers", state)
    assert not dead
    # Their numbers and no others.
    assert parameters.count(shapes_of(ours)) == sum(value.size for value in state.values())


@pytest.mark.parametrize("kind", ["5B-I2V", "2B"])
def test_shader_weights_there_and_back(kind):
    theirs = released_model(kind, 2)
    state = arrays(theirs)
    ours = transformer.from_config({**theirs.config, "num_tracking_blocks": 2})
    assert transformer.detect_layout(state) == "shader"
    *_, dead = check_both_ways(ours, "shader", state)
    assert not dead


def test_motionv2v_weights_there_and_back():
    theirs = released_model("5B", 2, second_channels=12)
    state = arrays(theirs)
    ours = transformer.from_config({**theirs.config, "num_tracking_blocks": 2})
    assert transformer.detect_layout(state) == "motionv2v"
    denoiser = Denoiser(ours, Conditioner(ours.width, 2, first_frame_latents=True))
    _, back, dead = check_both_ways(denoiser, "motionv2v", state)
    assert dead == {"second_patch_embed.text_proj.weight", "second_patch_embed.text_proj.bias"}
    # The dead projection is written as a copy of the one that is alive.
    for part in ("weight", "bias"):
        np.testing.assert_array_equal(
            back[f"second_patch_embed.text_proj.{part}"], state[f"patch_embed.text_proj.{part}"]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_what_we_write(kind, tmp_path):
    """A folder of our config and tensors loads with from_pretrained, nothing missing, nothing left over."""
    theirs = diffusers_model(kind)
    ours = transformer.from_config(dict(theirs.config))
    table = transformer.rules(ours)
    state = save(table, load(table, arrays(theirs)))
    (tmp_path / "config.json").write_text(json.dumps(transformer.to_config(ours)))
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    loaded, info = CogVideoXTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert {key: list(value) for key, value in info.items()} == {key: [] for key in info}
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value, err_msg=name)
    written = transformer.to_config(ours)
    for key, value in theirs.config.items():
        assert key.startswith("_") or written[key] == value, key


@pytest.mark.parametrize("kind", RELEASED)
def test_released_sizes_match_diffusers(kind):
    """At the published sizes every tensor, on shapes alone, becomes a leaf of the right shape."""
    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel(**RELEASED[kind])
    ours = transformer.from_config(dict(theirs.config))
    tensors = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    expected = jax.tree_util.tree_flatten_with_path(shapes_of(ours))[0]
    expected = {"/".join(key.key for key in path): leaf.shape for path, leaf in expected}
    seen, parameters = set(), 0
    for step in expand(transformer.rules(ours)):
        # Zeros without memory of their own.
        leaf = step.rule.op.load(np.broadcast_to(np.zeros((), np.int8), tensors[step.source]))
        assert leaf.shape == expected[step.target][step.index is not None :], step.source
        seen.add(step.source)
        parameters += leaf.size
    assert seen == set(tensors)
    assert parameters == sum(np.prod(shape) for shape in expected.values())
    if kind == "5B":
        assert parameters == 5_570_283_072


@pytest.mark.parametrize("kind", RELEASED)
def test_config_there_and_back(kind):
    module = transformer.from_config(RELEASED[kind])
    written = transformer.to_config(module)
    assert {key: written[key] for key in RELEASED[kind]} == RELEASED[kind]
    assert transformer.from_config(json.loads(json.dumps(written))) == module


def test_released_configs_are_read():
    """The settings that specs of the models state."""
    two, five, image = (transformer.from_config(RELEASED[kind]) for kind in ("2B", "5B", "5B-I2V"))
    assert (two.num_layers, two.width, two.positions, two.sample_size) == (30, 1920, "sincos", (13, 60, 90))
    assert (five.num_layers, five.width, five.positions, five.patch_size_t) == (42, 3072, "rope", None)
    assert (image.in_channels, image.out_channels, image.positions) == (32, 16, "rope+learned")
    later = transformer.from_config(RELEASED["1.5-5B-I2V"])
    assert (later.patch, later.ofs_embed_dim, later.sample_size) == ((2, 2, 2), 512, (21, 300, 300))
    shader = transformer.from_config({**RELEASED["5B-I2V"], "_class_name": BRANCH_CLASS})
    assert (shader.control_depth, shader.control_wiring) == (18, "chained")
    written = transformer.to_config(shader)
    assert (written["_class_name"], written["num_tracking_blocks"]) == (BRANCH_CLASS, 18)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"qk_bias": 1}, r"unknown keys qk_bias; known: activation_fn, "),
        ({"_class_name": "UNet"}, r"class 'UNet'; supported: CogVideoXTransformer3DModel, "),
        ({"activation_fn": "silu"}, r"activation_fn='silu'; supported: 'gelu-approximate'"),
        ({"norm_eps": 1e-6}, r"norm_eps=1e-06; supported: 1e-05"),
        ({"num_layers": "42"}, r"num_layers='42'; supported: a whole number from 1\.$"),
        ({"patch_size_t": 0}, r"patch_size_t=0; supported: a whole number from 1 or null"),
        ({"out_channels": None}, r"out_channels=None; supported: a whole number"),
        ({"spatial_interpolation_scale": 0}, r"spatial_interpolation_scale=0; supported: a number above 0"),
        ({"patch_bias": False}, r"patch_bias=False, which is supported only together with patch_size_t"),
        ({"use_learned_positional_embeddings": True}, r"supported: rotary, both, or neither"),
        ({"sample_frames": 48}, r"sample_frames=48; supported: 4k \+ 1"),
        ({"patch_size_t": 2}, r"positions='sincos' has no form for patch_size_t=2; only 'rope' has"),
        ({"ofs_embed_dim": 256}, r"ofs_embed_dim=256 must be None or equal time_embed_dim=512"),
        ({"num_tracking_blocks": 31}, r"control_depth=31 must lie in 0..num_layers=30"),
    ],
)
def test_unsupported_configs_are_explained(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        transformer.from_config(config)
    assert "\n" not in str(caught.value)


def test_settings_that_are_off_are_let_pass():
    """A newer diffusers may write settings that this version has never heard of, as long as they do nothing."""
    assert transformer.from_config({"_name_or_path": "x", "later": False, "other": None}) == transformer.from_config({})


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({}, "safetensors", r"layout 'safetensors' is unknown; available: diffusers, motionv2v, shader"),
        ({"control_depth": 2, "control_wiring": "chained"}, "diffusers", r"has no control branch.*control_depth=2"),
        ({}, "shader", r"the module has control_depth=0"),
        ({}, "motionv2v", r"the module has control_depth=0"),
        ({"control_depth": 2}, "shader", r"means control_wiring='chained', the module has 'side'"),
        ({"control_depth": 2, "positions": "sincos"}, "motionv2v", r"positions='rope'.*got positions='sincos'"),
        ({"ofs_embed_dim": 3}, "diffusers", r"ofs_embed_dim=3"),
    ],
)
def test_modules_that_a_layout_cannot_hold_are_explained(changes, layout, message):
    with pytest.raises(ValueError, match=message) as caught:
        transformer.rules(DiT(**changes), layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"sample_size is not set.*module.clone\(sample_size="),
        ({"mlp_ratio": 2}, r"mlp_ratio=4 only, got mlp_ratio=2"),
        ({"sample_size": (13, 60, 90), "control_depth": 1}, r"means control_wiring='chained', the module has 'side'"),
    ],
)
def test_modules_that_diffusers_does_not_have_are_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer.to_config(DiT(**changes))


def test_unknown_tensors_are_explained():
    with pytest.raises(ValueError, match=r"tensors named a, b, c are not a CogVideoX transformer's"):
        transformer.detect_layout(["d", "c", "b", "a"])
