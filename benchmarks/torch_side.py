"""PyTorch's side: `python torch_side.py SIZE STEPS FOLDER [compile]`, told by `harness.Side` what to run.

The model out of diffusers' and transformers' own modules, on a GPU where there is one, eager or by torch.compile.
diffusers has no control branch of this kind: it is made of diffusers' blocks here. Training steps and samples are
written around the modules as diffusers' scripts and pipelines do: guidance is a batch of two; in bfloat16 masters are
in float32 under autocast, and every block is checkpointed. The networks' weights are saved in FOLDER for our side.
"""

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rows
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from harness import serve
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import T5Config, T5EncoderModel
from transformers.utils import logging

STREAMS = ("target_tracks", "source_tracks", "source_video")


class ControlledTransformer(nn.Module):
    """A frozen `CogVideoXTransformer3DModel` with a trainable branch of copies of its blocks beside it."""

    def __init__(self, base: CogVideoXTransformer3DModel, config: Any):
        super().__init__()
        c, depth = base.config, config.dit.control_depth
        width, patch = c.num_attention_heads * c.attention_head_dim, c.patch_size
        self.base, self.is_chained = base.requires_grad_(False), config.dit.control_wiring == "chained"
        self.patch_embed = nn.Conv2d(len(STREAMS) * config.vae.latent_channels, width, patch, patch)
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
                stream = out if self.is_chained else stream
        video = base.proj_out(base.norm_out(base.norm_final(video), temb=time))
        (batch, frames, _, height, width), patch = xt.shape, base.config.patch_size
        video = video.reshape(batch, frames, height // patch, width // patch, -1, patch, patch)
        return video.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames, -1, height, width)


class Trainer:
    """What `loop.make_train_step` does after the loss: backward, clipping by global norm, AdamW, moving average."""

    def __init__(self, weights: Any, config: Any):
        self._weights, self._clip_norm, self._keep = list(weights), config.train.clip_norm, config.train.ema_decay
        o = config.optim
        options = {"lr": 1e-4, "betas": (o.b1, o.b2), "eps": o.eps, "weight_decay": o.weight_decay}
        # fused: the fastest of PyTorch's AdamW implementations on a CPU as well.
        self._optimizer = torch.optim.AdamW(self._weights, fused=True, **options)
        self._average = [p.detach().clone() for p in self._weights]

    def step(self, loss: Tensor) -> Tensor:
        """Make one update and return the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, self._clip_norm, foreach=True)
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._weights, 1 - self._keep)
        return loss.detach()


def build_transformer(config: Any) -> CogVideoXTransformer3DModel:
    """Build diffusers' transformer with random weights."""
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
    """Build transformers' T5 encoder with random weights."""
    t = config.text
    sizes = {"d_model": t.width, "d_kv": t.head_dim, "d_ff": t.mlp_dim, "num_layers": t.num_layers}
    sizes |= {"num_heads": t.num_heads, "vocab_size": t.vocab_size}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0))


def build_vae(config: Any) -> AutoencoderKLCogVideoX:
    """Build diffusers' autoencoder with random weights."""
    v = config.vae
    sizes = {"block_out_channels": tuple(v.block_channels), "latent_channels": v.latent_channels}
    sizes |= {"layers_per_block": v.layers_per_block, "norm_num_groups": v.norm_groups}
    return AutoencoderKLCogVideoX(**sizes, scaling_factor=v.scaling_factor)


BUILDERS = {"vae": build_vae, "text_encoder": build_text, "transformer": build_transformer}


