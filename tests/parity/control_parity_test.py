"""The control branch against the released code's wiring, rebuilt in torch from diffusers' own blocks and layers.

The modules hang on diffusers' model under the names of the released checkpoints, so that the rules of conversion carry
the weights over, as they do for files.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from motionv2v import convert
from motionv2v.convert import transformer
from motionv2v.methods import motionv2v
from motionv2v.methods.motionv2v import Conditioner
from motionv2v.models import dit
from motionv2v.models.denoiser import Denoiser
from motionv2v.models.dit import Control

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from diffusers.models.embeddings import CogVideoXPatchEmbed  # noqa: E402
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock  # noqa: E402
from dit_parity_test import (  # noqa: E402
    TEXT_LENGTH,
    TOLERANCE,
    arrays,
    diffusers_model,
    load,
    pipeline_rope,
    randomise,
    relative_error,
    to_torch,
)
from torch import nn  # noqa: E402

WIDTH = 128
BRANCH_CLASS = transformer.CLASS + motionv2v.LAYOUTS[0].suffix


def released_model(kind, depth, second_channels=None, **changes):
    """Give diffusers' model the branch of Diffusion-as-Shader, and MotionV2V's own patch embedding if asked for."""
    model = diffusers_model(kind, **changes)
    blocks = [CogVideoXBlock(WIDTH, 2, 64, 24, attention_bias=True) for _ in range(depth)]
    model.transformer_blocks_copy = nn.ModuleList(blocks)
    model.initial_combine_linear = nn.Linear(WIDTH, WIDTH)
    model.combine_linears = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])
    if second_channels:
        embed = {"use_positional_embeddings": False, "use_learned_positional_embeddings": False}
        model.second_patch_embed = CogVideoXPatchEmbed(2, None, second_channels, WIDTH, 20, **embed)
    return randomise(model)


def forward(model, xt, maps, text, timestep, wiring="chained"):
    """Run the base model with the branch beside it, block by block, as the released code's forward does."""
    rope = pipeline_rope(model, xt.shape[:-1])
    xt, maps, text = (x.to(model.dtype) for x in (to_torch(xt), to_torch(maps), torch.from_numpy(text)))
    batch, frames, _, height, width = xt.shape
    length = text.shape[1]
    time = model.time_embedding(model.time_proj(torch.from_numpy(timestep)).to(model.dtype))
    joined = model.patch_embed(text, xt)
    e, h = joined[:, :length], joined[:, length:]
    embed = getattr(model, "second_patch_embed", model.patch_embed)
    k = model.initial_combine_linear(h + embed(text, maps)[:, length:])
    for i, main in enumerate(model.transformer_blocks):
        h, e = main(h, e, time, rope)
        if i < len(model.transformer_blocks_copy):
            k, _ = model.transformer_blocks_copy[i](k, e, time, rope)
            out = model.combine_linears[i](k)
            h = h + out
            k = out if wiring == "chained" else k
    h = model.proj_out(model.norm_out(model.norm_final(h), temb=time))
    h = h.reshape(batch, frames, height // 2, width // 2, -1, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return h.flatten(5, 6).flatten(3, 4).detach().float().numpy().transpose(0, 1, 3, 4, 2)


def draw(shape, channels, text_length):
    rng = np.random.default_rng(2)
    xt, maps = (rng.normal(size=(*shape, count)).astype(np.float32) for count in channels)
    text = rng.normal(size=(shape[0], text_length, 20)).astype(np.float32)
    return xt, maps, text, np.array([500, 3])[: shape[0]]


def our_dit(model, depth):
    config = {**model.config, "_class_name": BRANCH_CLASS, "num_tracking_blocks": depth}
    return transformer.from_config(config)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 1, 8, 12)])
@pytest.mark.parametrize(
    ("kind", "depth", "wiring"),
    [("5B-I2V", 2, "chained"), ("5B", 3, "chained"), ("5B", 2, "side"), ("2B", 2, "chained")],
)
def test_shader_branch_matches_replica(kind, depth, wiring, shape):
    """Tracks pass the main branch's patch embedding, its learned or computed positions included."""
    model = released_model(kind, depth)
    channels = model.config.in_channels
    xt, maps, text, timestep = draw(shape, (channels, channels), TEXT_LENGTH)
    expected = forward(model, xt, maps, text, timestep, wiring)
    ours = our_dit(model, depth)
    params = load(transformer.rules(ours, "shader"), arrays(model))
    ours = ours.clone(control_wiring=wiring)
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text, Control(latents=maps))
    assert relative_error(out, expected) <= TOLERANCE
    # The branch matters: without it the result is another one.
    base = ours.clone(control_depth=0).apply({"params": dit.base_params(params)}, xt, jnp.asarray(timestep), text)
    assert relative_error(base, expected) > 0.01


def test_bfloat16_branch_is_as_good_as_the_replica():
    """As for the model without a branch: our bfloat16 may err twice as much as that of torch."""
    model = released_model("5B-I2V", 2)
    xt, maps, text, timestep = draw((2, 3, 8, 12), (8, 8), TEXT_LENGTH)
    exact = forward(model, xt, maps, text, timestep)
    ours = our_dit(model, 2).clone(dtype=jnp.bfloat16)
    params = load(transformer.rules(ours, "shader"), arrays(model))
    out = ours.apply({"params": params}, xt, jnp.asarray(timestep), text, Control(latents=maps))
    rounded = forward(model.to(torch.bfloat16), xt, maps, text, timestep)
    assert 0 < relative_error(out, exact) <= 2 * relative_error(rounded, exact)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 1, 4, 10)])
