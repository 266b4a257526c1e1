"""A config's fields: what they may hold, their defaults, and what is said where they do not fit."""

import dataclasses
import inspect

import pytest
import tiny_model
from ml_collections import ConfigDict

from motionv2v import backbone, checkpoints, diffusion, methods, schema, sections
from motionv2v.data.scenes.pairs import SceneConfig
from motionv2v.models.dit import DiT
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE
from motionv2v.schema import Field, choice, flag, number, several, whole


def refusal(change, kind="control"):
    """Change the tiny control model's config, and return what is said of it."""
    config = tiny_model.config(kind).to_dict()
    change(config)
    with pytest.raises(schema.SchemaError) as error:
        sections.complete(config, "folder/config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("dit", {"num_heads": 0}, "folder/config.json: dit.num_heads is 0, expected a whole number from 1 to 1024"),
        ("dit", {"num_heads": 2.5}, "dit.num_heads is 2.5, expected a whole number"),
        ("dit", {"num_heads": True}, "dit.num_heads is True, expected a whole number"),
        ("dit", {"num_head": 2}, "unknown field 'dit.num_head'; did you mean 'num_heads'? there are num_layers, "),
        ("dit", {"attention_implementation": "flash"}, "expected one of xla, chunked, cudnn, splash, tokamax, auto"),
        ("dit", {"text_dim": 9}, "dit.text_dim is 9, expected equal to text.width, which is 8"),
        ("dit", {"control_depth": 3}, "dit.control_depth is 3, expected at most dit.num_layers, which is 2"),
        ("sample", {"solver": "euler"}, "sample.solver is 'euler', expected one of ddim, dpmpp_2m_sde"),
        ("sample", {"num_steps": 1001}, "sample.num_steps is 1001, expected at most schedule.num_timesteps"),
        ("sample", {"num_steps": "many"}, "sample.num_steps is 'many', expected a whole number from 1 to 100000"),
        ("sample", {"views": 3}, "sample.views is 3, expected one of 1, 2, 4, 8"),
        ("sample", {"guidance": "strong"}, "'strong', expected one of off, constant, sat, diffusers"),
        ("vae", {"scaling_factor": float("nan")}, "vae.scaling_factor is nan, expected a number above 0"),
        ("vae", {"scaling_factor": 10**400}, "vae.scaling_factor is 1000"),
        ("vae", {"block_channels": [8]}, "expected a list of at least 2 values, each a whole number from 1"),
        ("data", {"size": 64}, "data.size is 64, expected a list of 2 values"),
        ("data", {"scene": {"spead": 1}}, "data.scene: unknown field 'spead'; did you mean 'speed'?"),
        ("optim", {"schedule": [["x", {"peak": 0}]]}, "optim.schedule: peak is 0, expected a number above 0"),
        ("train", {"accumulate": 3}, "train.batch_size=2 does not divide by train.accumulate=3"),
        ("method", {"sigma": -1}, "method.sigma is -1, expected a number at most 4096 and above 0"),
        (
            "method",
            {"name": "other"},
            "unknown method 'other'; available: diffusion_as_shader, interpolation, motion_inversion",
        ),
        ("method", {"drop_last": 0.1}, "unknown field 'method.drop_last'"),
    ],
)
def test_a_wrong_field_is_one_line(section, changes, message):
    assert message in refusal(lambda config: config[section].update(changes))


