"""Things that have no marks to be followed by."""

import numpy as np

from motionv2v import draft
from motionv2v.tracks import Tracks


def test_a_thing_of_one_colour_is_moved():
    ground = np.kron(np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8), np.ones((12, 12, 1), np.uint8))
    clip, path = np.repeat(ground[None], 9, axis=0), np.stack([22 + 4 * np.arange(9.0), np.full(9, 36.0)], axis=-1)
    for frame, left in zip(clip, range(10, 46, 4), strict=True):
        frame[24:48, left : left + 24] = (220, 30, 30)
    source, target = (Tracks(xy[None].astype(np.float32), np.ones((1, 9), bool)) for xy in (path, path + (3, -6)))
    made = draft.render(clip, source, target, notify=lambda line: None)
    for frame, left in zip(made.frames, range(13, 49, 4), strict=True):
        assert np.abs(frame[20:40, left + 2 : left + 22].astype(int) - (220, 30, 30)).mean() < 5