def test_motionv2v_branch_matches_replica(shape):
    """[target tracks | source tracks | source video], each a clip's latents and its first frame's, zero elsewhere."""
    # Twice the model's latents enter it: the noisy ones, and an image's (32 = 16 + 16 as released, here 8 = 4 + 4).
    model = released_model("5B", 2, 24)
    model.patch_embed.proj = randomise(nn.Conv2d(8, WIDTH, 2, 2))
    model.register_to_config(in_channels=8)
    xt, maps, text, timestep = draw(shape, (8, 24), 7)
    names = ("target_tracks", "source_tracks", "source_video")
    videos = {}
    for i, name in enumerate(names):
        maps[:, 1:, ..., 8 * i + 4 : 8 * i + 8] = 0.0
        videos[name], videos[f"{name}_first"] = maps[..., 8 * i : 8 * i + 4], maps[:, :1, ..., 8 * i + 4 : 8 * i + 8]
    expected = forward(model, xt, maps, text, timestep)

    ours = our_dit(model, 2)
    state = arrays(model)
    params = load(transformer.rules(ours, transformer.detect_layout(state)), state)
    denoiser = Denoiser(ours, Conditioner(ours.width, ours.patch_size, first_frame_latents=True))
    out = denoiser.apply({"params": params}, xt, jnp.asarray(timestep), text, {"videos": videos})
    assert relative_error(out, expected) <= TOLERANCE
    # The order of the streams matters, and the first frames do.
    swapped = {**videos, "source_tracks": videos["target_tracks"], "target_tracks": videos["source_tracks"]}
    later = {**videos, "source_video_first": np.zeros_like(videos["source_video_first"])}
    for other in (swapped, later):
        out = denoiser.apply({"params": params}, xt, jnp.asarray(timestep), text, {"videos": other})
        assert relative_error(out, expected) > 1e-3


def trained_model():
    """MotionV2V's model while it trains: I2V's class and settings, with text-to-video weights and a branch beside them.

    I2V's channels of an image are zeros, and the learned positions of both patch embeddings are switched off after the
    model was built; what is saved still has I2V's settings, and both tables.
    """
    model = released_model("5B-I2V", 2, second_channels=24, out_channels=4)
    embed = {"use_positional_embeddings": False, "use_learned_positional_embeddings": True}
    sizes = {"sample_width": 12, "sample_height": 8, "sample_frames": 9, "max_text_seq_length": TEXT_LENGTH}
    model.second_patch_embed = randomise(CogVideoXPatchEmbed(2, None, 24, WIDTH, 20, **embed, **sizes))
    with torch.no_grad():
        model.patch_embed.proj.weight[:, 4:] = 0.0
    for embed in (model.patch_embed, model.second_patch_embed):
        embed.use_learned_positional_embeddings = embed.use_positional_embeddings = False
    return model.eval()


def save_trained(model, folder):
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["use_learned_positional_embeddings"] and config["in_channels"] == 8
    config |= {"_class_name": f"Original{BRANCH_CLASS}", "num_tracking_blocks": 2}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 2, 4, 10)])
def test_checkpoint_as_motionv2vs_training_saves_it(shape, tmp_path):
    """Without the tables and the image's channels, whatever the image, the prediction is the released code's."""
    model = trained_model()
    save_trained(model, tmp_path)
    names = {f"{embed}.pos_embedding" for embed in ("patch_embed", "second_patch_embed")}
    assert names <= set(model.state_dict())
    notices = []
    denoiser, params = convert.from_diffusers(tmp_path, notify=notices.append)
    assert len(notices) == 1 and "4 input channels of zeros" in notices[0] and all(name in notices[0] for name in names)
    assert (denoiser.dit.in_channels, denoiser.dit.positions) == (4, "rope")
    xt, maps, text, timestep = draw(shape, (8, 24), TEXT_LENGTH)
    videos = {}
    for i, name in enumerate(motionv2v.STREAMS):
        maps[:, 1:, ..., 8 * i + 4 : 8 * i + 8] = 0.0
        videos[name], videos[f"{name}_first"] = maps[..., 8 * i : 8 * i + 4], maps[:, :1, ..., 8 * i + 4 : 8 * i + 8]
    out = denoiser.apply({"params": params}, xt[..., :4], jnp.asarray(timestep), text, {"videos": videos})
    assert relative_error(out, forward(model, xt, maps, text, timestep)) <= TOLERANCE
    # With its tables the model would be another one, so that it matters that they are left out.
    if shape[2:] == (8, 12):
        model.patch_embed.use_learned_positional_embeddings = True
        assert relative_error(out, forward(model, xt, maps, text, timestep)) > 0.01


def test_channels_that_are_not_zero_stay(tmp_path):
    """With one number of the image's channels off zero the model reads an image, and the tables may be in use."""
    model = trained_model()
    with torch.no_grad():
        model.patch_embed.proj.weight[5, 6, 1, 0] = 1e-6
    save_trained(model, tmp_path)
    with pytest.raises(convert.ConvertError, match="is supported with positions='rope'"):
        convert.from_diffusers(tmp_path)
    # The same without tables has a place here, image channels and all.
    del model.patch_embed.pos_embedding, model.second_patch_embed.pos_embedding
    save_trained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_learned_positional_embeddings": False}))
    notices = []
    denoiser, params = convert.from_diffusers(tmp_path, notify=notices.append)
    assert denoiser.dit.in_channels == 8 and notices == []
    kernel = params["dit"]["patch_embed"]["kernel"].reshape(2, 2, 8, WIDTH)
    assert kernel[1, 0, 6, 5] == np.float32(1e-6) and not kernel[:, :, 7].any()
