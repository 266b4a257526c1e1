"""The benchmark's protocol: what counts, what is averaged, and what a perfect edit and a mere copy score."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from motionv2v import evaluate, trackers
from motionv2v.tokenizer import ByteTokenizer
from motionv2v.tracks import Tracks

NUM_FRAMES, SIZE = 9, (64, 64)


class FakeEditor:
    """Stand in for a model: answer every sample with what `answer(batch)` gives, and remember the batches."""

    def __init__(self, answer):
        scene = {"kinds": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), "min_points": 1, "num_points": 3}
        self.config = ConfigDict({"data": {"scene": scene}})
        self.num_frames, self.size, self.tokenizer = NUM_FRAMES, SIZE, ByteTokenizer(16)
        self.answer, self.calls = answer, []

    def generate(self, key, batch, tokens, **options):
        self.calls.append((key, batch, tokens, options))
        return self.answer(batch)


# Stands in for the real class where annotations are checked.
evaluate.editing.Editor.register = getattr(evaluate.editing.Editor, "register", None)


@pytest.fixture(scope="module")
def pairs():
    return evaluate.held_out_pairs(FakeEditor(None), 3, seed=7)


def test_longest_runs_match_loop():
    rng = np.random.default_rng(0)
    visible = rng.random((40, 9)) < 0.6
    visible[0], visible[1] = False, True
    first, length = evaluate.longest_runs(visible)
    for row in range(40):
        best = (0, 0)
        for start in range(9):
            stop = start
            while stop < 9 and visible[row, stop]:
                stop += 1
            if stop - start > best[1]:
                best = (start, stop - start)
        assert (first[row], length[row]) == best
