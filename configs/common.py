"""What the experiments share. A config file states only how it differs.

Sections: `data` (scenes, batches' content), `vae`, `text`, `dit` (constructor arguments of the modules), `schedule`
(noise), `method`, `loss`, `optim` (pattern of parameter path -> learning rate, or None for frozen), `train`, `sample`,
`mesh` (how several devices share the work; without it all hold copies of the model and parts of the batch).
"""

from ml_collections import ConfigDict


def vae_tiny() -> ConfigDict:
    """CogVideoX's autoencoder at one sixteenth of its width: 4x8x8 compression, 16 channels, 1.9 M parameters."""
    return ConfigDict(
        {
            "block_channels": (8, 16, 32, 64),
            "layers_per_block": 1,
            "norm_groups": 4,
            "latent_channels": 16,
            "scaling_factor": 1.0,
            "dtype": "float32",
        }
    )


def text_tiny() -> ConfigDict:
    """T5 v1.1's encoder on bytes."""
    return ConfigDict(
        {"vocab_size": 259, "width": 128, "num_layers": 2, "num_heads": 4, "head_dim": 32, "mlp_dim": 256}
    )


def dit_tiny() -> ConfigDict:
    """CogVideoX-5B's transformer (3-D RoPE) at width 192, 4 blocks."""
    return ConfigDict(
        {
            "num_layers": 4,
            "num_heads": 6,
            "head_dim": 32,
            "text_dim": 128,
            "text_length": 32,
            "time_embed_dim": 32,
            "positions": "rope",
            "scan_unroll": True,
            "dtype": "float32",
        }
    )


def data_tiny() -> ConfigDict:
    """17 frames of 64x64: the procedural scenes of `data.scenes` at their defaults.

    `mix` names data sets and their weights, (("synthetic", 0.5), ("path/to/dataset", 0.5)); without it scenes alone.
    `real_drafts` is the share of scenes whose drafts, where a method reads them, are found in the clip (seconds each)
    instead of drawn from the scene. `buckets` are the shapes (T, H, W) of batches, ((49, 480, 720), (49, 720, 480));
    without them `num_frames` and `size`. `text_embeddings` reads the captions' embeddings from beside the latents.
    `num_points` is N, 0 for the scenes' own; `point_dropout` hides points now and then, as MotionV2V's training does;
    `vocabulary` is the folder with spiece.model if `text.tokenizer` is "sentencepiece" and no folder of `init_from` has
    it.
    """
    return ConfigDict(
        {
            "num_frames": 17,
            "size": (64, 64),
            "text_length": 32,
            "caption_dropout": 0.1,
            "swap": 0.0,
            "real_drafts": 0.0,
            "seed": 0,
            "num_workers": 0,
            "latents": "",
            "text_embeddings": False,
            "mix": (),
            "buckets": (),
            "num_points": 0,
            "point_dropout": True,
            "vocabulary": "",
            "scene": {},
        }
    )


def schedule_tiny() -> ConfigDict:
    """CogVideoX's schedule: scaled linear, zero terminal signal-to-noise ratio."""
    return ConfigDict({"snr_shift_scale": 1.0})


def train_defaults() -> ConfigDict:
    """Loop settings that most runs keep."""
    return ConfigDict(
        {
            "steps": 1000,
            "batch_size": 32,
            "accumulate": 1,
            "seed": 0,
            "log_every": 20,
            "checkpoint_every": 200,
            "probe_every": 500,
            "probe_samples": 8,
            "keep": 2,
            "ema_decay": 0.999,
            "clip_norm": 1.0,
            "backend": "jax",
        }
    )


def optimizer(*schedule: tuple, name: str = "adamw") -> ConfigDict:
    """AdamW with the paper's second moment, or Muon; `schedule` holds (pattern, options or None), first match wins."""
    return ConfigDict(
        {"name": name, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 1e-3, "schedule": tuple(schedule)}
    )


def branch_alone(peak: float) -> ConfigDict:
    """Muon on the control branch and what feeds it, to a peak rate and down again; all that it stands on is frozen."""
    return optimizer(
        ("(vae|text)/.*", None),
        ("(dit/control|conditioner)/.*", {"peak": peak, "warmup": 100, "decay": "cosine", "end": 1e-5}),
        ("dit/.*", None),
        name="muon",
    )


def mesh(data: int = -1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> ConfigDict:
    """Devices per axis of the mesh (`sharding.make_mesh`); -1 takes what the others leave.

    `dcn` are the numbers of slices per axis, where there are several.
    """
    dcn = {"data": -1, "fsdp": 1, "context": 1, "tensor": 1}
    return ConfigDict({"data": data, "fsdp": fsdp, "context": context, "tensor": tensor, "dcn": dcn})
