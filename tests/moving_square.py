"""A red square that goes to the right over a dull ground, drawn exactly: for edits whose true result is known."""

import numpy as np

SIZE, FRAMES, SIDE = (96, 128), 9, 20
OFFSETS = np.array([[0, 0], [-6, -6], [6, -6], [-6, 6], [6, 6]], np.float32)
GROUND = np.array([[8, 80], [120, 85], [100, 8], [60, 88]], np.float32)


def textured(rng, size):
    """Draw a picture with detail of all sizes."""
    noise = sum(
        np.kron(rng.uniform(-1, 1, (-(-size[0] // s), -(-size[1] // s), 3)), np.ones((s, s, 1)))[: size[0], : size[1]]
        for s in (4, 8, 16)
    )
    return np.clip(110 + 18 * noise, 0, 255).astype(np.uint8)


def corners(shift=(0, 0)):
    """Return the square's top-left corner in each frame, [T 2], moved by a shift, one or [T 2]."""
    return np.array([[10 + 4 * t, 30] for t in range(FRAMES)]) + shift


def draw(shift=(0, 0)):
    """Draw the frames, with the square moved by a shift."""
    rng = np.random.default_rng(0)
    frames = np.repeat(textured(rng, SIZE)[None], FRAMES, 0)
    square = textured(rng, (SIDE, SIDE))
    square[..., 0] = 230
    for frame, (x, y) in zip(frames, corners(shift), strict=True):
        frame[y : y + SIDE, x : x + SIDE] = square
    return frames


def masks():
    """Return where the square is, [T H W]."""
    found = np.zeros((FRAMES, *SIZE), bool)
    for mask, (x, y) in zip(found, corners(), strict=True):
        mask[y : y + SIDE, x : x + SIDE] = True
    return found


def queries():
    """List five points of the square and four of the ground, in frame 0, as an edit has them."""
    places = np.concatenate([corners()[0] + SIDE / 2 + OFFSETS, GROUND])
    return [[0, *place] for place in places.tolist()]
