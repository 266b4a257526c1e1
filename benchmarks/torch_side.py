"""The other side of `against_diffusers.py`: the tiny model out of diffusers' and transformers' own modules, in PyTorch.

Sizes come from the same configs. The transformer, the autoencoder, the schedule and the sampler's step are diffusers',
the text encoder is transformers'. diffusers has no control branch of this kind, so one is built here from its
`CogVideoXBlock`; training steps and the edit are written around the modules as diffusers' own scripts and pipelines do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

STREAMS = ("target_tracks", "source_tracks", "source_video")


class ControlledTransformer(nn.Module):
    """A frozen `CogVideoXTransformer3DModel` with a trainable branch of copies of its blocks beside it."""

    def __init__(self, base: CogVideoXTransformer3DModel, depth: int, stream_channels: int, wiring: str):
        super().__init__()
        c = base.config
        width, patch = c.num_attention_heads * c.attention_head_dim, c.patch_size
        self.base, self.wiring = base.requires_grad_(False), wiring
        self.patch_embed = nn.Conv2d(stream_channels, width, patch, patch)
        self.zero_in = nn.Linear(width, width)
        sizes = (width, c.num_attention_heads, c.attention_head_dim, c.time_embed_dim)
        self.blocks = nn.ModuleList(CogVideoXBlock(*sizes, attention_bias=c.attention_bias) for _ in range(depth))
        self.zero_out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def branch(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, xt: Tensor, text: Tensor, timestep: Tensor, rope: Any, streams: Tensor) -> Tensor:
        """Predict v [B t z h w] from xt [B t z h w], text [B L C] and condition latents `streams` [B t 3z h w]."""
        base, length = self.base, text.shape[1]
        time = base.time_embedding(base.time_proj(timestep).to(xt.dtype))
        both = base.patch_embed(text, xt)
        text, video = both[:, :length], both[:, length:]
        tokens = self.patch_embed(streams.flatten(0, 1)).flatten(2).transpose(1, 2).reshape(video.shape)
        stream = self.zero_in(video + tokens)
        for i, block in enumerate(base.transformer_blocks):
            video, text = block(video, text, time, rope)
            if i < len(self.blocks):
                stream, _ = self.blocks[i](stream, text, time, rope)
                out = self.zero_out[i](stream)
                video = video + out
                stream = out if self.wiring == "chained" else stream
        video = base.proj_out(base.norm_out(base.norm_final(video), temb=time))
        (batch, frames, _, height, width), patch = xt.shape, base.config.patch_size
        video = video.reshape(batch, frames, height // patch, width // patch, -1, patch, patch)
        return video.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames, -1, height, width)


class Trainer:
    """What `loop.make_train_step` does after the loss: backward, clipping by global norm, AdamW, moving average."""

    def __init__(self, parameters: Any, config: Any):
        self.parameters = list(parameters)
        options, self.clip_norm = config.optim, config.train.clip_norm
        # fused: the fastest of PyTorch's AdamW implementations on a CPU as well.
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=1e-4,
            betas=(options.b1, options.b2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.keep = config.train.ema_decay

    def step(self, loss: Tensor) -> Tensor:
        """Make one update and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - self.keep)
        return loss.detach()


def build_transformer(config: Any) -> CogVideoXTransformer3DModel:
    d, data = config.dit, config.data
    return CogVideoXTransformer3DModel(
        num_attention_heads=d.num_heads,
        attention_head_dim=d.head_dim,
        in_channels=config.vae.latent_channels,
        out_channels=config.vae.latent_channels,
        time_embed_dim=d.time_embed_dim,
        text_embed_dim=d.text_dim,
        num_layers=d.num_layers,
        sample_width=data.size[1] // 8,
        sample_height=data.size[0] // 8,
        sample_frames=data.num_frames,
        max_text_seq_length=d.text_length,
        use_rotary_positional_embeddings=d.positions == "rope",
    )


