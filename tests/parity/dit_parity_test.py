"""The transformer against diffusers' CogVideoXTransformer3DModel and pipelines on shared random weights."""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v.convert import transformer
from motionv2v.convert.rules import expand
from motionv2v.models import positions
from motionv2v.models.dit import Control

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from diffusers import (  # noqa: E402
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

# Both sides round the angles of timestep 999 in float32, where numbers are 6e-5 apart, each in its own way; with three
# blocks of differently ordered sums the results come out up to 8e-6 apart.
TOLERANCE = 1e-5
TEXT_LENGTH = 9
# What tells the published models apart; the sizes are small, 4 latent channels and 3 of output unless an image joins.
KINDS = {
    "2B": {},
    "5B": {"use_rotary_positional_embeddings": True},
    "5B-I2V": {
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
        "in_channels": 8,
    },
    "1.5-5B": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
    "1.5-5B-I2V": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "ofs_embed_dim": 24,
        "in_channels": 8,
    },
}
# Latents: frames, height, width, for a model made for 3x8x12. The learned table fits one height and width only.
SHAPES = {
    "2B": [(2, 3, 8, 12), (2, 1, 4, 10), (1, 4, 12, 6)],
    "5B": [(2, 3, 8, 12), (2, 1, 4, 10), (1, 4, 12, 6)],
    "5B-I2V": [(2, 3, 8, 12), (2, 1, 8, 12)],
    "1.5-5B": [(2, 4, 8, 12), (1, 2, 4, 10), (2, 4, 6, 4)],
    "1.5-5B-I2V": [(2, 4, 8, 12), (1, 2, 4, 10)],
}


def load(table, state):
    """Turn a dict of torch's arrays into our tree; every tensor and every layer must be there."""
    leaves, used = {}, set()
    for step in expand(table):
        assert step.source not in used, f"{step.source} is taken twice"
        used.add(step.source)
        if step.target:
            layers = leaves.setdefault(step.target, [])
            assert step.index in (None, len(layers)), step
            layers.append(step.rule.op.load(state[step.source]))
            assert step.index is not None or len(layers) == 1, f"{step.target} is given twice"
    assert used == set(state), used ^ set(state)
    depths = {rule.target: rule.depth for rule in table}
    tree = {}
    for path, layers in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = np.stack(layers) if depths[path] else layers[0]
    return tree


def save(table, tree):
    """Turn our tree into a dict of torch's arrays; every leaf must be used."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in paths}
    assert {rule.target for rule in table if rule.target} == set(leaves)
    state = {}
    for step in expand(table):
        if step.target:
            leaf = leaves[step.target]
            state[step.source] = step.rule.op.save(leaf if step.index is None else leaf[step.index])
        else:
            state[step.source] = step.rule.fill(leaves)
    return state


def randomise(module):
    """Give every parameter, and the learned positions, a random value; scales near 1, everything else small."""
    generator = torch.Generator().manual_seed(0)
    kept = dict(module.named_parameters())
    kept |= {name: value for name, value in module.named_buffers() if name in module.state_dict()}
    with torch.no_grad():
        for name, parameter in kept.items():
            parameter.normal_(0.0, 0.15, generator=generator)
            if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
                parameter.add_(1.0)
    # The table of positions is made in float64.
    return module.float().eval()


def arrays(module):
    """Return a torch module's state dict as numpy arrays."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def diffusers_model(kind, head_dim=64, **changes):
    settings = {
        "in_channels": 4,
        "out_channels": 3,
        "use_rotary_positional_embeddings": False,
        **KINDS[kind],
        **changes,
    }
    return randomise(
        CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=head_dim,
            time_embed_dim=24,
            text_embed_dim=20,
            num_layers=3,
            sample_width=12,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=TEXT_LENGTH,
            spatial_interpolation_scale=1.5,
            temporal_interpolation_scale=1.25,
            **settings,
        )
    )


def both(kind, head_dim=64, **settings):
    """Build diffusers' model and ours with the same random weights."""
    theirs = diffusers_model(kind, head_dim)
    ours = transformer.from_config(dict(theirs.config)).clone(**settings)
    return theirs, ours, load(transformer.rules(ours), arrays(theirs))


