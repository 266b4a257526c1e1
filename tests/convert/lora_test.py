"""Low-rank updates: every spelling and scale, merged and apart, refused in one line, exported, and through folders."""

import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch_files
from launching import launch
from safetensors.numpy import load_file, save_file
from tiny_modules import DIT, MODULES, random_params

from motionv2v import convert, parameters
from motionv2v.convert import ConvertError, lora, stream
from motionv2v.models.dit import DiT

Q, UP = "transformer_blocks.0.attn1.to_q", "transformer_blocks.2.ff.net.0.proj"
OUT, DOWN = "transformer_blocks.1.attn1.to_out.0", "transformer_blocks.0.ff.net.2"
BLOCKS = {Q: (32, 32), UP: (32, 128), OUT: (32, 32), DOWN: (128, 32)}
OTHERS = {
    "patch_embed.proj": ((4, 2, 2), 32),
    "patch_embed.text_proj": (12, 32),
    "time_embedding.linear_1": (32, 8),
    "transformer_blocks.1.norm1.linear": (8, 192),
    "norm_out.linear": (8, 64),
    "proj_out": (32, 16),
}


def draw(layers, rank=2, seed=0):
    """{layer: (A, B)} in torch's order of axes, of a size that shows."""
    rng, made = np.random.default_rng(seed), {}
    for name, (width_in, width_out) in layers.items():
        width_in = width_in if isinstance(width_in, tuple) else (width_in,)
        up = (width_out, rank, *[1] * (len(width_in) - 1))
        made[name] = tuple(rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((rank, *width_in), up))
    return made


def spelled(halves, down="lora_A", up="lora_B", prefix="transformer."):
    state = {f"{prefix}{name}.{down}.weight": pair[0] for name, pair in halves.items()}
    return state | {f"{prefix}{name}.{up}.weight": pair[1] for name, pair in halves.items()}


def write(folder, state, name="pytorch_lora_weights.safetensors", config=None, metadata=None):
    folder.mkdir(exist_ok=True, parents=True)
    save_file(state, folder / name, metadata=metadata)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / name


@pytest.fixture(scope="module")
def params():
    return random_params(DIT)


def torch_kernels(module, tree):
    """{diffusers' name: the kernel in torch's order of axes}."""
    flat = parameters.flatten(tree)
    kernels = {}
    for name, step in lora.linear_layers(module).items():
        leaf = flat[step.target]
        kernels[name] = step.rule.op.save(np.asarray(leaf if step.index is None else leaf[step.index]))
    return kernels


SPELLINGS = {
    "diffusers": {},
    "bare": {"prefix": ""},
    "PEFT": {"prefix": "base_model.model."},
    "PEFT of a pipeline's": {"prefix": "base_model.model.transformer."},
    "an adapter's name": {"down": "lora_A.default", "up": "lora_B.default"},
    "older": {"down": "lora.down", "up": "lora.up"},
    "oldest": {"down": "lora_linear_layer.down", "up": "lora_linear_layer.up"},
    "down and up": {"down": "lora_down", "up": "lora_up"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_read(spelling, tmp_path):
    halves = draw(BLOCKS)
    path = write(tmp_path, spelled(halves, **SPELLINGS[spelling]))
    update = lora.read(path)
    assert update.file == path.name and len(update.sha256) == 64 and set(update.layers) == set(BLOCKS)
    for name, (down, up) in halves.items():
        np.testing.assert_array_equal(update.layers[name].down, down)
        np.testing.assert_array_equal(update.layers[name].up, up)
        assert update.layers[name].scale == 1.0
    assert lora.read(tmp_path).sha256 == update.sha256


def test_attention_processors_of_earlier_diffusers_are_read(tmp_path):
    halves = {f"transformer_blocks.0.attn1.{part}": pair for part, pair in draw({"to_q": (32, 32)}).items()}
    pair = next(iter(halves.values()))
    state = {}
    for part in ("to_q", "to_out"):
        for half, value in zip(("down", "up"), pair, strict=True):
            state[f"transformer_blocks.0.attn1.processor.{part}_lora.{half}.weight"] = value
    assert set(lora.read(write(tmp_path, state)).layers) == {Q, "transformer_blocks.0.attn1.to_out.0"}


def test_a_file_of_torch_is_read_without_torch(tmp_path):
    halves = draw(BLOCKS)
    torch_files.zipped(tmp_path / "adapter_model.bin", spelled(halves, prefix="base_model.model."))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8}))
    for given in (tmp_path, torch_files.legacy(tmp_path / "mine.pt", spelled(halves))):
        update = lora.read(given)
        np.testing.assert_array_equal(update.layers[UP].up, halves[UP][1])
        assert update.layers[Q].scale == (4.0 if given == tmp_path else 1.0)


