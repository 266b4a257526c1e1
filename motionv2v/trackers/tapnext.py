"""Follow points with TAPNext (arXiv 2504.05579), the tracker of the MotionV2V paper, from its published weights.

The network (`models/tapnext/network.py`) reads a clip frame by frame, forwards only. A point that is asked for in the
middle is followed twice: forwards through the clip, and forwards through the reversed clip; from the first run come the
frames after the query's, from the second those before it. In the query's own frame the answer is the query.

Queries see one another in the network, and a lone point is followed better in company: each run of up to `chunk`
queries is joined by `support` extra points close to them, whose tracks are thrown away (the authors' entry to VOTSp
2026 puts 64 around a point). Thousands of queries therefore come out a little different in chunks of another size.

Weights: https://storage.googleapis.com/dm-tapnet/tapnext/bootstapnext_ckpt.npz (BootsTAPNext, the better ones) or
tapnext_ckpt.npz beside it, 777 MB each, Apache-2.0. Nothing is downloaded here. The later TAPNext++ is published for
PyTorch only.

Coordinates are converted here and nowhere else: frames are squeezed to the network's 256x256 pixels without keeping
their proportions, (t, x, y) become (t, y, x) in pixels of that picture, and positions go the same way back. jax is
imported when a tracker is built, not with this module, so that whoever only lists trackers stays free of it.
"""

import functools
import math
import os
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from motionv2v.trackers.classical import check_frames, check_queries
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Num, UInt8
from motionv2v.video import resize

SUPPORT_RADIUS = 1 / 16
"""Farthest support point from its query, as a share of the picture's width and height (32 pixels of 512 in VOTSp)."""

_ENCODER = "backbone/Transformer/encoderblock_"
_SIZES = {
    "patch_size": ("backbone/embedding/kernel", 5, 1),
    "width": ("backbone/embedding/kernel", 5, 4),
    "num_heads": (_ENCODER + "0/vit_block/MultiHeadDotProductAttention_0/query/kernel", 3, 1),
    "mlp_dim": (_ENCODER + "0/ssm_block/mlp_block/ffw_up/w", 3, 2),
    "lru_width": (_ENCODER + "0/ssm_block/recurrent_block/rg_lru/a_param", 1, 0),
    "lru_blocks": (_ENCODER + "0/ssm_block/recurrent_block/rg_lru/a_gate/w", 3, 0),
    "conv_width": (_ENCODER + "0/ssm_block/recurrent_block/conv_1d/w", 2, 0),
    "head_dim": ("coordinate_head/layers_0/kernel", 2, 1),
}
"""Where the network's sizes show: the parameter, its number of axes, and the axis."""


class TapNextError(ValueError):
    """Say in one line what is wrong with a file of weights or an option, and what was expected."""


