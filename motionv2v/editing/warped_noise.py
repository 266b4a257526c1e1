"""Noise that goes along with what a draft shows, as Go-with-the-Flow (Burgert et al., arXiv 2501.08331) starts from.

Each frame's noise is the last one's, carried along the draft's own motion (`draft.motion`), on a canvas finer than the
latents. Whatever the motion does, it stays white and of unit variance. Where several cells come together they are
averaged by their weights and brought back to unit variance; where one is spread over several they share it, with noise
of sum zero added, so that their sum is what it was; what is new, because nothing of the frame before shows it or it
came in from outside, is drawn anew. Models have to be trained for such noise: there are low-rank updates that are.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np

from motionv2v import draft
from motionv2v.draft import motion
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.typing import Float, Int

FINER = 4
"""Cells of the canvas along each side of a latent's."""
REST = 0.499
"""How far from a cell's middle its noise may lie, in cells."""
DEGRADED = 0.5
"""Share of fresh noise that the method's authors mix in unless told otherwise."""


class Canvas(NamedTuple):
    """Noise under way.

    Attributes:
        noise: unit variance. weight: how many cells' worth each cell holds, 1 on average.
        offset: where its content lies, (x, y) from the cell's centre, in cells.
    """

    noise: Float[np.ndarray, "H W C"]
    weight: Float[np.ndarray, "H W"]
    offset: Float[np.ndarray, "H W 2"]


def draw(rng: np.random.Generator, size: tuple[int, int], channels: int) -> Canvas:
    """Draw a canvas of size (H, W) that has not moved yet."""
    noise = rng.standard_normal((*size, channels), np.float32)
    return Canvas(noise, np.ones(size, np.float32), np.zeros((*size, 2), np.float32))


def step(
    rng: np.random.Generator,
    canvas: Canvas,
    forward: Float[np.ndarray, "H W 2"],
    backward: Float[np.ndarray, "H W 2"],
    before: Int[np.ndarray, "H W"],
    after: Int[np.ndarray, "H W"],
) -> Canvas:
    """Carry noise from a frame to the next one.

    Args:
        rng: of what is drawn. canvas: of the frame.
        forward: by how many cells each of its cells moves. backward: by how many each cell of the
            next frame has to go back. before, after: what each cell is on, in the frame and in the next one; noise
            stays on its own layer.
    """
    (rows, columns, channels), count = canvas.noise.shape, before.size
    y, x = np.mgrid[:rows, :columns]
    place = np.stack([x, y], -1).astype(np.float32)
    reached = place + canvas.offset + forward
    source, goal = _pairs(np.floor(reached + 0.5), before, after)
    lands = np.zeros(count, bool)
    lands[goal] = True
    # Where nothing lands a cell reads from where it comes from.
    reader, origin = _pairs(np.floor(place + backward + 0.5), after, before)
    is_open = ~lands[reader]
    goal, source = np.concatenate([goal, reader[is_open]]), np.concatenate([source, origin[is_open]])
    copies = np.bincount(source, minlength=count)[source].astype(np.float32)
    fresh = rng.standard_normal((len(source), channels), np.float32)
    fresh -= _sums(fresh, source, count)[source] / copies[:, None]
    value = canvas.noise.reshape(count, channels)[source] / np.sqrt(copies)[:, None] + fresh
    share = canvas.weight.reshape(-1)[source] / copies
    total, squares = (np.bincount(goal, each, count).astype(np.float32) for each in (share, share**2))
    found = squares > 0
    noise = rng.standard_normal((count, channels), np.float32)
    noise[found] = (_sums(value * share[:, None], goal, count)[found]) / np.sqrt(squares[found])[:, None]
    weight = np.where(found, total, 1)
    weight = (weight / weight.mean() + 1e-5) ** 0.9999
    left = reached.reshape(count, 2)[source] - place.reshape(count, 2)[goal]
    offset = _sums(left * share[:, None], goal, count) / np.where(found, total, 1)[:, None]
    # At half a cell exactly it would belong to the next one, and wander on while nothing moves.
    offset = np.clip(offset, -REST, REST).reshape(rows, columns, 2).astype(np.float32)
    return Canvas(noise.reshape(rows, columns, channels), weight.astype(np.float32).reshape(rows, columns), offset)


