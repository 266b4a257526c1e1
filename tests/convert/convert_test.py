"""Weights in and out without torch: round trips, hand-made files, every way a folder can be wrong, and memory."""

import json
import shutil
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_modules import CHAINED, DIT, MODULES, random_params

from motionv2v import convert
from motionv2v.convert import ConvertError, autoencoder, networks, scheduler, text_encoder, writing
from motionv2v.convert.tensors import open_folder
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.text import T5Encoder
from motionv2v.models.vae.autoencoder import VAE

FLOATS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def saved(module, folder, **settings):
    params = random_params(module)
    convert.to_diffusers(module, params, folder, **settings)
    return params


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


@pytest.mark.parametrize("name", MODULES)
def test_folder_round_trip_is_exact(name, tmp_path):
    module = MODULES[name]
    params = saved(module, tmp_path / "out")
    again, loaded = convert.from_diffusers(tmp_path / "out")
    assert again == module
    assert_same(loaded, params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_rounded_once_and_read_in_any_type(dtype, tmp_path):
    params = saved(MODULES["text"], tmp_path / "out", dtype=dtype)
    rounded = jax.tree.map(lambda x: x.astype(FLOATS[dtype]), params)
    _, loaded = convert.from_diffusers(tmp_path / "out")
    assert_same(loaded, jax.tree.map(lambda x: x.astype(np.float32), rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    _, stored = convert.from_diffusers(tmp_path / "out", dtype="stored")
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype(FLOATS[dtype])}
    assert_same(stored, rounded)
    with pytest.raises(ConvertError, match="dtype is 'int8'; expected float32, bfloat16, float16 or stored"):
        convert.from_diffusers(tmp_path / "out", dtype="int8")


def test_layers_and_layouts_match_plain_numpy(tmp_path):
    """The stack's layer i is the file's layer i, and each kind of weight has its axes where torch has them."""
    state = {}
    for name in ("vae", "text", "dit"):
        params = saved(MODULES[name], tmp_path / name)
        (weights,) = (tmp_path / name).glob("*.safetensors")
        state[name] = load_file(weights), params
    theirs, ours = state["text"]
    for i in range(3):
        there = theirs[f"encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight"]
        np.testing.assert_array_equal(there, ours["blocks"]["mlp_up"]["kernel"][i].T)
    theirs, ours = state["vae"]
    np.testing.assert_array_equal(
        theirs["encoder.conv_in.conv.weight"], np.einsum("thwio->oithw", ours["encoder"]["conv_in"]["kernel"])
    )
    np.testing.assert_array_equal(
        theirs["encoder.down_blocks.0.downsamplers.0.conv.weight"],
        np.einsum("hwio->oihw", ours["encoder"]["down_blocks_0_downsamplers_0"]["kernel"]),
    )
    y = ours["decoder"]["mid_block_resnets_1"]["norm2"]["conv_y"]["kernel"]
    np.testing.assert_array_equal(
        theirs["decoder.mid_block.resnets.1.norm2.conv_y.conv.weight"], y.T[..., None, None, None]
    )
    theirs, ours = state["dit"]
    patch = ours["patch_embed"]["kernel"].reshape(2, 2, 4, 32)
    np.testing.assert_array_equal(theirs["patch_embed.proj.weight"], np.einsum("hwio->oihw", patch))


@pytest.mark.parametrize("dtype", FLOATS)
def test_shards_keep_the_limit_and_the_library_reads_them(dtype, tmp_path):
    params = saved(MODULES["vae"], tmp_path / "one", dtype=dtype)
    convert.to_diffusers(MODULES["vae"], params, tmp_path / "many", dtype=dtype, shard_size="20KB")
    stem = "diffusion_pytorch_model"
    whole = load_file(tmp_path / "one" / f"{stem}.safetensors")
    index = json.loads((tmp_path / "many" / f"{stem}.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert [p.name for p in shards] == [
        f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
    ]
    assert len(shards) > 2
    largest = max(value.nbytes for value in whole.values())
    assert all(p.stat().st_size <= max(20_000, largest + 400) for p in shards)
    together = {}
    for shard in shards:
        part = load_file(shard)
        assert {index["weight_map"][name] for name in part} == {shard.name}
        with safe_open(shard, framework="np") as file:
            assert file.metadata() == {"format": "pt"}  # without it transformers refuses the file
        together |= part
    assert together.keys() == whole.keys()
    assert all(np.array_equal(together[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    assert_same(convert.from_diffusers(tmp_path / "many")[1], convert.from_diffusers(tmp_path / "one")[1])


@pytest.mark.parametrize("tables", ["shared", "embed_tokens", "both"])
def test_token_table_under_either_name(tables, tmp_path):
    params = saved(MODULES["text"], tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    state = load_file(path)
    other = state["shared.weight"] if tables == "shared" else state.pop("shared.weight")
    if tables != "shared":
        state["encoder.embed_tokens.weight"] = other
    if tables == "both":
        state["shared.weight"] = other
    save_file(state, path)
    assert_same(convert.from_diffusers(tmp_path / "out")[1], params)
    if tables == "both":
        state["shared.weight"] = other + 1
        save_file(state, path)
        with pytest.raises(ConvertError, match="differ; supported: one table under both names"):
            convert.from_diffusers(tmp_path / "out")


def as_variant(folder, variant="fp16"):
    """Rename a folder's weights as diffusers and transformers name those of a variant."""
    for path in sorted(folder.glob("*.safetensors")):
        stem, dash, shard = path.stem.partition("-")
        path.rename(folder / f"{stem}.{variant}{dash}{shard}.safetensors")
    for path in folder.glob("*.safetensors.index.json"):
        index = json.loads(path.read_text())
        stem = path.name.split(".")[0]
        weight_map = {name: shard.replace(stem, f"{stem}.{variant}", 1) for name, shard in index["weight_map"].items()}
        path.unlink()
        (folder / f"{stem}.safetensors.index.{variant}.json").write_text(
            json.dumps({**index, "weight_map": weight_map})
        )


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
@pytest.mark.parametrize("name", ["vae", "text", "dit"])
def test_files_of_a_variant_are_read(name, shard_size, tmp_path):
    params = saved(MODULES[name], tmp_path / "in", dtype="float16", shard_size=shard_size)
    as_variant(tmp_path / "in")
    assert all(".fp16" in path.name for path in (tmp_path / "in").glob("*safetensors*"))
    notices = []
    again, loaded = convert.from_diffusers(tmp_path / "in", notify=notices.append)
    assert again == MODULES[name] and notices == [
        f"{tmp_path / 'in'} holds its weights as the variant fp16, which is read"
    ]
    assert_same(loaded, jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params))


def test_a_variant_stands_back_for_weights_without_one(tmp_path):
    params = saved(MODULES["text"], tmp_path / "in")
    saved(MODULES["text"], tmp_path / "bf16", dtype="bfloat16")
    as_variant(tmp_path / "bf16", "bf16")
    shutil.copy(tmp_path / "bf16" / "model.bf16.safetensors", tmp_path / "in")
    notices = []
    assert_same(convert.from_diffusers(tmp_path / "in", notify=notices.append)[1], params)
    assert notices == []
    (tmp_path / "in" / "model.safetensors").rename(tmp_path / "in" / "model.fp16.safetensors")
    with pytest.raises(
        ConvertError, match="holds the variants bf16, fp16 of its weights and none without a name: leave"
    ):
        convert.from_diffusers(tmp_path / "in")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    """Rewrite the first shard."""
    path = sorted(folder.glob("*.safetensors"))[0]
    state = load_file(path)
    change(state)
    save_file(state, path)


def cut(folder):
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7])


def unlink(folder, pattern):
    sorted(folder.glob(pattern))[0].unlink()


def wide(state):
    name = next(name for name, value in state.items() if value.ndim == 1)
    state[name] = np.zeros(len(state[name]) + 1, np.float32)


def integers(state):
    state[next(iter(state))] = np.zeros(3, np.int32)


WRONG = {
    "missing shard": (lambda f: unlink(f, "*.safetensors"), "lacks diffusion_pytorch_model-00001-of-"),
    "cut shard": (cut, "00002-of-.* is damaged or cut off"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("*safetensors*")], "no weights in .* found checksums.json"),
    "bad index": (lambda f: next(f.glob("*.index.json")).write_text("{}"), "no 'weight_map'"),
    "index is not json": (lambda f: next(f.glob("*.index.json")).write_text("{"), "index.json is not json"),
    "other names": (lambda f: edit_weights(f, lambda s: s.update(new=np.ones(1, np.float32))), "not listed: new"),
    "wrong shape": (lambda f: edit_weights(f, wide), r"of other shapes than .*bias is \[5\], expected \[4\]"),
    "integers": (lambda f: edit_weights(f, integers), "is stored as I32; supported: F32, BF16, F16"),
    "more layers": (
        lambda f: edit_config(f, layers_per_block=2),
        r"0 of its \d+ tensors have no place.*; \d+ tensors of the model are not there \(decoder.up_blocks.0.resnets.2",
    ),
    "fewer layers": (
        lambda f: edit_config(f, block_out_channels=[4, 4, 8], **{k: v[:3] for k, v in json.loads(
            (f / "config.json").read_text()).items() if k in ("down_block_types", "up_block_types")}),
        r"\d+ of its \d+ tensors have no place in it \(.* and \d+ more\); [1-9]\d* tensors of the model are not there",
    ),
    "unknown class": (lambda f: edit_config(f, _class_name="AutoencoderKL"), "is of class AutoencoderKL; supported: A"),
    "no class": (lambda f: edit_config(f, _class_name=None), "names no class"),
    "other class": (lambda f: edit_config(f, _class_name="CogVideoXTransformer3DModel"), "unknown keys act_fn"),
    "no config": (lambda f: unlink(f, "config.json"), "config.json cannot be read"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "holds a list, expected an object"),
    "pipeline": (lambda f: (f / "model_index.json").write_text("{}"), "is a whole pipeline: use pipeline_from_diff"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "vae"
    saved(MODULES["vae"], folder, shard_size="20KB")
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_wrong_folder_is_one_line(case, good, tmp_path):
    spoil, message = WRONG[case]
    shutil.copytree(good, tmp_path / "in")
    spoil(tmp_path / "in")
    with pytest.raises(ConvertError, match=message) as error:
        convert.from_diffusers(tmp_path / "in")
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "lost", "message"),
    [
        ({}, "second_patch_embed.proj.weight", "tensors of the model are not there .second_patch_embed.proj.weight."),
        ({"in_channels": 8}, "", r"patch_embed.proj.weight is \[32, 4, 2, 2\], expected \[32, 8, 2, 2\]"),
        ({"out_channels": None}, "", "out_channels=None; supported: a whole number"),
        ({"out_channels": {}}, "", "out_channels={}; supported: a whole number"),
    ],
)
def test_wrong_checkpoint_of_a_method_is_one_line(changes, lost, message, released, tmp_path):
    shutil.copytree(released, tmp_path / "in")
    edit_config(tmp_path / "in", **changes)
    edit_weights(tmp_path / "in", lambda state: state.pop(lost, None))
    with pytest.raises(ConvertError, match=message) as error:
        convert.from_diffusers(tmp_path / "in")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """MotionV2V's transformer as its code saves it, with text-to-video's settings."""
    folder = tmp_path_factory.mktemp("convert") / "motionv2v"
    saved(MODULES["motionv2v"], folder)
    return folder


CONFIGS = {
    "act_fn": (autoencoder, {"act_fn": "gelu"}, "act_fn is 'gelu'; supported: 'silu' or 'swish'"),
    "shift": (autoencoder, {"shift_factor": 0.5}, "shift_factor is 0.5; supported: None"),
    "quant": (autoencoder, {"use_quant_conv": True}, "use_quant_conv is True; supported: False"),
    "blocks": (autoencoder, {"up_block_types": ["X"] * 4}, "up_block_types is .*; supported: CogVideoXUpBlock3D"),
    "channels": (autoencoder, {"out_channels": 4}, "in_channels is 3 and out_channels is 4; supported: the same"),
    "ratio": (autoencoder, {"temporal_compression_ratio": 2.5}, "ratio is 2.5; expected a whole number"),
    "levels": (autoencoder, {"latent_channels": "16"}, "latent_channels is '16'; expected a whole number"),
    "factor": (autoencoder, {"scaling_factor": 0}, "scaling_factor is 0; expected a number above 0"),
    "heads": (
        text_encoder,
        {"feed_forward_proj": "gated-gelu", "num_heads": 1.5},
        "num_heads is 1.5; expected a whole number",
    ),
    "betas": (
        scheduler,
        {**scheduler.to_config(scheduler.Sampler({}, "ddim")), "beta_start": 2.0},
        "expected 0 < beta_start <= beta_end < 1",
    ),
    "newer": (autoencoder, {"use_new_norm": True}, "unknown setting use_new_norm = True; known: act_fn"),
    "relu": (text_encoder, {"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu'; supported: 'gated-gelu'"),
    "T5 1.0": (text_encoder, {}, "feed_forward_proj is 'relu'; supported"),
    "epsilon": (scheduler, {"_class_name": "CogVideoXDDIMScheduler"}, "prediction_type is 'epsilon'; supported: 'v_p"),
    "euler": (scheduler, {"_class_name": "EulerScheduler"}, "'EulerScheduler' is not supported; supported: CogVideoXD"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_unsupported_settings_name_what_is_supported(case):
    module, config, message = CONFIGS[case]
    with pytest.raises(ConvertError, match=message):
        module.from_config(config)


def test_settings_left_out_have_the_peers_defaults():
    assert autoencoder.from_config({}) == VAE()
    # Left out in our own config, a schedule has make_schedule's defaults, which are not diffusers'.
    config = scheduler.to_config(scheduler.Sampler({}, "dpmpp_2m_sde"))
    again = scheduler.from_config(config)
    assert again.solver == "dpmpp_2m_sde"
    for ours, theirs in zip(again.make_schedule(), scheduler.Sampler({}, "ddim").make_schedule(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert autoencoder.image_scale({"scaling_factor": 0.5, "invert_scale_latents": True}) == 2
    assert autoencoder.image_scale({"scaling_factor": 0.5}) == 0.5


def test_what_diffusers_cannot_hold_is_refused(tmp_path):
    params = random_params(DIT)
    cases = {
        "num_sample_frames_batch_size is 4": (MODULES["vae"].clone(num_sample_frames_batch_size=4), {}),
        "sample_size is not set": (DIT.clone(sample_size=None), params),
        "holds no low-rank updates; got axes=.*hw": (DIT.clone(axes=("hw", "t")), params),
        "and lora_rank=2": (DIT.clone(lora_rank=2), params),
        "class Dense has no form in diffusers; supported: VAE": (nn.Dense(3), {}),
        "a denoiser without conditioner is its transformer": (Denoiser(DIT), {"dit": params}),
        "control_wiring='chained', the module has 'side'": (CHAINED.clone(control_wiring="side"), {}),
        "out/bias is missing": (DIT, {**params, "out": {"kernel": params["out"]["kernel"]}}),
        "is not part of the model": (DIT, {**params, "more": np.zeros(1, np.float32)}),
    }
    for message, (module, tree) in cases.items():
        with pytest.raises(ConvertError, match=message):
            convert.to_diffusers(module, tree, tmp_path / "out")
    for size in ("5 cats", "0", "-1GB"):
        with pytest.raises(ConvertError, match="expected a number of bytes such as"):
            convert.to_diffusers(DIT, params, tmp_path / "out", shard_size=size)
    with pytest.raises(ConvertError, match="holds numbers of type int32, expected floating point"):
        integers = jax.tree.map(lambda x: x.astype(np.int32), params)
        convert.to_diffusers(DIT, integers, tmp_path / "out", dtype="stored")
    with pytest.raises(ConvertError, match=r"proj_out.bias has numbers beyond float16's 65504; store as bf"):
        large = {**params, "out": {**params["out"], "bias": params["out"]["bias"] + 1e5}}
        convert.to_diffusers(DIT, large, tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_groups_that_do_not_divide_are_explained(good, tmp_path):
    shutil.copytree(good, tmp_path / "in")
    edit_config(tmp_path / "in", norm_num_groups=3)
    with pytest.raises(ConvertError, match="norm_groups is 3, which does not divide 4 channels"):
        convert.from_diffusers(tmp_path / "in")


def test_other_peoples_files_are_left_alone(tmp_path):
    params = random_params(DIT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConvertError, match=r"mine exists and holds thesis.txt, which was not converted"):
        convert.to_diffusers(DIT, params, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # into an empty folder, and over its own result
        convert.to_diffusers(DIT, params, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "mine"]


def test_jax_arrays_are_written_like_numpys(tmp_path):
    params = saved(DIT, tmp_path / "a")
    convert.to_diffusers(DIT, jax.tree.map(jnp.asarray, params), tmp_path / "b")
    first, second = (next((tmp_path / name).glob("*.safetensors")).read_bytes() for name in "ab")
    assert first == second


def test_loading_needs_the_result_and_one_tensor(tmp_path):
    """A stack is filled layer by layer: beside the result there is one layer of one tensor, twice for its copy."""
    module = T5Encoder(vocab_size=8, width=128, num_layers=16, num_heads=2, head_dim=16, mlp_dim=1024)
    saved(module, tmp_path / "t5", dtype="bfloat16", shard_size="1MB")
    convert.from_diffusers(tmp_path / "t5")  # what the first call imports and traces is not counted
    source = networks.open_source(tmp_path / "t5")
    tracemalloc.start()
    params = networks.load(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    layer = 128 * 1024 * 4
    assert result > 16 * 3 * layer
    assert peak < result + 2 * layer


def test_checksums_find_a_changed_and_a_missing_file(tmp_path):
    saved(DIT, tmp_path / "out", shard_size="20KB")
    count = writing.verify(tmp_path / "out")
    assert count == len(list((tmp_path / "out").iterdir())) - 1
    shard = sorted((tmp_path / "out").glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (tmp_path / "out" / "config.json").unlink()
    with pytest.raises(ConvertError, match=f"missing config.json; changed {shard.name}"):
        writing.verify(tmp_path / "out")
    with pytest.raises(ConvertError, match=r"checksums.json cannot be read"):
        writing.verify(tmp_path)


def test_headers_are_read_where_tensors_are(tmp_path):
    """Scalars, empty tensors and any order of bytes in the file."""
    state = {"b": np.float32(3.5), "a": np.arange(6, dtype=np.float16).reshape(2, 3), "c": np.zeros((0, 4), np.float32)}
    save_file({name: np.asarray(value) for name, value in state.items()}, tmp_path / "x.safetensors")
    tensors = open_folder(tmp_path, "x")
    assert len(tensors) == 3 and tensors.dtypes() == {"float32", "float16"}
    for name, value in state.items():
        np.testing.assert_array_equal(tensors.read(name), value)
    np.testing.assert_array_equal(tensors.read("a", 1), state["a"][1])
