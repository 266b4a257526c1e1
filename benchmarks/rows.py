"""What is measured: the rows of the tables, the sizes of the model, and the numbers that both sides are given.

Sizes are configs. `tiny` is the released model; `small` and `medium` are CogVideoX-5B made smaller, in float32; `5b` is
it as it is, in bfloat16, with one layer of the text encoder, which no step runs; `dry` is `5b` with everything small:
it shows that all rows run, and its numbers mean nothing.
"""

import math
import zlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

GUIDANCE = 6.0
POINTS = 16


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        label: what the table calls it. kind: the method of both sides that prepares it. how: options of that method.
        same: whether both sides get the same numbers and weights, and must return the same.
        peer: the row of PyTorch that it is held against, where that is not the one of its own name.
        goal: whether it is a whole job, which shall be at least `GOAL` times as fast as the peer's.
    """

    label: str
    kind: str
    how: tuple[str, ...] = ()
    same: bool = False
    peer: str = ""
    goal: bool = False


GOAL = 1.2
ROWS = {
    "product": Row("matrix product", "product", same=True),
    "attention": Row("attention", "attention", same=True),
    "convolution": Row("3x3x3 convolution", "convolution", ("auto",), same=True),
    "convolution:winograd": Row("the same by Winograd's filters", "convolution", ("winograd",), peer="convolution"),
    "convolution:conv2d": Row("the same as one conv2d", "convolution", ("conv2d",), peer="convolution"),
    "convolution:conv3d": Row("the same as XLA's conv3d", "convolution", ("conv3d",), peer="convolution"),
    "dit": Row("transformer", "predict", same=True),
    "control": Row("transformer and branch", "predict", ("control",)),
    "encode": Row("VAE encode", "encode", same=True),
    "decode": Row("VAE decode", "decode", same=True),
    "text": Row("T5 encoder", "text", same=True),
    "edit": Row("whole edit, one view", "sample", ("control", "edit"), goal=True),
    "sample": Row("whole sample from text", "sample", ("guidance",), goal=True),
    "sample-control": Row("whole sample with control", "sample", ("guidance", "control"), goal=True),
    "sample-control:batch": Row(
        "the same, guidance as one batch", "sample", ("guidance", "control", "batch"), peer="sample-control"
    ),
    "sample-control:cache": Row(
        "the same, every second step reused", "sample", ("guidance", "control", "cache"), peer="sample-control"
    ),
    "train-control": Row("control training step", "train", ("control",), goal=True),
    "loss-control": Row("the same without its backward pass", "loss", ("control",)),
    "train-base": Row("base training step", "train", ("base",)),
    "train-vae": Row("VAE training step", "train", ("vae",)),
}
RATES = tuple(name for name, row in ROWS.items() if row.kind in ("product", "attention", "convolution"))
MODULES = ("dit", "control", "encode", "decode", "text")
JOBS = tuple(name for name in ROWS if name not in RATES + MODULES)


class Size(NamedTuple):
    """A size's default rows, steps of a guided sample, and how much is done at a time.

    `batch` counts samples of a training step and captions, `clips` those that the autoencoder takes; `grid` is the
    shape (t, h, w) of latents that a prediction gets, None for those of the config's clips.
    """

    rows: tuple[str, ...]
    steps: int = 20
    batch: int = 1
    clips: int = 1
    grid: tuple[int, int, int] | None = None


SIZES = {
    "tiny": Size(tuple(ROWS), batch=32, clips=4),
    "small": Size((*RATES, *MODULES, "sample", "sample-control", "train-control")),
    "medium": Size((*RATES, *MODULES, "train-control"), grid=(7, 30, 44)),
    "5b": Size((*RATES[:2], "dit", "control", "train-control", *JOBS[1:5]), steps=50),
    "dry": Size(tuple(ROWS), steps=4),
}
_FLOAT32 = {
    "vae": {"dtype": "float32"},
    "text": {"dtype": "float32", "tokenizer": "bytes"},
    "dit": {"dtype": "float32", "remat": "none"},
    "train": {"frozen_dtype": "float32"},
}
_CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "vae": {"block_channels": (32, 64, 64, 128)},
        "text": {"num_layers": 4, "width": 512, "num_heads": 8, "mlp_dim": 1024},
        "dit": {"num_layers": 4, "control_depth": 2, "num_heads": 6, "text_dim": 512, "text_length": 64},
        "data": {"num_frames": 17, "size": (128, 128), "text_length": 64},
    },
    # A larger clip takes one call of the decoder well over 20 seconds on two cores.
    "medium": {
        "vae": {"block_channels": (64, 128, 128, 256)},
        "text": {"num_layers": 8, "width": 1024, "num_heads": 16, "mlp_dim": 2816},
        "dit": {"num_layers": 6, "control_depth": 3, "num_heads": 12, "text_dim": 1024},
        "data": {"num_frames": 17, "size": (192, 256)},
    },
    "5b": {"text": {"num_layers": 1}},
    "dry": {
        "vae": {"block_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_groups": 4},
        "text": {"num_layers": 1, "width": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "vocab_size": 300},
        "dit": {"num_layers": 3, "control_depth": 2, "num_heads": 2, "head_dim": 16, "text_dim": 16},
        "data": {"num_frames": 9, "size": (32, 48), "text_length": 12},
    },
}


def tolerance(name: str, size: str) -> float | None:
    """Return how far both sides' results may differ, as a share of the largest number; None where nothing is shared."""
    if not ROWS[name].same or (size == "5b" and name not in RATES):
        return None
    return 0.3 if size in ("5b", "dry") else 1e-4  # in bfloat16 and in float32