def build_text(config: Any) -> T5EncoderModel:
    t = config.text
    return T5EncoderModel(
        T5Config(
            vocab_size=t.vocab_size,
            d_model=t.width,
            d_kv=t.head_dim,
            d_ff=t.mlp_dim,
            num_layers=t.num_layers,
            num_heads=t.num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def build_vae(config: Any) -> AutoencoderKLCogVideoX:
    v = config.vae
    return AutoencoderKLCogVideoX(
        block_out_channels=tuple(v.block_channels),
        latent_channels=v.latent_channels,
        layers_per_block=v.layers_per_block,
        norm_num_groups=v.norm_groups,
    )


class TorchSide:
    """Everything that is timed, as methods by the row's name; `wrap` is `torch.compile` or nothing.

    Attributes:
        parameters: number of parameters by part.
    """

    def __init__(self, configs: dict[str, Any], inputs: dict[str, Any], wrap: Callable[[Any], Any] = lambda f: f):
        torch.manual_seed(0)
        self.configs, self.inputs = configs, inputs
        config = configs["control"]
        base, self.frozen_base = build_transformer(config), build_transformer(config)
        vae, text = build_vae(config), build_text(config)
        control = ControlledTransformer(
            self.frozen_base,
            config.dit.control_depth,
            len(STREAMS) * config.vae.latent_channels,
            config.dit.control_wiring,
        )
        self.trainers = {
            "base": Trainer([*base.parameters(), *text.parameters()], configs["base"]),
            "control": Trainer(control.branch(), config),
            "vae": Trainer(vae.parameters(), configs["vae"]),
        }
        self.parameters = {"autoencoder": _count(vae.parameters()), "text encoder": _count(text.parameters())}
        self.parameters |= {"transformer": _count(base.parameters()), "control branch": _count(control.branch())}
        self.base, self.control, self.text_encoder = wrap(base), wrap(control), wrap(text)
        self.vae_encode, self.vae_decode = wrap(vae.encode), wrap(vae.decode)
        self.scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=config.schedule.snr_shift_scale,
            timestep_spacing="trailing",
            clip_sample=False,
        )
        rows, columns = (s // 8 // 2 for s in config.data.size)
        frames = (config.data.num_frames - 1) // 4 + 1
        self.rope = get_3d_rotary_pos_embed(config.dit.head_dim, ((0, 0), (rows, columns)), (rows, columns), frames)

    def train_base(self) -> np.ndarray:
        """Make one step of the base and the text encoder from cached latents of either video of a pair."""
        x0, other = self._latents("target_latents"), self._latents("source_video_latents")
        x0 = torch.where(torch.rand(len(x0), 1, 1, 1, 1) < 0.5, x0, other)
        timestep = torch.randint(0, 1000, (len(x0),))
        text = self.text_encoder(self._tokens()).last_hidden_state
        predict = lambda *args: self.base(*args, image_rotary_emb=self.rope).sample  # noqa: E731
        return self._denoising_step("base", x0, timestep, text, predict)

    def train_control(self) -> np.ndarray:
        """Make one step of the branch beside the frozen base, from cached latents of all four videos."""
        x0, streams = self._latents("target_latents"), [self._latents(f"{name}_latents") for name in STREAMS]
        power = self.configs["control"].loss.power
        timestep = (1000 * (1 - torch.rand(len(x0)) ** power)).long().clamp(0, 999)
        with torch.no_grad():
            text = self.text_encoder(self._tokens()).last_hidden_state
        streams = torch.cat(streams, 2)
        predict = lambda xt, text, timestep: self.control(xt, text, timestep, self.rope, streams)  # noqa: E731
        return self._denoising_step("control", x0, timestep, text, predict)

    def _denoising_step(self, name: str, x0: Tensor, timestep: Tensor, text: Tensor, predict: Any) -> np.ndarray:
        eps = torch.randn_like(x0)
        prediction = predict(self.scheduler.add_noise(x0, eps, timestep), text, timestep)
        loss = nn.functional.mse_loss(prediction, self.scheduler.get_velocity(x0, eps, timestep))
        return self.trainers[name].step(loss).numpy()

    def train_vae(self) -> np.ndarray:
        """Make one step of the autoencoder: reconstruction by L1 and L2, and a light KL term."""
        video = self._video(self.inputs["vae_clips"])
        latents = self.vae_encode(video).latent_dist
        output = self.vae_decode(latents.sample()).sample
        error = output - video
        kl = 0.5 * (latents.mean.square() + latents.logvar.exp() - 1 - latents.logvar).mean()
        weights = self.configs["vae"].loss
        loss = weights.l1 * error.abs().mean() + weights.mse * error.square().mean() + weights.kl * kl
        return self.trainers["vae"].step(loss).numpy()

    @torch.no_grad()
    def encode(self) -> np.ndarray:
        """Encode clips to the mode of their latents [B t h w z]."""
        return self.vae_encode(self._video(self.inputs["vae_clips"])).latent_dist.mode().movedim(1, -1).numpy()

    @torch.no_grad()
    def decode(self) -> np.ndarray:
        """Decode latents to clips [B T H W 3]."""
        latents = torch.from_numpy(self.inputs["vae_latents"]).movedim(-1, 1)
        return self.vae_decode(latents).sample.clamp(-1, 1).movedim(1, -1).numpy()

    @torch.no_grad()
    def text(self) -> np.ndarray:
        """Encode a batch of captions."""
        return self.text_encoder(self._tokens()).last_hidden_state.numpy()

    @torch.no_grad()
    def edit(self) -> np.ndarray:
        """Edit one clip, from uint8 frames and tracks to uint8 frames: draw, encode, denoise, decode."""
        clip, config = self.inputs["clip"], self.configs["control"]
        frames = self._video(clip["source"][None])
        colors = torch.rand(len(clip["source_xy"]), 3)
        blobs = {
            side: draw_blobs(clip[f"{side}_xy"], clip[f"{side}_visible"], colors, config.data.size, config.method.sigma)
            for side in ("target", "source")
        }
        videos = torch.cat([blobs["target"], blobs["source"], frames])
        streams = self.vae_encode(videos).latent_dist.mode() * config.vae.scaling_factor
        streams = streams.permute(2, 0, 1, 3, 4).flatten(1, 2)[None]
        text = self.text_encoder(torch.from_numpy(self.inputs["prompt_tokens"]).long()).last_hidden_state
        x = torch.randn(1, streams.shape[1], config.vae.latent_channels, *streams.shape[3:])
        self.scheduler.set_timesteps(config.sample.num_steps)
        for timestep in self.scheduler.timesteps:
            v = self.control(x, text, timestep.expand(1), self.rope, streams)
            x = self.scheduler.step(v, timestep, x, return_dict=False)[0]
        video = self.vae_decode(x.transpose(1, 2) / config.vae.scaling_factor).sample.clamp(-1, 1)
        return ((video[0] + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()

    def _latents(self, name: str) -> Tensor:
        return torch.from_numpy(self.inputs["batch"][name]).float().permute(0, 1, 4, 2, 3)

    def _tokens(self) -> Tensor:
        return torch.from_numpy(self.inputs["batch"]["tokens"]).long()

    def _video(self, frames: np.ndarray) -> Tensor:
        return (torch.from_numpy(frames).float() / 127.5 - 1).movedim(-1, 1)


def draw_blobs(xy: np.ndarray, visible: np.ndarray, colors: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Draw tracks [N T 2] as Gaussian blobs, one over the other in track order: [1 3 T H W] in [-1, 1]."""
    places, shown = torch.from_numpy(xy), torch.from_numpy(visible)
    x, y = (torch.arange(n) + 0.5 for n in (size[1], size[0]))
    across = torch.exp(-((x - places[..., :1]) ** 2) / (2 * sigma**2)) * shown[..., None]
    down = torch.exp(-((y - places[..., 1:]) ** 2) / (2 * sigma**2))
    canvas = torch.zeros(3, xy.shape[1], *size)
    for n, color in enumerate(colors):
        canvas.lerp_(color[:, None, None, None], down[n, :, :, None] * across[n, :, None, :])
    return canvas[None] * 2 - 1


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)