def test_wrong_sections_are_one_line():
    assert "section 'dit' is 3, expected fields: num_layers" in refusal(lambda c: c.update(dit=3))
    assert "unknown field 'ditt'; did you mean 'dit'? there are name, init_from" in refusal(lambda c: c.update(ditt={}))
    assert "folder/config.json lacks data.size" in refusal(lambda c: c["data"].pop("size"))
    assert "expected the 'name' of a method" in refusal(lambda c: c["method"].pop("name"))
    assert "task is {'deep':" in refusal(lambda c: c.update(task={"deep": nested(500)}))
    with pytest.raises(schema.SchemaError, match=r"x is \[1\], expected sections"):
        sections.complete([1], "x")
    with pytest.raises(schema.SchemaError, match=r"x has no section 'text', 'dit', needed to edit; it has vae, data"):
        sections.require(tiny_model.config("vae"), ("vae", "text", "dit"), "to edit", "x")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_defaults_are_filled_once_and_what_was_given_stays():
    given = ConfigDict({"vae": {"block_channels": [8, 16]}, "sample": {"scale": 3}, "dit": {}})
    complete = sections.complete(given)
    assert complete.vae.block_channels == (8, 16) and complete.vae.layers_per_block == VAE.layers_per_block
    assert complete.sample.to_dict() == {
        "solver": "ddim", "num_steps": 50, "guidance": "constant", "scale": 3.0, "guidance_void": 0.0,
        "negative_prompt": ".", "views": 1, "step_cache": 0.0,
    }  # fmt: skip
    assert isinstance(complete.sample.scale, float)
    assert complete.dit.dtype == "float32" and "text" not in complete and complete.init_from == ()
    assert given.to_dict() == {"vae": {"block_channels": [8, 16]}, "sample": {"scale": 3}, "dit": {}}
    assert sections.complete(complete).to_dict() == complete.to_dict()


def test_every_argument_of_a_network_is_a_field_with_its_default():
    """A field that a network gains is no unknown one, and the two never disagree on what is left out."""
    own = {"text": {"tokenizer"}, "scene": set()}
    for name, made in {"vae": VAE, "text": T5Encoder, "dit": DiT, "scene": SceneConfig}.items():
        table = sections._SCENE if name == "scene" else sections.SECTIONS[name]
        arguments = {field.name for field in dataclasses.fields(made)} - {"parent", "name"}
        arguments -= {"num_frames", "size"} if name == "scene" else set()  # those of the clips
        assert set(table) - own.get(name, set()) == arguments
    assert set(sections.SECTIONS["schedule"]) == set(inspect.signature(diffusion.make_schedule).parameters)
    assert backbone.build(ConfigDict({"vae": {}})).vae == VAE()
    for name, table in sections.SECTIONS.items():
        for field, entry in table.items():
            if entry.default is not schema.REQUIRED:
                assert schema.read_value(entry.default, entry.kind, f"{name}.{field}") == entry.default


def test_stored_models_of_before_load_unchanged():
    """What a config says stays, word for word; what it does not say is how things were before there was a field."""
    folder = checkpoints.resolve("tiny")
    stored = checkpoints._read_json(folder / "config.json")["config"]
    complete = checkpoints.config_to_json(checkpoints.read_config(folder))

    def contains(whole, part):
        if isinstance(part, dict):
            return all(name in whole and contains(whole[name], value) for name, value in part.items())
        return whole == part

    for name in sections.GONE:  # what trains says `optim.schedule`
        stored.pop(name, None)
    assert contains(complete, stored)
    assert complete["method"]["subpixel"] is True and complete["sample"]["step_cache"] == 0


def test_a_method_declares_its_own_fields(monkeypatch):
    """The settings of its record are all that a method needs: no table elsewhere names them."""
    settings = {"stroke": Field(number(above=0), "width of a line"), "ink": Field(choice("red"), "colour", "red")}
    monkeypatch.setitem(methods._REGISTERED, "drawn_by_hand", methods.Method((), None, None, settings))
    complete = sections.complete({"method": {"name": "drawn_by_hand", "stroke": 2}})
    assert complete.method.to_dict() == {"name": "drawn_by_hand", "stroke": 2.0, "ink": "red"}
    with pytest.raises(schema.SchemaError, match=r"the config lacks method\.stroke"):
        sections.complete({"method": {"name": "drawn_by_hand"}})
    with pytest.raises(schema.SchemaError, match=r"unknown field 'method\.sigma'; there are name, stroke, ink"):
        sections.complete({"method": {"name": "drawn_by_hand", "stroke": 2, "sigma": 3.0}})


def test_a_table_is_described_in_lines():
    table = {"size": Field(several(whole(1), 2), "height and width"), "quick": Field(flag, "skip steps", False)}
    assert schema.describe(table) == [
        "size: height and width (a list of 2 values, each a whole number of at least 1)",
        "quick: skip steps (True or False) [False]",
    ]