def _pairs(reached, mine, theirs):
    """Return cells and the cells that they reach, as flat indices: those inside, and on the same layer there."""
    rows, columns = mine.shape
    inside = (reached >= 0).all(-1) & (reached < (columns, rows)).all(-1)
    column, row = (np.where(inside, reached[..., i], 0).astype(int) for i in (0, 1))
    own = np.flatnonzero(inside & (mine == theirs[row, column]))
    return own, (row * columns + column).reshape(-1)[own]


def _sums(values, index, count):
    """Add up rows of values by index, to [count C]."""
    return np.stack([np.bincount(index, column, count) for column in values.T], axis=-1).astype(np.float32)


def read(canvas: Canvas, finer: int = FINER) -> Float[np.ndarray, "h w C"]:
    """Bring a canvas to the latents' grid, of unit variance."""
    rows, columns, channels = canvas.noise.shape
    cells = (rows // finer, finer, columns // finer, finer)
    weight = canvas.weight.reshape(*cells, 1)
    total = (canvas.noise.reshape(*cells, channels) * weight).sum(axis=(1, 3))
    return total / np.sqrt((weight**2).sum(axis=(1, 3)))


def degraded(rng: np.random.Generator, noise: Float[np.ndarray, "*x"], share: float) -> Float[np.ndarray, "*x"]:
    """Mix noise with fresh noise and keep its variance; `share` 0 leaves it, 1 is all fresh."""
    fresh = rng.standard_normal(noise.shape, np.float32)
    return ((1 - share) * noise + share * fresh) / np.float32(np.hypot(1 - share, share))


def check(share: float) -> None:
    """Raise ValueError for a share of fresh noise that is none."""
    if not 0 <= share <= 1:
        raise ValueError(
            f"warped noise is mixed with a share of fresh noise from 0 to 1, such as {DEGRADED}; got {share}"
        )


def of_draft(
    rng: np.random.Generator,
    drawn: draft.Draft,
    clip: draft.Prepared,
    frames: Int[np.ndarray, "T"],
    size: tuple[int, int],
    channels: int,
    share: float,
) -> Float[np.ndarray, "t h w C"]:
    """Draw noise for a sample that goes along with a draft.

    Args:
        rng: of all that is drawn. drawn: with its maps and courses.
        clip: what it was drawn from. frames: of the draft, T = 4 k + 1, of the
            sample; a frame may be held. size: (H, W) of the sample in pixels. channels: of its latents.
        share: of fresh noise that is mixed in.

    Returns:
        The noise of each latent: that of the last of its frames.

    Raises:
        ValueError: for a draft without its maps, and a share that is none.
    """
    check(share)
    motion.check(drawn)
    length, rows, columns = latent_shape((1, len(frames), *size, 3))[1:4]
    whole = (rows * FINER, columns * FINER)
    layers = [_nearest(drawn.layer[t], whole) for t in frames]
    canvas = draw(rng, whole, channels)
    made = [read(canvas)]
    for index, (here, then) in enumerate(itertools.pairwise(frames.tolist()), 1):
        if here != then:
            flows = (_resized(motion.flow(drawn, clip, *pair), whole) for pair in ((here, then), (then, here)))
            canvas = step(rng, canvas, *flows, layers[index - 1], layers[index])
        if index % 4 == 0:
            made.append(read(canvas))
    assert len(made) == length
    return degraded(rng, np.stack(made), share)


def _nearest(layer: Int[np.ndarray, "H W"], size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    return cv2.resize(layer.astype(np.int16), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _resized(flow: Float[np.ndarray, "H W 2"], size: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
    """Bring a flow to another size: that of the pixel under each cell's centre, in cells."""
    scale = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], np.float32)
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) * scale
