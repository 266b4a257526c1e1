"""Point tracks of a clip: where each point is in each frame, and whether it can be seen there.

`xy` is in pixels of the clip, x to the right, y down, with (0, 0) at the corner of the top-left pixel (pixel centres
lie at +0.5). A hidden point still has a finite position: the tracker's best guess. Sizes are `(H, W)`, frame times are
frame indices and may be fractional. Every function is pure, keeps the dtype of `xy`, and works on numpy and jax arrays
alike; this module does not import jax, because the workers of the input pipeline use it.
"""

import os
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from motionv2v.typing import AnyArray, Bool, Float, Int, Num


class Tracks(NamedTuple):
    """Point tracks of one clip (or of a batch of clips): positions in pixels and visibility."""

    xy: Float[AnyArray, "*B N T 2"]
    visible: Bool[AnyArray, "*B N T"]


def array_namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` if any argument is a jax array or tracer, else `numpy`; never imports jax by itself."""
    for array in arrays:
        if hasattr(array, "__array_namespace__") and not isinstance(array, np.ndarray | np.generic):
            return array.__array_namespace__()
    return np


def from_arrays(xy: Any, visible: Any = None) -> Tracks:
    """Builds validated tracks from array-likes: `xy` [*B N T 2] as float32, `visible` [*B N T] (default: everywhere).

    Raises ValueError as `validate` does.
    """
    xp = array_namespace(xy, visible)
    xy = xp.asarray(xy, dtype=xp.float32)
    visible = xp.ones(xy.shape[:-1], dtype=bool) if visible is None else xp.asarray(visible).astype(bool)
    return validate(Tracks(xy, visible))


def validate(tracks: Tracks, num_frames: int | None = None, num_points: int | None = None) -> Tracks:
    """Checks shapes, dtypes and (for numpy) finiteness, and returns the tracks unchanged.

    Raises ValueError that names the shape, the frame count, or the first point and frame that is not finite.
    """
    xy, visible = tracks
    if xy.ndim < 3 or xy.shape[-1] != 2:
        raise ValueError(f"tracks.xy must have shape [..., N, T, 2] (points, frames, x and y), got {tuple(xy.shape)}")
    if not np.issubdtype(xy.dtype, np.floating):
        raise ValueError(f"tracks.xy must hold floating-point pixels, got dtype {xy.dtype}")
    if tuple(visible.shape) != tuple(xy.shape[:-1]):
        raise ValueError(
            f"tracks.visible must have the shape of tracks.xy without its last axis, {tuple(xy.shape[:-1])}, "
            f"got {tuple(visible.shape)}"
        )
    if visible.dtype != np.bool_:
        raise ValueError(f"tracks.visible must be boolean, got dtype {visible.dtype}")
    if num_frames is not None and xy.shape[-2] != num_frames:
        raise ValueError(f"the tracks have {xy.shape[-2]} frames, but the clip has {num_frames}")
    if num_points is not None and xy.shape[-3] != num_points:
        raise ValueError(f"the tracks have {xy.shape[-3]} points, but {num_points} are expected")
    if isinstance(xy, np.ndarray) and not np.isfinite(xy).all():
        where = np.argwhere(~np.isfinite(xy))[0]
        raise ValueError(f"tracks.xy is not finite at point {where[-3]}, frame {where[-2]}: {xy[tuple(where[:-1])]}")
    return tracks


def apply_homography(
    homographies: Float[AnyArray, "T 3 3"], xy: Float[AnyArray, "*B N T 2"]
) -> Float[AnyArray, "*B N T 2"]:
    """Maps the positions of frame t by the homography of frame t, keeping the dtype of `xy`.

    A position on the homography's horizon (third coordinate 0) maps to a very large finite number, not to infinity.
    """
    xp = array_namespace(homographies, xy)
    # Sums of products instead of einsum: an accelerator's default matmul would round pixels to 8 or 11 bits.
    x, y = xy[..., :1], xy[..., 1:]
    mapped = homographies[:, :, 0] * x + homographies[:, :, 1] * y + homographies[:, :, 2]
    scale = mapped[..., 2:]
    scale = xp.where(xp.abs(scale) < 1e-8, xp.where(scale < 0, -1e-8, 1e-8), scale)
    return (mapped[..., :2] / scale).astype(xy.dtype)


def warp(tracks: Tracks, homographies: Float[AnyArray, "T 3 3"]) -> Tracks:
    """Moves every point of frame t by the homography of frame t; visibility stays as it is, also outside the frame."""
    return Tracks(apply_homography(homographies, tracks.xy), tracks.visible)


def crop(tracks: Tracks, top: float | int, left: float | int) -> Tracks:
    """Expresses positions in a crop whose top-left corner is at (`left`, `top`); points outside it stay visible."""
    xp = array_namespace(tracks.xy)
    return Tracks(tracks.xy - xp.asarray([left, top], dtype=tracks.xy.dtype), tracks.visible)


def resize(tracks: Tracks, old: tuple[int, int], new: tuple[int, int]) -> Tracks:
    """Expresses positions in a clip resized from size `old` (H, W) to size `new` (H, W).

    Raises ValueError for a size that is not positive.
    """
    if min(*old, *new) <= 0:
        raise ValueError(f"sizes must be positive (H, W), got old={tuple(old)} and new={tuple(new)}")
    xp = array_namespace(tracks.xy)
    factor = xp.asarray([new[1] / old[1], new[0] / old[0]], dtype=tracks.xy.dtype)
    return Tracks(tracks.xy * factor, tracks.visible)


def at_times(tracks: Tracks, times: Num[AnyArray, "S"]) -> Tracks:
    """Samples the tracks at frame times: positions linear in time, visibility of the nearest frame (halves go up).

    Times before the first or after the last frame give that frame. Raises ValueError for times that are not finite.
    """
    xp = array_namespace(tracks.xy, times)
    if xp is np and not np.isfinite(times).all():
        raise ValueError("retime needs finite frame times")
    last = tracks.xy.shape[-2] - 1
    times = xp.clip(xp.asarray(times, dtype=xp.float32), 0, last)
    before = xp.floor(times).astype(xp.int32)
    after = xp.minimum(before + 1, last)
    weight = (times - before).astype(tracks.xy.dtype)[:, None]
    xy = tracks.xy[..., before, :] * (1 - weight) + tracks.xy[..., after, :] * weight
    nearest = xp.minimum(xp.floor(times + 0.5).astype(xp.int32), last)
    return Tracks(xy, tracks.visible[..., nearest])


def take_frames(tracks: Tracks, indices: Int[AnyArray, "S"]) -> Tracks:
    """Takes whole frames by index, in the given order. Raises IndexError (numpy) for a frame that does not exist."""
    return Tracks(tracks.xy[..., indices, :], tracks.visible[..., indices])


def select(tracks: Tracks, indices: Sequence[int] | Int[AnyArray, "M"]) -> Tracks:
    """Takes points by index, in the given order.

    Raises ValueError that names the first index outside 0..N-1.
    """
    xp = array_namespace(tracks.xy, indices)
    num_points = tracks.xy.shape[-3]
    if array_namespace(indices) is np:  # traced indices cannot be looked at
        for index in np.asarray(indices, dtype=int).reshape(-1):
            if not 0 <= index < num_points:
                raise ValueError(f"there is no point {index}: the tracks have points 0..{num_points - 1}")
    indices = xp.asarray(indices, dtype=int)
    return Tracks(tracks.xy[..., indices, :, :], tracks.visible[..., indices, :])


def concatenate(parts: Sequence[Tracks]) -> Tracks:
    """Joins the points of several tracks of the same clip, in order.

    Raises ValueError for an empty list and for different frame counts.
    """
    if not parts:
        raise ValueError("concatenate needs at least one Tracks, got an empty list")
    frame_counts = sorted({part.xy.shape[-2] for part in parts})
    if len(frame_counts) > 1:
        raise ValueError(f"the tracks to join must have the same number of frames, got {frame_counts}")
    xp = array_namespace(*(part.xy for part in parts))
    xy = xp.concatenate([part.xy for part in parts], axis=-3)
    return Tracks(xy, xp.concatenate([part.visible for part in parts], axis=-2))


def inside(xy: Float[AnyArray, "*B N T 2"], size: tuple[int, int]) -> Bool[AnyArray, "*B N T"]:
    """Says which positions lie in a frame of size (H, W): 0 <= x < W and 0 <= y < H."""
    height, width = size
    x, y = xy[..., 0], xy[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def hide_outside(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    """Marks points as not visible wherever they lie outside a frame of size (H, W)."""
    return Tracks(tracks.xy, tracks.visible & inside(tracks.xy, size))


def save(path: str | os.PathLike, tracks: Tracks) -> None:
    """Writes tracks to a compressed numpy file with the arrays `xy` and `visible`; a name without .npz gets it."""
    path = os.fspath(path)
    path = path if path.endswith(".npz") else path + ".npz"
    np.savez_compressed(path, xy=np.asarray(tracks.xy), visible=np.asarray(tracks.visible))


def load(path: str | os.PathLike) -> Tracks:
    """Reads and validates tracks written by `save`.

    Raises FileNotFoundError for a missing file, ValueError for a file that does not hold tracks (says what it holds).
    """
    path = os.fspath(path)
    try:
        file = np.load(path, allow_pickle=False)
        arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz file of tracks ({error})") from error
    if not {"xy", "visible"} <= set(arrays):
        raise ValueError(f"{path} holds the arrays {sorted(arrays)}, but tracks need 'xy' and 'visible'")
    return validate(Tracks(arrays["xy"], arrays["visible"]))