@pytest.mark.parametrize(
    ("config", "of_q", "of_up"),
    [
        ({"r": 2, "lora_alpha": 8}, 4.0, 4.0),
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5, 8 / 2**0.5),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 1}}, 0.5, 4.0),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"^transformer_blocks.2.ff.net.0.proj": 3}}, 4.0, 1.5),
        ({"r": 9, "rank_pattern": {".*": 2}}, 1.0, 1.0),
    ],
)
def test_alpha_over_rank_is_the_scale(config, of_q, of_up, tmp_path):
    state = spelled(draw(BLOCKS), prefix="base_model.model.")
    beside = write(tmp_path / "a", state, "adapter_model.safetensors", config=config)
    text = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    header = write(tmp_path / "b", state, metadata={"format": "pt", "lora_adapter_metadata": text})
    for path in (beside, beside.parent, header):
        layers = lora.read(path).layers
        assert (layers[Q].scale, layers[UP].scale) == pytest.approx((of_q, of_up))


def test_alpha_beside_the_matrices_is_the_scale(tmp_path):
    state = spelled(draw(BLOCKS)) | {f"transformer.{Q}.alpha": np.array(1.0, np.float32)}
    layers = lora.read(write(tmp_path, state)).layers
    assert (layers[Q].scale, layers[UP].scale) == (0.5, 1.0)


def test_merged_is_the_sum_for_every_kind_of_layer(params, tmp_path):
    """Compared in torch's order of axes: W + 0.5 * 3 / 2 * B A + -2 * B' A'."""
    first, second = draw(BLOCKS | OTHERS), draw({Q: (32, 32), "proj_out": (32, 16)}, rank=5, seed=1)
    alphas = {f"transformer.{name}.alpha": np.array([3.0], np.float32) for name in first}
    updates = [
        lora.read(write(tmp_path / "a", spelled(first) | alphas)),
        lora.read(write(tmp_path / "b", spelled(second))),
    ]
    before = jax.tree.map(np.copy, params)
    merged = lora.merge(DIT, params, updates, [0.5, -2.0])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    expected = torch_kernels(DIT, params)
    for halves, factor in ((first, 0.75), (second, -2.0)):
        for name, (down, up) in halves.items():
            delta = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            expected[name] = expected[name] + factor * delta.reshape(expected[name].shape)
    for name, kernel in torch_kernels(DIT, merged).items():
        np.testing.assert_allclose(kernel, expected[name], atol=2e-6, err_msg=name)
    kernels = {step.target for step in lora.linear_layers(DIT).values()}
    for path, leaf in parameters.flatten(merged).items():
        if path not in kernels:
            np.testing.assert_array_equal(leaf, parameters.flatten(params)[path])


@functools.cache
def inputs(module):
    rng = np.random.default_rng(2)
    latents = rng.normal(size=(1, 3, 8, 8, module.in_channels)).astype(np.float32)
    return latents, jnp.array([400]), rng.normal(size=(1, 6, 12)).astype(np.float32)