class TorchSide:
    """The modules, and a method for each kind of row, which returns what is timed."""

    def __init__(self, size: str, steps: int, folder: Path, wrap: Callable[[Any], Any] = lambda f: f):
        self.config, self.size, self.steps, self._wrap = rows.make_config(size), size, steps, wrap
        self.grid, self.channels = rows.latent_grid(self.config), self.config.vae.latent_channels
        self.wide_grid = rows.SIZES[size].grid or self.grid
        self._is_gpu = torch.cuda.is_available()
        self._device = "cuda" if self._is_gpu else "cpu"
        self._dtype = torch.bfloat16 if self.config.dit.dtype == "bfloat16" else torch.float32
        self._modules: dict[str, nn.Module] = {}
        if size != "5b":
            logging.disable_progress_bar()
            for name in BUILDERS:
                if not (folder / name).exists():
                    self._build(name).save_pretrained(folder / name)
        self._scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=self.config.schedule.snr_shift_scale,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    def about(self) -> dict[str, Any]:
        """Name the device and count parameters."""
        with torch.device("meta"):
            built = {name: build(self.config) for name, build in BUILDERS.items()}
            branch = ControlledTransformer(built["transformer"], self.config).branch()
        modules = {"vae": built["vae"], "text": built["text_encoder"], "transformer": built["transformer"]}
        count = {name: _count(module.parameters()) for name, module in modules.items()} | {"branch": _count(branch)}
        return {"device": torch.cuda.get_device_name() if self._is_gpu else "cpu", "parameters": count}

    def prepare(self, row: rows.Row) -> Callable[[], np.ndarray]:
        """Return the call that a row times."""
        if row.kind in ("train", "loss"):
            self._modules = {}  # masters in float32 are copies of their own
        call = getattr(self, row.kind)(*row.how)
        return call if row.kind == "train" else torch.no_grad()(call)

    def facts(self, row: rows.Row) -> dict[str, float]:
        """Return nothing: operations are counted on our side."""
        return {}

    def peak(self) -> dict[str, float]:
        """Return the peak of what torch has allocated on a GPU since it was last asked."""
        if not self._is_gpu:
            return {}
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return {"peak": float(peak)}

    def release(self) -> None:
        """Give back what is held for a row."""
        gc.collect()
        if self._is_gpu:
            torch.cuda.empty_cache()

    def _module(self, name: str) -> Any:
        """Return a module for inference, built when it is first asked for, the same in every process."""
        if name not in self._modules:
            self._modules[name] = self._build(name).requires_grad_(False).to(self._dtype).eval()
        return self._modules[name]

    def _build(self, name: str) -> Any:
        torch.manual_seed(0)
        # Where it is used: 8 billion numbers are drawn slowly, and need 32 GB, anywhere else.
        with torch.device(self._device):
            if name == "control":
                return ControlledTransformer(self._build("transformer").to(self._dtype), self.config)
            return BUILDERS[name](self.config)

    def _given(self, name: str, *shape: int, channels: int = -1) -> Tensor:
        """Return numbers that our side has too, with their last axis moved to `channels`."""
        tensor = torch.from_numpy(rows.normal(name, *shape)).movedim(-1, channels).contiguous()
        return tensor.to(self._device, self._dtype)

    def _text(self, count: int) -> Tensor:
        return self._given("text", count, self.config.data.text_length, self.config.dit.text_dim)

    def _tokens(self) -> Tensor:
        return torch.from_numpy(rows.tokens(self.config, rows.SIZES[self.size].batch)).long().to(self._device)

    def _videos(self, count: int) -> Tensor:
        videos = torch.from_numpy(rows.clips(self.config, count)).to(self._device)
        return (videos / 127.5 - 1).movedim(-1, 1).contiguous()

    def _rope(self, grid: tuple[int, int, int]) -> Any:
        sides = (grid[1] // 2, grid[2] // 2)
        tables = get_3d_rotary_pos_embed(self.config.dit.head_dim, ((0, 0), sides), sides, grid[0])
        return tuple(table.to(self._device) for table in tables)

    def product(self) -> Callable[[], np.ndarray]:
        """Multiply as a feed-forward layer does."""
        _, tokens, heads, depth = rows.attention_shape(self.config, self.wide_grid)
        width = heads * depth
        return self._call(torch.matmul, self._given("a", tokens, width), self._given("b", width, 4 * width))

    def attention(self) -> Callable[[], np.ndarray]:
        """Attend as one block does."""
        shape = rows.attention_shape(self.config, self.wide_grid)
        arrays = [self._given(name, *shape).transpose(1, 2).contiguous() for name in "qkv"]
        attend = nn.functional.scaled_dot_product_attention
        return self._call(lambda *given: attend(*given).transpose(1, 2), *arrays)

    def convolution(self, _: str) -> Callable[[], np.ndarray]:
        """Convolve as the decoder does at the clips' size."""
        frames, height, width, channels = rows.convolution_shape(self.config)
        x, before = (
            self._given(n, 1, t, height, width, channels, channels=1) for n, t in (("x", frames), ("before", 2))
        )
        kernel = self._given("kernel", 3, 3, 3, channels, channels).permute(4, 3, 0, 1, 2).contiguous()

        def convolve(x: Tensor, before: Tensor, kernel: Tensor) -> Tensor:
            return nn.functional.conv3d(torch.cat([before, x], 2), kernel, padding=(0, 1, 1)).movedim(1, -1)

        return self._call(convolve, x, before, kernel)

    def predict(self, *how: str) -> Callable[[], np.ndarray]:
        """Predict v once, latents to latents."""
        model = self._wrap(self._module("control"))
        base, rope, time = self._wrap(model.base), self._rope(self.wide_grid), torch.tensor([500], device=self._device)
        shape = (1, *self.wide_grid, self.channels)
        xt, text = self._given("xt", *shape, channels=2), self._text(1)
        if "control" not in how:
            return _array(lambda: base(xt, text, time, image_rotary_emb=rope).sample, 2)
        streams = torch.cat([self._given(name, *shape, channels=2) for name in STREAMS], 2)
        return _array(lambda: model(xt, text, time, rope, streams), 2)

    def encode(self) -> Callable[[], np.ndarray]:
        """Encode clips to their latents' mode."""
        encode, scale = self._wrap(self._module("vae").encode), self.config.vae.scaling_factor
        videos = self._videos(rows.SIZES[self.size].clips).to(self._dtype)
        return _array(lambda: encode(videos).latent_dist.mode() * scale, 1)

    def decode(self) -> Callable[[], np.ndarray]:
        """Decode latents to clips in [-1, 1]."""
        decode, scale = self._wrap(self._module("vae").decode), self.config.vae.scaling_factor
        latents = self._given("latents", rows.SIZES[self.size].clips, *self.grid, self.channels, channels=1)
        return _array(lambda: decode(latents / scale).sample.clamp(-1, 1), 1)

    def text(self) -> Callable[[], np.ndarray]:
        """Encode captions."""
        encoder, tokens = self._wrap(self._module("text_encoder")), self._tokens()
        return self._call(lambda: encoder(tokens).last_hidden_state)

    def sample(self, *how: str) -> Callable[[], np.ndarray]:
        """Make a video: from noise (with control: from frames and tracks) to uint8 frames."""
        config, vae = self.config, self._module("vae")
        encode, decode = self._wrap(vae.encode), self._wrap(vae.decode)
        transformer = self._module("control")
        model, base = self._wrap(transformer), self._wrap(transformer.base)
        is_edit, use_control, rope = "edit" in how, "control" in how, self._rope(self.grid)
        steps, scale = (config.sample.num_steps, config.sample.scale) if is_edit else (self.steps, rows.GUIDANCE)
        count, batch = 1 if scale == 1 else 2, rows.edit_batch(config)
        prompt, encoder = self._tokens()[:1], self._wrap(self._module("text_encoder")) if is_edit else None
        text = self._text(count)

        def sample() -> Tensor:
            streams, embedded = None, text
            if use_control:
                videos = self._draw(batch)
                streams = encode(videos.to(self._dtype)).latent_dist.mode() * config.vae.scaling_factor
                streams = streams.permute(2, 0, 1, 3, 4).flatten(1, 2).expand(count, -1, -1, -1, -1)
            if encoder is not None:
                embedded = encoder(prompt).last_hidden_state.expand(count, -1, -1)
            x = torch.randn(1, self.grid[0], self.channels, *self.grid[1:], device=self._device, dtype=self._dtype)
            self._scheduler.set_timesteps(steps)
            for timestep in self._scheduler.timesteps:
                both, time = x.expand(count, -1, -1, -1, -1), timestep.expand(count).to(self._device)
                if use_control:
                    v = model(both, embedded, time, rope, streams)
                else:
                    v = base(both, embedded, time, image_rotary_emb=rope).sample
                v = v if count == 1 else v[:1] + scale * (v[1:] - v[:1])
                x = self._scheduler.step(v, timestep, x, return_dict=False)[0].to(self._dtype)
            video = decode(x.transpose(1, 2) / config.vae.scaling_factor).sample.float().clamp(-1, 1)
            return ((video[0] + 1) * 127.5).round().to(torch.uint8)

        return _array(sample, 0)

    def _draw(self, batch: dict[str, np.ndarray]) -> Tensor:
        """Draw the three videos [3 3 T H W] that control is given."""
        colors = torch.rand(rows.POINTS, 3, device=self._device)
        drawn = []
        for side in ("target", "source"):
            places, shown = (
                torch.from_numpy(batch[f"{side}_{part}"][0]).to(self._device) for part in ("xy", "visible")
            )
            drawn.append(draw_blobs(places, shown, colors, tuple(self.config.data.size), self.config.method.sigma))
        return torch.cat([*drawn, self._videos(1)])

    def train(self, stage: str) -> Callable[[], np.ndarray]:
        """Make a training step on a batch in host memory; the loss."""
        loss, weights = self._loss(stage)
        trainer = Trainer(weights, rows.stage_config(self.config, self.size, stage))
        return lambda: trainer.step(loss()).float().cpu().numpy()

    def loss(self, stage: str) -> Callable[[], np.ndarray]:
        """Compute the loss of a training step alone."""
        return self._call(self._loss(stage)[0])

    def _loss(self, stage: str) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
        """Return what computes a stage's loss, and the weights that train by it."""
        if stage == "vae":
            vae = self._build("vae")
            encode, decode = self._wrap(vae.encode), self._wrap(vae.decode)
            return partial(self._reconstruct, encode, decode), list(vae.parameters())
        model = self._build("control" if stage == "control" else "transformer")
        is_cached = stage == "control" and self.config.data.get("text_embeddings")
        encoder = None if is_cached else self._build("text_encoder")
        if self._dtype == torch.bfloat16:
            blocks = (*model.base.transformer_blocks, *model.blocks) if stage == "control" else model.transformer_blocks
            for block in blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        trains = model.branch() if stage == "control" else [*model.parameters(), *encoder.parameters()]
        encoder = self._wrap(encoder) if encoder else None
        return partial(self._denoise, stage, self._wrap(model), encoder), trains

    def _reconstruct(self, encode: Callable, decode: Callable) -> Tensor:
        """Return the autoencoder's loss on whole clips: L1, L2 and a light KL."""
        video = self._videos(rows.SIZES[self.size].clips)
        latents = encode(video).latent_dist
        error = decode(latents.sample()).sample - video
        kl = 0.5 * (latents.mean.square() + latents.logvar.exp() - 1 - latents.logvar).mean()
        weights = rows.stage_config(self.config, self.size, "vae").loss
        return weights.l1 * error.abs().mean() + weights.mse * error.square().mean() + weights.kl * kl

    def _denoise(self, stage: str, model: Any, encoder: Any) -> Tensor:
        """Return the v-prediction loss from cached latents, of either video of a pair or with control by three."""
        count = rows.SIZES[self.size].batch
        names = STREAMS if stage == "control" else ("source_video",)
        shape = (count, *self.grid, self.channels)
        x0, *others = (self._given(name, *shape, channels=2) for name in ("target", *names))
        time = torch.randint(0, 1000, (count,), device=self._device)
        if stage == "control" and "power" in self.config.loss:
            time = (1000 * (1 - torch.rand(count) ** self.config.loss.power)).long().clamp(0, 999).to(self._device)
        if stage == "base":
            x0 = torch.where(torch.rand(count, 1, 1, 1, 1, device=self._device) < 0.5, x0, others[0])
        eps = torch.randn_like(x0)
        xt = self._scheduler.add_noise(x0, eps, time)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            with torch.set_grad_enabled(stage == "base" and torch.is_grad_enabled()):
                text = self._text(count) if encoder is None else encoder(self._tokens()).last_hidden_state
            rope = self._rope(self.grid)
            if stage == "control":
                v = model(xt, text, time, rope, torch.cat(others, 2))
            else:
                v = model(xt, text, time, image_rotary_emb=rope).sample
        return nn.functional.mse_loss(v.float(), self._scheduler.get_velocity(x0, eps, time).float())

    def _call(self, function: Callable[..., Tensor], *arguments: Any) -> Callable[[], np.ndarray]:
        """Wrap a function, whose result is there when a call returns."""
        wrapped = self._wrap(function) if arguments else function
        return lambda: wrapped(*arguments).float().cpu().numpy()


def draw_blobs(places: Tensor, shown: Tensor, colors: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Draw tracks [N T 2] as Gaussian blobs, one over the other in track order: [1 3 T H W] in [-1, 1]."""
    x, y = (torch.arange(n, device=places.device) + 0.5 for n in (size[1], size[0]))
    across = torch.exp(-((x - places[..., :1]) ** 2) / (2 * sigma**2)) * shown[..., None]
    down = torch.exp(-((y - places[..., 1:]) ** 2) / (2 * sigma**2))
    canvas = torch.zeros(3, places.shape[1], *size, device=places.device)
    for n, color in enumerate(colors):
        canvas.lerp_(color[:, None, None, None], down[n, :, :, None] * across[n, :, None, :])
    return canvas[None] * 2 - 1


def _array(call: Callable[[], Tensor], channels: int) -> Callable[[], np.ndarray]:
    """Wrap a call: its tensor as an array with the channels last."""

    def run() -> np.ndarray:
        tensor = call().movedim(channels, -1)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()

    return run


def _count(weights: Any) -> int:
    return sum(p.numel() for p in weights)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    wrapper = [torch.compile] if sys.argv[4:] else []
    serve(TorchSide(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *wrapper))