def make_config(size: str) -> ConfigDict:
    """Return the config of a size, with what both sides must share."""
    from configs import motionv2v_cogvideox_5b, motionv2v_tiny

    config = (motionv2v_tiny if size == "tiny" else motionv2v_cogvideox_5b).get_config()
    for changes in (_FLOAT32 if size in ("small", "medium") else {}, _CHANGES.get(size, {})):
        for section, values in changes.items():
            config[section].update(values)
    if size == "dry":
        config.dit.update({"text_length": 12, "time_embed_dim": 16})
    if size != "tiny":
        config.sample.num_steps = SIZES[size].steps
    return _shared(config, size)


def stage_config(config: ConfigDict, size: str, stage: str) -> ConfigDict:
    """Return the config of a stage of training, "control", "base" or "vae", with the networks of `config`."""
    from configs import base_tiny, vae_tiny

    if stage == "control":
        return config
    found = (base_tiny if stage == "base" else vae_tiny).get_config()
    found.vae = config.vae
    clip = {"num_frames": config.data.num_frames, "size": config.data.size, "text_length": config.data.text_length}
    found.data.update(clip)
    if stage == "base":
        found.text, found.schedule = config.text, config.schedule
        found.dit = ConfigDict({name: value for name, value in config.dit.items() if not name.startswith("control")})
    else:
        found.data.crop = (clip["num_frames"], *clip["size"])
    return _shared(found, size)


def _shared(config: ConfigDict, size: str) -> ConfigDict:
    config.init_from = ()
    config.optim.name = "adamw"  # PyTorch has no Muon of ours
    config.train.update({"batch_size": SIZES[size].batch, "accumulate": 1})
    return config


def latent_grid(config: Any) -> tuple[int, int, int]:
    """Return (t, h, w) of the latents of a config's clips."""
    height, width = config.data.size
    return ((config.data.num_frames - 1) // 4 + 1, height // 8, width // 8)


def attention_shape(config: Any, grid: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return [B S K d] of one block's attention over one clip."""
    return (1, math.prod(grid) // 4 + config.data.text_length, config.dit.num_heads, config.dit.head_dim)


def convolution_shape(config: Any) -> tuple[int, int, int, int]:
    """Return frames, rows, columns and channels of the decoder's largest convolution: a chunk at the clips' size."""
    return (8, *config.data.size, config.vae.block_channels[0])


def operations(row: Row, config: Any, grid: tuple[int, int, int]) -> float:
    """Count what one call of a row of `RATES` needs, a product and its sum as two."""
    if row.kind == "convolution":
        frames, height, width, channels = convolution_shape(config)
        return 2.0 * 27 * frames * height * width * channels**2
    _, tokens, heads, depth = attention_shape(config, grid)
    return 4.0 * tokens**2 * heads * depth if row.kind == "attention" else 8.0 * tokens * (heads * depth) ** 2


def reused(steps: int) -> tuple[bool, ...]:
    """Reuse every second step behind the first two, but not the last: near what threshold 0.2 gives with 20 steps."""
    return tuple(2 <= step < steps - 1 and step % 2 == 0 for step in range(steps))


def normal(name: str, *shape: int) -> np.ndarray:
    """Draw normal numbers, the same for a name on both sides, float32."""
    return _rng(name).standard_normal(shape, np.float32)


def tokens(config: Any, count: int) -> np.ndarray:
    """Draw captions [B L]."""
    return _rng("tokens").integers(3, 259, (count, config.data.text_length), np.int32)


def clips(config: Any, count: int) -> np.ndarray:
    """Draw uint8 videos [B T H W 3]."""
    return _rng("clips").integers(0, 256, (count, config.data.num_frames, *config.data.size, 3), np.uint8)


def edit_batch(config: Any) -> dict[str, np.ndarray]:
    """Draw a clip and the tracks of an edit, as a batch of one."""
    batch, (height, width), rng = {"source": clips(config, 1)}, config.data.size, _rng("tracks")
    for side in ("source", "target"):
        shape = (1, POINTS, config.data.num_frames)
        batch[f"{side}_xy"] = rng.uniform(0, (width, height), (*shape, 2)).astype(np.float32)
        batch[f"{side}_visible"] = rng.uniform(size=shape) < 0.9
    return batch


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