def test_merged_and_apart_predict_the_same(params, tmp_path):
    first, second = draw(BLOCKS), draw({Q: (32, 32)}, rank=3, seed=1)
    updates = [lora.read(write(tmp_path / name, spelled(one))) for name, one in (("a", first), ("b", second))]
    merged = lora.merge(DIT, params, updates, [0.5, 1.5])
    module, tree = lora.apart(DIT, params, updates, [0.5, 1.5])
    assert module.lora_rank == 5 and set(module.lora_targets) == {"attention/q", "attention/o", "mlp_up", "mlp_down"}
    assert all(tree[name] is params[name] for name in params)
    base, into, beside = (
        np.asarray(one.apply({"params": of}, *inputs(DIT)))
        for one, of in ((DIT, params), (DIT, merged), (module, tree))
    )
    np.testing.assert_allclose(beside, into, atol=2e-5 * np.abs(into).max())
    assert np.abs(into - base).max() > 1e-2 * np.abs(base).max()
    # Each of the two matters.
    alone = DIT.apply({"params": lora.merge(DIT, params, updates[:1], [0.5])}, *inputs(DIT))
    assert np.abs(np.asarray(alone) - into).max() > 1e-3 * np.abs(base).max()
    assert lora.apart(DIT, params, []) == (DIT, params)


def test_bfloat16_weights_are_summed_in_float32_and_stay_bfloat16(params, tmp_path):
    stored = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
    halves = {name: tuple(x.astype(ml_dtypes.bfloat16) for x in pair) for name, pair in draw(BLOCKS).items()}
    update = lora.read(write(tmp_path, spelled(halves)))
    merged = lora.merge(DIT, stored, [update], [0.3])
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {np.dtype(ml_dtypes.bfloat16)}
    down, up = (half.astype(np.float32) for half in halves[Q])
    exact = stored["blocks"]["attention"]["q"]["kernel"][0].astype(np.float32) + np.float32(0.3) * (up @ down).T
    found = merged["blocks"]["attention"]["q"]["kernel"][0].astype(np.float32)
    np.testing.assert_allclose(found, exact, rtol=2**-8)
    large = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    with pytest.raises(ConvertError, match=r"blocks/attention/q/kernel with its updates is too large for float16"):
        lora.merge(DIT, large, [update], [1e6])
    with pytest.raises(ConvertError, match="not finite: take a smaller weight"):
        lora.merge(DIT, params, [update], [1e39])


def test_how_much_is_covered_is_told(tmp_path):
    alpha = {f"transformer.{Q}.alpha": np.array(1.0, np.float32)}
    update = lora.read(write(tmp_path, spelled(draw(BLOCKS)) | alpha, "mine.safetensors"))
    assert len(lora.linear_layers(DIT)) == 3 * 8 + 6
    assert lora.coverage(DIT, update) == "mine.safetensors: 4 of 30 Linear layers, rank 2, scale 0.5 to 1"


A, B = f"transformer.{Q}.lora_A.weight", f"transformer.{Q}.lora_B.weight"
ROW = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"transformer.{Q}.lora_magnitude_vector": ROW}, "lora_magnitude_vector, of DoRA, which scales whole rows"),
        ({f"transformer.{Q}.dora_scale": ROW}, "dora_scale, of DoRA"),
        ({f"transformer.{Q}.lora_B.bias": ROW}, "lora_B.bias, an update of a bias"),
        ({"text_encoder.layer.0.q.lora_A.weight": ROW}, "text_encoder.layer.0.q.lora_A.weight, an update of the text"),
        ({f"transformer.{Q}.lokr_w1": ROW}, "lokr_w1, of another kind of update than LoRA"),
        ({"lora_unet_blocks_0.lora_down.weight": ROW}, "a name with its dots lost"),
        (
            {f"transformer.{Q}.weight": ROW},
            r"to_q.weight, which is no part of a low-rank update; expected lora_A, lora_B",
        ),
        ({f"{Q}.lora_A.weight": np.zeros((2, 32), np.float32)}, f"has down of {Q} twice"),
        ({B: None}, f"{Q} has down and no up: copy the file again"),
        (
            {B: np.zeros((32, 3), np.float32)},
            r"halves \[2, 32\] and \[32, 3\], expected \[rank, in\] and \[out, rank\]",
        ),
        ({A: np.full((2, 32), np.nan, np.float32)}, "is not finite in 64 places"),
        ({f"{Q}.alpha": ROW}, r"alpha of shape \[2\], expected one number"),
    ],
)
def test_what_is_no_low_rank_update_is_refused_by_name(changes, message, tmp_path):
    state = spelled(draw(BLOCKS)) | changes
    path = write(tmp_path, {name: value for name, value in state.items() if value is not None})
    with pytest.raises(ConvertError, match=message) as caught:
        lora.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'; supported: 'LORA'"),
        ({"use_dora": True}, "use_dora=True; supported: False"),
        ({"bias": "all"}, "bias='all'; supported: 'none'"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save="),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base too"),
        ({"r": 4, "lora_alpha": 4}, "is of rank 2, its settings say 4: they are of another file"),
        ({"lora_alpha": "8"}, "lora_alpha='8' for"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern of the LoRA is no table of names"),
        ({"rank_pattern": [1]}, "rank_pattern of the LoRA is no table of names"),
    ],
)
def test_settings_that_are_not_supported_are_refused(config, message, tmp_path):
    path = write(tmp_path, spelled(draw(BLOCKS)), "adapter_model.safetensors", config=config)
    with pytest.raises(ConvertError, match=message) as caught:
        lora.read(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(
        ConvertError, match=r"is no LoRA: expected a file, or a folder with one of pytorch_lora_weights"
    ):
        lora.read(tmp_path)
    write(tmp_path, spelled(draw(BLOCKS)))
    write(tmp_path, spelled(draw(BLOCKS)), "adapter_model.safetensors")
    with pytest.raises(ConvertError, match="is no LoRA"):
        lora.read(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "adapter_model.safetensors").read_bytes()[:-9])
    with pytest.raises(ConvertError, match="damaged or cut off"):
        lora.read(tmp_path / "cut.safetensors")
    bad = write(tmp_path, spelled(draw(BLOCKS)), "bad.safetensors", metadata={"lora_adapter_metadata": "["})
    with pytest.raises(ConvertError, match="in its header is not json"):
        lora.read(bad)