def pipeline_rope(theirs, shape):
    """Compute the rotations as the pipeline that runs a model does, for latents of a shape."""
    if not theirs.config.use_rotary_positional_embeddings:
        return None
    pipeline = CogVideoXImageToVideoPipeline if theirs.config.in_channels == 8 else CogVideoXPipeline
    parts = SimpleNamespace(vae_scale_factor_spatial=8, transformer=theirs)
    _, frames, height, width = shape
    return pipeline._prepare_rotary_positional_embeddings(parts, 8 * height, 8 * width, frames, "cpu")


def to_torch(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 1, 4, 2, 3))


def inputs(theirs, shape):
    """Draw latents, text and times for a batch; only RoPE alone takes text of other lengths than the longest."""
    rng = np.random.default_rng(1)
    config = theirs.config
    alone = config.use_rotary_positional_embeddings and not config.use_learned_positional_embeddings
    xt = rng.normal(size=(*shape, config.in_channels)).astype(np.float32)
    text = rng.normal(size=(shape[0], 7 if alone else TEXT_LENGTH, 20)).astype(np.float32)
    return xt, np.array([999, 12])[: shape[0]], text


def run_diffusers(theirs, xt, timestep, text, dtype=torch.float32):
    with torch.no_grad():
        out = theirs(
            to_torch(xt).to(dtype),
            torch.from_numpy(text).to(dtype),
            torch.from_numpy(timestep),
            ofs=torch.full((1,), 2.0, dtype=dtype) if theirs.config.ofs_embed_dim else None,
            image_rotary_emb=pipeline_rope(theirs, xt.shape[:-1]),
        ).sample
    return out.float().numpy().transpose(0, 1, 3, 4, 2)


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float32) - expected) / np.linalg.norm(expected)


CASES = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_dit_matches_diffusers(kind, shape):
    """Batches, single frames, and grids that are neither square nor the size that the model was made for."""
    theirs, ours, params = both(kind)
    xt, timestep, text = inputs(theirs, shape)
    expected = run_diffusers(theirs, xt, timestep, text)
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert out.shape == (*shape, 3)
    assert relative_error(out, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "head_dim", "settings"),
    [("5B", 32, {"attention_implementation": "chunked"}), ("2B", 64, {"scan_unroll": True})],
)
def test_speed_settings_match_diffusers(kind, head_dim, settings):
    theirs, ours, params = both(kind, head_dim, **settings)
    xt, timestep, text = inputs(theirs, (2, 4, 12, 6))
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert relative_error(out, run_diffusers(theirs, xt, timestep, text)) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_as_good_as_diffusers(kind):
    """Against diffusers in float32 our bfloat16 may err twice as much as its own: both round, in other places."""
    theirs, ours, params = both(kind, dtype=jnp.bfloat16)
    xt, timestep, text = inputs(theirs, SHAPES[kind][0])
    exact = run_diffusers(theirs, xt, timestep, text)
    rounded = run_diffusers(copy.deepcopy(theirs).to(torch.bfloat16), xt, timestep, text, torch.bfloat16)
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert out.dtype == jnp.bfloat16
    error, allowed = relative_error(out, exact), 2 * relative_error(rounded, exact)
    assert 0 < error <= allowed


def test_ofs_and_positions_matter():
    """The parts that only some models have change the result by more than the tolerance."""
    theirs, ours, params = both("1.5-5B-I2V")
    xt, timestep, text = inputs(theirs, (2, 4, 8, 12))
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert relative_error(ours.apply({"params": params}, xt, jnp.asarray(timestep), text, ofs=3.0), out) > 1e-3
    theirs, ours, params = both("5B-I2V")
    xt, timestep, text = inputs(theirs, (2, 3, 8, 12))
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    plain = {**params, "position_table": np.zeros_like(params["position_table"])}
    assert relative_error(ours.apply({"params": plain}, xt, jnp.asarray(timestep), text), out) > 1e-3
    theirs, ours, params = both("5B")
    xt, timestep, text = inputs(theirs, (1, 4, 12, 6))
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text)
    whole = ours.clone(sample_size=None).apply({"params": params}, xt, jnp.asarray(timestep), text)
    assert relative_error(whole, out) > 1e-3


