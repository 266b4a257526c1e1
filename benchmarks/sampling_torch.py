"""The peer of `sampling.py`: diffusers' transformer, scheduler and autoencoder in PyTorch, on a GPU where it has one.

Weights are random. diffusers has no control branch of this kind: it is the one of `torch_side.py`, made of diffusers'
blocks. Guidance is a batch of two, as in diffusers' pipeline. A training step is that of the branch on the frozen base
in bfloat16, every block checkpointed: masters in float32 under autocast, AdamW, clipping and a moving average.
"""

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_side
from diffusers import CogVideoXDDIMScheduler
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from sampling_sides import GUIDANCE, Row, work_space
from torch.utils.checkpoint import checkpoint


class TorchSide:
    """The peer's modules, built when the first row asks for them."""

    def __init__(self, config: Any, num_steps: int):
        self._config, self._num_steps, self._call = config, num_steps, None
        self._is_gpu = torch.cuda.is_available()
        self._device = "cuda" if self._is_gpu else "cpu"
        self._dtype = torch.bfloat16 if config.dit.get("dtype", "float32") == "bfloat16" else torch.float32
        self._model = self._vae = None
        self._scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        )
        frames, (height, width) = config.data.num_frames, config.data.size
        self._shape = (1, (frames - 1) // 4 + 1, config.vae.latent_channels, height // 8, width // 8)
        grid = (height // 16, width // 16)
        rope = get_3d_rotary_pos_embed(config.dit.head_dim, ((0, 0), grid), grid, self._shape[1])
        self._rope = tuple(table.to(self._device) for table in rope)

    def about(self) -> dict[str, Any]:
        """Name the device."""
        return {"device": torch.cuda.get_device_name() if self._is_gpu else "cpu"}

    def prepare(self, row: Row) -> dict[str, Any]:
        """Put the modules that a row needs on the device."""
        if row.kind == "train":
            self._model = self._vae = None  # the frozen base's gradients need its own copy
            self._call = self._make_step()
            return {}
        if self._model is None:
            self._model = self._build().requires_grad_(False).to(self._device, self._dtype).eval()
            self._vae = torch_side.build_vae(self._config).requires_grad_(False).to(self._device, self._dtype).eval()
        run = {"forward": self._forward, "sample": self._sample}[row.kind]
        self._call = torch.no_grad()(partial(run, row))
        return {}

    def run(self) -> dict[str, Any]:
        """Run what was prepared; return the seconds, and on a GPU the peak of what torch allocated."""
        if self._is_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = self._call()
        seconds = time.perf_counter() - start
        if not np.isfinite(result).all():
            raise ValueError("numbers that are not finite: the times mean nothing")
        return {"seconds": seconds} | ({"peak": torch.cuda.max_memory_allocated()} if self._is_gpu else {})

    def measure(self) -> dict[str, Any]:
        """Run what was prepared, and on a CPU return what that takes of the host's memory."""
        return {} if self._is_gpu else work_space(self._call)

    def release(self) -> dict[str, Any]:
        """Give back what the row held; modules for sampling stay."""
        self._call = None
        gc.collect()
        if self._is_gpu:
            torch.cuda.empty_cache()
        return {}

    def _build(self) -> torch_side.ControlledTransformer:
        config = self._config
        # Built where it is used: 8 billion numbers are drawn slowly, and need 32 GB, anywhere else.
        with torch.device(self._device):
            base = torch_side.build_transformer(config).to(self._dtype)
            streams = len(torch_side.STREAMS) * config.vae.latent_channels
            branch = (config.dit.control_depth, streams, config.dit.control_wiring)
            return torch_side.ControlledTransformer(base, *branch)

    def _random(self, *shape: int, dtype: Any = None) -> torch.Tensor:
        return torch.randn(*shape, device=self._device, dtype=dtype or self._dtype)

    def _streams(self) -> torch.Tensor:
        batch, frames, channels, height, width = self._shape
        return self._random(batch, frames, len(torch_side.STREAMS) * channels, height, width)

    def _predict(self, row: Row, x: torch.Tensor, text: torch.Tensor, time: torch.Tensor, streams: Any) -> torch.Tensor:
        if row.use_control:
            return self._model(x, text, time, self._rope, streams)
        return self._model.base(x, text, time, image_rotary_emb=self._rope).sample

    def _text(self, count: int) -> torch.Tensor:
        return self._random(count, self._config.data.text_length, self._config.dit.text_dim)

    def _forward(self, row: Row) -> np.ndarray:
        """Predict v once."""
        time = torch.full((1,), 500, device=self._device)
        streams = self._streams() if row.use_control else None
        return self._predict(row, self._random(*self._shape), self._text(1), time, streams).float().cpu().numpy()

    def _sample(self, row: Row) -> np.ndarray:
        """Denoise and decode, with control after encoding three videos."""
        config, count = self._config, 2 if row.guidance else 1
        _, t, z, h, w = self._shape
        text, streams = self._text(count), None
        if row.use_control:
            videos = torch.zeros(3, 3, config.data.num_frames, *config.data.size, device=self._device)
            streams = self._vae.encode(videos.to(self._dtype)).latent_dist.mode().permute(0, 2, 1, 3, 4)
            streams = streams.permute(1, 0, 2, 3, 4).reshape(1, t, 3 * z, h, w).expand(count, -1, -1, -1, -1)
        x = self._random(*self._shape)
        self._scheduler.set_timesteps(self._num_steps)
        for timestep in self._scheduler.timesteps:
            both, time = x.expand(count, -1, -1, -1, -1), timestep.expand(count).to(self._device)
            v = self._predict(row, both, text, time, streams)
            v = v[:1] + GUIDANCE * (v[1:] - v[:1]) if row.guidance else v
            x = self._scheduler.step(v, timestep, x, return_dict=False)[0].to(self._dtype)
        video = self._vae.decode(x.transpose(1, 2) / config.vae.scaling_factor).sample.float().clamp(-1, 1)
        return ((video + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()

    def _make_step(self) -> Callable[[], np.ndarray]:
        """Build a training step of the branch on the frozen base, from latents and embedded text."""
        model = self._build()
        for block in (*model.base.transformer_blocks, *model.blocks):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        trainer = torch_side.Trainer(model.branch(), self._config)
        autocast = partial(torch.autocast, self._device, torch.bfloat16, enabled=self._dtype == torch.bfloat16)

        def step() -> np.ndarray:
            x0, eps = self._random(*self._shape), self._random(*self._shape)
            time = torch.randint(0, 1000, (1,), device=self._device)
            xt = self._scheduler.add_noise(x0, eps, time).to(self._dtype)
            with autocast():
                v = model(xt, self._text(1), time, self._rope, self._streams())
            truth = self._scheduler.get_velocity(x0, eps, time)
            return trainer.step(torch.nn.functional.mse_loss(v.float(), truth.float())).cpu().numpy()

        return step