def test_another_models_update_is_refused(params, tmp_path):
    deeper = lora.read(write(tmp_path / "a", spelled(draw(BLOCKS | {"transformer_blocks.9.attn1.to_q": (32, 32)}))))
    wider = lora.read(write(tmp_path / "b", spelled(draw({Q: (48, 32)}))))
    image = lora.read(write(tmp_path / "c", spelled(draw({"patch_embed.proj": ((8, 2, 2), 32)}))))
    for update, message in (
        (deeper, r"updates 1 layers that this transformer of 3 blocks lacks, such as transformer_blocks.9.attn1.to_q"),
        (wider, rf"updates {Q} of the size \[32, 48\], this transformer has \[32, 32\]: it is another model's"),
        (image, r"updates patch_embed.proj of the size \[32, 8, 2, 2\], this transformer has \[32, 4, 2, 2\]"),
    ):
        for use in (lora.merge, lora.apart):
            with pytest.raises(ConvertError, match=message):
                use(DIT, params, [update])
    outside = lora.read(write(tmp_path / "d", spelled(draw(OTHERS))))
    with pytest.raises(ConvertError, match=r"the update of .* cannot be kept apart, only those of blocks/attention/k"):
        lora.apart(DIT, params, [outside])
    with pytest.raises(ConvertError, match="1 updates and 2 weights"):
        lora.merge(DIT, params, [outside], [1, 2])
    module, tree = lora.apart(DIT, params, [lora.read(write(tmp_path / "e", spelled(draw(BLOCKS))))])
    with pytest.raises(ConvertError, match=r"low-rank updates of its own \(lora_rank=2\): merge the LoRA"):
        lora.apart(module, tree, [outside])


