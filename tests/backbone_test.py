"""The model behind a config: which modules and parameters there are, scaling of latents, grouping of conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from motionv2v import backbone, parameters
from motionv2v.devices import memory


def shapes(kind):
    config = tiny_model.config(kind)
    return backbone.build(config), memory.parameter_shapes(config)


def flat_shapes(tree):
    return {path: leaf.shape for path, leaf in parameters.flatten(tree).items()}


@pytest.fixture(scope="module")
def control():
    return shapes("control")


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("vae", {"vae"}), ("base", {"vae", "text", "dit"}), ("control", {"vae", "text", "dit", "conditioner"})],
)
def test_parameters_are_those_of_the_configs_sections(kind, parts):
    model, params = shapes(kind)
    assert set(params) == parts
    assert (model.denoiser is None) == (kind == "vae")
    assert (model.method is None) == (kind != "control")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)), "masters are float32"
    assert backbone.clip_shape(model) == (5, 16, 16, 3)


def test_base_parameters_are_a_part_of_the_control_models(control):
    """A base checkpoint fits into the model with a branch unchanged: the same paths and shapes."""
    base = flat_shapes(shapes("base")[1])
    whole = flat_shapes(control[1])
    assert base == {path: whole[path] for path in base}
    added = set(whole) - set(base)
    assert added and all(path.startswith(("dit/control/", "conditioner/")) for path in added)


def test_first_frame_latents_double_the_conditioner(control):
    cfg = tiny_model.config()
    cfg.method.first_frame_latents = True
    model = backbone.build(cfg)
    params = jax.eval_shape(lambda key: backbone.init_params(key, model), jax.random.key(0))
    kernel = params["conditioner"]["patch_embed"]["kernel"].shape
    assert kernel == (2 * 2 * 96, 32) and control[1]["conditioner"]["patch_embed"]["kernel"].shape == (2 * 2 * 48, 32)


def test_latents_are_scaled_on_the_way_in_and_out():
    """Latents are the encoder's mean times the scaling factor, and divided by it again; clips end at -1 and 1."""
    model, shape = shapes("vae")
    model = model._replace(vae=model.vae.clone(scaling_factor=0.5))
    params = tiny_model.random_params(shape)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 5, 16, 16, 3)).astype(np.float32)

    @jax.jit
    def both(params, video):
        variables = {"params": params["vae"]}
        mean, _ = model.vae.apply(variables, video, method="encode")
        latents = backbone.encode(model, params, video)
        raw = model.vae.apply(variables, latents / 0.5, method="decode")
        return mean, latents, raw, backbone.decode(model, params, latents)

    mean, latents, raw, decoded = both(params, video)
    assert latents.shape == (1, 2, 2, 2, 16) and float(jnp.abs(latents).max()) > 1e-3
    # A half is a power of two: exact.
    np.testing.assert_array_equal(latents, mean / 2)
    np.testing.assert_array_equal(decoded, np.clip(raw, -1, 1))


def test_conditions_are_encoded_each_as_if_alone(control, monkeypatch):
    """Videos of one length go through one copy of the encoder in turn, each gets its own latents back."""
    calls = []

    def pool(model, params, video):
        calls.append(video.shape)
        return video[:, ::4, ::8, ::8]

    monkeypatch.setattr(backbone, "encode", pool)
    rng = np.random.default_rng(0)
    videos = {name: rng.normal(size=(2, 5, 16, 16, 3)).astype(np.float32) for name in ("b", "a", "c")}
    videos["a_first"] = videos["a"][:, :1]
    conditions = {"videos": videos, "maps": {"m": np.ones(3)}}
    encoded = backbone.encode_conditions(control[0], {}, conditions)
    assert sorted(calls) == [(2, 1, 16, 16, 3), (2, 5, 16, 16, 3)]
    assert encoded["maps"] is conditions["maps"] and encoded["videos"].keys() == videos.keys()
    for name, latents in encoded["videos"].items():
        np.testing.assert_array_equal(latents, videos[name][:, ::4, ::8, ::8])


def test_denoise_predicts_latents_with_and_without_conditions(control):
    model, params = control
    latents = jax.ShapeDtypeStruct((2, 2, 2, 2, 16), jnp.float32)
    timestep = jax.ShapeDtypeStruct((2,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((2, tiny_model.LENGTH), jnp.int32)
    text = jax.eval_shape(lambda p, t: backbone.embed_text(model, p, t), params, tokens)
    assert text.shape == (2, tiny_model.LENGTH, 8)
    videos = dict.fromkeys(backbone.condition_shapes(model)["videos"], latents)
    for conditions, use_control in ((None, False), ({"videos": videos}, True)):
        out = jax.eval_shape(
            lambda *given, use=use_control: backbone.denoise(model, *given, use_control=use),
            *(params, latents, timestep, text, conditions),
        )
        assert out.shape == latents.shape


def test_settings_that_do_not_exist_are_errors():
    cfg = tiny_model.config("vae")
    cfg.vae.dtype = "float8"
    with pytest.raises(ValueError, match=r"vae\.dtype is 'float8', expected one of float32, bfloat16"):
        backbone.build(cfg)
    cfg = tiny_model.config("base")
    cfg.dit.num_layer = 3
    with pytest.raises(ValueError, match=r"unknown field 'dit\.num_layer'; did you mean 'num_layers'"):
        backbone.build(cfg)
    cfg = tiny_model.config()
    cfg.method.name = "nothing"
    with pytest.raises(ValueError, match="unknown method 'nothing'"):
        backbone.build(cfg)