class _Chunk(NamedTuple):
    """Queries that run together: their places in the caller's list, and (t, y, x) of them and their support points."""

    index: np.ndarray
    points: np.ndarray


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class TapNextTracker:
    """Track points with TAPNext on the device that jax finds (GPU, TPU, else the CPU)."""

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        chunk: int = 256,
        support: int = 64,
        use_certainty: bool = True,
        dtype: str = "float32",
        attention: str = "xla",
        block: int | None = None,
        say: Callable[[str], None] | None = _print,
        notify: Callable[[str], None] = warnings.warn,
    ):
        """Read the weights.

        Args:
            checkpoint: a published `.npz` file, or one of the same format in other sizes, which are read off it.
            chunk: most queries that run together; more need more memory and fewer runs.
            support: extra points per chunk; 0 for none.
            use_certainty: whether confidence is the probability of being visible times the certainty of the position
                (the authors' JAX demo), or the probability alone (their PyTorch wrapper).
            dtype: "float32" or "bfloat16", of what the network computes.
            attention: one of `models.attention.dispatch.IMPLEMENTATIONS`.
            block: frames per call of the compiled program; None: 1 on a CPU, 8 elsewhere.
            say: what to do with a line about the time that is left, on a CPU only; None for nothing. By default it is
                printed to stderr.
            notify: called with a sentence when the file holds arrays that are not the network's; they are not used.

        Raises:
            TapNextError: for options out of range, and for a file that is missing, cut off, pickled, or lacks some of
                the parameters; in one line.
        """
        _check_options(chunk, support, dtype, attention, block)
        import jax

        from motionv2v.models.tapnext import network

        arrays = read_arrays(checkpoint)
        module = network.TapNext(
            **read_sizes(arrays, checkpoint), implementation=attention, dtype=jax.numpy.dtype(dtype)
        )
        arrays = choose_arrays(arrays, network.parameter_shapes(module), checkpoint, notify)
        self._module, self._follow = module, network.follow
        self._params = jax.device_put(_tree(arrays))
        self._programs: dict[tuple[int, int], Any] = {}
        self._on_cpu = jax.default_backend() == "cpu"
        self._block = block or (1 if self._on_cpu else 8)
        self._chunk, self._support, self._use_certainty, self._say = chunk, support, use_certainty, say

    def track(self, frames: UInt8[AnyArray, "T H W 3"], queries: Num[AnyArray, "N 3"]) -> Tracks:
        """Follow queries (t, x, y) through all frames; return xy float32 [N T 2] in pixels and visible [N T].

        In its query frame a point is visible and where the query says. Where it is invisible, xy is the network's
        guess, always inside the frame. Raises ValueError for queries that are not [N 3], have a fractional t, lie
        outside the clip, or are not finite.
        """
        return self.track_with_confidence(frames, queries)[0]

    def track_with_confidence(
        self, frames: UInt8[AnyArray, "T H W 3"], queries: Num[AnyArray, "N 3"]
    ) -> tuple[Tracks, Float[AnyArray, "N T"]]:
        """Return what `track` does, and each point's confidence in [0, 1]: it is visible where that is above 0.5."""
        frames, queries = check_frames(frames), np.asarray(queries, np.float64)
        check_queries(queries, frames.shape)
        num_frames, size = len(frames), self._module.image_size
        # From (x, y) in the clip's pixels to (y, x) in the network's.
        scale = np.array([size / frames.shape[1], size / frames.shape[2]])
        points = np.column_stack([queries[:, 0], queries[:, :0:-1] * scale]).astype(np.float32)
        yx = np.zeros((len(points), num_frames, 2), np.float32)
        confidence = np.zeros((len(points), num_frames), np.float32)
        pictures = resize(frames, (size, size))
        chunks = plan_chunks(points, self._chunk, self._support, size)
        progress = self._progress(chunks, num_frames)
        for index, company in chunks:
            for reverse in _directions(company, num_frames):
                found, sure = (x[: len(index)] for x in self._run(pictures, company, reverse, progress))
                asked = points[index, :1]
                chosen = (np.arange(num_frames) < asked) if reverse else (np.arange(num_frames) > asked)
                yx[index] = np.where(chosen[..., None], found, yx[index])
                confidence[index] = np.where(chosen, sure, confidence[index])
        xy = (yx / scale.astype(np.float32))[..., ::-1].copy()
        own = np.arange(len(queries)), queries[:, 0].astype(int)
        xy[own], confidence[own] = queries[:, 1:], 1.0
        return Tracks(xy, confidence > 0.5), confidence

    def _run(self, pictures, points, reverse, progress):
        """Follow one chunk's points once through the clip or its reverse; return yx [Q T 2] and confidence [Q T]."""
        import jax

        num_frames, block = len(pictures), min(self._block, len(pictures))
        if reverse:
            pictures = pictures[::-1]
            points = np.column_stack([num_frames - 1 - points[:, 0], points[:, 1:]])
        program = self._program(block, len(points))
        states, results = self._module.initial_states(1, len(points)), []
        progress.start()
        for start in range(0, num_frames, block):
            # The last block is filled up with the last frame; what comes of that is dropped below.
            frames = pictures[np.minimum(np.arange(start, start + block), num_frames - 1)]
            *result, states = program(self._params, frames, points, np.int32(start), states)
            results.append(result)
            if self._on_cpu:
                jax.block_until_ready(result)
            progress.step(min(block, num_frames - start))
        yx, visible, certainty = (np.concatenate(parts)[:num_frames] for parts in zip(*results, strict=True))
        confidence = visible * certainty if self._use_certainty else visible
        if reverse:
            yx, confidence = yx[::-1], confidence[::-1]
        return np.moveaxis(yx, 0, 1), np.moveaxis(confidence, 0, 1)

    def _program(self, block, num_points):
        """Compile the network for blocks of `block` frames and `num_points` points, once."""
        if (block, num_points) in self._programs:
            return self._programs[block, num_points]
        import jax

        size = self._module.image_size
        abstract = jax.ShapeDtypeStruct
        follow = jax.jit(functools.partial(self._follow, self._module), donate_argnums=4)
        # GPUs and TPUs would round float32 products to 10 or 8 bits by default, which moves points.
        precision = "highest" if self._module.dtype == np.float32 else "default"
        with jax.default_matmul_precision(precision):
            lowered = follow.lower(
                self._params,
                abstract((block, size, size, 3), np.uint8),
                abstract((num_points, 3), np.float32),
                abstract((), np.int32),
                jax.eval_shape(lambda: self._module.initial_states(1, num_points)),
            )
            self._programs[block, num_points] = lowered.compile()
        return self._programs[block, num_points]

    def _progress(self, chunks, num_frames):
        runs = sum(len(list(_directions(chunk.points, num_frames))) for chunk in chunks)
        points = sum(len(chunk.index) for chunk in chunks)
        what = f"TAPNext on this CPU: {points} points, {runs * num_frames} frames to look at"
        return _Progress(runs * num_frames, what, self._say if self._on_cpu else None)