def test_trained_updates_are_exported_and_read_back(tmp_path):
    module = DIT.clone(lora_rank=3, lora_targets=("attention/k", "mlp_down"), control_depth=2, lora_in_branch=True)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs(DIT))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    said = []
    path = lora.export(module, params, tmp_path / "mine", said.append)
    assert path.name == "pytorch_lora_weights.safetensors" and len(said) == 1 and "control branch" in said[0]
    state = load_file(path)
    assert len(state) == 2 * 3 * 2 and state[f"transformer.{DOWN}.lora_A.weight"].shape == (3, 128)
    bare = DIT.clone(control_depth=2)
    base = {name: value for name, value in params.items() if name not in ("lora", "lora_branch")}
    again, tree = lora.apart(bare, base, [lora.read(path.parent)])
    assert (again.lora_rank, again.lora_targets) == (3, module.lora_targets)
    jax.tree.map(np.testing.assert_array_equal, tree["lora"], params["lora"])
    with pytest.raises(ConvertError, match="has no low-rank updates; its parameters are blocks, control"):
        lora.export(bare, base, tmp_path / "none")
    timed = {"attention_t": {"k": params["lora"]["attention"]["k"]}}
    with pytest.raises(ConvertError, match="the update of attention_t/k has no layer in diffusers"):
        lora.export(module, {"lora": timed}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.safetensors", 1.0), ("a.safetensors:0.5", 0.5), ("C:\\a.safetensors:-2", -2.0), ("a:1e-1", 0.1)],
)
def test_weights_are_given_behind_a_colon(text, expected):
    path, weight = lora.parse(text)
    assert weight == expected and text.startswith(path)


def test_weights_that_are_none_are_refused(tmp_path, monkeypatch):
    for text in ("a:b", "a:", "a:nan", ":2"):
        with pytest.raises(ConvertError, match=r"FILE or FILE:weight, such as my.safetensors:0.8; got"):
            lora.parse(text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").write_bytes(b"")
    assert lora.parse("a:2") == ("a:2", 1.0)


@pytest.mark.parametrize("kind", ["dit", "motionv2v"])
def test_folders_are_converted_with_updates_both_ways(kind, tmp_path):
    """A base of diffusers into a model folder, and a model folder into a base, with and without a control branch."""
    module = MODULES[kind]
    params, dit = random_params(module), module if isinstance(module, DiT) else module.dit
    source = convert.to_diffusers(module, params, tmp_path / "base", shard_size="60KB")
    given = [str(write(tmp_path / "lora", spelled(draw(BLOCKS | OTHERS)))) + ":0.5"]
    own = params if kind == "dit" else params["dit"]
    merged = lora.merge(dit, own, *lora.read_all(given))
    said = []
    folder = stream.convert(source, tmp_path / "ours", loras=given, say=said.append)
    assert any("10 of 30 Linear layers, rank 2, scale 1, weight 0.5" in line for line in said)
    found = parameters.unflatten(load_file(folder / "model.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, found["dit"], merged)
    written = json.loads((folder / "config.json").read_text())["weights"]["loras"]
    assert [(one["file"], one["weight"]) for one in written] == [("pytorch_lora_weights.safetensors", 0.5)]
    plain = stream.convert(source, tmp_path / "plain", say=said.append)
    back = stream.convert(plain, tmp_path / "back", loras=given, say=said.append)
    _, tree = convert.from_diffusers(back)
    jax.tree.map(np.testing.assert_array_equal, tree if kind == "dit" else tree["dit"], merged)


def test_the_launcher_merges_several(tmp_path):
    params = random_params(DIT)
    convert.to_diffusers(DIT, params, tmp_path / "base")
    for name, seed in (("a", 0), ("b", 1)):
        write(tmp_path / name, spelled(draw(BLOCKS, seed=seed)))
    arguments = ["--source=base", "--target=ours", "--lora=a:0.5", "--lora=b", "--verify"]
    child = launch("convert", *arguments, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("4 of 30 Linear layers") == 2 and "weight 0.5" in child.stdout
    merged = lora.merge(DIT, params, [lora.read(tmp_path / "a"), lora.read(tmp_path / "b")], [0.5, 1])
    found = parameters.unflatten(load_file(tmp_path / "ours" / "model.safetensors"))["dit"]
    jax.tree.map(np.testing.assert_array_equal, found, merged)
    convert.to_diffusers(MODULES["vae"], random_params(MODULES["vae"]), tmp_path / "vae")
    for source, given, message in (
        ("base", "nobody", "nobody is no LoRA"),
        ("base", "a:b", "FILE or FILE:weight"),
        ("vae", "a", "holds vae and no transformer, which is what a LoRA changes"),
    ):
        child = launch("convert", f"--source={source}", "--target=more", f"--lora={given}", cwd=tmp_path)
        assert child.returncode == 2 and message in child.stderr and len(child.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "more").exists()
