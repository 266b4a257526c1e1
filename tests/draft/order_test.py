"""Which thing of an edit is in front: what points under one another's masks tell, and what they do not."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from motionv2v.draft import compose
from motionv2v.draft.choice import Choice
from motionv2v.draft.scene import Scene
from motionv2v.tracks import Tracks


def order(source_sees, target_sees):
    """Put two things in order, back to front; a point of thing 1 is under thing 0's mask, in the edit alone."""
    masks = [SimpleNamespace(holds=lambda clip, q, places, on=on: (places > 0).all(-1) & on) for on in (True, False)]
    clip = SimpleNamespace(frames=np.zeros((3, 8, 8, 3), np.uint8), size=(8, 8))
    things = [SimpleNamespace(points=[0]), SimpleNamespace(points=[1])]
    scene = mock.Mock(spec=Scene, things=things, masks=masks, names=[0, 1], clip=clip)
    choices = [mock.Mock(spec=Choice, frame=np.arange(3), matrix=lambda t: np.eye(3))] * 2
    visible = [np.array([[True] * 3, [sees] * 3]) for sees in (source_sees, target_sees)]
    sides = [Tracks(np.full((2, 3, 2), at, np.float32), seen) for at, seen in zip((-9, 4), visible, strict=True)]
    return compose._order(scene, choices, [False, False], *sides, ())


@pytest.mark.parametrize(
    ("source_sees", "target_sees", "expected"),
    [
        (True, False, [1, 0]),  # the edit hides it there: it is behind
        (True, True, [0, 1]),
        (False, False, [0, 1]),  # on the far side of its own thing, as a rolling ball's: nothing is said
    ],
)
def test_points_that_an_edit_hides_are_behind_and_those_on_a_far_side_say_nothing(source_sees, target_sees, expected):
    assert order(source_sees, target_sees) == expected