class _Progress:
    """Say after the first frames how long the rest will take, and again every minute."""

    def __init__(self, total: int, what: str, say: Callable[[str], None] | None):
        self._total, self._what, self._say = total, what, say
        self._done, self._seconds, self._since, self._said = 0, 0.0, 0.0, None

    def start(self) -> None:
        """Let the clock run; what passed since the last frame (compiling) does not count."""
        self._since = time.perf_counter()

    def step(self, frames: int) -> None:
        """Count frames that are done."""
        now = time.perf_counter()
        self._done, self._seconds, self._since = self._done + frames, self._seconds + now - self._since, now
        if self._say is None or self._done == self._total:
            return
        rate = self._seconds / self._done
        left = _duration(rate * (self._total - self._done))
        if self._said is None:
            self._say(f"{self._what}, {rate:.2g} s each, about {left} to go")
        elif now - self._said > 60:
            self._say(f"TAPNext: {self._done} of {self._total} frames, about {left} to go")
        else:
            return
        self._said = now


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _directions(points: np.ndarray, num_frames: int) -> Iterator[bool]:
    """Yield whether to run reversed, for each run that some point needs."""
    if points[:, 0].min() < num_frames - 1:
        yield False
    if points[:, 0].max() > 0:
        yield True


def plan_chunks(points: Float[np.ndarray, "N 3"], chunk: int, support: int, size: int) -> list[_Chunk]:
    """Split queries (t, y, x) into chunks of at most `chunk`, sorted by t, and give each chunk its support points.

    All chunks have the same number of points, so that one compiled program serves them: one that has a query less than
    the others gets a support point more. Queries of one frame stay together because a run in a direction that none of
    a chunk's queries needs is left out.
    """
    if len(points) == 0:
        return []
    parts = np.array_split(np.argsort(points[:, 0], kind="stable"), math.ceil(len(points) / chunk))
    slots = len(parts[0]) + support
    chunks = []
    for index in parts:
        extra = support_points(points[index], slots - len(index), size)
        chunks.append(_Chunk(index, np.concatenate([points[index], extra])))
    return chunks


