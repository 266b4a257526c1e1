"""Depth of a picture: an array that a person has, or what a network in a folder of theirs says. Nothing is fetched."""

from pathlib import Path

import numpy as np

from motionv2v import video
from motionv2v.typing import AnyArray, Float, UInt8

FARTHEST = 50.0
"""Inverse depths say 0 of the horizon: nothing is taken to be farther away than so many times the nearest thing."""


def load(path: str | Path, image: UInt8[np.ndarray, "H W 3"], is_inverse: bool = False) -> Float[np.ndarray, "H W"]:
    """Return the depth of each pixel of a picture, along the line of sight, above 0, float32.

    Args:
        path: an `.npy` [h w] of any size, which is resized; or the folder of a depth model as `transformers` saves it
            (Depth Anything, MiDaS, DPT, ZoeDepth), which needs that library.
        image: the picture. is_inverse: the array holds inverse depths, up to a factor; a model says so itself.

    Raises:
        ValueError: in one line, for what cannot be read or is no depth.
    """
    return _load(path, image, is_inverse, 1)[0]


def load_clip(path: str | Path, frames: AnyArray, is_inverse: bool = False) -> Float[np.ndarray, "S H W"]:
    """Return the depth of a clip, of each of its frames or of its first one alone (S = 1), as `load` says.

    Args:
        path: as for `load`; an array may also be [T h w], of all frames. frames: of the clip, uint8 [T H W 3].
        is_inverse: as for `load`.
    """
    return _load(path, np.asarray(frames[0]), is_inverse, len(frames))


def _load(path, image, is_inverse, length):
    """Read depths [S H W] of a picture, or of `length` of them."""
    path = Path(path)
    if path.is_dir():
        found, is_inverse = _predict(path, image)
    else:
        try:
            found = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: is no array that numpy.load reads, nor the folder of a depth model") from error
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{path}: holds several arrays by name (.npz); expected one, saved with numpy.save (.npy)")
        found = found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or len(found) not in (1, length) or not np.issubdtype(found.dtype, np.number):
        wanted = "[H W]" if length == 1 else f"[H W] or [{length} H W]"
        raise ValueError(f"{path}: must hold one number for each pixel, {wanted}; it has {list(found.shape)}")
    found = np.asarray(found, np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{path}: holds depths that are not finite")
    if is_inverse:
        if found.max() <= 0:
            raise ValueError(f"{path}: holds no inverse depth above 0")
        found = 1 / np.maximum(found / found.max(), 1 / FARTHEST)
    if found.min() <= 0:
        raise ValueError(f"{path}: holds depths down to {found.min():g}; they must be above 0")
    resized = video.resize(np.ascontiguousarray(found[..., None], np.float32), image.shape[:2])[..., 0]
    # Cubic interpolation may overshoot beyond an edge.
    return np.clip(resized, found.min(), found.max())


def nearness(depth: Float[np.ndarray, "H W"], places: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N"]:
    """Return how near each of some places of a picture is, 0 far to 1 near, as Diffusion-as-Shader colours points.

    That is the inverse depth, clipped at the picture's 2nd and 98th percentile, which become 0 and 1; one half
    everywhere where all is equally far.

    Args:
        depth: as `load` returns it. places: in pixels of the picture; those outside count as the nearest pixel.
    """
    inverse = 1 / depth.astype(np.float64)
    low, high = np.percentile(inverse, (2, 98))
    if high - low < 1e-6 * high:
        return np.full(len(places), 0.5, np.float32)
    height, width = depth.shape
    cells = np.floor(np.nan_to_num(places)).astype(int)
    found = inverse[np.clip(cells[:, 1], 0, height - 1), np.clip(cells[:, 0], 0, width - 1)]
    return np.clip((found - low) / (high - low), 0, 1).astype(np.float32)


def _predict(folder: Path, image: UInt8[np.ndarray, "H W 3"]) -> tuple[np.ndarray, bool]:
    """Run a monocular depth network; tells also whether it says inverse depths, as all but metric ones do."""
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ValueError(f"{folder}: a depth model needs the libraries transformers and torch ({error})") from error
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        network = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: holds no depth model of transformers ({str(error).splitlines()[0]})") from error
    with torch.no_grad():
        predicted = network(**processor(images=image, return_tensors="pt")).predicted_depth[0].numpy()
    kind = getattr(
        network.config, "depth_estimation_type", "metric" if "zoe" in network.config.model_type else "relative"
    )
    return predicted, kind != "metric"