def test_learned_positions_of_another_size_are_an_error_in_both():
    theirs, ours, params = both("5B-I2V")
    xt, timestep, text = inputs(theirs, (1, 3, 8, 10))
    with pytest.raises(ValueError, match="different resolution"):
        run_diffusers(theirs, xt, timestep, text)
    with pytest.raises(ValueError, match=r"latents of 8x10 do not fit the learned positions, which are for 8x12 only"):
        ours.apply({"params": params}, xt, jnp.asarray(timestep), text)


# Patch rows and columns around the 5B model's own 30x45.
@pytest.mark.parametrize("grid", [(30, 45), (40, 40), (20, 45), (45, 30), (17, 60), (48, 85), (1, 1)])
@pytest.mark.parametrize("kind", ["5B", "1.5-5B"])
def test_rotations_match_pipeline_at_any_size(kind, grid):
    frames, patch_t, side = (13, 1, (60, 90)) if kind == "5B" else (22, 2, (96, 170))
    config = SimpleNamespace(
        patch_size=2, patch_size_t=None if kind == "5B" else 2, sample_height=side[0], sample_width=side[1]
    )
    config.attention_head_dim, config.in_channels, config.use_rotary_positional_embeddings = 64, 16, True
    theirs = SimpleNamespace(config=config)
    cosine, sine = pipeline_rope(theirs, (1, frames, 2 * grid[0], 2 * grid[1]))
    ours = positions.rope((frames // patch_t, *grid), 64, 3, (patch_t, 2, 2), (frames, *side))
    for table, expected in zip(ours, (cosine, sine), strict=True):
        # float32 positions up to 85 are 4e-6 apart, and linspace rounds a few times.
        np.testing.assert_allclose(np.asarray(table)[3:], expected.numpy()[:, ::2], atol=3e-5)


def pipeline_calls(theirs, kind, num_frames, size):
    """Run a diffusers pipeline for two steps and return what it gave the transformer and what it got back."""
    torch.manual_seed(0)
    names = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=4, **names
    )
    pipeline = CogVideoXImageToVideoPipeline if kind.endswith("I2V") else CogVideoXPipeline
    run = pipeline(None, None, vae.eval(), theirs, CogVideoXDDIMScheduler(prediction_type="v_prediction"))
    run.set_progress_bar_config(disable=True)
    calls = []
    handle = theirs.register_forward_hook(
        lambda module, args, given, out: calls.append((given, out[0])), with_kwargs=True
    )
    extra = {"image": torch.rand(1, 3, *size)} if kind.endswith("I2V") else {}
    run(
        **extra,
        prompt_embeds=torch.randn(1, TEXT_LENGTH, 20),
        guidance_scale=1.0,
        num_inference_steps=2,
        num_frames=num_frames,
        height=size[0],
        width=size[1],
        output_type="latent",
        max_sequence_length=TEXT_LENGTH,
    )
    handle.remove()
    return calls


@pytest.mark.parametrize(
    ("kind", "num_frames", "size"),
    [
        ("2B", 9, (48, 80)),
        ("5B", 5, (48, 80)),
        ("5B-I2V", 5, (64, 96)),
        ("1.5-5B", 9, (48, 80)),
        ("1.5-5B-I2V", 1, (48, 80)),
    ],
)
def test_model_answers_the_pipelines_calls(kind, num_frames, size):
    """What the real pipelines pass at unusual sizes and lengths, the image, `ofs` and extra frames included."""
    theirs = diffusers_model(kind)
    if theirs.config.out_channels != 4:
        # Sampling needs as many channels out as in.
        theirs = randomise(CogVideoXTransformer3DModel.from_config({**theirs.config, "out_channels": 4}))
    ours = transformer.from_config(dict(theirs.config))
    params = load(transformer.rules(ours), arrays(theirs))
    frames = (num_frames - 1) // 4 + 1
    calls = pipeline_calls(theirs, kind, num_frames, size)
    assert len(calls) == 2
    for given, expected in calls:
        latents = given["hidden_states"].numpy().transpose(0, 1, 3, 4, 2)
        assert latents.shape[1] == frames + positions.extra_frames(frames, ours.patch_size_t)
        control = Control(concat=latents[..., 4:]) if kind.endswith("I2V") else None
        out = ours.apply(
            {"params": params},
            latents[..., :4],
            jnp.asarray(given["timestep"].numpy()),
            given["encoder_hidden_states"].numpy(),
            control,
        )
        assert relative_error(out, expected.numpy().transpose(0, 1, 3, 4, 2)) <= TOLERANCE