def support_points(points: Float[np.ndarray, "N 3"], count: int, size: int) -> Float[np.ndarray, "M 3"]:
    """Return `count` points (t, y, x) around the queries in turn, in their frames, inside a picture of `size` pixels.

    Their offsets fill a disc of `SUPPORT_RADIUS` evenly (a sunflower's spiral), whatever their number.
    """
    number = np.arange(count)
    radius = SUPPORT_RADIUS * size * np.sqrt((number + 0.5) / max(count, 1))
    angle = number * math.pi * (3 - math.sqrt(5))
    offsets = radius[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
    around = points[number % len(points)]
    inside = np.clip(around[:, 1:] + offsets, 0.5, size - 0.5)
    return np.column_stack([around[:, :1], inside]).astype(np.float32)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a flat `.npz` file as arrays by name, of the types it holds; nothing in it is ever unpickled.

    In place of a pickled array there is an empty one of objects: it may be one that nobody needs.

    Raises TapNextError for a file that is missing, cut off, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise TapNextError(f"{path}: {what}; expected TAPNext's weights, such as bootstapnext_ckpt.npz")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise TapNextError(f"{path}: holds one numpy array, expected an .npz file of TAPNext's parameters")
        with file:
            arrays = {name: _read_member(file, name) for name in file.files}
    except TapNextError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TapNextError(f"{path}: not a readable .npz file, or cut off, or pickled ({reason})") from None
    for name, value in arrays.items():
        # Members that are not numpy arrays come out as bytes.
        if not isinstance(value, np.ndarray):
            raise TapNextError(f"{path}: has {name!r} in it, so not an .npz file; PyTorch's .pt and .ckpt do not fit")
    return arrays


def _read_member(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray | bytes:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return np.empty(0, object)


def read_sizes(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> dict[str, int]:
    """Return the sizes of the network that parameters belong to, as `models.tapnext.network.TapNext` takes them.

    Raises TapNextError where one that shows them is missing or has another number of axes.
    """
    table = "backbone/pos_embedding"
    wanted = {(name, axes) for name, axes, _ in _SIZES.values()} | {(table, 3)}
    wrong = sorted(name for name, axes in wanted if name not in arrays or arrays[name].ndim != axes)
    if wrong:
        some = ", ".join(sorted(arrays)[:3]) or "nothing"
        raise TapNextError(
            f"{path}: not TAPNext's parameters: {wrong[0]} is missing or has other axes; the file holds {some} ..."
        )
    sizes = {size: arrays[name].shape[axis] for size, (name, _, axis) in _SIZES.items()}
    blocks = {name.removeprefix(_ENCODER).split("/")[0] for name in arrays if name.startswith(_ENCODER)}
    sizes["depth"] = len(blocks)
    sizes["image_size"] = math.isqrt(arrays[table].shape[1]) * sizes["patch_size"]
    whole = (("width", 4), ("width", sizes["num_heads"]), ("lru_width", sizes["lru_blocks"]))
    if min(sizes.values()) < 1 or any(sizes[size] % parts for size, parts in whole):
        raise TapNextError(f"{path}: not TAPNext's parameters: their shapes give impossible sizes, {sizes}")
    return sizes


def choose_arrays(
    arrays: dict[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    path: str | os.PathLike,
    notify: Callable[[str], None] = warnings.warn,
) -> dict[str, Float[np.ndarray, "..."]]:
    """Return the parameters among a file's arrays, in float32; any others (an optimizer's step) are left aside.

    Args:
        arrays: of the file. shapes: {name: shape} of the parameters. path: the file, for messages.
        notify: called with a sentence that names what is left aside.

    Raises:
        TapNextError: listing parameters that are missing or of another shape, or naming one whose values are not finite
            floating-point numbers.
    """
    wrong = [f"{name} is missing" for name in shapes if name not in arrays]
    wrong += [f"{name} is pickled" for name in shapes if name in arrays and arrays[name].dtype == object]
    wrong += [
        f"{name} is {list(arrays[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].dtype != object and arrays[name].shape != tuple(shape)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise TapNextError(f"{path}: not TAPNext's parameters: {'; '.join(wrong[:3])}{more}")
    others = sorted(set(arrays) - set(shapes))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notify(f"{path}: {', '.join(others[:3])}{more} is no parameter of TAPNext and is left aside")
    for name in shapes:
        if not np.issubdtype(arrays[name].dtype, np.floating):
            raise TapNextError(f"{path}: {name} holds {arrays[name].dtype}, expected floating-point numbers")
        if not np.isfinite(arrays[name]).all():
            raise TapNextError(f"{path}: {name} holds values that are not finite; copy the file again")
    return {name: arrays[name].astype(np.float32, copy=False) for name in shapes}


def _check_options(chunk, support, dtype, attention, block) -> None:
    """Raise TapNextError for an option out of range."""
    for name, value, least, unit in (("chunk", chunk, 1, "queries"), ("support", support, 0, "points")):
        if not isinstance(value, int) or value < least:
            raise TapNextError(f"{name} must be a whole number of {unit}, at least {least}, given {value!r}")
    if block is not None and (not isinstance(block, int) or block < 1):
        raise TapNextError(f"block must be a whole number of frames, at least 1, or None, given {block!r}")
    if dtype not in ("float32", "bfloat16"):
        raise TapNextError(f"dtype must be float32 or bfloat16, given {dtype!r}")
    from motionv2v.models.attention.dispatch import IMPLEMENTATIONS

    if attention not in IMPLEMENTATIONS:
        raise TapNextError(f"attention must be one of {', '.join(IMPLEMENTATIONS)}, given {attention!r}")


def _tree(arrays: dict[str, np.ndarray]) -> dict:
    """Turn paths into nested dicts."""
    tree: dict = {}
    for path, value in arrays.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree
