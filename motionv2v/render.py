"""Draw tracks in jax.numpy: MotionV2V's blobs, Motion Prompting's volume of identities, ReVideo's maps of motion.

Blobs (MotionV2V, arXiv 2511.20640, section 3.3): one of standard deviation `sigma` pixels sits on each visible point of
each frame: opacity g = exp(-|d|^2 / (2 sigma^2)), 1 at the centre, cut off outside the square of half-side
r = ceil(3 sigma) around the pixel that contains the point. Blobs are laid over one another in track order, canvas <-
canvas (1 - g) + colour g, so later tracks cover earlier ones. The canvas is black, values stay in [0, 1].

Where a blob sits: a point `xy` has (0, 0) at the corner of the top-left pixel, so pixel i has its centre at i + 0.5 and
the blob's centre is at index xy - 0.5. With `subpixel=False` it snaps to the pixel that contains the point, index
int(xy), as the released renderer does.

The volume (Motion Prompting, arXiv 2412.02700, equation 1) is zero but where a point is seen: there it holds the code
of the point's identity, a number without a meaning of its own, as sines. Codes of points in one place add up.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import einops
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v.models.layers import timestep_embedding
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Bool, Float, Int, Key

METHODS = ("auto", "window", "full")
POOLS = {"7": 7, "26": 26, "64": 64}

_GRIDS = ((6, 128), (11, 1024), (21, 4096))
# Distinct colours come from ever finer grids of so many levels a channel, up to so many colours each.


def blobs(
    tracks: Tracks,
    colors: Float[AnyArray, "N 3"],
    size: tuple[int, int],
    sigma: float,
    *,
    subpixel: bool = True,
    method: str = "auto",
) -> Float[AnyArray, "T H W 3"]:
    """Draw one clip's tracks as Gaussian blobs, values in [0, 1]; jittable and vmappable.

    Args:
        tracks: xy [N T 2] in pixels of the canvas, visible [N T]. A hidden point, or one whose square lies off the
            canvas, draws nothing; a square that the border cuts is drawn in part.
        colors: RGB in [0, 1], one per track. size: (H, W) of the canvas. sigma: pixels, above 0; 10 in the paper.
        subpixel: place centres between pixels; False snaps them as the released renderer does.
        method: "window" visits each blob's square in turn, least work, best on a CPU; "full" passes over the whole
            canvas once per track, best where arithmetic is wide or squares are about as large as the canvas; "auto".

    Raises:
        ValueError: for a sigma that is not positive, an unknown method, or one colour too few or too many.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0 pixels; got {sigma}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; available: {', '.join(METHODS)}")
    if len(colors) != tracks.xy.shape[0]:
        raise ValueError(f"{tracks.xy.shape[0]} tracks need as many colours; got {len(colors)}")
    radius = math.ceil(3 * sigma)
    xy, visible = jnp.asarray(tracks.xy, jnp.float32), jnp.asarray(tracks.visible)
    centre = xy - 0.5 if subpixel else jnp.trunc(xy)
    shape = {"size": size, "sigma": sigma, "radius": radius}
    full, window = partial(_draw_full, **shape), partial(_draw_windows, **shape)
    arguments = centre, visible, jnp.asarray(colors, jnp.float32)
    if method == "auto" and (2 * radius + 1) ** 2 * 16 <= size[0] * size[1]:
        # Of the device that the program is compiled for, which need not be this machine's.
        return jax.lax.platform_dependent(*arguments, cpu=window, default=full)
    return (window if method == "window" else full)(*arguments)


def _profile(index: AnyArray, centre: AnyArray, sigma: float, radius: int) -> AnyArray:
    """Return one axis of the (separable) blob at pixel indices, zero beyond `radius` from the nearest pixel."""
    gap = index - centre
    inside = jnp.abs(index - jnp.floor(centre + 0.5)) <= radius
    return jnp.where(inside, jnp.exp(-gap * gap / (2 * sigma * sigma)), 0)


def _draw_full(centre, visible, colors, size, sigma, radius):
    rows, columns = jnp.arange(size[0], dtype=jnp.float32), jnp.arange(size[1], dtype=jnp.float32)

    def lay(canvas, track):
        centre, visible, color = track
        gy = _profile(rows, centre[:, 1:], sigma, radius) * visible[:, None]
        gx = _profile(columns, centre[:, :1], sigma, radius)
        g = (gy[:, :, None] * gx[:, None, :])[..., None]
        return canvas + g * (color - canvas), None

    canvas = jnp.zeros((centre.shape[1], *size, 3), jnp.float32)
    return jax.lax.scan(lay, canvas, (centre, visible, colors))[0]


def _draw_windows(centre, visible, colors, size, sigma, radius):
    # One blob at a time into a padded canvas that stays in place. Batched, the updates would become scatters, which
    # are far slower than going through the batch in turn.
    @jax.custom_batching.sequential_vmap
    def draw(centre, visible, colors):
        num, frames = centre.shape[:2]
        side, pad = 2 * radius + 1, 2 * radius + 1
        offsets = jnp.arange(side, dtype=jnp.float32) - radius
        limits = jnp.asarray([size[1], size[0]], jnp.float32)

        def lay(index, canvas):
            t, n = index // num, index % num
            point = centre[n, t]
            nearest = jnp.floor(point + 0.5)
            # Written so that a point that is not a number draws nothing.
            drawn = visible[n, t] & jnp.all((nearest >= -radius) & (nearest < limits + radius))
            nearest = jnp.where(drawn, nearest, 0)
            point = jnp.where(drawn, point, 0)
            g = jnp.exp(-((nearest[:, None] + offsets - point[:, None]) ** 2) / (2 * sigma * sigma))
            g = (g[1][:, None] * g[0][None, :] * drawn)[None, :, :, None]
            corner = (t, *(nearest[::-1].astype(jnp.int32) + pad - radius), 0)
            window = jax.lax.dynamic_slice(canvas, corner, (1, side, side, 3))
            return jax.lax.dynamic_update_slice(canvas, window + g * (colors[n] - window), corner)

        canvas = jnp.zeros((frames, size[0] + 2 * pad, size[1] + 2 * pad, 3), jnp.float32)
        canvas = jax.lax.fori_loop(0, num * frames, lay, canvas)
        return canvas[:, pad : pad + size[0], pad : pad + size[1]]

    return draw(centre, visible, colors)


NUM_IDENTITIES = 16_384
"""How many identities the tracks of a volume are given: as many as the paper has tracks of a video."""


def random_identities(key: Key, n: int) -> Int[AnyArray, " n"]:
    """Draw n different identities in 0..`NUM_IDENTITIES` - 1. Raises ValueError for more points than there are."""
    if n > NUM_IDENTITIES:
        raise ValueError(f"a track volume tells {NUM_IDENTITIES} points apart; asked for {n}")
    return jax.random.permutation(key, NUM_IDENTITIES)[:n]


def track_volume(
    tracks: Tracks,
    identities: Int[AnyArray, "N"],
    size: tuple[int, int],
    grid: tuple[int, int],
    channels: int = 64,
) -> Float[AnyArray, "T h w C"]:
    """Write each point's code into the cell that it is seen in (Motion Prompting, equation 1); jittable and vmappable.

    Args:
        tracks: xy [N T 2] in pixels, visible [N T]. A hidden point, or one outside the picture, is left out.
        identities: of the points, see `random_identities`. Their codes are `channels` cosines and sines.
        size: (H, W) of the picture. grid: (h, w), the cells that the volume has along its sides.
        channels: C, even; 64 in the paper.
    """
    is_seen, cells = _cells(tracks, size, grid)
    codes = timestep_embedding(identities, channels)
    return _add(codes[:, None] * is_seen[..., None], cells, grid)


def _cells(
    tracks: Tracks, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[Bool[AnyArray, "N T"], Int[AnyArray, "N T 2"]]:
    """Return which points are seen inside the picture, and the (column, row) of a grid that each is in; else (0, 0)."""
    xy = jnp.asarray(tracks.xy, jnp.float32)
    cells = jnp.floor(xy * jnp.asarray([grid[1] / size[1], grid[0] / size[0]], jnp.float32))
    # Written so that a point that is not a number is left out.
    is_seen = jnp.asarray(tracks.visible) & jnp.all((cells >= 0) & (cells < jnp.asarray([grid[1], grid[0]])), axis=-1)
    return is_seen, jnp.where(is_seen[..., None], cells, 0).astype(jnp.int32)


def _add(
    codes: Float[AnyArray, "N T C"], cells: Int[AnyArray, "N T 2"], grid: tuple[int, int]
) -> Float[AnyArray, "T h w C"]:
    """Add up what is written into each cell of each frame."""
    frame = jnp.broadcast_to(jnp.arange(codes.shape[1]), codes.shape[:2])
    empty = jnp.zeros((codes.shape[1], *grid, codes.shape[2]), jnp.float32)
    return empty.at[frame, cells[..., 1], cells[..., 0]].add(codes)


def place_volume(
    tracks: Tracks, size: tuple[int, int], grid: tuple[int, int], channels: int = 64
) -> Float[AnyArray, "T h w C"]:
    """Write into each cell where what it shows was first seen; jittable and vmappable.

    A volume like `track_volume`, whose codes are places in place of identities drawn at random: an identity must be
    found again in the first frame by attention, a place says at once where to look. A track stands for its
    neighbourhood, so that the cell's centre came from where the track was first seen, plus how far the centre lies
    from the track now. Where tracks meet, the mean is taken.

    Args:
        tracks: xy [N T 2] in pixels, visible [N T]. A hidden point, or one outside the picture, is left out.
        size: (H, W) of the picture. grid: (h, w), the cells that the volume has along its sides.
        channels: C, even, 6 or more: cosines, then sines, of x and y in turns of half a period over the picture, a
            whole one, two, four, ..., and of the frame in which the track was first seen, which get what is over.
    """
    xy = jnp.asarray(tracks.xy, jnp.float32)
    size_xy, cell = jnp.asarray(size[::-1], jnp.float32), jnp.asarray([size[1] / grid[1], size[0] / grid[0]])
    is_seen, cells = _cells(tracks, size, grid)
    birth = jnp.argmax(is_seen, axis=1)  # [N]
    start = jnp.take_along_axis(xy, birth[:, None, None], axis=1)
    place = jnp.where(is_seen[..., None], start + (cells + 0.5) * cell - xy, 0) / size_xy  # [N T 2]
    pairs = channels // 2
    octaves = (pairs - 1) // 2
    spatial = jnp.pi * place[..., None] * 2.0 ** jnp.arange(octaves)  # [N T 2 octaves]
    temporal = jnp.pi * (birth[:, None] / xy.shape[1]) * 2.0 ** jnp.arange(pairs - 2 * octaves)  # [N rest]
    temporal = jnp.broadcast_to(temporal[:, None], (*xy.shape[:2], temporal.shape[-1]))
    angle = jnp.concatenate([spatial.reshape(*xy.shape[:2], -1), temporal], -1)
    codes = jnp.concatenate([jnp.cos(angle), jnp.sin(angle), jnp.ones_like(angle[..., :1])], -1) * is_seen[..., None]
    total = _add(codes, cells, grid)
    return total[..., :-1] / jnp.maximum(total[..., -1:], 1)


def displacements(
    tracks: Tracks, size: tuple[int, int], grid: tuple[int, int], sigma: float
) -> Float[AnyArray, "T h w 2"]:
    """Write how far each point has come since the last frame around where it is (ReVideo); jittable and vmappable.

    Args:
        tracks: xy [N T 2] in pixels, visible [N T]. A point counts where it is seen in a frame and in the one before,
            so that the first frame is zero.
        size: (H, W) of the picture. grid: (h, w), the cells that the map has along its sides.
        sigma: pixels; a displacement is spread by a Gaussian of that standard deviation whose peak is 1.

    Returns:
        (dx, dy) in cells a frame at the cells' centres; those of several points add up.
    """
    scale = jnp.asarray([grid[1] / size[1], grid[0] / size[0]], jnp.float32)
    visible = jnp.asarray(tracks.visible)
    seen = jnp.concatenate([jnp.zeros_like(visible[:, :1]), visible[:, 1:] & visible[:, :-1]], axis=1)
    xy = jnp.where(visible[..., None], jnp.asarray(tracks.xy, jnp.float32), 0) * scale
    moved = jnp.diff(xy, axis=1, prepend=xy[:, :1]) * seen[..., None]
    spread = [
        jnp.exp(-0.5 * ((jnp.arange(count) + 0.5 - xy[..., i : i + 1]) / (sigma * scale[i])) ** 2)
        for i, count in ((0, grid[1]), (1, grid[0]))
    ]
    return jnp.einsum("NTw,NTh,NTc->Thwc", *spread, moved)


def shifts(tracks: Tracks, size: tuple[int, int], grid: tuple[int, int], sigma: float) -> Float[AnyArray, "T h w 3"]:
    """Write how far points have come since the first frame around where they are; jittable and vmappable.

    A map like `displacements` for a model that looks up the first frame (`between`): what is shown here is found there,
    so far back. Points share the cells between them, each the more the nearer it is.

    Args:
        tracks: xy [N T 2] in pixels, visible [N T]. A point counts where it is seen, if it is in the first frame, too.
        size, grid, sigma: as for `displacements`.

    Returns:
        (dx, dy) in cells at the cells' centres, the mean over the points that count, and how near one is: 1 at a point,
        falling with the Gaussian. Zeros where no point counts.
    """
    scale = jnp.asarray([grid[1] / size[1], grid[0] / size[0]], jnp.float32)
    visible = jnp.asarray(tracks.visible)
    counts = visible & visible[:, :1]
    xy = jnp.where(visible[..., None], jnp.asarray(tracks.xy, jnp.float32), 0) * scale
    moved = (xy - xy[:, :1]) * counts[..., None]
    apart = [
        (jnp.arange(count) + 0.5 - xy[..., i : i + 1]) / (sigma * scale[i]) for i, count in ((0, grid[1]), (1, grid[0]))
    ]
    # [N T h w], of exponents: far from all points a Gaussian itself is zero, and tells no more which one is nearest.
    nearness = -0.5 * (apart[1][..., :, None] ** 2 + apart[0][..., None, :] ** 2)
    nearness = jnp.where(counts[..., None, None], nearness, -jnp.inf)
    nearest = jnp.max(nearness, axis=0, initial=-jnp.inf)  # [T h w]
    share = jnp.exp(nearness - jnp.where(jnp.isfinite(nearest), nearest, 0))
    mean = jnp.einsum("NThw,NTc->Thwc", share, moved) / jnp.maximum(share.sum(0), 1)[..., None]
    return jnp.concatenate([mean, jnp.exp(nearest)[..., None]], -1)


def between(picture: Float[AnyArray, "B h w z"], row: AnyArray, column: AnyArray) -> Float[AnyArray, "B *places z"]:
    """Look up pictures between their pixels, linearly; what lies outside is the border's.

    `row`, `column`: [B *places], of which whole numbers are pixels' centres.
    """
    height, width = picture.shape[1:3]
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    batch = jnp.arange(len(picture)).reshape(-1, *[1] * (row.ndim - 1))
    top, left = jnp.floor(row), jnp.floor(column)
    found = 0.0
    for down in (0, 1):
        for right in (0, 1):
            corners = ((top + down, height), (left + right, width))
            at = [jnp.minimum(place, side - 1).astype(jnp.int32) for place, side in corners]
            share = (1 - jnp.abs(row - top - down)) * (1 - jnp.abs(column - left - right))
            found += picture[batch, *at] * share[..., None]
    return found


def point_video(
    tracks: Tracks,
    colors: Float[AnyArray, "N 3"],
    size: tuple[int, int],
    radius: int = 2,
    nearness: Float[AnyArray, "N"] | None = None,
) -> Float[AnyArray, "T H W 3"]:
    """Draw points as squares on black, nearer ones over farther ones (Diffusion-as-Shader); jittable and vmappable.

    Args:
        tracks: xy [N T 2] in pixels, visible [N T]. A hidden point, and what of a square lies outside, is left out.
        colors: RGB in [0, 1]. size: (H, W) of the frames. radius: a square has 2 radius + 1 pixels a side.
        nearness: of the points, the larger the nearer; None, and among equals: the later ones of the list lie in front.
    """
    xy, visible = jnp.asarray(tracks.xy, jnp.float32), jnp.asarray(tracks.visible)
    count, (height, width) = xy.shape[0], size
    order = jnp.arange(count) if nearness is None else jnp.argsort(jnp.asarray(nearness), stable=True)
    rank = jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(1, count + 1))  # 1 lies behind all others
    offsets = jnp.arange(-radius, radius + 1)
    cells = jnp.floor(jnp.where(jnp.isfinite(xy), xy, -1e6)).astype(jnp.int32)  # [N T 2]
    column = (cells[..., 0].T[..., None, None] + offsets) + jnp.zeros_like(offsets)[:, None]  # [T N y x]
    row = (cells[..., 1].T[..., None, None] + offsets[:, None]) + jnp.zeros_like(offsets)
    is_drawn = visible.T[..., None, None] & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    frame = jnp.broadcast_to(jnp.arange(xy.shape[1])[:, None, None, None], row.shape)
    drawn = jnp.where(is_drawn, rank[None, :, None, None], 0)
    place = (frame, jnp.where(is_drawn, row, 0), jnp.where(is_drawn, column, 0))
    front = jnp.zeros((xy.shape[1], height, width), jnp.int32).at[place].max(drawn)
    palette = jnp.concatenate([jnp.zeros((1, 3)), jnp.asarray(colors, jnp.float32)[order]])
    return palette[front]


FRAMES = 4
"""Frames that a latent holds; the first one holds one."""


def pack(volume: Float[AnyArray, "T H W C"], cells: int = 1) -> Float[AnyArray, "t h w _"]:
    """Lay the frames and cells of each latent beside one another, as channels.

    Args:
        volume: T = 4k + 1 frames; H and W are multiples of `cells`.

    Returns:
        [k + 1, H / cells, W / cells, 4 cells^2 C], frame by frame, then row by row. The first frame stands last among
        four, the other three of which are zeros.
    """
    padded = jnp.pad(volume, ((FRAMES - 1, 0), (0, 0), (0, 0), (0, 0)))
    return einops.rearrange(padded, "(t f) (h a) (w b) C -> t h w (f a b C)", f=FRAMES, a=cells, b=cells)


def per_latent(mask: Float[AnyArray, "T H W"], reduce: Callable[..., AnyArray] = jnp.mean) -> Float[AnyArray, "t h w"]:
    """Reduce a mask (a mean, or `jnp.max`) over the pixels and frames of each latent; the first holds one frame."""
    length, rows, columns = latent_shape((1, *mask.shape, 3))[1:4]
    height, width = mask.shape[1:]
    cells = reduce(mask.reshape(-1, rows, height // rows, columns, width // columns), axis=(2, 4))
    if length == 1:
        return cells[:1]
    return jnp.concatenate([cells[:1], reduce(cells[1:].reshape(length - 1, -1, rows, columns), axis=1)])


@lru_cache
def _color_order(grids: int) -> Float[np.ndarray, "M 3"]:
    """Order colours by farthest-first choice: first the 26 of {0, 1/2, 1}^3 without black, then finer grids in turn."""
    if grids == 0:
        coarse = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)[1:]
        named = np.array([(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0)], float)
        return _farthest_first(named, coarse, 26)
    levels, count = _GRIDS[grids - 1]
    fine = np.stack(np.meshgrid(*[np.linspace(0, 1, levels)] * 3, indexing="ij"), -1).reshape(-1, 3)
    # Dark colours are hard to tell from the black canvas.
    return _farthest_first(_color_order(grids - 1), fine[fine.max(-1) > 0.5], count)


def _farthest_first(start: np.ndarray, pool: np.ndarray, count: int) -> np.ndarray:
    chosen = list(start)
    gaps = np.min([np.linalg.norm(pool - color, axis=-1) for color in chosen], 0)
    while len(chosen) < count and gaps.max() > 1e-6:
        chosen.append(pool[gaps.argmax()])
        gaps = np.minimum(gaps, np.linalg.norm(pool - chosen[-1], axis=-1))
    return np.stack(chosen)


def distinct_colors(n: int) -> Float[np.ndarray, "n 3"]:
    """Return n distinct RGB colours in [0, 1]: white, red, green, blue, cyan, magenta, yellow, grey, ...

    The first 26 are the corners, edges and faces of the colour cube; neighbours among the first 128 are at least 0.19
    apart, among the first 1024 0.09, and 0.04 beyond. Raises ValueError beyond 4096.
    """
    for grids, (_, count) in enumerate(_GRIDS, start=1):
        if 0 <= n <= count:
            return _color_order(grids)[:n].astype(np.float32)
    raise ValueError(f"0 to {_GRIDS[-1][1]} distinct colours are available; asked for {n}")


def pool_size(pool: str) -> int:
    """Return how many points a pool of `random_colors` has colours for. Raises ValueError for an unknown one."""
    sizes = {**POOLS, "any": _GRIDS[-1][1]}
    if pool not in sizes:
        raise ValueError(f"unknown colour pool {pool!r}; available: {', '.join(sizes)}")
    return sizes[pool]


def random_colors(key: Key, n: int, pool: str = "any") -> Float[AnyArray, "n 3"]:
    """Draw n different colours from a pool: "7", "26", "64" (the first so many distinct colours) or "any".

    "any" is the smallest of the pools 26, 64, 128 that holds n, or the first n distinct colours: a colour stands for a
    point (paper, section 3.3), so the fewer there are, the farther apart they look. Raises ValueError if the pool holds
    fewer than n, and beyond 4096.
    """
    if pool_size(pool) < n:
        raise ValueError(f"colour pool {pool!r} holds {pool_size(pool)} colours; asked for {n}")
    size = next((s for s in (26, 64, 128) if s >= n), n) if pool == "any" else pool_size(pool)
    return jax.random.permutation(key, jnp.asarray(distinct_colors(size)))[:n]
